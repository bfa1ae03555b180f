//! The signals that the server handles.

use signal_hook::consts::{SIGHUP, SIGINT, SIGPIPE, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;
use std::io;
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Interval between two checks for the end of a thread.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// Catches the signals that stop the server, and SIGHUP, which makes it read files again. Other signals are caught only because
/// their default action ends the process: a closed peer and a file at its size limit are errors of the call that met them.
pub(super) struct StopSignals {
    signals: Signals,
    /// SIGHUP arrived while no thread waited for it.
    reload_asked: bool,
}

fn is_stop(signal: i32) -> bool {
    signal == SIGTERM || signal == SIGINT
}

impl StopSignals {
    /// Catches the signals from now on.
    pub(super) fn catch() -> io::Result<Self> {
        let signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGPIPE, SIGXFSZ])?;
        Ok(Self { signals, reload_asked: false })
    }

    /// Whether a stop was requested since the last call.
    pub(super) fn stop_asked(&mut self) -> bool {
        let mut asked = false;
        for signal in self.signals.pending() {
            asked |= is_stop(signal);
            self.reload_asked |= signal == SIGHUP;
        }
        asked
    }

    /// Waits until a stop is requested; calls `reload` for each SIGHUP.
    pub(super) fn wait_for_stop(&mut self, mut reload: impl FnMut()) {
        if std::mem::take(&mut self.reload_asked) {
            reload();
        }
        for signal in self.signals.forever() {
            if is_stop(signal) {
                return;
            }
            if signal == SIGHUP {
                reload();
            }
        }
    }

    /// Waits for the end of `thread`. Returns false if a stop was requested first.
    pub(super) fn let_end<T>(&mut self, thread: &JoinHandle<T>) -> bool {
        while !thread.is_finished() {
            if self.stop_asked() {
                return false;
            }
            thread::sleep(LOOK_EVERY);
        }
        true
    }
}
