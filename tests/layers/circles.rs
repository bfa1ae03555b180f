//! Files that import each other in a circle can only be understood together. There are to be none but inside a folder that is
//! about one type; those that are left are listed, and the list may only shrink.

use super::{TEST_ROOMS, code_of, name_of, sources};
use std::collections::{BTreeMap, BTreeSet};

/// Folders about one type, whose files may import each other.
const ONE_TYPE: &[&str] = &["domain/process/endpoints", "domain/process/lifecycle"];

/// Circles that were there when this test came. A new circle fails, and so does a new file in one: take files out of the
/// list when their circle is broken.
const KNOWN: &[&[&str]] = &[
    &[
        "abi/context",
        "abi/events",
        "abi/frame",
        "abi/guard",
        "abi/handed",
        "abi/host",
        "abi/module",
        "abi/native",
        "abi/request",
        "abi/rooms",
        "abi/stream",
        "abi/websocket",
        "abi/worker",
    ],
    &["abi/job", "abi/job_data"],
    &["domain/call", "domain/inbox", "domain/stream/answer", "domain/stream/here"],
    &["domain/process/arena", "domain/process/extents"],
    &[
        "domain/process/crash",
        "domain/process/domain",
        "domain/process/helper",
        "domain/process/hook",
        "domain/process/reader",
        "domain/process/remote",
        "domain/process/shared",
        "domain/process/start",
        "domain/process/stdout_relay",
        "domain/process/supervisor",
        "domain/process/watch",
    ],
    &["domain/process/file_body", "domain/process/wire"],
    &["domain/process/streaming", "domain/process/work"],
    &["net/connections", "net/warm"],
    &["net/file", "net/outbox", "net/sys"],
    &["proto/http1/chunked", "proto/http1/decoder"],
    &["proto/http1/head", "proto/http1/target"],
    &["proto/http1/response", "proto/http1/switching"],
    &[
        "shard/admission",
        "shard/body_limits",
        "shard/conn",
        "shard/error_responses",
        "shard/feeds",
        "shard/flows",
        "shard/memory",
        "shard/own_uploads",
        "shard/requests",
        "shard/sockets",
        "shard/streams",
        "shard/traces",
        "shard/uploads",
    ],
    &["testing/child", "testing/exchange", "testing/jobs", "testing/sockets"],
];

/// A module: its path below the crate.
type Module = Vec<String>;

fn module_of(name: &str) -> Module {
    let below = name.trim_start_matches("src/").trim_end_matches(".rs");
    let mut parts: Module = below.split('/').map(str::to_owned).collect();
    if parts.last().is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str())) {
        parts.pop();
    }
    parts
}

/// The sources by module, without those that are compiled for tests only.
fn modules() -> BTreeMap<Module, String> {
    let all = sources().into_iter().map(|path| (module_of(&name_of(&path)), code_of(&path)));
    all.filter(|(module, _)| module.first().is_none_or(|room| !TEST_ROOMS.contains(&room.as_str()))).collect()
}

/// The paths of a tree behind `use`.
fn expand(tree: &str) -> Vec<Vec<String>> {
    let tree = tree.trim();
    let Some((before, inner)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap();
        return vec![path.split("::").map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect()];
    };
    let prefix: Vec<String> = before.split("::").map(|part| part.trim().to_owned()).filter(|p| !p.is_empty()).collect();
    let inner = inner.rsplit_once('}').map_or(inner, |(inner, _)| inner);
    let (mut depth, mut start, mut found) = (0, 0, Vec::new());
    for (at, c) in inner.char_indices().chain([(inner.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                let rest = expand(&inner[start..at]);
                found.extend(
                    rest.into_iter().filter(|rest| !rest.is_empty()).map(|rest| [prefix.clone(), rest].concat()),
                );
                start = at + 1;
            }
            _ => {}
        }
    }
    found
}

/// The trees of a source's `use` items, each with whether it is passed on by `pub use`, and the rest of the source.
fn uses(code: &str) -> (Vec<(bool, String)>, String) {
    let (mut trees, mut rest, mut open) = (Vec::new(), String::new(), None::<(bool, String)>);
    for line in code.lines() {
        let text = line.trim();
        if open.is_none() {
            let public = text.starts_with("pub");
            let item = if public { text.split_once(" use ").map(|(_, tree)| tree) } else { text.strip_prefix("use ") };
            match item.filter(|_| !text.contains('(') || text.starts_with("pub(")) {
                Some(tree) => open = Some((public, tree.to_owned())),
                None => {
                    rest.push_str(line);
                    rest.push('\n');
                }
            }
        } else if let Some((_, tree)) = &mut open {
            tree.push_str(text);
        }
        if let Some((public, tree)) = open.take_if(|(_, tree)| tree.ends_with(';')) {
            trees.push((public, tree.trim_end_matches(';').to_owned()));
        }
    }
    (trees, rest)
}

