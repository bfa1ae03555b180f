//! A whole connection: the shard that serves it, the rings to the modules' process, and that process.

use super::{Random, pieces, ways_to_cut};
use crate::abi::manifest::{Manifest, RouteDecl, WebSocketDecl};
use crate::admin::{Access, Admin, KeySource};
use crate::domain::inbox::{Inbox, Message};
use crate::domain::process::fuzz::{Domain, module};
use crate::domain::{Host, Instance, LoadError};
use crate::jobs::hub::Hub;
use crate::jobs::store::{Store, StoreConfig};
use crate::jobs::{Jobs, JobsConfig};
use crate::module::control::{Control, ControlConfig};
use crate::module::fuzz::table;
use crate::net::fuzz::Driver;
use crate::net::{Peer, Waker};
use crate::proto::http1::{self, CONTINUE};
use crate::shard::{MemoryBudget, Shard, ShardLimits, ShardParts};
use crate::shard_stats::ShardStats;
use arc_swap::ArcSwap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Longer inputs are truncated. Inputs up to this length reach no limit on heads: whether a limit or a fault is answered first
/// may depend on how the bytes arrive.
const INPUT_BYTES_MAX: usize = 4 * 1024 + 256;

/// Limit on the rounds of a conversation: one that takes longer never ends.
const ROUNDS_MAX: usize = 100_000;

/// The input is the bytes that a client sends, ending in FIN. The answers must not depend on how the input is cut, how slowly
/// the client reads, or when and in which order the modules answer. No state may remain.
pub fn connection(data: &[u8]) {
    let data = &data[..data.len().min(INPUT_BYTES_MAX)];
    let mut random = Random::of(data);
    let whole = split(converse(&[data], &mut random));
    for cuts in ways_to_cut(data) {
        let cut = split(converse(&pieces(data, &cuts), &mut random));
        if !refused_early(&cut.http, &whole.http) {
            assert_eq!(cut.http.escape_ascii().to_string(), whole.http.escape_ascii().to_string());
        }
        assert_eq!(cut.control, whole.control);
        // Frames of the module are dropped once a close frame is on its way, so their number depends on when that frame
        // arrives.
        let common = cut.data.len().min(whole.data.len());
        assert_eq!(cut.data[..common], whole.data[..common]);
    }
}

/// Whether one conversation ended with a refusal that the other conversation has too, but without ending there. A refused body
/// ends its connection unless the body has already arrived.
fn refused_early(one: &[u8], other: &[u8]) -> bool {
    let ended = |short: &[u8], long: &[u8]| {
        let Some(&at) = find(short, b"Connection: close\r\n").last() else { return false };
        let (before, after) = (&short[..at], &short[at + b"Connection: close\r\n".len()..]);
        before
            .windows(13)
            .any(|window| window == b"HTTP/1.1 403 " || window == b"HTTP/1.1 404 " || window == b"HTTP/1.1 405 ")
            && long.starts_with(&[before, after].concat())
    };
    ended(one, other) || ended(other, one)
}

/// Sends `pieces` as soon as the shard reads, and returns the output.
fn converse(pieces: &[&[u8]], random: &mut Random) -> Vec<u8> {
    let (shard, mut domain, stats) = serve();
    // The peer is not on this machine, so that requests on the server's own paths are refused at once.
    let peer = Peer::Tcp(SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 1)));
    let mut driver = Driver::accept(shard, &peer);
    let (mut coming, mut ended) = (pieces.iter(), false);
    let room = [16, 500, usize::MAX][random.below(3)];
    let mut idle_rounds = 0;
    for round in 0.. {
        assert!(round < ROUNDS_MAX, "the conversation does not end");
        let mut busy = false;
        if driver.is_reading() || driver.is_closing() {
            match coming.next() {
                Some(piece) => driver.data(piece),
                None if !std::mem::replace(&mut ended, true) => driver.eof(),
                None => {}
            }
            busy = !ended;
        }
        busy |= driver.end_batch(room);
        // The module sometimes delays its answers; if nothing else happens, the module must answer.
        let count = if idle_rounds > 0 { 1 } else { random.below(3) };
        busy |= domain.work(random, count);
        idle_rounds = if busy { 0 } else { idle_rounds + 1 };
        if idle_rounds > 3 && domain.waiting() == 0 && !driver.is_blocked() {
            break;
        }
    }
    assert!(ended, "the shard no longer reads the connection, and no event is left that could change that");
    assert!(driver.is_closing(), "the client has sent FIN and waits for no answer");
    driver.closed();
    while domain.work(random, 1) || domain.waiting() > 0 {
        driver.idle();
    }
    driver.idle();
    let left = stats.view();
    assert_eq!((left.connections, left.sockets, left.in_flight), (0, 0, 0), "no state remains");
    std::mem::take(&mut driver.received)
}

