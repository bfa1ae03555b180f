//! The true state of the modules and processes of a simulated domain, whatever the machine believes.

use super::super::{Catalog, ModuleId, Order, ProcessId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

#[derive(Default)]
pub(super) struct Module {
    pub(super) onloaded: bool,
    pub(super) has_hooks: bool,
    pub(super) has_settings: bool,
    pub(super) quarantined: bool,
    /// Whether the module was taken out of quarantine while no process served: its restart loads the module into the next
    /// process.
    pub(super) lifted: bool,
    /// The times of counted crashes, and the crashes and kills in a row while the module was loaded.
    pub(super) crashes: VecDeque<Instant>,
    pub(super) loading: usize,
    /// The process in which `onload` has run and `unload` has not.
    pub(super) live_in: BTreeSet<ProcessId>,
    /// Processes in which the module was live when it was put into quarantine, and which served without its quarantine
    /// being lifted.
    pub(super) quarantined_in: BTreeSet<ProcessId>,
}

/// The true state of a process, whatever the machine believes.
#[derive(Default)]
pub(super) struct Process {
    pub(super) dead: bool,
    /// Whether the machine knows of the death.
    pub(super) told: bool,
    pub(super) reaped: bool,
    pub(super) signalled: bool,
    pub(super) expected: bool,
    /// Whether the process never answers any more.
    pub(super) hangs: bool,
    pub(super) loaded: BTreeSet<ModuleId>,
    /// Modules that the process has refused to load.
    pub(super) refused: BTreeSet<ModuleId>,
    pub(super) order: Option<(u64, Order)>,
    pub(super) ordered_at: Option<Instant>,
    /// The numbers of orders that the machine has given up: the process may still answer them.
    pub(super) late: Vec<u64>,
    pub(super) trying: Option<ModuleId>,
    pub(super) examined: bool,
    pub(super) was_up: bool,
    pub(super) draining_since: Option<Instant>,
    /// Modules whose jobs ran when the process began to drain, or when the last attempt to prepare the next process began.
    pub(super) busy: BTreeSet<ModuleId>,
    pub(super) leaving_since: Option<Instant>,
    /// The number of shards that must still report that they are drained.
    pub(super) owes_drained: usize,
    pub(super) jobs: BTreeMap<u64, ModuleId>,
    /// The requests that were sent to the process.
    pub(super) requests: BTreeSet<u64>,
}

/// The machine's view of the simulation.
#[derive(Default)]
pub(super) struct View {
    pub(super) modules: BTreeMap<ModuleId, Module>,
    pub(super) processes: BTreeMap<ProcessId, Process>,
}

impl View {
    fn select(&self, process: ProcessId, wanted: impl Fn(&Module, bool) -> bool) -> Vec<ModuleId> {
        let Some(process) = self.processes.get(&process) else { return Vec::new() };
        let found = self.modules.iter().filter(|(id, module)| wanted(module, process.loaded.contains(id)));
        found.map(|(id, _)| *id).collect()
    }
}

impl Catalog for View {
    fn missing(&self, process: ProcessId) -> Vec<ModuleId> {
        self.select(process, |module, is_loaded| !module.quarantined && !is_loaded)
    }

    fn with_settings(&self, process: ProcessId) -> Vec<ModuleId> {
        self.select(process, |module, is_loaded| module.has_settings && is_loaded)
    }

    fn to_onload(&self, process: ProcessId) -> Vec<ModuleId> {
        self.select(process, |module, is_loaded| {
            module.onloaded && module.has_hooks && !module.quarantined && is_loaded
        })
    }

    fn to_unload(&self, process: ProcessId) -> Vec<ModuleId> {
        self.to_onload(process)
    }

    fn running(&self, process: ProcessId) -> Vec<ModuleId> {
        self.processes.get(&process).map(|process| process.jobs.values().copied().collect()).unwrap_or_default()
    }

    fn loaded(&self, process: ProcessId) -> Vec<ModuleId> {
        self.select(process, |_, is_loaded| is_loaded)
    }

    fn name(&self, module: ModuleId) -> String {
        format!("m{module}")
    }

    fn contains(&self, module: ModuleId) -> bool {
        self.modules.contains_key(&module)
    }

    fn is_quarantined(&self, module: ModuleId) -> bool {
        self.modules.get(&module).is_some_and(|module| module.quarantined)
    }
}
