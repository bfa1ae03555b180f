//! The commands that talk to a server, over HTTPS: whom they trust, and what they say of whom they don't.

use crate::support::tls::{Authority, P256};
use crate::support::{self, Server, constant, eventually};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

const NO_AUTHORITY: &str = " -addext basicConstraints=critical,CA:FALSE";

/// A server that vouches for itself, and the file to trust it by.
fn self_signed() -> (Authority, Server, String) {
    let authority = Authority::new();
    authority.self_sign("own", NO_AUTHORITY);
    let server = authority.server("own", &[]);
    let pem = authority.text("own.pem");
    (authority, server, pem)
}

/// `cweb ARGS` in `dir` with the server at `url`, and nothing of the tester's environment that would matter.
fn command(dir: &Path, url: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cweb"));
    for name in ["CWEB_ADMIN_KEY", "CWEB_CACERT", "SSL_CERT_FILE", "SSL_CERT_DIR"] {
        command.env_remove(name);
    }
    command.current_dir(dir).args(args).env("CWEB_SERVER", url).stdin(Stdio::null());
    command
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// What a command says that works.
fn works(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    text(&output)
}

/// What a command says that does not.
fn fails(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(!output.status.success(), "{}", text(&output));
    text(&output)
}

#[test]
fn every_command_works_with_a_certificate_that_is_named() {
    let (authority, server, pem) = self_signed();
    let url = format!("https://{}", server.addr);
    let dir = authority.dir.path();
    std::fs::write(dir.join("greet.c"), constant("greet", "/greet", "hello")).unwrap();
    std::fs::write(dir.join("routes.ini"), format!("server_url={url}\n[modules]\ngreet.c\n")).unwrap();
    let flag = |args: &[&str]| command(dir, &url, &[args, &["--cacert", &pem]].concat());
    let variable = |args: &[&str]| {
        let mut command = command(dir, &url, args);
        command.env("CWEB_CACERT", &pem);
        command
    };
    assert!(works(flag(&["deploy", "greet.c"])).contains("1 of 1 deployed to https://127.0.0.1"));
    assert!(works(variable(&["deploy", "greet.c"])).contains("module greet"));
    let named_by_file = command(dir, "", &["deploy", "--cacert", &pem]);
    assert!(works(named_by_file).contains(&format!("deployed to {url}")));
    assert!(works(flag(&["modules"])).contains("/greet"));
    assert!(works(variable(&["modules", "remove", "greet"])).contains("removed greet"));
    // The system's own certificates, as OpenSSL finds them.
    let mut system = command(dir, &url, &["modules"]);
    system.env("SSL_CERT_FILE", &pem);
    assert!(works(system).contains("0 module(s)"));
}

#[test]
fn events_of_jobs_stream_over_https() {
    let (authority, server, pem) = self_signed();
    let (dir, url) = (authority.dir.path(), format!("https://{}", server.addr));
    let sum = support::root().join("example/sum_job.c");
    let with = |args: &[&str]| command(dir, &url, &[args, &["--cacert", &pem]].concat());
    works(with(&["deploy", sum.to_str().unwrap()]));
    let said = works(with(&["jobs", "submit", "--watch", "sum", "{\"numbers\":[1,2,3.5]}"]));
    assert!(said.contains("6.5") && said.contains("done"), "{said}");
    let job = works(with(&["jobs", "submit", "sum", "{\"numbers\":[4]}"]));
    let job = job.split_whitespace().find(|word| word.len() == 36 && word.contains('-')).unwrap();
    let said = works(with(&["jobs", "watch", job]));
    assert!(said.contains("done"), "{said}");
    let said = fails(command(dir, &url, &["jobs", "watch", job]));
    assert!(said.contains("--cacert FILE"), "{said}");
}

#[test]
fn dev_deploys_over_https_again_and_again() {
    let (authority, server, pem) = self_signed();
    let (dir, url) = (authority.dir.path(), format!("https://{}", server.addr));
    let path = dir.join("v.c");
    std::fs::write(&path, constant("v", "/v", "one")).unwrap();
    let mut dev = command(dir, &url, &["dev", "v.c", "--cacert", &pem]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(dev.stdout.take().unwrap()).lines();
    let mut next = |what: &str| assert!(lines.any(|line| line.unwrap().contains(what)), "{what}");
    next("module v");
    let answer = || authority.curl(&server, "/v", &["--cacert", &pem]).stdout;
    assert_eq!(answer(), b"one");
    let seen = std::fs::metadata(&path).unwrap().modified().unwrap();
    std::fs::write(&path, constant("v", "/v", "two")).unwrap();
    // Another time than before, whatever the clock's grain.
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_modified(seen + std::time::Duration::from_secs(1)).unwrap();
    next("module v");
    eventually("the second version", || answer() == b"two");
    dev.kill().unwrap();
    dev.wait().unwrap();
}

#[test]
fn the_script_works_over_https_too() {
    let (authority, server, pem) = self_signed();
    std::fs::write(authority.path("greet.c"), constant("greet", "/greet", "hello")).unwrap();
    let script = |args: &[&str], cacert: &str| {
        let mut command = Command::new(support::root().join("scripts/cweb"));
        command.args(args).current_dir(authority.dir.path()).env("CWEB_SERVER", format!("https://{}", server.addr));
        command.env("CWEB_CACERT", cacert).env_remove("CWEB_ADMIN_KEY");
        command
    };
    assert!(works(script(&["deploy", "greet.c"], &pem)).contains("deployed greet "));
    assert!(works(script(&["modules"], &pem)).contains("greet"));
    fails(script(&["modules"], ""));
}

/// Serves one handshake with a pair that `cweb serve` would refuse.
fn outdated(authority: &Authority, name: &str) -> String {
    let certificate = CertificateDer::from_pem_file(authority.path(&format!("{name}.pem"))).unwrap();
    let key = PrivateKeyDer::from_pem_file(authority.path(&format!("{name}.key"))).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let (socket, _) = listener.accept().unwrap();
        let mut stream = StreamOwned::new(ServerConnection::new(Arc::new(config)).unwrap(), socket);
        let _ = stream.read(&mut [0; 1]);
    });
    url
}

