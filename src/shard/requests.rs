//! Turns bytes into requests and passes each request to its receiver.

use super::Shard;
use super::begun::Begun;
use super::conn::{Conn, Partial, Serves, Slot, Upgrade, credited};
use super::event_requests::is_events_socket;
use super::origin::Origin;
use super::refused::{no_modules_here, too_many};
use super::snapshot::{ANSWER_BYTES_UNKNOWN, ShardGen};
use super::traces;
use super::uploads::Gathering;
use crate::abi::manifest::RouteDecl;
use crate::admin::Who;
use crate::domain::call::{NewRequest, OwnedRequest, Task};
use crate::domain::local_call::Call;
use crate::domain::module_message::Declined;
use crate::module::table::RouteMatch;
use crate::net::{ConnId, Connections};
use crate::proto::http1::{Decoded, Method, RequestError, RequestView};
use crate::server_response::{Meta, Reply, ServerAnswer, meta_of};
use std::sync::Arc;

/// A larger input buffer is freed once it is empty.
const INPUT_KEPT_MAX: usize = 4 * 1024;

impl Shard {
    /// Handles bytes of the HTTP protocol. Requests that lie completely within `bytes` are parsed in place.
    pub(super) fn received(&mut self, connections: &mut Connections, conn: &mut Conn, bytes: &[u8]) {
        if conn.last_request_seen && conn.upload.is_none() {
            return; // RFC 9112 §9.6: bytes after a request with `Connection: close` are ignored.
        }
        if conn.input.is_empty() {
            let consumed = self.parse(connections, conn, bytes);
            conn.input.extend_from_slice(bytes.get(consumed..).unwrap_or_default());
        } else {
            conn.input.extend_from_slice(bytes);
            self.parse_input(connections, conn);
        }
    }

    /// Parses the connection's own buffer.
    pub(super) fn parse_input(&mut self, connections: &mut Connections, conn: &mut Conn) {
        let mut input = std::mem::take(&mut conn.input);
        let consumed = self.parse(connections, conn, &input);
        input.drain(..consumed.min(input.len()));
        if input.is_empty() && input.capacity() > INPUT_KEPT_MAX {
            input = Vec::new();
        }
        conn.input = input;
    }

    /// Parses and begins requests until a request must wait or the bytes are used up. Returns the number of consumed bytes.
    fn parse(&mut self, connections: &mut Connections, conn: &mut Conn, input: &[u8]) -> usize {
        let mut at = 0;
        while let Some(rest) = input.get(at..).filter(|rest| !rest.is_empty()) {
            if conn.upload.is_some() {
                at += self.feed(connections, conn, rest);
                if conn.upload.is_some() {
                    break;
                }
                continue;
            }
            if conn.last_request_seen || conn.taken.is_some() {
                break;
            }
            if !self.has_room(connections, conn) || conn.is_asking() {
                Self::wait_to_upload(connections, conn);
                break;
            }
            if conn.placed.is_some() {
                at += self.fill_place(connections, conn, rest);
                continue;
            }
            let origin = self.origin(conn, conn.next_seq());
            let owed = !conn.slots.is_empty();
            match conn.decoder.decode(rest) {
                Ok(Decoded::NeedMore { consumed }) => {
                    at += consumed;
                    self.incomplete(connections, conn, consumed, rest.len() - consumed);
                    break;
                }
                Ok(Decoded::Body { consumed, view, announced, expects_continue }) => {
                    at += consumed;
                    let head_only = view.method() == Method::Head;
                    conn.is_let_in = origin.asks_access(&view);
                    match self.gathering(&origin, &view, announced, expects_continue) {
                        Gathering::Whole(bytes_max) => {
                            conn.decoder.limit_body(bytes_max);
                            self.place_body(conn, &origin, announced);
                        }
                        Gathering::Pieces if self.begin_upload(connections, conn, expects_continue) => continue,
                        Gathering::Pieces => break,
                        Gathering::Refused(refusal) => {
                            self.refuse_body(connections, conn, &refusal, head_only);
                            return input.len();
                        }
                    }
                    self.await_body(connections, conn, expects_continue);
                }
                Ok(Decoded::Request { consumed, mut view }) => {
                    at += consumed;
                    view.peer = conn.peer.ip();
                    self.stats.request();
                    let safe = view.method().is_safe();
                    let trace = self.trace(connections, &origin, &view);
                    let last = self.ends_connection(&origin, &view);
                    let slot = if owed && !safe {
                        Some(self.wait(&origin, &view, safe))
                    } else {
                        self.begin_parsed(connections, &origin, &view, owed, safe, &mut conn.taken)
                    };
                    conn.slots.extend(slot);
                    if conn.slots.is_empty() {
                        conn.first_seq += 1;
                    }
                    traces::begun(connections, conn, trace);
                    conn.continue_owed = false;
                    if std::mem::replace(&mut conn.partial, Partial::None) == Partial::Body {
                        conn.decoder.release();
                        self.ungather(conn);
                    }
                    conn.last_request_seen = last && conn.taken.is_none();
                }
                Err(error) => {
                    self.trace_unread(conn, &origin, rest, error.status());
                    self.reject(connections, conn, &error, rest);
                    at = input.len();
                }
            }
        }
        at
    }

