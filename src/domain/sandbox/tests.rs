//! Each permission and each refusal, tried by a process that has applied the policy to itself.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::domain::process::symbol;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;

/// Runs before the test harness of this program, so that children of the tests have one thread, as the server's have. `cweb
/// sandbox …` works here, too, for the tests of the compiler.
#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = before_main;

extern "C" fn before_main() {
    let args: Vec<std::ffi::OsString> = std::env::args_os().collect();
    match args.as_slice() {
        [_, command, policy, program @ ..] if command == program::COMMAND || command == program::HELD_COMMAND => {
            let _ = program::main(policy, program, command == program::HELD_COMMAND);
            // This exit code does not reach the caller; tests that need it use the real program.
            std::process::exit(125);
        }
        [_, command, offset] if command == symbol::COMMAND => {
            let code = symbol::main(std::slice::from_ref(offset));
            std::io::Write::flush(&mut std::io::stdout()).unwrap();
            std::process::exit(i32::from(code != std::process::ExitCode::SUCCESS));
        }
        [_, command, policy, attempts @ ..] if command == "sandbox-try" => {
            let policy: Policy = serde_json::from_str(policy.to_str().unwrap()).unwrap();
            let missing = policy.apply().unwrap().missing;
            println!("missing {}", missing.len());
            for attempt in attempts {
                println!("{}", attempt_named(attempt.to_str().unwrap()));
            }
            std::process::exit(0);
        }
        _ => {}
    }
}

/// Makes the attempt and prints its result: `ok`, or the error's number.
fn attempt_named(text: &str) -> String {
    let (name, argument) = text.split_once(':').unwrap_or((text, ""));
    let path = CString::new(argument).unwrap();
    let io = |result: io::Result<()>| result.map_or_else(|error| error.raw_os_error().unwrap(), |()| 0);
    let call = |result: i64| if result < 0 { io::Error::last_os_error().raw_os_error().unwrap() } else { 0 };
    let parent = i64::from(std::os::unix::process::parent_id());
    let own = i64::from(std::process::id());
    // SAFETY: raw system calls with valid arguments, of a process that ends right after.
    let number = unsafe {
        match name {
            "read" => io(std::fs::read(argument).map(drop)),
            "list" => io(std::fs::read_dir(argument).map(drop)),
            "write" => io(std::fs::write(argument, "x")),
            "make" => io(std::fs::create_dir(argument)),
            "remove" => io(std::fs::remove_file(argument)),
            "chmod" => call(libc::chmod(path.as_ptr(), 0o777).into()),
            "truncate" => call(libc::truncate(path.as_ptr(), 0).into()),
            "exec" => io(Command::new(argument).status().map(drop)),
            "fork" => {
                let child = libc::fork();
                if child == 0 {
                    libc::_exit(0);
                }
                call(child.into())
            }
            "thread" => io(std::thread::Builder::new().spawn(|| {}).map(|thread| thread.join().unwrap())),
            "socket" => call(libc::socket(argument.parse().unwrap(), libc::SOCK_STREAM, 0).into()),
            "socketpair" => call(libc::socketpair(libc::AF_UNIX, libc::SOCK_STREAM, 0, [0; 2].as_mut_ptr()).into()),
            "datagrams" => call(libc::socketpair(libc::AF_UNIX, libc::SOCK_DGRAM, 0, [0; 2].as_mut_ptr()).into()),
            "packets" => {
                let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
                call(libc::socketpair(libc::AF_UNIX, kind, 0, [0; 2].as_mut_ptr()).into())
            }
            "connect" => call(libc::connect(0, std::ptr::null(), 0).into()),
            "bind" => call(libc::bind(0, std::ptr::null(), 0).into()),
            "shmat" => call(libc::syscall(libc::SYS_shmat, 0, 0, 0)),
            "msgsnd" => call(libc::syscall(libc::SYS_msgsnd, 0, 0, 0, 0)),
            "semop" => call(libc::syscall(libc::SYS_semop, 0, 0, 0)),
            "fchmod" => call(libc::fchmod(0, 0o600).into()),
            "fchown" => call(libc::fchown(0, u32::MAX, u32::MAX).into()),
            "own" => call(libc::fcntl(0, libc::F_SETOWN, std::os::unix::process::parent_id()).into()),
            "async" => call(libc::fcntl(0, libc::F_SETFL, libc::O_ASYNC).into()),
            "nonblock" => call(libc::fcntl(0, libc::F_SETFL, libc::O_NONBLOCK).into()),
            "fiosetown" => call(libc::ioctl(0, 0x8901, &raw const own).into()),
            "survive" => call(libc::prctl(libc::PR_SET_PDEATHSIG, 0).into()),
            "end-with-parent" => call(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL).into()),
            "dumpable" => call(libc::prctl(libc::PR_SET_DUMPABLE, 1).into()),
            "tracer" => call(libc::prctl(libc::PR_SET_PTRACER, -1_i64).into()),
            "name" => call(libc::prctl(libc::PR_SET_NAME, c"name".as_ptr()).into()),
            "ptrace" => call(libc::ptrace(libc::PTRACE_ATTACH, parent, 0, 0)),
            "kill-parent" => call(libc::syscall(libc::SYS_kill, parent, 0)),
            "abort-parent" => call(libc::syscall(libc::SYS_kill, parent, libc::SIGABRT)),
            "no-forks" => i32::from(no_forks().is_err()),
            "kill-self" => call(libc::syscall(libc::SYS_kill, own, 0)),
            "mount" => call(libc::mount(c"x".as_ptr(), c"/".as_ptr(), c"tmpfs".as_ptr(), 0, std::ptr::null()).into()),
            "unshare" => call(libc::unshare(libc::CLONE_NEWUSER).into()),
            "setsid" => call(libc::setsid().into()),
            "io_uring" => call(libc::syscall(libc::SYS_io_uring_setup, 1, 0)),
            "clone3" => call(libc::syscall(libc::SYS_clone3, 0, 0)),
            "unknown" => call(libc::syscall(100_000)),
            "x32" => call(libc::syscall(0x4000_0000 + libc::SYS_getpid)),
            "setuid" => call(libc::setuid(0).into()),
            "limit-parent" => call(libc::syscall(libc::SYS_prlimit64, parent, libc::RLIMIT_NOFILE, 0, 0)),
            "limit-self" => call(libc::syscall(libc::SYS_prlimit64, 0, libc::RLIMIT_NOFILE, 0, 0)),
            "memory" => {
                let size = argument.parse::<usize>().unwrap();
                let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
                let map = libc::mmap(std::ptr::null_mut(), size, libc::PROT_READ, flags, -1, 0);
                call(if map == libc::MAP_FAILED { -1 } else { 0 })
            }
            "uid" => return libc::geteuid().to_string(),
            "capabilities" => {
                let status = std::fs::read_to_string("/proc/self/status").unwrap();
                return status.lines().find_map(|line| line.strip_prefix("CapEff:\t")).unwrap().to_owned();
            }
            _ => panic!("no attempt {name}"),
        }
    };
    if number == 0 { "ok".to_owned() } else { number.to_string() }
}

