//! Lent bytes whose process has ended.
//!
//! A peer may take an answer as slowly as it likes, and the kernel gets the memory of an ended process back only as a whole.
//! Unsent bytes must therefore leave that memory. They are copied in steps, because a long copy would delay other connections.

use super::{Outbox, Segment};

/// Limit, in bytes, on one step, which takes some milliseconds.
const STEP_BYTES_MAX: usize = 4 * 1024 * 1024;

impl Outbox {
    /// Copies the next unsent bytes that lie in the memory of an ended process. Called for each connection about once a second.
    pub(in crate::net) fn leave_ended(&mut self) {
        let is_left = |segment: &Segment| matches!(segment, Segment::Lent(bytes, _) if bytes.is_left_behind());
        let Some(index) = self.segments.iter().position(is_left) else { return };
        let sent = if index == 0 { self.sent } else { 0 };
        let Some(Segment::Lent(bytes, from)) = self.segments.get_mut(index) else { return };
        let start = from.saturating_add(sent);
        let copy = bytes.copy(start..start.saturating_add(STEP_BYTES_MAX));
        if index == 0 {
            return self.put_before(copy, start);
        }
        *from = start.saturating_add(copy.len());
        if *from >= bytes.len() {
            self.segments.remove(index);
        }
        self.segments.insert(index, Segment::Own(copy));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Lent;
    use std::ops::Range;
    use std::sync::Arc;

    /// Memory of a process that has ended.
    #[derive(Debug)]
    struct Left(Arc<Vec<u8>>);

    // SAFETY: the bytes lie on the heap, and neither move nor change while the value lives.
    unsafe impl Lent for Left {
        fn pointer(&self) -> *const u8 {
            self.0.as_ptr()
        }

        fn len(&self) -> usize {
            self.0.len()
        }

        fn copy(&self, range: Range<usize>) -> Vec<u8> {
            let end = range.end.min(self.0.len());
            self.0[range.start.min(end)..end].to_vec()
        }

        fn is_left_behind(&self) -> bool {
            true
        }
    }

    /// Sends at most `bytes_max` bytes of the front.
    fn take(outbox: &mut Outbox, bytes_max: usize) -> Vec<u8> {
        let front = outbox.front();
        let part = front[..front.len().min(bytes_max)].to_vec();
        outbox.advance(part.len());
        part
    }

    #[test]
    fn bytes_leave_the_memory_of_an_ended_process_in_steps_and_in_order() {
        let memory: Arc<Vec<u8>> = Arc::new((0..2 * STEP_BYTES_MAX + 5).map(|at| (at % 251) as u8).collect());
        let mut outbox = Outbox::default();
        outbox.push(b"head");
        outbox.push_lent(Box::new(Left(Arc::clone(&memory))));
        outbox.push(b"tail");
        let whole = [&b"head"[..], &memory[..], &b"tail"[..]].concat();
        let mut taken = Vec::new();
        for holders in [2, 2, 1, 1] {
            outbox.leave_ended();
            assert_eq!((outbox.len(), Arc::strong_count(&memory)), (whole.len() - taken.len(), holders));
            assert!(outbox.held() >= outbox.len(), "all of it counts");
            taken.extend(take(&mut outbox, 6));
        }
        while !outbox.is_empty() {
            taken.extend(take(&mut outbox, usize::MAX));
        }
        assert!(taken == whole);
    }

    #[test]
    fn bytes_that_are_partly_sent_leave_too() {
        let memory: Arc<Vec<u8>> = Arc::new((0..2 * STEP_BYTES_MAX + 5).map(|at| (at % 251) as u8).collect());
        let mut outbox = Outbox::default();
        outbox.push_lent(Box::new(Left(Arc::clone(&memory))));
        outbox.advance(3);
        for _ in 0..3 {
            outbox.leave_ended();
        }
        assert_eq!((Arc::strong_count(&memory), outbox.len()), (1, memory.len() - 3));
        let mut taken = Vec::new();
        while !outbox.is_empty() {
            taken.extend(take(&mut outbox, usize::MAX));
        }
        assert!(taken == memory[3..]);
    }
}
