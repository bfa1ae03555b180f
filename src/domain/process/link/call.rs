//! One call, from its place in the queue to what it is answered to.

use crate::abi::websocket::Socket;
use crate::domain::call::{AnswerMeta, Hold, OwnedRequest, SocketEvent};
use crate::net::ConnId;
use std::sync::Arc;

/// What a call is answered to.
pub(super) enum Asker {
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

impl Asker {
    pub(super) fn is_request(&self) -> bool {
        matches!(self, Self::Request { .. })
    }
}

/// A call that is with the domain.
pub(super) struct Pending {
    pub(super) hold: Arc<dyn Hold>,
    pub(super) unit: usize,
    pub(super) asker: Asker,
    pub(super) since_ms: u64,
    /// The route's own limit of time.
    pub(super) limit_ms: Option<u64>,
    /// Once it was sent: the request of a handler that may leave it to others.
    pub(super) kept: Option<OwnedRequest>,
}

/// What is to be sent.
pub(super) enum Cargo {
    Request { route: usize, request: OwnedRequest },
    Socket { index: usize, socket: Arc<Socket>, events: Vec<SocketEvent> },
}

pub(super) struct Queued {
    pub(super) ticket: u64,
    pub(super) instance: u64,
    pub(super) short: bool,
    pub(super) cargo: Cargo,
}

/// A record on its way into a ring that was full.
pub(super) struct Sending {
    pub(super) ticket: u64,
    /// The call it was made of, if it is one: a process that dies before it has the whole record has not begun it, and
    /// another gets it.
    pub(super) queued: Option<Queued>,
    pub(super) fixed: Vec<u8>,
    pub(super) body: Vec<u8>,
    pub(super) sent: usize,
}
