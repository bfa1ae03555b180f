//! Module code that somebody waits for and that never returns: constructors, `onload`, `unload`, cancel callbacks.

use crate::support::load::Load;
use crate::support::{self, load};
use crate::support::{Response, Server, Socket, eventually, module};
use serde_json::Value;
use std::sync::Arc;
use tungstenite::Message;

/// Long for a hook that does nothing, also on a machine that is kept busy; short for one that never returns.
const LIMIT: [&str; 2] = ["--hook-timeout-ms", "5000"];

/// What hooks and constructors can do. Constructors run in the inspection too, which is not what is tried here.
const CODE: &str = r#"
#include <fcntl.h>
#include <unistd.h>
#define H(f) static int f(struct cweb_context *c, http_request_t *q, http_response_t *r)
#define HOOK(f) static void f(struct cweb_context *c)
#define NEVER() for (;;) pause()
#define BUSY() for (volatile int i = 0;; i++) { }
#define IN_DOMAIN(argc, argv) ((argc) > 1 && strcmp((argv)[1], "domain") == 0)
static int on;
HOOK(load) { (void)c; on++; }
HOOK(unload) { (void)c; on--; }
static void on_message(struct cweb_context *c, websocket_t *ws, const char *text, size_t n) { (void)c; ws->send(ws, text, n); }
"#;

/// A module of `code` whose route `/NAME` answers `text`, with a WebSocket at `/NAME/ws` that answers what it is told.
fn member(name: &str, text: &str, code: &str, fields: &str) -> String {
    let code = format!("{CODE}{code}\nHANDLER(h, \"{text}\")");
    let fields = format!(r#".websockets = {{{{"/{name}/ws", NULL, on_message, NULL}}}}, .ws_size = 1, {fields}"#);
    module(name, &code, &format!("{{\"/{name}\",\"GET\",h,NONE}}"), 1, &fields)
}

fn start(more: &[&str]) -> Server {
    start_in(&Arc::new(tempfile::tempdir().unwrap()), more)
}

fn start_in(dir: &Arc<tempfile::TempDir>, more: &[&str]) -> Server {
    Server::on(dir, &[&["--shards", "2", "--isolation", "process"], &LIMIT[..], more].concat(), &[])
}

/// A module that must not notice anything.
struct Neighbour<'a> {
    server: &'a Server,
    load: Load,
    socket: Socket,
    pid: u64,
}

impl<'a> Neighbour<'a> {
    fn of(server: &'a Server) -> Self {
        server.deploy(&member("neighbour", "here", "", ""));
        let load = Load::start(server, "/neighbour", &["here"], 3);
        let socket = server.websocket("/neighbour/ws");
        let mut neighbour = Self { server, load, socket, pid: pid(server) };
        neighbour.is_well();
        neighbour
    }

    fn is_well(&mut self) {
        self.load.goes_on();
        self.socket.send(Message::text("hello")).unwrap();
        assert_eq!(self.socket.read().unwrap(), Message::text("hello"));
    }

    /// The process was replaced since the last time, and nobody noticed.
    fn has_moved(&mut self) {
        let (server, before) = (self.server, self.pid);
        eventually("the process is another", || pid(server) != before);
        self.pid = pid(server);
        self.is_well();
    }

    /// Deployments work, and nothing was lost or is left behind.
    fn end(mut self) {
        self.server.deploy(&member("another", "another", "", ".onload = load, .unload = load,"));
        assert_eq!(self.server.get("/another").text(), "another");
        self.is_well();
        self.load.end();
        // The server, the process of the modules and its spare.
        eventually("the old processes are gone", || self.server.processes().len() == 3);
        let log = self.server.log();
        assert!(!log.contains(" died"), "{log}");
    }
}

/// The process that serves; the one before while it is being replaced.
fn pid(server: &Server) -> u64 {
    let mut pid = None;
    eventually("there is a process", || {
        let listed: Value = serde_json::from_slice(&server.get("/mgnt").body).unwrap();
        pid = listed["domains"][0]["pid"].as_u64();
        pid.is_some()
    });
    pid.unwrap()
}

