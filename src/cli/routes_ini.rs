//! `routes.ini`: the files to deploy, and their domains.

use std::path::{Path, PathBuf};

/// The content of a `routes.ini`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct RoutesIni {
    pub(super) server_url: Option<String>,
    pub(super) modules: Vec<Listed>,
}

/// A file to deploy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listed {
    /// The path as written, joined to the directory of the `routes.ini`.
    pub(super) file: PathBuf,
    /// The value of the last `domain=` line before the file; an empty value counts as none.
    pub(super) domain: Option<String>,
}

/// Reads `text`, the content of a file in `dir`.
pub(super) fn parse(text: &str, dir: &Path) -> Result<RoutesIni, String> {
    let mut ini = RoutesIni::default();
    let mut section = String::new();
    let mut domain = None;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') || line.starts_with(';') {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name.trim().to_owned();
            continue;
        }
        let mut list = |file: &str| ini.modules.push(Listed { file: dir.join(file), domain: domain.clone() });
        match (section.as_str(), line.split_once('=')) {
            (_, Some((key, name))) if key.trim() == "domain" => {
                domain = Some(name.trim().to_owned()).filter(|name| !name.is_empty());
            }
            ("modules", None) => list(line),
            ("modules", Some((_, path))) => list(path.trim()),
            (_, Some((key, value))) if key.trim() == "server_url" => ini.server_url = Some(value.trim().to_owned()),
            _ => {
                return Err(format!(
                    "line {}: \"{line}\" is neither server_url=… nor domain=… nor a file below [modules]",
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
        let listed = |file: &str, domain: Option<&str>| Listed { file: file.into(), domain: domain.map(str::to_owned) };
        assert_eq!(ini.modules, [listed("/d/a.c", None), listed("/d/sub/b.c", None)]);
        let text = "domain = one\n[modules]\na.c\nb.c\ndomain=two\nc.c\ndomain =\nd.c";
        let expected = [("/d/a.c", Some("one")), ("/d/b.c", Some("one")), ("/d/c.c", Some("two")), ("/d/d.c", None)];
        let expected = expected.map(|(file, domain)| listed(file, domain));
        assert_eq!(parse(text, Path::new("/d")).unwrap().modules, expected);
        assert!(parse("nonsense", Path::new("/d")).unwrap_err().contains("line 1"));
    }
}
