//! A call, from its place in the queue to its caller.

use super::super::arena::ExtentRange;
use crate::abi::manifest::RouteDecl;
use crate::abi::websocket::Socket;
use crate::domain::call::{AnswerMeta, Charge, GenerationRef, OwnedRequest, SocketEvent};
use crate::domain::stream::{CallSlot, Pipe, StreamStart};
use crate::net::ConnId;
use std::sync::Arc;

/// The receiver of a call's outcome.
pub(super) enum Caller {
    Request {
        conn: ConnId,
        seq: u64,
        meta: AnswerMeta,
    },
    /// `ends`: the last event of the batch is the socket's last.
    Socket {
        key: u64,
        ends: bool,
        /// The number of events, each of which leads to a callback.
        callbacks: u64,
    },
}

impl Caller {
    pub(super) fn is_request(&self) -> bool {
        matches!(self, Self::Request { .. })
    }
}

/// A call without an outcome.
pub(super) struct Pending {
    pub(super) hold: Arc<dyn GenerationRef>,
    pub(super) unit: usize,
    pub(super) caller: Caller,
    /// The time at which the wait began; once the domain has the whole call, the time at which the domain got it.
    pub(super) since_ms: u64,
    /// The route's own time limit.
    pub(super) limit_ms: Option<u64>,
    /// The additional time in which the domain ends the handler itself.
    pub(super) grace_ms: u64,
    /// The stage of the call.
    pub(super) stage: Stage,
    /// Set for a call of a `CWEB_STREAM` route, and for one that sends its answer itself.
    pub(super) watched: Option<Box<Watched>>,
    /// The last value of the call's progress.
    pub(super) progress: u64,
    /// Whether the handler has begun its answer.
    pub(super) begun: bool,
    /// Whether the domain has reported that the call waits for a thread. The domain may report that once.
    pub(super) has_waited: bool,
    /// After the sending: the request of a handler that may decline.
    pub(super) kept: Option<Box<OwnedRequest>>,
}

impl Pending {
    /// A call that has waited since `since_ms`.
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

/// The additional time for the answer to a `CWEB_KILLABLE` call, after its time limit, when the domain kills its process.
const KILL_GRACE_MS: u64 = 5_000;

/// The additional time in which the domain ends the handler of a call of `route` itself.
pub(super) fn grace_ms(route: Option<&RouteDecl>) -> u64 {
    if route.is_some_and(RouteDecl::is_killable) { KILL_GRACE_MS } else { 0 }
}

/// The source of a stream's progress.
pub(super) enum Watched {
    /// The call's own slot.
    Call(Arc<CallSlot>),
    /// The pipe through which the call sends its answer.
    Answer(Pipe),
}

impl Watched {
    /// A value that changes with the handler's progress, and whether the handler waits for its client.
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

/// The stages of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// The server has the call.
    Waiting,
    /// The domain has the call, which waits for earlier ones: its module's calls run one at a time, or all threads are
    /// busy.
    Turn,
    /// The domain has the whole call.
    Running,
    /// The handler has returned, and the answer waits for memory.
    Returned,
}

/// The content of a call.
pub(super) enum Payload {
    Request { route: usize, request: OwnedRequest, stream: Option<Box<StreamStart>> },
    Socket { index: usize, socket: Arc<Socket>, events: Vec<SocketEvent> },
}

impl Payload {
    /// The bytes that the handler or the callbacks get: a body, or messages.
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
    /// The ledger entry of messages while they wait; the body of a request has one in the request.
    pub(super) _charge: Option<Charge>,
}

/// A call whose body goes beside the rings, while it waits for a place. The call has no ticket yet.
pub(super) struct Large {
    pub(super) queued: Queued,
    pub(super) pending: Pending,
}

/// A call whose body is being written to its place, a part in each batch.
pub(super) struct Copying {
    pub(super) queued: Queued,
    /// `None`: the call kept its ticket, and the table has its entry.
    pub(super) pending: Option<Pending>,
    /// The record without the place.
    pub(super) fixed: Vec<u8>,
    /// The pieces to write, in order: the request's body, or events.
    pub(super) pieces: Vec<Piece>,
    pub(super) place: ExtentRange,
    /// The number of written pieces.
    pub(super) done: usize,
    /// The number of written bytes of the next piece.
    pub(super) within: usize,
    /// The number of written bytes.
    pub(super) written: usize,
}

/// A piece to write.
pub(super) enum Piece {
    /// The body of the request.
    Body,
    /// The message of the event with this index in the batch.
    Message(usize),
    /// The bytes between messages.
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
    /// The call of the record, if it has one. A process that dies before it has the record has not begun the call, so
    /// another process gets it.
    pub(super) queued: Option<Queued>,
    pub(super) fixed: Vec<u8>,
    pub(super) body: Vec<u8>,
    /// The place of the body, if it is not in the record.
    pub(super) place: Option<ExtentRange>,
}
