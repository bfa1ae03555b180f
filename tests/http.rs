//! HTTP/1.1 through the real server.

use crate::support::{self, Client, Server, module};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

/// A module with a route for each thing a test needs.
fn lab() -> String {
    let code = r#"
#define H(f) static int f(struct cweb_context *c, http_request_t *q, http_response_t *r)
H(echo) { (void)c; free(r->body); r->body = malloc((size_t)q->content_length + 1);
  memcpy(r->body, q->body, (size_t)q->content_length + 1); r->content_length = q->content_length; return 0; }
H(slow) { (void)c; (void)q; struct timespec t = {0, 150000000}; nanosleep(&t, NULL); strcpy(r->body, "slow"); return 0; }
H(fast) { (void)c; (void)q; strcpy(r->body, "fast"); return 0; }
H(big) { (void)c; (void)q; size_t n = 20000000; free(r->body); r->body = malloc(n); memset(r->body, 'x', n); r->content_length = (int)n; return 0; }
H(split) { (void)c; (void)q; http_kv_insert(r->headers, "X-Good", strdup("yes")); http_kv_insert(r->headers, "X-Bad", strdup("a\r\nEvil: 1"));
  http_kv_insert(r->headers, "X Name", strdup("v")); strcpy(r->body, "ok"); return 0; }
H(show) { (void)c; const char *p = http_kv_get(q->params, "P"), *d = http_kv_get(q->data, "d"), *h = http_kv_get(q->headers, "X-H");
  snprintf(r->body, HTTP_RESPONSE_SIZE, "%s|%s|%s|%s|%d|%d|%d", q->path, p ? p : "-", d ? d : "-", h ? h : "-", q->keep_alive, q->version, q->transfer_encoding_chunked); return 0; }
H(own) { (void)c; (void)q; r->status = (http_error_t)418; http_kv_insert(r->headers, "Access-Control-Allow-Origin", strdup("https://a")); return 0; }
H(large) { (void)c; (void)q; size_t n = 1500000; free(r->body); r->body = malloc(n); memset(r->body, 'l', n); r->content_length = (int)n; return 0; }
H(eight) { (void)c; (void)q; memset(r->body, 'e', 8000); r->body[8000] = '\0'; return 0; }
H(opts) { (void)c; (void)q; strcpy(r->body, "mine"); return 0; }
H(opts2) { (void)c; (void)q; http_kv_insert(r->headers, "access-control-Max-Age", strdup("7")); http_kv_insert(r->headers, "Access-Control-Allow-Origin", strdup("https://a"));
  http_kv_insert(r->headers, "Access-Control-Allow-Methods", strdup("BREW")); strcpy(r->body, "mine"); return 0; }
"#;
    let routes = r#"{"/echo","POST",echo,NONE},{"/slow","GET",slow,NONE},{"/fast","GET",fast,NONE},{"/inline","GET",fast,CWEB_INLINE},
        {"/big","GET",big,NONE},{"/split","GET",split,NONE},{"/show","GET",show,NONE},{"/show","POST",show,NONE},{"/own","GET",own,NONE},
        {"/opts","OPTIONS",opts,NONE},{"/item/[0-9]+","GET",show,NONE},{"/inline-8k","GET",eight,CWEB_INLINE},{"/large","POST",large,NONE},
        {"/opts-inline","OPTIONS",opts,CWEB_INLINE},{"/opts2","OPTIONS",opts2,NONE},{"/opts2-inline","OPTIONS",opts2,CWEB_INLINE}"#;
    module("lab", code, routes, 16, "")
}

fn server() -> Server {
    let server = Server::with(&["--shards", "2"]);
    server.deploy(&lab());
    server
}

