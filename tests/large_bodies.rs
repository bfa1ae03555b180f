//! Bodies and messages that are larger than any ring: they cross the seam whole, wait for nobody's clock, and meet limits that
//! answer for the request alone.

use crate::support::{self, Client, Server, eventually, isolation};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{Bytes, Message};

const MIB: usize = 1 << 20;

fn start(args: &[&str]) -> Server {
    let server = Server::on(&Arc::new(tempfile::tempdir().unwrap()), args, &[]);
    server.deploy_file("tests/modules/large_bodies.c");
    server
}

/// The modules in a process, whatever the other tests do: these are about what the two processes share.
fn isolated(args: &[&str]) -> Server {
    start(&[&["--isolation", "process"], args].concat())
}

fn pattern(bytes: usize) -> Vec<u8> {
    let period: Vec<u8> = (0..251).collect();
    let mut all = period.repeat(bytes / 251 + 1);
    all.truncate(bytes);
    all
}

/// What `sum` of the module gives for a pattern: by whole periods, since a build without optimisation takes seconds for the bytes
/// one by one.
fn sum(bytes: &[u8]) -> u64 {
    let step = |sum: u64, byte: &u8| sum.wrapping_mul(31).wrapping_add(u64::from(*byte));
    let period = pattern(251);
    let (of_period, factor) = (period.iter().fold(0, step), 31_u64.wrapping_pow(251));
    let periods = bytes.chunks_exact(251);
    let rest = periods.remainder();
    let whole = periods.fold(0_u64, |sum, bytes| {
        assert!(bytes == period);
        sum.wrapping_mul(factor).wrapping_add(of_period)
    });
    rest.iter().fold(whole, step)
}

fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(&server.addr).unwrap();
    // What this file sends and receives is large, and the machine may be busy.
    stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(120))).unwrap();
    stream
}

/// An answer of which the body is counted and not kept, but for its beginning.
struct Counted {
    status: u16,
    bytes: usize,
    announced: usize,
    begin: String,
}

fn count(stream: &mut TcpStream) -> Counted {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "cut off: {}", String::from_utf8_lossy(&head));
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let (announced, mut bytes, mut begin) = (length.parse().unwrap(), 0, Vec::new());
    let mut chunk = vec![0; 256 * 1024];
    while bytes < announced {
        let got = stream.read(&mut chunk).unwrap();
        if got == 0 {
            break;
        }
        begin.extend(chunk[..got].iter().take(300_usize.saturating_sub(begin.len())));
        bytes += got;
    }
    let begin = String::from_utf8_lossy(&begin).into_owned();
    Counted { status: head.split(' ').nth(1).unwrap().parse().unwrap(), bytes, announced, begin }
}

fn ask(server: &Server, target: &str) -> Counted {
    let mut stream = connect(server);
    stream.write_all(format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).unwrap();
    count(&mut stream)
}

fn begin_post(stream: &mut TcpStream, target: &str, bytes: usize) {
    stream
        .write_all(format!("POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {bytes}\r\n\r\n").as_bytes())
        .unwrap();
}

fn post(server: &Server, target: &str, body: &[u8]) -> Counted {
    let mut stream = connect(server);
    begin_post(&mut stream, target, body.len());
    stream.write_all(body).unwrap();
    count(&mut stream)
}

/// The module's process is the one it was, and nobody was blamed for anything.
fn nobody_died(server: &Server, pid: &str) {
    assert_eq!(server.get("/pid").text(), pid, "{}", server.log());
    for word in ["quarantine", "died", "is ended", "is replaced"] {
        assert!(!server.log().contains(word), "{}", server.log());
    }
}

/// 200 and whole, or the words of the limit that was reached: of the domain's memory for answers or of the server's for all.
fn is_answered(counted: &Counted, bytes: usize) {
    match counted.status {
        200 => assert_eq!((counted.bytes, counted.announced), (bytes, bytes)),
        500 | 503 => {
            let limits = ["--module-answers-bytes-max", "--memory-bytes-max"];
            assert!(limits.iter().any(|limit| counted.begin.contains(limit)), "{}", counted.begin);
        }
        other => panic!("{other}: {}", counted.begin),
    }
}

#[test]
fn bodies_beyond_what_used_to_be_a_pool_come_through_whole() {
    let server = start(&["--shards", "2"]);
    for mib in [31, 33, 63] {
        let body = pattern(mib * MIB + mib);
        let answer = post(&server, "/take", &body);
        let expected = format!("{} {} 0", body.len(), sum(&body));
        assert_eq!((answer.status, answer.begin), (200, expected));
        let mut client = server.connect();
        client.stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        assert!(client.get(&format!("/make?bytes={}", body.len())).body == body, "{mib}");
    }
}

