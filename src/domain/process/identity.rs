//! The identity of a domain: its name, its number, and its counters.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The numbers of the domains of one server.
#[derive(Debug)]
struct Numbers {
    /// Whether each number is taken.
    taken: Mutex<Vec<bool>>,
    /// The next [`Identity::unique`].
    next: AtomicU64,
}

/// The counters of a domain that one shard keeps, in a cache line that no other shard writes.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Counters {
    requests: AtomicU64,
    /// Bytes of bodies and messages that the domain holds.
    held: AtomicUsize,
}

/// A domain's name and number. Shards index their calls by the number. A domain gets the lowest free number, which becomes
/// free again when the last supervisor, module or shard's connection of the domain is dropped.
#[derive(Debug)]
pub struct Identity {
    name: String,
    number: usize,
    shards: Box<[Counters]>,
    numbers: Arc<Numbers>,
}

impl Identity {
    /// The first domain of a server with `shards` shards; its number is 0.
    #[must_use]
    pub fn first(name: &str, shards: usize) -> Arc<Self> {
        let numbers = Arc::new(Numbers { taken: Mutex::default(), next: AtomicU64::new(1) });
        Self::taken(name, shards, numbers)
    }

    /// A further domain of the same server.
    #[must_use]
    pub fn another(&self, name: &str) -> Arc<Self> {
        Self::taken(name, self.shards.len(), Arc::clone(&self.numbers))
    }

    fn taken(name: &str, shards: usize, numbers: Arc<Numbers>) -> Arc<Self> {
        let number = {
            let mut taken = lock(&numbers.taken);
            let free = taken.iter().position(|taken| !taken).unwrap_or(taken.len());
            if free == taken.len() {
                taken.push(false);
            }
            if let Some(place) = taken.get_mut(free) {
                *place = true;
            }
            free
        };
        let shards = (0..shards).map(|_| Counters::default()).collect();
        Arc::new(Self { name: name.to_owned(), number, shards, numbers })
    }

    /// The domain's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The domain's number, from 0.
    #[must_use]
    pub fn number(&self) -> usize {
        self.number
    }

    /// A number that was not used before in any domain of this server, for a loaded module, a job's run or a call.
    pub(super) fn unique(&self) -> u64 {
        self.numbers.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Counts a request. Only the shard itself writes its counter.
    pub(super) fn count_request(&self, shard: usize) {
        if let Some(Counters { requests: count, .. }) = self.shards.get(shard) {
            count.store(count.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        }
    }

    /// The number of requests that the domain has received.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.shards.iter().map(|shard| shard.requests.load(Ordering::Relaxed)).sum()
    }
}

impl Identity {
    /// Sets the number of bytes that bodies and messages of the domain hold in shard number `shard`. Only the shard itself
    /// writes its counter.
    pub(super) fn set_held(&self, shard: usize, bytes: usize) {
        if let Some(counters) = self.shards.get(shard) {
            counters.held.store(bytes, Ordering::Relaxed);
        }
    }

    /// The number of bytes that bodies and messages of the domain hold in all shards. A hint for admission, which orders no
    /// other access.
    #[must_use]
    pub(super) fn held_bytes(&self) -> usize {
        self.shards.iter().map(|shard| shard.held.load(Ordering::Relaxed)).fold(0, usize::saturating_add)
    }
}

impl Drop for Identity {
    fn drop(&mut self) {
        if let Some(place) = lock(&self.numbers.taken).get_mut(self.number) {
            *place = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_lowest_free_and_come_back() {
        let first = Identity::first("default", 2);
        let (a, b) = (first.another("a"), first.another("b"));
        assert_eq!((first.number(), a.number(), b.number()), (0, 1, 2));
        drop(a);
        let again = first.another("c");
        assert_eq!((again.number(), first.another("d").number()), (1, 3));
        assert!(first.unique() != again.unique());
    }

    #[test]
    fn requests_are_counted_a_shard() {
        let domain = Identity::first("default", 2);
        for shard in [0, 1, 1, 7] {
            domain.count_request(shard);
        }
        assert_eq!(domain.requests(), 3);
        for (shard, bytes) in [(0, 70), (1, 5), (0, 30), (9, 1)] {
            domain.set_held(shard, bytes);
        }
        assert_eq!(domain.held_bytes(), 35);
    }
}