#[test]
fn bodies_by_length_and_in_chunks_whole_and_in_pieces() {
    let server = server();
    let binary: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    assert_eq!(server.post("/echo", &binary).body, binary);
    let mut client = server.connect();
    let mut raw = b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for chunk in binary[..5000].chunks(700) {
        raw.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        raw.extend_from_slice(chunk);
        raw.extend_from_slice(b"\r\n");
    }
    raw.extend_from_slice(b"0\r\n\r\n");
    client.send(&raw);
    assert_eq!(client.response().body, &binary[..5000]);
    for piece in raw.chunks(1000) {
        client.send(piece);
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(client.response().body, &binary[..5000]);
    // Half a second of silence within a request is no reason to give up.
    let (head, tail) = raw.split_at(40);
    client.send(head);
    std::thread::sleep(Duration::from_millis(600));
    client.send(tail);
    assert_eq!(client.response().body.len(), 5000);
    std::thread::sleep(Duration::from_millis(1200));
    assert_eq!(client.get("/fast").text(), "fast");
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = server();
    let mut client = server.connect();
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    let post = "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody";
    let order = ["/slow", "/fast", "/inline", "/nope", "/slow", "/fast"];
    let mut raw: String = order.iter().map(|path| get(path)).collect();
    raw.push_str(post);
    raw.push_str(&get("/fast"));
    client.send(raw.as_bytes());
    let texts: Vec<String> = (0..8).map(|_| client.response().text()).collect();
    assert_eq!(texts, ["slow", "fast", "fast", "no module serves this path\n", "slow", "fast", "body", "fast"]);
    let many = get("/inline").repeat(200) + &get("/fast").repeat(200);
    client.send(many.as_bytes());
    assert!((0..400).all(|_| client.response().text() == "fast"));
}

#[test]
fn a_pipeline_whose_answers_leave_at_once_goes_on() {
    let server = server();
    let mut client = server.connect();
    // More than may be unsent (1 MiB), made within one event, and taken by a reader that is fast enough in one send.
    let many = "GET /inline-8k HTTP/1.1\r\nHost: x\r\n\r\n".repeat(1000);
    let mut stream = client.stream.try_clone().unwrap();
    let sender = std::thread::spawn(move || std::io::Write::write_all(&mut stream, many.as_bytes()).unwrap());
    assert!((0..1000).all(|_| client.response().body.len() == 8000));
    sender.join().unwrap();
    // The same of one large answer behind which requests wait.
    let post = "POST /large HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n";
    let get = "GET /fast HTTP/1.1\r\nHost: x\r\n\r\n";
    for _ in 0..5 {
        client.send([get, post, get].concat().as_bytes());
        assert_eq!([(); 3].map(|()| client.response().body.len()), [4, 1_500_000, 4]);
    }
}

#[test]
fn rfc_9112_9_3_keep_alive_and_close() {
    let server = server();
    let mut client = server.connect();
    assert_eq!(
        client.request("GET", "/fast", &[("Connection", "close")], b"").header("connection").as_deref(),
        Some("close")
    );
    assert!(client.is_closed());
    let mut client = server.connect();
    client.send(b"GET /fast HTTP/1.0\r\n\r\n");
    assert_eq!(client.response().status, 200);
    assert!(client.is_closed());
    let mut client = server.connect();
    client.send(
        b"GET /fast HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /fast HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    );
    assert_eq!(client.response().header("connection").as_deref(), Some("keep-alive"));
    assert_eq!(client.response().text(), "fast");
    // A client that has said all it has to say still gets its answers.
    let mut client = server.connect();
    client.send(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n");
    client.finish();
    assert_eq!(client.response().text(), "slow");
    assert!(client.is_closed());
}

#[test]
fn head_options_cors_date_and_expect() {
    let server = server();
    let mut client = server.connect();
    let head = client.request("HEAD", "/fast", &[], b"");
    assert_eq!((head.status, head.header("content-length").as_deref()), (200, Some("4")));
    let get = client.get("/fast");
    assert_eq!(get.header("access-control-allow-origin").as_deref(), Some("*"));
    assert!(get.header("date").unwrap().ends_with(" GMT"));
    let options = client.request("OPTIONS", "/anything", &[], b"");
    assert_eq!((options.status, options.header("access-control-max-age").as_deref()), (200, Some("600")));
    assert!(options.header("access-control-allow-methods").unwrap().contains("DELETE"));
    assert!(options.header("access-control-allow-headers").is_some());
    // A handler of the module's own answers, and says what it wants to say itself.
    let allows = |response: &support::Response| {
        ["origin", "methods", "headers"].map(|what| response.header(&format!("access-control-allow-{what}")))
    };
    let [_, methods, headers] = allows(&options);
    for path in ["/opts", "/opts-inline"] {
        let own = client.request("OPTIONS", path, &[], b"");
        assert_eq!((own.status, own.text().as_str()), (200, "mine"));
        assert_eq!(allows(&own), [Some("*".to_owned()), methods.clone(), headers.clone()], "{path}");
        assert_eq!(own.header("access-control-max-age").as_deref(), Some("600"));
    }
    for path in ["/opts2", "/opts2-inline"] {
        let own = client.request("OPTIONS", path, &[], b"");
        assert_eq!(allows(&own), [Some("https://a".to_owned()), Some("BREW".to_owned()), headers.clone()], "{path}");
        assert_eq!(own.header("access-control-max-age").as_deref(), Some("7"));
        assert_eq!(own.head.to_ascii_lowercase().matches("max-age").count(), 1);
    }
    assert!(get.header("access-control-allow-methods").is_none());
    let own = client.get("/own");
    assert_eq!((own.status, own.header("access-control-allow-origin").as_deref()), (418, Some("https://a")));
    client.send(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(client.response().status, 100);
    client.send(b"ok");
    assert_eq!(client.response().text(), "ok");
    assert_eq!(client.get("/favicon.ico").status, 404);
}

#[test]
fn limits_methods_and_patterns() {
    let server = server();
    assert_eq!(server.post("/echo", &vec![0; 1024 * 1024]).status, 200);
    assert_eq!(server.post("/echo", &vec![0; 1024 * 1024 + 1]).status, 413);
    let not_allowed = server.post("/fast", b"");
    assert_eq!((not_allowed.status, not_allowed.header("allow").as_deref()), (405, Some("GET, HEAD, OPTIONS")));
    assert_eq!(server.get("/item/12").status, 200);
    assert_eq!(server.get("/item/x").status, 404);
}

#[test]
fn parameters_forms_and_headers_reach_the_handler() {
    let server = server();
    let mut client = server.connect();
    let headers = [("X-h", "one"), ("x-H", "two")];
    let shown = client.request("GET", "/show?P=a%20b+c&P=second", &headers, b"");
    assert_eq!(shown.text(), "/show|a b c|-|one|1|1|0");
    let form = [("Content-Type", "application/x-www-form-urlencoded")];
    assert_eq!(client.request("POST", "/show", &form, b"x=1&d=%2Fv").text(), "/show|-|/v|-|1|1|0");
    let form = [("Content-Type", "multipart/form-data; boundary=B")];
    let body = b"--B\r\nContent-Disposition: form-data; name=\"d\"\r\n\r\nmulti\r\n--B--\r\n";
    assert_eq!(client.request("POST", "/show", &form, body).text(), "/show|-|multi|-|1|1|0");
    let split = client.get("/split");
    assert_eq!((split.status, split.header("x-good").as_deref()), (200, Some("yes")));
    assert!(split.header("x-bad").is_none() && split.header("evil").is_none());
    server.expect_log("2 response header(s)");
}

#[test]
fn a_slow_reader_gets_a_large_answer_and_delays_nobody() {
    let server = server();
    let mut slow = server.connect();
    slow.send(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n");
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(server.get("/fast").text(), "fast");
    let body = slow.response().body;
    assert!(body.len() == 20_000_000 && body.iter().all(|&byte| byte == b'x'));
}

#[test]
fn other_addresses_and_curl() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listen = format!("unix:{}", path.display());
    let server = Server::with(&["--listen", &listen, "--listen", "[::1]:0"]);
    server.deploy(&lab());
    let mut unix = UnixStream::connect(&path).unwrap();
    unix.write_all(b"GET /fast HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    unix.read_to_string(&mut text).unwrap();
    assert!(text.ends_with("fast"), "{text}");
    server.expect_log("listening on http://[::1]:");
    let log = server.log();
    let v6 = log.lines().find_map(|line| line.strip_prefix("listening on http://[::1]")).unwrap();
    assert_eq!(Client::connect(&format!("[::1]{v6}")).get("/fast").text(), "fast");
    let url = format!("http://{}/echo", server.addr);
    let curl = Command::new("curl").args(["-sS", "--data-binary", "from curl", &url]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&curl.stdout), "from curl");
}

#[test]
fn slow_senders_are_closed_in_time_and_others_are_not() {
    let server = Server::with(&["--header-timeout-ms", "300", "--body-timeout-ms", "300", "--idle-timeout-ms", "5000"]);
    server.deploy(&lab());
    let mut half_head = server.connect();
    half_head.send(b"GET /fast HT");
    let mut half_body = server.connect();
    half_body.send(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf");
    let mut idle = server.connect();
    assert_eq!(idle.get("/fast").text(), "fast");
    assert_eq!(half_head.response().status, 408);
    assert_eq!(half_body.response().status, 408);
    assert!(idle.is_closed());
    assert_eq!(server.get("/fast").text(), "fast");
}

#[test]
fn the_stop_answers_what_is_running() {
    let mut server = Server::with(&["--shards", "2", "--shutdown-timeout-ms", "60000"]);
    server.deploy(&lab());
    let mut busy = server.connect();
    let mut idle = server.connect();
    assert_eq!(idle.get("/fast").text(), "fast");
    busy.send(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n");
    std::thread::sleep(Duration::from_millis(50));
    server.terminate();
    assert_eq!(busy.response().text(), "slow");
    assert!(busy.is_closed() && idle.is_closed());
}
