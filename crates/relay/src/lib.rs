//! Carries what servers and inits say to each other, with the bytes of every command and file operation, over one stream of bytes:
//! for sandboxes whose init no descriptor reaches, such as one in a virtual machine, in gVisor or on another host.
//!
//! ```text
//! driver ── packets, descriptors ── host half ══ one stream ══ guest half ── packets, descriptors ── init
//! ```
//! Neither the driver nor the init knows of it. A lost stream is made again and goes on where it was, a frame that gets lost
//! is sent again; another server finds what its
//! predecessor started, and the output that this one had not written down. Knows nothing of virtual machines or of networks.

mod ask;
mod flow;
mod frame;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod guest;
mod half;
mod host;

pub use guest::{Channel, guest};
pub use host::{Dial, host};
