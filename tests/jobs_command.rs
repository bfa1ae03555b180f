//! `cweb jobs`, through the real binary.

use crate::support::{self, Server, eventually};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};

const NOBODY: &str = "0197a1b2-0000-7000-8000-000000000000";

fn source() -> String {
    let module = std::fs::read_to_string(support::root().join("tests/modules/jobs.c")).unwrap();
    format!("#include <cweb.h>\n#line 1 \"jobs.c\"\n{module}")
}

fn with(args: &[&str]) -> Server {
    let server = Server::with(args);
    server.deploy(&source());
    server
}

/// `cweb jobs ARGS` against the server at `addr`, with nothing of the tester's environment that would matter.
fn command(addr: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cweb"));
    command.arg("jobs").args(args).env("CWEB_SERVER", format!("http://{addr}")).env_remove("CWEB_ADMIN_KEY");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn jobs(server: &Server, args: &[&str]) -> Output {
    command(&server.addr, args).output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("{output:?}"))
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The output of a command that worked.
fn works(server: &Server, args: &[&str]) -> String {
    let output = jobs(server, args);
    assert_eq!(code(&output), 0, "{args:?}: {}", err(&output));
    out(&output)
}

fn submit(server: &Server, args: &[&str]) -> String {
    works(server, &[&["submit"], args].concat()).trim().to_owned()
}

fn status(server: &Server, job: &str) -> Value {
    serde_json::from_slice(&server.get(&format!("/jobs/{job}")).body).unwrap()
}

fn reached(server: &Server, job: &str, state: &str) -> Value {
    eventually(&format!("{job} is {state}"), || status(server, job)["state"] == state);
    status(server, job)
}

fn events(server: &Server, job: &str) -> Vec<Value> {
    let listed: Value = serde_json::from_slice(&server.get(&format!("/jobs/{job}/events?limit=1000")).body).unwrap();
    listed["events"].as_array().unwrap().clone()
}

/// The types of events in lines of `cweb jobs watch`.
fn kinds(lines: &str) -> Vec<&str> {
    lines.lines().map(|line| line.split(' ').nth(1).unwrap_or_else(|| panic!("{lines}"))).collect()
}

#[test]
fn submit_prints_the_uuid_alone_and_takes_payloads_from_everywhere() {
    let server = with(&[]);
    let output = jobs(&server, &["submit", "echo", "{\"b\": 1,\"a\":[2.50]}"]);
    assert_eq!((code(&output), out(&output).len()), (0, 37), "{output:?}");
    assert!(err(&output).starts_with("pending, to run on version "), "{}", err(&output));
    let job = out(&output).trim().to_owned();
    reached(&server, &job, "done");
    assert!(server.get(&format!("/jobs/{job}")).text().ends_with("\"result\":{\"b\": 1,\"a\":[2.50]}}"));

    let file = server.dir.path().join("payload.json");
    std::fs::write(&file, "{\"from\":\n\"a file\"}").unwrap();
    let job = submit(&server, &["--module", "jobs", "echo", &format!("@{}", file.display())]);
    assert_eq!(reached(&server, &job, "done")["result"], json!({"from": "a file"}));

    let mut child = command(&server.addr, &["submit", "echo", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all("\"é from stdin\"".as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(reached(&server, out(&output).trim(), "done")["result"], "é from stdin");

    for (payload, result) in [("-5", json!(-5)), ("null", json!({}))] {
        let job = submit(&server, &["echo", payload]);
        assert_eq!(reached(&server, &job, "done")["result"], result);
    }
    let job = submit(&server, &["echo"]);
    assert_eq!(reached(&server, &job, "done")["result"], json!({}));
}

#[test]
fn what_a_submission_says_arrives() {
    let server = with(&["--job-workers", "1"]);
    let args =
        ["--max-attempts", "3", "--backoff", "30s", "--timeout", "1500ms", "--priority", "-4", "--unique-key", "k"];
    let job = submit(&server, &[&args[..], &["--run-at", "2100-01-01T00:00:00+01:00", "echo"]].concat());
    let seen = status(&server, &job);
    assert_eq!((&seen["max_attempts"], &seen["priority"], &seen["unique_key"]), (&json!(3), &json!(-4), &json!("k")));
    assert_eq!(seen["run_at"], 4_102_441_200_000_u64);
    // The same key names the same job.
    assert_eq!(submit(&server, &["--unique-key", "k", "echo", "7"]), job);
    let job = submit(&server, &["--run-at", "+1h", "echo"]);
    let seen = status(&server, &job);
    let wait = seen["run_at"].as_i64().unwrap() - seen["created_at"].as_i64().unwrap();
    // The command and the server look at the clock one after the other.
    assert!((3_500_000..3_700_000).contains(&wait), "{wait}");
    let job = submit(&server, &["--timeout", "40", "wait", "{\"ms\":600000,\"listen\":1}"]);
    let failed = reached(&server, &job, "failed");
    assert!(failed["error"].as_str().unwrap().starts_with("timed out after 40 ms"), "{failed}");
    let job = submit(&server, &["--max-attempts", "2", "--backoff", "1ms", "fail"]);
    assert_eq!(reached(&server, &job, "failed")["attempt"], 2);
}

#[test]
fn wrong_submissions_are_explained() {
    let server = with(&[]);
    for (args, words) in [
        (&["echo", "{'a':1}"][..], "PAYLOAD {'a':1} is not JSON: key must be a string at line 1 column 2"),
        (&["echo", "@nothing.json"], "nothing.json can't be read"),
        (&["none"], "no module has a job named none; cweb modules lists the modules and their jobs"),
        (&["--module", "none", "echo"], "no module named none"),
        (&["--max-attempts", "0", "echo"], "max_attempts"),
        (&["--unique-key", "", "echo"], "unique_key"),
        (&["--backoff", "soon", "echo"], "30s"),
        (&["--run-at", "2030-01-01", "echo"], "with its zone"),
        (&[], "<JOB>"),
    ] {
        let output = jobs(&server, &[&["submit"], args].concat());
        // 1: the server has refused it; 2: it was not even sent.
        let expected =
            if ["no module", "max_att", "unique"].iter().any(|said| words.starts_with(said)) { 1 } else { 2 };
        assert!(code(&output) == expected && err(&output).contains(words), "{args:?}: {}", err(&output));
        assert_eq!(out(&output), "");
    }
    assert_eq!(works(&server, &["list"]), "");
}

#[test]
fn watching_tells_the_story_and_exits_as_the_job_ended() {
    let server = with(&[]);
    let job = submit(&server, &["count", "{\"n\":3,\"delay_ms\":20}"]);
    let shown = works(&server, &["watch", &job]);
    assert_eq!(kinds(&shown), ["created", "started", "step", "step", "step", "done"]);
    assert!(shown.ends_with(" done {\"n\":3,\"version\":\"1\"}\n") && !shown.contains('\x1b'), "{shown}");
    let all = events(&server, &job);
    let since = all[3]["event_id"].to_string();
    assert_eq!(kinds(&works(&server, &["watch", &job, "--since", &since])), ["step", "done"]);
    let last = all[5]["event_id"].to_string();
    assert_eq!(works(&server, &["watch", "--since", &last, &job]), "");
    let json = works(&server, &["watch", "--json", &job]);
    let lines: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines, all);

    for (args, expected, story) in [
        (&["echo", "1"][..], 0, vec!["created", "started", "done"]),
        (&["fail"], 1, vec!["created", "started", "failed"]),
        (
            &["--max-attempts", "2", "--backoff", "1", "crash"],
            1,
            vec!["created", "started", "retrying", "started", "failed"],
        ),
    ] {
        // The events are on stderr: stdout has the UUID alone.
        let output = jobs(&server, &[&["submit", "--watch"], args].concat());
        assert_eq!((code(&output), out(&output).len()), (expected, 37), "{args:?}: {output:?}");
        let lines = err(&output);
        assert_eq!(kinds(lines.split_once('\n').unwrap().1), story);
        assert_eq!(code(&jobs(&server, &["watch", out(&output).trim()])), expected);
    }
}

#[test]
fn a_canceled_job_ends_its_watchers() {
    let server = with(&[]);
    let job = submit(&server, &["wait", "{\"ms\":600000,\"listen\":1}"]);
    let watcher = command(&server.addr, &["watch", &job]).spawn().unwrap();
    reached(&server, &job, "running");
    assert_eq!(works(&server, &["cancel", &job]), format!("canceled {job}\n"));
    let output = watcher.wait_with_output().unwrap();
    assert_eq!((code(&output), kinds(&out(&output)).pop()), (5, Some("canceled")), "{output:?}");
    assert_eq!(code(&jobs(&server, &["cancel", &job])), 0, "again is no error");
}

#[test]
fn cancels_and_deletes_what_can_be() {
    let server = with(&[]);
    let done = submit(&server, &["quiet"]);
    reached(&server, &done, "done");
    let later = submit(&server, &["--run-at", "+1h", "quiet"]);
    // One that does not work keeps none of the others.
    let output = jobs(&server, &["delete", &later, NOBODY, &done]);
    assert_eq!((code(&output), out(&output)), (1, format!("deleted {done}\n")));
    let said = err(&output);
    assert!(said.contains("answers 409: the job is pending: cancel it first"), "{said}");
    assert!(said.contains(&format!("{NOBODY}: ")) && said.contains("answers 404: there is no such job; "), "{said}");
    let ended = submit(&server, &["fail"]);
    reached(&server, &ended, "failed");
    let output = jobs(&server, &["cancel", &ended, &later]);
    assert_eq!((code(&output), out(&output)), (1, format!("canceled {later}\n")));
    assert!(err(&output).contains("409: the job is failed already"), "{}", err(&output));
    assert_eq!(works(&server, &["delete", &later, &ended]).lines().count(), 2);
    assert_eq!(works(&server, &["list"]), "");
    for command in ["cancel", "delete", "status", "watch"] {
        assert_eq!(code(&jobs(&server, &[command])), 2);
        let output = jobs(&server, &[command, "x/../y"]);
        assert!(code(&output) == 2 && err(&output).contains("invalid value 'x/../y'"), "{}", err(&output));
    }
}

#[test]
fn retries_those_named_or_all_of_a_filter() {
    let server = with(&[]);
    let failed = submit(&server, &["fail", "{\"a\": 1}"]);
    reached(&server, &failed, "failed");
    assert!(works(&server, &["status", &failed]).contains("payload   {\"a\":1}\n"));
    // A job has failed a moment before its run has returned.
    let listed = || works(&server, &["list", "--state", "failed", "--retryable"]);
    eventually("it can be retried", || listed().contains(&failed));
    assert_eq!(works(&server, &["retry", &failed]), format!("retried {failed}\n"));
    let runs = || kinds_of(&server, &failed).filter(|kind| kind == "failed").count();
    eventually("the second run", || runs() == 2);
    eventually("it can be retried again", || listed().contains(&failed));
    assert_eq!(works(&server, &["retry", "--job", "fail"]), "retried 1 jobs\n");
    eventually("the third run", || runs() == 3);
    let later: Vec<String> = (0..3).map(|_| submit(&server, &["--run-at", "+1h", "quiet"])).collect();
    assert_eq!(works(&server, &["cancel", "--module", "jobs"]).lines().last(), Some("canceled 3 jobs"));
    let output = jobs(&server, &["retry", &later[0], NOBODY]);
    assert_eq!((code(&output), out(&output)), (1, format!("retried {}\n", later[0])));
    let output = jobs(&server, &["cancel", "--state", "canceled"]);
    assert_eq!(code(&output), 0, "canceled ones stay so: {output:?}");
    for args in [&["retry"][..], &["retry", "--state", "failed", &later[1]]] {
        assert_eq!(code(&jobs(&server, args)), 2, "{args:?}");
    }
}

fn kinds_of(server: &Server, job: &str) -> impl Iterator<Item = String> {
    events(server, job).into_iter().map(|event| event["type"].as_str().unwrap().to_owned())
}

#[test]
fn status_is_readable_or_the_servers_json() {
    let server = with(&[]);
    let job = submit(&server, &["--max-attempts", "2", "--backoff", "1", "fail_with_text"]);
    reached(&server, &job, "failed");
    let shown = works(&server, &["status", &job]);
    for words in
        [job.as_str(), "jobs/fail_with_text, version ", "state     failed\n", "2 of 2", "error     no \"luck\""]
    {
        assert!(shown.contains(words), "{words} in {shown}");
    }
    let json = works(&server, &["status", "--json", &job]);
    assert_eq!(json.trim_end(), server.get(&format!("/jobs/{job}")).text());
    let output = jobs(&server, &["status", NOBODY]);
    assert!(code(&output) == 1 && err(&output).contains("cweb jobs list"), "{}", err(&output));
}

#[test]
fn lists_are_filtered_and_go_on_from_page_to_page() {
    let server = with(&[]);
    let (mut client, body) = (server.connect(), br#"{"job":"quiet"}"#);
    for _ in 0..130 {
        assert_eq!(client.request("POST", "/jobs", &[], body).status, 200);
    }
    let failed = submit(&server, &["fail_with_text"]);
    reached(&server, &failed, "failed");
    let list = |args: &[&str]| works(&server, &[&["list"], args].concat());
    assert_eq!(list(&[]).lines().count(), 51, "a head, and 50 unless told otherwise");
    assert_eq!(list(&["--limit", "125"]).lines().count(), 126);
    let all = list(&["--limit", "1000"]);
    let uuids: std::collections::BTreeSet<&str> =
        all.lines().skip(1).map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!((all.lines().count(), uuids.len()), (132, 131));
    let shown = list(&["--state", "failed"]);
    let row: Vec<&str> = shown.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row[..3], [failed.as_str(), "jobs/fail_with_text", "failed"]);
    assert_eq!(row[4..], ["1/1", "no", "\"luck\""]);
    assert_eq!(list(&["--job", "fail_with_text", "--module", "jobs"]).lines().count(), 2);
    assert_eq!(list(&["--module", "no&state=done"]), "");
    let output = jobs(&server, &["list", "--state", "lost"]);
    assert!(code(&output) == 2 && err(&output).contains("possible values: pending"), "{}", err(&output));

    let json: Value = serde_json::from_str(&list(&["--json", "--limit", "120"])).unwrap();
    assert_eq!(json["jobs"].as_array().unwrap().len(), 120);
    assert_eq!(json["next"], json["jobs"][119]["job_uuid"]);
    let json = list(&["--json", "--state", "failed"]);
    assert_eq!(json.trim_end(), server.get("/jobs?state=failed").text());
}

#[test]
fn a_server_that_is_not_there_or_is_another_is_explained() {
    // Nobody listens there, and nobody who asks for a free port gets this one.
    let addr = "127.0.0.1:1".to_owned();
    for args in [&["submit", "echo"][..], &["status", NOBODY], &["watch", NOBODY], &["cancel", NOBODY], &["list"]] {
        let output = command(&addr, args).output().unwrap();
        let said = err(&output);
        assert!(code(&output) == 3 && said.contains(&addr) && said.contains("--server URL"), "{args:?}: {said}");
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\nConnection: close\r\n\r\nnope\n");
        }
    });
    for args in [&["list"][..], &["watch", NOBODY]] {
        let said = err(&command(&addr, args).output().unwrap());
        assert!(said.contains("answers 404 \"nope\": this is not a cweb server with jobs"), "{said}");
    }
}

#[test]
fn the_key_is_asked_for() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let server = Server::on(&dir, &["--production"], &[("CWEB_ADMIN_KEY", "secret-of-16-bytes")]);
    let run = |key: &str, args: &[&str]| command(&server.addr, args).env("CWEB_ADMIN_KEY", key).output().unwrap();
    for args in [&["submit", "echo"][..], &["status", NOBODY], &["watch", NOBODY], &["cancel", NOBODY], &["list"]] {
        let (none, wrong) = (run("", args), run("wrong", args));
        assert!(code(&none) == 4 && err(&none).contains("set CWEB_ADMIN_KEY to the server's key"), "{}", err(&none));
        assert!(
            code(&wrong) == 4 && err(&wrong).contains("the server does not accept the key in CWEB_ADMIN_KEY"),
            "{}",
            err(&wrong)
        );
    }
    assert_eq!(code(&run("secret-of-16-bytes", &["list"])), 0);
    assert!(err(&run("secret-of-16-bytes", &["watch", NOBODY])).contains("there is no such job"));
}

