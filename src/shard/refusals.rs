//! Answers to requests that are refused whatever they ask for.

use crate::proto::ws;
use crate::server_response::ServerAnswer;

/// The answer to a request for a module on a connection beyond the limits.
pub(super) fn too_many(why: &'static str) -> ServerAnswer {
    ServerAnswer::text(503, why).with("Retry-After", "1")
}

/// The answer to a request for a module on an address that is the server's own.
pub(super) fn no_modules_here() -> ServerAnswer {
    ServerAnswer::text(
        404,
        "no modules are served here: this address is for /mgnt, /jobs and /metrics (--admin-listen)\n",
    )
}

/// The answer to a handshake that is wrong.
pub(super) fn refused_handshake(error: &ws::HandshakeError) -> ServerAnswer {
    let answer = ServerAnswer::text(error.status(), format!("{error}\n"));
    if error.status() == 426 {
        // RFC 6455 §4.4
        answer.with("Sec-WebSocket-Version", "13").with("Upgrade", "websocket")
    } else {
        answer
    }
}

/// The answer to what there is no memory for.
pub(super) fn no_memory() -> ServerAnswer {
    ServerAnswer::text(503, "the server has no memory for this now (--memory-bytes-max)\n").with("Retry-After", "1")
}

/// The answer to a body for which there is memory, but not for one more of its domain.
pub(super) fn no_share() -> ServerAnswer {
    let why = "the requests that this module's domain has not answered hold as much memory as one domain may (--memory-bytes-max)\n";
    ServerAnswer::text(503, why).with("Retry-After", "1")
}
