//! Schedules, their changes, and what becomes of those.

use super::types::{JobRow, NewJob};

/// Specification of a schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduleSpec {
    /// Unique.
    pub name: String,
    /// The module whose job it runs.
    pub module: String,
    /// The job.
    pub job: String,
    /// The cron text: see [`Cron`](crate::jobs::cron::Cron).
    pub cron: String,
    /// Time zone of the cron text: an IANA name.
    pub zone: String,
    /// JSON text for each job.
    pub payload: String,
    /// Whether a run may begin while the one before has not ended.
    pub overlap: bool,
    /// The module declares the schedule; false: a client has made it.
    pub declared: bool,
}

/// A stored schedule. Times are Unix milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduleRow {
    /// The schedule's specification.
    pub spec: ScheduleSpec,
    /// Changes with the specification.
    pub revision: i64,
    /// The next slot; `i64::MAX`: there is none.
    pub next_ms: i64,
    /// The last slot that had its turn.
    pub last_slot_ms: Option<i64>,
    /// UUID of the last job.
    pub last_job: Option<String>,
    /// Jobs so far.
    pub runs: i64,
    /// Slots so far at which the run before went on.
    pub skipped: i64,
}

/// A change of the schedules.
#[derive(Debug, Clone)]
pub enum ScheduleChange {
    /// Makes or changes a schedule; its next slot is `next_ms`, unless its times are as they were, or a slot is due.
    Put {
        /// The schedule's specification.
        spec: ScheduleSpec,
        /// The first slot from now on.
        next_ms: i64,
    },
    /// Ends a schedule.
    Remove {
        /// Its name.
        name: String,
        /// Only if its module declares it, or only if a client made it.
        declared: bool,
    },
    /// The slot of `job` is due: stores the job, unless the run before it goes on.
    Fire {
        /// [`ScheduleRow::revision`] as the caller knows it; if the stored one differs, nothing happens.
        revision: i64,
        /// The next slot after this one.
        next_ms: i64,
        /// With [`NewJob::slot`].
        job: Box<NewJob>,
    },
}

/// Result of a [`ScheduleChange`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScheduleOutcome {
    /// The schedule as it is now.
    Is(ScheduleRow),
    /// There is no schedule of that name any more.
    Gone,
    /// There is no schedule of that name and kind; nothing happened.
    NotFound,
    /// A schedule of the other kind has the name; nothing happened.
    Taken,
    /// The slot's job is stored.
    Fired(Box<JobRow>, ScheduleRow),
}
