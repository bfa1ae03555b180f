//! Who a domain is: its name, its number, and what is counted of it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The numbers that the domains of one server have.
#[derive(Debug)]
struct Numbers {
    /// Whether each domain's number is taken.
    taken: Mutex<Vec<bool>>,
    /// The next [`Identity::unique`].
    next: AtomicU64,
}

/// What one shard counts of a domain, in a cache line that no other shard writes.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Counter(AtomicU64);

/// A domain's name and number. Shards index their calls by the number: it is the lowest that was free, and free again
/// when the last that knows of the domain is gone, be it a supervisor, a module or a shard's link.
#[derive(Debug)]
pub struct Identity {
    name: String,
    number: usize,
    requests: Box<[Counter]>,
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
        Self::taken(name, self.requests.len(), Arc::clone(&self.numbers))
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
        let requests = (0..shards).map(|_| Counter::default()).collect();
        Arc::new(Self { name: name.to_owned(), number, requests, numbers })
    }

    /// The domain's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its number, from 0.
    #[must_use]
    pub fn number(&self) -> usize {
        self.number
    }

    /// A number that nothing in any domain of this server has had: of a loaded module, a job's run, a call.
    pub(super) fn unique(&self) -> u64 {
        self.numbers.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Counts a request. Each shard writes its own counter alone.
    pub(super) fn count_request(&self, shard: usize) {
        if let Some(Counter(count)) = self.requests.get(shard) {
            count.store(count.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        }
    }

    /// Requests handed to the domain.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests.iter().map(|Counter(count)| count.load(Ordering::Relaxed)).sum()
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
    }
}
