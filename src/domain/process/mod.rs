//! Modules in a process of their own (`--isolation process`).
//!
//! The server's side is a [`Host`](super::Host) whose instances live in child processes, the domains: each has a name, and
//! [`DomainRegistry`] starts and ends them. Requests and WebSocket events cross over rings in shared memory, a pair for each shard
//! and domain, large bodies beside them; everything else over a control connection. What a domain sends is checked as
//! hostile input.
//!
//! A domain has one process after the other. The supervisor keeps one in service and a spare beside it, as the state
//! machine in `lifecycle` decides. A process that dies is followed by the next with all modules; one that can't be trusted
//! any more (a signal was caught in module code) or has grown too large is replaced while it serves, and no request is lost. A
//! module that ends its process again and again is left out (`quarantine`).
//!
//! | file | responsibility |
//! | --- | --- |
//! | `registry`, `identity`, `domain`, `domain_config` | all domains by name; a domain's identity; a domain as the server uses it; its settings |
//! | `remote`, `call_target` | a module in a domain; what shards have to know of it |
//! | `calls`, `endpoints` | a shard's calls in all domains; its calls in one domain |
//! | `shared` | state that all of these share: modules, runs of jobs, what the shards are handed |
//! | `lifecycle` | the lifecycle of a domain as one state machine, without IO: which process serves, and what follows |
//! | `supervisor`, `helper`, `events` | the driver of that machine; the thread for what blocks; what both are told |
//! | `gate` | the process in service, and the passes of threads that give it orders |
//! | `hook`, `loader` | time limits of constructors and hooks; the dynamic loader of one process |
//! | `start`, `instance`, `reader` | one process: its start, its control connection, its end |
//! | `watch`, `memory_watch` | what the process in service uses of the machine |
//! | `memory_total`, `memory_use`, `memory_blame` | the memory of all domains together: the limit, the measurement, which domain is ended |
//! | `control_writer`, `control_reader`, `asked` | messages to the process, messages from it, and its questions; each within limits |
//! | `job_data`, `handed_files` | questions of a running job to the server, and the answers; descriptors of its files |
//! | `cgroup` | memory limit of each process |
//! | `core_files` | core files of processes, and where they are kept |
//! | `crash`, `crash_report`, `symbol`, `quarantine` | crashes: the place, the module at fault, and the consequence |
//! | `stdout_relay`, `relay` | output and log records of a process, and their way into the server's log |
//! | `child`, `work`, `companion`, `response_ring`, `answers`, `streaming` | the domain's side |
//! | `control`, `wire`, `record_parts`, `layout`, `arena`, `extents` | messages and memory between the two sides |
//! | `workers` | processes for single calls, below the domain's |
//! | `file_body`, `passing` | answers with files: the pieces of a file, and passing of its descriptor |

mod answers;
mod arena;
mod asked;
mod call_target;
mod calls;
mod cgroup;
pub mod child;
mod companion;
mod connects;
mod control;
mod control_reader;
mod control_writer;
mod core_files;
#[cfg(test)]
pub(crate) mod counted;
mod crash;
mod crash_report;
mod domain;
mod domain_config;
mod endpoints;
mod events;
mod extents;
mod file_body;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod gate;
mod group;
mod handed_files;
mod helper;
mod hook;
mod identity;
mod instance;
mod job_data;
mod layout;
mod lifecycle;
mod loader;
mod memory_blame;
mod memory_total;
mod memory_use;
mod memory_watch;
mod orphans;
mod passing;
mod quarantine;
mod reader;
mod record_parts;
mod registry;
pub mod relay;
mod remote;
mod reports;
mod response_ring;
mod shared;
mod start;
mod status;
mod stdout_relay;
mod streaming;
mod supervisor;
pub mod symbol;
mod watch;
mod wire;
mod work;
mod workers;

pub use arena::Budgets;
pub use calls::DomainCalls;
pub use cgroup::Cgroups;
pub use connects::Connects;
pub use core_files::{CoreFile, CoreFiles};
pub use crash_report::CrashReport;
pub use domain::{Domain, message_bytes_max};
pub use domain_config::{Allowance, DomainConfig};
pub use endpoints::{CallTable, RingEndpoints};
pub use identity::Identity;
pub use orphans::end_orphans;
pub use quarantine::CrashLimit;
pub use registry::DomainRegistry;
pub use status::DomainStatus;

use std::sync::{Mutex, MutexGuard, PoisonError};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
