//! Parts of forms: any bytes, any number of files.

use super::with_module;
use crate::support::{Client, Response};

/// What `/form` says of a part: the sum is FNV-1a.
fn line(name: &str, file: &str, kind: &str, bytes: &[u8]) -> String {
    let sum = bytes
        .iter()
        .fold(14_695_981_039_346_656_037_u64, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(1_099_511_628_211));
    format!("{name}|{file}|{kind}|{}|{sum:x}\n", bytes.len())
}

fn part(head: &str, bytes: &[u8]) -> Vec<u8> {
    [b"--cut\r\nContent-Disposition: form-data; ", head.as_bytes(), b"\r\n\r\n", bytes, b"\r\n"].concat()
}

fn post(client: &mut Client, target: &str, body: &[u8]) -> Response {
    client.request("POST", target, &[("Content-Type", "multipart/form-data; boundary=cut")], body)
}

#[test]
fn parts_are_whole_whatever_their_bytes() {
    let server = with_module(&["--body-bytes-max", "20000000", "--request-memory-bytes-max", "4194304"]);
    let mut client = server.connect();
    let all: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let large: Vec<u8> = (0..9_000_000_u32).map(|n| (n * 7 % 256) as u8).collect();
    let body = [
        part("name=\"text\"", b"plain"),
        part("name=\"file\"; filename = \"a b.bin\"\r\nContent-Type: image/png", &all),
        part("name=\"file\"; filename=\"../../etc/passwd\"", b"\0\0\r\n--cu\0"),
        part("name=\"file\"; filename=\"\"", b""),
        part("filename=nameless", &large),
    ]
    .concat();
    let whole = [&body[..], b"--cut--\r\n"].concat();
    let files = [
        line("file", "a b.bin", "image/png", &all),
        line("file", "../../etc/passwd", "-", b"\0\0\r\n--cu\0"),
        line("file", "", "-", b""),
    ];
    for _ in 0..2 {
        let expected = format!(
            "{}{}{}5 whole\n",
            line("text", "-", "-", b"plain"),
            files.concat(),
            line("", "nameless", "-", &large)
        );
        assert_eq!(post(&mut client, "/form", &whole).text(), expected);
        assert_eq!(post(&mut client, "/form?only=file", &whole).text(), files.concat() + "3 whole\n");
        assert_eq!(post(&mut client, "/form?only=none", &whole).text(), "0 whole\n");
        assert!(post(&mut client, "/file", &whole).body == all, "a part is the answer");
    }

    // What is wrong is said, and what stands before it is there.
    let first = line("a", "-", "-", b"1");
    for (second, why) in [
        (
            &b"--cut\r\nContent-Disposition: form-data; name=b\r\n\r\nno end"[..],
            "the form breaks off: its closing boundary is missing",
        ),
        (b"--cut\r\nno head", "the head of a part of the form is malformed or too long"),
        (
            b"--cut\r\nContent-Disposition: form-data; name=\"b\"; filename=\"x.c\0.png\"\r\n\r\n2\r\n--cut--",
            "a name or a content type of the form has a NUL",
        ),
    ] {
        let body = [&part("name=a", b"1")[..], second].concat();
        assert_eq!(post(&mut client, "/form", &body).text(), format!("{first}1 {why}\n"));
    }
    let many = [part("name=a", b"1").repeat(4097), b"--cut--".to_vec()].concat();
    let text = post(&mut client, "/form", &many).text();
    assert!(text.ends_with("4096 the form has more than 4096 parts\n"), "{text}");
    let long = part(&format!("name=a; filename={}", "x".repeat(8000)), b"1").repeat(600);
    let text = post(&mut client, "/form", &[&long[..], b"--cut--"].concat()).text();
    assert!(text.contains("do not fit into the request's memory"), "{}", &text[text.len() - 200..]);
    for (kind, why) in [
        ("text/plain", "the request has no form: its Content-Type is neither multipart/form-data nor urlencoded"),
        ("multipart/form-data; boundary=other", "the boundary of the Content-Type does not occur in the form"),
    ] {
        let answer = client.request("POST", "/form", &[("Content-Type", kind)], &whole);
        assert_eq!(answer.text(), format!("0 {why}\n"));
    }

    let kind = [("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")];
    let answer = client.request("POST", "/form", &kind, b"a=x%00y&b=&c%20d=+%ff");
    let expected = [line("a", "-", "-", b"x\0y"), line("b", "-", "-", b""), line("c d", "-", "-", b" \xff")].concat();
    assert_eq!(answer.text(), expected + "3 whole\n");
    let answer = client.request("POST", "/form", &kind, b"a=1&b%00=2");
    assert_eq!(answer.text(), line("a", "-", "-", b"1") + "1 a name or a content type of the form has a NUL\n");
}
