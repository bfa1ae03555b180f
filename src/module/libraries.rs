//! Libraries that modules link beside those of every module: which libraries the operator allows, where they are, and how
//! to link them.
//!
//! A source names a library; pkg-config reports its flags. The flags are checked, so that a `.pc` file can't add flags of
//! another kind. Without a `.pc` file, `libNAME.so` in the system's library directories is used. The key of a compilation
//! covers the identity of each library's real file, so that a changed file leads to a new build.

use super::deploy::DeployError;
pub use super::deploy::Library;
use super::dialect::messages;
use crate::net;
use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// A known library: its name in sources, in pkg-config, and in Debian.
struct KnownLibrary {
    name: &'static str,
    /// The library's pkg-config packages; without any, the linker finds it by its name.
    packages: &'static [&'static str],
    debian: &'static str,
}

const fn known(name: &'static str, packages: &'static [&'static str], debian: &'static str) -> KnownLibrary {
    KnownLibrary { name, packages, debian }
}

/// The libraries allowed by default: they compute, and open neither sockets nor files by themselves.
const KNOWN: [KnownLibrary; 24] = [
    known("m", &[], "libc6-dev"),
    known("z", &["zlib"], "zlib1g-dev"),
    known("zstd", &["libzstd"], "libzstd-dev"),
    known("lzma", &["liblzma"], "liblzma-dev"),
    known("bz2", &[], "libbz2-dev"),
    known("brotli", &["libbrotlienc", "libbrotlidec"], "libbrotli-dev"),
    known("lz4", &["liblz4"], "liblz4-dev"),
    known("png", &["libpng"], "libpng-dev"),
    known("jpeg", &["libjpeg"], "libjpeg-dev"),
    known("turbojpeg", &["libturbojpeg"], "libturbojpeg0-dev"),
    known("webp", &["libwebp"], "libwebp-dev"),
    known("avif", &["libavif"], "libavif-dev"),
    known("fftw3", &["fftw3"], "libfftw3-dev"),
    known("fftw3f", &["fftw3f"], "libfftw3-dev"),
    known("sndfile", &["sndfile"], "libsndfile1-dev"),
    known("opus", &["opus"], "libopus-dev"),
    known("vorbis", &["vorbis", "vorbisenc"], "libvorbis-dev"),
    known("flac", &["flac"], "libflac-dev"),
    known("xxhash", &["libxxhash"], "libxxhash-dev"),
    known("gmp", &["gmp"], "libgmp-dev"),
    known("openblas", &["openblas"], "libopenblas-dev"),
    known("pcre2", &["libpcre2-8"], "libpcre2-dev"),
    known("yaml", &["yaml-0.1"], "libyaml-dev"),
    known("xml2", &["libxml-2.0"], "libxml2-dev"),
];

/// Libraries that any module may need: those of the languages, and those that every compiled module links.
const OF_EVERY_MODULE: [&str; 11] =
    ["c", "m", "pthread", "dl", "rt", "gcc_s", "stdc++", "jansson", "sqlite3", "ssl", "crypto"];
/// Libraries whose file names differ from their names in sources: the file's name, and the source's name.
const OTHERWISE_CALLED: [(&str, &str); 8] = [
    ("png16", "png"),
    ("brotlienc", "brotli"),
    ("brotlidec", "brotli"),
    ("brotlicommon", "brotli"),
    ("FLAC", "flac"),
    ("vorbisenc", "vorbis"),
    ("pcre2-8", "pcre2"),
    ("yaml-0", "yaml"),
];

/// Directories below which headers of libraries may lie.
const INCLUDE_DIRS: [&str; 3] = ["/usr/include", "/usr/local/include", "/usr/lib"];
/// Directories below which libraries may lie.
const LIBRARY_DIRS: [&str; 5] = ["/usr/lib", "/usr/local/lib", "/lib", "/usr/lib64", "/lib64"];

/// Limit, in bytes, on the name of a library.
const NAME_BYTES_MAX: usize = 64;
/// Limit on the libraries of a module.
const LIBRARIES_MAX: usize = 32;

/// An installed library, and how to link it.
#[derive(Debug, Clone)]
pub(super) struct Resolved {
    pub(super) library: Library,
    /// Compiler flags.
    pub(super) cflags: Vec<String>,
    /// Linker flags.
    pub(super) libs: Vec<String>,
    /// The files that the linker finds, usually links to the real files.
    links: Vec<PathBuf>,
}

/// Finds libraries and caches the results.
#[derive(Debug, Default)]
pub(super) struct Libraries {
    allowed: Allowed,
    found: Mutex<HashMap<String, Resolved>>,
}

/// The libraries that sources may name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Allowed {
    /// The known libraries.
    #[default]
    Default,
    /// All installed libraries.
    All,
    /// These libraries, beside the known ones.
    Also(Vec<String>),
}

