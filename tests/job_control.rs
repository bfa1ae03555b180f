//! Jobs that are steered from outside: retried by request, many at once, on a schedule.

use crate::support::{self, Response, Server, eventually};
use serde_json::{Value, json};
use tungstenite::Message;

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
    let dead = |query: &str| get(&server, &format!("/jobs?state=failed&retryable=1{query}"));
    // A job has failed a moment before its run has returned.
    eventually("it can be retried", || uuids(&dead("")).contains(&flaky.as_str()));
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
    assert!(words(&retry(&flaky)).starts_with("409 the job is done: submit a new job"), "{:?}", retry(&flaky));

    // A retry of a waiting job is refused; after a cancellation the job runs, on the version that is served by then.
    let later = submit(&server, &json!({"job": "count", "payload": {"n": 1}, "run_at": FAR}));
    assert!(words(&retry(&later)).starts_with("409 the job is pending: "), "{:?}", retry(&later));
    assert_eq!(cancel(&later).0, 200);
    server.deploy(&source("2"));
    let accepted = retry(&later);
    assert_eq!(accepted.0, 200, "{accepted:?}");
    let done = reached(&server, &later, "done");
    assert_eq!((&done["result"]["version"], &done["module_hash"]), (&json!("2"), &accepted.1["module_hash"]));
    assert_eq!(kinds(&server, &later), ["created", "canceled", "retrying", "started", "step", "done"]);

    // A retry is refused while the last run goes on: of a canceled job, and of a job that has set its result.
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
    eventually("it can be retried", || uuids(&dead("")).contains(&crashed.as_str()));
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
    // A job has failed a moment before its run has returned.
    let dead = || uuids(&get(&server, "/jobs?state=failed&retryable=1")).len();
    eventually("all can be retried", || dead() == 3);
    for act in ["retry", "cancel"] {
        let said = words(&post(&server, &format!("/jobs/{act}?limit=3")));
        assert!(said.starts_with("400 name the jobs"), "{said}");
        // A slip in a filter would have the others' jobs changed, too.
        let said = words(&post(&server, &format!("/jobs/{act}?state=pending&modul=jobs")));
        assert!(said.starts_with("400 there is no parameter \"modul\" here; there are: state, module"), "{said}");
        assert_eq!(server.get(&format!("/jobs/{act}")).status, 405);
    }
    // Two jobs, then the last; `next` of the page says where it ended.
    let (status, page) = post(&server, "/jobs/retry?module=jobs&job=fail&limit=2");
    assert_eq!((status, &page["retried"], &page["next"]), (200, &json!(2), &json!(failed[1])), "{page}");
    let (_, page) = post(&server, &format!("/jobs/retry?module=jobs&job=fail&limit=2&before={}", failed[1]));
    assert_eq!((&page["retried"], &page["skipped"], &page["next"]), (&json!(1), &json!([]), &Value::Null), "{page}");
    for uuid in &failed {
        eventually("the second run", || kinds(&server, uuid).iter().filter(|kind| *kind == "failed").count() == 2);
    }
    // Without `state`, the pending jobs are canceled and the ended ones left alone.
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

/// A module whose job `tick` gives its payload back, and whose job `hold` waits for /go. Its config has `fields` in `tick`.
fn ticking(name: &str, fields: &str) -> String {
    format!(
        "#include <cweb.h>\n#include <stdatomic.h>\n#include <unistd.h>\n\
         static atomic_int going;\n\
         static int tick(struct cweb_context *c, const job_payload_t *p, job_ctx_t *job) {{\n\
             (void)c; return job->set_result(job, p->json); }}\n\
         static int hold(struct cweb_context *c, const job_payload_t *p, job_ctx_t *job) {{\n\
             (void)c; (void)p; while (!atomic_load(&going) && !job->is_canceled(job)) usleep(1000); return 0; }}\n\
         static int go(struct cweb_context *c, http_request_t *q, http_response_t *r) {{\n\
             (void)c; (void)q; (void)r; atomic_store(&going, 1); return 0; }}\n\
         export module_t config = {{.name = \"{name}\", .author = \"test\", .routes = {{{{\"/{name}/go\", \"GET\", go, NONE}}}},\n\
             .size = 1, .jobs = {{{{.name = \"tick\", .run = tick{fields}}}, {{.name = \"hold\", .run = hold}}}}, .job_size = 2}};\n"
    )
}

