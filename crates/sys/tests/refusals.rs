//! The sandbox's filter, really installed in a child that is otherwise root: what the kernel then answers.
#![expect(unsafe_code, reason = "raw system calls are what is tried")]

use csb_sys::seccomp::{ALLOWED, Filter, REFUSED};
use libc::*;

/// What the child saw: 0, or the errno of each call.
fn tried(calls: &[(c_long, [u64; 6])]) -> Vec<i32> {
    let filter = Filter::sandbox();
    let (mut ends, mut answers) = ([0; 2], vec![-1i32; calls.len()]);
    // SAFETY: the child makes system calls only, on memory made before the fork, and ends with _exit.
    unsafe {
        assert_eq!(pipe(ends.as_mut_ptr()), 0);
        let pid = fork();
        if pid == 0 {
            if prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || filter.install().is_err() {
                _exit(1);
            }
            for (answer, (number, a)) in answers.iter_mut().zip(calls) {
                *answer =
                    if syscall(*number, a[0], a[1], a[2], a[3], a[4], a[5]) == -1 { *__errno_location() } else { 0 };
            }
            write(ends[1], answers.as_ptr().cast(), answers.len() * 4);
            _exit(0);
        }
        close(ends[1]);
        let mut status = 0;
        assert_eq!(waitpid(pid, &raw mut status, 0), pid);
        assert_eq!(status, 0, "the child did not come to its end");
        assert_eq!(read(ends[0], answers.as_mut_ptr().cast(), answers.len() * 4), answers.len() as isize * 4);
        close(ends[0]);
    }
    answers
}

/// Each call with its first arguments and the errno expected.
fn check(calls: &[(&str, c_long, &[u64], i32)]) {
    let full: Vec<(c_long, [u64; 6])> = calls
        .iter()
        .map(|(_, number, given, _)| {
            let mut arguments = [0; 6];
            arguments[..given.len()].copy_from_slice(given);
            (*number, arguments)
        })
        .collect();
    for ((what, .., expected), got) in calls.iter().zip(tried(&full)) {
        let name = |errno| std::io::Error::from_raw_os_error(errno);
        assert_eq!(got, *expected, "{what}: got {}, expected {}", name(got), name(*expected));
    }
}

const HIGH: u64 = 1 << 32;

#[test]
fn sockets_of_few_families_and_protocols_can_be_made() {
    let (unix, inet, inet6, netlink) = (AF_UNIX as u64, AF_INET as u64, AF_INET6 as u64, AF_NETLINK as u64);
    let (stream, datagram, raw) = (SOCK_STREAM as u64, SOCK_DGRAM as u64, SOCK_RAW as u64);
    let flags = (SOCK_CLOEXEC | SOCK_NONBLOCK) as u64;
    check(&[
        ("unix", SYS_socket, &[unix, stream | flags, 0], 0),
        ("unix, rubbish above", SYS_socket, &[HIGH | unix, HIGH | stream, 0], 0),
        ("tcp", SYS_socket, &[inet, stream | flags, 6], 0),
        ("udp over ipv6", SYS_socket, &[inet6, datagram, 0], 0),
        ("routes", SYS_socket, &[netlink, raw, 0], 0),
        ("audit", SYS_socket, &[netlink, raw, NETLINK_AUDIT as u64], EPROTONOSUPPORT),
        ("netfilter", SYS_socket, &[netlink, datagram, NETLINK_NETFILTER as u64], EPROTONOSUPPORT),
        (
            "netfilter, rubbish above",
            SYS_socket,
            &[netlink, datagram, HIGH | NETLINK_NETFILTER as u64],
            EPROTONOSUPPORT,
        ),
        ("raw", SYS_socket, &[inet, raw | flags, 1], EPERM),
        ("raw over ipv6", SYS_socket, &[inet6, raw, 58], EPERM),
        ("ping", SYS_socket, &[inet, datagram, 1], EPROTONOSUPPORT),
        ("mptcp", SYS_socket, &[inet, stream, 262], EPROTONOSUPPORT),
        ("sctp", SYS_socket, &[inet, stream, 132], EPROTONOSUPPORT),
        ("udp-lite", SYS_socket, &[inet6, datagram, 136], EPROTONOSUPPORT),
        ("crypto", SYS_socket, &[AF_ALG as u64, SOCK_SEQPACKET as u64, 0], EAFNOSUPPORT),
        ("crypto, rubbish above", SYS_socket, &[HIGH | AF_ALG as u64, SOCK_SEQPACKET as u64, 0], EAFNOSUPPORT),
        ("host of a guest", SYS_socket, &[AF_VSOCK as u64, stream, 0], EAFNOSUPPORT),
        ("packets", SYS_socket, &[AF_PACKET as u64, raw, 0x300], EAFNOSUPPORT),
        ("bluetooth", SYS_socket, &[AF_BLUETOOTH as u64, raw, 0], EAFNOSUPPORT),
        ("a family of tomorrow", SYS_socket, &[200, stream, 0], EAFNOSUPPORT),
        ("pair by tipc", SYS_socketpair, &[AF_TIPC as u64, stream, 0], EAFNOSUPPORT),
        // Allowed by the filter; the null pointer is the kernel's own concern.
        ("pair", SYS_socketpair, &[unix, stream, 0], EFAULT),
        ("kernel tls", SYS_setsockopt, &[0, IPPROTO_TCP as u64, TCP_ULP as u64], ENOPROTOOPT),
        ("kernel tls, rubbish above", SYS_setsockopt, &[0, HIGH | 6, HIGH | TCP_ULP as u64], ENOPROTOOPT),
        ("another option of tcp", SYS_setsockopt, &[u64::MAX, 6, TCP_NODELAY as u64], EBADF),
    ]);
}

