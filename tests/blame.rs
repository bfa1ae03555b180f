//! A crash is charged to the module that caused it, and to no other: not to one that runs at the same time, and not to the one that was
//! deployed last.

use crate::support::{self, Client, Server, constant, eventually, module};
use serde_json::Value;
use tungstenite::Message;

const HOLDS: &str = r#"
#include <unistd.h>
static _Atomic int held_so_far;
static int hold(struct cweb_context *c, http_request_t *q, http_response_t *r) { (void)c; (void)q; held_so_far++; for (int i = 0; i < 150; i++) usleep(10 * 1000); strcpy(r->body, "held"); return 0; }
static int held(struct cweb_context *c, http_request_t *q, http_response_t *r) { (void)c; (void)q; snprintf(r->body, HTTP_RESPONSE_SIZE, "%d", (int)held_so_far); return 0; }
static int pid(struct cweb_context *c, http_request_t *q, http_response_t *r) { (void)c; (void)q; snprintf(r->body, HTTP_RESPONSE_SIZE, "%d", (int)getpid()); return 0; }
"#;

fn culprit() -> String {
    std::fs::read_to_string(support::root().join("tests/modules/culprit.c")).unwrap()
}

/// The culprit, an innocent module that runs meanwhile, and an innocent one that is deployed last.
fn server(args: &[&str]) -> Server {
    let server = Server::with(&[&["--shards", "1"], args].concat());
    server.deploy(&culprit());
    let routes = r#"{"/hold","GET",hold,NONE},{"/held","GET",held,NONE},{"/pid","GET",pid,NONE}"#;
    server.deploy(&module("bystander", HOLDS, routes, 3, ""));
    server.deploy(&constant("latest", "/latest", "here"));
    server
}