fn schedule(server: &Server, name: &str) -> Option<Value> {
    let all = get(server, "/jobs/schedules");
    all["schedules"].as_array().unwrap().iter().find(|one| one["name"] == name).cloned()
}

fn put(server: &Server, name: &str, body: &Value) -> (u16, Value) {
    ask(server, "PUT", &format!("/jobs/schedules/{name}"), body)
}

/// The slots of the schedule's jobs, the newest first.
fn slots(server: &Server, name: &str) -> Vec<u64> {
    let list = get(server, "/jobs?limit=1000");
    let of = list["jobs"].as_array().unwrap().iter().filter(|job| job["schedule"]["name"] == name);
    of.map(|job| job["schedule"]["slot"].as_u64().unwrap()).collect()
}

#[test]
fn a_module_declares_when_its_jobs_run_and_the_next_version_changes_it() {
    let server = Server::start();
    for (fields, words) in [
        (", .schedule = \"61 * * * *\"", "jobs[0] (tick).schedule: the cron text \"61 * * * *\""),
        (", .schedule = \"@daily\", .timezone = \"Europe/Atlantis\"", "no time zone \"Europe/Atlantis\""),
        (", .timezone = \"UTC\"", "has a timezone and no schedule"),
        (", .schedule_payload = \"1\"", "has a schedule_payload and no schedule"),
        (", .schedule_overlap = 1", "has a schedule_overlap and no schedule"),
        (", .schedule = \"@daily\", .schedule_payload = \"{\"", "jobs[0] (tick).schedule_payload is not JSON"),
    ] {
        let refused = server.try_deploy(&ticking("m", fields));
        assert!(refused.status == 422 && refused.text().contains(words), "{} {}", refused.status, refused.text());
    }
    let payload = ".schedule_payload = \"{\\\"n\\\":7}\", .schedule_overlap = 1";
    server.deploy(&ticking("m", &format!(", .schedule = \"* * * * * *\", {payload}")));
    eventually("three slots", || slots(&server, "m/tick").len() >= 3);
    let shown = schedule(&server, "m/tick").unwrap();
    assert_eq!((&shown["module"], &shown["job"], &shown["timezone"]), (&json!("m"), &json!("tick"), &json!("UTC")));
    assert_eq!(
        (&shown["declared"], &shown["payload"], &shown["overlap"]),
        (&json!(true), &json!({"n": 7}), &json!(true))
    );
    let mut first = Value::Null;
    eventually("one is done", || {
        first = get(&server, "/jobs?state=done&limit=1")["jobs"][0].clone();
        !first.is_null()
    });
    assert_eq!((&first["schedule"]["name"], &first["result"]), (&json!("m/tick"), &json!({"n": 7})));
    let seen = slots(&server, "m/tick");
    assert!(seen.is_sorted_by(|newer, older| newer > older), "{seen:?}");
    assert!(seen.iter().all(|slot| slot % 1000 == 0), "{seen:?}");
    // A client can't change a declared schedule.
    let refused = ask(&server, "DELETE", "/jobs/schedules/m/tick", &Value::Null);
    assert!(words(&refused).starts_with("409 the schedule is declared by its module"), "{refused:?}");
    assert_eq!(put(&server, "m/tick", &json!({"job": "tick", "cron": "@daily"})).0, 400);
    // A new cron text, in another time zone.
    server.deploy(&ticking("m", ", .schedule = \"0 3 * * *\", .timezone = \"Asia/Tokyo\""));
    eventually("the new times", || schedule(&server, "m/tick").unwrap()["cron"] == "0 3 * * *");
    let shown = schedule(&server, "m/tick").unwrap();
    assert_eq!(shown["next_at"].as_u64().unwrap() % 86_400_000, 18 * 3_600_000, "{shown}");
    assert_eq!((&shown["payload"], &shown["overlap"]), (&json!({}), &json!(false)));
    let count = slots(&server, "m/tick").len();
    assert_eq!(json!(count), shown["runs"], "no slot was lost or doubled: {shown}");
    // A version without the schedule ends it.
    server.deploy(&ticking("m", ""));
    eventually("the end of the schedule", || schedule(&server, "m/tick").is_none());
    assert_eq!(ask(&server, "DELETE", "/jobs/schedules/m/tick", &Value::Null).0, 404);
}

