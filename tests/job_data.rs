//! Data of jobs: checkpoints, blobs, files. `CWEB_CRASH_ROUNDS` sets how often the server is killed (3).

use crate::support::{self, Client, Response, Server, eventually, isolation};
use rusqlite::Connection;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

fn deploy(server: &Server) {
    let module = std::fs::read_to_string(support::root().join("tests/modules/job_data.c")).unwrap();
    let warnings = server.deploy(&format!("#include <cweb.h>\n{module}")).text();
    assert!(!warnings.contains("warning:"), "{warnings}");
}

fn json_of(response: &Response) -> Value {
    serde_json::from_slice(&response.body).unwrap_or_else(|error| panic!("{error}: {}", response.text()))
}

fn submit(server: &Server, body: &Value) -> String {
    let response = server.post("/jobs", body.to_string().as_bytes());
    assert_eq!(response.status, 200, "{}", response.text());
    json_of(&response)["job_uuid"].as_str().unwrap().to_owned()
}

fn status(server: &Server, uuid: &str) -> Value {
    json_of(&server.get(&format!("/jobs/{uuid}")))
}

fn events(server: &Server, uuid: &str) -> Vec<Value> {
    json_of(&server.get(&format!("/jobs/{uuid}/events?limit=1000")))["events"].as_array().unwrap().clone()
}

/// Waits for the end of a job, which must be done, and returns its result.
fn result(server: &Server, uuid: &str) -> Value {
    let mut last = Value::Null;
    eventually(&format!("the end of {uuid}"), || {
        last = status(server, uuid);
        ["done", "failed", "canceled"].contains(&last["state"].as_str().unwrap())
    });
    assert_eq!(last["state"], "done", "{last} {:?}", events(server, uuid));
    last["result"].clone()
}

fn count(dir: &Path, table: &str) -> i64 {
    let database = Connection::open(dir.join("jobs.sqlite3")).unwrap();
    database.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
}

/// The steps in a job's events, in order.
fn steps(server: &Server, uuid: &str) -> Vec<i64> {
    let steps = events(server, uuid).into_iter().filter(|event| event["type"] == "step");
    steps.map(|event| event["data"].as_i64().unwrap()).collect()
}

#[test]
fn a_run_goes_on_where_the_last_one_was_whatever_ended_it() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let server = Server::on(&dir, &["--job-checkpoint-bytes-max", "1000"], &[]);
    deploy(&server);
    let run = |server: &Server, how: &str| submit(server, &json!({ "job": "steps", "payload": { "how": how } }));
    // The end of a domain ends all that runs there, so one job comes after the other.
    let ways = ["return", "error", "crash", "kill"];
    for how in ways.iter().filter(|how| **how != "kill" || isolation() == "process") {
        let uuid = run(&server, how);
        assert_eq!(result(&server, &uuid), json!({"from": 9, "resumed": 1}), "{how}");
        assert_eq!(steps(&server, &uuid), (0..10).collect::<Vec<i64>>(), "{how}");
    }
    let refused = submit(&server, &json!({ "job": "refusals" }));
    assert_eq!(result(&server, &refused), "refused");
    server.expect_log("has 1001 bytes; the limit is 1000 (--job-checkpoint-bytes-max)");
    assert_eq!(count(dir.path(), "job_checkpoints"), 0, "a job that has ended keeps nothing");

    let uuid = run(&server, "wait");
    eventually("it waits", || events(&server, &uuid).iter().any(|event| event["type"] == "waiting"));
    // By kill -9.
    drop(server);
    assert_eq!(count(dir.path(), "job_checkpoints"), 1);
    let server = Server::on(&dir, &[], &[]);
    assert_eq!(result(&server, &uuid), json!({"from": 9, "resumed": 1}));
    assert_eq!(steps(&server, &uuid), (0..10).collect::<Vec<i64>>());
    let uuid = run(&server, "wait");
    eventually("it waits", || events(&server, &uuid).iter().any(|event| event["type"] == "waiting"));
    assert_eq!(count(dir.path(), "job_checkpoints"), 1);
    assert_eq!(server.post(&format!("/jobs/{uuid}/cancel"), b"").status, 200);
    // After a retry by request the job resumes, too.
    eventually("its run has returned", || server.post(&format!("/jobs/{uuid}/retry"), b"").status == 200);
    assert_eq!(result(&server, &uuid), json!({"from": 9, "resumed": 1}));
    assert_eq!(count(dir.path(), "job_checkpoints"), 0);
}

