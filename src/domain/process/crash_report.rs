//! The report of a crash.

use super::core_files::CoreFile;
use serde::Serialize;

/// A crash of module code, or of its process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CrashReport {
    /// The module whose code crashed, or that was being loaded; empty if that is unknown.
    pub modules: Vec<String>,
    /// The description, for people: `SIGSEGV at address 0x0`, `SIGKILL`, `it ended with code 3`, `it ran out of memory: …`.
    pub what: String,
    /// The signal's number.
    pub signal: Option<i32>,
    /// The accessed address, for SIGSEGV and SIGBUS.
    pub address: Option<u64>,
    /// The position: `function+0x12 (module.c:7)`, if it was in the code of a module.
    pub frame: Option<String>,
    /// The functions that led there, the innermost first: `copy (src/main.c:7)`, as far as they are the module's.
    pub backtrace: Vec<String>,
    /// The registers, by name.
    pub registers: Vec<(String, u64)>,
    /// The version of the module.
    pub version: Option<u64>,
    /// The module's function, if it is known: `a handler (GET /x)`, `onload`.
    pub place: Option<String>,
    /// Whether the signal was caught and the call answered; otherwise the process died.
    pub caught: bool,
    /// The time, in ms since 1970.
    pub at_ms: u64,
    /// The process id.
    pub pid: u32,
    /// The core file, if the process has left one.
    pub core: Option<CoreFile>,
}

impl CrashReport {
    /// The description and the position, in one line.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut text = self.what.clone();
        for (word, part) in [("at", &self.frame), ("in", &self.place)] {
            if let Some(part) = part {
                text.push_str(&format!(" {word} {part}"));
            }
        }
        text
    }
}