impl Allowed {
    /// The libraries that the values of `--allow-lib` name.
    #[must_use]
    pub fn of(names: Vec<String>) -> Self {
        if names.is_empty() {
            Self::Default
        } else if names.iter().any(|name| name == "all") {
            Self::All
        } else {
            Self::Also(names)
        }
    }

    fn has(&self, name: &str) -> bool {
        let by_default = KNOWN.iter().any(|known| known.name == name);
        match self {
            Self::All => true,
            Self::Default => by_default,
            Self::Also(names) => by_default || names.iter().any(|allowed| allowed == name),
        }
    }
}

/// Checks that `name` can name a library.
///
/// # Errors
/// A text for the author: the reason.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'+' | b'-' | b'.');
    let fits = (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_plain);
    if fits && name.starts_with(|first: char| first.is_ascii_alphanumeric()) && !name.contains("..") {
        return Ok(());
    }
    Err(format!(
        "{name:?} can't name a library: a name has letters, digits, _ + - and dots, no path and no flag; write for example: link(\"zstd\")"
    ))
}

impl Libraries {
    pub(super) fn new(allowed: Allowed) -> Self {
        Self { allowed, found: Mutex::default() }
    }

    /// Finds the libraries `names`; each must be allowed.
    ///
    /// # Errors
    /// The first library that is not allowed or not installed, with the flag or the package that helps.
    pub(super) fn resolve(&self, names: &[String], compiler: &Path) -> Result<Vec<Resolved>, DeployError> {
        if names.len() > LIBRARIES_MAX {
            return Err(refused(&format!("the module names more than {LIBRARIES_MAX} libraries")));
        }
        names.iter().map(|name| self.one(name, compiler)).collect::<Result<_, String>>().map_err(|text| refused(&text))
    }

    fn one(&self, name: &str, compiler: &Path) -> Result<Resolved, String> {
        let known = self.found.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        // The file may have changed since.
        if let Some(known) = known.filter(|known| known.library.identity == identity(&known.links)) {
            return Ok(known);
        }
        let found = find(name, &self.allowed, compiler)?;
        self.found.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), found.clone());
        Ok(found)
    }
}

impl Libraries {
    /// The library that a shared object needs under the name `file`, such as `libz.so.1`; `None` for a library of every
    /// module.
    ///
    /// # Errors
    /// A sentence for the author: the library is named by a path, or not allowed.
    pub(super) fn shared(&self, file: &str) -> Result<Option<Library>, String> {
        if file.contains('/') {
            return Err(format!(
                "it names the library {file:?} by a path (DT_NEEDED): libraries are found by their names in the system's directories; link \
                 with a library that has a soname (-Wl,-soname,libNAME.so.1), by -lNAME"
            ));
        }
        let stem = file.split_once(".so").map_or(file, |(stem, _)| stem);
        if stem.starts_with("ld-linux") {
            return Ok(None);
        }
        let stem = stem.strip_prefix("lib").unwrap_or(stem);
        check_name(stem)
            .map_err(|_| format!("it needs the library {file:?} (DT_NEEDED), but no library can have this name"))?;
        if OF_EVERY_MODULE.contains(&stem) {
            return Ok(None);
        }
        let name = OTHERWISE_CALLED.iter().find(|(called, _)| *called == stem).map_or(stem, |(_, name)| name);
        if !self.allowed.has(stem) && !self.allowed.has(name) {
            return Err(format!(
                "it needs the library {file} (DT_NEEDED), which is not allowed on this server; its operator allows it with: cweb serve \
                 --allow-lib {name}"
            ));
        }
        let multiarch = format!("{}-linux-gnu", std::env::consts::ARCH);
        let dirs = LIBRARY_DIRS.iter().flat_map(|dir| [Path::new(dir).join(&multiarch), PathBuf::from(dir)]);
        // If the file is in none of these directories, the dynamic loader searches further ones, and reports a missing
        // library itself.
        let link = dirs.map(|dir| dir.join(file)).find(|path| path.exists());
        let real = link.as_ref().and_then(|link| fs::canonicalize(link).ok()).unwrap_or_default();
        Ok(Some(Library {
            name: name.to_owned(),
            version: version_in(&real),
            file: real.display().to_string(),
            identity: link.map(|link| identity(&[link])).unwrap_or_default(),
        }))
    }
}

