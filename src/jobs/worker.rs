//! The workers: each runs one job at a time.

use super::active::{ActiveJob, ActiveJobs};
use super::code::{Code, CodeSource, Ended, JobCalls};
use super::dispatcher::{Notice, now_ms};
use super::json;
use super::lifecycle::{RunOutcome, change_after};
use super::store::{Change, Changed, Reader, State, Store, Writer};
use crossbeam::channel::{Receiver, Sender, bounded, unbounded};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

/// Longest name of an event.
const KIND_BYTES_MAX: usize = 128;

/// Largest things a job may hand over.
#[derive(Debug, Clone, Copy)]
pub(super) struct SizeLimits {
    pub(super) event_bytes_max: usize,
    pub(super) result_bytes_max: usize,
}

/// What every worker shares.
pub(super) struct Shared {
    pub(super) writer: Writer,
    pub(super) source: Arc<dyn CodeSource>,
    pub(super) active: Arc<ActiveJobs>,
    pub(super) notices: Sender<Notice>,
    pub(super) limits: SizeLimits,
    pub(super) store: Arc<Mutex<Option<Store>>>,
}

/// The worker threads, as the dispatcher has them.
pub(super) struct Workers {
    shared: Arc<Shared>,
    assign: Sender<Arc<ActiveJob>>,
    assigned: Receiver<Arc<ActiveJob>>,
    started: usize,
}

impl Workers {
    pub(super) fn new(shared: Shared) -> Self {
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
        let mut worker = Worker { shared: Arc::clone(&self.shared), reader, random: RandomState::new() };
        let assigned = self.assigned.clone();
        let name = format!("job-{}", self.started);
        crate::domain::module_thread(name).spawn(move || {
            crate::jobs::worker::give_way();
            for job in assigned {
                if worker.work(&job) == After::GivenUp {
                    return;
                }
            }
        })?;
        self.started += 1;
        Ok(())
    }

    /// Hands a job to a worker that is free.
    pub(super) fn assign(&self, job: Arc<ActiveJob>) {
        // The receiver is held by this very value.
        let _ = self.assign.send(job);
    }

    /// The job has ended without its worker.
    pub(super) fn forget(&self, job: &ActiveJob) {
        self.shared.active.remove(&job.uuid);
    }
}

/// Jobs compute: they give way to the threads that answer requests.
fn give_way() {
    // Where the priority can't be changed, it stays.
    let _ = rustix::process::nice(5);
}

#[derive(PartialEq, Eq)]
enum After {
    Next,
    /// Another worker has taken this one's place.
    GivenUp,
}

struct Worker {
    shared: Arc<Shared>,
    reader: Reader,
    random: RandomState,
}

impl Worker {
    fn work(&mut self, job: &Arc<ActiveJob>) -> After {
        let code = self.code_of(job);
        if !self.start(job) {
            return self.over(job);
        }
        let _ = self.shared.notices.send(Notice::Began(Arc::clone(job)));
        let outcome = match code.and_then(|code| Ok((code, self.payload_of(job)?))) {
            Ok((code, payload)) => self.run(job, &*code, &payload),
            Err(why) => {
                tracing::error!("job {} ({} of module {}) can't run: {why}", job.uuid, job.job, job.module);
                RunOutcome { ended: Ended::Returned(-1), result: None, error: Some(why), timed_out_ms: None }
            }
        };
        if !job.settle() {
            let _ = self.shared.notices.send(Notice::Returned);
            return After::GivenUp;
        }
        if job.is_canceled() {
            return self.over(job);
        }
        let random = self.random.hash_one((job.id, job.attempt()));
        let change = change_after(outcome, job.attempt(), job.max_attempts, job.backoff_ms, now_ms(), random);
        let retry_at_ms = if let Change::Retry { run_at_ms, .. } = change { Some(run_at_ms) } else { None };
        if retry_at_ms.is_none() {
            self.shared.active.remove(&job.uuid);
        }
        // Committed in its turn; a cancellation that came first wins.
        let _ = self.shared.writer.change(job.id, change, Box::new(|_| {}));
        let _ = self.shared.notices.send(Notice::Ended { job: Arc::clone(job), retry_at_ms });
        After::Next
    }

