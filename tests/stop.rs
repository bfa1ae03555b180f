//! The end of the server, which comes whatever modules do.

use crate::support::{Client, Server, eventually, module, signal};
use serde_json::Value;
use std::sync::Arc;
use std::sync::Mutex;

/// What modules here can do. They say in the log where they are.
const CODE: &str = r#"
#include <unistd.h>
#define HOOK(f) static void f(struct cweb_context *c)
#define SAY(text) do { puts(text); fflush(stdout); } while (0)
#define NEVER() for (;;) pause()
static int on_shard(struct cweb_context *c, http_request_t *q, http_response_t *r) {
  (void)c; (void)q; (void)r; SAY("the handler runs"); for (volatile int i = 0;; i++) { } return 0; }
static int endless(struct cweb_context *c, const job_payload_t *p, job_ctx_t *j) {
  (void)c; (void)p; (void)j; SAY("the job runs"); NEVER(); return 0; }
HOOK(hang) { (void)c; SAY("the hook runs"); NEVER(); }
HOOK(hang_at_times) { (void)c; if (access("static/now", F_OK) == 0) { SAY("the hook runs"); NEVER(); } }
HOOK(leave) { (void)c; SAY("goes well"); }
#define UNUSED __attribute__((unused)) static void *unused[] = {on_shard, endless, hang, hang_at_times, leave};
"#;

/// Longer than any test waits.
const LONG: &str = "600000";

/// A module with route `/NAME`.
fn member(name: &str, fields: &str) -> String {
    let code = format!("{CODE}UNUSED\nHANDLER(h, \"{name}\")");
    let routes = format!(r#"{{"/{name}","GET",h,NONE}},{{"/{name}/shard","GET",on_shard,CWEB_INLINE}}"#);
    module(name, &code, &routes, 2, fields)
}

fn start_in(dir: &Arc<tempfile::TempDir>, more: &[&str]) -> Server {
    Server::on(dir, &[&["--shards", "2", "--hook-timeout-ms", LONG], more].concat(), &[])
}

fn start(more: &[&str]) -> Server {
    start_in(&Arc::new(tempfile::tempdir().unwrap()), more)
}

/// Three modules whose `unload` never returns, between two with a good one.
fn deploy_five(server: &Server) {
    server.deploy(&member("first", ".unload = leave,"));
    for name in ["stuck0", "stuck1", "stuck2"] {
        server.deploy(&member(name, ".unload = hang,"));
    }
    server.deploy(&member("last", ".unload = leave,"));
}

#[test]
fn a_second_signal_ends_an_unload_that_never_returns() {
    let server = start(&["--shutdown-timeout-ms", LONG]);
    deploy_five(&server);
    signal(server.pid(), "TERM");
    server.expect_log("the hook runs");
    signal(server.pid(), "INT");
    let log = server.ends();
    assert!(
        log.contains("unload is not waited for any longer: a second signal came; modules without unload: stuck0"),
        "{log}"
    );
}

#[test]
fn all_modules_together_have_a_bounded_time_to_unload() {
    let server = start(&["--shutdown-timeout-ms", "15000"]);
    deploy_five(&server);
    signal(server.pid(), "TERM");
    let log = server.ends();
    let left =
        "unload is not waited for any longer: the time limit is over; modules without unload: stuck0, stuck1, stuck2";
    assert!(log.contains(left), "{log}");
    // Those that never return keep no other from its turn.
    assert_eq!(log.matches("goes well").count(), 2, "{log}");
}

#[test]
fn a_second_signal_ends_a_server_whose_shard_hangs_in_a_handler() {
    let server = start(&["--shutdown-timeout-ms", LONG, "--isolation", "none"]);
    server.deploy(&member("stuck", ""));
    let mut client = server.connect();
    client.send(b"GET /stuck/shard HTTP/1.1\r\nHost: localhost\r\n\r\n");
    server.expect_log("the handler runs");
    signal(server.pid(), "TERM");
    server.expect_log("stopping");
    signal(server.pid(), "TERM");
    let log = server.ends();
    for part in
        ["a second signal came", "a handler does not return from its shard's thread: only the end of the process"]
    {
        assert!(log.contains(part), "{part}: {log}");
    }
}

#[test]
fn a_stop_is_bounded_when_a_shard_hangs_in_a_handler() {
    let server = start(&["--shutdown-timeout-ms", "500", "--isolation", "none"]);
    server.deploy(&member("stuck", ""));
    let mut client = server.connect();
    client.send(b"GET /stuck/shard HTTP/1.1\r\nHost: localhost\r\n\r\n");
    server.expect_log("the handler runs");
    signal(server.pid(), "TERM");
    let log = server.ends();
    assert!(log.contains("the time limit is over") && log.contains("only the end of the process"), "{log}");
}

#[test]
fn a_destructor_that_never_returns_does_not_keep_the_server_from_its_end() {
    // The main thread must need nothing of the loader, whatever the reactor has used in it.
    ["monoio", "native"].into_iter().for_each(a_destructor_that_never_returns);
}

fn a_destructor_that_never_returns(reactor: &str) {
    let server = start(&["--isolation", "none", "--reactor", reactor, "--shutdown-timeout-ms", "15000"]);
    let code = r#"__attribute__((destructor)) static void end(void) { if (access("static/now", F_OK) == 0) NEVER(); }"#;
    server.deploy(&format!("{}\n{code}", member("stuck", ".unload = leave,")));
    std::fs::create_dir_all(server.dir.path().join("static")).unwrap();
    std::fs::write(server.dir.path().join("static/now"), "").unwrap();
    let log = server.stop();
    assert!(log.contains("goes well") && log.contains("destructors of modules do not return"), "{log}");
}

#[test]
fn a_stop_that_is_cut_short_loses_no_accepted_job() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let server = start_in(&dir, &["--shutdown-timeout-ms", LONG, "--job-workers", "1"]);
    let job = ".jobs = {{.name = \"endless\", .run = endless}}, .job_size = 1, .unload = hang,";
    server.deploy(&member("stuck", job));
    // One that has code running is not unloaded, so another one hangs there.
    server.deploy(&member("other", ".unload = hang,"));
    let accepted = Mutex::new(Vec::new());
    let submit = || {
        let Some(mut client) = Client::try_connect(&server.addr) else { return };
        while let Some(answer) = client.attempt("POST", "/jobs", br#"{"job":"endless"}"#) {
            if answer.status != 202 && answer.status != 200 {
                return;
            }
            let answer: Value = serde_json::from_slice(&answer.body).unwrap();
            accepted.lock().unwrap().push(answer["job_uuid"].as_str().unwrap().to_owned());
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(submit);
        }
        server.expect_log("the job runs");
        eventually("there are jobs", || accepted.lock().unwrap().len() > 50);
        signal(server.pid(), "TERM");
        server.expect_log("stopping");
        signal(server.pid(), "TERM");
    });
    let log = server.ends();
    assert!(log.contains("a second signal came"), "{log}");
    let server = start_in(&dir, &["--force-shutdown"]);
    for uuid in accepted.into_inner().unwrap() {
        assert_eq!(server.get(&format!("/jobs/{uuid}")).status, 200, "{uuid}");
    }
}

