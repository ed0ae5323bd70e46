//! A process of the init that has given up everything already and waits to become a command, so that a command that is asked
//! for costs no fork and no confinement, only its own start.
//!
//! It is the tenant's user, under the tenant's filter: a program of the tenant can stop or kill it, as it can every command
//! of that user; nothing but the sandbox's next command suffers. It cannot be traced or read: it is not dumpable.

use crate::init::only;
use csb_jail::{Account, Built, DEFAULT_USER, Mark, Step, Tenant, failure};
use csb_sys::{
    packet::Conn,
    process::{self, Fork, SIGCONT, SIGKILL},
    tty,
};
use csb_wire::{ExecPlan, Failure, decode, encode};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::Mode,
};
use std::{
    convert::Infallible,
    ffi::{CString, OsStr},
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    time::{Duration, Instant},
};

const SHELL: &str = "/bin/sh";
/// A command that has not begun by then never will: something in the sandbox keeps stopping it.
const MOST_START: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug)]
pub(crate) struct Parked {
    pub(crate) pid: i32,
    pub(crate) mark: Mark,
    conn: Conn,
}

impl Parked {
    /// Forks one for `user`. What goes wrong in it is said when it is asked to start.
    pub(crate) fn new(built: &Built, user: Option<&str>) -> Result<Self, Failure> {
        let mark = built.marks.next(&built.proc)?;
        let (ours, theirs) = Conn::pair().step("limit")?;
        match process::fork(0, None).map_err(|e| failure(if is_limit(&e) { "limit" } else { "fork" }, &e))? {
            Fork::Child => {
                let Err(failure) = wait(&theirs, &built.tenant, user, mark);
                // If the init is gone there is nobody to tell.
                let _ = theirs.send(&encode(&failure), &[]);
                process::exit_now(127)
            }
            Fork::Parent(pid) => {
                ours.set_nonblocking(true).step("limit")?;
                Ok(Self { pid, mark, conn: ours })
            }
        }
    }

