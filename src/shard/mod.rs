//! A shard: one pinned thread that owns its connections and all their state.
//!
//! The reactor ([`crate::net`]) delivers bytes, the parser ([`crate::proto`]) turns them into requests, and the shard
//! matches the requests against its snapshot of the module table. An inline route is answered directly; any other request
//! goes to an executor or a domain's process. Shards share no state with each other, apart from counters; other threads
//! reach a shard only through its [`Inbox`]. No code here blocks.

mod admission;
mod begun;
mod body_limits;
mod buffered;
mod conn;
mod conn_upload;
mod error_responses;
mod event_requests;
mod feeds;
mod flow;
mod flows;
mod handshakes;
mod limits;
mod logs;
mod memory;
mod origin;
mod own_uploads;
mod pages;
mod peers;
mod placed_bodies;
mod placed_messages;
mod pongs;
mod refused;
mod requests;
mod response_order;
mod rooms;
mod snapshot;
mod sockets;
mod streams;
mod timeouts;
mod trace;
mod traces;
mod uploads;

pub use limits::ShardLimits;
pub use memory::MemoryBudget;
pub use peers::PeerCounts;
pub use snapshot::Snapshot;

use crate::admin::Admin;
use crate::domain::call::BodyLedger;
use crate::domain::executor::{Companion, Pool};
use crate::domain::in_process::Executor;
use crate::domain::inbox::{Inbox, Message};
use crate::domain::module_message::ModuleMessage;
use crate::domain::process::DomainCalls;
use crate::domain::stream::running::{self, Key, Reason};
use crate::module::table::Table;
use crate::net::{Application, CloseReason, ConnId, Connections, Peer};
use crate::proto::http1::{Preflight, http_date};
use crate::shard_stats::ShardStats;
use admission::Places;
use arc_swap::{ArcSwap, Cache};
use conn::{Conn, Serves, Slot, Upgrade};
use logs::LogStreams;
use memory::Memory;
use rooms::Rooms;
use sockets::Sockets;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use streams::Streams;

/// Limit on the messages handled in one turn, so that many completions can't starve the sockets.
const MESSAGES_PER_BATCH: usize = 4096;

/// How often a shard looks for further messages before it sends a message to many sockets.
const GATHERINGS_MAX: usize = 3;

/// The parts of a shard.
pub struct ShardParts {
    /// Number of the shard, from 0.
    pub id: usize,
    /// Limits and time-outs.
    pub limits: ShardLimits,
    /// The published module table.
    pub table: Arc<ArcSwap<Table>>,
    /// Messages from other threads.
    pub inbox: Arc<Inbox>,
    /// The executors for modules in this process; `None` if modules are isolated.
    pub local: Option<Local>,
    /// The server's own paths.
    pub admin: Arc<Admin>,
    /// The number of the first listener for the server's own paths; earlier listeners don't serve those paths. `None`:
    /// every listener serves everything.
    pub admin_listeners_from: Option<usize>,
    /// Counters, which only this shard writes.
    pub stats: Arc<ShardStats>,
    /// The connections of each peer, shared by all shards; `None` if they are not limited.
    pub peers: Option<Arc<PeerCounts>>,
    /// The memory budget of all shards.
    pub memory: Arc<MemoryBudget>,
}

/// The executors for modules in the server's process.
pub struct Local {
    /// The executor on this shard's core.
    pub companion: Companion,
    /// The executors shared by all shards.
    pub pool: Arc<Pool>,
    /// The executors for calls of `CWEB_STREAM` routes, which wait for their clients.
    pub streams: Arc<Pool>,
    /// Runs inline handlers and callbacks on the shard's thread.
    pub executor: Executor,
}

