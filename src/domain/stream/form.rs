//! A form whose parts a handler reads while they arrive (`cweb_next_part`, `cweb_part_read`).

use crate::abi::stream::PartText;
use crate::proto::form::{Form, FormEvent, MultipartError, PartHead};
use std::ffi::CString;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Reads the next bytes of the body and returns their number, 0 at the end.
pub(super) type Read<'r> = &'r mut dyn FnMut(&mut [MaybeUninit<u8>]) -> Result<usize, i32>;

/// The header texts of a part, as C strings.
#[derive(Debug, Default)]
struct Texts {
    name: CString,
    file_name: Option<CString>,
    content_type: Option<CString>,
}

impl Texts {
    /// `EPROTO`: a text contains a NUL, which would end it in C.
    fn of(head: PartHead) -> Result<Self, i32> {
        let text = |bytes: Vec<u8>| CString::new(bytes).map_err(|_| libc::EPROTO);
        Ok(Self {
            name: text(head.name)?,
            file_name: head.filename.map(text).transpose()?,
            content_type: head.content_type.map(text).transpose()?,
        })
    }

    fn pointers(&self) -> PartText {
        let pointer = |text: &Option<CString>| text.as_ref().map_or(std::ptr::null(), |text| text.as_ptr());
        let (file_name, content_type) = (pointer(&self.file_name), pointer(&self.content_type));
        PartText { name: self.name.as_ptr(), file_name, content_type }
    }
}

/// The form of one request.
#[derive(Debug)]
pub(super) struct FormReader {
    form: Form,
    /// The texts of the current part.
    texts: Texts,
    /// The part's bytes that have arrived and are not taken yet.
    content: Range<usize>,
    in_part: bool,
    /// The errno for which the form can't be read further.
    failed: Option<i32>,
}

impl FormReader {
    pub(super) fn new(boundary: &[u8]) -> Self {
        Self { form: Form::new(boundary), texts: Texts::default(), content: 0..0, in_part: false, failed: None }
    }

    /// The next event of the form; reads more of the body if necessary.
    fn event(&mut self, read: Read<'_>) -> Result<FormEvent, i32> {
        if let Some(errno) = self.failed {
            return Err(errno);
        }
        let event = loop {
            match self.form.next_event() {
                Ok(FormEvent::NeedMore) => {}
                Ok(event) => break Ok(event),
                Err(
                    MultipartError::NoBoundary
                    | MultipartError::Truncated
                    | MultipartError::PartHead
                    | MultipartError::TooManyParts,
                ) => break Err(libc::EPROTO),
            }
            let room = self.form.room();
            // SAFETY: the slice covers the same memory; only bytes that were read are written.
            let room = unsafe { std::slice::from_raw_parts_mut(room.as_mut_ptr().cast(), room.len()) };
            match read(room) {
                Ok(0) => self.form.finish(),
                Ok(count) => self.form.filled(count),
                Err(errno) => break Err(errno),
            }
        };
        self.failed = event.as_ref().err().copied();
        event
    }

    /// Goes to the next part and skips the rest of this one. `None`: there is no further part.
    pub(super) fn next_part(&mut self, read: Read<'_>) -> Result<Option<PartText>, i32> {
        (self.content, self.in_part) = (0..0, false);
        loop {
            match self.event(read)? {
                FormEvent::Part(head) => {
                    self.texts = Texts::of(head).inspect_err(|errno| self.failed = Some(*errno))?;
                    self.in_part = true;
                    return Ok(Some(self.texts.pointers()));
                }
                FormEvent::End => return Ok(None),
                FormEvent::Content(_) | FormEvent::PartEnd | FormEvent::NeedMore => {}
            }
        }
    }

    /// Copies the next bytes of the part to `into`, and returns their number, 0 at its end.
    pub(super) fn read(&mut self, into: &mut [MaybeUninit<u8>], read: Read<'_>) -> Result<usize, i32> {
        while self.content.is_empty() {
            if !self.in_part || into.is_empty() {
                return Ok(0);
            }
            match self.event(read)? {
                FormEvent::Content(range) => self.content = range,
                FormEvent::PartEnd => self.in_part = false,
                FormEvent::Part(_) | FormEvent::End | FormEvent::NeedMore => return Err(libc::EPROTO),
            }
        }
        let count = self.content.len().min(into.len());
        let (now, later) = (self.content.start..self.content.start + count, self.content.start + count);
        let bytes = self.form.bytes(now);
        for (to, from) in into.iter_mut().zip(bytes) {
            to.write(*from);
        }
        self.content.start = later;
        Ok(bytes.len())
    }
}
