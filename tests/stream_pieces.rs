//! Forms that are read part by part, answers in pieces that are compressed or have trailer fields, and what becomes of
//! streams when their module or its process goes.

use crate::support::{self, Client, Server, constant, eventually, isolation, module};
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

fn lab(args: &[&str]) -> Server {
    let server = Server::on(&Arc::new(tempfile::tempdir().unwrap()), args, &[]);
    server.deploy_file("tests/modules/stream_pieces.c");
    server
}

/// All bytes until the connection ends.
fn until_end(client: &mut Client) -> Vec<u8> {
    let mut all = Vec::new();
    let mut chunk = vec![0; 1 << 16];
    loop {
        match client.stream.read(&mut chunk) {
            Ok(0) => return all,
            Ok(count) => all.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return all,
            Err(error) => panic!("{error}"),
        }
    }
}

/// The head of an answer in lower case, its body out of the chunks, and what follows the last chunk; `None`: there is none.
fn parsed(answer: &[u8]) -> (String, Vec<u8>, Option<String>) {
    let at = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    let head = String::from_utf8(answer[..at].to_vec()).unwrap().to_lowercase();
    let (mut rest, mut body) = (&answer[at..], Vec::new());
    if !head.contains("transfer-encoding: chunked") {
        return (head, rest.to_vec(), None);
    }
    loop {
        let Some(line) = rest.windows(2).position(|two| two == b"\r\n") else { return (head, body, None) };
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..line]).unwrap(), 16).unwrap();
        rest = &rest[line + 2..];
        if size == 0 {
            return (head, body, Some(String::from_utf8(rest.to_vec()).unwrap()));
        }
        body.extend_from_slice(&rest[..size.min(rest.len())]);
        if rest.len() < size + 2 {
            return (head, body, None);
        }
        rest = &rest[size + 2..];
    }
}

fn ask(server: &Server, method: &str, target: &str, fields: &str) -> (String, Vec<u8>, Option<String>) {
    let mut client = server.connect();
    client.send(format!("{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{fields}\r\n").as_bytes());
    parsed(&until_end(&mut client))
}

fn expand(coding: &str, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let read = match coding {
        "gzip" => flate2::read::GzDecoder::new(bytes).read_to_end(&mut out),
        "br" => brotli::Decompressor::new(bytes, 4096).read_to_end(&mut out),
        "zstd" => zstd::stream::read::Decoder::new(bytes).unwrap().read_to_end(&mut out),
        other => panic!("{other}"),
    };
    read.unwrap();
    out
}

fn sum_of(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |sum: u32, byte| sum.wrapping_mul(31).wrapping_add(u32::from(*byte)))
}

