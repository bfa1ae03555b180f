//! Decodes requests from a stream of bytes.

use super::chunked::{BodyPiece, Chunked};
use super::head::{Framing, Head, Limits, Method, RequestView, is_line_end};
use super::request_error::RequestError;
use std::sync::Arc;

/// Smallest step, in bytes, by which memory for a body grows as its bytes arrive. A client that announces a large body and
/// sends little costs little memory.
const BODY_STEP_BYTES: usize = 64 * 1024;

/// Once this many bytes of a body have arrived, memory for the whole announced body is allocated.
const BODY_TRUSTED_BYTES: usize = 1024 * 1024;

/// A gathered body of at least this many bytes is shared with the holders of the request. A smaller body is copied, which costs
/// no more.
const SHARED_BYTES_MIN: usize = 16 * 1024;

/// Limit on the empty lines before a request (RFC 9112 §2.2).
const EMPTY_LINES_MAX: usize = 4;

/// Result of [`RequestDecoder::decode`]. The first `consumed` bytes of the input are processed. The caller passes the other
/// bytes again, followed by those that have arrived since.
#[derive(Debug)]
pub enum Decoded<'a> {
    /// The request is not complete.
    NeedMore {
        /// Bytes that are processed.
        consumed: usize,
    },
    /// The head is complete and the body is not. Reported once a request, before any byte of its body is taken. The caller may
    /// then call [`RequestDecoder::limit_body`].
    Body {
        /// Bytes that are processed.
        consumed: usize,
        /// The request without its body.
        view: RequestView<'a>,
        /// Bytes of the body, if the client has announced the length.
        announced: Option<usize>,
        /// The client waits for `100 Continue` before it sends the body.
        expects_continue: bool,
    },
    /// A whole request.
    Request {
        /// Bytes that are processed.
        consumed: usize,
        /// The request.
        view: RequestView<'a>,
    },
}

#[derive(Debug)]
enum DecoderState {
    /// Searching for the end of the head. `searched`: bytes that were searched; `skipped`: consumed bytes of empty lines before
    /// the head.
    Head { searched: usize, skipped: usize },
    /// The head is in `head_bytes`; `left` bytes of the body are still to come.
    Length { left: usize },
    /// The head is in `head_bytes`.
    Chunked(Chunked),
    /// The request in `head_bytes` and `body` has been handed out.
    Done,
}

/// Decodes the requests of one connection. A request that lies whole in the input is handed out in place; otherwise the decoder
/// gathers its head and body.
#[derive(Debug)]
pub struct RequestDecoder {
    limits: Limits,
    state: DecoderState,
    head: Head,
    head_bytes: Vec<u8>,
    body: Vec<u8>,
    /// The whole body, if it is large.
    whole: Option<Arc<Vec<u8>>>,
    /// Limit, in bytes, on this request's body.
    body_bytes_max: usize,
}

