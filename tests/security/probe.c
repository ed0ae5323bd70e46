/* Attempts made from inside a sandbox. Usage: probe WHAT [ARG]. Each attempt prints one line: its name, and `ok` or the name
 * of the error. Tests compare the lines; nothing here decides what is right. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/filter.h>
#include <linux/if_alg.h>
#include <linux/netlink.h>
#include <linux/seccomp.h>
#include <linux/sched.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timex.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

static void said(const char *name, long result) {
    printf("%s: %s\n", name, result >= 0 ? "ok" : strerrorname_np(errno));
    fflush(stdout);
}
#define TRY(name, call) (errno = 0, said(name, (long)(call)))

/* A child that a successful clone may have made ends at once. */
static void try_clone(const char *name, unsigned long flags) {
    errno = 0;
    long pid = syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0);
    if (pid == 0) _exit(0);
    if (pid > 0) waitpid(pid, 0, 0);
    said(name, pid);
}

static int open_and_close(const char *path, int flags) {
    int fd = open(path, flags | O_CLOEXEC);
    if (fd >= 0) close(fd);
    return fd;
}

static void namespaces(void) {
    struct { const char *name; unsigned long flag; } kinds[] = {
        {"user", CLONE_NEWUSER}, {"mount", CLONE_NEWNS}, {"pid", CLONE_NEWPID}, {"net", CLONE_NEWNET},
        {"ipc", CLONE_NEWIPC}, {"uts", CLONE_NEWUTS}, {"cgroup", CLONE_NEWCGROUP}, {"time", CLONE_NEWTIME}};
    char name[64];
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        snprintf(name, sizeof name, "unshare %s", kinds[i].name);
        TRY(name, syscall(SYS_unshare, kinds[i].flag));
        if (kinds[i].flag == CLONE_NEWTIME) continue; /* in clone() these bits are the exit signal */
        snprintf(name, sizeof name, "clone %s", kinds[i].name);
        try_clone(name, kinds[i].flag);
        snprintf(name, sizeof name, "clone %s with upper bits", kinds[i].name);
        try_clone(name, kinds[i].flag | 0xffff000000000000ul);
    }
    struct clone_args args = {.flags = CLONE_NEWUSER, .exit_signal = SIGCHLD};
    TRY("clone3", syscall(SYS_clone3, &args, sizeof args));
    int fd = open("/proc/self/ns/user", O_RDONLY);
    TRY("setns", syscall(SYS_setns, fd, 0));
}

static void mounts(void) {
    TRY("mount", mount("none", "/tmp", "tmpfs", 0, ""));
    TRY("remount", mount("none", "/usr", 0, MS_REMOUNT | MS_BIND, 0));
    TRY("bind", mount("/workspace", "/usr", 0, MS_BIND, 0));
    TRY("umount", umount2("/proc/sys", MNT_DETACH));
    TRY("pivot_root", syscall(SYS_pivot_root, "/", "/tmp"));
    TRY("chroot", chroot("/workspace"));
    TRY("fsopen", syscall(SYS_fsopen, "tmpfs", 0));
    TRY("fsconfig", syscall(SYS_fsconfig, 0, 0, 0, 0, 0));
    TRY("fsmount", syscall(SYS_fsmount, 0, 0, 0));
    TRY("fspick", syscall(SYS_fspick, AT_FDCWD, "/", 0));
    TRY("open_tree", syscall(SYS_open_tree, AT_FDCWD, "/", 1));
    TRY("move_mount", syscall(SYS_move_mount, AT_FDCWD, "/usr", AT_FDCWD, "/tmp", 0));
    TRY("mount_setattr", syscall(SYS_mount_setattr, AT_FDCWD, "/", 0, 0, 0));
    TRY("open_tree_attr", syscall(467, AT_FDCWD, "/", 1, 0, 0));
}

