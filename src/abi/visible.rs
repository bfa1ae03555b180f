//! Makes foreign text safe for a log: the text can't end the line, move the cursor or reverse the direction of writing.

use std::borrow::Cow;
use std::fmt::Write;

/// Whether a terminal or a reader of lines could interpret `c` as a command.
fn is_control(c: char) -> bool {
    // Separators of lines and paragraphs; marks that change the direction of the following text.
    c.is_control() && c != '\t'
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// `text` with each such character escaped: `\n`, `\u{1b}`.
#[must_use]
pub fn visible(text: &str) -> Cow<'_, str> {
    if !text.contains(is_control) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_control(c) {
            let _ = write!(out, "{}", c.escape_default());
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::visible;

    #[test]
    fn what_is_more_than_a_character_is_escaped() {
        assert_eq!(visible("plain \t text, ü 漢"), "plain \t text, ü 漢");
        assert_eq!(visible("a\nb\r\u{1b}[2K\0\u{9b}c"), "a\\nb\\r\\u{1b}[2K\\u{0}\\u{9b}c");
        assert_eq!(visible("a\u{2028}\u{202e}b"), "a\\u{2028}\\u{202e}b");
    }
}
