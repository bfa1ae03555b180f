//! Requests of clients about kinds of jobs: the numbers of waiting and running jobs, and the pause of a kind.

use super::answer::{Answer, shared_answer};
use super::code::ResolveError;
use super::kind_count::KindCount;
use super::notice::Notice;
use super::service::Jobs;
use super::store::{JobKind, Paused, StoreError};
use std::sync::atomic::Ordering;

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