static void calls(void) {
    char junk[4096] = {0};
    TRY("io_uring_setup", syscall(SYS_io_uring_setup, 8, junk));
    TRY("io_uring_enter", syscall(SYS_io_uring_enter, 0, 1, 0, 0, 0, 0));
    TRY("io_uring_register", syscall(SYS_io_uring_register, 0, 0, 0, 0));
    TRY("io_setup", syscall(SYS_io_setup, 1, junk));
    TRY("bpf", syscall(SYS_bpf, BPF_MAP_CREATE, junk, sizeof(union bpf_attr)));
    TRY("userfaultfd", syscall(SYS_userfaultfd, 1));
    TRY("perf_event_open", syscall(SYS_perf_event_open, junk, 0, -1, -1, 0));
    TRY("add_key", syscall(SYS_add_key, "user", "a", "b", 1, -3));
    TRY("request_key", syscall(SYS_request_key, "user", "a", 0, 0));
    TRY("keyctl", syscall(SYS_keyctl, 0, -3, 0));
    TRY("kexec_load", syscall(SYS_kexec_load, 0, 0, 0, 0));
    TRY("kexec_file_load", syscall(SYS_kexec_file_load, -1, -1, 0, "", 0));
    TRY("init_module", syscall(SYS_init_module, junk, 1, ""));
    TRY("finit_module", syscall(SYS_finit_module, 0, "", 0));
    TRY("delete_module", syscall(SYS_delete_module, "loop", 0));
    TRY("name_to_handle_at", syscall(SYS_name_to_handle_at, AT_FDCWD, "/", junk, junk + 512, 0));
    TRY("open_by_handle_at", syscall(SYS_open_by_handle_at, AT_FDCWD, junk, 0));
    int self = syscall(SYS_pidfd_open, getpid(), 0);
    TRY("pidfd_getfd", syscall(SYS_pidfd_getfd, self, 0, 0));
    TRY("ptrace traceme", ptrace(PTRACE_TRACEME, 0, 0, 0));
    TRY("ptrace seize init", ptrace(PTRACE_SEIZE, 1, 0, 0));
    struct iovec io = {junk, 1};
    TRY("process_vm_readv", process_vm_readv(getpid(), &io, 1, &io, 1, 0));
    TRY("process_vm_writev", process_vm_writev(getpid(), &io, 1, &io, 1, 0));
    TRY("kcmp", syscall(SYS_kcmp, getpid(), getpid(), 0, 0, 0));
    TRY("reboot", syscall(SYS_reboot, 0xfee1dead, 672274793, 0, 0));
    TRY("swapon", syscall(SYS_swapon, "/workspace", 0));
    TRY("acct", syscall(SYS_acct, "/workspace/acct"));
    TRY("syslog", syscall(SYS_syslog, 3, junk, sizeof junk));
    TRY("quotactl", syscall(SYS_quotactl, 0, "/dev/vda", 0, junk));
    TRY("fanotify_init", syscall(SYS_fanotify_init, 0, 0));
    TRY("memfd_secret", syscall(SYS_memfd_secret, 0));
    TRY("iopl", syscall(SYS_iopl, 3));
    TRY("ioperm", syscall(SYS_ioperm, 0x80, 1, 1));
    TRY("modify_ldt", syscall(SYS_modify_ldt, 0, junk, 64));
    TRY("syncfs", syscall(SYS_syncfs, 0));
    TRY("move_pages", syscall(SYS_move_pages, 0, 0, 0, 0, 0, 0));
    TRY("vhangup", vhangup());
    TRY("sethostname", sethostname("x", 1));
    TRY("setdomainname", setdomainname("x", 1));
    struct timeval now = {1, 0};
    TRY("settimeofday", settimeofday(&now, 0));
    struct timespec then = {1, 0};
    TRY("clock_settime", clock_settime(CLOCK_REALTIME, &then));
    struct timex adjust = {.modes = ADJ_OFFSET};
    TRY("adjtimex", adjtimex(&adjust));
    TRY("personality READ_IMPLIES_EXEC", syscall(SYS_personality, 0x0400000));
    TRY("personality MMAP_PAGE_ZERO", syscall(SYS_personality, 0x0100000));
    TRY("madvise mergeable", madvise(mmap(0, 4096, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), 4096, MADV_MERGEABLE));
    TRY("ksm by prctl", prctl(67 /* PR_SET_MEMORY_MERGE */, 1, 0, 0, 0));
    TRY("huge pages", mmap(0, 2 << 20, 3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0) == MAP_FAILED ? -1 : 0);
    TRY("real-time", sched_setscheduler(0, SCHED_FIFO, &(struct sched_param){1}));
    TRY("nice -5", setpriority(PRIO_PROCESS, 0, -5));
    TRY("sched_setattr", syscall(SYS_sched_setattr, 0, junk, 0));
    TRY("set_mempolicy", syscall(SYS_set_mempolicy, 0, 0, 0));
    TRY("more descriptors", setrlimit(RLIMIT_NOFILE, &(struct rlimit){1 << 20, 1 << 20}));
    TRY("mknod character", mknod("/workspace/c", S_IFCHR | 0666, 0x0103));
    TRY("mknod block", mknod("/workspace/b", S_IFBLK | 0666, 0xfe00));
    TRY("mknod whiteout", mknod("/workspace/w", S_IFCHR, 0));
    TRY("kill init", kill(1, SIGKILL));
    TRY("stop init", kill(1, SIGSTOP));
}

