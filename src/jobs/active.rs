//! Jobs that have not ended, in memory.

use super::code::{Code, Defaults};
use super::store::{JobRow, Run};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The state of a job that the dispatcher, the workers and cancellations need. The payload stays on disk until the job runs.
pub(super) struct ActiveJob {
    pub(super) id: i64,
    pub(super) uuid: Arc<str>,
    pub(super) module: String,
    pub(super) job: String,
    pub(super) hash: String,
    pub(super) priority: i32,
    pub(super) max_attempts: u32,
    pub(super) backoff_ms: u64,
    pub(super) timeout_ms: u64,
    /// Earliest start of the first run (Unix milliseconds).
    pub(super) run_at_ms: i64,
    /// Limit on simultaneous runs of this job; 0: no limit. Set once the job's code is known.
    concurrency: AtomicU32,
    /// How often the job was retried by request, and its runs before the last retry.
    pub(super) retries: u32,
    pub(super) attempts_before: u32,
    /// The concurrency key: a limited number of jobs with the same module, name and key run at once.
    pub(super) concurrency_key: Option<Arc<str>>,
    pub(super) concurrency_limit: u32,
    /// Runs that have begun.
    attempt: AtomicU32,
    /// The code of the version with which the job was accepted, held from then on. `None` after a restart, until the job runs.
    code: Mutex<Option<Arc<dyn Code>>>,
    canceled: AtomicBool,
    timed_out: AtomicBool,
    /// The job's run has set a result or an error, which has been sent to the writer.
    decided: AtomicBool,
    /// Number of events that the job has emitted, and their bytes since the server started.
    events: AtomicU64,
    event_bytes: AtomicU64,
    /// An event exceeded the limit on bytes.
    events_cut: AtomicBool,
    /// A thread has claimed the right to write the outcome of the current run.
    settled: AtomicBool,
}

impl ActiveJob {
    /// The job of `row`; `code` if its code is known already.
    pub(super) fn new(row: &JobRow, code: Option<(Arc<dyn Code>, Defaults)>) -> Self {
        let (code, defaults) = code.map_or((None, Defaults::default()), |(code, defaults)| (Some(code), defaults));
        Self {
            id: row.id,
            uuid: row.uuid.as_str().into(),
            module: row.module.clone(),
            job: row.job.clone(),
            hash: row.module_hash.clone(),
            priority: row.priority,
            max_attempts: row.max_attempts,
            backoff_ms: row.backoff_ms,
            timeout_ms: row.timeout_ms,
            run_at_ms: row.run_at_ms,
            concurrency: AtomicU32::new(defaults.concurrency),
            retries: row.retries,
            attempts_before: row.attempts_before,
            concurrency_key: row.concurrency_key.as_deref().map(Arc::from),
            concurrency_limit: row.concurrency_limit,
            attempt: AtomicU32::new(row.attempt),
            code: Mutex::new(code),
            canceled: AtomicBool::new(false),
            timed_out: AtomicBool::new(false),
            decided: AtomicBool::new(false),
            settled: AtomicBool::new(false),
            events: AtomicU64::new(0),
            event_bytes: AtomicU64::new(0),
            events_cut: AtomicBool::new(false),
        }
    }

    fn slot(&self) -> MutexGuard<'_, Option<Arc<dyn Code>>> {
        self.code.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn code(&self) -> Option<Arc<dyn Code>> {
        self.slot().clone()
    }

    pub(super) fn set_code(&self, code: Arc<dyn Code>, defaults: Defaults) {
        self.concurrency.store(defaults.concurrency, Ordering::Relaxed);
        *self.slot() = Some(code);
    }

    pub(super) fn concurrency(&self) -> u32 {
        self.concurrency.load(Ordering::Relaxed)
    }

    /// Identifies the job between two retries by request: a worker may still have the job from before the retry.
    pub(super) fn key(&self) -> (i64, u32) {
        (self.id, self.retries)
    }

    pub(super) fn attempt(&self) -> u32 {
        self.attempt.load(Ordering::Relaxed)
    }

    /// The run that has begun last.
    pub(super) fn run(&self) -> Run {
        Run { job: self.id, attempt: self.attempt() }
    }

    /// Begins a run.
    pub(super) fn begin(&self) {
        self.attempt.fetch_add(1, Ordering::Relaxed);
        self.timed_out.store(false, Ordering::Release);
        self.settled.store(false, Ordering::Release);
    }

    /// Claims the outcome of the run: returns true to one caller only.
    pub(super) fn settle(&self) -> bool {
        !self.settled.swap(true, Ordering::AcqRel)
    }

    pub(super) fn cancel(&self) {
        self.canceled.store(true, Ordering::Release);
    }

    pub(super) fn is_canceled(&self) -> bool {
        self.canceled.load(Ordering::Acquire)
    }

    pub(super) fn decide(&self) {
        self.decided.store(true, Ordering::Release);
    }

    pub(super) fn is_decided(&self) -> bool {
        self.decided.load(Ordering::Acquire)
    }

    /// Counts one more emitted event; returns the number of earlier events.
    pub(super) fn count_event(&self) -> u64 {
        self.events.fetch_add(1, Ordering::Relaxed)
    }

