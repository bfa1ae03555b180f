//! Jobs through the real binary: submissions, lifecycle, reads, streams, and what the store promises.

use crate::support::{self, Response, Server, eventually};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tungstenite::Message;

fn source(version: &str) -> String {
    let module = std::fs::read_to_string(support::root().join("tests/modules/jobs.c")).unwrap();
    format!("#include <cweb.h>\n#define VERSION \"{version}\"\n#line 1 \"jobs.c\"\n{module}")
}

fn with(args: &[&str]) -> Server {
    let server = Server::with(args);
    let warnings = server.deploy(&source("1")).text();
    assert!(!warnings.contains("warning:"), "{warnings}");
    server
}

fn json_of(response: &Response) -> Value {
    serde_json::from_slice(&response.body).unwrap_or_else(|error| panic!("{error}: {}", response.text()))
}

fn try_submit(server: &Server, body: &Value) -> Response {
    server.post("/jobs", body.to_string().as_bytes())
}

fn submit(server: &Server, body: &Value) -> String {
    let response = try_submit(server, body);
    let accepted = json_of(&response);
    assert_eq!((response.status, &accepted["state"]), (200, &json!("pending")), "{}", response.text());
    accepted["job_uuid"].as_str().unwrap().to_owned()
}

fn run(server: &Server, job: &str, payload: &Value) -> String {
    submit(server, &json!({ "module": "jobs", "job": job, "payload": payload }))
}

fn status(server: &Server, uuid: &str) -> Value {
    let response = server.get(&format!("/jobs/{uuid}"));
    assert_eq!(response.status, 200, "{}", response.text());
    json_of(&response)
}

/// Waits for the end of a job and returns its status.
fn ended(server: &Server, uuid: &str) -> Value {
    reached(server, uuid, &["done", "failed", "canceled"])
}

fn reached(server: &Server, uuid: &str, states: &[&str]) -> Value {
    let mut last = Value::Null;
    eventually(&format!("job {uuid} is {states:?}"), || {
        last = status(server, uuid);
        states.contains(&last["state"].as_str().unwrap())
    });
    last
}

fn cancel(server: &Server, uuid: &str) -> Response {
    server.post(&format!("/jobs/{uuid}/cancel"), b"")
}

fn events(server: &Server, uuid: &str) -> Vec<Value> {
    let listed = json_of(&server.get(&format!("/jobs/{uuid}/events?limit=1000")));
    listed["events"].as_array().unwrap().clone()
}

fn kinds(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["type"].as_str().unwrap()).collect()
}

fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// All frames of `/jobs/ws` until the server closes.
fn watch(server: &Server, target: &str) -> Vec<Value> {
    frames(server.websocket(target))
}

/// Every event of a stream until it is closed.
fn frames(mut socket: support::Socket) -> Vec<Value> {
    let mut frames = Vec::new();
    loop {
        match socket.read() {
            Ok(Message::Text(text)) => frames.push(serde_json::from_str(&text).unwrap()),
            Ok(Message::Close(_)) | Err(_) => return frames,
            Ok(_) => {}
        }
    }
}

#[test]
fn each_way_to_end_has_its_state_result_and_error() {
    let server = with(&[]);
    for (job, payload, state, result, error) in [
        ("echo", json!({"a": [1, "é"]}), "done", json!({"a": [1, "é"]}), Value::Null),
        ("echo", json!("text"), "done", json!("text"), Value::Null),
        ("quiet", json!({}), "done", json!({}), Value::Null),
        ("texts", json!({}), "done", json!("plain text"), Value::Null),
        ("fail", json!({}), "failed", Value::Null, json!("job failed")),
        ("fail_with_text", json!({}), "failed", Value::Null, json!("no \"luck\"")),
        ("crash", json!({}), "failed", Value::Null, json!("job crashed")),
        ("spawn", json!({}), "done", json!({}), Value::Null),
    ] {
        let uuid = run(&server, job, &payload);
        let seen = ended(&server, &uuid);
        assert_eq!((&seen["state"], &seen["result"], &seen["error"]), (&json!(state), &result, &error), "{job}");
        assert_eq!((&seen["job_uuid"], &seen["module"], &seen["job"]), (&json!(uuid), &json!("jobs"), &json!(job)));
        assert!(seen["created_at"].as_u64().unwrap() <= seen["updated_at"].as_u64().unwrap());
        assert_eq!(seen["module_hash"].as_str().unwrap().len(), 64);
    }
    assert_eq!(server.get("/recorded").status, 200, "the crash harmed nobody");
    server.expect_log("crashed: SIGSEGV");
}

