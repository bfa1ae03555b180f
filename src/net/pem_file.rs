//! Certificates in PEM files, the elements of DER that they consist of, and what can be wrong with them.

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::{self, PemObject};
use std::path::{Path, PathBuf};

/// Why a certificate and key can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read.
    #[error("--tls-{what} {}: {reason}", path.display())]
    File {
        /// `cert`, `key` or `client-ca`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with the file, and what to do.
        reason: String,
    },
    /// Certificate and key do not belong together.
    #[error("--tls-cert {} and --tls-key {} do not belong together: the certificate has another key", cert.display(), key.display())]
    Mismatch {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// TLS itself can't be set up.
    #[error("setting up TLS: {0}")]
    Setup(#[from] rustls::Error),
}

/// Makes the error for the file of `--tls-WHAT`.
pub(super) fn file(what: &'static str, path: &Path) -> impl Fn(String) -> TlsError {
    move |reason| TlsError::File { what, path: path.to_path_buf(), reason }
}

/// The certificates in the file of `--tls-WHAT`: at least one.
pub(super) fn read_chain(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = file(what, path);
    let bytes = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
    let chain: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&bytes).collect();
    match chain {
        Ok(chain) if chain.is_empty() => {
            Err(failed("the file has no PEM certificate (-----BEGIN CERTIFICATE-----)".to_owned()))
        }
        Ok(chain) => Ok(chain),
        Err(error) => Err(failed(format!("damaged PEM: {error}"))),
    }
}

/// Tag and content of the first DER element, and the bytes behind it (X.690 §8.1).
pub(super) fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, first], rest) = der.split_first_chunk::<2>()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    let (content, after) = rest.split_at_checked(length)?;
    Some((tag, content, after))
}
