//! The directories from which a module may serve files without a handler. The operator must permit modules to read them.

use super::verify::Refusal;
use crate::abi::manifest::{Manifest, Mount};
use std::path::{Component, Path, PathBuf};

/// The directories that the operator allows.
#[derive(Debug, Clone, Default)]
pub struct MountDirs {
    /// The base of relative directories.
    pub base: PathBuf,
    /// Directories that may be served, with everything below them; absolute paths.
    pub allowed: Vec<PathBuf>,
}

/// Checks the mounts of a module, as far as that needs no server.
///
/// # Errors
/// All problems, one line each.
pub(super) fn check(manifest: &Manifest) -> Result<(), Refusal> {
    check_each(manifest, problem)
}

/// Checks that the operator allows the directories of the mounts.
///
/// # Errors
/// All problems, one line each.
pub(super) fn check_allowed(manifest: &Manifest, dirs: &MountDirs) -> Result<(), Refusal> {
    check_each(manifest, |mount| refused(mount, dirs))
}

fn check_each(manifest: &Manifest, problem: impl Fn(&Mount) -> Option<String>) -> Result<(), Refusal> {
    let mounts = manifest.routes.iter().filter_map(|route| route.mount.as_ref());
    let wrong: Vec<String> = mounts
        .enumerate()
        .filter_map(|(at, mount)| problem(mount).map(|problem| format!("mounts[{at}]: {problem}")))
        .collect();
    if wrong.is_empty() { Ok(()) } else { Err(Refusal(wrong.join("\n"))) }
}

fn problem(mount: &Mount) -> Option<String> {
    let Mount { prefix, dir } = mount;
    if !prefix.starts_with('/') {
        return Some(format!("the prefix \"{}\" does not begin with /", prefix.escape_debug()));
    }
    if prefix.bytes().any(|byte| byte <= b' ' || matches!(byte, b'#' | b'?' | 0x7f)) {
        return Some(format!(
            "the prefix \"{}\" has a blank, a control character, # or ?, so no request can match it; write it as requests have \
             it, a blank as %20",
            prefix.escape_debug()
        ));
    }
    let shown = dir.escape_debug();
    if dir.is_empty() || Path::new(dir).components().any(|part| part == Component::ParentDir) {
        return Some(format!("the directory \"{shown}\" is empty or has \"..\" in it"));
    }
    None
}

fn refused(mount: &Mount, dirs: &MountDirs) -> Option<String> {
    let dir = &mount.dir;
    let path = dirs.base.join(dir);
    // A directory may be created later; until then its name stands for its path.
    let real = path.canonicalize().unwrap_or(path);
    let holds = |allowed: &PathBuf| real.starts_with(allowed.canonicalize().as_ref().unwrap_or(allowed));
    (!dirs.allowed.iter().any(holds)).then(|| {
        format!(
            "the directory \"{}\" is not one that modules may read; put the files below \"static\" in the data directory, or \
             have the server started with --allow-read {}",
            dir.escape_debug(),
            real.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_allowed_is_served() {
        let base = tempfile::tempdir().unwrap();
        let path = |name: &str| base.path().join(name);
        for name in ["static/a", "other", "secret"] {
            std::fs::create_dir_all(path(name)).unwrap();
        }
        std::os::unix::fs::symlink(path("secret"), path("static/link")).unwrap();
        let dirs = MountDirs { base: base.path().to_owned(), allowed: vec![path("static"), path("other")] };
        let check = |prefix: &str, dir: &str| {
            let mount = Mount { prefix: prefix.to_owned(), dir: dir.to_owned() };
            problem(&mount).or_else(|| refused(&mount, &dirs))
        };
        let other = path("other").display().to_string();
        for dir in ["static", "static/a", "static/later", "./other", &other] {
            assert_eq!(check("/", dir), None, "{dir}");
        }
        for dir in ["", "..", "static/../secret", "secret", "static/link", "/etc", "staticx"] {
            assert!(check("/", dir).is_some(), "{dir}");
        }
        for prefix in ["x", "", "/a b", "/a#", "/a?", "/a\n"] {
            assert!(check(prefix, "static").is_some_and(|why| why.contains("prefix")), "{prefix}");
        }
        assert_eq!(check("/a%20b/ö.(x)", "static"), None);
    }
}
