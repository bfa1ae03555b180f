//! A module in a domain, as the target of the calls of shards.

use super::identity::Identity;
use super::quarantine::Quarantine;
use crate::abi::manifest::Manifest;
use crate::domain::Instance;
use std::sync::Arc;

/// What a shard has to know of a module that lives in a domain, to send it calls.
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

    /// What is known of `instance`; `None` if it lives in this process.
    pub(super) fn of(instance: &dyn Instance) -> Option<&Self> {
        instance.as_any().downcast_ref()
    }

    /// The number of the module.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// The domain it lives in.
    pub(super) fn domain(&self) -> &Arc<Identity> {
        &self.domain
    }

    pub(super) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    pub(super) fn quarantine(&self) -> &Quarantine {
        &self.quarantine
    }

    /// Why nothing of it may be called, if that is so.
    pub(super) fn barred(&self) -> Option<String> {
        self.quarantine.why()
    }
}
