//! A million records between two threads, with sleepers that must be woken. Waits are bounded, so that a lost wake is
//! counted instead of hanging the tests.

use super::super::{Consumer, Producer, PushError};
use super::{numbered, publish, ring};
use std::thread;
use std::time::{Duration, Instant};

/// The duration of a lost wake, far beyond any wake on a loaded machine, which may keep a thread waiting for seconds.
const LOST: Duration = Duration::from_secs(60);

/// Pushes, and counts waits that ended without a wake.
fn push(producer: &mut Producer, record: &[u8], lost: &mut usize) {
    loop {
        let (head, tail) = record.split_at(record.len() / 3);
        match producer.try_push(&[head, tail]) {
            Ok(()) => return,
            Err(PushError::Full) => {
                publish(producer);
                *lost += usize::from(!wait(|| producer.wait_room(record.len(), LOST)));
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// Whether a wake ended the wait: it succeeded before its time-out.
fn wait(wait: impl FnOnce() -> bool) -> bool {
    let start = Instant::now();
    wait() && start.elapsed() < LOST
}

/// Receives `count` records, checks them, and returns the number of lost wakes.
fn receive(consumer: &mut Consumer, count: u64, batch: u64) -> usize {
    let (mut into, mut expected, mut lost) = (Vec::new(), Vec::new(), 0);
    for number in 0..count {
        into.clear();
        while !consumer.try_pop(&mut into).unwrap() {
            lost += usize::from(!wait(|| consumer.wait(LOST)));
        }
        numbered(number, &mut expected);
        assert_eq!(into, expected);
        if number % batch == 0 {
            consumer.release();
        }
    }
    consumer.release();
    lost
}

#[test]
fn a_million_records_arrive_in_order() {
    const COUNT: u64 = 1_000_000;
    let (mut producer, mut consumer, _) = ring(16 << 10);
    let writer = thread::spawn(move || {
        let (mut record, mut lost) = (Vec::new(), 0);
        for number in 0..COUNT {
            numbered(number, &mut record);
            push(&mut producer, &record, &mut lost);
            if number % 7 == 0 {
                publish(&mut producer);
            }
        }
        publish(&mut producer);
        lost
    });
    let lost = receive(&mut consumer, COUNT, 5);
    assert_eq!((lost, writer.join().unwrap()), (0, 0));
}

/// Single records through the smallest ring that takes them: both sides sleep most of the time.
#[test]
fn no_wake_is_lost_on_a_tiny_ring() {
    const COUNT: u64 = 50_000;
    let (mut producer, mut consumer, _) = ring(2048);
    let writer = thread::spawn(move || {
        let (mut record, mut lost) = (Vec::new(), 0);
        for number in 0..COUNT {
            numbered(number, &mut record);
            push(&mut producer, &record, &mut lost);
            publish(&mut producer);
            if number % 3 == 0 {
                (0..number % 256).for_each(|_| std::hint::spin_loop());
            }
        }
        lost
    });
    let lost = receive(&mut consumer, COUNT, 1);
    assert_eq!((lost, writer.join().unwrap()), (0, 0));
}

/// One question at a time, and one answer: each side sleeps before each record.
#[test]
fn no_wake_is_lost_in_a_conversation() {
    const COUNT: u64 = 20_000;
    let (mut ask, mut asks, _) = ring(4096);
    let (mut answer, mut answers, _) = ring(4096);
    let other = thread::spawn(move || {
        let (mut record, mut lost) = (Vec::new(), 0);
        for _ in 0..COUNT {
            record.clear();
            while !asks.try_pop(&mut record).unwrap() {
                lost += usize::from(!wait(|| asks.wait(LOST)));
            }
            asks.release();
            push(&mut answer, &record, &mut lost);
            publish(&mut answer);
        }
        lost
    });
    let (mut question, mut reply, mut lost) = (Vec::new(), Vec::new(), 0);
    for number in 0..COUNT {
        numbered(number, &mut question);
        push(&mut ask, &question, &mut lost);
        publish(&mut ask);
        reply.clear();
        while !answers.try_pop(&mut reply).unwrap() {
            lost += usize::from(!wait(|| answers.wait(LOST)));
        }
        answers.release();
        assert_eq!(reply, question);
    }
    assert_eq!((lost, other.join().unwrap()), (0, 0));
}
