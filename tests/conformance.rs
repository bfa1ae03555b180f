//! `docs/conformance.md` lists the conformance tests, all of them and no others, each with the clause its name begins with.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The names of all functions behind a `#[test]` in the files of `folder`, with the file.
fn tests_in(folder: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let source = std::fs::read_to_string(&path).unwrap();
        for part in source.split("#[test]\n").skip(1) {
            let name = part.trim_start().strip_prefix("fn ").expect("a function behind #[test]");
            found.push((name.split('(').next().unwrap().to_owned(), path.display().to_string()));
        }
    }
    found
}

/// The rows of the tables: clause and test.
fn rows() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(root().join("docs/conformance.md")).unwrap();
    let lines = text
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| clause") && !line.starts_with("| ---"));
    lines
        .map(|line| {
            // A bar within a cell is escaped.
            let line = line.replace("\\|", "");
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            assert_eq!(cells.len(), 4, "{line}");
            assert!(cells.iter().all(|cell| !cell.is_empty()), "{line}");
            (cells[0].to_owned(), cells[3].trim_matches('`').to_owned())
        })
        .collect()
}

#[test]
fn every_test_has_its_row_and_every_row_its_test() {
    let mut listed: BTreeMap<String, usize> = BTreeMap::new();
    for (_, test) in rows() {
        *listed.entry(test).or_default() += 1;
    }
    let tests: Vec<(String, String)> = ["conformance_http", "conformance_ws"]
        .iter()
        .flat_map(|folder| tests_in(&root().join("tests").join(folder)))
        .collect();
    assert!(tests.len() > 100, "only {} tests are found", tests.len());
    for (name, file) in &tests {
        assert_eq!(listed.remove(name), Some(1), "{name} of {file} must stand in docs/conformance.md once");
    }
    assert!(listed.is_empty(), "rows without a test: {listed:?}");
}

#[test]
fn the_name_of_a_test_begins_with_its_clause() {
    for (clause, test) in rows() {
        let (rfc, section) = clause.split_once(" §").unwrap_or_else(|| panic!("no clause: {clause}"));
        let prefix = format!("rfc_{rfc}_{}_", section.replace('.', "_"));
        assert!(test.starts_with(&prefix), "{test} does not begin with {prefix}");
    }
}
