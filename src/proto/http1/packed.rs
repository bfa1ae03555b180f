//! A packed head: the parsed head and its bytes, for another process. That process reads the head without parsing it.

use super::head::{Framing, Head, Method, RequestView, Span};
use std::sync::Arc;

/// Bytes before the spans of the header fields: flags, the method, and the spans of the path and the query.
const FIXED_BYTES: usize = 2 + 2 * SPAN_BYTES;
const SPAN_BYTES: usize = 8;
/// Bytes of the spans of one field: a name and a value.
const FIELD_BYTES: usize = 2 * SPAN_BYTES;
/// Bytes of the number of header fields.
const COUNT_BYTES: usize = 4;

const HTTP_1_0: u8 = 1;
const KEEP_ALIVE: u8 = 2;
const UPGRADE_WEBSOCKET: u8 = 4;
const EXPECT_CONTINUE: u8 = 8;
const HAS_QUERY: u8 = 16;
const CHUNKED: u8 = 32;
/// The length of the client's name, and the name, stand between the spans of the header fields and the bytes of the head.
const HAS_CLIENT: u8 = 64;
/// Bytes of the length of that name.
const NAME_LENGTH_BYTES: usize = 2;

impl Method {
    const fn number(self) -> u8 {
        match self {
            Self::Get => 0,
            Self::Post => 1,
            Self::Put => 2,
            Self::Delete => 3,
            Self::Options => 4,
            Self::Head => 5,
            Self::Patch => 6,
        }
    }

    const fn of_number(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Get,
            1 => Self::Post,
            2 => Self::Put,
            3 => Self::Delete,
            4 => Self::Options,
            5 => Self::Head,
            6 => Self::Patch,
            _ => return None,
        })
    }
}

impl Span {
    fn packed(self) -> [u8; SPAN_BYTES] {
        let both = u64::from(self.start) | u64::from(self.end) << 32;
        both.to_le_bytes()
    }

    /// The span, if it lies within `length` bytes.
    fn unpack(bytes: &[u8], length: usize) -> Option<Self> {
        let both = u64::from_le_bytes(bytes.try_into().ok()?);
        #[expect(clippy::cast_possible_truncation)] // The low and the high half.
        let span = Self { start: both as u32, end: (both >> 32) as u32 };
        (span.start <= span.end && span.end as usize <= length).then_some(span)
    }
}

impl RequestView<'_> {
    /// Appends the packed head: see [`Head::unpack`].
    pub fn pack(&self, out: &mut Vec<u8>) {
        let head = self.head;
        let flags = [
            (head.http_1_0, HTTP_1_0),
            (head.keep_alive, KEEP_ALIVE),
            (head.upgrade_websocket, UPGRADE_WEBSOCKET),
            (head.expect_continue, EXPECT_CONTINUE),
            (head.query.is_some(), HAS_QUERY),
            (head.framing == Framing::Chunked, CHUNKED),
            (head.client.is_some(), HAS_CLIENT),
        ];
        let flags = flags.iter().filter(|(is_set, _)| *is_set).fold(0, |all, (_, flag)| all | flag);
        out.reserve(self.packed_bytes());
        out.extend_from_slice(&[flags, head.method.number()]);
        out.extend_from_slice(&head.path.packed());
        out.extend_from_slice(&head.query.unwrap_or_default().packed());
        out.extend_from_slice(&u32::try_from(head.headers.len()).unwrap_or(u32::MAX).to_le_bytes());
        for (name, value) in &head.headers {
            out.extend_from_slice(&name.packed());
            out.extend_from_slice(&value.packed());
        }
        if let Some((length, name)) = self.packed_client() {
            out.extend_from_slice(&length.to_le_bytes());
            out.extend_from_slice(name);
        }
        out.extend_from_slice(self.bytes);
    }

    /// Bytes that [`RequestView::pack`] appends.
    #[must_use]
    pub fn packed_bytes(&self) -> usize {
        let client = self.packed_client().map_or(0, |(_, name)| NAME_LENGTH_BYTES + name.len());
        FIXED_BYTES + COUNT_BYTES + self.head.headers.len() * FIELD_BYTES + client + self.bytes.len()
    }

    /// Length and bytes of the client's name. A name of more than 64 KiB is left out.
    fn packed_client(&self) -> Option<(u16, &[u8])> {
        let name = self.head.client.as_deref()?;
        Some(u16::try_from(name.len()).map_or((0, &[][..]), |length| (length, name)))
    }

    /// The packed head alone.
    #[must_use]
    pub fn packed(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.pack(&mut out);
        out
    }
}

