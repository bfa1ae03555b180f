//! A request's head: the request line and the header fields.

use super::request_error::RequestError;
use super::target::{Target, is_host};
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;

/// A request method the server knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Method {
    Get,
    Post,
    Put,
    Delete,
    Options,
    Head,
    Patch,
}

impl Method {
    /// The method with this name; names are case-sensitive (RFC 9110 §9.1).
    #[must_use]
    pub fn from_bytes(name: &[u8]) -> Option<Self> {
        Some(match name {
            b"GET" => Self::Get,
            b"POST" => Self::Post,
            b"PUT" => Self::Put,
            b"DELETE" => Self::Delete,
            b"OPTIONS" => Self::Options,
            b"HEAD" => Self::Head,
            b"PATCH" => Self::Patch,
            _ => return None,
        })
    }

    /// The method's name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Options => "OPTIONS",
            Self::Head => "HEAD",
            Self::Patch => "PATCH",
        }
    }

    /// Whether the method is safe: it asks for no change (RFC 9110 §9.2.1).
    #[must_use]
    pub fn is_safe(self) -> bool {
        matches!(self, Self::Get | Self::Options | Self::Head)
    }
}

/// Limits on one request.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Limit, in bytes, on the request line and all header fields.
    pub head_bytes_max: usize,
    /// Limit on the number of header fields.
    pub headers_max: usize,
    /// Limit, in bytes, on the request target.
    pub uri_bytes_max: usize,
    /// Limit, in bytes, on the decoded body.
    pub body_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { head_bytes_max: 16 * 1024, headers_max: 100, uri_bytes_max: 8 * 1024, body_bytes_max: 1024 * 1024 }
    }
}

/// How the body is delimited (RFC 9112 §6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    Length(usize),
    Chunked,
}

/// The position of a part within the bytes of the head.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: u32,
    pub(super) end: u32,
}

impl Span {
    fn of(base: &[u8], part: &[u8]) -> Self {
        // Both slices are parts of one buffer of at most `head_bytes_max` bytes.
        let start = (part.as_ptr() as usize).wrapping_sub(base.as_ptr() as usize);
        let clip = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Self { start: clip(start), end: clip(start.saturating_add(part.len())) }
    }

    fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// How many header fields a request may have before parsing needs a larger array.
const FEW_HEADERS: usize = 32;

/// The parsed head of a request: offsets into its bytes, so that the head can be copied and kept without lifetimes.
#[derive(Debug, Clone)]
pub struct Head {
    pub(super) method: Method,
    pub(super) http_1_0: bool,
    pub(super) keep_alive: bool,
    pub(super) upgrade_websocket: bool,
    pub(super) expect_continue: bool,
    pub(super) framing: Framing,
    pub(super) path: Span,
    pub(super) query: Option<Span>,
    pub(super) headers: Vec<(Span, Span)>,
    /// The name in the certificate of the connection's client: it stays from request to request.
    pub(super) client: Option<Arc<[u8]>>,
}

impl Default for Head {
    fn default() -> Self {
        Self {
            method: Method::Get,
            http_1_0: false,
            keep_alive: true,
            upgrade_websocket: false,
            expect_continue: false,
            framing: Framing::Length(0),
            path: Span::default(),
            query: None,
            headers: Vec::new(),
            client: None,
        }
    }
}

/// Header fields that decide about framing and the connection.
#[derive(Default)]
struct Facts {
    length: Option<usize>,
    chunked: bool,
    hosts: usize,
    close: bool,
    keep_alive: bool,
    expect_continue: bool,
    upgrade_websocket: bool,
}

/// Upper bound of [`Limits::headers_max`].
pub const HEADERS_MAX: usize = 1024;

impl Head {
    /// The method.
    pub(super) fn method(&self) -> Method {
        self.method
    }

    /// Reads the head at the start of `bytes`, which ends at its empty line. Reuses the memory of an earlier head.
    pub(super) fn parse(&mut self, bytes: &[u8], limits: &Limits) -> Result<(), RequestError> {
        match self.parse_known(bytes, limits) {
            Err(RequestError::Version) => {
                let known = as_highest_known(bytes).ok_or(RequestError::Version)?;
                self.parse_known(&known, limits)
            }
            result => result,
        }
    }