/* What hardened sandboxes are refused and others are not: one attempt at least for each group and rule of the shorter list. */
static void narrowed(void) {
    char junk[4096] = {0};
    int a[2], b[2], word = 0;
    struct timespec soon = {0, 1};
    struct itimerval later = {{0, 0}, {100, 0}};
    if (pipe(a) || pipe(b) || write(a[1], "x", 1) != 1) return;
    int file = open("/workspace/probe", O_RDONLY), copy = open("/workspace/copy", O_CREAT | O_RDWR, 0600);
    TRY("tee", tee(a[0], b[1], 1, SPLICE_F_NONBLOCK));
    TRY("splice", splice(file, 0, a[1], 0, 4096, SPLICE_F_NONBLOCK));
    TRY("sendfile", syscall(SYS_sendfile, copy, file, 0, 4096));
    TRY("shmget", shmget(IPC_PRIVATE, 4096, 0600));
    TRY("shmat", syscall(SYS_shmat, -1, 0, 0));
    TRY("semget", syscall(SYS_semget, IPC_PRIVATE, 1, 0600));
    TRY("semop", syscall(SYS_semop, -1, junk, 1));
    TRY("msgget", syscall(SYS_msgget, IPC_PRIVATE, 0600));
    TRY("msgsnd", syscall(SYS_msgsnd, -1, junk, 1, 0));
    TRY("mq_open", syscall(SYS_mq_open, "probe", O_CREAT | O_RDWR, 0600, 0));
    TRY("timer_create", syscall(SYS_timer_create, CLOCK_MONOTONIC, 0, junk));
    TRY("timerfd_create", syscall(SYS_timerfd_create, CLOCK_MONOTONIC, 0));
    TRY("inotify_init1", inotify_init1(0));
    TRY("inotify_init", syscall(SYS_inotify_init));
    TRY("futex_waitv", syscall(449, junk, 0, 0, 0, 0));
    TRY("get_robust_list", syscall(SYS_get_robust_list, 0, junk, junk + 8));
    TRY("pkey_alloc", syscall(SYS_pkey_alloc, 0, 0));
    TRY("get_mempolicy", syscall(SYS_get_mempolicy, 0, 0, 0, 0, 0));
    TRY("fsetxattr", syscall(SYS_fsetxattr, -1, "user.a", "b", 1, 0));
    TRY("removexattr", syscall(SYS_removexattr, "/absent", "user.a"));
    TRY("ioprio_get", syscall(SYS_ioprio_get, 1, 0));
    TRY("ioprio_set", syscall(SYS_ioprio_set, 1, 0, 2 << 13 | 4));
    TRY("futex lock with priority", syscall(SYS_futex, &word, 6 | 128, 0, 0, 0, 0));
    TRY("sleep by CPU time", clock_nanosleep(CLOCK_PROCESS_CPUTIME_ID, TIMER_ABSTIME, &soon, 0) ? (errno = EOPNOTSUPP, -1) : 0);
    TRY("timer of CPU time", setitimer(ITIMER_PROF, &later, 0));
    TRY("growing mapping", mmap(0, 4096, 3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN, -1, 0) == MAP_FAILED ? -1 : 0);
    TRY("madvise pageout", madvise(mmap(0, 4096, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), 4096, 21));
    TRY("size of a pipe", fcntl(a[0], F_SETPIPE_SZ, 65536));
    TRY("signals of a pipe", fcntl(a[0], F_SETFL, O_ASYNC));
    TRY("owner of a pipe", fcntl(a[0], F_SETOWN, getpid()));
    int yes = 1;
    TRY("FIOASYNC", ioctl(a[0], FIOASYNC, &yes));
    TRY("netlink route", socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE));
    int tcp = socket(AF_INET, SOCK_STREAM, 0), udp = socket(AF_INET, SOCK_DGRAM, 0);
    TRY("send out of band", send(tcp, "x", 1, MSG_OOB | MSG_NOSIGNAL));
    TRY("receive out of band", recv(tcp, junk, 1, MSG_OOB));
    TRY("send without a copy", send(tcp, "x", 1, MSG_ZEROCOPY | MSG_NOSIGNAL));
    struct sock_filter code[] = {BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
    struct sock_fprog program = {1, code};
    TRY("filter of a socket", setsockopt(udp, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program));
    struct ip_mreq group = {{htonl(0xe0000101)}, {htonl(INADDR_LOOPBACK)}};
    TRY("multicast group", setsockopt(udp, IPPROTO_IP, IP_ADD_MEMBERSHIP, &group, sizeof group));
    TRY("fast open", setsockopt(tcp, IPPROTO_TCP, 23, &yes, sizeof yes));
    TRY("speed of the clock register", prctl(26 /* PR_SET_TSC */, 1, 0, 0, 0));
#ifdef __x86_64__
    TRY("larger registers", syscall(SYS_arch_prctl, 0x1024 /* ARCH_GET_XCOMP_GUEST_PERM */, junk));
#endif
    TRY("personality 2.6", syscall(SYS_personality, 0x0020000));
    TRY("own supervisor", syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program));
}

