//! Request bodies that are passed to their handlers in pieces.
//!
//! The handler starts when the head is complete. While the handler takes nothing and its buffer is full, the shard does not
//! read the connection; the handler's side sends a notice when it has room again.

use super::Shard;
use super::begun::Begun;
use super::conn::{Conn, Partial, Slot, credited};
use super::conn_upload::{BodySink, ConnUpload, DRAINED_BYTES_MAX};
use super::origin::Origin;
use super::refused::{no_memory, too_many};
use super::snapshot::ShardGen;
use super::traces;
use crate::abi::manifest::RouteDecl;
use crate::domain::call::{GenerationRef, OwnedRequest, Task};
use crate::domain::local_call::Call;
use crate::domain::stream::{CallSlot, NoSlot, StreamStart, Upload};
use crate::module::table::RouteMatch;
use crate::net::{ConnId, Connections};
use crate::proto::http1::{CONTINUE, Method, RequestError, RequestView, close_after};
use crate::server_response::{Meta, ServerAnswer};
use std::sync::Arc;

/// How to treat a body after its head is complete.
pub(super) enum Gathering {
    /// Gather the body, up to this many bytes.
    Whole(usize),
    /// The handler may take the body in pieces; the request's turn, or the end of a swap, decides.
    Pieces,
    /// Do not read the body.
    Refused(ServerAnswer),
}

impl Shard {
    /// Decides how to treat the body of `view`, whose head alone has arrived.
    pub(super) fn gathering(
        &self,
        origin: &Origin,
        view: &RequestView<'_>,
        announced: Option<usize>,
        expects_continue: bool,
    ) -> Gathering {
        if let Some(gathering) = self.own_gathering(origin, view) {
            return gathering;
        }
        if let Some(why) = origin.beyond.filter(|_| origin.serves_modules(view.path())) {
            return Gathering::Refused(too_many(why));
        }
        match self.takes_pieces(origin, view) {
            Some(Some(limit)) if announced.is_some_and(|length| length > limit) => {
                return Gathering::Refused(self.too_large(limit, self.declared(view)));
            }
            Some(_) => return Gathering::Pieces,
            None => {}
        }
        let limit = self.body_limit(origin, view, announced);
        // A client with a wrong path or method gets that error and not advice about the body's size.
        let unserved = if expects_continue || limit.is_err() { self.unserved_early(origin, view) } else { None };
        match (limit, unserved) {
            (Ok(bytes_max), None) => Gathering::Whole(bytes_max),
            (_, Some(refusal)) | (Err(refusal), None) => Gathering::Refused(refusal),
        }
    }

    /// Whether the body of `view` may be passed on in pieces, and its total limit.
    fn takes_pieces(&self, origin: &Origin, view: &RequestView<'_>) -> Option<Option<usize>> {
        if !origin.serves_modules(view.path()) {
            return None;
        }
        let table = self.snapshot.table();
        let routes = |module: usize| table.modules().get(module).map(|module| module.manifest().routes.as_slice());
        match table.route(view.method().as_str(), view.path()) {
            RouteMatch::Found { module, route } => {
                let route = routes(module)?.get(route).filter(|route| route.is_stream())?;
                Some(route.body_bytes_max())
            }
            RouteMatch::Held { module } => routes(module)?.iter().any(RouteDecl::is_stream).then_some(None),
            _ => None,
        }
    }

