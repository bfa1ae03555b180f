//! `cweb logs` and `on_setting`: what a running module says, and what it is told.

use crate::support::{self, Client, Server, cweb, eventually, isolation, module, root, signal};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

fn talker() -> String {
    std::fs::read_to_string(root().join("tests/modules/talker.c")).unwrap()
}

/// A command that runs until it is dropped, and what it has said.
struct Running {
    child: Child,
    said: Arc<Mutex<String>>,
}

impl Running {
    fn start(args: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cweb"));
        command.args(args).env_remove("CWEB_ADMIN_KEY").stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let said = Arc::<Mutex<String>>::default();
        let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        for stream in [Box::new(out) as Box<dyn Read + Send>, Box::new(err)] {
            let said = Arc::clone(&said);
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    *said.lock().unwrap() += &(line + "\n");
                }
            });
        }
        Self { child, said }
    }

    fn expect(&self, text: &str) {
        eventually(&format!("\"{text}\" in {}", self.said()), || self.said().contains(text));
    }

    fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An address that stays the same while servers come and go behind it.
fn front(addr: &str) -> (String, Arc<Mutex<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (front, behind) = (listener.local_addr().unwrap().to_string(), Arc::new(Mutex::new(addr.to_owned())));
    let current = Arc::clone(&behind);
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = TcpStream::connect(current.lock().unwrap().as_str()) else { continue };
            let pairs = [(client.try_clone(), server.try_clone()), (Ok(server), Ok(client))];
            for (from, to) in pairs {
                let (mut from, mut to) = (from.unwrap(), to.unwrap());
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(std::net::Shutdown::Both);
                });
            }
        }
    });
    (front, behind)
}

#[test]
fn lines_of_a_module_come_as_they_are_printed() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let server = Server::on(&dir, &["--silent"], &[]);
    let (addr, behind) = front(&server.addr);
    let unknown = cweb(&["logs", "talker", "-f", "--server", &addr], dir.path(), &[]);
    assert!(!unknown.0 && unknown.1.contains("there is no module named talker"), "{}", unknown.1);
    server.deploy(&talker());
    for text in ["one", "two", "three"] {
        server.get(&format!("/say?text={text}"));
    }
    // What the server's own log leaves out is there too, each line once and with one time.
    eventually("the last line is there", || server.get("/mgnt/talker/logs?lines=1").text().contains("warned of three"));
    let (_, said) = cweb(&["logs", "talker", "--server", &addr], dir.path(), &[]);
    let lines: Vec<&str> = said.lines().map(|line| line.split_once("Z ").unwrap().1).collect();
    // An isolated module's lines come through a pipe, so the server's own line may be before them.
    let (own, printed): (Vec<&str>, Vec<&str>) = lines.iter().partition(|line| line.starts_with("* "));
    assert_eq!(printed.first(), Some(&"loaded with (null)"), "{said}");
    assert!(own.iter().any(|line| line.starts_with("* module talker is deployed")), "{said}");
    assert!(lines.ends_with(&["said two", "! warned of two", "said three", "! warned of three"]), "{said}");
    assert!(!server.log().contains("said one"), "{}", server.log());
    let following = Running::start(&["logs", "talker", "-f", "--lines", "2", "--server", &addr]);
    following.expect("said three");
    server.get("/say?text=%1b%5b2Jfour");
    following.expect("said \\u{1b}[2Jfour\n");
    assert!(!following.said().contains("said two"), "{}", following.said());
    assert_eq!(server.get("/crash").status, 500);
    following.expect("! module talker failed");
    following.expect("SIGSEGV");
    // The next server has the module too, and the command finds it.
    server.stop();
    following.expect("trying again");
    let server = Server::on(&dir, &[], &[]);
    *behind.lock().unwrap() = server.addr.clone();
    server.get("/say?text=again");
    following.expect("said again");
    assert_eq!(following.said().matches("said three").count(), 1, "{}", following.said());
    server.expect_log("INFO module: [talker] said again");
    assert!(!server.log().contains("domain default |"), "{}", server.log());
    let none = cweb(&["logs", "talker", "--since", "2100-01-01T00:00:00Z", "--server", &addr], dir.path(), &[]);
    assert_eq!(none, (true, String::new()));
    assert!(cweb(&["logs", "talker", "--since", "1h", "--server", &addr], dir.path(), &[]).1.contains("said again"));
    assert!(!cweb(&["logs", "talker", "--since", "yesterday", "--server", &addr], dir.path(), &[]).0);
    assert_eq!(server.get("/mgnt/talker/logs?lines=x").status, 400);
    // The end of the module is the end of its lines.
    assert_eq!(server.connect().request("DELETE", "/mgnt/talker", &[], b"").status, 200);
    following.expect("is removed");
    server.deploy(&support::constant("quiet", "/quiet", "x"));
    assert!(server.get("/mgnt/quiet/logs").text().contains("module quiet is deployed"));
    assert_eq!(server.connect().request("DELETE", "/mgnt/quiet", &[], b"").status, 200);
    assert_eq!(server.get("/mgnt/quiet/logs").status, 404);
}

