//! The memory that clients make the server hold: one budget for all shards.
//!
//! Each shard counts the memory of its own connections: incomplete heads and bodies, waiting requests and messages, and
//! unsent answers. A shard writes its sum to its own counter. It adds up the counters of all shards only when its sum grows
//! by pages, so that a small request touches no shared memory.
//!
//! Bodies and messages that were passed to a module count for its domain, even after their clients have left: a domain with
//! hanging handlers releases nothing for a while. A domain may therefore hold at most as many bytes as are free: half of
//! the budget if it is the only one, a third each if there are two, and so on. Some memory always remains for the next
//! domain.
//!
//! Above the budget, the shard closes the idle connections that hold most. If that is not enough, it refuses the request
//! that needs more: 503, or 1013 on a WebSocket.

use super::Shard;
use super::conn::{Conn, Partial, Serves, Slot, Upgrade, credited};
use super::refused::no_memory;
use super::snapshot::ANSWER_BYTES_UNKNOWN;
use crate::abi::allocator;
use crate::domain::Instance;
use crate::domain::call::BodyLedger;
use crate::domain::process::DomainCalls;
use crate::net::{ConnId, Connections};
use crate::shard_stats::ShardStats;
use std::sync::Arc;

/// [`CONN_BYTES`] covers connections that hold fewer bytes.
const HELD_BYTES_MIN: usize = 4 * 1024;
/// The bytes counted for each open connection.
const CONN_BYTES: usize = 2 * 1024;
/// How long a connection must have made little progress to count as idle.
const IDLE_MS: u64 = 2_500;
/// The number of connections to close that one search finds: those that hold most.
const VICTIMS_MAX: usize = 256;
/// Eighths of the budget above which idle holders are closed and no large answers begin.
const SHORT_EIGHTHS: usize = 7;
/// The reserve for admitted requests on the server's own paths: a sixteenth of the budget.
const RESERVE_DIVISOR: usize = 16;
/// When a shard holds this many bytes less than at its peak, it returns freed memory to the kernel.
const GIVEN_BACK_BYTES_MIN: usize = 4 * 1024 * 1024;
/// When all shards together use more than this part of the budget, no pages are kept for the next large bodies: a half.
const WARM_DIVISOR: usize = 2;
/// Smaller answers always begin.
const ANSWER_BYTES_MIN: usize = 16 * 1024;

/// The budget of all shards.
#[derive(Debug)]
pub struct MemoryBudget {
    bytes_max: usize,
    shards: Vec<Arc<ShardStats>>,
}

impl MemoryBudget {
    /// A budget of `bytes_max` bytes for shards with these counters.
    #[must_use]
    pub fn new(bytes_max: usize, shards: Vec<Arc<ShardStats>>) -> Self {
        Self { bytes_max, shards }
    }

    /// The sum of all shards. Relaxed: it only decides about admission and orders no other access.
    fn used(&self) -> usize {
        self.shards.iter().map(|shard| shard.memory_bytes()).fold(0, usize::saturating_add)
    }
}

/// One shard's part of the budget.
pub(super) struct Memory {
    budget: Arc<MemoryBudget>,
    /// The sum of [`Conn::held`].
    held: usize,
    /// Bytes of request bodies in the memory of domains at the last publication.
    lent: usize,
    /// At the last publication: the bytes of unsent answers, and of open connections.
    told_sending: usize,
    told_open: usize,
    /// The largest sum since this shard last returned freed memory to the kernel.
    peak: usize,
    /// Whether all shards together were near the budget at this shard's last look.
    is_short: bool,
    /// Connections that may be closed, the largest last: idle holders, and all that wait for their clients.
    victims: [Vec<(usize, ConnId)>; 2],
    /// When each of the two lists was last made.
    looked_ms: [Option<u64>; 2],
}

impl Memory {
    pub(super) fn new(budget: Arc<MemoryBudget>) -> Self {
        let looked_ms = [None; 2];
        Self {
            budget,
            held: 0,
            lent: 0,
            told_sending: 0,
            told_open: 0,
            peak: 0,
            is_short: false,
            victims: [Vec::new(), Vec::new()],
            looked_ms,
        }
    }
}

