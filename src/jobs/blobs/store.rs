//! The directory of blobs.

use super::id::BlobId;
use crossbeam::channel::{Receiver, Sender, unbounded};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

/// Smallest charge for a file, in bytes, and the unit to which charges are rounded up: the quota limits many small files too.
pub(super) const BLOCK_BYTES: u64 = 4096;
/// Limit on simultaneous uploads; each has a thread.
const UPLOADS_MAX: usize = 64;

/// Settings and limits of a server's blobs.
#[derive(Debug, Clone)]
pub struct BlobsConfig {
    /// Directory of the blobs.
    pub dir: PathBuf,
    /// Directory of the jobs' outputs.
    pub outputs_dir: PathBuf,
    /// Limit, in bytes, on one blob.
    pub blob_bytes_max: u64,
    /// Limit, in bytes, on all blobs and outputs together.
    pub bytes_max: u64,
    /// How long an unused blob that no job needs is kept after its last use.
    pub retention: Duration,
    /// Returns whether any descriptor for writing the file is still open; the argument is a descriptor for reading.
    pub is_written: fn(BorrowedFd<'_>) -> bool,
}

/// Why a blob can't be read or stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlobError {
    /// The blob is larger than the limit of one blob, in bytes.
    #[error("the blob is larger than {0} bytes (--blob-bytes-max)")]
    TooLarge(u64),
    /// The quota has no room for the blob.
    #[error(
        "the blobs use {used} of {max} bytes, so there is no room for this blob: delete some, or raise --blobs-bytes-max"
    )]
    Quota {
        /// Bytes that the blobs use already.
        used: u64,
        /// The limit.
        max: u64,
    },
    /// The disk is full.
    #[error("the disk is full")]
    DiskFull,
    /// The limit on simultaneous uploads is reached.
    #[error("{UPLOADS_MAX} blobs are being received already; try again")]
    Busy,
    /// The hash of the bytes differs from the one in the request.
    #[error("the body has the SHA-256 {found}, not {expected} as the request says; nothing is stored")]
    Mismatch {
        /// Hash of the received bytes.
        found: BlobId,
        /// Hash in the request.
        expected: BlobId,
    },
    /// The body did not arrive in time.
    #[error("the body did not arrive in time; nothing is stored")]
    Late,
    /// The body was cut off.
    #[error("the body was cut off; nothing is stored")]
    Broken,
    /// There is no such blob.
    #[error("there is no blob {0}")]
    Unknown(BlobId),
    /// A job needs the blob.
    #[error("a job needs the blob {0}: delete the job first")]
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

/// A blob, open for reading.
#[derive(Debug)]
pub struct OpenBlob {
    /// The blob's file.
    pub file: File,
    /// The blob's size.
    pub bytes: u64,
}

/// Bytes that all blobs and outputs use together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Used bytes, in whole blocks, with uploads in progress.
    pub bytes: u64,
    /// The limit.
    pub bytes_max: u64,
}

/// A deletion during which the store is asked whether a job needs the blob.
struct Deletion {
    id: BlobId,
    number: u64,
    /// The blob was used meanwhile, so the blob stays.
    is_used: bool,
}

/// State under a lock. A thread that holds the lock must not wait for the store. A shard must not take the lock, because its
/// holder may wait for the disk.
#[derive(Default)]
pub(super) struct State {
    /// Blobs named by submissions that are on their way to the store, with the number of those submissions.
    pins: HashMap<BlobId, usize>,
    deletions: Vec<Deletion>,
    /// The outputs of running jobs.
    pub(super) watched: Vec<Weak<dyn Watched>>,
}

impl State {
    /// Marks blob `id` as used, so that deletions in progress keep it.
    pub(super) fn is_used(&mut self, id: &BlobId) {
        self.deletions.iter_mut().filter(|deletion| deletion.id == *id).for_each(|deletion| deletion.is_used = true);
    }
}

pub(super) struct Inner {
    pub(super) config: BlobsConfig,
    state: Mutex<State>,
    /// Bytes of the files, and bytes reserved for uploads and outputs of running jobs. Relaxed: no other access is ordered by
    /// this count.
    bytes: AtomicU64,
    /// Number of uploads with a thread. Relaxed, for the same reason.
    uploads: AtomicUsize,
    /// Numbers of uploads and deletions.
    next: AtomicU64,
    pub(super) wake: Sender<Wake>,
    pub(super) woken: Receiver<Wake>,
}

/// Files of a run, which are checked periodically while the run goes on.
pub(super) trait Watched: Send + Sync {
    /// Counts the bytes of the run's files. If they exceed a limit, the run must end, and its files are truncated.
    fn look(&self, file_bytes_max: u64);
}

/// A message to the cleaning thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wake {
    /// The output directory of this name belongs to no job.
    Unused(String),
    /// A job has begun to write outputs.
    Outputs,
    /// A job was deleted.
    JobDeleted,
    /// The server is stopping.
    Stop,
}

/// The blobs of a server; clones share the same state.
#[derive(Clone)]
pub struct Blobs {
    pub(super) inner: Arc<Inner>,
}

