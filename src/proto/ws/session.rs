//! The protocol of one WebSocket: tungstenite over a stream in memory.

use super::frame::{Kind, push_header};
use super::inspect::{Beginning, Inspector};
use super::whole::{self, WholeMessage};
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use tungstenite::error::{CapacityError, ProtocolError};
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tungstenite::{Error, Message, WebSocket};

/// Limits of a session.
#[derive(Debug, Clone, Copy)]
pub struct WsLimits {
    /// Limit, in bytes, on a message assembled from its fragments; a compressed message counts with its compressed size.
    pub message_bytes_max: usize,
    /// The peer may compress messages (RFC 7692).
    pub deflates: bool,
}

/// An event from the peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A whole message.
    Message {
        /// Text or binary.
        kind: Kind,
        /// The message's content.
        payload: Vec<u8>,
        /// The content is compressed: an [`Inflater`](super::Inflater) expands the message.
        deflated: bool,
    },
    /// The session is over: the peer's close frame was answered, or the peer broke the protocol. Reported once. The last bytes
    /// to send before the connection is closed are in [`Session::take_output`].
    Closed {
        /// The close code that the peer sent or received.
        code: Option<u16>,
    },
}

/// Initial size, in bytes, of tungstenite's receive buffer in an idle session; the buffer grows with the input.
const READ_BUFFER_BYTES: usize = 512;
/// Limit, in bytes, on the reason in a close frame (RFC 6455 §5.5): a control frame's payload has 125 bytes, and the code takes
/// two.
const REASON_BYTES_MAX: usize = 123;
/// RFC 6455 §5.5.1
const CLOSE: u8 = 0x88;
/// RFC 6455 §5.2
const FIN: u8 = 0x80;
const BINARY: u8 = 0x02;

/// The stream that tungstenite reads and writes.
#[derive(Debug, Default)]
struct Memory {
    input: VecDeque<u8>,
    output: Vec<u8>,
}

impl Read for Memory {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.input.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.input.read(buffer)
    }
}

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The server's end of one WebSocket after its handshake. [`encode_frame`](super::encode_frame) encodes data frames; the caller
/// may send them between any two outputs of this session.
#[derive(Debug)]
pub struct Session {
    inspector: Inspector,
    /// The close code of a fault that the inspector found. The session sends it after it has handed out all earlier messages.
    fault: Option<u16>,
    socket: WebSocket<Memory>,
    limits: WsLimits,
    /// Messages that tungstenite has received and not handed out; used only where messages may be compressed. tungstenite has
    /// no compression, so the session passes compressed messages on as binary messages.
    begun: VecDeque<Beginning>,
    /// tungstenite has processed all bytes that it was given.
    drained: bool,
    /// tungstenite, or the code that writes frames in its place, may have bytes to send.
    speaks: bool,
    closing: bool,
    over: bool,
    /// Approximate number of received bytes of incomplete messages.
    held: usize,
    /// Bytes received last: at most this many follow a complete message.
    fed: usize,
}

/// The events in bytes that arrived, see [`Session::receive`].
#[derive(Debug)]
pub struct Received<'a> {
    session: &'a mut Session,
    /// The bytes that the session has not been given yet.
    bytes: &'a [u8],
}

impl Iterator for Received<'_> {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        if !self.bytes.is_empty() {
            if let Some((event, len)) = self.session.take_whole(self.bytes) {
                self.bytes = self.bytes.get(len..).unwrap_or_default();
                return Some(event);
            }
            self.session.feed(std::mem::take(&mut self.bytes));
        }
        self.session.next()
    }
}

fn protocol(memory: Memory, limits: WsLimits) -> WebSocket<Memory> {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_message_size(Some(limits.message_bytes_max))
        .max_frame_size(Some(limits.message_bytes_max));
    WebSocket::from_raw_socket(memory, Role::Server, Some(config))
}

impl Session {
    /// Creates the session of a WebSocket that has just been opened.
    #[must_use]
    pub fn new(limits: WsLimits) -> Self {
        let socket = protocol(Memory::default(), limits);
        let inspector = Inspector::new(limits.message_bytes_max, limits.deflates);
        Self {
            inspector,
            fault: None,
            socket,
            limits,
            begun: VecDeque::new(),
            drained: true,
            speaks: false,
            closing: false,
            over: false,
            held: 0,
            fed: 0,
        }
    }

    /// Takes bytes that arrived, and returns their events. The caller must call `next` until it returns `None`.
    pub fn receive<'a>(&'a mut self, bytes: &'a [u8]) -> Received<'a> {
        Received { session: self, bytes }
    }

