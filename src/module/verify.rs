//! Checks of a manifest, before a deployment changes anything.

mod conflicts;
mod flags;
mod mistaken;
mod refusal;

use super::table::method_index;
use super::{captures, pattern, segment_names};
use crate::abi::manifest::{JobDecl, Limits, Manifest, RouteDecl};
use crate::jobs::SCHEDULE_PAYLOAD_BYTES_MAX;
use crate::jobs::cron::{Cron, ZONE_DEFAULT};
use conflicts::Matcher;
pub(super) use conflicts::conflict;
use flags::{check_handshake, check_killable};
pub(super) use refusal::Refusal;
use refusal::refuse;
use std::collections::HashSet;
use std::time::Duration;

/// Limit, in bytes, on a module's name: `CWEB_NAME_SIZE` without its NUL.
const NAME_BYTES_MAX: usize = 127;

/// Paths that belong to the server.
pub(super) const RESERVED: [&str; 5] = ["/mgnt", "/jobs", "/blobs", "/healthz", "/metrics"];

/// The operator's limits on routes.
#[derive(Debug, Clone, Copy)]
pub struct RouteLimits {
    /// Limit, in bytes, on the body limit that a route can set for itself.
    pub body_bytes_max: usize,
    /// Limit, in bytes, on bodies for a route that sets no limit.
    pub plain_body_bytes_max: usize,
    /// Time limit of a handler whose route sets none; `None` where handlers are not limited.
    pub handler_timeout: Option<Duration>,
}

impl RouteLimits {
    /// No limit: for a check without a server.
    pub(super) const UNKNOWN: Self =
        Self { body_bytes_max: usize::MAX, plain_body_bytes_max: usize::MAX, handler_timeout: Some(Duration::MAX) };
}

/// Checks that need no other module.
///
/// # Errors
/// All problems with their places, one line each.
pub(super) fn check(manifest: &Manifest) -> Result<(), Refusal> {
    let mut problems = Problems { read: &manifest.problems, found: manifest.problems.clone() };
    problems.add("config.name", name(&manifest.name));
    for (at, route) in manifest.routes.iter().enumerate() {
        problems.add(
            &format!("config.routes[{at}]"),
            check_route(at, route).and_then(|()| check_handshake(at, route, manifest)),
        );
    }
    for (at, socket) in manifest.websockets.iter().enumerate() {
        problems.add(&format!("config.websockets[{at}]"), check_socket(at, &socket.path));
    }
    for (at, job) in manifest.jobs.iter().enumerate() {
        problems.add(&format!("config.jobs[{at}]"), check_job(at, job));
    }
    if problems.found.is_empty() { Ok(()) } else { Err(Refusal(problems.found.join("\n"))) }
}

/// The problems of a manifest.
struct Problems<'a> {
    /// The problems that reading the manifest found.
    read: &'a [String],
    found: Vec<String>,
}

impl Problems<'_> {
    /// Adds a problem at `place`, unless a part of `place` could not even be read.
    fn add(&mut self, place: &str, checked: Result<(), Refusal>) {
        let is_of_place = |problem: &String| problem.strip_prefix(place).is_some_and(|rest| rest.starts_with('.'));
        if let Err(Refusal(problem)) = checked
            && !self.read.iter().any(is_of_place)
        {
            self.found.push(problem);
        }
    }
}

/// A line, in a compiler's format, for each declaration that is valid but probably a mistake.
pub(super) fn remarks(manifest: &Manifest, limits: RouteLimits) -> String {
    let read = manifest.warnings.iter().cloned();
    let warnings = read.chain(uncommon_name(&manifest.name)).chain(repeated(manifest)).chain(hidden(manifest));
    let warnings = warnings.chain(mistaken::mistaken(manifest));
    let beyond = manifest.routes.iter().enumerate().flat_map(|(at, route)| beyond(at, route, limits));
    let above = above(&manifest.limits, limits);
    warnings.map(|text| format!("config: warning: {text}\n")).chain(beyond).chain(above).collect()
}

