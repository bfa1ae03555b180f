//! Inputs and outputs of the store.

use super::StoreError;
use super::budget::Weight;
use crate::jobs::blobs::MadeFile;
use std::sync::Arc;

/// The durability of an acknowledged commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// On the disk: survives a loss of power (`PRAGMA synchronous=FULL`).
    #[default]
    Full,
    /// In the kernel's cache: survives the end of the process; a loss of power may lose the last commits.
    Normal,
}

/// The state of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JobState {
    /// Waiting to run, for the first time or again.
    Pending,
    /// A worker runs the job.
    Running,
    /// Ended with a result.
    Done,
    /// Ended with an error.
    Failed,
    /// Canceled; may be retried by request.
    Canceled,
}

impl JobState {
    /// The name used in the database, in URLs and in events.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
        }
    }

    /// The state with this name; `None` for any other text.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "pending" => Self::Pending,
            "running" => Self::Running,
            "done" => Self::Done,
            "failed" => Self::Failed,
            "canceled" => Self::Canceled,
            _ => return None,
        })
    }

    /// Whether a job in this state has ended.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Canceled)
    }
}

/// A job to be stored as pending. Numbers above `i64::MAX` are stored as `i64::MAX`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewJob {
    /// The job's public name; must be unique.
    pub uuid: String,
    /// The module that owns the job.
    pub module: String,
    /// The job's name within the module.
    pub job: String,
    /// Hash of the module source to which the job was submitted.
    pub module_hash: String,
    /// The payload: JSON text for the job.
    pub payload: String,
    /// Limit on the number of starts.
    pub max_attempts: u32,
    /// Pause before the first retry, in milliseconds.
    pub backoff_ms: u64,
    /// Limit on the time of a run, in milliseconds; 0 for no limit.
    pub timeout_ms: u64,
    /// Earliest start (Unix milliseconds).
    pub run_at_ms: i64,
    /// Jobs with a higher priority run first.
    pub priority: i32,
    /// At most one stored job of this module and job name has this key.
    pub unique_key: Option<String>,
    /// The slot of a schedule from which the job was created.
    pub slot: Option<Slot>,
    /// At most [`NewJob::concurrency_limit`] jobs of this module, job name and key run at once.
    pub concurrency_key: Option<String>,
    /// See [`NewJob::concurrency_key`]; 1 or more.
    pub concurrency_limit: u32,
    /// UUIDs of the jobs that must be done first.
    pub depends_on: Vec<String>,
    /// Names and blobs of the input files.
    pub files: Vec<(String, String)>,
}

/// A stored job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobRow {
    /// The store's number of the job: increases with every job, and is never reused.
    pub id: i64,
    /// See [`NewJob::uuid`].
    pub uuid: String,
    /// See [`NewJob::module`].
    pub module: String,
    /// See [`NewJob::job`].
    pub job: String,
    /// The job's state.
    pub state: JobState,
    /// See [`NewJob::module_hash`].
    pub module_hash: String,
    /// When the job was stored (Unix milliseconds).
    pub created_at_ms: i64,
    /// When the state last changed (Unix milliseconds); never decreases.
    pub updated_at_ms: i64,
    /// See [`NewJob::payload`].
    pub payload: String,
    /// The result of a run, as the job set it (JSON or any text).
    pub result: Option<String>,
    /// Why the job failed, or, while it waits to run again, why its last run failed.
    pub error: Option<String>,
    /// How often the job was started.
    pub attempt: u32,
    /// See [`NewJob::max_attempts`].
    pub max_attempts: u32,
    /// See [`NewJob::backoff_ms`].
    pub backoff_ms: u64,
    /// See [`NewJob::timeout_ms`].
    pub timeout_ms: u64,
    /// See [`NewJob::run_at_ms`]; a retry moves it.
    pub run_at_ms: i64,
    /// See [`NewJob::priority`].
    pub priority: i32,
    /// See [`NewJob::unique_key`].
    pub unique_key: Option<String>,
    /// How often the job was retried by request: [`Change::Again`].
    pub retries: u32,
    /// Number of started runs at the last retry by request.
    pub attempts_before: u32,
    /// See [`NewJob::slot`].
    pub slot: Option<Slot>,
    /// See [`NewJob::concurrency_key`].
    pub concurrency_key: Option<String>,
    /// See [`NewJob::concurrency_key`].
    pub concurrency_limit: u32,
    /// The jobs of [`NewJob::depends_on`] that this job still waits for.
    pub depends_on: Vec<String>,
}

