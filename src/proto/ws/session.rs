//! The protocol of one WebSocket: turns received bytes into events, and answers pings and close frames.

use super::frame::{Kind, push_header};
use super::reader::{Input, Reader};

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

/// Limit, in bytes, on the reason in a close frame (RFC 6455 §5.5): a control frame's payload has 125 bytes, and the code takes
/// two.
const REASON_BYTES_MAX: usize = 123;
/// RFC 6455 §5.5: the first bytes of control frames.
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;

/// The server's end of one WebSocket after its handshake. [`encode_frame`](super::encode_frame) encodes data frames; the caller
/// may send them between any two outputs of this session.
#[derive(Debug)]
pub struct Session {
    reader: Reader,
    /// Control frames to send.
    output: Vec<u8>,
    /// A close frame has been sent or received.
    closing: bool,
    over: bool,
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
        while let Some(input) = self.session.reader.next(&mut self.bytes) {
            if let Some(event) = self.session.take(input) {
                return Some(event);
            }
        }
        None
    }
}

impl Session {
    /// Creates the session of a WebSocket that has just been opened.
    #[must_use]
    pub fn new(limits: WsLimits) -> Self {
        let reader = Reader::new(limits.message_bytes_max, limits.deflates);
        Self { reader, output: Vec::new(), closing: false, over: false }
    }

    /// Takes bytes that arrived, and returns their events. The caller must call `next` until it returns `None`.
    pub fn receive<'a>(&'a mut self, bytes: &'a [u8]) -> Received<'a> {
        Received { session: self, bytes }
    }

    /// Answers an input of the peer. Returns the event for the caller, if the input is one.
    fn take(&mut self, input: Input) -> Option<Event> {
        match input {
            Input::Message { kind, deflated, payload } => Some(Event::Message { kind, payload, deflated }),
            // §5.5.1: no frame follows a close frame.
            Input::Ping(payload) => {
                if !self.closing {
                    self.push_control(PONG, &[&payload]);
                }
                None
            }
            Input::Close(None) => {
                if !self.closing {
                    self.push_control(CLOSE, &[]);
                }
                self.end(None)
            }
            Input::Close(Some((code, reason))) => self.fail_with(code, &reason),
            Input::Fault(code) => self.fail_with(code, ""),
        }
    }

    /// Bytes of memory that incomplete messages hold.
    #[must_use]
    pub fn held(&self) -> usize {
        self.reader.held()
    }

    /// Ends the session with `code`, and frees the memory of the incomplete message.
    pub fn give_up(&mut self, code: u16, reason: &str) {
        self.fail_with(code, reason);
    }

    /// Ends the session with a close frame, unless one has been sent (RFC 6455 §5.5.1, §7.1.7).
    fn fail_with(&mut self, code: u16, reason: &str) -> Option<Event> {
        if !self.closing {
            self.push_control(CLOSE, &[&code.to_be_bytes(), reason.as_bytes()]);
        }
        self.end(Some(code))
    }

    /// Ends the session. Only the first call returns an event.
    fn end(&mut self, code: Option<u16>) -> Option<Event> {
        self.reader.end();
        self.closing = true;
        (!std::mem::replace(&mut self.over, true)).then_some(Event::Closed { code })
    }

    /// Encodes a control frame to send.
    fn push_control(&mut self, first: u8, payload: &[&[u8]]) {
        push_header(&mut self.output, first, payload.iter().map(|part| part.len()).sum());
        payload.iter().for_each(|part| self.output.extend_from_slice(part));
    }

    /// Whether there are bytes to send.
    #[must_use]
    pub fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    /// Moves the bytes to send (pongs, close frames) to the end of `out`.
    pub fn take_output(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.output);
        self.output = Vec::new();
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
        self.push_control(CLOSE, &[&code.to_be_bytes(), reason.as_bytes()]);
    }

    /// Whether no more data may be sent: a close frame has been sent or received.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.closing
    }

    /// Queues a ping, unless the session is closing: no frame may follow a close frame (RFC 6455 §5.5.1).
    pub fn ping(&mut self) {
        if !self.closing {
            self.push_control(PING, &[]);
        }
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
        let by_peer: fn(&mut Session) = |session| session.receive(&frame(0x88, b"\x03\xe8")).for_each(drop);
        let by_fault: fn(&mut Session) = |session| session.receive(b"\x81\x01a").for_each(drop);
        let by_us: fn(&mut Session) = |session| session.close(1000, "");
        for end in [by_peer, by_fault, by_us] {
            let (mut session, mut out) = (session(), Vec::new());
            end(&mut session);
            session.ping();
            assert_eq!(session.receive(b"\x89\x80\0\0\0\0").next(), None);
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
