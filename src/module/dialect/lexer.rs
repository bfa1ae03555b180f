//! The words of a C source and the files it includes. Comments, literals and spliced lines are recognised as a compiler
//! does it; nothing is preprocessed.

use std::collections::HashSet;

/// The content of a source, as far as the choice of a dialect needs it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Words {
    /// Identifiers, including keywords and macro names.
    identifiers: HashSet<String>,
    /// Names between `<…>` or `"…"` of `#include` lines, in their order.
    includes: Vec<String>,
    /// The lines `#pragma cweb …`, in their order.
    pragmas: Vec<Pragma>,
}

/// A line `#pragma cweb …`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pragma {
    /// The number of the line, from 1.
    pub(crate) line: usize,
    /// The text after `cweb`, without comments and without blanks at its ends.
    pub(crate) text: String,
}

impl Words {
    /// Whether the source has this identifier outside comments and literals.
    pub(crate) fn has(&self, identifier: &str) -> bool {
        self.identifiers.contains(identifier)
    }

    /// Whether `right` holds for one of the identifiers.
    pub(crate) fn any(&self, right: impl Fn(&str) -> bool) -> bool {
        self.identifiers.iter().any(|identifier| right(identifier))
    }

    /// Adds the identifiers of `other`.
    pub(crate) fn absorb(&mut self, other: &Self) {
        self.identifiers.extend(other.identifiers.iter().cloned());
    }

    /// The identifiers, in no particular order.
    pub(crate) fn identifiers(&self) -> impl Iterator<Item = &str> {
        self.identifiers.iter().map(String::as_str)
    }

    /// The lines `#pragma cweb …`, in their order.
    pub(crate) fn pragmas(&self) -> &[Pragma] {
        &self.pragmas
    }

    /// Whether the source includes a header of this name, in any directory.
    pub(crate) fn includes(&self, header: &str) -> bool {
        self.includes.iter().any(|name| name.rsplit('/').next() == Some(header))
    }
}

/// Reads a source. Any bytes are accepted; bytes that are not C only give fewer words.
pub(crate) fn words(source: &[u8]) -> Words {
    let (text, splices) = spliced(source);
    let mut cursor = Cursor { text: &text, at: 0 };
    let mut words = Words::default();
    // A directive is a `#` with nothing but blanks and comments before it on its line.
    let mut line_is_empty = true;
    while let Some(byte) = cursor.peek(0) {
        match byte {
            b'\n' => {
                line_is_empty = true;
                cursor.at += 1;
            }
            byte if byte.is_ascii_whitespace() => cursor.at += 1,
            b'/' if cursor.peek(1) == Some(b'*') => cursor.skip_block_comment(),
            b'/' if cursor.peek(1) == Some(b'/') => cursor.skip_line(),
            b'#' if line_is_empty => {
                cursor.at += 1;
                line_is_empty = false;
                let start = cursor.at;
                if let Some(name) = cursor.include() {
                    words.includes.push(name);
                } else if let Some(pragma) = cursor.pragma() {
                    let before = text.get(..start).unwrap_or_default();
                    let taken_out = splices.iter().filter(|at| **at <= start).count();
                    let line = 1 + memchr::memchr_iter(b'\n', before).count() + taken_out;
                    words.pragmas.push(Pragma { line, text: pragma });
                }
            }
            b'"' | b'\'' => {
                line_is_empty = false;
                cursor.skip_literal(byte);
            }
            byte if is_word(byte) => {
                line_is_empty = false;
                let word = cursor.word();
                if !word.first().is_some_and(u8::is_ascii_digit) {
                    words.identifiers.insert(String::from_utf8_lossy(word).into_owned());
                }
            }
            _ => {
                line_is_empty = false;
                cursor.at += 1;
            }
        }
    }
    words
}

