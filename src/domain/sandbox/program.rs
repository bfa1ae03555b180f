//! Starting a program of the system in a sandbox: `cweb sandbox POLICY PROGRAM ARGUMENTS…`, or `cweb sandbox-held …` for a
//! program that gets its sandbox now and starts when the caller writes a byte.
//!
//! A child between fork(2) and exec(3) of a process with threads may not allocate, and building the sandbox does. So the
//! server starts itself, with one thread, and that process becomes the program.

use super::{Policy, end_with_parent};
use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, Stdio};

/// The name of the hidden subcommand.
pub const COMMAND: &str = "sandbox";

/// The same for a program that is held: see [`Held`].
pub const HELD_COMMAND: &str = "sandbox-held";

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

/// A program in its sandbox that has not started yet: building the sandbox takes as long as a small program does, and
/// need not be waited for. One that is dropped never starts.
#[derive(Debug)]
pub struct Held(Option<Child>);

impl Held {
    /// Starts `command`, which is one of [`held_command`].
    ///
    /// # Errors
    /// The process can't be started.
    pub fn start(command: &mut Command) -> io::Result<Self> {
        command.stdin(Stdio::piped()).spawn().map(|child| Self(Some(child)))
    }

    /// Starts the program, with nothing on its standard input. `None`: it was started before.
    pub fn let_go(mut self) -> Option<Child> {
        let mut child = self.0.take()?;
        // If the process has ended already, its standard error says why.
        let _ = child.stdin.take().map(|mut pipe| pipe.write_all(&[1]));
        Some(child)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
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

/// The child's main: everything behind `cweb sandbox`, or behind `cweb sandbox-held` where it `is_held`. Returns only if it
/// fails.
#[must_use]
pub fn main(policy: &OsStr, program: &OsStr, arguments: &[OsString], is_held: bool) -> ExitCode {
    let policy = policy.to_str().ok_or("the policy is not UTF-8".to_owned());
    let policy = policy.and_then(|text| serde_json::from_str::<Policy>(text).map_err(|error| error.to_string()));
    let applied = policy.and_then(|policy| policy.apply().map_err(|error| error.to_string()));
    if let Err(text) = applied {
        eprintln!("{text}");
        return code(NO_SANDBOX);
    }
    end_with_parent();
    if is_held && io::stdin().read_exact(&mut [0]).is_err() {
        return ExitCode::SUCCESS;
    }
    let error = Command::new(program).args(arguments).exec();
    eprintln!("{}", error.raw_os_error().unwrap_or(libc::ENOENT));
    code(NO_PROGRAM)
}

fn code(code: i32) -> ExitCode {
    u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from)
}
