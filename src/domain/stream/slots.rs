//! The memory of streams, and its slots.
//!
//! Each shard has a part of the memory of each process instance, and one in the server's own process. A part has slots
//! of two kinds. The server assigns a slot for calls to a request for a `CWEB_STREAM` route. Such a slot has a pipe for
//! the request's body and one for the answer. The module's side assigns slots for answers, which have only the second
//! pipe. The memory is sparse: an unused slot occupies none.

use super::pipe::{Pipe, WORDS};
use crate::domain::ring::Region;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

const PAGE: usize = 4096;

/// The size of a slot for answers, in bytes: the limit on the unsent bytes of a detached stream.
pub(super) const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// The number of streams of a shard in a domain, and the size of their buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamSizes {
    /// Limit on calls of `CWEB_STREAM` routes; each has a thread.
    pub calls_max: usize,
    /// The size of the buffer for the request body of such a call, and of the separate one for its answer, in bytes.
    pub buffer_bytes: usize,
    /// Limit on streamed answers of other handlers, including detached ones.
    pub answers_max: usize,
}

impl Default for StreamSizes {
    fn default() -> Self {
        Self { calls_max: 64, buffer_bytes: 1 << 20, answers_max: 8 * 1024 }
    }
}

impl StreamSizes {
    fn words_bytes(&self) -> usize {
        let pipes = self.calls_max.saturating_mul(2).saturating_add(self.answers_max);
        pipes.saturating_mul(WORDS * 8).next_multiple_of(PAGE)
    }

    fn buffer(&self) -> usize {
        self.buffer_bytes.next_multiple_of(PAGE)
    }

    fn slots(&self) -> usize {
        self.calls_max.saturating_add(self.answers_max)
    }

    /// The bytes of one shard's part, as address space and not as used memory.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let calls = self.calls_max.saturating_mul(2).saturating_mul(self.buffer());
        self.words_bytes().saturating_add(calls).saturating_add(self.answers_max.saturating_mul(ANSWER_BYTES_MAX))
    }
}

/// One shard's part of the memory.
#[derive(Debug, Clone)]
pub(in crate::domain) struct Part {
    region: Arc<Region>,
    start: usize,
    sizes: StreamSizes,
}

impl Part {
    /// The part that begins at byte `start` of `region`, which must be a page boundary.
    pub(in crate::domain) fn new(region: &Arc<Region>, start: usize, sizes: StreamSizes) -> Self {
        Self { region: Arc::clone(region), start, sizes }
    }

    fn pipe(&self, number: usize, data: Range<usize>) -> Option<Pipe> {
        Pipe::new(&self.region, self.start / 8 + number * WORDS, data)
    }

    fn ring(&self, number: usize) -> Range<usize> {
        let start = self.start + self.sizes.words_bytes() + number * self.sizes.buffer();
        start..start + self.sizes.buffer()
    }

    /// The pipe for the request's body, in a slot for calls.
    pub(in crate::domain) fn up(&self, slot: u32) -> Option<Pipe> {
        let slot = usize::try_from(slot).ok().filter(|slot| *slot < self.sizes.calls_max)?;
        self.pipe(2 * slot, self.ring(2 * slot))
    }

    /// The pipe for the answer.
    pub(in crate::domain) fn down(&self, slot: u32) -> Option<Pipe> {
        let slot = usize::try_from(slot).ok().filter(|slot| *slot < self.sizes.slots())?;
        let Some(answer) = slot.checked_sub(self.sizes.calls_max) else {
            return self.pipe(2 * slot + 1, self.ring(2 * slot + 1));
        };
        let start = self.ring(2 * self.sizes.calls_max).start + answer * ANSWER_BYTES_MAX;
        self.pipe(2 * self.sizes.calls_max + answer, start..start + ANSWER_BYTES_MAX)
    }

    /// Whether `slot` is a slot for answers.
    pub(in crate::domain) fn is_for_answers(&self, slot: u32) -> bool {
        (self.sizes.calls_max..self.sizes.slots()).contains(&(slot as usize))
    }

