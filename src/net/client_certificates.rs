//! Certificates of clients: the accepted authorities, and the name in a certificate.

use super::pem_file::{TlsError, element, file, read_chain};
use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use std::path::Path;
use std::sync::Arc;

/// Limit, in bytes, on a name. A longer name counts as missing.
const NAME_BYTES_MAX: usize = 1024;

/// DER content of the object identifiers 2.5.4.3 (`commonName`) and 2.5.29.17 (`subjectAltName`).
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const ALTERNATIVE_NAMES: &[u8] = &[0x55, 0x1d, 0x11];

/// The authorities whose clients are accepted.
#[derive(Debug)]
pub struct ClientAuthorities {
    pub(super) verifier: Arc<dyn ClientCertVerifier>,
}

impl ClientAuthorities {
    /// Reads the authorities' certificates from a PEM file. Unless `is_optional`, a client without a certificate is refused.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub fn load(path: &Path, is_optional: bool) -> Result<Self, TlsError> {
        let failed = file("client-ca", path);
        let mut roots = RootCertStore::empty();
        for certificate in read_chain("client-ca", path)? {
            roots.add(certificate).map_err(|error| failed(format!("a certificate in it can't be used: {error}")))?;
        }
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(ring::default_provider()));
        let builder = if is_optional { builder.allow_unauthenticated() } else { builder };
        let verifier = builder.build().map_err(|error| failed(error.to_string()))?;
        Ok(Self { verifier })
    }
}

/// The name in a client's certificate (DER): the last common name of the subject. If the subject has none, the result is the
/// first DNS name, e-mail address or URI of the alternative names. `None`: there is no name, or the name has control
/// characters, is not UTF-8 or is longer than [`NAME_BYTES_MAX`].
pub(super) fn client_name(certificate: &[u8]) -> Option<Arc<[u8]>> {
    let (_, certificate, _) = element(certificate)?;
    let (_, mut fields, _) = element(certificate)?;
    // The version is optional; serial number, signature algorithm, issuer and validity come before the subject.
    if element(fields)?.0 == 0xa0 {
        fields = element(fields)?.2;
    }
    for _ in 0..4 {
        fields = element(fields)?.2;
    }
    let (_, subject, rest) = element(fields)?;
    let name = match common_name(subject) {
        Some((0x0c | 0x13 | 0x16, name)) => name, // UTF8String, PrintableString, IA5String.
        Some(_) => return None,
        None => alternative_name(rest)?,
    };
    let text = std::str::from_utf8(name).ok()?;
    let is_sound = !text.is_empty() && text.len() <= NAME_BYTES_MAX && !text.chars().any(char::is_control);
    is_sound.then(|| Arc::from(name))
}

/// The DER elements that follow each other in `der`, as far as they can be read.
fn elements(mut der: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let (tag, content, rest) = element(der)?;
        der = rest;
        Some((tag, content))
    })
}

/// Tag and content of the last common name in the distinguished name `subject` (RFC 5280 §4.1.2.4).
fn common_name(subject: &[u8]) -> Option<(u8, &[u8])> {
    let attributes = elements(subject).flat_map(|(_, set)| elements(set));
    let names = attributes.filter_map(|(_, attribute)| {
        let (_, identifier, value) = element(attribute)?;
        (identifier == COMMON_NAME).then(|| element(value)).flatten()
    });
    names.last().map(|(tag, name, _)| (tag, name))
}

