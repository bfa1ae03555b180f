//! What goes into the store and what comes out of it.

use super::StoreError;
use super::budget::Weight;
use crate::jobs::blobs::MadeFile;
use std::sync::Arc;

/// How much a commit promises once it is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// On the disk: survives a loss of power (`PRAGMA synchronous=FULL`).
    #[default]
    Full,
    /// With the kernel: survives the end of the process, may lose the last commits when power fails.
    Normal,
}

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JobState {
    /// Waits to run, for the first time or again.
    Pending,
    /// An executor has it.
    Running,
    /// Ended with a result.
    Done,
    /// Ended with an error.
    Failed,
    /// Was called off; stays so.
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

    /// The state of that name; `None` for any other text.
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

    /// Whether a job in this state has ended and never changes again.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Canceled)
    }
}

/// A job to be stored as pending. Numbers above `i64::MAX` are stored as `i64::MAX`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewJob {
    /// Its public name; must be new.
    pub uuid: String,
    /// The module that owns the job.
    pub module: String,
    /// The job's name within the module.
    pub job: String,
    /// The module source the job was submitted to.
    pub module_hash: String,
    /// JSON text for the job.
    pub payload: String,
    /// How often it may be started in all.
    pub max_attempts: u32,
    /// Pause before the first retry.
    pub backoff_ms: u64,
    /// Longest run; 0 for no limit.
    pub timeout_ms: u64,
    /// Not before this time (Unix milliseconds).
    pub run_at_ms: i64,
    /// Higher runs first.
    pub priority: i32,
    /// At most one stored job of this module and job name has this key.
    pub unique_key: Option<String>,
    /// The slot of a schedule that it comes from.
    pub slot: Option<Slot>,
    /// At most [`NewJob::concurrency_limit`] jobs of this module, job name and key run at once.
    pub concurrency_key: Option<String>,
    /// See [`NewJob::concurrency_key`]; 1 or more.
    pub concurrency_limit: u32,
    /// UUIDs of jobs that have to be done first.
    pub depends_on: Vec<String>,
    /// Names and blobs of the files that it is given.
    pub files: Vec<(String, String)>,
}

/// A stored job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobRow {
    /// The store's number for it: grows with every job, is never used again.
    pub id: i64,
    /// See [`NewJob::uuid`].
    pub uuid: String,
    /// See [`NewJob::module`].
    pub module: String,
    /// See [`NewJob::job`].
    pub job: String,
    /// Where it stands.
    pub state: JobState,
    /// See [`NewJob::module_hash`].
    pub module_hash: String,
    /// When it was stored (Unix milliseconds).
    pub created_at_ms: i64,
    /// When its state last changed (Unix milliseconds); never goes backwards.
    pub updated_at_ms: i64,
    /// See [`NewJob::payload`].
    pub payload: String,
    /// What a run ended with, as the job gave it (JSON or any text).
    pub result: Option<String>,
    /// Why it failed, or, while it waits to run again, why its last run did.
    pub error: Option<String>,
    /// How often it was started.
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
    /// How often it was retried by request: [`Change::Again`].
    pub retries: u32,
    /// Runs that had begun when it was retried by request the last time.
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
    /// The job as [`Change::Again`] leaves it: it has as many runs before it as it had when it was submitted.
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
    /// The row this job has become; `waits`: for some of the jobs that it depends on.
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

/// Something that happened to a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobEvent {
    /// [`JobRow::id`].
    pub job_id: i64,
    /// [`JobRow::uuid`].
    pub uuid: Arc<str>,
    /// Grows with every event of every job.
    pub id: i64,
    /// When (Unix milliseconds); never goes backwards.
    pub ts_ms: i64,
    /// `created`, `started`, `retrying`, `done`, `failed`, `canceled`, or a name of the job's own.
    pub kind: Box<str>,
    /// Valid JSON text.
    pub data: Box<str>,
    /// The state change that ended the job. Only events of a run that goes on may follow ([`Change::Decide`]). An event of
    /// the job's own never has it, whatever it is called.
    pub is_final: bool,
}

/// What became of a submission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Submitted {
    /// It is stored.
    New(JobRow),
    /// A dependency is not stored, has failed or is canceled; the text says which. Nothing was stored.
    Refused(String),
    /// Its unique key names this job, which was there already (in whatever state); nothing was stored.
    Existing(JobRow),
}

