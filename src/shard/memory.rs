//! The memory that clients make the server hold, within one budget for all shards.
//!
//! Each shard counts what its own connections hold: heads and bodies that are not complete, requests and messages that
//! wait, answers that wait for their client. A shard writes its sum to a counter of its own and adds up the counters of all
//! shards when its sum grows by pages, so that a small request touches nothing that is shared.
//!
//! Bodies and messages that have been handed over are held by the domain of their module, whatever became of their clients: a domain whose
//! handlers hang gives nothing back for a while. So a domain may hold as many bytes as are free: half of the budget where it is
//! alone, a third each where two do so, and there is always something left for the next domain.
//!
//! Above the budget the shard closes what holds most and has not moved for a while; if that is not enough, it refuses what
//! has asked for more: 503, or 1013 on a WebSocket.

use super::Shard;
use super::conn::{Conn, Partial, Serves, Slot, Upgrade, credited};
use super::refusals::no_memory;
use super::snapshot::ANSWER_BYTES_UNKNOWN;
use crate::abi::allocator;
use crate::domain::Instance;
use crate::domain::call::BodyLedger;
use crate::domain::process::DomainCalls;
use crate::net::{ConnId, Connections};
use crate::shard_stats::ShardStats;
use std::sync::Arc;

/// Connections that hold fewer bytes are covered by [`CONN_BYTES`].
const HELD_BYTES_MIN: usize = 4 * 1024;
/// What each open connection is counted with.
const CONN_BYTES: usize = 2 * 1024;
/// A connection that has moved so little for so long is closed first.
const IDLE_MS: u64 = 2_500;
/// Connections to close that one look finds: those that hold most.
const VICTIMS_MAX: usize = 256;
/// Shares of the budget: from here on idle holders are closed, and large answers are not begun.
const SHORT_EIGHTHS: usize = 7;
/// Share of the budget reserved for admitted requests on the server's own paths: a sixteenth.
const RESERVE_DIVISOR: usize = 16;
/// Once a shard holds so much less than before, freed memory is given back to the kernel.
const GIVEN_BACK_BYTES_MIN: usize = 4 * 1024 * 1024;
/// Answers below this begin in any case.
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

    /// What all shards have counted. A hint for admission: it orders nothing else.
    fn used(&self) -> usize {
        self.shards.iter().map(|shard| shard.memory_bytes()).fold(0, usize::saturating_add)
    }
}

/// One shard's part.
pub(super) struct Memory {
    budget: Arc<MemoryBudget>,
    /// The sum of [`Conn::held`].
    held: usize,
    /// Bytes of request bodies that lie in the memory of domains, when the others were told.
    lent: usize,
    /// What the sending half held when the others were told, and open connections.
    told_sending: usize,
    told_open: usize,
    /// Most that this shard has held since it gave freed memory back to the kernel last.
    peak: usize,
    /// All shards together were near the budget when this one looked last.
    is_short: bool,
    /// What may be closed, the largest last: idle holders, and all that wait for their clients.
    victims: [Vec<(usize, ConnId)>; 2],
    /// When idle holders were looked for, and when all that wait for their clients were.
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

/// Whether a domain that holds `held` bytes of a budget, of which `free` are free, may hold `bytes` more. What arrives is part of what is
/// not free, so the first body of any size that the budget has room for is taken.
fn may_hold(held: usize, free: usize, bytes: usize) -> bool {
    held == 0 || held.saturating_add(bytes) <= free
}

impl Memory {
    /// Tells the others what the shard holds, with what its connections held the last time: bodies go to domains in bursts, also between
    /// two ticks. Gives what all hold together.
    fn tell_bodies(&mut self, remote: &DomainCalls, bodies: &BodyLedger, stats: &ShardStats) -> usize {
        self.lent = remote.lent_bytes();
        let connections = self.held + self.told_sending + self.told_open;
        stats.set_memory(connections + bodies.bytes() + remote.messages_bytes() + self.lent);
        self.budget.used()
    }

