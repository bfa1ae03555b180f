//! Names of the files about a module, and errors that name a file.

use std::io;
use std::path::Path;

/// What files about the module `name` are called: all but letters, digits, `-`, `_` and inner dots are escaped.
pub(super) fn file_name(name: &str) -> String {
    let mut file = String::new();
    for (at, byte) in name.bytes().enumerate() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') || byte == b'.' && at > 0 {
            file.push(char::from(byte));
        } else {
            file.push_str(&format!("%{byte:02x}"));
        }
    }
    // A name of 127 bytes escapes to 381: too long for a file name, so such a one is named by its hash.
    if file.len() > 200 {
        use sha2::{Digest, Sha256};
        file = super::sdk::hex(&Sha256::digest(name.as_bytes()));
    }
    file
}

/// Names the file that an error is about.
pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> io::Error {
    let path = path.display().to_string();
    move |error| io::Error::new(error.kind(), format!("{path}: {error}"))
}
