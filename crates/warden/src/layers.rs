//! Owns locks on the layers that living sandboxes are mounted from: while one is there, the store of templates keeps the
//! version (`csb_image::Store::prune`). The locks end with the warden, as its sandboxes do.
//! Knows nothing of what is in a layer.

use std::{
    collections::HashMap,
    fs::File,
    io,
    path::PathBuf,
    rc::{Rc, Weak},
};

/// See the module. One descriptor per layer, however many sandboxes have it.
#[derive(Debug, Default)]
pub(crate) struct Layers {
    held: HashMap<PathBuf, Weak<File>>,
}

impl Layers {
    /// Keeps the layers where they are for as long as the result lives. Never waits: one that is being removed is an error.
    pub(crate) fn hold(&mut self, layers: &[PathBuf]) -> io::Result<Vec<Rc<File>>> {
        self.held.retain(|_, held| held.strong_count() > 0);
        let mut result = Vec::with_capacity(layers.len());
        for layer in layers {
            let held = match self.held.get(layer).and_then(Weak::upgrade) {
                Some(held) => held,
                None => {
                    let file = Rc::new(File::open(layer)?);
                    file.try_lock_shared()?;
                    self.held.insert(layer.clone(), Rc::downgrade(&file));
                    file
                }
            };
            result.push(held);
        }
        Ok(result)
    }
}
