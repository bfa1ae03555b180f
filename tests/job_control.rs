//! Jobs that are steered from outside: retried by request, many at once, on a schedule.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use serde_json::{Value, json};
use support::{Response, Server, eventually};

fn source(version: &str) -> String {
    let module = std::fs::read_to_string(support::root().join("tests/modules/jobs.c")).unwrap();
    format!("#include <cweb.h>\n#define VERSION \"{version}\"\n#line 1 \"jobs.c\"\n{module}")
}

fn json_of(response: &Response) -> Value {
    serde_json::from_slice(&response.body).unwrap_or_else(|error| panic!("{error}: {}", response.text()))
}

fn ask(server: &Server, method: &str, target: &str, body: &Value) -> (u16, Value) {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let response = server.connect().request(method, target, &[], body.as_bytes());
    (response.status, json_of(&response))
}

fn post(server: &Server, target: &str) -> (u16, Value) {
    ask(server, "POST", target, &Value::Null)
}

fn get(server: &Server, target: &str) -> Value {
    let (status, answer) = ask(server, "GET", target, &Value::Null);
    assert_eq!(status, 200, "{answer}");
    answer
}

fn submit(server: &Server, body: &Value) -> String {
    let (status, accepted) = ask(server, "POST", "/jobs", body);
    assert_eq!(status, 200, "{accepted}");
    accepted["job_uuid"].as_str().unwrap().to_owned()
}

fn reached(server: &Server, uuid: &str, state: &str) -> Value {
    let mut last = Value::Null;
    eventually(&format!("job {uuid} is {state}"), || {
        last = get(server, &format!("/jobs/{uuid}"));
        last["state"] == state
    });
    last
}

fn kinds(server: &Server, uuid: &str) -> Vec<String> {
    let listed = get(server, &format!("/jobs/{uuid}/events?limit=1000"));
    let events = listed["events"].as_array().unwrap();
    events.iter().map(|event| event["type"].as_str().unwrap().to_owned()).collect()
}

fn uuids(list: &Value) -> Vec<&str> {
    list["jobs"].as_array().unwrap().iter().map(|job| job["job_uuid"].as_str().unwrap()).collect()
}

fn words(answer: &(u16, Value)) -> String {
    format!("{} {}", answer.0, answer.1["error"].as_str().unwrap_or_default())
}

/// Later than any test.
const FAR: u64 = 99_999_999_999_999;

#[test]
fn a_job_that_has_ended_badly_runs_again_with_fresh_attempts_on_the_version_served_now() {
    let server = Server::start();
    server.deploy(&source("1"));
    let retry = |uuid: &str| post(&server, &format!("/jobs/{uuid}/retry"));
    let cancel = |uuid: &str| post(&server, &format!("/jobs/{uuid}/cancel"));

    // Three runs fail, as many as it may have; three more are given, and the fourth works.
    let flaky = submit(&server, &json!({"job": "flaky", "payload": {"fail" : 3}}));
    let failed = reached(&server, &flaky, "failed");
    assert_eq!((&failed["attempt"], &failed["max_attempts"]), (&json!(3), &json!(3)));
    assert_eq!(failed["payload"], json!({"fail": 3}));
    assert!(get(&server, "/jobs")["jobs"][0].get("payload").is_none(), "lists are short");
    let again = retry(&flaky);
    assert_eq!((again.0, &again.1["state"], &again.1["job_uuid"]), (200, &json!("pending"), &json!(flaky)));
    let done = reached(&server, &flaky, "done");
    assert_eq!((&done["attempt"], &done["max_attempts"], &done["error"]), (&json!(4), &json!(6), &Value::Null));
    let run = ["started", "run"];
    let retried = [&run[..], &["retrying"]].concat();
    let mut story = vec!["created"];
    story.extend(retried.iter().chain(&retried));
    story.extend(["started", "run", "failed", "retrying", "started", "run", "done"]);
    assert_eq!(kinds(&server, &flaky), story);
    let events = get(&server, &format!("/jobs/{flaky}/events"));
    let asked = &events["events"][10]["data"];
    assert_eq!((&asked["reason"], &asked["attempt"]), (&json!("asked for"), &json!(3)));
    assert!(words(&retry(&flaky)).starts_with("409 the job is done: submit it again"), "{:?}", retry(&flaky));

    // One that waits is refused; canceled, it runs, on the version that is served by then.
    let later = submit(&server, &json!({"job": "count", "payload": {"n": 1}, "run_at": FAR}));
    assert!(words(&retry(&later)).starts_with("409 the job is pending: "), "{:?}", retry(&later));
    assert_eq!(cancel(&later).0, 200);
    server.deploy(&source("2"));
    let accepted = retry(&later);
    assert_eq!(accepted.0, 200, "{accepted:?}");
    let done = reached(&server, &later, "done");
    assert_eq!((&done["result"]["version"], &done["module_hash"]), (&json!("2"), &accepted.1["module_hash"]));
    assert_eq!(kinds(&server, &later), ["created", "canceled", "retrying", "started", "step", "done"]);

    // Not while its last run goes on: canceled, or after it has decided.
    for calls in ["", "e"] {
        server.get("/release?off=1");
        let held = submit(&server, &json!({"job": "decide", "payload": {"calls": calls, "hold": 1, "return": 5}}));
        reached(&server, &held, if calls.is_empty() { "running" } else { "failed" });
        if calls.is_empty() {
            assert!(words(&retry(&held)).starts_with("409 the job is running"), "{:?}", retry(&held));
            assert_eq!(cancel(&held).0, 200);
        }
        assert!(words(&retry(&held)).starts_with("409 the last run of the job has not returned"), "{calls}");
        server.get("/release");
        eventually("the run has returned", || retry(&held).0 == 200);
        let failed = reached(&server, &held, "failed");
        assert_eq!((&failed["attempt"], &failed["max_attempts"]), (&json!(2), &json!(2)), "{failed}");
    }
    assert_eq!(words(&retry("0197a1b2-0000-7000-8000-000000000000")), "404 there is no such job");
    assert_eq!(server.get(&format!("/jobs/{later}/retry")).status, 405);

    // Without its module there is nothing to run.
    let crashed = submit(&server, &json!({"job": "fail"}));
    reached(&server, &crashed, "failed");
    let dead = |query: &str| get(&server, &format!("/jobs?state=failed&retryable=1{query}"));
    assert!(uuids(&dead("")).contains(&crashed.as_str()));
    assert_eq!(uuids(&dead("&limit=1")), [crashed.as_str()]);
    assert_eq!(dead("&limit=1")["next"], json!(crashed));
    assert_eq!(server.connect().request("DELETE", "/mgnt/jobs", &[], b"").status, 200);
    let said = words(&retry(&crashed));
    assert!(said.starts_with("409 there is no module named jobs: deploy"), "{said}");
    assert_eq!((uuids(&dead("")), &dead("")["next"]), (vec![], &Value::Null));
    assert!(uuids(&get(&server, "/jobs?state=failed")).contains(&crashed.as_str()));
    assert!(words(&ask(&server, "GET", "/jobs?retryable=yes", &Value::Null)).starts_with("400 retryable"));
}

