//! The keys to the server's own paths: one key from the settings, which has all scopes, and named keys with scopes from a file.
//!
//! ```toml
//! [[key]]
//! name = "ci"
//! sha256 = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"
//! scopes = ["deploy"]
//! ```
//!
//! No message of this file may repeat text of the file from a position where a key may be.

use crate::module::reach::{Place, Reach};
use data_encoding::HEXLOWER_PERMISSIVE;
use jiff::Timestamp;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::fmt;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;
use toml::Spanned;

/// Name of the key from the settings.
pub const ADMIN: &str = "admin";
/// Name of the actors on this machine that need no key; no key may have this name.
pub(super) use crate::module::deploy::LOOPBACK;

/// Limit, in bytes, on the name of a key.
const NAME_BYTES_MAX: usize = 64;
/// Minimum length, in bytes, of a key in clear text in the file: a shorter key can be guessed.
const KEY_BYTES_MIN: usize = 16;
/// Limit on the number of keys: each presented key is compared with every one.
const KEYS_MAX: usize = 1024;
/// Limit, in bytes, on the file of keys.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// A set of scopes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scopes(u8);

impl Scopes {
    /// Permits deploying, removing and restarting modules.
    pub const DEPLOY: Self = Self(1);
    /// Permits creating, cancelling, retrying and deleting jobs, and reading a job whose UUID is known.
    pub const JOBS: Self = Self(2);
    /// Permits reading modules, jobs and metrics.
    pub const READ: Self = Self(4);
    /// All scopes.
    pub const ALL: Self = Self(7);
    /// No scope.
    const NONE: Self = Self(0);

    const NAMES: [(&'static str, Self); 3] = [("deploy", Self::DEPLOY), ("jobs", Self::JOBS), ("read", Self::READ)];

    /// The scope with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, scope)| *scope)
    }

    /// The union of both sets.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether the sets have a scope in common.
    #[must_use]
    pub fn any_of(self, others: Self) -> bool {
        self.0 & others.0 != 0
    }

    /// The names of the scopes.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.into_iter().filter(move |(_, scope)| self.any_of(*scope)).map(|(name, _)| name)
    }
}

/// The SHA-256 of a key; the server keeps nothing else of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// The fingerprint of `key`.
    #[must_use]
    pub fn of(key: &[u8]) -> Self {
        Self(Sha256::digest(key).into())
    }

    /// Compares in a time that does not depend on where the fingerprints differ.
    fn is(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER_PERMISSIVE.encode(&self.0))
    }
}

/// A valid name of a key: logs and messages show it unchanged.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct KeyName(Arc<str>);

impl KeyName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for KeyName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
        let begins = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        if !plain || !begins || text.len() > NAME_BYTES_MAX {
            return Err(format!(
                "a key's name has 1 to {NAME_BYTES_MAX} letters, digits, -, _ or . and begins with a letter or digit"
            ));
        }
        if text == LOOPBACK {
            return Err(format!("no key can be called {LOOPBACK}: clients without a key have this name"));
        }
        Ok(Self(text.into()))
    }
}

/// A key as the server keeps it.
#[derive(Clone)]
pub(super) struct Key {
    pub(super) name: Arc<str>,
    /// All scopes of the key, including those for some modules only.
    pub(super) scopes: Scopes,
    /// The scopes as the file lists them.
    pub(super) listed: Arc<str>,
    /// The key's scopes that apply to every module.
    everywhere: Scopes,
    /// The key's scopes that apply only to the modules of a place.
    places: Arc<[(Scopes, Place)]>,
    expires: Option<Timestamp>,
    fingerprint: Fingerprint,
}

impl Key {
    /// The time at which the key has expired; `None` if the key is still valid at `now`.
    pub(super) fn expired_at(&self, now: SystemTime) -> Option<String> {
        let expires = self.expires?;
        (now >= SystemTime::from(expires)).then(|| expires.to_string())
    }

    /// The modules for which the key allows any of `needed`.
    pub(super) fn reach(&self, needed: Scopes) -> Reach {
        if self.everywhere.any_of(needed) {
            return Reach::All;
        }
        let places = self.places.iter().filter(|(scope, _)| scope.any_of(needed));
        Reach::Only(places.map(|(_, place)| place.clone()).collect())
    }
}

/// All valid keys.
#[derive(Clone, Default)]
pub(super) struct Keys(Vec<Key>);

impl Keys {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The presented key. Every key is compared, so that the time does not reveal which key matched.
    pub(super) fn find(&self, presented: &[u8]) -> Option<&Key> {
        let presented = Fingerprint::of(presented);
        let mut found = None;
        for key in &self.0 {
            if key.fingerprint.is(&presented) {
                found = Some(key);
            }
        }
        found
    }
}

