//! Time-outs: a slice of the connections is looked at each tick, all of them once a second.

use super::Shard;
use super::conn::Partial;
use crate::net::{ConnId, Links, TICK};

/// Ticks in one sweep over all connections.
const TICKS_PER_SWEEP: usize = 1_000 / TICK.as_millis() as usize;

/// What a slow connection gets.
enum Verdict {
    Keep,
    /// Nothing was asked: closed without a word, as RFC 9112 §9.5 has it.
    Close,
    /// Asked for half of something: 408 (RFC 9110 §15.5.9).
    Timeout,
    /// Takes none of the bytes waiting for it.
    Abort,
}

impl Shard {
    pub(super) fn sweep(&mut self, links: &mut Links) {
        let slice = self.conns.len().div_ceil(TICKS_PER_SWEEP).max(1);
        let start = if self.sweep_at >= self.conns.len() { 0 } else { self.sweep_at };
        let end = (start + slice).min(self.conns.len());
        self.sweep_at = end;
        for index in start..end {
            let Some(id) = self.conns.get(index).and_then(|conn| conn.as_ref()).map(|conn| conn.id) else { continue };
            match self.judge(links, id) {
                Verdict::Keep => {}
                Verdict::Close => links.close(id),
                Verdict::Timeout => self.time_out(links, id, 408, "the request did not arrive in time\n"),
                Verdict::Abort => links.abort(id),
            }
        }
        self.sweep_sockets(links);
        self.sweep_streams(links);
    }

    fn judge(&mut self, links: &Links, id: ConnId) -> Verdict {
        let now_ms = self.now_ms;
        let limits = &self.limits;
        let (header_ms, body_ms) = (limits.header_timeout_ms, limits.body_timeout_ms);
        let (idle_ms, write_ms) = (limits.idle_timeout_ms, limits.write_timeout_ms);
        let unsent = links.unsent(id);
        let Some(conn) = self.conn(id) else { return Verdict::Keep };
        if unsent == 0 || unsent < conn.unsent_before {
            conn.last_write_ms = now_ms;
        }
        conn.unsent_before = unsent;
        if now_ms.saturating_sub(conn.last_write_ms) > write_ms {
            return Verdict::Abort;
        }
        if conn.taken.is_some() || !conn.slots.is_empty() || unsent > 0 {
            return Verdict::Keep;
        }
        let partial_ms = now_ms.saturating_sub(conn.partial_since_ms);
        let quiet_ms = now_ms.saturating_sub(conn.last_read_ms);
        match conn.partial {
            Partial::Head if partial_ms > header_ms => Verdict::Timeout,
            Partial::Body if quiet_ms > body_ms => Verdict::Timeout,
            Partial::None if quiet_ms > idle_ms => Verdict::Close,
            _ => Verdict::Keep,
        }
    }
}
