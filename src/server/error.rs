//! Why the server could not start, or why it ended.

use crate::admin::KeysError;
use crate::net::{self, TlsError};

/// Why the server could not start, or why it ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The server can't listen on an address.
    #[error(transparent)]
    Listen(#[from] net::BindError),
    /// The certificate or its key can't be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The keys can't be used.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The server can't listen on a socket that the service manager has passed.
    #[error(transparent)]
    Passed(#[from] net::PassedError),
    /// A listen address can't be read.
    #[error("{0}")]
    Address(String),
    /// The data directory, the module store or the host of the modules is not usable.
    #[error("{what}: {source}")]
    Setup {
        /// The operation that failed.
        what: String,
        /// The cause of the failure.
        source: std::io::Error,
    },
    /// The control plane could not start.
    #[error("{0}")]
    Control(String),
    /// A shard has ended by itself. Its connections and its share of new ones are lost, so the server stops.
    #[error("a shard ended: {0}")]
    Shard(String),
}

/// The error of an operation on the data directory, the module store or the host of the modules.
pub(super) fn setup(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> ServeError {
    move |source| ServeError::Setup { what: what.into(), source }
}
