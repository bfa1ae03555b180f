//! A job that has not ended, in memory.

use super::code::{Code, Defaults};
use super::store::JobRow;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What the dispatcher, the workers and cancellations need to know of a job. Its payload stays on disk until it runs.
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
    /// Most runs of this job at once; 0: no limit. Known once its code is.
    concurrency: AtomicU32,
    /// How often it was retried by request, and the runs before the last time.
    pub(super) retries: u32,
    pub(super) attempts_before: u32,
    /// At most so many jobs of its module, name and key run at once.
    pub(super) concurrency_key: Option<Arc<str>>,
    pub(super) concurrency_limit: u32,
    /// Runs that have begun.
    attempt: AtomicU32,
    /// The version it was accepted with, held from then on. `None` after a restart, until it runs.
    code: Mutex<Option<Arc<dyn Code>>>,
    canceled: AtomicBool,
    timed_out: AtomicBool,
    /// Its run has set a result or an error, which is sent to the writer.
    decided: AtomicBool,
    /// Events it has emitted, and their bytes since the server started.
    events: AtomicU64,
    event_bytes: AtomicU64,
    /// An event did not fit into the bytes.
    events_cut: AtomicBool,
    /// The outcome of the current run has been claimed by whoever writes it.
    settled: AtomicBool,
}

impl ActiveJob {
    /// The job of `row`; `code` if it is known already.
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

    /// A run begins.
    pub(super) fn begin(&self) {
        self.attempt.fetch_add(1, Ordering::Relaxed);
        self.timed_out.store(false, Ordering::Release);
        self.settled.store(false, Ordering::Release);
    }

    /// Claims the outcome of the run: true for one caller.
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

    /// Counts one more emitted event; returns the number of earlier ones.
    pub(super) fn count_event(&self) -> u64 {
        self.events.fetch_add(1, Ordering::Relaxed)
    }

    /// Counts `bytes` of an event, if no more than `most` bytes of events have been emitted then.
    pub(super) fn takes_event_bytes(&self, bytes: usize, most: u64) -> bool {
        let take = |before: u64| before.checked_add(bytes as u64).filter(|after| *after <= most);
        self.event_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    /// Whether this is the first event that does not fit into the bytes.
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

    /// Whether the running code is to end.
    pub(super) fn must_end(&self) -> bool {
        self.is_canceled() || self.has_timed_out()
    }
}

/// The jobs that have not ended, by UUID.
#[derive(Default)]
pub(super) struct ActiveJobs {
    jobs: Mutex<HashMap<Arc<str>, Arc<ActiveJob>>>,
    /// Jobs that have ended while their run goes on, and may still have events.
    going_on: Mutex<HashSet<i64>>,
    /// Jobs that a worker has; a worker that was given up still has its job.
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
        // What it held is let go of after the lock.
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

    /// The worker is done with job number `id`, and the store and the dispatcher have all it had to say.
    pub(super) fn left(&self, id: i64) {
        self.assigned.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    /// Whether a worker has job number `id`. One that had ended before this is asked, and that no worker has, is not run
    /// any more.
    pub(super) fn is_assigned(&self, id: i64) -> bool {
        self.assigned.lock().unwrap_or_else(PoisonError::into_inner).contains(&id)
    }

    /// The run of job number `id` decides, and goes on: to be called before the store is told.
    pub(super) fn goes_on(&self, id: i64) {
        self.going_on.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
    }

    /// The run of job number `id` has returned, and the store has all its events.
    pub(super) fn is_over(&self, id: i64) {
        self.going_on.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    /// Whether events of job number `id` may follow though it has ended.
    pub(super) fn does_go_on(&self, id: i64) -> bool {
        self.going_on.lock().unwrap_or_else(PoisonError::into_inner).contains(&id)
    }

    /// Calls `see` with each job, and with whether a worker has the job.
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

    /// Forgets all.
    pub(super) fn clear(&self) {
        let _jobs = std::mem::take(&mut *self.jobs());
    }
}
