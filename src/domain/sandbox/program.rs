//! Starting a program of the system in a sandbox: `cweb sandbox POLICY PROGRAM ARGUMENTS…`, or `cweb sandbox-held …` for a
//! program that gets its sandbox now and starts when the caller writes a byte. `cweb sandbox-held POLICY` is told its program
//! later: it is the spare of a caller that will need one ([`Spare`]).
//!
//! A child between fork(2) and exec(3) of a process with threads may not allocate, and building the sandbox does. So the
//! server starts itself, with one thread, and that process becomes the program.

use super::{Policy, end_with_parent};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};

/// The name of the hidden subcommand.
pub const COMMAND: &str = "sandbox";

/// The same for a program that is held: see [`Held`].
pub const HELD_COMMAND: &str = "sandbox-held";

/// How much lower the limit of processes of a [`Spare`] may be than that of the program that is wanted: the limit lies above the
/// processes that the system had when the policy was made.
const PROCESSES_LESS_MAX: u64 = 256;
/// Longest program and arguments that a [`Spare`] reads.
const ARGUMENTS_BYTES_MAX: u64 = 1024 * 1024;

/// Exit code: the sandbox could not be built; standard error says why.
const NO_SANDBOX: i32 = 125;
/// Exit code: the program could not be started; standard error has the number of the error.
const NO_PROGRAM: i32 = 127;

/// Why the program did not run.
#[derive(Debug)]
pub enum NotRun {
    /// The sandbox could not be built.
    Sandbox(String),
    /// The program can't be executed.
    Program(io::Error),
}

/// A command that runs `program` under `policy`; arguments added to it are the program's.
///
/// # Errors
/// A path of the policy is not UTF-8.
pub fn command(policy: &Policy, program: &OsStr) -> io::Result<Command> {
    begun_by(COMMAND, policy, program)
}

/// As [`command`], for a program that is to be [`Held`].
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

/// A command that gets a sandbox under `policy` and becomes the program of another command later: see [`Spare`].
///
/// # Errors
/// A path of the policy is not UTF-8.
pub fn spare_command(policy: &Policy) -> io::Result<Command> {
    let mut command = Command::new("/proc/self/exe");
    command.arg(HELD_COMMAND).arg(serde_json::to_string(policy)?);
    Ok(command)
}

/// The policy that `command`, made by a function of this module, has among its arguments.
fn policy_of(command: &Command) -> Option<Policy> {
    serde_json::from_str(command.get_args().nth(1)?.to_str()?).ok()
}

/// A process in a sandbox that has no program yet. It has the rights of the programs that it may become, it serves one, and
/// it ends when it is dropped.
#[derive(Debug)]
pub struct Spare {
    child: Ended,
    policy: Policy,
    /// What the paths of the policy were when the sandbox was built.
    places: Vec<Place>,
}

/// Device and number of a file, if it is there.
type Place = Option<(u64, u64)>;

impl Spare {
    /// Starts `command`, which is one of [`spare_command`] and has the environment, the directory and the process group of the
    /// programs that it may become.
    ///
    /// # Errors
    /// The process can't be started.
    pub fn start(command: &mut Command) -> io::Result<Self> {
        let policy = policy_of(command).ok_or(io::ErrorKind::InvalidInput)?;
        let places = places(&policy);
        let child = Ended(Some(command.stdin(Stdio::piped()).spawn()?));
        Ok(Self { child, policy, places })
    }

    /// Whether it is there, and its sandbox is the one that `command`, which is one of [`held_command`], asks for.
    pub fn fits(&mut self, command: &Command) -> bool {
        let Some(wanted) = policy_of(command) else { return false };
        // What has come to be, or was replaced, since the sandbox was built is out of its reach.
        self.is_there() && is_same(&self.policy, &wanted) && places(&wanted) == self.places
    }

    fn is_there(&mut self) -> bool {
        self.child.0.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Becomes the program of `command`, which it fits, as soon as that is let go.
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

/// Whether two policies grant the same, and the limit of processes of the `first` is not much lower.
fn is_same(first: &Policy, second: &Policy) -> bool {
    let fits = match (first.processes_max, second.processes_max) {
        (Some(first), Some(second)) => first.saturating_add(PROCESSES_LESS_MAX) >= second,
        (first, second) => first == second,
    };
    fits && *first == Policy { processes_max: first.processes_max, ..second.clone() }
}

/// What the absolute paths of `policy` are now: a relative one is within the directory that the process starts in.
fn places(policy: &Policy) -> Vec<Place> {
    let all = policy.read.iter().chain(&policy.write).chain(&policy.execute);
    let absolute = all.filter(|path| path.is_absolute());
    let place = |path: &Path| fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
    absolute.map(|path| place(path)).collect()
}

/// A child that is ended and reaped when it is dropped.
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

/// A program in its sandbox that has not started yet: building the sandbox takes as long as a small program does, and
/// need not be waited for. One that is dropped never starts.
#[derive(Debug)]
pub struct Held {
    child: Ended,
    /// What the child waits for.
    order: Vec<u8>,
}

impl Held {
    /// Starts `command`, which is one of [`held_command`].
    ///
    /// # Errors
    /// The process can't be started.
    pub fn start(command: &mut Command) -> io::Result<Self> {
        let child = command.stdin(Stdio::piped()).spawn()?;
        Ok(Self { child: Ended(Some(child)), order: vec![1] })
    }

    /// Starts the program, with nothing on its standard input. `None`: it was started before.
    pub fn let_go(mut self) -> Option<Child> {
        let mut child = self.child.0.take()?;
        // If the process has ended already, its standard error says why.
        let _ = child.stdin.take().map(|mut pipe| pipe.write_all(&self.order));
        Some(child)
    }
}

/// Whether a child of [`command`] that ended with `code` and wrote `stderr` did not even become its program. A program
/// that uses these codes itself is taken at its word.
#[must_use]
pub fn not_run(code: Option<i32>, stderr: &str) -> Option<NotRun> {
    match code? {
        NO_SANDBOX => Some(NotRun::Sandbox(stderr.trim().to_owned())),
        NO_PROGRAM => stderr.trim().parse().ok().map(|number| NotRun::Program(io::Error::from_raw_os_error(number))),
        _ => None,
    }
}

/// The child's main: everything behind `cweb sandbox`, or behind `cweb sandbox-held` where it `is_held`; `program` is the program
/// with its arguments. Returns only if it fails.
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
    // Nobody wants the program any more.
    let Some(told) = told else { return ExitCode::SUCCESS };
    let Some((program, arguments)) = program.split_first().or_else(|| told.split_first()) else {
        return ExitCode::FAILURE;
    };
    let error = Command::new(program).args(arguments).exec();
    eprintln!("{}", error.raw_os_error().unwrap_or(libc::ENOENT));
    code(NO_PROGRAM)
}

/// Waits until the program is let go. Returns the program with its arguments, if they are `awaited`, else nothing; `None`: it
/// never is.
fn told(awaited: bool) -> Option<Vec<OsString>> {
    if !awaited {
        return io::stdin().read_exact(&mut [0]).ok().map(|()| Vec::new());
    }
    let mut order = Vec::new();
    io::stdin().lock().take(ARGUMENTS_BYTES_MAX).read_to_end(&mut order).ok()?;
    // Each argument ends with a NUL: an order that was cut off is none.
    let arguments = order.strip_suffix(&[0])?.split(|byte| *byte == 0);
    Some(arguments.map(|argument| OsString::from_vec(argument.to_vec())).collect())
}

fn code(code: i32) -> ExitCode {
    u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from)
}