/// A guarded state change; its event is written in the same transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// pending → running, counts an attempt; event `started` `{"attempt":n}`.
    Start {
        /// [`JobRow::retries`]: a worker that got the job before it was retried by request does not start it.
        retries: u32,
    },
    /// running → pending; event `retrying` `{"attempt":n,"reason":…,"run_at":ms}`.
    Retry {
        /// Why this attempt didn't end the job.
        reason: String,
        /// When the next may start (Unix milliseconds).
        run_at_ms: i64,
    },
    /// running → done or failed; event `done` with the result, or `failed` with the error as a string.
    Finish {
        /// [`JobState::Done`] or [`JobState::Failed`]; another is refused with [`StoreError::Refused`].
        state: JobState,
        /// JSON, or any text; the event carries JSON as it is and other text as a JSON string.
        result: Option<String>,
        /// For a person.
        error: Option<String>,
    },
    /// As `Finish`, but the run goes on: its events are still stored, until `Return`.
    Decide {
        /// As in `Finish`.
        state: JobState,
        /// As in `Finish`.
        result: Option<String>,
        /// As in `Finish`.
        error: Option<String>,
    },
    /// The run that went on has returned; writes nothing.
    Return,
    /// pending → failed, since a job that it depends on has failed; event `failed` with the error as a string.
    Fail {
        /// For a person.
        error: String,
    },
    /// pending or running → canceled; event `canceled` `{}`.
    Cancel,
    /// failed or canceled → pending, by request and with as many runs as at first, as [`JobRow`] counts them; event
    /// `retrying` `{"attempt":n,"reason":"asked for","run_at":ms}`. Refused while the run that decided goes on.
    Again {
        /// [`JobRow::retries`] as the caller has seen it: of two at once, one is refused.
        retries: u32,
        /// The version that the job runs on from here on.
        module_hash: String,
        /// When it may start (Unix milliseconds).
        run_at_ms: i64,
    },
}

/// What became of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    /// The job is now in this state.
    Applied(JobState),
    /// The job is in this state, from which the change doesn't lead; nothing happened.
    Refused(JobState),
    /// There is no such job.
    Unknown,
    /// [`Change::Again`]: the job is pending now, and waits for others.
    Waits,
    /// [`Change::Again`]: a job that it depends on has ended badly, or is deleted; nothing happened.
    Needs,
}

/// What became of a deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deleted {
    /// The job and its events are gone.
    Done,
    /// The job is still in this state; nothing happened.
    NotFinished(JobState),
    /// There is no such job.
    Unknown,
}

/// Which jobs to list; the default is all of them, none of them shown (`limit` 0).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JobFilter {
    /// Only those in this state.
    pub state: Option<JobState>,
    /// Only those in one of these states; none stands for all.
    pub among: &'static [JobState],
    /// Only this module's.
    pub module: Option<String>,
    /// Only those of this name.
    pub job: Option<String>,
    /// Only those older than this one: the uuid of the last job of the page before. An unknown one gives an empty page.
    pub before: Option<String>,
    /// At most so many.
    pub limit: u32,
}

/// Called once with a command's outcome, on the writer's thread; must return soon and must not block.
///
/// When the method that took it returns an error, it is dropped without being called.
pub type Done<T> = Box<dyn FnOnce(Result<T, StoreError>) + Send>;

/// The slot that a job comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// The schedule's name.
    pub schedule: String,
    /// Unix milliseconds.
    pub at_ms: i64,
}

/// Jobs that may be paused at once.
pub const PAUSED_MAX: usize = 1_000;

/// A job of a module: its kind.
pub type JobKind = (String, String);

/// Result of pausing or resuming a kind of job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paused {
    /// The kind is paused, or resumed, as the request says.
    Done,
    /// [`PAUSED_MAX`] are paused already; nothing happened.
    TooMany,
}

/// A checkpoint on its way to the store.
pub(super) struct Checkpoint {
    pub(super) job: i64,
    pub(super) uuid: Arc<str>,
    pub(super) bytes: Vec<u8>,
    /// Bytes of the queue's budget that the checkpoint holds until it is stored.
    pub(super) _weight: Weight,
}

/// Outputs of a job, on their way to the store.
pub(super) struct MadeFiles {
    pub(super) job: i64,
    pub(super) uuid: Arc<str>,
    pub(super) dir: String,
    pub(super) files: Vec<MadeFile>,
}

/// The files of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobFiles {
    /// Where the job stands.
    pub state: JobState,
    /// Names and blobs of the files that the job was given.
    pub given: Vec<(String, String)>,
    /// Outputs of the job.
    pub made: Vec<MadeFile>,
}

/// Change of a job that waited for others; the writer reports it once the transaction is committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    /// All dependencies are done: the job may run.
    Ready {
        /// Its uuid.
        uuid: Arc<str>,
    },
    /// A dependency has failed or is canceled, so the job has failed.
    Failed {
        /// Its number.
        id: i64,
        /// Its uuid.
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