/// The name of a blob with these bytes.
fn name_of(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    format!("sha256:{}", hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

fn put(server: &Server, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
    server.connect().request("PUT", target, headers, body)
}

fn error_of(response: &Response) -> (u16, String) {
    (response.status, json_of(response)["error"].as_str().unwrap_or_default().to_owned())
}

/// Bytes that no two places have alike.
fn bytes(count: usize, seed: u32) -> Vec<u8> {
    let mut state = seed;
    let step = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..count).map(step).collect()
}

/// Files in the directory of blobs, including uploads in progress.
fn files(dir: &Path) -> usize {
    let count = |path: &Path| std::fs::read_dir(path).unwrap().count();
    count(&dir.join("blobs")) - 1 + count(&dir.join("blobs/incoming"))
}

#[test]
fn blobs_are_stored_by_their_hash_and_given_back_as_they_are() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let limits = ["--blob-bytes-max", "3000000", "--blobs-bytes-max", "5000000"];
    let server = Server::on(&dir, &limits, &[]);
    // Small ones are whole when they are seen, large ones are not.
    for (size, seed) in [(0, 1), (3, 1), (100_000, 1), (2_500_000, 1)] {
        let body = bytes(size, seed);
        let name = name_of(&body);
        let stored = put(&server, "/blobs", &[], &body);
        assert_eq!((stored.status, json_of(&stored)), (201, json!({"blob": name, "bytes": size})), "{size}");
        assert_eq!(stored.header("location").unwrap(), format!("/blobs/{name}"));
        let again = put(&server, &format!("/blobs/{name}"), &[], &body);
        assert_eq!((again.status, json_of(&again)), (200, json!({"blob": name, "bytes": size})), "{size}");
        let found = server.get(&format!("/blobs/{name}"));
        assert!(found.status == 200 && found.body == body, "{size}: {}", found.head);
        let head = server.connect().request("HEAD", &format!("/blobs/{name}"), &[], b"");
        assert_eq!((head.status, head.header("content-length").unwrap()), (200, size.to_string()));
    }
    assert_eq!(files(dir.path()), 4);
    let listed = json_of(&server.get("/blobs?limit=3"));
    let (blobs, sizes) = (listed["blobs"].as_array().unwrap(), |blob: &serde_json::Value| blob["bytes"].as_u64());
    assert!(blobs.iter().map(sizes).eq([2_500_000, 100_000, 3].map(Some)) && listed["count"] == 4, "{listed}");
    assert!(
        blobs[0]["blob"] == name_of(&bytes(2_500_000, 1))
            && blobs[0]["used_at"].as_u64() >= blobs[2]["used_at"].as_u64()
    );
    assert_eq!(["/blobs?limit=0", "/blobs?limit=x", "/blobs?limt=1"].map(|path| server.get(path).status), [400; 3]);
    assert_eq!(server.post("/blobs", b"").header("allow").unwrap(), "GET, HEAD, PUT, OPTIONS");
    let (done, said) = support::cweb(&["blobs", "--limit", "1", "--server", &server.addr], dir.path(), &[]);
    assert!(done && said.starts_with(&format!("{}       2500000  20", name_of(&bytes(2_500_000, 1)))), "{said}");
    assert!(said.contains("\n4 blobs, the last 1 used of them are listed; all blobs and outputs take "), "{said}");
    let large = bytes(2_500_000, 1);
    let path = format!("/blobs/{}", name_of(&large));
    let mut client = server.connect();
    let part = client.request("GET", &path, &[("Range", "bytes=1000000-1000999")], b"");
    assert_eq!((part.status, part.header("content-range").unwrap().as_str()), (206, "bytes 1000000-1000999/2500000"));
    assert!(part.body == large[1_000_000..1_001_000]);
    assert_eq!(client.request("GET", &path, &[("Range", "bytes=-1")], b"").body, large[2_499_999..]);
    assert_eq!(client.request("GET", &path, &[("Range", "bytes=2500000-")], b"").status, 416);
    // As encodeURIComponent() writes it.
    assert_eq!(client.request("HEAD", &path.replace(':', "%3A"), &[], b"").status, 200);
    let etag = part.header("etag").unwrap();
    assert_eq!(client.request("GET", &path, &[("If-None-Match", &etag)], b"").status, 304);

    // In chunks, asked for first, by two clients at once, and behind another request.
    let body = bytes(700_000, 2);
    let name = name_of(&body);
    let mut first = server.connect();
    first.send(
        b"GET /jobs HTTP/1.1\r\nHost: localhost\r\n\r\nPUT /blobs HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n",
    );
    let mut second = server.connect();
    second.send(b"PUT /blobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 700000\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(second.response().status, 100);
    for piece in body.chunks(70_000) {
        first.send(format!("{:x}\r\n", piece.len()).as_bytes());
        first.send(piece);
        first.send(b"\r\n");
        second.send(piece);
    }
    first.send(b"0\r\n\r\n");
    let answers = [first.response(), first.response(), second.response()];
    assert_eq!(json_of(&answers[1])["blob"], json!(name));
    assert_eq!(json_of(&answers[2])["blob"], json!(name));
    let mut statuses = [answers[1].status, answers[2].status];
    statuses.sort_unstable();
    assert_eq!((answers[0].status, statuses, files(dir.path())), (200, [200, 201], 5));

    // A connection goes on after its upload.
    assert_eq!(second.get(&format!("/blobs/{name}")).body.len(), 700_000);
    drop(server);
    let server = Server::on(&dir, &limits, &[]);
    assert!(server.get(&format!("/blobs/{name}")).body == body, "what was answered survives kill -9");
    refuses_blobs(&server, &dir, &path);
}

fn refuses_blobs(server: &Server, dir: &tempfile::TempDir, large: &str) {
    let before = files(dir.path());
    let wrong = format!("sha256:{}", "0".repeat(64));
    for (target, header) in [
        (format!("/blobs/{wrong}"), ("x", "y")),
        ("/blobs".to_owned(), ("Content-Digest", "sha-256=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:")),
        ("/blobs".to_owned(), ("Digest", "SHA-256=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")),
    ] {
        let (status, words) = error_of(&put(server, &target, &[header], b"abc"));
        assert!(status == 400 && words.contains("has the SHA-256 sha256:ba7816bf"), "{status} {words}");
    }
    for field in [("Content-Digest", "sha-256=:rubbish:"), ("Repr-Digest", "rubbish"), ("Digest", "rubbish")] {
        let (status, words) = error_of(&put(server, "/blobs", &[("Content-Digest", ""), field], b"abc"));
        assert!(status == 400 && words.contains(field.0) && words.contains("RFC 9530"), "{status} {words}");
    }
    assert_eq!(put(server, "/blobs/sha256:12", &[], b"abc").status, 400);
    assert_eq!(put(server, "/blobs/../x", &[], b"abc").status, 400);
    let (status, words) = error_of(&put(server, "/blobs", &[], &bytes(2_000_000, 3)));
    assert!(status == 507 && words.contains("--blobs-bytes-max"), "{status} {words}");
    // Announced, and found on the way.
    let mut client = server.connect();
    client.send(b"PUT /blobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3000001\r\nExpect: 100-continue\r\n\r\n");
    let (status, words) = error_of(&client.response());
    assert!(status == 413 && words.contains("--blob-bytes-max"), "{status} {words}");
    let mut client = server.connect();
    client.send(b"PUT /blobs HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n");
    let chunk = [b"40000\r\n".as_slice(), &[b'x'; 0x40000], b"\r\n"].concat();
    // The server may have hung up before the last of it.
    for _ in 0..20 {
        let _ = client.stream.write_all(&chunk);
    }
    assert!([413, 507].contains(&client.response().status));
    // Broken off.
    let mut client = server.connect();
    client.send(b"PUT /blobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\nabc");
    eventually("it is being received", || files(dir.path()) == before + 1);
    drop(client);
    eventually("it is gone", || files(dir.path()) == before);
    let mut client = Client::connect(&server.addr);
    assert_eq!(client.request("DELETE", large, &[], b"").status, 200);
    assert_eq!(client.request("DELETE", large, &[], b"").status, 404);
    assert_eq!(client.get(large).status, 404);
    assert_eq!(put(server, "/blobs", &[], &bytes(2_000_000, 3)).status, 201, "there is room again");
    for (method, target, status) in [
        ("DELETE", "/blobs", 405),
        ("POST", large, 405),
        ("GET", "/blobs/x", 400),
        ("GET", "/blobs/sha256:../../../../etc/passwd", 400),
        ("OPTIONS", "/blobs", 200),
    ] {
        assert_eq!(client.request(method, target, &[], b"").status, status, "{method} {target}");
    }
    let module = server.try_deploy(
        "#include <cweb.h>\nexport module_t config = {.name = \"b\", .author = \"t\", \
        .routes = {{\"/blobs/x\", \"GET\", NULL, NONE}}, .size = 1};",
    );
    assert!(module.status == 422 && module.text().contains("/blobs"), "{} {}", module.status, module.text());
}

#[test]
fn blobs_need_a_key_grow_no_memory_and_go_when_they_are_old() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let server =
        Server::on(&dir, &["--blob-retention", "1s", "--body-timeout-ms", "500"], &[("CWEB_ADMIN_KEY", "the key")]);
    let key = ("X-API-Key", "the key");
    let mut client = server.connect();
    client.send(b"PUT /blobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\n");
    assert_eq!(client.response().status, 401);
    assert_eq!(put(&server, "/blobs", &[], b"abc").status, 401);
    let stored = put(&server, "/blobs", &[key], b"abc");
    let path = stored.header("location").unwrap();
    assert_eq!(server.get(&path).status, 401);
    let mut late = server.connect();
    late.send(b"PUT /blobs HTTP/1.1\r\nHost: x\r\nX-API-Key: the key\r\nContent-Length: 10\r\n\r\nabc");
    // A look at it would be a use.
    eventually("it is removed", || files(dir.path()) == 0);
    assert_eq!(server.connect().request("GET", &path, &[key], b"").status, 404);

    assert_eq!(late.response().status, 408);

    // With the usual time for a body, which a busy machine may need.
    drop(server);
    let server = Server::on(&dir, &["--blob-retention", "1s"], &[("CWEB_ADMIN_KEY", "the key")]);
    // 32 MiB, twice: the memory that the server keeps after the first one is not counted.
    let piece = bytes(1 << 20, 7);
    let send = || {
        let mut client = server.connect();
        client
            .send(b"PUT /blobs HTTP/1.1\r\nHost: localhost\r\nX-API-Key: the key\r\nContent-Length: 33554432\r\n\r\n");
        let mut most = 0;
        for _ in 0..32 {
            client.send(&piece);
            most = most.max(server.memory_kib_own());
        }
        assert_eq!(client.response().status / 100, 2);
        most
    };
    let first = send();
    let second = send();
    assert!(second < first + 8 * 1024, "{first} KiB, then {second} KiB");
    let idle = server.memory_kib_own();
    assert!(first < idle + 32 * 1024, "{first} KiB while it came, {idle} KiB after it");
}

