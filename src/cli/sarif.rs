//! Diagnostics as SARIF 2.1.0 (OASIS), for editors and CI.

use super::client::escaped;
use serde_json::{Value, json};
use std::path::Path;

const SCHEMA: &str = "https://json.schemastore.org/sarif-2.1.0.json";

/// Collects the diagnostics of several files and directories.
#[derive(Default)]
pub(super) struct Report {
    results: Vec<Value>,
    rules: Vec<String>,
    failed: bool,
}

/// A diagnostic and its place.
#[derive(Debug, PartialEq, Eq)]
struct Found<'a> {
    /// File, line and column, as far as they are known.
    place: Option<(&'a str, u64, Option<u64>)>,
    level: &'static str,
    text: &'a str,
    /// The flag that enables the warning.
    rule: Option<&'a str>,
}

impl Report {
    /// Adds the compiler's output `said` about `file`; file names in it are relative to a project's directory. With
    /// `is_refused`, the report gets an error even if `said` contains none that can be parsed.
    pub(super) fn add(&mut self, file: &Path, said: &str, is_refused: bool) {
        let found: Vec<Found<'_>> = said.lines().filter_map(diagnostic).collect();
        let has_error = found.iter().any(|found| found.level == "error");
        for found in &found {
            self.push(file, found);
        }
        if is_refused && !has_error {
            self.push(file, &Found { place: None, level: "error", text: said.trim(), rule: None });
        }
        self.failed |= is_refused;
    }

    fn push(&mut self, file: &Path, found: &Found<'_>) {
        let (path, region) = match found.place {
            Some((name, line, column)) => {
                // A diagnostic in a project names a file below its directory; a diagnostic in a system header has an
                // absolute path.
                let path = if file.is_dir() { file.join(name) } else { name.into() };
                let mut region = json!({ "startLine": line });
                if let (Some(column), Some(region)) = (column, region.as_object_mut()) {
                    region.insert("startColumn".to_owned(), column.into());
                }
                (path, Some(region))
            }
            None => (file.to_path_buf(), None),
        };
        let text = path.to_string_lossy();
        let uri: Vec<String> = text.trim_start_matches("./").split('/').map(escaped).collect();
        let mut place = json!({ "artifactLocation": { "uri": uri.join("/") } });
        if let (Some(region), Some(place)) = (region, place.as_object_mut()) {
            place.insert("region".to_owned(), region);
        }
        let mut result = json!({
            "level": found.level,
            "message": { "text": found.text },
            "locations": [{ "physicalLocation": place }],
        });
        if let (Some(rule), Some(result)) = (found.rule, result.as_object_mut()) {
            result.insert("ruleId".to_owned(), rule.into());
            if !self.rules.iter().any(|known| known == rule) {
                self.rules.push(rule.to_owned());
            }
        }
        self.results.push(result);
    }

    /// The SARIF log.
    pub(super) fn json(&self) -> Value {
        let rules: Vec<Value> = self.rules.iter().map(|rule| json!({ "id": rule })).collect();
        json!({
            "$schema": SCHEMA,
            "version": "2.1.0",
            "runs": [{
                "tool": { "driver": { "name": "cweb", "version": env!("CARGO_PKG_VERSION"), "rules": rules } },
                "invocations": [{ "executionSuccessful": !self.failed }],
                "results": self.results,
            }],
        })
    }
}

/// Parses a line of the compiler's or the server's output; `None`: the line is not a diagnostic.
fn diagnostic(line: &str) -> Option<Found<'_>> {
    const LEVELS: [(&str, &str); 4] =
        [("fatal error: ", "error"), ("error: ", "error"), ("warning: ", "warning"), ("note: ", "note")];
    // An excerpt of the source is indented.
    if line.starts_with([' ', '\t']) {
        return None;
    }
    let (at, word, level) = LEVELS
        .iter()
        .filter_map(|(word, level)| Some((line.find(word)?, *word, *level)))
        .min_by_key(|(at, _, _)| *at)?;
    let (before, text) = (line.get(..at)?, line.get(at + word.len()..)?);
    let place = place(before);
    // `error: ` may also occur within a sentence.
    if place.is_none() && !matches!(before, "" | "config: ") {
        return None;
    }
    let rule = text.strip_suffix(']').and_then(|text| text.rsplit_once(" [")).filter(|(_, rule)| rule.starts_with('-'));
    let (text, rule) = rule.map_or((text, None), |(text, rule)| (text, Some(rule)));
    Some(Found { place, level, text, rule })
}

/// Parses `FILE:LINE:COLUMN: ` or `FILE:LINE: `.
fn place(before: &str) -> Option<(&str, u64, Option<u64>)> {
    let before = before.strip_suffix(": ")?;
    let (rest, last) = before.rsplit_once(':')?;
    let last: u64 = last.parse().ok().filter(|number| *number > 0)?;
    match rest.rsplit_once(':').and_then(|(file, line)| Some((file, line.parse::<u64>().ok()?))) {
        Some((file, line)) if line > 0 => Some((file, line, Some(last))),
        _ => Some((rest, last, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_compilers_are_taken_apart() {
        let found = |place, level, text, rule| Some(Found { place, level, text, rule });
        for (line, expected) in [
            ("a.c:2:9: error: 'x' undeclared", found(Some(("a.c", 2, Some(9))), "error", "'x' undeclared", None)),
            ("src/b.c:12: error: 'f' is", found(Some(("src/b.c", 12, None)), "error", "'f' is", None)),
            ("a.c:1:2: warning: w [-Wall]", found(Some(("a.c", 1, Some(2))), "warning", "w", Some("-Wall"))),
            ("a.c:1:2: fatal error: no.h: No", found(Some(("a.c", 1, Some(2))), "error", "no.h: No", None)),
            ("error: the archive has no files", found(None, "error", "the archive has no files", None)),
            ("config: warning: x", found(None, "warning", "x", None)),
            ("a.c: In function 'f':", None),
            ("    2 | puts(\"error: x\");", None),
            ("compilation said error: x", None),
        ] {
            assert_eq!(diagnostic(line), expected, "{line}");
        }
    }

    #[test]
    fn a_refusal_without_a_diagnostic_is_a_result() {
        let mut report = Report::default();
        report.add(Path::new("a b.c"), "the compiler did not finish\n", true);
        let json = report.json();
        assert_eq!(json["runs"][0]["results"][0]["message"]["text"], "the compiler did not finish");
        let place = &json["runs"][0]["results"][0]["locations"][0]["physicalLocation"];
        assert_eq!(place["artifactLocation"]["uri"], "a%20b.c");
        assert_eq!(json["runs"][0]["invocations"][0]["executionSuccessful"], false);
    }
}
