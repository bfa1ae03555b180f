//! The shard's side of a streamed answer.

use super::pipe::{self, Corrupt, Peek, Pipe, Reader};
use super::slots::CallSlot;
use crate::domain::call::AnswerMeta;
use crate::net::{ConnId, Lent};
use crate::proto::http1::{encode_response, encode_stream_head};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Smaller pieces are copied; pieces of at least this many bytes are sent from their place in the pipe.
const LENT_BYTES_MIN: usize = 16 * 1024;

/// The owner of the slots for answers, which is notified about each slot.
pub trait Home: Send + Sync {
    /// The whole answer is sent, or its client has gone: the slot may be reused.
    fn over(&self, slot: u32);

    /// A writer that does not sleep has asked to be notified of room.
    fn room(&self, slot: u32);
}

/// The delimitation of an answer (RFC 9112 §6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// The answer has no body: it answers HEAD, or its status has no body.
    None,
    /// This many bytes are still to come.
    Length(u64),
    /// The body is chunked.
    Chunked,
    /// The body ends with the connection.
    Close,
}

/// A streamed answer on its way to its connection.
#[derive(Debug)]
pub struct StreamBegin {
    /// The connection.
    pub conn: ConnId,
    /// The number of the request on that connection.
    pub seq: u64,
    /// The encoded head.
    pub head: Vec<u8>,
    /// The delimitation of the body.
    pub framing: Framing,
    /// Whether the connection stays open after the answer.
    pub keep_alive: bool,
    /// The body of the answer.
    pub answer: Answer,
}

/// The head of a streamed answer, and the delimitation of its body. Also returns the number of header fields that can't be
/// sent and were dropped.
#[must_use]
pub fn begin_answer<'h>(
    meta: &AnswerMeta,
    status: u16,
    headers: impl Iterator<Item = (&'h [u8], &'h [u8])> + Clone,
    length: Option<u64>,
) -> (Vec<u8>, Framing, bool, u32) {
    let mut out = Vec::with_capacity(512);
    let length = length.and_then(|length| usize::try_from(length).ok());
    let mut head = meta.head(status, length.unwrap_or(0));
    // RFC 9112 §9.6: the handler may close the connection with its answer.
    head.keep_alive &= !headers.clone().any(|(name, value)| says_close(name, value));
    let framing = match length {
        _ if !head.has_body() => Framing::None,
        Some(length) => Framing::Length(length as u64),
        None if meta.http_1_0 => Framing::Close,
        None => Framing::Chunked,
    };
    if framing == Framing::Close {
        head.keep_alive = false;
    }
    let keep_alive = head.keep_alive;
    let chunked = matches!(framing, Framing::Chunked | Framing::Close) || head.head_only && length.is_none();
    let dropped = if chunked && status != 204 && status != 304 && status != 205 {
        encode_stream_head(&mut out, &head, headers)
    } else {
        encode_response(&mut out, &head, headers, &[])
    };
    (out, framing, keep_alive, dropped)
}

/// Whether a header field is a `Connection` with the option `close`.
fn says_close(name: &[u8], value: &[u8]) -> bool {
    let is_close = |option: &[u8]| option.trim_ascii().eq_ignore_ascii_case(b"close");
    name.eq_ignore_ascii_case(b"connection") && value.split(|&byte| byte == b',').any(is_close)
}

/// The data that must exist until the last piece is sent.
struct End {
    pipe: Pipe,
    slot: u32,
    home: Arc<dyn Home>,
    /// Keeps a call's own slot taken.
    _call: Option<Arc<CallSlot>>,
    released: AtomicU64,
}

impl End {
    /// Returns the bytes before `position` to the writer.
    fn release(&self, position: u64) {
        let before = self.released.fetch_max(position, Ordering::Relaxed);
        if position > before && pipe::give_back(&self.pipe, position) {
            self.home.room(self.slot);
        }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.pipe.leave(libc::ECONNRESET);
        self.home.over(self.slot);
    }
}

/// The body of a streamed answer. Dropping it, and all pieces taken from it, tells the writer that its reader has gone.
pub struct Answer {
    reader: Reader,
    end: Arc<End>,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("slot", &self.end.slot).finish_non_exhaustive()
    }
}

/// The next part of an answer.
#[derive(Debug)]
pub enum Next {
    /// Copied bytes.
    Copied(Vec<u8>),
    /// Bytes in their place in the pipe.
    Lent(Box<dyn Lent>),
    /// No bytes yet: a notice comes when there are some.
    Empty,
    /// The end: the handler has completed the answer.
    Ended {
        /// Lines of trailer fields as the module's process wrote them, unchecked.
        trailers: Vec<u8>,
    },
    /// A failure: the handler has not completed the answer, or its process has broken the protocol.
    Failed,
}

impl Answer {
    /// The answer in `pipe`, which belongs to `slot`.
    pub(in crate::domain) fn new(pipe: Pipe, slot: u32, call: Option<Arc<CallSlot>>, home: Arc<dyn Home>) -> Self {
        let released = AtomicU64::new(0);
        Self { reader: Reader::new(pipe.clone()), end: Arc::new(End { pipe, slot, home, _call: call, released }) }
    }

    fn peek(&mut self) -> Result<Peek, Corrupt> {
        self.reader.peek(self.end.released.load(Ordering::Relaxed))
    }

    /// Takes the next bytes, at most `bytes_max`.
    pub fn next(&mut self, bytes_max: usize) -> Next {
        let mut found = self.peek();
        if found == Ok(Peek::Empty) {
            self.reader.await_bytes();
            found = self.peek();
            if found != Ok(Peek::Empty) {
                self.reader.awake();
            }
        }
        match found {
            Ok(Peek::Bytes(count)) => self.take(count.min(bytes_max)),
            Ok(Peek::Empty) => Next::Empty,
            Ok(Peek::Ended) => Next::Ended { trailers: self.reader.trailers() },
            Ok(Peek::Failed(_)) | Err(Corrupt) => Next::Failed,
        }
    }

    fn take(&mut self, count: usize) -> Next {
        let range = self.reader.take(count);
        let position = self.reader.at();
        // Bytes after a lent piece can't be released before that piece is sent.
        if range.len() >= LENT_BYTES_MIN || Arc::strong_count(&self.end) > 1 {
            return Next::Lent(Box::new(Piece { range, position, end: Arc::clone(&self.end) }));
        }
        let bytes = pipe::memory(self.reader.pipe()).load_any(range);
        self.end.release(position);
        Next::Copied(bytes)
    }
}

/// A piece of an answer that is sent from its place in the pipe.
struct Piece {
    range: Range<usize>,
    /// The position after its last byte.
    position: u64,
    end: Arc<End>,
}

impl fmt::Debug for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Piece").field(&self.range).finish()
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.end.release(self.position);
    }
}

// SAFETY: the range lies within a mapping that the pipe keeps alive.
unsafe impl Lent for Piece {
    fn pointer(&self) -> *const u8 {
        pipe::memory(&self.end.pipe).pointer(self.range.start)
    }

    fn len(&self) -> usize {
        self.range.len()
    }

    fn copy(&self, range: Range<usize>) -> Vec<u8> {
        let start = self.range.start + range.start.min(self.range.len());
        let end = self.range.start + range.end.min(self.range.len());
        pipe::memory(&self.end.pipe).load_any(start..end.max(start))
    }
}
