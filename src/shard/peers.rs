//! How many connections each peer has, over all shards.
//!
//! One locked count when a connection is accepted and one when it is closed, in one of some stripes so that shards seldom
//! meet; nothing where there is no limit. The tables hold peers with open connections only.

use crate::net::Peer;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

const STRIPES: usize = 16;

/// A table is made smaller when it has room for this many and uses a quarter of it.
const SHRINK_FROM: usize = 1024;

/// Whose connections count together: an address, or the /64 that an IPv6 host can choose its addresses from; all peers on
/// this machine, which are a proxy as often as not.
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

/// See the module's documentation.
#[derive(Debug)]
pub struct PeerCounts {
    connections_max: usize,
    /// Of peers on this machine.
    local_max: usize,
    /// Keyed at random: a peer can't choose addresses that collide.
    hasher: RandomState,
    stripes: [Mutex<HashMap<Key, usize>>; STRIPES],
}

impl PeerCounts {
    /// Counts for a limit of `connections_max` connections of one peer, and of `local_max` of all on this machine over TCP, and
    /// again over unix sockets.
    #[must_use]
    pub fn new(connections_max: usize, local_max: usize) -> Self {
        Self { connections_max, local_max, hasher: RandomState::new(), stripes: Default::default() }
    }

    fn with<T>(&self, key: Key, change: impl FnOnce(&mut HashMap<Key, usize>) -> T) -> Option<T> {
        let stripe = usize::try_from(self.hasher.hash_one(key) % STRIPES as u64).unwrap_or_default();
        let stripe = self.stripes.get(stripe)?;
        Some(change(&mut stripe.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// One more connection of `peer`. Returns whether it may have it; if not, it was not counted.
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

    /// A connection of `peer` that was let in is gone.
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
