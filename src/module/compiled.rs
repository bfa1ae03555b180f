//! A source that has been compiled, on its way to be installed.

use super::deploy::SourceFields;
use super::libraries::Library;
use super::reach::Reach;
use super::signing::Signature;
use super::versions::Version;
use crate::jobs::store::ScheduleSpec;
use std::collections::BTreeMap;

/// A source that has been compiled.
pub(super) struct Compiled<'a> {
    /// SHA-256 of the source.
    pub(super) hash: &'a str,
    /// Key of the compilation.
    pub(super) key: &'a str,
    /// What came with the source and made a difference.
    pub(super) fields: &'a SourceFields,
    /// The domain it is to run in; `None`: where the module is.
    pub(super) domain: Option<&'a str>,
    pub(super) warnings: String,
    /// Whether the module store is to hear of it.
    pub(super) persist: bool,
    /// When the module came, if that is known of a module that is not served yet. Milliseconds since 1970.
    pub(super) since_ms: Option<u64>,
    /// The version it is again; `None`: a new one.
    pub(super) version: Option<Version>,
    /// What a new version is about.
    pub(super) message: &'a str,
    /// Who deploys a new version.
    pub(super) by: &'a str,
    /// Whether it may replace another key's.
    pub(super) take_over: bool,
    /// The modules that it may be.
    pub(super) reach: Reach,
    /// Who vouches for a new version.
    pub(super) signature: Option<Signature>,
    /// The libraries that its sources name.
    pub(super) libraries: Vec<Library>,
    /// Settings that it has unless others are set.
    pub(super) defaults: BTreeMap<String, String>,
    /// The schedules that it declares.
    pub(super) schedules: Vec<ScheduleSpec>,
}
