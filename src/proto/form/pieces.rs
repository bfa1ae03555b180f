//! Reads `multipart/form-data` that arrives in pieces, in constant memory. [`multipart`](super::multipart()) reads a whole
//! form.

use super::multipart::{MultipartError, PART_HEAD_BYTES_MAX, read_part};
use memchr::memmem;
use std::ops::Range;

/// Size of the window, in bytes: larger than a part's head and a boundary, and large enough that copying is cheap.
const WINDOW_BYTES: usize = 32 * 1024;

/// The header fields of a part.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PartHead {
    /// The field's name; empty when the part has no name.
    pub name: Vec<u8>,
    /// The file's name, for a file.
    pub filename: Option<Vec<u8>>,
    /// The part's own `Content-Type`.
    pub content_type: Option<Vec<u8>>,
}

/// The next event of a form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FormEvent {
    /// More bytes are needed: see [`Form::room`].
    NeedMore,
    /// A part begins.
    Part(PartHead),
    /// Bytes of the part's content: this range of [`Form::bytes`], never empty.
    Content(Range<usize>),
    /// The part is complete.
    PartEnd,
    /// There is no further part.
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before the first boundary. A boundary at the start of the form (`begun` is false) needs no line end before it.
    Preamble {
        begun: bool,
    },
    /// Behind a boundary. `padded`: white space has followed the boundary on its line.
    Boundary {
        padded: bool,
    },
    /// Behind the line of a boundary, within a part's head.
    Head,
    /// Behind a part's head, where a boundary needs no line end before it.
    Start,
    Content,
    End,
}

/// Reads a form. Without IO: bytes go into [`Form::room`], events come from [`Form::next_event`].
#[derive(Debug)]
pub struct Form {
    /// A line end, two dashes and the boundary.
    delimiter: Vec<u8>,
    finder: memmem::Finder<'static>,
    window: Box<[u8]>,
    /// The part of the window that has not been processed.
    left: Range<usize>,
    /// The caller has called [`Form::finish`]: no bytes follow those in the window.
    ended: bool,
    state: State,
}

impl Form {
    /// A form whose parts are separated by `boundary`: see [`multipart_boundary`](super::multipart_boundary).
    #[must_use]
    pub fn new(boundary: &[u8]) -> Self {
        let delimiter = [b"\r\n--", boundary].concat();
        let finder = memmem::Finder::new(&delimiter).into_owned();
        let window = vec![0; WINDOW_BYTES].into_boxed_slice();
        Self { delimiter, finder, window, left: 0..0, ended: false, state: State::Preamble { begun: false } }
    }

    /// Where the next bytes of the form go; never empty after [`FormEvent::NeedMore`].
    pub fn room(&mut self) -> &mut [u8] {
        if self.left.start > 0 {
            self.window.copy_within(self.left.clone(), 0);
            self.left = 0..self.left.len();
        }
        self.window.get_mut(self.left.end..).unwrap_or_default()
    }

    /// Reports that the caller has written `count` bytes to [`Form::room`].
    pub fn filled(&mut self, count: usize) {
        self.left.end = (self.left.end + count).min(self.window.len());
    }

    /// Reports that no more bytes follow.
    pub fn finish(&mut self) {
        self.ended = true;
    }

    /// The bytes of a range from [`FormEvent::Content`]. The range is valid until the next call of another function.
    #[must_use]
    pub fn bytes(&self, range: Range<usize>) -> &[u8] {
        self.window.get(range).unwrap_or_default()
    }

    fn rest(&self) -> &[u8] {
        self.window.get(self.left.clone()).unwrap_or_default()
    }

    fn opening(&self) -> &[u8] {
        self.delimiter.get(2..).unwrap_or_default()
    }

    fn skip(&mut self, count: usize, state: State) {
        self.left.start = (self.left.start + count).min(self.left.end);
        self.state = state;
    }

