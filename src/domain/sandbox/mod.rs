//! What a process may do that runs code of others, or reads it.
//!
//! A child calls [`Policy::apply`] on itself before any such code runs; nothing it does later can undo that. Four layers,
//! each of which holds when another is missing: resource limits, a user without rights, landlock (files, TCP, signals)
//! and a seccomp filter (system calls). The compiler cannot call this itself, so the server starts itself as
//! `cweb sandbox …`, which applies the policy and becomes the compiler ([`program`]). Nothing here runs in the server
//! but [`missing`], [`check`] and building commands.

mod calls;
mod environment;
mod files;
mod levels;
mod limits;
mod namespaces;
mod owner;
mod paths;
pub mod program;
mod refusals;
#[cfg(test)]
mod tests;
mod user;

pub use environment::environment;
pub use levels::{Level, check, has_namespaces};
pub use limits::processes_with;
pub use owner::{closed_to, hand_over, not_writable};
pub use paths::{compiler_inputs, compiler_paths, network_paths, system_paths};
pub use refusals::Refusals;
pub use user::{User, are_mapped, unprivileged};

use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::RawFd;
use std::path::PathBuf;

/// What the calling process is left with. Everything that is not granted here is refused; an empty policy grants nothing
/// but computing, threads excluded, and what is open already.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Files and directories (with all below them) that may be read. One that does not exist grants nothing.
    pub read: Vec<PathBuf>,
    /// Files and directories that may be read, written, made and removed.
    pub write: Vec<PathBuf>,
    /// Files and directories that may be read and executed.
    pub execute: Vec<PathBuf>,
    /// Whether programs and processes may be started. What then runs are the system's programs, so the filter leaves
    /// them calls that it refuses to code of others.
    pub exec_allowed: bool,
    /// Whether threads may be started.
    pub threads_allowed: bool,
    /// Whether sockets may be made, of the families that programs use to talk to others; [`network_paths`] is what
    /// libraries read for it.
    pub network: bool,
    /// Whether sockets of TCP may be made that connect to nothing: connect(2) is refused, and served by who handles the refusal.
    #[serde(default)]
    pub connects: bool,
    /// Whether the process may look at itself from a copy of its own: what finds leaks stops all threads so.
    #[serde(default)]
    pub traces_itself: bool,
    /// Whether the process forks others that run single calls: see `no_forks`.
    #[serde(default)]
    pub starts_workers: bool,
    /// Address space of each process.
    pub memory_bytes_max: Option<u64>,
    /// Time of computing of each process; the kernel ends one that takes more.
    pub cpu_seconds_max: Option<u64>,
    /// Size of each file that is written.
    pub file_bytes_max: Option<u64>,
    /// Processes and threads of the user, those outside the sandbox included. Does not bind root.
    pub processes_max: Option<u64>,
    /// Size of the core file that the process may leave; `None`: it leaves none.
    #[serde(default)]
    pub core_bytes_max: Option<u64>,
    /// Descriptors of each process.
    pub open_files_max: Option<u64>,
    /// Whom to become; only root can.
    pub user: Option<User>,
    /// System calls that are granted besides, by their names, whatever their arguments are. A name that there is not grants
    /// nothing: see [`unknown_calls`].
    #[serde(default)]
    pub calls: Vec<String>,
    /// Whether the process gets namespaces of its own, in which it sees nothing but what is granted here.
    #[serde(default)]
    pub namespaces: bool,
}

/// What became of a policy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// The layers that this kernel does not have, for people.
    pub missing: Vec<&'static str>,
}

