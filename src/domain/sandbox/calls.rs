//! Seccomp: the system calls that are granted.
//!
//! The list of granted calls ([`list`]) covers what the examples, the SDK, libc, threads, the runtimes of C++, Rust and
//! Zig, OpenMP, BLAS and the sanitizers use. The list has whole families, so that an upgrade of libc breaks no module. All other
//! calls are refused, including those unknown to this program. Calls whose arguments matter are granted under conditions
//! ([`refused`]).
//!
//! A refused call returns EPERM instead of ending the process: a library that tries an alternative continues to work, and
//! the author sees a reason. Where a library expects ENOSYS from an older kernel, the call returns that. In a domain's
//! process a refusal arrives as SIGSYS ([`trapped`]); its handler notes the call for the log and returns the error.

mod list;
mod numbers;

use super::{Policy, SandboxError};
use list::{FCHMODAT2, QUIET, SETRLIMIT};
use numbers::{Answers, RETURN};
use seccompiler::SeccompCmpArgLen::{Dword, Qword};
use seccompiler::SeccompCmpOp::{Eq, Gt, Le, Lt, MaskedEq, Ne};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};
use std::collections::BTreeMap;
use std::os::fd::RawFd;

/// The bits of socketpair(2)'s type that are not flags.
const SOCKET_TYPE_MASK: u64 = 0xf;

/// Calls that are harmless for the own process: the number of the argument that names a process.
const OTHERS_BY_PROCESS: [(i64, u8); 4] =
    [(libc::SYS_kill, 0), (libc::SYS_tgkill, 0), (libc::SYS_rt_sigqueueinfo, 0), (libc::SYS_rt_tgsigqueueinfo, 0)];

/// The same, for calls where 0 means the caller and any other number may be a thread of another process.
const OTHERS_BY_THREAD: [i64; 6] = [
    libc::SYS_prlimit64,
    libc::SYS_move_pages,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_setattr,
    libc::SYS_sched_setparam,
    libc::SYS_sched_setscheduler,
];

/// Commands of fcntl(2) that make the kernel signal another process, or make a process wait that opens a file.
const FCNTL_OTHERS: [libc::c_int; 5] = [libc::F_SETOWN, F_SETOWN_EX, F_SETSIG, libc::F_SETLEASE, libc::F_NOTIFY];
/// fcntl(2) (`asm-generic/fcntl.h`)
const F_SETSIG: libc::c_int = 10;
/// From the same header.
const F_SETOWN_EX: libc::c_int = 15;

/// The permitted requests of ioctl(2) (`asm-generic/ioctls.h`, `linux/fs.h`): is it a terminal, and of what size; the
/// number of readable bytes; non-blocking mode; close-on-exec; the flags of a file; a copy that shares blocks. The
/// filter refuses FIOSETOWN, SIOCSPGRP and FIOASYNC, which act like F_SETOWN and O_ASYNC. TIOCSTI and TIOCLINUX, which
/// type input, are refused, too. So are FS_IOC_SETFLAGS and FS_IOC_FSSETXATTR, which change files that are only
/// readable.
const IOCTL_GRANTED: &[u64] = &[
    0x5401,      // TCGETS
    0x802c_542a, // TCGETS2
    0x5413,      // TIOCGWINSZ
    0x5411,      // TIOCOUTQ
    0x541b,      // FIONREAD
    0x5421,      // FIONBIO
    0x5450,      // FIONCLEX
    0x5451,      // FIOCLEX
    0x5460,      // FIOQSIZE
    0x2,         // FIGETBSZ
    0x8008_6601, // FS_IOC_GETFLAGS
    0x4004_9409, // FICLONE
    0x4020_940d, // FICLONERANGE
];
/// The permitted requests for sockets (`asm-generic/sockios.h`, `linux/sockios.h`): the mark of urgent data, and the names
/// and addresses of interfaces.
const IOCTL_NETWORK: &[u64] = &[0x8905, 0x8910, 0x8912, 0x8913, 0x8915, 0x8919, 0x891b, 0x8921, 0x8927, 0x8933];

/// Socket options that pass a program to the kernel: SO_ATTACH_FILTER, SO_ATTACH_BPF and the two for SO_REUSEPORT.
const SOCKET_PROGRAMS: [libc::c_int; 4] = [26, 50, 51, 52];

