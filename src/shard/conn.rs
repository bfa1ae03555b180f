//! One connection: its parser and its unanswered requests.

use super::conn_upload::ConnUpload;
use super::flow::Flow;
use super::trace::Trace;
use crate::domain::call::{AnswerMeta, OwnedRequest};
use crate::domain::placed::PlacedBody;
use crate::net::{Attached, ConnId, Peer};
use crate::proto::http1::{self, RequestDecoder};
use std::collections::VecDeque;

/// A request's place in the order of answers: answers leave in the order of the requests (RFC 9112 §9.3.2).
///
/// Large values of rare slots are behind a pointer, because an idle connection keeps the memory of four slots.
pub(super) enum Slot {
    /// Parsed but not begun: an unsafe method after others, or a request for a module during its swap.
    Waiting { request: Box<OwnedRequest>, meta: Box<AnswerMeta>, safe: bool },
    /// Begun; the inbox will bring the answer, of about this many bytes.
    Running { safe: bool, expected: usize },
    /// The module decides whether to open a WebSocket.
    Asking { request: Box<OwnedRequest> },
    /// The module has accepted the WebSocket; it opens when its answer has its turn.
    Opening { bytes: Vec<u8>, request: Box<OwnedRequest> },
    /// Answered, but an earlier request is not answered yet.
    Ready { bytes: Vec<u8>, lent: Option<Attached>, safe: bool },
    /// The answer is a stream of events, which takes over the connection at its turn.
    Stream { by: Upgrade },
    /// The answer is sent in pieces, as its handler writes it.
    Flow(Box<Flow>),
}

/// The protocol that has taken over a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Upgrade {
    /// A module's WebSocket; the number is the shard's key.
    Socket(u64),
    /// A stream of job events; the number is the shard's key.
    Stream(u64),
    /// A stream of a module's log lines; the number is the shard's key.
    Logs(u64),
}

const _: () = assert!(size_of::<Slot>() <= 56);

impl Slot {
    pub(super) fn is_safe(&self) -> bool {
        match self {
            Slot::Waiting { safe, .. } | Slot::Running { safe, .. } | Slot::Ready { safe, .. } => *safe,
            Slot::Stream { .. } | Slot::Asking { .. } | Slot::Opening { .. } => false,
            Slot::Flow(flow) => flow.is_safe(),
        }
    }

    /// The bytes that the slot holds, or will hold when its answer comes.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Slot::Waiting { request, .. } => request.bytes(),
            Slot::Running { expected, .. } => *expected,
            Slot::Ready { bytes, .. } | Slot::Opening { bytes, .. } => bytes.len(),
            Slot::Asking { request } => request.bytes(),
            Slot::Stream { .. } | Slot::Flow(_) => 0,
        }
    }
}

/// The paths that a connection's listener serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Serves {
    /// Modules and the server's own paths.
    All,
    /// Modules; and of the server's own paths only `/healthz`.
    Modules,
    /// Only the server's own paths.
    Admin,
}

/// How a connection is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// A connection that `--connections-max` limits.
    Client,
    /// A connection on an address of the server's own paths.
    Admin,
    /// A connection beyond the limits, which may ask for the server's own paths only; the text is the reason.
    Reserved(&'static str),
    /// A connection that is being answered with 503.
    Refused,
}

