//! Time-outs: each tick checks a slice of the connections, and each second all of them.

use super::Shard;
use super::conn::{Partial, Upgrade, credited};
use crate::net::{ConnId, Connections, TICK};

/// Ticks in one sweep over all connections.
const TICKS_PER_SWEEP: usize = 1_000 / TICK.as_millis() as usize;

/// At a stop: how long the server waits for the first request of a connection, which may be on its way. A TLS client can't
/// send a request before the end of its handshake. The same time applies to the next part of a body that a handler reads.
const FRESH_MS: u64 = 1_000;

/// The decision about a connection.
enum Verdict {
    Keep,
    /// No request: close without an answer (RFC 9112 §9.5).
    Close,
    /// A partial request: 408 (RFC 9110 §15.5.9).
    Timeout,
    /// A body comes too slowly for its handler, which gets this `errno`.
    SlowBody(i32),
    /// The peer takes none of its unsent bytes.
    Abort,
    /// The upgrade's own check decides.
    Taken(Upgrade, u64),
}

impl Shard {
    pub(super) fn sweep(&mut self, connections: &mut Connections) {
        // At a stop, each tick checks all connections.
        let ticks = if self.draining { 1 } else { TICKS_PER_SWEEP };
        let slice = self.conns.len().div_ceil(ticks).max(1);
        let start = if self.sweep_at >= self.conns.len() { 0 } else { self.sweep_at };
        let end = (start + slice).min(self.conns.len());
        self.sweep_at = end;
        for index in start..end {
            let Some(id) = self.conns.get(index).and_then(|conn| conn.as_ref()).map(|conn| conn.id) else { continue };
            self.weigh(connections, id);
            connections.leave_ended(id);
            match self.judge(connections, id) {
                Verdict::Keep => {}
                Verdict::Close => connections.close(id),
                Verdict::Timeout => self.time_out(connections, id, 408, "the request did not arrive in time\n"),
                Verdict::SlowBody(errno) => {
                    if let Some(mut conn) = self.take(id) {
                        self.fail_upload(&mut conn, errno);
                        self.put(conn);
                    }
                }
                Verdict::Abort => connections.abort(id),
                Verdict::Taken(Upgrade::Socket(key), last_read_ms) => self.sweep_socket(connections, key, last_read_ms),
                Verdict::Taken(Upgrade::Logs(_), _) => {}
                Verdict::Taken(Upgrade::Stream(key), last_read_ms) => {
                    self.sweep_stream(connections, key, self.now_ms.saturating_sub(last_read_ms));
                }
            }
        }
        self.check_memory(connections);
        self.sweep_streams(connections);
        self.sweep_logs(connections);
    }

    fn judge(&mut self, connections: &Connections, id: ConnId) -> Verdict {
        let (now_ms, draining) = (self.now_ms, self.draining);
        let limits = &self.limits;
        let (header_ms, body_ms) = (limits.header_timeout_ms, limits.body_timeout_ms);
        let (idle_ms, write_ms) = (limits.idle_timeout_ms, limits.write_timeout_ms);
        let (unsent, sent) = (connections.unsent(id), connections.sent_total(id));
        let Some(conn) = self.conn(id) else { return Verdict::Keep };
        conn.rest(now_ms);
        conn.leave_ended();
        let progress = sent.wrapping_sub(std::mem::replace(&mut conn.sent_before, sent));
        conn.write_paid_ms = if unsent == 0 { now_ms } else { credited(conn.write_paid_ms, progress, now_ms) };
        if now_ms.saturating_sub(conn.write_paid_ms) > write_ms {
            return Verdict::Abort;
        }
        if let Some(by) = conn.taken {
            return Verdict::Taken(by, conn.last_read_ms);
        }
        if let Some(upload) = &conn.upload
            && !conn.paused
            && !upload.owes_continue()
        {
            if now_ms.saturating_sub(conn.body_paid_ms) > body_ms {
                return if upload.is_taken() { Verdict::SlowBody(libc::ETIMEDOUT) } else { Verdict::Close };
            }
            // A stop does not wait for a client that sends nothing.
            if draining && upload.is_taken() && now_ms.saturating_sub(conn.last_read_ms) > FRESH_MS {
                return Verdict::SlowBody(libc::ECANCELED);
            }
        }
        if !conn.slots.is_empty() || unsent > 0 {
            conn.last_active_ms = now_ms;
            return Verdict::Keep;
        }
        if draining && connections.is_greeted(id) {
            conn.last_active_ms = now_ms;
        }
        let quiet_ms = now_ms.saturating_sub(conn.last_active_ms);
        match conn.partial {
            Partial::Head if now_ms.saturating_sub(conn.partial_since_ms) > header_ms => Verdict::Timeout,
            Partial::Body if now_ms.saturating_sub(conn.body_paid_ms) > body_ms => Verdict::Timeout,
            Partial::None if quiet_ms > idle_ms || draining && quiet_ms > FRESH_MS => Verdict::Close,
            _ => Verdict::Keep,
        }
    }
}
