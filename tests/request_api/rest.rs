//! Captures, the target, cookies, redirects, statuses, and who the client is.

use crate::support::Server;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

fn with_more(args: &[&str]) -> Server {
    let args = [&["--shards", "1"], args].concat();
    let server = Server::on(&Arc::new(tempfile::tempdir().unwrap()), &args, &[]);
    server.deploy_file("tests/request_api/more.c");
    server
}

#[test]
fn captures_the_target_and_statuses() {
    let server = with_more(&[]);
    let mut client = server.connect();
    for (target, expected) in [
        ("/user/7", "id=7 name=- 0=/user/7 1=7 2=- 3=- 4=-"),
        ("/user/a%20b%2Fc%00d?id=no", "id=a b/c%00d name=- 0=/user/a b/c%00d 1=a b/c%00d 2=- 3=- 4=-"),
        ("/user/%zz%", "id=%zz% name=- 0=/user/%zz% 1=%zz% 2=- 3=- 4=-"),
        ("/user/7/posts/x", "id=7 name=x 0=/user/7/posts/x 1=7 2=x 3=- 4=-"),
        ("/ab-12/n", "id=- name=n 0=/ab-12/n 1=ab 2=12 3=- 4=n"),
        ("/ab-12x/n", "id=- name=n 0=/ab-12x/n 1=ab 2=12 3=x 4=n"),
        ("/v1/users:batch", "id=- name=- 0=/v1/users:batch 1=- 2=- 3=- 4=-"),
    ] {
        assert_eq!(client.get(target).text(), format!("{expected} target={target}"));
    }
    let inline = client.request("POST", "/user/8", &[], b"");
    assert_eq!(inline.text(), "id=8 name=- 0=/user/8 1=8 2=- 3=- 4=- target=/user/8");
    // The first match of a module wins, and a segment is never empty nor more than one.
    assert!(client.get("/user/me").text().starts_with("id=me "));
    for none in ["/user/", "/user/a/b", "/user//posts/x", "/v1/users:other"] {
        assert_eq!(client.get(none).status, 404, "{none}");
    }
    let long = "x".repeat(7000);
    let answer = client.get(&format!("/user/{long}")).text();
    assert!(answer.starts_with(&format!("id={long} name=-")), "{answer}");
    let absolute = client.get("http://localhost/user/7?x=%20");
    assert!(absolute.text().ends_with("target=http://localhost/user/7?x=%20"), "{}", absolute.text());

    for (code, line) in [
        ("418", "418 I'm a teapot"),
        ("207", "207 Multi-Status"),
        ("511", "511 Network Authentication Required"),
        ("299", "299 "),
    ] {
        let answer = client.get(&format!("/status?code={code}"));
        assert_eq!(answer.head.lines().next(), Some(format!("HTTP/1.1 {line}").as_str()));
    }
    for wrong in ["0", "2", "101", "199", "600", "-1"] {
        let answer = client.get(&format!("/status?code={wrong}"));
        assert_eq!((answer.status, answer.text().as_str()), (200, "-1"), "{wrong}");
    }
}

