//! How many bytes of commands may wait for the writer. A limit on commands alone is none on memory: each can bring a
//! payload or an event of any size that those are allowed.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// The bytes that wait, and who waits for room.
pub(super) struct Budget {
    bytes_max: usize,
    /// With `waiters`, `SeqCst`: either who gives back sees who waits, or who waits sees what was given back.
    taken: AtomicUsize,
    waiters: AtomicUsize,
    lock: Mutex<()>,
    changed: Condvar,
}

/// A share of the budget, given back when it is dropped.
pub(super) struct Weight {
    bytes: usize,
    budget: Arc<Budget>,
}

impl Budget {
    pub(super) fn new(bytes_max: usize) -> Arc<Self> {
        let (taken, waiters) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self { bytes_max, taken, waiters, lock: Mutex::new(()), changed: Condvar::new() })
    }

    /// Takes `bytes`, whatever there is.
    pub(super) fn charge(self: &Arc<Self>, bytes: usize) -> Weight {
        self.taken.fetch_add(bytes, Ordering::SeqCst);
        Weight { bytes, budget: Arc::clone(self) }
    }

    /// Takes `bytes` if there is room. Something that is larger than the whole has room when nothing else is there.
    pub(super) fn try_take(self: &Arc<Self>, bytes: usize) -> Option<Weight> {
        let add = |taken: usize| {
            let sum = taken.saturating_add(bytes);
            (taken == 0 || sum <= self.bytes_max).then_some(sum)
        };
        self.taken.fetch_update(Ordering::SeqCst, Ordering::SeqCst, add).ok()?;
        Some(Weight { bytes, budget: Arc::clone(self) })
    }

    /// Waits for room, until `must_end` says that there is no use in it (see [`Budget::wake`]).
    pub(super) fn take(self: &Arc<Self>, bytes: usize, must_end: impl Fn() -> bool) -> Option<Weight> {
        if let Some(weight) = self.try_take(bytes) {
            return Some(weight);
        }
        self.waiters.fetch_add(1, Ordering::SeqCst);
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let weight = loop {
            if must_end() {
                break None;
            }
            if let Some(weight) = self.try_take(bytes) {
                break Some(weight);
            }
            guard = self.changed.wait(guard).unwrap_or_else(PoisonError::into_inner);
        };
        drop(guard);
        self.waiters.fetch_sub(1, Ordering::SeqCst);
        weight
    }

    /// Lets those who wait look again.
    pub(super) fn wake(&self) {
        if self.waiters.load(Ordering::SeqCst) > 0 {
            // Whoever waits has either not looked yet, or waits by now.
            drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
            self.changed.notify_all();
        }
    }
}

impl Drop for Weight {
    fn drop(&mut self) {
        self.budget.taken.fetch_sub(self.bytes, Ordering::SeqCst);
        self.budget.wake();
    }
}
