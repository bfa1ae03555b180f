use super::*;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Wake;

#[test]
fn a_stale_id_reaches_nobody() {
    let (a, _peer) = UnixStream::pair().unwrap();
    let mut connections = Connections::default();
    let old = connections.insert(a.as_raw_fd());
    connections.remove(old);
    let new = connections.insert(a.as_raw_fd());
    assert_eq!(old.index(), new.index());
    assert!(connections.outbox(old).is_none());
    assert!(connections.outbox(new).is_some());
    connections.remove(old);
    assert_eq!(connections.len(), 1);
}

#[test]
fn close_sends_what_was_queued_then_fin() {
    let (a, mut peer) = UnixStream::pair().unwrap();
    let mut connections = Connections::default();
    let id = connections.insert(a.as_raw_fd());
    connections.outbox(id).unwrap().push(b"last words");
    connections.close(id);
    assert!(connections.outbox(id).is_none(), "nothing can be queued after close");
    for id in connections.take_dirty() {
        assert_eq!(connections.flush(id), Flushed::All);
    }
    let mut text = String::new();
    peer.read_to_string(&mut text).unwrap();
    assert_eq!(text, "last words");
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn pausing_twice_does_not_lose_the_waiting_task() {
    let (a, _peer) = UnixStream::pair().unwrap();
    let mut connections = Connections::default();
    let id = connections.insert(a.as_raw_fd());
    let woken = Arc::new(Woken(AtomicBool::new(false)));
    connections.set_reading(id, false);
    assert!(!connections.poll_reading(id, &Arc::clone(&woken).into()));
    connections.set_reading(id, false);
    assert!(!woken.0.load(Ordering::SeqCst));
    connections.set_reading(id, true);
    assert!(woken.0.load(Ordering::SeqCst));
}

#[test]
fn a_failed_send_is_the_reason() {
    let (a, peer) = UnixStream::pair().unwrap();
    drop(peer);
    let mut connections = Connections::default();
    let id = connections.insert(a.as_raw_fd());
    connections.outbox(id).unwrap().push(b"x");
    assert_eq!(connections.flush(id), Flushed::Failed(libc::EPIPE));
    assert_eq!(connections.close_reason(id, CloseReason::Peer), CloseReason::Error(libc::EPIPE));
}

#[test]
fn spare_buffers_are_few_and_counted() {
    let (a, peer) = UnixStream::pair().unwrap();
    let mut connections = Connections::default();
    let ids: Vec<ConnId> = (0..1000).map(|_| connections.insert(a.as_raw_fd())).collect();
    let mut peer = peer;
    for answer_bytes in [200, 8 * 1024, 20 * 1024, 300] {
        for &id in &ids {
            connections.outbox(id).unwrap().push(&vec![0; answer_bytes]);
        }
        for &id in &ids {
            assert_eq!(connections.flush(id), Flushed::All);
            peer.read_exact(&mut vec![0; answer_bytes]).unwrap();
        }
        assert!(connections.spare_bytes <= SPARE_BYTES_MAX);
        assert_eq!(connections.spare_bytes, connections.spares.iter().map(Vec::capacity).sum::<usize>());
    }
}

/// Sends all bytes queued on `id`, whose socket is full, as a driver does. Returns whether a flush at the beginning of a turn
/// has sent the last bytes.
fn send_all(connections: &mut Connections, id: ConnId) -> bool {
    loop {
        connections.begin_turn();
        let (mut flushed, mut by_flush) = (connections.writable(id), false);
        while flushed == Flushed::Spent {
            connections.begin_turn();
            (flushed, by_flush) = (connections.flush(id), true);
        }
        if flushed != Flushed::Blocked {
            return by_flush;
        }
        std::thread::yield_now();
    }
}

/// Connections in their first turn.
fn begun() -> Connections {
    let mut connections = Connections::default();
    connections.begin_turn();
    connections
}

#[test]
fn a_share_of_a_turn_is_not_exceeded_and_the_next_turn_sends_on() {
    let (a, mut peer) = UnixStream::pair().unwrap();
    let mut connections = begun();
    let id = connections.insert(a.as_raw_fd());
    // The turn's bytes are used up before this connection sends, so it gets the smallest share.
    connections.turn_bytes = 0;
    connections.outbox(id).unwrap().push_owned(vec![7; 100_000]);
    connections.outbox(id).unwrap().push(b"the end");
    assert_eq!((connections.flush(id), connections.unsent(id)), (Flushed::Spent, 100_007 - SHARE_BYTES_MIN));
    assert_eq!(
        (connections.flush(id), connections.held_bytes()),
        (Flushed::All, 0),
        "not twice in a turn, and no slow client"
    );
    assert!(connections.has_spent());
    connections.begin_turn();
    assert!(!connections.has_spent() && connections.take_dirty().contains(&id));
    assert_eq!((connections.flush(id), connections.unsent(id)), (Flushed::All, 0));
    assert_eq!(connections.take_sent(), [id], "told once all is sent");
    peer.read_exact(&mut [0; 100_007]).unwrap();
}

#[test]
fn who_waits_for_all_to_be_sent_is_told_once_and_not_before() {
    let (a, mut peer) = UnixStream::pair().unwrap();
    let mut connections = begun();
    let id = connections.insert(a.as_raw_fd());
    connections.outbox(id).unwrap().push(b"little");
    connections.await_sent(id);
    assert_eq!(connections.flush(id), Flushed::All);
    assert_eq!((connections.take_sent(), connections.take_sent()), (vec![id], vec![]));
    connections.outbox(id).unwrap().push_owned(vec![7; 4 * 1024 * 1024]);
    connections.await_sent(id);
    assert_eq!(connections.flush(id), Flushed::Blocked);
    assert_eq!(connections.flush(id), Flushed::All, "said once");
    assert!(connections.take_sent().is_empty(), "the socket has not taken all");
    let reader = std::thread::spawn(move || peer.read_exact(&mut vec![0; 6 + 4 * 1024 * 1024]).unwrap());
    let told_by_flush = send_all(&mut connections, id);
    assert_eq!(connections.take_sent().len(), usize::from(told_by_flush), "reported once");
    reader.join().unwrap();
}

#[test]
fn a_full_socket_blocks_and_goes_on() {
    let (a, mut peer) = UnixStream::pair().unwrap();
    let mut connections = begun();
    let id = connections.insert(a.as_raw_fd());
    let body = vec![7_u8; 4 * 1024 * 1024];
    connections.outbox(id).unwrap().push_owned(body.clone());
    assert_eq!(connections.flush(id), Flushed::Blocked);
    assert!(connections.unsent(id) > 0);
    let reader = std::thread::spawn(move || {
        let mut all = vec![0; body.len()];
        peer.read_exact(&mut all).unwrap();
        assert_eq!(all, body);
    });
    send_all(&mut connections, id);
    assert_eq!(connections.unsent(id), 0);
    reader.join().unwrap();
}

#[test]
fn what_is_sent_at_once_and_what_is_queued_come_in_order() {
    let (a, mut peer) = UnixStream::pair().unwrap();
    a.set_nonblocking(true).unwrap();
    let mut connections = begun();
    let id = connections.insert(a.as_raw_fd());
    let (mut sent, mut is_partial, mut is_whole) = (Vec::new(), false, false);
    for number in 0..200_u8 {
        // The kernel takes the first answers whole, and a part of the large one.
        let size = if number == 10 { 400_000 } else { 700 + usize::from(number % 3) * 2000 };
        let frame: Arc<[u8]> = vec![number; size].into();
        sent.extend_from_slice(&frame);
        let taken = connections.send_now(id, &frame);
        is_whole |= taken == size;
        is_partial |= taken > 0 && taken < size;
        if taken < size {
            connections.outbox(id).unwrap().push_rest(frame, taken);
            assert_eq!(connections.send_now(id, b"this would overtake the rest"), 0);
        }
    }
    assert!(is_whole && is_partial && connections.unsent(id) > 0);
    assert_eq!(connections.sent_total(id) + connections.unsent(id), sent.len());
    let length = sent.len();
    let reader = std::thread::spawn(move || {
        let mut found = vec![0; length];
        peer.read_exact(&mut found).unwrap();
        (found, peer)
    });
    for id in connections.take_dirty() {
        send_all(&mut connections, id);
    }
    let (found, _peer) = reader.join().unwrap();
    assert!(found == sent);
    assert_eq!(connections.send_now(id, b"again"), 5);
    connections.close(id);
    assert_eq!(connections.send_now(id, b"never"), 0);
}
