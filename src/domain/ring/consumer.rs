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

/// Reads records. There must be one a ring; two would confuse the producer, and nothing else.
#[derive(Debug)]
pub struct Consumer {
    channel: Channel,
    /// Where the next record starts.
    head: u64,
    /// What the producer knows of `head`; at most `head`.
    released: u64,
    /// The producer's last announcement; at least `head`, and at most the capacity beyond `released`.
    tail_seen: u64,
    corrupt: bool,
    /// `Send`, but not `Sync`.
    single: PhantomData<Cell<()>>,
}

impl Consumer {
    /// The consumer of a ring that nobody has used yet.
    ///
    /// # Errors
    /// `InvalidInput`: the specification is no ring within this region.
    pub fn new(region: &Arc<Region>, spec: RingSpec) -> io::Result<Self> {
        let channel = Channel::new(region, spec)?;
        Ok(Self { channel, head: 0, released: 0, tail_seen: 0, corrupt: false, single: PhantomData })
    }

    /// Copies the next record to the end of `into`; false if there is none. A hostile producer never runs out of
    /// records, so take a bounded number before doing something else.
    ///
    /// # Errors
    /// [`Corrupt`], now and ever after; `into` is as before.
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

    /// Whether there is nothing to pop. A corrupt ring is not empty: popping tells what is wrong.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.corrupt && self.head == self.tail_seen && self.channel.word(TAIL).load(Ordering::Acquire) == self.head
    }

    /// Gives the room of all popped records back to the producer, and wakes it if it waits in
    /// [`Producer::wait_room`](super::Producer::wait_room). Once a batch, because it is a fence and may be a system call.
    pub fn release(&mut self) {
        if self.release_told() {
            self.channel.wake(WAITING);
        }
    }

    /// [`Consumer::release`] for a producer that sleeps elsewhere. True: it has asked by
    /// [`Producer::await_room`](super::Producer::await_room), and the caller must wake it now; nobody else will.
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

    /// Whether so much has been popped that the producer should have the room back before the batch ends.
    #[must_use]
    pub fn owes_much(&self) -> bool {
        self.head - self.released >= self.channel.capacity() / 4
    }

    /// Says that this side is about to block. It must release what it popped and look at [`Consumer::is_empty`] after
    /// this and before it blocks.
    pub fn prepare_sleep(&self) {
        flag::raise(self.channel.word(ASLEEP));
    }

    /// Takes [`Consumer::prepare_sleep`] back.
    pub fn awake(&self) {
        flag::lower(self.channel.word(ASLEEP));
    }

    /// Releases what was popped, then waits until there is something to pop, at most `timeout`. True: there is.
    pub fn wait(&mut self, timeout: Duration) -> bool {
        // Else producer and consumer might wait for each other.
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

    /// Takes the producer's announcement in, if it is one that it can make: not behind its last, and not beyond the
    /// room it was given.
    fn look(&mut self) -> Result<(), Corrupt> {
        // Acquire: the records before `tail` are written when we read them.
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
