//! What a handler asks of its request by `cweb_request.h`: memory that ends with it, deferred functions, the parts of a form.

mod forms;
mod rest;

use crate::support::{Server, eventually};
use std::sync::Arc;

fn with_module(args: &[&str]) -> Server {
    let args = [&["--shards", "1"], args].concat();
    let server = Server::on(&Arc::new(tempfile::tempdir().unwrap()), &args, &[]);
    server.deploy_file("tests/request_api/api.c");
    server
}

#[test]
fn memory_ends_with_the_request_and_may_be_the_answer() {
    let server = with_module(&["--request-memory-bytes-max", "8388608"]);
    let mut client = server.connect();
    for _ in 0..3 {
        for path in ["/memory", "/memory/inline"] {
            assert_eq!(client.get(path).text(), "");
        }
        let answer = client.get("/answer");
        assert_eq!((answer.status, answer.body.len()), (200, 200_000));
        assert!(answer.body.iter().all(|&byte| byte == b'x'));
        assert_eq!(answer.header("x-made").as_deref(), Some("made-2"));
        assert_eq!(answer.header("x-also").as_deref(), Some("also"));
        assert_eq!(client.get("/inner").text(), "inner");
    }
    let refused = client.get("/too_much");
    assert_eq!(refused.status, 500);
    assert!(refused.text().contains("content_length is larger than the memory"), "{}", refused.text());
    assert_eq!(client.get("/memory").text(), "");
    let log = server.log();
    assert!(!log.contains("is not from malloc(3)"), "what is the request's is no mistake: {log}");
}

#[test]
fn the_limit_and_what_is_wrong_have_answers() {
    let server = with_module(&["--request-memory-bytes-max", "2097152"]);
    assert_eq!(server.get("/limit").text(), "");
    assert_eq!(server.get("/wrong").text(), "");
    eventually("the scheduler has run", || server.get("/was_late").text() != "not run");
    assert_eq!(server.get("/was_late").text(), "refused nothing");
    assert_eq!(server.get("/limit").text(), "", "the memory of the request before is free again");
}

#[test]
fn deferred_functions_run_in_reverse_order_also_after_a_fault() {
    let server = with_module(&[]);
    assert_eq!(server.get("/deferred").text(), "answered");
    server.expect_log("deferred last");
    let log = server.log();
    let at = |text: &str| log.find(text).unwrap_or_else(|| panic!("{text} in {log}"));
    assert!(
        at("deferred first") < at("deferred second to last") && at("deferred second to last") < at("deferred last")
    );
    assert_eq!(server.get("/nested").status, 200);
    server.expect_log("deferred by a deferred function");
    server.expect_log("deferred made there 0");

    let failed = server.get("/deferred_crash");
    assert_eq!(failed.status, 500);
    assert!(!failed.text().contains("not sent"));
    server.expect_log("deferred after the crash");
    server.expect_log("a deferred function of a handler (GET /deferred_crash)");
    for (path, text) in [
        ("/crash_deferred", "deferred though the handler crashed"),
        ("/exit_deferred", "deferred though the handler exited"),
    ] {
        assert_eq!(server.get(path).status, 500);
        server.expect_log(text);
    }
    assert_eq!(server.get("/deferred").text(), "answered");
    assert_eq!(server.get("/flow").text(), "mmmm");
    server.expect_log("deferred behind a flow");
    let mut broken = server.connect();
    broken.send(b"GET /flow?crash=1 HTTP/1.1\r\nHost: x\r\n\r\n");
    server.expect_log("deferred behind a broken flow");
}

/// 300 MB in 200 requests, faults among them.
#[test]
fn memory_comes_back_after_faults_too() {
    let server = with_module(&["--crash-limit", "0"]);
    server.get("/eat");
    let peak = || server.get("/peak").text().parse::<u64>().unwrap();
    let before = peak();
    let mut client = server.connect();
    for round in 0..200 {
        let crash = round % 20 == 0;
        let answer = client.get(match round % 2 {
            0 if crash => "/eat?crash=1",
            0 => "/eat",
            _ => "/flow",
        });
        assert_eq!(answer.status, if crash { 500 } else { 200 }, "round {round}: {}", answer.text());
    }
    let after = peak();
    assert!(after < before + 64 * 1024, "{before} KiB before, {after} after");
}