impl JobRow {
    /// The job after [`Change::Again`]: it has as many runs left as when it was submitted.
    pub(in crate::jobs) fn again(self, module_hash: String, run_at_ms: i64) -> Self {
        let allowed = self.max_attempts.saturating_sub(self.attempts_before);
        Self {
            state: JobState::Pending,
            module_hash,
            run_at_ms,
            result: None,
            retries: self.retries.saturating_add(1),
            attempts_before: self.attempt,
            max_attempts: self.attempt.saturating_add(allowed),
            ..self
        }
    }
}

impl NewJob {
    /// The row of this job once it is stored; `waits`: the job waits for some of its dependencies.
    pub(super) fn into_row(self, id: i64, now_ms: i64, waits: bool) -> JobRow {
        JobRow {
            id,
            uuid: self.uuid,
            module: self.module,
            job: self.job,
            state: JobState::Pending,
            module_hash: self.module_hash,
            created_at_ms: now_ms,
            updated_at_ms: now_ms,
            payload: self.payload,
            result: None,
            error: None,
            attempt: 0,
            max_attempts: self.max_attempts,
            backoff_ms: self.backoff_ms,
            timeout_ms: self.timeout_ms,
            run_at_ms: self.run_at_ms,
            priority: self.priority,
            unique_key: self.unique_key,
            retries: 0,
            attempts_before: 0,
            slot: self.slot,
            concurrency_key: self.concurrency_key,
            concurrency_limit: self.concurrency_limit,
            depends_on: if waits { self.depends_on } else { Vec::new() },
        }
    }
}

/// An event of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobEvent {
    /// [`JobRow::id`].
    pub job_id: i64,
    /// [`JobRow::uuid`].
    pub uuid: Arc<str>,
    /// The event's number; increases with every event of every job.
    pub id: i64,
    /// The time of the event (Unix milliseconds); never decreases.
    pub ts_ms: i64,
    /// `created`, `started`, `retrying`, `done`, `failed`, `canceled`, or a name that the job chose.
    pub kind: Box<str>,
    /// Valid JSON text.
    pub data: Box<str>,
    /// The event of the state change that ended the job. Only events of a run that continues may follow ([`Change::Decide`]).
    /// An event that the job itself emits never has this flag, whatever its name.
    pub is_final: bool,
}

/// The result of a submission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Submitted {
    /// The job is stored.
    New(JobRow),
    /// A dependency is not stored, has failed or is canceled; the text says which. Nothing was stored.
    Refused(String),
    /// The unique key belongs to this existing job (in any state); nothing was stored.
    Existing(JobRow),
}

/// A run of a job. The store takes events and ends only from the run that holds the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// [`JobRow::id`].
    pub job: i64,
    /// [`JobRow::attempt`] since the start of the run.
    pub attempt: u32,
}

/// A guarded state change; its event is written in the same transaction.
///
/// Changes with an `attempt` come from a run: [`JobRow::attempt`] since its start. They are refused if another run holds the job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// pending → running, counts an attempt; event `started` `{"attempt":n}`.
    Start {
        /// [`JobRow::retries`] as the worker knows it: a worker that got the job before a retry by request must not start it.
        retries: u32,
    },
    /// running → pending; event `retrying` `{"attempt":n,"reason":…,"run_at":ms}`.
    Retry {
        /// The run that has ended.
        attempt: u32,
        /// Why this attempt did not end the job.
        reason: String,
        /// When the next attempt may start (Unix milliseconds).
        run_at_ms: i64,
    },
    /// running → done or failed; event `done` with the result, or `failed` with the error as a string.
    Finish {
        /// The run that has ended.
        attempt: u32,
        /// [`JobState::Done`] or [`JobState::Failed`]; any other state is refused with [`StoreError::Refused`].
        state: JobState,
        /// JSON, or any text; the event has JSON unchanged, and other text as a JSON string.
        result: Option<String>,
        /// The error text, for a person.
        error: Option<String>,
    },
    /// Like `Finish`, but the run continues: its events are still stored, until `Return`.
    Decide {
        /// The run that decides.
        attempt: u32,
        /// As in `Finish`.
        state: JobState,
        /// As in `Finish`.
        result: Option<String>,
        /// As in `Finish`.
        error: Option<String>,
    },
    /// The run that continued has returned; writes nothing.
    Return {
        /// The run that has returned.
        attempt: u32,
    },
    /// pending → failed, because a dependency has failed; event `failed` with the error as a string.
    Fail {
        /// The error text, for a person.
        error: String,
    },
    /// pending or running → canceled; event `canceled` `{}`.
    Cancel,
    /// failed or canceled → pending, by request and with as many runs as at first, as [`JobRow`] counts them. The event is
    /// `retrying` `{"attempt":n,"reason":"asked for","run_at":ms}`. Refused while the deciding run continues.
    Again {
        /// [`JobRow::retries`] as the caller has seen it: of two simultaneous retries, one is refused.
        retries: u32,
        /// The version on which the job runs from now on.
        module_hash: String,
        /// When the job may start (Unix milliseconds).
        run_at_ms: i64,
    },
}

