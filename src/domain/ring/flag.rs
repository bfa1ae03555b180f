//! A word that says whether a side sleeps, and the fences that make a check of it sufficient.
//!
//! The side sleeps on the flag itself as a futex, and not on the announcement that it waits for. The reason: [`take`] may
//! be late and take a flag that was lowered and raised again meanwhile. Then the sleeper finds its futex changed and looks
//! again; a sleeper on an unchanged announcement would have no raised flag and never be woken.
//!
//! Every write is a swap, so that the writes of both sides form one chain in which each reads the one before. Plain stores
//! by the sleeper would suffice in the language's memory model, but loom doesn't order them with the other side's swaps and
//! reports impossible deadlocks. A swap costs nothing compared with a sleep.

use super::atomic::{AtomicU64, Ordering, fence};

/// Value of a raised flag, and what its futex expects.
pub(crate) const RAISED: u64 = 1;

/// Called by the sleeper before its last look at the announcement.
pub(crate) fn raise(flag: &AtomicU64) {
    flag.swap(RAISED, Ordering::Relaxed);
    fence(Ordering::SeqCst);
}

/// Called by the sleeper when it is awake again.
pub(crate) fn lower(flag: &AtomicU64) {
    flag.swap(0, Ordering::Relaxed);
}

/// Called by the other side after its announcement. Returns true if the sleeper must be woken, which is then the caller's
/// duty. While the flag is down this costs a fence and a load.
pub(crate) fn take(flag: &AtomicU64) -> bool {
    fence(Ordering::SeqCst);
    flag.load(Ordering::Relaxed) != 0 && flag.swap(0, Ordering::AcqRel) != 0
}
