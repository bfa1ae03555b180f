//! Opens files, and keeps frequently requested files open.

use super::beneath;
use crate::proto::http1::Coding;
use crate::proto::mime;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat, fstat, openat, statat};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Limit on the files that a process keeps open.
const KEPT_FILES_MAX: usize = 64;

/// Largest file, in bytes, that is kept open. Opening a larger file costs little compared with sending it, and a deleted file
/// would keep its disk space while it is open.
pub(super) const KEPT_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// How long an open file is used without a new lookup of its name. Changes, deletion and replacement by rename(2) are detected
/// at once.
const LOOKED_UP_MAX: Duration = Duration::from_secs(1);

/// An open regular file.
#[derive(Debug)]
pub struct OpenFile {
    fd: Arc<OwnedFd>,
    id: u64,
    is_kept: bool,
}

impl OpenFile {
    fn new(fd: OwnedFd, info: &Info) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Arc::new(Self {
            fd: Arc::new(fd),
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            is_kept: info.bytes <= KEPT_BYTES_MAX,
        })
    }

    /// A number for this open file in this process; never reused.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The file's descriptor, valid while the file is sent.
    #[must_use]
    pub fn descriptor(&self) -> &Arc<OwnedFd> {
        &self.fd
    }

    /// Whether further answers may use the same open file.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.is_kept
    }
}

/// The state of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Info {
    pub(super) bytes: u64,
    /// Nanoseconds after 1970-01-01 00:00:00 UTC, negative for earlier times.
    pub(super) modified_ns: i128,
    inode: u64,
    device: u64,
}

impl Info {
    /// The state of a regular file; an error for any other kind.
    fn of(stat: &Stat) -> Result<Self, Errno> {
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {}
            FileType::Directory => return Err(Errno::ISDIR),
            _ => return Err(Errno::NXIO),
        }
        Ok(Self {
            bytes: u64::try_from(stat.st_size).unwrap_or(0),
            modified_ns: i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec),
            inode: stat.st_ino,
            device: stat.st_dev,
        })
    }

    /// The time of the last change, in seconds after 1970-01-01 00:00:00 UTC.
    pub(super) fn modified_s(&self) -> Option<u64> {
        u64::try_from(self.modified_ns.div_euclid(1_000_000_000)).ok()
    }

    /// A strong validator (RFC 9110 §8.8.1): it changes when the content or length of the file changes, or another file takes
    /// its name.
    pub(super) fn etag(&self) -> String {
        format!("\"{:x}-{:x}-{:x}\"", self.modified_ns, self.bytes, self.inode)
    }

    fn is_same_file(&self, other: &Self) -> bool {
        (self.inode, self.device) == (other.inode, other.device)
    }
}

/// The file that a name refers to now.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) file: Arc<OpenFile>,
    pub(super) info: Info,
}

impl Found {
    fn open(root: Option<&CStr>, path: &CStr) -> Result<Self, Errno> {
        let fd = open(root, path)?;
        let info = Info::of(&fstat(&fd)?)?;
        Ok(Self { file: OpenFile::new(fd, &info), info })
    }

    /// The present state of a file that has been open for a while; `None` if its name was removed.
    fn refreshed(&self) -> Option<Self> {
        let stat = fstat(&*self.file.fd).ok().filter(|stat| stat.st_nlink > 0)?;
        let info = Info::of(&stat).ok().filter(|info| info.bytes <= KEPT_BYTES_MAX)?;
        Some(Self { file: Arc::clone(&self.file), info })
    }
}

/// A file and its encoded siblings, in the order of [`Coding::ALL`].
#[derive(Debug, Clone)]
pub(super) struct Family {
    pub(super) plain: Found,
    siblings: [Option<Found>; 3],
}

impl Family {
    fn open(root: Option<&CStr>, path: &CStr) -> Result<Self, Errno> {
        let plain = Found::open(root, path)?;
        let mut siblings = [None, None, None];
        if mime::is_compressible(mime::content_type(path.to_bytes()).as_bytes()) {
            for (place, coding) in siblings.iter_mut().zip(Coding::ALL) {
                let name = CString::new([path.to_bytes(), coding.suffix().as_bytes()].concat()).ok();
                let found = name.and_then(|name| Found::open(root, &name).ok());
                // A sibling older than the file was made from an earlier content.
                *place = found.filter(|found| found.info.modified_ns >= plain.info.modified_ns);
            }
        }
        Ok(Self { plain, siblings })
    }

    /// The sibling with this coding, if there is one.
    pub(super) fn sibling(&self, coding: Coding) -> Option<&Found> {
        let place = Coding::ALL.iter().position(|known| *known == coding)?;
        self.siblings.get(place)?.as_ref()
    }

