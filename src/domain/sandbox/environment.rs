//! What code of others sees of the server's environment, where secrets are passed.

use std::ffi::OsString;

/// Where programs and libraries are and how they speak. CWEB_LOG and what follows it are for this program itself.
const PASSED: [&str; 14] = [
    "PATH",
    "HOME",
    "TERM",
    "TZ",
    "LANG",
    "LANGUAGE",
    "LD_LIBRARY_PATH",
    "GLIBC_TUNABLES",
    "OPENSSL_CONF",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "CWEB_LOG",
    "NO_COLOR",
    "RUST_BACKTRACE",
];
/// Locale categories.
const PASSED_PREFIX: &str = "LC_";

/// The variables that a process with code of others begins with.
pub fn environment() -> impl Iterator<Item = (OsString, OsString)> {
    std::env::vars_os()
        .filter(|(name, _)| name.to_str().is_some_and(|name| PASSED.contains(&name) || name.starts_with(PASSED_PREFIX)))
}
