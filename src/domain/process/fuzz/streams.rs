//! A hostile process with streams: it writes records, and anything into the memory of its streams, while the shard takes
//! answers, passes on bodies and loses clients.

use super::super::arena::Parts;
use super::super::endpoints::{CallTable, Ends};
use super::{Fate, Held, any_meta, check_answer, module, pair};
use crate::abi::manifest::Manifest;
use crate::domain::call::{GenerationRef, OwnedRequest, Task};
use crate::domain::module_message::ModuleMessage;
use crate::domain::ring::{Consumer, Producer};
use crate::domain::stream::running::Reason;
use crate::domain::stream::slots::Part;
use crate::domain::stream::{Answer, Full, Next, StreamStart, Upload};
use crate::fuzzing::Random;
use crate::net::ConnId;
use crate::net::fuzz::conn_ids;
use crate::proto::http1::{Decoded, Limits, RequestDecoder};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The number of calls in flight with a slot of their own, and of those without. Their tickets are 1 and up, with the
/// highest bit set.
const CALLS: usize = 3;

/// Time limit of a handler.
const LIMIT_MS: u64 = 30_000;

/// One request.
struct Asked {
    conn: ConnId,
    is_over: bool,
    has_begun: bool,
    upload: Option<Upload>,
    answer: Option<Answer>,
}

/// The state of a run.
pub(crate) struct HostileStreams {
    calls: CallTable,
    request_ring: Consumer,
    producer: Producer,
    fate: Fate,
    part: Part,
    asked: Vec<Asked>,
    now_ms: u64,
}

/// Takes the next octets of the input; 0 after its end.
struct Steps<'a>(&'a [u8]);

impl Steps<'_> {
    fn octet(&mut self) -> usize {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        usize::from(*first)
    }

    fn octets(&mut self, count: usize) -> &[u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn number(&mut self) -> u64 {
        self.octets(8).iter().rev().fold(0, |sum, octet| sum << 8 | u64::from(*octet))
    }
}

impl HostileStreams {
    pub(crate) fn new(mut random: Random) -> Self {
        let fate = Fate::default();
        let (link, request_ring, producer, bodies) = pair([256 * 1024; 2], fate.clone());
        let part = Parts::new(1, Ends::BUDGETS).streams(&bodies, 0);
        let mut calls = CallTable::new(0, 0);
        calls.up(link);
        let hold: Arc<dyn GenerationRef> = Arc::new(Held(module(Manifest::default())));
        let mut asked = Vec::new();
        for (number, conn) in conn_ids(2 * CALLS).into_iter().enumerate() {
            let mut decoder = RequestDecoder::new(Limits::default());
            let Ok(Decoded::Request { view, .. }) = decoder.decode(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n") else {
                panic!("a request")
            };
            let slot = (number < CALLS).then(|| calls.take_call_slot().expect("a slot"));
            let upload = slot.as_ref().map(Upload::new);
            let stream = slot.map(|slot| Box::new(StreamStart { slot, length: None, expects_continue: true }));
            let (request, meta, seq) = (OwnedRequest::copy(&view), any_meta(&mut random), number as u64);
            calls.submit(Arc::clone(&hold), false, Task::Request { conn, seq, route: 0, request, meta, stream });
            asked.push(Asked { conn, is_over: false, has_begun: false, upload, answer: None });
        }
        calls.flush();
        Self { calls, request_ring, producer, fate, part, asked, now_ms: 0 }
    }

    /// Runs the steps in `data`, and ends the process.
    pub(crate) fn run(mut self, data: &[u8]) {
        let mut steps = Steps(data);
        while !steps.0.is_empty() {
            match steps.octet() % 8 {
                0..=2 => {
                    let count = steps.octet();
                    let record = steps.octets(count).to_vec();
                    self.send(&record);
                }
                3 => self.scribble(&mut steps),
                4 => self.take(steps.octet(), 1 + 1024 * steps.octet()),
                5 => self.hand_over(steps.octet(), 512 * steps.octet()),
                6 => self.leave(steps.octet()),
                _ => self.wait(100 * steps.octet() as u64),
            }
        }
        self.end();
    }

    fn send(&mut self, record: &[u8]) {
        if self.producer.try_push(&[record]).is_ok() {
            let _ = self.producer.publish();
        }
        self.exchange();
    }

    fn exchange(&mut self) {
        let mut messages = Vec::new();
        self.calls.poll(4096, &mut messages);
        self.check(messages);
        self.calls.flush();
        let mut record = Vec::new();
        while self.request_ring.try_pop(&mut record).expect("the server writes rings as it must") {
            record.clear();
        }
        self.request_ring.release();
    }

