//! Starts the real server on a free port and a directory of its own, and talks to it over real sockets.

#![allow(dead_code, unreachable_pub, missing_docs)] // Each test file uses its part.

pub mod compilations;
pub mod load;
pub mod tls;

use rustix::event::{PollFd, PollFlags, poll};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tungstenite::WebSocket;

/// Nothing here takes so long, even on a busy machine; what does, hangs.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A running server, ended when dropped.
pub struct Server {
    child: Child,
    pub addr: String,
    pub dir: Arc<tempfile::TempDir>,
    log: Arc<Mutex<Log>>,
}

/// What a server has written to its standard error, and the pipe with what nobody has read yet.
struct Log {
    bytes: Vec<u8>,
    pipe: ChildStderr,
}

impl Log {
    /// Reads what the pipe holds, and waits for nothing; whether more can come.
    fn read(&mut self) -> bool {
        let mut piece = [0; 16 * 1024];
        loop {
            match self.pipe.read(&mut piece) {
                Ok(0) => return false,
                Ok(count) => self.bytes.extend_from_slice(&piece[..count]),
                Err(error) => return matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
            }
        }
    }

    /// Reads the pipe of `log` until all of its writers have ended, so that none of them waits.
    fn drain(log: &Mutex<Self>) {
        let pipe = log.lock().unwrap().pipe.as_fd().try_clone_to_owned().unwrap();
        loop {
            let _ = poll(&mut [PollFd::new(&pipe, PollFlags::IN)], None);
            if !log.lock().unwrap().read() {
                return;
            }
        }
    }
}

impl Server {
    pub fn start() -> Self {
        Self::with(&[])
    }

    pub fn with(args: &[&str]) -> Self {
        Self::on(&Arc::new(tempfile::tempdir().unwrap()), args, &[])
    }

    /// A server with its data in `dir`, which may have been another's before.
    pub fn on(dir: &Arc<tempfile::TempDir>, args: &[&str], env: &[(&str, &str)]) -> Self {
        Self::run(Command::new(env!("CARGO_BIN_EXE_cweb")), dir, args, env).listening()
    }

