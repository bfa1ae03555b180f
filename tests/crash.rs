//! The server is killed at random moments under job load, again and again on one data directory, and nothing that it
//! acknowledged or showed may be lost, doubled or out of order.
//!
//! `CWEB_CRASH_ROUNDS` sets how often (8), `CWEB_CRASH_SEED` repeats a run's choices (not the scheduling of threads).

use crate::support::{self, Client, PATIENCE, Server, eventually, signal};
use rusqlite::{Connection, OpenFlags};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::Scope;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tungstenite::Message;

/// Threads that submit jobs.
const SUBMITTERS: u64 = 4;
/// Watchers of each of them.
const WATCHERS_MAX: usize = 12;

/// SplitMix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// From `low` to `high`, both included.
    fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.next().is_multiple_of(count)
    }

    fn fork(&mut self) -> Self {
        Self(self.next())
    }
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

/// What the clients of one life of the server were told.
#[derive(Default)]
struct Told {
    /// UUIDs of acknowledged jobs, with their unique keys.
    jobs: Mutex<Vec<(String, Option<String>)>>,
    /// What each watcher saw: the job, and its events as they came.
    watched: Mutex<Vec<(String, Vec<Value>)>>,
}

/// A job of any kind. Keys come from a small pool that moves on with the rounds, so that some are asked for again after
/// a crash.
fn any_job(random: &mut Random, round: u64) -> (Value, Option<String>) {
    let (n, delay_us) = (random.between(0, 40), random.between(0, 2_000));
    match random.next() % 6 {
        0 | 1 => (json!({"job": "instant", "module": "crash"}), None),
        2 => (json!({"job": "steps", "payload": {"n": n, "delay_us": delay_us}}), None),
        3 => {
            let max_attempts = random.between(2, 3);
            (json!({"job": "steps", "payload": {"n": n, "delay_us": delay_us}, "max_attempts": max_attempts}), None)
        }
        4 => {
            let payload = json!({"n": n / 4, "fail": random.between(1, 3)});
            let (max_attempts, backoff_ms) = (random.between(2, 3), random.between(0, 20));
            let body =
                json!({"job": "steps", "payload": payload, "max_attempts": max_attempts, "backoff_ms": backoff_ms});
            (body, None)
        }
        _ => {
            let key = format!("key-{}-{}", round / 4, random.between(0, 19));
            (json!({"job": "keyed", "payload": {"n": n / 8}, "unique_key": key}), Some(key))
        }
    }
}

/// Submits jobs until it is told to stop or the server is gone. Each acknowledgement is recorded before the next
/// request.
fn submit_jobs<'scope>(
    scope: &'scope Scope<'scope, '_>,
    addr: &'scope str,
    told: &'scope Told,
    stop: &AtomicBool,
    mut random: Random,
    round: u64,
) {
    let Some(mut client) = Client::try_connect(addr) else { return };
    let mut watchers = 0;
    while !stop.load(Ordering::Relaxed) {
        let (body, key) = any_job(&mut random, round);
        let Some(response) = client.attempt("POST", "/jobs", body.to_string().as_bytes()) else { return };
        if response.status == 503 && response.text().contains("shutting down") {
            return;
        }
        assert_eq!(response.status, 200, "{body}: {}", response.text());
        let accepted: Value = serde_json::from_slice(&response.body).unwrap();
        let uuid = accepted["job_uuid"].as_str().unwrap().to_owned();
        told.jobs.lock().unwrap().push((uuid.clone(), key));
        if watchers < WATCHERS_MAX && body["job"] == "steps" && random.one_in(3) {
            watchers += 1;
            let by_websocket = random.one_in(2);
            scope.spawn(move || {
                let seen = if by_websocket { watch_websocket(addr, &uuid) } else { watch_sse(addr, &uuid) };
                told.watched.lock().unwrap().push((uuid, seen));
            });
        }
    }
}

