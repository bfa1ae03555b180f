//! Large request bodies that are written to the memory of their domain while they arrive.
//!
//! The shard takes a place beside the rings when the head announces a large body, and writes each part there as it arrives.
//! The server thus copies the body once and holds it in memory once. If there is no place, or if the request proves to be
//! for another process than the place, the body is collected in the server like a small one.

use super::Shard;
use super::begun::Begun;
use super::conn::{Conn, Partial, Slot, credited};
use super::origin::Origin;
use super::refused::no_memory;
use super::traces;
use crate::abi::manifest::RouteDecl;
use crate::domain::call::{GenerationRef, OwnedRequest, Task};
use crate::domain::placed::PlacedBody;
use crate::module::table::RouteMatch;
use crate::net::Connections;
use crate::proto::http1::RequestView;
use crate::server_response::ServerAnswer;
use std::sync::Arc;

/// Whether the body of a call of `route` may lie in its place before the call begins. A route that may decline can't have
/// that, because the next module may be in another process.
fn may_place(route: &RouteDecl) -> bool {
    !(route.is_stream() || route.is_handshake() || route.is_fallback())
}

impl Shard {
    /// Takes a place for the body of the request with a complete head, if the body is large and is for a domain, and if
    /// there is room.
    pub(super) fn place_body(&mut self, conn: &mut Conn, origin: &Origin, announced: Option<usize>) {
        let view = conn.decoder.head_view();
        let Some(bytes) = announced.filter(|_| self.local.is_none() && conn.slots.is_empty()) else { return };
        if !origin.serves_modules(view.path()) || view.is_websocket_upgrade() {
            return;
        }
        let found = self.snapshot.table().route(view.method().as_str(), view.path());
        let RouteMatch::Found { module, route } = found else { return };
        let Some(generation) = self.snapshot.gen_of(module) else { return };
        if generation.route(route).is_some_and(may_place)
            && let Some(body) = self.remote.place(generation.instance(), bytes)
        {
            // The limit was checked when the body was announced.
            conn.decoder.stream_body(None);
            conn.placed = Some(Box::new(body));
        }
    }

    /// Writes the body's bytes in `input` to the place. Returns the number of used bytes.
    pub(super) fn fill_place(&mut self, connections: &mut Connections, conn: &mut Conn, input: &[u8]) -> usize {
        let Some(body) = conn.placed.as_mut() else { return 0 };
        let piece = match conn.decoder.body_piece(input, usize::MAX) {
            Ok(piece) => piece,
            Err(error) => {
                self.reject(connections, conn, &error, input);
                self.discard_body(conn);
                return input.len();
            }
        };
        if let Err(error) = body.put(piece.bytes) {
            tracing::warn!(%error, "there is no memory for the body of a request");
            self.stats.memory_refused();
            let (answer, head_only) = (no_memory(), conn.decoder.refused_head(&[]));
            self.trace_refused(connections, conn, answer.status);
            self.answer_last(connections, conn, &answer, head_only);
            self.discard_body(conn);
            return input.len();
        }
        if piece.done {
            conn.body_paid_ms = credited(conn.body_paid_ms, piece.consumed, self.now_ms);
            self.begin_complete(connections, conn);
        } else {
            self.incomplete(connections, conn, piece.consumed, 0);
        }
        piece.consumed
    }

    /// Begins the request whose body is complete in its place.
    fn begin_complete(&mut self, connections: &mut Connections, conn: &mut Conn) {
        let origin = self.origin(conn, conn.next_seq());
        let Some(body) = conn.placed.take() else { return };
        let view = RequestView { peer: conn.peer.ip(), ..conn.decoder.head_view() };
        self.stats.request();
        let safe = view.method().is_safe();
        let trace = self.trace(connections, &origin, &view);
        let last = self.ends_connection(&origin, &view);
        let mut bytes = Vec::new();
        let slot = match self.begin_placed(&origin, &view, body, &mut bytes) {
            Ok(begun) => {
                if let Some(outbox) = connections.outbox(origin.id) {
                    outbox.push(&bytes);
                }
                match begun {
                    Begun::Running { expected } => Some(Slot::Running { safe, expected }),
                    _ => None,
                }
            }
            Err(body) => {
                let whole = Arc::new(body.load());
                drop(body);
                let view = RequestView { body: &whole, shared: Some(&whole), ..view };
                self.begin_parsed(connections, &origin, &view, false, safe, &mut conn.taken)
            }
        };
        conn.slots.extend(slot);
        if conn.slots.is_empty() {
            conn.first_seq += 1;
        }
        traces::begun(connections, conn, trace);
        conn.continue_owed = false;
        conn.partial = Partial::None;
        conn.decoder.release();
        self.ungather(conn);
        conn.last_request_seen = last && conn.taken.is_none();
    }

    /// Begins a request whose body lies in its place, or appends the refusal to `out`. Returns the body if the route no
    /// longer permits a placed body.
    fn begin_placed(
        &mut self,
        origin: &Origin,
        view: &RequestView<'_>,
        body: Box<PlacedBody>,
        out: &mut Vec<u8>,
    ) -> Result<Begun, Box<PlacedBody>> {
        let found = self.snapshot.table().route(view.method().as_str(), view.path());
        let RouteMatch::Found { module, route } = found else { return Err(body) };
        let Some(generation) = self.snapshot.gen_of(module).map(Arc::clone) else { return Err(body) };
        let fits =
            |declared: &RouteDecl| may_place(declared) && body.bytes() <= self.limits.route_body_bytes_max(declared);
        if origin.is_beyond() || !generation.route(route).is_some_and(fits) {
            return Err(body);
        }
        let Some(expected) = self.admit_call(origin, view, &generation, route, body.bytes(), out) else {
            return Ok(Begun::Answered);
        };
        let (conn, seq, meta) = (origin.id, origin.seq, self.meta(origin, view));
        let request = OwnedRequest::copy(view).with_placed(body);
        self.in_flight += 1;
        self.remote.submit(generation, false, Task::Request { conn, seq, route, request, meta, stream: None });
        Ok(Begun::Running { expected })
    }

    /// Waits for the body of a request with a complete head.
    pub(super) fn await_body(&self, connections: &mut Connections, conn: &mut Conn, expects_continue: bool) {
        conn.partial = Partial::Body;
        conn.body_paid_ms = self.now_ms;
        conn.continue_owed = expects_continue;
        Self::send_continue(connections, conn);
    }

    /// Answers a request after its head, without reading its body.
    pub(super) fn refuse_body(
        &mut self,
        connections: &mut Connections,
        conn: &mut Conn,
        refusal: &ServerAnswer,
        head_only: bool,
    ) {
        self.stats.request();
        self.trace_refused(connections, conn, refusal.status);
        self.answer_last(connections, conn, refusal, head_only);
    }

    /// Frees the memory of a body that will not be complete.
    pub(super) fn discard_body(&mut self, conn: &mut Conn) {
        conn.decoder.discard();
        conn.placed = None;
        self.ungather(conn);
    }
}