#[test]
fn forms_are_read_part_by_part() {
    let server = lab(&[]);
    let large: Vec<u8> = (0..5_000_000_u32).map(|at| (at % 253) as u8).collect();
    let tricky = b"\r\n--\0\r\n--BOUNDAR\r\n\r\n--BOUNDARX".to_vec();
    let mut form =
        b"a preamble\r\n--BOUNDARY\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a b.bin\"\r\n\
                     Content-Type: image/x\r\n\r\n"
            .to_vec();
    for (head, content) in [
        ("", large.as_slice()),
        ("Content-Disposition: form-data; name=t\r\n\r\n", &tricky),
        ("Content-Disposition: form-data; name=empty; filename=\"\"\r\n\r\n", b""),
    ] {
        form.extend_from_slice(head.as_bytes());
        form.extend_from_slice(content);
        form.extend_from_slice(b"\r\n--BOUNDARY\r\n");
    }
    form.extend_from_slice(b"\r\nno head\r\n--BOUNDARY--\r\nan epilogue");
    let expected = format!(
        "file a b.bin image/x 5000000 {}\nt - - {} {}\nempty  - 0 0\n - - 7 {}\nend\n",
        sum_of(&large),
        tricky.len(),
        sum_of(&tricky),
        sum_of(b"no head")
    );
    let kind = ("Content-Type", "multipart/form-data; boundary=\"BOUNDARY\"");
    let before = server.memory_kib_own();
    let mut client = server.connect();
    for query in ["", "?piece=1000000", "?piece=7777"] {
        assert_eq!(client.request("POST", &format!("/parts{query}"), &[kind], &form).text(), expected);
    }
    let skipped = client.request("POST", "/parts?skip=1", &[kind], &form).text();
    assert!(skipped.starts_with("file a b.bin image/x 0 0") && skipped.ends_with("end\n"), "{skipped}");
    let grown = server.memory_kib_own().saturating_sub(before);
    assert!(grown < 12 << 10, "{grown} KiB");
    // Bad input.
    let post = |client: &mut Client, body: &[u8]| client.request("POST", "/parts", &[kind], body).text();
    assert_eq!(post(&mut client, b""), "EPROTO\n");
    assert_eq!(post(&mut client, b"--BOUNDARY\r\n\r\nx"), "EPROTO\n", "it breaks off");
    let head = format!("--BOUNDARY\r\nX: {}\r\n\r\nx\r\n--BOUNDARY--", "y".repeat(9000));
    assert_eq!(post(&mut client, head.as_bytes()), "EPROTO\n", "a head has a bound");
    let nul = b"--BOUNDARY\r\nContent-Disposition: form-data; name=\"a\0b\"\r\n\r\nx\r\n--BOUNDARY--";
    assert_eq!(post(&mut client, nul), "EPROTO\n");
    assert_eq!(client.request("POST", "/parts", &[], b"x").text(), "EINVAL\n", "no form");
    assert_eq!(client.request("POST", "/parts-whole", &[kind], b"--BOUNDARY--").text(), "EINVAL\n", "no CWEB_STREAM");
    let many = "--BOUNDARY\r\n\r\nx\r\n".repeat(20_000) + "--BOUNDARY--";
    assert!(client.request("POST", "/parts", &[kind], many.as_bytes()).text().ends_with("end\n"));
    // The client leaves in the middle of a part.
    client.send(
        format!("POST /parts HTTP/1.1\r\nHost: x\r\n{}: {}\r\nContent-Length: 900\r\n\r\n", kind.0, kind.1).as_bytes(),
    );
    client.send(&form[..500]);
    client.finish();
    assert_eq!(client.response().text(), "ECONNRESET\n");
}

