//! What a machine is started from, whether it is all there, and whether machines run on this host.

use super::{
    Accelerator, Microvm, MicrovmSettings, Shared, Vmm,
    accelerator::{self, Found},
    boot::Boot,
    kernel::Kernel,
    vmm::{self, failed},
};
use crate::{BackendError, guests::aside};
use std::{
    io,
    path::{Path, PathBuf},
};

/// What is needed to start any machine.
pub(super) struct Parts {
    pub(super) vmm: Vmm,
    pub(super) program: PathBuf,
    pub(super) boot: Boot,
    pub(super) kvm: bool,
    pub(super) tsc_khz: Option<u64>,
}

/// What a machine is started from, the kernel it was found as included.
fn parts(settings: &MicrovmSettings, data_dir: &Path) -> Result<(PathBuf, Kernel, Boot), BackendError> {
    let named = settings.program(settings.vmm);
    let program = vmm::find(named).ok_or_else(|| BackendError::NotFound {
        what: format!("the VMM `{}`", named.display()),
        hint: settings.vmm.hint().into(),
    })?;
    let kernel = Kernel::find(settings.kernel.as_deref())?;
    let mut boot = Boot::ensure(data_dir, &kernel).map_err(failed("make the machine's first file system"))?;
    if settings.vmm == Vmm::Firecracker {
        boot = boot.unpacked().map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => BackendError::NotFound {
                what: format!("a kernel that Firecracker starts, in `{}` ({error})", kernel.image.display()),
                hint: "install Debian's `linux-image-cloud-amd64` of Linux 6.12 or later, or name an ELF file (`vmlinux`) \
                       in the setting `microvm.kernel`"
                    .into(),
            },
            _ => failed("unpack the kernel")(error),
        })?;
    }
    Ok((program, kernel, boot))
}

/// Whether machines can run on what was found; whether that is KVM.
pub(super) fn usable(settings: &MicrovmSettings, found: &Found) -> Result<bool, BackendError> {
    match (found, settings.vmm, settings.accelerator) {
        (Found::Kvm, ..) => Ok(true),
        (Found::Tcg { why }, _, Accelerator::Kvm) => Err(BackendError::Unsupported(format!(
            "sandbox kind `microvm` with KVM (setting `microvm.accelerator`): {why}"
        ))),
        (Found::Tcg { why }, Vmm::Firecracker, Accelerator::Auto) => Err(BackendError::Unsupported(format!(
            "sandbox kind `microvm` with Firecracker (setting `microvm.vmm`), which needs KVM: {why}"
        ))),
        // Firecracker itself refuses to start without it.
        (Found::Tcg { .. }, ..) => Ok(false),
    }
}

/// What machines would run on here, tried in a directory that is for nothing else. For whoever asks about a host, without a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Examined {
    /// Whether KVM runs guests.
    pub kvm: bool,
    /// The VMM, the kernel, and what machines run on, in words.
    pub text: String,
}

impl Microvm {
    /// See [`Examined`]. Waits.
    pub fn examine(settings: &MicrovmSettings, directory: &Path) -> Result<Examined, BackendError> {
        let (program, kernel, boot) = parts(settings, directory)?;
        let node = format!("try-{}", std::process::id());
        let found = accelerator::find(settings.accelerator, (settings.vmm, &program), &boot, directory, &node);
        vmm::remove_groups(&node);
        let text = format!("{}, {}, {found}", program.display(), kernel.image.display());
        Ok(Examined { kvm: usable(settings, &found)?, text })
    }
}

impl Shared {
    /// Finds what a machine needs, and says what is missing.
    pub(super) async fn ready(&self) -> Result<Parts, BackendError> {
        if !cfg!(target_arch = "x86_64") {
            return Err(BackendError::Unsupported(
                "sandbox kind `microvm` on this processor: it is made for x86_64".into(),
            ));
        }
        if !rustix::process::geteuid().is_root() {
            let what = "sandbox kind `microvm` for an ordinary user: the server needs root";
            return Err(BackendError::Unsupported(what.into()));
        }
        let (settings, data_dir) = (self.settings.clone(), self.guests.data_dir().to_owned());
        let (program, _, boot) = aside(move || parts(&settings, &data_dir)).await?;
        let kvm = usable(&self.settings, &self.accelerator(&program, &boot).await?)?;
        // Measured once.
        let tsc_khz =
            *self.tsc_khz.get_or_init(|| async { aside(|| Ok(csb_sys::clock::tsc_khz())).await.ok().flatten() }).await;
        Ok(Parts { vmm: self.settings.vmm, program, boot, kvm, tsc_khz })
    }

    /// Found out once.
    async fn accelerator(&self, program: &Path, boot: &Boot) -> Result<Found, BackendError> {
        let find = || async {
            let (program, boot, guests) = (program.to_owned(), boot.clone(), self.guests.clone());
            let (setting, vmm) = (self.settings.accelerator, self.settings.vmm);
            let found =
                aside(move || Ok(accelerator::find(setting, (vmm, &program), &boot, guests.root(), &guests.node())))
                    .await?;
            match &found {
                Found::Tcg { why } if vmm == Vmm::Firecracker => {
                    tracing::warn!(why, "no sandboxes of kind `microvm`: Firecracker needs KVM");
                }
                Found::Kvm => tracing::info!("sandboxes of kind `microvm` run on KVM"),
                Found::Tcg { why } => tracing::warn!(
                    why,
                    "sandboxes of kind `microvm` run under software emulation: they start in seconds, and compute several times slower"
                ),
            }
            Ok(found)
        };
        self.accelerator.get_or_try_init(find).await.cloned()
    }
}