static void sockets(void) {
    struct { const char *name; int family, type, protocol; } tries[] = {
        {"unix", AF_UNIX, SOCK_STREAM, 0}, {"tcp", AF_INET, SOCK_STREAM, 0}, {"udp6", AF_INET6, SOCK_DGRAM, 0},
        {"netlink route", AF_NETLINK, SOCK_RAW, NETLINK_ROUTE},
        {"alg", AF_ALG, SOCK_SEQPACKET, 0}, {"vsock", 40, SOCK_STREAM, 0}, {"packet", AF_PACKET, SOCK_RAW, htons(3)},
        {"raw", AF_INET, SOCK_RAW, IPPROTO_ICMP}, {"raw6", AF_INET6, SOCK_RAW, IPPROTO_ICMPV6},
        {"raw with upper bits", AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW}, {"ping", AF_INET, SOCK_DGRAM, IPPROTO_ICMP},
        {"mptcp", AF_INET, SOCK_STREAM, 262}, {"sctp", AF_INET, SOCK_SEQPACKET, 132}, {"dccp", AF_INET, 6, 33},
        {"netlink netfilter", AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER}, {"netlink xfrm", AF_NETLINK, SOCK_RAW, NETLINK_XFRM},
        {"netlink audit", AF_NETLINK, SOCK_RAW, NETLINK_AUDIT}, {"netlink uevent", AF_NETLINK, SOCK_RAW, 15},
        {"netlink crypto", AF_NETLINK, SOCK_RAW, 21}, {"netlink generic", AF_NETLINK, SOCK_RAW, 16},
        {"bluetooth", 31, SOCK_RAW, 0}, {"can", 29, SOCK_RAW, 1}, {"tipc", 30, SOCK_STREAM, 0}, {"xdp", 44, SOCK_RAW, 0},
        {"smc", 43, SOCK_STREAM, 0}, {"rds", 21, SOCK_SEQPACKET, 0}, {"kcm", 41, SOCK_DGRAM, 0}, {"key", 15, SOCK_RAW, 2},
        {"qipcrtr", 42, SOCK_DGRAM, 0}, {"appletalk", 5, SOCK_DGRAM, 0}, {"ax25", 3, SOCK_DGRAM, 0}};
    for (size_t i = 0; i < sizeof tries / sizeof *tries; i++) {
        errno = 0;
        int fd = syscall(SYS_socket, (long)tries[i].family | 0x7700000000000000, (long)tries[i].type, (long)tries[i].protocol);
        said(tries[i].name, fd);
        if (fd >= 0) close(fd);
    }
    int pair[2];
    TRY("tipc pair", socketpair(30, SOCK_STREAM, 0, pair));
    int tcp = socket(AF_INET, SOCK_STREAM, 0);
    TRY("kernel TLS", setsockopt(tcp, IPPROTO_TCP, 31, "tls", 4));
    TRY("netfilter tables", setsockopt(tcp, IPPROTO_IP, 64, "", 1));
}

