//! Starts a program of the system in a sandbox: `cweb sandbox POLICY PROGRAM ARGUMENTS…`. `cweb sandbox-held …` sets up the
//! sandbox now and starts the program when the caller writes a byte. `cweb sandbox-held POLICY` gets its program later, as
//! the spare process of a caller that will need one ([`Spare`]).
//!
//! Between fork(2) and exec(3), a child of a process with threads must not allocate, but building the sandbox does. The
//! server therefore starts itself as a process with one thread, which becomes the program.

use super::{Policy, end_with_parent};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

/// The name of the hidden subcommand.
pub const COMMAND: &str = "sandbox";

/// The subcommand for a held program: see [`Held`].
pub const HELD_COMMAND: &str = "sandbox-held";

/// How much lower the process limit of a [`Spare`] may be than that of the requested program. The limit depends on the
/// number of processes in the system when the policy was made.
const PROCESSES_LESS_MAX: u64 = 256;
/// Limit, in bytes, on the program and the arguments that a [`Spare`] reads.
const ARGUMENTS_BYTES_MAX: u64 = 1024 * 1024;

/// Exit code: the sandbox could not be built; standard error has the reason.
const NO_SANDBOX: i32 = 125;
/// Exit code: the program could not be started; standard error has the error's number.
const NO_PROGRAM: i32 = 127;
/// How often a program is started that finds too many processes, after the first time, and the pause before the next time.
const PROGRAM_TRIES: usize = 20;
const PROGRAM_PAUSE: Duration = Duration::from_millis(250);

/// The reason why the program did not run.
#[derive(Debug)]
pub enum NotRun {
    /// The sandbox could not be built.
    Sandbox(String),
    /// The program can't be executed.
    Program(io::Error),
}

/// A command that runs `program` under `policy`; arguments added to the command are the program's.
///
/// # Errors
/// A path of the policy is not UTF-8.
pub fn command(policy: &Policy, program: &OsStr) -> io::Result<Command> {
    begun_by(COMMAND, policy, program)
}

/// Like [`command`], for a program that will be [`Held`].
///
/// # Errors
/// A path of the policy is not UTF-8.
pub fn held_command(policy: &Policy, program: &OsStr) -> io::Result<Command> {
    begun_by(HELD_COMMAND, policy, program)
}

fn begun_by(subcommand: &str, policy: &Policy, program: &OsStr) -> io::Result<Command> {
    let mut command = Command::new("/proc/self/exe");
    command.arg(subcommand).arg(serde_json::to_string(policy)?).arg(program);
    Ok(command)
}

/// A command that sets up a sandbox under `policy` and later becomes the program of another command: see [`Spare`].
///
/// # Errors
/// A path of the policy is not UTF-8.
pub fn spare_command(policy: &Policy) -> io::Result<Command> {
    let mut command = Command::new("/proc/self/exe");
    command.arg(HELD_COMMAND).arg(serde_json::to_string(policy)?);
    Ok(command)
}

/// The policy in the arguments of `command`, which a function of this module made.
fn policy_of(command: &Command) -> Option<Policy> {
    serde_json::from_str(command.get_args().nth(1)?.to_str()?).ok()
}

/// A process in a sandbox that has no program yet. The process has the rights of the programs that it may become.
/// Dropping this value ends the process.
#[derive(Debug)]
pub struct Spare {
    child: Ended,
    policy: Policy,
    /// The files at the policy's paths when the sandbox was built.
    places: Vec<Place>,
}

/// The device and inode number of a file, if it exists.
type Place = Option<(u64, u64)>;

impl Spare {
    /// Starts `command`, which [`spare_command`] made, and which has the environment, the directory and the process group
    /// of the programs that it may become.
    ///
    /// # Errors
    /// The process can't be started.
    pub fn start(command: &mut Command) -> io::Result<Self> {
        let policy = policy_of(command).ok_or(io::ErrorKind::InvalidInput)?;
        let places = places(&policy);
        let child = Ended(Some(command.stdin(Stdio::piped()).spawn()?));
        Ok(Self { child, policy, places })
    }

    /// Whether the process exists, and its sandbox is the one that `command`, made by [`held_command`], requires.
    pub fn fits(&mut self, command: &Command) -> bool {
        let Some(wanted) = policy_of(command) else { return false };
        // Files that were created or replaced after the sandbox was built are outside of it.
        self.is_there() && is_same(&self.policy, &wanted) && places(&wanted) == self.places
    }

