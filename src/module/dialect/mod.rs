//! The kinds of sources that the server compiles: modules of today, of the generations before, and single-file apps.
//!
//! A source does not say what it was written for. `candidates` reads its words and gives the dialects to try, the likely
//! one first; the compiler proves the guess, because the headers of each dialect take no handlers of another. Everything
//! that a dialect brings is data in a [`Recipe`]. Nothing here runs anything.

mod lexer;
pub(super) mod messages;
mod pragma;
mod three;
mod two;
mod wafer;

use super::deploy::SourceFields;
use super::project_files::checked_path;
use super::sdk;
pub(super) use lexer::Words;
pub(super) use pragma::{Wants, without_doubles};

/// The language of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Language {
    /// C.
    C,
    /// C++.
    Cpp,
}

impl Language {
    /// By the name of a file, as the compilers take it: they tell `.c` and `.C` apart. `None` if it is no source.
    pub(super) fn of(file_name: &str) -> Option<Self> {
        match file_name.rsplit_once('.')?.1 {
            "c" => Some(Self::C),
            "cpp" | "cc" | "cxx" | "C" | "CPP" => Some(Self::Cpp),
            _ => None,
        }
    }

    /// What the compiler takes if the author names no other standard.
    pub(super) fn standard(self) -> &'static str {
        match self {
            Self::C => "-std=gnu11",
            Self::Cpp => "-std=gnu++20",
        }
    }
}

/// What a source was written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// Handlers take the context, the request and the response: `<cweb.h>` of today.
    ThreeArguments,
    /// Handlers take the request and the response; the services are global variables.
    TwoArguments,
    /// An app for nope.c or WAFer, whose `server` answers everything.
    Wafer,
}

/// How a source is compiled as one dialect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Recipe {
    pub(super) dialect: Dialect,
    /// Directories of the SDK that the compiler looks in before the SDK itself, relative to it.
    pub(super) include: &'static [&'static str],
    /// Flags before the source.
    pub(super) flags: Vec<String>,
    /// Text behind the source, in the same file, so that the compiler's messages keep the source's lines.
    pub(super) epilogue: String,
    /// Files of the SDK that are compiled with the source, relative to it.
    pub(super) sources: &'static [&'static str],
    /// Flags behind the source, before the libraries of every module.
    pub(super) libraries: Vec<String>,
}

/// What the words of a source say about it.
#[derive(Debug)]
pub(super) struct Reading {
    words: Words,
    fields: SourceFields,
    /// Names of the fields that came with the source and make no difference to it.
    ignored: Vec<&'static str>,
    likely: Dialect,
    language: Language,
    /// Why the source can't be compiled, whatever it was written for.
    refusal: Option<String>,
}

impl Reading {
    /// Reads `source`, which came with `fields`.
    pub(super) fn new(source: &[u8], fields: &SourceFields) -> Self {
        let words = lexer::words(source);
        let given = fields.source_name.as_deref().or(fields.file_name.as_deref());
        let named = given.and_then(Language::of);
        let language = match fields.language.as_deref().map(str::trim) {
            Some("c++" | "C++" | "cpp") => Language::Cpp,
            Some("c" | "C") => Language::C,
            _ => named.unwrap_or(Language::C),
        };
        let likely = likely(&words);
        let relevant = match likely {
            // The generations before, and the apps for nope.c and WAFer, were C.
            _ if language == Language::Cpp && likely != Dialect::Wafer => {
                SourceFields { language: Some("c++".to_owned()), ..SourceFields::default() }
            }
            Dialect::ThreeArguments => SourceFields::default(),
            Dialect::TwoArguments => two::relevant(&words, fields),
            Dialect::Wafer => wafer::relevant(fields),
        };
        let ignored = fields.names_beyond(&relevant);
        let likely = if relevant.language.is_some() { Dialect::ThreeArguments } else { likely };
        let source_name = given.and_then(|name| compiled_name(name, language));
        let relevant = SourceFields { source_name, ..relevant };
        let mut reading = Self { words, fields: relevant, ignored, likely, language, refusal: None };
        reading.refusal = messages::without_lines(source, reading.file());
        reading
    }

    /// The language of the source.
    pub(super) fn language(&self) -> Language {
        self.language
    }

    /// The name under which the source is compiled: the author's, if the source came with one that can be used.
    pub(super) fn file(&self) -> &str {
        self.fields.source_name.as_deref().unwrap_or(match self.language {
            Language::C => "module.c",
            Language::Cpp => "module.cpp",
        })
    }

    /// The libraries and flags that the source names.
    ///
    /// # Errors
    /// The first that is wrong, in the words of a compiler.
    pub(super) fn wants(&self, file: &str) -> Result<Wants, String> {
        pragma::wants(&self.words, file)
    }

    /// A warning, in the words of a compiler, for each field that makes no difference to the source; empty without one.
    pub(super) fn remarks(&self) -> String {
        self.ignored.iter().map(|name| format!("form: warning: {}\n", ignored(name))).collect()
    }

