//! Instruments compiled into a module: its tests, sanitizers, coverage counters.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A sanitizer of the compiler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sanitizer {
    /// AddressSanitizer, with LeakSanitizer.
    Address,
    /// UndefinedBehaviorSanitizer.
    Undefined,
    /// ThreadSanitizer.
    Thread,
}

impl Sanitizer {
    /// The sanitizer with the name `name`, as in `-fsanitize=`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "address" => Self::Address,
            "undefined" => Self::Undefined,
            "thread" => Self::Thread,
            _ => return None,
        })
    }

    /// The sanitizer's name, as in `-fsanitize=`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Undefined => "undefined",
            Self::Thread => "thread",
        }
    }

    /// The name of the sanitizer's library in the compiler's directory.
    fn library(self, is_clang: bool) -> String {
        let arch = std::env::consts::ARCH;
        match (self, is_clang) {
            (Self::Address, false) => "libasan.so".to_owned(),
            (Self::Undefined, false) => "libubsan.so".to_owned(),
            (Self::Thread, false) => "libtsan.so".to_owned(),
            (Self::Address, true) => format!("libclang_rt.asan-{arch}.so"),
            (Self::Undefined, true) => format!("libclang_rt.ubsan_standalone-{arch}.so"),
            (Self::Thread, true) => format!("libclang_rt.tsan-{arch}.so"),
        }
    }
}

/// Reads names of sanitizers, separated by commas.
///
/// # Errors
/// A text for users: a name is unknown, or two sanitizers can't be combined.
pub fn sanitizers(text: &str) -> Result<Vec<Sanitizer>, String> {
    let mut found = Vec::new();
    for name in text.split(',').map(str::trim) {
        let sanitizer = Sanitizer::named(name).ok_or_else(|| {
            format!("there is no sanitizer {name:?}: name address, undefined, or both with a comma between")
        })?;
        found.push(sanitizer);
    }
    found.sort_unstable();
    found.dedup();
    if found.contains(&Sanitizer::Address) && found.contains(&Sanitizer::Thread) {
        return Err("address and thread can't be used together: both replace the memory allocator".to_owned());
    }
    Ok(found)
}

/// The AddressSanitizer libraries of the compiler that `CC` names. Every process with a sanitizer preloads them.
///
/// # Errors
/// A text for users: the library is not installed.
pub fn address_libraries() -> Result<Vec<PathBuf>, String> {
    let program = std::env::var("CC").ok().filter(|program| !program.is_empty()).unwrap_or_else(|| "cc".to_owned());
    let mut version = Command::new(&program);
    version.arg("--version").stdin(Stdio::null()).stderr(Stdio::null());
    let version = crate::net::keep_descriptors_from(&mut version).output();
    let is_clang = version.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("clang"));
    Ok(vec![library(Sanitizer::Address, Path::new(&program), is_clang)?])
}

/// The instruments of one compilation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Instruments {
    /// The author's tests.
    pub tests: bool,
    /// Sanitizers, without repetition, in order.
    pub sanitizers: Vec<Sanitizer>,
    /// Whether undefined behaviour ends the process.
    pub halts: bool,
    /// Counters of executed lines.
    pub coverage: bool,
    /// No optimisation, for tools that observe the program as written.
    pub unoptimized: bool,
}

impl Instruments {
    /// The instruments of a module that a server compiles with the sanitizers `names`.
    ///
    /// # Errors
    /// A text for users: there is no such sanitizer, or it can't be used on a server.
    pub(super) fn on_server(names: Option<&str>) -> Result<Self, String> {
        // This check precedes the check of combinations, since a server refuses `thread` alone, too.
        if names.is_some_and(|names| names.split(',').any(|name| name.trim() == Sanitizer::Thread.name())) {
            return Err(
                "the sanitizer thread (ThreadSanitizer) has to be in the whole process, and a server's process has other \
                 code; name address, undefined, or both with a comma between; data races of a module are found before its deployment by: cweb test --tsan"
                    .to_owned(),
            );
        }
        let sanitizers = names.map(sanitizers).transpose()?.unwrap_or_default();
        Ok(Self { sanitizers, ..Self::default() })
    }

