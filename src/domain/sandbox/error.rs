//! Why a process could not be confined.

use std::io;

/// The policy could not be applied; the process must end.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// A system call failed.
    #[error("{what}: {error}")]
    System {
        /// The failed step.
        what: &'static str,
        /// The error of the call.
        error: io::Error,
    },
    /// Landlock refused the rules.
    #[error("landlock: {0}")]
    Landlock(#[from] landlock::RulesetError),
    /// The filter could not be built.
    #[error("the filter of system calls: {0}")]
    Filter(String),
    /// The machine lacks a layer that the operator requires.
    #[error("the sandbox of modules is too weak here: {0}; {1}")]
    TooWeak(String, &'static str),
}

/// The error of a system call, which was made for `what`.
pub(super) fn system(what: &'static str) -> impl FnOnce(io::Error) -> SandboxError {
    move |error| SandboxError::System { what, error }
}
