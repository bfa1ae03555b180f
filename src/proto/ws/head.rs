//! Parses the heads of a client's frames (RFC 6455 §5.2).

use super::deflate::COMPRESSED;

/// RFC 6455 §7.4.1: a protocol error.
pub(super) const PROTOCOL_ERROR: u16 = 1002;

/// Two bytes, a length of up to eight bytes, and the mask.
pub(super) const HEAD_BYTES_MAX: usize = 14;

/// RFC 6455 §5.2
const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;
const RESERVED: u8 = 0x70;
/// RFC 6455 §5.5: opcodes from here on are those of control frames.
const CONTROL: u8 = 0x8;
/// RFC 6455 §5.5: the longest payload of a control frame, in bytes.
const CONTROL_BYTES_MAX: u8 = 125;

/// RFC 6455 §5.2: opcodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opcode {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

/// The head of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) opcode: Opcode,
    /// The frame is the last one of its message.
    pub(super) last: bool,
    /// The frame begins a compressed message: RSV1 is set (RFC 7692 §6).
    pub(super) deflated: bool,
    /// Length of the payload, in bytes.
    pub(super) payload_len: u64,
    pub(super) mask: [u8; 4],
    /// Length of the head itself, in bytes.
    pub(super) len: usize,
}

/// The properties that the bytes before a head permit in the head.
#[derive(Debug, Clone, Copy)]
pub(super) struct Allowed {
    /// A message has begun: the next data frame continues it.
    pub(super) in_message: bool,
    /// Messages may be compressed.
    pub(super) deflates: bool,
}

impl Head {
    /// The head at the front of `bytes`; `None` while its end is missing.
    ///
    /// # Errors
    /// The close code for an invalid head. One wrong byte is enough; the bytes after it need not have arrived.
    pub(super) fn parse(bytes: &[u8], allowed: Allowed) -> Result<Option<Self>, u16> {
        let Some(&first) = bytes.first() else { return Ok(None) };
        let opcode = opcode(first, allowed)?;
        let Some(&second) = bytes.get(1) else { return Ok(None) };
        let short = second & !MASKED;
        // §5.1: a client masks its frames; §5.5: the payload of a control frame.
        if second & MASKED == 0 || first & CONTROL != 0 && short > CONTROL_BYTES_MAX {
            return Err(PROTOCOL_ERROR);
        }
        let rest = bytes.get(2..).unwrap_or_default();
        let (payload_len, mask_at) = match short {
            126 => match rest.first_chunk() {
                Some(len) => (u64::from(u16::from_be_bytes(*len)), 4),
                None => return Ok(None),
            },
            127 => match rest.first_chunk() {
                Some(len) => (u64::from_be_bytes(*len), 10),
                None => return Ok(None),
            },
            short => (u64::from(short), 2),
        };
        // §5.2: the length must use the fewest bytes possible, and the highest bit of eight bytes must be 0.
        let is_sound = match mask_at {
            4 => payload_len > u64::from(CONTROL_BYTES_MAX),
            10 => payload_len > u64::from(u16::MAX) && payload_len >> 63 == 0,
            _ => true,
        };
        if !is_sound {
            return Err(PROTOCOL_ERROR);
        }
        let Some(&mask) = bytes.get(mask_at..).and_then(|mask| mask.first_chunk()) else { return Ok(None) };
        let deflated = first & COMPRESSED != 0;
        Ok(Some(Self { opcode, last: first & FIN != 0, deflated, payload_len, mask, len: mask_at + mask.len() }))
    }
}

/// The opcode in the first byte of a frame.
fn opcode(first: u8, allowed: Allowed) -> Result<Opcode, u16> {
    let opcode = match first & 0x0f {
        0x0 if allowed.in_message => Opcode::Continuation,
        0x1 if !allowed.in_message => Opcode::Text,
        0x2 if !allowed.in_message => Opcode::Binary,
        // §5.5: control frames are not fragmented.
        0x8 if first & FIN != 0 => Opcode::Close,
        0x9 if first & FIN != 0 => Opcode::Ping,
        0xa if first & FIN != 0 => Opcode::Pong,
        _ => return Err(PROTOCOL_ERROR),
    };
    // RFC 7692 §6: RSV1 is for the first frame of a message, and no other bit is ever used.
    let begins = matches!(opcode, Opcode::Text | Opcode::Binary);
    let known = if allowed.deflates && begins { COMPRESSED } else { 0 };
    if first & RESERVED & !known == 0 { Ok(opcode) } else { Err(PROTOCOL_ERROR) }
}
