//! Where a request comes from, and what it may ask for by that.

use super::conn::{Conn, Serves};
use crate::admin::{self, Client};
use crate::net::ConnId;
use crate::proto::http1::{Method, RequestView};

/// Where a request came from, apart from the connection's own state (which its view borrows).
pub(super) struct Origin {
    pub(super) id: ConnId,
    pub(super) seq: u64,
    pub(super) client: Client,
    pub(super) serves: Serves,
    /// The connection is beyond the limits and may ask for the server's own paths alone: why.
    pub(super) beyond: Option<&'static str>,
    /// The connection is closed after it, whatever the client wishes.
    last: bool,
}

impl Origin {
    /// Where request number `seq` of `conn` comes from. `last`: the connection is closed after it.
    pub(super) fn of(conn: &Conn, seq: u64, last: bool) -> Self {
        let beyond = conn.is_beyond();
        let last = last || beyond.is_some();
        Self { id: conn.id, seq, client: Client::of(&conn.peer), serves: conn.serves, beyond, last }
    }

    /// Whether the server itself answers what is asked for on `path`.
    pub(super) fn is_for_server(&self, path: &[u8]) -> bool {
        admin::owns(path) && (self.serves != Serves::Modules || path == b"/healthz")
    }

    /// Whether a request was let in if its body is read: it is one on the server's own paths, and not one that all may make.
    pub(super) fn asks_access(&self, view: &RequestView<'_>) -> bool {
        self.is_for_server(view.path()) && view.path() != b"/healthz" && view.method() != Method::Options
    }

    /// Whether a module may answer what is asked for on `path`.
    pub(super) fn serves_modules(&self, path: &[u8]) -> bool {
        self.serves != Serves::Admin && !self.is_for_server(path)
    }

    /// Whether the connection is one too many.
    pub(super) fn is_beyond(&self) -> bool {
        self.beyond.is_some()
    }

    /// Whether the connection is closed after it, whatever the client wishes.
    pub(super) fn is_last(&self) -> bool {
        self.last
    }
}
