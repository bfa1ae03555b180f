//! The interface of this layer to the code of jobs.

use super::store::ScheduleSpec;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// The calls that a running job makes to the server, on the job's thread or any thread that the job starts.
pub trait JobCalls: Sync {
    /// Stores an event; `data` is JSON, or any text. Returns false if the job may emit no more events, or the event is too
    /// large.
    fn emit_event(&self, kind: &str, data: Option<&str>) -> bool;
    /// Ends the job as done with this result: JSON, or any text. Returns false if a result or an error was set before, the text
    /// is too large, or the job must end.
    fn set_result(&self, result: &str) -> bool;
    /// Ends the job as failed with this text, or only the run while attempts are left. Returns false as for `set_result`.
    fn set_error(&self, error: &str) -> bool;
    /// Whether the job must end.
    fn is_canceled(&self) -> bool;
    /// Milliseconds that the run has left, 0 when its time is over; `None`: the run has no limit.
    fn remaining_ms(&self) -> Option<u64>;

    /// Stores `bytes` as the job's checkpoint in place of the earlier one, and returns once the checkpoint is durable. Empty
    /// `bytes` remove the checkpoint.
    ///
    /// # Errors
    /// An errno: `EMSGSIZE`, `ECANCELED` (the job must end, or has ended), `EIO`.
    fn checkpoint(&self, bytes: &[u8]) -> Result<(), i32>;

    /// The checkpoint of earlier runs of the job.
    ///
    /// # Errors
    /// An errno.
    fn resume(&self) -> Result<Option<Vec<u8>>, i32>;

    /// Stores `bytes` as a blob, and an event of type `kind` that names the blob: see [`event_reference`]. The blob is kept as
    /// long as the job.
    ///
    /// # Errors
    /// An errno: `EINVAL` (no type), `EMSGSIZE`, `EDQUOT` (the job's limit on events is reached), `ENOSPC` (no room for the
    /// blob), `ECANCELED` (the job must end), `EIO`.
    ///
    /// [`event_reference`]: super::blobs::event_reference
    fn emit_bytes(&self, kind: &str, bytes: &[u8]) -> Result<(), i32>;

    /// Opens the input that the submission calls `name`, for reading.
    ///
    /// # Errors
    /// An errno; `ENOENT`: there is no such file.
    fn file(&self, name: &str) -> Result<OwnedFd, i32>;

    /// Opens the job's output `name` for reading and writing; the first call creates it empty.
    ///
    /// # Errors
    /// An errno: `EINVAL` (invalid name), `EMFILE` (too many outputs), `ECANCELED` (the job must end, or has ended), `ENOSPC`.
    fn output(&self, name: &str) -> Result<OwnedFd, i32>;
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The run function returned this value.
    Returned(i32),
    /// The run function did not return; the text says why, for people.
    Crashed(String),
}

/// The code of one job in one version of its module. While it is held, that version is neither unloaded nor closed.
pub trait Code: Send + Sync {
    /// Runs the job on the calling thread.
    fn run(&self, uuid: &str, payload: &str, calls: &dyn JobCalls) -> Ended;

    /// Calls the job's cancel callback, if there is one, on the calling thread.
    fn cancel(&self, uuid: &str);
}

/// The settings in a job's declaration; 0 where the declaration has none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Defaults {
    /// Limit on the runs of a job whose runs fail.
    pub max_attempts: u32,
    /// Pause before the second run.
    pub backoff_ms: u32,
    /// Limit on the time of a run.
    pub timeout_ms: u32,
    /// Jobs with a higher priority run first.
    pub priority: i32,
    /// Limit on simultaneous runs of this job.
    pub concurrency: u32,
}

impl Defaults {
    /// The time limit of the declaration, or else `otherwise`.
    pub(super) fn timeout_or(&self, otherwise: u64) -> u64 {
        if self.timeout_ms == 0 { otherwise } else { u64::from(self.timeout_ms) }
    }
}

/// A job that a served module declares.
#[derive(Clone)]
pub struct Declared {
    /// The module's name.
    pub module: String,
    /// The module's version: SHA-256 of the source, in hexadecimal.
    pub hash: String,
    /// The settings of the declaration.
    pub defaults: Defaults,
    /// The code of the served version.
    pub code: Arc<dyn Code>,
}

/// Why a job could not be found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// There is no such module.
    #[error("there is no module named {0}")]
    UnknownModule(String),
    /// The module declares no such job.
    #[error("module {module} has no job named {job}")]
    UnknownJob {
        /// The module.
        module: String,
        /// The requested job.
        job: String,
    },
    /// No module declares such a job.
    #[error("no module has a job named {0}")]
    NoSuchJob(String),
    /// Several modules declare such a job.
    #[error("several modules have a job named {job} ({modules}): name one in \"module\"")]
    Ambiguous {
        /// The requested job.
        job: String,
        /// The modules' names.
        modules: String,
    },
    /// The module is being swapped: the caller should try again shortly.
    #[error("module {0} is being replaced; try again")]
    Swapping(String),
}

/// Finds the code of jobs.
pub trait CodeSource: Send + Sync {
    /// The job `job` of `module`, or of the only module with a job of that name.
    ///
    /// # Errors
    /// Each variant of [`ResolveError`].
    fn resolve(&self, module: Option<&str>, job: &str) -> Result<Declared, ResolveError>;

    /// The job `job` from the view of the loaded module number `instance`: the job in that module's version, or else another
    /// module's.
    ///
    /// # Errors
    /// Each variant of [`ResolveError`].
    /// Each variant of [`ResolveError`].
    fn resolve_for(&self, instance: u64, job: &str) -> Result<Declared, ResolveError>;

    /// The code of `job` in the version `hash` of `module`, which is loaded again if necessary.
    ///
    /// # Errors
    /// Why the code is not available, as a text for people.
    fn acquire(&self, module: &str, hash: &str, job: &str) -> Result<Declared, String>;

    /// The schedules that each served module declares.
    fn schedules(&self) -> Vec<(String, Vec<ScheduleSpec>)>;

    /// The domain in which the module runs, or would run.
    fn domain(&self, module: &str) -> Arc<str>;

    /// Whether the module is deployed, even if the server could not load it.
    fn is_kept(&self, module: &str) -> bool;
}
