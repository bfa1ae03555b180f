//! Checks of a manifest, made before anything changes.

use super::pattern;
use super::table::method_index;
use crate::abi::manifest::Manifest;
use std::collections::HashSet;

/// `CWEB_NAME_SIZE` without its NUL.
const NAME_BYTES_MAX: usize = 127;

/// Paths that are the server's own.
const RESERVED: [&str; 4] = ["/mgnt", "/jobs", "/healthz", "/metrics"];

/// Why a module can't be served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub(super) String);

fn refuse(text: impl Into<String>) -> Result<(), Refusal> {
    Err(Refusal(text.into()))
}

/// Checks everything that needs no other module.
///
/// # Errors
/// What is wrong and where.
pub(super) fn check(manifest: &Manifest) -> Result<(), Refusal> {
    name(&manifest.name)?;
    routes(manifest)?;
    let mut paths = HashSet::new();
    for (at, socket) in manifest.websockets.iter().enumerate() {
        let path = &socket.path;
        if !path.starts_with('/') || path.bytes().any(|byte| byte <= b' ' || byte == b'?' || byte == b'#') {
            return refuse(format!("websockets[{at}]: the path \"{path}\" must be literal and begin with /"));
        }
        reserved(path, &format!("websockets[{at}]"))?;
        if !paths.insert(path) {
            return refuse(format!("websockets[{at}]: the path {path} is declared twice"));
        }
    }
    let mut jobs = HashSet::new();
    for (at, job) in manifest.jobs.iter().enumerate() {
        if job.name.is_empty() {
            return refuse(format!("jobs[{at}] has no name"));
        }
        if !job.has_run {
            return refuse(format!("jobs[{at}] ({}) has no run function", job.name));
        }
        if !jobs.insert(&job.name) {
            return refuse(format!("jobs[{at}]: the name {} is declared twice", job.name));
        }
    }
    Ok(())
}

fn name(name: &str) -> Result<(), Refusal> {
    if name.is_empty() {
        return refuse("config.name is empty; give the module a name");
    }
    if name.len() > NAME_BYTES_MAX {
        return refuse(format!("config.name is longer than {NAME_BYTES_MAX} bytes"));
    }
    if name.chars().any(char::is_control) {
        return refuse("config.name has a control character");
    }
    Ok(())
}

fn routes(manifest: &Manifest) -> Result<(), Refusal> {
    let mut seen = HashSet::new();
    for (at, route) in manifest.routes.iter().enumerate() {
        let (path, method) = (&route.path, &route.method);
        if path.is_empty() {
            return refuse(format!("routes[{at}] has an empty path"));
        }
        if pattern::is_literal(path) && !path.starts_with('/') {
            return refuse(format!(
                "routes[{at}]: the path \"{path}\" does not begin with /, so no request can match it"
            ));
        }
        if method_index(method).is_none() {
            return refuse(format!(
                "routes[{at}] ({path}): the method \"{method}\" is none of GET, POST, PUT, DELETE, OPTIONS, HEAD, PATCH"
            ));
        }
        if !route.has_handler {
            return refuse(format!("routes[{at}] ({method} {path}) has no handler"));
        }
        if let Err(reason) = pattern::translate(path) {
            return refuse(format!("routes[{at}]: the pattern \"{path}\" can't be used: {reason}"));
        }
        reserved(path, &format!("routes[{at}]"))?;
        if !seen.insert((method, path)) {
            return refuse(format!("routes[{at}]: {method} {path} is declared twice"));
        }
    }
    Ok(())
}

/// Refuses what is plainly meant for one of the server's paths. A pattern that covers them among others (`/.*`) is fine:
/// there the server's own paths win.
fn reserved(path: &str, place: &str) -> Result<(), Refusal> {
    let text = path.strip_prefix('^').unwrap_or(path);
    for own in RESERVED {
        let rest = text.strip_prefix(own);
        if rest.is_some_and(|rest| rest.is_empty() || rest == "$" || rest.starts_with('/')) {
            return refuse(format!("{place}: {path} is the server's own path ({own}); choose another"));
        }
    }
    Ok(())
}

