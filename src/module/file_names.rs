//! Names of the files about a module, and errors that name a file.

use std::io;
use std::path::Path;

/// The name for files about the module `name`: all bytes but letters, digits, `-`, `_` and inner dots are escaped.
pub(super) fn file_name(name: &str) -> String {
    let mut file = String::new();
    for (at, byte) in name.bytes().enumerate() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') || byte == b'.' && at > 0 {
            file.push(char::from(byte));
        } else {
            file.push_str(&format!("%{byte:02x}"));
        }
    }
    // A name of 127 bytes can escape to 381 bytes, too long for a file name. The name's hash replaces a long name.
    if file.len() > 200 {
        use sha2::{Digest, Sha256};
        file = super::sdk::hex(&Sha256::digest(name.as_bytes()));
    }
    file
}

/// Adds the path of the file to an IO error.
pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> io::Error {
    let path = path.display().to_string();
    move |error| io::Error::new(error.kind(), format!("{path}: {error}"))
}