    /// Whether the domain of `instance` may hold `bytes` bytes more of the budget.
    pub(super) fn has_share(
        &mut self,
        (remote, bodies, stats): (&DomainCalls, &BodyLedger, &ShardStats),
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
    /// Bytes of memory that it holds, or will hold when its answer comes.
    fn held(&self) -> usize {
        match self {
            // A guess counts for nothing: it is the same for a word and for a film.
            Slot::Running { expected, .. } if is_large_answer(*expected) => *expected,
            Slot::Running { .. } => 0,
            // It is counted where requests wait.
            Slot::Waiting { .. } => 0,
            Slot::Ready { bytes, lent, .. } => bytes.len() + lent.as_ref().map_or(0, crate::net::Attached::held),
            other => other.bytes(),
        }
    }
}

impl Shard {
    /// Tells the others what this shard holds; gives what all hold together.
    fn tell_memory(&mut self, connections: &Connections) -> usize {
        self.memory.told_sending = connections.held_bytes();
        self.memory.told_open = connections.len() * CONN_BYTES;
        let used = self.memory.tell_bodies(&self.remote, &self.bodies, &self.stats);
        self.memory.is_short = used > self.memory.budget.bytes_max / 8 * SHORT_EIGHTHS;
        used
    }

    /// Bytes that the client of `conn` has sent and that are kept, and those of answers.
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

    /// Counts what connection `id` holds now. If it has grown and there is no memory for it, room is made; if there is none,
    /// the connection is refused what it has asked for.
    pub(super) fn weigh(&mut self, connections: &mut Connections, id: ConnId) {
        // Nearly all end here.
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

    /// `bytes` have come on a connection that holds memory: it is not idle.
    pub(super) fn moved(&self, conn: &mut Conn, bytes: usize) {
        conn.held_paid_ms = credited(conn.held_paid_ms, bytes, self.now_ms);
    }

    /// The connection is gone.
    pub(super) fn unweigh(&mut self, conn: &mut Conn) {
        self.memory.held = self.memory.held.saturating_sub(std::mem::take(&mut conn.held));
        conn.held_sent = 0;
    }

    /// Whether a stream is not begun: the server's memory is nearly used up, and by more than bodies of calls that run. Those lie in
    /// the memory of domains, as the bytes of streams do, and a domain whose calls hang must not stop the streams of others.
    pub(super) fn lacks_memory_for_streams(&self) -> bool {
        let own = self.stats.memory_bytes().saturating_sub(self.memory.lent);
        let share = self.memory.budget.bytes_max / self.memory.budget.shards.len().max(1);
        self.memory.is_short && own > share / 8 * SHORT_EIGHTHS
    }

    /// Whether there is no memory for an answer of about `bytes` bytes.
    pub(super) fn lacks_memory(&self, bytes: usize) -> bool {
        is_large_answer(bytes) && self.memory.budget.used().saturating_add(bytes) > self.memory.budget.bytes_max
    }

    /// The regular look: what is idle goes before the budget is used up.
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

    /// Closes connections, those that hold most first, until all shards together hold at most `max` bytes or none is left.
    /// Gives what they hold then.
    fn shed(&mut self, connections: &mut Connections, max: usize, idle_only: bool) -> usize {
        let mut used = self.tell_memory(connections);
        if used <= max {
            return used;
        }
        // One look a tick: it takes as long as there are connections.
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

    /// Ends what connection `id` is about, for want of memory, and gives back what it holds.
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

    /// Answers a request that is not complete.
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

    /// What each of `domains` domains holds in the end that takes bodies of `bytes` as long as it may, one after the other.
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
        assert_eq!(held(1, 1000, 900), [900], "the first is taken, whatever its size");
        assert!(!may_hold(1, usize::MAX - 1, usize::MAX));
    }
}