#[test]
fn no_namespace_can_be_made_or_entered() {
    let mut calls: Vec<(&str, c_long, &[u64], i32)> = vec![
        ("un-sharing nothing", SYS_unshare, &[0], 0),
        ("own descriptor table", SYS_unshare, &[CLONE_FILES as u64], 0),
        ("time namespace", SYS_unshare, &[0x80], EPERM),
        ("namespace beside own table", SYS_unshare, &[(CLONE_FILES | CLONE_NEWNS) as u64], EPERM),
        ("rubbish above", SYS_unshare, &[HIGH], EPERM),
        ("entering one", SYS_setns, &[0, 0], EPERM),
        ("clone3", SYS_clone3, &[0, 88], ENOSYS),
        ("chroot", SYS_chroot, &[0], EPERM),
    ];
    let flags = [CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET];
    let arguments: Vec<[u64; 2]> = flags.map(|flag| [flag as u64, HIGH | flag as u64 | SIGCHLD as u64]).to_vec();
    for pair in &arguments {
        calls.push(("unshare", SYS_unshare, &pair[..1], EPERM));
        calls.push(("clone", SYS_clone, &pair[..1], EPERM));
        calls.push(("clone with rubbish above", SYS_clone, &pair[1..], EPERM));
    }
    check(&calls);
}

#[test]
fn nothing_is_typed_into_a_terminal() {
    check(&[
        ("TIOCSTI", SYS_ioctl, &[0, TIOCSTI], EPERM),
        // The kernel looks at 32 bits of the order; a filter that looks at 64 lets this one through.
        ("TIOCSTI, rubbish above", SYS_ioctl, &[0, HIGH | TIOCSTI], EPERM),
        ("TIOCSTI, all above", SYS_ioctl, &[0, 0xffff_ffff_0000_0000 | TIOCSTI], EPERM),
        ("TIOCLINUX", SYS_ioctl, &[0, TIOCLINUX], EPERM),
        ("TIOCSETD", SYS_ioctl, &[0, HIGH | TIOCSETD], EPERM),
        ("TIOCCONS", SYS_ioctl, &[0, TIOCCONS], EPERM),
        ("another order", SYS_ioctl, &[u64::MAX, TIOCGWINSZ], EBADF),
    ]);
}