    /// The message at the front of `bytes` and the length of its frame, if the message is whole and no incomplete message
    /// precedes it.
    fn take_whole(&self, bytes: &[u8]) -> Option<(Event, usize)> {
        let usual = self.drained && self.inspector.is_between_messages() && !self.closing && self.fault.is_none();
        let WsLimits { message_bytes_max, deflates } = self.limits;
        let message = usual.then(|| whole::message(bytes, message_bytes_max, deflates)).flatten()?;
        let WholeMessage { kind, deflated, payload, frame_len } = message;
        Some((Event::Message { kind, payload, deflated }, frame_len))
    }

    /// Passes bytes that arrived to tungstenite; the caller must then call [`Session::next`] until it returns `None`.
    fn feed(&mut self, bytes: &[u8]) {
        if self.over || self.fault.is_some() {
            return;
        }
        (self.drained, self.speaks) = (false, true);
        (self.held, self.fed) = (self.held + bytes.len(), bytes.len());
        let sound = match self.inspector.inspect(bytes) {
            Ok(()) => bytes,
            Err(fault) => {
                self.fault = Some(fault.code);
                bytes.get(..fault.before).unwrap_or_default()
            }
        };
        let input = &mut self.socket.get_mut().input;
        let before = input.len();
        input.extend(sound);
        if self.limits.deflates {
            for begun in self.inspector.take_begun() {
                let Some(first) = input.get_mut(before + begun.at) else { continue };
                if begun.deflated {
                    *first = *first & FIN | BINARY;
                }
                self.begun.push_back(begun);
            }
        }
    }

    /// Converts a message that tungstenite has assembled back to the form in which the peer sent it.
    fn message(&mut self, kind: Kind, payload: Vec<u8>) -> Event {
        self.held = self.held.saturating_sub(payload.len()).min(self.fed);
        let begun = self.begun.pop_front().filter(|begun| begun.deflated);
        let (kind, deflated) = begun.map_or((kind, false), |begun| (begun.kind, true));
        Event::Message { kind, payload, deflated }
    }

    /// The next event in the bytes that were fed.
    fn next(&mut self) -> Option<Event> {
        while !self.over && !self.drained {
            match self.socket.read() {
                Ok(Message::Text(text)) => {
                    let payload = tungstenite::Bytes::from(text).into();
                    return Some(self.message(Kind::Text, payload));
                }
                Ok(Message::Binary(bytes)) => {
                    return Some(self.message(Kind::Binary, bytes.into()));
                }
                Ok(Message::Close(frame)) => {
                    // Queues tungstenite's answer; bytes after a close frame are ignored (RFC 6455 §5.5.1).
                    let _ = self.socket.flush();
                    return Some(self.end(frame.map(|frame| frame.code.into())));
                }
                Ok(_) => {} // Pings are answered by tungstenite; pongs need nothing.
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => match self.fault {
                    Some(code) => return Some(self.fail_with(code)),
                    None => self.drained = true,
                },
                Err(error) => return Some(self.fail(&error)),
            }
        }
        if self.socket.get_ref().input.is_empty() {
            // An idle session must hold no memory for input.
            self.socket.get_mut().input = VecDeque::new();
            if self.inspector.is_between_messages() {
                self.held = 0;
            }
            if self.begun.is_empty() {
                self.begun = VecDeque::new();
            }
        }
        None
    }

