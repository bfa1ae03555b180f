//! Targets and hosts.

use super::raw::{get, lab, refused, served, text};

#[test]
fn rfc_9112_3_2_host_comes_once() {
    let server = lab();
    refused(&server, "GET /fast HTTP/1.1\r\n\r\n", 400);
    refused(&server, "GET /fast HTTP/1.1\r\nX-Host: x\r\n\r\n", 400);
    refused(&server, get("/fast", "Host: x\r\n"), 400);
    refused(&server, get("/fast", "host: y\r\n"), 400);
    refused(&server, "GET http://x/fast HTTP/1.1\r\n\r\n", 400);
    refused(&server, "GET /fast HTTP/1.0\r\nHost: x\r\nHost: x\r\n\r\n", 400);
}

#[test]
fn rfc_9112_3_2_host_is_a_host() {
    let server = lab();
    for host in [
        "a b", "a/b", "a\\b", "user@x", "x:port", "x:1:2", "::1", "[::1", "[::1]x", "[x]", ":80", "x?", "x#y", "<x>",
        "x, y", "http://x", "x%4", "\u{e9}", "",
    ] {
        refused(&server, format!("GET /fast HTTP/1.1\r\nHost: {host}\r\n\r\n"), 400);
    }
    for host in ["x", "x:80", "x:", "127.0.0.1:8080", "[::1]", "[2001:db8::1]:443", "a-b.c_d.example", "x%41"] {
        assert_eq!(text(&server, format!("GET /fast HTTP/1.1\r\nHost: {host}\r\n\r\n")), "fast");
    }
}

#[test]
fn rfc_9112_3_2_http_1_0_needs_no_host() {
    let server = lab();
    let shown = text(&server, "GET /show HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert!(shown.contains(" host=- ") && shown.contains(" version=0 "), "{shown}");
}

#[test]
fn rfc_9112_3_2_1_origin_form() {
    let server = lab();
    assert!(text(&server, get("/show?p=1", "")).starts_with("path=/show p=1 "));
    assert!(text(&server, get("/show?", "")).starts_with("path=/show p=- "));
    assert!(text(&server, get("/show?p=a?b/c", "")).starts_with("path=/show p=a?b/c "));
    for target in
        ["fast", "../fast", "?p=1", "/fast#fragment", "/fast?p#fragment", "#", "\\fast", "*/fast", "*", "fast/"]
    {
        refused(&server, get(target, ""), 400);
    }
}

#[test]
fn rfc_9112_3_2_2_absolute_form_and_its_host_wins() {
    let server = lab();
    let shown = text(&server, get("http://other.example:81/show?p=1", ""));
    assert!(shown.starts_with("path=/show p=1 host=other.example:81 "), "{shown}");
    assert!(text(&server, get("HTTP://other/show", "")).contains(" host=other "));
    assert!(text(&server, get("https://[::1]/show", "")).contains(" host=[::1] "));
    assert!(text(&server, get("http://other", "")).starts_with("path=/ p=- host=other "));
    assert!(text(&server, get("http://other?p=/mgnt", "")).starts_with("path=/ p=/mgnt "));
    for target in [
        "http:///fast",
        "http://",
        "http:/fast",
        "http:fast",
        "http://user@x/fast",
        "http://u:p@x/fast",
        "http://a b/",
        "http://x:y/fast",
        "ftp://x/fast",
        "ws://x/fast",
        "file:///fast",
        "//x",
    ] {
        // `//x` is a path that begins with an empty segment.
        if target == "//x" {
            assert_eq!(served(&server, get(target, "")).status, 404);
        } else {
            refused(&server, get(target, ""), 400);
        }
    }
}

#[test]
fn rfc_9112_3_2_3_authority_form_is_for_connect() {
    let server = lab();
    for target in ["x:80", "x", "127.0.0.1:8080", "[::1]:80"] {
        refused(&server, get(target, ""), 400);
    }
    refused(&server, "CONNECT x:80 HTTP/1.1\r\nHost: x:80\r\n\r\n", 501);
}

#[test]
fn rfc_9112_3_2_4_asterisk_form_is_for_options() {
    let server = lab();
    let answer = served(&server, "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!((answer.status, answer.header("content-length").as_deref()), (200, Some("0")));
    for method in ["GET", "POST", "HEAD", "DELETE"] {
        let request = format!("{method} * HTTP/1.1\r\nHost: x\r\n\r\n");
        let mut client = server.connect();
        client.send(request.as_bytes());
        assert_eq!(client.response_to(method).status, 400);
        assert!(client.try_response(method).is_none());
    }
}

#[test]
fn rfc_3986_6_2_2_paths_are_matched_as_they_are_sent() {
    let server = lab();
    // Neither percent-decoded nor without their dot segments: what a proxy in front has checked is what is matched.
    for path in [
        "/files/a%20b",
        "/files/%2e%2e/x",
        "/files/../mgnt",
        "/files/./x",
        "/files//x",
        "/files/a;b=c",
        "/files/%zz",
        "/files/a+b",
    ] {
        assert!(text(&server, get(path, "")).starts_with(&format!("path={path} ")), "{path}");
    }
    for path in ["/f%61st", "/FAST", "/fast/", "//fast", "/./fast", "/x/../fast", "/%6dgnt", "/fast%00", "/fast;a"] {
        assert_eq!(served(&server, get(path, "")).status, 404, "{path}");
    }
}

#[test]
fn rfc_3986_3_4_of_a_repeated_parameter_modules_get_the_first() {
    let server = lab();
    assert!(text(&server, get("/show?p=1&p=2", "")).contains(" p=1 "));
    assert!(text(&server, get("/show?p=&p=2", "")).contains(" p= "));
    assert!(text(&server, get("/show?p&q=1&&=&p=3", "")).contains(" p= "));
    assert!(text(&server, get("/show?%70=a%2Bb+c%zz%4", "")).contains(" p=a+b c%zz%4 "));
}
