//! Conditional requests, ranges and content codings, of files that a mount serves and a handler answers with.

use super::raw::served;
use crate::support::{Response, Server};
use std::fs::{self, File};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

const TEXT: &str = "0123456789";

struct Site {
    server: Server,
    etag: String,
    date: String,
}

/// A server whose `/m/text.txt` is a file, without a handler, and `/h` the same file by a handler.
fn site() -> Site {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    fs::create_dir(dir.path().join("static")).unwrap();
    let path = dir.path().join("static/text.txt");
    fs::write(&path, TEXT).unwrap();
    let hour_ago = SystemTime::now() - Duration::from_secs(3600);
    File::options().write(true).open(&path).unwrap().set_modified(hour_ago).unwrap();
    let server = Server::on(&dir, &["--shards", "1"], &[]);
    server.deploy(
        "#include <cweb.h>\n#include <cweb_file.h>\n\
         static int h(struct cweb_context *c, http_request_t *q, http_response_t *r) { (void)c; \
           return cweb_send_file(q, r, \"static/text.txt\"); }\n\
         static int text(struct cweb_context *c, http_request_t *q, http_response_t *r) { (void)c; (void)q; \
           memset(r->body, 'x', 5000); return cweb_header(r, \"content-type\", \"text/plain\"); }\n\
         static int fast(struct cweb_context *c, http_request_t *q, http_response_t *r) { (void)c; (void)q; \
           return cweb_respond(r, HTTP_200_OK, \"text/plain\", \"fast\"); }\n\
         export module_t config = { .name = \"site\", .author = \"t\", .routes = {{\"/h\", \"GET\", h, NONE}, \
           {\"/h\", \"PUT\", h, NONE}, {\"/text\", \"GET\", text, NONE}, {\"/fast\", \"GET\", fast, NONE}}, .size = 4, \
           .mounts = {{\"/m\", \"static\"}}, .mount_size = 1 };\n",
    );
    let first = server.get("/m/text.txt");
    let field = |name: &str| first.header(name).unwrap();
    let (etag, date) = (field("etag"), field("last-modified"));
    Site { server, etag, date }
}

impl Site {
    /// The answers of the mount and of the handler, which are alike.
    fn ask(&self, method: &str, fields: &str) -> Response {
        let request =
            |target: &str| format!("{method} {target} HTTP/1.1\r\nHost: x\r\n{fields}Content-Length: 0\r\n\r\n");
        let by_handler = served(&self.server, request("/h"));
        if method != "PUT" {
            let by_mount = served(&self.server, request("/m/text.txt"));
            assert_eq!(by_mount.status, by_handler.status, "{method} {fields}");
            assert_eq!(by_mount.body, by_handler.body, "{method} {fields}");
        }
        by_handler
    }

    fn status(&self, fields: &str) -> u16 {
        self.ask("GET", fields).status
    }
}

const OLD: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

#[test]
fn rfc_9110_13_1_1_if_match() {
    let site = site();
    assert_eq!(site.status(&format!("If-Match: {}\r\n", site.etag)), 200);
    assert_eq!(site.status("If-Match: *\r\n"), 200);
    assert_eq!(site.status("If-Match: \"x\"\r\n"), 412);
    // The comparison is strong.
    assert_eq!(site.status(&format!("If-Match: W/{}\r\n", site.etag)), 412);
    assert_eq!(site.status(&format!("If-Match: \"x\",\r\nIf-Match: {}\r\n", site.etag)), 200);
}

#[test]
fn rfc_9110_13_1_2_if_none_match() {
    let site = site();
    for fields in [site.etag.clone(), format!("W/{}", site.etag), format!("\"x\", {}", site.etag), "*".to_owned()] {
        let answer = site.ask("GET", &format!("If-None-Match: {fields}\r\n"));
        assert_eq!((answer.status, answer.body.len()), (304, 0), "{fields}");
        // RFC 9110 §15.4.5: what would tell a cache about a 200 is there.
        assert_eq!(answer.header("etag").unwrap(), site.etag);
        assert_eq!(answer.header("content-length"), None);
        assert_eq!(site.ask("HEAD", &format!("If-None-Match: {fields}\r\n")).status, 304);
        assert_eq!(site.ask("PUT", &format!("If-None-Match: {fields}\r\n")).status, 412);
    }
    assert_eq!(site.status("If-None-Match: \"x\"\r\n"), 200);
}

#[test]
fn rfc_9110_13_1_3_if_modified_since() {
    let site = site();
    assert_eq!(site.status(&format!("If-Modified-Since: {}\r\n", site.date)), 304);
    assert_eq!(site.status(&format!("If-Modified-Since: {OLD}\r\n")), 200);
    assert_eq!(site.status("If-Modified-Since: yesterday\r\n"), 200);
    assert_eq!(site.ask("PUT", &format!("If-Modified-Since: {}\r\n", site.date)).status, 200);
}

#[test]
fn rfc_9110_13_1_4_if_unmodified_since() {
    let site = site();
    assert_eq!(site.status(&format!("If-Unmodified-Since: {}\r\n", site.date)), 200);
    assert_eq!(site.status(&format!("If-Unmodified-Since: {OLD}\r\n")), 412);
    assert_eq!(site.status("If-Unmodified-Since: soon\r\n"), 200);
}

