//! One connection: its parser and the requests it is owed answers for.

use super::limits::ShardLimits;
use crate::domain::call::{AnswerMeta, OwnedRequest};
use crate::net::{ConnId, Lent, Peer};
use crate::proto::http1::RequestDecoder;
use std::collections::VecDeque;

/// A request's place in the order of answers (RFC 9112 §9.3.2: answers leave in the order of the requests).
pub(super) enum Slot {
    /// Parsed, not begun: an unsafe method behind others, or its module is being swapped.
    Waiting { request: OwnedRequest, meta: AnswerMeta, safe: bool },
    /// Begun; the answer comes through the inbox.
    Running { safe: bool },
    /// Answered, but an earlier request is not.
    Ready { bytes: Vec<u8>, lent: Option<Box<dyn Lent>>, safe: bool },
    /// The answer is a stream of events, which takes the connection when its turn comes.
    Stream { key: u64 },
}

/// What a connection can become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Takeover {
    /// A module's WebSocket, by the shard's key.
    Socket(u64),
    /// A stream of job events, by the shard's key.
    Stream(u64),
}

impl Slot {
    pub(super) fn is_safe(&self) -> bool {
        match self {
            Slot::Waiting { safe, .. } | Slot::Running { safe } | Slot::Ready { safe, .. } => *safe,
            Slot::Stream { .. } => false,
        }
    }
}

/// One connection.
pub(super) struct Conn {
    pub(super) id: ConnId,
    pub(super) peer: Peer,
    pub(super) decoder: RequestDecoder,
    /// Bytes received and not consumed yet.
    pub(super) input: Vec<u8>,
    /// Requests not answered yet, oldest first.
    pub(super) slots: VecDeque<Slot>,
    /// Number of the request in `slots[0]`.
    pub(super) first_seq: u64,
    /// No further request is parsed: the one that said `Connection: close` has been, or framing is lost.
    pub(super) last_request_seen: bool,
    /// The client waits for `100 Continue`, which may not be sent before the answers owed.
    pub(super) continue_owed: bool,
    /// The peer has sent FIN.
    pub(super) eof: bool,
    /// What this connection has become, if it speaks HTTP no more.
    pub(super) taken: Option<Takeover>,
    /// Whether the driver was told to stop reading.
    pub(super) paused: bool,
    /// Whether a request is partly received, and in which part; for time-outs.
    pub(super) partial: Partial,
    /// When the request that is partly received began.
    pub(super) partial_since_ms: u64,
    pub(super) last_read_ms: u64,
    pub(super) last_write_ms: u64,
    /// Unsent bytes at the last sweep.
    pub(super) unsent_before: usize,
}

/// How much of the next request has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Partial {
    /// Nothing of it.
    None,
    /// A part of its head.
    Head,
    /// Its head and a part of its body.
    Body,
}

impl Conn {
    pub(super) fn new(id: ConnId, peer: Peer, limits: &ShardLimits, now_ms: u64) -> Self {
        Self {
            id,
            peer,
            decoder: RequestDecoder::new(limits.http.clone()),
            input: Vec::new(),
            slots: VecDeque::new(),
            first_seq: 0,
            last_request_seen: false,
            continue_owed: false,
            eof: false,
            taken: None,
            paused: false,
            partial: Partial::None,
            partial_since_ms: now_ms,
            last_read_ms: now_ms,
            last_write_ms: now_ms,
            unsent_before: 0,
        }
    }

    /// Nothing received, nothing owed.
    pub(super) fn is_idle(&self) -> bool {
        self.taken.is_none() && self.slots.is_empty() && self.input.is_empty() && self.partial == Partial::None
    }

    /// Whether the next request must wait until earlier ones are answered. Safe requests may run side by side; one with
    /// side effects neither overtakes nor is overtaken (RFC 9112 §9.3.2).
    pub(super) fn is_blocked(&self, pipeline_max: usize) -> bool {
        self.slots.len() >= pipeline_max || self.slots.back().is_some_and(|slot| !slot.is_safe())
    }

    /// The slot of request number `seq`.
    pub(super) fn slot_mut(&mut self, seq: u64) -> Option<&mut Slot> {
        let index = usize::try_from(seq.checked_sub(self.first_seq)?).ok()?;
        self.slots.get_mut(index)
    }

    /// Number of the request that would be appended next.
    pub(super) fn next_seq(&self) -> u64 {
        self.first_seq + self.slots.len() as u64
    }
}
