use super::super::calls::DomainCalls;
use super::super::layout::Layout;
use super::super::wire::{Body, Event, ToDomain, read_events};
use super::session::KnownSocket;
use super::*;
use crate::domain::module_message::ModuleMessage;
use std::sync::atomic::{AtomicBool, Ordering};

mod large;

/// An owner that does nothing; the flag says whether its process is dead.
struct Nobody(Arc<AtomicBool>);

impl Owner for Nobody {
    fn is_dead(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn kill(&self) {}
    fn recycle(&self, _why: &str) {}
    fn drained(&self) {}
}

/// The other end of the endpoints.
struct Peer {
    dead: Arc<AtomicBool>,
    producer: Producer,
    consumer: Consumer,
    bodies: Arc<Region>,
}

impl Peer {
    fn say(&mut self, record: &[u8]) {
        self.producer.try_push(&[record]).unwrap();
        let _ = self.producer.publish();
    }

    /// The next record, if there is one.
    fn hear(&mut self) -> Option<Vec<u8>> {
        let mut record = Vec::new();
        self.consumer.try_pop(&mut record).unwrap().then_some(record)
    }
}

fn endpoints(domain: &Arc<Identity>) -> (Box<RingEndpoints>, Peer) {
    let layout = Layout::new(1);
    let region = Arc::new(Region::create(layout.bytes()).unwrap());
    let (there, here) = (layout.to_domain(0), layout.to_server(0));
    let dead = Arc::<AtomicBool>::default();
    let (ends, bodies) = Ends::of(&region, there, here).unwrap();
    let endpoints = RingEndpoints::new(0, Arc::clone(domain), 1, ends, Box::new(Nobody(Arc::clone(&dead))));
    let (producer, consumer) = (Producer::new(&region, here).unwrap(), Consumer::new(&region, there).unwrap());
    let peer = Peer { dead, producer, consumer, bodies };
    (Box::new(endpoints), peer)
}

#[test]
fn a_domain_reaches_no_socket_of_another() {
    let (endpoints, mut peer) = endpoints(&Identity::first("default", 1));
    let mut calls = CallTable::new(0, 0);
    calls.up(endpoints);
    calls.current.as_mut().unwrap().known.insert(7, KnownSocket::default());
    for key in [7, 8] {
        let (mut frame, mut close) = (Vec::new(), Vec::new());
        wire::send_head(&mut frame, key);
        frame.push(b'b');
        wire::close(&mut close, key, 1000);
        [frame, close].iter().for_each(|record| peer.say(record));
    }
    let mut out = Vec::new();
    calls.poll(100, &mut out);
    let [ModuleMessage::SocketSend { socket: 7, frame }, ModuleMessage::SocketClose { socket: 7, code: 1000 }] =
        out.as_slice()
    else {
        panic!("{out:?}");
    };
    assert_eq!(&frame[..], b"b");
}

#[test]
fn a_socket_that_ended_elsewhere_is_forgotten_once_by_those_that_know_it() {
    let (endpoints, mut peer) = endpoints(&Identity::first("default", 1));
    let mut calls = CallTable::new(0, 0);
    calls.up(endpoints);
    calls.current.as_mut().unwrap().known.insert(7, KnownSocket::default());
    for key in [7, 7, 8] {
        calls.forget(key);
        calls.flush();
    }
    let record = peer.hear().unwrap();
    let Ok(ToDomain::Socket { key: 7, events, .. }) = ToDomain::read(&record) else { panic!("{record:?}") };
    let Body::Here(events) = events else { panic!("{events:?}") };
    assert_eq!(read_events(events).unwrap(), [Event::Forget]);
    assert!(peer.hear().is_none());
}

#[test]
fn a_shard_that_sleeps_is_woken_by_any_domain_and_numbers_leave_no_holes() {
    let first = Identity::first("default", 1);
    let others = [first.another("a"), first.another("b")];
    let mut calls = DomainCalls::new(0, &Arc::default());
    let mut peers: Vec<Peer> = Vec::new();
    for domain in [&first, &others[0], &others[1]] {
        let (endpoints, peer) = endpoints(domain);
        calls.up(endpoints);
        peers.push(peer);
    }
    let mut close = Vec::new();
    wire::close(&mut close, 7, 1000);
    for peer in &mut peers {
        assert!(!calls.has_work());
        peer.producer.try_push(&[&close]).unwrap();
        // True: the other side sleeps and must be woken.
        assert!(peer.producer.publish());
        assert!(calls.has_work());
        calls.awake();
        calls.poll(&mut Vec::new());
        peer.producer.try_push(&[&close]).unwrap();
        assert!(!peer.producer.publish(), "the other side is awake");
        calls.poll(&mut Vec::new());
    }
    peers.iter().for_each(|peer| peer.dead.store(true, Ordering::Relaxed));
    assert!(calls.down(1).is_empty() && !calls.has_work());
    calls.awake();
    assert!(calls.down(2).is_empty() && calls.down(9).is_empty());
    let (endpoints, mut peer) = endpoints(&others[1]);
    calls.up(endpoints);
    assert!(!calls.has_work());
    peer.producer.try_push(&[&close]).unwrap();
    assert!(peer.producer.publish() && calls.has_work());
}
