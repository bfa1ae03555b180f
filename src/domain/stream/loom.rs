//! Every interleaving of the two sides of a pipe of a few bytes. Written bytes must arrive, sleeping sides must be
//! woken, and the end of a side must be noticed. How to run: `ring/alone/lib.rs`.
//!
//! The handler's side sleeps on a futex of the pipe. The shard never sleeps there: it raises its flag and goes on, and a
//! notice (here a [`Notify`]) tells it to look again. Waits have no time-out, so a lost wake is a deadlock.

use super::pipe::{self, Closed, Copying, Peek, Pipe, Reader, Writer};
use crate::domain::ring::Region;
use loom::sync::Notify;
use loom::thread;
use std::sync::Arc;
use std::time::Duration;

/// Under loom, waits never time out.
const EVER: Duration = Duration::MAX;

/// The bytes of the ring.
const CAPACITY: usize = 2;

fn pipe() -> Pipe {
    let region = Arc::new(Region::of_pipe(CAPACITY));
    Pipe::new(&region, 0, 8 * pipe::WORDS..8 * pipe::WORDS + CAPACITY).unwrap()
}

fn explore(preemptions: Option<usize>, test: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = preemptions;
    model.check(test);
}

/// Takes up to `count` bytes, which must be there.
fn taken(reader: &mut Reader, count: usize) -> Vec<u8> {
    let range = reader.take(count);
    pipe::memory(reader.pipe()).load_any(range)
}

/// Like a handler that reads a body (`call::await_body`, `read`): `None` at its end.
fn read(reader: &mut Reader, released: &mut u64, notice: &Notify) -> Result<Option<Vec<u8>>, i32> {
    loop {
        match reader.peek(*released).unwrap() {
            Peek::Bytes(count) => {
                let bytes = taken(reader, count);
                *released = reader.at();
                if reader.release(*released, false) {
                    notice.notify();
                }
                return Ok(Some(bytes));
            }
            Peek::Ended => return Ok(None),
            Peek::Failed(errno) => return Err(errno),
            Peek::Empty => {}
        }
        reader.await_bytes();
        if reader.peek(*released) == Ok(Peek::Empty) {
            reader.sleep(EVER);
        }
        reader.awake();
    }
}

/// Like a shard that passes on a body (`upload::Upload::room`, `put`): false if the handler takes no more.
fn upload(writer: &mut Writer, mut bytes: &[u8], notice: &Notify) -> bool {
    while !bytes.is_empty() {
        let room = match writer.room() {
            Ok(0) => {
                writer.await_room();
                match writer.room() {
                    Ok(0) => {
                        notice.wait();
                        continue;
                    }
                    Ok(room) => {
                        writer.awake();
                        room
                    }
                    Err(_) => return false,
                }
            }
            Ok(room) => room,
            Err(_) => return false,
        };
        let (now, later) = bytes.split_at(room.min(bytes.len()));
        let put = writer.put(now);
        writer.wake_reader();
        if put != Ok(now.len()) {
            return false;
        }
        bytes = later;
    }
    true
}

/// Like a handler that writes its answer (`call::write`).
fn write(writer: &mut Writer, bytes: &[u8], notice: &Notify) -> Result<(), Closed> {
    let mut rest = bytes;
    loop {
        let count = writer.put(rest)?;
        rest = &rest[count..];
        if count > 0 && writer.take_reader() {
            notice.notify();
        }
        if rest.is_empty() {
            return Ok(());
        }
        writer.await_room();
        if writer.room()? == 0 {
            writer.sleep(EVER);
        }
        writer.awake();
    }
}

/// Like a shard that takes an answer (`answer::Answer::next`): all available bytes, `None` at the end. Notifies `room` if
/// the writer, which sleeps elsewhere, must be told.
fn next(reader: &mut Reader, released: &mut u64, notice: &Notify, room: &Notify) -> Option<Vec<u8>> {
    loop {
        let mut found = reader.peek(*released).unwrap();
        if found == Peek::Empty {
            reader.await_bytes();
            found = reader.peek(*released).unwrap();
            if found != Peek::Empty {
                reader.awake();
            }
        }
        match found {
            Peek::Bytes(count) => {
                let bytes = taken(reader, count);
                *released = reader.at();
                if pipe::give_back(reader.pipe(), *released) {
                    room.notify();
                }
                return Some(bytes);
            }
            Peek::Empty => notice.wait(),
            Peek::Ended | Peek::Failed(_) => return None,
        }
    }
}

fn bell() -> (Arc<Notify>, Arc<Notify>) {
    let bell = Arc::new(Notify::new());
    (Arc::clone(&bell), bell)
}

