//! Large bodies of requests and answers, on both sides of the size from which an isolated module's are handed over by
//! reference.

use crate::support::{Client, Server, eventually, module};
use std::io::{Read, Write};
use std::sync::Arc;

/// `/echo` answers its body with every byte changed; `/make?bytes=N` answers N bytes of a pattern; `/none` sets a body on 204.
fn lab() -> String {
    let code = r#"
#define H(f) static int f(struct cweb_context *c, http_request_t *q, http_response_t *r)
static void take(http_response_t *r, size_t n) { free(r->body); r->body = malloc(n + 1); r->content_length = (int)n; }
H(echo) { (void)c; size_t n = (size_t)q->content_length; if (n == 0) return 0;
  if (q->body[n] != 0) { strcpy(r->body, "no NUL"); return 0; }
  take(r, n); for (size_t i = 0; i < n; i++) r->body[i] = (char)(q->body[i] ^ 0x5a); return 0; }
H(make) { (void)c; size_t n = strtoul(http_kv_get(q->params, "bytes"), NULL, 10);
  take(r, n); for (size_t i = 0; i < n; i++) r->body[i] = (char)(i % 251); return 0; }
H(none) { (void)c; (void)q; take(r, 100000); memset(r->body, 'x', 100000); r->status = 204; return 0; }
"#;
    let routes =
        r#"{"/echo","POST",echo,NONE},{"/make","GET",make,NONE},{"/make","HEAD",make,NONE},{"/none","GET",none,NONE}"#;
    module("bodies", code, routes, 4, "")
}

fn with_lab() -> Server {
    let args = ["--shards", "2", "--body-bytes-max", "100000000"];
    let server = Server::on(&Arc::new(tempfile::tempdir().unwrap()), &args, &[]);
    server.deploy(&lab());
    server
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|n| (n % 251) as u8).collect()
}

#[test]
fn bodies_of_every_size_come_through_whole() {
    let server = with_lab();
    let mut client = server.connect();
    let page = 4096;
    for bytes in [1, 100, 8 * page - 1, 8 * page, 8 * page + 1, 100_003, 1 << 20, 3_000_000, 40_000_000] {
        let body = pattern(bytes);
        let answer = client.request("POST", "/echo", &[], &body);
        let changed: Vec<u8> = body.iter().map(|byte| byte ^ 0x5a).collect();
        assert!(answer.status == 200 && answer.body == changed, "{bytes}: {} {}", answer.status, answer.body.len());
        let head = client.request("HEAD", &format!("/make?bytes={bytes}"), &[], b"");
        assert_eq!(head.header("content-length"), Some(bytes.to_string()));
        assert!(client.get(&format!("/make?bytes={bytes}")).body == pattern(bytes), "{bytes}");
    }
    assert_eq!(client.get("/none").status, 204);
    assert_eq!(client.get("/make?bytes=5").body, pattern(5));
}

#[test]
fn pipelined_bodies_keep_their_order() {
    let server = with_lab();
    let mut client = server.connect();
    let sizes: Vec<usize> = (0..30).map(|n| if n % 3 == 0 { 10 } else { 20_000 * n }).collect();
    let requests: String =
        sizes.iter().map(|bytes| format!("GET /make?bytes={bytes} HTTP/1.1\r\nHost: test\r\n\r\n")).collect();
    client.send(requests.as_bytes());
    for bytes in sizes {
        assert!(client.response().body == pattern(bytes), "{bytes}");
    }
}

/// More than all the shared memory, by many clients at once, some of which go away in the middle.
#[test]
fn memory_comes_back_from_clients_that_stay_and_that_leave() {
    let server = with_lab();
    let body = pattern(1_500_000);
    let changed: Vec<u8> = body.iter().map(|byte| byte ^ 0x5a).collect();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut client = server.connect();
                for _ in 0..10 {
                    // An isolated module waits a few seconds for room, which a client that is kept from leaving may take longer to give.
                    eventually("there is room", || {
                        let answer = client.request("POST", "/echo", &[], &body);
                        assert!(answer.status == 503 || answer.body == changed, "{}", answer.status);
                        answer.status == 200
                    });
                }
            });
        }
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..8 {
                    let mut client = server.connect();
                    client.stream.write_all(b"GET /make?bytes=6000000 HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
                    let mut some = [0; 1000];
                    client.stream.read_exact(&mut some).unwrap();
                    drop(client);
                }
            });
        }
    });
    let mut client = Client::connect(&server.addr);
    for _ in 0..6 {
        assert!(client.get("/make?bytes=30000000").body == pattern(30_000_000));
    }
}
