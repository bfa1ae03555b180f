//! The sending side of the store, held by all other threads.

use super::budget::{Budget, Weight};
use super::command::{Command, EventBlob, OwnEvent, Reply};
use super::types::{Checkpoint, MadeFiles, Run};
use super::{
    Change, Changed, Deleted, Done, JobKind, JobState, NewJob, Paused, ScheduleChange, ScheduleOutcome, Settled,
    StoreError, Submitted,
};
use crate::jobs::blobs::MadeFile;
use crossbeam::channel::{Sender, TrySendError};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::ThreadId;

/// Sends commands to the writer; cheap to clone.
///
/// Commands of one thread are carried out in the order in which the thread sent them. Each method returns
/// [`StoreError::Closed`] once the store is shut down.
#[derive(Clone)]
pub struct Writer {
    sender: Sender<Box<Command>>,
    shared: Arc<StoreShared>,
}

/// Called with news of jobs that no caller waits for, on the writer's thread, so it must not block.
pub(super) type TellSettled = Box<dyn Fn(Vec<Settled>) + Send + Sync>;

/// State shared by the writer's thread and its handles.
pub(super) struct StoreShared {
    pub(super) queue_max: usize,
    pub(super) budget: Arc<Budget>,
    /// Set once, before [`Command::Wake`] is sent: no further command is accepted. No other access is ordered by it. A command
    /// that passes the check too late is either carried out or answered [`StoreError::Closed`].
    pub(super) closing: AtomicBool,
    /// The id of the writer's thread, once the thread runs.
    pub(super) thread: OnceLock<ThreadId>,
    pub(super) settled: OnceLock<TellSettled>,
}

impl StoreShared {
    /// Whether the caller is a callback on the writer's thread: waiting for the writer would never end there.
    pub(super) fn is_writer(&self) -> bool {
        self.thread.get() == Some(&std::thread::current().id())
    }
}

impl Writer {
    pub(super) fn new(sender: Sender<Box<Command>>, shared: Arc<StoreShared>) -> Self {
        Self { sender, shared }
    }

    /// Calls `tell` with news of jobs that no caller waits for, after the answers of that transaction; `tell` must not block.
    /// Only the first call counts.
    pub fn on_settled(&self, tell: Box<dyn Fn(Vec<Settled>) + Send + Sync>) {
        let _ = self.shared.settled.set(tell);
    }

    /// Stores a job as pending, with its event `created`; never blocks.
    ///
    /// # Errors
    /// [`StoreError::Full`] when the writer is behind (the caller answers 503). Through `done`: [`StoreError::Unavailable`],
    /// and [`StoreError::Refused`] for a uuid that already exists.
    pub fn try_submit(&self, job: NewJob, done: Done<Submitted>) -> Result<(), StoreError> {
        if self.is_closed() {
            return Err(StoreError::Closed);
        }
        let weight = self.shared.budget.try_take(job.payload.len()).ok_or(self.full())?;
        self.try_send(Command::Submit(job, Reply::new(done, weight)))
    }

    /// Changes a job's state; never blocks.
    ///
    /// An accepted change survives failing transactions: the writer repeats it until it is committed. Only a shutdown that
    /// can't write answers [`StoreError::Unavailable`].
    ///
    /// # Errors
    /// [`StoreError::Full`] when the writer is behind; [`StoreError::Refused`] for a finish whose state is not final.
    pub fn try_change(&self, job: i64, change: Change, done: Done<Changed>) -> Result<(), StoreError> {
        validate(&change)?;
        let weight = self.shared.budget.charge(bytes_of(&change));
        self.try_send(Command::Change(job, change, Reply::new(done, weight)))
    }

    /// Deletes a finished job and its events; never blocks.
    ///
    /// # Errors
    /// [`StoreError::Full`] when the writer is behind; [`StoreError::Unavailable`] through `done`.
    pub fn try_delete(&self, uuid: String, done: Done<Deleted>) -> Result<(), StoreError> {
        self.try_send(Command::Delete(uuid, Reply::new(done, self.shared.budget.charge(0))))
    }

