//! A peer that writes anything anywhere. The results must come in bounded time and size, and in order.

use super::super::spec::{ASLEEP, DATA, HEAD, STRIDE, TAIL, WAITING, record_header};
use super::super::{Consumer, Corrupt, Producer, PushError, Region, RingSpec};
use super::property::{Step, step};
use super::{publish, ring};
use proptest::prelude::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const DATA_BYTES: usize = 256;
const WORDS: u64 = DATA_BYTES as u64 / 8;

/// Overwrites a word of the ring that `ring` made.
fn scribble(region: &Region, word: usize, value: u64) {
    region.words()[STRIDE + word].store(value, Ordering::Relaxed);
}

fn header(position: u64, bytes: usize) -> u64 {
    u64::from_le_bytes(record_header(position, bytes))
}

#[test]
fn a_tail_that_no_producer_can_announce_is_corrupt_for_ever() {
    for tail in [WORDS + 1, u64::MAX, 1 << 63, u64::from(u32::MAX)] {
        let (_, mut consumer, region) = ring(DATA_BYTES);
        scribble(&region, TAIL, tail);
        assert!(!consumer.is_empty() && consumer.wait(Duration::from_secs(9)));
        assert_eq!(consumer.try_pop(&mut Vec::new()), Err(Corrupt));
        scribble(&region, TAIL, 0);
        assert_eq!(consumer.try_pop(&mut Vec::new()), Err(Corrupt));
        assert!(!consumer.is_empty() && consumer.wait(Duration::from_secs(9)));
    }
}

#[test]
fn a_tail_that_goes_back_is_corrupt() {
    let (mut producer, mut consumer, region) = ring(DATA_BYTES);
    producer.try_push(&[b"123456789"]).unwrap();
    publish(&mut producer);
    assert_eq!(consumer.try_pop(&mut Vec::new()), Ok(true));
    scribble(&region, TAIL, 2);
    assert_eq!(consumer.try_pop(&mut Vec::new()), Err(Corrupt));
}

#[test]
fn a_tail_beyond_what_was_released_is_corrupt() {
    let (mut producer, mut consumer, region) = ring(DATA_BYTES);
    producer.try_push(&[b"1"]).unwrap();
    publish(&mut producer);
    assert_eq!(consumer.try_pop(&mut Vec::new()), Ok(true));
    scribble(&region, TAIL, WORDS + 1);
    assert_eq!(consumer.try_pop(&mut Vec::new()), Err(Corrupt));
}

#[test]
fn a_length_beyond_its_bounds_is_corrupt() {
    // Beyond a quarter of the ring, beyond the announced words, beyond everything; then a header of another position.
    for (tail, header) in [
        (WORDS, header(0, DATA_BYTES / 4 + 1)),
        (2, header(0, 9)),
        (WORDS, header(0, u32::MAX as usize)),
        (WORDS, header(1, 8)),
        (WORDS, u64::MAX),
    ] {
        let (_, mut consumer, region) = ring(DATA_BYTES);
        scribble(&region, DATA, header);
        scribble(&region, TAIL, tail);
        let mut into = vec![1];
        assert_eq!(consumer.try_pop(&mut into), Err(Corrupt), "{tail} {header:x}");
        assert_eq!(into, [1]);
    }
}

#[test]
fn a_head_that_no_consumer_can_announce_is_corrupt_for_ever() {
    for head in [WORDS + 1, u64::MAX, 1 << 63] {
        let (mut producer, _, region) = ring(DATA_BYTES);
        while producer.try_push(&[b"1"]).is_ok() {}
        publish(&mut producer);
        scribble(&region, HEAD, head);
        assert_eq!(producer.try_push(&[b"1"]), Err(PushError::Corrupt));
        scribble(&region, HEAD, WORDS);
        assert_eq!(producer.try_push(&[]), Err(PushError::Corrupt));
        assert!(producer.wait_room(1, Duration::from_secs(9)), "a corrupt ring ends the wait");
    }
}

#[test]
fn a_head_beyond_what_was_published_is_corrupt() {
    let (mut producer, _, region) = ring(DATA_BYTES);
    producer.try_push(&[b"1"]).unwrap();
    publish(&mut producer);
    while producer.try_push(&[b"1"]).is_ok() {}
    scribble(&region, HEAD, 4);
    assert_eq!(producer.try_push(&[b"1"]), Err(PushError::Corrupt));
}

#[test]
fn sleep_words_of_any_value_do_not_prolong_a_wait() {
    let (mut producer, mut consumer, region) = ring(DATA_BYTES);
    let done = AtomicBool::new(false);
    while producer.try_push(&[b"1"]).is_ok() {}
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut value = 0_u64;
            while !done.load(Ordering::Relaxed) {
                value = value.wrapping_add(0x8000_0001);
                scribble(&region, ASLEEP, value);
                scribble(&region, WAITING, value);
                wake_both(&region);
            }
        });
        let start = Instant::now();
        assert!(!consumer.wait(Duration::from_millis(20)));
        assert!(!producer.wait_room(8, Duration::from_millis(20)));
        done.store(true, Ordering::Relaxed);
        assert!(start.elapsed() < Duration::from_secs(60));
    });
}

