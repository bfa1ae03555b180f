//! A parser for server-sent events (HTML standard, §9.2.6), without I/O: bytes in, events out.

use std::mem;

/// An event of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct ServerSentEvent {
    /// The last id in the stream, up to this event; empty if there was none.
    pub(in crate::cli) id: String,
    /// The event's data lines, joined by line feeds.
    pub(in crate::cli) data: String,
}

/// An event is larger than the reader's limit.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::cli) struct TooLarge {
    /// The limit, in bytes.
    pub(in crate::cli) bytes_max: usize,
}

/// Parses a stream. Bytes may come in pieces of any size. Comments and fields other than `id` and `data` are ignored, and
/// so is an event that the end of the stream cuts off.
pub(in crate::cli) struct SseReader {
    bytes_max: usize,
    /// An incomplete line.
    line: Vec<u8>,
    id: String,
    /// The event's data so far; each line ends with a line feed.
    data: Vec<u8>,
    /// Whether the last byte was a carriage return: a line feed after it belongs to the same line end.
    after_return: bool,
    /// Whether a line has been read: a byte order mark may precede the first line.
    begun: bool,
}

impl SseReader {
    /// A reader that keeps at most `bytes_max` bytes of an event, and as many of a line.
    pub(in crate::cli) fn new(bytes_max: usize) -> Self {
        Self { bytes_max, line: Vec::new(), id: String::new(), data: Vec::new(), after_return: false, begun: false }
    }

