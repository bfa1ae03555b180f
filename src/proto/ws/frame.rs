//! Data frames to send (RFC 6455 §5.2). A server's frames are not masked.

/// What a message holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    Text,
    Binary,
}

/// Text if `payload` is valid UTF-8, else binary.
#[must_use]
pub fn kind_of(payload: &[u8]) -> Kind {
    if std::str::from_utf8(payload).is_ok() { Kind::Text } else { Kind::Binary }
}

/// One message as one frame.
#[must_use]
pub fn encode_frame(kind: Kind, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() + 10);
    let opcode = match kind {
        Kind::Text => 0x81,
        Kind::Binary => 0x82,
    };
    push_header(&mut out, opcode, payload.len());
    out.extend_from_slice(payload);
    out
}

/// First byte, then the length in 7, 16 or 64 bits.
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
}
