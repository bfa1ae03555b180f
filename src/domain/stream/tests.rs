//! Pipes with an honest and with a hostile peer.

use super::pipe::{Closed, Copying, Peek, Pipe, Reader, WORDS, Writer, memory};
use super::slots::{CallSlot, Part, StreamSizes};
use super::{Answer, Home, Next};
use crate::domain::ring::Region;
use proptest::prelude::*;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

const CAPACITY: usize = 4096;

fn pipe() -> (Arc<Region>, Pipe) {
    let region = Arc::new(Region::create(2 * CAPACITY).unwrap());
    let pipe = Pipe::new(&region, 0, CAPACITY..2 * CAPACITY).unwrap();
    (region, pipe)
}

fn drain(reader: &mut Reader, count: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < count {
        let range = reader.take(count - bytes.len());
        bytes.extend(memory(reader.pipe()).load_any(range));
    }
    bytes
}

proptest! {
    #[test]
    fn bytes_come_out_as_they_went_in(steps in proptest::collection::vec((0..CAPACITY + 9, 0..CAPACITY + 9, any::<bool>()), 1..40)) {
        let (_region, pipe) = pipe();
        let (mut sent, mut next) = (Vec::new(), 0_u8);
        let (mut read, mut released) = (Vec::new(), 0);
        let copying = if steps.len() % 2 == 0 { Copying::Mapped } else { Copying::Written };
        let (mut writer, mut reader) = (Writer::new(pipe.clone(), copying), Reader::new(pipe));
        for (put, take, release) in steps {
            let bytes: Vec<u8> = (0..put).map(|_| { next = next.wrapping_add(1); next }).collect();
            let count = writer.put(&bytes).unwrap();
            sent.extend_from_slice(&bytes[..count]);
            next = sent.last().copied().unwrap_or(0);
            if let Ok(Peek::Bytes(there)) = reader.peek(released) {
                prop_assert_eq!(there, sent.len() - read.len());
                read.extend(drain(&mut reader, there.min(take)));
            }
            if release {
                released = reader.at();
                let _ = reader.release(released, false);
            }
        }
        writer.end(None);
        while let Ok(Peek::Bytes(there)) = reader.peek(released) {
            read.extend(drain(&mut reader, there));
        }
        prop_assert_eq!(reader.peek(released), Ok(Peek::Ended));
        prop_assert_eq!(read, sent);
    }

    #[test]
    fn a_hostile_peer_is_found_out_or_gives_garbage(words in proptest::collection::vec(any::<u64>(), WORDS), small in any::<bool>()) {
        let (region, pipe) = pipe();
        let mut writer = Writer::new(pipe.clone(), Copying::Mapped);
        let mut reader = Reader::new(pipe);
        writer.put(b"hello").unwrap();
        for (at, word) in words.iter().enumerate() {
            let word = if small { word % 3 * CAPACITY as u64 / 2 } else { *word };
            region.words_at(0, WORDS).unwrap()[at].store(word, Ordering::Relaxed);
        }
        // The reader must neither panic nor leave the ring.
        if let Ok(Peek::Bytes(count)) = reader.peek(0) {
            prop_assert!(count <= CAPACITY);
            let range = reader.take(count);
            prop_assert!(range.start >= CAPACITY && range.end <= 2 * CAPACITY, "{:?}", range);
        }
        if let Ok(room) = writer.room() {
            prop_assert!(room <= CAPACITY);
        }
        let _ = writer.put(&[7; 99]);
    }
}

#[test]
fn a_stream_that_keeps_up_uses_the_first_bytes_of_its_memory_only() {
    let (region, pipe) = pipe();
    let (mut writer, mut reader) = (Writer::new(pipe.clone(), Copying::Mapped), Reader::new(pipe));
    for round in 0..1000_u64 {
        assert_eq!(writer.put(&[1; 100]), Ok(100));
        assert_eq!(reader.peek(round * 100), Ok(Peek::Bytes(100)));
        assert_eq!(reader.take(100), CAPACITY..CAPACITY + 100);
        let _ = reader.release(reader.at(), false);
    }
    assert!(region.load_any(CAPACITY + 100..2 * CAPACITY).iter().all(|byte| *byte == 0));
}

/// The notices about slots.
#[derive(Default)]
struct Ears(Mutex<Vec<(u32, bool)>>);

impl Home for Ears {
    fn over(&self, slot: u32) {
        self.0.lock().unwrap().push((slot, true));
    }

    fn room(&self, slot: u32) {
        self.0.lock().unwrap().push((slot, false));
    }
}

