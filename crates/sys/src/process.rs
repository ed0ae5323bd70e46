//! Processes: birth, identity, privileges, end (clone(2), credentials(7), capabilities(7)).
//!
//! Children are made with a bare clone3 and no exec. Call it only where the process has one thread: another thread's locks
//! would stay locked in the child for ever.

use crate::check::{check, check_long};
use rustix::event::{PollFd, PollFlags, Timespec};
use std::{
    ffi::{CStr, CString},
    io, mem,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    ptr,
    time::{Duration, Instant},
};

pub use libc::{
    CLONE_NEWCGROUP, CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUSER, CLONE_NEWUTS, SIGCHLD,
    SIGCONT, SIGHUP, SIGINT, SIGKILL, SIGPIPE, SIGQUIT, SIGSTOP, SIGTERM, SIGWINCH,
};
/// A time namespace of its own (time_namespaces(7)); only clone3 and unshare take it.
pub const CLONE_NEWTIME: i32 = 0x80;

/// Which side of a clone we are on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fork {
    /// In the new process.
    Child,
    /// In the old one; the child's pid as we see it.
    Parent(i32),
}

/// Forks with the namespaces of `flags`, into cgroup `cgroup` where given (cgroup v2, Linux 5.7).
/// The caller has one thread.
pub fn fork(flags: i32, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Fork> {
    clone3(flags as u32 as u64, SIGCHLD as u64, cgroup)
}

fn clone3(flags: u64, exit_signal: u64, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Fork> {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    // SAFETY: all-zero clone_args are valid; without CLONE_VM the child has its own copy of our memory and stack,
    // as after fork(2).
    unsafe {
        let mut args: libc::clone_args = mem::zeroed();
        args.flags = flags;
        args.exit_signal = exit_signal;
        if let Some(fd) = cgroup {
            args.flags |= CLONE_INTO_CGROUP;
            args.cgroup = fd.as_raw_fd() as u64;
        }
        let made = match check_long(libc::syscall(libc::SYS_clone3, &args, mem::size_of_val(&args))) {
            // A container engine's filter, which cannot look into the structure, hides the call; nothing but a plain fork is
            // made there.
            Err(e) if e.raw_os_error() == Some(libc::ENOSYS) && args.flags == 0 => {
                check_long(libc::syscall(libc::SYS_clone, exit_signal, 0u64, 0u64, 0u64, 0u64))?
            }
            made => made?,
        };
        match made {
            0 => Ok(Fork::Child),
            pid => Ok(Fork::Parent(pid as i32)),
        }
    }
}

/// As `fork`, of a child that is our parent's: it alone is told of the end, and its death is the parent's that the child sees.
pub fn fork_for_parent(flags: i32, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Fork> {
    clone3((flags | libc::CLONE_PARENT) as u32 as u64, 0, cgroup)
}

/// A child that only waits to be killed, in the new namespaces of `flags`, and shares our memory: nothing is copied for it.
#[derive(Debug)]
pub struct Placeholder {
    pid: i32,
    /// It runs on this.
    _stack: Box<[u128]>,
}

impl Placeholder {
    /// Makes it. The caller has one thread.
    pub fn new(flags: i32) -> io::Result<Self> {
        extern "C" fn wait_for_the_end(_: *mut libc::c_void) -> libc::c_int {
            loop {
                // SAFETY: both take integers. The memory is our parent's, and neither writes to it: `pause` returns, and then
                // stores an error number, only after a signal that has a handler, and there is none.
                unsafe {
                    libc::prctl(libc::PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
                    libc::pause();
                }
            }
        }
        let mut stack = vec![0u128; 1024].into_boxed_slice();
        // SAFETY: the child gets the end of a stack of its own, aligned to 16 bytes, which lives until it is dead: `drop`
        // reaps it first. It calls nothing that allocates or locks.
        let pid = unsafe {
            let top = stack.as_mut_ptr().add(stack.len()).cast();
            // Without a signal at its end: who waits for signals of children is not to look for this one.
            check(libc::clone(wait_for_the_end, top, flags | libc::CLONE_VM, ptr::null_mut()))?
        };
        Ok(Self { pid, _stack: stack })
    }

    /// Its pid.
    pub fn pid(&self) -> i32 {
        self.pid
    }
}

impl Drop for Placeholder {
    fn drop(&mut self) {
        // It is our child and not reaped, so it is there to be killed and waited for.
        let _ = kill(self.pid, SIGKILL);
        let _ = wait(self.pid);
    }
}

/// Ends this process at once: no destructors, no flushing of what a parent also holds.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit takes an integer and does not return.
    unsafe { libc::_exit(code) }
}

/// Replaces the program; returns only on failure. The path is taken as it is.
pub fn exec(path: &CStr, argv: &[CString], env: &[CString]) -> io::Error {
    let list =
        |of: &[CString]| -> Vec<*const libc::c_char> { of.iter().map(|s| s.as_ptr()).chain([ptr::null()]).collect() };
    let (argv, env) = (list(argv), list(env));
    // SAFETY: both lists are null-terminated and their strings outlive the call.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// A child that has ended: its pid and wait status. `None` when none has (or there is none). The kernel looks at every child.
pub fn reap() -> Option<(i32, i32)> {
    reap_one(-1)
}

/// The same of one child.
pub fn reap_one(pid: i32) -> Option<(i32, i32)> {
    let mut status = 0;
    // SAFETY: `status` is ours.
    let pid = unsafe { libc::waitpid(pid, &mut status, libc::WNOHANG) };
    (pid > 0).then_some((pid, status))
}

/// Waits for one child; its wait status.
pub fn wait(pid: i32) -> io::Result<i32> {
    let mut status = 0;
    loop {
        // SAFETY: `status` is ours.
        match check(unsafe { libc::waitpid(pid, &mut status, libc::__WALL) }) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other.map(|_| status),
        }
    }
}

/// What a wait status says: `Ok(exit code)` or `Err(signal)`.
pub fn decode_status(status: i32) -> Result<i32, i32> {
    if libc::WIFSIGNALED(status) { Err(libc::WTERMSIG(status)) } else { Ok(libc::WEXITSTATUS(status)) }
}

/// Sends a signal; a process (or, negative, a group) that no longer exists is not an error. Returns whether it existed.
pub fn kill(pid: i32, signal: i32) -> io::Result<bool> {
    // SAFETY: kill takes integers.
    match check(unsafe { libc::kill(pid, signal) }) {
        Ok(_) => Ok(true),
        Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Blocks `signals` and returns a descriptor that becomes readable when one arrives (signalfd(2)).
pub fn signal_fd(signals: &[i32]) -> io::Result<OwnedFd> {
    // SAFETY: the set is initialised by sigemptyset; a non-negative result is a new descriptor.
    unsafe {
        let mut set: libc::sigset_t = mem::zeroed();
        libc::sigemptyset(&mut set);
        for s in signals {
            check(libc::sigaddset(&mut set, *s))?;
        }
        check(libc::sigprocmask(libc::SIG_BLOCK, &set, ptr::null_mut()))?;
        Ok(OwnedFd::from_raw_fd(check(libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK))?))
    }
}

/// Takes the next pending signal from `signal_fd`, and the process it is about: of several children that end before we look, one
/// is named.
pub fn next_signal(fd: impl AsFd) -> Option<(i32, i32)> {
    let mut bytes = [0u8; mem::size_of::<libc::signalfd_siginfo>()];
    match rustix::io::read(fd, &mut bytes) {
        Ok(n) if n == bytes.len() => {
            let field = |at: usize| i32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
            Some((
                field(mem::offset_of!(libc::signalfd_siginfo, ssi_signo)),
                field(mem::offset_of!(libc::signalfd_siginfo, ssi_pid)),
            ))
        }
        _ => None,
    }
}

/// Default handlers for every signal, whatever our parent ignored (`nohup`) and Rust does (SIGPIPE): what is ignored
/// stays so over fork and exec, so this is for a process whose descendants are strangers' programs.
pub fn default_handlers() {
    // SAFETY: SIG_DFL is a valid handler; signals whose handler cannot be set answer EINVAL, which changes nothing.
    unsafe {
        for signal in 1..=64 {
            libc::signal(signal, libc::SIG_DFL);
        }
    }
}

/// What is written to a pipe that nobody reads is an error again, as Rust has it, and no death.
pub fn ignore_broken_pipes() {
    // SAFETY: SIG_IGN is a valid handler.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// Lets every signal through again, as a fresh program expects.
pub fn unblock_signals() {
    // SAFETY: the set is initialised by sigemptyset.
    unsafe {
        let mut set: libc::sigset_t = mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &set, ptr::null_mut());
    }
}

fn prctl(option: i32, value: u64) -> io::Result<i32> {
    // SAFETY: only called with options whose arguments are integers.
    check(unsafe { libc::prctl(option, value, 0, 0, 0) })
}

/// `signal` when the parent dies. Cleared by a change of ids: set it after.
pub fn set_parent_death_signal(signal: i32) -> io::Result<()> {
    prctl(libc::PR_SET_PDEATHSIG, signal as u64).map(drop)
}

/// No core dump, no ptrace, no `/proc/self/{mem,environ,exe}` for others of the same user.
pub fn set_undumpable() -> io::Result<()> {
    prctl(libc::PR_SET_DUMPABLE, 0).map(drop)
}

/// The opposite, for a moment: an ordinary user may write the id maps only of a child whose `/proc` files are its own.
pub fn set_dumpable() -> io::Result<()> {
    prctl(libc::PR_SET_DUMPABLE, 1).map(drop)
}

/// Set-user-id bits and file capabilities give nothing from now on, for ever.
pub fn set_no_new_privs() -> io::Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1).map(drop)
}

/// Name shown in `ps`, at most 15 bytes.
pub fn set_name(name: &CStr) {
    // SAFETY: PR_SET_NAME reads at most 16 bytes of a NUL-terminated string.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

const NO_SETUID_FIXUP: u64 = 1 << 2;
/// NOROOT, NO_SETUID_FIXUP, NO_CAP_AMBIENT_RAISE, each with its lock, and KEEP_CAPS locked off: uid 0 is a number like any other.
const SECUREBITS: u64 = 0xef;

/// Locks the securebits, so that no uid carries privileges any more. Needs CAP_SETPCAP in the user namespace. A kernel without
/// securebits (gVisor's) is no error: there the empty bounding set alone sees to it.
pub fn lock_securebits() -> io::Result<()> {
    match prctl(libc::PR_SET_SECUREBITS, SECUREBITS) {
        Err(error) if prctl(libc::PR_GET_SECUREBITS, 0).is_ok() => Err(error),
        _ => Ok(()),
    }
}

/// Capability numbers that an init keeps (capabilities(7)).
pub mod cap {
    /// Send signals to any process.
    pub const KILL: u32 = 5;
    /// Set group ids, write gid maps.
    pub const SETGID: u32 = 6;
    /// Set user ids, write uid maps.
    pub const SETUID: u32 = 7;
    /// Change the capability sets.
    pub const SETPCAP: u32 = 8;
    /// Look into any process.
    pub const SYS_PTRACE: u32 = 19;
    /// Namespaces and mounts.
    pub const SYS_ADMIN: u32 = 21;
}

/// Empties the ambient and the bounding set: no program that is executed from now on gains a capability by its file. Needs
/// CAP_SETPCAP.
pub fn drop_bounding_set() -> io::Result<()> {
    // Fails where the kernel has no ambient set (before 4.3); there is then nothing to clear.
    let _ = prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as u64);
    for capability in 0..64 {
        match prctl(libc::PR_CAPBSET_DROP, capability) {
            Ok(_) => {}
            // Past the last capability this kernel knows.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => break,
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Leaves exactly `keep` in the effective and permitted sets, and nothing in the inheritable set.
pub fn keep_capabilities(keep: &[u32]) -> io::Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    #[derive(Default, Clone, Copy)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    const VERSION_3: u32 = 0x2008_0522;

    let mut data = [Data::default(); 2];
    for &capability in keep {
        let word = &mut data[capability as usize / 32];
        word.effective |= 1 << (capability % 32);
        word.permitted |= 1 << (capability % 32);
    }
    let header = Header { version: VERSION_3, pid: 0 };
    // SAFETY: version 3 takes a header and two data words, as laid out above.
    check_long(unsafe { libc::syscall(libc::SYS_capset, &header, data.as_ptr()) }).map(drop)
}

/// Becomes `uid` and `gid` in every sense (real, effective, saved, file system), with no other group than `groups`; none where
/// the supplementary groups cannot be set (in a rootless namespace, which has none).
pub fn become_user(uid: u32, gid: u32, groups: Option<&[u32]>) -> io::Result<()> {
    if uid == u32::MAX || gid == u32::MAX {
        // -1 is "leave it as it is", which is never what was meant.
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: the calls take integers, and setgroups a list of as many as it is told. They are made by number because the C
    // library's wrappers would signal all threads of a process that has only this one.
    unsafe {
        if let Some(groups) = groups {
            check_long(libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()))?;
        }
        check_long(libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
        check_long(libc::syscall(libc::SYS_setresuid, uid, uid, uid))?;
    }
    Ok(())
}

/// Takes an effective uid for a moment and keeps every capability meanwhile. Needs CAP_SETPCAP and CAP_SETUID.
pub fn lend_uid(uid: u32) -> io::Result<()> {
    // Without it a change from uid 0 would empty the effective set.
    prctl(libc::PR_SET_SECUREBITS, NO_SETUID_FIXUP)?;
    set_effective_uid(uid)
}

/// Takes the effective uid 0 back.
pub fn take_uid_back() -> io::Result<()> {
    set_effective_uid(0)
}

fn set_effective_uid(uid: u32) -> io::Result<()> {
    // SAFETY: setresuid takes integers; -1 leaves an id as it is. By number, for the reason given at `become_user`.
    check_long(unsafe { libc::syscall(libc::SYS_setresuid, -1i32, uid, -1i32) }).map(drop)
}

/// Sets both limits of a resource, never above the hard limit in force.
pub fn limit(resource: rustix::process::Resource, value: u64) -> io::Result<()> {
    let now = rustix::process::getrlimit(resource);
    let value = Some(now.maximum.map_or(value, |most| most.min(value)));
    rustix::process::setrlimit(resource, rustix::process::Rlimit { current: value, maximum: value }).map_err(Into::into)
}

/// Raises the soft limit of a resource to the hard one: the soft limit of descriptors is 1024 on most hosts, for programs that
/// use select(2), and this is none.
pub fn raise_limit(resource: rustix::process::Resource) -> io::Result<()> {
    let maximum = rustix::process::getrlimit(resource).maximum;
    rustix::process::setrlimit(resource, rustix::process::Rlimit { current: maximum, maximum }).map_err(Into::into)
}

/// A copy of the descriptor `number` of another process (pidfd_getfd(2)), over which the caller has the rights of a tracer.
/// The process is a child of ours that nobody has waited for, so its pid is still its own.
pub fn take_descriptor(pid: i32, number: RawFd) -> io::Result<OwnedFd> {
    let pid = rustix::process::Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    let process = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
    rustix::process::pidfd_getfd(process, number, rustix::process::PidfdGetfdFlags::empty()).map_err(Into::into)
}

/// The kernel's flags of a process (`PF_*`): the ninth field of its `stat` (proc_pid_stat(5)), below an open `/proc`.
pub fn flags(proc: impl AsFd, pid: i32) -> io::Result<u64> {
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    let file = rustix::fs::openat(proc, format!("{pid}/stat"), flags, rustix::fs::Mode::empty())?;
    let mut text = [0; 512];
    let length = rustix::io::read(&file, &mut text)?;
    // The second field is the program's own name, in parentheses, with whatever bytes it likes.
    let rest = text[..length].rsplit(|byte| *byte == b')').next().unwrap_or_default();
    let field = str::from_utf8(rest).ok().and_then(|rest| rest.split_ascii_whitespace().nth(6));
    field.and_then(|field| field.parse().ok()).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Whether a process has a supplementary group: `Groups` of its `status` (proc_pid_status(5)), below an open `/proc`. No process
/// changes it without CAP_SETGID, and all that it starts have it as well.
pub fn has_group(proc: impl AsFd, pid: i32, group: u32) -> io::Result<bool> {
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    let file = rustix::fs::openat(proc, format!("{pid}/status"), flags, rustix::fs::Mode::empty())?;
    let mut text = [0; 2048];
    let length = rustix::io::read(&file, &mut text)?;
    // The name of the program, which it chooses, comes first and has its line ends escaped.
    let line = text[..length].split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"Groups:"));
    let line = line.and_then(|line| str::from_utf8(line).ok()).ok_or(io::ErrorKind::InvalidData)?;
    Ok(line.split_ascii_whitespace().any(|word| word.parse() == Ok(group)))
}

/// A process that is none of our children, so that its end can be waited for (pidfd_open(2)).
#[derive(Debug)]
pub struct PidFd(OwnedFd);

impl PidFd {
    /// The process that has this pid now.
    pub fn open(pid: i32) -> io::Result<Self> {
        let pid = rustix::process::Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
        rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).map(Self).map_err(Into::into)
    }

    /// Waits until it has ended and all it had open is closed; whether that was so in time.
    pub fn wait(&self, patience: Duration) -> io::Result<bool> {
        let end = Instant::now() + patience;
        loop {
            let left = Timespec::try_from(end.saturating_duration_since(Instant::now())).ok();
            match rustix::event::poll(&mut [PollFd::new(&self.0, PollFlags::IN)], left.as_ref()) {
                Ok(ready) => return Ok(ready > 0),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Closes every descriptor from `first` on (close_range(2)).
pub fn close_from(first: RawFd) -> io::Result<()> {
    // SAFETY: no owned descriptor is used after this call: callers exec or have moved what they keep below `first`.
    check_long(unsafe { libc::syscall(libc::SYS_close_range, first, RawFd::MAX, 0) }).map(drop)
}

/// Closes every descriptor but `keep`, which may hold any numbers in any order.
pub fn close_all_but(keep: &[RawFd]) -> io::Result<()> {
    let mut keep = keep.to_vec();
    keep.sort_unstable();
    keep.dedup();
    let mut first = 0u32;
    for fd in keep.into_iter().map(|fd| fd as u32).chain([RawFd::MAX as u32]) {
        if first < fd {
            let last = if fd == RawFd::MAX as u32 { fd } else { fd - 1 };
            // SAFETY: the caller names every descriptor that it goes on using.
            check_long(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) })?;
        }
        first = fd.saturating_add(1);
    }
    Ok(())
}

/// Makes `fd` the standard stream `number` (0 to 2) of this process, not close-on-exec.
pub fn set_stdio(fd: BorrowedFd<'_>, number: RawFd) -> io::Result<()> {
    assert!((0..=2).contains(&number));
    // SAFETY: dup2 onto a standard stream, whose number std's handles keep using validly.
    unsafe {
        if fd.as_raw_fd() == number {
            return check(libc::fcntl(number, libc::F_SETFD, 0)).map(drop);
        }
        check(libc::dup2(fd.as_raw_fd(), number)).map(drop)
    }
}

/// Takes over a descriptor that the parent left at a known number.
/// The caller says, once in a process's life, that nothing else owns it.
pub fn inherited_fd(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl fails for a number that is not open; the caller vouches that nobody else owns it.
    unsafe {
        check(libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC))?;
        Ok(OwnedFd::from_raw_fd(number))
    }
}

/// Starts `program` (an open, executable file, such as a sealed memfd) as a detached process in its own session, with `fds` at
/// 3, 4, …, `/dev/null` for its standard streams but `stderr`, an empty environment, and `argv`.
/// Safe in a process with threads: the child makes only async-signal-safe calls before the exec.
pub fn spawn_detached(
    program: BorrowedFd<'_>,
    argv: &[CString],
    env: &[CString],
    stderr: BorrowedFd<'_>,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let list =
        |of: &[CString]| -> Vec<*const libc::c_char> { of.iter().map(|s| s.as_ptr()).chain([ptr::null()]).collect() };
    let (argv, env) = (list(argv), list(env));
    let null = rustix::fs::open("/dev/null", rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC, 0.into())?;
    // Numbers above all targets, so that no dup2 below overwrites a source that is still needed.
    let high = |fd: BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(fd, 100);
    let (program, null, stderr) = (high(program)?, high(null.as_fd())?, high(stderr)?);
    let held: Vec<OwnedFd> = fds.iter().map(|fd| high(*fd)).collect::<Result<_, _>>()?;
    let sources: Vec<RawFd> = held.iter().map(AsRawFd::as_raw_fd).collect();
    // SAFETY: fork in a process that may have threads: the child only makes system calls on memory prepared above
    // (no allocation, no lock) until execveat or _exit.
    unsafe {
        let pid = check(libc::fork())?;
        if pid == 0 {
            libc::setsid();
            let second = libc::fork();
            if second != 0 {
                libc::_exit(if second < 0 { 1 } else { 0 });
            }
            libc::dup2(null.as_raw_fd(), 0);
            libc::dup2(null.as_raw_fd(), 1);
            libc::dup2(stderr.as_raw_fd(), 2);
            for (i, fd) in sources.iter().enumerate() {
                libc::dup2(*fd, 3 + i as RawFd);
            }
            for signal in 1..=64 {
                libc::signal(signal, libc::SIG_DFL);
            }
            let mut set: libc::sigset_t = mem::zeroed();
            libc::sigemptyset(&mut set);
            libc::sigprocmask(libc::SIG_SETMASK, &set, ptr::null_mut());
            libc::chdir(c"/".as_ptr());
            libc::umask(0o077);
            // Everything else the parent had open has CLOEXEC or is closed here.
            libc::syscall(libc::SYS_close_range, 3 + sources.len() as u32, u32::MAX, 4 /* CLOSE_RANGE_CLOEXEC */);
            libc::syscall(
                libc::SYS_execveat,
                program.as_raw_fd(),
                c"".as_ptr(),
                argv.as_ptr(),
                env.as_ptr(),
                libc::AT_EMPTY_PATH,
            );
            libc::_exit(127);
        }
        let status = wait(pid)?;
        match decode_status(status) {
            Ok(0) => Ok(()),
            _ => Err(io::Error::other("the child could not fork")),
        }
    }
}

/// Starts this very program once more as a child, with `name` as its only argument, `fds` at 3, 4, … and no other descriptor but
/// the standard streams, and an empty environment. The caller has one thread.
pub fn spawn_self(name: &str, fds: &[BorrowedFd<'_>]) -> io::Result<i32> {
    let program = rustix::fs::open("/proc/self/exe", rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC, 0.into())?;
    let name = CString::new(name)?;
    // Numbers above all targets, so that no dup2 below overwrites a source that is still needed.
    let held: Vec<OwnedFd> = fds.iter().map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, 100)).collect::<Result<_, _>>()?;
    match fork(0, None)? {
        Fork::Parent(pid) => Ok(pid),
        // SAFETY: the pointers are to strings that live and to lists that end in null; what is open but not named has
        // CLOEXEC from here on.
        Fork::Child => unsafe {
            for (i, fd) in held.iter().enumerate() {
                libc::dup2(fd.as_raw_fd(), 3 + i as RawFd);
            }
            libc::syscall(libc::SYS_close_range, 3 + held.len() as u32, u32::MAX, 4 /* CLOSE_RANGE_CLOEXEC */);
            let argv = [name.as_ptr(), ptr::null()];
            let env: [*const libc::c_char; 1] = [ptr::null()];
            libc::syscall(
                libc::SYS_execveat,
                program.as_raw_fd(),
                c"".as_ptr(),
                argv.as_ptr(),
                env.as_ptr(),
                libc::AT_EMPTY_PATH,
            );
            libc::_exit(127)
        },
    }
}

/// A sealed, executable copy of this very program in memory: what runs from it can be changed by nobody, root included
/// (memfd_create(2); the escape by overwriting the runtime's own binary is CVE-2019-5736).
pub fn sealed_self() -> io::Result<OwnedFd> {
    use rustix::fs::{MemfdFlags, SealFlags};
    let mut from = std::fs::File::open("/proc/self/exe")?;
    let fd = rustix::fs::memfd_create("csb", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut to = std::fs::File::from(fd);
    io::copy(&mut from, &mut to)?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&to, seals)?;
    Ok(to.into())
}

/// Processes and threads that all sandboxes of this host may have together: what the kernel has ids and room for
/// (`kernel.pid_max`, `kernel.threads-max`), less a sixteenth for the host. None where it does not say.
pub fn pids_for_sandboxes() -> Option<u32> {
    let read =
        |name: &str| std::fs::read_to_string(format!("/proc/sys/kernel/{name}")).ok()?.trim().parse::<u32>().ok();
    let most = read("pid_max")?.min(read("threads-max")?);
    Some(most - most / 16)
}
