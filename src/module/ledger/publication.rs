//! The seam between the control plane and the store of the publications.

use crate::module::module_record::Record;
use crate::module::versions::Version;
use std::collections::HashSet;
use std::io;

/// The publications. The caller must hold the module's lock while it prepares, commits or withdraws a publication of that
/// module; calls about different modules may run at once.
pub(in crate::module) trait Ledger: Send + Sync {
    /// The published modules, ordered by the time of their first deployment. A publication that can't be read is logged and left
    /// out.
    fn published(&self) -> io::Result<Vec<Record>>;

    /// The publication of the module `name`, if there is a readable one.
    fn record(&self, name: &str) -> Option<Record>;

    /// Whether the module `name` is published, even if its publication can't be read.
    fn has(&self, name: &str) -> bool;

    /// The kept versions of the module `name`, the oldest first.
    fn versions(&self, name: &str) -> io::Result<Vec<Version>>;

    /// The keys of the compilations of all published modules and all kept versions; those of drafts may be among them.
    fn keys(&self) -> io::Result<HashSet<String>>;

    /// Does the part of a publication that takes long or needs room, so that little is left for [`Draft::commit`]. The
    /// publication has no effect before that.
    fn prepare(&self, publication: Publication<'_>) -> io::Result<Box<dyn Draft>>;

    /// Ends the publication of the module `name`, and forgets its versions; a module that is not published is no error. The end
    /// is durable on return. After an error the publication may have ended; a repeated call ends it.
    fn withdraw(&self, name: &str) -> io::Result<()>;

    /// Ends all publications, also those that can't be read, and forgets all versions. No other call may run meanwhile.
    fn purge(&self) -> io::Result<()>;
}

/// A module with the version that becomes the live one.
#[derive(Debug, Clone, Copy)]
pub(in crate::module) struct Publication<'a> {
    /// The module.
    pub(in crate::module) record: &'a Record,
    /// The live version, with the number that `record` has; it replaces a kept version with that number.
    pub(in crate::module) version: &'a Version,
    /// The number of versions to keep, at least 1: the live version and the newest others.
    pub(in crate::module) kept: usize,
}

/// A prepared publication. Dropping a draft leaves the earlier publication in effect.
#[must_use]
pub(in crate::module) trait Draft: Send {
    /// Makes the version live; on success also for every later start of the server. After an error or a crash the version before
    /// it or this version is live, and the live version is among the kept ones.
    fn commit(self: Box<Self>) -> io::Result<()>;
}
