//! The directory of blobs.

use super::id::BlobId;
use super::run_files::Outputs;
use crossbeam::channel::{Receiver, Sender, unbounded};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

/// Smallest count of a file, in bytes, and the unit it is rounded up to: the quota limits many small files, too.
pub(super) const BLOCK_BYTES: u64 = 4096;
/// Uploads at once; each has a thread.
const UPLOADS_MAX: usize = 64;

/// Limits of the blobs of a server.
#[derive(Debug, Clone)]
pub struct BlobsConfig {
    /// Directory of the blobs.
    pub dir: PathBuf,
    /// Directory of the jobs' outputs.
    pub outputs_dir: PathBuf,
    /// Largest blob.
    pub blob_bytes_max: u64,
    /// Most bytes of all blobs and outputs together.
    pub bytes_max: u64,
    /// Time after its last use until a blob that no job needs is deleted.
    pub retention: Duration,
    /// Whether a descriptor for writing the file is still open anywhere; the file is open for reading.
    pub is_written: fn(BorrowedFd<'_>) -> bool,
}

/// Why a blob can't be had, or kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlobError {
    /// The blob is larger than the limit of one blob, in bytes.
    #[error("the blob is larger than {0} bytes (--blob-bytes-max)")]
    TooLarge(u64),
    /// The quota has no room for the blob beside the others.
    #[error(
        "the blobs have {used} of {max} bytes already, so this one has no room: delete some, or raise --blobs-bytes-max"
    )]
    Quota {
        /// Bytes that the blobs take already.
        used: u64,
        /// The limit.
        max: u64,
    },
    /// The disk is full.
    #[error("the disk is full")]
    DiskFull,
    /// Too many uploads at once.
    #[error("{UPLOADS_MAX} blobs are being received already; try again")]
    Busy,
    /// The bytes are others than the client has said.
    #[error("the body has the SHA-256 {found}, not {expected} as the request says; nothing is stored")]
    Mismatch {
        /// Hash of the bytes that came.
        found: BlobId,
        /// Hash that the request names.
        expected: BlobId,
    },
    /// The body did not come in time.
    #[error("the body did not come in time; nothing is stored")]
    Late,
    /// The body was cut off.
    #[error("the body did not come whole; nothing is stored")]
    Broken,
    /// There is no such blob.
    #[error("there is no blob {0}")]
    Unknown(BlobId),
    /// A job needs the blob.
    #[error("a job has the blob {0}: it can be deleted when the job has been")]
    InUse(BlobId),
    /// The file system has failed.
    #[error("the blob can't be stored or read: {0}")]
    Failed(String),
}

impl BlobError {
    pub(super) fn failed(error: &io::Error) -> Self {
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Self::DiskFull,
            _ => Self::Failed(error.to_string()),
        }
    }
}

/// A blob that is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredBlob {
    /// Name of the blob.
    pub id: BlobId,
    /// Its size.
    pub bytes: u64,
    /// The server did not have the blob before.
    pub is_new: bool,
}

/// A blob that is open for reading.
#[derive(Debug)]
pub struct OpenBlob {
    /// Its file.
    pub file: File,
    /// Its size.
    pub bytes: u64,
}

/// Bytes that all blobs and outputs take together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Bytes, in whole blocks, those being received among them.
    pub bytes: u64,
    /// The limit.
    pub bytes_max: u64,
}

#[derive(Default)]
pub(super) struct State {
    /// Bytes of the files, and bytes reserved for uploads and for outputs of running jobs.
    pub(super) bytes: u64,
    uploads: usize,
    /// Blobs that submissions on their way to the store name.
    pins: HashMap<BlobId, usize>,
    /// The outputs of running jobs.
    pub(super) watched: Vec<Weak<Outputs>>,
}

pub(super) struct Inner {
    pub(super) config: BlobsConfig,
    state: Mutex<State>,
    next: AtomicU64,
    pub(super) wake: Sender<Wake>,
    pub(super) woken: Receiver<Wake>,
}

/// Message to the thread that cleans up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wake {
    /// The directory of outputs of that name belongs to no job.
    Unused(String),
    /// A job makes files.
    Outputs,
    /// A job was deleted.
    JobDeleted,
    /// The server stops.
    Stop,
}

/// The blobs of a server; clones are the same ones.
#[derive(Clone)]
pub struct Blobs {
    pub(super) inner: Arc<Inner>,
}

fn charge(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK_BYTES).max(1).saturating_mul(BLOCK_BYTES)
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

impl Inner {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, id: &BlobId) -> PathBuf {
        self.config.dir.join(id.digits())
    }

    fn incoming(&self) -> PathBuf {
        self.config.dir.join("incoming")
    }

    /// Sets the time of the file's last use to now.
    fn touch(&self, file: &File) {
        if let Err(error) = file.set_modified(SystemTime::now()) {
            tracing::warn!("the time of a blob can't be set, so it may go before its time: {error}");
        }
    }
}

