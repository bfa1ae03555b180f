//! cweb turns C source into running web services.
//!
//! The crate's layers, top to bottom; a layer imports those below it, never above:
//!
//! | layer | purpose |
//! | --- | --- |
//! | [`cli`] | the commands of the program, one file each |
//! | [`server`] | starts and stops the threads in order |
//! | [`sd_notify`] | messages to the service manager: ready, stopping, alive |
//! | [`testing`] | runs the tests that authors write for their modules: `cweb test` |
//! | [`admin`] | the server's own paths: `/mgnt`, `/jobs`, `/blobs`, `/healthz`, `/metrics`; access control |
//! | [`shard`] | a pinned thread with its connections, dispatch, inbox and timers |
//! | [`server_response`], [`shard_stats`] | the server's own answers, and the counters of a shard |
//! | [`module`] | source → compile → cache → load → table → generations → persistence |
//! | [`domain`] | where handlers execute: executors, the fault guard |
//! | [`abi`] | the `repr(C)` mirror of `include/`, and the services that modules call |
//! | [`jobs`] | background jobs: queue, workers, schedules, the durable store |
//! | [`net`] | the reactor seam and its drivers; listeners |
//! | [`proto`] | sans-IO protocol machines: HTTP/1.1, forms, WebSocket |
//! | [`id_map`] | maps whose keys are numbers that the server assigns |
//! | [`logbook`] | the last lines of each module |
//! | [`machine`] | the memory of the machine, and the limits of the cgroups around the server |
//! | [`threads`] | threads that may run module code |
//! | [`config`] | flags, environment and `cweb.toml` into one validated [`config::Config`] |

pub mod abi;
pub mod admin;
pub mod cli;
pub mod config;
pub mod domain;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
pub mod id_map;
pub mod jobs;
pub mod logbook;
pub mod machine;
pub mod module;
pub mod net;
pub mod proto;
pub mod sd_notify;
pub mod server;
pub mod server_response;
pub mod shard;
pub mod shard_stats;
pub mod testing;
pub mod threads;
