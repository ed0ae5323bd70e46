//! The attack programs, compiled once with the host's C compiler.

use std::{fs, path::PathBuf, process::Command, time::SystemTime};

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/security/probe.c");
/// What it includes.
const INCLUDED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/security/exploits.h");

/// Path of the compiled `probe`. Compiled anew when its source is newer.
pub fn path() -> PathBuf {
    // Compiled by somebody who may write to the target directory.
    if let Some(made) = std::env::var_os("CSB_PROBE") {
        return made.into();
    }
    let target = crate::target();
    let (built, fresh) = (target.join("csb-probe"), target.join(format!("csb-probe.{}", std::process::id())));
    let changed = |path: &PathBuf| fs::metadata(path).and_then(|m| m.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    if [SOURCE, INCLUDED].into_iter().any(|source| changed(&built) < changed(&source.into())) {
        let made =
            Command::new("cc").args(["-O1", "-o"]).arg(&fresh).arg(SOURCE).status().expect("there is a C compiler");
        assert!(made.success(), "probe.c does not compile");
        // Several test processes may do this at once: each puts a whole file in place.
        fs::rename(&fresh, &built).expect("the target directory can be written");
    }
    built
}

/// Its bytes.
pub fn bytes() -> Vec<u8> {
    fs::read(path()).expect("the probe was just compiled")
}
