//! Turns for the copies of large bodies.
//!
//! A copy of 64 MiB takes a processor for tens of milliseconds, and the kernel shares processors by thread. So 64
//! threads that copy keep all other threads of the process waiting. More copies at a time than there are processors end
//! no earlier, so a thread waits for its turn.
//!
//! Turns only spare the processors, so nothing depends on them: a thread that has seen no copy end for [`STALL`] goes ahead.
//! Therefore no lock is left behind by a thread that died, or by a fork(2) in the middle of a copy.

use rustix::thread::futex::{self, Flags};
use rustix::time::Timespec;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// The smallest copy that needs a turn, in bytes.
pub(super) const BYTES_MIN: usize = 1024 * 1024;
/// How long a thread waits for the end of any copy, in nanoseconds.
const STALL: Timespec = Timespec { tv_sec: 0, tv_nsec: 250_000_000 };

/// The turns of one process.
struct Turns {
    /// Threads that copy.
    copying: AtomicU32,
    /// Changes with the end of each copy. Waiting threads sleep until the value changes.
    ended: AtomicU32,
}

static TURNS: Turns = Turns { copying: AtomicU32::new(0), ended: AtomicU32::new(0) };

/// A turn, which ends when it is dropped.
pub(super) struct Turn(&'static Turns);

/// Waits for a turn to copy `bytes`; small copies need none.
pub(super) fn turn(bytes: usize) -> Option<Turn> {
    static MOST: OnceLock<u32> = OnceLock::new();
    if bytes < BYTES_MIN {
        return None;
    }
    let cores =
        || std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(u32::MAX));
    TURNS.wait(*MOST.get_or_init(cores), &STALL);
    Some(Turn(&TURNS))
}

/// Forgets the copies of other threads. For a process that has just been forked: these threads are not in it.
pub(super) fn forget() {
    TURNS.copying.store(0, Ordering::Relaxed);
}

impl Turns {
    /// Counts the calling thread among those that copy, once there are fewer than `most`, or no copy has ended for `stall`.
    fn wait(&self, most: u32, stall: &Timespec) {
        loop {
            // Acquire, before `copying` is read: a turn that ends after this load changes the value that the futex compares.
            let ended = self.ended.load(Ordering::Acquire);
            let more = |copying: u32| (copying < most).then_some(copying + 1);
            if self.copying.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok() {
                return;
            }
            let waited = futex::wait(&self.ended, Flags::PRIVATE, ended, Some(stall));
            let is_stalled = waited == Err(rustix::io::Errno::TIMEDOUT);
            if is_stalled && self.ended.load(Ordering::Acquire) == ended {
                self.copying.fetch_add(1, Ordering::AcqRel);
                return;
            }
        }
    }

    fn end(&self) {
        // `forget` may have set the number to 0.
        let less = |copying: u32| copying.checked_sub(1);
        let _ = self.copying.fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
        self.ended.fetch_add(1, Ordering::Release);
        // Without a thread that waits, this is one system call for at least `BYTES_MIN`.
        let _ = futex::wake(&self.ended, Flags::PRIVATE, 1);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::thread;

    const LONG: Timespec = Timespec { tv_sec: 60, tv_nsec: 0 };

    fn turns() -> Arc<Turns> {
        Arc::new(Turns { copying: AtomicU32::new(0), ended: AtomicU32::new(0) })
    }

    #[test]
    fn as_many_copy_as_may_and_all_get_a_turn() {
        let turns = turns();
        let most_seen = Arc::new(AtomicU32::new(0));
        let threads: Vec<_> = (0..16)
            .map(|_| {
                let (turns, most_seen) = (Arc::clone(&turns), Arc::clone(&most_seen));
                thread::spawn(move || {
                    for _ in 0..200 {
                        turns.wait(2, &LONG);
                        most_seen.fetch_max(turns.copying.load(Ordering::SeqCst), Ordering::SeqCst);
                        thread::yield_now();
                        turns.end();
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(turns.copying.load(Ordering::SeqCst), 0);
        assert_eq!(most_seen.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn a_turn_that_never_ends_delays_others_once() {
        let turns = turns();
        turns.wait(1, &LONG);
        turns.wait(1, &Timespec { tv_sec: 0, tv_nsec: 1_000_000 });
        assert_eq!(turns.copying.load(Ordering::SeqCst), 2);
        turns.end();
        turns.end();
        turns.end();
        assert_eq!(turns.copying.load(Ordering::SeqCst), 0, "the count never falls below 0");
    }

    #[test]
    fn small_copies_need_no_turn() {
        assert!(turn(BYTES_MIN - 1).is_none());
        assert!(turn(BYTES_MIN).is_some());
    }
}
