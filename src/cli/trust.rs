//! Certificates that `https://` trusts, and explanations if a server's certificate is not among them.

use clap::Args;
use rustls::crypto::ring;
use rustls::{CertificateError, Error, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

#[derive(Debug, Default, Args)]
pub(super) struct TrustArgs {
    /// Certificates (PEM) to trust for https:// instead of the system's: of an authority, or a server's self-signed one
    #[arg(long, env = "CWEB_CACERT", value_name = "FILE", global = true)]
    cacert: Option<OsString>,
}

impl TrustArgs {
    /// The file of the trusted certificates; an empty CWEB_CACERT counts as unset.
    pub(super) fn file(&self) -> Option<&Path> {
        self.cacert.as_deref().filter(|name| !name.is_empty()).map(Path::new)
    }

    /// The TLS configuration: rustls, ring, and the certificates of the file or else of the system.
    ///
    /// # Errors
    /// No certificate can be read.
    pub(super) fn tls(&self) -> Result<TlsConfig, String> {
        let roots = match self.file() {
            Some(path) => from_file(path).map_err(|why| format!("--cacert {}: {why}", path.display()))?,
            None => from_system()?,
        };
        Ok(TlsConfig::builder()
            .root_certs(RootCerts::Specific(Arc::new(roots)))
            .unversioned_rustls_crypto_provider(Arc::new(ring::default_provider()))
            .build())
    }
}

fn from_file(path: &Path) -> Result<Vec<Certificate<'static>>, String> {
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    let mut roots = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(&bytes) {
        let certificate = certificate.map_err(|error| format!("damaged PEM: {error}"))?;
        // The connection would skip an unreadable certificate and then report the server as untrusted.
        let readable = RootCertStore::empty().add(certificate.clone());
        readable.map_err(|error| format!("a certificate of the file can't be read: {error}"))?;
        roots.push(owned(&certificate));
    }
    if roots.is_empty() {
        return Err("the file has no PEM certificate (-----BEGIN CERTIFICATE-----)".to_owned());
    }
    Ok(roots)
}

/// The certificates that OpenSSL would trust: `SSL_CERT_FILE` and `SSL_CERT_DIR`, or the directories of the distributions.
fn from_system() -> Result<Vec<Certificate<'static>>, String> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        let why = found.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
        return Err(format!(
            "this system has no certificates of authorities{why}: install its package ca-certificates, or name the \
             server's own with --cacert FILE or CWEB_CACERT"
        ));
    }
    Ok(found.certs.iter().map(owned).collect())
}

fn owned(certificate: &CertificateDer<'_>) -> Certificate<'static> {
    Certificate::from_der(certificate).to_owned()
}

/// The explanation of a TLS error; `None` for other errors.
pub(super) fn explain(error: &ureq::Error) -> Option<String> {
    let error = match error {
        ureq::Error::Rustls(error) => error,
        // An error of the handshake.
        ureq::Error::Io(error) => error.get_ref()?.downcast_ref::<Error>()?,
        _ => return None,
    };
    Some(match error {
        Error::InvalidCertificate(reason) => certificate(reason),
        Error::InvalidMessage(_) => "it does not speak HTTPS on this port; try http://".to_owned(),
        other => format!("TLS: {other}"),
    })
}

fn certificate(reason: &CertificateError) -> String {
    match reason {
        CertificateError::UnknownIssuer => "no authority that this machine trusts has signed its certificate. If the \
             server is yours, name its certificate, or that of its authority, with --cacert FILE or CWEB_CACERT"
            .to_owned(),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!("its certificate is for other names: {reason}. Use one of these names, or issue a certificate for this name")
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            format!("its certificate has expired: {reason}")
        }
        // `openssl req -x509` makes such a certificate by default. (The type of this error is not public.)
        CertificateError::Other(other) if other.to_string() == "CaUsedAsEndEntity" => {
            "its certificate is one of an authority (CA:TRUE), which signs others and must not be a server's own. Make one \
             for the server: openssl req -x509 … -addext basicConstraints=critical,CA:FALSE"
                .to_owned()
        }
        _ => format!("its certificate can't be used: {reason}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trust(cacert: Option<&str>) -> TrustArgs {
        TrustArgs { cacert: cacert.map(Into::into) }
    }

    #[test]
    fn an_empty_variable_names_no_file() {
        assert_eq!(trust(Some("")).file(), None);
        assert_eq!(trust(Some("x")).file(), Some(Path::new("x")));
    }

    #[test]
    fn files_without_certificates_are_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("roots.pem");
        let said = || trust(path.to_str()).tls().err().unwrap();
        assert!(said().contains("No such file"), "{}", said());
        std::fs::write(&path, "no PEM").unwrap();
        assert!(said().contains("roots.pem: the file has no PEM certificate"), "{}", said());
        let hollow = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
        std::fs::write(&path, hollow).unwrap();
        assert!(said().contains("can't be read"), "{}", said());
        std::fs::write(&path, hollow.replace("MAA=", "!!!")).unwrap();
        assert!(said().contains("damaged PEM"), "{}", said());
    }
}
