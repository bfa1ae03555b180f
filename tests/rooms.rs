//! WebSockets beyond messages: handshakes that a module decides about, what `on_open` knows of them, a pointer with each
//! socket, and rooms.

use crate::support::{self, PATIENCE, Response, Server, Socket, root};
use std::io::Write;
use std::net::TcpStream;
use tungstenite::Message;

const FIELDS: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n";

fn server(args: &[&str]) -> Server {
    // Guests are not read for a while, and what is read are messages.
    let server = Server::with(&[&["--shards", "2", "--ws-ping-interval-ms", "0"], args].concat());
    server.deploy_file("tests/modules/rooms.c");
    server
}

fn shake(server: &Server, target: &str, fields: &str) -> Response {
    let mut client = server.connect();
    client.send(format!("GET {target} HTTP/1.1\r\nHost: x\r\n{FIELDS}{fields}\r\n").as_bytes());
    client.response()
}

/// A guest of a room, who has read what `on_open` says.
fn guest(server: &Server, room: &str, name: &str) -> Socket {
    let mut socket = server.websocket(&format!("/chat/{room}?name={name}"));
    assert!(text(&mut socket).starts_with(&format!("open room={room} name={name} ")));
    socket
}

fn text(socket: &mut Socket) -> String {
    socket.read().unwrap().into_text().unwrap().to_string()
}

fn ask(socket: &mut Socket, words: &str) -> String {
    socket.send(Message::text(words.to_owned())).unwrap();
    text(socket)
}