/// The state of one shard.
pub struct Shard {
    id: usize,
    limits: ShardLimits,
    /// Checked before each batch of bytes: a client that has seen the answer to a deployment gets answers of the new
    /// version.
    table: Cache<Arc<ArcSwap<Table>>, Arc<Table>>,
    snapshot: Snapshot,
    inbox: Arc<Inbox>,
    local: Option<Local>,
    remote: DomainCalls,
    /// Messages from the domains, while they are handled.
    arrived: Vec<ModuleMessage>,
    admin: Arc<Admin>,
    admin_listeners_from: Option<usize>,
    stats: Arc<ShardStats>,
    peers: Option<Arc<PeerCounts>>,
    memory: Memory,
    places: Places,
    conns: Vec<Option<Box<Conn>>>,
    sockets: Sockets,
    rooms: Rooms,
    streams: Streams,
    logs: LogStreams,
    /// Connections whose first waiting request could not begin because of a swap of its module.
    held: Vec<ConnId>,
    in_flight: usize,
    /// Like `in_flight`, for the server's own paths, so that neither kind can use up the other's limit.
    own_in_flight: usize,
    /// Bodies that wait for executors.
    bodies: Arc<BodyLedger>,
    /// Bytes of bodies that are being received.
    gathered_bytes: usize,
    epoch: Instant,
    now_ms: u64,
    date: [u8; 29],
    cors_origin: Option<Arc<str>>,
    preflight: Arc<Preflight>,
    sweep_at: usize,
    draining: bool,
    stopped: bool,
}

impl Shard {
    /// A shard without connections.
    #[must_use]
    pub fn new(parts: ShardParts) -> Self {
        let snapshot = Snapshot::first(parts.table.load_full());
        // Each shard has its own copy, so that cloning it for a request writes no cache line that another shard uses.
        let cors_origin = parts.limits.cors_origin.as_deref().map(Arc::from);
        let preflight = Arc::new(Preflight {
            methods: parts.limits.cors_methods.clone(),
            headers: parts.limits.cors_headers.clone(),
            max_age_s: parts.limits.cors_max_age_s,
        });
        let bodies = Arc::default();
        let mut shard = Self {
            id: parts.id,
            limits: parts.limits,
            table: Cache::new(parts.table),
            snapshot,
            inbox: parts.inbox,
            local: parts.local,
            remote: DomainCalls::new(parts.id, &bodies),
            arrived: Vec::new(),
            admin: parts.admin,
            admin_listeners_from: parts.admin_listeners_from,
            stats: parts.stats,
            peers: parts.peers,
            memory: Memory::new(parts.memory),
            places: Places::default(),
            conns: Vec::new(),
            sockets: Sockets::default(),
            rooms: Rooms::default(),
            streams: Streams::default(),
            logs: LogStreams::default(),
            held: Vec::new(),
            in_flight: 0,
            own_in_flight: 0,
            bodies,
            gathered_bytes: 0,
            epoch: Instant::now(),
            now_ms: 0,
            date: [b' '; 29],
            cors_origin,
            preflight,
            sweep_at: 0,
            draining: false,
            stopped: false,
        };
        shard.read_clock(Instant::now());
        shard
    }

    /// Reads the shard's only time source, which is refreshed each tick.
    fn read_clock(&mut self, now: Instant) {
        self.now_ms = u64::try_from(now.duration_since(self.epoch).as_millis()).unwrap_or(u64::MAX);
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        self.date = http_date(unix);
    }

    fn conn(&mut self, id: ConnId) -> Option<&mut Conn> {
        self.conns.get_mut(id.index())?.as_deref_mut().filter(|conn| conn.id == id)
    }

    /// Takes a connection out of the table for one operation; the caller must [`Shard::put`] it back.
    fn take(&mut self, id: ConnId) -> Option<Box<Conn>> {
        let place = self.conns.get_mut(id.index())?;
        if place.as_ref().is_some_and(|conn| conn.id == id) { place.take() } else { None }
    }

    fn put(&mut self, conn: Box<Conn>) {
        let index = conn.id.index();
        if let Some(place) = self.conns.get_mut(index) {
            *place = Some(conn);
        }
    }

