//! How often who has come with a wrong key, and for how long no further key of theirs is looked at.
//!
//! One table for the whole process: an attempt is counted wherever it comes in. Only requests that carry a key and need
//! one come here, and while nobody is blocked those take no lock.

use crate::net::Peer;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// How long failures count together, and the longest that an address is blocked.
const WINDOW_MS: u64 = 60_000;

/// Addresses that are remembered; one more replaces the oldest.
const ENTRIES_MAX: usize = 1024;

/// An address that failed lately.
#[derive(Debug, Clone, Copy)]
struct Entry {
    who: u128,
    since_ms: u64,
    failures: u32,
}

/// Failed attempts by address. Times are milliseconds since any moment that stays the same.
pub(super) struct Failures {
    /// Failures in a window after which an address is blocked; 0: never.
    max: u32,
    entries: Mutex<Vec<Entry>>,
    /// When the last block ends: before it, and only then, the table must be asked.
    last_block_ends_ms: AtomicU64,
}

/// What is limited together: an IPv4 address, or the /64 that an IPv6 host can choose its addresses from. Peers on unix
/// sockets have none: they are this machine's users, or a proxy that stands for everybody.
fn who(peer: &Peer) -> Option<u128> {
    let Peer::Tcp(addr) = peer else { return None };
    Some(match addr.ip().to_canonical() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
        // No mapped address has such a number: their lower half is not 0.
        IpAddr::V6(ip) => ip.to_bits() & !u128::from(u64::MAX),
    })
}

impl Failures {
    pub(super) fn new(max: u32) -> Self {
        Self { max, entries: Mutex::default(), last_block_ends_ms: AtomicU64::new(0) }
    }

    /// How long `peer` is still blocked, if it is; more than 0.
    pub(super) fn blocked_ms(&self, peer: &Peer, now_ms: u64) -> Option<u64> {
        // Relaxed: whoever misses a block that another thread is just making is one attempt ahead of it.
        if now_ms >= self.last_block_ends_ms.load(Ordering::Relaxed) {
            return None;
        }
        let who = who(peer)?;
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = entries.iter().find(|entry| entry.who == who)?;
        let end_ms = entry.since_ms + WINDOW_MS;
        (entry.failures >= self.max && end_ms > now_ms).then(|| end_ms - now_ms)
    }

    /// `peer` has come with a wrong key.
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
        // A new window begins: three more until the next block.
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