    /// Whether the connection ends with the answer to `view`.
    pub(super) fn ends_connection(&self, origin: &Origin, view: &RequestView<'_>) -> bool {
        // A stream of events ends with its connection.
        let is_own_stream =
            origin.serves != Serves::Modules && (Self::asks_for_events(view) || Self::asks_for_logs(view));
        !view.keep_alive() || origin.is_last() || is_own_stream || self.is_for_pages(view.path())
    }

    /// Handles an incomplete request: `consumed` bytes of it were taken just now, and `left` bytes stay in the buffer.
    pub(super) fn incomplete(&mut self, connections: &mut Connections, conn: &mut Conn, consumed: usize, left: usize) {
        if conn.partial == Partial::Body {
            conn.body_paid_ms = credited(conn.body_paid_ms, consumed, self.now_ms);
            self.gather(connections, conn);
        } else if conn.partial == Partial::None && left > 0 {
            conn.partial = Partial::Head;
            conn.partial_since_ms = self.now_ms;
        }
    }

    /// The origin of request number `seq` of `conn`.
    pub(super) fn origin(&self, conn: &Conn, seq: u64) -> Origin {
        Origin::of(conn, seq, self.draining || seq + 1 >= self.limits.requests_per_connection_max)
    }

    /// Whether the next request of `conn` may begin. The request must wait while earlier answers, unsent or expected, are
    /// many or large, so that pipelined requests are not all answered at once.
    pub(super) fn has_room(&self, connections: &mut Connections, conn: &Conn) -> bool {
        if conn.is_blocked(self.limits.pipeline_max) {
            return false;
        }
        let unsent = connections.unsent(conn.id);
        let fits = unsent <= self.limits.unsent_bytes_max
            && (conn.slots.is_empty() || unsent + conn.owed_bytes() < self.limits.unsent_bytes_max);
        if !fits && unsent > 0 {
            connections.await_sent(conn.id);
        }
        fits
    }

