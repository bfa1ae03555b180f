//! One end of a WebSocket that is free to break every rule.

use crate::support::{PATIENCE, Server, module, read_some};
use std::io::Write;
use std::net::{Shutdown, TcpStream};

pub const CONTINUATION: u8 = 0x0;
pub const TEXT: u8 = 0x1;
pub const BINARY: u8 = 0x2;
pub const CLOSE: u8 = 0x8;
pub const PING: u8 = 0x9;
pub const PONG: u8 = 0xa;
/// The last frame of a message.
pub const FIN: u8 = 0x80;

/// A server that echoes on /ws, counts its sockets on /counts and their messages on /heard.
pub fn lab() -> Server {
    lab_with(&[])
}

pub fn lab_with(args: &[&str]) -> Server {
    let server = Server::with(args);
    let code = r#"
#include <stdatomic.h>
static atomic_int opened, closed, heard;
static void on_open(struct cweb_context *c, websocket_t *w) { (void)c; (void)w; opened++; }
static void on_message(struct cweb_context *c, websocket_t *w, const char *m, size_t n) { (void)c; heard++;
  if (n == 5 && !memcmp(m, "close", 5)) { w->close(w); return; } w->send(w, m, n); }
static void on_close(struct cweb_context *c, websocket_t *w) { (void)c; (void)w; closed++; }
static int counts(struct cweb_context *c, http_request_t *q, http_response_t *r) { (void)c; (void)q; snprintf(r->body, HTTP_RESPONSE_SIZE, "%d %d", opened, closed); return 0; }
static int messages(struct cweb_context *c, http_request_t *q, http_response_t *r) { (void)c; (void)q; snprintf(r->body, HTTP_RESPONSE_SIZE, "%d", heard); return 0; }
"#;
    let fields = r#".websockets = {{"/ws", on_open, on_message, on_close}}, .ws_size = 1,"#;
    server.deploy(&module(
        "lab",
        code,
        r#"{"/counts", "GET", counts, NONE}, {"/heard", "GET", messages, NONE}"#,
        2,
        fields,
    ));
    server
}

/// A masked frame.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let mut out = header(first, payload.len() as u64);
    out.extend_from_slice(&MASK);
    out.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, key)| byte ^ key));
    out
}

/// The start of a masked frame, before its mask.
pub fn header(first: u8, length: u64) -> Vec<u8> {
    let mut out = vec![first];
    match length {
        0..=125 => out.push(0x80 | length as u8),
        126..=65_535 => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            out.push(0x80 | 127);
            out.extend_from_slice(&length.to_be_bytes());
        }
    }
    out
}

/// A close frame with `code`.
pub fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    frame(FIN | CLOSE, &[&code.to_be_bytes(), reason].concat())
}

pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub const FIELDS: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n";

/// A client.
pub struct Peer {
    pub stream: TcpStream,
    received: Vec<u8>,
}

impl Peer {
    /// Connects and sends a handshake with `behind` in the same packet.
    pub fn open_with(server: &Server, behind: &[u8]) -> Self {
        Self::shaken(server, "", behind).0
    }

