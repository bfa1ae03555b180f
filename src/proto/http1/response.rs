//! Encodes responses (RFC 9112 §4).

use super::field::{Fate, fate, push_field};
use super::switching::Switching;

/// The interim answer to `Expect: 100-continue` (RFC 9110 §15.2.1).
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The properties of a response, without its header fields and body.
#[derive(Debug, Clone, Copy)]
pub struct ResponseHead<'a> {
    /// Status code, 100 to 599.
    pub status: u16,
    /// The `Date` field's value, unless a header sets one.
    pub date: &'a [u8; 29],
    /// Whether the connection stays open after the response.
    pub keep_alive: bool,
    /// Whether the client speaks HTTP/1.0.
    pub http_1_0: bool,
    /// Bytes of the body: the `Content-Length`.
    pub body_len: usize,
    /// The body is left out, because the request was a HEAD.
    pub head_only: bool,
    /// `Access-Control-Allow-Origin`, unless a header sets one.
    pub cors_origin: Option<&'a str>,
    /// The fields of an answer to OPTIONS that list what is allowed, unless the handler sets them.
    pub preflight: Option<&'a Preflight>,
    /// The answer completes the handshake of a WebSocket: with status 200 it becomes the 101.
    pub switching: Option<&'a Switching>,
}

/// What scripts of other sites may do: the answer to a CORS preflight (Fetch standard).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preflight {
    /// `Access-Control-Allow-Methods`
    pub methods: String,
    /// `Access-Control-Allow-Headers`
    pub headers: String,
    /// `Access-Control-Max-Age`, in seconds.
    pub max_age_s: u32,
}

impl Preflight {
    const FIELDS: [&'static str; 3] =
        ["Access-Control-Allow-Methods", "Access-Control-Allow-Headers", "Access-Control-Max-Age"];

    /// The index of the field with this name, if there is one.
    fn field(name: &[u8]) -> Option<usize> {
        Self::FIELDS.iter().position(|field| name.eq_ignore_ascii_case(field.as_bytes()))
    }

    /// Appends the fields, except those that were `given`.
    fn push(&self, out: &mut Vec<u8>, given: [bool; 3]) {
        let max_age = self.max_age_s.to_string();
        let values = [&self.methods, &self.headers, &max_age];
        for ((field, value), given) in Self::FIELDS.iter().zip(values).zip(given) {
            if !given {
                push_field(out, field.as_bytes(), value.as_bytes());
            }
        }
    }
}

impl ResponseHead<'_> {
    /// Whether a body follows the head.
    #[must_use]
    pub fn has_body(&self) -> bool {
        let switches = self.switching.is_some() && self.status == 200;
        // RFC 9110 §15.3.6: a 205 has no content either, but states that by its `Content-Length`.
        let is_empty = is_bodiless(self.status) || self.status == 205;
        !switches && !self.head_only && !is_empty
    }
}

/// The reason phrase of a status code (RFC 9110 §15 and the IANA registry); empty for an unregistered one.
#[must_use]
pub fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        102 => "Processing",
        103 => "Early Hints",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        207 => "Multi-Status",
        208 => "Already Reported",
        226 => "IM Used",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        305 => "Use Proxy",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        418 => "I'm a teapot",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        423 => "Locked",
        424 => "Failed Dependency",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        506 => "Variant Also Negotiates",
        507 => "Insufficient Storage",
        508 => "Loop Detected",
        510 => "Not Extended",
        511 => "Network Authentication Required",
        _ => "",
    }
}

/// Whether a response with this status has no body and no Content-Length (RFC 9110 §6.4.1, §8.6).
fn is_bodiless(status: u16) -> bool {
    matches!(status, 100..=199 | 204 | 304)
}

fn push_number(out: &mut Vec<u8>, mut number: usize) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

