//! Settings about what the server itself may use, with defaults from the machine.

use super::ServeArgs;
use super::args::DAY_S;
use crate::net::RESERVED_CONNECTIONS;
use std::fs;
use std::path::{Path, PathBuf};

/// Descriptors that the server needs beside those of connections.
const OWN_DESCRIPTORS: usize = 256;
/// The default of the server's memory is this part of the machine's: the rest is for modules, the compiler and the kernel.
const MEMORY_DIVISOR: u64 = 4;
/// Least memory: less than one body holds nobody up.
const MEMORY_BYTES_MIN: usize = 16 * 1024 * 1024;
/// Least default.
const MEMORY_BYTES_DEFAULT_MIN: u64 = 64 * 1024 * 1024;

/// What the server itself may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceSettings {
    /// Most bytes of memory that clients make the server hold: unfinished heads, bodies and messages, answers that clients
    /// have not taken. Beyond it the biggest idle holders are closed, then 503.
    pub memory_bytes_max: usize,
    /// Most jobs of the modules of one domain that run at once; 0: no limit but the workers.
    pub job_domain_running_max: usize,
    /// Longest run of a job for which neither its submission nor its module gives one; 0: no limit.
    pub job_timeout_ms: u64,
    /// Most bytes of the events that a job emits itself.
    pub job_events_bytes_max: u64,
}

impl ResourceSettings {
    pub(super) fn of(args: &ServeArgs) -> Self {
        Self {
            memory_bytes_max: args.memory_bytes_max.unwrap_or_else(memory_share),
            job_domain_running_max: args.job_domain_running_max.unwrap_or(0),
            job_timeout_ms: args.job_timeout.map_or(DAY_S, |span| span.seconds).saturating_mul(1_000),
            job_events_bytes_max: args.job_events_bytes_max.unwrap_or(256 * 1024 * 1024),
        }
    }

    /// Values that are out of range, one line each.
    pub(super) fn problems(&self) -> impl Iterator<Item = String> {
        let fits = self.memory_bytes_max >= MEMORY_BYTES_MIN;
        (!fits).then(|| format!("--memory-bytes-max must be at least {MEMORY_BYTES_MIN}")).into_iter()
    }
}

/// Connections that each of `shards` shards may have, as far as descriptors go.
pub(super) fn connections_max(shards: usize) -> usize {
    let share = limit_of("Max open files").map_or(usize::MAX, |soft| usize::try_from(soft).unwrap_or(usize::MAX));
    (share.saturating_sub(OWN_DESCRIPTORS) / shards.max(1)).saturating_sub(RESERVED_CONNECTIONS).max(16)
}

/// A soft limit of this process (proc_pid_limits(5)).
fn limit_of(name: &str) -> Option<u64> {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The default of the server's memory.
fn memory_share() -> usize {
    let machine = machine_bytes(&fs::read_to_string("/proc/meminfo").unwrap_or_default());
    let cgroup = cgroup_bytes(&fs::read_to_string("/proc/self/cgroup").unwrap_or_default(), |path| {
        fs::read_to_string(path).ok()
    });
    let least = [machine, cgroup, limit_of("Max address space")].into_iter().flatten().min();
    let share = least.map_or(u64::MAX, |bytes| (bytes / MEMORY_DIVISOR).max(MEMORY_BYTES_DEFAULT_MIN));
    usize::try_from(share).unwrap_or(usize::MAX)
}

/// Bytes of memory of the machine (proc_meminfo(5)).
fn machine_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// The least limit of memory of the cgroups around this process (cgroups(7)), in bytes; `own` is `/proc/self/cgroup`.
fn cgroup_bytes(own: &str, read: impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let places = own.lines().filter_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        if controllers.is_empty() {
            Some(("/sys/fs/cgroup", "memory.max", path))
        } else if controllers.split(',').any(|name| name == "memory") {
            Some(("/sys/fs/cgroup/memory", "memory.limit_in_bytes", path))
        } else {
            None
        }
    });
    let limits = places.flat_map(|(top, file, path)| {
        let dir: PathBuf = Path::new(top).join(path.trim_start_matches('/'));
        let dirs: Vec<PathBuf> =
            dir.ancestors().take_while(|dir| dir.starts_with(top)).map(|dir| dir.join(file)).collect();
        dirs
    });
    // `max`, which is no number, is no limit; version 1 has a very large number for it.
    limits.filter_map(|path| read(&path)?.trim().parse().ok()).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_around_the_server_counts_wherever_it_stands() {
        let files = [
            ("/sys/fs/cgroup/a/b/memory.max", "max\n"),
            ("/sys/fs/cgroup/a/memory.max", "2000\n"),
            ("/sys/fs/cgroup/memory/c/memory.limit_in_bytes", "9223372036854771712\n"),
            ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "1000\n"),
        ];
        let read =
            |path: &Path| files.iter().find(|(name, _)| path == Path::new(name)).map(|(_, text)| (*text).to_owned());
        assert_eq!(cgroup_bytes("0::/a/b\n", read), Some(2000));
        assert_eq!(cgroup_bytes("0::/../..\n", read), None);
        assert_eq!(cgroup_bytes("5:cpu,memory:/c\n0::/a\n", read), Some(1000));
        assert_eq!(cgroup_bytes("", read), None);
        assert_eq!(machine_bytes("MemTotal:       24 kB\nMemFree: 1 kB\n"), Some(24 * 1024));
        assert!(memory_share() as u64 >= MEMORY_BYTES_DEFAULT_MIN);
    }
}
