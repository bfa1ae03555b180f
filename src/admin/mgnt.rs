//! `/mgnt`: deploy, list, remove.

use crate::module::control::Control;
use crate::module::deploy::{DeployError, DeployOptions, Deployed};
use crate::proto::form;
use crate::proto::http1::{Method, RequestView};
use crate::shard::{Reply, ServerAnswer};

/// Serves one request on `/mgnt` or below it.
pub(super) fn handle(control: &Control, view: &RequestView<'_>, reply: Reply) {
    let name = view.path().strip_prefix(b"/mgnt").unwrap_or_default();
    let name = name.strip_prefix(b"/").unwrap_or(name);
    match (view.method(), name.is_empty()) {
        (Method::Get | Method::Head, true) => reply.send(&ServerAnswer::json(200, control.modules_json())),
        (Method::Post, true) => deploy(control, view, reply),
        (Method::Delete, false) => remove(control, name, reply),
        (_, true) => reply.send(&not_allowed("GET, HEAD, POST, OPTIONS")),
        (_, false) => reply.send(&not_allowed("DELETE, OPTIONS")),
    }
}

fn not_allowed(allow: &'static str) -> ServerAnswer {
    ServerAnswer::text(405, format!("this path answers {allow}\n")).with("Allow", allow)
}

/// The source in a request: the multipart field `code`, or else the whole body.
fn source_of(view: &RequestView<'_>) -> Result<Vec<u8>, ServerAnswer> {
    let boundary = view.header("content-type").and_then(form::multipart_boundary);
    let Some(boundary) = boundary else {
        return Ok(view.body.to_vec());
    };
    let mut code = None;
    form::multipart(view.body, boundary, |part| {
        if part.name.as_ref() == b"code" && code.is_none() {
            code = Some(part.body.to_vec());
        }
    })
    .map_err(|error| ServerAnswer::text(400, format!("the form can't be read: {error}\n")))?;
    code.ok_or_else(|| {
        ServerAnswer::text(400, "the form has no field named code; try: curl -F code=@module.c URL/mgnt\n")
    })
}

fn deploy(control: &Control, view: &RequestView<'_>, reply: Reply) {
    let source = match source_of(view) {
        Ok(source) if source.iter().all(u8::is_ascii_whitespace) => {
            return reply.send(&ServerAnswer::text(400, "no source: post a C file as the body or as field code\n"));
        }
        Ok(source) => source,
        Err(answer) => return reply.send(&answer),
    };
    control.deploy(source, DeployOptions::default(), Box::new(move |result| reply.send(&deployed(result))));
}

fn deployed(result: Result<Deployed, DeployError>) -> ServerAnswer {
    match result {
        Ok(deployed) => {
            // The body is the compiler's warnings and nothing else, so that a tool can show it as it is.
            let note = if deployed.unchanged {
                "unchanged"
            } else if deployed.superseded {
                "superseded"
            } else {
                "deployed"
            };
            ServerAnswer::text(200, deployed.warnings)
                .with("X-Cweb-Module", header_text(&deployed.name))
                .with("X-Cweb-Hash", deployed.hash)
                .with("X-Cweb-Result", note)
        }
        Err(error) => refusal(&error),
    }
}

fn refusal(error: &DeployError) -> ServerAnswer {
    let answer = ServerAnswer::text(error.status(), format!("{error}\n"));
    if error.status() == 503 { answer.with("Retry-After", "1") } else { answer }
}

/// A module's name may hold any printable text; a header field only ASCII (RFC 9110 §5.5).
fn header_text(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).collect()
}

fn remove(control: &Control, name: &[u8], reply: Reply) {
    let mut decoded = Vec::new();
    // The name as a path segment: percent-decoded, `+` taken as it stands.
    let escaped: Vec<u8> = name.iter().flat_map(|&b| if b == b'+' { b"%2B".to_vec() } else { vec![b] }).collect();
    form::urlencoded(&[b"n=".as_slice(), &escaped].concat(), |_, value| decoded = value.to_vec());
    let Ok(name) = String::from_utf8(decoded) else {
        return reply.send(&ServerAnswer::text(400, "the module's name is not UTF-8\n"));
    };
    control.remove(
        name,
        Box::new(move |result| {
            reply.send(&match result {
                Ok(()) => ServerAnswer::text(200, ""),
                Err(error) => refusal(&error),
            });
        }),
    );
}
