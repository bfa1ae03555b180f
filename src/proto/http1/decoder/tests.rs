use super::*;
use proptest::prelude::*;

type Found = (Method, Vec<u8>, Option<Vec<u8>>, Vec<(Vec<u8>, Vec<u8>)>, Vec<u8>, bool);

fn own(view: &RequestView<'_>) -> Found {
    let headers = view.headers().map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
    let query = view.query().map(<[u8]>::to_vec);
    (view.method(), view.path().to_vec(), query, headers, view.body.to_vec(), view.keep_alive())
}

/// Decodes `input` as it would arrive in pieces that end at `cuts`.
fn decode_all(input: &[u8], cuts: &[usize]) -> (Vec<Found>, Option<RequestError>) {
    let mut decoder = RequestDecoder::new(Limits { body_bytes_max: 5000, ..Limits::default() });
    let (mut found, mut at, mut end) = (Vec::new(), 0, 0);
    for &cut in cuts.iter().chain(std::iter::once(&input.len())) {
        end = cut.clamp(end, input.len());
        loop {
            match decoder.decode(&input[at..end]) {
                Ok(Decoded::NeedMore { consumed }) => {
                    at += consumed;
                    break;
                }
                Ok(Decoded::Body { consumed, .. }) => at += consumed,
                Ok(Decoded::Request { consumed, view }) => {
                    found.push(own(&view));
                    at += consumed;
                }
                Err(error) => return (found, Some(error)),
            }
        }
    }
    (found, None)
}

fn one(input: &str) -> Result<Found, RequestError> {
    match decode_all(input.as_bytes(), &[]) {
        (_, Some(error)) => Err(error),
        (mut found, None) => Ok(found.remove(0)),
    }
}

fn status(input: &str) -> u16 {
    one(input).map_or_else(|error| error.status(), |_| 200)
}

#[test]
fn a_request_is_handed_out_in_place() {
    let input = b"GET /a/b?c=d HTTP/1.1\r\nHost: x\r\nX-Y:  z \r\n\r\nrest";
    let mut decoder = RequestDecoder::new(Limits::default());
    let Ok(Decoded::Request { consumed, view }) = decoder.decode(input) else { panic!() };
    assert_eq!(consumed, input.len() - 4);
    assert_eq!((view.path(), view.query()), (b"/a/b".as_slice(), Some(b"c=d".as_slice())));
    assert_eq!(view.header("x-y"), Some(b"z".as_slice()));
    assert!(view.keep_alive() && !view.http_1_0());
    assert!(std::ptr::eq(view.bytes.as_ptr(), input.as_ptr()));
}

#[test]
fn rfc_9112_9_3_persistence() {
    let keeps = |text: &str| one(text).unwrap().5;
    assert!(keeps("GET / HTTP/1.1\r\nHost: x\r\n\r\n"));
    assert!(!keeps("GET / HTTP/1.1\r\nHost: x\r\nConnection: foo, Close\r\n\r\n"));
    assert!(!keeps("GET / HTTP/1.0\r\n\r\n"));
    assert!(keeps("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"));
}

