//! Bodies in pieces: uploads and answers that never lie in memory whole, cancellation, answers that outlive their handlers.

use crate::support::tls::{self, Authority};
use crate::support::{self, Client, PATIENCE, Response, Server, eventually, isolation, signal};
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

fn lab(args: &[&str]) -> Server {
    let server = Server::on(&Arc::new(tempfile::tempdir().unwrap()), args, &[]);
    server.deploy_file("tests/modules/streams.c");
    server
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|n| (n % 251) as u8).collect()
}

/// What the module says of a body.
fn sum_of(body: &[u8], length: i64, error: &str) -> String {
    let sum =
        body.iter().fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
    format!("{} {sum:016x} {length} {error}", body.len())
}

fn chunked(body: &[u8], piece: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for chunk in body.chunks(piece) {
        out.extend(format!("{:x};note=1\r\n", chunk.len()).bytes());
        out.extend_from_slice(chunk);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"0\r\nTrailer: x\r\n\r\n");
    out
}

/// All bytes until the connection ends, and whether it ended by a reset.
fn until_end(client: &mut Client) -> (Vec<u8>, bool) {
    let mut all = Vec::new();
    let mut chunk = vec![0; 1 << 16];
    loop {
        match client.stream.read(&mut chunk) {
            Ok(0) => return (all, false),
            Ok(count) => all.extend_from_slice(&chunk[..count]),
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
                return (all, true);
            }
        }
    }
}

/// The body of a chunked answer, and whether the last chunk came.
fn unchunk(mut bytes: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    loop {
        let Some(at) = bytes.windows(2).position(|two| two == b"\r\n") else { return (body, false) };
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..at]).unwrap(), 16).unwrap();
        bytes = &bytes[at + 2..];
        if size == 0 {
            return (body, bytes == b"\r\n");
        }
        if bytes.len() < size + 2 {
            body.extend_from_slice(&bytes[..size.min(bytes.len())]);
            return (body, false);
        }
        body.extend_from_slice(&bytes[..size]);
        bytes = &bytes[size + 2..];
    }
}

fn split(answer: &[u8]) -> (String, &[u8]) {
    let at = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    (String::from_utf8(answer[..at].to_vec()).unwrap().to_lowercase(), &answer[at..])
}

/// Sends a GET that closes its connection, and gives all of the answer.
fn get_whole(server: &Server, target: &str, version: &str) -> (String, Vec<u8>, bool) {
    let mut client = server.connect();
    client.send(format!("GET {target} HTTP/{version}\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes());
    let (answer, reset) = until_end(&mut client);
    let (head, body) = split(&answer);
    (head, body.to_vec(), reset)
}

fn post_head(target: &str, framing: &str) -> String {
    format!("POST {target} HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n")
}

fn seen(server: &Server, what: &str) {
    eventually(what, || server.get("/seen").text().contains(what));
}

fn seen_cleared(server: &Server) {
    server.get("/seen?clear=1");
}

#[test]
fn bodies_of_every_size_and_framing_are_read_in_pieces() {
    let server = lab(&["--shards", "2"]);
    let mut client = server.connect();
    for bytes in [0, 1, 1000, 70_000, 2_500_003] {
        let body = pattern(bytes);
        for query in ["", "?view=1", "?piece=999", "?piece=3000000"] {
            let answer = client.request("POST", &format!("/sum{query}"), &[], &body);
            assert_eq!(answer.text(), sum_of(&body, i64::try_from(bytes).unwrap(), "0"), "{bytes} {query}");
        }
        for piece in [1 + bytes / 3, 70_001] {
            client.send(post_head("/sum?view=1", "Transfer-Encoding: chunked").as_bytes());
            client.send(&chunked(&body, piece));
            assert_eq!(client.response().text(), sum_of(&body, -1, "0"), "{bytes} in chunks of {piece}");
        }
    }
    // Byte by byte, and two requests behind each other: the second one waits for the first.
    let request = [post_head("/sum", "Transfer-Encoding: chunked").into_bytes(), chunked(b"hello world", 3)].concat();
    for byte in &request {
        client.send(&[*byte]);
    }
    assert_eq!(client.response().text(), sum_of(b"hello world", -1, "0"));
    let second = post_head("/sum", "Content-Length: 5") + "again";
    client.send(&[&request[..], second.as_bytes(), &request[..]].concat());
    for (body, length) in [("hello world", -1), ("again", 5), ("hello world", -1)] {
        assert_eq!(client.response().text(), sum_of(body.as_bytes(), length, "0"));
    }
    assert_eq!(client.get("/sum").text(), sum_of(b"", 0, "0"), "none is the end");
    assert_eq!(client.request("POST", "/wrong", &[], b"abc").text(), "-1 EINVAL -1 EINVAL");
    server.expect_log("fail with EINVAL in a route without CWEB_STREAM");
}

#[test]
fn a_body_is_sent_back_while_it_comes() {
    let server = lab(&[]);
    let mut client = server.connect();
    client.send(post_head("/echo", "Transfer-Encoding: chunked").as_bytes());
    for text in ["one", "two"] {
        client.send(format!("{:x}\r\n{text}\r\n", text.len()).as_bytes());
        let mut got = Vec::new();
        while !got.ends_with(format!("{text}\r\n").as_bytes()) {
            let mut some = [0; 1000];
            let count = client.stream.read(&mut some).unwrap();
            assert!(count > 0);
            got.extend_from_slice(&some[..count]);
        }
    }
    client.send(b"0\r\n\r\n");
    let mut last = [0; 5];
    client.stream.read_exact(&mut last).unwrap();
    assert_eq!(&last, b"0\r\n\r\n");
    // More than both buffers, while nobody reads: both sides wait for each other's credit, and go on.
    let body = pattern(8_000_000);
    let mut sender = client.stream.try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            sender
                .write_all(
                    post_head("/echo", &format!("Content-Length: {}\r\nConnection: close", body.len())).as_bytes(),
                )
                .unwrap();
            sender.write_all(&body).unwrap();
        });
        std::thread::sleep(Duration::from_millis(50));
        let (answer, _) = until_end(&mut client);
        assert!(unchunk(split(&answer).1) == (body.clone(), true));
    });
}

