//! WebSockets: upgraded connections, whose callbacks run one at a time and in order.
//!
//! A socket belongs to its path, not to the generation that opened it: each batch of events goes to the handlers in the
//! shard's current snapshot. At most one batch of a socket is with an executor. Later events wait here, and beyond a limit
//! the shard stops reading the connection.

use super::Shard;
use super::begun::Begun;
use super::buffered::Buffered;
use super::conn::Upgrade;
use super::origin::Origin;
use super::placed_messages::{PLACED_BYTES_MIN, PlacedMessage};
use super::pongs::Pongs;
use super::refused::refused_handshake;
use super::snapshot::{ShardGen, Snapshot};
use crate::abi::websocket::Socket;
use crate::domain::call::{self, GenerationRef, Handshake, SocketEvent, Task};
use crate::domain::module_message::ModuleMessage;
use crate::id_map::IdMap;
use crate::module::table::Table;
use crate::net::{ConnId, Connections, Lent, Outbox};
use crate::proto::http1::RequestView;
use crate::proto::ws::{self, Deflate, Event, Session, WsLimits};
use crate::server_response::{Meta, ServerAnswer};
use std::sync::Arc;

/// Limit on the wait for the peer's close frame after ours.
const CLOSE_WAIT_MS: u64 = 2_000;

/// Limit on the time in which the peer of a closing socket takes nothing of the bytes before our close frame.
const STALL_MS: u64 = 5_000;

/// Bytes of messages waiting for the handler above which the shard stops reading.
const PENDING_BYTES_MAX: usize = 1024 * 1024;

/// RFC 6455 §7.4.1: the endpoint is going away.
const GOING_AWAY: u16 = 1001;
/// RFC 6455 §7.4.1: invalid data for the type, and a message that is too big.
const FAULTS: [u16; 2] = [1007, 1009];
/// RFC 6455 §7.4.1 / IANA registry: try again later.
pub(super) const TRY_AGAIN_LATER: u16 = 1013;

/// A WebSocket of this shard.
pub(super) struct SocketState {
    /// `None` once the connection is closed and only `on_close` must still run.
    conn: Option<ConnId>,
    session: Session,
    pongs: Pongs,
    handle: Arc<Socket>,
    /// Compression of messages to the peer.
    deflate: Option<Deflate>,
    path: Box<[u8]>,
    /// The large message that arrives in its place.
    arriving: Option<PlacedMessage>,
    pending: Vec<SocketEvent>,
    pending_bytes: usize,
    /// Bytes of messages that are with an executor.
    busy_bytes: usize,
    /// Whether a batch of events is with an executor.
    busy: bool,
    /// Whether `Close`, the last event, has been queued.
    finished: bool,
    paused: bool,
    /// The handlers that end the socket when its path is no longer served: those of the last generation that served it.
    orphan: Option<(Arc<ShardGen>, usize)>,
    /// The close code to send after `on_close`.
    close_after: Option<u16>,
    closing_since_ms: Option<u64>,
    /// While the socket closes: the sent bytes at the last look, and since when.
    closing_progress: Option<(usize, u64)>,
    /// When a ping was sent without any data since.
    pinged_ms: Option<u64>,
    buffered: Buffered,
}

/// The shard's WebSockets, by key.
#[derive(Default)]
pub(super) struct Sockets {
    states: IdMap<Box<SocketState>>,
    next_key: u64,
}

