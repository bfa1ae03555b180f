//! A region as loom knows memory: atomics on the heap, and a futex made of a lock and a condition variable a word.

use super::atomic::{AtomicU64, Ordering};
use super::spec::{DATA, WORD_BYTES};
use loom::sync::{Condvar, Mutex, MutexGuard};
use std::io;
use std::sync::PoisonError;
use std::time::Duration;

/// Stands for the shared mapping. Waits have no time-out here: a lost wake is a deadlock, which loom reports.
#[derive(Debug)]
pub struct Region {
    words: Vec<AtomicU64>,
    lock: Mutex<()>,
    signals: Vec<Condvar>,
}

impl Region {
    /// A new region of `bytes` bytes.
    ///
    /// # Errors
    /// None.
    pub fn create(bytes: usize) -> io::Result<Self> {
        let words = (0..bytes / WORD_BYTES).map(|_| AtomicU64::new(0)).collect();
        let signals = (0..DATA).map(|_| Condvar::new()).collect();
        Ok(Self { words, lock: Mutex::new(()), signals })
    }

    pub(super) fn words(&self) -> &[AtomicU64] {
        &self.words
    }

    /// As the kernel does it: compares under a lock that the waker takes too.
    pub(super) fn wait(&self, word: usize, expected: u64, _timeout: Duration) -> bool {
        let guard = self.lock();
        if self.words[word].load(Ordering::Relaxed) == expected {
            drop(self.signals[word].wait(guard).unwrap_or_else(PoisonError::into_inner));
        }
        true
    }

    pub(super) fn wake(&self, word: usize) {
        let _guard = self.lock();
        self.signals[word].notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
