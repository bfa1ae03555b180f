//! HTTPS and WSS through the real server, spoken by openssl, curl and rustls.

use crate::support::tls::{Authority, BIG, P256, RSA, client_hello, started};
use crate::support::{self, Server, eventually, signal};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tungstenite::Message;

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
fn openssl_speaks_wss() {
    let (authority, server) = started();
    let upgrade = "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    // Two texts, masked with zeros (RFC 6455 §5.2); the second has the server send a hundred and close.
    let (text, push) = (b"\x81\x8d\0\0\0\0wss by hand 7", b"\x81\x84\0\0\0\0push");
    for version in ["-tls1_2", "-tls1_3"] {
        let input = [upgrade.as_bytes(), text, push].concat();
        let said = authority.s_client_sends(&server, version, &input);
        for part in ["101 Switching Protocols", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", "wss by hand 7", "t99"] {
            assert!(said.contains(part), "{version}, {part}: {said}");
        }
    }
}

#[test]
fn a_chain_is_served_whole() {
    let authority = Authority::new();
    std::fs::write(authority.path("ca-ext"), "basicConstraints=critical,CA:TRUE\n").unwrap();
    authority.openssl(&format!("genpkey {P256} -out middle.key"));
    authority.openssl("req -new -key middle.key -out middle.csr -subj /CN=middle");
    authority.openssl(
        "x509 -req -in middle.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 10 -extfile ca-ext -out middle.pem",
    );
    authority.openssl(&format!("genpkey {RSA} -out leaf.key"));
    authority.openssl("req -new -key leaf.key -out leaf.csr -subj /CN=leaf");
    authority.openssl(
        "x509 -req -in leaf.csr -CA middle.pem -CAkey middle.key -CAcreateserial -days 10 -extfile ext -out leaf.pem",
    );
    let read = |name: &str| std::fs::read_to_string(authority.path(name)).unwrap();
    std::fs::write(authority.path("whole.pem"), read("leaf.pem") + &read("middle.pem")).unwrap();
    std::fs::copy(authority.path("leaf.key"), authority.path("whole.key")).unwrap();
    let server = authority.server("whole", &[]);
    let said = authority.s_client(&server, "-showcerts");
    assert!(said.contains("Verification: OK") && said.matches("BEGIN CERTIFICATE").count() >= 2, "{said}");
    assert_eq!(authority.curl(&server, "/healthz", &[]).stdout, b"ok\n");
    let cut = authority.server("leaf", &[]);
    assert!(!authority.curl(&cut, "/healthz", &[]).status.success(), "without its middle nobody can follow it");
}

