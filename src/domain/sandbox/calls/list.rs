//! System calls by name: those granted to each kind of process, and those refused by name.
//!
//! The lists of granted calls contain whole families: each variant of a call that grants no more than its siblings is
//! included. The reason is that libc uses other variants in other versions. [`REFUSED`] exists only for the log: a call
//! in no list is refused, too.

/// A system call: its name and its number on this processor.
pub(super) type Call = (&'static str, i64);

/// Pairs of name and number. The names begin with `SYS_`, like those of the crate libc.
macro_rules! calls {
    ($($name:ident)*) => { &[$((stringify!($name), libc::$name)),*] };
}

/// Calls for computing, threads, memory, granted files and open descriptors.
#[rustfmt::skip]
pub(super) const GRANTED: &[Call] = calls! {
    // Reading and writing.
    SYS_read SYS_write SYS_pread64 SYS_pwrite64 SYS_readv SYS_writev SYS_preadv SYS_pwritev SYS_preadv2 SYS_pwritev2
    SYS_lseek SYS_close SYS_dup SYS_dup3 SYS_fcntl SYS_ioctl SYS_flock SYS_fsync SYS_fdatasync SYS_fallocate SYS_ftruncate
    SYS_truncate SYS_copy_file_range SYS_sendfile SYS_splice SYS_tee SYS_vmsplice SYS_readahead SYS_fadvise64
    // Files by name; Landlock decides about them.
    SYS_openat SYS_faccessat SYS_faccessat2 SYS_fstat SYS_newfstatat SYS_statx SYS_statfs SYS_fstatfs SYS_readlinkat
    SYS_getdents64 SYS_getcwd SYS_chdir SYS_fchdir SYS_mkdirat SYS_mknodat SYS_unlinkat SYS_renameat2 SYS_linkat SYS_symlinkat
    SYS_umask SYS_utimensat SYS_getxattr SYS_lgetxattr SYS_fgetxattr SYS_listxattr SYS_llistxattr SYS_flistxattr
    // Memory.
    SYS_mmap SYS_munmap SYS_mprotect SYS_mremap SYS_madvise SYS_brk SYS_msync SYS_mincore SYS_mlock SYS_mlock2 SYS_munlock
    SYS_mlockall SYS_munlockall SYS_memfd_create SYS_membarrier SYS_pkey_alloc SYS_pkey_free SYS_pkey_mprotect SYS_mbind
    SYS_get_mempolicy SYS_set_mempolicy SYS_set_mempolicy_home_node SYS_move_pages SYS_mseal
    // Threads, and waiting for them.
    SYS_clone SYS_futex SYS_futex_waitv SYS_set_robust_list SYS_get_robust_list SYS_rseq SYS_set_tid_address SYS_gettid
    SYS_exit SYS_exit_group SYS_restart_syscall SYS_prctl SYS_getcpu SYS_wait4 SYS_waitid
    SYS_sched_yield SYS_sched_getaffinity SYS_sched_setaffinity SYS_sched_getparam SYS_sched_setparam SYS_sched_getscheduler
    SYS_sched_setscheduler SYS_sched_getattr SYS_sched_setattr SYS_sched_get_priority_max SYS_sched_get_priority_min
    SYS_sched_rr_get_interval SYS_getpriority SYS_setpriority SYS_ioprio_get
    // Signals.
    SYS_rt_sigaction SYS_rt_sigprocmask SYS_rt_sigreturn SYS_rt_sigpending SYS_rt_sigsuspend SYS_rt_sigtimedwait
    SYS_rt_sigqueueinfo SYS_rt_tgsigqueueinfo SYS_sigaltstack SYS_kill SYS_tkill SYS_tgkill SYS_signalfd4
    // Time.
    SYS_nanosleep SYS_clock_nanosleep SYS_clock_gettime SYS_clock_getres SYS_gettimeofday SYS_times SYS_timer_create
    SYS_timer_settime SYS_timer_gettime SYS_timer_delete SYS_timer_getoverrun SYS_setitimer SYS_getitimer SYS_timerfd_create
    SYS_timerfd_settime SYS_timerfd_gettime
    // Waiting for descriptors, pipes, socket pairs and messages over them.
    SYS_ppoll SYS_pselect6 SYS_epoll_create1 SYS_epoll_ctl SYS_epoll_pwait SYS_epoll_pwait2 SYS_eventfd2 SYS_pipe2
    SYS_socketpair SYS_sendto SYS_recvfrom SYS_sendmsg SYS_recvmsg SYS_sendmmsg SYS_recvmmsg SYS_shutdown SYS_getsockname
    SYS_getpeername SYS_getsockopt SYS_setsockopt
    // Information about the process and the machine.
    SYS_getpid SYS_getppid SYS_getuid SYS_geteuid SYS_getgid SYS_getegid SYS_getgroups SYS_getresuid SYS_getresgid SYS_getpgid
    SYS_getsid SYS_prlimit64 SYS_getrusage SYS_sysinfo SYS_uname SYS_getrandom SYS_capget
    // The process's own filters, until the last one is installed: see `trapped`.
    SYS_seccomp
};

/// Further granted calls, whose numbers the crate libc does not have everywhere: `map_shadow_stack` and the parts of
/// futex(2) have the same number on all processors.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
pub(super) const GRANTED_HERE: &[&[Call]] = &[NEW, calls! {
    SYS_open SYS_creat SYS_access SYS_stat SYS_lstat SYS_readlink SYS_getdents SYS_mkdir SYS_mknod SYS_rmdir SYS_unlink SYS_rename
    SYS_renameat SYS_link SYS_symlink SYS_dup2 SYS_pipe SYS_poll SYS_select SYS_epoll_create SYS_epoll_wait SYS_eventfd
    SYS_signalfd SYS_alarm SYS_pause SYS_time SYS_getpgrp SYS_getrlimit SYS_setrlimit SYS_arch_prctl SYS_sync_file_range
}];
/// The same for other processors.
#[cfg(not(target_arch = "x86_64"))]
pub(super) const GRANTED_HERE: &[&[Call]] =
    &[NEW, &[("SYS_renameat", 38), ("SYS_sync_file_range", 84), ("SYS_getrlimit", 163), ("SYS_setrlimit", SETRLIMIT)]];
const NEW: &[Call] =
    &[("SYS_map_shadow_stack", 453), ("SYS_futex_wake", 454), ("SYS_futex_wait", 455), ("SYS_futex_requeue", 456)];

/// setrlimit(2), which the crate libc does not define on each processor.
#[cfg(target_arch = "x86_64")]
pub(super) const SETRLIMIT: i64 = libc::SYS_setrlimit;
/// The number on other processors.
#[cfg(not(target_arch = "x86_64"))]
pub(super) const SETRLIMIT: i64 = 164;

/// Further calls for programs of the system: compilers, linkers, gcov and valgrind start programs and set modes of files.
#[rustfmt::skip]
pub(super) const PROGRAMS: &[Call] = calls! {
    SYS_execve SYS_execveat SYS_fchmod SYS_fchmodat SYS_fchown SYS_fchownat SYS_ioprio_set SYS_close_range
    SYS_pidfd_open SYS_pidfd_send_signal SYS_sync SYS_syncfs SYS_setxattr SYS_lsetxattr SYS_fsetxattr SYS_removexattr
    SYS_lremovexattr SYS_fremovexattr SYS_remap_file_pages
};
/// Further calls for such programs on this processor.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
pub(super) const PROGRAMS_HERE: &[&[Call]] = &[&[("SYS_fchmodat2", FCHMODAT2)], calls! {
    SYS_fork SYS_vfork SYS_chmod SYS_chown SYS_lchown SYS_utime SYS_utimes SYS_futimesat
}];
/// The same for other processors.
#[cfg(not(target_arch = "x86_64"))]
pub(super) const PROGRAMS_HERE: &[&[Call]] = &[&[("SYS_fchmodat2", FCHMODAT2)]];
/// fchmodat2(2).
pub(super) const FCHMODAT2: i64 = 452;

/// Further calls for sockets.
pub(super) const NETWORK: &[Call] = calls! { SYS_socket SYS_connect SYS_bind SYS_listen SYS_accept SYS_accept4 };

/// Calls that must look unknown: libc then takes another way, as on an older kernel. Their flags lie in memory, which a
/// filter can't read.
pub(super) const UNKNOWN: &[Call] = calls! { SYS_clone3 SYS_openat2 };

/// Calls that are never granted; the list gives a refusal its name.
#[rustfmt::skip]
pub(super) const REFUSED: &[Call] = calls! {
    // Other processes.
    SYS_ptrace SYS_process_vm_readv SYS_process_vm_writev SYS_process_madvise SYS_process_mrelease SYS_kcmp SYS_pidfd_getfd
    SYS_migrate_pages
    // Leaving the process group, through which the server ends all processes that a child has started.
    SYS_setsid SYS_setpgid
    // Mounts and namespaces; files by handle, which bypass the directories on the way.
    SYS_mount SYS_umount2 SYS_pivot_root SYS_chroot SYS_setns SYS_unshare SYS_fsopen SYS_fsconfig SYS_fsmount SYS_fspick
    SYS_open_tree SYS_move_mount SYS_mount_setattr SYS_name_to_handle_at SYS_open_by_handle_at SYS_swapon SYS_swapoff SYS_quotactl
    SYS_quotactl_fd SYS_acct
    // Events of foreign files.
    SYS_inotify_init1 SYS_inotify_add_watch SYS_inotify_rm_watch SYS_fanotify_init SYS_fanotify_mark SYS_lookup_dcookie
    // Large parts of the kernel with a history of vulnerabilities. io_uring could also do what the filter refuses; the
    // kernel does not count memory of memfd_secret(2) and io_setup(2) for the domain.
    SYS_bpf SYS_perf_event_open SYS_userfaultfd SYS_io_uring_setup SYS_io_uring_enter SYS_io_uring_register SYS_io_setup
    SYS_io_submit SYS_io_getevents SYS_io_cancel SYS_io_destroy SYS_memfd_secret SYS_add_key SYS_request_key SYS_keyctl
    SYS_personality SYS_landlock_create_ruleset SYS_landlock_add_rule SYS_landlock_restrict_self
    // The machine.
    SYS_kexec_load SYS_kexec_file_load SYS_init_module SYS_finit_module SYS_delete_module SYS_reboot SYS_syslog SYS_settimeofday
    SYS_clock_settime SYS_clock_adjtime SYS_adjtimex SYS_sethostname SYS_setdomainname SYS_vhangup SYS_nfsservctl
    // The identity of the process.
    SYS_setuid SYS_setgid SYS_setreuid SYS_setregid SYS_setresuid SYS_setresgid SYS_setfsuid SYS_setfsgid SYS_setgroups SYS_capset
    // IPC objects that processes of one user share; some are reachable by number alone, without a call to open them.
    SYS_shmget SYS_shmat SYS_shmdt SYS_shmctl SYS_semget SYS_semop SYS_semtimedop SYS_semctl SYS_msgget SYS_msgsnd SYS_msgrcv
    SYS_msgctl SYS_mq_open SYS_mq_unlink SYS_mq_timedsend SYS_mq_timedreceive SYS_mq_notify SYS_mq_getsetattr
};
/// Further such calls on this processor.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
pub(super) const REFUSED_HERE: &[Call] = calls! {
    SYS_iopl SYS_ioperm SYS_modify_ldt SYS_uselib SYS_inotify_init SYS_ustat SYS_sysfs SYS__sysctl SYS_get_thread_area
    SYS_set_thread_area
};
/// The same for other processors.
#[cfg(not(target_arch = "x86_64"))]
pub(super) const REFUSED_HERE: &[Call] = &[];

/// Calls that libc makes with all signals blocked, so that SIGSYS would end the process: starting a process (fork(3),
/// system(3), posix_spawn(3)), and setting a new thread's processors. These calls are refused without a line in the log.
pub(super) const QUIET: &[i64] = &[
    libc::SYS_clone,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_setscheduler,
    libc::SYS_sched_setparam,
    libc::SYS_sched_setattr,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_fork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_vfork,
];

/// All calls that have a name here.
fn all() -> impl Iterator<Item = &'static Call> {
    let here = GRANTED_HERE.iter().chain(PROGRAMS_HERE).copied();
    [GRANTED, PROGRAMS, NETWORK, UNKNOWN, REFUSED, REFUSED_HERE].into_iter().chain(here).flatten()
}

/// The name of call `number`, as in its manual page.
pub(super) fn name(number: i64) -> Option<&'static str> {
    all().find(|call| call.1 == number).map(plain)
}

/// The number of the call `name`.
pub(super) fn number(name: &str) -> Option<i64> {
    all().find(|call| plain(call) == name).map(|call| call.1)
}

fn plain(call: &Call) -> &'static str {
    call.0.strip_prefix("SYS_").unwrap_or(call.0)
}
