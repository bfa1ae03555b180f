//! Counts of the store.

use super::command::Command;
use crossbeam::channel::Sender;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts since the store was opened.
pub struct StoreStats {
    commits: AtomicU64,
    commands: AtomicU64,
    events: AtomicU64,
    failures: AtomicU64,
    queue: Sender<Box<Command>>,
}

impl StoreStats {
    pub(super) fn new(queue: Sender<Box<Command>>) -> Self {
        let [commits, commands, events, failures] = [0; 4].map(AtomicU64::new);
        Self { commits, commands, events, failures, queue }
    }

    /// A transaction with `commands` commands, which wrote `events` events, is committed.
    pub(super) fn committed(&self, commands: usize, events: usize) {
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.commands.fetch_add(commands as u64, Ordering::Relaxed);
        self.events.fetch_add(events as u64, Ordering::Relaxed);
    }

    /// A transaction has failed.
    pub(super) fn failed(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
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