/// Notes about project limits above those of the server; the server's limits apply.
fn above(own: &Limits, limits: RouteLimits) -> Vec<String> {
    let mut notes = Vec::new();
    let mut note = |text: String| notes.push(format!("module.toml: note: limits: {text}\n"));
    match limits.handler_timeout.map(|limit| limit.as_millis()) {
        Some(servers) if u128::from(own.handler_time_ms) > servers => note(format!(
            "handler_time_ms = {} is above the {servers} ms of --handler-timeout-ms, which count for routes without CWEB_TIMEOUT_S",
            own.handler_time_ms
        )),
        None if own.handler_time_ms > 0 => {
            note("handler_time_ms has no effect without --isolation process".to_owned());
        }
        _ => {}
    }
    if own.body_bytes > limits.plain_body_bytes_max as u64 {
        note(format!(
            "body_bytes = {} is above the {} bytes of --body-bytes-max, which count for routes without CWEB_BODY_MIB",
            own.body_bytes, limits.plain_body_bytes_max
        ));
    }
    notes
}

/// A warning that the new version has another author than the version `served`.
pub(super) fn other_author(served: &Manifest, new: &Manifest) -> Option<String> {
    (served.author != new.author).then(|| {
        format!(
            "config: warning: the module {} of the author \"{}\" is replaced by a module of \"{}\"; if the two are different \
             modules, give the new one another name\n",
            new.name, served.author, new.author
        )
    })
}

fn uncommon_name(name: &str) -> Option<String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    if name.bytes().all(is_plain) {
        return None;
    }
    let part = |byte: u8| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    let escaped: String = name.bytes().map(part).collect();
    Some(format!("the name \"{name}\" has to be escaped in URLs: /mgnt/{escaped}"))
}

fn repeated(manifest: &Manifest) -> impl Iterator<Item = String> {
    let mut seen = HashSet::new();
    // What is declared, and what makes it the same as another declaration.
    let path =
        |kind: String, path: &str| (format!("{kind} {path}"), format!("{kind} {}", segment_names::expanded(path)));
    let routes = manifest.routes.iter().map(move |route| path(route.method.clone(), &route.path));
    let sockets = manifest.websockets.iter().map(move |socket| path("the WebSocket path".to_owned(), &socket.path));
    let jobs = manifest.jobs.iter().map(|job| format!("the job {}", job.name)).map(|job| (job.clone(), job));
    let repeated = routes.chain(sockets).chain(jobs).filter(move |(_, same)| !seen.insert(same.clone()));
    repeated.map(|(declared, _)| format!("{declared} is declared twice; the first declaration counts"))
}

/// Routes that never get a request, because an earlier route of the module matches all their requests.
fn hidden(manifest: &Manifest) -> Vec<String> {
    let matchers: Vec<Matcher<'_>> = manifest.routes.iter().map(Matcher::new).collect();
    let mut hidden = Vec::new();
    for (at, later) in matchers.iter().enumerate() {
        let before = matchers.get(..at).unwrap_or_default();
        let hides = |earlier: &&Matcher<'_>| {
            // Routes that are asked last hide nothing, and are meant to get the remaining requests.
            !earlier.route.is_asked_last()
                && !later.route.is_asked_last()
                && earlier.route.method == later.route.method
                && earlier.route.path != later.route.path
                && later.hidden_path().is_some_and(|path| earlier.hides(path))
        };
        // Another warning covers repeated declarations.
        let is_repeated = before
            .iter()
            .any(|earlier| (&earlier.route.method, &earlier.route.path) == (&later.route.method, &later.route.path));
        if let (false, Some(earlier)) = (is_repeated, before.iter().find(hides)) {
            let (method, path) = (&later.route.method, &later.route.path);
            hidden.push(format!(
                "{method} {path} is never called: the earlier route {} matches its requests, and the first match counts; put {path} first",
                earlier.route.path
            ));
        }
    }
    hidden
}

