//! Log lines about requests to modules, for `cweb dev` and `cweb logs --requests`.
//!
//! Lines are written only while a reader asks for them. At other times a request costs one atomic load.

use super::Shard;
use super::conn::{Conn, Partial};
use super::origin::Origin;
use super::trace::Trace;
use crate::abi::manifest::Manifest;
use crate::abi::visible::visible;
use crate::logbook;
use crate::module::table::{Published, RouteMatch, Table};
use crate::net::Connections;
use crate::proto::http1::RequestView;

/// Limit, in bytes, on the part of a target that is shown.
const TARGET_BYTES_MAX: usize = 200;

impl Shard {
    /// The trace of a request that is about to begin, if a reader wants requests.
    pub(super) fn trace(
        &self,
        connections: &mut Connections,
        origin: &Origin,
        view: &RequestView<'_>,
    ) -> Option<Trace> {
        if !logbook::is_traced() || !origin.serves_modules(view.path()) {
            return None;
        }
        let module = self.module_of(view.method().as_str(), view.path(), view.is_websocket_upgrade())?;
        let query = view.query().map(|query| [b"?", query].concat()).unwrap_or_default();
        let what = what(view.method().as_str().as_bytes(), &[view.path(), &query].concat());
        let at = connections.outbox(origin.id).map_or(0, |outbox| outbox.buffer().len());
        Some(Trace::new(origin.seq, module, what, at))
    }

    /// The module of a request: its route or WebSocket matches, or its route matches with another method; or else the only
    /// module with similar paths.
    fn module_of(&self, method: &str, path: &[u8], is_websocket_upgrade: bool) -> Option<String> {
        let table = self.snapshot.table();
        let on_route = |method: &str| match table.route(method, path) {
            RouteMatch::Found { module, .. } | RouteMatch::Held { module } => Ok(module),
            RouteMatch::MethodNotAllowed { allow } => Err(allow),
            RouteMatch::NotFound => Err(String::new()),
        };
        let socket = || table.websocket(path).map(|(module, _)| module);
        let served = if is_websocket_upgrade {
            socket().or_else(|| on_route("GET").ok())
        } else {
            match on_route(method) {
                Ok(module) => Some(module),
                Err(allow) => allow.split(", ").find_map(|method| on_route(method).ok()).or_else(socket),
            }
        };
        let module = served.and_then(|module| table.modules().get(module)).map(Published::manifest);
        module.or_else(|| near(table, path)).map(|manifest| manifest.name.clone())
    }

    /// Logs that the server itself answered a request whose head could not be parsed and begins with `input`, if its first
    /// line shows which module it was for.
    pub(super) fn trace_unread(&self, conn: &Conn, origin: &Origin, input: &[u8], status: u16) {
        if !logbook::is_traced() || conn.partial == Partial::Body {
            return;
        }
        let line = input.split(|byte| matches!(byte, b'\r' | b'\n')).find(|line| !line.is_empty()).unwrap_or_default();
        let mut words = line.split(|byte| *byte == b' ');
        let (Some(method), Some(target)) = (words.next(), words.next()) else { return };
        let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
        if !origin.serves_modules(path) {
            return;
        }
        if let Some(module) = self.module_of(&String::from_utf8_lossy(method), path, false) {
            logbook::request(&module, &format!("{} {status} 0.0 ms", what(method, target)));
        }
    }

    /// Logs that the server itself answered the request of `conn`, whose head is complete and whose body is not read to its
    /// end.
    pub(super) fn trace_refused(&self, connections: &mut Connections, conn: &Conn, status: u16) {
        if logbook::is_traced()
            && let Some(trace) = self.trace(connections, &self.origin(conn, conn.next_seq()), &conn.decoder.head_view())
        {
            trace.tell_status(&status.to_string(), "");
        }
    }
}

/// The method and the target, as shown.
fn what(method: &[u8], target: &[u8]) -> String {
    let cut = |bytes: &[u8]| String::from_utf8_lossy(bytes.get(..TARGET_BYTES_MAX).unwrap_or(bytes)).into_owned();
    visible(&format!("{} {}", cut(method), cut(target))).into_owned()
}

/// The only module with paths that share the first segment of `path`: its author may have mistyped the rest.
fn near<'a>(table: &'a Table, path: &[u8]) -> Option<&'a Manifest> {
    let end = path.iter().skip(1).position(|byte| *byte == b'/').map_or(path.len(), |at| at + 1);
    let first = std::str::from_utf8(path.get(..end)?).ok().filter(|first| first.len() > 1)?;
    let is_below =
        |pattern: &str| pattern.strip_prefix(first).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '(']));
    let has = |manifest: &Manifest| {
        let mut routes = manifest.routes.iter().map(|route| &*route.path);
        routes.any(is_below) || manifest.websockets.iter().any(|socket| is_below(&socket.path))
    };
    let mut found = table.modules().iter().map(Published::manifest).filter(|manifest| has(manifest));
    found.next().filter(|_| found.next().is_none())
}

/// Notes a request that has begun, and may be answered already.
pub(super) fn begun(connections: &mut Connections, conn: &mut Conn, trace: Option<Trace>) {
    let Some(trace) = trace else { return };
    if conn.slot_mut(trace.seq()).is_some() {
        return conn.traces.push(trace);
    }
    if let Some(outbox) = connections.outbox(conn.id) {
        trace.tell(trace.answer_in(outbox.buffer()), "");
    }
}

fn tell(conn: &mut Conn, seq: u64, answer: &[u8], more: &str) {
    // Most connections have no trace.
    if let Some(at) = conn.traces.iter().position(|trace| trace.seq() == seq) {
        conn.traces.swap_remove(at).tell(answer, more);
    }
}

/// Logs the first unanswered request of `conn`, answered with `answer`.
pub(super) fn answered(conn: &mut Conn, answer: &[u8]) {
    tell(conn, conn.first_seq, answer, "");
}

/// Logs request `seq`, whose answer begins with `head` and is sent in pieces from now on.
pub(super) fn streams(conn: &mut Conn, seq: u64, head: &[u8]) {
    tell(conn, seq, head, ", and goes on");
}
