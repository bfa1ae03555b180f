//! Files that import each other in a circle can only be understood together. No circle may exist, except inside a folder about
//! one type. The circles that are left are listed, and the list may only shrink.

use super::{TEST_LAYERS, code_of, name_of, sources};
use std::collections::{BTreeMap, BTreeSet};

/// Folders about one type, whose files may import each other. The file `x.rs` with the folder `x/` counts as one file here.
const ONE_TYPE: &[&str] = &[
    "abi/module",
    "domain/in_process",
    "domain/process/child",
    "domain/process/endpoints",
    "domain/process/lifecycle",
    "net/driver",
];

/// Types whose methods stand in several files of their folder. These files import the type, and the type's own file imports the
/// types of its fields from them: that is no circle.
const IN_PARTS: &[(&str, &str)] = &[("shard", "Shard")];

/// The circles that are left, each with all of its files. The test fails on a circle, and on a file in one, that is not listed;
/// and on a listed file that is in no circle any more.
const KNOWN: &[&[&str]] = &[];

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

/// The names of the modules that `code` declares for tests and fuzzers only.
fn test_modules(code: &str) -> Vec<String> {
    let lines: Vec<&str> = code.lines().map(str::trim).collect();
    let is_test = |line: &str| line.starts_with("#[cfg(") && line.contains("test") && !line.contains("not(test");
    let declared = lines.windows(2).filter(|pair| is_test(pair[0])).filter_map(|pair| {
        let name = pair[1].strip_suffix(';')?.split_once("mod ")?.1;
        Some(name.to_owned())
    });
    declared.collect()
}

/// The sources by module, without those that are compiled for tests only.
fn modules() -> BTreeMap<Module, String> {
    let all: BTreeMap<Module, String> =
        sources().into_iter().map(|path| (module_of(&name_of(&path)), code_of(&path))).collect();
    let mut of_tests: Vec<Module> = TEST_LAYERS.iter().map(|layer| vec![(*layer).to_owned()]).collect();
    for (module, code) in &all {
        of_tests.extend(test_modules(code).into_iter().map(|name| [module.clone(), vec![name]].concat()));
    }
    let is_test = |module: &Module| of_tests.iter().any(|of_tests| module.starts_with(of_tests));
    all.into_iter().filter(|(module, _)| !is_test(module)).collect()
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

/// Paths in the text of a source, without those of visibilities (`pub(in PATH)`).
fn inline(rest: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let parts = rest.split("pub(in ").enumerate();
    let kept = parts.map(|(at, part)| if at == 0 { part } else { part.split_once(')').map_or("", |(_, kept)| kept) });
    for word in kept.flat_map(|part| part.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'))) {
        let parts: Vec<String> = word.split("::").map(str::to_owned).collect();
        if parts.len() > 1 && parts[0].starts_with(|first: char| first.is_lowercase()) {
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

/// The module that stands for `module`: the folder about one type, or the module itself.
fn node(module: &Module) -> Module {
    let name = module.join("/");
    let folder = ONE_TYPE
        .iter()
        .find(|folder| name.strip_prefix(*folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')));
    folder.map_or_else(|| module.clone(), |folder| folder.split('/').map(str::to_owned).collect())
}

/// Which module imports which. What a module passes on by `pub use` counts for the module that has it, and not for the one that
/// passes it on.
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
        let used = trees.iter().flat_map(|(public, tree)| expand(tree).into_iter().map(|path| (*public, path)));
        for (public, path) in used.chain(inline(rest).into_iter().map(|path| (false, path))) {
            let Some((mut to, name)) = resolve(&all, module, &path) else { continue };
            for _ in 0..5 {
                let next = name.first().and_then(|name| passed_on.get(&(to.clone(), name.clone())));
                to = next.cloned().unwrap_or(to);
            }
            let is_part =
                |(folder, of): &(&str, &str)| to.join("/") == *folder && name.first().is_some_and(|n| n == of);
            let is_own_child = to.starts_with(module.as_slice());
            let is_root = module.is_empty() || to.is_empty();
            if is_root || !all.contains_key(&to) || public && is_own_child || IN_PARTS.iter().any(is_part) {
                continue;
            }
            let (from, to) = (node(module), node(&to));
            if from != to {
                edges.entry(from).or_default().insert(to);
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
fn circles_of(edges: &BTreeMap<Module, BTreeSet<Module>>) -> BTreeSet<Vec<String>> {
    let reached: BTreeMap<&Module, BTreeSet<Module>> =
        edges.keys().map(|module| (module, reached(edges, module))).collect();
    let in_circle = reached.iter().filter(|(module, to)| to.contains(**module));
    let circle = in_circle.map(|(module, to)| {
        let back = |other: &&Module| reached.get(other).is_some_and(|to| to.contains(*module));
        to.iter().filter(back).map(|module| module.join("/")).collect()
    });
    circle.collect()
}

#[test]
fn files_import_each_other_in_no_new_circle() {
    let circles = circles_of(&edges());
    let is_known =
        |circle: &[String]| KNOWN.iter().any(|known| circle.iter().all(|file| known.contains(&file.as_str())));
    let new: Vec<String> = circles.iter().filter(|circle| !is_known(circle)).map(|circle| circle.join(", ")).collect();
    assert!(new.is_empty(), "these files import each other in a circle:\n{}", new.join("\n"));
    let is_left = |file: &str| circles.iter().flatten().any(|left| left == file);
    let gone: Vec<&str> = KNOWN.iter().flat_map(|known| known.iter().copied()).filter(|file| !is_left(file)).collect();
    assert!(gone.is_empty(), "these files are in no circle any more, take them out of the list: {}", gone.join(", "));
}

#[test]
fn the_test_sees_imports_of_all_kinds() {
    let paths = expand("super::{a::{self, B}, c as d, e::F}");
    let joined: Vec<String> = paths.iter().map(|path| path.join("::")).collect();
    assert_eq!(joined, ["super::a::self", "super::a::B", "super::c", "super::e::F"]);
    let (trees, rest) = uses("pub use x::Y;\nuse super::{\n    a,\n    b,\n};\nfn f() { super::g::h(); }\n");
    assert_eq!(trees, [(true, "x::Y".to_owned()), (false, "super::{a,b,}".to_owned())]);
    assert_eq!(inline(&rest), [["super", "g", "h"]]);
    assert_eq!(inline("pub(in super::a) fn f() { child::g(); Type::new() }"), [["child", "g"]]);
    let code = "mod a;\n#[cfg(test)]\nmod b;\n#[cfg(any(test, fuzzing))]\npub(crate) mod c;\n#[cfg(not(test))]\nmod d;";
    assert_eq!(test_modules(code), ["b", "c"]);
    let parts = |name: &str| -> Module { name.split('/').map(str::to_owned).collect() };
    assert_eq!(node(&parts("domain/process/endpoints/call")), parts("domain/process/endpoints"));
    assert_eq!(node(&parts("domain/process/extents")), parts("domain/process/extents"));
    let arrow = |from: &str, to: &str| (parts(from), BTreeSet::from([parts(to)]));
    let edges = BTreeMap::from([arrow("a", "b"), arrow("b", "c"), arrow("c", "a"), arrow("d", "a")]);
    assert_eq!(circles_of(&edges), BTreeSet::from([vec!["a".to_owned(), "b".to_owned(), "c".to_owned()]]));
}
