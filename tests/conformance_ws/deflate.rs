//! Groups 12 and 13: permessage-deflate (RFC 7692), with zlib at the other end.

use super::peer::{BINARY, CLOSE, CONTINUATION, FIN, PING, PONG, Peer, TEXT, close, frame, lab, lab_with};
use super::zlib::Zlib;
use crate::support::{Server, module};

/// RSV1: the message is compressed (§6).
const RSV1: u8 = 0x40;

/// A client that has agreed on compression, and the parameters of the answer.
fn agreed(server: &Server, parameters: &str) -> (Peer, String) {
    let (peer, head) =
        Peer::shaken(server, &format!("Sec-WebSocket-Extensions: permessage-deflate{parameters}\r\n"), b"");
    let lines = head.lines().filter_map(|line| line.strip_prefix("Sec-WebSocket-Extensions: permessage-deflate"));
    let answers: Vec<&str> = lines.collect();
    assert_eq!(answers.len(), 1, "{head}");
    (peer, answers[0].to_owned())
}

/// `payload` in frames of at most `piece` bytes, the first of them with `first`; pings between them.
fn fragments(first: u8, payload: &[u8], piece: usize, pings: bool) -> Vec<u8> {
    let mut pieces: Vec<&[u8]> = payload.chunks(piece).collect();
    if pieces.is_empty() {
        pieces.push(&[]);
    }
    let mut out = Vec::new();
    for (at, piece) in pieces.iter().enumerate() {
        if pings && at > 0 {
            out.extend(frame(FIN | PING, b"between"));
        }
        let start = if at == 0 { first } else { CONTINUATION };
        let last = if at + 1 == pieces.len() { FIN } else { 0 };
        out.extend(frame(start | last, piece));
    }
    out
}

/// Text that compresses as protocols of text do, of `bytes` bytes; not twice the same.
fn prose(bytes: usize, number: usize) -> String {
    let mut out = String::with_capacity(bytes + 80);
    for line in 0.. {
        if out.len() >= bytes {
            break;
        }
        out.push_str(&format!("{{\"line\":{line},\"number\":{},\"word\":\"caf\u{e9}\"}}", line * 7919 % 1000 + number));
    }
    while out.len() > bytes || !out.is_char_boundary(out.len()) {
        out.pop();
    }
    while out.len() < bytes {
        out.push('.');
    }
    out
}

/// Bytes that look random (xorshift).
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    std::iter::repeat_with(next).take(bytes).collect()
}

/// Reads messages until one is data, and expands it if it is compressed. Returns whether it was.
fn echoed(peer: &mut Peer, inflater: &mut Zlib, kind: u8, expected: &[u8]) -> bool {
    let (first, payload) = loop {
        let (first, payload) = peer.read_any();
        if first == FIN | PONG {
            assert_eq!(payload, b"between");
            continue;
        }
        break (first, payload);
    };
    assert_eq!(first & !RSV1, FIN | kind, "{first:x} {:x?}", payload.get(..20));
    let deflated = first & RSV1 != 0;
    let found = if deflated { inflater.message(&payload) } else { payload };
    assert!(found == expected, "{} bytes instead of {}", found.len(), expected.len());
    deflated
}

const PLAIN: &str = "; server_no_context_takeover; client_no_context_takeover";

#[test]
fn rfc_7692_7_1_parameters_are_kept_or_declined() {
    let server = lab();
    for offer in [
        "",
        "; client_max_window_bits",
        "; client_no_context_takeover; client_max_window_bits=9",
        "; server_no_context_takeover",
    ] {
        assert_eq!(agreed(&server, offer).1, PLAIN, "{offer}");
    }
    assert_eq!(agreed(&server, "; server_max_window_bits=9").1, format!("{PLAIN}; server_max_window_bits=9"));
    // The first offer that can be kept; a server that cannot keep one takes the next.
    let second = "; server_max_window_bits=7, permessage-deflate; server_max_window_bits=10, permessage-deflate";
    assert_eq!(agreed(&server, second).1, format!("{PLAIN}; server_max_window_bits=10"));
}

