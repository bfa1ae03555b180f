//! The interface that existing modules are written for, to the letter. `interface/table.txt` lists every prototype, field,
//! constant and tag; here it becomes static assertions that the C compilers check against `include/`. Results are checked by
//! `interface/module.c` in the running server.

use crate::support::{Server, root};
use std::collections::HashSet;
use std::fmt::Write as _;
use std::process::{Command, Stdio};

/// A row of the table.
#[derive(Clone)]
struct Row {
    header: String,
    line: usize,
    kind: String,
    parts: Vec<String>,
}

fn table() -> Vec<Row> {
    let text = std::fs::read_to_string(root().join("tests/interface/table.txt")).unwrap();
    let (mut header, mut rows) = (String::new(), Vec::new());
    for (at, line) in text.lines().enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (kind, rest) = line.split_once(' ').unwrap();
        if kind == "header" {
            rest.clone_into(&mut header);
            continue;
        }
        let parts = rest.split(" | ").map(|part| part.trim().to_owned()).collect();
        rows.push(Row { header: header.clone(), line: at + 1, kind: kind.to_owned(), parts });
    }
    rows
}

/// C's way to write `TYPE NAME`: `char [37]` and `int (*)(void)` have the name inside.
fn declared(kind: &str, name: &str) -> String {
    match (kind.find("(*)"), kind.find(" [")) {
        (Some(at), _) => format!("{}(*{name}){}", &kind[..at], &kind[at + 3..]),
        (None, Some(at)) => format!("{} {name}{}", &kind[..at], &kind[at + 1..]),
        (None, None) => format!("{kind} {name}"),
    }
}

/// The C that says what `row` says; `before` is the row above it. Each failing one names the row's line of the table.
fn assertion(row: &Row, before: Option<&Row>) -> String {
    let (line, parts) = (row.line, row.parts.iter().map(String::as_str).collect::<Vec<_>>());
    let says = |condition: &str, what: &str| format!("_Static_assert({condition}, \"row {line}: {what}\");\n");
    let is_type = |a: &str, b: &str| format!("__builtin_types_compatible_p({a}, {b})");
    match (row.kind.as_str(), parts.as_slice()) {
        ("function", [name, result, parameters]) => {
            let typedef = format!("typedef {result} row_{line}({parameters});\n");
            typedef + &says(&is_type(&format!("__typeof__({name})"), &format!("row_{line}")), name)
        }
        (kind @ ("field" | "later"), [structure, name, field]) => {
            let typedef = format!("typedef {};\n", declared(field, &format!("row_{line}")));
            let member = format!("(({structure} *)0)->{name}");
            let mut text = typedef + &says(&is_type(&format!("__typeof__({member})"), &format!("row_{line}")), name);
            let above = before.filter(|above| above.parts.first() == row.parts.first());
            let above = above.filter(|above| matches!(above.kind.as_str(), "field" | "later"));
            let at = format!("offsetof({structure}, {name})");
            text += &match (kind, above) {
                ("field", None) => says(&format!("{at} == 0"), "is not the first field"),
                ("later", None) => String::new(),
                (_, Some(above)) => {
                    let above = &above.parts[1];
                    let end = format!("(offsetof({structure}, {above}) + sizeof((({structure} *)0)->{above}))");
                    let next =
                        format!("(({end} + _Alignof(row_{line}) - 1) / _Alignof(row_{line}) * _Alignof(row_{line}))");
                    if kind == "field" {
                        says(&format!("{at} == {next}"), &format!("does not follow {above}"))
                    } else {
                        says(&format!("{at} >= {end}"), &format!("does not come after {above}"))
                    }
                }
                _ => unreachable!(),
            };
            text
        }
        ("is", [a, b]) => {
            let typedefs = format!(
                "typedef {};\ntypedef {};\n",
                declared(a, &format!("row_{line}_a")),
                declared(b, &format!("row_{line}_b"))
            );
            typedefs + &says(&is_type(&format!("row_{line}_a"), &format!("row_{line}_b")), &a.replace('"', ""))
        }
        ("value", [expression, value]) => says(&format!("({expression}) == ({value})"), expression),
        ("least", [expression, value]) => says(&format!("({expression}) >= ({value})"), expression),
        ("text", [expression, text]) => says(&format!("__builtin_strcmp({expression}, {text}) == 0"), expression),
        ("size", [kind, bytes]) => says(&format!("sizeof({kind}) == ({bytes})"), kind),
        ("compiles", [_, statements]) => {
            format!("#line {line} \"row\"\nstatic void row_{line}(void) {{ {statements} }}\n")
        }
        _ => panic!("line {line} of the table can't be read"),
    }
}

