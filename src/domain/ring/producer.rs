//! The writing side of a ring.

use super::atomic::Ordering;
use super::channel::Channel;
use super::copy::Gather;
use super::spec::{ASLEEP, HEAD, RingSpec, TAIL, WAITING};
use super::{Corrupt, Region, flag};
use std::cell::Cell;
use std::io;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The reason why a record did not enter the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// There is no room until the consumer releases some.
    #[error("the shared memory ring is full")]
    Full,
    /// The record is longer than [`RingSpec::record_bytes_max`] and never fits.
    #[error("the record is too large for the shared memory ring")]
    TooLarge,
    /// The consumer's announcement is impossible. The ring is unusable.
    #[error("{Corrupt}")]
    Corrupt,
}

/// Writes records. A ring must have only one producer; a second one would garble the records, but nothing else.
#[derive(Debug)]
pub struct Producer {
    channel: Channel,
    /// The position of the next record.
    tail: u64,
    /// The position up to which the consumer may read; at most `tail`.
    published: u64,
    /// The consumer's last announcement; at most `published`, and at most the capacity behind `tail`.
    head_seen: u64,
    corrupt: bool,
    /// `Send`, but not `Sync`.
    single: PhantomData<Cell<()>>,
}

impl Producer {
    /// The producer of an unused ring.
    ///
    /// # Errors
    /// `InvalidInput`: the specification is not a valid ring within this region.
    pub fn new(region: &Arc<Region>, spec: RingSpec) -> io::Result<Self> {
        let channel = Channel::new(region, spec)?;
        Ok(Self { channel, tail: 0, published: 0, head_seen: 0, corrupt: false, single: PhantomData })
    }

    /// Appends the record formed by all `parts`. The consumer sees it after [`Producer::publish`].
    ///
    /// # Errors
    /// [`PushError`]; the ring is unchanged.
    pub fn try_push(&mut self, parts: &[&[u8]]) -> Result<(), PushError> {
        let bytes = parts.iter().fold(0, |sum: usize, part| sum.saturating_add(part.len()));
        if bytes > self.channel.record_bytes_max {
            return Err(PushError::TooLarge);
        }
        let words = RingSpec::record_words(bytes) as u64;
        if self.corrupt {
            return Err(PushError::Corrupt);
        }
        if self.room() < words {
            self.look()?;
            if self.room() < words {
                return Err(PushError::Full);
            }
        }
        let mut gather = Gather::new(self.channel.data(), self.channel.index(self.tail));
        gather.part(&super::spec::record_header(self.tail, bytes));
        for part in parts {
            gather.part(part);
        }
        gather.finish();
        self.tail += words;
        Ok(())
    }

    /// Whether [`Producer::publish`] has nothing to publish.
    #[must_use]
    pub fn is_published(&self) -> bool {
        self.published == self.tail
    }

    /// Makes all pushed records visible. Returns true if the consumer sleeps; the caller must then wake it, by
    /// [`Producer::wake`] or by the other means that it waits for, since no other thread will.
    #[must_use = "a sleeping consumer must be woken"]
    pub fn publish(&mut self) -> bool {
        if self.published == self.tail {
            return false;
        }
        self.published = self.tail;
        self.channel.word(TAIL).store(self.tail, Ordering::Release);
        flag::take(self.channel.word(ASLEEP))
    }

    /// Wakes a consumer that waits in [`Consumer::wait`](super::Consumer::wait).
    pub fn wake(&self) {
        self.channel.wake(ASLEEP);
    }

    /// Waits at most `timeout` until a record of `bytes` bytes may fit. The caller must publish first, since unpublished
    /// records can't be consumed. Returns true if the caller should try again (also on a ring that is found corrupt).
    pub fn wait_room(&mut self, bytes: usize, timeout: Duration) -> bool {
        let start = Instant::now();
        while !self.ready(bytes) {
            flag::raise(self.channel.word(WAITING));
            let waited = self.ready(bytes)
                || timeout
                    .checked_sub(start.elapsed())
                    .is_some_and(|left| self.channel.wait(WAITING, flag::RAISED, left));
            flag::lower(self.channel.word(WAITING));
            if !waited {
                return self.ready(bytes);
            }
        }
        true
    }

    /// For a producer that sleeps elsewhere: returns whether a record of `bytes` bytes may fit now. If not, the consumer's
    /// next [`Consumer::release_told`](super::Consumer::release_told) reports that this side must be woken. The caller must
    /// publish first, since unpublished records can't be consumed.
    #[must_use = "without room the caller must wait to be woken"]
    pub fn await_room(&mut self, bytes: usize) -> bool {
        if self.ready(bytes) {
            return true;
        }
        flag::raise(self.channel.word(WAITING));
        // The second look: the consumer may have checked the flag before it was raised.
        let ready = self.ready(bytes);
        if ready {
            flag::lower(self.channel.word(WAITING));
        }
        ready
    }

    /// Whether [`Producer::try_push`] would return something other than `Full`.
    fn ready(&mut self, bytes: usize) -> bool {
        let words = RingSpec::record_words(bytes) as u64;
        bytes > self.channel.record_bytes_max || self.room() >= words || self.look().is_err() || self.room() >= words
    }

    /// The known number of free words.
    fn room(&self) -> u64 {
        self.channel.capacity() - (self.tail - self.head_seen)
    }

    /// Takes in the consumer's announcement if it is plausible: not before its last one, and not beyond the published
    /// records.
    fn look(&mut self) -> Result<(), PushError> {
        // Acquire: the consumer has read the words before `head` when we overwrite them.
        let head = self.channel.word(HEAD).load(Ordering::Acquire);
        if self.corrupt || !(self.head_seen..=self.published).contains(&head) {
            self.corrupt = true;
            return Err(PushError::Corrupt);
        }
        self.head_seen = head;
        Ok(())
    }
}
