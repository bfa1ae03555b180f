//! `routes.ini`: which files to deploy where.

use std::path::{Path, PathBuf};

/// What a `routes.ini` says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct RoutesIni {
    pub(super) server_url: Option<String>,
    /// Paths as written, joined to the directory of the file.
    pub(super) modules: Vec<PathBuf>,
}

/// Reads `text`, the content of a file in `dir`.
pub(super) fn parse(text: &str, dir: &Path) -> Result<RoutesIni, String> {
    let mut ini = RoutesIni::default();
    let mut section = String::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') || line.starts_with(';') {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name.trim().to_owned();
            continue;
        }
        match (section.as_str(), line.split_once('=')) {
            ("modules", None) => ini.modules.push(dir.join(line)),
            ("modules", Some((_, path))) => ini.modules.push(dir.join(path.trim())),
            (_, Some((key, value))) if key.trim() == "server_url" => ini.server_url = Some(value.trim().to_owned()),
            _ => {
                return Err(format!(
                    "line {}: \"{line}\" is neither server_url=… nor a file below [modules]",
                    number + 1
                ));
            }
        }
    }
    Ok(ini)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_server_and_modules() {
        let text = "# c\nserver_url = http://h:1\n\n[modules]\na.c\n; no\nname = sub/b.c\n";
        let ini = parse(text, Path::new("/d")).unwrap();
        assert_eq!(ini.server_url.as_deref(), Some("http://h:1"));
        assert_eq!(ini.modules, [PathBuf::from("/d/a.c"), PathBuf::from("/d/sub/b.c")]);
        assert!(parse("nonsense", Path::new("/d")).unwrap_err().contains("line 1"));
    }
}