/// The first alternative name (RFC 5280 §4.2.1.6) in what follows the subject of a certificate.
fn alternative_name(behind_subject: &[u8]) -> Option<&[u8]> {
    let (_, extensions) = elements(behind_subject).find(|(tag, _)| *tag == 0xa3)?;
    let (_, extensions, _) = element(extensions)?;
    let names = elements(extensions).find_map(|(_, extension)| {
        let (_, identifier, rest) = element(extension)?;
        // A flag may come before the value.
        let (_, value) = elements(rest).find(|(tag, _)| *tag == 0x04)?;
        (identifier == ALTERNATIVE_NAMES).then(|| element(value)).flatten()
    })?;
    // rfc822Name, dNSName, uniformResourceIdentifier
    elements(names.1).find(|(tag, _)| matches!(tag, 0x81 | 0x82 | 0x86)).map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let content = parts.concat();
        let length = u16::try_from(content.len()).unwrap().to_be_bytes();
        [&[tag, 0x82, length[0], length[1]][..], &content].concat()
    }

    /// A certificate with these common names and these alternative names, and nothing else that counts.
    fn certificate(common: &[(u8, &[u8])], alternative: &[(u8, &[u8])]) -> Vec<u8> {
        let attribute =
            |(tag, name): &(u8, &[u8])| der(0x31, &[&der(0x30, &[&der(0x06, &[COMMON_NAME]), &der(*tag, &[name])])]);
        let country = der(0x31, &[&der(0x30, &[&der(0x06, &[&[0x55, 0x04, 0x06]]), &der(0x13, &[b"DE"])])]);
        let subject = der(0x30, &[&country, &common.iter().flat_map(attribute).collect::<Vec<u8>>()]);
        let names = alternative.iter().flat_map(|(tag, name)| der(*tag, &[name])).collect::<Vec<u8>>();
        let value = der(0x04, &[&der(0x30, &[&names])]);
        let flag = der(0x01, &[&[0xff]]);
        let extension = der(0x30, &[&der(0x06, &[ALTERNATIVE_NAMES]), &flag, &value]);
        let empty = der(0x30, &[]);
        let version = der(0xa0, &[&der(0x02, &[&[2]])]);
        let extensions = der(0xa3, &[&der(0x30, &[&extension])]);
        let fields = [&version, &der(0x02, &[&[1]]), &empty, &empty, &empty, &subject, &empty, &extensions];
        der(0x30, &[&der(0x30, &fields.map(Vec::as_slice)), &empty])
    }

    #[test]
    fn a_name_is_the_common_name_or_the_first_alternative_one() {
        let name = |common: &[(u8, &[u8])], alternative: &[(u8, &[u8])]| {
            client_name(&certificate(common, alternative)).map(|name| String::from_utf8(name.to_vec()).unwrap())
        };
        let uri: (u8, &[u8]) = (0x86, b"spiffe://a/b");
        assert_eq!(name(&[(0x0c, "Zoë".as_bytes())], &[uri]).as_deref(), Some("Zoë"));
        assert_eq!(name(&[(0x13, b"first"), (0x0c, b"last")], &[]).as_deref(), Some("last"));
        assert_eq!(name(&[], &[(0x87, &[127, 0, 0, 1]), uri]).as_deref(), Some("spiffe://a/b"));
        assert_eq!(name(&[], &[(0x82, b"host.example"), uri]).as_deref(), Some("host.example"));
        assert_eq!(name(&[], &[]), None);
        // A name that C code or a log would read differently counts as missing, and no other name replaces this name.
        let long = [b'x'; NAME_BYTES_MAX + 1];
        for bad in [&b"admin\0.evil"[..], b"a\r\nb", b"\xff", b"", &long] {
            assert_eq!(name(&[(0x0c, bad)], &[uri]), None, "{bad:?}");
            assert_eq!(name(&[], &[(0x82, bad), uri]), None, "{bad:?}");
        }
        assert_eq!(name(&[(0x1e, b"\0a")], &[uri]), None, "a BMPString");
        assert!(name(&[(0x0c, &long[..NAME_BYTES_MAX])], &[]).is_some());
    }

    #[test]
    fn damaged_certificates_have_no_name() {
        let whole = certificate(&[(0x0c, b"name")], &[(0x82, b"other")]);
        for length in 0..whole.len() {
            let _ = client_name(&whole[..length]);
        }
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x83;
            let _ = client_name(&damaged);
        }
        assert_eq!(client_name(b""), None);
        assert_eq!(client_name(&[0x30; 400]), None);
    }
}