#[test]
fn arguments_decide_about_the_rest() {
    let path = c"/tmp/csb-refusals-fifo".as_ptr() as u64;
    check(&[
        ("character device", SYS_mknodat, &[AT_FDCWD as u64, path, u64::from(S_IFCHR | 0o600), 0x103], EPERM),
        ("block device", SYS_mknodat, &[AT_FDCWD as u64, path, HIGH | u64::from(S_IFBLK), 0x800], EPERM),
        ("fifo", SYS_mknodat, &[AT_FDCWD as u64, path, u64::from(S_IFIFO | 0o600)], 0),
        ("its removal", SYS_unlinkat, &[AT_FDCWD as u64, path, 0], 0),
        ("asking for the personality", SYS_personality, &[0xffff_ffff], 0),
        ("no address randomisation", SYS_personality, &[0x0004_0000], 0),
        ("memory at address 0", SYS_personality, &[0x0010_0000], EPERM),
        ("all memory executable", SYS_personality, &[HIGH | 0x0040_0000], EPERM),
        ("a name", SYS_prctl, &[PR_SET_NAME as u64, c"name".as_ptr() as u64], 0),
        ("merging pages with others", SYS_prctl, &[67, 1], EINVAL),
        ("moving the heap", SYS_prctl, &[PR_SET_MM as u64, 1], EINVAL),
        ("sharing a core's cookie", SYS_prctl, &[PR_SCHED_CORE as u64, 1], EINVAL),
        ("batch scheduling", SYS_sched_setscheduler, &[0, SCHED_BATCH as u64, [0u64; 1].as_ptr() as u64], 0),
        ("real-time scheduling", SYS_sched_setscheduler, &[0, SCHED_FIFO as u64, [1u64; 1].as_ptr() as u64], EPERM),
        ("pages", SYS_mmap, &[0, 4096, 3, 0x22, u64::MAX, 0], 0),
        ("huge pages", SYS_mmap, &[0, 4096, 3, 0x22 | MAP_HUGETLB as u64, u64::MAX, 0], ENOMEM),
        ("huge pages in a file", SYS_memfd_create, &[c"m".as_ptr() as u64, 4], EINVAL),
        ("a file in memory", SYS_memfd_create, &[c"m".as_ptr() as u64, 1], 0),
        ("syncing the host", SYS_sync, &[], 0),
        ("a call of tomorrow", 700, &[], ENOSYS),
    ]);
}

#[test]
#[cfg(target_arch = "x86_64")]
fn x32_calls_do_not_exist() {
    check(&[("getpid", 0x4000_0000 | SYS_getpid, &[], ENOSYS), ("ptrace", 0x4000_0000 | 521, &[], ENOSYS)]);
}

#[test]
#[cfg(target_arch = "x86_64")]
fn a_32_bit_call_kills_the_program() {
    let filter = Filter::sandbox();
    // SAFETY: as in `tried`; `int 0x80` with 20 is the 32-bit getpid(), which changes nothing.
    unsafe {
        let pid = fork();
        if pid == 0 {
            if prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || filter.install().is_err() {
                _exit(1);
            }
            std::arch::asm!("int 0x80", inout("eax") 20 => _);
            _exit(0);
        }
        let mut status = 0;
        assert_eq!(waitpid(pid, &raw mut status, 0), pid);
        assert!(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS, "{status:#x}");
    }
}

#[test]
fn every_refused_call_is_refused() {
    let calls: Vec<(&str, c_long, &[u64], i32)> =
        REFUSED.iter().flat_map(|group| group.calls).map(|(name, number)| (*name, *number, &[][..], EPERM)).collect();
    assert!(calls.len() > 60);
    check(&calls);
}

#[test]
fn every_allowed_call_reaches_the_kernel() {
    // With arguments that no call accepts: whatever the kernel says, it is not the filter's answer. Left out are calls
    // that would end or stop the child, or mean something with such arguments.
    const LEFT_OUT: &[c_long] = &[
        SYS_exit,
        SYS_exit_group,
        SYS_rt_sigreturn,
        SYS_rt_sigsuspend,
        SYS_rt_sigprocmask,
        SYS_kill,
        SYS_tgkill,
        SYS_tkill,
        SYS_wait4,
        SYS_waitid,
        SYS_ppoll,
        SYS_pselect6,
        SYS_brk,
        SYS_munmap,
        SYS_setsid,
        SYS_close_range,
        SYS_seccomp,
        SYS_munlockall,
        SYS_mlockall,
        SYS_umask,
        SYS_close,
        SYS_restart_syscall,
        SYS_setpriority,
        SYS_setpgid,
    ];
    let calls: Vec<(&str, c_long, [u64; 6])> = ALLOWED
        .iter()
        .flat_map(|group| group.calls)
        .filter(|(_, number)| !LEFT_OUT.contains(number))
        .map(|(name, number)| (*name, *number, [u64::MAX; 6]))
        .collect();
    let answers = tried(&calls.iter().map(|(_, number, arguments)| (*number, *arguments)).collect::<Vec<_>>());
    for ((name, ..), errno) in calls.iter().zip(answers) {
        // EPERM would be the refusals' answer; none of these gives it to root for rubbish.
        assert_ne!(errno, EPERM, "{name}");
    }
}
