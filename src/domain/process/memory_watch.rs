//! How large a process has become: memory, and mappings, of which the kernel allows a process a number.

use super::instance::ProcessInstance;
use std::io::Read;
use std::time::{Duration, Instant};

/// A process is not replaced for its size sooner.
const AGE_MIN: Duration = Duration::from_secs(10);
/// How often its memory is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(900);
/// How often its mappings are counted, for which the kernel has to list them.
const COUNT_EVERY: Duration = Duration::from_secs(15);
/// Default of `vm.max_map_count` (`Documentation/admin-guide/sysctl/vm.rst`).
const MAPPINGS_MAX_DEFAULT: usize = 65_530;

/// Watches the process in service.
#[derive(Default)]
pub(super) struct MemoryWatch {
    seen: Option<Watched>,
    /// When the memory for bodies was looked at.
    bodies_at: Option<Instant>,
}

struct Watched {
    process: u64,
    start_bytes: u64,
    since: Instant,
    looked: Instant,
    counted: Instant,
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
            mappings_max: most / 4 * 3,
        }
    }
}

impl MemoryWatch {
    /// Why `process` takes up more of the memory for bodies than it may, if it does; looks now and then only.
    pub(super) fn overfills(&mut self, process: &ProcessInstance, now: Instant) -> Option<String> {
        if self.bodies_at.is_some_and(|at| now.duration_since(at) < LOOK_EVERY) {
            return None;
        }
        self.bodies_at = Some(now);
        process.overfills()
    }

    /// Why `process` is too large, if it is; looks now and then only. `limit_bytes`: resident bytes above those at the first look
    /// that are too many; 0: none are.
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
        if now.duration_since(seen.counted) < COUNT_EVERY {
            return None;
        }
        seen.counted = now;
        let mappings = mappings(process.pid()).filter(|count| *count > seen.mappings_max)?;
        Some(format!("it has {mappings} mappings, and the kernel allows a third more"))
    }
}

/// Resident memory of a process (`VmRSS` in proc(5)) without the bodies that it shares with the server (`RssShmem`): those
/// come and go. `None` if it is gone.
pub(super) fn resident_bytes(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kib = |field: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(field))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    Some(kib("VmRSS:")?.saturating_sub(kib("RssShmem:").unwrap_or(0)) * 1024)
}

/// Mappings of a process: lines of `/proc/PID/maps`. `None` where the server may not read that.
fn mappings(pid: u32) -> Option<usize> {
    let mut file = std::fs::File::open(format!("/proc/{pid}/maps")).ok()?;
    let (mut chunk, mut lines) = (vec![0; 64 * 1024], 0);
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return Some(lines),
            Ok(count) => lines += memchr::memchr_iter(b'\n', chunk.get(..count)?).count(),
            Err(_) => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    /// A process that does nothing: this one grows and shrinks with the tests beside this one.
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
        assert!((10..1_000).contains(&mappings(pid).unwrap()));
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!((resident_bytes(pid), resident_bytes(u32::MAX)), (None, None));
    }
}
