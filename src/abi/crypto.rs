//! Signatures of tokens, for `ctx->crypto` and `cweb_token.h`. The key never leaves this layer.
//! The key is for tokens only and must differ from that of the certificate, because a module chooses the signed text. The
//! signed bytes begin with a text that no other protocol signs, and name the requesting domain, so that no domain can make
//! tokens of another.

use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{
    self, ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1,
    ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_SHA256, RsaKeyPair, UnparsedPublicKey, VerificationAlgorithm,
};
use serde::{Deserialize, Serialize};
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

enum Key {
    Rsa(RsaKeyPair),
    Ecdsa(EcdsaKeyPair, &'static dyn VerificationAlgorithm),
    Ed25519(Ed25519KeyPair),
}

/// The signing key, then earlier keys whose signatures are still accepted.
static KEYS: OnceLock<Vec<Key>> = OnceLock::new();

/// The beginning of all signed texts. The number must change when the format behind it changes.
const PREFIX: &[u8] = b"cweb token 1\0";

/// A text to sign, or to verify.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// The text.
    pub text: Vec<u8>,
    /// The intended recipient; empty for every recipient.
    pub audience: String,
    /// How long the signature is valid, in seconds; 0 for ever. Ignored when verifying.
    pub valid_s: u32,
}

/// Signs in another process.
pub type RemoteSign = Box<dyn Fn(&Token) -> Option<String> + Send + Sync>;
/// Verifies in another process; the arguments are signature and token.
pub type RemoteVerify = Box<dyn Fn(&[u8], &Token) -> bool + Send + Sync>;

static REMOTE: OnceLock<(RemoteSign, RemoteVerify)> = OnceLock::new();

/// Signs and verifies through the server, which has the key, in processes that must not have it. Only the first call has an
/// effect.
pub fn set_remote(sign: RemoteSign, verify: RemoteVerify) {
    let _ = REMOTE.set((sign, verify));
}

/// Why the key file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file can't be read or created.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The file has no key of a known kind.
    #[error("the file has no PEM private key that can sign (Ed25519, P-256, P-384 or RSA)")]
    Unknown,
    /// The key is that of the certificate.
    #[error(
        "this is the key of the certificate, and tokens need a key of their own; leave --token-key out, or name a file that does not exist yet"
    )]
    Certificate,
}

/// The file of an earlier key whose signatures are still accepted: the path of the key with the suffix `.old`.
fn old_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".old");
    PathBuf::from(name)
}

fn read(path: &Path) -> Result<Key, KeyError> {
    let text = std::fs::read_to_string(path)?;
    pem_blocks(&text).find_map(|(label, der)| parse(label, &der)).ok_or(KeyError::Unknown)
}

/// Checks whether the key at `path`, if it exists, can be used beside the certificate's key `tls_key`.
///
/// # Errors
/// See [`KeyError`].
pub fn check(path: &Path, tls_key: Option<&Path>) -> Result<(), KeyError> {
    read_checked(path, tls_key).map(drop)
}

fn read_checked(path: &Path, tls_key: Option<&Path>) -> Result<Option<Vec<Key>>, KeyError> {
    let signing = match read(path) {
        Err(KeyError::Io(error)) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        key => key?,
    };
    // Another check reports a certificate key that can't be read.
    if tls_key.and_then(|path| read(path).ok()).is_some_and(|tls| tls.public() == signing.public()) {
        return Err(KeyError::Certificate);
    }
    let mut keys = vec![signing];
    match read(&old_of(path)) {
        Err(KeyError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {}
        key => keys.push(key?),
    }
    Ok(Some(keys))
}

/// Loads the key for tokens from the PEM file `path`. If there is none, creates one (Ed25519) that only its owner may read. The
/// public key is written beside it, to `path` with the suffix `.pub`. Only the first call of a process has an effect.
///
/// # Errors
/// See [`KeyError`].
pub fn load(path: &Path, tls_key: Option<&Path>) -> Result<(), KeyError> {
    let keys = match read_checked(path, tls_key)? {
        Some(keys) => keys,
        None => {
            make(path)?;
            read_checked(path, tls_key)?.ok_or(KeyError::Unknown)?
        }
    };
    if let Some(Key::Ed25519(pair)) = keys.first() {
        let public = pem("PUBLIC KEY", &[ED25519_PUBLIC, pair.public_key().as_ref()].concat());
        let mut place = path.as_os_str().to_owned();
        place.push(".pub");
        if std::fs::read_to_string(&place).ok().as_ref() != Some(&public)
            && let Err(error) = std::fs::write(&place, public)
        {
            tracing::warn!("the public key for tokens can't be written to {}: {error}", place.display());
        }
    }
    let _ = KEYS.set(keys);
    Ok(())
}

/// The bytes before the key in PKCS #8 and in a public key, for Ed25519 (RFC 8410 §7, §4).
const ED25519_PRIVATE: &[u8] = b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20";
const ED25519_PUBLIC: &[u8] = b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00";

fn make(path: &Path) -> Result<(), KeyError> {
    let mut seed = [0; 32];
    SystemRandom::new().fill(&mut seed).map_err(|_| io::Error::other("the system gives no random numbers"))?;
    let text = pem("PRIVATE KEY", &[ED25519_PRIVATE, &seed].concat());
    // The file must be written whole or not at all, because the server may end here.
    let mut draft = path.as_os_str().to_owned();
    draft.push(".new");
    let _ = std::fs::remove_file(&draft);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&draft, path)?;
    Ok(())
}

