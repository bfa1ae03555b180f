//! Limits on the unanswered questions of one process: the reader of the control connection waits while there are too many.
//!
//! No answer depends on this reader, so the wait always ends.

use super::lock;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// Limit on the jobs being created, each by a thread of its own.
const CREATING_MAX: usize = 64;
/// Limit on the questions of running jobs.
const RUNS_MAX: usize = 1024;

/// The limits of one process.
pub(super) struct Asked {
    pub(super) creating: Turnstile,
    pub(super) runs: Turnstile,
}

impl Asked {
    /// `bytes_max`: limit on all texts in questions of one kind; a single text may be larger.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { creating: Turnstile::new(CREATING_MAX, bytes_max), runs: Turnstile::new(RUNS_MAX, bytes_max) }
    }
}

/// A counting lock with a limit on entries and on bytes.
pub(super) struct Turnstile {
    inside: Arc<Inside>,
    count_max: usize,
    bytes_max: usize,
}

#[derive(Default)]
struct Inside {
    /// The number of entries, and their bytes.
    now: Mutex<(usize, usize)>,
    left: Condvar,
}

/// An entry, until it is dropped.
pub(super) struct Permit {
    inside: Arc<Inside>,
    bytes: usize,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut now = lock(&self.inside.now);
        now.0 -= 1;
        now.1 -= self.bytes;
        drop(now);
        self.inside.left.notify_all();
    }
}

impl Turnstile {
    fn new(count_max: usize, bytes_max: usize) -> Self {
        Self { inside: Arc::default(), count_max, bytes_max }
    }

    /// Waits until there is room for another entry of `bytes` bytes.
    pub(super) fn enter(&self, bytes: usize) -> Permit {
        let mut now = lock(&self.inside.now);
        while now.0 > 0 && (now.0 >= self.count_max || now.1.saturating_add(bytes) > self.bytes_max) {
            now = self.inside.left.wait(now).unwrap_or_else(PoisonError::into_inner);
        }
        now.0 += 1;
        now.1 += bytes;
        drop(now);
        Permit { inside: Arc::clone(&self.inside), bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn so_many_are_inside_at_a_time() {
        let turnstile = Arc::new(Turnstile::new(2, 100));
        let (first, second) = (turnstile.enter(500), turnstile.inside.now.lock().unwrap().0);
        assert_eq!(second, 1, "a large entry is alone");
        let entering = Arc::clone(&turnstile);
        let third = thread::spawn(move || entering.enter(1));
        drop(first);
        let third = third.join().unwrap();
        let fourth = turnstile.enter(99);
        assert_eq!(*turnstile.inside.now.lock().unwrap(), (2, 100));
        let entering = Arc::clone(&turnstile);
        let fifth = thread::spawn(move || drop(entering.enter(0)));
        drop((third, fourth));
        fifth.join().unwrap();
        assert_eq!(*turnstile.inside.now.lock().unwrap(), (0, 0));
    }
}
