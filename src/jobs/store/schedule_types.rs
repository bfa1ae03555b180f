//! Schedules, their changes, and what becomes of those.

use super::types::{JobRow, NewJob};

/// Specification of a schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduleSpec {
    /// The schedule's unique name.
    pub name: String,
    /// The module of the job.
    pub module: String,
    /// The job's name.
    pub job: String,
    /// The cron text: see [`Cron`](crate::jobs::cron::Cron).
    pub cron: String,
    /// Time zone of the cron text: an IANA name.
    pub zone: String,
    /// JSON text: the payload of each job.
    pub payload: String,
    /// Whether a run may begin before the previous one has ended.
    pub overlap: bool,
    /// True: the module declares the schedule; false: a client has created it.
    pub declared: bool,
}

/// A stored schedule. Times are Unix milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduleRow {
    /// The schedule's specification.
    pub spec: ScheduleSpec,
    /// Increases with each change of the specification.
    pub revision: i64,
    /// The next slot; `i64::MAX`: there is none.
    pub next_ms: i64,
    /// The last processed slot.
    pub last_slot_ms: Option<i64>,
    /// UUID of the last created job.
    pub last_job: Option<String>,
    /// Number of created jobs.
    pub runs: i64,
    /// Number of slots skipped because the previous run had not ended.
    pub skipped: i64,
}

/// A change of the schedules.
#[derive(Debug, Clone)]
pub enum ScheduleChange {
    /// Creates or changes a schedule. Its next slot becomes `next_ms`, unless the times are unchanged or a slot is due.
    Put {
        /// The schedule's specification.
        spec: ScheduleSpec,
        /// The first slot from now on.
        next_ms: i64,
    },
    /// Deletes a schedule.
    Remove {
        /// The schedule's name.
        name: String,
        /// True: only if its module declares it; false: only if a client created it.
        declared: bool,
    },
    /// Processes the due slot of `job`: stores the job, unless the previous run has not ended.
    Fire {
        /// [`ScheduleRow::revision`] as the caller knows it; if the stored revision differs, nothing is changed.
        revision: i64,
        /// The next slot after this one.
        next_ms: i64,
        /// The job to store; [`NewJob::slot`] must be set.
        job: Box<NewJob>,
    },
}

/// Result of a [`ScheduleChange`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScheduleOutcome {
    /// The schedule in its present state.
    Is(ScheduleRow),
    /// The schedule of that name does not exist any more.
    Gone,
    /// There is no schedule of that name and owner; nothing was changed.
    NotFound,
    /// A schedule of the other owner has the name; nothing was changed.
    Taken,
    /// The slot's job is stored.
    Fired(Box<JobRow>, ScheduleRow),
}