/// The result of each attempt under `policy`.
fn attempts(policy: &Policy, attempts: &[&str]) -> Vec<String> {
    let policy = serde_json::to_string(policy).unwrap();
    let mut command = Command::new("/proc/self/exe");
    let output = command.args(["sandbox-try", &policy]).args(attempts).output().unwrap();
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let mut lines = text.lines().map(str::to_owned);
    let first = lines.next();
    assert_eq!(first.as_deref(), Some(format!("missing {}", missing().len()).as_str()), "{output:?}");
    let lines: Vec<String> = lines.collect();
    assert_eq!(lines.len(), attempts.len(), "{output:?}");
    lines
}

fn expect(policy: &Policy, expected: &[(&str, &str)]) {
    let names: Vec<&str> = expected.iter().map(|(name, _)| *name).collect();
    let found = attempts(policy, &names);
    for ((name, expected), found) in expected.iter().zip(found) {
        assert_eq!(found, *expected, "{name} under {policy:?}");
    }
}

const EPERM: &str = "1";
const EACCES: &str = "13";
const ENOSYS: &str = "38";
const ENOMEM: &str = "12";

/// A module's policy: system libraries, threads, nothing else.
fn foreign() -> Policy {
    Policy { read: system_paths(), threads_allowed: true, ..Policy::default() }
}

fn all_here() -> bool {
    if missing().is_empty() {
        return true;
    }
    eprintln!("skipped: this kernel has no {:?}", missing());
    false
}

