//! What bounds a client: connections, requests, bodies, bursts, time; and how the server stops.

use crate::support::{Client, PATIENCE, Response, Server, eventually, module, signal};
use std::io::{Read, Write};
use std::net::UdpSocket;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tungstenite::Message;
use tungstenite::protocol::frame::coding::CloseCode;

const BIG: usize = 5 * 1024 * 1024;

fn lab() -> String {
    let code = r#"
#include <stdatomic.h>
#include <unistd.h>
#define H(f) static int f(struct cweb_context *c, http_request_t *q, http_response_t *r)
static atomic_int started, closed;
static int many(http_response_t *r, size_t n) { free(r->body); r->body = malloc(n); memset(r->body, 'x', n); r->content_length = (int)n; return 0; }
H(fast) { (void)c; (void)q; strcpy(r->body, "fast"); return 0; }
H(big) { (void)c; (void)q; started++; return many(r, 5 << 20); }
H(inline_big) { (void)c; (void)q; started++; return many(r, 1300000); }
H(count) { (void)c; (void)q; snprintf(r->body, HTTP_RESPONSE_SIZE, "%d %d", started, closed); return 0; }
H(length) { (void)c; snprintf(r->body, HTTP_RESPONSE_SIZE, "%d", q->content_length); return 0; }
H(nap) { (void)c; (void)q; started++; struct timespec t = {1, 0}; nanosleep(&t, NULL); strcpy(r->body, "awake"); return 0; }
H(until_go) { (void)c; (void)q; started++; while (access("static/go", F_OK) != 0) usleep(1000); strcpy(r->body, "gone"); return 0; }
H(forever) { (void)c; (void)q; (void)r; started++; for (;;) { struct timespec t = {1, 0}; nanosleep(&t, NULL); } return 0; }
static void on_close(struct cweb_context *c, websocket_t *w) { (void)c; (void)w; closed++; }
static int wait_job(struct cweb_context *c, const job_payload_t *p, job_ctx_t *j) { (void)c; (void)p; (void)j; return 0; }
"#;
    let routes = r#"{"/fast","GET",fast,NONE},{"/inline","GET",fast,CWEB_INLINE},{"/big","GET",big,NONE},{"/inline/big","GET",inline_big,CWEB_INLINE},
        {"/count","GET",count,CWEB_INLINE},{"/body","POST",length,NONE},{"/body/8","POST",length,CWEB_BODY_MIB(8)},{"/body/1","POST",length,CWEB_BODY_MIB(1)},
        {"/nap","GET",nap,NONE},{"/nap/60","GET",nap,CWEB_TIMEOUT_S(60)},{"/until/go","GET",until_go,NONE},{"/forever","GET",forever,NONE},{"/forever/1","GET",forever,CWEB_TIMEOUT_S(1) | CWEB_BODY_MIB(1)}"#;
    let fields = r#".websockets = {{"/ws", NULL, NULL, on_close}}, .ws_size = 1, .jobs = {{.name = "wait", .run = wait_job}}, .job_size = 1,"#;
    module("lab", code, routes, 13, fields)
}

fn with(args: &[&str]) -> Server {
    let server = Server::with(args);
    let warnings = server.deploy(&lab()).text();
    // What the operator does not allow is told; the compiler has nothing to say.
    assert!(!warnings.replace("config: warning: routes[", "").contains("warning:"), "{warnings}");
    server
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")
}

fn is_last(response: &Response) -> bool {
    response.header("connection").as_deref() == Some("close")
}

/// The first and the second number of `/count`.
fn counts(server: &Server) -> (usize, usize) {
    let text = server.get("/count").text();
    let (started, closed) = text.split_once(' ').unwrap();
    (started.parse().unwrap(), closed.parse().unwrap())
}

/// An address of this machine that is not a loopback one: what a packet to the outside would be sent from.
fn own_address() -> Option<String> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("198.51.100.1:9").ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_loopback() && !ip.is_unspecified()).then(|| ip.to_string())
}

