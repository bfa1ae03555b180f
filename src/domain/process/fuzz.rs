//! Fake processes of a domain for the fuzzers, on the thread of the shard. An honest process answers on request; a
//! hostile process sends anything.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A property that does not hold is a panic here.

mod streams;

pub(crate) use streams::HostileStreams;

use super::domain_config::{Allowance, DomainConfig};
use super::endpoints::{CallTable, Ends, Owner, RingEndpoints};
use super::identity::Identity;
use super::quarantine::CrashLimit;
use super::remote::RemoteModule;
use super::shared::DomainShared;
use super::wire::{self, Body, Event, ToDomain};
use crate::abi::manifest::Manifest;
use crate::abi::request::RequestRules;
use crate::abi::websocket::{Outlet, Socket};
use crate::domain::Instance;
use crate::domain::call::{AnswerMeta, GenerationRef, OwnedRequest, SocketEvent, Task};
use crate::domain::module_message::ModuleMessage;
use crate::domain::ring::{Consumer, Producer, PushError, Region, RingSpec};
use crate::domain::sandbox::Policy;
use crate::fuzzing::Random;
use crate::jobs::store::{StoreError, Tables};
use crate::net::fuzz::conn_ids;
use crate::proto::http1::{Decoded, Limits, RequestDecoder};
use crate::proto::ws::{Encoded, Kind, encode_frame};
use std::collections::{HashSet, VecDeque};
use std::hash::Hasher;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// A module of an imaginary process.
pub(crate) fn module(manifest: Manifest) -> Arc<dyn Instance> {
    remote(manifest).0
}

/// A module of an imaginary process, and the module's number there.
pub(super) fn remote(manifest: Manifest) -> (Arc<dyn Instance>, u64) {
    static SHARED: OnceLock<Arc<DomainShared>> = OnceLock::new();
    let shared = SHARED.get_or_init(|| {
        let config = DomainConfig {
            sanitizers: || Ok(Vec::new()),
            preload: Vec::new(),
            cores: Vec::new(),
            free_cores: Vec::new(),
            threads_min: 1,
            threads_max: 1,
            database: PathBuf::new(),
            domain_data: None,
            output_bytes_max: 1 << 20,
            reads_all_jobs: false,
            connects: Arc::default(),
            users: None,
            allowance: Allowance {
                module_threads_max: 10_000,
                threads_max: 20_000,
                killable_calls_max: 1,
                disk_bytes_max: 0,
                memory_bytes_max: 0,
            },
            run_dir: PathBuf::new(),
            job_tables: Arc::new(Tables::new(Box::new(|| Err(StoreError::Closed)))),
            records: PathBuf::new(),
            handler_timeout_ms: 30_000,
            bodies: Ends::BUDGETS,
            codings: crate::domain::CodingSettings::default(),
            policy: Policy::default(),
            scratch: PathBuf::new(),
            core_files: None,
            log: None,
            requests: RequestRules::default(),
            message_bytes_max: 0,
            identity: Identity::first("default", 1),
            crash_limit: CrashLimit { crashes: 0, window: Duration::ZERO },
            hook_timeout: Duration::MAX,
            rss_recycle_bytes: 0,
            cgroups: None,
        };
        Arc::new(DomainShared::new(config, Vec::new(), crossbeam::channel::unbounded().0))
    });
    let number = shared.number();
    (Arc::new(RemoteModule::new(Arc::clone(shared), number, manifest, Arc::default())), number)
}

/// Whether the process should have ended, and whether it has.
#[derive(Clone, Default)]
pub(super) struct Fate(Arc<AtomicBool>, Arc<AtomicBool>);