#[test]
fn events_tell_the_story_in_order() {
    let server = with(&[]);
    let uuid = run(&server, "count", &json!({"n": 3}));
    ended(&server, &uuid);
    let listed = events(&server, &uuid);
    assert_eq!(kinds(&listed), ["created", "started", "step", "step", "step", "done"]);
    assert_eq!(listed[4]["data"], json!({"n": 3}));
    assert_eq!((&listed[0]["data"], &listed[5]["data"]), (&json!({"n": 3}), &json!({"n": 3, "version": "1"})));
    let failed = run(&server, "fail_with_text", &json!([1, "two"]));
    ended(&server, &failed);
    let told = events(&server, &failed);
    assert_eq!(kinds(&told), ["created", "started", "failed"]);
    assert_eq!((&told[0]["data"], &told[2]["data"]), (&json!([1, "two"]), &json!("no \"luck\"")));
    let ids: Vec<u64> = listed.iter().map(|event| event["event_id"].as_u64().unwrap()).collect();
    assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");
    for event in &listed {
        assert_eq!(event["job_uuid"], json!(uuid));
        assert!(event["ts"].as_u64().unwrap() > 1_600_000_000_000);
        assert_eq!(event.as_object().unwrap().len(), 5);
    }
    // What is no JSON is a string; what has lines becomes one.
    let odd = run(&server, "texts", &json!({}));
    ended(&server, &odd);
    let listed = events(&server, &odd);
    assert_eq!((&listed[2]["data"], &listed[3]["data"]), (&json!("not \"json\""), &json!({"a": 1})));
    // From any event on.
    let since = format!("/jobs/{uuid}/events?since_event_id={}&limit=2", ids[2]);
    assert_eq!(kinds(json_of(&server.get(&since))["events"].as_array().unwrap()), ["step", "step"]);
}

/// What `calls` of the job `decide` returned.
fn returned(events: &[Value]) -> Vec<i64> {
    events.iter().filter(|event| event["type"] == "call").map(|event| event["data"].as_i64().unwrap()).collect()
}

#[test]
fn the_first_word_about_the_end_decides() {
    // Six crashes would put the module in quarantine.
    let server = with(&["--crash-limit", "0"]);
    for (calls, state, returns) in [
        ("r", "done", &[0][..]),
        ("e", "failed", &[0]),
        ("re", "done", &[0, -1]),
        ("er", "failed", &[0, -1]),
        ("rr", "done", &[0, -1]),
        ("eer", "failed", &[0, -1, -1]),
    ] {
        for (returned_by_run, crash) in [(0, 0), (9, 0), (0, 1)] {
            let payload = json!({"calls": calls, "return": returned_by_run, "crash": crash});
            let uuid = run(&server, "decide", &payload);
            // Seen from the stream, so that the run has returned.
            let told = watch(&server, &format!("/jobs/ws?id={uuid}"));
            let seen = status(&server, &uuid);
            let (result, error) = match state {
                "done" => (json!({"n": 0}), Value::Null),
                _ => (Value::Null, json!("error \"0\"")),
            };
            assert_eq!(
                (&seen["state"], &seen["result"], &seen["error"]),
                (&json!(state), &result, &error),
                "{payload}"
            );
            let mut story = vec!["created", "started", state];
            story.extend(returns.iter().map(|_| "call"));
            story.push("after");
            assert_eq!(kinds(&told), story, "{payload}");
            assert_eq!(told[2]["data"], if state == "done" { result } else { error });
            assert_eq!((returned(&told), &told[story.len() - 1]["data"]), (returns.to_vec(), &Value::Null));
            assert_eq!(events(&server, &uuid), told);
        }
    }
}

#[test]
fn a_stream_that_has_seen_the_end_waits_until_the_run_has_returned() {
    let server = with(&["--shards", "2"]);
    let uuid = run(&server, "decide", &json!({"calls": "re", "hold": 1, "return": 3}));
    let target = format!("/jobs/ws?id={uuid}");
    let mut early = server.websocket(&target);
    let mut next = || loop {
        match early.read() {
            Ok(Message::Text(text)) => {
                break serde_json::from_str::<Value>(&text).unwrap()["type"].as_str().unwrap().to_owned();
            }
            Ok(Message::Ping(_)) => {}
            other => break other.map_or_else(|error| error.to_string(), |message| format!("{message:?}")),
        }
    };
    assert_eq!([next(), next(), next(), next(), next()], ["created", "started", "done", "call", "call"]);
    // It has ended for everybody, though its code still runs.
    let seen = status(&server, &uuid);
    assert_eq!((&seen["state"], &seen["result"]), (&json!("done"), &json!({"n": 0})));
    let refused = cancel(&server, &uuid);
    assert!(refused.status == 409 && refused.text().contains("done already"), "{}", refused.text());
    // Streams that come now wait as well, wherever they begin.
    let end = events(&server, &uuid).last().unwrap()["event_id"].as_u64().unwrap();
    let since_end = format!("{target}&since_event_id={end}");
    let late: Vec<Vec<Value>> = [&target, &since_end]
        .map(|target| server.websocket(target))
        .map(|socket| {
            // Harmless the second time.
            assert_eq!(server.get("/release").text(), "ok");
            frames(socket)
        })
        .into();
    assert_eq!(next(), "after");
    assert!(matches!(early.read(), Ok(Message::Close(Some(frame))) if u16::from(frame.code) == 1000));
    let all = events(&server, &uuid);
    assert_eq!((late[0].as_slice(), kinds(&late[1])), (all.as_slice(), vec!["after"]));
    // Asked for once more, it ends at once.
    assert_eq!(watch(&server, &target), all);
}