    /// Begins a request with a complete head, whose body may be passed on in pieces, if the request has its turn. Returns
    /// false if it must wait; the connection is then not read.
    pub(super) fn begin_upload(
        &mut self,
        connections: &mut Connections,
        conn: &mut Conn,
        expects_continue: bool,
    ) -> bool {
        conn.stream_waits = Some(expects_continue);
        if !conn.slots.is_empty() {
            return Self::wait_to_upload(connections, conn);
        }
        let origin = self.origin(conn, conn.next_seq());
        if origin.is_for_server(conn.decoder.head_view().path()) {
            self.begin_own_upload(connections, conn, &origin, expects_continue);
            return true;
        }
        let view = RequestView { peer: conn.peer.ip(), ..conn.decoder.head_view() };
        let announced = conn.decoder.body_left();
        let (module, route) = match self.snapshot.table().route(view.method().as_str(), view.path()) {
            RouteMatch::Found { module, route } => (module, route),
            RouteMatch::Held { .. } => {
                self.held.push(conn.id);
                return Self::wait_to_upload(connections, conn);
            }
            _ => return self.gather_after_all(connections, conn, &origin, announced),
        };
        let Some(generation) = self.snapshot.gen_of(module).map(Arc::clone) else {
            self.held.push(conn.id);
            return Self::wait_to_upload(connections, conn);
        };
        let Some(declared) = generation.route(route).filter(|route| route.is_stream()) else {
            return self.gather_after_all(connections, conn, &origin, announced);
        };
        let limit = declared.body_bytes_max();
        let Some(slot) = self.stream_slot(&generation) else {
            self.held.push(conn.id);
            return Self::wait_to_upload(connections, conn);
        };
        let last = !view.keep_alive() || origin.is_last();
        let meta = self.meta(&origin, &view);
        let head_only = view.method() == Method::Head;
        let safe = view.method().is_safe();
        let request = OwnedRequest::copy(&view);
        let trace = self.trace(connections, &origin, &view);
        self.stats.request();
        conn.stream_waits = None;
        conn.continue_owed = false;
        let slot = match slot {
            Ok(slot) => slot,
            Err(refusal) => {
                self.stats.overloaded();
                self.trace_refused(connections, conn, refusal.status);
                self.answer_last(connections, conn, &refusal, head_only);
                return true;
            }
        };
        conn.decoder.stream_body(limit);
        conn.partial = Partial::Body;
        conn.body_paid_ms = self.now_ms;
        let sink = BodySink::Module(Upload::new(&slot));
        conn.upload = Some(Box::new(ConnUpload::new(origin.seq, sink, expects_continue)));
        let stream = StreamStart { slot, length: announced.map(|length| length as u64), expects_continue };
        self.submit_stream(&generation, &origin, route, request, meta, stream);
        conn.slots.push_back(Slot::Running { safe, expected: 0 });
        traces::begun(connections, conn, trace);
        conn.last_request_seen = last;
        true
    }

    pub(super) fn wait_to_upload(connections: &mut Connections, conn: &mut Conn) -> bool {
        conn.paused = true;
        connections.set_reading(conn.id, false);
        false
    }

    /// Handles a request whose streaming route has gone since its head came.
    fn gather_after_all(
        &mut self,
        connections: &mut Connections,
        conn: &mut Conn,
        origin: &Origin,
        announced: Option<usize>,
    ) -> bool {
        conn.stream_waits = None;
        let view = conn.decoder.head_view();
        match self.body_limit(origin, &view, announced) {
            Ok(bytes_max) => {
                conn.decoder.limit_body(bytes_max);
                Self::send_continue(connections, conn);
            }
            Err(refusal) => {
                let head_only = view.method() == Method::Head;
                self.trace_refused(connections, conn, refusal.status);
                self.answer_last(connections, conn, &refusal, head_only);
            }
        }
        true
    }

