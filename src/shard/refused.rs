//! Answers to requests that are refused for any target.

use crate::proto::ws;
use crate::server_response::ServerAnswer;

/// The answer to a request for a module on a connection beyond the limits.
pub(super) fn too_many(why: &'static str) -> ServerAnswer {
    ServerAnswer::text(503, why).with("Retry-After", "1")
}

/// The answer to a request for a module on an address for only the server's own paths.
pub(super) fn no_modules_here() -> ServerAnswer {
    ServerAnswer::text(
        404,
        "no modules are served here: this address is for /mgnt, /jobs and /metrics (--admin-listen)\n",
    )
}

/// The answer to an invalid handshake.
pub(super) fn refused_handshake(error: &ws::HandshakeError) -> ServerAnswer {
    let answer = ServerAnswer::text(error.status(), format!("{error}\n"));
    if error.status() == 426 {
        // RFC 6455 §4.4
        answer.with("Sec-WebSocket-Version", "13").with("Upgrade", "websocket")
    } else {
        answer
    }
}

/// The answer to a request for which there is no memory.
pub(super) fn no_memory() -> ServerAnswer {
    ServerAnswer::text(503, "the server has no memory for this now (--memory-bytes-max)\n").with("Retry-After", "1")
}

/// The answer to a body for which there is memory, but beyond the share of its domain.
pub(super) fn no_share() -> ServerAnswer {
    let why = "the requests that this module's domain has not answered hold as much memory as one domain may (--memory-bytes-max)\n";
    ServerAnswer::text(503, why).with("Retry-After", "1")
}