impl Owner for Fate {
    fn kill(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_dead(&self) -> bool {
        self.1.load(Ordering::Relaxed)
    }

    fn recycle(&self, _why: &str) {}

    fn drained(&self) {}
}

/// Both ends of a pair of rings, to the domain and to the server, with `data_bytes` bytes of data; and the memory for
/// bodies.
fn pair(data_bytes: [usize; 2], fate: Fate) -> (Box<RingEndpoints>, Consumer, Producer, Arc<Region>) {
    let to_domain = RingSpec { offset: 0, data_bytes: data_bytes[0] };
    let offset = to_domain.total_bytes().next_multiple_of(RingSpec::ALIGN);
    let to_server = RingSpec { offset, data_bytes: data_bytes[1] };
    let region = Arc::new(Region::create(to_server.offset + to_server.total_bytes()).expect("a region"));
    let (ends, bodies) = Ends::of(&region, to_domain, to_server).expect("a ring");
    let endpoints = RingEndpoints::new(0, Identity::first("default", 1), 1, ends, Box::new(fate));
    let request_ring = Consumer::new(&region, to_domain).expect("a ring");
    (Box::new(endpoints), request_ring, Producer::new(&region, to_server).expect("a ring"), bodies)
}

/// Stands for content in answers, but contains none of it, so that it can't be mistaken for other content.
fn digest(bytes: &[u8]) -> String {
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write(bytes);
    format!("{} bytes, {:016x}", bytes.len(), hasher.finish())
}

/// A process that keeps the protocol and answers when told to: requests with the received content, messages with frames.
pub(crate) struct Domain {
    request_ring: Consumer,
    producer: Producer,
    fate: Fate,
    bodies: Arc<Region>,
    /// The unanswered calls: for each, the records that answer it.
    unanswered: Vec<Vec<Vec<u8>>>,
    /// Records on their way into a full ring.
    leaving: VecDeque<Vec<u8>>,
}

impl Domain {
    /// The process and the endpoints to it. A record to it holds any head of `head_bytes_max` bytes, as the server's rings
    /// hold the largest permitted head. The ring back is small, so that it is full at times.
    pub(crate) fn new(head_bytes_max: usize) -> (Box<RingEndpoints>, Self) {
        const TO_SERVER_BYTES: usize = 16 * 1024;
        let fate = Fate::default();
        // Includes the spans of 1024 fields, 16 bytes each.
        let to_domain_bytes = (4 * (head_bytes_max + 16 * 1024 + 64)).next_power_of_two();
        let (endpoints, request_ring, producer, bodies) = pair([to_domain_bytes, TO_SERVER_BYTES], fate.clone());
        let (unanswered, leaving) = (Vec::new(), VecDeque::new());
        (endpoints, Self { request_ring, producer, fate, bodies, unanswered, leaving })
    }

    /// Takes the waiting records, and answers any `count` calls. Returns whether there was anything to do.
    pub(crate) fn work(&mut self, random: &mut Random, count: usize) -> bool {
        assert!(!self.fate.0.load(Ordering::Relaxed), "an honest process is not ended");
        let mut record = Vec::new();
        let mut busy = false;
        while self.request_ring.try_pop(&mut record).expect("the server writes rings as it must") {
            self.take(&record);
            record.clear();
            busy = true;
        }
        self.request_ring.release();
        for _ in 0..count.min(self.unanswered.len()) {
            let at = random.below(self.unanswered.len());
            self.leaving.extend(self.unanswered.remove(at));
        }
        while let Some(record) = self.leaving.front() {
            match self.producer.try_push(&[record]) {
                Ok(()) => drop(self.leaving.pop_front()),
                Err(PushError::Full) => break,
                Err(error) => panic!("{error}"),
            }
            busy = true;
        }
        let _ = self.producer.publish();
        busy
    }

    /// The number of unanswered calls.
    pub(crate) fn waiting(&self) -> usize {
        self.unanswered.len() + self.leaving.len()
    }

