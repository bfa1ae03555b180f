//! `[limits]` of `module.toml`: limits of a project, which can only lower those of the server.

use super::project_files::PROJECT_FILE;
use crate::abi::manifest::Limits;
use serde::{Deserialize, Deserializer, de::IgnoredAny};
use std::collections::BTreeMap;
use toml::Spanned;

/// The keys, each with the smallest and the largest value.
const KEYS: [(&str, i64, i64); 3] =
    [("handler_time_ms", 1, 4_095_000), ("body_bytes", 1, 2_147_483_647), ("job_concurrency", 1, 1_000_000)];

/// Words that occur in names of domain limits, which authors may try here.
const OF_DOMAINS: [&str; 6] = ["memory", "threads", "disk", "output", "cpu", "processes"];

/// The part of `module.toml` that this file reads.
#[derive(Deserialize)]
struct File {
    #[serde(default)]
    limits: BTreeMap<String, Spanned<toml::Value>>,
}

/// Accepts any value; [`read`] checks it.
pub(super) fn none<'de, D: Deserializer<'de>>(from: D) -> Result<Limits, D::Error> {
    IgnoredAny::deserialize(from).map(|_| Limits::default())
}

/// The limits in `text`, a whole `module.toml`.
///
/// # Errors
/// A sentence for the author, with the line: a key is unknown, or a value is not a whole number in its range.
pub(super) fn read(text: &str) -> Result<Limits, String> {
    let file: File = toml::from_str(text).map_err(|error| format!("{PROJECT_FILE}: {error}"))?;
    let mut limits = Limits::default();
    for (key, value) in &file.limits {
        let line = text.get(..value.span().start).unwrap_or_default().matches('\n').count() + 1;
        let (key, value) = (key.as_str(), value.get_ref());
        let place = format!("{PROJECT_FILE}:{line}: limits: {key}");
        let Some((_, least, most)) = KEYS.iter().find(|(known, ..)| *known == key) else {
            return Err(format!("{place} is not a limit of a project; {}", instead(key)));
        };
        let fits = |number: &i64| (*least..=*most).contains(number);
        let Some(number) = value.as_integer().filter(fits) else {
            let value =
                value.as_integer().map_or_else(|| format!("a {}", value.type_str()), |number| number.to_string());
            return Err(format!("{place} = {value} must be a whole number from {least} to {most}"));
        };
        match key {
            "handler_time_ms" => limits.handler_time_ms = number.unsigned_abs(),
            "body_bytes" => limits.body_bytes = number.unsigned_abs(),
            _ => limits.job_concurrency = u32::try_from(number).unwrap_or(u32::MAX),
        }
    }
    Ok(limits)
}

/// Advice for an unknown key.
fn instead(key: &str) -> String {
    if OF_DOMAINS.iter().any(|word| key.contains(word)) {
        return "memory, threads, disk and output are limits of a domain, whose modules share a process: its operator sets them \
                (cweb serve --module-…-max)"
            .to_owned();
    }
    let known: Vec<&str> = KEYS.iter().map(|(known, ..)| *known).collect();
    format!("there are {}", known.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_or_refused_with_their_line() {
        let text = "name = \"m\"\n[limits]\nhandler_time_ms = 500\nbody_bytes = 100\njob_concurrency = 2\n";
        let expected = Limits { handler_time_ms: 500, body_bytes: 100, job_concurrency: 2 };
        assert_eq!(read(text), Ok(expected));
        assert_eq!(read("name = \"m\""), Ok(Limits::default()));
        assert_eq!(read("limits.body_bytes = 7").map(|limits| limits.body_bytes), Ok(7));
        for (text, words) in [
            (
                "[limits]\n\nbody_bytes = 0",
                "module.toml:3: limits: body_bytes = 0 must be a whole number from 1 to 2147483647",
            ),
            ("[limits]\nhandler_time_ms = 4095001", "module.toml:2: limits: handler_time_ms"),
            ("[limits]\nhandler_time_ms = -1", "from 1 to 4095000"),
            ("[limits]\njob_concurrency = \"2\"", "whole number"),
            ("[limits]\njob_concurrency = 2.0", "whole number"),
            ("[limits]\nhandler_time_s = 2", "there are handler_time_ms, body_bytes, job_concurrency"),
            ("[limits]\nmemory_bytes = 2", "limits of a domain"),
            ("limits = 3", "module.toml"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