impl Blobs {
    /// Opens the directory that `config` names, or makes it, and counts its blobs. Removes incomplete uploads that a killed
    /// server has left.
    ///
    /// # Errors
    /// The directory can't be made or read.
    pub fn open(config: BlobsConfig) -> io::Result<Self> {
        let (wake, woken) = unbounded();
        let inner = Inner { config, state: Mutex::default(), next: AtomicU64::new(0), wake, woken };
        fs::create_dir_all(&inner.config.outputs_dir)?;
        let incoming = inner.incoming();
        match fs::remove_dir_all(&incoming) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => fs::create_dir_all(&incoming)?,
        }
        let mut bytes = 0;
        for entry in fs::read_dir(&inner.config.dir)? {
            let entry = entry?;
            if blob_of(&entry).is_some() {
                bytes += charge(entry.metadata()?.len());
            }
        }
        inner.state().bytes = bytes;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The largest blob.
    #[must_use]
    pub fn blob_bytes_max(&self) -> u64 {
        self.inner.config.blob_bytes_max
    }

    /// How long the server keeps a blob that no job needs.
    pub(in crate::jobs) fn retention(&self) -> Duration {
        self.inner.config.retention
    }

    /// Bytes that all blobs and outputs take, and their limit.
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage { bytes: self.inner.state().bytes, bytes_max: self.inner.config.bytes_max }
    }

    /// Begins to store a blob, of `length` bytes if that is known, whose hash must be `expected` if that is.
    ///
    /// # Errors
    /// The quota has no room for the blob, or its file can't be made.
    pub fn begin(&self, length: Option<u64>, expected: Option<BlobId>) -> Result<NewBlob, BlobError> {
        let inner = &self.inner;
        if length.is_some_and(|length| length > inner.config.blob_bytes_max) {
            return Err(BlobError::TooLarge(inner.config.blob_bytes_max));
        }
        let mut state = inner.state();
        if state.uploads >= UPLOADS_MAX {
            return Err(BlobError::Busy);
        }
        state.uploads += 1;
        drop(state);
        let share = Share { inner: Arc::clone(inner), bytes: 0, is_upload: true };
        // A blob that the server has is not written again: its bytes are only hashed.
        if let Some(pins) = expected.and_then(|id| self.pin(vec![id]).ok()) {
            let target = Target::Known { _pins: pins };
            return Ok(NewBlob { share, target, path: None, hash: Sha256::new(), bytes: 0, expected });
        }
        let mut share = share;
        share.grow(charge(length.unwrap_or(0)))?;
        let path = inner.incoming().join(inner.next.fetch_add(1, Ordering::Relaxed).to_string());
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(|error| BlobError::failed(&error))?;
        let target = Target::File(file);
        Ok(NewBlob { share, target, path: Some(path), hash: Sha256::new(), bytes: 0, expected })
    }

    /// Opens a blob for reading, which counts as a use.
    ///
    /// # Errors
    /// The blob is not stored, or can't be read.
    pub fn get(&self, id: &BlobId) -> Result<OpenBlob, BlobError> {
        let opened = File::open(self.inner.path(id)).and_then(|file| Ok((file.metadata()?.len(), file)));
        match opened {
            Ok((bytes, file)) => {
                self.inner.touch(&file);
                Ok(OpenBlob { file, bytes })
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Err(BlobError::Unknown(*id)),
            Err(error) => Err(BlobError::failed(&error)),
        }
    }

    /// Deletes a blob, unless `is_needed` says that a job has it.
    ///
    /// # Errors
    /// The blob is not stored, or a job needs it.
    pub fn delete(&self, id: &BlobId, is_needed: impl FnOnce() -> Result<bool, String>) -> Result<(), BlobError> {
        // The lock must be held until the blob is gone: a submission that names the blob has pinned it before, or does not find it.
        let mut state = self.inner.state();
        let path = self.inner.path(id);
        let bytes = match fs::metadata(&path) {
            Ok(found) => charge(found.len()),
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(BlobError::Unknown(*id)),
            Err(error) => return Err(BlobError::failed(&error)),
        };
        if state.pins.contains_key(id) || is_needed().map_err(BlobError::Failed)? {
            return Err(BlobError::InUse(*id));
        }
        fs::remove_file(&path).map_err(|error| BlobError::failed(&error))?;
        state.bytes = state.bytes.saturating_sub(bytes);
        // Uploads and commits wait for the lock, and need not wait for the disk.
        drop(state);
        sync_dir(&self.inner.config.dir).map_err(|error| BlobError::failed(&error))
    }

    /// Deletes the blobs that were not used for longer than they are kept, but for those that `is_needed` says a job has.
    /// How many.
    pub fn sweep(&self, mut is_needed: impl FnMut(&BlobId) -> Result<bool, String>) -> usize {
        let is_old = |entry: &fs::DirEntry| {
            let used = entry.metadata().and_then(|found| found.modified()).ok();
            used.and_then(|used| used.elapsed().ok()).is_some_and(|age| age > self.inner.config.retention)
        };
        let entries = fs::read_dir(&self.inner.config.dir).into_iter().flatten().flatten();
        let old = entries.filter_map(|entry| blob_of(&entry).filter(|_| is_old(&entry)));
        old.filter(|id| self.delete(id, || is_needed(id)).is_ok()).count()
    }
}

