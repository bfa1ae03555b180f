//! What clients and modules can use up: descriptors, thread-local storage, the memory of the server; others go on.

use crate::support::{Client, Response, Server, constant, eventually, isolation, module};
use std::io::Write;
use std::time::{Duration, Instant};

/// Takes every descriptor that there is, and keeps it.
fn leaky() -> String {
    let code = "#include <fcntl.h>\n#include <unistd.h>\n\
        static int take(struct cweb_context *c, http_request_t *q, http_response_t *r) {\n\
          (void)c; (void)q; int taken = 0; while (taken < 2000000 && dup(0) >= 0) taken++;\n\
          snprintf(r->body, HTTP_RESPONSE_SIZE, \"%d\", taken > 10 && taken < 300); return 0; }";
    module("leaky", code, r#"{"/take","GET",take,NONE}"#, 1, "")
}

/// Has thread-local variables of a kind that the loader has little memory for.
fn local(n: usize) -> String {
    let code = format!(
        "static _Thread_local volatile char local[480] __attribute__((tls_model(\"initial-exec\")));\n\
         static int h(struct cweb_context *c, http_request_t *q, http_response_t *r) {{\n\
           (void)c; local[q->content_length]++; snprintf(r->body, HTTP_RESPONSE_SIZE, \"%d\", {n} + !local[q->content_length]); return 0; }}"
    );
    module("local", &code, r#"{"/local","GET",h,NONE}"#, 1, "")
}

#[test]
fn descriptors_that_are_used_up_refuse_no_deployment() {
    let args = ["--shards", "2", "--isolation", "process", "--module-open-files-max", "300"];
    let server = Server::with_open_files(1024, &args);
    server.deploy(&leaky());
    server.deploy(&constant("neighbour", "/neighbour", "here"));
    for round in 0..2 {
        assert_eq!(server.get("/take").text(), "1");
        let mended = leaky().replace("taken > 10", &format!("taken > 10 + {round}"));
        server.deploy(&mended);
        assert_eq!(server.get("/neighbour").text(), "here");
    }
    server.expect_log("is replaced: its modules have used up the descriptors that it may open");
    assert!(!server.log().contains(" died"), "{}", server.log());
}

#[test]
fn static_thread_local_storage_that_is_used_up_refuses_no_deployment() {
    let server = Server::with(&["--shards", "2", "--isolation", "process"]);
    for n in 0..12 {
        server.deploy(&local(n));
        eventually("the new version answers", || server.get("/local").text() == n.to_string());
    }
    server.expect_log("is replaced: its modules have used up the memory for thread-local variables");
}

#[test]
fn in_the_server_the_answer_says_what_is_used_up() {
    let server = Server::with(&["--shards", "2", "--isolation", "none"]);
    server.deploy(&constant("neighbour", "/neighbour", "here"));
    let refused = (0..12).map(|n| server.try_deploy(&local(n))).find(|answer| answer.status != 200);
    let refused = refused.expect("nothing was used up");
    let text = refused.text();
    assert_eq!(refused.status, 503, "{text}");
    assert!(text.contains("static TLS") && text.contains("restart"), "{text}");
    assert_eq!(server.get("/neighbour").text(), "here");
}

const MIB: usize = 1024 * 1024;

/// A module that takes and gives much, and one that does little.
fn greedy() -> String {
    let code = "#define BIG (8 << 20)\n\
        HANDLER(small, \"small\")\n\
        static int take(struct cweb_context *c, http_request_t *q, http_response_t *r) {\n\
          (void)c; snprintf(r->body, HTTP_RESPONSE_SIZE, \"%d\", q->content_length); return 0; }\n\
        static int give(struct cweb_context *c, http_request_t *q, http_response_t *r) {\n\
          (void)c; (void)q; free(r->body); r->body = malloc(BIG); memset(r->body, 'x', BIG); r->content_length = BIG; return 0; }\n\
        static void on_message(struct cweb_context *c, websocket_t *w, const char *t, size_t n) { (void)c; w->send(w, t, n); }\n";
    let routes = r#"{"/small","GET",small,NONE},{"/take","POST",take,CWEB_BODY_MIB(16)},{"/give","GET",give,NONE}"#;
    module("greedy", code, routes, 3, r#".websockets = {{"/ws", NULL, on_message, NULL}}, .ws_size = 1,"#)
}

/// Sends `head` and `bytes` bytes behind it, as far as the server takes them. Gives the status if it has answered by then.
fn send_much(client: &mut Client, head: &[u8], bytes: usize) -> Option<u16> {
    client.send(head);
    let piece = vec![0; 128 * 1024];
    let answered = |client: &Client| {
        client.stream.set_nonblocking(true).unwrap();
        let has = client.stream.peek(&mut [0]).is_ok();
        client.stream.set_nonblocking(false).unwrap();
        has
    };
    for _ in 0..bytes / piece.len() {
        if answered(client) || client.stream.write_all(&piece).is_err() {
            break;
        }
    }
    answered(client).then(|| client.try_response("POST").map_or(0, |response| response.status))
}

fn upload(client: &mut Client, bytes: usize, announced: usize) -> Option<u16> {
    let head = format!("POST /take HTTP/1.1\r\nHost: localhost\r\nContent-Length: {announced}\r\n\r\n");
    send_much(client, head.as_bytes(), bytes)
}

/// A WebSocket on which half of a message of 14 MiB has come; `None`: the server has closed it with 1013.
fn half_message(server: &Server) -> Option<Client> {
    let mut client = server.connect();
    client.send(b"GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n");
    assert_eq!(client.try_response("GET").unwrap().status, 101);
    // Binary, masked with zeros.
    let head = [&[0x82, 0xff][..], &(14 * MIB as u64).to_be_bytes(), &[0; 4]].concat();
    client.send(&head);
    let piece = vec![0; 128 * 1024];
    for _ in 0..7 * MIB / piece.len() {
        client.stream.set_nonblocking(true).unwrap();
        let mut frame = [0; 4];
        let told = client.stream.peek(&mut frame);
        client.stream.set_nonblocking(false).unwrap();
        if told.is_ok() {
            assert_eq!((frame[0], u16::from_be_bytes([frame[2], frame[3]])), (0x88, 1013), "{frame:?}");
            return None;
        }
        if client.stream.write_all(&piece).is_err() {
            return None;
        }
    }
    Some(client)
}

fn metric(server: &Server, name: &str) -> usize {
    let text = server.get("/metrics").text();
    let values = text.lines().filter_map(|line| line.strip_prefix(name).filter(|rest| rest.starts_with(['{', ' '])));
    values.map(|rest| rest.rsplit(' ').next().unwrap().parse::<usize>().unwrap()).sum()
}

#[test]
fn clients_make_the_server_hold_no_more_memory_than_it_may() {
    const BUDGET: usize = 32 * MIB;
    /// What the docs say may come on top: the server itself, and what is on its way.
    const CONSTANT: usize = 96 * MIB;
    /// Modules in the server have copies of their own, as many at a time as the machine lets threads run.
    const OF_MODULES: usize = 128 * MIB;
    let server = Server::with(&["--shards", "2", "--memory-bytes-max", &BUDGET.to_string()]);
    server.deploy(&greedy());
    let before = server.memory_kib_own() as usize * 1024;
    let fine = |what: &str| {
        assert_eq!(server.get("/small").text(), "small", "{what}");
        assert_eq!(server.get("/healthz").status, 200, "{what}");
        let resident = server.memory_kib("VmHWM") as usize * 1024;
        let bound = BUDGET + CONSTANT + if isolation() == "none" { OF_MODULES } else { 0 };
        assert!(resident <= bound, "{what}: {} MiB", resident / MIB);
    };
    // Bodies that never end.
    let mut bodies: Vec<Client> = (0..10).map(|_| server.connect()).collect();
    let told: Vec<u16> = bodies.iter_mut().filter_map(|client| upload(client, 12 * MIB, 14 * MIB)).collect();
    // Those that were told by then; 0: cut off before all of the answer was read.
    assert!(told.iter().all(|status| [503, 0].contains(status)), "{told:?}");
    fine("bodies");
    // Messages that never end; what has been idle gives its memory to them.
    let sockets: Vec<Client> = (0..10).filter_map(|_| half_message(&server)).collect();
    fine("messages");
    // Answers that nobody takes, of a size that is known.
    eventually("an answer is taken", || server.get("/give").status == 200);
    let mut readers: Vec<Client> = (0..12).map(|_| server.connect()).collect();
    for client in &mut readers {
        client.send(b"GET /give HTTP/1.1\r\nHost: localhost\r\n\r\n");
    }
    fine("answers");
    // All of them still hold what they can: whoever comes now and moves gets its turn.
    eventually("idle holders make room", || {
        let mut client = server.connect();
        let status = upload(&mut client, 8 * MIB, 8 * MIB).or_else(|| client.try_response("POST").map(|r| r.status));
        status == Some(200)
    });
    fine("after all");
    assert_eq!(metric(&server, "cweb_memory_bytes_max"), BUDGET);
    assert!(metric(&server, "cweb_memory_refused_total") > 0 && metric(&server, "cweb_memory_closed_total") > 0);
    let told: serde_json::Value = serde_json::from_slice(&server.get("/mgnt").body).unwrap();
    assert!(
        told["memory"]["refused"].as_u64().unwrap() > 0 && told["memory"]["bytes_max"] == BUDGET,
        "{}",
        told["memory"]
    );
    drop((bodies, sockets, readers));
    eventually("the memory comes back", || metric(&server, "cweb_memory_bytes") < MIB);
    // What modules in the server have used is theirs to give back.
    if isolation() == "process" {
        eventually("the kernel has it back", || (server.memory_kib_own() as usize * 1024) < before + BUDGET / 2);
    }
}

/// A module whose handlers and callbacks stay while they are told to.
fn holder(name: &str) -> String {
    let code = "#include <stdatomic.h>\n#include <unistd.h>\n\
        #define H(f) static int f(struct cweb_context *c, http_request_t *q, http_response_t *r)\n\
        #define SAY(n) ((void)c, (void)q, snprintf(r->body, HTTP_RESPONSE_SIZE, \"%d\", n), 0)\n\
        static atomic_int held, stays;\n\
        static void stay(void) { atomic_fetch_add(&held, 1); while (atomic_load(&stays)) usleep(2000); }\n\
        H(hold) { stay(); return SAY(1); }\n\
        H(holding) { return SAY(atomic_load(&held)); }\n\
        H(hang) { atomic_store(&stays, 1); return SAY(1); }\n\
        H(release) { atomic_store(&stays, 0); return SAY(0); }\n\
        H(take) { return SAY(q->content_length); }\n\
        static void on_message(struct cweb_context *c, websocket_t *w, const char *t, size_t n) { (void)c, (void)w, (void)t, (void)n; stay(); }\n";
    let route = |path: &str, method: &str| format!(r#"{{"/{name}/{path}","{method}",{path},CWEB_BODY_MIB(2)}},"#);
    let gets = ["holding", "hang", "release"].map(|path| route(path, "GET"));
    let routes = gets.into_iter().chain(["hold", "take"].map(|path| route(path, "POST"))).collect::<String>();
    let sockets = format!(r#".websockets = {{{{"/{name}/ws", NULL, on_message, NULL}}}}, .ws_size = 1,"#);
    module(name, code, &routes, 5, &sockets)
}

/// Whether the server has sent something to `client`, or has closed the connection.
fn is_told(client: &Client) -> bool {
    client.stream.set_nonblocking(true).unwrap();
    let peeked = client.stream.peek(&mut [0]);
    client.stream.set_nonblocking(false).unwrap();
    !peeked.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}

#[test]
fn a_domain_whose_handlers_hang_leaves_memory_to_the_others_whoever_has_left() {
    ["bodies", "messages"].into_iter().for_each(a_domain_whose_handlers_hang);
}

fn a_domain_whose_handlers_hang(what: &str) {
    const BUDGET: usize = 32 * MIB;
    // However long the machine takes.
    let hang = ["--handler-timeout-ms", "600000"];
    let args = ["--isolation", "process", "--shards", "1", "--memory-bytes-max", &BUDGET.to_string()];
    let server = Server::with(&[&args[..], &hang].concat());
    for name in ["evil", "good"] {
        let answer = server.post(&format!("/mgnt?domain={name}"), holder(name).as_bytes());
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let held = || metric(&server, "cweb_memory_bytes");
    let others_are_served = || {
        let answer = server.post("/good/take", &[b'x'; MIB]);
        assert_eq!((answer.status, answer.text()), (200, MIB.to_string()), "{what}: {} bytes are held", held());
    };
    let socket = |_| {
        let mut client = server.connect();
        client.send(b"GET /evil/ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n");
        assert_eq!(client.try_response("GET").unwrap().status, 101);
        client
    };
    let upload = format!("POST /evil/hold HTTP/1.1\r\nHost: localhost\r\nContent-Length: {MIB}\r\n\r\n");
    // A binary message of as many bytes, masked with zeros.
    let message = [&[0x82, 0xff][..], &(MIB as u64).to_be_bytes(), &[0; 4]].concat();
    let head = if what == "bodies" { upload.into_bytes() } else { message };
    server.get("/evil/hang");
    let connect = |n| if what == "bodies" { server.connect() } else { socket(n) };
    let mut clients: Vec<Client> = (0..48).map(connect).collect();
    // All at once, faster than the clock of the server ticks. It may have closed some of them.
    for client in &mut clients {
        let _ = client.stream.write_all(&[&head[..], &vec![0; MIB]].concat());
    }
    let answered = || clients.iter().filter(|client| is_told(client)).count();
    // One domain may hold half of the budget. All others are refused, or cut off.
    eventually("all but 17 of them are refused", || answered() >= clients.len() - 17);
    assert!(answered() < clients.len(), "{what}: some have room");
    if what == "bodies" {
        let told = clients.iter_mut().filter(|client| is_told(client)).filter_map(|client| client.try_response("POST"));
        let told: Vec<_> = told.collect();
        assert!(told.iter().all(|answer| answer.status == 503), "{:?}", told[0].head);
        assert!(
            told.iter().any(|answer| answer.text().contains("as much memory as one domain may")),
            "{}",
            told[0].text()
        );
    }
    drop(clients);
    others_are_served();
    assert!((MIB..BUDGET).contains(&held()), "{what}: {}", held());
}

/// How long a connection beyond the limits may wait before its first request.
const RESERVED_WAIT: Duration = Duration::from_millis(300);

/// Asks on a connection beyond the limits until the answer is right; a wrong one counts only if it was asked for in time.
fn beyond_the_limits(addr: &str, method: &str, target: &str, body: &[u8], is_right: impl Fn(&Response) -> bool) {
    eventually("a request is in time", || {
        let began = Instant::now();
        let answer = Client::try_connect(addr).and_then(|mut client| client.attempt(method, target, body));
        let right = answer.as_ref().is_some_and(&is_right);
        assert!(right || began.elapsed() >= RESERVED_WAIT, "{method} {target}: {answer:?}");
        right
    });
}

/// Whether a client has a place: the server has no module.
fn is_served(server: &Server) -> bool {
    let answer = Client::try_connect(&server.addr).and_then(|mut client| client.attempt("GET", "/", b""));
    answer.is_some_and(|answer| answer.status == 404)
}

#[test]
fn a_flood_of_connections_keeps_neither_operators_nor_health_checks_out() {
    let server = Server::with(&["--connections-max", "20", "--shards", "1", "--admin-listen", "127.0.0.1:0"]);
    server.expect_log("(admin)");
    let log = server.log();
    let addresses = log.lines().filter_map(|line| line.strip_prefix("listening on http://"));
    let admin = addresses.filter_map(|addr| addr.strip_suffix(" (admin)")).next().unwrap();
    let before = server.descriptors();
    let held: Vec<Client> = (0..20).map(|_| server.connect()).collect();
    // All of these wait for what the server says, and close nothing.
    let mut waiting: Vec<Client> = Vec::new();
    for _ in 0..4 {
        waiting.extend((0..60).map(|_| server.connect()));
        beyond_the_limits(&server.addr, "GET", "/healthz", b"", |answer| answer.status == 200);
        beyond_the_limits(&server.addr, "GET", "/", b"", |refused| {
            (refused.status, refused.header("retry-after").as_deref()) == (503, Some("1"))
        });
        beyond_the_limits(&server.addr, "POST", "/", &[b'x'; 2000], |refused| refused.status == 503);
        let mut operator = Client::connect(admin);
        assert_eq!((operator.get("/mgnt").status, operator.get("/healthz").status), (200, 200));
        assert!(server.descriptors() < before + 20 + 64 + 16, "{}", server.descriptors() - before);
    }
    let told = waiting.iter_mut().filter_map(|client| client.try_response("GET")).map(|response| response.status);
    let told: Vec<u16> = told.collect();
    assert!(told.iter().all(|status| *status == 503) && told.len() >= 32, "{told:?}");
    drop((held, waiting));
    eventually("clients are served again", || is_served(&server));
}

#[test]
fn peers_on_this_machine_have_half_of_the_connections() {
    let server = Server::with(&["--connections-max", "140", "--shards", "1"]);
    let held: Vec<Client> = (0..70).map(|_| server.connect()).collect();
    beyond_the_limits(&server.addr, "GET", "/", b"", |refused| {
        (refused.status, refused.text().as_str()) == (503, "too many connections of your address\n")
    });
    for target in ["/healthz", "/mgnt"] {
        beyond_the_limits(&server.addr, "GET", target, b"", |answer| answer.status == 200);
    }
    drop(held);
    eventually("there is room again", || is_served(&server));
    let server = Server::with(&["--connections-max", "140", "--shards", "1", "--connections-per-peer-max", "0"]);
    let held: Vec<Client> = (0..100).map(|_| server.connect()).collect();
    assert_eq!(server.get("/").status, 404);
    drop(held);
}