fn refused(text: &str) -> DeployError {
    DeployError::Compile(format!("error: {text}\n"))
}

fn find(name: &str, allowed: &Allowed, compiler: &Path) -> Result<Resolved, String> {
    check_name(name)?;
    if !allowed.has(name) {
        return Err(not_allowed(name, allowed));
    }
    let known = KNOWN.iter().find(|known| known.name == name);
    let asked: Vec<String> = match known {
        Some(known) => known.packages.iter().map(|package| (*package).to_owned()).collect(),
        None => vec![name.to_owned()],
    };
    let packaged = if asked.is_empty() { None } else { packaged(name, &asked)? };
    let (version, cflags, libs) = match packaged {
        Some(found) => found,
        None => (String::new(), Vec::new(), vec![format!("-l{name}")]),
    };
    let missing = || {
        let package = known.map_or_else(
            || format!("the package that has lib{name}.so; search it with: apt-file search lib{name}.so"),
            |known| format!("apt-get install {}", known.debian),
        );
        let meant = known.map_or_else(|| nearest(name, allowed), |_| None);
        let meant = meant.map(|meant| format!("; did you mean link(\"{meant}\")?")).unwrap_or_default();
        format!("the library {name} is not installed on the server; install it there: {package}{meant}")
    };
    let linked = libs.iter().filter_map(|flag| flag.strip_prefix("-l"));
    let links: Vec<PathBuf> =
        linked.map(|lib| link_of(lib, &libs, compiler).ok_or_else(missing)).collect::<Result<_, _>>()?;
    let first = links.first().and_then(|link| fs::canonicalize(link).ok()).ok_or_else(missing)?;
    let version = if version.is_empty() { version_in(&first) } else { version };
    let (file, identity) = (first.display().to_string(), identity(&links));
    let library = Library { name: name.to_owned(), version, file, identity };
    Ok(Resolved { library, cflags, libs, links })
}

/// The reason why the library `name` is not allowed, and what helps: another name, no `link` line, or the operator.
fn not_allowed(name: &str, allowed: &Allowed) -> String {
    if OF_EVERY_MODULE.contains(&name.strip_prefix("lib").unwrap_or(name)) {
        return format!(
            "the library {name} needs no line, because every module has its functions: leave link(\"{name}\") out"
        );
    }
    let operator = format!("its operator allows it with: cweb serve --allow-lib {name}");
    match nearest(name, allowed) {
        Some(meant) => format!(
            "the library {name} is not known; did you mean link(\"{meant}\")? If the library is really called {name}, it is not allowed \
             on this server; {operator}"
        ),
        None => format!("the library {name} is not allowed on this server; {operator}"),
    }
}

/// The allowed library with a similar name: in other letter case, under its name on other systems, or with a typing error.
fn nearest<'a>(name: &str, allowed: &'a Allowed) -> Option<&'a str> {
    let lower = name.to_ascii_lowercase();
    let bare = lower.strip_prefix("lib").unwrap_or(&lower);
    let called = |known: &&KnownLibrary| {
        known.name == bare || known.packages.contains(&lower.as_str()) || known.packages.contains(&bare)
    };
    if let Some(known) = KNOWN.iter().find(called) {
        return Some(known.name);
    }
    if let Some(&(_, known)) = OTHERWISE_CALLED.iter().find(|(file, _)| file.eq_ignore_ascii_case(bare)) {
        return Some(known);
    }
    let also: &[String] = if let Allowed::Also(names) = allowed { names } else { &[] };
    let names = KNOWN.iter().map(|known| known.name).chain(also.iter().map(String::as_str));
    // Any name of two letters is one letter away from many others.
    let limit = if bare.len() < 3 { 0 } else { (bare.len() / 3).clamp(1, 2) };
    let close = names
        .filter(|other| other.len() >= 3)
        .map(|other| (messages::distance(bare.as_bytes(), other.to_ascii_lowercase().as_bytes()), other));
    close.filter(|(distance, other)| *distance <= limit && *other != name).min().map(|(_, other)| other)
}

