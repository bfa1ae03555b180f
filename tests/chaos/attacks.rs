//! What a hostile client does. An attack may find its connection cut at any point; only what it is answered, if it is
//! answered, is checked.

#![allow(unreachable_pub)] // For the test beside it.

use socket2::SockRef;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// One attack on the server at an address.
pub type Attack = fn(&str, &mut Random);

/// All of them.
pub const ATTACKS: [Attack; 17] = [
    garbage,
    tls_hello,
    reset_within_a_request,
    reset_within_an_answer,
    flood,
    stall,
    trickle,
    half_close,
    huge_head,
    announced_bodies,
    chunk_bombs,
    websocket_garbage,
    websocket_left,
    connect_and_close,
    uploads_that_break_off,
    streams_left,
    subscribers_left,
];

/// Numbers that follow from a seed (xorshift64*).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.next() >> 16) as usize % end
    }

    fn bytes(&mut self, max: usize) -> Vec<u8> {
        let count = 1 + self.below(max);
        (0..count).map(|_| self.next() as u8).collect()
    }
}

/// No attack waits longer for anything: many times the server's time-outs, since a busy machine adds to them.
const WAIT: Duration = Duration::from_secs(100);

const GET_HELLO: &[u8] = b"GET /hello HTTP/1.1\r\nHost: h\r\n\r\n";
const GET_BIG: &[u8] = b"GET /big HTTP/1.1\r\nHost: h\r\n\r\n";
const POST_HEAD: &[u8] = b"POST /length HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n";
const HANDSHAKE: &[u8] = b"GET /ws HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

fn connect(addr: &str) -> TcpStream {
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(WAIT)).unwrap();
    stream.set_write_timeout(Some(WAIT)).unwrap();
    stream
}

/// Closes with RST instead of FIN.
pub fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
}

/// Reads until the server closes; what came, and whether it was closed in time.
fn read_all(stream: &mut TcpStream) -> (Vec<u8>, bool) {
    let (mut all, mut chunk, start) = (Vec::new(), [0; 16 * 1024], Instant::now());
    while start.elapsed() < WAIT {
        match stream.read(&mut chunk) {
            Ok(0) => return (all, true),
            Ok(count) => all.extend_from_slice(&chunk[..count]),
            // A reset ends it as well: there were bytes that the server had no use for.
            Err(error) => return (all, error.kind() == std::io::ErrorKind::ConnectionReset),
        }
    }
    (all, false)
}

/// Sends `bytes`; the answer must begin with one of `statuses`, and the connection be closed. A reset may take the
/// answer along (RFC 9112 §9.6).
fn refused(addr: &str, bytes: &[u8], statuses: &[&str]) {
    let mut stream = connect(addr);
    let _ = stream.write_all(bytes);
    let (answer, closed) = read_all(&mut stream);
    let text = String::from_utf8_lossy(&answer);
    assert!(closed, "left open after: {text}");
    assert!(
        answer.is_empty() || statuses.iter().any(|status| text.starts_with(&format!("HTTP/1.1 {status} "))),
        "{text}"
    );
}

fn garbage(addr: &str, random: &mut Random) {
    for _ in 0..50 {
        let mut stream = connect(addr);
        let bytes = random.bytes(4096);
        let _ = stream.write_all(&bytes);
        match random.below(3) {
            0 => drop(stream),
            1 => reset(stream),
            _ => {
                // Without a line end the server may wait for one until its time-out: FIN ends it.
                let _ = stream.shutdown(Shutdown::Write);
                assert!(read_all(&mut stream).1, "left open after garbage");
            }
        }
    }
}

fn tls_hello(addr: &str, random: &mut Random) {
    // A record of type 22, TLS 1.0, with a ClientHello of TLS 1.2 in it, which has a line end somewhere.
    let mut hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec();
    hello.extend(random.bytes(500));
    hello.extend_from_slice(b"\r\n\r\n");
    for _ in 0..10 {
        refused(addr, &hello, &["400", "414"]);
    }
}

fn reset_within_a_request(addr: &str, random: &mut Random) {
    for _ in 0..100 {
        let mut stream = connect(addr);
        let request = [GET_HELLO, POST_HEAD, b"half of a body"].concat();
        let _ = stream.write_all(&request[..1 + random.below(request.len() - 1)]);
        if random.below(2) == 0 {
            thread::sleep(Duration::from_millis(1));
        }
        reset(stream);
    }
}

