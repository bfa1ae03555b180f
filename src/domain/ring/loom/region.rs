//! A region as loom knows memory: atomics on the heap, and for each word a futex made of a lock and a condition variable.

use super::atomic::{AtomicU64, Ordering};
use super::spec::{DATA, WORD_BYTES};
use loom::sync::atomic::AtomicU8;
use loom::sync::{Condvar, Mutex, MutexGuard};
use std::io;
use std::ops::Range;
use std::sync::PoisonError;
use std::time::Duration;

/// The words of a pipe, whose futexes also come first (`stream::pipe::WORDS`).
const PIPE_WORDS: usize = 8;

/// Stands for the shared mapping. Waits have no time-out here: a lost wake is a deadlock, which loom reports.
#[derive(Debug)]
pub struct Region {
    words: Vec<AtomicU64>,
    /// The bytes after the words of a pipe. No memory is accessed both as words and as bytes.
    bytes: Vec<AtomicU8>,
    lock: Mutex<()>,
    signals: Vec<Condvar>,
}

impl Region {
    /// A new region of `bytes` bytes.
    ///
    /// # Errors
    /// There are none.
    pub fn create(bytes: usize) -> io::Result<Self> {
        let words = (0..bytes / WORD_BYTES).map(|_| AtomicU64::new(0)).collect();
        let signals = (0..DATA.max(PIPE_WORDS)).map(|_| Condvar::new()).collect();
        Ok(Self { words, bytes: Vec::new(), lock: Mutex::new(()), signals })
    }

    /// The memory of one pipe whose ring has `bytes` bytes.
    pub(in crate::domain) fn of_pipe(bytes: usize) -> Self {
        let region = Self::create((PIPE_WORDS + bytes.div_ceil(WORD_BYTES)) * WORD_BYTES);
        let bytes = (0..bytes).map(|_| AtomicU8::new(0)).collect();
        Self { bytes, ..region.unwrap_or_else(|error| panic!("{error}")) }
    }

    pub(in crate::domain) fn words(&self) -> &[AtomicU64] {
        &self.words
    }

    /// Like the real method.
    #[must_use]
    pub fn words_at(&self, first: usize, count: usize) -> Option<&[AtomicU64]> {
        self.words.get(first..first.checked_add(count)?)
    }

    fn byte(&self, offset: usize) -> &AtomicU8 {
        &self.bytes[offset - PIPE_WORDS * WORD_BYTES]
    }

    pub(in crate::domain) fn copy_in(&self, offset: usize, bytes: &[u8]) {
        for (at, byte) in bytes.iter().enumerate() {
            self.byte(offset + at).store(*byte, Ordering::Relaxed);
        }
    }

    pub(in crate::domain) fn write(&self, offset: usize, bytes: &[u8]) -> io::Result<()> {
        self.copy_in(offset, bytes);
        Ok(())
    }

    pub(in crate::domain) fn load_any(&self, range: Range<usize>) -> Vec<u8> {
        range.map(|at| self.byte(at).load(Ordering::Relaxed)).collect()
    }

    pub(in crate::domain) fn discard(&self, _range: Range<usize>) {}

    /// Like the kernel: compares under a lock that the waker takes, too.
    pub(in crate::domain) fn wait(&self, word: usize, expected: u64, _timeout: Duration) -> bool {
        let guard = self.lock();
        if self.words[word].load(Ordering::Relaxed) == expected {
            drop(self.signals[word].wait(guard).unwrap_or_else(PoisonError::into_inner));
        }
        true
    }

    pub(in crate::domain) fn wake(&self, word: usize) {
        let _guard = self.lock();
        self.signals[word].notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
