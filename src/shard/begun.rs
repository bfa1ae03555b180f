//! The outcome of beginning a request.

use super::conn::Upgrade;
use crate::net::Attached;

/// The outcome of beginning a request.
pub(super) enum Begun {
    /// The answer has been appended.
    Answered,
    /// The head of the answer has been appended; this attachment follows it.
    Attached(Attached),
    /// An executor or the control plane will answer, with about this many bytes.
    Running { expected: usize },
    /// The module decides whether to open a WebSocket.
    Asking,
    /// The request waits for the end of its module's swap.
    Held,
    /// Another protocol has taken over the connection.
    Taken(Upgrade),
}
