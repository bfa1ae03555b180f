//! What the jobs of a server need to know.

use super::blobs::BlobsConfig;
use std::time::Duration;

/// What the jobs of a server need to know.
#[derive(Debug, Clone)]
pub struct JobsConfig {
    /// Jobs that run at once.
    pub workers: usize,
    /// Jobs beyond those, each of a domain of which no other job runs.
    pub reserve_workers: usize,
    /// Most jobs of the modules of one domain at once; 0: no limit.
    pub domain_running_max: usize,
    /// Longest run of a job for which neither its submission nor its module says one; 0: no limit.
    pub timeout_ms: u64,
    /// Most jobs of one module at once; 0: no limit.
    pub module_running_max: usize,
    /// Jobs that may wait or run.
    pub unfinished_max: usize,
    /// Largest payload.
    pub payload_bytes_max: usize,
    /// Largest data of an event.
    pub event_bytes_max: usize,
    /// Most events that a job emits itself, and most bytes of them.
    pub events_max: u64,
    /// See above.
    pub events_bytes_max: u64,
    /// Largest result or error text.
    pub result_bytes_max: usize,
    /// Largest checkpoint.
    pub checkpoint_bytes_max: usize,
    /// How long jobs are kept once they have ended.
    pub retention: Duration,
    /// The files that jobs work on.
    pub blobs: BlobsConfig,
}
