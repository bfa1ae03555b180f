//! What a module hands over that is not what the server expects: literals and other memory that malloc(3) did not give
//! works, and what can't be read or freed costs the module that did it one call.

use crate::support::{self, Server, constant, eventually};
use tungstenite::Message;

fn server() -> Server {
    // Quarantine has tests of its own.
    let server = Server::with(&["--shards", "1", "--crash-limit", "0"]);
    server.deploy_file("tests/modules/handed_over.c");
    server.deploy(&constant("innocent", "/innocent", "here"));
    server
}

#[test]
fn memory_that_is_not_from_malloc_is_sent_and_not_freed() {
    let server = server();
    for round in 0..3 {
        for prefix in ["", "/inline"] {
            let get = |path: &str| server.get(&format!("{prefix}{path}"));
            let stack = format!("on the stack of {prefix}/stack");
            let path = format!("{prefix}/path");
            let (large, zs) = ("y".repeat(200_000), "z".repeat(100_000));
            for (target, body) in [
                ("/lit", "a literal"),
                ("/odd", "a literal"),
                ("/image", "a variable"),
                ("/thread", "of a thread"),
                ("/stack", stack.as_str()),
                ("/param?name=of+the+request", "of the request"),
                ("/path", path.as_str()),
                ("/neg", "abc"),
                ("/nullb", ""),
                ("/heap", "from the heap"),
                ("/grown", large.as_str()),
                ("/big_lit", zs.as_str()),
                ("/nulls", "header"),
            ] {
                let response = get(target);
                assert_eq!(response.status, 200, "round {round} {prefix}{target}: {}", response.text());
                assert_eq!(response.text(), body, "round {round} {prefix}{target}");
            }
            assert!(get("/unended").text().starts_with(&"x".repeat(24)));
            for (target, value) in [
                ("/hlit", "a literal"),
                ("/hstack", "on the stack"),
                ("/hparam?name=lent", "lent"),
                ("/store", "a store"),
            ] {
                let response = get(target);
                assert_eq!((response.status, response.text().as_str()), (200, "header"), "{prefix}{target}");
                assert_eq!(response.header("x-kind").as_deref(), Some(value), "{prefix}{target}");
            }
        }
        assert_eq!(server.post("/takes", b"its own body").text(), "its own body");
    }
    let things = ["res->body is not from malloc(3)", "a name or value in res->headers is not from malloc(3)"];
    things.iter().for_each(|thing| server.expect_log(&format!("module handed_over: {thing}")));
    let log = server.log();
    for thing in things {
        assert_eq!(log.matches(&format!("module handed_over: {thing}")).count(), 1, "once a kind: {log}");
    }
    assert!(!log.contains("failed in"), "{log}");
}

#[test]
fn what_cannot_be_read_or_freed_is_a_500_of_that_module() {
    let server = server();
    for (target, word) in [
        ("/beyond", "content_length"),
        ("/beyond_heap", "content_length"),
        ("/beyond_lit", "content_length"),
        ("/freed", "res->body was freed already"),
        ("/freed_small", "res->body was freed already"),
        ("/freed_large", "res->body was freed already"),
        ("/wild", "res->body can't be read"),
        ("/inside", "is no block of malloc(3)"),
        ("/wild_value", "a name or value in res->headers can't be read"),
        ("/freed_value", "a name or value in res->headers was freed already"),
        ("/wild_store", "a name or value in res->headers can't be read"),
        ("/freed_empty", "req->body was freed"),
        ("/freed_empty", "req->body was freed"),
        ("/freed_late", "req->body was freed"),
    ] {
        let response = server.get(target);
        let text = response.text();
        assert_eq!(response.status, 500, "{target}: {text}");
        assert!(text.contains("module handed_over failed") && text.contains(word), "{target}: {text}");
        assert_eq!(server.get("/innocent").text(), "here", "after {target}");
        assert_eq!(server.get("/lit").text(), "a literal", "after {target}");
    }
    let response = server.post("/freed_request", b"a body of some length, so that it has a block of its own");
    assert!(response.status == 500 && response.text().contains("req->body"), "{}", response.text());
    let log = server.log();
    assert!(!log.contains("died") && !log.contains("innocent failed"), "{log}");
}

#[test]
fn a_store_has_no_more_pairs_than_its_memory() {
    let server = server();
    for _ in 0..3 {
        let response = server.get("/large_store");
        assert_eq!((response.status, response.header("X-First").as_deref()), (200, Some("there")));
        assert_eq!(server.get("/innocent").text(), "here");
    }
    assert!(!server.log().contains("died") && !server.log().contains("failed in"), "{}", server.log());
}

#[test]
fn a_session_that_is_no_block_of_malloc_works_and_is_not_freed() {
    let server = server();
    for round in 0..3 {
        let mut socket = server.websocket("/session");
        let session = |socket: &mut support::Socket| {
            socket.send(Message::text("session")).unwrap();
            socket.read().unwrap().into_text().unwrap().to_string()
        };
        assert_eq!(session(&mut socket), "a literal", "round {round}");
        for (text, expected) in [("stack", "of the stack"), ("of the message", "of the message")] {
            socket.send(Message::text(text)).unwrap();
            assert_eq!(session(&mut socket), expected, "round {round}");
        }
        socket.close(None).unwrap();
        while socket.read().is_ok() {}
    }
    server.expect_log("module handed_over: ws->session is not from malloc(3)");
    let mut socket = server.websocket("/session");
    socket.send(Message::text("freed")).unwrap();
    socket.close(None).unwrap();
    while socket.read().is_ok() {}
    eventually("the module is charged with it", || {
        server.log().contains("module handed_over failed in on_close, ws->session was freed already")
    });
    // A message that can't be read ends its callback only.
    let mut socket = server.websocket("/session");
    socket.send(Message::text("wild")).unwrap();
    server.expect_log("module handed_over failed in on_message: SIGSEGV");
    assert_eq!(server.get("/innocent").text(), "here");
}
