//! Every `unsafe` call of the project: processes, namespaces, mounts, packets, terminals; owned types out.
//! Knows nothing of sandboxes: it offers the kernel's means, `csb-jail` and `csb-warden` put them together.
#![expect(unsafe_code, reason = "this crate is where the project's system calls live")]

pub mod cgroup;
pub mod clock;
pub mod landlock;
pub mod load;
pub mod loopdev;
pub mod mount;
pub mod net;
pub mod ns;
pub mod packet;
pub mod pipe;
pub mod probe;
pub mod process;
pub mod random;
pub mod seccomp;
pub mod tty;
pub mod vsock;

mod check;
