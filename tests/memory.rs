//! Isolated modules that use more memory than they may: the kernel ends their process, and nobody else's.
//!
//! Where no memory cgroup can be made, the same tests ask that the server says so and serves.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use serde_json::Value;
use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use support::{Server, eventually, module};
use tungstenite::Message;

const LIMIT: &str = "134217728";
const UNAVAILABLE: &str = "no cgroup limits the memory of modules";
const OUT_OF_MEMORY: &str = "it ran out of memory";

/// Uses memory in several ways; 1 GiB at most, which is eight times the limit.
const HOG: &str = r#"
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>
#define H(f) static int f(struct cweb_context *c, http_request_t *q, http_response_t *r)
#define MOST ((size_t)1 << 30)
H(ok) { (void)c; (void)q; strcpy(r->body, "ok"); return 0; }
static int use_up(int how) {
  char *p = mmap(NULL, MOST, PROT_READ | PROT_WRITE, how | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) return 0;
  for (size_t at = 0; at < MOST; at += 4096) p[at] = 1;
  return munmap(p, MOST) == 0; }
H(shared) { (void)c; (void)q; strcpy(r->body, use_up(MAP_SHARED) ? "used" : "refused"); return 0; }
static void *other(void *arg) { (void)arg; return use_up(MAP_PRIVATE) ? "used" : "refused"; }
H(thread) { (void)c; (void)q; pthread_t t; void *said = "no thread";
  if (pthread_create(&t, NULL, other, NULL) == 0) pthread_join(t, &said);
  strcpy(r->body, said); return 0; }
H(file) { (void)c; (void)q; int fd = memfd_create("hog", 0); size_t wrote = 0; static char page[1 << 16];
  for (ssize_t n; fd >= 0 && wrote < MOST && (n = write(fd, page, sizeof page)) > 0; wrote += (size_t)n) { }
  if (fd >= 0) close(fd);
  strcpy(r->body, wrote >= MOST ? "used" : "refused"); return 0; }
"#;

fn hog() -> String {
    let routes = ["ok", "shared", "thread", "file"].map(|name| format!(r#"{{"/hog/{name}","GET",{name},NONE}}"#));
    format!("#define _GNU_SOURCE\n{}", module("hog", HOG, &routes.join(","), routes.len(), ""))
}

fn good() -> String {
    let code = "#include <unistd.h>\n\
        static int slow(struct cweb_context *c, http_request_t *q, http_response_t *r) {\n\
          (void)c; (void)q; usleep(300 * 1000); strcpy(r->body, \"slow\"); return 0; }\n\
        HANDLER(h, \"fine\")\n\
        static void on_message(struct cweb_context *c, websocket_t *w, const char *t, size_t n) { (void)c; w->send(w, t, n); }\n";
    let routes = r#"{"/good","GET",h,NONE},{"/good/slow","GET",slow,NONE}"#;
    module("good", code, routes, 2, r#".websockets = {{"/good/ws", NULL, on_message, NULL}}, .ws_size = 1,"#)
}

/// The cgroup in which the server can make others for memory, found by making one. The server has its own way to find it.
fn parent() -> Option<PathBuf> {
    // Once: the tests run side by side, and would meet in what they try.
    static PARENT: OnceLock<Option<PathBuf>> = OnceLock::new();
    PARENT.get_or_init(find_parent).clone()
}

fn find_parent() -> Option<PathBuf> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    own.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let is_one = controllers.split(',').any(|name| name == "memory");
        let top = if is_one { "/sys/fs/cgroup/memory" } else { "/sys/fs/cgroup" };
        let dir = Path::new(top).join(path.trim_start_matches('/'));
        // In version 2 the tests are processes of the cgroup that they are in, so it must be the root.
        let list = || fs::read_to_string(dir.join("cgroup.subtree_control")).unwrap_or_default();
        let is_two = controllers.is_empty()
            && !dir.join("cgroup.type").exists()
            && list().split_whitespace().any(|name| name == "memory");
        let tried = dir.join(format!("cweb-tried-{}", std::process::id()));
        if !(is_one || is_two) || fs::create_dir(&tried).is_err() {
            return None;
        }
        let file = tried.join(if is_one { "memory.limit_in_bytes" } else { "memory.max" });
        let limited = fs::OpenOptions::new().write(true).open(file).is_ok();
        fs::remove_dir(&tried).unwrap();
        limited.then_some(dir)
    })
}

/// The cgroups that the server `pid` has made.
fn groups(parent: &Path, pid: u32) -> Vec<PathBuf> {
    let is_its = |name: &str| name.starts_with("cweb-") && name.contains(&format!("-{pid}-"));
    let all = fs::read_dir(parent).unwrap().flatten();
    all.filter(|entry| entry.file_name().to_str().is_some_and(is_its)).map(|entry| entry.path()).collect()
}