#[test]
fn connections_of_one_address_are_counted_over_all_shards() {
    let Some(own) = own_address() else { return eprintln!("not tested: this machine has no address but loopback") };
    let listen = format!("{own}:0");
    let server = Server::with(&["--shards", "2", "--connections-per-peer-max", "3", "--listen", &listen]);
    let prefix = format!("listening on http://{own}:");
    server.expect_log(&prefix);
    let log = server.log();
    let port = log.lines().find_map(|line| line.strip_prefix(prefix.as_str())).unwrap();
    let outside = format!("{own}:{port}");
    let mut open: Vec<Client> = (0..3).map(|_| Client::connect(&outside)).collect();
    assert!(open.iter_mut().all(|client| client.get("/healthz").status == 200));
    for asks in [true, false] {
        let mut refused = Client::connect(&outside);
        if asks {
            refused.send(get("/count").as_bytes());
        }
        let response = refused.response();
        assert_eq!((response.status, response.header("retry-after").as_deref()), (503, Some("1")));
        assert!(is_last(&response) && refused.is_closed());
    }
    let mut local: Vec<Client> = (0..10).map(|_| server.connect()).collect();
    assert!(
        local.iter_mut().all(|client| client.get("/healthz").status == 200),
        "a proxy on this machine has a limit of its own"
    );
    assert!(open.iter_mut().all(|client| client.get("/healthz").status == 200));
    drop(open.pop());
    eventually("the place is free again", || {
        let mut client = Client::try_connect(&outside).unwrap();
        client.attempt("GET", "/healthz", b"").is_some_and(|response| response.status == 200)
    });
}

#[test]
fn a_connection_has_so_many_requests_and_the_last_answer_says_so() {
    let server = with(&["--requests-per-connection-max", "3"]);
    for path in ["/fast", "/inline", "/healthz", "/nope"] {
        let mut client = server.connect();
        let last: Vec<bool> = (0..3).map(|_| is_last(&client.get(path))).collect();
        assert_eq!(last, [false, false, true], "{path}");
        assert!(client.is_closed(), "{path}");
        let mut client = server.connect();
        client.send(get(path).repeat(5).as_bytes());
        let last: Vec<bool> = (0..3).map(|_| is_last(&client.response())).collect();
        assert_eq!(last, [false, false, true], "{path}");
        assert!(client.is_closed(), "{path}");
    }
}

#[test]
fn silent_websockets_are_pinged_and_those_that_do_not_answer_are_closed() {
    // A busy machine may keep the one that answers from it for some seconds.
    let server = with(&["--ws-ping-interval-ms", "300", "--ws-pong-timeout-ms", "15000"]);
    let mut mute = server.websocket("/ws");
    let mut alive = server.websocket("/ws");
    let done = Arc::new(AtomicBool::new(false));
    let closed = Arc::clone(&done);
    let reader = std::thread::spawn(move || {
        while !closed.load(Ordering::Relaxed) {
            // Reading answers the pings.
            assert!(matches!(alive.read().unwrap(), Message::Ping(_)));
        }
        alive
    });
    eventually("on_close of the mute one", || counts(&server).1 == 1);
    // What it had been sent: a ping, and why it was closed.
    assert!(matches!(mute.read().unwrap(), Message::Ping(_)));
    let Message::Close(Some(frame)) = mute.read().unwrap() else { panic!("no close frame") };
    assert_eq!((frame.code, frame.reason.as_str()), (CloseCode::Away, "no answer to a ping"));
    done.store(true, Ordering::Relaxed);
    let mut alive = reader.join().unwrap();
    assert!(matches!(alive.read().unwrap(), Message::Ping(_)));
    assert_eq!(counts(&server).1, 1);
}

#[test]
fn a_websocket_that_is_not_pinged_may_be_silent() {
    let server = with(&["--ws-ping-interval-ms", "0", "--ws-pong-timeout-ms", "1", "--idle-timeout-ms", "1500"]);
    let mut silent = server.websocket("/ws");
    std::thread::sleep(Duration::from_millis(4_000));
    silent.send(Message::Ping("p".into())).unwrap();
    assert!(matches!(silent.read().unwrap(), Message::Pong(_)));
}

