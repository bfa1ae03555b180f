//! Large bodies that are passed by reference: the memory beside the rings.
//!
//! Each side lends extents of its own part of the memory and writes a body to each; the record in the ring only names
//! the place. The other side reads the body there and reports when it has finished. Only the lender knows what is
//! allocated, in private memory. A hostile domain can name any place, but that affects only the bytes of its own
//! answers.
//!
//! The memory is sparse: address space is plentiful, and pages exist only while a body lies in them. Each part has a budget
//! in bytes. A body waits while the budget has no room; a body larger than the whole budget never gets a place.

use super::extents::{Extents, NoRoom, PAGE};
use crate::domain::placed::{Abandoned, PlacedBody};
use crate::domain::ring::Region;
use crate::domain::stream::StreamSizes;
use crate::domain::stream::slots::Part as StreamPart;
use crate::net::Lent;
use crossbeam::queue::SegQueue;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Smaller bodies go through the ring, where copying is as cheap.
pub(super) const LENT_BYTES_MIN: usize = 32 * 1024;
/// Bytes beyond the budget for bodies of at most [`SMALL_BYTES_MAX`](super::extents::SMALL_BYTES_MAX), so that they don't
/// wait behind large ones.
const RESERVE_BYTES: usize = 64 * 1024 * 1024;
/// The smallest budget of which arriving bodies may use half: the other half then still holds the largest body of a server
/// with default limits. Tests have small budgets.
const ARRIVING_BUDGET_MIN: usize = if cfg!(any(test, fuzzing)) { PAGE } else { 128 * 1024 * 1024 };
/// Limit on the bodies that arrive directly at their places at a time. Many bodies that complete at once would occupy as
/// many threads of the domain at once, and other calls would wait for the processors. Bodies without a place are passed on
/// one after the other.
const ARRIVING_MAX: usize = 4;
/// The same for WebSocket messages, which may arrive as slowly as their clients like.
const ARRIVING_MESSAGES_MAX: usize = 4;
/// Limit, in bytes, on the pages that freed large bodies of a shard's requests keep for the next ones: the largest message of a
/// server with default limits, and the next one, which arrives meanwhile.
const WARM_BYTES_MAX: usize = 2 * 16 * 1024 * 1024 + 2 * PAGE;
/// Bytes returned to the kernel in one step, which takes some hundred microseconds.
const RECLAIM_BYTES: usize = 4 * 1024 * 1024;

/// A body's place in the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ExtentRange {
    /// The offset of the first byte from the start of the memory.
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

/// The sizes of the parts of the memory. Both processes compute the same places from them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budgets {
    /// Limit, in bytes, on the bodies of requests and messages that one shard has with the domain.
    pub requests_bytes_max: usize,
    /// Limit, in bytes, on the domain's answers and frames that are not sent yet, for all shards together.
    pub answers_bytes_max: usize,
    /// The sizes of streams, for each shard.
    pub streams: StreamSizes,
}

/// The parts of the memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parts {
    shards: usize,
    budgets: Budgets,
}

/// The address range for a budget: twice its size, so that fragmentation seldom matters.
fn span(budget: usize) -> usize {
    budget.saturating_mul(2).saturating_add(RESERVE_BYTES).next_multiple_of(PAGE)
}

impl Parts {
    pub(super) fn new(shards: usize, budgets: Budgets) -> Self {
        Self { shards, budgets }
    }

    /// The first byte after the streams of all shards.
    fn requests_start(&self) -> usize {
        self.shards.saturating_mul(self.budgets.streams.bytes())
    }

    fn answers_start(&self) -> usize {
        self.requests_start().saturating_add(self.shards.saturating_mul(span(self.budgets.requests_bytes_max)))
    }

    /// The size of the memory in bytes, as address space and not as used memory.
    pub(super) fn bytes(&self) -> usize {
        self.answers_start().saturating_add(span(self.budgets.answers_bytes_max))
    }

    /// The streams of shard number `shard`.
    pub(super) fn streams(&self, memory: &Arc<Region>, shard: usize) -> StreamPart {
        StreamPart::new(memory, shard * self.budgets.streams.bytes(), self.budgets.streams)
    }