#[test]
fn rfc_9112_6_3_framing_that_could_smuggle_is_refused() {
    let post = |fields: &str| status(&format!("POST / HTTP/1.1\r\nHost: x\r\n{fields}\r\n\r\n0\r\n\r\n"));
    assert_eq!(post("Content-Length: 5\r\nTransfer-Encoding: chunked"), 400);
    assert_eq!(post("Content-Length: 5\r\nContent-Length: 6"), 400);
    assert_eq!(post("Content-Length: 5\r\nContent-Length: 5"), 400);
    for bad in ["+5", "-5", "5 5", "0x5", "5,5", "", "99999999999999999999999"] {
        assert_eq!(post(&format!("Content-Length: {bad}")), 400, "{bad}");
    }
    assert_eq!(post("Transfer-Encoding: chunked"), 200);
    assert_eq!(post("Transfer-Encoding: gzip, chunked"), 501);
    for bad in ["xchunked", "identity", "gzip", "", "chunked, identity", "chunked, chunked", "chunked,", "chunked;a=b"]
    {
        assert_eq!(post(&format!("Transfer-Encoding: {bad}")), 400, "{bad}");
    }
    assert_eq!(post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"), 400);
    assert_eq!(post("Content-Length: 5001"), 413);
}

#[test]
fn rfc_9112_syntax() {
    let get = |lines: &str| status(&format!("GET / HTTP/1.1\r\n{lines}\r\n\r\n"));
    assert_eq!(get("Host: x"), 200);
    assert_eq!(get("X: y"), 400); // §3.2: no Host
    assert_eq!(get("Host: x\r\nHost: x"), 400);
    assert_eq!(get("Host: x\r\nA : b"), 400); // §5.1: space before the colon
    assert_eq!(get("Host: x\r\nA: b\r\n c"), 400); // §5.2: folded line
    assert_eq!(get("Host: x\nA: b"), 400); // §2.2: bare LF
    assert_eq!(get("Host: x\r\nA: b\rc"), 400); // §2.2: bare CR
    assert_eq!(get("Host: x\r\nA: b\0c"), 400);
    assert_eq!(status("GET / HTTP/1.1\nHost: x\n\n"), 400);
    assert_eq!(status("\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n"), 200); // §2.2
    assert_eq!(status("GET / HTTP/2.0\r\nHost: x\r\n\r\n"), 505);
    assert_eq!(status("GET / FTP/1.1\r\nHost: x\r\n\r\n"), 400);
    assert_eq!(status("GET / HTTP/1.2\r\nHost: x\r\n\r\n"), 200); // RFC 9110 §2.5
    assert_eq!(status("GET / HTTP/1.10\r\nHost: x\r\n\r\n"), 400);
    assert_eq!(get("Host: a b"), 400);
    assert_eq!(status("BREW / HTTP/1.1\r\nHost: x\r\n\r\n"), 501);
    assert_eq!(status("get / HTTP/1.1\r\nHost: x\r\n\r\n"), 501); // RFC 9110 §9.1: case-sensitive
    assert_eq!(get("Host: x\r\nExpect: wonders"), 417);
}

#[test]
fn rfc_9112_2_2_empty_lines_are_counted_however_they_arrive() {
    let lines = |count: usize| ["\r\n".repeat(count).as_bytes(), b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"].concat();
    for (count, found) in [(EMPTY_LINES_MAX, 1), (EMPTY_LINES_MAX + 1, 0)] {
        let input = lines(count).repeat(2);
        let cuts: Vec<usize> = (0..input.len()).collect();
        assert_eq!(decode_all(&input, &cuts), decode_all(&input, &[]));
        assert_eq!(decode_all(&input, &cuts).0.len(), found * 2);
    }
}

#[test]
fn rfc_9112_3_2_targets() {
    let target = |target: &str| one(&format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n"));
    assert_eq!(target("http://h/p?q").unwrap().1, b"/p");
    // §3.2.2: the Host field is ignored.
    assert_eq!(target("http://h/p?q").unwrap().3[0], (b"Host".to_vec(), b"h".to_vec()));
    // RFC 3986 §3.2: the authority ends at the first / or ?; RFC 9110 §4.2.1: it may not be empty.
    let parts = |text: &str| target(text).map(|found| (found.1, found.2)).unwrap();
    assert_eq!(parts("http://h?x=/mgnt"), (b"/".to_vec(), Some(b"x=/mgnt".to_vec())));
    assert_eq!(parts("HTTPS://h"), (b"/".to_vec(), None));
    assert_eq!(target("http:///p").unwrap_err().status(), 400);
    assert_eq!(target("h:80").unwrap_err().status(), 400);
    assert_eq!(target("*").unwrap_err().status(), 400);
    assert_eq!(status("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n"), 200);
    assert_eq!(target("relative").unwrap_err().status(), 400);
}

#[test]
fn limits() {
    let long = "a".repeat(9000);
    assert_eq!(status(&format!("GET /{long} HTTP/1.1\r\nHost: x\r\n\r\n")), 414);
    assert_eq!(decode_all(format!("GET /{long}").as_bytes(), &[]).1.unwrap().status(), 414);
    let longer = "a".repeat(20_000);
    assert_eq!(status(&format!("GET /{longer} HTTP/1.1\r\nHost: x\r\n\r\n")), 414);
    assert_eq!(decode_all(format!("GET /{longer}").as_bytes(), &[]).1.unwrap().status(), 414);
    let fields = "X: y\r\n".repeat(101);
    assert_eq!(status(&format!("GET / HTTP/1.1\r\nHost: x\r\n{fields}\r\n")), 431);
    let field = format!("X: {}\r\n", "y".repeat(17_000));
    assert_eq!(status(&format!("GET / HTTP/1.1\r\nHost: x\r\n{field}\r\n")), 431);
    assert_eq!(decode_all(format!("GET / HTTP/1.1\r\n{field}").as_bytes(), &[]).1.unwrap().status(), 431);
}

#[test]
fn an_expectation_is_announced_once_and_only_when_the_body_is_awaited() {
    let mut decoder = RequestDecoder::new(Limits::default());
    let head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n";
    let Ok(Decoded::Body { consumed, announced: Some(2), expects_continue: true, .. }) = decoder.decode(head) else {
        panic!()
    };
    assert_eq!(consumed, head.len());
    assert!(matches!(decoder.decode(b"a"), Ok(Decoded::NeedMore { consumed: 1 })));
    let Ok(Decoded::Request { view, .. }) = decoder.decode(b"b") else { panic!() };
    assert_eq!(view.body, b"ab");
    let both = [head.as_slice(), b"ab"].concat();
    assert!(matches!(decoder.decode(&both), Ok(Decoded::Request { .. })));
}

#[test]
fn a_body_that_is_still_to_come_is_announced_and_may_be_limited() {
    let head = b"POST /p HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    let whole = [head.as_slice(), b"3\r\nabc\r\n0\r\n\r\n"].concat();
    for (limit, fits) in [(2, false), (3, true), (usize::MAX, true)] {
        let mut decoder = RequestDecoder::new(Limits { body_bytes_max: 5, ..Limits::default() });
        for _ in 0..2 {
            let Ok(Decoded::Body { consumed, view, announced: None, .. }) = decoder.decode(&whole) else { panic!() };
            assert_eq!((consumed, view.path()), (head.len(), b"/p".as_slice()));
            decoder.limit_body(limit);
            match decoder.decode(&whole[head.len()..]) {
                Ok(Decoded::Request { view, .. }) if fits => assert_eq!(view.body, b"abc"),
                Err(RequestError::BodyTooLarge) if !fits => break,
                other => panic!("{other:?}"),
            }
            assert_eq!(decoder.gathered(), 3);
            decoder.release();
            assert_eq!((decoder.gathered(), decoder.body.capacity()), (0, 0));
        }
    }
    // The general limit applies to every route's limit, and the limit of one request does not apply to the next.
    let mut decoder = RequestDecoder::new(Limits { body_bytes_max: 2, ..Limits::default() });
    assert!(matches!(decoder.decode(&whole), Ok(Decoded::Body { .. })));
    decoder.limit_body(100);
    assert!(matches!(decoder.decode(&whole[head.len()..]), Err(RequestError::BodyTooLarge)));
}

fn request() -> impl Strategy<Value = Vec<u8>> {
    let body = proptest::collection::vec(any::<u8>(), 0..300);
    (0..4_u8, "[a-z]{0,9}", body, proptest::collection::vec(1..50_usize, 0..8)).prop_map(|(kind, path, body, cuts)| {
        let mut out = format!("POST /{path}?q HTTP/1.1\r\nHost: h\r\nX-{path}: v\r\n").into_bytes();
        match kind {
            0 => out.extend_from_slice(b"\r\n"),
            1 | 2 => {
                out.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
                out.extend_from_slice(&body);
            }
            _ => {
                out.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
                let mut rest = body.as_slice();
                for cut in cuts {
                    let (part, others) = rest.split_at(cut.min(rest.len()));
                    if !part.is_empty() {
                        out.extend_from_slice(format!("{:x};e=1\r\n", part.len()).as_bytes());
                        out.extend_from_slice(part);
                        out.extend_from_slice(b"\r\n");
                    }
                    rest = others;
                }
                out.extend_from_slice(b"0\r\nT: t\r\n\r\n");
            }
        }
        out
    })
}

proptest! {
    #[test]
    fn cuts_anywhere_give_the_same_requests(
        requests in proptest::collection::vec(request(), 1..4),
        mut cuts in proptest::collection::vec(0..1500_usize, 0..12),
    ) {
        let input = requests.concat();
        cuts.sort_unstable();
        let whole = decode_all(&input, &[]);
        prop_assert_eq!(whole.1, None);
        prop_assert_eq!(whole.0.len(), requests.len());
        prop_assert_eq!(decode_all(&input, &cuts), whole);
    }

    #[test]
    fn any_bytes_are_decoded_or_refused(input in proptest::collection::vec(any::<u8>(), 0..400), cut in 0..400_usize) {
        let _ = decode_all(&input, &[cut]);
    }

    #[test]
    fn any_bytes_after_a_request_line_are_decoded_or_refused(tail in "[ -~\r\n]{0,200}", cut in 0..200_usize) {
        let _ = decode_all(format!("GET / HTTP/1.1\r\n{tail}\r\n\r\n").as_bytes(), &[cut]);
    }
}