#[test]
fn a_slow_reader_loses_lines_and_nobody_waits_for_it() {
    let limits = ["--module-log-bytes-max", "65536", "--module-output-bytes-max", "100000000"];
    let server = Server::with(&limits);
    server.deploy(&talker());
    let mut slow = TcpStream::connect(&server.addr).unwrap();
    slow.set_read_timeout(Some(support::PATIENCE)).unwrap();
    // Answers that are owed come first.
    let request = "GET /say?text=first HTTP/1.1\r\nHost: localhost\r\n\r\n\
                   GET /mgnt/talker/logs HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n";
    slow.write_all(request.as_bytes()).unwrap();
    let mut read = String::new();
    let mut buffer = vec![0; 65536];
    let more = |slow: &mut TcpStream, read: &mut String, buffer: &mut [u8]| {
        let count = slow.read(buffer).unwrap();
        assert!(count > 0, "the stream has ended: {}", &read[read.len().saturating_sub(500)..]);
        read.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
    };
    while !read.contains("said first") {
        more(&mut slow, &mut read, &mut buffer);
    }
    assert!(read.starts_with("HTTP/1.1 200 OK") && read.contains("done"), "{read}");
    for _ in 0..5 {
        assert_eq!(server.get("/flood?lines=1200").text(), "done");
    }
    server.get("/say?text=last");
    while !read.contains("said last") {
        more(&mut slow, &mut read, &mut buffer);
    }
    assert!(read.contains("event: lost\ndata: {\"lost\":"), "no line was lost of 18 MB in a buffer of 64 KiB");
    let kept = server.get("/mgnt/talker/logs?lines=100000").text();
    assert!(kept.len() < 100_000, "{} bytes", kept.len());
}

/// Requests for the module's paths are listed, also where the server itself answers.
fn requests_are_listed(server: &Server) {
    let listed = Running::start(&["logs", "talker", "-f", "--requests", "--lines", "2", "--server", &server.addr]);
    // The module's own line may come before it or after it.
    listed.expect("module talker is deployed");
    // A shard waits for nobody: a line that comes while another thread has the log is left out. So the request is sent again.
    let expect = |line: &str, request: &dyn Fn()| {
        eventually(&format!("\"{line}\" in {}", listed.said()), || {
            request();
            listed.said().contains(line)
        });
    };
    assert_eq!(server.get("/elsewhere").status, 404);
    expect("> GET /setting?x=1 200 ", &|| assert_eq!(server.get("/setting?x=1").status, 200));
    expect("> POST /say?x=2 405 ", &|| assert_eq!(server.post("/say?x=2", b"").status, 405));
    let sends = |head: &str, status: u16| {
        let mut client = server.connect();
        client.send(head.as_bytes());
        assert_eq!(client.response().status, status);
    };
    for (framing, status) in
        [("Content-Length: 2000000\r\n\r\n", 413), ("Transfer-Encoding: chunked\r\n\r\nno size\r\n", 400)]
    {
        let head = format!("GET /say?{status} HTTP/1.1\r\nHost: localhost\r\n{framing}");
        expect(&format!("> GET /say?{status} {status} "), &|| sends(&head, status));
    }
    // Those whose head can't be read, and one for a path that is nobody's below a module's own.
    let (uri, field) = ("u".repeat(20_000), "f".repeat(100_000));
    for (line, target, fields, status) in [
        ("> GET /say?uri= 400 ", "/say?uri=", "", 400),
        ("uuu 414 ", &*format!("/say?{uri}"), "", 414),
        ("> GET /say?head 431 ", "/say?head", &*field, 431),
    ] {
        let host = if status == 400 { "no field" } else { "Host: localhost" };
        let head = format!("GET {target} HTTP/1.1\r\n{host}\r\nX: {fields}\r\n\r\n");
        expect(line, &|| sends(&head, status));
    }
    expect("> GET /say/slip 404 ", &|| assert_eq!(server.get("/say/slip").status, 404));
    assert!(!listed.said().contains("elsewhere"), "the path is no module's: {}", listed.said());
}

