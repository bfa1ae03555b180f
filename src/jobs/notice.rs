//! What service and workers tell the dispatcher.

use super::active::ActiveJob;
use super::kinds::KindCount;
use super::scheduler::{Asked, Told};
use super::store::JobKind;
use crossbeam::channel::Sender;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// What the dispatcher is told.
pub(super) enum Notice {
    /// The job waits, not to run before this time.
    Ready { job: Arc<ActiveJob>, run_at_ms: i64 },
    /// The job was canceled, waiting or running.
    Canceled(Arc<ActiveJob>),
    /// Its code begins to run.
    Began(Arc<ActiveJob>),
    /// A worker is done with the job; it is to run again at that time, or never.
    Ended { job: Arc<ActiveJob>, retry_at_ms: Option<i64> },
    /// A worker that was given up has come back.
    Returned,
    /// A full sweep: there may be more to delete.
    SweepAgain,
    /// The store has changed that schedule, or refused to; with `true`, the declarations of modules are read again.
    Schedule(String, Told, bool),
    /// A client's request about schedules.
    Schedules(Asked),
    /// The kind is paused (`true`) or resumed (`false`).
    Paused(JobKind, bool),
    /// A client asks for the kinds of jobs.
    Kinds(Box<dyn FnOnce(Vec<KindCount>) + Send>),
    /// Modules were published or removed.
    Modules,
    /// Schedules that modules declare could not be stored: the dispatcher tries again a moment later.
    ModulesLater,
    /// The modules are there: jobs may run.
    Begin,
    /// Start no more; tell when nothing runs.
    Stop(Sender<()>),
}

/// Milliseconds since 1970.
pub(super) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