/// Connections to the server behind, of which the first `cuts` end after some bytes.
struct Proxy {
    addr: String,
    upstream: Arc<Mutex<String>>,
    /// What each connection began with.
    requests: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    fn start(upstream: &str, cuts: usize, bytes: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let upstream = Arc::new(Mutex::new(upstream.to_owned()));
        let requests = Arc::<Mutex<Vec<String>>>::default();
        let (behind, seen) = (Arc::clone(&upstream), Arc::clone(&requests));
        std::thread::spawn(move || {
            for (number, client) in listener.incoming().enumerate() {
                let (mut client, mut head) = (client.unwrap(), [0; 4096]);
                let count = client.read(&mut head).unwrap_or(0);
                seen.lock().unwrap().push(String::from_utf8_lossy(&head[..count]).to_lowercase());
                let Ok(mut server) = TcpStream::connect(&*behind.lock().unwrap()) else { continue };
                server.write_all(&head[..count]).unwrap();
                let limit = if number < cuts { bytes } else { usize::MAX };
                std::thread::spawn(move || relay(&mut server, &mut client, limit));
            }
        });
        Self { addr, upstream, requests }
    }
}

fn relay(server: &mut TcpStream, client: &mut TcpStream, mut limit: usize) {
    let mut bytes = [0; 512];
    while limit > 0 {
        let size = limit.min(bytes.len());
        let count = server.read(&mut bytes[..size]).unwrap_or(0);
        if count == 0 || client.write_all(&bytes[..count]).is_err() {
            break;
        }
        limit -= count;
    }
    let _ = client.shutdown(Shutdown::Both);
}

