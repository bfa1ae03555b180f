//! The C interface as modules see it: every function and field of the SDK, called by C modules (tests/modules) in the
//! real server. A handler there answers "ok", or the check that failed.

use crate::support::{Response, Server, Socket, eventually, module, root};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use tungstenite::{Bytes, Message};

/// The source of a module of tests/modules, with what stands before each of them.
fn source(name: &str) -> String {
    let read = |file: &str| std::fs::read_to_string(root().join("tests/modules").join(file)).unwrap();
    format!("{}#line 1 \"{name}.c\"\n{}", read("check.h"), read(&format!("{name}.c")))
}

fn with(name: &str) -> Server {
    let server = Server::with(&["--shards", "2"]);
    deploy_without_warning(&server, &source(name));
    server
}

fn deploy_without_warning(server: &Server, source: &str) {
    let text = server.deploy(source).text();
    assert!(!text.contains("warning:"), "{text}");
}

/// Calls each path twice, since the second time a thread's buffers are used again.
fn all_ok(server: &Server, paths: &[&str]) {
    let mut client = server.connect();
    for path in paths.iter().chain(paths) {
        assert_eq!(client.get(path).text(), "ok", "{path}\n{}", server.log());
    }
}

fn json_of(response: &Response) -> Value {
    serde_json::from_slice(&response.body).unwrap_or_else(|error| panic!("{error}: {}", response.text()))
}

/// A certificate and its key in `dir`.
fn make_pair(dir: &Path) {
    std::fs::create_dir_all(dir.join("static")).unwrap();
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=test", "-days", "2"])
        .args(["-keyout", "static/pair.key", "-out", "static/pair.crt"])
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    // Modules of a root server may be another user.
    std::fs::set_permissions(dir.join("static/pair.key"), PermissionsExt::from_mode(0o644)).unwrap();
}

#[test]
fn stores_names_parsers_and_helpers() {
    let server = with("http");
    all_ok(&server, &["/stores", "/names", "/parsers"]);
    let helped = server.get("/helpers");
    assert_eq!((helped.status, helped.text().as_str()), (203, "ok"));
    assert_eq!(helped.header("content-type").as_deref(), Some("text/x-helper"));
    assert_eq!(helped.header("x-set").as_deref(), Some("two"));
    for level in 1..=3 {
        server.expect_log(&format!("[api-http] level {level}"));
    }
    std::fs::create_dir_all(server.dir.path().join("static")).unwrap();
    assert_eq!(server.get("/file").status, 404);
    std::fs::write(server.dir.path().join("static/page.html"), "<p>page").unwrap();
    let file = server.get("/file");
    assert_eq!(
        (file.text().as_str(), file.header("content-type").as_deref()),
        ("<p>page", Some("text/html; charset=utf-8"))
    );
    assert_eq!(server.get("/no-file").status, 404);
}

#[test]
fn look_ups_in_a_module_s_own_stores_are_warned_of_nothing() {
    let server = Server::with(&["--shards", "1"]);
    let said = server.deploy(&std::fs::read_to_string(root().join("tests/modules/lookups.c")).unwrap()).text();
    assert!(!said.contains("warning"), "{said}");
    assert_eq!(server.get("/lookups").text(), "one two three four -1");
}

