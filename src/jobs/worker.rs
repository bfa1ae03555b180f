//! The workers: each runs one job at a time.

use super::active::{ActiveJob, ActiveJobs};
use super::blobs::{BlobError, BlobId, Blobs, RunFiles, Wake, event_reference};
use super::code::{Code, CodeSource, Ended, JobCalls};
use super::hub::Hub;
use super::jobs_config::JobsConfig;
use super::json;
use super::lifecycle::{RunOutcome, change_after};
use super::notice::{Notice, now_ms};
use super::run_ends::{EndedRun, RunEnds};
use super::store::{Change, Changed, EventBlob, JobState, Read, Reader, Run, Store, Writer};
use crate::logbook::{self, Kind};
use crossbeam::channel::{Receiver, Sender, bounded, unbounded};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Limit, in bytes, on the name of an event.
const KIND_BYTES_MAX: usize = 128;

/// Limits on the data of a job.
#[derive(Debug, Clone, Copy)]
pub(super) struct SizeLimits {
    pub(super) event_bytes_max: usize,
    pub(super) events_max: u64,
    /// Limit on all events of a job together.
    pub(super) events_bytes_max: u64,
    pub(super) result_bytes_max: usize,
    pub(super) checkpoint_bytes_max: usize,
}

impl SizeLimits {
    pub(super) fn of(config: &JobsConfig) -> Self {
        Self {
            event_bytes_max: config.event_bytes_max,
            events_max: config.events_max,
            events_bytes_max: config.events_bytes_max,
            result_bytes_max: config.result_bytes_max,
            checkpoint_bytes_max: config.checkpoint_bytes_max,
        }
    }
}

/// State shared by all workers.
pub(super) struct WorkerShared {
    pub(super) writer: Writer,
    pub(super) source: Arc<dyn CodeSource>,
    pub(super) active: Arc<ActiveJobs>,
    pub(super) notices: Sender<Notice>,
    pub(super) hub: Arc<Hub>,
    pub(super) limits: SizeLimits,
    pub(super) store: Arc<Mutex<Option<Store>>>,
    pub(super) blobs: Blobs,
    pub(super) ends: Arc<RunEnds>,
}

impl WorkerShared {
    /// Commits the change that ends a job. An earlier cancellation takes precedence. The job's streams end then.
    fn finish(&self, job: &ActiveJob, change: Change) {
        let (active, hub, id) = (Arc::clone(&self.active), Arc::clone(&self.hub), job.id);
        self.end(job, change, move || {
            active.is_over(id);
            hub.end(id);
        });
    }

    /// Sends the end of a run to the store, looks at the answer, and then calls `after`.
    fn end(&self, job: &ActiveJob, change: Change, after: impl FnOnce() + Send + 'static) -> bool {
        let (ends, ended) = (Arc::clone(&self.ends), EndedRun::of(job));
        let done = move |answer| {
            ends.look(&ended, &answer);
            after();
        };
        let sent = self.writer.change(job.id, change, Box::new(done));
        if let Err(error) = &sent {
            self.ends.look(&EndedRun::of(job), &Err(error.clone()));
        }
        sent.is_ok()
    }

    /// Records that the run of a decided job has returned: all its events have been sent to the writer.
    fn returned(&self, job: &ActiveJob) {
        let (active, hub, id) = (Arc::clone(&self.active), Arc::clone(&self.hub), job.id);
        // The answer does not matter: the job may have been deleted meanwhile, and a cancellation may have come first.
        let done = move |_| {
            active.is_over(id);
            hub.end(id);
        };
        let _ = self.writer.change(id, Change::Return { attempt: job.attempt() }, Box::new(done));
    }
}

/// The worker threads, as the dispatcher sees them.
pub(super) struct Workers {
    shared: Arc<WorkerShared>,
    assign: Sender<Arc<ActiveJob>>,
    assigned: Receiver<Arc<ActiveJob>>,
    started: usize,
}

impl Workers {
    pub(super) fn new(shared: WorkerShared) -> Self {
        let (assign, assigned) = unbounded();
        Self { shared: Arc::new(shared), assign, assigned, started: 0 }
    }

