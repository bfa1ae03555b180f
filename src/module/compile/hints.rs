//! Hints after the messages of the compiler and the linker: which limit or rule of the server caused a message.

use super::super::sdk;

/// Texts in messages of the compiler, the assembler or the linker, and the hint for each. A hint is added once.
const REFUSALS: [(&[&str], &str); 2] = [
    (&["Permission denied", "file not found:", "incbin file"], "the compiler may only read /usr, /lib and the SDK"),
    (
        &[
            "out of memory",
            "memory exhausted",
            "cannot allocate",
            "File size limit exceeded",
            "File too large",
            "CPU time limit exceeded",
            "Killed signal terminated",
            "file truncated",
        ],
        "the compiler is limited to 2 GiB of memory and 256 MiB a file, and in its time by --compile-timeout-ms",
    ),
];

/// Debian's package of each header that a module commonly misses.
const PACKAGES: [(&str, &str); 4] = [
    ("jansson.h", "libjansson-dev"),
    ("sqlite3.h", "libsqlite3-dev"),
    ("openssl/", "libssl-dev"),
    ("stdio.h", "libc6-dev"),
];

/// Adds which package holds a header that the server lacks, and how the sandbox affects the compiler.
pub(super) fn with_hints(mut text: String) -> String {
    for (header, package) in PACKAGES {
        if text.contains(&format!("fatal error: {header}")) || text.contains(&format!("fatal error: '{header}")) {
            text.push_str(&format!("\nthe server lacks this header; install it there: apt-get install {package}\n"));
        }
    }
    if text.contains("cannot find -ljansson") {
        text.push_str("\nthe server lacks this library; install it there: apt-get install libjansson-dev\n");
    }
    for (words, hint) in REFUSALS {
        if words.iter().any(|word| text.contains(word)) {
            text.push_str(&format!("\n{hint}\n"));
        }
    }
    if text.contains("is declared, but defined nowhere") {
        text.push_str("\na function of a library needs a line that links it: #pragma cweb link(\"NAME\")\n");
    }
    let undeclared = undeclared(&text);
    text + &undeclared
}

/// The words of gcc and clang, for C and C++, before an unknown name, and whether the name is certainly a function's.
const BEFORE: [(&str, bool); 6] = [
    ("implicit declaration of function ", true),
    ("call to undeclared function ", true),
    ("use of undeclared identifier ", false),
    ("unknown type name ", false),
    ("undefined type ", false),
    ("incomplete type ", false),
];

/// The words after an unknown name.
const BEHIND: [&str; 4] =
    [" undeclared", " was not declared in this scope", " does not name a type", " has not been declared"];

/// A name in a message.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Name<'a> {
    /// A function, a macro, a type or a constant.
    Plain(&'a str),
    /// A structure: the word after `struct`.
    Structure(&'a str),
}

/// The name at the beginning of `text`, which may be in quotes.
fn name_at(text: &str) -> Name<'_> {
    let text = text.trim_start_matches(['\'', '‘', '"']);
    let text = text.strip_prefix("const ").unwrap_or(text);
    let name = |text: &'_ str| text.find(|c: char| !is_of_name(c)).unwrap_or(text.len());
    match text.strip_prefix("struct ") {
        Some(text) => Name::Structure(text.get(..name(text)).unwrap_or_default()),
        None => Name::Plain(text.get(..name(text)).unwrap_or_default()),
    }
}

/// The name at the end of `text`, which may be in quotes.
fn name_before(text: &str) -> &str {
    let text = text.trim_end_matches(['\'', '’', '"']);
    text.rsplit(|c: char| !is_of_name(c)).next().unwrap_or_default()
}

fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Adds which header declares each name that the compiler reported as undeclared.
fn undeclared(text: &str) -> String {
    let mut names: Vec<(Name<'_>, bool)> = Vec::new();
    for line in text.lines() {
        let behind = BEFORE.iter().flat_map(|(words, is_function)| {
            line.match_indices(words)
                .map(move |(at, _)| (name_at(line.get(at + words.len()..).unwrap_or_default()), *is_function))
        });
        let before = BEHIND.iter().flat_map(|words| {
            line.match_indices(words)
                .map(|(at, _)| (Name::Plain(name_before(line.get(..at).unwrap_or_default())), false))
        });
        for (name, is_function) in behind.chain(before) {
            if !names.iter().any(|(known, _)| *known == name) && names.len() < NAMES_MAX {
                names.push((name, is_function));
            }
        }
    }
    let mut by_header: Vec<(&str, Vec<&str>)> = Vec::new();
    let mut of_others = false;
    for (name, is_function) in names {
        let Some(header) = header_of(name) else {
            of_others |= is_function;
            continue;
        };
        let (Name::Plain(name) | Name::Structure(name)) = name;
        // <cweb.h> includes these headers, unless the source was read in an older dialect; another message has said so.
        if BY_CWEB_H.contains(&header) {
            continue;
        }
        match by_header.iter_mut().find(|(known, _)| *known == header) {
            Some((_, names)) => names.push(name),
            None => by_header.push((header, vec![name])),
        }
    }
    let mut hints = String::new();
    for (header, names) in by_header {
        let are = if names.len() > 1 { "are" } else { "is" };
        hints.push_str(&format!("\n{} {are} declared in <{header}>: add #include <{header}>\n", names.join(", ")));
    }
    if of_others {
        hints.push_str(
            "\na function of the C library needs its header; a GNU extension also needs #define _GNU_SOURCE before the first \
             #include\n",
        );
    }
    hints
}

/// Headers that <cweb.h> includes.
const BY_CWEB_H: [&str; 12] = [
    "container.h",
    "crypto.h",
    "cweb.h",
    "cweb_config.h",
    "cweb_helpers.h",
    "cweb_host.h",
    "cweb_request.h",
    "cweb_setting.h",
    "cweb_websocket.h",
    "db.h",
    "http.h",
    "scheduler.h",
];

/// Limit on the names for which hints are given.
const NAMES_MAX: usize = 16;

/// The header of the SDK that declares or defines `name`.
fn header_of(name: Name<'_>) -> Option<&'static str> {
    let has = |line: &str| match name {
        Name::Plain("") | Name::Structure("") => false,
        Name::Plain(name) => declares(line, name),
        Name::Structure(name) => is_structure(line, name),
    };
    let mut headers = sdk::FILES.iter().filter(|(file, _)| !file.contains('/'));
    headers.find(|(_, text)| text.lines().any(has)).map(|(file, _)| *file)
}

/// Whether a line of a header declares the function, the type or the constant `name`, or defines the macro.
fn declares(line: &str, name: &str) -> bool {
    let ends = |rest: &str| !rest.starts_with(is_of_name);
    if let Some(macro_name) = line.strip_prefix("#define ") {
        return macro_name.strip_prefix(name).is_some_and(ends);
    }
    // An indented name in capitals is a constant of an enumeration.
    if let Some(constant) = line.strip_prefix("    ") {
        let is_constant = name.bytes().all(|byte| matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b'_'));
        let value = constant.strip_prefix(name).filter(|_| is_constant);
        return value.is_some_and(|rest| rest.is_empty() || rest.starts_with(',') || rest.starts_with(" = "));
    }
    if line.starts_with("typedef ") || line.starts_with("} ") {
        let is_named =
            line.strip_suffix(';').and_then(|line| line.strip_suffix(name)).is_some_and(|rest| rest.ends_with(' '));
        return is_named || line.contains(&format!("(*{name})("));
    }
    // A declaration begins at the start of the line, with a type or an attribute; an indented name is in a comment or a
    // call.
    let call = format!("{name}(");
    line.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && line.find(&call).is_some_and(|at| line.get(..at).is_some_and(|before| before.ends_with([' ', '*'])))
}

/// Whether a line begins the structure `name`.
fn is_structure(line: &str, name: &str) -> bool {
    let line = line.strip_prefix("typedef ").unwrap_or(line);
    line.strip_prefix("struct ").and_then(|line| line.strip_suffix(" {")).is_some_and(|structure| structure == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn undeclared_functions_of_the_sdk_have_a_header() {
        for (name, header) in [
            ("cweb_read", "cweb_stream.h"),
            ("cweb_next_part", "cweb_stream.h"),
            ("cweb_send_file", "cweb_file.h"),
            ("cweb_asset", "cweb_asset.h"),
            ("cweb_setting", "cweb_setting.h"),
            ("map_create", "map.h"),
            ("cweb_printf", "cweb_stream.h"),
            ("cweb_stream_t", "cweb_stream.h"),
            ("CWEB_AGAIN", "cweb_stream.h"),
            ("CWEB_CANCELED", "cweb_stream.h"),
            ("CWEB_FILE_PLAIN", "cweb_file.h"),
            ("cweb_job_checkpoint", "cweb_job.h"),
            ("cweb_token_sign", "cweb_token.h"),
            ("CWEB_SIGNED_TOKEN_SIZE", "cweb_token.h"),
            ("CWEB_ASSERT_EQ", "cweb_test.h"),
            ("CWEB_TEST", "cweb_test.h"),
            ("cweb_test_response_t", "cweb_test.h"),
            ("cweb_test_skip", "cweb_test.h"),
            ("QUEUE_OK", "queue.h"),
            ("LIST_FOREACH", "list.h"),
            ("event_callback_t", "libevent.h"),
        ] {
            assert_eq!(header_of(Name::Plain(name)), Some(header), "{name}");
        }
        for name in ["memfd_create", "list", "map", "queue", "task", "event", "arg", ""] {
            assert_eq!(header_of(Name::Plain(name)), None, "{name} may be of the source");
        }
        assert_eq!(header_of(Name::Structure("queue")), Some("queue.h"));
        let said = with_hints(
            "a.c:1: error: implicit declaration of function ‘cweb_read’; did you mean ‘cweb_header’?".into(),
        );
        assert!(said.ends_with("\ncweb_read is declared in <cweb_stream.h>: add #include <cweb_stream.h>\n"), "{said}");
        let said = with_hints("implicit declaration of function 'memfd_create'".into());
        assert!(said.contains("_GNU_SOURCE") && !said.contains("is declared in"), "{said}");
        // The messages of gcc and clang, each for C and C++.
        for (line, name, header) in [
            ("error: ‘CWEB_AGAIN’ undeclared (first use in this function)", "CWEB_AGAIN", "cweb_stream.h"),
            ("error: unknown type name ‘cweb_stream_t’; did you mean", "cweb_stream_t", "cweb_stream.h"),
            ("error: invalid use of undefined type ‘struct thread_pool’", "thread_pool", "pool.h"),
            ("error: call to undeclared function 'cweb_job_file'; ISO C99", "cweb_job_file", "cweb_job.h"),
            ("error: use of undeclared identifier 'CWEB_FILE_PLAIN'", "CWEB_FILE_PLAIN", "cweb_file.h"),
            ("error: variable has incomplete type 'struct list'", "list", "list.h"),
            ("error: ‘cweb_read’ was not declared in this scope; did", "cweb_read", "cweb_stream.h"),
            ("error: ‘cweb_stream_t’ does not name a type", "cweb_stream_t", "cweb_stream.h"),
        ] {
            let said = with_hints(line.into());
            assert_eq!(said, format!("{line}\n{name} is declared in <{header}>: add #include <{header}>\n"));
        }
        let said = with_hints(
            "implicit declaration of function ‘cweb_read’\n‘CWEB_AGAIN’ undeclared\nunknown type name ‘cweb_stream_t’"
                .into(),
        );
        assert!(
            said.contains("\ncweb_read, CWEB_AGAIN, cweb_stream_t are declared in <cweb_stream.h>: add #inc"),
            "{said}"
        );
        for line in
            ["‘x’ undeclared (first use", "unknown type name 'my_t'", "‘HTTP_200_OK’ undeclared", "undeclared", ""]
        {
            assert_eq!(with_hints(line.into()), line);
        }
    }
}
