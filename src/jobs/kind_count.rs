//! The numbers of waiting and running jobs of each kind.

use super::active::ActiveJobs;
use super::store::JobKind;
use std::collections::BTreeMap;

/// A kind of job, and the numbers of its jobs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KindCount {
    /// The module's name.
    pub module: String,
    /// The job's name.
    pub job: String,
    /// Waiting jobs of the kind, for any reason.
    pub pending: usize,
    /// Jobs of the kind that are assigned to a worker.
    pub running: usize,
    /// Whether the kind is paused: none of its runs begins.
    pub paused: bool,
}

/// Counts the jobs that have not ended, and adds paused kinds without jobs.
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
