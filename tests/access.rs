//! Who may use /mgnt, /jobs and /metrics: keys and scopes, guesses, pages in a browser, addresses of their own, the audit.

use crate::support::{self, Client, PATIENCE, Response, Server, constant, eventually, module, signal};
use socket2::{Domain, Socket, Type};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

const ADMIN_KEY: &str = "the-key-that-may-do-everything";

/// A module with a job.
fn words() -> String {
    let run = "static int run(struct cweb_context *c, const job_payload_t *p, job_ctx_t *j) {
                   (void)c, (void)p; return j->set_result(j, \"1\"); }
               HANDLER(h, \"words\")";
    let fields = ".jobs = {{.name = \"count\", .run = run}}, .job_size = 1";
    module("words", run, "{\"/words\", \"GET\", h, NONE}", 1, fields)
}

/// A file of keys, closed to others.
fn keys_file(dir: &Path, text: &str) -> PathBuf {
    let path = dir.join("keys.toml");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    path
}

/// The key that [`entry`] describes.
fn key(name: &str) -> String {
    format!("the-secret-key-of-{name}")
}

fn entry(name: &str, scopes: &str) -> String {
    format!("[[key]]\nname = \"{name}\"\nkey = \"{}\"\nscopes = [{scopes}]\n", key(name))
}

/// A server in production with the admin key, a file of keys and further flags.
fn production(file: &str, args: &[&str]) -> Server {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let path = keys_file(dir.path(), file);
    let args = [&["--production", "--keys-file", path.to_str().unwrap()], args].concat();
    Server::on(&dir, &args, &[("CWEB_ADMIN_KEY", ADMIN_KEY)])
}

fn ask(server: &Server, request: &str, key: &str) -> Response {
    send(&mut server.connect(), request, &[("X-API-Key", key)], b"")
}

/// `request` is a method and a target.
fn send(client: &mut Client, request: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
    let (method, target) = request.split_once(' ').unwrap();
    client.request(method, target, headers, body)
}

fn deploy(server: &Server, key: &str, source: &str) -> Response {
    send(&mut server.connect(), "POST /mgnt", &[("X-API-Key", key)], source.as_bytes())
}

/// A connection from another address of this machine.
fn connect_from(server: &Server, from: &str) -> Client {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&format!("{from}:0").parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.connect(&server.addr.parse::<SocketAddr>().unwrap().into()).unwrap();
    let mut client = Client::connect(&server.addr);
    client.stream = socket.into();
    client.stream.set_read_timeout(Some(PATIENCE)).unwrap();
    client
}

fn cweb(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cweb"));
    command.current_dir(dir).args(args).env_remove("CWEB_ADMIN_KEY").env_remove("CWEB_LOG").output().unwrap()
}

/// What a server says that is expected not to start.
fn refusal(dir: &Path, args: &[&str]) -> String {
    let output = cweb(dir, &[&["serve", "--port", "0"], args].concat());
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

const HANDSHAKE: [(&str, &str); 4] = [
    ("Upgrade", "websocket"),
    ("Connection", "Upgrade"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
];

fn audit_lines(server: &Server) -> Vec<String> {
    server.log().lines().filter(|line| line.contains("INFO audit: ")).map(str::to_owned).collect()
}

fn metric(server: &Server, line: &str) -> u64 {
    let text = connect_from(server, "127.0.0.77").request("GET", "/metrics", &[("X-API-Key", ADMIN_KEY)], b"").text();
    let value = text.lines().find_map(|found| found.strip_prefix(line)).unwrap_or_else(|| panic!("{line}: {text}"));
    value.trim().parse().unwrap()
}

#[test]
fn a_module_that_could_not_be_loaded_keeps_its_owner_and_its_domain() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let file = entry("one", "\"deploy\"") + &entry("two", "\"deploy\"") + &entry("tenant", "\"deploy:image/*\"");
    let path = keys_file(dir.path(), &file);
    let start = || Server::on(&dir, &["--isolation", "process", "--keys-file", path.to_str().unwrap()], &[]);
    let server = start();
    let code = "#include <unistd.h>\nstatic void load(struct cweb_context *c) { (void)c; if (access(\"static/flag\", F_OK) == 0) abort(); }\n\
        HANDLER(h, \"flaky\")";
    let flaky = module("flaky", code, "{\"/flaky\", \"GET\", h, NONE}", 1, ".onload = load");
    let first = deploy(&server, &key("one"), &flaky);
    assert_eq!(first.status, 200, "{}", first.text());
    server.stop();
    std::fs::create_dir_all(dir.path().join("static")).unwrap();
    std::fs::write(dir.path().join("static/flag"), "").unwrap();
    let server = start();
    server.expect_log("module flaky is skipped");
    let other = constant("flaky", "/flaky", "another");
    let into = |key: &str, target: &str| {
        send(&mut server.connect(), &format!("POST {target}"), &[("X-API-Key", key)], other.as_bytes())
    };
    let refused = into(&key("tenant"), "/mgnt?domain=image&take_over=1");
    assert!(refused.status == 403 && refused.text().contains("in domain default"), "{}", refused.text());
    let refused = into(&key("two"), "/mgnt");
    assert!(refused.status == 409 && refused.text().contains("by the key one"), "{}", refused.text());
    assert_eq!(into(&key("one"), "/mgnt").status, 200);
}

#[test]
fn a_key_for_some_modules_reaches_no_others_and_one_that_has_ended_none() {
    let ended = entry("ended", "\"read\"") + "expires = 2020-02-29T12:00:00Z\n";
    let coming = entry("coming", "\"read\"") + "expires = 9999-02-28T12:00:00Z\n";
    let file = entry("some", "\"deploy:shop*\", \"jobs:words\", \"read:shop\", \"read:words\"")
        + &entry("tenant", "\"deploy:image/*\", \"read:image/*\"");
    let server = production(&(file + &ended + &coming), &[]);
    let refused = |answer: &Response, status: u16, words: &str| {
        assert!(
            answer.status == status && answer.text().contains(words),
            "{words}: {} {}",
            answer.status,
            answer.text()
        );
    };
    for source in [words(), constant("other", "/other", "1")] {
        assert_eq!(deploy(&server, ADMIN_KEY, &source).status, 200);
    }
    let some = key("some");
    assert_eq!(deploy(&server, &some, &constant("shop", "/shop", "1")).status, 200);
    assert_eq!(deploy(&server, &some, &constant("shopping", "/shopping", "1")).status, 200);
    let other = constant("other", "/other", "2");
    refused(&deploy(&server, &some, &other), 403, "not for module other in domain default");
    // Nor the source that is served: the answer would be "unchanged", and deployments under way would count as older.
    refused(&deploy(&server, &some, &constant("other", "/other", "1")), 403, "not for module other in domain default");
    refused(&ask(&server, &format!("POST /mgnt?take_over=1&code={other}"), &some), 400, "");
    for request in [
        "DELETE /mgnt/other",
        "DELETE /mgnt/%6fther",
        "POST /mgnt/other/restart",
        "POST /mgnt/other/rollback",
        "POST /mgnt/other/sanitize?with=address",
        "PUT /mgnt/other/settings/A",
        "PUT /mgnt/other/secrets/A",
        "GET /mgnt/other/source",
        "GET /mgnt/other",
        "GET /mgnt/other/logs",
        "GET /mgnt/shopping",
    ] {
        refused(&ask(&server, request, &some), 403, "is not for the module");
    }
    let stream = [("X-API-Key", some.as_str()), ("Accept", "text/event-stream")];
    refused(&send(&mut server.connect(), "GET /mgnt/other/logs", &stream, b""), 403, "is not for the module other");
    // Requests about all modules, and paths that could be read as those of another module.
    for request in [
        "GET /mgnt",
        "GET /metrics",
        "POST /metrics",
        "GET /jobs",
        "POST /jobs/retry?module=words",
        "DELETE /mgnt/shop/other",
        "PUT /mgnt/shop/settings/a/settings/A",
    ] {
        refused(&ask(&server, request, &some), 403, "is for some modules only");
    }
    for request in ["GET /mgnt/shop", "GET /mgnt/shop/logs", "GET /mgnt/shop/source", "DELETE /mgnt/shopping"] {
        assert_eq!(ask(&server, request, &some).status, 200, "{request}");
    }
    let submit = |body: &str| send(&mut server.connect(), "POST /jobs", &[("X-API-Key", &some)], body.as_bytes());
    let job = submit("{\"module\":\"words\",\"job\":\"count\"}");
    assert_eq!(job.status, 200, "{}", job.text());
    let uuid = job.text().split('"').nth(3).unwrap().to_owned();
    assert_eq!(ask(&server, &format!("GET /jobs/{uuid}"), &some).status, 200);
    // Jobs of other modules are not found, whatever is known of them.
    let letters = words().replace("words", "letters").replace("\"count\"", "\"spell\"");
    assert_eq!(deploy(&server, ADMIN_KEY, &letters).status, 200);
    let admin = [("X-API-Key", ADMIN_KEY)];
    let others = send(&mut server.connect(), "POST /jobs", &admin, b"{\"job\":\"spell\"}").text();
    let others = others.split('"').nth(3).unwrap().to_owned();
    for request in ["GET /jobs/UUID", "GET /jobs/UUID/events", "GET /jobs/UUID/files", "POST /jobs/UUID/cancel"] {
        refused(&ask(&server, &request.replace("UUID", &others), &some), 404, "there is no such job");
    }
    let streamed = |uuid: &str| send(&mut server.connect(), &format!("GET /jobs/{uuid}/events"), &stream, b"");
    refused(&streamed(&others), 404, "there is no such job");
    assert_eq!(streamed(&uuid).status, 200);
    // A list is for it if it is one of a module that it may read; the first `module` counts, as in the list itself.
    for list in [
        "/jobs?",
        "/jobs/?limit=9&",
        "/jobs?state=pending&",
        "/jobs/events?cursor=start&",
        "/jobs/kinds?",
        "/jobs/schedules?",
    ] {
        let listed = ask(&server, &format!("GET {list}module=words&module=letters"), &some);
        assert_eq!(listed.status, 200, "{list}: {}", listed.text());
        assert!(!listed.text().contains("letters") && !listed.text().contains(&others), "{list}: {}", listed.text());
        for not in ["module=letters", "module=letters&module=words", "module=nobody"] {
            refused(&ask(&server, &format!("GET {list}{not}"), &some), 403, "is not for the module");
        }
        for not in ["", "module=", "module=&module=words", "Module=words"] {
            refused(&ask(&server, &format!("GET {list}{not}"), &some), 403, "?module=NAME");
        }
    }
    assert!(ask(&server, "GET /jobs?module=words", &some).text().contains(&uuid));
    refused(
        &send(&mut server.connect(), "GET /jobs/events?module=letters", &stream, b""),
        403,
        "is not for the module",
    );
    let socket = [&HANDSHAKE[..], &[("X-API-Key", some.as_str())]].concat();
    for (module, status) in [("letters", 403), ("words", 101)] {
        let target = format!("GET /jobs/events?module={module}");
        assert_eq!(send(&mut server.connect(), &target, &socket, b"").status, status, "{module}");
    }
    // Those of its own it follows and cancels, and no more.
    assert_ne!(ask(&server, &format!("POST /jobs/{uuid}/cancel"), &some).status, 403);
    for request in [format!("DELETE /jobs/{uuid}"), format!("POST /jobs/{uuid}/retry")] {
        refused(&ask(&server, &request, &some), 403, "is for some modules only");
    }
    refused(&submit("{\"module\":\"shop\",\"job\":\"count\"}"), 403, "is not for the module shop");
    refused(&submit("{\"job\":\"count\"}"), 400, "needs a submission that names the module");
    refused(&submit("{\"module\":\"words\",\"module\":\"shop\",\"job\":\"count\"}"), 400, "duplicate field");
    if support::isolation() == "process" {
        let tenant = key("tenant");
        let into = |domain: &str, source: &str| {
            send(&mut server.connect(), &format!("POST /mgnt{domain}"), &[("X-API-Key", &tenant)], source.as_bytes())
        };
        let picture = constant("picture", "/picture", "1");
        assert_eq!(into("?domain=image", &picture).status, 200);
        assert_eq!(ask(&server, "GET /mgnt/picture", &tenant).status, 200);
        // Jobs of an earlier module of that name, in a domain of others, would be in the list.
        refused(&ask(&server, "GET /jobs?module=picture", &tenant), 403, "the request needs the scope read:picture");
        refused(&into("", &constant("free", "/free", "1")), 403, "in domain default");
        refused(&into("?domain=images", &picture), 403, "in domain images");
        // A key for a module leaves it in its domain: there the secrets of others can be reached.
        let shop = constant("shop", "/shop", "2");
        let moved = send(&mut server.connect(), "POST /mgnt?domain=image", &[("X-API-Key", &some)], shop.as_bytes());
        refused(&moved, 403, "shop in domain image");
        // What was set for a module before it came is not for a module of that name in some domain.
        let secret = [("X-API-Key", ADMIN_KEY)];
        assert_eq!(send(&mut server.connect(), "PUT /mgnt/payments/secrets/TOKEN", &secret, b"x").status, 200);
        refused(&into("?domain=image", &constant("payments", "/payments", "1")), 403, "payments in domain image");
        // A module of others can't be fetched into the domain either.
        refused(&into("?domain=image&take_over=1", &other), 403, "other in domain default");
        assert_eq!(ask(&server, "POST /mgnt/picture/restart", &tenant).status, 200);
        refused(&ask(&server, "POST /mgnt/other/restart", &tenant), 403, "is not for the module other");
        refused(&ask(&server, "PUT /mgnt/nobody/settings/A", &tenant), 403, "is not for the module nobody");
    }
    assert_eq!(ask(&server, "GET /other", ADMIN_KEY).text(), "1");
    refused(&ask(&server, "GET /mgnt", &key("ended")), 401, "the key ended has expired at 2020-02-29T12:00:00Z");
    assert_eq!(ask(&server, "GET /mgnt", &key("coming")).status, 200);
    let log = server.stop();
    assert!(log.contains("the key has expired") && log.contains("the key is not for this module"), "{log}");
}

#[test]
fn keys_open_what_their_scopes_say() {
    let file = entry("deployer", "\"deploy\"") + &entry("worker", "\"jobs\"") + &entry("viewer", "\"read\"");
    let server = production(&file, &[]);
    let job = words();
    for name in ["worker", "viewer"] {
        let refused = deploy(&server, &key(name), &job);
        assert_eq!(refused.status, 403);
        assert!(
            refused.text().contains("the scope deploy; the key ") && refused.text().contains(name),
            "{}",
            refused.text()
        );
        assert!(refused.header("www-authenticate").unwrap().contains("insufficient_scope"));
    }
    assert_eq!(deploy(&server, &key("deployer"), &job).status, 200, "{}", server.log());
    let submit = |name: &str| {
        let body = br#"{"module":"words","job":"count","payload":{}}"#;
        send(&mut server.connect(), "POST /jobs", &[("X-API-Key", &key(name))], body)
    };
    let accepted = submit("worker");
    assert_eq!(accepted.status, 200, "{}", accepted.text());
    let accepted: serde_json::Value = serde_json::from_slice(&accepted.body).unwrap();
    let uuid = accepted["job_uuid"].as_str().unwrap();
    assert_eq!((submit("deployer").status, submit("viewer").status), (403, 403));
    for (request, deployer, worker, viewer) in [
        ("GET /mgnt", 403, 403, 200),
        ("GET /metrics", 403, 403, 200),
        ("GET /jobs", 403, 403, 200),
        ("GET /jobs/UUID", 403, 200, 200),
        ("GET /jobs/UUID/events", 403, 200, 200),
        ("GET /healthz", 200, 200, 200),
        ("POST /jobs/UUID/cancel", 403, 409, 403),
        ("DELETE /mgnt/nothing", 404, 403, 403),
    ] {
        let request = request.replace("UUID", uuid);
        if request.contains("cancel") {
            support::eventually("the job ends", || {
                ask(&server, &format!("GET /jobs/{uuid}"), &key("viewer")).text().contains("done")
            });
        }
        for (name, status) in [("deployer", deployer), ("worker", worker), ("viewer", viewer)] {
            assert_eq!(ask(&server, &request, &key(name)).status, status, "{request} with {name}");
        }
        assert!(![401, 403].contains(&ask(&server, &request, ADMIN_KEY).status), "{request}");
    }
    // The streams, which the shards serve.
    for (name, status) in [("deployer", 403), ("worker", 101), ("viewer", 101)] {
        let key = key(name);
        let headers = [&HANDSHAKE[..], &[("X-API-Key", key.as_str())]].concat();
        let socket = send(&mut server.connect(), &format!("GET /jobs/ws?id={uuid}"), &headers, b"");
        assert_eq!(socket.status, status, "{name}");
        let headers = [("Accept", "text/event-stream"), ("X-API-Key", key.as_str())];
        let events = send(&mut server.connect(), &format!("GET /jobs/{uuid}/events"), &headers, b"");
        assert_eq!(events.status, if status == 101 { 200 } else { status }, "{name}");
    }
    assert_eq!(ask(&server, &format!("DELETE /jobs/{uuid}"), &key("viewer")).status, 403);
    assert_eq!(ask(&server, &format!("DELETE /jobs/{uuid}"), &key("worker")).status, 200);
    let missing = server.get("/mgnt");
    assert_eq!((missing.status, missing.header("www-authenticate").as_deref()), (401, Some("Bearer")));
    assert_eq!(server.get("/jobs/ws").status, 401);
}

#[test]
fn guesses_are_counted_and_the_address_is_refused() {
    let server = production("", &["--auth-failures-max", "3"]);
    assert_eq!(ask(&server, "GET /mgnt", ADMIN_KEY).status, 200);
    for _ in 0..3 {
        assert_eq!(ask(&server, "GET /mgnt", "a guess").status, 401);
    }
    for given in ["a guess", ADMIN_KEY] {
        let refused = ask(&server, "GET /mgnt", given);
        let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
        assert!(refused.status == 429 && (1..=60).contains(&wait), "{} {wait}", refused.status);
    }
    let headers = [&HANDSHAKE[..], &[("X-API-Key", ADMIN_KEY)]].concat();
    assert_eq!(send(&mut server.connect(), "GET /jobs/ws", &headers, b"").status, 429);
    // Others are not concerned, nor are requests that need no key.
    let other = connect_from(&server, "127.0.0.2").request("GET", "/mgnt", &[("X-API-Key", ADMIN_KEY)], b"");
    assert_eq!(other.status, 200);
    assert_eq!((server.get("/healthz").status, server.get("/mgnt").status), (200, 401));
    assert_eq!(metric(&server, "cweb_auth_failures_total{reason=\"wrong\"}"), 3);
    assert_eq!(metric(&server, "cweb_auth_failures_total{reason=\"blocked\"}"), 3);
    // Across shards, and however many come at once: the log stays small, and has no key.
    let mut client = server.connect();
    for _ in 0..500 {
        assert_eq!(client.request("POST", "/mgnt", &[("X-API-Key", "a guess")], b"x").status, 429);
    }
    let log = server.log();
    let lines = log.lines().filter(|line| line.contains("too many wrong keys")).count();
    assert!((1..=40).contains(&lines), "{lines} lines");
    assert!(log.contains("access refused: wrong key from=\"127.0.0.1:") && log.contains("path=\"/mgnt\""), "{log}");
    assert!(!log.contains("a guess") && !log.contains(ADMIN_KEY), "{log}");
    let refused = audit_lines(&server);
    assert!(refused.iter().any(|line| line.contains("deploy who=\"nobody\"") && line.contains("status=429")), "{log}");
}

#[test]
fn guesses_are_not_limited_when_the_limit_is_zero() {
    let server = production("", &["--auth-failures-max", "0"]);
    let mut client = server.connect();
    for _ in 0..50 {
        assert_eq!(client.request("GET", "/mgnt", &[("X-API-Key", "a guess")], b"").status, 401);
    }
    assert_eq!(ask(&server, "GET /mgnt", ADMIN_KEY).status, 200);
}

#[test]
fn a_key_is_asked_of_this_machine_too_and_without_one_nobody_there_is() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let server = Server::on(&dir, &["--auth-failures-max", "2"], &[("CWEB_ADMIN_KEY", ADMIN_KEY)]);
    for path in ["/mgnt", "/jobs", "/metrics", "/jobs/ws?id=1"] {
        assert_eq!(server.get(path).status, 401, "{path}");
    }
    let source = constant("fine", "/fine", "fine");
    assert_eq!(server.post("/mgnt", source.as_bytes()).status, 401);
    assert_eq!(ask(&server, "GET /mgnt", ADMIN_KEY).status, 200);
    let deployed = send(&mut server.connect(), "POST /mgnt", &[("X-API-Key", ADMIN_KEY)], source.as_bytes());
    assert_eq!((deployed.status, server.get("/fine").text().as_str()), (200, "fine"));
    let page = |key| [("Origin", "http://evil.example"), ("X-API-Key", key)];
    for status in [401, 401, 429] {
        assert_eq!(send(&mut server.connect(), "GET /mgnt", &page("a guess"), b"").status, status);
    }
    assert_eq!(ask(&server, "GET /mgnt", ADMIN_KEY).status, 429);

    let open = Server::with(&["--auth-failures-max", "2"]);
    for _ in 0..4 {
        assert_eq!(ask(&open, "GET /mgnt", "a guess").status, 200, "who is trusted is not asked");
    }
    assert_eq!(send(&mut open.connect(), "GET /mgnt", &page("a guess"), b"").status, 403);
    open.deploy(&source);
}

#[test]
fn sighup_reads_the_keys_again() {
    let server = production(&entry("old", "\"read\""), &[]);
    let path = server.dir.path().join("keys.toml");
    let status = |name: &str| ask(&server, "GET /mgnt", &key(name)).status;
    assert_eq!((status("old"), status("new")), (200, 401));
    let mut open = server.connect();
    keys_file(server.dir.path(), &entry("new", "\"read\""));
    signal(server.pid(), "HUP");
    server.expect_log("the keys were read again; 2 are in use now");
    assert_eq!((status("old"), status("new")), (401, 200));
    keys_file(server.dir.path(), &(entry("old", "\"read\"") + "\n[[key]]\nname = \"x\"\nscopes = [\"root\"]\n"));
    signal(server.pid(), "HUP");
    server.expect_log("the keys stay as they were");
    assert!(server.log().contains("keys.toml, line 8: a scope is"), "{}", server.log());
    assert_eq!((status("old"), status("new")), (401, 200));
    std::fs::remove_file(&path).unwrap();
    signal(server.pid(), "HUP");
    server.expect_log("keys.toml: No such file");
    assert_eq!((status("old"), status("new")), (401, 200));
    assert_eq!(open.request("GET", "/mgnt", &[("X-API-Key", ADMIN_KEY)], b"").status, 200, "a connection goes on");
    std::fs::write(&path, entry("old", "\"read\"")).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
    signal(server.pid(), "HUP");
    server.expect_log("can be used by users other than its owner; chmod 600");
    support::eventually("the old key counts again", || status("old") == 200);
}

#[test]
fn sighup_without_anything_to_read_does_not_end_the_server() {
    let server = Server::start();
    signal(server.pid(), "HUP");
    server.expect_log("SIGHUP: there is no certificate or file of keys to read");
    assert_eq!(server.get("/healthz").status, 200);
    server.stop();
}

#[test]
fn a_made_key_works_and_a_server_in_production_wants_one() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let made = cweb(dir.path(), &["keygen", "ci", "--scope", "deploy", "--scope", "read"]);
    let (file, said) = (String::from_utf8(made.stdout).unwrap(), String::from_utf8(made.stderr).unwrap());
    let secret = said.lines().find(|line| line.starts_with("cweb_")).unwrap();
    assert!(made.status.success() && secret.len() == 69 && !file.contains(secret), "{file}{said}");
    let more = String::from_utf8(cweb(dir.path(), &["keygen"]).stdout).unwrap();
    assert!(more.contains("name = \"key-") && more.contains("[\"deploy\", \"jobs\", \"read\"]"), "{more}");
    assert!(!cweb(dir.path(), &["keygen", "two words"]).status.success());
    assert!(!cweb(dir.path(), &["keygen", "x", "--scope", "root"]).status.success());
    assert!(!cweb(dir.path(), &["keygen", "x", "--scope", "deploy:a/b/c"]).status.success());
    let narrow = cweb(dir.path(), &["keygen", "x", "--scope", "deploy:image/*,jobs:thumbs", "--valid-days", "30"]);
    let narrow = String::from_utf8(narrow.stdout).unwrap();
    assert!(narrow.contains("scopes = [\"deploy:image/*\", \"jobs:thumbs\"]\nexpires = 2"), "{narrow}");
    let empty = keys_file(dir.path(), "");
    let flags = ["--production", "--keys-file", "keys.toml"];
    for args in [&flags[..1], &flags[..]] {
        let text = refusal(dir.path(), args);
        assert!(text.contains("cweb keygen NAME >> "), "{text}");
    }
    keys_file(dir.path(), "\n[[key]]\nname = \"x\"\nkey = 5\n");
    let text = refusal(dir.path(), &flags);
    assert!(text.contains("keys.toml, line 4: "), "{text}");
    assert!(refusal(dir.path(), &["--keys-file", "missing.toml"]).contains("missing.toml: No such file"));
    keys_file(dir.path(), &(file + &more));
    let server = Server::on(&dir, &["--production", "--keys-file", empty.to_str().unwrap()], &[]);
    assert_eq!(deploy(&server, secret, &constant("made", "/made", "made")).status, 200);
    assert_eq!(ask(&server, "GET /mgnt", secret).status, 200);
    assert_eq!(ask(&server, "GET /jobs/x", secret).status, 400);
    assert_eq!(ask(&server, "POST /jobs", secret).status, 403);
}

#[test]
fn the_audit_tells_who_did_what() {
    let file = entry("deployer", "\"deploy\"") + &entry("viewer", "\"read\"") + &entry("worker", "\"jobs\"");
    let server = production(&file, &["--silent"]);
    let source = words();
    let by = key("deployer");
    let deployed = deploy(&server, &by, &source);
    let hash = deployed.header("x-cweb-hash").unwrap();
    deploy(&server, &by, &source);
    assert_eq!(deploy(&server, &by, "int x").status, 422);
    assert_eq!(deploy(&server, &by, " ").status, 400);
    assert_eq!(deploy(&server, &key("viewer"), &source).status, 403);
    assert_eq!(deploy(&server, "a guess", &source).status, 401);
    assert_eq!(server.post("/mgnt", source.as_bytes()).status, 401);
    // A name that would be a line of its own, and a path that would be more fields.
    let forged = "x%0A2026-01-01T00:00:00Z%20%20INFO%20audit:%20remove%20who=%22admin%22%20module=%22words%22";
    assert_eq!(ask(&server, &format!("DELETE /mgnt/{forged}"), &by).status, 404);
    assert_eq!(ask(&server, "DELETE /mgnt/a\"who=\"admin", &key("viewer")).status, 403);
    let body = br#"{"module":"words","job":"count","payload":{},"run_at":99999999999999}"#;
    let accepted = send(&mut server.connect(), "POST /jobs", &[("X-API-Key", &key("worker"))], body);
    assert_eq!(accepted.status, 200, "{}", accepted.text());
    let accepted: serde_json::Value = serde_json::from_slice(&accepted.body).unwrap();
    let uuid = accepted["job_uuid"].as_str().unwrap();
    assert_eq!(ask(&server, &format!("POST /jobs/{uuid}/cancel"), &key("worker")).status, 200);
    assert_eq!(ask(&server, &format!("DELETE /jobs/{uuid}"), &key("worker")).status, 200);
    assert_eq!(ask(&server, "DELETE /mgnt/words", &by).status, 200);
    support::eventually("the removal is logged", || server.log().contains("\"removed\""));
    let lines = audit_lines(&server);
    let expected = [
        format!(
            "deploy who=\"deployer\" from=\"127.0.0.1:* module=\"words\" hash=\"{hash}\" domain=\"default\" result=\"deployed\" status=200"
        ),
        format!(
            "deploy who=\"deployer\" from=\"127.0.0.1:* module=\"words\" hash=\"{hash}\" domain=\"default\" result=\"unchanged\" status=200"
        ),
        "deploy who=\"deployer\" from=\"127.0.0.1:* hash=\"*\" result=\"refused\" status=422 reason=\"*\"".to_owned(),
        "deploy who=\"deployer\" from=\"127.0.0.1:* result=\"refused\" status=400 reason=\"no source*\"".to_owned(),
        "deploy who=\"viewer\" from=\"127.0.0.1:* result=\"refused\" status=403 reason=\"the key lacks the scope*"
            .to_owned(),
        "deploy who=\"nobody\" from=\"127.0.0.1:* result=\"refused\" status=401 reason=\"wrong key\"".to_owned(),
        "deploy who=\"nobody\" from=\"127.0.0.1:* result=\"refused\" status=401 reason=\"no key\"".to_owned(),
        "remove who=\"deployer\" from=\"127.0.0.1:* module=\"x\\n2026-* result=\"refused\" status=404*".to_owned(),
        "remove who=\"viewer\" from=\"127.0.0.1:* module=\"a\\\"who=\\\"admin\" result=\"refused\" status=403*"
            .to_owned(),
        format!("cancel job who=\"worker\" from=\"127.0.0.1:* job=\"{uuid}\" status=200"),
        format!("delete job who=\"worker\" from=\"127.0.0.1:* job=\"{uuid}\" status=200"),
        "remove who=\"deployer\" from=\"127.0.0.1:* module=\"words\" result=\"removed\" status=200".to_owned(),
    ];
    for (number, pattern) in expected.iter().enumerate() {
        let line = lines.get(number).unwrap_or_else(|| panic!("no line {number}: {}", server.log()));
        let mut rest = line.as_str();
        for part in pattern.split('*') {
            let at = rest.find(part).unwrap_or_else(|| panic!("{part} is not in {line}"));
            rest = &rest[at + part.len()..];
        }
    }
    assert_eq!(lines.len(), expected.len(), "{lines:#?}");
    assert!(!server.log().contains(&by) && !server.log().contains("a guess"));
}

#[test]
fn what_is_refused_unread_is_in_the_audit_too_and_streams_end_with_their_refusal() {
    let server = production(&entry("ci", "\"deploy\""), &["--mgnt-body-bytes-max", "1000"]);
    // The limit of /mgnt is that of a job's payload, where that is larger.
    let source = vec![b' '; 8 << 20];
    let mut client = server.connect();
    client.send(
        format!(
            "POST /mgnt HTTP/1.1\r\nHost: x\r\nX-API-Key: {}\r\nContent-Length: {}\r\n\r\n",
            key("ci"),
            source.len()
        )
        .as_bytes(),
    );
    assert_eq!(client.response().status, 413);
    let is_it = |line: &String| line.contains("who=\"ci\"") && line.contains("status=413");
    eventually("the audit has it", || audit_lines(&server).iter().any(is_it));
    let mut client = server.connect();
    let target = "GET /jobs/00000000-0000-7000-8000-000000000000/events";
    let refused = send(&mut client, target, &[("Accept", "text/event-stream")], b"");
    assert_eq!((refused.status, refused.header("connection").as_deref()), (401, Some("close")));
    assert!(client.is_closed());
}

#[test]
fn the_audit_names_those_who_need_no_key_and_submissions_if_it_is_asked_to() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let server = Server::on(&dir, &[], &[("CWEB_LOG", "warn,audit=debug")]);
    server.deploy(&words());
    server.expect_log("audit: deploy who=\"loopback\"");
    assert_eq!(server.post("/jobs", br#"{"module":"words","job":"count","payload":{}}"#).status, 200);
    server.expect_log("DEBUG audit: create job who=\"loopback\"");
}

#[test]
fn pages_in_the_browser_are_not_trusted() {
    let server = Server::start();
    server.deploy(&constant("kept", "/kept", "kept"));
    let raw = |request: &str, body: &str| {
        let mut client = server.connect();
        client.send(format!("{request}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).as_bytes());
        client.response()
    };
    let port = server.addr.rsplit(':').next().unwrap();
    // DNS rebinding: the page's own name leads here, and its requests are of its own site.
    for request in [
        "GET /mgnt HTTP/1.1\r\nHost: evil.example",
        "GET /jobs HTTP/1.1\r\nHost: evil.example:8080",
        "GET /metrics HTTP/1.1\r\nHost: localhost.evil.example",
        "GET /mgnt HTTP/1.1\r\nHost: evil.example\r\nSec-Fetch-Site: same-origin",
        "DELETE /mgnt/kept HTTP/1.1\r\nHost: evil.example\r\nOrigin: http://evil.example",
        "POST /mgnt HTTP/1.1\r\nHost: evil.example\r\nOrigin: http://evil.example",
        "POST /mgnt HTTP/1.0\r\nOrigin: http://evil.example",
        "GET /mgnt HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: cross-site",
        "GET /mgnt HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: same-site",
        "GET /mgnt HTTP/1.1\r\nHost: localhost\r\nOrigin: null",
        "GET /mgnt HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost:3000",
        "DELETE /mgnt/kept HTTP/1.1\r\nHost: localhost\r\nOrigin: https://evil.example",
    ] {
        let refused = raw(request, "");
        assert_eq!(refused.status, 403, "{request}");
        assert!(refused.text().contains("refused: "), "{}", refused.text());
    }
    // A form needs no preflight.
    let source = constant("evil", "/evil", "evil");
    let form = format!("--b\r\nContent-Disposition: form-data; name=\"code\"\r\n\r\n{source}\r\n--b--\r\n");
    let csrf = "POST /mgnt HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=b";
    assert_eq!(raw(&format!("{csrf}\r\nOrigin: https://evil.example"), &form).status, 403);
    assert_eq!(raw(&format!("{csrf}\r\nSec-Fetch-Site: cross-site"), &form).status, 403);
    assert_eq!(server.get("/evil").status, 404);
    assert_eq!(raw(csrf, &form).status, 200);
    // Streams.
    let uuid = "00000000-0000-7000-8000-000000000000";
    let socket = |headers: &[(&str, &str)]| {
        let headers = [&HANDSHAKE[..], headers].concat();
        send(&mut server.connect(), &format!("GET /jobs/ws?id={uuid}"), &headers, b"").status
    };
    assert_eq!(socket(&[("Origin", "https://evil.example")]), 403);
    assert_eq!(socket(&[("Sec-Fetch-Site", "cross-site")]), 403);
    assert_eq!(socket(&[]), 101);
    let events = format!("GET /jobs/{uuid}/events HTTP/1.1\r\nAccept: text/event-stream\r\nHost: ");
    assert_eq!(raw(&format!("{events}localhost\r\nOrigin: https://evil.example"), "").status, 403);
    assert_eq!(raw(&format!("{events}evil.example"), "").status, 403);
    // What this machine's user does is let in, but its answers are for no other site.
    for request in [
        "GET /mgnt HTTP/1.1\r\nHost: localhost".to_owned(),
        format!("GET /mgnt HTTP/1.1\r\nHost: 127.0.0.1:{port}"),
        format!("GET /mgnt HTTP/1.1\r\nHost: localhost:{port}\r\nOrigin: http://localhost:{port}"),
        "GET /mgnt HTTP/1.1\r\nHost: [::1]:8080\r\nSec-Fetch-Site: none".to_owned(),
        "GET /mgnt HTTP/1.0\r\nAccept: */*".to_owned(),
        format!("{events}localhost"),
    ] {
        let answer = raw(&request, "");
        assert!(answer.status == 200 || answer.status == 404, "{request}");
        assert_eq!(answer.header("access-control-allow-origin"), None, "{request}");
    }
    assert_eq!(server.get("/kept").header("access-control-allow-origin").as_deref(), Some("*"));
}

#[test]
fn a_page_with_the_key_is_let_in_and_may_read() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let server = Server::on(&dir, &[], &[("CWEB_ADMIN_KEY", ADMIN_KEY)]);
    let headers = [("Origin", "https://dashboard.example"), ("X-API-Key", ADMIN_KEY)];
    let answer = send(&mut server.connect(), "GET /mgnt", &headers, b"");
    assert_eq!((answer.status, answer.header("access-control-allow-origin").as_deref()), (200, Some("*")));
    let mut client = server.connect();
    client.send(format!("GET /mgnt HTTP/1.1\r\nHost: my.name\r\nX-API-Key: {ADMIN_KEY}\r\n\r\n").as_bytes());
    assert_eq!(client.response().status, 200);
}

/// The address of the line `listening on SCHEME://ADDR (admin)`.
fn admin_addr(server: &Server, scheme: &str) -> String {
    // It comes after the line that the start of a server waits for.
    server.expect_log(" (admin)\n");
    let log = server.log();
    let prefix = format!("listening on {scheme}://");
    let found = log.lines().find_map(|line| line.strip_prefix(&prefix)?.strip_suffix(" (admin)"));
    found.unwrap_or_else(|| panic!("no admin address: {log}")).to_owned()
}

/// Status and text of the answer to a request on a unix socket.
fn on_unix(path: &Path, request: &str, headers: &str, body: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let length = body.len();
    let text = format!(
        "{request} HTTP/1.1\r\nHost: any.name\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    );
    stream.write_all(text.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    (answer.split(' ').nth(1).unwrap().parse().unwrap(), answer)
}

#[test]
fn admin_addresses_serve_what_the_others_do_not() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let socket = dir.path().join("admin.sock");
    let unix = format!("unix:{}", socket.display());
    let server = Server::on(&dir, &["--shards", "2", "--admin-listen", "127.0.0.1:0", "--admin-listen", &unix], &[]);
    server.expect_log(&format!("listening on {unix} (admin)"));
    assert!(server.log().contains(&format!("listening on http://{}\n", server.addr)), "{}", server.log());
    let addr = admin_addr(&server, "http");
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let admin = |request: &str, body: &str| send(&mut Client::connect(&addr), request, &[], body.as_bytes());
    let public = |request: &str, body: &str| send(&mut server.connect(), request, &[], body.as_bytes());

    let source = constant("here", "/here", "here");
    assert_eq!(public("POST /mgnt", &source).status, 404);
    assert_eq!(admin("POST /mgnt", &source).status, 200);
    assert_eq!(on_unix(&socket, "POST /mgnt", "", &constant("there", "/there", "there")).0, 200);
    for (path, here) in [("/mgnt", 200), ("/jobs", 200), ("/metrics", 200), ("/mgnt/x", 404)] {
        let request = format!("GET {path}");
        assert_eq!(admin(&request, "").status, here, "{path}");
        assert_eq!(on_unix(&socket, &request, "", "").0, here, "{path}");
        let elsewhere = public(&request, "");
        assert_eq!((elsewhere.status, elsewhere.text().as_str()), (404, "no module serves this path\n"), "{path}");
    }
    // In pieces, and by who waits for 100 Continue, too: no key is looked at where there is nothing to be had.
    let head = "HTTP/1.1\r\nHost: localhost\r\nX-API-Key: a guess\r\nContent-Length: 4\r\n";
    let in_pieces = |mut client: Client, path: &str, more: &str| {
        client.send(format!("POST {path} {head}{more}\r\n").as_bytes());
        std::thread::sleep(std::time::Duration::from_millis(50));
        if more.is_empty() {
            client.send(b"int;");
        }
        client.response()
    };
    for more in ["", "Expect: 100-continue\r\n"] {
        let answer = in_pieces(server.connect(), "/mgnt", more);
        assert_eq!((answer.status, answer.text().as_str()), (404, "no module serves this path\n"));
        let answer = in_pieces(Client::connect(&addr), "/here", more);
        assert!(answer.status == 404 && answer.text().contains("--admin-listen"), "{}", answer.text());
    }
    for path in ["/here", "/there", "/", "/nothing"] {
        let answer = admin(&format!("GET {path}"), "");
        assert!(answer.status == 404 && answer.text().contains("--admin-listen"), "{path}: {}", answer.text());
        assert!(on_unix(&socket, &format!("GET {path}"), "", "").1.contains("--admin-listen"));
    }
    assert_eq!((public("GET /here", "").text(), public("GET /there", "").text()), ("here".into(), "there".into()));
    assert_eq!((public("GET /healthz", "").status, admin("GET /healthz", "").status), (200, 200));
    assert_eq!(on_unix(&socket, "GET /healthz", "", "").0, 200);

    // Streams.
    let target = "GET /jobs/ws?id=00000000-0000-7000-8000-000000000000";
    assert_eq!(send(&mut Client::connect(&addr), target, &HANDSHAKE, b"").status, 101);
    assert_eq!(send(&mut server.connect(), target, &HANDSHAKE, b"").status, 404);
    let events = [("Accept", "text/event-stream")];
    let mut client = server.connect();
    for _ in 0..2 {
        let target = "GET /jobs/00000000-0000-7000-8000-000000000000/events";
        assert_eq!(send(&mut client, target, &events, b"").status, 404, "an ordinary path keeps its connection");
    }
    // A module that takes every path has these too, on the public address only.
    let all = module("all", "HANDLER(h, \"all\")", "{\"^/.*$\", \"GET\", h, NONE}", 1, "");
    for name in ["here", "there"] {
        assert_eq!(admin(&format!("DELETE /mgnt/{name}"), "").status, 200); // Two modules can't have one path.
    }
    assert_eq!(admin("POST /mgnt", &all).status, 200);
    assert_eq!((public("GET /mgnt", "").text().as_str(), public("GET /jobs/1", "").status), ("all", 200));
    assert_ne!(admin("GET /mgnt", "").text(), "all");
    assert_eq!(public("GET /healthz", "").text(), "ok\n");
    // The rules of access are the same; on the unix socket any Host will do, but not a page.
    let foreign = [("Origin", "https://evil.example")];
    assert_eq!(send(&mut Client::connect(&addr), "GET /mgnt", &foreign, b"").status, 403);
    assert_eq!(on_unix(&socket, "GET /mgnt", "Origin: https://evil.example\r\n", "").0, 403);
    server.stop();
}

#[test]
fn admin_addresses_ask_for_the_key_in_production() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let socket = dir.path().join("admin.sock");
    let unix = format!("unix:{}", socket.display());
    let args = ["--production", "--admin-listen", &unix, "--auth-failures-max", "2"];
    let server = Server::on(&dir, &args, &[("CWEB_ADMIN_KEY", ADMIN_KEY)]);
    assert_eq!(on_unix(&socket, "GET /mgnt", "", "").0, 401);
    for _ in 0..5 {
        assert_eq!(on_unix(&socket, "GET /mgnt", "X-API-Key: a guess\r\n", "").0, 401, "unix peers are not blocked");
    }
    assert_eq!(on_unix(&socket, "GET /mgnt", &format!("X-API-Key: {ADMIN_KEY}\r\n"), "").0, 200);
    assert_eq!(ask(&server, "GET /mgnt", ADMIN_KEY).status, 404);
    // A guess on the public address tells nothing and counts nowhere, whole or in pieces.
    for guess in ["a guess", ADMIN_KEY, "a guess", "a guess", ADMIN_KEY] {
        let mut client = server.connect();
        let head = format!("POST /mgnt HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {guess}\r\nContent-Length: 4\r\n\r\n");
        client.send(head.as_bytes());
        std::thread::sleep(std::time::Duration::from_millis(50));
        client.send(b"int;");
        assert_eq!(client.response().status, 404);
    }
    server.expect_log("access refused: wrong key from=\"unix\"");
    assert!(!server.log().contains("127.0.0.1"), "{}", server.log());
}

#[test]
fn admin_addresses_have_tls_where_the_others_do() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"])
        .args(["-subj", "/CN=localhost", "-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let file = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (cert, secret, socket) = (file("cert.pem"), file("key.pem"), file("s"));
    let unix = format!("unix:{socket}");
    let tls = ["--tls-cert", &cert, "--tls-key", &secret];
    let server =
        Server::on(&dir, &[&tls[..], &["--admin-listen", "127.0.0.1:0", "--admin-listen", &unix]].concat(), &[]);
    let plain = send(&mut Client::connect(&admin_addr(&server, "https")), "GET /mgnt", &[], b"");
    assert!(plain.status == 400 && plain.text().contains("https://"), "{}", plain.text());
    assert_eq!(on_unix(Path::new(&socket), "GET /mgnt", "", "").0, 200);
}