/// Whether a domain that holds `held` bytes of a budget with `free` free bytes may hold `bytes` more. The arriving bytes
/// are already counted as not free, so the first body of a domain is always accepted if the budget has room.
fn may_hold(held: usize, free: usize, bytes: usize) -> bool {
    held == 0 || held.saturating_add(bytes) <= free
}

impl Memory {
    /// Publishes the shard's sum with the last known bytes of its connections. Bodies go to domains in bursts, also between
    /// two ticks. Returns the sum of all shards.
    fn tell_bodies(&mut self, remote: &mut DomainCalls, bodies: &BodyLedger, stats: &ShardStats) -> usize {
        self.lent = remote.lent_bytes();
        let connections = self.held + self.told_sending + self.told_open;
        let (own, warm) = (connections + bodies.bytes() + remote.messages_bytes() + self.lent, remote.warm_bytes());
        stats.set_memory(own + warm);
        let used = self.budget.used();
        if warm == 0 || used <= self.budget.bytes_max / WARM_DIVISOR {
            return used;
        }
        remote.drop_warm();
        stats.set_memory(own);
        self.budget.used()
    }

    /// Whether the domain of `instance` may hold `bytes` more bytes of the budget.
    pub(super) fn has_share(
        &mut self,
        (remote, bodies, stats): (&mut DomainCalls, &BodyLedger, &ShardStats),
        instance: &dyn Instance,
        bytes: usize,
    ) -> bool {
        if bytes < HELD_BYTES_MIN {
            return true;
        }
        let Some(held) = remote.held_bytes(instance) else { return true };
        let used = self.tell_bodies(remote, bodies, stats);
        may_hold(held, self.budget.bytes_max.saturating_sub(used), bytes)
    }
}

fn is_large_answer(expected: usize) -> bool {
    expected >= ANSWER_BYTES_MIN && expected != ANSWER_BYTES_UNKNOWN
}

impl Slot {
    /// Bytes of memory that the slot holds, or will hold when its answer comes.
    fn held(&self) -> usize {
        match self {
            // A default expectation counts as nothing, since it is the same for tiny and huge answers.
            Slot::Running { expected, .. } if is_large_answer(*expected) => *expected,
            Slot::Running { .. } => 0,
            // The ledger of waiting requests counts this one.
            Slot::Waiting { .. } => 0,
            Slot::Ready { bytes, lent, .. } => bytes.len() + lent.as_ref().map_or(0, crate::net::Attached::held),
            other => other.bytes(),
        }
    }
}

impl Shard {
    /// Publishes the shard's sum, and returns the sum of all shards.
    fn tell_memory(&mut self, connections: &Connections) -> usize {
        self.memory.told_sending = connections.held_bytes();
        self.memory.told_open = connections.len() * CONN_BYTES;
        let used = self.memory.tell_bodies(&mut self.remote, &self.bodies, &self.stats);
        self.memory.is_short = used > self.memory.budget.bytes_max / 8 * SHORT_EIGHTHS;
        used
    }

    /// The kept bytes that the client of `conn` has sent, and those of its answers.
    fn held_by(&mut self, conn: &Conn) -> (usize, usize) {
        let taken = match conn.taken {
            Some(Upgrade::Socket(key)) => self.sockets.get_mut(key).map_or(0, |socket| socket.held()),
            _ => 0,
        };
        let slots: usize = conn.slots.iter().map(Slot::held).sum();
        let upload = conn.upload.as_ref().map_or(0, |upload| upload.held());
        let placed = conn.placed.as_ref().map_or(0, |body| body.written());
        let counted = |bytes: usize| if bytes < HELD_BYTES_MIN { 0 } else { bytes };
        (counted(conn.input.capacity() + conn.decoder.held() + taken + upload + placed), counted(slots))
    }