    /// The next event.
    ///
    /// # Errors
    /// See [`MultipartError`]; each later call returns the same error.
    pub fn next_event(&mut self) -> Result<FormEvent, MultipartError> {
        loop {
            let event = match self.state {
                State::Preamble { begun } => self.preamble(begun)?,
                State::Boundary { padded } => self.boundary(padded)?,
                State::Head => self.head()?,
                State::Start => self.start(),
                State::Content => Some(self.content()?),
                State::End => Some(FormEvent::End),
            };
            if let Some(event) = event {
                return Ok(event);
            }
        }
    }

    /// Whether the unprocessed bytes begin with `wanted`; `None` when too few bytes have arrived to decide.
    fn starts_with(&self, wanted: &[u8]) -> Option<bool> {
        let rest = self.rest();
        let known = rest.len().min(wanted.len());
        let is_so = rest.get(..known) == wanted.get(..known);
        if is_so && known < wanted.len() && !self.ended { None } else { Some(is_so && known == wanted.len()) }
    }

    /// The first boundary stands at the start or, after a preamble, on a line of its own.
    fn preamble(&mut self, begun: bool) -> Result<Option<FormEvent>, MultipartError> {
        if !begun {
            let Some(is_first) = self.starts_with(self.opening()) else { return Ok(Some(FormEvent::NeedMore)) };
            let skipped = if is_first { self.opening().len() } else { 0 };
            let next = if is_first { State::Boundary { padded: false } } else { State::Preamble { begun: true } };
            self.skip(skipped, next);
            return Ok(None);
        }
        if let Some(at) = self.finder.find(self.rest()) {
            self.skip(at + self.delimiter.len(), State::Boundary { padded: false });
            return Ok(None);
        }
        if self.ended {
            return Err(MultipartError::NoBoundary);
        }
        self.skip(self.safe(), State::Preamble { begun: true });
        Ok(Some(FormEvent::NeedMore))
    }

    /// How many bytes can be handed out: no boundary begins in them, given that the window has no whole boundary.
    fn safe(&self) -> usize {
        self.left.len().saturating_sub(self.delimiter.len() - 1)
    }

    fn boundary(&mut self, padded: bool) -> Result<Option<FormEvent>, MultipartError> {
        // RFC 2046 §5.1.1: white space may pad the boundary line, but not before the dashes of the last one.
        if !padded {
            match self.starts_with(b"--") {
                None => return Ok(Some(FormEvent::NeedMore)),
                Some(true) => {
                    self.skip(2, State::End);
                    return Ok(None);
                }
                Some(false) => {}
            }
        }
        let padding = self.rest().iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
        self.skip(padding, State::Boundary { padded: padded || padding > 0 });
        match self.starts_with(b"\r\n") {
            None => Ok(Some(FormEvent::NeedMore)),
            Some(true) => {
                self.skip(2, State::Head);
                Ok(None)
            }
            Some(false) => Err(MultipartError::Truncated),
        }
    }

    fn head(&mut self) -> Result<Option<FormEvent>, MultipartError> {
        match self.starts_with(b"\r\n") {
            None => return Ok(Some(FormEvent::NeedMore)),
            Some(true) => {
                self.skip(2, State::Start);
                return Ok(Some(FormEvent::Part(PartHead::default())));
            }
            Some(false) => {}
        }
        let rest = self.rest();
        let window = rest.get(..rest.len().min(PART_HEAD_BYTES_MAX)).unwrap_or_default();
        let Some(end) = memmem::find(window, b"\r\n\r\n") else {
            let is_over = self.ended || rest.len() >= PART_HEAD_BYTES_MAX;
            return if is_over { Err(MultipartError::PartHead) } else { Ok(Some(FormEvent::NeedMore)) };
        };
        let part = read_part(window.get(..end).unwrap_or_default(), &[]);
        let head = PartHead {
            name: part.name.into_owned(),
            filename: part.filename.map(std::borrow::Cow::into_owned),
            content_type: part.content_type.map(<[u8]>::to_vec),
        };
        self.skip(end + 4, State::Start);
        Ok(Some(FormEvent::Part(head)))
    }

