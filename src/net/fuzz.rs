//! A driver without sockets: the fuzzer feeds and empties an application and one connection.

use super::{Application, CloseReason, ConnId, Connections, Peer};
use std::task::Waker as TaskWaker;
use std::time::Instant;

/// An invalid descriptor: system calls on it fail and have no effect.
const NO_FD: i32 = -1;

/// Ids of `count` connections that were open once.
pub(crate) fn conn_ids(count: usize) -> Vec<ConnId> {
    let mut connections = Connections::default();
    (0..count).map(|_| connections.insert(NO_FD)).collect()
}

/// An application and its only connection.
pub(crate) struct Driver<A> {
    app: A,
    connections: Connections,
    conn: ConnId,
    /// Bytes that the peer has received.
    pub(crate) received: Vec<u8>,
    /// The socket took no more bytes: [`Application::drained`] must be called once the socket has taken the rest.
    blocked: bool,
}

impl<A: Application> Driver<A> {
    /// Accepts a connection from `peer`.
    pub(crate) fn accept(mut app: A, peer: &Peer) -> Self {
        let mut connections = Connections::default();
        let conn = connections.insert(NO_FD);
        assert!(app.accepted(&mut connections, conn, peer, 0), "the connection is refused");
        Self { app, connections, conn, received: Vec::new(), blocked: false }
    }

    /// Whether the driver may receive; otherwise the bytes wait in the kernel.
    pub(crate) fn is_reading(&mut self) -> bool {
        self.connections.poll_reading(self.conn, TaskWaker::noop())
    }

    /// Whether the application has ended the connection: input is discarded.
    pub(crate) fn is_closing(&self) -> bool {
        self.connections.is_closing(self.conn)
    }

    /// Delivers bytes from the peer.
    pub(crate) fn data(&mut self, bytes: &[u8]) {
        if !self.is_closing() {
            self.app.data(&mut self.connections, self.conn, bytes);
        }
    }

    /// Delivers the peer's FIN.
    pub(crate) fn eof(&mut self) {
        if !self.is_closing() {
            self.app.eof(&mut self.connections, self.conn);
        }
    }

    /// Ends a batch; the socket takes at most `room` bytes. Returns whether any byte was sent.
    pub(crate) fn end_batch(&mut self, room: usize) -> bool {
        let before = self.received.len();
        self.app.batch_end(&mut self.connections);
        let dirty = self.connections.take_dirty();
        self.connections.give_dirty(dirty);
        let all = self.connections.flush_into(self.conn, room, &mut self.received);
        let was_blocked = std::mem::replace(&mut self.blocked, !all);
        let awaited = !self.connections.take_sent().is_empty();
        if all && (awaited || was_blocked) && !self.is_closing() {
            self.app.drained(&mut self.connections, self.conn);
        }
        self.received.len() > before || self.app.has_work()
    }

    /// Whether the application waits for the socket to take more bytes.
    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// Ends the connection; the application stays, so that a test can examine it.
    pub(crate) fn closed(&mut self) {
        let reason = self.connections.close_reason(self.conn, CloseReason::Peer);
        self.connections.remove(self.conn);
        self.app.closed(&mut self.connections, self.conn, reason);
        self.app.batch_end(&mut self.connections);
    }

    /// Runs the application's pending work without a connection.
    pub(crate) fn idle(&mut self) {
        self.app.batch_end(&mut self.connections);
        self.app.tick(&mut self.connections, Instant::now());
    }
}