#[test]
fn every_field_of_a_request() {
    let server = with("http");
    let mut client = server.connect();
    for method in ["GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"] {
        let body: &[u8] = if method == "GET" { b"" } else { b"text" };
        let seen = json_of(&client.request(method, "/request/a%20b?q=1", &[("X-Mixed-Case", "Value")], body));
        assert_eq!((&seen["method"], &seen["path"]), (&json!(method), &json!("/request/a%20b")));
        assert_eq!((&seen["version"], &seen["status"]), (&json!("1.1"), &json!(true)));
        assert_eq!((&seen["keep_alive"], &seen["close"]), (&json!(true), &json!(false)));
        assert_eq!((&seen["websocket"], &seen["chunked"]), (&json!(false), &json!(false)));
        assert_eq!((&seen["body"], &seen["length"]), (&json!(String::from_utf8_lossy(body)), &json!(body.len())));
        assert_eq!((&seen["params"], &seen["data"]), (&json!({"q": "1"}), &json!({})));
        assert_eq!(
            (&seen["headers"]["x-mixed-case"], &seen["headers"]["host"]),
            (&json!("Value"), &json!("localhost"))
        );
    }
    // HEAD runs the handler of GET, and says how long its answer would be.
    let head = client.request("HEAD", "/request", &[], b"");
    assert!(head.status == 200 && head.header("content-length").unwrap() != "0");
    let seen = json_of(&client.request("POST", "/inline", &[], b"on the shard"));
    assert_eq!(seen["body"], "on the shard");
    client.send(
        b"POST /request HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
    );
    let seen = json_of(&client.response());
    assert_eq!((&seen["body"], &seen["length"], &seen["chunked"]), (&json!("abcde"), &json!(5), &json!(true)));
    client.send(b"GET /request HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let seen = json_of(&client.response());
    assert_eq!((&seen["version"], &seen["keep_alive"], &seen["close"]), (&json!("1.0"), &json!(true), &json!(false)));
    let seen = json_of(&client.request("GET", "/request", &[("Connection", "close")], b""));
    assert_eq!((&seen["keep_alive"], &seen["close"]), (&json!(false), &json!(true)));
}

#[test]
fn parameters_and_forms_are_decoded_and_the_first_of_a_name_wins() {
    let server = with("http");
    let mut client = server.connect();
    let seen = json_of(&client.get("/request?a=1&A=2&b=x%20y+z&c&d=&e=%zz&=no&%66=g"));
    assert_eq!(seen["params"], json!({"a": "1", "b": "x y z", "c": "", "d": "", "e": "%zz", "": "no", "f": "g"}));
    let urlencoded = [("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")];
    let seen = json_of(&client.request("POST", "/request", &urlencoded, b"a=1&a=2&b=%C3%A9%2B&c=x+y"));
    assert_eq!(seen["data"], json!({"a": "1", "b": "é+", "c": "x y"}));
    let multipart = [("Content-Type", "multipart/form-data; boundary=\"-- B\"")];
    let body = "preamble\r\n---- B\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\none\r\ntwo\r\n---- B\r\n\
                content-disposition: form-data; filename=\"f.txt\"; name=\"file\"\r\nContent-Type: text/plain\r\n\r\n\
                \r\n---- B\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\nsecond\r\n---- B--\r\n";
    let seen = json_of(&client.request("POST", "/request", &multipart, body.as_bytes()));
    assert_eq!(seen["data"], json!({"a": "one\r\ntwo", "file": ""}));
    assert_eq!(seen["body"], body);
    // Another type is no form.
    let seen = json_of(&client.request("POST", "/request", &[("Content-Type", "text/plain")], b"a=1"));
    assert_eq!(seen["data"], json!({}));
}

#[test]
fn the_status_is_an_enumerator_or_a_plain_number() {
    let server = with("http");
    let mut client = server.connect();
    let enumerators = [(2, 200), (3, 302), (4, 400), (5, 401), (6, 403), (7, 404), (8, 405), (9, 409), (10, 413)];
    let more = [(11, 414), (12, 426), (13, 500), (14, 501), (201, 201), (204, 204), (304, 304), (418, 418), (599, 599)];
    for (given, status) in enumerators.into_iter().chain(more) {
        assert_eq!(client.get(&format!("/status?is={given}")).status, status, "{given}");
    }
    // What is no final status of HTTP is the module's mistake; the connection stays in step.
    for given in [-1, 0, 1, 15, 99, 100, 101, 600, 99_999] {
        let response = client.get(&format!("/status?is={given}"));
        assert!(response.status >= 200 && response.status < 600, "{given}: {}", response.status);
        assert_eq!(client.get("/stores").text(), "ok", "after {given}");
    }
}

#[test]
fn a_body_may_be_written_resized_replaced_or_taken() {
    let server = with("http");
    let mut client = server.connect();
    for _ in 0..3 {
        let mut body = |how: &str| client.get(&format!("/body?how={how}")).body;
        assert_eq!(body("empty"), b"");
        assert_eq!(body("full"), [b'f'; 8191]);
        assert_eq!(body("null"), b"");
        assert_eq!(body("grown"), [b'g'; 100_000]);
        assert_eq!(body("shrunk"), b"shr");
        assert_eq!(body("other"), b"another string");
        assert_eq!(body("part"), b"partly");
        assert_eq!(body("empty"), b"", "nothing of an earlier answer");
        assert_eq!(body("negative"), b"by strlen");
        assert_eq!(body("binary"), b"a\0b\xff");
        for longer in ["behind", "cut"] {
            assert_eq!(body(longer), b"SSSSS");
            assert_eq!(body("endless"), b"0123456789", "nothing of an earlier answer");
        }
        assert_eq!(body("brim"), [b'b'; 8192]);
        assert_eq!(body("endless"), b"0123456789");
        // No body is an empty one, to be taken over as any other.
        for how in ["taken", "shared", "written", "freed"] {
            let empty = body(how);
            let expected: &[u8] = match how {
                "written" => b"was empty",
                "freed" => b"freed",
                _ => b"",
            };
            assert_eq!((empty.as_slice(), body("written").as_slice()), (expected, b"was empty".as_slice()), "{how}");
        }
        for how in ["shared", "freed"] {
            let answer = client.request("POST", &format!("/body?how={how}"), &[], b"from the request").text();
            assert_eq!(answer, if how == "freed" { "freed" } else { "from the request" });
        }
        let taken = client.request("POST", "/body?how=taken", &[], b"from the request");
        assert_eq!(taken.text(), "from the request");
    }
}

#[test]
fn the_store_of_headers_may_be_replaced_or_destroyed() {
    let server = with("http");
    let mut client = server.connect();
    for (how, first, own) in [
        ("replaced", None, Some("2")),
        ("destroyed", None, Some("2")),
        ("emptied", None, Some("2")),
        ("none", None, None),
        ("echo", None, None),
        ("of-the-request", Some("1"), Some("2")),
    ]
    .repeat(3)
    {
        let response = client.get(&format!("/store?how={how}"));
        let (x_first, x_own) = (response.header("x-first"), response.header("x-own"));
        assert_eq!((response.text().as_str(), x_first.as_deref(), x_own.as_deref()), (how, first, own));
        assert_eq!(response.header("how").is_some(), how == "echo");
    }
}

#[test]
fn what_a_request_repeats_is_there_for_who_asks() {
    let server = with("http");
    let mut client = server.connect();
    let form = [("Content-Type", "application/x-www-form-urlencoded"), ("Tag", "x"), ("tAG", "y")];
    for _ in 0..2 {
        let all = client.request("POST", "/repeated?tag=a&other=1&TAG=b%2Cc&tag=", &form, b"tag=d&tag=e+f").text();
        assert_eq!(all, "a,a,b,c, d,d,e f x,x,y ");
        assert_eq!(client.request("POST", "/repeated?tag=only", &[], b"").text(), "only,only none none ");
    }
    let multipart = [("Content-Type", "multipart/form-data; boundary=B")];
    let part = |value: &str| format!("--B\r\nContent-Disposition: form-data; name=\"tag\"\r\n\r\n{value}\r\n");
    let body = part("1") + &part("2") + &part("3") + "--B--\r\n";
    assert_eq!(client.request("POST", "/repeated", &multipart, body.as_bytes()).text(), "none 1,1,2,3 none ");
}

#[test]
fn headers_that_may_be_there_twice_are_sent_twice() {
    let server = with("http");
    let mut client = server.connect();
    for _ in 0..2 {
        let response = client.get("/cookies");
        assert_eq!(response.text(), "ok");
        let sent = |name: &str| -> Vec<String> {
            let lines = response.head.lines().filter_map(|line| line.split_once(": "));
            lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned()).collect()
        };
        assert_eq!(sent("set-cookie"), ["a=1; Expires=Thu, 01 Jan 2032 00:00:00 GMT", "b=2", "c=3"]);
        assert_eq!(sent("www-authenticate"), ["Basic realm=\"x\"", "Bearer"]);
        assert_eq!(sent("x-once"), ["second"]);
    }
}