#[test]
fn an_event_of_bytes_names_a_blob_that_stays_as_long_as_its_job() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let args = ["--blob-retention", "1s", "--job-result-bytes-max", "1000", "--job-events-max", "4"];
    let server = Server::on(&dir, &args, &[]);
    deploy(&server);
    let uuid = submit(&server, &json!({ "job": "frames" }));
    result(&server, &uuid);
    server.expect_log("has 1001 bytes; the limit is 1000 (--job-result-bytes-max)");
    let frame: Vec<u8> = (0..1000_usize).map(|i| (i * 7) as u8).collect();
    let named = |bytes: &[u8]| json!({ "blob": name_of(bytes), "bytes": bytes.len() });
    let told: Vec<(Value, Value)> = events(&server, &uuid)
        .into_iter()
        .filter(|event| event["type"] == "frame" || event["type"] == "step")
        .map(|event| (event["type"].clone(), event["data"].clone()))
        .collect();
    let expected = [named(&frame), named(&frame), json!(1), named(b"")];
    assert_eq!(told.iter().map(|(_, data)| data.clone()).collect::<Vec<_>>(), expected, "{told:?}");
    let blob = format!("/blobs/{}", name_of(&frame));
    assert!(server.get(&blob).body == frame && files(dir.path()) == 2);
    let delete = |server: &Server, path: &str| server.connect().request("DELETE", path, &[], b"").status;
    assert_eq!(delete(&server, &blob), 409);
    // By kill -9; and the blobs are older than they would be kept without their job.
    drop(server);
    let age = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    for bytes in [&frame[..], b""] {
        let path = dir.path().join("blobs").join(&name_of(bytes)["sha256:".len()..]);
        std::fs::File::open(path).unwrap().set_modified(age).unwrap();
    }
    let server = Server::on(&dir, &args, &[]);
    // Two rounds of the thread that cleans up, which looks at all blobs: another one goes.
    for seed in [8, 9] {
        assert_eq!(put(&server, "/blobs", &[], &bytes(10, seed)).status, 201);
        eventually("a blob without a job goes", || files(dir.path()) == 2);
    }
    assert_eq!(delete(&server, &format!("/jobs/{uuid}")), 200);
    eventually("the blobs go with their job", || files(dir.path()) == 0);
}