pub(super) fn charge(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK_BYTES).max(1).saturating_mul(BLOCK_BYTES)
}

pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

impl Inner {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn path(&self, id: &BlobId) -> PathBuf {
        self.config.dir.join(id.digits())
    }

    fn incoming(&self) -> PathBuf {
        self.config.dir.join("incoming")
    }

    /// The path of a new upload.
    pub(super) fn new_path(&self) -> PathBuf {
        self.incoming().join(self.next.fetch_add(1, Ordering::Relaxed).to_string())
    }

    /// Counts one more upload. Returns false if the limit is reached.
    pub(super) fn begin_upload(&self) -> bool {
        let more = |uploads| (uploads < UPLOADS_MAX).then_some(uploads + 1);
        self.uploads.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    pub(super) fn end_upload(&self) {
        self.uploads.fetch_sub(1, Ordering::Relaxed);
    }

    /// Reserves `bytes` of the quota.
    ///
    /// # Errors
    /// The quota has no room; the value is the number of used bytes.
    pub(super) fn reserve(&self, bytes: u64) -> Result<(), u64> {
        let more = |taken: u64| taken.checked_add(bytes).filter(|sum| *sum <= self.config.bytes_max);
        self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).map(drop)
    }

    /// Counts `bytes` that are already on the disk.
    pub(super) fn count(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Returns `bytes` to the quota.
    pub(super) fn give_back(&self, bytes: u64) {
        let less = |taken: u64| Some(taken.saturating_sub(bytes));
        let _ = self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// Sets the time of the file's last use to now.
    pub(super) fn touch(&self, file: &File) {
        if let Err(error) = file.set_modified(SystemTime::now()) {
            tracing::warn!("the last use of a blob can't be recorded, so it may be deleted early: {error}");
        }
    }
}

impl Blobs {
    /// Opens or creates the directory that `config` names, and counts its blobs. Removes incomplete uploads of a killed server.
    ///
    /// # Errors
    /// The directory can't be created or read.
    pub fn open(config: BlobsConfig) -> io::Result<Self> {
        let (wake, woken) = unbounded();
        let inner = Inner {
            config,
            state: Mutex::default(),
            bytes: AtomicU64::new(0),
            uploads: AtomicUsize::new(0),
            next: AtomicU64::new(0),
            wake,
            woken,
        };
        fs::create_dir_all(&inner.config.outputs_dir)?;
        let incoming = inner.incoming();
        match fs::remove_dir_all(&incoming) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => fs::create_dir_all(&incoming)?,
        }
        for entry in fs::read_dir(&inner.config.dir)? {
            let entry = entry?;
            if blob_of(&entry).is_some() {
                inner.count(charge(entry.metadata()?.len()));
            }
        }
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Limit, in bytes, on one blob.
    #[must_use]
    pub fn blob_bytes_max(&self) -> u64 {
        self.inner.config.blob_bytes_max
    }

    /// How long the server keeps a blob that no job needs.
    pub(in crate::jobs) fn retention(&self) -> Duration {
        self.inner.config.retention
    }

    /// Bytes that all blobs and outputs use, and their limit.
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage { bytes: self.inner.bytes.load(Ordering::Relaxed), bytes_max: self.inner.config.bytes_max }
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

    /// Deletes a blob, unless `is_needed` returns that a job needs it.
    ///
    /// # Errors
    /// The blob is not stored, or a job needs it.
    pub fn delete(&self, id: &BlobId, is_needed: impl FnOnce() -> Result<bool, String>) -> Result<(), BlobError> {
        let path = self.inner.path(id);
        let bytes = match fs::metadata(&path) {
            Ok(found) => charge(found.len()),
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(BlobError::Unknown(*id)),
            Err(error) => return Err(BlobError::failed(&error)),
        };
        let number = self.inner.next.fetch_add(1, Ordering::Relaxed);
        self.inner.state().deletions.push(Deletion { id: *id, number, is_used: false });
        // The store must be asked without the lock. A submission that names the blob meanwhile marks the deletion, whether its
        // job is stored by then or not.
        let needed = is_needed();
        let mut state = self.inner.state();
        let place = state.deletions.iter().position(|deletion| deletion.number == number);
        let is_used = place.is_none_or(|place| state.deletions.swap_remove(place).is_used);
        if is_used || state.pins.contains_key(id) || needed.map_err(BlobError::Failed)? {
            return Err(BlobError::InUse(*id));
        }
        // The lock must be held until the blob is removed. A submission that names the blob has then either pinned it before,
        // or does not find it.
        match fs::remove_file(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(BlobError::Unknown(*id)),
            removed => removed.map_err(|error| BlobError::failed(&error))?,
        }
        drop(state);
        self.inner.give_back(bytes);
        sync_dir(&self.inner.config.dir).map_err(|error| BlobError::failed(&error))
    }

    /// Deletes the blobs whose retention has passed, except those that a job needs according to `is_needed`. Returns how many.
    pub fn sweep(&self, mut is_needed: impl FnMut(&BlobId) -> Result<bool, String>) -> usize {
        let is_old = |path: &Path| {
            let used = fs::metadata(path).and_then(|found| found.modified()).ok();
            used.and_then(|used| used.elapsed().ok()).is_some_and(|age| age > self.inner.config.retention)
        };
        let entries = fs::read_dir(&self.inner.config.dir).into_iter().flatten().flatten();
        let old =
            entries.filter_map(|entry| blob_of(&entry).filter(|_| is_old(&entry.path())).map(|id| (id, entry.path())));
        // A use before the deletion began shows in the file's time; a later use marks the deletion.
        old.filter(|(id, path)| self.delete(id, || Ok(!is_old(path) || is_needed(id)?)).is_ok()).count()
    }
}

/// Blobs that can't be deleted until this is dropped.
pub struct Pins {
    inner: Arc<Inner>,
    ids: Vec<BlobId>,
}

impl Blobs {
    /// Keeps the blobs from being deleted until the returned pins are dropped; counts as a use.
    ///
    /// # Errors
    /// One of the blobs is not stored.
    pub(in crate::jobs) fn pin(&self, ids: Vec<BlobId>) -> Result<Pins, BlobError> {
        let pins = self.hold(ids);
        // From here on the blobs stay. A blob that is not found was deleted earlier, or never stored.
        pins.ids.iter().try_for_each(|id| self.get(id).map(drop))?;
        Ok(pins)
    }

    /// Like [`Blobs::pin`], whether the blobs are stored or not.
    pub(super) fn hold(&self, ids: Vec<BlobId>) -> Pins {
        let pins = Pins { inner: Arc::clone(&self.inner), ids };
        if !pins.ids.is_empty() {
            let mut state = self.inner.state();
            for id in &pins.ids {
                *state.pins.entry(*id).or_insert(0) += 1;
                state.is_used(id);
            }
        }
        pins
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

/// The blob of a directory entry.
pub(super) fn blob_of(entry: &fs::DirEntry) -> Option<BlobId> {
    entry.file_name().to_str().and_then(BlobId::of_digits)
}

#[cfg(test)]
mod tests {
    use super::super::incoming::{NewBlob, StoredBlob};
    use super::*;
    use std::os::unix::fs::FileExt;

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

    fn begin(blobs: &Blobs, length: Option<u64>, expected: Option<BlobId>) -> Result<NewBlob, BlobError> {
        blobs.admit(length)?.open(length, expected)
    }

    fn put(blobs: &Blobs, bytes: &[u8]) -> Result<StoredBlob, BlobError> {
        let mut blob = begin(blobs, None, None)?;
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
        file.write_all_at(&[7; 9000], 0).unwrap();
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
        assert_eq!(begin(&blobs, Some(5000), None).err(), Some(full));
        assert_eq!(blobs.usage().bytes, 4 * BLOCK_BYTES, "a failed upload returns its share of the quota");
        let left = fs::read_dir(dir.path().join("blobs/incoming")).unwrap().count();
        assert_eq!(left, 0, "a failed upload leaves no file");
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
        let mut blob = begin(&blobs, Some(3), Some(expected)).unwrap();
        blob.write(b"abc").unwrap();
        assert!(matches!(blob.finish(), Err(BlobError::Mismatch { expected: found, .. }) if found == expected));
        assert_eq!((blobs.usage().bytes, fs::read_dir(dir.path().join("blobs")).unwrap().count()), (0, 1));
        let many: Vec<NewBlob> = (0..5).map(|_| begin(&blobs, None, None).unwrap()).collect();
        assert!(matches!(begin(&blobs, None, None), Err(BlobError::Quota { .. })));
        drop(many);
        assert_eq!(blobs.usage().bytes, 0);
    }

    #[test]
    fn a_blob_that_is_used_while_the_store_is_asked_stays() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = blobs(dir.path());
        let one = put(&blobs, b"abc").unwrap().id;
        // The job is stored and its pin dropped before the store has answered that no job needs the blob.
        let by_job = || {
            drop(blobs.pin(vec![one]).unwrap());
            Ok(false)
        };
        assert_eq!(blobs.delete(&one, by_job), Err(BlobError::InUse(one)));
        let by_upload = || Ok(put(&blobs, b"abc").unwrap().is_new);
        assert_eq!(blobs.delete(&one, by_upload), Err(BlobError::InUse(one)));
        let pin = blobs.pin(vec![one]).unwrap();
        assert_eq!(blobs.delete(&one, || Ok(false)), Err(BlobError::InUse(one)));
        drop(pin);
        // Of two simultaneous deletions only one succeeds.
        let other = || blobs.delete(&one, || Ok(false)).map(|()| false).map_err(|error| error.to_string());
        assert_eq!(blobs.delete(&one, other), Err(BlobError::Unknown(one)));
        assert_eq!((blobs.usage().bytes, blobs.inner.state().deletions.len()), (0, 0));
        assert_eq!(blobs.pin(vec![one]).err(), Some(BlobError::Unknown(one)));
        assert!(blobs.inner.state().pins.is_empty());
    }
}
