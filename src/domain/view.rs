//! The operator's view of a domain.

use super::process::CrashReport;
use std::time::SystemTime;

/// The limit on the memory of a domain's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryLimit {
    /// A cgroup limits the used memory; the address space may be limited as well.
    Cgroup,
    /// Only the address space is limited (`RLIMIT_AS` in setrlimit(2)).
    AddressSpace,
}

impl MemoryLimit {
    /// The limit's name in answers.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cgroup => "cgroup",
            Self::AddressSpace => "rlimit",
        }
    }
}

/// The state of one domain at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainView {
    /// The domain's name.
    pub name: String,
    /// The process id; `None` while the process is starting.
    pub pid: Option<u32>,
    /// The start of the process.
    pub up_since: Option<SystemTime>,
    /// The number of loaded modules; during a swap two versions of a module count.
    pub modules: usize,
    /// The number of requests that the domain got.
    pub requests: u64,
    /// How often the process was started again after it had died.
    pub restarts: u64,
    /// The resident memory of the process, in bytes.
    pub resident_bytes: u64,
    /// The limit on that memory, if there is one.
    pub memory_limit: Option<MemoryLimit>,
    /// How often the process was replaced while it lived.
    pub replacements: u64,
    /// The last crash of the domain's process.
    pub last_crash: Option<CrashReport>,
}