    fn take(&mut self, record: &[u8]) {
        match ToDomain::read(record).expect("the server writes records as it must") {
            ToDomain::Request { ticket, route, head, body, .. } => {
                let body = self.read(&body);
                let mut fixed = Vec::new();
                let text = format!("route {route}, head {}, body {}\n", digest(head), digest(&body));
                let fields = [(b"Content-Type".as_slice(), b"text/plain".as_slice())];
                wire::answer_head(&mut fixed, ticket, 7, 200, fields.into_iter());
                fixed.extend_from_slice(text.repeat(1 + body.len() % 30).as_bytes());
                self.unanswered.push(vec![fixed]);
            }
            ToDomain::Done { .. } | ToDomain::Gone { .. } | ToDomain::Buffered { .. } | ToDomain::Stream(_) => {}
            ToDomain::Socket { ticket, key, events, .. } => {
                let events = self.read(&events);
                let mut answer = Vec::new();
                for event in wire::read_events(&events).expect("the server writes events as it must") {
                    let text = match event {
                        Event::Open { session, .. } => format!("open {}", digest(session.unwrap_or_default())),
                        Event::Message { bytes, .. } => digest(bytes),
                        Event::Known { .. } => panic!("a socket of another process"),
                        Event::Close { .. } | Event::Forget => continue,
                    };
                    let mut fixed = Vec::new();
                    wire::send_head(&mut fixed, key);
                    fixed.extend_from_slice(&encode_frame(Kind::Text, text.as_bytes()));
                    answer.push(fixed);
                }
                let mut idle = Vec::new();
                wire::idle(&mut idle, ticket, 7);
                answer.push(idle);
                self.unanswered.push(answer);
            }
        }
    }

    /// The bytes of a body, in the record or beside the rings.
    fn read(&self, body: &Body<'_>) -> Vec<u8> {
        match *body {
            Body::Here(bytes) => bytes.to_vec(),
            Body::Lent(place) => {
                let (start, bytes) = (place.offset as usize, place.bytes as usize);
                self.bodies.load(start..start + bytes)
            }
        }
    }
}

/// Holds a module.
pub(super) struct Held(pub(super) Arc<dyn Instance>);

impl GenerationRef for Held {
    fn instance(&self) -> &dyn Instance {
        &*self.0
    }

    fn ran(&self, _route: usize, _elapsed: Duration, _answer_bytes: usize) {}
}

struct Nowhere;

impl Outlet for Nowhere {
    fn send(&self, _socket: u64, _frame: Arc<[u8]>) {}

    fn close(&self, _socket: u64, _code: u16) {}
    fn room(&self, _socket: u64, _room: &[u8], _joins: bool) {}
    fn publish(&self, _room: &[u8], _message: &Encoded) {}
}

/// Calls in flight with a process that sends anything.
pub(crate) struct Hostile {
    calls: CallTable,
    producer: Producer,
    fate: Fate,
    /// The numbers of the requests, and the keys of the sockets, with unfinished calls.
    requests: HashSet<u64>,
    sockets: HashSet<u64>,
}

/// A random framing.
fn any_meta(random: &mut Random) -> AnswerMeta {
    AnswerMeta {
        date: *b"Sun, 06 Nov 1994 08:49:37 GMT",
        keep_alive: random.below(2) == 0,
        http_1_0: random.below(4) == 0,
        head_only: random.below(4) == 0,
        cors_origin: (random.below(2) == 0).then(|| "*".into()),
        preflight: None,
        switching: None,
    }
}

/// The requests in flight; their tickets are 1 and up, with the highest bit set.
const REQUESTS: u64 = 6;
/// The batches of socket events in flight; their tickets follow.
const SOCKETS: u64 = 2;

impl Hostile {
    pub(crate) fn new(mut random: Random) -> Self {
        let fate = Fate::default();
        let (endpoints, _intake, producer, _bodies) = pair([256 * 1024; 2], fate.clone());
        let mut calls = CallTable::new(0, 0);
        calls.up(endpoints);
        let hold: Arc<dyn GenerationRef> = Arc::new(Held(module(Manifest::default())));
        let conns = conn_ids(REQUESTS as usize);
        for (seq, conn) in (0..REQUESTS).zip(conns) {
            let mut decoder = RequestDecoder::new(Limits::default());
            let Ok(Decoded::Request { view, .. }) = decoder.decode(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n") else {
                panic!("a request")
            };
            let meta = any_meta(&mut random);
            let request = OwnedRequest::copy(&view);
            calls.submit(Arc::clone(&hold), true, Task::Request { conn, seq, route: 0, request, meta, stream: None });
        }
        for key in 0..SOCKETS {
            let socket = Socket::new(key, None, Arc::new(Nowhere), 1000);
            calls.submit(
                Arc::clone(&hold),
                true,
                Task::Socket { socket, index: 0, events: vec![SocketEvent::Open { handshake: None }] },
            );
        }
        calls.flush();
        Self { calls, producer, fate, requests: (0..REQUESTS).collect(), sockets: (0..SOCKETS).collect() }
    }

