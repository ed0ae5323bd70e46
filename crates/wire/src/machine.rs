//! What a backend and pid 1 of a virtual machine tell each other: a plan, read from the machine's first disk, and frames on a
//! port of their own, beside the one of the sandbox's init.

use csb_types::{Limits, Usage};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What our program is called in the machine's first file system, and so that it is pid 1 of a machine.
pub const PROGRAM: &str = "csb-machine";
/// Directory there with the modules to load, in the order of their names.
pub const MODULES: &str = "/modules";
/// Directory there with the libraries that the program is loaded with.
pub const LIBRARIES: &str = "/.csb";
/// Virtio port of the sandbox's init.
pub const INIT_PORT: &str = "csb.0";
/// Virtio port of pid 1.
pub const CONTROL_PORT: &str = "csb.1";
/// Ports of vsock that the same two are heard on where a VMM has no serial ports.
pub const INIT_VSOCK: u32 = 0x6373_6200;
/// See [`INIT_VSOCK`].
pub const CONTROL_VSOCK: u32 = 0x6373_6201;
/// Begins the disk with the plan; the plan follows as a line of JSON, then zeros.
pub const MAGIC: &[u8; 12] = b"csb-machine\n";
/// In place of a plan: the machine says [`PROBED`] on its console and waits for its end.
pub const PROBE: &str = "probe";
/// See [`PROBE`].
pub const PROBED: &str = "csb-machine: it runs";
/// Most bytes of a plan, and of a message.
pub const MOST: usize = 64 << 10;

/// What one of the machine's disks is for, the plan's own left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Disk {
    /// A read-only layer of the sandbox's root (EROFS); the topmost comes first.
    Layer,
    /// Read-only files that lie on top of the root at this path (EROFS).
    Bind(String),
    /// Takes the sandbox's writes (ext4). Without one, memory does.
    Upper,
}

/// What a machine is to become.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachinePlan {
    /// [`crate::VERSION`] of who wrote it.
    pub version: u32,
    /// Of the sandbox.
    pub limits: Limits,
    /// Host name inside.
    pub hostname: String,
    /// The machine ends when the first server is gone.
    pub once: bool,
    /// In the order in which they are attached, behind the plan's own.
    pub disks: Vec<Disk>,
    /// Seconds since 1970 and the rest in nanoseconds: a machine may have no clock that tells.
    pub now: (i64, i64),
}

/// To pid 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToMachine {
    /// Answered with [`FromMachine::Usage`].
    Usage,
    /// Answered with [`FromMachine::Done`].
    SetLimits(Limits),
    /// The clock, after the machine stood still, and what random numbers are to depend on from now on: another machine may have
    /// stood at the same point. Answered with [`FromMachine::Done`].
    GoOn {
        /// Seconds since 1970 and nanoseconds.
        now: (i64, i64),
        /// Random bytes; none where the machine is the only one.
        seed: Vec<u8>,
    },
}

/// From pid 1. Each answer names the question that it answers; what nobody asked for has number 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromMachine {
    /// The sandbox's init runs.
    Ready,
    /// There will be no sandbox.
    Failed(crate::Failure),
    /// Counters of the sandbox's control group and files in the machine.
    Usage(Usage),
    /// What was asked for is done, or why not.
    Done(Result<(), crate::Failure>),
}

/// One message of the control port: a line of JSON. A reader who comes in the middle of one finds the next; who writes begins with
/// an empty line after a loss.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Numbered<T> {
    /// Of the question.
    pub number: u64,
    /// What is said.
    pub frame: T,
}

/// What our program is called where it confines a VMM and then becomes it.
pub const CONFINER: &str = "csb-vmm";
/// Directory of a VMM's root with what is its own.
pub const VMM_FILES: &str = "/vm";
/// Directory there that it may write to, a few files of little: its sockets and [`VMM_CONSOLE`].
pub const VMM_RUN: &str = "/vm/run";
/// Name in [`VMM_RUN`]: what the VMM says on its standard output, from its beginning on, as far as there is room.
pub const VMM_CONSOLE: &str = "console";
/// Descriptor of the first socket of a VMM; its disks follow.
pub const FIRST_DESCRIPTOR: i32 = 3;

/// A program that runs a machine, and all that it may see of the host; JSON on the standard input of [`CONFINER`]. That says the
/// VMM's pid on its standard output and ends; what the VMM has to say goes to its standard error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmmPlan {
    /// [`crate::VERSION`] of who wrote it.
    pub version: u32,
    /// Parent of its control group, at the top of each hierarchy, and the group's name.
    pub group: (String, String),
    /// Its user and group, of this machine alone.
    pub uid: u32,
    /// An empty directory of ours; the VMM's root is built over it.
    pub directory: PathBuf,
    /// Files and directories of the host that it sees, read-only, where they are.
    pub shown: Vec<PathBuf>,
    /// Files that it sees by these names in [`VMM_FILES`], and whether it may write to them: those become its user's, the others
    /// readable for everybody. No directory that they lie in on the host is.
    pub files: Vec<(PathBuf, String, bool)>,
    /// It makes sockets itself: it gets [`VMM_RUN`], in memory, and what it says on its standard output is kept there.
    pub run: bool,
    /// Bytes that a file may have which it writes to; none: what the host allows.
    pub file_size: Option<u64>,
    /// Whether it gets `/dev/kvm`.
    pub kvm: bool,
    /// Sockets that it listens on, made here, so that it cannot put others in their place; descriptors from
    /// [`FIRST_DESCRIPTOR`] on.
    pub sockets: Vec<PathBuf>,
    /// Disks as descriptors, behind the sockets, and whether it may write to them.
    pub disks: Vec<(PathBuf, bool)>,
    /// The program, as it sees it, and its arguments.
    pub program: PathBuf,
    /// Behind the program's name.
    pub arguments: Vec<String>,
}
