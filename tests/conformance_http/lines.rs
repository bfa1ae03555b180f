//! Request lines and field lines.

use super::raw::{NEXT, get, lab, post, refused, served, text};

#[test]
fn rfc_9112_2_2_lines_end_in_crlf() {
    let server = lab();
    for request in [
        "GET /fast HTTP/1.1\nHost: x\n\n",
        "GET /fast HTTP/1.1\nHost: x\r\n\r\n",
        "GET /fast HTTP/1.1\r\nHost: x\n\r\n",
        "GET /fast HTTP/1.1\r\nHost: x\r\n\n",
        "\nGET /fast HTTP/1.1\r\nHost: x\r\n\r\n",
    ] {
        refused(&server, request, 400);
    }
}

#[test]
fn rfc_9112_2_2_bare_cr() {
    let server = lab();
    for request in [
        "GET /fast HTTP/1.1\rHost: x\r\n\r\n",
        "GET /fast HTTP/1.1\r\nHost: x\rA: b\r\n\r\n",
        "GET /fast HTTP/1.1\r\nHost: x\r\nA: b\rc\r\n\r\n",
        "GET /fast HTTP/1.1\r\nHost: x\r\nA\r: b\r\n\r\n",
        "GET /fa\rst HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /fast HTTP/1.1\r\nHost: x\r\n\r\r\n\r\n",
        "\rGET /fast HTTP/1.1\r\nHost: x\r\n\r\n",
    ] {
        refused(&server, request, 400);
    }
}

#[test]
fn rfc_9112_2_2_empty_lines_before_a_request() {
    let server = lab();
    assert_eq!(text(&server, format!("\r\n{}", get("/fast", ""))), "fast");
    assert_eq!(text(&server, format!("\r\n\r\n\r\n\r\n{}", get("/fast", ""))), "fast");
    // Some clients end a body with a line end that is none of it.
    assert_eq!(text(&server, post("Content-Length: 2\r\n", "hi\r\n")), "hi");
    refused(&server, format!("{}{}", "\r\n".repeat(100), get("/fast", "")), 400);
}

#[test]
fn rfc_9112_2_2_white_space_before_the_first_field() {
    let server = lab();
    for space in [" ", "\t", "  "] {
        refused(&server, format!("GET /fast HTTP/1.1\r\n{space}Host: x\r\n\r\n"), 400);
        refused(&server, format!("GET /fast HTTP/1.1\r\n{space}X: y\r\nHost: x\r\n\r\n"), 400);
        refused(&server, format!("GET /fast HTTP/1.1\r\n{space}\r\nHost: x\r\n\r\n"), 400);
    }
}

#[test]
fn rfc_9112_2_3_versions() {
    let server = lab();
    for version in ["HTTP/2.0", "HTTP/3.0", "HTTP/0.9", "HTTP/2.1", "HTTP/9.9", "HTTP/0.0"] {
        refused(&server, format!("GET /fast {version}\r\nHost: x\r\n\r\n"), 505);
    }
    refused(&server, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505);
    for version in [
        "http/1.1",
        "Http/1.1",
        "HTTP/1",
        "HTTP/1.",
        "HTTP/1.11",
        "HTTP/11.1",
        "HTTP/a.b",
        "HTTP/1,1",
        "HTTP 1.1",
        "ICY/1.1",
        "HTTP/-1.1",
        "HTTP//1.1",
        "1.1",
    ] {
        refused(&server, format!("GET /fast {version}\r\nHost: x\r\n\r\n"), 400);
    }
}

#[test]
fn rfc_9110_2_5_a_later_minor_version_is_served_as_1_1() {
    let server = lab();
    for minor in 1..=9 {
        let shown = text(&server, format!("GET /show HTTP/1.{minor}\r\nHost: x\r\nX: v\r\n\r\n"));
        assert!(shown.starts_with("path=/show p=- host=x x=v t=- version=1"), "{shown}");
    }
    refused(&server, "GET /fast HTTP/1.2\r\n\r\n", 400); // Host is needed as in 1.1.
    let answer = served(&server, "GET /fast HTTP/1.2\r\nHost: x\r\n\r\n");
    assert!(answer.head.starts_with("HTTP/1.1 200 OK\r\n"));
}

