//! The extension permessage-deflate (RFC 7692): the client's offers, and the agreement.
//!
//! The server agrees on messages that are compressed independently, in both directions: neither side keeps a window between
//! messages. A connection therefore costs no memory for compression, and one compressed message serves every socket of a
//! broadcast.

use crate::proto::http1::RequestView;

const NAME: &str = "permessage-deflate";
/// The header field that carries offers and the answer.
const FIELD: &str = "Sec-WebSocket-Extensions";
const SERVER_WINDOW: &str = "server_max_window_bits";

/// The largest window of DEFLATE, as a power of two (RFC 1951 §2).
pub const WINDOW_BITS_MAX: u8 = 15;
/// RFC 7692 §7.1.2.1
const WINDOW_BITS_MIN: u8 = 8;

/// An agreement on permessage-deflate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deflate {
    /// The server's LZ77 window, as a power of two: 8 to 15. The server sends no reference beyond this window.
    window_bits: u8,
    /// The client has asked for a limit on that window, so the answer must state the limit.
    named: bool,
}

impl Deflate {
    /// An agreement with a server window of `bits`; `None` unless `bits` is 8 to 15.
    #[must_use]
    pub fn with_window(bits: u8) -> Option<Self> {
        (WINDOW_BITS_MIN..=WINDOW_BITS_MAX).contains(&bits).then_some(Self { window_bits: bits, named: false })
    }

    /// The first offer of the handshake that the server can accept (RFC 7692 §7.1).
    #[must_use]
    pub fn negotiate(view: &RequestView<'_>) -> Option<Self> {
        let fields = view.headers().filter(|(name, _)| name.eq_ignore_ascii_case(FIELD.as_bytes()));
        // Several fields of the same name form one list (RFC 6455 §9.1).
        fields
            .filter_map(|(_, value)| std::str::from_utf8(value).ok())
            .find_map(|value| split(value, ',').find_map(offer))
    }

    /// Reads the agreed extension from the answer that completes a handshake.
    #[must_use]
    pub fn of_answer(answer: &[u8]) -> Option<Self> {
        let lines = answer.split(|byte| *byte == b'\n').take_while(|line| **line != *b"\r");
        let values = lines.filter_map(|line| std::str::from_utf8(line).ok()?.strip_prefix(FIELD)?.strip_prefix(": "));
        values.filter_map(|value| offer(value.trim_end())).next()
    }

    /// The server's LZ77 window, as a power of two.
    #[must_use]
    pub fn window_bits(self) -> u8 {
        self.window_bits
    }

