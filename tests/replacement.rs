//! The replacement of a process of modules while it lives: asked for, or because it has grown too large. Nobody notices.

use crate::support::load::Load;
use crate::support::{self, load};
use crate::support::{Server, Socket, eventually, module};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tungstenite::Message;

/// A module with state that a new process has afresh, that can end its process, and that can make mappings.
fn lab() -> String {
    let code = r#"
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#define H(f) static int f(struct cweb_context *c, http_request_t *q, http_response_t *r)
static _Atomic int calls, loads;
H(count) { (void)c; (void)q; snprintf(r->body, HTTP_RESPONSE_SIZE, "%d", ++calls); return 0; }
H(loaded) { (void)c; (void)q; snprintf(r->body, HTTP_RESPONSE_SIZE, "%d", loads); return 0; }
H(here) { (void)c; (void)q; strcpy(r->body, "here"); return 0; }
H(slow) { (void)c; (void)q; usleep(200 * 1000); strcpy(r->body, "slow"); return 0; }
static void *leave(void *p) { syscall(SYS_exit_group, 4); return p; }
H(vanish) { (void)c; (void)q; (void)r; pthread_t t; pthread_create(&t, NULL, leave, NULL); pause(); return 0; }
/* Neighbours differ in what they allow: otherwise they were one mapping. */
H(map) { (void)c; int want = atoi(http_kv_get(q->params, "n")), made = 0;
  while (made < want && mmap(NULL, 4096, made & 1 ? PROT_READ : PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED) made++;
  snprintf(r->body, HTTP_RESPONSE_SIZE, "%d", made); return 0; }
static void on_message(struct cweb_context *c, websocket_t *ws, const char *text, size_t n) { (void)c; ws->send(ws, text, n); }
static int work(struct cweb_context *c, const job_payload_t *p, job_ctx_t *j) { (void)c; (void)p; return j->set_result(j, "{}"); }
/* With the time: the lines of two processes come to the log by two ways. */
static void say(const char *what) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t);
  printf("%s in %d at %lld\n", what, (int)getpid(), t.tv_sec * 1000000000LL + t.tv_nsec); }
static void load(struct cweb_context *c) { (void)c; loads++; say("loaded"); }
static void unload(struct cweb_context *c) { (void)c; say("unloaded"); }
"#;
    let kinds = ["count", "loaded", "here", "slow", "vanish", "map"];
    let routes: Vec<String> = kinds.iter().map(|kind| format!("{{\"/{kind}\",\"GET\",{kind},NONE}}")).collect();
    let fields = r#".websockets = {{"/ws", NULL, on_message, NULL}}, .ws_size = 1, .jobs = {{"work", work, NULL}}, .job_size = 1,
        .onload = load, .unload = unload,"#;
    module("lab", code, &routes.join(","), kinds.len(), fields)
}

fn start(more: &[&str]) -> Server {
    let args = ["--shards", "2", "--isolation", "process"];
    let server = Server::on(&Arc::new(tempfile::tempdir().unwrap()), &[&args, more].concat(), &[]);
    server.deploy(&lab());
    server.deploy(&support::constant("neighbour", "/neighbour", "neighbour"));
    server
}

fn listed(server: &Server) -> Value {
    serde_json::from_slice(&server.get("/mgnt").body).unwrap()
}

/// What is said of the default domain once it has a process.
fn domain(server: &Server) -> Value {
    let mut found = Value::Null;
    eventually("there is a process", || {
        found = listed(server)["domains"][0].clone();
        found["pid"].is_u64()
    });
    found
}

fn echoes(socket: &mut Socket, text: &str) {
    socket.send(Message::text(text)).unwrap();
    assert_eq!(socket.read().unwrap(), Message::text(text));
}

fn runs_a_job(server: &Server) {
    let accepted = server.post("/jobs", json!({"job": "work"}).to_string().as_bytes());
    let accepted: Value = serde_json::from_slice(&accepted.body).unwrap();
    let path = format!("/jobs/{}", accepted["job_uuid"].as_str().unwrap());
    eventually("the job is done", || server.get(&path).text().contains("\"state\":\"done\""));
}

