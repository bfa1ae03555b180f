//! How a source is compiled, and the parts that the recipes of several dialects have.

use super::lexer::Words;
use crate::module::sdk;

/// The generation of the interface that a source is written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::module) enum Dialect {
    /// Handlers take the context, the request and the response: the present `<cweb.h>`.
    ThreeArguments,
    /// Handlers take the request and the response; services are global variables.
    TwoArguments,
    /// An app for nope.c or WAFer, whose function `server` answers everything.
    Wafer,
}

/// How to compile a source as one dialect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::module) struct Recipe {
    pub(in crate::module) dialect: Dialect,
    /// Directories of the SDK that the compiler looks in before the SDK itself, relative to it.
    pub(in crate::module) include: &'static [&'static str],
    /// Flags before the source.
    pub(in crate::module) flags: Vec<String>,
    /// Text appended to the source in the same file, so that the compiler's messages keep the source's line numbers.
    pub(in crate::module) epilogue: String,
    /// Files of the SDK that are compiled with the source, relative to the SDK.
    pub(in crate::module) sources: &'static [&'static str],
    /// Flags after the source, before the libraries of every module.
    pub(in crate::module) libraries: Vec<String>,
}

/// Whether the source includes a header of any generation of the SDK.
pub(super) fn includes_sdk(words: &Words) -> bool {
    sdk::FILES.iter().any(|(name, _)| words.includes(name.strip_prefix("legacy/").unwrap_or(name)))
}

/// Errors in both kinds of modules: calling an undeclared function, leaving out a type, and putting a function of another
/// type into a table. Compilers differ in how they detect the last.
pub(super) fn strict() -> Vec<String> {
    ["implicit-function-declaration", "implicit-int", "incompatible-pointer-types"]
        .map(|warning| format!("-Werror={warning}"))
        .to_vec()
}

/// Makes the C library check the sizes of copies and prints (`_FORTIFY_SOURCE`). Sources that use longjmp are excepted: the
/// library takes a jump to another stack, as coroutines do it, for an error. `-Wno-unused-result` keeps older sources free
/// of new warnings.
pub(super) fn checked_copies(words: &Words) -> Vec<String> {
    if ["longjmp", "_longjmp", "siglongjmp"].iter().any(|jump| words.has(jump)) {
        return Vec::new();
    }
    ["-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2", "-Wno-unused-result"].map(str::to_owned).to_vec()
}

/// `text` as a string literal of C.
pub(super) fn literal(text: &str) -> String {
    let mut quoted = String::from("\"");
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if !matches!(byte, b'"' | b'\\' | b'?') => quoted.push(char::from(byte)),
            _ => quoted.push_str(&format!("\\{byte:03o}")),
        }
    }
    quoted.push('"');
    quoted
}

/// Whether `text` can name a C function.
pub(super) fn is_identifier(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && !text.is_empty()
        && !text.starts_with(|first: char| first.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_makes_a_literal() {
        assert_eq!(literal("a\"b\\c\n?ü"), "\"a\\042b\\134c\\012\\077\\303\\274\"");
        assert!(is_identifier("f_1") && !is_identifier("1f") && !is_identifier("") && !is_identifier("a b"));
    }
}