impl Sockets {
    pub(super) fn len(&self) -> usize {
        self.states.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    pub(super) fn get_mut(&mut self, key: u64) -> Option<&mut SocketState> {
        self.states.get_mut(&key).map(Box::as_mut)
    }

    /// The connection for messages to socket `key`, and their compression; `None` once the socket closes.
    pub(super) fn receiver(&self, key: u64) -> Option<(ConnId, Option<Deflate>)> {
        let state = self.states.get(&key).filter(|state| !state.session.is_closing())?;
        Some((state.conn?, state.deflate))
    }

    fn keys(&self) -> Vec<u64> {
        self.states.keys().copied().collect()
    }
}

impl Shard {
    /// Answers a handshake. On success the socket exists, and its first event is `on_open`.
    pub(super) fn begin_upgrade(&mut self, origin: &Origin, view: &RequestView<'_>, out: &mut Vec<u8>) -> Begun {
        let meta = self.meta(origin, view);
        let refuse = |answer: ServerAnswer, meta: &Meta, out: &mut Vec<u8>| {
            answer.encode(meta, out);
            Begun::Answered
        };
        if self.snapshot.table().websocket(view.path()).is_none() {
            return refuse(ServerAnswer::text(404, "no module serves a WebSocket on this path\n"), &meta, out);
        }
        let accept = match ws::check(view) {
            Ok(accept) => accept,
            Err(error) => {
                return refuse(refused_handshake(&error), &meta, out);
            }
        };
        if let Some(why) = self.quarantine_of(view.path()) {
            let answer = ServerAnswer::text(503, format!("{why}\n")).with("Retry-After", "1");
            return refuse(answer, &meta, out);
        }
        if self.draining {
            return refuse(crate::server_response::shutting_down(), &meta, out);
        }
        if let Some((module, route)) = self.handshake_route(view.path()) {
            return self.begin_handshake(origin, view, accept, (module, route), out);
        }
        let deflate = self.deflate_for(view);
        ws::encode_accept(out, &accept, deflate, &self.date);
        let key = self.open_socket(origin.id, view, deflate);
        Begun::Taken(Upgrade::Socket(key))
    }

    /// The reason why the module of the WebSocket path is in quarantine, if it is.
    fn quarantine_of(&self, path: &[u8]) -> Option<String> {
        let (module, _) = self.snapshot.table().websocket(path)?;
        self.snapshot.gen_of(module)?.instance().quarantine()
    }

    /// The compression that the server agrees to for the client of `view`.
    pub(super) fn deflate_for(&self, view: &RequestView<'_>) -> Option<Deflate> {
        let (module, index) = self.snapshot.table().websocket(view.path()).filter(|_| self.limits.ws_compress)?;
        let socket = self.snapshot.table().modules().get(module)?.manifest().websockets.get(index)?;
        socket.may_compress().then(|| Deflate::negotiate(view)).flatten()
    }

    /// Whether the callbacks of the WebSocket path may run on this thread.
    fn runs_here(&self, path: &[u8]) -> bool {
        let found = self.local.as_ref().and_then(|_| self.snapshot.table().websocket(path));
        found.is_some_and(|(module, index)| {
            self.snapshot.gen_of(module).is_some_and(|generation| generation.is_inline_socket(index))
        })
    }

    /// Opens the socket of an answered handshake, with the agreed compression.
    pub(super) fn open_socket(&mut self, conn: ConnId, view: &RequestView<'_>, deflate: Option<Deflate>) -> u64 {
        let key = self.sockets.next_key;
        self.sockets.next_key += 1;
        let outlet = Arc::clone(&self.inbox);
        let session = call::session_text(view.query());
        let limit = self.limits.ws_queue_bytes_max;
        let handshake = Handshake { head: view.packed().into(), peer: view.peer };
        let deflates = deflate.is_some();
        // A message for this process needs no place.
        let large_bytes_min = if self.local.is_some() { usize::MAX } else { PLACED_BYTES_MIN };
        let limits = WsLimits { message_bytes_max: self.limits.ws_message_bytes_max, large_bytes_min, deflates };
        // A shard does not compress.
        let deflate = deflate.filter(|_| !self.runs_here(view.path()));
        let state = SocketState {
            conn: Some(conn),
            session: Session::new(limits),
            pongs: Pongs::default(),
            handle: Socket::deflating(key, session.as_deref(), deflate, outlet, limit),
            deflate,
            path: view.path().into(),
            arriving: None,
            pending: vec![SocketEvent::Open { handshake: Some(Box::new(handshake)) }],
            pending_bytes: 0,
            busy_bytes: 0,
            busy: false,
            finished: false,
            paused: false,
            orphan: None,
            close_after: None,
            closing_since_ms: None,
            closing_progress: None,
            pinged_ms: None,
            buffered: Buffered::default(),
        };
        self.sockets.states.insert(key, Box::new(state));
        self.stats.ws_opened();
        key
    }