    /// Begins a request in the bytes that it was parsed in. Returns its slot, or nothing if it was answered in its turn.
    pub(super) fn begin_parsed(
        &mut self,
        connections: &mut Connections,
        origin: &Origin,
        view: &RequestView<'_>,
        owed: bool,
        safe: bool,
        taken: &mut Option<Upgrade>,
    ) -> Option<Slot> {
        let upgrade = view.is_websocket_upgrade();
        if owed && upgrade {
            return Some(self.wait(origin, view, false));
        }
        let begun = if owed {
            let mut bytes = Vec::new();
            match self.begin(origin, view, &mut bytes) {
                Begun::Answered => return Some(Slot::Ready { bytes, lent: None, safe }),
                Begun::Attached(body) => return Some(Slot::Ready { bytes, lent: Some(body), safe }),
                other => other,
            }
        } else {
            let outbox = connections.outbox(origin.id)?;
            self.begin(origin, view, outbox.buffer())
        };
        match begun {
            Begun::Answered => None,
            Begun::Attached(body) => {
                connections.outbox(origin.id)?.push_attached(body);
                None
            }
            Begun::Running { expected } => Some(Slot::Running { safe, expected }),
            Begun::Asking => Some(Slot::Asking { request: Box::new(OwnedRequest::copy(view)) }),
            Begun::Held => {
                self.held.push(origin.id);
                Some(self.wait(origin, view, safe))
            }
            Begun::Taken(by) => {
                *taken = Some(by);
                None
            }
        }
    }

    /// The slot of a request that can't begin yet; if there is no room for it, the slot of a refusal.
    fn wait(&mut self, origin: &Origin, view: &RequestView<'_>, safe: bool) -> Slot {
        if !self.has_room_for(view) {
            let mut bytes = Vec::new();
            self.overloaded(origin, view, &mut bytes);
            return Slot::Ready { bytes, lent: None, safe };
        }
        let request = Box::new(OwnedRequest::copy(view).charged(&self.bodies));
        Slot::Waiting { request, meta: Box::new(self.meta(origin, view)), safe }
    }

    /// Whether the body of a request fits beside the bodies that wait or are being used here. Bodies for a domain have the
    /// same limit for themselves: see [`Shard::is_full`].
    fn has_room_for(&self, view: &RequestView<'_>) -> bool {
        let here = self.bodies.bytes().saturating_sub(self.remote.waiting_bytes(None));
        view.body.len().saturating_add(here) <= self.limits.bodies_bytes_max
    }

    pub(super) fn meta(&self, origin: &Origin, view: &RequestView<'_>) -> Meta {
        meta_of(view, self.date, self.cors_origin.clone(), &self.preflight, origin.is_last())
    }

    /// Routes one request. An immediate answer is appended to `out`.
    pub(super) fn begin(&mut self, origin: &Origin, view: &RequestView<'_>, out: &mut Vec<u8>) -> Begun {
        let path = view.path();
        if origin.is_for_server(path) {
            return self.begin_admin(origin, view, out);
        }
        if self.is_for_pages(path) {
            return self.begin_pages(origin, view, out);
        }
        if origin.serves == Serves::Admin {
            no_modules_here().encode(&self.meta(origin, view), out);
            return Begun::Answered;
        }
        if let Some(why) = origin.beyond {
            self.stats.overloaded();
            too_many(why).encode(&self.meta(origin, view), out);
            return Begun::Answered;
        }
        if view.is_websocket_upgrade() {
            return self.begin_upgrade(origin, view, out);
        }
        let answer = match self.snapshot.table().route(view.method().as_str(), path) {
            RouteMatch::Found { module, route } => return self.begin_route(origin, view, module, route, out),
            RouteMatch::Held { .. } => return Begun::Held,
            found => self.unserved(view, found),
        };
        answer.encode(&self.meta(origin, view), out);
        Begun::Answered
    }

