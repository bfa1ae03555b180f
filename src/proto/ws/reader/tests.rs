use super::*;
use proptest::prelude::*;
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use tungstenite::protocol::{Role, WebSocketConfig};

const BYTES_MAX: usize = 1000;

fn reader(deflates: bool) -> Reader {
    Reader::new(BYTES_MAX, deflates)
}

/// All inputs in `bytes`, which arrive in the pieces that `cuts` makes of them.
fn read(mut reader: Reader, bytes: &[u8], cuts: &[usize]) -> Vec<Input> {
    let (mut inputs, mut at) = (Vec::new(), 0);
    for &cut in cuts.iter().chain(std::iter::once(&bytes.len())) {
        let cut = cut.clamp(at, bytes.len());
        let mut piece = &bytes[at..cut];
        inputs.extend(std::iter::from_fn(|| reader.next(&mut piece)));
        assert!(piece.is_empty());
        at = cut;
    }
    inputs
}

/// The number of bytes of `input`, read one at a time, before the refused byte, and the close code.
fn refused(mut reader: Reader, input: &[u8]) -> Option<(usize, u16)> {
    input.iter().enumerate().find_map(|(at, byte)| match reader.next(&mut &[*byte][..]) {
        Some(Input::Fault(code)) => Some((at, code)),
        _ => None,
    })
}

fn refused_at(input: &[u8]) -> Option<(usize, u16)> {
    refused(reader(false), input)
}

fn message(kind: Kind, deflated: bool, payload: &[u8]) -> Input {
    Input::Message { kind, deflated, payload: payload.to_vec() }
}

fn frame(first: u8, mask: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    super::super::frame::push_header(&mut out, first, payload.len());
    out[1] |= 0x80;
    out.extend(mask);
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    out
}

#[test]
fn a_head_is_refused_at_its_first_wrong_byte() {
    assert_eq!(refused_at(b"\xc1"), Some((0, 1002))); // reserved bit
    assert_eq!(refused_at(b"\x83"), Some((0, 1002))); // reserved opcode
    assert_eq!(refused_at(b"\x80"), Some((0, 1002))); // continues nothing
    assert_eq!(refused_at(b"\x09"), Some((0, 1002))); // fragmented control frame
    assert_eq!(refused_at(b"\x81\x05"), Some((1, 1002))); // not masked
    assert_eq!(refused_at(b"\x89\xfe"), Some((1, 1002))); // long control frame
    assert_eq!(refused_at(b"\x81\xfe\x00\x7d"), Some((3, 1002))); // 125 in two bytes
    assert_eq!(refused_at(b"\x81\xff\0\0\0\0\0\0\xff\xff"), Some((9, 1002))); // 65,535 in eight
    assert_eq!(refused_at(b"\x81\xff\x80\0\0\0\0\x01\0\0"), Some((9, 1002))); // highest bit
    assert_eq!(refused_at(b"\x82\xfe\x03\xe9\0\0\0\0"), Some((7, 1009)));
    assert_eq!(refused_at(b"\x82\xfe\x03\xe8\0\0\0\0"), None);
    assert_eq!(refused_at(b"\x01\x80\0\0\0\0\x81"), Some((6, 1002))); // a message within a message
}

#[test]
fn rfc_7692_6_rsv1_is_for_the_first_frame_of_a_message() {
    let refused_at = |input: &[u8]| refused(reader(true), input);
    assert_eq!(refused_at(b"\x41\x81\0\0\0\0\xff\x89\x80\0\0\0\0\x80\x81\0\0\0\0\xff\xc2\x80\0\0\0\0"), None);
    assert_eq!(refused_at(b"\x41\x80\0\0\0\0\xc0"), Some((6, 1002))); // not of a continuation
    for first in [0xe1, 0xd1, 0xa1, 0x91, 0xc9, 0xc8, 0xca, 0xc3] {
        assert_eq!(refused_at(&[first]), Some((0, 1002)), "{first:x}");
    }
    assert_eq!(refused_at(b"\x81\x81\0\0\0\0\xff"), Some((6, 1007))); // one that is not compressed
    assert_eq!(refused_at(b"\xc1\xfe\x03\xe9\0\0\0\0"), Some((7, 1009)));
    let inputs = read(reader(true), b"\x41\x81\0\0\0\0\xff\x80\x81\0\0\0\0\xfe\x81\x81\0\0\0\0a", &[]);
    assert_eq!(inputs, [message(Kind::Text, true, b"\xff\xfe"), message(Kind::Text, false, b"a")]);
}

