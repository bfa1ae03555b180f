//! From bytes to answers in the order of the requests.

use super::Shard;
use super::answer::{Meta, Reply, ServerAnswer, meta_of};
use super::conn::{Conn, Partial, Slot, Takeover};
use super::snapshot::ShardGen;
use crate::abi::manifest::FLAG_INLINE;
use crate::admin::{self, Client};
use crate::domain::call::{Call, OwnedRequest, Work};
use crate::module::table::RouteMatch;
use crate::net::{ConnId, Lent, Links};
use crate::proto::http1::{Decoded, RequestError, RequestView};
use std::sync::Arc;

/// An input buffer that has grown beyond this is given back once it is empty.
const INPUT_KEPT_MAX: usize = 4 * 1024;

/// What became of a request that was begun.
pub(super) enum Begun {
    /// The answer has been appended.
    Answered,
    /// An executor or the control plane answers later.
    Running,
    /// Its module is being swapped: it must wait.
    Held,
    /// The connection speaks HTTP no more.
    Taken(Takeover),
}

/// Where a request came from, apart from the connection's own state (which its view borrows).
struct Origin {
    id: ConnId,
    seq: u64,
    client: Client,
}

impl Shard {
    /// Bytes of the HTTP protocol arrived. Requests that are whole within `bytes` are parsed in place.
    pub(super) fn received(&mut self, links: &mut Links, conn: &mut Conn, bytes: &[u8]) {
        if conn.last_request_seen {
            return; // RFC 9112 §9.6: nothing after a request with `Connection: close` is processed.
        }
        if conn.input.is_empty() {
            let consumed = self.parse(links, conn, bytes);
            conn.input.extend_from_slice(bytes.get(consumed..).unwrap_or_default());
        } else {
            conn.input.extend_from_slice(bytes);
            self.parse_input(links, conn);
        }
    }

    /// Parses what is in the connection's own buffer.
    fn parse_input(&mut self, links: &mut Links, conn: &mut Conn) {
        let mut input = std::mem::take(&mut conn.input);
        let consumed = self.parse(links, conn, &input);
        input.drain(..consumed.min(input.len()));
        if input.is_empty() && input.capacity() > INPUT_KEPT_MAX {
            input = Vec::new();
        }
        conn.input = input;
    }

    /// Parses and begins requests until one must wait or bytes run out. Returns how many bytes were consumed.
    fn parse(&mut self, links: &mut Links, conn: &mut Conn, input: &[u8]) -> usize {
        let mut at = 0;
        while let Some(rest) = input.get(at..).filter(|rest| !rest.is_empty()) {
            if conn.last_request_seen || conn.taken.is_some() {
                break;
            }
            let blocked = conn.is_blocked(self.limits.pipeline_max);
            let unsent = links.unsent(conn.id);
            if blocked || unsent > self.limits.unsent_bytes_max {
                if unsent > 0 {
                    links.await_sent(conn.id);
                }
                conn.paused = true;
                links.set_reading(conn.id, false);
                break;
            }
            let origin = Origin { id: conn.id, seq: conn.next_seq(), client: Client::of(&conn.peer) };
            let owed = !conn.slots.is_empty();
            match conn.decoder.decode(rest) {
                Ok(Decoded::NeedMore { consumed }) => {
                    at += consumed;
                    let partial = if consumed > 0 { Partial::Body } else { Partial::Head };
                    if conn.partial == Partial::None {
                        conn.partial_since_ms = self.now_ms;
                    }
                    conn.partial = if conn.partial == Partial::Body { Partial::Body } else { partial };
                    break;
                }
                Ok(Decoded::ExpectContinue { consumed, view }) => {
                    at += consumed;
                    if let Some(bytes) = self.refusal(&view, origin.client) {
                        self.stats.request();
                        Self::last_answer(links, conn, bytes);
                        at = input.len();
                        break;
                    }
                    conn.partial = Partial::Body;
                    conn.partial_since_ms = self.now_ms;
                    conn.continue_owed = true;
                    Self::send_continue(links, conn);
                }
                Ok(Decoded::Request { consumed, view }) => {
                    at += consumed;
                    self.stats.request();
                    let safe = view.method().is_safe();
                    // A stream of events ends with its connection.
                    let last = !view.keep_alive() || self.draining || Self::asks_for_events(&view);
                    let slot = if owed && !safe {
                        let meta = self.meta(&view);
                        Some(Slot::Waiting { request: OwnedRequest::copy(&view), meta, safe })
                    } else {
                        self.begin_parsed(links, &origin, &view, owed, safe, &mut conn.taken)
                    };
                    conn.slots.extend(slot);
                    if conn.slots.is_empty() {
                        conn.first_seq += 1;
                    }
                    conn.partial = Partial::None;
                    conn.continue_owed = false;
                    conn.last_request_seen = last && conn.taken.is_none();
                }
                Err(error) => {
                    let head_only = conn.decoder.refused_head(rest);
                    self.reject(links, conn, &error, head_only);
                    at = input.len();
                }
            }
        }
        at
    }