#[test]
fn answers_in_pieces_are_compressed_and_flushed() {
    let server = lab(&[]);
    let text: Vec<u8> =
        (0..300).flat_map(|n| format!("line {n} of some text that is much the same\n").into_bytes()).collect();
    for path in ["/lines", "/stream-lines"] {
        for coding in ["gzip", "br", "zstd"] {
            let (head, body, end) =
                ask(&server, "GET", &format!("{path}?pieces=300"), &format!("Accept-Encoding: {coding}\r\n"));
            assert!(
                head.contains(&format!("content-encoding: {coding}")) && head.contains("vary: accept-encoding"),
                "{head}"
            );
            assert!(head.contains("etag: w/\"lines\"") && !head.contains("content-length"), "{head}");
            assert_eq!(end.as_deref(), Some("\r\n"));
            assert!(expand(coding, &body) == text && body.len() < text.len() / 2, "{coding}: {} bytes", body.len());
            // An answer that goes on without its handler.
            let (_, body, end) =
                ask(&server, "GET", &format!("{path}?pieces=300&detach=1"), &format!("Accept-Encoding: {coding}\r\n"));
            if path == "/lines" {
                assert!(end.is_some() && expand(coding, &body) == text, "{coding}, detached");
            }
        }
        let (head, body, _) = ask(&server, "GET", &format!("{path}?pieces=300"), "");
        assert!(!head.contains("content-encoding") && head.contains("vary: accept-encoding") && body == text, "{head}");
    }
    let gzip = "Accept-Encoding: gzip\r\n";
    // What is not compressed: by the route, by its type, with a length, for HEAD the fields only.
    for target in
        ["/plain-lines", "/lines?type=image/png", "/lines?type=text/event-stream", "/lines?pieces=1&length=44"]
    {
        let (head, body, _) = ask(&server, "GET", target, gzip);
        assert!(!head.contains("content-encoding") && body.starts_with(b"line 0 of"), "{target}: {head}");
    }
    let (head, body, _) = ask(&server, "HEAD", "/lines", gzip);
    assert!(head.contains("content-encoding: gzip") && body.is_empty(), "{head}");
    // A fault ends it so that the client can tell.
    let (_, body, end) = ask(&server, "GET", "/lines?crash=1", gzip);
    assert!(end.is_none(), "no last chunk behind {} bytes", body.len());
    assert_eq!(server.get("/last").text(), "last");
    // Much that does not compress, slowly read.
    let (_, body, end) = ask(&server, "GET", "/noise?bytes=3000000", "Accept-Encoding: zstd\r\n");
    assert_eq!((expand("zstd", &body).len(), end.as_deref()), (3_000_000, Some("\r\n")));
    // A write that fails at the deadline: what it had to send is missing, and the client can tell.
    for coding in ["identity", "gzip"] {
        let fields = format!("Connection: close\r\nX-Request-Timeout-Ms: 200\r\nAccept-Encoding: {coding}\r\n");
        // Again, if the deadline was over before the handler began, or the process before the replacement had the request.
        let mut client = server.connect();
        eventually("the write has failed", || {
            assert_eq!(server.get("/seen?clear=1").status, 200);
            client = server.connect();
            client.send(format!("GET /noise?bytes=30000000 HTTP/1.1\r\nHost: x\r\n{fields}\r\n").as_bytes());
            let has_failed = || {
                std::thread::sleep(Duration::from_millis(5));
                server.get("/seen").text() == "write ETIMEDOUT"
            };
            (0..1000).any(|_| has_failed())
        });
        let (_, body, end) = parsed(&until_end(&mut client));
        assert!(end.is_none() && body.len() < 30_000_000, "{coding}: {} bytes and a last chunk", body.len());
        assert_eq!(server.get("/seen?clear=1").status, 200);
    }
    // What is written can be read before more comes.
    let mut client = server.connect();
    client.send(b"POST /live HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nAccept-Encoding: gzip\r\n\r\n");
    let (mut got, mut wanted) = (Vec::new(), Vec::new());
    for byte in *b"abc" {
        client.send(&[b"1\r\n".as_slice(), &[byte], b"\r\n"].concat());
        wanted.extend_from_slice(format!("{} is what came\n", char::from(byte)).as_bytes());
        let mut seen = Vec::new();
        while seen != wanted {
            let mut some = [0; 4096];
            let count = client.stream.read(&mut some).unwrap();
            assert!(count > 0);
            got.extend_from_slice(&some[..count]);
            seen.resize(wanted.len(), 0);
            let body = if got.windows(4).any(|four| four == b"\r\n\r\n") { parsed(&got).1 } else { continue };
            let read = flate2::read::GzDecoder::new(body.as_slice()).read_exact(&mut seen);
            seen = if read.is_ok() { seen } else { Vec::new() };
        }
    }
}

#[test]
fn answers_end_with_trailer_fields_or_with_their_connection() {
    let server = lab(&[]);
    let (head, body, end) = ask(&server, "GET", "/trailers", "");
    assert!(head.contains("trailer: x-sum"), "{head}");
    assert_eq!(body, b"EINVAL EINVAL EINVAL E2BIG");
    assert_eq!(end.as_deref(), Some("X-Sum: 1f 2e\r\nX-More: \r\n\r\n"));
    let (_, body, end) = ask(&server, "GET", "/trailers", "Accept-Encoding: gzip\r\n");
    assert_eq!(expand("gzip", &body), b"EINVAL EINVAL EINVAL E2BIG");
    assert_eq!(end.as_deref(), Some("X-Sum: 1f 2e\r\nX-More: \r\n\r\n"));
    let (_, body, _) = ask(&server, "GET", "/trailers?length=26", "");
    assert_eq!(body, b"EINVAL EINVAL EINVAL E2BIG", "none behind a length");
    // The connection goes on.
    let mut client = server.connect();
    assert_eq!(client.get("/trailers?length=26").status, 200);
    // Unless the handler says otherwise.
    let answer = client.get("/last");
    assert_eq!((answer.text(), answer.header("connection")), ("last".to_owned(), Some("close".to_owned())));
    assert!(client.is_closed());
    // Requests behind it get no answer: to a client of HTTP/1.0 that answer would be a part of this one. The server runs
    // none that has side effects.
    let second = "POST /count HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc";
    for first in ["/last HTTP/1.1\r\nHost: x\r\n", "/lines?pieces=0 HTTP/1.0\r\nConnection: keep-alive\r\n"] {
        for second in [second, "GET /seen HTTP/1.1\r\nHost: x\r\n\r\n", "GET /lines HTTP/1.1\r\nHost: x\r\n\r\n"] {
            let mut client = server.connect();
            client.send(format!("GET {first}\r\n{second}").as_bytes());
            let answer = String::from_utf8(until_end(&mut client)).unwrap();
            assert_eq!(answer.matches("HTTP/1.1 200").count(), 1, "{answer}");
            assert!(answer.contains("Connection: close\r\n"), "{answer}");
        }
    }
}