/// Route limits that exceed the operator's.
fn beyond(at: usize, route: &RouteDecl, limits: RouteLimits) -> Vec<String> {
    let place = format!("routes[{at}] ({} {})", route.method, route.path);
    let body = route.body_bytes_max().filter(|bytes| *bytes > limits.body_bytes_max).map(|bytes| {
        format!(
            "config: warning: {place}: CWEB_BODY_MIB({}) is beyond what the operator allows, {} bytes (--route-body-bytes-max); \
             larger bodies are answered 413\n",
            bytes >> 20,
            limits.body_bytes_max
        )
    });
    // The route's own time limit applies, so this is a note.
    let time = match (route.timeout_ms(), limits.handler_timeout) {
        (Some(own), Some(operators)) if u128::from(own) > operators.as_millis() => Some(format!(
            "config: note: {place} may run for {} s, longer than the {} ms of --handler-timeout-ms\n",
            own / 1000,
            operators.as_millis()
        )),
        (Some(_), None) => Some(format!(
            "config: note: {place}: without --isolation process, CWEB_TIMEOUT_S bounds cweb_read(), cweb_write() and \
                 cweb_remaining_ms(), and no answer 504 ends a handler\n"
        )),
        _ => None,
    };
    let killable = (route.is_killable() && limits.handler_timeout.is_none()).then(|| {
        format!(
            "config: warning: {place}: CWEB_KILLABLE has no effect without --isolation process: in this server the handler runs like \
             any other, sees what others change, and is not killed\n"
        )
    });
    body.into_iter().chain(time).chain(killable).collect()
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
    if name == "." || name == ".." {
        return refuse(format!(
            "config.name is \"{name}\", which a client removes from a URL: /mgnt/{name} would name another path; give the module another name"
        ));
    }
    Ok(())
}

fn check_route(at: usize, route: &RouteDecl) -> Result<(), Refusal> {
    let (path, method) = (&route.path, &route.method);
    if path.is_empty() {
        return refuse(format!("routes[{at}] has an empty path"));
    }
    if pattern::is_literal(path) && !path.starts_with('/') {
        return refuse(format!("routes[{at}]: the path \"{path}\" does not begin with /, so no request can match it"));
    }
    let never = |byte: u8| byte < b' ' || byte == 0x7f || matches!(byte, b' ' | b'#') && pattern::is_literal(path);
    if path.bytes().any(never) {
        return refuse(format!(
            "routes[{at}]: the path {path:?} has a blank, a control character or #, so no request can match it"
        ));
    }
    if let Some((segment, instead)) = pattern::placeholder(path) {
        return refuse(format!(
            "routes[{at}]: \"{segment}\" in \"{path}\" would match these very characters and nothing else; write \"{instead}\", \
             and read the segment by cweb_param()"
        ));
    }
    if method_index(method).is_none() {
        return refuse(format!(
            "routes[{at}] ({path}): the method \"{method}\" is none of GET, POST, PUT, DELETE, OPTIONS, HEAD, PATCH"
        ));
    }
    if route.is_stream() && route.decodes() {
        return refuse(format!(
            "routes[{at}] ({method} {path}): CWEB_DECODE has no effect beside CWEB_STREAM, whose handler reads the bytes as they \
             come; leave one of the flags out"
        ));
    }
    check_killable(at, route)?;
    if !route.has_handler {
        return refuse(format!("routes[{at}] ({method} {path}) has no handler"));
    }
    if let Some(reason) = pattern::translate(path).err().or_else(|| captures::problem(path)) {
        return refuse(format!("routes[{at}]: the pattern \"{path}\" can't be used: {reason}"));
    }
    reserved(path, &format!("routes[{at}]"))
}

fn check_socket(at: usize, path: &str) -> Result<(), Refusal> {
    if let Some((segment, instead)) = pattern::placeholder(path) {
        return refuse(format!(
            "websockets[{at}]: \"{segment}\" in \"{path}\" would match these very characters and nothing else; write \"{instead}\""
        ));
    }
    let is_pattern = pattern::is_pattern(path);
    let text = path.strip_prefix('^').unwrap_or(path);
    let never = |byte: u8| byte <= b' ' || byte == 0x7f || !is_pattern && matches!(byte, b'?' | b'#');
    if !text.starts_with('/') || path.bytes().any(never) {
        return refuse(format!(
            "websockets[{at}]: the path \"{path}\" does not begin with /, or has a blank, a control character, ? or #, so that no \
             request can match it"
        ));
    }
    if is_pattern && let Some(reason) = pattern::translate(path).err().or_else(|| captures::problem(path)) {
        return refuse(format!("websockets[{at}]: the pattern \"{path}\" can't be used: {reason}"));
    }
    reserved(path, &format!("websockets[{at}]"))
}

