//! Reads the frames of a client as their bytes arrive (RFC 6455 §5, §8.1).
//!
//! A payload is copied once: from the receive buffer into its message, where it is unmasked. A head is refused at its first
//! wrong byte, and text at its first byte that is not UTF-8, so a peer that breaks the protocol can't send the rest of a frame.

use super::frame::Kind;
use super::head::{Allowed, HEAD_BYTES_MAX, Head, Opcode, PROTOCOL_ERROR};
use tungstenite::protocol::frame::coding::CloseCode;

/// RFC 6455 §7.4.1: text that is not UTF-8.
const NOT_UTF8: u16 = 1007;
/// RFC 6455 §7.4.1: a message too big to process.
const TOO_BIG: u16 = 1009;

/// The memory of a message grows by at least so many bytes, or by what is left of the frame.
const GROWTH_BYTES_MIN: usize = 16 * 1024;
/// Memory for bytes that have not arrived, as a multiple of those that have.
const GROWTH: usize = 3;

/// An input from a client, as its bytes arrive.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Input {
    Message {
        kind: Kind,
        /// The payload is compressed.
        deflated: bool,
        payload: Vec<u8>,
    },
    /// A ping with its payload.
    Ping(Vec<u8>),
    /// A close frame: the code and the reason, if the frame has them. Later bytes are ignored (§5.5.1).
    Close(Option<(u16, String)>),
    /// The peer breaks the protocol; the close code for the fault. Later bytes are ignored.
    Fault(u16),
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// How many bytes of the head are in `Reader::head`.
    Head(usize),
    /// Within the payload of a frame.
    Payload { head: Head, left: u64 },
    /// The peer has sent its close frame, or has broken the protocol.
    Over,
}

/// A data message whose frames have not all arrived.
#[derive(Debug)]
struct Message {
    kind: Kind,
    deflated: bool,
    /// The bytes that have arrived, unmasked.
    payload: Vec<u8>,
    /// How many bytes at the front of a text have been checked.
    checked: usize,
    /// Bytes of the payloads of all frames so far, as their heads say.
    bytes: u64,
}

/// Reads the frames of one connection.
#[derive(Debug)]
pub(super) struct Reader {
    message_bytes_max: u64,
    /// Messages may be compressed.
    deflates: bool,
    state: State,
    /// The front of a head whose end has not arrived.
    head: [u8; HEAD_BYTES_MAX],
    message: Option<Message>,
    /// The payload of a control frame whose end has not arrived.
    control: Vec<u8>,
}

impl Reader {
    pub(super) fn new(message_bytes_max: usize, deflates: bool) -> Self {
        Self {
            message_bytes_max: message_bytes_max as u64,
            deflates,
            state: State::Head(0),
            head: [0; HEAD_BYTES_MAX],
            message: None,
            control: Vec::new(),
        }
    }

    /// Bytes of the incomplete message.
    pub(super) fn held(&self) -> usize {
        self.message.as_ref().map_or(0, |message| message.payload.len())
    }

    /// Frees the incomplete message; all later bytes are ignored.
    pub(super) fn end(&mut self) {
        self.state = State::Over;
        (self.message, self.control) = (None, Vec::new());
    }

    /// Reads from the front of `bytes` up to the next input, and takes the bytes that it has read from `bytes`; `None` when all
    /// bytes are read.
    pub(super) fn next(&mut self, bytes: &mut &[u8]) -> Option<Input> {
        while !bytes.is_empty() {
            let read = match self.state {
                State::Head(have) => self.read_head(have, bytes),
                State::Payload { head, left } => self.read_payload(&head, left, bytes),
                State::Over => {
                    *bytes = &[];
                    Ok(None)
                }
            };
            match read {
                Ok(None) => {}
                Ok(input) => return input,
                Err(code) => {
                    self.end();
                    return Some(Input::Fault(code));
                }
            }
        }
        None
    }