fn watch_websocket(addr: &str, uuid: &str) -> Vec<Value> {
    let mut seen = Vec::new();
    let Ok(stream) = TcpStream::connect(addr) else { return seen };
    let _ = stream.set_read_timeout(Some(PATIENCE));
    let Ok((mut socket, _)) = tungstenite::client(format!("ws://{addr}/jobs/ws?id={uuid}"), stream) else {
        return seen;
    };
    loop {
        match socket.read() {
            Ok(Message::Text(text)) => seen.push(serde_json::from_str(&text).unwrap()),
            Ok(Message::Close(_)) | Err(_) => return seen,
            Ok(_) => {}
        }
    }
}

fn watch_sse(addr: &str, uuid: &str) -> Vec<Value> {
    let mut seen = Vec::new();
    let Ok(mut stream) = TcpStream::connect(addr) else { return seen };
    let _ = stream.set_read_timeout(Some(PATIENCE));
    let request = format!("GET /jobs/{uuid}/events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n");
    if stream.write_all(request.as_bytes()).is_err() {
        return seen;
    }
    let (mut reader, mut line) = (BufReader::new(stream), String::new());
    // A line that the end of the server cut off has not been seen.
    while reader.read_line(&mut line).is_ok() && line.ends_with('\n') {
        if let Some(data) = line.strip_prefix("data: ") {
            seen.push(serde_json::from_str(data).unwrap());
        }
        line.clear();
    }
    seen
}

/// Runs the load, and `meanwhile` beside it, which ends the server or sets `stop`.
fn under_load(server: Server, random: &mut Random, round: u64, meanwhile: impl FnOnce(Server, &AtomicBool)) -> Told {
    let (told, stop, addr) = (Told::default(), AtomicBool::new(false), server.addr.clone());
    std::thread::scope(|scope| {
        for _ in 0..SUBMITTERS {
            let (told, stop, addr, random) = (&told, &stop, &addr, random.fork());
            scope.spawn(move || submit_jobs(scope, addr, told, stop, random, round));
        }
        meanwhile(server, &stop);
        stop.store(true, Ordering::Relaxed);
    });
    told
}

/// A row of the jobs table, and its story.
struct Job {
    id: i64,
    uuid: String,
    name: String,
    state: String,
    attempt: u32,
    attempts_max: u32,
    steps: u32,
}

struct Event {
    id: i64,
    ts: i64,
    kind: String,
    data: Value,
    is_final: bool,
}

/// What has been acknowledged over all lives of the server, and how it is checked.
struct Ledger {
    dir: PathBuf,
    /// By UUID; those that may not be forgotten.
    acknowledged: BTreeSet<String>,
    by_key: HashMap<String, String>,
    /// Jobs below this id had ended when they were checked last.
    settled_below: i64,
    last_event_id: i64,
    restarts: usize,
}

