//! A task of a module on its way from a shard to an executor.

use super::Instance;
use super::placed::PlacedBody;
use super::stream::StreamStart;
use crate::abi::visible::visible;
use crate::abi::websocket::Socket;
use crate::net::ConnId;
use crate::proto::form;
use crate::proto::http1::{Head, Preflight, RequestView, ResponseHead, Switching, encode_response};
use crate::proto::ws::Kind;
use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// Smaller bodies are not counted: the limit on calls bounds their memory.
const COUNTED_BODY_BYTES_MIN: usize = 4 * 1024;

/// Keeps a generation loaded while its code runs, and collects the duration of its handlers.
pub trait GenerationRef: Send + Sync {
    /// The loaded module.
    fn instance(&self) -> &dyn Instance;

    /// Records that unit number `unit` (see `ShardGen`) ran for `elapsed` and gave an answer of `answer_bytes` bytes.
    fn ran(&self, unit: usize, elapsed: Duration, answer_bytes: usize);
}

/// The framing of an answer; the shard decides it when it parses the request.
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
    /// For an OPTIONS request: the permissions in the answer, unless the handler sets them.
    pub preflight: Option<Arc<Preflight>>,
    /// For a WebSocket handshake, which an answer with status 200 accepts.
    pub switching: Option<Arc<Switching>>,
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
            preflight: self.preflight.as_deref(),
            switching: self.switching.as_deref(),
        }
    }

    /// The bytes of an answer in place of a module's: `text`, and with 503 a `Retry-After`.
    #[must_use]
    pub(super) fn plain(&self, status: u16, text: &str) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(256);
        let headers = plain_headers(status);
        encode_response(&mut bytes, &self.head(status, text.len()), headers, text.as_bytes());
        bytes
    }
}

/// Whether clients get the reason of a module's failure.
static TELLS_WHY: AtomicBool = AtomicBool::new(true);

/// Sets whether clients get the reason of a module's failure, which includes signals, addresses and functions. Otherwise
/// they get a number, under which the log has the reason.
pub fn tell_why(tells: bool) {
    TELLS_WHY.store(tells, Ordering::Relaxed);
}

/// The text for a client whose request failed because of `why`, which must end with a line feed.
#[cold]
pub(super) fn failure(why: &str) -> Cow<'_, str> {
    if TELLS_WHY.load(Ordering::Relaxed) {
        return Cow::Borrowed(why);
    }
    let id = uuid::Uuid::new_v4();
    tracing::error!("request {id} failed: {}", visible(why.trim_end()));
    Cow::Owned(format!("the request failed; the server's log has the reason under {id}\n"))
}

/// The header fields of a plain-text answer in place of a module's.
pub(super) fn plain_headers(status: u16) -> impl Iterator<Item = (&'static [u8], &'static [u8])> {
    let kind: (&[u8], &[u8]) = (b"Content-Type", b"text/plain; charset=utf-8");
    let retry: (&[u8], &[u8]) = (b"Retry-After", b"1");
    [kind].into_iter().chain((status == 503).then_some(retry))
}

/// The bytes of bodies that wait or are in use. A ledger counts all bodies that one shard has passed on, or those for
/// one domain, which the shard's ledger includes.
#[derive(Debug, Default)]
pub struct BodyLedger {
    bytes: AtomicUsize,
    within: Option<Arc<BodyLedger>>,
}

impl BodyLedger {
    /// An empty ledger, whose bytes `ledger` includes.
    #[must_use]
    pub fn within(ledger: &Arc<Self>) -> Arc<Self> {
        Arc::new(Self { bytes: AtomicUsize::new(0), within: Some(Arc::clone(ledger)) })
    }

    /// The sum. Relaxed: it only decides about admission and orders no other access.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Counts `bytes` until the charge is dropped. Returns `None`, without counting, for fewer than 4 KiB.
    #[must_use]
    pub fn charge(self: &Arc<Self>, bytes: usize) -> Option<Charge> {
        if bytes < COUNTED_BODY_BYTES_MIN {
            return None;
        }
        for ledger in self.all() {
            ledger.bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        Some(Charge { ledger: Arc::clone(self), bytes })
    }

    /// This ledger, and those that include it.
    fn all(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |ledger| ledger.within.as_deref())
    }
}

/// A part of a ledger's sum, counted until it is dropped.
#[derive(Debug)]
pub struct Charge {
    ledger: Arc<BodyLedger>,
    bytes: usize,
}

