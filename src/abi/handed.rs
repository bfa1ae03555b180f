//! The memory that a module hands over: the server reads and frees it after the module's code has returned.
//!
//! `native/handed.c` reads and frees all memory behind the module's pointers, under the guard of the call, so that a wrong
//! pointer is a fault of the module. The memory that is read here was measured and touched there.

use super::native::{self, RawField, RawGiven, RawHanded, RawRequest};
use super::types::{KvPair, KvStore};
use std::ffi::{CStr, c_char, c_int};
use std::fmt;
use std::ptr;

/// Limit on the header fields of an answer; further fields in the module's own store are left out.
pub(super) const FIELDS_MAX: usize = 256;

const NO_FIELD: RawField = RawField { name: ptr::null(), name_length: 0, value: ptr::null(), value_length: 0 };

/// A kind of memory that a module hands over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thing {
    /// `res->body`
    Body,
    /// A name or a value in `res->headers`.
    Field,
    /// `ws->session`
    Session,
    /// `req->body`, or strings that were added to the request's stores.
    Request,
}

impl Thing {
    const ALL: [(u32, Self); 4] = [
        (native::BODY, Self::Body),
        (native::FIELDS, Self::Field),
        (native::SESSION, Self::Session),
        (native::REQUEST, Self::Request),
    ];

    /// The name of the thing in C.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Body => "res->body",
            Self::Field => "a name or value in res->headers",
            Self::Session => "ws->session",
            Self::Request => "req->body or a value added to the request",
        }
    }

    /// What an author should do instead of handing over memory that is not from malloc(3).
    #[must_use]
    pub fn advice(self) -> &'static str {
        match self {
            Self::Body => "use cweb_respond(), write into res->body, or set it to strdup(\"…\")",
            Self::Field => "use cweb_header(), or http_kv_insert() with strdup(\"…\")",
            Self::Session => "set it to strdup(\"…\")",
            Self::Request => "set it to a block from malloc(3)",
        }
    }
}

/// The place of a fault after the module's own function had returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    thing: Thing,
    freed: bool,
}

impl fmt::Display for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.thing.name();
        if self.freed {
            write!(f, "{name} was freed already, was written beyond its end, or is no block of malloc(3)")
        } else {
            write!(f, "{name} can't be read")
        }
    }
}

/// The record of successive calls.
pub(super) struct Handed {
    raw: RawHanded,
    fields: Vec<RawField>,
}

impl Handed {
    /// A record without room for header fields.
    pub(super) fn new() -> Self {
        Self::with_fields(0)
    }

    /// A record for answers.
    pub(super) fn for_answers() -> Self {
        Self::with_fields(FIELDS_MAX)
    }

    fn with_fields(count: usize) -> Self {
        let raw = RawHanded {
            own_body: ptr::null_mut(),
            own_store: ptr::null(),
            own_pairs: ptr::null(),
            lent: ptr::null(),
            lent_bytes: 0,
            lent_body: ptr::null(),
            lent_body_bytes: 0,
            request: ptr::null_mut(),
            lent_stores: ptr::null(),
            lent_pairs: [ptr::null(); native::REQUEST_STORES],
            lent_pairs_room: [0; native::REQUEST_STORES],
            fields: ptr::null_mut(),
            field_capacity: 0,
            body: ptr::null(),
            body_length: 0,
            field_count: 0,
            refused: ptr::null(),
            scratch_used: 0,
            body_kept: 0,
            strange: 0,
            doing: 0,
            returned: 0,
        };
        Self { raw, fields: vec![NO_FIELD; count] }
    }

    /// Begins a call with a response in the server's own memory.
    pub(super) fn begin(&mut self, body: *mut c_char, store: *const KvStore, pairs: *const KvPair) {
        (self.raw.own_body, self.raw.own_store, self.raw.own_pairs) = (body, store, pairs);
        (self.raw.fields, self.raw.field_capacity) = (self.fields.as_mut_ptr(), self.fields.len());
        (self.raw.body, self.raw.body_length, self.raw.field_count) = (ptr::null(), 0, 0);
        (self.raw.refused, self.raw.scratch_used, self.raw.body_kept) = (ptr::null(), 0, 0);
        (self.raw.strange, self.raw.doing, self.raw.returned) = (0, 0, 0);
    }

