//! A hostile crowd against the real server, with well-behaved clients beside it that must notice nothing; and afterwards
//! nothing may be left: no connection, descriptor, call, memory beyond a bound, or panic.

#[path = "chaos/attacks.rs"]
mod attacks;

use crate::support::{self, Client, PATIENCE, Server, eventually, module};
use attacks::{ATTACKS, Random};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tungstenite::Message;

/// Rounds of all attacks, after one that lets caches and allocators grow to their size.
const ROUNDS: u64 = 3;
/// Attackers at once.
const CROWD: u64 = 4;
/// What the server's memory may have grown by after [`ROUNDS`]; it is what allocators keep, and does not grow with rounds.
const GROWTH_KIB_MAX: u64 = 24 * 1024;
/// Idle connections, if the limit of descriptors allows.
const IDLE: usize = 5_000;
/// A server that has been left alone answers at once; this leaves room for a machine that is busy with other tests.
const ANSWER_MAX: Duration = Duration::from_secs(60);

fn lab() -> String {
    let code = r#"
static int big(struct cweb_context *c, http_request_t *q, http_response_t *r) { (void)c; (void)q;
  memset(r->body, 'b', 8000); r->body[8000] = '\0'; return 0; }
static int length(struct cweb_context *c, http_request_t *q, http_response_t *r) { (void)c;
  snprintf(r->body, HTTP_RESPONSE_SIZE, "%zu", q->body ? strlen(q->body) : 0); return 0; }
static void on_message(struct cweb_context *c, websocket_t *w, const char *m, size_t n) { (void)c; w->send(w, m, n); }
#include <cweb_stream.h>
static int count(struct cweb_context *c, http_request_t *q, http_response_t *r) { (void)c; const void *at; size_t n, all = 0;
  while (cweb_read_view(q, &at, &n) == 1) all += n;
  snprintf(r->body, HTTP_RESPONSE_SIZE, "%zu", all); return 0; }
static int flow(struct cweb_context *c, http_request_t *q, http_response_t *r) { (void)c; (void)q; char piece[20000];
  memset(piece, 'f', sizeof piece); cweb_begin(r, 200);
  for (int i = 0; i < 100 && cweb_write(r, piece, sizeof piece) == 0; i++) {}
  return 0; }
static void gone(void *stream) { cweb_stream_close((cweb_stream_t *)stream); }
static int subscribe(struct cweb_context *c, http_request_t *q, http_response_t *r) { (void)c;
  cweb_stream_t *stream = cweb_detach(q, r);
  if (stream == NULL) return cweb_respond(r, HTTP_500_INTERNAL_SERVER_ERROR, NULL, "full");
  cweb_stream_write(stream, "welcome", 7); return cweb_stream_on(stream, NULL, gone, stream); }
HANDLER(hello, "hello")
"#;
    let routes = r#"{"/hello", "GET", hello, NONE}, {"/big", "GET", big, NONE}, {"/length", "POST", length, NONE},
        {"/count", "POST", count, CWEB_STREAM}, {"/flow", "GET", flow, CWEB_STREAM}, {"/subscribe", "GET", subscribe, NONE}"#;
    module("lab", code, routes, 6, r#".websockets = {{"/ws", NULL, on_message, NULL}}, .ws_size = 1,"#)
}

fn server() -> Server {
    raise_limit();
    let time_outs = ["--header-timeout-ms", "1000", "--body-timeout-ms", "1000", "--write-timeout-ms", "2000"];
    // Thousands of connections are idle for as long as a busy machine takes.
    let server = Server::with(&[["--shards", "2", "--idle-timeout-ms", "600000"].as_slice(), &time_outs].concat());
    server.deploy(&lab());
    server.wait_complete();
    server
}

/// This process holds one end of every connection.
fn raise_limit() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    let now = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(now).unwrap_or(usize::MAX)
}

/// The sum of `name` over the shards.
fn metric(server: &Server, name: &str) -> u64 {
    let text = server.get("/metrics").text();
    let lines = text.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

/// Connects to an address; each call of what it gives is one exchange.
type GoodClient = fn(&str) -> Box<dyn FnMut()>;

/// Clients that ask and are answered, until they are stopped.
struct GoodClients {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<(u64, Duration)>>,
}

impl GoodClients {
    fn start(server: &Server) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let clients: [GoodClient; 3] = [keep_alive, one_request_each, echo];
        let spawn = |client: GoodClient| {
            let (addr, stop) = (server.addr.clone(), Arc::clone(&stop));
            thread::spawn(move || {
                let mut ask = client(&addr);
                let (mut count, mut longest) = (0, Duration::ZERO);
                while !stop.load(Ordering::Relaxed) {
                    let start = Instant::now();
                    ask();
                    longest = longest.max(start.elapsed());
                    count += 1;
                    thread::sleep(Duration::from_millis(2));
                }
                (count, longest)
            })
        };
        let threads = clients.map(spawn).into();
        Self { stop, threads }
    }

    /// Stops them; each has been answered every time.
    fn stop(self, log: &str) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            let (count, longest) = thread.join().unwrap_or_else(|_| panic!("a good client was harmed\n{log}"));
            println!("a good client: {count} answers, the slowest after {longest:?}");
            assert!(count > 0);
        }
    }
}

