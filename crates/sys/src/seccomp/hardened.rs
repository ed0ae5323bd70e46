//! Owns the policy of hardened sandboxes: the one of `sandbox.rs` without what ordinary programs can do without.
//! Knows nothing of how it becomes a program.
//!
//! What goes is what exploits of recent years were made of, whatever hole they used: ways to hold references to pages of the
//! page cache, objects of a size of one's choice in the kernel's heap, locks and timers with intricate life times, protocols
//! and controls that nobody here needs. C libraries, Python, Node, Go, git, compilers and SQLite go on without, as each refusal is
//! worded as a kernel or file system words it that lacks the thing: [`NARROWED`] says how.

use super::policy::{Is, Policy, Rule, Verdict};
use super::table::{Group, NARROWED, NARROWED_OLDER};

const EPERM: Verdict = Verdict::Errno(libc::EPERM as u16);
const EINVAL: Verdict = Verdict::Errno(libc::EINVAL as u16);
const ENOSYS: Verdict = Verdict::Errno(libc::ENOSYS as u16);
const ENOTTY: Verdict = Verdict::Errno(libc::ENOTTY as u16);
const EOPNOTSUPP: Verdict = Verdict::Errno(libc::EOPNOTSUPP as u16);
const ENOPROTOOPT: Verdict = Verdict::Errno(libc::ENOPROTOOPT as u16);

/// The policy of hardened sandboxes.
pub fn policy() -> Policy {
    let mut policy = super::sandbox::policy();
    for (errno, groups) in NARROWED.iter().chain(NARROWED_OLDER) {
        for (_, number) in groups.iter().flat_map(|group: &Group| group.calls) {
            policy.rule(*number, Rule::always(Verdict::Errno(*errno as u16)));
        }
    }
    waiting(&mut policy);
    memory(&mut policy);
    descriptors(&mut policy);
    sockets(&mut policy);
    processes(&mut policy);
    policy
}

fn waiting(policy: &mut Policy) {
    // Locks that lend their holder a priority (FUTEX_LOCK_PI and its kin): CVE-2014-3153, CVE-2021-3347. A C library asks first,
    // and answers ENOTSUP to whoever wants such a mutex. Private to the process or not, and with which clock, is all the same.
    const SHARED: u32 = !(libc::FUTEX_PRIVATE_FLAG | libc::FUTEX_CLOCK_REALTIME) as u32;
    const OPERATIONS: &[u32] = &[
        libc::FUTEX_WAIT as u32,
        libc::FUTEX_WAKE as u32,
        libc::FUTEX_REQUEUE as u32,
        libc::FUTEX_CMP_REQUEUE as u32,
        libc::FUTEX_WAKE_OP as u32,
        libc::FUTEX_WAIT_BITSET as u32,
        libc::FUTEX_WAKE_BITSET as u32,
    ];
    policy.rule(
        libc::SYS_futex,
        Rule::otherwise(ENOSYS).when(Verdict::Allow, &[(1, Is::MaskedIn32 { mask: SHARED, values: OPERATIONS })]),
    );
    // Timers of CPU time: CVE-2022-2585, CVE-2025-38352. Clocks that go by themselves are left: REALTIME, MONOTONIC, BOOTTIME, TAI.
    const CLOCKS: &[u32] = &[0, 1, 7, 11];
    policy.rule(libc::SYS_clock_nanosleep, Rule::otherwise(EOPNOTSUPP).when(Verdict::Allow, &[(0, Is::In32(CLOCKS))]));
    policy.rule(
        libc::SYS_setitimer,
        Rule::otherwise(EINVAL).when(Verdict::Allow, &[(0, Is::Eq32(libc::ITIMER_REAL as u32))]),
    );
}

