//! What goes wrong around the job database: held locks, full disks, a second server, damaged and foreign files.

use crate::support::{self, Mount, PATIENCE, Response, Server, eventually};
use rusqlite::Connection;
use serde_json::{Value, json};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tungstenite::Message;

/// Submissions that are tried until one is refused.
const TRIES_MAX: usize = 2_000;

fn deployed(dir: &Arc<tempfile::TempDir>) -> Server {
    let server = Server::on(dir, &[], &[]);
    let module = std::fs::read_to_string(support::root().join("tests/modules/jobs.c")).unwrap();
    server.deploy(&format!("#include <cweb.h>\n{module}"));
    server
}

fn fresh() -> (Arc<tempfile::TempDir>, Server) {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let server = deployed(&dir);
    (dir, server)
}

fn json_of(response: &Response) -> Value {
    serde_json::from_slice(&response.body).unwrap_or_else(|error| panic!("{error}: {}", response.text()))
}

fn try_run(server: &Server, job: &str, payload: &Value) -> Response {
    server.post("/jobs", json!({ "module": "jobs", "job": job, "payload": payload }).to_string().as_bytes())
}

fn uuid_of(response: &Response) -> String {
    assert_eq!(response.status, 200, "{}", response.text());
    json_of(response)["job_uuid"].as_str().unwrap().to_owned()
}

fn run(server: &Server, job: &str, payload: &Value) -> String {
    uuid_of(&try_run(server, job, payload))
}

fn state(server: &Server, uuid: &str) -> String {
    let response = server.get(&format!("/jobs/{uuid}"));
    assert_eq!(response.status, 200, "{}", response.text());
    json_of(&response)["state"].as_str().unwrap().to_owned()
}

fn all_events(server: &Server, uuid: &str) -> Vec<Value> {
    let (mut events, mut since) = (Vec::<Value>::new(), 0);
    loop {
        let response = server.get(&format!("/jobs/{uuid}/events?limit=1000&since_event_id={since}"));
        assert_eq!(response.status, 200, "{}", response.text());
        let page = json_of(&response)["events"].as_array().unwrap().clone();
        let Some(last) = page.last() else { return events };
        since = last["event_id"].as_u64().unwrap();
        events.extend(page);
    }
}

/// All frames of a job's stream, until the server closes it.
fn watch(addr: &str, uuid: &str) -> Vec<Value> {
    let stream = std::net::TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut socket, _) = tungstenite::client(format!("ws://{addr}/jobs/ws?id={uuid}"), stream).unwrap();
    let mut frames = Vec::new();
    loop {
        match socket.read() {
            Ok(Message::Text(text)) => frames.push(serde_json::from_str(&text).unwrap()),
            Ok(Message::Close(_)) => return frames,
            Ok(_) => {}
            Err(error) => panic!("the stream broke off after {} events: {error}", frames.len()),
        }
    }
}

/// A job that counts to `n`, and who watches it.
struct Counting {
    uuid: String,
    n: usize,
    watcher: std::thread::JoinHandle<Vec<Value>>,
}

impl Counting {
    fn start(server: &Server, n: usize) -> Self {
        let uuid = run(server, "count", &json!({"n": n, "delay_ms": 1}));
        let (addr, watched) = (server.addr.clone(), uuid.clone());
        let watcher = std::thread::spawn(move || watch(&addr, &watched));
        eventually("the job counts", || all_events(server, &uuid).len() > 10);
        Self { uuid, n, watcher }
    }

    /// Waits for its end: every event is there once and in order, on disk and for the watcher.
    fn check(self, server: &Server) {
        let seen = self.watcher.join().unwrap();
        let stored = all_events(server, &self.uuid);
        assert_eq!(seen, stored);
        let steps: Vec<&Value> = stored.iter().filter(|event| event["type"] == "step").collect();
        for (index, step) in steps.iter().enumerate() {
            assert_eq!(step["data"]["n"], json!(index + 1));
        }
        let ends = [&stored[0]["type"], &stored[1]["type"], &stored[stored.len() - 1]["type"]];
        assert_eq!((steps.len(), ends), (self.n, [&json!("created"), &json!("started"), &json!("done")]));
    }
}

fn is_refused(response: &Response, words: &str) {
    let error = json_of(response)["error"].as_str().unwrap_or_default().to_owned();
    assert!(response.status == 503 && error.contains(words), "{} {error}", response.status);
    assert!(response.header("retry-after").is_some_and(|after| after.parse::<u32>().is_ok()), "{}", response.head);
}

fn check_integrity(dir: &Path) {
    let database = Connection::open(dir.join("jobs.sqlite3")).unwrap();
    let found: String = database.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(found, "ok");
}

