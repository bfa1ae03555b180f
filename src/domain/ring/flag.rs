//! A word that says whether a side sleeps, and the fences that make looking at it enough.
//!
//! The flag is also the futex the side sleeps on, not the announcement it waits for: [`take`] may be late and take a
//! flag that was lowered and raised again meanwhile. The sleeper then finds its futex changed and looks again; asleep
//! on an unchanged announcement it would have no flag up and never be woken.
//!
//! Every write is a swap, so that the writes of both sides form one chain in which each saw the one before. Plain
//! stores by the sleeper would do in the memory model of the language, but loom doesn't order them with the swaps of
//! the other side, and reports deadlocks that can't be. A swap costs nothing beside a sleep.

use super::atomic::{AtomicU64, Ordering, fence};

/// Value of a raised flag, and what its futex expects.
pub(crate) const RAISED: u64 = 1;

/// The sleeper, before it looks at the announcement once more.
pub(crate) fn raise(flag: &AtomicU64) {
    flag.swap(RAISED, Ordering::Relaxed);
    fence(Ordering::SeqCst);
}

/// The sleeper, awake again.
pub(crate) fn lower(flag: &AtomicU64) {
    flag.swap(0, Ordering::Relaxed);
}

/// The other side, after its announcement: true if the sleeper must be woken, which is now the caller's duty. A fence
/// and a load while the flag is down.
pub(crate) fn take(flag: &AtomicU64) -> bool {
    fence(Ordering::SeqCst);
    flag.load(Ordering::Relaxed) != 0 && flag.swap(0, Ordering::AcqRel) != 0
}
