//! The server's own answers, and the way back to a shard for answers made on another thread.

use crate::domain::call::AnswerMeta;
use crate::domain::inbox::{Inbox, Message};
use crate::net::{Attached, BodyPiece, ConnId, FileRange};
use crate::proto::http1::{Method, Preflight, RequestView, ResponseHead, encode_response};
use std::fs::File;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// The framing of an answer.
pub(crate) type Meta = AnswerMeta;

/// One of the server's own answers.
#[derive(Debug, Clone, Default)]
pub struct ServerAnswer {
    /// Status code, 100 to 599.
    pub status: u16,
    /// `Content-Type`; empty for no such field.
    pub content_type: &'static str,
    /// Further header fields.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl ServerAnswer {
    /// An answer of plain text.
    #[must_use]
    pub fn text(status: u16, body: impl Into<String>) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", headers: Vec::new(), body: body.into().into_bytes() }
    }

    /// An answer of JSON, already encoded.
    #[must_use]
    pub fn json(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, content_type: "application/json", headers: Vec::new(), body: body.into() }
    }

    /// The default answer to OPTIONS on one of the server's own paths (Fetch standard, CORS-preflight).
    #[must_use]
    pub fn preflight(methods: &str) -> Self {
        Self { status: 200, ..Self::default() }
            .with("Access-Control-Allow-Methods", methods)
            .with("Access-Control-Allow-Headers", "Content-Type, Authorization, X-API-Key")
            .with("Access-Control-Max-Age", "600")
    }

    /// Adds one more header field to the answer.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Appends the answer to `out`.
    pub fn encode(&self, meta: &Meta, out: &mut Vec<u8>) {
        encode_response(out, &meta.head(self.status, self.body.len()), self.fields(), &self.body);
    }

    fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let content_type =
            (!self.content_type.is_empty()).then_some((b"Content-Type".as_slice(), self.content_type.as_bytes()));
        content_type.into_iter().chain(self.headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())))
    }
}

/// The way back to the shard for an answer that is made on another thread.
pub struct Reply {
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) conn: ConnId,
    pub(crate) seq: u64,
    pub(crate) meta: Meta,
    pub(crate) sent: bool,
}

impl Reply {
    /// The same reply without `Access-Control-Allow-Origin`: pages of other sites must not read the answer.
    #[must_use]
    pub fn for_this_site(mut self) -> Self {
        self.meta.cors_origin = None;
        self
    }

    /// Sends the answer.
    pub fn send(mut self, answer: &ServerAnswer) {
        self.deliver(answer);
    }

    /// Sends the answer with the bytes `range` of the regular file `file` in place of its own body.
    pub fn send_file(mut self, answer: &ServerAnswer, file: File, range: Range<u64>) {
        self.sent = true;
        let length = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX);
        let mut bytes = Vec::with_capacity(512);
        // The body has a known length, and its bytes follow the head.
        let head = ResponseHead { head_only: true, ..self.meta.head(answer.status, length) };
        encode_response(&mut bytes, &head, answer.fields(), &[]);
        let pieces = || vec![BodyPiece::File(FileRange::new(Arc::new(OwnedFd::from(file)), range))];
        let attached = (!self.meta.head_only && length > 0).then(|| Attached::Pieces(pieces()));
        self.inbox.push(Message::OwnAnswer { conn: self.conn, seq: self.seq, bytes, attached });
    }

    /// The destination of the answer: the inbox, the connection, and the number of the request.
    pub(crate) fn place(&self) -> (Arc<Inbox>, ConnId, u64) {
        (Arc::clone(&self.inbox), self.conn, self.seq)
    }

    fn deliver(&mut self, answer: &ServerAnswer) {
        self.sent = true;
        let mut bytes = Vec::with_capacity(256 + answer.body.len());
        answer.encode(&self.meta, &mut bytes);
        self.inbox.push(Message::OwnAnswer { conn: self.conn, seq: self.seq, bytes, attached: None });
    }
}

impl Drop for Reply {
    /// A dropped reply (a panic, a queue dropped at shutdown) must still send the client an answer.
    fn drop(&mut self) {
        if !self.sent {
            self.deliver(&shutting_down());
        }
    }
}

/// The answer to a request that can't begin any more, because the server is stopping.
pub(crate) fn shutting_down() -> ServerAnswer {
    ServerAnswer::text(503, "the server is shutting down\n").with("Retry-After", "1")
}

/// The framing of the answer to `view`; the connection is closed after its last answer.
pub(crate) fn meta_of(
    view: &RequestView<'_>,
    date: [u8; 29],
    cors_origin: Option<Arc<str>>,
    preflight: &Arc<Preflight>,
    last: bool,
) -> Meta {
    Meta {
        date,
        keep_alive: view.keep_alive() && !last,
        http_1_0: view.http_1_0(),
        head_only: view.method() == Method::Head,
        cors_origin,
        preflight: (view.method() == Method::Options).then(|| Arc::clone(preflight)),
        switching: None,
    }
}
