//! Content codings of answers and of request bodies.

use crate::support::{self, Response, Server, isolation};
use std::io::{Read, Write};
use std::process::Command;

const LINE: &[u8] = b"The quick brown fox jumps over the lazy dog.\n";

fn text(bytes: usize) -> Vec<u8> {
    LINE.iter().copied().cycle().take(bytes).collect()
}

fn expanded(coding: Option<&str>, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    match coding {
        None => out.extend_from_slice(body),
        Some("zstd") => out = zstd::stream::decode_all(body).unwrap(),
        Some("gzip") => drop(flate2::read::GzDecoder::new(body).read_to_end(&mut out).unwrap()),
        Some("br") => drop(brotli::Decompressor::new(body, 4096).read_to_end(&mut out).unwrap()),
        Some(other) => panic!("{other}"),
    }
    out
}

fn compressed(coding: &str, body: &[u8]) -> Vec<u8> {
    match coding {
        "zstd" => zstd::stream::encode_all(body, 3).unwrap(),
        "gzip" => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(body).unwrap();
            encoder.finish().unwrap()
        }
        "br" => {
            let mut out = Vec::new();
            brotli::BrotliCompress(
                &mut &*body,
                &mut out,
                &brotli::enc::BrotliEncoderParams { quality: 4, ..Default::default() },
            )
            .unwrap();
            out
        }
        other => panic!("{other}"),
    }
}

fn get(server: &Server, target: &str, accepted: Option<&str>) -> Response {
    let headers: Vec<(&str, &str)> = accepted.map(|value| ("Accept-Encoding", value)).into_iter().collect();
    server.connect().request("GET", target, &headers, b"")
}

fn post(server: &Server, target: &str, coding: &str, body: &[u8]) -> Response {
    server.connect().request("POST", target, &[("Content-Encoding", coding)], body)
}

#[test]
fn answers_are_compressed_where_the_client_wants_it() {
    let server = Server::with(&["--shards", "1"]);
    server.deploy_file("tests/modules/compression.c");
    let plain = "/answer?content-type=text/plain";
    for (accepted, expected) in [
        (Some("gzip, deflate, br, zstd"), Some("zstd")),
        (Some("gzip, br"), Some("br")),
        (Some("gzip"), Some("gzip")),
        (Some("br;q=0.1, gzip"), Some("gzip")),
        (Some("*"), Some("zstd")),
        (Some("zstd;q=0, *"), Some("br")),
        (Some("identity, *;q=0"), None),
        (Some("gzip;q=0.2, identity;q=0.8"), None),
        (Some("gzip;q=0"), None),
        (Some("deflate"), None),
        (Some(""), None),
        (None, None),
    ] {
        let response = get(&server, plain, accepted);
        let coding = response.header("content-encoding");
        assert_eq!(coding.as_deref(), expected, "{accepted:?}");
        assert!(expanded(expected, &response.body) == text(10_000), "{accepted:?}");
        assert_eq!(response.body.len() < 1000, expected.is_some());
        assert_eq!(response.header("vary").unwrap(), "Accept-Encoding", "{accepted:?}");
        // HEAD says the same.
        let headers: Vec<(&str, &str)> = accepted.map(|value| ("Accept-Encoding", value)).into_iter().collect();
        let head = server.connect().request("HEAD", plain, &headers, b"");
        for name in ["content-length", "content-encoding", "vary", "content-type"] {
            assert_eq!(head.header(name), response.header(name), "{name} {accepted:?}");
        }
    }
    left_alone(&server);
    fields(&server);
    let curl = Command::new("curl")
        .args(["-sS", "--compressed", &format!("http://{}{plain}&bytes=1000000", server.addr)])
        .output()
        .unwrap();
    assert!(curl.stdout == text(1_000_000), "{}", String::from_utf8_lossy(&curl.stderr));
    let own = get(&server, "/own-buffer", Some("gzip"));
    assert_eq!(expanded(Some("gzip"), &own.body), vec![b'a'; 5000]);
    assert_eq!(get(&server, "/own-buffer", None).body, vec![b'a'; 5000]);
}

fn left_alone(server: &Server) {
    for target in [
        "/answer?content-type=text/plain&bytes=1023",
        "/answer?content-type=image/png",
        "/answer?content-type=text/event-stream",
        "/answer?",
        "/answer?content-type=text/plain&cache-control=no-cache,%20no-transform",
        "/answer?content-type=text/plain&content-range=bytes%200-9/99",
        "/answer?content-type=text/plain&content-encoding=x-own",
        "/answer?content-type=text/plain&digest=x",
        "/answer?content-type=text/plain&status=206",
        "/never?content-type=text/plain",
    ] {
        let (with, without) = (get(server, target, Some("gzip, br, zstd")), get(server, target, None));
        assert_eq!((with.status, &with.body), (without.status, &without.body), "{target}");
        assert_eq!(with.header("vary"), None, "{target}");
        assert_eq!(with.header("content-encoding").filter(|coding| coding != "x-own"), None, "{target}");
    }
    // On the shard's own thread nothing is compressed; in a process of their own modules have other threads.
    let inline = get(server, "/inline?content-type=text/plain", Some("gzip"));
    assert_eq!(inline.header("content-encoding").is_some(), isolation() == "process");
}

