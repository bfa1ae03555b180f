//! Modules that fail: the call they failed in gets a 500, everything else goes on.

use crate::support::{Server, eventually, module};
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
fn stacks_have_room_and_none_that_overflows_ends_the_server() {
    let code = r#"
#define H(f) static int f(struct cweb_context *c, http_request_t *q, http_response_t *r)
static int fill(void) { double a[600][600]; for (int i = 0; i < 600; i++) for (int j = 0; j < 600; j++) a[i][j] = i + j; volatile double *p = a[599]; return (int)p[599]; }
H(large) { (void)c; (void)q; snprintf(r->body, HTTP_RESPONSE_SIZE, "%d", fill()); return 0; }
static int deep(volatile char *p, int n) { volatile char b[3000000]; b[0] = p ? p[0] : 1; return n > 0 ? deep(b, n + 1) + b[0] : 0; }
H(endless) { (void)c; (void)q; r->content_length = deep(NULL, 1); return 0; }
static int many(size_t n) { volatile char b[n]; b[0] = b[n - 1] = 1; return b[n / 2]; }
H(variable) { (void)c; (void)q; r->content_length = many(30u << 20); return 0; }
static int sum(struct cweb_context *c, const job_payload_t *p, job_ctx_t *j) { (void)c; (void)p; char b[8]; snprintf(b, sizeof b, "%d", fill()); return j->set_result(j, b); }
static int loaded;
static void onload(struct cweb_context *c) { (void)c; loaded = fill(); }
H(hook) { (void)c; (void)q; snprintf(r->body, HTTP_RESPONSE_SIZE, "%d", loaded); return 0; }
static void on_message(struct cweb_context *c, websocket_t *w, const char *m, size_t n) { (void)c; (void)n; char b[8]; snprintf(b, sizeof b, "%d", *m == 'x' ? deep(NULL, 1) : fill()); w->send(w, b, strlen(b)); }
"#;
    let routes = r#"{"/large","GET",large,NONE},{"/inline/large","GET",large,CWEB_INLINE},{"/endless","GET",endless,NONE},
        {"/inline/endless","GET",endless,CWEB_INLINE},{"/variable","GET",variable,NONE},{"/hook","GET",hook,NONE}"#;
    let rest = r#".websockets = {{"/ws", NULL, on_message, NULL}}, .ws_size = 1, .jobs = {{"sum", sum, NULL}}, .job_size = 1, .onload = onload,"#;
    let server = Server::with(&["--shards", "2", "--crash-limit", "0"]);
    server.deploy(&module("deep", code, routes, 6, rest));
    for _ in 0..2 {
        for path in ["/large", "/inline/large", "/hook"] {
            assert_eq!(server.get(path).text(), "1198", "{path}");
        }
        for path in ["/endless", "/inline/endless", "/variable"] {
            let response = server.get(path);
            assert!(
                response.status == 500 && response.text().contains("stack overflow"),
                "{path}: {}",
                response.text()
            );
        }
    }
    let mut socket = server.websocket("/ws");
    for text in ["a", "x", "b"] {
        socket.send(Message::text(text)).unwrap();
    }
    assert_eq!(socket.read().unwrap(), Message::text("1198"));
    assert_eq!(socket.read().unwrap(), Message::text("1198"));
    let job = server.post("/jobs", br#"{"module":"deep","job":"sum"}"#).text();
    let uuid = job.split('"').nth(3).unwrap();
    eventually("the job is done", || server.get(&format!("/jobs/{uuid}")).text().contains("\"result\":1198"));
}

#[test]
fn the_libraries_other_ways_to_exit_end_the_handler_alone() {
    let code = r#"
#include <err.h>
#include <errno.h>
#include <error.h>
#include <threads.h>
#define H(f) static int f(struct cweb_context *c, http_request_t *q, http_response_t *r)
H(errs) { (void)c; (void)q; (void)r; errno = ENOENT; err(1, "no %s", "way"); }
H(errxs) { (void)c; (void)q; (void)r; errx(2, "plainly %d", 2); }
static void forward(int reason, const char *format, ...) { va_list a; va_start(a, format); if (reason) { errno = EPERM; verr(3, format, a); } else verrx(4, format, a); }
H(verrs) { (void)c; (void)q; (void)r; forward(1, "variadic"); return 0; }
H(verrxs) { (void)c; (void)q; (void)r; forward(0, "variadic too"); return 0; }
H(errors) { (void)c; (void)q; (void)r; error(5, EACCES, "gnu"); return 0; }
H(lines) { (void)c; (void)q; (void)r; error_at_line(6, 0, "file.x", 7, "at a line"); return 0; }
H(warned) { (void)c; (void)q; error(0, 0, "only told"); strcpy(r->body, "went on"); return 0; }
H(ended) { (void)c; (void)q; (void)r; pthread_exit(NULL); }
H(ended11) { (void)c; (void)q; (void)r; thrd_exit(8); }
static void *own(void *p) { pthread_exit(p); }
H(thread) { (void)c; (void)q; pthread_t t; void *got = NULL; pthread_create(&t, NULL, own, r); pthread_join(t, &got); strcpy(r->body, got == r ? "joined" : "lost"); return 0; }
"#;
    let names = ["errs", "errxs", "verrs", "verrxs", "errors", "lines", "ended", "ended11", "warned", "thread"];
    let mut routes: String = names.iter().map(|name| format!("{{\"/{name}\",\"GET\",{name},NONE}},")).collect();
    routes.push_str(r#"{"/inline/ended","GET",ended,CWEB_INLINE}"#);
    let server = Server::with(&["--shards", "2"]);
    server.deploy(&module("ways", code, &routes, names.len() + 1, ""));
    for (path, exit, line) in [
        ("/errs", 1, "[ways] no way: No such file or directory"),
        ("/errxs", 2, "[ways] plainly 2"),
        ("/verrs", 3, "[ways] variadic: Operation not permitted"),
        ("/verrxs", 4, "[ways] variadic too"),
        ("/errors", 5, "[ways] gnu: Permission denied"),
        ("/lines", 6, "[ways] file.x:7: at a line"),
        ("/ended", 0, ""),
        ("/inline/ended", 0, ""),
        ("/ended11", 8, ""),
    ] {
        let response = server.get(path);
        let said = response.text();
        assert!(response.status == 500 && said.contains(&format!("exit({exit})")), "{path}: {said}");
        server.expect_log(line);
    }
    assert_eq!(server.get("/warned").text(), "went on");
    server.expect_log("[ways] only told");
    assert_eq!(server.get("/thread").text(), "joined");
}

#[test]
fn functions_of_a_module_win_over_libraries() {
    // Without a header that declares them, these are names like any other.
    let names = ["login", "logout", "send", "sync", "error"];
    let handler =
        |name: &&str| format!("H({name}) {{ (void)c; (void)q; strcpy(r->body, \"own {name}\"); return 0; }}\n");
    let head = "#define H(f) int f(struct cweb_context *c, http_request_t *q, http_response_t *r)\n";
    let code = format!("{head}{}", names.iter().map(handler).collect::<String>());
    let routes: String = names.iter().map(|name| format!("{{\"/{name}\",\"GET\",{name},NONE}},")).collect();
    let server = Server::start();
    server.deploy(&module("names", &code, &routes, names.len(), ""));
    for name in names {
        assert_eq!(server.get(&format!("/{name}")).text(), format!("own {name}"));
    }
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
fn a_module_can_neither_redirect_nor_close_the_output_of_all() {
    let code = r#"
#include <errno.h>
#define H(f) static int f(struct cweb_context *c, http_request_t *q, http_response_t *r)
H(reopen) { (void)c; (void)q; FILE *f = freopen("out.txt", "a", stdout); int why = errno; printf("after freopen\n"); snprintf(r->body, 64, "%d", f == NULL && why == EPERM); return 0; }
H(closes) { (void)c; (void)q; int rc = fclose(stdout) | fclose(stderr); printf("after fclose\n"); fprintf(stderr, "and stderr\n"); snprintf(r->body, 64, "%d", rc); return 0; }
H(own) { (void)c; (void)q; FILE *f = fopen("/dev/null", "w"); f = freopen("/dev/null", "r", f); int c1 = f ? getc(f) : 0; snprintf(r->body, 64, "%d %d", c1, f ? fclose(f) : -1); return 0; }
"#;
    let routes = r#"{"/reopen","GET",reopen,NONE},{"/closes","GET",closes,NONE},{"/own","GET",own,NONE}"#;
    let server = Server::start();
    server.deploy(&module("outs", code, routes, 3, ""));
    server.deploy(&lab());
    for _ in 0..2 {
        assert_eq!(server.get("/reopen").text(), "1");
        assert_eq!(server.get("/closes").text(), "0");
        assert_eq!(server.get("/own").text(), "-1 0");
    }
    for line in ["[outs] after freopen", "[outs] after fclose", "[outs] and stderr"] {
        server.expect_log(line);
    }
    assert_eq!(server.get("/prints").text(), "printed");
    server.expect_log("[lab] to stdout 42");
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
