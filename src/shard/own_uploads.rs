//! Request bodies that the server itself stores while they arrive: those of `/blobs`.

use super::Shard;
use super::conn::{Conn, Partial, Slot};
use super::conn_upload::{BodySink, ConnUpload};
use super::origin::Origin;
use super::uploads::Gathering;
use crate::domain::module_message::ModuleMessage;
use crate::net::Connections;
use crate::proto::http1::RequestView;
use crate::server_response::{Reply, ServerAnswer};
use std::sync::Arc;

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
        let notify = move |wants_body| inbox.push(ModuleMessage::StreamNotice { conn: id, seq, wants_body });
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
