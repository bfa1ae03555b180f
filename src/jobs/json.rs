//! JSON texts: the checks that keep them valid, and the only code that parses them.

use std::cell::RefCell;

thread_local! {
    /// simd-json parses in place, so a text is first copied to this buffer.
    static SCRATCH: RefCell<(Vec<u8>, simd_json::Buffers)> = RefCell::default();
}

/// A scratch buffer with a larger capacity, in bytes, is freed.
const SCRATCH_KEPT_MAX: usize = 64 * 1024;

/// Creates the calling thread's scratch buffer in advance. Its creation registers a destructor, which waits for the dynamic
/// loader's lock (`__cxa_thread_atexit_impl`).
pub fn ready() {
    let _ = SCRATCH.try_with(|_| ());
}

/// Whether `text` is one JSON value.
pub(super) fn is_valid(text: &str) -> bool {
    SCRATCH.with_borrow_mut(|(bytes, buffers)| {
        bytes.clear();
        bytes.extend_from_slice(text.as_bytes());
        let valid = simd_json::to_tape_with_buffers(bytes, buffers).is_ok();
        if bytes.capacity() > SCRATCH_KEPT_MAX {
            *bytes = Vec::new();
            *buffers = simd_json::Buffers::default();
        }
        valid
    })
}

/// `text` as one line of JSON. From JSON only the line ends are removed, which occur between tokens only. Any other text
/// becomes a JSON string.
#[must_use]
pub fn one_line(text: &str) -> Box<str> {
    if !is_valid(text) {
        return serde_json::Value::from(text).to_string().into();
    }
    without_line_ends(text)
}

/// JSON on one line: line ends occur between tokens only, so they can be removed.
pub(super) fn without_line_ends(json: &str) -> Box<str> {
    let json = json.trim();
    if memchr::memchr2(b'\n', b'\r', json.as_bytes()).is_none() {
        return json.into();
    }
    json.replace(['\n', '\r'], " ").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_json_from_text() {
        for good in ["{}", " [1, 2.5e3] ", "\"é\\n\"", "null", "{\"a\":{\"b\":[true]}}", "12345678901234567890"] {
            assert!(is_valid(good), "{good}");
        }
        for bad in ["", "{", "{'a':1}", "1 2", "[1,]", "nul", "\"a", "{}x"] {
            assert!(!is_valid(bad), "{bad}");
        }
    }

    #[test]
    fn makes_one_line_of_anything() {
        assert_eq!(&*one_line("{\n \"a\": 1\r\n}"), "{  \"a\": 1  }");
        assert_eq!(&*one_line(" 1 "), "1");
        assert_eq!(&*one_line("a\nb"), "\"a\\nb\"");
        assert_eq!(&*one_line(""), "\"\"");
    }
}