    /// Tells the handlers of a connection's requests why their work may be useless.
    fn cancel_calls(&mut self, id: ConnId, reason: Reason) {
        let runs = |slot: &Slot| matches!(slot, Slot::Running { .. } | Slot::Flow(_));
        if !self.conn(id).is_some_and(|conn| conn.slots.iter().any(runs)) {
            return;
        }
        match &self.local {
            Some(_) => running::cancel(Key(Arc::as_ptr(&self.inbox).addr() as u64, id.number()), reason),
            None => self.remote.cancel(id, reason),
        }
    }

    fn handle(&mut self, connections: &mut Connections, message: Message) {
        match message {
            Message::Module(message) => self.handle_module(connections, message),
            Message::OwnAnswer { conn, seq, bytes, attached } => {
                self.own_in_flight = self.own_in_flight.saturating_sub(1);
                self.answered(connections, conn, seq, bytes, attached);
            }
            Message::StreamFound { stream, job } => self.stream_found(connections, stream, job),
            Message::StreamReplay { stream, replay } => self.stream_replayed(connections, stream, replay),
            Message::JobEvents(frames) => self.job_events(connections, &frames),
            Message::LogsReady { conn, seq, stream } => self.logs_ready(connections, conn, seq, stream),
            Message::LogLines => self.log_lines(connections),
            Message::DomainUp(link) => {
                for message in self.remote.up(link) {
                    self.handle_module(connections, message);
                }
                self.retry_held(connections);
            }
            Message::DomainDrain { domain } => self.remote.drain(domain),
            Message::DomainDown { domain } => {
                for message in self.remote.down(domain) {
                    self.handle_module(connections, message);
                }
            }
            Message::TableChanged => self.refresh(connections),
            Message::Drain => self.drain(connections),
            Message::Stop => {
                self.send_published(connections);
                self.leave_sockets(connections);
                self.stopped = true;
            }
        }
    }

    /// Handles a message of a module, or of its domain, for the module's clients.
    fn handle_module(&mut self, connections: &mut Connections, message: ModuleMessage) {
        match message {
            ModuleMessage::Answer { conn, seq, bytes, lent } => {
                self.in_flight = self.in_flight.saturating_sub(1);
                self.answered(connections, conn, seq, bytes, lent);
            }
            ModuleMessage::StreamBegin(begin) => self.flow_begins(connections, *begin),
            ModuleMessage::StreamNotice { conn, seq, wants_body } => {
                self.stream_notice(connections, conn, seq, wants_body);
            }
            ModuleMessage::StreamReturned { conn, seq } => self.flow_returned(connections, conn, seq),
            ModuleMessage::StreamBroken { conn, seq } => self.flow_broken(connections, conn, seq),
            ModuleMessage::Declined(declined) => {
                self.in_flight = self.in_flight.saturating_sub(1);
                self.declined(connections, *declined);
            }
            ModuleMessage::SocketIdle { socket } => {
                self.in_flight = self.in_flight.saturating_sub(1);
                self.socket_idle(connections, socket);
            }
            ModuleMessage::RoomPublish { domain, room, message } => self.publish(connections, domain, room, message),
            ModuleMessage::SocketSend { .. }
            | ModuleMessage::SocketSendLent { .. }
            | ModuleMessage::SocketRoom { .. }
            | ModuleMessage::SocketClose { .. } => self.handle_socket(connections, message),
        }
    }

    /// Performs a module's request on one of its sockets, after its earlier publications.
    fn handle_socket(&mut self, connections: &mut Connections, message: ModuleMessage) {
        self.send_published(connections);
        match message {
            ModuleMessage::SocketSend { socket, frame } => self.socket_send(connections, socket, frame),
            ModuleMessage::SocketSendLent { socket, frame } => self.socket_send_lent(connections, socket, frame),
            ModuleMessage::SocketRoom { socket, room, joins } => self.socket_room(socket, &room, joins),
            ModuleMessage::SocketClose { socket, code } => self.socket_close(connections, socket, code),
            _ => {}
        }
    }

    /// Takes the current table. A generation that left the table is released after this shard's last call in flight on it.
    fn refresh(&mut self, connections: &mut Connections) {
        self.send_published(connections);
        let table = Arc::clone(self.table.load());
        let old = self.snapshot.replace(table);
        self.sockets_after_swap(connections, &old);
        self.rooms_after_swap();
        drop(old);
        self.retry_held(connections);
    }

