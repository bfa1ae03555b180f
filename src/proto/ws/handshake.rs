//! The opening handshake, the server's side (RFC 6455 §4.2).

use super::extension::Deflate;
use crate::proto::http1::{Method, RequestView};
use tungstenite::handshake::derive_accept_key;

/// Why a handshake is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum HandshakeError {
    #[error("a WebSocket handshake is a GET of HTTP/1.1")]
    Request,
    #[error("a WebSocket handshake needs Upgrade: websocket")]
    Upgrade,
    #[error("a WebSocket handshake needs Connection: Upgrade")]
    Connection,
    #[error("Sec-WebSocket-Key must be 16 bytes in base64")]
    Key,
    #[error("only version 13 of the WebSocket protocol is spoken here")]
    Version,
}

impl HandshakeError {
    /// The status to answer with (RFC 6455 §4.2.2, §4.4).
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::Version => 426,
            _ => 400,
        }
    }
}

/// Checks a handshake and gives the value of `Sec-WebSocket-Accept`.
///
/// # Errors
/// See [`HandshakeError`].
pub fn check(view: &RequestView<'_>) -> Result<[u8; 28], HandshakeError> {
    if view.method() != Method::Get || view.http_1_0() {
        return Err(HandshakeError::Request);
    }
    if !view.is_websocket_upgrade() {
        return Err(HandshakeError::Upgrade);
    }
    if !view.has_token("connection", "upgrade") {
        return Err(HandshakeError::Connection);
    }
    if only(view, "sec-websocket-version") != Some(b"13") {
        return Err(HandshakeError::Version);
    }
    let key = only(view, "sec-websocket-key").ok_or(HandshakeError::Key)?;
    if !is_base64_of_16_bytes(key) {
        return Err(HandshakeError::Key);
    }
    derive_accept_key(key).into_bytes().try_into().map_err(|_| HandshakeError::Key)
}

/// The value of the field `name` if exactly one such field exists (RFC 6455 §11.3.1, §11.3.5).
fn only<'a>(view: &RequestView<'a>, name: &str) -> Option<&'a [u8]> {
    let mut values = view.headers().filter(|(known, _)| known.eq_ignore_ascii_case(name.as_bytes()));
    values.next().filter(|_| values.next().is_none()).map(|(_, value)| value)
}

/// Whether the key has 22 characters and `==`; the last character carries two bits of data, so its other four bits must be
/// zero.
fn is_base64_of_16_bytes(key: &[u8]) -> bool {
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    match key.split_at_checked(21) {
        Some((digits, [last, b'=', b'='])) => digits.iter().all(is_digit) && matches!(last, b'A' | b'Q' | b'g' | b'w'),
        _ => false,
    }
}

/// Appends the answer that completes the handshake, with the agreed compression.
pub fn encode_accept(out: &mut Vec<u8>, accept: &[u8; 28], deflate: Option<Deflate>, date: &[u8; 29]) {
    out.extend_from_slice(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nDate: ");
    out.extend_from_slice(date);
    out.extend_from_slice(b"\r\nSec-WebSocket-Accept: ");
    out.extend_from_slice(accept);
    out.extend_from_slice(b"\r\n");
    if let Some(deflate) = deflate {
        deflate.push_field(out);
    }
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::http1::{Decoded, Limits, RequestDecoder};

    fn result(text: &str) -> Result<[u8; 28], HandshakeError> {
        let mut decoder = RequestDecoder::new(Limits::default());
        let Ok(Decoded::Request { view, .. }) = decoder.decode(text.as_bytes()) else { panic!("{text}") };
        check(&view)
    }

    const GOOD: &str = "GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n\
                        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

    #[test]
    fn rfc_6455_1_3_sample() {
        assert_eq!(&result(GOOD).unwrap(), b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn rfc_6455_4_2_1_requirements() {
        let changed = |from: &str, to: &str| result(&GOOD.replace(from, to)).unwrap_err();
        assert_eq!(changed("Version: 13", "Version: 8").status(), 426);
        assert_eq!(changed("Sec-WebSocket-Version: 13\r\n", "").status(), 426);
        assert_eq!(changed("Version: 13\r\n", "Version: 13\r\nSec-WebSocket-Version: 13\r\n").status(), 426);
        assert_eq!(changed("GET", "POST"), HandshakeError::Request);
        assert_eq!(changed("keep-alive, Upgrade", "keep-alive"), HandshakeError::Connection);
        assert_eq!(changed("Upgrade: WebSocket", "Upgrade: h2c"), HandshakeError::Upgrade);
        assert_eq!(changed("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZQ"), HandshakeError::Key);
        assert_eq!(changed("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZR=="), HandshakeError::Key);
        assert_eq!(changed("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""), HandshakeError::Key);
    }
}
