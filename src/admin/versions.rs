//! `/mgnt/NAME` and below: versions, sources, rollback, settings.

use super::audit::{Actor, Outcome, not_done};
use super::deployed::Form;
use super::mgnt_answers::{bad_name, deployed, note, outcome, refusal};
use super::query::decoded;
use crate::module::control::Control;
use crate::module::deploy::{DeployError, Deployed};
use crate::module::history::{Again, Found, Query};
use crate::module::settings::{Change, Kind};
use crate::proto::form;
use crate::proto::http1::{Method, RequestView};
use crate::server_response::{Reply, ServerAnswer};

/// The module and the query in a path below `/mgnt/`.
fn question(path: &[u8]) -> (&[u8], Query) {
    let ends: [(&[u8], Query); 3] =
        [(b"/versions", Query::Versions), (b"/source", Query::Source(None)), (b"/settings", Query::Settings)];
    for (end, query) in ends {
        if let Some(name) = path.strip_suffix(end) {
            return match (numbered(name), query) {
                // NAME/versions/N/source
                (Some((name, number)), Query::Source(_)) => (name, Query::Source(Some(number))),
                _ => (name, query),
            };
        }
    }
    numbered(path).map_or((path, Query::Live), |(name, number)| (name, Query::Version(number)))
}

/// The module and the number in `NAME/versions/N`.
fn numbered(path: &[u8]) -> Option<(&[u8], u64)> {
    let at = memchr::memmem::rfind(path, b"/versions/")?;
    let (name, rest) = path.split_at_checked(at)?;
    let number = std::str::from_utf8(rest.get(b"/versions/".len()..)?).ok()?;
    number.bytes().all(|byte| byte.is_ascii_digit()).then_some(())?;
    Some((name, number.parse().ok()?))
}

/// Answers a query about a module.
pub(super) fn ask(control: &Control, path: &[u8], reply: Reply) {
    let (name, query) = question(path);
    let name = match decoded(name) {
        Ok(name) => name,
        Err(answer) => return reply.send(&answer),
    };
    let send = move |found| {
        let answer = match found {
            Ok(Found::Json(text)) => ServerAnswer::json(200, text),
            Ok(Found::File(source)) => {
                ServerAnswer { content_type: "text/plain; charset=utf-8", ..ServerAnswer::json(200, source) }
            }
            Ok(Found::Object(bytes)) => {
                ServerAnswer { content_type: "application/octet-stream", ..ServerAnswer::json(200, bytes) }
            }
            Ok(Found::Project(archive)) => {
                ServerAnswer { content_type: "application/x-tar", ..ServerAnswer::json(200, archive) }
            }
            Err(error) => refusal(&error),
        };
        reply.send(&answer);
    };
    control.ask(name, query, Box::new(send));
}

/// Rolls back to a version: the one in the parameter `version`, or the one before the live version.
pub(super) fn rollback(control: &Control, view: &RequestView<'_>, name: &[u8], form: Form, actor: Actor, reply: Reply) {
    let name = match decoded(name) {
        Ok(name) => name,
        Err(answer) => return bad_name("rollback", &actor, &answer, reply),
    };
    let mut wanted = None;
    form::urlencoded(view.query().unwrap_or_default(), |key, value| {
        if key == b"version" {
            wanted = Some(String::from_utf8_lossy(value).into_owned());
        }
    });
    let version = match wanted.as_deref().map(str::parse::<u64>) {
        None => None,
        Some(Ok(number)) => Some(number),
        Some(Err(_)) => {
            let answer =
                ServerAnswer::text(400, "version is the number of a version, as GET /mgnt/NAME/versions lists it\n");
            return bad_name("rollback", &actor, &answer, reply);
        }
    };
    deploy_again(control, "rollback", name, Again::Version(version), form, actor, reply);
}

