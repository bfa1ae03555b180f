//! The load of `bench/run`: `load PORT CONNECTIONS SECONDS DEPTH [OPTIONS] <REQUESTS`.
//!
//! REQUESTS are the bytes of DEPTH requests. Each connection sends them in one write, waits for DEPTH answers, and sends them again.
//! Every answer must equal the first, but for its date. One ring: a turn enters the kernel once, for all its sends and the wait. So a
//! core of load saturates a core of a server, which wrk does not. At the end the load waits for the requests in flight.
//! * `--churn`: a new connection for each request; the time is from the connect on
//! * `--rate N`: the open loop: N requests a second of all connections, each at a fixed time, sent or not; the time is from that moment
//!   on, so that a server that stands still for a while pays for each request of that while
//! * `--stall SECONDS`: a connection that waits for an answer and gets no byte for that long is an error (10)
//! * `--variants N`: REQUESTS are N requests of the same length with equal answers; each connection sends them in turn
//!
//! The last line is `RESULT requests microseconds errors p50 p99 p99.9`, percentiles in microseconds from a write to its last answer.

use floor::answer::{Expected, Progress, microseconds, report};
use floor::buffers::{Buffers, GROUP};
use floor::client::{Options, connect, connect_all, raise_descriptor_limit};
use std::collections::VecDeque;
use std::io::{self, Read};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};
use uring::squeue::Flags;
use uring::types::{Fd, SubmitArgs, Timespec};
use uring::{IoUring, cqueue, opcode, squeue};

const RING_ENTRIES: u32 = 1024;
/// Longest wait: the load ends at its time even if the server answers nothing.
const WAIT: Duration = Duration::from_millis(20);
/// Time between two searches for connections that have stalled.
const SEARCH: Duration = Duration::from_millis(100);
/// Limit on the receive buffers; with fewer buffers than connections a receive may have to be submitted again.
const BUFFERS_MAX: usize = 4096;

struct Connection {
    stream: TcpStream,
    /// Counts the connections at this place, so that a late completion is known as such.
    generation: u32,
    progress: Progress,
    /// Requests are in flight.
    is_busy: bool,
    /// When the requests in flight were sent or, in the open loop, should have been.
    sent_at: Instant,
    /// When something was sent or received last.
    active_at: Instant,
    /// Times of the open loop's requests that wait for the answer before them.
    due: VecDeque<Instant>,
    /// The variant that is sent next.
    variant: usize,
    /// Requests must not be sent any more.
    is_over: bool,
}

struct Load {
    ring: IoUring,
    buffers: Buffers,
    options: Options,
    requests: &'static [u8],
    expected: Expected,
    connections: Vec<Connection>,
    /// Connections that wait for an answer.
    busy: usize,
    /// Connections that were opened.
    opened: usize,
    answered: usize,
    errors: usize,
    /// Microseconds of each write to its last answer.
    latencies: Vec<u32>,
}

fn main() -> io::Result<()> {
    let Some(options) = Options::parse(std::env::args().skip(1)) else {
        eprintln!(
            "usage: load PORT CONNECTIONS SECONDS DEPTH [--churn|--rate N] [--stall SECONDS] [--variants N] <REQUESTS"
        );
        std::process::exit(2);
    };
    raise_descriptor_limit();
    let mut requests = Vec::new();
    io::stdin().read_to_end(&mut requests)?;
    let ring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_submit_all()
        .setup_cqsize(4 * RING_ENTRIES)
        .build(RING_ENTRIES)?;
    let buffers = Buffers::register_many(&ring, options.connections.min(BUFFERS_MAX))?;
    let mut first = connect(options.port, 0)?;
    first.set_read_timeout(Some(options.stall))?;
    let expected = Expected::first(&mut first, &requests[..requests.len() / options.variants])?;
    drop(first);
    let streams = connect_all(options.port, options.connections)?;
    let connections: Vec<_> =
        streams.into_iter().enumerate().map(|(index, stream)| Connection::new(stream, index)).collect();
    let (busy, opened, answered, errors, latencies) = (0, connections.len(), 0, 0, Vec::with_capacity(1 << 20));
    let requests = requests.leak();
    let mut load =
        Load { ring, buffers, options, requests, expected, connections, busy, opened, answered, errors, latencies };
    let began = Instant::now();
    load.run(began)?;
    report(load.answered, load.errors, began.elapsed(), &mut load.latencies);
    Ok(())
}