#[test]
fn a_project_file_declares_schedules_and_is_refused_with_the_line() {
    let server = Server::start();
    let work = tempfile::tempdir().unwrap();
    std::fs::write(work.path().join("m.c"), ticking("m", "")).unwrap();
    let url = format!("http://{}", server.addr);
    let deploy = |toml: &str| {
        std::fs::write(work.path().join("module.toml"), toml).unwrap();
        support::cweb(&["deploy", "--server", &url, "."], work.path(), &[])
    };
    let head = "name = \"m\"\n\n[[schedules]]\n";
    for (rest, words) in [
        ("job = \"tick\"\ncron = \"0 25 * * *\"\n", "module.toml:5: schedules: cron: the cron text \"0 25 * * *\""),
        ("job = \"tock\"\ncron = \"@daily\"\n", "module.toml:4: schedules: job: the module has no job \"tock\""),
        ("job = \"tick\"\ncron = \"@daily\"\ntimezone = \"Mars\"\n", "module.toml:6: schedules: timezone:"),
        ("job = \"tick\"\ncron = \"@daily\"\nname = \"a/b\"\n", "module.toml:6: schedules: name:"),
        ("job = \"tick\"\ncron = \"@daily\"\nzone = \"UTC\"\n", "unknown field `zone`"),
        ("job = \"tick\"\ncron = \"@daily\"\n[[schedules]]\njob = \"tick\"\ncron = \"@daily\"\n", "called \"m/tick\""),
    ] {
        let (is_done, said) = deploy(&format!("{head}{rest}"));
        assert!(!is_done && said.contains(words), "{said}");
    }
    let (is_done, said) = deploy(&format!(
        "{head}job = \"tick\"\ncron = \"* * * * * *\"\ntimezone = \"Europe/Berlin\"\npayload = {{ bucket = \"x\", n = [1, 2.5] }}\n\
         [[schedules]]\njob = \"tick\"\nname = \"yearly\"\ncron = \"@yearly\"\noverlap = true\n"
    ));
    assert!(is_done, "{said}");
    eventually("a slot", || !slots(&server, "m/tick").is_empty());
    let job = get(&server, "/jobs?limit=1")["jobs"][0]["job_uuid"].as_str().unwrap().to_owned();
    assert_eq!(reached(&server, &job, "done")["result"], json!({"bucket": "x", "n": [1, 2.5]}));
    assert_eq!(schedule(&server, "m/yearly").unwrap()["overlap"], json!(true));
    // Schedules end with their module, including those that clients have made.
    assert_eq!(put(&server, "mine", &json!({"job": "tick", "cron": "@yearly"})).0, 200);
    assert_eq!(server.connect().request("DELETE", "/mgnt/m", &[], b"").status, 200);
    eventually("no schedules", || get(&server, "/jobs/schedules")["schedules"] == json!([]));
}

