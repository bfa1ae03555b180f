//! What a version of a module leaves to the C library, and what the library does with it after the version is gone.

use crate::support::{Server, constant, eventually, module, root};

/// Ends the old version's loops.
fn next() -> String {
    let code = "static int over(struct cweb_context *c, http_request_t *q, http_response_t *r) {\n\
        (void)q; snprintf(r->body, HTTP_RESPONSE_SIZE, \"%d\", container_set(c->cache, \"over\", c->cache)); return 0; }\n\
        static int destroyed(struct cweb_context *c, http_request_t *q, http_response_t *r) {\n\
        (void)q; strcpy(r->body, container_get(c->cache, \"destroyed\") ? \"yes\" : \"no\"); return 0; }";
    module("left", code, r#"{"/over","GET",over,NONE},{"/destroyed","GET",destroyed,NONE}"#, 2, "")
}

#[test]
fn threads_timers_and_thread_data_of_an_old_version_find_its_code() {
    let server = Server::with(&["--shards", "2"]);
    server.deploy(&constant("neighbour", "/neighbour", "here"));
    server.deploy(&std::fs::read_to_string(root().join("tests/modules/leftovers.c")).unwrap());
    assert_eq!(server.get("/start").text(), "0");
    let processes = || {
        let told: serde_json::Value = serde_json::from_slice(&server.get("/mgnt").body).unwrap();
        let domains = told["domains"].as_array().cloned().unwrap_or_default();
        domains.iter().map(|domain| domain["pid"].as_u64()).collect::<Vec<_>>()
    };
    let before = processes();
    server.deploy(&next());
    eventually("the old version is gone", || server.get("/start").status == 404);
    server.expect_log("module left: the code of its old version stays mapped");
    assert_eq!(server.get("/over").text(), "0");
    for line in ["a thread of the old version ends: 0", "a timer of the old version ticks"] {
        server.expect_log(line);
    }
    eventually("the data of its thread is destroyed", || server.get("/destroyed").text() == "yes");
    assert_eq!(server.get("/neighbour").text(), "here");
    assert_eq!(processes(), before);
    server.stop();
}

#[test]
fn what_stays_mapped_in_the_server_is_bounded() {
    let server = Server::with(&["--shards", "2", "--isolation", "none"]);
    let version = |n: usize| {
        let code = "#include <signal.h>\nstatic void on(int n) { (void)n; }\n\
            static void load(struct cweb_context *c) { (void)c; signal(SIGUSR2, on); }\nHANDLER(h, \"here\")";
        let routes = format!("{{\"/v{}\",\"GET\",h,NONE}}", n % 2);
        module("signals", code, &routes, 1, ".onload = load,")
    };
    for n in 0..80 {
        server.deploy(&version(n));
    }
    eventually("at most 64 old versions stay", || server.mapped_modules().len() <= 65);
    assert!(server.mapped_modules().len() > 32);
}
