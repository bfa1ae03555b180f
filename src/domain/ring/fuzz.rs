//! A ring with both sides fuzzed, and a peer that writes anywhere in it.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A property that does not hold is a panic here.

use super::spec::{DATA, STRIDE, WORD_BYTES};
use super::{Consumer, Producer, PushError, Region, RingSpec};
use std::sync::Arc;
use std::sync::atomic::Ordering;

const DATA_BYTES: usize = 256;
const WORDS: usize = DATA_BYTES / WORD_BYTES;

/// Runs the steps that `data` describes: an octet names the step, and the following octets are its arguments. Without
/// scribbled words the ring must behave as a queue; after scribbling it must keep its bounds.
pub(crate) fn steps(data: &[u8]) {
    let spec = RingSpec { offset: RingSpec::ALIGN, data_bytes: DATA_BYTES };
    let region = Region::create(spec.offset + spec.total_bytes()).map(Arc::new).expect("a region");
    let mut producer = Producer::new(&region, spec).expect("a producer");
    let mut consumer = Consumer::new(&region, spec).expect("a consumer");
    let (mut pushed, mut published) = (std::collections::VecDeque::new(), 0);
    let (mut honest, mut corrupt, mut rest) = (true, false, data);
    while let Some((&step, behind)) = rest.split_first() {
        rest = behind;
        match step % 8 {
            0..=2 => {
                let length = usize::from(take(&mut rest, 1)[0]);
                let record = take_some(&mut rest, length);
                let parts = record.split_at(record.len() / 2);
                match producer.try_push(&[parts.0, parts.1]) {
                    Ok(()) => pushed.push_back(record.to_vec()),
                    Err(PushError::TooLarge) => assert!(record.len() > DATA_BYTES / 4),
                    Err(PushError::Full) => {}
                    Err(PushError::Corrupt) => assert!(!honest),
                }
            }
            3 => {
                assert!(!producer.publish() || !honest, "no side sleeps");
                published = pushed.len();
            }
            4 | 5 => {
                let mut into = vec![0xee; 3];
                let popped = consumer.try_pop(&mut into);
                assert!(into.starts_with(&[0xee; 3]) && into.len() <= 3 + DATA_BYTES / 4);
                assert!(into.len() == 3 || popped == Ok(true));
                assert!(!corrupt || popped.is_err(), "a corrupt ring stays corrupt");
                corrupt |= popped.is_err();
                if honest {
                    assert_eq!(popped, Ok(published > 0));
                    if published > 0 {
                        published -= 1;
                        assert_eq!(pushed.pop_front().as_deref(), Some(&into[3..]));
                    }
                }
            }
            6 => consumer.release(),
            _ => {
                honest = false;
                let word = usize::from(take(&mut rest, 1)[0]);
                let value = u64::from_le_bytes(take(&mut rest, 8).try_into().expect("eight bytes"));
                // Picks the four header words as often as the data words.
                let word = if word < 128 { word % 4 * STRIDE } else { DATA + word % WORDS };
                region.words()[STRIDE + word].store(value, Ordering::Relaxed);
            }
        }
    }
    // Each pop takes at least a word, so a ring without new records becomes empty.
    let ended = (0..=WORDS).any(|_| consumer.try_pop(&mut Vec::new()) != Ok(true));
    assert!(ended, "more records than words");
}

/// The next `count` bytes, padded with zeros at the end of the input.
fn take(rest: &mut &[u8], count: usize) -> Vec<u8> {
    let mut bytes = take_some(rest, count).to_vec();
    bytes.resize(count, 0);
    bytes
}

fn take_some<'a>(rest: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (taken, behind) = rest.split_at(count.min(rest.len()));
    *rest = behind;
    taken
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_steps_keep_the_bounds(data in proptest::collection::vec(any::<u8>(), 0..400)) {
            super::steps(&data);
        }
    }
}
