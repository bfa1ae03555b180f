//! Core files of modules' processes: where the kernel writes them, and where the server keeps them.
//!
//! The kernel writes a core file with the rights of the dying process, at the place that `kernel.core_pattern` names. For a
//! plain name this is the working directory. Each process therefore has a directory of its own in its domain's scratch
//! directory, and its signal handler changes to that directory (`native/guard.c`). The server links the files from there
//! into the operator's directory. The process may have put anything there: the server takes only files of the process's
//! user, and follows no link.

use crate::domain::sandbox::User;
use rustix::fs::{AtFlags, Mode, OFlags, SeekFrom, linkat, openat, seek};
use serde::Serialize;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

/// Anonymous private memory, private pages of files, ELF headers, huge pages; but not the memory shared with the server
/// (core(5)).
const FILTER: &str = "0x31";
/// The prefix of the directories of processes.
const PLACE: &str = ".core-";
/// The extension of core files.
const EXTENSION: &str = "core";
/// Limit on the entries of a process's directory that are examined.
const ENTRIES_MAX: usize = 16;
/// Limit, in characters, on the module's part of a file's name.
const NAME_CHARS_MAX: usize = 64;

/// The directory of core files, and its limits.
#[derive(Debug, Clone)]
pub struct CoreFiles {
    dir: PathBuf,
    bytes_max: u64,
    files_max: usize,
}

/// A core file in the operator's directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CoreFile {
    /// The file.
    pub path: PathBuf,
    /// The bytes that the file occupies on the disk. Most of the file are holes, for memory that was never used.
    pub bytes: u64,
    /// The shared object of the module, and its address in memory.
    pub object: Option<(PathBuf, u64)>,
}

/// The directory for the core file of one process.
#[derive(Debug)]
pub(super) struct CorePlace {
    path: PathBuf,
    dir: OwnedFd,
    user: Option<User>,
}

impl CorePlace {
    pub(super) fn descriptor(&self) -> RawFd {
        self.dir.as_raw_fd()
    }
}

impl Drop for CorePlace {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

impl CoreFiles {
    /// Creates `dir`, closed to others, for at most `files_max` files of `bytes_max` bytes each.
    ///
    /// # Errors
    /// A sentence for operators: why there can be no core files, and how to change that.
    pub fn open(dir: &Path, bytes_max: u64, files_max: usize) -> Result<Self, String> {
        let setting = |name: &str| fs::read_to_string(format!("/proc/sys/kernel/{name}")).unwrap_or_default();
        let hard = rustix::process::getrlimit(rustix::process::Resource::Core).maximum;
        if let Some(why) =
            elsewhere(setting("core_pattern").trim_end_matches('\n'), setting("core_uses_pid").trim(), hard)
        {
            return Err(why);
        }
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|error| error.to_string())?;
        Ok(Self { dir: dir.to_path_buf(), bytes_max, files_max })
    }

    pub(super) fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    fn count(&self) -> usize {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        entries.filter(|entry| entry.path().extension().is_some_and(|extension| extension == EXTENSION)).count()
    }

    /// Creates a directory for the core file of process `number` in its domain's `scratch` directory, for the modules'
    /// `user`. `None`: the limit on core files is reached, or the directory can't be created.
    pub(super) fn place(&self, scratch: &Path, number: u64, user: Option<User>) -> Option<CorePlace> {
        if self.count() >= self.files_max {
            tracing::warn!(
                "{}: there are {} core files, the limit of --core-files-max: crashes leave none until some are removed",
                self.dir.display(),
                self.files_max
            );
            return None;
        }
        let path = scratch.join(format!("{PLACE}{number}"));
        let made = || {
            let _ = fs::remove_dir_all(&path);
            DirBuilder::new().mode(0o700).create(&path)?;
            let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
            let dir = OwnedFd::from(OpenOptions::new().read(true).custom_flags(flags).open(&path)?);
            user.map_or(Ok(()), |user| fchown(&dir, Some(user.uid), Some(user.gid)))?;
            Ok::<_, io::Error>(CorePlace { path: path.clone(), dir, user })
        };
        made().inspect_err(|error| tracing::warn!("no core file can be left in {}: {error}", path.display())).ok()
    }

    /// Moves the core file in `place` to the operator's directory under the name `named`, if there is one.
    pub(super) fn keep(&self, place: &CorePlace, named: &str) -> Option<CoreFile> {
        let file = found(place)?;
        if self.count() >= self.files_max {
            return None;
        }
        let path = self.dir.join(format!("{named}.{EXTENSION}"));
        let kept = self.take(&file, &path).and_then(|()| Ok(fs::metadata(&path)?.blocks().saturating_mul(512)));
        match kept {
            Ok(bytes) => Some(CoreFile { path, bytes, object: None }),
            Err(error) => {
                tracing::error!("the core file {} can't be kept: {error}", path.display());
                None
            }
        }
    }

