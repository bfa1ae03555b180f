//! WebSockets through the real server.

use crate::support::{Server, Socket, eventually, module};
use std::io::Write;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Bytes, Message};

fn lab() -> String {
    let code = r#"
#include <list.h>
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static websocket_t *open_sockets[1024]; static int open_count; static int closed_count;
static void on_open(struct cweb_context *c, websocket_t *w) { (void)c; pthread_mutex_lock(&lock); open_sockets[open_count++] = w; pthread_mutex_unlock(&lock);
  if (w->session) w->send(w, w->session, strlen(w->session)); }
static void *later(void *arg) { websocket_t *w = arg; for (int i = 0; i < 100; i++) { char t[16]; int n = snprintf(t, sizeof t, "t%d", i); w->send(w, t, (size_t)n); } w->close(w); return NULL; }
static void on_message(struct cweb_context *c, websocket_t *w, const char *m, size_t n) { (void)c;
  if (m[n] != '\0') abort();
  if (!strcmp(m, "close")) { int a = w->close(w), b = w->close(w), s = w->send(w, "x", 1); if (a != 0 || b != -1 || s != -1) abort(); return; }
  if (!strcmp(m, "thread")) { pthread_t t; pthread_create(&t, NULL, later, w); pthread_detach(t); return; }
  if (!strcmp(m, "all")) { pthread_mutex_lock(&lock); for (int i = 0; i < open_count; i++) open_sockets[i]->send(open_sockets[i], "to all", 6); pthread_mutex_unlock(&lock); return; }
  if (!strcmp(m, "flood")) { static char big[65536]; memset(big, 'f', sizeof big); for (int i = 0; i < 2000; i++) w->send(w, big, sizeof big); return; }
  w->send(w, m, n); }
static void on_close(struct cweb_context *c, websocket_t *w) { (void)c; pthread_mutex_lock(&lock); closed_count++;
  if (w->session && !strncmp(w->session, "bye", 3)) w->send(w, "bye", 3);
  for (int i = 0; i < open_count; i++) if (open_sockets[i] == w) { open_sockets[i] = open_sockets[--open_count]; break; } pthread_mutex_unlock(&lock); }
static int counts(struct cweb_context *c, http_request_t *q, http_response_t *r) { (void)c; (void)q; snprintf(r->body, HTTP_RESPONSE_SIZE, "%d %d", open_count, closed_count); return 0; }
"#;
    let fields = r#".websockets = {{"/ws", on_open, on_message, on_close}, {.path = "/silent"},
        {"/inline", on_open, on_message, on_close, CWEB_INLINE}}, .ws_size = 3,"#;
    module("lab", code, r#"{"/counts", "GET", counts, NONE}"#, 1, fields)
}

/// Callbacks on an executor's thread, and on the shard's own where modules live in the server.
const PATHS: [&str; 2] = ["/ws", "/inline"];

fn server() -> Server {
    let server = Server::with(&["--shards", "2", "--ws-queue-bytes-max", "4000000"]);
    server.deploy(&lab());
    server
}

#[allow(clippy::needless_pass_by_value)] // Reads better at the call.
fn echo(socket: &mut Socket, message: Message) {
    socket.send(message.clone()).unwrap();
    assert_eq!(socket.read().unwrap(), message);
}

fn close_code(socket: &mut Socket) -> CloseCode {
    loop {
        match socket.read() {
            Ok(Message::Close(Some(frame))) => return frame.code,
            Ok(Message::Close(None)) => panic!("no code"),
            Ok(_) => {}
            Err(error) => panic!("no close frame: {error}"),
        }
    }
}

#[test]
fn messages_of_every_kind_and_size() {
    for path in PATHS {
        let server = server();
        let mut socket = server.websocket(path);
        echo(&mut socket, Message::text("hello é"));
        echo(&mut socket, Message::text(""));
        echo(&mut socket, Message::binary(vec![0xff, 0, 1]));
        for size in [125, 126, 2048, 65_535, 65_536, 1 << 20] {
            echo(&mut socket, Message::text("a".repeat(size)));
        }
        for n in 0..500 {
            socket.write(Message::text(n.to_string())).unwrap();
        }
        socket.flush().unwrap();
        for n in 0..500 {
            assert_eq!(socket.read().unwrap(), Message::text(n.to_string()));
        }
        socket.send(Message::Ping(Bytes::from_static(b"p"))).unwrap();
        assert_eq!(socket.read().unwrap(), Message::Pong(Bytes::from_static(b"p")));
    }
}

