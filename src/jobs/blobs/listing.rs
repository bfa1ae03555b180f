//! The list of stored blobs, for the operator.

use super::id::BlobId;
use super::store::{Blobs, blob_of};
use std::fs::{self, DirEntry};
use std::io;
use std::time::UNIX_EPOCH;

/// A stored blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed {
    /// The blob's name.
    pub id: BlobId,
    /// The blob's size.
    pub bytes: u64,
    /// When the blob was last stored, read or named by a job: milliseconds since 1970-01-01 00:00:00 UTC.
    pub used_ms: u64,
}

impl Blobs {
    /// The `limit` most recently used blobs, the latest first, and the number of all blobs. Reads the directory, so a shard
    /// must not call this.
    ///
    /// # Errors
    /// The errors of readdir(3).
    pub fn list(&self, limit: usize) -> io::Result<(Vec<Listed>, usize)> {
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.inner.config.dir)? {
            // A blob that is deleted meanwhile is not listed.
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
