//! Counts of crashes for each module, and the consequences of too many.

use super::super::quarantine::{CrashLimit, History, Pace, Unplaced};
use super::{Catalog, Cause, Death, ModuleId};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The counts of a domain.
#[derive(Debug)]
pub(super) struct Blame {
    limit: CrashLimit,
    histories: BTreeMap<ModuleId, History>,
    unplaced: Unplaced,
    pace: Pace,
}

/// The consequence of a death.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Nothing,
    Quarantine(ModuleId, Cause),
    /// No evidence shows which module is the cause.
    Unknown,
}

impl Blame {
    pub(super) fn new(limit: CrashLimit) -> Self {
        Self { limit, histories: BTreeMap::new(), unplaced: Unplaced::default(), pace: Pace::default() }
    }

    /// Counts a crash of `module`; `loading`: the module was being loaded.
    pub(super) fn crash(&mut self, now: Instant, module: ModuleId, loading: bool, catalog: &dyn Catalog) -> Verdict {
        self.histories.retain(|id, _| catalog.contains(*id));
        if !catalog.contains(module) {
            return Verdict::Nothing;
        }
        let count = self.histories.entry(module).or_default().add(now, loading, self.limit);
        count
            .filter(|_| !catalog.is_quarantined(module))
            .map_or(Verdict::Nothing, |count| Verdict::Quarantine(module, Cause::Crashes(count)))
    }

    /// Counts the death of a process in which `trying` was being loaded.
    pub(super) fn death(
        &mut self,
        now: Instant,
        trying: Option<ModuleId>,
        death: &Death,
        catalog: &dyn Catalog,
    ) -> Verdict {
        match death.suspect {
            Some(suspect) => self.crash(now, suspect, trying == Some(suspect), catalog),
            None if death.is_from_outside => self.killed(trying, catalog),
            None if death.is_elsewhere => Verdict::Nothing,
            None => self.unexplained(now, &death.running, catalog),
        }
    }

    /// A signal from outside proves little. But on a kernel without seccomp a module can kill itself in this way, and such
    /// a module must not keep the others from being loaded.
    fn killed(&mut self, trying: Option<ModuleId>, catalog: &dyn Catalog) -> Verdict {
        let Some(module) = trying.filter(|module| catalog.contains(*module)) else { return Verdict::Nothing };
        let count = self.histories.entry(module).or_default().add_loading();
        count.map_or(Verdict::Nothing, |count| Verdict::Quarantine(module, Cause::KilledWhileLoading(count)))
    }

    /// Counts a death without a known cause. If that happens repeatedly, and one module alone was running each time, that
    /// module is put into quarantine. Otherwise none is, and the pause before the next process grows.
    fn unexplained(&mut self, now: Instant, running: &[ModuleId], catalog: &dyn Catalog) -> Verdict {
        let Some((module, count)) = self.unplaced.add(now, running, self.limit) else { return Verdict::Unknown };
        if !catalog.contains(module) || catalog.is_quarantined(module) {
            return Verdict::Nothing;
        }
        self.unplaced.clear();
        Verdict::Quarantine(module, Cause::AlwaysRunning(count))
    }

    /// Records that the modules are in a process that serves.
    pub(super) fn loaded(&mut self, modules: &[ModuleId]) {
        for module in modules {
            if let Some(history) = self.histories.get_mut(module) {
                history.loaded();
            }
        }
    }

    /// Records that the module was taken out of quarantine.
    pub(super) fn lifted(&mut self, module: ModuleId) {
        self.histories.remove(&module);
    }

    /// Counts the end of a process, and returns how long the next one must wait.
    pub(super) fn pause(&mut self, now: Instant) -> Option<Duration> {
        Some(self.pace.end(now)? * self.unplaced.factor())
    }
}
