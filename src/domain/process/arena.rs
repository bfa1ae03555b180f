//! Large bodies, handed over by reference: the memory beside the rings.
//!
//! Each side gives out extents of its own part of the memory and writes a body there; the record that crosses the ring
//! only names the place. The other side reads it where it lies, and says when it is done with it. What is allocated is
//! known to the giver alone, in private memory: a hostile domain can hand over any place it likes, and changes nothing
//! by that but the bytes of its own answers.

use crate::domain::ring::Region;
use crate::net::Lent;
use crossbeam::queue::SegQueue;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bodies of at least this many bytes go by reference: below, copying through the ring is as cheap.
pub(super) const LENT_BYTES_MIN: usize = 32 * 1024;
/// Bytes of the requests' part, a shard.
const REQUESTS_BYTES: usize = 32 * 1024 * 1024;
/// Bytes of the answers' part, for all shards.
const ANSWERS_BYTES: usize = 64 * 1024 * 1024;
/// Bodies that a shard has borrowed of one process at a time: all there can be of the least size.
const BORROWED_MAX: usize = ANSWERS_BYTES / LENT_BYTES_MIN;
/// Extents begin and end at pages, so that those of two bodies share no cache line and can be given back to the kernel.
const PAGE: usize = 4096;
/// A part that has been used this far is given back to the kernel when nothing lies in it any more.
const KEPT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A body's place in the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// Of its first byte, from the start of the memory.
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

/// Bytes of the memory for a number of shards.
pub(super) fn bytes(shards: usize) -> usize {
    shards * REQUESTS_BYTES + ANSWERS_BYTES
}

/// Where shard number `shard` puts bodies of requests.
pub(super) fn requests_part(shard: usize) -> Range<usize> {
    shard * REQUESTS_BYTES..(shard + 1) * REQUESTS_BYTES
}

/// Where a domain of `shards` shards puts bodies of answers.
pub(super) fn answers_part(shards: usize) -> Range<usize> {
    shards * REQUESTS_BYTES..shards * REQUESTS_BYTES + ANSWERS_BYTES
}

/// Gives out extents of a range: the first that is large enough.
#[derive(Debug)]
struct Extents {
    range: Range<usize>,
    /// Bytes of each free extent, by its start.
    free: BTreeMap<usize, usize>,
    /// Bytes of each extent given out, by its start.
    taken: HashMap<usize, usize>,
    /// End of what has ever been given out since it was last trimmed.
    reached: usize,
}

impl Extents {
    fn new(range: Range<usize>) -> Self {
        let free = BTreeMap::from([(range.start, range.len())]);
        Self { reached: range.start, range, free, taken: HashMap::new() }
    }

    fn take(&mut self, bytes: usize) -> Option<usize> {
        let bytes = bytes.checked_next_multiple_of(PAGE)?.max(PAGE);
        let (&start, &room) = self.free.iter().find(|(_, room)| **room >= bytes)?;
        self.free.remove(&start);
        if room > bytes {
            self.free.insert(start + bytes, room - bytes);
        }
        self.taken.insert(start, bytes);
        self.reached = self.reached.max(start + bytes);
        Some(start)
    }

    /// Takes an extent back; one that was not given out changes nothing.
    fn give(&mut self, mut start: usize) {
        let Some(mut bytes) = self.taken.remove(&start) else { return };
        if let Some(after) = self.free.remove(&(start + bytes)) {
            bytes += after;
        }
        if let Some((&before, &room)) = self.free.range(..start).next_back()
            && before + room == start
        {
            self.free.remove(&before);
            (start, bytes) = (before, bytes + room);
        }
        self.free.insert(start, bytes);
    }

    /// What can be given back to the kernel, now that nothing lies in it.
    fn trim(&mut self) -> Option<Range<usize>> {
        let used = self.range.start..self.reached;
        if !self.taken.is_empty() || used.len() <= KEPT_BYTES_MAX {
            return None;
        }
        self.reached = self.range.start;
        Some(used)
    }
}

