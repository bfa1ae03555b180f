//! What a person or a script is told: answers of `/mgnt`, exit codes, words.

use crate::support::{self, Server, eventually, module};
use serde_json::{Value, json};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

const CODE: &str = r#"
static int f(struct cweb_context *c, http_request_t *q, http_response_t *r) { (void)c; (void)q; strcpy(r->body, "here"); return 0; }
__attribute__((unused)) static int run(struct cweb_context *c, const job_payload_t *p, job_ctx_t *j) { (void)c; (void)p; return j->set_result(j, "1"); }
"#;

fn shop(extra: &str) -> String {
    let fields =
        r#".websockets = {{.path = "/shop/ws"}}, .ws_size = 1, .jobs = {{.name = "sum", .run = run}}, .job_size = 1,"#;
    let routes = r#"{"/shop","GET",f,NONE},{"^/shop/[0-9]+$","POST",f,NONE}"#;
    module("shop", &format!("{CODE}{extra}"), routes, 2, fields)
}

/// Runs `cweb ARGS` in `dir` with these variables and no others that matter.
fn cweb(dir: &Path, args: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cweb"));
    for name in ["PORT", "CWEB_ADMIN_KEY", "CWEB_SERVER", "CWEB_SHARDS", "CWEB_LOG"] {
        command.env_remove(name);
    }
    command.current_dir(dir).args(args).envs(env.iter().copied()).stdin(Stdio::null()).output().unwrap()
}

fn all_of(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("{output:?}"))
}

#[test]
fn a_deployment_is_answered_with_what_is_served_and_where() {
    let server = Server::start();
    // As the tests' client calls the server, whatever its address.
    let addr = "localhost";
    let deploy =
        |source: &str, headers: &[(&str, &str)]| server.connect().request("POST", "/mgnt", headers, source.as_bytes());
    let answer = deploy(&shop(""), &[]);
    let hash = answer.header("x-cweb-hash").unwrap();
    let rest = format!(
        " shop {}\nGET http://{addr}/shop\nPOST http://{addr}/shop/[0-9]+\nWS ws://{addr}/shop/ws\nJOB sum\n",
        &hash[..12]
    );
    assert_eq!(answer.text(), format!("deployed{rest}"));
    assert_eq!(deploy(&shop(""), &[]).text(), format!("unchanged{rest}"));
    // The compiler's warnings stay in the body.
    let warned = deploy(&shop("static int unused_one(void) { return 1; }"), &[]).text();
    assert!(warned.starts_with("deployed shop ") && warned.contains("unused_one"), "{warned}");
    let answer = deploy(&shop(""), &[("Accept", "Application/JSON, */*;q=0.1")]);
    assert_eq!(answer.header("content-type").as_deref(), Some("application/json"));
    let told: Value = serde_json::from_slice(&answer.body).unwrap();
    let expected = json!({
        "result": "deployed", "name": "shop", "module_hash": hash, "domain": told["domain"], "warnings": "",
        "version": 3, "libraries": [],
        "routes": [
            {"method": "GET", "path": "/shop", "url": format!("http://{addr}/shop")},
            {"method": "POST", "path": "^/shop/[0-9]+$", "url": format!("http://{addr}/shop/[0-9]+")},
        ],
        "websockets": [{"path": "/shop/ws", "url": format!("ws://{addr}/shop/ws")}],
        "jobs": [{"name": "sum"}],
    });
    assert_eq!(told, expected);
    let refused = deploy("int x = nonsense;", &[("Accept", "application/json")]);
    let told: Value = serde_json::from_slice(&refused.body).unwrap();
    assert!(refused.status == 422 && told["error"].as_str().unwrap().contains("nonsense"), "{told}");
    let empty = deploy(" ", &[("Accept", "application/json")]);
    assert!(empty.status == 400 && empty.text().starts_with("{\"error\":\"no source"), "{}", empty.text());
    let removed = server.connect().request("DELETE", "/mgnt/shop", &[], b"");
    assert_eq!((removed.status, removed.text().as_str()), (200, "removed shop\n"));
}

#[test]
fn an_address_of_their_own_for_mgnt_does_not_hide_where_modules_are() {
    let server = Server::with(&["--admin-listen", "127.0.0.1:0"]);
    let log = server.log();
    let line = log.lines().find(|line| line.ends_with("(admin)")).unwrap();
    let admin = line.rsplit_once("http://").unwrap().1.trim_end_matches(" (admin)");
    let answer = support::Client::connect(admin).request("POST", "/mgnt", &[], shop("").as_bytes());
    assert!(answer.text().contains(&format!("GET http://{}/shop\n", server.addr)), "{}", answer.text());
}