    /// Reads a head of HTTP/1.0 or HTTP/1.1.
    fn parse_known(&mut self, bytes: &[u8], limits: &Limits) -> Result<(), RequestError> {
        // Most requests have few fields: only a request with more fields pays for a larger array.
        let mut few = [httparse::EMPTY_HEADER; FEW_HEADERS];
        let mut many = Vec::new();
        let mut request = httparse::Request::new(&mut few);
        let mut result = request.parse(bytes);
        if result == Err(httparse::Error::TooManyHeaders) && limits.headers_max > FEW_HEADERS {
            many.resize(limits.headers_max, httparse::EMPTY_HEADER);
            request = httparse::Request::new(&mut many);
            result = request.parse(bytes);
        }
        match result {
            Ok(httparse::Status::Complete(_)) => {}
            Ok(httparse::Status::Partial) => return Err(RequestError::Syntax("the head is not complete")),
            Err(error) => return Err(syntax(bytes, error)),
        }
        if request.headers.len() > limits.headers_max {
            return Err(RequestError::HeadTooLarge);
        }
        let target = request.path.unwrap_or_default().as_bytes();
        if target.len() > limits.uri_bytes_max {
            return Err(RequestError::UriTooLong);
        }
        self.method =
            Method::from_bytes(request.method.unwrap_or_default().as_bytes()).ok_or(RequestError::UnknownMethod)?;
        self.http_1_0 = request.version == Some(0);
        let target = Target::read(target, self.method == Method::Options)?;
        self.path = Span::of(bytes, target.path);
        self.query = target.query.map(|query| Span::of(bytes, query));
        self.headers.clear();
        let mut facts = Facts::default();
        for field in request.headers.iter() {
            // RFC 9112 §3.2.2: the host of an absolute-form target replaces the value of `Host`.
            let value = match target.authority {
                Some(authority) if field.name.eq_ignore_ascii_case("host") => authority,
                _ => field.value,
            };
            self.headers.push((Span::of(bytes, field.name.as_bytes()), Span::of(bytes, value)));
            facts.learn(field.name, field.value)?;
        }
        self.conclude(&facts)
    }

    fn conclude(&mut self, facts: &Facts) -> Result<(), RequestError> {
        if !self.http_1_0 && facts.hosts != 1 || facts.hosts > 1 {
            return Err(RequestError::Syntax("exactly one Host header field is needed"));
        }
        if facts.chunked && facts.length.is_some() {
            return Err(RequestError::Syntax("Content-Length and Transfer-Encoding contradict each other"));
        }
        if facts.chunked && self.http_1_0 {
            return Err(RequestError::Syntax("HTTP/1.0 has no Transfer-Encoding"));
        }
        self.framing = if facts.chunked { Framing::Chunked } else { Framing::Length(facts.length.unwrap_or(0)) };
        self.keep_alive = !facts.close && (!self.http_1_0 || facts.keep_alive);
        // RFC 9110 §7.8 and §10.1.1: HTTP/1.0 ignores both fields.
        self.upgrade_websocket = facts.upgrade_websocket && !self.http_1_0;
        self.expect_continue = facts.expect_continue && !self.http_1_0;
        Ok(())
    }
}

impl Facts {
    fn learn(&mut self, name: &str, value: &[u8]) -> Result<(), RequestError> {
        // The length of the name distinguishes nearly all fields without comparing bytes.
        match name.len() {
            4 if name.eq_ignore_ascii_case("host") => {
                if !is_host(value) {
                    return Err(RequestError::Syntax("Host is not a host"));
                }
                self.hosts += 1;
            }
            6 if name.eq_ignore_ascii_case("expect") => {
                if !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(RequestError::Expectation);
                }
                self.expect_continue = true;
            }
            7 if name.eq_ignore_ascii_case("upgrade") => {
                self.upgrade_websocket |= tokens(value).any(|token| token.eq_ignore_ascii_case(b"websocket"));
            }
            10 if name.eq_ignore_ascii_case("connection") => {
                for token in tokens(value) {
                    self.close |= token.eq_ignore_ascii_case(b"close");
                    self.keep_alive |= token.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            14 if name.eq_ignore_ascii_case("content-length") => {
                // RFC 9110 §8.6 lets a server accept equal repeated lengths; this server refuses them, because no honest client
                // repeats the field.
                if self.length.is_some() {
                    return Err(RequestError::Syntax("two Content-Length header fields"));
                }
                self.length = Some(content_length(value)?);
            }
            17 if name.eq_ignore_ascii_case("transfer-encoding") => {
                if self.chunked {
                    return Err(RequestError::Syntax("two Transfer-Encoding header fields"));
                }
                only_chunked(value)?;
                self.chunked = true;
            }
            _ => {}
        }
        Ok(())
    }
}

/// The members of a comma-separated list (RFC 9110 §5.6.1).
pub(crate) fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}

/// RFC 9112 §6.2: digits and nothing else.
fn content_length(value: &[u8]) -> Result<usize, RequestError> {
    let bad = RequestError::Syntax("Content-Length is not a number");
    digits(value).and_then(|length| usize::try_from(length).ok()).ok_or(bad)
}

/// A number of decimal digits and nothing else; `None` also for a number of 2^64 or more.
#[must_use]
pub fn digits(value: &[u8]) -> Option<u64> {
    let is_number = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value).ok().filter(|_| is_number)?.parse().ok()
}

