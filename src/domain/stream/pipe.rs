//! One direction of a stream: a ring of bytes in memory that two processes may share, with one writer and one reader.
//!
//! Positions count bytes from the pipe's start and never wrap. The room in the ring is the writer's credit: the reader
//! gives bytes back by moving `HEAD`. Each side keeps its own positions in private memory and checks the other's: a
//! hostile peer can spoil the bytes it sends, and nothing else.
//!
//! Sleeping: a side raises its flag and then looks at the other's position once more; the other side stores its position
//! and then takes the flag (`ring::flag` explains the fences). So either the sleeper sees the change, or the other side
//! sees the flag and has to wake it.
//!
//! A writer that finds the ring empty begins at its first byte again: a stream whose reader keeps up touches few pages.

use crate::domain::ring::atomic::{AtomicU64, Ordering};
use crate::domain::ring::{Region, flag};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// Words of shared memory that steer a pipe: one cache line.
pub(in crate::domain) const WORDS: usize = 8;

/// The writer's position.
const TAIL: usize = 0;
/// The position whose byte lies at the start of the ring. The writer changes it only while the ring is empty.
const BASE: usize = 1;
/// The writer's last word: 0 while there may be more, [`END_CLEAN`], or [`END_FAILED`] and an errno.
const END: usize = 2;
/// The reader's position: bytes before it may be overwritten.
const HEAD: usize = 3;
/// The errno that the writer is told because the reader is gone; 0 while it reads.
const GONE: usize = 4;
/// Raised while the reader waits for bytes.
const READER: usize = 5;
/// Raised while the writer waits for room.
const WRITER: usize = 6;

/// Before the end of an answer with trailer fields: 1 more than the position where the body ends and they begin.
const TRAILERS: usize = 7;

/// Most bytes of trailer fields that are looked at.
const TRAILER_BYTES_MAX: usize = 8 * 1024;

const END_CLEAN: u64 = 1;
const END_FAILED: u64 = 2;

/// Where a pipe lies.
#[derive(Debug, Clone)]
pub(in crate::domain) struct Pipe {
    region: Arc<Region>,
    first_word: usize,
    data: Range<usize>,
}

/// The other side wrote a position that no honest one can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Corrupt;

impl Pipe {
    /// The pipe whose words begin at word `first_word`, and whose ring is the bytes `data`. `None`: they do not lie in the
    /// region, or the ring is empty or begins at no page.
    pub(in crate::domain) fn new(region: &Arc<Region>, first_word: usize, data: Range<usize>) -> Option<Self> {
        region.words_at(first_word, WORDS)?;
        region.words_at(data.start / 8, data.len().div_ceil(8))?;
        let valid = !data.is_empty() && data.start.is_multiple_of(8);
        valid.then(|| Self { region: Arc::clone(region), first_word, data })
    }

    fn word(&self, number: usize) -> &AtomicU64 {
        // `new` has found the words in the region.
        &self.region.words()[self.first_word + number]
    }

    /// Writes a word as a peer that breaks the rules does.
    #[cfg(any(test, fuzzing))]
    pub(in crate::domain) fn spoil(&self, word: usize, value: u64) {
        self.word(word % WORDS).store(value, Ordering::Relaxed);
    }

    /// Makes the pipe new: only while neither side uses it.
    pub(in crate::domain) fn reset(&self) {
        (0..WORDS).for_each(|number| self.word(number).store(0, Ordering::Release));
    }

    /// Gives the memory of the ring back to the kernel.
    pub(in crate::domain) fn discard(&self) {
        self.region.discard(self.data.clone());
    }

    pub(in crate::domain) fn capacity(&self) -> usize {
        self.data.len()
    }

    /// The writer's and the reader's positions, to see whether they move; they may be lies.
    pub(in crate::domain) fn positions(&self) -> (u64, u64) {
        (self.word(TAIL).load(Ordering::Relaxed), self.word(HEAD).load(Ordering::Relaxed))
    }

    /// Whether the reader (the writer) says that it waits.
    pub(in crate::domain) fn waits(&self) -> (bool, bool) {
        let waits = |number| self.word(number).load(Ordering::Relaxed) != 0;
        (waits(READER), waits(WRITER))
    }

