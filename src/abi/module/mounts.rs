//! The directories that a module serves: each becomes a route behind the routes with handlers.

use super::{MountInfo, noted, text};
use crate::abi::manifest::{Mount, RouteDecl};

/// The route of entry number `at` of `module_t.mounts`.
pub(super) fn route(at: usize, mount: &MountInfo, problems: &mut Vec<String>) -> RouteDecl {
    let prefix = noted(text(mount.prefix, &format!("mounts[{at}].prefix")), problems);
    let dir = noted(text(mount.dir, &format!("mounts[{at}].dir")), problems);
    RouteDecl {
        path: pattern(&prefix),
        method: "GET".to_owned(),
        flags: 0,
        has_handler: true,
        mount: Some(Mount { prefix, dir }),
        ..RouteDecl::default()
    }
}

/// A POSIX extended regular expression for `prefix` and all paths below it.
fn pattern(prefix: &str) -> String {
    let mut pattern = String::new();
    for c in prefix.trim_end_matches('/').chars() {
        if ".[]()*+?{}|^$\\".contains(c) {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    if pattern.is_empty() { "/.*".to_owned() } else { format!("{pattern}(/.*)?") }
}

#[cfg(test)]
mod tests {
    use super::pattern;

    #[test]
    fn patterns_of_prefixes() {
        for (prefix, expected) in [("/", "/.*"), ("/a", "/a(/.*)?"), ("/a/", "/a(/.*)?"), ("/v1.0", "/v1\\.0(/.*)?")] {
            assert_eq!(pattern(prefix), expected);
        }
    }
}
