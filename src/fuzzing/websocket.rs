//! Compares a WebSocket's session with a second reader of RFC 6455.

use super::{pieces, ways_to_cut};
use crate::proto::ws::{Event, Inflater, Kind, Session, WsLimits};
use std::io::Read;

const MESSAGE_BYTES_MAX: usize = 1000;

/// The output of a session: events, and bytes for the peer.
type Run = (Vec<Event>, Vec<u8>);

/// The input is the bytes of a client after the handshake. Messages, answers to pings and the end must follow RFC 6455, however
/// the input is cut.
pub fn websocket(data: &[u8]) {
    stream(data, false);
}

/// The same for a client that may compress messages (RFC 7692). Each message must equal the output of another decoder, or be
/// too large, or be invalid.
pub fn websocket_deflate(data: &[u8]) {
    let mut inflater = Inflater::default();
    for (kind, _, payload) in stream(data, true).into_iter().filter(|message| message.1) {
        let (expected, is_whole) = expanded(&payload);
        match inflater.message(kind, &payload, MESSAGE_BYTES_MAX) {
            Ok(message) => {
                assert!(message.len() <= MESSAGE_BYTES_MAX);
                assert!(kind == Kind::Binary || std::str::from_utf8(&message).is_ok());
                assert!(!is_whole || message == expected);
            }
            Err(1009) => assert!(!is_whole || expected.len() > MESSAGE_BYTES_MAX),
            // The other decoder reads zeros for a reference to bytes before the message.
            Err(code) => assert_eq!(code, 1007),
        }
        assert_eq!(inflater.message(Kind::Text, &[0], 0), Ok(Vec::new()), "nothing is left of a message");
    }
}

/// Expands a compressed message with flate2, up to one byte beyond the limit. The second value: whether flate2 has used the
/// whole message. flate2 drops bytes that it has expanded before a fault, and stops behind a last block.
fn expanded(payload: &[u8]) -> (Vec<u8>, bool) {
    let (input, mut out) = ([payload, &[0, 0, 0xff, 0xff]].concat(), Vec::new());
    let mut decoder = flate2::bufread::DeflateDecoder::new(&input[..]);
    let has_failed = (&mut decoder).take(MESSAGE_BYTES_MAX as u64 + 1).read_to_end(&mut out).is_err();
    let is_whole = out.len() > MESSAGE_BYTES_MAX || decoder.total_in() as usize == input.len();
    (out, is_whole && !has_failed)
}

type Deflatable = (Kind, bool, Vec<u8>);

/// Checks a stream. Returns its messages in order of arrival.
fn stream(data: &[u8], deflates: bool) -> Vec<Deflatable> {
    let run = |pieces: &[&[u8]]| run(pieces, deflates);
    let whole = run(&[data]);
    let expected = Reader::read(data, deflates);
    let messages: Vec<Deflatable> = whole.0.iter().filter_map(message).collect();
    assert_eq!(messages, expected.messages);
    let (answers, close) = whole.1.split_at(expected.pongs.len().min(whole.1.len()));
    assert_eq!(answers, expected.pongs);
    match (expected.end, whole.0.last()) {
        (End::Open, None | Some(Event::Message { .. })) => assert_eq!(close, b""),
        (End::Closed(code), Some(Event::Closed { code: said })) => {
            // A code that may not be sent is a fault (§7.4).
            assert!(code == *said || *said == Some(1002), "{code:?} answered with {said:?}");
            check_close(close, *said);
        }
        // The session refuses a frame at its first wrong byte; the second reader ignores a frame that is not whole.
        (End::Failed | End::Open, Some(Event::Closed { code: Some(code) })) => {
            assert!(matches!(code, 1002 | 1007 | 1009));
            check_close(close, Some(*code));
        }
        (expected, found) => panic!("expected {expected:?}, found {found:?}"),
    }
    for cuts in ways_to_cut(data) {
        assert_eq!(run(&pieces(data, &cuts)), whole);
    }
    messages
}

fn message(event: &Event) -> Option<Deflatable> {
    match event {
        Event::Message { kind, payload, deflated } => {
            assert!(payload.len() <= MESSAGE_BYTES_MAX);
            Some((*kind, *deflated, payload.clone()))
        }
        Event::Closed { .. } => None,
        Event::Large { .. } | Event::Part { .. } => panic!("no message is announced"),
    }
}

fn run(pieces: &[&[u8]], deflates: bool) -> Run {
    let mut session =
        Session::new(WsLimits { message_bytes_max: MESSAGE_BYTES_MAX, large_bytes_min: usize::MAX, deflates });
    let (mut events, mut out) = (Vec::new(), Vec::new());
    for piece in pieces {
        for event in session.receive(piece) {
            assert!(!matches!(events.last(), Some(Event::Closed { .. })), "nothing follows the end");
            events.push(event);
        }
        session.take_output(&mut out);
    }
    assert_eq!(session.is_closing(), matches!(events.last(), Some(Event::Closed { .. })));
    // §5.5.1: no frame may follow a close frame.
    if session.is_closing() {
        let before = out.len();
        session.ping();
        session.close(1000, "");
        session.take_output(&mut out);
        assert_eq!(out.len(), before);
    }
    (events, out)
}

