//! The server as a service: sockets that another process has opened, and messages to the service manager.

use crate::support::{Client, PATIENCE, constant, eventually, isolation, module, signal};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The sockets at their places, as the standard streams that this program can set come to be there, then the server in the
/// place of the shell: so the variable names its process.
const START: &str = r#"exec 3<&0 4<&1 </dev/null >/dev/null; LISTEN_PID=$$ exec "$0" "$@""#;

struct Service {
    child: Child,
    log: std::path::PathBuf,
}

impl Service {
    /// Starts a server in `dir` with two descriptors, of which `count` are announced.
    fn start(dir: &Path, sockets: [OwnedFd; 2], count: usize, env: &[(&str, &str)], args: &[&str]) -> Self {
        let log = dir.join(format!("log-{}", std::fs::read_dir(dir).unwrap().count()));
        let [first, second] = sockets;
        let child = Command::new("sh")
            .args(["-c", START, env!("CARGO_BIN_EXE_cweb"), "serve", "--data-dir"])
            .arg(dir)
            .args(args)
            .env_remove("CWEB_ADMIN_KEY")
            .env("CWEB_ISOLATION", isolation())
            .env("CWEB_SHUTDOWN_TIMEOUT_MS", "60000")
            .env("LISTEN_FDS", count.to_string())
            .env("LISTEN_FDNAMES", "web:local")
            .envs(env.iter().copied())
            .stdin(Stdio::from(first))
            .stdout(Stdio::from(second))
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Self { child, log }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    fn ready(self) -> Self {
        eventually("the server listens", || {
            // A line for the unix socket comes last.
            self.log().contains("listening on unix:")
        });
        self
    }

    fn stop(mut self) -> String {
        signal(self.child.id(), "TERM");
        let status = self.end();
        assert!(status.success(), "{status}: {}", self.log());
        self.log()
    }

    fn end(&mut self) -> std::process::ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the server does not end: {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The sockets of a service manager: they outlive the servers.
struct Held {
    dir: tempfile::TempDir,
    tcp: TcpListener,
    unix: UnixListener,
}

impl Held {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let unix = UnixListener::bind(dir.path().join("s")).unwrap();
        Self { dir, tcp, unix }
    }

    fn addr(&self) -> String {
        self.tcp.local_addr().unwrap().to_string()
    }

    fn start(&self, env: &[(&str, &str)], args: &[&str]) -> Service {
        let sockets = [self.tcp.try_clone().unwrap().into(), self.unix.try_clone().unwrap().into()];
        let args = [["--shards", "2"].as_slice(), args].concat();
        Service::start(self.dir.path(), sockets, 2, env, &args).ready()
    }

    fn deploy(&self, source: &str) {
        let response = Client::connect(&self.addr()).request("POST", "/mgnt", &[], source.as_bytes());
        assert_eq!(response.status, 200, "{}", response.text());
    }
}

/// How long a server that stops waits for the first request of a connection: one that takes longer may be lost.
const FRESH: Duration = Duration::from_secs(1);

/// One request on a new connection, and its whole answer.
fn exchange(stream: &mut (impl Read + Write)) -> std::io::Result<String> {
    stream.write_all(b"GET /hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

#[test]
fn restarts_under_load_lose_no_connection() {
    let held = Held::new();
    let service = held.start(&[], &["--port", "1"]);
    assert!(service.log().contains(&format!("listening on http://{}", held.addr())), "{}", service.log());
    assert!(service.log().contains("--port and --listen have no effect"), "{}", service.log());
    held.deploy(&constant("hello", "/hello", "hello"));
    let (done, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut running = Some(service);
    let (addr, path) = (held.addr(), held.dir.path().join("s"));
    std::thread::scope(|scope| {
        for number in 0..6 {
            let (addr, path, done, answered) = (&addr, &path, &done, &answered);
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    let text = if number % 2 == 0 {
                        TcpStream::connect(addr).and_then(|mut stream| exchange(&mut stream))
                    } else {
                        UnixStream::connect(path).and_then(|mut stream| exchange(&mut stream))
                    };
                    let is_whole = |text: &String| text.starts_with("HTTP/1.1 200 ") && text.ends_with("hello");
                    if text.as_ref().is_ok_and(is_whole) {
                        answered.fetch_add(1, Ordering::Relaxed);
                    } else {
                        assert!(began.elapsed() >= FRESH, "a connection was lost: {text:?}");
                    }
                }
            });
        }
        for _ in 0..4 {
            let before = answered.load(Ordering::Relaxed);
            eventually("answers", || answered.load(Ordering::Relaxed) > before + 200);
            running.take().unwrap().stop();
            running = Some(held.start(&[], &[]));
        }
        let before = answered.load(Ordering::Relaxed);
        eventually("answers of the last server", || answered.load(Ordering::Relaxed) > before + 200);
        done.store(true, Ordering::Relaxed);
    });
    let log = running.unwrap().stop();
    assert!(!log.contains("still running"), "{log}");
    assert!(path.exists(), "the socket's file is its owner's");
}

/// Whether the server has accepted the connection of `client`: its end has an inode from then on (proc_net(5)).
fn is_accepted(client: &TcpStream) -> bool {
    let port = |addr: std::net::SocketAddr| format!(":{:04X}", addr.port());
    let (here, there) = (port(client.local_addr().unwrap()), port(client.peer_addr().unwrap()));
    let connections = std::fs::read_to_string("/proc/net/tcp").unwrap();
    connections.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.len() > 9 && fields[1].ends_with(&there) && fields[2].ends_with(&here) && fields[9] != "0"
    })
}