    /// Starts one more thread.
    pub(super) fn add(&mut self) -> io::Result<()> {
        let reader = {
            let store = self.shared.store.lock().unwrap_or_else(PoisonError::into_inner);
            let store = store.as_ref().ok_or_else(|| io::Error::other("the job store is closed"))?;
            store.reader().map_err(io::Error::other)?
        };
        let mut worker =
            Worker { shared: Arc::clone(&self.shared), reader: Mutex::new(reader), random: RandomState::new() };
        let assigned = self.assigned.clone();
        let name = format!("job-{}", self.started);
        crate::threads::module_thread(name).spawn(move || {
            crate::jobs::worker::give_way();
            for job in assigned {
                let after = worker.work(&job);
                worker.shared.active.left(job.id);
                if after == After::GivenUp {
                    return;
                }
            }
        })?;
        self.started += 1;
        Ok(())
    }

    /// Assigns a job to a free worker.
    pub(super) fn assign(&self, job: Arc<ActiveJob>) {
        self.shared.active.assigned(job.id);
        // This value holds the receiver, so sending can't fail.
        let _ = self.assign.send(job);
    }

    /// Commits the end of a job whose run was abandoned.
    pub(super) fn finish(&self, job: &ActiveJob, change: Change) {
        self.shared.finish(job, change);
    }

    /// Records that no more events of an ended job are expected.
    pub(super) fn returned(&self, job: &ActiveJob) {
        self.shared.returned(job);
    }

    /// Removes a job that has ended without its worker.
    pub(super) fn forget(&self, job: &ActiveJob) {
        self.shared.active.remove(job);
    }
}

/// Lowers the priority of a worker: the threads that answer requests come first.
fn give_way() {
    // If the priority can't be changed, it stays.
    let _ = rustix::process::nice(5);
}

#[derive(PartialEq, Eq)]
enum After {
    Next,
    /// Another worker has replaced this one.
    GivenUp,
}

struct Worker {
    shared: Arc<WorkerShared>,
    reader: Mutex<Reader>,
    random: RandomState,
}

impl Worker {
    fn work(&mut self, job: &Arc<ActiveJob>) -> After {
        let code = self.code_of(job);
        if !self.start(job) {
            return self.over(job);
        }
        let run = job.run();
        let _ = self.shared.notices.send(Notice::Began(Arc::clone(job)));
        let outcome = match code.and_then(|code| Ok((code, self.given_to(job)?))) {
            Ok((code, given)) => self.run(job, &*code, given),
            Err(why) => {
                tracing::error!("job {} ({} of module {}) can't run: {why}", job.uuid, job.job, job.module);
                Some(RunOutcome { ended: Ended::Returned(-1), error: Some(why), timed_out_ms: None })
            }
        };
        let settled = job.settle();
        if outcome.is_none() {
            self.shared.returned(job);
        }
        if !settled {
            let _ = self.shared.notices.send(Notice::Returned);
            return After::GivenUp;
        }
        let Some(outcome) = outcome.filter(|_| !job.is_canceled()) else { return self.over(job) };
        let random = self.random.hash_one((job.id, run.attempt));
        let left = job.max_attempts.saturating_sub(run.attempt);
        let begun = run.attempt.saturating_sub(job.attempts_before);
        let allowed = begun.saturating_add(left);
        let change = change_after(&outcome, run.attempt, begun, allowed, job.backoff_ms, now_ms(), random);
        let mut retry_at_ms = None;
        if let Change::Retry { run_at_ms, .. } = change {
            retry_at_ms = Some(run_at_ms);
            self.shared.end(job, change, || {});
        } else {
            self.shared.active.remove(job);
            self.shared.finish(job, change);
        }
        let _ = self.shared.notices.send(Notice::Ended { job: Arc::clone(job), retry_at_ms });
        After::Next
    }

    /// Removes a job that must not run any more.
    fn over(&self, job: &Arc<ActiveJob>) -> After {
        self.shared.active.remove(job);
        let _ = self.shared.notices.send(Notice::Ended { job: Arc::clone(job), retry_at_ms: None });
        After::Next
    }

