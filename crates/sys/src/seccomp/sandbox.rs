//! Owns the policy that every sandbox runs under: the lists of `table.rs`, and what depends on arguments.
//! Knows nothing of how it becomes a program.
//!
//! Three answers:
//! - *allowed*: [`ALLOWED`], and the rules in [`policy`] that look at arguments;
//! - *refused*, `EPERM`: [`REFUSED`], calls that this policy knows and does not want. Programs take it for a missing
//!   privilege, which it is;
//! - *unknown*, `ENOSYS`: everything else, above all what is newer than this policy. A C library answers `ENOSYS`, and
//!   only that, by using the older call.
//!
//! The policy is the inner of several walls: user namespace, no capabilities and Landlock refuse most of what is refused
//! here. It is there for the day one of them has a hole, and to keep kernel code that nobody here needs out of reach.

use super::policy::{Is, Policy, Rule, Verdict};
use super::table::{ALLOWED, ALLOWED_OLDER, REFUSED, REFUSED_OLDER};

const EPERM: Verdict = Verdict::Errno(libc::EPERM as u16);
const EINVAL: Verdict = Verdict::Errno(libc::EINVAL as u16);

/// The sandbox policy.
pub fn policy() -> Policy {
    // 32-bit code (int 0x80) is killed rather than told ENOSYS: it would take other numbers for other calls, and nothing
    // installed here is 32-bit.
    let mut policy = Policy::new(Verdict::Errno(libc::ENOSYS as u16), Verdict::KillProcess);
    for (groups, verdict) in
        [(ALLOWED, Verdict::Allow), (ALLOWED_OLDER, Verdict::Allow), (REFUSED, EPERM), (REFUSED_OLDER, EPERM)]
    {
        for (_, number) in groups.iter().flat_map(|group| group.calls) {
            policy.rule(*number, Rule::always(verdict));
        }
    }
    processes(&mut policy);
    memory(&mut policy);
    sockets(&mut policy);
    files(&mut policy);
    core_dumps(&mut policy);
    policy
}

fn processes(policy: &mut Policy) {
    // Its flags are behind a pointer, where a filter cannot look. C libraries answer ENOSYS with clone().
    policy.rule(libc::SYS_clone3, Rule::always(Verdict::Errno(libc::ENOSYS as u16)));
    // The kernel drops the upper half of clone()'s flags, so 32 bits are all there are. CLONE_NEWTIME lies in the bits
    // of the exit signal and cannot be asked for here.
    const NEW_NAMESPACES: u32 = (libc::CLONE_NEWNS
        | libc::CLONE_NEWCGROUP
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUSER
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET) as u32;
    policy.rule(
        libc::SYS_clone,
        Rule::otherwise(EPERM).when(Verdict::Allow, &[(0, Is::Masked32 { mask: NEW_NAMESPACES, value: 0 })]),
    );
    // Some programs un-share their descriptor table or working directory between threads; nothing else may be.
    const OWN_TABLES: u64 = (libc::CLONE_FILES | libc::CLONE_FS | libc::CLONE_SYSVSEM) as u64;
    policy.rule(
        libc::SYS_unshare,
        Rule::otherwise(EPERM).when(Verdict::Allow, &[(0, Is::Masked64 { mask: !OWN_TABLES, value: 0 })]),
    );
    // Ask for it, be plain Linux, look like 2.6 or i686 in uname, switch own address randomisation off (Lisp and
    // sanitizers do). Others make address 0 mappable or all memory executable.
    const PERSONALITIES: &[u32] = &[0, 0xffff_ffff, 0x0008, 0x0002_0000, 0x0002_0008, 0x0004_0000];
    policy.rule(libc::SYS_personality, Rule::otherwise(EPERM).when(Verdict::Allow, &[(0, Is::In32(PERSONALITIES))]));
    // SCHED_OTHER, BATCH and IDLE, each with or without SCHED_RESET_ON_FORK. Real-time threads would starve the host
    // wherever an administrator has raised RLIMIT_RTPRIO.
    const SCHEDULERS: &[u32] = &[0, 3, 5, 0x4000_0000, 0x4000_0003, 0x4000_0005];
    policy
        .rule(libc::SYS_sched_setscheduler, Rule::otherwise(EPERM).when(Verdict::Allow, &[(1, Is::In32(SCHEDULERS))]));
    // EINVAL is what a kernel that lacks an option says, and programs are ready for it.
    policy.rule(libc::SYS_prctl, Rule::otherwise(EINVAL).when(Verdict::Allow, &[(0, Is::In32(PRCTL))]));
}

