//! From C source to a served module: compile → inspect → verify → load → publish → retire.
//!
//! Control plane only: nothing here runs for a request. What the shards read is the immutable [`table::Table`],
//! published whole by one atomic store.

pub mod captures;
mod compile;
pub mod control;
pub mod deploy;
mod dialect;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
pub mod generation;
mod job_code;
mod matcher;
mod mounts;
pub mod pattern;
mod pipeline;
mod sdk;
mod store;
pub mod table;
mod verify;
