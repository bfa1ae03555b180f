//! Uncaught exceptions of C++: their descriptions, for messages. See `native/exceptions.c`.

use super::native;
use std::ffi::{CStr, CString, c_char};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::OnceLock;

/// The name of the library of C++ that the descriptions come from.
const LIBRARY: &[u8] = b"libstdc++.so.6\0";
/// Limit, in bytes, on the part of a file in which the name is looked for: the names that the loader needs are at its
/// beginning.
const HEAD_BYTES: u64 = 256 * 1024;

/// Takes the description of an exception.
pub type Observer = Box<dyn Fn(&str) + Send + Sync>;

static OBSERVER: OnceLock<Observer> = OnceLock::new();

/// Makes uncaught exceptions of this process describable, also those of the constructors of the shared object at `path`,
/// which is about to be opened.
pub(super) fn watch(path: &Path) {
    let mut head = Vec::new();
    let read = File::open(path).and_then(|file| file.take(HEAD_BYTES).read_to_end(&mut head));
    let is_needed = read.is_ok() && memchr::memmem::find(&head, LIBRARY).is_some();
    // SAFETY: opens a library of the system, which is never closed, and sets its handler of std::terminate() to a function of
    // this program.
    unsafe { native::cwebn_exceptions_watch(is_needed.into()) };
}

/// Makes uncaught exceptions of this process describable if a library of C++ is loaded.
pub(super) fn watch_loaded() {
    // SAFETY: as in `watch`; nothing is opened.
    unsafe { native::cwebn_exceptions_watch(0) };
}

/// The description of the exception that caused the last signal caught on this thread; `None` if the signal had another
/// cause.
#[must_use]
pub fn last() -> Option<String> {
    let mut text = [0_u8; native::THROWN_BYTES];
    // SAFETY: writes at most the length of the array.
    let length = unsafe { native::cwebn_last_thrown(text.as_mut_ptr().cast(), text.len()) };
    let text = text.get(..length).filter(|text| !text.is_empty())?;
    Some(String::from_utf8_lossy(text).into_owned())
}

/// Calls `told` with the description of each uncaught exception, before the exception's SIGABRT. Calls after the first in a
/// process have no effect.
pub fn observe(told: Observer) {
    if OBSERVER.set(told).is_ok() {
        // SAFETY: `tell` lives as long as the process, and the C code calls it with a C string.
        unsafe { native::cwebn_exceptions_observe(tell) };
    }
}

/// Passes a description on.
///
/// # Safety
/// `text` is a C string.
unsafe extern "C" fn tell(text: *const c_char) {
    // SAFETY: the caller's contract.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    if let Some(observer) = OBSERVER.get() {
        observer(&text);
    }
}

/// Prepares [`demangled`], which must work in a sandbox that opens no file.
pub fn prepare_names() {
    // SAFETY: as in `watch`.
    unsafe { native::cwebn_exceptions_watch(1) };
}

/// The name of a C++ function as its author wrote it, without its parameters; `None` if `name` is not a mangled name.
#[must_use]
pub fn demangled(name: &str) -> Option<String> {
    let mangled = CString::new(name).ok().filter(|_| name.starts_with("_Z"))?;
    // SAFETY: a C string.
    let text = unsafe { native::cwebn_demangle(mangled.as_ptr()) };
    if text.is_null() {
        return None;
    }
    // SAFETY: the C code returned a C string from malloc(3), which is freed once.
    let owned = unsafe {
        let owned = CStr::from_ptr(text).to_string_lossy().into_owned();
        libc::free(text.cast());
        owned
    };
    Some(without_parameters(&owned).to_owned())
}

/// `f(int) const` without `(int) const`.
fn without_parameters(name: &str) -> &str {
    let end = name.trim_end_matches(" const");
    if !end.ends_with(')') {
        return name;
    }
    let mut depth = 0_i32;
    for (at, c) in end.char_indices().rev() {
        match c {
            ')' => depth += 1,
            '(' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return end.get(..at).filter(|rest| !rest.is_empty()).unwrap_or(name);
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lose_their_parameters() {
        for (name, short) in [
            ("f(int)", "f"),
            ("a::B::c(std::vector<int> const&) const", "a::B::c"),
            ("(anonymous namespace)::f(int (*)(int))", "(anonymous namespace)::f"),
            ("m::{lambda(int)#1}::operator()(int) const", "m::{lambda(int)#1}::operator()"),
            ("variable", "variable"),
            ("(x)", "(x)"),
        ] {
            assert_eq!(without_parameters(name), short);
        }
    }
}
