//! The certificate that `--production` uses if no other is named.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The file names in the data directory.
const CERT: &str = "server.crt";
const KEY: &str = "server.key";

/// Certificate and key in `data_dir`; `None` if both are missing.
///
/// # Errors
/// Only one of them exists: the operator certainly did not mean HTTP without TLS.
pub(super) fn find(data_dir: &Path) -> Result<Option<(PathBuf, PathBuf)>, String> {
    let (cert, key) = (data_dir.join(CERT), data_dir.join(KEY));
    match (is_there(&cert)?, is_there(&key)?) {
        (true, true) => Ok(Some((cert, key))),
        (false, false) => Ok(None),
        (true, false) => Err(alone(&cert, &key)),
        (false, true) => Err(alone(&key, &cert)),
    }
}

/// Whether the name exists, even as a link with a missing or unreadable target: reading it later gives a precise error.
fn is_there(path: &Path) -> Result<bool, String> {
    match std::fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(false),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

fn alone(there: &Path, missing: &Path) -> String {
    format!(
        "--production finds {} but not {}: HTTPS needs both; add the missing file, or remove this one to serve HTTP",
        there.display(),
        missing.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_pair_is_found_and_half_of_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = (dir.path().join(CERT), dir.path().join(KEY));
        assert_eq!(find(dir.path()), Ok(None));
        assert_eq!(find(&dir.path().join("missing")), Ok(None));
        fs::write(&cert, "").unwrap();
        let said = find(dir.path()).unwrap_err();
        assert!(said.contains("server.crt but not") && said.contains("server.key"), "{said}");
        std::os::unix::fs::symlink("nowhere", &key).unwrap();
        assert_eq!(find(dir.path()), Ok(Some((cert.clone(), key))), "a link without a target counts as a file");
        fs::remove_file(cert).unwrap();
        assert!(find(dir.path()).unwrap_err().contains("server.key but not"));
    }
}
