//! A module in a domain as the target of the shards' calls.

use super::identity::Identity;
use super::quarantine::Quarantine;
use crate::abi::manifest::Manifest;
use crate::domain::Instance;
use std::sync::Arc;

/// The data of a module in a domain that a shard needs for calls of it.
pub(super) struct CallTarget {
    id: u64,
    domain: Arc<Identity>,
    manifest: Manifest,
    quarantine: Arc<Quarantine>,
}

impl CallTarget {
    /// Module number `id` of `domain`.
    pub(super) fn new(id: u64, domain: Arc<Identity>, manifest: Manifest, quarantine: Arc<Quarantine>) -> Self {
        Self { id, domain, manifest, quarantine }
    }

    /// The call target of `instance`; `None`: the module runs in this process.
    pub(super) fn of(instance: &dyn Instance) -> Option<&Self> {
        instance.as_any().downcast_ref()
    }

    /// The number of the module.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// The module's domain.
    pub(super) fn domain(&self) -> &Arc<Identity> {
        &self.domain
    }

    pub(super) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    pub(super) fn quarantine(&self) -> &Quarantine {
        &self.quarantine
    }

    /// The reason why the module must not be called, if there is one.
    pub(super) fn barred(&self) -> Option<String> {
        self.quarantine.why()
    }
}
