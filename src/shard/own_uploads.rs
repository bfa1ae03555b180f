//! Request bodies that the server itself stores while they arrive: those of `/blobs`.

use super::Shard;
use super::conn::{Conn, Partial, Slot};
use super::requests::Origin;
use super::uploads::{ConnUpload, Gathering};
use crate::domain::inbox::Message;
use crate::domain::stream::{Full, Upload};
use crate::jobs::blobs::{self, BodyWriter};
use crate::net::Connections;
use crate::proto::http1::RequestView;
use crate::server_response::{Reply, ServerAnswer};
use std::sync::Arc;

/// The receiver of a body that is passed on in pieces.
pub(super) enum BodySink {
    /// A module's handler.
    Module(Upload),
    /// A thread of the server that stores the body.
    Own(BodyWriter),
}

fn full(full: blobs::Full) -> Full {
    match full {
        blobs::Full::Now => Full::Now,
        blobs::Full::Ever => Full::Ever,
    }
}

impl BodySink {
    /// See [`Upload::room`].
    pub(super) fn room(&mut self) -> Result<usize, Full> {
        match self {
            Self::Module(upload) => upload.room(),
            Self::Own(body) => body.room().map_err(full),
        }
    }

    /// See [`Upload::put`].
    pub(super) fn put(&mut self, bytes: &[u8]) -> Result<(), Full> {
        match self {
            Self::Module(upload) => upload.put(bytes),
            Self::Own(body) => body.put(bytes).map_err(full),
        }
    }

    /// Limit, in bytes, on the server's memory for pieces on their way. The pieces for modules lie in memory of their
    /// domain.
    pub(super) fn held(&self) -> usize {
        match self {
            Self::Module(_) => 0,
            Self::Own(_) => blobs::BUFFERS_BYTES,
        }
    }

    /// See [`Upload::end`].
    pub(super) fn end(&mut self, errno: Option<i32>) {
        match self {
            Self::Module(upload) => upload.end(errno),
            Self::Own(body) => body.end(errno),
        }
    }
}

impl Shard {
    /// How the shard treats the body of `view` if the server stores it while it arrives; `None`: the server does not store
    /// it.
    pub(super) fn own_gathering(&self, origin: &Origin, view: &RequestView<'_>) -> Option<Gathering> {
        if !origin.is_for_server(view.path()) || !self.admin.stores_body(view) {
            return None;
        }
        // A client without the right to store a body need not send it.
        Some(self.admin.admit(view, origin.client).map_or_else(Gathering::Refused, |()| Gathering::Pieces))
    }

    /// Begins a request with a complete head, whose body is stored while it arrives. The request must have its turn.
    pub(super) fn begin_own_upload(
        &mut self,
        connections: &mut Connections,
        conn: &mut Conn,
        origin: &Origin,
        expects_continue: bool,
    ) {
        conn.stream_waits = None;
        conn.continue_owed = false;
        self.stats.request();
        if self.own_in_flight >= self.limits.own_in_flight_max {
            self.stats.overloaded();
            let answer = ServerAnswer::text(503, "too many requests in flight\n").with("Retry-After", "1");
            return self.answer_last(connections, conn, &answer, false);
        }
        let length = conn.decoder.body_left().map(|length| length as u64);
        let view = RequestView { peer: conn.peer.ip(), ..conn.decoder.head_view() };
        let last = !view.keep_alive() || origin.is_last();
        let reply = Reply {
            inbox: Arc::clone(&self.inbox),
            conn: origin.id,
            seq: origin.seq,
            meta: self.meta(origin, &view),
            sent: false,
        };
        let (inbox, id, seq) = reply.place();
        let notify = move |wants_body| inbox.push(Message::StreamNotice { conn: id, seq, wants_body });
        self.own_in_flight += 1;
        let body = self.admin.store_body(&view, origin.client, length, Box::new(notify), reply);
        conn.decoder.stream_body(Some(self.admin.stored_bytes_max()));
        conn.partial = Partial::Body;
        conn.body_paid_ms = self.now_ms;
        conn.upload = Some(Box::new(ConnUpload::new(origin.seq, BodySink::Own(body), expects_continue)));
        conn.slots.push_back(Slot::Running { safe: false, expected: 0 });
        conn.last_request_seen = last;
    }
}