/// The directories of outputs.
fn dirs(dir: &Path) -> usize {
    std::fs::read_dir(dir.join("job-files")).unwrap().count()
}

#[test]
fn jobs_are_given_files_and_make_some() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let server = Server::on(&dir, &["--blob-bytes-max", "3000000"], &[]);
    deploy(&server);
    let body = bytes(1_000_000, 4);
    let name = name_of(&body);
    assert_eq!(put(&server, "/blobs", &[], &body).status, 201);
    let copy = |server: &Server, payload: Value| {
        submit(server, &json!({ "job": "copy", "payload": payload, "files": {"in": name} }))
    };
    // A run that fails leaves nothing, whatever ended it.
    let ways = ["", "error", "crash", "kill"];
    for (at, how) in ways.iter().filter(|how| **how != "kill" || isolation() == "process").enumerate() {
        let uuid = copy(&server, json!({ "how": how }));
        assert_eq!(result(&server, &uuid), 1_000_000, "{how}");
        let listed = json_of(&server.get(&format!("/jobs/{uuid}/files")));
        let made = json!([{ "name": "out.bin", "bytes": 1_000_000 }]);
        assert_eq!(listed, json!({ "state": "done", "given": {"in": name}, "made": made }));
        let path = format!("/jobs/{uuid}/files/out.bin");
        assert!(server.get(&path).body == body, "{how}");
        let part = server.connect().request("GET", &path, &[("Range", "bytes=10-19")], b"");
        assert_eq!((part.status, part.body.as_slice()), (206, &body[10..20]));
        assert_eq!(part.header("content-type").unwrap(), "application/octet-stream");
        let head = server.connect().request("HEAD", &path, &[], b"");
        assert_eq!((head.status, head.header("content-length").unwrap().as_str()), (200, "1000000"));
        assert_eq!(dirs(dir.path()), at + 1, "{how}");
    }
    let refused = json!({ "job": "file_refusals", "payload": isolation(), "files": {"in": name} });
    let refused = submit(&server, &refused);
    assert_eq!(result(&server, &refused), "refused");
    assert_eq!(server.get(&format!("/jobs/{refused}/files/0")).text(), "zero");
    for target in ["files/64", "files/..", "files/%2e%2e", "files/in", "files/0/x"] {
        assert_ne!(server.get(&format!("/jobs/{refused}/{target}")).status, 200, "{target}");
    }
    // The server keeps the bytes that an output had when its job was done.
    let left_open = copy(&server, json!({ "leave_open": true }));
    assert_eq!(result(&server, &left_open), 1_000_000);
    let scribbled = submit(&server, &json!({ "job": "scribble" }));
    result(&server, &scribbled);
    assert!(server.get(&format!("/jobs/{left_open}/files/out.bin")).body == body);

    let flood = submit(&server, &json!({ "job": "flood" }));
    eventually("it is ended", || status(&server, &flood)["state"] == "failed");
    let why = status(&server, &flood)["error"].as_str().unwrap().to_owned();
    assert!(why.contains("--blob-bytes-max"), "{why}");
    assert_eq!(json_of(&server.get(&format!("/jobs/{flood}/files")))["made"], json!([]));

    for (files, words) in [
        (json!({"in": format!("sha256:{}", "0".repeat(64))}), "there is no blob sha256:0000"),
        (json!({"../in": name}), "can't name a file"),
        (json!({"in": "abc"}), "as PUT /blobs answers"),
    ] {
        let body = json!({ "job": "copy", "files": files }).to_string();
        let (status, why) = error_of(&server.post("/jobs", body.as_bytes()));
        assert!(status == 400 && why.contains(words), "{status} {why}");
    }
    // A blob stays as long as a job has it, and outputs as long as their job.
    let blob = format!("/blobs/{name}");
    let delete = |path: &str| server.connect().request("DELETE", path, &[], b"").status;
    assert_eq!(delete(&blob), 409);
    let jobs = json_of(&server.get("/jobs?limit=1000"))["jobs"].as_array().unwrap().clone();
    for job in &jobs {
        assert_eq!(delete(&format!("/jobs/{}", job["job_uuid"].as_str().unwrap())), 200);
    }
    eventually("the outputs are gone", || dirs(dir.path()) == 0);
    assert_eq!((delete(&blob), files(dir.path())), (200, 0));
}

