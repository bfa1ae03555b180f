//! The drivers, run against real sockets.

mod bulk;
mod handshake_scheduler;

use super::*;
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

/// Echoes; `!` closes after the echo, `x` aborts, `b` answers with 8 MiB, `e` answers without end, `p` panics.
struct Echo {
    shared: Arc<Control>,
    open: u64,
    endless: Option<ConnId>,
}

#[derive(Default)]
struct Control {
    queue: Mutex<VecDeque<u64>>,
    received: AtomicU64,
    stop: AtomicBool,
    closed: AtomicU64,
    batches: AtomicU64,
}

const BIG: usize = 8 * 1024 * 1024;
/// The largest share of a turn.
const SHARE: usize = outbox::SEND_BYTES_MAX;

impl Application for Echo {
    fn accepted(&mut self, _: &mut Connections, _: ConnId, peer: &Peer, _: usize) -> bool {
        assert!(peer.is_loopback());
        self.open += 1;
        true
    }
    fn data(&mut self, connections: &mut Connections, conn: ConnId, bytes: &[u8]) {
        match bytes[0] {
            b'p' => panic!("asked for"),
            b'x' => connections.abort(conn),
            b'b' => connections.outbox(conn).unwrap().push_owned(vec![b'B'; BIG]),
            b'e' => {
                self.endless = Some(conn);
                self.drained(connections, conn);
            }
            _ => connections.outbox(conn).unwrap().push(bytes),
        }
        if bytes.contains(&b'!') {
            connections.close(conn);
        }
    }
    fn eof(&mut self, connections: &mut Connections, conn: ConnId) {
        connections.close(conn);
    }
    fn drained(&mut self, connections: &mut Connections, conn: ConnId) {
        if let Some(outbox) = connections.outbox(conn).filter(|_| self.endless == Some(conn)) {
            outbox.push(b"e");
            connections.await_sent(conn);
        }
    }
    fn closed(&mut self, _: &mut Connections, _: ConnId, _: CloseReason) {
        self.open -= 1;
        self.shared.closed.fetch_add(1, Ordering::SeqCst);
    }
    fn batch_end(&mut self, _: &mut Connections) {
        self.shared.batches.fetch_add(1, Ordering::SeqCst);
        let mut queue = self.shared.queue.lock().unwrap();
        self.shared.received.fetch_add(queue.len() as u64, Ordering::SeqCst);
        queue.clear();
    }
    fn has_work(&self) -> bool {
        !self.shared.queue.lock().unwrap().is_empty()
    }
    fn finish(&mut self) {}
    fn tick(&mut self, _: &mut Connections, _: Instant) {}
    fn accepting(&self) -> bool {
        !self.shared.stop.load(Ordering::SeqCst)
    }
    fn stopped(&self) -> bool {
        self.shared.stop.load(Ordering::SeqCst) && self.open == 0
    }
}

struct Running {
    addr: String,
    control: Arc<Control>,
    waker: Arc<Waker>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn start(kind: ReactorKind) -> Self {
        Self::start_with(kind, Waker::new().unwrap(), sys::timer(TICK).unwrap())
    }
    fn start_with(kind: ReactorKind, waker: Waker, timer: OwnedFd) -> Self {
        let listeners = bind_all(&["127.0.0.1:0".parse().unwrap()], 1, UnixAccess::Umask).unwrap().remove(0);
        let addr = listeners[0].to_string().replace("http://", "");
        let (control, waker) = (Arc::<Control>::default(), Arc::new(waker));
        let (shared, its_waker) = (Arc::clone(&control), Arc::clone(&waker));
        let app = Echo { shared, open: 0, endless: None };
        let thread = std::thread::spawn(move || {
            driver::run_with_timer(kind, app, listeners, &its_waker, timer).unwrap();
        });
        Self { addr, control, waker, thread: Some(thread) }
    }
    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.addr).unwrap();
        stream.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
        stream
    }
    fn stop(mut self) {
        self.control.stop.store(true, Ordering::SeqCst);
        self.waker.wake();
        self.thread.take().unwrap().join().unwrap();
    }
}

fn kinds() -> Vec<ReactorKind> {
    let mut kinds = vec![ReactorKind::MonoioEpoll];
    if io_uring_available(ReactorKind::Monoio, 1).is_ok() {
        kinds.push(ReactorKind::Monoio);
    }
    if io_uring_available(ReactorKind::Native, 1).is_ok() {
        kinds.push(ReactorKind::Native);
    }
    #[cfg(feature = "glommio")]
    if io_uring_available(ReactorKind::Glommio, 1).is_ok() {
        kinds.push(ReactorKind::Glommio);
    }
    kinds
}