/// Has the bystander run: it has begun to, and does for a while.
fn hold(server: &Server) -> Client {
    let mut client = server.connect();
    client.send(b"GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
    eventually("the bystander runs", || server.get("/held").text() != "0");
    client
}

fn quarantined(server: &Server) -> Vec<String> {
    let all: Value = serde_json::from_slice(&server.get("/mgnt").body).unwrap();
    let out = |module: &&Value| !module["quarantine"].is_null();
    let modules = all["modules"].as_array().unwrap();
    modules.iter().filter(out).map(|module| module["name"].as_str().unwrap().to_owned()).collect()
}

/// Has the culprit fail.
fn trigger(server: &Server, way: &str) {
    match way {
        "websocket" => {
            let mut socket = server.websocket("/culprit");
            socket.send(Message::text("x")).unwrap();
            server.expect_log("module culprit failed in on_message");
        }
        "job" => {
            let job = server.post("/jobs", br#"{"job":"culprit","max_attempts":1}"#);
            let uuid = serde_json::from_slice::<Value>(&job.body).unwrap()["job_uuid"].as_str().unwrap().to_owned();
            eventually("the job fails", || server.get(&format!("/jobs/{uuid}")).text().contains("job crashed"));
        }
        path => drop(server.get(&format!("/{path}"))),
    }
}

#[test]
fn a_fault_is_charged_to_the_module_in_whose_call_it_was() {
    let server = server(&["--crash-limit", "0"]);
    let _held = hold(&server);
    for (way, place) in [
        ("fault", "module culprit failed in a handler (GET /fault)"),
        ("answer", "module culprit failed in the answer of a handler (GET /answer)"),
        ("websocket", "module culprit failed in on_message"),
        ("schedule", "module culprit failed in scheduled work"),
        ("job", "culprit"),
    ] {
        trigger(&server, way);
        server.expect_log(place);
        eventually("the others are there", || {
            server.get("/latest").text() == "here" && server.get("/held").status == 200
        });
    }
    let log = server.log();
    for innocent in ["module bystander failed", "module latest failed", "bystander was running", "latest was running"] {
        assert!(!log.contains(innocent), "{innocent}: {log}");
    }
}

#[test]
fn only_the_culprit_gets_into_quarantine_however_it_does_it() {
    let server = server(&["--crash-limit", "2", "--isolation", "process"]);
    for way in [
        "fault",
        "answer",
        "websocket",
        "schedule",
        "job",
        "kills_itself",
        "stops_itself",
        "thread",
        "thread_leaves",
        "thread_kills",
    ] {
        for _ in 0..2 {
            eventually("all are there", || {
                ["/ok", "/latest", "/pid"].iter().all(|path| server.get(path).status == 200)
            });
            let before = server.get("/pid").text();
            let _held = hold(&server);
            trigger(&server, way);
            eventually("another process serves", || {
                let now = server.get("/pid");
                now.status == 200 && now.text() != before
            });
        }
        let mut refused = server.get("/ok");
        eventually("the culprit is in quarantine", || {
            refused = server.get("/ok");
            refused.status == 503
        });
        assert!(refused.text().contains("module culprit is in quarantine"), "{way}: {}", refused.text());
        assert_eq!(quarantined(&server), ["culprit"], "{way}: {}", server.log());
        server.deploy(&culprit());
    }
}

#[test]
fn a_call_of_exit_group_ends_the_call_and_nothing_else() {
    let server = server(&["--isolation", "process", "--crash-limit", "2"]);
    let before = server.get("/pid").text();
    for _ in 0..5 {
        let response = server.get("/exit_group");
        assert!(response.status == 500 && response.text().contains("exit(4)"), "{}", response.text());
    }
    assert_eq!(server.get("/pid").text(), before);
    assert_eq!(quarantined(&server), [""; 0]);
}

/// A version of the culprit that starts no threads: one that may have left threads behind stays mapped, and its destructors
/// don't run.
fn without_threads() -> String {
    let starts = "pthread_create(&thread, NULL, function, NULL);\n    pthread_detach(thread);";
    assert!(culprit().contains(starts));
    culprit().replace(starts, "(void)function, (void)thread;")
}

#[test]
fn what_a_version_does_at_its_end_is_its_own() {
    let server = server(&["--isolation", "process", "--crash-limit", "1"]);
    let destroyed = without_threads().replace("((destructor))", "((unused))");
    for (file, before, next, expected) in [
        ("unload", culprit(), culprit(), "module culprit failed: SIGSEGV at address 0x0 at unload+"),
        ("destroy", without_threads(), destroyed, "SIGSEGV at address 0x0; it was culprit"),
    ] {
        server.deploy(&before);
        let path = server.dir.path().join("static").join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "").unwrap();
        // The inspection runs the destructor of the version that comes, the swap that of the version that goes.
        server.deploy(&next.replace("\"ok\"", &format!("\"ok after {file}\"")));
        server.expect_log(expected);
        std::fs::remove_file(&path).unwrap();
        eventually("the others are there", || {
            server.get("/latest").text() == "here" && server.get("/pid").status == 200
        });
        let out = quarantined(&server);
        assert!(out.iter().all(|name| name == "culprit"), "{out:?} {}", server.log());
        server.post("/mgnt/culprit/restart", b"");
        eventually("the culprit is there", || server.get("/ok").status == 200);
    }
}

#[test]
fn nobody_is_charged_with_a_death_from_outside() {
    let server = server(&["--isolation", "process", "--crash-limit", "1"]);
    for _ in 0..6 {
        eventually("all are there", || ["/ok", "/latest", "/pid"].iter().all(|path| server.get(path).status == 200));
        let before = server.get("/pid").text();
        let _held = hold(&server);
        support::signal(before.parse().unwrap(), "KILL");
        eventually("another process serves", || {
            let now = server.get("/pid");
            now.status == 200 && now.text() != before
        });
        assert_eq!(quarantined(&server), [""; 0], "{}", server.log());
    }
    server.expect_log("SIGKILL; bystander was running, and no module is held responsible");
}

/// A module whose own cweb_bind_host, which the server calls when the module is loaded, crashes when `when` holds.
fn binds(name: &str, when: &str) -> String {
    format!(
        "#define cweb_bind_host cweb_bind_host_of_the_header\n#include <cweb.h>\n#undef cweb_bind_host\n#include <unistd.h>\n\
         __attribute__((visibility(\"default\"))) void cweb_bind_host(const struct cweb_host *host, const void *module) {{\n\
         cweb_binding.host = host; cweb_binding.module = module; if ({when}) *(volatile int *)0 = 1; }}\n\
         static int h(struct cweb_context *c, http_request_t *q, http_response_t *r) {{ (void)c, (void)q;\n\
         return cweb_respond(r, 200, \"text/plain\", \"bound\"); }}\n\
         export module_t config = {{.name = \"{name}\", .author = \"t\", .routes = {{{{\"/{name}\", \"GET\", h, NONE}}}}, .size = 1}};"
    )
}

#[test]
fn a_module_that_crashes_while_it_is_bound_is_refused_or_left_out() {
    let server = Server::start();
    server.deploy(&constant("bystander", "/bystander", "here"));
    let refused = server.try_deploy(&binds("at-once", "1"));
    assert_eq!(refused.status, 422, "{}", refused.text());
    assert_eq!(server.get("/bystander").text(), "here");
    if support::isolation() != "process" {
        return;
    }
    let flag = server.dir.path().join("static/flag");
    std::fs::create_dir_all(flag.parent().unwrap()).unwrap();
    server.deploy(&binds("later", "access(\"static/flag\", F_OK) == 0"));
    assert_eq!(server.get("/later").text(), "bound");
    std::fs::write(&flag, "").unwrap();
    let all: Value = serde_json::from_slice(&server.get("/mgnt").body).unwrap();
    support::signal(u32::try_from(all["domains"][0]["pid"].as_u64().unwrap()).unwrap(), "KILL");
    eventually("the module is left out", || quarantined(&server) == ["later"]);
    eventually("the others are back", || server.get("/bystander").text() == "here");
}