    /// The fields that make a difference to the result.
    pub(super) fn fields(&self) -> &SourceFields {
        &self.fields
    }

    pub(super) fn words(&self) -> &Words {
        &self.words
    }

    /// How one of several sources of a module is compiled.
    pub(super) fn unit_recipe(&self) -> Recipe {
        match self.language {
            Language::C => three::recipe(&self.words),
            Language::Cpp => three::recipe_of_cpp(&self.words),
        }
    }

    /// The recipes to try, the likely one first.
    ///
    /// # Errors
    /// What is wrong with the source as a whole or with a field of the form, for people.
    pub(super) fn recipes(&self) -> Result<Vec<Recipe>, String> {
        if let Some(refusal) = &self.refusal {
            return Err(refusal.clone());
        }
        if self.language == Language::Cpp && self.likely != Dialect::Wafer {
            return Ok(vec![three::recipe_of_cpp(&self.words)]);
        }
        let two = two::recipe(&self.words, &self.fields);
        match self.likely {
            Dialect::ThreeArguments => Ok(vec![three::recipe(&self.words), doubted(two?)]),
            // Only the first generation registers a function by a form.
            Dialect::TwoArguments if self.fields.function_name.is_some() => Ok(vec![two?]),
            Dialect::TwoArguments => Ok(vec![two?, doubted(three::recipe(&self.words))]),
            Dialect::Wafer => Ok(vec![wafer::recipe(&self.words, &self.fields)?]),
        }
    }
}

/// Longest name, in bytes, under which a source is compiled.
const SOURCE_NAME_BYTES_MAX: usize = 100;

/// The name under which a source is compiled that came as `given`, which may be a path of the client's. `None`: the name has
/// characters that can't be in a path of a project, is too long, or is one of another language.
fn compiled_name(given: &str, language: Language) -> Option<String> {
    let name = given.rsplit(['/', '\\']).next()?;
    let is_kept = checked_path(name).is_ok_and(|kept| kept.as_deref() == Some(name));
    let fits = is_kept && name.len() <= SOURCE_NAME_BYTES_MAX && Language::of(name) == Some(language);
    fits.then(|| name.to_owned())
}

/// Why the field `name` makes no difference.
fn ignored(name: &str) -> String {
    let (whose, instead) = match name {
        "name" | "mount" => ("apps for nope.c and WAFer", "a module's config has its name and its paths"),
        "libs" => ("modules of older generations", "name further libraries in the source: #pragma cweb link(\"z\")"),
        _ => ("sources without a config", "a module's config has its routes"),
    };
    format!("the field {name} changes nothing here: it is for {whose}; {instead}")
}

/// Headers that only apps for nope.c and WAFer include.
const WAFER_HEADERS: [&str; 6] = ["server.h", "nope.h", "nopeutils.h", "nopeapi.h", "wafer.h", "waferapi.h"];

/// The recipe of what is not likely: the compiler takes a function without a prototype for any handler, so there must be
/// none that the words may have been right about.
fn doubted(mut recipe: Recipe) -> Recipe {
    recipe.flags.extend(["-Werror=strict-prototypes", "-Werror=old-style-definition"].map(str::to_owned));
    recipe
}

/// A handler of today spells the type of the context, which no source of an older generation can know. Nor can such a source
/// know the helpers of today: they tell where there are no handlers.
fn likely(words: &Words) -> Dialect {
    if WAFER_HEADERS.iter().any(|header| words.includes(header)) {
        Dialect::Wafer
    } else if words.any(|word| word.starts_with("cweb_context")) || has_helpers_only(words) {
        Dialect::ThreeArguments
    } else {
        Dialect::TwoArguments
    }
}

fn has_helpers_only(words: &Words) -> bool {
    let of_handlers =
        ["http_request", "http_response", "http_request_t", "http_response_t", "websocket", "websocket_t"];
    words.any(|word| word.starts_with("cweb_") && word != "cweb_feature_flag_t")
        && !of_handlers.iter().any(|word| words.has(word))
}

/// Whether the source includes a header of the SDK, of whatever generation.
fn includes_sdk(words: &Words) -> bool {
    sdk::FILES.iter().any(|(name, _)| words.includes(name.strip_prefix("legacy/").unwrap_or(name)))
}

/// What a module must not do in silence, in both kinds of modules: call a function that nobody has declared, leave out a
/// type, or put a function of another type into a table. Compilers differ in what they know of the last.
fn strict() -> Vec<String> {
    ["implicit-function-declaration", "implicit-int", "incompatible-pointer-types"]
        .map(|warning| format!("-Werror={warning}"))
        .to_vec()
}

