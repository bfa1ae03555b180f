//! Streamed answers: sent in pieces, as their handlers write them.
//!
//! A flow takes its turn in the order of answers. Then its pieces go to the connection while little is unsent there; other
//! pieces stay in the memory that the handler writes to, and the handler waits for room.

use super::Shard;
use super::conn::{Conn, Slot};
use super::traces;
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
    pub(super) safe: bool,
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
    /// Queues as many pieces as the connection takes now.
    fn pump(&mut self, connections: &mut Connections, id: ConnId, ends: bool) -> Pumped {
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

impl Shard {
    /// A handler begins a streamed answer.
    pub(super) fn flow_begins(&mut self, connections: &mut Connections, begin: StreamBegin) {
        let StreamBegin { conn: id, seq, head, framing, keep_alive, answer } = begin;
        self.continue_before_answer(connections, id, seq);
        let Some(conn) = self.conn(id) else { return }; // The writer notices that the answer is dropped.
        let Some(slot) = conn.slot_mut(seq) else { return };
        let Slot::Running { safe, .. } = *slot else { return };
        let told = head.get(..traces::STATUS_BYTES).map(<[u8]>::to_vec);
        let head = Some(head);
        *slot = Slot::Flow(Box::new(Flow { head, framing, keep_alive, answer, broken: false, returned: false, safe }));
        traces::streams(conn, seq, &told.unwrap_or_default());
        self.advance(connections, id);
    }

    /// The handler's side has bytes of an answer, or room for the body, for request number `seq`.
    pub(super) fn stream_notice(&mut self, connections: &mut Connections, id: ConnId, seq: u64, wants_body: bool) {
        if wants_body {
            self.upload_wanted(connections, id, seq);
        }
        let Some(conn) = self.conn(id) else { return };
        if matches!(conn.slots.front(), Some(Slot::Flow(_))) {
            self.advance(connections, id);
        } else {
            self.resume(connections, id);
            self.after_input(connections, id);
        }
    }

    /// The handler of a flow has returned.
    pub(super) fn flow_returned(&mut self, connections: &mut Connections, id: ConnId, seq: u64) {
        self.in_flight = self.in_flight.saturating_sub(1);
        let draining = self.draining;
        let Some(conn) = self.conn(id) else { return };
        let ends = draining || conn.eof;
        if let Some(Slot::Flow(flow)) = conn.slot_mut(seq) {
            flow.returned = true;
            if ends {
                self.advance(connections, id);
            }
        }
    }

    /// Ends all detached answers when the server stops.
    pub(super) fn drain_flows(&mut self, connections: &mut Connections) {
        let is_flow = |conn: &Conn| matches!(conn.slots.front(), Some(Slot::Flow(_)));
        let conns = self.conns.iter().flatten().filter(|conn| is_flow(conn));
        let ids: Vec<ConnId> = conns.map(|conn| conn.id).collect();
        for id in ids {
            self.advance(connections, id);
        }
    }

    /// Marks a flow as broken: it can't be completed.
    pub(super) fn flow_broken(&mut self, connections: &mut Connections, id: ConnId, seq: u64) {
        let Some(conn) = self.conn(id) else { return };
        if let Some(Slot::Flow(flow)) = conn.slot_mut(seq) {
            flow.broken = true;
            self.advance(connections, id);
        }
    }

    /// Handles an answer for a request whose handler had begun a streamed answer but did not complete it. Returns whether
    /// the new answer must be sent, because nothing of the streamed one was.
    pub(super) fn flow_failed(&mut self, slot: &mut Slot, bytes: Vec<u8>) -> bool {
        let Slot::Flow(flow) = slot else { return false };
        if flow.head.is_some() {
            *slot = Slot::Ready { bytes, lent: None, safe: flow.safe };
        } else {
            flow.broken = true;
        }
        true
    }

    /// Sends data of the flow at the front of `conn`. Returns the slot if the flow is not finished.
    pub(super) fn pump_flow(
        &mut self,
        connections: &mut Connections,
        conn: &mut Conn,
        mut flow: Box<Flow>,
    ) -> Option<Slot> {
        match flow.pump(connections, conn.id, self.draining || conn.eof) {
            Pumped::Waits => Some(Slot::Flow(flow)),
            Pumped::Done => {
                let seq = conn.first_seq;
                conn.first_seq += 1;
                conn.last_active_ms = self.now_ms;
                conn.last_request_seen |= !flow.keep_alive || self.draining && conn.slots.is_empty();
                self.leave_upload(conn, seq, None);
                None
            }
            Pumped::Broken => {
                conn.last_request_seen = true;
                if flow.framing == Framing::Close {
                    // Only a reset tells an HTTP/1.0 client that the answer is incomplete.
                    connections.reset(conn.id);
                } else {
                    connections.close(conn.id);
                }
                flow.broken = true;
                Some(Slot::Flow(flow))
            }
        }
    }
}