    /// Commits the start: a run is recorded before it begins, so that a crash can't cause more runs than allowed.
    fn start(&self, job: &ActiveJob) -> bool {
        let (sender, receiver) = bounded(1);
        let done = move |changed| {
            let _ = sender.send(changed);
        };
        job.begin();
        if self.shared.writer.change(job.id, Change::Start { retries: job.retries }, Box::new(done)).is_err() {
            return false;
        }
        matches!(receiver.recv(), Ok(Ok(Changed::Applied(JobState::Running))))
    }

    fn code_of(&self, job: &ActiveJob) -> Result<Arc<dyn Code>, String> {
        if let Some(code) = job.code() {
            return Ok(code);
        }
        let declared = self.shared.source.acquire(&job.module, &job.hash, &job.job)?;
        job.set_code(Arc::clone(&declared.code), declared.defaults);
        Ok(declared.code)
    }

    fn given_to(&self, job: &ActiveJob) -> Result<Given, String> {
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let payload = reader.payload(job.id).map_err(|error| error.to_string())?;
        let payload = payload.ok_or_else(|| "its row is gone".to_owned())?;
        // The first run has no checkpoint.
        let saved = if job.attempt() > 1 { reader.checkpoint(job.id) } else { Ok(None) };
        Ok(Given { payload, saved: saved.map_err(|error| error.to_string())? })
    }

    /// Runs the job. `None`: the run has decided the job.
    fn run(&self, job: &Arc<ActiveJob>, code: &dyn Code, given: Given) -> Option<RunOutcome> {
        if job.attempt() > 1 {
            // Events of earlier runs count towards the limit, also those before a restart.
            let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
            job.set_events(reader.event_count(job.id).unwrap_or(0));
        }
        let limit = Some(job.timeout_ms).filter(|limit| *limit > 0).map(Duration::from_millis);
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        let Given { payload, saved } = given;
        let files = RunFiles::new(&self.shared.blobs, &job.uuid, job.attempt());
        let (said, inputs, reader) = (Mutex::default(), OnceLock::new(), &self.reader);
        let oversized = AtomicU64::new(0);
        let (shared, run) = (&*self.shared, job.run());
        let running = Running { job, run, shared, said, deadline, saved, inputs, reader, files, oversized };
        let ended = code.run(&job.uuid, &payload, &running);
        if let Ended::Crashed(how) = &ended {
            let text = format!("job {} ({} of module {}) crashed: {how}", job.uuid, job.job, job.module);
            tracing::error!("{text}");
            logbook::add(&job.module, Kind::Error, &text);
        }
        running.tell_oversized();
        let timed_out_ms = job.has_timed_out().then_some(job.timeout_ms);
        let said = std::mem::take(&mut *running.said.lock().unwrap_or_else(PoisonError::into_inner));
        let error = match said {
            Said::Decided => return None,
            Said::RunFailed(error) => Some(error),
            // The job is done only if its outputs can be published.
            Said::Nothing if ended == Ended::Returned(0) && !job.must_end() => running.publish().err(),
            Said::Nothing => running.files.failure(),
        };
        Some(RunOutcome { ended, error, timed_out_ms })
    }
}

/// Input of a run.
struct Given {
    payload: String,
    /// The checkpoint of earlier runs.
    saved: Option<Vec<u8>>,
}

/// The end that a run has declared. Only the first declaration has an effect.
#[derive(Default)]
enum Said {
    #[default]
    Nothing,
    /// This run has failed with this error; another run may follow.
    RunFailed(String),
    /// The job has ended.
    Decided,
}

/// A run, as its code sees it.
struct Running<'a> {
    job: &'a ActiveJob,
    run: Run,
    shared: &'a WorkerShared,
    said: Mutex<Said>,
    /// When the run's time is over.
    deadline: Option<Instant>,
    /// The checkpoint of earlier runs.
    saved: Option<Vec<u8>>,
    /// Names and blobs of the inputs, once the run has opened one.
    inputs: OnceLock<Vec<(String, String)>>,
    reader: &'a Mutex<Reader>,
    files: RunFiles,
    /// Number of events and other data refused for their size; only the first has a line in the log.
    oversized: AtomicU64,
}