/// Checks that `frame` is one whole unmasked close frame with `code`.
fn check_close(frame: &[u8], code: Option<u16>) {
    assert_eq!(frame[0], 0x88);
    assert_eq!(frame.len(), 2 + usize::from(frame[1]), "one frame and nothing else");
    match code {
        None => assert_eq!(frame[1], 0),
        Some(code) => assert_eq!(frame[2..4], code.to_be_bytes()),
    }
    assert!(std::str::from_utf8(frame.get(4..).unwrap_or_default()).is_ok());
}

#[derive(Debug, Clone, Copy)]
enum End {
    Open,
    /// The peer's close frame ended the session.
    Closed(Option<u16>),
    /// A fault ended the session.
    Failed,
}

/// Reads frames of a whole stream.
struct Reader {
    /// RSV1 is allowed.
    deflates: bool,
    messages: Vec<Deflatable>,
    /// The frames that answer pings.
    pongs: Vec<u8>,
    /// The message whose fragments have not all arrived.
    open: Option<Deflatable>,
    end: End,
}

struct Frame {
    first: u8,
    masked: bool,
    payload: Vec<u8>,
}

impl Reader {
    fn read(mut rest: &[u8], deflates: bool) -> Self {
        let mut reader = Self { deflates, messages: Vec::new(), pongs: Vec::new(), open: None, end: End::Open };
        loop {
            match frame(rest) {
                Ok(Some((frame, length))) => {
                    rest = &rest[length..];
                    if let Err(end) = reader.take(&frame) {
                        reader.end = end;
                        return reader;
                    }
                }
                Ok(None) => return reader,
                Err(()) => {
                    reader.end = End::Failed;
                    return reader;
                }
            }
        }
    }

    fn take(&mut self, frame: &Frame) -> Result<(), End> {
        let (is_final, opcode) = (frame.first & 0x80 != 0, frame.first & 0x0f);
        let reserved = if self.deflates && matches!(opcode, 1 | 2) { 0x30 } else { 0x70 };
        let wrong = !frame.masked || frame.first & reserved != 0;
        let is_control = opcode >= 8;
        if wrong || is_control && (!is_final || frame.payload.len() > 125) {
            return Err(End::Failed);
        }
        match opcode {
            8 => return Err(closed(&frame.payload)),
            9 => {
                self.pongs.extend_from_slice(&[0x8a, frame.payload.len() as u8]);
                self.pongs.extend_from_slice(&frame.payload);
            }
            10 => {}
            _ => self.data(opcode, is_final, frame.first & 0x40 != 0, &frame.payload)?,
        }
        Ok(())
    }

    fn data(&mut self, opcode: u8, is_final: bool, deflated: bool, payload: &[u8]) -> Result<(), End> {
        let (kind, deflated, mut all) = match (opcode, self.open.take()) {
            (0, Some(open)) => open,
            (1, None) => (Kind::Text, deflated, Vec::new()),
            (2, None) => (Kind::Binary, deflated, Vec::new()),
            _ => return Err(End::Failed),
        };
        all.extend_from_slice(payload);
        if all.len() > MESSAGE_BYTES_MAX {
            return Err(End::Failed);
        }
        let fault = std::str::from_utf8(&all).err().filter(|_| kind == Kind::Text && !deflated);
        // A fragment may end within a character. An invalid sequence that no further byte can complete is a fault at once.
        if fault.is_some_and(|fault| is_final || fault.error_len().is_some()) {
            return Err(End::Failed);
        }
        if is_final {
            self.messages.push((kind, deflated, all));
        } else {
            self.open = Some((kind, deflated, all));
        }
        Ok(())
    }
}

/// The first frame in `bytes` (§5.2) and its length; `None` if the frame is not complete. A fault in the head is an error
/// before the payload has arrived.
fn frame(bytes: &[u8]) -> Result<Option<(Frame, usize)>, ()> {
    let [first, second, ..] = *bytes else { return Ok(None) };
    let (extended, masked) = (second & 0x7f, second & 0x80 != 0);
    let length_bytes = match extended {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let mask_at = 2 + length_bytes;
    let start = mask_at + if masked { 4 } else { 0 };
    let Some(head) = bytes.get(..start) else { return Ok(None) };
    let length = match length_bytes {
        0 => u64::from(extended),
        _ => head[2..mask_at].iter().fold(0, |length, &byte| length << 8 | u64::from(byte)),
    };
    // §5.2: the length must use the fewest bytes possible.
    let minimal = match length_bytes {
        2 => length > 125,
        8 => length > u64::from(u16::MAX),
        _ => true,
    };
    if matches!(first & 0x0f, 3..=7 | 11..) || length > MESSAGE_BYTES_MAX as u64 || !minimal {
        return Err(());
    }
    let end = start + length as usize;
    let Some(payload) = bytes.get(start..end) else { return Ok(None) };
    let mask = if masked { &head[mask_at..] } else { &[0; 4] };
    let payload = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
    Ok(Some((Frame { first, masked, payload }, end)))
}

fn closed(payload: &[u8]) -> End {
    match payload {
        [] => End::Closed(None),
        [high, low, reason @ ..] if std::str::from_utf8(reason).is_ok() => {
            End::Closed(Some(u16::from_be_bytes([*high, *low])))
        }
        _ => End::Failed,
    }
}
