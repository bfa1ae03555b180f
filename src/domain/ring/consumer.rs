//! The reading side of a ring.

use super::atomic::Ordering;
use super::channel::Channel;
use super::copy::scatter;
use super::spec::{ASLEEP, HEAD, RingSpec, TAIL, WAITING, record_bytes};
use super::{Corrupt, Region, flag};
use std::cell::Cell;
use std::io;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Reads records. A ring must have only one consumer; a second one would confuse the producer, but nothing else.
#[derive(Debug)]
pub struct Consumer {
    channel: Channel,
    /// The position of the next record.
    head: u64,
    /// The value of `head` that the producer knows; at most `head`.
    released: u64,
    /// The producer's last announcement; at least `head`, and at most the capacity beyond `released`.
    tail_seen: u64,
    corrupt: bool,
    /// `Send`, but not `Sync`.
    single: PhantomData<Cell<()>>,
}

impl Consumer {
    /// The consumer of an unused ring.
    ///
    /// # Errors
    /// `InvalidInput`: the specification is not a valid ring within this region.
    pub fn new(region: &Arc<Region>, spec: RingSpec) -> io::Result<Self> {
        let channel = Channel::new(region, spec)?;
        Ok(Self { channel, head: 0, released: 0, tail_seen: 0, corrupt: false, single: PhantomData })
    }

    /// Copies the next record to the end of `into`; returns false if there is none. A hostile producer can publish without
    /// end, so the caller must bound the number of records that it takes in one turn.
    ///
    /// # Errors
    /// [`Corrupt`], now and on every later call; `into` is unchanged.
    pub fn try_pop(&mut self, into: &mut Vec<u8>) -> Result<bool, Corrupt> {
        if self.corrupt {
            return Err(Corrupt);
        }
        if self.head == self.tail_seen {
            self.look()?;
            if self.head == self.tail_seen {
                return Ok(false);
            }
        }
        let data = self.channel.data();
        let header = data[self.channel.index(self.head)].load(Ordering::Relaxed);
        let bytes = record_bytes(self.head, header).filter(|&bytes| bytes <= self.channel.record_bytes_max);
        let Some(bytes) = bytes else { return self.spoil() };
        let words = RingSpec::record_words(bytes) as u64;
        if words > self.tail_seen - self.head {
            return self.spoil();
        }
        scatter(data, self.channel.index(self.head + 1), bytes, into);
        self.head += words;
        Ok(true)
    }

    /// Whether there is nothing to pop. A corrupt ring is not empty: popping reports the error.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.corrupt && self.head == self.tail_seen && self.channel.word(TAIL).load(Ordering::Acquire) == self.head
    }

    /// Returns the room of all popped records to the producer, and wakes it if it waits in
    /// [`Producer::wait_room`](super::Producer::wait_room). Called once a batch, because it includes a fence and may
    /// include a system call.
    pub fn release(&mut self) {
        if self.release_told() {
            self.channel.wake(WAITING);
        }
    }

    /// Like [`Consumer::release`], for a producer that sleeps elsewhere. Returns true if the producer has asked for a wake
    /// with [`Producer::await_room`](super::Producer::await_room); the caller must then wake it, since no other thread
    /// will.
    #[must_use = "a producer that waits for room must be woken"]
    pub fn release_told(&mut self) -> bool {
        if self.released == self.head {
            return false;
        }
        self.released = self.head;
        // Release: our loads of the words come before the producer's stores into them.
        self.channel.word(HEAD).store(self.head, Ordering::Release);
        flag::take(self.channel.word(WAITING))
    }

    /// Whether so much was popped that the producer should get the room back before the end of the batch.
    #[must_use]
    pub fn owes_much(&self) -> bool {
        self.head - self.released >= self.channel.capacity() / 4
    }

    /// Announces that this side is about to block. After this call and before it blocks, the caller must release what it
    /// popped and check [`Consumer::is_empty`] again.
    pub fn prepare_sleep(&self) {
        flag::raise(self.channel.word(ASLEEP));
    }

    /// Reverts [`Consumer::prepare_sleep`].
    pub fn awake(&self) {
        flag::lower(self.channel.word(ASLEEP));
    }

    /// Releases popped records, then waits at most `timeout` for a record. Returns whether there is one.
    pub fn wait(&mut self, timeout: Duration) -> bool {
        // Without this release, producer and consumer could wait for each other.
        self.release();
        if !self.is_empty() {
            return true;
        }
        let start = Instant::now();
        loop {
            self.prepare_sleep();
            let waited = !self.is_empty()
                || timeout
                    .checked_sub(start.elapsed())
                    .is_some_and(|left| self.channel.wait(ASLEEP, flag::RAISED, left));
            self.awake();
            if !waited || !self.is_empty() {
                return !self.is_empty();
            }
        }
    }

    /// Takes in the producer's announcement if it is plausible: not before its last one, and not beyond its room.
    fn look(&mut self) -> Result<(), Corrupt> {
        // Acquire: the records before `tail` are completely written when we read them.
        let tail = self.channel.word(TAIL).load(Ordering::Acquire);
        if !(self.head..=self.released + self.channel.capacity()).contains(&tail) {
            return self.spoil().map(|_| ());
        }
        self.tail_seen = tail;
        Ok(())
    }

    fn spoil(&mut self) -> Result<bool, Corrupt> {
        self.corrupt = true;
        Err(Corrupt)
    }
}
