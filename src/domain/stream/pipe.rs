//! One direction of a stream: a ring of bytes in memory that two processes may share, with one writer and one reader.
//!
//! Positions count bytes from the pipe's start and never wrap. The room in the ring is the writer's credit: the reader
//! returns bytes by moving `HEAD`. Each side keeps its own positions in private memory and checks those of the other
//! side. A hostile peer can corrupt only the bytes that it sends.
//!
//! To sleep, a side raises its flag and then looks at the other side's position again. The other side stores its position
//! and then takes the flag (`ring::flag` explains the fences). So either the sleeper sees the change, or the other side
//! sees the flag and must wake it.
//!
//! When a writer finds the ring empty, it starts at the ring's first byte again: a stream with a fast reader touches few
//! pages.

use crate::domain::ring::atomic::{AtomicU64, Ordering};
use crate::domain::ring::{Region, flag};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// The control words of a pipe: one cache line.
pub(in crate::domain) const WORDS: usize = 8;

/// The writer's position.
const TAIL: usize = 0;
/// The position of the byte at the start of the ring. The writer changes it only while the ring is empty.
const BASE: usize = 1;
/// The writer's end mark: 0 while more may follow, [`END_CLEAN`], or [`END_FAILED`] plus an errno.
const END: usize = 2;
/// The reader's position: bytes before it may be overwritten.
const HEAD: usize = 3;
/// The errno for the writer after the reader has gone; 0 while it reads.
const GONE: usize = 4;
/// Raised while the reader waits for bytes.
const READER: usize = 5;
/// Raised while the writer waits for room.
const WRITER: usize = 6;

/// Set before the end of an answer with trailer fields: 1 more than the position at which the body ends and the fields
/// begin.
const TRAILERS: usize = 7;

/// Limit, in bytes, on the trailer fields that are read.
const TRAILER_BYTES_MAX: usize = 8 * 1024;

const END_CLEAN: u64 = 1;
const END_FAILED: u64 = 2;

/// The position of a pipe in a region.
#[derive(Debug, Clone)]
pub(in crate::domain) struct Pipe {
    region: Arc<Region>,
    first_word: usize,
    data: Range<usize>,
}

/// The other side wrote a position that an honest peer can't have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Corrupt;

impl Pipe {
    /// The pipe with its words from word `first_word` on, and the bytes `data` as its ring. `None`: these do not lie in the
    /// region, or the ring is empty or does not begin at a page.
    pub(in crate::domain) fn new(region: &Arc<Region>, first_word: usize, data: Range<usize>) -> Option<Self> {
        region.words_at(first_word, WORDS)?;
        region.words_at(data.start / 8, data.len().div_ceil(8))?;
        let valid = !data.is_empty() && data.start.is_multiple_of(8);
        valid.then(|| Self { region: Arc::clone(region), first_word, data })
    }

    fn word(&self, number: usize) -> &AtomicU64 {
        // `new` has checked that the words lie in the region.
        &self.region.words()[self.first_word + number]
    }

    /// Writes a word, like a peer that breaks the protocol.
    #[cfg(any(test, fuzzing))]
    pub(in crate::domain) fn spoil(&self, word: usize, value: u64) {
        self.word(word % WORDS).store(value, Ordering::Relaxed);
    }

    /// Resets the pipe; only valid while neither side uses it.
    pub(in crate::domain) fn reset(&self) {
        (0..WORDS).for_each(|number| self.word(number).store(0, Ordering::Release));
    }

    /// Returns the memory of the ring to the kernel.
    pub(in crate::domain) fn discard(&self) {
        self.region.discard(self.data.clone());
    }

    pub(in crate::domain) fn capacity(&self) -> usize {
        self.data.len()
    }

    /// The writer's and the reader's positions, to detect progress. Both values are untrusted.
    pub(in crate::domain) fn positions(&self) -> (u64, u64) {
        (self.word(TAIL).load(Ordering::Relaxed), self.word(HEAD).load(Ordering::Relaxed))
    }