impl Ledger {
    fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            acknowledged: BTreeSet::new(),
            by_key: HashMap::new(),
            settled_below: 0,
            last_event_id: 0,
            restarts: 0,
        }
    }

    /// Holds what the clients of the last life were told against what this life has.
    fn check(&mut self, server: &Server, told: Told) {
        check_integrity(&self.dir);
        let jobs = told.jobs.into_inner().unwrap();
        for (uuid, key) in &jobs {
            if let Some(key) = key {
                let first = self.by_key.entry(key.clone()).or_insert_with(|| uuid.clone());
                assert_eq!(first, uuid, "{key} names two jobs");
            } else {
                assert!(!self.acknowledged.contains(uuid), "{uuid} was given twice");
            }
            self.acknowledged.insert(uuid.clone());
        }
        let mut client = server.connect();
        let recent: BTreeSet<&str> = jobs.iter().map(|(uuid, _)| uuid.as_str()).collect();
        for uuid in &recent {
            let response = client.get(&format!("/jobs/{uuid}"));
            assert_eq!(response.status, 200, "acknowledged job {uuid} is lost: {}", response.text());
        }
        let mut highest = self.last_event_id;
        for (uuid, seen) in told.watched.into_inner().unwrap() {
            let stored = events_of(&mut client, &uuid);
            assert!(seen.len() <= stored.len(), "{uuid}: {} events were seen, {} are left", seen.len(), stored.len());
            assert_eq!(seen, stored[..seen.len()], "{uuid}: a watcher saw something else");
            highest = highest.max(seen.last().map_or(0, |event| event["event_id"].as_i64().unwrap()));
        }
        self.check_stories(highest);
    }

    /// The story of every job that had not ended when it was looked at last.
    fn check_stories(&mut self, last_seen: i64) {
        // Jobs run meanwhile: what had begun before must have been on record, what is done must have left its trace.
        let begun = runs(&self.dir);
        let (jobs, mut events) = rows(&read_only(&self.dir), self.settled_below);
        let traces = runs(&self.dir);
        let sql = "SELECT coalesce(max(id), 0) FROM job_events";
        let highest = read_only(&self.dir).query_row(sql, [], |row| row.get(0)).unwrap();
        assert!(highest >= last_seen, "event {last_seen} was seen, {highest} is the last one");
        self.last_event_id = highest;
        let mut settled_below = None;
        for job in &jobs {
            let story = events.remove(&job.id).unwrap_or_default();
            let count = |runs: &HashMap<String, u32>| runs.get(&job.uuid).copied().unwrap_or(0);
            check_story(job, &story, count(&begun), count(&traces));
            if !is_final(&job.state) {
                settled_below = settled_below.or(Some(job.id));
            }
        }
        let last = jobs.last().map_or(self.settled_below, |job| job.id + 1);
        self.settled_below = settled_below.unwrap_or(last);
    }

    /// Waits until everything has ended and looks at all of it once more.
    fn check_end(&mut self, server: &Server) {
        let database = read_only(&self.dir);
        let count = |sql| database.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
        let mut left = i64::MAX;
        while left > 0 {
            // Patient with a long queue, not with one that stands still.
            let before = left;
            eventually(&format!("fewer than {before} jobs have not ended: {}", server.log()), || {
                left = count("SELECT count(*) FROM jobs WHERE state IN ('pending', 'running')");
                left < before
            });
        }
        let listed = list(&mut server.connect());
        let unique: BTreeSet<&String> = listed.iter().collect();
        assert_eq!(unique.len(), listed.len(), "the list has a job twice");
        for uuid in &self.acknowledged {
            assert!(unique.contains(uuid), "acknowledged job {uuid} is not listed");
        }
        assert_eq!(count("SELECT count(*) FROM jobs WHERE state NOT IN ('done', 'failed')"), 0);
        assert_eq!(usize::try_from(count("SELECT count(*) FROM jobs")).unwrap(), listed.len());
        // Ids and times rise together, over all jobs and lives.
        let mut statement = database.prepare("SELECT ts FROM job_events ORDER BY id").unwrap();
        let times: Vec<i64> = statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        assert!(times.is_sorted(), "the times of events do not rise with their ids");
        self.settled_below = 0;
        self.check_stories(self.last_event_id);
        let restarted = count("SELECT count(*) FROM job_events WHERE data_json LIKE '%server restarted%'");
        eprintln!(
            "{} starts, {} jobs acknowledged, {} stored, {} events, {restarted} runs cut off by a crash",
            self.restarts,
            self.acknowledged.len(),
            listed.len(),
            times.len(),
        );
    }
}

fn is_final(state: &str) -> bool {
    matches!(state, "done" | "failed" | "canceled")
}

fn check_story(job: &Job, story: &[Event], begun: u32, traces: u32) {
    let told = || {
        let kinds: Vec<String> =
            story.iter().map(|event| format!("{} {} {}", event.id, event.kind, event.data)).collect();
        format!("{} {} is {} after {} starts and {traces} runs: {kinds:#?}", job.name, job.uuid, job.state, job.attempt)
    };
    let (mut state, mut starts, mut step) = ("", 0, 0);
    for event in story {
        state = match (state, event.kind.as_str()) {
            ("", "created") => "pending",
            ("pending", "started") => {
                (starts, step) = (starts + 1, 0);
                assert_eq!(event.data["attempt"], json!(starts), "{}", told());
                "running"
            }
            ("running", "step") => {
                step += 1;
                assert_eq!(event.data["n"], json!(step), "a step is doubled or missing: {}", told());
                "running"
            }
            ("running", "retrying") => "pending",
            ("running", "done") => "done",
            ("running", "failed") => "failed",
            (from, to) => panic!("{to} after {from}: {}", told()),
        };
        assert_eq!(event.is_final, is_final(state), "{}", told());
    }
    assert!(story.is_sorted_by(|a, b| a.id < b.id && a.ts <= b.ts), "{}", told());
    assert_eq!((state, starts), (job.state.as_str(), job.attempt), "{}", told());
    assert!(starts <= job.attempts_max, "started too often: {}", told());
    assert!(begun <= starts, "ran without being started: {}", told());
    assert!(state != "done" || (step == job.steps && traces > 0), "done, but not all of it: {}", told());
}

