//! Counts wrong keys by address, and blocks an address with too many.
//!
//! The whole process has one table, so an attempt is counted on whichever shard it arrives. Only requests that carry a key and
//! need one reach this table. While no address is blocked, those requests take no lock.

use crate::net::Peer;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// How long failures are added up, and the longest block of an address.
const WINDOW_MS: u64 = 60_000;

/// Limit on the stored addresses; a further address replaces the oldest.
const ENTRIES_MAX: usize = 1024;

/// An address with recent failures.
#[derive(Debug, Clone, Copy)]
struct Entry {
    who: u128,
    since_ms: u64,
    failures: u32,
}

/// Failed attempts by address. Times are in milliseconds since an arbitrary fixed moment.
pub(super) struct Failures {
    /// Number of failures in a window that blocks an address; 0: no address is blocked.
    max: u32,
    entries: Mutex<Vec<Entry>>,
    /// The end of the last block. The table must be consulted only before this time.
    last_block_ends_ms: AtomicU64,
}

/// The unit of the limit: an IPv4 address, or the /64 from which an IPv6 host can choose addresses. Peers on Unix sockets have
/// none: they are users of this machine, or a proxy that forwards many clients.
fn who(peer: &Peer) -> Option<u128> {
    let Peer::Tcp(addr) = peer else { return None };
    Some(match addr.ip().to_canonical() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
        // No IPv4-mapped address has such a number: the lower half of a mapped address is not 0.
        IpAddr::V6(ip) => ip.to_bits() & !u128::from(u64::MAX),
    })
}

impl Failures {
    pub(super) fn new(max: u32) -> Self {
        Self { max, entries: Mutex::default(), last_block_ends_ms: AtomicU64::new(0) }
    }

    /// How many milliseconds `peer` is still blocked, more than 0; `None` if `peer` is not blocked.
    pub(super) fn blocked_ms(&self, peer: &Peer, now_ms: u64) -> Option<u64> {
        // Relaxed: a thread that misses a block of another thread at this moment admits one more attempt.
        if now_ms >= self.last_block_ends_ms.load(Ordering::Relaxed) {
            return None;
        }
        let who = who(peer)?;
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = entries.iter().find(|entry| entry.who == who)?;
        let end_ms = entry.since_ms + WINDOW_MS;
        (entry.failures >= self.max && end_ms > now_ms).then(|| end_ms - now_ms)
    }

    /// Records that `peer` has sent a wrong key.
    pub(super) fn failed(&self, peer: &Peer, now_ms: u64) {
        let Some(who) = who(peer).filter(|_| self.max > 0) else { return };
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = Entry { who, since_ms: now_ms, failures: 0 };
        let at = entries.iter().position(|entry| entry.who == who).unwrap_or_else(|| {
            if entries.len() < ENTRIES_MAX {
                entries.push(fresh);
                return entries.len() - 1;
            }
            let oldest = entries.iter().enumerate().min_by_key(|(_, entry)| entry.since_ms);
            let at = oldest.map_or(0, |(at, _)| at);
            entries[at] = fresh;
            at
        });
        let entry = &mut entries[at];
        if now_ms >= entry.since_ms + WINDOW_MS {
            *entry = fresh;
        }
        entry.failures = entry.failures.saturating_add(1);
        if entry.failures >= self.max {
            self.last_block_ends_ms.fetch_max(entry.since_ms + WINDOW_MS, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(text: &str) -> Peer {
        Peer::Tcp(format!("{text}:1").parse().unwrap())
    }

    fn fail(failures: &Failures, who: &str, times: u32, now_ms: u64) {
        (0..times).for_each(|_| failures.failed(&peer(who), now_ms));
    }

    #[test]
    fn an_address_is_blocked_until_its_window_ends() {
        let failures = Failures::new(3);
        fail(&failures, "192.0.2.1", 2, 1_000);
        assert_eq!(failures.blocked_ms(&peer("192.0.2.1"), 1_000), None);
        fail(&failures, "192.0.2.1", 1, 31_000);
        assert_eq!(failures.blocked_ms(&peer("192.0.2.1"), 31_000), Some(30_000));
        assert_eq!(failures.blocked_ms(&peer("[::ffff:192.0.2.1]"), 31_000), Some(30_000));
        assert_eq!(failures.blocked_ms(&peer("192.0.2.2"), 31_000), None);
        assert_eq!(failures.blocked_ms(&peer("192.0.2.1"), 60_999), Some(1));
        assert_eq!(failures.blocked_ms(&peer("192.0.2.1"), 61_000), None);
        // A new window begins: three more failures until the next block.
        fail(&failures, "192.0.2.1", 2, 61_000);
        assert_eq!(failures.blocked_ms(&peer("192.0.2.1"), 61_000), None);
        fail(&failures, "192.0.2.1", 1, 61_000);
        assert_eq!(failures.blocked_ms(&peer("192.0.2.1"), 61_000), Some(60_000));
    }

    #[test]
    fn failures_that_are_far_apart_do_not_add_up() {
        let failures = Failures::new(2);
        for minute in 0..10 {
            fail(&failures, "192.0.2.1", 1, minute * WINDOW_MS);
            assert_eq!(failures.blocked_ms(&peer("192.0.2.1"), minute * WINDOW_MS), None);
        }
    }

    #[test]
    fn addresses_of_one_ipv6_network_count_together() {
        let failures = Failures::new(2);
        failures.failed(&peer("[2001:db8:0:1::1]"), 0);
        failures.failed(&peer("[2001:db8:0:1:ffff::2]"), 0);
        assert!(failures.blocked_ms(&peer("[2001:db8:0:1:8000::]"), 0).is_some());
        assert_eq!(failures.blocked_ms(&peer("[2001:db8:0:2::1]"), 0), None);
    }

    #[test]
    fn zero_is_no_limit_and_unix_sockets_have_none() {
        let failures = Failures::new(0);
        fail(&failures, "192.0.2.1", 1000, 0);
        assert_eq!(failures.blocked_ms(&peer("192.0.2.1"), 0), None);
        let failures = Failures::new(1);
        failures.failed(&Peer::Unix, 0);
        failures.failed(&peer("192.0.2.1"), 0);
        assert_eq!(failures.blocked_ms(&Peer::Unix, 0), None);
    }

    #[test]
    fn the_table_does_not_grow_and_forgets_the_oldest() {
        let failures = Failures::new(1);
        for number in 0..5_000_u32 {
            failures.failed(&Peer::Tcp((std::net::Ipv4Addr::from_bits(number), 1).into()), u64::from(number));
            let entries = failures.entries.lock().unwrap();
            assert!(entries.len() <= ENTRIES_MAX && entries.capacity() <= ENTRIES_MAX);
        }
        let blocked = |number: u32| {
            failures.blocked_ms(&Peer::Tcp((std::net::Ipv4Addr::from_bits(number), 1).into()), 5_000).is_some()
        };
        assert!(blocked(4_999) && blocked(5_000 - 1024));
        assert!(!blocked(5_000 - 1025) && !blocked(0));
    }
}