    /// The largest number of resident bytes while both sides keep to the budgets.
    pub(super) fn resident_bytes_max(&self) -> usize {
        let part = |budget: usize| budget.saturating_add(RESERVE_BYTES);
        let requests = self.shards.saturating_mul(part(self.budgets.requests_bytes_max));
        let streams = self.shards.saturating_mul(self.budgets.streams.bytes());
        requests.saturating_add(part(self.budgets.answers_bytes_max)).saturating_add(streams)
    }

    /// The range for request bodies of shard number `shard`.
    fn requests(&self, shard: usize) -> Range<usize> {
        let (first, bytes) = (self.requests_start(), span(self.budgets.requests_bytes_max));
        first + shard * bytes..first + (shard + 1) * bytes
    }

    /// The range for the domain's answer bodies.
    fn answers(&self) -> Range<usize> {
        self.answers_start()..self.bytes()
    }

    /// The lender of shard number `shard`.
    pub(super) fn lend_requests(&self, memory: &Arc<Region>, shard: usize) -> Lender {
        Lender::new(Arc::clone(memory), self.requests(shard), self.budgets.requests_bytes_max, WARM_BYTES_MAX)
    }

    /// The lender of the domain.
    pub(super) fn lend_answers(&self, memory: &Arc<Region>) -> Lender {
        Lender::new(Arc::clone(memory), self.answers(), self.budgets.answers_bytes_max, 0)
    }

    /// The domain's borrower of bodies from shard number `shard`.
    pub(super) fn borrow_requests(&self, memory: &Arc<Region>, shard: usize) -> Borrower {
        Borrower { memory: Arc::clone(memory), range: self.requests(shard), done: None, open_max: usize::MAX }
    }

    /// A shard's borrower of bodies from the domain, which waits for reports of finished reads ([`Borrower::next_done`]).
    pub(super) fn borrow_answers(&self, memory: &Arc<Region>) -> Borrower {
        let range = self.answers();
        let open_max = range.len() / LENT_BYTES_MIN;
        Borrower { memory: Arc::clone(memory), range, done: Some(Arc::default()), open_max }
    }
}

/// A part of the memory, to which bodies are written.
#[derive(Debug)]
pub(super) struct Lender {
    memory: Arc<Region>,
    extents: Extents,
    /// Bytes of the places of arriving bodies, including those whose body was dropped.
    arriving: usize,
    /// The number of these bodies, and the places of arriving messages.
    arriving_count: usize,
    messages: HashMap<usize, usize>,
    abandoned: Arc<Abandoned>,
}

impl Lender {
    fn new(memory: Arc<Region>, range: Range<usize>, budget: usize, warm_bytes_max: usize) -> Self {
        let extents = Extents::new(range, budget, RESERVE_BYTES, warm_bytes_max);
        let (arriving, abandoned) = (0, Arc::default());
        Self { memory, extents, arriving, arriving_count: 0, messages: HashMap::new(), abandoned }
    }

    /// Takes a place for an arriving body of `bytes` bytes. `None`: there is no room now, or arriving bodies have half of
    /// the budget. Slow clients must not occupy the whole budget, because complete bodies wait for room.
    pub(super) fn take_arriving(&mut self, bytes: usize) -> Option<PlacedBody> {
        self.take_back();
        let budget = self.extents.budget();
        if self.arriving_count >= ARRIVING_MAX
            || budget < ARRIVING_BUDGET_MIN
            || self.arriving.saturating_add(bytes) > budget / 2
        {
            return None;
        }
        let offset = self.extents.take(bytes).ok()?;
        self.arriving += bytes;
        self.arriving_count += 1;
        Some(PlacedBody::new(&self.memory, offset, bytes, &self.abandoned))
    }

    /// Takes a place for an arriving WebSocket message of `bytes` bytes. `None`: there is no room now, or arriving messages have a
    /// quarter of the budget.
    pub(super) fn take_arriving_message(&mut self, bytes: usize) -> Option<PlacedBody> {
        self.take_back();
        let (budget, messages) = (self.extents.budget(), self.messages.values().sum::<usize>());
        if self.messages.len() >= ARRIVING_MESSAGES_MAX
            || budget < ARRIVING_BUDGET_MIN
            || messages.saturating_add(bytes) > budget / 4
            || self.arriving.saturating_add(bytes) > budget / 2
        {
            return None;
        }
        let offset = self.extents.take(bytes).ok()?;
        self.arriving += bytes;
        self.messages.insert(offset, bytes);
        Some(PlacedBody::new(&self.memory, offset, bytes, &self.abandoned))
    }

