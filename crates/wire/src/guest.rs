//! What a backend and the init of its containers agree on before they talk: names inside the container.

/// Directory with our program and what it is loaded with, read-only.
pub const PROGRAMS: &str = "/.csb";
/// File name of our program there, and so what it is called by: it is then a container's init. Its arguments: the limit of
/// descriptors of a command and, if they are meant, [`ONCE`], [`STREAM`] and [`NARROW`]. Or [`BRIDGE`] or
/// [`COUNTERS`] alone.
pub const PROGRAM: &str = "csb-guest";
/// It is no init, and tells for each line that it reads what the container uses.
pub const COUNTERS: &str = "counters";
/// The init ends when its first server does.
pub const ONCE: &str = "once";
/// Servers are heard as a relay (`csb_relay`) has it, over a stream socket in place of the packet socket: no descriptor gets out.
pub const STREAM: &str = "stream";
/// Commands get the shorter allowlist of system calls, that of kind `hardened`.
pub const NARROW: &str = "narrow";
/// It is no init, and joins its standard input and output to that stream socket: for whoever can start a program in a container, and
/// reach nothing of it from outside.
pub const BRIDGE: &str = "bridge";
/// Directory that the container shares with its backend alone.
pub const SHARED: &str = "/.csb-run";
/// Socket there, on which the init listens.
pub const SOCKET: &str = "init.sock";
/// File there, with the reason why there is no init.
pub const FAILED: &str = "failed";
/// Owner of that directory: no command ever has this id (`csb_jail::account` refuses it), and without capabilities none, root
/// included, passes a directory of mode 0700 that belongs to it.
pub const OWNER: u32 = 65535;
/// Default user of commands inside, and its group.
pub const USER: u32 = 1000;
