//! What a machine is started from: the kernel, and a first file system with our program, its libraries and the kernel's modules.
//! Made once for each version of these.
//!
//! ```text
//! DATA/guest/vm-VERSION/vmlinuz, initramfs; vmlinux once a VMM needs it
//! ```

use super::{cpio::Archive, elf, kernel::Kernel};
use crate::program::{self, is_loader};
use csb_wire::machine::{LIBRARIES, MODULES, PROGRAM};
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// Raised when what this file writes changes.
const FORMAT: u32 = 1;

/// Where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Boot {
    pub(super) kernel: PathBuf,
    pub(super) initramfs: PathBuf,
}

impl Boot {
    /// Finds it, or makes it.
    pub(super) fn ensure(data_dir: &Path, kernel: &Kernel) -> io::Result<Self> {
        let parts = program::parts()?;
        let mut hash = Sha256::new_with_prefix(FORMAT.to_le_bytes());
        hash.update(program::version(&parts)?);
        for path in kernel.modules.iter().chain([&kernel.image]) {
            let meta = fs::metadata(path)?;
            hash.update(path.as_os_str().as_encoded_bytes());
            [meta.dev(), meta.ino(), meta.size(), meta.mtime() as u64, meta.mtime_nsec() as u64]
                .iter()
                .for_each(|fact| hash.update(fact.to_le_bytes()));
        }
        let all = data_dir.join("guest");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&all)?;
        let directory = all.join(format!("vm-{}", hex::encode(&hash.finalize()[..12])));
        let made = Self { kernel: directory.join("vmlinuz"), initramfs: directory.join("initramfs") };
        if directory.exists() {
            return Ok(made);
        }
        let staging = tempfile::Builder::new().prefix(".new-").tempdir_in(&all)?;
        // The VMM has a user of its own, and reads them.
        let new = |name: &str| {
            let path = staging.path().join(name);
            File::options().write(true).create_new(true).mode(0o444).open(path)
        };
        io::copy(&mut File::open(&kernel.image)?, &mut new("vmlinuz")?)?;
        let mut archive = Archive::new(BufWriter::with_capacity(1 << 20, new("initramfs")?));
        let modules = MODULES.trim_start_matches('/');
        let libraries = LIBRARIES.trim_start_matches('/');
        for name in ["dev", "lib64", "lib", modules, libraries] {
            archive.directory(name)?;
        }
        // What pid 1 says before it has mounted anything.
        archive.device("dev/console", 5, 1)?;
        for (number, module) in kernel.modules.iter().enumerate() {
            let name = module.file_name().unwrap_or_default().to_string_lossy();
            add(&mut archive, &format!("{modules}/{number:02}-{name}"), module)?;
        }
        for (name, path) in &parts {
            let place = match name.as_str() {
                program::PROGRAM_PART => PROGRAM.to_owned(),
                // Where a program of this architecture says that its loader is.
                name if name.starts_with("ld-musl") => format!("lib/{name}"),
                name if is_loader(name) => format!("lib64/{name}"),
                name => format!("{libraries}/{name}"),
            };
            add(&mut archive, &place, path)?;
        }
        archive.finish()?.flush()?;
        let staged = staging.keep();
        match fs::rename(&staged, &directory) {
            // Another process was quicker.
            Err(_) if directory.exists() => fs::remove_dir_all(&staged)?,
            other => other?,
        }
        Ok(made)
    }

    /// The same with the kernel as the ELF file that some VMMs start, unpacked once.
    pub(super) fn unpacked(self) -> io::Result<Self> {
        let kernel = self.kernel.with_file_name("vmlinux");
        if !kernel.exists() {
            let directory = kernel.parent().unwrap_or(Path::new("/"));
            let mut new = tempfile::Builder::new().prefix(".new-").tempfile_in(directory)?;
            elf::unpack(&self.kernel, new.as_file_mut())?;
            new.as_file().set_permissions(fs::Permissions::from_mode(0o444))?;
            new.persist(&kernel)?;
        }
        Ok(Self { kernel, ..self })
    }
}

fn add(archive: &mut Archive<impl Write>, name: &str, path: &Path) -> io::Result<()> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    archive.file(name, size, &mut file)
}
