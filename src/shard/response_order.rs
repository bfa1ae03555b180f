//! Sends answers in the order of the requests (RFC 9112 §9.3.2), and begins requests that waited for their turn.

use super::Shard;
use super::begun::Begun;
use super::conn::{Conn, Slot, Upgrade};
use super::handshakes::is_accepted;
use super::traces;
use crate::domain::call::OwnedRequest;
use crate::net::{Attached, ConnId, Connections};
use crate::proto::http1::close_after;
use crate::proto::ws::Deflate;
use crate::server_response::{Meta, shutting_down};

impl Shard {
    /// Handles an answer that was made elsewhere.
    pub(super) fn answered(
        &mut self,
        connections: &mut Connections,
        id: ConnId,
        seq: u64,
        mut bytes: Vec<u8>,
        mut lent: Option<Attached>,
    ) {
        let draining = self.draining;
        if draining && is_accepted(&bytes) {
            bytes.clear();
            lent = None;
            shutting_down().encode(&self.error_meta(), &mut bytes);
        }
        let Some(conn) = self.conn(id) else { return }; // The client has left.
        if draining && conn.owes_only(seq) {
            // The request began before the stop, and its connection ends with this answer.
            close_after(&mut bytes);
            conn.last_request_seen = true;
        }
        let Some(mut conn) = self.take(id) else { return };
        self.leave_upload(&mut conn, seq, Some(&mut bytes));
        if let Some(slot) = conn.slot_mut(seq) {
            if matches!(slot, Slot::Flow(_)) {
                self.flow_failed(slot, bytes);
            } else {
                let safe = slot.is_safe();
                let before = std::mem::replace(slot, Slot::Ready { bytes: Vec::new(), lent: None, safe });
                *slot = match before {
                    Slot::Asking { request } if is_accepted(&bytes) => Slot::Opening { bytes, request },
                    _ => Slot::Ready { bytes, lent, safe },
                };
            }
        }
        self.put(conn);
        self.advance(connections, id);
    }

    /// Sends the answers that have their turn, begins the request that waited for its turn, and continues parsing.
    pub(super) fn advance(&mut self, connections: &mut Connections, id: ConnId) {
        let Some(mut conn) = self.take(id) else { return };
        while let Some(slot) = conn.slots.pop_front() {
            match slot {
                Slot::Ready { bytes, lent, .. } => {
                    traces::answered(&mut conn, &bytes);
                    conn.first_seq += 1;
                    conn.last_active_ms = self.now_ms;
                    if let Some(outbox) = connections.outbox(id) {
                        outbox.push_owned(bytes);
                        if let Some(lent) = lent {
                            outbox.push_attached(lent);
                        }
                    }
                }
                Slot::Waiting { request, meta, safe } => {
                    if let Some(slot) = self.begin_waiting(connections, &mut conn, request, meta, safe) {
                        conn.slots.push_front(slot);
                        break;
                    }
                    conn.first_seq += 1;
                }
                Slot::Opening { bytes, request } => {
                    traces::answered(&mut conn, &bytes);
                    conn.first_seq += 1;
                    conn.last_active_ms = self.now_ms;
                    let deflate = Deflate::of_answer(&bytes);
                    if let Some(outbox) = connections.outbox(id) {
                        outbox.push_owned(bytes);
                    }
                    let key = self.open_socket(id, &request.view(), deflate);
                    conn.taken = Some(Upgrade::Socket(key));
                    break;
                }
                running @ (Slot::Running { .. } | Slot::Asking { .. }) => {
                    conn.slots.push_front(running);
                    break;
                }
                Slot::Flow(flow) => {
                    if let Some(slot) = self.pump_flow(connections, &mut conn, flow) {
                        conn.slots.push_front(slot);
                        break;
                    }
                }
                Slot::Stream { by } => {
                    conn.first_seq += 1;
                    conn.taken = Some(by);
                    break;
                }
            }
        }
        Self::send_continue(connections, &mut conn);
        let (taken, is_counted) = (conn.taken, conn.held > 0);
        self.put(conn);
        match taken {
            Some(by) => self.taken(connections, id, by),
            None => {
                self.resume(connections, id);
                self.after_input(connections, id);
            }
        }
        if is_counted {
            self.weigh(connections, id);
        }
    }

