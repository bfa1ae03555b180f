//! Modules of the older generations, whose functions take no context.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use support::Server;

#[test]
fn a_counter_keeps_its_place_in_the_cache() {
    let server = Server::start();
    server.deploy_file("tests/modules/legacy/counter.c");
    let first = server.get("/counter");
    assert_eq!((first.status, first.text().as_str()), (200, "count 1"), "{}", server.log());
    assert_eq!(first.header("content-type").as_deref(), Some("text/plain"));
    assert_eq!(first.header("x-kind").as_deref(), Some("literal"));
    assert_eq!(server.get("/counter").text(), "count 2");
}