    /// Uncounts the body of `bytes` bytes at `offset`, which has arrived or was dropped.
    fn arrived(&mut self, offset: usize, bytes: usize) {
        self.arriving = self.arriving.saturating_sub(bytes);
        if self.messages.remove(&offset).is_none() {
            self.arriving_count = self.arriving_count.saturating_sub(1);
        }
    }

    /// The place of `body`, if the body is complete and the place belongs to this lender.
    pub(super) fn place_of(&self, body: &PlacedBody) -> Option<ExtentRange> {
        let offset = body.offset_of(&self.abandoned)?;
        Some(ExtentRange { offset: offset as u64, bytes: body.bytes() as u64 })
    }

    /// Records that the domain has the record that names the place of `body`.
    pub(super) fn hand_over(&mut self, mut body: PlacedBody) {
        if let Some(offset) = body.offset_of(&self.abandoned) {
            body.set_handed_over();
            self.arrived(offset, body.bytes());
        }
    }

    /// Takes back the places of dropped bodies.
    fn take_back(&mut self) {
        while let Some((offset, bytes, written)) = self.abandoned.pop() {
            self.arrived(offset, bytes);
            self.extents.give_written(offset, written);
        }
    }

    /// Takes a place for `bytes` bytes, which are still to be written.
    ///
    /// # Errors
    /// There is no room now, or the size exceeds the budget.
    pub(super) fn take(&mut self, bytes: usize) -> Result<ExtentRange, NoRoom> {
        let offset = self.extents.take(bytes)?;
        Ok(ExtentRange { offset: offset as u64, bytes: bytes as u64 })
    }

    /// The memory, for writing a body.
    pub(super) fn memory(&self) -> &Arc<Region> {
        &self.memory
    }

    /// Limit, in bytes, on all bodies together, and so on one body.
    pub(super) fn budget(&self) -> usize {
        self.extents.budget()
    }

    /// The bytes of all complete bodies. Arriving bodies count with their connections.
    pub(super) fn used(&self) -> usize {
        self.extents.used().saturating_sub(self.arriving + self.extents.warm())
    }

    /// The bytes of pages that are kept for the next large bodies.
    pub(super) fn warm(&self) -> usize {
        self.extents.warm()
    }

    /// Gives up the pages that were kept and not used since the last call. [`Lender::reclaim`] returns them to the kernel.
    pub(super) fn cool(&mut self) {
        self.extents.cool();
    }

    /// Returns all kept pages to the kernel.
    pub(super) fn drop_warm(&mut self) {
        for range in self.extents.drain_warm() {
            self.memory.discard(range.clone());
            self.extents.left(range);
        }
    }

    /// Handles the other side's report that it has finished with the body at `offset`.
    pub(super) fn give_back(&mut self, offset: u64) {
        let Ok(offset) = usize::try_from(offset) else { return };
        self.extents.give(offset);
    }

    /// Whether there are pages for [`Lender::reclaim`].
    pub(super) fn has_unused(&self) -> bool {
        self.extents.is_leaving() || !self.abandoned.is_empty()
    }

    /// Returns some unused pages to the kernel, and their bytes to the budget.
    pub(super) fn reclaim(&mut self) {
        self.take_back();
        if let Some(range) = self.extents.next_leaving(RECLAIM_BYTES) {
            self.memory.discard(range.clone());
            self.extents.left(range);
        }
    }
}

/// The other side's part of the memory, from which bodies are read.
pub(super) struct Borrower {
    memory: Arc<Region>,
    range: Range<usize>,
    /// The finished reads, if they must be reported.
    done: Option<Arc<Done>>,
    /// Limit on the bodies that are borrowed at a time: as many smallest bodies as fit.
    open_max: usize,
}

/// Borrowed bodies whose end must be reported.
#[derive(Debug, Default)]
struct Done {
    /// The offsets of finished reads.
    read: SegQueue<u64>,
    /// The number of finished and current reads: never more than an honest lender can have lent.
    open: AtomicUsize,
    /// Whether the borrower has gone, because the other process has ended.
    is_over: AtomicBool,
}

