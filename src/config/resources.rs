//! Settings about the server's own resources, with defaults from the machine.

use super::ServeArgs;
use crate::machine;
use crate::net::RESERVED_CONNECTIONS;
use std::fs;

/// Descriptors that the server needs beside those of connections.
const OWN_DESCRIPTORS: usize = 256;
/// The default limit on the server's memory is this fraction of the machine's memory: the rest is for modules, the compiler
/// and the kernel.
const MEMORY_DIVISOR: u64 = 4;
/// The smallest default limit, in bytes.
const MEMORY_BYTES_DEFAULT_MIN: u64 = 64 * 1024 * 1024;

/// Limits on the server's own resources, and some of modules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceSettings {
    /// Limit, in bytes, on the server's memory for clients: unfinished heads, bodies and messages, and answers that clients
    /// have not taken. Beyond it the server closes the idle connections with the most memory; then new requests get 503.
    pub memory_bytes_max: usize,
    /// Limit on the open descriptors of a domain's process, at least 256.
    pub module_open_files_max: u64,
    /// Limit on the jobs of one domain's modules that run at once; 0: no limit but the workers.
    pub job_domain_running_max: usize,
    /// Time limit of a job, if neither its submission nor its module sets one; 0: no limit.
    pub job_timeout_ms: u64,
    /// Limit, in bytes, on the events that a job emits itself.
    pub job_events_bytes_max: u64,
}

impl ResourceSettings {
    pub(super) fn of(args: &ServeArgs) -> Self {
        Self {
            memory_bytes_max: args.memory_bytes_max.unwrap_or_else(memory_share),
            module_open_files_max: args.module_open_files_max(),
            job_domain_running_max: args.job_domain_running_max(),
            job_timeout_ms: args.job_timeout().seconds.saturating_mul(1_000),
            job_events_bytes_max: args.job_events_bytes_max(),
        }
    }
}

/// The limit on connections for each of `shards` shards, derived from the limit on descriptors.
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

/// The default limit on the server's memory, in bytes.
fn memory_share() -> usize {
    let least = limit_of("Max address space").unwrap_or(u64::MAX).min(machine::memory_bytes());
    usize::try_from((least / MEMORY_DIVISOR).max(MEMORY_BYTES_DEFAULT_MIN)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_may_use_comes_from_the_machine() {
        let share = memory_share() as u64;
        assert!(
            share >= MEMORY_BYTES_DEFAULT_MIN
                && share <= (machine::memory_bytes() / MEMORY_DIVISOR).max(MEMORY_BYTES_DEFAULT_MIN)
        );
    }
}
