//! Captures of route paths: segments `:name`, and groups of the pattern, as a module asks for them by `cweb_param`.
//!
//! A segment `:name` is written as the group `([^/]+)` before a pattern is translated, wherever patterns are read. Which bytes
//! a group matched is found where the module runs, when its handler asks; a shard only finds the route.

use super::pattern::{GROUPS_MAX, Groups};
use crate::abi::request::{Captures, Found};
use std::borrow::Cow;
use std::sync::Arc;

/// What a segment `:name` matches.
const SEGMENT: &str = "([^/]+)";

/// A group of a path as it is written.
struct Written<'p> {
    /// The name of a segment `:name`; `None` for parentheses.
    name: Option<&'p str>,
    /// Where it begins.
    at: usize,
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
fn written(path: &str) -> Vec<Written<'_>> {
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

/// Where the bracket expression that begins at `at` ends: at its `]`, or at the end of a path that is refused elsewhere.
fn bracket_end(bytes: &[u8], at: usize) -> usize {
    let mut end = at + 1 + usize::from(bytes.get(at + 1) == Some(&b'^'));
    // A ] in the first place is one of the set.
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

/// What is wrong with the names of `path`, for its author.
pub(super) fn problem(path: &str) -> Option<String> {
    let groups = written(path);
    let names: Vec<&str> = groups.iter().filter_map(|group| group.name).collect();
    let twice =
        names.iter().enumerate().find(|(at, name)| names.get(..*at).is_some_and(|earlier| earlier.contains(name)));
    if let Some((_, name)) = twice {
        return Some(format!("the segment :{name} stands there twice; give each a name of its own"));
    }
    if !names.is_empty() && Groups::compile(path).is_none() {
        return Some(format!(
            "what its groups match can't be told in one pass over a path; have something fixed between them, and at most \
             {GROUPS_MAX} groups"
        ));
    }
    None
}

/// The groups of one route's path.
struct RouteGroups {
    groups: Groups,
    names: Vec<Option<String>>,
}

impl Captures for RouteGroups {
    fn find(&self, path: &[u8], found: &mut Found<'_>) {
        for (place, name) in self.groups.of(path).unwrap_or_default().into_iter().zip(&self.names) {
            found(name.as_deref(), place.and_then(|place| path.get(place)));
        }
    }
}

/// Reads the path of a route, for [`crate::abi::request::set_captures`].
#[must_use]
pub fn of_route(path: &str) -> Option<Arc<dyn Captures>> {
    let groups = Groups::compile(path)?;
    let names = written(path).iter().map(|group| group.name.map(str::to_owned)).collect();
    Some(Arc::new(RouteGroups { groups, names }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn found(path: &str, request: &str) -> Vec<String> {
        let mut all = Vec::new();
        if let Some(captures) = of_route(path) {
            captures.find(request.as_bytes(), &mut |name, value| {
                let value = value.map_or("-".into(), String::from_utf8_lossy);
                all.push(format!("{}={value}", name.unwrap_or_default()));
            });
        }
        all
    }

    #[test]
    fn segments_with_names_are_groups() {
        for (path, out) in [
            ("/u/:id", "/u/([^/]+)"),
            ("/:a/x/:b_2", "/([^/]+)/x/([^/]+)"),
            ("/u/:id/[0-9]+", "/u/([^/]+)/[0-9]+"),
            ("/:8080", "/:8080"),
            ("/a:b", "/a:b"),
            ("/:name.json", "/:name.json"),
            ("/:", "/:"),
            ("/[^/:x/]:y", "/[^/:x/]:y"),
            ("/[]/:x/]", "/[]/:x/]"),
            ("/[[:alpha:]/:x/]", "/[[:alpha:]/:x/]"),
            ("/\\(:x", "/\\(:x"),
            ("/(:x)", "/(:x)"),
        ] {
            assert_eq!(expanded(path), out, "{path}");
            assert_eq!(has_names(path), path != out, "{path}");
        }
    }

    #[test]
    fn groups_are_numbered_and_named_in_their_order() {
        assert_eq!(found("/u/:id", "/u/a%20b"), ["id=a%20b"]);
        assert_eq!(found("/([a-z]+)/:id/(x|y)", "/ab/7/y"), ["=ab", "id=7", "=y"]);
        assert_eq!(found("/(a)|/(b)", "/b"), ["=-", "=b"]);
        assert_eq!(found("/[(]/:id/\\(", "/(/7/("), ["id=7"]);
        assert_eq!(found("/u/:id", "/u/7/x"), Vec::<String>::new());
        assert_eq!(found("/plain", "/plain"), Vec::<String>::new());
    }

    #[test]
    fn names_that_can_t_be_told_are_refused() {
        assert!(problem("/:a/:a").unwrap().contains(":a stands there twice"));
        assert!(problem("/(a*)(a*)/:b").unwrap().contains("in one pass"));
        let many: String = (0..=GROUPS_MAX).map(|n| format!("/:a{n}")).collect();
        assert!(problem(&many).unwrap().contains("at most 16 groups"));
        assert_eq!((problem("/:a/:b"), problem("/(a*)(a*)")), (None, None));
    }

    proptest! {
        #[test]
        fn any_path_is_fine(path in "[/:a(b\\])\\[\\\\^é]{0,20}") {
            let _ = (expanded(&path), problem(&path), of_route(&path));
        }
    }
}
