//! The status of a domain.

use super::crash_report::CrashReport;
use super::domain::Domain;
use super::lock;
use super::memory_watch;
use crate::domain::MemoryLimit;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

/// The present state of a domain.
#[derive(Debug, Clone)]
pub struct DomainStatus {
    /// Its process; `None` while one is being started.
    pub pid: Option<u32>,
    /// When that process started.
    pub up_since: Option<SystemTime>,
    /// How often a process was started after a death.
    pub restarts: u64,
    /// How often a living process was replaced.
    pub replacements: u64,
    /// The modules that it should have, including those in quarantine.
    pub modules: usize,
    /// Resident memory of the process, in bytes.
    pub rss_bytes: u64,
    /// The limit on its memory; while it is being started, the planned limit.
    pub memory_limit: Option<MemoryLimit>,
    /// The last crash.
    pub last_crash: Option<CrashReport>,
    /// The last crash of each module that had one, by name; a module with several loaded versions may occur several times.
    pub crashes: Vec<(String, CrashReport)>,
    /// The modules in quarantine, by name, and the reasons.
    pub quarantined: Vec<(String, String)>,
}

impl Domain {
    /// The present status. Reads a file of the kernel.
    #[must_use]
    pub fn status(&self) -> DomainStatus {
        let shared = self.shared();
        let process = shared.current();
        let confined = process.as_ref().map_or(shared.config.cgroups.is_some(), |process| process.is_confined());
        let mapping = shared.config.policy.memory_bytes_max.map(|_| MemoryLimit::AddressSpace);
        let modules = lock(&shared.modules);
        let crash = |module: &super::shared::Loaded| Some((module.name.clone(), module.last_crash.clone()?));
        let left_out = |module: &super::shared::Loaded| Some((module.name.clone(), module.quarantine.why()?));
        DomainStatus {
            pid: process.as_ref().map(|process| process.pid()),
            up_since: process.as_ref().map(|process| process.since()),
            restarts: shared.restarts.load(Ordering::Relaxed),
            replacements: shared.replacements.load(Ordering::Relaxed),
            modules: modules.len(),
            rss_bytes: process.and_then(|process| memory_watch::resident_bytes(process.pid())).unwrap_or(0),
            memory_limit: if confined { Some(MemoryLimit::Cgroup) } else { mapping },
            last_crash: lock(&shared.last_crash).clone(),
            crashes: modules.values().filter_map(crash).collect(),
            quarantined: modules.values().filter_map(left_out).collect(),
        }
    }
}
