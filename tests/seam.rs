//! What a hostile module can do to the server by what its process shares with it: the rings, their wake-ups, the control
//! connection. Each module here attacks; the one beside it, in another domain, must notice nothing.

use crate::support::{Response, Server, constant, eventually, module};
use std::sync::Arc;
use std::time::Duration;

/// What every attacker needs: its descriptors by what they are, and messages over the control connection.
const TOOLS: &str = r#"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#define H(f) static int f(struct cweb_context *c, http_request_t *q, http_response_t *r)
static int names(int fd, const char *what) {
  char path[64], name[256]; snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  ssize_t n = readlink(path, name, sizeof name - 1); if (n < 0) return 0;
  name[n] = 0; return strstr(name, what) != NULL; }
/* The socket for descriptors keeps the borders of messages, the control connection is a stream. */
static int control(void) { int found = -1;
  for (int fd = 3; fd < 128; fd++) { int type = 0; socklen_t n = sizeof type;
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &n) == 0 && type == SOCK_STREAM) found = fd; }
  return found; }
static int put(int fd, const char *bytes, size_t n) {
  while (n > 0) { ssize_t k = send(fd, bytes, n, MSG_NOSIGNAL);
    if (k < 0 && errno == EINTR) continue;
    if (k < 0) return -1;
    bytes += k; n -= (size_t)k; }
  return 0; }
static int tell(int fd, const char *json) { uint32_t n = (uint32_t)strlen(json);
  return put(fd, (const char *)&n, 4) != 0 || put(fd, json, n) != 0 ? -1 : 0; }
static void rest(int s) { (void)s; for (;;) pause(); }
/* The thread that reads the control connection does so no more. */
static void deafen(void) { struct sigaction sa = { 0 }; sa.sa_handler = rest; sigaction(SIGUSR1, &sa, NULL);
  syscall(SYS_tgkill, getpid(), getpid(), SIGUSR1); usleep(200 * 1000); }
"#;

/// A server with two shards and `beside` in a domain of its own.
fn start(more: &[&str]) -> Server {
    let args = ["--shards", "2", "--isolation", "process"];
    let server = Server::on(&Arc::new(tempfile::tempdir().unwrap()), &[&args, more].concat(), &[]);
    deploy(&server, &constant("beside", "/beside", "here"), "beside");
    server
}

fn deploy(server: &Server, source: &str, domain: &str) -> Response {
    let mut client = server.connect();
    client.stream.set_read_timeout(Some(Duration::from_secs(180))).unwrap();
    let response = client.request("POST", &format!("/mgnt?domain={domain}"), &[], source.as_bytes());
    assert_eq!(response.status, 200, "{}\n{}", response.text(), server.log());
    response
}

