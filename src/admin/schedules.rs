//! `/jobs/schedules`: list, create, change, delete.

use super::audit::Actor;
use super::job_answers::{error, module_of, not_allowed, store_error};
use super::query::decoded;
use crate::jobs::store::{ScheduleRow, StoreError};
use crate::jobs::{Jobs, ScheduleError, Shown, json_text};
use crate::proto::http1::{Method, RequestView};
use crate::server_response::{Reply, ServerAnswer};
use serde_json::json;

/// Serves one request on `/jobs/schedules`, or, with a name, below it.
pub(super) fn handle(jobs: &Jobs, name: &str, view: &RequestView<'_>, actor: Actor, reply: Reply) {
    let name = match decoded(name.as_bytes()) {
        Ok(name) => name,
        Err(refusal) => return reply.send(&refusal),
    };
    let name = name.as_str();
    let method = view.method();
    let get = matches!(method, Method::Get | Method::Head);
    match (name, method) {
        ("", _) if get => match module_of(view) {
            Ok(module) => list(jobs, module, reply),
            Err(refusal) => reply.send(&refusal),
        },
        ("", _) => reply.send(&not_allowed("GET, HEAD, OPTIONS")),
        (name, _) if get => show(jobs, name.to_owned(), reply),
        (name, Method::Put) => put(jobs, name.to_owned(), view.body, actor, reply),
        (name, Method::Delete) => remove(jobs, name.to_owned(), actor, reply),
        _ => reply.send(&not_allowed("GET, HEAD, PUT, DELETE, OPTIONS")),
    }
}

/// A schedule as JSON for clients.
fn schedule_json(row: &ScheduleRow, waits: Option<&str>) -> String {
    let spec = &row.spec;
    let mut text = json!({
        "name": spec.name,
        "module": spec.module,
        "job": spec.job,
        "cron": spec.cron,
        "timezone": spec.zone,
        "overlap": spec.overlap,
        "declared": spec.declared,
        "next_at": Some(row.next_ms).filter(|at| *at < i64::MAX),
        "last_slot": row.last_slot_ms,
        "last_job": row.last_job,
        "runs": row.runs,
        "skipped": row.skipped,
        "waits": waits,
    })
    .to_string();
    text.pop();
    text + ",\"payload\":" + &json_text(&spec.payload) + "}"
}

fn no_such_schedule() -> ServerAnswer {
    error(404, "there is no such schedule")
}

/// Lists the schedules of all modules or of one module.
fn list(jobs: &Jobs, module: Option<String>, reply: Reply) {
    jobs.schedules(
        None,
        Box::new(move |shown: Vec<Shown>| {
            let listed =
                shown.iter().filter(|(row, _)| module.as_ref().is_none_or(|module| row.spec.module == *module));
            let items: Vec<String> = listed.map(|(row, waits)| schedule_json(row, waits.as_deref())).collect();
            reply.send(&ServerAnswer::json(200, format!("{{\"schedules\":[{}]}}", items.join(","))));
        }),
    );
}

fn show(jobs: &Jobs, name: String, reply: Reply) {
    jobs.schedules(
        Some(name),
        Box::new(move |shown: Vec<Shown>| {
            reply.send(&shown.first().map_or_else(no_such_schedule, |(row, waits)| {
                ServerAnswer::json(200, schedule_json(row, waits.as_deref()))
            }));
        }),
    );
}

fn refusal(cause: &ScheduleError) -> ServerAnswer {
    match cause {
        ScheduleError::Invalid(_) => error(400, &cause.to_string()),
        ScheduleError::Resolve(_) => error(404, &cause.to_string()),
        ScheduleError::Unknown => no_such_schedule(),
        ScheduleError::Declared => error(409, &cause.to_string()),
        ScheduleError::Store(StoreError::Refused { why }) => error(409, why),
        ScheduleError::Store(cause) => store_error(cause),
    }
}

fn put(jobs: &Jobs, name: String, body: &[u8], actor: Actor, reply: Reply) {
    let shown = name.clone();
    let answer = move |outcome: Result<ScheduleRow, ScheduleError>| {
        let answer = match outcome {
            Ok(row) => ServerAnswer::json(200, schedule_json(&row, None)),
            Err(cause) => refusal(&cause),
        };
        actor.log_job("put schedule", &shown, answer.status);
        reply.send(&answer);
    };
    jobs.put_schedule(name, body, Box::new(answer));
}

fn remove(jobs: &Jobs, name: String, actor: Actor, reply: Reply) {
    let shown = name.clone();
    let answer = move |outcome: Result<(), ScheduleError>| {
        let answer = match outcome {
            Ok(()) => ServerAnswer::json(200, json!({ "name": &shown, "deleted": true }).to_string()),
            Err(cause) => refusal(&cause),
        };
        actor.log_job("delete schedule", &shown, answer.status);
        reply.send(&answer);
    };
    jobs.remove_schedule(name, Box::new(answer));
}
