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

    /// Frees the memory that is kept for the next request, if no part of that request has come.
    pub fn rest(&mut self) {
        self.release();
        if let DecoderState::Head { searched: 0, .. } = self.state {
            self.head.headers = Vec::new();
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
mod tests;