/// The route or WebSocket path of `new` that a module of `others` serves already.
pub(super) fn conflict<'a>(new: &Manifest, others: impl Iterator<Item = &'a Manifest>) -> Result<(), Refusal> {
    for other in others.filter(|other| other.name != new.name) {
        for route in &new.routes {
            let taken = other.routes.iter().filter(|theirs| theirs.method == route.method);
            if let Some(theirs) = taken.into_iter().find(|theirs| overlap(&route.path, &theirs.path)) {
                return refuse(format!(
                    "conflict: {} {} of module {} is already served by module {} ({})",
                    route.method, route.path, new.name, other.name, theirs.path
                ));
            }
        }
        for socket in &new.websockets {
            if other.websockets.iter().any(|theirs| theirs.path == socket.path) {
                return refuse(format!(
                    "conflict: the WebSocket path {} of module {} is already served by module {}",
                    socket.path, new.name, other.name
                ));
            }
        }
    }
    Ok(())
}

/// Whether two paths can match one request: the same text, or one, read as a path, matches the other. Two different
/// patterns may still overlap; then the module that was deployed first is asked first.
fn overlap(a: &str, b: &str) -> bool {
    let matches = |pattern: &str, path: &str| {
        pattern::translate(pattern)
            .ok()
            .and_then(|regex| regex::bytes::Regex::new(&regex).ok())
            .is_some_and(|regex| regex.is_match(path.as_bytes()))
    };
    a == b || matches(a, b) || matches(b, a)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::manifest::{JobDecl, RouteDecl, WebSocketDecl};

    fn module(name: &str, routes: &[(&str, &str)], sockets: &[&str]) -> Manifest {
        let route = |&(method, path): &(&str, &str)| RouteDecl {
            path: path.into(),
            method: method.into(),
            flags: 0,
            has_handler: true,
        };
        let socket = |path: &&str| WebSocketDecl { path: (*path).into(), ..WebSocketDecl::default() };
        Manifest {
            name: name.into(),
            routes: routes.iter().map(route).collect(),
            websockets: sockets.iter().map(socket).collect(),
            ..Manifest::default()
        }
    }

    fn reason(manifest: &Manifest) -> String {
        check(manifest).unwrap_err().0
    }

    #[test]
    fn accepts_what_is_right() {
        let mut good = module("m", &[("GET", "/a"), ("POST", "/a"), ("GET", "/.*")], &["/a", "/ws"]);
        good.jobs = vec![JobDecl { name: "j".into(), has_run: true, ..JobDecl::default() }];
        assert_eq!(check(&good), Ok(()));
        assert_eq!(check(&module("m", &[("GET", "/jobsite"), ("GET", "/mgntx")], &[])), Ok(()));
    }

    #[test]
    fn refuses_with_place_and_reason() {
        assert!(reason(&module("", &[], &[])).contains("empty"));
        assert!(reason(&module(&"x".repeat(128), &[], &[])).contains("127"));
        assert!(reason(&module("a\nb", &[], &[])).contains("control"));
        assert!(reason(&module("m", &[("BREW", "/a")], &[])).contains("BREW"));
        assert!(reason(&module("m", &[("GET", "/a"), ("GET", "/a")], &[])).contains("routes[1]"));
        assert!(reason(&module("m", &[("GET", "/(a)\\1")], &[])).contains("back-references"));
        assert!(reason(&module("m", &[("GET", "a")], &[])).contains("begin with /"));
        for path in ["/jobs", "/jobs/x", "^/mgnt$", "/mgnt/.*", "/metrics"] {
            assert!(reason(&module("m", &[("GET", path)], &[])).contains("server's own"), "{path}");
        }
        assert!(reason(&module("m", &[], &["ws"])).contains("websockets[0]"));
        assert!(reason(&module("m", &[], &["/w", "/w"])).contains("twice"));
        let mut no_handler = module("m", &[("GET", "/a")], &[]);
        no_handler.routes[0].has_handler = false;
        assert!(reason(&no_handler).contains("no handler"));
    }

    #[test]
    fn finds_conflicts_in_both_directions() {
        let conflicts = |a: &Manifest, b: &Manifest| conflict(a, std::iter::once(b)).is_err();
        let (literal, pattern) = (module("a", &[("GET", "/x/1")], &[]), module("b", &[("GET", "/x/[0-9]+")], &[]));
        assert!(conflicts(&literal, &pattern) && conflicts(&pattern, &literal));
        assert!(!conflicts(&module("a", &[("POST", "/x/1")], &[]), &pattern));
        assert!(!conflicts(&module("b", &[("GET", "/x/1")], &[]), &pattern), "its own new version");
        assert!(conflicts(&module("a", &[], &["/w"]), &module("b", &[], &["/w"])));
        assert!(!conflicts(&module("a", &[("GET", "/w")], &[]), &module("b", &[], &["/w"])));
    }
}
