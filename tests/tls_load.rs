//! HTTPS under load: certificates exchanged meanwhile, handshakes beside other connections, and what it all costs.

use crate::support::tls::{Authority, P256, RSA, Secure, client_hello, started};
use crate::support::{self, Server};
use rustls::client::Resumption;
use std::io::Read;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

#[test]
fn certificates_change_under_load_without_an_error() {
    const CHANGES: usize = 12;
    let (authority, server) = started();
    authority.issue("even", P256, "10");
    authority.issue("odd", RSA, "10");
    let (stop, shaken) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut config = authority.client_config();
    config.resumption = Resumption::disabled();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::SeqCst) {
                    assert_eq!(Secure::connect(&server.addr, config.clone()).get("/fast"), (200, b"fast".to_vec()));
                    shaken.fetch_add(1, Ordering::SeqCst);
                }
            });
            // One connection all the time.
            scope.spawn(|| {
                let mut open = authority.connect(&server);
                while !stop.load(Ordering::SeqCst) {
                    assert_eq!(open.get("/fast"), (200, b"fast".to_vec()));
                    assert_eq!(open.get("/slow"), (200, b"slow".to_vec()));
                }
            });
        }
        for change in 1..=CHANGES {
            let before = shaken.load(Ordering::SeqCst);
            support::eventually("handshakes between two changes", || shaken.load(Ordering::SeqCst) >= before + 4);
            // Every third pair can't be served.
            let (cert, key) = [("even", "even"), ("odd", "odd"), ("even", "odd")][change % 3];
            std::fs::copy(authority.path(&format!("{key}.key")), authority.path("server.key")).unwrap();
            std::fs::copy(authority.path(&format!("{cert}.pem")), authority.path("server.pem")).unwrap();
            support::signal(server.pid(), "HUP");
            support::eventually("an answer to SIGHUP", || {
                let log = server.log();
                log.matches("was read again").count() + log.matches("stays as it was").count() == change
            });
        }
        stop.store(true, Ordering::SeqCst);
    });
    assert_eq!(server.stop().matches("stays as it was").count(), CHANGES / 3);
}

/// How long 2000 answers take, while so many others do one full handshake after the other.
fn delays(authority: &Authority, server: &Server, others: usize) -> String {
    let (stop, count) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut config = authority.client_config();
    config.resumption = Resumption::disabled();
    let (mut took, mut all) = (Vec::new(), Duration::ZERO);
    std::thread::scope(|scope| {
        for _ in 0..others {
            scope.spawn(|| {
                while !stop.load(Ordering::SeqCst) {
                    Secure::connect(&server.addr, config.clone()).get("/healthz");
                    count.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        let mut client = authority.connect(server);
        client.get("/healthz");
        let start = Instant::now();
        for _ in 0..2000 {
            let asked = Instant::now();
            client.get("/healthz");
            took.push(asked.elapsed().as_micros());
        }
        all = start.elapsed();
        stop.store(true, Ordering::SeqCst);
    });
    took.sort_unstable();
    let rate = count.load(Ordering::SeqCst) as f64 / all.as_secs_f64();
    format!("median {} µs, p99 {} µs, longest {} µs ({rate:.0} handshakes/s)", took[1000], took[1980], took[1999])
}

/// `cargo test --release --test e2e tls_load:: -- --ignored --nocapture`
#[test]
#[ignore = "measures; for a quiet machine and the release build"]
fn measures() {
    let authority = Authority::new();
    authority.issue("rsa", RSA, "10");
    authority.issue("p256", P256, "10");
    for name in ["p256", "rsa"] {
        // A server of its own: memory that it has had before would be used again and not be seen.
        let server = authority.server(name, &["--shards", "1"]);
        let mut first: Vec<Secure> = (0..100).map(|_| authority.connect(&server)).collect();
        first.iter_mut().for_each(|client| assert_eq!(client.get("/healthz").0, 200));
        let before = server.memory_kib("VmRSS");
        let mut clients: Vec<Secure> = (0..4000).map(|_| authority.connect(&server)).collect();
        clients.iter_mut().for_each(|client| assert_eq!(client.get("/healthz").0, 200));
        println!("{name}: {} bytes an idle TLS connection", (server.memory_kib("VmRSS") - before) * 1024 / 4000);
        drop((first, clients));
        let server = authority.server(name, &["--shards", "1"]);
        let cpu_ticks = || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", server.pid())).unwrap();
            let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
            fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
        };
        for (what, resumed) in [("full", false), ("resumed", true)] {
            let mut config = authority.client_config();
            if !resumed {
                config.resumption = Resumption::disabled();
            }
            Secure::connect(&server.addr, config.clone()).get("/healthz");
            let (before, count) = (cpu_ticks(), 1000);
            for _ in 0..count {
                assert_eq!(Secure::connect(&server.addr, config.clone()).get("/healthz").0, 200);
            }
            // 10 ms a tick.
            println!("{name}, {what}: {} µs of the server's CPU a connection", (cpu_ticks() - before) * 10_000 / count);
        }
        println!("{name}: an open connection's answers, alone: {}", delays(&authority, &server, 0));
        println!("{name}: the same beside 4 clients that do handshakes: {}", delays(&authority, &server, 4));
    }
    let server = Server::with(&["--shards", "1"]);
    let mut first: Vec<support::Client> = (0..100).map(|_| server.connect()).collect();
    first.iter_mut().for_each(|client| assert_eq!(client.get("/healthz").status, 200));
    let before = server.memory_kib("VmRSS");
    let mut clients: Vec<support::Client> = (0..4000).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| assert_eq!(client.get("/healthz").status, 200));
    println!("{} bytes an idle plain connection", (server.memory_kib("VmRSS") - before) * 1024 / 4000);
}

/// How long answers take while 200 handshakes a second arrive, one by one or 40 at once.
fn delays_beside(authority: &Authority, server: &Server, at_once: usize) -> String {
    const PER_SECOND: usize = 200;
    let hello = client_hello();
    let stop = AtomicBool::new(false);
    let mut took = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let pause = Duration::from_secs_f64(at_once as f64 / PER_SECOND as f64);
            while !stop.load(Ordering::SeqCst) {
                let mut clients: Vec<_> = (0..at_once).map(|_| server.connect()).collect();
                std::thread::sleep(pause);
                clients.iter_mut().for_each(|client| client.send(&hello));
                clients.iter_mut().for_each(|client| assert!(client.stream.read(&mut [0; 1]).unwrap() > 0));
            }
        });
        let mut client = authority.connect(server);
        for _ in 0..4000 {
            let asked = Instant::now();
            client.get("/healthz");
            took.push(asked.elapsed().as_micros());
            std::thread::sleep(Duration::from_micros(500));
        }
        stop.store(true, Ordering::SeqCst);
    });
    took.sort_unstable();
    format!("median {} µs, p99 {} µs, longest {} µs", took[2000], took[3960], took[3999])
}

/// `cargo test --release --test e2e tls_load::measures_others -- --ignored --nocapture`
#[test]
#[ignore = "measures; for a quiet machine and the release build"]
fn measures_others_beside_handshakes() {
    let authority = Authority::new();
    authority.issue("rsa", RSA, "10");
    let server = authority.server("rsa", &["--shards", "1"]);
    for at_once in [1, 10, 40] {
        println!("RSA, 200 handshakes/s, {at_once} at once: {}", delays_beside(&authority, &server, at_once));
    }
}
