//! WebSocket handshakes that a module accepts or refuses: a route with `CWEB_HANDSHAKE` is called first.
//!
//! The handler runs like any other. An answer with status 200 is encoded as 101, and the shard opens the socket when that
//! answer has its turn. Until then the shard does not read what the client sends.

use super::Shard;
use super::begun::Begun;
use super::origin::Origin;
use crate::abi::manifest::RouteDecl;
use crate::domain::call::{OwnedRequest, Task};
use crate::proto::http1::{RequestView, Switching};
use std::sync::Arc;

/// The beginning of an answer that opens a WebSocket.
const SWITCHES: &[u8] = b"HTTP/1.1 101 ";

/// Whether an encoded answer accepts a handshake.
pub(super) fn is_accepted(answer: &[u8]) -> bool {
    answer.starts_with(SWITCHES)
}

impl Shard {
    /// The module and the route that decide about a WebSocket on `path`.
    pub(super) fn handshake_route(&self, path: &[u8]) -> Option<(usize, usize)> {
        let table = self.snapshot.table();
        let (module, socket) = table.websocket(path)?;
        let manifest = table.modules().get(module)?.manifest();
        let path = &manifest.websockets.get(socket)?.path;
        let asks = |route: &RouteDecl| route.is_handshake() && route.path == *path;
        Some((module, manifest.routes.iter().position(asks)?))
    }

    /// Passes a valid handshake to the module for a decision.
    pub(super) fn begin_handshake(
        &mut self,
        origin: &Origin,
        view: &RequestView<'_>,
        accept: [u8; 28],
        (module, route): (usize, usize),
        out: &mut Vec<u8>,
    ) -> Begun {
        let Some(generation) = self.snapshot.gen_of(module).map(Arc::clone) else { return Begun::Held };
        if self.is_full(&generation, view.body.len()) {
            return self.overloaded(origin, view, out);
        }
        let mut meta = self.meta(origin, view);
        meta.switching = Some(Arc::new(Switching::new(accept, self.deflate_for(view), view)));
        let request = OwnedRequest::copy(view);
        let work = Task::Request { conn: origin.id, seq: origin.seq, route, request, meta, stream: None };
        self.submit(&generation, route, work);
        Begun::Asking
    }
}