/// One connection.
pub(super) struct Conn {
    pub(super) id: ConnId,
    pub(super) peer: Peer,
    pub(super) serves: Serves,
    pub(super) decoder: RequestDecoder,
    /// Received bytes that are not consumed yet.
    pub(super) input: Vec<u8>,
    /// Unanswered requests, oldest first.
    pub(super) slots: VecDeque<Slot>,
    /// Number of the request in `slots[0]`.
    pub(super) first_seq: u64,
    /// No further request is parsed: a request said `Connection: close`, or framing is lost.
    pub(super) last_request_seen: bool,
    /// The client waits for `100 Continue`, which must not overtake earlier answers.
    pub(super) continue_owed: bool,
    /// The peer has sent FIN.
    pub(super) eof: bool,
    /// The protocol that has taken over this connection, if any.
    pub(super) taken: Option<Upgrade>,
    /// Whether the driver was told to stop reading.
    pub(super) paused: bool,
    /// Which part of the next request has arrived; for time-outs.
    pub(super) partial: Partial,
    /// When the partly received request began.
    pub(super) partial_since_ms: u64,
    pub(super) last_read_ms: u64,
    /// The approximate time at which data last came or an answer left.
    pub(super) last_active_ms: u64,
    /// The time that the received, or sent, bytes of a body have paid for: see [`credited`].
    pub(super) body_paid_ms: u64,
    pub(super) write_paid_ms: u64,
    /// Bytes sent until the last sweep, wrapping.
    pub(super) sent_before: usize,
    /// The body that is being written directly to its domain's memory.
    pub(super) placed: Option<Box<PlacedBody>>,
    /// Bytes of a body that the shard's sum includes.
    pub(super) gathered: usize,
    /// Bytes of memory counted for this connection in the server's budget, without unsent bytes.
    pub(super) held: usize,
    /// The part of `held` that the client has sent.
    pub(super) held_sent: usize,
    /// Whether a request of this connection was admitted to the server's own paths, so that it may use the reserve for
    /// those.
    pub(super) is_let_in: bool,
    /// The time that the received bytes have paid for, for the idle check of `held`: see [`credited`].
    pub(super) held_paid_ms: u64,
    /// Whether this connection is counted for its peer.
    pub(super) counted: bool,
    /// How this connection is counted in the shard.
    pub(super) place: Place,
    /// The body that is passed to its receiver in pieces.
    pub(super) upload: Option<Box<ConnUpload>>,
    /// Set while a request whose body is passed on in pieces has a complete head, but must wait for its turn. The value:
    /// whether the client waits for `100 Continue`.
    pub(super) stream_waits: Option<bool>,
    /// Requests to log when they are answered; see [`super::traces`].
    pub(super) traces: Vec<Trace>,
}

/// A connection without a request for so long, in milliseconds, keeps no memory for the next one.
const REST_MS: u64 = 1_000;

/// A slower peer counts as idle: each byte pays for two milliseconds, so that an occasional byte does not keep a connection
/// open.
const BYTES_PER_SECOND_MIN: u64 = 500;

/// The time paid for after `bytes` more bytes, if `paid_ms` was paid before; at most `now_ms`.
pub(super) fn credited(paid_ms: u64, bytes: usize, now_ms: u64) -> u64 {
    let bought_ms = (bytes as u64).saturating_mul(1_000 / BYTES_PER_SECOND_MIN);
    paid_ms.saturating_add(bought_ms).min(now_ms)
}

/// Which part of the next request has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Partial {
    /// No part has arrived.
    None,
    /// A part of the head has arrived.
    Head,
    /// The head and a part of the body have arrived.
    Body,
}