#[test]
fn clients_make_change_and_end_schedules_that_do_not_overlap_unless_asked() {
    let server = Server::start();
    server.deploy(&ticking("m", ""));
    let nightly = json!({"job": "tick", "cron": "30 3 * * *", "timezone": "UTC", "payload": {"a" : 1}});
    let (status, made) = put(&server, "nightly", &nightly);
    assert_eq!((status, &made["module"], &made["payload"]), (200, &json!("m"), &json!({"a": 1})), "{made}");
    assert_eq!(made["next_at"].as_u64().unwrap() % 86_400_000, 12_600_000);
    assert_eq!((schedule(&server, "nightly"), get(&server, "/jobs/schedules/nightly")), (Some(made.clone()), made));
    let changed = put(&server, "nightly", &json!({"job": "tick", "cron": "@yearly", "module": "m"})).1;
    assert_eq!((&changed["cron"], &changed["payload"]), (&json!("@yearly"), &json!({})));
    for (name, body, expected) in [
        ("x", json!({"job": "tick"}), "400 the body can't be read: missing field `cron`"),
        (
            "x",
            json!({"job": "tick", "cron": "@daily", "zone": "UTC"}),
            "400 the body can't be read: unknown field `zone`",
        ),
        ("x", json!({"job": "tick", "cron": "* * *"}), "400 the cron text \"* * *\" can't be used: it has 3 fields"),
        ("x", json!({"job": "tock", "cron": "@daily"}), "404 no module has a job named tock"),
        ("x%20y", json!({"job": "tick", "cron": "@daily"}), "400 a schedule's name"),
    ] {
        let refused = words(&put(&server, name, &body));
        assert!(refused.starts_with(expected), "{refused}");
    }
    let end = |name: &str| ask(&server, "DELETE", &format!("/jobs/schedules/{name}"), &Value::Null);
    assert_eq!(end("nightly"), (200, json!({"name": "nightly", "deleted": true})));
    assert_eq!(words(&end("nightly")), "404 there is no such schedule");
    assert_eq!(server.get("/jobs/schedules/nightly").status, 404);
    assert_eq!(server.post("/jobs/schedules", b"").status, 405);

    // The second slot finds the first job at work, and is skipped; with overlap there are two.
    let each_second = |overlap: bool| json!({"job": "hold", "cron": "* * * * * *", "overlap": overlap});
    put(&server, "held", &each_second(false));
    eventually("a skipped slot", || schedule(&server, "held").unwrap()["skipped"].as_u64().unwrap() >= 1);
    assert_eq!(schedule(&server, "held").unwrap()["runs"], json!(1));
    put(&server, "held", &each_second(true));
    eventually("a second job", || schedule(&server, "held").unwrap()["runs"].as_u64().unwrap() >= 2);
    server.get("/m/go");
    assert_eq!(end("held").0, 200);

    // `cweb jobs schedules`
    let url = format!("http://{}", server.addr);
    let cweb = |args: &[&str]| {
        support::cweb(&[&["jobs", "schedules", "--server", &url], args].concat(), server.dir.path(), &[])
    };
    let (is_done, said) = cweb(&["set", "weekly", "0 0 * * SUN", "tick", "{\"b\":2}", "--timezone", "Europe/Berlin"]);
    assert!(is_done && said.starts_with("weekly runs m/tick next "), "{said}");
    let (_, said) = cweb(&[]);
    assert!(said.contains("weekly  m/tick  0 0 * * SUN  Europe/Berlin  in "), "{said}");
    assert!(cweb(&["--json"]).1.contains("\"payload\":{\"b\":2}"));
    assert!(cweb(&["--module", "m"]).1.contains("weekly  m/tick") && cweb(&["--module", "n"]).1 == "no schedules\n");
    assert_eq!(cweb(&["remove", "weekly"]), (true, "removed weekly\n".to_owned()));
    let (is_done, said) = cweb(&["set", "x", "* *", "tick"]);
    assert!(!is_done && said.contains("it has 2 fields"), "{said}");
}

/// The server's database of jobs, while no server has it.
fn database(dir: &std::path::Path) -> rusqlite::Connection {
    rusqlite::Connection::open(dir.join("jobs.sqlite3")).unwrap()
}

#[test]
fn kills_lose_no_slot_and_double_none_and_what_was_missed_runs_once() {
    let dir = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let start = || Server::on(&dir, &[], &[]);
    let mut server = start();
    server.deploy(&ticking("m", ", .schedule = \"* * * * * *\""));
    put(&server, "yearly", &json!({"job": "tick", "cron": "@yearly"}));
    let rounds = std::env::var("CWEB_SCHEDULE_ROUNDS").map_or(4, |rounds| rounds.parse().unwrap());
    for _ in 0..rounds {
        let before = slots(&server, "m/tick").len();
        eventually("a slot", || slots(&server, "m/tick").len() > before);
        drop(server); // kill -9
        let check = database(dir.path());
        let count = |sql: &str| check.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
        let runs = count("SELECT runs FROM schedules WHERE name = 'm/tick'");
        assert_eq!(count("SELECT count(*) FROM jobs WHERE schedule_name = 'm/tick'"), runs, "job and mark are one");
        assert_eq!(count("SELECT count(DISTINCT slot_at) FROM jobs WHERE schedule_name = 'm/tick'"), runs);
        drop(check);
        server = start();
    }
    // Years pass without a server: one run, and the next slot is to come. (A job that waits still is the run.)
    drop(server);
    let missed = 1_600_000_000_000_i64;
    database(dir.path()).execute("DELETE FROM jobs WHERE state IN ('pending', 'running')", []).unwrap();
    database(dir.path()).execute("UPDATE schedules SET next_at = ?1", [missed]).unwrap();
    let server = start();
    for name in ["m/tick", "yearly"] {
        eventually("the missed run", || slots(&server, name).contains(&1_600_000_000_000));
    }
    eventually("further slots", || slots(&server, "m/tick").first() > Some(&1_700_000_000_000));
    assert_eq!(slots(&server, "yearly"), [1_600_000_000_000]);
    let yearly = schedule(&server, "yearly").unwrap();
    assert!(yearly["next_at"].as_i64().unwrap() > 1_700_000_000_000, "{yearly}");
    // The clock is set back, or the schedule made anew: a used slot is not used again.
    drop(server);
    database(dir.path()).execute("UPDATE schedules SET next_at = ?1 WHERE name = 'yearly'", [missed]).unwrap();
    let server = start();
    eventually("the slot is passed by", || {
        let yearly = schedule(&server, "yearly").unwrap();
        yearly["next_at"].as_i64().unwrap() > 1_700_000_000_000
    });
    assert_eq!(slots(&server, "yearly"), [1_600_000_000_000]);

    // A module that can't be loaded keeps its schedules, which wait.
    drop(server);
    let record = std::fs::read_dir(dir.path().join("modules")).unwrap().map(|entry| entry.unwrap().path());
    let record = record.into_iter().find(|path| path.extension().is_some_and(|kind| kind == "json")).unwrap();
    let (text, broken) = (std::fs::read_to_string(&record).unwrap(), dir.path().join("aside"));
    std::fs::rename(&record, &broken).unwrap();
    std::fs::write(&record, "{").unwrap();
    let server = start();
    eventually("the reason", || {
        schedule(&server, "m/tick").unwrap()["waits"].as_str().is_some_and(|why| why.contains("no module named m"))
    });
    drop(server);
    std::fs::write(&record, text).unwrap();
    let server = start();
    let before = slots(&server, "m/tick").len();
    eventually("it goes on", || slots(&server, "m/tick").len() > before);
}

