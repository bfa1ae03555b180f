//! Groups 1, 3 and 4: framing, reserved bits, reserved opcodes.

use super::peer::{BINARY, CLOSE, FIN, PING, PONG, Peer, TEXT, answers, fails, frame, header, lab};

const SIZES: [usize; 7] = [0, 125, 126, 127, 128, 65_535, 65_536];

#[test]
fn rfc_6455_5_6_text_of_every_length_form() {
    let server = lab();
    let mut peer = Peer::open(&server);
    for size in SIZES {
        let payload = vec![b'*'; size];
        peer.send(&frame(FIN | TEXT, &payload));
        peer.expect(FIN | TEXT, &payload);
    }
}

#[test]
fn rfc_6455_5_6_binary_of_every_length_form() {
    let server = lab();
    let mut peer = Peer::open(&server);
    for size in SIZES {
        let payload = vec![0xfe; size];
        peer.send(&frame(FIN | BINARY, &payload));
        peer.expect(FIN | BINARY, &payload);
    }
}

#[test]
fn rfc_6455_5_2_frames_in_pieces() {
    let server = lab();
    let mut peer = Peer::open(&server);
    for (size, piece) in [(0, 1), (125, 1), (300, 1), (2_000, 1), (65_535, 997), (65_536, 997), (65_536, 40_000)] {
        let payload = vec![b'*'; size];
        for bytes in frame(FIN | TEXT, &payload).chunks(piece) {
            peer.send(bytes);
        }
        peer.expect(FIN | TEXT, &payload);
    }
}

#[test]
fn rfc_6455_5_2_many_frames_in_one_piece() {
    let server = lab();
    let mut peer = Peer::open(&server);
    let messages: Vec<Vec<u8>> = (0..300).map(|n| format!("message {n}").repeat(n % 7 + 1).into_bytes()).collect();
    let all: Vec<u8> = messages.iter().flat_map(|message| frame(FIN | TEXT, message)).collect();
    peer.send(&all);
    for message in &messages {
        peer.expect(FIN | TEXT, message);
    }
}

#[test]
fn rfc_6455_5_2_reserved_bits() {
    let server = lab();
    for bits in 1..=7_u8 {
        let first = |opcode: u8| FIN | bits << 4 | opcode;
        fails(
            &server,
            &[frame(first(TEXT), b"a"), frame(first(BINARY), b""), frame(first(PING), b"a"), frame(first(CLOSE), b"")],
            1002,
        );
    }
    // The rest of the frame need not come. An echo of what came before may be overtaken by the close frame.
    let mut peer = Peer::open(&server);
    peer.send(&[frame(FIN | TEXT, b"before"), frame(FIN | PING, b"before"), vec![0xc1]].concat());
    let frames: Vec<u8> = std::iter::repeat_with(|| peer.read().0).take_while(|first| *first != FIN | CLOSE).collect();
    assert!(frames.contains(&(FIN | PONG)), "{frames:x?}");
    peer.expect_end();
}

#[test]
fn rfc_6455_5_2_reserved_opcodes() {
    let server = lab();
    for opcode in [3, 4, 5, 6, 7, 0xb, 0xc, 0xd, 0xe, 0xf] {
        fails(&server, &[frame(FIN | opcode, b""), frame(FIN | opcode, b"payload"), frame(opcode, b"")], 1002);
    }
}

#[test]
fn rfc_6455_5_2_lengths_are_minimal() {
    let server = lab();
    let length = |first: u8, form: u8, bytes: &[u8], payload: usize| {
        [&[first, 0x80 | form], bytes, &[0; 4], vec![b'a'; payload].as_slice()].concat()
    };
    fails(
        &server,
        &[
            length(FIN | TEXT, 126, &[0, 5], 5),
            length(FIN | TEXT, 126, &[0, 0], 0),
            length(FIN | BINARY, 126, &[0, 125], 125),
            length(FIN | TEXT, 127, &[0, 0, 0, 0, 0, 0, 0, 5], 5),
            length(FIN | TEXT, 127, &[0, 0, 0, 0, 0, 0, 0, 126], 126),
            length(FIN | BINARY, 127, &[0, 0, 0, 0, 0, 0, 0xff, 0xff], 10),
        ],
        1002,
    );
    answers(&server, &length(FIN | TEXT, 126, &[0, 126], 126), &[(FIN | TEXT, &[b'a'; 126])]);
}

#[test]
fn rfc_6455_5_2_the_highest_bit_of_a_length_is_0() {
    let server = lab();
    let length = |bytes: [u8; 8]| [&[FIN | BINARY, 0xff], bytes.as_slice(), &[0; 4]].concat();
    fails(
        &server,
        &[length([0x80, 0, 0, 0, 0, 0, 0, 1]), length([0xff; 8]), length([0x80, 0, 0, 0, 0, 1, 0, 0])],
        1002,
    );
    // Without it the length is possible, and too large.
    fails(&server, &[length([0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff])], 1009);
}

#[test]
fn rfc_6455_5_1_a_client_masks() {
    let server = lab();
    fails(
        &server,
        &[
            b"\x81\x01a".to_vec(),
            b"\x81\x00".to_vec(),
            b"\x82\x7e\x01\x00".to_vec(),
            b"\x89\x00".to_vec(),
            b"\x88\x02\x03\xe8".to_vec(),
        ],
        1002,
    );
}

#[test]
fn rfc_6455_5_3_any_mask() {
    let server = lab();
    for mask in [[0_u8; 4], [0xff; 4], [0, 0, 0, 1], [1, 0, 0, 0], [0x81, 0x7e, 0x00, 0xff]] {
        let text = "masked €, all of it".as_bytes();
        let payload = text.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key);
        let bytes: Vec<u8> = header(FIN | TEXT, text.len() as u64).into_iter().chain(mask).chain(payload).collect();
        answers(&server, &bytes, &[(FIN | TEXT, text)]);
    }
}
