//! Streams in the server's own process: notices are messages to the shard.

use super::answer::{Answer, Home, StreamBegin, begin_answer};
use super::detached::{self, StreamAddress};
use super::slots::{CallSlot, Part, Slots, StreamSizes};
use super::{Begun, Pipe, Uplink};
use crate::domain::call::AnswerMeta;
use crate::domain::inbox::{Inbox, Message};
use crate::domain::ring::Region;
use crate::net::ConnId;
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

    /// Takes a slot for a call. `None`: all are taken.
    #[must_use]
    pub fn take_call(&self) -> Option<Arc<CallSlot>> {
        CallSlot::take(&self.part, &self.calls)
    }

    fn place(&self, slot: u32) -> StreamAddress {
        StreamAddress { shard: self.shard, slot }
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

/// The connection of a running call to its shard.
pub(in crate::domain) struct InboxUplink<'a> {
    pub(in crate::domain) inbox: &'a Arc<Inbox>,
    pub(in crate::domain) conn: ConnId,
    pub(in crate::domain) seq: u64,
    pub(in crate::domain) meta: &'a AnswerMeta,
    /// The slot of a call of a `CWEB_STREAM` route.
    pub(in crate::domain) call: Option<&'a Arc<CallSlot>>,
}

impl Uplink for InboxUplink<'_> {
    fn take_slot(&self) -> Option<(u32, Pipe)> {
        let streams = self.inbox.streams()?;
        let slot = streams.answers.take()?;
        let pipe = streams.part.down(slot)?;
        pipe.reset();
        Some((slot, pipe))
    }

    fn give_slot(&self, slot: u32) {
        if let Some(streams) = self.inbox.streams() {
            streams.answers.give(slot);
        }
    }

    fn leave_slot(&self, slot: u32) {
        if let Some(streams) = self.inbox.streams() {
            streams.leave(slot);
        }
    }

    fn begin(&self, begun: &Begun<'_>) -> Result<(), i32> {
        let Begun { slot, status, headers, length } = *begun;
        let streams = Arc::clone(self.inbox.streams().ok_or(libc::EPERM)?);
        let (pipe, number, call) = match (slot, self.call) {
            (Some(slot), _) => (streams.part.down(slot).ok_or(libc::EPERM)?, slot, None),
            (None, Some(call)) => (call.down().clone(), call.number(), Some(Arc::clone(call))),
            (None, None) => return Err(libc::EPERM),
        };
        let (head, framing, keep_alive, dropped) = begin_answer(self.meta, status, headers.iter().copied(), length);
        if dropped > 0 {
            tracing::warn!("{dropped} header field(s) of a streamed answer can't be sent and were dropped");
        }
        let answer = Answer::new(pipe, number, call, streams);
        let (conn, seq) = (self.conn, self.seq);
        self.inbox.push(Message::StreamBegin(Box::new(StreamBegin { conn, seq, head, framing, keep_alive, answer })));
        Ok(())
    }

    fn notice(&self, wants_body: bool) {
        self.inbox.push(Message::StreamNotice { conn: self.conn, seq: self.seq, wants_body });
    }

    fn place(&self, slot: u32) -> StreamAddress {
        place_of(self.inbox, slot)
    }

    fn share(&self) -> Arc<dyn Uplink> {
        Arc::new(Lasting { inbox: Arc::clone(self.inbox), conn: self.conn, seq: self.seq })
    }
}

fn place_of(inbox: &Inbox, slot: u32) -> StreamAddress {
    StreamAddress { shard: inbox.streams().map_or(0, |streams| streams.shard), slot }
}

/// Like [`InboxUplink`], for an answer that has begun.
struct Lasting {
    inbox: Arc<Inbox>,
    conn: ConnId,
    seq: u64,
}

impl Uplink for Lasting {
    fn take_slot(&self) -> Option<(u32, Pipe)> {
        None
    }

    fn give_slot(&self, _slot: u32) {}

    fn leave_slot(&self, slot: u32) {
        if let Some(streams) = self.inbox.streams() {
            streams.leave(slot);
        }
    }

    fn begin(&self, _begun: &Begun<'_>) -> Result<(), i32> {
        Err(libc::EALREADY)
    }

    fn notice(&self, wants_body: bool) {
        self.inbox.push(Message::StreamNotice { conn: self.conn, seq: self.seq, wants_body });
    }

    fn place(&self, slot: u32) -> StreamAddress {
        place_of(&self.inbox, slot)
    }

    fn share(&self) -> Arc<dyn Uplink> {
        Arc::new(Self { inbox: Arc::clone(&self.inbox), conn: self.conn, seq: self.seq })
    }
}