    /// Reads the rest of a head, of which `have` bytes are in `self.head`, and the payload if it has arrived.
    fn read_head(&mut self, have: usize, bytes: &mut &[u8]) -> Result<Option<Input>, u16> {
        let allowed = Allowed { in_message: self.message.is_some(), deflates: self.deflates };
        let parsed = if have == 0 {
            Head::parse(bytes, allowed)?
        } else {
            let places = self.head.get_mut(have..).unwrap_or_default();
            let end = have + copy(bytes, places);
            Head::parse(self.head.get(..end).unwrap_or_default(), allowed)?
        };
        let Some(head) = parsed else {
            self.state = State::Head(have + copy(bytes, self.head.get_mut(have..).unwrap_or_default()));
            *bytes = &[];
            return Ok(None);
        };
        *bytes = bytes.get(head.len.saturating_sub(have)..).unwrap_or_default();
        if let Some((kind, payload)) = self.whole(&head, bytes) {
            self.state = State::Head(0);
            return Message::whole(kind, &head, payload).map(Some);
        }
        self.begin_frame(&head)?;
        self.read_payload(&head, head.payload_len, bytes)
    }

    /// Takes the payload of a frame from `bytes` if the frame is a message of its own and has arrived whole, as most are.
    fn whole<'a>(&self, head: &Head, bytes: &mut &'a [u8]) -> Option<(Kind, &'a [u8])> {
        let kind = match head.opcode {
            Opcode::Text => Kind::Text,
            Opcode::Binary => Kind::Binary,
            _ => return None,
        };
        if !head.last || head.payload_len > self.message_bytes_max {
            return None;
        }
        let (payload, rest) = bytes.split_at_checked(usize::try_from(head.payload_len).ok()?)?;
        *bytes = rest;
        Some((kind, payload))
    }

    /// Begins a message, or continues one; its size is checked against the limit.
    fn begin_frame(&mut self, head: &Head) -> Result<(), u16> {
        let message = match head.opcode {
            Opcode::Text => self.message.insert(Message::new(Kind::Text, head.deflated)),
            Opcode::Binary => self.message.insert(Message::new(Kind::Binary, head.deflated)),
            Opcode::Continuation => match &mut self.message {
                Some(message) => message,
                None => return Err(PROTOCOL_ERROR),
            },
            Opcode::Close | Opcode::Ping | Opcode::Pong => return Ok(()),
        };
        message.bytes = message.bytes.saturating_add(head.payload_len);
        if message.bytes > self.message_bytes_max { Err(TOO_BIG) } else { Ok(()) }
    }

    /// Reads a payload of which `left` bytes are missing.
    fn read_payload(&mut self, head: &Head, left: u64, bytes: &mut &[u8]) -> Result<Option<Input>, u16> {
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        let (part, rest) = bytes.split_at_checked(len).unwrap_or((bytes, &[]));
        *bytes = rest;
        // How far into the mask the part begins: lengths below 2^63 are congruent modulo four in any type.
        let phase = ((head.payload_len - left) % 4) as usize;
        let mut mask = head.mask;
        mask.rotate_left(phase);
        let left = left - part.len() as u64;
        match (&mut self.message, head.opcode) {
            (Some(message), Opcode::Text | Opcode::Binary | Opcode::Continuation) => message.push(part, mask, left)?,
            _ => push_unmasked(&mut self.control, part, mask),
        }
        if left > 0 {
            self.state = State::Payload { head: *head, left };
            return Ok(None);
        }
        self.state = State::Head(0);
        self.end_frame(head)
    }

    /// The input that the frame completes, if the frame completes one.
    fn end_frame(&mut self, head: &Head) -> Result<Option<Input>, u16> {
        let control = match head.opcode {
            Opcode::Text | Opcode::Binary | Opcode::Continuation => {
                let message = if head.last { self.message.take() } else { None };
                return message.map(Message::finish).transpose();
            }
            Opcode::Close | Opcode::Ping | Opcode::Pong => std::mem::take(&mut self.control),
        };
        match head.opcode {
            Opcode::Ping => Ok(Some(Input::Ping(control))),
            Opcode::Close => {
                let close = close_of(&control)?;
                self.end();
                Ok(Some(Input::Close(close)))
            }
            _ => Ok(None),
        }
    }
}

