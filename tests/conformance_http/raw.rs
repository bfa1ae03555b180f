//! Raw bytes to a real server, and what comes back.

use crate::support::{Client, Response, Server, module};
use std::io::Write;
use std::time::Duration;

/// A request that is right, to stand behind others.
pub const NEXT: &[u8] = b"GET /fast HTTP/1.1\r\nHost: x\r\n\r\n";

/// A server with a module that has a route for each thing a test needs.
pub fn lab() -> Server {
    lab_with(&[])
}

pub fn lab_with(args: &[&str]) -> Server {
    let server = Server::with(args);
    server.deploy(&source());
    server
}

fn source() -> String {
    let code = r#"
#define H(f) static int f(struct cweb_context *c, http_request_t *q, http_response_t *r)
#define OR(text) ((text) ? (text) : "-")
static void on_message(struct cweb_context *c, websocket_t *w, const char *m, size_t n) { (void)c; w->send(w, m, n); }
H(echo) { (void)c; free(r->body); r->body = malloc((size_t)q->content_length + 1);
  memcpy(r->body, q->body, (size_t)q->content_length + 1); r->content_length = q->content_length; return 0; }
H(slow) { (void)c; (void)q; struct timespec t = {0, 100000000}; nanosleep(&t, NULL); strcpy(r->body, "slow"); return 0; }
H(fast) { (void)c; (void)q; strcpy(r->body, "fast"); return 0; }
H(big) { (void)c; (void)q; size_t n = 1000000; free(r->body); r->body = malloc(n); memset(r->body, 'x', n); r->content_length = (int)n; return 0; }
H(status) { (void)c; r->status = (http_error_t)atoi(q->path + strlen("/status/")); strcpy(r->body, "content"); return 0; }
H(split) { (void)c; (void)q; http_kv_insert(r->headers, "X-Good", strdup("caf\xe9"));
  http_kv_insert(r->headers, "X-Cr", strdup("a\rEvil: 1")); http_kv_insert(r->headers, "X-Lf", strdup("a\nEvil: 1"));
  http_kv_insert(r->headers, "X-Crlf", strdup("a\r\nEvil: 1\r\n\r\nHTTP/1.1 200 OK\r\n")); http_kv_insert(r->headers, "X\r\nEvil", strdup("1"));
  http_kv_insert(r->headers, "X-Control", strdup("a\001b")); http_kv_insert(r->headers, "X Space", strdup("v"));
  http_kv_insert(r->headers, "Content-Length", strdup("99")); http_kv_insert(r->headers, "Transfer-Encoding", strdup("chunked"));
  strcpy(r->body, "ok"); return 0; }
H(show) { (void)c; const char *p = http_kv_get(q->params, "p"), *x = http_kv_get(q->headers, "x"), *h = http_kv_get(q->headers, "host"), *t = http_kv_get(q->headers, "trailer-field");
  snprintf(r->body, HTTP_RESPONSE_SIZE, "path=%s p=%s host=%s x=%s t=%s version=%d chunked=%d body=%s", q->path, OR(p), OR(h), OR(x), OR(t), q->version, q->transfer_encoding_chunked, q->body); return 0; }
"#;
    let routes = r#"{"/echo","POST",echo,NONE},{"/echo","PUT",echo,NONE},{"/slow","GET",slow,NONE},{"/fast","GET",fast,NONE},
        {"/inline","GET",fast,CWEB_INLINE},{"/big","GET",big,NONE},{"/big-inline","GET",big,CWEB_INLINE},{"/status/[0-9]+","GET",status,NONE},
        {"/split","GET",split,NONE},{"/show","GET",show,NONE},{"/show","POST",show,NONE},{"/files/.*","GET",show,NONE},{"/","GET",show,NONE}"#;
    let fields = r#".websockets = {{.path = "/ws", .on_message = on_message}}, .ws_size = 1,"#;
    module("lab", code, routes, 13, fields)
}

/// Ways for bytes to arrive: together, in two pieces, one at a time.
fn arrivals(bytes: &[u8]) -> Vec<Vec<&[u8]>> {
    let (front, back) = bytes.split_at(bytes.len() / 2);
    let mut ways = vec![vec![bytes], vec![front, back]];
    if bytes.len() < 600 {
        ways.push(bytes.chunks(1).collect());
    }
    ways
}

/// Sends `pieces`; a server that has heard enough need not take them all.
pub fn send_pieces(client: &mut Client, pieces: &[&[u8]]) {
    for (at, piece) in pieces.iter().enumerate() {
        if at > 0 && pieces.len() < 8 {
            std::thread::sleep(Duration::from_millis(5)); // So that the pieces are received as such.
        }
        if client.stream.write_all(piece).is_err() {
            return;
        }
    }
}

/// The answer to `request` is `status`, the last one of its connection; what stands behind the request is not looked at, and
/// the connection ends with a FIN that leaves the answer readable.
pub fn refused(server: &Server, request: impl AsRef<[u8]>, status: u16) {
    let request = request.as_ref();
    let shown = String::from_utf8_lossy(&request[..request.len().min(300)]).into_owned();
    let bytes = [request, NEXT].concat();
    for pieces in arrivals(&bytes) {
        let mut client = server.connect();
        send_pieces(&mut client, &pieces);
        let response = client.response();
        assert_eq!(response.status, status, "{shown:?} {}", response.text());
        assert_eq!(response.header("connection").as_deref(), Some("close"), "{shown:?}");
        assert!(client.try_response("GET").is_none(), "more than one answer: {shown:?}");
    }
}

/// `request` is answered and the connection goes on with the request behind it. Gives the answer.
pub fn served(server: &Server, request: impl AsRef<[u8]>) -> Response {
    let request = request.as_ref();
    let shown = String::from_utf8_lossy(&request[..request.len().min(300)]).into_owned();
    let method = shown.trim_start().split(' ').next().unwrap().to_owned();
    let bytes = [request, NEXT].concat();
    let mut first: Option<Response> = None;
    for pieces in arrivals(&bytes) {
        let mut client = server.connect();
        send_pieces(&mut client, &pieces);
        let response = client.response_to(&method);
        assert_eq!(client.response().text(), "fast", "{shown:?} was answered {}", response.head);
        let before = first.get_or_insert_with(|| response.clone());
        assert_eq!(before.status, response.status, "{shown:?}: its pieces matter");
        assert!(before.text() == response.text() || shown.contains("/metrics"), "{shown:?}: its pieces matter");
    }
    first.unwrap()
}

/// Like [`served`], for a request that is fulfilled: the text of the answer.
pub fn text(server: &Server, request: impl AsRef<[u8]>) -> String {
    let response = served(server, request);
    assert_eq!(response.status, 200, "{}", response.text());
    response.text()
}

/// A GET of `target` with `fields`, each ended by CRLF, besides `Host`.
pub fn get(target: &str, fields: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: x\r\n{fields}\r\n")
}

/// A POST to /echo with `fields` besides `Host`, and what follows the head.
pub fn post(fields: &str, rest: &str) -> String {
    format!("POST /echo HTTP/1.1\r\nHost: x\r\n{fields}\r\n{rest}")
}

/// A POST to /echo whose body is `chunks`.
pub fn chunked(chunks: &str) -> String {
    post("Transfer-Encoding: chunked\r\n", chunks)
}
