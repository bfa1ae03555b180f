//! Checks the frames of a client as their bytes arrive (RFC 6455 §5, §8.1).
//!
//! tungstenite checks a frame only when the frame is whole, and accepts lengths that are encoded longer than necessary. The
//! inspector refuses a header at its first wrong byte, and text at its first byte that is not UTF-8. A peer that breaks the
//! protocol therefore can't send the rest of a frame. tungstenite alone checks the text of a whole frame that is a message of
//! its own, so that text is not checked twice.

use super::deflate::COMPRESSED;
use super::frame::Kind;
use super::utf8::Utf8;

/// RFC 6455 §7.4.1: a protocol error.
const PROTOCOL_ERROR: u16 = 1002;
/// RFC 6455 §7.4.1: text that is not UTF-8.
const NOT_UTF8: u16 = 1007;
/// RFC 6455 §7.4.1: a message too big to process.
const TOO_BIG: u16 = 1009;

/// RFC 6455 §5.2: opcodes.
const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;

/// Two bytes, a length of up to eight bytes, and the mask.
const HEADER_BYTES_MAX: usize = 14;

/// The peer breaks the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fault {
    /// How many bytes precede the frame with the fault.
    pub(super) before: usize,
    /// The close code for the fault.
    pub(super) code: u16,
}

#[derive(Debug, Clone, Copy)]
enum InspectState {
    /// How many bytes of the header have arrived.
    Header(usize),
    /// Within a frame's payload.
    Payload { left: u64, phase: usize },
    /// The peer has sent its close frame; later bytes are ignored (§5.5.1).
    Closed,
}

/// A data message whose frames have not all arrived.
#[derive(Debug, Default)]
struct Message {
    /// Bytes of the message's frames so far, with the current frame.
    bytes: u64,
    /// The check of the message's text; `None` for a binary message.
    text: Option<Utf8>,
}

/// A data message has begun.
#[derive(Debug, Clone, Copy)]
pub(super) struct Beginning {
    /// The index of the message's first byte in the inspected bytes.
    pub(super) at: usize,
    pub(super) kind: Kind,
    /// The message's payload is compressed: RSV1 is set (RFC 7692 §6).
    pub(super) deflated: bool,
}

/// Checks the frames of one connection.
#[derive(Debug)]
pub(super) struct Inspector {
    message_bytes_max: u64,
    /// Messages may be compressed.
    deflates: bool,
    /// The messages that have begun since the last `take_begun`; used only where messages may be compressed.
    begun: Vec<Beginning>,
    state: InspectState,
    header: [u8; HEADER_BYTES_MAX],
    message: Option<Message>,
}

/// The fields of a header.
struct Header {
    last: bool,
    opcode: u8,
    len: u64,
    mask: [u8; 4],
}

impl Inspector {
    pub(super) fn new(message_bytes_max: usize, deflates: bool) -> Self {
        Self {
            message_bytes_max: message_bytes_max as u64,
            deflates,
            begun: Vec::new(),
            state: InspectState::Header(0),
            header: [0; HEADER_BYTES_MAX],
            message: None,
        }
    }

    /// Whether the next frame must begin a message or stand between messages.
    pub(super) fn is_between_messages(&self) -> bool {
        matches!(self.state, InspectState::Header(0)) && self.message.is_none()
    }

    /// The messages that have begun in the last inspected bytes; empty without agreed compression.
    pub(super) fn take_begun(&mut self) -> Vec<Beginning> {
        std::mem::take(&mut self.begun)
    }