#[test]
fn what_jobs_have_made_survives_a_kill_and_what_was_cut_off_does_not() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    // With a short retention the blob could go before its first job comes.
    let server = Server::on(&dir, &[], &[]);
    deploy(&server);
    let body = bytes(10_000, 5);
    let name = name_of(&body);
    assert_eq!(put(&server, "/blobs", &[], &body).status, 201);
    let copy = |server: &Server, payload: Value| {
        submit(server, &json!({ "job": "copy", "payload": payload, "files": {"in": name} }))
    };
    let waits = |server: &Server, uuid: &str| {
        eventually("it waits", || events(server, uuid).iter().any(|event| event["type"] == "waiting"));
    };
    let done = copy(&server, json!({}));
    assert_eq!(result(&server, &done), 10_000);
    let canceled = copy(&server, json!({"how": "wait"}));
    waits(&server, &canceled);
    assert_eq!(dirs(dir.path()), 2);
    assert_eq!(server.post(&format!("/jobs/{canceled}/cancel"), b"").status, 200);
    eventually("its file is gone", || dirs(dir.path()) == 1);
    assert_eq!(server.get(&format!("/jobs/{canceled}/files/out.bin")).status, 404);
    let cut_off = copy(&server, json!({"how": "wait"}));
    waits(&server, &cut_off);
    // By kill -9.
    drop(server);
    assert_eq!(dirs(dir.path()), 2);
    let server = Server::on(&dir, &["--blob-retention", "1s"], &[]);
    assert!(server.get(&format!("/jobs/{done}/files/out.bin")).body == body);
    assert_eq!(result(&server, &cut_off), 10_000);
    assert!(server.get(&format!("/jobs/{cut_off}/files/out.bin")).body == body);
    assert_eq!(dirs(dir.path()), 2, "what the run of before the end has left is removed");
    assert_eq!(server.get(&format!("/blobs/{name}")).status, 200, "a job has it, however old it is");
}