impl Running<'_> {
    fn fits(&self, what: &str, bytes: usize, limit: usize, flag: &str) -> bool {
        if bytes > limit && self.oversized.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::warn!(
                "module {}: the {what} of job {} has {bytes} bytes; the limit is {limit} ({flag})",
                self.job.module,
                self.job.uuid
            );
        }
        bytes <= limit
    }

    /// Logs how many more were refused.
    fn tell_oversized(&self) {
        let more = self.oversized.load(Ordering::Relaxed).saturating_sub(1);
        if more > 0 {
            let (module, uuid) = (&self.job.module, &self.job.uuid);
            tracing::warn!("module {module}: {more} more events, results or errors of job {uuid} were too large");
        }
    }

    /// Whether the job may emit one more event of `bytes` bytes, which is then counted.
    fn may_emit(&self, bytes: usize) -> bool {
        let SizeLimits { events_max, events_bytes_max, .. } = self.shared.limits;
        let count = self.job.count_event();
        let fits = count >= events_max || self.job.takes_event_bytes(bytes, events_bytes_max);
        // Only the first refused event has a line in the log.
        if count == events_max || !fits && self.job.is_first_too_many() {
            let (most, flag) = match fits {
                true => (events_max.to_string(), "--job-events-max"),
                false => (format!("{events_bytes_max} bytes of them"), "--job-events-bytes-max"),
            };
            let text = format!(
                "job {} ({} of module {}) has as many events as a job may have, {most}: emit_event returns -1 for further \
                 events ({flag})",
                self.job.uuid, self.job.job, self.job.module
            );
            tracing::warn!("{text}");
            logbook::add(&self.job.module, Kind::Error, &text);
        }
        count < events_max && fits
    }

    /// Syncs the run's outputs to the disk, and stores their list, before the job is done.
    fn publish(&self) -> Result<(), String> {
        let (dir, files) = self.files.publish()?;
        // An earlier run may have stored a list before it was interrupted: the later run must replace that list, even by an
        // empty one.
        if files.is_empty() && self.job.attempt() <= 1 {
            return Ok(());
        }
        let (blobs, unused) = (self.shared.blobs.clone(), dir.clone());
        let done = move |kept| {
            if kept != Ok(true) {
                blobs.wake(Wake::Unused(unused));
            }
        };
        let sent = self.shared.writer.made(self.run, Arc::clone(&self.job.uuid), dir, files, Box::new(done));
        sent.map_err(|error| error.to_string())
    }

    /// Ends the job, or only this run, if the run has not declared an end before.
    fn say(&self, what: &str, state: JobState, text: &str) -> bool {
        let fits = self.fits(what, text.len(), self.shared.limits.result_bytes_max, "--job-result-bytes-max");
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if !fits || !matches!(*said, Said::Nothing) || self.job.must_end() {
            return false;
        }
        let text = text.to_owned();
        if state == JobState::Done
            && let Err(why) = self.publish()
        {
            *said = Said::RunFailed(why);
            return false;
        }
        if state == JobState::Failed && self.job.attempt() < self.job.max_attempts {
            *said = Said::RunFailed(text);
            return true;
        }
        let (result, error) = if state == JobState::Done { (Some(text), None) } else { (None, Some(text)) };
        self.shared.active.goes_on(self.job.id);
        // From here on the job has this end, unless a cancellation came first. Such a cancellation has the same effect as a
        // later one.
        let change = Change::Decide { attempt: self.run.attempt, state, result, error };
        if !self.shared.end(self.job, change, || {}) {
            self.shared.active.is_over(self.job.id);
            return false;
        }
        self.job.decide();
        *said = Said::Decided;
        true
    }
}