/* Networks that a sandbox without network must not reach, by address and port. */
static void egress(const char *port) {
    const char *hosts[] = {"127.0.0.1", "169.254.169.254", "10.0.0.1", "172.17.0.1", "192.168.1.1", "8.8.8.8", "::1",
                           "::ffff:127.0.0.1", "::ffff:169.254.169.254", "fd00::1", "fe80::1", "2001:4860:4860::8888"};
    for (size_t i = 0; i < sizeof hosts / sizeof *hosts; i++) {
        struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons(atoi(port))};
        struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
        extern int inet_pton(int, const char *, void *);
        int is_four = inet_pton(AF_INET, hosts[i], &four.sin_addr);
        if (!is_four) inet_pton(AF_INET6, hosts[i], &six.sin6_addr);
        int fd = socket(is_four ? AF_INET : AF_INET6, SOCK_STREAM, 0);
        errno = 0;
        said(hosts[i], is_four ? connect(fd, (void *)&four, sizeof four) : connect(fd, (void *)&six, sizeof six));
        close(fd);
    }
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons(53), .sin_addr.s_addr = htonl(0x08080808)};
    int udp = socket(AF_INET, SOCK_DGRAM, 0);
    TRY("udp 8.8.8.8", sendto(udp, "x", 1, 0, (void *)&any, sizeof any));
}

static void abstract(const char *how, const char *name) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strncpy(address.sun_path + 1, name, 100);
    socklen_t length = offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (how[0] == 'l') {
        TRY("bind", bind(fd, (void *)&address, length));
        TRY("listen", listen(fd, 1));
        pause();
    }
    TRY("connect", connect(fd, (void *)&address, length));
}

static void terminal(void) {
    char c = 'x';
    char subcode = 2;
    int discipline = 0;
    TRY("TIOCSTI", ioctl(0, TIOCSTI, &c));
    TRY("TIOCSTI with upper bits", syscall(SYS_ioctl, 0, 0xffffffff00005412ul, &c));
    TRY("TIOCSTI with bit 32", syscall(SYS_ioctl, 0, 0x100005412ul, &c));
    TRY("TIOCLINUX", ioctl(0, TIOCLINUX, &subcode));
    TRY("TIOCLINUX with upper bits", syscall(SYS_ioctl, 0, 0xffffffff0000541cul, &subcode));
    TRY("TIOCSETD", ioctl(0, TIOCSETD, &discipline));
    TRY("TIOCCONS", ioctl(0, TIOCCONS, 0));
    printf("session leader: %s\n", getsid(0) == getpid() ? "yes" : "no");
    TRY("controlling terminal", open_and_close("/dev/tty", O_RDWR));
}

static void foreign(const char *which) {
    fflush(stdout);
    if (which[0] == 'x') {
        TRY("x32 getpid", syscall(0x40000000 + 39));
        TRY("x32 ptrace", syscall(0x40000000 + 521));
        TRY("x32 mount", syscall(0x40000000 + 165, "none", "/tmp", "tmpfs", 0, 0));
    } else {
        long result;
        /* 32-bit getpid is 20, which in the 64-bit table is writev. */
        __asm__ volatile("int $0x80" : "=a"(result) : "a"(20) : "memory", "r8", "r9", "r10", "r11");
        printf("i386 getpid: %ld\n", result);
    }
}

/* A tenant's own filter that answers "continue" must not loosen ours: the strictest verdict wins. */
static void notify(void) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_chroot, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
    struct sock_fprog program = {4, code};
    int listener = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
    said("own listener", listener);
    pid_t child = fork();
    if (child == 0) {
        TRY("chroot under a continuing supervisor", chroot("/"));
        _exit(0);
    }
    for (;;) {
        struct pollfd ready = {listener, POLLIN, 0};
        if (waitpid(child, 0, WNOHANG) == child) break;
        if (poll(&ready, 1, 20) <= 0 || !(ready.revents & POLLIN)) continue;
        struct seccomp_notif request = {0};
        if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &request)) continue;
        struct seccomp_notif_resp answer = {.id = request.id, .flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE};
        ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer);
        printf("supervisor: asked\n");
    }
}