/// A masked frame with a mask of zeros.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    [&[first, 0x80 | u8::try_from(payload.len()).unwrap(), 0, 0, 0, 0], payload].concat()
}

#[test]
fn frames_together_in_pieces_and_fragments() {
    for path in PATHS {
        let server = server();
        let mut socket = server.websocket(path);
        let raw = [frame(0x81, b"one"), frame(0x01, b"tw"), frame(0x89, b"!"), frame(0x80, b"o")].concat();
        socket.get_mut().write_all(&raw).unwrap();
        assert_eq!(socket.read().unwrap(), Message::Pong(Bytes::from_static(b"!")));
        assert_eq!(socket.read().unwrap(), Message::text("one"));
        assert_eq!(socket.read().unwrap(), Message::text("two"));
        for byte in frame(0x81, b"bytewise") {
            socket.get_mut().write_all(&[byte]).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        assert_eq!(socket.read().unwrap(), Message::text("bytewise"));
    }
}

#[test]
fn modules_send_and_close_from_anywhere() {
    for path in PATHS {
        let server = server();
        let mut socket = server.websocket(&format!("{path}?id=abc&since_event_id=7"));
        assert_eq!(socket.read().unwrap(), Message::text("abc|7"));
        socket.send(Message::text("thread")).unwrap();
        for n in 0..100 {
            assert_eq!(socket.read().unwrap(), Message::text(format!("t{n}")));
        }
        assert_eq!(close_code(&mut socket), CloseCode::Normal);
        let mut socket = server.websocket(&format!("{path}?id=x"));
        assert_eq!(socket.read().unwrap(), Message::text("x|0"));
        socket.send(Message::text("close")).unwrap();
        assert_eq!(close_code(&mut socket), CloseCode::Normal);
        drop(socket);
        eventually("both closed", || server.get("/counts").text() == "0 2");
        let mut silent = server.websocket("/silent");
        silent.send(Message::text("nobody listens")).unwrap();
        silent.close(None).unwrap();
        assert!(matches!(silent.read(), Ok(Message::Close(_))));
    }
}

#[test]
fn a_broadcast_reaches_everyone_once() {
    for path in PATHS {
        let server = server();
        let mut sockets: Vec<Socket> = (0..200).map(|_| server.websocket(path)).collect();
        eventually("all open", || server.get("/counts").text() == "200 0");
        sockets[7].send(Message::text("all")).unwrap();
        for socket in &mut sockets {
            assert_eq!(socket.read().unwrap(), Message::text("to all"));
        }
        // A client that goes without a word harms nobody.
        drop(sockets.split_off(100));
        eventually("half closed", || server.get("/counts").text() == "100 100");
        sockets[0].send(Message::text("all")).unwrap();
        for socket in &mut sockets {
            assert_eq!(socket.read().unwrap(), Message::text("to all"));
        }
    }
}

#[test]
fn a_reader_that_never_reads_is_closed_and_memory_is_bounded() {
    for path in PATHS {
        let server = server();
        let mut lazy = server.websocket(path);
        let before = server.memory_kib("VmHWM");
        lazy.send(Message::text("flood")).unwrap();
        eventually("the lazy reader is closed", || server.get("/counts").text() == "0 1");
        assert!(server.memory_kib("VmHWM") < before + 64 * 1024, "128 MB were sent to a queue of 4 MB");
        let metrics = server.get("/metrics").text();
        assert!(
            metrics.lines().any(|l| l.starts_with("cweb_websocket_overflows_total") && l.ends_with(" 1")),
            "{metrics}"
        );
    }
}

#[test]
fn the_stop_closes_sockets_as_going_away() {
    for path in PATHS {
        let mut server = server();
        let mut socket = server.websocket(&format!("{path}?id=bye"));
        assert_eq!(socket.read().unwrap(), Message::text("bye|0"));
        echo(&mut socket, Message::text("hi"));
        // What `on_close` says comes before the close frame.
        let reader = std::thread::spawn(move || (socket.read().unwrap(), close_code(&mut socket)));
        server.terminate();
        assert_eq!(reader.join().unwrap(), (Message::text("bye"), CloseCode::Away));
    }
}

/// A masked ping with 125 bytes.
fn pings(count: usize) -> Vec<u8> {
    frame(0x89, &[b'p'; 125]).repeat(count)
}

#[test]
fn pings_of_a_peer_that_takes_no_pongs_are_left_unread() {
    let server = server();
    let mut socket = server.websocket("/ws");
    let before = server.memory_kib("VmHWM");
    let stream = socket.get_mut();
    stream.set_write_timeout(Some(std::time::Duration::from_secs(1))).unwrap();
    let batch = pings(8 * 1024);
    let written = (0..64).take_while(|_| stream.write_all(&batch).is_ok()).count();
    assert!(written < 32, "32 MiB of pings were taken");
    assert!(server.memory_kib("VmHWM") < before + 8 * 1024);
    assert_eq!(server.get("/counts").text(), "1 0");
}

#[test]
fn rfc_6455_5_5_3_each_ping_of_a_peer_that_reads_is_answered() {
    const COUNT: usize = 40_000;
    let server = server();
    let mut socket = server.websocket("/ws");
    let mut writer = socket.get_ref().try_clone().unwrap();
    let writer = std::thread::spawn(move || writer.write_all(&pings(COUNT)).unwrap());
    for _ in 0..COUNT {
        assert!(matches!(socket.read().unwrap(), Message::Pong(_)));
    }
    writer.join().unwrap();
    echo(&mut socket, Message::text("still there"));
}

#[test]
fn client_fd_is_small_and_differs_between_open_sockets() {
    let server = Server::with(&["--shards", "2"]);
    let code = "static void on_message(struct cweb_context *c, websocket_t *w, const char *m, size_t n) { (void)c; (void)m; (void)n;
        char t[16]; int l = snprintf(t, sizeof t, \"%d\", w->client_fd); w->send(w, t, (size_t)l); }
        static _Atomic int closed; static void on_close(struct cweb_context *c, websocket_t *w) { (void)c; (void)w; closed++; }
        static int count(struct cweb_context *c, http_request_t *q, http_response_t *r) { (void)c; (void)q; snprintf(r->body, HTTP_RESPONSE_SIZE, \"%d\", closed); return 0; }";
    let fields = r#".websockets = {{"/ws", NULL, on_message, on_close}}, .ws_size = 1,"#;
    server.deploy(&module("numbers", code, r#"{"/closed", "GET", count, NONE}"#, 1, fields));
    let number = |socket: &mut Socket| -> usize {
        socket.send(Message::text("?")).unwrap();
        socket.read().unwrap().into_text().unwrap().parse().unwrap()
    };
    for round in 0..3 {
        let mut sockets: Vec<Socket> = (0..20).map(|_| server.websocket("/ws")).collect();
        let mut numbers: Vec<usize> = sockets.iter_mut().map(number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 20);
        // As descriptors are; those of the last round are free again.
        assert!(numbers.iter().all(|number| (3..64).contains(number)), "{numbers:?}");
        drop(sockets);
        eventually("all are closed", || server.get("/closed").text() == (20 * (round + 1)).to_string());
    }
}

#[test]
fn a_message_leaves_with_the_type_of_the_one_it_answers() {
    let server = Server::with(&["--shards", "2"]);
    server.deploy_file("tests/modules/ws_types.c");
    let (text, binary) = (Message::text("\u{1}\u{2}\u{3}"), Message::binary(vec![1, 2, 3]));
    let mut first = server.websocket("/ws");
    assert_eq!(first.read().unwrap(), text, "before the first message");
    // The answer has the type of the message, even where the bytes could be either.
    for message in [&binary, &text, &Message::binary(vec![255, 2, 3]), &Message::text("plain"), &Message::binary("")] {
        echo(&mut first, message.clone());
    }
    let asked = |socket: &mut Socket, message: Message| {
        socket.send(message).unwrap();
        socket.read().unwrap()
    };
    for as_binary in [false, true] {
        let ask = |order: &'static str| if as_binary { Message::binary(order) } else { Message::text(order) };
        let same = if as_binary { &binary } else { &text };
        assert_eq!(asked(&mut first, ask("t")), text);
        assert_eq!(asked(&mut first, ask("b")), binary);
        assert_eq!(asked(&mut first, ask("x")), Message::binary(vec![255]), "no UTF-8 is ever sent as text");
        assert_eq!(&asked(&mut first, ask("l")), same, "a thread sends as the last one received");
    }
    let mut second = server.websocket("/ws");
    assert_eq!(second.read().unwrap(), text, "each socket has its own");
    assert_eq!(server.get("/tell").text(), "2");
    assert_eq!((first.read().unwrap(), second.read().unwrap()), (binary.clone(), text.clone()));
    for (order, expected) in
        [(Message::binary("T"), &text), (Message::text("B"), &binary), (Message::binary("A"), &binary)]
    {
        second.send(order).unwrap();
        assert_eq!((&first.read().unwrap(), &second.read().unwrap()), (expected, expected));
    }
}
