//! The code of jobs, as this room sees it.

use super::store::ScheduleSpec;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// What a running job asks of the server. Called on the job's thread and on any thread it starts.
pub trait JobCalls: Sync {
    /// Stores an event; `data` is JSON, or any text. False if the job takes none any more, or it is too large.
    fn emit_event(&self, kind: &str, data: Option<&str>) -> bool;
    /// Ends the job as done with this result: JSON, or any text. False if a result or an error was set before, the text is
    /// too large or the job is to end.
    fn set_result(&self, result: &str) -> bool;
    /// Ends the job as failed with this text, or, while attempts are left, the run. False as for `set_result`.
    fn set_error(&self, error: &str) -> bool;
    /// Whether the job is to end.
    fn is_canceled(&self) -> bool;
    /// Milliseconds that the run has left, 0 when its time is over; `None`: it has no limit.
    fn remaining_ms(&self) -> Option<u64>;

    /// Keeps `bytes` as the job's checkpoint, in the place of the one before, and returns once that is durable; no bytes
    /// keep none.
    ///
    /// # Errors
    /// An errno: `EMSGSIZE`, `ECANCELED` (the job is to end, or has ended), `EIO`.
    fn checkpoint(&self, bytes: &[u8]) -> Result<(), i32>;

    /// The checkpoint that earlier runs of the job have left.
    ///
    /// # Errors
    /// An errno.
    fn resume(&self) -> Result<Option<Vec<u8>>, i32>;

    /// Stores `bytes` as a blob, and an event of type `kind` that names the blob: see [`event_reference`]. The blob stays as long
    /// as the job.
    ///
    /// # Errors
    /// An errno: `EINVAL` (no type), `EMSGSIZE`, `EDQUOT` (as many events as a job may have), `ENOSPC` (no room for the blob),
    /// `ECANCELED` (the job is to end), `EIO`.
    ///
    /// [`event_reference`]: super::blobs::event_reference
    fn emit_bytes(&self, kind: &str, bytes: &[u8]) -> Result<(), i32>;

    /// Opens the file that the submission calls `name`, for reading.
    ///
    /// # Errors
    /// An errno; `ENOENT`: there is no such file.
    fn file(&self, name: &str) -> Result<OwnedFd, i32>;

    /// Opens the file `name` that the job makes, for reading and writing; the first time it is empty.
    ///
    /// # Errors
    /// An errno: `EINVAL` (no name of a file), `EMFILE` (too many), `ECANCELED` (the job is to end, or has ended), `ENOSPC`.
    fn output(&self, name: &str) -> Result<OwnedFd, i32>;
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The run function returned this.
    Returned(i32),
    /// It did not return: how, for people.
    Crashed(String),
}

/// One job's code in one version of its module. Holds that version: it is neither unloaded nor closed meanwhile.
pub trait Code: Send + Sync {
    /// Runs the job on the calling thread.
    fn run(&self, uuid: &str, payload: &str, calls: &dyn JobCalls) -> Ended;

    /// Calls the job's cancel callback, if it has one, on the calling thread.
    fn cancel(&self, uuid: &str);
}

/// What a job's declaration says of its runs; 0 where it says nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Defaults {
    /// Runs in all, when they fail.
    pub max_attempts: u32,
    /// Wait before the second run.
    pub backoff_ms: u32,
    /// Longest run.
    pub timeout_ms: u32,
    /// Higher runs first.
    pub priority: i32,
    /// Most runs of this job at once.
    pub concurrency: u32,
}

/// A job that a served module declares.
#[derive(Clone)]
pub struct Declared {
    /// The module's name.
    pub module: String,
    /// Its version: SHA-256 of the source, in hexadecimal.
    pub hash: String,
    /// From the declaration.
    pub defaults: Defaults,
    /// The code of the version served now.
    pub code: Arc<dyn Code>,
}

/// Why a job could not be found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// No such module.
    #[error("there is no module named {0}")]
    UnknownModule(String),
    /// The module declares no such job.
    #[error("module {module} has no job named {job}")]
    UnknownJob {
        /// The module.
        module: String,
        /// What was asked for.
        job: String,
    },
    /// No module declares such a job.
    #[error("no module has a job named {0}")]
    NoSuchJob(String),
    /// Several modules do.
    #[error("several modules have a job named {job} ({modules}): name one in \"module\"")]
    Ambiguous {
        /// What was asked for.
        job: String,
        /// Their names.
        modules: String,
    },
    /// The module is being swapped: ask again in a moment.
    #[error("module {0} is being replaced; try again")]
    Swapping(String),
}

/// Finds the code of jobs.
pub trait CodeSource: Send + Sync {
    /// The job `job` of `module`, or of the one module that has a job of that name.
    ///
    /// # Errors
    /// Each variant of [`ResolveError`].
    fn resolve(&self, module: Option<&str>, job: &str) -> Result<Declared, ResolveError>;

    /// The job `job` as the loaded module number `instance` means it: its own in its own version, else another
    /// module's.
    ///
    /// # Errors
    /// Each variant of [`ResolveError`].
    fn resolve_for(&self, instance: u64, job: &str) -> Result<Declared, ResolveError>;

    /// The code of `job` in the version `hash` of `module`, which is loaded again if need be.
    ///
    /// # Errors
    /// For people: why it can't be had.
    fn acquire(&self, module: &str, hash: &str, job: &str) -> Result<Declared, String>;

    /// The schedules that each served module declares.
    fn schedules(&self) -> Vec<(String, Vec<ScheduleSpec>)>;

    /// Whether the module is deployed, even if it could not be loaded.
    fn is_kept(&self, module: &str) -> bool;
}