fn fields(server: &Server) {
    for (given, accepted, etag, vary) in [
        ("etag=%22a%22", Some("gzip"), Some("W/\"a\""), "Accept-Encoding"),
        ("etag=%22a%22", None, Some("\"a\""), "Accept-Encoding"),
        ("etag=W/%22a%22", Some("gzip"), Some("W/\"a\""), "Accept-Encoding"),
        ("vary=Cookie", Some("gzip"), None, "Cookie, Accept-Encoding"),
        ("vary=accept-encoding", Some("gzip"), None, "accept-encoding"),
        ("vary=*", Some("gzip"), None, "*"),
    ] {
        let response = get(server, &format!("/answer?content-type=application/json&{given}"), accepted);
        assert_eq!(
            (response.header("etag").as_deref(), response.header("vary").as_deref()),
            (etag, Some(vary)),
            "{given}"
        );
        assert_eq!(response.head.to_lowercase().matches("\r\nvary:").count(), 1, "{given}");
    }
    // The status does not matter.
    let failed = get(server, "/answer?content-type=text/html&status=404", Some("gzip"));
    assert_eq!((failed.status, failed.header("content-encoding").as_deref()), (404, Some("gzip")));
}

#[test]
fn the_operator_chooses_the_codings() {
    for (setting, accepted, expected) in
        [("off", "gzip, br, zstd", None), ("gzip,br", "gzip, br, zstd", Some("gzip")), ("br", "gzip, zstd", None)]
    {
        let server = Server::with(&["--shards", "1", "--compress", setting]);
        server.deploy_file("tests/modules/compression.c");
        let response = get(&server, "/answer?content-type=text/plain", Some(accepted));
        assert_eq!(response.header("content-encoding").as_deref(), expected, "{setting}");
        assert_eq!(response.header("vary").is_some(), setting != "off", "{setting}");
    }
    let dir = tempfile::tempdir().unwrap();
    let (success, said) = support::cweb(&["serve", "--port", "0", "--compress", "lzw"], dir.path(), &[]);
    assert!(!success && said.contains("--compress must be off, or a list of zstd, br and gzip"), "{said}");
}

#[test]
fn bodies_are_expanded_for_routes_that_ask() {
    let server = Server::with(&["--shards", "1"]);
    server.deploy_file("tests/modules/compression.c");
    let body = text(100_000);
    for coding in ["gzip", "zstd", "br"] {
        let sent = compressed(coding, &body);
        assert!(post(&server, "/as-it-is", coding, &sent).body == sent, "{coding}");
        for name in [coding, &coding.to_uppercase(), &format!(" {coding} "), &format!("identity, {coding}")] {
            let response = post(&server, "/decoded", name, &sent);
            assert!(response.status == 200 && response.body == body, "{name}: {}", response.status);
        }
        let twice = compressed("gzip", &sent);
        assert!(post(&server, "/decoded", &format!("{coding}, gzip"), &twice).body == body, "{coding}");
        // Bad data.
        let longer = [&sent[..], b"more"].concat();
        for bad in [&sent[..sent.len() / 2], b"nothing of the kind", &sent[1..], &longer] {
            let refused = post(&server, "/decoded", coding, bad);
            assert_eq!((refused.status, refused.text()), (400, format!("the body is no {coding} data\n")));
        }
        // A bomb: 1 MiB is the limit of a route that names none, 4 MiB is that of /large.
        let bomb = compressed(coding, &vec![0; 8_000_000]);
        for (route, mib) in [("/decoded", 1), ("/large", 4)] {
            let refused = post(&server, route, coding, &bomb);
            let expected = format!("the body has more than {} bytes when it is expanded\n", mib << 20);
            assert_eq!((refused.status, refused.text()), (413, expected), "{coding}");
        }
        let large = text(4 << 20);
        assert!(post(&server, "/large", coding, &compressed(coding, &large)).body == large, "{coding}");
    }
    assert_eq!(post(&server, "/decoded", "lzw", b"x").status, 415);
    assert_eq!(post(&server, "/decoded", "gzip, gzip, gzip", b"x").status, 415);
    assert_eq!(post(&server, "/decoded", "identity", b"text").text(), "text");
    assert_eq!(server.post("/decoded", b"text").text(), "text");
    let form = [("Content-Encoding", "gzip"), ("Content-Type", "application/x-www-form-urlencoded")];
    let body = compressed("gzip", b"name=somebody");
    assert_eq!(server.connect().request("POST", "/form", &form, &body).text(), "somebody");
}