#[test]
fn a_job_that_has_ended_can_be_deleted_while_its_code_runs_on() {
    let server = with(&["--job-workers", "1"]);
    let uuid = run(&server, "decide", &json!({"calls": "r", "hold": 1}));
    reached(&server, &uuid, &["done"]);
    assert_eq!(server.connect().request("DELETE", &format!("/jobs/{uuid}"), &[], b"").status, 200);
    server.get("/release");
    let next = run(&server, "quiet", &json!({}));
    assert_eq!(ended(&server, &next)["state"], "done");
    assert_eq!(server.get(&format!("/jobs/{uuid}")).status, 404);
    assert!(!server.log().contains("refused by the database"), "{}", server.log());
}

#[test]
fn a_job_that_waits_for_its_retry_has_the_error_of_its_last_run() {
    let server = with(&[]);
    let submit = |calls: &str, returns: i32, crash: i32| {
        let payload = json!({"calls": calls, "return": returns, "crash": crash});
        submit(&server, &json!({"job": "decide", "payload": payload, "max_attempts": 2, "backoff_ms": 3_600_000}))
    };
    // One after the other: a crash may end the process in which another job runs.
    for (calls, returns, crash, error) in
        [("er", 0, 0, "error \"0\""), ("e", 0, 1, "error \"0\""), ("", 4, 0, "job failed"), ("", 0, 1, "job crashed")]
    {
        let uuid = submit(calls, returns, crash);
        eventually("the wait for the retry", || events(&server, &uuid).last().unwrap()["type"] == "retrying");
        let seen = status(&server, &uuid);
        assert_eq!((&seen["state"], &seen["attempt"], &seen["error"]), (&json!("pending"), &json!(1), &json!(error)));
        let told = events(&server, &uuid);
        assert_eq!(told.last().unwrap()["data"]["reason"], error);
        assert!(returned(&told).iter().skip(1).all(|returned| *returned == -1), "{told:?}");
        cancel(&server, &uuid);
        assert_eq!(status(&server, &uuid)["error"], Value::Null);
    }
    // A result ends the job also in its first run.
    let uuid = submit("re", 1, 0);
    assert_eq!(ended(&server, &uuid)["state"], "done");
}

