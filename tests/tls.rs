//! HTTPS and WSS through the real server, spoken by openssl, curl and rustls.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use support::{PATIENCE, Server, eventually, module, signal};
use tungstenite::Message;

const BIG: usize = 5_000_000;

fn lab() -> String {
    let code = r#"
#define H(f) static int f(struct cweb_context *c, http_request_t *q, http_response_t *r)
H(echo) { (void)c; free(r->body); r->body = malloc((size_t)q->content_length + 1);
  memcpy(r->body, q->body, (size_t)q->content_length + 1); r->content_length = q->content_length; return 0; }
H(fast) { (void)c; (void)q; strcpy(r->body, "fast"); return 0; }
H(slow) { (void)c; (void)q; struct timespec t = {0, 150000000}; nanosleep(&t, NULL); strcpy(r->body, "slow"); return 0; }
H(big) { (void)c; (void)q; size_t n = 5000000; free(r->body); r->body = malloc(n); memset(r->body, 'x', n); r->content_length = (int)n; return 0; }
static void *later(void *arg) { websocket_t *w = arg; for (int i = 0; i < 100; i++) { char t[16]; int n = snprintf(t, sizeof t, "t%d", i); w->send(w, t, (size_t)n); } w->close(w); return NULL; }
static void on_message(struct cweb_context *c, websocket_t *w, const char *m, size_t n) { (void)c;
  if (!strcmp(m, "push")) { pthread_t t; pthread_create(&t, NULL, later, w); pthread_detach(t); return; }
  w->send(w, m, n); }
"#;
    let routes = r#"{"/echo","POST",echo,NONE},{"/fast","GET",fast,CWEB_INLINE},{"/slow","GET",slow,NONE},{"/big","GET",big,NONE}"#;
    module("lab", code, routes, 4, r#".websockets = {{.path = "/ws", .on_message = on_message}}, .ws_size = 1,"#)
}

/// Certificates of an authority of its own.
struct Authority {
    dir: tempfile::TempDir,
}

impl Authority {
    fn new() -> Self {
        let authority = Self { dir: tempfile::tempdir().unwrap() };
        authority.openssl(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem -days 30 -subj /CN=authority",
        );
        let extensions = "subjectAltName=IP:127.0.0.1,DNS:localhost\nbasicConstraints=CA:FALSE\n";
        std::fs::write(authority.path("ext"), extensions).unwrap();
        authority
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn openssl(&self, args: &str) {
        let output = Command::new("openssl").args(args.split(' ')).current_dir(self.dir.path()).output().unwrap();
        assert!(output.status.success(), "{args}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// A pair `NAME.pem`, `NAME.key`; `kind` is what `openssl genpkey` is told.
    fn issue(&self, name: &str, kind: &str, days: &str) {
        self.openssl(&format!("genpkey {kind} -out {name}.key"));
        self.openssl(&format!("req -new -key {name}.key -out {name}.csr -subj /CN={name}"));
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days {days} -extfile ext -out {name}.pem"
        ));
    }

    fn server(&self, name: &str, args: &[&str]) -> Server {
        let (cert, key) = (self.text(&format!("{name}.pem")), self.text(&format!("{name}.key")));
        Server::with(&[&["--tls-cert", &cert, "--tls-key", &key], args].concat())
    }

    fn client_config(&self) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.path("ca.pem")).unwrap()).unwrap();
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth()
    }

    fn connect(&self, server: &Server) -> Secure {
        Secure::connect(&server.addr, self.client_config())
    }

    fn curl(&self, server: &Server, target: &str, args: &[&str]) -> Output {
        let url = format!("https://{}{target}", server.addr);
        let output = Command::new("curl").args(["-sS", "--cacert", &self.text("ca.pem")]).args(args).arg(url).output();
        output.unwrap()
    }

    fn deploy(&self, server: &Server) {
        let path = self.text("lab.c");
        std::fs::write(&path, lab()).unwrap();
        let output = self.curl(server, "/mgnt", &["--fail-with-body", "--data-binary", &format!("@{path}")]);
        assert!(output.status.success(), "{output:?} {}", server.log());
    }

    /// What `openssl s_client` says while it asks for /healthz.
    fn s_client(&self, server: &Server, args: &str) -> String {
        let mut child = Command::new("openssl")
            .args(["s_client", "-connect", &server.addr, "-CAfile", "ca.pem", "-verify_return_error", "-ign_eof"])
            .args(args.split(' '))
            .current_dir(self.dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let request = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        let _ = child.stdin.as_mut().unwrap().write_all(request);
        let output = child.wait_with_output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    }
}

