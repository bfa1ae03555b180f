//! Records which call each executor thread of this process runs, so that a call can be canceled.
//!
//! A thread has an [`Entry`] of its own. To begin a call, it stores the call's key there and checks whether the call was
//! canceled before. To cancel a call, another thread notes the key and then searches the entries. Fences between the two
//! accesses on both sides ensure that one side sees the other. A call without a cancellation causes neither an allocation
//! nor a lock.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The reason of a cancellation, as `cweb_canceled` returns it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// `CWEB_CLIENT_GONE`
    ClientGone = 1,
    /// `CWEB_DEADLINE`
    Deadline = 2,
    /// `CWEB_DRAINING`
    Draining = 3,
}

impl Reason {
    /// The reason with this number.
    #[must_use]
    pub fn of(number: u8) -> Option<Self> {
        [Self::ClientGone, Self::Deadline, Self::Draining].into_iter().find(|reason| *reason as u8 == number)
    }
}

/// The key of a call in this process: the connection that gets the answer, and a number there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key(pub u64, pub u64);

/// Limit on the cancellations kept for calls that have not begun. Keys are never reused, so leftovers do no harm.
const EARLY_MAX: usize = 512;

/// The bits of the filter that shows most calls without a lock that they are not canceled.
const FILTER_BITS: u64 = 16 * 1024;

/// The state of one thread. The upper bits of `state` hold the call's number, the lowest eight the reason. A reason is
/// set only if the thread still runs the call that was found.
#[derive(Debug, Default)]
pub struct Entry {
    key: [AtomicU64; 2],
    state: AtomicU64,
    /// The eventfd that wakes the thread when its call is canceled, plus 1; 0: the thread needs none.
    wake: AtomicI32,
}

const REASON_BITS: u64 = 0xff;
const CALL_STEP: u64 = 0x100;

static ENTRIES: Mutex<Vec<Arc<Entry>>> = Mutex::new(Vec::new());
static EARLY: Mutex<VecDeque<(Key, Reason)>> = Mutex::new(VecDeque::new());
/// A bit for each key in `EARLY`, and for some that have left it.
static FILTER: [AtomicU64; (FILTER_BITS / 64) as usize] = [const { AtomicU64::new(0) }; (FILTER_BITS / 64) as usize];