/// The output to a client.
struct Sent {
    /// The HTTP bytes, without parts that depend on the clock or on how much input had arrived.
    http: Vec<u8>,
    /// The frames of a WebSocket that the server itself sends.
    control: Vec<Vec<u8>>,
    /// The frames that the module sends.
    data: Vec<Vec<u8>>,
}

fn split(mut bytes: Vec<u8>) -> Sent {
    for at in find(&bytes, b"\r\nDate: ") {
        let end = (at + 37).min(bytes.len());
        bytes[at..end].fill(b'-');
    }
    let upgraded = find(&bytes, b"HTTP/1.1 101 ").first().copied();
    let start = upgraded.and_then(|at| Some(at + find(&bytes[at..], b"\r\n\r\n").first()? + 4));
    let mut frames = bytes.split_off(start.unwrap_or(bytes.len()));
    let mut sent = Sent { http: bytes, control: Vec::new(), data: Vec::new() };
    while !frames.is_empty() {
        let length = match frames[1] {
            short @ ..=125 => 2 + usize::from(short),
            126 => 4 + usize::from(u16::from_be_bytes([frames[2], frames[3]])),
            _ => panic!("a frame that is masked or too long"),
        };
        let rest = frames.split_off(length);
        let closed = sent.control.last().is_some_and(|last| last[0] == 0x88);
        assert!(!closed, "RFC 6455 §5.5.1: nothing follows a close frame");
        if frames[0] & 8 == 0 { &mut sent.data } else { &mut sent.control }.push(frames);
        frames = rest;
    }
    // Whether the server sends `100 Continue` depends on how much of the body has arrived.
    while let Some(&at) = find(&sent.http, CONTINUE).first() {
        sent.http.drain(at..at + CONTINUE.len());
    }
    sent
}

fn find(bytes: &[u8], text: &[u8]) -> Vec<usize> {
    memchr::memmem::find_iter(bytes, text).collect()
}

/// A shard, its peer process, and its counters.
fn serve() -> (Shard, Domain, Arc<ShardStats>) {
    static WAKER: OnceLock<Arc<Waker>> = OnceLock::new();
    let waker = WAKER.get_or_init(|| Arc::new(Waker::new().expect("an eventfd")));
    let inbox = Arc::new(Inbox::new(Arc::clone(waker)));
    let stats: Arc<ShardStats> = Arc::default();
    let (link, domain) = Domain::new(INPUT_BYTES_MAX);
    let shard = Shard::new(ShardParts {
        id: 0,
        limits: limits(),
        table: Arc::new(ArcSwap::from_pointee(table(vec![module(manifest())]))),
        inbox: Arc::clone(&inbox),
        local: None,
        admin: Arc::clone(admin()),
        admin_listeners_from: None,
        peers: None,
        memory: Arc::new(MemoryBudget::new(usize::MAX, vec![Arc::clone(&stats)])),
        stats: Arc::clone(&stats),
    });
    inbox.push(Message::DomainUp(link));
    (shard, domain, stats)
}

fn manifest() -> Manifest {
    let route = |(method, path): &(&str, &str)| RouteDecl {
        path: (*path).to_owned(),
        method: (*method).to_owned(),
        flags: 0,
        has_handler: true,
        mount: None,
        ..RouteDecl::default()
    };
    let routes = [("GET", "/a"), ("POST", "/a"), ("PUT", "/a"), ("GET", "/b/[a-z]+"), ("DELETE", "/b/[a-z]+")];
    let websocket = WebSocketDecl { path: "/ws".to_owned(), ..WebSocketDecl::default() };
    Manifest {
        name: "fuzz".to_owned(),
        routes: routes.iter().map(route).collect(),
        websockets: vec![websocket],
        ..Manifest::default()
    }
}

pub(super) fn limits() -> ShardLimits {
    const NEVER_MS: u64 = 1 << 40;
    ShardLimits {
        http: http1::Limits {
            head_bytes_max: 2 * INPUT_BYTES_MAX,
            uri_bytes_max: INPUT_BYTES_MAX,
            ..http1::Limits::default()
        },
        // The server answers a body that is too large the same way, but closes its connection only if the body has not arrived
        // whole.
        body_bytes_max: 1 << 20,
        route_body_bytes_max: 1 << 20,
        own_body_bytes_max: 1 << 20,
        bodies_bytes_max: 1 << 30,
        connections_max: 10,
        requests_per_connection_max: u64::MAX,
        pipeline_max: 4,
        in_flight_max: 100,
        own_in_flight_max: 100,
        streams_max: 100,
        unsent_bytes_max: 300,
        ws_message_bytes_max: 1000,
        ws_queue_bytes_max: 1 << 30,
        ws_inbox_messages_max: 3,
        ws_rooms_max: 3,
        ws_compress: true,
        header_timeout_ms: NEVER_MS,
        body_timeout_ms: NEVER_MS,
        idle_timeout_ms: NEVER_MS,
        write_timeout_ms: NEVER_MS,
        ws_ping_interval_ms: 0,
        ws_pong_timeout_ms: NEVER_MS,
        handler_timeout_ms: NEVER_MS,
        cors_origin: Some("*".to_owned()),
        cors_methods: "GET".to_owned(),
        cors_headers: "X".to_owned(),
        cors_max_age_s: 1,
        dev: true,
    }
}

