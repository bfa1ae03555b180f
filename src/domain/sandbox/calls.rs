//! Seccomp: which system calls are refused.
//!
//! A list of what is refused, not of what is allowed. Modules are any C with any library, and what libc asks the kernel
//! for changes with its version: a list of what is allowed would break, at an upgrade of the system, modules that nobody
//! here has seen, and be widened until it says little. The files, the user and the network are closed by other layers;
//! the filter closes what those don't cover. The weakness of such a list, that it lets through what it has never heard of,
//! is met by refusing every number beyond [`LAST_KNOWN`] as a call that the kernel does not have, which every program
//! can take from an older kernel. That also closes the x32 calls, whose numbers start at 2^30.
//!
//! EPERM rather than a signal: a library that tries and goes another way keeps working, and the author reads a reason.

use super::{Policy, SandboxError};
use seccompiler::SeccompCmpArgLen::{Dword, Qword};
use seccompiler::SeccompCmpOp::{Eq, Gt, Le, Lt, MaskedEq, Ne};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, sock_filter,
};
use std::collections::BTreeMap;
use std::os::fd::RawFd;

/// mseal(2), the newest system call that the lists below were made with in mind (Linux 6.10). Every architecture gives
/// calls as new as these two the same number; libc does not name them on each.
const LAST_KNOWN: i64 = 462;
/// fchmodat2(2).
const FCHMODAT2: i64 = 452;

/// Refused to everyone, the compiler included.
const ALWAYS: &[i64] = &[
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    // Leaving the process group, by which the server ends all that a child has started.
    libc::SYS_setsid,
    libc::SYS_setpgid,
    // Mounts and namespaces.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_mount_setattr,
    libc::SYS_open_by_handle_at,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_acct,
    libc::SYS_fanotify_init,
    // Large parts of the kernel with a history of holes. io_uring would also do what this filter refuses.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_personality,
    // The machine.
    libc::SYS_kexec_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_reboot,
    libc::SYS_syslog,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_vhangup,
    // Meeting places of processes of one user; one is found by its number alone, without a call to get it.
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_shmdt,
    libc::SYS_shmctl,
    libc::SYS_semget,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_semctl,
    libc::SYS_msgget,
    libc::SYS_msgsnd,
    libc::SYS_msgrcv,
    libc::SYS_msgctl,
    libc::SYS_mq_open,
    libc::SYS_mq_unlink,
];

/// What a pair of sockets could be turned to, were it to leave its other half: any path or name that others listen at.
const MEETING: [libc::c_long; 5] =
    [libc::SYS_connect, libc::SYS_bind, libc::SYS_listen, libc::SYS_accept, libc::SYS_accept4];

/// The bits of socketpair(2)'s type that are no flags.
const SOCKET_TYPE_MASK: u64 = 0xf;

#[cfg(target_arch = "x86_64")]
const ALWAYS_HERE: &[i64] =
    &[libc::SYS_kexec_file_load, libc::SYS_iopl, libc::SYS_ioperm, libc::SYS_modify_ldt, libc::SYS_uselib];
#[cfg(not(target_arch = "x86_64"))]
const ALWAYS_HERE: &[i64] = &[];

/// Refused to code of others: programs, and what a process may do to another of its user or to files by their names alone
/// (landlock does not cover it, and a server that is not root shares its user with its children). Changing the rights to a
/// file takes a descriptor that only reads, so the calls that have one are among them.
const FOREIGN: &[i64] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_pidfd_send_signal,
    libc::SYS_process_mrelease,
    libc::SYS_migrate_pages,
    libc::SYS_setpriority,
    libc::SYS_ioprio_set,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    FCHMODAT2,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fsetxattr,
    libc::SYS_fremovexattr,
];

#[cfg(target_arch = "x86_64")]
const FOREIGN_HERE: &[i64] = &[
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_lchown,
    libc::SYS_utime,
    libc::SYS_utimes,
    libc::SYS_futimesat,
];
#[cfg(not(target_arch = "x86_64"))]
const FOREIGN_HERE: &[i64] = &[];

/// Calls of [`FOREIGN`]'s kind that are harmless on oneself: the number of the argument that names a process.
const OTHERS_BY_PROCESS: [(i64, u8); 4] =
    [(libc::SYS_kill, 0), (libc::SYS_tgkill, 0), (libc::SYS_rt_sigqueueinfo, 0), (libc::SYS_rt_tgsigqueueinfo, 0)];

