//! What a machine is made of, whichever VMM runs it. Pure.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A disk, in the order in which the guest shall see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Drive {
    pub(super) image: PathBuf,
    pub(super) writable: bool,
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Machine {
    pub(super) kernel: PathBuf,
    pub(super) initramfs: PathBuf,
    pub(super) cpus: u32,
    /// Bytes.
    pub(super) memory: u64,
    pub(super) drives: Vec<Drive>,
    /// KVM and not software.
    pub(super) kvm: bool,
    /// Of the processor's time stamp counter, which an emulated processor has as well.
    pub(super) tsc_khz: Option<u64>,
    /// Files with the state of a machine that stood still, to go on from, as its VMM wrote them.
    pub(super) state: Option<Vec<PathBuf>>,
}

/// Names in the VMM's own directory: the kernel and its first file system.
pub(super) const KERNEL: &str = "vmlinuz";
pub(super) const INITRAMFS: &str = "initramfs";

/// What the kernel and our first program are told. Nothing here makes the guest's kernel weaker than its default.
pub(super) fn command_line(tsc_khz: Option<u64>) -> String {
    let mut words = [
        "console=ttyS0 quiet loglevel=3",
        // A machine without its sandbox ends.
        "panic=-1 reboot=t",
        "rdinit=/csb-machine LD_LIBRARY_PATH=/.csb",
        // Devices that no machine has are not waited for.
        "8250.nr_uarts=1 edd=off i8042.noaux i8042.nokbd cryptomgr.notests",
        // There is no other source when the first program begins.
        "random.trust_cpu=on",
        // A program that crashes writes nothing on the console.
        "debug.exception-trace=0",
    ]
    .join(" ");
    // Measured by the guest itself against a timer, it is wrong, or not found, where the host is busy, and then the kernel waits for
    // ticks of a timer that this machine does not have.
    words.extend(tsc_khz.map(|khz| format!(" tsc_early_khz={khz}")));
    words
}

/// One of two disks that are read and one that is written to, for tests.
#[cfg(test)]
pub(super) fn example() -> Machine {
    let drive = |name: &str, writable| Drive { image: name.into(), writable };
    Machine {
        kernel: "/k".into(),
        initramfs: "/i".into(),
        cpus: 2,
        memory: 1 << 30,
        drives: vec![drive("plan", false), drive("layer", false), drive("upper", true)],
        kvm: true,
        tsc_khz: Some(1),
        state: None,
    }
}