    /// Runs `on_open` after the handshake's answer was queued.
    pub(super) fn socket_begins(&mut self, connections: &mut Connections, key: u64) {
        self.dispatch_socket(connections, key);
    }

    /// Handles bytes of the WebSocket protocol.
    pub(super) fn socket_data(&mut self, connections: &mut Connections, key: u64, bytes: &[u8]) {
        let (inbox_max, stats) = (self.limits.ws_inbox_messages_max, Arc::clone(&self.stats));
        let Some(state) = self.sockets.states.get_mut(&key).map(Box::as_mut) else { return };
        let Some(conn) = state.conn else { return };
        let (mut closed, mut lacks_memory) = (false, false);
        let mut received = state.session.receive(bytes);
        while let Some(event) = received.next() {
            match event {
                Event::Message { kind, payload, deflated } if !state.finished => {
                    stats.ws_message_in();
                    state.pending_bytes += payload.len();
                    state.pending.push(SocketEvent::Message { kind, payload, deflated });
                }
                Event::Large { kind, bytes } if !state.finished => {
                    let domains = (&self.snapshot, &mut self.remote);
                    state.arriving = PlacedMessage::begin(domains, &state.path, kind, bytes);
                    if state.arriving.is_some() {
                        received.take_parts();
                    }
                }
                Event::Part { bytes, end } => match PlacedMessage::take_part(&mut state.arriving, &bytes, end) {
                    Ok(Some(event)) => {
                        stats.ws_message_in();
                        state.pending_bytes += event.bytes();
                        state.pending.push(event);
                    }
                    Ok(None) => {}
                    Err(error) => {
                        tracing::warn!(%error, "there is no memory for a WebSocket message");
                        lacks_memory = true;
                    }
                },
                Event::Message { .. } | Event::Large { .. } => {}
                Event::Closed { .. } => closed = true,
            }
        }
        if lacks_memory {
            stats.memory_refused();
            return self.give_up_socket(connections, key);
        }
        state.flush(connections);
        if closed {
            state.finish();
            connections.close(conn);
        }
        if state.pending.len() > inbox_max || state.pending_bytes > PENDING_BYTES_MAX {
            state.paused = true;
            connections.set_reading(conn, false);
        }
        self.dispatch_socket(connections, key);
    }

    /// Passes the waiting events to the handlers of the socket's path, unless a batch is already with an executor.
    fn dispatch_socket(&mut self, connections: &mut Connections, key: u64) {
        let Some(state) = self.sockets.states.get_mut(&key) else { return };
        if state.busy || state.pending.is_empty() {
            return;
        }
        let target = match &state.orphan {
            Some((generation, index)) => Some((Arc::clone(generation), *index)),
            None => match self.snapshot.table().websocket(&state.path) {
                // During a swap of the module, events wait like its requests.
                Some((module, _)) if self.snapshot.table().is_held(module) => return,
                Some((module, index)) => self.snapshot.gen_of(module).map(|generation| (Arc::clone(generation), index)),
                None => None,
            },
        };
        let Some((generation, index)) = target else {
            // No module serves the path, so no handler gets the events.
            if let Some(conn) = state.conn {
                connections.abort(conn);
            }
            self.forget_socket(key);
            return;
        };
        let shared = (&mut self.remote, &*self.bodies, &*self.stats);
        if !self.memory.has_share(shared, generation.instance(), state.pending_bytes) {
            self.stats.memory_refused();
            return self.give_up_socket(connections, key);
        }
        state.busy = true;
        state.busy_bytes = std::mem::take(&mut state.pending_bytes);
        let events = std::mem::take(&mut state.pending);
        // A shard does not decompress.
        let deflated = events.iter().any(|event| matches!(event, SocketEvent::Message { deflated: true, .. }));
        if let Some(local) = self.local.as_mut().filter(|_| !deflated && generation.is_inline_socket(index)) {
            local.executor.socket(&*generation, &state.handle, index, events);
            // This message comes after the messages of the callbacks.
            self.in_flight += 1;
            return self.inbox.push(ModuleMessage::SocketIdle { socket: key });
        }
        let work = Task::Socket { socket: Arc::clone(&state.handle), index, events };
        let unit = generation.websocket_unit(index);
        self.submit(&generation, unit, work);
    }