#[test]
fn the_command_prints_the_urls() {
    let (server, dir) = (Server::start(), tempfile::tempdir().unwrap());
    std::fs::write(dir.path().join("shop.c"), shop("static int unused_one(void) { return 1; }")).unwrap();
    let url = format!("http://{}", server.addr);
    let output = cweb(dir.path(), &["deploy", "shop.c", "--server", &url], &[]);
    let shown = all_of(&output);
    for line in [
        format!("  GET     {url}/shop\n"),
        format!("  POST    '{url}/shop/[0-9]+'\n"),
        format!("  WS      ws://{}/shop/ws\n", server.addr),
        "  JOB     sum\n".to_owned(),
        "warnings:\n".to_owned(),
        "shop.c:".to_owned(),
    ] {
        assert!(shown.contains(&line), "{line} in {shown}");
    }
    assert_eq!(code(&output), 0);
}

#[test]
fn one_set_of_exit_codes() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("shop.c"), shop("")).unwrap();
    std::fs::write(dir.path().join("bad.c"), "int x = nonsense;").unwrap();
    let commands: [&[&str]; 4] =
        [&["deploy", "shop.c"], &["modules"], &["modules", "remove", "shop"], &["jobs", "list"]];
    // Nobody listens there, and nobody who asks for a free port gets this one.
    let nobody = "127.0.0.1:1";
    for args in commands {
        let output = cweb(dir.path(), args, &[("CWEB_SERVER", nobody)]);
        assert_eq!(code(&output), 3, "{args:?}: {}", all_of(&output));
        let wrong = cweb(dir.path(), &[args, &["--nonsense"]].concat(), &[]);
        assert_eq!(code(&wrong), 2, "{args:?}: {}", all_of(&wrong));
    }
    let server = Server::on(
        &Arc::new(tempfile::tempdir().unwrap()),
        &["--production"],
        &[("CWEB_ADMIN_KEY", "secret-of-16-bytes")],
    );
    for args in commands {
        let none = cweb(dir.path(), args, &[("CWEB_SERVER", &server.addr)]);
        let wrong = cweb(dir.path(), args, &[("CWEB_SERVER", &server.addr), ("CWEB_ADMIN_KEY", "guess")]);
        assert_eq!((code(&none), code(&wrong)), (4, 4), "{args:?}: {}{}", all_of(&none), all_of(&wrong));
        assert!(all_of(&none).contains("set CWEB_ADMIN_KEY to the server's key"), "{}", all_of(&none));
        assert!(all_of(&wrong).contains("the server does not accept the key in CWEB_ADMIN_KEY"), "{}", all_of(&wrong));
    }
    let refused = server.get("/mgnt");
    assert!(refused.status == 401 && refused.text().contains("CWEB_ADMIN_KEY"), "{}", refused.text());
    let with_key = |args: &[&str]| {
        cweb(dir.path(), args, &[("CWEB_SERVER", &server.addr), ("CWEB_ADMIN_KEY", "secret-of-16-bytes")])
    };
    assert_eq!(code(&with_key(&["deploy", "bad.c", "shop.c"])), 1);
    assert_eq!(code(&with_key(&["modules", "remove", "nobody"])), 1);
    for args in commands {
        let output = with_key(args);
        assert_eq!(code(&output), 0, "{args:?}: {}", all_of(&output));
    }
    let guide = std::fs::read_to_string(support::root().join("docs/operations.md")).unwrap();
    assert!(guide.contains("## Exit codes"));
}

#[test]
fn cweb_alone_shows_its_help_and_words_that_are_nearly_right_are_guessed() {
    let dir = tempfile::tempdir().unwrap();
    let alone = cweb(dir.path(), &[], &[]);
    let shown = String::from_utf8_lossy(&alone.stdout).into_owned();
    assert!(code(&alone) == 2 && shown.contains("Usage: cweb") && shown.contains("Exit codes:"), "{}", all_of(&alone));
    assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none(), "no server has run");
    for (args, guess) in [(&["deplyo"][..], "deploy"), (&["serve", "--shard", "1"], "--shards")] {
        let output = cweb(dir.path(), args, &[]);
        let said = all_of(&output);
        assert!(code(&output) == 2 && said.contains("tip:") && said.contains(guess), "{said}");
    }
}

