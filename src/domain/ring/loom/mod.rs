//! Every interleaving of a producer and a consumer on a ring of eight words. How to run: `alone/lib.rs`.

use super::{Consumer, Producer, PushError, Region, RingSpec};
use loom::thread;
use std::sync::Arc;
use std::time::Duration;

/// Under loom, waits never time out.
const EVER: Duration = Duration::MAX;

fn ring() -> (Producer, Consumer) {
    let spec = RingSpec { offset: 0, data_bytes: 64 };
    let region = Arc::new(Region::create(spec.total_bytes()).unwrap());
    (Producer::new(&region, spec).unwrap(), Consumer::new(&region, spec).unwrap())
}

fn explore(preemptions: Option<usize>, test: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = preemptions;
    model.check(test);
}

fn publish(producer: &mut Producer) {
    if producer.publish() {
        producer.wake();
    }
}

/// Pushes a record, and waits for room if necessary.
fn push(producer: &mut Producer, record: &[u8]) {
    while producer.try_push(&[record]) == Err(PushError::Full) {
        assert!(producer.wait_room(record.len(), EVER));
    }
    publish(producer);
}

/// Pops a record, and waits for one if necessary.
fn pop(consumer: &mut Consumer) -> Vec<u8> {
    let mut record = Vec::new();
    while !consumer.try_pop(&mut record).unwrap() {
        assert!(consumer.wait(EVER));
    }
    record
}

#[test]
fn what_is_announced_is_complete() {
    explore(None, || {
        let (mut producer, mut consumer) = ring();
        let writer = thread::spawn(move || {
            producer.try_push(&[b"one"]).unwrap();
            producer.try_push(&[b"two"]).unwrap();
            publish(&mut producer);
            producer.try_push(&[b"three"]).unwrap();
            publish(&mut producer);
        });
        let mut seen = Vec::new();
        for _ in 0..3 {
            consumer.try_pop(&mut seen).unwrap();
        }
        assert!([&b""[..], b"one", b"onetwo", b"onetwothree"].contains(&&seen[..]));
        writer.join().unwrap();
    });
}

#[test]
fn a_sleeping_consumer_is_woken() {
    explore(None, || {
        let (mut producer, mut consumer) = ring();
        let writer = thread::spawn(move || {
            push(&mut producer, b"1");
            push(&mut producer, b"2");
        });
        assert_eq!(pop(&mut consumer), b"1");
        assert_eq!(pop(&mut consumer), b"2");
        writer.join().unwrap();
    });
}

/// Three records of three words don't fit into eight words, so the producer waits for room, and the third record wraps
/// around.
#[test]
fn a_producer_gets_its_room_and_spoils_nothing() {
    explore(Some(3), || {
        let (mut producer, mut consumer) = ring();
        let writer = thread::spawn(move || {
            for record in [[1; 9], [2; 9], [3; 9]] {
                push(&mut producer, &record);
            }
        });
        for record in [[1; 9], [2; 9], [3; 9]] {
            assert_eq!(pop(&mut consumer), record);
        }
        writer.join().unwrap();
    });
}

/// Like a shard: takes all records, then releases once.
#[test]
fn batches_are_released_at_once() {
    explore(Some(3), || {
        let (mut producer, mut consumer) = ring();
        let writer = thread::spawn(move || {
            for record in 1..=5 {
                push(&mut producer, &[record]);
            }
        });
        let mut seen = Vec::new();
        while seen.len() < 5 {
            while consumer.try_pop(&mut seen).unwrap() {}
            consumer.release();
            assert!(seen.len() == 5 || consumer.wait(EVER));
        }
        assert_eq!(seen, [1, 2, 3, 4, 5]);
        writer.join().unwrap();
    });
}

/// Like a shard that sends: it never sleeps on the ring but in its reactor, which a doorbell wakes.
#[test]
fn a_producer_that_sleeps_elsewhere_is_told_of_room() {
    explore(Some(3), || {
        let (mut producer, mut consumer) = ring();
        let bell = Arc::new(loom::sync::Notify::new());
        let shard = Arc::clone(&bell);
        let writer = thread::spawn(move || {
            for record in [[1; 9], [2; 9], [3; 9], [4; 9]] {
                while producer.try_push(&[&record]) == Err(PushError::Full) {
                    if !producer.await_room(record.len()) {
                        shard.wait();
                    }
                }
                publish(&mut producer);
            }
        });
        let mut seen = Vec::new();
        while seen.len() < 36 {
            while consumer.try_pop(&mut seen).unwrap() {}
            if consumer.release_told() {
                bell.notify();
            }
            assert!(seen.len() == 36 || consumer.wait(EVER));
        }
        assert!(seen.chunks(9).zip(1..).all(|(record, n)| record == [n; 9]));
        writer.join().unwrap();
    });
}