impl Connection {
    fn new(stream: TcpStream, index: usize) -> Self {
        let now = Instant::now();
        Self {
            stream,
            generation: 0,
            progress: Progress::default(),
            is_busy: false,
            sent_at: now,
            active_at: now,
            due: VecDeque::new(),
            variant: index,
            is_over: false,
        }
    }
}

impl Load {
    fn run(&mut self, began: Instant) -> io::Result<()> {
        let end = began + self.options.duration;
        for index in 0..self.connections.len() {
            self.receive(index)?;
            if self.options.rate.is_none() {
                self.send(index, began)?;
            }
        }
        let mut taken = [const { std::mem::MaybeUninit::uninit() }; 1024];
        let (mut scheduled, mut search_at) = (0, began + SEARCH);
        loop {
            let now = Instant::now();
            let wait = self.schedule(began, now.min(end), &mut scheduled)?;
            if now >= end && self.stop(now, end) {
                return Ok(());
            }
            if now >= search_at {
                search_at = now + SEARCH;
                self.end_stalled(now, end)?;
            }
            self.submit(1, wait)?;
            let now = Instant::now();
            // A statement of its own: it frees the places of the completions before the kernel is entered again.
            let entries = self.ring.completion().fill(&mut taken);
            for entry in entries {
                self.completed(entry, now, end)?;
            }
        }
    }

    /// Sends the open loop's requests whose time has come. Returns how long to wait for completions.
    fn schedule(&mut self, began: Instant, now: Instant, scheduled: &mut usize) -> io::Result<Duration> {
        let Some(rate) = self.options.rate else { return Ok(WAIT) };
        loop {
            let due = began + Duration::from_secs_f64(*scheduled as f64 / rate);
            if due > now {
                return Ok((due - now).min(WAIT));
            }
            let index = *scheduled % self.connections.len();
            *scheduled += 1;
            if self.connections[index].is_busy {
                self.connections[index].due.push_back(due);
            } else {
                self.send(index, due)?;
            }
        }
    }

    /// After the end: whether nothing is in flight. Requests of the open loop that are very late are errors.
    fn stop(&mut self, now: Instant, end: Instant) -> bool {
        if self.busy > 0 && now < end + 2 * self.options.stall {
            return false;
        }
        self.errors += self.busy + self.connections.iter().map(|connection| connection.due.len()).sum::<usize>();
        true
    }

    fn end_stalled(&mut self, now: Instant, end: Instant) -> io::Result<()> {
        for index in 0..self.connections.len() {
            let connection = &self.connections[index];
            if connection.is_busy && now.saturating_duration_since(connection.active_at) > self.options.stall {
                self.errors += 1;
                self.reopen(index, now, end)?;
            }
        }
        Ok(())
    }

    fn submit(&mut self, wanted: usize, wait: Duration) -> io::Result<()> {
        self.buffers.publish();
        let wait = Timespec::from(wait);
        match self.ring.submitter().submit_with_args(wanted, &SubmitArgs::new().timespec(&wait)) {
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
            self.submit(0, WAIT)?;
        }
        // SAFETY: a send names `requests`, which is never freed, and a receive names registered buffers.
        unsafe { self.ring.submission().push(&entry) }.map_err(|_| io::Error::other("the submission queue is full"))
    }

    /// Receives from now on; with `--churn` once, so that nothing is in flight when the answer has come.
    fn receive(&mut self, index: usize) -> io::Result<()> {
        let fd = Fd(self.connections[index].stream.as_raw_fd());
        let entry = if self.options.churn {
            opcode::Recv::new(fd, std::ptr::null_mut(), 0).buf_group(GROUP).build().flags(Flags::BUFFER_SELECT)
        } else {
            opcode::RecvMulti::new(fd, GROUP).build()
        };
        self.queue(entry, index)
    }

