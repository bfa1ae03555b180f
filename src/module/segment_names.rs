//! Segments `:name` of route paths: their positions, and the path with a group in place of each.

use std::borrow::Cow;

/// The group for a segment `:name`.
const SEGMENT: &str = "([^/]+)";

/// A group in a path.
pub(super) struct Written<'p> {
    /// The name of a segment `:name`; `None` for parentheses.
    pub(super) name: Option<&'p str>,
    /// The offset of its first byte.
    pub(super) at: usize,
}

/// The name at the start of `text`, if it is a whole segment.
fn segment_name(text: &str) -> Option<&str> {
    let end = text.find('/').unwrap_or(text.len());
    let name = text.get(..end)?;
    let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    is_name.then_some(name)
}

/// The groups of `path` in their order.
pub(super) fn written(path: &str) -> Vec<Written<'_>> {
    let bytes = path.as_bytes();
    let (mut groups, mut at) = (Vec::new(), 0);
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'\\' => at += 1,
            b'[' => at = bracket_end(bytes, at),
            b'(' => groups.push(Written { name: None, at }),
            b':' if at > 0 && bytes.get(at - 1) == Some(&b'/') => {
                let name = path.get(at + 1..).and_then(segment_name);
                groups.extend(name.map(|name| Written { name: Some(name), at }));
            }
            _ => {}
        }
        at += 1;
    }
    groups
}

/// The offset after the bracket expression that begins at `at`: after its `]`, or the end of the path, which is then
/// refused elsewhere.
fn bracket_end(bytes: &[u8], at: usize) -> usize {
    let mut end = at + 1 + usize::from(bytes.get(at + 1) == Some(&b'^'));
    // A ] in the first position belongs to the set.
    end += usize::from(bytes.get(end) == Some(&b']'));
    while let Some(&byte) = bytes.get(end) {
        if byte == b']' {
            return end;
        }
        if byte == b'[' && bytes.get(end + 1) == Some(&b':') {
            let class = memchr::memmem::find(bytes.get(end..).unwrap_or_default(), b":]");
            end += class.unwrap_or(0) + 1;
        }
        end += 1;
    }
    bytes.len()
}

/// Whether `path` has a segment `:name`.
pub(super) fn has_names(path: &str) -> bool {
    path.contains("/:") && written(path).iter().any(|group| group.name.is_some())
}

/// `path` with a group in place of each segment `:name`.
pub(super) fn expanded(path: &str) -> Cow<'_, str> {
    if !has_names(path) {
        return Cow::Borrowed(path);
    }
    let (mut out, mut from) = (String::with_capacity(path.len() + 16), 0);
    for group in written(path) {
        if let Some(name) = group.name {
            out.push_str(path.get(from..group.at).unwrap_or_default());
            out.push_str(SEGMENT);
            from = group.at + 1 + name.len();
        }
    }
    out.push_str(path.get(from..).unwrap_or_default());
    Cow::Owned(out)
}