    /// Begins a waiting request that is now the first in order. Returns its slot unless it was answered.
    fn begin_waiting(
        &mut self,
        connections: &mut Connections,
        conn: &mut Conn,
        mut request: Box<OwnedRequest>,
        meta: Box<Meta>,
        safe: bool,
    ) -> Option<Slot> {
        // The request's next place counts its body.
        request.discharge();
        let origin = self.origin(conn, conn.first_seq);
        let begun = {
            let outbox = connections.outbox(conn.id)?;
            let at = outbox.buffer().len();
            let begun = self.begin(&origin, &request.view(), outbox.buffer());
            if matches!(begun, Begun::Answered | Begun::Attached(_)) {
                traces::answered(conn, outbox.buffer().get(at..).unwrap_or_default());
            }
            begun
        };
        match begun {
            Begun::Answered => None,
            Begun::Attached(body) => {
                connections.outbox(conn.id)?.push_attached(body);
                None
            }
            Begun::Running { expected } => Some(Slot::Running { safe, expected }),
            Begun::Asking => Some(Slot::Asking { request }),
            Begun::Held => {
                self.held.push(conn.id);
                Some(Slot::Waiting { request: Box::new(request.charged(&self.bodies)), meta, safe })
            }
            Begun::Taken(by) => {
                conn.taken = Some(by);
                None
            }
        }
    }

    /// Forgets the requests of `conn` that are not answered, and its bytes that are not parsed. Answers that still come for
    /// these requests find no slot and are dropped.
    pub(super) fn drop_requests(&mut self, conn: &mut Conn) {
        if !conn.slots.is_empty() {
            self.remote.leave(conn.id);
        }
        for slot in conn.slots.drain(..) {
            match slot {
                Slot::Stream { by: Upgrade::Stream(key) } => self.stream_gone(key),
                Slot::Stream { by: Upgrade::Logs(key) } => self.logs_gone(key),
                _ => {}
            }
        }
        conn.input.clear();
        (conn.stream_waits, conn.continue_owed) = (None, false);
    }

    /// Continues with bytes that had to wait, and lets the driver read again.
    pub(super) fn resume(&mut self, connections: &mut Connections, id: ConnId) {
        let Some(mut conn) = self.take(id) else { return };
        if conn.paused && conn.taken.is_none() && conn.upload.is_some() {
            self.resume_upload(connections, &mut conn);
        } else if conn.paused && conn.taken.is_none() && self.has_room(connections, &conn) {
            conn.paused = false;
            // Time without reading does not count.
            (conn.partial_since_ms, conn.body_paid_ms) = (self.now_ms, self.now_ms);
            connections.set_reading(id, true);
            let may_parse = match conn.stream_waits {
                Some(expects_continue) => self.begin_upload(connections, &mut conn, expects_continue),
                None => true,
            };
            if may_parse {
                self.parse_input(connections, &mut conn);
            }
        }
        self.put(conn);
    }

    /// Continues a body for which its receiver had no room.
    fn resume_upload(&mut self, connections: &mut Connections, conn: &mut Conn) {
        conn.paused = false;
        conn.body_paid_ms = self.now_ms;
        self.parse_input(connections, conn);
        if !conn.paused {
            connections.set_reading(conn.id, true);
        }
    }

    /// Closes a connection after its last answer; starts the WebSocket of an upgraded connection.
    pub(super) fn after_input(&mut self, connections: &mut Connections, id: ConnId) {
        let draining = self.draining;
        let Some(conn) = self.conn(id) else { return };
        if let Some(by) = conn.taken {
            self.taken(connections, id, by);
        } else if conn.slots.is_empty()
            && (conn.last_request_seen || conn.eof && !conn.paused || draining && conn.is_idle())
        {
            connections.close(id);
        }
    }

    /// Starts an upgrade: bytes after the request are its first ones.
    fn taken(&mut self, connections: &mut Connections, id: ConnId, by: Upgrade) {
        let Some(conn) = self.conn(id) else { return };
        conn.paused = false;
        let (input, eof) = (std::mem::take(&mut conn.input), conn.eof);
        connections.set_reading(id, true);
        match by {
            Upgrade::Socket(key) => self.socket_begins(connections, key),
            Upgrade::Stream(key) => self.stream_begins(connections, key),
            Upgrade::Logs(key) => self.logs_begin(connections, key),
        }
        if !input.is_empty() {
            self.taken_data(connections, by, &input);
        }
        // The FIN arrived before earlier answers were sent; no other event will end this upgrade.
        if eof && !self.outlives_eof(by) {
            connections.close(id);
        }
    }

    /// Passes bytes to an upgrade.
    pub(super) fn taken_data(&mut self, connections: &mut Connections, by: Upgrade, bytes: &[u8]) {
        match by {
            Upgrade::Socket(key) => self.socket_data(connections, key, bytes),
            Upgrade::Stream(key) => self.stream_data(connections, key, bytes),
            // A log stream expects nothing from its client.
            Upgrade::Logs(_) => {}
        }
    }
}