    /// The process writes a word of a pipe.
    fn scribble(&mut self, steps: &mut Steps<'_>) {
        let (slot, word) = (steps.octet() as u32, steps.octet());
        let value = steps.number();
        let pipe = if word & 0x80 == 0 { self.part.down(slot) } else { self.part.up(slot) };
        if let Some(pipe) = pipe {
            pipe.spoil(word, value);
        }
    }

    /// The client takes bytes of an answer.
    fn take(&mut self, number: usize, bytes_max: usize) {
        let Some(asked) = self.asked.get_mut(number % (2 * CALLS)) else { return };
        let Some(answer) = &mut asked.answer else { return };
        let capacity = Ends::BUDGETS.streams.buffer_bytes;
        match answer.next(bytes_max) {
            Next::Copied(bytes) => assert!(bytes.len() <= bytes_max.min(capacity)),
            Next::Lent(piece) => {
                assert!(piece.len() <= bytes_max.min(capacity));
                assert_eq!(piece.copy(0..piece.len()).len(), piece.len());
            }
            Next::Empty => {}
            Next::Ended { .. } | Next::Failed => asked.answer = None,
        }
        self.exchange();
    }

    /// The client sends bytes of a body.
    fn hand_over(&mut self, number: usize, bytes: usize) {
        let Some(asked) = self.asked.get_mut(number % CALLS) else { return };
        let Some(upload) = &mut asked.upload else { return };
        match upload.room() {
            Ok(room) => {
                assert!((1..=Ends::BUDGETS.streams.buffer_bytes).contains(&room));
                if bytes == 0 {
                    upload.end(None);
                } else if upload.put(&vec![7; bytes.min(room)]).is_err() {
                    asked.upload = None;
                }
            }
            Err(Full::Now) => {}
            Err(Full::Ever) => asked.upload = None,
        }
    }

    /// The client leaves.
    fn leave(&mut self, number: usize) {
        let Some(asked) = self.asked.get_mut(number % (2 * CALLS)) else { return };
        (asked.upload, asked.answer) = (None, None);
        let conn = asked.conn;
        self.calls.cancel(conn, Reason::ClientGone);
        self.calls.leave(conn);
        self.exchange();
    }

    fn wait(&mut self, ms: u64) {
        self.now_ms += ms;
        let messages = self.calls.expire(self.now_ms, LIMIT_MS);
        self.check(messages);
        self.exchange();
    }

    fn asked(&mut self, seq: u64) -> &mut Asked {
        self.asked.get_mut(seq as usize).expect("a request that was asked")
    }

    fn check(&mut self, messages: Vec<ModuleMessage>) {
        for message in messages {
            match message {
                ModuleMessage::Answer { seq, bytes, .. } => {
                    let asked = self.asked(seq);
                    assert!(!std::mem::replace(&mut asked.is_over, true), "two outcomes of one request");
                    asked.answer = None;
                    check_answer(&bytes);
                }
                ModuleMessage::StreamBegin(begin) => {
                    let asked = self.asked(begin.seq);
                    assert!(!asked.is_over, "an answer begins behind the end of its call");
                    assert!(!std::mem::replace(&mut asked.has_begun, true), "an answer begins twice");
                    assert!(begin.head.starts_with(b"HTTP/1.1 ") && begin.head.ends_with(b"\r\n\r\n"));
                    asked.answer = Some(begin.answer);
                }
                ModuleMessage::StreamReturned { seq, .. } => {
                    let asked = self.asked(seq);
                    assert!(asked.has_begun, "a handler returns without an answer");
                    assert!(!std::mem::replace(&mut asked.is_over, true), "two outcomes of one request");
                }
                ModuleMessage::StreamNotice { seq, .. } => {
                    self.asked(seq);
                }
                ModuleMessage::StreamBroken { seq, .. } => self.asked(seq).answer = None,
                other => panic!("{other:?}"),
            }
        }
    }

    /// The process dies.
    fn end(mut self) {
        let killed = self.fate.0.load(Ordering::Relaxed);
        assert!(!killed || !self.calls.has_work(), "nothing is taken from a process that was ended");
        self.fate.1.store(true, Ordering::Relaxed);
        let last = self.calls.down();
        self.check(last);
        assert!(self.asked.iter().all(|asked| asked.is_over), "requests without an outcome");
        assert!(self.asked.iter().all(|asked| asked.answer.is_none()), "answers that never end");
        assert!(self.calls.is_over(), "no call is left");
    }
}
