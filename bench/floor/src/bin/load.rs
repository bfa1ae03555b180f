//! The load of `bench/run`: `load PORT CONNECTIONS SECONDS DEPTH <REQUESTS`.
//!
//! REQUESTS are the bytes of DEPTH requests. Each connection sends them in one write, waits for DEPTH answers, and sends them again.
//! Every answer must equal the first, but for its date. One ring: a turn enters the kernel once, for all its sends and the wait. So a
//! core of load saturates a core of a server, which wrk does not.
//!
//! The last line is `RESULT requests microseconds errors p50 p99 p99.9`, percentiles in microseconds from a write to its last answer.

use floor::buffers::{Buffers, GROUP};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};
use uring::squeue::Flags;
use uring::types::{Fd, SubmitArgs, Timespec};
use uring::{IoUring, cqueue, opcode, squeue};

const RING_ENTRIES: u32 = 1024;
/// Longest wait: the load ends at its time even if the server answers nothing.
const WAIT: Timespec = Timespec::new().nsec(20_000_000);
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// The first answer, which all others must equal but for the bytes of its date.
struct Expected {
    bytes: Vec<u8>,
    date: std::ops::Range<usize>,
}

struct Connection {
    stream: TcpStream,
    /// Counts the connections at this place, so that a late completion is known as such.
    generation: u32,
    /// Answers that are still to come, and the bytes of the next one that have come.
    left: usize,
    offset: usize,
    sent_at: Instant,
}

struct Load {
    ring: IoUring,
    buffers: Buffers,
    port: u16,
    depth: usize,
    requests: &'static [u8],
    expected: Expected,
    connections: Vec<Connection>,
    answered: usize,
    errors: usize,
    /// Microseconds of each write to its last answer.
    latencies: Vec<u32>,
}

fn main() -> io::Result<()> {
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let &[port, connections, seconds, depth @ 1..=usize::MAX] = numbers.as_slice() else {
        eprintln!("usage: load PORT CONNECTIONS SECONDS DEPTH <REQUESTS");
        std::process::exit(2);
    };
    let mut requests = Vec::new();
    io::stdin().read_to_end(&mut requests)?;
    let port = u16::try_from(port).map_err(io::Error::other)?;
    let ring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_submit_all()
        .setup_cqsize(4 * RING_ENTRIES)
        .build(RING_ENTRIES)?;
    let buffers = Buffers::register(&ring)?;
    let expected = Expected::first(port, &requests)?;
    let connections = (0..connections).map(|_| Connection::open(port)).collect::<io::Result<_>>()?;
    let (answered, errors, latencies) = (0, 0, Vec::with_capacity(1 << 20));
    let requests = requests.leak();
    let mut load = Load { ring, buffers, port, depth, requests, expected, connections, answered, errors, latencies };
    let began = Instant::now();
    load.run(began, Duration::from_secs(seconds as u64))?;
    load.report(began.elapsed());
    Ok(())
}

impl Expected {
    /// Asks once and reads the first answer.
    fn first(port: u16, requests: &[u8]) -> io::Result<Self> {
        let mut stream = Connection::open(port)?.stream;
        stream.set_read_timeout(Some(READ_TIMEOUT))?;
        stream.write_all(requests)?;
        let mut bytes = Vec::new();
        loop {
            let mut more = [0; 4096];
            let count = stream.read(&mut more)?;
            if count == 0 {
                return Err(io::Error::other("the server has closed the first connection"));
            }
            bytes.extend_from_slice(&more[..count]);
            let text = String::from_utf8_lossy(&bytes).to_ascii_lowercase();
            let Some(head) = text.find("\r\n\r\n") else { continue };
            if !text.starts_with("http/1.1 200 ") {
                return Err(io::Error::other(format!("the first answer is {text}")));
            }
            let length: usize = field(&text[..head], "content-length")
                .and_then(|range| text[range].trim().parse().ok())
                .ok_or_else(|| io::Error::other("the first answer has no Content-Length"))?;
            if bytes.len() >= head + 4 + length {
                bytes.truncate(head + 4 + length);
                return Ok(Self { date: field(&text[..head], "date").unwrap_or(0..0), bytes });
            }
        }
    }

    /// Whether an answer may have `bytes` at `offset`.
    fn fits(&self, offset: usize, bytes: &[u8]) -> bool {
        let end = offset + bytes.len();
        let same = |from: usize, to: usize| {
            let (from, to) = (from.max(offset), to.min(end));
            from >= to || self.bytes[from..to] == bytes[from - offset..to - offset]
        };
        same(0, self.date.start) && same(self.date.end, self.bytes.len())
    }
}

/// Where the value of a field is in `head`, which is in lower case.
fn field(head: &str, name: &str) -> Option<std::ops::Range<usize>> {
    let start = head.find(&format!("\r\n{name}:"))? + name.len() + 3;
    Some(start..head[start..].find("\r\n").map_or(head.len(), |length| start + length))
}

impl Connection {
    fn open(port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, generation: 0, left: 0, offset: 0, sent_at: Instant::now() })
    }
}