#[test]
fn cookies_and_redirects_inject_nothing() {
    let server = with_more(&[]);
    let mut client = server.connect();
    let fields = [("Cookie", "a=1; sid=\"x y\" ;b=; sid=second;=no;bare"), ("cookie", "late=3;A=4")];
    for (name, expected) in [
        ("a", "[1]"),
        ("sid", "[x y]"),
        ("b", "[]"),
        ("late", "[3]"),
        ("A", "[4]"),
        ("bare", "none"),
        ("si", "none"),
        ("sid%0d", "none"),
        ("", "none"),
    ] {
        let answer = client.request("GET", &format!("/cookie?name={name}"), &fields, b"");
        assert_eq!(answer.text(), expected, "{name}");
    }
    assert_eq!(client.get("/cookie").text(), "none");

    let answer = client.get("/set");
    assert_eq!(answer.text(), "0 -17 1 0 0");
    let set: Vec<&str> = answer.head.lines().filter(|line| line.to_lowercase().starts_with("set-cookie: ")).collect();
    let values: Vec<&str> = set.iter().map(|line| &line["set-cookie: ".len()..]).collect();
    assert_eq!(
        values,
        [
            "sid=a=b:c; Path=/; Domain=example.org; Max-Age=60; Secure; HttpOnly; SameSite=Strict",
            "old=; Max-Age=0",
            "sid=again",
            "lax=1; SameSite=Lax",
            "__Host-id=1; Path=/; Secure; SameSite=None",
        ]
    );
    assert_eq!(client.get("/set?fill=1").text(), "0 -17 1 59 1", "64 fields in all");

    for (query, status, location, body) in [
        ("to=/a?b%3Dc%26d", 302, Some("/a?b=c&d"), "0 0"),
        ("to=https://example.org/&status=308", 308, Some("https://example.org/"), "0 0"),
        ("to=/a%20%22%3Cb%C3%A9&status=303", 303, Some("/a%20%22%3Cb%C3%A9"), "0 0"),
        ("to=/second&twice=1&status=301", 301, Some("/second"), "0 0"),
        ("to=/a%0d%0aX-Evil:%201", 200, None, "-1 1"),
        ("to=/a%0aSet-Cookie:%20x%3D1", 200, None, "-1 1"),
        ("to=/a%7f", 200, None, "-1 1"),
        ("to=", 200, None, "-1 1"),
        ("x=", 200, None, "-1 1"),
        ("to=/a&status=200", 200, None, "-1 1"),
        ("to=/a&status=304", 200, None, "-1 1"),
    ] {
        let answer = client.get(&format!("/redirect?{query}"));
        assert_eq!((answer.status, answer.header("location").as_deref()), (status, location), "{query}");
        assert_eq!(answer.text(), body, "{query}");
        assert!(!answer.head.to_lowercase().contains("x-evil") && answer.header("set-cookie").is_none());
    }
}

#[test]
fn the_client_is_whom_trusted_proxies_name() {
    let server = with_more(&[]);
    let forged = [("X-Forwarded-For", "198.51.100.7"), ("Forwarded", "for=198.51.100.8")];
    let ask = |server: &Server, headers: &[(&str, &str)]| server.connect().request("GET", "/peer", headers, b"").text();
    assert_eq!(ask(&server, &forged), "127.0.0.1 127.0.0.1", "nobody is trusted");
    drop(server);

    let socket = tempfile::tempdir().unwrap();
    let path = socket.path().join("s");
    let unix = format!("unix:{}", path.display());
    let trusted = ["--trusted-proxy", "127.0.0.0/8,unix", "--trusted-proxy", "10.0.0.0/8"];
    let server = with_more(&[&trusted[..], &["--listen", "127.0.0.1:0", "--listen", &unix]].concat());
    assert_eq!(ask(&server, &forged), "198.51.100.7 127.0.0.1");
    assert_eq!(
        ask(&server, &[("x-forwarded-for", "1.1.1.1, 2001:db8::7"), ("X-Forwarded-For", "10.1.2.3")]),
        "2001:db8::7 127.0.0.1"
    );
    assert_eq!(
        ask(&server, &[("Forwarded", "for=198.51.100.8")]),
        "127.0.0.1 127.0.0.1",
        "the other field is not read"
    );
    assert_eq!(ask(&server, &[("X-Forwarded-For", "1.1.1.1, x")]), "- 127.0.0.1");
    assert_eq!(ask(&server, &[("X-Forwarded-For", "\", 198.51.100.7")]), "198.51.100.7 127.0.0.1");
    let mut stream = UnixStream::connect(&path).unwrap();
    stream
        .write_all(b"GET /peer HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 198.51.100.9\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.ends_with("198.51.100.9 -"), "{text}");
    drop(server);

    let server = with_more(&["--trusted-proxy", "127.0.0.1", "--trusted-proxy-header", "forwarded"]);
    assert_eq!(
        ask(&server, &[("Forwarded", "for=\"[2001:db8::1]:80\";proto=https"), forged[0]]),
        "2001:db8::1 127.0.0.1"
    );
    assert_eq!(ask(&server, &[("Forwarded", "for=_hidden")]), "- 127.0.0.1");
    // The client opens a quoted string, and the proxy appends its own entry.
    for forged in ["for=1.1.1.1;x=\"", "for=\"", "for=1.1.1.1;x=\"\\"] {
        let field = format!("{forged}, for=198.51.100.7");
        assert_eq!(ask(&server, &[("Forwarded", &field)]), "198.51.100.7 127.0.0.1", "{field}");
    }
}