    /// The slots for calls, all free.
    pub(in crate::domain) fn calls(&self) -> Slots {
        Slots::new(0..self.sizes.calls_max)
    }

    /// The slots for answers, all free.
    pub(in crate::domain) fn answers(&self) -> Slots {
        Slots::new(self.sizes.calls_max..self.sizes.slots())
    }
}

/// The slots of one kind. The slot that was returned last is assigned next, since its pages may still exist.
#[derive(Debug)]
pub(in crate::domain) struct Slots {
    state: Mutex<Free>,
}

#[derive(Debug)]
struct Free {
    back: Vec<u32>,
    /// Slots that one of two sides has returned.
    half: HashSet<u32>,
    /// Slots that were never taken.
    fresh: Range<usize>,
}

impl Slots {
    fn new(range: Range<usize>) -> Self {
        Self { state: Mutex::new(Free { back: Vec::new(), half: HashSet::new(), fresh: range }) }
    }

    /// Takes a free slot.
    pub(in crate::domain) fn take(&self) -> Option<u32> {
        let mut free = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        free.back.pop().or_else(|| u32::try_from(free.fresh.next()?).ok())
    }

    /// Returns a slot.
    pub(in crate::domain) fn give(&self, slot: u32) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).back.push(slot);
    }

    /// Returns a slot for one of its two sides. Returns true for the second side; the caller must then call
    /// [`Slots::give`]. A writer that has seen its reader may still be writing when the reader leaves.
    #[must_use]
    pub(in crate::domain) fn give_half(&self, slot: u32) -> bool {
        let mut free = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let is_second = free.half.remove(&slot);
        if !is_second {
            free.half.insert(slot);
        }
        is_second
    }
}

/// The reason why there is no slot for a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoSlot {
    /// All slots are taken.
    Taken,
    /// The module's process is starting: there will be slots soon.
    NotYet,
    /// The module has no process, and has had none for too long.
    NoProcess,
}

/// A slot for calls. The server holds it until the handler has returned and the whole answer is sent.
#[derive(Debug)]
pub struct CallSlot {
    number: u32,
    up: Pipe,
    down: Pipe,
    slots: Arc<Slots>,
}

impl CallSlot {
    /// Takes a slot of `part` from `slots`, ready for use. `None`: all slots are taken.
    pub(in crate::domain) fn take(part: &Part, slots: &Arc<Slots>) -> Option<Arc<Self>> {
        let number = slots.take()?;
        let (up, down) = (part.up(number)?, part.down(number)?);
        up.reset();
        down.reset();
        Some(Arc::new(Self { number, up, down, slots: Arc::clone(slots) }))
    }

    pub(in crate::domain) fn number(&self) -> u32 {
        self.number
    }

    pub(in crate::domain) fn up(&self) -> &Pipe {
        &self.up
    }

    pub(in crate::domain) fn down(&self) -> &Pipe {
        &self.down
    }

    /// A value that changes with the handler's progress, and whether the handler waits for its client.
    pub(in crate::domain) fn progress(&self) -> (u64, bool) {
        let ((up_tail, up_head), (down_tail, down_head)) = (self.up.positions(), self.down.positions());
        let (reads, _) = self.up.waits();
        let (_, writes) = self.down.waits();
        let waits = reads && up_tail == up_head || writes && down_tail != down_head;
        (up_head.wrapping_add(down_tail), waits)
    }
}

impl Drop for CallSlot {
    fn drop(&mut self) {
        for pipe in [&self.up, &self.down] {
            // A stream with a fast reader has used only the first pages.
            if pipe.positions().0 > KEPT_BYTES_MAX {
                pipe.discard();
            }
        }
        self.slots.give(self.number);
    }
}

/// A pipe that transported at most this many bytes keeps its pages.
const KEPT_BYTES_MAX: u64 = 64 * 1024;