    /// Whether the reader, and the writer, have announced that they wait.
    pub(in crate::domain) fn waits(&self) -> (bool, bool) {
        let waits = |number| self.word(number).load(Ordering::Relaxed) != 0;
        (waits(READER), waits(WRITER))
    }

    /// Ends the reading: the writer gets `errno`.
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

    /// Sleeps until the raised flag `number` is taken, at most for `limit`.
    fn sleep(&self, number: usize, limit: Duration) {
        self.region.wait(self.first_word + number, flag::RAISED, limit);
    }

    /// The ranges of `count` bytes from `position` on, in two runs.
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

/// The way in which a writer copies bytes into the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::domain) enum Copying {
    /// Through the mapping: the pages exist, or this process may end if there is no memory.
    Mapped,
    /// By `pwrite(2)`, which reports a lack of memory.
    Written,
}

/// The reason why writing is impossible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::domain) enum Closed {
    /// The reader has gone; the errno is its reason.
    Gone(i32),
    /// The reader breaks the protocol.
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
    /// The position at the last call of [`Writer::rest`], and the position at which memory was last returned.
    looked_at: u64,
    rested_at: u64,
}

impl Writer {
    pub(in crate::domain) fn new(pipe: Pipe, copying: Copying) -> Self {
        Self { pipe, tail: 0, base: 0, head: 0, ended: false, copying, looked_at: 0, rested_at: 0 }
    }

    /// The number of bytes that can be written now.
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
            // The reader sees this with the next `TAIL`; until then it has no bytes to look for.
            self.pipe.word(BASE).store(self.base, Ordering::Relaxed);
        }
        Ok(self.pipe.capacity() - usize::try_from(self.tail - head).unwrap_or(self.pipe.capacity()))
    }

    /// Writes as many of `bytes` as fit, and returns their number.
    ///
    /// # Errors
    /// [`Closed`]; a lack of memory is [`Closed::Gone`] with `ENOMEM`.
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
            // Release: the stores of the bytes, and of `BASE`, come before this one.
            self.pipe.word(TAIL).store(self.tail, Ordering::Release);
        }
        Ok(count)
    }

    /// Returns the memory of the ring to the kernel if nothing was written since the last call and the reader has taken
    /// everything. The next write needs a new page.
    pub(in crate::domain) fn rest(&mut self) {
        let before = std::mem::replace(&mut self.looked_at, self.tail);
        let is_at_rest = self.tail == before && self.tail != self.rested_at;
        if is_at_rest && self.room() == Ok(self.pipe.capacity()) {
            self.pipe.discard();
            self.rested_at = self.tail;
        }
    }

    /// Marks all further bytes as trailer fields.
    pub(in crate::domain) fn trailers_follow(&self) {
        // The reader sees this with the `TAIL` that covers the first of these bytes.
        self.pipe.word(TRAILERS).store(self.tail + 1, Ordering::Relaxed);
    }

    /// Ends the writing; with `errno` as a failure. Calls after the first have no effect.
    pub(in crate::domain) fn end(&mut self, errno: Option<i32>) {
        if !std::mem::replace(&mut self.ended, true) {
            let code = errno.map_or(END_CLEAN, |errno| END_FAILED + u64::from(errno.unsigned_abs()));
            self.pipe.word(END).store(code, Ordering::Release);
        }
    }

    /// Ends the writing without an end mark; the reader learns in another way that the stream is incomplete.
    pub(in crate::domain) fn abandon(&mut self) {
        self.ended = true;
    }

    /// After [`Writer::put`] or [`Writer::end`]: whether the reader sleeps; the caller must then wake it.
    #[must_use]
    pub(in crate::domain) fn take_reader(&self) -> bool {
        flag::take(self.pipe.word(READER))
    }

    /// Wakes a reader that sleeps in [`Reader::sleep`].
    pub(in crate::domain) fn wake_reader(&self) {
        if self.take_reader() {
            self.pipe.wake_reader();
        }
    }

    /// Announces that this side waits for room; the caller must look once more afterwards.
    pub(in crate::domain) fn await_room(&self) {
        flag::raise(self.pipe.word(WRITER));
    }

    /// Reverts [`Writer::await_room`].
    pub(in crate::domain) fn awake(&self) {
        flag::lower(self.pipe.word(WRITER));
    }

    /// After [`Writer::await_room`]: sleeps until the reader has made room, or for `limit`.
    pub(in crate::domain) fn sleep(&self, limit: Duration) {
        self.pipe.sleep(WRITER, limit);
    }
}

