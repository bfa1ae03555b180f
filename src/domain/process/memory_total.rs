//! Limits the memory of all domains together (`--modules-memory-bytes-max`). If the domains exceed the limit, one of
//! them is ended: see `memory_blame`.
//!
//! Each look first takes numbers that cost little and are rather too high than too low. Processes are measured only if
//! these numbers exceed the limit, and within a time limit for each look. A module with many processes, descriptors or
//! mappings therefore prolongs the measurement of its own domain, but no look.

use super::group;
use super::instance::ProcessInstance;
use super::memory_blame::{Blame, Level, Use, culprit};
use super::memory_use::GroupMemory;
use crate::machine;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Limit on the examined processes of a domain. A domain with more is ended for its threads: see `watch`.
const MEMBERS_MAX: usize = 1024;
/// Limit on the time for the measurements of one look, for all domains together.
const MEASURING: Duration = Duration::from_millis(40);
/// Limit on the time for examining the open files of a process and those forked from it, when there is no hurry.
const FILES: Duration = Duration::from_millis(1);
/// The looks take at most this fraction of the time; and the longest pause that follows from it.
const TOTAL_SHARE: u32 = 50;
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// A domain's processes that may be alive: the one in service, draining ones, spares.
pub(super) type Processes = Vec<Arc<ProcessInstance>>;

/// Watches the memory of all domains together.
pub(super) struct TotalWatch {
    /// Limit in bytes; 0: none.
    limit_bytes: u64,
    next: Instant,
    domains: BTreeMap<String, Watched>,
    /// The numbers of the processes that were ended for their memory and may still exist.
    ended: Vec<u64>,
}

/// The facts about one domain.
#[derive(Default)]
struct Watched {
    level: Level,
    /// By the number of the process.
    groups: BTreeMap<u64, GroupMemory>,
}

impl Watched {
    fn bytes(&self) -> u64 {
        self.groups.values().map(GroupMemory::bytes).sum()
    }
}

impl TotalWatch {
    pub(super) fn new(limit_bytes: u64) -> Self {
        Self { limit_bytes, next: Instant::now(), domains: BTreeMap::new(), ended: Vec::new() }
    }

    /// Ends a process of the domain that has grown most, if `domains` together use more than the limit. The looks take a
    /// small part of the time.
    pub(super) fn look(&mut self, domains: &[(String, Processes)]) {
        let began = Instant::now();
        if self.limit_bytes == 0 || began < self.next {
            return;
        }
        self.look_at_all(domains);
        if self.may_exceed() {
            self.measure();
            if let Some((name, blame, sum)) = self.culprit() {
                self.end(domains, &name, blame, sum);
            }
        }
        let now = Instant::now();
        for watched in self.domains.values_mut() {
            let bytes = watched.bytes();
            watched.level.add(now, bytes);
        }
        self.next = now + (began.elapsed() * TOTAL_SHARE).min(PAUSE_MAX);
    }

    /// Takes the cheap numbers of each process.
    fn look_at_all(&mut self, domains: &[(String, Processes)]) {
        let is_there = |number: u64| domains.iter().flat_map(|(_, of)| of).any(|process| process.number() == number);
        self.ended.retain(|number| is_there(*number));
        self.domains.retain(|name, _| domains.iter().any(|(there, _)| there == name));
        for (name, processes) in domains {
            let watched = self.domains.entry(name.clone()).or_default();
            let counts =
                |process: &&Arc<ProcessInstance>| !process.is_dead() && !self.ended.contains(&process.number());
            let counted: Vec<_> = processes.iter().filter(counts).collect();
            watched.groups.retain(|number, _| counted.iter().any(|process| process.number() == *number));
            for process in counted {
                let mut members = group::members(process.pid());
                members.truncate(MEMBERS_MAX);
                watched.groups.entry(process.number()).or_default().look(&members, Instant::now() + FILES);
            }
        }
    }

    /// Whether the limit may be exceeded. Shared memory, and files in memory that are not mapped, are counted by the
    /// machine's totals.
    fn may_exceed(&self) -> bool {
        let groups = self.domains.values().flat_map(|watched| watched.groups.values());
        let private = groups.map(GroupMemory::private_at_most).fold(0, u64::saturating_add);
        private > self.limit_bytes || private.saturating_add(machine::shared_bytes_at_most()) > self.limit_bytes
    }

    /// Measures all processes, or as many as the time of a look permits. Each group has its share of the time.
    fn measure(&mut self) {
        let groups: usize = self.domains.values().map(|watched| watched.groups.len()).sum();
        let share = MEASURING / u32::try_from(groups.max(1)).unwrap_or(u32::MAX);
        for group in self.domains.values_mut().flat_map(|watched| watched.groups.values_mut()) {
            group.measure(Instant::now() + share);
        }
    }

    /// The domain to end, the reason, and the memory of all domains together.
    fn culprit(&self) -> Option<(String, Blame, u64)> {
        let used = |watched: &Watched| Use { bytes: watched.bytes(), level: watched.level.bytes() };
        let uses: Vec<Use> = self.domains.values().map(used).collect();
        let (index, blame) = culprit(self.limit_bytes, &uses)?;
        let sum = uses.iter().map(|of| of.bytes).fold(0, u64::saturating_add);
        Some((self.domains.keys().nth(index)?.clone(), blame, sum))
    }

    /// Ends the process of domain `name` that uses most, with all processes forked from it.
    fn end(&mut self, domains: &[(String, Processes)], name: &str, blame: Blame, sum: u64) {
        let Some(watched) = self.domains.get_mut(name) else { return };
        let Some((number, group)) = watched.groups.iter().max_by_key(|(_, group)| group.bytes()) else { return };
        let (number, processes) = (*number, group.processes());
        let (used, level) = (watched.bytes() >> 20, watched.level.bytes() >> 20);
        let apart = if processes > 1 { format!(" in {processes} processes") } else { String::new() };
        let blamed = match blame {
            Blame::Grown => {
                format!("this domain grew the most, from {level} MiB in the last minute to {used} MiB{apart}")
            }
            Blame::Largest => format!("no domain grew much, and this one used the most, {used} MiB{apart}"),
        };
        let mut all = domains.iter().flat_map(|(_, of)| of);
        if let Some(process) = all.find(|process| process.number() == number) {
            process.kill_because(format!(
                "all domains together used {} MiB of memory; the limit is {} MiB (--modules-memory-bytes-max); {blamed}",
                sum >> 20,
                self.limit_bytes >> 20,
            ));
            self.ended.push(number);
        }
        // The next process starts with a new level, since the old process's memory must not count for it.
        watched.level = Level::default();
        watched.groups.remove(&number);
    }
}
