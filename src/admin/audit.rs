//! Who did what to this server: lines of the log with the target `audit`, and what was refused to whom.
//!
//! Text from outside is logged as fields, which the log quotes and escapes: no name of a module and no path can end a
//! line or look like another field. What strangers can bring about is limited to some lines a minute.

use super::keys::LOOPBACK;
use crate::module::reach::Reach;
use crate::net::Peer;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Longest text of a field.
const TEXT_BYTES_MAX: usize = 256;

/// Lines that a [`Throttle`] lets pass in a window.
const LINES_MAX: u32 = 20;
const WINDOW_MS: u64 = 60_000;

/// Who a request is from, once it has been let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// Somebody on this machine, in development.
    Loopback,
    /// The owner of the key of this name; the request may concern the modules within the reach.
    Key(Arc<str>, Reach),
}

impl Who {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Loopback => LOOPBACK,
            Self::Key(name, _) => name,
        }
    }

    /// The modules that the request may be about.
    #[must_use]
    pub fn reach(&self) -> Reach {
        match self {
            Self::Loopback => Reach::All,
            Self::Key(_, reach) => reach.clone(),
        }
    }
}

/// Who does something, and from where.
#[derive(Debug, Clone)]
pub(super) struct Actor {
    pub(super) who: Who,
    pub(super) from: Peer,
    /// Nobody else may deploy: there is one key, or none.
    pub(super) is_alone: bool,
}

/// What became of an action that was asked for.
pub(super) struct Outcome<'a> {
    /// What was asked for: `deploy`, `remove`, `restart`.
    pub(super) action: &'a str,
    /// The module, if its name is known.
    pub(super) module: Option<&'a str>,
    /// SHA-256 of the source, if there is one.
    pub(super) hash: Option<&'a str>,
    /// The domain it is deployed into.
    pub(super) domain: Option<&'a str>,
    /// One word.
    pub(super) result: &'a str,
    /// Status of the answer.
    pub(super) status: u16,
    /// Why it was refused.
    pub(super) reason: Option<&'a str>,
}

/// What is logged of an action that was refused.
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
    /// Logs what became of an action on modules.
    pub(super) fn log(&self, outcome: &Outcome<'_>) {
        line(self.who.as_str(), &self.from, outcome);
    }

    /// Logs what became of an action on the job `uuid`.
    pub(super) fn log_job(&self, action: &'static str, uuid: &str, status: u16) {
        let (who, from) = (self.who.as_str(), self.from.to_string());
        tracing::info!(target: "audit", who, from, job = cut(uuid), status, "{action}");
    }

    /// Logs the result of an action on a blob.
    pub(super) fn log_blob(&self, action: &'static str, blob: &str, status: u16) {
        let (who, from) = (self.who.as_str(), self.from.to_string());
        tracing::info!(target: "audit", who, from, blob = cut(blob), status, "{action}");
    }

    /// Logs that a job was asked for, and its UUID if it was taken. For those who watch closely: there may be thousands a
    /// second.
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

/// At most the first bytes of `text`.
fn cut(text: &str) -> &str {
    let end = (0..=TEXT_BYTES_MAX.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    end.and_then(|end| text.get(..end)).unwrap_or_default()
}

/// A request that was not let in.
pub(super) struct Refused<'a> {
    pub(super) why: &'static str,
    /// The key's name, if it is known.
    pub(super) key: Option<&'a str>,
    pub(super) from: &'a Peer,
    pub(super) method: &'static str,
    pub(super) path: &'a str,
    pub(super) status: u16,
    /// What it would have done to modules, and the name of the one if the path has it.
    pub(super) action: Option<(&'static str, Option<&'a str>)>,
}

impl Refused<'_> {
    /// Logs a warning, and an audit line if a module was concerned.
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

/// Lets some lines a minute pass and counts the others.
#[derive(Default)]
pub(super) struct Throttle {
    window: Mutex<Window>,
    /// Lines that have not been told of; beside the lock, since it is looked at all the time.
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
        // The first one begins with its first line.
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

    /// Lines left out in a window that has ended, once.
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
        assert_eq!(throttle.left_out(60_004), None, "its window has not ended");
        assert_eq!(throttle.left_out(60_005), Some(1980));
        assert_eq!(throttle.left_out(60_006), None, "it is told once");
        assert_eq!(passed(60_006), 20);
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(cut("short"), "short");
        assert_eq!(cut(&"ä".repeat(300)).len(), 256);
        assert_eq!(cut(&format!("x{}", "ä".repeat(300))).len(), 255);
    }
}