/// The result of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    /// The job is now in this state.
    Applied(JobState),
    /// The job is in this state, which does not allow the change; nothing was changed.
    Refused(JobState),
    /// There is no such job.
    Unknown,
    /// [`Change::Again`]: the job is pending now, and waits for dependencies.
    Waits,
    /// [`Change::Again`]: a dependency has failed, is canceled or deleted; nothing was changed.
    Needs,
}

/// The result of a deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deleted {
    /// The job and its events are gone.
    Done,
    /// The job is unfinished, in this state; nothing was changed.
    NotFinished(JobState),
    /// There is no such job.
    Unknown,
}

/// A filter for lists of jobs. The default matches all jobs and shows none (`limit` 0).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JobFilter {
    /// Only jobs in this state.
    pub state: Option<JobState>,
    /// Only jobs in one of these states; empty: all states.
    pub among: &'static [JobState],
    /// Only jobs of this module.
    pub module: Option<String>,
    /// Only jobs with this name.
    pub job: Option<String>,
    /// Only jobs older than this one: the uuid of the last job of the previous page. An unknown uuid gives an empty page.
    pub before: Option<String>,
    /// Limit on the number of jobs.
    pub limit: u32,
}

/// Called once with a command's outcome, on the writer's thread; must return soon and must not block.
///
/// If the method that takes the callback returns an error, the callback is dropped without a call.
pub type Done<T> = Box<dyn FnOnce(Result<T, StoreError>) + Send>;

/// The slot from which a job was created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// The schedule's name.
    pub schedule: String,
    /// The time of the slot, in Unix milliseconds.
    pub at_ms: i64,
}

/// Limit on simultaneously paused kinds.
pub const PAUSED_MAX: usize = 1_000;

/// A kind: module and job name.
pub type JobKind = (String, String);

/// Result of pausing or resuming a kind of job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paused {
    /// The kind is paused or resumed, as requested.
    Done,
    /// [`PAUSED_MAX`] kinds are paused already; nothing was changed.
    TooMany,
}

/// A checkpoint to be stored.
pub(super) struct Checkpoint {
    pub(super) run: Run,
    pub(super) uuid: Arc<str>,
    pub(super) bytes: Vec<u8>,
    /// Bytes of the queue's budget that the checkpoint holds until it is stored.
    pub(super) _weight: Weight,
}

/// A list of a job's outputs to be stored.
pub(super) struct MadeFiles {
    pub(super) run: Run,
    pub(super) uuid: Arc<str>,
    pub(super) dir: String,
    pub(super) files: Vec<MadeFile>,
}

/// The files of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobFiles {
    /// The job's state.
    pub state: JobState,
    /// Names and blobs of the job's inputs.
    pub given: Vec<(String, String)>,
    /// The job's outputs.
    pub made: Vec<MadeFile>,
}

/// News of a job that no caller waits for; the writer reports it once the transaction is committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    /// The job is stored after all: its caller was told [`StoreError::InDoubt`]. Reported before the other news of the commit.
    Stored(Box<JobRow>),
    /// The kind is paused (`true`) or resumed (`false`) after all, likewise.
    Paused(JobKind, bool),
    /// All dependencies are done: the job may run.
    Ready {
        /// The job's uuid.
        uuid: Arc<str>,
    },
    /// A dependency has failed or is canceled, so the job has failed.
    Failed {
        /// The job's number.
        id: i64,
        /// The job's uuid.
        uuid: Arc<str>,
    },
}

/// State of the dependencies that a submission names.
pub(super) enum Needs {
    /// Dependencies that have not ended; empty: the job may run at once.
    Open(Vec<i64>),
    /// A sentence for users: why the submission can't be accepted.
    Refused(String),
}
