//! Hints below the messages of the compiler and the linker: how a message relates to the server.

use super::super::sdk;

/// Messages of the compiler, the assembler or the linker, and the hint that we add to each, once.
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

/// Says which package holds a header that is missing on the server, and how the sandbox affects it.
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

/// Says which header declares each function that the compiler has found undeclared.
fn undeclared(text: &str) -> String {
    const WORDS: &str = "implicit declaration of function ";
    let mut names: Vec<&str> = Vec::new();
    for (at, _) in text.match_indices(WORDS) {
        let rest = text.get(at + WORDS.len()..).unwrap_or_default().trim_start_matches(['\'', '‘', '"']);
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        let name = rest.get(..end).unwrap_or_default();
        if !name.is_empty() && !names.contains(&name) && names.len() < NAMES_MAX {
            names.push(name);
        }
    }
    let mut hints = String::new();
    let mut of_others = false;
    for name in names {
        if let Some(header) = header_of(name) {
            // <cweb.h> brings this header, unless the source was read in an older dialect; another message has said so.
            if BY_CWEB_H.contains(&header) {
                continue;
            }
            hints.push_str(&format!("\n{name} is declared in <{header}>: add #include <{header}>\n"));
        } else {
            of_others = true;
        }
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

/// Most functions that hints are given for.
const NAMES_MAX: usize = 8;

/// The header of the SDK that declares or defines the function `name`.
fn header_of(name: &str) -> Option<&'static str> {
    let call = format!("{name}(");
    let declares = |line: &str| {
        // At the beginning of a line there is a type; an indented name is in a comment or a call.
        line.starts_with(|c: char| c.is_ascii_alphabetic())
            && line.find(&call).is_some_and(|at| line.get(..at).is_some_and(|before| before.ends_with([' ', '*'])))
    };
    let mut headers = sdk::FILES.iter().filter(|(file, _)| !file.contains('/'));
    headers.find(|(_, text)| text.lines().any(declares)).map(|(file, _)| *file)
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
        ] {
            assert_eq!(header_of(name), Some(header), "{name}");
        }
        assert_eq!(header_of("memfd_create"), None);
        let said = with_hints(
            "a.c:1: error: implicit declaration of function ‘cweb_read’; did you mean ‘cweb_header’?".into(),
        );
        assert!(said.ends_with("\ncweb_read is declared in <cweb_stream.h>: add #include <cweb_stream.h>\n"), "{said}");
        let said = with_hints("implicit declaration of function 'memfd_create'".into());
        assert!(said.contains("_GNU_SOURCE") && !said.contains("is declared in"), "{said}");
    }
}
