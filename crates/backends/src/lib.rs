//! Kinds of sandboxes that something else than the warden builds. Each is a module behind [`Backend`].
//!
//! In each of them our own init runs and talks with the sandbox's driver as in a sandbox of the warden: commands, terminals,
//! files, output and what happens when the server dies are the same code for all. A backend builds, holds and ends.
//! Knows nothing of users, of HTTP or of pools.

mod backend;
pub mod disk;
mod docker;
mod guests;
mod k8s;
mod microvm;
mod oci;
mod peer;
mod program;
mod undo;

pub use backend::{Backend, BackendError, Held};
pub use docker::{Docker, DockerSettings};
pub use guests::Guests;
pub use k8s::{K8s, K8sSettings};
pub use microvm::{Accelerator, Examined, Microvm, MicrovmSettings, Vmm};
pub use oci::Oci;
pub use program::install;
