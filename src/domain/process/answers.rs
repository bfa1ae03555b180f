//! Large bodies of answers and large frames, on the domain's side. Each gets a place beside the rings, or waits in a queue
//! for a place, or is refused with the name of the limit.

use super::arena::{ExtentRange, LENT_BYTES_MIN, Lender};
use super::extents::NoRoom;
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Limit on the wait for a place. The waiting thread runs nothing else.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// Limit on the waiting bodies, and so on the waiting threads.
const WAITING_MAX: usize = 32;

/// The result of lending a body.
#[derive(Debug)]
pub(super) enum Lent {
    /// The body is written to this place.
    At(ExtentRange),
    /// The body goes into the record.
    Here,
    /// The body can't be sent: the status of the answer in its place, and the reason.
    Refused(u16, String),
}

/// The lender of a domain's process, shared by all its threads.
#[derive(Debug)]
pub(super) struct Answers {
    state: Mutex<AnswersState>,
    /// Notified when a place was returned, or the head of the queue has changed.
    changed: Condvar,
    wait_max: Duration,
}

#[derive(Debug)]
struct AnswersState {
    lender: Lender,
    /// The numbers of the waiting bodies, in order.
    waiting: VecDeque<u64>,
    next: u64,
}

impl Answers {
    pub(super) fn new(lender: Lender) -> Self {
        let state = Mutex::new(AnswersState { lender, waiting: VecDeque::new(), next: 0 });
        Self { state, changed: Condvar::new(), wait_max: WAIT_MAX }
    }

    fn lock(&self) -> MutexGuard<'_, AnswersState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a copy of `body` to a place. If there is none now, a body that `fits` into a record goes there; any other
    /// body waits, after a call of `waits`.
    pub(super) fn lend(&self, body: &[u8], fits: bool, waits: impl FnOnce()) -> Lent {
        if body.len() < LENT_BYTES_MIN && fits {
            return Lent::Here;
        }
        let place = match self.take(body.len(), fits, waits) {
            Ok(place) => place,
            Err(lent) => return lent,
        };
        let memory = self.lock().lender.memory().clone();
        // Every offset of this lender is an address.
        match memory.write(usize::try_from(place.offset).unwrap_or(usize::MAX), body) {
            Ok(()) => Lent::At(place),
            Err(error) => {
                self.give_back(place.offset);
                self.reclaim();
                Lent::Refused(503, format!("there is no memory for {} bytes: {error}", body.len()))
            }
        }
    }

    fn take(&self, bytes: usize, fits: bool, waits: impl FnOnce()) -> Result<ExtentRange, Lent> {
        let mut state = self.lock();
        if state.waiting.is_empty() || fits {
            match state.lender.take(bytes) {
                Ok(place) => return Ok(place),
                Err(_) if fits => return Err(Lent::Here),
                Err(NoRoom::Ever) => return Err(too_large(bytes, state.lender.budget())),
                Err(NoRoom::Now) => {}
            }
        }
        if bytes > state.lender.budget() {
            return Err(too_large(bytes, state.lender.budget()));
        }
        if state.waiting.len() >= WAITING_MAX {
            return Err(busy(bytes, state.lender.budget()));
        }
        drop(state);
        waits();
        self.wait(bytes)
    }