#[test]
fn keys_are_in_lower_case() {
    let server = with("http");
    let form = [("Content-Type", "application/x-www-form-urlencoded")];
    let seen = json_of(&server.connect().request("POST", "/request?First=A&SECOND=B", &form, b"Third=C&fourTH=D"));
    assert_eq!(seen["params"], json!({"first": "A", "second": "B"}));
    assert_eq!(seen["data"], json!({"third": "C", "fourth": "D"}));
}

#[test]
fn what_the_interface_does_not_name_is_free() {
    all_ok(&with("names"), &["/names"]);
}

#[test]
fn headers_of_a_response() {
    let server = with("http");
    let mut client = server.connect();
    let response = client.get("/headers");
    assert_eq!(response.text(), "ok");
    for (name, value) in [
        ("content-type", "text/x-test"),
        ("set-cookie", "a=b"),
        ("location", "/there"),
        ("date", "mine"),
        ("x-empty", ""),
    ] {
        assert_eq!(response.header(name).as_deref(), Some(value), "{name}");
        let count = response.head.lines().filter(|line| line.to_ascii_lowercase().starts_with(name)).count();
        assert_eq!(count, 1, "{name}");
    }
    assert!(response.header("transfer-encoding").is_none());
    assert_eq!(response.header("content-length").as_deref(), Some("2"));
    let many = client.get("/many");
    let sent = many.head.lines().filter(|line| line.to_ascii_lowercase().starts_with("x-many-")).count();
    assert!(sent >= 16 && many.text() == sent.to_string(), "{sent} of {}", many.text());
}

