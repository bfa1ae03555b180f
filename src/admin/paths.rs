//! The server's own paths.

/// Whether `path` belongs to the server and not to a module.
#[must_use]
pub fn owns(path: &[u8]) -> bool {
    // A single comparison excludes nearly every path of a module.
    match path.get(1) {
        Some(b'm') => is_under(path, b"/mgnt") || path == b"/metrics",
        Some(b'j') => is_under(path, b"/jobs"),
        Some(b'b') => is_under(path, b"/blobs"),
        Some(b'h') => path == b"/healthz",
        _ => false,
    }
}

/// Whether `path` is `root` or below `root`.
pub(super) fn is_under(path: &[u8], root: &[u8]) -> bool {
    path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}
