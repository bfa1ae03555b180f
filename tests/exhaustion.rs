//! A process of modules in which something is used up: what is deployed next goes into the process that follows.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use support::{Server, constant, eventually, module};

/// Takes every descriptor that there is, and keeps it.
fn leaky() -> String {
    let code = "#include <fcntl.h>\n#include <unistd.h>\n\
        static int take(struct cweb_context *c, http_request_t *q, http_response_t *r) {\n\
          (void)c; (void)q; int taken = 0; while (taken < 2000000 && dup(0) >= 0) taken++;\n\
          snprintf(r->body, HTTP_RESPONSE_SIZE, \"%d\", taken > 10); return 0; }";
    module("leaky", code, r#"{"/take","GET",take,NONE}"#, 1, "")
}

/// Has thread-local variables of a kind that the loader has little memory for.
fn local(n: usize) -> String {
    let code = format!(
        "static _Thread_local volatile char local[480] __attribute__((tls_model(\"initial-exec\")));\n\
         static int h(struct cweb_context *c, http_request_t *q, http_response_t *r) {{\n\
           (void)c; local[q->content_length]++; snprintf(r->body, HTTP_RESPONSE_SIZE, \"%d\", {n} + !local[q->content_length]); return 0; }}"
    );
    module("local", &code, r#"{"/local","GET",h,NONE}"#, 1, "")
}

#[test]
fn descriptors_that_are_used_up_refuse_no_deployment() {
    let server = Server::with_open_files(1024, &["--shards", "2", "--isolation", "process"]);
    server.deploy(&leaky());
    server.deploy(&constant("neighbour", "/neighbour", "here"));
    for round in 0..2 {
        assert_eq!(server.get("/take").text(), "1");
        let mended = leaky().replace("taken > 10", &format!("taken > 10 + {round}"));
        server.deploy(&mended);
        assert_eq!(server.get("/neighbour").text(), "here");
    }
    server.expect_log("is replaced: its modules have used up the descriptors that it may open");
    assert!(!server.log().contains(" died"), "{}", server.log());
}

#[test]
fn static_thread_local_storage_that_is_used_up_refuses_no_deployment() {
    let server = Server::with(&["--shards", "2", "--isolation", "process"]);
    for n in 0..12 {
        server.deploy(&local(n));
        eventually("the new version answers", || server.get("/local").text() == n.to_string());
    }
    server.expect_log("is replaced: its modules have used up the memory for thread-local variables");
}

#[test]
fn in_the_server_the_answer_says_what_is_used_up() {
    let server = Server::with(&["--shards", "2", "--isolation", "none"]);
    server.deploy(&constant("neighbour", "/neighbour", "here"));
    let refused = (0..12).map(|n| server.try_deploy(&local(n))).find(|answer| answer.status != 200);
    let refused = refused.expect("nothing was used up");
    let text = refused.text();
    assert_eq!(refused.status, 503, "{text}");
    assert!(text.contains("static TLS") && text.contains("restart"), "{text}");
    assert_eq!(server.get("/neighbour").text(), "here");
}
