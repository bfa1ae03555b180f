//! The compiler flags that an author may use: flags that change only the module's own code. Flags that make the compiler
//! load, run, read or write further files are refused.

use sha2::{Digest, Sha256};

/// Flags that are accepted as they are.
const PLAIN: [&str; 22] = [
    "-O0",
    "-O1",
    "-O2",
    "-O3",
    "-Os",
    "-Og",
    "-ffast-math",
    "-fno-math-errno",
    "-ffp-contract=fast",
    "-ffp-contract=off",
    "-fopenmp",
    "-funroll-loops",
    "-ftree-vectorize",
    "-fno-strict-aliasing",
    "-fwrapv",
    "-fno-exceptions",
    "-fno-rtti",
    "-fsigned-char",
    "-funsigned-char",
    "-fno-common",
    "-pedantic",
    "-pthread",
];

/// Limit, in bytes, on one flag.
const FLAG_BYTES_MAX: usize = 256;
/// Limit on the flags of a module.
const FLAGS_MAX: usize = 64;

/// The flag that lets a unit use the threads of OpenMP.
pub(super) const OPENMP: &str = "-fopenmp";

/// Checks that an author may use `flag`.
///
/// # Errors
/// A text for the author: the reason, and the alternative.
pub(super) fn check(flag: &str) -> Result<(), String> {
    let refuse = |why: &str| Err(format!("the flag {flag:?} is not allowed: {why}"));
    if flag.len() > FLAG_BYTES_MAX || flag.chars().any(char::is_control) {
        return refuse("it has control characters or more than 256 bytes");
    }
    if PLAIN.contains(&flag) {
        return Ok(());
    }
    if let Some(macros) = flag.strip_prefix("-D").or_else(|| flag.strip_prefix("-U")) {
        return check_macro(flag, macros);
    }
    let value_of = |name: &str| flag.strip_prefix(name);
    let is_plain = |text: &str, more: &[u8]| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || more.contains(&b))
    };
    if let Some(level) = value_of("-march=").or_else(|| value_of("-mtune=")) {
        return if is_plain(level, b"-.+_") { Ok(()) } else { refuse("a processor is named like native or x86-64-v3") };
    }
    if let Some(standard) = value_of("-std=") {
        return if is_plain(standard, b"+:") { Ok(()) } else { refuse("a standard is named like c17 or c++20") };
    }
    if let Some(warning) = value_of("-W").filter(|warning| !warning.contains(',')) {
        return if is_plain(warning, b"-=+") { Ok(()) } else { refuse("a warning is named like -Wshadow") };
    }
    match flag.get(..2).unwrap_or_default() {
        "-I" => {
            refuse("the compiler reads the system's headers and the module's own files; put headers beside the source")
        }
        "-l" | "-L" => refuse("a library is named by #pragma cweb link(\"NAME\"), or by libs in module.toml"),
        _ => refuse(
            "allowed are -O0 to -O3, -march=, -mtune=, -ffast-math, -fopenmp, -std=, -D, -U, -W… and the few others of docs/projects.md",
        ),
    }
}

fn check_macro(flag: &str, text: &str) -> Result<(), String> {
    let name = text.split_once('=').map_or(text, |(name, _)| name);
    let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
    if !is_name {
        return Err(format!("the flag {flag:?} is not allowed: a macro is named like -DNAME or -DNAME=VALUE"));
    }
    if name.starts_with("CWEB_") || name.starts_with("cweb_") {
        return Err(format!("the flag {flag:?} is not allowed: names that begin with CWEB_ are the server's"));
    }
    Ok(())
}

/// Checks all flags of a module.
///
/// # Errors
/// As [`check`], for the first invalid flag; or the module has too many flags.
pub(super) fn check_all<'a>(flags: impl IntoIterator<Item = &'a str>) -> Result<(), String> {
    let mut count = 0;
    for flag in flags {
        check(flag)?;
        count += 1;
        if count > FLAGS_MAX {
            return Err(format!("the module has more than {FLAGS_MAX} flags"));
        }
    }
    Ok(())
}

/// For a flag of one language only: whether that language is C++. `None`: the flag is for both.
pub(super) fn is_for_cpp(flag: &str) -> Option<bool> {
    match flag {
        "-fno-exceptions" | "-fno-rtti" => Some(true),
        _ => flag.strip_prefix("-std=").map(|standard| standard.contains("++")),
    }
}

/// The inputs of `flags` beside their text: a hash of the processor's features, if the code is compiled for this machine's
/// processor.
pub(super) fn machine(flags: &[String]) -> String {
    if !flags.iter().any(|flag| matches!(flag.as_str(), "-march=native" | "-mtune=native")) {
        return String::new();
    }
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let tells = |line: &&str| {
        ["vendor_id", "cpu family", "model", "flags", "Features", "CPU part"].iter().any(|name| line.starts_with(name))
    };
    // The first processor suffices: all processors that a program may run on have the same instructions.
    let first: Vec<&str> = text.lines().take_while(|line| !line.is_empty()).filter(tells).collect();
    super::sdk::hex(&Sha256::digest(first.join("\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_the_code_only_is_allowed() {
        for flag in [
            "-O3",
            "-march=native",
            "-march=x86-64-v3",
            "-ffast-math",
            "-fopenmp",
            "-std=c17",
            "-std=gnu++20",
            "-DX",
            "-DX=a b",
            "-UX",
            "-Wshadow",
            "-Wno-error=unused",
            "-Wformat=2",
        ] {
            assert_eq!(check(flag), Ok(()), "{flag}");
        }
    }

    #[test]
    fn what_reads_runs_or_loads_something_is_refused() {
        for flag in [
            "",
            "-",
            "x.c",
            "@file",
            "-fplugin=x.so",
            "-wrapper",
            "-wrapper=gdb",
            "-specs=x",
            "--specs=x",
            "-I/etc",
            "-isystem/etc",
            "-include/etc/passwd",
            "-imacros",
            "-B/tmp",
            "-Wl,-rpath,/tmp",
            "-Wa,-x",
            "-Wp,-MD,/x",
            "-Xlinker",
            "-o",
            "-o/x",
            "-lz",
            "-L/tmp",
            "-march=../x",
            "-march=",
            "-std=",
            "-D",
            "-D1",
            "-DCWEB_MODULE_API=2",
            "-O3\n-fplugin=x",
            "-shared",
            "-static",
            "-x",
            "-fdump-tree-all",
            "-save-temps",
            "-fsanitize=address",
        ] {
            assert!(check(flag).is_err(), "{flag}");
        }
        assert!(check("-I/etc").unwrap_err().contains("beside the source"));
        assert!(check("-lz").unwrap_err().contains("link("));
        assert!(check_all(std::iter::repeat_n("-O2", 65)).is_err());
    }

    #[test]
    fn flags_of_one_language_are_known() {
        assert_eq!(is_for_cpp("-std=c17"), Some(false));
        assert_eq!(is_for_cpp("-std=c++20"), Some(true));
        assert_eq!(is_for_cpp("-O2"), None);
        assert_eq!(machine(&["-O2".to_owned()]), "");
        assert_eq!(machine(&["-march=native".to_owned()]).len(), 64);
    }
}