    /// Handles the end of a batch.
    pub(super) fn socket_idle(&mut self, connections: &mut Connections, key: u64) {
        let Some(state) = self.sockets.states.get_mut(&key) else { return };
        (state.busy, state.busy_bytes) = (false, 0);
        if let Some(conn) = state.conn.filter(|_| std::mem::take(&mut state.paused) && !state.pongs.are_awaited()) {
            connections.set_reading(conn, true);
        }
        if !state.finished || !state.pending.is_empty() {
            return self.dispatch_socket(connections, key);
        }
        // Earlier published messages precede the close frame.
        self.send_published(connections);
        let Some(state) = self.sockets.states.get_mut(&key) else { return };
        // `on_close` has returned, so its generation is released.
        state.orphan = None;
        let now_ms = self.now_ms;
        match (state.conn, state.close_after.take()) {
            (Some(_), Some(code)) => {
                state.session.close(code, "");
                state.flush(connections);
                state.closing_since_ms = Some(now_ms);
                state.handle.mark_closed();
            }
            (Some(_), None) => state.handle.mark_closed(),
            (None, _) => {
                self.forget_socket(key);
            }
        }
    }

    /// Handles a connection whose peer has taken all sent bytes.
    pub(super) fn socket_drained(&mut self, connections: &mut Connections, key: u64) {
        let Some(state) = self.sockets.states.get_mut(&key) else { return };
        let resumes = state.pongs.taken() && !state.paused;
        let Some(conn) = state.conn else { return };
        if resumes {
            connections.set_reading(conn, true);
        }
        self.tell_buffered(connections, key, conn, false);
    }

    /// Sends a frame of a module. A socket with more queued bytes than the limit is closed: a module can't know how fast
    /// its readers are, and the server's memory is bounded.
    pub(super) fn socket_send(&mut self, connections: &mut Connections, key: u64, frame: Arc<[u8]>) {
        self.taken_from_module(key, frame.len());
        self.queue_frames(connections, key, 1, frame.len(), |outbox| outbox.push_shared(frame));
    }

    /// Like [`Shard::socket_send`], for a frame in a domain's memory.
    pub(super) fn socket_send_lent(&mut self, connections: &mut Connections, key: u64, frame: Box<dyn Lent>) {
        self.taken_from_module(key, frame.len());
        self.queue_frames(connections, key, 1, frame.len(), |outbox| outbox.push_lent(frame));
    }

    /// Counts a frame that the shard has taken from a module for this socket alone.
    fn taken_from_module(&mut self, key: u64, bytes: usize) {
        if let Some(state) = self.sockets.states.get_mut(&key) {
            state.handle.taken(bytes);
            state.buffered.take(bytes);
        }
    }

    fn forget_socket(&mut self, key: u64) {
        self.sockets.states.remove(&key);
        self.rooms.leave_all(key);
    }

    /// The domain of the module that serves the socket's path.
    pub(super) fn domain_of_socket(&self, key: u64) -> Option<String> {
        let state = self.sockets.states.get(&key).filter(|state| !state.finished)?;
        let (module, _) = self.snapshot.table().websocket(&state.path)?;
        self.snapshot.table().modules().get(module).map(|module| module.domain().to_owned())
    }

