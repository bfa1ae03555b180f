//! Serialises the calls of one module.
//!
//! No thread waits for a turn: a call that arrives while another runs is queued here, and the thread of the running call
//! takes it afterwards. A call that exits or faults returns to its thread like any other, so its turn ends, too. No memory
//! of the module is locked meanwhile.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// If a call has been running for longer than this, other calls are refused instead of queued.
const STUCK_AFTER: Duration = Duration::from_secs(30);
/// Limit on the calls that wait for their turn.
const WAITING_MAX: usize = 4096;

/// The result of asking for a turn.
pub(super) enum Turn<W> {
    /// The call may run now; the caller must call [`Turns::next`] afterwards.
    Now(W),
    /// The call is queued until its turn comes.
    Later,
    /// The running call does not end: answer these calls without running them.
    Stuck(Vec<W>),
}

#[derive(Default)]
struct SerialState {
    /// The start of the running call.
    since: Option<Instant>,
    waiting: VecDeque<Box<dyn Any + Send>>,
}

/// The turns of one module. All its calls must have the same type.
#[derive(Default)]
pub(super) struct Turns {
    state: Mutex<SerialState>,
}

impl Turns {
    fn state(&self) -> MutexGuard<'_, SerialState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for a turn for `work`.
    pub(super) fn enter<W: Send + 'static>(&self, work: W) -> Turn<W> {
        let mut state = self.state();
        let Some(since) = state.since else {
            state.since = Some(Instant::now());
            return Turn::Now(work);
        };
        if since.elapsed() > STUCK_AFTER || state.waiting.len() >= WAITING_MAX {
            let waiting =
                if since.elapsed() > STUCK_AFTER { std::mem::take(&mut state.waiting) } else { VecDeque::new() };
            let kept = waiting.into_iter().filter_map(|work| work.downcast::<W>().ok()).map(|work| *work);
            return Turn::Stuck(kept.chain([work]).collect());
        }
        state.waiting.push_back(Box::new(work));
        Turn::Later
    }

    /// Ends the running call's turn, and returns the next queued call, if any.
    pub(super) fn next<W: 'static>(&self) -> Option<W> {
        let mut state = self.state();
        let next = state.waiting.pop_front().and_then(|work| work.downcast::<W>().ok()).map(|work| *work);
        state.since = next.as_ref().map(|_| Instant::now());
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn one_at_a_time_in_order() {
        let turns = Turns::default();
        assert!(matches!(turns.enter(1), Turn::Now(1)));
        assert!(matches!((turns.enter(2), turns.enter(3)), (Turn::Later, Turn::Later)));
        assert_eq!([turns.next(), turns.next(), turns.next()], [Some(2), Some(3), None]);
        assert!(matches!(turns.enter(4), Turn::Now(4)));
    }

    #[test]
    fn threads_never_overlap_and_lose_nothing() {
        let (turns, running, done) = (Turns::default(), AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for call in 0..500_usize {
                        let Turn::Now(call) = turns.enter(call) else { continue };
                        let mut next = Some(call);
                        while let Some(_call) = next {
                            assert_eq!(running.fetch_add(1, Ordering::SeqCst), 0);
                            running.fetch_sub(1, Ordering::SeqCst);
                            done.fetch_add(1, Ordering::SeqCst);
                            next = turns.next::<usize>();
                        }
                    }
                });
            }
        });
        assert_eq!(done.load(Ordering::SeqCst), 8 * 500);
    }

    #[test]
    fn who_waits_for_a_call_that_does_not_end_is_told() {
        let turns = Turns::default();
        assert!(matches!((turns.enter(1), turns.enter(2)), (Turn::Now(1), Turn::Later)));
        turns.state().since = Instant::now().checked_sub(STUCK_AFTER * 2);
        assert!(matches!(turns.enter(3), Turn::Stuck(told) if told == [2, 3]));
        assert_eq!(turns.next::<i32>(), None);
        assert!(matches!(turns.enter(4), Turn::Now(4)));
    }
}