impl RequestDecoder {
    /// A decoder that holds no memory yet.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            body_bytes_max: limits.body_bytes_max,
            limits,
            state: DecoderState::Head { searched: 0, skipped: 0 },
            head: Head::default(),
            head_bytes: Vec::new(),
            body: Vec::new(),
            whole: None,
        }
    }

    /// Sets the name in the certificate of the client whose requests these are: see [`RequestView::client_name`].
    pub fn set_client(&mut self, name: Arc<[u8]>) {
        self.head.client = Some(name);
    }

    /// Limits this request's body to `bytes_max` bytes, after [`Decoded::Body`]; the general limit still applies. A caller that
    /// finds the announced length too large must answer before calling this.
    pub fn limit_body(&mut self, bytes_max: usize) {
        self.body_bytes_max = bytes_max.min(self.limits.body_bytes_max);
    }

    /// Bytes of the body that the decoder has gathered.
    #[must_use]
    pub fn gathered(&self) -> usize {
        self.body.len()
    }

    /// Bytes of memory that the incomplete request holds.
    #[must_use]
    pub fn held(&self) -> usize {
        self.head_bytes.len() + self.body.len()
    }

    /// Frees the memory of a request that will not be completed.
    pub fn discard(&mut self) {
        (self.head_bytes, self.body, self.whole) = (Vec::new(), Vec::new(), None);
    }

    /// Frees the memory of a request that has been handed out.
    pub fn release(&mut self) {
        if matches!(self.state, DecoderState::Done) {
            self.discard();
            self.state = DecoderState::Head { searched: 0, skipped: 0 };
        }
    }

    /// Takes the next request from `input`.
    ///
    /// # Errors
    /// Framing is lost; the decoder must not be used again.
    pub fn decode<'a>(&'a mut self, input: &'a [u8]) -> Result<Decoded<'a>, RequestError> {
        match self.state {
            DecoderState::Head { searched, skipped } => self.decode_head(input, searched, skipped),
            DecoderState::Done => {
                self.release();
                self.decode_head(input, 0, 0)
            }
            DecoderState::Length { .. } | DecoderState::Chunked(_) => self.decode_body(input),
        }
    }

    fn decode_head<'a>(
        &'a mut self,
        input: &'a [u8],
        searched: usize,
        skipped_before: usize,
    ) -> Result<Decoded<'a>, RequestError> {
        let skipped = empty_lines(input, skipped_before)?;
        let bytes = input.get(skipped..).unwrap_or_default();
        let Some(head_len) = head_length(bytes, searched)? else {
            self.head_incomplete(bytes, skipped_before + skipped)?;
            return Ok(Decoded::NeedMore { consumed: skipped });
        };
        if head_len > self.limits.head_bytes_max {
            return Err(self.too_large(bytes));
        }
        let (head_bytes, rest) = bytes.split_at_checked(head_len).unwrap_or((bytes, &[]));
        self.state = DecoderState::Head { searched: 0, skipped: 0 };
        self.head.parse(head_bytes, &self.limits)?;
        if let Framing::Length(length) = self.head.framing {
            // The general limit is applied only to a body that gathers here: callers that take the body piece by piece have
            // other limits.
            let gathers = length <= self.limits.body_bytes_max;
            if let Some(body) = rest.get(..length).filter(|_| gathers) {
                let view = RequestView { head: &self.head, bytes: head_bytes, body, shared: None, peer: None };
                return Ok(Decoded::Request { consumed: skipped + head_len + length, view });
            }
        }
        self.head_bytes.clear();
        self.head_bytes.extend_from_slice(head_bytes);
        self.body.clear();
        self.body_bytes_max = self.limits.body_bytes_max;
        let announced;
        (self.state, announced) = match self.head.framing {
            Framing::Length(left) => (DecoderState::Length { left }, Some(left)),
            Framing::Chunked => (DecoderState::Chunked(Chunked::new()), None),
        };
        let view = RequestView { head: &self.head, bytes: &self.head_bytes, body: &[], shared: None, peer: None };
        let expects_continue = self.head.expect_continue && rest.is_empty();
        Ok(Decoded::Body { consumed: skipped + head_len, view, announced, expects_continue })
    }

    fn head_incomplete(&mut self, bytes: &[u8], skipped: usize) -> Result<(), RequestError> {
        // A short head that arrives byte by byte must not be searched again for each byte.
        if bytes.get(..self.request_line_max()).is_some_and(|line| memchr::memchr(b'\n', line).is_none()) {
            return Err(RequestError::UriTooLong);
        }
        if bytes.len() > self.limits.head_bytes_max {
            return Err(self.too_large(bytes));
        }
        // The end of the head may begin in the last three bytes.
        self.state = DecoderState::Head { searched: bytes.len().saturating_sub(3), skipped };
        Ok(())
    }

    /// Limit, in bytes, on the request line: the longest target, the method and the version.
    fn request_line_max(&self) -> usize {
        self.limits.uri_bytes_max.saturating_add(64)
    }

    /// Which part of a too large head is too large: its request line (RFC 9112 §3 then asks for 414), or the rest.
    fn too_large(&self, bytes: &[u8]) -> RequestError {
        let line = bytes.get(..self.request_line_max()).unwrap_or(bytes);
        if memchr::memchr(b'\n', line).is_none() { RequestError::UriTooLong } else { RequestError::HeadTooLarge }
    }

    /// Whether the request that [`RequestDecoder::decode`] refused is a HEAD, given the same `input`. The answer to a HEAD has
    /// no body (RFC 9110 §9.3.2).
    #[must_use]
    pub fn refused_head(&self, input: &[u8]) -> bool {
        match self.state {
            DecoderState::Head { .. } | DecoderState::Done => {
                let lines = empty_lines(input, 0).unwrap_or_default();
                input.get(lines..).is_some_and(|request| request.starts_with(b"HEAD "))
            }
            DecoderState::Length { .. } | DecoderState::Chunked(_) => self.head.method() == Method::Head,
        }
    }

    fn decode_body<'a>(&'a mut self, rest: &'a [u8]) -> Result<Decoded<'a>, RequestError> {
        let (used, done) = match &mut self.state {
            DecoderState::Length { left } if *left > self.body_bytes_max.saturating_sub(self.body.len()) => {
                return Err(RequestError::BodyTooLarge);
            }
            DecoderState::Length { left } => {
                let part = rest.get(..(*left).min(rest.len())).unwrap_or_default();
                if self.body.capacity() - self.body.len() < part.len() {
                    let reserved = if self.body.len() < BODY_TRUSTED_BYTES {
                        self.body.try_reserve(part.len().max(BODY_STEP_BYTES.min(*left)))
                    } else {
                        // Reserves addresses only, until the bytes arrive: growing in steps would copy the bytes again and
                        // again.
                        self.body.try_reserve_exact(*left)
                    };
                    reserved.map_err(|_| RequestError::NoMemory)?;
                }
                self.body.extend_from_slice(part);
                *left -= part.len();
                (part.len(), *left == 0)
            }
            DecoderState::Chunked(chunked) => chunked.decode(rest, &mut self.body, self.body_bytes_max)?,
            DecoderState::Head { .. } | DecoderState::Done => (0, false),
        };
        if !done {
            return Ok(Decoded::NeedMore { consumed: used });
        }
        self.state = DecoderState::Done;
        if self.body.len() >= SHARED_BYTES_MIN {
            self.whole = Some(Arc::new(std::mem::take(&mut self.body)));
        }
        let shared = self.whole.as_ref();
        let body = shared.map_or(self.body.as_slice(), |whole| whole.as_slice());
        let view = RequestView { head: &self.head, bytes: &self.head_bytes, body, shared, peer: None };
        Ok(Decoded::Request { consumed: used, view })
    }
}

