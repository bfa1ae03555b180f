//! Route paths: POSIX extended regular expressions, run by a linear-time engine.
//!
//! Only whether a whole path matches is asked, never where, so POSIX's leftmost-longest rule makes no difference; what
//! differs is syntax, and that is translated here. Back-references need a backtracking engine and are refused.

use std::fmt::Write;

/// Memory one compiled pattern may take.
pub(super) const COMPILED_BYTES_MAX: usize = 1024 * 1024;

/// Whether `path` holds nothing with a meaning beyond itself.
pub(super) fn is_literal(path: &str) -> bool {
    !path.bytes().any(|byte| b".[]()*+?{}|^$\\".contains(&byte))
}

/// Translates `pattern` to the syntax of the `regex` crate, anchored at both ends.
///
/// # Errors
/// What is wrong with it.
pub(super) fn translate(pattern: &str) -> Result<String, String> {
    let mut out = String::from("(?s-u)^(?:");
    let chars: Vec<char> = pattern.chars().collect();
    let mut at = 0;
    while let Some(&c) = chars.get(at) {
        at += 1;
        match c {
            '\\' => {
                let Some(&escaped) = chars.get(at) else { return Err("it ends in a backslash".to_owned()) };
                at += 1;
                escape(escaped, &mut out)?;
            }
            '[' => at = bracket(&chars, at, &mut out)?,
            '{' if !is_interval(&chars, at) => out.push_str("\\{"),
            '{' if chars.get(at) == Some(&',') => out.push_str("{0"), // GNU: {,3} is {0,3}
            '*' | '+' | '?' if out.ends_with("(?:") || at == 1 => {
                // At the start of an expression POSIX leaves them undefined; glibc takes them as themselves.
                out.push('\\');
                out.push(c);
            }
            '(' => out.push_str("(?:"),
            '.' | '*' | '+' | '?' | '|' | ')' | '^' | '$' | '{' => out.push(c),
            '}' => out.push(if closes_interval(&out) { '}' } else { c }),
            _ => push_literal(c, &mut out),
        }
    }
    out.push_str(")$");
    regex::bytes::RegexBuilder::new(&out).size_limit(COMPILED_BYTES_MAX).build().map(|_| out).map_err(|error| {
        match error {
            regex::Error::CompiledTooBig(_) => "it is too large when compiled".to_owned(),
            other => other.to_string().lines().last().unwrap_or("it can't be read").trim().to_owned(),
        }
    })
}

fn closes_interval(out: &str) -> bool {
    out.rfind('{').is_some_and(|open| out.get(open + 1..).is_some_and(|body| !body.contains('}')))
}

