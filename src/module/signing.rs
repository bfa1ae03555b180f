//! Signatures of deployments with ed25519 (RFC 8032): a signer vouches for a source.
//!
//! A signature covers the files of a module, including `module.toml`, and the fields sent with them. A signature does not cover
//! the domain, the message, or the order of versions: a client that may deploy can deploy an older signed source again.

use super::deploy::{DeployError, SourceFields};
use super::project::{Posted, ProjectLimits, Source};
use data_encoding::HEXLOWER;
use ring::rand::SystemRandom;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::Path;

/// Precedes the hash in a signed message, so that a signature for another purpose is not valid here.
const CONTEXT: &[u8] = b"cweb module 1\n";
/// The first word of a file with a signing key.
const KEY_MARK: &str = "cweb-signing-key";
/// The algorithm, in files and fields.
const ALGORITHM: &str = "ed25519";
/// Limit, in bytes, on the file of trusted signers.
const SIGNERS_BYTES_MAX: u64 = 1024 * 1024;

/// A signature as it is stored with a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Signature {
    /// The public key, in hexadecimal.
    pub(super) key: String,
    /// The signature, in hexadecimal.
    pub(super) bytes: String,
    /// The fields that the signature covers, beside the files.
    pub(super) fields: String,
    /// The name of the key at the time of the deployment; empty if the server trusted no signers then.
    pub(super) signer: String,
}

/// The signed message: a hash of the files of `source` and of `fields`. The files are hashed first, to a fixed length, so
/// that the end of a file can't be taken for fields.
fn message(source: &Source, fields: &str) -> Vec<u8> {
    let mut files = Sha256::new();
    source.digest(&mut files);
    let mut hasher = Sha256::new();
    hasher.update(if matches!(source, Source::File(_)) { b"file\0" } else { b"tree\0" });
    hasher.update(files.finalize());
    hasher.update(fields.as_bytes());
    [CONTEXT, hasher.finalize().as_slice()].concat()
}

/// A signing key.
pub struct SigningKey {
    name: String,
    pair: Ed25519KeyPair,
}

/// Generates a key called `name`. Returns the text of its file, which is secret, and its line for a file of trusted
/// signers.
///
/// # Errors
/// A text for users: the name is invalid, or the system provides no random numbers.
pub fn generate(name: &str) -> Result<(String, String), String> {
    check_name(name)?;
    let no_random = |_| "the system gives no random numbers".to_owned();
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(no_random)?;
    let file = format!("{KEY_MARK} {name} {}\n", HEXLOWER.encode(pkcs8.as_ref()));
    let line = SigningKey::parse(&file)?.line();
    Ok((file, line))
}

fn check_name(name: &str) -> Result<(), String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-@".contains(&byte);
    if (1..=64).contains(&name.len()) && name.bytes().all(is_plain) {
        return Ok(());
    }
    Err(format!("a signer's name is 1 to 64 of A-Z a-z 0-9 . _ - @, not {name:?}"))
}

impl SigningKey {
    /// Reads a file that [`generate`] made.
    ///
    /// # Errors
    /// A text for users: the reason why the file is not a key.
    pub fn read(path: &Path) -> Result<Self, String> {
        let about = |error: String| format!("{}: {error}", path.display());
        let text = fs::read_to_string(path).map_err(|error| about(error.to_string()))?;
        Self::parse(&text).map_err(about)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || "this file is not a key of cweb keygen --signing".to_owned();
        let [KEY_MARK, name, hex] = text.split_whitespace().collect::<Vec<_>>()[..] else { return Err(wrong()) };
        let pkcs8 = HEXLOWER.decode(hex.as_bytes()).map_err(|_| wrong())?;
        let pair = Ed25519KeyPair::from_pkcs8(&pkcs8).map_err(|_| wrong())?;
        Ok(Self { name: name.to_owned(), pair })
    }

    fn public(&self) -> String {
        HEXLOWER.encode(self.pair.public_key().as_ref())
    }

    fn line(&self) -> String {
        format!("{} {ALGORITHM} {}\n", self.name, self.public())
    }

    /// The value of the field `signature` for a deployment of `posted` with `fields`.
    ///
    /// # Errors
    /// A text for users: `posted` can't be deployed.
    pub fn sign(&self, posted: Posted, fields: &SourceFields) -> Result<String, String> {
        let limits = ProjectLimits { files_max: usize::MAX, bytes_max: usize::MAX };
        let source = Source::read(posted, limits).map_err(|error| error.to_string())?;
        let signature = self.pair.sign(&message(&source, &fields.text()));
        Ok(format!("{ALGORITHM}:{}:{}", self.public(), HEXLOWER.encode(signature.as_ref())))
    }
}

/// The trusted signers: names and public keys.
#[derive(Debug, Default)]
pub struct Signers(Vec<(String, String)>);

