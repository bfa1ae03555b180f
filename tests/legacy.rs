//! Modules of the older generations, whose functions take no context: each generation's own ways, on the wire.

use crate::support::{Response, Server, Socket, eventually, root};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tungstenite::Message;

fn source(name: &str) -> String {
    std::fs::read_to_string(root().join("tests/modules/legacy").join(name)).unwrap()
}

fn deploy(server: &Server, name: &str) -> Response {
    server.deploy(&source(name))
}

/// Posts a form as `curl -F` does it: `code` is a file, the others are fields.
fn post_form(server: &Server, code: &str, fields: &[(&str, &str)]) -> Response {
    let mut form = String::new();
    for (name, value) in fields {
        form.push_str(&format!("--B\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"));
    }
    form.push_str(&format!(
        "--B\r\nContent-Disposition: form-data; name=\"code\"; filename=\"func.c\"\r\n\r\n{code}\r\n--B--\r\n"
    ));
    let kind = [("Content-Type", "multipart/form-data; boundary=B")];
    server.connect().request("POST", "/mgnt", &kind, form.as_bytes())
}

fn post_field(server: &Server, target: &str, body: &str) -> Response {
    let kind = [("Content-Type", "application/x-www-form-urlencoded")];
    server.connect().request("POST", target, &kind, body.as_bytes())
}

fn text(socket: &mut Socket) -> String {
    socket.read().unwrap().into_text().unwrap().to_string()
}

#[test]
fn a_counter_keeps_its_place_in_the_cache() {
    let server = Server::start();
    let said = deploy(&server, "counter.c").text();
    assert!(!said.contains("warning"), "{said}");
    let first = server.get("/counter");
    assert_eq!((first.status, first.text().as_str()), (200, "count 1"), "{}", server.log());
    assert_eq!(first.header("content-type").as_deref(), Some("text/plain"), "it was copied before the buffer changed");
    assert_eq!(first.header("x-kind").as_deref(), Some("literal"));
    assert_eq!(server.get("/counter").text(), "count 2");
    server.deploy(&source("counter.c").replace("count %d", "new %d"));
    assert_eq!(server.get("/counter").text(), "new 3");
}

#[test]
fn functions_are_registered_by_a_form_and_survive_a_restart() {
    let mut server = Server::start();
    let greet = [("route", "/greet.me"), ("function_name", "greet"), ("method", "GET")];
    let posted = post_form(&server, &source("c1a_func.c"), &greet);
    assert_eq!(posted.status, 200, "{}", posted.text());
    assert_eq!(post_form(&server, &source("c1b_func.c"), &[("function_name", "echo"), ("route", "/echo")]).status, 200);
    let check = |server: &Server| {
        assert_eq!(server.get("/greet.me?who=you%20all").text(), "hello you all by GET");
        assert_eq!(server.get("/greetXme").status, 404, "the path is no pattern");
        assert_eq!(server.get("/echo?a=1&b=2").text(), "(none) 2");
    };
    check(&server);
    // The same source again, for another route, is another version.
    let moved = [("route", "/moved"), ("function_name", "greet"), ("libs", "-lm z")];
    assert_eq!(post_form(&server, &source("c1a_func.c"), &moved).header("x-cweb-result").as_deref(), Some("deployed"));
    assert_eq!((server.get("/greet.me").status, server.get("/moved").status), (404, 200));
    assert_eq!(post_form(&server, &source("c1a_func.c"), &greet).status, 200);
    server.terminate();
    check(&Server::on(&server.dir, &[], &[]));
}