    /// The reader wants no more: the writer is told `errno`.
    pub(in crate::domain) fn leave(&self, errno: i32) {
        let _ =
            self.word(GONE).compare_exchange(0, u64::from(errno.unsigned_abs()), Ordering::AcqRel, Ordering::Relaxed);
        if flag::take(self.word(WRITER)) {
            self.wake_writer();
        }
    }

    fn wake_writer(&self) {
        self.region.wake(self.first_word + WRITER);
    }

    fn wake_reader(&self) {
        self.region.wake(self.first_word + READER);
    }

    /// Sleeps until the flag `number`, which is raised, is taken; at most for `limit`.
    fn sleep(&self, number: usize, limit: Duration) {
        self.region.wait(self.first_word + number, flag::RAISED, limit);
    }

    /// The places of `count` bytes from `position` on, in two runs.
    fn runs(&self, position: u64, count: usize) -> [Range<usize>; 2] {
        let base = self.word(BASE).load(Ordering::Relaxed);
        self.runs_from(base, position, count)
    }

    fn runs_from(&self, base: u64, position: u64, count: usize) -> [Range<usize>; 2] {
        let capacity = self.capacity() as u64;
        let at = usize::try_from(position.wrapping_sub(base) % capacity).unwrap_or_default();
        let count = count.min(self.capacity());
        let first = count.min(self.capacity() - at);
        let start = self.data.start + at;
        [start..start + first, self.data.start..self.data.start + (count - first)]
    }
}

/// How a writer puts bytes into the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::domain) enum Copying {
    /// By the mapping: pages are there, or this process may end where there is no memory.
    Mapped,
    /// By `pwrite(2)`, which says so where there is no memory.
    Written,
}

/// Why nothing can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::domain) enum Closed {
    /// The reader is gone and says why, as an errno.
    Gone(i32),
    /// The reader breaks the rules.
    Corrupt,
}

/// The writing end.
#[derive(Debug)]
pub(in crate::domain) struct Writer {
    pipe: Pipe,
    tail: u64,
    base: u64,
    head: u64,
    ended: bool,
    copying: Copying,
    /// The position at the last look of [`Writer::rest`], and the one at which it gave the memory back last.
    looked_at: u64,
    rested_at: u64,
}

impl Writer {
    pub(in crate::domain) fn new(pipe: Pipe, copying: Copying) -> Self {
        Self { pipe, tail: 0, base: 0, head: 0, ended: false, copying, looked_at: 0, rested_at: 0 }
    }

    /// Bytes that can be written now.
    pub(in crate::domain) fn room(&mut self) -> Result<usize, Closed> {
        if self.ended {
            return Err(Closed::Gone(libc::EPIPE));
        }
        let gone = self.pipe.word(GONE).load(Ordering::Acquire);
        if gone != 0 {
            return Err(Closed::Gone(i32::try_from(gone).unwrap_or(libc::ECONNRESET)));
        }
        // Acquire: the reader's loads of the bytes before `head` come before our stores over them.
        let head = self.pipe.word(HEAD).load(Ordering::Acquire);
        if head < self.head || head > self.tail {
            return Err(Closed::Corrupt);
        }
        self.head = head;
        if head == self.tail && self.base != self.tail {
            self.base = self.tail;
            // Seen by the reader with the next `TAIL`: until then it has nothing to look for.
            self.pipe.word(BASE).store(self.base, Ordering::Relaxed);
        }
        Ok(self.pipe.capacity() - usize::try_from(self.tail - head).unwrap_or(self.pipe.capacity()))
    }