    /// Begins requests that waited for a swap.
    fn retry_held(&mut self, connections: &mut Connections) {
        let mut held = std::mem::take(&mut self.held);
        held.sort_unstable_by_key(|id| id.number());
        held.dedup();
        for id in held {
            self.advance(connections, id);
        }
    }

    /// Begins the graceful stop: idle connections are closed now, the others after their last answer. A connection without
    /// a request may have been accepted a moment ago, so `sweep` gives it a short time.
    fn drain(&mut self, connections: &mut Connections) {
        self.draining = true;
        let ids: Vec<ConnId> = self.conns.iter().flatten().map(|conn| conn.id).collect();
        for id in ids {
            self.cancel_calls(id, Reason::Draining);
            let idle = self.conn(id).is_some_and(|conn| conn.is_idle() && !conn.is_fresh());
            if idle {
                connections.close(id);
            }
        }
        self.drain_sockets(connections);
        self.drain_streams(connections);
        self.drain_logs(connections);
        self.drain_flows(connections);
    }

    /// Moves tasks that wait behind a long call from the companion to the pool.
    fn rescue(&mut self) {
        let Some(Local { companion, pool, .. }) = &mut self.local else { return };
        if companion.has_waiting() && companion.is_stuck() {
            while let Some(call) = companion.reclaim() {
                pool.push(call);
            }
        }
    }

    /// Handles the messages of the domains, and sends theirs.
    fn exchange(&mut self, connections: &mut Connections) {
        let mut arrived = std::mem::take(&mut self.arrived);
        self.remote.poll(&mut arrived);
        for message in arrived.drain(..) {
            self.handle_module(connections, message);
        }
        for _ in 0..GATHERINGS_MAX {
            if !self.publishes_to_many() {
                break;
            }
            // The companion of the domain runs on this core, and was preempted while it published messages.
            self.remote.flush();
            std::thread::yield_now();
            self.remote.poll(&mut arrived);
            if arrived.is_empty() {
                break;
            }
            for message in arrived.drain(..) {
                self.handle_module(connections, message);
            }
        }
        self.send_published(connections);
        self.arrived = arrived;
        self.remote.flush();
    }
}

impl Application for Shard {
    fn accepted(&mut self, connections: &mut Connections, id: ConnId, peer: &Peer, listener: usize) -> bool {
        let index = id.index();
        if self.conns.len() <= index {
            self.conns.resize_with(index + 1, || None);
        }
        let serves = match self.admin_listeners_from {
            None => Serves::All,
            Some(first) if listener < first => Serves::Modules,
            Some(_) => Serves::Admin,
        };
        let mut conn = Conn::new(id, *peer, serves, &self.limits.http, self.now_ms);
        let place = self.place_of(&mut conn, peer);
        conn.place = place;
        if let Some(kept) = self.conns.get_mut(index) {
            *kept = Some(Box::new(conn));
        }
        self.stats.accepted();
        self.takes_place(connections, id, place)
    }

    fn identified(&mut self, id: ConnId, name: &Arc<[u8]>) {
        if let Some(conn) = self.conn(id) {
            conn.decoder.set_client(Arc::clone(name));
        }
    }

    fn data(&mut self, connections: &mut Connections, id: ConnId, bytes: &[u8]) {
        if !Arc::ptr_eq(self.table.load(), self.snapshot.table()) {
            self.refresh(connections);
        }
        let Some(mut conn) = self.take(id) else { return };
        (conn.last_read_ms, conn.last_active_ms) = (self.now_ms, self.now_ms);
        if conn.held > 0 {
            self.moved(&mut conn, bytes.len());
        }
        match conn.taken {
            Some(by) => {
                self.put(conn);
                self.taken_data(connections, by, bytes);
            }
            None => {
                self.received(connections, &mut conn, bytes);
                self.put(conn);
                self.after_input(connections, id);
            }
        }
        self.weigh(connections, id);
    }

