//! The descriptors 0 to 2 stay the server's, whatever a module does to them.

use crate::support::{Client, Server, constant};

#[test]
fn modules_do_not_close_or_replace_the_standard_descriptors() {
    let server = Server::with(&["--shards", "1", "--crash-limit", "0"]);
    server.deploy_file("tests/modules/closer.c");
    server.deploy(&constant("other", "/other", "clean"));
    let mut first = server.connect();
    for prefix in ["", "/inline"] {
        for how in ["close", "fclose", "fdopen", "dup2", "dup3", "range", "reopen"] {
            assert_eq!(server.get(&format!("{prefix}/closes?how={how}")).text(), "0", "{prefix} {how}");
            server.expect_log(&format!("[closer] printed after {how}"));
            server.expect_log(&format!("[closer] told after {how}"));
            assert_eq!(server.get("/opens").text(), "1", "after {how}");
            // New connections and old ones have answers in them and nothing else.
            let clients: Vec<Client> = (0..8).map(|_| server.connect()).collect();
            for mut client in clients {
                assert_eq!(client.get("/other").text(), "clean", "after {how}");
            }
            assert_eq!(first.get("/other").text(), "clean", "after {how}");
        }
    }
    server.expect_log("[closer] the descriptors 0 to 2 are the server's");
}

#[test]
fn the_log_has_a_descriptor_of_its_own() {
    let server = Server::with(&["--shards", "1"]);
    server.deploy_file("tests/modules/closer.c");
    // Past libc: with a process of its own the filter refuses it, without the descriptors are gone.
    assert_eq!(server.get("/closes?how=raw").status, 200);
    let clients: Vec<Client> = (0..8).map(|_| server.connect()).collect();
    server.expect_log("[closer] printed after raw");
    server.deploy(&constant("other", "/other", "clean"));
    server.expect_log("module other is deployed");
    for mut client in clients {
        assert_eq!(client.get("/other").text(), "clean");
    }
}

/// What a process of modules has of the server stays open, so that nobody waits for a wake-up that can't be sent any more.
#[test]
fn the_descriptors_between_server_and_modules_stay_open() {
    let server = Server::with(&["--shards", "1", "--isolation", "process"]);
    server.deploy_file("tests/modules/closer.c");
    server.deploy(&constant("other", "/other", "clean"));
    let left: u32 = server.get("/closes?how=all").text().parse().unwrap();
    // The control connection twice, two parts of shared memory, and the shard's wake-up.
    assert!(left >= 5, "{left} are left");
    assert_eq!(server.get("/other").text(), "clean");
    server.deploy(&constant("later", "/later", "here"));
    assert_eq!(server.get("/later").text(), "here");
}