#[test]
fn files_are_refused_unless_granted() {
    if !all_here() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for name in ["readable", "writable"] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
        std::fs::write(dir.path().join(name).join("f"), "text").unwrap();
    }
    std::fs::write(dir.path().join("secret"), "key").unwrap();
    std::os::unix::fs::symlink("../secret", dir.path().join("writable/link")).unwrap();
    let at = |name: &str| dir.path().join(name);
    let policy = Policy { read: vec![at("readable"), at("absent")], write: vec![at("writable")], ..foreign() };
    let cases = [
        ("read", "readable/f", "ok"),
        ("list", "readable", "ok"),
        ("write", "readable/f", EACCES),
        ("write", "readable/new", EACCES),
        ("remove", "readable/f", EACCES),
        ("truncate", "readable/f", EACCES),
        ("chmod", "readable/f", EPERM),
        ("write", "writable/f", "ok"),
        ("read", "writable/f", "ok"),
        ("make", "writable/d", "ok"),
        ("write", "writable/d/f", "ok"),
        ("remove", "writable/f", "ok"),
        ("chmod", "writable/d/f", EPERM),
        ("read", "secret", EACCES),
        ("read", "writable/link", EACCES),
        ("read", "writable/../secret", EACCES),
        ("write", "secret", EACCES),
        ("chmod", "secret", EPERM),
        ("list", ".", EACCES),
    ];
    let texts = cases.map(|(name, file, _)| format!("{name}:{}", at(file).display()));
    let expected: Vec<(&str, &str)> = texts.iter().zip(cases).map(|(text, (.., ends))| (text.as_str(), ends)).collect();
    expect(&policy, &expected);
    expect(&policy, &[("read:/etc/passwd", EACCES), ("read:/proc/self/environ", EACCES), ("list:/usr", EACCES)]);
    expect(&foreign(), &[("read:/etc/passwd", EACCES), ("list:/usr", "ok"), ("list:/", EACCES)]);
    assert_eq!(std::fs::read_to_string(at("secret")).unwrap(), "key");
}

#[test]
fn code_of_others_starts_nothing_and_reaches_nobody() {
    if !all_here() {
        return;
    }
    let mut cases = vec![
        ("exec:/bin/true", EPERM),
        ("fork", EPERM),
        ("thread", "ok"),
        ("socket:1", EPERM),
        ("socket:2", EPERM),
        ("socket:10", EPERM),
        ("socketpair", "ok"),
        ("datagrams", EPERM),
        ("packets", "ok"),
        ("connect", EPERM),
        ("bind", EPERM),
        ("shmat", EPERM),
        ("msgsnd", EPERM),
        ("semop", EPERM),
        ("fchmod", EPERM),
        ("fchown", EPERM),
        ("own", EPERM),
        ("async", EPERM),
        ("nonblock", "ok"),
        ("fiosetown", EPERM),
        ("survive", EPERM),
        ("end-with-parent", "ok"),
        ("dumpable", EPERM),
        ("tracer", EPERM),
        ("name", "ok"),
        ("ptrace", EPERM),
        ("kill-parent", EPERM),
        ("kill-self", "ok"),
        ("limit-parent", EPERM),
        ("limit-self", "ok"),
        ("mount", EPERM),
        ("unshare", EPERM),
        ("setsid", EPERM),
        ("io_uring", EPERM),
        ("clone3", ENOSYS),
        ("unknown", ENOSYS),
    ];
    if cfg!(target_arch = "x86_64") {
        cases.push(("x32", ENOSYS));
    }
    expect(&foreign(), &cases);
    // Processes for single calls: the filter for all other threads is not in force, and everything else is the same.
    let workers = Policy { starts_workers: true, ..foreign() };
    expect(&workers, &[("fork", "ok"), ("kill-parent", EPERM), ("abort-parent", EPERM), ("survive", EPERM)]);
    expect(&workers, &[("no-forks", "ok"), ("fork", EPERM), ("thread", "ok")]);
    // Starting threads is a permission, too.
    expect(&Policy { threads_allowed: false, ..foreign() }, &[("thread", EPERM), ("fork", EPERM)]);
}

#[test]
fn a_program_that_is_held_starts_when_it_is_let_go_and_never_when_it_is_dropped() {
    if !all_here() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let policy = Policy {
        write: vec![dir.path().to_path_buf()],
        execute: compiler_paths(Path::new("/usr/bin/cc")),
        exec_allowed: true,
        ..foreign()
    };
    let start = |name: &str| {
        let mut command = program::held_command(&policy, "/bin/mkdir".as_ref()).unwrap();
        program::Held::start(command.arg(dir.path().join(name))).unwrap()
    };
    drop(start("dropped"));
    let held = start("let-go");
    assert!(!dir.path().join("let-go").exists());
    assert!(held.let_go().unwrap().wait().unwrap().success());
    assert!(dir.path().join("let-go").exists() && !dir.path().join("dropped").exists());
}

