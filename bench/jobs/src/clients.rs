//! Many connections on one thread, so that the load takes little from the server.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// What came of the submissions.
pub(crate) struct Submitted {
    pub(crate) accepted: u64,
    pub(crate) errors: u64,
    pub(crate) elapsed: Duration,
}

fn connect(addr: &str) -> TcpStream {
    let stream = TcpStream::connect(addr).expect("a connection");
    stream.set_nodelay(true).expect("nodelay");
    stream
}

/// Waits until some of the streams can be read; tells which.
fn readable(streams: &[libc::pollfd], ready: &mut Vec<usize>, wait: Duration) {
    let mut polled = streams.to_vec();
    let wait_ms = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the pointer and the length are those of one vector.
    unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, wait_ms) };
    ready.clear();
    ready.extend(polled.iter().enumerate().filter(|(_, entry)| entry.revents != 0).map(|(index, _)| index));
}

fn poll_entry(stream: &TcpStream) -> libc::pollfd {
    libc::pollfd { fd: stream.as_raw_fd(), events: libc::POLLIN, revents: 0 }
}

/// `count` keep-alive connections, each of which posts the job `body` again as soon as it has its answer.
pub(crate) fn submit(addr: &str, count: usize, body: &str, seconds: u64) -> Submitted {
    let request = format!("POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let mut clients: Vec<(TcpStream, Vec<u8>)> = (0..count).map(|_| (connect(addr), Vec::new())).collect();
    let entries: Vec<_> = clients.iter().map(|(stream, _)| poll_entry(stream)).collect();
    let (begin, mut ready, mut chunk) = (Instant::now(), Vec::new(), [0; 4096]);
    let mut outcome = Submitted { accepted: 0, errors: 0, elapsed: Duration::ZERO };
    for (stream, _) in &mut clients {
        stream.write_all(request.as_bytes()).expect("a request is sent");
    }
    let length = Duration::from_secs(seconds);
    while begin.elapsed() < length {
        readable(&entries, &mut ready, Duration::from_millis(100));
        for index in &ready {
            let (stream, buffer) = &mut clients[*index];
            let count = stream.read(&mut chunk).expect("bytes of an answer");
            assert!(count > 0, "the server closed a connection");
            buffer.extend_from_slice(&chunk[..count]);
            if let Some(accepted) = answer(buffer) {
                buffer.clear();
                *if accepted { &mut outcome.accepted } else { &mut outcome.errors } += 1;
                stream.write_all(request.as_bytes()).expect("a request is sent");
            }
        }
    }
    outcome.elapsed = begin.elapsed();
    outcome
}

/// Whether a whole answer says 200.
fn answer(buffer: &[u8]) -> Option<bool> {
    let text = std::str::from_utf8(buffer).expect("an answer is text");
    let (head, body) = text.split_once("\r\n\r\n")?;
    let length = head.split("\r\nContent-Length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
    let length: usize = length.and_then(|length| length.parse().ok()).expect("a length");
    (body.len() >= length).then(|| head.starts_with("HTTP/1.1 200 "))
}

/// A watcher of a job's events.
struct Watcher {
    stream: TcpStream,
    buffer: Vec<u8>,
    events: u64,
    bytes: u64,
    closed: bool,
}

/// What the watchers got.
pub(crate) struct Watched {
    /// Events of all watchers together.
    pub(crate) events: u64,
    /// Watchers that did not get as much as the first, or were cut off.
    pub(crate) differing: usize,
    /// From the first event after the one that all had at the beginning, to the last close frame.
    pub(crate) elapsed: Duration,
}

/// Sockets on `/jobs/ws`, each of which has got the event `created`.
pub(crate) struct Watchers {
    watchers: Vec<Watcher>,
}

impl Watchers {
    pub(crate) fn open(addr: &str, uuid: &str, count: usize) -> Self {
        let request = format!(
            "GET /jobs/ws?id={uuid} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        let watchers = (0..count).map(|_| {
            let mut stream = connect(addr);
            stream.write_all(request.as_bytes()).expect("a handshake is sent");
            Watcher { stream, buffer: Vec::new(), events: 0, bytes: 0, closed: false }
        });
        let mut watchers: Vec<Watcher> = watchers.collect();
        for watcher in &mut watchers {
            watcher.handshake();
            while watcher.events == 0 {
                watcher.read();
            }
            watcher.stream.set_nonblocking(true).expect("nonblocking");
        }
        Self { watchers }
    }

    /// Reads until the server has closed all of them.
    pub(crate) fn follow(&mut self) -> Watched {
        let entries: Vec<_> = self.watchers.iter().map(|watcher| poll_entry(&watcher.stream)).collect();
        let (mut first, mut ready) = (None, Vec::new());
        loop {
            let open: Vec<usize> = (0..entries.len()).filter(|index| !self.watchers[*index].closed).collect();
            if open.is_empty() {
                break;
            }
            let polled: Vec<_> = open.iter().map(|index| entries[*index]).collect();
            readable(&polled, &mut ready, Duration::from_secs(60));
            assert!(!ready.is_empty(), "{} watchers wait in vain", open.len());
            first.get_or_insert_with(Instant::now);
            for index in &ready {
                self.watchers[open[*index]].read();
            }
        }
        let same =
            |watcher: &&Watcher| (watcher.events, watcher.bytes) == (self.watchers[0].events, self.watchers[0].bytes);
        Watched {
            events: self.watchers.iter().map(|watcher| watcher.events).sum(),
            differing: self.watchers.len() - self.watchers.iter().filter(same).count(),
            elapsed: first.map_or(Duration::ZERO, |first| first.elapsed()),
        }
    }
}

impl Watcher {
    fn handshake(&mut self) {
        loop {
            if let Some(end) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                assert!(self.buffer.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&self.buffer));
                self.buffer.drain(..end + 4);
                return self.parse();
            }
            self.fill();
        }
    }

    fn fill(&mut self) {
        let mut chunk = [0; 64 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(0) => self.closed = true,
            Ok(count) => self.buffer.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => self.closed = true,
        }
    }

    fn read(&mut self) {
        self.fill();
        self.parse();
    }

    /// Counts the frames that are whole (RFC 6455 §5.2; the server's have no mask).
    fn parse(&mut self) {
        let mut at = 0;
        while let [first, second, rest @ ..] = &self.buffer[at..] {
            let (head, length) = match (second & 0x7F, rest) {
                (126, [high, low, ..]) => (4, usize::from(u16::from_be_bytes([*high, *low]))),
                (126 | 127, _) => break, // An event of this bench is never longer.
                (length, _) => (2, usize::from(length)),
            };
            if self.buffer.len() < at + head + length {
                break;
            }
            match first & 0x0F {
                1 => (self.events, self.bytes) = (self.events + 1, self.bytes + length as u64),
                8 => self.closed = true,
                _ => {}
            }
            at += head + length;
        }
        self.buffer.drain(..at);
    }
}