#[test]
fn room_comes_back_in_order_and_the_slot_when_the_last_piece_is_sent() {
    let sizes = StreamSizes { calls_max: 1, buffer_bytes: 1 << 18, answers_max: 2 };
    let region = Arc::new(Region::create(sizes.bytes()).unwrap());
    let part = Part::new(&region, 0, sizes);
    let ears = Arc::new(Ears::default());
    let slot = part.answers().take().unwrap();
    assert!(part.is_for_answers(slot) && !part.is_for_answers(0) && !part.is_for_answers(slot + 2));
    let pipe = part.down(slot).unwrap();
    let mut writer = Writer::new(pipe.clone(), Copying::Mapped);
    let mut answer = Answer::new(pipe, slot, None, Arc::clone(&ears) as _);
    assert!(matches!(answer.next(1 << 20), Next::Empty));
    writer.put(&vec![1; 60_000]).unwrap();
    assert!(writer.take_reader(), "the reader has announced that it waits");
    let Next::Lent(large) = answer.next(40_000) else { panic!() };
    // A small piece after a piece that is still to be sent.
    let Next::Lent(small) = answer.next(10) else { panic!() };
    writer.await_room();
    assert_eq!(large.len() + small.len(), 40_010);
    assert_eq!(writer.room().unwrap(), 64 * 1024 - 60_000);
    drop(large);
    drop(small);
    assert_eq!(writer.room().unwrap(), 64 * 1024 - 60_000 + 40_010);
    assert_eq!(*ears.0.lock().unwrap(), [(slot, false)]);
    let Next::Lent(rest) = answer.next(1 << 20) else { panic!() };
    drop(answer);
    assert_eq!(ears.0.lock().unwrap().len(), 1, "a piece is still to be sent");
    drop(rest);
    assert_eq!(ears.0.lock().unwrap().last(), Some(&(slot, true)));
    assert_eq!(writer.room(), Err(Closed::Gone(libc::ECONNRESET)));
    writer.end(None);
    assert_eq!(writer.put(b"late"), Err(Closed::Gone(libc::EPIPE)), "nothing is written behind the end");
}

#[test]
fn slots_are_given_out_once_and_come_back() {
    let sizes = StreamSizes { calls_max: 2, buffer_bytes: 1 << 18, answers_max: 2 };
    let region = Arc::new(Region::create(sizes.bytes()).unwrap());
    let part = Part::new(&region, 0, sizes);
    let calls = Arc::new(part.calls());
    let (one, two) = (CallSlot::take(&part, &calls).unwrap(), CallSlot::take(&part, &calls).unwrap());
    assert_ne!(one.number(), two.number());
    assert!(CallSlot::take(&part, &calls).is_none());
    let number = one.number();
    drop(one);
    assert_eq!(CallSlot::take(&part, &calls).map(|slot| slot.number()), Some(number));
    let answers = part.answers();
    let answer = answers.take().unwrap();
    assert!(!answers.give_half(answer), "the writer may still be writing");
    assert!(answers.take().is_some_and(|other| other != answer) && answers.take().is_none());
    assert!(answers.give_half(answer));
    answers.give(answer);
    assert_eq!(answers.take(), Some(answer));
    assert!(part.up(2).is_none() && part.down(4).is_none() && part.down(u32::MAX).is_none());
}

#[test]
fn what_a_waiting_side_is_told_is_never_lost() {
    const BYTES: usize = 3_000_000;
    let (_region, pipe) = pipe();
    let (mut writer, mut reader) = (Writer::new(pipe.clone(), Copying::Mapped), Reader::new(pipe));
    // Longer than any test runs, so that a lost wake fails the test.
    let limit = std::time::Duration::from_secs(600);
    let sender = std::thread::spawn(move || {
        let bytes: Vec<u8> = (0..BYTES).map(|at| (at % 251) as u8).collect();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let count = writer.put(&rest[..rest.len().min(997)]).unwrap();
            rest = &rest[count..];
            writer.wake_reader();
            if count == 0 {
                writer.await_room();
                if writer.room().unwrap() == 0 {
                    writer.sleep(limit);
                }
                writer.awake();
            }
        }
        writer.end(None);
        writer.wake_reader();
    });
    let mut read = 0;
    loop {
        match reader.peek(read as u64).unwrap() {
            Peek::Bytes(count) => {
                for byte in drain(&mut reader, count) {
                    assert_eq!(byte, (read % 251) as u8);
                    read += 1;
                }
                let _ = reader.release(reader.at(), true);
            }
            Peek::Empty => {
                reader.await_bytes();
                if reader.peek(read as u64) == Ok(Peek::Empty) {
                    reader.sleep(limit);
                }
                reader.awake();
            }
            Peek::Ended => break,
            Peek::Failed(errno) => panic!("{errno}"),
        }
    }
    assert_eq!(read, BYTES);
    sender.join().unwrap();
}

#[test]
fn trailer_fields_follow_the_body_and_a_position_that_came_early_is_no_lie() {
    let (_region, pipe) = pipe();
    let (mut writer, mut reader) = (Writer::new(pipe.clone(), Copying::Mapped), Reader::new(pipe.clone()));
    writer.put(b"body").unwrap();
    // As if the writer had continued after the reader looked at its position.
    pipe.spoil(7, 10);
    assert_eq!(reader.peek(0), Ok(Peek::Bytes(4)));
    assert_eq!(drain(&mut reader, 4), b"body");
    writer.put(b"more!").unwrap();
    writer.trailers_follow();
    writer.put(b"X: y\r\n").unwrap();
    assert_eq!(reader.peek(0), Ok(Peek::Bytes(5)));
    assert_eq!(drain(&mut reader, 5), b"more!");
    assert_eq!(reader.peek(0), Ok(Peek::Empty), "not ended yet");
    writer.end(None);
    assert_eq!(reader.peek(0), Ok(Peek::Ended));
    assert_eq!(reader.trailers(), b"X: y\r\n");
}