#[test]
fn rfc_9110_13_1_5_if_range() {
    let site = site();
    for (condition, status) in
        [(site.etag.as_str(), 206), (&site.date, 206), ("\"x\"", 200), (&format!("W/{}", site.etag), 200), (OLD, 200)]
    {
        assert_eq!(site.status(&format!("Range: bytes=0-1\r\nIf-Range: {condition}\r\n")), status, "{condition}");
    }
}

#[test]
fn rfc_9110_13_2_2_the_order_of_preconditions() {
    let site = site();
    let Site { etag, date, .. } = &site;
    assert_eq!(site.status(&format!("If-Match: {etag}\r\nIf-Unmodified-Since: {OLD}\r\n")), 200);
    assert_eq!(site.status(&format!("If-Match: \"x\"\r\nIf-None-Match: {etag}\r\n")), 412);
    assert_eq!(site.status(&format!("If-None-Match: \"x\"\r\nIf-Modified-Since: {date}\r\n")), 200);
    assert_eq!(site.status(&format!("If-None-Match: {etag}\r\nRange: bytes=0-1\r\n")), 304);
    assert_eq!(site.status(&format!("If-Match: {etag}\r\nRange: bytes=0-1\r\n")), 206);
}

#[test]
fn rfc_9110_14_2_range() {
    let site = site();
    for (range, from, end) in [("0-0", 0, 1), ("3-", 3, 10), ("-2", 8, 10), ("8-99", 8, 10), ("-99", 0, 10)] {
        let answer = site.ask("GET", &format!("Range: bytes={range}\r\n"));
        assert_eq!((answer.status, answer.text().as_str()), (206, &TEXT[from..end]), "{range}");
        assert_eq!(answer.header("content-range").unwrap(), format!("bytes {from}-{}/10", end - 1));
        assert_eq!(answer.header("etag").unwrap(), site.etag);
    }
    // What is no range of bytes is ignored, and so is one that asks for more than there is.
    for range in
        ["items=0-1", "bytes=2-1", "bytes=a-b", "bytes=", "bytes=0-9,0-9", &format!("bytes={}", "0-0,".repeat(40))]
    {
        assert_eq!(site.status(&format!("Range: {range}\r\n")), 200, "{range}");
    }
    assert_eq!(site.ask("HEAD", "Range: bytes=0-1\r\n").status, 200);
    assert_eq!(site.ask("PUT", "Range: bytes=0-1\r\n").status, 200);
}

#[test]
fn rfc_9110_14_6_several_ranges() {
    let site = site();
    // Not in pieces: the boundary is another each time.
    let answer = site.server.connect().request("GET", "/h", &[("Range", "bytes=0-1,5-5,-1")], b"");
    let kind = answer.header("content-type").unwrap();
    let boundary = kind.strip_prefix("multipart/byteranges; boundary=").unwrap();
    let head = "Content-Type: text/plain; charset=utf-8\r\nContent-Range: bytes";
    let expected = format!(
        "\r\n--{boundary}\r\n{head} 0-1/10\r\n\r\n01\r\n--{boundary}\r\n{head} 5-5/10\r\n\r\n5\r\n--{boundary}\r\n{head} 9-9/10\r\n\r\n9\r\n--{boundary}--\r\n"
    );
    assert_eq!((answer.status, answer.text()), (206, expected));
    assert_eq!(answer.header("content-range"), None);
    // One that is outside is left out; what is left is a single part.
    let answer = site.ask("GET", "Range: bytes=50-60,5-5\r\n");
    assert_eq!((answer.status, answer.text().as_str()), (206, "5"));
}

#[test]
fn rfc_9110_15_5_17_no_range_is_there() {
    let site = site();
    for range in ["10-", "99-100", "-0", "18446744073709551615-", "18446744073709551615-18446744073709551615"] {
        let answer = site.ask("GET", &format!("Range: bytes={range}\r\n"));
        assert_eq!((answer.status, answer.header("content-range").unwrap().as_str()), (416, "bytes */10"), "{range}");
    }
}

#[test]
fn rfc_9110_12_5_3_accept_encoding() {
    let site = site();
    let coding = |accepted: &str| {
        let request = format!("GET /text HTTP/1.1\r\nHost: x\r\nAccept-Encoding: {accepted}\r\n\r\n");
        let answer = served(&site.server, request);
        assert_eq!(answer.header("vary").unwrap(), "Accept-Encoding");
        answer.header("content-encoding").unwrap_or_else(|| "none".to_owned())
    };
    for (accepted, expected) in [
        ("gzip", "gzip"),
        ("gzip;q=0.5, br;q=0.7", "br"),
        ("*", "zstd"),
        ("*;q=0, br", "br"),
        ("gzip;q=0", "none"),
        ("identity", "none"),
        ("gzip;q=0.1, identity;q=0.5", "none"),
        ("", "none"),
    ] {
        assert_eq!(coding(accepted), expected, "{accepted}");
    }
}
