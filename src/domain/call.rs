//! A piece of module work on its way from a shard to an executor.

use super::Instance;
use super::inbox::Inbox;
use crate::abi::websocket::Socket;
use crate::net::ConnId;
use crate::proto::http1::{Head, RequestView, ResponseHead};
use std::sync::Arc;
use std::time::Duration;

/// Keeps a generation alive while its code runs, and learns how long its handlers take.
pub trait Hold: Send + Sync {
    /// The loaded module.
    fn instance(&self) -> &dyn Instance;

    /// Route number `route` ran for `elapsed`.
    fn ran(&self, route: usize, elapsed: Duration);
}

/// How the answer to a request is to be framed; decided by the shard when it parsed the request.
#[derive(Debug, Clone)]
pub struct AnswerMeta {
    /// The `Date` field's value.
    pub date: [u8; 29],
    /// Whether the connection stays open after the answer.
    pub keep_alive: bool,
    /// Whether the client speaks HTTP/1.0.
    pub http_1_0: bool,
    /// Whether the request was HEAD: the body is left out.
    pub head_only: bool,
    /// The value of `Access-Control-Allow-Origin`, unless the handler sets one.
    pub cors_origin: Option<Arc<str>>,
}

impl AnswerMeta {
    /// The head of an answer with this framing.
    #[must_use]
    pub fn head(&self, status: u16, body_len: usize) -> ResponseHead<'_> {
        ResponseHead {
            status,
            date: &self.date,
            keep_alive: self.keep_alive,
            http_1_0: self.http_1_0,
            body_len,
            head_only: self.head_only,
            cors_origin: self.cors_origin.as_deref(),
        }
    }
}

/// A request copied out of the shard's buffers.
#[derive(Debug)]
pub struct OwnedRequest {
    head: Head,
    bytes: Box<[u8]>,
    head_len: usize,
}

impl OwnedRequest {
    /// Copies `view`: one allocation for head and body together, one for the header spans.
    #[must_use]
    pub fn copy(view: &RequestView<'_>) -> Self {
        let mut bytes = Vec::with_capacity(view.bytes.len() + view.body.len());
        bytes.extend_from_slice(view.bytes);
        bytes.extend_from_slice(view.body);
        Self { head: view.head.clone(), head_len: view.bytes.len(), bytes: bytes.into_boxed_slice() }
    }

    /// The request as it was parsed.
    #[must_use]
    pub fn view(&self) -> RequestView<'_> {
        let (head, body) = self.bytes.split_at(self.head_len);
        RequestView { head: &self.head, bytes: head, body }
    }
}

/// Something that happened on a WebSocket.
#[derive(Debug)]
pub enum SocketEvent {
    /// The handshake is done: `on_open`.
    Open,
    /// A whole message: `on_message`.
    Message(Vec<u8>),
    /// The socket is gone: `on_close`. Always the last event.
    Close,
}

/// What is to run.
pub enum Work {
    /// An HTTP handler.
    Request {
        /// Connection to answer on.
        conn: ConnId,
        /// Number of the request on that connection.
        seq: u64,
        /// Index into the manifest's routes.
        route: usize,
        /// The request.
        request: OwnedRequest,
        /// Framing of the answer.
        meta: AnswerMeta,
    },
    /// WebSocket callbacks, in order.
    Socket {
        /// The socket.
        socket: Arc<Socket>,
        /// Index into the manifest's websockets.
        index: usize,
        /// What happened, oldest first.
        events: Vec<SocketEvent>,
    },
}

/// A piece of work with all it needs.
pub struct Call {
    /// Keeps the module's generation loaded.
    pub hold: Arc<dyn Hold>,
    /// Where the outcome goes.
    pub reply: Arc<Inbox>,
    /// What to run.
    pub work: Work,
}
