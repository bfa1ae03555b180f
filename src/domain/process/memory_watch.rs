//! Watches the size of a process: its memory, and its mappings, whose number the kernel limits.

use super::instance::ProcessInstance;
use std::fs::File;
use std::io::Read;
use std::time::{Duration, Instant};

/// The least age at which a process is replaced for its size.
const AGE_MIN: Duration = Duration::from_secs(10);
/// The interval between looks at the memory.
const LOOK_EVERY: Duration = Duration::from_millis(900);
/// The interval between counts of the mappings, for which the kernel must list them.
const COUNT_EVERY: Duration = Duration::from_secs(15);
/// The kernel's limit on one read of the list of mappings; and the number of reads in one look, for about ten thousand
/// mappings.
const LIST_CHUNK_BYTES: usize = 4096;
const LIST_READS_MAX: usize = 256;
/// Default of `vm.max_map_count` (`Documentation/admin-guide/sysctl/vm.rst`).
const MAPPINGS_MAX_DEFAULT: usize = 65_530;

/// Watches the process in service.
#[derive(Default)]
pub(super) struct MemoryWatch {
    seen: Option<Watched>,
    /// The time of the last look at the memory for bodies.
    bodies_at: Option<Instant>,
}

struct Watched {
    process: u64,
    start_bytes: u64,
    since: Instant,
    looked: Instant,
    counted: Instant,
    /// The count in progress.
    count: Option<MappingCount>,
    mappings_max: usize,
}

impl Watched {
    fn begin(process: &ProcessInstance, now: Instant) -> Self {
        let text = std::fs::read_to_string("/proc/sys/vm/max_map_count").unwrap_or_default();
        let most: usize = text.trim().parse().unwrap_or(MAPPINGS_MAX_DEFAULT);
        Self {
            process: process.number(),
            start_bytes: resident_bytes(process.pid()).unwrap_or(0),
            since: now,
            looked: now,
            counted: now,
            count: None,
            mappings_max: most / 4 * 3,
        }
    }
}

impl MemoryWatch {
    /// The reason why `process` occupies too much of the memory for bodies, if it does; looks only from time to time.
    pub(super) fn overfills(&mut self, process: &ProcessInstance, now: Instant) -> Option<String> {
        if self.bodies_at.is_some_and(|at| now.duration_since(at) < LOOK_EVERY) {
            return None;
        }
        self.bodies_at = Some(now);
        process.overfills()
    }

    /// The reason why `process` is too large, if it is; looks only from time to time. `limit_bytes`: limit on the growth of
    /// resident bytes since the first look; 0: no limit.
    pub(super) fn look(&mut self, process: &ProcessInstance, limit_bytes: u64, now: Instant) -> Option<String> {
        let seen = match &mut self.seen {
            Some(seen) if seen.process == process.number() => seen,
            seen => {
                *seen = Some(Watched::begin(process, now));
                return None;
            }
        };
        if now.duration_since(seen.looked) < LOOK_EVERY || now.duration_since(seen.since) < AGE_MIN {
            return None;
        }
        seen.looked = now;
        let grown = resident_bytes(process.pid()).unwrap_or(0).saturating_sub(seen.start_bytes);
        if limit_bytes > 0 && grown > limit_bytes {
            return Some(format!(
                "its memory has grown by {grown} bytes; the limit is {limit_bytes} (--module-rss-recycle-bytes)"
            ));
        }
        if seen.count.is_none() {
            if now.duration_since(seen.counted) < COUNT_EVERY {
                return None;
            }
            seen.counted = now;
            seen.count = MappingCount::begin(process.pid());
        }
        let mappings = seen.count.as_mut()?.go_on()?;
        seen.count = None;
        if mappings <= seen.mappings_max {
            return None;
        }
        Some(format!("it has {mappings} mappings, and the kernel allows a third more"))
    }
}

/// The resident memory of a process (`VmRSS` in proc(5)), without the bodies that it shares with the server (`RssShmem`),
/// which come and go. `None`: the process has ended.
pub(super) fn resident_bytes(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kib = |field: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(field))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    Some(kib("VmRSS:")?.saturating_sub(kib("RssShmem:").unwrap_or(0)) * 1024)
}

/// Counts the mappings of a process: lines of `/proc/PID/maps`. The kernel makes the list while it is read, which takes
/// long for many mappings, so the list is read in parts.
struct MappingCount {
    file: File,
    lines: usize,
}

impl MappingCount {
    /// `None` if the server must not read the list.
    fn begin(pid: u32) -> Option<Self> {
        Some(Self { file: File::open(format!("/proc/{pid}/maps")).ok()?, lines: 0 })
    }

    /// Continues reading. Returns the count at the end of the list, or the count so far if the rest can't be read.
    fn go_on(&mut self) -> Option<usize> {
        let mut chunk = [0; LIST_CHUNK_BYTES];
        for _ in 0..LIST_READS_MAX {
            match self.file.read(&mut chunk) {
                Ok(0) | Err(_) => return Some(self.lines),
                Ok(count) => self.lines += memchr::memchr_iter(b'\n', chunk.get(..count)?).count(),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    /// A process that does nothing: this test process grows and shrinks with other tests.
    #[test]
    fn the_size_of_a_process_is_seen() {
        let (stdin, stdout) = (Stdio::piped(), Stdio::piped());
        let mut child = Command::new("cat").stdin(stdin).stdout(stdout).spawn().unwrap();
        child.stdin.as_mut().unwrap().write_all(b".").unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let pid = child.id();
        // The second number in proc(5)'s statm: resident pages.
        let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap();
        let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
        let (resident, expected) = (resident_bytes(pid).unwrap(), pages * rustix::param::page_size() as u64);
        assert!(expected > 100_000 && resident.abs_diff(expected) < 1 << 20, "{resident} and {expected}");
        assert!((10..1_000).contains(&MappingCount::begin(pid).unwrap().go_on().unwrap()));
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!((resident_bytes(pid), resident_bytes(u32::MAX)), (None, None));
        assert!(MappingCount::begin(u32::MAX).is_none());
    }

    #[test]
    fn many_mappings_are_counted_in_several_looks() {
        // Two protections in turn, so that each page is a mapping of its own.
        const PAGES: usize = 40_000;
        let page = rustix::param::page_size();
        let (kind, none) = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, std::ptr::null_mut());
        // SAFETY: a new mapping, which no other code uses.
        let start = unsafe { libc::mmap(none, PAGES * page, libc::PROT_NONE, kind, -1, 0) };
        assert_ne!(start, libc::MAP_FAILED);
        for number in (0..PAGES).step_by(2) {
            // SAFETY: a page of that mapping.
            assert_eq!(unsafe { libc::mprotect(start.byte_add(number * page), page, libc::PROT_READ) }, 0);
        }
        let mut count = MappingCount::begin(std::process::id()).unwrap();
        let (mut looks, mut found) = (0, None);
        while found.is_none() {
            (looks, found) = (looks + 1, count.go_on());
        }
        // SAFETY: the same mapping, which is not used any more.
        assert_eq!(unsafe { libc::munmap(start, PAGES * page) }, 0);
        assert!(looks > 1 && found.is_some_and(|found| found >= PAGES), "{looks} {found:?}");
    }
}