/// Socket options that choose the route of packets: IP_OPTIONS, IPV6_RTHDR and IPV6_2292PKTOPTIONS (`linux/in.h`,
/// `linux/in6.h`).
const ROUTES: [(libc::c_int, libc::c_int); 3] =
    [(libc::IPPROTO_IP, 4), (libc::IPPROTO_IPV6, 57), (libc::IPPROTO_IPV6, 6)];

/// Calls that open files, and the number of the argument with the flags; the next argument is the mode.
#[cfg(target_arch = "x86_64")]
const OPENS: &[(i64, u8)] = &[(libc::SYS_open, 1), (libc::SYS_openat, 2)];
#[cfg(not(target_arch = "x86_64"))]
const OPENS: &[(i64, u8)] = &[(libc::SYS_openat, 2)];
/// O_TMPFILE without O_DIRECTORY.
const TMPFILE: libc::c_int = libc::O_TMPFILE & !libc::O_DIRECTORY;
/// Calls that set the mode of a file, and the number of the argument with the mode.
#[cfg(target_arch = "x86_64")]
const MODES: &[(i64, u8)] = &[
    (libc::SYS_creat, 1),
    (libc::SYS_mknod, 1),
    (libc::SYS_chmod, 1),
    (libc::SYS_mknodat, 2),
    (libc::SYS_fchmod, 1),
    (libc::SYS_fchmodat, 2),
    (FCHMODAT2, 2),
];
#[cfg(not(target_arch = "x86_64"))]
const MODES: &[(i64, u8)] = &[(libc::SYS_mknodat, 2), (libc::SYS_fchmod, 1), (libc::SYS_fchmodat, 2), (FCHMODAT2, 2)];

/// The requests of prctl(2) that foreign code may make: names, and settings that affect only how its own threads run.
/// The list excludes the requests that keep the process alive after the server or permit others to trace it.
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
/// From `linux/prctl.h`; libc does not define these on each architecture.
const PR_SVE_SET_VL: libc::c_int = 50;
const PR_SVE_GET_VL: libc::c_int = 51;
const PR_PAC_RESET_KEYS: libc::c_int = 54;
const PR_SET_TAGGED_ADDR_CTRL: libc::c_int = 55;
const PR_GET_TAGGED_ADDR_CTRL: libc::c_int = 56;
/// Gives memory a name, as allocators do.
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

/// The last descriptor that must stay open: see `abi/native/keep.c`, which makes the calls of libc harmless.
const RESERVED_LAST: u64 = 2;
/// The calls that could close or replace one of these descriptors, and the number of the argument that has the descriptor.
#[cfg(target_arch = "x86_64")]
const RESERVED_BY: &[(i64, u8)] = &[(libc::SYS_close, 0), (libc::SYS_dup2, 1), (libc::SYS_dup3, 1)];
#[cfg(not(target_arch = "x86_64"))]
const RESERVED_BY: &[(i64, u8)] = &[(libc::SYS_close, 0), (libc::SYS_dup3, 1)];

/// The address families for communication; getaddrinfo(3) asks the kernel for addresses through netlink.
const FAMILIES: [libc::c_int; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// Landlock covers truncate(2) from this version on.
const LANDLOCK_TRUNCATE: i64 = 3;
/// Landlock covers signals from this version on.
const LANDLOCK_SIGNALS: i64 = 6;

/// Rules by call number; a call with an empty list of rules is always refused.
type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// A condition on one argument of a call.
type Test = (u8, SeccompCmpArgLen, SeccompCmpOp, u64);

/// The names in the policy that are not system calls.
pub(super) fn unknown_names(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).filter(|name| list::number(name).is_none()).collect()
}

/// The call's name for the log, or its number if it has no name.
pub(super) fn name(number: i64) -> String {
    list::name(number).map_or_else(|| format!("number {number}"), str::to_owned)
}

/// Whether `policy` grants the call under conditions. While filters are still to be installed, seccomp(2) is granted.
pub(super) fn is_conditional(policy: &Policy, number: i64) -> bool {
    number != libc::SYS_seccomp && numbers::granted(policy).contains(&number)
}

/// Whether `--allow-net` grants the call.
pub(super) fn is_network(number: i64) -> bool {
    list::NETWORK.iter().any(|call| call.1 == number)
}

impl From<seccompiler::BackendError> for SandboxError {
    fn from(error: seccompiler::BackendError) -> Self {
        Self::Filter(error.to_string())
    }
}

/// The architecture for filters; `None`: the crate does not support this processor.
fn architecture() -> Option<TargetArch> {
    TargetArch::try_from(std::env::consts::ARCH).ok()
}