/// An attacker in its own domain: its code behind [`TOOLS`], its routes by name.
fn attacker(server: &Server, code: &str, routes: &[&str], fields: &str) {
    let paths: Vec<String> = routes.iter().map(|name| format!(r#"{{"/{name}","GET",{name},NONE}}"#)).collect();
    // Before <cweb.h>: feature macros.
    let source = module("attacker", code, &paths.join(","), routes.len(), fields);
    deploy(
        server,
        &format!("{TOOLS_HEAD}{}", source.replacen("#define HANDLER", &format!("{TOOLS}#define HANDLER"), 1)),
        "evil",
    );
}

const TOOLS_HEAD: &str = "#define _GNU_SOURCE\n";

/// Asks without expecting an answer: the process may be ended for it.
fn provoke(server: &Server, target: &str) {
    let mut client = server.connect();
    client.send(format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes());
    std::mem::forget(client);
}

/// Every shard answers, and from the other domain.
fn is_well(server: &Server) {
    // The kernel spreads connections: of so many, each shard gets one.
    for _ in 0..32 {
        assert_eq!(server.get("/beside").text(), "here", "{}", server.log());
    }
}

#[test]
fn wake_ups_can_neither_be_stolen_nor_made_to_block() {
    let server = start(&[]);
    let code = r#"
static void *thief(void *fd) { uint64_t v; for (int n = 0; n < 1000000; n++) if (read((int)(long)fd, &v, 8) < 0) usleep(1000); return NULL; }
static void *ringer(void *fd) { uint64_t v = 1; for (int n = 0; n < 4000; n++) { if (write((int)(long)fd, &v, 8) < 0) break; usleep(250); } return NULL; }
H(wedge) { (void)c; (void)q; int found = 0; pthread_t t;
  for (int fd = 3; fd < 256; fd++) if (names(fd, "eventfd")) { found++;
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
    for (int n = 0; n < 8; n++) pthread_create(&t, NULL, thief, (void *)(long)fd);
    pthread_create(&t, NULL, ringer, (void *)(long)fd); }
  snprintf(r->body, HTTP_RESPONSE_SIZE, "%d", found); return 0; }
"#;
    attacker(&server, code, &["wedge"], "");
    assert!(server.get("/wedge").text().parse::<u32>().unwrap() >= 2, "{}", server.log());
    for _ in 0..20 {
        is_well(&server);
        std::thread::sleep(Duration::from_millis(50));
    }
    deploy(&server, &constant("beside", "/beside", "here"), "beside");
    server.stop();
}

/// The rings and the eventfds of a process: `put` writes a record to shard `s`, whatever it is.
const RINGS: &str = r#"
#define PAIR 3146752
#define TO_SERVER 1049088
#define WORDS (2u * 1024 * 1024 / 8)
static volatile uint64_t *rings; static int bells[16], shards; static size_t bodies;
static uint64_t tails[16];
static void find(void) { struct stat st; if (shards > 0) return;
  for (int fd = 3; fd < 256; fd++) { if (names(fd, "eventfd")) bells[shards++] = fd;
    if (names(fd, "cweb-ring") && fstat(fd, &st) == 0) {
      if (st.st_size < (32 << 20)) rings = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
      else bodies = (size_t)st.st_size; } } }
static int put_record(int s, const void *record, size_t n) {
  volatile uint64_t *ring = rings + ((size_t)s * PAIR + TO_SERVER) / 8, *data = ring + 64; uint64_t one = 1;
  if (tails[s] == 0) tails[s] = ring[0];
  size_t words = 1 + (n + 7) / 8;
  for (int tries = 0; WORDS - (tails[s] - ring[16]) < words; tries++) { if (tries > 20000) return -1; usleep(500); }
  data[tails[s] & (WORDS - 1)] = (tails[s] << 32) | n;
  for (size_t i = 0; i < words - 1; i++) { uint64_t w = 0; size_t left = n - i * 8; memcpy(&w, (const char *)record + i * 8, left < 8 ? left : 8);
    data[(tails[s] + 1 + i) & (WORDS - 1)] = w; }
  tails[s] += words; __sync_synchronize(); ring[0] = tails[s]; __sync_synchronize();
  if (ring[32]) { ring[32] = 0; if (write(bells[s], &one, 8) < 0) return -1; }
  return 0; }
"#;

#[test]
fn an_answer_that_nobody_asked_for_ends_the_process() {
    let server = start(&["--crash-limit", "0"]);
    let code = r#"
static void *attack(void *shard) { int s = (int)(long)shard; usleep(300 * 1000);
  unsigned char b[33] = { 10 }; uint64_t ticket = 0x7fffffff, at = bodies - ((uint64_t)2112 << 20), n = 40000; uint16_t status = 200;
  memcpy(b + 1, &ticket, 8); memcpy(b + 13, &status, 2); memcpy(b + 17, &at, 8); memcpy(b + 25, &n, 8);
  for (int i = 0; i < 100000; i++) if (put_record(s, b, 33) != 0) break;
  return NULL; }
H(lie) { (void)c; (void)q; (void)r; find(); pthread_t t;
  for (int s = 0; s < shards; s++) pthread_create(&t, NULL, attack, (void *)(long)s);
  snprintf(r->body, HTTP_RESPONSE_SIZE, "%d %d", shards, rings != NULL); return 0; }
"#;
    attacker(&server, &format!("{RINGS}{code}"), &["lie"], "");
    // The attack may come before the answer has left.
    eventually("it attacks", || server.get("/lie").text() == "2 1");
    for attempt in 1.. {
        eventually("the process dies", || server.log().matches("the process of domain evil died").count() >= attempt);
        // A record of its own, which the process writes at the same time, makes the ring a corrupt one.
        if server.log().contains("a call that is not open was answered: the process of domain evil is ended") {
            break;
        }
        assert!(attempt < 20, "{}", server.log());
        eventually("it is back", || server.get("/lie").status == 200);
    }
    is_well(&server);
}

#[test]
fn memory_for_bodies_is_bounded_whatever_a_process_writes_there() {
    let limits = [
        "--module-answers-bytes-max",
        "1000000",
        "--bodies-bytes-max",
        "1000000",
        "--stream-answers-max",
        "16",
        "--stream-calls-max",
        "2",
    ];
    let server = start(&limits);
    // All of it: more than honest processes ever have there.
    let code = r#"
H(fill) { (void)c; (void)q; (void)r; find(); char *all = MAP_FAILED;
  for (int fd = 3; fd < 256 && all == MAP_FAILED; fd++) { struct stat st;
    if (names(fd, "cweb-ring") && fstat(fd, &st) == 0 && (size_t)st.st_size == bodies)
      all = mmap(NULL, bodies, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0); }
  if (all == MAP_FAILED) { strcpy(r->body, "no memory"); return 0; }
  memset(all, 'f', bodies); for (;;) pause(); }
"#;
    attacker(&server, &format!("{RINGS}{code}"), &["fill"], "");
    provoke(&server, "/fill");
    server.expect_log("bytes of the memory for bodies, of at most");
    eventually("it is ended", || server.log().contains("the process of domain evil died"));
    is_well(&server);
}

#[test]
fn questions_that_are_asked_without_end_cost_the_server_neither_threads_nor_memory() {
    let server = start(&[]);
    let code = r#"
H(flood) { (void)c; (void)q; int fd = control(), n = 0; char b[256]; deafen();
  for (; n < 15000; n++) { snprintf(b, sizeof b,
    "{\"Question\":{\"call\":%d,\"what\":{\"CreateJob\":{\"instance\":0,\"job\":\"none\",\"payload\":\"1\"}}}}", 1000000 + n);
    if (tell(fd, b) != 0) break; }
  snprintf(r->body, HTTP_RESPONSE_SIZE, "%d", n); return 0; }
"#;
    attacker(&server, code, &["flood"], "");
    let before = threads(&server);
    provoke(&server, "/flood");
    let mut most = 0;
    eventually("it is ended", || {
        most = most.max(threads(&server));
        server.log().contains("the process of domain evil died")
    });
    assert!(most < before + 150, "{before} threads became {most}");
    server.expect_log("takes no answers");
    is_well(&server);
}

fn threads(server: &Server) -> usize {
    std::fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap().count()
}

#[test]
fn a_message_that_is_too_large_or_never_whole_ends_the_process() {
    let server = start(&[]);
    let code = r#"
H(big) { (void)c; (void)q; (void)r; int fd = control(); uint32_t n = 300 << 20; char *b = calloc(1, 1 << 20);
  if (put(fd, (const char *)&n, 4) == 0) for (int i = 0; i < 299; i++) if (put(fd, b, 1 << 20) != 0) break;
  sleep(3); return 0; }
"#;
    attacker(&server, code, &["big"], "");
    provoke(&server, "/big");
    server.expect_log("the process of domain evil can't be understood: a message of 314572800 bytes");
    assert!(server.memory_kib("VmHWM") < 250 * 1024, "{} KiB", server.memory_kib("VmHWM"));
    is_well(&server);
}

#[test]
fn a_job_that_says_more_than_it_may_is_refused_and_lives_on() {
    let server =
        start(&["--job-result-bytes-max", "1000", "--job-payload-bytes-max", "1000", "--job-event-bytes-max", "1000"]);
    let code = r#"
static int run(struct cweb_context *c, const job_payload_t *p, job_ctx_t *j) { (void)c; (void)p;
  size_t n = 8 << 20; char *text = malloc(n); memset(text, '1', n); text[n - 1] = 0;
  if (j->set_result(j, text) == 0) return -1;
  return j->set_result(j, "1"); }
H(hello) { (void)c; (void)q; strcpy(r->body, "hello"); return 0; }
"#;
    attacker(&server, code, &["hello"], r#".jobs = {{.name = "large", .run = run}}, .job_size = 1,"#);
    let accepted = server.post("/jobs", br#"{"job": "large"}"#).text();
    let uuid = accepted.split('"').find(|part| part.len() == 36).unwrap().to_owned();
    eventually("the job is done", || server.get(&format!("/jobs/{uuid}")).text().contains("\"done\""));
    assert!(!server.log().contains("died"), "{}", server.log());
}

#[test]
fn a_process_that_does_not_listen_holds_up_nobody_elsewhere() {
    let server = start(&[]);
    let code = r#"
static void *sip(void *fd) { char b[64]; for (int n = 0; n < 60; n++) { usleep(500 * 1000); if (recv((int)(long)fd, b, sizeof b, MSG_DONTWAIT) == 0) break; } return NULL; }
static void *ask(void *fd) { char b[256];
  for (int n = 0; n < 2000000; n++) { snprintf(b, sizeof b,
    "{\"Question\":{\"call\":%d,\"what\":{\"Verify\":{\"signed\":[1],\"token\":[2]}}}}", 3000000 + n);
    if (tell((int)(long)fd, b) != 0) break; }
  return NULL; }
H(deaf) { (void)c; (void)q; (void)r; int fd = control(); deafen(); pthread_t t;
  pthread_create(&t, NULL, sip, (void *)(long)fd); pthread_create(&t, NULL, ask, (void *)(long)fd); return 0; }
H(stop) { (void)c; (void)q; (void)r; kill(getpid(), SIGSTOP); return 0; }
"#;
    attacker(&server, code, &["deaf", "stop"], "");
    let (texts, mut quick) = (["a", "b"], 0);
    let versions = texts.map(|text| constant("beside", "/beside", text));
    // Nothing has to be compiled later on.
    versions.iter().for_each(|version| drop(deploy(&server, version, "beside")));
    provoke(&server, "/deaf");
    for n in 0..10 {
        let start = std::time::Instant::now();
        deploy(&server, &versions[n % 2], "beside");
        quick += usize::from(start.elapsed() < Duration::from_secs(1));
        assert_eq!(server.get("/beside").text(), texts[n % 2]);
    }
    // A busy machine does not hold up all of these deployments.
    assert!(quick > 0, "ten deployments, each of a second and more");
    server.expect_log("the process of domain evil died");
    eventually("it is back", || server.log().matches("is started again").count() == 1);
    deploy(&server, &constant("beside", "/beside", "here"), "beside");
    is_well(&server);
}

#[test]
fn a_process_that_is_stopped_costs_deployments_elsewhere_nothing() {
    let server = start(&[]);
    attacker(&server, "H(stop) { (void)c; (void)q; (void)r; kill(getpid(), SIGSTOP); return 0; }", &["stop"], "");
    provoke(&server, "/stop");
    std::thread::sleep(Duration::from_millis(300));
    let (versions, mut quick) = ([constant("beside", "/beside", "a"), constant("beside", "/beside", "b")], 0);
    for n in 0..10 {
        let start = std::time::Instant::now();
        deploy(&server, &versions[n % 2], "beside");
        quick += usize::from(start.elapsed() < Duration::from_secs(1));
    }
    // Each used to wait for a second. Those that a busy machine holds up are not all.
    assert!(quick > 0, "ten deployments, each of a second and more");
}

#[test]
fn a_callback_learns_that_its_client_has_left() {
    let server = start(&[]);
    let code = r#"
static _Atomic int ended;
static void on_message(struct cweb_context *c, websocket_t *ws, const char *text, size_t n) { (void)c; (void)text; (void)n;
  for (int i = 0; i < 2000 && ws->send(ws, "t", 1) == 0; i++) usleep(20 * 1000);
  ended++; }
H(ended_) { (void)c; (void)q; snprintf(r->body, HTTP_RESPONSE_SIZE, "%d", ended); return 0; }
"#;
    attacker(&server, code, &["ended_"], r#".websockets = {{"/evil", NULL, on_message, NULL}}, .ws_size = 1,"#);
    let mut socket = server.websocket("/evil");
    socket.send(tungstenite::Message::text("tick")).unwrap();
    assert_eq!(socket.read().unwrap(), tungstenite::Message::text("t"));
    assert_eq!(server.get("/ended_").text(), "0");
    drop(socket);
    eventually("send has failed", || server.get("/ended_").text() == "1");
}

/// The next text; the server's pings may come before it.
fn next_text(socket: &mut crate::support::Socket) -> String {
    loop {
        if let tungstenite::Message::Text(text) = socket.read().unwrap() {
            return text.as_str().to_owned();
        }
    }
}

#[test]
fn a_callback_that_never_returns_is_noticed_unless_it_sends() {
    let server = start(&["--handler-timeout-ms", "12000"]);
    let code = r#"
static void on_message(struct cweb_context *c, websocket_t *ws, const char *text, size_t n) { (void)c;
  if (n == 4 && memcmp(text, "hang", 4) == 0) for (;;) pause();
  if (n == 4 && memcmp(text, "talk", 4) == 0) for (int i = 0; i < 60 && ws->send(ws, "t", 1) == 0; i++) usleep(250 * 1000);
  char reply[32]; snprintf(reply, sizeof reply, "%d", (int)getpid()); ws->send(ws, reply, strlen(reply)); }
H(pid) { (void)c; (void)q; snprintf(r->body, HTTP_RESPONSE_SIZE, "%d", (int)getpid()); return 0; }
"#;
    attacker(&server, code, &["pid"], r#".websockets = {{"/evil", NULL, on_message, NULL}}, .ws_size = 1,"#);
    let before = server.get("/pid").text();
    let mut talker = server.websocket("/evil");
    talker.send(tungstenite::Message::text("talk")).unwrap();
    for _ in 0..60 {
        assert_eq!(next_text(&mut talker), "t");
    }
    assert_eq!(next_text(&mut talker), before, "{}", server.log());
    talker.send(tungstenite::Message::text("hang")).unwrap();
    talker.send(tungstenite::Message::text("pid")).unwrap();
    server.expect_log("a WebSocket callback of module attacker runs for longer than it may");
    let after = next_text(&mut talker);
    assert!(after != before && after == server.get("/pid").text(), "{after} {before}");
    is_well(&server);
}

#[test]
fn a_module_that_kills_its_process_unseen_is_left_out() {
    let server = start(&["--crash-limit", "3"]);
    let code = r#"
static const char *gate(char *path, size_t size) { snprintf(path, size, "%s/gate", getenv("TMPDIR")); return path; }
/* From the first call of /hello on, soon after the start of each process. */
static void *later(void *nothing) { (void)nothing; char path[4096]; gate(path, sizeof path);
  while (access(path, F_OK) != 0) usleep(1000);
  usleep(1000 * 1000); kill(getpid(), SIGKILL); return NULL; }
static void load(struct cweb_context *c) { (void)c; pthread_t t; pthread_create(&t, NULL, later, NULL); }
H(hello) { (void)c; (void)q; char path[4096]; close(open(gate(path, sizeof path), O_CREAT | O_WRONLY, 0600));
  strcpy(r->body, "hello"); return 0; }
"#;
    deploy(&server, &constant("before", "/before", "still here"), "evil");
    attacker(&server, code, &["hello"], ".onload = load,");
    provoke(&server, "/hello");
    server.expect_log("module attacker is in quarantine: it crashed its process 3 times");
    eventually("the other one is back", || server.get("/before").text() == "still here");
    assert_eq!(server.get("/hello").status, 503);
    assert_eq!(server.log().matches("is in quarantine").count(), 1, "{}", server.log());
    is_well(&server);
}

#[test]
fn a_module_says_the_same_of_itself_everywhere() {
    let server = start(&[]);
    // The inspection has another directory for files of a moment.
    let lie = r#"
__attribute__((constructor)) static void lie(void) { const char *dir = getenv("TMPDIR");
  if (dir != NULL && strstr(dir, "scratch") != NULL) CHANGE; }
"#;
    let route = r#"{"/liar","GET",h,NONE}"#;
    for change in
        [r#"strcpy(config.name, "good\nINFO forged")"#, r#"strcpy(config.name, "another")"#, "config.size = 0"]
    {
        let source = module("liar", "HANDLER(h, \"x\")", route, 1, "") + &lie.replace("CHANGE", change);
        let refused = server.post("/mgnt?domain=evil", source.as_bytes());
        assert_eq!(refused.status, 422, "{change}: {}", refused.text());
        assert!(!server.log().lines().any(|line| line.starts_with("INFO forged")), "{}", server.log());
    }
    // Only in the second process, which comes when the first has died.
    let once = r#"
__attribute__((constructor)) static void lie(void) { const char *dir = getenv("TMPDIR"); char path[512];
  if (dir == NULL || strstr(dir, "scratch") == NULL) return;
  snprintf(path, sizeof path, "%s/seen", dir); FILE *seen = fopen(path, "r");
  if (seen != NULL) { fclose(seen); strcpy(config.name, "another"); return; }
  seen = fopen(path, "w"); if (seen != NULL) fclose(seen); }
#include <signal.h>
#include <unistd.h>
"#;
    let code = "#include <signal.h>\n#include <unistd.h>\nstatic int h(struct cweb_context *c, http_request_t *q, http_response_t *r) { \
                (void)c; (void)q; (void)r; kill(getpid(), SIGKILL); return 0; }";
    deploy(&server, &(module("liar", code, route, 1, "") + once), "evil");
    provoke(&server, "/liar");
    server.expect_log("module liar is in quarantine: its config differs when it is loaded again");
    eventually("it is left out", || server.get("/liar").status == 503);
    is_well(&server);
}

/// A handler of a `CWEB_STREAM` route that finds the words of its own pipes in shared memory, and breaks their rules in the
/// way that `?how` says.
const STREAM_ATTACKS: &str = r#"
#include <cweb_stream.h>
static volatile uint64_t *memory(void) { static volatile uint64_t *all; find();
  for (int fd = 3; fd < 256 && all == NULL; fd++) { struct stat st;
    if (names(fd, "cweb-ring") && fstat(fd, &st) == 0 && (size_t)st.st_size == bodies)
      all = mmap(NULL, bodies, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0); }
  return all == MAP_FAILED ? NULL : all; }
/* The pipes of the call whose body has come and is not given back: eight words each, the body's first. */
static volatile uint64_t *pipes(void) { volatile uint64_t *all = memory();
  for (int slot = 0; all != NULL && slot < 64; slot++) if (all[16 * slot] != all[16 * slot + 3]) return all + 16 * slot;
  return NULL; }
static void scribble(volatile uint64_t *words, int rounds) { uint64_t state = 88172645463325252ull;
  for (int i = 0; i < rounds; i++) { state ^= state << 13; state ^= state >> 7; state ^= state << 17;
    words[i % 8] = state % 3 == 0 ? state : state % 200000; if (i % 1000 == 0) usleep(100); } }
/* The process's own records would overwrite these: they are read first. */
static void ring_all(void) { uint64_t one = 1; for (int i = 0; i < shards; i++) if (write(bells[i], &one, 8) < 0) break;
  usleep(300 * 1000); }
H(attack) { (void)c; const void *at; size_t n; char big[40000]; memset(big, 'b', sizeof big); const char *text = http_kv_get(q->params, "how");
  int how = text == NULL ? 0 : atoi(text);
  if (cweb_read_view(q, &at, &n) != 1) return 0;
  volatile uint64_t *up = pipes(), *down = up + 8; uint64_t bit = 1ull << 63;
  if (up == NULL) return cweb_respond(r, HTTP_500_INTERNAL_SERVER_ERROR, NULL, "no pipes");
  if (how == 8) { unsigned char b[13] = { 42 }; for (uint64_t t = 1; t < 100; t++) { uint64_t ticket = t | bit; memcpy(b + 1, &ticket, 8); put_record(0, b, 13); } ring_all(); }
  if (how == 9) { unsigned char b[25] = { 40 }; uint64_t ticket = 0x777777 | bit, none = ~0ull; uint16_t ok = 200;
    memcpy(b + 1, &ticket, 8); memcpy(b + 13, &ok, 2); memcpy(b + 15, &none, 8); put_record(0, b, 25); ring_all(); }
  if (how == 0) up[3] = 1ull << 40;
  if (how == 1) { cweb_read_view(q, &at, &n); up[3] = 0; }
  if (how == 2) up[4] = ~0ull;
  if (how == 3) scribble(up, 20000);
  if (how < 4 || how > 7) { for (int i = 0; i < 100 && cweb_read_view(q, &at, &n) == 1; i++) {} return cweb_respond(r, HTTP_200_OK, NULL, "done"); }
  if (cweb_begin(r, 200) != 0) return 0;
  cweb_write(r, big, sizeof big);
  if (how == 4) down[0] = 1ull << 40;
  if (how == 5) down[0] = 10;
  if (how == 6) { down[1] = (1ull << 63) | 12345; down[7] = 3; }
  if (how == 7) { down[2] = 1; cweb_write(r, big, sizeof big); down[2] = ~0ull; scribble(down, 20000); }
  cweb_write(r, big, sizeof big); return 0; }
H(alive) { (void)c; (void)q; strcpy(r->body, "alive"); return 0; }
"#;

#[test]
fn streams_whose_memory_a_process_spoils_end_and_cost_nobody_else_anything() {
    let args = ["--shards", "1", "--isolation", "process", "--crash-limit", "0", "--handler-timeout-ms", "3000"];
    let server = Server::on(&Arc::new(tempfile::tempdir().unwrap()), &args, &[]);
    let beside = constant("beside", "/beside", "here").replace("h, NONE", "h, CWEB_TIMEOUT_S(60)");
    deploy(&server, &beside, "beside");
    let routes = r#"{"/attack","POST",attack,CWEB_STREAM},{"/alive","GET",alive,NONE}"#;
    let source = module("attacker", &format!("{RINGS}{STREAM_ATTACKS}"), routes, 2, "");
    let source = source.replacen("#define HANDLER", &format!("{TOOLS}#define HANDLER"), 1);
    deploy(&server, &format!("{TOOLS_HEAD}{source}"), "evil");
    for how in 0..8 {
        attack_streams(&server, how);
        attack_streams(&server, how);
    }
    for (how, why) in [(8, "a call that is not open was answered"), (9, "a call that is not open began an answer")] {
        // A record of its own, which the process writes at the same time, can take the place of these.
        eventually(why, || {
            attack_streams(&server, how);
            server.log().contains(why)
        });
    }
    is_well(&server);
    server.stop();
}

/// Calls the handler of [`STREAM_ATTACKS`]: the request ends, and both domains serve after it.
fn attack_streams(server: &Server, how: u32) {
    let body = vec![b'u'; 300_000];
    let mut client = server.connect();
    let head = format!("POST /attack?how={how} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
    client.send(format!("{head}Content-Length: {}\r\n\r\n", body.len()).as_bytes());
    // The server may have closed the connection meanwhile.
    let _ = std::io::Write::write_all(&mut client.stream, &body);
    let (mut answer, mut chunk) = (Vec::new(), [0; 1 << 16]);
    // An answer, whole or not, or none: but an end.
    loop {
        match std::io::Read::read(&mut client.stream, &mut chunk) {
            Ok(0) => break,
            Ok(count) => answer.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(error) => panic!("?how={how}: {error}\n{}", server.log()),
        }
        // The answer has no more bytes than the pipe and the positions in it, which the module may have made up, allow.
        assert!(answer.len() < 4 << 20, "?how={how}");
    }
    assert!(!answer.starts_with(b"HTTP/1.1 500 Internal Server Error\r\n") || how == 9, "?how={how}: no pipes");
    assert_eq!(server.get("/beside").text(), "here", "{}", server.log());
    eventually("the domain serves", || server.get("/alive").text() == "alive");
}
