//! Access control of the server's own paths.

use super::audit::{Actor, Refused, Throttle, Who, not_done};
use super::failures::Failures;
use super::keys::{KeySource, Keys, KeysError, Scopes};
use super::reach::is_about_one;
use super::site::{self, Doubt};
use crate::module::reach::Reach;
use crate::net::Peer;
use crate::proto::http1::{Method, RequestView};
use crate::server_response::ServerAnswer;
use arc_swap::ArcSwap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

/// The origin of a request, as far as access control needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// The peer of the connection.
    pub peer: Peer,
}

impl Client {
    /// The origin of a request from `peer`.
    #[must_use]
    pub fn of(peer: &Peer) -> Self {
        Self { peer: *peer }
    }
}

/// Why a request is refused.
#[derive(Debug, PartialEq, Eq)]
enum Refusal {
    /// The request comes from this machine, but a page in the user's browser may have caused it.
    Site(Doubt),
    /// The server has no keys, so no key could help.
    NoKeys,
    /// The request has no key.
    Missing,
    /// The key of the request is unknown.
    Wrong,
    /// The request's address has sent too many wrong keys.
    Blocked { ms: u64 },
    /// The key of the request lacks the scope.
    Scope { key: Arc<str>, has: Arc<str>, needed: Scopes },
    /// The key of the request is for some modules only, and the request is about more modules.
    Reach { key: Arc<str> },
    /// The key of the request has expired.
    Expired { key: Arc<str>, at: String },
}

/// The label of each refusal in the metric.
const REASONS: [&str; 8] = ["site", "no_keys", "missing", "wrong", "blocked", "scope", "reach", "expired"];

impl Refusal {
    /// The index of the refusal's label in [`REASONS`].
    fn number(&self) -> usize {
        match self {
            Self::Site(_) => 0,
            Self::NoKeys => 1,
            Self::Missing => 2,
            Self::Wrong => 3,
            Self::Blocked { .. } => 4,
            Self::Scope { .. } => 5,
            Self::Reach { .. } => 6,
            Self::Expired { .. } => 7,
        }
    }

    /// The refusal as text for the log.
    fn why(&self) -> &'static str {
        match self {
            Self::Site(Doubt::Page) => "sent by a page of another site",
            Self::Site(Doubt::Host) => "the Host is not this machine's",
            Self::Site(Doubt::Module) => "sent by a page of a module",
            Self::NoKeys => "not from this machine, and there are no keys",
            Self::Missing => "no key",
            Self::Wrong => "wrong key",
            Self::Blocked { .. } => "too many wrong keys from this address",
            Self::Scope { .. } => "the key lacks the scope for the request",
            Self::Reach { .. } => "the key is for some modules only",
            Self::Expired { .. } => "the key has expired",
        }
    }

    fn answer(&self) -> ServerAnswer {
        let error = |status, text: &str| ServerAnswer::json(status, serde_json::json!({ "error": text }).to_string());
        match self {
            Self::Site(doubt) => error(403, doubt.text()),
            Self::NoKeys => error(
                403,
                "this server has no admin key, so only its own machine may do this; set CWEB_ADMIN_KEY or --keys-file for other clients",
            ),
            Self::Missing | Self::Wrong => {
                error(
                    401,
                    "key missing or wrong; send it as X-API-Key or Authorization: Bearer (the cweb command takes it from CWEB_ADMIN_KEY)",
                )
                    .with("WWW-Authenticate", "Bearer")
            }
            Self::Blocked { ms } => {
                let seconds = ms.div_ceil(1_000);
                error(429, &format!("too many wrong keys from this address; try again in {seconds} s"))
                    .with("Retry-After", seconds.to_string())
            }
            Self::Scope { key, has, needed } => {
                let needed = needed.names().collect::<Vec<_>>().join(" or ");
                error(403, &format!("this needs a key with the scope {needed}; the key {key} has: {has}"))
                    // RFC 6750 §3.1
                    .with("WWW-Authenticate", "Bearer error=\"insufficient_scope\"")
            }
            Self::Reach { key } => {
                let text = format!(
                    "this is about all modules, and the key {key} is for some modules only; lists below /jobs accept ?module=NAME"
                );
                error(403, &text)
                    .with("WWW-Authenticate", "Bearer error=\"insufficient_scope\"")
            }
            // RFC 6750 §3.1: an expired token is an invalid one.
            Self::Expired { key, at } => error(401, &format!("the key {key} has expired at {at}"))
                .with("WWW-Authenticate", "Bearer error=\"invalid_token\""),
        }
    }
}

