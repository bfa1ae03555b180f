//! The floor on a raw ring, without a runtime: `raw PORT multishot|single|poll [direct]`.
//!
//! One thread, one ring. A turn takes all completions, queues their answers, and enters the kernel once to submit and to wait. The
//! loop finds the end of each head, of one buffer at most, and answers a constant; the loop checks nothing.
//! * `multishot`: one receive a connection for all its requests, into buffers that the kernel picks from a ring of buffers
//! * `single`: a receive into the connection's own buffer, submitted again after each completion
//! * `poll`: the ring tells that there are bytes, with one poll a connection for all its requests; `recv(2)` takes them
//! * `direct`: `send(2)` at once, in place of a send in the ring

use floor::buffers::{BUFFER_BYTES, Buffers, GROUP};
use floor::{ANSWER, heads};
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, RawFd};
use uring::squeue::Flags;
use uring::{IoUring, cqueue, opcode, squeue, types};

/// Limit on the answers of one turn; when it is reached, the turn submits them before it goes on.
const ANSWERS_BYTES: usize = 1024 * 1024;

const RING_ENTRIES: u32 = 1024;

/// `IORING_RECVSEND_POLL_FIRST`, which the crate does not name.
const POLL_FIRST: u16 = 1;

/// Kinds of operations that complete. In `user_data`: kind (8 bits), the connection's generation (24), its descriptor (32).
const ACCEPT: u64 = 0;
const RECEIVE: u64 = 1;
const SEND: u64 = 2;
const CLOSE: u64 = 3;

/// A connection, at the index of its descriptor.
#[derive(Default)]
struct Connection {
    /// Counts the connections that have had this descriptor, so that a late completion is known as such.
    generation: u32,
    is_open: bool,
    /// Not `multishot`: where the kernel writes; empty before the first use, and then neither moved nor freed.
    buffer: Box<[u8]>,
    /// Not `multishot`: bytes of an incomplete head at the start of `buffer`.
    filled: usize,
    /// `multishot`: the bytes of an incomplete head.
    pending: Vec<u8>,
}

struct Floor {
    ring: IoUring,
    listener: TcpListener,
    /// Of `multishot`.
    buffers: Option<Buffers>,
    is_poll: bool,
    is_direct: bool,
    connections: Vec<Connection>,
    /// The answers that the queued sends name. Its capacity never changes, so the bytes stay where they are.
    answers: Vec<u8>,
}

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let [_, port, receive @ ("multishot" | "single" | "poll"), rest @ ..] = &arguments[..] else {
        eprintln!("usage: raw PORT multishot|single|poll [direct]");
        std::process::exit(2);
    };
    let listener = TcpListener::bind(format!("127.0.0.1:{port}"))?;
    // The backlog of the standard library's listener is too short for so many connections at once.
    // SAFETY: no memory is involved; `listener` owns the descriptor.
    unsafe { libc::listen(listener.as_raw_fd(), 4096) };
    let ring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_coop_taskrun()
        .setup_submit_all()
        .setup_cqsize(4 * RING_ENTRIES)
        .build(RING_ENTRIES)?;
    ring.submitter().register_ring_fd()?;
    let buffers = if *receive == "multishot" { Some(Buffers::register(&ring)?) } else { None };
    let mut floor = Floor {
        ring,
        listener,
        buffers,
        is_poll: *receive == "poll",
        is_direct: rest == ["direct"],
        connections: Vec::new(),
        answers: Vec::with_capacity(ANSWERS_BYTES),
    };
    floor.accept()?;
    eprintln!("listening");
    let mut taken = [const { std::mem::MaybeUninit::uninit() }; 1024];
    loop {
        floor.submit(1)?;
        // A statement of its own: it frees the places of the completions before the kernel is entered again.
        let entries = floor.ring.completion().fill(&mut taken);
        for entry in entries {
            floor.completed(entry)?;
        }
    }
}