#[test]
fn a_form_that_can_not_be_used_is_refused_with_words() {
    let server = Server::start();
    let refused = |fields: &[(&str, &str)], words: &str| {
        let response = post_form(&server, &source("c1a_func.c"), fields);
        assert!(response.status == 422 && response.text().contains(words), "{} {}", response.status, response.text());
    };
    refused(&[], "function_name");
    refused(&[("function_name", "greet")], "route");
    refused(&[("function_name", "1;"), ("route", "/x")], "t name a C function");
    refused(&[("function_name", "other"), ("route", "/x")], "'other' undeclared");
    refused(&[("function_name", "greet"), ("route", "/x"), ("libs", "-Wl,-v")], "libs has \"-Wl\"");
    refused(&[("function_name", "greet"), ("route", "/x"), ("method", "BREW")], "BREW");
    refused(&[("function_name", "greet"), ("route", "/x"), ("method", "GET\0x")], "the form's method");
    for route in ["/a b", "/a\0b", "/a\"\nb", "/a?b=c", "/a#b"] {
        refused(&[("function_name", "greet"), ("route", route)], "no request has such a path");
    }
    let three = "#include <http.h>\nint f(void *c, struct http_request *q, struct http_response *r)\n{ return !c + !q + !r; }\n";
    let response = post_form(&server, three, &[("function_name", "f"), ("route", "/x")]);
    assert!(response.status == 422 && response.text().contains("error:"), "{}", response.text());
}

