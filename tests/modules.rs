//! Deploying, refusing, listing, removing, persisting.

use crate::support::{self, Mount, Server, constant, cweb, eventually, module, root};
use std::sync::Arc;

fn names(server: &Server) -> Vec<String> {
    let json: serde_json::Value = serde_json::from_slice(&server.get("/mgnt").body).unwrap();
    let modules = json["modules"].as_array().unwrap();
    modules.iter().map(|module| module["name"].as_str().unwrap().to_owned()).collect()
}

/// Deploys `source`, expects `status` and a text, and that nothing else has changed.
fn refused(server: &Server, source: &str, status: u16, text: &str) {
    let before = (names(server), server.get("/keep").text());
    let response = server.try_deploy(source);
    assert_eq!(response.status, status, "{}\n{source}", response.text());
    assert!(response.text().contains(text), "\"{text}\" is not in: {}", response.text());
    assert_eq!((names(server), server.get("/keep").text()), before);
}

fn with_keep() -> Server {
    let server = Server::start();
    server.deploy(&constant("keep", "/keep", "kept"));
    server
}

#[test]
fn bad_sources_get_a_clear_answer_and_change_nothing() {
    let server = with_keep();
    let good = constant("m", "/m", "m");
    refused(&server, "int main(", 422, "module.c:1:");
    refused(&server, "", 400, "no source");
    refused(&server, "#include <nothing.h>\n", 422, "nothing.h");
    refused(&server, "int x;", 422, "not compiled with cweb.h");
    refused(&server, "#include <cweb.h>\nint x;", 422, "exports no symbol `config`");
    refused(&server, &constant("", "/m", "m"), 422, "name is empty");
    refused(&server, &good.replace(".name = \"m\"", &format!(".name = \"{}\"", "n".repeat(128))), 422, "127 bytes");
    refused(&server, &good.replace(".size = 1", ".size = 65"), 422, "MAX_ROUTES");
    refused(&server, &good.replace(".size = 1", ".size = -1"), 422, "size is -1");
    refused(&server, &good.replace(".size = 1", ".size = 2"), 422, "routes[1].path is NULL");
    refused(&server, &good.replace("h, NONE", "NULL, NONE"), 422, "no handler");
    refused(&server, &good.replace("\"GET\"", "\"BREW\""), 422, "BREW");
    refused(&server, &good.replace("\"/m\"", "\"/(a)\\\\1\""), 422, "back-references");
    refused(&server, &good.replace("\"/m\"", "\"/jobs/x\""), 422, "server's own");
    let gnu = good.replace("HANDLER(h, \"m\")", "static int h(struct cweb_context *c, http_request_t *q, http_response_t *r) { (void)c; (void)q; r->status = memfd_create(\"m\", 0); return 0; }");
    refused(&server, &gnu, 422, "#define _GNU_SOURCE before the first #include");
    refused(
        &server,
        &good.replace("export module_t", "int nowhere(void); int (*f)(void) = nowhere;\nexport module_t"),
        422,
        "module.c:5: error: 'nowhere' is declared, but defined nowhere",
    );
    refused(
        &server,
        &module(
            "m",
            "__attribute__((constructor)) static void k(void) { volatile int *volatile nowhere = 0; *nowhere = 1; }",
            "",
            0,
            "",
        ),
        422,
        "SIGSEGV",
    );
    refused(
        &server,
        &module("m", "__attribute__((constructor)) static void k(void) { exit(3); }", "", 0, ""),
        422,
        "constructor",
    );
    refused(
        &server,
        &module("m", "static void l(struct cweb_context *c) { (void)c; abort(); }", "", 0, ".onload = l,"),
        422,
        "abort",
    );
    refused(
        &server,
        &module("m", "static void l(struct cweb_context *c) { (void)c; exit(4); }", "", 0, ".onload = l,"),
        422,
        "exit(4)",
    );
    refused(&server, &constant("other", "/keep", "x"), 409, "module keep");
    let form = [("Content-Type", "multipart/form-data; boundary=B")];
    let none = server.connect().request(
        "POST",
        "/mgnt",
        &form,
        b"--B\r\nContent-Disposition: form-data; name=x\r\n\r\ny\r\n--B--",
    );
    assert_eq!(none.status, 400);
    assert!(none.text().contains("code"));
    support::eventually("refused uploads leave no files behind", || server.compilations_left() == 0);
    // An update is checked like a first deployment.
    server.deploy(&constant("second", "/second", "2"));
    refused(&server, &constant("second", "/keep", "x"), 409, "module keep");
    assert_eq!(server.get("/second").text(), "2");
}

