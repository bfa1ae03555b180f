//! Counts of crashes, by module, and what follows when there are too many.

use super::super::quarantine::{CrashLimit, History, Pace, Unplaced};
use super::{Catalog, Cause, Death, ModuleId};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Blame {
    limit: CrashLimit,
    histories: BTreeMap<ModuleId, History>,
    unplaced: Unplaced,
    pace: Pace,
}

/// What follows from a death.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Nothing,
    Quarantine(ModuleId, Cause),
    /// Nothing says which module is the cause.
    Unknown,
}

impl Blame {
    pub(super) fn new(limit: CrashLimit) -> Self {
        Self { limit, histories: BTreeMap::new(), unplaced: Unplaced::default(), pace: Pace::default() }
    }

    /// A crash of `module`; `loading`: the module was being brought up.
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

    /// A process died in which `trying` was being brought up.
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

    /// A signal from outside says little. But a kernel without seccomp lets a module kill itself like that, and such a
    /// module must not keep the others from coming up.
    fn killed(&mut self, trying: Option<ModuleId>, catalog: &dyn Catalog) -> Verdict {
        let Some(module) = trying.filter(|module| catalog.contains(*module)) else { return Verdict::Nothing };
        let count = self.histories.entry(module).or_default().add_loading();
        count.map_or(Verdict::Nothing, |count| Verdict::Quarantine(module, Cause::KilledWhileLoading(count)))
    }

    /// Nothing says by whose fault a process died. When that happens again and again, and one module alone was running each
    /// time, that module is left out. Otherwise none is, and the next process comes after ever longer pauses.
    fn unexplained(&mut self, now: Instant, running: &[ModuleId], catalog: &dyn Catalog) -> Verdict {
        let Some((module, count)) = self.unplaced.add(now, running, self.limit) else { return Verdict::Unknown };
        if !catalog.contains(module) || catalog.is_quarantined(module) {
            return Verdict::Nothing;
        }
        self.unplaced.clear();
        Verdict::Quarantine(module, Cause::AlwaysRunning(count))
    }

    /// The modules are in a process that serves.
    pub(super) fn loaded(&mut self, modules: &[ModuleId]) {
        for module in modules {
            if let Some(history) = self.histories.get_mut(module) {
                history.loaded();
            }
        }
    }

    /// The module was taken out of quarantine.
    pub(super) fn lifted(&mut self, module: ModuleId) {
        self.histories.remove(&module);
    }

    /// A process has ended, or is to end: how long the next one waits.
    pub(super) fn pause(&mut self, now: Instant) -> Option<Duration> {
        Some(self.pace.end(now)? * self.unplaced.factor())
    }
}