#[test]
fn an_upload_survives_what_happens_to_its_module_while_it_arrives() {
    let server = start(&["--shards", "1"]);
    let body = pattern(3 * MIB + 5);
    let expected = format!("{} {} 0", body.len(), sum(&body));
    let (first, rest) = body.split_at(2 * MIB + 7);
    let begun = |expect: &str| {
        let mut client = server.connect();
        client.stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        let length = body.len();
        let head = format!("POST /take HTTP/1.1\r\nHost: x\r\n{expect}Content-Length: {length}\r\n\r\n");
        client.stream.write_all(head.as_bytes()).unwrap();
        if !expect.is_empty() {
            let mut interim = [0; 25];
            client.stream.read_exact(&mut interim).unwrap();
            assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        client.stream.write_all(first).unwrap();
        client
    };
    let ends = |mut client: Client, what: &str| {
        // The request behind it on its connection has its turn.
        let next = "GET /holding HTTP/1.1\r\nHost: x\r\n\r\n";
        client.stream.write_all(&[rest, next.as_bytes()].concat()).unwrap();
        let answer = client.try_response("POST").unwrap();
        assert_eq!((answer.status, answer.text()), (200, expected.clone()), "{what}");
        assert_eq!(client.try_response("GET").unwrap().text(), "0", "{what}");
    };
    ends(begun(""), "nothing");
    ends(begun("Expect: 100-continue\r\n"), "the client waits for 100");
    let stream = begun("");
    server.deploy_file("tests/modules/large_bodies.c");
    ends(stream, "a swap");
    if isolation() == "process" {
        let stream = begun("");
        assert!(ask(&server, "/die").status >= 500);
        ends(stream, "the death of its process");
    }
    // Clients that leave leave nothing behind.
    let left: Vec<Client> = (0..8).map(|_| begun("")).collect();
    drop(left);
    let held = || {
        let text = server.get("/metrics").text();
        let values = text.lines().filter_map(|line| line.strip_prefix("cweb_memory_bytes{"));
        values.map(|rest| rest.rsplit(' ').next().unwrap().parse::<usize>().unwrap()).sum::<usize>()
    };
    eventually("the memory comes back", || held() < MIB);
    let mut stream = begun("");
    assert_eq!(server.connect().request("DELETE", "/mgnt/large", &[], b"").status, 200);
    stream.stream.write_all(rest).unwrap();
    assert_eq!(stream.try_response("POST").unwrap().status, 404, "nobody serves it any more");
}

#[test]
fn half_a_gigabyte_is_refused_by_the_limit_or_taken() {
    let bytes = 500 * MIB;
    let server = start(&[]);
    let mut stream = connect(&server);
    begin_post(&mut stream, "/huge", bytes);
    let refused = count(&mut stream);
    assert_eq!(refused.status, 413);
    assert!(refused.begin.contains("67108864"), "{}", refused.begin);
    drop(server);
    let server = start(&["--route-body-bytes-max", "629145600"]);
    let mut stream = connect(&server);
    begin_post(&mut stream, "/huge", bytes);
    let part = vec![b'h'; MIB];
    (0..500).for_each(|_| stream.write_all(&part).unwrap());
    let taken = count(&mut stream);
    assert!(taken.status == 200 && taken.begin.starts_with(&format!("{bytes} ")), "{} {}", taken.status, taken.begin);
    let made = ask(&server, &format!("/make?bytes={bytes}"));
    assert_eq!((made.status, made.bytes), (200, bytes));
    let pid = server.get("/pid").text();
    nobody_died(&server, &pid);
}

#[test]
fn websocket_messages_of_any_size_arrive_once_and_whole() {
    let server = start(&["--shards", "1", "--ws-queue-bytes-max", "100000000"]);
    let mut socket = server.websocket("/len");
    let messages: Vec<Bytes> = [MIB, 15 * MIB, 40_000, 3].into_iter().map(|bytes| pattern(bytes).into()).collect();
    for round in 0..4 {
        for message in &messages {
            socket.write(Message::Binary(message.clone())).unwrap();
        }
        socket.flush().unwrap();
        for message in &messages {
            let expected = format!("{} {}", message.len(), sum(message));
            assert_eq!(socket.read().unwrap().into_data(), expected.as_bytes(), "{round}");
        }
    }
    let stream = connect(&server);
    let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
    let (mut socket, _) =
        tungstenite::client::client_with_config(format!("ws://{}/echo", server.addr), stream, Some(config)).unwrap();
    for message in messages.iter().cycle().take(12) {
        socket.send(Message::Binary(message.clone())).unwrap();
        assert!(socket.read().unwrap().into_data() == *message, "{}", message.len());
    }
}

/// The bytes of a client's frame with a mask of zeros.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u64).to_be_bytes();
    [&[first, 0xff], &length[..], &[0; 4], payload].concat()
}

