//! Paths and flags that are valid, and that probably mean something else than their author thinks.

use crate::abi::manifest::{FLAG_INLINE, Manifest, RouteDecl};
use crate::module::segment_names::written;
use crate::module::{captures, pattern};

/// A warning for each such route and WebSocket path of `manifest`.
pub(super) fn mistaken(manifest: &Manifest) -> Vec<String> {
    let own = |route: &&RouteDecl| route.mount.is_none();
    let routes = manifest.routes.iter().filter(own);
    let paths = routes.clone().map(|route| (format!("{} {}", route.method, route.path), route.path.as_str()));
    let sockets = manifest.websockets.iter();
    let sockets = sockets.map(|socket| (format!("the WebSocket path {}", socket.path), socket.path.as_str()));
    let of_paths = paths.chain(sockets).filter_map(|(place, path)| Some(format!("{place}: {}", misread(path)?)));
    let of_flags = routes.filter(|route| route.flags & FLAG_INLINE != 0 && route.is_stream()).map(|route| {
        let (method, path) = (&route.method, &route.path);
        format!("{method} {path}: CWEB_INLINE has no effect beside CWEB_STREAM, whose handler may wait; leave it out")
    });
    of_paths.chain(of_flags).collect()
}

/// Why `path` matches other paths than it seems to; `None` if nothing in it is known to mislead.
fn misread(path: &str) -> Option<String> {
    let mut in_brackets = false;
    for segment in path.split('/') {
        let begins_in_brackets = in_brackets;
        if let Some(last) = segment.rfind(['[', ']']) {
            in_brackets = segment.get(last..).is_some_and(|rest| rest.starts_with('['));
        }
        if begins_in_brackets {
            continue;
        }
        let inner = segment.strip_prefix('<').and_then(|rest| rest.strip_suffix('>'));
        if let Some(name) = inner.filter(|name| !name.is_empty()) {
            return Some(format!(
                "\"{segment}\" matches these very characters; write \":{name}\", and read the segment by cweb_param()"
            ));
        }
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let after_name = segment.strip_prefix(':').map(|rest| rest.trim_start_matches(is_name));
        if after_name
            .is_some_and(|rest| rest.starts_with(['.', '-', '*', '+', '?', '(']) && rest.len() + 1 < segment.len())
        {
            return Some(format!(
                "\"{segment}\" is no name, because a name is a whole segment, and matches a colon; write a group, such as \"([^/.]+)\", and \
                 read it by cweb_param_at()"
            ));
        }
        if segment.starts_with(['*', '+']) {
            return Some(format!(
                "\"/{segment}\" repeats the slash, as in regcomp(3); write \"/.*\" for the rest of a path, or \"/[^/]+\" for a segment"
            ));
        }
    }
    if let Some((_, query)) = path.split_once('?')
        && query
            .find('=')
            .is_some_and(|end| end > 0 && query.bytes().take(end).all(|b| b.is_ascii_alphanumeric() || b == b'_'))
    {
        return Some(format!("\"?{query}\" is no query, which is no part of a path; read the query from req->params"));
    }
    let has_groups = !written(path).is_empty() && path.contains('(');
    (pattern::is_pattern(path) && has_groups && captures::of_route(path).is_none()).then(|| {
        "the groups of the pattern can't be told apart in one pass over a path, so cweb_param_at() returns NULL for them; put text \
         between them that they can't match"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::module;
    use super::*;
    use crate::abi::manifest::FLAG_STREAM;

    #[test]
    fn paths_that_mean_something_else_are_remarked_on() {
        for (path, words) in [
            ("/files/*", "repeats the slash"),
            ("/files/+x", "repeats the slash"),
            ("/u/<id>", "write \":id\""),
            ("/p/:id.json", "no name"),
            ("/star/:rest*", "no name"),
            ("/i?x=1", "is no query"),
            ("/pb/([^/]+)[.]json", "in one pass"),
        ] {
            assert!(misread(path).is_some_and(|said| said.contains(words)), "{path}: {:?}", misread(path));
        }
        for path in [
            "/",
            "/a",
            "/a/.*",
            "/u/:id",
            "/:a/x/:b_2",
            "/:8080",
            "/a:b",
            "/([0-9]+)/x",
            "/[/*]",
            "/(a|b)?",
            "/x*",
            "/<",
            "/:",
            "/colou?r",
            "^/a$",
            "/a/[^/]+",
        ] {
            assert_eq!(misread(path), None, "{path}");
        }
        let mut manifest = module("m", &[("GET", "/a"), ("GET", "/*")], &["/w/<room>"]);
        manifest.routes[0].flags = FLAG_INLINE | FLAG_STREAM;
        let all = mistaken(&manifest);
        assert_eq!(all.len(), 3, "{all:?}");
        assert!(all[2].contains("GET /a: CWEB_INLINE has no effect beside CWEB_STREAM"), "{all:?}");
    }
}
