//! Templates' root file systems: the `host` template, imported directories and tar files, kept in versions.
//! Knows nothing of sandboxes, mounts or networks: it makes directories and says which of them lie on which.
//!
//! A template is a few *layers* (directories, the topmost first, for an overlay's read-only part) and *binds* (host
//! directories shown on top). User and group numbers in layers are those inside a sandbox: 0 is the sandbox's root.
//! Who mounts them maps the numbers. Without root nothing is chowned: every file belongs to the caller, who is the
//! sandbox's root in a rootless sandbox.
//!
//! For sandboxes that share no file with anything (`private.rs`) layers and binds are written once as images (`erofs.rs`), which
//! each of them mounts for itself.
//!
//! Archives are hostile input. Every path is resolved below a directory descriptor, without following any link
//! (`layer.rs`); an import that fails leaves nothing behind.

mod archive;
mod base;
mod directory;
mod erofs;
mod error;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod host;
mod layer;
mod private;
mod store;
mod template;

pub use erofs::{Written, write as write_image};
pub use error::{ImportError, StoreError};
pub use layer::Caps;
pub use private::Private;
pub use store::Store;
pub use template::{Bind, Source, Template};
