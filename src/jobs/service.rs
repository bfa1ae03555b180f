//! The handle to the jobs of a server.

use super::active::{ActiveJob, ActiveJobs};
use super::answer::{Answer, shared_answer};
use super::blobs::{BlobError, BlobId, Blobs, Wake};
use super::cleaning::{Cleaner, is_needed};
use super::code::{CodeSource, Declared, ResolveError};
use super::dispatcher::Dispatcher;
use super::frame::JobFrame;
use super::hub::Hub;
use super::jobs_config::JobsConfig;
use super::json;
use super::notice::{Notice, now_ms};
use super::queries::{self, Query};
use super::recovery::{recover, settled};
use super::request::{JobRequest, RequestError};
use super::run_ends::RunEnds;
use super::run_queue::RunQueue;
use super::schedule::{RunningLimits, Schedule};
use super::scheduler::Scheduler;
use super::store::{
    Change, Changed, Deleted, JobEvent, JobFilter, JobRow, JobState, NewJob, Read, Reader, Store, StoreError,
    StoreStats, Submitted, Writer,
};
use super::timetable::Timetable;
use super::worker::{SizeLimits, WorkerShared, Workers};
use crossbeam::channel::{Sender, bounded, unbounded};
use std::collections::HashSet;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

/// Number of threads that read from the store.
const READERS: usize = 2;
/// Limit on the events of one step of a replay.
pub(super) const REPLAY_EVENTS_MAX: u32 = 256;
/// Limit, in bytes, on listed events or results; the last one may exceed it.
pub(super) const LIST_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Limit, in bytes, on one step of a replay; its last event may exceed it.
pub(super) const REPLAY_BYTES_MAX: usize = 512 * 1024;

/// An accepted submission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// The job's UUID.
    pub uuid: String,
    /// The job's state: pending, unless the unique key named an existing job.
    pub state: JobState,
    /// The version on which the job runs.
    pub module_hash: String,
}

/// Why a submission was refused; nothing was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The body is not a job.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// There is no such job, or more than one.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// The store refused the job.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A dependency is not stored, has failed or is canceled.
    #[error("{0}")]
    Needs(String),
    /// A file that the submission names is not stored.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// Too many jobs are waiting.
    #[error("{0} jobs wait already; try again later (--job-pending-max)")]
    TooMany(usize),
    /// The server is stopping.
    #[error("the server is shutting down")]
    ShuttingDown,
}

/// The result of a cancellation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelOutcome {
    /// The job is canceled, by this call or earlier.
    Canceled,
    /// The job had already ended in this state.
    Ended(JobState),
    /// There is no such job.
    Unknown,
}

/// A step of a replay.
#[derive(Debug)]
pub struct Replay {
    /// Events in order.
    pub frames: Vec<Arc<JobFrame>>,
    /// No further event was on disk.
    pub at_end: bool,
    /// The job had ended and its run had returned before the events were read: with `at_end`, no event follows.
    pub finished: bool,
    /// For streams of many jobs: all events up to this number are sent, or do not match the filter.
    pub read_to: i64,
}

pub(super) struct Inner {
    pub(super) config: JobsConfig,
    pub(super) store: Arc<Mutex<Option<Store>>>,
    pub(super) stats: Arc<StoreStats>,
    pub(super) writer: Writer,
    pub(super) source: Arc<dyn CodeSource>,
    pub(super) hub: Arc<Hub>,
    pub(super) active: Arc<ActiveJobs>,
    pub(super) notices: Sender<Notice>,
    pub(super) queries: Sender<Query>,
    pub(super) blobs: Blobs,
    pub(super) threads: Mutex<Vec<JoinHandle<()>>>,
    pub(super) stopping: AtomicBool,
    pub(super) paused: Arc<AtomicUsize>,
    pub(super) ends: Arc<RunEnds>,
}

/// The jobs of a server; clones share the same state.
#[derive(Clone)]
pub struct Jobs {
    pub(super) inner: Arc<Inner>,
}

