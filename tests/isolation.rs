//! Modules in a process of their own: it may die in any way, and the server and its clients live on.

use crate::support::{self, Server, eventually, module};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tungstenite::Message;

/// A module with a handler for each way to go down, and what should survive it.
fn lab() -> String {
    let code = r#"
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>
#define H(f) static int f(struct cweb_context *c, http_request_t *q, http_response_t *r)
static _Atomic int loads, holds, released;
H(hello) { (void)c; snprintf(r->body, HTTP_RESPONSE_SIZE, "hello %d %s", loads, q->body); return 0; }
H(slow) { (void)c; (void)q; usleep(700 * 1000); strcpy(r->body, "slow"); return 0; }
/* Until its process is killed. */
H(hold) { (void)c; (void)q; (void)r; holds++; for (;;) pause(); return 0; }
H(held) { (void)c; (void)q; snprintf(r->body, HTTP_RESPONSE_SIZE, "%d", holds); return 0; }
H(release) { (void)c; (void)q; released = 1; strcpy(r->body, "released"); return 0; }
H(forever) { (void)c; (void)q; (void)r; for (volatile int i = 0;; i++) { } return 0; }
H(greedy) { (void)c; (void)q; size_t got = 0;
  for (char *p; got < 64 && (p = malloc((size_t)1 << 28)) != NULL; got++) p[got] = 1;
  snprintf(r->body, HTTP_RESPONSE_SIZE, "%zu", got); return 0; }
H(pid) { (void)c; (void)q; snprintf(r->body, HTTP_RESPONSE_SIZE, "%d", (int)getpid()); return 0; }
H(die) { (void)c; (void)q; (void)r; kill(getpid(), SIGKILL); pause(); return 0; }
H(segfault) { (void)c; (void)q; (void)r; volatile int *volatile p = 0; *p = 1; return 0; }
H(close_all) { (void)c; (void)q; (void)r; for (int fd = 3; fd < 200; fd++) close(fd); strcpy(r->body, "closed"); return 0; }
H(scribble) { (void)c; (void)q; (void)r;
  FILE *maps = fopen("/proc/self/maps", "r"); char line[512];
  while (maps != NULL && fgets(line, sizeof line, maps) != NULL) {
    unsigned long from, to; char mode[8];
    if (strstr(line, "memfd:") != NULL && sscanf(line, "%lx-%lx %7s", &from, &to, mode) == 3 && mode[1] == 'w')
      /* The beginning whole, where the rings are; of the gigabytes behind it a byte in each 16th page. */
      for (unsigned long at = from; at < to; at += at - from < 1ul << 21 ? 1 : 65521)
        ((volatile unsigned char *)at)[0] = (unsigned char)(at * 2654435761u >> 13);
  }
  strcpy(r->body, "scribbled"); return 0; }
H(large) { (void)c; (void)q; size_t n = 3000000; free(r->body); r->body = malloc(n); memset(r->body, 'L', n); r->content_length = (int)n; return 0; }
static void on_message(struct cweb_context *c, websocket_t *ws, const char *text, size_t n) {
  (void)c; char reply[128]; snprintf(reply, sizeof reply, "%s: %.*s", ws->session ? ws->session : "none", (int)n, text); ws->send(ws, reply, strlen(reply)); }
static int work(struct cweb_context *c, const job_payload_t *p, job_ctx_t *j) { (void)c; (void)p; j->emit_event(j, "working", NULL); while (!released) usleep(1000); return 0; }
static void load(struct cweb_context *c) { (void)c; loads++; }
"#;
    let routes = r#"{"/hello","POST",hello,NONE},{"/slow","GET",slow,NONE},{"/pid","GET",pid,NONE},{"/die","GET",die,NONE},
        {"/segfault","GET",segfault,NONE},{"/close","GET",close_all,NONE},{"/scribble","GET",scribble,NONE},{"/large","GET",large,NONE},
        {"/forever","GET",forever,CWEB_TIMEOUT_S(1)},{"/greedy","GET",greedy,NONE},{"/hold","GET",hold,NONE},{"/held","GET",held,NONE},
        {"/release","GET",release,NONE}"#;
    let fields = r#".websockets = {{"/ws", NULL, on_message, NULL}}, .ws_size = 1,
        .jobs = {{"work", work, NULL}}, .job_size = 1, .onload = load,"#;
    module("lab", code, routes, 13, fields)
}

fn with_lab() -> Server {
    with_lab_and(&[])
}

