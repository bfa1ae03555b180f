//! The file of settings, `cweb.toml`.

use super::args::ServeArgs;
use std::path::{Path, PathBuf};

/// Reads the file at `path`; without one, `cweb.toml` in the data directory, which need not be there. What is wrong with it
/// is left out, and told.
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
    // The reader stops at the first fault; the keys one by one show them all.
    let Ok(table) = text.parse::<toml::Table>() else { return failed(error.to_string()) };
    let (mut read, mut problems) = (ServeArgs::default(), Vec::new());
    for (key, value) in table {
        match toml::Table::from_iter([(key.clone(), value)]).try_into::<ServeArgs>() {
            Ok(one) => read = read.or(one),
            Err(error) => problems.push(format!("{}: {key}: {}", path.display(), error.to_string().trim_end())),
        }
    }
    // With its line, which a key by itself has not.
    if problems.len() < 2 {
        problems = vec![format!("{}: {error}", path.display())];
    }
    (read, problems)
}

/// Where the file of settings is looked for.
pub(super) fn settings_path(given: &ServeArgs) -> PathBuf {
    let own = || given.data_dir.as_deref().unwrap_or(Path::new(".")).join("cweb.toml");
    given.config.clone().unwrap_or_else(own)
}