    /// Begins a request straight from the bytes it was parsed in. Returns the slot it takes, or nothing when it
    /// was answered in its turn.
    fn begin_parsed(
        &mut self,
        links: &mut Links,
        origin: &Origin,
        view: &RequestView<'_>,
        owed: bool,
        safe: bool,
        taken: &mut Option<Takeover>,
    ) -> Option<Slot> {
        let upgrade = view.is_websocket_upgrade();
        if owed && upgrade {
            let meta = self.meta(view);
            return Some(Slot::Waiting { request: OwnedRequest::copy(view), meta, safe: false });
        }
        let begun = if owed {
            let mut bytes = Vec::new();
            match self.begin(origin, view, &mut bytes) {
                Begun::Answered => return Some(Slot::Ready { bytes, lent: None, safe }),
                other => other,
            }
        } else {
            let outbox = links.outbox(origin.id)?;
            self.begin(origin, view, outbox.buffer())
        };
        match begun {
            Begun::Answered => None,
            Begun::Running => Some(Slot::Running { safe }),
            Begun::Held => {
                self.held.push(origin.id);
                let meta = self.meta(view);
                Some(Slot::Waiting { request: OwnedRequest::copy(view), meta, safe })
            }
            Begun::Taken(by) => {
                *taken = Some(by);
                None
            }
        }
    }

    pub(super) fn meta(&self, view: &RequestView<'_>) -> Meta {
        meta_of(view, self.date, self.cors_origin.clone(), self.draining)
    }

    /// Routes one request. What is answered at once is appended to `out`.
    fn begin(&mut self, origin: &Origin, view: &RequestView<'_>, out: &mut Vec<u8>) -> Begun {
        let path = view.path();
        if admin::owns(path) {
            return self.begin_admin(origin, view, out);
        }
        if view.is_websocket_upgrade() {
            return self.begin_upgrade(origin.id, view, out);
        }
        let answer = match self.snapshot.table().route(view.method().as_str(), path) {
            RouteMatch::Found { module, route } => return self.begin_route(origin, view, module, route, out),
            RouteMatch::Held { .. } => return Begun::Held,
            found => self.unserved(view, found),
        };
        answer.encode(&self.meta(view), out);
        Begun::Answered
    }

    /// The default answer to OPTIONS (Fetch standard, CORS-preflight).
    pub(super) fn preflight(&self) -> ServerAnswer {
        ServerAnswer { status: 200, ..ServerAnswer::default() }
            .with("Access-Control-Allow-Methods", self.limits.cors_methods.clone())
            .with("Access-Control-Allow-Headers", self.limits.cors_headers.clone())
            .with("Access-Control-Max-Age", self.limits.cors_max_age_s.to_string())
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
        if view.body.len() > self.limits.body_bytes_max {
            self.body_too_large().encode(&self.meta(view), out);
            return Begun::Answered;
        }
        if generation.route_flags(route) & FLAG_INLINE != 0
            && let Some(local) = &mut self.local
        {
            let generation = Arc::clone(generation);
            let meta = meta_of(view, self.date, None, self.draining);
            let cors = self.cors_origin.as_deref();
            let dropped = local.executor.request(&*generation, route, view, &meta, cors, out);
            self.stats.inline();
            self.stats.headers_dropped(u64::from(dropped));
            return Begun::Answered;
        }
        if self.in_flight >= self.limits.in_flight_max {
            self.stats.overloaded();
            let answer = ServerAnswer::text(503, "too many requests in flight\n").with("Retry-After", "1");
            answer.encode(&self.meta(view), out);
            return Begun::Answered;
        }
        let generation = Arc::clone(generation);
        let work = Work::Request {
            conn: origin.id,
            seq: origin.seq,
            route,
            request: OwnedRequest::copy(view),
            meta: self.meta(view),
        };
        self.submit(&generation, route, work);
        Begun::Running
    }

