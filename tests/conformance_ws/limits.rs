//! Group 9: limits.

use super::peer::{BINARY, CONTINUATION, FIN, Peer, TEXT, fails, frame, header, lab, lab_with};

#[test]
fn rfc_6455_7_4_1_messages_up_to_the_limit() {
    let server = lab_with(&["--ws-message-bytes-max", "100000"]);
    let mut peer = Peer::open(&server);
    for fragment in [100_000, 50_000, 33_334, 1_000] {
        let payload = vec![b'm'; 100_000];
        let count = payload.len().div_ceil(fragment);
        let input: Vec<u8> = payload
            .chunks(fragment)
            .enumerate()
            .flat_map(|(at, chunk)| {
                frame(if at == 0 { TEXT } else { CONTINUATION } | if at + 1 == count { FIN } else { 0 }, chunk)
            })
            .collect();
        peer.send(&input);
        peer.expect(FIN | TEXT, &payload);
    }
}

#[test]
fn rfc_6455_7_4_1_messages_above_the_limit() {
    let server = lab_with(&["--ws-message-bytes-max", "1000"]);
    let fragments = |count: usize| [frame(BINARY, &[1; 100]), frame(CONTINUATION, &[1; 100]).repeat(count)].concat();
    fails(&server, &[frame(FIN | BINARY, &[0; 1001]), frame(FIN | TEXT, &[b'a'; 1001]), fragments(10)], 1009);
    // What is too large is refused when it is announced.
    let announced = |length: u64| [header(FIN | BINARY, length), vec![0; 4]].concat();
    fails(
        &server,
        &[announced(1001), announced(1 << 40), [fragments(9), header(CONTINUATION, 1), vec![0; 4]].concat()],
        1009,
    );
}

#[test]
fn rfc_6455_7_4_1_the_default_limit() {
    // A frame to send may be as large as the queue of unsent ones.
    let server = lab_with(&["--ws-queue-bytes-max", "33554432"]);
    let mut peer = Peer::open(&server);
    let payload: Vec<u8> = b"0123456789abcdef".repeat(1024 * 1024);
    peer.send(&frame(FIN | TEXT, &payload));
    peer.expect(FIN | TEXT, &payload);
    peer.send(&[header(FIN | TEXT, payload.len() as u64 + 1), vec![0; 4]].concat());
    peer.expect_close(Some(1009));
}

#[test]
fn rfc_6455_5_2_a_thousand_small_messages() {
    let server = lab();
    let mut peer = Peer::open(&server);
    for size in [0, 16, 64, 256, 1024] {
        let payload = vec![b'*'; size];
        for _ in 0..20 {
            peer.send(&frame(FIN | TEXT, &payload).repeat(10));
            for _ in 0..10 {
                peer.expect(FIN | TEXT, &payload);
            }
        }
    }
}
