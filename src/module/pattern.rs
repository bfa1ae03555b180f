//! Route paths: POSIX extended regular expressions, translated to the syntax of a linear-time engine.
//!
//! Routing asks only whether a whole path matches, so POSIX's leftmost-longest rule makes no difference there; only the
//! syntax must be translated. Groups follow the engine's leftmost-first rule. Back-references need a backtracking engine
//! and are refused. `matcher` decides how many patterns are matched at once.

use super::segment_names;
use regex_automata::dfa::onepass;
use regex_automata::nfa::thompson;
use regex_automata::util::syntax;
use regex_automata::{Anchored, Input};
use std::fmt::Write;
use std::ops::Range;

/// Limit, in bytes, on one compiled pattern.
pub(super) const COMPILED_BYTES_MAX: usize = 1024 * 1024;

/// Limit on the groups of a pattern whose positions can be read.
pub const GROUPS_MAX: usize = 16;

/// A pattern that reports the positions of its groups in a path, in one pass over the path.
pub struct Groups {
    dfa: onepass::DFA,
    count: usize,
}

impl Groups {
    /// Compiles the POSIX pattern `pattern`. `None`: the pattern has no groups, more than [`GROUPS_MAX`], or groups that
    /// one pass can't tell apart (`/(a*)(a*)`). A route with such a pattern is served, but has no captures.
    ///
    /// `([^/]+)` as a whole segment always compiles.
    #[must_use]
    pub fn compile(pattern: &str) -> Option<Self> {
        let regex = translated(pattern, "(").ok()?;
        let config = onepass::Config::new().size_limit(Some(COMPILED_BYTES_MAX));
        let dfa = onepass::Builder::new()
            .syntax(syntax::Config::new().utf8(false))
            .thompson(thompson::Config::new().utf8(false).nfa_size_limit(Some(COMPILED_BYTES_MAX)))
            .configure(config)
            .build(&regex)
            .ok()?;
        let count = dfa.get_nfa().group_info().group_len(regex_automata::PatternID::ZERO).saturating_sub(1);
        (1..=GROUPS_MAX).contains(&count).then_some(Self { dfa, count })
    }

    /// The position of each group in `path`, in the order of the opening parentheses; `None` for a group that took no part.
    /// `None` as a whole if `path` does not match.
    #[must_use]
    pub fn of(&self, path: &[u8]) -> Option<Vec<Option<Range<usize>>>> {
        let mut slots = vec![None; 2 * (self.count + 1)];
        let input = Input::new(path).anchored(Anchored::Yes);
        // The cache is not kept in thread-local storage. Creating such storage during a module's call would wait for the
        // dynamic loader's lock.
        let mut cache = self.dfa.create_cache();
        self.dfa.try_search_slots(&mut cache, &input, &mut slots).ok().flatten()?;
        let place = |pair: &[Option<regex_automata::util::primitives::NonMaxUsize>]| match pair {
            [Some(start), Some(end)] => Some(start.get()..end.get()),
            _ => None,
        };
        Some(slots.chunks_exact(2).skip(1).map(place).collect())
    }
}

/// Whether `path` has no character with a special meaning, apart from its literal one.
pub(super) fn is_literal(path: &str) -> bool {
    !path.bytes().any(|byte| b".[]()*+?{}|^$\\".contains(&byte)) && !segment_names::has_names(path)
}

/// The forms in which requests have the literal path `path`: as it is, and with its bytes beyond ASCII percent-encoded, in
/// capitals as clients write them, or in small letters (RFC 3986 §6.2.2.1).
pub(super) fn spellings(path: &str) -> Vec<Vec<u8>> {
    let encoded = |digits: &[u8; 16]| {
        let mut out = Vec::with_capacity(3 * path.len());
        for byte in path.bytes() {
            if byte.is_ascii() {
                out.push(byte);
            } else {
                let digit = |number: u8| digits.get(usize::from(number)).copied().unwrap_or_default();
                out.extend([b'%', digit(byte >> 4), digit(byte & 15)]);
            }
        }
        out
    };
    let mut all = vec![path.as_bytes().to_vec()];
    if !path.is_ascii() {
        all.extend([encoded(b"0123456789ABCDEF"), encoded(b"0123456789abcdef")]);
    }
    all
}