/// Why the keys can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    /// The file is unreadable or invalid.
    #[error("keys file {}{}: {reason}", .path.display(), .line.map(|line| format!(", line {line}")).unwrap_or_default())]
    File {
        /// The file's path.
        path: PathBuf,
        /// The line in the file, from 1.
        line: Option<usize>,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// A server in production has no key.
    #[error("--production needs a key, and keys file {} has none; add one: cweb keygen NAME >> {}", .0.display(), .0.display())]
    None(PathBuf),
}

/// The sources of keys.
#[derive(Debug, Clone, Default)]
pub struct KeySource {
    /// The key with all scopes.
    pub admin_key: Option<String>,
    /// The file of named keys.
    pub file: Option<PathBuf>,
}

impl KeySource {
    /// Reads the keys. Warns if other users may read the file.
    pub(super) fn read(&self) -> Result<Keys, KeysError> {
        let admin = self.admin_key.as_deref().filter(|key| !key.is_empty());
        let admin = admin.map(|key| Key {
            name: ADMIN.into(),
            scopes: Scopes::ALL,
            listed: Scopes::ALL.names().collect::<Vec<_>>().join(", ").into(),
            everywhere: Scopes::ALL,
            places: Arc::new([]),
            expires: None,
            fingerprint: Fingerprint::of(key.as_bytes()),
        });
        let mut keys = Keys(admin.into_iter().collect());
        if let Some(path) = &self.file {
            let failed = |line, reason| KeysError::File { path: path.clone(), line, reason };
            let text = read_file(path).map_err(|reason| failed(None, reason))?;
            parse(&text, &mut keys.0).map_err(|(line, reason)| failed(line, reason))?;
        }
        Ok(keys)
    }
}

fn read_file(path: &Path) -> Result<String, String> {
    let text = |error: std::io::Error| error.to_string();
    let file = std::fs::File::open(path).map_err(text)?;
    let mode = file.metadata().map_err(text)?.permissions().mode();
    if mode & 0o077 != 0 {
        tracing::warn!("keys file {0} can be used by users other than its owner; chmod 600 {0}", path.display());
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(text)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("it has more than {FILE_BYTES_MAX} bytes"));
    }
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())
}

/// The structure of the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileText {
    #[serde(default)]
    key: Vec<Spanned<Entry>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: KeyName,
    sha256: Option<HexText>,
    key: Option<PlainText>,
    scopes: Vec<ScopeText>,
    expires: Option<Expires>,
}

#[derive(Deserialize)]
#[serde(try_from = "String")]
struct HexText(Fingerprint);

impl TryFrom<String> for HexText {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let bytes = HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok();
        let bytes = bytes.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        bytes
            .map(|bytes| Self(Fingerprint(bytes)))
            .ok_or_else(|| "sha256 is the SHA-256 of a key: 64 hexadecimal digits".to_owned())
    }
}

#[derive(Deserialize)]
#[serde(try_from = "String")]
struct PlainText(Fingerprint);

impl TryFrom<String> for PlainText {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        // Other bytes could not be sent in a header field (RFC 9110 §5.5), or a parser would remove blanks at the ends.
        if text.len() < KEY_BYTES_MIN || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(format!(
                "a key is at least {KEY_BYTES_MIN} printable ASCII characters without blanks; cweb keygen makes one"
            ));
        }
        Ok(Self(Fingerprint::of(text.as_bytes())))
    }
}

/// A scope and its modules: `deploy`, `deploy:MODULE`, `deploy:DOMAIN/MODULE`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct ScopeText {
    text: String,
    scope: Scopes,
    place: Option<Place>,
}

impl ScopeText {
    /// The scope's text, as the user wrote it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl TryFrom<String> for ScopeText {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (name, place) = match text.split_once(':') {
            Some((name, place)) => (name, Some(place)),
            None => (text.as_str(), None),
        };
        let scope = Scopes::named(name).ok_or_else(|| "a scope is \"deploy\", \"jobs\" or \"read\"".to_owned())?;
        let wrong = || {
            "the modules of a scope follow it: \":MODULE\" or \":DOMAIN/MODULE\", each a name or the beginning \
             of names with * behind it"
                .to_owned()
        };
        // The text is written to the file of keys unescaped.
        let is_plain = |text: &str| text.chars().all(|c| !c.is_control() && c != '"' && c != '\\');
        let place = place.map(|text| Place::parse(text).filter(|_| is_plain(text)).ok_or_else(wrong)).transpose()?;
        Ok(Self { text, scope, place })
    }
}

