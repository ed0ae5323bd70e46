//! The reader of archives, opened to the fuzzer (feature `fuzzing`).
//! Knows nothing of templates and versions.

use crate::{Caps, ImportError, archive, layer::Layer};
use std::path::Path;

/// Reads an archive into a new layer at `directory`; whether it was taken.
pub fn import(directory: &Path, caps: Caps, archive: &[u8]) -> Result<bool, ImportError> {
    let mut layer = match Layer::create(directory, caps) {
        Ok(layer) => layer,
        Err(source) => return Err(ImportError::Archive { source }),
    };
    archive::import(&mut layer, archive)?;
    layer.finish()?;
    Ok(true)
}
