//! The files of a module: one source, or a project of several files with an optional `module.toml`.
//!
//! Paths come from authors, so they are checked before anything is written: they must be relative, plain, and without
//! hidden parts. A project has one packed form, a tar file of its files in the order of their names. The store keeps this
//! form, and `cweb pull` gets it.

use super::deploy::{DeployError, SourceFields};
use super::dialect::{Language, Reading};
pub use super::project_files::{NamedFile, ProjectLimits};
use super::project_files::{PROJECT_FILE, checked_path, too_large, too_many};
use super::{archive, flags, libraries, limits, shared_object};
use crate::abi::manifest::Limits;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use toml::Spanned;

/// Limit on the files that a command packs.
const FILES_MAX: usize = 10_000;
/// How many bytes of a single source are examined for a NUL byte.
const TEXT_BYTES_EXAMINED: usize = 8000;
/// Limit on the settings of a module.
const SETTINGS_MAX: usize = 64;

/// A module as a client sends it.
#[derive(Debug, Clone)]
pub enum Posted {
    /// One source, or a tar file of a project, plain or compressed by gzip or zstd.
    Body(Vec<u8>),
    /// Files with their paths.
    Files(Vec<NamedFile>),
}

impl Posted {
    /// The bytes, for a hash that identifies a refused source.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Body(bytes) => bytes.clone(),
            Self::Files(files) => files.iter().flat_map(|(_, bytes)| bytes.iter().copied()).collect(),
        }
    }
}

/// The files of a packed project from a server, with their paths.
///
/// # Errors
/// A text for users: the bytes are not a project, or a path is not valid.
pub fn unpacked(bytes: Vec<u8>) -> Result<Vec<NamedFile>, String> {
    match Source::kept(bytes, true).map_err(|error| error.to_string())? {
        Source::Project(project) => Ok(project.files.into_iter().collect()),
        Source::File(_) => Err("the answer is not an archive".to_owned()),
    }
}

/// Flags for an editor: they contain paths of one machine and are not part of the module.
pub const EDITOR_FLAGS: &str = "compile_flags.txt";

/// Packs the project in `dir` into a tar file, without hidden files and editor flags.
///
/// # Errors
/// A text for users: a file can't be read, or can't be part of a project. Links are refused, as on the server.
pub fn pack_dir(dir: &Path) -> Result<Vec<u8>, String> {
    let (mut files, mut dirs) = (BTreeMap::new(), vec![dir.to_path_buf()]);
    let at = |path: &Path| format!("{}: ", path.display());
    while let Some(next) = dirs.pop() {
        for entry in fs::read_dir(&next).map_err(|error| at(&next) + &error.to_string())? {
            let entry = entry.map_err(|error| at(&next) + &error.to_string())?;
            let (path, kind) = (entry.path(), entry.file_type().map_err(|error| at(&next) + &error.to_string())?);
            let name = path.strip_prefix(dir).ok().and_then(Path::to_str);
            let name = name.ok_or_else(|| at(&path) + "the name is not UTF-8")?;
            // Hidden files are left out, as on the server, before they are read.
            let Some(name) = checked_path(name).map_err(|error| at(&path) + &error)? else { continue };
            if kind.is_dir() {
                dirs.push(path);
            } else if !kind.is_file() {
                return Err(at(&path)
                    + "it is neither a file nor a directory: links and devices are not accepted; put a copy here");
            } else if name != EDITOR_FLAGS {
                files.insert(name, fs::read(&path).map_err(|error| at(&path) + &error.to_string())?);
            }
            if files.len() > FILES_MAX {
                return Err(format!(
                    "{}: the directory has more than {FILES_MAX} files; name the directory of one project",
                    dir.display()
                ));
            }
        }
    }
    if files.is_empty() {
        return Err(format!("{}: there are no files in it", dir.display()));
    }
    archive::pack(&files).map_err(|error| at(dir) + &error.to_string())
}

/// A packed project as it is sent: compressed from 64 KiB on, because the server's limit on a body applies to packed bytes.
///
/// # Errors
/// Memory is short.
pub fn compressed(archive: Vec<u8>) -> std::io::Result<Vec<u8>> {
    const BYTES_MIN: usize = 64 * 1024;
    if archive.len() < BYTES_MIN { Ok(archive) } else { archive::compressed(&archive) }
}

