//! The dialects that the server compiles: present modules, modules of earlier generations of the interface, and single-file
//! apps.
//!
//! A source does not name its dialect. [`Reading::recipes`] reads its words and returns the dialects to try, the likely one
//! first. The compiler confirms the guess, because the headers of each dialect refuse handlers of another. All data of a
//! dialect is in a [`Recipe`]. No code here runs a program.

mod lexer;
pub(super) mod messages;
mod pragma;
mod recipe;
pub(super) mod refusal;
mod three;
mod two;
mod wafer;

use super::deploy::SourceFields;
use super::project_files::checked_path;
pub(super) use lexer::Words;
pub(super) use pragma::{Wants, without_doubles};
pub(super) use recipe::{Dialect, Recipe};

/// The language of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Language {
    /// C.
    C,
    /// C++.
    Cpp,
}

impl Language {
    /// The language by a file's name, in the compilers' sense: `.c` and `.C` differ. `None` if the file is not a source.
    pub(super) fn of(file_name: &str) -> Option<Self> {
        match file_name.rsplit_once('.')?.1 {
            "c" => Some(Self::C),
            "cpp" | "cc" | "cxx" | "C" | "CPP" => Some(Self::Cpp),
            _ => None,
        }
    }

    /// The standard that applies if the author names none.
    pub(super) fn standard(self) -> &'static str {
        match self {
            Self::C => "-std=gnu11",
            Self::Cpp => "-std=gnu++20",
        }
    }
}

/// The result of reading a source.
#[derive(Debug)]
pub(super) struct Reading {
    words: Words,
    fields: SourceFields,
    /// The names of the fields that came with the source and have no effect.
    ignored: Vec<&'static str>,
    likely: Dialect,
    language: Language,
    /// The reason why no dialect can compile the source.
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
            // Sources of earlier generations and apps for nope.c and WAFer are always C.
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

    /// Whether the source has tests and no module. An app for nope.c or WAFer has no config, but its own headers.
    pub(super) fn has_only_tests(&self) -> bool {
        let has_module = self.words.has("module_t") || self.fields.function_name.is_some();
        self.words.has("CWEB_TEST") && !has_module && self.likely != Dialect::Wafer
    }

    /// The language of the source.
    pub(super) fn language(&self) -> Language {
        self.language
    }

    /// The name under which the source is compiled: the author's file name, if it is usable.
    pub(super) fn file(&self) -> &str {
        self.fields.source_name.as_deref().unwrap_or(match self.language {
            Language::C => "module.c",
            Language::Cpp => "module.cpp",
        })
    }

    /// The libraries and flags that the source names.
    ///
    /// # Errors
    /// The first invalid pragma, as a compiler's message.
    pub(super) fn wants(&self, file: &str) -> Result<Wants, String> {
        pragma::wants(&self.words, file)
    }

    /// A warning, in a compiler's format, for each field that has no effect; empty without any.
    pub(super) fn remarks(&self) -> String {
        self.ignored.iter().map(|name| format!("form: warning: {}\n", ignored(name))).collect()
    }

    /// The fields that affect the result.
    pub(super) fn fields(&self) -> &SourceFields {
        &self.fields
    }

    pub(super) fn words(&self) -> &Words {
        &self.words
    }

    /// The recipe of one of several sources of a module.
    pub(super) fn unit_recipe(&self) -> Recipe {
        match self.language {
            Language::C => three::recipe(&self.words),
            Language::Cpp => three::recipe_of_cpp(&self.words),
        }
    }

    /// The recipes to try, the likely one first.
    ///
    /// # Errors
    /// A text for the author: the source as a whole or a field of the form is wrong.
    pub(super) fn recipes(&self) -> Result<Vec<Recipe>, String> {
        if let Some(refusal) = &self.refusal {
            return Err(refusal.clone());
        }
        if self.has_only_tests() {
            let file = self.file();
            return Err(format!(
                "{file}:1: error: the file has tests (CWEB_TEST) and no module (export module_t config); deploy the module's own \
                 source, and run the tests beside it: cweb test NAME.c also builds NAME_test.c\n"
            ));
        }
        if self.language == Language::Cpp && self.likely != Dialect::Wafer {
            return Ok(vec![three::recipe_of_cpp(&self.words)]);
        }
        let two = two::recipe(&self.words, &self.fields);
        match self.likely {
            Dialect::ThreeArguments => Ok(vec![three::recipe(&self.words), doubted(two?)]),
            // Only the first generation registers a function through a form.
            Dialect::TwoArguments if self.fields.function_name.is_some() => Ok(vec![two?]),
            Dialect::TwoArguments => Ok(vec![two?, doubted(three::recipe(&self.words))]),
            Dialect::Wafer => Ok(vec![wafer::recipe(&self.words, &self.fields)?]),
        }
    }
}

/// Limit, in bytes, on the name under which a source is compiled.
const SOURCE_NAME_BYTES_MAX: usize = 100;

/// The name under which a source that came as `given` is compiled; `given` may be a path on the client's machine. `None`:
/// the name contains characters that a project's path must not have, is too long, or belongs to another language.
fn compiled_name(given: &str, language: Language) -> Option<String> {
    let name = given.rsplit(['/', '\\']).next()?;
    let is_kept = checked_path(name).is_ok_and(|kept| kept.as_deref() == Some(name));
    let fits = is_kept && name.len() <= SOURCE_NAME_BYTES_MAX && Language::of(name) == Some(language);
    fits.then(|| name.to_owned())
}

/// The reason why the field `name` has no effect.
fn ignored(name: &str) -> String {
    let (whose, instead) = match name {
        "name" | "mount" => ("apps for nope.c and WAFer", "a module's config has its name and its paths"),
        "libs" => ("modules of older generations", "name further libraries in the source: #pragma cweb link(\"z\")"),
        _ => ("sources without a config", "a module's config has its routes"),
    };
    format!("the field {name} has no effect here: it is for {whose}; {instead}")
}

/// Headers that only apps for nope.c and WAFer include.
const WAFER_HEADERS: [&str; 6] = ["server.h", "nope.h", "nopeutils.h", "nopeapi.h", "wafer.h", "waferapi.h"];

/// Marks a recipe of the less likely dialect. The compiler accepts a function without a prototype as any handler, so such
/// functions become errors.
fn doubted(mut recipe: Recipe) -> Recipe {
    recipe.flags.extend(["-Werror=strict-prototypes", "-Werror=old-style-definition"].map(str::to_owned));
    recipe
}

/// Chooses the likely dialect. A present handler spells the type of the context, which no source of an older generation can
/// know. Where there are no handlers, the present helpers decide in the same way.
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
    fn tests_without_a_module_are_told() {
        let said = |source: &str| Reading::new(source.as_bytes(), &SourceFields::default()).recipes().err();
        let tests = "#include <cweb_test.h>\nCWEB_TEST(a) {}\n";
        assert!(said(tests).unwrap().starts_with("module.c:1: error: the file has tests (CWEB_TEST) and no module"));
        assert_eq!(said(&format!("{tests}export module_t config = {{}};")), None);
        assert_eq!(said("// CWEB_TEST(a)\nint f(struct cweb_context *c);"), None);
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
        assert_eq!(today.lines().count(), 3, "the file's name does not count as a field: {today}");
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
            // The kept fields give the same name when the source is compiled again.
            assert_eq!(Reading::new(b"struct cweb_context *c;", reading.fields()).file(), kept);
            assert!(!reading.fields().text().contains("thumb"), "the name does not change the hash");
        }
    }
}
