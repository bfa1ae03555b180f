//! Modules that go down in every way there is, beside well-behaved ones in another domain, which must notice nothing.

use crate::support::{Server, eventually, module};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tungstenite::Message;

/// One route a way to go down, and one that answers.
fn vandal() -> String {
    let code = r#"
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>
#define H(f) static int f(struct cweb_context *c, http_request_t *q, http_response_t *r)
#define UNUSED (void)c; (void)q; (void)r
H(ok) { UNUSED; strcpy(r->body, "ok"); return 0; }
H(segfault) { UNUSED; volatile int *volatile p = 0; *p = 1; return 0; }
H(aborts) { UNUSED; abort(); }
static int deeper(volatile int n) { volatile char room[4096]; room[0] = (char)n; return deeper(n + 1) + room[0]; }
H(overflow) { UNUSED; return deeper(0); }
H(leaves) { UNUSED; exit(0); }
H(dies) { UNUSED; kill(getpid(), SIGKILL); pause(); return 0; }
H(forever) { UNUSED; for (volatile int i = 0;; i++) { } return 0; }
H(memory) { UNUSED; for (int i = 0; i < 4096; i++) { char *p = malloc(1 << 24); if (p == NULL) break; p[0] = 1; } return 0; }
H(closes) { UNUSED; for (int fd = 3; fd < 300; fd++) close(fd); return 0; }
H(forks) { UNUSED; for (int i = 0; i < 10000; i++) { if (fork() == 0) for (;;) { fork(); } } return 0; }
static void *thread_crash(void *arg) { (void)arg; volatile int *volatile p = (int *)8; *p = 1; return NULL; }
H(thread) { UNUSED; pthread_t t; pthread_create(&t, NULL, thread_crash, NULL); pthread_join(t, NULL); return 0; }
H(scribble) { UNUSED;
  FILE *maps = fopen("/proc/self/maps", "r"); char line[512];
  while (maps != NULL && fgets(line, sizeof line, maps) != NULL) {
    unsigned long from, to; char mode[8];
    if (strstr(line, "memfd:") != NULL && sscanf(line, "%lx-%lx %7s", &from, &to, mode) == 3 && mode[1] == 'w')
      for (unsigned long at = from; at < to && at < from + (8UL << 20); at++)
        ((volatile unsigned char *)at)[0] = (unsigned char)(at * 2654435761u >> 13);
  }
  return 0; }
"#;
    let names = [
        "ok", "segfault", "aborts", "overflow", "leaves", "dies", "forever", "memory", "closes", "forks", "thread",
        "scribble",
    ];
    // Handlers that don't end are ended soon; well-behaved ones have the server's limit, however long they wait.
    let route = |name: &&str| format!(r#"{{"/vandal/{name}","GET",{name},CWEB_TIMEOUT_S(1)}}"#);
    let routes: Vec<String> = names.iter().map(route).collect();
    module("vandal", code, &routes.join(","), names.len(), "")
}

const WAYS: [&str; 11] =
    ["segfault", "aborts", "overflow", "leaves", "dies", "forever", "memory", "closes", "forks", "thread", "scribble"];

fn well_behaved() -> String {
    let code = "HANDLER(h, \"fine\")\n\
        static void on_message(struct cweb_context *c, websocket_t *w, const char *t, size_t n) { (void)c; w->send(w, t, n); }\n";
    let fields = r#".websockets = {{"/good/ws", NULL, on_message, NULL}}, .ws_size = 1,"#;
    module("good", code, r#"{"/good","GET",h,NONE}"#, 1, fields)
}

fn deploy_into(server: &Server, source: &str, domain: &str) {
    let answer = server.post(&format!("/mgnt?domain={domain}"), source.as_bytes());
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[test]
fn every_way_to_go_down_beside_well_behaved_modules() {
    // The shared memory is found in /proc; a limit makes the greedy come to an end.
    let args = [
        "--shards",
        "2",
        "--isolation",
        "process",
        "--allow-read",
        "/proc",
        "--crash-limit",
        "0",
        "--module-memory-bytes-max",
        "8589934592",
    ];
    let server = Server::on(&Arc::new(tempfile::tempdir().unwrap()), &args, &[]);
    deploy_into(&server, &well_behaved(), "good");
    deploy_into(&server, &vandal(), "bad");
    let (stop, asked) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
    let clients: Vec<_> = (0..3)
        .map(|_| {
            let (mut client, stop, asked) = (server.connect(), Arc::clone(&stop), Arc::clone(&asked));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let answer = client.get("/good");
                    assert_eq!((answer.status, answer.text().as_str()), (200, "fine"));
                    asked.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(2));
                }
            })
        })
        .collect();
    let mut socket = server.websocket("/good/ws");
    let mut before = None;
    for round in 0..3 {
        for way in WAYS {
            // Whatever the answer is, there is one, or the connection ends.
            let _ = server.connect().attempt("GET", &format!("/vandal/{way}"), b"");
            socket.send(Message::text(way)).unwrap();
            // The server's pings may come first.
            let mut answer = socket.read().unwrap();
            while answer.is_ping() {
                answer = socket.read().unwrap();
            }
            assert_eq!(answer, Message::text(way));
            eventually("the vandal serves again", || server.get("/vandal/ok").text() == "ok");
        }
        if round == 0 {
            // The server, and of each domain (the default one, too) the process in service and the spare.
            eventually("all processes are there", || server.processes().len() == 7);
            before = Some((server.descriptors(), server.memory_kib_own()));
        }
    }
    stop.store(true, Ordering::Relaxed);
    clients.into_iter().for_each(|client| client.join().expect("a well-behaved module was disturbed"));
    assert!(asked.load(Ordering::Relaxed) > 500, "there was no load");
    let (descriptors, resident) = before.unwrap();
    eventually("no descriptor is left behind", || server.descriptors() <= descriptors);
    eventually("no memory is left behind", || server.memory_kib_own() < resident + 24 * 1024);
    assert!(!server.log().contains("panicked"), "{}", server.log());
}
