//! The dynamic loader of one process, as far as the server knows it: one module is loaded or closed at a time.

use super::control::Outcome;
use super::lock;
use crossbeam::channel::{Receiver, RecvTimeoutError, TryRecvError};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

/// The dynamic loader of one process, as far as the server knows it.
#[derive(Default)]
pub(super) struct Loader {
    /// Held by the thread that has a module loaded.
    turn: Mutex<()>,
    /// Modules that are being closed, which the loader does one at a time with all else.
    closing: Mutex<Vec<Receiver<Outcome>>>,
    /// Its lock is never given back.
    jammed: AtomicBool,
}

impl Loader {
    /// Waits for the turn to load a module.
    pub(super) fn turn(&self) -> MutexGuard<'_, ()> {
        lock(&self.turn)
    }

    /// A module is being closed; its end comes over the receiver.
    pub(super) fn closes(&self, end: Receiver<Outcome>) {
        let mut closing = lock(&self.closing);
        closing.retain(|end| matches!(end.try_recv(), Err(TryRecvError::Empty)));
        closing.push(end);
    }

    /// Waits until what is being closed is. False: something is not, and has had `limit`.
    pub(super) fn wait_closed(&self, limit: Duration) -> bool {
        let closing = std::mem::take(&mut *lock(&self.closing));
        // A process that has died closes nothing; whoever has an order for it learns that from the order.
        closing.into_iter().all(|end| !matches!(end.recv_timeout(limit), Err(RecvTimeoutError::Timeout)))
    }

    /// Nothing can be loaded from now on.
    pub(super) fn jam(&self) {
        self.jammed.store(true, Ordering::Release);
    }

    /// Whether nothing can be loaded any more.
    pub(super) fn is_jammed(&self) -> bool {
        self.jammed.load(Ordering::Acquire)
    }
}