fn is_refused(response: &Response, what: &str) {
    let text = response.text();
    assert_eq!(response.status, 422, "{text}");
    for part in ["module stuck", what, "5000 ms", "--hook-timeout-ms"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn an_onload_that_never_returns_refuses_a_first_deployment() {
    let _turn = load::turn();
    let server = start(&[]);
    let mut neighbour = Neighbour::of(&server);
    for how in ["NEVER()", "BUSY()"] {
        let refused =
            server.try_deploy(&member("stuck", "no", &format!("HOOK(hang) {{ (void)c; {how}; }}"), ".onload = hang,"));
        is_refused(&refused, "onload");
        neighbour.has_moved();
        assert_eq!(server.get("/stuck").status, 404);
    }
    // Its name is free for a better one.
    server.deploy(&member("stuck", "yes", "", ".onload = load,"));
    assert_eq!(server.get("/stuck").text(), "yes");
    neighbour.end();
}

#[test]
fn an_onload_that_never_returns_leaves_the_old_version_in_service() {
    let _turn = load::turn();
    let server = start(&[]);
    let mut neighbour = Neighbour::of(&server);
    // With and without a hook that has to run before: then requests wait for it, and the old version comes back.
    for hooks in ["", ".onload = load, .unload = unload,"] {
        server.deploy(&member("stuck", "old", "", hooks));
        let own = Load::start(&server, "/stuck", &["old"], 2);
        let mut socket = server.websocket("/stuck/ws");
        let refused = server.try_deploy(&member("stuck", "new", "HOOK(hang) { (void)c; NEVER(); }", ".onload = hang,"));
        is_refused(&refused, "onload");
        neighbour.has_moved();
        own.end();
        socket.send(Message::text("still")).unwrap();
        assert_eq!(socket.read().unwrap(), Message::text("still"));
    }
    server.deploy(&member("stuck", "new", "", ".onload = load,"));
    assert_eq!(server.get("/stuck").text(), "new");
    neighbour.end();
}

#[test]
fn an_unload_that_never_returns_holds_no_swap_up() {
    let _turn = load::turn();
    let server = start(&[]);
    let mut neighbour = Neighbour::of(&server);
    let hang = "HOOK(hang) { (void)c; NEVER(); }";
    // In the swap, because the new version has a hook that has to wait; and after it.
    for (round, hooks) in [".onload = load,", ""].iter().enumerate() {
        server.deploy(&member("stuck", "old", &format!("{hang}\n#define ROUND {round}"), ".unload = hang,"));
        let own = Load::start(&server, "/stuck", &["old", "new"], 2);
        own.goes_on();
        server.deploy(&member("stuck", "new", "", hooks));
        assert_eq!(server.get("/stuck").text(), "new");
        eventually("it is told", || {
            server.log().matches("module stuck failed in unload: did not return within 5000 ms").count() == round + 1
        });
        neighbour.has_moved();
        own.end();
    }
    // And when a module goes for good.
    server.deploy(&member("stuck", "last", hang, ".unload = hang,"));
    assert_eq!(server.connect().request("DELETE", "/mgnt/stuck", &[], b"").status, 200);
    neighbour.has_moved();
    assert_eq!(server.get("/stuck").status, 404);
    neighbour.end();
}

/// A module whose handler keeps its thread for a while.
fn napper() -> String {
    let code =
        format!("{CODE}H(nap) {{ (void)c; (void)q; usleep(100 * 1000); strcpy(r->body, \"rested\"); return 0; }}");
    module("napper", &code, r#"{"/nap","GET",nap,NONE}"#, 1, "")
}

#[test]
fn a_constructor_that_never_returns_is_refused_and_holds_no_other_deployment_up() {
    let _turn = load::turn();
    let server = start(&[]);
    let mut neighbour = Neighbour::of(&server);
    server.deploy(&member("stuck", "old", "", ""));
    server.deploy(&napper());
    let own = Load::start(&server, "/stuck", &["old"], 1);
    // What only moves is neither compiled nor inspected: it is there long before the constructor is given up.
    let move_to = |domain: &str| {
        let waiting = member("waiting", "waited", "", ".onload = load,");
        let moved = server.post(&format!("/mgnt?domain={domain}"), waiting.as_bytes());
        assert_eq!(moved.status, 200, "{}\n{}", moved.text(), server.log());
    };
    move_to("elsewhere");
    let code = r#"__attribute__((constructor)) static void begin(int argc, char **argv) {
  if (!IN_DOMAIN(argc, argv)) return;
  char path[4096]; snprintf(path, sizeof path, "%s/begun", getenv("TMPDIR")); close(open(path, O_CREAT | O_WRONLY, 0600)); NEVER(); }"#;
    std::thread::scope(|scope| {
        let stuck = scope.spawn(|| server.try_deploy(&member("stuck", "new", code, "")));
        eventually("the constructor runs", || server.dir.path().join("scratch/default/begun").exists());
        // More calls at once than there are threads: those that start now take their first call while the loader is held.
        let naps: Vec<_> = (0..16).map(|_| scope.spawn(|| server.get("/nap").text())).collect();
        assert!(naps.into_iter().all(|nap| nap.join().unwrap() == "rested"));
        // The dynamic loader lets it wait: its own time begins when it is its turn.
        move_to("default");
        is_refused(&stuck.join().unwrap(), "constructor");
    });
    neighbour.has_moved();
    own.end();
    assert_eq!(server.get("/waiting").text(), "waited");
    neighbour.end();
}

#[test]
fn a_destructor_that_never_returns_is_not_put_down_to_the_next_deployment() {
    let _turn = load::turn();
    let server = start(&[]);
    let mut neighbour = Neighbour::of(&server);
    let code = r#"static int in_domain;
__attribute__((constructor)) static void begin(int argc, char **argv) { in_domain = IN_DOMAIN(argc, argv); }
__attribute__((destructor)) static void end(void) { if (in_domain) NEVER(); }"#;
    server.deploy(&member("stuck", "old", code, ""));
    server.deploy(&member("stuck", "new", "", ""));
    server.deploy(&member("waiting", "waited", "", ".onload = load,"));
    neighbour.has_moved();
    assert_eq!(server.get("/stuck").text() + &server.get("/waiting").text(), "newwaited");
    neighbour.end();
}

/// A module whose `onload` never returns while there is a file.
fn stuck_at_times() -> String {
    let code = "HOOK(hang) { (void)c; if (access(\"static/now\", F_OK) == 0) NEVER(); }";
    member("stuck", "stuck", code, ".onload = hang,")
}

#[test]
fn a_start_skips_a_module_whose_onload_never_returns() {
    let _turn = load::turn();
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let server = start_in(&dir, &[]);
    server.deploy(&stuck_at_times());
    server.deploy(&member("neighbour", "here", "", ""));
    server.stop();
    std::fs::write(dir.path().join("static/now"), "").unwrap();
    let server = start_in(&dir, &[]);
    assert_eq!((server.get("/stuck").status, server.get("/neighbour").text().as_str()), (404, "here"));
    server.expect_log("module stuck is skipped: module stuck failed in onload: did not return within 5000 ms");
    std::fs::remove_file(dir.path().join("static/now")).unwrap();
    server.deploy(&stuck_at_times());
    assert_eq!(server.get("/stuck").text(), "stuck");
}

#[test]
fn a_module_that_hangs_when_it_is_loaded_again_is_left_out() {
    let _turn = load::turn();
    let server = start(&["--crash-limit", "1"]);
    server.deploy(&stuck_at_times());
    server.deploy(&member("neighbour", "here", "", ""));
    std::fs::write(server.dir.path().join("static/now"), "").unwrap();
    support::signal(pid(&server).try_into().unwrap(), "KILL");
    eventually("the neighbour is back", || server.get("/neighbour").text() == "here");
    let refused = server.get("/stuck");
    assert_eq!(refused.status, 503);
    for part in ["onload did not return within 5000 ms", "being loaded", "/mgnt/stuck/restart"] {
        assert!(refused.text().contains(part), "{part}: {}", refused.text());
    }
    // It still hangs, and is told so; then not any more.
    let failed = server.post("/mgnt/stuck/restart", b"");
    assert!(failed.status == 500 && failed.text().contains("5000 ms"), "{}", failed.text());
    std::fs::remove_file(server.dir.path().join("static/now")).unwrap();
    assert_eq!(server.post("/mgnt/stuck/restart", b"").status, 200);
    eventually("it is back", || server.get("/stuck").text() == "stuck");
    assert_eq!(server.get("/neighbour").text(), "here");
}

#[test]
fn a_cancel_callback_that_never_returns_has_its_process_replaced() {
    let _turn = load::turn();
    let server = start(&[]);
    let mut neighbour = Neighbour::of(&server);
    let code = "static int run(struct cweb_context *c, const job_payload_t *p, job_ctx_t *j) { (void)c; (void)p; \
        j->emit_event(j, \"runs\", NULL); while (!j->is_canceled(j)) usleep(1000); return 0; }\n\
        static void cancel(struct cweb_context *c, const char *uuid) { (void)c; (void)uuid; NEVER(); }";
    server.deploy(&member("stuck", "yes", code, ".jobs = {{\"stuck\", run, cancel}}, .job_size = 1,"));
    let accepted: Value = serde_json::from_slice(&server.post("/jobs", br#"{"job":"stuck"}"#).body).unwrap();
    let job = format!("/jobs/{}", accepted["job_uuid"].as_str().unwrap());
    eventually("it runs", || server.get(&format!("{job}/events")).text().contains("\"runs\""));
    assert_eq!(server.post(&format!("{job}/cancel"), b"").status, 200);
    neighbour.has_moved();
    assert!(server.get(&job).text().contains("\"canceled\""));
    assert!(server.log().contains("the cancel callback of a job did not return within 5000 ms"), "{}", server.log());
    // The job's worker is free.
    assert_eq!(server.get("/stuck").text(), "yes");
    neighbour.end();
}
