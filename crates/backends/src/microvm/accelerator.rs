//! Whether this host's processor runs guests (KVM), found out by running one: that `/dev/kvm` can be opened says nothing on hosts
//! that are virtual machines themselves.

use super::{
    boot::Boot,
    machine::{Drive, Machine},
    settings::Vmm,
    vmm,
};
use csb_wire::machine::PROBED;
use rustix::fs::{Access, AtFlags, CWD};
use std::{
    fmt, io,
    path::Path,
    time::{Duration, Instant},
};

const KVM: &str = "/dev/kvm";
/// A guest on a processor that runs it is there within a second.
const PATIENCE: Duration = Duration::from_secs(8);
const TICK: Duration = Duration::from_millis(20);
const MEMORY: u64 = 512 << 20;

/// Which one machines run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Accelerator {
    /// KVM where it runs a guest, else software, which is said loudly.
    #[default]
    Auto,
    /// KVM or nothing.
    Kvm,
    /// Software emulation.
    Tcg,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    Kvm,
    /// With the reason why not KVM.
    Tcg {
        why: String,
    },
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kvm => f.write_str("KVM"),
            Self::Tcg { why } => write!(f, "software emulation, several times slower ({why})"),
        }
    }
}

/// What the setting says, tried where it leaves a choice.
pub(super) fn find(setting: Accelerator, by: (Vmm, &Path), boot: &Boot, directory: &Path, node: &str) -> Found {
    match setting {
        Accelerator::Tcg => Found::Tcg { why: "the setting `microvm.accelerator` says so".into() },
        Accelerator::Auto | Accelerator::Kvm => probe(by, boot, directory, node),
    }
}

/// Tries to run a guest with KVM.
fn probe(by: (Vmm, &Path), boot: &Boot, directory: &Path, node: &str) -> Found {
    if let Err(error) = rustix::fs::accessat(CWD, KVM, Access::READ_OK | Access::WRITE_OK, AtFlags::empty()) {
        return Found::Tcg { why: format!("{KVM}: {}", io::Error::from(error)) };
    }
    match attempt(by, boot, directory, node) {
        Ok(()) => Found::Kvm,
        Err(error) => Found::Tcg { why: format!("{KVM} is there and runs no guest: {error}") },
    }
}

fn attempt((kind, program): (Vmm, &Path), boot: &Boot, directory: &Path, node: &str) -> io::Result<()> {
    let name = "probe";
    let place = tempfile::Builder::new().prefix(".probe-").tempdir_in(directory)?;
    let (run, root) = (place.path().join("run"), place.path().join("root"));
    std::fs::create_dir(&run)?;
    std::fs::create_dir(&root)?;
    // Instead of a plan: pid 1 answers this with a word on the console.
    let plan = place.path().join("plan");
    std::fs::write(&plan, [csb_wire::machine::MAGIC.as_slice(), b"probe\n", &[0; 494]].concat())?;
    let machine = Machine {
        kernel: boot.kernel.clone(),
        initramfs: boot.initramfs.clone(),
        cpus: 1,
        memory: MEMORY,
        drives: vec![Drive { image: plan, writable: false }],
        kvm: true,
        tsc_khz: None,
        state: None,
    };
    let limits = vmm::limits(MEMORY, 1000, &csb_types::Limits::default());
    vmm::make_group(node, name, &limits)?;
    let place = vmm::Place { own: place.path(), run: &run, root: &root, node, name };
    let mut pid = 0;
    let tried = vmm::start(kind, program, &machine, &place).and_then(|mut started| {
        pid = started.seat.pid;
        let end = Instant::now() + PATIENCE;
        let mut said = String::new();
        let mut monitor = started.answers()?;
        monitor.begin(&machine).map_err(|error| started.why(&error))?;
        while !said.contains(PROBED) {
            if Instant::now() > end {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("a guest did not come up within {} s", PATIENCE.as_secs()),
                ));
            }
            match started.console(&mut monitor) {
                Ok(text) => said.push_str(&text),
                Err(error) => return Err(started.why(&error)),
            }
            std::thread::sleep(TICK);
        }
        Ok(())
    });
    let ended = vmm::end(node, name, pid);
    tried.and(ended)
}
