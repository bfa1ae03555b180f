//! The text for a source that every dialect refuses.

use super::messages::{LinkedFiles, linker};
use super::{Dialect, Language, Reading};

/// The text for a source that every dialect refuses: the messages of the likely dialect, and hints that explain them.
pub(crate) fn refusal(reading: &Reading, source: &[u8], refusals: &[(Dialect, String)]) -> String {
    let Some((_, likely)) = refusals.first() else { return String::new() };
    let files = LinkedFiles { units: vec![reading.file()], all: vec![reading.file()] };
    let mut text = linker(likely, &files, reading.words());
    if reading.likely == Dialect::Wafer {
        text.push_str(super::wafer::hint(&text));
        return text;
    }
    if !reading.words().includes("cweb.h") && (unknown_type(&text, "export") || unknown_type(&text, "module_t")) {
        text.push_str("\na module includes <cweb.h>; add: #include <cweb.h>\n");
    } else if let Some(lines) = mixed(source, refusals, reading.file()) {
        text.push_str(&lines);
    } else if reading.language() == Language::C
        && !refusals.iter().any(|(_, text)| wrong_functions(text, reading.file()).is_empty())
    {
        text.push_str(
            "\na handler takes (struct cweb_context *, http_request_t *, http_response_t *), or in an older module \
             (struct http_request *, struct http_response *)\n",
        );
    } else if reading.likely == Dialect::TwoArguments {
        text.push_str(
            "\nthe source was read as a module of an older generation, since no handler of it has a parameter struct cweb_context *; \
             with today's headers a handler takes (struct cweb_context *, http_request_t *, http_response_t *)\n",
        );
    }
    text
}

/// Whether the compiler does not know the type `name`. Compilers differ only in their quotes.
fn unknown_type(text: &str, name: &str) -> bool {
    text.contains(&format!("unknown type name '{name}'")) || text.contains(&format!("unknown type name \u{2018}{name}"))
}

/// The lines of the tables with a function that the dialect refuses, according to the compiler's messages.
fn wrong_functions(text: &str, file: &str) -> Vec<usize> {
    let about =
        |line: &&str| line.contains("error: ") && line.contains("incompatible") && line.contains("pointer type");
    text.lines().filter(about).filter_map(|line| place(line, file)).collect()
}

/// The line number in `FILE:LINE:…`.
fn place(message: &str, file: &str) -> Option<usize> {
    let (_, rest) = message.split_once(&format!("{file}:"))?;
    rest.split(':').next()?.parse().ok()
}

/// A module has one dialect. When each dialect refuses other lines of its tables, the source mixes both kinds of handlers.
fn mixed(source: &[u8], refusals: &[(Dialect, String)], file: &str) -> Option<String> {
    let by = |dialect| {
        let found = refusals.iter().find(|(other, _)| *other == dialect);
        found.map(|(_, text)| wrong_functions(text, file))
    };
    let (with_three, with_two) = (by(Dialect::TwoArguments)?, by(Dialect::ThreeArguments)?);
    let only = |lines: &[usize], others: &[usize]| -> Vec<usize> {
        lines.iter().copied().filter(|line| !others.contains(line)).collect()
    };
    let (with_three, with_two) = (only(&with_three, &with_two), only(&with_two, &with_three));
    if with_three.is_empty() || with_two.is_empty() {
        return None;
    }
    let show = |lines: &[usize]| -> String {
        let line_of = |number: usize| source.split(|&byte| byte == b'\n').nth(number.saturating_sub(1));
        let text = |number: &usize| {
            let line = String::from_utf8_lossy(line_of(*number).unwrap_or_default()).trim().to_owned();
            format!("{file}:{number}: {line}\n")
        };
        lines.iter().map(text).collect()
    };
    Some(format!(
        "\nhandlers of both kinds in one table: make all of them take the context, or none\n\
         with a context (struct cweb_context *, …):\n{}without one:\n{}",
        show(&with_three),
        show(&with_two)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_of_both_kinds() {
        let message = |line: usize, rest: &str| {
            format!("module.c:{line}:9: error: initialization of 'entry_t' from incompatible pointer type {rest}\n")
        };
        let source = b"1\n{two},\n{three},\n";
        let refusals = [(Dialect::ThreeArguments, message(2, "a")), (Dialect::TwoArguments, message(3, "b"))];
        let text = mixed(source, &refusals, "module.c").unwrap();
        assert!(text.contains("…):\nmodule.c:3: {three},\nwithout one:\nmodule.c:2: {two},"), "{text}");
        let same = [(Dialect::ThreeArguments, message(2, "a")), (Dialect::TwoArguments, message(2, "b"))];
        assert_eq!(mixed(source, &same, "module.c"), None);
    }
}
