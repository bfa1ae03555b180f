//! Flags of routes that exclude each other, or that need a further declaration.

use super::refusal::{Refusal, refuse};
use crate::abi::manifest::{FLAG_INLINE, Manifest, RouteDecl};

/// Checks a route that is asked before a WebSocket is opened.
pub(super) fn check_handshake(at: usize, route: &RouteDecl, manifest: &Manifest) -> Result<(), Refusal> {
    if route.is_handshake() && route.method != "GET" {
        return refuse(format!(
            "routes[{at}] ({}): CWEB_HANDSHAKE needs the method GET, which every handshake has",
            route.path
        ));
    }
    if route.is_handshake() && !manifest.websockets.iter().any(|socket| socket.path == route.path) {
        return refuse(format!("routes[{at}] ({}): CWEB_HANDSHAKE needs a WebSocket with the same path", route.path));
    }
    Ok(())
}

/// Checks a route with a process for each call (`CWEB_KILLABLE`) for flags that it can't have.
pub(super) fn check_killable(at: usize, route: &RouteDecl) -> Result<(), Refusal> {
    let others = [
        ("CWEB_INLINE", route.flags & FLAG_INLINE != 0, "whose handler runs on the thread that serves the connection"),
        ("CWEB_STREAM", route.is_stream(), "whose handler shares memory with the server while it runs"),
        ("CWEB_HANDSHAKE", route.is_handshake(), "whose answer opens a WebSocket in the module's process"),
    ];
    match others.iter().find(|(_, is_set, _)| route.is_killable() && *is_set) {
        Some((name, _, why)) => refuse(format!(
            "routes[{at}] ({} {}): CWEB_KILLABLE runs each call in a process of its own and can't be combined with {name}, \
             {why}; leave one of the flags out",
            route.method, route.path
        )),
        None => Ok(()),
    }
}