/// The state of a pipe for its reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::domain) enum Peek {
    /// This many bytes are available.
    Bytes(usize),
    /// No bytes yet.
    Empty,
    /// The end of the stream.
    Ended,
    /// The end because of a failure, with its errno.
    Failed(i32),
}

/// The reading end.
#[derive(Debug)]
pub(in crate::domain) struct Reader {
    pipe: Pipe,
    /// The position of the next byte.
    at: u64,
    tail: u64,
    /// The position at which the body ends and trailer fields begin, once it is known.
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

    /// The available bytes; `released` is the position that was returned last.
    pub(super) fn peek(&mut self, released: u64) -> Result<Peek, Corrupt> {
        // The end mark is read before the position, so that bytes before the end are not lost.
        let end = self.pipe.word(END).load(Ordering::Acquire);
        let tail = self.pipe.word(TAIL).load(Ordering::Acquire);
        if tail < self.tail || tail.wrapping_sub(released) > self.pipe.capacity() as u64 {
            return Err(Corrupt);
        }
        self.tail = tail;
        let trailers = self.pipe.word(TRAILERS).load(Ordering::Relaxed);
        // A trailer position beyond `tail` was stored after `tail` was loaded, so body bytes before it are still to come.
        // The writer stores the trailer position first, so a reader that sees bytes after it also sees the position.
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

    /// The end of the available body bytes.
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

    /// Takes the next bytes, at most `count` and contiguous, and returns their range.
    pub(in crate::domain) fn take(&mut self, count: usize) -> Range<usize> {
        let count = count.min(usize::try_from(self.stop().saturating_sub(self.at)).unwrap_or_default());
        let [first, _] = self.pipe.runs(self.at, count);
        self.at += first.len() as u64;
        first
    }

    /// Announces that this side waits for bytes; the caller must look once more afterwards.
    pub(in crate::domain) fn await_bytes(&self) {
        flag::raise(self.pipe.word(READER));
    }

    /// Reverts [`Reader::await_bytes`].
    pub(in crate::domain) fn awake(&self) {
        flag::lower(self.pipe.word(READER));
    }

    /// After [`Reader::await_bytes`]: sleeps until bytes were written, or for `limit`.
    pub(in crate::domain) fn sleep(&self, limit: Duration) {
        self.pipe.sleep(READER, limit);
    }

    /// Returns the bytes before `position` to the writer. Returns true if the writer sleeps elsewhere and the caller must
    /// wake it; with `wake`, this function wakes a writer that sleeps in [`Writer::sleep`]. The writer is notified once
    /// half of the ring is free, not for each byte.
    #[must_use]
    pub(in crate::domain) fn release(&self, position: u64, wake: bool) -> bool {
        // Release: our loads of the bytes come before the writer's stores over them.
        self.pipe.word(HEAD).store(position, Ordering::Release);
        release_told(&self.pipe, self.tail, position, wake)
    }
}

/// Whether the writer must be woken after the bytes before `head` were returned.
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

/// Like [`Reader::release`], for a piece that outlives the reader's call.
pub(super) fn give_back(pipe: &Pipe, position: u64) -> bool {
    pipe.word(HEAD).store(position, Ordering::Release);
    let tail = pipe.word(TAIL).load(Ordering::Relaxed);
    release_told(pipe, tail, position, true)
}

/// The memory of a range that [`Reader::take`] returned.
pub(in crate::domain) fn memory(pipe: &Pipe) -> &Region {
    &pipe.region
}