    /// Counts `bytes` of an event, unless the job's events would then exceed `most` bytes.
    pub(super) fn takes_event_bytes(&self, bytes: usize, most: u64) -> bool {
        let take = |before: u64| before.checked_add(bytes as u64).filter(|after| *after <= most);
        self.event_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    /// Whether this is the first event that exceeds the limit on bytes.
    pub(super) fn is_first_too_many(&self) -> bool {
        !self.events_cut.swap(true, Ordering::Relaxed)
    }

    pub(super) fn set_events(&self, count: u64) {
        self.events.store(count, Ordering::Relaxed);
    }

    pub(super) fn time_out(&self) {
        self.timed_out.store(true, Ordering::Release);
    }

    pub(super) fn has_timed_out(&self) -> bool {
        self.timed_out.load(Ordering::Acquire)
    }

    /// Whether the running code must end.
    pub(super) fn must_end(&self) -> bool {
        self.is_canceled() || self.has_timed_out()
    }
}

/// The jobs that have not ended, by UUID.
#[derive(Default)]
pub(super) struct ActiveJobs {
    jobs: Mutex<HashMap<Arc<str>, Arc<ActiveJob>>>,
    /// Jobs that have ended while their run continues and may still emit events.
    going_on: Mutex<HashSet<i64>>,
    /// Jobs assigned to a worker; an abandoned worker keeps its job.
    assigned: Mutex<HashSet<i64>>,
}

impl ActiveJobs {
    fn jobs(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<ActiveJob>>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn insert(&self, job: &Arc<ActiveJob>) {
        self.jobs().insert(Arc::clone(&job.uuid), Arc::clone(job));
    }

    pub(super) fn get(&self, uuid: &str) -> Option<Arc<ActiveJob>> {
        self.jobs().get(uuid).cloned()
    }

    pub(super) fn remove(&self, job: &ActiveJob) {
        let mut jobs = self.jobs();
        // The removed job is dropped after the lock is released.
        let _removed = match jobs.get(&job.uuid) {
            Some(known) if known.retries == job.retries => jobs.remove(&job.uuid),
            _ => None,
        };
        drop(jobs);
    }

    /// Marks job number `id` as assigned; must be called before a worker gets the job.
    pub(super) fn assigned(&self, id: i64) {
        self.assigned.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
    }

    /// Records that the worker has finished with job number `id`, and has sent all results to the store and the dispatcher.
    pub(super) fn left(&self, id: i64) {
        self.assigned.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    /// Whether a worker has job number `id`. A job that had ended before this call and that no worker has does not run any
    /// more.
    pub(super) fn is_assigned(&self, id: i64) -> bool {
        self.assigned.lock().unwrap_or_else(PoisonError::into_inner).contains(&id)
    }

    /// Records that the run of job number `id` decides the job and continues; must be called before the store is told.
    pub(super) fn goes_on(&self, id: i64) {
        self.going_on.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
    }

    /// Records that the run of job number `id` has returned, and that the store has all its events.
    pub(super) fn is_over(&self, id: i64) {
        self.going_on.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    /// Whether events of job number `id` may follow although the job has ended.
    pub(super) fn does_go_on(&self, id: i64) -> bool {
        self.going_on.lock().unwrap_or_else(PoisonError::into_inner).contains(&id)
    }

    /// Calls `see` with each job, and with whether a worker has it.
    pub(super) fn each(&self, mut see: impl FnMut(&ActiveJob, bool)) {
        let assigned = self.assigned.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for job in self.jobs().values() {
            see(job, assigned.contains(&job.id));
        }
    }

    pub(super) fn len(&self) -> usize {
        self.jobs().len()
    }

    /// The module versions that jobs still need.
    pub(super) fn hashes(&self) -> HashSet<String> {
        self.jobs().values().map(|job| job.hash.clone()).collect()
    }

    /// Removes all jobs.
    pub(super) fn clear(&self) {
        let _jobs = std::mem::take(&mut *self.jobs());
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::jobs::code::{Ended, JobCalls};
    use crate::jobs::store::JobState;

    struct NoCode;
    impl Code for NoCode {
        fn run(&self, _: &str, _: &str, _: &dyn JobCalls) -> Ended {
            Ended::Returned(0)
        }
        fn cancel(&self, _: &str) {}
    }

    /// A job that has not ended; its code does nothing.
    pub(in crate::jobs) fn job(id: i64, module: &str, name: &str, priority: i32, concurrency: u32) -> ActiveJob {
        let row = JobRow {
            id,
            uuid: id.to_string(),
            module: module.into(),
            job: name.into(),
            state: JobState::Pending,
            module_hash: String::new(),
            created_at_ms: 0,
            updated_at_ms: 0,
            payload: String::new(),
            result: None,
            error: None,
            attempt: 0,
            max_attempts: 1,
            backoff_ms: 0,
            timeout_ms: 0,
            run_at_ms: 0,
            priority,
            unique_key: None,
            retries: 0,
            attempts_before: 0,
            slot: None,
            depends_on: Vec::new(),
            concurrency_key: None,
            concurrency_limit: 1,
        };
        let defaults = Defaults { concurrency, ..Defaults::default() };
        ActiveJob::new(&row, Some((Arc::new(NoCode), defaults)))
    }
}
