//! What answers look like.

use super::raw::{get, lab, post, served};
use crate::support::{Response, Server};
use std::time::{SystemTime, UNIX_EPOCH};

/// Answers of every kind: of a module, inline, of the server, refusals.
fn of_every_kind(server: &Server) -> Vec<Response> {
    let mut answers: Vec<Response> = [
        "/fast",
        "/inline",
        "/nowhere",
        "/status/500",
        "/status/204",
        "/status/304",
        "/mgnt",
        "/healthz",
        "/jobs",
        "/metrics",
        "/ws",
    ]
    .iter()
    .map(|path| served(server, get(path, "")))
    .collect();
    answers.push(served(server, "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n"));
    for refused in ["BREW / HTTP/1.1\r\nHost: x\r\n\r\n", "GET / HTTP/1.1\r\n\r\n", "GET / HTTP/2.0\r\n\r\n"] {
        let mut client = server.connect();
        client.send(refused.as_bytes());
        answers.push(client.response());
    }
    answers
}

#[test]
fn rfc_9112_4_status_lines() {
    let server = lab();
    for answer in of_every_kind(&server) {
        let line = answer.head.lines().next().unwrap();
        let (version, rest) = line.split_at(9);
        let (code, reason) = rest.split_at(3);
        assert_eq!(version, "HTTP/1.1 ");
        assert!(code.bytes().all(|byte| byte.is_ascii_digit()) && reason.starts_with(' '), "{line}");
    }
    // A code without a registered reason still has the space before it.
    assert!(served(&server, get("/status/599", "")).head.starts_with("HTTP/1.1 599 \r\n"));
    // RFC 9110 §2.5: the server's own version, whatever the client's.
    assert!(
        served(&server, "GET /fast HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").head.starts_with("HTTP/1.1 200 OK\r\n")
    );
}

/// Seconds since 1970 of an IMF-fixdate, checked field by field (RFC 9110 §5.6.7).
fn seconds(date: &str) -> u64 {
    let number = |range: std::ops::Range<usize>| date[range].parse::<u64>().unwrap();
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = months.iter().position(|month| *month == &date[8..11]).unwrap() as u64 + 1;
    let (day, year) = (number(5..7), number(12..16));
    assert_eq!(
        (date.len(), &date[3..5], &date[7..8], &date[11..12], &date[16..17], &date[19..20], &date[22..23], &date[25..]),
        (29, ", ", " ", " ", " ", ":", ":", " GMT"),
        "{date}"
    );
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let days = (1970..year).map(|year| 365 + u64::from(leap(year))).sum::<u64>()
        + lengths[..month as usize - 1].iter().sum::<u64>()
        + day
        - 1;
    let weekdays = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    assert_eq!(weekdays[days as usize % 7], &date[..3], "{date}");
    days * 86_400 + number(17..19) * 3600 + number(20..22) * 60 + number(23..25)
}

#[test]
fn rfc_9110_6_6_1_every_answer_has_its_date() {
    let server = lab();
    for answer in of_every_kind(&server) {
        let dates = answer.head.to_lowercase().matches("\r\ndate:").count();
        assert_eq!(dates, 1, "{}", answer.head);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        assert!(now.abs_diff(seconds(&answer.header("date").unwrap())) < 60, "{}", answer.head);
    }
}

#[test]
fn rfc_9110_8_6_the_length_of_the_content() {
    let server = lab();
    for answer in of_every_kind(&server) {
        let lengths = answer.head.to_lowercase().matches("\r\ncontent-length:").count();
        let bodiless = [204, 304].contains(&answer.status);
        assert_eq!(lengths, usize::from(!bodiless), "{}", answer.head);
        assert!(answer.header("transfer-encoding").is_none());
    }
    let split = served(&server, get("/split", ""));
    assert_eq!((split.header("content-length").as_deref(), split.text().as_str()), (Some("2"), "ok"));
}

#[test]
fn rfc_9110_6_4_1_no_content_with_204_and_304() {
    let server = lab();
    for status in [204, 304] {
        let answer = served(&server, get(&format!("/status/{status}"), ""));
        assert_eq!(
            (answer.status, answer.header("content-length"), answer.header("transfer-encoding")),
            (status, None, None)
        );
    }
}

#[test]
fn rfc_9110_15_3_6_no_content_with_205() {
    let server = lab();
    let answer = served(&server, get("/status/205", ""));
    assert_eq!((answer.status, answer.header("content-length").as_deref()), (205, Some("0")));
}

#[test]
fn rfc_9110_15_2_an_interim_status_is_no_answer() {
    let server = lab();
    for status in [100, 101, 102, 103, 150, 199] {
        assert_eq!(served(&server, get(&format!("/status/{status}"), "")).status, 500, "{status}");
    }
    for status in [600, 999, 99_999] {
        assert_eq!(served(&server, get(&format!("/status/{status}"), "")).status, 500, "{status}");
    }
}

#[test]
fn rfc_9110_5_5_a_module_cannot_split_an_answer() {
    let server = lab();
    let answer = served(&server, get("/split", ""));
    assert_eq!(answer.header("x-good").as_deref().map(str::len), Some("caf\u{fffd}".len()));
    let lower = answer.head.to_lowercase();
    for forged in ["evil", "x-cr", "x-lf", "x-control", "x space", "99", "chunked"] {
        assert!(!lower.contains(forged), "{}", answer.head);
    }
    assert_eq!(lower.matches("http/1.1").count(), 1);
}

#[test]
fn rfc_9110_11_6_1_a_401_says_how() {
    let dir = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let server = Server::on(&dir, &["--production"], &[("CWEB_ADMIN_KEY", "secret-of-16-bytes")]);
    let answer = server.get("/mgnt");
    assert_eq!((answer.status, answer.header("www-authenticate").as_deref()), (401, Some("Bearer")));
}

#[test]
fn rfc_9112_6_1_no_transfer_encoding_to_http_1_0() {
    let server = lab();
    let mut client = server.connect();
    client.send(b"GET /big HTTP/1.0\r\n\r\n");
    let answer = client.response();
    assert_eq!((answer.header("transfer-encoding"), answer.body.len()), (None, 1_000_000));
    assert!(client.try_response("GET").is_none());
    assert_eq!(served(&server, post("Content-Length: 2\r\n", "hi")).header("transfer-encoding"), None);
}
