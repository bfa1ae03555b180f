//! Answers about modules: the result of a deployment, the reason of a refusal. The code that makes an answer also logs it.

use super::audit::{Actor, Outcome, not_done};
use super::deployed::Form;
use crate::module::deploy::{DeployError, Deployed, RemoveReply};
use crate::server_response::{Reply, ServerAnswer};

/// The result of an accepted deployment, as a note.
pub(super) fn note(deployed: &Deployed) -> &'static str {
    if deployed.unchanged {
        "unchanged"
    } else if deployed.superseded {
        "superseded"
    } else {
        "deployed"
    }
}

pub(super) fn deployed(form: &Form, result: Result<Deployed, DeployError>) -> ServerAnswer {
    match result {
        Ok(deployed) => {
            let note = note(&deployed);
            let body = form.body(&deployed, note);
            let answer = if form.json { ServerAnswer::json(200, body) } else { ServerAnswer::text(200, body) };
            answer
                .with("X-Cweb-Module", header_text(&deployed.name))
                .with("X-Cweb-Hash", deployed.hash)
                .with("X-Cweb-Domain", deployed.domain)
                .with("X-Cweb-Version", deployed.version.to_string())
                .with("X-Cweb-Result", note)
        }
        Err(error) => in_form(form, refusal(&error)),
    }
}

/// The refusal in the form that the client wants: text or JSON.
pub(super) fn in_form(form: &Form, answer: ServerAnswer) -> ServerAnswer {
    if !form.json {
        return answer;
    }
    let text = String::from_utf8_lossy(&answer.body);
    let json = ServerAnswer::json(answer.status, serde_json::json!({ "error": text.trim_end() }).to_string());
    ServerAnswer { headers: answer.headers, ..json }
}

pub(super) fn refusal(error: &DeployError) -> ServerAnswer {
    let mut text = error.to_string();
    if error.status() == 500 && text.contains("Too many open files") {
        text += "\nThe server has no descriptors left (ulimit -n). With --isolation none a module may hold descriptors: restart the server.";
    }
    let answer = ServerAnswer::text(error.status(), format!("{text}\n"));
    if error.status() == 503 { answer.with("Retry-After", "1") } else { answer }
}

/// Encodes a module's name for a header field: a name may have any printable text, a field only ASCII (RFC 9110 §5.5).
fn header_text(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).collect()
}

/// Logs that the operation `done` on module `name` succeeded, or why it failed, and answers accordingly.
pub(super) fn outcome(
    action: &'static str,
    done: &'static str,
    name: String,
    actor: Actor,
    reply: Reply,
) -> RemoveReply {
    Box::new(move |result| {
        let answer = match result {
            Ok(()) => {
                let module = Some(name.as_str());
                actor.log(&Outcome {
                    action,
                    module,
                    hash: None,
                    domain: None,
                    result: done,
                    status: 200,
                    reason: None,
                });
                ServerAnswer::text(200, format!("{done} {name}\n"))
            }
            Err(error) => {
                let text = error.to_string();
                actor.log(&not_done(action, Some(&name), None, error.status(), first_line(&text)));
                refusal(&error)
            }
        };
        reply.send(&answer);
    })
}

pub(super) fn bad_name(action: &str, actor: &Actor, answer: &ServerAnswer, reply: Reply) {
    let text = String::from_utf8_lossy(&answer.body);
    actor.log(&not_done(action, None, None, answer.status, first_line(&text)));
    reply.send(answer);
}

/// The first line that is not blank.
pub(super) fn first_line(text: &str) -> Option<&str> {
    text.lines().map(str::trim).find(|line| !line.is_empty())
}
