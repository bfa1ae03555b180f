//! Uploads: from the first byte of a blob to its final file on the disk.

use super::id::BlobId;
use super::store::{BlobError, Blobs, Inner, Pins, charge, sync_dir};
use sha2::{Digest, Sha256};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::Arc;

/// A blob that is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredBlob {
    /// Name of the blob.
    pub id: BlobId,
    /// The blob's size.
    pub bytes: u64,
    /// The server did not have the blob before.
    pub is_new: bool,
}

/// The permission to receive one blob. A shard gets it without waiting. Dropping it ends the upload.
pub struct Upload {
    blobs: Blobs,
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.blobs.inner.end_upload();
    }
}

impl Blobs {
    /// Admits an upload, of `length` bytes if known. Takes no lock, and does not access the disk.
    ///
    /// # Errors
    /// The blob is too large, or the limit on uploads is reached.
    pub fn admit(&self, length: Option<u64>) -> Result<Upload, BlobError> {
        let max = self.blob_bytes_max();
        if length.is_some_and(|length| length > max) {
            return Err(BlobError::TooLarge(max));
        }
        if !self.inner.begin_upload() {
            return Err(BlobError::Busy);
        }
        Ok(Upload { blobs: self.clone() })
    }
}

impl Blobs {
    /// Stores `bytes` as a blob, which stays at least until the returned pins are dropped.
    ///
    /// # Errors
    /// There is no room, or the disk refuses the file.
    pub(in crate::jobs) fn keep(&self, bytes: &[u8]) -> Result<(BlobId, Pins), BlobError> {
        let id = BlobId::new(Sha256::digest(bytes).into());
        let pins = self.hold(vec![id]);
        if self.get(&id).is_ok() {
            // The upload that has stored the blob may not have synced the directory yet.
            sync_dir(&self.inner.config.dir).map_err(|error| BlobError::failed(&error))?;
        } else {
            let mut blob = NewBlob::begin(self, None, Some(bytes.len() as u64), None)?;
            blob.write(bytes)?;
            blob.finish()?;
        }
        Ok((id, pins))
    }
}

impl Upload {
    /// Begins to store a blob, of `length` bytes if known; if `expected` is set, the blob's hash must equal it. May wait for
    /// the disk, so a shard must not call this.
    ///
    /// # Errors
    /// The quota has no room for the blob, or its file can't be created.
    pub(super) fn open(self, length: Option<u64>, expected: Option<BlobId>) -> Result<NewBlob, BlobError> {
        let blobs = self.blobs.clone();
        NewBlob::begin(&blobs, Some(self), length, expected)
    }
}

impl NewBlob {
    fn begin(
        blobs: &Blobs,
        upload: Option<Upload>,
        length: Option<u64>,
        expected: Option<BlobId>,
    ) -> Result<Self, BlobError> {
        let inner = &blobs.inner;
        let mut share = Share::new(inner);
        // A blob that the server already has is not written again: its bytes are only hashed.
        let (target, path) = match expected.and_then(|id| blobs.pin(vec![id]).ok()) {
            Some(pins) => (Target::Known { _pins: pins }, None),
            None => {
                share.grow(charge(length.unwrap_or(0)))?;
                let path = inner.new_path();
                let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
                (Target::File(file.map_err(|error| BlobError::failed(&error))?), Some(path))
            }
        };
        Ok(Self { share, _upload: upload, target, path, hash: Sha256::new(), bytes: 0, expected })
    }
}

/// Part of the quota that is reserved for an upload or for the outputs of a run; dropping it gives the bytes back.
pub(super) struct Share {
    inner: Arc<Inner>,
    bytes: u64,
}

impl Share {
    pub(super) fn new(inner: &Arc<Inner>) -> Self {
        Self { inner: Arc::clone(inner), bytes: 0 }
    }

    /// Reserves more until the share has at least `bytes`.
    pub(super) fn grow(&mut self, bytes: u64) -> Result<(), BlobError> {
        let more = bytes.saturating_sub(self.bytes);
        if more > 0 {
            let max = self.inner.config.bytes_max;
            let refuse = |taken: u64| BlobError::Quota { used: taken.saturating_sub(self.bytes), max };
            self.inner.reserve(more).map_err(refuse)?;
            self.bytes += more;
        }
        Ok(())
    }

