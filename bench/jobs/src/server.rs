//! The server to be measured, and simple questions to it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A running server with a data directory of its own, both gone when dropped.
pub(crate) struct Server {
    child: Child,
    dir: PathBuf,
    pub(crate) addr: String,
}

impl Server {
    /// Starts `program` and deploys the C source `module`.
    pub(crate) fn start(program: &Path, module: &str, dir: PathBuf, args: &[&str]) -> Self {
        std::fs::create_dir_all(&dir).expect("a directory for the server");
        let mut child = Command::new(program)
            .args(["serve", "--silent", "--isolation", "none", "--port", "0", "--data-dir"])
            .arg(&dir)
            .args(args)
            .env_remove("CWEB_ADMIN_KEY")
            .stderr(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let mut log = BufReader::new(child.stderr.take().expect("stderr is piped"));
        let addr = loop {
            let mut line = String::new();
            assert!(log.read_line(&mut line).expect("a log line") > 0, "the server ended");
            if let Some(addr) = line.trim_end().strip_prefix("listening on http://") {
                break addr.to_owned();
            }
            eprint!("{line}");
        };
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::stderr()));
        let server = Self { child, dir, addr };
        let (status, text) = server.ask("POST", "/mgnt", module);
        assert_eq!(status, 200, "{text}");
        server
    }

    /// One request on a connection of its own: status and body.
    pub(crate) fn ask(&self, method: &str, target: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.addr).expect("a connection");
        let head = format!(
            "{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all((head + body).as_bytes()).expect("the request is sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        (status, answer.split_once("\r\n\r\n").expect("a head").1.to_owned())
    }

    /// Submits a job and returns its UUID.
    pub(crate) fn submit(&self, body: &str) -> String {
        let (status, text) = self.ask("POST", "/jobs", body);
        assert_eq!(status, 200, "{text}");
        field(&text, "job_uuid").trim_matches('"').to_owned()
    }

    /// Commands and transactions of the writer so far.
    pub(crate) fn written(&self) -> (f64, f64) {
        let text = self.ask("GET", "/metrics", "").1;
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.and_then(|value| value.parse::<f64>().ok()).expect(name)
        };
        (value("cweb_job_commands_total"), value("cweb_job_commits_total"))
    }

    /// User and system time of the server so far, in seconds.
    pub(crate) fn cpu_s(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("/proc");
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |at: usize| fields[at].parse::<f64>().expect("ticks");
        // SAFETY: sysconf has no preconditions.
        (ticks(11) + ticks(12)) / unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// The value of the first field `name` of a JSON text, as it stands there.
pub(crate) fn field<'a>(json: &'a str, name: &str) -> &'a str {
    let at = json.find(&format!("\"{name}\":")).unwrap_or_else(|| panic!("no {name} in {json}"));
    let value = &json[at + name.len() + 3..];
    &value[..value.find([',', '}']).unwrap_or(value.len())]
}
