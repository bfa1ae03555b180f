//! Modules in a process of their own (`--isolation process`).
//!
//! The server's side is a [`Host`](super::Host) whose instances live in child processes, the domains: each has a name, and
//! [`Domains`] starts and ends them. Requests and WebSocket events cross over rings in shared memory, a pair for each shard
//! and domain; everything else over a control connection. What a domain sends is checked as hostile input. A domain that
//! dies is started again with its modules.

mod calls;
pub mod child;
mod companion;
mod control;
mod domains;
mod identity;
mod layout;
mod link;
mod parent;
mod port;
mod remote;
mod wire;
mod work;

pub use calls::DomainCalls;
pub use domains::Domains;
pub use identity::Identity;
pub use link::{RemoteCalls, ShardLink};
pub use parent::{DomainConfig, Process};
pub use remote::RemoteModule;
