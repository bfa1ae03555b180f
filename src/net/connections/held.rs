//! Accounts for the memory of connections whose clients take no bytes for now.

use super::Connections;
use crate::net::conn_id::ConnId;

/// Approximate memory of a TLS session, in bytes: its keys, and a buffer for a record in each direction.
const TLS_BYTES: usize = 32 * 1024;

impl Connections {
    /// Bytes of memory that the sending halves hold: unsent bytes where the socket takes no more, and TLS sessions.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.held + self.secured * TLS_BYTES
    }

    /// Bytes of memory that the unsent bytes on `conn` hold, if its socket takes no more bytes.
    #[must_use]
    pub fn held_by(&self, conn: ConnId) -> usize {
        self.get(conn).map_or(0, |entry| entry.held)
    }

    /// Whether `conn` has TLS.
    #[must_use]
    pub fn is_secured(&self, conn: ConnId) -> bool {
        self.get(conn).is_some_and(|entry| entry.tls.is_some())
    }

    /// Closes `conn` now, and frees the memory of its queued bytes.
    pub fn abort_and_forget(&mut self, conn: ConnId) {
        self.abort(conn);
        if let Some(entry) = self.get_mut(conn) {
            entry.outbox.clear();
            self.held -= std::mem::take(&mut entry.held);
        }
    }

    /// Updates the accounts with the memory that `conn` holds after a flush.
    pub(super) fn weigh(&mut self, conn: ConnId) {
        let Some(entry) = self.places.get_mut(conn.index()).and_then(Option::as_mut).filter(|entry| entry.id == conn)
        else {
            return;
        };
        let waits = entry.blocked && !entry.outbox.is_empty();
        let held = if waits { entry.outbox.held() + entry.tls.as_ref().map_or(0, |tls| tls.len()) } else { 0 };
        if held != entry.held {
            self.held = self.held - std::mem::replace(&mut entry.held, held) + held;
        }
    }
}
