//! Methods, and the upgrades of a request.

use super::raw::{get, lab, refused, served, text};

#[test]
fn rfc_9110_9_1_methods_that_are_not_known() {
    let server = lab();
    for method in ["BREW", "get", "Get", "PROPFIND", "FOO", "GETX", "M-SEARCH", "!#$%&'*+-.^_`|~"] {
        refused(&server, format!("{method} /fast HTTP/1.1\r\nHost: x\r\n\r\n"), 501);
    }
}

#[test]
fn rfc_9110_15_5_6_methods_that_are_not_served() {
    let server = lab();
    for (method, path, allow) in [
        ("POST", "/fast", "GET, HEAD, OPTIONS"),
        ("DELETE", "/fast", "GET, HEAD, OPTIONS"),
        ("PATCH", "/fast", "GET, HEAD, OPTIONS"),
        ("GET", "/echo", "OPTIONS, POST, PUT"),
        ("HEAD", "/echo", "OPTIONS, POST, PUT"),
    ] {
        let answer = served(&server, format!("{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n"));
        let listed = answer.header("allow").unwrap_or_default();
        let mut allowed: Vec<&str> = listed.split(", ").collect();
        allowed.sort_unstable();
        assert_eq!((answer.status, allowed.join(", ").as_str()), (405, allow), "{method} {path}");
    }
    assert_eq!(served(&server, "DELETE /nowhere HTTP/1.1\r\nHost: x\r\n\r\n").status, 404);
}

#[test]
fn rfc_9110_9_3_2_head_is_get_without_content() {
    let server = lab();
    for path in [
        "/fast",
        "/inline",
        "/big",
        "/show",
        "/nowhere",
        "/status/404",
        "/ws",
        "/healthz",
        "/status/204",
        "/status/304",
    ] {
        let got = served(&server, get(path, ""));
        let head = served(&server, format!("HEAD {path} HTTP/1.1\r\nHost: x\r\n\r\n"));
        assert_eq!(head.status, got.status, "{path}");
        for field in ["content-length", "content-type", "transfer-encoding", "upgrade", "connection"] {
            assert_eq!(head.header(field), got.header(field), "{field} of {path}");
        }
    }
    // Refusals have no content either.
    for request in [
        "HEAD /fast HTTP/1.1\r\n\r\n",
        "\r\nHEAD /fast HTTP/1.1\r\nHost: a b\r\n\r\n",
        "HEAD /fast HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ] {
        let mut client = server.connect();
        client.send(request.as_bytes());
        assert_eq!(client.response_to("HEAD").status, 400);
        assert!(client.try_response("HEAD").is_none(), "content behind the answer to {request:?}");
    }
}

#[test]
fn rfc_9110_9_3_6_connect_is_not_implemented() {
    let server = lab();
    refused(&server, "CONNECT /fast HTTP/1.1\r\nHost: x\r\n\r\n", 501);
    refused(&server, "CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\n\r\n", 501);
}

#[test]
fn rfc_9110_9_3_7_options() {
    let server = lab();
    for path in ["/fast", "/echo", "/nowhere", "/mgnt"] {
        let answer = served(&server, format!("OPTIONS {path} HTTP/1.1\r\nHost: x\r\n\r\n"));
        assert_eq!((answer.status, answer.header("content-length").as_deref()), (200, Some("0")), "{path}");
        assert!(answer.header("access-control-allow-methods").is_some());
    }
}

#[test]
fn rfc_9110_9_3_8_trace_echoes_nothing() {
    let server = lab();
    let secret = "TRACE /fast HTTP/1.1\r\nHost: x\r\nCookie: secret\r\n\r\n";
    refused(&server, secret, 501);
    let mut client = server.connect();
    client.send(secret.as_bytes());
    let answer = client.response();
    assert!(!answer.text().contains("secret") && !answer.head.contains("secret"));
}

#[test]
fn rfc_9110_7_8_upgrades_to_others_are_ignored() {
    let server = lab();
    let h2c = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n";
    let answer = served(&server, get("/fast", h2c));
    assert_eq!((answer.status, answer.text().as_str(), answer.header("upgrade")), (200, "fast", None));
    assert_eq!(text(&server, get("/fast", "Connection: Upgrade\r\nUpgrade: TLS/1.0\r\n")), "fast");
}

#[test]
fn rfc_9110_7_8_upgrade_is_ignored_in_http_1_0() {
    let server = lab();
    let websocket = "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    assert_eq!(text(&server, format!("GET /fast HTTP/1.0\r\n{websocket}\r\n")), "fast");
    assert_eq!(served(&server, format!("GET /ws HTTP/1.0\r\n{websocket}\r\n")).status, 426);
}

#[test]
fn rfc_9110_15_5_22_a_websocket_asks_for_its_upgrade() {
    let server = lab();
    for method in ["GET", "HEAD", "POST"] {
        let answer = served(&server, format!("{method} /ws HTTP/1.1\r\nHost: x\r\n\r\n"));
        assert_eq!((answer.status, answer.header("upgrade").as_deref()), (426, Some("websocket")), "{method}");
        assert_eq!(answer.header("connection").as_deref(), Some("Upgrade")); // RFC 9110 §7.8
    }
    let mut client = server.connect();
    let answer = client.request("GET", "/ws", &[("Connection", "close")], b"");
    assert_eq!(answer.header("connection").as_deref(), Some("close, Upgrade"));
}