const P256: &str = "-algorithm EC -pkeyopt ec_paramgen_curve:P-256";
const RSA: &str = "-algorithm RSA -pkeyopt rsa_keygen_bits:2048";

fn started() -> (Authority, Server) {
    let authority = Authority::new();
    authority.issue("server", P256, "10");
    let server = authority.server("server", &["--shards", "2", "--body-bytes-max", "8000000"]);
    authority.deploy(&server);
    (authority, server)
}

/// One HTTPS connection.
struct Secure {
    stream: StreamOwned<ClientConnection, TcpStream>,
    buffer: Vec<u8>,
}

impl Secure {
    fn connect(addr: &str, config: ClientConfig) -> Self {
        let socket = TcpStream::connect(addr).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_nodelay(true).unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let rustls = ClientConnection::new(Arc::new(config), name).unwrap();
        Self { stream: StreamOwned::new(rustls, socket), buffer: Vec::new() }
    }

    fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).unwrap();
        self.stream.flush().unwrap();
    }

    fn ask(&mut self, target: &str) {
        self.send(&format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n"));
    }

    /// Status and body of the next answer.
    fn answer(&mut self) -> (u16, Vec<u8>) {
        let mut chunk = vec![0; 64 * 1024];
        loop {
            if let Some(end) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                let head = String::from_utf8(self.buffer[..end].to_vec()).unwrap().to_lowercase();
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
                let all = end + 4 + length.parse::<usize>().unwrap();
                while self.buffer.len() < all {
                    let count = self.stream.read(&mut chunk).unwrap();
                    assert!(count > 0, "cut off");
                    self.buffer.extend_from_slice(&chunk[..count]);
                }
                let body = self.buffer.drain(..all).skip(end + 4).collect();
                return (head.split(' ').nth(1).unwrap().parse().unwrap(), body);
            }
            let count = self.stream.read(&mut chunk).unwrap();
            assert!(count > 0, "no answer");
            self.buffer.extend_from_slice(&chunk[..count]);
        }
    }

    fn get(&mut self, target: &str) -> (u16, Vec<u8>) {
        self.ask(target);
        self.answer()
    }

    fn certificate(&self) -> Vec<u8> {
        self.stream.conn.peer_certificates().unwrap()[0].to_vec()
    }
}

#[test]
fn openssl_gets_both_versions_alpn_and_resumption() {
    let (authority, server) = started();
    for version in ["-tls1_2", "-tls1_3"] {
        let first = authority.s_client(&server, &format!("{version} -alpn h2,http/1.1 -sess_out session{version}"));
        for part in ["Verification: OK", "ALPN protocol: http/1.1", "HTTP/1.1 200 OK", "New, TLSv1."] {
            assert!(first.contains(part), "{version}, {part}: {first}");
        }
        let again = authority.s_client(&server, &format!("{version} -sess_in session{version}"));
        assert!(again.contains("Reused, TLSv1.") && again.contains("HTTP/1.1 200 OK"), "{version}: {again}");
    }
    let only_h2 = authority.s_client(&server, "-alpn h2");
    assert!(only_h2.contains("no application protocol"), "{only_h2}");
    let old = authority.s_client(&server, "-tls1_1 -cipher DEFAULT@SECLEVEL=0");
    assert!(old.contains("SSL alert number"), "{old}");
}

#[test]
fn keys_of_every_kind_and_form() {
    let authority = Authority::new();
    let kinds = [("rsa", RSA), ("p256", P256), ("ed25519", "-algorithm ed25519")];
    for (name, kind) in kinds.into_iter().chain([("p384", "-algorithm EC -pkeyopt ec_paramgen_curve:P-384")]) {
        authority.issue(name, kind, "10");
        if name != "ed25519" {
            let form = if name == "rsa" { "rsa" } else { "ec" };
            authority.openssl(&format!("{form} -in {name}.key -out {name}.old.key"));
            let old = std::fs::read_to_string(authority.path(&format!("{name}.old.key"))).unwrap();
            assert!(old.contains(&format!("BEGIN {} PRIVATE KEY", form.to_uppercase())) || name == "rsa", "{old}");
            std::fs::copy(authority.path(&format!("{name}.pem")), authority.path(&format!("{name}.old.pem"))).unwrap();
        }
        for form in [name.to_owned(), format!("{name}.old")] {
            if authority.path(&format!("{form}.key")).exists() {
                let server = authority.server(&form, &[]);
                server.expect_log(&format!("listening on https://{}", server.addr));
                assert_eq!(authority.curl(&server, "/healthz", &[]).stdout, b"ok\n", "{form}");
                server.stop();
            }
        }
    }
    authority.openssl("genrsa -traditional -out traditional.key 2048");
    authority.openssl("req -new -x509 -key traditional.key -out traditional.pem -subj /CN=traditional");
    authority.server("traditional", &[]).stop();
}

