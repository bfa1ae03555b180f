//! The fast path: a valid message that is one frame and has arrived whole (RFC 6455 §5.2).
//!
//! The message is copied once, out of the receive buffer. All other input is left untouched, and the inspector checks it byte
//! by byte.

use super::deflate::COMPRESSED;
use super::frame::Kind;

/// FIN, no reserved bit, opcode 1 or 2.
const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;

/// A message of one frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct WholeMessage {
    pub(super) kind: Kind,
    /// The payload is compressed.
    pub(super) deflated: bool,
    pub(super) payload: Vec<u8>,
    /// Length of the frame, in bytes.
    pub(super) frame_len: usize,
}

/// The message at the front of `bytes`, of at most `bytes_max` bytes. The message may be compressed only if `deflates` is set.
pub(super) fn message(bytes: &[u8], bytes_max: usize, deflates: bool) -> Option<WholeMessage> {
    let deflated = deflates && bytes.first()? & COMPRESSED != 0;
    let kind = kind(if deflated { bytes.first()? ^ COMPRESSED } else { *bytes.first()? })?;
    let (payload_len, mask_at) = match *bytes {
        [_, masked @ 0x80..=0xfd, ..] => (usize::from(masked & 0x7f), 2),
        [_, 0xfe, high, low, ..] => (usize::from(u16::from_be_bytes([high, low])), 4),
        _ => return None,
    };
    // The length must be encoded in the fewest bytes possible.
    if payload_len > bytes_max || (mask_at == 4 && payload_len < 126) {
        return None;
    }
    let mask = *bytes.get(mask_at..)?.first_chunk::<4>()?;
    let masked = bytes.get(mask_at + 4..mask_at + 4 + payload_len)?;
    // Room for the NUL that a module finds behind the payload.
    let mut payload = Vec::with_capacity(payload_len + 1);
    payload.extend_from_slice(masked);
    unmask(&mut payload, mask);
    let sound = kind == Kind::Binary || deflated || std::str::from_utf8(&payload).is_ok();
    sound.then_some(WholeMessage { kind, deflated, payload, frame_len: mask_at + 4 + payload_len })
}

fn kind(first: u8) -> Option<Kind> {
    match first {
        TEXT => Some(Kind::Text),
        BINARY => Some(Kind::Binary),
        _ => None,
    }
}

/// Unmasks `payload` (RFC 6455 §5.3).
fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let twice = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (eights, rest) = payload.as_chunks_mut::<8>();
    for eight in eights {
        *eight = (u64::from_ne_bytes(*eight) ^ twice).to_ne_bytes();
    }
    rest.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, key)| *byte ^= key);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_whole_messages_and_nothing_else() {
        let hello = b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58"; // RFC 6455 §5.7
        let text = |deflated, payload: &[u8], frame_len| {
            Some(WholeMessage { kind: Kind::Text, deflated, payload: payload.to_vec(), frame_len })
        };
        let binary = |payload: Vec<u8>, frame_len| {
            Some(WholeMessage { kind: Kind::Binary, deflated: false, payload, frame_len })
        };
        let message = |bytes: &[u8], bytes_max| message(bytes, bytes_max, false);
        assert_eq!(message(hello, 5), text(false, b"Hello", 11));
        assert_eq!(message(&[&hello[..], b"\x89"].concat(), 5), text(false, b"Hello", 11));
        assert_eq!(super::message(hello, 5, true), text(false, b"Hello", 11));
        assert_eq!(super::message(b"\xc1\x81\0\0\0\0\xff", 5, true), text(true, b"\xff", 7));
        for reserved in [b"\xa1\x81\0\0\0\0a", b"\x91\x81\0\0\0\0a", b"\xe1\x81\0\0\0\0a", b"\xc9\x81\0\0\0\0a"] {
            assert_eq!(super::message(reserved, 5, true), None);
        }
        assert_eq!(message(b"\x82\x80\0\0\0\0", 0), binary(Vec::new(), 6));
        let long = |len: usize| [b"\x82\xfe", &(len as u16).to_be_bytes()[..], &[0; 4], &vec![7; len]].concat();
        assert_eq!(message(&long(126), 1000), binary(vec![7; 126], 134));
        for left in [
            &hello[..10],                  // not whole
            b"\x81",                       // not whole either
            b"\x01\x81\0\0\0\0a",          // a fragment
            b"\x80\x81\0\0\0\0a",          // the last one
            b"\x89\x81\0\0\0\0a",          // a ping
            b"\xc1\x81\0\0\0\0a",          // a reserved bit
            b"\x81\x01a",                  // not masked
            b"\x81\x82\0\0\0\0\xc3\x28",   // no UTF-8
            b"\x82\xff\0\0\0\0\0\x01\0\0", // eight bytes of length
            &long(125),                    // a length that is written too long
            &long(1001),                   // too much
        ] {
            assert_eq!(message(left, 1000), None, "{left:x?}");
        }
    }
}
