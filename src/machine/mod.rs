//! The memory that the server and its domains can have: the machine's memory, or the limit of the cgroups around the server;
//! and the parts of programs and libraries in a process.
//!
//! Inputs are files of `/proc` and of the cgroup hierarchies; outputs are numbers of bytes, addresses and directories. This
//! layer sets no limits. No other part of the crate reads these files itself.

mod cgroups;
mod program_pages;

pub use cgroups::{CgroupDir, Version};
pub use program_pages::ProgramMappings;

use std::fs;
use std::io::Read;
use std::path::Path;

/// Limit, in bytes, on the part of a file that is read. The system's own mounts come first in the list of mounts. A list of
/// mounts can be endless: on one machine each mount was made inside another.
const READ_BYTES_MAX: u64 = 1024 * 1024;

/// The directories that are this process's cgroup in a hierarchy that may have the memory controller, the best first.
#[must_use]
pub fn own_cgroups() -> Vec<CgroupDir> {
    cgroups::places(&beginning("/proc/self/cgroup"), &beginning("/proc/self/mountinfo"))
}

/// Bytes of memory that the server and its domains can have together: the machine's memory, or the smallest limit of the
/// cgroups around the server. `u64::MAX` if neither is known.
#[must_use]
pub fn memory_bytes() -> u64 {
    let machine = Meminfo::read().bytes("MemTotal");
    least_limit(&own_cgroups()).into_iter().chain(machine).min().unwrap_or(u64::MAX)
}

/// Upper bound on the bytes that all processes of the machine now have in shared memory, in files in memory and in swap.
/// `u64::MAX` if the kernel does not report the numbers.
#[must_use]
pub fn shared_bytes_at_most() -> u64 {
    let meminfo = Meminfo::read();
    let swapped = meminfo.bytes("SwapTotal").zip(meminfo.bytes("SwapFree")).map(|(all, free)| all.saturating_sub(free));
    meminfo.bytes("Shmem").zip(swapped).map_or(u64::MAX, |(shared, swapped)| shared.saturating_add(swapped))
}

/// The text of `/proc/meminfo` (proc_meminfo(5)).
struct Meminfo(String);

impl Meminfo {
    fn read() -> Self {
        Self(fs::read_to_string("/proc/meminfo").unwrap_or_default())
    }

    /// The value of a line `field: N kB`, in bytes.
    fn bytes(&self, field: &str) -> Option<u64> {
        let line = self.0.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
    }
}

/// The smallest limit on memory at `places` and above. A cgroup without a limit has a word in its file (version 2), or a very
/// large number (version 1).
fn least_limit(places: &[CgroupDir]) -> Option<u64> {
    let files = places.iter().flat_map(|place| {
        let name = match place.version {
            Version::One => "memory.limit_in_bytes",
            Version::Two => "memory.max",
        };
        place.dir.ancestors().map(move |dir| dir.join(name))
    });
    files.filter_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok()).min()
}

/// The first lines of a file, [`READ_BYTES_MAX`] at most; none if it can't be read.
fn beginning(file: impl AsRef<Path>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let read = fs::File::open(file).and_then(|file| file.take(READ_BYTES_MAX).read_to_end(&mut bytes));
    // A line that was cut off would have another meaning.
    let end = memchr::memrchr(b'\n', &bytes).map_or(0, |end| end + 1);
    bytes.truncate(if read.is_ok() { end } else { 0 });
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_long_list_the_beginning_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("list");
        let most = usize::try_from(READ_BYTES_MAX).unwrap();
        fs::write(&file, "12345678\n".repeat(most)).unwrap();
        let read = beginning(&file);
        assert!(read.len() <= most && read.len() > most - 9 && read.ends_with(b"8\n"));
        fs::write(&file, "one\ntwo\nthr").unwrap();
        assert_eq!(beginning(&file), b"one\ntwo\n");
        assert!(beginning(dir.path()).is_empty() && beginning("/nowhere").is_empty());
    }

    #[test]
    fn the_least_limit_around_the_server_counts() {
        let base = tempfile::tempdir().unwrap();
        let own = base.path().join("a/b");
        fs::create_dir_all(&own).unwrap();
        let limit = |file: &str, text: &str| fs::write(base.path().join(file), text).unwrap();
        let mut places = vec![CgroupDir { version: Version::Two, dir: own.clone() }];
        assert_eq!(least_limit(&places), None);
        limit("a/b/memory.max", "max\n");
        limit("a/memory.max", "3000\n");
        limit("memory.max", "4000\n");
        assert_eq!(least_limit(&places), Some(3000));
        // Version 1 reports a missing limit as a very large number.
        limit("a/b/memory.limit_in_bytes", "9223372036854771712\n");
        limit("memory.limit_in_bytes", "2000\n");
        places.push(CgroupDir { version: Version::One, dir: own });
        assert_eq!(least_limit(&places), Some(2000));
        assert!((1 << 20..u64::MAX).contains(&memory_bytes()) && shared_bytes_at_most() < u64::MAX);
    }

    #[test]
    fn numbers_of_the_machine_are_in_bytes() {
        let meminfo = Meminfo("MemTotal:       24 kB\nShmem: 3 kB\nShmemHugePages: 7 kB\n".to_owned());
        assert_eq!((meminfo.bytes("MemTotal"), meminfo.bytes("Shmem")), (Some(24 * 1024), Some(3 * 1024)));
        assert_eq!((meminfo.bytes("Mem"), meminfo.bytes("SwapFree")), (None, None));
    }
}