/// An entry of `[[schedules]]` in `module.toml`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ScheduleTable {
    /// The job that the schedule runs.
    pub(super) job: Spanned<String>,
    pub(super) cron: Spanned<String>,
    /// The schedule's name; `None`: the job's name.
    pub(super) name: Option<Spanned<String>>,
    pub(super) timezone: Option<Spanned<String>>,
    pub(super) payload: Option<Spanned<toml::Value>>,
    #[serde(default)]
    pub(super) overlap: bool,
}

/// The source of a module.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Source {
    File(Vec<u8>),
    Project(Box<Project>),
}

/// Several files. All paths have been checked.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Project {
    pub(super) files: BTreeMap<String, Vec<u8>>,
    pub(super) settings: ProjectFile,
}

/// `module.toml`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ProjectFile {
    /// The module's name: the config must have the same name.
    pub(super) name: Option<String>,
    /// The sources, as patterns with `*`; if empty, all files with a source's name.
    pub(super) sources: Vec<String>,
    /// Directories with headers.
    pub(super) include: Vec<String>,
    /// Libraries.
    pub(super) libs: Vec<String>,
    /// Flags of the compiler.
    pub(super) cflags: Vec<String>,
    /// The standard of the language, `c17` or `c++20`.
    pub(super) std: Option<String>,
    /// The domain, unless the client names another.
    pub(super) domain: Option<String>,
    /// Files and directories that the module reads with `cweb_asset`.
    pub(super) assets: Option<Vec<String>>,
    /// Default settings, which apply where no other value is set.
    pub(super) settings: BTreeMap<String, toml::Value>,
    /// Schedules of the module's jobs.
    pub(super) schedules: Vec<ScheduleTable>,
    /// Limits of the project, below those of the server.
    #[serde(deserialize_with = "limits::none")]
    pub(super) limits: Limits,
}

fn refused(text: impl std::fmt::Display) -> DeployError {
    DeployError::Compile(format!("error: {text}\n"))
}

impl Source {
    /// The module's default settings, which apply where no other value is set.
    pub(super) fn default_settings(&self) -> BTreeMap<String, String> {
        match self {
            Self::Project(project) => project.default_settings(),
            Self::File(_) => BTreeMap::new(),
        }
    }

    /// The domain that `module.toml` names.
    pub(super) fn domain(&self) -> Option<&str> {
        match self {
            Self::Project(project) => project.settings.domain.as_deref(),
            Self::File(_) => None,
        }
    }

    /// Reads `posted` within `limits`.
    ///
    /// # Errors
    /// [`DeployError::Compile`]: the archive, a path or `module.toml` is invalid, or a limit is exceeded.
    pub(super) fn read(posted: Posted, limits: ProjectLimits) -> Result<Self, DeployError> {
        match posted {
            Posted::Body(bytes) => match archive::unpack(&bytes, limits).map_err(refused)? {
                Some(files) => Project::new(files, limits).map(|project| Self::Project(Box::new(project))),
                None => Ok(Self::File(bytes)),
            },
            Posted::Files(files) => Project::new(files, limits).map(|project| Self::Project(Box::new(project))),
        }
    }

    /// Reads bytes that were stored with [`Source::packed`].
    pub(super) fn kept(bytes: Vec<u8>, is_project: bool) -> Result<Self, DeployError> {
        if !is_project {
            return Ok(Self::File(bytes));
        }
        // The limits applied when the source was first deployed.
        let limits = ProjectLimits { files_max: usize::MAX, bytes_max: usize::MAX };
        Self::read(Posted::Body(bytes), limits)
    }

    /// The bytes to store.
    pub(super) fn packed(&self) -> std::io::Result<Vec<u8>> {
        match self {
            Self::File(bytes) => Ok(bytes.clone()),
            Self::Project(project) => archive::pack(&project.files),
        }
    }