#[test]
fn a_lock_held_by_another_refuses_submissions_and_delays_the_rest() {
    let (dir, server) = fresh();
    let counting = Counting::start(&server, 1_500);
    let before = run(&server, "quiet", &json!({}));
    let other = Connection::open(dir.path().join("jobs.sqlite3")).unwrap();
    other.pragma_update(None, "busy_timeout", 10_000).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let reached = all_events(&server, &counting.uuid).len();
    // Longer than the server waits for a lock.
    is_refused(&try_run(&server, "quiet", &json!({})), "holds the database's lock");
    // What reads or has nothing to do with jobs goes on.
    assert_eq!(server.get("/recorded").status, 200);
    assert_eq!((state(&server, &before).is_empty(), all_events(&server, &counting.uuid).len()), (false, reached));
    other.execute_batch("COMMIT").unwrap();
    eventually("submissions are taken again", || try_run(&server, "quiet", &json!({})).status == 200);
    counting.check(&server);
    eventually("the earlier job ends", || state(&server, &before) == "done");
    server.expect_log("jobs can be stored again");
    check_integrity(dir.path());
}

/// Runs a server into a full disk and out again. `take` takes the space away, `give` gives it back.
fn space_runs_out(dir: &Path, server: &Server, words: &str, take: impl FnOnce(), give: impl FnOnce()) {
    let counting = Counting::start(server, 3_000);
    let mut accepted: Vec<String> = (0..10).map(|n| run(server, "echo", &json!(n))).collect();
    take();
    let payload = json!("x".repeat(32 * 1024));
    let refused = (0..TRIES_MAX).find_map(|_| {
        let response = try_run(server, "echo", &payload);
        if response.status != 200 {
            return Some(response);
        }
        accepted.push(uuid_of(&response));
        None
    });
    is_refused(&refused.expect("there was room for everything"), words);
    // Reading goes on, and so does the rest.
    assert_eq!(server.get("/recorded").status, 200);
    let reached = all_events(server, &counting.uuid).len();
    assert!(reached > 10);
    std::thread::sleep(Duration::from_millis(300));
    assert!(all_events(server, &counting.uuid).len() >= reached);
    accepted.iter().for_each(|uuid| drop(state(server, uuid)));
    give();
    eventually("submissions are taken again", || try_run(server, "echo", &payload).status == 200);
    counting.check(server);
    for uuid in &accepted {
        eventually("what was accepted is done", || state(server, uuid) == "done");
    }
    server.expect_log("jobs can be stored again");
    check_integrity(dir);
}

#[test]
fn a_full_disk_refuses_submissions_and_loses_nothing() {
    let Some(mount) = Mount::tmpfs("32m") else {
        eprintln!("not run: no file system can be mounted here");
        return;
    };
    let dir = mount.directory();
    let server = deployed(&dir);
    let filler = dir.path().join("filler");
    let take = || {
        let mut file = File::create(&filler).unwrap();
        for size in [64 * 1024, 4096] {
            while file.write_all(&vec![b'x'; size]).is_ok() {}
        }
    };
    space_runs_out(dir.path(), &server, "the disk is full", take, || std::fs::remove_file(&filler).unwrap());
    server.stop();
}

fn limit_file_size(server: &Server, limit: &str) -> bool {
    let limit = format!("--fsize={limit}:");
    let limited = Command::new("prlimit").args(["--pid", &server.pid().to_string(), &limit]).status();
    limited.is_ok_and(|status| status.success())
}

/// Where no file system can be mounted, and for its own sake: beyond the limit the kernel sends SIGXFSZ.
#[test]
fn a_file_size_limit_is_as_a_full_disk() {
    let (dir, server) = fresh();
    if !limit_file_size(&server, "unlimited") {
        eprintln!("not run: prlimit(1) does not work here");
        return;
    }
    let take = || {
        let size = |name: &str| std::fs::metadata(dir.path().join(name)).map_or(0, |file| file.len());
        let largest = size("jobs.sqlite3").max(size("jobs.sqlite3-wal"));
        assert!(limit_file_size(&server, &(largest + 256 * 1024).to_string()));
    };
    let give = || assert!(limit_file_size(&server, "unlimited"));
    space_runs_out(dir.path(), &server, "jobs can't be stored right now", take, give);
}

/// Starts a server that is expected to refuse, and returns what it says.
fn refusal(dir: &Path) -> String {
    let mut child = Command::new(env!("CARGO_BIN_EXE_cweb"))
        .args(["serve", "--port", "0", "--isolation", "none", "--data-dir"])
        .arg(dir)
        .env_remove("CWEB_ADMIN_KEY")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break Some(status);
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            child.wait().unwrap();
            break None;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    let status = status.unwrap_or_else(|| panic!("it started: {text}"));
    assert!(status.code().is_some_and(|code| code != 0), "{status}: {text}");
    assert!(!text.contains("listening on") && !text.contains("panicked"), "{text}");
    text
}

