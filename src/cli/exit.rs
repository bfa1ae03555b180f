//! How a command ends: the one set of exit codes.

use std::fmt;
use std::process::ExitCode;

/// The list in the help of commands.
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

/// Told in `cweb --help` and docs/operations.md. 2 is clap's too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Exit {
    /// The server refused it, or it failed here; of a watched job: it failed.
    Failed = 1,
    /// The command line is wrong; of tests: they could not be built.
    Usage = 2,
    /// No server was reached.
    Unreachable = 3,
    /// The server wants another key.
    Unauthorized = 4,
    /// A watched job was canceled.
    Canceled = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command did not do its work.
#[derive(Debug)]
pub(super) struct Failure {
    /// For people.
    pub(super) text: String,
    /// For scripts.
    pub(super) exit: Exit,
}

impl Failure {
    pub(super) fn new(exit: Exit, text: String) -> Self {
        Self { text, exit }
    }

    /// Says it, and gives the exit code for it.
    pub(super) fn end(self) -> ExitCode {
        super::fail(self.text);
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
