//! Counts the connections of each peer, over all shards.
//!
//! A count is changed under a lock when a connection is accepted and when it is closed. The locks are striped, so that
//! shards seldom contend. Without a limit, nothing is counted. The tables hold only peers with open connections.

use crate::net::Peer;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

const STRIPES: usize = 16;

/// A table with at least this capacity shrinks when only a quarter of it is used.
const SHRINK_FROM: usize = 1024;

/// The peer for counting: an IPv4 address, or the /64 from which an IPv6 host can choose its addresses. All peers on this
/// machine count together, since they are often a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Key {
    V4([u8; 4]),
    V6([u8; 8]),
    Loopback,
    Unix,
}

fn key(peer: &Peer) -> Key {
    let Peer::Tcp(addr) = peer else { return Key::Unix };
    if peer.is_loopback() {
        return Key::Loopback;
    }
    match addr.ip().to_canonical() {
        IpAddr::V4(ip) => Key::V4(ip.octets()),
        IpAddr::V6(ip) => {
            let [a, b, c, d, e, f, g, h, ..] = ip.octets();
            Key::V6([a, b, c, d, e, f, g, h])
        }
    }
}

/// The connections of each peer.
#[derive(Debug)]
pub struct PeerCounts {
    connections_max: usize,
    /// The limit for peers on this machine.
    local_max: usize,
    /// Keyed at random, so that a peer can't choose addresses that collide.
    hasher: RandomState,
    stripes: [Mutex<HashMap<Key, usize>>; STRIPES],
}

impl PeerCounts {
    /// Counts with a limit of `connections_max` connections for each peer, and of `local_max` for all peers on this machine
    /// over TCP, and again over Unix sockets.
    #[must_use]
    pub fn new(connections_max: usize, local_max: usize) -> Self {
        Self { connections_max, local_max, hasher: RandomState::new(), stripes: Default::default() }
    }

    fn with<T>(&self, key: Key, change: impl FnOnce(&mut HashMap<Key, usize>) -> T) -> Option<T> {
        let stripe = usize::try_from(self.hasher.hash_one(key) % STRIPES as u64).unwrap_or_default();
        let stripe = self.stripes.get(stripe)?;
        Some(change(&mut stripe.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Counts another connection of `peer`. Returns false, without counting, if the peer has reached its limit.
    pub(super) fn enter(&self, peer: &Peer) -> bool {
        let key = key(peer);
        let max = if matches!(key, Key::Loopback | Key::Unix) { self.local_max } else { self.connections_max };
        let entered = self.with(key, |counts| {
            let count = counts.entry(key).or_default();
            let fits = *count < max;
            *count += usize::from(fits);
            fits
        });
        entered.unwrap_or(true)
    }

    /// Uncounts a counted connection of `peer`.
    pub(super) fn leave(&self, peer: &Peer) {
        let key = key(peer);
        self.with(key, |counts| {
            if let Entry::Occupied(mut entry) = counts.entry(key) {
                *entry.get_mut() = entry.get().saturating_sub(1);
                if *entry.get() == 0 {
                    entry.remove();
                }
            }
            if counts.capacity() > SHRINK_FROM && counts.len() < counts.capacity() / 4 {
                counts.shrink_to(counts.len() * 2);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(text: &str) -> Peer {
        Peer::Tcp(text.parse().unwrap())
    }

    #[test]
    fn each_peer_has_its_own_count() {
        let counts = PeerCounts::new(2, 1);
        let one = peer("192.0.2.1:1");
        assert!(counts.enter(&one) && counts.enter(&peer("192.0.2.1:2")));
        assert!(!counts.enter(&peer("192.0.2.1:3")) && !counts.enter(&peer("[::ffff:192.0.2.1]:4")));
        assert!(counts.enter(&peer("192.0.2.2:1")));
        counts.leave(&one);
        assert!(counts.enter(&one) && !counts.enter(&one));
    }

    #[test]
    fn an_ipv6_host_has_its_64_bits_and_no_more() {
        let counts = PeerCounts::new(1, 1);
        assert!(counts.enter(&peer("[2001:db8:0:1::1]:1")));
        assert!(!counts.enter(&peer("[2001:db8:0:1:ffff::2]:1")));
        assert!(counts.enter(&peer("[2001:db8:0:2::1]:1")));
    }

    #[test]
    fn peers_on_this_machine_have_a_limit_together() {
        let counts = PeerCounts::new(1, 3);
        let [four, six, mapped] = ["127.0.0.1:1", "[::1]:1", "[::ffff:127.0.0.2]:1"].map(peer);
        assert!(counts.enter(&four) && counts.enter(&six) && counts.enter(&mapped) && !counts.enter(&four));
        assert!((0..3).all(|_| counts.enter(&Peer::Unix)) && !counts.enter(&Peer::Unix));
        counts.leave(&mapped);
        assert!(counts.enter(&four));
    }

    #[test]
    fn nothing_is_kept_of_peers_that_have_gone() {
        let counts = PeerCounts::new(3, 1);
        let peers: Vec<Peer> =
            (0..50_000_u32).map(|n| Peer::Tcp((std::net::Ipv4Addr::from(0x0a00_0000 + n), 1).into())).collect();
        assert!(peers.iter().all(|peer| counts.enter(peer)));
        peers.iter().for_each(|peer| counts.leave(peer));
        for stripe in &counts.stripes {
            let stripe = stripe.lock().unwrap();
            assert!(stripe.is_empty() && stripe.capacity() <= 2 * SHRINK_FROM, "{}", stripe.capacity());
        }
    }
}
