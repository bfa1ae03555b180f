//! What there is to say about a domain.

use super::crash_report::CrashReport;
use super::domain::Domain;
use super::lock;
use super::memory_watch;
use crate::domain::MemoryLimit;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

/// A domain, as it is now.
#[derive(Debug, Clone)]
pub struct DomainStatus {
    /// Its process; `None` while it is being started again.
    pub pid: Option<u32>,
    /// Since when that process is there.
    pub up_since: Option<SystemTime>,
    /// Times it was started again after a death.
    pub restarts: u64,
    /// Times it was replaced while it lived.
    pub replacements: u64,
    /// Modules that it is to have, those in quarantine included.
    pub modules: usize,
    /// Resident memory of the process.
    pub rss_bytes: u64,
    /// What limits its memory; while it is being started, what is to do so.
    pub memory_limit: Option<MemoryLimit>,
    /// The last crash.
    pub last_crash: Option<CrashReport>,
    /// The last crash of each module that had one, by name; a module with several loaded versions has several.
    pub crashes: Vec<(String, CrashReport)>,
    /// Modules that are left out, by name, and why.
    pub quarantined: Vec<(String, String)>,
}

impl Domain {
    /// What there is to say now. Reads a file of the kernel.
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