/// Group 12: sizes, numbers of messages, fragments. Group 13: the parameters.
#[test]
fn rfc_7692_7_2_messages_of_all_sizes_and_parameters() {
    let server = lab();
    let parameters = [
        ("", 15),
        ("; server_no_context_takeover; client_max_window_bits", 15),
        ("; server_max_window_bits=9; client_max_window_bits=9", 9),
        ("; server_max_window_bits=15; client_no_context_takeover", 15),
        ("; server_max_window_bits=8", 8),
    ];
    for (offer, window_bits) in parameters {
        let (mut peer, _) = agreed(&server, offer);
        let window = if offer.contains("client_max_window_bits=9") { 9 } else { 15 };
        let mut deflater = Zlib::deflater(6, window, false);
        // A window of zlib is 512 bytes at least.
        let mut inflater = Zlib::inflater(window_bits.max(9));
        let mut compressed = 0;
        for size in [0, 16, 64, 256, 1024, 4096, 16_384, 65_536, 131_072] {
            let count = if size > 20_000 { 2 } else { 8 };
            let text: Vec<String> = (0..count).map(|number| prose(size, number)).collect();
            let binary = noise(size);
            let mut sent = Vec::new();
            for (number, text) in text.iter().enumerate() {
                let piece = [usize::MAX, 1 + size / 7, 256][number % 3];
                sent.extend(fragments(TEXT | RSV1, &deflater.message(text.as_bytes()), piece, number % 2 == 1));
                // Plain messages may stand beside compressed ones (§6).
                sent.extend(fragments(BINARY, &binary, piece, false));
            }
            let mut writer = peer.stream.try_clone().unwrap();
            let sending = std::thread::spawn(move || std::io::Write::write_all(&mut writer, &sent).unwrap());
            for text in &text {
                let deflated = echoed(&mut peer, &mut inflater, TEXT, text.as_bytes());
                assert_eq!(deflated, size >= 1024, "{offer} {size}");
                compressed += usize::from(deflated);
                assert!(!echoed(&mut peer, &mut inflater, BINARY, &binary));
            }
            sending.join().unwrap();
        }
        assert_eq!(compressed, 3 * 8 + 2 * 2);
        peer.send(&close(1000, b""));
        peer.expect_close(Some(1000));
    }
}

#[test]
fn rfc_7692_7_2_2_what_a_client_may_send() {
    let server = lab();
    let (mut peer, _) = agreed(&server, "");
    let hello: [&[u8]; 5] = [
        b"\xf2\x48\xcd\xc9\xc9\x07\x00",                         // §7.2.3.1
        b"\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00",         // §7.2.3.3: a stored block
        b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00",                     // §7.2.3.4: BFINAL
        b"\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00", // §7.2.3.5: two blocks
        b"\xf2\x48\xcd\xc9\xc9\x07\x00",
    ];
    for payload in hello {
        for piece in [usize::MAX, 3, 1] {
            peer.send(&fragments(TEXT | RSV1, payload, piece, true));
            while let (first, payload) = peer.read()
                && (first, &payload[..]) != (FIN | TEXT, b"Hello")
            {
                assert_eq!((first, &payload[..]), (FIN | PONG, &b"between"[..]));
            }
        }
    }
    // §7.2.3.6: an empty message; and one of no bytes at all.
    for payload in [&b"\x00"[..], b""] {
        peer.send(&frame(FIN | RSV1 | BINARY, payload));
        peer.expect(FIN | BINARY, b"");
    }
    peer.send(&frame(FIN | RSV1 | TEXT, hello[0]));
    peer.dribble(&fragments(TEXT | RSV1, hello[0], 2, false));
    peer.expect(FIN | TEXT, b"Hello");
    peer.expect(FIN | TEXT, b"Hello");
    peer.send(&close(1000, b""));
    peer.expect_close(Some(1000));
}

/// Each is answered by the close code; the module gets neither this message nor a later one.
fn fails(server: &Server, inputs: &[&[u8]], code: u16) {
    let next = [frame(FIN | TEXT, b"next"), frame(FIN | RSV1 | TEXT, b"\xf2\x48\xcd\xc9\xc9\x07\x00")].concat();
    for input in inputs {
        for behind in [&next[..], b""] {
            let (mut peer, _) = agreed(server, "");
            peer.send(&[input, behind].concat());
            peer.expect_close(Some(code));
        }
    }
}

