//! The module interface through the real server: every function and field that MODULE authors have.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::process::Command;
use std::sync::Arc;
use support::{Server, module, root};
use tungstenite::Message;

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

fn make_key(dir: &std::path::Path) {
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "server.key", "-out", "server.crt"])
        .args(["-days", "2", "-subj", "/CN=test"])
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(made.status.success());
}

#[test]
fn the_sdk_works_inside_a_module() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    make_key(dir.path());
    let server = Server::on(&dir, &[], &[]);
    server.deploy(&sdk_checks());
    for _ in 0..3 {
        assert_eq!(server.get("/sdk").text().trim(), "0 failed");
    }
}

const SERVICES: &str = r#"
#include <math.h>
#include <openssl/sha.h>
#define FAIL(why) do { snprintf(r->body, HTTP_RESPONSE_SIZE, "%s", why); return 0; } while (0)
#define REQUIRE(condition) do { if (!(condition)) FAIL(#condition); } while (0)
#define H(f) static int f(struct cweb_context *c, http_request_t *q, http_response_t *r)
#define OK do { strcpy(r->body, "ok"); return 0; } while (0)
export int twice(int n) { return 2 * n; }
H(request) { (void)c;
  REQUIRE(q->method == HTTP_POST && q->version == HTTP_VERSION_1_1 && q->status == HTTP_200_OK);
  REQUIRE(!strcmp(q->path, "/request%20x") && !strcmp(q->body, "a=1&a=2&B=%26") && q->content_length == 13 && q->body[13] == '\0');
  REQUIRE(q->keep_alive && !q->close && pthread_equal(q->tid, pthread_self()) && !q->websocket && !q->transfer_encoding_chunked);
  REQUIRE(http_kv_size(q->params) == 2 && !strcmp(http_kv_get(q->params, "X"), "1 2") && !strcmp(http_kv_get(q->params, "empty"), ""));
  REQUIRE(http_kv_size(q->data) == 2 && !strcmp(http_kv_get(q->data, "a"), "1") && !strcmp(http_kv_get(q->data, "b"), "&"));
  int host = 0; for (size_t i = 0; i < q->headers->size; i++) host |= !strcmp(q->headers->entries[i].key, "host");
  REQUIRE(host && !strcmp(http_methods[q->method], "POST") && !strcmp(http_kv_get(q->headers, "X-LONG"), "v"));
  REQUIRE(http_kv_insert(q->headers, "added", strdup("later")) == 0 && !strcmp(http_kv_get(q->headers, "Added"), "later"));
  OK; }
H(response) { (void)c; const char *how = http_kv_get(q->params, "how");
  REQUIRE(r->status == HTTP_200_OK && r->body[0] == '\0' && r->content_length == 0);
  if (!strcmp(how, "enum")) { r->status = HTTP_404_NOT_FOUND; strcpy(r->body, http_errors[r->status]); return 0; }
  if (!strcmp(how, "number")) { r->status = (http_error_t)299; return 7; }
  if (!strcmp(how, "bad")) { r->status = (http_error_t)9999; return 0; }
  if (!strcmp(how, "realloc")) { r->body = realloc(r->body, 100000); memset(r->body, 'r', 99999); r->body[99999] = '\0'; return 0; }
  if (!strcmp(how, "replace")) { free(r->body); r->body = strdup("replaced"); return 0; }
  if (!strcmp(how, "binary")) { memcpy(r->body, "a\0b", 3); r->content_length = 3; return 0; }
  if (!strcmp(how, "null")) { free(r->body); r->body = NULL; return 0; }
  if (!strcmp(how, "full")) { memset(r->body, 'f', HTTP_RESPONSE_SIZE); r->content_length = HTTP_RESPONSE_SIZE; return 0; }
  if (!strcmp(how, "headers")) { for (int i = 0; i < 20; i++) { char k[16]; snprintf(k, sizeof k, "X-%d", i); http_kv_insert(r->headers, k, strdup("v")); } OK; }
  FAIL("unknown"); }
