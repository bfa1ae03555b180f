//! Where a request ends: what a proxy in front could read differently is refused.

use super::raw::{chunked, lab, post, refused, served, text};
use crate::support::Server;

#[test]
fn rfc_9110_8_6_content_length_is_digits_and_nothing_else() {
    let server = lab();
    for bad in ["+5", "-5", "-0", "0x5", "5a", "5.0", "1e1", "5 5", "5;q=1", "\"5\"", "", " ", "٥"] {
        refused(&server, post(&format!("Content-Length: {bad}\r\n"), "hello"), 400);
    }
    assert_eq!(text(&server, post("Content-Length:5\r\n", "hello")), "hello");
    assert_eq!(text(&server, post("content-length: \t5 \t\r\n", "hello")), "hello");
    assert_eq!(text(&server, post("Content-Length: 00005\r\n", "hello")), "hello");
    assert_eq!(text(&server, post("Content-Length: 0\r\n", "")), "");
}

#[test]
fn rfc_9110_8_6_content_length_does_not_overflow() {
    let server = lab();
    for large in ["18446744073709551616", "18446744073709551621", "99999999999999999999999999999999"] {
        refused(&server, post(&format!("Content-Length: {large}\r\n"), "hello"), 400);
    }
    for large in ["18446744073709551615", "9223372036854775808", "4294967301", "4294967296"] {
        refused(&server, post(&format!("Content-Length: {large}\r\n"), "hello"), 413);
    }
}

#[test]
fn rfc_9110_8_6_content_length_comes_once() {
    let server = lab();
    for fields in [
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 0\r\ncontent-length: 5\r\n",
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5, 6\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: 5,\r\n",
    ] {
        refused(&server, post(fields, "hello"), 400);
    }
}

#[test]
fn rfc_9112_6_1_transfer_encoding_beside_content_length() {
    let server = lab();
    for fields in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n",
    ] {
        refused(&server, post(fields, "0\r\n\r\n"), 400);
    }
}

#[test]
fn rfc_9112_6_1_transfer_encoding_in_http_1_0() {
    let server = lab();
    for connection in ["", "Connection: keep-alive\r\n"] {
        refused(
            &server,
            format!("POST /echo HTTP/1.0\r\n{connection}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
            400,
        );
    }
}

#[test]
fn rfc_9112_6_1_unknown_codings_beneath_chunked() {
    let server = lab();
    for coding in ["gzip, chunked", "identity, chunked", "x, y,chunked"] {
        refused(&server, post(&format!("Transfer-Encoding: {coding}\r\n"), "0\r\n\r\n"), 501);
    }
}

#[test]
fn rfc_9112_6_3_a_request_without_a_last_chunked_has_no_end() {
    let server = lab();
    for coding in
        ["xchunked", "chunkedx", "gzip", "identity", "chunked, identity", "chunked, gzip", "x", "", "\"chunked\""]
    {
        refused(&server, post(&format!("Transfer-Encoding: {coding}\r\n"), "0\r\n\r\n"), 400);
    }
    refused(&server, post("Transfer-Encoding: chunked;a=b\r\n", "0\r\n\r\n"), 400);
}

#[test]
fn rfc_9112_6_1_chunked_is_applied_once() {
    let server = lab();
    for fields in [
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\ntransfer-encoding:\r\n",
        "Transfer-Encoding: chunked,\r\n",
        "Transfer-Encoding: ,chunked\r\n",
    ] {
        let server: &Server = &server;
        let bytes = post(fields, "0\r\n\r\n");
        // An empty member is a coding nobody knows, which may be said by either.
        refused(server, bytes, if fields.contains(": ,") { 501 } else { 400 });
    }
}

#[test]
fn rfc_9112_6_1_obfuscated_transfer_encoding() {
    let server = lab();
    for fields in [
        "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding\t: chunked\r\n",
        " Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding: \x0bchunked\r\n",
        "Transfer-Encoding: chunked\x0b\r\n",
        "Transfer-Encoding: \x0cchunked\r\n",
        "Transfer-Encoding:\r\n chunked\r\n",
        "Transfer-Encoding: chunked\0\r\n",
        "Transfer-Encoding: chunked\r\r\n",
        "Transfer-Encoding: chu\nnked\r\n",
        "X: y\nTransfer-Encoding: chunked\r\n",
    ] {
        refused(&server, post(fields, "0\r\n\r\n"), 400);
    }
    // RFC 9110 §5.5: white space around a value is no part of it.
    for value in ["chunked", "  chunked", "chunked \t", "\tchunked", "CHUNKED", "Chunked"] {
        assert_eq!(text(&server, post(&format!("Transfer-Encoding:{value}\r\n"), "2\r\nhi\r\n0\r\n\r\n")), "hi");
    }
    // Another field's name, whatever a gateway makes of it.
    let other = post("Transfer_Encoding: chunked\r\nContent-Length: 2\r\n", "hi");
    assert_eq!(text(&server, other), "hi");
}

#[test]
fn rfc_9112_6_3_no_length_is_no_body() {
    let server = lab();
    assert_eq!(text(&server, post("", "")), "");
    assert_eq!(text(&server, "PUT /echo HTTP/1.1\r\nHost: x\r\n\r\n"), "");
    assert_eq!(
        text(&server, "GET /show HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody").split("body=").nth(1),
        Some("body")
    );
}

#[test]
fn rfc_9112_8_an_incomplete_request_is_not_served() {
    let server = lab();
    for request in [
        post("Content-Length: 9\r\n", "half"),
        chunked("4\r\nha"),
        chunked("4\r\nhalf\r\n"),
        "GET /fast HTTP/1.1\r\nHost:".into(),
    ] {
        let mut client = server.connect();
        client.send(request.as_bytes());
        client.finish();
        assert!(client.try_response("GET").is_none(), "{request}");
    }
    assert_eq!(served(&server, super::raw::get("/fast", "")).status, 200);
}
