//! From C source to a served module: compile → inspect → verify → load → publish → retire.
//!
//! The layer belongs to the control plane: no code in it runs for a request. Shards read the immutable [`table::Table`],
//! which the control plane publishes whole by one atomic store.

mod archive;
mod built;
pub mod captures;
mod checks;
mod compile;
mod compiled;
pub mod control;
mod control_state;
mod crash_json;
pub mod deploy;
mod dialect;
mod durable;
mod file_names;
mod flags;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
pub mod generation;
mod generation_index;
pub mod history;
pub mod instruments;
mod job_code;
mod ledger;
pub mod libraries;
mod limits;
pub mod local;
mod matcher;
mod module_record;
mod mounts;
mod owners;
pub mod pattern;
mod pipeline;
pub mod project;
mod project_files;
pub mod reach;
mod record;
mod restart;
mod sanitizing;
mod schedules;
mod sdk;
mod segment_names;
mod setting_callbacks;
pub mod settings;
mod shared_object;
pub mod signing;
mod spare_build;
mod store;
pub mod table;
mod task;
mod told;
mod verify;
mod versions;
