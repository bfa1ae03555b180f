//! The requests in a source's lines `#pragma cweb …`.

use super::lexer::Words;
use crate::module::{flags, libraries};

/// The libraries and flags that a source names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Wants {
    /// Libraries to link, from `link("NAME", …)`.
    pub(crate) libs: Vec<String>,
    /// Compiler flags, from `cflags("-FLAG", …)`.
    pub(crate) cflags: Vec<String>,
}

/// Reads the pragmas of a source whose name in the compiler's messages is `file`.
///
/// # Errors
/// The first invalid pragma, as a compiler's message.
pub(super) fn wants(words: &Words, file: &str) -> Result<Wants, String> {
    let mut wants = Wants::default();
    for pragma in words.pragmas() {
        let wrong = |text: String| format!("{file}:{}: error: {text}\n", pragma.line);
        let (name, arguments) = call(&pragma.text).ok_or_else(|| {
            wrong("a pragma of cweb is written like: #pragma cweb link(\"zstd\", \"png\")".to_owned())
        })?;
        match name {
            "link" => {
                arguments.iter().try_for_each(|library| libraries::check_name(library)).map_err(wrong)?;
                wants.libs.extend(arguments);
            }
            "cflags" => {
                arguments.iter().try_for_each(|flag| flags::check(flag)).map_err(wrong)?;
                wants.cflags.extend(arguments);
            }
            other => return Err(wrong(format!("#pragma cweb {other}(…) is not known; there are link and cflags"))),
        }
    }
    wants.libs = without_doubles(wants.libs);
    Ok(wants)
}

/// The names in their order, each only once.
pub(crate) fn without_doubles(names: Vec<String>) -> Vec<String> {
    let mut kept: Vec<String> = Vec::new();
    for name in names {
        if !kept.contains(&name) {
            kept.push(name);
        }
    }
    kept
}

/// The name and the arguments of `NAME("…", "…")`; `None` if `text` has another form.
fn call(text: &str) -> Option<(&str, Vec<String>)> {
    let (name, rest) = text.split_once('(')?;
    let mut rest = rest.trim_end().strip_suffix(')')?.trim();
    let mut arguments = Vec::new();
    while !rest.is_empty() {
        let (argument, behind) = literal(rest)?;
        arguments.push(argument);
        rest = behind.trim_start();
        match rest.strip_prefix(',') {
            Some(behind) => rest = behind.trim_start(),
            None if rest.is_empty() => {}
            None => return None,
        }
    }
    (!arguments.is_empty()).then(|| (name.trim(), arguments))
}

/// The string literal that `text` begins with, and what follows it. `\"` and `\\` are the only escapes.
fn literal(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    if characters.next()?.1 != '"' {
        return None;
    }
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, text.get(at + 1..)?)),
            '\\' => match characters.next()?.1 {
                escaped @ ('"' | '\\') => value.push(escaped),
                _ => return None,
            },
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::lexer::words;
    use super::*;

    fn read(source: &str) -> Result<Wants, String> {
        wants(&words(source.as_bytes()), "module.c")
    }

    #[test]
    fn libraries_and_flags_are_named() {
        let source = "#pragma cweb link(\"zstd\", \"png\")\n#pragma cweb cflags( \"-O3\" ,\"-DX=\\\"a\\\"\")\n#pragma cweb link(\"png\")\n";
        let wants = read(source).unwrap();
        assert_eq!(wants.libs, ["zstd", "png"]);
        assert_eq!(wants.cflags, ["-O3", "-DX=\"a\""]);
        assert_eq!(read("#pragma once\nint x;"), Ok(Wants::default()));
    }

    #[test]
    fn what_is_wrong_has_its_line() {
        for (source, place, words) in [
            ("\n#pragma cweb link(\"../z\")", "module.c:2: error:", "t name a library"),
            ("#pragma cweb link(\"-lz\")", "module.c:1: error:", "t name a library"),
            ("#pragma cweb link(\"@z\")", "module.c:1: error:", "t name a library"),
            ("int x; \\\n\n#pragma cweb cflags(\"-fplugin=x\")", "module.c:3: error:", "not allowed"),
            ("#pragma cweb link(zstd)", "module.c:1: error:", "is written like"),
            ("#pragma cweb link(\"z\" \"y\")", "module.c:1: error:", "is written like"),
            ("#pragma cweb link()", "module.c:1: error:", "is written like"),
            ("#pragma cweb", "module.c:1: error:", "is written like"),
            ("#pragma cweb links(\"z\")", "module.c:1: error:", "links(…) is not known"),
        ] {
            let error = read(source).unwrap_err();
            assert!(error.starts_with(place) && error.contains(words), "{source}: {error}");
        }
    }
}