/// The rule: if keys exist, every request needs a key with the scope for its operation. That includes requests from this
/// machine, because a proxy on it makes remote clients look like local ones. Without keys, in development, requests from this
/// machine are trusted, unless a page in its browser may have caused them; all others are refused.
pub struct Access {
    source: KeySource,
    keys: ArcSwap<Keys>,
    production: bool,
    failures: Failures,
    /// The number of refused requests, by [`REASONS`].
    refused: [AtomicU64; REASONS.len()],
    throttles: [Throttle; REASONS.len()],
    epoch: Instant,
}

impl Access {
    /// `failures_max`: how many wrong keys in a minute block an address; 0: no address is blocked.
    ///
    /// # Errors
    /// The keys can't be read, or there are none in production.
    pub fn new(source: KeySource, production: bool, failures_max: u32) -> Result<Self, KeysError> {
        let keys = source.read()?;
        if let (true, true, Some(path)) = (production, keys.is_empty(), &source.file) {
            return Err(KeysError::None(path.clone()));
        }
        Ok(Self {
            source,
            keys: ArcSwap::from_pointee(keys),
            production,
            failures: Failures::new(failures_max),
            refused: Default::default(),
            throttles: Default::default(),
            epoch: Instant::now(),
        })
    }

    /// Reads the file of keys again, if there is one, and returns how many keys are valid. An empty file revokes all named
    /// keys, even the last key of a server in production.
    ///
    /// # Errors
    /// See [`KeysError`]; the old keys then stay valid.
    pub fn reload(&self) -> Result<Option<usize>, KeysError> {
        if self.source.file.is_none() {
            return Ok(None);
        }
        let keys = self.source.read()?;
        let count = keys.len();
        self.keys.store(Arc::new(keys));
        Ok(Some(count))
    }

