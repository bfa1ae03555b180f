//! `/mgnt`: deploy, list, remove, restart.

use super::audit::{Actor, Outcome, not_done};
use super::deployed::Form;
use super::keys::Fingerprint;
use super::mgnt_answers::{bad_name, deployed, first_line, in_form, note, outcome};
use super::query::decoded;
use super::versions;
use crate::module::control::Control;
use crate::module::deploy::{DeployError, DeployOptions, Deployed, SourceFields};
use crate::module::project::Posted;
use crate::proto::form;
use crate::proto::http1::{Method, RequestView};
use crate::server_response::{Reply, ServerAnswer};

/// Serves one request on `/mgnt` or below it.
pub(super) fn handle(
    control: &Control,
    view: &RequestView<'_>,
    form: Form,
    memory: impl FnOnce() -> serde_json::Value,
    actor: Actor,
    reply: Reply,
) {
    let name = view.path().strip_prefix(b"/mgnt").unwrap_or_default();
    let name = name.strip_prefix(b"/").unwrap_or(name);
    match (view.method(), name.is_empty()) {
        (Method::Get | Method::Head, true) => reply.send(&ServerAnswer::json(200, control.modules_json(&memory()))),
        (Method::Post, true) => deploy(control, view, form, actor, reply),
        (Method::Get | Method::Head, false) if name.ends_with(b"/logs") => {
            reply.send(&super::logs::last(view));
        }
        (Method::Get | Method::Head, false) => versions::ask(control, name, reply),
        (Method::Put | Method::Delete, false) if versions::is_setting(name) => {
            versions::set(control, view, name, actor, reply);
        }
        (Method::Delete, false) => remove(control, name, actor, reply),
        (Method::Post, false) => match (name.strip_suffix(b"/restart"), name.strip_suffix(b"/rollback")) {
            (Some(name), _) => restart(control, name, actor, reply),
            (None, Some(name)) => versions::rollback(control, view, name, form, actor, reply),
            (None, None) if name.ends_with(b"/sanitize") => {
                versions::sanitize(control, view, name, form, actor, reply);
            }
            (None, None) => reply.send(&not_allowed("GET, HEAD, DELETE, OPTIONS")),
        },
        (_, true) => reply.send(&not_allowed("GET, HEAD, POST, OPTIONS")),
        (_, false) => reply.send(&not_allowed("GET, HEAD, DELETE, OPTIONS")),
    }
}

fn not_allowed(allow: &'static str) -> ServerAnswer {
    ServerAnswer::text(405, format!("this path answers {allow}\n")).with("Allow", allow)
}

/// Whether the value of a parameter means yes.
fn is_yes(value: &[u8]) -> bool {
    matches!(value, b"" | b"1" | b"true" | b"yes")
}

