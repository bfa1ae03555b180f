//! What becomes of a request when it is begun.

use super::conn::Upgrade;
use crate::net::Attached;

/// What became of a request that was begun.
pub(super) enum Begun {
    /// The answer has been appended.
    Answered,
    /// The head of the answer has been appended, and this follows it.
    Attached(Attached),
    /// An executor or the control plane answers later, with about this many bytes.
    Running { expected: usize },
    /// A module is asked whether a WebSocket is opened.
    Asking,
    /// Its module is being swapped: it must wait.
    Held,
    /// The connection speaks HTTP no more.
    Taken(Upgrade),
}