    /// Lets `push` queue `count` frames with `bytes` bytes in all, if the socket is open and its reader is fast enough.
    pub(super) fn queue_frames(
        &mut self,
        connections: &mut Connections,
        key: u64,
        count: u64,
        bytes: usize,
        push: impl FnOnce(&mut Outbox),
    ) {
        if let Some(conn) = self.conn_for_frame(connections, key, bytes)
            && let Some(outbox) = connections.outbox(conn)
        {
            push(outbox);
            self.stats.ws_messages_out(count);
            self.tell_buffered(connections, key, conn, false);
        }
    }

    /// The connection for a frame of `bytes` bytes.
    fn conn_for_frame(&mut self, connections: &mut Connections, key: u64, bytes: usize) -> Option<ConnId> {
        let limit = self.limits.ws_queue_bytes_max;
        let now_ms = self.now_ms;
        let state = self.sockets.states.get_mut(&key)?;
        let conn = state.conn.filter(|_| !state.session.is_closing())?;
        if connections.unsent(conn) + bytes > limit {
            self.stats.ws_overflowed();
            state.handle.mark_closed();
            state.session.close(TRY_AGAIN_LATER, "the reader is too slow");
            state.flush(connections);
            state.closing_since_ms = Some(now_ms);
            if state.busy {
                self.remote.gone(key);
            }
            return None;
        }
        Some(conn)
    }

    /// Closes a socket on behalf of a module.
    pub(super) fn socket_close(&mut self, connections: &mut Connections, key: u64, code: u16) {
        let now_ms = self.now_ms;
        let Some(state) = self.sockets.states.get_mut(&key) else { return };
        state.session.close(code, "");
        state.flush(connections);
        state.closing_since_ms.get_or_insert(now_ms);
        if let Some(conn) = state.conn.filter(|_| FAULTS.contains(&code)) {
            // The client has broken the protocol, so the server does not wait for its close frame (RFC 6455 §7.1.7).
            state.finish();
            connections.close(conn);
            self.dispatch_socket(connections, key);
        }
    }

    /// Closes socket `key` with 1013, because there is no memory for the client's messages.
    pub(super) fn give_up_socket(&mut self, connections: &mut Connections, key: u64) {
        let Some(state) = self.sockets.states.get_mut(&key) else { return };
        state.handle.mark_closed();
        state.session.give_up(TRY_AGAIN_LATER, "no memory for it");
        state.flush(connections);
        state.pending.retain(|event| !matches!(event, SocketEvent::Message { .. } | SocketEvent::Placed { .. }));
        state.pending_bytes = 0;
        state.finish();
        if let Some(conn) = state.conn {
            connections.close(conn);
        }
        self.dispatch_socket(connections, key);
    }

    /// Handles the closed connection of socket `key`.
    pub(super) fn socket_gone(&mut self, connections: &mut Connections, key: u64) {
        let Some(state) = self.sockets.states.get_mut(&key) else { return };
        state.conn = None;
        state.handle.mark_closed();
        self.rooms.leave_all(key);
        if state.busy {
            self.remote.gone(key);
        }
        let told = state.finished && !state.busy && state.pending.is_empty();
        state.finish();
        if told {
            self.forget_socket(key);
        } else {
            self.dispatch_socket(connections, key);
        }
    }

    /// After a swap: sockets whose path has gone end with their old handlers; the others continue with the new ones.
    pub(super) fn sockets_after_swap(&mut self, connections: &mut Connections, old: &Snapshot) {
        for key in self.sockets.keys() {
            let table = Arc::clone(self.snapshot.table());
            self.orphan_if_unserved(key, &table, old);
            self.dispatch_socket(connections, key);
        }
    }

    fn orphan_if_unserved(&mut self, key: u64, table: &Table, old: &Snapshot) {
        let Some(state) = self.sockets.states.get_mut(&key) else { return };
        if state.orphan.is_some() || table.websocket(&state.path).is_some() {
            return;
        }
        state.orphan = old
            .table()
            .websocket(&state.path)
            .and_then(|(module, index)| old.gen_of(module).map(|generation| (Arc::clone(generation), index)));
        state.close_after = Some(GOING_AWAY);
        state.finish();
    }