/// The C of all rows of one header.
fn source(header: &str, rows: &[Row]) -> String {
    let mut text = format!("#include <{header}>\n#include <stddef.h>\n#include <stdint.h>\n");
    let of_header: Vec<&Row> = rows.iter().filter(|row| row.header == header).collect();
    for (at, row) in of_header.iter().enumerate() {
        let _ = text.write_str(&assertion(row, at.checked_sub(1).map(|before| of_header[before])));
    }
    text
}

/// The compilers that are there: gcc always is.
fn compilers() -> Vec<&'static str> {
    let is_there = |name: &&str| Command::new(name).arg("--version").stdout(Stdio::null()).status().is_ok();
    let found: Vec<_> = ["gcc", "clang"].into_iter().filter(is_there).collect();
    assert!(found.contains(&"gcc"));
    found
}

/// What the compiler says of `source`; empty if it takes it.
fn compile(compiler: &str, source: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("table.c"), source).unwrap();
    let mut command = Command::new(compiler);
    command
        .args(["-std=gnu11", "-fsyntax-only", "-Wall", "-Werror", "-Wno-unused-function", "-I"])
        .arg(root().join("include"));
    if compiler == "clang" {
        command.arg("-ferror-limit=0");
    }
    let output = command.arg("table.c").current_dir(dir.path()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.success(), text.is_empty(), "{text}");
    text
}

fn headers(rows: &[Row]) -> Vec<String> {
    let mut seen = HashSet::new();
    rows.iter().map(|row| row.header.clone()).filter(|header| seen.insert(header.clone())).collect()
}

#[test]
fn the_headers_are_what_the_table_says() {
    let rows = table();
    assert!(rows.len() > 200, "{}", rows.len());
    let mut wrong = String::new();
    for compiler in compilers() {
        for header in headers(&rows) {
            let said = compile(compiler, &source(&header, &rows));
            let _ = write!(wrong, "{said}");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// The row, made wrong.
fn broken(row: &Row) -> Row {
    let mut row = row.clone();
    let last = row.parts.last_mut().unwrap();
    match row.kind.as_str() {
        "function" => last.push_str(", struct nobody *"),
        "field" | "later" | "is" => "struct nobody *".clone_into(last),
        "value" | "size" => last.push_str(" + 1"),
        "least" => last.push_str(" * 1000"),
        "text" => "\"HTTP/9\"".clone_into(last),
        _ => {
            let _ = write!(last, " row_{}_is_wrong();", row.line);
        }
    }
    if row.kind == "function" && row.parts[2].starts_with("void,") {
        row.parts[2] = "struct nobody *".to_owned();
    }
    row
}

/// A test that can't fail proves nothing: every row is broken, and every one has to be noticed.
#[test]
fn each_row_that_is_wrong_is_noticed() {
    let rows = table();
    let wrong: Vec<Row> = rows.iter().map(broken).collect();
    for compiler in compilers() {
        for header in headers(&rows) {
            let text = source(&header, &wrong);
            let said = compile(compiler, &format!("struct nobody;\n{text}"));
            for row in wrong.iter().filter(|row| row.header == header) {
                let named = [format!("row {}: ", row.line), format!("row:{}:", row.line)];
                assert!(named.iter().any(|name| said.contains(name)), "{compiler}: line {} was not noticed", row.line);
            }
        }
    }
}

/// A field in another place is noticed too.
#[test]
fn fields_in_another_order_are_noticed() {
    let mut rows = table();
    let at = |rows: &[Row], name: &str| {
        rows.iter().position(|row| row.parts[0] == "struct http_request" && row.parts[1] == name).unwrap()
    };
    let (params, headers) = (at(&rows, "params"), at(&rows, "headers"));
    rows[params].parts[1] = "headers".to_owned();
    rows[headers].parts[1] = "params".to_owned();
    let said = compile("gcc", &source("http.h", &rows));
    assert!(said.contains("does not follow"), "{said}");
}

#[test]
fn results_are_what_modules_count_on() {
    let server = Server::start();
    let read = |file: &str| std::fs::read_to_string(root().join("tests").join(file)).unwrap();
    let source = format!("{}#line 1 \"module.c\"\n{}", read("modules/check.h"), read("interface/module.c"));
    let text = server.deploy(&source).text();
    assert!(!text.contains("warning:"), "{text}");
    let mut client = server.connect();
    for path in [
        "/maps",
        "/walk",
        "/containers",
        "/lists",
        "/queues",
        "/pools",
        "/schedulers",
        "/stores",
        "/parse",
        "/parse-data",
        "/upgrade",
        "/chunks",
        "/uuids",
        "/bind",
    ]
    .repeat(2)
    {
        assert_eq!(client.get(path).text(), "ok", "{path}\n{}", server.log());
    }
}
