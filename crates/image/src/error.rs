//! Owns what can go wrong with templates, in words for their owner.

use std::io;
use std::path::PathBuf;

/// Why a template could not be made. Nothing of it is left behind.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// Names become directory names and API values.
    #[error(
        "`{name}` is not a template name: 1 to 64 letters, digits, `.`, `_`, `-`, `:`, the first a letter or digit"
    )]
    Name {
        /// As given, cut to 64 characters.
        name: String,
    },
    /// `host` is made from this host.
    #[error("the name `{name}` is taken by a built-in template")]
    Reserved {
        /// As given.
        name: String,
    },
    /// What should be imported cannot be opened.
    #[error("cannot open `{}`", path.display())]
    Open {
        /// As given.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Neither a directory nor a regular file.
    #[error("`{}` is neither a directory nor a file: a template is made from a directory or a tar file", path.display())]
    Kind {
        /// As given.
        path: PathBuf,
    },
    /// The directory holds the store itself: importing would copy the copy.
    #[error("`{}` holds the template store itself; import a directory beside it", path.display())]
    HoldsStore {
        /// As given.
        path: PathBuf,
    },
    /// The archive ends early, is damaged, or is none.
    #[error("cannot read the tar archive")]
    Archive {
        /// What the reader said.
        source: io::Error,
    },
    /// A compression this program has not.
    #[error("the archive is compressed with {found}; plain, gzip and zstd are possible: decompress it first")]
    Compression {
        /// Its name.
        found: &'static str,
    },
    /// Something in the source that cannot be, or must not be, in a layer.
    #[error("cannot import `{}`: {problem}", path.display())]
    Entry {
        /// Which entry, as the source names it.
        path: PathBuf,
        /// Why.
        problem: &'static str,
    },
    /// A file or directory of the source could not be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The layer could not be written.
    #[error("cannot write `{}` of the template", path.display())]
    Write {
        /// Which entry.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// More bytes than allowed.
    #[error("the template is larger than {limit} bytes")]
    TooLarge {
        /// The cap.
        limit: u64,
    },
    /// More files than allowed.
    #[error("the template has more than {limit} entries")]
    TooMany {
        /// The cap.
        limit: u64,
    },
    /// The store itself failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why the store of templates could not do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No template of this name.
    #[error("no template `{name}` on this host")]
    NotFound {
        /// Which.
        name: String,
    },
    /// The template `host` was to be removed.
    #[error("template `host` is always there")]
    Host,
    /// A file or directory of the store.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// A verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A template's record is not one that this version wrote.
    #[error("`{}` is damaged; import the template again", path.display())]
    Record {
        /// Which file.
        path: PathBuf,
        /// What the parser said.
        source: serde_json::Error,
    },
}

impl StoreError {
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>, source: impl Into<io::Error>) -> Self {
        Self::Io { action, path: path.into(), source: source.into() }
    }
}
