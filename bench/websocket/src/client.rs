//! A client's end of a WebSocket (RFC 6455), as little as the measurements need: short unfragmented text messages.

use mio::net::TcpStream;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};

/// One mask for all: it need not be a secret here.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

pub struct Socket {
    stream: TcpStream,
    /// What was received and is not a whole frame yet.
    rest: Vec<u8>,
    frame: Vec<u8>,
}

/// Opens `count` WebSockets.
pub fn connect(port: u16, path: &str, count: usize) -> io::Result<Vec<Socket>> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    open(port, &request, "HTTP/1.1 101", count)
}

/// Opens `count` connections and asks for `/healthz` on each.
pub fn asked_once(port: u16, count: usize) -> io::Result<Vec<Socket>> {
    open(port, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", "HTTP/1.1 200", count)
}

fn open(port: u16, request: &str, wanted: &str, count: usize) -> io::Result<Vec<Socket>> {
    (0..count)
        .map(|number| {
            // Each address has some 28,000 ports of its own.
            let address = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 1 + (number / 20_000) as u8), port));
            let mut stream = std::net::TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            stream.write_all(request.as_bytes())?;
            let mut head = Vec::new();
            let mut piece = [0; 1024];
            while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                match stream.read(&mut piece)? {
                    0 => return Err(io::Error::other("closed during the handshake")),
                    read => head.extend_from_slice(&piece[..read]),
                }
            }
            if !head.starts_with(wanted.as_bytes()) {
                return Err(io::Error::other(format!("answered {}", String::from_utf8_lossy(&head))));
            }
            stream.set_nonblocking(true)?;
            Ok(Socket { stream: TcpStream::from_std(stream), rest: Vec::new(), frame: Vec::new() })
        })
        .collect()
}

impl Socket {
    pub fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// Sends a text message of up to 65,535 bytes.
    pub fn send(&mut self, text: &[u8]) -> io::Result<()> {
        self.frame.clear();
        self.frame.push(0x81);
        match u8::try_from(text.len()) {
            Ok(length @ 0..=125) => self.frame.push(0x80 | length),
            _ => {
                self.frame.push(0x80 | 126);
                self.frame.extend(u16::try_from(text.len()).map_err(io::Error::other)?.to_be_bytes());
            }
        }
        self.frame.extend(MASK);
        self.frame.extend(text.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        self.stream.write_all(&self.frame)
    }

    /// Reads all there is, and gives the number of whole messages.
    pub fn receive(&mut self) -> io::Result<usize> {
        let mut piece = [0; 16 * 1024];
        loop {
            match self.stream.read(&mut piece) {
                Ok(0) => return Err(io::Error::other("closed by the server")),
                Ok(read) => self.rest.extend_from_slice(&piece[..read]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        let (mut at, mut messages) = (0, 0);
        while let Some((is_message, length)) = frame(&self.rest[at..])? {
            messages += usize::from(is_message);
            at += length;
        }
        self.rest.drain(..at);
        Ok(messages)
    }
}

/// Whether the frame at the front is a message, and its length; `None`: it is not whole.
fn frame(bytes: &[u8]) -> io::Result<Option<(bool, usize)>> {
    let (head, length) = match bytes {
        [_, length @ 0..=125, ..] => (2, usize::from(*length)),
        [_, 126, high, low, ..] => (4, usize::from(u16::from_be_bytes([*high, *low]))),
        [_, 127..=255, ..] => return Err(io::Error::other("a frame that is masked or too long")),
        _ => return Ok(None),
    };
    let kind = bytes[0];
    match kind {
        0x81 | 0x82 | 0x89 => Ok((bytes.len() >= head + length).then_some((kind != 0x89, head + length))),
        _ => Err(io::Error::other(format!("a frame that begins with {kind:#04x}"))),
    }
}
