//! The origin of a request, and the paths that the origin permits.

use super::conn::{Conn, Serves};
use crate::admin::{self, Client};
use crate::net::ConnId;
use crate::proto::http1::{Method, RequestView};

/// The origin of a request. It is separate from the connection, which the request's view borrows.
pub(super) struct Origin {
    pub(super) id: ConnId,
    pub(super) seq: u64,
    pub(super) client: Client,
    pub(super) serves: Serves,
    /// The reason why the connection is beyond the limits, so that it may ask only for the server's own paths.
    pub(super) beyond: Option<&'static str>,
    /// Whether the connection is closed after this request in any case.
    last: bool,
}

impl Origin {
    /// The origin of request number `seq` of `conn`. `last`: the connection is closed after it.
    pub(super) fn of(conn: &Conn, seq: u64, last: bool) -> Self {
        let beyond = conn.is_beyond();
        let last = last || beyond.is_some();
        Self { id: conn.id, seq, client: Client::of(&conn.peer), serves: conn.serves, beyond, last }
    }

    /// Whether the server itself answers requests for `path`.
    pub(super) fn is_for_server(&self, path: &[u8]) -> bool {
        admin::owns(path) && (self.serves != Serves::Modules || path == b"/healthz")
    }

    /// Whether reading the body proves that the request was admitted: it is for one of the server's own paths that need a
    /// key.
    pub(super) fn asks_access(&self, view: &RequestView<'_>) -> bool {
        self.is_for_server(view.path()) && view.path() != b"/healthz" && view.method() != Method::Options
    }

    /// Whether a module may answer requests for `path`.
    pub(super) fn serves_modules(&self, path: &[u8]) -> bool {
        self.serves != Serves::Admin && !self.is_for_server(path)
    }

    /// Whether the connection is beyond the limits.
    pub(super) fn is_beyond(&self) -> bool {
        self.beyond.is_some()
    }

    /// Whether the connection is closed after this request in any case.
    pub(super) fn is_last(&self) -> bool {
        self.last
    }
}