    /// Hands work to the companion if its unit is known to be short, else to the pool.
    pub(super) fn submit(&mut self, generation: &Arc<ShardGen>, unit: usize, work: Work) {
        self.in_flight += 1;
        let hold = Arc::clone(generation);
        let short = generation.is_short(unit);
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
        let jobs_socket = view.path() == b"/jobs/ws" && view.is_websocket_upgrade();
        if jobs_socket || Self::asks_for_events(view) {
            if let Err(refusal) = self.admin.check(view, origin.client) {
                refusal.encode(&self.meta(view), out);
                return Begun::Answered;
            }
            return if jobs_socket {
                self.begin_jobs_socket(origin.id, view, out)
            } else {
                self.begin_events(origin.id, origin.seq, view, out)
            };
        }
        self.in_flight += 1;
        let reply = Reply {
            inbox: Arc::clone(&self.inbox),
            conn: origin.id,
            seq: origin.seq,
            meta: self.meta(view),
            sent: false,
        };
        self.admin.handle(view, origin.client, reply);
        Begun::Running
    }

    /// An answer made elsewhere arrived.
    pub(super) fn answered(
        &mut self,
        links: &mut Links,
        id: ConnId,
        seq: u64,
        bytes: Vec<u8>,
        lent: Option<Box<dyn Lent>>,
    ) {
        let Some(conn) = self.conn(id) else { return }; // The client left before its answer came.
        let Some(slot) = conn.slot_mut(seq) else { return };
        let safe = slot.is_safe();
        *slot = Slot::Ready { bytes, lent, safe };
        self.advance(links, id);
    }

    /// Sends the answers whose turn has come, begins the request that waited for its turn, and goes on parsing.
    pub(super) fn advance(&mut self, links: &mut Links, id: ConnId) {
        let Some(mut conn) = self.take(id) else { return };
        while let Some(slot) = conn.slots.pop_front() {
            match slot {
                Slot::Ready { bytes, lent, .. } => {
                    conn.first_seq += 1;
                    if let Some(outbox) = links.outbox(id) {
                        outbox.push_owned(bytes);
                        if let Some(lent) = lent {
                            outbox.push_lent(lent);
                        }
                    }
                }
                Slot::Waiting { request, meta, safe } => {
                    if let Some(slot) = self.begin_waiting(links, &mut conn, request, meta, safe) {
                        conn.slots.push_front(slot);
                        break;
                    }
                    conn.first_seq += 1;
                }
                running @ Slot::Running { .. } => {
                    conn.slots.push_front(running);
                    break;
                }
                Slot::Stream { key } => {
                    conn.first_seq += 1;
                    conn.taken = Some(Takeover::Stream(key));
                    break;
                }
            }
        }
        Self::send_continue(links, &mut conn);
        let taken = conn.taken;
        self.put(conn);
        match taken {
            Some(by) => self.taken(links, id, by),
            None => {
                self.resume(links, id);
                self.after_input(links, id);
            }
        }
    }