/// The same where 0 means oneself, and another number may be a thread of anyone.
const OTHERS_BY_THREAD: [i64; 6] = [
    libc::SYS_prlimit64,
    libc::SYS_move_pages,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_setattr,
    libc::SYS_sched_setparam,
    libc::SYS_sched_setscheduler,
];

/// Commands of fcntl(2) by which the kernel signals another process, or has one that opens a file wait.
const FCNTL_OTHERS: [libc::c_int; 5] = [libc::F_SETOWN, F_SETOWN_EX, F_SETSIG, libc::F_SETLEASE, libc::F_NOTIFY];
/// fcntl(2) (`asm-generic/fcntl.h`)
const F_SETSIG: libc::c_int = 10;
/// The same.
const F_SETOWN_EX: libc::c_int = 15;

/// FIOSETOWN, SIOCSPGRP and FIOASYNC (`asm-generic/sockios.h`, `asm-generic/ioctls.h`): F_SETOWN and O_ASYNC as ioctl(2).
const IOCTL_OTHERS: [u64; 3] = [0x8901, 0x8902, 0x5452];

/// What prctl(2) may be asked for by code of others: names, and what changes nothing but its own threads' way to run. Not
/// whether it ends with the server, nor who may trace it.
const PRCTL_GRANTED: &[libc::c_int] = &[
    libc::PR_GET_PDEATHSIG,
    libc::PR_GET_DUMPABLE,
    libc::PR_SET_NAME,
    libc::PR_GET_NAME,
    libc::PR_GET_SECCOMP,
    libc::PR_CAPBSET_READ,
    libc::PR_SET_TIMERSLACK,
    libc::PR_GET_TIMERSLACK,
    libc::PR_SET_NO_NEW_PRIVS,
    libc::PR_GET_NO_NEW_PRIVS,
    libc::PR_SET_THP_DISABLE,
    libc::PR_GET_THP_DISABLE,
    libc::PR_GET_SPECULATION_CTRL,
    PR_SVE_SET_VL,
    PR_SVE_GET_VL,
    PR_PAC_RESET_KEYS,
    PR_SET_TAGGED_ADDR_CTRL,
    PR_GET_TAGGED_ADDR_CTRL,
    PR_SET_VMA,
];
/// `linux/prctl.h`; libc does not name them on each architecture.
const PR_SVE_SET_VL: libc::c_int = 50;
const PR_SVE_GET_VL: libc::c_int = 51;
const PR_PAC_RESET_KEYS: libc::c_int = 54;
const PR_SET_TAGGED_ADDR_CTRL: libc::c_int = 55;
const PR_GET_TAGGED_ADDR_CTRL: libc::c_int = 56;
/// Naming memory, as allocators do.
const PR_SET_VMA: libc::c_int = 0x5356_4d41;

const NAMESPACES: [libc::c_int; 7] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];

/// The last of the descriptors that stay open: see `abi/native/keep.c`, which makes the calls of libc harmless.
const RESERVED_LAST: u64 = 2;
/// The calls that would close or replace one, and the number of the argument that names it.
#[cfg(target_arch = "x86_64")]
const RESERVED_BY: &[(i64, u8)] = &[(libc::SYS_close, 0), (libc::SYS_dup2, 1), (libc::SYS_dup3, 1)];
#[cfg(not(target_arch = "x86_64"))]
const RESERVED_BY: &[(i64, u8)] = &[(libc::SYS_close, 0), (libc::SYS_dup3, 1)];

/// Families for talking to others; getaddrinfo(3) asks the kernel about addresses through netlink.
const FAMILIES: [libc::c_int; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// Landlock covers truncate(2) from this version on.
const LANDLOCK_TRUNCATE: i64 = 3;
/// Landlock covers signals from this version on.
const LANDLOCK_SIGNALS: i64 = 6;

/// Rules by number; a call without rules is refused whatever its arguments.
type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// One argument and what it must be for a rule to hold.
type Test = (u8, SeccompCmpArgLen, SeccompCmpOp, u64);

/// The filters for `policy` on a kernel with version `landlock` of landlock, to be installed in this order. None at all
/// for a processor that the crate does not know.
pub(super) fn filters(policy: &Policy, landlock: i64) -> Result<Vec<BpfProgram>, SandboxError> {
    let Ok(arch) = TargetArch::try_from(std::env::consts::ARCH) else { return Ok(Vec::new()) };
    let filter_error = |error: seccompiler::BackendError| SandboxError::Filter(error.to_string());
    let rules = refused(policy, landlock).map_err(filter_error)?;
    let eperm = SeccompAction::Errno(libc::EPERM as u32);
    // Calls of another architecture (int 0x80) end the process.
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, eperm, arch).map_err(filter_error)?;
    Ok(vec![BpfProgram::try_from(filter).map_err(filter_error)?, unknown_calls()])
}