static void privileges(void) {
    TRY("setuid 0", setuid(0));
    TRY("setgid 0", setgid(0));
    TRY("setgroups", syscall(SYS_setgroups, 1, &(gid_t){0}));
    struct { unsigned version; int pid; } header = {0x20080522, 0};
    struct { unsigned effective, permitted, inheritable; } data[2] = {{~0u, ~0u, ~0u}, {~0u, ~0u, ~0u}};
    TRY("capset", syscall(SYS_capset, &header, data));
    TRY("ambient", prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, 21, 0, 0));
    TRY("securebits", prctl(PR_SET_SECUREBITS, 0, 0, 0, 0));
    printf("securebits now: %x\n", prctl(PR_GET_SECUREBITS, 0, 0, 0, 0));
    printf("no_new_privs: %d\n", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
    TRY("no_new_privs off", prctl(PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0));
    TRY("chown to root", chown("/workspace", 0, 0));
}

static void descriptors(void) {
    DIR *list = opendir("/proc/self/fd");
    struct dirent *entry;
    while ((entry = readdir(list)))
        if (entry->d_name[0] != '.' && atoi(entry->d_name) != dirfd(list)) {
            char path[300], target[300] = {0};
            snprintf(path, sizeof path, "/proc/self/fd/%s", entry->d_name);
            if (readlink(path, target, sizeof target - 1) < 0) strcpy(target, "?");
            printf("%s %s\n", entry->d_name, target);
        }
}

/* --- hostile loads: they print a line when the load stands, then stay --- */

static void fork_bomb(void) {
    for (;;) fork();
}

static void zombies(const char *count) {
    int made = 0, refused = 0, most = atoi(count);
    for (int i = 0; i < most; i++) {
        pid_t pid = fork();
        if (pid == 0) _exit(0);
        if (pid < 0) { refused++; break; }
        made++;
    }
    printf("%s\n", refused ? "refused" : "all made");
    (void)made;
}

static void orphans(const char *count) {
    for (int i = 0, most = atoi(count); i < most; i++) {
        pid_t pid = fork();
        if (pid == 0) { if (fork() == 0) usleep(1000); _exit(0); }
        if (pid > 0) waitpid(pid, 0, 0);
    }
    printf("done\n");
}

static void hog(void) {
    for (;;) {
        char *p = malloc(1 << 20);
        if (p) memset(p, 1, 1 << 20);
    }
}