/// The filters for `policy` on a kernel with version `landlock` of Landlock, in the order of their installation. There are
/// none for a processor that the crate does not support.
pub(super) fn filters(policy: &Policy, landlock: i64) -> Result<Vec<BpfProgram>, SandboxError> {
    let Some(arch) = architecture() else { return Ok(Vec::new()) };
    let rules = refused(policy, landlock)?;
    let eperm = SeccompAction::Errno(libc::EPERM as u32);
    // Calls of another architecture (int 0x80) end the process.
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, eperm, arch)?;
    let answers = Answers {
        refused: libc::SECCOMP_RET_ERRNO | libc::EPERM as u32,
        unknown: libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32,
    };
    let numbers = numbers::filter(&numbers::granted(policy), answers)?;
    Ok(vec![BpfProgram::try_from(filter)?, numbers])
}

/// The filters that turn the refusals of [`filters`] into SIGSYS, for a process that has installed those and handles the
/// signal. The handler makes the call return the error in `si_errno`. These filters must be the last ones, since they
/// refuse further filters.
pub(super) fn trapped(policy: &Policy, landlock: i64) -> Result<Vec<BpfProgram>, SandboxError> {
    let Some(arch) = architecture() else { return Ok(Vec::new()) };
    let trap_eperm = libc::SECCOMP_RET_TRAP | libc::EPERM as u32;
    let mut rules = refused(policy, landlock)?;
    rules.retain(|call, _| !QUIET.contains(call));
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Trap, arch)?;
    let mut conditions = BpfProgram::try_from(filter)?;
    for step in conditions.iter_mut().filter(|step| step.code == RETURN && step.k == libc::SECCOMP_RET_TRAP) {
        step.k = trap_eperm;
    }
    let mut granted = numbers::granted(policy);
    // The last filter decides about these calls alone.
    granted.extend(QUIET);
    let is_named = |name: &str| policy.calls.iter().any(|known| known == name);
    granted.retain(|call| match *call {
        libc::SYS_seccomp => is_named("seccomp"),
        libc::SYS_pidfd_open => is_named("pidfd_open"),
        _ => true,
    });
    // A missing call is normal for libc, so it is not reported.
    let unknown = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
    // The filter that refuses further filters is the last.
    Ok(vec![conditions, numbers::filter(&granted, Answers { refused: trap_eperm, unknown })?])
}

/// The conditions under which calls are refused although [`numbers`] lets them pass.
fn refused(policy: &Policy, landlock: i64) -> Result<Rules, seccompiler::BackendError> {
    let mut rules = Rules::new();
    for flag in NAMESPACES {
        let flag = flag as u32;
        deny(&mut rules, libc::SYS_clone, &[(0, Dword, MaskedEq(u64::from(flag)), u64::from(flag))])?;
    }
    let requests = IOCTL_GRANTED.iter().chain(policy.network.then_some(IOCTL_NETWORK).into_iter().flatten());
    deny(&mut rules, libc::SYS_ioctl, &requests.map(|request| (1, Dword, Ne, *request)).collect::<Vec<Test>>())?;
    refuse_set_id(&mut rules)?;
    refuse_to_open(&mut rules)?;
    if policy.network {
        deny(&mut rules, libc::SYS_socket, &FAMILIES.map(|family| (0, Dword, Ne, family as u64)))?;
    } else {
        refuse_to_meet(&mut rules)?;
        if policy.connects {
            refuse_but_streams(&mut rules)?;
        }
    }
    let socket = (1, Dword, Eq, libc::SOL_SOCKET as u64);
    for option in SOCKET_PROGRAMS {
        deny(&mut rules, libc::SYS_setsockopt, &[socket.clone(), (2, Dword, Eq, option as u64)])?;
    }
    if !policy.exec_allowed {
        refuse_to_foreign_code(&mut rules, policy, landlock)?;
    }
    if !policy.threads_allowed && !policy.exec_allowed {
        rules.insert(libc::SYS_clone, Vec::new());
    }
    // A call that the operator grants is granted with any arguments.
    rules.retain(|call, _| !policy.calls.iter().any(|name| list::number(name) == Some(*call)));
    Ok(rules)
}