fn refused(policy: &Policy, landlock: i64) -> Result<Rules, seccompiler::BackendError> {
    let mut rules: Rules = ALWAYS.iter().chain(ALWAYS_HERE).map(|call| (*call, Vec::new())).collect();
    // Typing into the terminal that the server was started in.
    for request in [libc::TIOCSTI, libc::TIOCLINUX] {
        deny(&mut rules, libc::SYS_ioctl, &[(1, Dword, Eq, request)])?;
    }
    for flag in NAMESPACES {
        let flag = flag as u32;
        deny(&mut rules, libc::SYS_clone, &[(0, Dword, MaskedEq(u64::from(flag)), u64::from(flag))])?;
    }
    if policy.network {
        deny(&mut rules, libc::SYS_socket, &FAMILIES.map(|family| (0, Dword, Ne, family as u64)))?;
    } else {
        refuse_to_meet(&mut rules)?;
    }
    if !policy.exec_allowed {
        refuse_to_foreign_code(&mut rules, policy, landlock)?;
    }
    if !policy.threads_allowed && !policy.exec_allowed {
        rules.insert(libc::SYS_clone, Vec::new());
    }
    Ok(rules)
}

/// No sockets but pairs that stay pairs. One of datagrams would take an address with each message.
fn refuse_to_meet(rules: &mut Rules) -> Result<(), seccompiler::BackendError> {
    rules.insert(libc::SYS_socket, Vec::new());
    rules.extend(MEETING.map(|call| (call, Vec::new())));
    deny(rules, libc::SYS_socketpair, &[(0, Dword, Ne, libc::AF_UNIX as u64)])?;
    let paired = [libc::SOCK_STREAM as u64, libc::SOCK_SEQPACKET as u64];
    for kind in (0..=SOCKET_TYPE_MASK).filter(|kind| !paired.contains(kind)) {
        deny(rules, libc::SYS_socketpair, &[(1, Dword, MaskedEq(SOCKET_TYPE_MASK), kind)])?;
    }
    Ok(())
}

fn refuse_to_foreign_code(rules: &mut Rules, policy: &Policy, landlock: i64) -> Result<(), seccompiler::BackendError> {
    rules.extend(FOREIGN.iter().chain(FOREIGN_HERE).map(|call| (*call, Vec::new())));
    let thread = libc::CLONE_THREAD as u64;
    let shares_memory = libc::CLONE_VM as u64;
    // Landlock keeps tracing within the sandbox.
    if policy.traces_itself && landlock > 0 {
        // A process that shares its memory, which is what attaches to the threads; none with memory of its own.
        deny(rules, libc::SYS_clone, &[(0, Dword, MaskedEq(thread | shares_memory), 0)])?;
        rules.remove(&libc::SYS_ptrace);
    } else if !policy.starts_workers {
        deny(rules, libc::SYS_clone, &[(0, Dword, MaskedEq(thread), 0)])?;
    }
    // The process starts no other, so it keeps its number. Where it does, abort(3) of such a process sends a signal to a number
    // that is not known yet; landlock keeps that one within the sandbox.
    let own = u64::from(std::process::id());
    let may_abort = policy.starts_workers && landlock >= LANDLOCK_SIGNALS;
    for (call, argument) in OTHERS_BY_PROCESS {
        let signal = SENDING.iter().find(|(known, _)| *known == call).filter(|_| may_abort);
        let not_abort = signal.map(|(_, argument)| (*argument, Dword, Ne, libc::SIGABRT as u64));
        let tests: Vec<Test> = [(argument, Dword, Ne, own)].into_iter().chain(not_abort).collect();
        deny(rules, call, &tests)?;
    }
    for call in OTHERS_BY_THREAD {
        deny(rules, call, &[(0, Dword, Ne, 0), (0, Dword, Ne, own)])?;
    }
    // The server takes the space on the disk away from a domain by this limit, so modules must not give it back.
    let file_size = u64::from(libc::RLIMIT_FSIZE);
    deny(rules, libc::SYS_prlimit64, &[(1, Dword, Eq, file_size), (2, Qword, Ne, 0)])?;
    deny(rules, libc::SYS_setrlimit, &[(0, Dword, Eq, file_size)])?;
    for command in FCNTL_OTHERS {
        deny(rules, libc::SYS_fcntl, &[(1, Dword, Eq, command as u64)])?;
    }
    let asynchronous = libc::O_ASYNC as u64;
    let set_flags = (1, Dword, Eq, libc::F_SETFL as u64);
    deny(rules, libc::SYS_fcntl, &[set_flags, (2, Dword, MaskedEq(asynchronous), asynchronous)])?;
    for request in IOCTL_OTHERS {
        deny(rules, libc::SYS_ioctl, &[(1, Dword, Eq, request)])?;
    }
    refuse_options(rules, policy)?;
    // The server's log, and what a library writes to its standard streams, must not get into a file of somebody else's.
    rules.insert(libc::SYS_close_range, Vec::new());
    for (call, argument) in RESERVED_BY {
        deny(rules, *call, &[(*argument, Dword, Le, RESERVED_LAST)])?;
    }
    // With no name it is futimens(3), on a file that is open.
    deny(rules, libc::SYS_utimensat, &[(1, Qword, Ne, 0)])?;
    if landlock < LANDLOCK_SIGNALS {
        rules.insert(libc::SYS_tkill, Vec::new());
    }
    if landlock < LANDLOCK_TRUNCATE {
        rules.insert(libc::SYS_truncate, Vec::new());
    }
    Ok(())
}