/// The time at which a key expires: an offset date-time of TOML, which is one of RFC 3339.
#[derive(Deserialize)]
#[serde(try_from = "toml::value::Datetime")]
struct Expires(Timestamp);

impl TryFrom<toml::value::Datetime> for Expires {
    type Error = String;

    fn try_from(given: toml::value::Datetime) -> Result<Self, String> {
        let wrong = "expires is a date, a time and an offset: 2030-01-31T00:00:00Z";
        given.to_string().parse().map(Self).map_err(|_| wrong.to_owned())
    }
}

type Problem = (Option<usize>, String);

/// Adds the keys of `text` to `keys`.
fn parse(text: &str, keys: &mut Vec<Key>) -> Result<(), Problem> {
    let line_of = |at: usize| 1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count();
    let file: FileText =
        toml::from_str(text).map_err(|error| (error.span().map(|span| line_of(span.start)), discreet(&error)))?;
    for entry in file.key {
        let line = Some(line_of(entry.span().start));
        let refuse = |reason: String| Err((line, reason));
        let entry = entry.into_inner();
        let name = entry.name.0;
        let fingerprint = match (entry.sha256, entry.key) {
            (Some(hex), None) => hex.0,
            (None, Some(plain)) => plain.0,
            _ => return refuse(format!("the key {name} needs either sha256 or key")),
        };
        let Some(scopes) = entry.scopes.iter().map(|scope| scope.scope).reduce(Scopes::or) else {
            return refuse(format!("the key {name} has no scopes: give it deploy, jobs or read"));
        };
        if keys.iter().any(|key| key.name == name) {
            return refuse(format!("there is another key called {name}"));
        }
        if let Some(same) = keys.iter().find(|key| key.fingerprint == fingerprint) {
            return refuse(format!("the key {name} is the same as {}", same.name));
        }
        if keys.len() == KEYS_MAX {
            return refuse(format!("there are more than {KEYS_MAX} keys"));
        }
        let listed = entry.scopes.iter().map(ScopeText::as_str).collect::<Vec<_>>().join(", ").into();
        let whole = entry.scopes.iter().filter(|scope| scope.place.is_none()).map(|scope| scope.scope);
        let everywhere = whole.fold(Scopes::NONE, Scopes::or);
        let places = entry.scopes.into_iter().filter_map(|scope| Some((scope.scope, scope.place?))).collect();
        let expires = entry.expires.map(|expires| expires.0);
        keys.push(Key { name, scopes, listed, everywhere, places, expires, fingerprint });
    }
    Ok(())
}