/// `cweb jobs` with `args`: whether it succeeded, and its output.
fn jobs(server: &Server, args: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_cweb"))
        .arg("jobs")
        .args(args)
        .env("CWEB_SERVER", format!("http://{}", server.addr))
        .env_remove("CWEB_ADMIN_KEY")
        .output()
        .unwrap();
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

#[test]
fn the_command_brings_files_and_fetches_what_was_made() {
    let server = Server::start();
    deploy(&server);
    let here = tempfile::tempdir().unwrap();
    let (path, out) = (here.path().join("a=b.bin"), here.path().join("new/out"));
    let body = bytes(3_000_000, 6);
    std::fs::write(&path, &body).unwrap();
    let (file, out) = (format!("in={}", path.display()), out.display().to_string());
    for _ in 0..2 {
        let (worked, said) = jobs(&server, &["submit", "--file", &file, "--output-dir", &out, "copy"]);
        assert!(worked && said.contains("out.bin"), "{said}");
        assert!(std::fs::read(format!("{out}/out.bin")).unwrap() == body);
    }
    assert_eq!((files(server.dir.path()), std::fs::read_dir(&out).unwrap().count()), (1, 1));
    let (_, uuid) = jobs(&server, &["submit", "--watch", "--file", &file, "copy"]);
    let uuid = uuid.lines().next().unwrap().to_owned();
    let (worked, said) = jobs(&server, &["files", &uuid]);
    assert!(worked && said.trim() == "3000000 out.bin", "{said}");
    let again = here.path().join("again").display().to_string();
    let (worked, said) = jobs(&server, &["files", &uuid, "--output-dir", &again]);
    assert!(worked && said.trim() == format!("{again}/out.bin"), "{said}");
    assert!(std::fs::read(format!("{again}/out.bin")).unwrap() == body);
    let failing =
        ["submit", "--max-attempts", "1", "--file", &file, "--output-dir", &out, "copy", "{\"how\":\"error\"}"];
    let (worked, said) = jobs(&server, &failing);
    assert!(!worked && said.contains("on purpose"), "{said}");
    for (wrong, words) in [("in", "NAME=PATH"), ("in=/nowhere/at/all", "can't be read"), ("../in=", "NAME=PATH")] {
        let (worked, said) = jobs(&server, &["submit", "--file", wrong, "copy"]);
        assert!(!worked && said.contains(words), "{said}");
    }
    let (worked, said) = jobs(&server, &["submit", "--file", &file, "--file", &file, "copy"]);
    assert!(!worked && said.contains("two files the name in"), "{said}");
}

/// Blobs and jobs that the server has acknowledged.
#[derive(Default)]
struct Acknowledged {
    /// Sizes and seeds.
    blobs: Vec<(usize, u32)>,
    /// The jobs, and the same of their files.
    jobs: Vec<(String, usize, u32)>,
}

/// A client of a server that may end at any moment: stores blobs and submits a job for each. `count` counts the jobs.
fn store_and_submit(addr: &str, seed: u32, count: &AtomicUsize) -> Acknowledged {
    let mut told = Acknowledged::default();
    let Some(mut client) = Client::try_connect(addr) else { return told };
    for number in 0..10_000_u32 {
        let seed = seed.wrapping_add(number.wrapping_mul(2_654_435_761));
        let size = if number % 4 == 0 { 0 } else { seed as usize % 400_000 };
        let body = bytes(size, seed);
        match client.attempt("PUT", "/blobs", &body) {
            Some(answer) if answer.status / 100 == 2 => told.blobs.push((size, seed)),
            Some(answer) => panic!("{}", answer.text()),
            None => break,
        }
        let files = json!({"in": name_of(&body)});
        let job = json!({ "job": "copy", "files": files, "max_attempts": 1000 }).to_string();
        match client.attempt("POST", "/jobs", job.as_bytes()) {
            Some(answer) if answer.status == 200 => {
                told.jobs.push((json_of(&answer)["job_uuid"].as_str().unwrap().to_owned(), size, seed));
                count.fetch_add(1, Ordering::Relaxed);
            }
            Some(answer) => panic!("{}", answer.text()),
            None => break,
        }
    }
    told
}

#[test]
fn nothing_acknowledged_is_lost_when_the_server_is_killed_again_and_again() {
    let rounds = std::env::var("CWEB_CRASH_ROUNDS").map_or(3, |rounds| rounds.parse().unwrap());
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let (mut blobs, mut accepted) = (Vec::new(), Vec::new());
    let mut server = Server::on(&dir, &[], &[]);
    deploy(&server);
    for round in 0..rounds {
        let acknowledged = Arc::<AtomicUsize>::default();
        let clients: Vec<_> = (0..2)
            .map(|client| {
                let (addr, seed) = (server.addr.clone(), round * 7_919 + client * 104_729 + 1);
                let count = Arc::clone(&acknowledged);
                std::thread::spawn(move || store_and_submit(&addr, seed, &count))
            })
            .collect();
        // At any moment from the first acknowledgement on; the later, the more there is to lose.
        eventually("a job is acknowledged", || acknowledged.load(Ordering::Relaxed) > 0);
        std::thread::sleep(std::time::Duration::from_millis(u64::from(20 + bytes(1, round)[0])));
        drop(server);
        for client in clients {
            let told = client.join().unwrap();
            blobs.extend(told.blobs);
            accepted.extend(told.jobs);
        }
        server = Server::on(&dir, &[], &[]);
        assert_eq!(std::fs::read_dir(dir.path().join("blobs/incoming")).unwrap().count(), 0);
    }
    assert!(blobs.len() >= rounds as usize && !accepted.is_empty(), "{} {}", blobs.len(), accepted.len());
    let mut client = server.connect();
    for (size, seed) in &blobs {
        let body = bytes(*size, *seed);
        let found = client.get(&format!("/blobs/{}", name_of(&body)));
        assert!(found.status == 200 && found.body == body, "{size} {seed}: {}", found.head);
    }
    for (uuid, size, seed) in &accepted {
        assert_eq!(result(&server, uuid), *size);
        let found = client.get(&format!("/jobs/{uuid}/files/out.bin"));
        let body = bytes(*size, *seed);
        let differs = found.body.iter().zip(&body).position(|(is, was)| is != was);
        let at = format!("{uuid}: {} bytes of {size}, the first other one at {differs:?}", found.body.len());
        assert!(found.status == 200 && found.body == body, "{at}: {}", found.head);
    }
    // Jobs of submissions without an answer are done, too; there are no other jobs and directories.
    eventually("all jobs are done", || count(dir.path(), "jobs WHERE state <> 'done'") == 0);
    assert_eq!(count(dir.path(), "jobs"), i64::try_from(dirs(dir.path())).unwrap());
    println!("{} blobs, {} jobs acknowledged", blobs.len(), accepted.len());
}