/// Has the C library check the sizes of what is copied and printed into. Not where there are jumps: it takes one to another
/// stack, as coroutines have it, for a fault. It also warns of results that nobody looks at, which sources were never asked for.
fn checked_copies(words: &Words) -> Vec<String> {
    if ["longjmp", "_longjmp", "siglongjmp"].iter().any(|jump| words.has(jump)) {
        return Vec::new();
    }
    ["-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2", "-Wno-unused-result"].map(str::to_owned).to_vec()
}

/// `text` as a string literal of C.
fn literal(text: &str) -> String {
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

/// Whether `text` can name a function in C.
fn is_identifier(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && !text.is_empty()
        && !text.starts_with(|first: char| first.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dialects(source: &str) -> Vec<Dialect> {
        let recipes = Reading::new(source.as_bytes(), &SourceFields::default()).recipes().unwrap();
        recipes.iter().map(|recipe| recipe.dialect).collect()
    }

    #[test]
    fn the_likely_dialect_comes_first() {
        use Dialect::{ThreeArguments, TwoArguments, Wafer};
        let table = [
            ("#include <cweb.h>\nint f(struct cweb_context *c);", vec![ThreeArguments, TwoArguments]),
            ("#include <cweb.h>\nint f(cweb_context_t *c);", vec![ThreeArguments, TwoArguments]),
            (
                "#include <cweb.h>\nint f(struct http_request *q); // no cweb_context",
                vec![TwoArguments, ThreeArguments],
            ),
            ("#include <cweb.h>\nstatic void f() { cweb_log(1, \"\"); }", vec![ThreeArguments, TwoArguments]),
            ("#include <cweb.h>\nint f(http_request_t *q) { return cweb_x(q); }", vec![TwoArguments, ThreeArguments]),
            ("#include <http.h>\n", vec![TwoArguments, ThreeArguments]),
            ("#include <wafer.h>\n", vec![Wafer]),
            ("#include \"server.h\"\n", vec![Wafer]),
            ("// #include <wafer.h>\n", vec![TwoArguments, ThreeArguments]),
        ];
        for (source, expected) in table {
            assert_eq!(dialects(source), expected, "{source}");
        }
    }

    #[test]
    fn fields_that_change_nothing_are_told() {
        let given = |text: &str| Some(text.to_owned());
        let fields = SourceFields {
            file_name: given("m.c"),
            route: given("/r"),
            mount: given("/app"),
            libs: given("-lz"),
            ..SourceFields::default()
        };
        let said = |source: &str| Reading::new(source.as_bytes(), &fields).remarks();
        let today = said("#include <cweb.h>\nint f(struct cweb_context *c);");
        assert!(["field route", "field mount", "field libs"].iter().all(|field| today.contains(field)), "{today}");
        assert_eq!(today.lines().count(), 3, "the file's name is no field: {today}");
        let older = said("#include <cweb.h>\nexport module_t config;");
        assert!(older.contains("field mount") && !older.contains("field libs"), "{older}");
        let app = said("#include <wafer.h>\n");
        assert!(app.contains("field route") && !app.contains("field mount"), "{app}");
        assert_eq!(Reading::new(b"", &SourceFields::default()).remarks(), "");
    }

    #[test]
    fn a_source_keeps_the_name_of_its_file_if_that_is_safe() {
        let long = "x".repeat(100) + ".c";
        for (given, language, kept) in [
            ("thumb.c", "c", "thumb.c"),
            ("sub/dir/thumb.c", "c", "thumb.c"),
            ("C:\\dir\\thumb.cc", "c++", "thumb.cc"),
            ("a b\u{fc}.c", "c", "a b\u{fc}.c"),
            ("thumb.c", "c++", "module.cpp"),
            ("thumb.txt", "c", "module.c"),
            ("-x.c", "c", "module.c"),
            ("@x.c", "c", "module.c"),
            (".c", "c", "module.c"),
            ("..", "c", "module.c"),
            ("a\nb.c", "c", "module.c"),
            ("a\"b.c", "c", "module.c"),
            ("sdk-0.c", "c", "module.c"),
            ("", "c", "module.c"),
            (long.as_str(), "c", "module.c"),
        ] {
            let given = Some(given.to_owned());
            let fields =
                SourceFields { file_name: given, language: Some(language.to_owned()), ..SourceFields::default() };
            let reading = Reading::new(b"#include <cweb.h>\nint f(struct cweb_context *c);", &fields);
            assert_eq!(reading.file(), kept, "{fields:?}");
            // What is kept of it has the same name when the source is compiled again.
            assert_eq!(Reading::new(b"struct cweb_context *c;", reading.fields()).file(), kept);
            assert!(!reading.fields().text().contains("thumb"), "the hash is that of the source");
        }
    }

    #[test]
    fn any_text_makes_a_literal() {
        assert_eq!(literal("a\"b\\c\n?ü"), "\"a\\042b\\134c\\012\\077\\303\\274\"");
        assert!(is_identifier("f_1") && !is_identifier("1f") && !is_identifier("") && !is_identifier("a b"));
    }
}
