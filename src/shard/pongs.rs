//! Answers of the WebSocket protocol itself: pongs and close frames.

use crate::net::{ConnId, Connections};
use crate::proto::ws::Session;

/// Unsent bytes of such answers above which the shard stops reading: the peer sends pings and does not take the pongs.
const UNSENT_BYTES_MAX: usize = 16 * 1024;

/// The answers to one peer.
#[derive(Debug, Default)]
pub(super) struct Pongs {
    /// Bytes queued since everything was last sent.
    bytes: usize,
    /// Whether reading is paused until the peer has taken its answers.
    awaited: bool,
}

impl Pongs {
    /// Queues the output of `session`.
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

    /// Whether reading is paused because of the peer's pings.
    pub(super) fn are_awaited(&self) -> bool {
        self.awaited
    }

    /// Notes that everything is sent. Returns whether reading was paused until now.
    pub(super) fn taken(&mut self) -> bool {
        self.bytes = 0;
        std::mem::take(&mut self.awaited)
    }
}
