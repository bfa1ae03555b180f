//! The cost of fixed work, counted in instructions and allocations: the counts are the same on an idle and on a busy machine.
//!
//! `work` sends the same requests through a shard again and again, without sockets: to a module in the server, and to a module
//! in a domain whose two sides both run on this thread. `instructions_do_not_grow` makes valgrind's callgrind count that work
//! and compares the counts with `guard/instructions.txt`. The counts are those of the unoptimised test build: they show that
//! work is done twice, not how long it takes. `CWEB_GUARD_RECORD=1` rewrites the file; the commit must say why.

use super::connection::{admin, limits};
use crate::abi::rooms::set_outlets;
use crate::abi::websocket::Outlet;
use crate::domain::Host;
use crate::domain::executor::{Companion, Pool, Runner, RunnerFactory};
use crate::domain::in_process::InProcess;
use crate::domain::inbox::{Inbox, Message};
use crate::domain::process::counted::CountedDomain;
use crate::jobs::JobRequest;
use crate::module::fuzz::table;
use crate::net::fuzz::Driver;
use crate::net::{Peer, Waker};
use crate::proto::http1::{Decoded, Limits, RequestDecoder};
use crate::shard::{Local, MemoryBudget, Shard, ShardLimits, ShardParts};
use arc_swap::ArcSwap;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

const RECORDED: &str = "src/fuzzing/guard/instructions.txt";
/// Set in the process whose instructions are counted.
const COUNTED: &str = "CWEB_GUARD_WORK";
/// How often each piece of work is done before the count, and during it.
const ROUNDS: usize = 16;
/// Tolerated relative difference: counts depend on memory addresses and on the seeds of maps.
const TOLERANCE: f64 = 0.02;

const GET: &[u8] = b"GET /plaintext HTTP/1.1\r\nHost: localhost:8080\r\n\r\n";
const BROWSER: &[u8] = b"GET /plaintext HTTP/1.1\r\nHost: localhost:8080\r\nConnection: keep-alive\r\n\
    Cache-Control: max-age=0\r\nUpgrade-Insecure-Requests: 1\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n\
    Sec-Fetch-Site: none\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-User: ?1\r\nSec-Fetch-Dest: document\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-GB,en;q=0.9\r\n\r\n";
const FORM: &[u8] =
    b"POST /form HTTP/1.1\r\nHost: localhost:8080\r\nContent-Type: application/x-www-form-urlencoded\r\n\
    Content-Length: 34\r\n\r\nname=thumb&width=640&height=480%20";
const UPGRADE: &[u8] = b"GET /echo HTTP/1.1\r\nHost: localhost:8080\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
const SUBMISSION: &[u8] = br#"{"module":"sum","job":"sum","payload":{"numbers":[1,2,3.5]},"priority":1}"#;

/// A masked text message of 64 bytes.
fn message() -> Vec<u8> {
    let mut frame = vec![0x81, 0x80 | 64, 0, 0, 0, 0];
    frame.extend_from_slice(&[b'a'; 64]);
    frame
}

/// A connection to a shard, and the domain if the module runs in one.
struct Served {
    driver: Driver<Shard>,
    domain: Option<CountedDomain>,
}

