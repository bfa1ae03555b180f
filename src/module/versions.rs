//! The versions of a module: source, time and client of each deployment under its name.
//!
//! Versions are numbered for each name. The [ledger](super::ledger) keeps them.

use super::deploy::SourceFields;
use super::libraries::Library;
use super::module_record::Record;
use super::signing::Signature;
use crate::abi::manifest::Manifest;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;

/// A version of a module.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Version {
    pub(super) number: u64,
    /// SHA-256 of the source.
    pub(super) hash: String,
    /// Key of the compilation.
    pub(super) key: String,
    /// When the version was deployed, in milliseconds since 1970.
    pub(super) at_ms: u64,
    /// The client that deployed it: a key's name, or the origin.
    pub(super) by: String,
    pub(super) message: String,
    pub(super) domain: String,
    pub(super) fields: SourceFields,
    pub(super) libraries: Vec<Library>,
    pub(super) warnings: String,
    pub(super) manifest: Manifest,
    /// Settings of the version's `module.toml`.
    #[serde(default)]
    pub(super) settings: BTreeMap<String, String>,
    /// The signature of the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) signature: Option<Signature>,
}

impl Version {
    /// The first version of a module that was deployed before versions existed.
    pub(super) fn of_record(record: &Record) -> Self {
        Self {
            number: record.version,
            hash: record.hash.clone(),
            key: record.key.clone(),
            at_ms: record.deployed_ms,
            by: String::new(),
            message: String::new(),
            domain: record.domain.clone(),
            fields: record.fields.clone(),
            libraries: Vec::new(),
            warnings: String::new(),
            manifest: record.manifest.clone(),
            settings: BTreeMap::new(),
            signature: None,
        }
    }

    /// The version as JSON; `is_live`: whether the version is served.
    pub(super) fn json(&self, is_live: bool) -> serde_json::Value {
        let libraries: Vec<_> = self
            .libraries
            .iter()
            .map(|library| json!({ "name": library.name, "version": library.version, "file": library.file }))
            .collect();
        json!({
            "version": self.number,
            "live": is_live,
            "module_hash": self.hash,
            "author": self.manifest.author,
            "by": self.by,
            "at_ms": self.at_ms,
            "message": self.message,
            "domain": self.domain,
            "language": self.fields.language.as_deref().unwrap_or("c"),
            "file": self.fields.source_name,
            "libraries": libraries,
            "sanitize": self.fields.sanitize,
            "warnings": self.warnings,
            "signer": self.signature.as_ref().map(|signature| &signature.signer),
            "signature": self.signature.as_ref().map(|signature| &signature.bytes),
            "signing_key": self.signature.as_ref().map(|signature| &signature.key),
        })
    }
}

/// The number of the next version.
pub(super) fn next(list: &[Version], live: u64) -> u64 {
    list.iter().map(|version| version.number).chain([live]).max().unwrap_or_default().saturating_add(1)
}

/// Adds `version`, or replaces the one with the same number. Keeps the newest `kept` versions and the version `live`.
pub(super) fn add(list: &mut Vec<Version>, version: Version, kept: usize, live: u64) {
    list.retain(|known| known.number != version.number);
    list.push(version);
    list.sort_by_key(|version| version.number);
    while list.len() > kept.max(1) {
        // The live version may be an old one, deployed again.
        let Some(at) = list.iter().position(|version| version.number != live) else { return };
        list.remove(at);
    }
}

/// The version before `live`.
pub(super) fn before(list: &[Version], live: u64) -> Option<u64> {
    list.iter().map(|version| version.number).filter(|number| *number < live).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(number: u64) -> Version {
        let record = Record { version: number, ..Record::for_tests("m", 0) };
        Version::of_record(&record)
    }

    #[test]
    fn the_newest_and_the_live_one_are_kept() {
        let mut list = Vec::new();
        for number in 1..=5 {
            add(&mut list, version(number), 3, number);
        }
        let numbers = |list: &[Version]| list.iter().map(|version| version.number).collect::<Vec<_>>();
        assert_eq!(numbers(&list), [3, 4, 5]);
        assert_eq!((next(&list, 5), before(&list, 5), before(&list, 3)), (6, Some(4), None));
        // Version 3 was deployed again.
        add(&mut list, version(6), 3, 3);
        assert_eq!(numbers(&list), [3, 5, 6]);
        add(&mut list, version(5), 3, 5);
        assert_eq!(numbers(&list), [3, 5, 6]);
        assert_eq!(next(&[], 0), 1);
    }
}
