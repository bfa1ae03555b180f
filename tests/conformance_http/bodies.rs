//! The chunked coding, and bodies that are too large.

use super::raw::{chunked, lab, lab_with, post, refused, text};

#[test]
fn rfc_9112_7_1_chunk_sizes() {
    let server = lab();
    for chunks in [
        "g\r\n",
        "\r\n",
        "-1\r\na\r\n",
        "+1\r\na\r\n",
        "0x1\r\na\r\n",
        "1h\r\na\r\n",
        " 1\r\na\r\n",
        "1 \r\na\r\n",
        "1\t\r\na\r\n",
        "1,\r\na\r\n",
        "1_0\r\na\r\n",
        "\u{661}\r\na\r\n",
    ] {
        refused(&server, chunked(&format!("{chunks}0\r\n\r\n")), 400);
    }
    assert_eq!(text(&server, chunked("a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n")).len(), 20);
    assert_eq!(text(&server, chunked("0000000000000005\r\nhello\r\n000\r\n\r\n")), "hello");
    assert_eq!(text(&server, chunked("0\r\n\r\n")), "");
}

#[test]
fn rfc_9112_7_1_chunk_sizes_do_not_overflow() {
    let server = lab();
    refused(&server, chunked("10000000000000001\r\na\r\n0\r\n\r\n"), 400);
    refused(&server, chunked("00000000000000001\r\na\r\n0\r\n\r\n"), 400);
    for large in ["ffffffffffffffff", "8000000000000000", "100000001", "fffffffffffffffe"] {
        refused(&server, chunked(&format!("{large}\r\na\r\n0\r\n\r\n")), 413);
    }
    refused(&server, chunked("5\r\nhello\r\nfffffffffffffffb\r\na\r\n0\r\n\r\n"), 413);
}

#[test]
fn rfc_9112_7_1_chunk_data_ends_in_crlf() {
    let server = lab();
    for chunks in [
        "1\r\nab\r\n",
        "1\r\na\n0\r\n\r\n",
        "1\r\na\r0\r\n\r\n",
        "1\r\na\r\r\n",
        "1\r\na0\r\n\r\n",
        "1\na\r\n0\r\n\r\n",
        "1\r\na\r\n0\n\n",
        "1\ra\r\n",
    ] {
        refused(&server, chunked(chunks), 400);
    }
}

#[test]
fn rfc_9112_7_1_1_extensions_are_taken_and_thrown_away() {
    let server = lab();
    let chunks = "2;a\r\nhi\r\n1;b=c\r\n!\r\n1 ;d=\"e;f\"\r\n!\r\n1\t;g\r\n?\r\n0;h\r\n\r\n";
    assert_eq!(text(&server, chunked(chunks)), "hi!!?");
    for chunks in ["1;a\nb\r\na\r\n", "1;a\rb\r\na\r\n", "1;a\0\r\na\r\n", "1;a\x0b\r\na\r\n", "1;a=\"\n\"\r\na\r\n"] {
        refused(&server, chunked(&format!("{chunks}0\r\n\r\n")), 400);
    }
}

#[test]
fn rfc_9112_7_1_1_extensions_are_bounded() {
    let server = lab();
    let chunk = |length: usize| format!("1;{}\r\na\r\n", "e".repeat(length));
    assert_eq!(text(&server, chunked(&format!("{}0\r\n\r\n", chunk(1000).repeat(16)))).len(), 16);
    refused(&server, chunked(&chunk(2000)), 400);
    refused(&server, chunked(&chunk(1000).repeat(40)), 400);
}

#[test]
fn rfc_9112_7_1_2_trailers_are_taken_and_thrown_away() {
    let server = lab();
    let request = "POST /show HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\
                   Trailer-Field: late\r\nHost: other\r\nContent-Length: 7\r\nX: late\r\n\r\n";
    let shown = text(&server, request);
    assert!(shown.contains("host=x x=- t=-") && shown.ends_with("chunked=1 body=hi"), "{shown}");
}

#[test]
fn rfc_9112_7_1_2_malformed_trailers() {
    let server = lab();
    for trailer in [
        "no colon",
        "A : b",
        " A: b",
        "A: b\r\n c",
        ": b",
        "A B: c",
        "A: b\0",
        "A: b\x0b",
        "A: b\rC: d",
        "A: b\nC: d",
        "GET / HTTP/1.1",
    ] {
        refused(&server, chunked(&format!("1\r\na\r\n0\r\n{trailer}\r\n\r\n")), 400);
    }
}

#[test]
fn rfc_6585_5_trailers_are_bounded() {
    let server = lab();
    refused(&server, chunked(&format!("0\r\n{}\r\n", "Name: value\r\n".repeat(1000))), 431);
    refused(&server, chunked(&format!("0\r\nName: {}\r\n\r\n", "v".repeat(9000))), 431);
}

#[test]
fn rfc_9110_15_5_14_bodies_that_are_too_large() {
    let server = lab();
    // Sources may be 4 MiB.
    refused(&server, post("Content-Length: 4194305\r\n", ""), 413);
    refused(&server, post("Content-Length: 4194305\r\n", &"a".repeat(2_000_000)), 413);
    refused(&server, chunked("400001\r\n"), 413);
    let small = lab_with(&["--body-bytes-max", "1000"]);
    for (length, status) in [(1000, 200), (1001, 413), (100_000, 413)] {
        let body = "a".repeat(length);
        let answer = |request: String| {
            let mut client = small.connect();
            client.send(request.as_bytes());
            client.response().status
        };
        assert_eq!(answer(post(&format!("Content-Length: {length}\r\n"), &body)), status);
        assert_eq!(answer(chunked(&format!("{length:x}\r\n{body}\r\n0\r\n\r\n"))), status);
        assert_eq!(answer(chunked(&format!("{}0\r\n\r\n", "1\r\na\r\n".repeat(length)))), status);
    }
}