    /// A server that may open `files` files at most.
    pub fn with_open_files(files: usize, args: &[&str]) -> Self {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("ulimit -n {files}; exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_cweb")]);
        Self::run(shell, &Arc::new(tempfile::tempdir().unwrap()), args, &[]).listening()
    }

    /// A server that is started with the umask `umask`, an octal number.
    pub fn with_umask(umask: &str, dir: &Arc<tempfile::TempDir>, args: &[&str]) -> Self {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("umask {umask}; exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_cweb")]);
        Self::run(shell, dir, args, &[]).listening()
    }

    /// A server that runs as user and group `id`, to whom `dir` is given; `None`: this test does not run as root, or its program
    /// can't be reached by others.
    pub fn as_user(id: u32, dir: &Arc<tempfile::TempDir>, args: &[&str]) -> Option<Self> {
        let cweb = env!("CARGO_BIN_EXE_cweb");
        let id_text = id.to_string();
        let become_user = ["--reuid", &id_text, "--regid", &id_text, "--clear-groups"];
        let can = Command::new("setpriv").args(become_user).args([cweb, "--version"]).output();
        if !can.is_ok_and(|output| output.status.success()) {
            return None;
        }
        std::os::unix::fs::chown(dir.path(), Some(id), Some(id)).unwrap();
        let mut command = Command::new("setpriv");
        command.args(become_user).arg(cweb);
        Some(Self::run(command, dir, args, &[]).listening())
    }

    /// A server that may not listen yet, and has no address.
    pub fn starting(dir: &Arc<tempfile::TempDir>, args: &[&str]) -> Self {
        Self::run(Command::new(env!("CARGO_BIN_EXE_cweb")), dir, args, &[])
    }

    fn run(mut command: Command, dir: &Arc<tempfile::TempDir>, args: &[&str], env: &[(&str, &str)]) -> Self {
        compilations::give_to(dir.path());
        let mut child = command
            .args(["serve", "--port", "0", "--data-dir"])
            .arg(dir.path())
            .args(args)
            .env_remove("CWEB_ADMIN_KEY")
            .env("CWEB_ISOLATION", isolation())
            // A busy machine may keep a compiler or a client waiting; a test about one of these limits sets its own by a flag.
            .env("CWEB_COMPILE_TIMEOUT_MS", "50000")
            .env("CWEB_HEADER_TIMEOUT_MS", "60000")
            // A ping would come between the messages that a test waits for.
            .env("CWEB_WS_PING_INTERVAL_MS", "0")
            .envs(env.iter().copied())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let pipe = child.stderr.take().unwrap();
        rustix::io::ioctl_fionbio(&pipe, true).unwrap();
        let log = Arc::new(Mutex::new(Log { bytes: Vec::new(), pipe }));
        let drained = Arc::clone(&log);
        std::thread::spawn(move || Log::drain(&drained));
        Self { child, addr: String::new(), dir: Arc::clone(dir), log }
    }

    /// Waits for the first address that it listens on.
    fn listening(mut self) -> Self {
        let prefixes = ["listening on http://", "listening on https://"];
        let addr = |line: &str| prefixes.iter().find_map(|prefix| line.strip_prefix(prefix).map(str::to_owned));
        let deadline = Instant::now() + PATIENCE;
        let addr = loop {
            if let Some(addr) = self.log().lines().find_map(addr) {
                break addr;
            }
            assert!(Instant::now() < deadline, "no listening line: {}", self.log());
            std::thread::sleep(Duration::from_millis(2));
        };
        self.addr = addr.replace("0.0.0.0", "127.0.0.1");
        self
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What the server has logged until now: also what it wrote the moment before.
    pub fn log(&self) -> String {
        let mut log = self.log.lock().unwrap();
        log.read();
        String::from_utf8_lossy(&log.bytes).into_owned()
    }

    /// Waits until the log has `text`.
    pub fn expect_log(&self, text: &str) {
        eventually(&format!("\"{text}\" in the log"), || self.log().contains(text));
    }

    pub fn connect(&self) -> Client {
        Client::connect(&self.addr)
    }

    pub fn get(&self, target: &str) -> Response {
        self.connect().request("GET", target, &[], b"")
    }

    pub fn post(&self, target: &str, body: &[u8]) -> Response {
        let deploys = target.starts_with("/mgnt");
        if deploys {
            compilations::give_to_running(self.dir.path());
        }
        let response = self.connect().request("POST", target, &[], body);
        if deploys {
            compilations::take_from(self.dir.path());
        }
        response
    }

    pub fn try_deploy(&self, source: &str) -> Response {
        self.post("/mgnt", source.as_bytes())
    }

    pub fn deploy(&self, source: &str) -> Response {
        let response = self.try_deploy(source);
        assert_eq!(response.status, 200, "{}\n{}", response.text(), self.log());
        response
    }

    pub fn deploy_file(&self, path: &str) -> Response {
        self.deploy(&std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap())
    }

    pub fn websocket(&self, target: &str) -> Socket {
        let stream = TcpStream::connect(&self.addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        tungstenite::client(format!("ws://{}{target}", self.addr), stream).unwrap().0
    }

    /// Stops by SIGTERM and expects a clean end.
    pub fn stop(mut self) -> String {
        self.terminate();
        self.log()
    }

    /// Waits for a clean end, which something else has begun.
    pub fn ends(mut self) -> String {
        self.wait_end();
        self.log()
    }

    pub fn terminate(&mut self) {
        signal(self.pid(), "TERM");
        self.wait_end();
    }

    fn wait_end(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                assert!(status.success(), "{status}: {}", self.log());
                return;
            }
            assert!(Instant::now() < deadline, "the server does not stop: {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// KiB of the server's memory that is no file's. Pages of the program come and go with its use.
    pub fn memory_kib_own(&self) -> u64 {
        self.memory_kib("RssAnon") + self.memory_kib("RssShmem")
    }

    /// What /proc/PID/status says of `field`, in KiB.
    pub fn memory_kib(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.trim_start_matches(':').split_whitespace().next().unwrap().parse().unwrap()
    }

    /// Open descriptors, but for those to the processes that wait for the next compilation: two each.
    pub fn descriptors(&self) -> usize {
        let all = std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count();
        all.saturating_sub(2 * self.spares().len())
    }

    /// The server's process and those it has started, but for those that wait for the next compilation, and those that have ended
    /// and are not reaped yet.
    pub fn processes(&self) -> Vec<u32> {
        let is_gone = |pid: u32| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.is_empty());
        let all = self.all_processes().into_iter();
        all.filter(|pid| !waits_for_a_compilation(*pid) && !is_gone(*pid)).collect()
    }

    /// The processes that wait for the next compilation.
    pub fn spares(&self) -> Vec<u32> {
        self.all_processes().into_iter().filter(|pid| waits_for_a_compilation(*pid)).collect()
    }

    /// Directories of compilations, but for the one that is ready for the next.
    pub fn compilations_left(&self) -> usize {
        let ready = |pid: u32| std::fs::read_link(format!("/proc/{pid}/cwd")).ok();
        let ready: Vec<PathBuf> = self.spares().into_iter().filter_map(ready).collect();
        let all = std::fs::read_dir(self.dir.path().join("modules/.scratch")).unwrap();
        all.filter(|entry| {
            entry.as_ref().is_ok_and(|entry| !ready.contains(&entry.path().canonicalize().unwrap_or_default()))
        })
        .count()
    }

    fn all_processes(&self) -> Vec<u32> {
        let task = format!("/proc/{0}/task", self.pid());
        let tasks = std::fs::read_dir(task).unwrap().flatten();
        let children = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
        let children: Vec<u32> = children
            .flat_map(|pids| pids.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
            .collect();
        [vec![self.pid()], children].concat()
    }

    /// Waits until the server has all the processes it keeps: that of the modules, and the spare that comes a moment later.
    pub fn wait_complete(&self) {
        let count = if isolation() == "process" { 3 } else { 1 };
        eventually("all processes are there", || self.processes().len() == count);
    }

    /// Module objects that are mapped, in any of the server's processes.
    pub fn mapped_modules(&self) -> Vec<String> {
        let maps: String = self
            .processes()
            .into_iter()
            .filter_map(|pid| std::fs::read_to_string(format!("/proc/{pid}/maps")).ok())
            .collect();
        let mut paths: Vec<String> = maps
            .lines()
            .filter(|line| line.contains("/.run/"))
            .filter_map(|l| l.split('/').next_back())
            .map(Into::into)
            .collect();
        paths.sort();
        paths.dedup();
        paths
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("the server's log:\n{}", self.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        compilations::take_from(self.dir.path());
    }
}

/// Where modules run in these tests: `CWEB_TEST_ISOLATION`, or in the server.
pub fn isolation() -> String {
    std::env::var("CWEB_TEST_ISOLATION").unwrap_or_else(|_| "none".to_owned())
}

fn waits_for_a_compilation(pid: u32) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let command = line.split(|byte| *byte == 0).nth(1).unwrap_or_default();
    matches!(command, b"sandbox-held" | b"inspect")
}

pub fn signal(pid: u32, name: &str) {
    assert!(Command::new("kill").args([format!("-{name}"), pid.to_string()]).status().unwrap().success());
}

/// Reads what has come, at most `chunk`. A read with a time-out ends early when the process was stopped meanwhile (signal(7)).
pub fn read_some(stream: &mut impl Read, chunk: &mut [u8]) -> usize {
    loop {
        match stream.read(chunk) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            read => return read.unwrap_or_else(|error| panic!("no bytes: {error}")),
        }
    }
}

/// Waits, within bounds, for something to become true.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never came: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A command that runs until it is dropped.
pub struct Running(pub std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A small file system of its own, gone when dropped.
pub struct Mount {
    dir: tempfile::TempDir,
}

impl Mount {
    /// `None` where that isn't allowed.
    pub fn tmpfs(size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let options = format!("size={size},mode=0755");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "cweb-test"])
            .arg(dir.path())
            .stderr(Stdio::null())
            .status();
        mounted.is_ok_and(|status| status.success()).then_some(Self { dir })
    }

    /// A directory on it.
    pub fn directory(&self) -> Arc<tempfile::TempDir> {
        Arc::new(tempfile::tempdir_in(self.dir.path()).unwrap())
    }

    /// Mounts it again, `ro` or `rw`.
    pub fn remount(&self, mode: &str) {
        let options = format!("remount,{mode}");
        // The processes of a server that has just ended may still have files open.
        eventually("the file system is mounted again", || {
            Command::new("mount")
                .args(["-o", &options])
                .arg(self.dir.path())
                .stderr(Stdio::null())
                .status()
                .unwrap()
                .success()
        });
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.dir.path()).status();
    }
}

