//! A streamed answer, and its pieces on their way to the connection.

use crate::domain::stream::{Answer, Framing, Next, StreamBegin};
use crate::net::{ConnId, Connections, Lent, Outbox};
use crate::proto::http1::checked_trailers;

/// Unsent bytes of a connection above which its flow waits.
const UNSENT_BYTES_MAX: usize = 256 * 1024;

/// Limit, in bytes, on one piece.
const PIECE_BYTES_MAX: usize = 128 * 1024;

/// One streamed answer.
pub(super) struct Flow {
    head: Option<Vec<u8>>,
    framing: Framing,
    keep_alive: bool,
    answer: Answer,
    /// Whether the answer can't be completed.
    broken: bool,
    /// Whether the handler has returned: a detached answer may still go on.
    returned: bool,
    safe: bool,
}

/// The state of a flow after its turn.
pub(super) enum Pumped {
    /// The flow waits for more data or room.
    Waits,
    /// All data is sent or queued.
    Done,
    /// The answer can't be completed, and the client must notice that.
    Broken,
}

/// Bytes of an answer for its connection.
enum Piece {
    Copied(Vec<u8>),
    Lent(Box<dyn Lent>),
}

impl Piece {
    fn len(&self) -> usize {
        match self {
            Self::Copied(bytes) => bytes.len(),
            Self::Lent(bytes) => bytes.len(),
        }
    }

    fn push(self, outbox: &mut Outbox) {
        match self {
            Self::Copied(bytes) => outbox.push_owned(bytes),
            Self::Lent(bytes) => outbox.push_lent(bytes),
        }
    }
}

/// Appends a piece of an answer with its framing. All pieces become bytes of the connection here. Returns false if the
/// answer exceeds its announced length.
fn encode_piece(outbox: &mut Outbox, framing: &mut Framing, piece: Piece) -> bool {
    match framing {
        Framing::None => {}
        Framing::Close => piece.push(outbox),
        Framing::Length(left) => {
            let Some(rest) = left.checked_sub(piece.len() as u64) else { return false };
            *left = rest;
            piece.push(outbox);
        }
        Framing::Chunked => {
            // RFC 9112 §7.1
            outbox.push(format!("{:x}\r\n", piece.len()).as_bytes());
            piece.push(outbox);
            outbox.push(b"\r\n");
        }
    }
    true
}

/// Appends the end of the framing. Returns false if the answer is shorter than announced.
fn encode_end(outbox: &mut Outbox, framing: Framing, trailers: &[u8]) -> bool {
    if framing == Framing::Chunked {
        outbox.push(b"0\r\n");
        if !trailers.is_empty() {
            // RFC 9112 §7.1.2
            outbox.push_owned(checked_trailers(trailers));
        }
        outbox.push(b"\r\n");
    }
    !matches!(framing, Framing::Length(1..))
}

impl Flow {
    /// The answer that `begin` describes. `safe`: its request has a safe method.
    pub(super) fn new(begin: StreamBegin, safe: bool) -> Self {
        let StreamBegin { head, framing, keep_alive, answer, .. } = begin;
        Self { head: Some(head), framing, keep_alive, answer, broken: false, returned: false, safe }
    }

    /// Whether its request has a safe method (RFC 9110 section 9.2.1).
    pub(super) fn is_safe(&self) -> bool {
        self.safe
    }

    /// Whether bytes of the answer are queued for the connection.
    pub(super) fn has_begun(&self) -> bool {
        self.head.is_none()
    }

    /// Whether the connection stays open after the answer.
    pub(super) fn keeps_alive(&self) -> bool {
        self.keep_alive
    }

    /// Whether the answer ends with its connection.
    pub(super) fn ends_by_closing(&self) -> bool {
        self.framing == Framing::Close
    }

    /// The handler has returned.
    pub(super) fn set_returned(&mut self) {
        self.returned = true;
    }

    /// Whether nothing follows the head of the answer, whatever its handler or a detached answer still writes.
    pub(super) fn is_without_body(&self) -> bool {
        self.framing == Framing::None
    }

    /// Marks the answer as broken: it can't be completed.
    pub(super) fn set_broken(&mut self) {
        self.broken = true;
    }

    /// Queues as many pieces as the connection takes now.
    pub(super) fn pump(&mut self, connections: &mut Connections, id: ConnId, ends: bool) -> Pumped {
        loop {
            if self.broken {
                return Pumped::Broken;
            }
            let unsent = connections.unsent(id);
            let Some(outbox) = connections.outbox(id) else { return Pumped::Broken };
            if let Some(head) = self.head.take() {
                outbox.push_owned(head);
            }
            if unsent >= UNSENT_BYTES_MAX {
                connections.await_sent(id);
                return Pumped::Waits;
            }
            let piece = match self.answer.next(PIECE_BYTES_MAX) {
                Next::Copied(bytes) => Piece::Copied(bytes),
                Next::Lent(bytes) => Piece::Lent(bytes),
                // The client has all of the answer, so its next request must not wait for the end of a detached one.
                Next::Empty if self.returned && self.is_without_body() => return Pumped::Done,
                // A stop does not wait for a detached answer, which may never end. The same holds if the client has closed
                // its side.
                Next::Empty if ends && self.returned => return Pumped::Broken,
                Next::Empty => return Pumped::Waits,
                Next::Ended { trailers } if encode_end(outbox, self.framing, &trailers) => return Pumped::Done,
                Next::Ended { .. } | Next::Failed => return Pumped::Broken,
            };
            if !encode_piece(outbox, &mut self.framing, piece) {
                return Pumped::Broken;
            }
        }
    }
}