#[test]
fn a_lost_stream_goes_on_where_it_was() {
    let server = with(&[]);
    let job = submit(&server, &["count", "{\"n\":40,\"delay_ms\":5}"]);
    let proxy = Proxy::start(&server.addr, 2, 2_000);
    let output = command(&proxy.addr, &["watch", "--json", &job]).output().unwrap();
    assert_eq!(code(&output), 0, "{}", err(&output));
    let lines: Vec<Value> = out(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines, events(&server, &job));
    assert!(err(&output).contains("trying again in 250ms (1 of 8)"), "{}", err(&output));
    let resumed = proxy.requests.lock().unwrap();
    assert!(resumed[0].contains("last-event-id: 0\r\n") && !resumed[1].contains("last-event-id: 0\r\n"), "{resumed:?}");
}

#[test]
fn watching_outlives_a_restart_of_the_server() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let start = || Server::on(&dir, &["-F"], &[]);
    let mut server = start();
    server.deploy(&source());
    let job = submit(&server, &["--max-attempts", "2", "decide", "{\"calls\":\"\",\"hold\":1,\"return\":0}"]);
    let proxy = Proxy::start(&server.addr, 0, 0);
    let watcher = Watcher::start(&proxy.addr, &job);
    watcher.expect(" started ");
    server.terminate();
    let server = start();
    *proxy.upstream.lock().unwrap() = server.addr.clone();
    assert_eq!(server.get("/release").text(), "ok");
    let (code, lines) = watcher.end();
    assert_eq!(code, 0, "{lines}");
    assert_eq!(kinds(&lines), ["created", "started", "retrying", "started", "after", "done"], "{lines}");
}