fn check_job(at: usize, job: &JobDecl) -> Result<(), Refusal> {
    if job.name.is_empty() {
        return refuse(format!("jobs[{at}] has no name"));
    }
    if !job.has_run {
        return refuse(format!("jobs[{at}] ({}) has no run function", job.name));
    }
    match (&job.schedule, &job.timezone) {
        (Some(text), zone) => {
            Cron::parse(text, zone.as_deref().unwrap_or(ZONE_DEFAULT))
                .map_err(|why| Refusal(format!("jobs[{at}] ({}).schedule: {why}", job.name)))?;
        }
        (None, Some(_)) => return refuse(format!("jobs[{at}] ({}) has a timezone and no schedule", job.name)),
        (None, None) => {}
    }
    let payload = job.schedule_payload.as_deref();
    if job.schedule.is_none() && (payload.is_some() || job.schedule_overlap) {
        let field = if payload.is_some() { "schedule_payload" } else { "schedule_overlap" };
        return refuse(format!("jobs[{at}] ({}) has a {field} and no schedule", job.name));
    }
    let Some(payload) = payload else { return Ok(()) };
    if payload.len() > SCHEDULE_PAYLOAD_BYTES_MAX {
        let bytes = payload.len();
        let limit = SCHEDULE_PAYLOAD_BYTES_MAX;
        return refuse(format!("jobs[{at}] ({}).schedule_payload has {bytes} bytes; the limit is {limit}", job.name));
    }
    serde_json::from_str::<serde::de::IgnoredAny>(payload)
        .map(drop)
        .map_err(|why| Refusal(format!("jobs[{at}] ({}).schedule_payload is not JSON: {why}", job.name)))
}