    fn begin_route(
        &mut self,
        origin: &Origin,
        view: &RequestView<'_>,
        module: usize,
        route: usize,
        out: &mut Vec<u8>,
    ) -> Begun {
        let Some(generation) = self.snapshot.gen_of(module) else { return Begun::Held };
        let declared = generation.route(route);
        if declared.is_some_and(RouteDecl::is_handshake) {
            let answer = ServerAnswer::text(426, "this path speaks WebSocket\n").with("Upgrade", "websocket");
            answer.encode(&self.meta(origin, view), out);
            return Begun::Answered;
        }
        if declared.is_some_and(RouteDecl::is_stream) {
            let generation = Arc::clone(generation);
            return self.begin_whole_stream(origin, view, &generation, route, out);
        }
        if !view.body.is_empty() {
            let limit = declared.map_or(0, |route| self.limits.route_body_bytes_max(route));
            if view.body.len() > limit {
                self.too_large(limit, declared).encode(&self.meta(origin, view), out);
                return Begun::Answered;
            }
        }
        if declared.is_some_and(RouteDecl::is_inline)
            && let Some(local) = &mut self.local
        {
            let generation = Arc::clone(generation);
            let meta = meta_of(view, self.date, None, &self.preflight, origin.is_last());
            let cors = self.cors_origin.as_deref();
            let dropped = local.executor.request(&*generation, route, view, &meta, cors, out);
            self.stats.inline();
            self.stats.headers_dropped(u64::from(dropped));
            return local.executor.take_attached().map_or(Begun::Answered, Begun::Attached);
        }
        let generation = Arc::clone(generation);
        let Some(expected) = self.admit_call(origin, view, &generation, route, view.body.len(), out) else {
            return Begun::Answered;
        };
        let request = NewRequest { conn: origin.id, seq: origin.seq, route, view, meta: self.meta(origin, view) };
        if self.local.is_some() {
            self.submit(&generation, route, request.copied(&self.bodies));
        } else {
            self.in_flight += 1;
            let short = generation.is_short(route);
            self.remote.request(generation, short, request);
        }
        Begun::Running { expected }
    }

    /// Handles a fallback route's refusal: asks the next fallback route, or answers if there is none.
    pub(super) fn declined(&mut self, connections: &mut Connections, declined: Declined) {
        let Declined { by, conn, seq, request, meta } = declined;
        if self.conn(conn).is_none() {
            return;
        }
        let view = request.view();
        let next = self.snapshot.table().after_declined(&by, view.method().as_str(), view.path());
        if let RouteMatch::Found { module, route } = next
            && let Some(generation) = self.snapshot.gen_of(module).map(Arc::clone)
        {
            let work = Task::Request { conn, seq, route, request, meta, stream: None };
            return self.submit(&generation, route, work);
        }
        let mut bytes = Vec::with_capacity(256);
        self.unserved(&view, next).encode(&meta, &mut bytes);
        self.answered(connections, conn, seq, bytes, None);
    }

    /// Answers 503 because too many requests are in flight.
    pub(super) fn overloaded(&mut self, origin: &Origin, view: &RequestView<'_>, out: &mut Vec<u8>) -> Begun {
        self.stats.overloaded();
        let answer = ServerAnswer::text(503, "too many requests in flight\n").with("Retry-After", "1");
        answer.encode(&self.meta(origin, view), out);
        Begun::Answered
    }

    /// Passes work to the companion if its unit is known to be short, else to the pool.
    pub(super) fn submit(&mut self, generation: &Arc<ShardGen>, unit: usize, work: Task) {
        self.in_flight += 1;
        let hold = Arc::clone(generation);
        let short = generation.is_short(unit) && !work.may_expand();
        match &mut self.local {
            None => self.remote.submit(hold, short, work),
            Some(local) => {
                let call = Call { hold, reply: Arc::clone(&self.inbox), work };
                if short && !local.companion.is_stuck() {
                    local.companion.push(call);
                } else {
                    local.pool.push(call);
                }
            }
        }
    }