#[test]
fn rfc_9112_3_request_lines() {
    let server = lab();
    for line in [
        "GET  /fast HTTP/1.1",
        "GET /fast  HTTP/1.1",
        "GET /fast HTTP/1.1 ",
        " GET /fast HTTP/1.1",
        "GET\t/fast\tHTTP/1.1",
        "GET /fast\tHTTP/1.1",
        "GET /fa st HTTP/1.1",
        "GET /fast",
        "GET",
        "/fast HTTP/1.1",
        "GET HTTP/1.1",
        "G\"T /fast HTTP/1.1",
        "GET: /fast HTTP/1.1",
        "G{T /fast HTTP/1.1",
        "GÉT /fast HTTP/1.1",
        "GET /fast\x0b HTTP/1.1",
        "GET /fast\0 HTTP/1.1",
        "GET /\x7f HTTP/1.1",
        "\0GET /fast HTTP/1.1",
        "Host: x",
    ] {
        refused(&server, format!("{line}\r\nHost: x\r\n\r\n"), 400);
    }
    refused(&server, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400); // TLS on a plain port
    refused(&server, b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n", 400);
}

#[test]
fn rfc_9112_3_a_target_that_is_too_long() {
    let server = lab();
    for length in [8192, 9_000, 17_000, 200_000] {
        refused(&server, get(&format!("/{}", "a".repeat(length)), ""), 414);
    }
    refused(&server, get(&format!("/?{}", "a".repeat(9_000)), ""), 414);
    assert_eq!(served(&server, get(&format!("/{}", "a".repeat(8191)), "")).status, 404);
    // The end of the line need not come.
    let mut client = server.connect();
    client.send(format!("GET /{}", "a".repeat(9_000)).as_bytes());
    assert_eq!(client.response().status, 414);
}

#[test]
fn rfc_6585_5_heads_that_are_too_large() {
    let server = lab();
    refused(&server, get("/fast", &format!("X: {}\r\n", "y".repeat(20_000))), 431);
    refused(&server, get("/fast", &format!("{}: y\r\n", "X".repeat(20_000))), 431);
    refused(&server, get("/fast", &"X: y\r\n".repeat(100)), 431);
    refused(&server, get("/fast", &"X: y\r\n".repeat(5_000)), 431);
    assert_eq!(text(&server, get("/fast", &"X: y\r\n".repeat(99))), "fast");
    assert_eq!(text(&server, get("/fast", &format!("X: {}\r\n", "y".repeat(16_000)))), "fast");
    let mut client = server.connect();
    client.send(format!("GET /fast HTTP/1.1\r\nHost: x\r\nX: {}", "y".repeat(17_000)).as_bytes());
    assert_eq!(client.response().status, 431);
}

#[test]
fn rfc_9112_5_field_lines() {
    let server = lab();
    for line in [
        "no colon",
        ": no name",
        ":",
        "A B: c",
        "A;: b",
        "A(b): c",
        "A\"b: c",
        "A/b: c",
        "A@b: c",
        "A[b]: c",
        "A\x01: b",
        "Aé: b",
        "A\x7f: b",
        "\0: b",
    ] {
        refused(&server, get("/fast", &format!("{line}\r\n")), 400);
    }
    // RFC 9110 §5.6.2: every character of a token.
    assert_eq!(text(&server, get("/fast", "!#$%&'*+-.^_`|~09azAZ: v\r\n")), "fast");
}

#[test]
fn rfc_9112_5_1_no_white_space_before_the_colon() {
    let server = lab();
    for line in ["A : b", "A\t: b", "Host : x", "Content-Length : 5", "A  : b"] {
        refused(&server, get("/fast", &format!("{line}\r\n")), 400);
    }
    for line in ["X:v", "X: v", "X:\tv", "X: \t v \t ", "x: v", "X:   v"] {
        let shown = text(&server, get("/show", &format!("{line}\r\n")));
        assert!(shown.contains(" x=v "), "{line:?}: {shown}");
    }
}

#[test]
fn rfc_9112_5_2_folded_lines() {
    let server = lab();
    for fields in ["X: a\r\n b\r\n", "X: a\r\n\tb\r\n", "X:\r\n a\r\n", "X: a\r\n \r\n", "X: a\r\n \r\n b\r\n"] {
        refused(&server, get("/fast", fields), 400);
    }
}

#[test]
fn rfc_9110_5_5_field_values() {
    let server = lab();
    for byte in (0..=0x08).chain(0x0b..=0x0c).chain(0x0e..=0x1f).chain([0x7f]) {
        let value = [b"GET /fast HTTP/1.1\r\nHost: x\r\nX: a".as_slice(), &[byte], b"b\r\n\r\n"].concat();
        refused(&server, value, 400);
    }
    let opaque = text(&server, b"GET /show HTTP/1.1\r\nHost: x\r\nX: a\tb\xe9\xff!\r\n\r\n");
    assert!(opaque.contains(" x=a\tb\u{fffd}\u{fffd}! "), "{opaque}");
    assert!(text(&server, get("/show", "X:\r\n")).contains(" x= "));
}

#[test]
fn rfc_9110_5_3_of_a_repeated_field_modules_get_the_first() {
    let server = lab();
    assert!(text(&server, get("/show", "X: one\r\nx: two\r\n")).contains(" x=one "));
}

#[test]
fn rfc_9112_2_1_requests_follow_each_other_without_a_gap() {
    let server = lab();
    let mut client = server.connect();
    client.send(&NEXT.repeat(20));
    assert!((0..20).all(|_| client.response().text() == "fast"));
}
