//! Modules in a process of their own (`--isolation process`).
//!
//! The server's side is a [`Host`](super::Host) whose instances live in child processes, the domains: each has a name, and
//! [`DomainRegistry`] starts and ends them. Requests and WebSocket events cross over rings in shared memory, a pair for each shard
//! and domain, large bodies beside them; everything else over a control connection. What a domain sends is checked as
//! hostile input.
//!
//! A domain has one process after the other, its processes. The supervisor keeps one in service and a spare
//! beside it. A process that dies is followed by the next with all modules; one that can't be trusted any more (a signal was
//! caught in module code) or has grown too large is replaced while it serves, and nobody loses anything. A module that
//! ends its process again and again is left out (`quarantine`).
//!
//! | file | what it knows |
//! | --- | --- |
//! | `domains`, `identity`, `parent` | all domains by name; who one is; one, as the server uses it |
//! | `remote`, `calls`, `endpoints` | a module there; a shard's calls in all domains, and in one |
//! | `shared` | what all of these share: the process in service, modules, runs of jobs |
//! | `supervisor`, `replacement`, `memory_watch` | which process is in service, and when another is |
//! | `hook` | how long constructors and hooks may take |
//! | `instance`, `reader` | one process: spawned, spoken with, read, reaped |
//! | `control_writer`, `control_reader`, `asked` | what it is told, what it says, what it asks; each within bounds |
//! | `job_data`, `handed_files` | questions of a running job to the server, and the answers; descriptors of its files |
//! | `cgroup` | how much memory each process may use |
//! | `core_files` | where core files go |
//! | `crash`, `symbol`, `quarantine` | what died, where, whose fault it was, and what follows |
//! | `stdout_relay`, `relay` | what a process prints and logs, and how that gets into the server's log |
//! | `child`, `work`, `companion`, `response_ring`, `answers`, `streaming` | the other side |
//! | `control`, `wire`, `layout`, `arena`, `extents` | what is said between the two |
//! | `file_body`, `passing` | answers with files: which pieces of which, and how the open file gets across |

mod answers;
mod arena;
mod asked;
mod calls;
mod cgroup;
pub mod child;
mod companion;
mod control;
mod control_reader;
mod control_writer;
mod core_files;
mod crash;
mod domain;
mod endpoints;
mod extents;
mod file_body;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod handed_files;
mod hook;
mod identity;
mod instance;
mod job_data;
mod layout;
mod memory_watch;
mod orphans;
mod passing;
mod quarantine;
mod reader;
mod registry;
pub mod relay;
mod remote;
mod replacement;
mod reports;
mod response_ring;
mod shared;
mod status;
mod stdout_relay;
mod streaming;
mod supervisor;
pub mod symbol;
mod watch;
mod wire;
mod work;

pub use arena::Budgets;
pub use calls::DomainCalls;
pub use cgroup::Cgroups;
pub use core_files::{CoreFile, CoreFiles};
pub use crash::CrashReport;
pub use domain::{Domain, DomainConfig, message_bytes_max};
pub use endpoints::{CallTable, RingEndpoints};
pub use identity::Identity;
pub use orphans::end_orphans;
pub use quarantine::CrashLimit;
pub use registry::DomainRegistry;
pub use remote::RemoteModule;
pub use status::DomainStatus;
pub use watch::Allowance;

use std::sync::{Mutex, MutexGuard, PoisonError};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
