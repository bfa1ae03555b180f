//! The file of settings, `cweb.toml`.

use super::args::ServeArgs;
use std::path::{Path, PathBuf};

/// Reads the file at `path`, or else `cweb.toml` in the data directory, which may be missing. Skips faulty keys and returns
/// the problems.
pub(super) fn read_file(path: Option<&Path>, data_dir: Option<&Path>) -> (ServeArgs, Vec<String>) {
    let fallback = data_dir.unwrap_or(Path::new(".")).join("cweb.toml");
    let (path, wanted) = (path.unwrap_or(&fallback), path.is_some());
    let failed = |reason: String| (ServeArgs::default(), vec![format!("{}: {reason}", path.display())]);
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !wanted => return Default::default(),
        Err(error) => return failed(error.to_string()),
    };
    let error = match toml::from_str(&text) {
        Ok(args) => return (args, Vec::new()),
        Err(error) => error,
    };
    // The TOML reader stops at the first fault; reading key by key finds them all.
    let Ok(table) = text.parse::<toml::Table>() else { return failed(error.to_string()) };
    let (mut read, mut problems) = (ServeArgs::default(), Vec::new());
    for (key, value) in table {
        match toml::Table::from_iter([(key.clone(), value)]).try_into::<ServeArgs>() {
            Ok(one) => read = read.or(one),
            Err(error) => problems.push(format!("{}: {key}: {}", path.display(), error.to_string().trim_end())),
        }
    }
    // For a single problem, the whole file's error replaces it, because that has the line.
    if problems.len() < 2 {
        problems = vec![format!("{}: {error}", path.display())];
    }
    (read, problems)
}

/// The path of the settings file.
pub(super) fn settings_path(given: &ServeArgs) -> PathBuf {
    let own = || given.data_dir.as_deref().unwrap_or(Path::new(".")).join("cweb.toml");
    given.config.clone().unwrap_or_else(own)
}