    fn is_there(&mut self) -> bool {
        self.child.0.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Makes the process become the program of `command`, which it must fit, once it is let go.
    #[must_use]
    pub fn held(self, command: &Command) -> Held {
        let mut order = Vec::new();
        for argument in command.get_args().skip(2) {
            order.extend_from_slice(argument.as_bytes());
            order.push(0);
        }
        Held { child: self.child, order }
    }
}

/// Whether two policies grant the same rights, and the process limit of the `first` is not much lower.
fn is_same(first: &Policy, second: &Policy) -> bool {
    let fits = match (first.processes_max, second.processes_max) {
        (Some(first), Some(second)) => first.saturating_add(PROCESSES_LESS_MAX) >= second,
        (first, second) => first == second,
    };
    fits && *first == Policy { processes_max: first.processes_max, ..second.clone() }
}

/// The files at the absolute paths of `policy` now. A relative path lies within the directory in which the process starts.
fn places(policy: &Policy) -> Vec<Place> {
    let all = policy.read.iter().chain(&policy.write).chain(&policy.execute);
    let absolute = all.filter(|path| path.is_absolute());
    let place = |path: &Path| fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
    absolute.map(|path| place(path)).collect()
}

/// A child that is killed and reaped when it is dropped.
#[derive(Debug)]
struct Ended(Option<Child>);

impl Drop for Ended {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A program in its sandbox that has not started yet. Building the sandbox takes as long as running a small program, so it
/// is done in advance. A program that is dropped never starts.
#[derive(Debug)]
pub struct Held {
    child: Ended,
    /// The bytes that the child waits for.
    order: Vec<u8>,
}

impl Held {
    /// Starts `command`, which [`held_command`] made.
    ///
    /// # Errors
    /// The process can't be started.
    pub fn start(command: &mut Command) -> io::Result<Self> {
        let child = command.stdin(Stdio::piped()).spawn()?;
        Ok(Self { child: Ended(Some(child)), order: vec![1] })
    }

    /// Starts the program, with empty standard input. `None`: the program was started before.
    pub fn let_go(mut self) -> Option<Child> {
        let mut child = self.child.0.take()?;
        // If the process has already ended, its standard error has the reason.
        let _ = child.stdin.take().map(|mut pipe| pipe.write_all(&self.order));
        Some(child)
    }
}

/// Whether a child of [`command`] that ended with `code` and wrote `stderr` failed before it became its program. A program
/// that uses these exit codes itself is indistinguishable.
#[must_use]
pub fn not_run(code: Option<i32>, stderr: &str) -> Option<NotRun> {
    match code? {
        NO_SANDBOX => Some(NotRun::Sandbox(stderr.trim().to_owned())),
        NO_PROGRAM => stderr.trim().parse().ok().map(|number| NotRun::Program(io::Error::from_raw_os_error(number))),
        _ => None,
    }
}

/// The main function of the child. `policy` and `program` are the arguments after `cweb sandbox`, or after `cweb
/// sandbox-held` if it `is_held`; `program` is the program with its arguments. Returns only on failure.
#[must_use]
pub fn main(policy: &OsStr, program: &[OsString], is_held: bool) -> ExitCode {
    let policy = policy.to_str().ok_or("the policy is not UTF-8".to_owned());
    let policy = policy.and_then(|text| serde_json::from_str::<Policy>(text).map_err(|error| error.to_string()));
    let applied = policy.and_then(|policy| policy.apply().map_err(|error| error.to_string()));
    if let Err(text) = applied {
        eprintln!("{text}");
        return code(NO_SANDBOX);
    }
    end_with_parent();
    let told = if is_held { told(program.is_empty()) } else { Some(Vec::new()) };
    // The caller does not need the program any more.
    let Some(told) = told else { return ExitCode::SUCCESS };
    let Some((program, arguments)) = program.split_first().or_else(|| told.split_first()) else {
        return ExitCode::FAILURE;
    };
    let mut error = Command::new(program).args(arguments).exec();
    for _ in 0..PROGRAM_TRIES {
        // For a moment, other processes of the same user may be as many as there may be (execve(2), EAGAIN).
        if error.raw_os_error() != Some(libc::EAGAIN) {
            break;
        }
        std::thread::sleep(PROGRAM_PAUSE);
        error = Command::new(program).args(arguments).exec();
    }
    eprintln!("{}", error.raw_os_error().unwrap_or(libc::ENOENT));
    code(NO_PROGRAM)
}

/// Waits until the program is let go. Returns the program with its arguments if they are `awaited`, else an empty list;
/// `None`: the caller has gone.
fn told(awaited: bool) -> Option<Vec<OsString>> {
    if !awaited {
        return io::stdin().read_exact(&mut [0]).ok().map(|()| Vec::new());
    }
    let mut order = Vec::new();
    io::stdin().lock().take(ARGUMENTS_BYTES_MAX).read_to_end(&mut order).ok()?;
    // Each argument ends with a NUL, so an order that was cut off is invalid.
    let arguments = order.strip_suffix(&[0])?.split(|byte| *byte == 0);
    Some(arguments.map(|argument| OsString::from_vec(argument.to_vec())).collect())
}

fn code(code: i32) -> ExitCode {
    u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from)
}
