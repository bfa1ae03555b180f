//! Streamed answers: sent in pieces, as their handlers write them.
//!
//! A flow takes its turn in the order of answers. Then its pieces go to the connection while little is unsent there; other
//! pieces stay in the memory that the handler writes to, and the handler waits for room.

use super::Shard;
use super::conn::{Conn, Slot};
use super::flow::{Flow, Pumped};
use super::trace::STATUS_BYTES;
use super::traces;
use crate::domain::stream::StreamBegin;
use crate::net::{ConnId, Connections};

impl Shard {
    /// A handler begins a streamed answer.
    pub(super) fn flow_begins(&mut self, connections: &mut Connections, begin: StreamBegin) {
        let (id, seq) = (begin.conn, begin.seq);
        self.continue_before_answer(connections, id, seq);
        let Some(conn) = self.conn(id) else { return }; // The writer notices that the answer is dropped.
        let Some(slot) = conn.slot_mut(seq) else { return };
        let (safe, is_handshake) = match *slot {
            Slot::Running { safe, .. } => (safe, false),
            Slot::Asking { .. } => (false, true),
            _ => return,
        };
        let told = begin.head.get(..STATUS_BYTES).map(<[u8]>::to_vec);
        let mut flow = Box::new(Flow::new(begin, safe));
        if is_handshake {
            // Only a process that breaks the rules streams the answer to a handshake.
            flow.set_broken();
        }
        *slot = Slot::Flow(flow);
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
            flow.set_returned();
            if ends || flow.is_without_body() {
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
            flow.set_broken();
            self.advance(connections, id);
        }
    }

    /// Handles an answer for a request whose handler had begun a streamed answer but did not complete it. Returns whether
    /// the new answer must be sent, because nothing of the streamed one was.
    pub(super) fn flow_failed(&mut self, slot: &mut Slot, bytes: Vec<u8>) -> bool {
        let Slot::Flow(flow) = slot else { return false };
        if !flow.has_begun() {
            *slot = Slot::Ready { bytes, lent: None, safe: flow.is_safe() };
        } else {
            flow.set_broken();
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
                conn.last_request_seen |= !flow.keeps_alive() || self.draining && conn.slots.is_empty();
                if !flow.keeps_alive() {
                    // RFC 9112 §9.6: the head has said that this answer is the last one. A client of HTTP/1.0 would take
                    // further answers for a part of this one.
                    self.drop_requests(conn);
                }
                self.leave_upload(conn, seq, None);
                None
            }
            Pumped::Broken => {
                conn.last_request_seen = true;
                if flow.ends_by_closing() {
                    // Only a reset tells an HTTP/1.0 client that the answer is incomplete.
                    connections.reset(conn.id);
                } else {
                    connections.close(conn.id);
                }
                flow.set_broken();
                Some(Slot::Flow(flow))
            }
        }
    }
}
