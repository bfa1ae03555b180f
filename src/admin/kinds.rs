//! `/jobs/kinds`: the numbers of waiting and running jobs of each kind; pause and resume.

use super::audit::Actor;
use super::job_answers::{error, module_of, not_allowed, store_error};
use super::query::decoded;
use crate::jobs::{Jobs, KindCount, PauseError};
use crate::proto::http1::{Method, RequestView};
use crate::server_response::{Reply, ServerAnswer};
use serde_json::{Value, json};

/// Serves one request on `/jobs/kinds`, or below it.
pub(super) fn handle(jobs: &Jobs, rest: &[&str], view: &RequestView<'_>, actor: Actor, reply: Reply) {
    let method = view.method();
    match rest {
        [] | [""] if matches!(method, Method::Get | Method::Head) => match module_of(view) {
            Ok(module) => jobs.kinds(Box::new(move |kinds| {
                let listed =
                    kinds.into_iter().filter(|kind| module.as_ref().is_none_or(|module| kind.module == *module));
                let kinds: Vec<Value> = listed.map(shown).collect();
                reply.send(&ServerAnswer::json(200, json!({ "kinds": kinds }).to_string()));
            })),
            Err(refusal) => reply.send(&refusal),
        },
        [] | [""] => reply.send(&not_allowed("GET, HEAD, OPTIONS")),
        [module, job, act @ ("pause" | "resume")] if method == Method::Post => {
            pause(jobs, [module, job], *act == "pause", actor, reply);
        }
        [_, _, "pause" | "resume"] => reply.send(&not_allowed("POST, OPTIONS")),
        _ => reply
            .send(&error(404, "there is nothing here; see /jobs/kinds and /jobs/kinds/MODULE/JOB/pause or /resume")),
    }
}

fn shown(kind: KindCount) -> Value {
    let KindCount { module, job, pending, running, paused } = kind;
    json!({ "module": module, "job": job, "pending": pending, "running": running, "paused": paused })
}

fn pause(jobs: &Jobs, [module, job]: [&str; 2], pause: bool, actor: Actor, reply: Reply) {
    let (module, job) = match (decoded(module.as_bytes()), decoded(job.as_bytes())) {
        (Ok(module), Ok(job)) => (module, job),
        (Err(refusal), _) | (_, Err(refusal)) => return reply.send(&refusal),
    };
    let kind = (module.clone(), job.clone());
    let answer = move |outcome: Result<(), PauseError>| {
        let answer = match outcome {
            Ok(()) => ServerAnswer::json(200, json!({ "module": &module, "job": &job, "paused": pause }).to_string()),
            Err(PauseError::Store(cause)) => store_error(&cause),
            Err(cause @ PauseError::Resolve(_)) => error(404, &cause.to_string()),
            Err(cause @ PauseError::TooMany) => error(409, &cause.to_string()),
        };
        let action = if pause { "pause jobs" } else { "resume jobs" };
        actor.log_job(action, &format!("{module}/{job}"), answer.status);
        reply.send(&answer);
    };
    jobs.pause(kind, pause, Box::new(answer));
}
