//! How a warden comes to be: detached, from a sealed copy of this program, behind a socket in the data directory; or forked for
//! one command.

use crate::{
    forker, guest, machine, vmm,
    warden::{Warden, clear_leftovers},
};
use csb_jail::Host;
use csb_sys::{
    cgroup,
    packet::{Conn, Listener},
    process::{self, Fork, PidFd},
};
use csb_wire::{FromWarden, ToWarden, VERSION, decode, encode, guest::PROGRAM};
use rustix::fs::FlockOperation;
use std::{
    ffi::{CString, OsString},
    fs::{self, File},
    hash::{DefaultHasher, Hash, Hasher},
    io,
    os::{
        fd::{AsFd, AsRawFd},
        unix::{
            ffi::OsStringExt,
            fs::{DirBuilderExt, OpenOptionsExt},
        },
    },
    path::{Path, PathBuf},
    time::Duration,
};

/// `argv[0]` of a warden: its only argument, so that `ps` in a sandbox has nothing to show of the host.
pub const WARDEN_NAME: &str = "csb-warden";
/// For a warden to end after it said that it does.
const PATIENCE: Duration = Duration::from_secs(30);
const FORKED_GROUP: &str = "csb-run-";
const LISTENER: i32 = 3;
const DIRECTORY_VARIABLE: &str = "CSB_WARDEN_DIR";

fn run_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("run")
}

fn socket_path(data_dir: &Path) -> PathBuf {
    run_dir(data_dir).join("warden.sock")
}

/// Connects to the warden of a data directory, if one runs.
pub fn connect(data_dir: &Path) -> io::Result<Option<Conn>> {
    match short_connect(&socket_path(data_dir)) {
        Ok(conn) => Ok(Some(conn)),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Socket addresses hold 107 bytes; a longer path is reached through its directory's descriptor.
fn short_connect(path: &Path) -> io::Result<Conn> {
    let (_directory, short) = shorten(path)?;
    Conn::connect(&short)
}

fn shorten(path: &Path) -> io::Result<(File, PathBuf)> {
    let directory = File::open(path.parent().unwrap_or(Path::new(".")))?;
    let name = path.file_name().unwrap_or_default();
    let short = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
    Ok((directory, short))
}

/// Connects to the warden of a data directory, starting one where none runs. Whoever else starts one at the same moment
/// waits, and finds it.
pub fn start_daemon(data_dir: &Path) -> io::Result<Conn> {
    let run = run_dir(data_dir);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&run)?;
    let lock = File::options().create(true).truncate(false).write(true).mode(0o600).open(run.join("warden.lock"))?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive)?;
    if let Some(conn) = connect(data_dir)? {
        return Ok(conn);
    }
    let path = socket_path(data_dir);
    match fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let (_directory, short) = shorten(&path)?;
    let listener = Listener::bind(&short)?;
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    let log = File::options().create(true).append(true).mode(0o600).open(run.join("warden.log"))?;
    let program = process::sealed_self()?;
    let directory = fs::canonicalize(data_dir)?;
    let mut variable = OsString::from(format!("{DIRECTORY_VARIABLE}="));
    variable.push(&directory);
    let text = |s: Vec<u8>| CString::new(s).map_err(io::Error::from);
    let argv = [text(WARDEN_NAME.into())?];
    let env = [text(variable.into_vec())?];
    process::spawn_detached(program.as_fd(), &argv, &env, log.as_fd(), &[listener.as_fd()])?;
    short_connect(&path)
}

/// Has a warden end all its sandboxes and itself, and waits for it; how many sandboxes there were.
pub fn stop(conn: &Conn) -> io::Result<u32> {
    const SEQ: u64 = 1;
    let other = |what: String| io::Error::other(what);
    conn.send(&encode(&ToWarden::Hello { version: VERSION }), &[])?;
    conn.send(&encode(&ToWarden::Stop { seq: SEQ }), &[])?;
    let mut sandboxes = 0;
    let mut done = false;
    let mut warden = None;
    while let Some((bytes, _)) = conn.recv()? {
        match decode(&bytes).map_err(|e| other(e.to_string()))? {
            FromWarden::Welcome { held, pid, .. } => (sandboxes, warden) = (held, PidFd::open(pid).ok()),
            FromWarden::Done { seq: SEQ } => done = true,
            FromWarden::Failed { seq: SEQ, failure } => return Err(other(failure.to_string())),
            _ => {}
        }
    }
    // It answers before it has ended. Whoever starts one next must not meet this one, and nothing of it keeps the disk busy.
    if warden.is_some_and(|warden| !warden.wait(PATIENCE).unwrap_or(true)) {
        return Err(other("it does not end".into()));
    }
    if done { Ok(sandboxes) } else { Err(other("it ended without an answer".into())) }
}

