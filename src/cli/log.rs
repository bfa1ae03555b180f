//! The log of the server and of its processes.

use super::log_writer::LogWriter;
use crate::domain::process::relay::RelayFormat;
use crate::logbook::{self, Kind};
use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::IsTerminal;
use std::sync::Arc;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{self, Compact, Format, Writer};
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

/// The log filter: `CWEB_LOG` sets levels in detail, `--silent` only the general level.
pub(super) fn filter(silent: bool) -> Result<EnvFilter, String> {
    match std::env::var("CWEB_LOG") {
        Ok(text) if !text.is_empty() => EnvFilter::try_new(&text).map_err(|error| {
            format!("CWEB_LOG=\"{text}\": {error}; write a level (warn) or target=level (module=debug)")
        }),
        _ => Ok(EnvFilter::new(if silent { "warn,audit=info" } else { "info" })),
    }
}

/// Starts the log of the server.
pub(super) fn start(filter: EnvFilter) {
    let format = format::format().compact();
    let lines = Lines { server: format.clone().with_target(false), named: format };
    // A failed write must not end the thread that logs.
    let layer = tracing_subscriber::fmt::layer()
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .event_format(lines)
        .with_writer(LogWriter::start(log_file()))
        .with_filter(filter);
    tracing_subscriber::registry().with(layer).with(OfModules.with_filter(LevelFilter::INFO)).init();
}

/// Starts the log of a domain's process; the server logs its lines. `cweb logs` needs the output of modules, so that output
/// crosses to the server even if the server's log leaves it out.
pub(super) fn start_inherited() {
    let filter = filter(false).unwrap_or_default();
    let asked = std::env::var("CWEB_LOG").unwrap_or_default();
    let is_detailed = asked.contains("debug") || asked.contains("trace");
    let filter = match if is_detailed { "module=debug" } else { "module=info" }.parse() {
        Ok(directive) => filter.add_directive(directive),
        Err(_) => filter,
    };
    tracing_subscriber::fmt()
        .log_internal_errors(false)
        .event_format(RelayFormat::begin())
        .with_env_filter(filter)
        .with_writer(waiting_writer())
        .init();
}

/// Starts the log of a test's process: lines for the author, without times.
pub(super) fn start_for_test() {
    let lines = format::format().compact().without_time().with_target(false);
    tracing_subscriber::fmt()
        .log_internal_errors(false)
        .with_ansi(false)
        .event_format(lines)
        .with_env_filter(filter(false).unwrap_or_default())
        .with_writer(waiting_writer())
        .init();
}

/// The lowest descriptor number for the log: above the small numbers that programs close or expect to be free.
const LOG_DESCRIPTOR_MIN: i32 = 100;

/// A copy of standard error on a descriptor of the log's own. Module code may close descriptor 2, and then the next opened
/// file would receive the log. `None`: no descriptor is left.
fn log_file() -> Option<File> {
    let stderr = std::io::stderr();
    let copy = |lowest| rustix::io::fcntl_dupfd_cloexec(&stderr, lowest);
    copy(LOG_DESCRIPTOR_MIN).or_else(|_| copy(0)).ok().map(File::from)
}

/// The log's file, for processes whose log the server reads.
fn waiting_writer() -> BoxMakeWriter {
    log_file().map_or_else(|| BoxMakeWriter::new(std::io::stderr), |file| BoxMakeWriter::new(Arc::new(file)))
}

/// The format of log lines. The target separates the output of modules from messages of the server, so that a module can't
/// forge a server message, and marks the lines of the audit. Other targets are not shown.
struct Lines {
    server: Format<Compact>,
    named: Format<Compact>,
}

/// Whether the target is shown.
fn is_named(event: &Event<'_>) -> bool {
    matches!(event.metadata().target(), "module" | "audit")
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let format = if is_named(event) { &self.named } else { &self.server };
        format.format_event(context, writer, event)
    }
}

/// Adds the server's messages about a module to the lines of that module, including those that the server's own log leaves
/// out.
struct OfModules;

/// The message of an event.
#[derive(Default)]
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            let _ = write!(self.0, "{value:?}");
        }
    }
}

impl<S: Subscriber> Layer<S> for OfModules {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        if is_named(event) {
            return;
        }
        let mut message = Message::default();
        event.record(&mut message);
        let kind = match *event.metadata().level() {
            Level::ERROR => Kind::Error,
            Level::WARN => Kind::Warning,
            _ => Kind::Info,
        };
        logbook::told(kind, &message.0);
    }
}