fn push_status_line(out: &mut Vec<u8>, status: u16) {
    if status == 200 {
        return out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
    }
    out.extend_from_slice(b"HTTP/1.1 ");
    push_number(out, usize::from(status));
    out.push(b' ');
    out.extend_from_slice(reason(status).as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Appends a whole response to `out`. The server owns framing, so it replaces `Content-Length`, `Transfer-Encoding` and
/// `Connection` of the handler by the true values. Returns how many header fields were dropped because they can't be sent.
pub fn encode_response<'h>(
    out: &mut Vec<u8>,
    head: &ResponseHead<'_>,
    headers: impl Iterator<Item = (&'h [u8], &'h [u8])>,
    body: &[u8],
) -> u32 {
    if let Some(switching) = head.switching.filter(|_| head.status == 200) {
        return switching.encode(out, head.date, headers);
    }
    let bodiless = is_bodiless(head.status);
    let with_body = head.has_body();
    out.reserve(160 + if with_body { body.len() } else { 0 });
    let Pushed { dropped, upgrade } = push_fields(out, head, headers);
    if !bodiless {
        out.extend_from_slice(b"Content-Length: ");
        push_number(out, if head.status == 205 { 0 } else { head.body_len });
        out.extend_from_slice(b"\r\n");
    }
    push_connection(out, head, upgrade);
    if with_body {
        out.extend_from_slice(body);
    }
    dropped
}

/// Marks an encoded response as the last one of its connection.
pub fn close_after(response: &mut Vec<u8>) {
    let Some(end) = memchr::memmem::find(response, b"\r\n\r\n") else { return };
    // `Connection` is the last field of a head.
    let last = memchr::memmem::rfind(response.get(..end).unwrap_or_default(), b"\r\n").unwrap_or(end);
    let says = |what: &[u8]| response.get(last..end).is_some_and(|line| line == what);
    if says(b"\r\nConnection: close") {
        return;
    }
    let from = if says(b"\r\nConnection: keep-alive") { last } else { end };
    response.splice(from..end, b"\r\nConnection: close".iter().copied());
}

/// Appends the head of a response whose body follows in pieces. The body is chunked or, for an HTTP/1.0 client, ends when the
/// connection is closed. `head.keep_alive` must be false for an HTTP/1.0 client. Returns how many header fields were dropped.
pub fn encode_stream_head<'h>(
    out: &mut Vec<u8>,
    head: &ResponseHead<'_>,
    headers: impl Iterator<Item = (&'h [u8], &'h [u8])>,
) -> u32 {
    let Pushed { upgrade, dropped } = push_fields(out, head, headers);
    if !head.http_1_0 {
        push_field(out, b"Transfer-Encoding", b"chunked");
    }
    push_connection(out, head, upgrade);
    dropped
}

/// The result of appending the fields that a handler has set.
struct Pushed {
    /// How many fields could not be sent.
    dropped: u32,
    /// One of the fields is `Upgrade`.
    upgrade: bool,
}

/// Appends the status line and all header fields, except those of framing.
fn push_fields<'h>(
    out: &mut Vec<u8>,
    head: &ResponseHead<'_>,
    headers: impl Iterator<Item = (&'h [u8], &'h [u8])>,
) -> Pushed {
    push_status_line(out, head.status);
    let (mut date, mut origin, mut upgrade, mut dropped) = (false, false, false, 0);
    let mut allowed = [false; 3];
    for (name, value) in headers {
        if head.preflight.is_some()
            && let Some(given) = Preflight::field(name).and_then(|field| allowed.get_mut(field))
        {
            *given = true;
        }
        // RFC 9110 §5.3: neither `Date` nor `Access-Control-Allow-Origin` is a list, so a second one can't be sent.
        let unsendable = match fate(name, value) {
            Fate::Drop => true,
            Fate::Ignore => continue,
            Fate::Date => std::mem::replace(&mut date, true),
            Fate::Origin => std::mem::replace(&mut origin, true),
            Fate::Upgrade => {
                upgrade = true;
                false
            }
            Fate::Send => false,
        };
        if unsendable {
            dropped += 1;
            continue;
        }
        push_field(out, name, value);
    }
    if !date {
        push_field(out, b"Date", head.date);
    }
    if let Some(value) = head.cors_origin.filter(|_| !origin) {
        push_field(out, b"Access-Control-Allow-Origin", value.as_bytes());
    }
    if let Some(preflight) = head.preflight {
        preflight.push(out, allowed);
    }
    Pushed { dropped, upgrade }
}