/// Whether the text after a `{` is an interval: `3}`, `3,}`, `3,5}`, `,5}`.
fn is_interval(chars: &[char], at: usize) -> bool {
    let body: String = chars.iter().skip(at).take_while(|&&c| c != '}').collect();
    let closed = chars.get(at + body.chars().count()) == Some(&'}');
    let (low, high) = body.split_once(',').unwrap_or((&body, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    closed && digits(low) && digits(high) && !(low.is_empty() && high.is_empty())
}

fn push_literal(c: char, out: &mut String) {
    if c.is_ascii() {
        out.push_str(&regex::escape(&c.to_string()));
    } else {
        // The expression works on bytes.
        let mut buffer = [0; 4];
        out.push_str("(?:");
        for byte in c.encode_utf8(&mut buffer).bytes() {
            let _ = write!(out, "\\x{byte:02x}");
        }
        out.push(')');
    }
}

/// What stands behind a backslash outside brackets. `\w` and its like are GNU's; `\d` POSIX leaves undefined, and
/// everybody who writes it means a digit.
fn escape(c: char, out: &mut String) -> Result<(), String> {
    match c {
        '1'..='9' => {
            return Err(format!("back-references (\\{c}) need a backtracking engine, which a request could stall"));
        }
        'w' => out.push_str("[[:alnum:]_]"),
        'W' => out.push_str("[^[:alnum:]_]"),
        's' => out.push_str("[[:space:]]"),
        'S' => out.push_str("[^[:space:]]"),
        'd' => out.push_str("[0-9]"),
        'D' => out.push_str("[^0-9]"),
        'b' => out.push_str("\\b"),
        'B' => out.push_str("\\B"),
        '<' => out.push_str("\\b{start}"),
        '>' => out.push_str("\\b{end}"),
        other => push_literal(other, out),
    }
    Ok(())
}

/// Translates a bracket expression that begins at `at`, behind its `[`. Returns where it ends.
fn bracket(chars: &[char], mut at: usize, out: &mut String) -> Result<usize, String> {
    out.push('[');
    if chars.get(at) == Some(&'^') {
        out.push('^');
        at += 1;
    }
    let first = at;
    loop {
        let Some(&c) = chars.get(at) else { return Err("a [ is not closed".to_owned()) };
        match (c, chars.get(at + 1)) {
            (']', _) if at > first => {
                out.push(']');
                return Ok(at + 1);
            }
            ('[', Some(':')) => at = class(chars, at, out)?,
            ('[', Some('.' | '=')) => {
                return Err("collating symbols and equivalence classes are not supported".to_owned());
            }
            _ => {
                let range = chars.get(at + 1) == Some(&'-') && chars.get(at + 2).is_some_and(|&end| end != ']');
                push_class_char(c, out)?;
                at += 1;
                if range {
                    out.push('-');
                    push_class_char(chars.get(at + 1).copied().unwrap_or(c), out)?;
                    at += 2;
                }
            }
        }
    }
}

/// `[:alpha:]` and its like.
fn class(chars: &[char], at: usize, out: &mut String) -> Result<usize, String> {
    let name: String = chars.iter().skip(at + 2).take_while(|&&c| c != ':').collect();
    let known =
        ["alnum", "alpha", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space", "upper", "xdigit"];
    let end = at + 2 + name.chars().count();
    if !known.contains(&name.as_str()) || chars.get(end + 1) != Some(&']') {
        return Err(format!("[:{name}:] is no character class"));
    }
    let _ = write!(out, "[:{name}:]");
    Ok(end + 2)
}

/// One character of a bracket expression. All but letters and digits are escaped: the regex crate gives `&&`, `--`, `~~`,
/// `[` and `\` meanings that POSIX does not.
fn push_class_char(c: char, out: &mut String) -> Result<(), String> {
    if !c.is_ascii() {
        return Err(format!("'{c}' in brackets: only ASCII characters can stand there; use (a|b)"));
    }
    if c.is_ascii_alphanumeric() {
        out.push(c);
    } else {
        let _ = write!(out, "\\x{:02x}", u32::from(c));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, path: &str) -> bool {
        regex::bytes::Regex::new(&translate(pattern).unwrap()).unwrap().is_match(path.as_bytes())
    }

    #[test]
    fn means_what_posix_means() {
        for (pattern, yes, no) in [
            ("/user/[0-9]+", "/user/42", "/user/42/x"),
            ("/a|/b", "/b", "/ab"),
            ("/f.c", "/fxc", "/fc"),
            ("/f\\.c", "/f.c", "/fxc"),
            ("/[]a]", "/]", "/b"),
            ("/[^]a]", "/b", "/]"),
            ("/[a\\]", "/\\", "/b"),
            ("/[[:alpha:]_]+", "/ab_", "/1"),
            ("/[a&&b]", "/&", "/c"),
            ("/[+--]", "/,", "/."),
            ("/a{2,3}", "/aaa", "/a"),
            ("/a{,2}", "/", "/aaa"),
            ("/a{x}", "/a{x}", "/ax"),
            ("/(a|b)*", "/abba", "/abc"),
            ("^/x$", "/x", "/xy"),
            ("/\\w+", "/a_1", "/a-1"),
            ("/\\d", "/7", "/d"),
            ("/é+", "/éé", "/e"),
            ("/.*", "/a\nb", "x"),
        ] {
            assert!(matches(pattern, yes), "{pattern} {yes}");
            assert!(!matches(pattern, no), "{pattern} {no}");
        }
    }

    #[test]
    fn refuses_with_a_reason() {
        assert!(translate("/(a)\\1").unwrap_err().contains("back-references"));
        for bad in ["/[a", "/(", "/a)", "/\\", "/[[:foo:]]", "/[[.a.]]", "/((a{200}){200}){200}"] {
            assert!(translate(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn knows_literals() {
        assert!(is_literal("/a/b-c_d~e") && !is_literal("/a.b") && !is_literal("/a|b"));
    }
}