pub type Socket = WebSocket<TcpStream>;

/// One connection.
pub struct Client {
    pub stream: TcpStream,
    buffer: Vec<u8>,
}

#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Response {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> Option<String> {
        self.head.lines().skip(1).find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    }
}

impl Client {
    pub fn connect(addr: &str) -> Self {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::new() }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub fn request(&mut self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        let mut text = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n");
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() || method == "POST" {
            text.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        // A server that has refused a body takes more of it for a second only: the rest can't be sent, and the answer is there.
        let _ = self.stream.write_all(&[text.as_bytes(), b"\r\n", body].concat());
        self.response_to(method)
    }

    pub fn get(&mut self, target: &str) -> Response {
        self.request("GET", target, &[], b"")
    }

    pub fn response(&mut self) -> Response {
        self.response_to("GET")
    }

    pub fn response_to(&mut self, method: &str) -> Response {
        self.try_response(method).expect("the connection was closed before a response")
    }

    fn fill(&mut self) -> bool {
        let mut chunk = [0; 64 * 1024];
        let count = read_some(&mut self.stream, &mut chunk);
        self.buffer.extend_from_slice(&chunk[..count]);
        count > 0
    }

    /// The client's end of a WebSocket whose handshake has been answered.
    pub fn into_websocket(self) -> Socket {
        WebSocket::from_partially_read(self.stream, self.buffer, tungstenite::protocol::Role::Client, None)
    }

    /// The next bytes, as many as `count`.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        while self.buffer.len() < count {
            assert!(self.fill(), "cut off after {}", String::from_utf8_lossy(&self.buffer));
        }
        self.buffer.drain(..count).collect()
    }

    /// All that comes until the connection is closed.
    pub fn rest(&mut self) -> String {
        while self.fill() {}
        String::from_utf8(std::mem::take(&mut self.buffer)).unwrap()
    }

    /// The next response, or `None` if the connection was closed cleanly before it.
    pub fn try_response(&mut self, method: &str) -> Option<Response> {
        let end = loop {
            if let Some(at) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            if !self.fill() {
                assert!(self.buffer.is_empty(), "cut off: {}", String::from_utf8_lossy(&self.buffer));
                return None;
            }
        };
        let head = String::from_utf8_lossy(&self.buffer.drain(..end).collect::<Vec<u8>>()).into_owned();
        let status: u16 = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut response = Response { status, head, body: Vec::new() };
        let bodiless = method == "HEAD" || status < 200 || status == 204 || status == 304;
        let length = response.header("content-length").map_or(0, |text| text.parse::<usize>().unwrap());
        let length = if bodiless { 0 } else { length };
        while self.buffer.len() < length {
            assert!(self.fill(), "the body was cut off");
        }
        response.body = self.buffer.drain(..length).collect();
        Some(response)
    }

    /// A connection to a server that may be gone.
    pub fn try_connect(addr: &str) -> Option<Self> {
        let stream = TcpStream::connect(addr).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        stream.set_nodelay(true).ok()?;
        Some(Self { stream, buffer: Vec::new() })
    }

    /// Like [`Client::request`], to a server that may end meanwhile: `None` if the answer does not come, or not whole.
    pub fn attempt(&mut self, method: &str, target: &str, body: &[u8]) -> Option<Response> {
        let head = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", body.len());
        self.stream.write_all(&[head.as_bytes(), body].concat()).ok()?;
        let mut chunk = [0; 64 * 1024];
        loop {
            if let Some(end) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&self.buffer[..end + 4]).into_owned();
                let status = head.split(' ').nth(1)?.parse().ok()?;
                let mut response = Response { status, head, body: Vec::new() };
                let length: usize = response.header("content-length")?.parse().ok()?;
                if self.buffer.len() >= end + 4 + length {
                    response.body = self.buffer.drain(..end + 4 + length).skip(end + 4).collect();
                    return Some(response);
                }
            }
            match self.stream.read(&mut chunk) {
                Ok(count @ 1..) => self.buffer.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                _ => return None,
            }
        }
    }

    /// Whether the server closes the connection, with nothing more to say.
    pub fn is_closed(&mut self) -> bool {
        self.buffer.is_empty() && matches!(self.stream.read(&mut [0; 1]), Ok(0) | Err(_))
    }

    pub fn finish(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }
}

/// A module of one route that answers `text`.
pub fn constant(name: &str, path: &str, text: &str) -> String {
    module(name, &format!("HANDLER(h, \"{text}\")"), &format!("{{\"{path}\", \"GET\", h, NONE}}"), 1, "")
}

/// A module: code before its config, its routes, further fields.
pub fn module(name: &str, code: &str, routes: &str, size: usize, fields: &str) -> String {
    format!(
        "#include <cweb.h>\n\
         #define HANDLER(f, text) static int f(struct cweb_context *c, http_request_t *q, http_response_t *r) {{ \\\n\
           (void)c; (void)q; snprintf(r->body, HTTP_RESPONSE_SIZE, \"%s\", text); return 0; }}\n\
         {code}\n\
         export module_t config = {{ .name = \"{name}\", .author = \"test\", .routes = {{{routes}}}, .size = {size}, {fields} }};\n"
    )
}

pub fn cweb(args: &[&str], dir: &Path, env: &[(&str, &str)]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_cweb"))
        .args(args)
        .current_dir(dir)
        .env_remove("CWEB_ADMIN_KEY")
        .envs(env.iter().copied())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}
