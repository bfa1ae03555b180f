//! Modules in a process of their own (`--isolation process`).
//!
//! The server's side is a [`Host`](super::Host) whose instances live in a child process, the domain. Requests and
//! WebSocket events cross over rings in shared memory, a pair a shard; everything else over a control connection. What
//! a domain sends is checked as hostile input. A domain that dies is started again with its modules.

pub mod child;
mod companion;
mod control;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod layout;
mod link;
mod parent;
mod port;
mod remote;
mod wire;
mod work;

pub use link::{RemoteCalls, ShardLink};
pub use parent::{DomainConfig, Process};
pub use remote::RemoteModule;
