//! Any interleaving of operations must behave like a queue of records with a budget of words.

use super::super::{Consumer, Producer, PushError};
use super::ring;
use proptest::prelude::*;
use std::collections::VecDeque;

#[derive(Debug, Clone)]
pub(super) enum Step {
    /// The sizes of the parts of one record.
    Push(Vec<usize>),
    Publish,
    Pop,
    Release,
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => prop::collection::vec(0..40_usize, 0..5).prop_map(Step::Push),
        3 => Just(Step::Publish),
        4 => Just(Step::Pop),
        2 => Just(Step::Release),
    ]
}

const DATA_BYTES: usize = 256;

/// A model of the ring's behaviour.
#[derive(Default)]
struct Model {
    pending: VecDeque<Vec<u8>>,
    published: VecDeque<Vec<u8>>,
    /// The words in use, and how many of them a release would free.
    used: usize,
    popped: usize,
    next: u8,
}

impl Model {
    fn words(record: &[u8]) -> usize {
        1 + record.len().div_ceil(8)
    }

    fn push(&mut self, sizes: &[usize], producer: &mut Producer) -> Result<(), TestCaseError> {
        let mut fresh = || {
            self.next = self.next.wrapping_add(1);
            self.next
        };
        let parts: Vec<Vec<u8>> = sizes.iter().map(|&size| (0..size).map(|_| fresh()).collect()).collect();
        let record = parts.concat();
        let expected = if record.len() > DATA_BYTES / 4 {
            Err(PushError::TooLarge)
        } else if self.used + Self::words(&record) > DATA_BYTES / 8 {
            Err(PushError::Full)
        } else {
            Ok(())
        };
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        prop_assert_eq!(producer.try_push(&parts), expected);
        if expected.is_ok() {
            self.used += Self::words(&record);
            self.pending.push_back(record);
        }
        Ok(())
    }

    fn pop(&mut self, consumer: &mut Consumer) -> Result<(), TestCaseError> {
        prop_assert_eq!(consumer.is_empty(), self.published.is_empty());
        let mut into = vec![0xee; 3];
        let expected = self.published.pop_front();
        prop_assert_eq!(consumer.try_pop(&mut into), Ok(expected.is_some()));
        self.popped += expected.as_deref().map_or(0, Self::words);
        prop_assert_eq!(&into[..3], &[0xee; 3]);
        prop_assert_eq!(&into[3..], &expected.unwrap_or_default()[..]);
        Ok(())
    }
}

proptest! {
    #[test]
    fn the_ring_is_a_queue(steps in prop::collection::vec(step(), 0..200)) {
        let (mut producer, mut consumer, _) = ring(DATA_BYTES);
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Push(sizes) => model.push(&sizes, &mut producer)?,
                Step::Publish => {
                    prop_assert!(!producer.publish());
                    model.published.append(&mut model.pending);
                }
                Step::Pop => model.pop(&mut consumer)?,
                Step::Release => {
                    consumer.release();
                    model.used -= std::mem::take(&mut model.popped);
                }
            }
        }
    }
}
