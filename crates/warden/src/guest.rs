//! The init of a container that another program made, as a backend of the server asked it to: binds its socket, shuts the door
//! behind itself, serves one server after another.

use crate::{
    counters,
    init::{self, Way},
};
use csb_jail::{Step, contained, failure};
use csb_sys::{packet::Listener, process};
use csb_wire::{
    Failure,
    guest::{COUNTERS, FAILED, ONCE, SHARED, SOCKET},
};
use rustix::fs::{Mode, OFlags};
use std::{fs, io, os::fd::AsFd, path::Path};

/// Runs until the container ends.
pub(crate) fn run() -> io::Result<()> {
    if std::env::args().nth(1).is_some_and(|word| word == COUNTERS) {
        return counters::run();
    }
    process::set_name(c"csb-init");
    process::default_handlers();
    let shared = Path::new(SHARED);
    let prepared = prepare(shared);
    if let Err(failure) = &prepared {
        // Whoever waits for the socket looks here; its own words are all that is left otherwise.
        let _ = fs::write(shared.join(FAILED), failure.to_string());
    }
    let (door, built) = prepared.map_err(|failure| io::Error::other(failure.to_string()))?;
    let once = std::env::args().nth(2).is_some_and(|word| word == ONCE);
    init::run(Way::Door { door, once }, built)
}

fn prepare(shared: &Path) -> Result<(Listener, csb_jail::Built), Failure> {
    let nofile = std::env::args().nth(1).and_then(|word| word.parse().ok());
    let nofile = nofile.ok_or_else(|| failure("read the arguments", &io::ErrorKind::InvalidInput.into()))?;
    if std::process::id() != 1 {
        return Err(failure("be pid 1 of the container", &io::ErrorKind::Unsupported.into()));
    }
    process::close_from(3).step("close descriptors")?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).step("open /dev/null")?;
    for number in 0..3 {
        process::set_stdio(null.as_fd(), number).step("close descriptors")?;
    }
    drop(null);
    // Its own ends of all pipes, however few the container is given for each of its programs.
    process::raise_limit(rustix::process::Resource::Nofile).step("raise the limit of descriptors")?;
    rustix::process::umask(Mode::from_raw_mode(0o077));
    let door = Listener::bind(&shared.join(SOCKET)).step("listen")?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    Ok((door, contained(nofile, environment())?))
}

/// The image's, for commands: what is about this process, or its loader, is left out.
fn environment() -> Vec<String> {
    const OURS: [&str; 6] = ["GLIBC_TUNABLES", "HOME", "HOSTNAME", "LOGNAME", "TERM", "USER"];
    let given =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    given
        .filter(|(name, _)| !name.starts_with("LD_") && !OURS.contains(&name.as_str()))
        .map(|(name, value)| format!("{name}={value}"))
        .collect()
}