/// A large answer gets a share of each turn, however fast its client reads: other clients are answered before it ends.
#[test]
fn others_have_their_turn_beside_a_large_answer() {
    for kind in kinds() {
        let server = Running::start(kind);
        let mut large = server.connect();
        large.write_all(b"b").unwrap();
        let mut other = server.connect();
        let reader = std::thread::spawn(move || {
            let (mut room, mut count) = (vec![0; 1024 * 1024], 0);
            while count < BIG {
                count += large.read(&mut room).unwrap();
            }
        });
        other.write_all(b"me too").unwrap();
        other.read_exact(&mut [0; 6]).unwrap();
        reader.join().unwrap();
        // At most 512 KiB a batch.
        let batches = server.control.batches.load(Ordering::SeqCst);
        assert!(batches >= (BIG / SHARE) as u64, "{kind:?}: {batches}");
        drop(other);
        server.stop();
    }
}

/// An endless answer to a client that takes all bytes delays no other client.
#[test]
fn others_have_their_turn_beside_an_answer_without_end() {
    for kind in kinds() {
        let server = Running::start(kind);
        let mut endless = server.connect();
        endless.write_all(b"e").unwrap();
        let reader = std::thread::spawn(move || {
            let (mut room, mut count) = ([0; 64 * 1024], 0);
            while count < 10_000 {
                count += endless.read(&mut room).unwrap();
            }
            endless
        });
        let mut other = server.connect();
        for _ in 0..20 {
            other.write_all(b"me too").unwrap();
            other.read_exact(&mut [0; 6]).unwrap();
        }
        drop(reader.join().unwrap());
        drop(other);
        server.stop();
    }
}

#[test]
fn echoes_on_many_connections() {
    for kind in kinds() {
        let server = Running::start(kind);
        let mut clients: Vec<TcpStream> = (0..50).map(|_| server.connect()).collect();
        for round in 0..20_u32 {
            for client in &mut clients {
                client.write_all(format!("round {round:04}").as_bytes()).unwrap();
            }
            for client in &mut clients {
                let mut answer = [0; 10];
                client.read_exact(&mut answer).unwrap();
                assert_eq!(answer, format!("round {round:04}").as_bytes());
            }
        }
        drop(clients);
        server.stop();
    }
}

#[test]
fn a_slow_reader_gets_everything_and_close_loses_nothing() {
    for kind in kinds() {
        let server = Running::start(kind);
        let mut client = server.connect();
        client.write_all(b"b!").unwrap();
        std::thread::sleep(std::time::Duration::from_millis(100));
        let mut all = Vec::new();
        client.read_to_end(&mut all).unwrap();
        assert_eq!(all.len(), BIG);
        server.stop();
    }
}

#[test]
fn abort_panic_and_half_close_end_one_connection_each() {
    for kind in kinds() {
        let server = Running::start(kind);
        let mut other = server.connect();
        for word in [b"x".as_slice(), b"p"] {
            let mut client = server.connect();
            client.write_all(word).unwrap();
            let mut all = Vec::new();
            let _ = client.read_to_end(&mut all);
            assert!(all.is_empty());
        }
        let mut half = server.connect();
        half.write_all(b"hello").unwrap();
        half.shutdown(Shutdown::Write).unwrap();
        let mut all = Vec::new();
        half.read_to_end(&mut all).unwrap();
        assert_eq!(all, b"hello");
        other.write_all(b"still here!").unwrap();
        all.clear();
        other.read_to_end(&mut all).unwrap();
        assert_eq!(all, b"still here!");
        let control = Arc::clone(&server.control);
        drop(other);
        server.stop();
        assert_eq!(control.closed.load(Ordering::SeqCst), 4);
    }
}

#[test]
fn no_message_from_another_thread_is_lost() {
    for kind in kinds() {
        let server = Running::start(kind);
        let senders: Vec<JoinHandle<()>> = (0..2)
            .map(|_| {
                let (control, waker) = (Arc::clone(&server.control), Arc::clone(&server.waker));
                std::thread::spawn(move || {
                    for n in 0..50_000 {
                        control.queue.lock().unwrap().push_back(n);
                        waker.wake();
                        if n % 1000 == 0 {
                            std::thread::sleep(std::time::Duration::from_micros(200));
                        }
                    }
                })
            })
            .collect();
        senders.into_iter().for_each(|sender| sender.join().unwrap());
        let deadline = Instant::now() + std::time::Duration::from_secs(10);
        while server.control.received.load(Ordering::SeqCst) < 100_000 {
            assert!(Instant::now() < deadline, "the last wake was lost");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        server.stop();
    }
}

#[test]
fn fin_after_close_loses_nothing() {
    for kind in kinds() {
        let server = Running::start(kind);
        let mut client = server.connect();
        client.write_all(b"b!").unwrap();
        // The first bytes have arrived, so the close has been requested; the rest waits for the socket.
        let mut first = [0];
        client.read_exact(&mut first).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(100));
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).unwrap();
        assert_eq!(1 + rest.len(), BIG);
        server.stop();
    }
}