/// Refuses to make set-user-ID and set-group-ID files.
fn refuse_set_id(rules: &mut Rules) -> Result<(), seccompiler::BackendError> {
    for bit in [libc::S_ISUID, libc::S_ISGID].map(u64::from) {
        let has_bit = |argument| (argument, Dword, MaskedEq(bit), bit);
        for (call, mode) in MODES {
            deny(rules, *call, &[has_bit(*mode)])?;
        }
        for (call, flags) in OPENS {
            // Without these flags the call has no mode.
            for flag in [libc::O_CREAT, TMPFILE].map(|flag| flag as u64) {
                deny(rules, *call, &[(*flags, Dword, MaskedEq(flag), flag), has_bit(flags + 1)])?;
            }
        }
    }
    Ok(())
}

/// Refuses O_TRUNC with a file opened for reading, which Landlock does not cover before its version 3. Also refuses
/// descriptors opened neither for reading nor for writing (access mode 3), which Landlock does not cover at all.
fn refuse_to_open(rules: &mut Rules) -> Result<(), seccompiler::BackendError> {
    let (truncate, mode) = (libc::O_TRUNC as u64, libc::O_ACCMODE as u64);
    for (call, flags) in OPENS {
        deny(rules, *call, &[(*flags, Dword, MaskedEq(truncate | mode), truncate | libc::O_RDONLY as u64)])?;
        deny(rules, *call, &[(*flags, Dword, MaskedEq(mode), mode)])?;
    }
    Ok(())
}

/// Refuses all sockets but connected pairs. A datagram pair is refused, since each message could carry an address.
fn refuse_to_meet(rules: &mut Rules) -> Result<(), seccompiler::BackendError> {
    deny(rules, libc::SYS_socketpair, &[(0, Dword, Ne, libc::AF_UNIX as u64)])?;
    let paired = [libc::SOCK_STREAM as u64, libc::SOCK_SEQPACKET as u64];
    for kind in (0..=SOCKET_TYPE_MASK).filter(|kind| !paired.contains(kind)) {
        deny(rules, libc::SYS_socketpair, &[(1, Dword, MaskedEq(SOCKET_TYPE_MASK), kind)])?;
    }
    Ok(())
}

/// Refuses all sockets but those of TCP, and all ways to reach a peer without connect(2): a message that opens a
/// connection, and a route chosen by the sender.
fn refuse_but_streams(rules: &mut Rules) -> Result<(), seccompiler::BackendError> {
    let is_none_of = |argument: u8, all: &[libc::c_int]| -> Vec<Test> {
        all.iter().map(|value| (argument, Dword, Ne, *value as u64)).collect()
    };
    deny(rules, libc::SYS_socket, &is_none_of(0, &[libc::AF_INET, libc::AF_INET6]))?;
    for kind in (0..=SOCKET_TYPE_MASK).filter(|kind| *kind != libc::SOCK_STREAM as u64) {
        deny(rules, libc::SYS_socket, &[(1, Dword, MaskedEq(SOCKET_TYPE_MASK), kind)])?;
    }
    deny(rules, libc::SYS_socket, &is_none_of(2, &[0, libc::IPPROTO_TCP]))?;
    let opens = libc::MSG_FASTOPEN as u64;
    for (call, flags) in [(libc::SYS_sendto, 3), (libc::SYS_sendmsg, 2), (libc::SYS_sendmmsg, 3)] {
        deny(rules, call, &[(flags, Dword, MaskedEq(opens), opens)])?;
    }
    for (level, name) in ROUTES {
        deny(rules, libc::SYS_setsockopt, &[(1, Dword, Eq, level as u64), (2, Dword, Eq, name as u64)])?;
    }
    Ok(())
}

