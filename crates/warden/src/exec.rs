//! Starts one command: a fork of the init that gives up everything and becomes the tenant's program.

use crate::init::only;
use csb_jail::{Account, Built, Step, Tenant, failure};
use csb_sys::{
    pipe::pipe,
    process::{self, CLONE_NEWCGROUP, Fork, SIGCONT, SIGKILL},
    tty,
};
use csb_wire::{ExecPlan, Failure, decode, encode};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags},
};
use std::{
    ffi::{CString, OsStr},
    fs::File,
    io::{self, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    time::{Duration, Instant},
};

const SHELL: &str = "/bin/sh";
/// A command that has not begun by then never will: something in the sandbox keeps stopping it.
const MOST_START: Duration = Duration::from_secs(10);

/// A running command, and the ends that the init keeps for the server.
pub(crate) struct Started {
    pub(crate) pid: i32,
    /// Of its cgroup namespace.
    pub(crate) mark: u64,
    pub(crate) at: Instant,
    pub(crate) outputs: Vec<OwnedFd>,
    pub(crate) stdin: Option<OwnedFd>,
}

/// Ends of the streams: what the command gets, what is kept.
struct Streams {
    /// stdin, stdout, stderr; one descriptor, the terminal's slave, serves as all three.
    child: Vec<OwnedFd>,
    outputs: Vec<OwnedFd>,
    stdin: Option<OwnedFd>,
}

pub(crate) fn start(plan: &ExecPlan, fds: Vec<OwnedFd>, built: &Built) -> Result<Started, Failure> {
    let (tenant, proc) = (&built.tenant, &built.proc);
    let streams = match plan.pty {
        Some(size) => terminal(size)?,
        None => pipes(plan, fds)?,
    };
    // A cgroup namespace of its own marks the command and all its descendants; taken by the init beforehand, as a command may
    // have ended before anybody could look at it.
    csb_sys::ns::unshare(CLONE_NEWCGROUP).step("confine")?;
    let mark = csb_sys::ns::cgroup_mark(proc, 1).step("confine")?;
    let (errors, report) = pipe().step("limit")?;
    let at = Instant::now();
    match process::fork(0, None).map_err(|e| failure(if is_limit(&e) { "limit" } else { "fork" }, &e))? {
        Fork::Child => {
            let Err(failure) = become_command(plan, &streams, tenant, &report);
            // If the init is gone there is nobody to tell.
            let _ = File::from(report).write_all(&encode(&failure));
            process::exit_now(127)
        }
        Fork::Parent(pid) => {
            drop(report);
            let said = hear(&errors, pid).step("fork")?;
            if said.is_empty() {
                return Ok(Started { pid, mark, at, outputs: streams.outputs, stdin: streams.stdin });
            }
            // The pid was never ours to show; SIGCHLD brings it to the reaper, which does not know it.
            Err(decode(&said).unwrap_or_else(|_| failure("exec", &io::Error::other("it was killed before it began"))))
        }
    }
}

/// What the child says before its exec; nothing when that succeeds. From the moment it is the tenant's user it can be stopped
/// by the tenant's programs, and the init must not wait for ever.
fn hear(errors: &OwnedFd, pid: i32) -> io::Result<Vec<u8>> {
    let started = Instant::now();
    let mut said = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let tick = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        match poll(&mut [PollFd::new(errors, PollFlags::IN)], Some(&tick)) {
            Ok(0) if started.elapsed() < MOST_START => process::kill(pid, SIGCONT).map(drop)?,
            Ok(0) => process::kill(pid, SIGKILL).map(drop)?,
            Ok(_) => match rustix::io::read(errors, &mut buffer) {
                Ok(0) => return Ok(said),
                Ok(n) => said.extend_from_slice(&buffer[..n]),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            },
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

fn is_limit(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::ENOMEM))
}

fn pipes(plan: &ExecPlan, fds: Vec<OwnedFd>) -> Result<Streams, Failure> {
    let mut fds = fds.into_iter();
    let mut next = || fds.next().ok_or_else(|| failure("limit", &io::Error::from_raw_os_error(libc::EMFILE)));
    let (stdout, stderr) = (next()?, next()?);
    let outputs = vec![next()?, next()?];
    let (stdin, keep) = if plan.stdin {
        let (read, write) = (next()?, next()?);
        (read, Some(write))
    } else {
        (rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).step("limit")?, None)
    };
    // A program may open `/dev/stdout` again; the pipe belongs to the server's user.
    for end in [&stdout, &stderr] {
        let _ = rustix::fs::fchmod(end, Mode::from_raw_mode(0o666));
    }
    if keep.is_some() {
        let _ = rustix::fs::fchmod(&stdin, Mode::from_raw_mode(0o666));
    }
    Ok(Streams { child: vec![stdin, stdout, stderr], outputs, stdin: keep })
}