    /// Writes as many of `bytes` as there is room for. Returns how many.
    ///
    /// # Errors
    /// [`Closed`], or there is no memory: that is [`Closed::Gone`] with `ENOMEM`.
    pub(in crate::domain) fn put(&mut self, bytes: &[u8]) -> Result<usize, Closed> {
        let count = bytes.len().min(self.room()?);
        let mut rest = bytes.get(..count).unwrap_or_default();
        for run in self.pipe.runs_from(self.base, self.tail, count) {
            let (now, later) = rest.split_at_checked(run.len()).unwrap_or((rest, &[]));
            match self.copying {
                Copying::Mapped => self.pipe.region.copy_in(run.start, now),
                Copying::Written => {
                    self.pipe.region.write(run.start, now).map_err(|_| Closed::Gone(libc::ENOMEM))?;
                }
            }
            rest = later;
        }
        self.tail += count as u64;
        if count > 0 {
            // Release: the bytes, and `BASE`, come before it.
            self.pipe.word(TAIL).store(self.tail, Ordering::Release);
        }
        Ok(count)
    }

    /// Gives the memory of the ring back if nothing was written since the last call and the reader has taken all: what is
    /// written next needs a page again.
    pub(in crate::domain) fn rest(&mut self) {
        let before = std::mem::replace(&mut self.looked_at, self.tail);
        let is_at_rest = self.tail == before && self.tail != self.rested_at;
        if is_at_rest && self.room() == Ok(self.pipe.capacity()) {
            self.pipe.discard();
            self.rested_at = self.tail;
        }
    }

    /// What is written from here on are trailer fields.
    pub(in crate::domain) fn trailers_follow(&self) {
        // Seen by the reader with the `TAIL` that has the first of their bytes.
        self.pipe.word(TRAILERS).store(self.tail + 1, Ordering::Relaxed);
    }

    /// Nothing more is written; `errno`: because something failed. Only the first call counts.
    pub(in crate::domain) fn end(&mut self, errno: Option<i32>) {
        if !std::mem::replace(&mut self.ended, true) {
            let code = errno.map_or(END_CLEAN, |errno| END_FAILED + u64::from(errno.unsigned_abs()));
            self.pipe.word(END).store(code, Ordering::Release);
        }
    }

    /// Nothing more is written, and the reader learns elsewhere that this is not the end.
    pub(in crate::domain) fn abandon(&mut self) {
        self.ended = true;
    }

    /// After [`Writer::put`] or [`Writer::end`]: whether the reader sleeps, which the caller must wake now.
    #[must_use]
    pub(in crate::domain) fn take_reader(&self) -> bool {
        flag::take(self.pipe.word(READER))
    }

    /// Wakes a reader that sleeps in [`Reader::sleep`], if it does.
    pub(in crate::domain) fn wake_reader(&self) {
        if self.take_reader() {
            self.pipe.wake_reader();
        }
    }

    /// Says that this side waits for room: look once more after it.
    pub(in crate::domain) fn await_room(&self) {
        flag::raise(self.pipe.word(WRITER));
    }

    /// This side does not wait any more.
    pub(in crate::domain) fn awake(&self) {
        flag::lower(self.pipe.word(WRITER));
    }

    /// Sleeps after [`Writer::await_room`] until the reader has made room, or for `limit`.
    pub(in crate::domain) fn sleep(&self, limit: Duration) {
        self.pipe.sleep(WRITER, limit);
    }
}

/// What a reader finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::domain) enum Peek {
    /// So many bytes.
    Bytes(usize),
    /// None yet.
    Empty,
    /// None any more.
    Ended,
    /// None any more, because something failed: an errno.
    Failed(i32),
}

/// The reading end.
#[derive(Debug)]
pub(in crate::domain) struct Reader {
    pipe: Pipe,
    /// Position of the next byte to be taken.
    at: u64,
    tail: u64,
    /// Where the body ends and trailer fields begin, once that is known.
    body_end: Option<u64>,
}

impl Reader {
    pub(in crate::domain) fn new(pipe: Pipe) -> Self {
        Self { pipe, at: 0, tail: 0, body_end: None }
    }

    pub(in crate::domain) fn pipe(&self) -> &Pipe {
        &self.pipe
    }

    /// Position of the next byte.
    pub(in crate::domain) fn at(&self) -> u64 {
        self.at
    }

