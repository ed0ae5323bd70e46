//! Owns the lists of system calls that every sandbox may make, and those it is known to be refused, with the reasons.
//! Knows nothing of arguments: calls that depend on them are in `sandbox.rs`.
#![expect(non_upper_case_globals, reason = "system calls are named as in <sys/syscall.h>")]

use libc::*;

// Numbers that the `libc` crate does not have. From 424 on they are the same on every architecture.
const SYS_cachestat: c_long = 451;
pub(super) const SYS_fchmodat2: c_long = 452;
const SYS_map_shadow_stack: c_long = 453;
const SYS_futex_wake: c_long = 454;
const SYS_futex_wait: c_long = 455;
const SYS_futex_requeue: c_long = 456;
const SYS_statmount: c_long = 457;
const SYS_listmount: c_long = 458;
const SYS_lsm_get_self_attr: c_long = 459;
const SYS_lsm_set_self_attr: c_long = 460;
const SYS_lsm_list_modules: c_long = 461;
const SYS_open_tree_attr: c_long = 467;
const SYS_listns: c_long = 470;
#[cfg(target_arch = "x86_64")]
const SYS_io_pgetevents: c_long = 333;
#[cfg(target_arch = "x86_64")]
const SYS_uretprobe: c_long = 335;
#[cfg(target_arch = "aarch64")]
const SYS_io_pgetevents: c_long = 292;
#[cfg(target_arch = "aarch64")]
const SYS_renameat: c_long = 38;
#[cfg(target_arch = "aarch64")]
const SYS_sync_file_range: c_long = 84;

/// System calls that share a reason.
pub struct Group {
    /// Why they are allowed, or refused.
    pub why: &'static str,
    /// Name, as in `<sys/syscall.h>`, and number of each.
    pub calls: &'static [(&'static str, c_long)],
}

macro_rules! group {
    ($why:literal: $($number:ident)*) => {
        Group { why: $why, calls: &[$((stringify!($number), $number)),*] }
    };
}

