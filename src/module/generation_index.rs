//! Generations outside the table that jobs still use.

use super::generation::Generation;
use std::collections::HashMap;
use std::sync::{Arc, Weak};

/// Generations that jobs, or their own code, may look up by number or hash.
#[derive(Default)]
pub(super) struct GenerationIndex {
    /// By the number of the loaded instance.
    pub(super) instances: HashMap<u64, Weak<Generation>>,
    /// Old versions that were loaded again for jobs, by hash.
    pub(super) reloaded: HashMap<String, Weak<Generation>>,
}

impl GenerationIndex {
    /// Registers a generation until its last reference is dropped.
    pub(super) fn add(&mut self, generation: &Arc<Generation>) {
        self.instances.retain(|_, known| known.strong_count() > 0);
        self.instances.insert(generation.instance().id(), Arc::downgrade(generation));
    }

    /// The generations of the module `name` that still have references.
    pub(super) fn of_name(&self, name: &str) -> Vec<Arc<Generation>> {
        let living = self.instances.values().filter_map(Weak::upgrade);
        living.filter(|generation| generation.manifest().name == name).collect()
    }
}
