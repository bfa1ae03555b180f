//! `/jobs`: submit, look up, list, cancel, retry, delete. The shard serves the streams of events.

use super::audit::Actor;
use super::blobs::blob_error;
use super::job_answers::{error, no_such_job, not_allowed, only, store_error};
use super::query::{OF_FEED, parameter};
use super::{job_files, kinds, schedules};
use crate::domain::call::OwnedRequest;
use crate::jobs::blobs::BlobError;
use crate::jobs::store::{Deleted, JobEvent, JobFilter, JobRow, JobState, StoreError};
use crate::jobs::{
    Accepted, Bulk, CancelOutcome, Cursor, FeedSlice, JobFrame, JobPage, Jobs, RequestError, RetryError, SubmitError,
    feed_filter, json_text,
};
use crate::module::control::Control;
use crate::module::reach::Reach;
use crate::proto::http1::{Method, RequestView};
use crate::server_response::{Reply, ServerAnswer};
use serde_json::{Value, json};

/// Default number of rows of a list; `limit` overrides it.
const LIST_DEFAULT: u32 = 100;
/// Limit on the rows of a list.
const LIST_MAX: u32 = 1_000;

/// Serves one request on `/jobs` or below it. A key for some modules only finds the jobs of those modules only.
pub(super) fn handle(control: &Control, jobs: &Jobs, view: &RequestView<'_>, actor: Actor, reply: Reply) {
    let reach = actor.who.reach();
    let uuid = String::from_utf8_lossy(view.path()).split('/').nth(2).unwrap_or_default().to_owned();
    if reach == Reach::All || !is_uuid(&uuid) {
        return handle_within(jobs, view, actor, reply);
    }
    let (jobs_again, request) = (jobs.clone(), OwnedRequest::copy(view));
    let answer = move |found: Result<Option<i64>, StoreError>| match found {
        Ok(Some(_)) => handle_within(&jobs_again, &request.view(), actor, reply),
        Ok(None) => reply.send(&no_such_job()),
        Err(cause) => reply.send(&store_error(&cause)),
    };
    find_within(control, jobs, uuid, reach, Box::new(answer));
}

/// The id of the job `uuid`, if it is a job of a module within `reach`.
pub(super) fn find_within(
    control: &Control,
    jobs: &Jobs,
    uuid: String,
    reach: Reach,
    answer: Box<dyn FnOnce(Result<Option<i64>, StoreError>) + Send>,
) {
    if reach == Reach::All {
        return jobs.find(uuid, answer);
    }
    let control = control.clone();
    let within = move |row: &JobRow| reach.has(control.domain_of(&row.module).as_deref(), &row.module);
    jobs.get(uuid, Box::new(move |found| answer(found.map(|row| row.filter(within).map(|row| row.id)))));
}

fn handle_within(jobs: &Jobs, view: &RequestView<'_>, actor: Actor, reply: Reply) {
    let path = String::from_utf8_lossy(view.path()).into_owned();
    let parts: Vec<&str> = path.split('/').skip(2).collect();
    let method = view.method();
    let get = matches!(method, Method::Get | Method::Head);
    match parts.as_slice() {
        [] | [""] => match method {
            Method::Post => submit(jobs, view.body.to_vec(), actor, reply),
            _ if get => list(jobs, view, reply),
            _ => reply.send(&not_allowed("GET, HEAD, POST, OPTIONS")),
        },
        ["ws"] => reply.send(&error(426, "this path is a WebSocket").with("Upgrade", "websocket")),
        ["retry"] if method == Method::Post => bulk(jobs, Act::Retry, view, actor, reply),
        ["cancel"] if method == Method::Post => bulk(jobs, Act::Cancel, view, actor, reply),
        ["retry" | "cancel"] => reply.send(&not_allowed("POST, OPTIONS")),
        ["events"] if get => feed(jobs, view, reply),
        ["events"] => reply.send(&not_allowed("GET, HEAD, OPTIONS")),
        ["kinds", rest @ ..] => kinds::handle(jobs, rest, view, actor, reply),
        ["schedules", name @ ..] => schedules::handle(jobs, &name.join("/"), view, actor, reply),
        [uuid, ..] if !is_uuid(uuid) => reply.send(&error(400, &format!("\"{uuid}\" is not a UUID"))),
        [uuid] if get => lookup(jobs, (*uuid).to_owned(), reply),
        [uuid] if method == Method::Delete => delete(jobs, (*uuid).to_owned(), actor, reply),
        [_] => reply.send(&not_allowed("GET, HEAD, DELETE, OPTIONS")),
        [uuid, "events"] if get => events(jobs, (*uuid).to_owned(), view, reply),
        [_, "events"] => reply.send(&not_allowed("GET, HEAD, OPTIONS")),
        [uuid, "files"] if get => job_files::list(jobs, (*uuid).to_owned(), reply),
        [uuid, "files", name] if get => job_files::get(jobs, uuid, name, view, reply),
        [_, "files", ..] => reply.send(&not_allowed("GET, HEAD, OPTIONS")),
        [uuid, "cancel"] if method == Method::Post => cancel(jobs, (*uuid).to_owned(), actor, reply),
        [uuid, "retry"] if method == Method::Post => retry(jobs, (*uuid).to_owned(), actor, reply),
        [_, "cancel" | "retry"] => reply.send(&not_allowed("POST, OPTIONS")),
        _ => reply.send(&error(
            404,
            "there is nothing here; see /jobs and /jobs/UUID, /jobs/UUID/events, /jobs/UUID/files, /jobs/UUID/cancel, \
             /jobs/UUID/retry",
        )),
    }
}

