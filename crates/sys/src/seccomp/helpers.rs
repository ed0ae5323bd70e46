//! Owns the policies of our own processes beside a sandbox's init: what carries its streams, and what counts what it uses. They
//! read bytes of servers and files of the kernel, stand where tenants are, and hold what no tenant may: so they are left with the
//! few calls that they make. What is missing here is an error in them, and no way out.
//! Knows nothing of how a policy becomes a program.

use super::policy::{Is, Policy, Rule, Verdict};
use libc::c_long;

const EPERM: Verdict = Verdict::Errno(libc::EPERM as u16);

/// Memory, time, locks, randomness and the end: what any program of ours does. Nothing here opens, makes or finds anything.
const EVERY: &[c_long] = &[
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_futex,
    libc::SYS_getrandom,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_restart_syscall,
    libc::SYS_sched_yield,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Waiting, pipes and connections that are there.
const STREAMS: &[c_long] =
    &[libc::SYS_ppoll, libc::SYS_pipe2, libc::SYS_accept4, libc::SYS_recvmsg, libc::SYS_sendmsg, libc::SYS_shutdown];

/// Looking at files: counters of control groups, sizes of file systems.
const LOOKING: &[c_long] = &[
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_lseek,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
];

fn base() -> Policy {
    let mut policy = Policy::new(EPERM, Verdict::KillProcess);
    allow(&mut policy, EVERY);
    // No page of a program is written, and none that was becomes one.
    let no_code = || Rule::otherwise(EPERM).when(Verdict::Allow, &[(2, not_set(libc::PROT_EXEC))]);
    policy.rule(libc::SYS_mmap, no_code());
    policy.rule(libc::SYS_mprotect, no_code());
    policy
}

fn not_set(bit: i32) -> Is {
    Is::Masked64 { mask: bit as u64, value: 0 }
}

fn allow(policy: &mut Policy, calls: &[c_long]) {
    calls.iter().for_each(|number| policy.rule(*number, Rule::always(Verdict::Allow)));
}

/// Of the process that hands bytes on between two streams that are open.
pub fn bridge_policy() -> Policy {
    let mut policy = base();
    allow(&mut policy, &[libc::SYS_shutdown]);
    policy
}

/// Of the process that speaks for servers with an init: descriptors of its own making, sent along.
pub fn relay_policy() -> Policy {
    let mut policy = base();
    allow(&mut policy, STREAMS);
    #[cfg(target_arch = "x86_64")]
    allow(&mut policy, &[libc::SYS_poll]);
    const UNIX: (u8, Is) = (0, Is::Eq32(libc::AF_UNIX as u32));
    policy.rule(libc::SYS_socketpair, Rule::otherwise(EPERM).when(Verdict::Allow, &[UNIX]));
    // To whom a stream is connected, and nobody else.
    policy.rule(libc::SYS_sendto, Rule::otherwise(EPERM).when(Verdict::Allow, &[(4, Is::Eq64(0))]));
    // Not: owners and signals of descriptors.
    const COPIES: &[u32] = &[
        libc::F_DUPFD_CLOEXEC as u32,
        libc::F_GETFD as u32,
        libc::F_SETFD as u32,
        libc::F_GETFL as u32,
        libc::F_SETFL as u32,
    ];
    policy.rule(libc::SYS_fcntl, Rule::otherwise(EPERM).when(Verdict::Allow, &[(1, Is::In32(COPIES))]));
    // What waits in a stream, whether a call waits for it, and a terminal's size. Nothing is typed into a terminal.
    const STREAMS_STATE: &[u32] =
        &[libc::FIONBIO as u32, libc::FIONREAD as u32, libc::TIOCOUTQ as u32, libc::TIOCSWINSZ as u32];
    policy.rule(libc::SYS_ioctl, Rule::otherwise(EPERM).when(Verdict::Allow, &[(1, Is::In32(STREAMS_STATE))]));
    // A frame too large for a message travels in memory of its own (`packet.rs`), read from its beginning.
    const OVERFLOW: (u8, Is) = (1, Is::Eq32(libc::MFD_CLOEXEC));
    policy.rule(libc::SYS_memfd_create, Rule::otherwise(EPERM).when(Verdict::Allow, &[OVERFLOW]));
    const REWIND: [(u8, Is); 2] = [(1, Is::Eq64(0)), (2, Is::Eq32(libc::SEEK_SET as u32))];
    policy.rule(libc::SYS_lseek, Rule::otherwise(EPERM).when(Verdict::Allow, &REWIND));
    policy
}

/// Of the process that reads what a container uses.
pub fn counters_policy() -> Policy {
    let mut policy = base();
    allow(&mut policy, LOOKING);
    const WRITES: u64 = (libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC | libc::O_TMPFILE & !libc::O_DIRECTORY) as u64;
    let reads = (2, Is::Masked64 { mask: WRITES, value: libc::O_RDONLY as u64 });
    policy.rule(libc::SYS_openat, Rule::otherwise(EPERM).when(Verdict::Allow, &[reads]));
    policy
}
