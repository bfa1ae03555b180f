//! Counts of the store's work.

use super::command::Command;
use crossbeam::channel::Sender;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts since the store was opened.
pub struct StoreStats {
    pub(super) commits: AtomicU64,
    pub(super) commands: AtomicU64,
    pub(super) events: AtomicU64,
    pub(super) failures: AtomicU64,
    queue: Sender<Command>,
}

impl StoreStats {
    pub(super) fn new(queue: Sender<Command>) -> Self {
        let zero = || AtomicU64::new(0);
        Self { commits: zero(), commands: zero(), events: zero(), failures: zero(), queue }
    }

    /// Number of committed transactions.
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// Number of commands in committed transactions.
    #[must_use]
    pub fn commands(&self) -> u64 {
        self.commands.load(Ordering::Relaxed)
    }

    /// Number of events written, by changes and by jobs.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events.load(Ordering::Relaxed)
    }

    /// Number of failed transactions.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Number of commands waiting for the writer.
    #[must_use]
    pub fn queue_length(&self) -> usize {
        self.queue.len()
    }
}
