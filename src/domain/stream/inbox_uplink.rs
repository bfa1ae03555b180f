//! The connection of calls to their shard if modules run in the server's own process: notices are messages to the shard.

use super::answer::{Answer, StreamBegin, begin_answer};
use super::slots::CallSlot;
use super::{Begun, Pipe, StreamAddress, Uplink};
use crate::domain::call::AnswerMeta;
use crate::domain::inbox::Inbox;
use crate::domain::module_message::ModuleMessage;
use crate::net::ConnId;
use std::sync::Arc;

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
        self.inbox.streams()?.take_answer()
    }

    fn give_slot(&self, slot: u32) {
        if let Some(streams) = self.inbox.streams() {
            streams.give_answer(slot);
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
            (Some(slot), _) => (streams.answer_pipe(slot).ok_or(libc::EPERM)?, slot, None),
            (None, Some(call)) => (call.down().clone(), call.number(), Some(Arc::clone(call))),
            (None, None) => return Err(libc::EPERM),
        };
        let (head, framing, keep_alive, dropped) = begin_answer(self.meta, status, headers.iter().copied(), length);
        if dropped > 0 {
            tracing::warn!("{dropped} header field(s) of a streamed answer can't be sent and were dropped");
        }
        let answer = Answer::new(pipe, number, call, streams);
        let (conn, seq) = (self.conn, self.seq);
        self.inbox.push(ModuleMessage::StreamBegin(Box::new(StreamBegin {
            conn,
            seq,
            head,
            framing,
            keep_alive,
            answer,
        })));
        Ok(())
    }

    fn notice(&self, wants_body: bool) {
        self.inbox.push(ModuleMessage::StreamNotice { conn: self.conn, seq: self.seq, wants_body });
    }

    fn place(&self, slot: u32) -> StreamAddress {
        place_of(self.inbox, slot)
    }

    fn share(&self) -> Arc<dyn Uplink> {
        Arc::new(Lasting { inbox: Arc::clone(self.inbox), conn: self.conn, seq: self.seq })
    }
}

fn place_of(inbox: &Inbox, slot: u32) -> StreamAddress {
    inbox.streams().map_or(StreamAddress { shard: 0, slot }, |streams| streams.place(slot))
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
        self.inbox.push(ModuleMessage::StreamNotice { conn: self.conn, seq: self.seq, wants_body });
    }

    fn place(&self, slot: u32) -> StreamAddress {
        place_of(&self.inbox, slot)
    }

    fn share(&self) -> Arc<dyn Uplink> {
        Arc::new(Self { inbox: Arc::clone(&self.inbox), conn: self.conn, seq: self.seq })
    }
}