#[test]
fn a_compiler_that_runs_away_is_stopped() {
    let server = Server::with(&["--compile-timeout-ms", "700"]);
    let endless =
        "#define A(x) B(x x)\n#include \"/dev/stdin\"\nstatic const char a[] = { \n#include \"/dev/zero\"\n};";
    let response = server.try_deploy(endless);
    assert_eq!(response.status, 422, "{}", response.text());
    assert_eq!(server.get("/healthz").status, 200);
}

#[test]
fn warnings_are_returned_and_the_same_source_changes_nothing() {
    let server = with_keep();
    let source = constant("w", "/w", "w").replace("export module_t", "static int unused_one;\nexport module_t");
    let first = server.deploy(&source);
    assert!(first.text().contains("unused_one"), "{}", first.text());
    let again = server.deploy(&source);
    assert_eq!(again.header("x-cweb-result").as_deref(), Some("unchanged"));
    assert_eq!(first.header("x-cweb-hash"), again.header("x-cweb-hash"));
    let form = format!(
        "--B\r\nContent-Disposition: form-data; name=\"code\"; filename=\"w.c\"\r\n\r\n{}\r\n--B--\r\n",
        source.replace("\"w\")", "\"v2\")")
    );
    let updated = server.connect().request(
        "POST",
        "/mgnt",
        &[("Content-Type", "multipart/form-data; boundary=B")],
        form.as_bytes(),
    );
    assert_eq!(updated.status, 200, "{}", updated.text());
    assert_eq!(server.get("/w").text(), "v2");
    assert_eq!(names(&server), ["keep", "w"]);
}

#[test]
fn the_list_has_the_shape_that_tools_expect() {
    let server = Server::start();
    server.deploy_file("example/sum_job.c");
    server.deploy_file("example/websocket_echo.c");
    let json: serde_json::Value = serde_json::from_slice(&server.get("/mgnt").body).unwrap();
    let sum = &json["modules"][0];
    for key in ["name", "author", "path", "module_hash"] {
        assert!(sum[key].is_string(), "{key}");
    }
    assert_eq!(sum["module_hash"].as_str().unwrap().len(), 64);
    assert!(sum["routes"][0]["path"].is_string() && sum["routes"][0]["method"].is_string());
    assert_eq!(sum["jobs"][0]["name"], "sum");
    assert!(json["modules"][1]["websockets"][0]["path"].is_string());
}

#[test]
fn removal_by_name() {
    let server = with_keep();
    server.deploy(&constant("a b/c", "/x", "x"));
    let delete = |path: &str| server.connect().request("DELETE", path, &[], b"").status;
    assert_eq!(delete("/mgnt/nope"), 404);
    assert_eq!(delete("/mgnt/a%20b%2Fc"), 200);
    assert_eq!((server.get("/x").status, server.get("/keep").status), (404, 200));
    assert_eq!(delete("/mgnt/a%20b%2Fc"), 404);
    assert_eq!(delete("/mgnt"), 405);
    server.deploy(&constant("new", "/x", "free again"));
}

#[test]
fn modules_survive_a_restart_and_a_broken_one_is_skipped() {
    let mut first = with_keep();
    first.deploy(&constant("two", "/two", "2"));
    first.deploy(&constant("three", "/three", "3"));
    first.deploy(&constant("three", "/three", "3b"));
    first.terminate();
    let modules = first.dir.path().join("modules");
    let two = std::fs::read_to_string(modules.join("two.json")).unwrap();
    std::fs::write(modules.join("two.json"), &two[..two.len() / 2]).unwrap();
    let second = Server::on(&first.dir, &[], &[]);
    assert_eq!(names(&second), ["keep", "three"]);
    assert_eq!(second.get("/three").text(), "3b");
    second.expect_log("two.json");
    drop(second); // by SIGKILL
    let mut third = Server::on(&first.dir, &["--purge-modules"], &[]);
    assert_eq!(names(&third), ["keep", "three"]);
    third.terminate();
    assert!(names(&Server::on(&first.dir, &[], &[])).is_empty());
}