#[test]
fn who_is_not_trusted_is_told_why_and_what_helps() {
    let (authority, server, pem) = self_signed();
    let dir = authority.dir.path();
    let url = format!("https://{}", server.addr);
    let port = server.addr.rsplit(':').next().unwrap();
    let expect = |url: &str, args: &[&str], parts: &[&str]| {
        let said = fails(command(dir, url, &[&["modules"], args].concat()));
        assert!(parts.iter().all(|part| said.contains(part)), "{parts:?}: {said}");
    };
    expect(&url, &[], &[&url, "no authority that this machine trusts", "--cacert FILE or CWEB_CACERT"]);
    expect(&url, &["--cacert", &authority.text("ca.pem")], &["no authority that this machine trusts"]);
    expect(&url, &["--cacert", "missing.pem"], &["--cacert missing.pem: No such file"]);
    expect(&url, &["--cacert", "own.key"], &["--cacert own.key: the file has no PEM certificate"]);
    // A name that leads to the server and is not in its certificate.
    expect(&format!("https://[::ffff:127.0.0.1]:{port}"), &["--cacert", &pem], &["its certificate is for other names"]);
    works(command(dir, &format!("https://localhost:{port}"), &["modules", "--cacert", &pem]));
    // The two protocols at the wrong doors.
    expect(&format!("http://{}", server.addr), &[], &["this port speaks HTTPS only"]);
    let plain = Server::start();
    expect(&format!("https://{}", plain.addr), &[], &["it does not speak HTTPS on this port; try http://"]);
    // What an http:// server is trusted by is of no interest.
    works(command(dir, &format!("http://{}", plain.addr), &["modules", "--cacert", "missing.pem"]));

    authority.self_sign("plain", "");
    let as_authority = authority.server("plain", &[]);
    let url = format!("https://{}", as_authority.addr);
    expect(&url, &["--cacert", &authority.text("plain.pem")], &["CA:TRUE", "basicConstraints=critical,CA:FALSE"]);
    authority.issue("late", P256, "-1");
    expect(&outdated(&authority, "late"), &["--cacert", &authority.text("ca.pem")], &["its certificate has expired"]);
    // Other commands, and the one set of exit codes.
    std::fs::write(dir.join("x.c"), constant("x", "/x", "x")).unwrap();
    let url = format!("https://{}", server.addr);
    let said = fails(command(dir, &url, &["deploy", "x.c"]));
    assert!(said.contains("--cacert FILE") && said.contains("0 of 1 deployed"), "{said}");
    let output = command(dir, &url, &["jobs", "list", "--cacert", "missing.pem"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
}