#[test]
fn rfc_7692_7_2_2_what_cannot_be_expanded() {
    let server = lab();
    let mut deflater = Zlib::deflater(6, 15, true);
    let before = deflater.message(b"a message that the next one refers to");
    let after = frame(FIN | RSV1 | TEXT, &deflater.message(b"a message that the next one refers to"));
    // A block of the type that is not there, and bytes behind it.
    let wrong = frame(FIN | RSV1 | BINARY, &[&[7], &noise(300)[..]].concat());
    let pieces = fragments(TEXT | RSV1, b"\xff\xff\xff\xff", 1, false);
    // A context that was not agreed on is one: it is taken for bytes before the message.
    fails(&server, &[&wrong, &pieces, &frame(FIN | RSV1 | TEXT, b"\x07\x07"), &after], 1007);
    let mut deflater = Zlib::deflater(6, 15, false);
    let latin = frame(FIN | RSV1 | TEXT, &deflater.message(b"caf\xe9"));
    let half = frame(FIN | RSV1 | TEXT, &deflater.message(b"caf\xc3"));
    fails(&server, &[&latin, &half], 1007);
    // Data that is cut off, and data with other bytes behind it.
    let whole = deflater.message(prose(3000, 7).as_bytes());
    let behind = [&b"\xf2\x48\xcd\xc9\xc9\x07\x00"[..], b"garbage"].concat();
    let broken = [&whole[..whole.len() - 1], &whole[..whole.len() / 2], b"\x00\x08\x00\xf7\xff0123", &behind];
    let broken = broken.map(|payload| frame(FIN | RSV1 | TEXT, payload));
    fails(&server, &broken.each_ref().map(Vec::as_slice), 1007);
    assert_eq!(server.get("/heard").text(), "0");
    // A socket that fails does not affect others.
    let (mut peer, _) = agreed(&server, "");
    peer.send(&frame(FIN | RSV1 | TEXT, &before));
    peer.expect(FIN | TEXT, b"a message that the next one refers to");
    crate::support::eventually("each other socket has its on_close", || server.get("/counts").text() == "21 20");
}

#[test]
fn rfc_7692_8_expanded_messages_are_limited() {
    let server = lab_with(&["--ws-message-bytes-max", "100000"]);
    let mut deflater = Zlib::deflater(9, 15, false);
    let mut bomb = |size: usize| deflater.message(&vec![b'0'; size]);
    let (fits, above, huge) = (bomb(100_000), bomb(100_001), bomb(90_000_000));
    assert!(huge.len() < 100_000);
    let (mut peer, _) = agreed(&server, "");
    peer.send(&frame(FIN | RSV1 | TEXT, &fits));
    assert!(echoed(&mut peer, &mut Zlib::inflater(15), TEXT, &vec![b'0'; 100_000]));
    let before = server.memory_kib("VmHWM");
    let inputs = [
        frame(FIN | RSV1 | TEXT, &above),
        frame(FIN | RSV1 | BINARY, &huge),
        fragments(TEXT | RSV1, &huge, 60_000, false),
    ];
    fails(&server, &[&inputs[0], &inputs[1], &inputs[2]], 1009);
    assert!(server.memory_kib("VmHWM") < before + 8 * 1024, "90 MB were expanded");
    // A message that is too large before it is expanded is refused as soon as its length is known.
    peer.send(&frame(FIN | RSV1 | BINARY, &noise(100_001)));
    peer.expect_close(Some(1009));
}

#[test]
fn rfc_7692_6_reserved_bits() {
    let server = lab();
    let hello = b"\xf2\x48\xcd\xc9\xc9\x07\x00";
    let whole = |first: u8| frame(first, hello);
    let inputs = [
        whole(FIN | TEXT | RSV1 | 0x20),
        whole(FIN | TEXT | 0x20),
        whole(FIN | BINARY | 0x10),
        whole(FIN | PING | RSV1),
        whole(FIN | CLOSE | RSV1),
        [frame(TEXT | RSV1, &hello[..3]), frame(FIN | RSV1 | CONTINUATION, &hello[3..])].concat(),
        [frame(TEXT, b"He"), frame(FIN | RSV1 | CONTINUATION, b"llo")].concat(),
        whole(FIN | RSV1 | 3),
    ];
    let inputs: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
    fails(&server, &inputs, 1002);
    // Without an agreement the bit is not known.
    let mut peer = Peer::open(&server);
    peer.send(&whole(FIN | TEXT | RSV1));
    peer.expect_close(Some(1002));
}