    /// Appends the header field of the answer.
    pub fn push_field(self, out: &mut Vec<u8>) {
        out.extend_from_slice(FIELD.as_bytes());
        out.extend_from_slice(b": permessage-deflate; server_no_context_takeover; client_no_context_takeover");
        if self.named {
            out.extend_from_slice(format!("; {SERVER_WINDOW}={}", self.window_bits).as_bytes());
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// Parses one extension of a list; `None` if the server can't accept it as an offer.
fn offer(text: &str) -> Option<Deflate> {
    let mut parts = split(text, ';');
    if parts.next()? != NAME {
        return None;
    }
    let (mut seen, mut window) = (Vec::new(), None);
    for part in parts {
        let (name, value) = match part.split_once('=') {
            Some((name, value)) => (name.trim(), Some(unquoted(value.trim())?)),
            None => (part, None),
        };
        match (name, value) {
            ("server_no_context_takeover" | "client_no_context_takeover" | "client_max_window_bits", None) => {}
            // The client's limit on its own window needs no answer: the server reads with the largest window.
            ("client_max_window_bits", Some(bits)) => drop(window_bits(bits)?),
            (SERVER_WINDOW, Some(bits)) => window = Some(window_bits(bits)?),
            _ => return None,
        }
        if seen.contains(&name) {
            return None;
        }
        seen.push(name);
    }
    Some(Deflate { window_bits: window.unwrap_or(WINDOW_BITS_MAX), named: window.is_some() })
}

/// A number from 8 to 15, in decimal and without leading zeros (RFC 7692 §7.1.2.1).
fn window_bits(text: &str) -> Option<u8> {
    let bits: u8 = text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    (!text.starts_with('0') && (WINDOW_BITS_MIN..=WINDOW_BITS_MAX).contains(&bits)).then_some(bits)
}

/// The value of a parameter without its quotes; `None` if a quote is missing (RFC 6455 §9.1: the quoted text is a token).
fn unquoted(value: &str) -> Option<&str> {
    match value.strip_prefix('"') {
        Some(rest) => rest.strip_suffix('"'),
        None => Some(value),
    }
}

/// The parts of `text` between unquoted `separator`s, without surrounding blanks.
fn split(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    let parts = text.split(move |found| {
        quoted ^= found == '"';
        found == separator && !quoted
    });
    parts.map(|part| part.trim_matches([' ', '\t']))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::http1::{Decoded, Limits, RequestDecoder};

    /// The header field that answers a handshake with these extension fields.
    fn answered(offers: &[&str]) -> Option<String> {
        let fields: String = offers.iter().map(|offer| format!("sec-websocket-extensions: {offer}\r\n")).collect();
        let text = format!("GET /ws HTTP/1.1\r\nHost: x\r\n{fields}\r\n");
        let mut decoder = RequestDecoder::new(Limits::default());
        let Ok(Decoded::Request { view, .. }) = decoder.decode(text.as_bytes()) else { panic!("{text}") };
        let deflate = Deflate::negotiate(&view)?;
        let mut field = Vec::new();
        deflate.push_field(&mut field);
        let answer =
            [b"HTTP/1.1 101 Switching Protocols\r\nA: b\r\n", &field[..], b"\r\nSec-WebSocket-Extensions: x"].concat();
        assert_eq!(Deflate::of_answer(&answer), Some(deflate));
        String::from_utf8(field).ok()?.strip_prefix("Sec-WebSocket-Extensions: ")?.strip_suffix("\r\n").map(Into::into)
    }

    const PLAIN: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

    #[test]
    fn rfc_7692_7_1_offers_that_can_be_kept() {
        let plain = Some(PLAIN.to_owned());
        for offer in [
            "permessage-deflate",
            "permessage-deflate; client_max_window_bits", // as browsers do
            "permessage-deflate;client_max_window_bits=8",
            "permessage-deflate; client_max_window_bits=\"10\"",
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
            "x-other; a=\"b, permessage-deflate\", permessage-deflate",
            "permessage-deflate; server_max_window_bits=7, permessage-deflate",
        ] {
            assert_eq!(answered(&[offer]), plain, "{offer}");
        }
        assert_eq!(answered(&["bbf-usp-protocol", "permessage-deflate"]), plain, "two fields are one list");
        for bits in 8..=15 {
            let kept =
                answered(&[&format!("permessage-deflate; server_max_window_bits={bits}; client_max_window_bits")]);
            assert_eq!(kept, Some(format!("{PLAIN}; server_max_window_bits={bits}")));
        }
    }

    #[test]
    fn rfc_7692_7_1_offers_that_are_declined() {
        for parameters in [
            "server_max_window_bits",
            "server_max_window_bits=7",
            "server_max_window_bits=16",
            "server_max_window_bits=08",
            "server_max_window_bits=+9",
            "server_max_window_bits=\"9",
            "server_max_window_bits=",
            "server_max_window_bits=9; server_max_window_bits=9",
            "client_max_window_bits=300",
            "client_max_window_bits; client_max_window_bits=9",
            "server_no_context_takeover=1",
            "client_no_context_takeover=\"\"",
            "client_no_context_takeover; client_no_context_takeover",
            "unknown",
            "",
        ] {
            assert_eq!(answered(&[&format!("permessage-deflate; {parameters}")]), None, "{parameters}");
        }
        assert_eq!(answered(&["x-webkit-deflate-frame", "Permessage-Deflate-2", ",,"]), None);
        assert_eq!(answered(&[]), None);
        assert_eq!((Deflate::with_window(7), Deflate::with_window(16)), (None, None));
        assert_eq!(Deflate::of_answer(b"HTTP/1.1 101 x\r\n\r\n"), None);
    }
}