    /// Returns the events that `bytes` complete, in order.
    pub(in crate::cli) fn feed(&mut self, mut bytes: &[u8]) -> Result<Vec<ServerSentEvent>, TooLarge> {
        let mut events = Vec::new();
        while let Some(&first) = bytes.first() {
            if mem::take(&mut self.after_return) && first == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let Some(end) = memchr::memchr2(b'\n', b'\r', bytes) else {
                self.keep(bytes)?;
                break;
            };
            self.keep(&bytes[..end])?;
            self.after_return = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
            let line = mem::take(&mut self.line);
            events.extend(self.line_ended(&line)?);
        }
        Ok(events)
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<(), TooLarge> {
        if bytes.len() > self.bytes_max.saturating_sub(self.line.len()) {
            return Err(TooLarge { bytes_max: self.bytes_max });
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn line_ended(&mut self, line: &[u8]) -> Result<Option<ServerSentEvent>, TooLarge> {
        let is_first = !mem::replace(&mut self.begun, true);
        let line = line.strip_prefix(b"\xef\xbb\xbf").filter(|_| is_first).unwrap_or(line);
        if line.is_empty() {
            return Ok(self.event_ended());
        }
        let colon = memchr::memchr(b':', line).unwrap_or(line.len());
        let (name, value) = line.split_at(colon);
        let value = value.strip_prefix(b":").unwrap_or(value);
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match name {
            b"data" if value.len() >= self.bytes_max.saturating_sub(self.data.len()) => {
                return Err(TooLarge { bytes_max: self.bytes_max });
            }
            b"data" => {
                self.data.extend_from_slice(value);
                self.data.push(b'\n');
            }
            b"id" if !value.contains(&0) => self.id = String::from_utf8_lossy(value).into_owned(),
            _ => {}
        }
        Ok(None)
    }

    fn event_ended(&mut self) -> Option<ServerSentEvent> {
        let data = mem::take(&mut self.data);
        let data = data.strip_suffix(b"\n")?;
        Some(ServerSentEvent { id: self.id.clone(), data: String::from_utf8_lossy(data).into_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::sample::select;

    fn event(id: &str, data: &str) -> ServerSentEvent {
        ServerSentEvent { id: id.into(), data: data.into() }
    }

    fn read(stream: &[u8]) -> Vec<ServerSentEvent> {
        SseReader::new(1000).feed(stream).unwrap()
    }

    #[test]
    fn events_of_the_server() {
        let stream = b"id: 7\ndata: {\"a\":1}\n\n:\n\nid: 9\ndata: {}\n\n";
        assert_eq!(read(stream), [event("7", "{\"a\":1}"), event("9", "{}")]);
    }

    #[test]
    fn the_rest_of_the_format() {
        // The standard's own examples, and cases beyond them.
        assert_eq!(read(b"data: YHOO\ndata: +2\ndata: 10\n\n"), [event("", "YHOO\n+2\n10")]);
        assert_eq!(
            read(b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n"),
            [event("1", "first event"), event("", "second event"), event("", " third event")]
        );
        assert_eq!(read(b"data\n\ndata\ndata\n\ndata:"), [event("", ""), event("", "\n")]);
        assert_eq!(read(b"id: 3\n\ndata: x\n\n"), [event("3", "x")], "an id without data is kept");
        assert_eq!(read(b"\xef\xbb\xbfdata: x\r\r"), [event("", "x")]);
        assert_eq!(
            read(b"event: e\nretry: 5\nother: y\ndataset: z\nid: a\0b\ndata: \xff\n\n"),
            [event("", "\u{fffd}")]
        );
        assert_eq!(read(b"data: cut off\n"), []);
    }

    #[test]
    fn large_events_are_refused_before_they_are_kept() {
        let limit = |bytes: &[u8]| SseReader::new(8).feed(bytes);
        assert_eq!(limit(b"data: xx\n\n").unwrap(), [event("", "xx")]);
        assert_eq!(limit(b"data: xxx"), Err(TooLarge { bytes_max: 8 }));
        let lines = b"data:abc\ndata:abc\n\n";
        assert_eq!(limit(lines), Ok(vec![event("", "abc\nabc")]));
        assert_eq!(limit(b"data:abc\ndata:abc\ndata\n\n"), Err(TooLarge { bytes_max: 8 }));
    }

    fn line() -> impl Strategy<Value = Vec<u8>> {
        const NAMES: &[&[u8]] = &[b"data: ", b"data:", b"id: ", b": ", b"", b"data"];
        const ENDS: &[&[u8]] = &[b"\n", b"\r\n", b"\r", b"\n\n", b"\r\n\r\n"];
        let text = proptest::collection::vec(select(b"a: \xc3\xa9\xef".as_slice()), 0..6);
        (select(NAMES), text, select(ENDS)).prop_map(|(name, text, end)| [name, &text, end].concat())
    }

    proptest! {
        #[test]
        fn cuts_change_nothing(lines in proptest::collection::vec(line(), 0..20), cuts in proptest::collection::vec(0_usize..200, 0..12)) {
            let stream = lines.concat();
            let whole = read(&stream);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(stream.len())).chain([0, stream.len()]).collect();
            cuts.sort_unstable();
            let mut reader = SseReader::new(1000);
            let pieces: Vec<_> = cuts.windows(2).flat_map(|cut| reader.feed(&stream[cut[0]..cut[1]]).unwrap()).collect();
            prop_assert_eq!(&pieces, &whole);
            let mut reader = SseReader::new(1000);
            let bytes: Vec<_> = stream.iter().flat_map(|byte| reader.feed(&[*byte]).unwrap()).collect();
            prop_assert_eq!(&bytes, &whole);
        }

        #[test]
        fn line_ends_change_nothing(events in proptest::collection::vec("[a-z:é ]{0,8}", 0..8)) {
            let stream = |end: &str| -> String {
                events.iter().enumerate().map(|(id, data)| format!("id: {id}{end}data: {data}{end}:{end}{end}")).collect()
            };
            let expected: Vec<_> = events.iter().enumerate().map(|(id, data)| event(&id.to_string(), data)).collect();
            for end in ["\n", "\r\n", "\r"] {
                prop_assert_eq!(&read(stream(end).as_bytes()), &expected);
            }
        }
    }
}