fn keep_alive(addr: &str) -> Box<dyn FnMut()> {
    let mut client = Client::connect(addr);
    Box::new(move || {
        let answer = client.get("/hello");
        assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
        let answer = client.request("POST", "/length", &[], b"twelve bytes");
        assert_eq!((answer.status, answer.text().as_str()), (200, "12"));
    })
}

fn one_request_each(addr: &str) -> Box<dyn FnMut()> {
    let addr = addr.to_owned();
    Box::new(move || {
        let answer = Client::connect(&addr).get("/big");
        assert_eq!((answer.status, answer.body.len()), (200, 8000));
    })
}

fn echo(addr: &str) -> Box<dyn FnMut()> {
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut socket = tungstenite::client(format!("ws://{addr}/ws"), stream).unwrap().0;
    let mut number = 0;
    Box::new(move || {
        number += 1;
        let message = Message::text(format!("message {number}"));
        socket.send(message.clone()).unwrap();
        assert_eq!(socket.read().unwrap(), message);
    })
}

/// A round: every attacker makes every attack, each in an order of its own.
fn round(server: &Server, number: u64) {
    thread::scope(|scope| {
        for attacker in 0..CROWD {
            scope.spawn(move || {
                let mut random = Random::new(number * CROWD + attacker);
                let mut attacks = ATTACKS.to_vec();
                while !attacks.is_empty() {
                    let attack = attacks.swap_remove(random.below(attacks.len()));
                    attack(&server.addr, &mut random);
                }
            });
        }
    });
}

/// What a server at rest holds, and the process of its modules with it.
#[derive(Debug, Clone, Copy)]
struct Held {
    descriptors: usize,
    resident_kib: u64,
}

/// Memory of the server's processes without the pages of programs, which come and go with their use. What the server shares
/// with the processes of its modules is counted once: in the server.
fn resident_kib(server: &Server) -> u64 {
    let of = |pid: u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let value = |line: &str| line.split_whitespace().nth(1).and_then(|value| value.parse::<u64>().ok());
        let kib = |name: &str| status.lines().find(|line| line.starts_with(name)).and_then(value).unwrap_or(0);
        let shared = if pid == server.pid() { kib("RssShmem:") } else { 0 };
        kib("RssAnon:") + shared
    };
    server.processes().into_iter().map(of).sum()
}

/// Waits until nobody is connected but the one who asks, and no call is running.
fn at_rest(server: &Server) -> Held {
    // Its own connection is open when the gauge is read; the one before may still be in the last tick's count.
    eventually("all connections are gone", || metric(server, "cweb_connections") <= 1);
    eventually("no WebSocket is left", || metric(server, "cweb_websockets") == 0);
    eventually("no call is left", || metric(server, "cweb_calls_in_flight") == 0);
    Held { descriptors: server.descriptors(), resident_kib: resident_kib(server) }
}

fn nothing_is_left(server: &Server, before: Held) {
    let start = Instant::now();
    assert_eq!(server.get("/hello").text(), "hello");
    assert!(start.elapsed() < ANSWER_MAX, "an answer took {:?}", start.elapsed());
    let mut after = at_rest(server);
    eventually("the descriptors are what they were", || {
        after = at_rest(server);
        after.descriptors <= before.descriptors
    });
    println!("before {before:?}, after {after:?}");
    let growth_kib = after.resident_kib.saturating_sub(before.resident_kib);
    assert!(growth_kib <= GROWTH_KIB_MAX, "{growth_kib} KiB more than before: {before:?}, {after:?}");
    let log = server.log();
    assert!(!log.contains("panicked") && !log.contains("a panic"), "{log}");
    if support::isolation() == "process" {
        assert_eq!(metric(server, "cweb_domain_restarts_total"), 0, "{log}");
    }
}

#[test]
fn a_hostile_crowd_harms_nobody_and_leaves_nothing() {
    let server = server();
    round(&server, 0);
    let before = at_rest(&server);
    let good = GoodClients::start(&server);
    for number in 1..=ROUNDS {
        round(&server, number);
    }
    good.stop(&server.log());
    nothing_is_left(&server, before);
    server.stop();
}

#[test]
fn thousands_of_idle_connections_are_held_and_let_go() {
    // The server has as many descriptors as this process, and keeps some for itself.
    let count = IDLE.min(raise_limit().saturating_sub(1_000) / 2);
    assert!(count >= 100, "ulimit -n leaves room for {count} connections");
    let server = server();
    let open = || (0..count).map(|_| TcpStream::connect(&server.addr).unwrap()).collect::<Vec<_>>();
    drop(open());
    let before = at_rest(&server);
    let good = GoodClients::start(&server);
    let idle = open();
    eventually("all of them are open", || metric(&server, "cweb_connections") >= count as u64);
    let held_kib = resident_kib(&server).saturating_sub(before.resident_kib);
    println!("{count} idle connections: {held_kib} KiB");
    // Half of them ask something and go on idling, the others end in a reset.
    let mut chunk = [0; 1024];
    for (number, mut stream) in idle.into_iter().enumerate() {
        if number % 2 == 0 {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(b"GET /hello HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
            assert!(stream.read(&mut chunk).unwrap() > 0, "connection {number} is dead");
        } else {
            attacks::reset(stream);
        }
    }
    good.stop(&server.log());
    nothing_is_left(&server, before);
    server.stop();
}
