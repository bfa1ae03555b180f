//! The opening handshake, which the suite has no group for; compression is declined.

use super::peer::{FIELDS, FIN, KEY, PING, PONG, Peer, TEXT, frame, lab};
use crate::support::{Response, Server};

fn shake(server: &Server, line: &str, fields: &str) -> Response {
    let mut client = server.connect();
    client.send(format!("{line}\r\nHost: x\r\n{fields}\r\n").as_bytes());
    client.response()
}

const LINE: &str = "GET /ws HTTP/1.1";

/// The status of a handshake in which `from` has become `to`.
fn changed(server: &Server, from: &str, to: &str) -> u16 {
    assert!(FIELDS.contains(from), "{from}");
    shake(server, LINE, &FIELDS.replace(from, to)).status
}

#[test]
fn rfc_6455_4_2_2_the_accept_value() {
    let server = lab();
    for (key, accept) in
        [(KEY, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), ("AAAAAAAAAAAAAAAAAAAAAA==", "ICX+Yqv66kxgM0FcWaLWlFLwTAI=")]
    {
        let answer = shake(&server, LINE, &FIELDS.replace(KEY, key));
        assert!(answer.head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"));
        assert_eq!(answer.header("sec-websocket-accept").as_deref(), Some(accept));
        assert_eq!(answer.header("upgrade").as_deref(), Some("websocket"));
        assert_eq!(answer.header("connection").as_deref(), Some("Upgrade"));
        assert!(answer.header("content-length").is_none() && answer.header("transfer-encoding").is_none()); // RFC 9110 §8.6
    }
}

#[test]
fn rfc_6455_4_2_1_upgrade_and_connection_are_lists_without_case() {
    let server = lab();
    for (from, to) in [
        ("Upgrade: websocket", "Upgrade: WebSocket"),
        ("Upgrade: websocket", "UPGRADE: WEBSOCKET"),
        ("Upgrade: websocket", "Upgrade: h2c, websocket"),
        ("Connection: Upgrade", "Connection: upgrade"),
        ("Connection: Upgrade", "Connection: keep-alive, Upgrade"),
        ("Connection: Upgrade", "Connection: keep-alive\r\nConnection: ,UPGRADE,"),
    ] {
        assert_eq!(changed(&server, from, to), 101, "{to}");
    }
    for (from, to, status) in [
        ("Connection: Upgrade", "Connection: keep-alive", 400),
        ("Connection: Upgrade", "Connection: Upgraded", 400),
        ("Connection: Upgrade\r\n", "", 400),
        ("Upgrade: websocket", "Upgrade: websockets", 426),
        ("Upgrade: websocket", "Upgrade: h2c", 426),
        ("Upgrade: websocket\r\n", "", 426),
    ] {
        assert_eq!(changed(&server, from, to), status, "{to}");
    }
}

#[test]
fn rfc_6455_4_2_1_the_key() {
    let server = lab();
    let line = format!("Sec-WebSocket-Key: {KEY}\r\n");
    for key in [
        "",
        "short",
        "dGhlIHNhbXBsZSBub25jZQ",
        "dGhlIHNhbXBsZSBub25jZR==",
        "dGhlIHNhbXBsZSBub25jZQ===",
        "dGhlIHNhbXBsZSBub25jZQ= =",
        "dGhlIHNhbXBsZSBub25jZTE=",
        "dGhlIHNhbXBsZSBub2-jZQ==",
        "dGhlIHNhbXBsZSBub25j",
        "!!!!!!!!!!!!!!!!!!!!!!==",
    ] {
        assert_eq!(changed(&server, KEY, key), 400, "{key}");
    }
    assert_eq!(changed(&server, &line, ""), 400);
    assert_eq!(changed(&server, &line, &line.repeat(2)), 400);
}

#[test]
fn rfc_6455_4_4_the_version() {
    let server = lab();
    for version in ["8", "0", "12", "14", "013", "13.0", "", "13, 8", "x"] {
        let answer = shake(&server, LINE, &FIELDS.replace("Version: 13", &format!("Version: {version}")));
        let said = (
            answer.status,
            answer.header("sec-websocket-version"),
            answer.header("upgrade"),
            answer.header("connection"),
        );
        assert_eq!(
            said,
            (426, Some("13".to_owned()), Some("websocket".to_owned()), Some("Upgrade".to_owned())),
            "{version}"
        );
    }
    assert_eq!(changed(&server, "Sec-WebSocket-Version: 13\r\n", ""), 426);
    assert_eq!(
        changed(&server, "Sec-WebSocket-Version: 13\r\n", "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Version: 8\r\n"),
        426
    );
}

#[test]
fn rfc_6455_4_1_a_handshake_is_a_get_of_http_1_1() {
    let server = lab();
    for method in ["POST", "PUT", "DELETE", "HEAD"] {
        let mut client = server.connect();
        client.send(format!("{method} /ws HTTP/1.1\r\nHost: x\r\n{FIELDS}\r\n").as_bytes());
        assert_eq!(client.response_to(method).status, 400, "{method}");
    }
    assert_eq!(shake(&server, "GET /ws HTTP/1.0", FIELDS).status, 426);
    assert_eq!(shake(&server, "GET /ws HTTP/1.2", FIELDS).status, 101);
    assert_eq!(shake(&server, "GET http://x/ws HTTP/1.1", FIELDS).status, 101);
    let mut client = server.connect();
    client.send(format!("{LINE}\r\n{FIELDS}\r\n").as_bytes());
    assert_eq!(client.response().status, 400, "without Host");
}

#[test]
fn rfc_6455_4_2_2_a_path_without_a_websocket() {
    let server = lab();
    for path in ["/nowhere", "/counts", "/ws/", "/WS"] {
        assert_eq!(shake(&server, &format!("GET {path} HTTP/1.1"), FIELDS).status, 404, "{path}");
    }
    assert_eq!(shake(&server, "GET /ws?id=1&x=y HTTP/1.1", FIELDS).status, 101);
}

#[test]
fn rfc_6455_4_2_2_subprotocols_are_not_chosen() {
    let server = lab();
    for fields in
        ["Sec-WebSocket-Protocol: chat, superchat\r\n", "Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Protocol: x\r\n"]
    {
        let answer = shake(&server, LINE, &format!("{FIELDS}{fields}"));
        assert_eq!((answer.status, answer.header("sec-websocket-protocol")), (101, None));
    }
}

#[test]
fn rfc_6455_9_1_extensions_are_declined() {
    let server = lab();
    for offer in [
        "x-webkit-deflate-frame",
        "unknown; a=b",
        "permessage-deflate; unknown",
        "permessage-deflate; server_max_window_bits=16",
        "permessage-deflate; server_max_window_bits",
        "permessage-deflate; client_max_window_bits=\"7\"",
        "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
    ] {
        let answer = shake(&server, LINE, &format!("{FIELDS}Sec-WebSocket-Extensions: {offer}\r\n"));
        assert_eq!((answer.status, answer.header("sec-websocket-extensions")), (101, None));
    }
}

#[test]
fn rfc_6455_4_1_frames_behind_the_handshake_in_one_packet() {
    let server = lab();
    let mut peer = Peer::open_with(&server, &[frame(FIN | PING, b"p"), frame(FIN | TEXT, b"hello")].concat());
    peer.expect(FIN | PONG, b"p");
    peer.expect(FIN | TEXT, b"hello");
    let mut peer = Peer::open_with(&server, &frame(FIN | TEXT, b"in two")[..7]);
    peer.send(&frame(FIN | TEXT, b"in two")[7..]);
    peer.expect(FIN | TEXT, b"in two");
    let mut peer = Peer::open_with(&server, b"\x81\x01a");
    peer.expect_close(Some(1002));
}

#[test]
fn rfc_6455_4_2_1_after_a_refusal_the_connection_speaks_http() {
    let server = lab();
    let mut client = server.connect();
    client.send(format!("{LINE}\r\nHost: x\r\n{}\r\n", FIELDS.replace("13", "8")).as_bytes());
    assert_eq!(client.response().status, 426);
    client.send(format!("{LINE}\r\nHost: x\r\n{FIELDS}\r\n").as_bytes());
    assert_eq!(client.response().status, 101);
    // A handshake may come behind other requests.
    let mut client = server.connect();
    client.send(format!("GET /counts HTTP/1.1\r\nHost: x\r\n\r\n{LINE}\r\nHost: x\r\n{FIELDS}\r\n").as_bytes());
    assert_eq!((client.response().status, client.response().status), (200, 101));
}
