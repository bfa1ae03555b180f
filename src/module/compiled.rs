//! A compiled source that is about to be installed.

use super::deploy::SourceFields;
use super::libraries::Library;
use super::reach::Reach;
use super::signing::Signature;
use super::versions::Version;
use crate::jobs::store::ScheduleSpec;
use std::collections::BTreeMap;

pub(super) struct Compiled<'a> {
    /// SHA-256 of the source.
    pub(super) hash: &'a str,
    /// Key of the compilation.
    pub(super) key: &'a str,
    /// The fields that came with the source and made a difference.
    pub(super) fields: &'a SourceFields,
    /// The target domain; `None`: the module's present domain.
    pub(super) domain: Option<&'a str>,
    pub(super) warnings: String,
    /// Whether the module is written to the module store.
    pub(super) persist: bool,
    /// When the module was first deployed, in milliseconds since 1970, if that is known of a module that is not served yet.
    pub(super) since_ms: Option<u64>,
    /// The earlier version that is deployed again; `None`: this is a new version.
    pub(super) version: Option<Version>,
    /// The description of a new version.
    pub(super) message: &'a str,
    /// The client that deploys a new version.
    pub(super) by: &'a str,
    /// Whether the deployment may replace a module of another key.
    pub(super) take_over: bool,
    /// The modules that the deploying key may deploy.
    pub(super) reach: Reach,
    /// The signature of a new version.
    pub(super) signature: Option<Signature>,
    /// The libraries that the sources name.
    pub(super) libraries: Vec<Library>,
    /// Default settings, which apply where no other value is set.
    pub(super) defaults: BTreeMap<String, String>,
    /// The schedules that the module declares.
    pub(super) schedules: Vec<ScheduleSpec>,
}
