//! The lines of a module that its tests have executed, as gcov counts them.
//!
//! The module writes the counters, so gcov may read any bytes: it runs in a sandbox.

use super::tools;
use crate::domain::inspect;
use crate::domain::sandbox::{self, Policy, program};
use crate::net;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

/// Limit on the time of a gcov run.
const LIMIT: Duration = Duration::from_secs(60);
const MEMORY_BYTES_MAX: u64 = 1024 * 1024 * 1024;
const OPEN_FILES_MAX: u64 = 64;
/// Limit on the ranges of lines that are listed.
const RANGES_MAX: usize = 12;

/// The output of gcov (gcov(1), `--json-format`).
#[derive(Deserialize)]
struct Counted {
    files: Vec<CountedFile>,
}

#[derive(Deserialize)]
struct CountedFile {
    file: String,
    lines: Vec<CountedLine>,
}

#[derive(Deserialize)]
struct CountedLine {
    line_number: u32,
    count: u64,
}

/// The counts of one file, by line.
type Lines = BTreeMap<u32, u64>;

/// The variables that make a module write its counters below `counters`; the module was compiled in `dir`.
#[must_use]
pub fn environment(dir: &Path, counters: &Path) -> Vec<(String, String)> {
    // The names of the counters are absolute; the root is not counted among the stripped parts.
    let parts = dir.components().count().saturating_sub(1);
    vec![
        ("GCOV_PREFIX".to_owned(), counters.display().to_string()),
        ("GCOV_PREFIX_STRIP".to_owned(), parts.to_string()),
    ]
}

/// A table of the executed lines of `files`. The module was compiled in `dir`; `shown` returns the name of a file for people.
///
/// # Errors
/// A text for people: gcov is not installed, or fails.
pub fn table(dir: &Path, counters: &Path, files: &[String], shown: impl Fn(&str) -> String) -> Result<String, String> {
    let gcov = gcov()?;
    let mut notes = Vec::new();
    collect_notes(dir, Path::new(""), &mut notes).map_err(|error| error.to_string())?;
    let mut all: BTreeMap<String, Lines> = BTreeMap::new();
    for note in notes {
        let target = counters.join(&note);
        target.parent().map_or(Ok(()), fs::create_dir_all).map_err(|error| error.to_string())?;
        fs::copy(dir.join(&note), &target).map_err(|error| error.to_string())?;
        for counted in count(&gcov, counters, &target)?.files.into_iter().filter(|file| files.contains(&file.file)) {
            let lines = all.entry(counted.file).or_default();
            for line in counted.lines {
                *lines.entry(line.line_number).or_default() += line.count;
            }
        }
    }
    Ok(format_table(&all, shown))
}

/// The gcov that belongs to the compiler.
///
/// # Errors
/// A text for people: there is no gcov.
pub fn gcov() -> Result<PathBuf, String> {
    let compiler = std::env::var("CC").unwrap_or_default();
    if compiler.contains("clang") {
        return Err("coverage is counted by gcc and gcov; CC names clang".to_owned());
    }
    let name = compiler.rsplit('/').next().filter(|name| name.contains("gcc")).unwrap_or("gcc");
    tools::find(&name.replacen("gcc", "gcov", 1), "gcc")
}

/// Collects the compiler's notes below `dir`, with paths relative to it.
fn collect_notes(dir: &Path, below: &Path, notes: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(dir.join(below))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            collect_notes(dir, &path, notes)?;
        } else if kind.is_file() && path.extension().is_some_and(|extension| extension == "gcno") {
            notes.push(path);
        }
    }
    Ok(())
}

fn count(gcov: &Path, counters: &Path, note: &Path) -> Result<Counted, String> {
    let policy = Policy {
        read: sandbox::system_paths().into_iter().chain([counters.to_path_buf()]).collect(),
        write: vec!["/dev/null".into()],
        execute: sandbox::compiler_paths(gcov),
        exec_allowed: true,
        memory_bytes_max: Some(MEMORY_BYTES_MAX),
        cpu_seconds_max: Some(LIMIT.as_secs()),
        file_bytes_max: Some(0),
        open_files_max: Some(OPEN_FILES_MAX),
        ..Policy::default()
    };
    let failed = |error: String| format!("gcov: {error}");
    let mut command = program::command(&policy, gcov.as_os_str()).map_err(|error| failed(error.to_string()))?;
    command.args(["--json-format", "--stdout"]).arg(note).current_dir(counters).process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let child = net::keep_descriptors_from(&mut command).spawn();
    let mut child = child.map_err(|error| failed(error.to_string()))?;
    let report = inspect::read_report(&mut child, LIMIT);
    inspect::end(&mut child, report.is_none()).map_err(|error| failed(error.to_string()))?;
    let report = report.ok_or_else(|| failed(format!("it did not end within {} s", LIMIT.as_secs())))?;
    // gcov prints one object for each file of notes; this run has one file.
    serde_json::from_slice(&report).map_err(|error| failed(format!("its output can't be read: {error}")))
}

/// Lines without a count, as ranges.
fn missed(lines: &Lines) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    let mut follows = false;
    for (line, count) in lines {
        match ranges.last_mut() {
            _ if *count > 0 => {}
            Some((_, end)) if follows => *end = *line,
            _ => ranges.push((*line, *line)),
        }
        follows = *count == 0;
    }
    let text = |(first, last): &(u32, u32)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    let mut shown: Vec<String> = ranges.iter().take(RANGES_MAX).map(text).collect();
    if ranges.len() > RANGES_MAX {
        shown.push("...".to_owned());
    }
    shown.join(", ")
}

fn row(name: &str, width: usize, executed: usize, all: usize, missed: &str) -> String {
    let percent = if all == 0 { 100.0 } else { executed as f64 * 100.0 / all as f64 };
    format!("{name:width$}  {all:>6}  {executed:>8}  {percent:>6.1} %  {missed}").trim_end().to_owned() + "\n"
}

fn format_table(all: &BTreeMap<String, Lines>, shown: impl Fn(&str) -> String) -> String {
    let names: Vec<String> = all.keys().map(|file| shown(file)).collect();
    let width = names.iter().map(String::len).chain(["all".len()]).max().unwrap_or(0);
    let mut text = format!("{:width$}  {:>6}  {:>8}  {:>8}  not executed\n", "file", "lines", "executed", "share");
    let (mut lines_sum, mut executed_sum) = (0, 0);
    for (name, lines) in names.iter().zip(all.values()) {
        let executed = lines.values().filter(|count| **count > 0).count();
        lines_sum += lines.len();
        executed_sum += executed;
        text.push_str(&row(name, width, executed, lines.len(), &missed(lines)));
    }
    text + &row("all", width, executed_sum, lines_sum, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_were_not_executed_are_ranges() {
        let lines = Lines::from([(1, 1), (2, 0), (3, 0), (7, 0), (8, 2), (9, 0)]);
        assert_eq!(missed(&lines), "2-7, 9");
        let text = format_table(&BTreeMap::from([("a.c".to_owned(), lines)]), str::to_owned);
        assert!(text.contains("a.c       6         2    33.3 %  2-7, 9\n"), "{text}");
    }
}
