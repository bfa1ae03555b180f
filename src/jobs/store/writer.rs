//! The writer's thread: gathers waiting commands, commits them, then publishes and answers.

use super::command::{Command, guarded};
use super::engine::{Apply, Isolation, Outcome};
use super::error::Fault;
use super::handle::StoreShared;
use super::{JobEvent, Paused, ScheduleOutcome, Settled, StoreError, StoreStats, Submitted};
use crossbeam::channel::{Receiver, RecvTimeoutError};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// The pause after a failed transaction; it doubles with each failure up to the longest.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_LONGEST: Duration = Duration::from_secs(1);
/// How long a closing store tries to write the commands that it kept.
const CLOSING_PATIENCE: Duration = Duration::from_secs(5);
/// How long a command that the writer would not repeat waits for its answer while a commit is in doubt.
const DOUBT_PATIENCE: Duration = Duration::from_secs(1);
/// A batch of several commands stays open while the next command arrives within this time.
const GAP: Duration = Duration::from_micros(100);

/// Called with each transaction's events once they are on disk.
pub(super) type Published = Box<dyn Fn(&[JobEvent]) + Send>;

/// Sizes of batches.
pub(super) struct Limits {
    pub(super) batch_max: usize,
    pub(super) batch_wait: Duration,
    /// Limit on changes and events kept while transactions fail; beyond it the channel fills, and senders wait.
    pub(super) kept_max: usize,
}

/// A series of failures that has not ended.
struct Streak {
    since: Instant,
    pause: Duration,
}

pub(super) struct Loop<A> {
    pub(super) applier: A,
    pub(super) receiver: Receiver<Box<Command>>,
    pub(super) shared: Arc<StoreShared>,
    pub(super) stats: Arc<StoreStats>,
    pub(super) limits: Limits,
    pub(super) published: Published,
}

impl<A: Apply> Loop<A> {
    /// Works until the store closes and all accepted commands are committed, or can't be committed.
    pub(super) fn run(mut self) {
        let mut batch = Vec::new();
        let mut streak: Option<Streak> = None;
        let mut give_up_at = None;
        loop {
            match &streak {
                Some(streak) if !batch.is_empty() => self.gather_for(streak.pause, &mut batch),
                _ => self.gather(&mut batch),
            }
            if batch.is_empty() {
                if self.is_closing() && self.receiver.is_empty() {
                    return;
                }
                continue;
            }
            let Err(fault) = self.transaction(&mut batch) else {
                end_streak(&mut streak);
                continue;
            };
            self.stats.failed();
            streak = Some(next_streak(streak.as_ref(), &fault));
            let mut later = Vec::new();
            if matches!(fault, Fault::InDoubt(_)) && !self.resolve(&mut batch, &mut later, &fault) {
                refuse(later, &fault.clone().resolved());
                return self.give_up(batch, &fault);
            }
            // From here on the engine knows: the batch is answered, or no part of it is stored.
            let fault = fault.resolved();
            batch = keep(batch, &fault);
            batch.append(&mut later);
            if self.is_closing() {
                let give_up_at = *give_up_at.get_or_insert_with(|| Instant::now() + CLOSING_PATIENCE);
                if Instant::now() >= give_up_at {
                    return self.give_up(batch, &fault);
                }
            }
        }
    }

    fn is_closing(&self) -> bool {
        self.shared.closing.load(Ordering::SeqCst)
    }

    /// Waits for a command, then takes all other waiting commands. A single command is never delayed for others.
    fn gather(&self, batch: &mut Vec<Command>) {
        // A `Wake` command announces the closing; the thread may have taken it already.
        let first = if self.is_closing() { self.receiver.try_recv().ok() } else { self.receiver.recv().ok() };
        let Some(first) = first else { return };
        self.take(*first, batch);
        let open_until = Instant::now() + self.limits.batch_wait;
        while batch.len() < self.limits.batch_max {
            let next = self.receiver.try_recv().ok().or_else(|| {
                if batch.len() < 2 {
                    return None;
                }
                let gap = GAP.min(open_until.saturating_duration_since(Instant::now()));
                self.receiver.recv_timeout(gap).ok()
            });
            let Some(next) = next else { return };
            self.take(*next, batch);
        }
    }