/// Whether `text` is 8-4-4-4-12 hexadecimal digits (RFC 9562 §4).
fn is_uuid(text: &str) -> bool {
    text.len() == 36 && uuid::Uuid::try_parse(text).is_ok()
}

fn submit(jobs: &Jobs, body: Vec<u8>, actor: Actor, reply: Reply) {
    let answer = move |accepted: Result<Accepted, SubmitError>| {
        actor.log_submission(accepted.as_ref().ok().map(|job| job.uuid.as_str()));
        reply.send(&submitted(accepted));
    };
    jobs.submit(body, Box::new(answer));
}

fn submitted(accepted: Result<Accepted, SubmitError>) -> ServerAnswer {
    match accepted {
        Ok(job) => {
            let state = job.state.as_str();
            let body = json!({ "job_uuid": job.uuid, "state": state, "module_hash": job.module_hash });
            ServerAnswer::json(200, body.to_string())
        }
        Err(SubmitError::Request(cause @ RequestError::Invalid(_))) => error(400, &cause.to_string()),
        Err(SubmitError::Request(cause @ RequestError::PayloadTooLarge { .. })) => error(413, &cause.to_string()),
        Err(SubmitError::Resolve(cause)) => match cause {
            crate::jobs::code::ResolveError::Ambiguous { .. } => error(400, &cause.to_string()),
            crate::jobs::code::ResolveError::Swapping(_) => error(503, &cause.to_string()).with("Retry-After", "1"),
            _ => error(404, &cause.to_string()),
        },
        Err(cause @ SubmitError::Needs(_)) => error(409, &cause.to_string()),
        Err(SubmitError::Store(cause)) => store_error(&cause),
        // The path exists; the body names a blob that does not exist.
        Err(SubmitError::Blob(cause @ BlobError::Unknown(_))) => error(400, &format!("{cause}; PUT /blobs stores one")),
        Err(SubmitError::Blob(cause)) => blob_error(&cause),
        Err(cause @ (SubmitError::TooMany(_) | SubmitError::ShuttingDown)) => {
            error(503, &cause.to_string()).with("Retry-After", "1")
        }
    }
}

/// A job as JSON for clients; a list omits the payload.
fn job_json(row: &JobRow, payload: Option<&str>) -> String {
    let head = json!({
        "job_uuid": row.uuid,
        "module": row.module,
        "job": row.job,
        "state": row.state.as_str(),
        "module_hash": row.module_hash,
        "created_at": row.created_at_ms,
        "updated_at": row.updated_at_ms,
        "error": row.error,
        "attempt": row.attempt,
        "max_attempts": row.max_attempts,
        "run_at": row.run_at_ms,
        "priority": row.priority,
        "unique_key": row.unique_key,
        "concurrency_key": row.concurrency_key,
        "depends_on": row.depends_on,
        "schedule": row.slot.as_ref().map(|slot| json!({ "name": slot.schedule, "slot": slot.at_ms })),
    });
    let result = row.result.as_deref().map_or_else(|| "null".into(), json_text);
    let mut text = head.to_string();
    // The texts are JSON already, so they are appended unchanged before the closing brace.
    text.pop();
    if let Some(payload) = payload {
        text = text + ",\"payload\":" + &json_text(payload);
    }
    text + ",\"result\":" + &result + "}"
}

