//! The audit log: lines with the target `audit` about actions and refusals, with their actors.
//!
//! Text from outside is logged as fields, which the log quotes and escapes: no module name and no path can end a line or
//! imitate another field. Lines that unauthenticated clients can cause are limited to some lines a minute.

use super::keys::LOOPBACK;
use crate::module::reach::Reach;
use crate::net::Peer;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Limit, in bytes, on the text of a field.
const TEXT_BYTES_MAX: usize = 256;

/// Limit on the lines that a [`Throttle`] passes in a window.
const LINES_MAX: u32 = 20;
const WINDOW_MS: u64 = 60_000;

/// The actor of an admitted request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// A user of this machine, in development.
    Loopback,
    /// The owner of the key with this name; the request may concern the modules within the reach.
    Key(Arc<str>, Reach),
}

impl Who {
    /// The actor's name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Loopback => LOOPBACK,
            Self::Key(name, _) => name,
        }
    }

    /// The modules that the request may concern.
    #[must_use]
    pub fn reach(&self) -> Reach {
        match self {
            Self::Loopback => Reach::All,
            Self::Key(_, reach) => reach.clone(),
        }
    }
}

/// The actor of an operation, and its address.
#[derive(Debug, Clone)]
pub(super) struct Actor {
    pub(super) who: Who,
    pub(super) from: Peer,
    /// No other actor may deploy: there is one key, or none.
    pub(super) is_alone: bool,
}

/// The result of a requested operation.
pub(super) struct Outcome<'a> {
    /// The operation: `deploy`, `remove`, `restart`.
    pub(super) action: &'a str,
    /// The module, if its name is known.
    pub(super) module: Option<&'a str>,
    /// SHA-256 of the source, if there is one.
    pub(super) hash: Option<&'a str>,
    /// The domain of the deployment.
    pub(super) domain: Option<&'a str>,
    /// The result, as one word.
    pub(super) result: &'a str,
    /// The status of the answer.
    pub(super) status: u16,
    /// Why the operation was refused.
    pub(super) reason: Option<&'a str>,
}

/// The audit record of a refused operation.
pub(super) fn not_done<'a>(
    action: &'a str,
    module: Option<&'a str>,
    hash: Option<&'a str>,
    status: u16,
    reason: Option<&'a str>,
) -> Outcome<'a> {
    Outcome { action, module, hash, domain: None, result: "refused", status, reason }
}

impl Actor {
    /// Logs the result of an operation on modules.
    pub(super) fn log(&self, outcome: &Outcome<'_>) {
        line(self.who.as_str(), &self.from, outcome);
    }

    /// Logs the result of an operation on the job `uuid`.
    pub(super) fn log_job(&self, action: &'static str, uuid: &str, status: u16) {
        let (who, from) = (self.who.as_str(), self.from.to_string());
        tracing::info!(target: "audit", who, from, job = cut(uuid), status, "{action}");
    }

    /// Logs the result of an operation on a blob.
    pub(super) fn log_blob(&self, action: &'static str, blob: &str, status: u16) {
        let (who, from) = (self.who.as_str(), self.from.to_string());
        tracing::info!(target: "audit", who, from, blob = cut(blob), status, "{action}");
    }

    /// Logs the submission of a job, and its UUID if the job was accepted. The level is low, because there may be thousands of
    /// submissions a second.
    pub(super) fn log_submission(&self, uuid: Option<&str>) {
        if tracing::enabled!(target: "audit", tracing::Level::DEBUG) {
            let (who, from) = (self.who.as_str(), self.from.to_string());
            let result = if uuid.is_some() { "created" } else { "refused" };
            tracing::debug!(target: "audit", who, from, job = uuid, result, "create job");
        }
    }
}

fn line(who: &str, from: &Peer, outcome: &Outcome<'_>) {
    let Outcome { action, module, hash, domain, result, status, reason } = *outcome;
    let (from, module, reason) = (from.to_string(), module.map(cut), reason.map(cut));
    tracing::info!(target: "audit", who, from, module, hash, domain, result, status, reason, "{action}");
}

/// The first bytes of `text`, up to the limit.
fn cut(text: &str) -> &str {
    let end = (0..=TEXT_BYTES_MAX.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    end.and_then(|end| text.get(..end)).unwrap_or_default()
}

/// A refused request.
pub(super) struct Refused<'a> {
    pub(super) why: &'static str,
    /// The name of the key, if it is known.
    pub(super) key: Option<&'a str>,
    pub(super) from: &'a Peer,
    pub(super) method: &'static str,
    pub(super) path: &'a str,
    pub(super) status: u16,
    /// The requested operation on modules, and the module's name if the path has it.
    pub(super) action: Option<(&'static str, Option<&'a str>)>,
}

impl Refused<'_> {
    /// Logs a warning, and an audit line if the request concerned a module.
    pub(super) fn log(&self) {
        let Self { why, key, method, status, .. } = *self;
        let (from, path) = (self.from.to_string(), cut(self.path));
        tracing::warn!(from, method, path, key, "access refused: {why}");
        if let Some((action, module)) = self.action {
            let reason = Some(why);
            let outcome = Outcome { action, module, hash: None, domain: None, result: "refused", status, reason };
            line(key.unwrap_or("nobody"), self.from, &outcome);
        }
    }
}

/// Passes a limited number of lines a minute and counts the others.
#[derive(Default)]
pub(super) struct Throttle {
    window: Mutex<Window>,
    /// Omitted lines that have not been reported. The counter lies outside the lock, because `left_out` is called all the time.
    left_out: AtomicU64,
}

#[derive(Default)]
struct Window {
    since_ms: u64,
    lines: u32,
}

impl Throttle {
    /// Whether a line may be logged now.
    pub(super) fn pass(&self, now_ms: u64) -> bool {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        // The first window begins with its first line.
        if window.lines == 0 || now_ms >= window.since_ms + WINDOW_MS {
            *window = Window { since_ms: now_ms, lines: 0 };
        }
        window.lines += u32::from(window.lines < LINES_MAX + 1);
        let passes = window.lines <= LINES_MAX;
        if !passes {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
        passes
    }

    /// The number of lines omitted in a window that has ended. Each is reported once.
    pub(super) fn left_out(&self, now_ms: u64) -> Option<u64> {
        if self.left_out.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        if now_ms < window.since_ms + WINDOW_MS {
            return None;
        }
        Some(self.left_out.swap(0, Ordering::Relaxed)).filter(|count| *count > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_a_few_lines_and_a_number() {
        let throttle = Throttle::default();
        let passed = |now_ms| (0..1000).filter(|_| throttle.pass(now_ms)).count();
        assert_eq!(passed(5), 20);
        assert_eq!(passed(60_004), 0);
        assert_eq!(throttle.left_out(60_004), None, "the window of the omitted lines has not ended");
        assert_eq!(throttle.left_out(60_005), Some(1980));
        assert_eq!(throttle.left_out(60_006), None, "the number is reported once");
        assert_eq!(passed(60_006), 20);
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(cut("short"), "short");
        assert_eq!(cut(&"ä".repeat(300)).len(), 256);
        assert_eq!(cut(&format!("x{}", "ä".repeat(300))).len(), 255);
    }
}