H(services) { (void)q;
  REQUIRE(container_set(c->cache, "key", "value") == MAP_OK && !strcmp(container_get(c->cache, "key"), "value"));
  REQUIRE(container_remove(c->cache, "key") != NULL || container_get(c->cache, "key") == NULL);
  REQUIRE(c->cache->data != NULL && pthread_mutex_lock(&c->cache->mutex) == 0 && pthread_mutex_unlock(&c->cache->mutex) == 0);
  int (*f)(int) = (int (*)(int))c->symbols->resolv(c->symbols->user_data, "services", "twice");
  REQUIRE(f != NULL && f(21) == 42);
  REQUIRE(c->symbols->resolv(c->symbols->user_data, "services", "nothing") == NULL && c->symbols->resolv(c->symbols->user_data, "nobody", "twice") == NULL);
  cweb_uuid_t uuid; REQUIRE(jobs_create("job", "{}", &uuid) == -1 && uuid.str[0] == '\0');
  regex_t regex; REQUIRE(regcomp(&regex, "^a+$", REG_EXTENDED) == 0 && regexec(&regex, "aaa", 0, NULL, 0) == 0); regfree(&regex);
  json_t *json = json_pack("{s:i}", "n", 5); REQUIRE(json_integer_value(json_object_get(json, "n")) == 5); json_decref(json);
  unsigned char digest[SHA256_DIGEST_LENGTH]; SHA256((const unsigned char *)"abc", 3, digest); REQUIRE(digest[0] == 0xba);
  volatile double two = 2; REQUIRE(fabs(sqrt(two) * sqrt(two) - 2) < 1e-9);
  OK; }
static int count_rows(void *arg, int n, char **values, char **names) { (void)n; (void)values; (void)names; ++*(int *)arg; return 0; }
H(database) { (void)q; struct sqldb *d = c->database; sqlite3_stmt *s; const char *tail; int rows = 0;
  REQUIRE(d->db != NULL && d->exec(d, "CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, name TEXT, n INT); DELETE FROM t", NULL, NULL) == SQLITE_OK);
  REQUIRE(d->prepare(d, "INSERT INTO t (name, n) VALUES (?, ?)", -1, &s, &tail) == SQLITE_OK);
  REQUIRE(d->bind_text(s, 1, "it's", -1, SQLITE_TRANSIENT) == SQLITE_OK && d->bind_int(s, 2, 7) == SQLITE_OK && d->step(s) == SQLITE_DONE);
  REQUIRE(d->changes(d) == 1 && d->last_insert_rowid(d) >= 1 && d->reset(s) == SQLITE_OK && d->step(s) == SQLITE_DONE && d->finalize(s) == SQLITE_OK);
  REQUIRE(d->exec(d, "SELECT * FROM t", count_rows, &rows) == SQLITE_OK && rows == 2);
  REQUIRE(d->prepare(d, "SELECT name, n FROM t", -1, &s, &tail) == SQLITE_OK && d->step(s) == SQLITE_ROW && d->column_count(s) == 2);
  REQUIRE(!strcmp(d->column_text(s, 0), "it's") && d->column_int(s, 1) == 7 && d->finalize(s) == SQLITE_OK);
  char *text = sqlite3_mprintf("%d", 1); d->free(text);
  REQUIRE(d->exec(d, "nonsense", NULL, NULL) != SQLITE_OK && d->exec(d, "CREATE TABLE jobs (x)", NULL, NULL) != SQLITE_OK);
  OK; }
static int order[3], seen;
static void work(void *data) { order[seen++] = *(int *)data; }
H(schedule) { (void)q; static int numbers[] = {1, 2, 3}; seen = 0; for (int i = 0; i < 3; i++) scheduler_add(c->scheduler, work, &numbers[i], ASYNC);
  scheduler_add(c->scheduler, work, NULL, NONE + ASYNC == SYNC ? ASYNC : ASYNC) ; OK; }