/// The one of the [`spellings`] in capitals for the path of a request that has its bytes beyond ASCII in any form, also in
/// several; `None` if that is `path` itself. The other bytes stay as they are.
pub(super) fn in_capitals(path: &[u8]) -> Option<Vec<u8>> {
    if path.is_ascii() && !path.contains(&b'%') {
        return None;
    }
    let mut out = Vec::with_capacity(3 * path.len());
    let mut rest = path;
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        match behind {
            [high @ (b'8' | b'9' | b'a'..=b'f' | b'A'..=b'F'), low, after @ ..]
                if byte == b'%' && low.is_ascii_hexdigit() =>
            {
                out.extend([b'%', high.to_ascii_uppercase(), low.to_ascii_uppercase()]);
                rest = after;
            }
            _ if byte.is_ascii() => out.push(byte),
            _ => out.extend(format!("%{byte:02X}").bytes()),
        }
    }
    (out != path).then_some(out)
}

/// Whether `path` is meant as a pattern. A dot alone does not make one.
pub(super) fn is_pattern(path: &str) -> bool {
    path.bytes().any(|byte| b"[]()*+?{}|^$\\".contains(&byte)) || segment_names::has_names(path)
}

/// The first segment of the form `{name}`, which routers of other servers take for a parameter, and the path with `:name`
/// in place of such segments.
pub(super) fn placeholder(path: &str) -> Option<(&str, String)> {
    let is_name = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_alphabetic())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    let braced = |segment: &str| {
        let name = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).filter(|name| is_name(name));
        name.map(|name| format!(":{name}"))
    };
    let first = path.split('/').find(|segment| braced(segment).is_some())?;
    let instead: Vec<String> =
        path.split('/').map(|segment| braced(segment).unwrap_or_else(|| segment.to_owned())).collect();
    Some((first, instead.join("/")))
}

/// A translation in progress.
struct Translation {
    out: String,
    /// The offset in `out` of each open group.
    open: Vec<usize>,
    /// The offset of the last atom.
    atom: usize,
    /// Whether the last atom has been repeated.
    repeated: bool,
    /// The offset in `out` at which the current expression begins: after the last `(`.
    start: usize,
    /// The text with which a group begins.
    group: &'static str,
}

impl Translation {
    /// The text appended next is an atom.
    fn begin_atom(&mut self) {
        (self.atom, self.repeated) = (self.out.len(), false);
    }

    /// Repeats the last atom. A repetition of a repetition applies to the whole: `a+?` is `(a+)?` in POSIX, but a lazy `a+`
    /// in the regex crate.
    fn repeat(&mut self, operator: &str) {
        if self.repeated {
            self.out.insert_str(self.atom, "(?:");
            self.out.push(')');
        }
        self.out.push_str(operator);
        self.repeated = true;
    }

    fn open(&mut self) {
        self.open.push(self.out.len());
        self.out.push_str(self.group);
        self.start = self.out.len();
    }

    /// A `)` without an open group is a character of the path.
    fn close(&mut self) {
        match self.open.pop() {
            Some(start) => {
                self.out.push(')');
                (self.atom, self.repeated) = (start, false);
            }
            None => {
                self.begin_atom();
                self.out.push_str("\\)");
            }
        }
    }
}

/// Translates `pattern` to the syntax of the `regex` crate, anchored at both ends.
///
/// # Errors
/// A text for the author: the error in the pattern.
pub(super) fn translate(pattern: &str) -> Result<String, String> {
    translated(pattern, "(?:")
}