    fn begin_admin(&mut self, origin: &Origin, view: &RequestView<'_>, out: &mut Vec<u8>) -> Begun {
        let jobs_socket = is_events_socket(view);
        let logs = Self::asks_for_logs(view);
        if jobs_socket || logs || Self::asks_for_events(view) {
            let mut meta = self.meta(origin, view);
            // A stream, and also the refusal of a stream, ends its connection.
            meta.keep_alive &= jobs_socket;
            let who = match self.admin.check(view, origin.client) {
                Ok(who) => who,
                Err(refusal) => {
                    refusal.encode(&meta, out);
                    return Begun::Answered;
                }
            };
            if who == Who::Loopback {
                meta.cors_origin = None;
            }
            return match self.streams_open() >= self.limits.streams_max {
                true => self.too_many_streams(&meta, out),
                false if logs => self.begin_logs(origin, view, meta, out),
                false if jobs_socket => self.begin_jobs_socket(origin, view, who.reach(), out),
                false => self.begin_events(origin, view, meta, who.reach(), out),
            };
        }
        // Paths that report the server's health must answer under overload, too.
        let vital = matches!(view.path(), b"/healthz" | b"/metrics");
        if self.own_in_flight >= self.limits.own_in_flight_max && !vital {
            return self.overloaded(origin, view, out);
        }
        self.own_in_flight += 1;
        let reply = Reply {
            inbox: Arc::clone(&self.inbox),
            conn: origin.id,
            seq: origin.seq,
            meta: self.meta(origin, view),
            sent: false,
        };
        self.admin.handle(view, origin.client, reply);
        Begun::Running { expected: ANSWER_BYTES_UNKNOWN }
    }

    /// Handles lost framing: answers after the earlier answers, then closes.
    pub(super) fn reject(
        &mut self,
        connections: &mut Connections,
        conn: &mut Conn,
        error: &RequestError,
        input: &[u8],
    ) {
        let head_only = conn.decoder.refused_head(input);
        let answer = match error {
            RequestError::BodyTooLarge => self.grown_too_large(&conn.decoder.head_view()),
            error => ServerAnswer::text(error.status(), format!("{error}\n")),
        };
        // Without a complete head, `trace_unread` has logged the request already.
        if conn.partial == Partial::Body {
            self.trace_refused(connections, conn, answer.status);
        }
        self.answer_last(connections, conn, &answer, head_only);
    }

    /// Answers after the earlier answers; then the connection is closed.
    pub(super) fn answer_last(
        &mut self,
        connections: &mut Connections,
        conn: &mut Conn,
        answer: &ServerAnswer,
        head_only: bool,
    ) {
        let mut bytes = Vec::new();
        answer.encode(&Meta { head_only, ..self.error_meta() }, &mut bytes);
        conn.last_request_seen = true;
        conn.partial = Partial::None;
        conn.continue_owed = false;
        if conn.slots.is_empty() {
            conn.first_seq += 1;
            if let Some(outbox) = connections.outbox(conn.id) {
                outbox.push_owned(bytes);
            }
        } else {
            conn.slots.push_back(Slot::Ready { bytes, lent: None, safe: false });
        }
    }

    /// The framing of an answer that ends its connection.
    pub(super) fn error_meta(&self) -> Meta {
        Meta {
            date: self.date,
            keep_alive: false,
            http_1_0: false,
            head_only: false,
            cors_origin: self.cors_origin.clone(),
            preflight: None,
            switching: None,
        }
    }

    /// Answers a connection that can't be accepted.
    pub(super) fn refuse_connection(&mut self, connections: &mut Connections, id: ConnId, text: &str) {
        self.stats.overloaded();
        let meta = self.error_meta();
        if let Some(conn) = self.conn(id) {
            conn.last_request_seen = true;
        }
        if let Some(outbox) = connections.outbox(id) {
            ServerAnswer::text(503, text).with("Retry-After", "1").encode(&meta, outbox.buffer());
        }
    }

    /// Ends a connection that was too slow, with `status`.
    pub(super) fn time_out(&mut self, connections: &mut Connections, id: ConnId, status: u16, text: &str) {
        let mut meta = self.error_meta();
        if let Some(mut conn) = self.take(id) {
            meta.head_only = conn.decoder.refused_head(&conn.input);
            if conn.partial == Partial::Body && conn.upload.is_none() {
                self.trace_refused(connections, &conn, status);
                self.discard_body(&mut conn);
            }
            conn.last_request_seen = true;
            conn.partial = Partial::None;
            conn.input = Vec::new();
            self.put(conn);
        }
        if let Some(outbox) = connections.outbox(id) {
            ServerAnswer::text(status, text).encode(&meta, outbox.buffer());
        }
        connections.close(id);
    }
}
