//! The table of settings, the reference in docs/operations.md and the defaults in the code say the same.

use super::ServeArgs;
use crate::config::Config;
use clap::{Args, Command};
use std::collections::BTreeMap;

/// Flags that are no settings: they have no variable of their own, or none at all.
const NOT_SETTINGS: &[&str] = &["config", "check"];

/// A row of the reference: variable and default.
type Row = (String, String);

/// The rows of docs/operations.md by flag.
fn reference() -> BTreeMap<String, Row> {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operations.md")).unwrap();
    let mut rows = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("| `--")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        // A shorter table names flags, too: what to do when a limit is reached.
        if cells.len() < 7 {
            continue;
        }
        let flag = cells[1].trim_start_matches("`--").split('`').next().unwrap();
        let row = (cells[2].trim_matches('`').to_owned(), cells[3].to_owned());
        assert!(rows.insert(flag.to_owned(), row).is_none(), "--{flag} has two rows in docs/operations.md");
    }
    rows
}

/// The number at the start of a text, with its unit.
fn number(text: &str) -> Option<u128> {
    let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
    let factor = match text[digits.len()..].trim() {
        "" => 1,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    digits.parse::<u128>().ok().map(|number| number * factor)
}

/// The text of a field of the settings without any given.
fn field(settings: &str, flag: &str) -> Option<u128> {
    let name = format!("{}: ", flag.replace('-', "_"));
    let line = settings.lines().find_map(|line| line.trim().strip_prefix(&name))?;
    line.trim_end_matches(',').parse().ok()
}

#[test]
fn each_setting_has_its_row_in_the_reference_and_its_default_everywhere() {
    let command = ServeArgs::augment_args(Command::new("serve"));
    let settings = format!("{:#?}", Config::with_defaults(ServeArgs::default()));
    let (mut rows, mut wrong, mut numbers) = (reference(), Vec::new(), 0);
    for arg in command.get_arguments() {
        let Some(flag) = arg.get_long().filter(|flag| !NOT_SETTINGS.contains(flag)) else { continue };
        let variable = arg.get_env().and_then(|name| name.to_str()).unwrap_or_default();
        let Some((documented, default)) = rows.remove(flag) else {
            wrong.push(format!("--{flag} has no row in docs/operations.md"));
            continue;
        };
        if documented != variable {
            wrong.push(format!("--{flag}: its variable is {variable}, and {documented} in docs/operations.md"));
        }
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let told = help.split("[default: ").nth(1).and_then(|rest| number(rest.split(']').next().unwrap()));
        if let Some(told) = told {
            numbers += 1;
            if number(&default) != Some(told) {
                wrong.push(format!("--{flag}: its default is {told} in --help, and {default} in docs/operations.md"));
            }
            if field(&settings, flag).is_some_and(|real| real != told) {
                wrong.push(format!("--{flag}: its default is {:?}, and {told} in --help", field(&settings, flag)));
            }
        }
    }
    let is_setting = |flag: &&String| !NOT_SETTINGS.contains(&flag.as_str());
    wrong.extend(
        rows.keys().filter(is_setting).map(|flag| format!("docs/operations.md has --{flag}, which is no flag")),
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(numbers > 40, "only {numbers} defaults are numbers");
}
