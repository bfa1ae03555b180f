//! Passes the standard output and error of a process to the server's log, line by line.
//!
//! Each line gets the target `module` and the name of a module of the domain, or else the domain's name. Its content is
//! escaped: a module can't write a line that looks like the server's or another domain's. The process writes to a pipe of
//! its own, which a thread copies. With the server's own descriptors it could truncate or overwrite the log, or change how
//! the server writes to it.

use super::lock;
use super::relay;
use super::reports::{Finder, Reports};
use super::shared::DomainShared;
use crate::abi::visible::visible;
use crate::domain::{output, sanitized};
use crate::logbook::{self, Kind};
use crossbeam::channel::{Receiver, bounded};
use std::io::{self, PipeReader, PipeWriter, Read};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};
use tracing::Level;

/// Limit, in bytes, on a line; longer lines are split. Lines of modules are split at a far lower limit (see
/// `domain::output`).
const LINE_BYTES_MAX: usize = 16 * 1024;
const SECOND: Duration = Duration::from_secs(1);
/// After each so many dropped bytes, what a pipe holds, the thread pauses. Otherwise a module that prints without an end costs
/// the server as much processor time as its shards; with the pauses, the module waits.
const DROPPED_AT_ONCE: usize = 64 * 1024;
const DROP_PAUSE: Duration = Duration::from_millis(4);

/// The source of the lines.
struct Whose {
    domain: String,
    /// A weak reference, which does not keep the domain.
    shared: Weak<DomainShared>,
}

/// Starts the thread that copies the output, at most `--module-output-bytes-max` bytes a second; more is read slowly, dropped
/// and counted. Returns the pipe for writing, and a receiver that is disconnected once everything has been copied.
pub(super) fn collect(shared: &Arc<DomainShared>) -> io::Result<(PipeWriter, Receiver<()>)> {
    let (reader, writer) = io::pipe()?;
    let (over, ended) = bounded(0);
    let whose = Whose { domain: shared.name().to_owned(), shared: Arc::downgrade(shared) };
    let bytes_max = shared.config.output_bytes_max;
    let watched = sanitized::is_one(shared.name()).then(|| Arc::clone(&shared.reports));
    thread::Builder::new().name("domain-output".to_owned()).spawn(move || {
        copy(reader, &whose, bytes_max, watched.as_deref());
        drop(over);
    })?;
    Ok((writer, ended))
}

fn copy(mut reader: PipeReader, whose: &Whose, bytes_max: usize, reports: Option<&Reports>) {
    let mut finder = Finder::default();
    let mut look = |text: &[u8]| {
        let Some(reports) = reports else { return };
        for line in String::from_utf8_lossy(text).lines() {
            finder.line(&visible(line), reports);
        }
    };
    let mut lines = Lines::default();
    let mut rate = Rate::new(bytes_max);
    let mut chunk = [0; LINE_BYTES_MAX];
    loop {
        match reader.read(&mut chunk) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Ok(0) | Err(_) => break,
            Ok(count) => lines.add(chunk.get(..count).unwrap_or_default()),
        }
        let text = lines.take();
        look(&text);
        print(&text, &mut rate, whose);
        if rate.is_pause_due() {
            thread::sleep(DROP_PAUSE);
        }
    }
    let rest = lines.rest();
    look(&rest);
    if let Some(reports) = reports {
        finder.end(reports);
    }
    print(&rest, &mut rate, whose);
    rate.tell(&whose.domain);
}

fn print(text: &[u8], rate: &mut Rate, whose: &Whose) {
    if rate.since.elapsed() >= SECOND {
        rate.tell(&whose.domain);
        *rate = Rate { dropped_at_once: rate.dropped_at_once, ..Rate::new(rate.bytes_max) };
    }
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        if rate.takes(line.len() + 1) {
            whose.log(line);
        }
    }
}

impl Whose {
    /// Logs a line from the process.
    fn log(&self, line: &[u8]) {
        let line = String::from_utf8_lossy(line);
        let line = line.trim_end_matches('\r');
        let Some(found) = relay::decode(line) else {
            return match self.sanitized_module() {
                // A sanitizer writes without the streams of C.
                Some(module) => output::logged(&module, Level::INFO, line),
                None => tracing::info!(target: "module", "{}", labelled(line, &self.domain)),
            };
        };
        if !found.module.is_empty() && self.has_module(found.module) {
            return output::logged(found.module, found.level, found.text);
        }
        let labelled = labelled(found.text, &self.domain);
        let kind = match found.level {
            Level::ERROR => {
                tracing::error!(target: "module", "{labelled}");
                Kind::Error
            }
            Level::WARN => {
                tracing::warn!(target: "module", "{labelled}");
                Kind::Warning
            }
            Level::INFO => {
                tracing::info!(target: "module", "{labelled}");
                Kind::Info
            }
            _ => return tracing::debug!(target: "module", "{labelled}"),
        };
        // A message of the process's own code about a module.
        let text = visible(found.text);
        if let Some(module) = text.strip_prefix("module ").and_then(|rest| self.module_at(rest)) {
            logbook::add(&module, kind, &text);
        }
    }

