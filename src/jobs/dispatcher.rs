//! The dispatcher's thread: owns the run queue, assigns jobs to workers, enforces time limits, starts the retention sweeps.

use super::active::ActiveJob;
use super::kind_count;
use super::lifecycle::timeout_text;
use super::notice::{Notice, now_ms};
use super::run_queue::RunQueue;
use super::scheduler::Scheduler;
use super::store::{Change, JobKind, JobState, Writer};
use super::worker::Workers;
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How long a run that was told to end may continue before its worker is abandoned and replaced.
const GRACE: Duration = Duration::from_secs(5);
/// Limit on simultaneously abandoned workers.
const ABANDONED_MAX: usize = 64;
/// Interval between two retention sweeps.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// Limit on the jobs deleted in one transaction.
const SWEEP_JOBS_MAX: u32 = 500;

/// Delay before the dispatcher tries again to store the schedules of modules.
const DECLARED_AGAIN: Duration = Duration::from_secs(1);

/// See [`ActiveJob::key`].
type RunKey = (i64, u32);

/// A job assigned to a worker.
struct Run {
    job: Arc<ActiveJob>,
    /// When the run is told to end, or abandoned.
    deadline: Option<Instant>,
    /// The run has been told to end.
    told: bool,
}

pub(super) struct Dispatcher<Q> {
    pub(super) queue: Q,
    pub(super) scheduler: Scheduler,
    /// Number of paused kinds, for metrics.
    pub(super) paused_count: Arc<AtomicUsize>,
    pub(super) notices: Receiver<Notice>,
    pub(super) own: Sender<Notice>,
    pub(super) writer: Writer,
    pub(super) workers: Workers,
    pub(super) retention: Duration,
    pub(super) free: usize,
    /// Workers reserved for domains without a running job.
    pub(super) reserve: usize,
}