    /// The same with further header fields in the handshake; and the head of the answer.
    pub fn shaken(server: &Server, fields: &str, behind: &[u8]) -> (Self, String) {
        let stream = TcpStream::connect(&server.addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut peer = Self { stream, received: Vec::new() };
        let head = format!("GET /ws HTTP/1.1\r\nHost: x\r\n{FIELDS}{fields}\r\n");
        peer.send(&[head.as_bytes(), behind].concat());
        let end = loop {
            if let Some(at) = peer.received.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            assert!(peer.fill(), "no answer to the handshake");
        };
        let head: Vec<u8> = peer.received.drain(..end).collect();
        let head = String::from_utf8(head).unwrap();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        (peer, head)
    }

    pub fn open(server: &Server) -> Self {
        Self::open_with(server, b"")
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Sends one byte at a time.
    pub fn dribble(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if self.stream.write_all(&[*byte]).is_err() {
                return; // The server has heard enough.
            }
        }
    }

    fn fill(&mut self) -> bool {
        let mut chunk = [0; 64 * 1024];
        let count = read_some(&mut self.stream, &mut chunk);
        self.received.extend_from_slice(&chunk[..count]);
        count > 0
    }

    fn take(&mut self, count: usize) -> Vec<u8> {
        while self.received.len() < count {
            assert!(self.fill(), "cut off after {:x?}", self.received);
        }
        self.received.drain(..count).collect()
    }

    /// The next frame: its first byte, and its payload. §5.1: a server's frames are not masked; §5.2: lengths are minimal.
    pub fn read(&mut self) -> (u8, Vec<u8>) {
        let (first, payload) = self.read_any();
        assert_eq!(first & 0x70, 0, "a reserved bit is set");
        (first, payload)
    }

    /// The same, with reserved bits.
    pub fn read_any(&mut self) -> (u8, Vec<u8>) {
        let head = self.take(2);
        assert_eq!(head[1] & 0x80, 0, "a server's frame is masked");
        let length = match head[1] {
            126 => {
                let length = u64::from(u16::from_be_bytes(self.take(2).try_into().unwrap()));
                assert!(length > 125);
                length
            }
            127 => {
                let length = u64::from_be_bytes(self.take(8).try_into().unwrap());
                assert!(length > 65_535);
                length
            }
            short => u64::from(short),
        };
        let payload = self.take(usize::try_from(length).unwrap());
        (head[0], payload)
    }

    pub fn expect(&mut self, first: u8, payload: &[u8]) {
        let (found, content) = self.read();
        assert!(
            found == first && content == payload,
            "{found:x} {:?} instead of {first:x} {:?}",
            String::from_utf8_lossy(&content[..content.len().min(100)]),
            String::from_utf8_lossy(&payload[..payload.len().min(100)])
        );
    }

    /// The next frame is a close frame with `code`, or without one; the server ends the connection after it (§7.1.1).
    pub fn expect_close(&mut self, code: Option<u16>) {
        let (first, payload) = self.read();
        assert_eq!(first, FIN | CLOSE, "{payload:x?}");
        let found = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
        assert_eq!(found, code, "{:?}", String::from_utf8_lossy(payload.get(2..).unwrap_or_default()));
        assert!(std::str::from_utf8(payload.get(2..).unwrap_or_default()).is_ok());
        self.expect_end();
    }

    /// The server ends the connection with nothing more to say, and so that all it said can be read.
    pub fn expect_end(&mut self) {
        assert!(self.received.is_empty() && !self.fill(), "{:x?}", self.received);
    }

    pub fn finish(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }
}

/// Each of `inputs` is answered by the close code, in one piece, with more behind it, and one byte at a time.
pub fn fails(server: &Server, inputs: &[Vec<u8>], code: u16) {
    for input in inputs {
        let more = [input.as_slice(), &frame(FIN | TEXT, b"more")].concat();
        for bytes in [input, &more] {
            let mut peer = Peer::open(server);
            peer.send(bytes);
            peer.expect_close(Some(code));
        }
        let mut peer = Peer::open(server);
        peer.dribble(input);
        peer.expect_close(Some(code));
    }
}

/// `input` is answered by the frames in `answers`, in one piece and one byte at a time; the connection goes on.
pub fn answers(server: &Server, input: &[u8], answers: &[(u8, &[u8])]) {
    for way in 0..2 {
        let mut peer = Peer::open(server);
        if way == 0 {
            peer.send(input);
        } else {
            peer.dribble(input);
        }
        // Pongs are made when a frame is read, echoes by the module: each kind is in order.
        let (mut pongs, mut echoes) = (Vec::new(), Vec::new());
        for _ in answers {
            let (first, payload) = peer.read();
            if first == FIN | PONG { pongs.push((first, payload)) } else { echoes.push((first, payload)) }
        }
        let wanted = |pong: bool| answers.iter().filter(move |(first, _)| (*first == FIN | PONG) == pong);
        assert!(wanted(true).map(|(first, payload)| (*first, payload.to_vec())).eq(pongs));
        assert!(wanted(false).map(|(first, payload)| (*first, payload.to_vec())).eq(echoes));
        peer.send(&close(1000, b""));
        peer.expect_close(Some(1000));
    }
}
