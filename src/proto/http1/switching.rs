//! The answer that accepts a WebSocket's handshake (RFC 6455 §4.2.2), with the header fields that a module adds.

use super::field::{Fate, fate, push_field};
use super::head::{RequestView, tokens};
use crate::proto::ws::Deflate;

/// The facts of a valid handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Switching {
    accept: [u8; 28],
    /// The subprotocols that the client offers.
    offered: Vec<Box<[u8]>>,
    /// The agreed compression.
    deflate: Option<Deflate>,
}

impl Switching {
    /// The facts of the handshake `view`; `accept` is the value of `Sec-WebSocket-Accept`.
    #[must_use]
    pub fn new(accept: [u8; 28], deflate: Option<Deflate>, view: &RequestView<'_>) -> Self {
        let fields = view.headers().filter(|(name, _)| name.eq_ignore_ascii_case(b"sec-websocket-protocol"));
        let offered = fields.flat_map(|(_, value)| tokens(value)).map(Into::into).collect();
        Self { accept, offered, deflate }
    }

    /// Appends the 101 with the module's `headers`. Returns how many of those were dropped: fields that can't be sent, and a
    /// subprotocol that was not offered or is a second one.
    pub(super) fn encode<'h>(
        &self,
        out: &mut Vec<u8>,
        date: &[u8; 29],
        headers: impl Iterator<Item = (&'h [u8], &'h [u8])>,
    ) -> u32 {
        out.extend_from_slice(b"HTTP/1.1 101 Switching Protocols\r\n");
        push_field(out, b"Upgrade", b"websocket");
        push_field(out, b"Connection", b"Upgrade");
        push_field(out, b"Date", date);
        push_field(out, b"Sec-WebSocket-Accept", &self.accept);
        if let Some(deflate) = self.deflate {
            deflate.push_field(out);
        }
        let (mut dropped, mut chosen) = (0, false);
        for (name, value) in headers {
            let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
            let sent = match fate(name, value) {
                Fate::Drop => false,
                Fate::Ignore | Fate::Upgrade | Fate::Date => continue,
                Fate::Send | Fate::Origin if is("sec-websocket-protocol") => {
                    !std::mem::replace(&mut chosen, true) && self.offered.iter().any(|offered| **offered == *value)
                }
                // The server sets these fields itself: a module must not promise an extension that the server does not speak.
                Fate::Send | Fate::Origin => !is("sec-websocket-accept") && !is("sec-websocket-extensions"),
            };
            if sent {
                push_field(out, name, value);
            } else {
                dropped += 1;
            }
        }
        out.extend_from_slice(b"\r\n");
        dropped
    }
}