fn memory(policy: &mut Policy) {
    // Mappings that grow by themselves: CVE-2023-3269. Stacks of threads are mapped whole, the main one is the kernel's.
    const BAD: [(u32, u16); 2] =
        [(libc::MAP_HUGETLB as u32, libc::ENOMEM as u16), (libc::MAP_GROWSDOWN as u32, libc::EINVAL as u16)];
    let map = BAD.into_iter().fold(Rule::otherwise(Verdict::Allow), |rule, (flag, errno)| {
        rule.when(Verdict::Errno(errno), &[(3, Is::Masked32 { mask: flag, value: flag })])
    });
    policy.rule(libc::SYS_mmap, map);
    // What allocators give; not what moves pages about or asks where they are (MADV_PAGEOUT, COLD, COLLAPSE, POPULATE_*): helpers of
    // races like CVE-2016-5195. Older kernels lack those, so their users are ready for EINVAL.
    const ADVICE: &[u32] = &[0, 1, 2, 3, 4, 8, 9, 10, 11, 14, 15, 16, 17, 18, 19];
    policy.rule(libc::SYS_madvise, Rule::otherwise(EINVAL).when(Verdict::Allow, &[(2, Is::In32(ADVICE))]));
}

fn descriptors(policy: &mut Policy) {
    // Not: leases, directory notification, signal-driven input and output, and the size of pipes, whose rings of buffers fill a
    // gap of any size in the kernel's heap (CVE-2021-22555 and most of its kind).
    const COMMANDS: &[u32] = &[
        libc::F_DUPFD as u32,
        libc::F_GETFD as u32,
        libc::F_SETFD as u32,
        libc::F_GETFL as u32,
        libc::F_SETFL as u32,
        libc::F_GETLK as u32,
        libc::F_SETLK as u32,
        libc::F_SETLKW as u32,
        libc::F_OFD_GETLK as u32,
        libc::F_OFD_SETLK as u32,
        libc::F_OFD_SETLKW as u32,
        libc::F_DUPFD_CLOEXEC as u32,
        libc::F_GETPIPE_SZ as u32,
        libc::F_ADD_SEALS as u32,
        libc::F_GET_SEALS as u32,
        1027, // F_DUPFD_QUERY
        1028, // F_CREATED_QUERY
    ];
    const ASYNC: u32 = libc::O_ASYNC as u32;
    policy.rule(
        libc::SYS_fcntl,
        Rule::otherwise(EINVAL)
            .when(EINVAL, &[(1, Is::Eq32(libc::F_SETFL as u32)), (2, Is::Masked32 { mask: ASYNC, value: ASYNC })])
            .when(Verdict::Allow, &[(1, Is::In32(COMMANDS))]),
    );
    let mut ioctl = policy.rules[&(libc::SYS_ioctl as u32)].clone();
    ioctl.otherwise = ENOTTY;
    policy.rule(libc::SYS_ioctl, ioctl.when(Verdict::Allow, &[(1, Is::In32(IOCTLS))]));
}

/// Requests to devices and file systems. A device says ENOTTY to what it does not know.
const IOCTLS: &[u32] = &[
    0x5401,      // TCGETS
    0x5402,      // TCSETS
    0x5403,      // TCSETSW
    0x5404,      // TCSETSF
    0x5409,      // TCSBRK
    0x540a,      // TCXONC
    0x540b,      // TCFLSH
    0x540c,      // TIOCEXCL
    0x540d,      // TIOCNXCL
    0x540e,      // TIOCSCTTY
    0x540f,      // TIOCGPGRP
    0x5410,      // TIOCSPGRP
    0x5411,      // TIOCOUTQ
    0x5413,      // TIOCGWINSZ
    0x5414,      // TIOCSWINSZ
    0x541b,      // FIONREAD
    0x5420,      // TIOCPKT
    0x5421,      // FIONBIO
    0x5422,      // TIOCNOTTY
    0x5425,      // TCSBRKP
    0x5429,      // TIOCGSID
    0x802c_542a, // TCGETS2
    0x402c_542b, // TCSETS2
    0x402c_542c, // TCSETSW2
    0x402c_542d, // TCSETSF2
    0x8004_5430, // TIOCGPTN
    0x4004_5431, // TIOCSPTLCK
    0x8004_5438, // TIOCGPKT
    0x8004_5439, // TIOCGPTLCK
    0x5441,      // TIOCGPTPEER
    0x5450,      // FIONCLEX
    0x5451,      // FIOCLEX
    0x5460,      // FIOQSIZE
    0x4004_9409, // FICLONE: cp asks for it first
    0x8008_6601, // FS_IOC_GETFLAGS: so do mv, tar and installers
    0x8910,      // SIOCGIFNAME: names and addresses of interfaces, of which there is one
    0x8912,      // SIOCGIFCONF
    0x8913,      // SIOCGIFFLAGS
    0x8915,      // SIOCGIFADDR
    0x8919,      // SIOCGIFBRDADDR
    0x891b,      // SIOCGIFNETMASK
    0x8921,      // SIOCGIFMTU
    0x8927,      // SIOCGIFHWADDR
    0x8933,      // SIOCGIFINDEX
];