fn pem(label: &str, der: &[u8]) -> String {
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in data_encoding::BASE64.encode(der).as_bytes().chunks(64) {
        text.push_str(&String::from_utf8_lossy(line));
        text.push('\n');
    }
    text + &format!("-----END {label}-----\n")
}

/// Whether the process can sign.
#[must_use]
pub fn is_loaded() -> bool {
    KEYS.get().is_some() || REMOTE.get().is_some()
}

impl Key {
    fn public(&self) -> &[u8] {
        match self {
            Self::Rsa(pair) => pair.public_key().as_ref(),
            Self::Ecdsa(pair, _) => pair.public_key().as_ref(),
            Self::Ed25519(pair) => pair.public_key().as_ref(),
        }
    }

    fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        let random = SystemRandom::new();
        match self {
            Self::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).ok()?;
                Some(signature)
            }
            Self::Ecdsa(pair, _) => Some(pair.sign(&random, message).ok()?.as_ref().to_vec()),
            Self::Ed25519(pair) => Some(pair.sign(message).as_ref().to_vec()),
        }
    }

    fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let algorithm: &dyn VerificationAlgorithm = match self {
            Self::Rsa(_) => &RSA_PKCS1_2048_8192_SHA256,
            Self::Ecdsa(_, algorithm) => *algorithm,
            Self::Ed25519(_) => &signature::ED25519,
        };
        UnparsedPublicKey::new(algorithm, self.public()).verify(message, signature).is_ok()
    }
}

fn parse(label: &str, der: &[u8]) -> Option<Key> {
    if label == "RSA PRIVATE KEY" {
        return RsaKeyPair::from_der(der).ok().map(Key::Rsa);
    }
    if label == "EC PRIVATE KEY" {
        return EC_ALGORITHMS.iter().find_map(|algorithm| parse("PRIVATE KEY", &sec1_as_pkcs8(der, algorithm)?));
    }
    if label != "PRIVATE KEY" {
        return None;
    }
    let ecdsa = |signing: &'static signature::EcdsaSigningAlgorithm, verifying: &'static dyn VerificationAlgorithm| {
        let pair = EcdsaKeyPair::from_pkcs8(signing, der, &SystemRandom::new()).ok()?;
        Some(Key::Ecdsa(pair, verifying))
    };
    RsaKeyPair::from_pkcs8(der)
        .ok()
        .map(Key::Rsa)
        .or_else(|| ecdsa(&ECDSA_P256_SHA256_ASN1_SIGNING, &ECDSA_P256_SHA256_ASN1))
        .or_else(|| ecdsa(&ECDSA_P384_SHA384_ASN1_SIGNING, &ECDSA_P384_SHA384_ASN1))
        .or_else(|| Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).ok().map(Key::Ed25519))
}

/// Version 0 and the algorithm of a PKCS#8 key (RFC 5958 §2): P-256, P-384.
const EC_ALGORITHMS: [&[u8]; 2] = [
    b"\x02\x01\x00\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07",
    b"\x02\x01\x00\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22",
];

/// Wraps the content of `EC PRIVATE KEY` (RFC 5915), because ring reads PKCS#8 only.
fn sec1_as_pkcs8(sec1: &[u8], algorithm: &[u8]) -> Option<Vec<u8>> {
    let element = |tag: u8, content: &[u8]| {
        let length = u16::try_from(content.len()).ok()?.to_be_bytes();
        // The crate `ring` requires the shortest encoding of a length (DER).
        let header = match length {
            [0, low @ 0..=0x7f] => vec![tag, low],
            [0, low] => vec![tag, 0x81, low],
            [high, low] => vec![tag, 0x82, high, low],
        };
        Some([header.as_slice(), content].concat())
    };
    element(0x30, &[algorithm, &element(0x04, sec1)?].concat())
}

/// Label and content of each block of a PEM file (RFC 7468).
fn pem_blocks(text: &str) -> impl Iterator<Item = (&str, Vec<u8>)> {
    text.split("-----BEGIN ").skip(1).filter_map(|block| {
        let (label, rest) = block.split_once("-----")?;
        let (content, _) = rest.split_once("-----END ")?;
        let digits: String = content.split_whitespace().collect();
        Some((label, data_encoding::BASE64.decode(digits.as_bytes()).ok()?))
    })
}