/// Allowed with any arguments.
pub const ALLOWED: &[Group] = &[
    group!("files, by path or descriptor; mounts and permissions decide what is reached":
        SYS_openat SYS_openat2 SYS_close SYS_close_range SYS_read SYS_write SYS_readv SYS_writev SYS_pread64
        SYS_pwrite64 SYS_preadv SYS_pwritev SYS_preadv2 SYS_pwritev2 SYS_lseek SYS_fstat SYS_newfstatat
        SYS_statx SYS_statfs SYS_fstatfs SYS_getdents64 SYS_getcwd SYS_chdir SYS_fchdir SYS_faccessat
        SYS_faccessat2 SYS_readlinkat SYS_mkdirat SYS_unlinkat SYS_renameat2 SYS_linkat SYS_symlinkat
        SYS_truncate SYS_ftruncate SYS_fallocate SYS_fchmod SYS_fchmodat SYS_fchmodat2 SYS_fchown SYS_fchownat
        SYS_umask SYS_utimensat SYS_flock SYS_fcntl SYS_dup SYS_dup3 SYS_fsync SYS_fdatasync SYS_fadvise64
        SYS_readahead SYS_copy_file_range SYS_sendfile SYS_splice SYS_tee SYS_setxattr SYS_lsetxattr
        SYS_fsetxattr SYS_getxattr SYS_lgetxattr SYS_fgetxattr SYS_listxattr SYS_llistxattr SYS_flistxattr
        SYS_removexattr SYS_lremovexattr SYS_fremovexattr),
    group!("pipes, events and waiting; event loops are built on these":
        SYS_pipe2 SYS_pselect6 SYS_ppoll SYS_epoll_create1 SYS_epoll_ctl SYS_epoll_pwait SYS_epoll_pwait2
        SYS_eventfd2 SYS_signalfd4 SYS_timerfd_create SYS_timerfd_settime SYS_timerfd_gettime SYS_inotify_init1
        SYS_inotify_add_watch SYS_inotify_rm_watch),
    group!("memory of the process itself; what is locked counts against RLIMIT_MEMLOCK and the cgroup":
        SYS_munmap SYS_mprotect SYS_brk SYS_mremap SYS_msync SYS_mincore SYS_mlock SYS_mlock2
        SYS_munlock SYS_mlockall SYS_munlockall SYS_membarrier SYS_pkey_alloc SYS_pkey_free SYS_pkey_mprotect
        SYS_get_mempolicy SYS_mseal SYS_map_shadow_stack),
    group!("processes and threads; the PID namespace bounds whom they reach":
        SYS_execve SYS_execveat SYS_exit SYS_exit_group SYS_wait4 SYS_waitid SYS_kill SYS_tkill SYS_tgkill
        SYS_getpid SYS_getppid SYS_gettid SYS_getpgid SYS_setpgid SYS_getsid SYS_setsid SYS_set_tid_address
        SYS_set_robust_list SYS_get_robust_list SYS_rseq SYS_futex SYS_futex_waitv SYS_futex_wake SYS_futex_wait
        SYS_futex_requeue SYS_restart_syscall SYS_pidfd_open SYS_pidfd_send_signal),
    group!("scheduling of the sandbox's own threads; the cgroup bounds the CPU they get":
        SYS_sched_yield SYS_sched_getaffinity SYS_sched_setaffinity SYS_sched_getparam SYS_sched_setparam
        SYS_sched_getscheduler SYS_sched_getattr SYS_sched_get_priority_max SYS_sched_get_priority_min
        SYS_sched_rr_get_interval SYS_getpriority SYS_setpriority SYS_ioprio_get SYS_ioprio_set SYS_getcpu),
    group!("signals":
        SYS_rt_sigaction SYS_rt_sigprocmask SYS_rt_sigreturn SYS_rt_sigsuspend SYS_rt_sigpending
        SYS_rt_sigtimedwait SYS_rt_sigqueueinfo SYS_rt_tgsigqueueinfo SYS_sigaltstack SYS_setitimer
        SYS_getitimer),
    group!("reading clocks, sleeping, timers":
        SYS_gettimeofday SYS_clock_gettime SYS_clock_getres SYS_clock_nanosleep SYS_nanosleep SYS_times
        SYS_timer_create SYS_timer_settime SYS_timer_gettime SYS_timer_getoverrun SYS_timer_delete),
    group!("identity; the user namespace and empty capability sets bound what can be become":
        SYS_getuid SYS_geteuid SYS_getgid SYS_getegid SYS_getgroups SYS_getresuid SYS_getresgid SYS_setuid
        SYS_setgid SYS_setreuid SYS_setregid SYS_setresuid SYS_setresgid SYS_setfsuid SYS_setfsgid SYS_setgroups
        SYS_capget SYS_capset),
    group!("limits and facts": SYS_getrusage SYS_sysinfo SYS_uname SYS_getrandom),
    group!("System V and POSIX message queues, semaphores, shared memory; the IPC namespace is the sandbox's own":
        SYS_shmat SYS_shmctl SYS_shmdt SYS_semget SYS_semop SYS_semctl SYS_semtimedop SYS_msgget SYS_msgsnd
        SYS_msgrcv SYS_msgctl SYS_mq_open SYS_mq_unlink SYS_mq_timedsend SYS_mq_timedreceive SYS_mq_notify
        SYS_mq_getsetattr),
    group!("sockets once made; which may be made is decided at socket() and socketpair()":
        SYS_bind SYS_connect SYS_listen SYS_accept SYS_accept4 SYS_getsockname SYS_getpeername SYS_sendto
        SYS_recvfrom SYS_sendmsg SYS_recvmsg SYS_sendmmsg SYS_recvmmsg SYS_shutdown SYS_getsockopt),
    group!("more confinement by the program itself: browsers and language sandboxes add their own; filters only add up":
        SYS_seccomp SYS_landlock_create_ruleset SYS_landlock_add_rule SYS_landlock_restrict_self),
];

