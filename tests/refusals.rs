//! What is wrong in a module's `config` does not deploy in silence.

use crate::support::{self, Response, Server, eventually, module};

const CODE: &str = r#"
static int f(struct cweb_context *c, http_request_t *q, http_response_t *r) { (void)c; (void)q; strcpy(r->body, "here"); return 0; }
__attribute__((unused)) static int run(struct cweb_context *c, const job_payload_t *p, job_ctx_t *j) { (void)c; (void)p; (void)j; return 0; }
"#;

fn deploy(server: &Server, name: &str, routes: &str, size: usize, fields: &str) -> Response {
    server.try_deploy(&module(name, CODE, routes, size, fields))
}

/// Refused, and each of `words` is in the answer, on a line of its own.
fn refused(answer: &Response, words: &[&str]) {
    let text = answer.text();
    assert_eq!(answer.status, 422, "{text}");
    for word in words {
        assert_eq!(text.lines().filter(|line| line.contains(word)).count(), 1, "{word} in {text}");
    }
    assert_eq!(text.trim_end().lines().count(), words.len(), "{text}");
}

#[test]
fn rows_behind_the_count_are_refused_with_the_right_count() {
    let server = Server::start();
    let two = r#"{"/a","GET",f,NONE},{"/b","GET",f,NONE}"#;
    refused(&deploy(&server, "less", two, 1, ""), &["config.size is 1, but 2 routes are filled in"]);
    let none = format!(
        "#include <cweb.h>\n{CODE}export module_t config = {{.name = \"none\", .routes = {{{two}}},
         .websockets = {{{{.path = \"/ws\"}}}}, .jobs = {{{{.name = \"j\", .run = run}}}}}};"
    );
    let answer = server.try_deploy(&none);
    let counts = ["write .size = 2", "config.ws_size is 0, but 1 websockets", "(the first left out is jobs[0], \"j\")"];
    refused(&answer, &counts);
    assert_eq!(server.get("/a").status, 404);
    let answer = deploy(&server, "less", two, 2, "");
    assert_eq!((answer.status, server.get("/b").text().as_str()), (200, "here"), "{}", answer.text());
}

#[test]
fn parameters_of_other_routers_and_captures_that_can_t_be_told_are_refused() {
    let server = Server::start();
    let routes = r#"{"/user/{id}","GET",f,NONE},{"/:a/:a","GET",f,NONE},{"/(a*)(a*)/:x","GET",f,NONE}"#;
    let expected = [r#"write "/user/:id""#, "two segments have the name :a", "can't be told apart in one pass"];
    refused(&deploy(&server, "params", routes, 3, ""), &expected);
    for path in ["/ws/{id}", "/ws/:a/:a", "/ws/[0-9", "ws/:id"] {
        let fields = format!(".websockets = {{{{.path = \"{path}\"}}}}, .ws_size = 1,");
        refused(&deploy(&server, "ws", r#"{"/a","GET",f,NONE}"#, 1, &fields), &["websockets[0]"]);
    }
    let right = r#"{"/user/:id","GET",f,NONE},{"/v1/users:batch","GET",f,NONE}"#;
    let fields = r#".websockets = {{.path = "/ws/v1.0"}}, .ws_size = 1,"#;
    assert_eq!(deploy(&server, "params", right, 2, fields).status, 200);
    assert_eq!((server.get("/user/7").status, server.get("/v1/users:batch").status), (200, 200));
    drop(server.websocket("/ws/v1.0"));
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let server = Server::start();
    let routes = r#"{"/a","BREW",f,NONE},{NULL,"GET",f,NONE},{"/mgnt/x","GET",f,NONE},{"/b","GET",NULL,NONE},{"/c","GET",f,NONE}"#;
    let fields =
        r#".websockets = {{.path = "ws"}}, .ws_size = 1, .jobs = {{.name = "j", .max_attempts = -1}}, .job_size = 1,"#;
    let places = [
        "config.size is 4, but 4 routes",
        "config.routes[1].path is NULL",
        "config.jobs[0].max_attempts is negative",
        "config.name has a control character",
        "routes[0] (/a): the method \"BREW\"",
        "routes[2]: /mgnt/x is the server's own",
        "routes[3] (GET /b) has no handler",
        "websockets[0]: the path \"ws\"",
    ];
    refused(&deploy(&server, "tab\\there", routes, 4, fields), &places);
}

#[test]
fn what_works_otherwise_than_meant_is_deployed_with_a_warning() {
    let server = Server::with(&["--route-body-bytes-max", "2097152", "--handler-timeout-ms", "5000"]);
    let routes = r#"{"/x/.*","GET",f,NONE},{"/x/1","GET",f,NONE},{"/big","POST",f,CWEB_BODY_MIB(3)},{"/long","GET",f,CWEB_TIMEOUT_S(6)},
        {"/fits","POST",f,CWEB_BODY_MIB(2)|CWEB_TIMEOUT_S(5)}"#;
    let answer = deploy(&server, "plain", routes, 5, "");
    let text = answer.text();
    assert_eq!(answer.status, 200, "{text}");
    for words in [
        "config: warning: GET /x/1 is never called: the earlier route /x/.* matches its requests",
        "config: warning: routes[2] (POST /big): CWEB_BODY_MIB(3) is beyond what the operator allows, 2097152 bytes",
        "config: note: routes[3] (GET /long)",
    ] {
        assert!(text.contains(words), "{text}");
    }
    assert_eq!(text.matches("warning:").count(), 2, "{text}");
    let again = server.try_deploy(&module("plain", CODE, routes, 5, "")).text();
    assert!(again.contains("GET /x/1 is never called"), "the same source is told the same: {again}");
}

#[test]
fn a_name_that_urls_have_to_escape_is_warned_of_and_works_escaped() {
    let server = Server::start();
    let answer = deploy(&server, "my module", r#"{"/m","GET",f,NONE}"#, 1, "");
    assert!(answer.status == 200 && answer.text().contains("/mgnt/my%20module"), "{}", answer.text());
    assert!(!deploy(&server, "plain-1.0_x", r#"{"/p","GET",f,NONE}"#, 1, "").text().contains("warning"));
    let restarted = server.connect().request("POST", "/mgnt/my%20module/restart", &[], b"");
    let expected = if support::isolation() == "process" { 200 } else { 409 };
    assert_eq!(restarted.status, expected, "{}", restarted.text());
    let removed = server.connect().request("DELETE", "/mgnt/my%20module", &[], b"");
    assert_eq!((removed.status, removed.text().as_str()), (200, "removed my module\n"));
    eventually("it is gone", || server.get("/m").status == 404);
}

#[test]
fn a_name_that_belongs_to_another_author_is_warned_of() {
    let server = Server::start();
    let by = |author: &str, text: &str| {
        let code = CODE.replace("here", text);
        let source = module("shop", &code, r#"{"/shop","GET",f,NONE}"#, 1, "");
        let at = source.find(".author").expect("the helper gives an author");
        let end = at + source[at..].find(',').unwrap();
        format!("{}.author = \"{author}\"{}", &source[..at], &source[end..])
    };
    assert!(!server.deploy(&by("ann", "one")).text().contains("author"));
    assert!(!server.deploy(&by("ann", "two")).text().contains("author"));
    let text = server.deploy(&by("bob", "three")).text();
    assert!(text.contains("the module shop of the author \"ann\" is replaced by a module of \"bob\""), "{text}");
    assert_eq!(server.get("/shop").text(), "three");
}

#[test]
fn a_source_with_http_h_alone_is_told_to_include_cweb_h() {
    let server = Server::start();
    for handler in
        ["struct cweb_context *c, http_request_t *q, http_response_t *r", "http_request_t *q, http_response_t *r"]
    {
        let answer = server.try_deploy(&format!(
            "#include <http.h>\nint f({handler});\nexport module_t config = {{.name = \"h\", .author = \"a\"}};\n"
        ));
        assert_eq!(answer.status, 422, "{}", answer.text());
        assert!(answer.text().contains("add: #include <cweb.h>"), "{handler}: {}", answer.text());
    }
}

/// `route_info_t.flags`: bits without a meaning are ignored. Three of them have one, in apps for nope.c and WAFer alone.
#[test]
fn a_module_is_no_app_by_the_flags_of_its_routes() {
    let server = Server::start();
    assert_eq!(deploy(&server, "first", r#"{"/a","GET",f,NONE}"#, 1, "").status, 200);
    let answer = deploy(&server, "second", r#"{"/a","GET",f,2|4|8}"#, 1, "");
    assert_eq!(answer.status, 409, "{}", answer.text());
}
