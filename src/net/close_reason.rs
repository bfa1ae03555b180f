//! Why a connection ended.

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// The application closed the connection ([`Connections::close`](super::Connections::close)).
    Application,
    /// The peer closed both directions or reset the connection.
    Peer,
    /// Sending or receiving failed with this errno.
    Error(i32),
}