/// Allowed with any arguments; only x86-64 still has these older spellings.
#[cfg(target_arch = "x86_64")]
pub(super) const ALLOWED_OLDER: &[Group] = &[
    group!("older spellings of calls above; static and old programs use them":
        SYS_open SYS_creat SYS_stat SYS_lstat SYS_access SYS_readlink SYS_mkdir SYS_rmdir SYS_unlink SYS_rename
        SYS_link SYS_symlink SYS_chmod SYS_chown SYS_lchown SYS_utime SYS_utimes SYS_futimesat SYS_renameat
        SYS_sync_file_range SYS_getdents SYS_dup2 SYS_pipe SYS_poll SYS_select SYS_epoll_create SYS_epoll_wait
        SYS_eventfd SYS_signalfd SYS_inotify_init SYS_fork SYS_vfork SYS_getpgrp SYS_pause SYS_alarm SYS_time
        SYS_getrlimit),
    group!("thread-local storage, and asking what the CPU has; own registers only": SYS_arch_prctl),
    group!("where a tracer on the host has put a uretprobe, the kernel enters through this; elsewhere it is SIGILL":
        SYS_uretprobe),
];

/// Allowed with any arguments.
#[cfg(target_arch = "aarch64")]
pub(super) const ALLOWED_OLDER: &[Group] =
    &[group!("older spellings of calls above; static and old programs use them": SYS_renameat SYS_sync_file_range)];

/// Known and refused with `EPERM`.
pub const REFUSED: &[Group] = &[
    group!("namespaces and the mount table are the jail itself (CVE-2021-41133 came through the newer of these)":
        SYS_setns SYS_mount SYS_umount2 SYS_pivot_root SYS_chroot SYS_fsopen SYS_fsconfig SYS_fsmount SYS_fspick
        SYS_move_mount SYS_open_tree SYS_open_tree_attr SYS_mount_setattr SYS_statmount SYS_listmount SYS_listns),
    group!("a large attack surface with its own worker threads, and operations that no filter sees":
        SYS_io_uring_setup SYS_io_uring_enter SYS_io_uring_register),
    group!("kernel AIO: its slots (fs.aio-max-nr) are one pool for the whole host":
        SYS_io_setup SYS_io_destroy SYS_io_submit SYS_io_cancel SYS_io_getevents SYS_io_pgetevents),
    group!("programs loaded into the kernel, and counters that see beyond the process": SYS_bpf SYS_perf_event_open),
    group!("lets a thread stop the kernel in the middle of a copy: the usual helper of kernel exploits":
        SYS_userfaultfd),
    group!("files by handle come from outside the mount namespace (the escape named shocker)":
        SYS_name_to_handle_at SYS_open_by_handle_at),
    group!("reaching into other processes; nothing here needs it, and /proc/PID/mem then stays shut as well":
        SYS_ptrace SYS_process_vm_readv SYS_process_vm_writev SYS_pidfd_getfd SYS_kcmp SYS_process_madvise
        SYS_process_mrelease),
    group!("kernel keyrings belong to the user, not to a namespace; a long list of past holes":
        SYS_add_key SYS_request_key SYS_keyctl),
    group!("the host's kernel and its life":
        SYS_init_module SYS_finit_module SYS_delete_module SYS_kexec_load SYS_kexec_file_load SYS_reboot
        SYS_swapon SYS_swapoff SYS_acct SYS_syslog SYS_quotactl SYS_quotactl_fd SYS_nfsservctl SYS_vhangup),
    group!("the host's clocks": SYS_settimeofday SYS_clock_settime SYS_adjtimex SYS_clock_adjtime),
    group!("names are given when the sandbox is made": SYS_sethostname SYS_setdomainname),
    group!("placing memory on nodes of the host, and asking where it lies (moves helped to defeat address randomisation)":
        SYS_mbind SYS_set_mempolicy SYS_set_mempolicy_home_node SYS_migrate_pages SYS_move_pages),
    group!("memory that the cgroup's owner can neither see nor reclaim": SYS_memfd_secret),
    group!("watching whole file systems": SYS_fanotify_init SYS_fanotify_mark),
    group!("tells which pages of files shared with others (the host's /usr) are in memory, and so what others run":
        SYS_cachestat),
    group!("flushes the host's own file systems through any file seen read-only: one tenant's loop stalls every disk":
        SYS_syncfs),
    group!("rewrites page tables in ways that only emulators wanted; a source of past holes":
        SYS_remap_file_pages SYS_vmsplice),
    group!("which policy runs on the host, and changing it":
        SYS_lsm_get_self_attr SYS_lsm_set_self_attr SYS_lsm_list_modules),
    group!("real-time scheduling behind a pointer, where a filter cannot look; sched_setscheduler has the harmless part":
        SYS_sched_setattr),
    group!("tables that say how the host was built": SYS_lookup_dcookie),
];