/// What a core dump may not be turned on again by: see `core_dumps`.
fn core_dumps(policy: &mut Policy) {
    // Core dumps that the host pipes to a program ignore every RLIMIT_CORE but 1, and that program runs as the host's root
    // on bytes of a tenant's making (CVE-2022-4415, CVE-2025-4598). The limit is 1 here and stays: setting it is answered
    // with success, as programs that turn dumps off have what they want.
    const CORE: u32 = libc::RLIMIT_CORE;
    policy.rule(
        libc::SYS_prlimit64,
        Rule::otherwise(Verdict::Allow)
            .when(Verdict::Allow, &[(1, Is::Eq32(CORE)), (2, Is::Eq64(0))])
            .when(Verdict::Errno(0), &[(1, Is::Eq32(CORE))]),
    );
    #[cfg(target_arch = "x86_64")]
    policy.rule(libc::SYS_setrlimit, Rule::otherwise(Verdict::Allow).when(Verdict::Errno(0), &[(0, Is::Eq32(CORE))]));
}

/// The policy for sandboxes that can write to the host's own directories, on top of the other: no file gets a set-user-id or
/// set-group-id bit. Nothing in a sandbox would heed them, but the host would, and there the file has the owner of the
/// directory it is in.
pub fn no_set_id_policy() -> Policy {
    const BITS: [u32; 2] = [libc::S_ISUID, libc::S_ISGID];
    const MAKES: [u32; 2] = [libc::O_CREAT as u32, 0o20_000_000 /* __O_TMPFILE */];
    let has = |argument: u8, bit: u32| (argument, Is::Masked32 { mask: bit, value: bit });
    let without = |mode: u8| {
        BITS.into_iter().fold(Rule::otherwise(Verdict::Allow), |rule, bit| rule.when(EPERM, &[has(mode, bit)]))
    };
    // Without one of `MAKES` the kernel looks at no mode, and the register holds anything.
    let opens = |flags: u8, mode: u8| {
        BITS.into_iter()
            .flat_map(|bit| MAKES.map(|make| (bit, make)))
            .fold(Rule::otherwise(Verdict::Allow), |rule, (bit, make)| {
                rule.when(EPERM, &[has(flags, make), has(mode, bit)])
            })
    };
    // The first filter has killed code of other architectures.
    let mut policy = Policy::new(Verdict::Allow, Verdict::KillProcess);
    policy.rule(libc::SYS_fchmod, without(1));
    policy.rule(libc::SYS_fchmodat, without(2));
    policy.rule(super::table::SYS_fchmodat2, without(2));
    policy.rule(libc::SYS_mknodat, without(2));
    policy.rule(libc::SYS_openat, opens(2, 3));
    // Its mode is behind a pointer; C libraries and languages fall back to openat.
    policy.rule(libc::SYS_openat2, Rule::always(Verdict::Errno(libc::ENOSYS as u16)));
    #[cfg(target_arch = "x86_64")]
    {
        policy.rule(libc::SYS_chmod, without(1));
        policy.rule(libc::SYS_mknod, without(1));
        policy.rule(libc::SYS_creat, without(1));
        policy.rule(libc::SYS_open, opens(1, 2));
    }
    policy
}