/// Blobs that are not deleted until this is dropped.
pub struct Pins {
    inner: Arc<Inner>,
    ids: Vec<BlobId>,
}

impl Blobs {
    /// Keeps the blobs from being deleted until the returned pins are dropped; counts as a use.
    ///
    /// # Errors
    /// There is no such blob.
    pub(in crate::jobs) fn pin(&self, ids: Vec<BlobId>) -> Result<Pins, BlobError> {
        if ids.is_empty() {
            return Ok(Pins { inner: Arc::clone(&self.inner), ids });
        }
        let mut state = self.inner.state();
        for id in &ids {
            self.get(id)?;
        }
        for id in &ids {
            *state.pins.entry(*id).or_insert(0) += 1;
        }
        drop(state);
        Ok(Pins { inner: Arc::clone(&self.inner), ids })
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        if self.ids.is_empty() {
            return;
        }
        let mut state = self.inner.state();
        for id in &self.ids {
            if let Some(count) = state.pins.get_mut(id) {
                *count -= 1;
                if *count == 0 {
                    state.pins.remove(id);
                }
            }
        }
    }
}

/// The blob that a directory's entry is.
fn blob_of(entry: &fs::DirEntry) -> Option<BlobId> {
    entry.file_name().to_str().and_then(BlobId::of_digits)
}

/// Part of the quota that is reserved for an upload or for the outputs of a run; dropping it gives the bytes back.
pub(super) struct Share {
    inner: Arc<Inner>,
    bytes: u64,
    is_upload: bool,
}

impl Share {
    pub(super) fn of_outputs(inner: &Arc<Inner>) -> Self {
        Self { inner: Arc::clone(inner), bytes: 0, is_upload: false }
    }

    /// Reserves more until the share has at least `bytes`.
    pub(super) fn grow(&mut self, bytes: u64) -> Result<(), BlobError> {
        let more = bytes.saturating_sub(self.bytes);
        let max = self.inner.config.bytes_max;
        let mut state = self.inner.state();
        if more > 0 && state.bytes.saturating_add(more) > max {
            return Err(BlobError::Quota { used: state.bytes.saturating_sub(self.bytes), max });
        }
        state.bytes += more;
        drop(state);
        self.bytes += more;
        Ok(())
    }

    /// Ends the reservation: `kept` bytes stay taken, and the rest, which was taken at some time only, is given back.
    pub(super) fn leave(&mut self, kept: u64) {
        let back = std::mem::take(&mut self.bytes).saturating_sub(kept);
        let mut state = self.inner.state();
        state.bytes = state.bytes.saturating_sub(back);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if self.bytes == 0 && !self.is_upload {
            return;
        }
        let mut state = self.inner.state();
        state.bytes = state.bytes.saturating_sub(self.bytes);
        state.uploads -= usize::from(self.is_upload);
    }
}

/// Destination of an upload's bytes.
enum Target {
    File(File),
    /// None: the server has the blob already, and keeps it during the upload.
    Known {
        _pins: Pins,
    },
}

/// A blob that is being received. Dropping it leaves nothing behind.
pub struct NewBlob {
    share: Share,
    target: Target,
    /// `None`: the file is in its place already, or the upload has no file.
    path: Option<PathBuf>,
    hash: Sha256,
    bytes: u64,
    expected: Option<BlobId>,
}

impl NewBlob {
    /// Appends bytes.
    ///
    /// # Errors
    /// The blob gets too large, or the bytes can't be written.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
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

    /// The body will never be complete, for the reason `errno`.
    #[must_use]
    pub fn broken(&self, errno: i32) -> BlobError {
        match errno {
            libc::EMSGSIZE => BlobError::TooLarge(self.share.inner.config.blob_bytes_max),
            libc::ETIMEDOUT => BlobError::Late,
            _ => BlobError::Broken,
        }
    }