H(scheduled) { (void)c; (void)q; snprintf(r->body, HTTP_RESPONSE_SIZE, "%d%d%d", order[0], order[1], order[2]); return 0; }
H(sign) { (void)q; struct crypto *k = c->crypto; char out[1024];
  if (k->status != CRYPTO_LOADED) { REQUIRE(k->ops.sign_token(k, "t", out, sizeof out) == -1 && k->ops.verify_token(k, "t", "t", 1) == -1); FAIL("no key"); }
  REQUIRE(k->ops.sign_token(k, "token", out, sizeof out) > 0 && k->ops.verify_token(k, out, "token", 5) == 0 && k->ops.verify_token(k, out, "t0ken", 5) == -1);
  REQUIRE(k->ops.sign_token(k, "token", out, 8) == -1);
  OK; }
static void on_open(struct cweb_context *c, websocket_t *w) { (void)c; char t[64]; int n = snprintf(t, sizeof t, "%s %d", w->session ? w->session : "none", w->client_fd >= 0);
  free(w->session); w->session = strdup("mine"); w->send(w, t, (size_t)n); }
static void on_message(struct cweb_context *c, websocket_t *w, const char *m, size_t n) { (void)c; (void)m; (void)n; websocket_t *all[] = {w, w}; w->send(w, w->session, 4); cweb_ws_broadcast(all, 2, "twice", 5); }
"#;

fn services() -> String {
    let routes = r#"{"/request%20x","POST",request,NONE},{"/response","GET",response,NONE},{"/services","GET",services,NONE},{"/database","GET",database,NONE},
        {"/schedule","GET",schedule,NONE},{"/scheduled","GET",scheduled,NONE},{"/sign","GET",sign,NONE}"#;
    let code = SERVICES
        .replace("  scheduler_add(c->scheduler, work, NULL, NONE + ASYNC == SYNC ? ASYNC : ASYNC) ; OK; }", "  OK; }");
    module("services", &code, routes, 7, r#".websockets = {{"/ws", on_open, on_message, NULL}}, .ws_size = 1,"#)
}

#[test]
fn requests_responses_and_services() {
    let server = Server::start();
    server.deploy(&services());
    let headers = [("Content-Type", "application/x-www-form-urlencoded; charset=utf-8"), ("X-Long", "v")];
    let request = server.connect().request("POST", "/request%20x?x=1+2&empty", &headers, b"a=1&a=2&B=%26");
    assert_eq!(request.text(), "ok");
    for path in ["/services", "/database", "/database", "/schedule"] {
        assert_eq!(server.get(path).text(), "ok", "{path}");
    }
    support::eventually("works run in order", || server.get("/scheduled").text() == "123");
    assert_eq!(server.get("/sign").text(), "no key");
    let mut client = server.connect();
    let mut how = |how: &str| {
        let response = client.get(&format!("/response?how={how}"));
        (response.status, response.body)
    };
    for _ in 0..3 {
        assert_eq!(how("enum"), (404, b"404 Not Found".to_vec()));
        assert_eq!(how("number").0, 299);
        assert_eq!(how("bad").0, 500);
        assert_eq!(how("realloc"), (200, vec![b'r'; 99_999]));
        assert_eq!(how("replace"), (200, b"replaced".to_vec()));
        assert_eq!(how("binary"), (200, b"a\0b".to_vec()));
        assert_eq!(how("null"), (200, Vec::new()));
        assert_eq!(how("full"), (200, vec![b'f'; 8192]));
        assert_eq!(how("headers"), (200, b"ok".to_vec()));
    }
    let mut socket = server.websocket("/ws?id=a%20b");
    assert_eq!(socket.read().unwrap(), Message::text("a b|0 1"));
    socket.send(Message::text("?")).unwrap();
    for text in ["mine", "twice", "twice"] {
        assert_eq!(socket.read().unwrap(), Message::text(text));
    }
}

#[test]
fn tokens_are_signed_with_the_servers_key() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    make_key(dir.path());
    let path = |name: &str| dir.path().join(name).display().to_string();
    let server = Server::on(&dir, &["--tls-cert", &path("server.crt"), "--tls-key", &path("server.key")], &[]);
    server.deploy(&services());
    assert_eq!(server.get("/sign").text(), "ok");
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
