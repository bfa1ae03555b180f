//! Events in the form for watchers, encoded once for all of them; and the notice that no event follows.

use super::store::JobEvent;
use std::fmt::Write;
use std::sync::{Arc, OnceLock};

/// Means all jobs in place of a job's number. No job has this number.
pub const ALL_JOBS: i64 = 0;

/// One event of one job, encoded.
#[derive(Debug)]
pub struct JobFrame {
    /// The job's number in the store.
    pub job_id: i64,
    /// The event's number; increases with each event.
    pub event_id: i64,
    /// This is no event but a notice: no event follows the earlier ones.
    pub is_end: bool,
    /// `{"job_uuid","event_id","ts","type","data"}` on one line.
    pub json: String,
    websocket: OnceLock<Arc<[u8]>>,
}

impl JobFrame {
    /// Encodes `event`.
    #[must_use]
    pub fn new(event: &JobEvent) -> Self {
        let mut json = String::with_capacity(event.data.len() + event.kind.len() + 128);
        let kind = serde_json::Value::from(&*event.kind);
        // Writing to a String can't fail.
        let _ = write!(
            json,
            "{{\"job_uuid\":\"{}\",\"event_id\":{},\"ts\":{},\"type\":{kind},\"data\":{}}}",
            event.uuid, event.id, event.ts_ms, event.data
        );
        Self { job_id: event.job_id, event_id: event.id, is_end: false, json, websocket: OnceLock::new() }
    }

    /// Like [`JobFrame::new`], with the names of the module and the job, and the position after the event: for streams of many
    /// jobs.
    #[must_use]
    pub fn of_job(event: &JobEvent, module: &str, job: &str, cursor: &str) -> Self {
        let mut frame = Self::new(event);
        frame.json.pop();
        let (module, job) = (serde_json::Value::from(module), serde_json::Value::from(job));
        let _ = write!(frame.json, ",\"module\":{module},\"job\":{job},\"cursor\":\"{cursor}\"}}");
        frame
    }

    /// A notice for streams of many jobs: new events exist, up to number `event_id`.
    #[must_use]
    pub fn news(event_id: i64) -> Self {
        Self { job_id: ALL_JOBS, event_id, is_end: false, json: String::new(), websocket: OnceLock::new() }
    }

    /// Tells the streams of a job that no event follows.
    #[must_use]
    pub fn end(job_id: i64) -> Self {
        Self { job_id, event_id: 0, is_end: true, json: String::new(), websocket: OnceLock::new() }
    }

    /// The event as a WebSocket frame; `encode` converts the JSON, only once.
    pub fn websocket(&self, encode: impl FnOnce(&str) -> Vec<u8>) -> Arc<[u8]> {
        Arc::clone(self.websocket.get_or_init(|| encode(&self.json).into()))
    }
}
