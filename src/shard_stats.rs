//! A shard's counters: written by the shard alone, read by `/metrics`.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters and gauges of one shard. Single writer: plain load and store, no locked instruction.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct ShardStats {
    accepted: AtomicU64,
    closed: AtomicU64,
    requests: AtomicU64,
    inline: AtomicU64,
    overloaded: AtomicU64,
    ws_opened: AtomicU64,
    ws_messages_in: AtomicU64,
    ws_messages_out: AtomicU64,
    ws_overflowed: AtomicU64,
    headers_dropped: AtomicU64,
    connections: AtomicU64,
    sockets: AtomicU64,
    in_flight: AtomicU64,
    ticks: AtomicU64,
    memory_bytes: AtomicU64,
    memory_refused: AtomicU64,
    memory_closed: AtomicU64,
}

/// The counters of one shard at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct StatsView {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections closed.
    pub closed: u64,
    /// Requests parsed.
    pub requests: u64,
    /// Requests answered by an inline handler.
    pub inline: u64,
    /// Requests and connections refused because a limit was reached.
    pub overloaded: u64,
    /// WebSocket handshakes completed.
    pub ws_opened: u64,
    /// WebSocket messages received.
    pub ws_messages_in: u64,
    /// WebSocket messages queued for sending.
    pub ws_messages_out: u64,
    /// WebSockets closed because their reader was too slow.
    pub ws_overflowed: u64,
    /// Invalid response headers dropped.
    pub headers_dropped: u64,
    /// Open connections (at the last tick).
    pub connections: u64,
    /// Open WebSockets (at the last tick).
    pub sockets: u64,
    /// Calls on executors (at the last tick).
    pub in_flight: u64,
    /// Ticks of the shard's clock: a count that stops shows that the shard is blocked.
    pub ticks: u64,
    /// Bytes of memory that clients make the shard hold.
    pub memory_bytes: u64,
    /// Requests, messages and connections refused for want of memory.
    pub memory_refused: u64,
    /// Connections closed to give their memory to others.
    pub memory_closed: u64,
}

fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
}

impl ShardStats {
    pub(crate) fn accepted(&self) {
        add(&self.accepted, 1);
    }
    pub(crate) fn closed(&self) {
        add(&self.closed, 1);
    }
    pub(crate) fn request(&self) {
        add(&self.requests, 1);
    }
    pub(crate) fn inline(&self) {
        add(&self.inline, 1);
    }
    pub(crate) fn overloaded(&self) {
        add(&self.overloaded, 1);
    }
    pub(crate) fn ws_opened(&self) {
        add(&self.ws_opened, 1);
    }
    pub(crate) fn ws_message_in(&self) {
        add(&self.ws_messages_in, 1);
    }
    pub(crate) fn ws_messages_out(&self, n: u64) {
        add(&self.ws_messages_out, n);
    }
    pub(crate) fn ws_overflowed(&self) {
        add(&self.ws_overflowed, 1);
    }
    pub(crate) fn headers_dropped(&self, n: u64) {
        add(&self.headers_dropped, n);
    }

    pub(crate) fn gauge(&self, connections: usize, sockets: usize, in_flight: usize) {
        self.connections.store(connections as u64, Ordering::Relaxed);
        self.sockets.store(sockets as u64, Ordering::Relaxed);
        self.in_flight.store(in_flight as u64, Ordering::Relaxed);
        add(&self.ticks, 1);
    }

    pub(crate) fn memory_refused(&self) {
        add(&self.memory_refused, 1);
    }
    pub(crate) fn memory_closed(&self) {
        add(&self.memory_closed, 1);
    }
    pub(crate) fn set_memory(&self, bytes: usize) {
        self.memory_bytes.store(bytes as u64, Ordering::Relaxed);
    }
    /// Bytes of memory that clients make the shard hold.
    pub(crate) fn memory_bytes(&self) -> usize {
        usize::try_from(self.memory_bytes.load(Ordering::Relaxed)).unwrap_or(usize::MAX)
    }

    /// Reads all counters. Each value is exact, but the values may belong to different moments.
    #[must_use]
    pub fn view(&self) -> StatsView {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        StatsView {
            accepted: get(&self.accepted),
            closed: get(&self.closed),
            requests: get(&self.requests),
            inline: get(&self.inline),
            overloaded: get(&self.overloaded),
            ws_opened: get(&self.ws_opened),
            ws_messages_in: get(&self.ws_messages_in),
            ws_messages_out: get(&self.ws_messages_out),
            ws_overflowed: get(&self.ws_overflowed),
            headers_dropped: get(&self.headers_dropped),
            connections: get(&self.connections),
            sockets: get(&self.sockets),
            in_flight: get(&self.in_flight),
            ticks: get(&self.ticks),
            memory_bytes: get(&self.memory_bytes),
            memory_refused: get(&self.memory_refused),
            memory_closed: get(&self.memory_closed),
        }
    }
}