    /// The bytes of a ready shared object; `None` for sources.
    pub(super) fn object(&self) -> Option<&[u8]> {
        match self {
            Self::File(bytes) if shared_object::is_one(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// The offset of a NUL byte near the start of a single source, which text does not have.
    pub(super) fn nul_byte(&self) -> Option<usize> {
        let Self::File(bytes) = self else { return None };
        memchr::memchr(0, bytes.get(..bytes.len().min(TEXT_BYTES_EXAMINED))?)
    }

    pub(super) fn is_project(&self) -> bool {
        matches!(self, Self::Project(_))
    }

    /// Checks that a project's `module.toml` and its config, which says `name`, give the module the same name.
    ///
    /// # Errors
    /// [`DeployError::Compile`].
    pub(super) fn check_name(&self, name: &str) -> Result<(), DeployError> {
        let Self::Project(project) = self else { return Ok(()) };
        match &project.settings.name {
            Some(other) if other != name => Err(DeployError::Compile(format!(
                "error: {PROJECT_FILE} names the module {other:?}, and its config {name:?}: give both the same name\n"
            ))),
            _ => Ok(()),
        }
    }

    /// The hash of a version: SHA-256 of the source and of the fields that matter, if there are any.
    pub(super) fn hash(&self, fields: &SourceFields) -> String {
        let mut hasher = Sha256::new();
        self.digest(&mut hasher);
        hasher.update(fields.text().as_bytes());
        super::sdk::hex(&hasher.finalize())
    }

    /// Adds the source to a hash.
    pub(super) fn digest(&self, hasher: &mut Sha256) {
        match self {
            Self::File(bytes) => hasher.update(bytes),
            Self::Project(project) => {
                hasher.update(b"project\0");
                for (path, bytes) in &project.files {
                    hasher.update(format!("{}:{path}:{}\n", path.len(), bytes.len()));
                    hasher.update(bytes);
                }
            }
        }
    }
}

impl Project {
    fn new(posted: Vec<NamedFile>, limits: ProjectLimits) -> Result<Self, DeployError> {
        let mut files = BTreeMap::new();
        let mut bytes_sum = 0_usize;
        for (path, bytes) in posted {
            let Some(path) = checked_path(&path).map_err(refused)? else { continue };
            bytes_sum = bytes_sum.saturating_add(bytes.len());
            if bytes_sum > limits.bytes_max {
                return Err(refused(too_large(limits)));
            }
            if files.insert(path.clone(), bytes).is_some() {
                return Err(refused(format!("the project has the file {path} twice")));
            }
        }
        if files.len() > limits.files_max {
            return Err(refused(too_many(limits)));
        }
        for path in files.keys() {
            // A path can't be a file (`a`) and a directory (`a/b`).
            let mut parents = path.match_indices('/').filter_map(|(at, _)| path.get(..at));
            if let Some(parent) = parents.find(|parent| files.contains_key(*parent)) {
                return Err(refused(format!("{parent} can't be both a file and a directory")));
            }
        }
        let settings = read_project_file(&files).map_err(refused)?;
        let project = Self { files, settings };
        project.check_assets().map_err(refused)?;
        if project.units().map_err(refused)?.is_empty() {
            if let Some((path, _)) = project.files.iter().find(|(_, bytes)| shared_object::is_one(bytes)) {
                return Err(refused(format!(
                    "{path} is a shared object, which can't be part of a project; deploy it alone: cweb deploy {path}, or curl -F code=@{path}"
                )));
            }
            return Err(refused("the project has no source: no file is named *.c, *.cpp, *.cc or *.cxx"));
        }
        Ok(project)
    }

    /// The sources to compile, with their languages.
    ///
    /// # Errors
    /// A pattern of `sources` matches no source.
    pub(super) fn units(&self) -> Result<Vec<(&str, Language)>, String> {
        let all = self.files.keys().filter_map(|path| Some((path.as_str(), Language::of(path)?)));
        let patterns = &self.settings.sources;
        if patterns.is_empty() {
            return Ok(all.filter(|(path, _)| !is_for_tests(path)).collect());
        }
        let all: Vec<(&str, Language)> = all.collect();
        for pattern in patterns {
            if !all.iter().any(|(path, _)| matches(pattern, path)) {
                return Err(format!("{PROJECT_FILE}: sources: no source matches {pattern:?}"));
            }
        }
        Ok(all.into_iter().filter(|(path, _)| patterns.iter().any(|pattern| matches(pattern, path))).collect())
    }

    /// The sources of the author's tests, which are not part of the module.
    pub(super) fn test_units(&self) -> Vec<(&str, Language)> {
        let units = self.units().unwrap_or_default();
        let all = self.files.keys().filter_map(|path| Some((path.as_str(), Language::of(path)?)));
        all.filter(|(path, _)| is_for_tests(path) && !units.iter().any(|(unit, _)| unit == path)).collect()
    }

    /// Checks that every entry of `assets` matches a file.
    fn check_assets(&self) -> Result<(), String> {
        for name in self.settings.assets.iter().flatten() {
            checked_path(&name.replace('*', "x")).map_err(|error| format!("{PROJECT_FILE}: assets: {error}"))?;
            if !self.files.keys().any(|path| is_asset(name, path)) {
                return Err(format!("{PROJECT_FILE}: assets: the project has no file or directory {name:?}"));
            }
        }
        Ok(())
    }

    /// The paths of the assets.
    pub(super) fn assets(&self) -> Vec<&str> {
        let default = ["assets".to_owned()];
        let named = self.settings.assets.as_deref().unwrap_or(&default);
        let is_named = |path: &&String| named.iter().any(|name| is_asset(name, path));
        self.files.keys().filter(is_named).map(String::as_str).collect()
    }

    /// The settings as texts.
    pub(super) fn default_settings(&self) -> BTreeMap<String, String> {
        let text = |value: &toml::Value| match value {
            toml::Value::String(text) => text.clone(),
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Float(number) => number.to_string(),
            toml::Value::Boolean(value) => value.to_string(),
            // Reading the file refused these types.
            toml::Value::Datetime(_) | toml::Value::Array(_) | toml::Value::Table(_) => String::new(),
        };
        self.settings.settings.iter().map(|(key, value)| (key.clone(), text(value))).collect()
    }
}

/// Whether a single source has tests (`CWEB_TEST`) and no module, so that it can't be deployed.
#[must_use]
pub fn has_only_tests(source: &[u8]) -> bool {
    Reading::new(source, &SourceFields::default()).has_only_tests()
}

/// Whether a source is one of the author's tests, and not part of the module.
pub(super) fn is_for_tests(path: &str) -> bool {
    let stem = path.rsplit('/').next().unwrap_or_default().split('.').next().unwrap_or_default();
    path.starts_with("test/") || path.starts_with("tests/") || stem.ends_with("_test")
}

/// Whether an entry `name` of `assets` covers the file `path`: it matches the file or names a directory above it.
fn is_asset(name: &str, path: &str) -> bool {
    let name = name.trim_start_matches("./").trim_end_matches('/');
    matches(name, path) || path.strip_prefix(name).is_some_and(|rest| rest.starts_with('/'))
}

/// Whether `path` matches `pattern`; `*` stands for any part of a name.
fn matches(pattern: &str, path: &str) -> bool {
    fn at(pattern: &[u8], path: &[u8], steps: &mut usize) -> bool {
        *steps += 1;
        // Bounds the time for a pattern with many stars.
        if *steps > 10_000 {
            return false;
        }
        match (pattern.split_first(), path.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), _) => {
                at(rest, path, steps)
                    || path.split_first().is_some_and(|(first, behind)| *first != b'/' && at(pattern, behind, steps))
            }
            (Some((wanted, rest)), Some((first, behind))) => wanted == first && at(rest, behind, steps),
            _ => false,
        }
    }
    at(pattern.trim_start_matches("./").as_bytes(), path.as_bytes(), &mut 0)
}

fn read_project_file(files: &BTreeMap<String, Vec<u8>>) -> Result<ProjectFile, String> {
    let Some(bytes) = files.get(PROJECT_FILE) else { return Ok(ProjectFile::default()) };
    let text = std::str::from_utf8(bytes).map_err(|_| format!("{PROJECT_FILE} is not UTF-8"))?;
    let read: ProjectFile = toml::from_str(text).map_err(|error| format!("{PROJECT_FILE}: {error}"))?;
    let read = ProjectFile { limits: limits::read(text)?, ..read };
    let about = |key: &'static str| move |error: String| format!("{PROJECT_FILE}: {key}: {error}");
    read.libs.iter().try_for_each(|name| libraries::check_name(name)).map_err(about("libs"))?;
    flags::check_all(read.cflags.iter().map(String::as_str)).map_err(about("cflags"))?;
    if let Some(standard) = &read.std {
        flags::check(&format!("-std={standard}")).map_err(about("std"))?;
    }
    for dir in &read.include {
        let path = checked_path(dir).map_err(about("include"))?;
        let is_there = path.is_some_and(|path| files.keys().any(|file| file.starts_with(&format!("{path}/"))));
        if !is_there && !matches!(dir.as_str(), "." | "./") {
            return Err(format!("{PROJECT_FILE}: include: the project has no directory {dir:?}"));
        }
    }
    if read.settings.len() > SETTINGS_MAX {
        return Err(format!("{PROJECT_FILE}: settings: there are more than {SETTINGS_MAX}"));
    }
    for (key, value) in &read.settings {
        super::settings::check_key(key).map_err(about("settings"))?;
        if value.is_array() || value.is_table() || value.is_datetime() {
            return Err(format!(
                "{PROJECT_FILE}: settings: {key} must be a string, a number or a boolean; write a date as a string, in quotes"
            ));
        }
        value.as_str().map_or(Ok(()), |text| super::settings::check_value(key, text)).map_err(about("settings"))?;
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project(files: &[(&str, &str)]) -> Result<Project, String> {
        let files = files.iter().map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec())).collect();
        Project::new(files, ProjectLimits::default()).map_err(|error| error.to_string())
    }