/// After [`Decoded::Body`], the caller may call these functions instead of [`RequestDecoder::decode`]. They hand out the body
/// piece by piece and hold no memory for it. The caller must call [`RequestDecoder::release`] after the last piece.
impl RequestDecoder {
    /// Takes the body piece by piece, at most `bytes_max` bytes in all; `None`: no limit.
    pub fn stream_body(&mut self, bytes_max: Option<usize>) {
        self.body_bytes_max = bytes_max.unwrap_or(usize::MAX);
    }

    /// The request without its body.
    #[must_use]
    pub fn head_view(&self) -> RequestView<'_> {
        RequestView { head: &self.head, bytes: &self.head_bytes, body: &[], shared: None, peer: None }
    }

    /// Bytes of the body that are still to come, if the client has announced the length.
    #[must_use]
    pub fn body_left(&self) -> Option<usize> {
        match self.state {
            DecoderState::Length { left } => Some(left),
            DecoderState::Done => Some(0),
            DecoderState::Head { .. } | DecoderState::Chunked(_) => None,
        }
    }

    /// Takes the next piece from `input`, of at most `room` bytes. When nothing is consumed, there is no room or more bytes
    /// must arrive.
    ///
    /// # Errors
    /// Framing is lost, or the body exceeds its limit; the decoder must not be used again.
    pub fn body_piece<'a>(&mut self, input: &'a [u8], room: usize) -> Result<BodyPiece<'a>, RequestError> {
        let piece = match &mut self.state {
            DecoderState::Length { left } => {
                let bytes = input.get(..(*left).min(input.len()).min(room)).unwrap_or_default();
                *left -= bytes.len();
                BodyPiece { consumed: bytes.len(), bytes, done: *left == 0 }
            }
            DecoderState::Chunked(chunked) => chunked.piece(input, room)?,
            DecoderState::Head { .. } | DecoderState::Done => BodyPiece { consumed: 0, bytes: &[], done: true },
        };
        if piece.bytes.len() > self.body_bytes_max {
            return Err(RequestError::BodyTooLarge);
        }
        self.body_bytes_max -= piece.bytes.len();
        if piece.done {
            self.state = DecoderState::Done;
        }
        Ok(piece)
    }
}

