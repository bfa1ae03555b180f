//! cweb turns C source into running web services.
//!
//! The crate's rooms, top to bottom; a room imports those below it, never above:
//!
//! | room | what it is for |
//! | --- | --- |
//! | [`cli`] | one thin command a file: serve, deploy, modules, new, dev |
//! | [`server`] | starts and stops the threads in order |
//! | [`sd_notify`] | what the service manager is told: ready, stopping, alive |
//! | [`testing`] | runs the tests that authors write for their modules: `cweb test` |
//! | [`admin`] | the server's own paths: `/mgnt`, `/healthz`, `/metrics`; auth and CORS |
//! | [`shard`] | one pinned thread each: connection table, dispatch, inbox, timers |
//! | [`server_response`], [`shard_stats`] | answers of the server's own, and the counters of a shard |
//! | [`module`] | source → compile → cache → load → table → generations → persistence |
//! | [`domain`] | where handlers execute: executors, the fault guard |
//! | [`abi`] | the `repr(C)` mirror of `include/` and the services modules call |
//! | [`net`] | the reactor seam and its drivers; listeners |
//! | [`proto`] | sans-IO protocol machines: HTTP/1.1, forms, WebSocket |
//! | [`id_map`] | maps by numbers of the server's own |
//! | [`logbook`] | the last lines of each module |
//! | [`machine`] | how much memory the machine and the cgroups around the server have |
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
