//! Background jobs: durable, in order, observed.
//!
//! A submission is acknowledged once the [`store`]'s writer has committed it. The dispatcher assigns due jobs to worker
//! threads, by priority and fairly between modules. A worker commits the start, runs the module's code, and sends the outcome
//! to the writer. The dispatcher also creates a job for each due slot of a schedule. Committed events go from the writer to the
//! [`hub`], and from there to the shards whose clients watch.
//!
//! This layer has no HTTP, no sockets and no modules: it finds and runs code through [`code::CodeSource`].

mod active;
mod again;
mod answer;
pub mod blobs;
mod cleaning;
pub mod code;
pub mod cron;
mod dispatcher;
mod feed;
mod frame;
pub mod hub;
mod jobs_config;
mod json;
mod kind_count;
mod kinds;
mod lifecycle;
mod notice;
mod queries;
mod recovery;
mod request;
mod run_ends;
mod run_queue;
mod schedule;
mod scheduler;
mod schedules;
mod service;
pub mod store;
mod timetable;
mod worker;

pub use again::{Bulk, JobPage, RetryError};
pub use feed::{Cursor, FeedSlice, feed_filter};
pub use frame::{ALL_JOBS, JobFrame};
pub use jobs_config::JobsConfig;
pub use json::{one_line as json_text, ready as json_ready};
pub use kind_count::KindCount;
pub use kinds::PauseError;
pub use notice::Shown;
pub use request::{JobRequest, RequestError};
pub use schedules::{PAYLOAD_BYTES_MAX as SCHEDULE_PAYLOAD_BYTES_MAX, ScheduleError};
pub use service::{Accepted, CancelOutcome, Jobs, Replay, SubmitError};