/// RFC 9112 §6.3: a body whose last transfer coding is not `chunked` has no end; §7.1 forbids `chunked` twice. The server can't
/// decode another coding beneath `chunked`.
fn only_chunked(value: &[u8]) -> Result<(), RequestError> {
    let is_chunked = |coding: &[u8]| coding.trim_ascii().eq_ignore_ascii_case(b"chunked");
    let mut codings = value.rsplit(|&byte| byte == b',');
    if !codings.next().is_some_and(is_chunked) {
        return Err(RequestError::Syntax("the last transfer coding is not chunked"));
    }
    match codings.next() {
        None => Ok(()),
        Some(next) if is_chunked(next) || codings.any(is_chunked) => Err(RequestError::Syntax("chunked twice")),
        Some(_) => Err(RequestError::UnknownCoding),
    }
}

/// Whether the LF at `at` ends a line correctly (RFC 9112 §2.2): a CR precedes it, and no white space follows it, which would
/// fold the line (§5.2). A lenient parser behind a strict one allows request smuggling. httparse refuses bare CRs and NULs.
pub(super) fn is_line_end(bytes: &[u8], at: usize) -> bool {
    at > 0 && bytes.get(at - 1) == Some(&b'\r') && !matches!(bytes.get(at + 1), Some(b' ' | b'\t'))
}

fn syntax(bytes: &[u8], error: httparse::Error) -> RequestError {
    match error {
        httparse::Error::TooManyHeaders => RequestError::HeadTooLarge,
        // If the line ends in HTTP/1.0 or HTTP/1.1, the version is not the fault: the line is malformed elsewhere.
        httparse::Error::Version if version(bytes).is_some_and(|known| !matches!(known, (b'1', b'0' | b'1'))) => {
            RequestError::Version
        }
        httparse::Error::Version => RequestError::Syntax("the request line has no HTTP version"),
        httparse::Error::Token => RequestError::Syntax("the method or target has a forbidden character"),
        httparse::Error::HeaderName => RequestError::Syntax("a header field's name has a forbidden character"),
        httparse::Error::HeaderValue => RequestError::Syntax("a header field's value has a forbidden character"),
        _ => RequestError::Syntax("the bytes are not an HTTP request"),
    }
}