    /// The process sends `record`.
    pub(crate) fn send(&mut self, record: &[u8]) {
        if self.producer.try_push(&[record]).is_ok() {
            let _ = self.producer.publish();
        }
        let mut messages = Vec::new();
        self.calls.poll(4096, &mut messages);
        self.check(messages);
        self.calls.flush();
    }

    /// Ends the process: every call must have ended exactly once.
    pub(crate) fn end(mut self) {
        let killed = self.fate.0.load(Ordering::Relaxed);
        assert!(!killed || !self.calls.has_work(), "nothing is taken from a process that was ended");
        self.fate.1.store(true, Ordering::Relaxed);
        let last = self.calls.down();
        self.check(last);
        assert!(self.requests.is_empty(), "requests without an answer: {:?}", self.requests);
        assert!(self.sockets.is_empty(), "sockets whose callbacks never return: {:?}", self.sockets);
    }

    fn check(&mut self, messages: Vec<ModuleMessage>) {
        for message in messages {
            match message {
                ModuleMessage::Answer { seq, bytes, .. } => {
                    assert!(self.requests.remove(&seq), "two answers to one request");
                    check_answer(&bytes);
                }
                ModuleMessage::SocketIdle { socket } => assert!(self.sockets.remove(&socket), "idle twice"),
                ModuleMessage::SocketClose { code, .. } => assert!((1000..=4999).contains(&code)),
                ModuleMessage::SocketSend { .. } | ModuleMessage::SocketSendLent { .. } => {}
                ModuleMessage::SocketRoom { .. } | ModuleMessage::RoomPublish { .. } => {}
                // The other target checks these more closely.
                ModuleMessage::StreamReturned { seq, .. } => {
                    assert!(self.requests.remove(&seq), "two ends of one request");
                }
                ModuleMessage::StreamBegin(_)
                | ModuleMessage::StreamNotice { .. }
                | ModuleMessage::StreamBroken { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

/// Checks that the bytes are exactly one answer, whatever header fields it should have had: RFC 9112 §2.1, §6.3.
fn check_answer(bytes: &[u8]) {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("an answer has a head");
    let (head, body) = (&bytes[..end], &bytes[end + 4..]);
    let mut lines = head.split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let status_line = lines.next().expect("a first line");
    assert!(status_line.starts_with(b"HTTP/1.1 "), "{}", status_line.escape_ascii());
    let status: u16 = std::str::from_utf8(&status_line[9..12]).expect("digits").parse().expect("a number");
    assert!((200..=599).contains(&status));
    let (mut lengths, mut dates) = (Vec::new(), 0);
    for line in lines {
        assert!(!line.iter().any(|byte| b"\r\n\0".contains(byte)), "{}", line.escape_ascii());
        let colon = line.iter().position(|&byte| byte == b':').expect("a field has a colon");
        let (name, value) = (line[..colon].to_ascii_lowercase(), &line[colon + 1..]);
        assert!(!name.is_empty() && !name.iter().any(u8::is_ascii_whitespace));
        match name.as_slice() {
            b"content-length" => lengths.push(std::str::from_utf8(value).expect("digits").trim().to_owned()),
            b"date" => dates += 1,
            b"transfer-encoding" => panic!("framing is the server's business"),
            _ => {}
        }
    }
    assert!(dates <= 1, "{dates} Date fields");
    match lengths.as_slice() {
        [] => assert!(matches!(status, 204 | 304) && body.is_empty(), "{status} without a length"),
        // An answer to HEAD announces a body that is left out.
        [length] => assert!(body.is_empty() || length.parse() == Ok(body.len())),
        more => panic!("{} lengths", more.len()),
    }
}
