//! Single-file apps for nope.c and WAFer.

use super::lexer::Words;
use super::recipe::{Dialect, Recipe, literal};
use crate::module::deploy::SourceFields;
use crate::module::verify::RESERVED;

/// The name of an app whose file and form give none. A new post of such an app replaces the one before.
const NAME_DEFAULT: &str = "server";
/// Limit, in bytes, on a name: `CWEB_NAME_SIZE` without its NUL.
const NAME_BYTES_MAX: usize = 127;
/// Limit, in bytes, on a prefix: the prefix's pattern must fit into a buffer of the size of a module name.
const MOUNT_BYTES_MAX: usize = 100;

/// The fields of the form that determine an app's name and prefix.
pub(super) fn relevant(fields: &SourceFields) -> SourceFields {
    let SourceFields { file_name, name, mount, .. } = fields.clone();
    SourceFields { file_name, name, mount, ..SourceFields::default() }
}

/// Compiles the app with the headers of all versions, together with `wafer_glue.c`, which makes it a module. Warnings of
/// the app's former compiler stay warnings.
pub(super) fn recipe(words: &Words, fields: &SourceFields) -> Result<Recipe, String> {
    one_file_of_c(words, fields)?;
    let (name, mount) = (literal(&name(fields)?), literal(&mount(fields)?));
    let mut flags = vec!["-DCWEB_MODULE_API=4".to_owned(), "-D_GNU_SOURCE".to_owned(), "-U_FORTIFY_SOURCE".to_owned()];
    flags.extend(
        ["implicit-function-declaration", "implicit-int", "int-conversion", "incompatible-pointer-types"]
            .map(|warning| format!("-Wno-error={warning}")),
    );
    Ok(Recipe {
        dialect: Dialect::Wafer,
        include: &["wafer"],
        flags,
        epilogue: format!(
            "\n\n#include <wafer_unit.h>\nconst char wafer__name[] = {name};\nconst char wafer__mount[] = {mount};\n"
        ),
        sources: &["wafer/wafer_glue.c"],
        libraries: words.includes("zlib.h").then(|| "-lz".to_owned()).into_iter().collect(),
    })
}

/// The hint that is added to the compiler's messages about an app.
pub(super) fn hint(text: &str) -> &'static str {
    if text.contains("'server' undeclared") || text.contains("undeclared identifier 'server'") {
        "\nan app for nope.c or WAFer defines void server(Request *, Response *), or in older versions \
         void server(Request) or void server(int, const char *, const char *)\n"
    } else if text.contains("No such file or directory") || text.contains("file not found") {
        "\nan app is one C file: paste its own headers and further C files into that file\n"
    } else {
        ""
    }
}

/// # Errors
/// The source is C++, or one of several files.
fn one_file_of_c(words: &Words, fields: &SourceFields) -> Result<(), String> {
    let file = fields.file_name.as_deref().unwrap_or_default();
    let is_cpp = [".cpp", ".cc", ".cxx", ".hpp"].iter().any(|suffix| file.to_ascii_lowercase().ends_with(suffix))
        || ["iostream", "string", "vector", "map"].iter().any(|header| words.includes(header));
    if is_cpp {
        let shown = fields.source_name.as_deref().unwrap_or(if file.is_empty() { "module.c" } else { file });
        return Err(format!("{shown}:1: error: this is C++; an app for nope.c or WAFer is one file of C\n"));
    }
    Ok(())
}

/// The field `name`, or else the name of the file without its suffix.
///
/// # Errors
/// The name is not valid for a module.
fn name(fields: &SourceFields) -> Result<String, String> {
    let file = fields.file_name.as_deref().unwrap_or_default();
    let file = file.rsplit(['/', '\\']).next().unwrap_or_default();
    let stem = file.rsplit_once('.').map_or(file, |(stem, _)| stem);
    let name = fields.name.as_deref().map(str::trim).filter(|name| !name.is_empty()).unwrap_or(stem);
    if name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
        return Err(format!(
            "name: {name:?} has control characters, or more than {NAME_BYTES_MAX} bytes; give the app another name: -F name=NAME\n"
        ));
    }
    Ok(if name.is_empty() { NAME_DEFAULT.to_owned() } else { name.to_owned() })
}

/// The prefix of the app's paths, without a trailing slash; empty: the app answers all paths.
fn mount(fields: &SourceFields) -> Result<String, String> {
    let given = fields.mount.as_deref().unwrap_or_default().trim();
    let mount = given.trim_end_matches('/');
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'_' | b'-' | b'~');
    let fits = mount.starts_with('/') && !mount.contains("//") && mount.len() <= MOUNT_BYTES_MAX;
    if RESERVED.iter().any(|own| mount.strip_prefix(own).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))) {
        return Err(format!("mount: {mount} is the server's own path; choose another prefix\n"));
    }
    if mount.is_empty() && given.bytes().all(|byte| byte == b'/') || fits && mount.bytes().all(is_plain) {
        return Ok(mount.to_owned());
    }
    Err(format!(
        "mount: \"{}\" can't be a prefix; a prefix begins with /, like /app, and has at most {MOUNT_BYTES_MAX} of \
         A-Z a-z 0-9 / _ - ~\n",
        given.escape_debug()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(file: &str, name: &str, mount: &str) -> SourceFields {
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        SourceFields { file_name: given(file), name: given(name), mount: given(mount), ..SourceFields::default() }
    }

    #[test]
    fn an_app_is_named_by_its_field_or_its_file() {
        for (file, field, expected) in [
            ("longs.c", "", "longs"),
            ("dir/longs.v2.c", "", "longs.v2"),
            ("C:\\a\\b.c", "", "b"),
            ("longs.c", "short", "short"),
            ("", "", "server"),
            (".c", " ", "server"),
        ] {
            assert_eq!(name(&fields(file, field, "")).unwrap(), expected, "{file} {field}");
        }
        for wrong in ["a\0b", "a\nb", &"n".repeat(128), &"\u{e9}".repeat(64)] {
            assert!(name(&fields("", wrong, "")).unwrap_err().contains("-F name=NAME"), "{wrong}");
            assert!(name(&fields(&format!("{wrong}.c"), "", "")).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_prefix_is_plain() {
        for (given, expected) in [("", ""), ("/", ""), ("/app", "/app"), ("/a/b-c_d~/", "/a/b-c_d~")] {
            assert_eq!(mount(&fields("", "", given)).unwrap(), expected);
        }
        for wrong in
            ["app", "/a//b", "/a.b", "/(a)", "/a b", "/jobs", "/mgnt/x", "/\u{e4}", &format!("/{}", "x".repeat(100))]
        {
            assert!(mount(&fields("", "", wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn cpp_is_refused_with_a_sentence() {
        let reading = |source: &[u8], file: &str| {
            super::super::Reading::new(source, &fields(file, "", "")).recipes().map(|recipes| recipes.len())
        };
        assert!(reading(b"#include <wafer.h>\n#include <iostream>\n", "").unwrap_err().contains("C++"));
        assert!(reading(b"#include <wafer.h>\n", "a.CPP").unwrap_err().contains("C++"));
        assert_eq!(reading(b"#include <wafer.h>\n#include <string.h>\n", "a.c"), Ok(1));
    }
}
