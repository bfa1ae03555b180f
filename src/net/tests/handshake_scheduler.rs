//! Simultaneous handshakes do not delay other connections.

use super::*;
use crate::net::turn_scheduler::HANDSHAKES_A_TURN;
use rustls::client::ClientConnection;
use rustls::{ClientConfig, RootCertStore};
use std::process::Command;
use std::time::Duration;

const HANDSHAKES: usize = 40;

/// Echoes; `hold` blocks the shard until the test releases it.
#[derive(Default)]
struct GateState {
    accepted: AtomicU64,
    holds: AtomicBool,
    let_go: AtomicBool,
    batches: AtomicU64,
    /// The batch in which `ping` came.
    ping_batch: AtomicU64,
    stop: AtomicBool,
}

struct Gate(Arc<GateState>);

impl Application for Gate {
    fn accepted(&mut self, _: &mut Connections, _: ConnId, _: &Peer, _: usize) -> bool {
        self.0.accepted.fetch_add(1, Ordering::SeqCst);
        true
    }
    fn data(&mut self, connections: &mut Connections, conn: ConnId, bytes: &[u8]) {
        if bytes == b"hold" {
            self.0.holds.store(true, Ordering::SeqCst);
            wait_until(|| self.0.let_go.load(Ordering::SeqCst));
        }
        if bytes == b"ping" {
            self.0.ping_batch.store(self.0.batches.load(Ordering::SeqCst), Ordering::SeqCst);
        }
        connections.outbox(conn).unwrap().push(bytes);
    }
    fn eof(&mut self, connections: &mut Connections, conn: ConnId) {
        connections.close(conn);
    }
    fn drained(&mut self, _: &mut Connections, _: ConnId) {}
    fn closed(&mut self, _: &mut Connections, _: ConnId, _: CloseReason) {}
    fn batch_end(&mut self, _: &mut Connections) {
        self.0.batches.fetch_add(1, Ordering::SeqCst);
    }
    fn has_work(&self) -> bool {
        false
    }
    fn tick(&mut self, _: &mut Connections, _: Instant) {}
    fn accepting(&self) -> bool {
        true
    }
    fn stopped(&self) -> bool {
        self.0.stop.load(Ordering::SeqCst)
    }
    fn finish(&mut self) {}
}

fn wait_until(mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "the expected event never came");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn acceptor() -> Acceptor {
    let dir = tempfile::tempdir().unwrap();
    let request =
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=x -keyout key -out cert";
    let made = Command::new("openssl").args(request.split(' ')).current_dir(dir.path()).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let pair = Certificate::load(&dir.path().join("cert"), &dir.path().join("key")).unwrap();
    pair.acceptor(Duration::from_secs(20)).unwrap()
}

fn client_hello() -> Vec<u8> {
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let mut client = ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

#[test]
fn a_turn_has_a_bounded_share_of_them() {
    for kind in kinds() {
        let addr = "127.0.0.1:0".parse().unwrap();
        let mut listeners = bind_all(&[addr], 1, UnixAccess::Umask).unwrap().remove(0);
        let plain_addr = listeners[0].to_string().replace("http://", "");
        let secure = bind_all(&["127.0.0.1:0".parse().unwrap()], 1, UnixAccess::Umask)
            .unwrap()
            .remove(0)
            .remove(0)
            .secured(&acceptor());
        let secure_addr = secure.to_string().replace("https://", "");
        listeners.push(secure);
        let (shared, waker) = (Arc::<GateState>::default(), Arc::new(Waker::new().unwrap()));
        let (app, its_waker) = (Gate(Arc::clone(&shared)), Arc::clone(&waker));
        let shard = std::thread::spawn(move || run(kind, app, listeners, &its_waker).unwrap());
        let connect = |addr: &str| {
            let stream = TcpStream::connect(addr).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            stream
        };
        let (mut holder, mut other) = (connect(&plain_addr), connect(&plain_addr));
        let mut clients: Vec<TcpStream> = (0..HANDSHAKES).map(|_| connect(&secure_addr)).collect();
        wait_until(|| shared.accepted.load(Ordering::SeqCst) == 2 + HANDSHAKES as u64);

        // All of these bytes are available when the shard looks at its events again.
        holder.write_all(b"hold").unwrap();
        wait_until(|| shared.holds.load(Ordering::SeqCst));
        let hello = client_hello();
        clients.iter_mut().for_each(|client| client.write_all(&hello).unwrap());
        other.write_all(b"ping").unwrap();
        shared.let_go.store(true, Ordering::SeqCst);

        // The clients send no second message, so each handshake is one step.
        let mut first = [0; 5];
        clients.iter_mut().for_each(|client| client.read_exact(&mut first).unwrap());
        let mut answer = [0; 4];
        other.read_exact(&mut answer).unwrap();
        let turns = shared.batches.load(Ordering::SeqCst) - shared.ping_batch.load(Ordering::SeqCst);
        let turns_min = (HANDSHAKES / HANDSHAKES_A_TURN / 2) as u64;
        assert!(turns >= turns_min, "{kind:?}: the last handshake came {turns} turns after the other's request");
        shared.stop.store(true, Ordering::SeqCst);
        waker.wake();
        shard.join().unwrap();
    }
}
