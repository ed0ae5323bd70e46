//! The guest's kernel: where it is, and which of its modules a machine needs.

use crate::BackendError;
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// In the order in which they need each other. What a kernel has built in, or does not have any more, is no module of it.
const MODULES: [&str; 12] = [
    "virtio_mmio",
    "virtio_pci",
    "virtio_console",
    "virtio_blk",
    "virtio_balloon",
    "virtio_rng",
    "vsock",
    "vmw_vsock_virtio_transport_common",
    "vmw_vsock_virtio_transport",
    "libcrc32c",
    "erofs",
    "overlay",
];
/// Endings of a module's file; the kernel itself unpacks all but the first.
const ENDINGS: [&str; 4] = ["ko", "ko.xz", "ko.zst", "ko.gz"];
const HINT: &str = "install Debian's `linux-image-cloud-amd64`, or unpack it and name its `boot/vmlinuz-…` in the setting \
                    `microvm.kernel`; scripts/microvm.sh does the latter";

/// A kernel that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kernel {
    pub(super) image: PathBuf,
    /// Files of its modules, in the order in which they are loaded.
    pub(super) modules: Vec<PathBuf>,
}

impl Kernel {
    /// The one of the settings, or the newest of this host that can be one: Debian's for clouds first.
    pub(super) fn find(setting: Option<&Path>) -> Result<Self, BackendError> {
        match setting {
            Some(path) => Self::at(path),
            None => {
                let newest = newest(Path::new("/boot")).ok_or_else(|| BackendError::NotFound {
                    what: "a kernel for sandboxes of kind `microvm` (/boot/vmlinuz-*)".into(),
                    hint: HINT.into(),
                })?;
                Self::at(&newest)
            }
        }
    }

    fn at(image: &Path) -> Result<Self, BackendError> {
        let missing = |what: String| BackendError::NotFound { what, hint: HINT.into() };
        if !image.is_file() {
            return Err(missing(format!("the kernel `{}`", image.display())));
        }
        let modules = modules(image).map_err(|error| BackendError::Failed {
            step: format!("read the modules of the kernel `{}`", image.display()),
            message: error.to_string(),
        })?;
        // It has overlay as a module, or it is one that has all that is needed built in and no modules.
        Ok(Self { image: image.to_owned(), modules })
    }
}

/// `/boot/vmlinuz-VERSION`, by kind and version.
fn newest(boot: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(boot).ok()?.flatten();
    let versions = entries.filter_map(|entry| Some(entry.file_name().to_str()?.strip_prefix("vmlinuz-")?.to_owned()));
    let newest = versions.max_by_key(|version| (version.contains("cloud"), numbers(version)))?;
    Some(boot.join(format!("vmlinuz-{newest}")))
}

/// The numbers of a version, by which versions are compared.
fn numbers(version: &str) -> Vec<u64> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
}

/// Modules lie in `lib/modules/VERSION` beside `boot/vmlinuz-VERSION`, or in `modules` beside any other image.
fn modules(image: &Path) -> io::Result<Vec<PathBuf>> {
    let beside = image.parent().unwrap_or(Path::new("/"));
    let version = image.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_prefix("vmlinuz-"));
    let places = match (version, beside.parent()) {
        (Some(version), Some(top)) => {
            vec![top.join("lib/modules").join(version), top.join("usr/lib/modules").join(version)]
        }
        _ => vec![],
    };
    let place = places.into_iter().chain([beside.join("modules")]).find(|place| place.is_dir());
    let mut found = vec![None; MODULES.len()];
    if let Some(place) = place {
        let drivers = [
            "drivers/virtio",
            "drivers/char",
            "drivers/block",
            "drivers/char/hw_random",
            "net/vmw_vsock",
            "fs/erofs",
            "fs/overlayfs",
            "lib",
            "",
        ];
        for directory in drivers.iter().flat_map(|part| [place.join("kernel").join(part), place.join(part)]) {
            for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
                let name = entry.file_name();
                let Some((name, ending)) = name.to_str().and_then(|name| name.split_once('.')) else { continue };
                let at = MODULES.iter().position(|module| *module == name.replace('-', "_"));
                if let Some(at) = at.filter(|_| ENDINGS.contains(&ending)) {
                    found[at] = Some(entry.path());
                }
            }
        }
    }
    Ok(found.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(top: &Path, files: &[&str]) {
        for file in files {
            let path = top.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
    }

    #[test]
    fn an_unpacked_package_is_a_kernel_with_its_modules_in_order() {
        let top = tempfile::tempdir().unwrap();
        let version = "6.12.9-cloud-amd64";
        let image = format!("boot/vmlinuz-{version}");
        let module = |name: &str| format!("lib/modules/{version}/kernel/{name}");
        let (overlay, blk) = (module("fs/overlayfs/overlay.ko.xz"), module("drivers/block/virtio_blk.ko"));
        made(top.path(), &[&image, &overlay, &blk, &module("fs/xfs/xfs.ko")]);
        let kernel = Kernel::find(Some(&top.path().join(&image))).unwrap();
        assert_eq!(kernel.modules, [top.path().join(blk), top.path().join(overlay)]);
    }

    #[test]
    fn a_kernel_for_clouds_is_taken_before_newer_ones() {
        let top = tempfile::tempdir().unwrap();
        made(
            top.path(),
            &["vmlinuz-6.9.1-cloud-amd64", "vmlinuz-6.12.1-cloud-amd64", "vmlinuz-7.1.0-amd64", "config-9"],
        );
        assert_eq!(newest(top.path()), Some(top.path().join("vmlinuz-6.12.1-cloud-amd64")));
    }

    #[test]
    fn a_kernel_that_is_missing_says_what_to_do() {
        let error = Kernel::find(Some(Path::new("/nowhere/vmlinuz"))).unwrap_err();
        assert!(matches!(error, BackendError::NotFound { hint, .. } if hint.contains("linux-image-cloud-amd64")));
    }
}