/// One part of the memory, to put bodies in.
#[derive(Debug)]
pub(super) struct Lender {
    memory: Arc<Region>,
    extents: Extents,
}

impl Lender {
    pub(super) fn new(memory: Arc<Region>, range: Range<usize>) -> Self {
        Self { memory, extents: Extents::new(range) }
    }

    /// Puts a copy of `body` there. `None`: it is small, or there is no room; it crosses the ring then.
    pub(super) fn lend(&mut self, body: &[u8]) -> Option<Place> {
        if body.len() < LENT_BYTES_MIN {
            return None;
        }
        let offset = self.extents.take(body.len())?;
        self.memory.store(offset, body);
        Some(Place { offset: offset as u64, bytes: body.len() as u64 })
    }

    /// The other side is done with what began at `offset`.
    pub(super) fn give_back(&mut self, offset: u64) {
        let Ok(offset) = usize::try_from(offset) else { return };
        self.extents.give(offset);
        if let Some(unused) = self.extents.trim() {
            self.memory.discard(unused);
        }
    }
}

/// The other side's part of the memory, to read bodies from.
pub(super) struct Borrower {
    memory: Arc<Region>,
    range: Range<usize>,
    /// What has been read, if that is to be told.
    done: Option<Arc<Done>>,
}

/// What was borrowed and is to be told of.
#[derive(Debug, Default)]
struct Done {
    /// Offsets of what has been read.
    read: SegQueue<u64>,
    /// Those, and those that are being read: never more than an honest lender can have given.
    open: AtomicUsize,
}

impl Borrower {
    /// `tells`: the other side waits to hear what has been read ([`Borrower::next_done`]).
    pub(super) fn new(memory: Arc<Region>, range: Range<usize>, tells: bool) -> Self {
        Self { memory, range, done: tells.then(Arc::default) }
    }

    fn range_of(&self, place: Place) -> Option<Range<usize>> {
        let start = usize::try_from(place.offset).ok()?;
        let end = start.checked_add(usize::try_from(place.bytes).ok()?)?;
        let within = self.range.start <= start && end <= self.range.end && start < end;
        (within && start.is_multiple_of(PAGE)).then_some(start..end)
    }

    /// The body at `place`, which is the other side's word; `None`: it can't be true.
    pub(super) fn borrow(&self, place: Place) -> Option<Borrowed> {
        let range = self.range_of(place)?;
        if let Some(done) = &self.done
            && done.open.fetch_add(1, Ordering::Relaxed) >= BORROWED_MAX
        {
            done.open.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Borrowed { memory: Arc::clone(&self.memory), range, done: self.done.clone() })
    }

    /// Whether there is one for [`Borrower::next_done`].
    pub(super) fn has_done(&self) -> bool {
        self.done.as_ref().is_some_and(|done| !done.read.is_empty())
    }

    /// The next offset that the other side is to hear of.
    pub(super) fn next_done(&self) -> Option<u64> {
        let done = self.done.as_ref()?;
        let offset = done.read.pop()?;
        done.open.fetch_sub(1, Ordering::Relaxed);
        Some(offset)
    }
}

/// A body of the other side's. Dropping it says that it has been read.
pub(super) struct Borrowed {
    memory: Arc<Region>,
    range: Range<usize>,
    done: Option<Arc<Done>>,
}

