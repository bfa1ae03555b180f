//! Large bodies, step by step: each batch is one flush, and no time passes.

use super::*;
use crate::abi::manifest::{Manifest, RouteDecl};
use crate::abi::websocket::{Outlet, Socket};
use crate::domain::call::{AnswerMeta, Handshake, NewRequest, OwnedRequest, SocketEvent, Task};
use crate::domain::process::fuzz::{Held, module};
use crate::net::ConnId;
use crate::net::fuzz::conn_ids;
use crate::proto::http1::{Decoded, Limits, RequestDecoder};
use crate::proto::ws::{Encoded, Kind};

const MIB: usize = 1 << 20;

fn pattern(bytes: usize, first: u8) -> Vec<u8> {
    (0..bytes).map(|at| (at % 251) as u8 ^ first).collect()
}

fn request(body: &[u8]) -> OwnedRequest {
    let head = format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", body.len());
    let mut decoder = RequestDecoder::new(Limits { body_bytes_max: 1 << 30, ..Limits::default() });
    assert!(matches!(decoder.decode(head.as_bytes()), Ok(Decoded::Body { .. })));
    let Ok(Decoded::Request { view, .. }) = decoder.decode(body) else { panic!() };
    OwnedRequest::copy(&view)
}

fn get() -> OwnedRequest {
    let mut decoder = RequestDecoder::new(Limits::default());
    let Ok(Decoded::Request { view, .. }) = decoder.decode(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n") else { panic!() };
    OwnedRequest::copy(&view)
}

fn meta() -> AnswerMeta {
    AnswerMeta {
        date: [b' '; 29],
        keep_alive: true,
        http_1_0: false,
        head_only: false,
        cors_origin: None,
        preflight: None,
        switching: None,
    }
}

/// The calls of a shard, and the process that gets them.
struct Bench {
    calls: CallTable,
    peer: Peer,
    domain: Arc<Identity>,
    conns: Vec<ConnId>,
    module: Arc<dyn crate::domain::Instance>,
}

/// A call that the process got: ticket and body.
type Given = (u64, Vec<u8>);

impl Bench {
    fn new() -> Self {
        let domain = Identity::first("default", 1);
        let (endpoints, peer) = endpoints(&domain);
        let mut calls = CallTable::new(0, 0);
        calls.up(endpoints);
        Self { calls, peer, domain, conns: conn_ids(100), module: module(Manifest::default()) }
    }

    /// Submits request number `conn`, on a connection of its own.
    fn ask(&mut self, conn: usize, request: OwnedRequest) {
        let work = Task::Request { conn: self.conns[conn], seq: 0, route: 0, request, meta: meta(), stream: None };
        self.calls.submit(Arc::new(Held(Arc::clone(&self.module))), true, work);
    }

    fn next(&mut self) -> Option<Given> {
        let record = self.peer.hear()?;
        let (ToDomain::Request { ticket, body, .. } | ToDomain::Socket { ticket, events: body, .. }) =
            ToDomain::read(&record).unwrap()
        else {
            panic!("{record:?}")
        };
        let body = match body {
            Body::Here(bytes) => bytes.to_vec(),
            Body::Lent(place) => {
                let start = usize::try_from(place.offset).unwrap();
                self.peer.bodies.load(start..start + usize::try_from(place.bytes).unwrap())
            }
        };
        Some((ticket, body))
    }

    /// Runs batches until nothing is left to do without an event; returns their number.
    fn settle(&mut self) -> usize {
        for batch in 1..1000 {
            self.calls.flush();
            let works = self.calls.has_work();
            self.calls.awake();
            if !works {
                return batch;
            }
        }
        panic!("the batches never end");
    }

    fn answer(&mut self, ticket: u64) -> Vec<ModuleMessage> {
        let mut record = Vec::new();
        wire::answer_head(&mut record, ticket, 1, 200, std::iter::empty());
        self.peer.say(&record);
        self.poll()
    }

    fn poll(&mut self) -> Vec<ModuleMessage> {
        let mut out = Vec::new();
        self.calls.poll(100, &mut out);
        out
    }
}

fn status(message: &ModuleMessage) -> (ConnId, String) {
    let ModuleMessage::Answer { conn, bytes, .. } = message else { panic!("{message:?}") };
    (*conn, String::from_utf8_lossy(&bytes[9..12]).into_owned())
}

#[test]
fn a_large_body_is_written_over_several_batches_and_others_pass_it() {
    let mut bench = Bench::new();
    let body = pattern(3 * MIB, 0);
    bench.ask(0, request(&body));
    bench.ask(1, get());
    assert_eq!((bench.calls.held_bytes(), bench.calls.waiting_bytes()), (body.len(), body.len()));
    bench.calls.flush();
    let (small, none) = bench.next().unwrap();
    assert!(none.is_empty() && bench.next().is_none(), "the other call is sent, and the large one is not whole");
    let batches = 1 + bench.settle();
    assert_eq!(batches, 3 * MIB / super::super::large::COPIED_BYTES_MAX);
    let (large, given) = bench.next().unwrap();
    assert!(given == body && large > small);
    assert_eq!((bench.calls.held_bytes(), bench.calls.waiting_bytes()), (body.len(), 0));
    assert_eq!(bench.calls.in_flight(), 2);
    assert_eq!(status(&bench.answer(large)[0]), (bench.conns[0], "200".to_owned()));
    assert_eq!(status(&bench.answer(small)[0]), (bench.conns[1], "200".to_owned()));
    assert_eq!((bench.settle(), bench.calls.in_flight()), (1, 0));
    assert_eq!(bench.peer.bodies.resident_bytes().unwrap(), 0, "the pages of the body are returned");
}

/// A request whose head announces a body of `bytes` bytes.
fn announces(bytes: usize) -> OwnedRequest {
    let head = format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {bytes}\r\n\r\n");
    let mut decoder = RequestDecoder::new(Limits { body_bytes_max: 1 << 30, ..Limits::default() });
    let Ok(Decoded::Body { view, .. }) = decoder.decode(head.as_bytes()) else { panic!() };
    OwnedRequest::copy(&view)
}

#[test]
fn a_body_that_arrives_in_its_place_is_handed_over_at_once() {
    let mut bench = Bench::new();
    assert!(bench.calls.place(MIB).is_none(), "the body is not large");
    let body = pattern(3 * MIB, 0);
    let mut placed = bench.calls.place(body.len()).unwrap();
    assert!(bench.calls.place(2 * MIB).is_none(), "bodies that arrive have half of the budget");
    body.chunks(100_000).for_each(|part| placed.put(part).unwrap());
    assert!(placed.put(b"more").is_err());
    assert_eq!(bench.calls.held_bytes(), 0, "an arriving body counts with its connection");
    bench.ask(0, announces(body.len()).with_placed(Box::new(placed)));
    assert_eq!(bench.calls.waiting_bytes(), body.len());
    bench.calls.flush();
    let (ticket, given) = bench.next().unwrap();
    assert!(given == body);
    assert_eq!((bench.calls.lent_bytes(), bench.calls.waiting_bytes()), (body.len(), 0));
    assert_eq!(status(&bench.answer(ticket)[0]), (bench.conns[0], "200".to_owned()));
    bench.settle();
    assert_eq!((bench.peer.bodies.resident_bytes().unwrap(), bench.calls.held_bytes()), (0, 0));
    // A body whose client leaves.
    let mut placed = bench.calls.place(body.len()).unwrap();
    placed.put(&body[..MIB]).unwrap();
    drop(placed);
    bench.settle();
    assert_eq!((bench.peer.bodies.resident_bytes().unwrap(), bench.calls.held_bytes()), (0, 0));
    assert!(bench.calls.place(4 * MIB).is_some());
}

#[test]
fn a_body_in_the_memory_of_a_process_that_is_gone_goes_to_the_next_one() {
    let mut bench = Bench::new();
    let body = pattern(2 * MIB, 0);
    let mut placed: Vec<_> = (0..2).map(|_| bench.calls.place(body.len()).unwrap()).collect();
    placed[0].put(&body).unwrap();
    placed[1].put(&body[..MIB]).unwrap();
    let mut placed = placed.into_iter().map(Box::new);
    bench.ask(0, announces(body.len()).with_placed(placed.next().unwrap()));
    bench.peer.dead.store(true, Ordering::Relaxed);
    assert!(bench.calls.down().is_empty());
    assert!(bench.calls.place(body.len()).is_none(), "there is no process");
    let (endpoints, peer) = endpoints(&bench.domain);
    (bench.peer, _) = (peer, bench.calls.up(endpoints));
    // The rest of the other body comes now.
    let mut late = placed.next().unwrap();
    late.put(&body[MIB..]).unwrap();
    bench.ask(1, announces(body.len()).with_placed(late));
    bench.calls.flush();
    assert_eq!(bench.calls.queue.len(), 1, "a batch copies one body");
    bench.settle();
    for conn in 0..2 {
        let (ticket, given) = bench.next().unwrap();
        assert!(given == body);
        assert_eq!(status(&bench.answer(ticket)[0]), (bench.conns[conn], "200".to_owned()));
    }
    bench.settle();
    assert_eq!((bench.peer.bodies.resident_bytes().unwrap(), bench.calls.held_bytes()), (0, 0));
}

#[test]
fn a_body_without_a_place_gets_one_when_another_comes_back_and_holds_up_nothing() {
    let mut bench = Bench::new();
    for conn in 0..3 {
        bench.ask(conn, request(&pattern(5 * MIB, conn as u8)));
    }
    bench.settle();
    let (first, _) = bench.next().unwrap();
    assert!(bench.next().is_none());
    bench.ask(3, get());
    for conn in 4..7 {
        bench.ask(conn, request(&pattern(MIB, conn as u8)));
    }
    assert_eq!(bench.settle(), 3, "no batch copies more than one body");
    assert!(bench.next().unwrap().1.is_empty());
    for first in 4..7 {
        assert!(bench.next().unwrap().1 == pattern(MIB, first), "there is a reserve for bodies that are not so large");
    }
    assert!(bench.next().is_none());
    // The event is the answer itself: no time passes.
    bench.answer(first);
    bench.settle();
    let (second, body) = bench.next().unwrap();
    assert!(body == pattern(5 * MIB, 1));
    bench.answer(second);
    bench.settle();
    assert!(bench.next().unwrap().1 == pattern(5 * MIB, 2));
}

#[test]
fn a_full_ring_asks_to_be_woken_and_sends_on_when_it_is() {
    let mut bench = Bench::new();
    let body = pattern(31_000, 0);
    for conn in 0..60 {
        bench.ask(conn, request(&body));
    }
    bench.settle();
    assert!(bench.calls.sending.is_some(), "60 records of 31,000 bytes are more than the ring holds");
    let mut seen = 0;
    for _ in 0..10 {
        while let Some((_, given)) = bench.next() {
            assert!(given == body);
            seen += 1;
        }
        if seen == 60 {
            break;
        }
        assert!(bench.peer.consumer.release_told(), "the shard waits to be told of room");
        bench.settle();
    }
    assert_eq!(seen, 60);
    assert!(!bench.peer.consumer.release_told() && bench.calls.sending.is_none());
}

#[test]
fn messages_cross_whole_and_their_place_comes_back_with_the_last_callback() {
    struct Nowhere;
    impl Outlet for Nowhere {
        fn send(&self, _socket: u64, _frame: Arc<[u8]>) {}
        fn close(&self, _socket: u64, _code: u16) {}
        fn room(&self, _socket: u64, _room: &[u8], _joins: bool) {}
        fn publish(&self, _room: &[u8], _message: &Encoded) {}
    }
    let mut bench = Bench::new();
    let socket = Socket::new(7, Some(b"me|0"), Arc::new(Nowhere), 1000);
    let handshake = Handshake { head: pattern(20_000, 4).into(), peer: None };
    let texts = [pattern(2 * MIB, 1), b"short".to_vec(), pattern(20_000, 2), pattern(15_000, 3)];
    let events =
        texts.iter().map(|text| SocketEvent::Message { kind: Kind::Text, payload: text.clone(), deflated: false });
    let events = std::iter::once(SocketEvent::Open { handshake: Some(Box::new(handshake)) }).chain(events).collect();
    let work = Task::Socket { socket, index: 0, events };
    bench.calls.submit(Arc::new(Held(Arc::clone(&bench.module))), true, work);
    let bytes: usize = texts.iter().map(Vec::len).sum();
    assert_eq!(bench.calls.held_bytes(), bytes, "the messages wait here");
    bench.settle();
    assert!(
        (bytes..bytes + 64 * 1024).contains(&bench.calls.held_bytes()),
        "the messages lie in the memory of the domain"
    );
    let (ticket, events) = bench.next().unwrap();
    let read = read_events(&events).unwrap();
    assert!(matches!(read[0], Event::Open { session: Some(b"me|0"), .. }));
    assert!(
        read[1..]
            .iter()
            .zip(&texts)
            .all(|(event, text)| *event == Event::Message { kind: Kind::Text, deflated: false, bytes: text })
            && read.len() == 5
    );
    let mut idle = Vec::new();
    wire::idle(&mut idle, ticket, 1);
    bench.peer.say(&idle);
    assert!(matches!(bench.poll()[..], [ModuleMessage::SocketIdle { socket: 7 }]));
    bench.settle();
    assert_eq!((bench.peer.bodies.resident_bytes().unwrap(), bench.calls.held_bytes()), (0, 0));
}

#[test]
fn a_client_that_leaves_takes_its_waiting_body_along() {
    let mut bench = Bench::new();
    for conn in 0..3 {
        bench.ask(conn, request(&pattern(5 * MIB, conn as u8)));
    }
    bench.settle();
    let (first, _) = bench.next().unwrap();
    bench.calls.leave(bench.conns[1]);
    assert_eq!(bench.calls.in_flight(), 2);
    assert_eq!(status(&bench.poll()[0]), (bench.conns[1], "503".to_owned()));
    bench.answer(first);
    // The same in the middle of the writing.
    bench.calls.flush();
    bench.calls.flush();
    assert!(bench.calls.copying.is_some());
    bench.calls.leave(bench.conns[2]);
    assert_eq!(status(&bench.poll()[0]), (bench.conns[2], "503".to_owned()));
    bench.settle();
    assert!(bench.next().is_none() && bench.calls.in_flight() == 0);
    assert_eq!(bench.peer.bodies.resident_bytes().unwrap(), 0);
}

#[test]
fn what_a_process_did_not_get_whole_goes_to_the_next() {
    let mut bench = Bench::new();
    let body = pattern(4 * MIB, 0);
    bench.ask(0, request(&body));
    bench.ask(1, request(&body));
    bench.settle();
    let (first, _) = bench.next().unwrap();
    assert!(bench.next().is_some());
    bench.ask(2, request(&body));
    bench.answer(first);
    bench.calls.flush();
    bench.calls.flush();
    assert!(bench.calls.copying.is_some());
    bench.peer.dead.store(true, Ordering::Relaxed);
    let lost = bench.calls.down();
    assert_eq!(lost.iter().map(status).collect::<Vec<_>>(), [(bench.conns[1], "502".to_owned())]);
    let (endpoints, peer) = endpoints(&bench.domain);
    (bench.peer, _) = (peer, bench.calls.up(endpoints));
    bench.settle();
    let (ticket, given) = bench.next().unwrap();
    assert!(given == body);
    assert_eq!(status(&bench.answer(ticket)[0]), (bench.conns[2], "200".to_owned()));
    assert_eq!(bench.calls.in_flight(), 0);
}

#[test]
fn the_time_of_a_handler_begins_when_it_has_its_request() {
    let mut bench = Bench::new();
    for conn in 0..2 {
        bench.ask(conn, request(&pattern(5 * MIB, 0)));
    }
    assert!(bench.calls.expire(900, 1000).is_empty());
    bench.settle();
    let (first, _) = bench.next().unwrap();
    // The first was handed over at 900; the second has waited since 0.
    let late = bench.calls.expire(1500, 1000);
    assert_eq!(late.iter().map(status).collect::<Vec<_>>(), [(bench.conns[1], "503".to_owned())]);
    // The answer waits for memory: the handler has returned. The domain may say so once.
    let mut returned = Vec::new();
    wire::returned(&mut returned, first);
    bench.peer.say(&returned);
    assert!(bench.poll().is_empty() && bench.calls.expire(30_000, 1000).is_empty());
    bench.peer.say(&returned);
    assert!(bench.poll().is_empty());
    let late = bench.calls.expire(70_000, 1000);
    assert_eq!(late.iter().map(status).collect::<Vec<_>>(), [(bench.conns[0], "503".to_owned())]);
}

#[test]
fn places_that_lie_end_the_process_and_answer_nothing_twice() {
    let span = arena::Parts::new(1, Ends::BUDGETS).bytes() as u64;
    for (offset, bytes) in [(0, 40_000), (span, 4096), (span - 4096, 8192), (u64::MAX, 1), (span - 4095, 5)] {
        let mut bench = Bench::new();
        bench.ask(0, get());
        bench.settle();
        let (ticket, _) = bench.next().unwrap();
        let mut record = Vec::new();
        wire::answer_head(&mut record, ticket, 1, 200, std::iter::empty());
        wire::lend(&mut record, arena::ExtentRange { offset, bytes });
        bench.peer.say(&record);
        assert!(bench.poll().is_empty(), "{offset}");
        assert!(bench.calls.current.as_ref().unwrap().broken, "{offset} {bytes}");
        bench.peer.dead.store(true, Ordering::Relaxed);
        assert_eq!(bench.calls.down().iter().map(status).collect::<Vec<_>>(), [(bench.conns[0], "502".to_owned())]);
    }
}

#[test]
fn one_place_named_by_two_answers_is_told_of_twice_and_no_more_are_borrowed_than_there_can_be() {
    let mut bench = Bench::new();
    let parts = arena::Parts::new(1, Ends::BUDGETS);
    let place = parts.lend_answers(&bench.peer.bodies).take(40_000).unwrap();
    for conn in 0..2 {
        bench.ask(conn, get());
    }
    bench.settle();
    let tickets: Vec<u64> = std::iter::from_fn(|| bench.next()).map(|(ticket, _)| ticket).collect();
    for ticket in tickets {
        let mut record = Vec::new();
        wire::answer_head(&mut record, ticket, 1, 200, std::iter::empty());
        wire::lend(&mut record, place);
        bench.peer.say(&record);
    }
    let answers = bench.poll();
    assert_eq!(answers.len(), 2);
    bench.settle();
    assert!(bench.peer.hear().is_none(), "the answers are not sent yet");
    drop(answers);
    bench.settle();
    for _ in 0..2 {
        let record = bench.peer.hear().unwrap();
        assert_eq!(ToDomain::read(&record), Ok(ToDomain::Done { offset: place.offset }));
    }
}

#[test]
fn a_request_that_went_into_the_ring_at_once_reaches_a_process_that_is_followed_in_the_same_batch() {
    let mut bench = Bench::new();
    let route = RouteDecl {
        path: "/".into(),
        method: "GET".into(),
        flags: 0,
        has_handler: true,
        mount: None,
        ..RouteDecl::default()
    };
    bench.module = module(Manifest { routes: vec![route], ..Manifest::default() });
    let request = get();
    let view = request.view();
    let new = NewRequest { conn: bench.conns[0], seq: 0, route: 0, view: &view, meta: meta() };
    bench.calls.request(Arc::new(Held(Arc::clone(&bench.module))), true, new);
    assert!(bench.calls.queue.is_empty(), "no call is queued");
    assert!(bench.next().is_none(), "the end of the batch publishes the request");
    let (endpoints, _next) = endpoints(&bench.domain);
    bench.calls.up(endpoints);
    bench.calls.flush();
    assert!(bench.next().is_some(), "the process that got the request can read it");
}