/// The source without backslashes at line ends and the line breaks after them (C11 §5.1.1.2, phase 2), and the offsets of
/// the removed ones.
fn spliced(source: &[u8]) -> (Vec<u8>, Vec<usize>) {
    let mut text = Vec::with_capacity(source.len());
    let mut splices = Vec::new();
    let mut rest = source;
    while let Some((&byte, behind)) = rest.split_first() {
        // GCC ignores blanks between the backslash and the line break.
        let blanks = behind.iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\r')).count();
        match behind.get(blanks) {
            Some(b'\n') if byte == b'\\' => {
                splices.push(text.len());
                rest = behind.get(blanks + 1..).unwrap_or_default();
            }
            _ => {
                text.push(byte);
                rest = behind;
            }
        }
    }
    (text, splices)
}

/// Whether a byte belongs to an identifier or a number. Bytes beyond ASCII belong to a name in UTF-8.
fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$') || byte >= 0x80
}

struct Cursor<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn peek(&self, ahead: usize) -> Option<u8> {
        self.text.get(self.at + ahead).copied()
    }

    fn word(&mut self) -> &'a [u8] {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let length = rest.iter().take_while(|byte| is_word(**byte)).count();
        self.at += length;
        rest.get(..length).unwrap_or_default()
    }

    fn skip_block_comment(&mut self) {
        self.at += 2;
        while let Some(byte) = self.peek(0) {
            if byte == b'*' && self.peek(1) == Some(b'/') {
                self.at += 2;
                return;
            }
            self.at += 1;
        }
    }

    /// Skips to the line break, and leaves it.
    fn skip_line(&mut self) {
        while self.peek(0).is_some_and(|byte| byte != b'\n') {
            self.at += 1;
        }
    }

    /// Skips a string or a character. A literal that is not closed ends with its line, as in compilers.
    fn skip_literal(&mut self, quote: u8) {
        self.at += 1;
        while let Some(byte) = self.peek(0) {
            match byte {
                b'\n' => return,
                b'\\' => self.at += 1,
                byte if byte == quote => {
                    self.at += 1;
                    return;
                }
                _ => {}
            }
            self.at += 1;
        }
    }

    /// Skips blanks and comments within a line.
    fn skip_blanks(&mut self) {
        while let Some(byte) = self.peek(0) {
            match byte {
                b' ' | b'\t' | b'\r' | 0x0b | 0x0c => self.at += 1,
                b'/' if self.peek(1) == Some(b'*') => self.skip_block_comment(),
                _ => return,
            }
        }
    }

    /// After the `#` of a directive: the rest of the line, if the directive is `pragma cweb`.
    fn pragma(&mut self) -> Option<String> {
        let start = self.at;
        self.skip_blanks();
        let is_pragma = self.word() == b"pragma";
        self.skip_blanks();
        if !is_pragma || self.word() != b"cweb" {
            // The words of another directive are read as ordinary words.
            self.at = start;
            return None;
        }
        let mut text = Vec::new();
        while let Some(byte) = self.peek(0) {
            match byte {
                b'\n' => break,
                b'/' if self.peek(1) == Some(b'*') => self.skip_block_comment(),
                b'/' if self.peek(1) == Some(b'/') => self.skip_line(),
                b'"' => {
                    let from = self.at;
                    self.skip_literal(byte);
                    text.extend_from_slice(self.text.get(from..self.at).unwrap_or_default());
                }
                byte => {
                    text.push(byte);
                    self.at += 1;
                }
            }
        }
        Some(String::from_utf8_lossy(&text).trim().to_owned())
    }

    /// After the `#` of a directive: the file's name, if the directive is an `#include` of a file.
    fn include(&mut self) -> Option<String> {
        self.skip_blanks();
        let start = self.at;
        let directive = self.word();
        if !matches!(directive, b"include" | b"include_next" | b"import") {
            // The words of another directive are read as ordinary words.
            self.at = start;
            return None;
        }
        self.skip_blanks();
        let close = match self.peek(0) {
            Some(b'<') => b'>',
            Some(b'"') => b'"',
            _ => return None,
        };
        self.at += 1;
        let rest = self.text.get(self.at..).unwrap_or_default();
        let length = rest.iter().position(|&byte| byte == close || byte == b'\n')?;
        self.at += length + usize::from(rest.get(length) == Some(&close));
        Some(String::from_utf8_lossy(rest.get(..length).unwrap_or_default()).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn identifiers(source: &str) -> Vec<String> {
        let mut found: Vec<String> = words(source.as_bytes()).identifiers.into_iter().collect();
        found.sort();
        found
    }

    #[test]
    fn what_counts_as_a_word() {
        let table: [(&str, &[&str]); 16] = [
            ("int cweb_context;", &["cweb_context", "int"]),
            ("/* cweb_context */ a", &["a"]),
            ("/* cweb_context", &[]),
            ("// cweb_context\nb", &["b"]),
            ("// cweb_context \\\n cweb_context too\nb", &["b"]),
            ("/\\\n/ cweb_context\nb", &["b"]),
            ("/\\\n* cweb_context *\\\n/ b", &["b"]),
            ("\"cweb_context\" c", &["c"]),
            ("\"\\\"cweb_context\" c", &["c"]),
            ("\"/*\" c \"*/\"", &["c"]),
            ("'\"' c '\"'", &["c"]),
            ("\"open\nc", &["c"]),
            ("cweb_\\\ncontext", &["cweb_context"]),
            ("cweb_\\ \r\ncontext", &["cweb_context"]),
            ("#define A cweb_context", &["A", "cweb_context", "define"]),
            ("0x1fu 1e5 x1", &["x1"]),
        ];
        for (source, expected) in table {
            assert_eq!(identifiers(source), expected, "{source}");
        }
    }

    #[test]
    fn what_counts_as_an_include() {
        let table: [(&str, &[&str]); 11] = [
            ("#include <wafer.h>", &["wafer.h"]),
            ("  #  include \"nope.h\"", &["nope.h"]),
            ("/* x */ # /* y */ include /* z */ <server.h>\n#include <b.h>", &["server.h", "b.h"]),
            ("#inc\\\nlude <waf\\\ner.h>", &["wafer.h"]),
            ("// #include <wafer.h>", &[]),
            ("/*\n#include <wafer.h>\n*/", &[]),
            ("\"\\\n#include <wafer.h>\"", &[]),
            ("x #include <wafer.h>", &[]),
            ("#include <wafer.h", &[]),
            ("#include NAME", &[]),
            ("#define X <wafer.h>", &[]),
        ];
        for (source, expected) in table {
            assert_eq!(words(source.as_bytes()).includes, expected, "{source}");
        }
        let found = words(b"#include \"lib/nopeutils.h\"");
        assert!(found.includes("nopeutils.h") && !found.includes("utils.h"));
    }

    #[test]
    fn what_counts_as_a_pragma() {
        let found = words(
            b"#pragma cweb link(\"a\" /* , \"b\" */, \"//c\") // d\nint \\\n x;\n # pragma cweb cflags(\"-O3\")\n\
              #pragma once\n// #pragma cweb x\n/*\n#pragma cweb y\n*/ \"#pragma cweb z\"",
        );
        let pragma = |line, text: &str| Pragma { line, text: text.to_owned() };
        let expected = [pragma(1, "link(\"a\" , \"//c\")"), pragma(4, "cflags(\"-O3\")")];
        assert_eq!(found.pragmas(), expected);
        assert!(found.has("once"));
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_read(source in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = words(&source);
        }

        #[test]
        fn a_splice_anywhere_changes_nothing(at in 0usize..60, blanks in "[ \t\r]{0,2}") {
            let source = "#include <wafer.h>\nint cweb_context(\"a\"); /* b */ // c\nint d;\n";
            let at = at.min(source.len());
            let broken = format!("{}\\{blanks}\n{}", &source[..at], &source[at..]);
            prop_assert_eq!(words(broken.as_bytes()), words(source.as_bytes()));
        }

        #[test]
        fn what_a_comment_or_a_literal_says_is_no_word(text in "[a-z <>#/+.]{0,40}") {
            let within = |open: &str, close: &str| words(format!("before {open}{text}{close} behind").as_bytes());
            let expected = words(b"before behind");
            prop_assert_eq!(within("\"", "\""), expected.clone());
            prop_assert_eq!(within("//", "\n"), expected.clone());
            prop_assert_eq!(within("/*", " */"), expected);
        }
    }
}