#[test]
fn a_job_waits_for_those_it_depends_on_and_fails_with_them() {
    let dir = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let server = Server::on(&dir, &["--job-workers", "4"], &[]);
    server.deploy(&ticking("m", ""));
    let of = |server: &Server, job: &str, needs: &[&String], run_at: u64| {
        submit(server, &json!({"job": job, "depends_on": needs, "run_at": run_at, "payload": {"n": needs.len()}}))
    };
    // Two jobs run, one is done, one waits for its time, and one depends on all of them.
    let done = of(&server, "tick", &[], 0);
    reached(&server, &done, "done");
    let (one, two, three) = (of(&server, "hold", &[], 0), of(&server, "hold", &[], 0), of(&server, "tick", &[], FAR));
    let all = of(&server, "tick", &[&done, &one, &two, &two, &three], 0);
    let after = of(&server, "tick", &[&all], 0);
    for uuid in [&one, &two] {
        reached(&server, uuid, "running");
    }
    let waiting = get(&server, &format!("/jobs/{all}"));
    let needs: Vec<&str> =
        waiting["depends_on"].as_array().unwrap().iter().map(|uuid| uuid.as_str().unwrap()).collect();
    assert_eq!((&waiting["state"], needs.len()), (&json!("pending"), 3), "{waiting}");
    for (needs, words) in [
        (json!(["0197a1b2-0000-7000-8000-000000000000"]), "409 there is no job 0197a1b2"),
        (json!("x"), "400 \"depends_on\" must be an array of at most 64 UUIDs"),
    ] {
        let refused = ask(&server, "POST", "/jobs", &json!({"job": "tick", "depends_on": needs}));
        let said = format!("{} {}", refused.0, refused.1["error"].as_str().unwrap());
        assert!(said.starts_with(words), "{said}");
    }
    // The server is killed: the two running jobs fail, and then the jobs that wait for them, one after the other.
    drop(server);
    let server = Server::on(&dir, &["--job-workers", "4"], &[]);
    for uuid in [&one, &two] {
        reached(&server, uuid, "failed");
    }
    let failed = reached(&server, &all, "failed");
    assert!(failed["error"].as_str().unwrap().ends_with(", which this one depends on, has failed"), "{failed}");
    let chained = reached(&server, &after, "failed");
    assert_eq!(chained["error"], json!(format!("job {all}, which this one depends on, has failed")));
    assert_eq!(kinds(&server, &after), ["created", "failed"]);
    let refused = ask(&server, "POST", "/jobs", &json!({"job": "tick", "depends_on": [all]}));
    assert!(words(&refused).contains("names, is failed already"), "{refused:?}");

    // Retried from the bottom, they wait again; the last one ends the wait.
    let retry = |uuid: &str| post(&server, &format!("/jobs/{uuid}/retry"));
    assert!(words(&retry(&all)).starts_with("409 a job that this one depends on has failed"), "{:?}", retry(&all));
    for uuid in [&one, &two, &all, &after] {
        let accepted = retry(uuid);
        assert_eq!(accepted.0, 200, "{accepted:?}");
    }
    reached(&server, &two, "running");
    server.get("/m/go");
    reached(&server, &two, "done");
    reached(&server, &one, "done");
    eventually("one is left", || get(&server, &format!("/jobs/{all}"))["depends_on"] == json!([three]));
    // A cancellation is an end like a failure.
    let canceled = of(&server, "tick", &[&after], 0);
    assert_eq!(post(&server, &format!("/jobs/{three}/cancel")).0, 200);
    let why = reached(&server, &all, "failed");
    assert_eq!(why["error"], json!(format!("job {three}, which this one depends on, is canceled")));
    reached(&server, &canceled, "failed");
    for uuid in [&three, &all, &after, &canceled] {
        let accepted = retry(uuid);
        assert_eq!(accepted.0, 200, "{accepted:?}");
    }
    assert_eq!(reached(&server, &canceled, "done")["depends_on"], json!([]));
    assert_eq!(reached(&server, &all, "done")["result"], json!({"n": 5}));
}