#[test]
fn all_problems_of_the_settings_are_told_at_once() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("cweb.toml"), "shards = \"many\"\nnonsense = 1\npipeline_max = 0\n").unwrap();
    std::fs::write(dir.path().join("keys.toml"), "[[key]]\n").unwrap();
    let args = [
        "serve",
        "--check",
        "--data-dir",
        ".",
        "--keys-file",
        "keys.toml",
        "--tls-cert",
        "no.crt",
        "--tls-key",
        "no.key",
    ];
    let output = cweb(dir.path(), &args, &[("PORT", "abc"), ("CWEB_EXECUTORS_MAX", "0")]);
    let said = all_of(&output);
    assert_eq!(code(&output), 1, "{said}");
    for words in ["PORT: ", "shards: ", "nonsense: ", "--pipeline-max", "--executors-max", "no.crt", "keys.toml"] {
        assert!(said.contains(words), "{words} in {said}");
    }
    // One fault of the file is told with its line.
    std::fs::write(dir.path().join("cweb.toml"), "silent = true\nshards = \"many\"\n").unwrap();
    let said = all_of(&cweb(dir.path(), &["serve", "--check", "--data-dir", "."], &[]));
    assert!(said.contains("line 2"), "{said}");
}

#[test]
fn errors_name_their_file() {
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("nowhere", dir.path().join("link")).unwrap();
    let output = cweb(dir.path(), &["serve", "--port", "0", "--data-dir", "link"], &[]);
    assert!(all_of(&output).contains("creating the data directory link: "), "{}", all_of(&output));
    // A directory where the record of the module is to be written.
    let server = Server::start();
    std::fs::create_dir_all(server.dir.path().join("modules/shop.json/x")).unwrap();
    let answer = server.try_deploy(&shop(""));
    assert!(answer.status == 500 && answer.text().contains("modules/shop.json"), "{}", answer.text());
}

