//! What is kept of a module beside its source and its shared object.

use super::deploy::SourceFields;
use crate::abi::manifest::Manifest;
use crate::domain::DEFAULT_DOMAIN;
use serde::{Deserialize, Serialize};

/// One persisted module.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) name: String,
    /// SHA-256 of the source.
    pub(super) hash: String,
    /// Key of its compilation.
    pub(super) key: String,
    /// What the inspection found: it need not be repeated at start.
    pub(super) manifest: Manifest,
    /// When the module was first deployed, which orders them at start: milliseconds since 1970.
    pub(super) deployed_ms: u64,
    /// The domain it runs in; records from before there were any have none.
    #[serde(default = "default_domain")]
    pub(super) domain: String,
    /// What came with the source and made a difference.
    #[serde(default)]
    pub(super) fields: SourceFields,
    /// Which of the module's versions it is; records from before there were any are the first.
    #[serde(default = "first_version")]
    pub(super) version: u64,
}

fn first_version() -> u64 {
    1
}

#[cfg(test)]
impl Record {
    pub(super) fn for_tests(name: &str, deployed_ms: u64) -> Self {
        let (hash, key, domain) = ("h".into(), "k".into(), default_domain());
        let (fields, manifest) = (SourceFields::default(), Manifest::default());
        Self { name: name.into(), hash, key, manifest, deployed_ms, domain, fields, version: 1 }
    }
}

fn default_domain() -> String {
    DEFAULT_DOMAIN.to_owned()
}