impl Head {
    /// Replaces this head by the packed one, and returns the bytes of the head. The packed head has no length of the body,
    /// because the body is stored elsewhere. `None`: `packed` is not a packed head.
    pub fn unpack<'a>(&mut self, packed: &'a [u8]) -> Option<&'a [u8]> {
        let (fixed, rest) = packed.split_at_checked(FIXED_BYTES)?;
        let (count, rest) = rest.split_first_chunk::<COUNT_BYTES>()?;
        let count = usize::try_from(u32::from_le_bytes(*count)).ok()?;
        let (fields, bytes) = rest.split_at_checked(count.checked_mul(FIELD_BYTES)?)?;
        let [flags, method, spans @ ..] = fixed else { return None };
        let (path, query) = spans.split_at_checked(SPAN_BYTES)?;
        let has = |flag: u8| flags & flag != 0;
        let (client, bytes) = if has(HAS_CLIENT) {
            let (length, rest) = bytes.split_first_chunk::<NAME_LENGTH_BYTES>()?;
            let (name, bytes) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
            ((!name.is_empty()).then(|| Arc::from(name)), bytes)
        } else {
            (None, bytes)
        };
        self.method = Method::of_number(*method)?;
        (self.http_1_0, self.keep_alive) = (has(HTTP_1_0), has(KEEP_ALIVE));
        (self.upgrade_websocket, self.expect_continue) = (has(UPGRADE_WEBSOCKET), has(EXPECT_CONTINUE));
        self.framing = if has(CHUNKED) { Framing::Chunked } else { Framing::Length(0) };
        self.path = Span::unpack(path, bytes.len())?;
        self.query = if has(HAS_QUERY) { Some(Span::unpack(query, bytes.len())?) } else { None };
        self.client = client;
        self.headers.clear();
        self.headers.reserve(count);
        for field in fields.chunks_exact(FIELD_BYTES) {
            let (name, value) = field.split_at_checked(SPAN_BYTES)?;
            self.headers.push((Span::unpack(name, bytes.len())?, Span::unpack(value, bytes.len())?));
        }
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::http1::{Decoded, Limits, RequestDecoder};
    use proptest::prelude::*;

    const REQUEST: &[u8] = b"DELETE http://other/a/b?c=d HTTP/1.1\r\nHost: here\r\nX-One: 1\r\nEmpty:\r\n\r\n";

    fn packed() -> Vec<u8> {
        let mut decoder = RequestDecoder::new(Limits::default());
        let Ok(Decoded::Request { view, .. }) = decoder.decode(REQUEST) else { panic!("a request") };
        view.packed()
    }

    #[test]
    fn a_head_comes_back_as_it_was() {
        let packed = packed();
        let mut head = Head::default();
        let bytes = head.unpack(&packed).unwrap();
        let view = RequestView { head: &head, bytes, body: &[], shared: None, peer: None };
        assert_eq!((view.method(), view.path(), view.query()), (Method::Delete, &b"/a/b"[..], Some(&b"c=d"[..])));
        let fields: [(&[u8], &[u8]); 3] = [(b"Host", b"other"), (b"X-One", b"1"), (b"Empty", b"")];
        assert_eq!(view.headers().collect::<Vec<_>>(), fields);
        assert!(view.keep_alive() && !view.http_1_0() && !view.is_websocket_upgrade());
        // No span reaches into the empty line.
        for length in 0..packed.len() - 4 {
            let read = Head::default().unpack(&packed[..length]).is_some();
            assert!(!read, "{length} of {} bytes", packed.len());
        }
    }

    #[test]
    fn the_name_of_a_client_comes_along_and_does_not_stay() {
        let mut decoder = RequestDecoder::new(Limits::default());
        decoder.set_client(Arc::from("Zoë".as_bytes()));
        for _ in 0..2 {
            let Ok(Decoded::Request { view, .. }) = decoder.decode(REQUEST) else { panic!("a request") };
            assert_eq!(view.packed_bytes(), view.packed().len());
            let (named, mut head) = (view.packed(), Head::default());
            let bytes = head.unpack(&named).unwrap();
            let again = RequestView { head: &head, bytes, body: &[], shared: None, peer: None };
            assert_eq!((again.client_name(), again.path()), (Some("Zoë".as_bytes()), &b"/a/b"[..]));
            assert!(!again.headers().any(|(_, value)| value == "Zoë".as_bytes()));
            let nameless = packed();
            head.unpack(&nameless).unwrap();
            assert!(head.client.is_none());
        }
    }

    #[test]
    fn each_method_has_its_number() {
        let methods = (0..=u8::MAX).filter_map(|number| Some((number, Method::of_number(number)?)));
        assert_eq!(methods.map(|(number, method)| assert_eq!(method.number(), number)).count(), 7);
    }

    proptest! {
        /// However the packed bytes are changed, accepted spans lie within the bytes.
        #[test]
        fn spans_beyond_the_bytes_are_refused(at in 0..packed().len(), value: u8) {
            let mut packed = packed();
            packed[at] = value;
            let mut head = Head::default();
            if let Some(bytes) = head.unpack(&packed) {
                let length = u32::try_from(bytes.len()).unwrap();
                let all = head.headers.iter().flat_map(|(name, value)| [*name, *value]).chain([head.path]).chain(head.query);
                prop_assert!(all.into_iter().all(|span| span.start <= span.end && span.end <= length));
            }
        }
    }
}