#[test]
fn parallel_deployments_lose_no_module() {
    let server = Arc::new(Server::start());
    let threads: Vec<_> = (0..8)
        .map(|n| {
            let server = Arc::clone(&server);
            std::thread::spawn(move || {
                server.deploy(&constant(&format!("m{n}"), &format!("/m{n}"), &format!("answer {n}")));
                // Two of one name at once: both are accepted, and one of them is served.
                server.deploy(&constant("shared", "/shared", &format!("by {n}")));
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    for n in 0..8 {
        assert_eq!(server.get(&format!("/m{n}")).text(), format!("answer {n}"));
    }
    assert!(server.get("/shared").text().starts_with("by "));
    assert_eq!(names(&server).len(), 9);
}

#[test]
fn a_full_disk_refuses_and_keeps_what_there_is() {
    let Some(mount) = Mount::tmpfs("2m") else {
        eprintln!("not run: no file system can be mounted here");
        return;
    };
    let dir = mount.directory();
    let server = Server::on(&dir, &[], &[]);
    server.deploy(&constant("keep", "/keep", "kept"));
    let filler = dir.path().join("filler");
    let _ = std::fs::write(&filler, vec![0; 4 << 20]);
    let response = server.try_deploy(&constant("late", "/late", "late"));
    assert!(response.status == 507 || response.status == 422, "{} {}", response.status, response.text());
    assert_eq!((names(&server), server.get("/keep").text()), (vec!["keep".to_owned()], "kept".to_owned()));
    std::fs::remove_file(&filler).unwrap();
    server.deploy(&constant("late", "/late", "late"));
}

#[test]
fn the_admin_key_guards_production_and_strangers_in_the_browser() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let server = Server::on(&dir, &["--production"], &[("CWEB_ADMIN_KEY", "secret-of-16-bytes")]);
    let status = |headers: &[(&str, &str)]| server.connect().request("GET", "/mgnt", headers, b"").status;
    assert_eq!(status(&[]), 401);
    assert_eq!(status(&[("X-API-Key", "wrong")]), 401);
    assert_eq!(status(&[("X-API-Key", "secret-of-16-bytes")]), 200);
    assert_eq!(status(&[("Authorization", "Bearer secret-of-16-bytes")]), 200);
    assert_eq!(server.post("/mgnt", constant("x", "/x", "x").as_bytes()).status, 401);
    assert_eq!(server.get("/healthz").status, 200);
    let open = Server::start();
    let foreign = open.connect().request("POST", "/mgnt", &[("Origin", "http://evil.test")], b"int x;");
    assert_eq!(foreign.status, 403);
    let (ok, text) = cweb(&["serve", "--production"], dir.path(), &[]);
    assert!(!ok && text.contains("openssl rand"), "{text}");
}

#[test]
fn the_command_line_deploys_and_lists() {
    let server = Server::start();
    let url = format!("http://{}", server.addr);
    let dir = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| cweb(args, dir.path(), &[("CWEB_SERVER", &url)]);
    let (ok, text) = run(&["new", "starter"]);
    assert!(ok && text.contains("starter.c"), "{text}");
    assert!(!run(&["new", "starter"]).0, "an existing file is not overwritten");
    let (ok, text) = run(&["deploy", "starter.c"]);
    assert!(ok && text.contains("module starter") && text.contains("1 of 1"), "{text}");
    assert_eq!(server.get("/starter?who=you").text(), "Hello, you!\n");
    std::fs::write(dir.path().join("bad.c"), "int x").unwrap();
    let (ok, text) = run(&["deploy", "starter.c", "bad.c", "missing.c"]);
    assert!(!ok && text.contains("bad.c:1") && text.contains("1 of 3"), "{text}");
    std::fs::write(dir.path().join("routes.ini"), format!("server_url={url}\n[modules]\nstarter.c\n")).unwrap();
    let (ok, text) = cweb(&["deploy"], dir.path(), &[]);
    assert!(ok && text.contains("unchanged"), "{text}");
    let (ok, text) = run(&["modules"]);
    assert!(ok && text.contains("starter") && text.contains("/starter") && text.contains("1 module(s)"), "{text}");
    assert!(run(&["modules", "remove", "starter"]).0);
    assert!(!run(&["modules", "remove", "starter"]).0);
    let (ok, text) = cweb(&["deploy", "starter.c", "--server", "http://127.0.0.1:1"], dir.path(), &[]);
    assert!(!ok && text.contains("cweb serve"), "{text}");
    let script = std::process::Command::new("sh")
        .arg(root().join("scripts/cweb"))
        .args(["deploy", "starter.c"])
        .current_dir(dir.path())
        .env("CWEB_SERVER", &url)
        .output()
        .unwrap();
    assert!(script.status.success(), "{}", String::from_utf8_lossy(&script.stderr));
    assert_eq!(names(&server), ["starter"]);
}

#[test]
fn a_new_version_keeps_its_place_after_a_restart() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let server = Server::on(&dir, &[], &[]);
    let overlapping = |name: &str, path: &str, text: &str| constant(name, path, text);
    server.deploy(&overlapping("first", "/p/[a-z]+", "first"));
    server.deploy(&overlapping("second", "/p/[a-f]+", "second"));
    server.deploy(&overlapping("first", "/p/[a-z]+", "first, again"));
    assert_eq!(server.get("/p/abc").text(), "first, again");
    server.stop();
    let server = Server::on(&dir, &[], &[]);
    assert_eq!(server.get("/p/abc").text(), "first, again");
}

#[test]
fn what_a_module_declares_twice_is_accepted_and_the_first_counts() {
    let server = Server::start();
    let code = r#"
#define H(f) static int f(struct cweb_context *c, http_request_t *q, http_response_t *r)
H(one) { (void)c; (void)q; strcpy(r->body, "first"); return 0; }
H(two) { (void)c; (void)q; strcpy(r->body, "second"); return 0; }
static void open_one(struct cweb_context *c, websocket_t *w) { (void)c; w->send(w, "first", 5); }
static void open_two(struct cweb_context *c, websocket_t *w) { (void)c; w->send(w, "second", 6); }
static int run_one(struct cweb_context *c, const job_payload_t *p, job_ctx_t *j) { (void)c; (void)p; return j->set_result(j, "\"first\""); }
static int run_two(struct cweb_context *c, const job_payload_t *p, job_ctx_t *j) { (void)c; (void)p; return j->set_result(j, "\"second\""); }
"#;
    let routes = r#"{"/a","GET",one,NONE},{"/a","GET",two,NONE},{"/[bc]","GET",one,NONE},{"/[bc]","GET",two,NONE}"#;
    let rest = r#".websockets = {{"/ws", open_one, NULL, NULL}, {"/ws", open_two, NULL, NULL}}, .ws_size = 2,
        .jobs = {{"j", run_one, NULL}, {"j", run_two, NULL}}, .job_size = 2,"#;
    let warnings = server.deploy(&module("twice", code, routes, 4, rest)).text();
    for declared in ["GET /a", "GET /[bc]", "the WebSocket path /ws", "the job j"] {
        assert!(warnings.contains(&format!("warning: {declared} is declared twice")), "{warnings}");
    }
    assert_eq!((server.get("/a").text(), server.get("/b").text()), ("first".into(), "first".into()));
    assert_eq!(server.websocket("/ws").read().unwrap().into_text().unwrap(), "first");
    let job: serde_json::Value = serde_json::from_slice(&server.post("/jobs", br#"{"job":"j"}"#).body).unwrap();
    let status = format!("/jobs/{}", job["job_uuid"].as_str().unwrap());
    eventually("the job is done", || server.get(&status).text().contains("\"result\":\"first\""));
}

#[test]
fn a_pattern_gets_what_modules_before_it_leave() {
    let mut server = Server::start();
    let (one, all) = (constant("one", "/x/1", "one"), constant("all", "/.*", "all"));
    server.deploy(&one);
    server.deploy(&constant("numbers", "/x/[0-9]+", "numbers"));
    server.deploy(&all);
    let taken = server.try_deploy(&constant("two", "/x/2", "two"));
    assert!(taken.status == 409 && taken.text().contains("already served by module numbers"), "{}", taken.text());
    // A new version keeps its place, and what it had.
    server.deploy(&one.replace("\"one\")", "\"new one\")"));
    let served = |server: &Server| ["/x/1", "/x/2", "/y", "/"].map(|path| server.get(path).text());
    let expected = ["new one", "numbers", "all", "all"];
    assert_eq!(served(&server), expected);
    let covering = server.try_deploy(&one.replace("\"/x/1\"", "\"/x/.\""));
    assert!(covering.status == 409, "{}", covering.text());
    server.terminate();
    let again = Server::on(&server.dir, &[], &[]);
    assert_eq!(names(&again), ["one", "numbers", "all"]);
    assert_eq!(served(&again), expected);
}
