//! Owns locks on the layers and images that living sandboxes are mounted from: while one is there, the store of templates keeps
//! the version, or the image (`csb_image::Store::prune`). The locks end with the warden, as its sandboxes do.
//! Knows nothing of what is in a layer.

use csb_types::Kind;
use csb_wire::JailPlan;
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
    /// Keeps what a plan is mounted from where it is for as long as the result lives. Never waits: what is being removed is an
    /// error.
    pub(crate) fn hold(&mut self, plan: &JailPlan) -> io::Result<Vec<Rc<File>>> {
        self.held.retain(|_, held| held.strong_count() > 0);
        // Otherwise they are the host's own directories.
        let images = plan.binds.iter().filter(|_| plan.kind == Kind::Hardened).map(|bind| &bind.host);
        let mut result = Vec::with_capacity(plan.layers.len() + plan.binds.len());
        for layer in plan.layers.iter().chain(images) {
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
