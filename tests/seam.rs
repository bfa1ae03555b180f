//! What a hostile module can do to the server by what its process shares with it: the rings, their wake-ups, the control
//! connection. Each module here attacks; the one beside it, in another domain, must notice nothing.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::sync::Arc;
use std::time::Duration;
use support::{Response, Server, constant, eventually, module};

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
static int control(void) { int found = -1; struct stat st;
  for (int fd = 3; fd < 128; fd++) if (fstat(fd, &st) == 0 && S_ISSOCK(st.st_mode)) found = fd;
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
  for (int fd = 3; fd < 64; fd++) if (names(fd, "eventfd")) { found++;
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