/// `cweb jobs watch` under way.
struct Watcher {
    child: Child,
    lines: Arc<Mutex<String>>,
    reader: std::thread::JoinHandle<()>,
}

impl Watcher {
    fn start(addr: &str, job: &str) -> Self {
        let mut child = command(addr, &["watch", job]).spawn().unwrap();
        let (stdout, lines) = (child.stdout.take().unwrap(), Arc::<Mutex<String>>::default());
        let sink = Arc::clone(&lines);
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                sink.lock().unwrap().push_str(&(line.unwrap() + "\n"));
            }
        });
        Self { child, lines, reader }
    }

    fn expect(&self, text: &str) {
        eventually(text, || self.lines.lock().unwrap().contains(text));
    }

    fn end(mut self) -> (i32, String) {
        eventually("the watcher ends", || self.child.try_wait().unwrap().is_some());
        self.reader.join().unwrap();
        (self.child.wait().unwrap().code().unwrap(), self.lines.lock().unwrap().clone())
    }
}

#[test]
fn an_event_called_done_is_not_the_end() {
    let server = Server::start();
    server.deploy(
        "#include <cweb.h>\n\
         static int run(struct cweb_context *c, const job_payload_t *p, job_ctx_t *job) {\n\
           (void)c; (void)p;\n\
           job->emit_event(job, \"done\", \"{}\");\n\
           return 1;\n\
         }\n\
         export module_t config = {.name = \"liar\", .author = \"t\", .jobs = {{.name = \"lie\", .run = run}}, .job_size = 1};\n",
    );
    let output = jobs(&server, &["submit", "--watch", "lie"]);
    assert_eq!(code(&output), 1, "{}", err(&output));
    assert!(err(&output).contains(" done {}\n") && err(&output).contains(" failed \"job failed\""));
}