    #[test]
    fn paths_are_relative_and_plain() {
        for (path, kept) in
            [("a.c", Some("a.c")), ("./src//a.c", Some("src/a.c")), (".git/config", None), ("src/.x", None)]
        {
            assert_eq!(checked_path(path).unwrap().as_deref(), kept, "{path}");
        }
        let long = "x/".repeat(101);
        for path in [
            "",
            ".",
            "/etc/passwd",
            "../a.c",
            "a/../../b",
            "a\n.c",
            "-x.c",
            "src/@x",
            "a\\b",
            "sdk-1/x.h",
            "a:b",
            &long,
        ] {
            assert!(checked_path(path).is_err(), "{path}");
        }
    }

    #[test]
    fn sources_are_found_or_named() {
        let units = |files: &[(&str, &str)]| {
            let project = project(files).unwrap();
            project.units().unwrap().iter().map(|(path, _)| (*path).to_owned()).collect::<Vec<_>>()
        };
        let all = [("main.c", ""), ("src/b.cpp", ""), ("tests/t.c", ""), ("x_test.c", ""), ("a.h", "")];
        assert_eq!(units(&all), ["main.c", "src/b.cpp"]);
        let named = [("main.c", ""), ("src/b.c", ""), ("src/c.c", ""), ("module.toml", "sources = [\"src/*.c\"]")];
        assert_eq!(units(&named), ["src/b.c", "src/c.c"]);
        assert!(project(&[("a.h", "")]).unwrap_err().contains("no source"));
        assert!(
            project(&[("a.c", ""), ("module.toml", "sources = [\"b*.c\"]")]).unwrap_err().contains("no source matches")
        );
        assert!(project(&[("a.c", ""), ("a.c/b.c", "")]).unwrap_err().contains("a file and a directory"));
        assert!(project(&[("a.c", ""), ("./a.c", "")]).unwrap_err().contains("twice"));
    }