    /// Checks the next bytes.
    ///
    /// # Errors
    /// The peer breaks the protocol. The caller must pass on no byte from the start of that frame on.
    pub(super) fn inspect(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let (mut at, mut frame_at) = (0, 0);
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            match self.state {
                InspectState::Header(have) => {
                    if have == 0 {
                        frame_at = at;
                    }
                    at += self.take_header(have, rest).map_err(|code| Fault { before: frame_at, code })?;
                    if have == 0 && self.deflates {
                        self.note_beginning(frame_at);
                    }
                }
                InspectState::Payload { left, phase } => {
                    let part = rest.get(..usize::try_from(left).unwrap_or(usize::MAX)).unwrap_or(rest);
                    self.take_payload(part, left, phase).map_err(|code| Fault { before: frame_at, code })?;
                    at += part.len();
                }
                InspectState::Closed => break,
            }
        }
        Ok(())
    }

    /// Records that a frame with its first byte at `at` has begun.
    fn note_beginning(&mut self, at: usize) {
        let kind = match self.header[0] & 0x0f {
            TEXT => Kind::Text,
            BINARY => Kind::Binary,
            _ => return,
        };
        self.begun.push(Beginning { at, kind, deflated: self.header[0] & COMPRESSED != 0 });
    }

    /// Takes header bytes from `rest`; the first `have` bytes of the header are known. Returns how many bytes were taken, with
    /// the bytes of a payload that needs no check.
    fn take_header(&mut self, have: usize, rest: &[u8]) -> Result<usize, u16> {
        let (mut have, mut taken) = (have, 0);
        while have < self.header_len(have) {
            let (Some(place), Some(byte)) = (self.header.get_mut(have), rest.get(taken)) else {
                self.state = InspectState::Header(have);
                return Ok(taken);
            };
            *place = *byte;
            have += 1;
            taken += 1;
            self.check_header(have)?;
        }
        let header = self.header();
        self.begin_frame(&header)?;
        let whole = rest.len() as u64 - taken as u64 >= header.len;
        let unchecked = header.last && header.opcode != CONTINUATION;
        if whole && unchecked || header.len == 0 {
            self.end_frame()?;
            return Ok(taken + usize::try_from(header.len).unwrap_or_default());
        }
        self.state = InspectState::Payload { left: header.len, phase: 0 };
        Ok(taken)
    }

    /// The length of the header, as far as its first `have` bytes determine it.
    fn header_len(&self, have: usize) -> usize {
        match (have, self.header[1] & 0x7f) {
            (0 | 1, _) => 2,
            (_, 126) => 2 + 2 + 4,
            (_, 127) => 2 + 8 + 4,
            _ => 2 + 4,
        }
    }

    /// Judges a header by its first `have` bytes.
    fn check_header(&self, have: usize) -> Result<(), u16> {
        let [first, second, ..] = self.header;
        let (last, opcode) = (first & 0x80 != 0, first & 0x0f);
        let wrong = match have {
            1 => {
                let misplaced = match opcode {
                    CONTINUATION => self.message.is_none(),
                    TEXT | BINARY => self.message.is_some(),
                    CLOSE | PING | PONG => !last, // §5.5: not fragmented
                    _ => true,
                };
                // RFC 7692 §6: RSV1 is for the first frame of a message, and no other bit is ever used.
                let known = if self.deflates && matches!(opcode, TEXT | BINARY) { COMPRESSED } else { 0 };
                first & 0x70 & !known != 0 || misplaced
            }
            // §5.1: masked; §5.5: the payload of a control frame
            2 => second & 0x80 == 0 || opcode & 0x8 != 0 && second & 0x7f > 125,
            // §5.2: the length must use the fewest bytes possible, and the highest bit of eight bytes must be 0
            4 if second & 0x7f == 126 => self.len() < 126,
            10 if second & 0x7f == 127 => self.len() <= u64::from(u16::MAX) || self.len() >> 63 != 0,
            _ => false,
        };
        if wrong { Err(PROTOCOL_ERROR) } else { Ok(()) }
    }

    /// The length of the payload, from a header whose length bytes have arrived.
    fn len(&self) -> u64 {
        let [_, second, a, b, c, d, e, f, g, h, ..] = self.header;
        match second & 0x7f {
            126 => u64::from(u16::from_be_bytes([a, b])),
            127 => u64::from_be_bytes([a, b, c, d, e, f, g, h]),
            short => u64::from(short),
        }
    }

    /// The fields of a whole header.
    fn header(&self) -> Header {
        let mask_at = self.header_len(2) - 4;
        let mask = self.header.get(mask_at..).and_then(|mask| mask.first_chunk()).copied().unwrap_or_default();
        Header { last: self.header[0] & 0x80 != 0, opcode: self.header[0] & 0x0f, len: self.len(), mask }
    }

    /// Processes a complete header: a data frame belongs to a message, whose size is checked against the limit.
    fn begin_frame(&mut self, header: &Header) -> Result<(), u16> {
        match header.opcode {
            // Compressed text is checked when it is expanded.
            TEXT if self.header[0] & COMPRESSED != 0 => self.message = Some(Message::default()),
            TEXT => self.message = Some(Message { bytes: 0, text: Some(Utf8::default()) }),
            BINARY => self.message = Some(Message::default()),
            CONTINUATION => {}
            _ => return Ok(()),
        }
        let Some(message) = &mut self.message else { return Ok(()) };
        message.bytes = message.bytes.saturating_add(header.len);
        if message.bytes > self.message_bytes_max { Err(TOO_BIG) } else { Ok(()) }
    }

    /// Takes a part of a payload; `left` bytes of the payload are still to come.
    fn take_payload(&mut self, part: &[u8], left: u64, phase: usize) -> Result<(), u16> {
        let header = self.header();
        let is_data = header.opcode & 0x8 == 0;
        let text = self.message.as_mut().filter(|_| is_data).and_then(|message| message.text.as_mut());
        if !text.is_none_or(|text| text.push(part, header.mask, phase)) {
            return Err(NOT_UTF8);
        }
        let left = left - part.len() as u64;
        if left == 0 {
            return self.end_frame();
        }
        self.state = InspectState::Payload { left, phase: (phase + part.len()) % 4 };
        Ok(())
    }

    fn end_frame(&mut self) -> Result<(), u16> {
        let (last, opcode) = (self.header[0] & 0x80 != 0, self.header[0] & 0x0f);
        self.state = if opcode == CLOSE { InspectState::Closed } else { InspectState::Header(0) };
        if last && opcode & 0x8 == 0 {
            let text = self.message.take().and_then(|message| message.text);
            if text.is_some_and(|text| !text.is_whole()) {
                return Err(NOT_UTF8);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many bytes of `input`, fed one at a time, are accepted before the refusal, and the close code.
    fn refused_at(input: &[u8]) -> Option<(usize, u16)> {
        let mut inspector = Inspector::new(1000, false);
        input.iter().enumerate().find_map(|(at, byte)| inspector.inspect(&[*byte]).err().map(|fault| (at, fault.code)))
    }

    #[test]
    fn a_header_is_refused_at_its_first_wrong_byte() {
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
    }

    #[test]
    fn rfc_7692_6_rsv1_is_for_the_first_frame_of_a_message() {
        let refused_at = |input: &[u8]| {
            let mut inspector = Inspector::new(1000, true);
            input
                .iter()
                .enumerate()
                .find_map(|(at, byte)| inspector.inspect(&[*byte]).err().map(|fault| (at, fault.code)))
        };
        assert_eq!(refused_at(b"\x41\x81\0\0\0\0\xff\x89\x80\0\0\0\0\x80\x81\0\0\0\0\xff\xc2\x80\0\0\0\0"), None);
        assert_eq!(refused_at(b"\x41\x80\0\0\0\0\xc0"), Some((6, 1002))); // not of a continuation
        for first in [0xe1, 0xd1, 0xa1, 0x91, 0xc9, 0xc8, 0xca, 0xc3] {
            assert_eq!(refused_at(&[first]), Some((0, 1002)), "{first:x}");
        }
        assert_eq!(refused_at(b"\x81\x81\0\0\0\0\xff"), Some((6, 1007))); // one that is not compressed
        assert_eq!(refused_at(b"\xc1\xfe\x03\xe9\0\0\0\0"), Some((7, 1009)));
    }

    #[test]
    fn text_is_refused_at_its_first_wrong_byte() {
        assert_eq!(refused_at(b"\x81\x85\0\0\0\0ab\xffcd"), Some((8, 1007)));
        assert_eq!(refused_at(b"\x01\x81\0\0\0\0\xe2\x00\x81\0\0\0\0\x82\x80\x81\0\0\0\0a"), Some((20, 1007)));
        assert_eq!(refused_at(b"\x01\x81\0\0\0\0\xe2\x80\x80\0\0\0\0"), Some((12, 1007))); // ends within a character
        assert_eq!(refused_at(b"\x82\x82\0\0\0\0\xff\xff\x88\x80\0\0\0\0\xff\xff"), None); // binary; after a close frame
    }

    #[test]
    fn what_comes_before_a_fault_is_told() {
        let mut inspector = Inspector::new(1000, false);
        let fault = inspector.inspect(b"\x81\x81\0\0\0\0a\x01\x81\0\0\0\0\xff").unwrap_err();
        assert_eq!(fault, Fault { before: 7, code: 1007 });
    }
}