impl Conn {
    /// The reason why this connection may not ask for modules; `None` if it may.
    pub(super) fn is_beyond(&self) -> Option<&'static str> {
        match self.place {
            Place::Reserved(why) => Some(why),
            _ => None,
        }
    }

    /// Whether the client's next bytes may belong to a WebSocket that is not open yet: its handshake waits, or a module
    /// decides about it.
    pub(super) fn is_asking(&self) -> bool {
        match self.slots.back() {
            Some(Slot::Asking { .. } | Slot::Opening { .. }) => true,
            Some(Slot::Waiting { request, .. }) => request.view().is_websocket_upgrade(),
            _ => false,
        }
    }

    pub(super) fn new(id: ConnId, peer: Peer, serves: Serves, http: &http1::Limits, now_ms: u64) -> Self {
        Self {
            id,
            peer,
            serves,
            decoder: RequestDecoder::new(http.clone()),
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
            last_active_ms: now_ms,
            body_paid_ms: now_ms,
            write_paid_ms: now_ms,
            sent_before: 0,
            placed: None,
            gathered: 0,
            held: 0,
            held_sent: 0,
            is_let_in: false,
            held_paid_ms: now_ms,
            counted: false,
            place: Place::Client,
            upload: None,
            stream_waits: None,
            traces: Vec::new(),
        }
    }

    /// Received bytes of the incomplete body, in any buffer.
    pub(super) fn body_bytes(&self) -> usize {
        self.decoder.gathered() + self.placed.as_ref().map_or(0, |body| body.written())
    }

    /// Copies bodies out of the memory of processes that have ended: the one that arrives, and those whose turn has not come.
    pub(super) fn leave_ended(&mut self) {
        if let Some(body) = &mut self.placed {
            body.leave_ended();
        }
        for slot in &mut self.slots {
            if let Slot::Ready { lent: Some(body), .. } = slot {
                body.leave_ended();
            }
        }
    }

    /// Whether nothing is received and nothing is owed.
    pub(super) fn is_idle(&self) -> bool {
        self.taken.is_none() && self.slots.is_empty() && self.input.is_empty() && self.partial == Partial::None
    }

    /// Whether the connection holds no memory that counts, by a cheap check.
    pub(super) fn is_light(&self) -> bool {
        self.held == 0 && self.is_idle() && self.input.capacity() == 0
    }

    /// Frees the memory that the connection keeps for its next request, if the connection has been quiet for [`REST_MS`].
    pub(super) fn rest(&mut self, now_ms: u64) {
        let quiet_ms = now_ms.saturating_sub(self.last_active_ms.max(self.last_read_ms));
        if quiet_ms < REST_MS || !self.slots.is_empty() || self.partial != Partial::None || self.upload.is_some() {
            return;
        }
        self.slots = VecDeque::new();
        if self.input.is_empty() {
            self.input = Vec::new();
        }
        self.decoder.rest();
    }

    /// Whether nothing has arrived since the connection was accepted.
    pub(super) fn is_fresh(&self) -> bool {
        self.is_idle() && self.next_seq() == 0
    }

    /// Whether request number `seq` is the last one so far, and the client may send further ones.
    pub(super) fn owes_only(&self, seq: u64) -> bool {
        let last = seq.checked_add(1) == Some(self.next_seq());
        last && !self.last_request_seen && self.input.is_empty() && self.partial == Partial::None
    }

    /// The bytes that unanswered requests hold, or will hold when their answers come.
    pub(super) fn owed_bytes(&self) -> usize {
        self.slots.iter().map(Slot::bytes).sum()
    }

    /// Whether the next request must wait for earlier answers. Safe requests may run in parallel; a request with side
    /// effects neither overtakes nor is overtaken (RFC 9112 §9.3.2).
    pub(super) fn is_blocked(&self, pipeline_max: usize) -> bool {
        self.slots.len() >= pipeline_max || self.slots.back().is_some_and(|slot| !slot.is_safe())
    }

    /// The slot of request number `seq`.
    pub(super) fn slot_mut(&mut self, seq: u64) -> Option<&mut Slot> {
        let index = usize::try_from(seq.checked_sub(self.first_seq)?).ok()?;
        self.slots.get_mut(index)
    }

    /// The number of the next request.
    pub(super) fn next_seq(&self) -> u64 {
        self.first_seq + self.slots.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::http1::{Decoded, Limits};

    #[test]
    fn a_quiet_connection_keeps_no_memory_for_the_next_request() {
        let mut conn = Conn::new(ConnId::default(), Peer::Unix, Serves::All, &Limits::default(), 0);
        let request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
        assert!(matches!(conn.decoder.decode(request), Ok(Decoded::Request { .. })));
        conn.slots.push_back(Slot::Running { safe: true, expected: 0 });
        conn.rest(5_000);
        assert_eq!(conn.slots.len(), 1, "an answer is owed");
        conn.slots.clear();
        conn.last_active_ms = 4_500;
        conn.rest(5_000);
        assert!(conn.slots.capacity() > 0, "the client has just been here");
        conn.rest(5_500);
        assert_eq!(conn.slots.capacity(), 0);
        assert!(matches!(conn.decoder.decode(request), Ok(Decoded::Request { .. })));
    }
}
