//! Encodes data frames to send (RFC 6455 §5.2). A server does not mask its frames.

use super::extension::{Deflate, WINDOW_BITS_MAX};
use std::sync::Arc;

/// The type of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    Text,
    Binary,
}

impl Kind {
    /// The first byte of a frame that is a whole message.
    pub(super) fn first_byte(self) -> u8 {
        match self {
            Self::Text => 0x81,
            Self::Binary => 0x82,
        }
    }
}

/// One message for many sockets, encoded at most twice: plain, and compressed for the sockets that have agreed on compression.
#[derive(Debug, Clone)]
pub struct Encoded {
    /// The frame that every socket can read.
    pub plain: Arc<[u8]>,
    /// The frame for sockets with compression, if it is smaller than `plain`; compressed with the largest window.
    pub deflated: Option<Arc<[u8]>>,
}

impl Encoded {
    /// The frame for a socket that has agreed on `deflate`.
    #[must_use]
    pub fn frame(&self, deflate: Option<Deflate>) -> &Arc<[u8]> {
        // A message that fits into the window can't refer to bytes beyond it.
        let fits = |deflate: Deflate| {
            deflate.window_bits() == WINDOW_BITS_MAX || self.plain.len() <= 1 << deflate.window_bits()
        };
        self.deflated.as_ref().filter(|_| deflate.is_some_and(fits)).unwrap_or(&self.plain)
    }
}

/// The kind of `payload`: text if it is valid UTF-8, else binary.
#[must_use]
pub fn kind_of(payload: &[u8]) -> Kind {
    if std::str::from_utf8(payload).is_ok() { Kind::Text } else { Kind::Binary }
}

/// Encodes one message as one frame.
#[must_use]
pub fn encode_frame(kind: Kind, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() + 10);
    push_header(&mut out, kind.first_byte(), payload.len());
    out.extend_from_slice(payload);
    out
}

/// Appends the first byte, then the length in 7, 16 or 64 bits.
pub(super) fn push_header(out: &mut Vec<u8>, first: u8, len: usize) {
    out.push(first);
    match (u8::try_from(len), u16::try_from(len)) {
        (Ok(short @ 0..=125), _) => out.push(short),
        (_, Ok(medium)) => {
            out.push(126);
            out.extend_from_slice(&medium.to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_6455_5_2_lengths() {
        for (len, header) in [(0, 2), (125, 2), (126, 4), (65_535, 4), (65_536, 10)] {
            let frame = encode_frame(Kind::Binary, &vec![1; len]);
            assert_eq!((frame.len(), frame[0]), (len + header, 0x82));
        }
        assert_eq!(encode_frame(Kind::Text, b"Hello"), b"\x81\x05Hello"); // RFC 6455 §5.7
        assert_eq!(kind_of(b"\xff"), Kind::Binary);
    }

    #[test]
    fn a_socket_with_a_small_window_gets_no_larger_message_compressed() {
        let encoded =
            |bytes: usize| Encoded { plain: vec![1; bytes].into(), deflated: Some(Arc::from(&b"deflated"[..])) };
        let is_deflated =
            |bytes: usize, bits: u8| encoded(bytes).frame(Deflate::with_window(bits)).starts_with(b"deflated");
        assert!(is_deflated(256, 8) && is_deflated(512, 9) && is_deflated(1 << 20, 15));
        assert!(!is_deflated(257, 8) && !is_deflated(513, 9) && !is_deflated(20_000, 14));
        assert!(!is_deflated(1, 7), "without an agreement");
        assert_eq!(Encoded { deflated: None, ..encoded(7) }.frame(Deflate::with_window(15)).len(), 7);
    }
}