    /// Begins a request that waited and is the first in order now. Returns its slot unless it was answered.
    fn begin_waiting(
        &mut self,
        links: &mut Links,
        conn: &mut Conn,
        request: OwnedRequest,
        meta: Meta,
        safe: bool,
    ) -> Option<Slot> {
        let origin = Origin { id: conn.id, seq: conn.first_seq, client: Client::of(&conn.peer) };
        let begun = {
            let outbox = links.outbox(conn.id)?;
            self.begin(&origin, &request.view(), outbox.buffer())
        };
        match begun {
            Begun::Answered => None,
            Begun::Running => Some(Slot::Running { safe }),
            Begun::Held => {
                self.held.push(conn.id);
                Some(Slot::Waiting { request, meta, safe })
            }
            Begun::Taken(by) => {
                conn.taken = Some(by);
                None
            }
        }
    }

    /// Goes on with bytes that had to wait, and lets the driver read again.
    pub(super) fn resume(&mut self, links: &mut Links, id: ConnId) {
        let Some(mut conn) = self.take(id) else { return };
        if conn.paused && conn.taken.is_none() {
            let blocked = conn.is_blocked(self.limits.pipeline_max);
            if !blocked && links.unsent(id) <= self.limits.unsent_bytes_max {
                conn.paused = false;
                links.set_reading(id, true);
                self.parse_input(links, &mut conn);
            }
        }
        self.put(conn);
    }

    /// Closes a connection that has been answered for the last time; starts the WebSocket of one that became one.
    pub(super) fn after_input(&mut self, links: &mut Links, id: ConnId) {
        let draining = self.draining;
        let Some(conn) = self.conn(id) else { return };
        if let Some(by) = conn.taken {
            self.taken(links, id, by);
        } else if conn.slots.is_empty()
            && (conn.last_request_seen || conn.eof && !conn.paused || draining && conn.is_idle())
        {
            links.close(id);
        }
    }

    /// The connection has become something else: bytes that came behind the request are its first ones.
    fn taken(&mut self, links: &mut Links, id: ConnId, by: Takeover) {
        let input = self.conn(id).map(|conn| {
            conn.paused = false;
            std::mem::take(&mut conn.input)
        });
        links.set_reading(id, true);
        match by {
            Takeover::Socket(key) => self.socket_begins(links, key),
            Takeover::Stream(key) => self.stream_begins(links, key),
        }
        if let Some(input) = input.filter(|input| !input.is_empty()) {
            self.taken_data(links, by, &input);
        }
    }

    /// Bytes for what a connection has become.
    pub(super) fn taken_data(&mut self, links: &mut Links, by: Takeover, bytes: &[u8]) {
        match by {
            Takeover::Socket(key) => self.socket_data(links, key, bytes),
            Takeover::Stream(key) => self.stream_data(links, key, bytes),
        }
    }

    /// Framing is lost: answer after what is owed, then close.
    fn reject(&mut self, links: &mut Links, conn: &mut Conn, error: &RequestError, head_only: bool) {
        let mut bytes = Vec::new();
        let meta = Meta { head_only, ..self.error_meta() };
        ServerAnswer::text(error.status(), format!("{error}\n")).encode(&meta, &mut bytes);
        Self::last_answer(links, conn, bytes);
    }

    /// Framing of an answer after which the connection is closed.
    fn error_meta(&self) -> Meta {
        Meta {
            date: self.date,
            keep_alive: false,
            http_1_0: false,
            head_only: false,
            cors_origin: self.cors_origin.clone(),
        }
    }

    /// Answers a connection that can't be taken.
    pub(super) fn refuse_connection(&mut self, links: &mut Links, id: ConnId) {
        self.stats.overloaded();
        let meta = self.error_meta();
        if let Some(conn) = self.conn(id) {
            conn.last_request_seen = true;
        }
        if let Some(outbox) = links.outbox(id) {
            ServerAnswer::text(503, "too many connections\n").with("Retry-After", "1").encode(&meta, outbox.buffer());
        }
    }

    /// Ends a connection that was too slow with `status`.
    pub(super) fn time_out(&mut self, links: &mut Links, id: ConnId, status: u16, text: &str) {
        let meta = self.error_meta();
        if let Some(conn) = self.conn(id) {
            conn.last_request_seen = true;
            conn.partial = Partial::None;
            conn.input = Vec::new();
        }
        if let Some(outbox) = links.outbox(id) {
            ServerAnswer::text(status, text).encode(&meta, outbox.buffer());
        }
        links.close(id);
    }
}
