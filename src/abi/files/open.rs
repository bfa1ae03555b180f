//! Opening files, and keeping those open that are asked for often.

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

/// Files that are kept open in a process.
const KEPT_FILES_MAX: usize = 64;

/// Larger files are opened for each answer: opening one costs little beside sending it, and one that is deleted while it is
/// kept would keep its space.
pub(super) const KEPT_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// A file that is kept open is looked up by its name again after this. That it was changed, deleted or replaced by
/// rename(2) is seen at once.
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

    /// Names this open file in this process; never used again.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Its descriptor, for as long as it takes to send it.
    #[must_use]
    pub fn descriptor(&self) -> &Arc<OwnedFd> {
        &self.fd
    }

    /// Whether the same open file may be in further answers.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.is_kept
    }
}

/// The state of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Info {
    pub(super) bytes: u64,
    /// Nanoseconds after 1970, negative before.
    pub(super) modified_ns: i128,
    inode: u64,
    device: u64,
}

impl Info {
    /// Of a regular file; an error for anything else.
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

    /// Seconds after 1970 of the last change.
    pub(super) fn modified_s(&self) -> Option<u64> {
        u64::try_from(self.modified_ns.div_euclid(1_000_000_000)).ok()
    }

    /// A strong validator (RFC 9110 §8.8.1): it changes with the file's content, its length and when another file takes its
    /// name.
    pub(super) fn etag(&self) -> String {
        format!("\"{:x}-{:x}-{:x}\"", self.modified_ns, self.bytes, self.inode)
    }

    fn is_same_file(&self, other: &Self) -> bool {
        (self.inode, self.device) == (other.inode, other.device)
    }
}

/// What a name stands for now.
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

    /// The state now of a file that has been open for a while; `None` if its name is gone.
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
                // One that is older than the file was made of an earlier content.
                *place = found.filter(|found| found.info.modified_ns >= plain.info.modified_ns);
            }
        }
        Ok(Self { plain, siblings })
    }

    /// The file encoded in this way, if there is one.
    pub(super) fn sibling(&self, coding: Coding) -> Option<&Found> {
        let place = Coding::ALL.iter().position(|known| *known == coding)?;
        self.siblings.get(place)?.as_ref()
    }

    /// Whether the answer depends on what codings the client takes.
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

    /// With the open files of `before` where they are the same.
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
    /// The number of the last use.
    used: u64,
}

#[derive(Default)]
struct Cache {
    kept: HashMap<(Vec<u8>, Vec<u8>), Kept>,
    uses: u64,
}

impl Cache {
    /// What is known of a name; whether it has to be looked up anew is the second value.
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

/// The regular file `path`: below `root` whatever the path says, or, without a root, as open(2) finds it.
///
/// # Errors
/// EISDIR for a directory, ENXIO for anything else that is no regular file, and those of openat2(2).
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
            // Opening a device can do something; what is one is seen before.
            Info::of(&statat(CWD, path, AtFlags::empty())?)?;
            openat(CWD, path, flags, Mode::empty())
        }
    }
}