impl Load {
    fn run(&mut self, began: Instant, duration: Duration) -> io::Result<()> {
        for index in 0..self.connections.len() {
            self.begin(index, began)?;
        }
        let mut taken = [const { std::mem::MaybeUninit::uninit() }; 1024];
        loop {
            self.submit(1)?;
            let now = Instant::now();
            if now - began >= duration {
                return Ok(());
            }
            // A statement of its own: it frees the places of the completions before the kernel is entered again.
            let entries = self.ring.completion().fill(&mut taken);
            for entry in entries {
                self.completed(entry, now)?;
            }
        }
    }

    fn submit(&mut self, wanted: usize) -> io::Result<()> {
        self.buffers.publish();
        match self.ring.submitter().submit_with_args(wanted, &SubmitArgs::new().timespec(&WAIT)) {
            Err(error)
                if !matches!(error.raw_os_error(), Some(libc::ETIME | libc::EINTR | libc::EAGAIN | libc::EBUSY)) =>
            {
                Err(error)
            }
            _ => Ok(()),
        }
    }

    fn queue(&mut self, entry: squeue::Entry, index: usize) -> io::Result<()> {
        let entry = entry.user_data(u64::from(self.connections[index].generation) << 32 | index as u64);
        while self.ring.submission().is_full() {
            self.submit(0)?;
        }
        // SAFETY: a send names `requests`, which is never freed, and a receive names registered buffers.
        unsafe { self.ring.submission().push(&entry) }.map_err(|_| io::Error::other("the submission queue is full"))
    }

    /// Receives from now on, and sends.
    fn begin(&mut self, index: usize, now: Instant) -> io::Result<()> {
        let fd = Fd(self.connections[index].stream.as_raw_fd());
        self.queue(opcode::RecvMulti::new(fd, GROUP).build(), index)?;
        self.send(index, now)
    }

    fn send(&mut self, index: usize, now: Instant) -> io::Result<()> {
        let connection = &mut self.connections[index];
        connection.left = self.depth;
        connection.sent_at = now;
        let fd = Fd(connection.stream.as_raw_fd());
        // MSG_WAITALL: the kernel goes on where a send has stopped. A failed send also ends the receive, and the end of the receive is counted as the error.
        let flags = libc::MSG_WAITALL | libc::MSG_NOSIGNAL;
        let entry = opcode::Send::new(fd, self.requests.as_ptr(), self.requests.len() as u32).flags(flags).build();
        self.queue(entry.flags(Flags::SKIP_SUCCESS), index)
    }

    fn completed(&mut self, entry: &cqueue::Entry, now: Instant) -> io::Result<()> {
        let (index, generation) = (entry.user_data() as u32 as usize, (entry.user_data() >> 32) as u32);
        let is_current = self.connections[index].generation == generation;
        let mut is_good = entry.result() > 0 || entry.result() == -libc::ENOBUFS;
        if let Some((bytes, id)) = self.buffers.received(entry) {
            if is_current {
                is_good =
                    is_good && Self::take(&mut self.connections[index], &self.expected, &mut self.answered, bytes);
            }
            self.buffers.give_back(id);
        }
        if !is_current {
            return Ok(());
        }
        if !is_good {
            self.errors += 1;
            return self.reopen(index, now);
        }
        if self.connections[index].left == 0 {
            let took = now - self.connections[index].sent_at;
            self.latencies.push(took.as_micros().min(u128::from(u32::MAX)) as u32);
            self.send(index, now)?;
        }
        if cqueue::more(entry.flags()) {
            return Ok(());
        }
        let fd = Fd(self.connections[index].stream.as_raw_fd());
        self.queue(opcode::RecvMulti::new(fd, GROUP).build(), index)
    }

    /// Takes received bytes. Returns whether the bytes belong to expected answers.
    fn take(connection: &mut Connection, expected: &Expected, answered: &mut usize, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let (here, rest) = bytes.split_at(bytes.len().min(expected.bytes.len() - connection.offset));
            if connection.left == 0 || !expected.fits(connection.offset, here) {
                return false;
            }
            connection.offset += here.len();
            if connection.offset == expected.bytes.len() {
                connection.offset = 0;
                connection.left -= 1;
                *answered += 1;
            }
            bytes = rest;
        }
        true
    }

    fn reopen(&mut self, index: usize, now: Instant) -> io::Result<()> {
        // Ends the operations on the old socket; the ring holds the socket until then.
        let _ = self.connections[index].stream.shutdown(std::net::Shutdown::Both);
        let generation = self.connections[index].generation.wrapping_add(1);
        // Entries that name the old descriptor must not meet the new socket.
        self.submit(0)?;
        self.connections[index] = Connection { generation, ..Connection::open(self.port)? };
        self.begin(index, now)
    }

    fn report(&mut self, took: Duration) {
        self.latencies.sort_unstable();
        let percentile = |of: f64| {
            let rank = (self.latencies.len() as f64 * of) as usize;
            self.latencies.get(rank.min(self.latencies.len().saturating_sub(1))).copied().unwrap_or(0)
        };
        let (p50, p99, p999) = (percentile(0.5), percentile(0.99), percentile(0.999));
        println!("RESULT {} {} {} {p50} {p99} {p999}", self.answered, took.as_micros(), self.errors);
    }
}
