//! Texts added to the messages of the compiler and the linker, and corrections of those messages.

use super::lexer::Words;

/// The error for a source that came by `curl -d @file`, which removes the line breaks.
pub(crate) fn without_lines(source: &[u8], file: &str) -> Option<String> {
    let include = memchr::memmem::find(source, b"#include")?;
    let rest = source.get(include + b"#include".len()..).unwrap_or_default();
    let is_code = rest.contains(&b'{') || rest.contains(&b';');
    (is_code && !source.contains(&b'\n')).then(|| {
        format!(
            "{file}:1: error: the source has no line breaks; curl -d @file removes them: use --data-binary @file or \
             -F code=@file\n"
        )
    })
}

/// The files of a linked module, for its linker's messages.
pub(crate) struct LinkedFiles<'a> {
    /// The sources, in the order of their objects.
    pub(crate) units: Vec<&'a str>,
    /// All files.
    pub(crate) all: Vec<&'a str>,
}

const UNDEFINED: &str = "undefined reference to `";
const MULTIPLE: &str = "multiple definition of `";

/// Rewrites the linker's messages about a module of `files` in a compiler's format: place, `error:`, and the nearest name.
pub(crate) fn linker(text: &str, files: &LinkedFiles<'_>, words: &Words) -> String {
    let mut said = String::new();
    let has_own_words = text.contains(UNDEFINED) || text.contains(MULTIPLE);
    for line in text.lines() {
        if let Some((head, rest)) = line.split_once(MULTIPLE) {
            said.push_str(&defined_twice(head, rest, files));
            continue;
        }
        let Some((head, name)) = line.split_once(UNDEFINED) else {
            let is_of_linker = line.contains(": in function `")
                || line.contains("more undefined references to `")
                || line.starts_with("collect2: error:");
            if !is_of_linker || !has_own_words {
                said.push_str(line);
                said.push('\n');
            }
            continue;
        };
        let name = name.trim_end_matches('\'');
        let at = files.place(head).unwrap_or_else(|| files.units.first().copied().unwrap_or("module.c").to_owned());
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

/// The error for a name with two definitions: `head` has the place of the second, and `rest` the name and the place of the
/// first.
fn defined_twice(head: &str, rest: &str, files: &LinkedFiles<'_>) -> String {
    let (name, first) = rest.split_once("'; ").unwrap_or((rest.trim_end_matches('\''), ""));
    let first = first.strip_suffix(": first defined here").unwrap_or(first);
    let place = |text: &str| files.place(text).unwrap_or_else(|| last_part(text));
    let (second, first_at) = (place(head), place(first));
    if second == first_at {
        let units = [files.unit(first), files.unit(head)];
        let both = units.into_iter().flatten().collect::<Vec<_>>().join(" and ");
        let both = if both.is_empty() { "several sources".to_owned() } else { both };
        return format!(
            "{second}: error: multiple definition of '{name}', by {both}; declare it there with extern, or make it static inline, and \
             define it in one source\n"
        );
    }
    let first = if first_at.is_empty() { String::new() } else { format!("{first_at}: note: first defined here\n") };
    format!("{second}: error: multiple definition of '{name}'; make one of them static, or rename it\n{first}")
}

/// The last part of the path in a linker's message, for files that are not the author's.
fn last_part(text: &str) -> String {
    text.trim_end_matches([':', ' ']).rsplit('/').next().unwrap_or_default().to_owned()
}

impl LinkedFiles<'_> {
    /// The source whose object a linker's message names: `.cweb/3.o`.
    fn unit(&self, text: &str) -> Option<&str> {
        let (_, rest) = text.rsplit_once(".cweb/")?;
        let number: usize = rest.split_once(".o")?.0.parse().ok()?;
        self.units.get(number).copied()
    }

    /// The author's file in a linker's message, with the line if the message has it.
    fn place(&self, text: &str) -> Option<String> {
        let after = |file: &str| {
            // The linker may name the file with the path of the scratch directory.
            text.rmatch_indices(file).find_map(|(at, _)| {
                let before = text.get(..at)?;
                let is_whole = before.is_empty() || before.ends_with(['/', ':', ' ']);
                text.get(at + file.len()..)?.strip_prefix(':').filter(|_| is_whole)
            })
        };
        let found = self.all.iter().filter_map(|file| Some((file, after(file)?)));
        let Some((file, rest)) = found.max_by_key(|(file, _)| file.len()) else {
            return self.unit(text).map(str::to_owned);
        };
        let line = rest.split([':', ' ', '(']).next().and_then(|line| line.parse::<usize>().ok());
        Some(line.map_or_else(|| (*file).to_owned(), |line| format!("{file}:{line}")))
    }
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
        let files = |units: &[&'static str]| LinkedFiles { units: units.to_vec(), all: [units, &["inc/h.h"]].concat() };
        let said = linker(text, &files(&["module.c"]), &words(b"int helper(void); int helpr(void);"));
        assert_eq!(
            said,
            "module.c:7: error: 'helpr' is declared, but defined nowhere; did you mean 'helper'?\n\
             module.c:8: error: fclose can't be called without the server's headers; add: #include <cweb.h>\n"
        );
        let other = "/usr/bin/ld: cannot find -lnothing\ncollect2: error: ld returned 1 exit status\n";
        assert_eq!(linker(other, &files(&["module.c"]), &words(b"")), other);
        let text = "/usr/bin/ld: .cweb/1.o: in function `h':\n/d/9/src/b.c:12: undefined reference to `f'\n";
        let said = linker(text, &files(&["b.c", "src/b.c"]), &words(b""));
        assert_eq!(said, "src/b.c:12: error: 'f' is declared, but defined nowhere\n");
        let text = "/usr/bin/ld: .cweb/1.o:(.data.rel+0x0): undefined reference to `f'\n\
                    /usr/bin/ld: .cweb/1.o: in function `g':\n/d/ab.c:3: more undefined references to `f' follow\n";
        let said = linker(text, &files(&["b.c", "ab.c"]), &words(b""));
        assert_eq!(said, "ab.c: error: 'f' is declared, but defined nowhere\n");
    }

    #[test]
    fn two_definitions_of_a_name_have_both_places() {
        let files = |units: &[&'static str]| LinkedFiles { units: units.to_vec(), all: [units, &["inc/h.h"]].concat() };
        for (text, expected) in [
            (
                "/usr/bin/ld: .cweb/1.o: in function `twice':\n/d ir/.scratch/3/b.c:2: multiple definition of `twice'; \
                 .cweb/0.o:/d ir/.scratch/3/src/a.c:3: first defined here\ncollect2: error: ld returned 1 exit status\n",
                "b.c:2: error: multiple definition of 'twice'; make one of them static, or rename it\nsrc/a.c:3: note: first \
                 defined here\n",
            ),
            (
                "/usr/bin/ld: .cweb/1.o:(.bss+0x0): multiple definition of `n'; .cweb/0.o:(.bss+0x0): first defined here\n",
                "b.c: error: multiple definition of 'n'; make one of them static, or rename it\nsrc/a.c: note: first defined \
                 here\n",
            ),
            (
                "/usr/bin/ld: .cweb/1.o:/t/build/inc/h.h:4: multiple definition of `n'; .cweb/0.o:/t/build/inc/h.h:4: first \
                 defined here\n",
                "inc/h.h:4: error: multiple definition of 'n', by src/a.c and b.c; declare it there with extern, or make it \
                 static inline, and define it in one source\n",
            ),
            (
                "/usr/bin/ld: .cweb/1.o:/t/b.c:4: multiple definition of `n'; /usr/lib/libz.a(x.o):(.data+0x0): first defined here\n",
                "b.c:4: error: multiple definition of 'n'; make one of them static, or rename it\nlibz.a(x.o):(.data+0x0): note: \
                 first defined here\n",
            ),
        ] {
            assert_eq!(linker(text, &files(&["src/a.c", "b.c"]), &words(b"")), expected);
        }
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
