//! Limits the bytes of commands that wait for the writer. A limit on the number of commands does not limit memory: each command
//! can have a payload or an event of any allowed size.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// The bytes that wait, and the threads that wait for room.
pub(super) struct Budget {
    bytes_max: usize,
    /// `SeqCst` on this and `waiters`: either the thread that returns bytes sees the waiting thread, or the waiting thread sees
    /// the returned bytes.
    taken: AtomicUsize,
    waiters: AtomicUsize,
    lock: Mutex<()>,
    changed: Condvar,
}

/// A share of the budget, returned when it is dropped.
pub(super) struct Weight {
    bytes: usize,
    budget: Arc<Budget>,
}

impl Budget {
    pub(super) fn new(bytes_max: usize) -> Arc<Self> {
        let (taken, waiters) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self { bytes_max, taken, waiters, lock: Mutex::new(()), changed: Condvar::new() })
    }

    /// Takes `bytes`, even beyond the limit.
    pub(super) fn charge(self: &Arc<Self>, bytes: usize) -> Weight {
        self.taken.fetch_add(bytes, Ordering::SeqCst);
        Weight { bytes, budget: Arc::clone(self) }
    }

    /// Takes `bytes` if there is room. A request larger than the whole budget has room only when nothing else is taken.
    pub(super) fn try_take(self: &Arc<Self>, bytes: usize) -> Option<Weight> {
        let add = |taken: usize| {
            let sum = taken.saturating_add(bytes);
            (taken == 0 || sum <= self.bytes_max).then_some(sum)
        };
        self.taken.fetch_update(Ordering::SeqCst, Ordering::SeqCst, add).ok()?;
        Some(Weight { bytes, budget: Arc::clone(self) })
    }

    /// Waits for room, until `must_end` returns that waiting is useless (see [`Budget::wake`]).
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

    /// Makes waiting threads check again.
    pub(super) fn wake(&self) {
        if self.waiters.load(Ordering::SeqCst) > 0 {
            // Taking the lock makes sure that each waiting thread has either not checked yet, or already waits.
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