    /// Waits for `pause` after a failure. Commands that arrive meanwhile join the next try, behind the kept ones.
    fn gather_for(&self, pause: Duration, batch: &mut Vec<Command>) {
        let until = Instant::now() + pause;
        while batch.len() < self.limits.kept_max {
            match self.receiver.recv_deadline(until) {
                // The store is closing: try at once.
                Ok(command) if matches!(*command, Command::Wake) => return,
                Ok(command) => self.take(*command, batch),
                Err(RecvTimeoutError::Timeout) => return,
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        std::thread::sleep(until.saturating_duration_since(Instant::now()));
    }

    fn take(&self, command: Command, batch: &mut Vec<Command>) {
        match command {
            Command::Wake => {}
            #[cfg(test)]
            Command::Hook(hook) => hook(self.applier.inside()),
            command => batch.push(command),
        }
    }

    /// Commits the batch, then publishes and answers, and empties the batch; on a fault the batch stays unchanged.
    fn transaction(&mut self, batch: &mut Vec<Command>) -> Result<(), Fault> {
        let outcomes = match self.applier.transaction(batch, Isolation::Together) {
            // One of the commands can't succeed: it must not affect the others.
            Err(Fault::Command(_)) => self.applier.transaction(batch, Isolation::Apart)?,
            other => other?,
        };
        self.committed(batch, outcomes);
        Ok(())
    }

    /// Publishes and answers a committed batch, and empties it.
    fn committed(&mut self, batch: &mut Vec<Command>, outcomes: Vec<Outcome>) {
        let events = self.applier.events();
        self.stats.committed(batch.len(), events.len());
        if !events.is_empty() {
            guarded("the publication of job events", || (self.published)(events));
        }
        let mut settled: Vec<Settled> =
            batch.drain(..).zip(outcomes).filter_map(|(command, outcome)| answer(command, outcome)).collect();
        // Must come after the answers: the caller must know a job of this batch before the job is reported as ready.
        settled.append(&mut self.applier.take_settled());
        if let Some(tell) = self.shared.settled.get().filter(|_| !settled.is_empty()) {
            guarded("the report of settled jobs", || tell(settled));
        }
    }

    /// Asks the engine for the fate of a batch in doubt until the engine knows. A committed batch is answered and emptied;
    /// otherwise the batch stays unchanged. Commands that the writer would not repeat wait for [`DOUBT_PATIENCE`] only.
    /// Commands that arrive meanwhile are refused, or kept in `later`. False: the store closes, and the engine does not know.
    fn resolve(&mut self, batch: &mut Vec<Command>, later: &mut Vec<Command>, fault: &Fault) -> bool {
        let begun = Instant::now();
        let (mut pause, mut closing_at) = (PAUSE_FIRST, None);
        loop {
            match self.applier.resolve() {
                Ok(Some(outcomes)) => {
                    self.committed(batch, outcomes);
                    return true;
                }
                Ok(None) => return true,
                Err(error) => tracing::debug!(why = error.why(), "a commit of the job store is still in doubt"),
            }
            if begun.elapsed() >= DOUBT_PATIENCE {
                for command in batch.iter_mut().filter(|command| !command.is_kept()) {
                    command.fail(fault.into());
                }
            }
            if self.is_closing() && closing_at.get_or_insert_with(Instant::now).elapsed() >= CLOSING_PATIENCE {
                return false;
            }
            self.gather_for(pause, later);
            *later = keep(std::mem::take(later), &fault.clone().resolved());
            pause = (pause * 2).min(PAUSE_LONGEST);
        }
    }

    /// Answers the commands that could not be written before the end.
    fn give_up(self, batch: Vec<Command>, fault: &Fault) {
        let lost = batch.len() + self.receiver.len();
        tracing::error!(lost, why = fault.why(), "job changes and events could not be written before the store closed");
        refuse(batch, fault);
    }
}

fn next_streak(streak: Option<&Streak>, fault: &Fault) -> Streak {
    match streak {
        Some(streak) => Streak { since: streak.since, pause: (streak.pause * 2).min(PAUSE_LONGEST) },
        None => {
            tracing::error!(why = fault.why(), "jobs can't be stored; changes and events are kept and tried again");
            Streak { since: Instant::now(), pause: PAUSE_FIRST }
        }
    }
}

fn end_streak(streak: &mut Option<Streak>) {
    if let Some(streak) = streak.take() {
        tracing::info!(after_ms = streak.since.elapsed().as_millis() as u64, "jobs can be stored again");
    }
}

/// Keeps, in order, the commands that no caller could repeat; reports the failure to the others.
fn keep(batch: Vec<Command>, fault: &Fault) -> Vec<Command> {
    let (kept, refused) = batch.into_iter().partition(Command::is_kept);
    refuse(refused, fault);
    kept
}

fn refuse(batch: Vec<Command>, fault: &Fault) {
    for mut command in batch {
        command.fail(fault.into());
    }
}

/// Answers the caller. A reply that does not match its command can't occur; it would report that the store is closed.
///
/// Returns news for the dispatcher if the caller has been told meanwhile that the commit is in doubt.
fn answer(command: Command, outcome: Outcome) -> Option<Settled> {
    match (command, outcome) {
        (mut command, Outcome::Refused(why)) => command.fail(StoreError::Refused { why }),
        (Command::Submit(job, reply), Outcome::Inserted(id, now_ms, waits)) => {
            let row = job.into_row(id, now_ms, waits);
            if reply.is_answered() {
                return Some(Settled::Stored(Box::new(row)));
            }
            reply.send(Ok(Submitted::New(row)));
        }
        (Command::Submit(_, reply), Outcome::NeedsRefused(why)) => reply.send(Ok(Submitted::Refused(why))),
        (Command::Submit(_, reply), Outcome::Existing(row)) => reply.send(Ok(Submitted::Existing(*row))),
        (Command::Change(_, _, reply), Outcome::Changed(changed)) => reply.send(Ok(changed)),
        (Command::Delete(_, reply), Outcome::Deleted(deleted)) => reply.send(Ok(deleted)),
        (Command::Pause(kind, pause, reply), Outcome::Paused(outcome)) => {
            if reply.is_answered() && outcome == Paused::Done {
                return Some(Settled::Paused(kind, pause));
            }
            reply.send(Ok(outcome));
        }
        (Command::Schedule(_, reply), Outcome::Schedule(outcome)) => {
            if let (true, ScheduleOutcome::Fired(row, _)) = (reply.is_answered(), &*outcome) {
                return Some(Settled::Stored(row.clone()));
            }
            reply.send(Ok(*outcome));
        }
        (Command::Checkpoint(_, reply) | Command::Made(_, reply), Outcome::Kept(kept)) => reply.send(Ok(kept)),
        (Command::Sweep { reply, .. }, Outcome::Swept(count)) => reply.send(Ok(count)),
        _ => {}
    }
    None
}