#[test]
fn text_is_refused_at_its_first_wrong_byte() {
    assert_eq!(refused_at(b"\x81\x85\0\0\0\0ab\xffcd"), Some((8, 1007)));
    assert_eq!(refused_at(b"\x01\x81\0\0\0\0\xe2\x00\x81\0\0\0\0\x82\x80\x81\0\0\0\0a"), Some((20, 1007)));
    assert_eq!(refused_at(b"\x01\x81\0\0\0\0\xe2\x80\x80\0\0\0\0"), Some((12, 1007))); // ends within a character
    assert_eq!(refused_at(b"\x82\x82\0\0\0\0\xff\xff\x88\x80\0\0\0\0\xff\xff"), None); // binary; after a close frame
    for (text, taken) in [
        ("aé€😀".as_bytes(), None),
        (b"\xc0\x80", Some(0)), // overlong
        (b"\xe0\x80\x80", Some(1)),
        (b"\xed\xa0\x80", Some(1)),     // surrogate
        (b"\xf4\x90\x80\x80", Some(1)), // above U+10FFFF
        (b"\xf5", Some(0)),
        (b"\xe2\x82a", Some(2)),
        (b"\x80", Some(0)),
    ] {
        let at = refused_at(&frame(0x81, [7, 0, 9, 1], text));
        assert_eq!(at, taken.map(|taken| (6 + taken, 1007)), "{text:x?}");
    }
}

#[test]
fn close_frames_have_a_code_that_peers_may_send() {
    let close = |payload: &[u8]| read(reader(false), &frame(0x88, [1; 4], payload), &[]);
    assert_eq!(close(b""), [Input::Close(None)]);
    assert_eq!(close(b"\x03\xe8bye"), [Input::Close(Some((1000, "bye".to_owned())))]);
    for code in [0_u16, 999, 1005, 1006, 1015, 1016, 2999, 5000] {
        let violation = Input::Close(Some((1002, "Protocol violation".to_owned())));
        assert_eq!(close(&code.to_be_bytes()), [violation], "{code}");
    }
    assert_eq!(close(b"\x03"), [Input::Fault(1002)]);
    assert_eq!(close(b"\x03\xe8\xff"), [Input::Fault(1007)]);
}

#[test]
fn a_message_gets_memory_as_it_arrives() {
    let mut reader = Reader::new(64 << 20, false);
    let mut head = &b"\x82\xff\0\0\0\0\x03\0\0\0\0\0\0\0abc"[..];
    assert_eq!(reader.next(&mut head), None);
    assert_eq!(reader.held(), 3);
    let capacity = |reader: &Reader| reader.message.as_ref().unwrap().payload.capacity();
    assert!(capacity(&reader) <= 3 + GROWTH_BYTES_MIN + 1);
    for _ in 0..47 {
        assert!(reader.next(&mut &[b'x'; 1 << 20][..]).is_none());
        assert!(capacity(&reader) <= reader.held() * (GROWTH + 1) + GROWTH_BYTES_MIN + 1);
    }
    reader.end();
    assert_eq!((reader.held(), reader.next(&mut &b"more"[..])), (0, None));
    // A whole frame gets exactly the capacity for its payload and the NUL.
    let Some(Input::Message { payload, .. }) = super::Reader::new(100, false).next(&mut &b"\x82\x83\0\0\0\0abc"[..])
    else {
        panic!("no message");
    };
    assert_eq!((payload.as_slice(), payload.capacity() >= 4, payload.capacity() < 16), (&b"abc"[..], true, true));
}

#[test]
fn a_message_of_many_small_frames_is_seldom_moved() {
    let mut reader = Reader::new(1 << 20, false);
    let (mut moves, mut last) = (0, 0);
    assert!(reader.next(&mut &b"\x01\x81\0\0\0\0a"[..]).is_none());
    for _ in 0..100_000 {
        assert!(reader.next(&mut &b"\x00\x81\0\0\0\0a"[..]).is_none());
        let capacity = reader.message.as_ref().unwrap().payload.capacity();
        moves += usize::from(capacity != last);
        last = capacity;
    }
    assert!(moves <= 20, "{moves}");
}

/// The stream that tungstenite reads and writes.
#[derive(Default)]
struct Memory(VecDeque<u8>);

