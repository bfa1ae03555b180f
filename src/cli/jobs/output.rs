//! The output of the commands, and why a command could not do its work.

use super::super::exit::Failure;
use std::fmt::Display;
use std::io::{self, Write};

/// The reason why a command ends without success.
pub(super) enum Problem {
    /// An error for the user.
    Said(Failure),
    /// The output has no reader any more: nothing is left to do or to print.
    OutputClosed,
}

impl From<String> for Problem {
    fn from(text: String) -> Self {
        Self::Said(text.into())
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        Self::Said(failure)
    }
}

/// For errors of writing output; other errors get a message that names their object.
impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::OutputClosed,
            _ => Self::Said(format!("the output can't be written: {error}").into()),
        }
    }
}

/// Writes a line of output. (`println!` would panic without a reader.)
pub(super) fn say(line: impl Display) -> Result<(), Problem> {
    Ok(writeln!(io::stdout().lock(), "{line}")?)
}
