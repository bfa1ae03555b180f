//! Texts added to the messages of the compiler and the linker, and corrections of those messages.

use super::lexer::Words;

/// The error for a source that came by `curl -d @file`, which removes the line breaks.
pub(crate) fn without_lines(source: &[u8], file: &str) -> Option<String> {
    let include = memchr::memmem::find(source, b"#include")?;
    let rest = source.get(include + b"#include".len()..).unwrap_or_default();
    let is_code = rest.contains(&b'{') || rest.contains(&b';');
    (is_code && !source.contains(&b'\n')).then(|| {
        format!(
            "{file}:1: error: the source has no line breaks; curl -d @file takes them out: use --data-binary @file or \
             -F code=@file\n"
        )
    })
}

/// Rewrites the linker's messages about the sources `files` in a compiler's format: place, `error:`, and the nearest name.
pub(crate) fn linker(text: &str, files: &[&str], words: &Words) -> String {
    let mut said = String::new();
    for line in text.lines() {
        let Some((head, name)) = line.split_once("undefined reference to `") else {
            let is_of_linker = line.contains(": in function `") || line.starts_with("collect2: error:");
            if !is_of_linker || !text.contains("undefined reference to `") {
                said.push_str(line);
                said.push('\n');
            }
            continue;
        };
        let name = name.trim_end_matches('\'');
        let at = linked_from(head, files);
        if let Some(real) = name.strip_prefix("__wrap_") {
            said.push_str(&format!(
                "{at}: error: {real} can't be called without the server's headers; add: #include <cweb.h>\n"
            ));
            continue;
        }
        said.push_str(&format!("{at}: error: '{name}' is declared, but defined nowhere"));
        if let Some(near) = nearest(name, words) {
            said.push_str(&format!("; did you mean '{near}'?"));
        }
        said.push('\n');
    }
    said
}

/// The file and the line in a linker message, which may contain the file's full path.
fn linked_from(head: &str, files: &[&str]) -> String {
    let line_of = |file: &&str| {
        let (_, rest) = head.split_once(&format!("{file}:"))?;
        rest.split([':', ' ', '(']).next()?.parse::<usize>().ok()
    };
    let found = files.iter().filter_map(|file| Some((file.len(), file, line_of(file)?))).max();
    let first = files.first().copied().unwrap_or("module.c");
    found.map_or_else(|| first.to_owned(), |(_, file, line)| format!("{file}:{line}"))
}

/// The word of the source that is most similar to `name`, if one is similar enough.
fn nearest<'a>(name: &str, words: &'a Words) -> Option<&'a str> {
    let limit = (name.len() / 3).clamp(1, 3);
    let close = words.identifiers().filter(|word| *word != name && word.len().abs_diff(name.len()) <= limit);
    let close = close.map(|word| (distance(name.as_bytes(), word.as_bytes()), word));
    close.filter(|(distance, _)| *distance <= limit).min().map(|(_, word)| word)
}

/// The edit distance: letters to insert, remove, replace, or exchange with a neighbour (Damerau-Levenshtein).
pub(in crate::module) fn distance(from: &[u8], to: &[u8]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=to.len()).collect();
    for (row, letter) in from.iter().enumerate() {
        let mut current = vec![row + 1];
        for (column, other) in to.iter().enumerate() {
            let at = |line: &[usize], column: usize| line.get(column).copied().unwrap_or(usize::MAX / 2);
            let mut best = at(&last, column) + usize::from(letter != other);
            best = best.min(at(&last, column + 1) + 1).min(at(&current, column) + 1);
            let exchanged =
                row > 0 && column > 0 && from.get(row - 1) == Some(other) && to.get(column - 1) == Some(letter);
            if exchanged {
                best = best.min(at(&before, column - 1) + 1);
            }
            current.push(best);
        }
        before = std::mem::replace(&mut last, current);
    }
    last.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::lexer::words;
    use super::*;

    #[test]
    fn what_the_linker_says_gets_a_place_and_a_name() {
        let text = "/usr/bin/ld: ./ccA.o: in function `handler':\n/tmp/1/module.c:7: undefined reference to `helpr'\n\
                    /usr/bin/ld: /tmp/1/module.c:8: undefined reference to `__wrap_fclose'\n\
                    collect2: error: ld returned 1 exit status\n";
        let said = linker(text, &["module.c"], &words(b"int helper(void); int helpr(void);"));
        assert_eq!(
            said,
            "module.c:7: error: 'helpr' is declared, but defined nowhere; did you mean 'helper'?\n\
             module.c:8: error: fclose can't be called without the server's headers; add: #include <cweb.h>\n"
        );
        let other = "/usr/bin/ld: cannot find -lnothing\ncollect2: error: ld returned 1 exit status\n";
        assert_eq!(linker(other, &["module.c"], &words(b"")), other);
        let text = "/usr/bin/ld: .cweb/1.o: in function `h':\n/d/9/src/b.c:12: undefined reference to `f'\n";
        let said = linker(text, &["b.c", "src/b.c"], &words(b""));
        assert_eq!(said, "src/b.c:12: error: 'f' is declared, but defined nowhere\n");
    }

    #[test]
    fn a_source_without_line_breaks() {
        let said = |source: &[u8]| without_lines(source, "m.c");
        assert!(said(b"/* a */#include <cweb.h>int x;").unwrap().starts_with("m.c:1: error"));
        assert!(said(b"#include <cweb.h>\nint x;").is_none());
        assert!(said(b"#include <cweb.h>").is_none() && said(b"int x;").is_none());
    }

    #[test]
    fn distances() {
        let table = [
            ("abc", "abc", 0),
            ("abc", "abd", 1),
            ("abc", "acb", 1),
            ("abc", "ab", 1),
            ("", "ab", 2),
            ("kitten", "sitting", 3),
        ];
        for (from, to, expected) in table {
            assert_eq!(distance(from.as_bytes(), to.as_bytes()), expected, "{from} {to}");
        }
        assert_eq!(nearest("x", &words(b"y long")), Some("y"));
        assert_eq!(nearest("respond", &words(b"nothing here")), None);
    }
}
