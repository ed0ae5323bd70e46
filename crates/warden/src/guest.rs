//! The init of a container that another program made, as a backend of the server asked it to: binds its socket, shuts the door
//! behind itself, serves one server after another. Where no descriptor gets out of the container, a process beside it does the
//! talking (`csb_relay`).

use crate::{
    counters,
    init::{self, Way},
};
use csb_jail::{Step, contained, failure};
use csb_relay::Channel;
use csb_sys::{
    packet::{Conn, Listener},
    pipe,
    process::{self, Fork},
    seccomp::Filter,
};
use csb_wire::{
    Failure,
    guest::{BRIDGE, COUNTERS, FAILED, NARROW, ONCE, OWNER, SHARED, SOCKET, STREAM},
};
use rustix::{
    fs::{Mode, OFlags},
    net::Shutdown,
};
use std::{
    env,
    fs::{self, File},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
    thread,
};

/// How servers reach this container's init.
pub(crate) enum Door {
    Packets(Listener),
    /// By the relay that is behind this connection; readable once it has ended.
    Relay(Conn, OwnedFd),
}

/// Runs until the container ends.
pub(crate) fn run() -> io::Result<()> {
    let words: Vec<String> = env::args().skip(1).collect();
    let has = |word: &str| words.iter().any(|given| given == word);
    if has(BRIDGE) {
        return bridge();
    }
    if has(COUNTERS) {
        return counters::run();
    }
    process::set_name(c"csb-init");
    process::default_handlers();
    let shared = Path::new(SHARED);
    let prepared = prepare(shared, &words);
    if let Err(failure) = &prepared {
        // Whoever waits for the socket looks here; its own words are all that is left otherwise.
        let _ = fs::write(shared.join(FAILED), failure.to_string());
    }
    let (door, built) = prepared.map_err(|failure| io::Error::other(failure.to_string()))?;
    match door {
        Door::Packets(door) => init::run(Way::Door { door, once: has(ONCE) }, built),
        Door::Relay(conn, life) => init::run(Way::Kept { conn, life: &life }, built),
    }
}

fn prepare(shared: &Path, words: &[String]) -> Result<(Door, csb_jail::Built), Failure> {
    let nofile = words.first().and_then(|word| word.parse().ok());
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
    let socket = shared.join(SOCKET);
    let door = if words.iter().any(|word| word == STREAM) {
        let listener = UnixListener::bind(&socket).step("listen")?;
        relay(Channel::Listener(listener.into()), words.iter().any(|word| word == ONCE)).step("start the relay")?
    } else {
        Door::Packets(Listener::bind(&socket).step("listen")?)
    };
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let narrow = words.iter().any(|word| word == NARROW);
    Ok((door, contained(nofile, environment(), narrow)?))
}

/// Starts the process that talks with servers. No command ever has its user's id, so none can reach it; without it the
/// container ends.
pub(crate) fn relay(channel: Channel, once: bool) -> io::Result<Door> {
    let (ours, theirs) = Conn::pair()?;
    let (life, held) = pipe::pipe()?;
    match process::fork(0, None)? {
        Fork::Parent(_) => Ok(Door::Relay(ours, life)),
        Fork::Child => {
            drop((ours, life));
            process::set_name(c"csb-relay");
            let done = relay_only(theirs, channel, once);
            drop(held);
            process::exit_now(i32::from(done.is_err()))
        }
    }
}

fn relay_only(conn: Conn, channel: Channel, once: bool) -> io::Result<()> {
    process::ignore_broken_pipes();
    stand_apart()?;
    Filter::relay().install()?;
    csb_relay::guest(conn, channel, once)
}

/// Joins its own streams to the socket of the container's init, until either is closed.
fn bridge() -> io::Result<()> {
    process::set_name(c"csb-bridge");
    let socket = UnixStream::connect(Path::new(SHARED).join(SOCKET))?;
    stand_apart()?;
    let (mut from, mut to) = (File::from(OwnedFd::from(socket.try_clone()?)), File::from(OwnedFd::from(socket)));
    let mut out = File::from(rustix::stdio::stdout().try_clone_to_owned()?);
    thread::spawn(move || {
        // A filter is a thread's own; so neither needs a right to start the other.
        let done = Filter::bridge().install().and_then(|()| pass(&mut io::stdin().lock(), &mut to));
        let _ = rustix::net::shutdown(&to, if done.is_ok() { Shutdown::Write } else { Shutdown::Both });
    });
    Filter::bridge().install()?;
    pass(&mut from, &mut out)
}

/// Hands bytes on until there are none. By reading and writing: `io::copy` would splice, and what is spliced from a pipe into a
/// Unix socket was seen not to arrive (Linux 6.18).
fn pass(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => to.write_all(&buffer[..length])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Becomes what no command can signal or trace, and nothing more is needed to be. It was started as root of the container.
pub(crate) fn stand_apart() -> io::Result<()> {
    process::lock_securebits()?;
    // Before the uid is changed, with which gVisor takes the right to it.
    process::drop_bounding_set()?;
    process::become_user(OWNER, OWNER, Some(&[]))?;
    // What the kernel allows of a process whose user changed is another matter.
    process::set_undumpable()?;
    process::keep_capabilities(&[])?;
    process::set_no_new_privs()
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
