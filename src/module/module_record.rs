//! The stored record of a module, beside its source and its shared object.

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
    /// Key of the compilation.
    pub(super) key: String,
    /// The manifest that the inspection found, so that a restart needs no inspection.
    pub(super) manifest: Manifest,
    /// When the module was first deployed, in milliseconds since 1970. This time orders the modules at start.
    pub(super) deployed_ms: u64,
    /// The module's domain; records from before domains existed have none.
    #[serde(default = "default_domain")]
    pub(super) domain: String,
    /// The fields that came with the source and made a difference.
    #[serde(default)]
    pub(super) fields: SourceFields,
    /// The number of the module's version; records from before versions existed are version 1.
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
