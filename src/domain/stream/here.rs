//! The streams of a shard whose modules run in the server's own process.

use super::answer::Home;
use super::detached;
use super::slots::{CallSlot, Part, Slots, StreamSizes};
use super::{Pipe, StreamAddress};
use crate::domain::ring::Region;
use std::fmt;
use std::io;
use std::sync::Arc;

/// The streams of one shard.
pub struct ShardStreams {
    shard: usize,
    part: Part,
    calls: Arc<Slots>,
    answers: Slots,
}

impl fmt::Debug for ShardStreams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShardStreams").field("shard", &self.shard).finish_non_exhaustive()
    }
}

impl ShardStreams {
    /// The empty streams of shard number `shard`.
    ///
    /// # Errors
    /// The memory can't be reserved.
    pub fn new(shard: usize, sizes: StreamSizes) -> io::Result<Arc<Self>> {
        let region = Arc::new(Region::create(sizes.bytes().next_multiple_of(8))?);
        let part = Part::new(&region, 0, sizes);
        let (calls, answers) = (Arc::new(part.calls()), part.answers());
        Ok(Arc::new(Self { shard, part, calls, answers }))
    }

    /// Takes a slot for a call. `None`: all slots are taken.
    #[must_use]
    pub fn take_call(&self) -> Option<Arc<CallSlot>> {
        CallSlot::take(&self.part, &self.calls)
    }

    pub(super) fn place(&self, slot: u32) -> StreamAddress {
        StreamAddress { shard: self.shard, slot }
    }

    /// Takes a slot for an answer, and returns its number and pipe. `None`: all slots are taken.
    pub(super) fn take_answer(&self) -> Option<(u32, Pipe)> {
        let slot = self.answers.take()?;
        let pipe = self.part.down(slot)?;
        pipe.reset();
        Some((slot, pipe))
    }

    /// Returns an unused slot of [`ShardStreams::take_answer`].
    pub(super) fn give_answer(&self, slot: u32) {
        self.answers.give(slot);
    }

    /// The pipe of a slot for answers.
    pub(super) fn answer_pipe(&self, slot: u32) -> Option<Pipe> {
        self.part.down(slot)
    }

    /// Ends the use of an answer slot by one of its two sides.
    pub(super) fn leave(&self, slot: u32) {
        if self.answers.give_half(slot) {
            if let Some(pipe) = self.part.down(slot) {
                pipe.discard();
            }
            self.answers.give(slot);
        }
    }
}

impl Home for ShardStreams {
    fn over(&self, slot: u32) {
        if self.part.is_for_answers(slot) {
            // This must come before another stream can use the slot.
            detached::over(self.place(slot));
            self.leave(slot);
        }
    }

    fn room(&self, slot: u32) {
        detached::room(self.place(slot));
    }
}
