//! Finds sanitizer reports in the output of a domain's processes.

use super::lock;
use crate::domain::sanitized;
use std::collections::VecDeque;
use std::sync::Mutex;

/// Limit on the kept reports of a domain.
const REPORTS_MAX: usize = 10;
/// Limit on the kept bytes of a report.
const REPORT_BYTES_MAX: usize = 16 * 1024;

/// The last reports of a domain.
#[derive(Debug, Default)]
pub(super) struct Reports(Mutex<VecDeque<String>>);

impl Reports {
    fn add(&self, text: String) {
        let mut kept = lock(&self.0);
        if kept.len() >= REPORTS_MAX {
            kept.pop_front();
        }
        kept.push_back(text);
    }

    /// The reports, oldest first.
    pub(super) fn all(&self) -> Vec<String> {
        lock(&self.0).iter().cloned().collect()
    }

    /// The summary of the last report, in one line.
    pub(super) fn last_summary(&self) -> Option<String> {
        lock(&self.0).back().map(|report| summary(report))
    }
}

/// The summary of a report, in one line.
fn summary(report: &str) -> String {
    let undefined = || report.lines().find(|line| line.contains(": runtime error: "));
    let line = || undefined().or_else(|| report.lines().next()).unwrap_or_default().trim().to_owned();
    sanitized::headline(report).unwrap_or_else(line)
}

/// Finds reports in the lines of one process.
#[derive(Default)]
pub(super) struct Finder {
    report: Option<Report>,
}

struct Report {
    text: String,
    /// Whether the report ends with its stack; other reports end with their summary.
    is_undefined: bool,
}

impl Finder {
    /// Examines the next line.
    pub(super) fn line(&mut self, line: &str, reports: &Reports) {
        let is_undefined = line.contains(": runtime error: ");
        let begins =
            is_undefined || line.contains("ERROR: AddressSanitizer:") || line.contains("ERROR: LeakSanitizer:");
        if self.report.as_ref().is_some_and(|report| report.is_undefined && !line.trim_start().starts_with('#'))
            || begins
        {
            self.end(reports);
        }
        if begins {
            self.report = Some(Report { text: String::new(), is_undefined });
        }
        let Some(report) = &mut self.report else { return };
        // The dump of the shadow memory does not help an author; bytes beyond the limit are left out.
        if report.text.len() + line.len() < REPORT_BYTES_MAX {
            report.text.push_str(&without_scratch(line));
            report.text.push('\n');
        }
        if line.starts_with("SUMMARY: ") {
            self.end(reports);
        }
    }

    /// Ends the search after the last line.
    pub(super) fn end(&mut self, reports: &Reports) {
        if let Some(report) = self.report.take() {
            reports.add(report.text);
        }
    }
}

/// A line without the compiler's working directory, which has been removed, so that file names are the author's.
fn without_scratch(line: &str) -> String {
    let Some(at) = line.find("/.scratch/") else { return line.to_owned() };
    let (before, rest) = line.split_at(at);
    let start = before.rfind([' ', '(']).map_or(0, |space| space + 1);
    let behind = rest.get("/.scratch/".len()..).and_then(|rest| rest.split_once('/')).map_or(rest, |(_, file)| file);
    format!("{}{behind}", before.get(..start).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_found_among_other_lines() {
        let (reports, mut finder) = (Reports::default(), Finder::default());
        for line in [
            "[m] before",
            "==7==ERROR: AddressSanitizer: heap-buffer-overflow on address 0x1",
            "    #0 0x1 in copy /data/.scratch/17/src/main.c:10",
            "SUMMARY: AddressSanitizer: heap-buffer-overflow src/main.c:10 in copy",
            "[m] between",
            "/data/.scratch/17/module.c:26:57: runtime error: shift exponent 40",
            "    #0 0x1 in shift /data/.scratch/17/module.c:26",
            "[m] after",
        ] {
            finder.line(line, &reports);
        }
        finder.end(&reports);
        let all = reports.all();
        assert_eq!(all.len(), 2, "{all:?}");
        assert!(all[0].contains("in copy src/main.c:10\n") && !all[0].contains("between"), "{}", all[0]);
        assert_eq!(all[1], "module.c:26:57: runtime error: shift exponent 40\n    #0 0x1 in shift module.c:26\n");
        assert_eq!(reports.last_summary().unwrap(), "module.c:26:57: runtime error: shift exponent 40");
        for number in 0..20 {
            finder.line(&format!("a.c:{number}:1: runtime error: x"), &reports);
        }
        assert_eq!(reports.all().len(), REPORTS_MAX);
    }
}
