//! Where handlers run: slow ones overlap, none delays another connection.

use crate::support::{Server, module};
use std::sync::Arc;

fn lab() -> String {
    let code = r#"
#define H(f) static int f(struct cweb_context *c, http_request_t *q, http_response_t *r)
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; static pthread_cond_t cond = PTHREAD_COND_INITIALIZER; static int here, open_gate;
H(meet) { (void)c; (void)q; pthread_mutex_lock(&lock); here++; pthread_cond_broadcast(&cond); while (here < 20) pthread_cond_wait(&cond, &lock); pthread_mutex_unlock(&lock); strcpy(r->body, "met"); return 0; }
static volatile int spinning;
H(spin) { (void)c; (void)q; spinning = 1; while (!open_gate) __asm__ volatile("" ::: "memory"); strcpy(r->body, "spun"); return 0; }
H(gate) { (void)c; (void)q; open_gate = 1; strcpy(r->body, "open"); return 0; }
H(moody) { (void)c; if (http_kv_get(q->params, "spin")) return spin(c, q, r); strcpy(r->body, "quick"); return 0; }
H(quick) { (void)c; (void)q; strcpy(r->body, "quick"); return 0; }
"#;
    let routes = r#"{"/meet","GET",meet,NONE},{"/spin","GET",spin,NONE},{"/gate","GET",gate,NONE},{"/moody","GET",moody,NONE},{"/quick","GET",quick,NONE},{"/inline","GET",quick,CWEB_INLINE}"#;
    module("lab", code, routes, 6, "")
}

#[test]
fn slow_handlers_overlap() {
    let server = Arc::new(Server::with(&["--shards", "1"]));
    server.deploy(&lab());
    // Each of the twenty waits for the other nineteen: they return only if all run at once.
    let threads: Vec<_> = (0..20)
        .map(|_| {
            let server = Arc::clone(&server);
            std::thread::spawn(move || server.get("/meet").text())
        })
        .collect();
    threads.into_iter().for_each(|thread| assert_eq!(thread.join().unwrap(), "met"));
}

#[test]
fn a_handler_that_computes_for_ever_delays_no_other() {
    let server = Server::with(&["--shards", "1", "--handler-timeout-ms", "110000"]);
    server.deploy(&lab());
    let mut stuck: Vec<_> = (0..3).map(|_| server.connect()).collect();
    for client in &mut stuck {
        client.send(b"GET /spin HTTP/1.1\r\nHost: x\r\n\r\n");
    }
    // The order of events proves it: these are answered while the others can't be.
    for _ in 0..50 {
        assert_eq!(server.get("/quick").text(), "quick");
        assert_eq!(server.get("/inline").text(), "quick");
    }
    assert_eq!(server.get("/gate").text(), "open");
    for client in &mut stuck {
        assert_eq!(client.response().text(), "spun");
    }
}

#[test]
fn a_handler_known_as_short_that_turns_long_holds_up_nobody_behind_it() {
    let server = Server::with(&["--shards", "1", "--handler-timeout-ms", "110000"]);
    server.deploy(&lab());
    let mut client = server.connect();
    for _ in 0..200 {
        assert_eq!(client.get("/moody").text(), "quick");
        assert_eq!(client.get("/quick").text(), "quick");
    }
    let mut stuck = server.connect();
    stuck.send(b"GET /moody?spin=1 HTTP/1.1\r\nHost: x\r\n\r\n");
    for _ in 0..50 {
        assert_eq!(client.get("/quick").text(), "quick");
    }
    assert_eq!(client.get("/gate").text(), "open");
    assert_eq!(stuck.response().text(), "spun");
}

#[test]
fn calls_that_wait_for_a_thread_end_no_process() {
    let args = ["--shards", "1", "--executors-max", "1", "--handler-timeout-ms", "8000", "--isolation", "process"];
    let server = Server::with(&args);
    server.deploy_file("tests/modules/patience.c");
    let mut socket = server.websocket("/echo");
    // It has the time, and takes the only thread that there is.
    let mut slow = server.connect();
    slow.send(b"GET /slow?ms=17000 HTTP/1.1\r\nHost: x\r\n\r\n");
    socket.send("patient".into()).unwrap();
    let answer = server.get("/other");
    if answer.status != 200 {
        assert_eq!(answer.status, 503);
        assert!(answer.text().contains("has no thread left"), "{}", answer.text());
    }
    let answer = slow.response();
    assert_eq!((answer.status, answer.text()), (200, "slow".to_owned()));
    assert_eq!(socket.read().unwrap().into_text().unwrap().as_str(), "patient");
    assert!(!server.log().contains("is replaced"), "{}", server.log());
}