fn start(dir: &Arc<tempfile::TempDir>, more: &[&str]) -> Server {
    let args = ["--shards", "2", "--isolation", "process"];
    Server::on(dir, &[&args, more].concat(), &[])
}

fn limited(dir: &Arc<tempfile::TempDir>, more: &[&str]) -> Server {
    start(dir, &[&["--module-resident-bytes-max", LIMIT], more].concat())
}

fn deploy_into(server: &Server, source: &str, domain: &str) {
    let answer = server.post(&format!("/mgnt?domain={domain}"), source.as_bytes());
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// What `GET /mgnt` has of a domain.
fn domain(server: &Server, name: &str) -> Value {
    let listed: Value = serde_json::from_slice(&server.get("/mgnt").body).unwrap();
    let found = listed["domains"].as_array().unwrap().iter().find(|domain| domain["name"] == name);
    found.cloned().unwrap_or_default()
}

/// What is asked where cgroups can't be made.
fn says_that_there_is_none() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let server = limited(&dir, &[]);
    server.expect_log(UNAVAILABLE);
    assert!(domain(&server, "default")["memory_limit"].is_null(), "{}", server.get("/mgnt").text());
    server.deploy(&good());
    assert_eq!(server.get("/good").text(), "fine");
    server.stop();
    let production = ["--module-memory-bytes-max", "8589934592", "--production", "--isolation", "process"];
    let server = Server::on(&dir, &production, &[("CWEB_ADMIN_KEY", "0123456789abcdef")]);
    server.expect_log(UNAVAILABLE);
    let listed = server.connect().request("GET", "/mgnt", &[("X-API-Key", "0123456789abcdef")], b"");
    assert!(listed.text().contains(r#""memory_limit":"rlimit""#), "{}", listed.text());
    assert_eq!(server.get("/good").text(), "fine");
    server.stop();
}

/// The load that nothing may disturb: requests and messages to the module `good`.
struct Load {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicU64>,
    clients: Vec<std::thread::JoinHandle<()>>,
}

impl Load {
    fn on(server: &Server) -> Self {
        let (stop, asked) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let client = |target: &'static str, text: &'static str| {
            let (mut client, stop, asked) = (server.connect(), Arc::clone(&stop), Arc::clone(&asked));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let answer = client.get(target);
                    assert_eq!((answer.status, answer.text().as_str()), (200, text));
                    asked.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(2));
                }
            })
        };
        let clients = vec![client("/good", "fine"), client("/good", "fine"), client("/good/slow", "slow")];
        Self { stop, asked, clients }
    }

    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.clients.into_iter().for_each(|client| client.join().expect("a well-behaved module was disturbed"));
        assert!(self.asked.load(Ordering::Relaxed) > 20, "there was no load");
    }
}

#[test]
fn a_process_that_uses_too_much_dies_alone_and_is_back() {
    let Some(parent) = parent() else { return says_that_there_is_none() };
    let server =
        limited(&Arc::new(tempfile::tempdir().unwrap()), &["--crash-limit", "4", "--crash-window-ms", "600000"]);
    deploy_into(&server, &good(), "good");
    deploy_into(&server, &hog(), "bad");
    let mut processes = Vec::new();
    for name in ["default", "good", "bad"] {
        let found = domain(&server, name);
        assert_eq!(found["memory_limit"], "cgroup", "{found} {}", server.log());
        let cgroups = fs::read_to_string(format!("/proc/{}/cgroup", found["pid"])).unwrap();
        assert!(cgroups.contains(&format!("-{}-", server.pid())), "{cgroups}");
        processes.push(found["pid"].clone());
    }
    let load = Load::on(&server);
    let mut socket = server.websocket("/good/ws");
    for (number, way) in ["shared", "thread", "file"].into_iter().enumerate() {
        let answer = server.get(&format!("/hog/{way}"));
        assert_eq!(answer.status, 502, "{way}: {} {}", answer.text(), server.log());
        socket.send(Message::text(way)).unwrap();
        assert_eq!(socket.read().unwrap(), Message::text(way));
        eventually("it is known", || domain(&server, "bad")["last_crash"]["pid"] == processes[2]);
        let crash = domain(&server, "bad")["last_crash"].clone();
        let summary = crash["summary"].as_str().unwrap();
        for part in [OUT_OF_MEMORY, "domain bad", LIMIT, "--module-resident-bytes-max"] {
            assert!(summary.contains(part), "{part} in {summary}");
        }
        assert_eq!((&crash["modules"][0], &crash["signal"]), (&Value::from("hog"), &Value::from(9)), "{crash}");
        eventually("the hog is back", || server.get("/hog/ok").text() == "ok");
        eventually("its domain is counted as started again", || {
            let found = domain(&server, "bad");
            found["restarts"] == number + 1 && !found["pid"].is_null()
        });
        let now = domain(&server, "bad");
        assert!(now["memory_limit"] == "cgroup" && now["pid"] != processes[2], "{now}");
        processes[2] = now["pid"].clone();
    }
    // Each has counted.
    server.get("/hog/shared");
    eventually("the hog is in quarantine", || server.get("/hog/ok").status == 503);
    let why = server.get("/hog/ok").text();
    assert!(why.contains("quarantine") && why.contains(OUT_OF_MEMORY), "{why}");
    load.end();
    for (name, process) in [("default", &processes[0]), ("good", &processes[1])] {
        let found = domain(&server, name);
        assert!(found["pid"] == *process && found["restarts"] == 0 && found["last_crash"].is_null(), "{found}");
    }
    // Those of the dead are gone already; two for each domain are there: one in service, one spare.
    eventually("the cgroups of the dead are gone", || groups(&parent, server.pid()).len() == 6);
    let pid = server.pid();
    let log = server.stop();
    assert_eq!(groups(&parent, pid), [] as [PathBuf; 0], "{log}");
    assert!(!log.contains("panicked") && log.contains(&format!("): {OUT_OF_MEMORY}")), "{log}");
}