/// Compiles the module again with the sanitizers in the parameter `with`, or without any.
pub(super) fn sanitize(control: &Control, view: &RequestView<'_>, path: &[u8], form: Form, actor: Actor, reply: Reply) {
    let name = match decoded(path.strip_suffix(b"/sanitize").unwrap_or(path)) {
        Ok(name) => name,
        Err(answer) => return bad_name("sanitize", &actor, &answer, reply),
    };
    let mut names = None;
    form::urlencoded(view.query().unwrap_or_default(), |key, value| {
        if key == b"with" && !value.is_empty() {
            names = Some(String::from_utf8_lossy(value).into_owned());
        }
    });
    let again = Again::Sanitized { names, by: actor.who.as_str().to_owned() };
    deploy_again(control, "sanitize", name, again, form, actor, reply);
}

fn deploy_again(
    control: &Control,
    action: &'static str,
    name: String,
    again: Again,
    form: Form,
    actor: Actor,
    reply: Reply,
) {
    let (module, reach) = (name.clone(), actor.who.reach());
    let done = move |result: Result<Deployed, DeployError>| {
        match &result {
            Ok(done) => {
                actor.log(&Outcome {
                    action,
                    module: Some(&module),
                    hash: Some(&done.hash),
                    domain: Some(&done.domain),
                    result: note(done),
                    status: 200,
                    reason: None,
                });
            }
            Err(error) => actor.log(&not_done(action, Some(&module), None, error.status(), Some(&error.reason()))),
        }
        reply.send(&deployed(&form, result));
    };
    control.again(name, again, reach, Box::new(done));
}

/// The module, the kind and the name in `NAME/settings/KEY` or `NAME/secrets/KEY`.
fn setting(path: &[u8]) -> Option<(&[u8], Kind, &[u8])> {
    let at = memchr::memrchr(b'/', path)?;
    let (before, key) = (path.get(..at)?, path.get(at + 1..)?);
    let settings = before.strip_suffix(b"/settings").map(|name| (name, Kind::Setting, key));
    settings.or_else(|| before.strip_suffix(b"/secrets").map(|name| (name, Kind::Secret, key)))
}

/// Whether a path below `/mgnt/` names a setting.
pub(super) fn is_setting(path: &[u8]) -> bool {
    setting(path).is_some()
}

/// Sets a setting to the value in the body, or removes it. Neither the log nor the answer may contain the value.
pub(super) fn set(control: &Control, view: &RequestView<'_>, path: &[u8], actor: Actor, reply: Reply) {
    let Some((name, kind, key)) = setting(path) else { return };
    let (name, key) = match (decoded(name), decoded(key)) {
        (Ok(name), Ok(key)) => (name, key),
        (Err(answer), _) | (_, Err(answer)) => return bad_name("set", &actor, &answer, reply),
    };
    let (action, done) = match (kind, view.method()) {
        (Kind::Setting, Method::Put) => ("set setting", "set"),
        (Kind::Secret, Method::Put) => ("set secret", "set"),
        (Kind::Setting, _) => ("remove setting", "removed"),
        (Kind::Secret, _) => ("remove secret", "removed"),
    };
    let value = match (view.method(), std::str::from_utf8(view.body)) {
        (Method::Put, Ok(text)) => Some(text.to_owned()),
        (Method::Put, Err(_)) => {
            return bad_name(action, &actor, &ServerAnswer::text(400, "the value is not UTF-8\n"), reply);
        }
        _ => None,
    };
    let change = Change { kind, key, value };
    control.change_setting(name.clone(), change, outcome(action, done, name, actor, reply));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_a_module_and_what_is_asked() {
        let table: [(&str, &str, Query); 8] = [
            ("m", "m", Query::Live),
            ("m/versions", "m", Query::Versions),
            ("m/versions/7", "m", Query::Version(7)),
            ("m/versions/7/source", "m", Query::Source(Some(7))),
            ("m/source", "m", Query::Source(None)),
            ("m/settings", "m", Query::Settings),
            ("a/b", "a/b", Query::Live),
            ("m/versions/-1", "m/versions/-1", Query::Live),
        ];
        for (path, name, query) in table {
            assert_eq!(question(path.as_bytes()), (name.as_bytes(), query), "{path}");
        }
        assert_eq!(setting(b"m/secrets/K"), Some((b"m".as_slice(), Kind::Secret, b"K".as_slice())));
        assert_eq!(setting(b"m/settings/K"), Some((b"m".as_slice(), Kind::Setting, b"K".as_slice())));
        assert!(!is_setting(b"m") && !is_setting(b"m/x"));
    }
}