fn lookup(jobs: &Jobs, uuid: String, reply: Reply) {
    let answer = move |found: Result<Option<JobRow>, StoreError>| {
        reply.send(&match found {
            Ok(Some(row)) => ServerAnswer::json(200, job_json(&row, Some(&row.payload))),
            Ok(None) => no_such_job(),
            Err(cause) => store_error(&cause),
        });
    };
    jobs.get(uuid, Box::new(answer));
}

fn limit(view: &RequestView<'_>) -> Result<u32, ServerAnswer> {
    let Some(text) = parameter(view, "limit") else { return Ok(LIST_DEFAULT) };
    let number = text.parse::<u32>().ok().filter(|number| (1..=LIST_MAX).contains(number));
    number.ok_or_else(|| error(400, &format!("limit must be a whole number from 1 to {LIST_MAX}, not \"{text}\"")))
}

fn filter(view: &RequestView<'_>) -> Result<JobFilter, ServerAnswer> {
    let state = match parameter(view, "state") {
        None => None,
        Some(text) => Some(JobState::parse(&text).ok_or_else(|| {
            error(400, &format!("state must be pending, running, done, failed or canceled, not \"{text}\""))
        })?),
    };
    let before = parameter(view, "before");
    if before.as_deref().is_some_and(|before| !is_uuid(before)) {
        return Err(error(400, "before must be the job_uuid of the last job of the previous page"));
    }
    let (module, job) = (parameter(view, "module"), parameter(view, "job"));
    Ok(JobFilter { state, module, job, before, limit: limit(view)?, ..JobFilter::default() })
}

fn list(jobs: &Jobs, view: &RequestView<'_>, reply: Reply) {
    let known = ["state", "module", "job", "retryable", "before", "limit"];
    let filter = match only(view, &known).and_then(|()| filter(view)) {
        Ok(filter) => filter,
        Err(refusal) => return reply.send(&refusal),
    };
    let retryable = match parameter(view, "retryable").as_deref() {
        None | Some("0") => false,
        Some("1") => true,
        Some(text) => return reply.send(&error(400, &format!("retryable must be 0 or 1, not \"{text}\""))),
    };
    let answer = move |page: Result<JobPage, StoreError>| {
        reply.send(&match page {
            Ok((rows, next)) => {
                let items: Vec<String> = rows.iter().map(|row| job_json(row, None)).collect();
                let next = Value::from(next);
                ServerAnswer::json(200, format!("{{\"jobs\":[{}],\"next\":{next}}}", items.join(",")))
            }
            Err(cause) => store_error(&cause),
        });
    };
    if retryable {
        return jobs.list_retryable(filter, Box::new(answer));
    }
    let listed = move |page: Result<(Vec<JobRow>, bool), StoreError>| {
        answer(page.map(|(rows, more)| {
            let next = rows.last().filter(|_| more).map(|row| row.uuid.clone());
            (rows, next)
        }));
    };
    jobs.list(filter, Box::new(listed));
}

fn events(jobs: &Jobs, uuid: String, view: &RequestView<'_>, reply: Reply) {
    let limit = match only(view, &["since_event_id", "limit"]).and_then(|()| limit(view)) {
        Ok(limit) => limit,
        Err(refusal) => return reply.send(&refusal),
    };
    let since = parameter(view, "since_event_id").unwrap_or_else(|| "0".to_owned());
    let Some(after) = since.parse::<i64>().ok().filter(|after| *after >= 0) else {
        return reply.send(&error(400, "since_event_id must be a whole number, 0 or more"));
    };
    let answer = move |events: Result<Option<Vec<JobEvent>>, StoreError>| {
        reply.send(&match events {
            Ok(Some(events)) => {
                let items: Vec<String> = events.iter().map(|event| JobFrame::new(event).json).collect();
                ServerAnswer::json(200, format!("{{\"events\":[{}]}}", items.join(",")))
            }
            Ok(None) => no_such_job(),
            Err(cause) => store_error(&cause),
        });
    };
    jobs.events(uuid, after, limit, Box::new(answer));
}