#[test]
fn a_paused_kind_of_job_waits_over_restarts_until_it_is_resumed() {
    let dir = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let server = Server::on(&dir, &[], &[]);
    server.deploy(&ticking("m", ""));
    let act = |server: &Server, path: &str| post(server, &format!("/jobs/kinds/{path}"));
    assert_eq!(act(&server, "m/tick/pause"), (200, json!({"module": "m", "job": "tick", "paused": true})));
    assert_eq!(act(&server, "m/tick/pause").0, 200, "again is no error");
    assert_eq!(words(&act(&server, "m/tock/pause")), "404 module m has no job named tock");
    assert_eq!(server.get("/jobs/kinds/m/tick/pause").status, 405);
    let (one, two) = (submit(&server, &json!({"job": "tick"})), submit(&server, &json!({"job": "tick"})));
    let held = submit(&server, &json!({"job": "hold"}));
    reached(&server, &held, "running");
    let tick = json!({"module": "m", "job": "tick", "pending": 2, "running": 0, "paused": true});
    let hold = json!({"module": "m", "job": "hold", "pending": 0, "running": 1, "paused": false});
    assert_eq!(get(&server, "/jobs/kinds")["kinds"], json!([hold, tick]));
    assert!(server.get("/metrics").text().contains("\ncweb_job_kinds_paused 1\n"));
    assert_eq!(post(&server, &format!("/jobs/{two}/cancel")).0, 200);
    drop(server);
    let server = Server::on(&dir, &[], &[]);
    reached(&server, &held, "failed");
    assert_eq!(get(&server, "/jobs/kinds")["kinds"][0]["pending"], json!(1));
    assert_eq!(get(&server, &format!("/jobs/{one}"))["state"], json!("pending"));
    let url = format!("http://{}", server.addr);
    let cweb = |args: &[&str]| support::cweb(&[&["jobs", "--server", &url], args].concat(), dir.path(), &[]);
    for args in [&["kinds"][..], &["kinds", "--module", "m"]] {
        assert_eq!(cweb(args).1, "JOB     PENDING  RUNNING  STATE\nm/tick  1        0        paused\n");
    }
    assert_eq!(cweb(&["kinds", "--module", "other/x"]).1, "JOB  PENDING  RUNNING  STATE\n");
    assert_eq!(cweb(&["resume", "m/tick"]), (true, "resumed m/tick\n".to_owned()));
    reached(&server, &one, "done");
    eventually("no job is left", || get(&server, "/jobs/kinds")["kinds"] == json!([]));
    assert!(cweb(&["pause", "tick"]).1.contains("write MODULE/JOB"));
}