    /// Compiler flags, after those of the module.
    pub(super) fn cflags(&self) -> Vec<String> {
        let mut flags = Vec::new();
        if self.tests {
            flags.push("-DCWEB_TESTING".to_owned());
        }
        flags.extend(self.sanitize_flag());
        if !self.sanitizers.is_empty() {
            // Inlined functions would be missing in reports.
            flags.push("-O1".to_owned());
            flags.push("-fno-optimize-sibling-calls".to_owned());
        }
        if self.sanitizers.contains(&Sanitizer::Undefined) && self.halts {
            flags.push("-fno-sanitize-recover=undefined".to_owned());
        }
        if self.coverage {
            flags.extend(["--coverage", "-fprofile-update=atomic"].map(str::to_owned));
        }
        if self.coverage || self.unoptimized {
            flags.push("-O0".to_owned());
        }
        flags
    }

    /// Linker flags.
    pub(super) fn link_flags(&self, is_clang: bool) -> Vec<String> {
        let coverage = self.coverage.then(|| "--coverage".to_owned());
        let shared = (is_clang && !self.sanitizers.is_empty()).then(|| "-shared-libsan".to_owned());
        self.sanitize_flag().into_iter().chain(coverage).chain(shared).collect()
    }

    fn sanitize_flag(&self) -> Option<String> {
        let names: Vec<&str> = self.sanitizers.iter().map(|sanitizer| sanitizer.name()).collect();
        (!names.is_empty()).then(|| format!("-fsanitize={}", names.join(",")))
    }

    /// The libraries that must be preloaded into a process with such a module.
    ///
    /// # Errors
    /// A text for users: a library is not installed.
    pub(super) fn preload(&self, compiler: &Path, is_clang: bool) -> Result<Vec<PathBuf>, String> {
        let needed = self.sanitizers.iter().filter(|sanitizer| {
            // The library of the other sanitizer contains UndefinedBehaviorSanitizer.
            **sanitizer != Sanitizer::Undefined || self.sanitizers.len() == 1
        });
        needed.map(|sanitizer| library(*sanitizer, compiler, is_clang)).collect()
    }
}

/// The path of a sanitizer's library.
fn library(sanitizer: Sanitizer, compiler: &Path, is_clang: bool) -> Result<PathBuf, String> {
    let name = sanitizer.library(is_clang);
    let mut command = Command::new(compiler);
    command.arg(format!("-print-file-name={name}")).stdin(Stdio::null()).stderr(Stdio::null());
    let output = crate::net::keep_descriptors_from(&mut command).output();
    let path = output.ok().and_then(|output| String::from_utf8(output.stdout).ok());
    // A compiler without the library prints the bare name.
    let path = path.map(|text| PathBuf::from(text.trim())).filter(|path| path.is_absolute());
    path.and_then(|path| path.canonicalize().ok()).ok_or_else(|| {
        let package = if is_clang { "libclang-rt-dev" } else { "libgcc-12-dev, or that of the compiler's version" };
        format!(
            "the sanitizer {} is not installed: {} knows no {name}; install it (Debian: {package})",
            sanitizer.name(),
            compiler.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sanitizers_are_named_like_the_compilers() {
        assert_eq!(sanitizers("undefined,address,address"), Ok(vec![Sanitizer::Address, Sanitizer::Undefined]));
        for wrong in ["", "memory", "address,thread", "address -fplugin=x"] {
            assert!(sanitizers(wrong).is_err(), "{wrong}");
        }
        let instruments =
            Instruments { sanitizers: sanitizers("address,undefined").unwrap(), ..Instruments::default() };
        assert!(instruments.cflags().contains(&"-fsanitize=address,undefined".to_owned()));
        assert!(Instruments::default().cflags().is_empty() && Instruments::default().link_flags(true).is_empty());
    }
}
