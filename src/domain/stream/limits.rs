//! How long calls may run, and how many threads streams may take.

use std::sync::atomic::{AtomicU64, Ordering};

/// Time limit of an ordinary handler, in milliseconds; 0: unknown.
static HANDLER_TIMEOUT_MS: AtomicU64 = AtomicU64::new(0);

/// Limit on the answers that a process streams at once from threads that other handlers need, too.
static BORROWED_THREADS_MAX: AtomicU64 = AtomicU64::new(1);

/// Sets the time limit of handlers whose route sets none, and the number of threads for handlers.
pub fn configure(handler_timeout_ms: u64, executors_max: usize) {
    HANDLER_TIMEOUT_MS.store(handler_timeout_ms, Ordering::Relaxed);
    BORROWED_THREADS_MAX.store((executors_max as u64 / 2).max(1), Ordering::Relaxed);
}

pub(super) fn handler_timeout_ms() -> u64 {
    HANDLER_TIMEOUT_MS.load(Ordering::Relaxed)
}

pub(super) fn borrowed_threads_max() -> u64 {
    BORROWED_THREADS_MAX.load(Ordering::Relaxed)
}