impl Message {
    fn new(kind: Kind, deflated: bool) -> Self {
        Self { kind, deflated, payload: Vec::new(), checked: 0, bytes: 0 }
    }

    /// A message that is one frame.
    fn whole(kind: Kind, head: &Head, masked: &[u8]) -> Result<Input, u16> {
        // The capacity includes the NUL that a module finds behind the payload.
        let mut payload = Vec::with_capacity(masked.len() + 1);
        push_unmasked(&mut payload, masked, head.mask);
        let is_sound = kind == Kind::Binary || head.deflated || std::str::from_utf8(&payload).is_ok();
        if is_sound { Ok(Input::Message { kind, deflated: head.deflated, payload }) } else { Err(NOT_UTF8) }
    }

    /// Appends a part of a frame; `left` bytes of the frame are still to come.
    fn push(&mut self, part: &[u8], mask: [u8; 4], left: u64) -> Result<(), u16> {
        let room = self.payload.capacity() - self.payload.len();
        if room <= part.len() {
            // The capacity includes the NUL that a module finds behind the payload. A head alone gets no memory for its frame.
            let arrived = self.payload.len() + part.len();
            let ahead = arrived.saturating_mul(GROWTH).max(GROWTH_BYTES_MIN);
            let ahead = usize::try_from(left).unwrap_or(usize::MAX).min(ahead);
            // `reserve_exact` would copy a message of many small frames again and again.
            self.payload.reserve(part.len() + ahead + 1);
        }
        push_unmasked(&mut self.payload, part, mask);
        // Compressed text is checked when it is expanded.
        if self.kind == Kind::Binary || self.deflated { Ok(()) } else { self.check() }
    }

    /// Checks the text that has not been checked yet. The front of a character whose end has not arrived is checked later.
    fn check(&mut self) -> Result<(), u16> {
        match std::str::from_utf8(self.payload.get(self.checked..).unwrap_or_default()) {
            Ok(text) => self.checked += text.len(),
            Err(error) if error.error_len().is_none() => self.checked += error.valid_up_to(),
            Err(_) => return Err(NOT_UTF8),
        }
        Ok(())
    }

    fn finish(self) -> Result<Input, u16> {
        let Self { kind, deflated, payload, checked, .. } = self;
        if kind == Kind::Text && !deflated && checked != payload.len() {
            return Err(NOT_UTF8);
        }
        Ok(Input::Message { kind, deflated, payload })
    }
}

/// The code and the reason in the payload of a close frame (§5.5.1). A code that no peer may send (§7.4) counts as a fault of
/// the protocol with an answer in words.
fn close_of(payload: &[u8]) -> Result<Option<(u16, String)>, u16> {
    let Some((code, reason)) = payload.split_first_chunk() else {
        return if payload.is_empty() { Ok(None) } else { Err(PROTOCOL_ERROR) };
    };
    let code = u16::from_be_bytes(*code);
    let reason = std::str::from_utf8(reason).map_err(|_| NOT_UTF8)?;
    let is_allowed = CloseCode::from(code).is_allowed();
    let told = if is_allowed { (code, reason) } else { (PROTOCOL_ERROR, "Protocol violation") };
    Ok(Some((told.0, told.1.to_owned())))
}

/// Copies as many of `bytes` as fit into `places`. Returns how many.
fn copy(bytes: &[u8], places: &mut [u8]) -> usize {
    places.iter_mut().zip(bytes).map(|(place, byte)| *place = *byte).count()
}

/// Appends `masked` to `out`, unmasked (RFC 6455 §5.3).
fn push_unmasked(out: &mut Vec<u8>, masked: &[u8], mask: [u8; 4]) {
    let begin = out.len();
    out.extend_from_slice(masked);
    let [a, b, c, d] = mask;
    let twice = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (eights, rest) = out.get_mut(begin..).unwrap_or_default().as_chunks_mut::<8>();
    for eight in eights {
        *eight = (u64::from_ne_bytes(*eight) ^ twice).to_ne_bytes();
    }
    rest.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, key)| *byte ^= key);
}

#[cfg(test)]
mod tests;
