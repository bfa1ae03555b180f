//! `GET /mgnt/NAME/logs`: the last lines of a module. The shard serves the stream of lines ([`crate::shard`]).

use super::query::decoded;
use crate::logbook::{self, From, Line};
use crate::proto::form;
use crate::proto::http1::RequestView;
use crate::server_response::ServerAnswer;
use serde_json::{Value, json};

/// Default number of lines at the start of an answer or a stream; the client may override it.
const LINES_DEFAULT: usize = 100;

/// The lines that a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogsQuery {
    /// The module's name.
    pub module: String,
    /// The first line to send.
    pub from: From,
}

/// A line as JSON for clients.
#[must_use]
pub fn log_line(line: &Line) -> Value {
    json!({ "id": line.id, "at_ms": line.at_ms, "kind": line.kind.as_str(), "text": line.text })
}

fn error(status: u16, text: &str) -> ServerAnswer {
    ServerAnswer::json(status, json!({ "error": text }).to_string())
}

/// Parses a request on `/mgnt/NAME/logs`.
///
/// # Errors
/// The answer to send instead: 400 for an invalid parameter, 404 for an unknown module.
pub fn logs_query(view: &RequestView<'_>) -> Result<LogsQuery, ServerAnswer> {
    let name = view.path().strip_prefix(b"/mgnt/").and_then(|rest| rest.strip_suffix(b"/logs")).unwrap_or_default();
    let module = decoded(name)?;
    let mut from = From::default();
    let mut wrong = None;
    form::urlencoded(view.query().unwrap_or_default(), |key, value| {
        let number = std::str::from_utf8(value).ok().and_then(|text| text.parse::<u64>().ok());
        match (key, number) {
            (b"lines", Some(number)) => from.lines = Some(usize::try_from(number).unwrap_or(usize::MAX)),
            (b"since_ms", Some(number)) => from.since_ms = number,
            (b"requests", Some(number)) => from.requests = number > 0,
            (b"lines" | b"since_ms" | b"requests", None) => wrong = Some(String::from_utf8_lossy(key).into_owned()),
            _ => {}
        }
    });
    if let Some(key) = wrong {
        return Err(error(400, &format!("{key} must be a whole number, 0 or more")));
    }
    if from.lines.is_none() && from.since_ms == 0 {
        from.lines = Some(LINES_DEFAULT);
    }
    // A reconnecting client sends the number of the last line it saw (HTML standard, server-sent events); 0 means that it saw
    // no line.
    let seen = view.header("last-event-id").and_then(|text| std::str::from_utf8(text).ok());
    from.after = seen.and_then(|text| text.trim().parse().ok()).filter(|id| *id > 0);
    if !logbook::has(&module) {
        return Err(error(404, &format!("there is no module named {module}")));
    }
    Ok(LogsQuery { module, from })
}

/// Answers with the last lines.
pub(super) fn last(view: &RequestView<'_>) -> ServerAnswer {
    let LogsQuery { module, from } = match logs_query(view) {
        Ok(query) => query,
        Err(answer) => return answer,
    };
    let batch = logbook::lines(&module, from);
    let lines: Vec<Value> = batch.lines.iter().map(|line| log_line(line)).collect();
    ServerAnswer::json(200, json!({ "name": module, "lost": batch.lost, "lines": lines }).to_string())
}
