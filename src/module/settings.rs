//! The store of modules' settings and secrets: `DIR/.settings/NAME.json`, which only the server's user may read.
//!
//! A module's process gets both. A client gets settings with their values, but only the names of secrets.

use super::deploy::DeployError;
use super::file_names::{at, file_name};
use crate::abi::settings::Settings;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Limit, in bytes, on the name of a setting.
const KEY_BYTES_MAX: usize = 64;
/// Limit, in bytes, on a value.
const VALUE_BYTES_MAX: usize = 64 * 1024;
/// Limit on the settings and secrets of a module.
const KEYS_MAX: usize = 64;
/// Limit on the modules with settings, including modules that are not deployed yet.
const MODULES_MAX: usize = 4096;

/// Checks that `key` can name a setting.
///
/// # Errors
/// A text for users: the reason.
pub fn check_key(key: &str) -> Result<(), String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    if (1..=KEY_BYTES_MAX).contains(&key.len()) && key.bytes().all(is_plain) {
        return Ok(());
    }
    Err(format!("a setting's name is 1 to {KEY_BYTES_MAX} of A-Z a-z 0-9 _ - and dots, not {key:?}"))
}

/// Checks that the setting `key` can have `value`.
///
/// # Errors
/// A text for users: the reason.
pub(super) fn check_value(key: &str, value: &str) -> Result<(), String> {
    if value.len() > VALUE_BYTES_MAX {
        return Err(format!("the value of {key} has more than {VALUE_BYTES_MAX} bytes"));
    }
    if value.contains('\0') {
        return Err(format!("the value of {key} contains a NUL character, which would end it in the module"));
    }
    Ok(())
}

/// Whether an entry is a setting or a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Shown to clients that may read.
    Setting,
    /// Never shown.
    Secret,
}

/// A change of one setting.
#[derive(Clone)]
pub struct Change {
    /// Whether the entry is a setting or a secret.
    pub kind: Kind,
    /// The entry's name.
    pub key: String,
    /// The new value; `None` removes the entry.
    pub value: Option<String>,
}

/// The settings and secrets of a module. The type has no `Debug`, so that no secret gets into a log.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Set {
    pub(super) settings: BTreeMap<String, String>,
    pub(super) secrets: BTreeMap<String, String>,
}

impl Set {
    /// The settings that the module reads: `defaults` come from its `module.toml`.
    pub(super) fn over(&self, defaults: &BTreeMap<String, String>) -> Settings {
        let mut all = defaults.clone();
        for (key, value) in self.settings.iter().chain(&self.secrets) {
            all.insert(key.clone(), value.clone());
        }
        Settings(all)
    }

    /// Applies `change`.
    ///
    /// # Errors
    /// [`DeployError::Setting`]: the reason for the refusal.
    fn change(&mut self, change: Change) -> Result<(), DeployError> {
        let refuse = |text: String| Err(DeployError::Setting(text));
        let Change { kind, key, value } = change;
        check_key(&key).map_err(DeployError::Setting)?;
        let (own, other) = match kind {
            Kind::Setting => (&mut self.settings, &self.secrets),
            Kind::Secret => (&mut self.secrets, &self.settings),
        };
        let Some(value) = value else {
            return match own.remove(&key) {
                Some(_) => Ok(()),
                None => refuse(format!("there is no {} {key}", name_of(kind))),
            };
        };
        check_value(&key, &value).map_err(DeployError::Setting)?;
        if other.contains_key(&key) {
            return refuse(format!("{key} is a {0} already; remove the {0} first", name_of(other_of(kind))));
        }
        own.insert(key, value);
        if self.settings.len() + self.secrets.len() > KEYS_MAX {
            return refuse(format!("the module already has {KEYS_MAX} settings and secrets, which is the limit"));
        }
        Ok(())
    }
}

fn name_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Setting => "setting",
        Kind::Secret => "secret",
    }
}

fn other_of(kind: Kind) -> Kind {
    match kind {
        Kind::Setting => Kind::Secret,
        Kind::Secret => Kind::Setting,
    }
}

