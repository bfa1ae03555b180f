//! Directories that are served without a handler.

use super::answer::{FileAnswer, Wishes};
use super::open;
use crate::proto::form;
use crate::proto::http1::RequestView;
use std::ffi::CString;
use std::io;

/// The file that is served for a directory.
const INDEX: &[u8] = b"index.html";

/// The answer to `view` from the directory `dir`, which is mounted at the path `prefix`.
#[must_use]
pub fn mounted(view: &RequestView<'_>, prefix: &str, dir: &str) -> FileAnswer {
    let not_found = || FileAnswer::without_file(404, Vec::new());
    let below = below(view.path(), prefix.trim_end_matches('/'));
    if below.is_empty() {
        return moved(view);
    }
    let Some(path) = relative(below) else { return not_found() };
    let (Ok(root), Ok(path)) = (CString::new(dir), CString::new(path)) else { return not_found() };
    match open::find(Some(&root), &path) {
        Ok(family) => FileAnswer::new(view, &family, path.to_bytes(), Wishes::default()),
        // Behind a slash it is the index that is a directory.
        Err(error)
            if error.raw_os_error() == Some(libc::EISDIR)
                && !below.ends_with(b"/")
                && open::is_directory(&root, &path) =>
        {
            moved(view)
        }
        Err(error) => refused(&error, dir),
    }
}

/// The part of `path` after `prefix`, whose characters beyond ASCII may be percent-encoded in the path.
fn below<'p>(path: &'p [u8], prefix: &str) -> &'p [u8] {
    let mut at = 0;
    for byte in prefix.bytes() {
        let is_encoded = !byte.is_ascii() && path.get(at) == Some(&b'%');
        at += if is_encoded { 3 } else { 1 };
    }
    path.get(at..).unwrap_or_default()
}

fn refused(error: &io::Error, dir: &str) -> FileAnswer {
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM) => {
            tracing::warn!("a file of {dir} can't be opened: {error}");
            FileAnswer::without_file(503, vec![("Retry-After", "1".to_owned())])
        }
        Some(libc::EIO | libc::ENOSYS) => {
            tracing::error!("a file of {dir} can't be opened: {error}");
            FileAnswer::without_file(500, Vec::new())
        }
        // The status must not reveal whether a forbidden file exists.
        _ => FileAnswer::without_file(404, Vec::new()),
    }
}

/// Redirects the client to the same path with a trailing slash, so that relative links of an index work.
fn moved(view: &RequestView<'_>) -> FileAnswer {
    let query = view.query().map(|query| [b"?", query].concat()).unwrap_or_default();
    // A path with two leading slashes would name a host.
    let path = view.path().iter().position(|byte| *byte != b'/').and_then(|at| view.path().get(at..));
    let target = [b"/", path.unwrap_or_default(), b"/", &query].concat();
    match String::from_utf8(target) {
        Ok(target) => FileAnswer::without_file(301, vec![("Location", target)]),
        Err(_) => FileAnswer::without_file(404, Vec::new()),
    }
}

/// The path below the directory. `None` for a path that must not be served: one with a NUL, an empty segment, `..`, or a name
/// that begins with a dot (except `.well-known`).
fn relative(below: &[u8]) -> Option<Vec<u8>> {
    let mut path = form::percent_decoded(below.strip_prefix(b"/")?);
    if path.is_empty() || path.ends_with(b"/") {
        path.extend_from_slice(INDEX);
    }
    let is_served = |segment: &[u8]| !segment.is_empty() && (!segment.starts_with(b".") || segment == b".well-known");
    (!path.contains(&0) && path.split(|byte| *byte == b'/').all(is_served)).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::{below, relative};

    #[test]
    fn a_prefix_may_be_percent_encoded_in_the_path() {
        for path in ["/größe/x", "/gr%C3%B6%c3%9fe/x", "/gr%C3%B6ße/x"] {
            assert_eq!(below(path.as_bytes(), "/größe"), b"/x", "{path}");
        }
        assert_eq!(below(b"/a", "/a"), b"");
        assert_eq!(below(b"/a%20/x", "/a%20"), b"/x");
    }

    #[test]
    fn what_is_served_below_a_mount() {
        let path = |below: &str| relative(below.as_bytes()).map(|path| String::from_utf8(path).unwrap());
        for (below, expected) in [
            ("/", "index.html"),
            ("/a/", "a/index.html"),
            ("/a/b.txt", "a/b.txt"),
            ("/a%20b", "a b"),
            ("/.well-known/x", ".well-known/x"),
            ("/a+b", "a+b"),
        ] {
            assert_eq!(path(below).as_deref(), Some(expected), "{below}");
        }
        for below in
            ["/../x", "/%2e%2e/x", "/a/..", "/.git/config", "/a/.env", "//etc", "/a//b", "/a%00b", "/%2Fetc", "x"]
        {
            assert_eq!(path(below), None, "{below}");
        }
    }
}
