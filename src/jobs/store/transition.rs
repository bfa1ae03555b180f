//! The transitions between states, and the events that report them.

use super::{Change, JobState};
use crate::jobs::json::without_line_ends;
use serde_json::{Value, json};
use std::sync::Arc;

/// The state of a job that the writer needs to guard the job's changes without a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LiveJob {
    pub(super) uuid: Arc<str>,
    pub(super) state: JobState,
    pub(super) attempt: u32,
    /// How often the job was retried by request.
    pub(super) retries: u32,
}

impl LiveJob {
    /// A newly submitted job.
    pub(super) fn new(uuid: Arc<str>) -> Self {
        Self { uuid, state: JobState::Pending, attempt: 0, retries: 0 }
    }
}

/// The result of an allowed change.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) state: JobState,
    pub(super) attempt: u32,
    pub(super) kind: &'static str,
    pub(super) data: Box<str>,
}

/// The step from an unfinished job; `None` if the job's state does not allow the change.
pub(super) fn step(job: &LiveJob, change: &Change) -> Option<Step> {
    let attempt = job.attempt;
    match (job.state, change) {
        (JobState::Pending, Change::Start { retries }) if *retries == job.retries => {
            let attempt = attempt.saturating_add(1);
            let data = format!("{{\"attempt\":{attempt}}}").into();
            Some(Step { state: JobState::Running, attempt, kind: "started", data })
        }
        (JobState::Running, Change::Retry { attempt: run, reason, run_at_ms }) if *run == attempt => {
            let data = json!({ "reason": reason, "attempt": attempt, "run_at": run_at_ms }).to_string().into();
            Some(Step { state: JobState::Pending, attempt, kind: "retrying", data })
        }
        (
            JobState::Running,
            Change::Finish { attempt: run, state, result, error }
            | Change::Decide { attempt: run, state, result, error },
        ) if *run == attempt => match state {
            JobState::Done => {
                Some(Step { state: JobState::Done, attempt, kind: "done", data: json_or_string(result.as_deref()) })
            }
            JobState::Failed => {
                let data = json!(error).to_string().into();
                Some(Step { state: JobState::Failed, attempt, kind: "failed", data })
            }
            _ => None,
        },
        (JobState::Pending, Change::Fail { error }) => {
            Some(Step { state: JobState::Failed, attempt, kind: "failed", data: json!(error).to_string().into() })
        }
        (JobState::Pending | JobState::Running, Change::Cancel) => {
            Some(Step { state: JobState::Canceled, attempt, kind: "canceled", data: "{}".into() })
        }
        _ => None,
    }
}

/// Data of the event `retrying` after a retry by request.
pub(super) fn again_data(attempt: u32, run_at_ms: i64) -> Box<str> {
    json!({ "reason": "asked for", "attempt": attempt, "run_at": run_at_ms }).to_string().into()
}

/// Data of the event `created`: the payload, which is JSON.
pub(super) fn created_data(payload: &str) -> Box<str> {
    without_line_ends(payload)
}

/// `text` as JSON on one line: unchanged if it is JSON, otherwise as a JSON string; `None` becomes `null`.
fn json_or_string(text: Option<&str>) -> Box<str> {
    match text {
        None => "null".into(),
        Some(text) if serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok() => without_line_ends(text),
        Some(text) => Value::from(text).to_string().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATES: [JobState; 2] = [JobState::Pending, JobState::Running];

    fn job(state: JobState) -> LiveJob {
        LiveJob { uuid: "u".into(), state, attempt: 2, retries: 1 }
    }

    fn finish(state: JobState, result: Option<&str>, error: Option<&str>) -> Change {
        Change::Finish { attempt: 2, state, result: result.map(Into::into), error: error.map(Into::into) }
    }

    fn told(state: JobState, change: &Change) -> Option<(JobState, u32, &'static str, String)> {
        step(&job(state), change).map(|step| (step.state, step.attempt, step.kind, step.data.into()))
    }

    #[test]
    fn only_a_pending_job_starts_and_that_counts() {
        let started = (JobState::Running, 3, "started", r#"{"attempt":3}"#.to_owned());
        assert_eq!(told(JobState::Pending, &Change::Start { retries: 1 }), Some(started));
        assert_eq!(told(JobState::Running, &Change::Start { retries: 1 }), None);
        assert_eq!(told(JobState::Pending, &Change::Start { retries: 0 }), None, "it was retried by request since");
    }

    #[test]
    fn only_a_running_job_is_retried() {
        let retry = Change::Retry { attempt: 2, reason: "say \"no\"".into(), run_at_ms: 9 };
        let data = r#"{"attempt":2,"reason":"say \"no\"","run_at":9}"#.to_owned();
        assert_eq!(told(JobState::Running, &retry), Some((JobState::Pending, 2, "retrying", data)));
        assert_eq!(told(JobState::Pending, &retry), None);
    }

    #[test]
    fn only_the_run_that_holds_the_job_ends_it() {
        for attempt in [0, 1, 3] {
            let (state, result, error) = (JobState::Done, None, None);
            let retry = Change::Retry { attempt, reason: String::new(), run_at_ms: 9 };
            let finish = Change::Finish { attempt, state, result: result.clone(), error: error.clone() };
            for change in [retry, finish, Change::Decide { attempt, state, result, error }] {
                assert_eq!(told(JobState::Running, &change), None, "{change:?}");
            }
        }
    }

    #[test]
    fn only_a_running_job_ends() {
        let done = finish(JobState::Done, Some(" [1] "), None);
        assert_eq!(told(JobState::Running, &done), Some((JobState::Done, 2, "done", "[1]".to_owned())));
        let failed = finish(JobState::Failed, None, Some("a\nb"));
        let data = r#""a\nb""#.to_owned();
        assert_eq!(told(JobState::Running, &failed), Some((JobState::Failed, 2, "failed", data)));
        assert_eq!(told(JobState::Pending, &done), None);
        assert_eq!(told(JobState::Pending, &failed), None);
    }

    #[test]
    fn a_run_ends_in_no_other_state() {
        for state in [JobState::Pending, JobState::Running, JobState::Canceled] {
            assert_eq!(told(JobState::Running, &finish(state, None, None)), None);
        }
    }

    #[test]
    fn every_unfinished_job_can_be_canceled() {
        for state in STATES {
            let canceled = (JobState::Canceled, 2, "canceled", "{}".to_owned());
            assert_eq!(told(state, &Change::Cancel), Some(canceled));
        }
    }

    #[test]
    fn results_that_are_no_json_become_strings() {
        for (text, json) in [
            (None, "null"),
            (Some("{\"a\":\r\n1}\n"), "{\"a\":  1}"),
            (Some("{a"), "\"{a\""),
            (Some(""), "\"\""),
            (Some("1 2"), "\"1 2\""),
        ] {
            assert_eq!(&*json_or_string(text), json);
        }
    }
}