impl Jobs {
    /// Starts the threads and recovers the jobs of the server's last run: pending jobs wait again; running jobs are retried if
    /// they may be, and fail otherwise.
    ///
    /// # Errors
    /// Threads or read connections could not be created; or the unfinished jobs or the blobs can't be read.
    pub fn start(config: JobsConfig, store: Store, hub: Arc<Hub>, source: Arc<dyn CodeSource>) -> io::Result<Self> {
        let blobs = Blobs::open(config.blobs.clone())?;
        let (notices, noticed) = unbounded();
        let (queries, queried) = unbounded();
        let writer = store.writer();
        let (stats, mut reader) = (store.stats(), store.reader().map_err(io::Error::other)?);
        let readers: Vec<Reader> =
            (0..READERS).map(|_| store.reader()).collect::<Result<_, _>>().map_err(io::Error::other)?;
        blobs.take_up_outputs(&reader.output_dirs().map_err(io::Error::other)?)?;
        let cleaner = Cleaner::new(blobs.clone(), store.reader().map_err(io::Error::other)?, writer.clone());
        let store = Arc::new(Mutex::new(Some(store)));
        let (active, ends) = (Arc::new(ActiveJobs::default()), Arc::new(RunEnds::default()));
        writer.on_settled(settled(&active, &notices, &hub));
        recover(&mut reader, &writer, &active, &notices)?;
        let mut workers = Workers::new(WorkerShared {
            writer: writer.clone(),
            source: Arc::clone(&source),
            active: Arc::clone(&active),
            notices: notices.clone(),
            hub: Arc::clone(&hub),
            limits: SizeLimits::of(&config),
            store: Arc::clone(&store),
            blobs: blobs.clone(),
            ends: Arc::clone(&ends),
        });
        for _ in 0..config.workers + config.reserve_workers {
            workers.add()?;
        }
        let scheduler = Scheduler {
            timetable: Timetable::read(&mut reader).map_err(io::Error::other)?,
            source: Arc::clone(&source),
            active: Arc::clone(&active),
            writer: writer.clone(),
            own: notices.clone(),
            unfinished_max: config.unfinished_max,
            timeout_ms: config.timeout_ms,
        };
        let limits = RunningLimits { module_max: config.module_running_max, domain_max: config.domain_running_max };
        let domains = Arc::clone(&source);
        let mut queue = Schedule::new(limits, Box::new(move |module| domains.domain(module)));
        reader.paused().map_err(io::Error::other)?.into_iter().for_each(|kind| queue.pause(kind));
        let paused = Arc::new(AtomicUsize::new(queue.paused().count()));
        let dispatcher = Dispatcher {
            queue,
            scheduler,
            paused_count: Arc::clone(&paused),
            notices: noticed,
            own: notices.clone(),
            writer: writer.clone(),
            workers,
            retention: config.retention,
            free: config.workers + config.reserve_workers,
            reserve: config.reserve_workers,
        };
        let spawn = |name: String, run: Box<dyn FnOnce() + Send>| std::thread::Builder::new().name(name).spawn(run);
        let mut threads = vec![spawn("jobs".to_owned(), Box::new(move || dispatcher.run()))?];
        for (number, reader) in readers.into_iter().enumerate() {
            let queried = queried.clone();
            threads.push(spawn(format!("jobs-read-{number}"), Box::new(move || queries::serve(reader, &queried)))?);
        }
        threads.push(spawn("clean-files".to_owned(), Box::new(move || cleaner.run()))?);
        let (threads, stopping) = (Mutex::new(threads), AtomicBool::new(false));
        let inner = Inner {
            config,
            store,
            stats,
            writer,
            source,
            hub,
            active,
            notices,
            queries,
            blobs,
            threads,
            stopping,
            paused,
            ends,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Allows jobs to run, also jobs from before the start, because the deployed modules are loaded now. Until this call jobs
    /// are only accepted, for instance those that an `onload` creates.
    pub fn begin(&self) {
        let _ = self.inner.notices.send(Notice::Begin);
    }

    /// The hub, which knows the watchers.
    #[must_use]
    pub fn hub(&self) -> &Arc<Hub> {
        &self.inner.hub
    }

    /// The blobs on which jobs work.
    #[must_use]
    pub fn blobs(&self) -> &Blobs {
        &self.inner.blobs
    }

    /// Deletes a blob that no job needs.
    pub fn delete_blob(&self, id: BlobId, answer: Answer<Result<(), BlobError>>) {
        let blobs = self.inner.blobs.clone();
        self.read(move |reader| answer(blobs.delete(&id, || is_needed(reader, &id))));
    }

    /// Number of pending and running jobs.
    #[must_use]
    pub fn unfinished(&self) -> usize {
        self.inner.active.len()
    }

    /// The counts of the store.
    #[must_use]
    pub fn stats(&self) -> &StoreStats {
        &self.inner.stats
    }

    /// Number of ends of runs that the store did not take, apart from runs of canceled jobs.
    #[must_use]
    pub fn ends_refused(&self) -> u64 {
        self.inner.ends.refused()
    }

    /// The module versions that unfinished jobs need.
    #[must_use]
    pub fn needed_hashes(&self) -> HashSet<String> {
        self.inner.active.hashes()
    }

    /// Accepts the job that `body` describes; calls `answer` once the job is durable, or refused. Waits while its module is
    /// being swapped.
    pub fn submit(&self, body: Vec<u8>, answer: Answer<Result<Accepted, SubmitError>>) {
        let inner = Arc::clone(&self.inner);
        let (mut body, mut ready) = (Some((body, answer)), None);
        self.query(Query::Attempt(Box::new(move |_| {
            if let Some((body, answer)) = body.take() {
                match JobRequest::parse(&body, inner.config.payload_bytes_max) {
                    Ok(request) => ready = Some((request, answer)),
                    Err(error) => answer(Err(error.into())),
                }
            }
            let Some((request, answer)) = ready.take() else { return Ok(()) };
            match inner.source.resolve(request.module.as_deref(), &request.job) {
                Err(ResolveError::Swapping(name)) if !inner.stopping.load(Ordering::Acquire) => {
                    ready = Some((request, answer));
                    return Err(ResolveError::Swapping(name));
                }
                Err(error) => answer(Err(error.into())),
                Ok(declared) => inner.accept(request, declared, answer),
            }
            Ok(())
        })));
    }

    /// Accepts a job for module code, and waits until the job is durable. `instance` is the number of the calling module as
    /// loaded.
    ///
    /// # Errors
    /// Why the job was refused, as a text for people.
    pub fn create(&self, instance: u64, job: &str, payload: &str) -> Result<String, String> {
        let limit = self.inner.config.payload_bytes_max;
        if payload.len() > limit {
            return Err(format!("the payload has {} bytes; the limit is {limit}", payload.len()));
        }
        if !json::is_valid(payload) {
            return Err("the payload is not JSON".to_owned());
        }
        let declared = self.inner.source.resolve_for(instance, job).map_err(|error| error.to_string())?;
        let request = JobRequest { job: job.to_owned(), payload: payload.to_owned(), ..JobRequest::default() };
        let (sender, receiver) = bounded(1);
        let answer = move |accepted| {
            let _ = sender.send(accepted);
        };
        self.inner.accept(request, declared, Box::new(answer));
        match receiver.recv() {
            Ok(Ok(accepted)) => Ok(accepted.uuid),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(SubmitError::ShuttingDown.to_string()),
        }
    }

    pub(super) fn query(&self, query: Query) {
        // The threads live as long as this handle, except at the end of the process.
        let _ = self.inner.queries.send(query);
    }

    /// Runs `read` on one of the threads that may wait for the disk.
    pub fn read(&self, read: impl FnOnce(&mut Reader) + Send + 'static) {
        self.query(Query::Read(Box::new(read)));
    }

    /// Answers with one job.
    pub fn get(&self, uuid: String, answer: Answer<Result<Option<JobRow>, StoreError>>) {
        self.read(move |reader| answer(reader.job(&uuid)));
    }

    /// Answers with jobs, newest first, and whether there may be more.
    pub fn list(&self, filter: JobFilter, answer: Answer<Result<(Vec<JobRow>, bool), StoreError>>) {
        self.read(move |reader| answer(list(reader, &filter)));
    }

    /// Answers with the number of a job.
    pub fn find(&self, uuid: String, answer: Answer<Result<Option<i64>, StoreError>>) {
        if let Some(job) = self.inner.active.get(&uuid) {
            return answer(Ok(Some(job.id)));
        }
        self.read(move |reader| answer(reader.id(&uuid)));
    }

    /// Answers with a job's events after number `after`; `None` if there is no such job.
    pub fn events(
        &self,
        uuid: String,
        after: i64,
        limit: u32,
        answer: Answer<Result<Option<Vec<JobEvent>>, StoreError>>,
    ) {
        self.read(move |reader| {
            let found = reader.id(&uuid).and_then(|id| match id {
                Some(id) => reader.events(id, after, limit, LIST_BYTES_MAX).map(Some),
                None => Ok(None),
            });
            answer(found);
        });
    }

    /// Answers with one step of the replay of job number `job`: its events after number `after`.
    pub fn replay(&self, job: i64, after: i64, answer: Answer<Result<Replay, StoreError>>) {
        let active = Arc::clone(&self.inner.active);
        self.read(move |reader| answer(replay(reader, &active, job, after)));
    }

    /// Cancels a job.
    pub fn cancel(&self, uuid: String, answer: Answer<Result<CancelOutcome, StoreError>>) {
        let inner = Arc::clone(&self.inner);
        self.read(move |reader| {
            let active = inner.active.get(&uuid);
            let id = match &active {
                Some(job) => Ok(Some(job.id)),
                None => reader.id(&uuid),
            };
            match id {
                Ok(Some(id)) => inner.cancel(id, active, answer),
                Ok(None) => answer(Ok(CancelOutcome::Unknown)),
                Err(error) => answer(Err(error)),
            }
        });
    }

    /// Deletes an ended job.
    pub fn delete(&self, uuid: String, answer: Answer<Result<Deleted, StoreError>>) {
        let (done, answer) = shared_answer(answer);
        let blobs = self.inner.blobs.clone();
        let done = move |deleted: Result<Deleted, StoreError>| {
            if deleted == Ok(Deleted::Done) {
                blobs.wake(Wake::JobDeleted);
            }
            done(deleted);
        };
        if let Err(error) = self.inner.writer.try_delete(uuid, Box::new(done)) {
            answer(Err(error));
        }
    }

    /// Starts no more jobs, and returns once no job runs, or at `deadline`. The next start of the server recovers jobs that are
    /// still running.
    pub fn stop_running(&self, deadline: Instant) -> bool {
        self.inner.stopping.store(true, Ordering::Release);
        let (done, stopped) = bounded(0);
        if self.inner.notices.send(Notice::Stop(done)).is_err() {
            return true;
        }
        let waited = stopped.recv_deadline(deadline);
        waited == Err(crossbeam::channel::RecvTimeoutError::Disconnected)
    }

    /// Ends the threads, and closes the store once all accepted commands are committed. Jobs release their modules.
    pub fn close(&self) {
        self.inner.stopping.store(true, Ordering::Release);
        self.inner.blobs.wake(Wake::Stop);
        for _ in 0..READERS {
            self.query(Query::Stop);
        }
        let threads = std::mem::take(&mut *self.inner.threads.lock().unwrap_or_else(PoisonError::into_inner));
        // The dispatcher may wait for a job that never ends; the readers end.
        for thread in threads.into_iter().skip(1) {
            let _ = thread.join();
        }
        let store = self.inner.store.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(store) = store {
            store.shutdown();
        }
        self.inner.active.clear();
    }
}

impl Inner {
    fn accept(
        self: &Arc<Self>,
        request: JobRequest,
        declared: Declared,
        answer: Answer<Result<Accepted, SubmitError>>,
    ) {
        if self.stopping.load(Ordering::Acquire) {
            return answer(Err(SubmitError::ShuttingDown));
        }
        if self.active.len() >= self.config.unfinished_max {
            return answer(Err(SubmitError::TooMany(self.config.unfinished_max)));
        }
        let pins = match self.blobs.pin(request.files.iter().map(|(_, id)| *id).collect()) {
            Ok(pins) => pins,
            Err(error) => return answer(Err(error.into())),
        };
        let Declared { module, hash, defaults, code } = declared;
        let job = NewJob {
            uuid: uuid::Uuid::now_v7().to_string(),
            module,
            job: request.job,
            module_hash: hash,
            payload: request.payload,
            max_attempts: request.max_attempts.unwrap_or(defaults.max_attempts).max(1),
            backoff_ms: request.backoff_ms.unwrap_or(u64::from(defaults.backoff_ms)),
            timeout_ms: request.timeout_ms.unwrap_or(defaults.timeout_or(self.config.timeout_ms)),
            run_at_ms: request.run_at_ms.unwrap_or(0).max(now_ms()),
            priority: request.priority.unwrap_or(defaults.priority),
            unique_key: request.unique_key,
            slot: None,
            depends_on: request.depends_on,
            concurrency_key: request.concurrency_key,
            concurrency_limit: request.concurrency_limit.unwrap_or(1).max(1),
            files: request.files.into_iter().map(|(name, id)| (name, id.to_string())).collect(),
        };
        let inner = Arc::clone(self);
        let (done, answer) = shared_answer(answer);
        let stored = move |submitted: Result<Submitted, StoreError>| {
            // From here on the job's row keeps its blobs.
            drop(pins);
            done(match submitted {
                Ok(Submitted::New(row)) => {
                    let job = Arc::new(ActiveJob::new(&row, Some((code, defaults))));
                    inner.active.insert(&job);
                    // `settled` sends the notice for a job with dependencies once they are done.
                    if row.depends_on.is_empty() {
                        let _ = inner.notices.send(Notice::Ready { job, run_at_ms: row.run_at_ms });
                    }
                    Ok(accepted(row))
                }
                Ok(Submitted::Refused(why)) => Err(SubmitError::Needs(why)),
                Ok(Submitted::Existing(row)) => Ok(accepted(row)),
                Err(error) => Err(error.into()),
            });
        };
        if let Err(error) = self.writer.try_submit(job, Box::new(stored)) {
            answer(Err(error.into()));
        }
    }

    pub(super) fn cancel(
        self: &Arc<Self>,
        id: i64,
        active: Option<Arc<ActiveJob>>,
        answer: Answer<Result<CancelOutcome, StoreError>>,
    ) {
        let inner = Arc::clone(self);
        let (done, answer) = shared_answer(answer);
        let changed = move |changed: Result<Changed, StoreError>| {
            let outcome = changed.map(|changed| match changed {
                Changed::Applied(_) | Changed::Refused(JobState::Canceled) => CancelOutcome::Canceled,
                Changed::Refused(state) => CancelOutcome::Ended(state),
                Changed::Unknown | Changed::Waits | Changed::Needs => CancelOutcome::Unknown,
            });
            if let (Ok(CancelOutcome::Canceled), Some(job)) = (&outcome, active) {
                job.cancel();
                inner.active.remove(&job);
                let _ = inner.notices.send(Notice::Canceled(job));
            }
            if outcome == Ok(CancelOutcome::Canceled) {
                inner.hub.end(id);
            }
            done(outcome);
        };
        if let Err(error) = self.writer.try_change(id, Change::Cancel, Box::new(changed)) {
            answer(Err(error));
        }
    }
}

pub(super) fn accepted(row: JobRow) -> Accepted {
    Accepted { uuid: row.uuid, state: row.state, module_hash: row.module_hash }
}

pub(super) fn list(reader: &mut impl Read, filter: &JobFilter) -> Result<(Vec<JobRow>, bool), StoreError> {
    let rows = reader.jobs(filter, LIST_BYTES_MAX)?;
    let bytes = rows.iter().flat_map(|row| [&row.result, &row.error]).flatten().map(String::len).sum::<usize>();
    let more = rows.len() == filter.limit as usize || bytes >= LIST_BYTES_MAX;
    Ok((rows, more))
}

fn replay(reader: &mut impl Read, active: &ActiveJobs, job: i64, after: i64) -> Result<Replay, StoreError> {
    // The state and whether the run continues must be read first: if the job is over then, the events read next are all of its
    // events.
    let finished = reader.state(job)?.is_none_or(JobState::is_final) && !active.does_go_on(job);
    let events = reader.events(job, after, REPLAY_EVENTS_MAX, REPLAY_BYTES_MAX)?;
    let bytes: usize = events.iter().map(|event| event.data.len()).sum();
    let at_end = events.len() < REPLAY_EVENTS_MAX as usize && bytes < REPLAY_BYTES_MAX;
    let frames = events.iter().map(|event| Arc::new(JobFrame::new(event))).collect();
    Ok(Replay { frames, at_end, finished, read_to: 0 })
}