/// A module and the server's settings can refuse; a module that is asked agrees as others do.
#[test]
fn rfc_7692_5_1_a_path_and_a_server_may_decline() {
    let code = r#"
static int admit(struct cweb_context *c, http_request_t *q, http_response_t *r) { (void)c; (void)q; (void)r; return 0; }
static void on_message(struct cweb_context *c, websocket_t *w, const char *m, size_t n) { (void)c; w->send(w, m, n); }
"#;
    let fields = r#".websockets = {{"/ws", NULL, on_message, NULL, CWEB_INLINE}, {"/never", NULL, on_message, NULL, CWEB_NO_COMPRESS},
        {"/asked", NULL, on_message, NULL}}, .ws_size = 3,"#;
    let source = module("paths", code, r#"{"/asked", "GET", admit, CWEB_HANDSHAKE}"#, 1, fields);
    let shake = |server: &Server, path: &str| {
        let mut client = server.connect();
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: x\r\n{}Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=12\r\n\r\n",
            super::peer::FIELDS
        );
        client.send(head.as_bytes());
        let answer = client.response();
        assert_eq!(answer.status, 101);
        (answer.header("sec-websocket-extensions"), client)
    };
    let server = Server::with(&["--shards", "2"]);
    server.deploy(&source);
    let all = Some(format!("permessage-deflate{PLAIN}; server_max_window_bits=12"));
    assert_eq!(shake(&server, "/never").0, None);
    assert_eq!((shake(&server, "/asked").0, shake(&server, "/ws").0), (all.clone(), all.clone()));
    let text = prose(20_000, 1);
    for path in ["/asked", "/ws"] {
        let mut client = shake(&server, path).1;
        client.send(&frame(FIN | RSV1 | TEXT, &Zlib::deflater(1, 15, false).message(text.as_bytes())));
        // Callbacks on a shard's own thread compress nothing; compressed messages were expanded on another thread.
        let mut head = client.bytes(2);
        assert!(matches!(head[0] & !RSV1, 0x81) && head[1] == 126, "{head:x?}");
        head.extend(client.bytes(2));
        let payload = client.bytes(usize::from(u16::from_be_bytes([head[2], head[3]])));
        let found = if head[0] & RSV1 == 0 { payload } else { Zlib::inflater(12).message(&payload) };
        assert!(found == text.as_bytes());
        assert!(path == "/ws" || head[0] & RSV1 != 0);
    }
    let server = Server::with(&["--ws-compress-bytes-min", "0"]);
    server.deploy(&source);
    assert_eq!((shake(&server, "/ws").0, shake(&server, "/asked").0), (None, None));
}

/// A type and a payload; the size of its fragments; whether pings stand between them; whether it is not compressed.
type Sending = ((u8, Vec<u8>), usize, bool, bool);

/// One client sends whatever zlib makes of messages, at any level and with any window, cut anywhere.
#[test]
fn rfc_7692_7_2_1_whatever_zlib_makes() {
    use proptest::prelude::*;
    let server = lab();
    let message = prop_oneof![
        proptest::collection::vec("[a-d]{1,7}", 0..700).prop_map(|words| (TEXT, words.join(" ").into_bytes())),
        proptest::collection::vec(any::<u8>(), 0..3000).prop_map(|bytes| (BINARY, bytes)),
    ];
    let messages = proptest::collection::vec((message, 1..2000_usize, any::<bool>(), any::<bool>()), 1..8);
    // A failed case leaves the connection in a state of its own, so shrinking is useless.
    let config =
        ProptestConfig { cases: 40, max_shrink_iters: 0, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let (peer, _) = agreed(&server, "; server_max_window_bits=11");
    let peer = std::cell::RefCell::new(peer);
    let inflater = std::cell::RefCell::new(Zlib::inflater(11));
    let property = |(messages, level, window_bits): (Vec<Sending>, i32, i32)| {
        let mut deflater = Zlib::deflater(level, window_bits, false);
        for ((kind, payload), piece, pings, plain) in &messages {
            let (first, sent) =
                if *plain { (*kind, payload.clone()) } else { (kind | RSV1, deflater.message(payload)) };
            peer.borrow_mut().send(&fragments(first, &sent, *piece, *pings));
        }
        for ((kind, payload), ..) in &messages {
            echoed(&mut peer.borrow_mut(), &mut inflater.borrow_mut(), *kind, payload);
        }
        Ok(())
    };
    runner.run(&(messages, 0..10_i32, 9..16_i32), property).unwrap();
}