/// Reads a stream of server-sent events until `count` have come: their ids and their data.
fn followed(
    server: &Server,
    query: &str,
    resume: Option<&str>,
    count: usize,
    mut act: impl FnMut(),
) -> Vec<(String, Value)> {
    use std::io::{BufRead, BufReader, Write};
    let mut stream = std::net::TcpStream::connect(&server.addr).unwrap();
    stream.set_read_timeout(Some(support::PATIENCE)).unwrap();
    let resume = resume.map(|id| format!("Last-Event-ID: {id}\r\n")).unwrap_or_default();
    let head = format!("GET /jobs/events?{query} HTTP/1.0\r\nAccept: text/event-stream\r\n{resume}\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let (mut id, mut found, mut line, mut is_told) = (String::new(), Vec::new(), String::new(), false);
    let mut reader = BufReader::new(stream);
    while found.len() < count {
        line.clear();
        assert!(reader.read_line(&mut line).unwrap() > 0, "the stream ended: {found:?}");
        if let Some(text) = line.strip_prefix("id: ") {
            id = text.trim().to_owned();
            if !std::mem::replace(&mut is_told, true) {
                act();
            }
        } else if let Some(text) = line.strip_prefix("data: ") {
            found.push((id.clone(), serde_json::from_str(text).unwrap()));
        }
    }
    found
}

/// Reads the events that come by WebSocket until `count` have come. `act` is called once the server has told the first cursor.
fn received(server: &Server, query: &str, count: usize, mut act: impl FnMut()) -> Vec<Value> {
    let mut socket = server.websocket(&format!("/jobs/events?{query}"));
    let (mut found, mut is_told) = (Vec::new(), false);
    while found.len() < count {
        let Message::Text(text) = socket.read().unwrap() else { continue };
        let message: Value = serde_json::from_str(&text).unwrap();
        assert!(message["cursor"].as_str().unwrap().starts_with("c1-"), "{message}");
        if !std::mem::replace(&mut is_told, true) {
            act();
        }
        found.extend(Some(message).filter(|message| message.get("type").is_some()));
    }
    found
}

/// The events of many jobs by WebSocket are those that server-sent events have given, `all` of them, with their ids.
fn follow_by_websocket(server: &Server, all: &[(String, Value)]) {
    let events = |from: &[(String, Value)]| from.iter().map(|(_, event)| event.clone()).collect::<Vec<_>>();
    let sent = received(server, "cursor=start", 45, || ());
    assert_eq!(sent, events(&all[..45]));
    assert!(sent.iter().zip(all).all(|(event, (id, _))| event["cursor"] == **id));
    assert_eq!(received(server, &format!("cursor={}", all[20].0), 24, || ()), events(&all[21..45]));
    let ticks = received(server, "module=m&cursor=start", 15, || ());
    assert!(ticks.iter().all(|event| event["module"] == "m"));
    // A filter that nothing matches yet: the first message is a place to resume from, the next one comes live.
    let mut failing = String::new();
    let failed = received(server, "module=jobs&state=failed", 1, || {
        failing = submit(server, &json!({"job": "fail", "payload": {}}));
    });
    assert_eq!((&failed[0]["job_uuid"], &failed[0]["type"]), (&json!(failing), &json!("failed")));
    for (query, words) in [
        ("cursor=7", "cursor must be"),
        ("state=running", "state must be done"),
        ("modul=m", "there is no parameter \"modul\" here"),
    ] {
        let mut socket = server.websocket(&format!("/jobs/events?{query}"));
        let said: Value = serde_json::from_str(socket.read().unwrap().to_text().unwrap()).unwrap();
        assert!(said["error"].as_str().unwrap().starts_with(words), "{said}");
        assert!(matches!(socket.read(), Ok(Message::Close(_)) | Err(_)));
    }
}

#[test]
fn one_stream_has_the_events_of_many_jobs_in_the_order_of_commits_from_any_place_on() {
    let server = Server::with(&["--shards", "2", "--job-events-max", "5"]);
    server.deploy(&source("1"));
    server.deploy(&ticking("m", ""));
    let run = |job: &str, payload: Value| submit(&server, &json!({"job": job, "payload": payload}));
    // A stream that begins now gets the later events of all modules.
    let mut made = Vec::new();
    let live = followed(&server, "", None, 40, || {
        made = (0..5).flat_map(|n| [run("count", json!({"n": 3})), run("tick", json!({"n": n}))]).collect();
    });
    let all = followed(&server, "cursor=start", None, 45, || ());
    let place = all.iter().position(|(id, _)| *id == live[0].0).unwrap();
    assert_eq!(all[place..place + 40], live[..], "a replay and what came live are one");
    let numbers: Vec<i64> = all.iter().map(|(_, event)| event["event_id"].as_i64().unwrap()).collect();
    assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
    assert_eq!((&all[0].1["module"], &all[0].1["job"]), (&json!("jobs"), &json!("count")));
    // Taken up after any of them, without loss or doubles; the header counts, not the address.
    let rest = followed(&server, "cursor=start", Some(&all[20].0), 24, || ());
    assert_eq!(rest[..], all[21..45]);
    // Filters: one module; events that end a job in one state.
    let ticks = followed(&server, "module=m&cursor=start", None, 15, || ());
    assert!(ticks.iter().all(|(_, event)| event["module"] == "m"));
    follow_by_websocket(&server, &all);
    let failing = run("fail", json!({}));
    let failed = followed(&server, "state=failed&cursor=start", None, 2, || ());
    assert_eq!((&failed[1].1["job_uuid"], &failed[1].1["type"]), (&json!(failing), &json!("failed")));
    // The events as pages.
    let mut paged = Vec::new();
    let mut cursor = "start".to_owned();
    loop {
        let page = get(&server, &format!("/jobs/events?module=m&limit=4&cursor={cursor}"));
        cursor = page["cursor"].as_str().unwrap().to_owned();
        let events = page["events"].as_array().unwrap().clone();
        if events.is_empty() {
            break;
        }
        paged.extend(events);
    }
    assert_eq!(paged, ticks.iter().map(|(_, event)| event.clone()).collect::<Vec<_>>());
    let now = get(&server, "/jobs/events");
    assert_eq!((&now["events"], now["cursor"].as_str() >= Some("c1-1")), (&json!([]), true));
    let unknown = "400 there is no parameter \"modul\" here; there are: module, state, cursor, limit";
    for (query, words) in
        [("cursor=7", "400 cursor must be"), ("state=running", "400 state must be done"), ("modul=m", unknown)]
    {
        let target = format!("/jobs/events?{query}");
        let page = ask(&server, "GET", &target, &Value::Null);
        let accept = [("Accept", "Text/Event-Stream")];
        let stream = server.connect().request("GET", &target, &accept, b"");
        for (status, answer) in [page, (stream.status, json_of(&stream))] {
            let said = format!("{status} {}", answer["error"].as_str().unwrap());
            assert!(said.starts_with(words), "{said}");
        }
    }
    // A job has so many events of its own, and then an error.
    let many = run("count", json!({"n": 9}));
    assert_eq!(reached(&server, &many, "failed")["error"], json!("job failed"));
    assert_eq!(kinds(&server, &many).iter().filter(|kind| *kind == "step").count(), 5);
    server.expect_log("has as many events as a job may have, 5: emit_event returns -1 for further events");
}

#[test]
fn jobs_of_one_concurrency_key_run_one_at_a_time() {
    let dir = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let args = ["--job-workers", "8"];
    let server = Server::on(&dir, &args, &[]);
    server.deploy(&ticking("m", ""));
    let keyed = |server: &Server, job: &str, key: &str, limit: u32| {
        submit(server, &json!({"job": job, "concurrency_key": key, "concurrency_limit": limit, "max_attempts": 9}))
    };
    let same: Vec<String> = (0..3).map(|_| keyed(&server, "hold", "a", 1)).collect();
    let others: Vec<String> = (0..3).map(|_| keyed(&server, "hold", "b", 2)).collect();
    for uuid in [&same[0], &others[0], &others[1]] {
        reached(&server, uuid, "running");
    }
    // All that may run do, and one without a key passes them by.
    let free = submit(&server, &json!({"job": "tick"}));
    reached(&server, &free, "done");
    let hold = || get(&server, "/jobs/kinds")["kinds"][0].clone();
    assert_eq!((&hold()["running"], &hold()["pending"]), (&json!(3), &json!(3)), "{}", hold());
    assert_eq!(get(&server, &format!("/jobs/{}", same[1]))["concurrency_key"], json!("a"));
    // A waiting job is canceled; the end of the first job lets the last one run.
    assert_eq!(post(&server, &format!("/jobs/{}/cancel", same[1])).0, 200);
    assert_eq!(post(&server, &format!("/jobs/{}/cancel", same[0])).0, 200);
    reached(&server, &same[2], "running");
    // Over a kill, too.
    drop(server);
    let server = Server::on(&dir, &args, &[]);
    for uuid in [&same[2], &others[0], &others[1]] {
        reached(&server, uuid, "running");
    }
    assert_eq!(get(&server, &format!("/jobs/{}", others[2]))["state"], json!("pending"));
    server.get("/m/go");
    for uuid in [&same[2], &others[2]] {
        reached(&server, uuid, "done");
    }
}
