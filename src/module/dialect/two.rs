//! Modules of the generations before the context existed: handlers take two arguments, and services are global variables.
//! The oldest modules export no `config`: fields of the form register one function.

use super::lexer::Words;
use super::recipe::{Dialect, Recipe, checked_copies, includes_sdk, is_identifier, literal, strict};
use crate::module::deploy::SourceFields;

/// The fields that register a function, unless the source registers it itself.
pub(super) fn relevant(words: &Words, fields: &SourceFields) -> SourceFields {
    let registers = fields.function_name.is_some() && !words.has("module_t");
    SourceFields {
        route: fields.route.clone().filter(|_| registers),
        function_name: fields.function_name.clone().filter(|_| registers),
        method: fields.method.clone().filter(|_| registers),
        libs: fields.libs.clone(),
        ..SourceFields::default()
    }
}

/// # Errors
/// A text for the author: a field has an invalid value.
pub(super) fn recipe(words: &Words, fields: &SourceFields) -> Result<Recipe, String> {
    let mut flags = strict();
    flags.extend(checked_copies(words));
    flags.push("-DCWEB_MODULE_API=2".to_owned());
    if words.any(|word| word.starts_with("http_kv_")) && !words.any(|word| word == "map" || word.starts_with("map_")) {
        // The last of these generations: its stores hold strings, which modules pass to `printf` directly.
        flags.push("-DCWEB_MAP_VALUE=char".to_owned());
    }
    let mut epilogue = String::new();
    if !words.includes("cweb.h") && includes_sdk(words) {
        // Such a source has no global variables for services, and may define others with these names.
        epilogue.push_str("\n\n#ifndef CWEB_H\n#define CWEB_WITHOUT_SERVICES\n#endif\n#include <cweb.h>");
    }
    if let Some(function) = &fields.function_name {
        epilogue.push_str("\n\n");
        epilogue.push_str(&config(function, fields)?);
    }
    let libraries = fields.libs.as_deref().map_or(Ok(Vec::new()), libraries)?;
    Ok(Recipe { dialect: Dialect::TwoArguments, include: &["legacy"], flags, epilogue, sources: &[], libraries })
}

/// A `config` with one route, built from the form.
fn config(function: &str, fields: &SourceFields) -> Result<String, String> {
    if !is_identifier(function) {
        return Err(format!("the form's function_name \"{function}\" can't name a C function"));
    }
    let route = fields.route.as_deref().ok_or("the form has a function_name, but no route: add -F route=/path")?;
    let is_no_path = |byte: u8| byte <= b' ' || matches!(byte, b'?' | b'#' | 0x7f);
    if route.bytes().any(is_no_path) {
        return Err(format!(
            "the form's route {route:?} has a blank, a control character, ? or #: no request has such a path"
        ));
    }
    let method = fields.method.as_deref().unwrap_or("GET");
    if !method.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!("the form's method {method:?} is not an HTTP method; write for example: method=POST"));
    }
    // The oldest handlers return nothing, which is harmless for a caller that ignores the result.
    let handler = format!(
        "_Generic(&{function}, int (*)(struct http_request *, struct http_response *): 1, \
         void (*)(struct http_request *, struct http_response *): 1) ? (entry_t)(void (*)(void)){function} : 0"
    );
    Ok(format!(
        "export module_t config = {{.name = {}, .author = \"\", .routes = {{{{{}, {}, {handler}, NONE}}}}, .size = 1}};\n",
        literal(function),
        literal(&exact(route)),
        literal(method),
    ))
}

/// A pattern that matches exactly `path`.
fn exact(path: &str) -> String {
    let mut pattern = String::new();
    for c in path.chars() {
        if ".[]{}()*+?|^$\\".contains(c) {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern
}

/// Names or `-l` flags of libraries, separated by blanks or commas.
fn libraries(text: &str) -> Result<Vec<String>, String> {
    let words = text.split([' ', ',', '\t', '\r', '\n']).filter(|word| !word.is_empty());
    words
        .map(|word| {
            let name = word.strip_prefix("-l").unwrap_or(word);
            let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'+' | b'-' | b'.');
            if name.bytes().all(is_name) && name.starts_with(|first: char| first.is_ascii_alphanumeric()) {
                Ok(format!("-l{name}"))
            } else {
                Err(format!("the form's libs has \"{word}\", which can't name a library; write for example: libs=-lz"))
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(function: &str, route: Option<&str>, libs: &str) -> SourceFields {
        SourceFields {
            function_name: Some(function.to_owned()),
            route: route.map(str::to_owned),
            libs: Some(libs.to_owned()),
            ..SourceFields::default()
        }
    }

    #[test]
    fn a_form_registers_a_function() {
        let recipe = recipe(&Words::default(), &fields("hello", Some("/a.b"), "-lz m")).unwrap();
        assert!(recipe.epilogue.contains(r#"{{"/a\134.b", "GET", _Generic(&hello, "#), "{}", recipe.epilogue);
        assert_eq!(recipe.libraries, ["-lz", "-lm"]);
    }

    #[test]
    fn fields_that_can_not_be_used_are_refused() {
        for (function, route, libs) in [
            ("f", Some("/a b"), ""),
            ("f", Some("/a\0b"), ""),
            ("f", Some("/a?b"), ""),
            ("1", Some("/"), ""),
            ("f", None, ""),
            ("f", Some("/"), "-Wl,x"),
            ("f", Some("/"), "../z"),
        ] {
            assert!(recipe(&Words::default(), &fields(function, route, libs)).is_err(), "{function} {route:?} {libs}");
        }
    }

    #[test]
    fn a_source_with_a_config_registers_itself() {
        let words = super::super::lexer::words(b"export module_t config;");
        assert_eq!(relevant(&words, &fields("f", Some("/"), "")).function_name, None);
    }
}