/// Answers with a page of the events of many jobs.
fn feed(jobs: &Jobs, view: &RequestView<'_>, reply: Reply) {
    let limit = match only(view, &OF_FEED).and_then(|()| limit(view)) {
        Ok(limit) => limit,
        Err(refusal) => return reply.send(&refusal),
    };
    let filter = match feed_filter(parameter(view, "module"), parameter(view, "state").as_deref()) {
        Ok(filter) => filter,
        Err(why) => return reply.send(&error(400, &why)),
    };
    let Some(cursor) = Cursor::parse(parameter(view, "cursor").as_deref().unwrap_or("now")) else {
        return reply.send(&error(400, "cursor must be \"start\", \"now\" or the cursor of an earlier answer"));
    };
    let answer = move |page: Result<FeedSlice, StoreError>| {
        reply.send(&match page {
            Ok((frames, cursor)) => {
                let items: Vec<&str> = frames.iter().map(|frame| frame.json.as_str()).collect();
                let cursor = Value::from(cursor);
                ServerAnswer::json(200, format!("{{\"events\":[{}],\"cursor\":{cursor}}}", items.join(",")))
            }
            Err(cause) => store_error(&cause),
        });
    };
    jobs.feed_page(filter, cursor, limit, Box::new(answer));
}

fn cancel(jobs: &Jobs, uuid: String, actor: Actor, reply: Reply) {
    let name = uuid.clone();
    let answer = move |outcome: Result<CancelOutcome, StoreError>| {
        let answer = match outcome {
            Ok(CancelOutcome::Canceled) => {
                ServerAnswer::json(200, json!({ "job_uuid": &name, "state": "canceled" }).to_string())
            }
            Ok(CancelOutcome::Ended(state)) => error(409, &format!("the job is {} already", state.as_str())),
            Ok(CancelOutcome::Unknown) => no_such_job(),
            Err(cause) => store_error(&cause),
        };
        actor.log_job("cancel job", &name, answer.status);
        reply.send(&answer);
    };
    jobs.cancel(uuid, Box::new(answer));
}

fn retry(jobs: &Jobs, uuid: String, actor: Actor, reply: Reply) {
    let name = uuid.clone();
    let answer = move |outcome: Result<Accepted, RetryError>| {
        let answer = match outcome {
            Err(RetryError::Submit(cause)) => submitted(Err(cause)),
            Err(RetryError::Unknown) => no_such_job(),
            Err(cause) => error(409, &cause.to_string()),
            Ok(job) => submitted(Ok(job)),
        };
        actor.log_job("retry job", &name, answer.status);
        reply.send(&answer);
    };
    jobs.retry(uuid, Box::new(answer));
}

/// An operation on many jobs.
#[derive(Clone, Copy)]
enum Act {
    Retry,
    Cancel,
}

fn bulk(jobs: &Jobs, act: Act, view: &RequestView<'_>, actor: Actor, reply: Reply) {
    let filter = match only(view, &["state", "module", "job", "before", "limit"]).and_then(|()| filter(view)) {
        Ok(filter) => filter,
        Err(refusal) => return reply.send(&refusal),
    };
    let is_all = filter.state.is_none() && filter.module.is_none() && filter.job.is_none();
    if is_all {
        return reply.send(&error(400, "name the jobs: state=, module= or job= in the query"));
    }
    let (action, changed) = match act {
        Act::Retry => ("retry jobs", "retried"),
        Act::Cancel => ("cancel jobs", "canceled"),
    };
    let shown = String::from_utf8_lossy(view.query().unwrap_or_default()).into_owned();
    let answer = move |outcome: Result<Bulk, StoreError>| {
        let answer = match outcome {
            Ok(Bulk { changed: count, skipped, next }) => {
                let skipped: Vec<Value> =
                    skipped.into_iter().map(|(uuid, why)| json!({ "job_uuid": uuid, "error": why })).collect();
                ServerAnswer::json(200, json!({ changed: count, "skipped": skipped, "next": next }).to_string())
            }
            Err(cause) => store_error(&cause),
        };
        actor.log_job(action, &shown, answer.status);
        reply.send(&answer);
    };
    match act {
        Act::Retry => jobs.retry_all(filter, Box::new(answer)),
        Act::Cancel => jobs.cancel_all(filter, Box::new(answer)),
    }
}

fn delete(jobs: &Jobs, uuid: String, actor: Actor, reply: Reply) {
    let name = uuid.clone();
    let answer = move |outcome: Result<Deleted, StoreError>| {
        let answer = match outcome {
            Ok(Deleted::Done) => ServerAnswer::json(200, json!({ "job_uuid": &name, "deleted": true }).to_string()),
            Ok(Deleted::NotFinished(state)) => {
                error(409, &format!("the job is {}: cancel it first, or wait for its end", state.as_str()))
            }
            Ok(Deleted::Unknown) => no_such_job(),
            Err(cause) => store_error(&cause),
        };
        actor.log_job("delete job", &name, answer.status);
        reply.send(&answer);
    };
    jobs.delete(uuid, Box::new(answer));
}
