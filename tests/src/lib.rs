//! Owns what the black-box tests share: a warden on the wire, sandboxes in it, the attack programs that run inside.
//! Knows nothing of what is right: the tests say that.

pub mod census;
pub mod probe;
pub mod wire;
