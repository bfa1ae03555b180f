//! A request whose answer is reported to the readers of its module's log.

use crate::logbook;
use std::time::Instant;

/// The number of bytes at the beginning of an answer up to and including the status.
pub(super) const STATUS_BYTES: usize = 12;
/// A request that will be logged when it is answered.
pub(super) struct Trace {
    seq: u64,
    module: String,
    /// Method and target.
    what: String,
    begun: Instant,
    /// The number of unsent bytes of the connection before the request.
    at: usize,
}

impl Trace {
    /// Begins a trace now. `at`: the number of unsent bytes of the connection before the request.
    pub(super) fn new(seq: u64, module: String, what: String, at: usize) -> Self {
        Self { seq, module, what, begun: Instant::now(), at }
    }

    /// The number of the trace's request.
    pub(super) fn seq(&self) -> u64 {
        self.seq
    }

    /// The part of the connection's unsent bytes that is the answer.
    pub(super) fn answer_in<'a>(&self, unsent: &'a [u8]) -> &'a [u8] {
        unsent.get(self.at..).unwrap_or_default()
    }

    pub(super) fn tell(&self, answer: &[u8], more: &str) {
        let status = answer.get(STATUS_BYTES - 3..STATUS_BYTES).and_then(|digits| std::str::from_utf8(digits).ok());
        self.tell_status(status.unwrap_or("-"), more);
    }

    pub(super) fn tell_status(&self, status: &str, more: &str) {
        let ms = self.begun.elapsed().as_secs_f64() * 1_000.0;
        logbook::request(&self.module, &format!("{} {status} {ms:.1} ms{more}", self.what));
    }
}
