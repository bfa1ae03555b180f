//! Commands to the writer, and the guarantee that each command is answered.

use super::budget::Weight;
use super::types::{Checkpoint, MadeFiles, Run};
use super::{
    Change, Changed, Deleted, Done, JobKind, NewJob, Paused, ScheduleChange, ScheduleOutcome, StoreError, Submitted,
};
use crate::jobs::blobs::Pins;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// One command to the writer.
pub(super) enum Command {
    Submit(NewJob, Reply<Submitted>),
    Change(i64, Change, Reply<Changed>),
    Delete(String, Reply<Deleted>),
    Event(OwnEvent),
    Checkpoint(Checkpoint, Reply<bool>),
    Made(MadeFiles, Reply<bool>),
    ForgetDirs(Vec<String>),
    Sweep {
        before_ms: i64,
        limit: u32,
        reply: Reply<usize>,
    },
    Schedule(ScheduleChange, Reply<ScheduleOutcome>),
    Pause(JobKind, bool, Reply<Paused>),
    /// Wakes the writer, so that it sees that it must end.
    Wake,
    /// Runs on the writer's thread as soon as the command is received, with the engine's inside.
    #[cfg(test)]
    Hook(Hook),
}

/// Looks at the engine's inside.
#[cfg(test)]
pub(super) type Hook = Box<dyn FnOnce(&dyn std::any::Any) + Send>;

/// The blob of an event. The blob can't be deleted while this value or the job exists.
pub struct EventBlob {
    /// `sha256:…`
    pub name: String,
    /// Keeps the blob until the store has recorded that the job needs it.
    pub _pins: Pins,
}

/// An event that the job itself emits.
pub(super) struct OwnEvent {
    pub(super) run: Run,
    pub(super) uuid: Arc<str>,
    pub(super) kind: Box<str>,
    pub(super) data: Box<str>,
    /// The blob named in the data.
    pub(super) blob: Option<EventBlob>,
    /// The event's share of the budget until it is stored.
    pub(super) _weight: Weight,
}

impl Command {
    /// Whether the writer repeats the command after a failed transaction, because no caller could repeat it for the job.
    pub(super) fn is_kept(&self) -> bool {
        matches!(self, Self::Change(..) | Self::Event(_) | Self::Made(..))
    }

    /// Takes the callback out of a command that was never accepted.
    pub(super) fn disarm(&mut self) {
        match self {
            Self::Submit(_, reply) => reply.done = None,
            Self::Change(_, _, reply) => reply.done = None,
            Self::Delete(_, reply) => reply.done = None,
            Self::Checkpoint(_, reply) | Self::Made(_, reply) => reply.done = None,
            Self::Sweep { reply, .. } => reply.done = None,
            Self::Schedule(_, reply) => reply.done = None,
            Self::Pause(_, _, reply) => reply.done = None,
            Self::Event(_) | Self::ForgetDirs(_) | Self::Wake => {}
            #[cfg(test)]
            Self::Hook(_) => {}
        }
    }

    /// Reports the failure to the caller. Nothing that happens to the command later reaches the caller.
    pub(super) fn fail(&mut self, error: StoreError) {
        match self {
            Self::Submit(_, reply) => reply.call(Err(error)),
            Self::Change(_, _, reply) => reply.call(Err(error)),
            Self::Delete(_, reply) => reply.call(Err(error)),
            Self::Checkpoint(_, reply) | Self::Made(_, reply) => reply.call(Err(error)),
            Self::Sweep { reply, .. } => reply.call(Err(error)),
            Self::Schedule(_, reply) => reply.call(Err(error)),
            Self::Pause(_, _, reply) => reply.call(Err(error)),
            Self::Event(_) | Self::ForgetDirs(_) | Self::Wake => {}
            #[cfg(test)]
            Self::Hook(_) => {}
        }
    }
}

/// The answer to a command. Calls its callback exactly once: with the outcome, or with [`StoreError::Closed`] when the reply is
/// dropped unused, as for commands that are in the channel when the writer ends.
pub(super) struct Reply<T> {
    done: Option<Done<T>>,
    /// The command's share of the budget until it is answered.
    _weight: Weight,
}

impl<T> Reply<T> {
    pub(super) fn new(done: Done<T>, weight: Weight) -> Self {
        Self { done: Some(done), _weight: weight }
    }

    pub(super) fn send(mut self, outcome: Result<T, StoreError>) {
        self.call(outcome);
    }

    /// Whether the caller has its answer.
    pub(super) fn is_answered(&self) -> bool {
        self.done.is_none()
    }

    fn call(&mut self, outcome: Result<T, StoreError>) {
        if let Some(done) = self.done.take() {
            guarded("a command's callback", || done(outcome));
        }
    }
}

impl<T> Drop for Reply<T> {
    fn drop(&mut self) {
        self.call(Err(StoreError::Closed));
    }
}

/// Runs a caller's code on the writer's thread; a panic in it must not end the writer.
pub(super) fn guarded(what: &str, code: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(code)).is_err() {
        tracing::error!("{what} panicked on the job writer's thread");
    }
}