/// The version, the compiler flags and the linker flags.
type Packaged = (String, Vec<String>, Vec<String>);

/// The answer of pkg-config for `packages`; `None` if it does not know them or is not installed.
fn packaged(name: &str, packages: &[String]) -> Result<Option<Packaged>, String> {
    let Some(version) = pkg_config("--modversion", packages) else { return Ok(None) };
    let flags = |what| pkg_config(what, packages).unwrap_or_default();
    let words = |text: String| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let (cflags, libs) = (words(flags("--cflags")), words(flags("--libs")));
    for flag in cflags.iter().chain(&libs) {
        if !is_harmless(flag) {
            return Err(format!(
                "pkg-config gives the flag {flag:?} for the library {name}; accepted are -I and -L of the system's directories, -l, -D and -pthread"
            ));
        }
    }
    Ok(Some((version.lines().next().unwrap_or_default().to_owned(), cflags, libs)))
}

fn pkg_config(what: &str, packages: &[String]) -> Option<String> {
    let mut command = Command::new("pkg-config");
    command.arg(what).arg("--").args(packages).env_clear();
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let output = net::keep_descriptors_from(&mut command).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether a flag of pkg-config only says where a library of the system is.
fn is_harmless(flag: &str) -> bool {
    let below = |path: &str, dirs: &[&str]| {
        let path = Path::new(path);
        let is_plain = path.components().all(|part| !matches!(part, Component::ParentDir));
        is_plain && dirs.iter().any(|dir| path.starts_with(dir))
    };
    if flag == "-pthread" {
        return true;
    }
    match (flag.get(..2), flag.get(2..)) {
        (Some("-I"), Some(path)) => below(path, &INCLUDE_DIRS),
        (Some("-L"), Some(path)) => below(path, &LIBRARY_DIRS),
        (Some("-l"), Some(name)) => check_name(name).is_ok(),
        (Some("-D"), Some(name)) => super::flags::check(flag).is_ok() && !name.is_empty(),
        _ => false,
    }
}

/// The file that the linker uses for `-lNAME`.
fn link_of(name: &str, libs: &[String], compiler: &Path) -> Option<PathBuf> {
    let file = format!("lib{name}.so");
    let mut own = libs.iter().filter_map(|flag| flag.strip_prefix("-L")).map(|dir| Path::new(dir).join(&file));
    let found = own.find(|path| path.exists()).or_else(|| {
        let mut command = Command::new(compiler);
        command.arg(format!("-print-file-name={file}")).stdin(Stdio::null()).stderr(Stdio::null());
        let output = net::keep_descriptors_from(&mut command).output().ok()?;
        let path = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim_end());
        path.is_absolute().then_some(path)
    })?;
    let real = fs::canonicalize(&found).ok()?;
    LIBRARY_DIRS.iter().any(|dir| real.starts_with(dir)).then_some(found)
}

/// A text that changes with the files behind `links`: path, size and time.
fn identity(links: &[PathBuf]) -> String {
    let one = |link: &PathBuf| {
        let file = fs::canonicalize(link).ok()?;
        let found = fs::metadata(&file).ok()?;
        Some(format!("{}:{}:{}.{:09}", file.display(), found.len(), found.mtime(), found.mtime_nsec()))
    };
    links.iter().map(|link| one(link).unwrap_or_default()).collect::<Vec<_>>().join(" ")
}

