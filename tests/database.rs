//! The database of modules: each call has a connection to itself, and nothing that a call leaves open outlives it.

use crate::support::{Server, eventually, isolation, root};
use serde_json::{Value, json};
use std::sync::Arc;
use tungstenite::Message;

/// The source of a module of tests/modules, with `defines` before it.
fn source(name: &str, defines: &str) -> String {
    defines.to_owned() + &std::fs::read_to_string(root().join(format!("tests/modules/{name}.c"))).unwrap()
}

/// Answers of `clients` clients at once, each asking `times` times for `method target(client, time)`.
fn at_once(
    server: &Server,
    clients: usize,
    times: usize,
    method: &str,
    target: impl Fn(usize, usize) -> String + Sync,
) -> Vec<(u16, String)> {
    std::thread::scope(|scope| {
        let ask = |number: usize| {
            let (mut client, target) = (server.connect(), &target);
            move || {
                let one = |time| client.request(method, &target(number, time), &[], b"");
                (0..times).map(one).map(|answer| (answer.status, answer.text())).collect::<Vec<_>>()
            }
        };
        let asking: Vec<_> = (0..clients).map(|number| scope.spawn(ask(number))).collect();
        asking.into_iter().flat_map(|asked| asked.join().unwrap()).collect()
    })
}

fn sql(server: &Server, text: &str) -> String {
    server.post("/sql", text.as_bytes()).text()
}

#[test]
fn transfers_of_eight_clients_all_succeed() {
    let server = Server::with(&["--shards", "2"]);
    server.deploy(&source("transfer", ""));
    for way in ["/immediate", "/plain", "/direct", "/static"] {
        for (status, text) in at_once(&server, 8, 10, "POST", |_, _| way.to_owned()) {
            assert_eq!(status, 200, "{way}: {text}");
        }
    }
    assert_eq!(server.get("/sum").text(), "999680 + 320 = 1000000");
    // A new generation has kept statements, which all its calls use.
    server.deploy(&source("transfer", "#define STATEMENTS 1\n"));
    for (status, text) in at_once(&server, 8, 10, "POST", |_, _| "/statements".to_owned()) {
        assert_eq!(status, 200, "{text}");
    }
    assert_eq!(server.get("/sum").text(), "999920 + 80 = 1000000");
    assert!(!server.log().contains("module transfer: "), "{}", server.log());
}

#[test]
fn what_a_call_leaves_open_ends_with_it_and_its_module_is_named() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let server = Server::on(&dir, &["--shards", "2"], &[]);
    server.deploy(&source("careless", ""));
    server.deploy(&source("careful", ""));
    let rolled_back = "module careless: a transaction was open at the end of the call and is rolled back";
    let left = |times: usize| server.expect_log(&format!("a transaction can't span calls ({times} times so far)"));
    server.expect_log(rolled_back);
    assert_eq!(server.get("/transaction").text(), "left");
    left(2);
    let mut socket = server.websocket("/careless/ws");
    socket.send(Message::text("on")).unwrap();
    assert_eq!(socket.read().unwrap(), Message::text("on"));
    let accepted = server.post("/jobs", json!({"job": "careless"}).to_string().as_bytes());
    let accepted: Value = serde_json::from_slice(&accepted.body).unwrap();
    let path = format!("/jobs/{}", accepted["job_uuid"].as_str().unwrap());
    eventually("the job is done", || server.get(&path).text().contains("\"state\":\"done\""));
    left(4);
    // Each of these waits for nobody, and so does the neighbour.
    assert_eq!(server.get("/schedule").text(), "0");
    assert_eq!(server.get("/thread").text(), "0");
    assert_eq!(server.get("/crash").status, 500);
    assert_eq!(server.get("/transaction").text(), "left");
    if isolation() == "process" {
        // The process is replaced after the crash, and the next one counts anew.
        eventually("the eighth time", || {
            assert_eq!(server.get("/transaction").text(), "left");
            server.log().contains("a transaction can't span calls (8 times so far)")
        });
    } else {
        left(8);
    }
    assert_eq!(sql(&server, "INSERT INTO noted VALUES('careful')"), "0 ");
    assert_eq!(sql(&server, "SELECT who FROM noted"), "0 careful;");
    server.stop();
    let server = Server::on(&dir, &["--shards", "2"], &[]);
    assert_eq!(sql(&server, "SELECT who FROM noted"), "0 careful;", "it outlives the server");
}

