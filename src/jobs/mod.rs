//! Background jobs: durable, in order, observed.
//!
//! A submission is acknowledged once the [`store`]'s writer has committed it. The dispatcher hands jobs whose time has
//! come to worker threads, by priority and fairly between modules; a worker commits the start, runs the module's code, and
//! hands the outcome to the writer. What the writer has committed goes to the [`hub`], and from there to the shards whose
//! clients watch.
//!
//! This room knows no HTTP, no sockets and no modules: it finds and runs code through [`code::CodeSource`].

mod active;
mod again;
pub mod blobs;
mod cleaning;
pub mod code;
mod dispatcher;
mod frame;
pub mod hub;
mod json;
mod lifecycle;
mod notice;
mod queries;
mod request;
mod schedule;
mod service;
pub mod store;
mod worker;

pub use again::{Bulk, JobPage, RetryError};
pub use frame::JobFrame;
pub use json::{one_line as json_text, ready as json_ready};
pub use request::{JobRequest, RequestError};
pub use service::{Accepted, CancelOutcome, Jobs, JobsConfig, Replay, SubmitError};
