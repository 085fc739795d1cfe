//! The profile `RuntimeDefault`: the list that containerd and Docker use.

use super::numbers::number;
use seccompiler::{BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule};
use std::collections::BTreeMap;

const ALLOWED: &str = "accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown chown32 clock_adjtime \
    clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64 close \
    close_range connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait \
    epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64 \
    fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr \
    flistxattr flock fork fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futex \
    futex_requeue futex_time64 futex_wait futex_waitv futex_wake futimesat getcpu getcwd getdents getdents64 getegid getegid32 \
    geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpeername getpgid getpgrp getpid getppid getpriority \
    getrandom getresgid getresgid32 getresuid getresuid32 getrlimit get_robust_list getrusage getsid getsockname getsockopt \
    get_thread_area gettid gettimeofday getuid getuid32 getxattr getxattrat inotify_add_watch inotify_init inotify_init1 \
    inotify_rm_watch io_cancel ioctl io_destroy io_getevents io_pgetevents io_pgetevents_time64 ioprio_get ioprio_set io_setup \
    io_submit ipc kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lchown32 lgetxattr link linkat listen \
    listmount listxattr listxattrat llistxattr _llseek lremovexattr lseek lsetxattr lstat lstat64 madvise map_shadow_stack membarrier \
    memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mmap2 mprotect mq_getsetattr mq_notify \
    mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget msgrcv \
    msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat _newselect open openat openat2 pause pidfd_open \
    pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64 \
    process_mrelease pselect6 pselect6_time64 ptrace process_vm_readv process_vm_writev pwrite64 pwritev pwritev2 read readahead \
    readlink readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages removexattr removexattrat rename \
    renameat renameat2 restart_syscall rmdir riscv_hwprobe rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo \
    rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_getaffinity sched_getattr \
    sched_getparam sched_get_priority_max sched_get_priority_min sched_getscheduler sched_rr_get_interval \
    sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp select semctl \
    semget semop semtimedop semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg sendto setfsgid setfsgid32 setfsuid \
    setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid setpriority setregid setregid32 setresgid setresgid32 \
    setresuid setresuid32 setreuid setreuid32 setrlimit set_robust_list setsid setsockopt set_thread_area set_tid_address setuid \
    setuid32 setxattr setxattrat shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 sigprocmask sigreturn socketcall \
    socketpair splice stat stat64 statfs statfs64 statmount statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill \
    time timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create \
    timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname unlink \
    unlinkat uretprobe utime utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write writev arch_prctl modify_ldt";

/// What whoever holds a capability (its number) may call besides.
const BY_CAPABILITY: [(u32, &str); 13] = [
    (2, "open_by_handle_at"),
    (
        SYS_ADMIN,
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr move_mount open_tree \
         perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare",
    ),
    (22, "reboot"),
    (18, "chroot"),
    (16, "delete_module init_module finit_module"),
    (20, "acct"),
    (19, "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace"),
    (17, "iopl ioperm"),
    (25, "settimeofday stime clock_settime clock_settime64"),
    (26, "vhangup"),
    (23, "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    (34, "syslog"),
    (39, "bpf"),
];

const SYS_ADMIN: u32 = 21;
const PERFMON: u32 = 38;
/// CLONE_NEW* but for CLONE_NEWTIME, which clone cannot take.
const NAMESPACE_FLAGS: u64 = 0x7E02_0000;
/// The personalities that programs use: Linux, Linux 32, with and without UNAME26, and asking.
const PERSONALITIES: [u64; 5] = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];
const AF_VSOCK: u64 = 40;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

pub(super) fn compile(capabilities: u64) -> Result<Vec<BpfProgram>, String> {
    let has = |number: u32| capabilities & 1 << number != 0;
    let mut rules = Rules::new();
    let mut allow = |names: &str| rules.extend(names.split_whitespace().filter_map(number).map(|n| (n, Vec::new())));
    allow(ALLOWED);
    BY_CAPABILITY.iter().filter(|(capability, _)| has(*capability)).for_each(|(_, names)| allow(names));
    if has(PERFMON) {
        allow("perf_event_open");
    }
    let condition = |op, value| SeccompCondition::new(0, SeccompCmpArgLen::Dword, op, value).and_then(|c| SeccompRule::new(vec![c]));
    let mut when = |name: &str, conditions: Vec<Result<SeccompRule, seccompiler::BackendError>>| -> Result<(), String> {
        if let Some(n) = number(name) {
            rules.insert(n, conditions.into_iter().collect::<Result<_, _>>().map_err(|e| e.to_string())?);
        }
        Ok(())
    };
    when("personality", PERSONALITIES.iter().map(|p| condition(SeccompCmpOp::Eq, *p)).collect())?;
    when("socket", vec![condition(SeccompCmpOp::Ne, AF_VSOCK)])?;
    let mut programs = Vec::new();
    if !has(SYS_ADMIN) {
        when("clone", vec![condition(SeccompCmpOp::MaskedEq(NAMESPACE_FLAGS), 0)])?;
        // Its flags are behind a pointer; libc falls back to clone when there is no such call.
        if let Some(n) = number("clone3") {
            rules.insert(n, Vec::new());
            programs.push((BTreeMap::from([(n, Vec::new())]), SeccompAction::Allow, SeccompAction::Errno(libc::ENOSYS.cast_unsigned())));
        }
    }
    programs.insert(0, (rules, SeccompAction::Errno(libc::EPERM.cast_unsigned()), SeccompAction::Allow));
    programs.into_iter().map(|(rules, otherwise, matched)| program(rules, otherwise, matched)).collect()
}

pub(super) fn program(rules: Rules, otherwise: SeccompAction, matched: SeccompAction) -> Result<BpfProgram, String> {
    let filter = SeccompFilter::new(rules, otherwise, matched, super::arch()?).map_err(|e| e.to_string())?;
    filter.try_into().map_err(|e: seccompiler::BackendError| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_profile_compiles_and_grows_with_capabilities() {
        let plain = compile(0).unwrap();
        assert_eq!(plain.len(), 2, "clone3 has a program of its own");
        let admin = compile(1 << SYS_ADMIN).unwrap();
        assert_eq!(admin.len(), 1);
        assert!(admin[0].len() > plain[0].len());
        assert!(plain[0].len() < 4096, "the kernel takes no longer program");
    }

    #[test]
    fn what_breaks_out_is_not_on_the_list() {
        let names: Vec<&str> = ALLOWED.split_whitespace().collect();
        for name in ["mount", "umount2", "unshare", "setns", "keyctl", "add_key", "request_key", "bpf", "kexec_load", "io_uring_setup"] {
            assert!(!names.contains(&name), "{name}");
        }
        for name in ["read", "futex", "openat", "epoll_pwait2", "seccomp"] {
            assert!(number(name).is_some() && names.contains(&name), "{name}");
        }
    }
}