#[test]
fn what_a_killed_server_left_goes_with_the_next_start() {
    let Some(parent) = parent() else { return says_that_there_is_none() };
    let (dir, other) = (Arc::new(tempfile::tempdir().unwrap()), Arc::new(tempfile::tempdir().unwrap()));
    let (server, beside) = (limited(&dir, &[]), limited(&other, &[]));
    server.deploy(&good());
    beside.deploy(&good());
    let killed = server.pid();
    let kept = |parent: &Path| groups(parent, beside.pid()).len();
    eventually("both have their processes", || groups(&parent, killed).len() == 2 && kept(&parent) == 2);
    drop(server); // By SIGKILL.
    let left = groups(&parent, killed);
    assert_eq!(left.len(), 2);
    eventually("its processes are over", || {
        left.iter().all(|dir| fs::read_to_string(dir.join("cgroup.procs")).unwrap().is_empty())
    });
    let server = limited(&dir, &[]);
    assert_eq!(groups(&parent, killed), [] as [PathBuf; 0], "{}", server.log());
    assert_eq!(kept(&parent), 2, "another data directory's");
    assert_eq!((server.get("/good").text(), beside.get("/good").text()), ("fine".to_owned(), "fine".to_owned()));
    let pids = [server.pid(), beside.pid()];
    let logs = server.stop() + &beside.stop();
    assert!(pids.iter().all(|pid| groups(&parent, *pid).is_empty()), "{logs}");
}

#[test]
fn a_process_that_ends_otherwise_has_not_run_out_of_memory() {
    let Some(parent) = parent() else { return says_that_there_is_none() };
    let server = limited(&Arc::new(tempfile::tempdir().unwrap()), &[]);
    server.deploy(&good());
    let pid = domain(&server, "default")["pid"].as_u64().unwrap();
    support::signal(u32::try_from(pid).unwrap(), "KILL");
    eventually("it is known", || domain(&server, "default")["last_crash"]["pid"] == pid);
    assert_eq!(domain(&server, "default")["last_crash"]["what"], "SIGKILL");
    // A domain that is ended since nothing is in it any more.
    deploy_into(&server, &support::constant("short", "/short", "here"), "brief");
    eventually("it has a spare", || groups(&parent, server.pid()).len() == 4);
    assert_eq!(server.connect().request("DELETE", "/mgnt/short", &[], b"").status, 200);
    eventually("its cgroups go with it", || groups(&parent, server.pid()).len() == 2);
    assert!(!server.log().contains(OUT_OF_MEMORY), "{}", server.log());
    server.stop();
}

#[test]
fn without_a_limit_no_cgroup_is_made_or_spoken_of() {
    let server = start(&Arc::new(tempfile::tempdir().unwrap()), &[]);
    server.deploy(&good());
    assert!(domain(&server, "default")["memory_limit"].is_null());
    assert!(parent().is_none_or(|parent| groups(&parent, server.pid()).is_empty()));
    assert!(!server.stop().contains("cgroup"));
}

/// Another user can't make cgroups, unless they are given to it.
#[test]
fn a_server_without_the_right_says_so() {
    const USER: u32 = 12_345;
    let dir = tempfile::tempdir().unwrap();
    if chown(dir.path(), Some(USER), Some(USER)).is_err() {
        return; // Not root: the other tests are this one.
    }
    let this = std::env::current_exe().unwrap();
    let mut command = Command::new(&this);
    let test = "a_process_that_ends_otherwise_has_not_run_out_of_memory";
    command.uid(USER).gid(USER).env("TMPDIR", dir.path()).args(["--exact", test]);
    match command.output() {
        Err(error) => eprintln!("skipped: another user can't start {}: {error}", this.display()),
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout)),
    }
}
