//! Files of a project: their paths, and the limits on their number and size.

/// The project file.
pub(super) const PROJECT_FILE: &str = "module.toml";

/// Limit, in bytes, on the path of a file.
const PATH_BYTES_MAX: usize = 200;

/// Limits of a project.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProjectLimits {
    /// Limit on the number of files.
    pub files_max: usize,
    /// Limit, in bytes, on all files together.
    pub bytes_max: usize,
}

impl Default for ProjectLimits {
    fn default() -> Self {
        Self { files_max: 1000, bytes_max: 64 * 1024 * 1024 }
    }
}

/// A file of a project: its path and its content.
pub type NamedFile = (String, Vec<u8>);

/// The path of a project's file as it is stored; `None`: the file is hidden and left out.
///
/// # Errors
/// The reason why no file can have this path.
pub(super) fn checked_path(path: &str) -> Result<Option<String>, String> {
    let refuse = |why: &str| Err(format!("the path {path:?} can't be that of a module's file: {why}"));
    if path.len() > PATH_BYTES_MAX {
        return refuse("it has more than 200 bytes");
    }
    if path.starts_with('/') {
        return refuse("it is absolute");
    }
    if path.chars().any(|c| c.is_control() || matches!(c, '\\' | '"' | '\'' | ':' | '*')) {
        return refuse("it has a control character, a quote, a backslash, a colon or a star");
    }
    let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    if parts.contains(&"..") {
        return refuse("it leads out of the project");
    }
    if parts.iter().any(|part| part.starts_with(['-', '@'])) {
        return refuse("one of its parts begins with - or @, which the compiler would read as a flag");
    }
    let Some(first) = parts.first() else { return refuse("it names no file") };
    if first.starts_with("sdk-") || *first == "module.so" {
        return refuse("the server uses this name itself");
    }
    if parts.iter().any(|part| part.starts_with('.')) {
        return Ok(None);
    }
    Ok(Some(parts.join("/")))
}

pub(super) fn too_large(limits: ProjectLimits) -> String {
    format!("the project has more than {} bytes, the limit of --project-bytes-max", limits.bytes_max)
}

pub(super) fn too_many(limits: ProjectLimits) -> String {
    format!("the project has more than {} files, the limit of --project-files-max", limits.files_max)
}
