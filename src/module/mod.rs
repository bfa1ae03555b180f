//! From C source to a served module: compile → inspect → verify → load → publish → retire.
//!
//! Control plane only: nothing here runs for a request. What the shards read is the immutable [`table::Table`],
//! published whole by one atomic store.

mod archive;
mod built;
pub mod captures;
mod compile;
pub mod control;
pub mod deploy;
mod dialect;
mod flags;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
pub mod generation;
pub mod history;
pub mod instruments;
mod job_code;
pub mod libraries;
mod limits;
pub mod local;
mod matcher;
mod mounts;
mod owners;
pub mod pattern;
mod pipeline;
pub mod project;
pub mod reach;
mod record;
mod restart;
mod sanitizing;
mod schedules;
mod sdk;
mod setting_callbacks;
pub mod settings;
mod shared_object;
pub mod signing;
mod spare_build;
mod store;
pub mod table;
mod told;
mod verify;
mod versions;