#[test]
fn a_rollback_takes_back_nothing_of_another_module() {
    let server = Server::with(&["--shards", "2"]);
    server.deploy(&source("careless", ""));
    server.deploy(&source("careful", ""));
    assert_eq!(sql(&server, "CREATE TABLE kept(a)"), "0 ");
    let mut rolling_back = server.connect();
    rolling_back.send(b"GET /roll-back HTTP/1.1\r\nHost: localhost\r\n\r\n");
    eventually("its transaction is open", || server.get("/begun").text() == "yes");
    assert_eq!(sql(&server, "INSERT INTO kept VALUES(1)"), "0 ");
    assert_eq!(server.get("/written").text(), "ok");
    assert_eq!(rolling_back.response().text(), "0 0");
    assert_eq!(sql(&server, "SELECT a FROM kept"), "0 1;");
}

#[test]
fn an_unfinished_statement_locks_nobody_out() {
    let server = Server::with(&["--shards", "2"]);
    server.deploy(&source("careless", ""));
    server.deploy(&source("careful", ""));
    for _ in 0..3 {
        assert_eq!(server.get("/statement").text(), "0 100");
    }
    server.expect_log("module careless: a statement was not finished at the end of the call and is reset");
    server.expect_log("SELECT a FROM read_only_half");
    assert_eq!(sql(&server, "ALTER TABLE read_only_half RENAME TO other; DROP TABLE other; VACUUM"), "0 ");
    assert_eq!(server.get("/statement").text(), "0 100");
}

#[test]
fn state_of_a_connection_that_onload_makes_is_there_in_every_call() {
    let server = Server::with(&["--shards", "2"]);
    for defines in ["#define FUNCTION 1\n", "#define TEMPORARY 1\n"] {
        server.deploy(&source("stateful", defines));
        for (_, text) in at_once(&server, 8, 5, "GET", |_, _| "/state".to_owned()) {
            // 19: SQLITE_CONSTRAINT, since foreign keys are on.
            assert_eq!(text, "0 42 19", "{defines}");
        }
    }
    // Its destructor ran while it was still mapped.
    server.expect_log("the function twice is gone");
    server.deploy(&source("stateful", ""));
    for (_, text) in at_once(&server, 8, 5, "GET", |_, time| ["/state", "/scratch"][time % 2].to_owned()) {
        assert!(["0  19", "0 2 0"].contains(&text.as_str()), "{text}");
    }
    assert!(!server.log().contains("failed"), "{}", server.log());
}

#[test]
fn row_numbers_and_counts_are_those_of_the_call() {
    let server = Server::with(&["--shards", "2"]);
    server.deploy(&source("careful", ""));
    let target = |client: usize, time: usize| format!("/own?id={}", 1 + 2 * (100 * client + time));
    for (_, text) in at_once(&server, 8, 10, "GET", target) {
        assert_eq!(text, "ok");
    }
}

#[test]
fn connections_are_bounded_and_calls_beyond_them_share() {
    let server = Server::with(&["--shards", "2", "--executors-max", "160"]);
    server.deploy(&source("careful", ""));
    let open = |file: &str| {
        let links = |pid: &u32| {
            let open = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
            open.filter_map(|entry| std::fs::read_link(entry.path()).ok())
                .filter(|path| path.to_string_lossy().ends_with(file))
                .count()
        };
        server.processes().iter().map(links).sum::<usize>()
    };
    for (status, text) in at_once(&server, 150, 2, "GET", |_, _| "/slow".to_owned()) {
        assert_eq!((status, text.as_str()), (200, "0 1;"));
    }
    let used = open("modules.sqlite3");
    assert!((20..=100).contains(&used), "{used} connections");
    for version in 1..=3 {
        server.deploy(&source("careful", &format!("#define VERSION {version}\n")));
        // SQLite keeps descriptors of the database itself for connections to come, so that it loses no lock.
        eventually("the connections of the old generation are closed", || open("modules.sqlite3-wal") < used / 4);
        at_once(&server, 150, 1, "GET", |_, _| "/slow".to_owned());
        let now = open("modules.sqlite3");
        assert!(now <= 110, "{now} after {used}");
    }
}
