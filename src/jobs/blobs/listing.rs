//! The blobs that are stored, for the operator.

use super::id::BlobId;
use super::store::{Blobs, blob_of};
use std::fs::{self, DirEntry};
use std::io;
use std::time::UNIX_EPOCH;

/// A blob that is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub id: BlobId,
    /// Its size.
    pub bytes: u64,
    /// When it was stored, read or named by a job the last time: milliseconds since 1970.
    pub used_ms: u64,
}

impl Blobs {
    /// The `limit` blobs that were used last, the latest first, and how many there are. Reads the directory: not for a shard.
    ///
    /// # Errors
    /// Those of readdir(3).
    pub fn list(&self, limit: usize) -> io::Result<(Vec<Listed>, usize)> {
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.inner.config.dir)? {
            // One that is deleted meanwhile is not listed.
            all.extend(listed(&entry?));
        }
        let count = all.len();
        all.sort_unstable_by_key(|blob: &Listed| (std::cmp::Reverse(blob.used_ms), blob.id));
        all.truncate(limit);
        Ok((all, count))
    }
}

fn listed(entry: &DirEntry) -> Option<Listed> {
    let (id, found) = (blob_of(entry)?, entry.metadata().ok()?);
    let used = found.modified().ok()?.duration_since(UNIX_EPOCH).unwrap_or_default();
    Some(Listed { id, bytes: found.len(), used_ms: u64::try_from(used.as_millis()).unwrap_or(u64::MAX) })
}
