//! Which layer may import which, and how long files and functions may be.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "layers/circles.rs"]
mod circles;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Each layer of `src`, with the layers it may import. A layer is a folder or a file directly below `src`.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("proto", &[]),
    ("id_map", &[]),
    ("logbook", &[]),
    ("machine", &[]),
    ("sd_notify", &[]),
    ("threads", &[]),
    ("shard_stats", &[]),
    ("net", &["proto"]),
    ("jobs", &["logbook", "threads"]),
    ("abi", &["proto", "jobs"]),
    ("domain", &["abi", "id_map", "jobs", "logbook", "machine", "net", "proto", "threads"]),
    ("module", &["abi", "domain", "jobs", "logbook", "net", "threads"]),
    ("server_response", &["domain", "net", "proto"]),
    ("admin", &["domain", "jobs", "logbook", "module", "net", "proto", "server_response", "shard_stats"]),
    (
        "shard",
        &[
            "abi",
            "admin",
            "domain",
            "id_map",
            "jobs",
            "logbook",
            "module",
            "net",
            "proto",
            "server_response",
            "shard_stats",
        ],
    ),
    ("testing", &["abi", "domain", "jobs", "module", "net", "proto", "threads"]),
    ("config", &["machine", "net", "proto"]),
    (
        "server",
        &[
            "abi",
            "admin",
            "config",
            "domain",
            "jobs",
            "logbook",
            "machine",
            "module",
            "net",
            "proto",
            "sd_notify",
            "shard",
            "threads",
        ],
    ),
    ("cli", &["abi", "admin", "config", "domain", "logbook", "module", "net", "server", "testing"]),
    ("lib", &[]),
    ("main", &[]),
];

/// Compiled for tests and fuzzers only, so that it may look into every layer.
const TEST_LAYERS: &[&str] = &["fuzzing"];

const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 80;

/// Files that were longer when the limit came, with their length then: they may shrink, not grow.
const LONG_FILES: &[(&str, usize)] = &[];

/// Functions that were longer, likewise: one statement for each setting.
const LONG_FUNCTIONS: &[(&str, &str, usize)] = &[("src/config.rs", "with_defaults(args:", 110)];

fn sources() -> Vec<PathBuf> {
    sources_in(&["rs"])
}

/// The files below `src` with one of these extensions.
fn sources_in(extensions: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extensions.iter().any(|wanted| extension == *wanted)) {
                found.push(path);
            }
        }
    }
    found.sort();
    assert!(found.len() > 100, "only {} sources found", found.len());
    found
}

/// The path below the repository, with slashes.
fn name_of(path: &Path) -> String {
    path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap().to_str().unwrap().to_owned()
}

/// The layer of a source: the first component below `src`.
fn layer_of(name: &str) -> String {
    let below = name.strip_prefix("src/").unwrap();
    below.split('/').next().unwrap().trim_end_matches(".rs").to_owned()
}

/// A source without its comments and without a trailing `mod tests { … }`.
fn code_of(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    text.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n")
}

/// The names that follow each `crate::`, also those in braces.
fn imports_of(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let word = |text: &str| -> String {
            text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
        };
        if let Some(inner) = rest.strip_prefix('{') {
            let mut depth = 1;
            let mut starts = vec![0];
            for (i, c) in inner.char_indices() {
                match c {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    ',' if depth == 1 => starts.push(i + 1),
                    _ => {}
                }
                if depth == 0 {
                    break;
                }
            }
            found.extend(starts.iter().map(|start| word(&inner[*start..])));
        } else {
            found.insert(word(rest));
        }
    }
    found
}

fn arrows() -> BTreeMap<(String, String), String> {
    let sources = sources();
    let layers: BTreeSet<String> = sources.iter().map(|path| layer_of(&name_of(path))).collect();
    let mut arrows = BTreeMap::new();
    for path in &sources {
        let name = name_of(path);
        let from = layer_of(&name);
        for to in imports_of(&code_of(path)) {
            if to != from && layers.contains(&to) && !TEST_LAYERS.contains(&from.as_str()) {
                arrows.entry((from.clone(), to)).or_insert_with(|| name.clone());
            }
        }
    }
    arrows
}

