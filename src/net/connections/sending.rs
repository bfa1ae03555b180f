//! Sends queued bytes, through TLS on TLS connections, and gives each connection its share of a turn.

use super::{
    Closing, ConnId, ConnIo, Connections, Flushed, LINGER, SEND_BYTES_MAX, SHARE_BYTES_MIN, SPARE_BYTES_MAX, TURN_BYTES,
};
use crate::net::outbox::Sent;
use crate::net::sys;
use std::io;
use std::net::Shutdown;
use std::time::Instant;

impl ConnIo {
    /// Sends until all is sent, the socket takes no more, the connection has had its share of `turn_bytes`, or the next bytes
    /// must be read from a disk.
    fn send_share(&mut self, sealing: &mut Vec<u8>, turn_bytes: &mut usize) -> io::Result<Sent> {
        let (share, before) = ((*turn_bytes).clamp(SHARE_BYTES_MIN, SEND_BYTES_MAX), self.outbox.sent_total());
        let sent = match &mut self.tls {
            None => self.outbox.flush(self.fd, share),
            Some(tls) => tls.send(self.fd, &mut self.outbox, self.closing == Closing::AfterFlush, sealing, share),
        };
        *turn_bytes = turn_bytes.saturating_sub(self.outbox.sent_total().wrapping_sub(before));
        sent
    }
}

impl Connections {
    /// Begins a turn of the driver: connections that had sent their share are flushed again with this batch.
    pub(in crate::net) fn begin_turn(&mut self) {
        self.turn_bytes = TURN_BYTES;
        for conn in std::mem::take(&mut self.spent) {
            if let Some(entry) = self.get_mut(conn) {
                entry.spent = false;
                self.mark(conn);
            }
        }
    }

    /// Whether a connection waits for the next turn to continue sending.
    pub(in crate::net) fn has_spent(&self) -> bool {
        !self.spent.is_empty()
    }

    /// Sends the bytes queued on `conn`. `Blocked` is returned once; the driver must then call [`Connections::writable`].
    pub(in crate::net) fn flush(&mut self, conn: ConnId) -> Flushed {
        let flushed = self.send_queued(conn);
        self.weigh(conn);
        flushed
    }

    fn send_queued(&mut self, conn: ConnId) -> Flushed {
        let place = self.places.get_mut(conn.index()).and_then(Option::as_mut);
        let Some(entry) = place.filter(|entry| entry.id == conn) else { return Flushed::All };
        entry.dirty = false;
        if entry.blocked || entry.spent || entry.closing == Closing::Aborted {
            return Flushed::All;
        }
        let (sealing, turn_bytes) = (&mut self.sealing, &mut self.turn_bytes);
        let sent = match entry.send_share(sealing, turn_bytes) {
            // If no thread can read the range beforehand, the shard's own send reads it.
            Ok(Sent::Cold(range)) => {
                let end = range.end();
                if self.warmer.as_ref().is_some_and(|warmer| warmer.order(conn, range)) {
                    (entry.blocked, entry.awaited) = (true, true);
                    return Flushed::Waits;
                }
                entry.outbox.warmed(end);
                entry.send_share(sealing, turn_bytes)
            }
            sent => sent,
        };
        match sent {
            Ok(Sent::All) => {
                let spare = entry.outbox.take_spare();
                if std::mem::take(&mut entry.awaited) {
                    self.sent.push(conn);
                }
                if entry.closing == Closing::AfterFlush {
                    sys::shutdown(entry.fd, Shutdown::Write);
                    entry.closing = Closing::Lingering(Instant::now() + LINGER);
                    if let Some(reader) = entry.reader.take() {
                        reader.wake();
                    }
                    self.lingering.push(conn);
                }
                if let Some(spare) = spare
                    && self.spare_bytes + spare.capacity() <= SPARE_BYTES_MAX
                {
                    self.spare_bytes += spare.capacity();
                    self.spares.push(spare);
                }
                Flushed::All
            }
            Ok(Sent::Spent) => {
                (entry.spent, entry.awaited) = (true, true);
                self.spent.push(conn);
                Flushed::Spent
            }
            // The second send met another cold part: the connection waits until it is writable, like a blocked one.
            Ok(Sent::Blocked | Sent::Cold(_)) => {
                entry.blocked = true;
                Flushed::Blocked
            }
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(libc::EIO);
                entry.failed = Some(errno);
                self.abort(conn);
                Flushed::Failed(errno)
            }
        }
    }

    /// Continues after the socket of `conn` has become writable.
    pub(in crate::net) fn writable(&mut self, conn: ConnId) -> Flushed {
        if let Some(entry) = self.get_mut(conn) {
            entry.blocked = false;
            // The driver reports the result anyway.
            entry.awaited = false;
        }
        self.flush(conn)
    }
}
