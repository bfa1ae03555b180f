//! A driver without sockets: an application and one connection, fed and emptied by hand.

use super::{Application, CloseReason, ConnId, Links, Peer};
use std::task::Waker as TaskWaker;
use std::time::Instant;

/// No descriptor: system calls on it fail and do nothing.
const NO_FD: i32 = -1;

/// Ids of `count` connections that were open once.
pub(crate) fn conn_ids(count: usize) -> Vec<ConnId> {
    let mut links = Links::default();
    (0..count).map(|_| links.insert(NO_FD)).collect()
}

/// An application and its only connection.
pub(crate) struct Driver<A> {
    app: A,
    links: Links,
    conn: ConnId,
    /// What the peer has received.
    pub(crate) received: Vec<u8>,
    /// The socket took no more: [`Application::drained`] is due once it has.
    blocked: bool,
}

impl<A: Application> Driver<A> {
    /// Accepts a connection of `peer`.
    pub(crate) fn accept(mut app: A, peer: &Peer) -> Self {
        let mut links = Links::default();
        let conn = links.insert(NO_FD);
        assert!(app.accepted(&mut links, conn, peer, 0), "the connection is refused");
        Self { app, links, conn, received: Vec::new(), blocked: false }
    }

    /// Whether the driver may receive: until then the bytes wait in the kernel.
    pub(crate) fn is_reading(&mut self) -> bool {
        self.links.poll_reading(self.conn, TaskWaker::noop())
    }

    /// Whether the application has ended the connection: what arrives is thrown away.
    pub(crate) fn is_closing(&self) -> bool {
        self.links.is_closing(self.conn)
    }

    /// Bytes arrive.
    pub(crate) fn data(&mut self, bytes: &[u8]) {
        if !self.is_closing() {
            self.app.data(&mut self.links, self.conn, bytes);
        }
    }

    /// The peer sends FIN.
    pub(crate) fn eof(&mut self) {
        if !self.is_closing() {
            self.app.eof(&mut self.links, self.conn);
        }
    }

    /// Ends a batch; the socket takes at most `room` bytes. Returns whether anything moved.
    pub(crate) fn end_batch(&mut self, room: usize) -> bool {
        let before = self.received.len();
        self.app.batch_end(&mut self.links);
        let dirty = self.links.take_dirty();
        self.links.give_dirty(dirty);
        let all = self.links.flush_into(self.conn, room, &mut self.received);
        let was_blocked = std::mem::replace(&mut self.blocked, !all);
        let awaited = !self.links.take_sent().is_empty();
        if all && (awaited || was_blocked) && !self.is_closing() {
            self.app.drained(&mut self.links, self.conn);
        }
        self.received.len() > before || self.app.has_work()
    }

    /// Whether the application waits for the socket to take more.
    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// The connection is gone; the application stays, to be looked at.
    pub(crate) fn closed(&mut self) {
        let reason = self.links.close_reason(self.conn, CloseReason::Peer);
        self.links.remove(self.conn);
        self.app.closed(&mut self.links, self.conn, reason);
        self.app.batch_end(&mut self.links);
    }

    /// What the application has to do with no connection there.
    pub(crate) fn idle(&mut self) {
        self.app.batch_end(&mut self.links);
        self.app.tick(&mut self.links, Instant::now());
    }
}
