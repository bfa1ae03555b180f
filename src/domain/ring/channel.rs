//! The data that both sides of a ring share: the region and the positions of the ring's words.

use super::atomic::AtomicU64;
use super::region::Region;
use super::spec::{DATA, RingSpec, WORD_BYTES};
use std::io;
use std::sync::Arc;
use std::time::Duration;

#[derive(Debug)]
pub(super) struct Channel {
    region: Arc<Region>,
    /// Index in the region of the ring's first word.
    base: usize,
    /// A power of two.
    data_words: usize,
    pub(super) record_bytes_max: usize,
}

impl Channel {
    pub(super) fn new(region: &Arc<Region>, spec: RingSpec) -> io::Result<Self> {
        spec.check(region.words().len() * WORD_BYTES)?;
        Ok(Self {
            region: Arc::clone(region),
            base: spec.offset / WORD_BYTES,
            data_words: spec.data_bytes / WORD_BYTES,
            record_bytes_max: spec.record_bytes_max(),
        })
    }

    /// A header word: one of the constants of `spec`.
    pub(super) fn word(&self, word: usize) -> &AtomicU64 {
        &self.region.words()[self.base + word]
    }

    /// The circular area; its length is a power of two.
    pub(super) fn data(&self) -> &[AtomicU64] {
        let first = self.base + DATA;
        &self.region.words()[first..first + self.data_words]
    }

    /// The capacity of the ring, in words.
    pub(super) fn capacity(&self) -> u64 {
        self.data_words as u64
    }

    /// The index in [`Channel::data`] of the word at `position`.
    pub(super) fn index(&self, position: u64) -> usize {
        // The result is less than `data_words`, so the cast loses nothing.
        (position & (self.data_words as u64 - 1)) as usize
    }

    pub(super) fn wait(&self, word: usize, expected: u64, timeout: Duration) -> bool {
        self.region.wait(self.base + word, expected, timeout)
    }

    pub(super) fn wake(&self, word: usize) {
        self.region.wake(self.base + word);
    }
}