#[test]
fn a_change_of_a_setting_is_told() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let server = Server::on(&dir, &[], &[]);
    let put = |path: &str, value: &str| {
        let path = format!("/mgnt/talker/{path}");
        assert_eq!(server.connect().request("PUT", &path, &[], value.as_bytes()).status, 200);
    };
    put("settings/COLOR", "red");
    server.deploy(&talker());
    assert_eq!(server.get("/setting").text(), "red 0", "what is there before the module is no change");
    requests_are_listed(&server);
    put("settings/COLOR", "green");
    assert_eq!(server.get("/setting").text(), "green 1", "the answer comes after the call");
    put("settings/COLOR", "green");
    put("settings/OTHER", "x");
    put("secrets/TOKEN", "s3cret");
    assert_eq!(server.get("/setting").text(), "green 3");
    assert_eq!(server.connect().request("DELETE", "/mgnt/talker/settings/COLOR", &[], b"").status, 200);
    assert_eq!(server.get("/setting").text(), "none 4");
    eventually("all is told", || server.get("/mgnt/talker/logs").text().contains("changed COLOR: 0"));
    let lines = server.get("/mgnt/talker/logs").text();
    assert!(lines.contains("changed TOKEN: 6") && !lines.contains("s3cret"), "{lines}");
    // A callback that fails does not undo the change, and the module is served on.
    put("settings/COLOR", "crash");
    eventually("the failure is told", || server.get("/mgnt/talker/logs").text().contains("failed in on_setting"));
    eventually("it is served on", || server.get("/setting").text().starts_with("crash "));
    put("settings/COLOR", "blue");
    eventually("it has the next value", || server.get("/setting").text().starts_with("blue "));
}

#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data").display().to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_cweb"));
    command.args(["serve", "--listen", "127.0.0.1:0", "--data-dir", &data, "--isolation", &isolation()]);
    command.args(["--module-output-bytes-max", "100000000", "--compile-timeout-ms", "50000"]);
    let mut child = command.env_remove("CWEB_ADMIN_KEY").stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let addr = loop {
        let mut line = String::new();
        assert!(log.read_line(&mut line).unwrap() > 0, "the server does not start");
        if let Some(addr) = line.trim().strip_prefix("listening on http://") {
            break addr.to_owned();
        }
    };
    // From here on nobody reads.
    let code = "#define H(f) static int f(struct cweb_context *c, http_request_t *q, http_response_t *r)\n\
        H(spam) { (void)c, (void)q, (void)r; for (int n = 0; n < 2000; n++) printf(\"%0100d\\n\", n); fflush(stdout); return 0; }\n";
    let source = module("spam", code, r#"{"/spam","GET",spam,NONE}"#, 1, "");
    let ask = |method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]| {
        Client::connect(&addr).request(method, target, headers, body).status
    };
    assert_eq!(ask("POST", "/mgnt", &[], source.as_bytes()), 200);
    assert_eq!(ask("GET", "/spam", &[], b""), 200);
    // The server has lines of its own for each of these.
    for _ in 0..30 {
        let refused = ask("GET", "/mgnt", &[("Authorization", "Bearer wrong")], b"");
        assert!((200..=429).contains(&refused), "{refused}");
    }
    assert_eq!(ask("GET", "/spam", &[], b""), 200);
    assert_eq!(ask("DELETE", "/mgnt/spam", &[], b""), 200);
    assert_eq!(ask("GET", "/healthz", &[], b""), 200);
    signal(child.id(), "TERM");
    eventually("the server ends", || child.try_wait().unwrap().is_some());
}