    fn eof(&mut self, connections: &mut Connections, id: ConnId) {
        let Some(conn) = self.conn(id) else { return };
        conn.eof = true;
        // A client that waits for its answer seldom closes its side first; the answer is sent all the same.
        self.upload_at_eof(id);
        self.cancel_calls(id, Reason::ClientGone);
        if self.conn(id).is_some_and(|conn| matches!(conn.slots.front(), Some(Slot::Flow(_)))) {
            return self.advance(connections, id);
        }
        let Some(conn) = self.conn(id) else { return };
        if let Some(by) = conn.taken
            && self.outlives_eof(by)
        {
            return;
        }
        let Some(conn) = self.conn(id) else { return };
        // A half-closed client still gets the answers to its requests, including those that are not parsed yet. If no
        // answer is owed, the connection is closed.
        if conn.slots.is_empty() && !conn.paused {
            connections.close(id);
        }
    }

    fn drained(&mut self, connections: &mut Connections, id: ConnId) {
        let now_ms = self.now_ms;
        let Some(conn) = self.conn(id) else { return };
        conn.write_paid_ms = now_ms;
        match conn.taken {
            Some(Upgrade::Stream(key)) => self.stream_drained(connections, key),
            Some(Upgrade::Logs(key)) => self.logs_drained(connections, key),
            Some(Upgrade::Socket(key)) => self.socket_drained(connections, key),
            None => self.advance(connections, id),
        }
    }

    fn closed(&mut self, connections: &mut Connections, id: ConnId, _reason: CloseReason) {
        self.cancel_calls(id, Reason::ClientGone);
        let Some(mut conn) = self.take(id) else { return };
        self.stats.closed();
        self.ungather(&mut conn);
        self.unweigh(&mut conn);
        self.leaves_place(&conn);
        if let Some(peers) = self.peers.as_ref().filter(|_| conn.counted) {
            peers.leave(&conn.peer);
        }
        match conn.taken {
            Some(Upgrade::Socket(key)) => self.socket_gone(connections, key),
            Some(Upgrade::Stream(key)) => self.stream_gone(key),
            Some(Upgrade::Logs(key)) => self.logs_gone(key),
            None => {}
        }
        self.drop_requests(&mut conn);
    }

    fn batch_end(&mut self, connections: &mut Connections) {
        for _ in 0..MESSAGES_PER_BATCH {
            let Some(message) = self.inbox.pop() else { break };
            self.handle(connections, message);
        }
        self.send_published(connections);
        match &mut self.local {
            Some(local) => {
                local.companion.wake();
                self.rescue();
            }
            None => {
                self.remote.awake();
                self.exchange(connections);
            }
        }
        self.check_unsent(connections);
    }

    fn has_work(&self) -> bool {
        !self.inbox.is_empty() || self.remote.has_work()
    }

    fn tick(&mut self, connections: &mut Connections, now: Instant) {
        self.read_clock(now);
        self.rescue();
        if self.local.is_none() {
            for message in self.remote.expire(self.now_ms, self.limits.handler_timeout_ms) {
                self.handle_module(connections, message);
            }
        }
        if self.id == 0 {
            self.admin.tick();
        }
        // Only this tick notices a process that does not start.
        self.retry_held(connections);
        self.sweep_reserved(connections);
        self.sweep(connections);
        self.stats.gauge(connections.len(), self.sockets.len(), self.in_flight);
    }

    fn finish(&mut self) {
        if let Some(local) = &mut self.local {
            local.companion.stop();
        }
        self.remote.clear();
        self.conns.clear();
        self.sockets = Sockets::default();
        self.streams = Streams::default();
        self.clear_logs();
        self.snapshot = Snapshot::first(Arc::default());
        self.table = Cache::new(Arc::default());
        // Answers for closed connections hold nothing, but a call that never began holds its generation.
        while self.inbox.pop().is_some() {}
    }

    fn accepting(&self) -> bool {
        !self.draining && !self.stopped
    }

    fn stopped(&self) -> bool {
        self.stopped || (self.draining && self.conns.iter().all(Option::is_none) && self.sockets.is_empty())
    }
}