impl Served {
    fn new(host: &InProcess, path: &Path, isolated: bool) -> Self {
        let factory: RunnerFactory = Arc::new(|| Box::new(InProcess::executor()) as Box<dyn Runner>);
        let pool = || Arc::new(Pool::start(1, 1, Vec::new(), Arc::clone(&factory)).unwrap());
        let companion = || Companion::start(0, None, Arc::clone(&factory)).unwrap();
        let inbox = Arc::new(Inbox::new(Arc::new(Waker::new().unwrap())));
        let (domain, instance) = if isolated {
            let (endpoints, domain, instance) = CountedDomain::load(host, path);
            inbox.push(Message::DomainUp(endpoints));
            (Some(domain), instance)
        } else {
            (None, host.load(path, crate::domain::DEFAULT_DOMAIN).unwrap())
        };
        set_outlets(vec![Arc::clone(&inbox) as Arc<dyn Outlet>]);
        let local = domain.is_none().then(|| Local {
            companion: companion(),
            pool: pool(),
            streams: pool(),
            executor: InProcess::executor(),
        });
        let limits = ShardLimits {
            pipeline_max: 64,
            unsent_bytes_max: 1 << 20,
            cors_origin: None,
            http: Limits::default(),
            ..limits()
        };
        let shard = Shard::new(ShardParts {
            id: 0,
            limits,
            table: Arc::new(ArcSwap::from_pointee(table(vec![instance]))),
            inbox,
            local,
            admin: Arc::clone(admin()),
            admin_listeners_from: None,
            peers: None,
            memory: Arc::new(MemoryBudget::new(usize::MAX, Vec::new())),
            stats: Arc::default(),
        });
        let peer = Peer::Tcp(SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 1)));
        Self { driver: Driver::accept(shard, &peer), domain }
    }

    /// Sends `bytes` and takes the answers.
    fn exchange(&mut self, bytes: &[u8]) {
        self.driver.received.clear();
        self.driver.data(bytes);
        self.driver.end_batch(usize::MAX);
        if let Some(domain) = &mut self.domain {
            domain.work();
            self.driver.end_batch(usize::MAX);
        }
    }
}

/// Sends `bytes` [`ROUNDS`] times. Each time `answers` answers that begin with `start` must arrive.
fn rounds(served: &mut Served, bytes: &[u8], start: &[u8], answers: usize) {
    for _ in 0..ROUNDS {
        served.exchange(bytes);
        let count = memchr::memmem::find_iter(&served.driver.received, start).count();
        assert_eq!(count, answers, "{}", served.driver.received.escape_ascii());
    }
}

/// Each piece of work has a function of its own, which callgrind knows by its name: callgrind counts from its beginning to its
/// end.
macro_rules! pieces {
    ($($name:ident: $served:ident, $bytes:expr, $start:expr, $answers:expr;)*) => {
        $(
            #[inline(never)]
            fn $name(served: &mut Served) {
                rounds(served, &$bytes, $start, $answers);
            }
        )*

        /// Does each piece of work twice: callgrind's second count is the one of the steady state. Returns the numbers of
        /// allocations.
        fn all_pieces(here: &mut Served, apart: &mut Served) -> Vec<(&'static str, u64)> {
            let mut allocations = Vec::new();
            $(
                let served: &mut Served = pieces!(@pick $served, here, apart);
                $name(served);
                allocations.push((stringify!($name), allocation_counter::measure(|| $name(served)).count_total));
            )*
            allocations
        }
    };
    (@pick here, $here:ident, $apart:ident) => { &mut *$here };
    (@pick apart, $here:ident, $apart:ident) => { &mut *$apart };
}

pieces! {
    guarded_get: here, GET, b"HTTP/1.1 200", 1;
    guarded_get_browser: here, BROWSER, b"HTTP/1.1 200", 1;
    guarded_get_16_pipelined: here, GET.repeat(16), b"HTTP/1.1 200", 16;
    guarded_post_form: here, FORM, b"HTTP/1.1 200", 1;
    guarded_isolated_get: apart, GET, b"HTTP/1.1 200", 1;
    guarded_isolated_get_browser: apart, BROWSER, b"HTTP/1.1 200", 1;
    guarded_isolated_get_16_pipelined: apart, GET.repeat(16), b"HTTP/1.1 200", 16;
    guarded_isolated_post_form: apart, FORM, b"HTTP/1.1 200", 1;
}

#[inline(never)]
fn guarded_websocket(served: &mut Served) {
    rounds(served, &message(), b"\x81\x40a", 1);
}

