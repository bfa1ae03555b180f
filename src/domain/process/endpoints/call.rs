//! One call, from its place in the queue to what it is answered to.

use super::super::arena::ExtentRange;
use crate::abi::manifest::RouteDecl;
use crate::abi::websocket::Socket;
use crate::domain::call::{AnswerMeta, Charge, GenerationRef, OwnedRequest, SocketEvent};
use crate::domain::stream::{CallSlot, Pipe, StreamStart};
use crate::net::ConnId;
use std::sync::Arc;

/// What a call is answered to.
pub(super) enum Caller {
    Request {
        conn: ConnId,
        seq: u64,
        meta: AnswerMeta,
    },
    /// `ends`: its last event is the socket's last.
    Socket {
        key: u64,
        ends: bool,
        /// Events, each of which a callback is called for.
        callbacks: u64,
    },
}

impl Caller {
    pub(super) fn is_request(&self) -> bool {
        matches!(self, Self::Request { .. })
    }
}

/// A call that has no outcome yet.
pub(super) struct Pending {
    pub(super) hold: Arc<dyn GenerationRef>,
    pub(super) unit: usize,
    pub(super) caller: Caller,
    /// Since when it waits; from the moment on that the domain has all of it, since then.
    pub(super) since_ms: u64,
    /// The route's own limit of time.
    pub(super) limit_ms: Option<u64>,
    /// How much longer it may take: it ends its handler itself.
    pub(super) grace_ms: u64,
    /// Where it is.
    pub(super) stage: Stage,
    /// A call of a route of `CWEB_STREAM`, or one that sends its answer itself.
    pub(super) watched: Option<Box<Watched>>,
    /// What was seen of it last.
    pub(super) progress: u64,
    /// The handler has begun to send its answer.
    pub(super) begun: bool,
    /// The domain has said that it waits for a thread. It may say so once.
    pub(super) has_waited: bool,
    /// Once it was sent: the request of a handler that may leave it to others.
    pub(super) kept: Option<Box<OwnedRequest>>,
}

impl Pending {
    /// Of a call that nothing is known of yet but that it waits since `since_ms`.
    pub(super) fn new(hold: Arc<dyn GenerationRef>, unit: usize, caller: Caller, since_ms: u64) -> Self {
        let (limit_ms, grace_ms, stage, watched, progress) = (None, 0, Stage::Waiting, None, 0);
        Self {
            hold,
            unit,
            caller,
            since_ms,
            limit_ms,
            grace_ms,
            stage,
            watched,
            progress,
            begun: false,
            has_waited: false,
            kept: None,
        }
    }
}

/// How long after its time is over a call of `CWEB_KILLABLE` may be answered, whose domain kills its process then.
const KILL_GRACE_MS: u64 = 5_000;

/// How long the domain has to end the handler of a call of `route` itself, after its time.
pub(super) fn grace_ms(route: Option<&RouteDecl>) -> u64 {
    if route.is_some_and(RouteDecl::is_killable) { KILL_GRACE_MS } else { 0 }
}

/// Where it is seen whether a stream gets on.
pub(super) enum Watched {
    /// It has a slot of its own.
    Call(Arc<CallSlot>),
    /// It sends its answer through this.
    Answer(Pipe),
}

impl Watched {
    /// What changes while the handler gets on, and whether it waits for its client instead.
    pub(super) fn progress(&self) -> (u64, bool) {
        match self {
            Self::Call(slot) => slot.progress(),
            Self::Answer(pipe) => {
                let ((tail, head), (_, waits)) = (pipe.positions(), pipe.waits());
                (tail, waits && tail != head)
            }
        }
    }
}

/// How far a call has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// With the server.
    Waiting,
    /// With the domain, where it waits for the calls before it: those of its module run one at a time, or all threads are busy.
    Turn,
    /// With the domain, which has all of it.
    Running,
    /// Its handler has returned, and the answer waits for memory.
    Returned,
}

/// What is to be sent.
pub(super) enum Payload {
    Request { route: usize, request: OwnedRequest, stream: Option<Box<StreamStart>> },
    Socket { index: usize, socket: Arc<Socket>, events: Vec<SocketEvent> },
}

impl Payload {
    /// Bytes of what the handler or the callbacks are given: a body, or messages.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Request { request, .. } => request.body_bytes(),
            Self::Socket { events, .. } => {
                let bytes = |event: &SocketEvent| match event {
                    SocketEvent::Message { payload, .. } => payload.len(),
                    SocketEvent::Open { .. } | SocketEvent::Close => 0,
                };
                events.iter().map(bytes).sum()
            }
        }
    }
}

pub(super) struct Queued {
    pub(super) ticket: u64,
    pub(super) instance: u64,
    pub(super) short: bool,
    pub(super) payload: Payload,
    /// What messages count with while they wait; the body of a request counts with the request.
    pub(super) _charge: Option<Charge>,
}

/// A call that crosses by a place beside the rings, while it waits for one. It has no ticket.
pub(super) struct Large {
    pub(super) queued: Queued,
    pub(super) pending: Pending,
}

/// A call whose body is being written to its place, some of it in each batch.
pub(super) struct Copying {
    pub(super) queued: Queued,
    /// `None`: it kept its ticket, and this is with the others.
    pub(super) pending: Option<Pending>,
    /// The record, but for the place.
    pub(super) fixed: Vec<u8>,
    /// What is written, in order: the request's body, or events.
    pub(super) pieces: Vec<Piece>,
    pub(super) place: ExtentRange,
    /// Pieces that are written.
    pub(super) done: usize,
    /// Bytes of the next one that are written.
    pub(super) within: usize,
    /// Bytes that are written.
    pub(super) written: usize,
}

/// Bytes to be written.
pub(super) enum Piece {
    /// The body of the request.
    Body,
    /// The message that is this event of the batch.
    Message(usize),
    /// What stands between messages.
    Own(Vec<u8>),
}

impl Piece {
    pub(super) fn bytes<'a>(&'a self, payload: &'a Payload) -> &'a [u8] {
        match (self, payload) {
            (Self::Own(bytes), _) => bytes,
            (Self::Body, Payload::Request { request, .. }) => request.view().body,
            (Self::Message(at), Payload::Socket { events, .. }) => match events.get(*at) {
                Some(SocketEvent::Message { payload, .. }) => payload,
                _ => &[],
            },
            _ => &[],
        }
    }
}

/// A record on its way into a ring that was full.
pub(super) struct Sending {
    pub(super) ticket: u64,
    /// The call it was made of, if it is one: a process that dies before it has the record has not begun it, and another
    /// gets it.
    pub(super) queued: Option<Queued>,
    pub(super) fixed: Vec<u8>,
    pub(super) body: Vec<u8>,
    /// Where its body is, if that is not in the record.
    pub(super) place: Option<ExtentRange>,
}