    /// Bytes of memory that incomplete messages hold.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held
    }

    /// Ends the session with `code`, and frees the memory of the incomplete message.
    pub fn give_up(&mut self, code: u16, reason: &str) {
        if !self.closing {
            self.push_close(code, reason);
        }
        let output = std::mem::take(&mut self.socket.get_mut().output);
        self.socket = protocol(Memory { input: VecDeque::new(), output }, self.limits);
        self.begun = VecDeque::new();
        self.end(Some(code));
    }

    fn end(&mut self, code: Option<u16>) -> Event {
        self.held = 0;
        self.over = true;
        self.closing = true;
        self.socket.get_mut().input = VecDeque::new();
        Event::Closed { code }
    }

    /// The peer broke the protocol: sends the close code and ends the session (RFC 6455 §7.1.7).
    fn fail(&mut self, error: &Error) -> Event {
        let code = match error {
            Error::Utf8(_) => 1007,
            Error::Capacity(CapacityError::MessageTooLong { .. } | CapacityError::TooManyHeaders) => 1009,
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)
            | Error::ConnectionClosed
            | Error::AlreadyClosed => {
                return self.end(None);
            }
            _ => 1002,
        };
        self.fail_with(code)
    }

    fn fail_with(&mut self, code: u16) -> Event {
        if !self.closing {
            self.push_close(code, "");
        }
        self.end(Some(code))
    }

    /// Encodes a close frame without tungstenite, because tungstenite writes nothing after an error.
    fn push_close(&mut self, code: u16, reason: &str) {
        self.speaks = true;
        let out = &mut self.socket.get_mut().output;
        push_header(out, CLOSE, 2 + reason.len());
        out.extend_from_slice(&code.to_be_bytes());
        out.extend_from_slice(reason.as_bytes());
    }

    /// Whether there may be bytes to send.
    #[must_use]
    pub fn has_output(&self) -> bool {
        self.speaks
    }

    /// Moves the bytes to send (pongs, close frames) to the end of `out`.
    pub fn take_output(&mut self, out: &mut Vec<u8>) {
        if !std::mem::take(&mut self.speaks) {
            return;
        }
        let _ = self.socket.flush();
        let output = &mut self.socket.get_mut().output;
        if !output.is_empty() {
            out.append(output);
            *output = Vec::new();
        }
    }

    /// Begins the closing handshake; only the first call has an effect. `reason` is truncated to the limit of a close frame.
    pub fn close(&mut self, code: u16, reason: &str) {
        if std::mem::replace(&mut self.closing, true) {
            return;
        }
        let mut end = reason.len().min(REASON_BYTES_MAX);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        let reason = reason.get(..end).unwrap_or_default();
        self.speaks = true;
        let frame = CloseFrame { code: CloseCode::from(code), reason: reason.to_owned().into() };
        let _ = self.socket.close(Some(frame));
    }

    /// Whether no more data may be sent: a close frame has been sent or received.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.closing
    }

    /// Queues a ping, unless the session is closing: no frame may follow a close frame (RFC 6455 §5.5.1). tungstenite does not
    /// know of close frames that the session encoded itself.
    pub fn ping(&mut self) {
        if self.closing {
            return;
        }
        self.speaks = true;
        let _ = self.socket.send(Message::Ping(tungstenite::Bytes::new()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MASK: [u8; 4] = [1, 2, 3, 4];

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        push_header(&mut out, first, payload.len());
        out[1] |= 0x80;
        out.extend_from_slice(&MASK);
        out.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        out
    }

    fn session() -> Session {
        Session::new(WsLimits { message_bytes_max: 1000, deflates: false })
    }

    fn run(input: &[u8], cuts: &[usize]) -> (Vec<Event>, Vec<u8>) {
        let (mut session, mut events, mut out, mut at) = (session(), Vec::new(), Vec::new(), 0);
        for &cut in cuts.iter().chain(std::iter::once(&input.len())) {
            let cut = cut.clamp(at, input.len());
            events.extend(session.receive(&input[at..cut]));
            at = cut;
            session.take_output(&mut out);
        }
        (events, out)
    }

    fn text(payload: &str) -> Event {
        Event::Message { kind: Kind::Text, payload: payload.into(), deflated: false }
    }

    /// The close code in the close frame of a session that fails.
    fn closes_with(input: &[u8]) -> u16 {
        let (events, out) = run(input, &[]);
        let Some(Event::Closed { code: Some(code) }) = events.last() else { panic!("{events:?}") };
        assert_eq!(out[out.len() - 4..], [CLOSE, 2, (code >> 8) as u8, *code as u8]);
        *code
    }

    #[test]
    fn rfc_6455_5_4_fragments_with_a_ping_between() {
        let input = [frame(0x01, b"Hel"), frame(0x89, b"hi"), frame(0x80, b"lo"), frame(0x82, b"\xff")].concat();
        let (events, out) = run(&input, &[]);
        let binary = Event::Message { kind: Kind::Binary, payload: vec![0xff], deflated: false };
        assert_eq!(events, [text("Hello"), binary]);
        assert_eq!(out, b"\x8a\x02hi"); // §5.5.3: the pong carries the ping's payload
    }

    #[test]
    fn rfc_6455_faults() {
        assert_eq!(closes_with(b"\x81\x01a"), 1002); // §5.1: not masked
        assert_eq!(closes_with(&frame(0xc1, b"a")), 1002); // §5.2: reserved bit
        assert_eq!(closes_with(&frame(0x83, b"a")), 1002); // §5.2: reserved opcode
        assert_eq!(closes_with(&frame(0x80, b"a")), 1002); // §5.4: continuation of nothing
        assert_eq!(closes_with(&frame(0x09, b"a")), 1002); // §5.5: fragmented control frame
        assert_eq!(closes_with(&frame(0x81, b"\xc0\x80")), 1007); // §8.1
        assert_eq!(closes_with(&frame(0x82, &[0; 1001])), 1009); // §7.4.1
        let fragments = [frame(0x02, &[0; 600]), frame(0x80, &[0; 600])].concat();
        assert_eq!(closes_with(&fragments), 1009);
    }

    #[test]
    fn rfc_6455_5_5_1_a_close_frame_is_answered_in_kind() {
        let (events, out) = run(&[frame(0x88, b"\x03\xe8bye"), frame(0x81, b"late")].concat(), &[]);
        assert_eq!(events, [Event::Closed { code: Some(1000) }]);
        assert_eq!(out[..4], [0x88, out[1], 3, 0xe8]);
        let (events, out) = run(&frame(0x88, b""), &[]);
        assert_eq!(events, [Event::Closed { code: None }]);
        assert_eq!(out[0], 0x88);
    }

    #[test]
    fn our_own_close_ends_with_the_peers() {
        let mut session = session();
        session.close(1001, &"é".repeat(100));
        session.close(1000, "again");
        assert!(session.is_closing());
        let mut out = Vec::new();
        session.take_output(&mut out);
        assert_eq!((out[0], out.len()), (0x88, 2 + 2 + 122));
        let events: Vec<Event> = session.receive(&frame(0x88, b"\x03\xe9")).collect();
        assert_eq!(events, [Event::Closed { code: Some(1001) }]);
    }

    #[test]
    fn rfc_6455_5_5_1_nothing_follows_a_close_frame() {
        let by_peer: fn(&mut Session) = |session| session.feed(&frame(0x88, b"\x03\xe8"));
        let by_fault: fn(&mut Session) = |session| session.feed(b"\x81\x01a");
        let by_us: fn(&mut Session) = |session| session.close(1000, "");
        for end in [by_peer, by_fault, by_us] {
            let (mut session, mut out) = (session(), Vec::new());
            end(&mut session);
            session.next();
            session.ping();
            session.take_output(&mut out);
            assert_eq!((out[0], out.len()), (0x88, 4), "{out:x?}");
        }
    }

    proptest! {
        #[test]
        fn cuts_anywhere_give_the_same_events(
            messages in proptest::collection::vec(("[a-zé]{0,40}", 1..4_usize), 0..6),
            mut cuts in proptest::collection::vec(0..400_usize, 0..10),
        ) {
            let mut input = Vec::new();
            for (message, pieces) in &messages {
                let size = message.len().div_ceil(*pieces).max(1);
                let chunks: Vec<&[u8]> = if message.is_empty() { vec![&[]] } else { message.as_bytes().chunks(size).collect() };
                for (at, chunk) in chunks.iter().enumerate() {
                    let first = if at == 0 { 1 } else { 0 } | if at + 1 == chunks.len() { 0x80 } else { 0 };
                    input.extend(frame(first, chunk));
                }
            }
            cuts.sort_unstable();
            let whole = run(&input, &[]);
            prop_assert_eq!(&whole.0, &messages.iter().map(|(message, _)| text(message)).collect::<Vec<_>>());
            prop_assert_eq!(run(&input, &cuts), whole);
        }

        #[test]
        fn cuts_anywhere_give_the_same_end(
            frames in proptest::collection::vec((any::<u8>(), proptest::collection::vec(any::<u8>(), 0..140)), 0..6),
            bit in 0..2000_usize,
            mut cuts in proptest::collection::vec(0..600_usize, 0..10),
        ) {
            let first = |byte: u8| [0x01, 0x81, 0x02, 0x82, 0x00, 0x80, 0x89, 0x8a, 0x88, byte][usize::from(byte % 10)];
            let mut input: Vec<u8> = frames.iter().flat_map(|(byte, payload)| frame(first(*byte), payload)).collect();
            if let Some(byte) = input.get_mut(bit / 8) {
                *byte ^= 1 << (bit % 8);
            }
            cuts.sort_unstable();
            prop_assert_eq!(run(&input, &cuts), run(&input, &[]));
        }

        #[test]
        fn any_bytes_are_fine(input in proptest::collection::vec(any::<u8>(), 0..300), cut in 0..300_usize) {
            run(&input, &[cut]);
        }
    }
}