    fn send(&mut self, index: usize, at: Instant) -> io::Result<()> {
        let length = self.requests.len() / self.options.variants;
        let connection = &mut self.connections[index];
        let from = connection.variant % self.options.variants * length;
        connection.variant += 1;
        connection.progress.left = self.options.depth;
        connection.is_busy = true;
        connection.sent_at = at;
        connection.active_at = Instant::now();
        self.busy += 1;
        let fd = Fd(connection.stream.as_raw_fd());
        // MSG_WAITALL: the kernel goes on where a send has stopped. A failed send also ends the receive, and the end of the receive is counted as the error.
        let flags = libc::MSG_WAITALL | libc::MSG_NOSIGNAL;
        let bytes = &self.requests[from..from + length];
        let entry = opcode::Send::new(fd, bytes.as_ptr(), bytes.len() as u32).flags(flags).build();
        self.queue(entry.flags(Flags::SKIP_SUCCESS), index)
    }

    fn completed(&mut self, entry: &cqueue::Entry, now: Instant, end: Instant) -> io::Result<()> {
        let (index, generation) = (entry.user_data() as u32 as usize, (entry.user_data() >> 32) as u32);
        let connection = &mut self.connections[index];
        let is_current = connection.generation == generation && !connection.is_over;
        let mut is_good = entry.result() > 0 || entry.result() == -libc::ENOBUFS;
        if let Some((bytes, id)) = self.buffers.received(entry) {
            if is_current {
                connection.active_at = now;
                let complete = connection.progress.take(&self.expected, bytes);
                is_good = is_good && complete.is_some();
                self.answered += complete.unwrap_or(0);
            }
            self.buffers.give_back(id);
        }
        if !is_current {
            return Ok(());
        }
        if !is_good {
            self.errors += 1;
            return self.reopen(index, now, end);
        }
        let is_complete = connection.progress.left == 0 && entry.result() > 0;
        if is_complete {
            self.busy -= 1;
            connection.is_busy = false;
            self.latencies.push(microseconds(now - connection.sent_at));
            if self.options.churn {
                return self.renew(index, end);
            }
            if self.options.rate.is_some() {
                if let Some(due) = connection.due.pop_front() {
                    self.send(index, due)?;
                }
            } else if now < end {
                self.send(index, now)?;
            }
        }
        if cqueue::more(entry.flags()) { Ok(()) } else { self.receive(index) }
    }

    /// The next connection of `--churn`. Nothing of the old one is in flight, so its descriptor is closed at once.
    fn renew(&mut self, index: usize, end: Instant) -> io::Result<()> {
        let now = Instant::now();
        if now >= end {
            self.connections[index].is_over = true;
            return Ok(());
        }
        self.open(index)?;
        self.receive(index)?;
        self.send(index, now)
    }

    /// Ends a connection that has failed, and opens another in its place.
    fn reopen(&mut self, index: usize, now: Instant, end: Instant) -> io::Result<()> {
        let connection = &mut self.connections[index];
        self.busy -= usize::from(std::mem::take(&mut connection.is_busy));
        connection.progress = Progress::default();
        // Ends the operations on the old socket; the ring holds the socket until then.
        let _ = connection.stream.shutdown(Shutdown::Both);
        // Entries that name the old descriptor must not meet the new socket.
        self.submit(0, WAIT)?;
        let due = self.connections[index].due.pop_front();
        if now >= end && due.is_none() {
            self.connections[index].is_over = true;
            return Ok(());
        }
        self.open(index)?;
        self.receive(index)?;
        match (due, self.options.rate) {
            (Some(due), _) => self.send(index, due),
            (None, Some(_)) => Ok(()),
            (None, None) => self.send(index, now),
        }
    }

    fn open(&mut self, index: usize) -> io::Result<()> {
        let stream = connect(self.options.port, self.opened)?;
        self.opened += 1;
        let connection = &mut self.connections[index];
        connection.stream = stream;
        connection.generation = connection.generation.wrapping_add(1);
        Ok(())
    }
}
