//! The C SDK, embedded in the binary: a server needs no further files to compile modules.

use sha2::{Digest, Sha256};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

macro_rules! headers {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../include/", $name)))),*]
    };
}

/// Name and text of each header.
pub(super) const FILES: &[(&str, &str)] = headers![
    "container.h",
    "crypto.h",
    "cweb.h",
    "cweb_asset.h",
    "cweb_config.h",
    "cweb_errors.h",
    "cweb_file.h",
    "cweb_helpers.h",
    "cweb_host.h",
    "cweb_job.h",
    "cweb_request.h",
    "cweb_setting.h",
    "cweb_stream.h",
    "cweb_test.h",
    "cweb_token.h",
    "cweb_websocket.h",
    "db.h",
    "defer.h",
    "err.h",
    "error.h",
    "http.h",
    "http_parse.h",
    "legacy/container.h",
    "legacy/crypto.h",
    "legacy/cweb.h",
    "legacy/db.h",
    "legacy/http.h",
    "legacy/map.h",
    "legacy/scheduler.h",
    "libevent.h",
    "list.h",
    "map.h",
    "pool.h",
    "queue.h",
    "scheduler.h",
    "threads.h",
    "uuid.h",
    "wafer/nope.h",
    "wafer/nopeapi.h",
    "wafer/nopeutils.h",
    "wafer/server.h",
    "wafer/wafer.h",
    "wafer/wafer_base.h",
    "wafer/wafer_entl.h",
    "wafer/wafer_functions.h",
    "wafer/wafer_glue.c",
    "wafer/wafer_types.h",
    "wafer/wafer_unit.h",
    "wafer/waferapi.h",
];

static HASH: LazyLock<String> = LazyLock::new(|| {
    let mut hasher = Sha256::new();
    for (name, text) in FILES {
        hasher.update(name.as_bytes());
        hasher.update([0]);
        hasher.update(text.as_bytes());
    }
    hex(&hasher.finalize())
});

/// SHA-256 of the whole SDK, in hexadecimal.
pub(super) fn hash() -> &'static str {
    &HASH
}

/// The directory below `dir` that [`unpack`] writes.
pub(super) fn dir_in(dir: &Path) -> PathBuf {
    dir.join(format!("sdk-{}", hash().get(..16).unwrap_or_default()))
}

/// Writes the headers below `dir`, into a directory named by their hash, and returns that directory.
pub(super) fn unpack(dir: &Path) -> io::Result<PathBuf> {
    let target = dir_in(dir);
    std::fs::create_dir_all(&target)?;
    for (name, text) in FILES {
        let path = target.join(name);
        path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
        if std::fs::read(&path).ok().as_deref() != Some(text.as_bytes()) {
            std::fs::write(&path, text)?;
        }
    }
    Ok(target)
}

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_header_is_carried() {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/include/");
        let mut there = Vec::new();
        let mut dirs = vec![std::path::PathBuf::from(root)];
        while let Some(dir) = dirs.pop() {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    dirs.push(path);
                } else {
                    there.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
                }
            }
        }
        there.sort();
        let carried: Vec<&str> = super::FILES.iter().map(|(name, _)| *name).collect();
        assert_eq!(carried, there);
    }
}