#[test]
fn a_body_that_is_too_large_is_told_who_can_allow_it() {
    let server =
        Server::with(&["--body-bytes-max", "1000", "--mgnt-body-bytes-max", "2000", "--job-payload-bytes-max", "100"]);
    server.deploy(&module("up", CODE, r#"{"/up","POST",f,NONE}"#, 1, ""));
    let body = vec![b'x'; 3000];
    let answer = server.post("/up", &body);
    for words in ["CWEB_BODY_MIB", "--route-body-bytes-max", "--body-bytes-max"] {
        assert!(answer.status == 413 && answer.text().contains(words), "{}", answer.text());
    }
    // The limit of /mgnt is that of a job's payload, where that is larger.
    let mut client = server.connect();
    client.send(b"POST /mgnt HTTP/1.1\r\nHost: localhost\r\nContent-Length: 8388608\r\n\r\n");
    let answer = client.response();
    assert!(answer.status == 413 && answer.text().contains("--mgnt-body-bytes-max"), "{}", answer.text());
    let mut client = server.connect();
    client.send(b"POST /up HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.stream.write_all(&[format!("{:x}\r\n", body.len()).as_bytes(), &body, b"\r\n0\r\n\r\n"].concat()).unwrap();
    let answer = client.response();
    assert!(answer.status == 413 && answer.text().contains("CWEB_BODY_MIB"), "{}", answer.text());
}

#[test]
fn a_directory_that_modules_are_to_write_and_cannot_is_told_at_start() {
    let dirs = tempfile::tempdir().unwrap();
    let (closed, open) = (dirs.path().join("closed"), dirs.path().join("open"));
    for (dir, mode) in [(&closed, 0o555), (&open, 0o777)] {
        std::fs::create_dir(dir).unwrap();
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    std::fs::set_permissions(dirs.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let missing = dirs.path().join("missing");
    let paths = [&closed, &open, &missing].map(|dir| dir.to_str().unwrap());
    let mut args = vec!["--isolation", "process"];
    args.extend(paths.iter().flat_map(|path| ["--allow-write", path]));
    let server = Server::with(&args);
    for path in [paths[0], paths[2]] {
        server.expect_log(&format!("--allow-write {path}: modules can't write there"));
    }
    assert!(!server.log().contains(&format!("--allow-write {}:", paths[1])), "{}", server.log());
}

#[test]
fn glommio_is_refused_in_words() {
    let dir = tempfile::tempdir().unwrap();
    let output = cweb(dir.path(), &["serve", "--port", "0", "--reactor", "glommio"], &[]);
    assert!(
        code(&output) == 1 && all_of(&output).contains("--reactor glommio is not available"),
        "{}",
        all_of(&output)
    );
}

/// The UUID of a job that is done, and the number of its last event.
fn done_job(server: &Server) -> (String, i64) {
    server.deploy(&shop(""));
    let job: Value = serde_json::from_slice(&server.post("/jobs", br#"{"job":"sum"}"#).body).unwrap();
    let uuid = job["job_uuid"].as_str().unwrap().to_owned();
    eventually("the job is done", || server.get(&format!("/jobs/{uuid}")).text().contains("\"state\":\"done\""));
    let events = server.get(&format!("/jobs/{uuid}/events")).text();
    let events: Value = serde_json::from_str(&events).unwrap();
    let last = events["events"].as_array().unwrap().last().unwrap()["event_id"].as_i64().unwrap();
    (uuid, last)
}

#[test]
fn an_event_source_does_not_come_back_to_a_stream_that_it_has_seen() {
    let server = Server::start();
    let (uuid, last) = done_job(&server);
    let path = format!("/jobs/{uuid}/events");
    let ask = |after: i64, accept: &str| {
        let mut client = server.connect();
        let head =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\nLast-Event-ID: {after}\r\n\r\n");
        client.send(head.as_bytes());
        client.rest()
    };
    // All of it, then the last event alone, then nothing for ever.
    for (after, count) in [(0, 3), (last - 1, 1)] {
        let text = ask(after, "TEXT/Event-Stream");
        assert!(text.starts_with("HTTP/1.1 200 ") && text.contains("Content-Type: text/event-stream\r\n"), "{text}");
        assert!(text.contains("retry: 2000\n\n") && text.matches("\ndata: ").count() == count, "{text}");
    }
    for after in [last, last + 10] {
        let text = ask(after, "text/event-stream");
        assert!(text.starts_with("HTTP/1.1 204 ") && text.ends_with("\r\n\r\n"), "{text}");
        assert!(!text.contains("Content-Length") && !text.contains("Transfer-Encoding"), "{text}");
    }
    // The command takes it for the end that it is.
    let dir = tempfile::tempdir().unwrap();
    let args = ["jobs", "watch", &uuid, "--since", &last.to_string(), "--server", &server.addr];
    let output = cweb(dir.path(), &args, &[]);
    assert_eq!((code(&output), output.stdout.len()), (0, 0), "{}", all_of(&output));
}

#[test]
fn modules_have_files_of_a_moment() {
    let server = Server::start();
    let code = r#"
static int keep(struct cweb_context *c, http_request_t *q, http_response_t *r) {
    (void)c; (void)q;
    FILE *file = tmpfile();
    if (file == NULL) { return cweb_respond(r, (http_error_t)500, "text/plain", "tmpfile: %m"); }
    char text[8] = "";
    fputs("kept", file); rewind(file);
    if (fgets(text, sizeof text, file) == NULL) { strcpy(text, "lost"); }
    fclose(file);
    const char *dir = getenv("TMPDIR");
    char path[512];
    snprintf(path, sizeof path, "%s/own-XXXXXX", dir != NULL ? dir : "/tmp");
    int fd = mkstemp(path);
    if (fd < 0) { return cweb_respond(r, (http_error_t)500, "text/plain", "mkstemp: %m"); }
    remove(path); fclose(fdopen(fd, "w"));
    return cweb_respond(r, HTTP_200_OK, "text/plain", "%s", text);
}"#;
    server.deploy(&module("files", code, r#"{"/keep","GET",keep,NONE}"#, 1, ""));
    let answer = server.get("/keep");
    assert_eq!((answer.status, answer.text().as_str()), (200, "kept"));
}

/// Handlers whose answer is not the one that the client gets.
const ODD: &str = r#"
#include <cweb_stream.h>
#define H(name) static int name(struct cweb_context *c, http_request_t *q, http_response_t *r)
H(none) { (void)c; (void)q; strcpy(r->body, "text"); r->status = 999; return 0; }
H(elsewhere) { (void)c; (void)q; r->status = -404; return 0; }
H(switches) { (void)c; (void)q; r->status = 101; return 0; }
H(twice) { (void)c; (void)q; cweb_header(r, "Content-Length", "5"); if (cweb_begin(r, 200) != 0 || cweb_write(r, "first", 5) != 0) return -1;
  return cweb_respond(r, HTTP_200_OK, NULL, "second"); }
H(take) { (void)c; char piece[4096]; long got; while ((got = (long)cweb_read(q, piece, sizeof piece)) > 0) {}
  if (got < 0) return -1;
  strcpy(r->body, "taken"); return 0; }
"#;

#[test]
fn answers_that_no_client_gets_are_told_to_the_author() {
    let server = Server::start();
    let routes =
        r#"{"/none","GET",none,NONE},{"/twice","GET",twice,NONE},{"/take","POST",take,CWEB_STREAM | CWEB_BODY_MIB(1)}"#;
    assert_eq!(server.post("/mgnt", module("odd", ODD, routes, 3, "").as_bytes()).status, 200);
    let told = |text: &str| server.get("/mgnt/odd/logs").text().matches(text).count();
    for _ in 0..2 {
        assert_eq!(server.get("/none").status, 500);
        assert_eq!(server.get("/twice").text(), "first");
    }
    let (status, second) =
        ("GET /none: the handler has set res->status = 999", "GET /twice: the handler has begun its answer");
    eventually("both are told", || told(status) > 0 && told(second) > 0);
    assert_eq!((told(status), told(second)), (1, 1), "once");
    // Only a fallback route can leave a request to others, and only a handshake can be accepted.
    for (name, status) in [("elsewhere", "-404"), ("switches", "101")] {
        let source = module(name, ODD, &format!(r#"{{"/{name}","GET",{name},NONE}}"#), 1, "");
        assert_eq!(server.post("/mgnt", source.as_bytes()).status, 200);
        assert_eq!(server.get(&format!("/{name}")).status, 500);
        let (logs, line) =
            (format!("/mgnt/{name}/logs"), format!("GET /{name}: the handler has set res->status = {status}"));
        eventually("that is told", || server.get(&logs).text().contains(&line));
    }
    // A handler that only returns -1 is answered by what was wrong with the body.
    let ask = |server: &Server, head: &str, body: &[u8]| {
        let mut client = server.connect();
        client.send(format!("POST /take HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n").as_bytes());
        // The server may close before it has all.
        let _ = client.stream.write_all(body);
        let answer = client.response();
        (answer.status, answer.text())
    };
    let chunk = [b"10000\r\n".to_vec(), vec![b'x'; 0x10000], b"\r\n".to_vec()].concat();
    for (head, body, status, text) in [
        (
            "Transfer-Encoding: chunked",
            [chunk.repeat(20), b"0\r\n\r\n".to_vec()].concat(),
            413,
            "the body is larger than this route may take\n",
        ),
        ("Transfer-Encoding: chunked", b"3\r\nabc\r\nxyz\r\n".to_vec(), 400, "the body is malformed\n"),
    ] {
        assert_eq!(ask(&server, head, &body), (status, text.to_owned()));
    }
    let mut client = server.connect();
    client.send(b"POST /take HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc");
    client.finish();
    let (answer, text) = (client.response(), "the client has closed its side before the end of the body\n");
    assert_eq!((answer.status, answer.text().as_str()), (400, text));
    let server = Server::with(&["--body-timeout-ms", "1000"]);
    assert_eq!(server.post("/mgnt", module("odd", ODD, routes, 3, "").as_bytes()).status, 200);
    assert_eq!(ask(&server, "Content-Length: 10", b"slow"), (408, "the body came too slowly\n".to_owned()));
}

#[test]
fn an_onload_that_crashes_is_answered_with_its_line() {
    let server = Server::with(&["--isolation", "process"]);
    let code = "static int *nowhere;\n__attribute__((noinline)) static void store(int *at) { *(volatile int *)at = 1; }\n\
                static void load(struct cweb_context *c) { (void)c; store(nowhere); __asm__ volatile(\"\"); }\nHANDLER(f, \"x\")\n";
    let source = module("loads", code, r#"{"/loads","GET",f,NONE}"#, 1, ".onload = load,");
    let refused = server.post("/mgnt", source.as_bytes());
    let line = 1 + source.lines().position(|line| line.contains("static void store")).unwrap();
    let text = refused.text();
    assert_eq!(refused.status, 422, "{text}");
    assert!(text.contains("module loads failed in onload: SIGSEGV at address 0x0 at store"), "{text}");
    assert!(text.contains(&format!("module.c:{line}")) && text.contains("#1 load"), "{text}");
}
