//! Connections: how long they last, and in what order answers come.

use super::raw::{NEXT, get, lab, lab_with, post, refused, send_pieces};
use crate::support::{Client, Server};
use std::io::{Read, Write};
use std::time::Duration;

/// Sends `request` and tells whether the connection goes on after its answer.
fn goes_on(server: &Server, request: &str) -> bool {
    let mut client = server.connect();
    client.send(request.as_bytes());
    let answer = client.response();
    assert_eq!(answer.status, 200, "{request:?}");
    let says_close = answer.header("connection").as_deref() == Some("close");
    if says_close {
        assert!(client.try_response("GET").is_none(), "{request:?}");
    } else {
        client.send(NEXT);
        assert_eq!(client.response().text(), "fast", "{request:?}");
    }
    !says_close
}

#[test]
fn rfc_9112_9_3_persistence() {
    let server = lab();
    for fields in [
        "",
        "Connection: keep-alive\r\n",
        "Connection:\r\n",
        "Connection: x, y\r\n",
        "Connection: closed\r\n",
        "Connection: \"close\"\r\n",
    ] {
        assert!(goes_on(&server, &get("/fast", fields)), "{fields}");
    }
    let old = |fields: &str| format!("GET /fast HTTP/1.0\r\n{fields}\r\n");
    for fields in ["", "Connection: close\r\n", "Connection: x\r\n", "Keep-Alive: timeout=5\r\n"] {
        assert!(!goes_on(&server, &old(fields)), "{fields}");
    }
    for fields in ["Connection: keep-alive\r\n", "Connection: Keep-Alive\r\n", "Connection: x , KEEP-ALIVE,\r\n"] {
        assert!(goes_on(&server, &old(fields)), "{fields}");
    }
    let mut client = server.connect();
    client.send(old("Connection: keep-alive\r\n").as_bytes());
    assert_eq!(client.response().header("connection").as_deref(), Some("keep-alive"));
}

#[test]
fn rfc_9110_7_6_1_connection_is_a_list_without_case() {
    let server = lab();
    for fields in [
        "Connection: close\r\n",
        "Connection: Close\r\n",
        "connection: CLOSE\r\n",
        "Connection: x,close\r\n",
        "Connection: ,, close ,\r\n",
        "Connection: keep-alive, close\r\n",
        "Connection: close, keep-alive\r\n",
        "Connection: x\r\nConnection: close\r\n",
        "Connection: close\r\nConnection: keep-alive\r\n",
        "Connection:\tclose\t\r\n",
    ] {
        assert!(!goes_on(&server, &get("/fast", fields)), "{fields}");
        assert!(!goes_on(&server, &get("/inline", fields)), "{fields}");
    }
}

#[test]
fn rfc_9112_9_3_2_answers_come_in_the_order_of_the_requests() {
    let server = lab();
    let order = [
        ("GET", "/slow"),
        ("HEAD", "/fast"),
        ("GET", "/inline"),
        ("HEAD", "/slow"),
        ("GET", "/nowhere"),
        ("HEAD", "/nowhere"),
        ("POST", "/echo"),
        ("GET", "/status/304"),
        ("PUT", "/echo"),
        ("HEAD", "/big"),
        ("GET", "/big"),
        ("DELETE", "/fast"),
        ("GET", "/healthz"),
        ("GET", "/fast"),
    ];
    let raw: String = order
        .iter()
        .map(|(method, path)| match *method {
            "POST" | "PUT" => format!("{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody"),
            _ => format!("{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n"),
        })
        .collect();
    for pieces in [vec![raw.as_bytes()], raw.as_bytes().chunks(1).collect(), raw.as_bytes().chunks(100).collect()] {
        let mut client = server.connect();
        send_pieces(&mut client, &pieces);
        let answers: Vec<String> = order
            .iter()
            .map(|(method, _)| {
                let answer = client.response_to(method);
                format!("{} {}", answer.status, &answer.text()[..answer.body.len().min(4)])
            })
            .collect();
        assert_eq!(
            answers,
            [
                "200 slow", "200 ", "200 fast", "200 ", "404 no m", "404 ", "200 body", "304 ", "200 body", "200 ",
                "200 xxxx", "405 this", "200 ok\n", "200 fast"
            ]
        );
    }
}

#[test]
fn rfc_9112_9_3_2_more_requests_than_are_read_at_once() {
    let server = lab_with(&["--pipeline-max", "4"]);
    let mut client = server.connect();
    let raw =
        [get("/fast", "").repeat(30), get("/inline", "").repeat(30), get("/slow", ""), get("/inline", "").repeat(9)]
            .concat();
    client.send(raw.as_bytes());
    let texts: Vec<String> = (0..70).map(|_| client.response().text()).collect();
    assert!(
        texts[..60].iter().all(|text| text == "fast")
            && texts[60] == "slow"
            && texts[61..].iter().all(|text| text == "fast")
    );
}

#[test]
fn rfc_9112_9_6_nothing_behind_close_is_served() {
    let server = lab();
    for path in ["/fast", "/inline", "/slow"] {
        let mut client = server.connect();
        client.send(&[get(path, "Connection: close\r\n").as_bytes(), NEXT, b"garbage\0\n"].concat());
        assert_eq!(client.response().status, 200);
        assert!(client.try_response("GET").is_none());
    }
}

