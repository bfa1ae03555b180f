//! The reading side of the store.

use super::types::{JobEvent, JobFiles, JobFilter, JobKind, JobRow, JobState};
use super::{ScheduleRow, StoreError, TableQuery};
use std::collections::HashSet;

/// Reads. Each call sees every command that was acknowledged before the call.
///
/// Every method fails with [`StoreError::Read`] if the engine can't be read, or has invalid content.
pub trait Read: Send {
    /// The job with this uuid.
    ///
    /// # Errors
    /// [`StoreError::Read`].
    fn job(&mut self, uuid: &str) -> Result<Option<JobRow>, StoreError>;

    /// Jobs, newest first, without their payloads. The list has at most the filter's limit of jobs, and ends with the job that
    /// brings the bytes of their results to `bytes_max` or more.
    ///
    /// # Errors
    /// [`StoreError::Read`].
    fn jobs(&mut self, filter: &JobFilter, bytes_max: usize) -> Result<Vec<JobRow>, StoreError>;

    /// The number of the job with this uuid.
    ///
    /// # Errors
    /// [`StoreError::Read`].
    fn id(&mut self, uuid: &str) -> Result<Option<i64>, StoreError>;

    /// The payload of a job; `None` if there is no such job.
    ///
    /// # Errors
    /// [`StoreError::Read`].
    fn payload(&mut self, job_id: i64) -> Result<Option<String>, StoreError>;

    /// The state of a job; `None` if there is no such job.
    ///
    /// # Errors
    /// [`StoreError::Read`].
    fn state(&mut self, job_id: i64) -> Result<Option<JobState>, StoreError>;

    /// The job's events with ids above `after`, in order: at most `limit`. The list ends with the event that brings the bytes
    /// of their data to `bytes_max` or more.
    ///
    /// # Errors
    /// [`StoreError::Read`].
    fn events(&mut self, job_id: i64, after: i64, limit: u32, bytes_max: usize) -> Result<Vec<JobEvent>, StoreError>;

    /// Number of the job's events.
    ///
    /// # Errors
    /// [`StoreError::Read`].
    fn event_count(&mut self, job_id: i64) -> Result<u64, StoreError>;

    /// Events of all jobs with numbers above `after`, in the order of the commits; if `after` is negative, no event and the last
    /// number. A page has at most `limit` events, and ends with the event that brings the bytes of their data to `bytes_max` or
    /// more.
    ///
    /// # Errors
    /// [`StoreError::Read`].
    fn feed(&mut self, filter: &FeedFilter, after: i64, limit: u32, bytes_max: usize) -> Result<FeedPage, StoreError>;

    /// Pending and running jobs with ids above `after_id`, in order and without their payloads: the jobs that a starting server
    /// must recover, and whose versions it needs.
    ///
    /// # Errors
    /// [`StoreError::Read`].
    fn unfinished(&mut self, after_id: i64, limit: u32) -> Result<Vec<JobRow>, StoreError>;

    /// The paused kinds.
    ///
    /// # Errors
    /// [`StoreError::Read`].
    fn paused(&mut self) -> Result<Vec<JobKind>, StoreError>;

    /// All schedules, by name.
    ///
    /// # Errors
    /// [`StoreError::Read`].
    fn schedules(&mut self) -> Result<Vec<ScheduleRow>, StoreError>;

    /// The job's last checkpoint.
    ///
    /// # Errors
    /// [`StoreError::Read`].
    fn checkpoint(&mut self, job_id: i64) -> Result<Option<Vec<u8>>, StoreError>;

    /// Names and blobs of the job's inputs.
    ///
    /// # Errors
    /// [`StoreError::Read`].
    fn files_given(&mut self, job_id: i64) -> Result<Vec<(String, String)>, StoreError>;

    /// The files of the job with this uuid; `None` if there is no such job.
    ///
    /// # Errors
    /// [`StoreError::Read`].
    fn files(&mut self, uuid: &str) -> Result<Option<JobFiles>, StoreError>;

    /// The directory of the output `name` of the job with this uuid, if the job is done and has written that output.
    ///
    /// # Errors
    /// [`StoreError::Read`].
    fn output_dir(&mut self, uuid: &str, name: &str) -> Result<Option<String>, StoreError>;

    /// Whether the blob is an input of a job, or an event of a job names it.
    ///
    /// # Errors
    /// [`StoreError::Read`].
    fn is_blob_needed(&mut self, blob: &str) -> Result<bool, StoreError>;

    /// All output directories.
    ///
    /// # Errors
    /// [`StoreError::Read`].
    fn output_dirs(&mut self) -> Result<HashSet<String>, StoreError>;

    /// Output directories whose jobs are deleted, at most `limit`.
    ///
    /// # Errors
    /// [`StoreError::Read`].
    fn gone_dirs(&mut self, limit: u32) -> Result<Vec<String>, StoreError>;

    /// Rows of a table as modules read it, in the form that [`Tables::page`](super::Tables::page) describes. With `modules`, only
    /// rows of their jobs.
    ///
    /// # Errors
    /// [`StoreError::Read`].
    fn page(&mut self, query: &TableQuery, modules: Option<&[String]>) -> Result<String, StoreError>;
}

/// Filter of events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FeedFilter {
    /// Only events of this module's jobs.
    pub module: Option<String>,
    /// Only events that ended a job in this state.
    pub state: Option<JobState>,
}

/// A page of events.
#[derive(Debug)]
pub struct FeedPage {
    /// The events in the order of the commits, with module and job.
    pub events: Vec<(JobEvent, String, String)>,
    /// All events up to this number are in the page, or do not match the filter.
    pub read_to: i64,
    /// There are no further events.
    pub at_end: bool,
}
