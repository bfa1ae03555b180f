//! The server's answers about jobs, and refusals with advice for the user.

use super::super::client::{Answer, Client, GREEN, RED, YELLOW, escaped};
use super::super::exit::{Exit, Failure};
use super::output::Problem;
use clap::ValueEnum;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use uuid::Uuid;

/// The path of a list, restricted to `module` if one is named.
pub(super) fn of_module(path: &str, module: Option<&str>) -> String {
    module.map_or_else(|| path.to_owned(), |module| format!("{path}?module={}", escaped(module)))
}

/// The state of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(super) enum JobState {
    Pending,
    Running,
    Done,
    Failed,
    Canceled,
}

impl JobState {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
        }
    }

    pub(super) fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Canceled)
    }

    pub(super) fn colour(self) -> Option<u8> {
        match self {
            Self::Pending | Self::Running => None,
            Self::Done => Some(GREEN),
            Self::Failed => Some(RED),
            Self::Canceled => Some(YELLOW),
        }
    }
}

/// A job as `GET /jobs/UUID` returns it.
#[derive(Deserialize)]
pub(super) struct Job {
    pub(super) job_uuid: String,
    pub(super) module: String,
    pub(super) job: String,
    pub(super) state: JobState,
    pub(super) module_hash: String,
    pub(super) created_at: i64,
    pub(super) updated_at: i64,
    pub(super) error: Option<String>,
    pub(super) attempt: u32,
    pub(super) max_attempts: u32,
    pub(super) run_at: i64,
    pub(super) priority: i32,
    pub(super) unique_key: Option<String>,
    pub(super) result: Option<Box<RawValue>>,
    /// UUIDs of the jobs that this job still waits for.
    #[serde(default)]
    pub(super) depends_on: Vec<String>,
    /// Missing in lists.
    #[serde(default)]
    pub(super) payload: Option<Box<RawValue>>,
}

/// The advice for an unknown job.
pub(super) const NO_SUCH_JOB: &str = "cweb jobs list shows the existing jobs";

/// The number of characters shown of an answer that is not from cweb.
const FOREIGN_CHARS_MAX: usize = 200;

#[derive(Deserialize)]
struct Refusal {
    error: String,
}

/// The body of a successful answer, or else the error. `unknown` is the advice after a 404.
pub(super) fn accepted(client: &Client, answer: Answer, unknown: &str) -> Result<String, Failure> {
    if answer.is_success() {
        return Ok(answer.body);
    }
    let base = client.base();
    let Ok(Refusal { error }) = serde_json::from_str(&answer.body) else {
        let text: String = first_line(&answer.body).chars().take(FOREIGN_CHARS_MAX).collect();
        return Err(Failure::from(format!(
            "{base} answers {} {text:?}: this is not a cweb server with jobs; name another server with --server URL or CWEB_SERVER",
            answer.status
        )));
    };
    let later = match answer.header("retry-after") {
        "" => String::new(),
        seconds => format!("try again in {seconds} s"),
    };
    let about_key = client.key_advice(&answer);
    let advice = match answer.status {
        _ if about_key.is_some() => about_key.unwrap_or_default(),
        404 => unknown,
        500 => "the server's log may have details",
        503 => &later,
        _ => "",
    };
    let colon = if advice.is_empty() { "" } else { "; " };
    let exit = if about_key.is_some() { Exit::Unauthorized } else { Exit::Failed };
    Err(Failure::new(exit, format!("{base} answers {}: {}{colon}{advice}", answer.status, shown(&error))))
}

/// Reads the JSON of an answer.
pub(super) fn read<T: DeserializeOwned>(client: &Client, body: &str) -> Result<T, String> {
    serde_json::from_str(body).map_err(|error| {
        format!("the answer of {} can't be read: {error}; is it a cweb server of this version?", client.base())
    })
}

/// The first line of a text, safe for a terminal.
pub(super) fn first_line(text: &str) -> String {
    shown(text.lines().next().unwrap_or(""))
}

/// A text from a module, without control characters, which a terminal could take for commands.
pub(super) fn shown(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// The first 12 digits of a version's hash.
pub(super) fn short_hash(hash: &str) -> String {
    shown(hash).chars().take(12).collect()
}

/// JSON without the white space between tokens, with numbers and strings unchanged; safe for a terminal.
pub(super) fn compact(json: &str) -> String {
    let (mut quoted, mut escaped) = (false, false);
    let kept = json.chars().filter(|&c| {
        let was_quoted = quoted;
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = quoted,
            '"' => quoted = !quoted,
            _ => {}
        }
        was_quoted || !c.is_ascii_whitespace()
    });
    shown(&kept.collect::<String>())
}

/// Gets the job `uuid`.
pub(super) fn look_up(client: &Client, uuid: &Uuid) -> Result<Job, Problem> {
    let answer = client.get(&format!("/jobs/{uuid}"))?;
    Ok(read(client, &accepted(client, answer, NO_SUCH_JOB)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_made_compact_and_harmless() {
        for (text, short) in [
            ("{ \"a b\" : [ 1.0e400 , \"c \\\" d\\\\\" ] }", "{\"a b\":[1.0e400,\"c \\\" d\\\\\"]}"),
            ("\"é\u{9b}31m\u{7f}\"", "\"é\u{fffd}31m\u{fffd}\""),
            (" 7 ", "7"),
        ] {
            assert_eq!(compact(text), short);
        }
        assert_eq!(first_line("a\x1b[2J\nb"), "a\u{fffd}[2J");
    }
}