#[test]
fn the_first_configs() {
    let server = Server::start();
    deploy(&server, "c2_json.c");
    assert_eq!(server.get("/json/abc").text(), r#"{"path":"/json/abc"}"#);
    deploy(&server, "c3_container.c");
    assert_eq!(server.get("/container").text(), "0 0 -1 -1 1");
}

#[test]
fn the_database_and_the_scheduler() {
    let server = Server::start();
    deploy(&server, "c4_todo.c");
    assert_eq!(post_field(&server, "/todo", "text=buy+milk").text(), "1 1 1 0");
    assert_eq!(post_field(&server, "/todo", "text=50%25").text(), "1 1 2 0");
    assert_eq!(post_field(&server, "/todo", "x=1").status, 400);
    assert_eq!(server.get("/todo").text(), "buy milk;50%;");
    eventually("both works have run", || server.get("/todo/worked").text() == "2");
}

#[test]
fn a_chat_over_websockets_lives_through_a_swap() {
    let server = Server::start();
    deploy(&server, "c5_chat.c");
    let (mut one, mut two) = (server.websocket("/chat/ws"), server.websocket("/chat/ws"));
    assert_eq!((text(&mut one), text(&mut two)), ("welcome".to_owned(), "welcome".to_owned()));
    one.send(Message::text("hi")).unwrap();
    assert_eq!((text(&mut one), text(&mut two)), ("hi".to_owned(), "hi".to_owned()));
    two.send(Message::text("bye")).unwrap();
    assert!(matches!(two.read().unwrap(), Message::Close(_)));
    server.websocket("/chat/silent").send(Message::text("nobody")).unwrap();
    // The next version asks with `unload` of this one before its own `onload`.
    server.deploy(&source("c5_chat.c").replace("\"welcome\", 7", "\"again\", 5"));
    assert_eq!(server.get("/chat").text(), "loads 2 unloads 1");
    assert_eq!(text(&mut server.websocket("/chat/ws")), "again");
    one.send(Message::text("still there")).unwrap();
    one.close(None).unwrap();
    assert_eq!(server.get("/chat").status, 200, "{}", server.log());
}

#[test]
fn header_values_are_copied_and_tokens_are_signed_if_there_is_a_key() {
    let server = Server::start();
    deploy(&server, "c6_auth.c");
    let login = server.post("/login", b"");
    assert_eq!(login.text(), "0 0 -1 1", "there is no key here");
    assert_eq!(login.header("set-cookie").as_deref(), Some("session=42; Path=/"));
    assert_eq!(login.header("x-freed").as_deref(), Some("soon gone"));
    assert_eq!(login.header("x-gone"), None);
    let secret = |cookie: &str| server.connect().request("GET", "/secret", &[("cookie", cookie)], b"").status;
    assert_eq!((secret("session=42"), secret("session=7")), (200, 401));
}

#[test]
fn symbols_of_other_modules_and_a_fault_that_costs_one_request() {
    let server = Server::start();
    deploy(&server, "c6_symbols.c");
    deploy(&server, "counter.c");
    assert_eq!(server.get("/symbols").text(), "42 1");
    let fault = server.get("/fault");
    assert!(fault.status == 500 && fault.text().contains("SIGSEGV"), "{} {}", fault.status, fault.text());
    assert_eq!((server.get("/symbols").text().as_str(), server.get("/counter").text().as_str()), ("42 1", "count 1"));
}

#[test]
fn files_and_stores_under_both_names() {
    let server = Server::start();
    std::fs::create_dir_all(server.dir.path().join("static")).unwrap();
    deploy(&server, "c6_static.c");
    assert_eq!(server.get("/page").status, 404);
    std::fs::write(server.dir.path().join("static/page.html"), "<p>a page</p>").unwrap();
    assert_eq!(server.get("/page").text(), "<p>a page</p>");
    deploy(&server, "c6h_store.c");
    let answer = server.get("/store/x?b=2&a=1%202");
    assert_eq!(answer.text(), "/store/x v1 s2 k1 c0 | b=2 a=1 2 | 0 0 -1 1 0 0 -3 1");
    assert_eq!(answer.header("x-literal").as_deref(), Some("literal"));
    assert_eq!(answer.header("x-other").as_deref(), Some("other"));
}

#[test]
fn clean_sources_are_warned_of_nothing_and_find_the_old_server_s_own_names() {
    let server = Server::start();
    for name in ["c6h_clean.c", "c6_exposed.c"] {
        let said = deploy(&server, name).text();
        assert!(!said.contains("warning"), "{said}");
    }
    let answer = server.get("/clean?b=2&a=1%202");
    assert_eq!(answer.text(), "no struct cweb_context *;first;1;b=2|a=1 2|");
    assert_eq!(answer.header("x-literal").as_deref(), Some("lit"));
    assert_eq!(server.get("/exposed").text(), "1 1 0 1 0 0");
}

#[test]
fn a_uuid_has_its_first_name_in_sources_of_those_days() {
    let source = r#"#include <cweb.h>
static int start(cweb_context_t *ctx, http_request_t *req, http_response_t *res) {
    uuid_t id;
    sprintf(res->body, "%d %d", uuid_from_string(&id, "123e4567-e89b-12d3-a456-426614174000"), jobs_create("none", "{}", &id));
    return (void)ctx, (void)req, 0;
}
export module_t config = {"first-uuid", "old", {{"/uuid", "GET", start, NONE}}, 1};
"#;
    let server = Server::start();
    let said = server.deploy(source).text();
    assert!(!said.contains("warning"), "{said}");
    assert_eq!(server.get("/uuid").text(), "0 -1");
}

/// The counter with a context.
fn counter_of_today() -> String {
    "#include <cweb.h>\n\
     static int count(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {\n\
       (void)req; int *counter = container_get(ctx->cache, \"legacy_counter\");\n\
       snprintf(res->body, HTTP_RESPONSE_SIZE, \"count %d\", counter ? ++*counter : -1); return 0; }\n\
     export module_t config = {.name = \"legacy_counter\", .routes = {{\"/counter\", \"GET\", count, NONE}}, .size = 1};\n"
        .to_owned()
}

#[test]
fn generations_replace_each_other_under_load() {
    let server = Arc::new(Server::start());
    deploy(&server, "counter.c");
    let (ended, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..3)
        .map(|_| {
            let (server, ended, answered) = (Arc::clone(&server), Arc::clone(&ended), Arc::clone(&answered));
            std::thread::spawn(move || {
                let mut client = server.connect();
                while !ended.load(Ordering::Relaxed) {
                    let answer = client.get("/counter");
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    assert!(answer.text().starts_with("count ") && !answer.text().contains('-'), "{}", answer.text());
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for round in 0..4 {
        let before = answered.load(Ordering::Relaxed);
        let of_today = round % 2 == 0;
        let code = if of_today { counter_of_today() } else { source("counter.c") };
        server.deploy(&format!("{code}\n/* round {round} */\n"));
        eventually("the new version has answered", || answered.load(Ordering::Relaxed) > before + 10);
    }
    ended.store(true, Ordering::Relaxed);
    clients.into_iter().for_each(|client| client.join().unwrap());
}

fn refused(server: &Server, code: &str, words: &[&str]) {
    let response = server.try_deploy(code);
    assert_eq!(response.status, 422, "{}", response.text());
    for word in words {
        assert!(response.text().contains(word), "\"{word}\" is not in: {}", response.text());
    }
}

#[test]
fn handlers_of_both_kinds_in_one_table_are_refused_with_their_lines() {
    let server = Server::start();
    let mixed = "#include <cweb.h>\n\
        static int two(http_request_t *q, http_response_t *r) { (void)q; (void)r; return 0; }\n\
        static int three(struct cweb_context *c, http_request_t *q, http_response_t *r) { (void)c; (void)q; (void)r; return 0; }\n\
        export module_t config = {.name = \"mixed\", .routes = {\n\
        {\"/two\", \"GET\", two, NONE},\n\
        {\"/three\", \"GET\", three, NONE}}, .size = 2};\n";
    refused(
        &server,
        mixed,
        &["handlers of both kinds in one table", "module.c:5: {\"/two\"", "module.c:6: {\"/three\""],
    );
    let loose = mixed.replace("struct cweb_context *c", "void *c").replace("{\"/two\", \"GET\", two, NONE},", "");
    refused(&server, &loose, &["error:", "struct cweb_context *"]);
}

#[test]
fn functions_without_a_prototype_pass_for_no_handler_of_the_other_kind() {
    let server = Server::start();
    // The compiler takes each of them for a handler of any kind; the call for a helper of today asks for its headers.
    let table = "export module_t config = {.name = \"kr\", .routes = {{\"/kr\", \"GET\", two, NONE}}, .size = 1};\n";
    let body = "{ (void)q; cweb_respond(r, 200, NULL, \"x\"); return 0; }\n";
    let old_style =
        format!("#include <cweb.h>\nstatic int two(q, r) http_request_t *q; http_response_t *r; {body}{table}");
    refused(&server, &old_style, &["cweb_respond", "error:"]);
    let declared = format!(
        "#include <cweb.h>\nstatic int two();\n{table}static int two(http_request_t *q, http_response_t *r) {body}"
    );
    refused(&server, &declared, &["cweb_respond", "error:"]);
    // Where the words are right they are called as they are.
    let right = old_style.replace("cweb_respond(r, 200, NULL, \"x\")", "strcpy(r->body, \"old style\")");
    server.deploy(&right);
    assert_eq!(server.get("/kr").text(), "old style");
}

#[test]
fn undefined_functions_are_told_with_line_and_nearest_name_all_at_once() {
    let server = Server::start();
    let code = |body: &str| {
        format!(
            "#include <cweb.h>\nint declared_only(int);\nint declared_onyl(int x) {{ return x; }}\n\
             static int h(struct cweb_context *c, http_request_t *q, http_response_t *r) {{\n(void)c; (void)q; (void)r;\n\
             {body}\nreturn 0; }}\n\
             export module_t config = {{.name = \"u\", .routes = {{{{\"/u\", \"GET\", h, NONE}}}}, .size = 1}};\n"
        )
    };
    let both = code("cweb_respnd(r, 200, NULL, \"x\");\nsprntf(r->body, \"x\");");
    refused(&server, &both, &["module.c:6:", "'cweb_respond'", "module.c:7:", "'sprintf'", "error:"]);
    refused(
        &server,
        &code("declared_only(1);"),
        &["module.c:6: error: 'declared_only'", "did you mean 'declared_onyl'?"],
    );
    // The log has the first error and not the first line.
    let noisy = code("int unused;\nsprntf(r->body, \"x\");");
    refused(&server, &noisy, &["warning: unused variable", "error:"]);
    server.expect_log("a deployment was refused: module.c:7:1: error: implicit declaration of function");
    // In an older module it is no different.
    let older = source("counter.c").replace("calloc(1, sizeof *counter)", "new_counter()");
    refused(&server, &older, &["new_counter", "error:"]);
    let implicit_int = source("counter.c").replace("static int *counter;", "static int *counter;\nstatic number;");
    refused(&server, &implicit_int, &["type defaults to 'int'"]);
    let kept = server.deploy(&source("counter.c").replace("static void load", "static int never;\nstatic void load"));
    assert!(kept.text().contains("'never' defined but not used"), "{}", kept.text());
}

#[test]
fn a_source_without_line_breaks_or_without_cweb_h_is_refused_with_words() {
    let server = Server::start();
    let flat: String = source("counter.c").lines().collect();
    refused(&server, &flat, &["--data-binary @", "-F code=@"]);
    let http_only = "#include <http.h>\nint f(struct http_request *q, struct http_response *r) {\n\
        (void)q; (void)r; FILE *file = fopen(\"x\", \"r\"); if (file) fclose(file); return 0; }\n";
    refused(&server, http_only, &["exports no symbol `config`", "function_name"]);
    let nothing = "#include <stdio.h>\nint f(FILE *x);\nint f(FILE *x) {\nreturn fclose(x); }\n";
    refused(&server, nothing, &["module.c:4: error: fclose can't be called without the server's headers"]);
    server.deploy(
        "#include <http.h>\n#include <map.h>\n#include <cweb.h>\nexport module_t config = {.name = \"empty\"};\n",
    );
}

#[test]
fn what_an_older_server_has_compiled_is_compiled_again() {
    let mut server = Server::start();
    deploy(&server, "counter.c");
    server.terminate();
    let modules = server.dir.path().join("modules");
    let path = modules.join("legacy_counter.json");
    let record = std::fs::read_to_string(&path).unwrap();
    let record: serde_json::Value = serde_json::from_str(&record).unwrap();
    let key = record["key"].as_str().unwrap();
    // What the server of before made of the source must not be loaded: that it can't be is seen here.
    std::fs::write(modules.join(".objects/old.so"), "an object of another time").unwrap();
    std::fs::copy(modules.join(format!(".objects/{key}.c")), modules.join(".objects/old.c")).unwrap();
    std::fs::remove_file(modules.join(format!(".objects/{key}.so"))).unwrap();
    let mut old = record.clone();
    old["key"] = "old".into();
    old["manifest"].as_object_mut().unwrap().remove("api");
    old.as_object_mut().unwrap().remove("fields");
    std::fs::write(&path, old.to_string()).unwrap();
    let server = Server::on(&server.dir, &[], &[]);
    assert_eq!(server.get("/counter").text(), "count 1", "{}", server.log());
    let record: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!((record["key"].as_str(), record["manifest"]["api"].as_str()), (Some(key), Some("two_arguments")));
}

/// Old servers took such sources, so they are served; but not in silence.
#[test]
fn rows_behind_the_count_of_an_older_module_are_told() {
    let server = Server::start();
    let source = "#include <cweb.h>\n\
        static int f(struct http_request *q, struct http_response *r) { (void)q; strcpy(r->body, \"here\"); return 0; }\n\
        export module_t config = {.name = \"rows\", .author = \"a\",\n\
        .routes = {{\"/one\", \"GET\", f, NONE}, {\"/two\", \"GET\", f, NONE}}, .size = 1};\n";
    let answer = server.try_deploy(source);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let said = "config: warning: config.size is 1, but 2 routes are filled in";
    assert!(answer.text().contains(said), "{}", answer.text());
    assert_eq!((server.get("/one").status, server.get("/two").status), (200, 404));
}