/// Allowed by [`ALLOWED`], and not to hardened sandboxes (`hardened.rs`), with the error that each group answers.
pub const NARROWED: &[(c_int, &[Group])] = &[
    (
        EINVAL,
        &[
            group!("put references to the page cache into pipes (CVE-2022-0847, CVE-2026-31431); EINVAL says that these descriptors \
                  cannot, and everybody then copies":
            SYS_splice SYS_tee SYS_sendfile),
        ],
    ),
    (
        ENOSYS,
        &[
            group!("objects of any size and life time in the kernel's heap: what most exploits are built with (CVE-2021-22555); \
                    as a kernel without CONFIG_SYSVIPC and CONFIG_POSIX_MQUEUE":
                SYS_shmget SYS_shmat SYS_shmctl SYS_shmdt SYS_semget SYS_semop SYS_semctl SYS_semtimedop SYS_msgget
                SYS_msgsnd SYS_msgrcv SYS_msgctl SYS_mq_open SYS_mq_unlink SYS_mq_timedsend SYS_mq_timedreceive
                SYS_mq_notify SYS_mq_getsetattr),
            group!("timers with signals and CPU clocks (CVE-2017-18344, CVE-2022-2585, CVE-2025-38352); setitimer() and \
                    sleeping are left, and timeout(1) uses those":
                SYS_timer_create SYS_timer_settime SYS_timer_gettime SYS_timer_getoverrun SYS_timer_delete),
            group!("the same as descriptors (CVE-2017-10661); event loops count time by themselves":
                SYS_timerfd_create SYS_timerfd_settime SYS_timerfd_gettime),
            group!("tells who opens a file (CVE-2017-7533 besides); tail(1) and others then look from time to time":
                SYS_inotify_init1 SYS_inotify_add_watch SYS_inotify_rm_watch),
            group!("only emulators of other systems wait for several at once": SYS_futex_waitv),
            group!("of other processes' locks; nobody asks": SYS_get_robust_list),
            group!("keys for the process's own pages: an allocator of the kernel's that only V8 and databases try":
                SYS_pkey_alloc SYS_pkey_free SYS_pkey_mprotect),
            group!("on which of the host's nodes memory lies": SYS_get_mempolicy),
        ],
    ),
    (
        EOPNOTSUPP,
        &[
            group!("extended attributes pass through the overlay with the host's rights (CVE-2021-3493), and their values are \
                  kept in its heap; as a file system without them. Reading is left":
            SYS_setxattr SYS_lsetxattr SYS_fsetxattr SYS_removexattr SYS_lremovexattr SYS_fremovexattr),
        ],
    ),
    (EPERM, &[group!("priorities of the host's disks": SYS_ioprio_set SYS_ioprio_get)]),
];

/// The same; only x86-64 has these older spellings.
#[cfg(target_arch = "x86_64")]
pub(super) const NARROWED_OLDER: &[(c_int, &[Group])] = &[(ENOSYS, &[group!("as inotify_init1": SYS_inotify_init)])];
#[cfg(not(target_arch = "x86_64"))]
pub(super) const NARROWED_OLDER: &[(c_int, &[Group])] = &[];

/// Known and refused with `EPERM`; only x86-64 has these.
#[cfg(target_arch = "x86_64")]
pub(super) const REFUSED_OLDER: &[Group] = &[
    group!("raw input and output ports": SYS_iopl SYS_ioperm),
    group!("segment descriptors: 16-bit code, and holes such as CVE-2015-5157": SYS_modify_ldt),
    group!("gone or useless elsewhere": SYS_uselib SYS_ustat SYS_sysfs SYS__sysctl),
];
#[cfg(not(target_arch = "x86_64"))]
pub(super) const REFUSED_OLDER: &[Group] = &[];
