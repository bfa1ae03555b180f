//! Assigns numbers to sockets, as a kernel assigns descriptors: the smallest free number.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The first number: modules use 0 for "none", and 0 to 2 have other meanings.
const FIRST: u32 = 3;

/// Numbers from [`FIRST`] to below `end` are assigned, except the free ones.
struct Places {
    end: u32,
    free: BinaryHeap<Reverse<u32>>,
}

impl Places {
    const fn new() -> Self {
        Self { end: FIRST, free: BinaryHeap::new() }
    }

    /// Takes the smallest free number.
    fn take(&mut self) -> u32 {
        if let Some(Reverse(number)) = self.free.pop() {
            return number;
        }
        let number = self.end;
        self.end = number.saturating_add(1);
        number
    }

    fn give(&mut self, number: u32) {
        self.free.push(Reverse(number));
        if self.free.len() == (self.end - FIRST) as usize {
            // No number is assigned any more: the memory of many sockets is freed.
            *self = Self::new();
        }
    }
}

/// The numbers of all shards. The lock is taken twice per WebSocket.
static PLACES: Mutex<Places> = Mutex::new(Places::new());

fn places() -> MutexGuard<'static, Places> {
    PLACES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A number that no other socket has while this lives.
#[derive(Debug)]
pub(super) struct SocketNumber(u32);

impl SocketNumber {
    /// Takes the smallest free number.
    pub(super) fn take() -> Self {
        Self(places().take())
    }

    pub(super) fn number(&self) -> u32 {
        self.0
    }
}

impl Drop for SocketNumber {
    fn drop(&mut self) {
        places().give(self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_free_number_is_taken() {
        let mut places = Places::new();
        let taken: Vec<u32> = (0..1000).map(|_| places.take()).collect();
        assert_eq!(taken, (FIRST..FIRST + 1000).collect::<Vec<_>>());
        for number in [700, 30, 500] {
            places.give(number);
        }
        assert_eq!([places.take(), places.take(), places.take(), places.take()], [30, 500, 700, FIRST + 1000]);
        for number in FIRST..=FIRST + 1000 {
            places.give(number);
        }
        assert_eq!((places.free.capacity(), places.take()), (0, FIRST));
    }
}
