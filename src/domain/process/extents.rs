//! Allocates extents of an address range, within a budget of bytes.
//!
//! Sans-IO: numbers in, numbers out. Small extents come from the start of the range and large ones from its end. The
//! pages of small extents, which are kept for the next ones, therefore lie together. The pages of a large extent are
//! returned to the kernel after use, in steps, and count in the budget until then.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Range;

/// Extents begin and end at pages, so that two bodies share no cache line, and so that pages can be returned to the kernel.
pub(super) const PAGE: usize = 4096;
/// Largest body, in bytes, that may use the reserve.
pub(super) const SMALL_BYTES_MAX: usize = 1024 * 1024;
/// Small extents that have reached this far are returned to the kernel when the whole range is free.
const KEPT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The reason why there is no extent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoRoom {
    /// Other extents must be freed first.
    #[error("there is no room now")]
    Now,
    /// The size exceeds the budget.
    #[error("there is never so much room")]
    Ever,
}

/// The extents of one range.
#[derive(Debug)]
pub(super) struct Extents {
    range: Range<usize>,
    budget: usize,
    /// Bytes beyond the budget for small extents.
    reserve: usize,
    /// Bytes that are allocated, or whose pages are being returned.
    used: usize,
    /// The bytes of each free extent, by its start.
    free: BTreeMap<usize, usize>,
    /// The bytes of each allocated extent, by its start.
    taken: HashMap<usize, usize>,
    /// Freed ranges with pages that must be returned to the kernel.
    leaving: VecDeque<Range<usize>>,
    /// The largest end of a small extent since the last trim.
    reached: usize,
}

impl Extents {
    /// All of `range`, which must begin and end at a page.
    pub(super) fn new(range: Range<usize>, budget: usize, reserve: usize) -> Self {
        let free = BTreeMap::from([(range.start, range.len())]);
        let reached = range.start;
        Self { range, budget, reserve, used: 0, free, taken: HashMap::new(), leaving: VecDeque::new(), reached }
    }

    pub(super) fn budget(&self) -> usize {
        self.budget
    }

    pub(super) fn used(&self) -> usize {
        self.used
    }

    /// Allocates an extent of `bytes` bytes, and returns its start.
    ///
    /// # Errors
    /// [`NoRoom`].
    pub(super) fn take(&mut self, bytes: usize) -> Result<usize, NoRoom> {
        let small = bytes <= SMALL_BYTES_MAX;
        if bytes > self.budget {
            return Err(NoRoom::Ever);
        }
        let rounded = bytes.checked_next_multiple_of(PAGE).ok_or(NoRoom::Ever)?.max(PAGE);
        let limit = self.budget.next_multiple_of(PAGE) + if small { self.reserve } else { 0 };
        if self.used.saturating_add(rounded) > limit {
            return Err(NoRoom::Now);
        }
        let fits = |(_, room): &(&usize, &usize)| **room >= rounded;
        let found = if small { self.free.iter().find(fits) } else { self.free.iter().rfind(fits) };
        let (&start, &room) = found.ok_or(NoRoom::Now)?;
        self.free.remove(&start);
        let rest = room - rounded;
        let (taken, left) = if small { (start, start + rounded) } else { (start + rest, start) };
        if rest > 0 {
            self.free.insert(left, rest);
        }
        self.taken.insert(taken, rounded);
        self.used += rounded;
        if small {
            self.reached = self.reached.max(taken + rounded);
        }
        Ok(taken)
    }

    /// Frees a large extent, of which only the first `written` bytes have pages. An extent that is not allocated changes
    /// nothing.
    pub(super) fn give_written(&mut self, start: usize, written: usize) {
        let Some(bytes) = self.taken.remove(&start) else { return };
        let kept = written.checked_next_multiple_of(PAGE).unwrap_or(bytes).clamp(PAGE, bytes);
        if kept < bytes {
            self.used -= bytes - kept;
            self.insert_free(start + kept, bytes - kept);
        }
        // Also an extent that is small now: it lies among large ones, where its pages would stay unused.
        self.leaving.push_back(start..start + kept);
    }

    /// Frees an extent; an extent that is not allocated changes nothing.
    pub(super) fn give(&mut self, start: usize) {
        let Some(bytes) = self.taken.remove(&start) else { return };
        if bytes > SMALL_BYTES_MAX {
            self.leaving.push_back(start..start + bytes);
        } else {
            self.used -= bytes;
            self.insert_free(start, bytes);
        }
        let kept = self.range.start..self.reached;
        if self.taken.is_empty() && self.leaving.is_empty() && kept.len() > KEPT_BYTES_MAX {
            // Everything is free: one extent.
            self.free = BTreeMap::from([(kept.end, self.range.end - kept.end)]);
            self.used = kept.len();
            self.reached = kept.start;
            self.leaving.push_back(kept);
        }
    }

