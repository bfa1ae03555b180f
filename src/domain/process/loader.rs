//! The server's view of one process's dynamic loader: one module is loaded or closed at a time.

use super::control::Outcome;
use super::lock;
use crossbeam::channel::{Receiver, RecvTimeoutError, TryRecvError};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

/// The dynamic loader of one process, from the server's view.
#[derive(Default)]
pub(super) struct Loader {
    /// Locked by the thread that is loading a module.
    turn: Mutex<()>,
    /// Modules that are being closed; the loader closes and loads one at a time.
    closing: Mutex<Vec<Receiver<Outcome>>>,
    /// Whether the loader's lock is never released.
    jammed: AtomicBool,
}

impl Loader {
    /// Waits for the turn to load a module.
    pub(super) fn turn(&self) -> MutexGuard<'_, ()> {
        lock(&self.turn)
    }

    /// Records that a module is being closed; its end comes over the receiver.
    pub(super) fn closes(&self, end: Receiver<Outcome>) {
        let mut closing = lock(&self.closing);
        closing.retain(|end| matches!(end.try_recv(), Err(TryRecvError::Empty)));
        closing.push(end);
    }

    /// Waits until all modules are closed, at most `limit` for each. Returns false if one is not.
    pub(super) fn wait_closed(&self, limit: Duration) -> bool {
        let closing = std::mem::take(&mut *lock(&self.closing));
        // A dead process closes nothing; the next order for it reports the death.
        closing.into_iter().all(|end| !matches!(end.recv_timeout(limit), Err(RecvTimeoutError::Timeout)))
    }

    /// Records that nothing can be loaded any more.
    pub(super) fn jam(&self) {
        self.jammed.store(true, Ordering::Release);
    }

    /// Whether nothing can be loaded any more.
    pub(super) fn is_jammed(&self) -> bool {
        self.jammed.load(Ordering::Acquire)
    }
}