/// The answer to a connection that asks after the stop has begun; `None`: it took too long to ask.
fn asked_during_the_stop(held: &Held) -> Option<String> {
    let service = held.start(&[], &[]);
    let began = Instant::now();
    let mut fresh = TcpStream::connect(held.addr()).unwrap();
    fresh.set_read_timeout(Some(PATIENCE)).unwrap();
    eventually("it is accepted", || is_accepted(&fresh));
    signal(service.child.id(), "TERM");
    eventually("the stop has begun", || service.log().contains("stopping"));
    let answer = exchange(&mut fresh);
    let took = began.elapsed();
    service.stop();
    match answer {
        Ok(text) if !text.is_empty() => Some(text),
        lost => {
            assert!(took >= FRESH, "the connection was lost: {lost:?}");
            None
        }
    }
}

#[test]
fn a_connection_that_has_asked_nothing_yet_is_still_answered_at_a_stop() {
    let held = Held::new();
    let service = held.start(&[], &[]);
    held.deploy(&constant("hello", "/hello", "hello"));
    service.stop();
    let answer = (0..20).find_map(|_| asked_during_the_stop(&held));
    let text = answer.expect("the machine is too busy to ask within a second");
    assert!(text.starts_with("HTTP/1.1 200 ") && text.contains("Connection: close\r\n"), "{text:?}");
}

#[test]
fn what_cannot_be_listened_on_is_explained() {
    let dir = tempfile::tempdir().unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let datagram = UnixDatagram::unbound().unwrap();
    let file = std::fs::File::create(dir.path().join("file")).unwrap();
    let sockets: [(OwnedFd, &str); 2] =
        [(datagram.into(), "descriptor 4 (local) is no stream socket"), (file.into(), "descriptor 4 (local) is no")];
    for (second, text) in sockets {
        let mut service = Service::start(dir.path(), [tcp.try_clone().unwrap().into(), second], 2, &[], &[]);
        assert_eq!(service.end().code(), Some(1));
        assert!(service.log().contains(text), "{}", service.log());
    }
    let sockets = [tcp.try_clone().unwrap().into(), tcp.try_clone().unwrap().into()];
    let mut service = Service::start(dir.path(), sockets, 9, &[], &[]);
    assert_eq!(service.end().code(), Some(1));
    // Closed, or something that this program has inherited.
    assert!(service.log().contains("descriptor 5 (unnamed) "), "{}", service.log());
}

/// What the manager is told next.
fn told(manager: &UnixDatagram) -> Option<String> {
    let mut bytes = [0; 200];
    let count = manager.recv(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes[..count]).into_owned())
}