    /// Admits the request and returns its actor, or refuses it. A refusal is logged and counted.
    ///
    /// # Errors
    /// The answer to send instead: 401 for a missing or wrong key; 403 for a key without the scope, and when no key can help;
    /// 429 after too many wrong keys.
    pub fn check(&self, view: &RequestView<'_>, client: Client) -> Result<Who, ServerAnswer> {
        let now_ms = self.now_ms();
        self.decide(view, &client.peer, now_ms).map_err(|refusal| self.refuse(view, &client.peer, &refusal, now_ms))
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn decide(&self, view: &RequestView<'_>, peer: &Peer, now_ms: u64) -> Result<Who, Refusal> {
        let (needed, given, keys) = (needed(view), presented_key(view), self.keys.load());
        if keys.is_empty() && !self.production && peer.is_loopback() {
            return site::doubt(view, peer).map_or(Ok(Who::Loopback), |doubt| Err(Refusal::Site(doubt)));
        }
        if keys.is_empty() {
            return Err(Refusal::NoKeys);
        }
        let given = given.ok_or(Refusal::Missing)?;
        // Must come before the key is checked: an answer that depends on the key would let the guessing continue.
        if let Some(ms) = self.failures.blocked_ms(peer, now_ms) {
            return Err(Refusal::Blocked { ms });
        }
        let Some(key) = keys.find(given) else {
            self.failures.failed(peer, now_ms);
            return Err(Refusal::Wrong);
        };
        if let Some(at) = key.expired_at(SystemTime::now()) {
            return Err(Refusal::Expired { key: Arc::clone(&key.name), at });
        }
        if !key.scopes.any_of(needed) {
            return Err(Refusal::Scope { key: Arc::clone(&key.name), has: Arc::clone(&key.listed), needed });
        }
        let reach = key.reach(needed);
        if reach != Reach::All && !is_about_one(view) {
            return Err(Refusal::Reach { key: Arc::clone(&key.name) });
        }
        Ok(Who::Key(Arc::clone(&key.name), reach))
    }

    fn refuse(&self, view: &RequestView<'_>, peer: &Peer, refusal: &Refusal, now_ms: u64) -> ServerAnswer {
        let (answer, number) = (refusal.answer(), refusal.number());
        if let Some(count) = self.refused.get(number) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        if self.throttles.get(number).is_some_and(|throttle| throttle.pass(now_ms)) {
            let path = String::from_utf8_lossy(view.path());
            let key = match refusal {
                Refusal::Scope { key, .. } | Refusal::Reach { key } | Refusal::Expired { key, .. } => Some(&**key),
                _ => None,
            };
            let method = view.method().as_str();
            let action = action(view.method(), &path);
            let refused =
                Refused { why: refusal.why(), key, from: peer, method, path: &path, status: answer.status, action };
            refused.log();
        }
        answer
    }

    /// Whether there is at most one key.
    pub(super) fn has_one_key(&self) -> bool {
        self.keys.load().len() <= 1
    }

    /// The number of refused requests, by reason.
    pub(super) fn refused(&self) -> impl Iterator<Item = (&'static str, u64)> {
        REASONS.into_iter().zip(self.refused.iter().map(|count| count.load(Ordering::Relaxed)))
    }

    /// Logs how many lines about refusals were left out. The server calls this periodically.
    pub(super) fn tick(&self) {
        let now_ms = self.now_ms();
        for (reason, throttle) in REASONS.into_iter().zip(&self.throttles) {
            if let Some(count) = throttle.left_out(now_ms) {
                tracing::warn!("access refused: and {count} more (reason: {reason})");
            }
        }
    }
}

/// The scopes; a key with any of them may send the request.
fn needed(view: &RequestView<'_>) -> Scopes {
    let (path, reads) = (view.path(), view.method().is_safe());
    if matches!(path, b"/blobs" | b"/blobs/") && reads {
        // The list has the names of all blobs.
        Scopes::READ
    } else if path.starts_with(b"/blobs") {
        // A blob is named by its hash: a client that knows the hash has had the bytes, or has the hash from a job.
        if reads { Scopes::JOBS.or(Scopes::READ) } else { Scopes::JOBS }
    } else if path.starts_with(b"/jobs") {
        let names_a_job = path.len() > b"/jobs/".len()
            && !path.starts_with(b"/jobs/schedules")
            && !path.starts_with(b"/jobs/kinds")
            && path != b"/jobs/events";
        match (reads, names_a_job) {
            // The creator of a job knows its UUID, and nobody can guess it.
            (true, true) => Scopes::JOBS.or(Scopes::READ),
            (true, false) => Scopes::READ,
            (false, _) => Scopes::JOBS,
        }
    } else if reads && path.starts_with(b"/mgnt/") && path.ends_with(b"/source") {
        // A key that may replace a source may also read it; a key for dashboards may not.
        Scopes::DEPLOY
    } else if reads || path == b"/metrics" {
        Scopes::READ
    } else {
        Scopes::DEPLOY
    }
}

/// The operation on modules that the request asks for, and the module's name as the path has it, if it does.
fn action(method: Method, path: &str) -> Option<(&'static str, Option<&str>)> {
    let rest = path.strip_prefix("/mgnt")?.trim_matches('/');
    match method {
        Method::Post if rest.is_empty() => Some(("deploy", None)),
        Method::Post if rest.ends_with("/sanitize") => Some(("sanitize", Some(rest))),
        Method::Post if rest.ends_with("/rollback") => Some(("rollback", Some(rest))),
        Method::Post => Some(("restart", Some(rest))),
        Method::Put => Some(("set", Some(rest))),
        Method::Delete => Some(("remove", Some(rest))),
        _ => None,
    }
}

/// Logs a request about a module outside the reach of the actor's key.
pub(super) fn log_out_of_reach(view: &RequestView<'_>, actor: &Actor, status: u16) {
    let path = String::from_utf8_lossy(view.path());
    let other = if view.method().is_safe() { "read" } else { "create job" };
    let (action, module) = action(view.method(), &path).unwrap_or((other, None));
    actor.log(&not_done(action, module, None, status, Some("the key is not for this module")));
}

/// The key in a request. An empty key counts as no key, because tools without a key send an empty one.
fn presented_key<'a>(view: &RequestView<'a>) -> Option<&'a [u8]> {
    if let Some(key) = view.header("x-api-key").filter(|key| !key.is_empty()) {
        return Some(key);
    }
    let value = view.header("authorization")?;
    let (scheme, token) = value.split_at_checked(7)?;
    let token = token.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"bearer ") && !token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::http1::{Decoded, Limits, RequestDecoder};

    /// The decision of `access` about a request from `peer` at `now_ms`.
    fn ask(access: &Access, peer: &str, request: &str, key: &str, now_ms: u64) -> Result<Who, Refusal> {
        let limits = Limits { head_bytes_max: 4096, headers_max: 20, uri_bytes_max: 1024, body_bytes_max: 0 };
        let text = format!("{request} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: {key}\r\n\r\n");
        let peer = Peer::Tcp(format!("{peer}:1").parse().unwrap());
        match RequestDecoder::new(limits).decode(text.as_bytes()) {
            Ok(Decoded::Request { view, .. }) => access.decide(&view, &peer, now_ms),
            _ => panic!("not a request: {text}"),
        }
    }

    fn access(production: bool, file: &str) -> (Access, tempfile::NamedTempFile) {
        let kept = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(kept.path(), file).unwrap();
        let source = KeySource { admin_key: Some("the admin key".to_owned()), file: Some(kept.path().to_path_buf()) };
        (Access::new(source, production, 3).unwrap(), kept)
    }

    fn entry(name: &str, scopes: &str) -> String {
        format!("[[key]]\nname = \"{name}\"\nkey = \"the-key-of-{name}-here\"\nscopes = [{scopes}]\n")
    }

    #[test]
    fn each_scope_opens_its_paths_and_no_others() {
        let file = entry("d", "\"deploy\"") + &entry("j", "\"jobs\"") + &entry("r", "\"read\"");
        let (access, _file) = access(true, &file);
        for (request, may) in [
            ("POST /mgnt", "d"),
            ("DELETE /mgnt/x", "d"),
            ("POST /mgnt/x/restart", "d"),
            ("PUT /mgnt", "d"),
            ("GET /mgnt", "r"),
            ("GET /mgnt/x/logs", "r"),
            ("GET /mgnt/x/source", "d"),
            ("HEAD /mgnt", "r"),
            ("GET /metrics", "r"),
            ("POST /metrics", "r"),
            ("POST /jobs", "j"),
            ("PUT /blobs", "j"),
            ("DELETE /blobs/x", "j"),
            ("GET /blobs/x", "jr"),
            ("GET /blobs", "r"),
            ("GET /blobs/", "r"),
            ("DELETE /jobs/1", "j"),
            ("POST /jobs/1/cancel", "j"),
            ("GET /jobs", "r"),
            ("GET /jobs?module=x", "r"),
            ("GET /jobs/", "r"),
            ("GET /jobs/?module=x", "r"),
            ("GET /jobs/1", "jr"),
            ("GET /jobs/1/events", "jr"),
            ("GET /jobs/ws?id=1", "jr"),
            ("GET /jobs/schedules", "r"),
            ("GET /jobs/kinds", "r"),
            ("GET /jobs/events", "r"),
            ("POST /jobs/kinds/m/j/pause", "j"),
            ("PUT /jobs/schedules/x", "j"),
            ("POST /jobs/retry", "j"),
        ] {
            for name in ["d", "j", "r"] {
                let passes = ask(&access, "192.0.2.1", request, &format!("the-key-of-{name}-here"), 0);
                let expected = may.contains(name);
                assert_eq!(passes.is_ok(), expected, "{request} with {name}: {passes:?}");
                assert!(expected || matches!(passes, Err(Refusal::Scope { .. })), "{request}: {passes:?}");
            }
            let admin = ask(&access, "192.0.2.1", request, "the admin key", 0);
            assert_eq!(admin.map(|who| who.as_str().to_owned()), Ok("admin".to_owned()), "{request}");
            assert_eq!(ask(&access, "192.0.2.1", request, "", 0), Err(Refusal::Missing), "{request}");
        }
    }

    #[test]
    fn a_blocked_address_is_refused_with_the_right_key_too() {
        let (access, _file) = access(true, "");
        let get = |peer, key, now_ms| ask(&access, peer, "GET /mgnt", key, now_ms);
        for now_ms in [0, 10, 20] {
            assert_eq!(get("192.0.2.1", "guess", now_ms), Err(Refusal::Wrong));
        }
        assert_eq!(get("192.0.2.1", "the admin key", 30), Err(Refusal::Blocked { ms: 59_970 }));
        assert_eq!(get("192.0.2.1", "guess", 59_999), Err(Refusal::Blocked { ms: 1 }));
        assert_eq!(get("192.0.2.1", "", 30), Err(Refusal::Missing));
        assert!(get("192.0.2.2", "the admin key", 30).is_ok());
        assert!(get("192.0.2.1", "the admin key", 60_000).is_ok());
    }

    #[test]
    fn this_machine_is_trusted_while_there_are_no_keys() {
        let access = Access::new(KeySource { admin_key: None, file: None }, false, 3).unwrap();
        for _ in 0..10 {
            let who = ask(&access, "127.0.0.1", "POST /mgnt", "guess", 0).map(|who| who.as_str().to_owned());
            assert_eq!(who, Ok("loopback".to_owned()), "a trusted client needs no key and is not blocked");
        }
        assert_eq!(ask(&access, "192.0.2.1", "POST /mgnt", "guess", 0), Err(Refusal::NoKeys));
    }

    #[test]
    fn with_a_key_this_machine_needs_it_too() {
        let (access, _file) = access(false, &entry("r", "\"read\""));
        for peer in ["127.0.0.1", "[::1]", "192.0.2.1"] {
            let post = |key| ask(&access, peer, "POST /mgnt", key, 0).map(|who| who.as_str().to_owned());
            assert_eq!(post(""), Err(Refusal::Missing));
            assert_eq!(post("guess"), Err(Refusal::Wrong));
            assert_eq!(post("the admin key"), Ok("admin".to_owned()));
            assert!(matches!(post("the-key-of-r-here"), Err(Refusal::Scope { .. })));
        }
    }

    #[test]
    fn a_file_that_is_wrong_changes_nothing_and_an_empty_one_takes_all_back() {
        let (access, file) = access(true, &entry("r", "\"read\""));
        let passes = || ask(&access, "192.0.2.1", "GET /mgnt", "the-key-of-r-here", 0).is_ok();
        assert!(passes());
        std::fs::write(file.path(), "[[key]]\n").unwrap();
        assert!(access.reload().unwrap_err().to_string().contains("line 1"));
        assert!(passes());
        std::fs::write(file.path(), "").unwrap();
        assert_eq!(access.reload(), Ok(Some(1)));
        assert!(!passes());
    }

    #[test]
    fn production_wants_a_key_from_somewhere() {
        let (_, file) = access(true, "");
        let source = KeySource { admin_key: None, file: Some(file.path().to_path_buf()) };
        assert!(Access::new(source.clone(), false, 3).is_ok());
        let refused = Access::new(source, true, 3).err().map(|error| error.to_string());
        assert!(refused.is_some_and(|text| text.contains("cweb keygen")));
    }
}