#[test]
fn detached_answers_end_visibly_with_their_module_and_flags_that_exclude_each_other_are_refused() {
    let server = lab(&["--shards", "2"]);
    let mut clients: Vec<Client> = (0..6).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.send(b"GET /subscribe HTTP/1.1\r\nHost: x\r\n\r\n");
        let mut got = Vec::new();
        while !got.ends_with(b"welcome\r\n") {
            let mut some = [0; 512];
            let count = client.stream.read(&mut some).unwrap();
            assert!(count > 0);
            got.extend_from_slice(&some[..count]);
        }
    }
    // Those of another module go on, and so do these over a swap.
    server.deploy(&constant("other", "/other", "other"));
    let source = std::fs::read_to_string(support::root().join("tests/modules/stream_pieces.c")).unwrap();
    server.deploy(&(source + "\n/* another version */\n"));
    assert_eq!(server.connect().request("DELETE", "/mgnt/other", &[], b"").status, 200);
    clients[0].stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(clients[0].stream.read(&mut [0; 1]).is_err(), "it is open still");
    clients[0].stream.set_read_timeout(Some(support::PATIENCE)).unwrap();
    assert_eq!(server.connect().request("DELETE", "/mgnt/pieces", &[], b"").status, 200);
    for client in &mut clients {
        assert_eq!(until_end(client), b"", "it ends without a last chunk");
    }
    let code = "HANDLER(f, \"\")";
    let refused = server.try_deploy(&module("both", code, r#"{"/both", "POST", f, CWEB_STREAM | CWEB_DECODE}"#, 1, ""));
    assert_eq!(refused.status, 422);
    assert!(refused.text().contains("CWEB_DECODE has no effect beside CWEB_STREAM"), "{}", refused.text());
}

#[test]
fn a_detached_answer_is_written_by_everything_and_by_the_next_version() {
    let server = Server::with(&["--shards", "2"]);
    let source = std::fs::read_to_string(support::root().join("tests/modules/heir.c")).unwrap();
    server.deploy(&source);
    let mut client = server.connect();
    client.send(b"GET /subscribe HTTP/1.1\r\nHost: x\r\n\r\n");
    let mut got = Vec::new();
    let mut comes = |text: &str| {
        while !got.windows(text.len()).any(|window| window == text.as_bytes()) {
            let mut some = [0; 512];
            let count = client.stream.read(&mut some).unwrap();
            assert!(count > 0, "it ended before {text}: {}", String::from_utf8_lossy(&got));
            got.extend_from_slice(&some[..count]);
        }
    };
    comes("handler of first");
    assert_eq!(server.get("/later").text(), "0");
    comes("scheduler of first");
    assert_eq!(server.post("/jobs", br#"{"job": "tell"}"#).status, 200);
    comes("job of first");
    let mut socket = server.websocket("/ws");
    socket.send(tungstenite::Message::text("tell")).unwrap();
    comes("socket of first");
    // The handle is valid in the next version, which sets its own callbacks.
    server.deploy(&source.replace("\"first\"", "\"second\""));
    assert_eq!(server.get("/inherit").text(), "0 0");
    comes("handler of second");
    socket.send(tungstenite::Message::text("tell")).unwrap();
    comes("socket of second");
    drop(client);
    eventually("its end", || server.get("/seen").text() == "gone: second");
    assert_eq!(server.get("/end").text(), "gone: second, 1 ECONNRESET 0 -1");
}

#[test]
fn a_request_that_comes_while_the_process_is_started_again_waits_for_it() {
    if isolation() != "process" {
        return;
    }
    let server = lab(&["--crash-limit", "0", "--shards", "1"]);
    for round in 0..5 {
        let pid = server.get("/pid").text().parse().unwrap();
        support::signal(pid, "KILL");
        eventually("the server has noticed", || server.log().matches("died").count() > round);
        // Whole with its head, and in pieces.
        let mut whole = server.connect();
        whole.send(b"POST /count HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nwhole");
        let mut pieces = server.connect();
        pieces.send(b"POST /count HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\npie");
        let answer = whole.response();
        assert_eq!((answer.status, answer.text().as_str()), (200, "5"), "{}", server.log());
        pieces.send(b"ces");
        let answer = pieces.response();
        assert_eq!((answer.status, answer.text().as_str()), (200, "6"), "{}", server.log());
    }
}

#[test]
fn jobs_and_callbacks_learn_why_they_are_to_end() {
    let server = lab(&["--job-timeout", "0"]);
    let seen = |what: &str| eventually(what, || server.get("/seen").text() == what);
    // A busy machine may let the job begin when its time is over.
    eventually("a job knows its time", || {
        assert_eq!(server.get("/seen?clear=1").status, 200);
        assert_eq!(server.post("/jobs", br#"{"job": "patient", "timeout_ms": 300}"#).status, 200);
        eventually("its end", || server.get("/seen").text().starts_with("job 2 "));
        server.get("/seen").text() == "job 2 limited 0"
    });
    let created = server.post("/jobs", br#"{"job": "patient"}"#).text();
    let uuid = created.split('"').find(|part| part.len() == 36).unwrap().to_owned();
    seen("job runs");
    assert_eq!(server.post(&format!("/jobs/{uuid}/cancel"), b"").status, 200);
    seen("job 4 unlimited -1");
    let mut socket = server.websocket("/ws");
    socket.send(tungstenite::Message::text("begin")).unwrap();
    seen("socket 0");
    drop(socket);
    seen("socket is gone");
}

#[test]
fn a_handler_that_returns_an_error_leaves_no_answer_that_looks_whole() {
    let server = Server::start();
    let code = r#"#include <cweb_stream.h>
static int half(struct cweb_context *c, http_request_t *q, http_response_t *r) { (void)c; (void)q; cweb_begin(r, 200); cweb_printf(r, "half"); return -1; }
static int whole(struct cweb_context *c, http_request_t *q, http_response_t *r) { (void)c; (void)q; cweb_begin(r, 200); cweb_printf(r, "whole"); return 1; }
static int none(struct cweb_context *c, http_request_t *q, http_response_t *r) { (void)c; (void)q; (void)r; return -1; }
static int says(struct cweb_context *c, http_request_t *q, http_response_t *r) { (void)c; (void)q; return cweb_respond(r, 422, NULL, "no\n"), -1; }
"#;
    let routes = r#"{"/half","GET",half,NONE},{"/half-stream","GET",half,CWEB_STREAM},{"/whole","GET",whole,CWEB_STREAM},
        {"/none","GET",none,CWEB_STREAM},{"/none-old","GET",none,NONE},{"/says","GET",says,CWEB_STREAM}"#;
    server.deploy(&module("ends", code, routes, 6, ""));
    for target in ["/half", "/half-stream"] {
        let (head, body, end) = ask(&server, "GET", target, "");
        assert!(head.starts_with("http/1.1 200") && body == b"half" && end.is_none(), "{target}: {end:?}");
    }
    let (_, body, end) = ask(&server, "GET", "/whole", "");
    assert!(body == b"whole" && end.is_some(), "only a negative value is an error");
    let statuses = ["/none", "/none-old", "/says"].map(|target| server.get(target).status);
    assert_eq!(
        statuses,
        [500, 200, 422],
        "without cweb_begin a value counts in routes of CWEB_STREAM, and only for no answer at all"
    );
}

#[test]
fn a_wrong_method_is_told_before_the_size_of_the_body() {
    let server = Server::start();
    server.deploy_file("example/tree_hash.c");
    let statuses = [("POST", "/tree-hash"), ("PUT", "/nowhere")].map(|(method, target)| {
        let (head, _, _) = ask(&server, method, target, "Content-Length: 50000000\r\n");
        head.get(9..12).unwrap().to_owned()
    });
    assert_eq!(statuses, ["405", "404"]);
}