    /// Makes `file` the file `path`, owned by this user.
    fn take(&self, file: &File, path: &Path) -> io::Result<()> {
        let by_descriptor = format!("/proc/self/fd/{}", file.as_raw_fd());
        let here = rustix::fs::CWD;
        if linkat(here, by_descriptor.as_str(), here, path, AtFlags::SYMLINK_FOLLOW).is_ok() {
            fchown(file, Some(rustix::process::geteuid().as_raw()), Some(rustix::process::getegid().as_raw()))?;
            return file.set_permissions(Permissions::from_mode(0o600));
        }
        // The link failed, because the directory is on another file system.
        let mut target = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        copy_data(file, &mut target, self.bytes_max).inspect_err(|_| {
            // A partial core file would count as one of the kept files.
            let _ = fs::remove_file(path);
        })
    }
}

/// Copies `file` without its holes, and at most `bytes_max` bytes of data.
fn copy_data(file: &File, target: &mut File, bytes_max: u64) -> io::Result<()> {
    let (length, mut at, mut left) = (file.metadata()?.len(), 0, bytes_max);
    target.set_len(length)?;
    while at < length && left > 0 {
        let start = match seek(file, SeekFrom::Data(at)) {
            Err(rustix::io::Errno::NXIO) => break,
            found => found?,
        };
        let end = seek(file, SeekFrom::Hole(start))?;
        let bytes = end.saturating_sub(start).min(left);
        seek(file, SeekFrom::Start(start))?;
        seek(&*target, SeekFrom::Start(start))?;
        io::copy(&mut file.take(bytes), target)?;
        (at, left) = (end, left - bytes);
    }
    Ok(())
}

/// Removes the directories that processes of an earlier server have left in `scratch`.
pub(super) fn sweep(scratch: &Path) {
    for entry in fs::read_dir(scratch).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(PLACE) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

impl CoreFile {
    /// Copies the module's shared object `path`, loaded at `base`, beside the core file, since the next deployment removes
    /// the original.
    pub(super) fn add_object(&mut self, path: &Path, base: u64) {
        let target = self.path.with_extension("so");
        let copied = File::open(path).and_then(|mut from| {
            let mut to = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&target)?;
            io::copy(&mut from, &mut to)
        });
        match copied {
            Ok(_) => self.object = Some((target, base)),
            Err(error) => tracing::warn!("{}: {error}", target.display()),
        }
    }
}

/// The first regular file in `place` that belongs to the process's user and has no other link.
fn found(place: &CorePlace) -> Option<File> {
    let listed = fs::read_dir(format!("/proc/self/fd/{}", place.dir.as_raw_fd())).ok()?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let open = |name: &Path| openat(&place.dir, name, flags, Mode::empty()).ok().map(File::from);
    let files = listed.take(ENTRIES_MAX).flatten().filter_map(|entry| open(Path::new(&entry.file_name())));
    let is_own = |file: &File| {
        file.metadata().is_ok_and(|found| {
            let of_user = place.user.is_none_or(|user| found.uid() == user.uid);
            found.is_file() && found.nlink() == 1 && found.len() > 0 && of_user
        })
    };
    files.into_iter().find(is_own)
}

/// The reason why core files do not come to the directory of the dying process; `None`: they do. `pattern` and `uses_pid`
/// are the kernel's settings, `hard` is the limit of this process.
fn elsewhere(pattern: &str, uses_pid: &str, hard: Option<u64>) -> Option<String> {
    if hard == Some(0) {
        return Some(
            "the hard limit of core files is 0: raise it for the server (ulimit -Hc, LimitCORE=infinity, --ulimit core=-1)".to_owned(),
        );
    }
    let instead = "set kernel.core_pattern to a plain name (sysctl -w kernel.core_pattern=core)";
    if let Some(program) = pattern.strip_prefix('|') {
        let program = program.split_whitespace().next().unwrap_or_default();
        return Some(format!(
            "the kernel gives them to the program {program} (kernel.core_pattern): look there (coredumpctl), or {instead}"
        ));
    }
    if pattern.contains('/') || pattern.starts_with('@') {
        return Some(format!("the kernel writes them to {pattern} (kernel.core_pattern): {instead}"));
    }
    (pattern.is_empty() && uses_pid == "0")
        .then(|| format!("kernel.core_pattern is empty, so that the kernel writes none: {instead}"))
}

