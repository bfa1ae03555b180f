//! Derives a job's next state from the end of its run.

use super::code::Ended;
use super::store::{Change, JobState};

/// Longest pause before a further run, in milliseconds.
const BACKOFF_MS_MAX: u64 = 60 * 60 * 1000;

/// The end of a run that had not decided its job.
#[derive(Debug, Clone)]
pub(super) struct RunOutcome {
    pub(super) ended: Ended,
    /// The error that the run has set; it takes precedence over everything else.
    pub(super) error: Option<String>,
    /// The time limit that the run exceeded, if any.
    pub(super) timed_out_ms: Option<u64>,
}

impl RunOutcome {
    /// The reason of the failure; `None` if the run succeeded.
    fn failure(&self) -> Option<String> {
        if self.error.is_some() {
            return self.error.clone();
        }
        if let Some(limit) = self.timed_out_ms {
            return Some(timeout_text(limit));
        }
        match self.ended {
            Ended::Returned(0) => None,
            Ended::Returned(_) => Some("job failed".to_owned()),
            Ended::Crashed(_) => Some("job crashed".to_owned()),
        }
    }
}

/// The error text of a job that exceeded its time limit.
pub(super) fn timeout_text(limit_ms: u64) -> String {
    format!("timed out after {limit_ms} ms")
}

/// The state change after the outcome of run number `run`. `attempt` runs have begun since the last retry by request, of at most
/// `max_attempts`.
pub(super) fn change_after(
    outcome: &RunOutcome,
    run: u32,
    attempt: u32,
    max_attempts: u32,
    backoff_ms: u64,
    now_ms: i64,
    random: u64,
) -> Change {
    match outcome.failure() {
        None => Change::Finish { attempt: run, state: JobState::Done, result: Some("{}".to_owned()), error: None },
        Some(reason) if attempt < max_attempts => {
            let run_at_ms = now_ms.saturating_add(wait_ms(backoff_ms, attempt, random));
            Change::Retry { attempt: run, reason, run_at_ms }
        }
        Some(error) => Change::Finish { attempt: run, state: JobState::Failed, result: None, error: Some(error) },
    }
}

/// The pause after run number `attempt`, in milliseconds. The pause doubles with each run, and half of the pause is random,
/// so that jobs that failed together are not retried together.
fn wait_ms(backoff_ms: u64, attempt: u32, random: u64) -> i64 {
    let doubled = backoff_ms.saturating_mul(1_u64.checked_shl(attempt.saturating_sub(1)).unwrap_or(u64::MAX));
    let longest = doubled.min(BACKOFF_MS_MAX);
    let half = longest / 2;
    let wait = half + if longest > half { random % (longest - half + 1) } else { 0 };
    i64::try_from(wait).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(ended: Ended) -> RunOutcome {
        RunOutcome { ended, error: None, timed_out_ms: None }
    }

    fn after(outcome: &RunOutcome, attempt: u32, max_attempts: u32) -> Change {
        change_after(outcome, 4, attempt, max_attempts, 100, 1_000, 7)
    }

    fn failed(error: &str) -> Change {
        Change::Finish { attempt: 4, state: JobState::Failed, result: None, error: Some(error.into()) }
    }

    #[test]
    fn each_end_has_its_words() {
        let done = Change::Finish { attempt: 4, state: JobState::Done, result: Some("{}".into()), error: None };
        assert_eq!(after(&outcome(Ended::Returned(0)), 1, 3), done);
        assert_eq!(after(&outcome(Ended::Returned(1)), 1, 1), failed("job failed"));
        let told = RunOutcome { error: Some("no space".into()), ..outcome(Ended::Returned(-1)) };
        assert_eq!(after(&told, 1, 1), failed("no space"));
        assert_eq!(after(&outcome(Ended::Crashed("SIGSEGV".into())), 1, 1), failed("job crashed"));
        let late = RunOutcome { timed_out_ms: Some(5), ..outcome(Ended::Returned(0)) };
        assert_eq!(after(&late, 1, 1), failed("timed out after 5 ms"));
        for ended in [Ended::Returned(0), Ended::Crashed("SIGSEGV".into())] {
            let told = RunOutcome { error: Some("told".into()), timed_out_ms: Some(5), ..outcome(ended) };
            assert_eq!(after(&told, 1, 1), failed("told"));
        }
    }

    #[test]
    fn retries_as_long_as_attempts_are_left_and_waits_longer_each_time() {
        for (attempt, longest) in [(1, 100), (2, 200), (5, 1600)] {
            let change = after(&outcome(Ended::Returned(1)), attempt, 9);
            let Change::Retry { attempt: 4, reason, run_at_ms } = change else { panic!("{change:?}") };
            assert_eq!(reason, "job failed");
            assert!((1_000 + longest / 2..=1_000 + longest).contains(&run_at_ms), "{attempt}: {run_at_ms}");
        }
        assert_eq!(after(&outcome(Ended::Returned(1)), 9, 9), failed("job failed"));
    }

    #[test]
    fn waits_stay_within_bounds() {
        assert_eq!(wait_ms(0, 1, u64::MAX), 0);
        for random in [0, 1, u64::MAX] {
            let wait = wait_ms(u64::MAX, 200, random);
            assert!((BACKOFF_MS_MAX as i64 / 2..=BACKOFF_MS_MAX as i64).contains(&wait), "{wait}");
        }
    }
}