/// [`translate`], with `group` at the beginning of each group.
fn translated(pattern: &str, group: &'static str) -> Result<String, String> {
    let out = String::from("(?s-u)^(?:");
    let mut to = Translation { start: out.len(), out, open: Vec::new(), atom: 0, repeated: false, group };
    let chars: Vec<char> = segment_names::expanded(pattern).chars().collect();
    let mut at = 0;
    while let Some(&c) = chars.get(at) {
        at += 1;
        match c {
            '\\' => {
                let Some(&escaped) = chars.get(at) else { return Err("it ends in a backslash".to_owned()) };
                at += 1;
                to.begin_atom();
                escape(escaped, &mut to.out)?;
            }
            '[' => {
                to.begin_atom();
                at = bracket(&chars, at, &mut to.out)?;
            }
            '{' => match interval(&chars, at) {
                Some((operator, end)) => {
                    to.repeat(&operator);
                    at = end;
                }
                None => {
                    to.begin_atom();
                    to.out.push_str("\\{");
                }
            },
            // POSIX leaves these characters undefined at the start of an expression; they are taken literally.
            '*' | '+' | '?' if to.out.len() > to.start => to.repeat(c.encode_utf8(&mut [0; 4])),
            '(' => to.open(),
            ')' => to.close(),
            '.' | '|' | '^' | '$' => {
                to.begin_atom();
                to.out.push(c);
            }
            _ => {
                to.begin_atom();
                push_literal(c, &mut to.out);
            }
        }
    }
    let mut out = to.out;
    out.push_str(")$");
    regex::bytes::RegexBuilder::new(&out).size_limit(COMPILED_BYTES_MAX).build().map(|_| out).map_err(|error| {
        match error {
            regex::Error::CompiledTooBig(_) => "it is too large when compiled".to_owned(),
            other => other.to_string().lines().last().unwrap_or("it can't be read").trim().to_owned(),
        }
    })
}

/// The interval after a `{`, if there is one (`3}`, `3,}`, `3,5}`, and GNU's `,5}`), and the offset of its end.
fn interval(chars: &[char], at: usize) -> Option<(String, usize)> {
    let body: String = chars.iter().skip(at).take_while(|&&c| c != '}').collect();
    let end = at + body.chars().count();
    let (low, high) = body.split_once(',').unwrap_or((&body, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if chars.get(end) != Some(&'}') || !digits(low) || !digits(high) || low.is_empty() && high.is_empty() {
        return None;
    }
    let low_or_0 = if low.is_empty() { "0" } else { "" };
    Some((format!("{{{low_or_0}{body}}}"), end + 1))
}

fn push_literal(c: char, out: &mut String) {
    if c.is_ascii() {
        out.push_str(&regex::escape(&c.to_string()));
    } else {
        // The expression works on bytes. Clients send such a character percent-encoded.
        let mut buffer = [0; 4];
        let text = c.encode_utf8(&mut buffer);
        out.push_str("(?:");
        for byte in text.bytes() {
            let _ = write!(out, "\\x{byte:02x}");
        }
        out.push('|');
        for byte in text.bytes() {
            out.push('%');
            for digit in format!("{byte:02x}").chars() {
                let _ = write!(out, "[{digit}{}]", digit.to_ascii_uppercase());
            }
        }
        out.push(')');
    }
}

/// Translates an escape outside brackets. `\w` and similar ones come from GNU. POSIX leaves `\d` undefined; it is taken as
/// a digit, which authors mean by it.
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

/// Translates a bracket expression that begins at `at`, after its `[`. Returns the offset of its end.
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
                let end = chars.get(at + 2).copied().filter(|_| range);
                if range && !(c.is_ascii() && end.is_some_and(|end| end.is_ascii())) {
                    return Err(format!("a range in brackets that begins with '{c}' is not one of ASCII characters"));
                }
                push_class_char(c, out);
                at += 1;
                if let Some(end) = end {
                    out.push('-');
                    push_class_char(end, out);
                    at += 2;
                }
            }
        }
    }
}