/// The policy could not be applied; the process must not go on.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// A system call failed.
    #[error("{what}: {error}")]
    System {
        /// What was being done.
        what: &'static str,
        /// Why it failed.
        error: io::Error,
    },
    /// Landlock refused the rules.
    #[error("landlock: {0}")]
    Landlock(#[from] landlock::RulesetError),
    /// The filter could not be built.
    #[error("the filter of system calls: {0}")]
    Filter(String),
    /// The machine lacks what the operator asks for.
    #[error("the sandbox of modules is too weak here: {0}; {1}")]
    TooWeak(String, &'static str),
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> SandboxError {
    move |error| SandboxError::System { what, error }
}

impl Policy {
    /// Confines the calling process for the rest of its life. It must have one thread: landlock and seccomp bind the
    /// calling one and those that it starts. Without `exec_allowed` and `starts_workers` it must be the process that stays,
    /// not one that forks again: the filter knows it by its number.
    ///
    /// # Errors
    /// See [`SandboxError`]. The process may be confined in part by then and has to end.
    pub fn apply(self) -> Result<Applied, SandboxError> {
        // What allocates or opens comes first: later there may be neither memory nor rights for it.
        let files = files::Rules::new(&self)?;
        let filters = calls::filters(&self, files.abi())?;
        if self.namespaces {
            namespaces::enter(&self)?;
        }
        limits::apply(&self)?;
        user::drop_privileges(self.user)?;
        if self.core_bytes_max.is_some() {
            // A process that has changed its user leaves no core file, unless it sets PR_SET_DUMPABLE(2const).
            // SAFETY: no memory is involved.
            unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0) };
        }
        no_new_privileges()?;
        let mut missing = Vec::new();
        missing.extend(files.enforce()?);
        // Last: the filter refuses some of what the others need.
        missing.extend(calls::install(&filters)?);
        Ok(Applied { missing })
    }
}

/// Has what a module ends its whole process with arrive as SIGSYS on the thread that did it; calls of exit_group(2) whose code
/// has `mark` in it, its lowest byte apart, end the process as ever. Without seccomp it does nothing.
///
/// # Errors
/// The filter could not be built or installed.
pub(super) fn trap_ends(mark: u32) -> Result<(), SandboxError> {
    calls::trap_ends(mark)
}

/// Has the calling thread, and the threads that it starts, make no process any more. For processes whose policy has
/// [`Policy::starts_workers`]. Without seccomp it does nothing.
///
/// # Errors
/// The filter could not be built or installed.
pub(super) fn no_forks() -> Result<(), SandboxError> {
    calls::no_forks()
}

/// Takes from the calling thread, and the threads that it starts, what processes with [`Policy::starts_workers`] have had for their
/// own use: pidfd_open(2) and further filters. `named` are the calls that the operator grants. Without seccomp it does nothing.
///
/// # Errors
/// The filter could not be built or installed.
pub(super) fn no_pidfds(named: &[String]) -> Result<(), SandboxError> {
    calls::no_pidfds(named)
}

/// Has modules fail to close or replace `descriptors`, by libc or past it. Without seccomp it does nothing.
///
/// # Errors
/// The filter could not be built or installed.
pub(super) fn keep_open(descriptors: &[RawFd]) -> Result<(), SandboxError> {
    calls::keep_open(descriptors)
}

/// From here on no program that this process executes can give it rights: no set-user-ID bits, no file capabilities.
/// Landlock and seccomp ask for it when the caller is not root.
fn no_new_privileges() -> Result<(), SandboxError> {
    // SAFETY: no memory is involved.
    let set = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    if set < 0 { Err(system("setting no_new_privs")(io::Error::last_os_error())) } else { Ok(()) }
}

/// Has the kernel kill this process when its parent ends. Call it after [`Policy::apply`]: changing the user clears it.
pub fn end_with_parent() {
    // SAFETY: no memory is involved.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
}

/// Those of `names` that no system call has.
#[must_use]
pub fn unknown_calls(names: &[String]) -> Vec<&str> {
    calls::unknown_names(names)
}

/// The layers that this kernel does not have at all.
#[must_use]
pub fn missing() -> Vec<&'static str> {
    files::missing().into_iter().chain(calls::missing()).collect()
}