/* Touches memory page by page and says after each 64 KiB how many KiB it has, until it is killed. */
static void touch(void) {
    char line[32];
    for (long kib = 64;; kib += 64) {
        char *p = mmap(0, 64 << 10, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        for (int i = 0; i < 16; i++) p[i << 12] = 1;
        int length = snprintf(line, sizeof line, "%ld\n", kib);
        if (kib % 256 == 0 && write(1, line, length) < 0) return;
    }
}

static void shared_memory(void) {
    for (int i = 0; i < 4096; i++) {
        int id = shmget(IPC_PRIVATE, 4 << 20, 0600);
        char *p = shmat(id, 0, 0);
        if (p == (void *)-1) break;
        memset(p, 1, 4 << 20);
        shmdt(p);
    }
}

static void inodes(const char *dir) {
    char path[300];
    for (int i = 0;; i++) {
        snprintf(path, sizeof path, "%s/%d", dir, i);
        int fd = open(path, O_CREAT | O_WRONLY, 0600);
        if (fd < 0) { said("create", -1); return; }
        close(fd);
    }
}

static void count_of(const char *what, long n) { printf("%s: %ld\n", what, n); }

/* As many children as can live at once; they stay. */
static void children(void) {
    long n = 0;
    for (pid_t pid; (pid = fork()) >= 0; n++)
        if (pid == 0) for (;;) pause();
    count_of("children", n);
    fflush(stdout);
    pause();
}

static void watches(void) {
    long n = 0;
    while (n < 1000 && inotify_init1(IN_CLOEXEC) >= 0) n++;
    printf("stopped by %s\n", strerrorname_np(errno));
    fflush(stdout);
    count_of("watches", n);
    fflush(stdout);
    pause();
}

static void terminals(void) {
    long n = 0;
    while (n < 1000 && posix_openpt(O_RDWR | O_CLOEXEC | O_NOCTTY) >= 0) n++;
    count_of("terminals", n);
    fflush(stdout);
    pause();
}

static void timers(void) {
    timer_t timer;
    long n = 0;
    while (n < 200000 && timer_create(CLOCK_MONOTONIC, 0, &timer) == 0) n++;
    count_of("timers", n);
    fflush(stdout);
    pause();
}

/* Stops every process it can see, its own parent included, as fast as it can. */
static void stopper(void) {
    printf("stopping\n");
    fflush(stdout);
    for (;;) kill(-1, SIGSTOP);
}

static void swapper(const char *a, const char *b) {
    printf("swapping\n");
    fflush(stdout);
    for (;;) syscall(SYS_renameat2, AT_FDCWD, a, AT_FDCWD, b, 2 /* RENAME_EXCHANGE */);
}

static void set_id(const char *dir) {
    char path[300];
    struct stat seen;
    chdir(dir);
    int fd = open("plain", O_CREAT | O_WRONLY, 0755);
    said("create", fd);
    TRY("chmod", chmod("plain", 04755));
    TRY("fchmod", fchmod(fd, 04755));
    TRY("fchmod with upper bits", syscall(SYS_fchmod, fd, 0xffff000000000000ul | 04755));
    TRY("fchmodat", syscall(SYS_fchmodat, AT_FDCWD, "plain", 06755));
    TRY("fchmodat2", syscall(452, AT_FDCWD, "plain", 02755, 0));
    TRY("open", syscall(SYS_open, "born", O_CREAT | O_WRONLY, 04755));
    TRY("openat", syscall(SYS_openat, AT_FDCWD, "born2", O_CREAT | O_WRONLY, 04755));
    TRY("creat", syscall(SYS_creat, "born3", 04755));
    unsigned long how[3] = {O_CREAT | O_WRONLY, 04755, 0};
    TRY("openat2", syscall(SYS_openat2, AT_FDCWD, "born4", how, sizeof how));
    TRY("mknod", syscall(SYS_mknod, "born5", S_IFREG | 04755, 0));
    TRY("mknodat", syscall(SYS_mknodat, AT_FDCWD, "born6", S_IFREG | 04755, 0));
    TRY("tmpfile", syscall(SYS_openat, AT_FDCWD, ".", O_TMPFILE | O_WRONLY, 04755));
    DIR *list = opendir(".");
    struct dirent *entry;
    while ((entry = readdir(list))) {
        snprintf(path, sizeof path, "%s", entry->d_name);
        if (path[0] != '.' && stat(path, &seen) == 0 && (seen.st_mode & 06000)) printf("set-id file: %s\n", path);
    }
}

int main(int, char **);
#include "exploits.h"

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "", *arg = argc > 2 ? argv[2] : "", *more = argc > 3 ? argv[3] : "";
#define DO(name, call) if (!strcmp(what, name)) { call; return 0; }
    DO("namespaces", namespaces())
    DO("mounts", mounts())
    DO("calls", calls())
    DO("narrowed", narrowed())
    DO("sockets", sockets())
    DO("egress", egress(arg))
    DO("abstract", abstract(arg, more))
    DO("terminal", terminal())
    DO("foreign", foreign(arg))
    DO("notify", notify())
    DO("privileges", privileges())
    DO("descriptors", descriptors())
    DO("fork-bomb", fork_bomb())
    DO("zombies", zombies(arg))
    DO("orphans", orphans(arg))
    DO("hog", hog())
    DO("touch", touch())
    DO("children", children())
    DO("shared-memory", shared_memory())
    DO("inodes", inodes(arg))
    DO("watches", watches())
    DO("terminals", terminals())
    DO("timers", timers())
    DO("stopper", stopper())
    DO("swapper", swapper(arg, more))
    DO("set-id", set_id(arg))
    DO("clocks", clocks())
    DO("proc-writes", proc_writes())
    DO("release-agent", release_agent())
    DO("init-signals", init_signals())
    DO("trace", trace(arg))
    DO("hunt", hunt())
    DO("network", network())
    DO("attributes", attributes())
    DO("page-cache", page_cache(arg))
    DO("threads", threads())
    DO("others-terminal", others_terminal(arg))
    DO("open", TRY(arg, open_and_close(arg, more[0] == 'w' ? O_WRONLY : O_RDONLY)))
    fprintf(stderr, "probe: no attempt named `%s`\n", what);
    return 2;
}