#[test]
fn a_large_message_survives_whatever_happens_while_it_arrives() {
    let server = start(&["--shards", "1"]);
    let message = pattern(2 * MIB + 3);
    let expected = format!("{} {}", message.len(), sum(&message));
    let bytes = frame(0x82, &message);
    let mut socket = server.websocket("/len");
    let mut ends = |during: &dyn Fn(), what: &str| {
        socket.get_mut().write_all(&bytes[..MIB]).unwrap();
        during();
        socket.get_mut().write_all(&bytes[MIB..]).unwrap();
        assert_eq!(socket.read().unwrap().into_data(), expected.as_bytes(), "{what}");
        // The next one is read from its first byte on.
        socket.send(Message::Binary(b"ab".as_slice().into())).unwrap();
        assert_eq!(socket.read().unwrap().into_data(), b"2 3105".as_slice(), "{what}");
    };
    ends(&|| {}, "nothing");
    ends(&|| drop(server.deploy_file("tests/modules/large_bodies.c")), "a swap");
    if isolation() == "process" {
        ends(&|| assert!(ask(&server, "/die").status >= 500), "the death of its process");
    }
    // Clients that leave leave nothing behind.
    for _ in 0..8 {
        server.websocket("/len").get_mut().write_all(&bytes[..MIB]).unwrap();
    }
    ends(&|| {}, "clients that have left");
}

#[test]
fn large_text_is_checked_while_it_arrives() {
    let server = start(&["--shards", "1"]);
    let (sound, mut wrong) = ("aé€😀".repeat(60_000), "aé€😀".repeat(60_000).into_bytes());
    let mut socket = server.websocket("/echo");
    for byte in frame(0x81, sound.as_bytes()).chunks(77_777) {
        socket.get_mut().write_all(byte).unwrap();
    }
    assert!(socket.read().unwrap().into_text().unwrap().as_str() == sound);
    wrong[500_001] = 0xff;
    let cut = sound.as_bytes().strip_suffix(b"\x80").unwrap();
    let too_big = [&[0x82, 0xff][..], &(1_u64 << 40).to_be_bytes(), &[0; 4]].concat();
    for (bytes, code) in [(frame(0x81, &wrong), 1007), (frame(0x81, cut), 1007), (too_big, 1009)] {
        let mut socket = server.websocket("/echo");
        // The server may close the connection before it has read all.
        let _ = socket.get_mut().write_all(&bytes);
        let Ok(Message::Close(Some(close))) = socket.read() else { panic!("no close frame for {code}") };
        assert_eq!(u16::from(close.code), code);
    }
}

#[test]
fn twelve_large_uploads_at_once_are_all_taken() {
    let server = isolated(&["--shards", "2", "--bodies-bytes-max", "2000000000", "--module-rss-recycle-bytes", "0"]);
    let pid = server.get("/pid").text();
    let body = pattern(60 * MIB);
    let expected = format!("{} {} 0", body.len(), sum(&body));
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| {
                let answer = post(&server, "/take", &body);
                assert_eq!((answer.status, answer.begin.as_str()), (200, expected.as_str()));
            });
        }
        // Another route of the same process answers in between.
        for _ in 0..50 {
            assert_eq!(server.get("/pid").text(), pid);
        }
    });
    nobody_died(&server, &pid);
}

#[test]
fn answers_beyond_the_limit_cost_only_themselves() {
    // Growth is another limit, which replaces a process without a fault of anybody.
    let server = isolated(&["--shards", "4", "--module-rss-recycle-bytes", "0"]);
    let pid = server.get("/pid").text();
    let at_once = |count: usize, target: &str, bytes: usize| {
        std::thread::scope(|scope| {
            let asked: Vec<_> = (0..count).map(|_| scope.spawn(|| ask(&server, target))).collect();
            let answers: Vec<Counted> = asked.into_iter().map(|asked| asked.join().unwrap()).collect();
            answers.iter().for_each(|answer| is_answered(answer, bytes));
            assert!(answers.iter().any(|answer| answer.status == 200), "{}", server.log());
        });
    };
    at_once(4, &format!("/make?bytes={}", 300 * MIB), 300 * MIB);
    at_once(48, &format!("/make?bytes={}", 60 * MIB), 60 * MIB);
    let dir = server.dir.path().join("static");
    let file = std::fs::File::create(dir.join("large.bin")).unwrap();
    file.set_len(600_000_000).unwrap();
    at_once(1, "/file", 600_000_000);
    assert_eq!(server.get("/make?bytes=10").status, 200);
    nobody_died(&server, &pid);
}

