//! Groups 5 and 10: fragmentation.

use super::peer::{BINARY, CLOSE, CONTINUATION, FIN, PING, PONG, Peer, TEXT, answers, close, fails, frame, lab};

#[test]
fn rfc_6455_5_4_messages_in_fragments() {
    let server = lab();
    answers(&server, &[frame(TEXT, b"frag"), frame(FIN, b"ment")].concat(), &[(FIN | TEXT, b"fragment")]);
    answers(
        &server,
        &[frame(BINARY, b"\xff"), frame(CONTINUATION, b"\xfe"), frame(FIN, b"\xfd")].concat(),
        &[(FIN | BINARY, b"\xff\xfe\xfd")],
    );
    // Fragments may be empty, all of them too.
    answers(&server, &[frame(TEXT, b""), frame(CONTINUATION, b""), frame(FIN, b"")].concat(), &[(FIN | TEXT, b"")]);
    answers(
        &server,
        &[frame(TEXT, b""), frame(CONTINUATION, b"middle"), frame(FIN, b"")].concat(),
        &[(FIN | TEXT, b"middle")],
    );
}

#[test]
fn rfc_6455_5_4_control_frames_between_fragments() {
    let server = lab();
    let ping = |payload: &[u8]| frame(FIN | PING, payload);
    let input = [
        frame(TEXT, b"one "),
        ping(b"1"),
        frame(CONTINUATION, b"two "),
        ping(b"2"),
        ping(b"3"),
        frame(FIN | PONG, b""),
        frame(FIN, b"three"),
    ]
    .concat();
    answers(
        &server,
        &input,
        &[(FIN | PONG, b"1"), (FIN | PONG, b"2"), (FIN | PONG, b"3"), (FIN | TEXT, b"one two three")],
    );
    // The pong does not wait for the message's end.
    let mut peer = Peer::open(&server);
    peer.send(&[frame(TEXT, b"begun"), ping(b"now")].concat());
    peer.expect(FIN | PONG, b"now");
    peer.send(&frame(FIN, b" and ended"));
    peer.expect(FIN | TEXT, b"begun and ended");
}

/// Group 10: what a client sends that cuts its messages by itself.
#[test]
fn rfc_6455_5_4_a_long_message_in_short_fragments() {
    let server = lab();
    let text = "*".repeat(65_536);
    let pieces: Vec<&[u8]> = text.as_bytes().chunks(1300).collect();
    let fragments = pieces.iter().enumerate().flat_map(|(at, piece)| {
        let last = if at + 1 == pieces.len() { FIN } else { 0 };
        frame(last | if at == 0 { TEXT } else { CONTINUATION }, piece)
    });
    answers(&server, &fragments.collect::<Vec<u8>>(), &[(FIN | TEXT, text.as_bytes())]);
}

#[test]
fn rfc_6455_5_4_a_continuation_of_nothing() {
    let server = lab();
    fails(&server, &[frame(FIN, b"a"), frame(CONTINUATION, b"a"), frame(FIN, b"")], 1002);
    // A whole message leaves nothing to continue; it is echoed first, or overtaken by the close frame.
    for input in [
        [frame(FIN | TEXT, b"whole"), frame(FIN, b"more")].concat(),
        [frame(TEXT, b"who"), frame(FIN, b"le"), frame(CONTINUATION, b"more")].concat(),
    ] {
        let mut peer = Peer::open(&server);
        peer.send(&input);
        let mut frames = vec![peer.read()];
        if frames[0].0 == FIN | TEXT {
            frames.push(peer.read());
        }
        assert_eq!(frames.last(), Some(&(FIN | CLOSE, vec![3, 0xea])));
    }
}

#[test]
fn rfc_6455_5_4_a_new_message_within_another() {
    let server = lab();
    for begun in [TEXT, BINARY] {
        for new in [TEXT, BINARY, FIN | TEXT, FIN | BINARY] {
            fails(&server, &[[frame(begun, b"begun"), frame(new, b"new")].concat()], 1002);
        }
    }
}

#[test]
fn rfc_6455_5_4_many_fragments() {
    let server = lab();
    let mut peer = Peer::open(&server);
    let mut input = frame(TEXT, b"0");
    for _ in 0..5_000 {
        input.extend(frame(CONTINUATION, b"x"));
    }
    input.extend(frame(FIN, b"!"));
    peer.send(&input);
    let (first, payload) = peer.read();
    assert_eq!((first, payload.len()), (FIN | TEXT, 5_002));
}

#[test]
fn rfc_6455_5_5_1_a_close_frame_between_fragments() {
    let server = lab();
    let mut peer = Peer::open(&server);
    peer.send(&[frame(TEXT, b"begun"), close(1000, b"enough"), frame(FIN, b"ended")].concat());
    peer.expect_close(Some(1000));
}