impl Drop for Charge {
    fn drop(&mut self) {
        for ledger in self.ledger.all() {
            ledger.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }
}

/// A request, copied out of the shard's buffers.
#[derive(Debug)]
pub struct OwnedRequest {
    head: Head,
    bytes: Box<[u8]>,
    /// The length of the head in `bytes`; its limit is far below `u32::MAX`.
    head_len: u32,
    /// The body, if it is shared and not part of `bytes`.
    shared: Option<Arc<Vec<u8>>>,
    /// The body, if it already lies in the memory of a domain.
    placed: Option<Box<PlacedBody>>,
    peer: Option<IpAddr>,
    charge: Option<Charge>,
}

impl OwnedRequest {
    /// Copies `view` with one allocation for head and body together and one for the header spans. A shareable body is not
    /// copied.
    #[must_use]
    pub fn copy(view: &RequestView<'_>) -> Self {
        let shared = view.shared.cloned();
        let body = if shared.is_some() { &[] } else { view.body };
        let mut bytes = Vec::with_capacity(view.bytes.len() + body.len());
        bytes.extend_from_slice(view.bytes);
        bytes.extend_from_slice(body);
        let (head, bytes) = (view.head.clone(), bytes.into_boxed_slice());
        let head_len = u32::try_from(view.bytes.len()).unwrap_or(u32::MAX);
        Self { head, head_len, bytes, shared, placed: None, peer: view.peer, charge: None }
    }

    /// Counts the body, unless it is small, in `ledger` as long as the request exists.
    #[must_use]
    pub fn charged(mut self, ledger: &Arc<BodyLedger>) -> Self {
        // An earlier charge ends first, so that the body counts only once.
        self.charge = None;
        self.charge = ledger.charge(self.body_bytes());
        self
    }

    /// Stops counting the body.
    pub fn discharge(&mut self) {
        self.charge = None;
    }

    /// The bytes of head and body.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let placed = self.placed.as_ref().map_or(0, |body| body.bytes());
        self.bytes.len() + self.shared.as_ref().map_or(0, |body| body.len()) + placed
    }

    /// The bytes of the body, in any memory.
    #[must_use]
    pub fn body_bytes(&self) -> usize {
        self.bytes().saturating_sub(self.head_len as usize)
    }

    /// The same request with `body`, which lies in the memory of a domain. [`OwnedRequest::view`] then has no body.
    #[must_use]
    pub fn with_placed(mut self, body: Box<PlacedBody>) -> Self {
        self.placed = Some(body);
        self
    }

    /// The body in the memory of a domain.
    #[must_use]
    pub fn placed(&self) -> Option<&PlacedBody> {
        self.placed.as_deref()
    }

    /// Takes the body in the memory of a domain.
    pub fn take_placed(&mut self) -> Option<PlacedBody> {
        self.placed.take().map(|body| *body)
    }

    /// Copies the body out of the memory of a domain, because the request goes to another domain.
    pub fn gather(&mut self) {
        if let Some(body) = self.placed.take() {
            self.shared = Some(Arc::new(body.load()));
        }
    }

    /// The request as it was parsed.
    #[must_use]
    pub fn view(&self) -> RequestView<'_> {
        let (head, body) = self.bytes.split_at_checked(self.head_len as usize).unwrap_or((&self.bytes, &[]));
        let shared = self.shared.as_ref();
        let body = shared.map_or(body, |shared| shared.as_slice());
        RequestView { head: &self.head, bytes: head, body, shared, peer: self.peer }
    }
}

/// The request that opened a WebSocket.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Handshake {
    /// The request's head, packed: see [`Head::unpack`](crate::proto::http1::Head::unpack).
    pub head: Box<[u8]>,
    /// The address of the peer.
    pub peer: Option<IpAddr>,
}

/// The text of `websocket_t.session`: `ID|SINCE`, from the query's `id` and `since_event_id`.
#[must_use]
pub fn session_text(query: Option<&[u8]>) -> Option<Vec<u8>> {
    let (mut id, mut since) = (None::<Vec<u8>>, None::<Vec<u8>>);
    form::urlencoded(query.unwrap_or_default(), |name, value| match name {
        b"id" if id.is_none() => id = Some(value.to_vec()),
        b"since_event_id" if since.is_none() => since = Some(value.to_vec()),
        _ => {}
    });
    let mut text = id?;
    text.push(b'|');
    text.extend_from_slice(since.as_deref().unwrap_or(b"0"));
    Some(text)
}

