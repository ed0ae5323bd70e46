//! What the operator says about machines.

use super::Accelerator;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// What runs machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Vmm {
    /// QEMU's `microvm` machine, on KVM or under software emulation.
    #[default]
    Qemu,
    /// Firecracker, on KVM.
    Firecracker,
}

impl Vmm {
    /// All there are.
    pub const ALL: [Self; 2] = [Self::Qemu, Self::Firecracker];

    /// As in settings and records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Qemu => "qemu",
            Self::Firecracker => "firecracker",
        }
    }

    pub(super) fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|vmm| vmm.name() == name)
    }

    /// Where to get it, and how to name it.
    pub(super) fn hint(self) -> &'static str {
        match self {
            Self::Qemu => "`apt-get install qemu-system-x86`, or name another one in the setting `microvm.qemu`",
            Self::Firecracker => {
                "install Firecracker 1.14 or later, and name its program in the setting `microvm.firecracker`"
            }
        }
    }
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MicrovmSettings {
    /// What runs new machines; those that there are stay with theirs.
    pub vmm: Vmm,
    /// QEMU's program.
    pub qemu: PathBuf,
    /// Firecracker's program.
    pub firecracker: PathBuf,
    /// The guest's kernel; none: the newest that this host has for clouds.
    pub kernel: Option<PathBuf>,
    /// What runs guests.
    pub accelerator: Accelerator,
    /// Bytes that a machine has at least, so that its sandbox's limit can be raised up to there while it lives.
    pub memory: u64,
}

impl Default for MicrovmSettings {
    fn default() -> Self {
        Self {
            vmm: Vmm::Qemu,
            qemu: "qemu-system-x86_64".into(),
            firecracker: "firecracker".into(),
            kernel: None,
            accelerator: Accelerator::Auto,
            memory: 1 << 30,
        }
    }
}

impl MicrovmSettings {
    /// The program of a VMM.
    pub(super) fn program(&self, vmm: Vmm) -> &Path {
        match vmm {
            Vmm::Qemu => &self.qemu,
            Vmm::Firecracker => &self.firecracker,
        }
    }
}