    /// Registers memory of the server that the module can read and may hand back by mistake.
    pub(super) fn lend(&mut self, bytes: &[u8]) {
        (self.raw.lent, self.raw.lent_bytes) = (bytes.as_ptr().cast(), bytes.len());
    }

    /// Registers the received body, into which parts of a form point, and the request's own memory.
    pub(super) fn lend_request(&mut self, body: &[u8], request: *mut RawRequest) {
        (self.raw.lent_body, self.raw.lent_body_bytes) = (body.as_ptr().cast(), body.len());
        self.raw.request = request;
    }

    /// Registers the request's stores, which the module can hand back as the response's. `pairs`: the entries of each store.
    pub(super) fn lend_stores(
        &mut self,
        stores: &[KvStore; native::REQUEST_STORES],
        pairs: [&[KvPair]; native::REQUEST_STORES],
    ) {
        self.raw.lent_stores = stores.as_ptr();
        self.raw.lent_pairs = pairs.map(<[KvPair]>::as_ptr);
        self.raw.lent_pairs_room = pairs.map(<[KvPair]>::len);
    }

    /// The record for the C side, during a call.
    pub(super) fn as_raw(&mut self) -> *mut RawHanded {
        &raw mut self.raw
    }

    /// The body of the answer.
    ///
    /// # Safety
    /// The call must have returned without a fault, and nothing may have been freed since.
    pub(super) unsafe fn body(&self) -> &[u8] {
        if self.raw.body.is_null() {
            return &[];
        }
        // SAFETY: cwebn_handed_read has measured and touched the body.
        unsafe { std::slice::from_raw_parts(self.raw.body.cast::<u8>(), self.raw.body_length) }
    }

    /// The header fields of the answer.
    ///
    /// # Safety
    /// The same as for [`Handed::body`].
    pub(super) unsafe fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        // SAFETY: as above.
        let bytes = |at: *const c_char, length| unsafe { std::slice::from_raw_parts(at.cast::<u8>(), length) };
        let found = self.fields.get(..self.raw.field_count).unwrap_or_default();
        found.iter().map(move |field| (bytes(field.name, field.name_length), bytes(field.value, field.value_length)))
    }

    /// The return value of the handler; 0 for a handler that takes no context.
    pub(super) fn returned(&self) -> c_int {
        self.raw.returned
    }

    /// Whether the body is the server's own, unreplaced block.
    pub(super) fn is_own_body(&self) -> bool {
        self.raw.body_kept != 0
    }

    /// Why the answer can't be sent, as a text for people.
    pub(super) fn refused(&self) -> Option<&'static str> {
        if self.raw.refused.is_null() {
            return None;
        }
        // SAFETY: a literal of handed.c.
        unsafe { CStr::from_ptr(self.raw.refused) }.to_str().ok()
    }

    /// The place of a fault, if the fault was not in the module's own function.
    pub(super) fn reading(&self) -> Option<Reading> {
        let doing = self.raw.doing.cast_unsigned();
        let (_, thing) = Thing::ALL.into_iter().find(|(bit, _)| doing & bit != 0)?;
        Some(Reading { thing, freed: doing & native::FREED != 0 })
    }

    /// Which things were not from malloc(3), as bits for [`Thing::of`].
    pub(super) fn strange(&self) -> u32 {
        self.raw.strange
    }
}

impl Thing {
    /// The things for which the bits stand.
    pub fn of(bits: u32) -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(move |(bit, _)| bits & bit != 0).map(|(_, thing)| thing)
    }
}

/// The memory to free after a call: none so far.
pub(super) fn nothing_given() -> RawGiven {
    RawGiven {
        store: ptr::null_mut(),
        pairs: [ptr::null_mut(); native::GIVEN_STORES],
        counts: [0; native::GIVEN_STORES],
        body: ptr::null_mut(),
        request_body: ptr::null_mut(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_names_functions_that_there_are() {
        let headers = [include_str!("../../include/cweb_helpers.h"), include_str!("../../include/http.h")].concat();
        for (_, thing) in Thing::ALL {
            let advice = thing.advice();
            for (end, _) in advice.match_indices("()") {
                let start = advice[..end].rfind(|c: char| !c.is_alphanumeric() && c != '_').map_or(0, |at| at + 1);
                let name = &advice[start..end];
                assert!(headers.contains(&format!(" {name}(")), "{name}");
            }
        }
    }
}