#[test]
fn self_signed_certificates_are_for_those_who_name_them() {
    let authority = Authority::new();
    // The second is what `openssl req -x509` makes by itself.
    for (name, more) in [("own", " -addext basicConstraints=critical,CA:FALSE"), ("plain", "")] {
        authority.self_sign(name, more);
        let server = authority.server(name, &[]);
        let pem = authority.text(&format!("{name}.pem"));
        assert_eq!(authority.curl(&server, "/healthz", &["--cacert", &pem]).stdout, b"ok\n", "{name}");
        assert!(!authority.curl(&server, "/healthz", &[]).status.success(), "{name}");
        let said = authority.s_client(&server, &format!("-CAfile {name}.pem"));
        assert!(said.contains("Verification: OK") && said.contains("HTTP/1.1 200 OK"), "{name}: {said}");
        let said = authority.s_client(&server, "-brief");
        assert!(said.contains("self-signed certificate") && !said.contains("HTTP/1.1"), "{name}: {said}");
    }
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

/// How a server with this pair ends that does not start, or only checks.
fn end(cert: &str, key: &str, more: &[&str]) -> (Option<i32>, String, String) {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_cweb"))
        .args(["serve", "--port", "0", "--tls-cert", cert, "--tls-key", key, "--data-dir"])
        .arg(dir.path())
        .args(more)
        .env_remove("CWEB_ADMIN_KEY")
        .output()
        .unwrap();
    if more.contains(&"--check") {
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "a check makes nothing");
    }
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// What the server says of a pair that it does not start with; a check says the same.
fn refusal(cert: &str, key: &str) -> String {
    let (code, _, said) = end(cert, key, &[]);
    assert_eq!(code, Some(1), "{cert} {key}: {said}");
    assert_eq!(end(cert, key, &["--check"]), (code, String::new(), said.clone()));
    said
}

#[test]
fn a_check_says_what_is_right_and_what_is_wrong() {
    let authority = Authority::new();
    authority.issue("good", P256, "10");
    let pair = (authority.text("good.pem"), authority.text("good.key"));
    let check = |more: &[&str]| end(&pair.0, &pair.1, &[&["--silent", "--check"], more].concat());
    let right = "no errors: the settings, the certificate and its key\n";
    assert_eq!(check(&[]), (Some(0), right.to_owned(), String::new()));
    let keys = authority.text("keys.toml");
    for (text, code, said) in [("", 0, "the file of keys"), ("[[key]]\nname = 1", 1, "keys.toml")] {
        std::fs::write(&keys, text).unwrap();
        let (found, out, errors) = check(&["--keys-file", &keys]);
        assert!(found == Some(code) && (out + &errors).contains(said), "{text}: {found:?} {errors}");
    }
    let (code, _, errors) = check(&["--shards", "0"]);
    assert!(code == Some(1) && errors.contains("--shards"), "{errors}");
    let (code, _, errors) = check(&["--production"]);
    assert!(code == Some(1) && errors.contains("--production needs a key"), "{errors}");
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
        ("", "good.key", ["--tls-cert", "Is a directory"]),
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
    server.expect_log("expired on 20");
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
fn a_handshake_that_has_begun_before_a_stop_still_leads_to_an_answer() {
    let authority = Authority::new();
    authority.issue("server", P256, "10");
    let times = ["--header-timeout-ms", "600000", "--shutdown-timeout-ms", "600000"];
    let server = authority.server("server", &[&["--shards", "2"], &times[..]].concat());
    authority.deploy(&server);
    let mut silent = server.connect();
    let mut late = authority.connect(&server);
    let stream = &mut late.stream;
    stream.conn.write_tls(&mut stream.sock).unwrap();
    assert_eq!(stream.sock.peek(&mut [0]).unwrap(), 1, "the server has answered the first message");
    signal(server.pid(), "TERM");
    server.expect_log("stopping");
    assert!(silent.is_closed());
    // Longer than a client has that has no handshake to end.
    std::thread::sleep(Duration::from_millis(1_500));
    assert_eq!(late.get("/fast"), (200, b"fast".to_vec()));
    server.expect_log(" stopped");
    assert!(!server.log().contains("still running"), "{}", server.log());
}

#[test]
fn a_silent_client_is_closed_in_time_and_others_are_served() {
    let authority = Authority::new();
    authority.issue("server", P256, "10");
    // A busy machine may keep a client from its handshake for some seconds.
    let server = authority.server("server", &["--header-timeout-ms", "12000", "--shards", "1"]);
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
    assert!(took >= Duration::from_millis(11_500) && took < Duration::from_secs(60), "{took:?}");
    let mut rest = Vec::new();
    let _ = greeted.stream.read_to_end(&mut rest);
    assert!(before.elapsed() < Duration::from_secs(60));
    assert_eq!(open.get("/healthz").0, 200, "an open connection has the time-out for idle ones");
}

#[test]
fn half_handshakes_and_garbage_leave_nothing_behind() {
    let (authority, server) = started();
    server.wait_complete();
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
    let memory = server.memory_kib_own();
    for _ in 0..3 {
        round();
    }
    eventually("all are closed", || server.descriptors() <= descriptors);
    let grown = server.memory_kib_own().saturating_sub(memory);
    assert!(grown < 4 * 1024, "{grown} KiB more");
    assert_eq!(authority.connect(&server).get("/fast").0, 200);
    let log = server.stop();
    assert!(!log.contains("panic"), "{log}");
}

#[test]
fn a_slow_reader_gets_everything_in_bounded_memory() {
    let (authority, server) = started();
    assert_eq!(authority.connect(&server).get("/big").1.len(), BIG);
    let memory = server.memory_kib_own();
    let mut client = authority.connect(&server);
    let count = 60;
    client.ask("/big");
    // It fills the socket; what is unsent then holds back what is asked after it.
    std::thread::sleep(Duration::from_millis(500));
    for _ in 1..count {
        client.ask("/big");
    }
    std::thread::sleep(Duration::from_millis(1000));
    let grown = server.memory_kib_own().saturating_sub(memory);
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
    let log = Server::on(&dir, &["--production"], &[("CWEB_ADMIN_KEY", "key-of-sixteen-bytes")]).stop();
    assert_eq!(log.matches(warning).count(), 1, "{log}");
    assert!(!Server::start().stop().contains(warning));
}

/// What `cweb serve --production` says that does not start in `dir`.
fn production_refusal(dir: &std::path::Path) -> String {
    let (started, text) = support::cweb(
        &["serve", "--production", "--port", "0", "--data-dir", dir.to_str().unwrap()],
        dir,
        &[("CWEB_ADMIN_KEY", "key-of-sixteen-bytes")],
    );
    assert!(!started, "{text}");
    text
}

#[test]
fn production_takes_the_pair_of_the_data_directory() {
    let authority = Authority::new();
    authority.issue("server", P256, "10");
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let (cert, key) = (dir.path().join("server.crt"), dir.path().join("server.key"));
    std::fs::copy(authority.path("server.pem"), &cert).unwrap();
    let said = production_refusal(dir.path());
    assert!(said.contains("server.crt but not") && said.contains("HTTPS needs both"), "{said}");
    std::fs::copy(authority.path("server.key"), &key).unwrap();
    // An address of the directory itself: relative, as people give it.
    let server = Server::on(&dir, &["--production"], &[("CWEB_ADMIN_KEY", "key-of-sixteen-bytes")]);
    server.expect_log(&format!("listening on https://0.0.0.0:{}", server.addr.rsplit(':').next().unwrap()));
    server.expect_log(&format!("HTTPS with the certificate {}", cert.display()));
    assert_eq!(authority.curl(&server, "/healthz", &[]).stdout, b"ok\n");
    let asked =
        |args: &[&str]| authority.curl(&server, "/mgnt", &[&["-w", "%{http_code}", "-o", "/dev/null"], args].concat());
    assert_eq!(asked(&[]).stdout, b"401");
    assert_eq!(asked(&["-H", "X-API-Key: key-of-sixteen-bytes"]).stdout, b"200");
    signal(server.pid(), "HUP");
    server.expect_log("the certificate was read again");
    server.stop();
    // In development the files mean nothing, and a pair that is named comes first.
    let server = Server::on(&dir, &[], &[]);
    server.expect_log("listening on http://");
    server.stop();
    std::fs::remove_file(&cert).unwrap();
    assert!(production_refusal(dir.path()).contains("server.key but not"));
    let named = authority.text("server.pem");
    let pair = ["--production", "--tls-cert", &named, "--tls-key", key.to_str().unwrap()];
    Server::on(&dir, &pair, &[("CWEB_ADMIN_KEY", "key-of-sixteen-bytes")]).stop();
}

#[test]
fn clients_are_known_by_their_certificates() {
    let (authority, other) = (Authority::new(), Authority::new());
    ["server", "alice"].iter().for_each(|name| authority.issue(name, P256, "10"));
    other.issue("mallory", P256, "10");
    let code = r#"
static int who(struct cweb_context *c, http_request_t *q, http_response_t *r) { (void)c;
  const char *name = cweb_client_name(q); return cweb_respond(r, HTTP_200_OK, NULL, "%s.", name == NULL ? "nobody" : name); }
"#;
    let routes = r#"{"/who","GET",who,NONE},{"/inline","GET",who,CWEB_INLINE},{"/piece","GET",who,CWEB_STREAM},{"/alone","GET",who,CWEB_KILLABLE}"#;
    std::fs::write(authority.path("who.c"), support::module("who", code, routes, 4, "")).unwrap();
    let pair = |of: &Authority, name: &str| {
        ["--cert".to_owned(), of.text(&format!("{name}.pem")), "--key".to_owned(), of.text(&format!("{name}.key"))]
    };
    let (alice, mallory) = (pair(&authority, "alice"), pair(&other, "mallory"));
    let ca = authority.text("ca.pem");
    for isolation in ["none", "process"] {
        let args = ["--shards", "1", "--isolation", isolation, "--tls-client-ca", &ca];
        for optional in [false, true] {
            let more: &[&str] = if optional { &["--tls-client-optional"] } else { &["--admin-listen", "127.0.0.1:0"] };
            let server = authority.server("server", &[&args[..], more].concat());
            // The commands show no certificate: the admin address asks for none.
            let log = server.log();
            let admin = log.lines().find_map(|line| line.strip_prefix("listening on ")?.strip_suffix(" (admin)"));
            let url = admin.map_or_else(|| format!("https://{}", server.addr), str::to_owned);
            let (deployed, said) =
                support::cweb(&["deploy", "--server", &url, "--cacert", &ca, "who.c"], authority.dir.path(), &[]);
            assert!(deployed, "{said}");
            let ask = |pair: &[String]| {
                let url = |target: &str| format!("https://{}{target}", server.addr);
                let (inline, piece, alone) = (url("/inline"), url("/piece"), url("/alone"));
                let pair: Vec<&str> = pair.iter().map(String::as_str).collect();
                let output = authority.curl(
                    &server,
                    "/who",
                    &[&pair[..], &[&inline, &piece, &alone, "--max-time", "60"]].concat(),
                );
                String::from_utf8(output.stdout).unwrap()
            };
            // Each request of the connection has the name.
            assert_eq!(ask(&alice), "alice.".repeat(4), "{isolation}");
            assert_eq!(ask(&mallory), "", "another authority");
            assert_eq!(ask(&[]), if optional { "nobody.".repeat(4) } else { String::new() }, "no certificate");
        }
    }
    let refused = |args: &[&str]| {
        let (started, said) = support::cweb(&[&["serve", "--port", "0"], args].concat(), other.dir.path(), &[]);
        assert!(!started && said.contains("--tls-client-ca"), "{said}");
        said
    };
    assert!(refused(&["--tls-client-ca", &ca]).contains("there is no --tls-cert"));
    let (cert, key) = (authority.text("server.pem"), authority.text("server.key"));
    let tls = ["--tls-cert", &cert, "--tls-key", &key, "--tls-client-ca"];
    assert!(refused(&[&tls[..], &["none.pem", "--check"]].concat()).contains("No such file"));
    assert!(refused(&[&tls[..], &["mallory.key"]].concat()).contains("no PEM certificate"));
}
