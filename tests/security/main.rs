//! Attacks from inside a sandbox, on the real thing. Each asserts that the attack fails *and* that the sandbox, or its
//! neighbour, goes on as if nothing had happened. They need root.

mod crossing;
mod document;
mod exploits;
mod hardened;
mod load;
mod points;
mod rootless;
