//! Answers to requests that nothing serves, and to requests whose body is refused.

use super::Shard;
use super::conn::{Conn, Serves};
use super::origin::Origin;
use super::refused::no_modules_here;
use crate::module::table::RouteMatch;
use crate::net::Connections;
use crate::proto::http1::{CONTINUE, Method, RequestView};
use crate::server_response::ServerAnswer;

impl Shard {
    /// The answer to a request that matches no module's route; `found` has the reason.
    pub(super) fn unserved(&self, view: &RequestView<'_>, found: RouteMatch) -> ServerAnswer {
        match found {
            _ if view.method() == Method::Options => ServerAnswer { status: 200, ..ServerAnswer::default() },
            RouteMatch::MethodNotAllowed { allow } => {
                ServerAnswer::text(405, format!("this path answers {allow}\n")).with("Allow", allow)
            }
            _ if self.snapshot.table().websocket(view.path()).is_some() => {
                ServerAnswer::text(426, "this path is a WebSocket\n").with("Upgrade", "websocket")
            }
            _ => ServerAnswer::text(404, "no module serves this path\n"),
        }
    }

    /// For a client that waits before it sends the body of `view`: the final answer, if no module serves the request,
    /// which is sent at once instead of 100 (RFC 9110 §10.1.1).
    pub(super) fn unserved_early(&self, origin: &Origin, view: &RequestView<'_>) -> Option<ServerAnswer> {
        if origin.is_for_server(view.path()) {
            return None;
        }
        if origin.serves == Serves::Admin {
            return Some(no_modules_here());
        }
        if view.method() == Method::Options {
            return None;
        }
        match self.snapshot.table().route(view.method().as_str(), view.path()) {
            RouteMatch::Found { .. } | RouteMatch::Held { .. } => None,
            found => Some(self.unserved(view, found)),
        }
    }

    /// Sends `100 Continue` to a client that waits for it, once all earlier answers are sent, because it must not overtake
    /// them.
    pub(super) fn send_continue(connections: &mut Connections, conn: &mut Conn) {
        if conn.continue_owed
            && conn.slots.is_empty()
            && let Some(outbox) = connections.outbox(conn.id)
        {
            conn.continue_owed = false;
            outbox.push(CONTINUE);
        }
    }
}
