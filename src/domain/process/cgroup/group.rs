//! The cgroup of one process: its creation, limits, state after the process's end, and removal.

use crate::machine::Version;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// How long a cgroup may be busy after wait(2) has returned its process, since the kernel may finish later.
pub(super) const REMOVE_WAIT: Duration = Duration::from_secs(2);
/// Limit on the pause between two attempts.
const REMOVE_PAUSE_MAX: Duration = Duration::from_millis(50);

/// The kernel counts memory in units of some pages, so the largest use lies a little below a limit that was reached.
const SLACK_BYTES: u64 = 1024 * 1024;

/// The group whose memory limit caused the kernel to kill a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::domain::process) enum OutOfMemory {
    /// The process exceeded its own limit.
    Limit {
        /// The limit in bytes.
        bytes: u64,
    },
    /// Memory ran out in a container, in a service or on the whole machine.
    Elsewhere,
}

/// An existing cgroup.
#[derive(Debug)]
pub(super) struct Group {
    version: Version,
    dir: PathBuf,
    limit_bytes: u64,
}

impl Group {
    /// Creates the cgroup `dir` with a limit of `limit_bytes` bytes of memory.
    pub(super) fn create(version: Version, dir: PathBuf, limit_bytes: u64) -> io::Result<Self> {
        make(&dir)?;
        let group = Self { version, dir, limit_bytes };
        match group.limit() {
            Ok(()) => Ok(group),
            Err(error) => {
                let _ = rmdir(&group.dir);
                Err(error)
            }
        }
    }

    fn limit(&self) -> io::Result<()> {
        let bytes = self.limit_bytes.to_string();
        match self.version {
            Version::Two => {
                self.write("memory.max", &bytes)?;
                // Kernels without swap and older kernels lack these two files; the limit above holds there too.
                self.write_if_there("memory.swap.max", "0");
                self.write_if_there("memory.oom.group", "1");
            }
            Version::One => {
                self.write("memory.limit_in_bytes", &bytes)?;
                // This limit concerns memory and swap together. The kernel requires it to be at least the limit on memory,
                // so it comes second.
                self.write_if_there("memory.memsw.limit_in_bytes", &bytes);
            }
        }
        Ok(())
    }

    fn write(&self, file: &str, text: &str) -> io::Result<()> {
        write(&self.dir.join(file), text)
    }

    fn write_if_there(&self, file: &str, text: &str) {
        if let Err(error) = self.write(file, text) {
            tracing::debug!("{error}");
        }
    }

    /// Moves a process with all its threads into the cgroup.
    pub(super) fn add(&self, pid: u32) -> io::Result<()> {
        self.write("cgroup.procs", &pid.to_string())
    }

    /// Whether the kernel killed the process for lack of memory, and under which limit. The call must precede the removal.
    pub(super) fn out_of_memory(&self) -> Option<OutOfMemory> {
        let read = |file: &str| fs::read_to_string(self.dir.join(file)).unwrap_or_default();
        let number = |file: &str| read(file).trim().parse::<u64>().unwrap_or(0);
        let (killed, reached) = match self.version {
            Version::Two => {
                let events = read("memory.events");
                (count(&events, "oom_kill").unwrap_or(0), count(&events, "oom").is_some_and(|count| count > 0))
            }
            Version::One => {
                // `memory.failcnt` stays 0 on newer kernels; Linux before 4.13 has no count of kills, so the counter serves
                // there.
                let kills = count(&read("memory.oom_control"), "oom_kill");
                let largest = number("memory.max_usage_in_bytes");
                (
                    kills.unwrap_or_else(|| number("memory.failcnt")),
                    largest.saturating_add(SLACK_BYTES) >= self.limit_bytes,
                )
            }
        };
        let why = if reached { OutOfMemory::Limit { bytes: self.limit_bytes } } else { OutOfMemory::Elsewhere };
        (killed > 0).then_some(why)
    }

    /// Removes the cgroup, within [`REMOVE_WAIT`]. Its process must have ended.
    pub(super) fn remove(&self) {
        if let Err(error) = remove(&self.dir, Instant::now() + REMOVE_WAIT) {
            tracing::warn!("the cgroup {} could not be removed: {error}", self.dir.display());
        }
    }
}

/// The number after `key` in a file of lines `key number`.
fn count(text: &str, key: &str) -> Option<u64> {
    let mut pairs = text.lines().filter_map(|line| line.split_once(' '));
    pairs.find(|(name, _)| *name == key)?.1.trim().parse().ok()
}

/// Writes to a file of a cgroup; the error contains the path.
pub(super) fn write(path: &Path, text: &str) -> io::Result<()> {
    fs::write(path, text).map_err(|error| naming(path, &error))
}