    /// Memory for a call of a `CWEB_STREAM` route, or an answer because there is none. `None`: the module's process is
    /// starting, and the request waits for it.
    fn stream_slot(&mut self, generation: &Arc<ShardGen>) -> Option<Result<Arc<CallSlot>, ServerAnswer>> {
        let slot = match &self.local {
            Some(_) => self.inbox.streams().and_then(|streams| streams.take_call()).ok_or(NoSlot::Taken),
            None => self.remote.take_call_slot(generation.instance()),
        };
        let refused = match slot {
            Ok(_) if self.lacks_memory_for_streams() => {
                self.stats.memory_refused();
                return Some(Err(no_memory()));
            }
            Ok(slot) => return Some(Ok(slot)),
            Err(NoSlot::Taken) => "too many streams at once (--stream-calls-max)".to_owned(),
            Err(no_process) => match generation.instance().quarantine() {
                Some(why) => why,
                None if no_process == NoSlot::NotYet && !self.draining => return None,
                None => "the process of the module is not running; try again".to_owned(),
            },
        };
        Some(Err(ServerAnswer::text(503, refused + "\n").with("Retry-After", "1")))
    }

    fn submit_stream(
        &mut self,
        generation: &Arc<ShardGen>,
        origin: &Origin,
        route: usize,
        request: OwnedRequest,
        meta: Meta,
        stream: StreamStart,
    ) {
        self.in_flight += 1;
        let hold = Arc::clone(generation);
        let work =
            Task::Request { conn: origin.id, seq: origin.seq, route, request, meta, stream: Some(Box::new(stream)) };
        match &mut self.local {
            None => self.remote.submit(hold, false, work),
            Some(local) => local.streams.push(Call { hold, reply: Arc::clone(&self.inbox), work }),
        }
    }

    /// Begins a request to a `CWEB_STREAM` route whose body has already arrived.
    pub(super) fn begin_whole_stream(
        &mut self,
        origin: &Origin,
        view: &RequestView<'_>,
        generation: &Arc<ShardGen>,
        route: usize,
        out: &mut Vec<u8>,
    ) -> Begun {
        let limit = generation.route(route).and_then(RouteDecl::body_bytes_max);
        if let Some(limit) = limit.filter(|limit| view.body.len() > *limit) {
            self.too_large(limit, generation.route(route)).encode(&self.meta(origin, view), out);
            return Begun::Answered;
        }
        let slot = match self.stream_slot(generation) {
            None => return Begun::Held,
            Some(Ok(slot)) => slot,
            Some(Err(refusal)) => {
                self.stats.overloaded();
                refusal.encode(&self.meta(origin, view), out);
                return Begun::Answered;
            }
        };
        let mut upload = Upload::new(&slot);
        // The body came within one receive, which is smaller than the buffer.
        let put = upload.put(view.body);
        upload.end(put.is_err().then_some(libc::ENOMEM));
        let head = RequestView { body: &[], shared: None, ..*view };
        let stream = StreamStart { slot, length: Some(view.body.len() as u64), expects_continue: false };
        let (request, meta) = (OwnedRequest::copy(&head), self.meta(origin, view));
        self.submit_stream(generation, origin, route, request, meta, stream);
        Begun::Running { expected: 0 }
    }

    /// Passes on the body bytes in `input`. Returns the number of used bytes.
    pub(super) fn feed(&mut self, connections: &mut Connections, conn: &mut Conn, input: &[u8]) -> usize {
        let mut at = 0;
        while let Some(rest) = input.get(at..).filter(|rest| !rest.is_empty()) {
            let Some(state) = conn.upload.as_mut() else { return at };
            let Some(room) = state.room() else {
                conn.paused = true;
                connections.set_reading(conn.id, false);
                return at;
            };
            let piece = match conn.decoder.body_piece(rest, room) {
                Ok(piece) => piece,
                Err(error) => {
                    self.fail_upload(conn, errno_of(&error));
                    return input.len();
                }
            };
            at += piece.consumed;
            conn.body_paid_ms = credited(conn.body_paid_ms, piece.consumed, self.now_ms);
            state.put(piece.bytes);
            let drained_too_much = state.has_drained_much();
            if piece.done {
                state.end(None);
                self.upload_over(conn);
                return at;
            }
            if drained_too_much && self.is_answered(conn) {
                conn.upload = None;
                conn.last_request_seen = true;
                conn.partial = Partial::None;
                return input.len();
            }
            if drained_too_much {
                // A detached answer may go on for hours, and the connection ends with it: see `leave_upload`.
                conn.paused = true;
                connections.set_reading(conn.id, false);
                return at;
            }
            if piece.consumed == 0 {
                break;
            }
        }
        if conn.eof {
            self.fail_upload(conn, libc::ECONNRESET);
        }
        at
    }

