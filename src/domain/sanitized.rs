//! Domains of modules with a sanitizer, and the differences of their processes.
//!
//! A sanitizer's library must be in a process from its start, replaces malloc(3), and needs a huge address space. A module
//! with a sanitizer therefore has a domain of its own, whose name shows it.

use crate::abi::sanitizer;
use std::path::{Path, PathBuf};

/// The prefix of the names of these domains; other domains must not have it.
pub const PREFIX: &str = "sanitized-";

/// Limit, in characters, on the module's name within the domain's name.
const NAME_BYTES_MAX: usize = 50;

/// The exit code of a process in which a sanitizer found a fatal error.
pub const FOUND: i32 = 99;

/// Returns the sanitizers' libraries, or the reason why there are none, for people. Runs the compiler.
pub type Libraries = fn() -> Result<Vec<PathBuf>, String>;

/// The domain of the sanitized module `name`.
#[must_use]
pub fn domain_of(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '_' };
    let name: String = name.chars().take(NAME_BYTES_MAX).map(plain).collect();
    format!("{PREFIX}{name}")
}

/// Whether `domain` is the domain of a sanitized module.
#[must_use]
pub fn is_one(domain: &str) -> bool {
    domain.starts_with(PREFIX)
}

/// The environment of a process with the sanitizers' libraries `preload`. Reports name files below `dir` without that
/// prefix.
#[must_use]
pub fn environment(preload: &[PathBuf], dir: Option<&Path>) -> Vec<(String, String)> {
    let strip = dir.map(|dir| format!(":strip_path_prefix={}/", dir.display())).unwrap_or_default();
    let common = format!("exitcode={FOUND}:disable_coredump=1{strip}");
    let mut variables = vec![
        (
            "ASAN_OPTIONS".to_owned(),
            // Leaks are checked while the module is loaded; the sanitizer reports deadly signals.
            format!(
                "{common}:detect_leaks=1:leak_check_at_exit=0:allow_user_segv_handler=0:handle_abort=1:handle_sigfpe=1:\
                 quarantine_size_mb=64"
            ),
        ),
        ("UBSAN_OPTIONS".to_owned(), format!("{common}:print_stacktrace=1")),
        ("LSAN_OPTIONS".to_owned(), "report_objects=0:print_suppressions=0".to_owned()),
        // The sanitizer does not see this program's atomics and futexes, so it must only report code that was compiled with
        // it.
        (
            "TSAN_OPTIONS".to_owned(),
            format!("{common}:halt_on_error=1:atexit_sleep_ms=0:ignore_noninstrumented_modules=1"),
        ),
        (sanitizer::VARIABLE.to_owned(), "1".to_owned()),
    ];
    if !preload.is_empty() {
        let libraries: Vec<String> = preload.iter().map(|path| path.display().to_string()).collect();
        variables.push(("LD_PRELOAD".to_owned(), libraries.join(" ")));
    }
    variables
}

/// Whether a frame, or the place in a summary, is in the sanitizer's library.
fn is_of_sanitizer(text: &str) -> bool {
    ["libsanitizer", " in __interceptor_", " in __asan", " in ___interceptor_"].iter().any(|part| text.contains(part))
}

/// The summary of a sanitizer's report: the kind of the error, its place and function. If the place is a library function
/// that the sanitizer replaces (strcpy, memcpy), the caller is reported instead.
#[must_use]
pub fn headline(report: &str) -> Option<String> {
    let summary = report.lines().find_map(|line| line.trim_start().strip_prefix("SUMMARY: "))?.trim();
    let caller = || {
        let mut frames = report.lines().map(str::trim).filter(|line| line.starts_with('#'));
        let frame = frames.find(|frame| !is_of_sanitizer(frame))?;
        let (function, place) = frame.split_once(" in ")?.1.rsplit_once(' ')?;
        let kind: Vec<&str> = summary.split(' ').take(2).collect();
        Some(format!("{} {place} in {function}", kind.join(" ")))
    };
    let called = if is_of_sanitizer(summary) { caller() } else { None };
    Some(called.unwrap_or_else(|| summary.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_headline_names_the_caller_of_a_library_function() {
        let report = "==7==ERROR: AddressSanitizer: heap-buffer-overflow on address 0x1\nWRITE of size 9 at 0x1 thread T0\n\
            \x20   #0 0x7f in __interceptor_strcpy ../../../../src/libsanitizer/asan/asan_interceptors.cpp:425\n\
            \x20   #1 0x7e in copy over.c:8\n    #2 0x7d in handler over.c:12\n\
            SUMMARY: AddressSanitizer: heap-buffer-overflow ../../../../src/libsanitizer/asan/asan_interceptors.cpp:425 in \
            __interceptor_strcpy\n";
        assert_eq!(headline(report).unwrap(), "AddressSanitizer: heap-buffer-overflow over.c:8 in copy");
        let plain = "    #0 0x7e in copy over.c:8\nSUMMARY: AddressSanitizer: heap-buffer-overflow over.c:8 in copy\n";
        assert_eq!(headline(plain).unwrap(), "AddressSanitizer: heap-buffer-overflow over.c:8 in copy");
        let leak = "SUMMARY: AddressSanitizer: 123 byte(s) leaked in 1 allocation(s).\n";
        assert_eq!(headline(leak).unwrap(), "AddressSanitizer: 123 byte(s) leaked in 1 allocation(s).");
        assert_eq!(headline("nothing"), None);
    }
    use crate::domain::check_domain_name;

    #[test]
    fn every_module_has_a_domain_of_its_own() {
        let long = "ü".repeat(127);
        for name in ["shop", "a b/c", &long] {
            let domain = domain_of(name);
            assert!(is_one(&domain) && check_domain_name(&domain).is_ok(), "{domain}");
        }
        assert!(!is_one("default"));
    }
}