fn check_integrity(dir: &Path) {
    let path = dir.join("jobs.sqlite3");
    let checks = "PRAGMA integrity_check; PRAGMA foreign_key_check;";
    let program = Command::new("sqlite3").arg("-readonly").arg(&path).arg(checks).output();
    let found = match program {
        Ok(output) => String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
        Err(_) => read_only(dir).query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap(),
    };
    assert_eq!(found.trim(), "ok");
}

fn read_only(dir: &Path) -> Connection {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(dir.join("jobs.sqlite3"), flags).unwrap();
    connection.pragma_update(None, "busy_timeout", 5_000).unwrap();
    connection
}

/// The jobs from `first` on, and their events by job, at one moment.
fn rows(database: &Connection, first: i64) -> (Vec<Job>, BTreeMap<i64, Vec<Event>>) {
    database.execute_batch("BEGIN").unwrap();
    let mut statement = database
        .prepare(
            "SELECT id, uuid, job_name, state, attempt, max_attempts, coalesce(payload_json ->> 'n', 0) FROM jobs \
             WHERE id >= ?1 ORDER BY id",
        )
        .unwrap();
    let jobs = statement.query_map([first], |row| {
        Ok(Job {
            id: row.get(0)?,
            uuid: row.get(1)?,
            name: row.get(2)?,
            state: row.get(3)?,
            attempt: row.get(4)?,
            attempts_max: row.get(5)?,
            steps: row.get(6)?,
        })
    });
    let jobs: Vec<Job> = jobs.unwrap().map(Result::unwrap).collect();
    let mut statement = database
        .prepare("SELECT job_id, id, ts, type, data_json, final FROM job_events WHERE job_id >= ?1 ORDER BY id")
        .unwrap();
    let mut found = statement.query([first]).unwrap();
    let mut events = BTreeMap::<i64, Vec<Event>>::new();
    while let Some(row) = found.next().unwrap() {
        let data: String = row.get(4).unwrap();
        events.entry(row.get(0).unwrap()).or_default().push(Event {
            id: row.get(1).unwrap(),
            ts: row.get(2).unwrap(),
            kind: row.get(3).unwrap(),
            data: serde_json::from_str(&data).unwrap(),
            is_final: row.get(5).unwrap(),
        });
    }
    drop(found);
    database.execute_batch("COMMIT").unwrap();
    (jobs, events)
}

/// How often each job has begun to run, as its own code says.
fn runs(dir: &Path) -> HashMap<String, u32> {
    let mut runs = HashMap::new();
    for uuid in std::fs::read_to_string(dir.join("runs.log")).unwrap_or_default().lines() {
        *runs.entry(uuid.to_owned()).or_default() += 1;
    }
    runs
}

fn events_of(client: &mut Client, uuid: &str) -> Vec<Value> {
    let listed: Value = serde_json::from_slice(&client.get(&format!("/jobs/{uuid}/events?limit=1000")).body).unwrap();
    listed["events"].as_array().unwrap().clone()
}

