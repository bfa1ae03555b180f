//! Large uploads get a limited share of each turn.

use super::*;
use crate::net::turn_scheduler::BULK_RECEIVES_A_TURN;
use std::time::Duration;

const UPLOADS: usize = 40;
/// Bytes that each client sends: fewer than the buffers of a socket take.
const BYTES: usize = 1024 * 1024;
/// The size of a receive that fills the buffer.
const BUFFER: usize = 64 * 1024;

#[derive(Default)]
struct Counts {
    hold: AtomicBool,
    /// Clients that have begun to send.
    sending: AtomicU64,
    bytes: AtomicU64,
    /// Most receives in one batch that followed a full receive of the same connection.
    most: AtomicU64,
    stop: AtomicBool,
}

struct Sink {
    counts: Arc<Counts>,
    in_batch: u64,
    /// Whether the last receive of each connection was full.
    full: Vec<bool>,
}

impl Application for Sink {
    fn accepted(&mut self, _: &mut Connections, _: ConnId, _: &Peer, _: usize) -> bool {
        true
    }
    fn data(&mut self, _: &mut Connections, conn: ConnId, bytes: &[u8]) {
        let begun = Instant::now();
        while self.counts.hold.load(Ordering::SeqCst) && begun.elapsed().as_secs() < 120 {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.counts.bytes.fetch_add(bytes.len() as u64, Ordering::SeqCst);
        self.full.resize(self.full.len().max(conn.index() + 1), false);
        let was_full = std::mem::replace(&mut self.full[conn.index()], bytes.len() == BUFFER);
        self.in_batch += u64::from(was_full);
    }
    fn eof(&mut self, connections: &mut Connections, conn: ConnId) {
        connections.close(conn);
    }
    fn drained(&mut self, _: &mut Connections, _: ConnId) {}
    fn closed(&mut self, _: &mut Connections, _: ConnId, _: CloseReason) {}
    fn batch_end(&mut self, _: &mut Connections) {
        self.counts.most.fetch_max(std::mem::take(&mut self.in_batch), Ordering::SeqCst);
    }
    fn has_work(&self) -> bool {
        false
    }
    fn finish(&mut self) {}
    fn tick(&mut self, _: &mut Connections, _: Instant) {}
    fn accepting(&self) -> bool {
        true
    }
    fn stopped(&self) -> bool {
        self.counts.stop.load(Ordering::SeqCst)
    }
}

#[test]
fn uploads_share_a_turn_with_others() {
    for kind in kinds() {
        let listeners = bind_all(&["127.0.0.1:0".parse().unwrap()], 1, UnixAccess::Umask).unwrap().remove(0);
        let addr = listeners[0].to_string().replace("http://", "");
        let (counts, waker) = (Arc::<Counts>::default(), Arc::new(Waker::new().unwrap()));
        let app = Sink { counts: Arc::clone(&counts), in_batch: 0, full: Vec::new() };
        let its_waker = Arc::clone(&waker);
        let thread = std::thread::spawn(move || driver::run(kind, app, listeners, &its_waker).unwrap());
        // The shard is held while the clients send, so that all have many bytes waiting at once.
        counts.hold.store(true, Ordering::SeqCst);
        let clients: Vec<JoinHandle<TcpStream>> = (0..UPLOADS)
            .map(|_| {
                let mut client = TcpStream::connect(&addr).unwrap();
                let counts = Arc::clone(&counts);
                std::thread::spawn(move || {
                    client.write_all(&[b'u'; BUFFER]).unwrap();
                    counts.sending.fetch_add(1, Ordering::SeqCst);
                    client.write_all(&vec![b'u'; BYTES - BUFFER]).unwrap();
                    client
                })
            })
            .collect();
        let begun = Instant::now();
        while counts.sending.load(Ordering::SeqCst) < UPLOADS as u64 {
            assert!(begun.elapsed().as_secs() < 120, "all begin to send");
            std::thread::sleep(Duration::from_millis(1));
        }
        counts.hold.store(false, Ordering::SeqCst);
        let clients: Vec<TcpStream> = clients.into_iter().map(|client| client.join().unwrap()).collect();
        let begun = Instant::now();
        while counts.bytes.load(Ordering::SeqCst) < (UPLOADS * BYTES) as u64 {
            assert!(begun.elapsed().as_secs() < 120, "all sent bytes arrive");
            std::thread::sleep(Duration::from_millis(1));
        }
        drop(clients);
        counts.stop.store(true, Ordering::SeqCst);
        waker.wake();
        thread.join().unwrap();
        // Tasks that one turn has woken may run in the next turn.
        let (most, limit) = (counts.most.load(Ordering::SeqCst), 2 * BULK_RECEIVES_A_TURN as u64);
        assert!((1..=limit).contains(&most), "{kind:?}: {most}");
    }
}
