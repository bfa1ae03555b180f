//! Modules in a process of their own (`--isolation process`).
//!
//! The server's side is a [`Host`](super::Host) whose instances live in child processes, the domains. Each domain has a
//! name, and [`DomainRegistry`] starts and ends them. Requests and WebSocket events cross over rings in shared memory,
//! with a pair for each shard and domain, and large bodies beside the rings. Everything else uses a control connection.
//! Everything from a domain's process is checked as hostile input.
//!
//! A domain has one process after the other. The supervisor keeps one in service and a spare beside it, as the state
//! machine in `lifecycle` decides. When a process dies, the next one gets all modules. A process is replaced while it
//! serves if it has grown too large, or if a signal was caught in module code, so that its memory can't be trusted any
//! more. No request is lost then. A module that ends its process too often is put into quarantine.
//!
//! | file | responsibility |
//! | --- | --- |
//! | `registry`, `identity`, `domain`, `domain_config` | all domains; a domain's identity; a domain in the server; its settings |
//! | `remote`, `call_target` | a module in a domain; the data that shards need for calls of it |
//! | `calls`, `endpoints` | a shard's calls in all domains; its calls in one domain |
//! | `shared` | state that all of these share: modules, runs of jobs, endpoints for the shards |
//! | `lifecycle` | the lifecycle of a domain as one state machine, without IO |
//! | `supervisor`, `helper`, `events` | the driver of that machine; the thread for blocking tasks; the events |
//! | `gate` | the process in service, and the passes of threads that give it orders |
//! | `hook`, `loader` | time limits of constructors and hooks; the dynamic loader of one process |
//! | `start`, `instance`, `reader` | one process: its start, its control connection, its end |
//! | `watch`, `memory_watch` | the resources that the process in service uses |
//! | `memory_total`, `memory_use`, `memory_blame` | memory of all domains: the limit, the measurement, the choice of a domain to end |
//! | `control_writer`, `control_reader`, `asked` | messages to the process, messages from it, and its questions; each within limits |
//! | `job_data`, `handed_files` | questions of a running job to the server, and the answers; descriptors of its files |
//! | `cgroup` | memory limit of each process |
//! | `core_files` | core files of processes, and the directory for them |
//! | `crash`, `crash_report`, `symbol`, `quarantine` | crashes: the place, the module at fault, and the consequence |
//! | `stdout_relay`, `relay` | output and log records of a process, and their way into the server's log |
//! | `child`, `work`, `companion`, `response_ring`, `answers`, `streaming` | the domain's side |
//! | `control`, `wire`, `record_parts`, `layout`, `arena`, `extents` | messages and memory between the two sides |
//! | `workers` | processes for single calls, below the domain's |
//! | `file_body`, `passing` | answers with files: the pieces of a file, and passing of its descriptor |
//! | `connects` | connections that the server makes for modules, if `--allow-net` is a list |
//! | `group`, `orphans` | the process group of a domain; processes that have outlived their server |
//! | `reports`, `status` | the sanitizer reports of a domain; its status |
//! | `counted`, `fuzz` | domains without a process of their own, for measurements and fuzzers |

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
mod share;
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