#[test]
fn many_jobs_are_retried_and_canceled_by_a_filter_page_by_page() {
    let server = Server::start();
    server.deploy(&source("1"));
    let of = |job: &str, run_at: u64| submit(&server, &json!({"job": job, "run_at": run_at}));
    let failed: Vec<String> = (0..3).map(|_| of("fail", 0)).collect();
    let others: Vec<String> = (0..3).map(|_| of("quiet", FAR)).collect();
    for uuid in &failed {
        reached(&server, uuid, "failed");
    }
    for act in ["retry", "cancel"] {
        let said = words(&post(&server, &format!("/jobs/{act}?limit=3")));
        assert!(said.starts_with("400 say which jobs"), "{said}");
        assert_eq!(server.get(&format!("/jobs/{act}")).status, 405);
    }
    // Two, then the last; the page tells where it ended.
    let (status, page) = post(&server, "/jobs/retry?module=jobs&job=fail&limit=2");
    assert_eq!((status, &page["retried"], &page["next"]), (200, &json!(2), &json!(failed[1])), "{page}");
    let (_, page) = post(&server, &format!("/jobs/retry?module=jobs&job=fail&limit=2&before={}", failed[1]));
    assert_eq!((&page["retried"], &page["skipped"], &page["next"]), (&json!(1), &json!([]), &Value::Null), "{page}");
    for uuid in &failed {
        eventually("the second run", || kinds(&server, uuid).iter().filter(|kind| *kind == "failed").count() == 2);
    }
    // Those that wait, whatever has ended.
    let (_, page) = post(&server, "/jobs/cancel?module=jobs");
    assert_eq!((&page["canceled"], &page["next"]), (&json!(3), &Value::Null), "{page}");
    for uuid in &others {
        reached(&server, uuid, "canceled");
    }
    let (_, page) = post(&server, "/jobs/cancel?state=failed");
    assert_eq!((&page["canceled"], page["skipped"].as_array().unwrap().len()), (&json!(0), 3), "{page}");
    assert_eq!(page["skipped"][2], json!({"job_uuid": failed[0], "error": "the job is failed already"}));
    // Canceled ones on request.
    let (_, page) = post(&server, "/jobs/retry?state=canceled&job=quiet");
    assert_eq!(page["retried"], json!(3), "{page}");
    for uuid in &others {
        reached(&server, uuid, "done");
    }
    server.expect_log("retry jobs");
}
