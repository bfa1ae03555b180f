//! One connection: its parser and the requests it is owed answers for.

use super::conn_upload::ConnUpload;
use super::flow::Flow;
use super::limits::ShardLimits;
use super::trace::Trace;
use crate::domain::call::{AnswerMeta, OwnedRequest};
use crate::domain::placed::PlacedBody;
use crate::net::{Attached, ConnId, Peer};
use crate::proto::http1::RequestDecoder;
use std::collections::VecDeque;

/// A request's place in the order of answers (RFC 9112 §9.3.2: answers leave in the order of the requests).
pub(super) enum Slot {
    /// Parsed, not begun: an unsafe method behind others, or its module is being swapped.
    Waiting { request: OwnedRequest, meta: AnswerMeta, safe: bool },
    /// Begun; the answer, of about this many bytes, comes through the inbox.
    Running { safe: bool, expected: usize },
    /// A module is asked whether a WebSocket is opened.
    Asking { request: OwnedRequest },
    /// It is, when the answer that says so has its turn.
    Opening { bytes: Vec<u8>, request: OwnedRequest },
    /// Answered, but an earlier request is not.
    Ready { bytes: Vec<u8>, lent: Option<Attached>, safe: bool },
    /// The answer is a stream of events, which takes the connection when its turn comes.
    Stream { by: Upgrade },
    /// The answer is sent piece by piece, as its handler writes it.
    Flow(Box<Flow>),
}

/// What a connection can become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Upgrade {
    /// A module's WebSocket, by the shard's key.
    Socket(u64),
    /// A stream of job events, by the shard's key.
    Stream(u64),
    /// A stream of a module's lines, by the shard's key.
    Logs(u64),
}

impl Slot {
    pub(super) fn is_safe(&self) -> bool {
        match self {
            Slot::Waiting { safe, .. } | Slot::Running { safe, .. } | Slot::Ready { safe, .. } => *safe,
            Slot::Stream { .. } | Slot::Asking { .. } | Slot::Opening { .. } => false,
            Slot::Flow(flow) => flow.is_safe(),
        }
    }

    /// What it takes up, now or when its answer comes.
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

/// What is served on a connection, by the listener it came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Serves {
    /// Modules and the server's own paths.
    All,
    /// Modules; of the server's own paths only `/healthz`.
    Modules,
    /// The server's own paths.
    Admin,
}

/// What a connection is counted as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// One of those that `--connections-max` limits.
    Client,
    /// Of an address of the server's own paths.
    Admin,
    /// Beyond the limits: it may ask for one of the server's own paths. Why it may ask for nothing else.
    Reserved(&'static str),
    /// It is told that there are too many.
    Refused,
}

/// One connection.
pub(super) struct Conn {
    pub(super) id: ConnId,
    pub(super) peer: Peer,
    pub(super) serves: Serves,
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
    pub(super) taken: Option<Upgrade>,
    /// Whether the driver was told to stop reading.
    pub(super) paused: bool,
    /// Whether a request is partly received, and in which part; for time-outs.
    pub(super) partial: Partial,
    /// When the request that is partly received began.
    pub(super) partial_since_ms: u64,
    pub(super) last_read_ms: u64,
    /// When something came, or an answer left, about.
    pub(super) last_active_ms: u64,
    /// The time up to which the bytes received of a body, or sent, have paid: see [`credited`].
    pub(super) body_paid_ms: u64,
    pub(super) write_paid_ms: u64,
    /// Bytes sent until the last sweep, wrapping.
    pub(super) sent_before: usize,
    /// The body that is written to the memory of its domain while it comes.
    pub(super) placed: Option<Box<PlacedBody>>,
    /// Bytes of a body that are counted in the shard's sum.
    pub(super) gathered: usize,
    /// Bytes of memory that it is counted with in the server's budget, what is unsent excepted.
    pub(super) held: usize,
    /// The part of it that its client has sent.
    pub(super) held_sent: usize,
    /// Its request was let in to one of the server's own paths: it may use what is kept for those.
    pub(super) is_let_in: bool,
    /// The time up to which the bytes received have paid for that: see [`credited`].
    pub(super) held_paid_ms: u64,
    /// Whether this connection is counted as one of its peer's.
    pub(super) counted: bool,
    /// What it is counted as among the shard's connections.
    pub(super) place: Place,
    /// The body that is handed over piece by piece while it comes.
    pub(super) upload: Option<Box<ConnUpload>>,
    /// The head of such a request is complete, and it is not its turn yet; whether the client waits for `100 Continue`.
    pub(super) stream_waits: Option<bool>,
    /// Requests that are to be told when they are answered; see [`super::traces`].
    pub(super) traces: Vec<Trace>,
}

/// A peer slower than this is treated like one that does nothing: each byte pays for two milliseconds, so that a byte now
/// and then keeps no connection.
const BYTES_PER_SECOND_MIN: u64 = 500;

/// The time up to which `bytes` more have paid, who had paid up to `paid_ms`: at most `now_ms`.
pub(super) fn credited(paid_ms: u64, bytes: usize, now_ms: u64) -> u64 {
    let bought_ms = (bytes as u64).saturating_mul(1_000 / BYTES_PER_SECOND_MIN);
    paid_ms.saturating_add(bought_ms).min(now_ms)
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
    /// Why this connection is none that may ask for modules.
    pub(super) fn is_beyond(&self) -> Option<&'static str> {
        match self.place {
            Place::Reserved(why) => Some(why),
            _ => None,
        }
    }

    /// Whether what the client sends next may be of a WebSocket that is not open yet: its handshake waits, or a module is asked.
    pub(super) fn is_asking(&self) -> bool {
        match self.slots.back() {
            Some(Slot::Asking { .. } | Slot::Opening { .. }) => true,
            Some(Slot::Waiting { request, .. }) => request.view().is_websocket_upgrade(),
            _ => false,
        }
    }

    pub(super) fn new(id: ConnId, peer: Peer, serves: Serves, limits: &ShardLimits, now_ms: u64) -> Self {
        Self {
            id,
            peer,
            serves,
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

    /// Bytes of the body that is not complete, wherever they lie.
    pub(super) fn body_bytes(&self) -> usize {
        self.decoder.gathered() + self.placed.as_ref().map_or(0, |body| body.written())
    }

    /// Nothing received, nothing owed.
    pub(super) fn is_idle(&self) -> bool {
        self.taken.is_none() && self.slots.is_empty() && self.input.is_empty() && self.partial == Partial::None
    }

    /// Forgets the requests that are not answered, and the bytes that are not parsed. Answers that still come for these
    /// requests find no slot and are dropped.
    pub(super) fn drop_requests(&mut self) {
        self.slots.clear();
        self.input.clear();
        self.stream_waits = None;
        self.continue_owed = false;
    }

    /// Whether it holds no memory that counts, without a closer look.
    pub(super) fn is_light(&self) -> bool {
        self.held == 0 && self.is_idle() && self.input.capacity() == 0
    }

    /// Nothing has come since the connection was accepted.
    pub(super) fn is_fresh(&self) -> bool {
        self.is_idle() && self.next_seq() == 0
    }

    /// Whether request number `seq` is the last of this connection as far as is known, and its client may think otherwise.
    pub(super) fn owes_only(&self, seq: u64) -> bool {
        let last = seq.checked_add(1) == Some(self.next_seq());
        last && !self.last_request_seen && self.input.is_empty() && self.partial == Partial::None
    }

    /// What its unanswered requests take up, now or when their answers come.
    pub(super) fn owed_bytes(&self) -> usize {
        self.slots.iter().map(Slot::bytes).sum()
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
