//! Kinds of jobs: the numbers of waiting and running jobs, and the pause of a kind.

use super::active::ActiveJobs;
use super::code::ResolveError;
use super::notice::Notice;
use super::service::{Answer, Jobs, shared_answer};
use super::store::{JobKind, Paused, StoreError};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

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

/// Why a kind is not paused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PauseError {
    /// There is no such job.
    #[error(transparent)]
    Resolve(ResolveError),
    /// The limit of paused kinds is reached.
    #[error("{} kinds of jobs are paused already: resume one first", super::store::PAUSED_MAX)]
    TooMany,
    /// The store refused the change.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Jobs {
    /// Answers with the kinds that have unfinished jobs or are paused.
    pub fn kinds(&self, answer: Box<dyn FnOnce(Vec<KindCount>) + Send>) {
        let _ = self.inner.notices.send(Notice::Kinds(answer));
    }

    /// Number of paused kinds.
    #[must_use]
    pub fn paused_kinds(&self) -> usize {
        self.inner.paused.load(Ordering::Relaxed)
    }

    /// Pauses or resumes `kind`: while it is paused, none of its runs begins; running jobs continue.
    pub fn pause(&self, kind: JobKind, pause: bool, answer: Answer<Result<(), PauseError>>) {
        if pause {
            match self.inner.source.resolve(Some(&kind.0), &kind.1) {
                Ok(_) | Err(ResolveError::Swapping(_)) => {}
                Err(error) => return answer(Err(PauseError::Resolve(error))),
            }
        }
        let (notices, known) = (self.inner.notices.clone(), kind.clone());
        let (done, answer) = shared_answer(answer);
        let changed = move |outcome: Result<Paused, StoreError>| {
            done(match outcome {
                Ok(Paused::Done) => {
                    let _ = notices.send(Notice::Paused(known, pause));
                    Ok(())
                }
                Ok(Paused::TooMany) => Err(PauseError::TooMany),
                Err(error) => Err(error.into()),
            });
        };
        if let Err(error) = self.inner.writer.try_pause(kind, pause, Box::new(changed)) {
            answer(Err(error.into()));
        }
    }
}