#[test]
fn a_body_arrives_whole_and_both_sides_are_woken() {
    explore(Some(3), || {
        let pipe = pipe();
        let (mut writer, mut reader) = (Writer::new(pipe.clone(), Copying::Written), Reader::new(pipe));
        let (shard, handler) = bell();
        let client = thread::spawn(move || {
            assert!(upload(&mut writer, b"abcde", &shard));
            writer.end(None);
            writer.wake_reader();
        });
        let (mut seen, mut released) = (Vec::new(), 0);
        while let Some(bytes) = read(&mut reader, &mut released, &handler).unwrap() {
            seen.extend(bytes);
        }
        assert_eq!(seen, b"abcde");
        client.join().unwrap();
    });
}

#[test]
fn a_client_that_leaves_wakes_the_handler_that_waits_for_its_body() {
    explore(None, || {
        let pipe = pipe();
        let (mut writer, mut reader) = (Writer::new(pipe.clone(), Copying::Written), Reader::new(pipe));
        let (shard, handler) = bell();
        let client = thread::spawn(move || {
            assert!(upload(&mut writer, b"a", &shard));
            writer.end(Some(104));
            writer.wake_reader();
        });
        let mut released = 0;
        assert_eq!(read(&mut reader, &mut released, &handler), Ok(Some(b"a".to_vec())), "bytes before the end are not lost");
        assert_eq!(read(&mut reader, &mut released, &handler), Err(104));
        client.join().unwrap();
    });
}

#[test]
fn an_answer_arrives_whole_and_both_sides_are_woken() {
    explore(Some(3), || {
        let pipe = pipe();
        let (mut writer, mut reader) = (Writer::new(pipe.clone(), Copying::Mapped), Reader::new(pipe));
        let ((handler, shard), nobody) = (bell(), Notify::new());
        let module = thread::spawn(move || {
            write(&mut writer, b"abcde", &handler).unwrap();
            writer.end(None);
            if writer.take_reader() {
                handler.notify();
            }
        });
        let (mut seen, mut released) = (Vec::new(), 0);
        while let Some(bytes) = next(&mut reader, &mut released, &shard, &nobody) {
            seen.extend(bytes);
        }
        assert_eq!(seen, b"abcde");
        module.join().unwrap();
    });
}

#[test]
fn a_reader_that_leaves_wakes_the_writer_that_waits_for_room() {
    explore(None, || {
        let pipe = pipe();
        let mut writer = Writer::new(pipe.clone(), Copying::Mapped);
        let module = thread::spawn(move || write(&mut writer, b"abc", &Notify::new()));
        pipe.leave(104);
        assert_eq!(module.join().unwrap(), Err(Closed::Gone(104)));
    });
}

/// A detached answer: its writer never sleeps; a callback tells it of room (`Down::write_all`).
#[test]
fn a_detached_writer_is_told_of_room() {
    explore(Some(3), || {
        let pipe = pipe();
        let (mut writer, mut reader) = (Writer::new(pipe.clone(), Copying::Mapped), Reader::new(pipe));
        let ((handler, shard), (room, told)) = (bell(), bell());
        let module = thread::spawn(move || {
            for record in [b"ab", b"cd", b"ef"] {
                loop {
                    let mut fits = writer.room().unwrap() >= record.len();
                    if !fits {
                        writer.await_room();
                        fits = writer.room().unwrap() >= record.len();
                        if !fits {
                            // CWEB_AGAIN, until the callback for room.
                            told.wait();
                            continue;
                        }
                        writer.awake();
                    }
                    assert_eq!(writer.put(record), Ok(record.len()));
                    if writer.take_reader() {
                        handler.notify();
                    }
                    break;
                }
            }
            writer.end(None);
            if writer.take_reader() {
                handler.notify();
            }
        });
        let (mut seen, mut released) = (Vec::new(), 0);
        while let Some(bytes) = next(&mut reader, &mut released, &shard, &room) {
            seen.extend(bytes);
        }
        assert_eq!(seen, b"abcdef");
        module.join().unwrap();
    });
}

#[test]
fn trailer_fields_are_told_from_the_body() {
    explore(Some(3), || {
        let pipe = pipe();
        let (mut writer, mut reader) = (Writer::new(pipe.clone(), Copying::Mapped), Reader::new(pipe));
        let ((handler, shard), nobody) = (bell(), Notify::new());
        let module = thread::spawn(move || {
            write(&mut writer, b"a", &handler).unwrap();
            write(&mut writer, b"b", &handler).unwrap();
            writer.trailers_follow();
            write(&mut writer, b"t", &handler).unwrap();
            writer.end(None);
            if writer.take_reader() {
                handler.notify();
            }
        });
        let (mut seen, mut released) = (Vec::new(), 0);
        while let Some(bytes) = next(&mut reader, &mut released, &shard, &nobody) {
            seen.extend(bytes);
        }
        assert_eq!((seen.as_slice(), reader.trailers().as_slice()), (b"ab".as_slice(), b"t".as_slice()));
        module.join().unwrap();
    });
}