#[test]
fn curl_gets_and_sends_small_and_large() {
    let (authority, server) = started();
    assert_eq!(authority.curl(&server, "/fast", &[]).stdout, b"fast");
    assert_eq!(authority.curl(&server, "/big", &[]).stdout, vec![b'x'; BIG]);
    let head = authority.curl(&server, "/big", &["-I"]);
    assert!(String::from_utf8_lossy(&head.stdout).to_lowercase().contains("content-length: 5000000"), "{head:?}");
    // Four requests, one handshake.
    let url = format!("https://{}/fast", server.addr);
    let count = ["-w", "%{num_connects}", &url, &url, &url];
    assert_eq!(authority.curl(&server, "/fast", &count).stdout, b"fast1fast0fast0fast0");
    let upload: Vec<u8> = (0..=250).cycle().take(1024 * 1024).collect();
    let path = authority.text("upload");
    std::fs::write(&path, &upload).unwrap();
    let data = format!("@{path}");
    for args in [["-H", "Transfer-Encoding: chunked", "--data-binary", &data], ["-H", "X: y", "--data-binary", &data]] {
        let echoed = authority.curl(&server, "/echo", &args);
        assert!(echoed.stdout == upload, "{args:?} {}", String::from_utf8_lossy(&echoed.stderr));
    }
    assert!(!authority.curl(&server, "/fast", &["--cacert", "/etc/hostname"]).status.success());
}

#[test]
fn pipelined_requests_and_pieces_of_records() {
    let (authority, server) = started();
    let mut client = authority.connect(&server);
    let requests = |target: &str, count| format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n").repeat(count);
    client.send(&(requests("/fast", 500) + &requests("/slow", 2) + &requests("/big", 2) + &requests("/fast", 1)));
    for _ in 0..500 {
        assert_eq!(client.answer(), (200, b"fast".to_vec()));
    }
    assert_eq!((client.answer().1, client.answer().1), (b"slow".to_vec(), b"slow".to_vec()));
    assert_eq!((client.answer().1.len(), client.answer().1.len()), (BIG, BIG));
    assert_eq!(client.answer().1, b"fast");
    // The ciphertext byte by byte.
    client.stream.conn.writer().write_all(requests("/fast", 1).as_bytes()).unwrap();
    let mut record = Vec::new();
    client.stream.conn.write_tls(&mut record).unwrap();
    for byte in record {
        client.stream.sock.write_all(&[byte]).unwrap();
        std::thread::sleep(Duration::from_micros(300));
    }
    assert_eq!(client.answer().1, b"fast");
    // A client that will send no more gets its answers, and then the server's own close_notify.
    client.ask("/slow");
    client.stream.conn.send_close_notify();
    client.stream.flush().unwrap();
    assert_eq!(client.answer().1, b"slow");
    assert_eq!(client.stream.read(&mut [0; 1]).unwrap(), 0, "close_notify");
    // One that goes without a word is gone.
    let rude = authority.connect(&server);
    drop(rude.stream.sock);
    assert_eq!(authority.connect(&server).get("/fast").0, 200);
}

#[test]
fn keys_are_updated_on_demand() {
    let (authority, server) = started();
    let mut client = authority.connect(&server);
    assert_eq!(client.get("/fast").1, b"fast");
    for _ in 0..3 {
        client.stream.conn.refresh_traffic_keys().unwrap();
        assert_eq!(client.get("/fast").1, b"fast");
        assert_eq!(client.get("/big").1.len(), BIG);
    }
}

#[test]
fn websockets_over_tls() {
    let (authority, server) = started();
    let stream = authority.connect(&server).stream;
    let (mut socket, _) = tungstenite::client(format!("ws://{}/ws", server.addr), stream).unwrap();
    let large = Message::binary((0..=255).cycle().take(3_000_000).collect::<Vec<u8>>());
    for message in
        [Message::text("hello é"), Message::binary(vec![0xff, 0, 1]), large, Message::text("a".repeat(70_000))]
    {
        socket.send(message.clone()).unwrap();
        assert!(socket.read().unwrap() == message);
    }
    socket.send(Message::text("push")).unwrap();
    for n in 0..100 {
        assert_eq!(socket.read().unwrap(), Message::text(format!("t{n}")));
    }
    assert!(matches!(socket.read().unwrap(), Message::Close(_)));
}

