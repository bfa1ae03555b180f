//! Captures of route paths: segments `:name`, and groups of the pattern, which a module reads with `cweb_param`.
//!
//! Every reader of patterns first rewrites a segment `:name` as the group `([^/]+)`. A shard only finds the route; the
//! domain finds the bytes that a group matched, when the handler asks for them.

use super::pattern::{GROUPS_MAX, Groups};
use super::segment_names::written;
use crate::abi::request::{Captures, Found};
use std::sync::Arc;

/// The error in the names of `path`, as a text for its author.
pub(super) fn problem(path: &str) -> Option<String> {
    let groups = written(path);
    let names: Vec<&str> = groups.iter().filter_map(|group| group.name).collect();
    let twice =
        names.iter().enumerate().find(|(at, name)| names.get(..*at).is_some_and(|earlier| earlier.contains(name)));
    if let Some((_, name)) = twice {
        return Some(format!("two segments have the name :{name}; give each segment a name of its own"));
    }
    if !names.is_empty() && Groups::compile(path).is_none() {
        return Some(format!(
            "its groups can't be told apart in one pass over a path; put fixed text between them, and use at most \
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

/// Reads the path of a route, for [`crate::abi::request::set_captures`]. `None`: the path's groups can't be told apart in
/// one pass.
#[must_use]
pub fn of_route(path: &str) -> Option<Arc<dyn Captures>> {
    let groups = Groups::compile(path)?;
    let names = written(path).iter().map(|group| group.name.map(str::to_owned)).collect();
    Some(Arc::new(RouteGroups { groups, names }))
}

#[cfg(test)]
mod tests {
    use super::super::segment_names::{expanded, has_names};
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
        assert!(problem("/:a/:a").unwrap().contains("two segments have the name :a"));
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