fn with_lab_and(more: &[&str]) -> Server {
    // For the one that looks for the shared memory.
    let args = ["--shards", "2", "--isolation", "process", "--allow-read", "/proc"];
    let server = Server::on(&Arc::new(tempfile::tempdir().unwrap()), &[&args, more].concat(), &[]);
    server.deploy(&lab());
    server
}

/// The domain's process.
fn domain(server: &Server) -> u32 {
    server.get("/pid").text().parse().unwrap()
}

fn hello(server: &Server) -> String {
    server.post("/hello", b"you").text()
}

#[test]
fn modules_run_in_another_process() {
    let server = with_lab();
    assert!(domain(&server) != server.pid());
    assert_eq!(hello(&server), "hello 1 you");
    let large = server.get("/large");
    assert!(large.body.len() == 3_000_000 && large.body.iter().all(|byte| *byte == b'L'));
    let text = "x".repeat(900_000);
    assert_eq!(server.post("/hello", text.as_bytes()).body.len(), 8191, "a large body went in, cut by the handler");
    let pid = domain(&server);
    server.stop();
    eventually("the domain ends with the server", || !std::path::Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn a_death_costs_what_was_running_and_nothing_else() {
    let server = with_lab();
    let mut socket = server.websocket("/ws?id=s");
    socket.send(Message::text("one")).unwrap();
    assert_eq!(socket.read().unwrap(), Message::text("s|0: one"));
    let mut held = server.connect();
    held.send(b"GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
    eventually("it runs", || server.get("/held").text() == "1");
    support::signal(domain(&server), "KILL");
    let response = held.response();
    assert!(response.status == 502 && response.text().contains("module lab"), "{response:?}");
    // The connection is in step, the module is back, the socket is served by the new process.
    assert_eq!(held.request("POST", "/hello", &[], b"me").text(), "hello 1 me");
    socket.send(Message::text("two")).unwrap();
    assert_eq!(socket.read().unwrap(), Message::text("s|0: two"));
    server.expect_log("died");
    for line in ["restarts_total{domain=\"default\"} 1", "up{domain=\"default\"} 1", "modules{domain=\"default\"} 1"] {
        eventually(line, || server.get("/metrics").text().contains(&format!("cweb_domain_{line}\n")));
    }
    let unknown = "cweb_domain_resident_bytes{domain=\"default\"} 0";
    eventually("its memory is known", || !server.get("/metrics").text().contains(unknown));
}

#[test]
fn every_way_to_go_down_is_survived() {
    let server = with_lab_and(&["--crash-limit", "0"]);
    for path in ["/die", "/close", "/scribble", "/segfault", "/die"] {
        let response = server.get(path);
        assert!([200, 500, 502].contains(&response.status), "{path}: {response:?}");
        eventually(&format!("the module is back after {path}"), || {
            let response = server.post("/hello", b"again");
            response.status == 200 && response.text().ends_with("again")
        });
    }
    // The server, the process in service and the spare.
    eventually("all processes are there", || server.processes().len() == 3);
    let before = server.descriptors();
    for _ in 0..3 {
        server.get("/die");
        eventually("it is back", || server.post("/hello", b"again").status == 200);
    }
    // A spare has three.
    eventually("no descriptor is left behind", || server.descriptors() <= before + 3);
    let neighbour = support::constant("neighbour", "/neighbour", "here");
    server.deploy(&neighbour);
    server.get("/die");
    eventually("the neighbour is back too", || server.get("/neighbour").text() == "here");
}

#[test]
fn jobs_of_a_dead_process_are_retried_or_failed() {
    let server = with_lab_and(&["--job-workers", "2"]);
    let submit = |attempts: u32| -> String {
        let body = json!({"job": "work", "max_attempts": attempts}).to_string();
        let accepted: Value = serde_json::from_slice(&server.post("/jobs", body.as_bytes()).body).unwrap();
        accepted["job_uuid"].as_str().unwrap().to_owned()
    };
    let status = |uuid: &str| -> Value { serde_json::from_slice(&server.get(&format!("/jobs/{uuid}")).body).unwrap() };
    let (once, twice) = (submit(1), submit(2));
    for uuid in [&once, &twice] {
        eventually("it runs", || server.get(&format!("/jobs/{uuid}/events")).text().contains("working"));
    }
    support::signal(domain(&server), "KILL");
    eventually("the one has failed", || status(&once)["state"] == "failed");
    assert_eq!(status(&once)["error"], "job crashed");
    // The run in the next process may end.
    eventually("it is let go", || server.get("/release").text() == "released");
    eventually("the other is done", || status(&twice)["state"] == "done");
}

#[test]
fn a_swap_goes_on_after_a_death() {
    let server = with_lab();
    support::signal(domain(&server), "KILL");
    server.deploy(&lab().replace("hello %d", "new %d"));
    assert_eq!(hello(&server), "new 1 you");
    support::signal(domain(&server), "KILL");
    eventually("the new version is back", || hello(&server) == "new 1 you");
}

#[test]
fn a_handler_that_never_ends_is_answered_and_its_process_replaced() {
    let server = with_lab();
    let before = domain(&server);
    let mut slow = server.connect();
    let mut forever = server.connect();
    forever.send(b"GET /forever HTTP/1.1\r\nHost: x\r\n\r\n");
    std::thread::sleep(Duration::from_millis(700));
    // Begun before the time of the other is over, ended after: the replacement waits for it.
    slow.send(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n");
    let response = forever.response();
    assert!(response.status == 504 && response.text().contains("module lab"), "{response:?}");
    assert_eq!(slow.response().text(), "slow");
    assert_eq!(forever.request("POST", "/hello", &[], b"me").text(), "hello 1 me");
    eventually("the process is another", || domain(&server) != before);
    assert!(!server.log().contains("died"), "{}", server.log());
}

#[test]
fn many_swaps_replace_the_process_and_lose_nothing() {
    // The socket is not looked at for longer than a ping would wait for its answer.
    let server = with_lab_and(&["--ws-ping-interval-ms", "0"]);
    let first = domain(&server);
    let versions = [1, 2].map(|n| support::constant("swapped", "/swapped", &n.to_string()));
    let mut socket = server.websocket("/ws");
    let mut client = server.connect();
    for n in 0..1100 {
        server.deploy(&versions[n % 2]);
        assert_eq!(client.get("/swapped").text(), (n % 2 + 1).to_string());
    }
    eventually("the process is another", || domain(&server) != first);
    socket.send(Message::text("still")).unwrap();
    assert_eq!(socket.read().unwrap(), Message::text("none: still"));
    eventually("the old process is gone", || server.mapped_modules().len() <= 2);
}

/// Tries everything that a module must not do; the answer lists what was possible.
const BURGLAR: &str = r#"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
static char found[4096];
static void possible(const char *what, int ok) {
  if (ok) { size_t used = strlen(found); snprintf(found + used, sizeof found - used, "%s\n", what); } }
static int opens(const char *path, int how) { int fd = open(path, how, 0600); if (fd >= 0) close(fd); return fd >= 0; }
static int f(struct cweb_context *c, http_request_t *q, http_response_t *r) {
  (void)c; found[0] = '\0'; char path[256];
  possible("read /etc/shadow", opens("/etc/shadow", O_RDONLY));
  possible("read the key", opens("server.key", O_RDONLY));
  possible("write the jobs", opens("jobs.sqlite3", O_RDWR));
  possible("read the jobs", opens("jobs.sqlite3", O_RDONLY) || opens("jobs.sqlite3-wal", O_RDONLY) || opens("jobs.sqlite3-shm", O_RDONLY));
  for (int fd = 0; fd < 256; fd++) {
    char link[64]; snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length > 0) { path[length] = '\0'; possible("read or lock the jobs by what is open", strstr(path, "jobs.sqlite3") != NULL); } }
  possible("list the module store", opendir("modules") != NULL && opendir("modules/.objects") != NULL);
  possible("read a source", opens(http_kv_get(q->params, "source"), O_RDONLY));
  possible("write the data directory", opens("planted", O_WRONLY | O_CREAT));
  possible("write a module", opens("modules/.run/planted.so", O_WRONLY | O_CREAT));
  possible("write /tmp", opens("/tmp/cweb-planted", O_WRONLY | O_CREAT));
  snprintf(path, sizeof path, "/proc/%d/mem", (int)getppid());
  possible("open the server's memory", opens(path, O_RDWR));
  possible("trace the server", ptrace(PTRACE_ATTACH, getppid(), 0, 0) == 0);
  possible("signal the server", kill(getppid(), 0) == 0);
  possible("open a TCP socket", socket(AF_INET, SOCK_STREAM, 0) >= 0);
  possible("open a unix socket", socket(AF_UNIX, SOCK_STREAM, 0) >= 0);
  pid_t child = fork();
  if (child == 0) { _exit(0); }
  possible("fork", child > 0);
  possible("run a program", system("true") == 0);
  possible("use a right of root", chown("static/page.txt", 1, 1) == 0 || setuid(12345) == 0);
  possible("!scratch", !opens(getenv("TMPDIR") ? getenv("TMPDIR") : "/nowhere", O_RDONLY | O_DIRECTORY));
  snprintf(path, sizeof path, "%s/mine", getenv("TMPDIR"));
  possible("!write scratch", !opens(path, O_WRONLY | O_CREAT));
  possible("!read static", !opens("static/page.txt", O_RDONLY));
  strcpy(r->body, found); return 0; }
"#;

#[test]
fn a_module_can_do_nothing_but_its_work() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    std::fs::create_dir(dir.path().join("static")).unwrap();
    for file in ["server.key", "static/page.txt"] {
        std::fs::write(dir.path().join(file), "content").unwrap();
    }
    let server = Server::on(&dir, &["--isolation", "process"], &[]);
    server.deploy(&module("burglar", BURGLAR, r#"{"/burgle","GET",f,NONE}"#, 1, ""));
    let objects = std::fs::read_dir(dir.path().join("modules/.objects")).unwrap().flatten();
    let source = objects.map(|entry| entry.path()).find(|path| path.extension().is_some_and(|e| e == "c")).unwrap();
    let found = server.get(&format!("/burgle?source={}", source.display())).text();
    assert_eq!(found, "", "possible:\n{found}");
    assert!(!dir.path().join("planted").exists());
}

#[test]
fn a_greedy_module_gets_no_more_than_its_process_may_have() {
    let server = with_lab_and(&["--module-memory-bytes-max", "6442450944"]);
    let pieces: u32 = server.get("/greedy").text().parse().unwrap();
    assert!(pieces < 24, "{pieces} times 256 MiB of 6 GiB");
    eventually("it serves on", || hello(&server).ends_with("you"));
}

/// Uses both databases, and says whom it runs as.
const CLERK: &str = r#"
#include <unistd.h>
static int f(struct cweb_context *c, http_request_t *q, http_response_t *r) {
  (void)q; struct sqldb *db = c->database; sqlite3_stmt *rows = NULL; int jobs = -1;
  int made = db->exec(db, "CREATE TABLE IF NOT EXISTS kept (n); INSERT INTO kept VALUES (1)", NULL, NULL);
  if (db->prepare(db, "SELECT count(*) FROM jobs", -1, &rows, NULL) == SQLITE_OK && db->step(rows) == SQLITE_ROW)
    jobs = db->column_int(rows, 0);
  db->finalize(rows);
  snprintf(r->body, HTTP_RESPONSE_SIZE, "%d %d %d %d", made, jobs, (int)getuid(), (int)getgid()); return 0; }
static int job(struct cweb_context *c, const job_payload_t *p, job_ctx_t *j) { (void)c; (void)p; (void)j; return 0; }
"#;

#[test]
fn modules_of_a_root_server_are_nobody_where_the_data_directory_is_open() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let dir = Arc::new(tempfile::tempdir().unwrap());
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let own = std::fs::metadata(dir.path()).unwrap();
    let expected = if own.uid() == 0 { "65534 65534".to_owned() } else { format!("{} {}", own.uid(), own.gid()) };
    let clerk =
        module("clerk", CLERK, r#"{"/clerk","GET",f,NONE}"#, 1, r#".jobs = {{"job", job, NULL}}, .job_size = 1,"#);
    for _ in 0..2 {
        let server = Server::on(&dir, &["--isolation", "process"], &[]);
        server.deploy(&clerk);
        let before: u32 = server.get("/clerk").text().split(' ').nth(1).unwrap().parse().unwrap();
        // Written by the server while the module's connection is open.
        for _ in 0..3 {
            assert_eq!(server.post("/jobs", br#"{"job": "job"}"#).status, 200);
        }
        assert_eq!(server.get("/clerk").text(), format!("0 {} {expected}", before + 3), "{}", server.log());
        server.stop();
    }
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o700)).unwrap();
    let server = Server::on(&dir, &["--isolation", "process"], &[]);
    assert!(server.get("/clerk").text().starts_with(&format!("0 6 {}", own.uid())), "{}", server.log());
    if own.uid() == 0 {
        server.expect_log("closed to other users");
    } else {
        assert!(!server.log().contains("closed to other users"), "{}", server.log());
    }
}
