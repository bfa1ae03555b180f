//! What is known of a crash.

use super::core_files::CoreFile;
use serde::Serialize;

/// A crash of module code, or of the process that it was in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CrashReport {
    /// The module whose code it was, or that was being loaded; none if that is not known.
    pub modules: Vec<String>,
    /// How, for people: `SIGSEGV at address 0x0`, `SIGKILL`, `it ended with code 3`, `it ran out of memory: …`.
    pub what: String,
    /// The signal's number.
    pub signal: Option<i32>,
    /// The address accessed, for SIGSEGV and SIGBUS.
    pub address: Option<u64>,
    /// Where: `function+0x12 (module.c:7)`, if it was in the code of a module.
    pub frame: Option<String>,
    /// The functions that led there, the innermost first: `copy (src/main.c:7)`, as far as they are the module's.
    pub backtrace: Vec<String>,
    /// The registers by their names.
    pub registers: Vec<(String, u64)>,
    /// Which version of the module it was.
    pub version: Option<u64>,
    /// In which of the module's functions, where that is known: `a handler (GET /x)`, `onload`.
    pub place: Option<String>,
    /// The signal was caught and the call answered; otherwise the process died.
    pub caught: bool,
    /// When, in ms since 1970.
    pub at_ms: u64,
    /// The process.
    pub pid: u32,
    /// Its core file, if it has left one.
    pub core: Option<CoreFile>,
}

impl CrashReport {
    /// What happened and where, in one line.
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