impl<Q: RunQueue> Dispatcher<Q> {
    /// Works until the stop message, and until no job runs any more.
    pub(super) fn run(mut self) {
        let mut runs: HashMap<RunKey, Run> = HashMap::new();
        let mut stopping: Option<Sender<()>> = None;
        let mut abandoned = 0_usize;
        let mut begun = false;
        let mut declared_at: Option<Instant> = None;
        let mut sweep_at = Instant::now();
        loop {
            let mut next_ms = self.queue.wake(now_ms());
            if stopping.is_none() {
                if begun {
                    self.assign(&mut runs);
                    next_ms = [next_ms, self.scheduler.wake()].into_iter().flatten().min();
                }
            } else if runs.is_empty() {
                return; // The sender of the stop notice is dropped with this frame, which answers the stop.
            }
            let now = Instant::now();
            if now >= sweep_at {
                self.sweep();
                sweep_at = now + SWEEP_EVERY;
            }
            let mut wait = sweep_at.saturating_duration_since(now);
            if declared_at.is_some_and(|at| now >= at) {
                declared_at = None;
                self.scheduler.reconcile();
            }
            if let Some(at) = declared_at {
                wait = wait.min(at.saturating_duration_since(now));
            }
            if let Some(at_ms) = next_ms {
                wait = wait.min(Duration::from_millis(u64::try_from(at_ms - now_ms()).unwrap_or(0)));
            }
            if let Some(deadline) = runs.values().filter_map(|run| run.deadline).min() {
                wait = wait.min(deadline.saturating_duration_since(now));
            }
            match self.notices.recv_timeout(wait) {
                Ok(Notice::Ready { job, run_at_ms }) => self.queue.add(job, run_at_ms, now_ms()),
                Ok(Notice::Began(job)) => began(&mut runs, &job),
                Ok(Notice::Canceled(job)) => self.canceled(&mut runs, &job),
                Ok(Notice::Ended { job, retry_at_ms }) => self.ended(&mut runs, job, retry_at_ms),
                Ok(Notice::Returned) => abandoned = abandoned.saturating_sub(1),
                Ok(Notice::SweepAgain) => self.sweep(),
                Ok(Notice::Schedule(name, told, again)) => {
                    self.scheduler.told(&name, told);
                    if begun && again {
                        self.scheduler.reconcile();
                    }
                }
                Ok(Notice::Schedules(asked)) => self.scheduler.asked(asked),
                Ok(Notice::Paused(kind, pause)) => self.paused(kind, pause),
                Ok(Notice::Kinds(answer)) => answer(kind_count::count(&self.scheduler.active, self.queue.paused())),
                Ok(Notice::Modules) => {
                    self.queue.modules_changed();
                    // `Begin` reads the declarations once all modules are loaded.
                    if begun {
                        self.scheduler.reconcile();
                    }
                }
                Ok(Notice::ModulesLater) => declared_at = Some(Instant::now() + DECLARED_AGAIN),
                Ok(Notice::Begin) => {
                    begun = true;
                    self.scheduler.reconcile();
                }
                Ok(Notice::Stop(done)) => stopping = Some(done),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.check_deadlines(&mut runs, &mut abandoned);
        }
    }

    fn assign(&mut self, runs: &mut HashMap<RunKey, Run>) {
        while self.free > 0 {
            let Some(job) = self.queue.next(self.free <= self.reserve) else { return };
            self.free -= 1;
            runs.insert(job.key(), Run { job: Arc::clone(&job), deadline: None, told: false });
            self.workers.assign(job);
        }
    }

    fn ended(&mut self, runs: &mut HashMap<RunKey, Run>, job: Arc<ActiveJob>, retry_at_ms: Option<i64>) {
        if runs.remove(&job.key()).is_some() {
            self.free += 1;
            self.queue.ended(&job);
        }
        if let Some(at_ms) = retry_at_ms.filter(|_| !job.is_canceled()) {
            self.queue.add(job, at_ms, now_ms());
        }
    }

    fn canceled(&mut self, runs: &mut HashMap<RunKey, Run>, job: &Arc<ActiveJob>) {
        self.queue.remove(job);
        if let Some(run) = runs.get_mut(&job.key())
            && !run.told
        {
            run.told = true;
            run.deadline = Some(Instant::now() + GRACE);
            tell_to_end(job);
        }
    }

    fn check_deadlines(&mut self, runs: &mut HashMap<RunKey, Run>, abandoned: &mut usize) {
        let now = Instant::now();
        let mut given_up = Vec::new();
        for run in runs.values_mut().filter(|run| run.deadline.is_some_and(|deadline| deadline <= now)) {
            if !run.told {
                run.told = true;
                run.deadline = Some(now + GRACE);
                run.job.time_out();
                tell_to_end(&run.job);
            } else if *abandoned < ABANDONED_MAX {
                run.deadline = None;
                given_up.push(Arc::clone(&run.job));
            } else {
                run.deadline = Some(now + GRACE);
            }
        }
        for job in given_up {
            self.give_up(runs, &job, abandoned);
        }
    }

    /// The run does not end: its outcome is written without it, and a new worker replaces the abandoned one.
    fn give_up(&mut self, runs: &mut HashMap<RunKey, Run>, job: &Arc<ActiveJob>, abandoned: &mut usize) {
        if !job.settle() {
            return; // The run has ended after all.
        }
        tracing::error!(
            "job {} ({} of module {}) does not end; another worker replaces its thread",
            job.uuid,
            job.job,
            job.module
        );
        if job.is_decided() {
            self.workers.returned(job);
        } else if !job.is_canceled() {
            let error = format!("{} and did not stop", timeout_text(job.timeout_ms));
            let (attempt, error) = (job.attempt(), Some(error));
            let change = Change::Finish { attempt, state: JobState::Failed, result: None, error };
            self.workers.finish(job, change);
        }
        self.workers.forget(job);
        if runs.remove(&job.key()).is_some() {
            self.queue.ended(job);
        }
        *abandoned += 1;
        match self.workers.add() {
            Ok(()) => self.free += 1,
            Err(error) => tracing::error!("no further job worker could be started: {error}"),
        }
    }

    fn paused(&mut self, kind: JobKind, pause: bool) {
        if pause {
            self.queue.pause(kind);
        } else {
            self.queue.resume(&kind);
        }
        self.paused_count.store(self.queue.paused().count(), Ordering::Relaxed);
    }

    fn sweep(&self) {
        let before_ms = now_ms().saturating_sub(i64::try_from(self.retention.as_millis()).unwrap_or(i64::MAX));
        let own = self.own.clone();
        let done = move |swept: Result<usize, _>| match swept {
            Ok(count) if count >= SWEEP_JOBS_MAX as usize => {
                let _ = own.send(Notice::SweepAgain);
            }
            Ok(0) | Err(_) => {}
            Ok(count) => tracing::debug!("{count} jobs whose retention has passed are deleted"),
        };
        // A full queue refuses the sweep; the next sweep makes up for it.
        let _ = self.writer.try_sweep(before_ms, SWEEP_JOBS_MAX, Box::new(done));
    }
}

fn began(runs: &mut HashMap<RunKey, Run>, job: &Arc<ActiveJob>) {
    if let Some(run) = runs.get_mut(&job.key()).filter(|run| !run.told && job.timeout_ms > 0) {
        run.deadline = Instant::now().checked_add(Duration::from_millis(job.timeout_ms));
    }
}

/// Calls the cancel callback on a thread of its own, because the callback may take long.
fn tell_to_end(job: &Arc<ActiveJob>) {
    let Some(code) = job.code() else { return };
    let uuid = Arc::clone(&job.uuid);
    let spawned = crate::threads::module_thread("job-cancel").spawn(move || code.cancel(&uuid));
    if let Err(error) = spawned {
        tracing::error!("the cancel callback of job {} could not be called: {error}", job.uuid);
    }
}
