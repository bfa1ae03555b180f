//! Signatures with the server's key, for `ctx->crypto`. The key never leaves this room.

use ring::rand::SystemRandom;
use ring::signature::{
    self, ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1,
    ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_SHA256, RsaKeyPair, UnparsedPublicKey, VerificationAlgorithm,
};
use std::path::Path;
use std::sync::OnceLock;

enum Key {
    Rsa(RsaKeyPair),
    Ecdsa(EcdsaKeyPair, &'static dyn VerificationAlgorithm),
    Ed25519(Ed25519KeyPair),
}

static KEY: OnceLock<Key> = OnceLock::new();

/// Signs elsewhere: a token gives its signature.
pub type RemoteSign = Box<dyn Fn(&[u8]) -> Option<String> + Send + Sync>;
/// Verifies elsewhere: signature, token.
pub type RemoteVerify = Box<dyn Fn(&[u8], &[u8]) -> bool + Send + Sync>;

static REMOTE: OnceLock<(RemoteSign, RemoteVerify)> = OnceLock::new();

/// Signs and verifies through the server, which has the key: for processes that must not. Only the first call counts.
pub fn set_remote(sign: RemoteSign, verify: RemoteVerify) {
    let _ = REMOTE.set((sign, verify));
}

/// The key file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It can't be read.
    #[error("{0}")]
    Read(#[from] std::io::Error),
    /// It holds no key of a kind that is known.
    #[error("no PEM private key in it that can sign (RSA, P-256, P-384 or Ed25519)")]
    Unknown,
}

/// Takes the server's private key from a PEM file. Only the first call of a process counts.
///
/// # Errors
/// See [`KeyError`].
pub fn load(path: &Path) -> Result<(), KeyError> {
    let text = std::fs::read_to_string(path)?;
    let key = pem_blocks(&text).find_map(|(label, der)| parse(label, &der)).ok_or(KeyError::Unknown)?;
    let _ = KEY.set(key);
    Ok(())
}

/// Whether there is a key.
#[must_use]
pub fn is_loaded() -> bool {
    KEY.get().is_some() || REMOTE.get().is_some()
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

/// Wraps what stands in `EC PRIVATE KEY` (RFC 5915), because ring reads PKCS#8 only.
fn sec1_as_pkcs8(sec1: &[u8], algorithm: &[u8]) -> Option<Vec<u8>> {
    let element = |tag: u8, content: &[u8]| {
        let length = u16::try_from(content.len()).ok()?.to_be_bytes();
        // ring wants the shortest form of a length (DER).
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

/// A run of spaces is how TLS 1.3 begins what a server signs to prove who it is (RFC 8446 §4.4.3).
const SPACES: [u8; 64] = [b' '; 64];

/// Whether the server's key, which may be that of its certificate, may sign `token`: C text, and nothing that a client of
/// TLS could take for the server's word. What TLS 1.3 and 1.2 have signed has a NUL in it: after the name of the context, in the
/// number of the curve.
fn is_token(token: &[u8]) -> bool {
    !token.contains(&0) && !token.starts_with(&SPACES)
}

/// Signs `token`; the signature in base64. `None` without a key, for what has a NUL in it, and for what begins with 64 spaces.
#[must_use]
pub fn sign(token: &[u8]) -> Option<String> {
    if !is_token(token) {
        return None;
    }
    if let Some((sign, _)) = REMOTE.get() {
        return sign(token);
    }
    let random = SystemRandom::new();
    let signature = match KEY.get()? {
        Key::Rsa(pair) => {
            let mut signature = vec![0; pair.public().modulus_len()];
            pair.sign(&RSA_PKCS1_SHA256, &random, token, &mut signature).ok()?;
            signature
        }
        Key::Ecdsa(pair, _) => pair.sign(&random, token).ok()?.as_ref().to_vec(),
        Key::Ed25519(pair) => pair.sign(token).as_ref().to_vec(),
    };
    Some(data_encoding::BASE64.encode(&signature))
}

/// Whether `signed` is a signature of `token` by the server's key.
#[must_use]
pub fn verify(signed: &[u8], token: &[u8]) -> bool {
    if let Some((_, verify)) = REMOTE.get() {
        return verify(signed, token);
    }
    let Ok(signature) = data_encoding::BASE64.decode(signed.trim_ascii()) else { return false };
    let check = |algorithm: &'static dyn VerificationAlgorithm, public: &[u8]| {
        UnparsedPublicKey::new(algorithm, public).verify(token, &signature).is_ok()
    };
    match KEY.get() {
        None => false,
        Some(Key::Rsa(pair)) => check(&RSA_PKCS1_2048_8192_SHA256, pair.public_key().as_ref()),
        Some(Key::Ecdsa(pair, algorithm)) => check(*algorithm, pair.public_key().as_ref()),
        Some(Key::Ed25519(pair)) => check(&signature::ED25519, pair.public_key().as_ref()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tls_has_signed_is_no_token() {
        // RFC 8446 §4.4.3; RFC 5246 §7.4.3 with RFC 8422 §5.4: two randoms, then a named curve.
        let verify = [&SPACES[..], b"TLS 1.3, server CertificateVerify\0", &[7; 32]].concat();
        let exchange = [&[7; 64][..], &[3, 0, 29, 32], &[9; 32]].concat();
        for signed in [&verify[..], &exchange, b"a\0b", &verify[..97], &SPACES] {
            assert!(!is_token(signed));
        }
        for token in [&b"token"[..], b"", &SPACES[1..], "\t \u{fc}".as_bytes()] {
            assert!(is_token(token));
        }
    }
}
