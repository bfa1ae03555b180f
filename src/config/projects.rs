//! Settings about what modules are made of.

use super::ServeArgs;
use std::path::PathBuf;
use std::str::FromStr;

/// How much has to stand between code of others and the machine; each level has all of those before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RequireSandbox {
    /// A process, a user without rights, limits.
    Basic,
    /// Landlock and seccomp besides.
    Landlock,
    /// Namespaces besides.
    Namespaces,
}

/// Users of domains, by their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(try_from = "String")]
pub struct UserRange {
    /// The first.
    pub first: u32,
    /// The last.
    pub last: u32,
}

impl UserRange {
    /// How many there are.
    #[must_use]
    pub fn count(self) -> u64 {
        u64::from(self.last - self.first) + 1
    }
}

impl FromStr for UserRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split_once('-').and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
        // The last number means "no change" to the kernel, and 0 is root.
        let numbers = numbers.filter(|(first, last)| (1..=*last).contains(first) && *last < u32::MAX);
        let (first, last) =
            numbers.ok_or_else(|| format!("\"{text}\" is no range of users: write FIRST-LAST, such as 70000-70099"))?;
        Ok(Self { first, last })
    }
}

impl TryFrom<String> for UserRange {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// Libraries, limits of projects, versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectSettings {
    /// Libraries that sources may link with beside those that only compute; `all` stands for every one.
    pub allow_lib: Vec<String>,
    /// System calls that isolated modules may make besides, by name.
    pub allow_syscall: Vec<String>,
    /// Memory of all processes of modules together, in bytes; 0: no limit; `None`: half of what there is.
    pub modules_memory_bytes_max: Option<u64>,
    /// Users that domains run as; `None`: all as nobody.
    pub module_uids: Option<UserRange>,
    /// How strong the sandbox of modules has to be for the server to start; `None`: `landlock` with `--production`, else `basic`.
    pub require_sandbox: Option<RequireSandbox>,
    /// Whether ready shared objects are served.
    pub allow_binary: bool,
    /// Whether pages are told of deployments, which load again then.
    pub dev: bool,
    /// Most files of a project: 422 beyond it.
    pub files_max: usize,
    /// Most bytes of all files of a project together: 422 beyond it.
    pub bytes_max: usize,
    /// Versions of each module that are kept with their sources, the live one among them.
    pub versions_kept: usize,
    /// Most bytes of the last lines of each module that are kept for `cweb logs`.
    pub log_bytes_max: usize,
    /// Directory of core files of modules; absolute.
    pub core_dir: Option<PathBuf>,
    /// Most bytes of a core file.
    pub core_bytes_max: u64,
    /// Most core files.
    pub core_files_max: usize,
    /// Calls of routes of `CWEB_KILLABLE` at once, a domain.
    pub killable_calls_max: usize,
    /// The file of those whose signatures are asked for; absolute.
    pub trusted_signers: Option<PathBuf>,
}

impl ProjectSettings {
    pub(super) fn of(args: &ServeArgs) -> Self {
        Self {
            allow_lib: args.allow_lib.clone().unwrap_or_default(),
            allow_syscall: args.allow_syscall.clone().unwrap_or_default(),
            modules_memory_bytes_max: args.modules_memory_bytes_max,
            module_uids: args.module_uids,
            require_sandbox: args.require_sandbox,
            allow_binary: args.allow_binary.unwrap_or(false),
            dev: args.dev.unwrap_or(false),
            files_max: args.project_files_max.unwrap_or(1000),
            bytes_max: args.project_bytes_max.unwrap_or(64 * 1024 * 1024),
            versions_kept: args.versions_kept.unwrap_or(20),
            core_dir: args.core_dir.clone().map(|path| std::path::absolute(&path).unwrap_or(path)),
            core_bytes_max: args.core_bytes_max.unwrap_or(1024 * 1024 * 1024),
            core_files_max: args.core_files_max.unwrap_or(8),
            killable_calls_max: args.killable_calls_max.unwrap_or(16),
            // The server leaves its directory for that of its data.
            trusted_signers: args.trusted_signers.clone().map(|path| std::path::absolute(&path).unwrap_or(path)),
            log_bytes_max: args.module_log_bytes_max.unwrap_or(256 * 1024),
        }
    }
}