    /// The job is not to run any more.
    fn over(&self, job: &Arc<ActiveJob>) -> After {
        self.shared.active.remove(&job.uuid);
        let _ = self.shared.notices.send(Notice::Ended { job: Arc::clone(job), retry_at_ms: None });
        After::Next
    }

    /// Commits the start: what runs is on record, so that a crash can't make it run more often than it may.
    fn start(&self, job: &ActiveJob) -> bool {
        let (sender, receiver) = bounded(1);
        let done = move |changed| {
            let _ = sender.send(changed);
        };
        job.begin();
        if self.shared.writer.change(job.id, Change::Start, Box::new(done)).is_err() {
            return false;
        }
        matches!(receiver.recv(), Ok(Ok(Changed::Applied(State::Running))))
    }

    fn code_of(&self, job: &ActiveJob) -> Result<Arc<dyn Code>, String> {
        if let Some(code) = job.code() {
            return Ok(code);
        }
        let declared = self.shared.source.acquire(&job.module, &job.hash, &job.job)?;
        job.set_code(Arc::clone(&declared.code), declared.defaults);
        Ok(declared.code)
    }

    fn payload_of(&mut self, job: &ActiveJob) -> Result<String, String> {
        match self.reader.payload(job.id) {
            Ok(Some(payload)) => Ok(payload),
            Ok(None) => Err("its row is gone".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn run(&self, job: &Arc<ActiveJob>, code: &dyn Code, payload: &str) -> RunOutcome {
        let running = Running { job, shared: &self.shared, said: Mutex::default() };
        let ended = code.run(&job.uuid, payload, &running);
        if let Ended::Crashed(how) = &ended {
            tracing::error!("job {} ({} of module {}) crashed: {how}", job.uuid, job.job, job.module);
        }
        let (result, error) = running.said.into_inner().unwrap_or_else(PoisonError::into_inner);
        let timed_out_ms = job.has_timed_out().then_some(job.timeout_ms);
        RunOutcome { ended, result, error, timed_out_ms }
    }
}

/// A run, as its code sees it.
struct Running<'a> {
    job: &'a ActiveJob,
    shared: &'a Shared,
    /// Result and error, as set last.
    said: Mutex<(Option<String>, Option<String>)>,
}

impl Running<'_> {
    fn fits(&self, what: &str, bytes: usize, limit: usize, flag: &str) -> bool {
        if bytes > limit {
            tracing::warn!(
                "module {}: the {what} of job {} has {bytes} bytes; the limit is {limit} ({flag})",
                self.job.module,
                self.job.uuid
            );
        }
        bytes <= limit
    }

    fn say(&self, text: &str, what: &str, put: impl FnOnce(&mut (Option<String>, Option<String>), String)) -> bool {
        if !self.fits(what, text.len(), self.shared.limits.result_bytes_max, "--job-result-bytes-max") {
            return false;
        }
        put(&mut self.said.lock().unwrap_or_else(PoisonError::into_inner), text.to_owned());
        true
    }
}

impl JobCalls for Running<'_> {
    fn emit_event(&self, kind: &str, data: Option<&str>) -> bool {
        let data = data.unwrap_or("{}");
        let fits = self.fits("event", data.len(), self.shared.limits.event_bytes_max, "--job-event-bytes-max");
        if self.job.must_end() || kind.is_empty() || kind.len() > KIND_BYTES_MAX || !fits {
            return false;
        }
        // Waits while the writer is behind: a job can't outrun the disk, and no event is lost.
        self.shared.writer.event(self.job.id, Arc::clone(&self.job.uuid), kind.into(), json::one_line(data)).is_ok()
    }

    fn set_result(&self, result: &str) -> bool {
        self.say(result, "result", |said, text| said.0 = Some(text))
    }

    fn set_error(&self, error: &str) -> bool {
        self.say(error, "error", |said, text| said.1 = Some(text))
    }

    fn is_canceled(&self) -> bool {
        self.job.must_end()
    }
}