fn reset_within_an_answer(addr: &str, random: &mut Random) {
    for _ in 0..30 {
        let mut stream = connect(addr);
        let _ = stream.write_all(&GET_BIG.repeat(20));
        let _ = stream.read(&mut vec![0; 1 + random.below(30_000)]);
        reset(stream);
    }
}

/// Requests without end, and no answer is taken: the server stops reading, and in the end cuts the connection.
fn flood(addr: &str, _random: &mut Random) {
    let mut streams: Vec<TcpStream> = (0..5).map(|_| connect(addr)).collect();
    let requests = GET_BIG.repeat(200);
    for stream in &mut streams {
        stream.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
        let mut sent = 0;
        while let Ok(count) = stream.write(&requests) {
            sent += count;
            assert!(sent < 256 * 1024 * 1024, "the server takes requests without end");
        }
    }
    streams.into_iter().for_each(reset);
}

/// Half of a request and then nothing: 408.
fn stall(addr: &str, _random: &mut Random) {
    let halves: [&[u8]; 3] = [b"GET /hello HT", b"GET /hello HTTP/1.1\r\nHost: h\r\n", POST_HEAD];
    thread::scope(|scope| {
        for half in halves {
            scope.spawn(move || refused(addr, half, &["408"]));
        }
    });
}

/// Byte by byte, for as long as the server puts up with it.
fn trickle(addr: &str, _random: &mut Random) {
    let mut stream = connect(addr);
    let start = Instant::now();
    let head = b"GET /hello HTTP/1.1\r\n".iter().chain(b"X: y\r\n".iter().cycle());
    for byte in head {
        if stream.write_all(&[*byte]).is_err() {
            break;
        }
        assert!(start.elapsed() < WAIT, "a head may take for ever");
        thread::sleep(Duration::from_millis(20));
    }
}

/// FIN behind the requests: the answers still come, all of them.
fn half_close(addr: &str, random: &mut Random) {
    for _ in 0..20 {
        let count = 1 + random.below(20);
        let mut stream = connect(addr);
        stream.write_all(&GET_HELLO.repeat(count)).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let (answers, closed) = read_all(&mut stream);
        let text = String::from_utf8(answers).unwrap();
        assert!(closed && text.matches("HTTP/1.1 200 OK").count() == count, "{count} requests: {text}");
    }
}

fn huge_head(addr: &str, _random: &mut Random) {
    let long = "y".repeat(64 * 1024);
    refused(addr, format!("GET /{long} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes(), &["414"]);
    refused(addr, format!("GET / HTTP/1.1\r\nHost: h\r\nX: {long}\r\n\r\n").as_bytes(), &["431"]);
    refused(addr, format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(5_000)).as_bytes(), &["431"]);
}

/// Bodies that are announced and don't come cost the server nothing.
fn announced_bodies(addr: &str, random: &mut Random) {
    refused(addr, b"POST /length HTTP/1.1\r\nHost: h\r\nContent-Length: 999999999999\r\n\r\n", &["413"]);
    let mut streams: Vec<TcpStream> = (0..50).map(|_| connect(addr)).collect();
    for stream in &mut streams {
        let _ = stream.write_all(POST_HEAD);
        let _ = stream.write_all(&random.bytes(1000));
    }
    streams.into_iter().for_each(reset);
}

fn chunk_bombs(addr: &str, random: &mut Random) {
    let chunked = b"POST /length HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n".as_slice();
    let bodies: [(&[u8], &str); 4] = [
        (b"ffffffffffffffff\r\n", "413"),
        (b"fffffffffffffffff\r\n", "400"),
        (b"-1\r\n", "400"),
        (b"1\r\nab\r\n", "400"),
    ];
    for (body, status) in bodies {
        refused(addr, &[chunked, body].concat(), &[status]);
    }
    refused(addr, &[chunked, &b"1;".repeat(5_000)].concat(), &["400"]);
    // Chunks of one byte until the body is too large, or enough.
    let chunks = b"1\r\nx\r\n".repeat(50_000);
    let mut stream = connect(addr);
    let _ = stream.write_all(&[chunked, &chunks[..chunks.len() - random.below(100)]].concat());
    reset(stream);
}

fn upgraded(addr: &str) -> TcpStream {
    let mut stream = connect(addr);
    stream.write_all(HANDSHAKE).unwrap();
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&head));
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
    stream
}

