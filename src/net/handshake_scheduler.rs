//! Handshakes take turns with everything else a shard does.
//!
//! What a client's first message costs, a key exchange and a signature, is a hundred times what a request costs (0.2 ms
//! with a P-256 key, 0.8 ms with RSA-2048), and the answers of a turn leave at its end. So a shard does at most
//! [`STEPS_A_TURN`] steps of handshakes between two looks at the kernel's events; connections beyond it wait in line, and
//! what has come meanwhile for others is served before the next of them.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::Waker as TaskWaker;

/// Messages of handshakes that are processed in one turn of a shard.
pub(super) const STEPS_A_TURN: usize = 1;

/// The steps of this turn, and who waits for one.
#[derive(Debug, Default)]
pub(super) struct Handshakes {
    taken: usize,
    line: VecDeque<Waiting>,
}

/// A place in the line.
#[derive(Debug)]
struct Waiting {
    called: Rc<Cell<bool>>,
    task: TaskWaker,
}

impl Handshakes {
    /// Takes a step of this turn, or a place in the line: `task` is woken when its turn has come, which the place then
    /// says. A task may be woken for other reasons too.
    pub(super) fn enter(&mut self, task: &TaskWaker) -> Option<Rc<Cell<bool>>> {
        // Nobody passes those who wait.
        if self.taken < STEPS_A_TURN && self.line.is_empty() {
            self.taken += 1;
            return None;
        }
        let called = Rc::new(Cell::new(false));
        self.line.push_back(Waiting { called: Rc::clone(&called), task: task.clone() });
        Some(called)
    }

    /// The turn is over. Returns whether somebody waits, so that another turn must follow without waiting for an event.
    pub(super) fn end_turn(&mut self) -> bool {
        self.taken = 0;
        !self.line.is_empty()
    }

    /// Gives the steps that this turn has left to those who wait longest.
    pub(super) fn call(&mut self) {
        while self.taken < STEPS_A_TURN
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
        let mut handshakes = Handshakes::default();
        let task = TaskWaker::noop();
        for _ in 0..STEPS_A_TURN {
            assert!(handshakes.enter(task).is_none());
        }
        let places: Vec<_> = (0..3 * STEPS_A_TURN).map(|_| handshakes.enter(task).unwrap()).collect();
        let called = || places.iter().take_while(|place| place.get()).count();
        handshakes.call();
        assert_eq!(called(), 0, "this turn has no step left");
        for turn in 1..=3 {
            assert!(handshakes.end_turn());
            assert!(handshakes.enter(task).is_some(), "nobody passes those who wait");
            handshakes.call();
            assert_eq!(called(), turn * STEPS_A_TURN);
        }
        // Those who tried to pass.
        while handshakes.end_turn() {
            handshakes.call();
        }
        assert!(handshakes.enter(task).is_none());
        assert!(!handshakes.end_turn());
    }
}