/// The error without the text at its position, because that text may be a key.
fn discreet(error: &toml::de::Error) -> String {
    let message = error.message().trim();
    match message.strip_prefix("invalid type: ").and_then(|rest| rest.rsplit_once("expected ")) {
        Some((_, expected)) => format!("expected {expected}"),
        None => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<Keys, Problem> {
        let mut keys = Keys::default();
        parse(text, &mut keys.0).map(|()| keys)
    }

    const SHA_OF_FOO: &str = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae";

    #[test]
    fn keys_are_found_by_their_hash_or_as_they_are() {
        let text = format!(
            "# keys\n[[key]]\nname = \"ci\"\nsha256 = \"{SHA_OF_FOO}\"\nscopes = [\"deploy\"]\n\n\
             [[key]]\nname = \"ops.2\"\nkey = \"0123456789abcdef\"\nscopes = [\"read\", \"jobs\", \"read\"]\n"
        );
        let keys = read(&text).unwrap();
        let found = |key: &str| keys.find(key.as_bytes()).map(|key| (key.name.to_string(), key.scopes));
        assert_eq!(found("foo"), Some(("ci".to_owned(), Scopes::DEPLOY)));
        assert_eq!(found("0123456789abcdef"), Some(("ops.2".to_owned(), Scopes::JOBS.or(Scopes::READ))));
        assert_eq!((found("fo"), found(""), found(SHA_OF_FOO)), (None, None, None));
        assert_eq!(keys.find(b"foo").map(|key| key.reach(Scopes::DEPLOY)), Some(Reach::All));
        assert_eq!(read(&text.replace(SHA_OF_FOO, &SHA_OF_FOO.to_uppercase())).unwrap().len(), 2);
        assert!(read("").unwrap().is_empty());
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let entry = |fields: &str| format!("\n[[key]]\nname = \"x\"\n{fields}\n");
        let good = format!("sha256 = \"{SHA_OF_FOO}\"\nscopes = [\"read\"]");
        for (text, line, part) in [
            (entry("scopes = [\"read\"]"), 2, "either sha256 or key"),
            (entry(&format!("{good}\nkey = \"0123456789abcdef\"")), 2, "either sha256 or key"),
            (entry(&format!("sha256 = \"{SHA_OF_FOO}\"\nscopes = []")), 2, "no scopes"),
            (entry(&format!("sha256 = \"{SHA_OF_FOO}\"")), 2, "scopes"),
            (entry("scopes = [\"read\", \"write\"]"), 4, "\"deploy\", \"jobs\" or \"read\""),
            (entry("scopes = [\"read:a/b/c\"]"), 4, ":DOMAIN/MODULE"),
            (entry("scopes = [\"write:a\"]"), 4, "\"deploy\", \"jobs\" or \"read\""),
            (entry(&format!("{good}\nexpires = 2030-01-31")), 6, "a date, a time and an offset"),
            (entry(&format!("{good}\nexpires = \"soon\"")), 6, "date"),
            (entry("sha256 = \"12\"\nscopes = [\"read\"]"), 4, "64 hexadecimal digits"),
            (entry("key = \"short\"\nscopes = [\"read\"]"), 4, "cweb keygen"),
            (entry("key = \"0123456789 abcdef\"\nscopes = [\"read\"]"), 4, "without blanks"),
            (entry("scope = [\"read\"]"), 4, "unknown field `scope`"),
            (format!("{}{}", entry(&good), entry(&good)), 7, "another key called x"),
            (format!("{}{}", entry(&good), entry(&good).replace("\"x\"", "\"y\"")), 7, "the same as x"),
            (entry(&good).replace("\"x\"", "\"a b\""), 3, "letters, digits"),
            (entry(&good).replace("\"x\"", "\"loopback\""), 3, "loopback"),
            ("\n\n[[key]\n".to_owned(), 3, ""),
        ] {
            let (found, reason) = read(&text).err().unwrap_or_else(|| panic!("accepted: {text}"));
            assert!(found == Some(line) && reason.contains(part), "{found:?} {reason}\n{text}");
        }
    }

    #[test]
    fn keys_are_for_some_modules_and_until_some_time() {
        let scopes = "scopes = [\"deploy:image/*\", \"deploy:shop\", \"jobs:thumbs\", \"read\"]\nexpires = 2030-01-31T01:00:00+01:00";
        let keys = read(&format!("[[key]]\nname = \"x\"\nsha256 = \"{SHA_OF_FOO}\"\n{scopes}\n")).unwrap();
        let key = keys.find(b"foo").unwrap();
        assert_eq!((key.scopes, key.reach(Scopes::READ)), (Scopes::ALL, Reach::All));
        let deploy = key.reach(Scopes::DEPLOY);
        assert!(deploy.has(Some("image"), "any") && deploy.has(None, "shop") && !deploy.has(None, "thumbs"));
        assert!(key.reach(Scopes::JOBS).has(None, "thumbs") && !key.reach(Scopes::JOBS).has(None, "shop"));
        assert_eq!(key.reach(Scopes::JOBS.or(Scopes::READ)), Reach::All);
        let end = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_896_048_000);
        assert_eq!(key.expired_at(end - std::time::Duration::from_secs(1)), None);
        assert_eq!(key.expired_at(end).as_deref(), Some("2030-01-31T00:00:00Z"));
    }

    #[test]
    fn no_message_repeats_a_key() {
        for text in [
            "key = \"tops3cret-tops3cret\"",
            "[[key]]\nname = \"x\"\nscopes = \"tops3cret-tops3cret\"",
            "[[key]]\nname = \"x\"\nkey = [\"tops3cret-tops3cret\"]\nscopes = [\"read\"]",
            "[[key]]\nname = \"tops3cret tops3cret\"",
            "[[key]]\nname = \"x\"\nkey = \"tops3cret\"\nscopes = [\"read\"]",
            "[[key]]\nname = \"x\"\nsha256 = \"tops3cret\"\nscopes = [\"read\"]",
            "[[key]]\nkey = \"tops3cret-tops3cret\" x\n",
            "[[key]]\nkey = tops3cret-tops3cret\n",
            "tops3cret-tops3cret\n",
        ] {
            let (_, reason) = read(text).err().unwrap_or_else(|| panic!("accepted: {text}"));
            assert!(!reason.contains("tops3cret") && !reason.is_empty(), "{reason}\n{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,200}") {
            let _ = read(&text);
            let _ = read(&format!("[[key]]\nname = \"x\"\nkey = \"{text}\"\nscopes = [\"read\"]"));
        }
    }
}
