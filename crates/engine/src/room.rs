//! Room that a sandbox's files may still take where no file system of its own limits them, and what keeps a sandbox awake.

use bytes::Bytes;
use csb_types::{FileError, WORKSPACE};
use futures_util::{Stream, StreamExt};
use std::{
    fmt, io,
    path::Path,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

/// Says how much may still be written to `/workspace`.
pub trait Room: fmt::Debug + Send + Sync {
    /// Bytes; an error where there is no room.
    fn room<'a>(self: Arc<Self>) -> Pin<Box<dyn Future<Output = Result<u64, FileError>> + Send + 'a>>;

    /// So much was written.
    fn taken(&self, bytes: u64);

    /// What is said to whoever wants more.
    fn exceeded(&self) -> FileError;
}

/// What whoever uses a sandbox holds: see [`crate::Handle::leased`].
#[derive(Debug, Default)]
pub struct Lease {
    /// Where `/workspace` has a quota.
    pub room: Option<Arc<dyn Room>>,
}

/// A write to `/workspace`, counted.
pub(crate) struct Counted {
    room: Arc<dyn Room>,
    left: u64,
    bytes: AtomicU64,
    over: AtomicBool,
}

impl Counted {
    /// For a write that counts.
    pub(crate) async fn begin(lease: Option<&Arc<Lease>>, path: &str) -> Result<Option<Arc<Self>>, FileError> {
        let Some(room) = lease.and_then(|lease| lease.room.clone()) else { return Ok(None) };
        if !Path::new(path).starts_with(WORKSPACE) {
            return Ok(None);
        }
        let left = room.clone().room().await?;
        Ok(Some(Arc::new(Self { room, left, bytes: AtomicU64::new(0), over: AtomicBool::new(false) })))
    }

    /// Breaks a body off where it would be too much.
    pub(crate) fn bound(
        counted: Option<Arc<Self>>,
        body: impl Stream<Item = io::Result<Bytes>> + Send,
    ) -> impl Stream<Item = io::Result<Bytes>> + Send {
        body.map(move |piece| {
            let (Some(counted), Ok(bytes)) = (&counted, &piece) else { return piece };
            let so_far = counted.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed) + bytes.len() as u64;
            if so_far > counted.left {
                counted.over.store(true, Ordering::Relaxed);
                return Err(io::ErrorKind::QuotaExceeded.into());
            }
            piece
        })
    }

    /// What became of the write.
    pub(crate) fn end<T>(counted: Option<Arc<Self>>, done: Result<T, FileError>) -> Result<T, FileError> {
        match counted {
            Some(counted) if counted.over.load(Ordering::Relaxed) => Err(counted.room.exceeded()),
            Some(counted) if done.is_ok() => {
                counted.room.taken(counted.bytes.load(Ordering::Relaxed));
                done
            }
            _ => done,
        }
    }
}