impl Signers {
    /// Reads a file with one line `NAME ed25519 KEY` for each signer. Lines may be empty, or comments that begin with `#`.
    ///
    /// # Errors
    /// A text for users: the invalid line, or why the file can't be read.
    pub fn read(path: &Path) -> Result<Self, String> {
        let about = |error: String| format!("--trusted-signers {}: {error}", path.display());
        let size = fs::metadata(path).map_err(|error| about(error.to_string()))?.len();
        if size > SIGNERS_BYTES_MAX {
            return Err(about(format!("it has more than {SIGNERS_BYTES_MAX} bytes")));
        }
        let text = fs::read_to_string(path).map_err(|error| about(error.to_string()))?;
        Self::parse(&text).map_err(about)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut found = Vec::new();
        for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let words: Vec<&str> = line.split_whitespace().collect();
            if line.trim_start().starts_with('#') {
                continue;
            }
            let wrong = || format!("line {}: write NAME ed25519 KEY, as cweb keygen --signing prints it", at + 1);
            let [name, ALGORITHM, key] = words[..] else { return Err(wrong()) };
            let is_key = HEXLOWER.decode(key.as_bytes()).is_ok_and(|bytes| bytes.len() == 32);
            if !is_key || check_name(name).is_err() {
                return Err(wrong());
            }
            found.push((name.to_owned(), key.to_owned()));
        }
        Ok(Self(found))
    }

    fn name_of(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(_, known)| known == key).map(|(name, _)| name.as_str())
    }
}

fn refused(text: impl Into<String>) -> DeployError {
    DeployError::Signature(text.into())
}

/// Checks the signature in the field `given` of a deployment of `source` with `fields`. A server with trusted signers
/// requires a signature of one of them. Any other server accepts a missing signature, but no invalid one.
pub(super) fn check(
    trusted: Option<&Path>,
    source: &Source,
    fields: &SourceFields,
    given: Option<&str>,
) -> Result<Option<Signature>, DeployError> {
    let signers = trusted.map(Signers::read).transpose().map_err(refused)?;
    let Some(given) = given else {
        return match signers {
            None => Ok(None),
            Some(_) => Err(refused(
                "the source is not signed, and this server takes signed ones only (--trusted-signers): cweb deploy --sign KEYFILE",
            )),
        };
    };
    let parts: Vec<&str> = given.split(':').collect();
    let [ALGORITHM, key, bytes] = parts[..] else {
        return Err(refused("the signature can't be read: it is ed25519:KEY:SIGNATURE in hexadecimal"));
    };
    let fields = fields.text();
    let signature = Signature { key: key.to_owned(), bytes: bytes.to_owned(), fields, signer: String::new() };
    let signer = verified(&signature, source, signers.as_ref())?;
    Ok(Some(Signature { signer, ..signature }))
}

/// Checks the signature of an earlier version that is deployed again.
pub(super) fn check_kept(
    trusted: Option<&Path>,
    source: &Source,
    signature: Option<&Signature>,
) -> Result<(), DeployError> {
    let Some(path) = trusted else { return Ok(()) };
    let signers = Signers::read(path).map_err(refused)?;
    let signature = signature.ok_or_else(|| {
        refused("this version is not signed, and this server takes signed ones only (--trusted-signers)")
    })?;
    verified(signature, source, Some(&signers)).map(drop)
}

/// Verifies the signature. Returns the signer's name; empty without `signers`.
fn verified(signature: &Signature, source: &Source, signers: Option<&Signers>) -> Result<String, DeployError> {
    let (key, bytes) = (HEXLOWER.decode(signature.key.as_bytes()), HEXLOWER.decode(signature.bytes.as_bytes()));
    let (Ok(key), Ok(bytes)) = (key, bytes) else {
        return Err(refused("the signature can't be read: it is ed25519:KEY:SIGNATURE in hexadecimal"));
    };
    let name = match signers {
        None => String::new(),
        Some(signers) => match signers.name_of(&signature.key) {
            Some(name) => name.to_owned(),
            None => {
                let key = signature.key.get(..16).unwrap_or_default();
                return Err(refused(format!(
                    "the source is signed with the key {key}…, which is not in --trusted-signers"
                )));
            }
        },
    };
    let public = UnparsedPublicKey::new(&ED25519, key);
    public.verify(&message(source, &signature.fields), &bytes).map_err(|_| {
        refused("the signature does not fit: a file, module.toml or a field was changed after the source was signed")
    })?;
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_signers_are_read_or_refused_by_line() {
        let (_, line) = generate("alice").unwrap();
        let signers = Signers::parse(&format!("# ours\n\n{line}")).unwrap();
        let key = line.split_whitespace().last().unwrap();
        assert_eq!(signers.name_of(key), Some("alice"));
        assert_eq!(signers.name_of(""), None);
        for wrong in ["alice", "alice rsa 00", "alice ed25519 00", "a/b ed25519 00"] {
            assert!(Signers::parse(&format!("# x\n{wrong}\n")).unwrap_err().contains("line 2"), "{wrong}");
        }
        assert!(generate("a b").is_err() && generate("").is_err());
        assert!(SigningKey::parse("cweb-signing-key a 00").is_err() && SigningKey::parse("").is_err());
    }

    #[test]
    fn a_signature_covers_files_and_fields() {
        let (file, _) = generate("a").unwrap();
        let key = SigningKey::parse(&file).unwrap();
        let fields = SourceFields { mount: Some("/x".to_owned()), ..SourceFields::default() };
        let signed = key.sign(Posted::Body(b"code".to_vec()), &fields).unwrap();
        let fits = |code: &[u8], fields: &SourceFields, signed: &str| {
            check(None, &Source::File(code.to_vec()), fields, Some(signed)).is_ok()
        };
        assert!(fits(b"code", &fields, &signed));
        assert!(!fits(b"Code", &fields, &signed) && !fits(b"code", &SourceFields::default(), &signed));
        for wrong in ["", "ed25519", "ed25519::", "ed25519:zz:00", &signed.replace("ed25519", "none")] {
            assert!(!fits(b"code", &fields, wrong), "{wrong}");
        }
    }
}
