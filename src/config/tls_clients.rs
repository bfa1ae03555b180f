//! Settings about certificates of clients.

use super::ServeArgs;
use std::path::PathBuf;

/// The certificates of clients that the TCP addresses of modules ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsClientSettings {
    /// Certificates of authorities, PEM; absolute. Each client must have a certificate of one of these authorities.
    pub tls_client_ca: Option<PathBuf>,
    /// Whether a client without a certificate is accepted, too.
    pub tls_client_optional: bool,
}

impl TlsClientSettings {
    pub(super) fn of(args: &ServeArgs) -> Self {
        // The server changes to the data directory before it reads the file.
        let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
        Self {
            tls_client_ca: args.tls_client_ca.as_ref().map(absolute),
            tls_client_optional: args.tls_client_optional.unwrap_or(false),
        }
    }
}
