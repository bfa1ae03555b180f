//! A piece of module work on its way from a shard to an executor.

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

/// Bodies below this are not counted: what they take is bounded by how many calls there may be.
const COUNTED_BODY_BYTES_MIN: usize = 4 * 1024;

/// Keeps a generation alive while its code runs, and learns how long its handlers take.
pub trait GenerationRef: Send + Sync {
    /// The loaded module.
    fn instance(&self) -> &dyn Instance;

    /// Unit number `unit` (see `ShardGen`) ran for `elapsed` and gave an answer of `answer_bytes`.
    fn ran(&self, unit: usize, elapsed: Duration, answer_bytes: usize);
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
    /// Of a request with OPTIONS: what the answer allows, unless the handler says.
    pub preflight: Option<Arc<Preflight>>,
    /// Of the handshake of a WebSocket: with status 200 it is accepted.
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

    /// The bytes of an answer in the place of a module's: `text`, and with 503 when to come back.
    #[must_use]
    pub(super) fn plain(&self, status: u16, text: &str) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(256);
        let headers = plain_headers(status);
        encode_response(&mut bytes, &self.head(status, text.len()), headers, text.as_bytes());
        bytes
    }
}

/// Whether clients are told why a module has failed.
static TELLS_WHY: AtomicBool = AtomicBool::new(true);

/// Says whether clients are told why a module has failed: signals, addresses and functions among it. Otherwise they get a
/// number under which the log has it.
pub fn tell_why(tells: bool) {
    TELLS_WHY.store(tells, Ordering::Relaxed);
}

/// The text for a client whose request failed because of `why`, which ends its line.
#[cold]
pub(super) fn failure(why: &str) -> Cow<'_, str> {
    if TELLS_WHY.load(Ordering::Relaxed) {
        return Cow::Borrowed(why);
    }
    let id = uuid::Uuid::new_v4();
    tracing::error!("request {id} failed: {}", visible(why.trim_end()));
    Cow::Owned(format!("the request failed; the server's log has the reason under {id}\n"))
}

/// The header fields of an answer in plain text that the server gives in the place of a module's.
pub(super) fn plain_headers(status: u16) -> impl Iterator<Item = (&'static [u8], &'static [u8])> {
    let kind: (&[u8], &[u8]) = (b"Content-Type", b"text/plain; charset=utf-8");
    let retry: (&[u8], &[u8]) = (b"Retry-After", b"1");
    [kind].into_iter().chain((status == 503).then_some(retry))
}

/// Bytes of bodies that wait or are being worked on: all that one shard has handed out, or those for one domain, which count among
/// the shard's too.
#[derive(Debug, Default)]
pub struct BodyLedger {
    bytes: AtomicUsize,
    within: Option<Arc<BodyLedger>>,
}

impl BodyLedger {
    /// An empty ledger whose bytes count in `ledger`, too.
    #[must_use]
    pub fn within(ledger: &Arc<Self>) -> Arc<Self> {
        Arc::new(Self { bytes: AtomicUsize::new(0), within: Some(Arc::clone(ledger)) })
    }

    /// The sum. A hint for admission: it orders nothing else.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Counts `bytes` until the charge is dropped, if they are not few.
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

    /// This one, and those that it counts in.
    fn all(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |ledger| ledger.within.as_deref())
    }
}

/// A part of a ledger's sum, until it is dropped.
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

/// A request copied out of the shard's buffers.
#[derive(Debug)]
pub struct OwnedRequest {
    head: Head,
    bytes: Box<[u8]>,
    /// Bytes of the head in `bytes`: it is limited to much less.
    head_len: u32,
    /// The body, where it is not part of `bytes`.
    shared: Option<Arc<Vec<u8>>>,
    /// The body, where it lies in the memory of a domain already.
    placed: Option<Box<PlacedBody>>,
    peer: Option<IpAddr>,
    charge: Option<Charge>,
}

impl OwnedRequest {
    /// Copies `view`: one allocation for head and body together, one for the header spans. A body that can be shared is
    /// not copied.
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

    /// The same, with a body that is not small counted in `ledger` for as long as this lives.
    #[must_use]
    pub fn charged(mut self, ledger: &Arc<BodyLedger>) -> Self {
        // It counts once, also where it was counted elsewhere before.
        self.charge = None;
        self.charge = ledger.charge(self.body_bytes());
        self
    }

    /// Its body is not counted any more.
    pub fn discharge(&mut self) {
        self.charge = None;
    }

    /// Bytes of head and body.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let placed = self.placed.as_ref().map_or(0, |body| body.bytes());
        self.bytes.len() + self.shared.as_ref().map_or(0, |body| body.len()) + placed
    }

    /// Bytes of the body, wherever it lies.
    #[must_use]
    pub fn body_bytes(&self) -> usize {
        self.bytes().saturating_sub(self.head_len as usize)
    }

    /// The same request with `body`, which lies in the memory of a domain. [`OwnedRequest::view`] is without a body then.
    #[must_use]
    pub fn with_placed(mut self, body: Box<PlacedBody>) -> Self {
        self.placed = Some(body);
        self
    }

    /// The body that lies in the memory of a domain.
    #[must_use]
    pub fn placed(&self) -> Option<&PlacedBody> {
        self.placed.as_deref()
    }

    /// Takes the body that lies in the memory of a domain.
    pub fn take_placed(&mut self) -> Option<PlacedBody> {
        self.placed.take().map(|body| *body)
    }

    /// Copies the body out of the memory of a domain, because the request goes to another one.
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
    /// Its head, packed: see [`Head::unpack`](crate::proto::http1::Head::unpack).
    pub head: Box<[u8]>,
    /// The address at the other end of the connection.
    pub peer: Option<IpAddr>,
}

/// The text that `websocket_t.session` has: `ID|SINCE` from the query's `id` and `since_event_id`.
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

/// Something that happened on a WebSocket.
#[derive(Debug)]
pub enum SocketEvent {
    /// The handshake is done: `on_open`.
    Open {
        /// The request that asked for it.
        handshake: Option<Box<Handshake>>,
    },
    /// A whole message: `on_message`.
    Message {
        /// Its type.
        kind: Kind,
        /// Its bytes.
        payload: Vec<u8>,
        /// The bytes are compressed; the thread that runs the callback expands them.
        deflated: bool,
    },
    /// The socket is gone: `on_close`. Always the last event.
    Close,
}

/// A request that is still in the shard's buffer.
pub struct NewRequest<'a> {
    /// Connection to answer on.
    pub conn: ConnId,
    /// Number of the request on that connection.
    pub seq: u64,
    /// Index into the manifest's routes.
    pub route: usize,
    /// The request.
    pub view: &'a RequestView<'a>,
    /// Framing of the answer.
    pub meta: AnswerMeta,
}

impl NewRequest<'_> {
    /// The same with a copy of the request, whose body is counted in `ledger`.
    #[must_use]
    pub fn copied(self, ledger: &Arc<BodyLedger>) -> Task {
        let Self { conn, seq, route, view, meta } = self;
        Task::Request { conn, seq, route, request: OwnedRequest::copy(view).charged(ledger), meta, stream: None }
    }
}

/// What is to run.
pub enum Task {
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
        /// Of a route of `CWEB_STREAM`.
        stream: Option<Box<StreamStart>>,
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

/// Compressed bytes of messages that may become more than a companion should be busy with: a thousandfold.
const EXPANDING_BYTES: usize = 2 * 1024;

impl Task {
    /// Whether messages have to be expanded first that may become large.
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
