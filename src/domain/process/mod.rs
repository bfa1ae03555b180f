//! Modules in a process of their own (`--isolation process`).
//!
//! The server's side is a [`Host`](super::Host) whose instances live in child processes, the domains: each has a name, and
//! [`Domains`] starts and ends them. Requests and WebSocket events cross over rings in shared memory, a pair for each shard
//! and domain, large bodies beside them; everything else over a control connection. What a domain sends is checked as
//! hostile input.
//!
//! A domain has one process after the other, its lives. The supervisor keeps one in service and a spare
//! beside it. A life that dies is followed by the next with all modules; one that can't be trusted any more (a signal was
//! caught in module code) or has grown too large is replaced while it lives, and nobody loses anything. A module that
//! ends its process again and again is left out (`quarantine`).
//!
//! | file | what it knows |
//! | --- | --- |
//! | `domains`, `identity`, `parent` | all domains by name; who one is; one, as the server uses it |
//! | `remote`, `calls`, `link` | a module there; a shard's calls in all domains, and in one |
//! | `shared` | what all of these share: the life in service, modules, runs of jobs |
//! | `supervisor`, `succession`, `growth` | which life is in service, and when another is |
//! | `hook` | how long constructors and hooks may take |
//! | `life`, `reader` | one process: spawned, spoken with, read, buried |
//! | `post`, `hearing`, `asked` | what it is told, what it says, what it asks; each within bounds |
//! | `cgroup` | how much memory each process may use |
//! | `crash`, `symbol`, `quarantine` | what died, where, whose fault it was, and what follows |
//! | `printed`, `relay` | what a process prints and logs, and how that gets into the server's log |
//! | `child`, `work`, `companion`, `port`, `answers`, `streaming` | the other side |
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
mod crash;
mod domains;
mod extents;
mod file_body;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod growth;
mod hearing;
mod hook;
mod identity;
mod layout;
mod leftovers;
mod life;
mod link;
mod parent;
mod passing;
mod port;
mod post;
mod printed;
mod quarantine;
mod reader;
pub mod relay;
mod remote;
mod shared;
mod status;
mod streaming;
mod succession;
mod supervisor;
pub mod symbol;
mod watch;
mod wire;
mod work;

pub use arena::Budgets;
pub use calls::DomainCalls;
pub use cgroup::Cgroups;
pub use crash::CrashReport;
pub use domains::Domains;
pub use identity::Identity;
pub use leftovers::end_leftovers;
pub use link::{RemoteCalls, ShardLink};
pub use parent::{DomainConfig, Process, message_bytes_max};
pub use quarantine::CrashLimit;
pub use remote::RemoteModule;
pub use status::DomainStatus;
pub use watch::Allowance;

use std::sync::{Mutex, MutexGuard, PoisonError};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
