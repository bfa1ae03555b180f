//! The confinement of processes that run or read foreign code.
//!
//! A child calls [`Policy::apply`] on itself before any such code runs, and no later action can undo that. There are four
//! layers, and each works without the others: resource limits, a user without rights, Landlock (files, TCP, signals), and a
//! seccomp filter (system calls). The compiler can't make this call itself, so the server starts itself as `cweb sandbox
//! …`, which applies the policy and becomes the compiler ([`program`]). In the server only [`missing`], [`check`] and the
//! building of commands run.

mod calls;
mod environment;
mod error;
mod files;
mod levels;
mod limits;
mod namespaces;
mod owner;
mod parent;
mod paths;
mod policy;
pub mod program;
mod refusals;
#[cfg(test)]
mod tests;
mod user;

pub use environment::environment;
pub use error::SandboxError;
pub use levels::{Level, check, has_namespaces};
pub use limits::processes_with;
pub use owner::{closed_to, hand_over, not_writable};
pub use parent::end_with_parent;
pub use paths::{compiler_inputs, compiler_paths, network_paths, system_paths};
pub use policy::Policy;
pub use refusals::Refusals;
pub use user::{User, are_mapped, unprivileged};

use error::system;
use std::io;
use std::os::fd::RawFd;

/// The result of applying a policy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// The layers that this kernel lacks, for people.
    pub missing: Vec<&'static str>,
}

impl Policy {
    /// Confines the calling process for good. The process must have one thread: Landlock and seccomp apply to the calling
    /// thread and to those that it starts. Without `exec_allowed` and `starts_workers`, the caller must be the final
    /// process and not fork again, because the filter knows the process by its id.
    ///
    /// # Errors
    /// See [`SandboxError`]. The process may be partly confined by then and must end.
    pub fn apply(self) -> Result<Applied, SandboxError> {
        // Steps that allocate or open files come first: later there may be neither memory nor rights for them.
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
        // The filter comes last, because it refuses calls that the other layers need.
        missing.extend(calls::install(&filters)?);
        Ok(Applied { missing })
    }
}

/// Makes a module's end of the whole process arrive as SIGSYS on the thread that caused it. A call of exit_group(2) whose
/// code contains `mark` above its lowest byte still ends the process. Does nothing without seccomp.
///
/// # Errors
/// The filter could not be built or installed.
pub(super) fn trap_ends(mark: u32) -> Result<(), SandboxError> {
    calls::trap_ends(mark)
}

/// Prevents the calling thread, and the threads that it starts, from creating processes. For processes whose policy has
/// [`Policy::starts_workers`]. Does nothing without seccomp.
///
/// # Errors
/// The filter could not be built or installed.
pub(super) fn no_forks() -> Result<(), SandboxError> {
    calls::no_forks()
}

/// Takes the rights away that only a process with [`Policy::starts_workers`] itself needs, from the calling thread and the
/// threads that it starts: pidfd_open(2) and further filters. `named` are the calls that the operator grants. Does nothing
/// without seccomp.
///
/// # Errors
/// The filter could not be built or installed.
pub(super) fn no_pidfds(named: &[String]) -> Result<(), SandboxError> {
    calls::no_pidfds(named)
}

/// Makes modules fail to close or replace `descriptors`, with or without libc. Does nothing without seccomp.
///
/// # Errors
/// The filter could not be built or installed.
pub(super) fn keep_open(descriptors: &[RawFd]) -> Result<(), SandboxError> {
    calls::keep_open(descriptors)
}

/// Ensures that no program that this process executes gains rights: set-user-ID bits and file capabilities have no effect.
/// Landlock and seccomp require this unless the caller is root.
fn no_new_privileges() -> Result<(), SandboxError> {
    // SAFETY: no memory is involved.
    let set = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    if set < 0 { Err(system("setting no_new_privs")(io::Error::last_os_error())) } else { Ok(()) }
}

/// The `names` that are not system calls.
#[must_use]
pub fn unknown_calls(names: &[String]) -> Vec<&str> {
    calls::unknown_names(names)
}

/// The layers that this kernel lacks.
#[must_use]
pub fn missing() -> Vec<&'static str> {
    files::missing().into_iter().chain(calls::missing()).collect()
}