    /// Hands over the command and its streams: stdin, stdout, stderr, or one terminal for all three. False: it is dead, and the
    /// command has not begun.
    pub(crate) fn give(&self, plan: &ExecPlan, streams: &[OwnedFd]) -> io::Result<bool> {
        let streams: Vec<BorrowedFd<'_>> = streams.iter().map(AsFd::as_fd).collect();
        match self.conn.send(&encode(plan), &streams) {
            Ok(()) => Ok(true),
            Err(e) if matches!(e.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Waits until its program runs, or hears why not. False: it was killed before it began, and a tenant's program that kills all
    /// it can see meant the commands that were there. From the moment it is the tenant's user it can be stopped by the tenant's
    /// programs, and the init must not wait for ever.
    pub(crate) fn hear(&self, proc: &OwnedFd) -> Result<bool, Failure> {
        let started = Instant::now();
        loop {
            let tick = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
            match poll(&mut [PollFd::new(&self.conn, PollFlags::IN)], Some(&tick)) {
                Ok(0) if started.elapsed() < MOST_START => process::kill(self.pid, SIGCONT).map(drop).step("fork")?,
                Ok(0) => {
                    process::kill(self.pid, SIGKILL).step("fork")?;
                    return Err(failure("exec", &io::Error::other("something in the sandbox keeps stopping it")));
                }
                Ok(_) => match self.conn.recv() {
                    // Its end was closed by the exec, or by its death.
                    Ok(None) => return Ok(self.has_begun(proc)),
                    Ok(Some((said, _))) => {
                        return Err(decode(&said)
                            .unwrap_or_else(|_| failure("exec", &io::Error::other("it was killed before it began"))));
                    }
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    Err(e) => return Err(failure("fork", &e)),
                },
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(failure("fork", &e.into())),
            }
        }
    }

    /// Whether one that has closed its end became a program. It is not waited for yet, so its pid is its own.
    fn has_begun(&self, proc: &OwnedFd) -> bool {
        // Where one that dies closes its files, it has no memory any more, and so no program.
        if rustix::fs::readlinkat(proc, format!("{}/exe", self.pid), Vec::new()).is_ok() {
            return true;
        }
        // Over already; the kernel remembers whether it ever left the program that forked it (PF_FORKNOEXEC).
        const FORKED_ONLY: u64 = 0x40;
        process::flags(proc, self.pid).is_ok_and(|flags| flags & FORKED_ONLY == 0)
    }
}

fn is_limit(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::ENOMEM))
}

/// In the child: everything up to and including the exec. Returns only with the reason why it did not happen.
fn wait(conn: &Conn, tenant: &Tenant, user: Option<&str>, mark: Mark) -> Result<Infallible, Failure> {
    let confined = confine(conn, tenant, user, mark);
    if confined.is_ok() && !is_readable(conn) {
        look_around();
    }
    // Taken even if nothing can come of it: a frame that nobody has read when this end closes takes the answer with it.
    // None: nobody needs us any more.
    let Some((plan, streams)) = conn.recv().step("confine")? else { process::exit_now(0) };
    let account = confined?;
    let plan: ExecPlan = decode(&plan).map_err(|e| failure("exec", &io::Error::other(e)))?;
    for number in 0..3 {
        let end = streams.get(number).or(streams.first());
        let end = end.ok_or_else(|| failure("limit", &io::Error::from_raw_os_error(libc::EMFILE)))?;
        process::set_stdio(end.as_fd(), number as i32).step("confine")?;
    }
    drop(streams);
    if plan.pty.is_some() {
        tty::make_controlling(rustix::stdio::stdin()).step("terminal")?;
    }
    // With the user's own rights, and in the sandbox's own root: a stale working directory was a way out (CVE-2024-21626).
    rustix::process::chdir(plan.cwd.as_str()).step("cwd")?;
    let env = environment(&plan, &account, tenant.env());
    let env = env.iter().map(|v| c_string(v)).collect::<Result<Vec<_>, _>>()?;
    let argv = plan.argv.iter().map(|a| c_string(a)).collect::<Result<Vec<_>, _>>()?;
    Err(failure("exec", &try_each(&candidates(&plan)?, &argv, &env)))
}

fn is_readable(conn: &Conn) -> bool {
    poll(&mut [PollFd::new(conn, PollFlags::IN)], Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) != Ok(0)
}

/// Looks up what nearly every command needs first, while nobody waits: the names of a new root are in no cache of the kernel's.
/// With the user's rights, and without opening anything.
fn look_around() {
    const LOADERS: [&str; 2] = ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"];
    const LIBRARIES: [&str; 2] = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib/aarch64-linux-gnu/libc.so.6"];
    const OTHERS: [&str; 4] = [SHELL, "/usr/bin/env", "/etc/ld.so.preload", "/etc/ld.so.cache"];
    for path in LOADERS.into_iter().chain(LIBRARIES).chain(OTHERS) {
        // Not every template has each of them.
        let _ = rustix::fs::stat(path);
    }
}

fn confine(conn: &Conn, tenant: &Tenant, user: Option<&str>, mark: Mark) -> Result<Account, Failure> {
    process::unblock_signals();
    rustix::process::setsid().step("confine")?;
    let account = tenant.become_user(user, Some(mark))?;
    only(&[conn.as_fd()]).step("confine")?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    tenant.filter()?;
    Ok(account)
}

/// Whether a process parked for the default user will do.
pub(crate) fn is_default(user: Option<&str>) -> bool {
    user.is_none_or(|user| user == DEFAULT_USER)
}

fn c_string(text: &str) -> Result<CString, Failure> {
    CString::new(text).map_err(|e| failure("exec", &e.into()))
}

/// The plan's environment, what every login has, and what the sandbox `has` unless the plan says otherwise. Its `PATH` is
/// searched last.
fn environment(plan: &ExecPlan, account: &Account, has: &[String]) -> Vec<String> {
    let mut env = plan.env.clone();
    let name = |variable: &str| variable.split('=').next().unwrap_or_default().to_owned();
    let login = [("HOME", &account.home), ("USER", &account.name), ("LOGNAME", &account.name)];
    for variable in login.map(|(name, value)| format!("{name}={value}")).iter().chain(has) {
        let known = env.iter_mut().find(|known| name(known) == name(variable));
        match (known, variable.strip_prefix("PATH=")) {
            (None, _) => env.push(variable.clone()),
            (Some(path), Some(more)) => {
                for directory in more.split(':') {
                    if !path["PATH=".len()..].split(':').any(|known| known == directory) {
                        path.push(':');
                        path.push_str(directory);
                    }
                }
            }
            (Some(_), None) => {}
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

#[cfg(test)]
mod tests {
    use super::*;
    use csb_types::ExecId;

    #[test]
    fn what_a_command_is_told_wins_over_what_its_sandbox_has() {
        let plan = ExecPlan {
            id: ExecId::random(),
            argv: vec!["x".into()],
            env: vec!["A=plan".into(), "PATH=/usr/bin:/bin".into()],
            cwd: "/".into(),
            user: None,
            pty: None,
            stdin: false,
        };
        let account = Account { name: "user".into(), uid: 1000, gid: 1000, home: "/home/user".into() };
        let has = ["A=image".to_owned(), "B=image".into(), "PATH=/usr/local/go/bin:/bin".into()];
        assert_eq!(
            environment(&plan, &account, &has),
            [
                "A=plan",
                "PATH=/usr/bin:/bin:/usr/local/go/bin",
                "HOME=/home/user",
                "USER=user",
                "LOGNAME=user",
                "B=image",
            ]
        );
    }
}