    /// At a stop: ends each socket with its handlers' `on_close` and a close frame.
    pub(super) fn drain_sockets(&mut self, connections: &mut Connections) {
        for key in self.sockets.keys() {
            if let Some(state) = self.sockets.states.get_mut(&key) {
                state.close_after = Some(GOING_AWAY);
                state.finish();
            }
            self.dispatch_socket(connections, key);
        }
    }

    /// At the final end: sends a close frame on sockets that have not sent one.
    pub(super) fn leave_sockets(&mut self, connections: &mut Connections) {
        for state in self.sockets.states.values_mut() {
            state.session.close(GOING_AWAY, "");
            state.flush(connections);
        }
    }

    /// Checks one socket, about once a second: pings a silent peer, and closes the socket if the peer answers neither a
    /// ping nor a close frame. `last_read_ms` is the time of the last data.
    pub(super) fn sweep_socket(&mut self, connections: &mut Connections, key: u64, last_read_ms: u64) {
        let (now_ms, interval_ms) = (self.now_ms, self.limits.ws_ping_interval_ms);
        let Some(conn) = self.sockets.states.get(&key).and_then(|state| state.conn) else { return };
        self.tell_buffered(connections, key, conn, true);
        let Some(state) = self.sockets.states.get_mut(&key) else { return };
        if let Some(message) = &mut state.arriving {
            message.leave_ended();
        }
        if let Some(since) = state.closing_since_ms {
            // A slow reader may take the bytes before the close frame.
            let sent = connections.sent_total(conn);
            let (before, moved_ms) = state.closing_progress.get_or_insert((sent, since));
            if *before != sent {
                (*before, *moved_ms) = (sent, now_ms);
            }
            let limit_ms = if connections.unsent(conn) > 0 { STALL_MS } else { CLOSE_WAIT_MS };
            if now_ms.saturating_sub(*moved_ms) > limit_ms {
                connections.abort(conn);
            }
            return;
        }
        if interval_ms == 0 || state.paused || connections.unsent(conn) > 0 {
            // The peer is silent because the shard does not read, or a ping would wait behind other bytes, which have a
            // time-out of their own.
            state.pinged_ms = None;
            return;
        }
        match state.pinged_ms {
            Some(at) if last_read_ms >= at => state.pinged_ms = None,
            Some(at) if now_ms.saturating_sub(at) > self.limits.ws_pong_timeout_ms => {
                state.handle.mark_closed();
                state.session.close(GOING_AWAY, "no answer to a ping");
                state.flush(connections);
                state.closing_since_ms = Some(now_ms);
            }
            Some(_) => {}
            None if now_ms.saturating_sub(last_read_ms) > interval_ms => {
                state.session.ping();
                state.flush(connections);
                state.pinged_ms = Some(now_ms);
            }
            None => {}
        }
    }
}

impl SocketState {
    pub(super) fn handle(&self) -> &Socket {
        &self.handle
    }

    pub(super) fn buffered(&mut self) -> &mut Buffered {
        &mut self.buffered
    }

    /// Bytes of memory for messages: incomplete, waiting, and with an executor.
    pub(super) fn held(&self) -> usize {
        let arriving = self.arriving.as_ref().map_or(0, PlacedMessage::written);
        self.session.held() + arriving + self.pending_bytes + self.busy_bytes
    }

    /// Queues `on_close`, once.
    fn finish(&mut self) {
        self.arriving = None;
        if !self.finished {
            self.finished = true;
            self.pending.push(SocketEvent::Close);
        }
    }

    /// Queues the output of the protocol: pongs and close frames.
    fn flush(&mut self, connections: &mut Connections) {
        if let Some(conn) = self.conn {
            self.pongs.send(&mut self.session, connections, conn);
        }
    }
}