#[test]
fn a_burst_of_large_answers_is_made_as_it_is_read() {
    let server = with(&["--shards", "1"]);
    let before = server.memory_kib("VmHWM");
    let mut client = server.connect();
    client.send(get("/big").repeat(60).as_bytes());
    eventually("the first answers", || counts(&server).0 > 0);
    for _ in 0..30 {
        assert!(
            counts(&server).0 <= 8,
            "{} answers of 5 MiB were made for a client that reads none",
            counts(&server).0
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    for n in 0..60 {
        assert_eq!(client.response().body.len(), BIG, "{n}");
    }
    assert_eq!(counts(&server).0, 60);
    // What is known of the route by now holds for everybody's first burst.
    let mut other = server.connect();
    other.send(get("/big").repeat(60).as_bytes());
    eventually("more answers", || counts(&server).0 > 60);
    std::thread::sleep(Duration::from_millis(200));
    assert!(counts(&server).0 <= 60 + 3, "{}", counts(&server).0);
    let grown = server.memory_kib("VmHWM").saturating_sub(before);
    assert!(grown < 100 * 1024, "{grown} KiB more");
}

#[test]
fn a_burst_to_a_fast_reader_ends() {
    let server = with(&["--shards", "1"]);
    for path in ["/inline/big", "/big", "/inline"] {
        let mut client = server.connect();
        client.send(
            (get(path).repeat(50) + "GET /fast HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes(),
        );
        let length = client.response().body.len();
        for n in 1..50 {
            assert_eq!(client.response().body.len(), length, "{path} {n}");
        }
        let last = client.response();
        assert!(last.text() == "fast" && is_last(&last), "{path}");
        assert!(client.is_closed(), "{path}");
    }
}

/// The answer to a head that announces a body of `length` bytes of which nothing is sent.
fn announced(server: &Server, path: &str, length: usize, expect: &str) -> Response {
    let mut client = server.connect();
    client.send(
        format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n{expect}\r\n").as_bytes(),
    );
    let response = client.response();
    if response.status != 100 {
        assert!(is_last(&response) && client.is_closed(), "{path} {length}");
    }
    response
}

#[test]
fn a_route_has_a_body_limit_of_its_own() {
    const MIB: usize = 1 << 20;
    let expect = "Expect: 100-continue\r\n";
    let server = with(&["--body-bytes-max", "2097152"]);
    for (path, mib, whose) in [
        ("/body", 2, "the limit of this server: --body-bytes-max; a route takes more with CWEB_BODY_MIB(n)"),
        ("/body/8", 8, "the limit of this route: CWEB_BODY_MIB(n)"),
        ("/body/1", 1, "the limit of this route: CWEB_BODY_MIB(n)"),
    ] {
        assert_eq!(server.post(path, &vec![b'x'; mib * MIB]).text(), (mib * MIB).to_string());
        let text = format!("the body is larger than {} bytes, {whose}", mib * MIB);
        for expect in ["", expect] {
            let refused = announced(&server, path, mib * MIB + 1, expect);
            assert!(refused.status == 413 && refused.text().starts_with(&text), "{path}: {}", refused.text());
        }
        assert_eq!(announced(&server, path, mib * MIB, expect).status, 100);
        // A body whose length nobody tells is refused once it is too long.
        let mut client = server.connect();
        let chunk = [b"80000\r\n".as_slice(), &[b'x'; 512 * 1024], b"\r\n"].concat();
        client
            .send(format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n").as_bytes());
        (0..2 * mib).for_each(|_| client.send(&chunk));
        client.send(b"1\r\n");
        let refused = client.response();
        assert!(refused.status == 413 && refused.text().starts_with(&text), "{path}: {}", refused.text());
    }
    // The server's own paths have the server's limits; a path that no module serves is told before the size of its body.
    assert_eq!(announced(&server, "/mgnt", 4 * MIB + 1, expect).status, 413);
    assert_eq!(announced(&server, "/mgnt", 4 * MIB, expect).status, 100);
    assert_eq!(announced(&server, "/nope", 2 * MIB + 1, expect).status, 404);
    let capped = with(&["--route-body-bytes-max", "4194304"]);
    assert_eq!(capped.post("/body/8", &vec![b'x'; 4 * MIB]).text(), (4 * MIB).to_string());
    let refused = announced(&capped, "/body/8", 4 * MIB + 1, "");
    assert!(
        refused.status == 413 && refused.text().contains("4194304 bytes, the operator's limit"),
        "{}",
        refused.text()
    );
}

#[test]
fn who_may_not_deploy_need_not_send_the_source() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let server = Server::on(&dir, &["--production"], &[("CWEB_ADMIN_KEY", "key-of-sixteen-bytes")]);
    assert_eq!(announced(&server, "/mgnt", 1_000_000, "").status, 401);
    assert_eq!(announced(&server, "/jobs", 1_000_000, "X-API-Key: wrong\r\nExpect: 100-continue\r\n").status, 401);
    assert_eq!(
        announced(&server, "/mgnt", 1_000_000, "X-API-Key: key-of-sixteen-bytes\r\nExpect: 100-continue\r\n").status,
        100
    );
}

#[test]
fn a_route_has_a_time_out_of_its_own() {
    let server = with(&["--isolation", "process", "--handler-timeout-ms", "400", "--shards", "1"]);
    let text = |response: &Response| (response.status, response.text());
    let late = |ms: u32| (504, format!("module lab did not answer within {ms} ms\n"));
    assert_eq!(text(&server.get("/forever")), late(400));
    let told =
        || server.get("/mgnt/lab/logs").text().contains("GET /forever is answered 504: module lab did not answer");
    eventually("the log names the route", told);
    eventually("another process serves", || server.get("/fast").text() == "fast");
    assert_eq!(text(&server.get("/nap/60")), (200, "awake".to_owned()));
    assert_eq!(text(&server.get("/forever/1")), late(1000));
}

#[test]
fn streams_of_job_events_are_bounded() {
    let server = with(&["--shards", "1", "--job-streams-max", "2"]);
    let job = server.post("/jobs", br#"{"job":"wait","payload":{},"run_at":99999999999999}"#);
    assert_eq!(job.status, 200, "{}", job.text());
    let text = job.text();
    let uuid = text.split("\"job_uuid\":\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
    let events = format!("/jobs/{uuid}/events");
    let sse = [("Accept", "text/event-stream")];
    let mut first = server.connect();
    first.send(format!("GET {events} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n").as_bytes());
    let mut bytes = [0; 15];
    first.stream.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"HTTP/1.1 200 OK");
    let _second = server.websocket("/jobs/events");
    let refused = server.connect().request("GET", &events, &sse, b"");
    assert_eq!((refused.status, refused.header("retry-after").as_deref()), (503, Some("1")));
    let upgrade = [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("Sec-WebSocket-Version", "13"),
    ];
    for target in [&format!("/jobs/ws?id={uuid}"), "/jobs/events", &events] {
        assert_eq!(server.connect().request("GET", target, &upgrade, b"").status, 503, "{target}");
    }
    assert_eq!(server.get(&events).status, 200, "a list is no stream");
    drop(first);
    eventually("a place for another stream", || {
        server.connect().request("GET", &format!("/jobs/ws?id={uuid}"), &upgrade, b"").status == 101
    });
}

/// Sends `bytes` one at a time until the server has had enough, and returns what it said.
fn drip(server: &Server, head: &str, bytes: usize) -> String {
    let mut client = server.connect();
    client.send(head.as_bytes());
    client.stream.set_nonblocking(true).unwrap();
    let (mut said, deadline) = (Vec::new(), Instant::now() + PATIENCE);
    for _ in 0..bytes {
        assert!(Instant::now() < deadline, "it is still being listened to");
        let mut chunk = [0; 1024];
        match client.stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => said.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
        let _ = client.stream.write(b"x");
        std::thread::sleep(Duration::from_millis(50));
    }
    String::from_utf8_lossy(&said).into_owned()
}

#[test]
fn slow_attackers_are_closed_in_time_while_others_are_served() {
    let time_outs = ["--header-timeout-ms", "600", "--body-timeout-ms", "600", "--write-timeout-ms", "600"];
    let server = with(&[["--shards", "1"].as_slice(), &time_outs].concat());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut other = server.connect();
            while !done.load(Ordering::Relaxed) {
                assert_eq!(other.get("/fast").text(), "fast");
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let head = scope.spawn(|| drip(&server, "GET /fast HTTP/1.1\r\nHost: localhost\r\nX: ", 10_000));
        let body = scope.spawn(|| {
            drip(&server, "POST /body HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n", 10_000)
        });
        let chunked = "POST /body HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nf000\r\n";
        let chunks = scope.spawn(|| drip(&server, chunked, 10_000));
        // Takes a byte of its answer now and then.
        let mut reader = server.connect();
        reader.send(get("/big").repeat(4).as_bytes());
        for part in [head, body, chunks] {
            let said = part.join().unwrap();
            assert!(said.starts_with("HTTP/1.1 408 "), "{said}");
            let mut byte = [0; 1];
            let _ = reader.stream.read(&mut byte);
        }
        done.store(true, Ordering::Relaxed);
        // A spare process that comes meanwhile has three descriptors, so the count of connections tells: the one that asks is left.
        let open = |text: &str| {
            text.lines().find_map(|line| line.strip_prefix("cweb_connections{shard=\"0\"} ")?.parse().ok())
        };
        eventually("the slow reader is cut off", || {
            open(&server.get("/metrics").text()).is_some_and(|open: u64| open <= 1)
        });
        drop(reader);
    });
}

#[test]
fn slow_readers_take_no_descriptor_beside_their_own() {
    // Allows 314 connections; the other 256 descriptors are for all else, and 64 for connections beyond the limit.
    let (files, clients, bytes) = (634, 300, 400_000);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listen = format!("unix:{}", path.display());
    // Nobody reads while a module is compiled.
    let args =
        ["--shards", "1", "--connections-per-peer-max", "0", "--write-timeout-ms", "600000", "--listen", &listen];
    let server = Server::with_open_files(files, &args);
    let code = format!(
        "static int wide(struct cweb_context *c, http_request_t *q, http_response_t *r) {{ (void)c; (void)q; free(r->body);\n\
         r->body = malloc({bytes}); memset(r->body, 'x', {bytes}); r->content_length = {bytes}; return 0; }}"
    );
    server.deploy(&module("wide", &code, r#"{"/wide","GET",wide,CWEB_INLINE}"#, 1, ""));
    let before = server.descriptors();
    // What a socket of this kind takes at once is less than the answer.
    let mut readers: Vec<UnixStream> = (0..clients).map(|_| UnixStream::connect(&path).unwrap()).collect();
    for reader in &mut readers {
        reader.set_read_timeout(Some(PATIENCE)).unwrap();
        reader.write_all(get("/wide").as_bytes()).unwrap();
    }
    for reader in &mut readers {
        let mut byte = [0; 1];
        assert_eq!(reader.read(&mut byte).unwrap_or_else(|error| panic!("no answer: {error}: {}", server.log())), 1);
    }
    assert!(server.descriptors() <= before + clients + 32, "{before} before, now {}", server.descriptors());
    server.deploy(&lab());
    assert_eq!(server.get("/fast").text(), "fast");
    for reader in &mut readers {
        let mut answer = vec![0; bytes];
        reader.read_exact(&mut answer).unwrap_or_else(|error| panic!("cut off: {error}: {}", server.log()));
    }
    assert!(!server.log().contains("ERROR"), "{}", server.log());
}

#[test]
fn an_answer_that_is_on_its_way_at_the_stop_is_the_last_and_says_so() {
    let server = with(&["--shards", "2", "--shutdown-timeout-ms", "600000"]);
    std::fs::create_dir_all(server.dir.path().join("static")).unwrap();
    let mut busy = server.connect();
    busy.send(get("/until/go").as_bytes());
    // The kernel spreads connections: of so many, each shard gets one.
    let mut idle: Vec<Client> = (0..32).map(|_| server.connect()).collect();
    assert!(idle.iter_mut().all(|client| client.get("/fast").text() == "fast"));
    eventually("the handler runs", || counts(&server).0 == 1);
    signal(server.pid(), "TERM");
    assert!(idle.iter_mut().all(Client::is_closed), "each shard knows of the stop");
    std::fs::write(server.dir.path().join("static/go"), "").unwrap();
    let answer = busy.response();
    assert!(answer.text() == "gone" && is_last(&answer), "{answer:?}");
    assert!(busy.is_closed());
    server.ends();
}

#[test]
fn a_second_signal_stops_at_once() {
    let server = with(&["--shutdown-timeout-ms", "600000"]);
    let mut busy = server.connect();
    busy.send(get("/forever").as_bytes());
    eventually("the handler runs", || counts(&server).0 == 1);
    signal(server.pid(), "TERM");
    server.expect_log("stopping");
    assert!(!server.log().contains("a second signal"));
    let log = server.stop();
    assert!(log.contains("a second signal came"), "{log}");
    assert!(busy.is_closed());
}