#[test]
fn rfc_9112_9_6_a_refusal_waits_for_the_answers_before_it() {
    let server = lab();
    let mut client = server.connect();
    client.send(&[get("/slow", "").as_bytes(), get("/fast", "").as_bytes(), b"GET / HTTP/1.1\r\n\r\n", NEXT].concat());
    assert_eq!(client.response().text(), "slow");
    assert_eq!(client.response().text(), "fast");
    assert_eq!(client.response().status, 400);
    assert!(client.try_response("GET").is_none());
}

#[test]
fn rfc_9112_9_6_the_last_answer_survives_what_is_still_being_sent() {
    let server = lab();
    let large = vec![b'a'; 4 * 1024 * 1024];
    for head in [
        post("Content-Length: 99999999\r\n", ""),
        "GET / HTTP/1.1\r\n\r\n".to_owned(),
        get("/fast", "Connection: close\r\n"),
    ] {
        let mut client = server.connect();
        client.send(head.as_bytes());
        // More than all socket buffers hold, from another thread; a reset would destroy the answer.
        let mut writer = client.stream.try_clone().unwrap();
        let body = large.clone();
        let sending = std::thread::spawn(move || writer.write_all(&body).is_ok());
        std::thread::sleep(Duration::from_millis(50));
        let answer = client.response();
        assert_eq!(answer.header("connection").as_deref(), Some("close"), "{head}");
        sending.join().unwrap();
    }
}

#[test]
fn rfc_9112_9_6_a_half_closed_client_gets_its_answers() {
    let server = lab();
    for (requests, count) in [
        (get("/slow", ""), 1),
        (get("/inline", ""), 1),
        ([get("/slow", ""), get("/fast", ""), post("Content-Length: 2\r\n", "hi"), get("/big", "")].concat(), 4),
    ] {
        let mut client = server.connect();
        client.send(requests.as_bytes());
        client.finish();
        assert!((0..count).all(|_| client.response().status == 200));
        assert!(client.try_response("GET").is_none());
    }
}

#[test]
fn rfc_9112_9_6_a_half_closed_client_that_reads_late_gets_all_its_answers() {
    let server = lab();
    for path in ["/big-inline", "/big"] {
        let mut client = server.connect();
        client.send(get(path, "").repeat(40).as_bytes());
        client.finish();
        std::thread::sleep(Duration::from_millis(100)); // The answers fill every buffer meanwhile.
        for at in 0..40 {
            assert_eq!(client.response().body.len(), 1_000_000, "answer {at} of {path}");
        }
        assert!(client.try_response("GET").is_none());
    }
}

#[test]
fn rfc_9112_9_6_close_behind_answers_that_are_read_late() {
    let server = lab();
    let mut client = server.connect();
    client.send([get("/big-inline", "").repeat(20), get("/fast", "Connection: close\r\n")].concat().as_bytes());
    std::thread::sleep(Duration::from_millis(100));
    assert!((0..20).all(|_| client.response().body.len() == 1_000_000));
    assert_eq!(client.response().text(), "fast");
    assert!(client.try_response("GET").is_none());
}

#[test]
fn rfc_9112_9_5_an_idle_connection_is_closed_without_a_word() {
    let server = lab_with(&["--idle-timeout-ms", "5000", "--header-timeout-ms", "300"]);
    let mut client = server.connect();
    client.send(NEXT);
    assert_eq!(client.response().text(), "fast");
    assert!(client.try_response("GET").is_none());
    // RFC 9110 §15.5.9: one that has begun to ask is told.
    let mut client = server.connect();
    client.send(b"GET /fa");
    assert_eq!(client.response().status, 408);
    assert!(client.try_response("GET").is_none());
}

#[test]
fn rfc_9112_11_2_a_smuggled_request_is_never_answered() {
    let server = lab();
    let inner = "GET /show?p=smuggled HTTP/1.1\r\nHost: x\r\n\r\n";
    for outer in [
        post(&format!("Content-Length: {}\r\nTransfer-Encoding: chunked\r\n", inner.len() + 5), "0\r\n\r\n"),
        post("Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n", "0\r\n\r\n"),
        post("Content-Length: 0\r\nContent-Length: 44\r\n", ""),
        post("Transfer-Encoding:\x0bchunked\r\n", "0\r\n\r\n"),
        post("Content-Length: 0\nContent-Length: 44\r\n", ""),
    ] {
        refused(&server, format!("{outer}{inner}"), 400);
    }
    // As a body it is a body.
    let mut client = server.connect();
    client.send(&[post(&format!("Content-Length: {}\r\n", inner.len()), inner).as_bytes(), NEXT].concat());
    assert_eq!(client.response().text(), inner);
    assert_eq!(client.response().text(), "fast");
}

#[test]
fn rfc_9112_9_6_a_client_that_resets_harms_nobody() {
    let server = lab();
    for _ in 0..20 {
        let mut client = Client::connect(&server.addr);
        client.send(get("/big", "").repeat(3).as_bytes());
        let _ = client.stream.read(&mut [0; 1]); // Unread bytes make the close a reset.
    }
    assert_eq!(server.get("/fast").text(), "fast");
}
