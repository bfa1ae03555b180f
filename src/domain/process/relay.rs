//! The form in which the log of a domain's process crosses to the server: a line with a mark, a level, a module and a text.
//!
//! Input: events of the process's log. Output: lines on its standard error, which `stdout_relay` parses and logs with
//! the server's time. A module may write the mark itself, so the server trusts such a line no more than any other
//! output. The name counts only if the domain has that module; otherwise the log names the domain.

use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// The first character of a line: ASCII's record separator.
const MARK: char = '\u{1e}';
/// The character between the parts: ASCII's unit separator.
const BETWEEN: char = '\u{1f}';

/// Whether this process is a domain's. Set once, before modules run.
static ON: AtomicBool = AtomicBool::new(false);

/// Whether this process is a domain's, whose log the server writes.
pub(in crate::domain) fn is_on() -> bool {
    ON.load(Ordering::Relaxed)
}

/// A line of a domain's log.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Relayed<'a> {
    pub(super) level: Level,
    /// The module that printed the line; empty if no module did.
    pub(super) module: &'a str,
    pub(super) text: &'a str,
}

/// Parses a line; `None`: it is not a log line.
pub(super) fn decode(line: &str) -> Option<Relayed<'_>> {
    let mut parts = line.strip_prefix(MARK)?.splitn(3, BETWEEN);
    let (level, module, text) = (parts.next()?, parts.next()?, parts.next()?);
    Some(Relayed { level: level.parse().ok()?, module, text })
}

/// Logs a line that `module` has printed or logged.
pub(in crate::domain) fn said(module: &str, level: Level, text: &str) {
    match level {
        Level::ERROR => tracing::error!(target: "module", module, "{text}"),
        Level::WARN => tracing::warn!(target: "module", module, "{text}"),
        Level::INFO => tracing::info!(target: "module", module, "{text}"),
        _ => tracing::debug!(target: "module", module, "{text}"),
    }
}

/// The format of the log in a domain's process.
#[derive(Debug)]
pub struct RelayFormat(());

impl RelayFormat {
    /// The format; must be called once, at the start of a domain's process.
    #[must_use]
    pub fn begin() -> Self {
        ON.store(true, Ordering::Relaxed);
        Self(())
    }
}

/// The relevant parts of an event.
#[derive(Default)]
struct Parts {
    module: String,
    text: String,
}

impl Visit for Parts {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "module" {
            value.clone_into(&mut self.module);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            let _ = write!(self.text, "{value:?}");
        }
    }
}

impl<S, N> FormatEvent<S, N> for RelayFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut parts = Parts::default();
        event.record(&mut parts);
        // One event gives one line, whatever it contains.
        let text = parts.text.replace('\n', "\\n");
        writeln!(writer, "{MARK}{}{BETWEEN}{}{BETWEEN}{text}", event.metadata().level(), parts.module)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_taken_apart_or_is_none() {
        let text = "a\u{1f}b";
        let line = format!("{MARK}WARN{BETWEEN}m x{BETWEEN}{text}");
        assert_eq!(decode(&line), Some(Relayed { level: Level::WARN, module: "m x", text }));
        for line in
            ["", "plain", "\u{1e}", "\u{1e}INFO\u{1f}m", "\u{1e}LOUD\u{1f}m\u{1f}text", " \u{1e}INFO\u{1f}\u{1f}"]
        {
            assert_eq!(decode(line), None, "{line:?}");
        }
    }
}