    /// Updates the bytes counted for connection `id`. If they have grown beyond the budget, the shard makes room; if it
    /// can't, it refuses the connection's request.
    pub(super) fn weigh(&mut self, connections: &mut Connections, id: ConnId) {
        // Most connections end here.
        let is_light = match self.conn(id) {
            Some(Conn { held: 0, taken: Some(Upgrade::Socket(key)), .. }) => {
                let key = *key;
                self.sockets.get_mut(key).is_none_or(|socket| socket.held() < HELD_BYTES_MIN)
            }
            Some(conn) => conn.is_light(),
            None => true,
        };
        if is_light {
            return;
        }
        let Some(mut conn) = self.take(id) else { return };
        let (sent, answers) = self.held_by(&conn);
        let (held, before) = (sent + answers, conn.held);
        if held == before {
            return self.put(conn);
        }
        if before == 0 {
            conn.held_paid_ms = self.now_ms;
        }
        (conn.held, conn.held_sent) = (held, sent);
        let is_admin = conn.serves == Serves::Admin || conn.is_let_in;
        self.put(conn);
        self.memory.held = self.memory.held.saturating_sub(before).saturating_add(held);
        let used = self.tell_memory(connections);
        let max = self.memory.budget.bytes_max;
        let max = if is_admin { max.saturating_add(max / RESERVE_DIVISOR) } else { max };
        let asks = held > before && sent > 0;
        let holds = |shard: &mut Self| shard.conn(id).is_some_and(|conn| conn.held > 0);
        if asks && used > max && self.shed(connections, max, true) > max && holds(self) {
            self.stats.memory_refused();
            self.give_up(connections, id);
        }
    }

    /// Records that `bytes` bytes arrived on a connection that holds memory, which is therefore not idle.
    pub(super) fn moved(&self, conn: &mut Conn, bytes: usize) {
        conn.held_paid_ms = credited(conn.held_paid_ms, bytes, self.now_ms);
    }

    /// Uncounts a closed connection.
    pub(super) fn unweigh(&mut self, conn: &mut Conn) {
        self.memory.held = self.memory.held.saturating_sub(std::mem::take(&mut conn.held));
        conn.held_sent = 0;
    }

    /// Whether no further stream may begin: memory is nearly used up, and not only by the bodies of running calls. Those
    /// bodies lie in the memory of domains, like the bytes of streams; a domain with hanging calls must not stop the
    /// streams of other domains.
    pub(super) fn lacks_memory_for_streams(&self) -> bool {
        let own = self.stats.memory_bytes().saturating_sub(self.memory.lent);
        let share = self.memory.budget.bytes_max / self.memory.budget.shards.len().max(1);
        self.memory.is_short && own > share / 8 * SHORT_EIGHTHS
    }

    /// Whether there is no memory for an answer of about `bytes` bytes.
    pub(super) fn lacks_memory(&self, bytes: usize) -> bool {
        is_large_answer(bytes) && self.memory.budget.used().saturating_add(bytes) > self.memory.budget.bytes_max
    }

    /// The regular check: idle holders are closed before the budget is used up.
    pub(super) fn check_memory(&mut self, connections: &mut Connections) {
        self.tell_memory(connections);
        self.remote.tell_held();
        if self.memory.is_short {
            self.shed(connections, self.memory.budget.bytes_max / 8 * SHORT_EIGHTHS, true);
        }
        self.check_unsent(connections);
        let own = self.stats.memory_bytes();
        if own.saturating_add(GIVEN_BACK_BYTES_MIN) < self.memory.peak {
            allocator::give_back();
            self.memory.peak = own;
        }
        self.memory.peak = self.memory.peak.max(own);
    }

    /// Unsent answers may exceed the budget, because modules make answers before clients take them. A shard above its share
    /// then closes the largest holders, idle or not.
    pub(super) fn check_unsent(&mut self, connections: &mut Connections) {
        if connections.held_bytes() == self.memory.told_sending {
            return;
        }
        let used = self.tell_memory(connections);
        let max = self.memory.budget.bytes_max;
        let share = max / self.memory.budget.shards.len().max(1);
        if used > max && self.shed(connections, max, true) > max && self.stats.memory_bytes() > share {
            self.shed(connections, max, false);
        }
    }