/// The digits of the version that the request line ends in: `HTTP/` DIGIT `.` DIGIT (RFC 9112 §2.3).
fn version(bytes: &[u8]) -> Option<(u8, u8)> {
    let line = bytes.split(|&byte| byte == b'\r').next()?;
    match line.rsplit(|&byte| byte == b' ').next()? {
        [b'H', b'T', b'T', b'P', b'/', major @ b'0'..=b'9', b'.', minor @ b'0'..=b'9'] => Some((*major, *minor)),
        _ => None,
    }
}

/// The same head as HTTP/1.1, if its version is a later HTTP/1: RFC 9110 §2.5 requires a server to treat such a request so.
fn as_highest_known(bytes: &[u8]) -> Option<Vec<u8>> {
    if !matches!(version(bytes)?, (b'1', b'2'..)) {
        return None;
    }
    let minor = memchr::memchr(b'\r', bytes)?.checked_sub(1)?;
    let mut known = bytes.to_vec();
    *known.get_mut(minor)? = b'1';
    Some(known)
}

/// A whole request, borrowed from its receive buffer or from its decoder.
#[derive(Debug, Clone, Copy)]
pub struct RequestView<'a> {
    /// Offsets into `bytes`.
    pub head: &'a Head,
    /// The bytes of the head.
    pub bytes: &'a [u8],
    /// The body, decoded.
    pub body: &'a [u8],
    /// The decoded body, where it can be shared instead of copied.
    pub shared: Option<&'a Arc<Vec<u8>>>,
    /// The address at the other end of the connection; `None`: a Unix socket, or not known.
    pub peer: Option<IpAddr>,
}

impl<'a> RequestView<'a> {
    fn slice(&self, span: Span) -> &'a [u8] {
        self.bytes.get(span.range()).unwrap_or_default()
    }

    /// The method.
    #[must_use]
    pub fn method(&self) -> Method {
        self.head.method
    }

    /// The path: without the query, not percent-decoded.
    #[must_use]
    pub fn path(&self) -> &'a [u8] {
        self.slice(self.head.path)
    }

    /// What follows the first `?` of the target.
    #[must_use]
    pub fn query(&self) -> Option<&'a [u8]> {
        self.head.query.map(|span| self.slice(span))
    }

    /// Names and values of the header fields, in the order of arrival.
    pub fn headers(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let view = *self;
        view.head.headers.iter().map(move |&(name, value)| (view.slice(name), view.slice(value)))
    }

    /// The first value of the field `name`, in any case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.headers().find(|(known, _)| known.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value)
    }

    /// The value of the field `name`, which is no list: two such fields are treated like none (RFC 9110 §5.3).
    #[must_use]
    pub fn only_header(&self, name: &str) -> Option<&'a [u8]> {
        let mut fields = self.headers().filter(|(known, _)| known.eq_ignore_ascii_case(name.as_bytes()));
        let (_, value) = fields.next()?;
        fields.next().is_none().then_some(value)
    }

    /// Whether any field `name` lists `token` (RFC 9110 §5.6.1).
    #[must_use]
    pub fn has_token(&self, name: &str, token: &str) -> bool {
        self.headers()
            .filter(|(known, _)| known.eq_ignore_ascii_case(name.as_bytes()))
            .any(|(_, value)| tokens(value).any(|listed| listed.eq_ignore_ascii_case(token.as_bytes())))
    }

    /// The name in the certificate that the client has proved to have: UTF-8, without control characters.
    #[must_use]
    pub fn client_name(&self) -> Option<&'a [u8]> {
        self.head.client.as_deref()
    }

    /// Whether the client wants to keep the connection open (RFC 9112 §9.3).
    #[must_use]
    pub fn keep_alive(&self) -> bool {
        self.head.keep_alive
    }

    /// Whether the request is HTTP/1.0.
    #[must_use]
    pub fn http_1_0(&self) -> bool {
        self.head.http_1_0
    }

    /// Whether the body came in chunks.
    #[must_use]
    pub fn is_chunked(&self) -> bool {
        self.head.framing == Framing::Chunked
    }

    /// Whether the request asks for an upgrade to WebSocket (RFC 6455 §4.2.1).
    #[must_use]
    pub fn is_websocket_upgrade(&self) -> bool {
        self.head.upgrade_websocket
    }
}