/// Refuses a path that belongs to the server. A pattern that covers such paths among others (`/.*`) is accepted: the
/// server's own paths take precedence.
fn reserved(path: &str, place: &str) -> Result<(), Refusal> {
    let text = path.strip_prefix('^').unwrap_or(path);
    for own in RESERVED {
        let rest = text.strip_prefix(own);
        // `(/.*)?` is the pattern of a mount.
        let is_own = |rest: &str| rest.is_empty() || rest == "$" || rest == "(/.*)?" || rest.starts_with('/');
        if rest.is_some_and(is_own) {
            return refuse(format!("{place}: {path} is the server's own path ({own}); choose another"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::conflicts::covers;
    use super::*;
    use crate::abi::manifest::{JobDecl, WebSocketDecl};

    pub(super) fn module(name: &str, routes: &[(&str, &str)], sockets: &[&str]) -> Manifest {
        let route = |&(method, path): &(&str, &str)| RouteDecl {
            path: path.into(),
            method: method.into(),
            flags: 0,
            has_handler: true,
            mount: None,
            ..RouteDecl::default()
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
        for name in [".", ".."] {
            assert!(reason(&module(name, &[], &[])).contains("give the module another name"), "{name}");
        }
        assert_eq!(check(&module("...", &[], &[])), Ok(()));
        assert!(reason(&module("m", &[("BREW", "/a")], &[])).contains("BREW"));
        assert!(reason(&module("m", &[("GET", "/(a)\\1")], &[])).contains("back-references"));
        assert!(reason(&module("m", &[("GET", "a")], &[])).contains("begin with /"));
        for path in ["/jobs", "/jobs/x", "/blobs/x", "^/mgnt$", "/mgnt/.*", "/metrics", "/mgnt(/.*)?"] {
            assert!(reason(&module("m", &[("GET", path)], &[])).contains("server's own"), "{path}");
        }
        assert!(reason(&module("m", &[], &["ws"])).contains("websockets[0]"));
        assert!(reason(&module("m", &[("GET", "/u/{id}/x")], &[])).contains("\"/u/:id/x\""));
        assert!(reason(&module("m", &[("GET", "/:id/:id")], &[])).contains("two segments have the name"));
        for path in ["/ws/{id}", "/ws/:a/:a", "/ws/[0-9", "ws/:id", "/ws/:id#", "/ws x"] {
            assert!(reason(&module("m", &[], &[path])).contains("websockets[0]"), "{path}");
        }
        let sockets = ["/ws/v1.0", "/ws/[0-9]+", "/ws/.*", "/ws/:id", "^/ws$"];
        assert_eq!(check(&module("m", &[("GET", "/v1:batch"), ("GET", "/u/:id")], &sockets)), Ok(()));
        assert!(
            covers("/ws/:id", "/ws/a")
                && covers("/a.b", "/a.b")
                && !covers("/a.b", "/axb")
                && !covers("/ws/a", "/ws/:id")
        );
        let mut no_handler = module("m", &[("GET", "/a")], &[]);
        no_handler.routes[0].has_handler = false;
        assert!(reason(&no_handler).contains("no handler"));
    }

    #[test]
    fn all_is_told_at_once() {
        let mut bad = module("a\tb", &[("BREW", "/a"), ("GET", ""), ("GET", "/mgnt")], &["ws"]);
        bad.jobs = vec![JobDecl::default()];
        bad.problems = vec!["config.routes[1].path is NULL".into(), "config.size is 3, but …".into()];
        let reason = reason(&bad);
        let places = ["routes[1].path", "size is 3", "control", "BREW", "routes[2]", "websockets[0]", "jobs[0]"];
        assert!(places.iter().all(|place| reason.contains(place)), "{reason}");
        assert_eq!(reason.lines().count(), places.len(), "{reason}");
    }

    pub(super) const LIMITS: RouteLimits = RouteLimits {
        body_bytes_max: 64 << 20,
        plain_body_bytes_max: 1 << 20,
        handler_timeout: Some(Duration::from_secs(30)),
    };

    #[test]
    fn what_works_otherwise_than_meant_is_remarked_on() {
        let mut m = module("my module", &[("GET", "/x/.*"), ("GET", "/x/1"), ("POST", "/x/1"), ("GET", "/y")], &[]);
        m.routes[3].flags = 65 << 20 | 31 << 8;
        let said = remarks(&m, LIMITS);
        for words in [
            "/mgnt/my%20module",
            "GET /x/1 is never called: the earlier route /x/.*",
            "CWEB_BODY_MIB(65)",
            "note: routes[3] (GET /y) may",
        ] {
            assert!(said.contains(words), "{said}");
        }
        assert_eq!(said.lines().count(), 4, "{said}");
        m.routes[3].flags = 64 << 20 | 30 << 8;
        m.routes.swap(0, 1);
        m.name = "m".into();
        assert_eq!(remarks(&m, LIMITS), "");
        let other = Manifest { author: "b".into(), ..m.clone() };
        assert!(other_author(&m, &m).is_none() && other_author(&m, &other).is_some_and(|said| said.contains("\"b\"")));
    }

    #[test]
    fn what_is_declared_twice_is_remarked_on() {
        let mut twice = module("m", &[("GET", "/a"), ("GET", "/a"), ("POST", "/a")], &["/a", "/w", "/w"]);
        let job = JobDecl { name: "j".into(), has_run: true, ..JobDecl::default() };
        twice.jobs = vec![job.clone(), job];
        assert_eq!(check(&twice), Ok(()));
        let remarks = remarks(&twice, LIMITS);
        assert_eq!(remarks.lines().count(), 3, "{remarks}");
        assert!(["GET /a is", "path /w is", "job j is"].iter().all(|words| remarks.contains(words)), "{remarks}");
        let named = module("m", &[("GET", "/:a"), ("POST", "/:b"), ("GET", "/:c")], &["/w/:a", "/w/:b"]);
        let remarks = super::remarks(&named, LIMITS);
        assert_eq!(remarks.lines().count(), 2, "{remarks}");
        assert!(["GET /:c is", "path /w/:b is"].iter().all(|words| remarks.contains(words)), "{remarks}");
    }
}
