//! Group 6: UTF-8.

use super::peer::{BINARY, CONTINUATION, FIN, PING, Peer, TEXT, answers, fails, frame, header, lab};

/// RFC 3629 §3, §4: sequences at the borders of what is allowed.
const VALID: [&str; 12] = [
    "\u{0}",
    "\u{7f}",
    "\u{80}",
    "\u{7ff}",
    "\u{800}",
    "\u{ffff}",
    "\u{10000}",
    "\u{10ffff}",
    "\u{d7ff}\u{e000}",
    "\u{fffd}\u{feff}\u{fffe}",
    "κόσμε",
    "Hello-µ@ßöäüàá-UTF-8!!",
];

const INVALID: [&[u8]; 24] = [
    b"\x80",
    b"\xbf",
    b"a\x80b",
    b"\xc0\x80",
    b"\xc1\xbf",
    b"\xe0\x80\x80",
    b"\xe0\x9f\xbf",
    b"\xf0\x80\x80\x80",
    b"\xf0\x8f\xbf\xbf",
    b"\xed\xa0\x80",
    b"\xed\xbf\xbf",
    b"\xed\xa0\x80\xed\xb0\x80",
    b"\xf4\x90\x80\x80",
    b"\xf5\x80\x80\x80",
    b"\xf8\x88\x80\x80\x80",
    b"\xfc\x84\x80\x80\x80\x80",
    b"\xfe",
    b"\xff",
    b"\xc3a",
    b"\xe2\x82a",
    b"\xf0\x9f\x98a",
    b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",
    b"\xc3",
    b"abc\xf0\x9f\x98",
];

#[test]
fn rfc_6455_8_1_valid_text() {
    let server = lab();
    for text in VALID {
        answers(&server, &frame(FIN | TEXT, text.as_bytes()), &[(FIN | TEXT, text.as_bytes())]);
    }
}

#[test]
fn rfc_6455_8_1_invalid_text() {
    let server = lab();
    for text in INVALID {
        fails(&server, &[frame(FIN | TEXT, text), [frame(TEXT, b"before"), frame(FIN, text)].concat()], 1007);
    }
}

#[test]
fn rfc_6455_5_6_characters_across_fragments() {
    let server = lab();
    let text = "aé€😀\u{10ffff}".as_bytes();
    for cut in 0..=text.len() {
        let (front, back) = text.split_at(cut);
        answers(&server, &[frame(TEXT, front), frame(FIN, back)].concat(), &[(FIN | TEXT, text)]);
    }
    let each: Vec<u8> = text
        .iter()
        .enumerate()
        .flat_map(|(at, byte)| {
            let first = if at == 0 { TEXT } else { CONTINUATION } | if at + 1 == text.len() { FIN } else { 0 };
            frame(first, &[*byte])
        })
        .collect();
    answers(&server, &each, &[(FIN | TEXT, text)]);
}

#[test]
fn rfc_6455_8_1_invalid_text_across_fragments() {
    let server = lab();
    for text in INVALID.iter().filter(|text| text.len() > 1) {
        for cut in 1..text.len() {
            let (front, back) = text.split_at(cut);
            let mut peer = Peer::open(&server);
            peer.send(&[frame(TEXT, front), frame(FIN | PING, b""), frame(FIN, back)].concat());
            let mut found = peer.read();
            if found.0 == FIN | 0xa {
                found = peer.read();
            }
            assert_eq!(found, (FIN | 8, vec![3, 0xef]), "{text:x?} cut at {cut}");
        }
    }
}

/// Sends the start of a text frame and nothing more: the answer does not wait for the rest.
fn fails_early(prefix: &[u8], announced: u64, first: u8, payload: &[u8]) {
    let server = lab();
    for dribbled in [false, true] {
        let mut peer = Peer::open(&server);
        let bytes = [prefix, &header(first, announced), &[0; 4], payload].concat();
        if dribbled {
            peer.dribble(&bytes);
        } else {
            peer.send(&bytes);
        }
        peer.expect_close(Some(1007));
    }
}

#[test]
fn rfc_6455_8_1_invalid_text_fails_before_its_frame_ends() {
    fails_early(b"", 1000, FIN | TEXT, b"valid \xc0");
    fails_early(b"", 1000, FIN | TEXT, b"\xed\xa0");
    fails_early(b"", 100_000, FIN | TEXT, b"valid \xf4\x90");
}

#[test]
fn rfc_6455_8_1_invalid_text_fails_before_its_message_ends() {
    fails_early(&frame(TEXT, b"valid"), 6, CONTINUATION, b" \xff still");
    fails_early(&frame(TEXT, b"\xe2\x82"), 1000, CONTINUATION, b"a");
    fails_early(&frame(TEXT, b"\xf4"), 1, CONTINUATION, b"\x90");
}

#[test]
fn rfc_6455_8_1_binary_is_any_bytes() {
    let server = lab();
    for bytes in INVALID {
        let (front, back) = bytes.split_at(bytes.len() / 2);
        answers(&server, &[frame(BINARY, front), frame(FIN, back)].concat(), &[(FIN | BINARY, bytes)]);
    }
}