/// Called first in `main`: if this process was started as a warden, or by one, or as a container's init, runs it to its end.
pub fn entry() -> Option<std::process::ExitCode> {
    let name = std::env::args_os().next()?;
    let result = if name == forker::NAME {
        forker::run()
    } else if Path::new(&name).file_name() == Some(PROGRAM.as_ref()) {
        guest::run()
    } else if Path::new(&name).file_name() == Some(csb_wire::machine::PROGRAM.as_ref()) {
        machine::run()
    } else if name == csb_wire::machine::CONFINER {
        vmm::run()
    } else if name == WARDEN_NAME {
        let data_dir = PathBuf::from(std::env::var_os(DIRECTORY_VARIABLE)?);
        process::inherited_fd(LISTENER).and_then(|fd| serve(&data_dir, Some(fd.into()), None))
    } else {
        return None;
    };
    match result {
        Ok(()) => Some(std::process::ExitCode::SUCCESS),
        Err(e) => {
            eprintln!("{}: {e}", name.to_string_lossy());
            Some(std::process::ExitCode::FAILURE)
        }
    }
}

/// Forks a warden for this process alone, which ends with the connection. The caller has one thread, and keeps `data_dir` until
/// the warden has ended.
pub fn fork_inherited(data_dir: &Path) -> io::Result<Conn> {
    let (ours, theirs) = Conn::pair()?;
    match process::fork(0, None)? {
        Fork::Parent(_) => Ok(ours),
        Fork::Child => {
            drop(ours);
            // A terminal's Ctrl-C is for the command, by way of its caller.
            let _ = rustix::process::setsid();
            let result = serve(data_dir, None, Some(theirs));
            if let Err(e) = &result {
                eprintln!("csb-warden: {e}");
            }
            process::exit_now(i32::from(result.is_err()))
        }
    }
}

fn serve(data_dir: &Path, listener: Option<Listener>, conn: Option<Conn>) -> io::Result<()> {
    let shared = listener.is_some();
    process::set_name(c"csb-warden");
    process::default_handlers();
    // One for each sandbox, at least.
    process::raise_limit(rustix::process::Resource::Nofile)?;
    let run = run_dir(data_dir);
    let refused = |e: cgroup::CgroupError| io::Error::new(e.source.kind(), format!("{e}: {}", e.source));
    let cgroups = cgroup::Host::detect()?.root(&group_name(data_dir, shared)).map_err(refused)?;
    if shared {
        clear_leftovers(&cgroups).map_err(refused)?;
        // The sum of what sandboxes may have can be more than the host has; the host's own processes come first.
        if let Some(most) = csb_sys::process::pids_for_sandboxes() {
            cgroups.limit_pids(most).map_err(refused)?;
        }
    }
    // A forked warden that was killed left its groups to nobody in particular.
    cgroups.sweep(FORKED_GROUP);
    process::set_undumpable()?;
    let counted = cgroups.controllers().contains(&cgroup::Controller::Pids);
    let host = Host::prepare(&run, counted).map_err(|f| io::Error::other(f.to_string()))?;
    Warden::new(host, cgroups, listener, conn)?.run()
}

/// One group for the warden of a data directory, whoever starts it; one of its own for a forked warden.
fn group_name(data_dir: &Path, shared: bool) -> String {
    if !shared {
        return format!("{FORKED_GROUP}{}", std::process::id());
    }
    let mut hasher = DefaultHasher::new();
    data_dir.hash(&mut hasher);
    format!("csb-{:016x}", hasher.finish())
}
