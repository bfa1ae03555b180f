//! Certificates of an authority of its own, servers that have them, and an HTTPS client by rustls.

#![allow(dead_code, unreachable_pub, missing_docs)] // Each test file uses its part.

use crate::support::{PATIENCE, Server, module};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

/// Size of what the module `lab` answers at /big.
pub const BIG: usize = 5_000_000;

pub fn lab() -> String {
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
pub struct Authority {
    pub dir: tempfile::TempDir,
}

impl Authority {
    pub fn new() -> Self {
        let authority = Self { dir: tempfile::tempdir().unwrap() };
        authority.openssl(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem -days 30 -subj /CN=authority",
        );
        let extensions = "subjectAltName=IP:127.0.0.1,DNS:localhost\nbasicConstraints=CA:FALSE\n";
        std::fs::write(authority.path("ext"), extensions).unwrap();
        authority
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    pub fn openssl(&self, args: &str) {
        let output = Command::new("openssl").args(args.split(' ')).current_dir(self.dir.path()).output().unwrap();
        assert!(output.status.success(), "{args}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// A pair `NAME.pem`, `NAME.key`; `kind` is what `openssl genpkey` is told.
    pub fn issue(&self, name: &str, kind: &str, days: &str) {
        self.openssl(&format!("genpkey {kind} -out {name}.key"));
        self.openssl(&format!("req -new -key {name}.key -out {name}.csr -subj /CN={name}"));
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days {days} -extfile ext -out {name}.pem"
        ));
    }

    /// A pair `NAME.pem`, `NAME.key` that nobody but itself vouches for; `more` are further arguments of `openssl req`.
    pub fn self_sign(&self, name: &str, more: &str) {
        self.openssl(&format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {name}.key -out {name}.pem -days 10 \
             -subj /CN={name} -addext subjectAltName=DNS:localhost,IP:127.0.0.1{more}"
        ));
    }

    pub fn server(&self, name: &str, args: &[&str]) -> Server {
        let (cert, key) = (self.text(&format!("{name}.pem")), self.text(&format!("{name}.key")));
        Server::with(&[&["--tls-cert", &cert, "--tls-key", &key], args].concat())
    }

    pub fn client_config(&self) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.path("ca.pem")).unwrap()).unwrap();
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth()
    }

    pub fn connect(&self, server: &Server) -> Secure {
        Secure::connect(&server.addr, self.client_config())
    }

    pub fn curl(&self, server: &Server, target: &str, args: &[&str]) -> Output {
        let url = format!("https://{}{target}", server.addr);
        let output = Command::new("curl").args(["-sS", "--cacert", &self.text("ca.pem")]).args(args).arg(url).output();
        output.unwrap()
    }

    pub fn deploy(&self, server: &Server) {
        let path = self.text("lab.c");
        std::fs::write(&path, lab()).unwrap();
        let output = self.curl(server, "/mgnt", &["--fail-with-body", "--data-binary", &format!("@{path}")]);
        assert!(output.status.success(), "{output:?} {}", server.log());
    }

    /// What `openssl s_client` says while it asks for /healthz.
    pub fn s_client(&self, server: &Server, args: &str) -> String {
        self.s_client_sends(server, args, b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    }

    /// What `openssl s_client` says while it sends `input`; it trusts `ca.pem`.
    pub fn s_client_sends(&self, server: &Server, args: &str, input: &[u8]) -> String {
        let mut child = Command::new("openssl")
            .args(["s_client", "-connect", &server.addr, "-CAfile", "ca.pem", "-verify_return_error", "-ign_eof"])
            .args(args.split(' '))
            .current_dir(self.dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let _ = child.stdin.as_mut().unwrap().write_all(input);
        let output = child.wait_with_output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    }
}

pub const P256: &str = "-algorithm EC -pkeyopt ec_paramgen_curve:P-256";
pub const RSA: &str = "-algorithm RSA -pkeyopt rsa_keygen_bits:2048";

pub fn started() -> (Authority, Server) {
    let authority = Authority::new();
    authority.issue("server", P256, "10");
    let server = authority.server("server", &["--shards", "2", "--body-bytes-max", "8000000"]);
    authority.deploy(&server);
    (authority, server)
}

/// One HTTPS connection.
pub struct Secure {
    pub stream: StreamOwned<ClientConnection, TcpStream>,
    buffer: Vec<u8>,
}

impl Secure {
    pub fn connect(addr: &str, config: ClientConfig) -> Self {
        let socket = TcpStream::connect(addr).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_nodelay(true).unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let rustls = ClientConnection::new(Arc::new(config), name).unwrap();
        Self { stream: StreamOwned::new(rustls, socket), buffer: Vec::new() }
    }

    pub fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).unwrap();
        self.stream.flush().unwrap();
    }

    pub fn ask(&mut self, target: &str) {
        self.send(&format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n"));
    }

    /// Status and body of the next answer.
    pub fn answer(&mut self) -> (u16, Vec<u8>) {
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

    pub fn get(&mut self, target: &str) -> (u16, Vec<u8>) {
        self.ask(target);
        self.answer()
    }

    pub fn certificate(&self) -> Vec<u8> {
        self.stream.conn.peer_certificates().unwrap()[0].to_vec()
    }
}

/// The first message of a client.
pub fn client_hello() -> Vec<u8> {
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
