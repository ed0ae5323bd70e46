//! Secrets in files that only their owner can read.

use crate::config::Secret;
use std::{
    fs::OpenOptions,
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// Why a secret's file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// It cannot be read or written.
    #[error("cannot use secret file `{}`", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others can read it.
    #[error("secret file `{}` can be read by others; run `chmod 600` on it, and replace it if they may have", path.display())]
    Open {
        /// Which.
        path: PathBuf,
    },
    /// It is too short to be one of ours.
    #[error("secret file `{}` holds less than 32 bytes; remove it to have one made", path.display())]
    Short {
        /// Which.
        path: PathBuf,
    },
}

/// The secret in `path`, made at the first call.
pub fn load_or_make(path: &Path) -> Result<Secret, SecretError> {
    let fail = |source| SecretError::Io { path: path.to_owned(), source };
    match std::fs::metadata(path) {
        Ok(meta) if meta.mode() & 0o077 != 0 => return Err(SecretError::Open { path: path.to_owned() }),
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            write_private(path, &hex::encode(rand::random::<[u8; 32]>())).map_err(fail)?;
        }
        Err(e) => return Err(fail(e)),
    }
    let text = std::fs::read_to_string(path).map_err(fail)?;
    let text = text.trim();
    if text.len() < 32 {
        return Err(SecretError::Short { path: path.to_owned() });
    }
    Ok(Secret::new(text))
}

/// Writes a file of mode 0600 at once: a crash leaves the old one or the new one.
pub fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let draft = path.with_extension(format!("{:016x}", rand::random::<u64>()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    let written = file.write_all(format!("{text}\n").as_bytes()).and_then(|()| file.sync_all());
    written.and_then(|()| std::fs::rename(&draft, path)).inspect_err(|_| {
        // The draft is of no use; that it could not be removed either would hide the first error.
        let _ = std::fs::remove_file(&draft);
    })
}
