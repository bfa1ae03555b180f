//! Settings about what modules are made of.

use super::ServeArgs;
use super::user_range::UserRange;
use super::values::RequireSandbox;
use std::path::PathBuf;

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
            files_max: args.project_files_max(),
            bytes_max: args.project_bytes_max(),
            versions_kept: args.versions_kept(),
            core_dir: args.core_dir.clone().map(|path| std::path::absolute(&path).unwrap_or(path)),
            core_bytes_max: args.core_bytes_max(),
            core_files_max: args.core_files_max(),
            killable_calls_max: args.killable_calls_max(),
            // The server leaves its directory for that of its data.
            trusted_signers: args.trusted_signers.clone().map(|path| std::path::absolute(&path).unwrap_or(path)),
            log_bytes_max: args.module_log_bytes_max(),
        }
    }
}