/// Paths in the text of a source that begin with `crate` or `super`.
fn inline(rest: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for word in rest.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')) {
        let parts: Vec<String> = word.split("::").map(str::to_owned).collect();
        if parts.len() > 1 && (parts[0] == "crate" || parts[0] == "super") {
            found.push(parts);
        }
    }
    found
}

/// The module that `path` in `from` leads to, and what it names there.
fn resolve(all: &BTreeMap<Module, String>, from: &Module, path: &[String]) -> Option<(Module, Vec<String>)> {
    let (mut at, mut rest) = (from.clone(), path);
    match path.first()?.as_str() {
        "crate" => (at, rest) = (Module::new(), &path[1..]),
        "self" => rest = &path[1..],
        "super" => {
            while rest.first().is_some_and(|part| part == "super") {
                at.pop()?;
                rest = &rest[1..];
            }
        }
        first => {
            let child: Module = at.iter().cloned().chain([first.to_owned()]).collect();
            all.get(&child)?;
        }
    }
    while let Some(part) = rest.first() {
        let child: Module = at.iter().cloned().chain([part.clone()]).collect();
        if !all.contains_key(&child) {
            break;
        }
        (at, rest) = (child, &rest[1..]);
    }
    Some((at, rest.to_vec()))
}

/// Which module imports which, beside its own children and parents. What a module passes on counts for the module that has it.
fn edges() -> BTreeMap<Module, BTreeSet<Module>> {
    let all = modules();
    let read: BTreeMap<&Module, _> = all.iter().map(|(module, code)| (module, uses(code))).collect();
    let mut passed_on: BTreeMap<(Module, String), Module> = BTreeMap::new();
    for (module, (trees, _)) in &read {
        for path in trees.iter().filter(|(public, _)| *public).flat_map(|(_, tree)| expand(tree)) {
            if let Some((to, rest)) = resolve(&all, module, &path)
                && let Some(name) = rest.last().filter(|_| to != **module)
            {
                passed_on.insert(((*module).clone(), name.clone()), to);
            }
        }
    }
    let mut edges: BTreeMap<Module, BTreeSet<Module>> = BTreeMap::new();
    for (module, (trees, rest)) in &read {
        let paths = trees.iter().flat_map(|(_, tree)| expand(tree)).chain(inline(rest));
        for (mut to, name) in paths.filter_map(|path| resolve(&all, module, &path)) {
            for _ in 0..5 {
                let next = name.first().and_then(|name| passed_on.get(&(to.clone(), name.clone())));
                to = next.cloned().unwrap_or(to);
            }
            let is_kin = to.starts_with(module.as_slice()) || module.starts_with(to.as_slice());
            if !is_kin && all.contains_key(&to) {
                edges.entry((*module).clone()).or_default().insert(to);
            }
        }
    }
    edges
}

fn reached(edges: &BTreeMap<Module, BTreeSet<Module>>, from: &Module) -> BTreeSet<Module> {
    let (mut found, mut next) = (BTreeSet::new(), vec![from]);
    while let Some(module) = next.pop() {
        for to in edges.get(module).into_iter().flatten() {
            if found.insert(to.clone()) {
                next.push(to);
            }
        }
    }
    found
}

/// The largest sets of modules that reach each other.
fn circles() -> BTreeSet<Vec<String>> {
    let edges = edges();
    let reached: BTreeMap<&Module, BTreeSet<Module>> =
        edges.keys().map(|module| (module, reached(&edges, module))).collect();
    let in_circle = reached.iter().filter(|(module, to)| to.contains(**module));
    let circle = in_circle.map(|(module, to)| {
        let back = |other: &&Module| reached.get(other).is_some_and(|to| to.contains(*module));
        to.iter().filter(back).map(|module| module.join("/")).collect()
    });
    circle.collect()
}

#[test]
fn files_import_each_other_in_no_new_circle() {
    let circles = circles();
    assert!(!circles.is_empty() || KNOWN.is_empty(), "no circle is found any more: empty the list");
    let is_known = |circle: &[String]| {
        let folder = ONE_TYPE.iter().any(|folder| circle.iter().all(|file| file.starts_with(&format!("{folder}/"))));
        folder || KNOWN.iter().any(|known| circle.iter().all(|file| known.contains(&file.as_str())))
    };
    let new: Vec<String> = circles.iter().filter(|circle| !is_known(circle)).map(|circle| circle.join(", ")).collect();
    assert!(new.is_empty(), "these files import each other in a circle:\n{}", new.join("\n"));
}

#[test]
fn the_test_sees_imports_of_all_kinds() {
    let paths = expand("super::{a::{self, B}, c as d, e::F}");
    let joined: Vec<String> = paths.iter().map(|path| path.join("::")).collect();
    assert_eq!(joined, ["super::a::self", "super::a::B", "super::c", "super::e::F"]);
    let (trees, rest) = uses("pub use x::Y;\nuse super::{\n    a,\n    b,\n};\nfn f() { super::g::h(); }\n");
    assert_eq!(trees, [(true, "x::Y".to_owned()), (false, "super::{a,b,}".to_owned())]);
    assert_eq!(inline(&rest), [["super", "g", "h"]]);
}