#[test]
fn layers_import_only_what_the_table_allows() {
    let mut wrong = Vec::new();
    let arrows = arrows();
    for ((from, to), file) in &arrows {
        let allowed = MAY_IMPORT.iter().find(|(layer, _)| layer == from).map_or(&[][..], |(_, allowed)| allowed);
        // A file that only tests and fuzzers compile may use their layer.
        let for_tests = TEST_LAYERS.contains(&to.as_str()) && file.contains("fuzz");
        if !allowed.contains(&to.as_str()) && !for_tests {
            wrong.push(format!("{from} imports {to} ({file})"));
        }
    }
    assert!(wrong.is_empty(), "these imports are not in the table of tests/layers.rs:\n{}", wrong.join("\n"));
    let unused: Vec<String> = MAY_IMPORT
        .iter()
        .flat_map(|(from, allowed)| allowed.iter().map(move |to| ((*from).to_owned(), (*to).to_owned())))
        .filter(|arrow| !arrows.contains_key(arrow))
        .map(|(from, to)| format!("{from} -> {to}"))
        .collect();
    assert!(unused.is_empty(), "nothing needs these entries of the table any more: {}", unused.join(", "));
}

/// Whether `to` can be reached from `from` over the table's arrows.
fn reaches(from: &str, to: &str) -> bool {
    let mut seen = BTreeSet::new();
    let mut next = vec![from];
    while let Some(layer) = next.pop() {
        for target in MAY_IMPORT.iter().filter(|(name, _)| *name == layer).flat_map(|(_, allowed)| *allowed) {
            if *target == to {
                return true;
            }
            if seen.insert(*target) {
                next.push(target);
            }
        }
    }
    false
}

#[test]
fn the_table_has_no_circle() {
    let in_circle: Vec<&str> =
        MAY_IMPORT.iter().map(|(layer, _)| *layer).filter(|layer| reaches(layer, layer)).collect();
    assert!(in_circle.is_empty(), "these layers import each other: {}", in_circle.join(", "));
}

#[test]
fn files_are_short() {
    let mut long = Vec::new();
    for path in sources_in(&["rs", "c", "h"]) {
        let name = name_of(&path);
        let lines = std::fs::read_to_string(&path).unwrap().lines().count();
        let limit = LONG_FILES.iter().find(|(file, _)| *file == name).map_or(FILE_LINES_MAX, |(_, lines)| *lines);
        if lines > limit {
            long.push(format!("{name} has {lines} lines, more than {limit}"));
        }
    }
    assert!(long.is_empty(), "{}", long.join("\n"));
}

/// The functions of a formatted source with their number of lines: a function ends at the brace of its own indentation.
fn functions_of(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let words: Vec<&str> = code.split_whitespace().take(6).collect();
        let Some(place) = words.iter().position(|word| *word == "fn") else { continue };
        let is_declaration = words[..place].iter().all(|word| {
            word.starts_with("pub") || ["const", "async", "unsafe", "extern", "\"C\"", "in"].contains(word)
        });
        if !is_declaration || line.ends_with('}') || line.ends_with(';') {
            continue;
        }
        let indent = &line[..line.len() - code.len()];
        let end = format!("{indent}}}");
        if let Some(length) = lines[at..].iter().position(|line| *line == end) {
            found.push((words.get(place + 1).unwrap_or(&"?").to_string(), length + 1));
        }
    }
    found
}

#[test]
fn functions_are_short() {
    let mut long = Vec::new();
    let mut seen = 0;
    for path in sources() {
        for (function, lines) in functions_of(&std::fs::read_to_string(&path).unwrap()) {
            seen += 1;
            let file = name_of(&path);
            let known = LONG_FUNCTIONS.iter().find(|(of, name, _)| *of == file && *name == function);
            if lines > known.map_or(FUNCTION_LINES_MAX, |(_, _, lines)| *lines) {
                long.push(format!("{file}: {function} has {lines} lines"));
            }
        }
    }
    assert!(seen > 1000, "only {seen} functions found");
    assert!(long.is_empty(), "functions longer than {FUNCTION_LINES_MAX} lines:\n{}", long.join("\n"));
}

