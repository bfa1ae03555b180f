//! Kinds of jobs: how many of each wait and run, and the pause of one.

use super::active::ActiveJobs;
use super::code::ResolveError;
use super::notice::Notice;
use super::service::{Answer, Jobs, shared_answer};
use super::store::{JobKind, Paused, StoreError};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

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

/// Why a kind is not paused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PauseError {
    /// There is no such job.
    #[error(transparent)]
    Resolve(ResolveError),
    /// The limit of paused kinds is reached.
    #[error("{} kinds of jobs are paused already: resume one first", super::store::PAUSED_MAX)]
    TooMany,
    /// The store did not take it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Jobs {
    /// Answers with the kinds that have jobs that have not ended, or are paused.
    pub fn kinds(&self, answer: Box<dyn FnOnce(Vec<KindCount>) + Send>) {
        let _ = self.inner.notices.send(Notice::Kinds(answer));
    }

    /// Kinds that are paused.
    #[must_use]
    pub fn paused_kinds(&self) -> usize {
        self.inner.paused.load(Ordering::Relaxed)
    }

    /// Lets no run of `kind` begin any more, or again; those that run go on.
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
