//! Requests in the form in which targets compare them.

use crate::proto::http1::{Decoded, Head, Limits, Method, RequestDecoder, RequestError, RequestView};

/// A copy of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) method: Method,
    pub(super) path: Vec<u8>,
    pub(super) query: Option<Vec<u8>>,
    pub(super) headers: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) body: Vec<u8>,
    pub(super) http_1_0: bool,
    pub(super) keep_alive: bool,
    pub(super) chunked: bool,
    pub(super) websocket: bool,
}

impl Found {
    fn copy(view: &RequestView<'_>) -> Self {
        Self {
            method: view.method(),
            path: view.path().to_vec(),
            query: view.query().map(<[u8]>::to_vec),
            headers: view.headers().map(|(name, value)| (name.to_vec(), value.to_vec())).collect(),
            body: view.body.to_vec(),
            http_1_0: view.http_1_0(),
            keep_alive: view.keep_alive(),
            chunked: view.is_chunked(),
            websocket: view.is_websocket_upgrade(),
        }
    }
}

/// A decoder's result for its input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) requests: Vec<Found>,
    pub(super) error: Option<RequestError>,
    /// Bytes that requests and empty lines have consumed.
    pub(super) consumed: usize,
}

/// Decodes `pieces` in the order in which they would arrive, and checks each request against `limits`.
pub(super) fn decode(pieces: &[&[u8]], limits: &Limits) -> Outcome {
    let mut decoder = RequestDecoder::new(limits.clone());
    let mut outcome = Outcome { requests: Vec::new(), error: None, consumed: 0 };
    let (mut input, mut expected) = (Vec::new(), false);
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            let given = input.len();
            let (consumed, more) = match decoder.decode(&input) {
                Ok(Decoded::NeedMore { consumed }) => (consumed, false),
                Ok(Decoded::Body { consumed, view, .. }) => {
                    assert!(!expected, "the expectation is reported once for each request");
                    assert!(view.body.is_empty());
                    expected = true;
                    (consumed, true)
                }
                Ok(Decoded::Request { consumed, view }) => {
                    expected = false;
                    check(&view, limits);
                    outcome.requests.push(Found::copy(&view));
                    (consumed, true)
                }
                Err(error) => {
                    assert!((400..=599).contains(&error.status()));
                    outcome.error = Some(error);
                    return outcome;
                }
            };
            assert!(consumed <= given, "{consumed} of {given} bytes consumed");
            outcome.consumed += consumed;
            input.drain(..consumed);
            if !more {
                break;
            }
        }
        assert!(input.len() <= limits.head_bytes_max.max(8 * 1024 + 2), "{} bytes wait", input.len());
    }
    outcome
}

/// Checks the properties of every request that is handed out.
fn check(view: &RequestView<'_>, limits: &Limits) {
    assert!(view.bytes.len() <= limits.head_bytes_max && view.bytes.ends_with(b"\r\n\r\n"));
    assert!(view.body.len() <= limits.body_bytes_max);
    assert!(view.headers().count() <= limits.headers_max);
    let target = view.path().len() + view.query().map_or(0, <[u8]>::len);
    assert!(target <= limits.uri_bytes_max);
    let asterisk = view.method() == Method::Options && view.path() == b"*";
    assert!(view.path().starts_with(b"/") || asterisk && view.query().is_none() || view.path().starts_with(b"*?"));
    let is_hidden = |byte: &u8| byte.is_ascii_control() || *byte == b' ';
    assert!(!view.path().iter().chain(view.query().unwrap_or_default()).any(is_hidden));
    assert!(!view.path().contains(&b'?'));
    for (name, value) in view.headers() {
        let tchar = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
        assert!(!name.is_empty() && name.iter().all(tchar), "{name:?}");
        let control = |byte: &u8| byte.is_ascii_control() && *byte != b'\t';
        assert!(!value.iter().any(control), "{value:?}");
        assert_eq!(value.trim_ascii(), value);
    }
    let hosts = view.headers().filter(|(name, _)| name.eq_ignore_ascii_case(b"host")).count();
    assert!(hosts == 1 || hosts == 0 && view.http_1_0());
    // The modules' process gets the same head packed, and must read the same request from it.
    let (mut again, packed) = (Head::default(), view.packed());
    let bytes = again.unpack(&packed).expect("a head that was packed can be unpacked");
    let again = RequestView { head: &again, bytes, body: view.body, shared: None, peer: None };
    assert_eq!(Found::copy(&again), Found::copy(view));
}
