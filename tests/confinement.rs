//! What a module in a process of its own can't do to the server, to its jobs and its files: one module, written to do
//! harm, a test.

use crate::support::{self, Server, module};
use std::sync::Arc;

const PROCESS: &[&str] = &["--isolation", "process"];

/// Headers, and `out(r, format, …)`, which adds to an answer.
const COMMON: &str = r#"
#define _GNU_SOURCE
#include <cweb.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>
static void out(http_response_t *r, const char *format, ...) {
  va_list a; va_start(a, format); size_t n = strlen(r->body);
  vsnprintf(r->body + n, HTTP_RESPONSE_SIZE - n, format, a); va_end(a); }
"#;

fn hostile(name: &str, code: &str, routes: &str, size: usize, fields: &str) -> String {
    COMMON.to_owned() + &module(name, code, routes, size, fields)
}

/// Submits a job and waits for its end: a worker that is kept from reading on would let the log grow as well.
fn submit_and_wait(server: &Server, body: &str) {
    let response = server.post("/jobs", body.as_bytes());
    assert_eq!(response.status, 200, "{}", response.text());
    let uuid = response.text().split('"').nth(3).unwrap().to_owned();
    support::eventually("the job is done", || {
        server.get(&format!("/jobs/{uuid}")).text().contains("\"state\":\"done\"")
    });
}