#[test]
fn a_browser_loads_a_page() {
    if !Path::new("/usr/bin/chromium").exists() {
        println!("skipped: there is no /usr/bin/chromium");
        return;
    }
    let (authority, server) = started();
    let profile = format!("--user-data-dir={}", authority.text("profile"));
    let output = Command::new("/usr/bin/chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--ignore-certificate-errors", &profile, "--dump-dom"])
        .arg(format!("https://{}/fast", server.addr))
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("fast"), "{output:?}");
}

/// What the server says of a pair that it does not start with.
fn refusal(cert: &str, key: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_cweb"))
        .args(["serve", "--port", "0", "--tls-cert", cert, "--tls-key", key, "--data-dir"])
        .arg(dir.path())
        .env_remove("CWEB_ADMIN_KEY")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{cert} {key}: {output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn pairs_that_cannot_be_served_are_explained() {
    let authority = Authority::new();
    authority.issue("good", P256, "10");
    authority.issue("other", P256, "10");
    authority.issue("old", P256, "-1");
    authority.openssl("pkey -in good.key -aes128 -passout pass:x -out locked.key");
    authority.openssl("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-521 -out unusual.key");
    std::fs::write(authority.path("text"), "no PEM").unwrap();
    let broken = "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n";
    std::fs::write(authority.path("broken"), broken).unwrap();
    std::fs::write(authority.path("hollow"), broken.replace("!!!", "MAA=")).unwrap();
    for (cert, key, parts) in [
        ("missing", "good.key", ["--tls-cert", "missing: No such file"]),
        ("good.pem", "missing", ["--tls-key", "missing: No such file"]),
        ("text", "good.key", ["--tls-cert", "no PEM certificate"]),
        ("broken", "good.key", ["--tls-cert", "damaged PEM"]),
        ("hollow", "good.key", ["--tls-cert", "can't be read"]),
        ("good.pem", "text", ["--tls-key", "no PEM private key"]),
        ("good.pem", "good.pem", ["--tls-key", "no PEM private key"]),
        ("good.pem", "locked.key", ["--tls-key", "the key is encrypted"]),
        ("good.pem", "unusual.key", ["--tls-key", "not supported"]),
        ("good.pem", "other.key", ["good.pem", "do not belong together"]),
        ("old.pem", "old.key", ["--tls-cert", "expired on 20"]),
    ] {
        let text = refusal(&authority.text(cert), &authority.text(key));
        assert!(parts.iter().all(|part| text.contains(part)), "{cert} {key}: {text}");
    }
}

#[test]
fn sighup_exchanges_the_certificate() {
    let (authority, server) = started();
    let mut open = authority.connect(&server);
    assert_eq!(open.get("/fast").0, 200);
    let old = open.certificate();
    authority.issue("next", RSA, "10");
    let install = |name: &str| {
        std::fs::copy(authority.path(&format!("{name}.key")), authority.path("server.key")).unwrap();
        std::fs::copy(authority.path(&format!("{name}.pem")), authority.path("server.pem")).unwrap();
        signal(server.pid(), "HUP");
    };
    install("next");
    server.expect_log("the certificate was read again");
    assert_eq!(open.get("/big").1.len(), BIG, "an open connection goes on");
    let mut new = authority.connect(&server);
    assert_eq!(new.get("/fast").0, 200);
    let next = new.certificate();
    assert_ne!(old, next);
    authority.issue("late", P256, "-1");
    install("late");
    server.expect_log("the certificate stays as it was");
    assert!(server.log().contains("expired on 20"));
    for client in [&mut open, &mut new, &mut authority.connect(&server)] {
        assert_eq!(client.get("/fast").0, 200);
    }
    let mut last = authority.connect(&server);
    assert_eq!(last.get("/fast").0, 200);
    assert_eq!(last.certificate(), next);
    server.stop();
}

#[test]
fn plain_http_is_told_where_it_is() {
    let (authority, server) = started();
    for request in ["GET / HTTP/1.1\r\nHost: x\r\n\r\n", "POST /mgnt HTTP/1.0\r\n\r\n", "G"] {
        let mut client = server.connect();
        client.send(request.as_bytes());
        let answer = client.response();
        assert_eq!((answer.status, answer.header("connection").as_deref()), (400, Some("close")));
        assert!(answer.text().contains("use https://"), "{}", answer.text());
        assert!(client.is_closed());
    }
    assert_eq!(authority.connect(&server).get("/fast").0, 200);
}

#[test]
fn unix_sockets_stay_plain() {
    let authority = Authority::new();
    authority.issue("server", P256, "10");
    let path = authority.text("socket");
    let server = authority.server("server", &["--listen", &format!("unix:{path}")]);
    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    server.stop();
}

#[test]
fn a_silent_client_is_closed_in_time_and_others_are_served() {
    let authority = Authority::new();
    authority.issue("server", P256, "10");
    let server = authority.server("server", &["--header-timeout-ms", "1000", "--shards", "1"]);
    let before = Instant::now();
    let mut silent = server.connect();
    let mut half = server.connect();
    half.send(&client_hello()[..50]);
    let mut greeted = server.connect();
    greeted.send(&client_hello());
    let mut open = authority.connect(&server);
    for _ in 0..20 {
        assert_eq!(open.get("/healthz").0, 200);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(silent.is_closed() && half.is_closed());
    let took = before.elapsed();
    assert!(took >= Duration::from_millis(900) && took < Duration::from_secs(4), "{took:?}");
    let mut rest = Vec::new();
    let _ = greeted.stream.read_to_end(&mut rest);
    assert!(before.elapsed() < Duration::from_secs(5));
    assert_eq!(open.get("/healthz").0, 200, "an open connection has the time-out for idle ones");
}

fn client_hello() -> Vec<u8> {
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let mut client = ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

#[test]
fn half_handshakes_and_garbage_leave_nothing_behind() {
    let (authority, server) = started();
    let hello = client_hello();
    let round = || {
        for n in 0..200_usize {
            let mut client = server.connect();
            let garbage: Vec<u8> = (0..n * 7 + 1).map(|at| (at * 31 + n * 17) as u8 | 0x80).collect();
            match n % 5 {
                0 => client.send(&garbage),
                1 => client.send(&hello[..n.min(hello.len())]),
                2 => client.send(&hello),
                3 => client.send(&[hello.as_slice(), &garbage].concat()),
                // A record that says it is longer than one may be.
                _ => client.send(&[[0x16, 3, 1, 0xff, 0xff].as_slice(), &garbage].concat()),
            }
            if n % 3 == 0 {
                client.finish();
            }
            if matches!(n % 5, 0 | 4) && n > 20 {
                let mut alert = Vec::new();
                let _ = client.stream.read_to_end(&mut alert);
                assert!(alert.starts_with(&[0x15, 3]), "{n}: {alert:?}");
            }
        }
    };
    let descriptors = server.descriptors();
    round();
    eventually("all are closed", || server.descriptors() <= descriptors);
    let memory = server.memory_kib("VmRSS");
    for _ in 0..3 {
        round();
    }
    eventually("all are closed", || server.descriptors() <= descriptors);
    let grown = server.memory_kib("VmRSS").saturating_sub(memory);
    assert!(grown < 4 * 1024, "{grown} KiB more");
    assert_eq!(authority.connect(&server).get("/fast").0, 200);
    let log = server.stop();
    assert!(!log.contains("panic"), "{log}");
}

#[test]
fn a_slow_reader_gets_everything_in_bounded_memory() {
    let (authority, server) = started();
    assert_eq!(authority.connect(&server).get("/big").1.len(), BIG);
    let memory = server.memory_kib("VmRSS");
    let mut client = authority.connect(&server);
    let count = 60;
    client.ask("/big");
    // It fills the socket; what is unsent then holds back what is asked after it.
    std::thread::sleep(Duration::from_millis(500));
    for _ in 1..count {
        client.ask("/big");
    }
    std::thread::sleep(Duration::from_millis(1000));
    let grown = server.memory_kib("VmRSS").saturating_sub(memory);
    println!("{grown} KiB for {count} answers of {BIG} bytes that nobody reads");
    assert!(grown < 32 * 1024, "{grown} KiB");
    for _ in 0..count {
        let (status, body) = client.answer();
        assert_eq!((status, body.len()), (200, BIG));
        assert!(body.iter().all(|byte| *byte == b'x'));
    }
}

#[test]
fn production_without_a_certificate_warns_once() {
    let warning = "a proxy that terminates TLS is expected";
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let log = Server::on(&dir, &["--production"], &[("CWEB_ADMIN_KEY", "k")]).stop();
    assert_eq!(log.matches(warning).count(), 1, "{log}");
    assert!(!Server::start().stop().contains(warning));
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

/// `cargo test --release --test tls -- --ignored --nocapture`
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
