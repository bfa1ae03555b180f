//! Large WebSocket messages that are written to the memory of their domain while they arrive.
//!
//! Like a large request body (see `placed_bodies`), a large message that is one uncompressed frame gets a place beside the rings
//! when its head arrives, if there is room. Each part is unmasked, checked and written there. The event for the domain only names
//! the place. All other messages gather in the server.

use super::snapshot::Snapshot;
use crate::domain::call::{GenerationRef, SocketEvent};
use crate::domain::placed::PlacedBody;
use crate::domain::process::DomainCalls;
use crate::proto::ws::Kind;
use std::io;

/// Smaller messages gather in the server: for them, one more copy costs less than a place.
pub(super) const PLACED_BYTES_MIN: usize = 256 * 1024;

/// A message of which a part has arrived.
#[derive(Debug)]
pub(super) struct PlacedMessage {
    kind: Kind,
    /// The message, which a NUL will follow.
    body: Box<PlacedBody>,
}

impl PlacedMessage {
    /// Takes a place for a message of `bytes` bytes for the WebSocket path `path`.
    pub(super) fn begin(
        (snapshot, remote): (&Snapshot, &mut DomainCalls),
        path: &[u8],
        kind: Kind,
        bytes: usize,
    ) -> Option<Self> {
        let (module, _) = snapshot.table().websocket(path)?;
        let body = remote.place_message(snapshot.gen_of(module)?.instance(), bytes)?;
        Some(Self { kind, body: Box::new(body) })
    }

    /// Appends a part of the message in `arriving`. Returns the event of the message if the part is its last one, after which
    /// nothing arrives; also if there is no memory.
    ///
    /// # Errors
    /// There is no memory.
    pub(super) fn take_part(arriving: &mut Option<Self>, part: &[u8], end: bool) -> io::Result<Option<SocketEvent>> {
        let Some(mut message) = arriving.take() else { return Ok(None) };
        message.body.put(part)?;
        if !end {
            *arriving = Some(message);
            return Ok(None);
        }
        message.body.put(&[0])?;
        Ok(Some(SocketEvent::Placed { kind: message.kind, body: message.body }))
    }

    /// Leaves the memory of a process that has ended: see [`PlacedBody::leave_ended`].
    pub(super) fn leave_ended(&mut self) {
        self.body.leave_ended();
    }

    /// The bytes that have arrived.
    pub(super) fn written(&self) -> usize {
        self.body.written()
    }
}