fn refuse_to_foreign_code(rules: &mut Rules, policy: &Policy, landlock: i64) -> Result<(), seccompiler::BackendError> {
    let thread = libc::CLONE_THREAD as u64;
    let shares_memory = libc::CLONE_VM as u64;
    // Landlock restricts tracing to the sandbox.
    if policy.traces_itself && landlock > 0 {
        // A process that shares the caller's memory may be made, because the leak check attaches to threads from such a
        // process. A process with memory of its own may not be made.
        deny(rules, libc::SYS_clone, &[(0, Dword, MaskedEq(thread | shares_memory), 0)])?;
    } else if !policy.starts_workers {
        deny(rules, libc::SYS_clone, &[(0, Dword, MaskedEq(thread), 0)])?;
    }
    // The process starts no other process, so its id does not change. If it does start others, abort(3) in such a process
    // signals an id that is unknown here; Landlock restricts that signal to the sandbox.
    let own = u64::from(std::process::id());
    let may_abort = policy.starts_workers && landlock >= LANDLOCK_SIGNALS;
    for (call, argument) in OTHERS_BY_PROCESS {
        // The exception is only for tgkill, which names a thread: it is not a call that can signal all processes.
        let not_abort = (may_abort && call == libc::SYS_tgkill).then_some((2, Dword, Ne, libc::SIGABRT as u64));
        let tests: Vec<Test> = [(argument, Dword, Ne, own)].into_iter().chain(not_abort).collect();
        deny(rules, call, &tests)?;
    }
    for call in OTHERS_BY_THREAD {
        deny(rules, call, &[(0, Dword, Ne, 0), (0, Dword, Ne, own)])?;
    }
    // Only the own thread's priority may change, and only downwards: the hard limit (RLIMIT_NICE) is 0.
    deny(rules, libc::SYS_setpriority, &[(0, Dword, Ne, libc::PRIO_PROCESS.into())])?;
    deny(rules, libc::SYS_setpriority, &[(1, Dword, Ne, 0)])?;
    // Through this limit the server takes disk space away from a domain, so modules must not raise it again.
    let file_size = u64::from(libc::RLIMIT_FSIZE);
    deny(rules, libc::SYS_prlimit64, &[(1, Dword, Eq, file_size), (2, Qword, Ne, 0)])?;
    deny(rules, SETRLIMIT, &[(0, Dword, Eq, file_size)])?;
    for command in FCNTL_OTHERS {
        deny(rules, libc::SYS_fcntl, &[(1, Dword, Eq, command as u64)])?;
    }
    let asynchronous = libc::O_ASYNC as u64;
    let set_flags = (1, Dword, Eq, libc::F_SETFL as u64);
    deny(rules, libc::SYS_fcntl, &[set_flags, (2, Dword, MaskedEq(asynchronous), asynchronous)])?;
    refuse_options(rules, policy)?;
    // The server's log and output to the standard streams must not go to a foreign file.
    for (call, argument) in RESERVED_BY {
        deny(rules, *call, &[(*argument, Dword, Le, RESERVED_LAST)])?;
    }
    // Without a name the call is futimens(3), on an open file.
    deny(rules, libc::SYS_utimensat, &[(1, Qword, Ne, 0)])?;
    if landlock < LANDLOCK_SIGNALS {
        rules.insert(libc::SYS_tkill, Vec::new());
    }
    if landlock < LANDLOCK_TRUNCATE {
        rules.insert(libc::SYS_truncate, Vec::new());
    }
    Ok(())
}

/// Restricts prctl(2) to [`PRCTL_GRANTED`], and to the request to be killed with the server, which is still to be made.
fn refuse_options(rules: &mut Rules, policy: &Policy) -> Result<(), seccompiler::BackendError> {
    let end_with_parent = libc::PR_SET_PDEATHSIG as u64;
    let traced = policy.traces_itself.then_some(libc::PR_SET_DUMPABLE as u64);
    let reaps = policy.starts_workers.then_some(libc::PR_SET_CHILD_SUBREAPER as u64);
    let granted = PRCTL_GRANTED.iter().map(|option| *option as u64).chain([end_with_parent]).chain(traced).chain(reaps);
    let others: Vec<Test> = granted.map(|option| (0, Dword, Ne, option)).collect();
    deny(rules, libc::SYS_prctl, &others)?;
    deny(rules, libc::SYS_prctl, &[(0, Dword, Eq, end_with_parent), (1, Qword, Ne, libc::SIGKILL as u64)])
}

/// Adds the refusal of `call` when all of `tests` hold.
fn deny(rules: &mut Rules, call: i64, tests: &[Test]) -> Result<(), seccompiler::BackendError> {
    let conditions = tests.iter().map(|(argument, length, operator, value)| {
        SeccompCondition::new(*argument, length.clone(), operator.clone(), *value)
    });
    let rule = SeccompRule::new(conditions.collect::<Result<_, _>>()?)?;
    rules.entry(call).or_default().push(rule);
    Ok(())
}

/// Signals that can't be caught, and, for each call that signals a process or thread, the number of the argument that names
/// the signal.
const UNCATCHABLE: [libc::c_int; 2] = [libc::SIGKILL, libc::SIGSTOP];
const SENDING: [(i64, u8); 5] = [
    (libc::SYS_kill, 1),
    (libc::SYS_tkill, 1),
    (libc::SYS_tgkill, 2),
    (libc::SYS_rt_sigqueueinfo, 1),
    (libc::SYS_rt_tgsigqueueinfo, 2),
];

