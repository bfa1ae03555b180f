//! Requests that are refused: those that nobody serves, and those whose body is not wanted.

use super::Shard;
use super::answer::{Meta, ServerAnswer};
use super::conn::{Conn, Partial, Slot};
use crate::admin::{self, Client};
use crate::module::table::RouteMatch;
use crate::net::Links;
use crate::proto::http1::{CONTINUE, Method, RequestView};

impl Shard {
    /// The answer to a request that no module's route matches; `found` is why.
    pub(super) fn unserved(&self, view: &RequestView<'_>, found: RouteMatch) -> ServerAnswer {
        match found {
            _ if view.method() == Method::Options => self.preflight(),
            RouteMatch::MethodNotAllowed { allow } => {
                ServerAnswer::text(405, format!("this path answers {allow}\n")).with("Allow", allow)
            }
            _ if self.snapshot.table().websocket(view.path()).is_some() => {
                ServerAnswer::text(426, "this path is a WebSocket\n").with("Upgrade", "websocket")
            }
            _ => ServerAnswer::text(404, "no module serves this path\n"),
        }
    }

    /// The answer to a body that is larger than modules take.
    pub(super) fn body_too_large(&self) -> ServerAnswer {
        ServerAnswer::text(413, format!("the body is larger than {} bytes\n", self.limits.body_bytes_max))
    }

    /// The client waits before it sends the body of `view`. The final answer, if that is known without the body: it
    /// leaves at once instead of 100, and the connection ends with it, because the body may come all the same (RFC 9110
    /// §10.1.1).
    pub(super) fn refusal(&self, view: &RequestView<'_>, client: Client) -> Option<Vec<u8>> {
        let path = view.path();
        let answer = if view.method() == Method::Options || path == b"/healthz" {
            return None;
        } else if admin::owns(path) {
            self.admin.check(view, client).err()?
        } else if view.content_length().is_some_and(|length| length > self.limits.body_bytes_max) {
            self.body_too_large()
        } else {
            match self.snapshot.table().route(view.method().as_str(), path) {
                RouteMatch::Found { .. } | RouteMatch::Held { .. } => return None,
                found => self.unserved(view, found),
            }
        };
        let mut bytes = Vec::new();
        answer.encode(&Meta { keep_alive: false, ..self.meta(view) }, &mut bytes);
        Some(bytes)
    }

    /// Sends the last answer of a connection, or queues it behind those that are owed.
    pub(super) fn last_answer(links: &mut Links, conn: &mut Conn, bytes: Vec<u8>) {
        conn.last_request_seen = true;
        conn.partial = Partial::None;
        if conn.slots.is_empty() {
            conn.first_seq += 1;
            if let Some(outbox) = links.outbox(conn.id) {
                outbox.push_owned(bytes);
            }
        } else {
            conn.slots.push_back(Slot::Ready { bytes, lent: None, safe: false });
        }
    }

    /// Sends `100 Continue` to a client that waits for it, once no earlier answer is owed: it may not overtake one.
    pub(super) fn send_continue(links: &mut Links, conn: &mut Conn) {
        if conn.continue_owed
            && conn.slots.is_empty()
            && let Some(outbox) = links.outbox(conn.id)
        {
            conn.continue_owed = false;
            outbox.push(CONTINUE);
        }
    }
}