/// Echoes; reports work from the first byte to the second.
#[derive(Default)]
struct Busy {
    received: usize,
    open: bool,
}

impl Application for Busy {
    fn accepted(&mut self, _: &mut Connections, _: ConnId, _: &Peer, _: usize) -> bool {
        self.open = true;
        true
    }
    fn data(&mut self, connections: &mut Connections, conn: ConnId, bytes: &[u8]) {
        self.received += bytes.len();
        connections.outbox(conn).unwrap().push(bytes);
    }
    fn eof(&mut self, connections: &mut Connections, conn: ConnId) {
        connections.close(conn);
    }
    fn drained(&mut self, _: &mut Connections, _: ConnId) {}
    fn closed(&mut self, _: &mut Connections, _: ConnId, _: CloseReason) {
        self.open = false;
    }
    fn batch_end(&mut self, _: &mut Connections) {}
    fn has_work(&self) -> bool {
        self.received == 1
    }
    fn tick(&mut self, _: &mut Connections, _: Instant) {}
    fn accepting(&self) -> bool {
        true
    }
    fn stopped(&self) -> bool {
        self.received == 2 && !self.open
    }
    fn finish(&mut self) {}
}

#[test]
fn endless_work_does_not_starve_sockets() {
    for kind in kinds() {
        let listeners = bind_all(&["127.0.0.1:0".parse().unwrap()], 1, UnixAccess::Umask).unwrap().remove(0);
        let addr = listeners[0].to_string().replace("http://", "");
        let waker = Arc::new(Waker::new().unwrap());
        let thread = std::thread::spawn(move || run(kind, Busy::default(), listeners, &waker).unwrap());
        let mut client = TcpStream::connect(addr).unwrap();
        client.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
        for byte in *b"12" {
            client.write_all(&[byte]).unwrap();
            let mut answer = [0];
            client.read_exact(&mut answer).unwrap();
            assert_eq!(answer, [byte]);
        }
        drop(client);
        thread.join().unwrap();
    }
}

/// Echoes; each question panics once while there is a connection, and so does `finish`.
#[derive(Default)]
struct Panicky {
    panics: Arc<AtomicU64>,
    open: bool,
    ended: bool,
}

impl Panicky {
    fn panic_once(&self, bit: u64) {
        assert!(!self.open || self.panics.fetch_or(bit, Ordering::SeqCst) & bit != 0, "asked for");
    }
}

impl Application for Panicky {
    fn accepted(&mut self, _: &mut Connections, _: ConnId, _: &Peer, _: usize) -> bool {
        self.open = true;
        true
    }
    fn data(&mut self, connections: &mut Connections, conn: ConnId, bytes: &[u8]) {
        connections.outbox(conn).unwrap().push(bytes);
    }
    fn eof(&mut self, connections: &mut Connections, conn: ConnId) {
        self.ended = true;
        connections.close(conn);
    }
    fn drained(&mut self, _: &mut Connections, _: ConnId) {}
    fn closed(&mut self, _: &mut Connections, _: ConnId, _: CloseReason) {}
    fn batch_end(&mut self, _: &mut Connections) {}
    fn has_work(&self) -> bool {
        self.panic_once(1);
        false
    }
    fn tick(&mut self, _: &mut Connections, _: Instant) {}
    fn accepting(&self) -> bool {
        self.panic_once(2);
        true
    }
    fn stopped(&self) -> bool {
        self.panic_once(4);
        self.ended
    }
    fn finish(&mut self) {
        self.panic_once(8);
    }
}