#[test]
fn output_that_nobody_reads_is_no_crash() {
    let server = with(&[]);
    let job = submit(&server, &["decide", "{\"calls\":\"\",\"hold\":1,\"return\":0}"]);
    let mut child = command(&server.addr, &["watch", &job]).spawn().unwrap();
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert!(first.contains(" created {"), "{first}");
    // Nobody gets the bytes that come now.
    assert_eq!(server.get("/release").text(), "ok");
    let output = child.wait_with_output().unwrap();
    assert_eq!((code(&output), err(&output)), (1, String::new()));
}

#[test]
fn progress_is_told_line_by_line_where_no_terminal_shows_a_bar() {
    let server = Server::start();
    server.deploy_file("example/sum_job.c");
    let output = jobs(&server, &["submit", "--watch", "sum", "{\"numbers\":[1,2,3.5]}"]);
    assert_eq!(code(&output), 0);
    assert!(err(&output).contains(" progress {\"done\":3,\"total\":3,\"percent\":100.0}\n"), "{}", err(&output));
    assert!(err(&output).ends_with(" done {\"sum\":6.5}\n"), "{}", err(&output));
}

#[test]
fn the_example_of_the_guide_compiles_and_does_what_it_says() {
    let guide = std::fs::read_to_string(support::root().join("docs/jobs.md")).unwrap();
    let (_, rest) = guide.split_once("```c\n").unwrap();
    let (code_of_guide, _) = rest.split_once("```").unwrap();
    let server = Server::start();
    let answer = server.deploy(code_of_guide);
    assert!(!answer.text().contains("warning"), "{}", answer.text());
    let payload = "{\"text\":\"one two\\nthree\"}";
    let output = jobs(&server, &["submit", "--watch", "count_words", payload]);
    assert_eq!(code(&output), 0, "{}", err(&output));
    assert!(err(&output).ends_with(" done {\"words\":3}\n"), "{}", err(&output));
    let output = jobs(&server, &["submit", "--watch", "--backoff", "1ms", "count_words", "{}"]);
    assert!(code(&output) == 1 && err(&output).contains("text"), "{}", err(&output));
    let created: Value = serde_json::from_slice(&server.post("/words", b"a b").body).unwrap();
    let job = created["job_uuid"].as_str().unwrap();
    assert_eq!(reached(&server, job, "done")["result"], json!({"words": 2}));
}
