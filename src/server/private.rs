//! Restricts the files in the data directory to the server's user, whatever umask the server was started with.
//!
//! If the server is root and its modules are `nobody`, other users can enter the directories above the modules' files, but
//! can't list any of them.

use crate::config::Config;
use crate::domain::sandbox;
use rustix::fs::Mode;
use rustix::process::umask;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

/// Directories below this depth are left unchanged.
const DEPTH_MAX: usize = 3;

fn at(path: &Path) -> impl FnOnce(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Creates the directory of all state, if it does not exist. An existing directory stays unchanged: it may hold files of other
/// users.
pub(super) fn make_data_dir(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(way_mode()).create(dir)?;
    // The umask may remove rights that the modules' user needs.
    fs::set_permissions(dir, Permissions::from_mode(way_mode()))
}

/// The mode of a directory above the modules' files.
fn way_mode() -> u32 {
    if sandbox::unprivileged().is_some() { 0o711 } else { 0o700 }
}

/// Makes all files that the server and its modules create from now on private to their user. Removes other users' rights on
/// files that earlier servers have left open, and warns if that fails. Symbolic links are not followed.
pub(super) fn close_data(config: &Config) {
    umask(Mode::RWXG | Mode::RWXO);
    if let Err(error) = close_left_open(config) {
        tracing::warn!("other users' rights on files of the data directory could not be removed: {error}");
    }
}

fn close_left_open(config: &Config) -> io::Result<()> {
    let data = &config.data_dir;
    for dir in [config.module_dir.clone(), config.module_dir.join(".run")] {
        // A failure to create the directory is reported by the code that needs it.
        if DirBuilder::new().recursive(true).mode(0o700).create(&dir).is_ok() {
            close(&dir, way_mode()).map_err(at(&dir))?;
        }
    }
    // `static` has the files that modules serve to all clients: modules read them, and other users put them there.
    let open = data.join("static");
    if !open.exists() && fs::create_dir(&open).is_ok() {
        fs::set_permissions(&open, Permissions::from_mode(0o755)).map_err(at(&open))?;
    }
    for name in [".objects", ".scratch"] {
        // The files keep their mode: the user that inspects a module opens it through a descriptor.
        close_all(&config.module_dir.join(name), 0)?;
    }
    let own = ["module-data", "domain-data", "scratch", ".domains"].map(|name| data.join(name));
    own.iter().try_for_each(|dir| close_all(dir, DEPTH_MAX))?;
    for dir in [data, &config.module_dir] {
        for entry in fs::read_dir(dir).into_iter().flatten() {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let is_data = name.starts_with("jobs.sqlite3") || name == super::data_lock::LOCK_FILE;
            let is_ours = is_data || name.ends_with(".json") && *dir == config.module_dir;
            if is_ours && fs::symlink_metadata(&path).is_ok_and(|data| data.is_file()) {
                close(&path, 0o600).map_err(at(&path))?;
            }
        }
    }
    Ok(())
}

fn close_all(path: &Path, depth: usize) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(data) if data.is_dir() => {
            close(path, 0o700).map_err(at(path))?;
            if depth > 0 {
                for entry in fs::read_dir(path).map_err(at(path))? {
                    close_all(&entry?.path(), depth - 1)?;
                }
            }
            Ok(())
        }
        Ok(data) if data.is_file() => close(path, 0o600).map_err(at(path)),
        // The entry was removed meanwhile, or is a link; the target of a link must not be changed.
        _ => Ok(()),
    }
}

/// Removes the rights of other users on `path`. If another user owns the file, its later use reports the problem.
fn close(path: &Path, mode: u32) -> io::Result<()> {
    let found = fs::symlink_metadata(path)?;
    if found.is_symlink() || found.permissions().mode() & 0o777 == mode {
        return Ok(());
    }
    match fs::set_permissions(path, Permissions::from_mode(mode)) {
        Err(error) if matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound) => Ok(()),
        result => result,
    }
}

/// The rights of other users to read or change a file; and to change it.
const READ_OR_CHANGE: u32 = 0o077;
const CHANGE: u32 = 0o022;

/// Whether users other than the owner have one of `rights` on `path`; false for a file that does not exist.
fn is_open(path: &Path, rights: u32) -> bool {
    fs::metadata(path).is_ok_and(|data| data.permissions().mode() & rights != 0)
}

/// Secret files that users other than the owner can read or change, with a sentence each.
pub(super) fn open_secrets(config: &Config) -> Vec<String> {
    let settings = config.secret_settings.as_deref();
    let files = [
        ("--tls-key", config.tls_key.as_deref(), READ_OR_CHANGE),
        ("--token-key", config.token_key.as_deref(), READ_OR_CHANGE),
        // The file has fingerprints of keys, which give no access to a reader. The code that reads the file warns of that.
        ("--keys-file", config.keys_file.as_deref(), CHANGE),
        ("the file of settings, which has a key in it,", settings, READ_OR_CHANGE),
    ];
    let open =
        files.into_iter().filter_map(|(what, path, rights)| Some((what, path.filter(|path| is_open(path, rights))?)));
    open.map(|(what, path)| {
        format!("{what} {0} can be used by users other than its owner; chmod 600 {0}", path.display())
    })
    .collect()
}
