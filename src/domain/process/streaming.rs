//! Streamed bodies on the domain's side.

use super::response_ring::ResponseRing;
use super::wire::{self, StreamToDomain};
use crate::domain::stream::call::Pipes;
use crate::domain::stream::detached;
use crate::domain::stream::running::{self, Key, Reason};
use crate::domain::stream::slots::{Part, Slots};
use crate::domain::stream::{Begun, Pipe, StreamAddress, Uplink};
use std::sync::Arc;

/// One shard's streams.
pub(super) struct ShardStreams {
    part: Part,
    answers: Slots,
}

impl ShardStreams {
    pub(super) fn new(part: Part) -> Self {
        let answers = part.answers();
        Self { part, answers }
    }

    /// Ends the use of an answer slot by one of its two sides.
    fn leave(&self, slot: u32) {
        if self.answers.give_half(slot) {
            if let Some(pipe) = self.part.down(slot) {
                pipe.discard();
            }
            self.answers.give(slot);
        }
    }

    /// The pipes of a call. `None`: the server named a slot that does not exist.
    pub(super) fn pipes(&self, slot: u32, length: Option<u64>, expects_continue: bool) -> Option<Pipes> {
        Some(Pipes { up: self.part.up(slot)?, down: self.part.down(slot)?, length, expects_continue })
    }
}

/// Handles a record about a stream of shard number `shard`, except for a call.
pub(super) fn take_record(all: &[Arc<ShardStreams>], shard: usize, record: &StreamToDomain<'_>) {
    match *record {
        StreamToDomain::Call { .. } => {}
        StreamToDomain::Over { slot } => {
            // This must come before another stream can use the slot.
            detached::over(StreamAddress { shard, slot });
            if let Some(streams) = all.get(shard) {
                streams.leave(slot);
            }
        }
        StreamToDomain::Room { slot } => detached::room(StreamAddress { shard, slot }),
        StreamToDomain::Cancel { ticket, reason } => {
            if let Some(reason) = Reason::of(reason) {
                running::cancel(key(shard, ticket), reason);
            }
        }
    }
}

/// The key of a call in this process.
pub(super) fn key(shard: usize, ticket: u64) -> Key {
    // No shard has the number 0 in keys, which stands for no call.
    Key(shard as u64 + 1, ticket)
}

/// The connection of a running call to its shard.
pub(super) struct RingUplink<'a> {
    /// The streams of all shards.
    pub(super) streams: &'a [Arc<ShardStreams>],
    pub(super) responses: &'a Arc<ResponseRing>,
    pub(super) shard: usize,
    pub(super) ticket: u64,
}

impl Uplink for RingUplink<'_> {
    fn take_slot(&self) -> Option<(u32, Pipe)> {
        let streams = self.streams.get(self.shard)?;
        let slot = streams.answers.take()?;
        let pipe = streams.part.down(slot)?;
        pipe.reset();
        Some((slot, pipe))
    }

    fn give_slot(&self, slot: u32) {
        if let Some(streams) = self.streams.get(self.shard) {
            streams.answers.give(slot);
        }
    }

    fn leave_slot(&self, slot: u32) {
        if let Some(streams) = self.streams.get(self.shard) {
            streams.leave(slot);
        }
    }

    fn begin(&self, begun: &Begun<'_>) -> Result<(), i32> {
        let Begun { slot, status, headers, length } = *begun;
        let mut record = Vec::with_capacity(256);
        wire::begin(&mut record, self.ticket, slot, status, length, headers);
        if self.responses.room(record.len()) == 0 {
            return Err(libc::E2BIG);
        }
        self.responses.send(&record, &[]);
        Ok(())
    }

    fn notice(&self, wants_body: bool) {
        send_notice(self.responses, self.ticket, wants_body);
    }

    fn place(&self, slot: u32) -> StreamAddress {
        StreamAddress { shard: self.shard, slot }
    }

    fn share(&self) -> Arc<dyn Uplink> {
        let streams = self.streams.get(self.shard).map(Arc::clone);
        Arc::new(Lasting { responses: Arc::clone(self.responses), streams, shard: self.shard, ticket: self.ticket })
    }
}

fn send_notice(responses: &ResponseRing, ticket: u64, wants_body: bool) {
    let mut record = Vec::with_capacity(16);
    wire::notice(&mut record, ticket, wants_body);
    responses.send(&record, &[]);
}

/// Like [`RingUplink`], for an answer that has begun.
struct Lasting {
    responses: Arc<ResponseRing>,
    streams: Option<Arc<ShardStreams>>,
    shard: usize,
    ticket: u64,
}

impl Uplink for Lasting {
    fn take_slot(&self) -> Option<(u32, Pipe)> {
        None
    }

    fn give_slot(&self, _slot: u32) {}

    fn leave_slot(&self, slot: u32) {
        if let Some(streams) = &self.streams {
            streams.leave(slot);
        }
    }

    fn begin(&self, _begun: &Begun<'_>) -> Result<(), i32> {
        Err(libc::EALREADY)
    }

    fn notice(&self, wants_body: bool) {
        send_notice(&self.responses, self.ticket, wants_body);
    }

    fn place(&self, slot: u32) -> StreamAddress {
        StreamAddress { shard: self.shard, slot }
    }

    fn share(&self) -> Arc<dyn Uplink> {
        let streams = self.streams.clone();
        Arc::new(Self { responses: Arc::clone(&self.responses), streams, shard: self.shard, ticket: self.ticket })
    }
}