    /// Ends the reservation: `kept` bytes stay counted, and the rest is returned to the quota.
    pub(super) fn leave(&mut self, kept: u64) {
        self.inner.give_back(std::mem::take(&mut self.bytes).saturating_sub(kept));
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.inner.give_back(self.bytes);
    }
}

/// Destination of an upload's bytes.
enum Target {
    File(File),
    /// The server has the blob already, and keeps it during the upload.
    Known {
        _pins: Pins,
    },
}

/// A blob that is being received. Dropping it before [`NewBlob::finish`] leaves no file.
pub(super) struct NewBlob {
    share: Share,
    /// `None`: the server itself stores the blob.
    _upload: Option<Upload>,
    target: Target,
    /// The path of the upload's file. `None`: the file is already in its final place, or the upload has no file.
    path: Option<PathBuf>,
    hash: Sha256,
    bytes: u64,
    expected: Option<BlobId>,
}

impl NewBlob {
    /// Appends bytes.
    ///
    /// # Errors
    /// The blob becomes too large, or the bytes can't be written.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
        let whole = self.bytes.saturating_add(bytes.len() as u64);
        let max = self.share.inner.config.blob_bytes_max;
        if whole > max {
            return Err(BlobError::TooLarge(max));
        }
        if let Target::File(file) = &mut self.target {
            self.share.grow(charge(whole))?;
            file.write_all(bytes).map_err(|error| BlobError::failed(&error))?;
        }
        self.hash.update(bytes);
        self.bytes = whole;
        Ok(())
    }

    /// The error for a body that will never be complete, for the reason `errno`.
    pub(super) fn broken(&self, errno: i32) -> BlobError {
        match errno {
            libc::EMSGSIZE => BlobError::TooLarge(self.share.inner.config.blob_bytes_max),
            libc::ETIMEDOUT => BlobError::Late,
            _ => BlobError::Broken,
        }
    }

    /// Syncs the blob to the disk, and moves its file to the final place.
    ///
    /// # Errors
    /// The hash differs from the expected one, or the disk refuses the file.
    pub(super) fn finish(mut self) -> Result<StoredBlob, BlobError> {
        let id = BlobId::new(std::mem::take(&mut self.hash).finalize().into());
        if let Some(expected) = self.expected.filter(|expected| *expected != id) {
            return Err(BlobError::Mismatch { found: id, expected });
        }
        self.place(id).map_err(|error| BlobError::failed(&error))
    }

    fn place(&mut self, id: BlobId) -> io::Result<StoredBlob> {
        let Target::File(file) = &self.target else { return Ok(StoredBlob { id, bytes: self.bytes, is_new: false }) };
        // From here on no process can open the file for writing.
        file.set_permissions(fs::Permissions::from_mode(0o400))?;
        file.sync_all()?;
        let inner = Arc::clone(&self.share.inner);
        let place = inner.path(&id);
        // Needs the lock: of two uploads of the same bytes only one is new, and a deletion runs before or after, not in
        // between.
        let mut state = inner.state();
        state.is_used(&id);
        let is_new = match File::open(&place) {
            Ok(file) => {
                inner.touch(&file);
                false
            }
            Err(error) if error.kind() == ErrorKind::NotFound => true,
            Err(error) => return Err(error),
        };
        if is_new && let Some(path) = self.path.take() {
            fs::rename(&path, &place).inspect_err(|_| self.path = Some(path))?;
            // From now on the file counts for the quota, in place of the upload's share.
            self.share.leave(charge(self.bytes));
        }
        drop(state);
        // Also needed if the blob was stored already: the upload that stored it may not have synced the directory yet.
        sync_dir(&inner.config.dir)?;
        Ok(StoredBlob { id, bytes: self.bytes, is_new })
    }
}

impl Drop for NewBlob {
    fn drop(&mut self) {
        if let Some(path) = &self.path
            && let Err(error) = fs::remove_file(path)
        {
            tracing::warn!("{}: {error}", path.display());
        }
    }
}