#[test]
fn a_signal_ends_a_start_that_a_module_holds_up() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let server = start_in(&dir, &["--shutdown-timeout-ms", LONG]);
    server.deploy(&member("first", ".unload = leave,"));
    server.deploy(&member("stuck", ".onload = hang_at_times,"));
    server.deploy(&member("last", ""));
    assert_eq!(server.stop().matches("goes well").count(), 1);
    std::fs::create_dir_all(dir.path().join("static")).unwrap();
    std::fs::write(dir.path().join("static/now"), "").unwrap();
    for name in ["TERM", "INT"] {
        let server = Server::starting(&dir, &["--shards", "2", "--hook-timeout-ms", LONG]);
        server.expect_log("the hook runs");
        signal(server.pid(), name);
        let log = server.ends();
        assert!(log.contains("a signal came while the modules were loaded; nothing has been served"), "{log}");
        assert!(!log.contains("listening on") && !log.contains("module last"), "{log}");
        // A busy machine may need more time than such a stop has.
        let is_unloaded = log.matches("goes well").count() == 1;
        assert!(is_unloaded || log.contains("unload is not waited for"), "what was loaded is unloaded: {log}");
    }
    std::fs::remove_file(dir.path().join("static/now")).unwrap();
    let server = start_in(&dir, &[]);
    for name in ["first", "stuck", "last"] {
        assert_eq!(server.get(&format!("/{name}")).text(), name);
    }
    server.stop();
}

#[test]
fn an_orderly_stop_has_no_error_in_the_log() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    start_in(&dir, &["--isolation", "process"]).deploy(&member("first", ".unload = leave,"));
    for _ in 0..20 {
        let log = start_in(&dir, &["--isolation", "process", "--shutdown-timeout-ms", LONG]).stop();
        assert!(!log.contains("ERROR") && !log.contains("WARN"), "{log}");
    }
}