    /// Like [`Writer::try_change`], but waits while the channel is full.
    ///
    /// # Errors
    /// [`StoreError::Refused`] for a finish whose state is not final; [`StoreError::Full`] only on the writer's own thread,
    /// where waiting would never end.
    pub fn change(&self, job: i64, change: Change, done: Done<Changed>) -> Result<(), StoreError> {
        validate(&change)?;
        // The bytes are counted but never refused: there are no more simultaneous ends of runs than workers.
        let weight = self.shared.budget.charge(bytes_of(&change));
        self.send(Command::Change(job, change, Reply::new(done, weight)))
    }

    /// Stores an event that the job itself emits; waits while the channel or the budget of bytes is full. `data` must be valid
    /// JSON.
    ///
    /// The event survives failing transactions like a change. The writer silently drops the event if the run does not hold the
    /// job any more, or if the job is not called `uuid`.
    ///
    /// # Errors
    /// [`StoreError::Full`] only on the writer's own thread, where waiting would never end.
    pub fn event(&self, run: Run, uuid: Arc<str>, kind: Box<str>, data: Box<str>) -> Result<(), StoreError> {
        self.event_of(run, uuid, kind, data, None)
    }

    /// Like [`Writer::event`]; `data` names `blob`, which is kept as long as the job from the commit on.
    ///
    /// # Errors
    /// See [`Writer::event`].
    pub fn event_with_blob(
        &self,
        run: Run,
        uuid: Arc<str>,
        kind: Box<str>,
        data: Box<str>,
        blob: EventBlob,
    ) -> Result<(), StoreError> {
        self.event_of(run, uuid, kind, data, Some(blob))
    }

    fn event_of(
        &self,
        run: Run,
        uuid: Arc<str>,
        kind: Box<str>,
        data: Box<str>,
        blob: Option<EventBlob>,
    ) -> Result<(), StoreError> {
        let weight = self.wait_for_room(kind.len() + data.len())?;
        self.send(Command::Event(OwnEvent { run, uuid, kind, data, blob, _weight: weight }))
    }

    /// Deletes at most `limit` jobs that ended before `before_ms` (Unix milliseconds), oldest first, and reports how many;
    /// never blocks.
    ///
    /// # Errors
    /// [`StoreError::Full`] when the writer is behind; [`StoreError::Unavailable`] through `done`.
    pub fn try_sweep(&self, before_ms: i64, limit: u32, done: Done<usize>) -> Result<(), StoreError> {
        self.try_send(Command::Sweep { before_ms, limit, reply: Reply::new(done, self.shared.budget.charge(0)) })
    }

    /// Changes the schedules, or processes a slot; never blocks.
    ///
    /// # Errors
    /// [`StoreError::Full`] when the writer is behind; [`StoreError::Unavailable`] through `done`.
    pub fn try_schedule(&self, change: ScheduleChange, done: Done<ScheduleOutcome>) -> Result<(), StoreError> {
        let bytes = match &change {
            ScheduleChange::Put { spec, .. } => spec.payload.len(),
            ScheduleChange::Fire { job, .. } => job.payload.len(),
            ScheduleChange::Remove { .. } => 0,
        };
        let weight = self.shared.budget.try_take(bytes).ok_or(self.full())?;
        self.try_send(Command::Schedule(change, Reply::new(done, weight)))
    }

    /// Pauses or resumes a kind of job; never blocks.
    ///
    /// # Errors
    /// [`StoreError::Full`] when the writer is behind; [`StoreError::Unavailable`] through `done`.
    pub fn try_pause(&self, kind: JobKind, pause: bool, done: Done<Paused>) -> Result<(), StoreError> {
        self.try_send(Command::Pause(kind, pause, Reply::new(done, self.shared.budget.charge(0))))
    }

    /// Stores `bytes` as the checkpoint of a running job in place of the earlier one; empty `bytes` remove it. Waits while the
    /// channel or the budget of bytes is full. `done` is called with whether the run still holds the job.
    ///
    /// # Errors
    /// [`StoreError::Full`] only on the writer's own thread. Through `done`: [`StoreError::Unavailable`].
    pub fn checkpoint(&self, run: Run, uuid: Arc<str>, bytes: Vec<u8>, done: Done<bool>) -> Result<(), StoreError> {
        let weight = self.wait_for_room(bytes.len())?;
        let reply = Reply::new(done, self.no_weight());
        self.send(Command::Checkpoint(Checkpoint { run, uuid, bytes, _weight: weight }, reply))
    }

