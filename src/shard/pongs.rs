//! What the WebSocket protocol has a server send: answers to pings and close frames.

use crate::net::{ConnId, Connections};
use crate::proto::ws::Session;

/// Bytes of such answers, unsent, above which their peer is not read from: it sends pings and takes no pongs.
const UNSENT_BYTES_MAX: usize = 16 * 1024;

/// The answers to one peer.
#[derive(Debug, Default)]
pub(super) struct Pongs {
    /// Made since everything was sent.
    bytes: usize,
    /// The peer is not read from until it has taken what it brought about.
    awaited: bool,
}

impl Pongs {
    /// Queues what `session` wants sent.
    pub(super) fn send(&mut self, session: &mut Session, connections: &mut Connections, conn: ConnId) {
        if !session.has_output() {
            return;
        }
        let Some(outbox) = connections.outbox(conn) else { return };
        let buffer = outbox.buffer();
        let before = buffer.len();
        session.take_output(buffer);
        let made = buffer.len() - before;
        self.bytes = if connections.unsent(conn) <= made { made } else { self.bytes + made };
        if self.bytes > UNSENT_BYTES_MAX && !self.awaited {
            self.awaited = true;
            connections.set_reading(conn, false);
            connections.await_sent(conn);
        }
    }

    /// Whether the peer is not read from for its pings.
    pub(super) fn are_awaited(&self) -> bool {
        self.awaited
    }

    /// Everything is sent. Returns whether the peer was not read from until now.
    pub(super) fn taken(&mut self) -> bool {
        self.bytes = 0;
        std::mem::take(&mut self.awaited)
    }
}