    #[test]
    fn hostile_project_files_are_refused() {
        for (text, words) in [
            ("cflags = [\"-fplugin=x.so\"]", "not allowed"),
            ("cflags = [\"-wrapper\", \"@x\"]", "not allowed"),
            ("cflags = [\"-I/etc\"]", "beside the source"),
            ("cflags = [\"-specs=x\"]", "not allowed"),
            ("libs = [\"../../x\"]", "t name a library"),
            ("include = [\"/etc\"]", "absolute"),
            ("include = [\"../..\"]", "leads out"),
            ("include = [\"nowhere\"]", "no directory"),
            ("std = \"c17 -fplugin=x\"", "std"),
            ("typo = 1", "unknown field"),
            ("[settings]\nX = [1]", "must be a string, a number or a boolean"),
            ("[settings]\nX = 2030-01-31", "write a date as a string"),
            ("[settings]\nX = \"a\\u0000b\"", "contains a NUL"),
            ("[settings]\n\"A B\" = 1", "settings"),
            ("not toml", "module.toml"),
        ] {
            let error = project(&[("a.c", ""), ("module.toml", text)]).unwrap_err();
            assert!(error.contains("module.toml") && error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn assets_are_a_directory_or_named() {
        let text = "assets = [\"pages\", \"*.txt\"]";
        let named = project(&[("a.c", ""), ("pages/x.html", ""), ("n.txt", ""), ("module.toml", text)]).unwrap();
        assert_eq!(named.assets(), ["n.txt", "pages/x.html"]);
        assert_eq!(project(&[("a.c", ""), ("assets/x", "")]).unwrap().assets(), ["assets/x"]);
        assert!(!matches("*a*a*a*a*a*a*a*a*b", &"a".repeat(200)));
    }
}
