//! What a module registers, prints or holds costs its own domain alone.

use crate::support::{self, Server, module};
use std::fmt::Write;

/// A module with a route for each of `paths`, each of which answers `name`.
fn routes(name: &str, paths: &[String]) -> String {
    let code = format!("{} {{ res->content_length = sprintf(res->body, \"{name}\"); return 0; }}", HANDLER);
    let mut table = String::new();
    for path in paths {
        let _ = write!(table, "{{\"{}\",\"GET\",f,NONE}},", path.replace('\\', "\\\\"));
    }
    module(name, &code, &table, paths.len(), "")
}

const HANDLER: &str = "static int f(cweb_context_t *c, http_request_t *q, http_response_t *res)";

#[test]
fn patterns_that_would_hold_a_shard_up_are_refused_with_the_figure() {
    let server = Server::start();
    let sixty = |of: &dyn Fn(usize) -> String| (0..60).map(of).collect::<Vec<_>>();
    for (name, paths, figure) in [
        ("one", vec!["/.*a.{40}".to_owned()], "4096 KiB"),
        ("alone", sixty(&|n| format!("/{n}([a-z]{{60}}[0-9]{{60}}){{4}}")), "1024 KiB"),
    ] {
        let refused = server.try_deploy(&routes(name, &paths));
        assert!(refused.status == 422 && refused.text().contains(figure), "{name}: {}", refused.text());
    }
    // What can be matched byte by byte is served as ever, beside literal paths and what other modules have.
    server.deploy(&routes("suffixes", &sixty(&|n| format!("/.*\\.x{n}"))));
    server.deploy(&routes("groups", &sixty(&|n| format!("/s/([a-z]*/)*{n}"))));
    server.deploy(&routes("words", &["/word".to_owned(), "/(one|two)/[0-9]{1,3}".to_owned()]));
    for (path, answer) in [
        ("/any/thing.x59", "suffixes"),
        ("/s/a/b/c/7", "groups"),
        ("/two/42", "words"),
        ("/word", "words"),
        ("/s/any.x1", "suffixes"),
    ] {
        assert_eq!(server.get(path).text(), answer, "{path}");
    }
    assert_eq!(server.get("/two/4242").status, 404);
    assert_eq!(server.post("/two/42", b"").header("allow").as_deref(), Some("GET, HEAD, OPTIONS"));
    assert_eq!(server.get(&format!("/s/{}x", "ab/".repeat(2600))).status, 404);
}

#[test]
fn an_operator_gets_in_whatever_clients_hold() {
    let server = Server::with(&["--connections-max", "3", "--shards", "1", "--admin-listen", "127.0.0.1:0"]);
    let log = server.log();
    let addresses = log.lines().filter_map(|line| line.strip_prefix("listening on http://"));
    let admin = addresses.filter_map(|addr| addr.strip_suffix(" (admin)")).next().unwrap();
    let mut held: Vec<support::Client> = (0..3).map(|_| server.connect()).collect();
    assert!(held.iter_mut().all(|client| client.get("/").status == 404));
    assert_eq!(server.connect().response().status, 503);
    let mut operator = support::Client::connect(admin);
    assert_eq!((operator.get("/healthz").status, operator.get("/mgnt").status), (200, 200));
}