    /// Waits in the queue for a place.
    fn wait(&self, bytes: usize) -> Result<ExtentRange, Lent> {
        let deadline = Instant::now() + self.wait_max;
        let mut state = self.lock();
        let own = state.next;
        state.next += 1;
        state.waiting.push_back(own);
        let taken = loop {
            if state.waiting.front() == Some(&own)
                && let Ok(place) = state.lender.take(bytes)
            {
                break Ok(place);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break Err(busy(bytes, state.lender.budget()));
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        };
        state.waiting.retain(|other| *other != own);
        drop(state);
        // Another waiting thread is now at the head of the queue.
        self.changed.notify_all();
        taken
    }

    /// Handles the server's message that it has sent the body at `offset`. Returns whether there are pages for
    /// [`Answers::reclaim`].
    pub(super) fn give_back(&self, offset: u64) -> bool {
        let mut state = self.lock();
        state.lender.give_back(offset);
        let unused = state.lender.has_unused();
        drop(state);
        self.changed.notify_all();
        unused
    }

    /// Returns unused pages to the kernel. May take some milliseconds.
    pub(super) fn reclaim(&self) {
        loop {
            let mut state = self.lock();
            if !state.lender.has_unused() {
                return;
            }
            state.lender.reclaim();
            drop(state);
            self.changed.notify_all();
        }
    }
}

fn too_large(bytes: usize, most: usize) -> Lent {
    Lent::Refused(500, format!("it has {bytes} bytes; the limit is {most} (--module-answers-bytes-max)"))
}

fn busy(bytes: usize, most: usize) -> Lent {
    Lent::Refused(
        503,
        format!(
            "it has {bytes} bytes; together with the unsent answers that is more than {most} (--module-answers-bytes-max)"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::super::arena::{Budgets, Parts};
    use super::*;
    use crate::domain::ring::Region;
    use crate::domain::stream::StreamSizes;
    use std::sync::Arc;
    use std::sync::mpsc::channel;

    const MIB: usize = 1 << 20;

    fn answers(wait_max: Duration) -> Answers {
        let parts = Parts::new(
            1,
            Budgets { requests_bytes_max: MIB, answers_bytes_max: 8 * MIB, streams: StreamSizes::default() },
        );
        let memory = Arc::new(Region::create(parts.bytes()).unwrap());
        Answers { wait_max, ..Answers::new(parts.lend_answers(&memory)) }
    }

    #[test]
    fn small_ones_and_those_that_fit_never_wait() {
        let answers = answers(Duration::ZERO);
        let panics = || panic!("a body with a place must not wait");
        assert!(matches!(answers.lend(&[1; LENT_BYTES_MIN - 1], true, panics), Lent::Here));
        assert!(matches!(answers.lend(&[1; LENT_BYTES_MIN], true, panics), Lent::At(_)));
        assert!(matches!(answers.lend(&vec![1; 8 * MIB - LENT_BYTES_MIN], false, panics), Lent::At(_)));
        while matches!(answers.lend(&vec![1; 400_000], true, panics), Lent::At(_)) {}
        assert!(matches!(answers.lend(&vec![1; 400_000], true, panics), Lent::Here));
    }

    #[test]
    fn a_refusal_names_the_limit_and_the_setting() {
        let answers = answers(Duration::ZERO);
        let Lent::Refused(500, why) = answers.lend(&vec![1; 8 * MIB + 1], false, || {}) else { panic!() };
        assert!(why.contains("8388608") && why.contains("--module-answers-bytes-max"), "{why}");
        assert!(matches!(answers.lend(&vec![1; 8 * MIB], false, || {}), Lent::At(_)));
        let Lent::Refused(503, why) = answers.lend(&vec![1; 2 * MIB], false, || {}) else { panic!() };
        assert!(why.contains("8388608") && why.contains("--module-answers-bytes-max"), "{why}");
    }

    #[test]
    fn those_that_wait_get_their_places_in_their_order() {
        // Longer than any test runs, so that a missing wake fails the test.
        let answers = Arc::new(answers(Duration::from_secs(600)));
        let Lent::At(all) = answers.lend(&vec![1; 8 * MIB], false, || {}) else { panic!() };
        let (sender, receiver) = channel();
        let threads: Vec<_> = (0..3_usize)
            .map(|number| {
                let (answers_too, sender, (waits, waiting)) = (Arc::clone(&answers), sender.clone(), channel());
                let thread = std::thread::spawn(move || {
                    let lent = answers_too.lend(&vec![1; 5 * MIB], false, move || waits.send(()).unwrap());
                    let Lent::At(place) = lent else { panic!("{lent:?}") };
                    sender.send((number, place)).unwrap();
                });
                waiting.recv().unwrap();
                while answers.lock().waiting.len() <= number {
                    std::thread::yield_now();
                }
                thread
            })
            .collect();
        assert!(answers.give_back(all.offset));
        for expected in 0..3 {
            answers.reclaim();
            let (number, place) = receiver.recv().unwrap();
            assert_eq!(number, expected);
            answers.give_back(place.offset);
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}