#[test]
fn wrong_submissions_are_explained_and_leave_no_row() {
    let server = with(&["--job-payload-bytes-max", "100"]);
    server.deploy(&source("1").replace(".name = \"jobs\"", ".name = \"other\"").replace("\"/", "\"/other/"));
    for (body, status, words) in [
        ("", 400, "not JSON"),
        ("{\"job\":", 400, "line 1"),
        ("[]", 400, "must be a JSON object"),
        ("{}", 400, "\"job\" is missing"),
        (r#"{"job":3}"#, 400, "\"job\" must be a string"),
        (r#"{"job":"echo","module":["jobs"]}"#, 400, "\"module\" must be a string"),
        (r#"{"job":"echo","module":"none"}"#, 404, "no module named none"),
        (r#"{"job":"none","module":"jobs"}"#, 404, "module jobs has no job named none"),
        (r#"{"job":"none"}"#, 404, "no module has a job named none"),
        (r#"{"job":"echo"}"#, 400, "several modules"),
        (r#"{"job":"echo","module":"jobs","max_attempts":-1}"#, 400, "max_attempts"),
        (r#"{"job":"echo","module":"jobs","timeout_ms":"1"}"#, 400, "timeout_ms"),
        (r#"{"job":"echo","module":"jobs","run_at":"soon"}"#, 400, "run_at"),
        (r#"{"job":"echo","module":"jobs","unique_key":""}"#, 400, "unique_key"),
    ] {
        let response = server.post("/jobs", body.as_bytes());
        let error = json_of(&response)["error"].as_str().unwrap_or_default().to_owned();
        assert!(response.status == status && error.contains(words), "{body}: {} {error}", response.status);
    }
    let large = try_submit(&server, &json!({"job": "echo", "module": "jobs", "payload": "x".repeat(100)}));
    assert_eq!(large.status, 413, "{}", large.text());
    let nobody = "0197a1b2-0000-7000-8000-000000000000";
    for (method, target, status) in [
        ("GET", "/jobs/nonsense".to_owned(), 400),
        ("GET", format!("/jobs/{nobody}"), 404),
        ("GET", format!("/jobs/{nobody}/events"), 404),
        ("POST", format!("/jobs/{nobody}/cancel"), 404),
        ("DELETE", format!("/jobs/{nobody}"), 404),
        ("PUT", "/jobs".to_owned(), 405),
        ("POST", format!("/jobs/{nobody}"), 405),
        ("GET", format!("/jobs/{nobody}/cancel"), 405),
        ("GET", format!("/jobs/{nobody}/other"), 404),
        ("GET", "/jobs?state=lost".to_owned(), 400),
        ("GET", "/jobs?limit=0".to_owned(), 400),
        ("GET", "/jobs?before=x".to_owned(), 400),
        ("GET", "/jobs?stat=done".to_owned(), 400),
        ("GET", "/jobs?limit=5&%22".to_owned(), 400),
        ("GET", "/jobs/kinds?name=x".to_owned(), 400),
        ("GET", "/jobs/schedules?name=x".to_owned(), 400),
        ("GET", format!("/jobs/{nobody}/events?since=1"), 400),
        ("GET", format!("/jobs/{nobody}/events?since_event_id=-1"), 400),
        ("GET", "/jobs/ws".to_owned(), 426),
    ] {
        let response = server.connect().request(method, &target, &[], b"");
        assert_eq!(response.status, status, "{method} {target}: {}", response.text());
        assert!(json_of(&response)["error"].is_string(), "{method} {target}");
        assert!(status != 405 || response.header("allow").is_some());
    }
    assert_eq!(json_of(&server.get("/jobs"))["jobs"], json!([]));
}

#[test]
fn lists_are_newest_first_by_page_and_filter() {
    let server = with(&[]);
    let all: Vec<String> =
        (0..7).map(|n| run(&server, if n % 2 == 0 { "quiet" } else { "fail" }, &json!({}))).collect();
    all.iter().for_each(|uuid| drop(ended(&server, uuid)));
    let list = |query: &str| -> Vec<String> {
        let listed = json_of(&server.get(&format!("/jobs{query}")));
        listed["jobs"].as_array().unwrap().iter().map(|job| job["job_uuid"].as_str().unwrap().to_owned()).collect()
    };
    let newest: Vec<String> = all.iter().rev().cloned().collect();
    assert_eq!(list(""), newest);
    assert_eq!(list("?state=failed").len(), 3);
    assert_eq!(list("?state=pending"), [""; 0]);
    assert_eq!(list("?job=quiet&state=done").len(), 4);
    assert_eq!(list("?module=jobs").len(), 7);
    assert_eq!(list("?module=none").len(), 0);
    let (mut pages, mut query) = (Vec::new(), "?limit=3".to_owned());
    loop {
        let page = json_of(&server.get(&format!("/jobs{query}")));
        pages.extend(page["jobs"].as_array().unwrap().iter().map(|job| job["job_uuid"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        query = format!("?limit=3&before={next}");
    }
    assert_eq!(pages, newest);
    // Deleting takes the events along.
    let gone = &all[0];
    assert_eq!(server.connect().request("DELETE", &format!("/jobs/{gone}"), &[], b"").status, 200);
    assert_eq!(server.get(&format!("/jobs/{gone}")).status, 404);
    assert_eq!(list("").len(), 6);
}

#[test]
fn long_results_are_whole() {
    let server = with(&[]);
    let text = "x".repeat(500_000);
    let uuid = run(&server, "echo", &json!({"text": text}));
    assert_eq!(ended(&server, &uuid)["result"]["text"], json!(text));
    assert_eq!(json_of(&server.get("/jobs"))["jobs"][0]["result"]["text"], json!(text));
}

#[test]
fn sizes_of_events_and_results_are_limited() {
    let server = with(&["--job-event-bytes-max", "1000", "--job-result-bytes-max", "1000"]);
    let uuid = run(&server, "big", &json!({}));
    assert_eq!(ended(&server, &uuid)["state"], "done");
    assert_eq!(kinds(&events(&server, &uuid)), ["created", "started", "small", "done"]);
    server.expect_log("the limit is 1000 (--job-event-bytes-max)");
}

#[test]
fn failed_runs_are_retried_with_pauses_and_each_attempt_is_told() {
    let server = with(&[]);
    let uuid = run(&server, "flaky", &json!({"fail": 2}));
    let seen = ended(&server, &uuid);
    assert_eq!((&seen["state"], &seen["attempt"], &seen["max_attempts"]), (&json!("done"), &json!(3), &json!(3)));
    let listed = events(&server, &uuid);
    let story = ["created", "started", "run", "retrying", "started", "run", "retrying", "started", "run", "done"];
    assert_eq!(kinds(&listed), story);
    assert_eq!((&listed[3]["data"]["reason"], &listed[3]["data"]["attempt"]), (&json!("job failed"), &json!(1)));
    // What the submission says beats the declaration.
    let body = json!({"module": "jobs", "job": "flaky", "payload": {"fail": 9}, "max_attempts": 2, "backoff_ms": 2000});
    let uuid = submit(&server, &body);
    assert_eq!(ended(&server, &uuid)["error"], "job failed");
    let listed = events(&server, &uuid);
    assert_eq!(kinds(&listed).iter().filter(|kind| **kind == "run").count(), 2);
    // The pause, at least half of backoff_ms, begins when the run ends. An event has the time at which it is written, which may
    // be later than what it tells; the first run has begun after its event.
    let ts = |at: usize| listed[at]["ts"].as_u64().unwrap();
    let run_at = listed[3]["data"]["run_at"].as_u64().unwrap();
    assert!(run_at >= ts(1) + 1000 && ts(4) >= run_at, "{} {run_at} {}", ts(1), ts(4));
    let body = json!({"module": "jobs", "job": "crash", "max_attempts": 2});
    let uuid = submit(&server, &body);
    assert_eq!(ended(&server, &uuid)["attempt"], 2);
}

#[test]
fn a_cancelled_job_stays_cancelled() {
    let server = with(&["--job-workers", "1"]);
    let running = run(&server, "wait", &json!({"ms": 600_000, "listen": 1}));
    reached(&server, &running, &["running"]);
    eventually("it waits", || kinds(&events(&server, &running)).contains(&"waiting"));
    let waiting = run(&server, "wait", &json!({"ms": 1}));
    assert_eq!(json_of(&cancel(&server, &waiting)), json!({"job_uuid": waiting, "state": "canceled"}));
    assert_eq!(kinds(&events(&server, &waiting)), ["created", "canceled"]);
    assert_eq!(server.connect().request("DELETE", &format!("/jobs/{running}"), &[], b"").status, 409);
    assert_eq!(cancel(&server, &running).status, 200);
    eventually("the cancel callback was called", || server.get("/cancels").text() == "1");
    // It returns 0 with a result: too late.
    let after = run(&server, "quiet", &json!({}));
    assert_eq!(ended(&server, &after)["state"], "done");
    let seen = status(&server, &running);
    assert_eq!((&seen["state"], &seen["result"]), (&json!("canceled"), &Value::Null));
    assert_eq!(kinds(&events(&server, &running)), ["created", "started", "waiting", "canceled"]);
    // Again is no error; what has ended otherwise can't be canceled.
    assert_eq!(cancel(&server, &running).status, 200);
    let refused = cancel(&server, &after);
    assert!(refused.status == 409 && refused.text().contains("done already"), "{}", refused.text());
}

#[test]
fn a_job_that_takes_too_long_fails_and_frees_its_worker() {
    let server = with(&["--job-workers", "1"]);
    // A busy machine may need more than the five seconds that the module has to hear of the end.
    eventually("one that listens stops", || {
        let listening = run(&server, "brief", &json!({"ms": 600_000, "listen": 1}));
        let seen = ended(&server, &listening);
        assert_eq!(seen["state"], "failed", "{seen}");
        seen["error"] == "timed out after 40 ms"
    });
    eventually("the cancel callback was called", || server.get("/cancels").text() != "0");
    let next = run(&server, "quiet", &json!({}));
    assert_eq!(ended(&server, &next)["state"], "done");
    // One that does not listen is given up after a while; others run meanwhile.
    let deaf = run(&server, "brief", &json!({"ms": 600_000}));
    let seen = ended(&server, &deaf);
    assert_eq!(seen["error"], "timed out after 40 ms and did not stop");
    let next = run(&server, "quiet", &json!({}));
    assert_eq!(ended(&server, &next)["state"], "done");
}

#[test]
fn jobs_wait_for_their_time_their_priority_and_their_limits() {
    let server = with(&["--job-workers", "1"]);
    let blocker = run(&server, "wait", &json!({"ms": 600_000, "listen": 1}));
    reached(&server, &blocker, &["running"]);
    let record = |id: u32, priority: i32, run_at: u64| {
        let body = json!({"job": "record", "payload": {"id": id}, "priority": priority, "run_at": run_at});
        submit(&server, &body)
    };
    // The time of the first one, which would come before all others, does not come.
    record(5, 9, 99_999_999_999_999);
    let lowest = record(1, -1, 0);
    record(2, 5, 0);
    record(3, 5, 1);
    cancel(&server, &blocker);
    ended(&server, &lowest);
    let soon = now_ms() + 400;
    record(0, 0, soon);
    let last = record(4, -2, soon);
    ended(&server, &last);
    assert_eq!(server.get("/recorded").text(), "cdbae");
    assert!(now_ms() >= soon);
}

#[test]
fn concurrency_of_a_job_is_limited_and_modules_take_turns() {
    let server = with(&["--job-workers", "4"]);
    let jobs: Vec<String> = (0..4).map(|_| run(&server, "one_at_a_time", &json!({"ms": 30}))).collect();
    jobs.iter().for_each(|uuid| drop(ended(&server, uuid)));
    assert_eq!(server.get("/most").text(), "1");
    let jobs: Vec<String> = (0..4).map(|_| run(&server, "wait", &json!({"ms": 600_000, "listen": 1}))).collect();
    eventually("several run at once", || server.get("/most").text().parse::<u32>().unwrap() > 1);
    jobs.iter().for_each(|uuid| drop(cancel(&server, uuid)));
}

#[test]
fn a_unique_key_names_one_job() {
    let server = with(&[]);
    let body = json!({"module": "jobs", "job": "echo", "payload": 1, "unique_key": "k"});
    let first = submit(&server, &body);
    ended(&server, &first);
    let again = json_of(&try_submit(&server, &body));
    assert_eq!((&again["job_uuid"], &again["state"]), (&json!(first), &json!("done")));
    assert_eq!(json_of(&server.get("/jobs"))["jobs"].as_array().unwrap().len(), 1);
}

#[test]
fn modules_create_jobs_and_read_the_tables_but_do_not_write_them() {
    let server = with(&[]);
    let created = server.get("/create?job=echo&payload=%5B1%5D").text();
    let uuid = created.strip_prefix("0 ").expect(&created);
    assert_eq!(ended(&server, uuid)["result"], json!([1]));
    for bad in ["/create?job=none", "/create?job=echo&payload=%7B", "/create"] {
        assert_eq!(server.get(bad).text(), "-1 ", "{bad}");
    }
    // One job of four events: created, started, done, and none of its own.
    assert_eq!(server.get("/database").text(), "1 3 1 1");
    assert_eq!(server.get("/lock").text(), "1 0 1", "a module's lock does not hold up the jobs");
}

#[test]
fn a_websocket_replays_and_follows_without_gap_or_repeat() {
    let server = with(&["--shards", "2"]);
    let uuid = run(&server, "count", &json!({"n": 400, "delay_ms": 1}));
    // Subscribers come while it runs, on both shards, some from the middle on.
    let seen: Vec<Vec<Value>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|n| {
                let (server, uuid) = (&server, &uuid);
                scope.spawn(move || {
                    std::thread::sleep(Duration::from_millis(n * 60));
                    watch(server, &format!("/jobs/ws?id={uuid}"))
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let all = events(&server, &uuid);
    assert_eq!(all.len(), 403);
    for frames in &seen {
        assert_eq!(frames, &all);
    }
    let from = all[200]["event_id"].as_u64().unwrap();
    assert_eq!(watch(&server, &format!("/jobs/ws?id={uuid}&since_event_id={from}")), all[201..]);
    let end = all[402]["event_id"].as_u64().unwrap();
    assert_eq!(watch(&server, &format!("/jobs/ws?id={uuid}&since_event_id={end}")), [Value::Null; 0]);
    // The path of the other streams works, too.
    assert_eq!(watch(&server, &format!("/jobs/{uuid}/events")), all);
    assert_eq!(watch(&server, &format!("/jobs/{uuid}/events?since_event_id={from}")), all[201..]);
    let wrong = watch(&server, &format!("/jobs/ws?id={uuid}&since_event_id=x"));
    assert_eq!(wrong, [json!({"error": "since_event_id must be a whole number, 0 or more"})]);
    for target in ["/jobs/ws?id=0197a1b2-0000-7000-8000-000000000000", "/jobs/ws", "/jobs/ws?id=x"] {
        assert_eq!(watch(&server, target), [json!({"error": "there is no such job"})], "{target}");
    }
}

#[test]
fn server_sent_events_for_curl_and_browsers() {
    let server = with(&[]);
    let uuid = run(&server, "count", &json!({"n": 5, "delay_ms": 20}));
    let curl = |headers: &[&str], http: &str| -> String {
        let mut command = Command::new("curl");
        command.args(headers.iter().flat_map(|header| ["-H", header]));
        let url = format!("http://{}/jobs/{uuid}/events", server.addr);
        let output =
            command.args(["-sN", "-i", "--max-time", "120", http, &url]).stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let text = curl(&["Accept: text/event-stream"], "--http1.1");
    assert!(
        text.contains("Content-Type: text/event-stream\r\n") && text.contains("Transfer-Encoding: chunked"),
        "{text}"
    );
    let all = events(&server, &uuid);
    let expected: String = all.iter().map(|event| format!("id: {}\n", event["event_id"])).collect();
    let ids: String = text.lines().filter(|line| line.starts_with("id: ")).map(|line| format!("{line}\n")).collect();
    assert_eq!(ids, expected);
    let data: Vec<Value> = text
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|data| serde_json::from_str(data).unwrap())
        .collect();
    assert_eq!(data, all);
    let resume = format!("Last-Event-ID: {}", all[5]["event_id"]);
    let text = curl(&["Accept: text/event-stream", &resume], "--http1.0");
    assert!(!text.contains("chunked") && text.matches("data: ").count() == 2, "{text}");
    let unknown = server.connect().request(
        "GET",
        "/jobs/0197a1b2-0000-7000-8000-000000000000/events",
        &[("Accept", "text/event-stream")],
        b"",
    );
    assert!(unknown.status == 404 && unknown.text().contains("no such job"), "{}", unknown.text());
}

#[test]
fn a_replay_that_leaves_at_once_goes_on() {
    let server = with(&[]);
    // A step of the replay is more than may be unsent, and a reader that is fast enough takes it in one send.
    let uuid = run(&server, "count", &json!({"n": 1000, "pad": 1900}));
    assert_eq!(ended(&server, &uuid)["state"], "done");
    let frames = watch(&server, &format!("/jobs/ws?id={uuid}"));
    assert_eq!(frames.len(), 1003);
    assert_eq!(frames[1001]["data"]["n"], json!(1000));
}

#[test]
fn a_slow_reader_gets_everything_and_holds_up_nobody() {
    // On a busy machine the job takes longer than a client may read nothing and answer no ping.
    let server = with(&["--job-workers", "2", "--write-timeout-ms", "600000", "--ws-pong-timeout-ms", "600000"]);
    let uuid = run(&server, "count", &json!({"n": 5000, "pad": 1600}));
    let mut slow = server.websocket(&format!("/jobs/ws?id={uuid}"));
    slow.read().unwrap();
    let mut slow_feed = server.websocket("/jobs/events?cursor=start");
    let first = slow_feed.read().unwrap().into_text().unwrap();
    // The job ends although nobody reads.
    eventually("the job ends", || status(&server, &uuid)["state"] == "done");
    let mut last = 1;
    let mut steps = 0;
    let end = loop {
        match slow.read() {
            Ok(Message::Text(text)) => {
                let event: Value = serde_json::from_str(&text).unwrap();
                if event["type"] == "step" {
                    steps += 1;
                    assert_eq!(event["data"]["n"], json!(steps));
                }
                last = event["event_id"].as_u64().unwrap();
            }
            Ok(Message::Close(frame)) => break format!("{frame:?}"),
            Ok(_) => {}
            Err(error) => break error.to_string(),
        }
    };
    assert_eq!((steps, last > 5000), (5000, true), "{end}\n{}", server.log());
    assert!(server.memory_kib("VmRSS") < 300 * 1024, "{}", server.memory_kib("VmRSS"));
    // A feed that begins before the first event begins with its cursor alone.
    let is_event = |text: &str| text.contains("\"type\":\"");
    let mut count = usize::from(is_event(&first));
    loop {
        match slow_feed.read().unwrap() {
            Message::Text(text) => {
                count += usize::from(is_event(&text));
                if text.contains("\"type\":\"done\"") {
                    break;
                }
            }
            Message::Close(frame) => panic!("it is closed after {count} messages: {frame:?}"),
            // Pings come while nobody reads.
            _ => {}
        }
    }
    assert_eq!(count, 5_003, "all events");
}

#[test]
fn a_watcher_that_leaves_harms_nobody() {
    let server = with(&[]);
    let uuid = run(&server, "count", &json!({"n": 200, "delay_ms": 2}));
    for n in 0..20 {
        let mut socket = server.websocket(&format!("/jobs/ws?id={uuid}"));
        if n % 2 == 0 {
            socket.read().unwrap();
        }
        drop(socket);
    }
    assert_eq!(watch(&server, &format!("/jobs/ws?id={uuid}")).len(), 203);
}

#[test]
fn jobs_run_on_the_version_they_were_accepted_with() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let mut server = Server::on(&dir, &["--job-workers", "1"], &[]);
    server.deploy(&source("1"));
    let blocker = run(&server, "wait", &json!({"ms": 600_000, "listen": 1}));
    reached(&server, &blocker, &["running"]);
    let old = run(&server, "count", &json!({"n": 1}));
    let later_at = now_ms() + 3_000;
    let later = submit(&server, &json!({"job": "count", "payload": {"n": 1}, "run_at": later_at}));
    server.deploy(&source("2"));
    let new = run(&server, "count", &json!({"n": 1}));
    let hash = |uuid: &str| status(&server, uuid)["module_hash"].as_str().unwrap().to_owned();
    assert!(hash(&old) == hash(&blocker) && hash(&old) != hash(&new));
    cancel(&server, &blocker);
    assert_eq!(ended(&server, &old)["result"]["version"], "1");
    assert_eq!(ended(&server, &new)["result"]["version"], "2");
    // After a restart the old version is loaded again for the job that needs it, and goes when it is done.
    server.terminate();
    let server = Server::on(&dir, &["--job-workers", "1"], &[]);
    let mapped = server.mapped_modules();
    assert!(mapped.len() == 1 || now_ms() >= later_at, "before its time it needs no version: {mapped:?}");
    assert_eq!(ended(&server, &later)["result"]["version"], "1");
    eventually("the old version is closed", || server.mapped_modules().len() == 1);
    assert_eq!(server.get("/recorded").status, 200);
}

#[test]
fn a_restart_takes_up_what_had_not_ended() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let start = || Server::on(&dir, &["--job-workers", "2", "-F"], &[]);
    let mut server = start();
    server.deploy(&source("1"));
    let once = run(&server, "wait", &json!({"ms": 600_000}));
    let held = json!({"calls": "", "hold": 1, "return": 0});
    let twice = submit(&server, &json!({"job": "decide", "payload": held, "max_attempts": 2}));
    reached(&server, &once, &["running"]);
    reached(&server, &twice, &["running"]);
    let pending = run(&server, "echo", &json!(1));
    server.terminate();
    let server = start();
    let seen = ended(&server, &once);
    assert_eq!((&seen["state"], &seen["error"]), (&json!("failed"), &json!("server restarted")));
    assert_eq!(ended(&server, &pending)["state"], "done");
    assert_eq!(server.get("/release").text(), "ok");
    assert_eq!(ended(&server, &twice)["state"], "done");
    assert_eq!(kinds(&events(&server, &twice)), ["created", "started", "retrying", "started", "after", "done"]);
}

#[test]
fn the_stop_lets_running_jobs_end() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let mut server = Server::on(&dir, &["--shutdown-timeout-ms", "600000"], &[]);
    server.deploy(&source("1"));
    let uuid = run(&server, "wait", &json!({"ms": 800}));
    reached(&server, &uuid, &["running"]);
    server.terminate();
    let server = Server::on(&dir, &[], &[]);
    assert_eq!(status(&server, &uuid)["state"], "done");
}

#[test]
fn finished_jobs_go_after_their_time() {
    let server = with(&["--job-retention", "1s"]);
    let uuid = run(&server, "quiet", &json!({}));
    ended(&server, &uuid);
    std::thread::sleep(Duration::from_millis(1100));
    // The sweep comes by the minute; a restart sweeps at once.
    let dir = Arc::clone(&server.dir);
    server.stop();
    let server = Server::on(&dir, &["--job-retention", "1s"], &[]);
    eventually("it is gone", || server.get(&format!("/jobs/{uuid}")).status == 404);
}

#[test]
fn the_admin_key_guards_jobs_and_their_streams() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let server = Server::on(&dir, &["--production"], &[("CWEB_ADMIN_KEY", "secret-of-16-bytes")]);
    let request = |method: &str, target: &str, headers: &[(&str, &str)]| {
        server.connect().request(method, target, headers, b"").status
    };
    let uuid = "/jobs/0197a1b2-0000-7000-8000-000000000000";
    let upgrade = [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    assert_eq!(request("GET", "/jobs", &[]), 401);
    assert_eq!(request("POST", "/jobs", &[("X-API-Key", "wrong")]), 401);
    assert_eq!(request("GET", "/jobs/ws", &upgrade), 401);
    assert_eq!(request("GET", "/jobs/events", &upgrade), 401);
    assert_eq!(request("GET", &format!("{uuid}/events"), &upgrade), 401);
    assert_eq!(request("GET", &format!("{uuid}/events"), &[("Accept", "text/event-stream")]), 401);
    assert_eq!(request("GET", "/jobs", &[("Authorization", "Bearer secret-of-16-bytes")]), 200);
    assert_eq!(request("GET", uuid, &[("X-API-Key", "secret-of-16-bytes")]), 404);
}

#[test]
fn many_submitters_get_as_many_jobs() {
    let server = with(&[]);
    let uuids: BTreeSet<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..16)
            .map(|_| {
                scope.spawn(|| {
                    let mut client = server.connect();
                    let body = br#"{"module":"jobs","job":"quiet"}"#;
                    (0..50)
                        .map(|_| {
                            let accepted = json_of(&client.request("POST", "/jobs", &[], body));
                            accepted["job_uuid"].as_str().unwrap().to_owned()
                        })
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(uuids.len(), 800);
    eventually("all are done", || {
        json_of(&server.get("/jobs?state=done&limit=1000"))["jobs"].as_array().unwrap().len() == 800
    });
}

#[test]
fn an_onload_creates_jobs_also_at_the_start_of_the_server() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let code = "static int made = -9;
        static void load(struct cweb_context *c) { (void)c; cweb_uuid_t uuid; made = jobs_create(\"hello\", \"{}\", &uuid); }
        static int run(struct cweb_context *c, const job_payload_t *p, job_ctx_t *j) { (void)c; (void)p; return j->set_result(j, \"1\"); }
        static int h(struct cweb_context *c, http_request_t *q, http_response_t *r) { (void)c; (void)q; snprintf(r->body, HTTP_RESPONSE_SIZE, \"%d\", made); return 0; }";
    let fields = ".jobs = {{\"hello\", run, NULL}}, .job_size = 1, .onload = load,";
    let source = support::module("greeter", code, "{\"/made\", \"GET\", h, NONE}", 1, fields);
    for round in 1..=3 {
        let server = Server::on(&dir, &[], &[]);
        if round == 1 {
            server.deploy(&source);
        }
        assert_eq!(server.get("/made").text(), "0");
        eventually("all are done", || {
            let listed = json_of(&server.get("/jobs?state=done"));
            listed["jobs"].as_array().unwrap().len() == round
        });
        server.stop();
    }
}