    /// Whether the answer depends on the codings that the client accepts.
    pub(super) fn varies(&self) -> bool {
        self.siblings.iter().any(Option::is_some)
    }

    fn refreshed(&self) -> Option<Self> {
        let plain = self.plain.refreshed().filter(|plain| plain.info == self.plain.info)?;
        for sibling in self.siblings.iter().flatten() {
            sibling.refreshed().filter(|now| now.info == sibling.info)?;
        }
        Some(Self { plain, siblings: self.siblings.clone() })
    }

    /// Keeps the open files of `before` that are unchanged.
    fn keeping(mut self, before: &Self) -> Self {
        let keep = |now: &mut Found, before: &Found| {
            if now.info.is_same_file(&before.info) && now.file.is_kept && before.file.is_kept {
                now.file = Arc::clone(&before.file);
            }
        };
        keep(&mut self.plain, &before.plain);
        for (now, before) in self.siblings.iter_mut().zip(&before.siblings) {
            if let (Some(now), Some(before)) = (now, before) {
                keep(now, before);
            }
        }
        self
    }

    fn is_kept(&self) -> bool {
        self.plain.file.is_kept && self.siblings.iter().flatten().all(|sibling| sibling.file.is_kept)
    }
}

struct Kept {
    family: Family,
    looked_up: Instant,
    /// The number of the last use; larger means later.
    used: u64,
}

#[derive(Default)]
struct Cache {
    kept: HashMap<(Vec<u8>, Vec<u8>), Kept>,
    uses: u64,
}

impl Cache {
    /// The cached files of a name; the second value tells whether the name must be looked up again.
    fn get(&mut self, key: &(Vec<u8>, Vec<u8>), now: Instant) -> Option<(Family, bool)> {
        self.uses += 1;
        let kept = self.kept.get_mut(key)?;
        kept.used = self.uses;
        let late = now.duration_since(kept.looked_up) > LOOKED_UP_MAX;
        Some((kept.family.clone(), late))
    }

    fn put(&mut self, key: (Vec<u8>, Vec<u8>), family: Family, now: Instant) {
        if self.kept.len() >= KEPT_FILES_MAX && !self.kept.contains_key(&key) {
            let oldest = self.kept.iter().min_by_key(|(_, kept)| kept.used).map(|(key, _)| key.clone());
            if let Some(oldest) = oldest {
                self.kept.remove(&oldest);
            }
        }
        self.kept.insert(key, Kept { family, looked_up: now, used: self.uses });
    }
}

static CACHE: Mutex<Option<Cache>> = Mutex::new(None);

fn with_cache<T>(body: impl FnOnce(&mut Cache) -> T) -> T {
    body(CACHE.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default())
}

/// Finds the regular file `path`: always below `root`, or, without a root, as open(2) finds it.
///
/// # Errors
/// EISDIR for a directory, ENXIO for any other file that is not regular, and the errors of openat2(2).
pub(super) fn find(root: Option<&CStr>, path: &CStr) -> io::Result<Family> {
    let key = (root.map_or_else(Vec::new, |root| root.to_bytes().to_vec()), path.to_bytes().to_vec());
    let now = Instant::now();
    let known = with_cache(|cache| cache.get(&key, now));
    if let Some((family, false)) = &known
        && let Some(family) = family.refreshed()
    {
        return Ok(family);
    }
    let opened = Family::open(root, path);
    with_cache(|cache| match &opened {
        Ok(family) if family.is_kept() => {
            let family = match &known {
                Some((before, _)) => family.clone().keeping(before),
                None => family.clone(),
            };
            cache.put(key, family.clone(), now);
            Ok(family)
        }
        Ok(family) => {
            cache.kept.remove(&key);
            Ok(family.clone())
        }
        Err(error) => {
            cache.kept.remove(&key);
            Err((*error).into())
        }
    })
}

/// Whether `path` below `root` is a directory.
pub(super) fn is_directory(root: &CStr, path: &CStr) -> bool {
    let Ok(root) = directory(root) else { return false };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let path = if path.is_empty() { c"." } else { path };
    beneath::open(&root, path, flags).is_ok()
}

fn directory(path: &CStr) -> Result<OwnedFd, Errno> {
    openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

fn open(root: Option<&CStr>, path: &CStr) -> Result<OwnedFd, Errno> {
    // NONBLOCK: opening a FIFO must not wait for its writer.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    match root {
        Some(root) => beneath::open(&directory(root)?, path, flags),
        None => {
            // Opening a device can have effects, so the kind of file is checked first.
            Info::of(&statat(CWD, path, AtFlags::empty())?)?;
            openat(CWD, path, flags, Mode::empty())
        }
    }
}