/// mkdir(2); the error contains the path.
pub(super) fn make(dir: &Path) -> io::Result<()> {
    fs::create_dir(dir).map_err(|error| naming(dir, &error))
}

fn naming(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Removes a cgroup, and tries again until `deadline` while it is busy. A missing cgroup counts as removed.
pub(super) fn remove(dir: &Path, deadline: Instant) -> io::Result<()> {
    let mut pause = Duration::from_millis(1);
    loop {
        match rmdir(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline => {
                thread::sleep(pause);
                pause = (pause * 2).min(REMOVE_PAUSE_MAX);
            }
            other => return other,
        }
    }
}

/// rmdir(2). The kernel removes the files of a cgroup itself; in the tests, plain directories stand for cgroups.
pub(super) fn rmdir(dir: &Path) -> io::Result<()> {
    #[cfg(test)]
    for file in fs::read_dir(dir).into_iter().flatten().flatten().filter(|entry| entry.path().is_file()) {
        fs::remove_file(file.path())?;
    }
    fs::remove_dir(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn has(group: &Group, file: &str) -> String {
        fs::read_to_string(group.dir.join(file)).unwrap()
    }

    #[test]
    fn a_group_of_version_two() {
        let parent = tempfile::tempdir().unwrap();
        let group = Group::create(Version::Two, parent.path().join("g"), 64 * MIB).unwrap();
        assert_eq!(has(&group, "memory.max"), "67108864");
        assert_eq!((has(&group, "memory.swap.max"), has(&group, "memory.oom.group")), ("0".to_owned(), "1".to_owned()));
        group.add(4711).unwrap();
        assert_eq!(has(&group, "cgroup.procs"), "4711");
        assert_eq!(group.out_of_memory(), None, "a missing file is no report of a kill");
        for (events, expected) in [
            ("low 0\nhigh 0\nmax 31\noom 0\noom_kill 0\n", None),
            (
                "low 0\nhigh 0\nmax 31\noom 1\noom_kill 1\noom_group_kill 1\n",
                Some(OutOfMemory::Limit { bytes: 64 * MIB }),
            ),
            ("low 0\nhigh 0\nmax 0\noom 0\noom_kill 1\n", Some(OutOfMemory::Elsewhere)),
            ("oom_kill x\noom -1", None),
        ] {
            fs::write(group.dir.join("memory.events"), events).unwrap();
            assert_eq!(group.out_of_memory(), expected, "{events}");
        }
        group.remove();
        assert!(!group.dir.exists());
        group.remove();
    }

    #[test]
    fn a_group_of_version_one() {
        let parent = tempfile::tempdir().unwrap();
        let group = Group::create(Version::One, parent.path().join("g"), 64 * MIB).unwrap();
        let limits = [has(&group, "memory.limit_in_bytes"), has(&group, "memory.memsw.limit_in_bytes")];
        assert_eq!(limits, ["67108864", "67108864"]);
        assert!(!group.dir.join("memory.max").exists());
        let control = |kills: &str| format!("oom_kill_disable 0\nunder_oom 0\n{kills}");
        let limit = Some(OutOfMemory::Limit { bytes: 64 * MIB });
        for (kills, failures, largest, expected) in [
            ("oom_kill 0\n", "17\n", "67108864\n", None),
            ("oom_kill 1\n", "0\n", "67108864\n", limit),
            ("oom_kill 1\n", "0\n", "67076096\n", limit),
            ("oom_kill 1\n", "0\n", "50000000\n", Some(OutOfMemory::Elsewhere)),
            ("oom_kill 1\n", "", "", Some(OutOfMemory::Elsewhere)),
            ("", "0\n", "67108864\n", None),
            ("", "3\n", "67108864\n", limit),
        ] {
            fs::write(group.dir.join("memory.oom_control"), control(kills)).unwrap();
            fs::write(group.dir.join("memory.failcnt"), failures).unwrap();
            fs::write(group.dir.join("memory.max_usage_in_bytes"), largest).unwrap();
            assert_eq!(group.out_of_memory(), expected, "{kills:?} {failures:?} {largest:?}");
        }
    }

    #[test]
    fn what_can_not_be_made_leaves_nothing() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("g");
        fs::create_dir(&dir).unwrap();
        let taken = Group::create(Version::Two, dir.clone(), MIB).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AlreadyExists, "an existing cgroup is not used");
        fs::remove_dir(&dir).unwrap();
        assert!(Group::create(Version::Two, dir.join("deeper"), MIB).is_err());
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
        // A removal that fails permanently returns the error without a wait.
        let busy = Group::create(Version::Two, dir.clone(), MIB).unwrap();
        fs::create_dir(dir.join("child")).unwrap();
        assert!(remove(&busy.dir, Instant::now() + REMOVE_WAIT).is_err());
    }
}