impl Borrower {
    fn range_of(&self, place: ExtentRange) -> Option<Range<usize>> {
        let start = usize::try_from(place.offset).ok()?;
        let end = start.checked_add(usize::try_from(place.bytes).ok()?)?;
        let within = self.range.start <= start && end <= self.range.end && start < end;
        (within && start.is_multiple_of(PAGE)).then_some(start..end)
    }

    /// Borrows the body at `place`, which the other side has named; `None`: the place is impossible.
    pub(super) fn borrow(&self, place: ExtentRange) -> Option<Borrowed> {
        let range = self.range_of(place)?;
        if let Some(done) = &self.done
            && done.open.fetch_add(1, Ordering::Relaxed) >= self.open_max
        {
            done.open.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Borrowed { memory: Arc::clone(&self.memory), range, done: self.done.clone() })
    }

    /// The bytes at `place`, which the other side has named; `None`: the place is impossible. No end of the read is reported.
    ///
    /// # Safety
    /// The other process must not change the bytes while the slice is used.
    pub(super) unsafe fn bytes_at(&self, place: ExtentRange) -> Option<&[u8]> {
        let range = self.range_of(place)?;
        // SAFETY: the range lies within the mapping, which exists as long as `self`; the caller ensures that no process
        // writes.
        Some(unsafe { std::slice::from_raw_parts(self.memory.pointer(range.start), range.len()) })
    }

    /// Whether [`Borrower::next_done`] has an offset.
    pub(super) fn has_done(&self) -> bool {
        self.done.as_ref().is_some_and(|done| !done.read.is_empty())
    }

    /// The next offset to report to the other side.
    pub(super) fn next_done(&self) -> Option<u64> {
        let done = self.done.as_ref()?;
        let offset = done.read.pop()?;
        done.open.fetch_sub(1, Ordering::Relaxed);
        Some(offset)
    }
}

impl Drop for Borrower {
    fn drop(&mut self) {
        if let Some(done) = &self.done {
            // Relaxed: the flag guards no other data.
            done.is_over.store(true, Ordering::Relaxed);
        }
    }
}

/// A borrowed body. Dropping it reports the end of the read.
pub(super) struct Borrowed {
    memory: Arc<Region>,
    range: Range<usize>,
    done: Option<Arc<Done>>,
}

impl Borrowed {
    /// The bytes in place.
    ///
    /// # Safety
    /// The other process must not change them while the slice is used.
    pub(super) unsafe fn as_slice(&self) -> &[u8] {
        // SAFETY: the range lies within the mapping, which exists as long as `self`; the caller ensures that no process
        // writes.
        unsafe { std::slice::from_raw_parts(self.memory.pointer(self.range.start), self.range.len()) }
    }
}

impl fmt::Debug for Borrowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Borrowed").field(&self.range).finish()
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        if let Some(done) = &self.done {
            done.read.push(self.range.start as u64);
        }
    }
}

// SAFETY: the range lies within a mapping that exists as long as `self`.
unsafe impl Lent for Borrowed {
    fn pointer(&self) -> *const u8 {
        self.memory.pointer(self.range.start)
    }

    fn len(&self) -> usize {
        self.range.len()
    }

    fn copy(&self, range: Range<usize>) -> Vec<u8> {
        let start = self.range.start + range.start.min(self.range.len());
        let end = self.range.start + range.end.min(self.range.len());
        self.memory.load_any(start..end.max(start))
    }