#[test]
fn the_limit_of_answers_is_an_answer_with_its_name() {
    let server = isolated(&["--shards", "1", "--module-answers-bytes-max", "20000000"]);
    let pid = server.get("/pid").text();
    let large = ask(&server, "/make?bytes=20000001");
    assert_eq!(large.status, 500);
    is_answered(&large, 0);
    assert_eq!(ask(&server, "/make?bytes=20000000").bytes, 20_000_000);
    // A client that reads nothing has the memory: others hear of it, and those that need little of it are served.
    let mut idle = connect(&server);
    idle.write_all(b"GET /make?bytes=20000000 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    eventually("it is being sent", || idle.peek(&mut [0; 20]).unwrap() > 0);
    let busy = ask(&server, "/make?bytes=15000000");
    assert_eq!(busy.status, 503, "{}", busy.begin);
    is_answered(&busy, 0);
    assert_eq!(ask(&server, "/make?bytes=300000").bytes, 300_000);
    assert_eq!(count(&mut idle).bytes, 20_000_000);
    eventually("the memory is free again", || ask(&server, "/make?bytes=15000000").bytes == 15_000_000);
    nobody_died(&server, &pid);
}

#[test]
fn a_body_that_waits_for_memory_holds_up_nobody_and_may_be_given_up() {
    let body = pattern(30 * MIB);
    let limits = ["--shards", "1", "--bodies-bytes-max", "1", "--route-body-bytes-max", "33554432"];
    let server = isolated(&[&limits[..], &["--handler-timeout-ms", "600000"]].concat());
    let pid = server.get("/pid").text();
    let mut first = connect(&server);
    begin_post(&mut first, "/hold", body.len());
    first.write_all(&body).unwrap();
    eventually("the first is in its handler", || server.get("/holding").text() == "1");
    let mut second = connect(&server);
    begin_post(&mut second, "/hold", body.len());
    second.write_all(&body).unwrap();
    for _ in 0..50 {
        assert_eq!(server.get("/holding").text(), "1", "the second has no memory, and the others do not wait for it");
    }
    assert_eq!(post(&server, "/take", &pattern(MIB)).status, 200, "nor do bodies that are not so large");
    // A reset: one that only ends its half of the connection still gets its answer.
    socket2::SockRef::from(&second).set_linger(Some(Duration::ZERO)).unwrap();
    drop(second);
    server.get("/release");
    assert_eq!(count(&mut first).status, 200);
    eventually("there is room again", || post(&server, "/take", &body).status == 200);
    assert_eq!(server.get("/holding").text(), "1", "the second was never handed over");
    nobody_died(&server, &pid);
}

#[test]
fn a_process_that_dies_leaves_what_it_has_lent_and_loses_what_it_has_borrowed() {
    let server = isolated(&["--shards", "1"]);
    let pid = server.get("/pid").text();
    let mut reader = connect(&server);
    reader.write_all(format!("GET /make?bytes={} HTTP/1.1\r\nHost: x\r\n\r\n", 60 * MIB).as_bytes()).unwrap();
    eventually("it is being sent", || reader.peek(&mut [0; 20]).unwrap() > 0);
    let mut sender = connect(&server);
    begin_post(&mut sender, "/hold", 30 * MIB);
    sender.write_all(&pattern(30 * MIB)).unwrap();
    eventually("it is in its handler", || server.get("/holding").text() == "1");
    support::signal(pid.parse().unwrap(), "KILL");
    assert_eq!(count(&mut sender).status, 502);
    assert_eq!(count(&mut reader).bytes, 60 * MIB);
    eventually("another is there", || server.get("/pid").status == 200 && server.get("/pid").text() != pid);
    let body = pattern(33 * MIB);
    assert_eq!(post(&server, "/take", &body).begin, format!("{} {} 0", body.len(), sum(&body)));
}

#[test]
fn large_answers_leave_by_keep_alive_connections_in_order() {
    let server = start(&["--shards", "1"]);
    let mut client = Client::connect(&server.addr);
    client.stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
    let sizes = [5 * MIB, 10, 33 * MIB, 40_000];
    let requests = sizes.iter().map(|bytes| format!("GET /make?bytes={bytes} HTTP/1.1\r\nHost: x\r\n\r\n"));
    client.send(requests.collect::<String>().as_bytes());
    for bytes in sizes {
        assert!(client.response().body == pattern(bytes), "{bytes} in mode {}", isolation());
    }
}
