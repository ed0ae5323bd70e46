//! Kind `microvm`.

use super::{
    Setting,
    text::{bytes, put},
};
use csb_backends::{Accelerator, Vmm};
use std::path::PathBuf;

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        key: "microvm.vmm",
        env: "CSB_MICROVM_VMM",
        default: "qemu",
        absent: "",
        about: "What runs new `microvm` sandboxes: `qemu`, or `firecracker`, which needs KVM; those that there are stay with theirs",
        set: |c, text| {
            let named = Vmm::ALL.into_iter().find(|vmm| vmm.name() == text);
            c.microvm.vmm = named.ok_or("it is `qemu` or `firecracker`")?;
            Ok(())
        },
    },
    Setting {
        key: "microvm.firecracker",
        env: "CSB_MICROVM_FIRECRACKER",
        default: "",
        absent: "`firecracker` of `PATH`",
        about: "The Firecracker, 1.14 or later, that runs sandboxes of kind `microvm` with `microvm.vmm = \"firecracker\"`",
        set: |c, text| put(&mut c.microvm.firecracker, Ok(PathBuf::from(text))),
    },
    Setting {
        key: "microvm.qemu",
        env: "CSB_MICROVM_QEMU",
        default: "",
        absent: "`qemu-system-x86_64` of `PATH`",
        about: "The QEMU that runs sandboxes of kind `microvm`",
        set: |c, text| put(&mut c.microvm.qemu, Ok(PathBuf::from(text))),
    },
    Setting {
        key: "microvm.kernel",
        env: "CSB_MICROVM_KERNEL",
        default: "",
        absent: "the newest `/boot/vmlinuz-*`, those for clouds first",
        about: "Kernel of `microvm` sandboxes: a file `boot/vmlinuz-VERSION` with its modules in `lib/modules/VERSION` beside `boot`, as in Debian's `linux-image-cloud-amd64`, or any other image with its modules in `modules` beside it",
        set: |c, text| put(&mut c.microvm.kernel, Ok(Some(PathBuf::from(text)))),
    },
    Setting {
        key: "microvm.accelerator",
        env: "CSB_MICROVM_ACCELERATOR",
        default: "auto",
        absent: "",
        about: "What runs `microvm` sandboxes: `kvm`, `tcg` (software, several times slower), or `auto`: KVM where it runs a guest, else software, which the log and `csb doctor` say",
        set: |c, text| {
            c.microvm.accelerator = match text {
                "auto" => Accelerator::Auto,
                "kvm" => Accelerator::Kvm,
                "tcg" => Accelerator::Tcg,
                _ => return Err("it is `auto`, `kvm` or `tcg`".into()),
            };
            Ok(())
        },
    },
    Setting {
        key: "microvm.memory",
        env: "CSB_MICROVM_MEMORY",
        default: "1Gi",
        absent: "",
        about: "Up to where the memory limit of a `microvm` sandbox can be raised while it lives; what it does not touch is not taken from the host",
        set: |c, text| put(&mut c.microvm.memory, bytes(text)),
    },
];