fn websocket_garbage(addr: &str, random: &mut Random) {
    for _ in 0..30 {
        let mut stream = upgraded(addr);
        // A reserved bit, so that it is wrong whatever follows; some begin with a good message.
        let good = b"\x81\x85\x00\x00\x00\x00hello".as_slice();
        let start: &[u8] = if random.below(2) == 0 { good } else { b"" };
        let _ = stream.write_all(&[start, b"\xc1\x80\x00\x00\x00\x00", &random.bytes(2000)].concat());
        match random.below(3) {
            0 => reset(stream),
            1 => drop(stream),
            _ => {
                let (answer, closed) = read_all(&mut stream);
                let close = [0x88, 2, 3, 0xea]; // 1002
                assert!(closed, "left open after a fault");
                assert!(answer.is_empty() || answer.windows(4).any(|window| window == close), "{answer:x?}");
            }
        }
    }
}

/// Messages whose echo nobody takes, fragments without an end, announced payloads; then gone.
fn websocket_left(addr: &str, random: &mut Random) {
    let large = [b"\x82\xfe\xff\xff\x00\x00\x00\x00".as_slice(), &[7; 65_535]].concat();
    let sent: [&[u8]; 4] = [
        &large,
        b"\x01\x81\x00\x00\x00\x00a\x00\x81\x00\x00\x00\x00b",
        b"\x82\xff\x00\x00\x00\x00\x00\xff\x00\x00\x00\x00\x00\x00x",
        b"\x89\x84\x00\x00\x00\x00ping",
    ];
    for bytes in sent {
        let mut stream = upgraded(addr);
        stream.set_write_timeout(Some(Duration::from_millis(50))).unwrap();
        for _ in 0..1 + random.below(50) {
            if stream.write_all(bytes).is_err() {
                break;
            }
        }
        if random.below(2) == 0 { reset(stream) } else { drop(stream) }
    }
}

fn connect_and_close(addr: &str, random: &mut Random) {
    for _ in 0..500 {
        let stream = connect(addr);
        if random.below(2) == 0 { reset(stream) } else { drop(stream) }
    }
}

const UPLOAD: &[u8] = b"POST /count HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";

/// Bodies for a handler that reads them as they come: cut, broken, too slow, and never read by who sends them.
fn uploads_that_break_off(addr: &str, random: &mut Random) {
    for _ in 0..12 {
        let mut stream = connect(addr);
        let _ = stream.write_all(UPLOAD);
        let piece = [b"2000\r\n".as_slice(), &[b'u'; 0x2000], b"\r\n"].concat();
        for _ in 0..random.below(40) {
            let _ = stream.write_all(&piece);
        }
        match random.below(5) {
            0 => reset(stream),
            1 => drop(stream),
            2 => {
                let _ = stream.write_all(b"not a size\r\n");
                assert!(read_all(&mut stream).1, "left open after broken framing");
            }
            3 => {
                let _ = stream.shutdown(Shutdown::Write);
                assert!(read_all(&mut stream).1, "left open after half a body");
            }
            _ => {
                let _ = stream.write_all(b"0\r\n\r\n");
                let _ = stream.shutdown(Shutdown::Write);
                let (answer, _) = read_all(&mut stream);
                // An attacker that was kept waiting itself is too slow: it is told so, or cut off.
                let is_known = |status: &str| answer.starts_with(format!("HTTP/1.1 {status}").as_bytes());
                assert!(
                    answer.is_empty() || ["200", "408", "503"].into_iter().any(is_known),
                    "{}",
                    String::from_utf8_lossy(&answer)
                );
            }
        }
    }
}

/// Answers in pieces whose clients leave, or read nothing.
fn streams_left(addr: &str, random: &mut Random) {
    for _ in 0..12 {
        let mut stream = connect(addr);
        let _ = stream.write_all(b"GET /flow HTTP/1.1\r\nHost: h\r\n\r\n");
        let mut some = vec![0; 1 + random.below(300_000)];
        let _ = stream.read(&mut some);
        match random.below(3) {
            0 => reset(stream),
            1 => drop(stream),
            _ => thread::sleep(Duration::from_millis(random.below(50) as u64)),
        }
    }
}

/// Detached answers whose clients leave.
fn subscribers_left(addr: &str, random: &mut Random) {
    let mut streams: Vec<TcpStream> = (0..20).map(|_| connect(addr)).collect();
    for stream in &mut streams {
        let _ = stream.write_all(b"GET /subscribe HTTP/1.1\r\nHost: h\r\n\r\n");
    }
    for mut stream in streams {
        let mut some = [0; 512];
        if random.below(2) == 0 {
            let _ = stream.read(&mut some);
        }
        if random.below(2) == 0 { reset(stream) } else { drop(stream) }
    }
}