#[test]
fn the_network_and_programs_can_be_granted() {
    if !all_here() {
        return;
    }
    let network = Policy { network: true, ..foreign() };
    // 17 is AF_PACKET, 38 AF_ALG, 40 AF_VSOCK.
    let sockets = [("socket:1", "ok"), ("socket:2", "ok"), ("socket:10", "ok"), ("socket:17", EPERM)];
    expect(&network, &sockets);
    expect(&network, &[("datagrams", "ok"), ("shmat", EPERM), ("fchmod", EPERM)]);
    expect(&network, &[("socket:38", EPERM), ("socket:40", EPERM), ("fork", EPERM)]);
    // Where the server connects, TCP sockets reach nothing by themselves.
    let served = Policy { connects: true, ..foreign() };
    expect(&served, &[("socket:1", EPERM), ("socket:2", "ok"), ("socket:10", "ok"), ("socket:16", EPERM)]);
    expect(&served, &[("datagrams", EPERM), ("connect", EPERM), ("bind", EPERM)]);
    let programs = Policy { execute: compiler_paths(Path::new("/usr/bin/cc")), exec_allowed: true, ..foreign() };
    expect(&programs, &[("exec:/bin/true", "ok"), ("fork", "ok"), ("socket:2", EPERM), ("setsid", EPERM)]);
    let only_one = Policy { read: vec!["/etc/ld.so.cache".into()], execute: vec!["/usr/lib".into()], ..programs };
    expect(&only_one, &[("exec:/bin/true", EACCES), ("kill-self", "ok")]);
}

#[test]
fn limits_hold() {
    let dir = tempfile::tempdir().unwrap();
    let write = format!("write:{}", dir.path().join("f").display());
    let gib = 1024 * 1024 * 1024;
    let policy = Policy {
        write: vec![dir.path().into()],
        memory_bytes_max: Some(4 * gib),
        open_files_max: Some(3),
        ..foreign()
    };
    let most = format!("memory:{}", 5 * gib);
    let fits = format!("memory:{}", gib);
    expect(&policy, &[(&fits, "ok"), (&most, ENOMEM), (&write, "24")]);
    // A file that grows beyond its limit ends the process.
    let json = serde_json::to_string(&Policy { file_bytes_max: Some(0), ..policy }).unwrap();
    let json = json.replace("\"open_files_max\":3", "\"open_files_max\":64");
    let ended = Command::new("/proc/self/exe").args(["sandbox-try", &json, &write]).output().unwrap();
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(ended.status.signal(), Some(libc::SIGXFSZ), "{ended:?}");
}

#[test]
fn root_becomes_nobody_for_good() {
    let Some(user) = unprivileged() else {
        eprintln!("skipped: not root");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("f"), "").unwrap();
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let read = format!("read:{}", dir.path().join("f").display());
    let policy = Policy { user: Some(user), read: vec!["/proc".into(), dir.path().into()], ..foreign() };
    // Landlock would permit it, but the directory's mode does not.
    expect(&policy, &[("uid", "65534"), ("setuid", EPERM), ("capabilities", "0000000000000000"), (&read, EACCES)]);
    let root = Policy { read: vec!["/proc".into()], ..foreign() };
    expect(&root, &[("uid", "0"), ("capabilities", "0000000000000000")]);
}

#[test]
fn a_policy_survives_its_journey() {
    let policy = Policy { write: vec![".".into()], user: Some(User { uid: 1, gid: 2 }), ..foreign() };
    let command = program::command(&policy, "cc".as_ref()).unwrap();
    let args: Vec<_> = command.get_args().collect();
    assert_eq!((args[0], args[2]), ("sandbox".as_ref(), "cc".as_ref()));
    assert_eq!(serde_json::from_slice::<Policy>(args[1].as_bytes()).unwrap(), policy);
    let odd = Policy { read: vec![std::ffi::OsStr::from_bytes(b"/\xff").into()], ..Policy::default() };
    assert!(program::command(&odd, "cc".as_ref()).is_err());
    assert!(matches!(program::not_run(Some(125), "why\n"), Some(program::NotRun::Sandbox(why)) if why == "why"));
    assert!(matches!(program::not_run(Some(127), "2\n"), Some(program::NotRun::Program(_))));
    assert!(program::not_run(Some(1), "2").is_none() && program::not_run(None, "").is_none());
}
