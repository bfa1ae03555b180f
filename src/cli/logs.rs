//! `cweb logs`

use super::client::{Client, Opened, RED, YELLOW, coloured, escaped};
use super::exit::{Exit, Failure};
use super::jobs::sse::SseReader;
use super::jobs::time::{self, Span, When};
use super::versions::{ServerArgs, plain};
use clap::Args;
use serde::Deserialize;
use std::io::{Read, Write};
use std::process::ExitCode;
use std::time::Duration;

/// Limit, in bytes, on one event: a line has a few KiB, and escaping multiplies that.
const EVENT_BYTES_MAX: usize = 1024 * 1024;
/// The wait before reconnecting a lost stream; it doubles up to the longest wait.
const WAIT_FIRST: Duration = Duration::from_millis(250);
const WAIT_LONGEST: Duration = Duration::from_secs(5);

#[derive(Args)]
pub(super) struct LogsArgs {
    /// The module's name
    name: String,
    /// Show further lines as they come, also after a restart of the server; stop with Ctrl-C
    #[arg(short, long)]
    follow: bool,
    /// Only lines of the given last span (90s, 10m, 2h), or since a time (2030-01-31T09:30:00Z)
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<i64>,
    /// Also show requests to the module, with status and duration, from now on; only with --follow
    #[arg(long, requires = "follow")]
    requests: bool,
    /// Begin with at most the last N lines [default: 100; with --since all]
    #[arg(long, value_name = "N")]
    lines: Option<u64>,
    #[command(flatten)]
    server: ServerArgs,
}

/// Reads `text` as milliseconds since 1970.
fn since(text: &str) -> Result<i64, String> {
    let now_ms = time::now_ms();
    if let Ok(span) = text.parse::<Span>() {
        return Ok(now_ms.saturating_sub(i64::try_from(span.ms).unwrap_or(i64::MAX)).max(0));
    }
    let wrong = || "write how long ago (90s, 10m, 2h), or a time with its zone (2030-01-31T09:30:00Z)".to_owned();
    text.parse::<When>().map(|when| when.ms(now_ms).max(0)).map_err(|_| wrong())
}

#[derive(Deserialize)]
struct Last {
    lost: u64,
    lines: Vec<Line>,
}

#[derive(Deserialize)]
pub(super) struct Line {
    id: i64,
    at_ms: i64,
    pub(super) kind: String,
    text: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Event {
    Line(Line),
    Lost { lost: u64 },
}

/// The reason why the command ends.
pub(super) enum End {
    /// The output has no reader any more.
    Closed,
    Failed(Failure),
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

pub(super) fn run(args: &LogsArgs) -> ExitCode {
    let mut query = Vec::new();
    query.extend(args.lines.map(|lines| format!("lines={lines}")));
    query.extend(args.since.map(|ms| format!("since_ms={ms}")));
    query.extend(args.requests.then(|| "requests=1".to_owned()));
    let path = format!("/mgnt/{}/logs?{}", escaped(&args.name), query.join("&"));
    args.server.run(|client| {
        let done = if args.follow { follow(client, &path) } else { last(client, &path) };
        match done {
            Ok(()) | Err(End::Closed) => Ok(()),
            Err(End::Failed(failure)) => Err(failure),
        }
    })
}

fn last(client: &Client, path: &str) -> Result<(), End> {
    let answer = client.get(path)?;
    if !answer.is_success() {
        return Err(client.refusal(&answer).into());
    }
    let last: Last = serde_json::from_str(&answer.body)
        .map_err(|error| Failure::from(format!("the server's answer can't be read: {error}")))?;
    lost(last.lost);
    last.lines.iter().try_for_each(print)
}

fn lost(count: u64) {
    if count > 0 {
        eprintln!(
            "cweb: {count} lines are lost, because the module was faster than the reader (--module-log-bytes-max)"
        );
    }
}

fn print(line: &Line) -> Result<(), End> {
    write(&time::rfc3339(line.at_ms), line)
}

/// Prints the line after `head`.
pub(super) fn write(head: &str, line: &Line) -> Result<(), End> {
    let text = plain(&line.text);
    let text = match line.kind.as_str() {
        "printed" => text,
        "error" => coloured(RED, &format!("! {text}")),
        "warning" => coloured(YELLOW, &format!("! {text}")),
        "request" => format!("> {text}"),
        _ => format!("* {text}"),
    };
    writeln!(std::io::stdout().lock(), "{head} {text}").map_err(|_| End::Closed)
}

/// Prints lines as they come. Ends when the module is removed, or when the first try fails.
fn follow(client: &Client, path: &str) -> Result<(), End> {
    let (mut last_id, mut connected, mut wait) = (0, false, WAIT_FIRST);
    loop {
        let why = match client.events(path, last_id) {
            Ok(Opened::Stream(reader)) => {
                let before = last_id;
                connected = true;
                let why = read(reader, &mut last_id, print)?;
                if last_id > before {
                    wait = WAIT_FIRST;
                }
                why
            }
            // A starting server answers only after its modules are loaded, so a module that it does not know has been
            // removed.
            Ok(Opened::Refused(answer)) if answer.status < 500 || !connected => {
                return Err(client.refusal(&answer).into());
            }
            Ok(Opened::Refused(answer)) => answer.words(),
            Ok(Opened::Finished) => "the server has ended the stream".to_owned(),
            Err(failure) if connected && failure.exit == Exit::Unreachable => failure.text,
            Err(failure) => return Err(failure.into()),
        };
        eprintln!("cweb: {why}; trying again");
        std::thread::sleep(wait);
        wait = wait.saturating_mul(2).min(WAIT_LONGEST);
    }
}

/// Passes each line of the stream to `print` until the stream ends, and returns the reason of its end.
pub(super) fn read(
    mut reader: impl Read,
    last_id: &mut i64,
    print: impl Fn(&Line) -> Result<(), End>,
) -> Result<String, End> {
    let mut sse = SseReader::new(EVENT_BYTES_MAX);
    let mut bytes = vec![0; 64 * 1024];
    loop {
        let count = match reader.read(&mut bytes) {
            Ok(0) => return Ok("the server has ended the stream".to_owned()),
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Ok(error.to_string()),
        };
        let events = sse.feed(bytes.get(..count).unwrap_or_default());
        let events = events.map_err(|_| Failure::from("a line is too long to be shown".to_owned()))?;
        for event in events {
            let read: Event = serde_json::from_str(&event.data)
                .map_err(|error| Failure::from(format!("a line can't be read: {error}; is it a cweb server?")))?;
            match read {
                Event::Lost { lost: count } => lost(count),
                Event::Line(line) => {
                    print(&line)?;
                    *last_id = line.id;
                }
            }
        }
    }
}
