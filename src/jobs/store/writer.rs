//! The writer's thread: gathers waiting commands, commits them, then publishes and answers.

use super::batch::{Applier, Isolation, Outcome};
use super::command::{Command, guarded};
use super::error::Fault;
use super::handle::StoreShared;
use super::{JobEvent, StoreError, StoreStats, Submitted};
use crossbeam::channel::{Receiver, RecvTimeoutError};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// The pause after a failed transaction; it doubles with each failure up to the longest.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_LONGEST: Duration = Duration::from_secs(1);
/// How long a closing store tries to write the commands that it kept.
const CLOSING_PATIENCE: Duration = Duration::from_secs(5);
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

pub(super) struct Loop<'c> {
    pub(super) applier: Applier<'c>,
    pub(super) receiver: Receiver<Command>,
    pub(super) shared: Arc<StoreShared>,
    pub(super) stats: Arc<StoreStats>,
    pub(super) limits: Limits,
    pub(super) published: Published,
    #[cfg(test)]
    pub(super) connection: &'c rusqlite::Connection,
}

impl Loop<'_> {
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
            batch = keep(batch, &fault);
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
        self.take(first, batch);
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
            self.take(next, batch);
        }
    }

    /// Waits for `pause` after a failure. Commands that arrive meanwhile join the next try, behind the kept ones.
    fn gather_for(&self, pause: Duration, batch: &mut Vec<Command>) {
        let until = Instant::now() + pause;
        while batch.len() < self.limits.kept_max {
            match self.receiver.recv_deadline(until) {
                // The store is closing: try at once.
                Ok(Command::Wake) => return,
                Ok(command) => self.take(command, batch),
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
            Command::Hook(hook) => hook(self.connection),
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
        let events = self.applier.events();
        self.stats.committed(batch.len(), events.len());
        if !events.is_empty() {
            guarded("the publication of job events", || (self.published)(events));
        }
        for (command, outcome) in batch.drain(..).zip(outcomes) {
            answer(command, outcome);
        }
        // Must come after the answers: the caller must know a job of this batch before the job is reported as ready.
        let settled = self.applier.take_settled();
        if let Some(tell) = self.shared.settled.get().filter(|_| !settled.is_empty()) {
            guarded("the word of settled jobs", || tell(settled));
        }
        Ok(())
    }

    /// Answers the commands that could not be written before the end.
    fn give_up(self, batch: Vec<Command>, fault: &Fault) {
        let lost = batch.len() + self.receiver.len();
        tracing::error!(lost, why = fault.why(), "job changes and events could not be written before the end");
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
    for command in batch {
        command.fail(StoreError::Unavailable { why: fault.why().to_owned() });
    }
}

/// Answers the caller. A reply that does not match its command can't occur; it would report that the store is closed.
fn answer(command: Command, outcome: Outcome) {
    match (command, outcome) {
        (command, Outcome::Refused(why)) => command.fail(StoreError::Refused { why }),
        (Command::Submit(job, reply), Outcome::Inserted(id, now_ms, waits)) => {
            reply.send(Ok(Submitted::New(job.into_row(id, now_ms, waits))));
        }
        (Command::Submit(_, reply), Outcome::NeedsRefused(why)) => reply.send(Ok(Submitted::Refused(why))),
        (Command::Submit(_, reply), Outcome::Existing(row)) => reply.send(Ok(Submitted::Existing(*row))),
        (Command::Change(_, _, reply), Outcome::Changed(changed)) => reply.send(Ok(changed)),
        (Command::Delete(_, reply), Outcome::Deleted(deleted)) => reply.send(Ok(deleted)),
        (Command::Pause(_, _, reply), Outcome::Paused(outcome)) => reply.send(Ok(outcome)),
        (Command::Schedule(_, reply), Outcome::Schedule(outcome)) => reply.send(Ok(*outcome)),
        (Command::Checkpoint(_, reply) | Command::Made(_, reply), Outcome::Kept(kept)) => reply.send(Ok(kept)),
        (Command::Sweep { reply, .. }, Outcome::Swept(count)) => reply.send(Ok(count)),
        _ => {}
    }
}
