//! What a connection does while an answer is owed, and at its end: bodies that wait, interim answers, half-closes, the
//! idle time, the stop.

use crate::support::{self, Client, Server, eventually, module, signal};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};
use tungstenite::Message;
use tungstenite::protocol::frame::coding::CloseCode;

const MIB: usize = 1 << 20;

/// A handler, a WebSocket and a job that wait until `/go`.
fn gate() -> String {
    let code = r#"
#include <unistd.h>
#define H(f) static int f(struct cweb_context *c, http_request_t *q, http_response_t *r)
static _Atomic int open_gate, waiting;
static void until_open(void) { waiting++; while (!open_gate) usleep(1000); waiting--; }
H(wait_here) { (void)c; (void)q; until_open(); strcpy(r->body, "waited"); return 0; }
H(go) { (void)c; (void)q; open_gate = 1; strcpy(r->body, "gone"); return 0; }
H(count) { (void)c; (void)q; snprintf(r->body, HTTP_RESPONSE_SIZE, "%d", waiting); return 0; }
H(length) { (void)c; snprintf(r->body, HTTP_RESPONSE_SIZE, "%d", q->content_length); return 0; }
static void on_message(struct cweb_context *c, websocket_t *w, const char *m, size_t n) { (void)c; (void)w; (void)m; (void)n; until_open(); }
static int run(struct cweb_context *c, const job_payload_t *p, job_ctx_t *j) { (void)c; (void)p; j->emit_event(j, "begun", NULL); until_open(); return 0; }
"#;
    let routes = r#"{"/wait","GET",wait_here,NONE},{"/go","GET",go,NONE},{"/count","GET",count,NONE},{"/length","POST",length,NONE}"#;
    let fields = r#".websockets = {{"/ws", NULL, on_message, NULL}}, .ws_size = 1, .jobs = {{"job", run, NULL}}, .job_size = 1,"#;
    module("gate", code, routes, 4, fields)
}

fn server(args: &[&str]) -> Server {
    let server = Server::with(&[&["--shards", "1"], args].concat());
    server.deploy(&gate());
    server
}

fn wait_for(server: &Server, waiting: usize) {
    eventually("they wait", || server.get("/count").text() == waiting.to_string());
}

#[test]
fn bodies_that_wait_for_their_turn_are_counted() {
    // As low as they get: a source of 4 MiB must fit.
    let server = server(&["--bodies-bytes-max", "1", "--route-body-bytes-max", "1048576"]);
    let body = vec![b'b'; MIB];
    let mut clients: Vec<Client> = (0..8)
        .map(|_| {
            let mut client = server.connect();
            let head = format!("POST /length HTTP/1.1\r\nHost: localhost\r\nContent-Length: {MIB}\r\n\r\n");
            client.send(b"GET /wait HTTP/1.1\r\nHost: localhost\r\n\r\n");
            client.send(&[head.as_bytes(), &body].concat());
            // One after the other: what arrives at once is counted for itself.
            std::thread::sleep(Duration::from_millis(50));
            client
        })
        .collect();
    wait_for(&server, 8);
    if support::isolation() == "none" {
        eventually("there is no room", || {
            let answer = server.post("/length", &body);
            assert!(answer.status == 200 || answer.status == 503 && answer.header("retry-after").is_some());
            answer.text() == "too many requests in flight\n"
        });
    } else {
        // What waits for a domain has the same limit for itself.
        assert_eq!(server.post("/length", &body).text(), MIB.to_string());
    }
    assert_eq!(server.get("/go").text(), "gone");
    let mut answers = Vec::new();
    for client in &mut clients {
        assert_eq!(client.response().text(), "waited");
        let answer = client.response_to("POST");
        assert!(answer.status == 503 || answer.text() == MIB.to_string(), "{}", answer.text());
        answers.push(answer.status);
    }
    // Four fit; how many do depends on what arrived together, and on what before the gate was opened.
    assert!(answers.contains(&200), "{answers:?}");
    // It is only those that wait.
    eventually("there is room", || server.post("/length", &body).text() == MIB.to_string());
}

/// Of bodies that come at the same time and have no room together, as many as have room come through.
#[test]
fn one_body_too_many_costs_one_body() {
    let server = server(&["--bodies-bytes-max", "1", "--route-body-bytes-max", "1048576"]);
    let head = format!("POST /length HTTP/1.1\r\nHost: localhost\r\nContent-Length: {MIB}\r\n\r\n");
    // 4 MiB are allowed: there is no room for the end of the last of these.
    let (begin, end) = (vec![b'b'; 700_000], vec![b'e'; MIB - 700_000]);
    let begun = |_| {
        let mut client = server.connect();
        client.send(&[head.as_bytes(), &begin].concat());
        client
    };
    let mut clients: Vec<Client> = (0..6).map(begun).collect();
    // The one that is refused stays, so that its connection does not end.
    let mut answer = |client: &mut Client| {
        // The server closes the connection of the one that is refused a second later.
        let _ = client.stream.write_all(&end);
        client.response_to("POST").status
    };
    let answers: Vec<u16> = clients.iter_mut().map(&mut answer).collect();
    assert!(answers.iter().filter(|status| **status == 200).count() >= 5, "{answers:?}");
}