    /// Whether the request of the arriving body has been answered.
    fn is_answered(&self, conn: &Conn) -> bool {
        conn.upload.as_ref().is_some_and(|upload| upload.seq() < conn.first_seq)
    }

    fn upload_over(&mut self, conn: &mut Conn) {
        conn.upload = None;
        conn.partial = Partial::None;
        conn.decoder.release();
    }

    /// Ends the incomplete body of `conn`: its handler gets `errno`, and the connection ends with the answer.
    pub(super) fn fail_upload(&mut self, conn: &mut Conn, errno: i32) {
        if let Some(mut state) = conn.upload.take() {
            state.end(Some(errno));
            conn.last_request_seen = true;
            conn.partial = Partial::None;
        }
    }

    /// Handles the FIN of a client.
    pub(super) fn upload_at_eof(&mut self, id: ConnId) {
        if let Some(mut conn) = self.take(id) {
            // The waiting input may be the rest of the body, but only if it waits for room: otherwise it is the beginning of a
            // chunk's head or of a trailer, whose end never comes.
            if conn.input.is_empty() || !conn.paused {
                self.fail_upload(&mut conn, libc::ECONNRESET);
            }
            self.put(conn);
        }
    }

    /// After the answer to request number `seq`: discards the body that its handler has not read, or ends the connection
    /// with the answer, which says so if it is still in `answer`.
    pub(super) fn leave_upload(&mut self, conn: &mut Conn, seq: u64, answer: Option<&mut Vec<u8>>) {
        let Some(state) = conn.upload.as_mut().filter(|state| state.seq() == seq) else { return };
        state.leave();
        let much = state.has_drained_much() || conn.decoder.body_left().is_some_and(|left| left > DRAINED_BYTES_MAX);
        if state.awaits_continue() || much {
            conn.upload = None;
            conn.partial = Partial::None;
            conn.last_request_seen = true;
            if let Some(answer) = answer {
                close_after(answer);
            }
        } else {
            conn.body_paid_ms = self.now_ms;
        }
    }

    /// Handles the first read of the body by the handler of request number `seq`.
    pub(super) fn upload_wanted(&mut self, connections: &mut Connections, id: ConnId, seq: u64) {
        let now_ms = self.now_ms;
        let Some(conn) = self.conn(id) else { return };
        let Some(state) = conn.upload.as_mut().filter(|state| state.seq() == seq) else { return };
        conn.body_paid_ms = conn.last_read_ms.max(conn.body_paid_ms);
        if state.take_continue()
            && let Some(outbox) = connections.outbox(id)
        {
            outbox.push(CONTINUE);
            conn.body_paid_ms = now_ms;
        }
    }

    /// Sends `100 Continue` before the answer of request number `seq` begins, if the handler has not read the body yet. The
    /// handler may still read it, and after the head of the answer 100 can't be sent any more (RFC 9110 §10.1.1).
    pub(super) fn continue_before_answer(&mut self, connections: &mut Connections, id: ConnId, seq: u64) {
        let now_ms = self.now_ms;
        let Some(conn) = self.conn(id) else { return };
        let Some(state) = conn.upload.as_mut().filter(|state| state.seq() == seq) else { return };
        if state.take_continue()
            && let Some(outbox) = connections.outbox(id)
        {
            outbox.push(CONTINUE);
            conn.body_paid_ms = now_ms;
        }
    }
}

fn errno_of(error: &RequestError) -> i32 {
    match error {
        RequestError::BodyTooLarge => libc::EMSGSIZE,
        _ => libc::EPROTO,
    }
}