/// An event of a WebSocket.
#[derive(Debug)]
pub enum SocketEvent {
    /// The handshake is done: `on_open`.
    Open {
        /// The request that opened the socket.
        handshake: Option<Box<Handshake>>,
    },
    /// A whole message: `on_message`.
    Message {
        /// The message's type.
        kind: Kind,
        /// The message's bytes.
        payload: Vec<u8>,
        /// Whether the bytes are compressed; the thread that runs the callback expands them.
        deflated: bool,
    },
    /// The socket is closed: `on_close`. Always the last event.
    Close,
}

/// A request that is still in the shard's buffer.
pub struct NewRequest<'a> {
    /// The connection for the answer.
    pub conn: ConnId,
    /// The number of the request on that connection.
    pub seq: u64,
    /// Index into the manifest's routes.
    pub route: usize,
    /// The request.
    pub view: &'a RequestView<'a>,
    /// Framing of the answer.
    pub meta: AnswerMeta,
}

impl NewRequest<'_> {
    /// The task with a copy of the request; `ledger` counts its body.
    #[must_use]
    pub fn copied(self, ledger: &Arc<BodyLedger>) -> Task {
        let Self { conn, seq, route, view, meta } = self;
        Task::Request { conn, seq, route, request: OwnedRequest::copy(view).charged(ledger), meta, stream: None }
    }
}

/// A task for an executor.
#[expect(clippy::large_enum_variant)] // A box would cost each request one more allocation.
pub enum Task {
    /// An HTTP handler.
    Request {
        /// The connection for the answer.
        conn: ConnId,
        /// The number of the request on that connection.
        seq: u64,
        /// Index into the manifest's routes.
        route: usize,
        /// The request.
        request: OwnedRequest,
        /// Framing of the answer.
        meta: AnswerMeta,
        /// For a route of `CWEB_STREAM`.
        stream: Option<Box<StreamStart>>,
    },
    /// WebSocket callbacks, in order.
    Socket {
        /// The socket.
        socket: Arc<Socket>,
        /// Index into the manifest's websockets.
        index: usize,
        /// The events, oldest first.
        events: Vec<SocketEvent>,
    },
}

/// Compressed bytes that may expand to more than a companion should process: expansion can be a thousandfold.
const EXPANDING_BYTES: usize = 2 * 1024;

impl Task {
    /// Whether the task must expand messages that may become large.
    #[must_use]
    pub fn may_expand(&self) -> bool {
        let Self::Socket { events, .. } = self else { return false };
        let compressed = |event: &SocketEvent| match event {
            SocketEvent::Message { payload, deflated: true, .. } => payload.len(),
            _ => 0,
        };
        events.iter().map(compressed).sum::<usize>() > EXPANDING_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::websocket::Outlet;
    use crate::proto::ws::Encoded;

    struct Nowhere;

    impl Outlet for Nowhere {
        fn send(&self, _socket: u64, _frame: Arc<[u8]>) {}
        fn close(&self, _socket: u64, _code: u16) {}
        fn room(&self, _socket: u64, _room: &[u8], _joins: bool) {}
        fn publish(&self, _room: &[u8], _message: &Encoded) {}
    }

    #[test]
    fn a_ledger_counts_in_the_one_around_it_until_the_charge_is_dropped() {
        let shard = Arc::new(BodyLedger::default());
        let (one, two) = (BodyLedger::within(&shard), BodyLedger::within(&shard));
        let charges = (one.charge(5_000), two.charge(7_000), shard.charge(9_000));
        assert_eq!((one.bytes(), two.bytes(), shard.bytes()), (5_000, 7_000, 21_000));
        assert!(one.charge(COUNTED_BODY_BYTES_MIN - 1).is_none());
        drop(charges.0);
        assert_eq!((one.bytes(), shard.bytes()), (0, 16_000));
        drop((charges.1, charges.2));
        assert_eq!(shard.bytes(), 0);
    }

    #[test]
    fn messages_that_may_become_large_are_none_for_a_companion() {
        let may_expand = |messages: &[(usize, bool)]| {
            let event = |&(bytes, deflated): &(usize, bool)| SocketEvent::Message {
                kind: Kind::Text,
                payload: vec![0; bytes],
                deflated,
            };
            let events = messages.iter().map(event).chain([SocketEvent::Close]).collect();
            Task::Socket { socket: Socket::new(1, None, Arc::new(Nowhere), 1), index: 0, events }.may_expand()
        };
        assert!(!may_expand(&[]) && !may_expand(&[(1 << 20, false), (2048, true)]));
        assert!(may_expand(&[(2049, true)]) && may_expand(&[(1, false), (1100, true), (1000, true)]));
    }
}