    /// Syncs the blob to the disk, and moves it to its place.
    ///
    /// # Errors
    /// The hash differs from the expected one, or the disk refuses the file.
    pub fn finish(mut self) -> Result<StoredBlob, BlobError> {
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
        let mut state = inner.state();
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
            // The file counts for the quota from now on, in place of the upload's share.
            let taken = std::mem::take(&mut self.share.bytes);
            state.bytes = state.bytes.saturating_sub(taken).saturating_add(charge(self.bytes));
        }
        drop(state);
        // Also if the blob was there: the upload that stored it may not have synced the directory yet.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn blobs(dir: &Path) -> Blobs {
        let config = BlobsConfig {
            dir: dir.join("blobs"),
            blob_bytes_max: 10_000,
            bytes_max: 5 * BLOCK_BYTES,
            retention: Duration::ZERO,
            outputs_dir: dir.join("job-files"),
            is_written: |_| false,
        };
        Blobs::open(config).unwrap()
    }

    fn put(blobs: &Blobs, bytes: &[u8]) -> Result<StoredBlob, BlobError> {
        let mut blob = blobs.begin(None, None)?;
        blob.write(bytes)?;
        blob.finish()
    }

    #[test]
    fn an_output_that_shrinks_gives_its_room_back() {
        use super::super::run_files::RunFiles;

        let dir = tempfile::tempdir().unwrap();
        let blobs = blobs(dir.path());
        let run = RunFiles::new(&blobs, "uuid", 1);
        let file = fs::File::from(run.output("out").unwrap());
        std::os::unix::fs::FileExt::write_all_at(&file, &[7; 9000], 0).unwrap();
        blobs.look_at_outputs();
        assert_eq!(blobs.usage().bytes, 3 * BLOCK_BYTES);
        file.set_len(1).unwrap();
        drop(file);
        run.publish().unwrap();
        assert_eq!(blobs.usage().bytes, BLOCK_BYTES);
        blobs.remove_outputs("uuid.1");
        assert_eq!(blobs.usage().bytes, 0);
    }

    #[test]
    fn the_same_bytes_are_one_file_and_the_quota_holds_over_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = blobs(dir.path());
        let one = put(&blobs, b"abc").unwrap();
        // FIPS 180-2, appendix B.1
        let abc = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!((one.id.to_string().as_str(), one.bytes, one.is_new), (abc, 3, true));
        assert_eq!(put(&blobs, b"abc").map(|again| again.is_new), Ok(false));
        assert_eq!(blobs.usage().bytes, BLOCK_BYTES);
        assert_eq!(put(&blobs, &[0; 10_001]), Err(BlobError::TooLarge(10_000)));
        assert_eq!(put(&blobs, &[1; 10_000]).map(|stored| stored.bytes), Ok(10_000));
        let full = BlobError::Quota { used: 4 * BLOCK_BYTES, max: 5 * BLOCK_BYTES };
        assert_eq!(put(&blobs, &[2; 5000]), Err(full.clone()));
        assert_eq!(blobs.begin(Some(5000), None).err(), Some(full));
        assert_eq!(blobs.usage().bytes, 4 * BLOCK_BYTES, "what failed gives its share back");
        let left = fs::read_dir(dir.path().join("blobs/incoming")).unwrap().count();
        assert_eq!(left, 0, "and leaves no file");
        fs::write(dir.path().join("blobs/incoming/7"), "from a server that was killed").unwrap();
        drop(blobs);
        let blobs = self::blobs(dir.path());
        assert_eq!(blobs.usage().bytes, 4 * BLOCK_BYTES);
        assert_eq!(fs::read_dir(dir.path().join("blobs/incoming")).unwrap().count(), 0);
        assert_eq!(blobs.delete(&one.id, || Ok(true)), Err(BlobError::InUse(one.id)));
        assert_eq!(blobs.delete(&one.id, || Ok(false)), Ok(()));
        assert_eq!(blobs.get(&one.id).err(), Some(BlobError::Unknown(one.id)));
        assert_eq!(blobs.sweep(|_| Ok(true)), 0);
        assert_eq!((blobs.sweep(|_| Ok(false)), blobs.usage().bytes), (1, 0));
    }

    #[test]
    fn what_is_not_as_expected_is_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = blobs(dir.path());
        let expected = BlobId::new([7; 32]);
        let mut blob = blobs.begin(Some(3), Some(expected)).unwrap();
        blob.write(b"abc").unwrap();
        assert!(matches!(blob.finish(), Err(BlobError::Mismatch { expected: found, .. }) if found == expected));
        assert_eq!((blobs.usage().bytes, fs::read_dir(dir.path().join("blobs")).unwrap().count()), (0, 1));
        let many: Vec<NewBlob> = (0..5).map(|_| blobs.begin(None, None).unwrap()).collect();
        assert!(matches!(blobs.begin(None, None), Err(BlobError::Quota { .. })));
        drop(many);
        assert_eq!(blobs.usage().bytes, 0);
    }
}
