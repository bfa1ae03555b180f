//! A domain as its operator sees it.

use super::process::CrashReport;
use std::time::SystemTime;

/// What limits the memory of a domain's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryLimit {
    /// A cgroup limits what it uses; its address space may be limited as well.
    Cgroup,
    /// Its address space alone is limited (`RLIMIT_AS` in setrlimit(2)).
    AddressSpace,
}

impl MemoryLimit {
    /// Its name in answers.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cgroup => "cgroup",
            Self::AddressSpace => "rlimit",
        }
    }
}

/// What is known of one domain at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainView {
    /// Its name.
    pub name: String,
    /// Its process; `None` while that is being started.
    pub pid: Option<u32>,
    /// Since when that process is there.
    pub up_since: Option<SystemTime>,
    /// Modules loaded into it; a swap has two for a moment.
    pub modules: usize,
    /// Requests that were handed to it.
    pub requests: u64,
    /// How often its process was started again.
    pub restarts: u64,
    /// Its resident memory.
    pub resident_bytes: u64,
    /// What limits that, if anything does.
    pub memory_limit: Option<MemoryLimit>,
    /// Times its process was replaced while it lived.
    pub replacements: u64,
    /// What went wrong there the last time.
    pub last_crash: Option<CrashReport>,
}