#[inline(never)]
fn guarded_isolated_websocket(served: &mut Served) {
    rounds(served, &message(), b"\x81\x40a", 1);
}

#[inline(never)]
fn guarded_head() {
    let mut decoder = RequestDecoder::new(Limits::default());
    for _ in 0..ROUNDS {
        let Ok(Decoded::Request { consumed, .. }) = decoder.decode(BROWSER) else { panic!("a request") };
        assert_eq!(consumed, BROWSER.len());
    }
}

#[inline(never)]
fn guarded_submission() {
    for _ in 0..ROUNDS {
        let Ok(request) = JobRequest::parse(SUBMISSION, 1000) else { panic!("a submission") };
        assert_eq!(request.job, "sum");
    }
}

/// Compiles the module of this file into `dir`.
fn compile(dir: &Path) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let object = dir.join("guard.so");
    let mut compiler = Command::new("cc");
    compiler.args(["-std=gnu11", "-O2", "-shared", "-fPIC", "-I"]).arg(root.join("include"));
    let status = compiler.arg(root.join("src/fuzzing/guard/module.c")).arg("-o").arg(&object).status().unwrap();
    assert!(status.success(), "the module does not compile");
    object
}

/// The counted work. Modules take over their process, so the work runs in a process of its own.
#[test]
#[ignore = "run by the other tests here, in a process of its own"]
fn work() {
    if std::env::var_os(COUNTED).is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = compile(dir.path());
    let host = InProcess::start(&dir.path().join("modules.sqlite3"), None).unwrap();
    let (mut here, mut apart) = (Served::new(&host, &path, false), Served::new(&host, &path, true));
    let allocations = all_pieces(&mut here, &mut apart);
    for (name, count) in allocations {
        eprintln!("allocations {name} {count}");
    }
    for (served, counted) in
        [(&mut here, guarded_websocket as fn(&mut Served)), (&mut apart, guarded_isolated_websocket)]
    {
        served.exchange(UPGRADE);
        assert!(served.driver.received.starts_with(b"HTTP/1.1 101"), "{}", served.driver.received.escape_ascii());
        counted(served);
        counted(served);
    }
    for _ in 0..2 {
        guarded_head();
        guarded_submission();
    }
    eprintln!("the work is done");
    // The threads of executors never end by themselves.
    std::process::exit(0);
}

/// Runs `work` by `program`, which is this program or one that runs it, and returns its output.
fn run(mut program: Command, arguments: &[&str]) -> String {
    let this = std::env::current_exe().unwrap();
    program.args(arguments);
    if !arguments.is_empty() {
        program.arg(&this);
    }
    program.args(["--exact", "fuzzing::guard::work", "--ignored", "--nocapture", "--test-threads", "1"]);
    let output = program.env(COUNTED, "1").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("the work is done"), "{said}\n{}", String::from_utf8_lossy(&output.stdout));
    said
}

/// Allowed allocations of a request, on both sides of a domain together: the bytes of its answer. The fields of a form add two.
const ALLOCATIONS: [(&str, usize); 8] = [
    ("get", 0),
    ("get_browser", 0),
    ("get_16_pipelined", 0),
    ("post_form", 2),
    ("isolated_get", 1),
    ("isolated_get_browser", 1),
    ("isolated_get_16_pipelined", 16),
    ("isolated_post_form", 3),
];

#[test]
fn requests_do_not_allocate() {
    let said = run(Command::new(std::env::current_exe().unwrap()), &[]);
    let counts = said.lines().filter_map(|line| line.strip_prefix("allocations guarded_")?.split_once(' '));
    let counts: BTreeMap<&str, usize> = counts.map(|(name, count)| (name, count.parse().unwrap())).collect();
    for (name, allowed) in ALLOCATIONS {
        // A buffer or a queue may grow once more.
        assert!(counts[name] <= allowed * ROUNDS + 2, "{name}: {} allocations in {ROUNDS} rounds", counts[name]);
    }
}

