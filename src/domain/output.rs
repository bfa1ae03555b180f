//! The output of modules: lines in the server's log under the module's name.
//!
//! The C side replaces `stdout` and `stderr` by streams that call [`sink`] on the printing thread, so that the thread
//! identifies the module.

use super::process::relay;
use crate::abi::visible::visible;
use crate::logbook::{self, Kind};
use std::cell::RefCell;
use std::ffi::{c_char, c_void};
use tracing::Level;

/// Limit, in bytes, on a line; longer lines are split, so that a module can't make the server hold an endless line.
const LINE_BYTES_MAX: usize = 4 * 1024;

#[derive(Default)]
struct Printing {
    module: Option<String>,
    line: Vec<u8>,
}

thread_local! {
    static PRINTING: RefCell<Printing> = const { RefCell::new(Printing { module: None, line: Vec::new() }) };
}

/// Creates the thread-local state of the calling thread; see [`super::executor::prepare_thread`].
pub(super) fn ready() {
    let _ = PRINTING.try_with(|_| ());
}

/// Runs `body`; output of the thread during this time belongs to `module`.
pub(super) fn attributed<T>(module: &str, body: impl FnOnce() -> T) -> T {
    enter(module);
    let value = body();
    leave();
    value
}

/// Copies the name only if the thread last ran another module.
fn enter(module: &str) {
    PRINTING.with_borrow_mut(|printing| {
        if printing.module.as_deref() != Some(module) {
            printing.module = Some(module.to_owned());
        }
    });
}

fn leave() {
    PRINTING.with_borrow_mut(|printing| {
        if !printing.line.is_empty() {
            printing.emit();
        }
    });
}

impl Printing {
    fn emit(&mut self) {
        let text = String::from_utf8_lossy(&self.line);
        let text = text.trim_end_matches('\r');
        match &self.module {
            Some(module) => said(module, Level::INFO, text),
            None => tracing::info!(target: "module", "[a module's thread] {}", visible(text)),
        }
        self.line.clear();
    }

    fn write(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            let (text, ended) = match piece.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (piece, false),
            };
            for chunk in text.chunks(LINE_BYTES_MAX) {
                if self.line.len() + chunk.len() > LINE_BYTES_MAX {
                    self.emit();
                }
                self.line.extend_from_slice(chunk);
            }
            if ended {
                self.emit();
            }
        }
    }
}

/// Handles a line that `module` has printed or logged.
pub(super) fn said(module: &str, level: Level, text: &str) {
    // The server escapes the line and adds it to the module's log.
    if relay::is_on() {
        return relay::said(module, level, text);
    }
    logged(module, level, text);
}

/// Adds a line to the log of `module` and to the server's log.
pub(super) fn logged(module: &str, level: Level, text: &str) {
    let text = visible(text);
    let kind = match level {
        Level::ERROR => Kind::Error,
        Level::WARN => Kind::Warning,
        Level::INFO => Kind::Printed,
        _ => return tracing::debug!(target: "module", "[{module}] {text}"),
    };
    logbook::add(module, kind, &text);
    match kind {
        Kind::Error => tracing::error!(target: "module", "[{module}] {text}"),
        Kind::Warning => tracing::warn!(target: "module", "[{module}] {text}"),
        _ => tracing::info!(target: "module", "[{module}] {text}"),
    }
}

/// Called by the C streams with output of this thread.
///
/// # Safety
/// `bytes` must have `len` readable bytes.
pub(super) unsafe extern "C" fn sink(_user: *mut c_void, bytes: *const c_char, len: usize) {
    if bytes.is_null() || len == 0 {
        return;
    }
    // SAFETY: the caller's contract.
    let bytes = unsafe { std::slice::from_raw_parts(bytes.cast::<u8>(), len) };
    // A thread that is ending, or that prints while it is printing (after a fault in the sink), loses only this text.
    let _ = PRINTING.try_with(|printing| {
        if let Ok(mut printing) = printing.try_borrow_mut() {
            printing.write(bytes);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_at_the_limit_and_nothing_is_lost_meanwhile() {
        let mut printing = Printing::default();
        printing.write(b"abc");
        assert_eq!(printing.line, b"abc");
        printing.write(b"def\nrest");
        assert_eq!(printing.line, b"rest");
        printing.write(&vec![b'x'; 3 * LINE_BYTES_MAX]);
        assert!(printing.line.len() <= LINE_BYTES_MAX);
    }
}