/// SQLite is one engine of the jobs' store. The store and its callers know the traits of the seam only, so that another engine can
/// take its place. The database of modules, in `abi`, is SQLite by its own promise.
#[test]
fn types_of_sqlite_stay_behind_the_seam() {
    const MAY_NAME_SQLITE: &[&str] = &["src/abi/database.rs", "src/jobs/store/sqlite/"];
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for path in sources() {
        let (name, text) = (name_of(&path), std::fs::read_to_string(&path).unwrap());
        let names_it = text.lines().any(|line| line.split("//").next().unwrap().contains("rusqlite"));
        seen += usize::from(names_it);
        if names_it && !MAY_NAME_SQLITE.iter().any(|place| name.starts_with(place)) {
            wrong.push(name.clone());
        }
        // The modules of the engine are reached through the store alone.
        let reaches_in = code_of(&path).contains("sqlite::");
        if reaches_in && !name.starts_with("src/jobs/store/") && name != "src/abi/database.rs" {
            wrong.push(name);
        }
    }
    assert!(seen > 5, "only {seen} files name rusqlite");
    assert!(wrong.is_empty(), "these files name SQLite:\n{}", wrong.join("\n"));
}

#[test]
fn the_checks_see_what_they_are_for() {
    let imports = imports_of("use crate::a::B;\nuse crate::{c::D, e::{F, G}, h};\nlet x = crate::i::j();");
    assert_eq!(imports.into_iter().collect::<Vec<_>>(), ["a", "c", "e", "h", "i"]);
    let long = format!("    pub(super) fn long(\n    ) {{\n{}    }}\n", "        x();\n".repeat(90));
    assert_eq!(functions_of(&long), [("long(".to_owned(), 93)]);
    assert!(functions_of("fn one() {}\nlet f = fn_name;\n").is_empty());
}

/// The first use of a thread-local with a destructor waits for the dynamic loader's lock, which a module may hold for ever: a
/// thread that runs modules makes all of them before its first call (`prepare_thread` in `src/domain/executor.rs`).
#[test]
fn thread_local_state_is_made_before_a_thread_takes_calls() {
    let holders: Vec<String> =
        sources().iter().filter(|path| code_of(path).contains("thread_local!")).map(|path| name_of(path)).collect();
    let prepared = [
        "src/abi/encoding.rs",
        "src/abi/files/call.rs",
        "src/abi/websocket.rs",
        "src/domain/compress.rs",
        "src/domain/output.rs",
        "src/domain/running.rs",
        "src/jobs/json.rs",
        // Made by `run`, before the shard's thread takes anything.
        "src/net/driver/glommio.rs",
        "src/net/driver/native/executor.rs",
        "src/net/driver/native/polls.rs",
    ];
    assert_eq!(holders, prepared, "add a `ready` to the new file, call it in prepare_thread, and list the file here");
}

/// A file of tests that no program names would never run: Cargo.toml turns the search for them off.
#[test]
fn every_file_of_tests_is_in_a_program() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |name: &str| std::fs::read_to_string(root.join(name)).unwrap();
    let (modules, programs) = (read("tests/e2e.rs"), read("Cargo.toml"));
    let mut count = 0;
    for entry in std::fs::read_dir(root.join("tests")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        if path.extension().is_none_or(|extension| extension != "rs") && !path.join("mod.rs").exists() {
            continue;
        }
        count += 1;
        let is_module = modules.lines().any(|line| line == format!("mod {name};"));
        let is_program = programs.contains(&format!("path = \"tests/{name}.rs\""));
        assert!(is_module || is_program, "tests/{name} is in no program: add \"mod {name};\" to tests/e2e.rs");
    }
    assert!(count > 50, "only {count} files of tests found");
}