fn wake_both(region: &Region) {
    region.wake(STRIDE + ASLEEP);
    region.wake(STRIDE + WAITING);
}

/// One step of both sides on a ring with arbitrary content; only the bounds must hold.
fn bounded_step(step: &Step, producer: &mut Producer, consumer: &mut Consumer) -> Result<(), TestCaseError> {
    match step {
        Step::Push(sizes) => {
            let parts: Vec<Vec<u8>> = sizes.iter().map(|&size| vec![0xab; size]).collect();
            let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
            let _ = producer.try_push(&parts);
        }
        Step::Publish => publish(producer),
        Step::Pop => {
            let mut into = Vec::new();
            let popped = consumer.try_pop(&mut into);
            prop_assert!(into.len() <= DATA_BYTES / 4);
            prop_assert!(into.is_empty() || popped == Ok(true));
            let _ = consumer.is_empty();
        }
        Step::Release => consumer.release(),
    }
    Ok(())
}

/// Values near meaningful ones, and arbitrary ones.
fn value() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..=2 * WORDS,
        any::<u64>(),
        (0..=2 * WORDS, 0..=DATA_BYTES).prop_map(|(position, bytes)| header(position, bytes)),
    ]
}

proptest! {
    #[test]
    fn scribbling_between_steps_harms_nobody(
        steps in prop::collection::vec((step(), prop::option::weighted(0.2, (0..200_usize, value()))), 0..200),
    ) {
        let (mut producer, mut consumer, region) = ring(DATA_BYTES);
        for (step, scribbled) in steps {
            bounded_step(&step, &mut producer, &mut consumer)?;
            if let Some((word, value)) = scribbled {
                // Picks the four header words as often as the data words.
                let word = if word < 100 { word % 4 * STRIDE } else { DATA + word % WORDS as usize };
                scribble(&region, word, value);
            }
        }
        // Each pop takes at least a word, so a ring without new records becomes empty.
        let mut into = Vec::new();
        for _ in 0..=WORDS {
            if consumer.try_pop(&mut into) != Ok(true) {
                return Ok(());
            }
        }
        prop_assert!(false, "more records than words");
    }
}

/// A peer scribbles while both sides work; corrupt rings are replaced, as a supervisor would do it.
#[test]
fn scribbling_at_any_time_harms_nobody() {
    let begun = Instant::now();
    let (mut corrupt, mut popped) = (0, 0);
    for round in 1_u64.. {
        // On a busy machine the peer may be late.
        let has_both = corrupt > 0 && popped > 0;
        if begun.elapsed() > Duration::from_secs(if has_both { 0 } else { 60 }) + Duration::from_millis(300) {
            break;
        }
        let (mut producer, mut consumer, region) = ring(DATA_BYTES);
        let done = Arc::new(AtomicBool::new(false));
        let peer = {
            let (done, mut random) = (Arc::clone(&done), round);
            thread::spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(round);
                    let word = (random >> 33) as usize % (DATA + WORDS as usize);
                    let value = region.words()[STRIDE + word].load(Ordering::Relaxed);
                    // One byte is changed, so that some of the results are plausible.
                    scribble(&region, word, value ^ ((random & 0xff) << ((random >> 60 & 7) * 8)));
                }
            })
        };
        let mut into = Vec::new();
        for number in 0..2_000_usize {
            let pushed = producer.try_push(&[&[number as u8; 64][..number % 65]]);
            publish(&mut producer);
            into.clear();
            match consumer.try_pop(&mut into) {
                Ok(found) => popped += usize::from(found),
                Err(Corrupt) => {
                    corrupt += 1;
                    break;
                }
            }
            assert!(into.len() <= DATA_BYTES / 4);
            consumer.release();
            if pushed == Err(PushError::Corrupt) {
                break;
            }
        }
        done.store(true, Ordering::Relaxed);
        peer.join().unwrap();
    }
    assert!(corrupt > 0 && popped > 0, "{corrupt} corrupt, {popped} popped");
}

#[test]
fn an_overlapping_ring_is_garbage_at_worst() {
    let region = Arc::new(Region::create(4096).unwrap());
    let spec = |offset| RingSpec { offset, data_bytes: 1024 };
    let mut one = Producer::new(&region, spec(0)).unwrap();
    let mut other = Consumer::new(&region, spec(RingSpec::ALIGN)).unwrap();
    for _ in 0..1_000 {
        let _ = one.try_push(&[&[1; 100]]);
        publish(&mut one);
        let _ = other.try_pop(&mut Vec::new());
        other.release();
    }
}
