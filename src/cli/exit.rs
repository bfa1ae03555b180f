//! The exit codes of all commands.

use std::fmt;
use std::process::ExitCode;

/// The list of exit codes in the help of commands.
macro_rules! exit_codes {
    () => {
        "Exit codes:
  0  done
  1  refused or failed; a watched job failed; a test failed
  2  the command line is wrong; tests could not be built
  3  no server was reached
  4  the server wants another key (CWEB_ADMIN_KEY)
  5  a watched job was canceled"
    };
}

pub(super) use exit_codes;

/// `cweb --help` and docs/operations.md list the codes. clap uses 2, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Exit {
    /// The server refused the request, or the command failed here; for a watched job: the job failed.
    Failed = 1,
    /// The command line is wrong; for tests: they could not be built.
    Usage = 2,
    /// No server was reached.
    Unreachable = 3,
    /// The key is missing, or lacks the right.
    Unauthorized = 4,
    /// A watched job was canceled.
    Canceled = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Prints an error and returns the exit code for it.
pub(super) fn fail(text: impl std::fmt::Display) -> ExitCode {
    eprintln!("cweb: {text}");
    ExitCode::FAILURE
}

/// The reason why a command failed.
#[derive(Debug)]
pub(super) struct Failure {
    /// The message for the user.
    pub(super) text: String,
    /// The exit code for scripts.
    pub(super) exit: Exit,
}

impl Failure {
    pub(super) fn new(exit: Exit, text: String) -> Self {
        Self { text, exit }
    }

    /// Prints the message and returns the exit code.
    pub(super) fn end(self) -> ExitCode {
        fail(self.text);
        self.exit.into()
    }
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self { text, exit: Exit::Failed }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