impl JobCalls for Running<'_> {
    fn emit_event(&self, kind: &str, data: Option<&str>) -> bool {
        let data = data.unwrap_or("null");
        let fits = self.fits("event", data.len(), self.shared.limits.event_bytes_max, "--job-event-bytes-max");
        if self.job.must_end()
            || kind.is_empty()
            || kind.len() > KIND_BYTES_MAX
            || !fits
            || !self.may_emit(kind.len() + data.len())
        {
            return false;
        }
        // Waits while the writer is behind, so that a job can't outrun the disk and no event is lost.
        self.shared.writer.event(self.run, Arc::clone(&self.job.uuid), kind.into(), json::one_line(data)).is_ok()
    }

    fn set_result(&self, result: &str) -> bool {
        self.say("result", JobState::Done, result)
    }

    fn set_error(&self, error: &str) -> bool {
        self.say("error", JobState::Failed, error)
    }

    fn is_canceled(&self) -> bool {
        self.job.must_end() || self.files.is_over()
    }

    fn remaining_ms(&self) -> Option<u64> {
        let left = self.deadline?.saturating_duration_since(Instant::now());
        Some(u64::try_from(left.as_millis()).unwrap_or(u64::MAX))
    }

    fn checkpoint(&self, bytes: &[u8]) -> Result<(), i32> {
        let limit = self.shared.limits.checkpoint_bytes_max;
        if !self.fits("checkpoint", bytes.len(), limit, "--job-checkpoint-bytes-max") {
            return Err(libc::EMSGSIZE);
        }
        if self.job.must_end() {
            return Err(libc::ECANCELED);
        }
        let (sender, receiver) = bounded(1);
        let done = move |kept| {
            let _ = sender.send(kept);
        };
        let sent = self.shared.writer.checkpoint(self.run, Arc::clone(&self.job.uuid), bytes.to_vec(), Box::new(done));
        match sent.map(|()| receiver.recv()) {
            Ok(Ok(Ok(true))) => Ok(()),
            Ok(Ok(Ok(false))) => Err(libc::ECANCELED),
            _ => Err(libc::EIO),
        }
    }

    fn emit_bytes(&self, kind: &str, bytes: &[u8]) -> Result<(), i32> {
        if kind.is_empty() || kind.len() > KIND_BYTES_MAX {
            return Err(libc::EINVAL);
        }
        if !self.fits("event", bytes.len(), self.shared.limits.result_bytes_max, "--job-result-bytes-max") {
            return Err(libc::EMSGSIZE);
        }
        if self.job.must_end() {
            return Err(libc::ECANCELED);
        }
        if !self.may_emit(kind.len() + bytes.len()) {
            return Err(libc::EDQUOT);
        }
        // The blob must be on the disk before the event is.
        let (id, pins) = self.shared.blobs.keep(bytes).map_err(|error| match error {
            BlobError::TooLarge(_) | BlobError::Quota { .. } | BlobError::DiskFull => libc::ENOSPC,
            _ => libc::EIO,
        })?;
        let (data, blob) = (event_reference(&id, bytes.len()).into(), EventBlob { name: id.to_string(), _pins: pins });
        let uuid = Arc::clone(&self.job.uuid);
        self.shared.writer.event_with_blob(self.run, uuid, kind.into(), data, blob).map_err(|_| libc::EIO)
    }

    fn resume(&self) -> Result<Option<Vec<u8>>, i32> {
        Ok(self.saved.clone())
    }

    fn file(&self, name: &str) -> Result<OwnedFd, i32> {
        if self.inputs.get().is_none() {
            let read = self.reader.lock().unwrap_or_else(PoisonError::into_inner).files_given(self.job.id);
            let _ = self.inputs.set(read.map_err(|_| libc::EIO)?);
        }
        let known = self.inputs.get().into_iter().flatten().find(|(known, _)| known == name);
        let (_, blob) = known.ok_or(libc::ENOENT)?;
        self.files.input(&BlobId::parse(blob).ok_or(libc::EIO)?)
    }

    fn output(&self, name: &str) -> Result<OwnedFd, i32> {
        if self.job.must_end() { Err(libc::ECANCELED) } else { self.files.output(name) }
    }
}