/// Leaves of prctl(2) what [`PRCTL_GRANTED`] has, and asking to be killed with the server, which is still to be done.
fn refuse_options(rules: &mut Rules, policy: &Policy) -> Result<(), seccompiler::BackendError> {
    let end_with_parent = libc::PR_SET_PDEATHSIG as u64;
    let traced = policy.traces_itself.then_some(libc::PR_SET_DUMPABLE as u64);
    let reaps = policy.starts_workers.then_some(libc::PR_SET_CHILD_SUBREAPER as u64);
    let granted = PRCTL_GRANTED.iter().map(|option| *option as u64).chain([end_with_parent]).chain(traced).chain(reaps);
    let others: Vec<Test> = granted.map(|option| (0, Dword, Ne, option)).collect();
    deny(rules, libc::SYS_prctl, &others)?;
    deny(rules, libc::SYS_prctl, &[(0, Dword, Eq, end_with_parent), (1, Qword, Ne, libc::SIGKILL as u64)])
}

/// Refuses `call` when all of `tests` hold, besides what is refused of it already.
fn deny(rules: &mut Rules, call: i64, tests: &[Test]) -> Result<(), seccompiler::BackendError> {
    let conditions = tests.iter().map(|(argument, length, operator, value)| {
        SeccompCondition::new(*argument, length.clone(), operator.clone(), *value)
    });
    let rule = SeccompRule::new(conditions.collect::<Result<_, _>>()?)?;
    rules.entry(call).or_default().push(rule);
    Ok(())
}

/// Answers ENOSYS to every call after [`LAST_KNOWN`], and to clone3(2): its flags lie in memory, where no filter can look,
/// and libc goes on with clone(2).
fn unknown_calls() -> BpfProgram {
    // linux/bpf_common.h: load a word at an absolute offset; jump if greater, if equal; return.
    const LOAD: u16 = 0x20;
    const JUMP_GREATER: u16 = 0x25;
    const JUMP_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let statement = |code, jt, k| sock_filter { code, jt, jf: 0, k };
    let enosys = u32::from(SeccompAction::Errno(libc::ENOSYS as u32));
    vec![
        // seccomp_data.nr, after the first filter has seen to the architecture.
        statement(LOAD, 0, 0),
        statement(JUMP_GREATER, 2, LAST_KNOWN as u32),
        statement(JUMP_EQUAL, 1, libc::SYS_clone3 as u32),
        statement(RETURN, 0, u32::from(SeccompAction::Allow)),
        statement(RETURN, 0, enosys),
    ]
}

/// Signals that nobody can catch, and the number of the argument that names the signal in each call that sends one to a
/// process or thread.
const UNCATCHABLE: [libc::c_int; 2] = [libc::SIGKILL, libc::SIGSTOP];
const SENDING: [(i64, u8); 5] = [
    (libc::SYS_kill, 1),
    (libc::SYS_tkill, 1),
    (libc::SYS_tgkill, 2),
    (libc::SYS_rt_sigqueueinfo, 1),
    (libc::SYS_rt_tgsigqueueinfo, 2),
];