impl Floor {
    /// Submits all that is queued, and waits for `wanted` completions.
    fn submit(&mut self, wanted: usize) -> io::Result<()> {
        if let Some(buffers) = &mut self.buffers {
            buffers.publish();
        }
        loop {
            match self.ring.submit_and_wait(wanted) {
                Err(error) if !matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)) => {
                    return Err(error);
                }
                _ => {}
            }
            if self.ring.submission().is_empty() {
                // All sends have been tried by now (see `send`), so nothing names these bytes.
                self.answers.clear();
                return Ok(());
            }
        }
    }

    fn queue(&mut self, entry: squeue::Entry, kind: u64, fd: RawFd) -> io::Result<()> {
        let generation = self.connections.get(fd as usize).map_or(0, |connection| connection.generation & 0xff_ffff);
        let entry = entry.user_data(kind << 56 | u64::from(generation) << 32 | fd as u64);
        if self.ring.submission().is_full() {
            self.submit(0)?;
        }
        // SAFETY: receives write to a connection's buffer, which is neither moved nor freed, or to a registered one. Sends name
        // `answers`, whose bytes stay until `submit` has submitted the sends. No other operation names memory.
        unsafe { self.ring.submission().push(&entry) }.map_err(|_| io::Error::other("the submission queue is full"))
    }

    fn accept(&mut self) -> io::Result<()> {
        let fd = self.listener.as_raw_fd();
        self.queue(opcode::AcceptMulti::new(types::Fd(fd)).flags(libc::SOCK_CLOEXEC).build(), ACCEPT, fd)
    }

    fn receive(&mut self, fd: RawFd) -> io::Result<()> {
        let entry = if self.buffers.is_some() {
            opcode::RecvMulti::new(types::Fd(fd), GROUP).build()
        } else if self.is_poll {
            opcode::PollAdd::new(types::Fd(fd), libc::POLLIN as u32).multi(true).build()
        } else {
            let connection = &mut self.connections[fd as usize];
            let room = &mut connection.buffer[connection.filled..];
            // The client writes after it has the answer: there is nothing to receive yet.
            opcode::Recv::new(types::Fd(fd), room.as_mut_ptr(), room.len() as u32).ioprio(POLL_FIRST).build()
        };
        self.queue(entry, RECEIVE, fd)
    }

    /// Queues `count` answers.
    fn send(&mut self, fd: RawFd, count: usize) -> io::Result<()> {
        let length = count * ANSWER.len();
        if self.answers.len() + length > ANSWERS_BYTES {
            self.submit(0)?;
        }
        let start = self.answers.len();
        (0..count).for_each(|_| self.answers.extend_from_slice(ANSWER));
        let bytes = &self.answers[start..];
        if self.is_direct {
            // SAFETY: pointer and length describe `bytes`, which the kernel only reads during the call.
            let sent =
                unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
            if sent < bytes.len() as isize {
                shutdown(fd);
            }
            self.answers.truncate(start);
            return Ok(());
        }
        // MSG_DONTWAIT: the kernel tries the send when it is submitted, and never again. MSG_WAITALL: a send of a part is a
        // failure. So only failures complete (SKIP_SUCCESS), and a send costs no completion.
        let flags = libc::MSG_DONTWAIT | libc::MSG_WAITALL | libc::MSG_NOSIGNAL;
        let entry = opcode::Send::new(types::Fd(fd), bytes.as_ptr(), length as u32).flags(flags).build();
        self.queue(entry.flags(Flags::SKIP_SUCCESS), SEND, fd)
    }

    fn completed(&mut self, entry: &cqueue::Entry) -> io::Result<()> {
        let (kind, fd) = (entry.user_data() >> 56, entry.user_data() as u32 as RawFd);
        let generation = (entry.user_data() >> 32) as u32 & 0xff_ffff;
        match kind {
            ACCEPT => {
                if entry.result() >= 0 {
                    self.accepted(entry.result())?;
                }
                if cqueue::more(entry.flags()) { Ok(()) } else { self.accept() }
            }
            RECEIVE if self.buffers.is_some() => self.received_multishot(fd, entry),
            RECEIVE if self.is_poll => self.readable(fd, generation, entry),
            RECEIVE => self.received_single(fd, entry),
            SEND => {
                let connection = &self.connections[fd as usize];
                if connection.is_open && connection.generation & 0xff_ffff == generation {
                    // The receive ends, and closes the connection.
                    shutdown(fd);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn accepted(&mut self, fd: RawFd) -> io::Result<()> {
        let one: libc::c_int = 1;
        // SAFETY: the option is passed with its size.
        unsafe {
            let length = size_of::<libc::c_int>() as libc::socklen_t;
            libc::setsockopt(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, (&raw const one).cast(), length);
        }
        if self.connections.len() <= fd as usize {
            self.connections.resize_with(fd as usize + 1, Connection::default);
        }
        let connection = &mut self.connections[fd as usize];
        connection.is_open = true;
        if self.buffers.is_none() && connection.buffer.is_empty() {
            connection.buffer = vec![0; BUFFER_BYTES].into_boxed_slice();
        }
        self.receive(fd)
    }

    fn received_multishot(&mut self, fd: RawFd, entry: &cqueue::Entry) -> io::Result<()> {
        let (mut count, mut is_full) = (0, false);
        if let Some(buffers) = &mut self.buffers
            && let Some((bytes, id)) = buffers.received(entry)
        {
            let pending = &mut self.connections[fd as usize].pending;
            if pending.is_empty() {
                let (found, end) = heads(bytes);
                count = found;
                pending.extend_from_slice(&bytes[end..]);
            } else {
                pending.extend_from_slice(bytes);
                let (found, end) = heads(pending);
                count = found;
                pending.drain(..end);
            }
            is_full = pending.len() > BUFFER_BYTES;
            buffers.give_back(id);
        }
        if count > 0 {
            self.send(fd, count)?;
        }
        if is_full {
            shutdown(fd);
        }
        if cqueue::more(entry.flags()) {
            return Ok(());
        }
        // All buffers were in use: they are given back by the end of this turn, before the receive is submitted.
        if entry.result() > 0 || entry.result() == -libc::ENOBUFS { self.receive(fd) } else { self.close(fd) }
    }

    fn received_single(&mut self, fd: RawFd, entry: &cqueue::Entry) -> io::Result<()> {
        let Ok(received @ 1..) = usize::try_from(entry.result()) else { return self.close(fd) };
        if self.took(fd, received)? { self.receive(fd) } else { self.close(fd) }
    }

    /// Answers what was received into the connection's buffer. Returns whether the buffer has room for more.
    fn took(&mut self, fd: RawFd, received: usize) -> io::Result<bool> {
        let connection = &mut self.connections[fd as usize];
        let length = connection.filled + received;
        let (count, end) = heads(&connection.buffer[..length]);
        connection.buffer.copy_within(end..length, 0);
        connection.filled = length - end;
        let has_room = connection.filled < BUFFER_BYTES;
        if count > 0 {
            self.send(fd, count)?;
        }
        Ok(has_room)
    }

    fn readable(&mut self, fd: RawFd, generation: u32, entry: &cqueue::Entry) -> io::Result<()> {
        if self.connections[fd as usize].generation & 0xff_ffff != generation || !self.connections[fd as usize].is_open
        {
            return Ok(());
        }
        // The poll tells of new bytes only, so all that are there are taken.
        loop {
            let connection = &mut self.connections[fd as usize];
            let room = &mut connection.buffer[connection.filled..];
            let wanted = room.len();
            // SAFETY: pointer and length describe `room`.
            let received = unsafe { libc::recv(fd, room.as_mut_ptr().cast(), wanted, libc::MSG_DONTWAIT) };
            if received < 0 && io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock {
                break;
            }
            if received <= 0 || !self.took(fd, received as usize)? {
                self.queue(opcode::PollRemove::new(entry.user_data()).build().flags(Flags::SKIP_SUCCESS), CLOSE, fd)?;
                return self.close(fd);
            }
            if (received as usize) < wanted {
                break;
            }
        }
        if cqueue::more(entry.flags()) { Ok(()) } else { self.receive(fd) }
    }

    /// Closes a connection on which no receive is under way. The ring keeps the order: sends before it are tried before.
    fn close(&mut self, fd: RawFd) -> io::Result<()> {
        self.queue(opcode::Close::new(types::Fd(fd)).build().flags(Flags::SKIP_SUCCESS), CLOSE, fd)?;
        let connection = &mut self.connections[fd as usize];
        connection.generation = connection.generation.wrapping_add(1);
        connection.is_open = false;
        connection.filled = 0;
        connection.pending.clear();
        Ok(())
    }
}

fn shutdown(fd: RawFd) {
    // SAFETY: no memory is involved; the connection of `fd` is open.
    unsafe { libc::shutdown(fd, libc::SHUT_RDWR) };
}
