//! The requests that a key for some modules may send: requests that name a module within its reach, and requests about that
//! module's jobs.

use super::audit::Who;
use super::query::{decoded, parameter};
use crate::module::control::Control;
use crate::module::reach::Reach;
use crate::proto::http1::{Method, RequestView};
use crate::server_response::ServerAnswer;
use serde::Deserialize;

/// Whether a request on the server's own paths is about one module, so that the server can check its key for that module.
/// Lists, metrics and changes of many jobs are about all modules.
pub(super) fn is_about_one(view: &RequestView<'_>) -> bool {
    let path = view.path();
    if module_of_list(view).is_some() {
        return true;
    }
    if let Some(below) = path.strip_prefix(b"/mgnt") {
        let is_post = view.method() == Method::Post;
        return module_in(below).is_some() || is_post && matches!(below, b"" | b"/");
    }
    match (view.method(), path.strip_prefix(b"/jobs")) {
        // A file for a later job.
        (method, None) => method == Method::Put && (path == b"/blobs" || path.starts_with(b"/blobs/")),
        (Method::Post, Some(b"" | b"/")) => true,
        // A later check looks the job's module up; a job of another module is not found.
        (method, Some(below)) => {
            let is_cancel = method == Method::Post && below.ends_with(b"/cancel");
            (method.is_safe() || is_cancel) && below.strip_prefix(b"/").is_some_and(names_a_job)
        }
    }
}

/// The module in the parameter `module` of a list of jobs, events, kinds or schedules; the list itself reads the same
/// parameter.
fn module_of_list(view: &RequestView<'_>) -> Option<String> {
    let is_list = matches!(
        view.path(),
        b"/jobs"
            | b"/jobs/"
            | b"/jobs/events"
            | b"/jobs/kinds"
            | b"/jobs/kinds/"
            | b"/jobs/schedules"
            | b"/jobs/schedules/"
    );
    let reads = matches!(view.method(), Method::Get | Method::Head);
    parameter(view, "module").filter(|module| is_list && reads && !module.is_empty())
}

fn names_a_job(rest: &[u8]) -> bool {
    let segment = rest.split(|byte| *byte == b'/').next().unwrap_or_default();
    segment.len() == 36 && segment.iter().all(|byte| byte.is_ascii_hexdigit() || *byte == b'-')
}

/// The module in a path below `/mgnt`, undecoded. `None` if the path does not certainly name one module.
fn module_in(below: &[u8]) -> Option<&[u8]> {
    let mut segments = below.strip_prefix(b"/")?.split(|byte| *byte == b'/');
    let name = segments.next().filter(|name| !name.is_empty())?;
    let rest: Vec<&[u8]> = segments.collect();
    let is_known = match rest.as_slice() {
        [] | [b"restart" | b"rollback" | b"sanitize" | b"versions" | b"source" | b"settings" | b"logs"] => true,
        [b"versions" | b"settings" | b"secrets", last] | [b"versions", last, b"source"] => !last.is_empty(),
        _ => false,
    };
    is_known.then_some(name)
}

/// Refuses a request on a path, or for a list, that names a module outside the reach of `who`'s key.
///
/// # Errors
/// The answer to send instead.
pub(super) fn check_path(control: &Control, view: &RequestView<'_>, who: &Who) -> Result<(), ServerAnswer> {
    if who.reach() == Reach::All {
        return Ok(());
    }
    match (view.path().strip_prefix(b"/mgnt"), module_of_list(view)) {
        (None, Some(module)) => check_list(control, &module, who),
        // The module's name is known only after the source is compiled.
        (None | Some(b"" | b"/"), _) => Ok(()),
        (Some(below), _) => check(control, &decoded(module_in(below).unwrap_or_default())?, who),
    }
}

/// Refuses a list of stored jobs of the module `name`, unless the key is for that name in every domain. The list has jobs of
/// earlier modules with the name, and such a module may have been in another domain.
fn check_list(control: &Control, name: &str, who: &Who) -> Result<(), ServerAnswer> {
    check(control, name, who)?;
    if who.reach().has(None, name) {
        return Ok(());
    }
    let key = who.as_str();
    refuse(&format!(
        "the key {key} is for modules of some domains, and a list has the jobs of every module that was ever called {name}: the \
         request needs the scope read:{name}"
    ))
}

/// Refuses a job of a module outside the reach of `who`'s key.
///
/// # Errors
/// The answer to send instead.
pub(super) fn check_submission(control: &Control, view: &RequestView<'_>, who: &Who) -> Result<(), ServerAnswer> {
    if who.reach() == Reach::All || view.method() != Method::Post || !matches!(view.path(), b"/jobs" | b"/jobs/") {
        return Ok(());
    }
    check(control, &module_of_submission(view.body)?, who)
}

fn check(control: &Control, name: &str, who: &Who) -> Result<(), ServerAnswer> {
    if who.reach().has(control.domain_of(name).as_deref(), name) {
        return Ok(());
    }
    let key = who.as_str();
    refuse(&format!(
        "the key {key} is not for the module {name}: the scopes in the server's --keys-file name the key's modules"
    ))
}

fn refuse(text: &str) -> Result<(), ServerAnswer> {
    let answer = ServerAnswer::json(403, serde_json::json!({ "error": text }).to_string());
    // RFC 6750 §3.1
    Err(answer.with("WWW-Authenticate", "Bearer error=\"insufficient_scope\""))
}

#[derive(Deserialize)]
struct Submission {
    module: Option<String>,
}

fn module_of_submission(body: &[u8]) -> Result<String, ServerAnswer> {
    let refuse = |text: String| ServerAnswer::json(400, serde_json::json!({ "error": text }).to_string());
    let read: Submission =
        serde_json::from_slice(body).map_err(|error| refuse(format!("the submission can't be read: {error}")))?;
    read.module.ok_or_else(|| {
        refuse("a key for some modules only needs a submission that names the module of the job".to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_name_one_module_for_certain_are_known() {
        for (path, name) in [
            ("/m", Some("m")),
            ("/m/restart", Some("m")),
            ("/m/versions/3/source", Some("m")),
            ("/m/versions/3", Some("m")),
            ("/m/secrets/KEY", Some("m")),
            ("/m%2Fn/source", Some("m%2Fn")),
            ("", None),
            ("/", None),
            ("//restart", None),
            ("/m/", None),
            ("/m/n", None),
            ("/m/n/restart", None),
            ("/m/settings/a/settings/K", None),
            ("/m/settings/", None),
            ("/m/restart/restart", None),
        ] {
            assert_eq!(module_in(path.as_bytes()), name.map(str::as_bytes), "{path}");
        }
        assert!(
            names_a_job(b"01a229be-123a-70d2-a364-fb075ec9c5b8/cancel")
                && !names_a_job(b"retry")
                && !names_a_job(b"ws")
        );
    }
}