/// Installs the filter that turns a module's end of the whole process into SIGSYS on the calling thread, so that the
/// handler knows whose code it was. The filter concerns exit_group(2) without `mark`, and signals that can't be caught.
/// The process must have completed [`Policy::apply`] and must handle SIGSYS.
pub(super) fn trap_ends(mark: u32) -> Result<(), SandboxError> {
    let Some(arch) = architecture() else { return Ok(()) };
    if missing().is_some() {
        return Ok(());
    }
    let mut rules = Rules::new();
    let marked = u64::from(mark);
    for (operator, value) in [(Lt, marked), (Gt, marked | 0xff)] {
        deny(&mut rules, libc::SYS_exit_group, &[(0, Dword, operator, value)])?;
    }
    for (call, argument) in SENDING {
        for signal in UNCATCHABLE {
            deny(&mut rules, call, &[(argument, Dword, Eq, signal as u64)])?;
        }
    }
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Trap, arch)?;
    install(&[BpfProgram::try_from(filter)?]).map(drop)
}

/// Installs the filter that refuses clone(2) except for threads: see [`super::no_forks`].
pub(super) fn no_forks() -> Result<(), SandboxError> {
    let Some(arch) = architecture() else { return Ok(()) };
    if missing().is_some() {
        return Ok(());
    }
    let mut rules = Rules::new();
    let is_process = (0, Dword, MaskedEq(libc::CLONE_THREAD as u64), 0);
    deny(&mut rules, libc::SYS_clone, &[is_process])?;
    let refusal = SeccompAction::Errno(libc::EPERM as u32);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refusal, arch)?;
    install(&[BpfProgram::try_from(filter)?]).map(drop)
}

/// Installs the filter that refuses pidfd_open(2), and filters after this one, unless they are `named`: see
/// [`super::no_pidfds`].
pub(super) fn no_pidfds(named: &[String]) -> Result<(), SandboxError> {
    let Some(arch) = architecture() else { return Ok(()) };
    let own = [(libc::SYS_seccomp, SECCOMP), (libc::SYS_pidfd_open, "pidfd_open")];
    let refused = own.into_iter().filter(|(_, name)| !named.iter().any(|known| known == name));
    let rules: Rules = refused.map(|(call, _)| (call, Vec::new())).collect();
    if rules.is_empty() || missing().is_some() {
        return Ok(());
    }
    let refusal = SeccompAction::Errno(libc::EPERM as u32);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refusal, arch)?;
    install(&[BpfProgram::try_from(filter)?]).map(drop)
}

/// Installs the filter that makes closing or replacing one of `descriptors` fail as if it were not open. The
/// descriptors stay open as long as the process lives. A module that closes a foreign descriptor, for example by
/// closing a number twice, must not cut the other modules off from the server.
pub(super) fn keep_open(descriptors: &[RawFd]) -> Result<(), SandboxError> {
    let Some(arch) = architecture() else { return Ok(()) };
    if missing().is_some() {
        return Ok(());
    }
    let mut rules = Rules::new();
    for descriptor in descriptors.iter().filter_map(|&number| u64::try_from(number).ok()) {
        for (call, argument) in RESERVED_BY {
            deny(&mut rules, *call, &[(*argument, Dword, Eq, descriptor)])?;
        }
    }
    let refusal = SeccompAction::Errno(libc::EBADF as u32);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refusal, arch)?;
    install(&[BpfProgram::try_from(filter)?]).map(drop)
}

const SECCOMP: &str = "seccomp";

/// Installs the filters for the calling thread. Returns the missing layer, if the kernel lacks seccomp.
pub(super) fn install(filters: &[BpfProgram]) -> Result<Option<&'static str>, SandboxError> {
    if let Some(missing) = missing() {
        return Ok(Some(missing));
    }
    for filter in filters {
        seccompiler::apply_filter(filter).map_err(|error| SandboxError::Filter(error.to_string()))?;
    }
    Ok(None)
}

/// The missing layer, if the kernel has no seccomp filters that return an error (Linux 4.14), or the crate does not support
/// this processor.
pub(super) fn missing() -> Option<&'static str> {
    let action = libc::SECCOMP_RET_ERRNO;
    // SAFETY: `action` is a readable u32, as SECCOMP_GET_ACTION_AVAIL requires.
    let answer = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) };
    (answer < 0 || architecture().is_none()).then_some(SECCOMP)
}
