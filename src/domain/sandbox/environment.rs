//! The environment variables that foreign code may see. The server's environment contains secrets.

use std::ffi::OsString;

/// The locations of programs and libraries, and the language. CWEB_LOG and the variables after it are for this program.
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
/// The prefix of locale categories.
const PASSED_PREFIX: &str = "LC_";

/// The initial environment of a process with foreign code.
pub fn environment() -> impl Iterator<Item = (OsString, OsString)> {
    std::env::vars_os()
        .filter(|(name, _)| name.to_str().is_some_and(|name| PASSED.contains(&name) || name.starts_with(PASSED_PREFIX)))
}