#[test]
fn a_restart_replaces_the_process_and_nobody_notices() {
    let _turn = load::turn();
    let server = start(&[]);
    let mut socket = server.websocket("/ws");
    let loads = [("/here", &["here"]), ("/slow", &["slow"]), ("/neighbour", &["neighbour"])];
    let loads = loads.map(|(path, texts)| Load::start(&server, path, texts, 2));
    let first = domain(&server);
    assert_eq!((&first["restarts"], &first["replacements"]), (&json!(0), &json!(0)));
    let mut before = first["pid"].clone();
    for round in 1..=3 {
        loads[0].goes_on();
        assert_eq!([server.get("/count").text(), server.get("/count").text()], ["1", "2"], "the state is fresh");
        echoes(&mut socket, "before");
        let restarted = server.post("/mgnt/lab/restart", b"");
        assert_eq!(restarted.status, 200, "{}", restarted.text());
        eventually("the process is another", || domain(&server)["pid"] != before);
        echoes(&mut socket, "after");
        assert_eq!(server.get("/loaded").text(), "1", "onload has run in the new process, once");
        let now = domain(&server);
        // In its order: there is one `unload` in the old process, and then one `onload` in the new.
        let at =
            |text: &str| -> Option<u64> { server.log().split_once(text)?.1.split_whitespace().next()?.parse().ok() };
        let (unloaded, loaded) = (format!("] unloaded in {before} at "), format!("] loaded in {} at ", now["pid"]));
        eventually("both lines", || at(&unloaded).is_some() && at(&loaded).is_some());
        assert!(at(&unloaded) < at(&loaded), "{}", server.log());
        eventually("it is counted", || domain(&server)["replacements"] == json!(round));
        before = now["pid"].clone();
    }
    for load in loads {
        load.end();
    }
    runs_a_job(&server);
    assert_eq!(domain(&server)["restarts"], json!(0));
    eventually("the old processes are gone", || server.processes().len() == 3);
    server.expect_log("module lab was restarted");
    let log = server.log();
    assert!(!log.contains(" died"), "{log}");
}

#[test]
fn a_restart_brings_a_module_back_from_quarantine() {
    let _turn = load::turn();
    let server = start(&["--crash-limit", "2"]);
    let mut idle = server.websocket("/ws");
    for round in 1..=2 {
        for _ in 0..2 {
            eventually("it is there", || server.get("/here").status == 200);
            assert_eq!(server.get("/vanish").status, 502);
        }
        eventually("it is in quarantine", || server.get("/here").status == 503);
        eventually("the neighbour is back", || server.get("/neighbour").status == 200);
        let quarantine = |server: &Server| listed(server)["modules"][0]["quarantine"].clone();
        assert!(quarantine(&server).as_str().unwrap().contains("/mgnt/lab/restart"), "{}", listed(&server));
        let (before, load) = (domain(&server)["pid"].clone(), Load::start(&server, "/neighbour", &["neighbour"], 2));
        let restarted = server.post("/mgnt/lab/restart", b"");
        assert_eq!(restarted.status, 200, "{}", restarted.text());
        // It was loaded into the process of the others, which goes on.
        assert_eq!([server.get("/loaded").text(), server.get("/count").text()], ["1", "1"], "round {round}");
        assert_eq!((&domain(&server)["pid"], quarantine(&server)), (&before, Value::Null));
        echoes(&mut idle, "still open");
        echoes(&mut server.websocket("/ws"), "a new one");
        runs_a_job(&server);
        load.end();
    }
}

/// Its mappings, as the kernel counts them.
fn mappings(pid: &Value) -> usize {
    std::fs::read_to_string(format!("/proc/{pid}/maps")).map_or(0, |maps| maps.lines().count())
}