/// The counts in callgrind's output files in `dir`. For each function the last count is returned, which is the one of the
/// steady state.
fn counts(dir: &Path) -> BTreeMap<String, u64> {
    let mut dumps = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let part: u64 = field("part:").and_then(|part| part.parse().ok()).unwrap_or_default();
        // The count since the previous dump, which was at the start of the function: the function is called twice in a row.
        let trigger = field("desc: Trigger: --dump-after=").unwrap_or_default().to_owned();
        let totals = field("totals:").or_else(|| field("summary:")).and_then(|count| count.parse::<u64>().ok());
        let name =
            trigger.split("guarded_").nth(1).map(|name| name.split([':', '(']).next().unwrap_or_default().to_owned());
        if let (Some(name), Some(totals)) = (name, totals) {
            dumps.insert(part, (name, totals));
        }
    }
    dumps.into_values().map(|(name, totals)| (name, totals / ROUNDS as u64)).collect()
}

/// The counts of one run.
fn counts_of_a_run() -> BTreeMap<String, u64> {
    let dir = tempfile::tempdir().unwrap();
    let file = format!("--callgrind-out-file={}", dir.path().join("out").display());
    run(Command::new("valgrind"), &["--tool=callgrind", &file, "--dump-after=*guarded_*"]);
    counts(dir.path())
}

/// Limit on the runs: the counts include instructions of other threads, which run at any time on a busy machine.
const RUNS_MAX: usize = 3;

#[test]
fn instructions_do_not_grow() {
    if Command::new("valgrind").arg("--version").output().is_err() {
        return println!("ignored: valgrind is not installed");
    }
    let mut counted = counts_of_a_run();
    // The versions on which the counts depend.
    let version = |program: &str, argument: &str| {
        let output = Command::new(program).arg(argument).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    let versions =
        [version("rustc", "--version"), version("getconf", "GNU_LIBC_VERSION"), version("valgrind", "--version")];
    let mut text = format!("# Instructions of one call, in the build for tests: {}.\n", versions.join(", "));
    for (name, count) in &counted {
        let _ = writeln!(text, "{name} {count}");
    }
    print!("{text}");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(RECORDED);
    if std::env::var_os("CWEB_GUARD_RECORD").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let recorded = std::fs::read_to_string(&path).unwrap();
    if recorded.lines().next() != text.lines().next() {
        return println!(
            "ignored: the counts of another compiler, libc or valgrind are recorded; CWEB_GUARD_RECORD=1 records yours"
        );
    }
    let recorded = recorded.lines().skip(1).filter_map(|line| line.split_once(' '));
    let recorded: BTreeMap<&str, u64> = recorded.map(|(name, count)| (name, count.parse().unwrap())).collect();
    let names = |counts: Vec<&str>| counts.join(" ");
    assert_eq!(names(recorded.keys().copied().collect()), names(counted.keys().map(String::as_str).collect()));
    let limit = |count: u64| (count as f64 * (1.0 + TOLERANCE)) as u64;
    let grown = |counted: &BTreeMap<String, u64>| -> Vec<String> {
        let grown = recorded.iter().filter(|(name, count)| counted[**name] > limit(**count));
        grown.map(|(name, count)| format!("{name}: {count} before, {} now", counted[*name])).collect()
    };
    for _ in 1..RUNS_MAX {
        if !grown(&counted).is_empty() {
            for (name, count) in counts_of_a_run() {
                counted.entry(name).and_modify(|least| *least = count.min(*least));
            }
        }
    }
    let grown = grown(&counted);
    if recorded.iter().any(|(name, count)| counted[*name] < (*count as f64 * (1.0 - TOLERANCE)) as u64) {
        println!("fewer instructions than recorded: CWEB_GUARD_RECORD=1 records the new counts");
    }
    assert!(grown.is_empty(), "more instructions than recorded in {RECORDED}: {}", grown.join("; "));
}