    /// Whether the domain has the module `name`, or had it recently: scheduled work of the module may print after its
    /// removal.
    fn has_module(&self, name: &str) -> bool {
        let Some(shared) = self.shared.upgrade() else { return false };
        let modules = lock(&shared.modules);
        modules.values().any(|module| module.name == name) || lock(&shared.closed).iter().any(|(_, gone)| gone == name)
    }

    /// The only module of a domain that exists for its sanitizer.
    fn sanitized_module(&self) -> Option<String> {
        if !sanitized::is_one(&self.domain) {
            return None;
        }
        let shared = self.shared.upgrade()?;
        let modules = lock(&shared.modules);
        modules.values().next().map(|module| module.name.clone())
    }

    /// The module of the domain with whose name `text` begins.
    fn module_at(&self, text: &str) -> Option<String> {
        let shared = self.shared.upgrade()?;
        let modules = lock(&shared.modules);
        logbook::about(text, modules.values().map(|module| &module.name)).cloned()
    }
}

/// `text`, escaped, under the name of its domain.
fn labelled(text: &str, domain: &str) -> String {
    format!("domain {domain} | {}", visible(text))
}

/// The output within a second.
struct Rate {
    bytes_max: usize,
    since: Instant,
    bytes: usize,
    dropped: usize,
    dropped_lines: usize,
    /// Bytes dropped since the last pause.
    dropped_at_once: usize,
}

impl Rate {
    fn new(bytes_max: usize) -> Self {
        Self { bytes_max, since: Instant::now(), bytes: 0, dropped: 0, dropped_lines: 0, dropped_at_once: 0 }
    }

    /// Whether a line of so many bytes is within the limit; otherwise it is counted as dropped.
    fn takes(&mut self, bytes: usize) -> bool {
        let takes = self.bytes + bytes <= self.bytes_max;
        if takes {
            self.bytes += bytes;
        } else {
            self.dropped += bytes;
            self.dropped_lines += 1;
            self.dropped_at_once += bytes;
        }
        takes
    }

    /// Whether the thread must pause now. The next pause is due after [`DROPPED_AT_ONCE`] more dropped bytes.
    fn is_pause_due(&mut self) -> bool {
        let is_due = self.dropped_at_once >= DROPPED_AT_ONCE;
        if is_due {
            self.dropped_at_once = 0;
        }
        is_due
    }

    fn tell(&self, domain: &str) {
        if self.dropped > 0 {
            tracing::warn!(
                "{} lines ({} bytes) that domain {domain} printed are dropped: more than {} bytes in a second \
                 (--module-output-bytes-max)",
                self.dropped_lines,
                self.dropped,
                self.bytes_max
            );
        }
    }
}

/// Assembles whole lines from pieces.
#[derive(Default)]
struct Lines {
    bytes: Vec<u8>,
}

impl Lines {
    fn add(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The complete lines; a line that is too long counts as complete.
    fn take(&mut self) -> Vec<u8> {
        let end = self.bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let mut lines: Vec<u8> = self.bytes.drain(..end).collect();
        if self.bytes.len() >= LINE_BYTES_MAX {
            lines.append(&mut self.rest());
        }
        lines
    }

    /// The remaining bytes, as a line.
    fn rest(&mut self) -> Vec<u8> {
        let mut rest = std::mem::take(&mut self.bytes);
        if !rest.is_empty() {
            rest.push(b'\n');
        }
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_its_domain_and_is_one_line() {
        let text = labelled("\x1b[2J2026-01-01 ERROR forged\rx", "a");
        assert_eq!(text, "domain a | \\u{1b}[2J2026-01-01 ERROR forged\\rx");
    }

    #[test]
    fn only_dropped_output_is_read_slowly() {
        let mut rate = Rate::new(2 * DROPPED_AT_ONCE);
        for _ in 0..2 {
            assert!(rate.takes(DROPPED_AT_ONCE) && !rate.is_pause_due(), "within the limit");
        }
        for due in [false, true, false, true] {
            assert!(!rate.takes(DROPPED_AT_ONCE / 2));
            assert_eq!(rate.is_pause_due(), due);
        }
        assert_eq!((rate.dropped, rate.dropped_lines), (2 * DROPPED_AT_ONCE, 4));
    }

    #[test]
    fn lines_stay_whole_and_have_an_end() {
        let mut lines = Lines::default();
        lines.add(b"one\ntw");
        assert_eq!(lines.take(), b"one\n");
        lines.add(b"o");
        assert_eq!(lines.take(), b"");
        lines.add(b"\nthree");
        assert_eq!(lines.take(), b"two\n");
        for _ in 0..3 {
            lines.add(&[b'x'; LINE_BYTES_MAX]);
            let taken = lines.take();
            assert!(taken.len() <= 2 * LINE_BYTES_MAX + 1 && taken.ends_with(b"x\n"), "{}", taken.len());
        }
        assert_eq!(lines.rest(), b"");
        lines.add(b"end");
        assert_eq!(lines.rest(), b"end\n");
    }
}