/// The bytes to sign: different inputs must give different bytes. `expires_s`: seconds after 1970-01-01 00:00:00 UTC; 0: never.
fn message(domain: &str, token: &Token, expires_s: u64) -> Vec<u8> {
    let part = |bytes: &[u8]| [&(bytes.len() as u64).to_be_bytes()[..], bytes].concat();
    let (domain, audience) = (part(domain.as_bytes()), part(token.audience.as_bytes()));
    [PREFIX, &domain, &audience, &expires_s.to_be_bytes(), &token.text].concat()
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Signs `token` for a module of the domain `domain`. Returns the signature in base64. If the token expires, a dot and the time
/// of its expiry (Unix seconds) follow. `None` without a key, and for a text with a NUL.
#[must_use]
pub fn sign(domain: &str, token: &Token) -> Option<String> {
    if token.text.contains(&0) {
        return None;
    }
    if let Some((sign, _)) = REMOTE.get() {
        return sign(token);
    }
    let expires_s = if token.valid_s > 0 { now_s() + u64::from(token.valid_s) } else { 0 };
    let signature = KEYS.get()?.first()?.sign(&message(domain, token, expires_s))?;
    let signature = data_encoding::BASE64.encode(&signature);
    Some(if expires_s > 0 { format!("{signature}.{expires_s}") } else { signature })
}

/// Whether `signed` is an unexpired signature of `token`, made for the domain `domain`.
#[must_use]
pub fn verify(domain: &str, signed: &[u8], token: &Token) -> bool {
    if let Some((_, verify)) = REMOTE.get() {
        return verify(signed, token);
    }
    KEYS.get().is_some_and(|keys| verify_with(keys, domain, signed, token, now_s()))
}

fn verify_with(keys: &[Key], domain: &str, signed: &[u8], token: &Token, now_s: u64) -> bool {
    let signed = signed.trim_ascii();
    let (signature, expires_s) = match signed.iter().position(|byte| *byte == b'.') {
        None => (signed, 0),
        Some(dot) => {
            let digits = signed.get(dot + 1..).unwrap_or_default();
            let number = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse::<u64>().ok());
            match number.filter(|expires_s| now_s < *expires_s) {
                Some(expires_s) => (signed.get(..dot).unwrap_or_default(), expires_s),
                None => return false,
            }
        }
    };
    let Ok(signature) = data_encoding::BASE64.decode(signature) else { return false };
    let message = message(domain, token, expires_s);
    keys.iter().any(|key| key.verifies(&message, &signature))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(text: &str, audience: &str) -> Token {
        Token { text: text.into(), audience: audience.into(), valid_s: 0 }
    }

    #[test]
    fn a_token_is_of_its_domain_audience_and_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token.key");
        make(&path).unwrap();
        let keys = read_checked(&path, None).unwrap().unwrap();
        let sign = |domain: &str, token: &Token, expires_s: u64| {
            let signature = data_encoding::BASE64.encode(&keys[0].sign(&message(domain, token, expires_s)).unwrap());
            if expires_s > 0 { format!("{signature}.{expires_s}") } else { signature }
        };
        let is =
            |domain: &str, signed: &str, token: &Token| verify_with(&keys, domain, signed.as_bytes(), token, 1_000);
        let signed = sign("a", &token("x", "m"), 0);
        assert!(is("a", &signed, &token("x", "m")) && is("a", &format!("{signed}\n"), &token("x", "m")));
        for (domain, other) in
            [("b", token("x", "m")), ("a", token("y", "m")), ("a", token("x", "n")), ("a", token("xm", ""))]
        {
            assert!(!is(domain, &signed, &other), "{domain} {other:?}");
        }
        let later = sign("a", &token("x", ""), 1_001);
        assert!(is("a", &later, &token("x", "")) && !is("a", &sign("a", &token("x", ""), 1_000), &token("x", "")));
        assert!(!is("a", &later.replace(".1001", ".9999"), &token("x", "")), "the end is signed too");
        assert!(!is("a", later.split('.').next().unwrap(), &token("x", "")));
        // A new key signs; signatures of the earlier key are accepted while its file exists.
        std::fs::rename(&path, old_of(&path)).unwrap();
        make(&path).unwrap();
        let both = read_checked(&path, None).unwrap().unwrap();
        assert!(
            verify_with(&both, "a", signed.as_bytes(), &token("x", "m"), 0)
                && both[0].public() == read(&path).unwrap().public()
        );
        assert!(!verify_with(&both[..1], "a", signed.as_bytes(), &token("x", "m"), 0));
        assert!(matches!(check(&path, Some(&path)), Err(KeyError::Certificate)));
        assert!(check(&path, Some(&old_of(&path))).is_ok());
    }
}
