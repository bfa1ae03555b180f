//! Events of modules: the server runs the loop (`libevent.h`), a fault in a callback ends that callback only, and events end
//! with the version that added them.

use crate::support::{Server, eventually, isolation, module, root};
use std::time::{Duration, Instant};

fn listener(version: &str, more: &str) -> String {
    let source = std::fs::read_to_string(root().join("tests/events/listener.c")).unwrap();
    format!("#define VERSION \"{version}\"\n{more}\n{source}")
}

fn state(server: &Server) -> String {
    server.get("/state").text()
}

/// The process of an isolated module.
fn pid(server: &Server) -> Option<u64> {
    let listed: serde_json::Value = serde_json::from_slice(&server.get("/mgnt").body).unwrap();
    listed["domains"][0]["pid"].as_u64()
}

fn write(server: &Server, version: u32, text: &str) {
    assert_eq!(server.post(&format!("/to/{version}"), text.as_bytes()).text(), text.len().to_string());
}

#[test]
fn the_callback_comes_without_a_loop_of_the_modules_own() {
    let server = Server::start();
    server.deploy(&listener("1", ""));
    assert_eq!(state(&server), "0 ");
    write(&server, 1, "one,");
    eventually("the callback", || state(&server) == "1 one,");
    write(&server, 1, "two");
    eventually("the callback again", || state(&server).ends_with(" one,two"));
    server.expect_log("[listener] called with version 1");
    // Taken out and put in again, by a handler; once each.
    assert_eq!(server.get("/del").text(), "0 -1");
    write(&server, 1, ",three");
    assert_eq!(server.get("/add").text(), "0 -1");
    eventually("what came meanwhile", || state(&server).ends_with(" one,two,three"));
    // Out of its own callback.
    write(&server, 1, "stop");
    eventually("the callback that stops", || state(&server).ends_with("stop"));
    assert_eq!(server.get("/del").text(), "-1 -1");
}

#[test]
fn it_comes_once_for_each_arrival() {
    let server = Server::start();
    server.deploy(&listener("1", ""));
    server.get("/state?reads=0");
    for count in 1..=3 {
        write(&server, 1, "x");
        eventually("a call", || state(&server) == format!("{count} "));
    }
    server.get("/state?reads=1");
    write(&server, 1, "x");
    eventually("all of it", || state(&server) == "4 xxxx");
}

#[test]
fn a_fault_ends_that_callback_only() {
    let server = Server::start();
    server.deploy(&module("hello", "HANDLER(h, \"hello\")", "{\"/hello\", \"GET\", h, NONE}", 1, ""));
    server.deploy(&listener("1", ""));
    for (text, words) in [("crash", "SIGSEGV"), ("exit", "exit")] {
        let before = pid(&server);
        write(&server, 1, text);
        eventually("the fault in the log", || {
            let log = server.log();
            log.lines()
                .any(|line| line.contains("module listener failed in the callback of an event") && line.contains(words))
        });
        // An isolated module is in another process soon, where its pipe is another; exit() does not end the process.
        if text == "crash" && isolation() == "process" {
            eventually("the process is another", || pid(&server).is_some_and(|now| Some(now) != before));
        }
        // Not many times: what is not read yet comes together with the next text.
        let mut told: Option<Instant> = None;
        eventually("the next callback", || {
            if told.is_none_or(|at| at.elapsed() > Duration::from_secs(1)) {
                server.post("/to/1", b"on");
                told = Some(Instant::now());
            }
            state(&server).ends_with("on")
        });
        assert_eq!(server.get("/hello").status, 200, "others notice nothing");
    }
    assert!(!server.log().contains("quarantine"), "{}", server.log());
    assert!(!server.log().contains("module hello failed"), "{}", server.log());
}

#[test]
fn events_end_with_their_version() {
    let server = Server::start();
    for (round, unload) in ["", "#define UNLOAD"].into_iter().enumerate() {
        server.deploy(&listener("1", unload));
        write(&server, 1, "x");
        eventually("the callback", || state(&server) == "1 x");
        // A line that a module prints comes to the log a moment later.
        eventually("its line", || server.log().matches("called with version 1").count() == round + 1);
        server.deploy(&listener("2", unload));
        eventually("the old version is unmapped", || server.mapped_modules().len() == 1);
        let log = server.log();
        // The pipe of the old one is open still, where it was not closed: nothing comes of it.
        if unload.is_empty() {
            write(&server, 1, "late");
        }
        write(&server, 2, "y");
        eventually("the new one's callback", || state(&server) == "1 y");
        assert!(!server.log()[log.len()..].contains("called with version 1"), "{}", server.log());
        assert_eq!(server.connect().request("DELETE", "/mgnt/listener", &[], b"").status, 200);
        eventually("all is unmapped", || server.mapped_modules().is_empty());
    }
    assert!(!server.log().contains("failed in"), "{}", server.log());
}
