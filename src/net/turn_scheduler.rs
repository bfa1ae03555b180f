//! Limits on long steps in one turn of a shard.
//!
//! A TLS client's first message costs a key exchange and a signature: a hundred times the cost of a request (0.2 ms with a
//! P-256 key, 0.8 ms with RSA-2048). A full receive buffer of an upload costs ten times as much as a request. The answers of a
//! turn are sent at its end. A shard therefore takes a limited number of such steps between two looks at the kernel's events.
//! Further connections wait in a queue; events of other connections are served before the next step.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::Waker as TaskWaker;

/// Limit on the handshake messages that one turn of a shard processes.
pub(super) const HANDSHAKES_A_TURN: usize = 1;
/// Limit on the receives in one turn for connections whose last receive filled the buffer: 512 KiB.
pub(super) const BULK_RECEIVES_A_TURN: usize = 8;

/// The steps of one kind in this turn, and the queue of waiting tasks.
#[derive(Debug)]
pub(super) struct TurnScheduler {
    steps_a_turn: usize,
    taken: usize,
    line: VecDeque<Waiting>,
}

/// An entry of the queue.
#[derive(Debug)]
struct Waiting {
    called: Rc<Cell<bool>>,
    task: TaskWaker,
}

impl TurnScheduler {
    pub(super) fn new(steps_a_turn: usize) -> Self {
        Self { steps_a_turn, taken: 0, line: VecDeque::new() }
    }

    /// Takes a step of this turn, or an entry in the queue. The entry is set to true and `task` is woken when the turn of the
    /// entry has come. A task may be woken for other reasons too.
    pub(super) fn enter(&mut self, task: &TaskWaker) -> Option<Rc<Cell<bool>>> {
        // A new task must not overtake tasks in the queue.
        if self.taken < self.steps_a_turn && self.line.is_empty() {
            self.taken += 1;
            return None;
        }
        let called = Rc::new(Cell::new(false));
        self.line.push_back(Waiting { called: Rc::clone(&called), task: task.clone() });
        Some(called)
    }

    /// Ends the turn. Returns whether a task waits, so that another turn must follow without waiting for an event.
    pub(super) fn end_turn(&mut self) -> bool {
        self.taken = 0;
        !self.line.is_empty()
    }

    /// Gives the remaining steps of this turn to the tasks that have waited longest.
    pub(super) fn call(&mut self) {
        while self.taken < self.steps_a_turn
            && let Some(place) = self.line.pop_front()
        {
            self.taken += 1;
            place.called.set(true);
            place.task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_turn_has_its_steps_in_the_order_of_arrival() {
        for steps in [1, 16] {
            let mut scheduler = TurnScheduler::new(steps);
            let task = TaskWaker::noop();
            for _ in 0..steps {
                assert!(scheduler.enter(task).is_none());
            }
            let places: Vec<_> = (0..3 * steps).map(|_| scheduler.enter(task).unwrap()).collect();
            let called = || places.iter().take_while(|place| place.get()).count();
            scheduler.call();
            assert_eq!(called(), 0, "this turn has no step left");
            for turn in 1..=3 {
                assert!(scheduler.end_turn());
                assert!(scheduler.enter(task).is_some(), "a new task does not overtake waiting tasks");
                scheduler.call();
                assert_eq!(called(), turn * steps);
            }
            // The tasks that tried to overtake.
            while scheduler.end_turn() {
                scheduler.call();
            }
            assert!(scheduler.enter(task).is_none());
            assert!(!scheduler.end_turn());
        }
    }
}