fn sockets(policy: &mut Policy) {
    // Out of the sandbox's own network there is nothing that route netlink could tell of. Resolvers take this for "no such
    // interfaces"; getifaddrs() fails.
    let mut socket = policy.rules[&(libc::SYS_socket as u32)].clone();
    let netlink = (0, Is::Eq32(libc::AF_NETLINK as u32));
    socket.clauses.retain(|clause| !clause.tests.iter().any(|test| (test.argument, test.is) == netlink));
    policy.rule(libc::SYS_socket, socket);
    // One byte out of turn (CVE-2025-38236), pages sent without a copy, data before the connection. EOPNOTSUPP is what a kernel says
    // that was built without.
    const FLAGS: [u32; 3] = [libc::MSG_OOB as u32, libc::MSG_ZEROCOPY as u32, libc::MSG_FASTOPEN as u32];
    let calls = [
        (libc::SYS_sendto, 3),
        (libc::SYS_sendmsg, 2),
        (libc::SYS_sendmmsg, 3),
        (libc::SYS_recvfrom, 3),
        (libc::SYS_recvmsg, 2),
        (libc::SYS_recvmmsg, 3),
    ];
    for (number, argument) in calls {
        let rule = FLAGS.into_iter().fold(Rule::otherwise(Verdict::Allow), |rule, flag| {
            rule.when(EOPNOTSUPP, &[(argument, Is::Masked32 { mask: flag, value: flag })])
        });
        policy.rule(number, rule);
    }
    // Options by name: each family's own list has been a way in (CVE-2016-4997, CVE-2017-8890, CVE-2021-22555), and among those of
    // all sockets are programs for packets (SO_ATTACH_FILTER) that the kernel compiles.
    let option = |level: i32, names: &'static [u32]| [(1, Is::Eq32(level as u32)), (2, Is::In32(names))];
    policy.rule(
        libc::SYS_setsockopt,
        Rule::otherwise(ENOPROTOOPT)
            .when(Verdict::Allow, &option(libc::SOL_SOCKET, SOCKET_OPTIONS))
            .when(Verdict::Allow, &option(libc::IPPROTO_TCP, TCP_OPTIONS))
            .when(Verdict::Allow, &option(libc::IPPROTO_IP, IP_OPTIONS))
            .when(Verdict::Allow, &option(libc::IPPROTO_IPV6, IPV6_OPTIONS)),
    );
}

