//! Group 2: pings and pongs.

use super::peer::{FIN, PING, PONG, Peer, TEXT, answers, close, fails, frame, header, lab};

#[test]
fn rfc_6455_5_5_3_a_pong_carries_the_pings_payload() {
    let server = lab();
    for payload in [b"".as_slice(), b"Hello, world!", &[0, 0xff, 0xfe, 0xfd, 0xfc, 0], &[0xfe; 125]] {
        answers(&server, &frame(FIN | PING, payload), &[(FIN | PONG, payload)]);
    }
}

#[test]
fn rfc_6455_5_5_a_control_frame_has_at_most_125_bytes() {
    let server = lab();
    fails(
        &server,
        &[frame(FIN | PING, &[0xfe; 126]), frame(FIN | PONG, &[0xfe; 126]), frame(FIN | PING, &[0; 70_000])],
        1002,
    );
    // The payload is not waited for.
    fails(&server, &[header(FIN | PING, 126), header(FIN | PONG, 65_536), header(FIN | 8, 126)], 1002);
}

#[test]
fn rfc_6455_5_5_control_frames_are_whole() {
    let server = lab();
    fails(
        &server,
        &[frame(PING, b"a"), frame(PONG, b""), frame(8, b"\x03\xe8"), [frame(PING, b"a"), frame(FIN, b"b")].concat()],
        1002,
    );
}

#[test]
fn rfc_6455_5_5_3_an_unasked_pong_means_nothing() {
    let server = lab();
    answers(&server, &frame(FIN | PONG, b""), &[]);
    answers(&server, &frame(FIN | PONG, b"unasked"), &[]);
    let input = [frame(FIN | PONG, b"unasked"), frame(FIN | PING, b"ping")].concat();
    answers(&server, &input, &[(FIN | PONG, b"ping")]);
}

#[test]
fn rfc_6455_5_5_2_ten_pings_in_order() {
    let server = lab();
    let payloads: Vec<String> = (0..10).map(|n| format!("payload {n}")).collect();
    let input: Vec<u8> = payloads.iter().flat_map(|payload| frame(FIN | PING, payload.as_bytes())).collect();
    let pongs: Vec<(u8, &[u8])> = payloads.iter().map(|payload| (FIN | PONG, payload.as_bytes())).collect();
    answers(&server, &input, &pongs);
}

#[test]
fn rfc_6455_5_5_2_pings_among_messages() {
    let server = lab();
    let mut peer = Peer::open(&server);
    for n in 0..50_u8 {
        peer.send(&[frame(FIN | TEXT, &[b'a' + n % 26]), frame(FIN | PING, &[n])].concat());
        let mut found = [peer.read(), peer.read()];
        found.sort();
        assert_eq!(found, [(FIN | TEXT, vec![b'a' + n % 26]), (FIN | PONG, vec![n])]);
    }
}

#[test]
fn rfc_6455_5_5_2_no_pong_behind_a_close_frame() {
    let server = lab();
    let mut peer = Peer::open(&server);
    peer.send(&[close(1000, b""), frame(FIN | PING, b"late")].concat());
    peer.expect_close(Some(1000));
}