#[test]
fn a_second_server_on_the_same_directory_is_refused() {
    let (dir, server) = fresh();
    let text = refusal(dir.path());
    assert!(text.contains("server.lock is held by another server"), "{text}");
    // The first one has not noticed.
    let uuid = run(&server, "echo", &json!(1));
    eventually("the job is done", || state(&server, &uuid) == "done");
    // A kill leaves no lock behind. A server of an earlier version has only the lock of the database.
    drop(server);
    let database = File::options().write(true).open(dir.path().join("jobs.sqlite3.lock")).unwrap();
    database.lock().unwrap();
    let text = refusal(dir.path());
    assert!(text.contains("jobs.sqlite3.lock is held by another server"), "{text}");
    drop(database);
    let server = Server::on(&dir, &[], &[]);
    assert_eq!(state(&server, &uuid), "done");
}

/// A data directory with a few jobs in it, and its database, at rest.
fn at_rest() -> (Arc<tempfile::TempDir>, PathBuf) {
    let (dir, server) = fresh();
    let jobs: Vec<String> = (0..50).map(|n| run(&server, "echo", &json!(n))).collect();
    for uuid in &jobs {
        eventually("the job is done", || state(&server, uuid) == "done");
    }
    server.stop();
    let path = dir.path().join("jobs.sqlite3");
    (dir, path)
}

fn refused_and_untouched(dir: &Path, path: &Path, words: &[&str]) {
    let before = std::fs::read(path).unwrap();
    let text = refusal(dir);
    for word in words {
        assert!(text.contains(word), "\"{word}\" is not in {text}");
    }
    assert!(before == std::fs::read(path).unwrap(), "the file was changed");
}

#[test]
fn a_damaged_database_is_refused_and_left_as_it_is() {
    let (dir, path) = at_rest();
    let good = std::fs::read(&path).unwrap();
    let words = ["jobs.sqlite3", "is damaged", "restore it from a backup"];
    // Something else altogether, a file that was cut off, pages of nonsense.
    std::fs::write(&path, "this is no database, but a letter ".repeat(500)).unwrap();
    refused_and_untouched(dir.path(), &path, &words);
    std::fs::write(&path, &good[..good.len() / 2]).unwrap();
    refused_and_untouched(dir.path(), &path, &words);
    std::fs::write(&path, &good).unwrap();
    let mut file = OpenOptions::new().write(true).open(&path).unwrap();
    file.seek(SeekFrom::Start(4096)).unwrap();
    file.write_all(&[0xA5; 3 * 4096]).unwrap();
    refused_and_untouched(dir.path(), &path, &words);
    // The backup works.
    std::fs::write(&path, &good).unwrap();
    let server = Server::on(&dir, &[], &[]);
    assert_eq!(json_of(&server.get("/jobs?state=done"))["jobs"].as_array().unwrap().len(), 50);
}

/// Changes the format that the file names, and tells which it was.
fn set_version(path: &Path, version: i64) -> i64 {
    let database = Connection::open(path).unwrap();
    let before = database.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    database.pragma_update(None, "user_version", version).unwrap();
    before
}

#[test]
fn a_database_of_a_later_format_is_refused_and_left_as_it_is() {
    let (dir, path) = at_rest();
    let known = set_version(&path, 99);
    let words = ["the job database has format 99", "use the server that wrote it"];
    refused_and_untouched(dir.path(), &path, &words);
    set_version(&path, known);
    assert_eq!(Server::on(&dir, &[], &[]).get("/jobs").status, 200);
}

/// A later server might not write ahead; what it wrote is not ours to convert.
#[test]
fn a_database_of_a_later_format_keeps_its_journal_mode() {
    let (dir, path) = at_rest();
    set_version(&path, 99);
    let other = Connection::open(&path).unwrap();
    let mode: String = other.query_row("PRAGMA journal_mode = DELETE", [], |row| row.get(0)).unwrap();
    assert_eq!(mode, "delete");
    drop(other);
    refused_and_untouched(dir.path(), &path, &["the job database has format 99"]);
}

#[test]
fn a_directory_in_place_of_the_database_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("jobs.sqlite3")).unwrap();
    let text = refusal(dir.path());
    assert!(text.contains("can't open the job database") && text.contains("jobs.sqlite3"), "{text}");
}

fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output().unwrap();
    output.stdout.trim_ascii() == b"0"
}

