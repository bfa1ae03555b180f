//! How many jobs of each kind wait and run.

use super::active::ActiveJobs;
use super::store::JobKind;
use std::collections::BTreeMap;

/// A kind of job, and how many of it there are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KindCount {
    /// The module.
    pub module: String,
    /// The job.
    pub job: String,
    /// Jobs of the kind that wait, for any reason.
    pub pending: usize,
    /// Jobs of the kind that a worker has.
    pub running: usize,
    /// Whether the kind is paused: no run of it begins.
    pub paused: bool,
}

/// Counts the jobs that have not ended, and adds the kinds that are paused.
pub(super) fn count<'a>(active: &ActiveJobs, paused: impl Iterator<Item = &'a JobKind>) -> Vec<KindCount> {
    let mut kinds: BTreeMap<JobKind, KindCount> = BTreeMap::new();
    active.each(|job, is_assigned| {
        let kind = kinds.entry((job.module.clone(), job.job.clone())).or_default();
        kind.running += usize::from(is_assigned);
        kind.pending += usize::from(!is_assigned);
    });
    for kind in paused {
        kinds.entry(kind.clone()).or_default().paused = true;
    }
    kinds.into_iter().map(|((module, job), count)| KindCount { module, job, ..count }).collect()
}
