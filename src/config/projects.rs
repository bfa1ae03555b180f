//! Settings about projects, libraries and versions.

use super::ServeArgs;
use super::user_range::UserRange;
use super::values::RequireSandbox;
use std::path::PathBuf;

/// Settings about projects, libraries, sandboxes and versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectSettings {
    /// Libraries that sources may link, beside those that only compute; `all` means every installed library.
    pub allow_lib: Vec<String>,
    /// System calls, by name, that isolated modules may make in addition.
    pub allow_syscall: Vec<String>,
    /// Limit, in bytes, on the memory of all processes of modules together; 0: no limit; `None`: half of the memory.
    pub modules_memory_bytes_max: Option<u64>,
    /// The users of domains; `None`: all run as nobody.
    pub module_uids: Option<UserRange>,
    /// The weakest sandbox of modules with which the server starts; `None`: `landlock` with `--production`, else `basic`.
    pub require_sandbox: Option<RequireSandbox>,
    /// Whether the server takes ready shared objects.
    pub allow_binary: bool,
    /// Whether pages are told of deployments, so that they reload.
    pub dev: bool,
    /// Limit on the files of a project: 422 beyond it.
    pub files_max: usize,
    /// Limit, in bytes, on all files of a project together: 422 beyond it.
    pub bytes_max: usize,
    /// Number of versions of each module that are kept with their sources, including the live one.
    pub versions_kept: usize,
    /// Limit, in bytes, on the last lines of each module that are kept for `cweb logs`.
    pub log_bytes_max: usize,
    /// Directory of core files of modules; absolute.
    pub core_dir: Option<PathBuf>,
    /// Limit, in bytes, on a core file.
    pub core_bytes_max: u64,
    /// Limit on the core files in the directory.
    pub core_files_max: usize,
    /// Limit on concurrent calls of routes of `CWEB_KILLABLE`, for each domain.
    pub killable_calls_max: usize,
    /// The file of trusted signers; absolute.
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
            // The server changes to its data directory later, so the path must be absolute.
            trusted_signers: args.trusted_signers.clone().map(|path| std::path::absolute(&path).unwrap_or(path)),
            log_bytes_max: args.module_log_bytes_max(),
        }
    }
}
