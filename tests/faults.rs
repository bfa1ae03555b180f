//! Modules that fail: the call they failed in gets a 500, everything else goes on.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use support::{Server, eventually, module};
use tungstenite::Message;

fn lab() -> String {
    let code = r#"
#define H(f) static int f(struct cweb_context *c, http_request_t *q, http_response_t *r)
H(fine) { (void)c; (void)q; strcpy(r->body, "fine"); return 0; }
H(segv) { (void)c; (void)q; (void)r; *(volatile int *)8 = 1; return 0; }
H(fpe) { (void)c; (void)q; volatile int z = 0; r->content_length = 100 / z; return 0; }
H(ill) { (void)c; (void)q; (void)r; __builtin_trap(); return 0; }
H(aborts) { (void)c; (void)q; (void)r; abort(); return 0; }
H(exits) { (void)c; (void)q; (void)r; exit(7); return 0; }
H(bus) { (void)c; (void)q; (void)r; raise(SIGBUS); return 0; }
static int deep(volatile char *p, int n) { volatile char b[4096]; b[0] = p ? p[0] : 1; return n > 0 ? deep(b, n + 1) + b[0] : 0; }
H(overflow) { (void)c; (void)q; r->content_length = deep(NULL, 1); return 0; }
H(locks) { (void)q; (void)r; container_set(c->cache, "k", "v"); pthread_mutex_lock(&c->cache->mutex); *(volatile int *)0 = 1; return 0; }
H(cached) { (void)q; snprintf(r->body, HTTP_RESPONSE_SIZE, "%s", (char *)container_get(c->cache, "k")); return 0; }
H(prints) { (void)c; (void)q; printf("to stdout %d\n", 42); fprintf(stderr, "to stderr\n"); puts("put"); cweb_log(CWEB_LOG_WARN, "logged"); strcpy(r->body, "printed"); return 0; }
static void on_message(struct cweb_context *c, websocket_t *w, const char *m, size_t n) { (void)c; if (*m == 'x') *(volatile int *)0 = 1; w->send(w, m, n); }
"#
    .replace("#define H", "#include <signal.h>\n#define H");
    let kinds = ["fine", "segv", "fpe", "ill", "aborts", "exits", "bus", "overflow", "locks", "cached", "prints"];
    let mut routes: String = kinds.iter().map(|kind| format!("{{\"/{kind}\",\"GET\",{kind},NONE}},")).collect();
    routes.push_str(r#"{"/inline/segv","GET",segv,CWEB_INLINE},{"/inline/overflow","GET",overflow,CWEB_INLINE}"#);
    module("lab", &code, &routes, kinds.len() + 2, r#".websockets = {{"/ws", NULL, on_message, NULL}}, .ws_size = 1,"#)
}

#[test]
fn each_kind_of_fault_is_a_500_that_names_the_module() {
    // Quarantine, where there is one, has tests of its own.
    let server = Server::with(&["--shards", "2", "--crash-limit", "0"]);
    server.deploy(&lab());
    let mut client = server.connect();
    for _ in 0..3 {
        for (path, word) in [
            ("/segv", "SIGSEGV at address 0x8"),
            ("/fpe", "SIGFPE"),
            ("/ill", "SIG"),
            ("/aborts", "abort()"),
            ("/exits", "exit(7)"),
            ("/bus", "SIGBUS"),
            ("/overflow", "stack overflow"),
            ("/locks", "SIGSEGV"),
            ("/inline/segv", "SIGSEGV"),
            ("/inline/overflow", "stack overflow"),
        ] {
            let response = client.get(path);
            assert_eq!(response.status, 500, "{path}");
            assert!(
                response.text().contains("module lab") && response.text().contains(word),
                "{path}: {}",
                response.text()
            );
            assert_eq!(client.get("/fine").text(), "fine");
        }
    }
    server.expect_log("module lab failed in a handler (GET /segv)");
}

#[test]
fn a_fault_leaves_no_lock_of_the_cache_behind() {
    // In a process of its own the cache would be gone with that.
    let server = Server::with(&["--isolation", "none"]);
    server.deploy(&lab());
    for _ in 0..3 {
        assert_eq!(server.get("/locks").status, 500);
        assert_eq!(server.get("/cached").text(), "v");
    }
}

#[test]
fn a_fault_in_a_websocket_callback_ends_neither_socket_nor_server() {
    let server = Server::start();
    server.deploy(&lab());
    let mut socket = server.websocket("/ws");
    for text in ["a", "x", "b"] {
        socket.send(Message::text(text)).unwrap();
    }
    assert_eq!(socket.read().unwrap(), Message::text("a"));
    assert_eq!(socket.read().unwrap(), Message::text("b"));
    server.expect_log("failed in on_message");
    assert_eq!(server.get("/fine").text(), "fine");
}

#[test]
fn what_a_module_prints_is_in_the_log_under_its_name() {
    let server = Server::start();
    server.deploy(&lab());
    assert_eq!(server.get("/prints").text(), "printed");
    for line in ["[lab] to stdout 42", "[lab] to stderr", "[lab] put", "[lab] logged"] {
        server.expect_log(line);
    }
}

#[test]
fn a_client_that_resets_harms_nobody() {
    let server = Server::start();
    server.deploy(&lab());
    server.wait_complete();
    let before = server.descriptors();
    for _ in 0..50 {
        let mut client = server.connect();
        client.send(b"GET /fine HTTP/1.1\r\nHost: x\r\n\r\nGET /fi");
        let mut socket = server.websocket("/ws");
        socket.send(Message::text("hello")).unwrap();
        // Closing with unread answers makes the kernel send a reset.
    }
    assert_eq!(server.get("/fine").text(), "fine");
    eventually("descriptors are given back", || server.descriptors() <= before + 2);
}

#[test]
fn what_a_module_leaves_for_the_exit_may_print() {
    let code = r#"
static void at_exit(void) { printf("printed at the exit\n"); }
static void onload(struct cweb_context *c) { (void)c; atexit(at_exit); }
static int stays(struct cweb_context *c, http_request_t *q, http_response_t *r) { (void)c; (void)q; (void)r; for (;;) sleep(1); return 0; }
"#;
    let code = format!("#include <stdlib.h>\n#include <unistd.h>\n{code}");
    let mut server = Server::with(&["--shards", "1", "--shutdown-timeout-ms", "200"]);
    server.deploy(&module("stayer", &code, r#"{"/stays","GET",stays,NONE}"#, 1, ".onload = onload,"));
    let mut client = server.connect();
    client.send(b"GET /stays HTTP/1.1\r\nHost: localhost\r\n\r\n");
    eventually("it runs", || server.get("/metrics").text().contains("cweb_calls_in_flight{shard=\"0\"} 1"));
    // A module that is still running is not closed before the server exits.
    server.terminate();
    assert!(!server.log().contains("panicked"), "{}", server.log());
}