#[test]
fn a_panic_in_a_question_takes_down_nothing() {
    for kind in kinds() {
        let listeners = bind_all(&["127.0.0.1:0".parse().unwrap()], 1, UnixAccess::Umask).unwrap().remove(0);
        let addr = listeners[0].to_string().replace("http://", "");
        let waker = Arc::new(Waker::new().unwrap());
        let panics = Arc::<AtomicU64>::default();
        let app = Panicky { panics: Arc::clone(&panics), ..Panicky::default() };
        let thread = std::thread::spawn(move || run(kind, app, listeners, &waker).unwrap());
        let mut client = TcpStream::connect(addr).unwrap();
        client.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
        for byte in *b"1234" {
            client.write_all(&[byte]).unwrap();
            let mut answer = [0];
            client.read_exact(&mut answer).unwrap();
            assert_eq!(answer, [byte]);
        }
        drop(client);
        thread.join().unwrap();
        assert_eq!(panics.load(Ordering::SeqCst), 15);
    }
}

/// A descriptor that can't be waited for: the wait fails with EBADF.
fn unpollable() -> OwnedFd {
    std::fs::OpenOptions::new().read(true).custom_flags(libc::O_PATH).open("/dev/null").unwrap().into()
}

#[test]
fn a_wait_that_keeps_failing_does_not_spin() {
    // epoll refuses such a descriptor beforehand.
    for kind in kinds().into_iter().filter(|kind| [ReactorKind::Monoio, ReactorKind::Native].contains(kind)) {
        failing_waits_of(kind);
    }
}

fn failing_waits_of(kind: ReactorKind) {
    let no_waker = Running::start_with(
        kind,
        Waker::with_descriptor(unpollable(), sys::eventfd().unwrap()),
        sys::timer(TICK).unwrap(),
    );
    let no_timer = Running::start_with(kind, Waker::new().unwrap(), unpollable());
    for server in [no_waker, no_timer] {
        let mut client = server.connect();
        std::thread::sleep(std::time::Duration::from_millis(300));
        let batches = server.control.batches.load(Ordering::SeqCst);
        assert!(batches < 300, "{batches} batches in 0.3 s");
        client.write_all(b"hello!").unwrap();
        let mut all = Vec::new();
        client.read_to_end(&mut all).unwrap();
        assert_eq!(all, b"hello!");
        drop(client);
        server.stop();
    }
}

#[test]
fn a_client_that_keeps_sending_after_close_is_not_listened_to_for_long() {
    for kind in kinds() {
        let server = Running::start(kind);
        let mut client = server.connect();
        client.write_all(b"!").unwrap();
        let mut answer = [0];
        client.read_exact(&mut answer).unwrap();
        // The kernel's buffers on both sides add to the server's limit. Without a limit, the second of lingering would take
        // gigabytes.
        client.set_write_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
        let (chunk, mut sent) = (vec![0; 64 * 1024], 0);
        while let Ok(count) = client.write(&chunk) {
            sent += count;
        }
        assert!(sent > 1024 * 1024, "{sent} bytes: the answer to a long request would be lost");
        assert!(sent < 32 * 1024 * 1024, "{sent} bytes were taken");
        server.stop();
    }
}

/// Bytes this process has allocated.
fn allocated() -> usize {
    // SAFETY: no memory of ours is involved.
    let info = unsafe { libc::mallinfo2() };
    info.uordblks + info.hblkhd
}

/// Bytes that an idle connection may hold.
fn idle_bytes_max(kind: ReactorKind) -> usize {
    match kind {
        // The connection's pending receive has a buffer of its own.
        #[cfg(feature = "glommio")]
        ReactorKind::Glommio => 4096,
        ReactorKind::Monoio | ReactorKind::MonoioEpoll | ReactorKind::Native => 2048,
    }
}

/// Run by `an_idle_connection_costs_little` in a process of its own, because it counts all of the process's memory.
#[test]
#[ignore = "measures the whole process"]
fn measures_idle_connections() {
    const CONNECTIONS: usize = 2000;
    for kind in kinds() {
        let server = Running::start(kind);
        let before = allocated();
        let mut clients: Vec<TcpStream> = (0..CONNECTIONS).map(|_| server.connect()).collect();
        // Each connection has had a large request and a large answer before it becomes idle.
        let (request, mut answer) = (vec![b'r'; 100_000], vec![0; 100_000]);
        for client in &mut clients {
            client.write_all(&request).unwrap();
            client.read_exact(&mut answer).unwrap();
        }
        let bytes = (allocated() - before) / CONNECTIONS;
        println!("{kind:?}: {bytes} bytes a connection");
        assert!(bytes <= idle_bytes_max(kind), "{kind:?}: {bytes} bytes a connection");
        drop(clients);
        server.stop();
    }
}

#[test]
fn an_idle_connection_costs_little() {
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "net::tests::measures_idle_connections", "--ignored", "--nocapture"])
        .status()
        .unwrap();
    assert!(status.success());
}