impl Borrowed {
    /// The bytes where they lie.
    ///
    /// # Safety
    /// The other process does not change them while the slice is used.
    pub(super) unsafe fn as_slice(&self) -> &[u8] {
        // SAFETY: the range lies within the mapping, which lives as long as `self`; nobody writes, says the caller.
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

// SAFETY: the range lies within a mapping that lives as long as `self`.
unsafe impl Lent for Borrowed {
    fn pointer(&self) -> *const u8 {
        self.memory.pointer(self.range.start)
    }

    fn len(&self) -> usize {
        self.range.len()
    }

    fn copy(&self) -> Vec<u8> {
        self.memory.load(self.range.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn memory() -> Arc<Region> {
        Arc::new(Region::create(bytes(1)).unwrap())
    }

    #[test]
    fn a_body_is_read_where_it_was_put_and_its_place_is_used_again() {
        let memory = memory();
        let mut lender = Lender::new(Arc::clone(&memory), answers_part(1));
        let borrower = Borrower::new(memory, answers_part(1), true);
        let body: Vec<u8> = (0..LENT_BYTES_MIN + 3).map(|n| n as u8).collect();
        assert!(lender.lend(&body[..LENT_BYTES_MIN - 1]).is_none());
        let place = lender.lend(&body).unwrap();
        let other = lender.lend(&body).unwrap();
        assert_ne!(place.offset, other.offset);
        let borrowed = borrower.borrow(place).unwrap();
        assert_eq!(borrowed.copy(), body);
        // SAFETY: nobody else knows of this memory.
        assert_eq!(unsafe { borrowed.as_slice() }, body);
        assert!(borrower.next_done().is_none());
        drop(borrowed);
        lender.give_back(borrower.next_done().unwrap());
        assert_eq!(lender.lend(&body).unwrap().offset, place.offset);
    }

    #[test]
    fn places_outside_the_part_are_refused() {
        let borrower = Borrower::new(memory(), answers_part(1), false);
        let part = answers_part(1);
        let page = PAGE as u64;
        let (start, end) = (part.start as u64, part.end as u64);
        for (offset, bytes) in [
            (start - page, page),
            (0, page),
            (start, end - start + 1),
            (end, page),
            (start + 1, 5),
            (start, 0),
            (u64::MAX - 4095, page),
            (start, u64::MAX),
        ] {
            assert!(borrower.borrow(Place { offset, bytes }).is_none(), "{offset} {bytes}");
        }
        assert!(borrower.borrow(Place { offset: start, bytes: end - start }).is_some());
    }

    #[test]
    fn memory_that_was_used_far_is_given_back_when_nothing_lies_in_it() {
        let memory = memory();
        let mut lender = Lender::new(Arc::clone(&memory), answers_part(1));
        let body = vec![1; KEPT_BYTES_MAX + PAGE];
        let place = lender.lend(&body).unwrap();
        lender.give_back(place.offset);
        let start = answers_part(1).start;
        assert!(memory.load(start..start + PAGE).iter().all(|byte| *byte == 0));
        assert_eq!(lender.lend(&body).unwrap(), place);
    }

    #[test]
    fn offsets_that_were_not_given_out_change_nothing() {
        let mut lender = Lender::new(memory(), requests_part(0));
        let place = lender.lend(&vec![1; REQUESTS_BYTES]).unwrap();
        for offset in [place.offset + 4096, u64::MAX, 1] {
            lender.give_back(offset);
        }
        assert!(lender.lend(&vec![1; LENT_BYTES_MIN]).is_none());
        lender.give_back(place.offset);
        lender.give_back(place.offset);
        assert_eq!(lender.lend(&vec![1; REQUESTS_BYTES]), Some(place));
    }

    proptest! {
        #[test]
        fn extents_never_overlap_and_all_come_back(steps in proptest::collection::vec((any::<bool>(), 1..200_usize), 1..200)) {
            let mut extents = Extents::new(PAGE..PAGE + 300 * PAGE);
            let mut held: Vec<(usize, usize)> = Vec::new();
            for (take, number) in steps {
                if take || held.is_empty() {
                    let bytes = number * 1000;
                    if let Some(start) = extents.take(bytes) {
                        prop_assert!(start >= PAGE && start + bytes <= PAGE + 300 * PAGE);
                        for (other, length) in &held {
                            prop_assert!(start + bytes <= *other || other + length <= start);
                        }
                        held.push((start, bytes));
                    }
                } else {
                    let (start, _) = held.swap_remove(number % held.len());
                    extents.give(start);
                }
            }
            for (start, _) in held {
                extents.give(start);
            }
            prop_assert_eq!(extents.free.into_iter().collect::<Vec<_>>(), vec![(PAGE, 300 * PAGE)]);
            prop_assert!(extents.taken.is_empty());
        }
    }
}