/// The UUIDs of all jobs.
fn list(client: &mut Client) -> Vec<String> {
    let (mut uuids, mut target) = (Vec::new(), "/jobs?limit=1000".to_owned());
    loop {
        let page: Value = serde_json::from_slice(&client.get(&target).body).unwrap();
        uuids.extend(page["jobs"].as_array().unwrap().iter().map(|job| job["job_uuid"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { return uuids };
        target = format!("/jobs?limit=1000&before={next}");
    }
}

/// Waits for the lock of the data directory, which the child of a server that was killed holds until it runs its program.
fn wait_for_lock(dir: &Path) {
    if let Ok(lock) = std::fs::File::options().write(true).open(dir.join("server.lock")) {
        eventually("no process of a dead server holds the lock", || lock.try_lock().is_ok());
    }
}

fn start(dir: &Arc<tempfile::TempDir>, random: &mut Random) -> Server {
    wait_for_lock(dir.path());
    let shards = random.between(1, 2).to_string();
    let durability = if random.one_in(2) { "full" } else { "normal" };
    Server::on(dir, &["--shards", &shards, "--durability", durability, "--job-workers", "4"], &[])
}

/// Kills a server that is about to start, or to take up what the last one left.
fn kill_while_starting(dir: &Path, random: &mut Random) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_cweb"))
        .args(["serve", "--port", "0", "--isolation", &support::isolation(), "--data-dir"])
        .arg(dir)
        .env_remove("CWEB_ADMIN_KEY")
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(random.between(0, 60)));
    child.kill().unwrap();
    child.wait().unwrap();
}

fn seeded(test: &str) -> Random {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    let seed = setting("CWEB_CRASH_SEED").unwrap_or_else(|| u64::try_from(now & 0xFFFF_FFFF).unwrap());
    // Shown if the test fails.
    eprintln!("{test}: CWEB_CRASH_SEED={seed}");
    Random(seed)
}

fn deployed(dir: &Arc<tempfile::TempDir>, random: &mut Random) -> Server {
    let server = start(dir, random);
    server.deploy_file("tests/modules/crash.c");
    server
}

#[test]
fn kills_lose_nothing_and_double_nothing() {
    let mut random = seeded("kills");
    let rounds = setting("CWEB_CRASH_ROUNDS").unwrap_or(8);
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let mut ledger = Ledger::new(dir.path());
    let mut server = deployed(&dir, &mut random);
    for round in 0..rounds {
        let load_ms = random.between(5, 150);
        let told = under_load(server, &mut random, round, |server, _| {
            std::thread::sleep(Duration::from_millis(load_ms));
            drop(server); // kill -9
        });
        for _ in 0..random.between(0, 2) {
            kill_while_starting(dir.path(), &mut random);
        }
        server = start(&dir, &mut random);
        ledger.restarts += 1;
        ledger.check(&server, told);
    }
    ledger.check_end(&server);
}

#[test]
fn a_server_that_stands_still_for_a_while_goes_on_where_it_was() {
    let mut random = seeded("stand still");
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let mut ledger = Ledger::new(dir.path());
    let server = deployed(&dir, &mut random);
    let kept = Mutex::new(None);
    let told = under_load(server, &mut random, 0, |server, stop| {
        for _ in 0..3 {
            std::thread::sleep(Duration::from_millis(40));
            signal(server.pid(), "STOP");
            std::thread::sleep(Duration::from_millis(150));
            signal(server.pid(), "CONT");
        }
        stop.store(true, Ordering::Relaxed);
        *kept.lock().unwrap() = Some(server);
    });
    let server = kept.into_inner().unwrap().unwrap();
    ledger.check(&server, told);
    ledger.check_end(&server);
    let database = read_only(dir.path());
    let cut_off: i64 = database
        .query_row("SELECT count(*) FROM job_events WHERE data_json LIKE '%server restarted%'", [], |row| row.get(0))
        .unwrap();
    assert_eq!(cut_off, 0);
}

#[test]
fn a_stop_under_load_loses_nothing() {
    let mut random = seeded("stop");
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let mut ledger = Ledger::new(dir.path());
    let mut server = deployed(&dir, &mut random);
    for round in 0..2 {
        let told = under_load(server, &mut random, round, |mut server, _| {
            std::thread::sleep(Duration::from_millis(80));
            server.terminate();
        });
        server = start(&dir, &mut random);
        ledger.restarts += 1;
        ledger.check(&server, told);
    }
    ledger.check_end(&server);
}