/// How many bytes of empty lines are at the start of `input`; `before` bytes of empty lines preceded it.
fn empty_lines(input: &[u8], before: usize) -> Result<usize, RequestError> {
    let mut at = 0;
    while input.get(at..).is_some_and(|rest| rest.starts_with(b"\r\n")) {
        at += 2;
        if before + at > EMPTY_LINES_MAX * 2 {
            return Err(RequestError::Syntax("too many empty lines before a request"));
        }
    }
    Ok(at)
}

/// The length of the head at the start of `bytes`, with its empty line; `None` while the head is not complete. The end of the
/// head does not begin in the first `searched` bytes. A line that is folded or does not end in CRLF is refused at once.
fn head_length(bytes: &[u8], searched: usize) -> Result<Option<usize>, RequestError> {
    for at in memchr::memchr_iter(b'\n', bytes.get(searched..).unwrap_or_default()).map(|at| searched + at) {
        // Any byte may follow the empty line: the body begins there.
        if bytes.get(..at).is_some_and(|before| before.ends_with(b"\r\n\r")) {
            return Ok(Some(at + 1));
        }
        if !is_line_end(bytes, at) {
            return Err(RequestError::Syntax("a line does not end in CRLF, or is folded"));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Found = (Method, Vec<u8>, Option<Vec<u8>>, Vec<(Vec<u8>, Vec<u8>)>, Vec<u8>, bool);

    fn own(view: &RequestView<'_>) -> Found {
        let headers = view.headers().map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
        let query = view.query().map(<[u8]>::to_vec);
        (view.method(), view.path().to_vec(), query, headers, view.body.to_vec(), view.keep_alive())
    }

    /// Decodes `input` as it would arrive in pieces that end at `cuts`.
    fn decode_all(input: &[u8], cuts: &[usize]) -> (Vec<Found>, Option<RequestError>) {
        let mut decoder = RequestDecoder::new(Limits { body_bytes_max: 5000, ..Limits::default() });
        let (mut found, mut at, mut end) = (Vec::new(), 0, 0);
        for &cut in cuts.iter().chain(std::iter::once(&input.len())) {
            end = cut.clamp(end, input.len());
            loop {
                match decoder.decode(&input[at..end]) {
                    Ok(Decoded::NeedMore { consumed }) => {
                        at += consumed;
                        break;
                    }
                    Ok(Decoded::Body { consumed, .. }) => at += consumed,
                    Ok(Decoded::Request { consumed, view }) => {
                        found.push(own(&view));
                        at += consumed;
                    }
                    Err(error) => return (found, Some(error)),
                }
            }
        }
        (found, None)
    }

    fn one(input: &str) -> Result<Found, RequestError> {
        match decode_all(input.as_bytes(), &[]) {
            (_, Some(error)) => Err(error),
            (mut found, None) => Ok(found.remove(0)),
        }
    }

    fn status(input: &str) -> u16 {
        one(input).map_or_else(|error| error.status(), |_| 200)
    }

    #[test]
    fn a_request_is_handed_out_in_place() {
        let input = b"GET /a/b?c=d HTTP/1.1\r\nHost: x\r\nX-Y:  z \r\n\r\nrest";
        let mut decoder = RequestDecoder::new(Limits::default());
        let Ok(Decoded::Request { consumed, view }) = decoder.decode(input) else { panic!() };
        assert_eq!(consumed, input.len() - 4);
        assert_eq!((view.path(), view.query()), (b"/a/b".as_slice(), Some(b"c=d".as_slice())));
        assert_eq!(view.header("x-y"), Some(b"z".as_slice()));
        assert!(view.keep_alive() && !view.http_1_0());
        assert!(std::ptr::eq(view.bytes.as_ptr(), input.as_ptr()));
    }

    #[test]
    fn rfc_9112_9_3_persistence() {
        let keeps = |text: &str| one(text).unwrap().5;
        assert!(keeps("GET / HTTP/1.1\r\nHost: x\r\n\r\n"));
        assert!(!keeps("GET / HTTP/1.1\r\nHost: x\r\nConnection: foo, Close\r\n\r\n"));
        assert!(!keeps("GET / HTTP/1.0\r\n\r\n"));
        assert!(keeps("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"));
    }

    #[test]
    fn rfc_9112_6_3_framing_that_could_smuggle_is_refused() {
        let post = |fields: &str| status(&format!("POST / HTTP/1.1\r\nHost: x\r\n{fields}\r\n\r\n0\r\n\r\n"));
        assert_eq!(post("Content-Length: 5\r\nTransfer-Encoding: chunked"), 400);
        assert_eq!(post("Content-Length: 5\r\nContent-Length: 6"), 400);
        assert_eq!(post("Content-Length: 5\r\nContent-Length: 5"), 400);
        for bad in ["+5", "-5", "5 5", "0x5", "5,5", "", "99999999999999999999999"] {
            assert_eq!(post(&format!("Content-Length: {bad}")), 400, "{bad}");
        }
        assert_eq!(post("Transfer-Encoding: chunked"), 200);
        assert_eq!(post("Transfer-Encoding: gzip, chunked"), 501);
        for bad in
            ["xchunked", "identity", "gzip", "", "chunked, identity", "chunked, chunked", "chunked,", "chunked;a=b"]
        {
            assert_eq!(post(&format!("Transfer-Encoding: {bad}")), 400, "{bad}");
        }
        assert_eq!(post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"), 400);
        assert_eq!(post("Content-Length: 5001"), 413);
    }

    #[test]
    fn rfc_9112_syntax() {
        let get = |lines: &str| status(&format!("GET / HTTP/1.1\r\n{lines}\r\n\r\n"));
        assert_eq!(get("Host: x"), 200);
        assert_eq!(get("X: y"), 400); // §3.2: no Host
        assert_eq!(get("Host: x\r\nHost: x"), 400);
        assert_eq!(get("Host: x\r\nA : b"), 400); // §5.1: space before the colon
        assert_eq!(get("Host: x\r\nA: b\r\n c"), 400); // §5.2: folded line
        assert_eq!(get("Host: x\nA: b"), 400); // §2.2: bare LF
        assert_eq!(get("Host: x\r\nA: b\rc"), 400); // §2.2: bare CR
        assert_eq!(get("Host: x\r\nA: b\0c"), 400);
        assert_eq!(status("GET / HTTP/1.1\nHost: x\n\n"), 400);
        assert_eq!(status("\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n"), 200); // §2.2
        assert_eq!(status("GET / HTTP/2.0\r\nHost: x\r\n\r\n"), 505);
        assert_eq!(status("GET / FTP/1.1\r\nHost: x\r\n\r\n"), 400);
        assert_eq!(status("GET / HTTP/1.2\r\nHost: x\r\n\r\n"), 200); // RFC 9110 §2.5
        assert_eq!(status("GET / HTTP/1.10\r\nHost: x\r\n\r\n"), 400);
        assert_eq!(get("Host: a b"), 400);
        assert_eq!(status("BREW / HTTP/1.1\r\nHost: x\r\n\r\n"), 501);
        assert_eq!(status("get / HTTP/1.1\r\nHost: x\r\n\r\n"), 501); // RFC 9110 §9.1: case-sensitive
        assert_eq!(get("Host: x\r\nExpect: wonders"), 417);
    }

    #[test]
    fn rfc_9112_2_2_empty_lines_are_counted_however_they_arrive() {
        let lines = |count: usize| ["\r\n".repeat(count).as_bytes(), b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"].concat();
        for (count, found) in [(EMPTY_LINES_MAX, 1), (EMPTY_LINES_MAX + 1, 0)] {
            let input = lines(count).repeat(2);
            let cuts: Vec<usize> = (0..input.len()).collect();
            assert_eq!(decode_all(&input, &cuts), decode_all(&input, &[]));
            assert_eq!(decode_all(&input, &cuts).0.len(), found * 2);
        }
    }

    #[test]
    fn rfc_9112_3_2_targets() {
        let target = |target: &str| one(&format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n"));
        assert_eq!(target("http://h/p?q").unwrap().1, b"/p");
        // §3.2.2: the Host field is ignored.
        assert_eq!(target("http://h/p?q").unwrap().3[0], (b"Host".to_vec(), b"h".to_vec()));
        // RFC 3986 §3.2: the authority ends at the first / or ?; RFC 9110 §4.2.1: it may not be empty.
        let parts = |text: &str| target(text).map(|found| (found.1, found.2)).unwrap();
        assert_eq!(parts("http://h?x=/mgnt"), (b"/".to_vec(), Some(b"x=/mgnt".to_vec())));
        assert_eq!(parts("HTTPS://h"), (b"/".to_vec(), None));
        assert_eq!(target("http:///p").unwrap_err().status(), 400);
        assert_eq!(target("h:80").unwrap_err().status(), 400);
        assert_eq!(target("*").unwrap_err().status(), 400);
        assert_eq!(status("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n"), 200);
        assert_eq!(target("relative").unwrap_err().status(), 400);
    }

    #[test]
    fn limits() {
        let long = "a".repeat(9000);
        assert_eq!(status(&format!("GET /{long} HTTP/1.1\r\nHost: x\r\n\r\n")), 414);
        assert_eq!(decode_all(format!("GET /{long}").as_bytes(), &[]).1.unwrap().status(), 414);
        let longer = "a".repeat(20_000);
        assert_eq!(status(&format!("GET /{longer} HTTP/1.1\r\nHost: x\r\n\r\n")), 414);
        assert_eq!(decode_all(format!("GET /{longer}").as_bytes(), &[]).1.unwrap().status(), 414);
        let fields = "X: y\r\n".repeat(101);
        assert_eq!(status(&format!("GET / HTTP/1.1\r\nHost: x\r\n{fields}\r\n")), 431);
        let field = format!("X: {}\r\n", "y".repeat(17_000));
        assert_eq!(status(&format!("GET / HTTP/1.1\r\nHost: x\r\n{field}\r\n")), 431);
        assert_eq!(decode_all(format!("GET / HTTP/1.1\r\n{field}").as_bytes(), &[]).1.unwrap().status(), 431);
    }

    #[test]
    fn an_expectation_is_announced_once_and_only_when_the_body_is_awaited() {
        let mut decoder = RequestDecoder::new(Limits::default());
        let head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n";
        let Ok(Decoded::Body { consumed, announced: Some(2), expects_continue: true, .. }) = decoder.decode(head)
        else {
            panic!()
        };
        assert_eq!(consumed, head.len());
        assert!(matches!(decoder.decode(b"a"), Ok(Decoded::NeedMore { consumed: 1 })));
        let Ok(Decoded::Request { view, .. }) = decoder.decode(b"b") else { panic!() };
        assert_eq!(view.body, b"ab");
        let both = [head.as_slice(), b"ab"].concat();
        assert!(matches!(decoder.decode(&both), Ok(Decoded::Request { .. })));
    }

    #[test]
    fn a_body_that_is_still_to_come_is_announced_and_may_be_limited() {
        let head = b"POST /p HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
        let whole = [head.as_slice(), b"3\r\nabc\r\n0\r\n\r\n"].concat();
        for (limit, fits) in [(2, false), (3, true), (usize::MAX, true)] {
            let mut decoder = RequestDecoder::new(Limits { body_bytes_max: 5, ..Limits::default() });
            for _ in 0..2 {
                let Ok(Decoded::Body { consumed, view, announced: None, .. }) = decoder.decode(&whole) else {
                    panic!()
                };
                assert_eq!((consumed, view.path()), (head.len(), b"/p".as_slice()));
                decoder.limit_body(limit);
                match decoder.decode(&whole[head.len()..]) {
                    Ok(Decoded::Request { view, .. }) if fits => assert_eq!(view.body, b"abc"),
                    Err(RequestError::BodyTooLarge) if !fits => break,
                    other => panic!("{other:?}"),
                }
                assert_eq!(decoder.gathered(), 3);
                decoder.release();
                assert_eq!((decoder.gathered(), decoder.body.capacity()), (0, 0));
            }
        }
        // The general limit applies to every route's limit, and the limit of one request does not apply to the next.
        let mut decoder = RequestDecoder::new(Limits { body_bytes_max: 2, ..Limits::default() });
        assert!(matches!(decoder.decode(&whole), Ok(Decoded::Body { .. })));
        decoder.limit_body(100);
        assert!(matches!(decoder.decode(&whole[head.len()..]), Err(RequestError::BodyTooLarge)));
    }

    fn request() -> impl Strategy<Value = Vec<u8>> {
        let body = proptest::collection::vec(any::<u8>(), 0..300);
        (0..4_u8, "[a-z]{0,9}", body, proptest::collection::vec(1..50_usize, 0..8)).prop_map(
            |(kind, path, body, cuts)| {
                let mut out = format!("POST /{path}?q HTTP/1.1\r\nHost: h\r\nX-{path}: v\r\n").into_bytes();
                match kind {
                    0 => out.extend_from_slice(b"\r\n"),
                    1 | 2 => {
                        out.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
                        out.extend_from_slice(&body);
                    }
                    _ => {
                        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
                        let mut rest = body.as_slice();
                        for cut in cuts {
                            let (part, others) = rest.split_at(cut.min(rest.len()));
                            if !part.is_empty() {
                                out.extend_from_slice(format!("{:x};e=1\r\n", part.len()).as_bytes());
                                out.extend_from_slice(part);
                                out.extend_from_slice(b"\r\n");
                            }
                            rest = others;
                        }
                        out.extend_from_slice(b"0\r\nT: t\r\n\r\n");
                    }
                }
                out
            },
        )
    }

    proptest! {
        #[test]
        fn cuts_anywhere_give_the_same_requests(
            requests in proptest::collection::vec(request(), 1..4),
            mut cuts in proptest::collection::vec(0..1500_usize, 0..12),
        ) {
            let input = requests.concat();
            cuts.sort_unstable();
            let whole = decode_all(&input, &[]);
            prop_assert_eq!(whole.1, None);
            prop_assert_eq!(whole.0.len(), requests.len());
            prop_assert_eq!(decode_all(&input, &cuts), whole);
        }

        #[test]
        fn any_bytes_are_decoded_or_refused(input in proptest::collection::vec(any::<u8>(), 0..400), cut in 0..400_usize) {
            let _ = decode_all(&input, &[cut]);
        }

        #[test]
        fn any_bytes_after_a_request_line_are_decoded_or_refused(tail in "[ -~\r\n]{0,200}", cut in 0..200_usize) {
            let _ = decode_all(format!("GET / HTTP/1.1\r\n{tail}\r\n\r\n").as_bytes(), &[cut]);
        }
    }
}