impl Read for Memory {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() { Err(io::ErrorKind::WouldBlock.into()) } else { self.0.read(buffer) }
    }
}

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The inputs that tungstenite reads in `bytes` until its first error, and whether there was an error.
fn read_by_tungstenite(bytes: &[u8]) -> (Vec<Input>, bool) {
    let config = WebSocketConfig::default().max_message_size(Some(BYTES_MAX)).max_frame_size(Some(BYTES_MAX));
    let memory = Memory(bytes.iter().copied().collect());
    let mut socket = tungstenite::WebSocket::from_raw_socket(memory, Role::Server, Some(config));
    let mut inputs = Vec::new();
    loop {
        match socket.read() {
            Ok(tungstenite::Message::Text(text)) => inputs.push(message(Kind::Text, false, text.as_bytes())),
            Ok(tungstenite::Message::Binary(bytes)) => inputs.push(message(Kind::Binary, false, &bytes)),
            Ok(tungstenite::Message::Ping(bytes)) => inputs.push(Input::Ping(bytes.to_vec())),
            Ok(tungstenite::Message::Close(close)) => {
                inputs.push(Input::Close(close.map(|close| (close.code.into(), close.reason.as_str().to_owned()))));
                return (inputs, false);
            }
            Ok(_) => {}
            Err(tungstenite::Error::Io(_)) => return (inputs, false),
            Err(_) => return (inputs, true),
        }
    }
}

/// Frames, most of them valid, with one bit changed.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..140),
        "\\PC{0,80}".prop_map(String::into_bytes),
        Just(vec![b'x'; 600]),
        Just(b"\x03\xe8bye".to_vec()),
    ];
    let frames = proptest::collection::vec((any::<u8>(), any::<[u8; 4]>(), payload), 0..7);
    (frames, prop_oneof![Just(usize::MAX), 0..2000_usize]).prop_map(|(frames, bit)| {
        let first =
            |byte: u8| [0x01, 0x81, 0x02, 0x82, 0x00, 0x80, 0x89, 0x8a, 0x88, byte, 0x81][usize::from(byte % 11)];
        let mut input: Vec<u8> =
            frames.iter().flat_map(|(byte, mask, payload)| frame(first(*byte), *mask, payload)).collect();
        if let Some(byte) = input.get_mut(bit / 8) {
            *byte ^= 1 << (bit % 8);
        }
        input
    })
}

proptest! {
    #[test]
    fn pieces_are_read_like_the_whole(input in frames(), deflates in any::<bool>(), mut cuts in proptest::collection::vec(0..900_usize, 0..10)) {
        cuts.sort_unstable();
        prop_assert_eq!(read(reader(deflates), &input, &cuts), read(reader(deflates), &input, &[]));
    }

    #[test]
    fn what_is_right_is_read_as_tungstenite_reads_it(input in frames()) {
        let mut ours = read(reader(false), &input, &[]);
        let (theirs, theirs_failed) = read_by_tungstenite(&input);
        match ours.last() {
            // The reader finds a fault earlier than tungstenite does, or refuses bytes that tungstenite accepts.
            Some(Input::Fault(_)) => {
                ours.pop();
                prop_assert!(theirs.starts_with(&ours), "{:?} {:?}", ours, theirs);
            }
            _ => {
                prop_assert!(!theirs_failed, "{:?}", ours);
                prop_assert_eq!(ours, theirs);
            }
        }
    }

    #[test]
    fn text_in_any_frames_is_judged_like_the_whole(
        bytes in prop_oneof![proptest::collection::vec(any::<u8>(), 0..20), "\\PC{0,200}".prop_map(String::into_bytes)],
        mask in any::<[u8; 4]>(),
        mut cuts in proptest::collection::vec(0..600_usize, 0..6),
    ) {
        cuts.sort_unstable();
        let (mut input, mut at) = (Vec::new(), 0);
        let cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).chain([bytes.len()]).collect();
        for (number, cut) in cuts.iter().enumerate() {
            let first = if number == 0 { 0x01 } else { 0x00 } | if number + 1 == cuts.len() { 0x80 } else { 0 };
            input.extend(frame(first, mask, &bytes[at..*cut]));
            at = *cut;
        }
        let expected = match std::str::from_utf8(&bytes) {
            Ok(_) if bytes.len() <= BYTES_MAX => message(Kind::Text, false, &bytes),
            Ok(_) => Input::Fault(TOO_BIG),
            Err(_) => Input::Fault(NOT_UTF8),
        };
        prop_assert_eq!(read(reader(false), &input, &[]), [expected]);
    }
}
