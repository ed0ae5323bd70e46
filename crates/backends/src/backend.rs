//! The interface of a kind.

use csb_engine::Keeper;
use csb_sys::packet::Conn;
use csb_types::{Kind, SandboxId, SandboxSpec};
use std::pin::Pin;

/// Why a sandbox of a kind was not built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackendError {
    /// This host lacks what the kind needs, or the kind lacks what was asked for.
    #[error("{0}")]
    Unsupported(String),
    /// What the request names is not there: an image, a directory.
    #[error("{what} is not there")]
    NotFound {
        /// What, in words.
        what: String,
        /// What to do about it.
        hint: String,
    },
    /// What builds sandboxes of this kind has no room, or does not answer.
    #[error("{what}")]
    Unavailable {
        /// What is wrong.
        what: String,
        /// What to do about it.
        hint: String,
    },
    /// The host has no room for one more.
    #[error("this host has no room for another sandbox: {limit}")]
    NoRoom {
        /// Which limit is reached.
        limit: String,
        /// What to do about it.
        hint: String,
    },
    /// A step failed; nothing of the sandbox is left.
    #[error("{step}: {message}")]
    Failed {
        /// Which step.
        step: String,
        /// The words of whoever refused it.
        message: String,
    },
}

/// A sandbox that was found running.
#[derive(Debug)]
pub struct Held {
    /// Which.
    pub id: SandboxId,
    /// Connection with its init.
    pub conn: Conn,
    /// Whether it is frozen.
    pub frozen: bool,
}

/// What a backend does, while it does it.
pub type Building<'a, T> = Pin<Box<dyn Future<Output = Result<T, BackendError>> + Send + 'a>>;

/// A kind: see the crate. What its sandboxes cannot do is said by [`Kind::declaration`], and not asked of it.
pub trait Backend: Keeper {
    /// Which.
    fn kind(&self) -> Kind;

    /// Says why none could be built now, where that is known without trying.
    fn ready(&self) -> Building<'_, ()>;

    /// What whoever chooses the kind should know of this host, as far as [`Backend::ready`] has found it out.
    fn note(&self) -> Option<String> {
        None
    }

    /// Builds one. Its init still has to say that it is ready. On an error, and where the future is dropped, nothing is left of it.
    fn create<'a>(&'a self, id: &'a SandboxId, spec: &'a SandboxSpec) -> Building<'a, Conn>;

    /// Those that live, found again by the next server.
    fn held(&self) -> Building<'_, Vec<Held>>;
}