#[test]
fn a_module_accepts_and_refuses_handshakes() {
    let server = server(&[]);
    let accepted = shake(
        &server,
        "/chat/a",
        "Origin: https://good.example\r\nSec-WebSocket-Protocol: x, chat.v1\r\nSec-WebSocket-Protocol: chat.v2\r\n",
    );
    assert_eq!(accepted.status, 101);
    assert_eq!(accepted.header("sec-websocket-accept").as_deref(), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!(accepted.header("sec-websocket-protocol").as_deref(), Some("chat.v2"));
    assert_eq!(accepted.header("set-cookie").as_deref(), Some("seen=a"));
    assert!(accepted.header("content-length").is_none() && accepted.header("date").is_some());
    let none = shake(&server, "/chat/a?how=101", "Sec-WebSocket-Protocol: chat.V1,chat.v10\r\n");
    assert_eq!((none.status, none.header("sec-websocket-protocol")), (101, None));

    let forged = shake(&server, "/chat/a?how=forged", "");
    assert_eq!((forged.status, forged.header("connection").as_deref()), (101, Some("Upgrade")));
    for field in ["sec-websocket-protocol", "sec-websocket-extensions", "x-bad", "injected", "content-length"] {
        assert_eq!(forged.header(field), None, "{field}");
    }
    assert_eq!(forged.head.matches("Sec-WebSocket-Accept").count(), 1);

    // A refusal is an answer like others, and the connection goes on.
    let mut client = server.connect();
    for (target, field, status, body) in [
        ("/chat/a", "Origin: https://evil.example\r\n", 403, "not from https://evil.example\n"),
        ("/chat/a?how=moved", "", 307, ""),
        ("/chat/a?how=pieces", "", 403, "no pieces"),
        ("/chat/a?how=crash", "", 500, "module rooms failed"),
        ("/chat/", "", 404, "no module serves a WebSocket"),
    ] {
        client.send(format!("GET {target} HTTP/1.1\r\nHost: x\r\n{FIELDS}{field}\r\n").as_bytes());
        let answer = client.response();
        assert_eq!(answer.status, status, "{target}");
        assert!(answer.text().starts_with(body), "{}", answer.text());
    }
    // Not a handshake: the handler is not asked.
    for (method, status) in [("GET", 426), ("HEAD", 426), ("POST", 405)] {
        let answer = client.request(method, "/chat/a?how=crash", &[], b"");
        assert_eq!(answer.status, status, "{method}");
    }
    client.send(format!("GET /chat/a HTTP/1.1\r\nHost: x\r\n{}\r\n", FIELDS.replace("13", "8")).as_bytes());
    assert_eq!(client.response().status, 426);
    assert_eq!(client.request("POST", "/announce/nobody", &[], b"x").text(), "0");
}

#[test]
fn what_follows_a_handshake_waits_for_its_answer() {
    let server = server(&[]);
    // A request before it, the handshake, and frames behind it, all at once: "type", masked with zeros.
    let frame = b"\x81\x84\0\0\0\0type".repeat(3);
    let before = "POST /announce/nobody HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx";
    let all =
        [before.as_bytes(), format!("GET /chat/a HTTP/1.1\r\nHost: x\r\n{FIELDS}\r\n").as_bytes(), &frame].concat();
    let mut client = server.connect();
    client.send(&all);
    assert_eq!(client.response().text(), "0");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.extend(client.bytes(1));
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "));
    let header = client.bytes(2);
    assert!(header[0] == 0x81 && header[1] < 126);
    assert!(client.bytes(usize::from(header[1])).starts_with(b"open room=a"));
    assert_eq!(client.bytes(3 * (2 + "type 1".len())), b"\x81\x06type 1".repeat(3));
    // Behind one that is refused follow requests.
    let mut client = server.connect();
    let refused = format!("GET /chat/a HTTP/1.1\r\nHost: x\r\nOrigin: y\r\n{FIELDS}\r\n{before}");
    client.send(refused.as_bytes());
    assert_eq!((client.response().status, client.response().text().as_str()), (403, "0"));
    // Many at once, some of which go away before the answer.
    for _ in 0..50 {
        let mut stream = TcpStream::connect(&server.addr).unwrap();
        stream.write_all(format!("GET /chat/a HTTP/1.1\r\nHost: x\r\n{FIELDS}\r\n").as_bytes()).unwrap();
    }
    assert!(ask(&mut guest(&server, "a", "last"), "who").ends_with(" last in a"));
}

#[test]
fn on_open_has_the_request_and_a_socket_keeps_a_pointer() {
    let server = server(&[]);
    let mut client = server.connect();
    let fields = "User-Agent: test\r\nCookie: sid=s1\r\nSec-WebSocket-Protocol: chat.v1\r\n";
    client.send(format!("GET /chat/a%20b?name=n%26m HTTP/1.1\r\nHost: x\r\n{FIELDS}{fields}\r\n").as_bytes());
    assert_eq!(client.response().status, 101);
    let mut socket = client.into_websocket();
    assert_eq!(text(&mut socket), "open room=a b name=n&m agent=test cookie=s1 peer=127.0.0.1 offers=10 1=a b type=1");
    server.expect_log("deferred by on_open: n&m");
    assert_eq!(ask(&mut socket, "who"), "one n&m in a b");
    assert_eq!(ask(&mut socket, "wrong"), "-12 1 0 1 0 1");
    socket.send(Message::binary(vec![b'?'])).unwrap();
    assert_eq!(text(&mut socket), "type 2");
    assert_eq!(ask(&mut socket, "?"), "type 1");

    let mut inline = server.websocket("/free/ab-7?name=i");
    assert!(text(&mut inline).starts_with("open room=- name=i agent=- cookie=- peer=127.0.0.1 offers=00 1=ab type=1"));
    assert!(text(&mut server.websocket("/v1.0")).contains("1=- "));
    for none in ["/free/ab-", "/v1x0"] {
        assert_eq!(shake(&server, none, "").status, 404, "a dot alone makes no pattern: {none}");
    }

    // A new version has the sockets with their pointers and rooms.
    let source = std::fs::read_to_string(root().join("tests/modules/rooms.c")).unwrap();
    server.deploy(&format!("#define VERSION \"two\"\n{source}"));
    assert_eq!(ask(&mut socket, "who"), "two n&m in a b");
    assert_eq!(server.post("/announce/a%20b", b"to all versions").text(), "0");
    assert_eq!(text(&mut socket), "to all versions");
    socket.close(None).unwrap();
    server.expect_log("n&m has left a b");
    let mut crashed = server.websocket("/chat/c?name=crash");
    assert!(text(&mut crashed).starts_with("open room=c name=crash"));
    server.expect_log("failed in on_open");
    // The process may be replaced after the fault, and a pointer is lost with its process.
    support::eventually("a socket keeps its pointer again", || {
        ask(&mut guest(&server, "a", "after"), "who").ends_with(" after in a")
    });
}

#[test]
fn what_is_published_reaches_everybody_in_a_room_once() {
    let server = server(&["--ws-rooms-max", "8"]);
    let mut guests: Vec<Socket> =
        (0..40).map(|n| guest(&server, if n % 2 == 0 { "even" } else { "odd" }, "g")).collect();
    let mut teller = guest(&server, "teller", "t");
    assert_eq!(ask(&mut teller, "join even"), "joined 0");
    assert_eq!(ask(&mut teller, "join even"), "joined 0", "twice is once");
    for round in 0..20 {
        teller.send(Message::text(format!("tell even round {round} é"))).unwrap();
        assert_eq!(server.post("/announce/odd", format!("round {round}").as_bytes()).text(), "0");
    }
    for (n, guest) in guests.iter_mut().enumerate() {
        for round in 0..20 {
            let expected = if n % 2 == 0 { format!("round {round} é") } else { format!("round {round}") };
            assert_eq!(text(guest), expected);
        }
    }
    (0..20).for_each(|round| assert_eq!(text(&mut teller), format!("round {round} é")));

    // The type that was asked for, but for what is no text; and what crosses by reference.
    teller.send(Message::text("bytes even")).unwrap();
    teller.send(Message::text("large even")).unwrap();
    for guest in guests.iter_mut().step_by(2).chain([&mut teller]) {
        assert_eq!(guest.read().unwrap(), Message::binary(vec![1, 2, 3]));
        assert_eq!(guest.read().unwrap(), Message::binary(vec![255]));
        assert_eq!(guest.read().unwrap(), Message::text("L".repeat(300_000)));
    }

    // What a module does takes effect in its order, also where messages are sent together.
    let mut orderly = guest(&server, "order", "o");
    let mut listener = guest(&server, "order", "l");
    orderly.send(Message::text("order order")).unwrap();
    ["1", "2", "3", "4", "6", "7"].iter().for_each(|expected| assert_eq!(text(&mut orderly), *expected));
    assert!(matches!(orderly.read(), Ok(Message::Close(_))), "nothing follows the close frame");
    ["1", "3", "4", "5", "6", "7", "8"].iter().for_each(|expected| assert_eq!(text(&mut listener), *expected));

    // Who leaves hears no more, who is gone harms nobody, and who comes hears what comes.
    assert_eq!(ask(&mut guests[0], "leave even"), "left 0");
    assert_eq!(ask(&mut guests[0], "leave even"), "left 0");
    drop(guests.remove(2));
    drop(guests.remove(3));
    let mut late = guest(&server, "even", "late");
    teller.send(Message::text("tell even last")).unwrap();
    assert_eq!((text(&mut late), text(&mut teller)), ("last".to_owned(), "last".to_owned()));
    assert_eq!(ask(&mut guests[0], "who"), "one g in even", "nothing came before this");

    assert_eq!(ask(&mut teller, "many"), "many 6 1", "eight in all");
    teller.send(Message::text("close")).unwrap();
    server.expect_log("after the end: -1 1");
    assert_eq!(server.post("/announce/even", b"still there").text(), "0");
    assert_eq!(text(&mut late), "still there");
}

/// A reader that takes nothing is closed, and the others hear everything.
#[test]
fn a_slow_reader_of_a_room_is_closed() {
    let server = server(&["--ws-queue-bytes-max", "700000"]);
    let slow = guest(&server, "r", "slow");
    let mut quick = guest(&server, "r", "quick");
    quick.get_mut().set_read_timeout(Some(PATIENCE)).unwrap();
    for _ in 0..100 {
        quick.send(Message::text("large r")).unwrap();
        assert_eq!(quick.read().unwrap().len(), 300_000);
    }
    // Another shard may send to the slow one, later than to the quick one.
    let overflows = || {
        let metrics = server.get("/metrics").text();
        let overflows = metrics.lines().filter(|line| line.starts_with("cweb_websocket_overflows_total"));
        overflows.map(|line| line.split(' ').next_back().unwrap().parse::<f64>().unwrap()).sum::<f64>()
    };
    support::eventually("the slow one is closed", || overflows() > 0.5);
    assert!(overflows() < 1.5);
    drop(slow);
    server.expect_log("slow has left r");
    assert_eq!(ask(&mut quick, "who"), "one quick in r");
}

/// Bytes sent to a reader that takes nothing are counted; the count falls to 0 when the reader has taken them.
#[test]
fn what_a_connection_has_not_taken_is_told() {
    let server = server(&["--ws-queue-bytes-max", "100000000"]);
    let raw = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    raw.set_recv_buffer_size(4096).unwrap();
    raw.connect(&server.addr.parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    let stream = TcpStream::from(raw);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut socket = tungstenite::client(format!("ws://{}/chat/b?name=w", server.addr), stream).unwrap().0;
    assert!(text(&mut socket).starts_with("open "));
    assert_eq!(ask(&mut socket, "watch"), "watching, 1");
    let number = || server.get("/buffered").text().parse::<usize>().unwrap();
    support::eventually("small messages are sent", || number() == 0);
    // More than the kernel keeps for a reader.
    let all = 24 << 20;
    assert_eq!(server.post("/fill", b"24").text(), "sent");
    support::eventually("what is sent to it alone is seen", || (all / 2..=all + all / 100).contains(&number()));
    (0..24 * 16).for_each(|_| assert_eq!(socket.read().unwrap().len(), 1 << 16));
    support::eventually("it is taken", || number() == 0);
    let body = vec![b'r'; 600_000];
    (0..40).for_each(|_| assert_eq!(server.post("/announce/b", &body).text(), "0"));
    support::eventually("what its room gets is seen", || (all / 2..=all + all / 100).contains(&number()));
    (0..40).for_each(|_| assert_eq!(socket.read().unwrap().len(), 600_000));
    support::eventually("that is taken too", || number() == 0);
}

/// One frame of the server's: its first byte, and its payload.
fn frame(client: &mut support::Client) -> (u8, Vec<u8>) {
    let head = client.bytes(2);
    let length = match head[1] {
        126 => usize::from(u16::from_be_bytes(client.bytes(2).try_into().unwrap())),
        127 => usize::try_from(u64::from_be_bytes(client.bytes(8).try_into().unwrap())).unwrap(),
        short => usize::from(short),
    };
    (head[0], client.bytes(length))
}

/// A message to a room is compressed once for all sockets that have agreed on compression, and sent plain to the others.
#[test]
fn a_room_is_sent_one_compressed_message() {
    let server = server(&[]);
    let offers = ["", "permessage-deflate", "permessage-deflate; server_max_window_bits=9"];
    let mut guests: Vec<support::Client> = (0..12)
        .map(|n| {
            let mut client = server.connect();
            let offer = match offers[n % 3] {
                "" => String::new(),
                offer => format!("Sec-WebSocket-Extensions: {offer}\r\n"),
            };
            client.send(format!("GET /chat/z?name=n HTTP/1.1\r\nHost: x\r\n{FIELDS}{offer}\r\n").as_bytes());
            let answer = client.response();
            assert_eq!((answer.status, answer.header("sec-websocket-extensions").is_some()), (101, n % 3 > 0));
            assert!(frame(&mut client).1.starts_with(b"open "));
            client
        })
        .collect();
    let large: String = (0..500).map(|n| format!("line {} of a text for everybody, ", n * 7919 % 1000)).collect();
    // A message smaller than the window can't refer to bytes beyond it.
    for (text, compressed) in [("short", [false; 3]), (&large[..450], [false; 3]), (&large, [false, true, false])] {
        assert_eq!(server.post("/announce/z", text.as_bytes()).text(), "0");
        let frames: Vec<(u8, Vec<u8>)> = guests.iter_mut().map(frame).collect();
        for (n, (first, payload)) in frames.iter().enumerate() {
            assert_eq!(*first, if compressed[n % 3] { 0xc1 } else { 0x81 }, "{n} {}", text.len());
            assert_eq!(payload, &frames[n % 3].1, "all of a kind get the same bytes");
            let mut found = Vec::new();
            if compressed[n % 3] {
                let whole = [payload, &[0, 0, 0xff, 0xff][..]].concat();
                let mut decoder = flate2::read::DeflateDecoder::new(&whole[..]);
                let mut piece = [0; 4096];
                while let Ok(count @ 1..) = std::io::Read::read(&mut decoder, &mut piece) {
                    found.extend_from_slice(&piece[..count]);
                }
                assert!(payload.len() < text.len() / 2);
            } else {
                found.clone_from(payload);
            }
            assert!(found == text.as_bytes());
        }
    }
}
