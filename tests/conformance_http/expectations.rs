//! `Expect: 100-continue`.

use super::raw::{NEXT, lab, lab_with, post, refused};
use crate::support::Server;

const EXPECT: &str = "Expect: 100-continue\r\n";

#[test]
fn rfc_9110_10_1_1_continue_before_the_body() {
    let server = lab();
    for fields in ["Content-Length: 2\r\n", "Transfer-Encoding: chunked\r\n"] {
        let mut client = server.connect();
        client.send(post(&format!("{EXPECT}{fields}"), "").as_bytes());
        let interim = client.response();
        assert_eq!((interim.status, interim.head.as_str()), (100, "HTTP/1.1 100 Continue\r\n\r\n"));
        client.send(if fields.starts_with('C') { b"ok" } else { b"2\r\nok\r\n0\r\n\r\n" });
        assert_eq!(client.response().text(), "ok");
        client.send(NEXT);
        assert_eq!(client.response().text(), "fast");
    }
}

#[test]
fn rfc_9110_10_1_1_no_continue_when_there_is_nothing_to_wait_for() {
    let server = lab();
    for (fields, rest) in [
        ("Content-Length: 2\r\n", "ok"),
        ("Content-Length: 0\r\n", ""),
        ("", ""),
        ("Transfer-Encoding: chunked\r\n", "2\r\nok\r\n0\r\n\r\n"),
    ] {
        let mut client = server.connect();
        client.send(&[post(&format!("{EXPECT}{fields}"), rest).as_bytes(), NEXT].concat());
        assert_eq!(client.response().status, 200, "{fields}");
        assert_eq!(client.response().text(), "fast");
    }
}

#[test]
fn rfc_9110_10_1_1_ignored_in_http_1_0() {
    let server = lab();
    let mut client = server.connect();
    client.send(b"POST /echo HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    std::thread::sleep(std::time::Duration::from_millis(50));
    client.send(b"ok");
    assert_eq!(client.response().text(), "ok");
}

/// The final answer comes without the body having been sent, and ends the connection.
fn refused_at_once(server: &Server, line: &str, fields: &str, status: u16) {
    for _ in 0..2 {
        let mut client = server.connect();
        client.send(format!("{line} HTTP/1.1\r\nHost: x\r\n{EXPECT}{fields}\r\n").as_bytes());
        let answer = client.response();
        assert_eq!((answer.status, answer.header("connection").as_deref()), (status, Some("close")), "{line}");
        assert!(client.try_response("GET").is_none());
    }
}

#[test]
fn rfc_9110_10_1_1_a_final_answer_instead_of_continue() {
    let server = lab_with(&["--body-bytes-max", "1000", "--mgnt-body-bytes-max", "65536"]);
    refused_at_once(&server, "POST /echo", "Content-Length: 1001\r\n", 413);
    refused_at_once(&server, "POST /echo", "Content-Length: 65537\r\n", 413);
    refused_at_once(&server, "POST /fast", "Content-Length: 5\r\n", 405);
    refused_at_once(&server, "POST /nowhere", "Content-Length: 5\r\n", 404);
    refused_at_once(&server, "POST /nowhere", "Transfer-Encoding: chunked\r\n", 404);
    let dir = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let guarded = Server::on(&dir, &["--production"], &[("CWEB_ADMIN_KEY", "secret-of-16-bytes")]);
    refused_at_once(&guarded, "POST /mgnt", "Content-Length: 5\r\n", 401);
    refused_at_once(&guarded, "POST /jobs", "Content-Length: 5\r\n", 401);
    // The body comes all the same: it is no request.
    let mut client = server.connect();
    client.send(post(&format!("{EXPECT}Content-Length: 2000\r\n"), "").as_bytes());
    assert_eq!(client.response().status, 413);
    client.send(NEXT);
    assert!(client.try_response("GET").is_none());
}

#[test]
fn rfc_9110_10_1_1_continue_does_not_overtake_an_answer() {
    let server = lab();
    let mut client = server.connect();
    client.send(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n");
    client.send(post(&format!("{EXPECT}Content-Length: 2\r\n"), "").as_bytes());
    assert_eq!(client.response().text(), "slow");
    assert_eq!(client.response().status, 100);
    client.send(b"ok");
    assert_eq!(client.response().text(), "ok");
    // Nor does a refusal.
    client.send(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n");
    client.send(format!("POST /nowhere HTTP/1.1\r\nHost: x\r\n{EXPECT}Content-Length: 2\r\n\r\n").as_bytes());
    assert_eq!(client.response().text(), "slow");
    assert_eq!(client.response().status, 404);
    assert!(client.try_response("GET").is_none());
}

#[test]
fn rfc_9110_15_5_18_other_expectations() {
    let server = lab();
    for value in ["wonders", "200-ok", "100-continue, wonders", "100-continued", "100"] {
        refused(&server, post(&format!("Expect: {value}\r\nContent-Length: 2\r\n"), "ok"), 417);
    }
    let mut client = server.connect();
    client.send(post("Expect: 100-CONTINUE\r\nContent-Length: 2\r\n", "").as_bytes());
    assert_eq!(client.response().status, 100);
}