/// The filter that turns what a module ends its whole process with into SIGSYS on the calling thread, so that it is known whose
/// code that was: exit_group(2) without `mark`, and signals that can't be caught. For a process that has
/// [`Policy::apply`] behind it, and handles SIGSYS.
pub(super) fn trap_ends(mark: u32) -> Result<(), SandboxError> {
    let Ok(arch) = TargetArch::try_from(std::env::consts::ARCH) else { return Ok(()) };
    if missing().is_some() {
        return Ok(());
    }
    let filter_error = |error: seccompiler::BackendError| SandboxError::Filter(error.to_string());
    let mut rules = Rules::new();
    let marked = u64::from(mark);
    for (operator, value) in [(Lt, marked), (Gt, marked | 0xff)] {
        deny(&mut rules, libc::SYS_exit_group, &[(0, Dword, operator, value)]).map_err(filter_error)?;
    }
    for (call, argument) in SENDING {
        for signal in UNCATCHABLE {
            deny(&mut rules, call, &[(argument, Dword, Eq, signal as u64)]).map_err(filter_error)?;
        }
    }
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Trap, arch).map_err(filter_error)?;
    install(&[BpfProgram::try_from(filter).map_err(filter_error)?]).map(drop)
}

/// The filter that refuses clone(2) but for threads: see [`super::no_forks`].
pub(super) fn no_forks() -> Result<(), SandboxError> {
    let Ok(arch) = TargetArch::try_from(std::env::consts::ARCH) else { return Ok(()) };
    if missing().is_some() {
        return Ok(());
    }
    let filter_error = |error: seccompiler::BackendError| SandboxError::Filter(error.to_string());
    let mut rules = Rules::new();
    let is_process = (0, Dword, MaskedEq(libc::CLONE_THREAD as u64), 0);
    deny(&mut rules, libc::SYS_clone, &[is_process]).map_err(filter_error)?;
    let refusal = SeccompAction::Errno(libc::EPERM as u32);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refusal, arch).map_err(filter_error)?;
    install(&[BpfProgram::try_from(filter).map_err(filter_error)?]).map(drop)
}

/// The filter that has closing or replacing one of `descriptors` fail as if it were not open. They stay open for the life of the
/// process: a module that closes what is not its own, a number twice for example, must not cut others off from the server.
pub(super) fn keep_open(descriptors: &[RawFd]) -> Result<(), SandboxError> {
    let Ok(arch) = TargetArch::try_from(std::env::consts::ARCH) else { return Ok(()) };
    if missing().is_some() {
        return Ok(());
    }
    let filter_error = |error: seccompiler::BackendError| SandboxError::Filter(error.to_string());
    let mut rules = Rules::new();
    for descriptor in descriptors.iter().filter_map(|&number| u64::try_from(number).ok()) {
        for (call, argument) in RESERVED_BY {
            deny(&mut rules, *call, &[(*argument, Dword, Eq, descriptor)]).map_err(filter_error)?;
        }
    }
    let refusal = SeccompAction::Errno(libc::EBADF as u32);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refusal, arch).map_err(filter_error)?;
    install(&[BpfProgram::try_from(filter).map_err(filter_error)?]).map(drop)
}

const SECCOMP: &str = "seccomp";

/// Puts the filters in force for the calling thread. Returns what the kernel lacks.
pub(super) fn install(filters: &[BpfProgram]) -> Result<Option<&'static str>, SandboxError> {
    if let Some(missing) = missing() {
        return Ok(Some(missing));
    }
    for filter in filters {
        seccompiler::apply_filter(filter).map_err(|error| SandboxError::Filter(error.to_string()))?;
    }
    Ok(None)
}

/// Whether the kernel has no seccomp filters that answer with an error (Linux 4.14), or the crate none for this
/// processor.
pub(super) fn missing() -> Option<&'static str> {
    let action = libc::SECCOMP_RET_ERRNO;
    // SAFETY: `action` is a readable u32, as SECCOMP_GET_ACTION_AVAIL wants.
    let answer = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) };
    (answer < 0 || TargetArch::try_from(std::env::consts::ARCH).is_err()).then_some(SECCOMP)
}
