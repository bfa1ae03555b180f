//! The seam to an engine: the part of the store that keeps jobs, events and schedules, and finds them again.
//!
//! The writer's thread owns the engine and calls it for one batch of commands after the other. All other threads read through
//! [`Read`](super::Read). No type of a database crosses this seam. `tests/contract.rs` says what every engine must do.

use super::ScheduleOutcome;
use super::command::Command;
use super::error::{Fault, OpenError};
use super::types::{Changed, Deleted, JobEvent, JobRow, Paused, Settled};

/// An open engine.
pub(super) trait Engine: Send + 'static {
    /// The writing side.
    type Applier<'e>: Apply
    where
        Self: 'e;

    /// Reads the state that the writing side keeps in memory. Called once, on the writer's thread.
    ///
    /// # Errors
    /// The stored jobs can't be read.
    fn applier(&self) -> Result<Self::Applier<'_>, OpenError>;

    /// Releases the files after the last transaction. Must end with the release of the lock, if the engine has one: the next
    /// owner of the lock must find no other user.
    fn close(self);
}

/// Applies commands.
pub(super) trait Apply {
    /// Applies `commands` in one transaction. On success they are as durable as the engine was told to be, with one outcome each
    /// in their order, and [`Apply::events`] and [`Apply::take_settled`] tell the rest. On a fault the engine has changed
    /// nothing, in memory or in its files; only after [`Fault::InDoubt`] the files may have the whole transaction.
    ///
    /// # Errors
    /// [`Fault`]: each variant says when, and what the caller must do.
    fn transaction(&mut self, commands: &[Command], isolation: Isolation) -> Result<Vec<Outcome>, Fault>;

    /// After [`Fault::InDoubt`]: whether the transaction in doubt is committed. `Some`: the transaction is committed with
    /// these outcomes, and [`Apply::events`] and [`Apply::take_settled`] belong to it. `None`: the transaction is not
    /// committed, and no crash can bring it back.
    ///
    /// # Errors
    /// The engine can't say yet.
    fn resolve(&mut self) -> Result<Option<Vec<Outcome>>, Fault>;

    /// The events of the last transaction, in the order of their ids; empty after a fault.
    fn events(&self) -> &[JobEvent];

    /// The jobs whose dependencies the last transaction has settled.
    fn take_settled(&mut self) -> Vec<Settled>;

    /// The engine's inside, for the engine's own tests.
    #[cfg(test)]
    fn inside(&self) -> &dyn std::any::Any {
        &()
    }
}

/// The result of a command, reported once its transaction is committed.
pub(super) enum Outcome {
    /// The row's id and time, and whether the job waits for other jobs.
    Inserted(i64, i64, bool),
    /// The dependencies do not exist, or have failed or are canceled.
    NeedsRefused(String),
    Existing(Box<JobRow>),
    Changed(Changed),
    Deleted(Deleted),
    Swept(usize),
    Schedule(Box<ScheduleOutcome>),
    Paused(Paused),
    /// Whether the checkpoint was stored.
    Kept(bool),
    /// The command has no answer.
    Nothing,
    /// This command failed, through its own fault.
    Refused(String),
}

/// How the commands of a batch depend on each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Isolation {
    /// The first fault undoes the whole batch: fast, and sufficient as long as faults have external causes.
    Together,
    /// Only the command with the fault is left out.
    Apart,
}