    fn is_left_behind(&self) -> bool {
        self.done.as_ref().is_some_and(|done| done.is_over.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAMS: StreamSizes = StreamSizes { calls_max: 2, buffer_bytes: 1 << 18, answers_max: 4 };
    const BUDGETS: Budgets = Budgets { requests_bytes_max: 1 << 20, answers_bytes_max: 1 << 21, streams: STREAMS };

    fn memory(parts: &Parts) -> Arc<Region> {
        Arc::new(Region::create(parts.bytes()).unwrap())
    }

    #[test]
    fn a_body_is_read_where_it_was_put_and_its_place_is_used_again() {
        let parts = Parts::new(1, BUDGETS);
        let memory = memory(&parts);
        let (mut lender, borrower) = (parts.lend_answers(&memory), parts.borrow_answers(&memory));
        let body: Vec<u8> = (0..LENT_BYTES_MIN + 3).map(|n| n as u8).collect();
        let place = lender.take(body.len()).unwrap();
        memory.write(usize::try_from(place.offset).unwrap(), &body).unwrap();
        let other = lender.take(body.len()).unwrap();
        assert_ne!(place.offset, other.offset);
        let borrowed = borrower.borrow(place).unwrap();
        assert_eq!(borrowed.copy(0..usize::MAX), body);
        assert_eq!(borrowed.copy(8..20), &body[8..20]);
        // SAFETY: no other code knows this memory.
        assert_eq!(unsafe { borrowed.as_slice() }, body);
        assert!(borrower.next_done().is_none());
        drop(borrowed);
        lender.give_back(borrower.next_done().unwrap());
        assert_eq!(lender.take(body.len()).unwrap().offset, place.offset);
    }

    #[test]
    fn places_outside_the_part_are_refused() {
        let parts = Parts::new(1, BUDGETS);
        let borrower = parts.borrow_requests(&memory(&parts), 0);
        let part = parts.requests(0);
        let page = PAGE as u64;
        let (start, end) = (part.start as u64, part.end as u64);
        for (offset, bytes) in [
            (start.wrapping_sub(page), page),
            (start, end - start + 1),
            (end, page),
            (start + 1, 5),
            (start, 0),
            (u64::MAX - 4095, page),
            (start, u64::MAX),
        ] {
            assert!(borrower.borrow(ExtentRange { offset, bytes }).is_none(), "{offset} {bytes}");
        }
        assert!(borrower.borrow(ExtentRange { offset: start, bytes: end - start }).is_some());
    }

    #[test]
    fn parts_do_not_overlap_and_fill_the_memory() {
        let parts = Parts::new(3, BUDGETS);
        let mut end = 3 * STREAMS.bytes();
        for part in [parts.requests(0), parts.requests(1), parts.requests(2), parts.answers()] {
            assert!(part.start == end && part.len() >= BUDGETS.requests_bytes_max && part.start.is_multiple_of(PAGE));
            end = part.end;
        }
        assert!(end == parts.bytes() && parts.resident_bytes_max() < end);
    }

    #[test]
    fn a_borrowed_body_is_copied_from_any_byte_on_and_knows_that_its_process_has_ended() {
        let parts = Parts::new(1, BUDGETS);
        let memory = memory(&parts);
        let (mut lender, borrower) = (parts.lend_answers(&memory), parts.borrow_answers(&memory));
        let body: Vec<u8> = (0..LENT_BYTES_MIN).map(|n| n as u8).collect();
        let place = lender.take(body.len()).unwrap();
        memory.write(usize::try_from(place.offset).unwrap(), &body).unwrap();
        let borrowed = borrower.borrow(place).unwrap();
        for from in [0, 3, 8, 4095] {
            assert!(borrowed.copy(from..usize::MAX) == body[from..], "{from}");
        }
        assert!(!borrowed.is_left_behind());
        drop(borrower);
        assert!(borrowed.is_left_behind());
    }

    #[test]
    fn pages_come_and_go_with_what_lies_in_them() {
        let parts = Parts::new(1, Budgets { requests_bytes_max: 64 << 20, ..BUDGETS });
        let memory = memory(&parts);
        let mut lender = parts.lend_requests(&memory, 0);
        assert_eq!(memory.resident_bytes().unwrap(), 0);
        let body = vec![7; 9 << 20];
        let place = lender.take(body.len()).unwrap();
        memory.write(usize::try_from(place.offset).unwrap(), &body).unwrap();
        assert!(memory.resident_bytes().unwrap() >= 9 << 20);
        lender.give_back(place.offset);
        assert_eq!((lender.has_unused(), lender.warm(), lender.used()), (false, body.len(), 0));
        lender.cool();
        lender.cool();
        let mut steps = 0;
        while lender.has_unused() {
            lender.reclaim();
            steps += 1;
        }
        assert_eq!((steps, memory.resident_bytes().unwrap()), (3, 0), "given back in steps of 4 MiB");
    }
}