    /// What there is; `released` is the position that was given back last.
    pub(super) fn peek(&mut self, released: u64) -> Result<Peek, Corrupt> {
        // Before the position: bytes that came before the end are not lost.
        let end = self.pipe.word(END).load(Ordering::Acquire);
        let tail = self.pipe.word(TAIL).load(Ordering::Acquire);
        if tail < self.tail || tail.wrapping_sub(released) > self.pipe.capacity() as u64 {
            return Err(Corrupt);
        }
        self.tail = tail;
        let trailers = self.pipe.word(TRAILERS).load(Ordering::Relaxed);
        // A position behind `tail` was stored after that was loaded: bytes before it are still to come. Once bytes behind it
        // are seen, so is the position, which the writer stores first.
        if let Some(body_end) = trailers.checked_sub(1).filter(|end| *end <= tail && self.body_end.is_none()) {
            if body_end < self.at {
                return Err(Corrupt);
            }
            self.body_end = Some(body_end);
        }
        Ok(match (usize::try_from(self.stop().saturating_sub(self.at)).unwrap_or_default(), end) {
            (0, 0) => Peek::Empty,
            (0, END_CLEAN) => Peek::Ended,
            (0, code) => Peek::Failed(i32::try_from(code.saturating_sub(END_FAILED)).unwrap_or(libc::EIO)),
            (count, _) => Peek::Bytes(count),
        })
    }

    /// The end of the bytes of the body that are there.
    fn stop(&self) -> u64 {
        self.body_end.unwrap_or(self.tail)
    }

    /// The trailer fields of an answer, after [`Peek::Ended`].
    pub(in crate::domain) fn trailers(&self) -> Vec<u8> {
        let count = self.body_end.and_then(|from| usize::try_from(self.tail.saturating_sub(from)).ok());
        let count = count.unwrap_or_default().min(TRAILER_BYTES_MAX);
        let runs = self.pipe.runs(self.at, count);
        runs.into_iter().flat_map(|run| self.pipe.region.load_any(run)).collect()
    }

    /// The place of the next bytes, of at most `count`, in one piece; they are taken.
    pub(in crate::domain) fn take(&mut self, count: usize) -> Range<usize> {
        let count = count.min(usize::try_from(self.stop().saturating_sub(self.at)).unwrap_or_default());
        let [first, _] = self.pipe.runs(self.at, count);
        self.at += first.len() as u64;
        first
    }

    /// Says that this side waits for bytes: look once more after it.
    pub(in crate::domain) fn await_bytes(&self) {
        flag::raise(self.pipe.word(READER));
    }

    /// This side does not wait any more.
    pub(in crate::domain) fn awake(&self) {
        flag::lower(self.pipe.word(READER));
    }

    /// Sleeps after [`Reader::await_bytes`] until something has been written, or for `limit`.
    pub(in crate::domain) fn sleep(&self, limit: Duration) {
        self.pipe.sleep(READER, limit);
    }

    /// Gives the bytes before `position` back. True: the writer sleeps elsewhere, and the caller must wake it now; a writer
    /// that sleeps in [`Writer::sleep`] is woken with `wake`. It is told once much of the ring is free, not for each byte.
    #[must_use]
    pub(in crate::domain) fn release(&self, position: u64, wake: bool) -> bool {
        // Release: our loads of the bytes come before the writer's stores over them.
        self.pipe.word(HEAD).store(position, Ordering::Release);
        release_told(&self.pipe, self.tail, position, wake)
    }
}

/// Whether the writer has to be woken, now that the bytes before `head` are given back.
pub(super) fn release_told(pipe: &Pipe, tail: u64, head: u64, wake: bool) -> bool {
    let much = tail.saturating_sub(head) <= pipe.capacity() as u64 / 2;
    if !much || !flag::take(pipe.word(WRITER)) {
        return false;
    }
    if wake {
        pipe.wake_writer();
    }
    true
}

/// Gives the bytes before `position` back, for a piece that outlives the reader's call. As [`Reader::release`].
pub(super) fn give_back(pipe: &Pipe, position: u64) -> bool {
    pipe.word(HEAD).store(position, Ordering::Release);
    let tail = pipe.word(TAIL).load(Ordering::Relaxed);
    release_told(pipe, tail, position, true)
}

/// The memory behind a place that [`Reader::take`] gave.
pub(in crate::domain) fn memory(pipe: &Pipe) -> &Region {
    &pipe.region
}