#[test]
fn a_handler_that_does_not_read_stops_the_client_and_memory_stays_bounded() {
    // Those whose turn comes last send nothing while the others do, which may take long on a busy machine.
    let server = lab(&["--body-timeout-ms", "600000", "--stream-buffer-bytes", "262144"]);
    let before = server.memory_kib_own();
    let mut clients: Vec<Client> = (0..3).map(|_| server.connect()).collect();
    let body = vec![7; 24 << 20];
    for client in &mut clients {
        client.send(post_head("/later?largest=1&piece=1000000", &format!("Content-Length: {}", body.len())).as_bytes());
        client.stream.set_nonblocking(true).unwrap();
    }
    // As much as the sockets and the buffers take, which is far less than all.
    let mut sent = [0; 3];
    let mut quiet = 0;
    while quiet < 40 {
        quiet += 1;
        for (client, sent) in clients.iter_mut().zip(&mut sent) {
            if let Ok(count) = client.stream.write(&body[*sent..]) {
                *sent += count;
                quiet = 0;
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(sent.iter().all(|sent| *sent < body.len() / 2), "{sent:?}");
    assert_eq!(server.get("/go?n=1").status, 200, "others are served meanwhile");
    for (client, sent) in clients.iter_mut().zip(sent) {
        client.stream.set_nonblocking(false).unwrap();
        client.send(&body[sent..]);
        assert_eq!(client.response().text(), sum_of(&body, i64::try_from(body.len()).unwrap(), "0"));
    }
    // The first read of each handler got all that waited for it.
    let seen = server.get("/seen").text();
    let largest: Vec<u32> = seen.lines().filter_map(|line| line.strip_prefix("largest ")?.parse().ok()).collect();
    assert!(largest.len() == 3 && largest.iter().all(|bytes| (200_000..=262_144).contains(bytes)), "{seen}");
    let grown = server.memory_kib_own().saturating_sub(before);
    assert!(grown < 20 << 10, "{grown} KiB");
}

#[test]
fn expectations_are_met_at_the_first_read_and_not_before() {
    let server = lab(&[]);
    let mut client = server.connect();
    let expect = |target: &str| post_head(target, "Content-Length: 5\r\nExpect: 100-continue");
    client.send(expect("/sum").as_bytes());
    assert_eq!(client.response().status, 100);
    client.send(b"hello");
    assert_eq!(client.response().text(), sum_of(b"hello", 5, "0"));
    // It answers without reading: the client never hears that it may send.
    client.send(expect("/ignore").as_bytes());
    let answer = client.response();
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close".to_owned())));
    assert!(client.is_closed());
}

#[test]
fn what_a_handler_leaves_unread_is_thrown_away_or_ends_the_connection() {
    let server = lab(&[]);
    let mut client = server.connect();
    let body = pattern(100_000);
    for _ in 0..3 {
        assert_eq!(client.request("POST", "/ignore", &[], &body).text(), "ignored");
        client.send(post_head("/ignore", "Transfer-Encoding: chunked").as_bytes());
        assert_eq!(client.response().text(), "ignored");
        client.send(&chunked(&body, 5000));
    }
    assert_eq!(client.get("/go").status, 200);
    // Too much to be worth it.
    client.send(post_head("/ignore", "Content-Length: 100000000").as_bytes());
    let answer = client.response();
    assert_eq!((answer.text(), answer.header("connection")), ("ignored".to_owned(), Some("close".to_owned())));
    let mut client = server.connect();
    client.send(post_head("/ignore", "Transfer-Encoding: chunked").as_bytes());
    assert_eq!(client.response().text(), "ignored");
    let endless = [b"10000\r\n".to_vec(), vec![1; 0x10000], b"\r\n".to_vec()].concat();
    while client.stream.write_all(&endless).is_ok() {}
}

#[test]
fn bodies_that_break_off_or_break_rules_are_told_to_the_handler() {
    let server = lab(&[]);
    // Larger than the route allows: known before, and not.
    let mut client = server.connect();
    client.send(post_head("/limited", "Content-Length: 2000000").as_bytes());
    assert_eq!(client.response().status, 413);
    let mut client = server.connect();
    client.send(post_head("/limited", "Transfer-Encoding: chunked").as_bytes());
    let _ = client.stream.write_all(&chunked(&pattern(2_000_000), 100_000));
    assert!(client.response().text().ends_with("EMSGSIZE"));
    assert!(matches!(client.stream.read(&mut [0; 9]), Ok(0) | Err(_)));
    let whole = pattern(1 << 20);
    let mut client = server.connect();
    assert_eq!(client.request("POST", "/limited", &[], &whole).text(), sum_of(&whole, 1 << 20, "0"));
    // Broken framing.
    client.send((post_head("/sum", "Transfer-Encoding: chunked") + "3\r\nabc\r\nxyz\r\n").as_bytes());
    assert_eq!(client.response().text(), sum_of(b"abc", -1, "EPROTO"));
    assert!(client.is_closed());
    // Less than was declared: the client closes its side.
    let mut client = server.connect();
    client.send((post_head("/sum", "Content-Length: 10") + "abc").as_bytes());
    client.finish();
    assert_eq!(client.response().text(), sum_of(b"abc", 10, "ECONNRESET"));
    // Wherever a chunked body stops.
    let stops =
        ["3", "3\r\nab", "3\r\nabc", "3\r\nabc\r", "3\r\nabc\r\n5", "3\r\nabc\r\n0\r\n", "3\r\nabc\r\n0\r\nT: v"];
    for stop in stops {
        let mut client = server.connect();
        client.send((post_head("/sum", "Transfer-Encoding: chunked") + stop).as_bytes());
        client.finish();
        let read = if stop.contains("abc") { "abc" } else { stop.get(3..).unwrap_or_default() };
        assert_eq!(client.response().text(), sum_of(read.as_bytes(), -1, "ECONNRESET"), "{stop:?}");
    }
    // More than was declared: the next request, which is none.
    let mut client = server.connect();
    client.send((post_head("/sum", "Content-Length: 3") + "abcdef\r\n\r\n").as_bytes());
    assert_eq!(client.response().text(), sum_of(b"abc", 3, "0"));
    assert_eq!(client.response().status, 400);
    // Slower than 500 bytes a second, although never quite silent.
    let hasty = lab(&["--body-timeout-ms", "1000"]);
    let mut client = hasty.connect();
    client.send(post_head("/sum", "Content-Length: 100000").as_bytes());
    client.stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut answer = [0; 1000];
    let (mut sent, mut got) = (0, 0);
    while got == 0 {
        sent += client.stream.write(b"x").unwrap_or(0);
        got = client.stream.read(&mut answer).unwrap_or(0);
        assert!(sent < 600, "it is never too slow");
    }
    assert!(String::from_utf8_lossy(&answer[..got]).contains("ETIMEDOUT"));
    // The deadline of the route, and that of the client.
    for (target, header) in
        [("/brief", "X-A: b"), ("/sum", "X-Request-Timeout-Ms: 300"), ("/sum", "Request-Timeout: 1")]
    {
        let mut client = server.connect();
        client.send(post_head(target, &format!("Content-Length: 9\r\n{header}")).as_bytes());
        assert!(client.response().text().ends_with("ETIMEDOUT"), "{target} {header}");
    }
    // A client that leaves: the handler learns it while it waits.
    seen_cleared(&server);
    let mut client = server.connect();
    client.send((post_head("/sum", "Content-Length: 10") + "abc").as_bytes());
    drop(client);
    seen(&server, "sum ECONNRESET");
}

#[test]
fn answers_are_sent_in_pieces_with_the_framing_that_fits() {
    let server = lab(&["--shards", "2"]);
    for path in ["/make", "/stream-make"] {
        for bytes in [0, 1, 30_000, 4_000_000] {
            let target = format!("{path}?bytes={bytes}");
            let (head, body, _) = get_whole(&server, &target, "1.1");
            assert!(head.starts_with("http/1.1 200") && head.contains("x-made: yes"), "{head}");
            assert!(head.contains("transfer-encoding: chunked") && !head.contains("content-length"), "{head}");
            assert!(unchunk(&body) == (pattern(bytes), true), "{path} {bytes}");
            let (head, body, _) = get_whole(&server, &target, "1.0");
            assert!(!head.contains("transfer-encoding") && head.contains("connection: close"), "{head}");
            assert!(body == pattern(bytes), "{path} {bytes}");
            let (head, body, _) = get_whole(&server, &format!("{target}&length={bytes}"), "1.1");
            assert!(head.contains(&format!("content-length: {bytes}")) && !head.contains("chunked"), "{head}");
            assert!(body == pattern(bytes), "{path} {bytes}");
        }
    }
    // The connection goes on, in order.
    let mut client = server.connect();
    client.send(b"GET /make?bytes=70000&length=70000 HTTP/1.1\r\nHost: x\r\n\r\nGET /make?bytes=5&length=5 HTTP/1.1\r\nHost: x\r\n\r\nGET /go HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(client.response().body == pattern(70_000));
    assert!(client.response().body == pattern(5));
    assert_eq!(client.response().status, 200);
    let head = client.request("HEAD", "/make?bytes=100000", &[], b"");
    assert_eq!((head.status, head.header("x-made")), (200, Some("yes".to_owned())));
    let head = client.request("HEAD", "/make?bytes=100000&length=100000", &[], b"");
    assert_eq!(head.header("content-length"), Some("100000".to_owned()));
    assert_eq!(client.get("/make?bytes=9&status=204").status, 204);
    assert_eq!(client.get("/go").status, 200);
    let (_, body, _) = get_whole(&server, "/text", "1.1");
    assert_eq!(unchunk(&body), (b"line 0\nline 1\nline 2\n".to_vec(), true));
    let (head, body, _) = get_whole(&server, "/events", "1.1");
    assert!(head.contains("content-type: text/event-stream"), "{head}");
    assert_eq!(unchunk(&body).0, b"event: first\nid: 1\ndata: one\ndata: two\n\ndata: three\n\n");
    let (_, body, _) = get_whole(&server, "/two-threads", "1.1");
    let text = String::from_utf8(unchunk(&body).0).unwrap();
    assert!(
        text.lines().count() == 1000 && text.lines().all(|line| line == "a".repeat(100) || line == "b".repeat(100))
    );
    let wrong = server.get("/seen").text();
    assert!(!wrong.contains("begun twice"), "{wrong}");
    let refused = if isolation() == "process" { "0 " } else { "-1 EPERM" };
    assert!(server.get("/inline").text().starts_with(refused) || isolation() == "process");
}

#[test]
fn an_answer_that_is_not_completed_looks_so() {
    let server = lab(&["--crash-limit", "0"]);
    let (head, body, _) = get_whole(&server, "/make?bytes=100&length=200", "1.1");
    assert!(head.contains("content-length: 200") && body == pattern(100), "less than declared: the connection ends");
    let (_, body, _) = get_whole(&server, "/make?bytes=300&length=200&piece=100", "1.1");
    assert!(body == pattern(200), "more than declared is not written");
    seen(&server, "make EMSGSIZE");
    let mut client = server.connect();
    assert!(client.get("/make?bytes=300&length=200&piece=100").body == pattern(200));
    assert_eq!(client.get("/go").status, 200, "and harms nobody");
    for target in ["/make", "/stream-make"] {
        let (_, body, _) = get_whole(&server, &format!("{target}?bytes=100000&crash=1"), "1.1");
        assert!(!unchunk(&body).1, "no last chunk: {target}");
        assert_eq!(server.get("/go").status, 200);
        let mut client = server.connect();
        client.send(format!("GET {target}?bytes=100000&crash=1 HTTP/1.0\r\n\r\n").as_bytes());
        let (answer, reset) = until_end(&mut client);
        // Its answer may be the server's own, if nothing of the other had left.
        assert!(reset || answer.starts_with(b"HTTP/1.1 500"), "the end of an answer to HTTP/1.0 would look complete");
        assert_eq!(server.get("/go").status, 200);
    }
}

/// Over TLS, a truncated answer is one without `close_notify` (RFC 8446 §6.1).
#[test]
fn answers_in_pieces_over_tls_end_cleanly_only_if_they_are_whole() {
    let authority = Authority::new();
    authority.issue("server", tls::P256, "10");
    let server = authority.server("server", &["--shards", "1", "--crash-limit", "0"]);
    let file = format!("@{}", support::root().join("tests/modules/streams.c").display());
    let deployed = authority.curl(&server, "/mgnt", &["--fail-with-body", "--data-binary", &file]);
    assert!(deployed.status.success(), "{deployed:?}");
    for (target, version, is_whole) in [
        ("/make?bytes=300000", "1.0", true),
        ("/stream-make?bytes=300000", "1.0", true),
        ("/make?bytes=300000", "1.1", true),
        ("/make?bytes=300000&crash=1", "1.0", false),
        ("/stream-make?bytes=300000&crash=1", "1.0", false),
        ("/make?bytes=300000&crash=1", "1.1", false),
    ] {
        let mut client = authority.connect(&server);
        client.send(&format!("GET {target} HTTP/{version}\r\nHost: x\r\nConnection: close\r\n\r\n"));
        let (mut answer, mut piece) = (Vec::new(), vec![0; 1 << 16]);
        let is_clean = loop {
            match client.stream.read(&mut piece) {
                Ok(0) => break true,
                Ok(count) => answer.extend_from_slice(&piece[..count]),
                Err(_) => break false,
            }
        };
        if version == "1.0" {
            assert_eq!(is_clean, is_whole, "{target}");
            assert!(!is_whole || split(&answer).1 == pattern(300_000), "{target}");
        } else {
            let (body, is_ended) = unchunk(split(&answer).1);
            assert_eq!(is_ended, is_whole, "{target}");
            assert!(!is_whole || body == pattern(300_000), "{target}");
        }
    }
}

#[test]
fn a_client_that_leaves_or_never_reads_ends_the_handler() {
    let server = lab(&["--write-timeout-ms", "1000"]);
    for target in ["/make?bytes=100000000", "/stream-make?bytes=100000000"] {
        for resets in [false, true] {
            seen_cleared(&server);
            let mut client = server.connect();
            client.send(format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes());
            client.stream.read_exact(&mut [0; 1000]).unwrap();
            if resets {
                // Unread bytes make the kernel reset the connection.
                drop(client);
            } else {
                std::mem::forget(client);
            }
            seen(&server, "make ECONNRESET");
        }
    }
}

#[test]
fn cancellation_is_seen_by_every_handler_and_deadlines_are_known() {
    let server = lab(&["--handler-timeout-ms", "60000", "--shutdown-timeout-ms", "60000"]);
    for (method, target) in [("GET", "/wait"), ("POST", "/wait-stream")] {
        seen_cleared(&server);
        let mut client = server.connect();
        client.send(format!("{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").as_bytes());
        seen(&server, "waits");
        drop(client);
        seen(&server, "canceled 1");
        // Half-closed: the handler is told, and its answer is sent all the same.
        seen_cleared(&server);
        let mut client = server.connect();
        client.send(format!("{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").as_bytes());
        seen(&server, "waits");
        client.finish();
        assert_eq!(client.response().text(), "over");
        // The client's own deadline.
        let answer = server.connect().request(method, target, &[("X-Request-Timeout-Ms", "50")], b"");
        assert_eq!(answer.text(), "over");
        seen(&server, "canceled 2");
    }
    let left = |method: &str, target: &str, headers: &[(&str, &str)]| -> i64 {
        let text = server.connect().request(method, target, headers, b"").text();
        text.split(' ').next().unwrap().parse().unwrap()
    };
    assert!((10_000..=20_000).contains(&left("GET", "/remaining", &[])));
    assert!((0..=5_000).contains(&left("GET", "/remaining", &[("Request-Timeout", "5")])));
    assert!(
        (10_000..=20_000).contains(&left("GET", "/remaining", &[("Request-Timeout", "500")])),
        "the route's caps it"
    );
    for no_number in ["", "-1", "+5", "5.5", "0x5", "5, 6", "99999999999999999999"] {
        let left = left("GET", "/remaining", &[("X-Request-Timeout-Ms", no_number)]);
        assert!((10_000..=20_000).contains(&left), "{no_number}: {left}");
    }
    assert_eq!(left("GET", "/remaining", &[("X-Request-Timeout-Ms", "0")]), 0);
    assert!((0..=700).contains(&left("POST", "/remaining-stream", &[("X-Request-Timeout-Ms", "700")])));
    assert_eq!(left("POST", "/remaining-stream", &[]), -1);
    // The server stops: the handler that waits is told, answers, and the end is clean.
    seen_cleared(&server);
    let mut client = server.connect();
    client.send(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n");
    seen(&server, "waits");
    let waits = std::thread::spawn(move || client.response());
    server.stop();
    let answer = waits.join().unwrap();
    assert_eq!((answer.text(), answer.header("x-why")), ("over".to_owned(), Some("3".to_owned())), "it drains");
}

fn subscribe(server: &Server, id: usize) -> Client {
    let mut client = server.connect();
    client.send(format!("GET /subscribe?id={id} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes());
    expect_text(&mut client, "data: welcome\n\n");
    client
}

/// Reads until `text` has come.
fn expect_text(client: &mut Client, text: &str) {
    let mut got = Vec::new();
    while !got.windows(text.len()).any(|window| window == text.as_bytes()) {
        let mut some = [0; 4096];
        let count = client.stream.read(&mut some).unwrap();
        assert!(count > 0, "it ended: {}", String::from_utf8_lossy(&got));
        got.extend_from_slice(&some[..count]);
    }
}

#[test]
fn a_detached_writer_is_told_when_there_is_room_again() {
    let server = lab(&["--executors-max", "4", "--shards", "2"]);
    let mut clients: Vec<Client> = (0..8).map(|id| subscribe(&server, id)).collect();
    // One does not read: its writer is told, and told again when there is room.
    assert_eq!(server.get("/fill?at=3").text(), "again");
    let reader = &mut clients[3];
    let mut chunk = vec![0; 1 << 16];
    reader.stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    eventually("the callback for room", || {
        while reader.stream.read(&mut chunk).is_ok_and(|count| count == chunk.len()) {}
        server.get("/seen").text().contains("room 3\n")
    });
}

#[test]
fn callbacks_that_are_set_late_are_told_what_has_happened_and_an_end_is_told_once() {
    let server = lab(&["--shards", "2"]);
    let mut client = subscribe(&server, 1);
    assert_eq!(server.get("/fill").text(), "again");
    let mut chunk = vec![0; 1 << 16];
    client.stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    eventually("room for the first callback", || {
        while client.stream.read(&mut chunk).is_ok_and(|count| count == chunk.len()) {}
        server.get("/seen").text().contains("room 1\n")
    });
    assert_eq!(server.get("/watch?id=2").text(), "0");
    seen(&server, "room 2\n");
    drop(client);
    seen(&server, "gone 2\n");
    assert_eq!(server.get("/watch?id=3").text(), "0");
    seen(&server, "gone 3\n");
    // Clients that leave while their handlers set the callbacks. A callback may free what it is given.
    for id in 1000..1300 {
        let mut client = server.connect();
        client.send(format!("GET /subscribe?id={id} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes());
        if id % 3 == 0 {
            expect_text(&mut client, "HTTP/1.1 200");
        }
    }
    let ends = || {
        let text = server.get("/seen").text();
        let ids = text.lines().filter_map(|line| line.strip_prefix("gone 1")).map(str::to_owned);
        ids.filter(|id| id.len() == 3).collect::<Vec<String>>()
    };
    // A client may leave before its handler begins: then there is no stream.
    let streams = || {
        let text = server.post("/publish", b"x").text();
        text.split(" of ").map(|number| number.parse::<usize>().unwrap()).collect::<Vec<usize>>()
    };
    eventually("the ends of all streams", || streams().first() == Some(&0) && ends().len() + 1 >= streams()[1]);
    // A handler whose client has left may begin yet.
    eventually("each of them once", || {
        let mut all = ends();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        (all.len(), count + 1) == (count, streams()[1])
    });
}

#[test]
fn a_head_of_a_detached_answer_is_all_of_it() {
    let server = lab(&["--shards", "1"]);
    let mut client = server.connect();
    client.send(b"HEAD /subscribe?id=5 HTTP/1.1\r\nHost: x\r\n\r\n");
    expect_text(&mut client, "\r\n\r\n");
    assert_eq!(client.get("/go").status, 200, "the next request does not wait for the end of the stream");
    seen(&server, "gone 5\n");
    assert_eq!(server.post("/publish", b"x").text(), "0 of 1");
    assert_eq!(server.get("/close").text(), "0");
}

#[test]
fn a_client_can_not_send_without_end_into_a_detached_answer() {
    let server = lab(&["--shards", "1"]);
    let mut client = server.connect();
    client.send(post_head("/subscribe?id=6", "Content-Length: 99999999999").as_bytes());
    expect_text(&mut client, "data: welcome\n\n");
    client.stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    let (piece, mut sent) = (vec![0; 1 << 20], 0);
    while sent < 256 << 20
        && let Ok(count) = client.stream.write(&piece)
    {
        sent += count;
    }
    assert!(sent < 256 << 20, "the server has taken {sent} bytes that nobody reads");
    assert_eq!(server.post("/publish", b"data: still\n\n").text(), "1 of 1");
    expect_text(&mut client, "data: still\n\n");
    assert_eq!(server.get("/close").text(), "0");
    let (rest, _) = until_end(&mut client);
    assert!(rest.ends_with(b"0\r\n\r\n"), "{}", String::from_utf8_lossy(&rest));
}

#[test]
fn detached_answers_go_on_without_a_thread() {
    let server = lab(&["--executors-max", "4", "--shards", "2"]);
    let mut clients: Vec<Client> = (0..200).map(|id| subscribe(&server, id)).collect();
    for round in 0..2 {
        let text = format!("data: round {round}\n\n");
        assert_eq!(server.post("/publish", text.as_bytes()).text(), "200 of 200");
        for client in &mut clients {
            expect_text(client, &text);
        }
    }
    // One leaves: its callback comes, and the others do not notice.
    drop(clients.remove(7));
    seen(&server, "gone 7\n");
    let wrong = server.get("/seen").text();
    assert!(!wrong.contains("detached twice") && !wrong.contains("written by the response"), "{wrong}");
    assert_eq!(server.post("/publish", b"data: less\n\n").text(), "199 of 200");
    clients.iter_mut().for_each(|client| expect_text(client, "data: less\n\n"));
    assert_eq!(server.get("/close").text(), "0", "what is closed names nothing");
    let mut last = clients.remove(0);
    expect_text(&mut last, "0\r\n\r\n");
    assert_eq!(last.get("/go").status, 200, "the connection goes on");
    // A hot swap: streams stay with their process, and the handles with who has them.
    let mut client = subscribe(&server, 1);
    let source = std::fs::read_to_string("tests/modules/streams.c").unwrap();
    server.deploy(&(source + "\n/* another version */\n"));
    assert_eq!(server.get("/go").status, 200);
    client.stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    assert!(client.stream.read(&mut [0; 1]).is_err(), "it is open still");
    server.stop();
}

/// Bytes of memory of the server and of the process of modules, each shared page counted once.
fn resident(server: &Server) -> u64 {
    let module: u32 = server.get("/pid").text().parse().unwrap();
    let mut pids = vec![server.pid(), module];
    pids.dedup();
    let rollup = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    // Without the pages of files: each server that other tests start or stop changes the share that this one has of them.
    let kib = |text: &str, field: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(field)).unwrap().trim().to_owned();
        line.trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    let bytes = |text: String| (kib(&text, "Pss_Anon:") + kib(&text, "Pss_Shmem:")) * 1024;
    pids.iter().map(rollup).map(bytes).sum()
}

#[test]
fn a_thousand_idle_subscribers_cost_little_and_one_too_many_is_told() {
    const MOST: usize = 1000;
    let server = lab(&["--shards", "1", "--executors-max", "4", "--stream-answers-max", "1000"]);
    let mut clients: Vec<Client> = (0..50).map(|id| subscribe(&server, id)).collect();
    let before = resident(&server);
    clients.extend((50..MOST).map(|id| subscribe(&server, id)));
    let each = resident(&server).saturating_sub(before) / (MOST as u64 - 50);
    // A page of shared memory, the connection, the answer, and the module's name for it.
    assert!((1..32 * 1024).contains(&each), "{each} bytes a subscriber");
    println!("{each} bytes a subscriber");
    // Idle streams give the page back. The bound leaves room for threads that have started meanwhile. `bench/subscribers.py`
    // measures the cost of a stream on a quiet machine: less than 4 KiB.
    let mut each = 0;
    eventually("what an idle subscriber costs", || {
        each = resident(&server).saturating_sub(before) / (MOST as u64 - 50);
        each <= 6 * 1024
    });
    println!("{each} bytes an idle subscriber");
    // One more is refused at once, by whatever its handler answers then.
    for _ in 0..3 {
        let answer = server.get("/subscribe?id=1");
        assert_eq!((answer.status, answer.text().as_str()), (500, "EBUSY"));
    }
    let text = "data: round\n\n";
    assert_eq!(server.post("/publish", text.as_bytes()).text(), "1000 of 1000");
    clients.iter_mut().for_each(|client| expect_text(client, text));
    // The place of a client that has left is free as soon as its stream is closed.
    assert_eq!(server.get("/close").text(), "0");
    clients.iter_mut().for_each(|client| expect_text(client, "0\r\n\r\n"));
    let mut again = subscribe(&server, 1);
    assert_eq!(server.post("/publish", text.as_bytes()).text(), "1 of 1");
    expect_text(&mut again, text);
    // Handlers that stream themselves have taken the threads that they may have: those that detach need none of these.
    let mut stalled: Vec<Client> = (0..2).map(|_| server.connect()).collect();
    for client in &mut stalled {
        client.send(b"GET /make?bytes=100000000 HTTP/1.1\r\nHost: x\r\n\r\n");
        client.stream.read_exact(&mut [0; 1000]).unwrap();
    }
    server.get("/make?bytes=10");
    seen(&server, "begin EBUSY");
    subscribe(&server, 2);
}

#[test]
fn streams_of_a_process_that_ends_end_visibly_and_leave_nothing() {
    if isolation() != "process" {
        return;
    }
    let server = lab(&["--crash-limit", "0", "--stream-calls-max", "3", "--shards", "1"]);
    for _ in 0..3 {
        let mut detached = subscribe(&server, 1);
        let mut upload = server.connect();
        upload.send((post_head("/later", "Content-Length: 10") + "abc").as_bytes());
        // A call that its process has not begun is begun in the next one.
        seen(&server, "in later");
        let mut download = server.connect();
        download.send(b"GET /stream-make?bytes=100000000 HTTP/1.1\r\nHost: x\r\n\r\n");
        download.stream.read_exact(&mut [0; 1000]).unwrap();
        let pid = server.get("/pid").text().parse().unwrap();
        support::signal(pid, "KILL");
        assert_eq!(upload.response().status, 502);
        let (answer, _) = until_end(&mut download);
        assert!(!answer.ends_with(b"0\r\n\r\n"));
        let (rest, _) = until_end(&mut detached);
        assert!(!rest.ends_with(b"0\r\n\r\n"));
        eventually("it is served again", || server.get("/go?n=0").status == 200);
    }
    // All slots are free again.
    let mut clients: Vec<Client> = (0..3).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.send((post_head("/later", "Content-Length: 3") + "a").as_bytes());
    }
    // Before the next clients, which would take their slots.
    seen(&server, &"in later\n".repeat(3));
    let refused = |answer: Response| (answer.status, answer.header("retry-after").is_some());
    let mut more = server.connect();
    more.send((post_head("/sum", "Content-Length: 3") + "a").as_bytes());
    assert_eq!(refused(more.response()), (503, true), "the limit of calls");
    assert_eq!(server.get("/go?n=1").status, 200, "ordinary handlers are not starved");
    for client in &mut clients {
        client.send(b"bc");
        assert_eq!(client.response().text(), sum_of(b"abc", 3, "0"));
    }
    assert_eq!(refused(server.post("/sum", b"abc")), (200, false), "{}", PATIENCE.as_secs());
}

/// Processes that run single calls below those of `server`, by what they are.
fn workers(server: &Server, kind: &str) -> Vec<u32> {
    let children = |pid: u32| -> Vec<u32> {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let texts = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
        texts.flat_map(|pids| pids.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<u32>>()).collect()
    };
    let mut found = vec![server.pid()];
    let mut at = 0;
    while at < found.len() {
        found.extend(children(found[at]));
        at += 1;
    }
    let name = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    found.into_iter().filter(|pid| name(pid).trim() == kind).collect()
}

/// The answer to `/look`, once its process could be copied in the time that a call waits for that.
fn look(client: &mut Client) -> String {
    let mut text = String::new();
    eventually("a copy of the process", || {
        let answer = client.get("/look");
        text = answer.text();
        answer.status != 503
    });
    text
}

#[test]
fn a_call_that_can_be_killed_is_killed_alone() {
    let server = Server::on(&Arc::new(tempfile::tempdir().unwrap()), &["--shards", "1"], &[]);
    let deployed = server.deploy_file("tests/modules/killable.c").text();
    if isolation() == "none" {
        assert!(deployed.contains("CWEB_KILLABLE has no effect without --isolation process"), "{deployed}");
        assert_eq!(server.get("/look").text(), "0 1024 none");
        assert_eq!(server.get("/look").text(), "100 2048 none", "it is a handler like any other");
        return;
    }
    assert!(!deployed.contains("CWEB_KILLABLE"), "{deployed}");
    let counted = server.get("/count").text();
    let domain: u32 = counted.strip_prefix("1 ").unwrap().parse().unwrap();
    // What onload has set up is there, what others have changed since is not, and what it changes is gone.
    for _ in 0..3 {
        assert_eq!(look(&mut server.connect()), "0 1024 none");
    }
    eventually("what it prints is relayed", || server.get("/mgnt/killable/logs").text().contains("looked at 1024"));
    let mut client = server.connect();
    for bytes in [0, 10, 70_000, 4 << 20] {
        let body = pattern(bytes);
        let headers = [("Content-Type", "application/x-any"), ("X-Request-Timeout-Ms", "20000")];
        let answer = client.request("POST", "/echo/n%C3%A9", &headers, &body);
        assert_eq!((answer.status, answer.body == body), (201, true), "{bytes}");
        let field = |name| answer.header(name).unwrap();
        assert_eq!((field("x-left"), field("content-type")), ("some".to_owned(), "application/x-any".to_owned()));
    }
    assert_eq!(client.request("POST", "/echo/x", &[], &vec![0; (4 << 20) + 1]).status, 413);
    let mut client = server.connect();
    let refused = ["job", "begin", "detach", "stream", "file", "sql", "work", "room", "event"];
    assert_eq!(client.get("/services").text(), refused.map(|name| format!("{name}:ENOTSUP ")).concat());
    eventually("the log says why", || server.get("/mgnt/killable/logs").text().contains("does not work in a handler"));
    // Endless loops beside calls of the same module, in the same process.
    let mut slow: Vec<Client> = (0..3).map(|_| server.connect()).collect();
    for client in &mut slow {
        client.send(b"GET /spin HTTP/1.1\r\nHost: x\r\n\r\n");
    }
    let mut hasty = server.connect();
    hasty.send(b"GET /stubborn HTTP/1.1\r\nHost: x\r\nX-Request-Timeout-Ms: 100\r\n\r\n");
    let answer = hasty.response();
    assert_eq!((answer.status, answer.text()), (504, "module killable did not answer within 100 ms\n".to_owned()));
    assert!(client.get("/count").text().starts_with("2 "));
    for client in &mut slow {
        let answer = client.response();
        assert_eq!(answer.status, 504, "{}", answer.text());
        assert_eq!(look(client), "0 1024 none", "the connection goes on");
    }
    // A client that leaves.
    let mut gone = server.connect();
    gone.send(b"GET /stubborn HTTP/1.1\r\nHost: x\r\n\r\n");
    eventually("it runs", || workers(&server, "cweb-worker").len() == 1);
    drop(gone);
    eventually("it is killed", || workers(&server, "cweb-worker").is_empty());
    // Faults of every kind.
    for (how, said) in [
        ("s", "SIGSEGV at address 0x8"),
        ("a", "called abort()"),
        ("e", "called exit(3)"),
        ("E", "called exit(4)"),
        ("t", "SIGSEGV at address 0x8"),
    ] {
        let answer = client.get(&format!("/crash?how={how}"));
        assert_eq!(answer.status, 500, "{how}");
        assert!(answer.text().contains(said), "{how}: {}", answer.text());
    }
    assert_eq!(client.get("/crash?how=f").text(), "-1 1", "it makes no process itself");
    assert_eq!(client.get("/crash?how=p").text(), "-1 1 -1 1", "what its process has had for itself is taken away");
    eventually("the crash is told with its route", || {
        let told = server.get("/mgnt/killable").text();
        told.contains("a handler (GET /crash)") && told.contains("SIGSEGV")
    });
    // The same process as at the beginning, with its memory.
    assert_eq!(client.get("/count").text(), format!("3 {domain}"));
    assert!(server.get("/metrics").text().contains("cweb_domain_restarts_total{domain=\"default\"} 0"));
    // A setting reaches them, and a swap ends those of the old version when their calls are over.
    let set = client.request("PUT", "/mgnt/killable/settings/COLOR", &[], b"red");
    assert_eq!(set.status, 200);
    assert_eq!(look(&mut client), "3 1024 red", "forked anew, after on_setting");
    let mut during = server.connect();
    during.send(b"GET /stubborn HTTP/1.1\r\nHost: x\r\nX-Request-Timeout-Ms: 12000\r\n\r\n");
    eventually("it runs", || workers(&server, "cweb-worker").len() == 1);
    let old = workers(&server, "cweb-zygote");
    let source = std::fs::read_to_string("tests/modules/killable.c").unwrap();
    server.deploy(&source.replace("memset(table, 1,", "memset(table, 2,"));
    assert_eq!(look(&mut client), "0 2048 red");
    assert_eq!(during.response().status, 504);
    eventually("the old version's are gone", || workers(&server, "cweb-zygote").iter().all(|pid| !old.contains(pid)));
    assert_eq!(client.request("DELETE", "/mgnt/killable", &[], b"").status, 200);
    eventually("none is left", || {
        ["cweb-zygote", "cweb-spawner", "cweb-worker"].iter().all(|kind| workers(&server, kind).is_empty())
    });
}

#[test]
fn calls_that_can_be_killed_are_limited_and_end_with_their_server() {
    if isolation() == "none" {
        return;
    }
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let server = Server::on(&dir, &["--shards", "1", "--killable-calls-max", "3"], &[]);
    server.deploy_file("tests/modules/killable.c");
    assert_eq!(look(&mut server.connect()), "0 1024 none");
    // Many at once: as many run as may, the others are told to come again.
    let mut clients: Vec<Client> = (0..12).map(|_| server.connect()).collect();
    for client in &mut clients[..3] {
        client.send(b"GET /stubborn HTTP/1.1\r\nHost: x\r\n\r\n");
    }
    eventually("three run", || workers(&server, "cweb-worker").len() == 3);
    for client in &mut clients[3..] {
        client.send(b"GET /look HTTP/1.1\r\nHost: x\r\n\r\n");
    }
    for client in &mut clients[3..] {
        let answer = client.response();
        assert_eq!((answer.status, answer.header("retry-after").as_deref()), (503, Some("1")), "{}", answer.text());
        assert!(answer.text().contains("--killable-calls-max"), "{}", answer.text());
    }
    assert!(server.get("/count").text().starts_with("1 "), "others are not limited");
    // One that dies is made again.
    let zygotes = workers(&server, "cweb-zygote");
    zygotes.iter().for_each(|pid| support::signal(*pid, "KILL"));
    for client in &mut clients[..3] {
        assert_eq!(client.response().status, 500);
    }
    assert_eq!(look(&mut server.connect()), "1 1024 none", "as the module is now");
    let mut last = server.connect();
    last.send(b"GET /stubborn HTTP/1.1\r\nHost: x\r\n\r\n");
    eventually("it runs", || workers(&server, "cweb-worker").len() == 1);
    let left = [workers(&server, "cweb-worker"), workers(&server, "cweb-zygote")].concat();
    support::signal(server.pid(), "KILL");
    let is_over =
        |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.starts_with("cweb-"));
    eventually("all have ended with the server", || !left.iter().any(is_over));
}

/// Threads that hold locks all the time may keep a domain from being copied; a call waits for that no longer than it may.
#[test]
fn calls_whose_process_can_not_be_made_are_answered_in_their_time() {
    if isolation() == "none" {
        return;
    }
    let server = Server::with(&["--shards", "1"]);
    let code = "#include <pthread.h>\n#include <unistd.h>\n\
        static void *set(void *cache) { for (;;) container_set(cache, \"key\", cache); return NULL; }\n\
        static void onload(struct cweb_context *c) {\n\
          for (int i = 0; i < 6; i++) { pthread_t t; if (pthread_create(&t, NULL, set, c->cache) == 0) pthread_detach(t); } }\n\
        static int pid(struct cweb_context *c, http_request_t *q, http_response_t *r) {\n\
          (void)c, (void)q; return cweb_respond(r, HTTP_200_OK, NULL, \"%d\", (int)getpid()); }";
    let routes = "{\"/own\", \"GET\", pid, NONE}, {\"/copy\", \"GET\", pid, CWEB_KILLABLE}";
    server.deploy(&support::module("locks", code, routes, 2, ".onload = onload"));
    let mut client = server.connect();
    let own = client.get("/own").text();
    for _ in 0..3 {
        let answer = client.request("GET", "/copy", &[("X-Request-Timeout-Ms", "250")], b"");
        assert!([200, 503, 504].contains(&answer.status), "{} {}", answer.status, answer.text());
        assert_eq!(answer.header("retry-after").is_some(), answer.status == 503, "{}", answer.text());
    }
    assert_eq!(client.get("/own").text(), own, "the domain's process is the same");
    assert!(server.get("/metrics").text().contains("cweb_domain_restarts_total{domain=\"default\"} 0"));
}

#[test]
fn flags_that_exclude_each_other_are_refused() {
    let server = Server::with(&["--shards", "1"]);
    for (flag, name) in [("CWEB_STREAM", "CWEB_STREAM"), ("CWEB_INLINE", "CWEB_INLINE")] {
        let routes = format!("{{\"/x\", \"GET\", h, CWEB_KILLABLE | {flag}}}");
        let code = "static int h(struct cweb_context *c, http_request_t *q, http_response_t *r) { (void)c, (void)q, (void)r; return 0; }";
        let refused = server.try_deploy(&support::module("both", code, &routes, 1, ""));
        assert!(refused.status >= 400 && refused.text().contains(name), "{}", refused.text());
        assert!(refused.text().contains("leave one of the flags out"), "{}", refused.text());
    }
}

#[test]
fn the_time_of_a_stream_is_its_routes_and_its_clients() {
    // The second is what a busy machine may take between the server's 100 and the body.
    let limits = ["--handler-timeout-ms", "300", "--body-timeout-ms", "12000"];
    let server = Server::on(&Arc::new(tempfile::tempdir().unwrap()), &limits, &[]);
    server.deploy_file("tests/modules/patience.c");
    // Handlers that compute for longer than the server's limits before they read; time-outs are looked at once a second.
    let head = |more: &str| format!("PUT /late?ms=15000 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n{more}\r\n");
    let (mut whole, mut waits) = (server.connect(), server.connect());
    whole.send((head("") + "whole").as_bytes());
    waits.send(head("Expect: 100-continue\r\n").as_bytes());
    // A client's time ends an answer of which every piece is taken.
    let mut drips = server.connect();
    drips.send(b"GET /drip HTTP/1.1\r\nHost: x\r\nX-Request-Timeout-Ms: 300\r\n\r\n");
    let (answer, _) = until_end(&mut drips);
    assert!(!answer.ends_with(b"0\r\n\r\n"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(server.get("/dripped").text(), "few ETIMEDOUT");
    let answer = whole.response_to("PUT");
    assert_eq!((answer.status, answer.text()), (200, "5".to_owned()));
    assert_eq!(waits.bytes(25), b"HTTP/1.1 100 Continue\r\n\r\n");
    waits.send(b"whole");
    let answer = waits.response_to("PUT");
    assert_eq!((answer.status, answer.text()), (200, "5".to_owned()));
    assert!(!server.log().contains("is replaced"), "{}", server.log());
}

#[test]
fn a_stop_does_not_wait_for_a_client_that_sends_nothing() {
    let server = lab(&["--shutdown-timeout-ms", "600000"]);
    let mut client = server.connect();
    client.send(post_head("/sum", "Content-Length: 10\r\nExpect: 100-continue").as_bytes());
    assert_eq!(client.bytes(25), b"HTTP/1.1 100 Continue\r\n\r\n");
    client.send(b"abc");
    signal(server.pid(), "TERM");
    let answer = client.response_to("POST").text();
    assert!(answer.ends_with("ECANCELED"), "{answer}");
    server.ends();
}
