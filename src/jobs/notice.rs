//! Messages of the service and the workers to the dispatcher.

use super::active::ActiveJob;
use super::kind_count::KindCount;
use super::store::{JobKind, ScheduleOutcome, ScheduleRow, ScheduleSpec, StoreError};
use crossbeam::channel::Sender;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// A message to the dispatcher.
pub(super) enum Notice {
    /// The job is pending, and must not run before this time.
    Ready { job: Arc<ActiveJob>, run_at_ms: i64 },
    /// The pending or running job was canceled.
    Canceled(Arc<ActiveJob>),
    /// The job's code begins to run.
    Began(Arc<ActiveJob>),
    /// A worker has finished with the job; the job runs again at that time, or never.
    Ended { job: Arc<ActiveJob>, retry_at_ms: Option<i64> },
    /// An abandoned worker has returned.
    Returned,
    /// A sweep reached its limit: there may be more jobs to delete.
    SweepAgain,
    /// The store has changed the schedule of this name, or refused the change. With `true`, the declarations of modules are
    /// read again.
    Schedule(String, Told, bool),
    /// A client's request about schedules.
    Schedules(Asked),
    /// The kind is paused (`true`) or resumed (`false`).
    Paused(JobKind, bool),
    /// A client asks for the kinds of jobs.
    Kinds(Box<dyn FnOnce(Vec<KindCount>) + Send>),
    /// Modules were published or removed.
    Modules,
    /// Schedules that modules declare could not be stored: the dispatcher tries again shortly.
    ModulesLater,
    /// The modules are loaded: jobs may run.
    Begin,
    /// Start no more jobs; answer once no job runs.
    Stop(Sender<()>),
}

/// A schedule, and the reason why a due slot has no job yet, for clients.
pub type Shown = (ScheduleRow, Option<String>);

/// Requests about schedules.
pub(super) enum Asked {
    /// Lists the schedule of this name, or all of them.
    List(Option<String>, Box<dyn FnOnce(Vec<Shown>) + Send>),
    /// Creates or changes a schedule that a client owns.
    Put(ScheduleSpec, Box<dyn FnOnce(Result<ScheduleOutcome, StoreError>) + Send>),
    /// Deletes a schedule that a client owns.
    Remove(String, Box<dyn FnOnce(Result<ScheduleOutcome, StoreError>) + Send>),
}

/// State of a schedule after the store's answer.
pub(super) enum Told {
    Is(Box<ScheduleRow>),
    Gone,
    Failed(String),
}

/// Milliseconds since 1970-01-01 00:00:00 UTC.
pub(super) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
