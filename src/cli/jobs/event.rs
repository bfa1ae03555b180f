//! How a job's events are shown: a line each, or a progress bar.

use super::super::client::{GREEN, RED, YELLOW, coloured_on};
use super::answer::{compact, shown};
use super::output::{Problem, say};
use super::time::rfc3339;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::io::{IsTerminal, Write};

/// The form in which events are shown, and their destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Show {
    /// The server's JSON, one line per event.
    Json,
    /// Lines on stdout.
    OnStdout,
    /// Lines on stderr, because stdout is used for other output.
    OnStderr,
}

/// An event as the server sends it.
#[derive(Deserialize)]
pub(super) struct JobEvent<'a> {
    pub(super) event_id: i64,
    ts: i64,
    #[serde(rename = "type")]
    pub(super) kind: String,
    #[serde(borrow)]
    data: &'a RawValue,
}

/// The data of the event `progress`: cweb_job_progress() of cweb_helpers.h.
#[derive(Debug, PartialEq, Eq, Deserialize)]
struct Progress {
    done: u64,
    total: u64,
}

impl Progress {
    fn of(event: &JobEvent<'_>) -> Option<Self> {
        let data = event.data.get();
        // serde would also accept an array with the fields in order.
        if event.kind != "progress" || !data.starts_with('{') {
            return None;
        }
        serde_json::from_str::<Self>(data).ok().filter(|progress| progress.total > 0)
    }
}

/// Shows events, in order.
pub(super) struct View {
    show: Show,
    bar: Option<ProgressBar>,
}

impl View {
    pub(super) fn new(show: Show) -> Self {
        Self { show, bar: None }
    }

    /// Shows `event`, whose JSON text is `json`.
    pub(super) fn event(&mut self, event: &JobEvent<'_>, json: &str) -> Result<(), Problem> {
        if self.show == Show::Json {
            return say(json);
        }
        if std::io::stderr().is_terminal()
            && let Some(progress) = Progress::of(event)
        {
            let bar = self.bar.get_or_insert_with(bar);
            bar.set_length(progress.total);
            bar.set_position(progress.done);
            return Ok(());
        }
        if matches!(&*event.kind, "done" | "failed" | "canceled")
            && let Some(bar) = self.bar.take()
        {
            bar.abandon(); // The bar stays on the screen in its last state.
        }
        let show = self.show;
        match &self.bar {
            Some(bar) => bar.suspend(|| write_line(show, event)),
            None => write_line(show, event),
        }
    }

    /// Prints a note about the stream itself.
    pub(super) fn note(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
    }
}

fn write_line(show: Show, event: &JobEvent<'_>) -> Result<(), Problem> {
    if show == Show::OnStderr {
        Ok(writeln!(std::io::stderr().lock(), "{}", line(event, &std::io::stderr()))?)
    } else {
        say(line(event, &std::io::stdout()))
    }
}

fn line(event: &JobEvent<'_>, output: &impl IsTerminal) -> String {
    let kind = shown(&event.kind);
    let colour = match &*kind {
        "done" => Some(GREEN),
        "failed" => Some(RED),
        "retrying" | "canceled" => Some(YELLOW),
        _ => None,
    };
    let kind = colour.map_or(kind.clone(), |colour| coloured_on(output, colour, &kind));
    format!("{} {kind} {}", rfc3339(event.ts), compact(event.data.get()))
}

fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} {percent}% {eta}");
    ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(kind: &str, data: &str) -> Option<Progress> {
        let json = format!(r#"{{"job_uuid":"u","event_id":1,"ts":2,"type":"{kind}","data":{data}}}"#);
        Progress::of(&serde_json::from_str(&json).unwrap())
    }

    #[test]
    fn a_bar_is_for_progress_that_can_be_measured() {
        assert_eq!(
            progress("progress", r#"{"done":1,"total":4,"percent":25.0}"#),
            Some(Progress { done: 1, total: 4 })
        );
        for data in [r#"{"done":1,"total":0}"#, r#"{"done":-1,"total":4}"#, r#"{"done":1}"#, "\"half\"", "[1,4]"] {
            assert_eq!(progress("progress", data), None, "{data}");
        }
        assert_eq!(progress("step", r#"{"done":1,"total":4}"#), None);
    }

    #[test]
    fn the_template_of_the_bar_is_right() {
        assert!(ProgressStyle::with_template("{wide_bar} {pos}/{len} {percent}% {eta}").is_ok());
    }

    #[test]
    fn a_line_tells_when_what_and_more() {
        let json = r#"{"job_uuid":"u","event_id":1,"ts":0,"type":"a\u001b[2J","data":{"n": 1.0}}"#;
        let event: JobEvent<'_> = serde_json::from_str(json).unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(line(&event, &file), "1970-01-01T00:00:00.000Z a\u{fffd}[2J {\"n\":1.0}");
    }
}