    /// A boundary includes the line end before it. In a part without content, that line end also ends the part's head.
    fn start(&mut self) -> Option<FormEvent> {
        match self.starts_with(self.opening()) {
            None => Some(FormEvent::NeedMore),
            Some(true) => {
                self.skip(self.opening().len(), State::Boundary { padded: false });
                Some(FormEvent::PartEnd)
            }
            Some(false) => {
                self.state = State::Content;
                None
            }
        }
    }

    fn content(&mut self) -> Result<FormEvent, MultipartError> {
        let found = self.finder.find(self.rest());
        let count = found.unwrap_or_else(|| self.safe());
        if count > 0 {
            let range = self.left.start..self.left.start + count;
            self.skip(count, State::Content);
            return Ok(FormEvent::Content(range));
        }
        match found {
            Some(_) => {
                self.skip(self.delimiter.len(), State::Boundary { padded: false });
                Ok(FormEvent::PartEnd)
            }
            None if self.ended => Err(MultipartError::Truncated),
            None => Ok(FormEvent::NeedMore),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type PartsAndEnd = (Vec<(String, Vec<u8>)>, Result<(), MultipartError>);

    /// The complete parts of `body`, fed `piece` bytes at a time.
    fn parts(body: &[u8], piece: usize) -> PartsAndEnd {
        let (mut form, mut rest, mut all) = (Form::new(b"B"), body, Vec::new());
        let mut part = (String::new(), Vec::new());
        loop {
            match form.next_event() {
                Ok(FormEvent::NeedMore) if rest.is_empty() => form.finish(),
                Ok(FormEvent::NeedMore) => {
                    let room = form.room();
                    let count = piece.min(rest.len()).min(room.len());
                    assert!(count > 0);
                    room[..count].copy_from_slice(&rest[..count]);
                    rest = &rest[count..];
                    form.filled(count);
                }
                Ok(FormEvent::Part(head)) => part = (String::from_utf8(head.name).unwrap(), Vec::new()),
                Ok(FormEvent::Content(range)) => {
                    assert!(!range.is_empty());
                    part.1.extend_from_slice(form.bytes(range));
                }
                Ok(FormEvent::PartEnd) => all.push(std::mem::take(&mut part)),
                Ok(FormEvent::End) => return (all, Ok(())),
                Err(error) => return (all, Err(error)),
            }
        }
    }

    #[test]
    fn large_parts_need_no_more_memory_than_small_ones() {
        let content: Vec<u8> = (0..300_000_u32).map(|at| (at % 251) as u8).collect();
        let body = [
            b"preamble\r\n--B \t\r\nContent-Disposition: form-data; name=a\r\n\r\n".as_slice(),
            &content,
            b"\r\n--B\r\nContent-Disposition: form-data; name=b\r\n\r\n--B--epilogue",
        ]
        .concat();
        for piece in [1, 7, 100_000] {
            let expected = vec![("a".to_owned(), content.clone()), ("b".to_owned(), Vec::new())];
            assert!(parts(&body, piece) == (expected, Ok(())), "{piece}");
        }
    }

    #[test]
    fn heads_have_a_bound_and_forms_that_break_off_are_errors() {
        let long = format!("--B\r\nX: {}\r\n\r\nx\r\n--B--", "y".repeat(PART_HEAD_BYTES_MAX));
        assert_eq!(parts(long.as_bytes(), 1000).1, Err(MultipartError::PartHead));
        assert_eq!(parts(b"--B\r\n\r\nx", 3).1, Err(MultipartError::Truncated));
        assert_eq!(parts(b"nothing", 3).1, Err(MultipartError::NoBoundary));
        assert_eq!(parts(b"", 3).1, Err(MultipartError::NoBoundary));
    }
}