#[test]
fn a_process_with_many_mappings_is_replaced() {
    let _turn = load::turn();
    let server = start(&[]);
    let mut socket = server.websocket("/ws");
    echoes(&mut socket, "before");
    let before = domain(&server);
    let most = std::fs::read_to_string("/proc/sys/vm/max_map_count").unwrap();
    let most: usize = most.trim().parse().unwrap();
    let loads = [("/here", &["here"]), ("/neighbour", &["neighbour"])];
    let loads = loads.map(|(path, texts)| Load::start(&server, path, texts, 2));
    // More than three quarters of what the kernel allows, and all of them are made.
    let wanted = most / 4 * 3 + most / 16;
    assert_eq!(server.get(&format!("/map?n={wanted}")).text(), wanted.to_string());
    // A process that is replaced meanwhile has none any more.
    let made = mappings(&before["pid"]);
    assert!(made > wanted || domain(&server)["pid"] != before["pid"], "{made}");
    // They are counted every 15 s, and not in the first.
    let old_enough_ms = u128::from(before["up_since_ms"].as_u64().unwrap()) + 14_000;
    let now_ms = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    eventually("it is old enough", || now_ms() >= old_enough_ms);
    eventually("the process is another", || domain(&server)["pid"] != before["pid"]);
    echoes(&mut socket, "after");
    for load in loads {
        load.end();
    }
    eventually("it is counted", || domain(&server)["replacements"] == json!(1));
    let now = domain(&server);
    assert_eq!(now["restarts"], json!(0));
    assert!(mappings(&now["pid"]) < most / 8);
    server.expect_log("mappings, and the kernel allows a third more");
    let log = server.log();
    assert!(!log.contains(" died"), "{log}");
    // It works on, and has room for as many again.
    assert_eq!(server.get(&format!("/map?n={}", most / 2)).text(), (most / 2).to_string());
}

/// Waits in a handler until another one, in the next process, lets it go on.
const WAITER: &str = r#"
#include <fcntl.h>
#include <unistd.h>
#define H(f) static int f(struct cweb_context *c, http_request_t *q, http_response_t *r)
static const char *gate(char *path, size_t size) { snprintf(path, size, "%s/gate", getenv("TMPDIR")); return path; }
static _Atomic int waiting;
H(wait) { (void)c; (void)q; char path[4096]; gate(path, sizeof path); waiting = 1;
  while (access(path, F_OK) != 0) usleep(1000);
  snprintf(r->body, HTTP_RESPONSE_SIZE, "%d", (int)getpid()); return 0; }
H(waits) { (void)c; (void)q; snprintf(r->body, HTTP_RESPONSE_SIZE, "%d", waiting); return 0; }
H(pid) { (void)c; (void)q; snprintf(r->body, HTTP_RESPONSE_SIZE, "%d", (int)getpid()); return 0; }
H(open_gate) { (void)c; (void)q; char path[4096]; close(open(gate(path, sizeof path), O_CREAT | O_WRONLY, 0600));
  strcpy(r->body, "open"); return 0; }
"#;

#[test]
fn without_hooks_nobody_waits_for_what_runs_in_the_old_process() {
    let _turn = load::turn();
    let server = Server::on(&Arc::new(tempfile::tempdir().unwrap()), &["--shards", "2", "--isolation", "process"], &[]);
    let kinds = ["wait", "waits", "pid", "open_gate"];
    let routes: Vec<String> = kinds.iter().map(|kind| format!("{{\"/{kind}\",\"GET\",{kind},NONE}}")).collect();
    server.deploy(&module("waiter", WAITER, &routes.join(","), kinds.len(), ""));
    let before = server.get("/pid").text();
    let mut waiting = server.connect();
    waiting.send(b"GET /wait HTTP/1.1\r\nHost: localhost\r\n\r\n");
    eventually("it waits", || server.get("/waits").text() == "1");
    assert_eq!(server.post("/mgnt/waiter/restart", b"").status, 200);
    eventually("the process is another", || server.get("/pid").text() != before);
    assert_eq!(server.get("/open_gate").text(), "open");
    assert_eq!(waiting.response().text(), before, "it went on where it was");
    eventually("the old process is gone", || server.processes().len() == 3);
    let log = server.log();
    assert!(!log.contains("requests run for longer"), "{log}");
}
