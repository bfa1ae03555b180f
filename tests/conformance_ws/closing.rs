//! Group 7: the closing handshake.

use super::peer::{CLOSE, FIN, PING, Peer, TEXT, close, fails, frame, lab};
use crate::support::eventually;

#[test]
fn rfc_6455_5_5_1_a_close_frame_is_answered_once() {
    let server = lab();
    let mut peer = Peer::open(&server);
    peer.send(&close(1000, b"bye"));
    peer.expect_close(Some(1000));
    let mut peer = Peer::open(&server);
    peer.send(&frame(FIN | CLOSE, b""));
    peer.expect_close(None);
    let mut peer = Peer::open(&server);
    peer.send(&[close(1000, b""), close(1001, b"")].concat());
    peer.expect_close(Some(1000));
    eventually("on_close of each", || server.get("/counts").text() == "3 3");
}

#[test]
fn rfc_6455_5_5_1_what_follows_a_close_frame_is_not_looked_at() {
    let server = lab();
    for late in [
        frame(FIN | TEXT, b"late"),
        frame(FIN | PING, b"late"),
        b"\xff\xff\xff garbage".to_vec(),
        frame(FIN | TEXT, b"\xff"),
        frame(FIN | TEXT, &[0; 100_000]),
    ] {
        let mut peer = Peer::open(&server);
        peer.send(&[close(1000, b""), late].concat());
        peer.expect_close(Some(1000));
    }
}

#[test]
fn rfc_6455_5_5_1_messages_before_a_close_frame_reach_the_module() {
    let server = lab();
    let mut peer = Peer::open(&server);
    peer.send(&[frame(FIN | TEXT, b"first"), frame(FIN | PING, b"p")].concat());
    let mut found = [peer.read(), peer.read()];
    found.sort();
    assert_eq!(found, [(FIN | TEXT, b"first".to_vec()), (FIN | 0xa, b"p".to_vec())]);
    peer.send(&close(1000, b""));
    peer.expect_close(Some(1000));
}

#[test]
fn rfc_6455_7_4_codes_that_may_be_sent() {
    let server = lab();
    // 1012 and 1013 are registered with IANA since.
    for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 3000, 3999, 4000, 4999] {
        let mut peer = Peer::open(&server);
        peer.send(&close(code, b"reason"));
        peer.expect_close(Some(code));
    }
}

#[test]
fn rfc_6455_7_4_codes_that_may_not_be_sent() {
    let server = lab();
    // 1014, registered since, is what a gateway says, which no client is.
    for code in [0, 1, 999, 1004, 1005, 1006, 1014, 1015, 1016, 1100, 2000, 2999, 5000, 65_535] {
        for reason in [b"".as_slice(), b"reason"] {
            fails(&server, &[close(code, reason)], 1002);
        }
    }
}

#[test]
fn rfc_6455_5_5_1_half_a_code() {
    let server = lab();
    fails(&server, &[frame(FIN | CLOSE, b"\x03"), frame(FIN | CLOSE, b"a")], 1002);
}

#[test]
fn rfc_6455_5_5_1_the_reason() {
    let server = lab();
    for reason in [vec![], vec![b'*'; 123], "é€😀".as_bytes().to_vec()] {
        let mut peer = Peer::open(&server);
        peer.send(&close(1000, &reason));
        peer.expect_close(Some(1000));
    }
    fails(&server, &[close(1000, &[b'*'; 124])], 1002);
}

#[test]
fn rfc_6455_8_1_a_reason_that_is_no_utf_8() {
    let server = lab();
    for reason in [b"\xc0\x80".as_slice(), b"ok \xed\xa0\x80", b"\xc3", b"\xff"] {
        fails(&server, &[close(1000, reason)], 1007);
    }
}

#[test]
fn rfc_6455_7_1_1_the_server_closes_first() {
    let server = lab();
    let mut peer = Peer::open(&server);
    peer.send(&close(1000, b""));
    // The client keeps its end open.
    peer.expect_close(Some(1000));
}

#[test]
fn rfc_6455_7_1_2_the_server_begins_the_closing_handshake() {
    let server = lab();
    let mut peer = Peer::open(&server);
    peer.send(&frame(FIN | TEXT, b"close"));
    assert_eq!(peer.read(), (FIN | CLOSE, vec![3, 0xe8]));
    // What was under way still may arrive; it gets no answer any more.
    peer.send(&[frame(FIN | TEXT, b"under way"), frame(FIN | PING, b"p"), close(1000, b"")].concat());
    peer.expect_end();
    eventually("on_close", || server.get("/counts").text() == "1 1");
}

#[test]
fn rfc_6455_7_1_2_a_peer_that_does_not_answer_is_not_waited_for_long() {
    let server = lab();
    let mut peer = Peer::open(&server);
    peer.send(&frame(FIN | TEXT, b"close"));
    assert_eq!(peer.read().0, FIN | CLOSE);
    let mut rest = Vec::new();
    let _ = std::io::Read::read_to_end(&mut peer.stream, &mut rest);
    assert!(rest.is_empty());
    eventually("on_close", || server.get("/counts").text() == "1 1");
}

#[test]
fn rfc_6455_7_1_5_a_peer_that_goes_without_a_close_frame() {
    let server = lab();
    let peer = Peer::open(&server);
    peer.finish();
    drop(Peer::open(&server));
    let mut half = Peer::open(&server);
    half.send(&frame(FIN | TEXT, b"cut off")[..5]);
    drop(half);
    // Nor does one that breaks the protocol leave a module in the dark.
    let mut faulty = Peer::open(&server);
    faulty.send(b"\xff");
    faulty.expect_close(Some(1002));
    eventually("on_close of each", || server.get("/counts").text() == "4 4");
    drop(peer);
}