#[test]
fn the_manager_is_told_when_the_server_is_ready_and_when_it_stops() {
    let held = Held::new();
    let path = held.dir.path().join("notify");
    let name = format!("cweb-activation-{}", std::process::id());
    let by_path = UnixDatagram::bind(&path).unwrap();
    let by_name = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    for (manager, at) in [(by_path, path.display().to_string()), (by_name, format!("@{name}"))] {
        manager.set_read_timeout(Some(PATIENCE)).unwrap();
        let service = held.start(&[("NOTIFY_SOCKET", &at)], &[]);
        assert_eq!(told(&manager).as_deref(), Some("READY=1"));
        service.stop();
        assert_eq!(told(&manager).as_deref(), Some("STOPPING=1"));
    }
    // A name that leads nowhere stops nobody.
    let log = held.start(&[("NOTIFY_SOCKET", "/nowhere")], &[]).stop();
    assert!(log.contains("could not be sent to the service manager"), "{log}");
}

#[test]
fn the_manager_is_told_when_a_reload_begins_and_ends() {
    let held = Held::new();
    let path = held.dir.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let uptime_us = || {
        let text = std::fs::read_to_string("/proc/uptime").unwrap();
        text.split(' ').next().unwrap().parse::<f64>().unwrap() * 1e6
    };
    let keys = held.dir.path().join("keys.toml");
    std::fs::write(&keys, "").unwrap();
    let env = [("NOTIFY_SOCKET", path.to_str().unwrap()), ("CWEB_KEYS_FILE", keys.to_str().unwrap())];
    let service = held.start(&env, &[]);
    assert_eq!(told(&manager).as_deref(), Some("READY=1"));
    // The second file is wrong: the server goes on with the old one, and so does the manager.
    for (file, log) in [("", "the keys were read again"), ("[", "the keys stay as they were")] {
        std::fs::write(&keys, file).unwrap();
        signal(service.child.id(), "HUP");
        let text = told(&manager).unwrap();
        let since = text.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap_or_else(|| panic!("{text:?}"));
        // What was suspended counts for the uptime alone.
        assert!(since.parse::<f64>().unwrap() <= uptime_us() + 20_000.0, "{text}");
        assert_eq!(told(&manager).as_deref(), Some("READY=1"));
        assert!(service.log().contains(log), "the reload is over when it is told: {}", service.log());
    }
    service.stop();
    assert_eq!(told(&manager).as_deref(), Some("STOPPING=1"));
}

#[test]
fn a_socket_for_both_versions_of_ip_names_ipv4_peers_as_one_for_ipv4_does() {
    let dir = tempfile::tempdir().unwrap();
    // What `ListenStream=8080` opens; std makes it for both versions where that is the system's default.
    let Ok(both) = TcpListener::bind("[::]:0") else { return };
    let port = both.local_addr().unwrap().port();
    let unix = UnixListener::bind(dir.path().join("s")).unwrap();
    let service = Service::start(dir.path(), [both.into(), unix.into()], 2, &[], &[]).ready();
    let response = Client::connect(&format!("127.0.0.1:{port}")).request("POST", "/mgnt", &[], b"no C");
    assert_eq!(response.status, 422, "{}", response.text());
    eventually("the audit", || service.log().contains("audit: deploy"));
    let log = service.stop();
    assert!(log.contains(" from=\"127.0.0.1:"), "{log}");
}

#[test]
fn a_shard_that_hangs_is_no_sign_of_life() {
    let held = Held::new();
    let path = held.dir.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let env = [("NOTIFY_SOCKET", path.to_str().unwrap()), ("WATCHDOG_USEC", "600000")];
    let service = held.start(&env, &["--isolation", "none"]);
    let code = r#"
static int hang(struct cweb_context *c, http_request_t *q, http_response_t *r) { (void)c; (void)q; (void)r; for (;;) __asm__ volatile(""); return 0; }"#;
    held.deploy(&module("hangs", code, r#"{"/hang", "GET", hang, CWEB_INLINE}"#, 1, ""));
    assert_eq!(told(&manager).as_deref(), Some("READY=1"));
    for _ in 0..5 {
        assert_eq!(told(&manager).as_deref(), Some("WATCHDOG=1"));
    }
    let mut client = Client::connect(&held.addr());
    client.send(b"GET /hang HTTP/1.1\r\nHost: x\r\n\r\n");
    manager.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while let Some(message) = told(&manager) {
        assert_eq!(message, "WATCHDOG=1");
        assert!(Instant::now() < deadline, "a hanging shard is called alive");
    }
    drop(service);
}
