//! Looks at the store's answers to the ends of runs: an end that is refused is logged and counted.

use super::active::ActiveJob;
use super::store::{Changed, JobState, StoreError};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Number of ends that the store did not take.
#[derive(Default)]
pub(super) struct RunEnds {
    refused: AtomicU64,
}

impl RunEnds {
    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Looks at the answer to the end of a run of `job`.
    pub(super) fn look(&self, job: &EndedRun, answer: &Result<Changed, StoreError>) {
        let why = match answer {
            // A cancellation that came first takes precedence.
            Ok(Changed::Applied(_) | Changed::Refused(JobState::Canceled)) => return,
            Ok(Changed::Refused(state)) => format!("the job is {} already", state.as_str()),
            Ok(Changed::Unknown | Changed::Waits | Changed::Needs) => "the job is not stored any more".to_owned(),
            Err(error) => error.to_string(),
        };
        self.refused.fetch_add(1, Ordering::Relaxed);
        tracing::warn!("the end of run {} of job {} is not stored: {why}", job.attempt, job.uuid);
    }
}

/// A run, for a line in the log.
#[derive(Clone)]
pub(super) struct EndedRun {
    uuid: Arc<str>,
    attempt: u32,
}

impl EndedRun {
    pub(super) fn of(job: &ActiveJob) -> Self {
        Self { uuid: Arc::clone(&job.uuid), attempt: job.attempt() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_end_that_the_store_did_not_take_counts() {
        let (ends, run) = (RunEnds::default(), EndedRun { uuid: "u".into(), attempt: 1 });
        for taken in [Changed::Applied(JobState::Done), Changed::Refused(JobState::Canceled)] {
            ends.look(&run, &Ok(taken));
        }
        assert_eq!(ends.refused(), 0);
        for refused in [Changed::Refused(JobState::Running), Changed::Refused(JobState::Done), Changed::Unknown] {
            ends.look(&run, &Ok(refused));
        }
        ends.look(&run, &Err(StoreError::Closed));
        assert_eq!(ends.refused(), 4);
    }
}