/// The number of the word, and the bit in it, of a key in the filter.
fn filter_place(key: Key) -> (usize, u64) {
    // Fibonacci hashing, since the keys of one shard are consecutive.
    let bit = (key.0 ^ key.1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 50;
    (usize::try_from(bit / 64).unwrap_or_default() % FILTER.len(), 1 << (bit % 64))
}

/// The word and the bit of a key in the filter.
fn filter_bit(key: Key) -> (&'static AtomicU64, u64) {
    let (word, bit) = filter_place(key);
    (&FILTER[word], bit)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Entry {
    /// Registers an entry for the calling thread.
    #[must_use]
    pub fn register() -> Arc<Self> {
        let entry = Arc::<Self>::default();
        lock(&ENTRIES).push(Arc::clone(&entry));
        entry
    }

    /// Removes the entry at the end of its thread.
    pub fn unregister(self: &Arc<Self>) {
        lock(&ENTRIES).retain(|other| !Arc::ptr_eq(other, self));
    }

    /// Records the begin of a call on this thread.
    pub fn begin(&self, key: Key) {
        let state = (self.state.load(Ordering::Relaxed) & !REASON_BITS).wrapping_add(CALL_STEP);
        // No key is stored while the number changes, so that a key that another thread finds belongs to the number that it
        // has read before.
        self.key[0].store(0, Ordering::Release);
        self.state.store(state, Ordering::Release);
        self.key[1].store(key.1, Ordering::Release);
        self.key[0].store(key.0, Ordering::Release);
        fence(Ordering::SeqCst);
        let (word, bit) = filter_bit(key);
        if word.load(Ordering::Relaxed) & bit != 0
            && let Some(reason) = take_early(key)
        {
            self.state.store(state | reason as u64, Ordering::Release);
        }
    }

    /// Records the end of the call.
    pub fn end(&self) {
        self.key[0].store(0, Ordering::Release);
    }

    /// The reason of the call's cancellation; 0: the call is not canceled.
    #[must_use]
    pub fn reason(&self) -> u8 {
        (self.state.load(Ordering::Relaxed) & REASON_BITS) as u8
    }

    /// Makes cancellations write to the eventfd `event`, too, until a call with `None`. The descriptor must stay open until
    /// [`Entry::unregister`]. The caller must read the reason afterwards, because an earlier cancellation is not written.
    pub fn wake_by(&self, event: Option<BorrowedFd<'_>>) {
        self.wake.store(event.map_or(0, |event| event.as_raw_fd() + 1), Ordering::Release);
        // Pairs with the fence of `cancel`: either `cancel` finds the descriptor, or the caller finds the reason.
        fence(Ordering::SeqCst);
    }

    /// Cancels the call with this key, if this thread runs it.
    fn cancel(&self, key: Key, reason: Reason) -> bool {
        let state = self.state.load(Ordering::Acquire);
        let found = Key(self.key[0].load(Ordering::Acquire), self.key[1].load(Ordering::Acquire));
        if found != key {
            return false;
        }
        // A call keeps its first reason.
        let open = state & !REASON_BITS;
        let _ = self.state.compare_exchange(open, open | reason as u64, Ordering::AcqRel, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let wake = self.wake.load(Ordering::Acquire);
        if wake > 0 {
            // SAFETY: the caller holds the list of entries, so the thread has not unregistered and keeps the descriptor
            // open.
            let event = unsafe { BorrowedFd::borrow_raw(wake - 1) };
            // A full counter is already readable.
            let _ = rustix::io::write(event, &1_u64.to_ne_bytes());
        }
        true
    }
}

fn take_early(key: Key) -> Option<Reason> {
    let mut early = lock(&EARLY);
    let at = early.iter().position(|(early, _)| *early == key)?;
    Some(early.remove(at)?.1)
}

/// Cancels the call with this key: now if it runs, else when it begins.
pub fn cancel(key: Key, reason: Reason) {
    {
        let mut early = lock(&EARLY);
        if early.len() >= EARLY_MAX {
            // The calls of the oldest half have ended, and so their bits can go. The bits of the others stay set all the time,
            // because threads read the filter without the lock.
            early.truncate(EARLY_MAX / 2);
            let mut words = [0; FILTER.len()];
            for (key, _) in early.iter() {
                let (word, bit) = filter_place(*key);
                words[word] |= bit;
            }
            FILTER.iter().zip(words).for_each(|(word, bits)| word.store(bits, Ordering::Relaxed));
        }
        early.push_front((key, reason));
        let (word, bit) = filter_bit(key);
        word.fetch_or(bit, Ordering::Relaxed);
    }
    fence(Ordering::SeqCst);
    let mut runs = false;
    for entry in lock(&ENTRIES).iter() {
        runs |= entry.cancel(key, reason);
    }
    if runs {
        take_early(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_canceled_while_it_runs_and_before_it_begins_and_no_other_is() {
        let (one, two) = (Entry::register(), Entry::register());
        let key = |number| Key(u64::from(std::process::id()) << 8 | 7, number);
        one.begin(key(1));
        two.begin(key(2));
        assert_eq!((one.reason(), two.reason()), (0, 0));
        cancel(key(2), Reason::ClientGone);
        cancel(key(2), Reason::Draining);
        assert_eq!((one.reason(), two.reason()), (0, Reason::ClientGone as u8), "the first reason stays");
        two.end();
        two.begin(key(3));
        assert_eq!(two.reason(), 0, "the next call is another");
        cancel(key(4), Reason::Draining);
        one.end();
        one.begin(key(4));
        assert_eq!(one.reason(), Reason::Draining as u8, "it was canceled before it began");
        [one, two].iter().for_each(Entry::unregister);
    }
}
