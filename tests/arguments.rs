//! A function that takes another number of arguments than the server would call it with is refused, by whatever way the compiler was
//! kept from seeing it; what the functions take as it should be deploys, however it is spelled.

use crate::support::Server;

/// Functions of all kinds. `TYPES` comes first.
const TWO: &str =
    "static int two(http_request_t *q, http_response_t *r) { (void)q; strcpy(r->body, \"two\"); return 0; }\n";
const THREE: &str = "static int three(struct cweb_context *c, http_request_t *q, http_response_t *r) { (void)c; (void)q; strcpy(r->body, \"three\"); return 0; }\n";
const KR_TWO: &str = "struct cweb_context;\nstatic int two(q, r) http_request_t *q; http_response_t *r; { (void)q; strcpy(r->body, \"two\"); return 0; }\n";
const VOID_THREE: &str = "static int three(void *c, struct http_request *q, struct http_response *r) { (void)c; (void)q; strcpy(r->body, \"three\"); return 0; }\n";
const KR_THREE: &str = "static int three(c, q, r) void *c; struct http_request *q; struct http_response *r; { (void)c; (void)q; strcpy(r->body, \"three\"); return 0; }\n";
const OLD_TWO: &str = "static int two(struct http_request *q, struct http_response *r) { (void)q; strcpy(r->body, \"two\"); return 0; }\n";

fn source(code: &str, routes: &str, count: usize, fields: &str) -> String {
    format!(
        "#include <cweb.h>\n#include <stdlib.h>\n#include <string.h>\n{code}\nexport module_t config = {{.name = \"kinds\", .author = \"tests\", \
         .routes = {{{routes}}}, .size = {count}, {fields}}};\n"
    )
}

#[test]
fn nothing_hides_what_a_function_takes() {
    let server = Server::start();
    let both = format!("{TWO}{THREE}");
    let late = "int late();\n";
    let pragma = format!("#pragma GCC diagnostic ignored \"-Wincompatible-pointer-types\"\n{both}");
    let first = r#"{"/kinds", "GET", (entry_t)two, NONE}, {"/right", "GET", three, NONE}"#;
    let second = r#"{"/right", "GET", three, NONE}, {"/kinds", "GET", (void *)two, NONE}"#;
    let plain = r#"{"/right", "GET", three, NONE}, {"/kinds", "GET", two, NONE}"#;
    let cold = both.replace("strcpy(r->body, \"two\")", "if (q->body == NULL) { abort(); } strcpy(r->body, \"two\")");
    for (code, routes, count, fields, place, takes, gets) in [
        (both.as_str(), first, 2, "", "routes[0].handler", 2, 3),
        (&both, second, 2, "", "routes[1].handler", 2, 3),
        (&cold, second, 2, "", "routes[1].handler", 2, 3),
        (&pragma, plain, 2, "", "routes[1].handler", 2, 3),
        (KR_TWO, r#"{"/kinds", "GET", two, NONE}"#, 1, "", "routes[0].handler", 2, 3),
        (KR_THREE, r#"{"/kinds", "GET", three, NONE}"#, 1, "", "routes[0].handler", 3, 2),
        (VOID_THREE, r#"{"/kinds", "GET", (entry_t)three, NONE}"#, 1, "", "routes[0].handler", 3, 2),
        (VOID_THREE, r#"{"/kinds", "GET", (void *)three, NONE}"#, 1, "", "routes[0].handler", 3, 2),
        (
            &format!("{OLD_TWO}static void opens(void *c, struct websocket *ws) {{ (void)c; ws->close(ws); }}"),
            r#"{"/right", "GET", two, NONE}"#,
            1,
            ".websockets = {{\"/ws\", (void *)opens, NULL, NULL}}, .ws_size = 1,",
            "websockets[0].on_open",
            2,
            1,
        ),
        (
            &format!("{OLD_TWO}static void loads(void *c) {{ *(int *)c = 1; }}"),
            r#"{"/right", "GET", two, NONE}"#,
            1,
            ".onload = (void *)loads,",
            "onload",
            1,
            0,
        ),
        (
            &format!(
                "{THREE}static int run(const job_payload_t *p, job_ctx_t *j) {{ return j->set_result(j, p->json); }}"
            ),
            r#"{"/right", "GET", three, NONE}"#,
            1,
            ".jobs = {{.name = \"j\", .run = (job_run_t)run}}, .job_size = 1,",
            "jobs[0].run",
            2,
            3,
        ),
    ] {
        let answer = server.try_deploy(&source(code, routes, count, fields));
        let words = format!("config.{place}: the function takes {takes} arguments, but would be called with {gets}");
        assert!(answer.status == 422 && answer.text().contains(&words), "{words}: {}\n{code}", answer.text());
    }
    let text =
        source(late, r#"{"/kinds", "GET", late, NONE}"#, 1, "") + &VOID_THREE.replace("static int three", "int late");
    let answer = server.try_deploy(&text);
    assert!(answer.status == 422 && answer.text().contains("takes 3 arguments"), "{}", answer.text());
    assert_eq!((server.get("/kinds").status, server.get("/right").status), (404, 404));
}

#[test]
fn functions_that_take_what_they_get_are_served() {
    let server = Server::start();
    let late = "int late();\n";
    let one = |function: &str| format!("{{\"/kinds\", \"GET\", {function}, NONE}}");
    let nested = THREE.replace("(void)c; (void)q;", "(void)c; (void)q; int inner(int a, int b, int d, int e) { return a + b + d + e; } r->status = inner(50, 50, 50, 50);");
    let inlined = format!(
        "static inline {}int calls(void);\nint calls(void) {{ return three(NULL, NULL, NULL); }}\n",
        THREE.trim_start_matches("static ")
    );
    let unlikely = THREE.replace("(void)q;", "if (q->body == NULL) { abort(); }");
    let recursive =
        THREE.replace("(void)q;", "if (q->status == 77) { q->status = 0; return three(c, q, r); }").replace(
            "static int three",
            "static int three(struct cweb_context *, http_request_t *, http_response_t *);\nstatic int three",
        );
    let ignores = "static int none(void) { return 0; }\n".to_owned() + THREE;
    for (code, routes, count, expected) in [
        (OLD_TWO.to_owned(), one("(entry_t)two"), 1, "two"),
        (OLD_TWO.to_owned(), one("(void *)two"), 1, "two"),
        (THREE.to_owned(), one("(entry_t)three"), 1, "three"),
        (nested, one("three"), 1, "three"),
        (inlined, one("three"), 1, "three"),
        (unlikely, one("three"), 1, "three"),
        (recursive, one("three"), 1, "three"),
        (ignores, one("(entry_t)none") + ", " + &one("three").replace("kinds", "more"), 2, ""),
        (late.to_owned() + &OLD_TWO.replace("static int two", "int late"), one("late"), 1, "two"),
    ] {
        let answer = server.try_deploy(&source(&code, &routes, count, ""));
        assert_eq!((answer.status, server.get("/kinds").text().as_str()), (200, expected), "{}\n{code}", answer.text());
    }
}