/// Translates `[:alpha:]` and the other character classes.
fn class(chars: &[char], at: usize, out: &mut String) -> Result<usize, String> {
    let name: String = chars.iter().skip(at + 2).take_while(|&&c| c != ':').collect();
    let known =
        ["alnum", "alpha", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space", "upper", "xdigit"];
    let end = at + 2 + name.chars().count();
    if !known.contains(&name.as_str()) || chars.get(end + 1) != Some(&']') {
        return Err(format!("[:{name}:] is not a character class"));
    }
    let _ = write!(out, "[:{name}:]");
    Ok(end + 2)
}

/// Appends one character of a bracket expression. All characters but letters and digits are escaped: the regex crate gives
/// `&&`, `--`, `~~`, `[` and `\` meanings that POSIX does not. A character beyond ASCII stands for its bytes, as in the C
/// locale.
fn push_class_char(c: char, out: &mut String) {
    if c.is_ascii_alphanumeric() {
        return out.push(c);
    }
    for byte in c.encode_utf8(&mut [0; 4]).bytes() {
        let _ = write!(out, "\\x{byte:02x}");
    }
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
            ("/é+", "/%C3%A9é%c3%a9", "/%C3"),
            ("/größe/:id", "/gr%C3%B6%C3%9Fe/7", "/groesse/7"),
            ("/.*", "/a\nb", "x"),
            ("/.+?", "/", "x"),
            ("/a+?b", "/b", "/"),
            ("/a{2}?", "/", "/a"),
            ("/a{2}?", "/aa", "/aaa"),
            ("/(ab){2}?c", "/c", "/abc"),
            ("/x[ab]*?y", "/xy", "/x"),
            ("/\\d+?x", "/x", "/"),
            ("/(a+?b)+?", "/abb", "/a"),
            ("/a**", "/aa", "/b"),
            ("/a+*", "/", "/b"),
            ("/a{2}{2}", "/aaaa", "/aaa"),
            ("/paren)", "/paren)", "/paren"),
            ("/(a))?", "/a)", "/a))"),
            ("/[äö]+", "/äö", "/a"),
            ("/[^ä]", "/a", "/ä"),
        ] {
            assert!(matches(pattern, yes), "{pattern} {yes}");
            assert!(!matches(pattern, no), "{pattern} {no}");
        }
    }

    #[test]
    fn groups_are_told_in_one_pass_or_not_at_all() {
        let groups = |pattern: &str, path: &str| {
            let places = Groups::compile(pattern).unwrap().of(path.as_bytes())?;
            Some(places.into_iter().map(|place| place.map_or("-", |place| &path[place]).to_owned()).collect::<Vec<_>>())
        };
        let some = |texts: &[&str]| Some(texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
        assert_eq!(groups("/u/([^/]+)/x/([^/]+)", "/u/7/x/ab"), some(&["7", "ab"]));
        assert_eq!(groups("/u/([^/]+)/x/([^/]+)", "/u/7/x/ab/"), None);
        assert_eq!(groups("/(a)|/(b)", "/b"), some(&["-", "b"]));
        assert_eq!(groups("/\\(([0-9]{2})?", "/(42"), some(&["42"]));
        assert_eq!(groups("/\\(([0-9]{2})?", "/("), some(&["-"]));
        for none in ["/a", "/(a*)(a*)", "/(", &format!("/{}", "(a)".repeat(GROUPS_MAX + 1))] {
            assert!(Groups::compile(none).is_none(), "{none}");
        }
    }

    #[test]
    fn refuses_with_a_reason() {
        assert!(translate("/(a)\\1").unwrap_err().contains("back-references"));
        for bad in ["/[a", "/(", "/[ä-ö]", "/\\", "/[[:foo:]]", "/[[.a.]]", "/((a{200}){200}){200}"] {
            assert!(translate(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn knows_placeholders() {
        for (path, first, instead) in
            [("/u/{id}", "{id}", "/u/:id"), ("/u/{user_id}/x/:y", "{user_id}", "/u/:user_id/x/:y")]
        {
            assert_eq!(placeholder(path), Some((first, instead.to_owned())));
        }
        for path in ["/a:b", "/:", "/:8080", "/a{2}", "/{}", "/[:]id", "/{2}"] {
            assert_eq!(placeholder(path), None, "{path}");
        }
    }

    #[test]
    fn a_literal_path_has_the_forms_that_clients_send() {
        let texts = |path: &str| -> Vec<String> {
            spellings(path).into_iter().map(|form| String::from_utf8(form).unwrap()).collect()
        };
        assert_eq!(texts("/a%20b"), ["/a%20b"]);
        assert_eq!(texts("/aß"), ["/aß", "/a%C3%9F", "/a%c3%9f"]);
        let capitals = |path: &str| in_capitals(path.as_bytes()).map(|path| String::from_utf8(path).unwrap());
        for path in ["/aß", "/a%c3%9f", "/a%C3%9f", "/a%c3%9F"] {
            assert_eq!(capitals(path).as_deref(), Some("/a%C3%9F"), "{path}");
        }
        assert_eq!(capitals("/%c3%9fß%6a%c").as_deref(), Some("/%C3%9F%C3%9F%6a%c"));
        for path in ["/a", "/a%C3%9F", "/%6a", "/%", "/%c", "/%cg", "/%zz"] {
            assert_eq!(capitals(path), None, "{path}");
        }
    }

    #[test]
    fn knows_literals() {
        assert!(is_literal("/a/b-c_d~e:f/:8") && !is_literal("/a/:b") && !is_literal("/a.b") && !is_literal("/a|b"));
    }
}