fn terminal(size: csb_types::PtySize) -> Result<Streams, Failure> {
    use rustix::pty::OpenptFlags;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let open = || -> io::Result<(OwnedFd, OwnedFd)> {
        let master = rustix::pty::openpt(flags)?;
        rustix::pty::unlockpt(&master)?;
        tty::set_size(&master, size.cols, size.rows)?;
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
        Ok((master, slave))
    };
    let (master, slave) = open().step("terminal")?;
    Ok(Streams { child: vec![slave], outputs: vec![master], stdin: None })
}

/// In the child: everything up to and including the exec. Returns only with the reason why it did not happen.
fn become_command(
    plan: &ExecPlan,
    streams: &Streams,
    tenant: &Tenant,
    report: &OwnedFd,
) -> Result<std::convert::Infallible, Failure> {
    process::unblock_signals();
    rustix::process::setsid().step("confine")?;
    for number in 0..3 {
        let end = streams.child.get(number).unwrap_or(&streams.child[0]);
        process::set_stdio(end.as_fd(), number as i32).step("confine")?;
    }
    if plan.pty.is_some() {
        tty::make_controlling(rustix::stdio::stdin()).step("terminal")?;
    }
    let account = tenant.become_user(plan.user.as_deref())?;
    only(&[report]).step("confine")?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    // With the user's own rights, and after the pivot: a stale working directory was a way out (CVE-2024-21626).
    rustix::process::chdir(plan.cwd.as_str()).step("cwd")?;
    let env = environment(plan, &account);
    let env = env.iter().map(|v| c_string(v)).collect::<Result<Vec<_>, _>>()?;
    let argv = plan.argv.iter().map(|a| c_string(a)).collect::<Result<Vec<_>, _>>()?;
    let candidates = candidates(plan)?;
    tenant.filter()?;
    Err(failure("exec", &try_each(&candidates, &argv, &env)))
}

fn c_string(text: &str) -> Result<CString, Failure> {
    CString::new(text).map_err(|e| failure("exec", &e.into()))
}

/// The plan's environment, and what every login has.
fn environment(plan: &ExecPlan, account: &Account) -> Vec<String> {
    let mut env = plan.env.clone();
    for (name, value) in [("HOME", &account.home), ("USER", &account.name), ("LOGNAME", &account.name)] {
        if !env.iter().any(|v| v.split_once('=').is_some_and(|(n, _)| n == name)) {
            env.push(format!("{name}={value}"));
        }
    }
    env
}

/// Paths to try, as execvp(3) would.
fn candidates(plan: &ExecPlan) -> Result<Vec<CString>, Failure> {
    let program = plan.argv.first().map(String::as_str).unwrap_or_default();
    if program.contains('/') {
        return Ok(vec![c_string(program)?]);
    }
    let path = plan.env.iter().rev().find_map(|v| v.strip_prefix("PATH=")).unwrap_or("/usr/local/bin:/usr/bin:/bin");
    path.split(':')
        .map(
            |dir| {
                if dir.is_empty() { c_string(&format!("./{program}")) } else { c_string(&format!("{dir}/{program}")) }
            },
        )
        .collect()
}

fn try_each(candidates: &[CString], argv: &[CString], env: &[CString]) -> io::Error {
    let mut last = io::Error::from_raw_os_error(libc::ENOENT);
    for path in candidates {
        let error = process::exec(path, argv, env);
        match error.raw_os_error() {
            // A script without an interpreter line is the shell's (execvp(3)).
            Some(libc::ENOEXEC) => {
                let shell = [SHELL.as_bytes(), path.to_bytes()];
                let mut all: Vec<CString> = shell.iter().filter_map(|p| CString::new(*p).ok()).collect();
                all.extend_from_slice(&argv[1..]);
                let shell = CString::new(OsStr::new(SHELL).as_bytes()).unwrap_or_default();
                return process::exec(&shell, &all, env);
            }
            Some(libc::ENOENT | libc::ENOTDIR) => {}
            // Found but not ours to run: remembered, as a later directory may have another.
            Some(libc::EACCES) => last = error,
            _ => return error,
        }
    }
    last
}