    fn insert_free(&mut self, mut start: usize, mut bytes: usize) {
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

    /// Whether [`Extents::next_leaving`] has a range.
    pub(super) fn is_leaving(&self) -> bool {
        !self.leaving.is_empty()
    }

    /// At most `bytes_max` bytes, in whole pages, whose memory must be returned to the kernel. The caller must then call
    /// [`Extents::left`].
    pub(super) fn next_leaving(&mut self, bytes_max: usize) -> Option<Range<usize>> {
        let range = self.leaving.pop_front()?;
        let cut = range.end.min(range.start + bytes_max);
        if cut < range.end {
            self.leaving.push_front(cut..range.end);
        }
        Some(range.start..cut)
    }

    /// Records that the memory of `range` was returned.
    pub(super) fn left(&mut self, range: Range<usize>) {
        self.used -= range.len();
        self.insert_free(range.start, range.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const START: usize = PAGE;
    const BYTES: usize = 64 << 20;

    fn extents() -> Extents {
        Extents::new(START..START + 2 * BYTES, BYTES, 4 << 20)
    }

    #[test]
    fn the_budget_counts_and_the_reserve_is_for_small_ones() {
        let mut extents = extents();
        assert_eq!(extents.take(BYTES + 1), Err(NoRoom::Ever));
        let all = extents.take(BYTES).unwrap();
        assert_eq!(extents.take(SMALL_BYTES_MAX + 1), Err(NoRoom::Now));
        let small: Vec<usize> = (0..4).map(|_| extents.take(SMALL_BYTES_MAX).unwrap()).collect();
        assert_eq!(extents.take(1), Err(NoRoom::Now));
        small.into_iter().for_each(|start| extents.give(start));
        extents.give(all);
        assert_eq!(
            extents.take(SMALL_BYTES_MAX + 1),
            Err(NoRoom::Now),
            "the pages of the large extent are still there"
        );
        while let Some(range) = extents.next_leaving(10 << 20) {
            extents.left(range);
        }
        assert_eq!(extents.take(BYTES), Ok(all));
    }

    #[test]
    fn what_was_never_written_counts_no_more_when_it_is_given_back() {
        let mut extents = extents();
        for written in [SMALL_BYTES_MAX + 1, 1, 0] {
            let start = extents.take(BYTES).unwrap();
            extents.give_written(start, written);
            let kept = written.next_multiple_of(PAGE).max(PAGE);
            assert_eq!((extents.used(), extents.next_leaving(BYTES)), (kept, Some(start..start + kept)));
            extents.left(start..start + kept);
            assert_eq!(extents.used(), 0);
        }
    }

    #[test]
    fn what_was_not_given_out_changes_nothing() {
        let mut extents = extents();
        let start = extents.take(BYTES).unwrap();
        for wrong in [start + PAGE, usize::MAX, 1] {
            extents.give(wrong);
        }
        assert_eq!(extents.take(2 << 20), Err(NoRoom::Now));
        extents.give(start);
        extents.give(start);
        assert_eq!(extents.next_leaving(usize::MAX / 2).map(|range| range.len()), Some(BYTES));
        assert!(!extents.is_leaving());
    }

    #[test]
    fn many_small_ones_are_given_back_to_the_kernel_when_nothing_lies_there() {
        let mut extents = extents();
        let starts: Vec<usize> = (0..20).map(|_| extents.take(SMALL_BYTES_MAX).unwrap()).collect();
        for start in &starts {
            assert!(!extents.is_leaving());
            extents.give(*start);
        }
        assert_eq!(extents.next_leaving(BYTES), Some(START..START + 20 * SMALL_BYTES_MAX));
        extents.left(START..START + 20 * SMALL_BYTES_MAX);
        assert_eq!(extents.take(5), Ok(START));
        extents.give(START);
        assert!(!extents.is_leaving(), "the pages of one extent are kept");
    }

    proptest! {
        #[test]
        fn extents_never_overlap_and_all_come_back(
            steps in proptest::collection::vec((0..4_u8, 1..4000_usize), 1..200),
        ) {
            let mut extents = extents();
            let mut held: Vec<(usize, usize)> = Vec::new();
            for (what, number) in steps {
                match what {
                    0 | 1 => {
                        let bytes = number * if what == 0 { 1000 } else { 10_000 };
                        if let Ok(start) = extents.take(bytes) {
                            prop_assert!(start >= START && start + bytes <= START + 2 * BYTES);
                            prop_assert!(extents.used <= BYTES + (4 << 20));
                            for (other, length) in &held {
                                prop_assert!(start + bytes <= *other || other + length <= start);
                            }
                            for leaving in &extents.leaving {
                                prop_assert!(start + bytes <= leaving.start || leaving.end <= start);
                            }
                            held.push((start, bytes));
                        }
                    }
                    2 if !held.is_empty() => {
                        let (start, _) = held.swap_remove(number % held.len());
                        extents.give(start);
                    }
                    _ => if let Some(range) = extents.next_leaving(number * PAGE) {
                        extents.left(range);
                    }
                }
            }
            for (start, _) in held {
                extents.give(start);
            }
            while let Some(range) = extents.next_leaving(BYTES) {
                extents.left(range);
            }
            prop_assert_eq!(extents.free.into_iter().collect::<Vec<_>>(), vec![(START, 2 * BYTES)]);
            prop_assert!(extents.taken.is_empty() && extents.used == 0);
        }
    }
}