/// Options of prctl(2): all act on the caller alone. Not here, among others: `PR_SET_MM` (rewrites what /proc shows),
/// `PR_SET_SECUREBITS` (nothing left to gain or lose), `PR_SCHED_CORE` and `PR_SET_MEMORY_MERGE` (tell tenants about each
/// other's CPUs and pages), `PR_SET_SYSCALL_USER_DISPATCH`, `PR_MCE_KILL`, `PR_SET_IO_FLUSHER`.
const PRCTL: &[u32] = &[
    1,           // PR_SET_PDEATHSIG
    2,           // PR_GET_PDEATHSIG
    3,           // PR_GET_DUMPABLE
    4,           // PR_SET_DUMPABLE
    7,           // PR_GET_KEEPCAPS
    8,           // PR_SET_KEEPCAPS
    13,          // PR_GET_TIMING
    15,          // PR_SET_NAME
    16,          // PR_GET_NAME
    21,          // PR_GET_SECCOMP
    22,          // PR_SET_SECCOMP
    23,          // PR_CAPBSET_READ
    24,          // PR_CAPBSET_DROP
    25,          // PR_GET_TSC
    26,          // PR_SET_TSC
    27,          // PR_GET_SECUREBITS
    29,          // PR_SET_TIMERSLACK
    30,          // PR_GET_TIMERSLACK
    36,          // PR_SET_CHILD_SUBREAPER
    37,          // PR_GET_CHILD_SUBREAPER
    38,          // PR_SET_NO_NEW_PRIVS
    39,          // PR_GET_NO_NEW_PRIVS
    40,          // PR_GET_TID_ADDRESS
    41,          // PR_SET_THP_DISABLE
    42,          // PR_GET_THP_DISABLE
    47,          // PR_CAP_AMBIENT
    50,          // PR_SVE_SET_VL
    51,          // PR_SVE_GET_VL
    52,          // PR_GET_SPECULATION_CTRL
    53,          // PR_SET_SPECULATION_CTRL
    54,          // PR_PAC_RESET_KEYS
    55,          // PR_SET_TAGGED_ADDR_CTRL
    56,          // PR_GET_TAGGED_ADDR_CTRL
    65,          // PR_SET_MDWE
    66,          // PR_GET_MDWE
    0x4155_5856, // PR_GET_AUXV
    0x5356_4d41, // PR_SET_VMA: names for anonymous memory
    0x5961_6d61, // PR_SET_PTRACER: crash reporters call it; ptrace itself is refused
];

fn memory(policy: &mut Policy) {
    // Huge pages come from a pool reserved for the host's own programs and are not charged to the sandbox.
    const MAP_HUGETLB: u32 = libc::MAP_HUGETLB as u32;
    policy.rule(
        libc::SYS_mmap,
        Rule::otherwise(Verdict::Allow)
            .when(Verdict::Errno(libc::ENOMEM as u16), &[(3, Is::Masked32 { mask: MAP_HUGETLB, value: MAP_HUGETLB })]),
    );
    // Merged pages tell tenants about each other's memory by the time a write takes.
    const MERGEABLE: u32 = libc::MADV_MERGEABLE as u32;
    policy.rule(libc::SYS_madvise, Rule::otherwise(Verdict::Allow).when(EINVAL, &[(2, Is::Eq32(MERGEABLE))]));
    policy.rule(
        libc::SYS_memfd_create,
        Rule::otherwise(Verdict::Allow)
            .when(EINVAL, &[(1, Is::Masked32 { mask: libc::MFD_HUGETLB, value: libc::MFD_HUGETLB })]),
    );
    const SHM_HUGETLB: u32 = libc::SHM_HUGETLB as u32;
    policy.rule(
        libc::SYS_shmget,
        Rule::otherwise(Verdict::Allow).when(EPERM, &[(2, Is::Masked32 { mask: SHM_HUGETLB, value: SHM_HUGETLB })]),
    );
}