/// The version in a file name like `libz.so.1.2.13`.
fn version_in(file: &Path) -> String {
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.split_once(".so.").map(|(_, version)| version.to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_no_paths_and_no_flags() {
        for name in ["z", "yaml-0.1", "stdc++", "libxml-2.0", "X11"] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        let long = "x".repeat(65);
        for name in ["", "-lz", "../z", "a/b", "a..b", "@x", ".z", "a b", "z\n", "z;x", "z,x", &long] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn flags_of_packages_are_checked() {
        for flag in ["-I/usr/include/libpng16", "-L/usr/lib/x86_64-linux-gnu", "-lpng16", "-DX=1", "-pthread"] {
            assert!(is_harmless(flag), "{flag}");
        }
        for flag in [
            "-I/etc",
            "-I/usr/include/../../etc",
            "-L/tmp",
            "-Wl,-rpath,/tmp",
            "-fplugin=/tmp/x.so",
            "/tmp/x.o",
            "-l:x.a",
            "-l../x",
            "@x",
            "-I",
            "-DCWEB_X",
            "-include",
        ] {
            assert!(!is_harmless(flag), "{flag}");
        }
    }

    #[test]
    fn what_is_not_allowed_or_not_there_says_what_helps() {
        let cc = Path::new("cc");
        let said = |name: &str, allowed: &Allowed| match Libraries::new(allowed.clone()).resolve(&[name.to_owned()], cc)
        {
            Ok(found) => format!("{found:?}"),
            Err(error) => error.to_string(),
        };
        assert!(said("curl", &Allowed::Default).contains("--allow-lib curl"));
        for (name, meant) in [
            ("gmpp", "gmp"),
            ("libz", "z"),
            ("zlib", "z"),
            ("PNG", "png"),
            ("png16", "png"),
            ("zst", "zstd"),
            ("pcre2-8", "pcre2"),
            ("webpp", "webp"),
            ("libsndfil", "sndfile"),
        ] {
            let text = said(name, &Allowed::Default);
            assert!(text.contains(&format!("did you mean link(\"{meant}\")?")), "{text}");
            assert!(text.contains(&format!("--allow-lib {name}")), "{text}");
        }
        for name in ["curl", "X11", "x", "ev", "mysqlclient", "no-such-lib"] {
            assert!(!said(name, &Allowed::Default).contains("did you mean"), "{name}");
        }
        assert!(said("libcurl", &Allowed::of(vec!["curl".to_owned()])).contains("link(\"curl\")"));
        assert!(said("gmpp", &Allowed::All).contains("link(\"gmp\")"));
        assert!(said("sqlite3", &Allowed::Default).contains("leave link(\"sqlite3\") out"));
        assert!(said("no-such-lib", &Allowed::All).contains("libno-such-lib.so"));
        let allowed = Allowed::of(vec!["no-such-lib".to_owned()]);
        assert!(said("no-such-lib", &allowed).contains("is not installed"));
        assert!(said("m", &allowed).contains("libm"));
        assert_eq!(Allowed::of(vec!["x".into(), "all".into()]), Allowed::All);
    }

    #[test]
    fn what_a_shared_object_needs_is_allowed_by_the_same_names() {
        let said = |file: &str, allowed: &Allowed| match Libraries::new(allowed.clone()).shared(file) {
            Ok(found) => found.map_or_else(|| "of every module".to_owned(), |library| library.name),
            Err(text) => text,
        };
        let others = Allowed::of(vec!["curl".to_owned()]);
        for (file, words) in [
            ("libc.so.6", "of every module"),
            ("ld-linux-x86-64.so.2", "of every module"),
            ("libz.so.1", "z"),
            ("libpng16.so.16", "png"),
            ("libcurl.so.4", "--allow-lib curl"),
            ("libc.musl-x86_64.so.1", "--allow-lib c.musl-x86_64"),
            ("/opt/libz.so", "by a path"),
            ("$ORIGIN/libz.so", "by a path"),
            ("", "no library can have this name"),
        ] {
            assert!(said(file, &Allowed::Default).contains(words), "{file}: {}", said(file, &Allowed::Default));
        }
        assert_eq!((said("libcurl.so.4", &others).as_str(), said("libx.so", &Allowed::All).as_str()), ("curl", "x"));
    }

    #[test]
    fn another_file_is_another_library() {
        let dir = tempfile::tempdir().unwrap();
        let (link, first) = (dir.path().join("libx.so"), dir.path().join("libx.so.1.0"));
        fs::write(&first, "one").unwrap();
        std::os::unix::fs::symlink(&first, &link).unwrap();
        let links = [link.clone()];
        let before = identity(&links);
        assert_eq!(before, identity(&links));
        // A build writes to the same file.
        fs::write(&first, "other").unwrap();
        let changed = identity(&links);
        assert_ne!(before, changed);
        // An upgrade brings another file under the same name.
        fs::write(dir.path().join("libx.so.1.1"), "other").unwrap();
        fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink(dir.path().join("libx.so.1.1"), &link).unwrap();
        assert_ne!(changed, identity(&links));
    }

    #[test]
    fn versions_of_files() {
        assert_eq!(version_in(Path::new("/usr/lib/libz.so.1.2.13")), "1.2.13");
        assert_eq!(version_in(Path::new("/usr/lib/libz.so")), "");
    }
}