/// Excludes the memory shared with the server from core files of this process, since it contains requests of other clients.
pub(super) fn leave_shared_memory_out() {
    if let Err(error) = fs::write("/proc/self/coredump_filter", FILTER) {
        tracing::warn!("core files have the memory that is shared with the server too: coredump_filter: {error}");
    }
}

/// The file name for a crash of module `module` at `at_ms`, in ms since 1970: `shop-20300131T093000Z`.
pub(super) fn file_name(module: &str, at_ms: u64) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let plain: String = module.chars().take(NAME_CHARS_MAX).map(|c| if is_plain(c) { c } else { '_' }).collect();
    let (days, seconds) = (at_ms / 86_400_000, at_ms / 1000 % 86_400);
    // Days since 0000-03-01, in eras of 400 years: a year begins with March, so that the leap day is its last day.
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (day, month) = (day - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    let year = era * 400 + year + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{plain}-{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_module_and_time() {
        for (at_ms, time) in [
            (0, "19700101T000000Z"),
            (951_782_400_000, "20000229T000000Z"),
            (1_893_456_000_000, "20300101T000000Z"),
            (1_896_082_199_999, "20300131T092959Z"),
        ] {
            assert_eq!(file_name("shop", at_ms), format!("shop-{time}"));
        }
        assert_eq!(file_name("../x y", 0), "___x_y-19700101T000000Z");
    }

    #[test]
    fn where_the_kernel_sends_core_files_is_told() {
        for pattern in ["core", "core.%p", "%e.%t.core"] {
            assert_eq!(elsewhere(pattern, "0", None), None, "{pattern}");
        }
        assert_eq!(elsewhere("", "1", Some(5)), None, "the file name is the process id alone");
        for (pattern, hard, words) in [
            ("|/usr/lib/systemd/systemd-coredump %P %u", None, "program /usr/lib/systemd/systemd-coredump"),
            ("/var/crash/core.%p", None, "writes them to /var/crash"),
            ("cores/%p", None, "writes them to cores/"),
            ("@/run/coredump.socket", None, "writes them to @/run"),
            ("", None, "empty"),
            ("core", Some(0), "ulimit -Hc"),
        ] {
            let why = elsewhere(pattern, "0", hard).unwrap();
            assert!(why.contains(words), "{pattern}: {why}");
        }
    }

    #[test]
    fn only_a_file_of_the_process_itself_is_kept() {
        let (kept, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let files = CoreFiles { dir: kept.path().to_path_buf(), bytes_max: 1 << 20, files_max: 1 };
        let place = files.place(scratch.path(), 7, None).unwrap();
        let inside = |name: &str| place.path.join(name);
        assert_eq!(files.keep(&place, "m"), None, "there is no core file");
        std::os::unix::fs::symlink("/etc/passwd", inside("link")).unwrap();
        fs::create_dir(inside("directory")).unwrap();
        fs::write(scratch.path().join("victim"), "another's").unwrap();
        fs::hard_link(scratch.path().join("victim"), inside("hard")).unwrap();
        fs::write(inside("empty"), "").unwrap();
        assert_eq!(files.keep(&place, "m"), None);
        fs::write(inside("core"), "the memory").unwrap();
        let core = files.keep(&place, "m").unwrap();
        assert_eq!(
            (fs::read_to_string(&core.path).unwrap().as_str(), core.bytes),
            ("the memory", fs::metadata(&core.path).unwrap().blocks() * 512)
        );
        // Across file systems the file is copied.
        let copy = kept.path().join("copy");
        let mut target = File::create_new(&copy).unwrap();
        let holes = File::create_new(inside("holes")).unwrap();
        holes.set_len(1 << 30).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&holes, b"far away", 1 << 29).unwrap();
        copy_data(&File::open(inside("holes")).unwrap(), &mut target, 1 << 20).unwrap();
        let mut read = [0; 8];
        std::os::unix::fs::FileExt::read_exact_at(&File::open(&copy).unwrap(), &mut read, 1 << 29).unwrap();
        let found = fs::metadata(&copy).unwrap();
        assert!(&read == b"far away" && found.len() == 1 << 30 && found.blocks() < 10_000, "{}", found.blocks());
        assert_eq!(fs::metadata(&core.path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(files.place(scratch.path(), 8, None).is_none(), "the limit on core files is reached");
        drop(place);
        assert!(core.path.exists() && !inside_exists(scratch.path()), "the directory of the process is removed");
    }

    fn inside_exists(scratch: &Path) -> bool {
        scratch.join(".core-7").exists()
    }
}