const SOCKET_OPTIONS: &[u32] = &[
    2,  // SO_REUSEADDR
    6,  // SO_BROADCAST
    7,  // SO_SNDBUF
    8,  // SO_RCVBUF
    9,  // SO_KEEPALIVE
    10, // SO_OOBINLINE
    13, // SO_LINGER
    15, // SO_REUSEPORT
    16, // SO_PASSCRED
    18, // SO_RCVLOWAT
    20, // SO_RCVTIMEO
    21, // SO_SNDTIMEO
    66, // SO_RCVTIMEO with 64 bits
    67, // SO_SNDTIMEO with 64 bits
];
const TCP_OPTIONS: &[u32] = &[
    1,  // TCP_NODELAY
    2,  // TCP_MAXSEG
    3,  // TCP_CORK
    4,  // TCP_KEEPIDLE
    5,  // TCP_KEEPINTVL
    6,  // TCP_KEEPCNT
    7,  // TCP_SYNCNT
    8,  // TCP_LINGER2
    9,  // TCP_DEFER_ACCEPT
    10, // TCP_WINDOW_CLAMP
    12, // TCP_QUICKACK
    18, // TCP_USER_TIMEOUT
    25, // TCP_NOTSENT_LOWAT
];
const IP_OPTIONS: &[u32] = &[
    1,  // IP_TOS
    2,  // IP_TTL
    8,  // IP_PKTINFO
    10, // IP_MTU_DISCOVER
    11, // IP_RECVERR
    24, // IP_BIND_ADDRESS_NO_PORT
];
const IPV6_OPTIONS: &[u32] = &[
    16, // IPV6_UNICAST_HOPS
    23, // IPV6_MTU_DISCOVER
    25, // IPV6_RECVERR
    26, // IPV6_V6ONLY
    49, // IPV6_RECVPKTINFO
    67, // IPV6_TCLASS
];

fn processes(policy: &mut Policy) {
    // Ask for it, be plain Linux, switch own address randomisation off.
    const PERSONALITIES: &[u32] = &[0, 0xffff_ffff, 0x0004_0000];
    policy.rule(libc::SYS_personality, Rule::otherwise(EPERM).when(Verdict::Allow, &[(0, Is::In32(PERSONALITIES))]));
    // A program may still add filters of its own, but no supervisor: it could reach into no other process anyway.
    const LISTENER: u32 = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER as u32;
    policy.rule(
        libc::SYS_seccomp,
        Rule::otherwise(Verdict::Allow).when(EINVAL, &[(1, Is::Masked32 { mask: LISTENER, value: LISTENER })]),
    );
    let mut prctl = policy.rules[&(libc::SYS_prctl as u32)].clone();
    prctl.clauses.insert(
        0,
        super::policy::Clause {
            tests: vec![super::policy::Test { argument: 0, is: Is::In32(NO_PRCTL) }],
            verdict: EINVAL,
        },
    );
    policy.rule(libc::SYS_prctl, prctl);
    // Thread-local storage, asking what the CPU has, shadow stacks; not what makes the saved registers larger (AMX) or maps the
    // kernel's pages anew.
    #[cfg(target_arch = "x86_64")]
    policy.rule(libc::SYS_arch_prctl, Rule::otherwise(EINVAL).when(Verdict::Allow, &[(0, Is::In32(ARCH_PRCTL))]));
}

/// Of the options of prctl(2) that other sandboxes have.
const NO_PRCTL: &[u32] = &[
    13,          // PR_GET_TIMING
    26,          // PR_SET_TSC
    29,          // PR_SET_TIMERSLACK
    0x5961_6d61, // PR_SET_PTRACER
];

#[cfg(target_arch = "x86_64")]
const ARCH_PRCTL: &[u32] = &[
    0x1001, // ARCH_SET_GS
    0x1002, // ARCH_SET_FS
    0x1003, // ARCH_GET_FS
    0x1004, // ARCH_GET_GS
    0x1011, // ARCH_GET_CPUID
    0x1021, // ARCH_GET_XCOMP_SUPP
    0x1022, // ARCH_GET_XCOMP_PERM
    0x3001, // ARCH_CET_STATUS: C libraries ask before they know better
    0x5001, // ARCH_SHSTK_ENABLE
    0x5002, // ARCH_SHSTK_DISABLE
    0x5003, // ARCH_SHSTK_LOCK
    0x5005, // ARCH_SHSTK_STATUS
];