    /// Stores the list of a running job's outputs in the directory `dir`. Must precede the change that ends the job. Waits
    /// while the channel is full. `done` is called with whether the run still held the job; if not, nothing is stored.
    ///
    /// # Errors
    /// [`StoreError::Full`] only on the writer's own thread.
    pub fn made(
        &self,
        run: Run,
        uuid: Arc<str>,
        dir: String,
        files: Vec<MadeFile>,
        done: Done<bool>,
    ) -> Result<(), StoreError> {
        let reply = Reply::new(done, self.no_weight());
        self.send(Command::Made(MadeFiles { run, uuid, dir, files }, reply))
    }

    /// Forgets the directories of deleted jobs after they have been removed.
    ///
    /// # Errors
    /// [`StoreError::Full`] only on the writer's own thread.
    pub fn forget_dirs(&self, dirs: Vec<String>) -> Result<(), StoreError> {
        self.send(Command::ForgetDirs(dirs))
    }

    /// Runs `hook` on the writer's thread, between transactions.
    #[cfg(test)]
    pub(super) fn hook(&self, hook: impl FnOnce(&dyn std::any::Any) + Send + 'static) {
        self.send(Command::Hook(Box::new(hook))).unwrap();
    }

    /// Ends the writer's work; accepted commands are still committed.
    pub(super) fn close(&self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        self.shared.budget.wake();
        // If the channel is full or closed, the writer is awake, or needs no wake-up.
        let _ = self.sender.try_send(Box::new(Command::Wake));
    }

    fn is_closed(&self) -> bool {
        self.shared.closing.load(Ordering::SeqCst)
    }

    fn full(&self) -> StoreError {
        StoreError::Full { queue_max: self.shared.queue_max }
    }

    fn no_weight(&self) -> Weight {
        self.shared.budget.charge(0)
    }

    fn wait_for_room(&self, bytes: usize) -> Result<Weight, StoreError> {
        if self.is_closed() {
            return Err(StoreError::Closed);
        }
        let budget = &self.shared.budget;
        if self.shared.is_writer() {
            return budget.try_take(bytes).ok_or(self.full());
        }
        budget.take(bytes, || self.is_closed()).ok_or(StoreError::Closed)
    }

    fn try_send(&self, mut command: Command) -> Result<(), StoreError> {
        if self.shared.closing.load(Ordering::Relaxed) {
            command.disarm();
            return Err(StoreError::Closed);
        }
        self.sender.try_send(Box::new(command)).map_err(|refused| match refused {
            TrySendError::Full(mut command) => {
                command.disarm();
                StoreError::Full { queue_max: self.shared.queue_max }
            }
            TrySendError::Disconnected(mut command) => {
                command.disarm();
                StoreError::Closed
            }
        })
    }

    fn send(&self, mut command: Command) -> Result<(), StoreError> {
        if self.shared.closing.load(Ordering::Relaxed) {
            command.disarm();
            return Err(StoreError::Closed);
        }
        let mut command = match self.sender.try_send(Box::new(command)) {
            Ok(()) => return Ok(()),
            Err(TrySendError::Full(command) | TrySendError::Disconnected(command)) => command,
        };
        if self.shared.is_writer() {
            command.disarm();
            return Err(StoreError::Full { queue_max: self.shared.queue_max });
        }
        self.sender.send(command).map_err(|refused| {
            let mut command = refused.into_inner();
            command.disarm();
            StoreError::Closed
        })
    }
}

/// The bytes of a change's text.
fn bytes_of(change: &Change) -> usize {
    match change {
        Change::Finish { result, error, .. } | Change::Decide { result, error, .. } => {
            [result, error].into_iter().flatten().map(String::len).sum()
        }
        _ => 0,
    }
}

fn validate(change: &Change) -> Result<(), StoreError> {
    match change {
        Change::Finish { state, .. } | Change::Decide { state, .. }
            if !matches!(state, JobState::Done | JobState::Failed) =>
        {
            Err(StoreError::Refused { why: "a run ends as done or failed".to_owned() })
        }
        _ => Ok(()),
    }
}
