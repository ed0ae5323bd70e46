//! Modules of the kernel that the machine's first file system brings along.

use csb_jail::Step;
use csb_wire::{Failure, machine::MODULES};
use std::{fs, io};

/// The kernel unpacks it (`MODULE_INIT_COMPRESSED_FILE`, finit_module(2); Linux 5.17 with CONFIG_MODULE_DECOMPRESS).
const COMPRESSED: i32 = 4;

/// Loads all, in the order of their names. One that is built in is none of them.
pub(super) fn load() -> Result<(), Failure> {
    let listed = fs::read_dir(MODULES).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
    let mut paths: Vec<_> = listed.step("list the kernel's modules")?;
    paths.sort();
    for path in paths {
        let flags = if path.extension().is_some_and(|kind| kind == "ko") { 0 } else { COMPRESSED };
        let loaded = fs::File::open(&path).and_then(|file| match rustix::system::finit_module(&file, c"", flags) {
            Err(rustix::io::Errno::EXIST) => Ok(()),
            other => other.map_err(io::Error::from),
        });
        loaded.step(&format!("load the module `{}`", path.display()))?;
    }
    Ok(())
}