#[test]
fn containers_and_libraries_of_a_module_s_own() {
    let server = with("data");
    make_pair(server.dir.path());
    all_ok(&server, &["/maps", "/lists", "/queues", "/pools", "/events", "/deferred", "/uuids", "/libraries"]);
    all_ok(&server, &["/own-cache", "/own-scheduler", "/own-database", "/own-crypto"]);
}

#[test]
fn the_cache_and_symbols_join_modules_and_outlive_swaps() {
    let server = with("services");
    assert_eq!(server.get("/symbols").text(), "no neighbour");
    server.deploy(&source("neighbour"));
    assert_eq!(server.get("/cached").text(), "nothing");
    all_ok(&server, &["/cache"]);
    assert_eq!(
        (server.get("/cached").text(), server.get("/symbols").text()),
        ("set by services".into(), "42 first".into())
    );
    server.deploy(&format!("#define TEXT \"second\"\n{}", source("neighbour")));
    assert_eq!(
        (server.get("/cached").text(), server.get("/symbols").text()),
        ("set by services".into(), "42 second".into())
    );
    server.deploy(&format!("/* another version */\n{}", source("services")));
    server.expect_log("[api-services] unload with the same context");
    assert_eq!(
        (server.get("/cached").text(), server.get("/symbols").text()),
        ("set by services".into(), "42 second".into())
    );
    assert_eq!(server.connect().request("DELETE", "/mgnt/neighbour", &[], b"").status, 200);
    assert_eq!(server.get("/symbols").text(), "no neighbour");
}

#[test]
fn the_scheduler_runs_in_order_and_keeps_a_modules_code_until_it_has() {
    let server = Server::with(&["--shards", "2", "--shutdown-timeout-ms", "60000"]);
    deploy_without_warning(&server, &source("services"));
    all_ok(&server, &["/schedule", "/schedule/crash", "/schedule"]);
    server.expect_log("module api-services failed in scheduled work");
    all_ok(&server, &["/schedule/late"]);
    // The module goes while its work waits.
    assert_eq!(server.connect().request("DELETE", "/mgnt/api-services", &[], b"").status, 200);
    server.expect_log("[api-services] late work of services");
    eventually("the module is unmapped", || server.mapped_modules().is_empty());
    // `unload` waits for requests, not for what the scheduler has still to do: that could be behind anybody's work.
    assert!(server.stop().contains("unload with the same context"));
}

