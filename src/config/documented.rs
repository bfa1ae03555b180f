//! Tests that the table of settings, the reference in docs/operations.md and the defaults in the code agree.

use super::{ServeArgs, default_of, told_defaults};
use crate::config::Config;
use clap::{Args, Command};
use std::collections::BTreeMap;

/// Flags that are not settings: they have no environment variable, or one of another kind.
const NOT_SETTINGS: &[&str] = &["config", "check"];

/// A row of the reference: variable and default.
type Row = (String, String);

/// The rows of docs/operations.md by flag.
fn reference() -> BTreeMap<String, Row> {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operations.md")).unwrap();
    let mut rows = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("| `--")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        // A table with fewer columns on the same page names flags, too; that table has the effect of each limit.
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

/// The value of a field in the printed default settings.
fn field(settings: &str, flag: &str) -> Option<u128> {
    let name = format!("{}: ", flag.replace('-', "_"));
    let line = settings.lines().find_map(|line| line.trim().strip_prefix(&name))?;
    line.trim_end_matches(',').parse().ok()
}

#[test]
fn each_setting_has_its_row_in_the_reference_and_its_default_everywhere() {
    let command = told_defaults(ServeArgs::augment_args(Command::new("serve")));
    let settings = format!("{:#?}", Config::with_defaults(&ServeArgs::default()));
    let (mut rows, mut wrong, mut defaults) = (reference(), Vec::new(), 0);
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
        if let Some(told) = default_of(arg.get_id().as_str()) {
            defaults += 1;
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            let times = help.matches("[default").count();
            if times != 1 || !help.ends_with(&format!(" [default: {told}]")) {
                wrong.push(format!("--{flag}: the help has {times} defaults: {help}"));
            }
            // The text after a comma depends on the machine.
            let number = |text: &str| number(text.split(',').next().unwrap_or_default());
            if default != told && (number(&told).is_none() || number(&default) != number(&told)) {
                wrong.push(format!("--{flag}: its default is {told}, and {default} in docs/operations.md"));
            }
            let is_of_machine = help.contains("within the limit of descriptors");
            if !is_of_machine && field(&settings, flag).is_some_and(|real| Some(real) != number(&told)) {
                wrong.push(format!("--{flag}: its default is {:?}, and {told} in the table", field(&settings, flag)));
            }
        }
    }
    let is_setting = |flag: &&String| !NOT_SETTINGS.contains(&flag.as_str());
    wrong.extend(
        rows.keys().filter(is_setting).map(|flag| format!("docs/operations.md has --{flag}, which is not a flag")),
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(defaults > 60, "only {defaults} settings have a default");
}

#[test]
fn defaults_are_in_range_and_what_is_not_is_told_with_the_flag() {
    let given = |text: &str| toml::from_str::<ServeArgs>(text).unwrap().out_of_range();
    for (text, told) in [
        ("headers_max = 0", "--headers-max must be from 1 to 1024"),
        ("headers_max = 1025", "--headers-max must be from 1 to 1024"),
        ("shards = 257", "--shards must be from 1 to 256"),
        ("pipeline_max = 0", "--pipeline-max must be at least 1"),
        ("crash_limit = 1001", "--crash-limit must be from 0 to 1000"),
        ("module_resident_bytes_max = 1", "--module-resident-bytes-max must be 0 or at least 67108864"),
        ("core_bytes_max = 1048575", "--core-bytes-max must be at least 1048576"),
    ] {
        assert_eq!(given(text), [told]);
    }
    assert!(given("headers_max = 1024\nshards = 256\npipeline_max = 1\nmodule_resident_bytes_max = 0").is_empty());
    for arg in ServeArgs::augment_args(Command::new("serve")).get_arguments() {
        let Some(default) = default_of(arg.get_id().as_str()).filter(|text| text.bytes().all(|b| b.is_ascii_digit()))
        else {
            continue;
        };
        assert_eq!(given(&format!("{} = {default}", arg.get_id())), Vec::<String>::new());
    }
}