    /// Closes connections, the largest holders first, until all shards together hold at most `max` bytes or no candidate is
    /// left. Returns the remaining sum.
    fn shed(&mut self, connections: &mut Connections, max: usize, idle_only: bool) -> usize {
        let mut used = self.tell_memory(connections);
        if used <= max {
            return used;
        }
        // One search a tick: it takes time in proportion to the number of connections.
        let look = usize::from(!idle_only);
        if let Some(at) = self.memory.looked_ms.get_mut(look)
            && *at != Some(self.now_ms)
        {
            *at = Some(self.now_ms);
            self.find_victims(connections, idle_only);
        }
        while used > max
            && let Some((_, id)) = self.memory.victims.get_mut(look).and_then(Vec::pop)
        {
            if self.conn(id).is_some() {
                self.stats.memory_closed();
                self.give_up(connections, id);
                used = self.tell_memory(connections);
            }
        }
        used
    }

    fn find_victims(&mut self, connections: &Connections, idle_only: bool) {
        let now_ms = self.now_ms;
        let Some(victims) = self.memory.victims.get_mut(usize::from(!idle_only)) else { return };
        let mut found = std::mem::take(victims);
        found.clear();
        for conn in self.conns.iter().flatten() {
            let unsent = connections.held_by(conn.id);
            let since_ms = if unsent > 0 { conn.write_paid_ms } else { conn.held_paid_ms };
            let held = conn.held_sent + unsent;
            let is_idle = now_ms.saturating_sub(since_ms) >= IDLE_MS;
            if held > 0 && (is_idle || !idle_only && unsent > 0) {
                found.push((held, conn.id));
            }
        }
        found.sort_unstable_by_key(|(held, _)| *held);
        found.drain(..found.len().saturating_sub(VICTIMS_MAX));
        if let Some(victims) = self.memory.victims.get_mut(usize::from(!idle_only)) {
            *victims = found;
        }
    }

    /// Ends the request or the socket of connection `id` for lack of memory, and releases its memory.
    fn give_up(&mut self, connections: &mut Connections, id: ConnId) {
        let Some(conn) = self.conn(id) else { return };
        let is_plain = conn.taken.is_none() && conn.slots.is_empty() && conn.upload.is_none();
        match conn.taken {
            _ if connections.held_by(id) > 0 => connections.abort_and_forget(id),
            Some(Upgrade::Socket(key)) => self.give_up_socket(connections, key),
            None if is_plain && conn.partial != Partial::None => self.refuse_for_memory(connections, id),
            _ => connections.abort_and_forget(id),
        }
        if let Some(mut conn) = self.take(id) {
            conn.input = Vec::new();
            self.discard_body(&mut conn);
            self.unweigh(&mut conn);
            self.put(conn);
        }
    }

    /// Refuses an incomplete request.
    fn refuse_for_memory(&mut self, connections: &mut Connections, id: ConnId) {
        let mut meta = self.error_meta();
        if let Some(conn) = self.conn(id) {
            conn.last_request_seen = true;
            conn.partial = Partial::None;
            meta.head_only = conn.decoder.refused_head(&conn.input);
        }
        if let Some(outbox) = connections.outbox(id) {
            no_memory().encode(&meta, outbox.buffer());
        }
        connections.close(id);
    }
}

#[cfg(test)]
mod tests {
    use super::may_hold;

    /// The final bytes of each of `domains` domains if each takes bodies of `bytes` bytes, in turn, as long as it may.
    fn held(domains: usize, budget: usize, bytes: usize) -> Vec<usize> {
        let mut held = vec![0; domains];
        for _ in 0..budget {
            for domain in 0..domains {
                let free = budget - held.iter().sum::<usize>();
                if bytes <= free && may_hold(held[domain], free, bytes) {
                    held[domain] += bytes;
                }
            }
        }
        held
    }

    #[test]
    fn domains_that_give_nothing_back_leave_as_much_as_each_of_them_holds() {
        assert_eq!(held(1, 1000, 10), [500]);
        assert!(held(2, 999, 1).iter().all(|held| (332..=334).contains(held)));
        let many = held(31, 3200, 1);
        assert!(
            many.iter().all(|held| (99..=101).contains(held)) && 3200 - many.iter().sum::<usize>() >= 99,
            "{many:?}"
        );
        assert_eq!(held(1, 1000, 900), [900], "the first body is accepted, whatever its size");
        assert!(!may_hold(1, usize::MAX - 1, usize::MAX));
    }
}