/// RFC 9110 §7.6.1, RFC 9112 §9.3: appends the connection's options, among them those that sent fields require.
fn push_connection(out: &mut Vec<u8>, head: &ResponseHead<'_>, upgrade: bool) {
    let options: &[u8] = match (head.keep_alive, head.http_1_0, upgrade) {
        (true, false, false) => b"",
        (true, false, true) => b"Connection: Upgrade\r\n",
        (true, true, false) => b"Connection: keep-alive\r\n",
        (true, true, true) => b"Connection: keep-alive, Upgrade\r\n",
        (false, _, false) => b"Connection: close\r\n",
        (false, _, true) => b"Connection: close, Upgrade\r\n",
    };
    out.extend_from_slice(options);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DATE: &[u8; 29] = b"Thu, 01 Jan 1970 00:00:00 GMT";

    fn head(status: u16, body: &[u8]) -> ResponseHead<'static> {
        ResponseHead {
            status,
            date: DATE,
            keep_alive: true,
            http_1_0: false,
            body_len: body.len(),
            head_only: false,
            cors_origin: Some("*"),
            preflight: None,
            switching: None,
        }
    }

    fn encode(head: &ResponseHead<'_>, headers: &[(&str, &str)], body: &[u8]) -> (String, u32) {
        let mut out = Vec::new();
        let headers = headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        let dropped = encode_response(&mut out, head, headers, body);
        (String::from_utf8(out).unwrap(), dropped)
    }

    #[test]
    fn a_preflight_is_completed() {
        let preflight = Preflight { methods: "GET".to_owned(), headers: "X".to_owned(), max_age_s: 7 };
        let asked = ResponseHead { preflight: Some(&preflight), ..head(200, b"") };
        let (text, _) = encode(&asked, &[("access-control-max-age", "1"), ("X-A", "b")], b"");
        let expected = "Access-Control-Allow-Methods: GET\r\nAccess-Control-Allow-Headers: X\r\n";
        assert!(text.contains("access-control-max-age: 1\r\n") && text.contains(expected), "{text}");
        assert!(!text.contains("Max-Age"), "{text}");
        let (text, _) = encode(&head(200, b""), &[], b"");
        assert!(!text.contains("Allow-Methods"), "{text}");
    }

    #[test]
    fn a_whole_response() {
        let (text, dropped) = encode(&head(200, b"hi"), &[("X-A", "b")], b"hi");
        let expected = "HTTP/1.1 200 OK\r\nX-A: b\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\
                        Access-Control-Allow-Origin: *\r\nContent-Length: 2\r\n\r\nhi";
        assert_eq!((text.as_str(), dropped), (expected, 0));
    }

    #[test]
    fn an_answer_becomes_the_last_one() {
        for (keep_alive, http_1_0) in [(true, false), (true, true), (false, false), (false, true)] {
            let head = |keep_alive| ResponseHead { keep_alive, http_1_0, ..head(200, b"a\r\n\r\nb") };
            let (text, _) = encode(&head(keep_alive), &[("X-Connection", "close")], b"a\r\n\r\nb");
            let mut bytes = text.into_bytes();
            close_after(&mut bytes);
            let (expected, _) = encode(&head(false), &[("X-Connection", "close")], b"a\r\n\r\nb");
            assert_eq!(String::from_utf8(bytes).unwrap(), expected);
        }
    }

    #[test]
    fn rfc_9110_5_5_headers_that_would_split_the_response_are_dropped() {
        let bad = [
            ("A\r\nB", "c"),
            ("A", "b\r\nSet-Cookie: x"),
            ("A", "b\nc"),
            ("A", "b\0"),
            ("A", "b\x7f"),
            ("", "x"),
            ("A B", "c"),
        ];
        let (text, dropped) = encode(&head(200, b""), &bad, b"");
        assert_eq!(dropped, 7);
        assert!(!text.contains("Cookie") && !text.contains("A:"));
    }

    #[test]
    fn framing_is_the_servers() {
        let lies = [("Content-Length", "99"), ("transfer-encoding", "chunked"), ("Connection", "upgrade")];
        let (text, dropped) = encode(&head(200, b"hi"), &lies, b"hi");
        assert_eq!(dropped, 0);
        assert!(text.contains("Content-Length: 2\r\n") && !text.contains("99"));
        assert!(!text.contains("chunked") && !text.contains("upgrade"));
    }

    #[test]
    fn rfc_9110_7_8_an_upgrade_is_an_option_of_the_connection() {
        let upgrade = [("Upgrade", "websocket")];
        assert!(encode(&head(426, b""), &upgrade, b"").0.contains("\r\nConnection: Upgrade\r\n"));
        let close = ResponseHead { keep_alive: false, ..head(426, b"") };
        assert!(encode(&close, &upgrade, b"").0.contains("\r\nConnection: close, Upgrade\r\n"));
    }

    #[test]
    fn a_handlers_date_and_origin_win() {
        let own = [("Date", "d"), ("access-control-allow-origin", "https://a")];
        let (text, _) = encode(&head(200, b""), &own, b"");
        assert_eq!(text.matches("Date").count(), 1);
        assert_eq!(text.to_lowercase().matches("access-control").count(), 1);
    }

    #[test]
    fn rfc_9110_5_3_a_second_date_or_origin_is_dropped() {
        let twice =
            [("Date", "d"), ("date", "e"), ("Access-Control-Allow-Origin", "a"), ("access-control-allow-origin", "b")];
        let (text, dropped) = encode(&head(200, b""), &twice, b"");
        assert_eq!(dropped, 2);
        assert!(text.contains("Date: d\r\n") && !text.contains("date: e") && !text.contains("origin: b"), "{text}");
    }

    #[test]
    fn rfc_9110_6_4_1_no_body_for_head_204_and_304() {
        let only = ResponseHead { head_only: true, ..head(200, b"hello") };
        let (text, _) = encode(&only, &[], b"hello");
        assert!(text.contains("Content-Length: 5\r\n") && text.ends_with("\r\n\r\n"));
        let (text, _) = encode(&head(205, b"x"), &[], b"x");
        assert!(text.contains("Content-Length: 0\r\n") && text.ends_with("\r\n\r\n"), "{text}"); // §15.3.6
        for status in [204, 304] {
            let (text, _) = encode(&head(status, b"x"), &[], b"x");
            assert!(!text.contains("Content-Length") && text.ends_with("\r\n\r\n"), "{text}");
        }
    }

    #[test]
    fn rfc_9112_9_6_connection() {
        let close = ResponseHead { keep_alive: false, ..head(418, b"") };
        assert!(encode(&close, &[], b"").0.contains("418 I'm a teapot\r\n"));
        assert!(encode(&close, &[], b"").0.contains("Connection: close\r\n"));
        let old = ResponseHead { http_1_0: true, ..head(200, b"") };
        assert!(encode(&old, &[], b"").0.contains("Connection: keep-alive\r\n"));
    }

    proptest! {
        #[test]
        fn whatever_a_handler_sets_the_response_is_read_back(
            status in 200..600_u16,
            headers in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..9), proptest::collection::vec(any::<u8>(), 0..9)), 0..8),
            body in proptest::collection::vec(any::<u8>(), 0..100),
        ) {
            let mut out = Vec::new();
            let pairs = headers.iter().map(|(name, value)| (name.as_slice(), value.as_slice()));
            encode_response(&mut out, &head(status, &body), pairs, &body);
            let mut fields = [httparse::EMPTY_HEADER; 32];
            let mut response = httparse::Response::new(&mut fields);
            let parsed = response.parse(&out);
            // RFC 9110 asks recipients to refuse control characters in values, and httparse refuses some of them. A response
            // that httparse accepts must be framed correctly.
            if let Ok(httparse::Status::Complete(len)) = parsed {
                prop_assert_eq!(response.code, Some(status));
                let expected = if head(status, &body).has_body() { &body[..] } else { &[][..] };
                prop_assert_eq!(&out[len..], expected);
            }
        }
    }
}