/// The files. The lock of a module's name lets only one thread at a time change its file.
#[derive(Debug)]
pub(super) struct SettingsStore {
    dir: PathBuf,
}

impl SettingsStore {
    /// Opens the store in `dir`, and creates the directory if necessary.
    pub(super) fn open(dir: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&dir)?;
        fs::set_permissions(&dir, Permissions::from_mode(0o700))?;
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "new") {
                fs::remove_file(path)?;
            }
        }
        Ok(Self { dir })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{}.json", file_name(name)))
    }

    /// The settings and secrets of the module `name`.
    pub(super) fn of(&self, name: &str) -> io::Result<Set> {
        let path = self.path(name);
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|error| at(&path)(error.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Set::default()),
            Err(error) => Err(at(&path)(error)),
        }
    }

    /// Applies `change` to the module `name`, durably.
    pub(super) fn change(&self, name: &str, change: Change) -> Result<Set, DeployError> {
        let mut set = self.of(name)?;
        set.change(change)?;
        let path = self.path(name);
        if !path.exists() && fs::read_dir(&self.dir)?.count() >= MODULES_MAX {
            return Err(DeployError::Setting(format!(
                "{MODULES_MAX} modules already have settings, which is the limit"
            )));
        }
        write(&path, &serde_json::to_vec(&set).map_err(io::Error::from)?).map_err(at(&path))?;
        Ok(set)
    }

    /// Removes the settings and secrets of the module `name`.
    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        let path = self.path(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(&path)(error)),
            _ => Ok(()),
        }
    }

    /// Removes all settings and secrets.
    pub(super) fn purge(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.dir)? {
            fs::remove_file(entry?.path())?;
        }
        Ok(())
    }
}

/// Writes a file that only its owner may read, atomically.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let aside = path.with_extension("new");
    let _ = fs::remove_file(&aside);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&aside, path)?;
    path.parent().map_or(Ok(()), |dir| fs::File::open(dir)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(kind: Kind, key: &str, value: &str) -> Change {
        Change { kind, key: key.to_owned(), value: Some(value.to_owned()) }
    }

    #[test]
    fn what_is_set_is_kept_and_covers_the_defaults() {
        let dir = tempfile::tempdir().unwrap();
        let store = SettingsStore::open(dir.path().join("s")).unwrap();
        store.change("m/x", set(Kind::Setting, "A", "1")).unwrap_or_else(|error| panic!("{error}"));
        store.change("m/x", set(Kind::Secret, "B", "2")).unwrap_or_else(|error| panic!("{error}"));
        let defaults = BTreeMap::from([("A".to_owned(), "0".to_owned()), ("C".to_owned(), "0".to_owned())]);
        let found = store.of("m/x").unwrap().over(&defaults).0;
        assert_eq!(found.into_iter().map(|(key, value)| key + &value).collect::<Vec<_>>(), ["A1", "B2", "C0"]);
        let mode = fs::metadata(store.path("m/x")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        store.remove("m/x").unwrap();
        assert!(store.of("m/x").unwrap() == Set::default());
    }

    #[test]
    fn what_can_not_be_set_is_refused() {
        let mut kept = Set::default();
        let mut said = |change| kept.change(change).err().map(|error| error.to_string()).unwrap_or_default();
        assert_eq!(said(set(Kind::Secret, "S", "x")), "");
        assert!(said(set(Kind::Setting, "S", "x")).contains("is a secret already"));
        for key in ["", "a b", "a/b", "../x", "\u{e4}", &"k".repeat(65)] {
            assert!(said(set(Kind::Setting, key, "x")).contains("a setting's name"), "{key}");
        }
        assert!(said(set(Kind::Setting, "A", "a\0b")).contains("NUL"));
        assert!(said(set(Kind::Setting, "A", &"x".repeat(VALUE_BYTES_MAX + 1))).contains("bytes"));
        assert!(said(Change { kind: Kind::Setting, key: "N".to_owned(), value: None }).contains("there is no setting"));
    }
}