#[test]
fn jobs_go_on_whatever_a_module_locks_and_leaves_unread() {
    let server = Server::with(PROCESS);
    let code = r#"
static int job(struct cweb_context *c, const job_payload_t *p, job_ctx_t *j) { (void)c; (void)p; (void)j; return 0; }
static int lock(struct cweb_context *c, http_request_t *q, http_response_t *r) {
  (void)c; (void)q; r->body[0] = 0;
  for (int fd = 3; fd < 256; fd++) {
    char p[64], b[256]; snprintf(p, sizeof p, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(p, b, 255); if (n < 0) continue;
    b[n] = 0; if (!strstr(b, "jobs.sqlite3")) continue;
    for (int at = 120; at < 128; at++) {
      struct flock l = { .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = at, .l_len = 1 };
      if (fcntl(fd, F_OFD_SETLK, &l) == 0 || fcntl(fd, F_SETLK, &l) == 0) out(r, "%s %d; ", b, at); } }
  return 0; }
static int unread(struct cweb_context *c, http_request_t *q, http_response_t *r) {
  (void)q; sqlite3_stmt *s = NULL; struct sqldb *db = c->database;
  int made = db->prepare(db, "SELECT uuid FROM jobs", -1, &s, NULL);
  snprintf(r->body, HTTP_RESPONSE_SIZE, "%d %d", made, db->step(s)); return 0; }
"#;
    let routes = r#"{"/lock","GET",lock,NONE},{"/unread","GET",unread,NONE}"#;
    server.deploy(&hostile("locker", code, routes, 2, r#".jobs = {{"job", job, NULL}}, .job_size = 1,"#));
    let submit = |bytes: usize| {
        let body = format!(r#"{{"job":"job","payload":{{"x":"{}"}}}}"#, "x".repeat(bytes));
        submit_and_wait(&server, &body);
    };
    submit(1);
    assert_eq!(server.get("/unread").text(), "0 100");
    let locked = server.get("/lock").text();
    (0..16).for_each(|_| submit(900_000));
    let log = server.dir.path().join("jobs.sqlite3-wal");
    let bytes = std::fs::metadata(log).unwrap().len();
    assert!(bytes < 10_000_000, "the log has grown to {bytes} bytes; locked: {locked}");
    assert_eq!(locked, "");
}

#[test]
fn a_transaction_that_has_read_jobs_does_not_let_their_log_grow() {
    let code = r#"
static volatile int begun, released;
static int job(struct cweb_context *c, const job_payload_t *p, job_ctx_t *j) { (void)c; (void)p; (void)j; return 0; }
static int hold(struct cweb_context *c, http_request_t *q, http_response_t *r) {
  (void)q; sqlite3_stmt *s = NULL; struct sqldb *db = c->database;
  int first = db->exec(db, "BEGIN", NULL, NULL), made = db->prepare(db, "SELECT uuid FROM jobs", -1, &s, NULL);
  int row = db->step(s); begun = 1;
  for (int i = 0; i < 20000 && !released; i++) usleep(1000);
  db->finalize(s);
  snprintf(r->body, HTTP_RESPONSE_SIZE, "%d %d %d %d", first, made, row, db->exec(db, "COMMIT", NULL, NULL)); return 0; }
static int is_begun(struct cweb_context *c, http_request_t *q, http_response_t *r) {
  (void)c; (void)q; snprintf(r->body, HTTP_RESPONSE_SIZE, "%d", begun); return 0; }
static int release(struct cweb_context *c, http_request_t *q, http_response_t *r) {
  (void)c; (void)q; released = 1; snprintf(r->body, HTTP_RESPONSE_SIZE, "%d", begun); return 0; }
"#;
    let routes = r#"{"/hold","GET",hold,NONE},{"/begun","GET",is_begun,NONE},{"/release","GET",release,NONE}"#;
    for isolation in ["none", "process"] {
        let server = Server::with(&["--isolation", isolation, "--handler-timeout-ms", "110000"]);
        server.deploy(&hostile("holder", code, routes, 3, r#".jobs = {{"job", job, NULL}}, .job_size = 1,"#));
        let submit = |bytes: usize| {
            let body = format!(r#"{{"job":"job","payload":{{"x":"{}"}}}}"#, "x".repeat(bytes));
            submit_and_wait(&server, &body);
        };
        submit(1);
        let mut holding = server.connect();
        holding.send(b"GET /hold HTTP/1.1\r\nHost: localhost\r\n\r\n");
        support::eventually("the transaction is open", || server.get("/begun").text() == "1");
        (0..16).for_each(|_| submit(900_000));
        let bytes = std::fs::metadata(server.dir.path().join("jobs.sqlite3-wal")).unwrap().len();
        assert!(bytes < 10_000_000, "{isolation}: the log has grown to {bytes} bytes");
        assert_eq!(server.get("/release").text(), "1");
        assert_eq!(holding.response().text(), "0 0 100 0", "{isolation}");
    }
}

/// A canceled thread is unwound at its next system call that waits; within a function of the server that would end the process.
#[test]
fn a_thread_that_its_module_cancels_leaves_the_functions_of_the_server_first() {
    let code = r#"
static struct cweb_context *context;
static volatile int turns;
static int job(struct cweb_context *c, const job_payload_t *p, job_ctx_t *j) { (void)c; (void)p; (void)j; return 0; }
static void *reads(void *a) {
  struct sqldb *db = context->database; sqlite3_stmt *s = NULL;
  if (db->prepare(db, "SELECT * FROM jobs", -1, &s, NULL) != 0) return a;
  for (;; turns++) { while (db->step(s) == SQLITE_ROW) {} db->reset(s); pthread_testcancel(); } }
static void *logs(void *a) { for (;; turns++) { cweb_log(CWEB_LOG_INFO, "%p goes on", a); pthread_testcancel(); } }
static int cancel(void *(*function)(void *)) {
  int canceled = 0;
  for (int i = 0; i < 40; i++) {
    pthread_t t; void *end = NULL; int before = turns;
    if (pthread_create(&t, NULL, function, NULL) != 0) continue;
    while (turns == before) sched_yield();
    pthread_cancel(t); pthread_join(t, &end); canceled += end == PTHREAD_CANCELED; }
  return canceled; }
static int both(struct cweb_context *c, http_request_t *q, http_response_t *r) {
  (void)q; context = c; int first = cancel(reads);
  snprintf(r->body, HTTP_RESPONSE_SIZE, "%d %d", first, cancel(logs)); return 0; }
"#;
    for isolation in ["none", "process"] {
        let server = Server::with(&["--isolation", isolation, "--handler-timeout-ms", "110000"]);
        let routes = r#"{"/both","GET",both,NONE}"#;
        server.deploy(&hostile("ender", code, routes, 1, r#".jobs = {{"job", job, NULL}}, .job_size = 1,"#));
        for _ in 0..20 {
            let body = format!(r#"{{"job":"job","payload":{{"x":"{}"}}}}"#, "x".repeat(20_000));
            assert_eq!(server.post("/jobs", body.as_bytes()).status, 200);
        }
        assert_eq!(server.get("/both").text(), "40 40", "{isolation}: {}", server.log());
    }
}

#[test]
fn the_tables_of_jobs_are_read_as_any_others() {
    for isolation in ["none", "process"] {
        read_the_tables_of_jobs(isolation);
    }
}

fn read_the_tables_of_jobs(isolation: &str) {
    const JOBS: usize = 600;
    let server = Server::with(&["--isolation", isolation]);
    let code = r#"
static int job(struct cweb_context *c, const job_payload_t *p, job_ctx_t *j) { (void)c; (void)p; return j->emit_event(j, "seen", "{\"a\":\"b\"}"); }
static int row(void *at, int n, char **values, char **names) {
  (void)names; for (int i = 0; i < n; i++) out(at, "%s%s", i ? "|" : "", values[i] ? values[i] : "NULL");
  out(at, "\n"); return 0; }
static int ask(struct cweb_context *c, http_request_t *q, http_response_t *r) {
  r->body[0] = 0; int code = c->database->exec(c->database, q->body, row, r);
  if (code) out(r, "error %d %s", code, sqlite3_errmsg(c->database->db));
  return 0; }
"#;
    let fields = r#".jobs = {{"job", job, NULL}}, .job_size = 1,"#;
    server.deploy(&hostile("reader", code, r#"{"/ask","POST",ask,NONE}"#, 1, fields));
    let mut uuids = Vec::new();
    let mut client = server.connect();
    for n in 0..JOBS {
        let body = format!(r#"{{"job":"job","payload":{{"n":{n}}}}}"#);
        let text = client.request("POST", "/jobs", &[], body.as_bytes()).text();
        let uuid = text.split('"').find(|part| part.len() == 36).unwrap();
        uuids.push(uuid.to_owned());
    }
    let ask = |sql: &str| server.post("/ask", sql.as_bytes()).text();
    support::eventually("the end of all jobs", || {
        ask("SELECT count(*) FROM jobs WHERE state = 'done'") == format!("{JOBS}\n")
    });
    assert_eq!(ask("SELECT count(*), count(DISTINCT id), min(id), max(id) FROM jobs"), "600|600|1|600\n");
    assert_eq!(ask("SELECT id FROM jobs ORDER BY id DESC LIMIT 3"), "600\n599\n598\n");
    assert_eq!(ask("SELECT id FROM jobs WHERE id >= 299 AND id < 302"), "299\n300\n301\n");
    assert_eq!(ask("SELECT id FROM jobs WHERE id <= 2 ORDER BY id DESC"), "2\n1\n");
    assert_eq!(ask("SELECT id FROM jobs WHERE id > 598 AND module_name = 'reader'"), "599\n600\n");
    let seventh = &uuids[6];
    assert_eq!(
        ask(&format!("SELECT id, payload_json, result_json, job_name FROM jobs WHERE uuid = '{seventh}'")),
        "7|{\"n\":6}|{}|job\n"
    );
    let upper = seventh.to_uppercase();
    assert_eq!(ask(&format!("SELECT id FROM jobs WHERE uuid = '{upper}' COLLATE NOCASE")), "7\n");
    let joined = "SELECT e.data_json FROM jobs j JOIN job_events e ON e.job_id = j.id WHERE e.type = 'seen'";
    assert_eq!(ask(&format!("{joined} AND j.uuid = '{seventh}'")), "{\"a\":\"b\"}\n");
    assert_eq!(
        ask(&format!("SELECT count(*) FROM job_events WHERE job_id = (SELECT id FROM jobs WHERE uuid = '{seventh}')")),
        ask("SELECT count(*) FROM cweb_jobs.job_events WHERE job_id = 8")
    );
    assert_eq!(ask("SELECT count(*) FROM jobs WHERE id IN (3, 5, '7', 9.0, NULL, 'x')"), "4\n");
    assert_eq!(ask("SELECT count(*) FROM jobs WHERE uuid = NULL OR id > NULL OR id < 'x' AND id = 5"), "1\n");
    assert_eq!(ask("SELECT sum(length(payload_json)) > 0 FROM jobs WHERE payload_json LIKE '%59%'"), "1\n");
    assert!(ask("UPDATE jobs SET state = 'x'").starts_with("error"));
    assert!(ask("DELETE FROM cweb_jobs.job_events").starts_with("error"));
    assert!(ask("DROP TABLE cweb_jobs.jobs").starts_with("error"));
    // The module's connection has no file with jobs, and the server's other tables are not there.
    assert_eq!(ask("SELECT file FROM pragma_database_list WHERE name = 'cweb_jobs'"), "\n", "{isolation}");
    for table in ["schedules", "job_checkpoints", "job_files"] {
        assert!(ask(&format!("SELECT count(*) FROM {table}")).starts_with("error"), "{isolation}: {table}");
    }
}

/// Tries what would outlive the server, lock it out of its files, signal it, or reach what others listen at.
const REACHES: &str = r#"
static void stop_here(int s) { (void)s; prctl(PR_SET_PDEATHSIG, 0); for (;;) pause(); }
static int reach(struct cweb_context *c, http_request_t *q, http_response_t *r) {
  (void)c; r->body[0] = 0; const char *path = http_kv_get(q->params, "socket"), *shm = http_kv_get(q->params, "shm");
  int pair[2] = { -1, -1 }; struct sockaddr_un at = { .sun_family = AF_UNIX };
  snprintf(at.sun_path, sizeof at.sun_path, "%s", path);
  if (socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) == 0) out(r, "a pair of datagrams\n");
  if (sendto(pair[0], "x", 1, 0, (void *)&at, sizeof at) == 1) out(r, "sendto\n");
  struct sockaddr none = { .sa_family = AF_UNSPEC };
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair)) out(r, "no pair of streams\n");
  if (write(pair[0], "x", 1) != 1) out(r, "a pair that does not work\n");
  if (connect(pair[0], &none, sizeof none) == 0) out(r, "connect\n");
  if (listen(pair[0], 1) == 0) out(r, "listen\n");
  if (shmat(atoi(shm), 0, 0) != (void *)-1) out(r, "shmat\n");
  if (fcntl(pair[0], F_SETOWN, getppid()) == 0) out(r, "setown\n");
  for (int fd = 0; fd < 256; fd++) if (fchmod(fd, 0644) == 0 || fchown(fd, -1, -1) == 0) out(r, "fchmod %d\n", fd);
  if (prctl(PR_SET_PDEATHSIG, 0) == 0) out(r, "survive\n");
  if (prctl(PR_SET_DUMPABLE, 1) == 0) out(r, "dumpable\n");
  return 0; }
static int survive(struct cweb_context *c, http_request_t *q, http_response_t *r) {
  (void)c; (void)q; prctl(PR_SET_PDEATHSIG, 0);
  struct sigaction sa = { .sa_handler = stop_here }; sigaction(SIGUSR1, &sa, 0);
  syscall(SYS_tgkill, getpid(), getpid(), SIGUSR1);
  snprintf(r->body, HTTP_RESPONSE_SIZE, "%d", (int)getpid()); return 0; }
"#;

#[test]
fn a_module_reaches_nobody_and_does_not_outlive_the_server() {
    let server = Server::with(PROCESS);
    let socket = server.dir.path().join("socket");
    let listener = std::os::unix::net::UnixDatagram::bind(&socket).unwrap();
    listener.set_nonblocking(true).unwrap();
    std::fs::set_permissions(&socket, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let made = std::process::Command::new("ipcmk").args(["-M", "64", "-p", "0666"]).output();
    let shm = made.map(|made| String::from_utf8_lossy(&made.stdout).into_owned()).unwrap_or_default();
    let shm = shm.rsplit(' ').next().unwrap_or_default().trim().to_owned();
    let routes = r#"{"/reach","GET",reach,NONE},{"/survive","GET",survive,NONE}"#;
    server.deploy(&hostile("reacher", REACHES, routes, 2, ""));
    let found = server.get(&format!("/reach?socket={}&shm={shm}", socket.display())).text();
    let _ = std::process::Command::new("ipcrm").args(["-m", &shm]).status();
    assert_eq!(found, "");
    assert!(listener.recv(&mut [0; 8]).is_err());
    let pid: u32 = server.get("/survive").text().parse().unwrap();
    drop(server);
    let place = format!("/proc/{pid}/stat");
    support::eventually("the end of the module's process", || {
        std::fs::read_to_string(&place).map_or(true, |stat| stat.contains(") Z "))
    });
}

#[test]
fn hostile_debug_information_costs_little() {
    let server = Server::with(PROCESS);
    // Ten units that share one line program, of a row each byte.
    let code = r#"
__asm__(
  ".pushsection .debug_abbrev,\"\",@progbits\nEab: .byte 1,0x11,0,0x10,0x17,0,0,0\n.popsection\n"
  ".pushsection .debug_line.evil,\"\",@progbits\nEln: .long Elnend-Elnv\nElnv: .short 4\n.long Elnp-Elnh\n"
  "Elnh: .byte 1,1,1,-5,14,13, 0,1,1,1,1,0,0,0,1,0,0,1, 0,0\nElnp: .byte 0,9,2\n.quad 0x10000000\n"
  ".fill 6000000,1,0x20\n.byte 0,1,1\nElnend:\n.popsection\n"
  ".pushsection .debug_info,\"\",@progbits\n.rept 10\n.long 12\n.short 4\n.long Eab\n.byte 8\n.byte 1\n.long Eln\n.endr\n"
  ".popsection\n");
static int crash(struct cweb_context *c, http_request_t *q, http_response_t *r) { (void)c; (void)q; (void)r; *(volatile int *)8 = 1; return 0; }
"#;
    server.deploy(&hostile("dwarf", code, r#"{"/crash","GET",crash,NONE}"#, 1, ""));
    assert_eq!(server.get("/crash").status, 500);
    // What is known without debug information is told.
    server.expect_log("module dwarf failed: SIGSEGV at address 0x8 at crash+");
    let kib = server.memory_kib("VmHWM");
    assert!(kib < 300 * 1024, "the server has had {kib} KiB");
}

#[test]
fn modules_see_none_of_the_servers_secrets_in_the_environment() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let env =
        [("DATABASE_PASSWORD", "tops3cret"), ("CWEB_ADMIN_KEY", "0123456789abcdef0123456789abcdef"), ("LC_TIME", "C")];
    let server = Server::on(&dir, PROCESS, &env);
    let code = r#"
extern char **environ;
__attribute__((constructor)) static void first(void) { if (getenv("DATABASE_PASSWORD")) abort(); }
static int all(struct cweb_context *c, http_request_t *q, http_response_t *r) {
  (void)c; (void)q; r->body[0] = 0; for (char **at = environ; *at; at++) out(r, "%s\n", *at); return 0; }
"#;
    let source = hostile("looker", code, r#"{"/all","GET",all,NONE}"#, 1, "");
    let headers = [("Authorization", "Bearer 0123456789abcdef0123456789abcdef")];
    let deployed = server.connect().request("POST", "/mgnt", &headers, source.as_bytes());
    assert_eq!(deployed.status, 200, "{}", deployed.text());
    let found = server.get("/all").text();
    assert!(!found.contains("PASSWORD") && !found.contains("ADMIN"), "{found}");
    for passed in ["PATH=", "LC_TIME=C", "TMPDIR="] {
        assert!(found.contains(passed), "{found}");
    }
}

#[test]
fn a_module_prints_to_the_log_but_has_not_its_descriptors() {
    let server = Server::with(PROCESS);
    let code = r#"
static int print(struct cweb_context *c, http_request_t *q, http_response_t *r) {
  (void)c; (void)q; r->body[0] = 0;
  for (int fd = 1; fd < 3; fd++) {
    char p[64], b[256]; snprintf(p, sizeof p, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(p, b, 255); if (n < 0) continue;
    b[n] = 0; out(r, "%s\n", b);
    if (ftruncate(fd, 0) == 0 || pwrite(fd, "x", 1, 0) == 1) out(r, "the file itself\n");
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK | O_APPEND); }
  dprintf(2, "by descriptor\n"); printf("by stream\n"); dprintf(1, "without an end");
  return 0; }
"#;
    server.deploy(&hostile("printer", code, r#"{"/print","GET",print,NONE}"#, 1, ""));
    let flags = |fd: u32| {
        let info = std::fs::read_to_string(format!("/proc/{}/fdinfo/{fd}", server.pid())).unwrap();
        info.lines().find(|line| line.starts_with("flags:")).unwrap().to_owned()
    };
    let before = [flags(1), flags(2)];
    let found = server.get("/print").text();
    assert_eq!([flags(1), flags(2)], before, "{found}");
    assert!(found.lines().count() == 2 && !found.contains("the file itself"), "{found}");
    for fd in 1..3 {
        let own = std::fs::read_link(format!("/proc/{}/fd/{fd}", server.pid())).unwrap();
        assert!(!found.contains(own.to_str().unwrap()), "{found}");
    }
    server.expect_log("by descriptor");
    server.expect_log("[printer] by stream");
    // The last words come with the end.
    assert!(server.stop().contains("without an end"));
}

#[test]
fn system_calls_that_are_on_no_list_are_refused_and_told() {
    let source = std::fs::read_to_string(support::root().join("tests/modules/caller.c")).unwrap();
    let lines = |server: &Server, path: &str| server.get(path).text().lines().map(str::to_owned).collect::<Vec<_>>();
    let server = Server::with(PROCESS);
    server.deploy(&source);
    let refused = lines(&server, "/refused");
    assert!(refused.len() == 20 && refused.iter().all(|line| line.ends_with(" 1")), "{refused:#?}");
    let masked = lines(&server, "/masked");
    assert_eq!(masked, ["thread 0", "in it 1", "fork 1", "system 1", "posix_spawn 1"]);
    let granted = lines(&server, "/granted");
    assert!(granted.len() == 26 && granted.iter().all(|line| line.ends_with(" 0")), "{granted:#?}");
    for told in [
        "[caller] the system call inotify_init1 is refused (EPERM); --allow-syscall inotify_init1 grants it to all modules",
        "[caller] the system call ioctl is refused with these arguments (EPERM); --allow-syscall ioctl grants",
        "[caller] the system call socket is refused (EPERM); --allow-net, or --allow-syscall socket grants",
        "[caller] the system call lookup_dcookie is refused",
    ] {
        server.expect_log(told);
    }
    lines(&server, "/refused");
    let log = server.stop();
    assert_eq!(log.matches("system call inotify_init1 is refused").count(), 1, "once for a module and a call: {log}");
    assert!(!log.contains(" died"), "{log}");
    let allowed = ["--allow-syscall", "inotify_init1,ioctl"];
    let server = Server::with(&[PROCESS, &allowed].concat());
    server.deploy(&source);
    let refused = lines(&server, "/refused");
    let granted: Vec<&String> = refused.iter().filter(|line| !line.ends_with(" 1")).collect();
    assert!(granted.len() == 2 && granted[0] == "inotify_init1 0", "{refused:#?}");
    let dir = tempfile::tempdir().unwrap();
    let wrong = ["serve", "--port", "0", "--isolation", "process", "--allow-syscall", "no_such_call"];
    let (ok, said) = support::cweb(&wrong, dir.path(), &[]);
    assert!(!ok && said.contains("no system call of that name"), "{said}");
}

/// What a module sees of the machine, and which namespaces it shares with the server.
fn looks_around(server: &Server) {
    if server.log().contains("no namespaces of their own") {
        return eprintln!("skipped: this machine gives no namespaces");
    }
    server.deploy(&std::fs::read_to_string(support::root().join("tests/modules/caller.c")).unwrap());
    let seen = server.get(&format!("/sees?path={}", server.dir.path().join("jobs.sqlite3").display())).text();
    let (shown, hidden): (Vec<&str>, Vec<&str>) = seen.lines().partition(|line| line.starts_with("shown "));
    assert!(shown.len() == 5 && shown.iter().all(|line| *line == "shown 0"), "{seen}");
    assert!(hidden.len() == 7 && hidden.iter().all(|line| line.ends_with(" 2")), "{seen}");
    // Not the second of its processes: that may be a compiler's that is just being started.
    let listed: serde_json::Value = serde_json::from_slice(&server.get("/mgnt").body).unwrap();
    let pid = u32::try_from(listed["domains"][0]["pid"].as_u64().unwrap()).unwrap();
    for kind in ["mnt", "net", "ipc", "uts"] {
        let link = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
        assert_ne!(link(pid), link(server.pid()), "{kind}");
    }
    let mounts = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    for read in ["/", "/usr"] {
        let mount = mounts.lines().find(|line| line.split(' ').nth(4) == Some(read));
        assert!(mount.is_some_and(|line| line.split(' ').nth(5).unwrap().starts_with("ro,")), "{mounts}");
    }
    let refused = server.get("/refused").text();
    assert!(refused.lines().count() == 20 && refused.lines().all(|line| line.ends_with(" 1")), "{refused}");
}

#[test]
fn a_module_has_namespaces_of_its_own() {
    let server = Server::with(PROCESS);
    looks_around(&server);
    let dir = Arc::new(tempfile::tempdir().unwrap());
    match Server::as_user(65_501, &dir, PROCESS) {
        Some(server) => looks_around(&server),
        None => eprintln!("skipped: an ordinary user can't start the server here"),
    }
    // A level that is not there keeps the server from starting: without namespaces for anybody, as in many containers.
    let refuse = "exec unshare --user --map-root-user sh -c 'echo 0 > /proc/sys/user/max_mnt_namespaces; \
                  exec \"$0\" serve --port 0 --data-dir \"$1\" --require-sandbox namespaces' \"$0\" \"$1\"";
    let data = tempfile::tempdir().unwrap();
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", refuse, env!("CARGO_BIN_EXE_cweb")]).arg(data.path());
    let output = shell.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("unshare failed") {
        return eprintln!("skipped: {said}");
    }
    assert!(!output.status.success() && said.contains("can't have namespaces of their own"), "{said}");
    assert!(said.contains("--require-sandbox landlock"), "{said}");
}

/// Answers each connection with what came, line by line, and counts connections.
fn echo() -> (u16, Arc<std::sync::atomic::AtomicUsize>) {
    use std::io::{BufRead, BufReader, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, count) = (listener.local_addr().unwrap().port(), Arc::<std::sync::atomic::AtomicUsize>::default());
    let counted = Arc::clone(&count);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let mut line = String::new();
            let _ = BufReader::new(stream.try_clone().unwrap()).read_line(&mut line);
            let _ = stream.write_all(line.as_bytes());
        }
    });
    (port, count)
}

/// Two domains of which one may connect to a port.
fn connects_where_it_may(server: &Server, port: u16, other: u16) {
    let source = std::fs::read_to_string(support::root().join("tests/modules/connects.c")).unwrap();
    for name in ["one", "two"] {
        let source = format!("#define NAME \"{name}\"\n{source}");
        let answer = server.post(&format!("/mgnt?domain={name}"), source.as_bytes());
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let connect = |name: &str, ip: &str, port: u16| server.get(&format!("/{name}/connect?ip={ip}&port={port}")).text();
    let all = "options 1 1 0;again 106;blocking hello\n;by number 0;not blocking hello\n;";
    assert_eq!(connect("one", "127.0.0.1", port), all, "{}", server.log());
    for (name, ip, port) in [("one", "127.0.0.1", other), ("two", "127.0.0.1", port), ("one", "169.254.169.254", 80)] {
        assert_eq!(connect(name, ip, port), "errno 13", "{name} {ip} {port}");
    }
    server.expect_log(&format!(
        "a connection of domain two to 127.0.0.1:{port} is refused; --allow-net two=127.0.0.1:{port}"
    ));
    let attack = |name: &str| server.get(&format!("/{name}/attack?port={other}&allowed={port}")).text();
    assert_eq!(attack("one"), "over");
    assert_eq!(attack("two"), "allowed: errno 13;over");
    server.expect_log(
        "[one] the system call socket is refused with these arguments (EPERM): a list of --allow-net grants only connections by TCP",
    );
    // The process of a single call asks the server for nothing.
    let killable = server.get(&format!("/one/killable?ip=127.0.0.1&port={port}"));
    assert_eq!(killable.text(), "errno 1");
    let log = server.log();
    assert!(!log.contains(" died") && !log.contains(" failed: "), "{log}");
}

#[test]
fn a_module_connects_to_what_is_listed_for_its_domain() {
    let ((port, count), (other, reached)) = (echo(), echo());
    let listed = format!("one=127.0.0.1:{port},0.0.0.0/0:*");
    let args = [PROCESS, &["--allow-net", &listed]].concat();
    connects_where_it_may(&Server::with(&args), port, other);
    let dir = Arc::new(tempfile::tempdir().unwrap());
    match Server::as_user(65_502, &dir, &args) {
        Some(server) => connects_where_it_may(&server, port, other),
        None => eprintln!("skipped: an ordinary user can't start the server here"),
    }
    let ordering = std::sync::atomic::Ordering::SeqCst;
    assert!(count.load(ordering) >= 3 && reached.load(ordering) == 0);
    let dir = tempfile::tempdir().unwrap();
    let wrong = ["serve", "--port", "0", "--allow-net", "192.0.2.1"];
    let (ok, said) = support::cweb(&wrong, dir.path(), &[]);
    assert!(!ok && said.contains("--allow-net 192.0.2.1: write ADDRESS:PORT"), "{said}");
}