/// The source and the options in a request. The source is the multipart field `code`, several fields `file`, or else the whole
/// body. The options are the other fields of the form, or else the parameters of the query.
fn source_of(view: &RequestView<'_>) -> Result<(Posted, DeployOptions), ServerAnswer> {
    // Text that is not UTF-8 is neither a domain's name nor a path. The control plane checks which names and paths are valid.
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut query = DeployOptions::default();
    form::urlencoded(view.query().unwrap_or_default(), |name, value| match name {
        b"domain" => _ = query.domain.get_or_insert_with(|| text(value)),
        b"message" => _ = query.message.get_or_insert_with(|| text(value)),
        b"signature" => _ = query.signature.get_or_insert_with(|| text(value)),
        b"take_over" => query.take_over |= is_yes(value),
        b"filename" => _ = query.fields.file_name.get_or_insert_with(|| text(value)),
        name => query.fields.set(&text(name), text(value)),
    });
    let boundary = view.header("content-type").and_then(form::multipart_boundary);
    let Some(boundary) = boundary else {
        return Ok((Posted::Body(view.body.to_vec()), query));
    };
    let (mut code, mut domain, mut message, mut fields) = (None, None, None, SourceFields::default());
    let mut files = Vec::new();
    form::multipart(view.body, boundary, form::FIELDS_MAX, |part| match part.name.as_ref() {
        b"code" if code.is_none() => {
            code = Some(part.body.to_vec());
            fields.file_name = part.filename.as_deref().map(text);
        }
        b"file" => {
            let name = part.filename.as_deref().map(text);
            files.push((name.unwrap_or_else(|| format!("file-{}.c", files.len())), part.body.to_vec()));
        }
        b"message" => _ = message.get_or_insert_with(|| text(part.body)),
        b"domain" => _ = domain.get_or_insert_with(|| text(part.body)),
        b"signature" => query.signature = Some(text(part.body)),
        b"take_over" => query.take_over |= is_yes(part.body),
        name => fields.set(&text(name), text(part.body)),
    })
    .map_err(|error| ServerAnswer::text(400, format!("the form can't be read: {error}\n")))?;
    let posted = match code {
        Some(code) if files.is_empty() => Posted::Body(code),
        None if files.is_empty() => {
            let text = "the form has no field named code; try: curl -F code=@module.c URL/mgnt\n";
            return Err(ServerAnswer::text(400, text));
        }
        code => {
            let name = || fields.file_name.clone().unwrap_or_else(|| "module.c".to_owned());
            files.extend(code.map(|code| (name(), code)));
            Posted::Files(files)
        }
    };
    fields.fill(std::mem::take(&mut query.fields));
    let (domain, message) = (domain.or(query.domain.take()), message.or(query.message.take()));
    Ok((posted, DeployOptions { domain, message, fields, ..query }))
}

fn deploy(control: &Control, view: &RequestView<'_>, form: Form, actor: Actor, reply: Reply) {
    let found = match source_of(view) {
        Ok((Posted::Body(source), _)) if source.iter().all(u8::is_ascii_whitespace) => {
            Err(ServerAnswer::text(400, "no source: post a C file as the body or as field code\n"))
        }
        other => other,
    };
    let (source, mut options) = match found {
        Ok(found) => found,
        Err(answer) => {
            let text = String::from_utf8_lossy(&answer.body);
            actor.log(&not_done("deploy", None, None, answer.status, first_line(&text)));
            return reply.send(&in_form(&form, answer));
        }
    };
    options.by = actor.who.as_str().to_owned();
    options.reach = actor.who.reach();
    options.take_over |= actor.is_alone;
    // The source is hashed only if the deployment is refused, and then off the shard's thread.
    let kept = source.clone();
    control.deploy(
        source,
        options,
        Box::new(move |result| {
            log_deployment(&actor, &kept, &result);
            reply.send(&deployed(&form, result));
        }),
    );
}

fn log_deployment(actor: &Actor, source: &Posted, result: &Result<Deployed, DeployError>) {
    match result {
        Ok(deployed) => actor.log(&Outcome {
            action: "deploy",
            module: Some(&deployed.name),
            hash: Some(&deployed.hash),
            domain: Some(&deployed.domain),
            result: note(deployed),
            status: 200,
            reason: None,
        }),
        Err(error) => {
            let (hash, reason) = (Fingerprint::of(&source.bytes()).to_string(), error.reason());
            actor.log(&not_done("deploy", None, Some(&hash), error.status(), Some(&reason)));
        }
    }
}

/// Logs a deployment whose source could not be read.
pub(super) fn log_unread(actor: &Actor, status: u16, reason: &str) {
    actor.log(&not_done("deploy", None, None, status, Some(reason)));
}

fn remove(control: &Control, name: &[u8], actor: Actor, reply: Reply) {
    match decoded(name) {
        Ok(name) => control.remove(name.clone(), outcome("remove", "removed", name, actor, reply)),
        Err(answer) => bad_name("remove", &actor, &answer, reply),
    }
}

fn restart(control: &Control, name: &[u8], actor: Actor, reply: Reply) {
    match decoded(name) {
        Ok(name) => control.restart(name.clone(), outcome("restart", "restarted", name, actor, reply)),
        Err(answer) => bad_name("restart", &actor, &answer, reply),
    }
}