#[test]
fn the_database_is_shared_safe_among_threads_and_lasting() {
    let mut server = with("services");
    all_ok(&server, &["/database", "/database/denied"]);
    assert_eq!(server.get("/database/count").text(), "0");
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut client = server.connect();
                (0..25).for_each(|_| assert_eq!(client.get("/database/add").text(), "ok"));
            });
        }
    });
    // A fault within a callback of SQLite leaves none of its locks behind.
    assert_eq!(server.get("/database/crash").status, 500);
    assert_eq!(server.get("/database/count").text(), "200");
    server.terminate();
    let again = Server::on(&server.dir, &[], &[]);
    assert_eq!(again.get("/database/count").text(), "200");
    all_ok(&again, &["/database"]);
}

#[test]
fn tokens_are_signed_with_a_key_and_refused_without() {
    let server = with("services");
    all_ok(&server, &["/crypto/without", "/jobs-create"]);
    drop(server);
    let dir = Arc::new(tempfile::tempdir().unwrap());
    make_pair(dir.path());
    let file = |name: &str| dir.path().join(name).display().to_string();
    let server =
        Server::on(&dir, &["--tls-cert", &file("static/pair.crt"), "--tls-key", &file("static/pair.key")], &[]);
    // The pair also makes the server one of HTTPS.
    let module = dir.path().join("services.c");
    std::fs::write(&module, source("services")).unwrap();
    let curl = |args: &[&str], path: &str| {
        let url = format!("https://{}{path}", server.addr);
        let output = Command::new("curl").args(["-ksS", "--max-time", "110"]).args(args).arg(url).output().unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    let deployed = curl(&["--data-binary", &format!("@{}", module.display())], "/mgnt");
    assert!(deployed.starts_with("deployed api-services "), "{deployed}");
    for _ in 0..2 {
        assert_eq!(curl(&[], "/crypto/with"), "ok");
    }
}

/// What the socket greets with: its session and descriptor.
fn greeting(socket: &mut Socket) -> (String, i32) {
    let text = socket.read().unwrap().into_text().unwrap();
    let (session, fd) = text.rsplit_once(' ').unwrap();
    (session.to_owned(), fd.parse().unwrap())
}

#[test]
fn every_field_of_a_websocket() {
    let server = with("services");
    // One after the other: the module keeps the one that was opened last.
    let open = |target: &str| {
        let mut socket = server.websocket(target);
        let greeting = greeting(&mut socket);
        (socket, greeting)
    };
    let (_anonymous, first) = open("/ws");
    let (_named, second) = open("/ws?id=a%20b");
    let (mut since, third) = open("/ws?since_event_id=12&id=x");
    let all = [first, second, third];
    assert_eq!(all.each_ref().map(|(session, _)| session.as_str()), ["none", "a b|0", "x|12"]);
    assert!(all[0].1 != all[1].1 && all[1].1 != all[2].1 && all[0].1 != all[2].1, "{all:?}");
    since.send(Message::text("hi")).unwrap();
    assert_eq!(since.read().unwrap(), Message::text("my own: hi"));
    assert_eq!(server.get("/push?text=from+a+handler").text(), "ok");
    assert_eq!(since.read().unwrap(), Message::text("from a handler"));
    assert_eq!(since.read().unwrap(), Message::Binary(Bytes::from_static(b"\xff\xfe")));
    assert_eq!(since.read().unwrap(), Message::text("to all"));
    since.send(Message::text("bye")).unwrap();
    assert!(matches!(since.read(), Ok(Message::Close(Some(_)))));
    server.expect_log("[api-services] closed my own, send says -1");
    let mut at_once = server.websocket("/ws/close");
    assert!(matches!(at_once.read(), Ok(Message::Close(Some(_)))));
}

#[test]
fn as_many_routes_and_sockets_as_a_module_may_have() {
    let server = Server::start();
    let routes: Vec<String> = (0..64).map(|n| format!("{{\"/route/{n}\", \"GET\", h, NONE}}")).collect();
    let sockets: Vec<String> = (0..64).map(|n| format!("{{\"/socket/{n}\", NULL, NULL, NULL}}")).collect();
    let fields = format!(".websockets = {{{}}}, .ws_size = 64,", sockets.join(","));
    server.deploy(&module(&"n".repeat(127), "HANDLER(h, q->path)", &routes.join(","), 64, &fields));
    for n in [0, 31, 63] {
        assert_eq!(server.get(&format!("/route/{n}")).text(), format!("/route/{n}"));
        server.websocket(&format!("/socket/{n}")).close(None).unwrap();
    }
    assert_eq!(server.get("/route/64").status, 404);
}

#[test]
fn the_first_match_within_a_module_wins() {
    let server = Server::start();
    let code = "HANDLER(one, \"one\")\nHANDLER(any, \"any\")\nHANDLER(late, \"late\")";
    let routes = r#"{"/x/(a|b)c?","GET",one,NONE},{"/x/[^/]+","GET",any,NONE},{"/x/a","GET",late,NONE},{"/y.z","GET",any,NONE},{"/y[.]z/.*","POST",one,NONE}"#;
    server.deploy(&module("patterns", code, routes, 5, ""));
    let mut client = server.connect();
    for (path, text) in
        [("/x/a", "one"), ("/x/bc", "one"), ("/x/abc", "any"), ("/x/long%20name", "any"), ("/y-z", "any")]
    {
        assert_eq!(client.get(path).text(), text, "{path}");
    }
    for path in ["/x/", "/x/a/b", "/prefix/x/a", "/y.z.", "/X/a"] {
        assert_eq!(client.get(path).status, 404, "{path}");
    }
    let wrong_method = client.get("/y.z/deep/er");
    assert_eq!(wrong_method.status, 405);
    assert!(wrong_method.header("allow").unwrap().contains("POST"));
}

/// The checks of `tests/c/sdk_test.c`, which are a program, as a module whose handler runs them.
fn sdk_checks() -> String {
    let program = std::fs::read_to_string(root().join("tests/c/sdk_test.c")).unwrap();
    let check = r#"
static int checks_done, checks_failed; static char checks_text[4096];
#define CHECK(condition) do { checks_done++; if (!(condition)) { checks_failed++; size_t used = strlen(checks_text); \
    snprintf(checks_text + used, sizeof checks_text - used, "line %d: %s\n", __LINE__, #condition); } } while (0)
static inline int finish(void) { return checks_failed; }
"#;
    let handler = r#"
static int run(struct cweb_context *c, http_request_t *q, http_response_t *r) { (void)c; (void)q; checks_done = checks_failed = 0; checks_text[0] = '\0'; sdk_main();
  snprintf(r->body, HTTP_RESPONSE_SIZE, "%d failed\n%s", checks_failed, checks_text); return 0; }
export module_t config = { .name = "sdk", .author = "test", .routes = {{"/sdk", "GET", run, NONE}}, .size = 1 };
"#;
    program.replace("#include \"check.h\"", check).replace("int main(void)", "static int sdk_main(void)") + handler
}

#[test]
fn the_sdk_works_inside_a_module() {
    let server = Server::start();
    server.deploy(&sdk_checks());
    for _ in 0..3 {
        assert_eq!(server.get("/sdk").text().trim(), "0 failed");
    }
}

#[test]
fn modules_of_the_old_style_and_positional_initialisers() {
    let server = Server::start();
    server.deploy_file("tests/c/legacy_module.c");
    assert_eq!(server.get("/stat?id=1").status, 302, "jobs_create says -1 and no other module is there");
    let positional = "#include <cweb.h>\n\
        static int h(struct cweb_context *c, http_request_t *q, http_response_t *r) { (void)c; (void)q; strcpy(r->body, \"hi\"); return 0; }\n\
        export module_t config = {\"positional\", \"a\", {{\"/p\", \"GET\", h, NONE}}, 1, {}, 0, {}, 0, NULL, NULL};";
    server.deploy(positional);
    assert_eq!(server.get("/p").text(), "hi");
}