#[test]
fn rfc_9110_15_2_nothing_follows_the_last_answer() {
    let server = server(&[]);
    let mut client = server.connect();
    client.send(b"GET /wait HTTP/1.1\r\nHost: localhost\r\n\r\n");
    wait_for(&server, 1);
    let head = "POST /length HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n";
    client.send(head.as_bytes());
    std::thread::sleep(Duration::from_millis(50));
    client.send(b"no chunk\r\n");
    // It is told that the framing is wrong once the server has seen it; the answers are in order all the same.
    std::thread::sleep(Duration::from_millis(50));
    server.get("/go");
    assert_eq!(client.response().text(), "waited");
    let refused = client.response_to("POST");
    assert_eq!((refused.status, refused.header("connection").as_deref()), (400, Some("close")));
    assert_eq!(client.rest(), "", "no 100 Continue behind the final answer");
}

#[test]
fn the_idle_time_begins_with_the_end_of_an_answer() {
    const IDLE: Duration = Duration::from_millis(3000);
    let server = server(&["--idle-timeout-ms", "3000"]);
    let mut client = server.connect();
    client.send(b"GET /wait HTTP/1.1\r\nHost: localhost\r\n\r\n");
    std::thread::sleep(Duration::from_secs(4));
    let before = Instant::now();
    server.get("/go");
    assert_eq!(client.response().text(), "waited");
    std::thread::sleep(Duration::from_millis(1200));
    let Some(answer) = client.attempt("GET", "/count", b"") else {
        assert!(before.elapsed() >= IDLE, "its last bytes came five seconds ago, its answer a second");
        println!("ignored: the machine is too busy to ask in the time that a connection may be idle");
        return;
    };
    assert_eq!(answer.text(), "0");
    assert!(client.is_closed(), "and then it is idle");
}

#[test]
fn rfc_9110_9_3_2_a_head_that_is_too_slow_gets_no_content() {
    let server = server(&["--body-timeout-ms", "500"]);
    let mut client = server.connect();
    client.send(b"HEAD /count HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nhalf");
    let answer = client.rest();
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.ends_with("\r\n\r\n"), "{answer}");
}

fn job(server: &Server) -> String {
    let accepted = server.post("/jobs", br#"{"job":"job"}"#).text();
    let (_, uuid) = accepted.split_once("\"job_uuid\":\"").unwrap();
    uuid[..36].to_owned()
}

fn events_of(job: &str) -> Vec<u8> {
    format!("GET /jobs/{job}/events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n").into_bytes()
}

#[test]
fn rfc_9112_9_6_a_half_closed_client_gets_its_stream_to_the_end() {
    let server = server(&[]);
    let job = job(&server);
    wait_for(&server, 1);
    // At once, and with an answer owed before.
    for before in [&b""[..], b"GET /count HTTP/1.1\r\nHost: localhost\r\n\r\n"] {
        let mut client = server.connect();
        client.send(&[before, &events_of(&job)].concat());
        client.stream.shutdown(Shutdown::Write).unwrap();
        if before.is_empty() {
            continue; // Gone again while its job runs: nobody may trip over it.
        }
        let mut begun = String::new();
        while !begun.contains("begun") {
            let mut piece = [0; 4096];
            let count = client.stream.read(&mut piece).unwrap();
            assert!(count > 0, "cut off: {begun}");
            begun.push_str(std::str::from_utf8(&piece[..count]).unwrap());
        }
        server.get("/go");
        let last = client.rest();
        assert!(last.contains("\"type\":\"done\"") && last.ends_with("\r\n0\r\n\r\n"), "{last}");
    }
}

#[test]
fn a_stream_whose_turn_comes_after_the_stop_begins_and_ends() {
    let mut server = server(&["--shutdown-timeout-ms", "20000"]);
    let job = job(&server);
    wait_for(&server, 1);
    let mut client = server.connect();
    client.send(&[b"GET /wait HTTP/1.1\r\nHost: localhost\r\n\r\n", events_of(&job).as_slice()].concat());
    wait_for(&server, 2);
    let mut other = server.connect();
    assert_eq!(other.get("/count").text(), "2");
    signal(server.pid(), "TERM");
    server.expect_log("stopping");
    // Accepted before the stop, and asked on within a second.
    other.send(b"GET /go HTTP/1.1\r\nHost: localhost\r\n\r\n");
    if other.try_response("GET").is_none() {
        return; // Closed as idle before it could ask: nothing can be seen then.
    }
    assert_eq!(client.response().text(), "waited");
    let stream = client.rest();
    assert!(stream.starts_with("HTTP/1.1 200 ") && stream.ends_with("0\r\n\r\n"), "{stream}");
    server.terminate();
}

#[test]
fn a_websocket_whose_handler_is_busy_is_told_of_the_stop() {
    let mut server = server(&["--shutdown-timeout-ms", "700"]);
    let mut socket = server.websocket("/ws");
    socket.send(Message::text("wait")).unwrap();
    wait_for(&server, 1);
    let reader = std::thread::spawn(move || socket.read());
    server.terminate();
    match reader.join().unwrap() {
        Ok(Message::Close(Some(frame))) => assert_eq!(frame.code, CloseCode::Away),
        other => panic!("no close frame: {other:?}"),
    }
}
