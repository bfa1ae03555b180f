//! What a process may do.

use super::user::User;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The rights that the calling process keeps. Everything else is refused; an empty policy permits only computing without
/// further threads, and the use of what is already open.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Files, and directories with everything below them, that may be read. A path that does not exist grants nothing.
    pub read: Vec<PathBuf>,
    /// Files and directories that may be read, written, created and removed.
    pub write: Vec<PathBuf>,
    /// Files and directories that may be read and executed.
    pub execute: Vec<PathBuf>,
    /// Whether programs and processes may be started. These are the system's programs, so the filter grants them calls that
    /// it refuses to foreign code.
    pub exec_allowed: bool,
    /// Whether threads may be started.
    pub threads_allowed: bool,
    /// Whether sockets of the usual families for communication may be created; libraries also need to read
    /// [`network_paths`](super::network_paths) for that.
    pub network: bool,
    /// Whether TCP sockets may be created that connect to nothing: connect(2) is refused, and the handler of the refusal
    /// connects instead.
    #[serde(default)]
    pub connects: bool,
    /// Whether the process may trace itself from a copy of its own: the leak check stops all threads in this way.
    #[serde(default)]
    pub traces_itself: bool,
    /// Whether the process forks others that run single calls: see `no_forks`.
    #[serde(default)]
    pub starts_workers: bool,
    /// Limit on the address space of each process, in bytes.
    pub memory_bytes_max: Option<u64>,
    /// Limit on the CPU time of each process, in seconds; the kernel kills a process beyond it.
    pub cpu_seconds_max: Option<u64>,
    /// Limit on each file that is written, in bytes.
    pub file_bytes_max: Option<u64>,
    /// Limit on the user's processes and threads, including those outside the sandbox. Does not apply to root.
    pub processes_max: Option<u64>,
    /// Limit on the core file of the process, in bytes; `None`: no core file.
    #[serde(default)]
    pub core_bytes_max: Option<u64>,
    /// Limit on the open descriptors of each process.
    pub open_files_max: Option<u64>,
    /// The user to become; only root can change its user.
    pub user: Option<User>,
    /// System calls, by name, that are granted in addition and with any arguments. An unknown name grants nothing: see
    /// [`unknown_calls`](super::unknown_calls).
    #[serde(default)]
    pub calls: Vec<String>,
    /// Whether the process gets namespaces of its own, which contain only what is granted here.
    #[serde(default)]
    pub namespaces: bool,
}