#[test]
fn a_read_only_data_directory_is_refused() {
    let expect_refusal = |dir: &Path| {
        let text = refusal(dir);
        let told = text.contains("Read-only file system") || text.contains("Permission denied");
        assert!(told && text.contains(&*dir.to_string_lossy()), "{text}");
    };
    if is_root() {
        let Some(mount) = Mount::tmpfs("32m") else {
            eprintln!("not run: root can write everywhere, and no file system can be mounted here");
            return;
        };
        let dir = mount.directory();
        deployed(&dir).stop();
        mount.remount("ro");
        expect_refusal(dir.path());
        mount.remount("rw");
        assert_eq!(Server::on(&dir, &[], &[]).get("/recorded").status, 200);
    } else {
        let (dir, server) = fresh();
        server.stop();
        let path = dir.path();
        let files: Vec<PathBuf> = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
        let files: Vec<&Path> = files.iter().filter(|file| file.is_file()).map(PathBuf::as_path).collect();
        let set = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        files.iter().for_each(|file| set(file, 0o444));
        set(path, 0o555);
        expect_refusal(path);
        set(path, 0o755);
        files.iter().for_each(|file| set(file, 0o644));
        assert_eq!(Server::on(&dir, &[], &[]).get("/recorded").status, 200);
    }
}

#[test]
fn what_could_not_be_synced_is_not_acknowledged_and_service_resumes() {
    let tools = tempfile::tempdir().unwrap();
    let (shim, switch) = (tools.path().join("failing_sync.so"), tools.path().join("fail"));
    let made = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(&shim)
        .arg(support::root().join("tests/c/failing_sync.c"))
        .arg("-ldl")
        .status();
    assert!(made.unwrap().success());
    let env = [("LD_PRELOAD", shim.to_str().unwrap()), ("CWEB_TEST_FAIL_SYNC", switch.to_str().unwrap())];
    // Modules in the server: in a process of their own the compiler's sandbox would not find the shim.
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let server = Server::on(&dir, &["--isolation", "none"], &env);
    let module = std::fs::read_to_string(support::root().join("tests/modules/jobs.c")).unwrap();
    server.deploy(&format!("#include <cweb.h>\n{module}"));
    let before = run(&server, "quiet", &json!({}));
    eventually("it is done", || state(&server, &before) == "done");

    let running = run(&server, "count", &json!({"n": 200, "delay_ms": 5}));
    eventually("it runs", || state(&server, &running) == "running");
    File::create(&switch).unwrap();
    let refused = try_run(&server, "quiet", &json!({}));
    assert_eq!(refused.status, 503, "{}", refused.text());
    // An event of the running job may have come first: then its commit is in doubt, and the submission is refused at once.
    assert!(refused.text().contains("disk"), "{}", refused.text());
    std::fs::remove_file(&switch).unwrap();

    let mut after = String::new();
    eventually("service resumes", || {
        let response = try_run(&server, "quiet", &json!({}));
        after = if response.status == 200 { uuid_of(&response) } else { String::new() };
        !after.is_empty()
    });
    eventually("the running one is done", || state(&server, &running) == "done");
    let kinds: Vec<Value> = all_events(&server, &running).iter().map(|event| event["type"].clone()).collect();
    assert_eq!(kinds.iter().filter(|kind| **kind == "step").count(), 200, "no event is lost or doubled");
    let listed = json_of(&server.get("/jobs?limit=1000"));
    assert_eq!(listed["jobs"].as_array().unwrap().len(), 3, "what was refused is not there");
    eventually("the last one is done", || state(&server, &after) == "done");

    // The server dies while a commit is in doubt. Whether the job is stored or not, a repeat with its key leaves one.
    let keyed = json!({ "module": "jobs", "job": "quiet", "payload": {}, "unique_key": "once" }).to_string();
    File::create(&switch).unwrap();
    is_in_doubt(&server.post("/jobs", keyed.as_bytes()));
    drop(server); // kill -9
    let server = Server::on(&dir, &["--isolation", "none"], &[]);
    let repeated = uuid_of(&server.post("/jobs", keyed.as_bytes()));
    eventually("the repeated one is done", || state(&server, &repeated) == "done");
    let listed = json_of(&server.get("/jobs?limit=1000"));
    let keys: Vec<&Value> = listed["jobs"].as_array().unwrap().iter().map(|job| &job["unique_key"]).collect();
    assert_eq!(keys.iter().filter(|key| **key == "once").count(), 1, "{keys:?}");
    check_integrity(dir.path());
}

/// The client must look before it repeats, so it isn't told when to try again.
fn is_in_doubt(response: &Response) {
    let (status, text) = (response.status, response.text());
    assert!(
        status == 503 && text.contains("can't tell whether the command is stored") && text.contains("disk"),
        "{text}"
    );
    assert!(response.header("retry-after").is_none(), "{}", response.head);
}