/// Families and protocols are listed, not excluded: new ones appear with most kernels, and each was a way in once
/// (AF_PACKET CVE-2020-14386, AF_VSOCK CVE-2021-26708, AF_ALG CVE-2026-31431, netlink's nf_tables many times).
fn sockets(policy: &mut Policy) {
    // The type shares its argument with SOCK_NONBLOCK and SOCK_CLOEXEC.
    const TYPE: u32 = 0xf;
    let of_type = |kind: i32| (1, Is::Masked32 { mask: TYPE, value: kind as u32 });
    let family = |family: i32| (0, Is::Eq32(family as u32));
    let internet = (0, Is::In32(&[libc::AF_INET as u32, libc::AF_INET6 as u32]));
    let no_protocol = Verdict::Errno(libc::EPROTONOSUPPORT as u16);
    let socket = Rule::otherwise(Verdict::Errno(libc::EAFNOSUPPORT as u16))
        .when(Verdict::Allow, &[family(libc::AF_UNIX)])
        .when(Verdict::Allow, &[internet, of_type(libc::SOCK_STREAM), (2, Is::In32(&[0, libc::IPPROTO_TCP as u32]))])
        .when(Verdict::Allow, &[internet, of_type(libc::SOCK_DGRAM), (2, Is::In32(&[0, libc::IPPROTO_UDP as u32]))])
        // What an ordinary user gets for a raw socket.
        .when(EPERM, &[internet, of_type(libc::SOCK_RAW)])
        // MPTCP, SCTP, DCCP, UDP-Lite, ping: Go and others probe for MPTCP and take this answer for "no".
        .when(no_protocol, &[internet])
        // getifaddrs() and resolvers ask for interfaces and routes; every other netlink protocol stays shut.
        .when(Verdict::Allow, &[family(libc::AF_NETLINK), (2, Is::Eq32(libc::NETLINK_ROUTE as u32))])
        .when(no_protocol, &[family(libc::AF_NETLINK)]);
    policy.rule(libc::SYS_socket, socket);
    // TIPC has socket pairs too (CVE-2021-43267).
    policy.rule(
        libc::SYS_socketpair,
        Rule::otherwise(Verdict::Errno(libc::EAFNOSUPPORT as u16)).when(Verdict::Allow, &[family(libc::AF_UNIX)]),
    );
    // Upper layer protocols turn a TCP socket into kernel TLS, SMC or ESP (CVE-2023-0461); OpenSSL goes on without.
    policy.rule(
        libc::SYS_setsockopt,
        Rule::otherwise(Verdict::Allow).when(
            Verdict::Errno(libc::ENOPROTOOPT as u16),
            &[(1, Is::Eq32(libc::IPPROTO_TCP as u32)), (2, Is::Eq32(libc::TCP_ULP as u32))],
        ),
    );
}

fn files(policy: &mut Policy) {
    // Regular files (also spelled 0), FIFOs and sockets. A device file would be useless without a right to open it; a
    // character device 0:0 is an overlay's whiteout, which only the overlay itself should write.
    const KINDS: &[u32] = &[0, libc::S_IFREG, libc::S_IFIFO, libc::S_IFSOCK];
    let node = |argument: u8| {
        let kind = (argument, Is::MaskedIn32 { mask: libc::S_IFMT, values: KINDS });
        Rule::otherwise(EPERM).when(Verdict::Allow, &[kind])
    };
    #[cfg(target_arch = "x86_64")]
    policy.rule(libc::SYS_mknod, node(1));
    policy.rule(libc::SYS_mknodat, node(2));
    // Typing into the terminal of whoever looks (CVE-2017-5226), the console's clipboard, line disciplines (CVE-2020-14416
    // and others), becoming the console. The kernel takes an unsigned int: 32 bits (CVE-2019-10063).
    const TERMINAL: &[u32] =
        &[libc::TIOCSTI as u32, libc::TIOCLINUX as u32, libc::TIOCSETD as u32, libc::TIOCCONS as u32];
    policy.rule(libc::SYS_ioctl, Rule::otherwise(Verdict::Allow).when(EPERM, &[(1, Is::In32(TERMINAL))]));
    // Host-wide: it would flush every file system for one tenant's loop. It returns nothing and promises nothing to wait
    // for, so it is answered with success and not made; fsync() and fdatasync() are.
    policy.rule(libc::SYS_sync, Rule::always(Verdict::Errno(0)));
}
