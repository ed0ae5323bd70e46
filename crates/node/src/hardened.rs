//! Owns what the kind `hardened` needs of a host: the right to mount, a kernel that knows the images, and the images themselves.
//! Knows nothing of how a sandbox is built from them.

use crate::{CreateError, error::chain};
use csb_image::{ImportError, Private, Store, Template};
use csb_wire::Mode;
use std::{
    collections::HashMap,
    io,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};
use tokio::sync::Mutex;

/// A change of the host's programs may reach a sandbox this much later: to look at all of `/usr` takes a second.
const RECENT: Duration = Duration::from_secs(60);
/// An image that takes longer is told about in the log.
const LONG: Duration = Duration::from_secs(1);

/// Refuses what this host cannot do.
pub(crate) fn check(mode: Mode) -> Result<(), CreateError> {
    static KNOWN: AtomicBool = AtomicBool::new(false);
    let unsupported = |why: &str| Err(CreateError::Unsupported { what: format!("sandbox kind `hardened`: {why}") });
    if mode == Mode::Rootless {
        return unsupported("it mounts file systems of its own, which takes root");
    }
    if KNOWN.load(Ordering::Relaxed) {
        return Ok(());
    }
    match csb_sys::mount::knows("erofs") {
        Ok(()) => {
            KNOWN.store(true, Ordering::Relaxed);
            Ok(())
        }
        Err(_) => unsupported("this kernel has no EROFS: `modprobe erofs`, or a kernel with CONFIG_EROFS_FS"),
    }
}

/// Images by the topmost layer of their template, each with when it was made sure of. Locked while one is made: whoever wants
/// the same one waits for it.
#[derive(Debug, Default)]
pub(crate) struct Images(Mutex<HashMap<PathBuf, (Instant, Private)>>);

impl Images {
    /// Those of a template.
    pub(crate) async fn of(&self, store: &Store, template: Template) -> Result<Private, CreateError> {
        let key = template.layers.first().cloned().unwrap_or_default();
        let mut known = self.0.lock().await;
        known.retain(|_, (at, _)| at.elapsed() < RECENT);
        if let Some((_, private)) = known.get(&key)
            && private.is_there()
        {
            return Ok(private.clone());
        }
        let store = store.clone();
        let made = tokio::task::spawn_blocking(move || make(&store, &template)).await;
        let private = made.map_err(|error| failed(&error))?.map_err(|error| refused(&error))?;
        known.insert(key, (Instant::now(), private.clone()));
        Ok(private)
    }
}

fn make(store: &Store, template: &Template) -> Result<Private, ImportError> {
    let (begun, mut told, mut most) = (Instant::now(), false, 0);
    let made = store.private(template, RECENT, &mut |bytes| {
        most = most.max(bytes);
        if !told && begun.elapsed() > LONG {
            told = true;
            tracing::info!(
                template = template.name,
                "copying the template into an image of its own: once, until it changes"
            );
        }
    });
    if told && made.is_ok() {
        tracing::info!(
            template = template.name,
            bytes = most,
            ms = begun.elapsed().as_millis() as u64,
            "the image is made"
        );
    }
    made
}

fn failed(error: &dyn std::error::Error) -> CreateError {
    CreateError::Jail { step: "make the template's images".into(), message: chain(error) }
}

/// What an image that could not be made means to the one who asked for a sandbox.
fn refused(error: &ImportError) -> CreateError {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    match error {
        ImportError::Write { source, .. } if matches!(source.kind(), StorageFull | QuotaExceeded) => {
            CreateError::Capacity {
                limit: format!("disk space of the data directory, for a copy of the template's files ({source})"),
                hint: "free as much as the template takes (for `host`: as `/usr` does), or move the data directory"
                    .into(),
            }
        }
        error => failed(error),
    }
}
