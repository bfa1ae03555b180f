//! Names of the files about a module, and errors that name a file.

use sha2::{Digest, Sha256};
use std::fs;
use std::io;
use std::path::Path;

/// Limit, in bytes, on an escaped name that is a file's name.
const BYTES_MAX: usize = 200;

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
    // A name of 127 bytes can escape to 381 bytes, too long for a file name. The name's hash replaces a long name, behind a
    // beginning that no escaped name has: a module named like the hash must not get the files of another module.
    if file.len() > BYTES_MAX {
        file = format!("%long-{}", hash(name));
    }
    file
}

fn hash(name: &str) -> String {
    super::sdk::hex(&Sha256::digest(name.as_bytes()))
}

/// Renames the files of modules with long names in `dirs`, where earlier servers had the hash alone. The first directory has
/// the files that say which module they are about.
pub(super) fn rename_long(dirs: &[&Path]) -> io::Result<()> {
    #[derive(serde::Deserialize)]
    struct Named {
        name: String,
    }
    let Some(first) = dirs.first() else { return Ok(()) };
    for entry in fs::read_dir(first)? {
        let path = entry?.path();
        let Some(stem) = path.file_stem().and_then(|stem| stem.to_str()) else { continue };
        let is_old = stem.len() == 64 && path.extension().is_some_and(|extension| extension == "json");
        let named = || serde_json::from_slice::<Named>(&fs::read(&path).ok()?).ok();
        let Some(Named { name }) = is_old.then(named).flatten() else { continue };
        if hash(&name) != stem || file_name(&name) == stem {
            continue;
        }
        // The first directory is last: if a rename fails, the next start tries again.
        for dir in dirs.iter().rev() {
            let old = dir.join(format!("{stem}.json"));
            match fs::rename(&old, dir.join(format!("{}.json", file_name(&name)))) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(&old)(error)),
                _ => {}
            }
        }
    }
    Ok(())
}

/// Adds the path of the file to an IO error.
pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> io::Error {
    let path = path.display().to_string();
    move |error| io::Error::new(error.kind(), format!("{path}: {error}"))
}
