//! The state of a thread, and of the process, does not outlive the call that changed it.

use crate::support::{Server, eventually};
use serde_json::Value;
use tungstenite::Message;

/// What a call finds, whoever ran before it.
const STATE: &str =
    "errno 0 tiny 1 tenth 1 infinite 1 wide 1 round 0 blocked 0 locale 1 cores 1 cancel 11 umask 1 root 0 files 1 C";

fn server() -> Server {
    // One companion and one worker, so that a call comes to the thread that another has changed.
    let server = Server::with(&["--shards", "1", "--job-workers", "1", "--crash-limit", "0"]);
    server.deploy_file("tests/modules/state_reader.c");
    for path in ["/state", "/inline/state", "/work"] {
        assert_eq!(server.get(path).text(), STATE, "before anybody has changed anything");
    }
    assert_eq!(run_job(&server, "state"), STATE);
    server.deploy_file("tests/modules/state_changer.c");
    server
}

fn run_job(server: &Server, job: &str) -> String {
    let accepted = server.post("/jobs", format!("{{\"job\":\"{job}\"}}").as_bytes());
    let uuid = serde_json::from_slice::<Value>(&accepted.body).unwrap()["job_uuid"].as_str().unwrap().to_owned();
    let mut result = Value::Null;
    eventually("the job is done", || {
        let status: Value = serde_json::from_slice(&server.get(&format!("/jobs/{uuid}")).body).unwrap();
        result = status["result"].clone();
        status["state"] == "done"
    });
    result.as_str().unwrap().to_owned()
}

#[test]
fn a_call_finds_the_state_that_every_call_begins_with() {
    let server = server();
    for _ in 0..3 {
        assert_eq!(server.get("/change").text(), "changed\n");
        assert_eq!(server.get("/state").text(), STATE);
        assert_eq!(server.get("/inline/change").text(), "changed\n");
        assert_eq!(server.get("/inline/state").text(), STATE);
        assert_eq!(run_job(&server, "change"), "changed");
        assert_eq!(run_job(&server, "state"), STATE);
        assert_eq!(server.get("/schedule").text(), "scheduled\n");
        assert_eq!(server.get("/work").text(), STATE);
    }
    let mut socket = server.websocket("/changes");
    socket.send(Message::text("x")).unwrap();
    assert_eq!(socket.read().unwrap(), Message::text("x"));
    let mut socket = server.websocket("/states");
    socket.send(Message::text("x")).unwrap();
    assert_eq!(socket.read().unwrap(), Message::text(STATE));
    // What is refused is refused with a sentence, under the name of the module.
    for sentence in ["[state_changer] the handlers of SIGSEGV", "the working directory is", "alarm() and setitimer()"] {
        server.expect_log(sentence);
    }
}

#[test]
fn a_module_does_not_disarm_the_guard() {
    let server = server();
    assert_eq!(server.get("/change").text(), "changed\n");
    for (path, word) in [("/faults", "SIGSEGV"), ("/overflows", "stack overflow"), ("/fault", "SIGSEGV")] {
        let response = server.get(path);
        assert!(response.status == 500 && response.text().contains(word), "{path}: {}", response.text());
        assert_eq!(server.get("/state").text(), STATE, "after {path}");
    }
    assert!(!server.log().contains(" died"), "{}", server.log());
}