/// A host that loads no module.
struct NoHost;

impl Host for NoHost {
    fn inspect(&self, _path: &Path, _preload: &[PathBuf], _limit: Duration) -> Result<Manifest, LoadError> {
        Err(LoadError::Host("no modules here".to_owned()))
    }

    fn load(&self, _path: &Path, _domain: &str) -> Result<Arc<dyn Instance>, LoadError> {
        Err(LoadError::Host("no modules here".to_owned()))
    }

    fn check_domain(&self, _domain: &str) -> Result<(), LoadError> {
        Ok(())
    }
}

/// The server's own paths, with all their services. No request from another machine is admitted.
pub(super) fn admin() -> &'static Arc<Admin> {
    static ADMIN: OnceLock<Arc<Admin>> = OnceLock::new();
    ADMIN.get_or_init(|| {
        let dir = std::env::temp_dir().join(format!("cweb-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        let config = ControlConfig { module_dir: dir.join("modules"), workers: 1, ..ControlConfig::default() };
        let control = Control::start(config, Arc::new(NoHost)).expect("a control plane");
        let (hub, store) = (Arc::new(Hub::default()), StoreConfig::new(dir.join("jobs.sqlite3")));
        let store = Store::open(store, Box::new(|_| {})).expect("a store");
        let config = JobsConfig {
            workers: 1,
            reserve_workers: 0,
            domain_running_max: 0,
            timeout_ms: 0,
            module_running_max: 1,
            unfinished_max: 1,
            payload_bytes_max: 1000,
            event_bytes_max: 1000,
            events_max: 1000,
            events_bytes_max: 1_000_000,
            result_bytes_max: 1000,
            checkpoint_bytes_max: 1000,
            retention: Duration::from_secs(1000),
            blobs: crate::jobs::blobs::BlobsConfig {
                dir: dir.join("blobs"),
                outputs_dir: dir.join("job-files"),
                is_written: |_| false,
                blob_bytes_max: 1000,
                bytes_max: 10_000,
                retention: Duration::from_secs(1000),
            },
        };
        let jobs = Jobs::start(config, store, hub, Arc::new(control.clone())).expect("jobs");
        jobs.begin();
        // Open files stay open, and no path is looked up again.
        let _ = std::fs::remove_dir_all(&dir);
        let keys = KeySource { admin_key: None, file: None };
        let access = Access::new(keys, true, 0).expect("an empty list of keys is valid");
        Arc::new(Admin::new(control, jobs, Arc::new(access), Vec::new()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Allocations of the shard for one request on a keep-alive connection to a module in a domain, once all buffers have their
    /// final size: the bytes of the answer.
    const ALLOCATIONS: u64 = 1;

    #[test]
    fn a_request_to_a_domain_allocates_nothing_but_its_answer() {
        const REQUEST: &[u8] = b"GET /a HTTP/1.1\r\nHost: h\r\nUser-Agent: test\r\nAccept: */*\r\n\r\n";
        let (shard, mut domain, _) = serve();
        let peer = Peer::Tcp(SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 1)));
        let mut driver = Driver::accept(shard, &peer);
        let mut random = Random::of(b"steady");
        let mut counts = Vec::new();
        for round in 0..300 {
            let sent = allocation_counter::measure(|| {
                driver.data(REQUEST);
                driver.end_batch(usize::MAX);
            });
            domain.work(&mut random, 0);
            while domain.waiting() > 0 {
                domain.work(&mut random, 1);
            }
            // The harness allocates its own memory beforehand.
            driver.received.reserve(64 * 1024);
            let answered = allocation_counter::measure(|| {
                driver.end_batch(usize::MAX);
            });
            assert!(driver.received.starts_with(b"HTTP/1.1 "), "round {round}: no answer");
            driver.received.clear();
            counts.push(sent.count_total + answered.count_total);
        }
        let steady = counts.split_off(200);
        // A map or a queue may still grow once.
        let most = steady.iter().filter(|count| **count > ALLOCATIONS).count();
        assert!(most <= 2, "allocations of the last requests: {steady:?}");
    }
}
