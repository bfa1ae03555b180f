//! The server's certificate and key: read from PEM files, checked, shared by all shards, and replaced while they serve.

use super::client_certificates::ClientAuthorities;
use super::pem_file::{TlsError, element, file, read_chain};
use super::tls::Acceptor;
use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, ring};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::{self, PemObject};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The certificate and key in service, and their files.
#[derive(Debug)]
pub struct Certificate {
    cert: PathBuf,
    key: PathBuf,
    provider: Arc<CryptoProvider>,
    current: Arc<Current>,
    clients: Option<ClientAuthorities>,
}

/// Each handshake reads the pair in service.
#[derive(Debug)]
struct Current(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

impl Certificate {
    /// Reads and checks the pair.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub fn load(cert: &Path, key: &Path) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let pair = read_pair(&provider, cert, key)?;
        let current = Arc::new(Current(ArcSwap::from_pointee(pair)));
        Ok(Self { cert: cert.to_path_buf(), key: key.to_path_buf(), provider, current, clients: None })
    }

    /// Has [`Certificate::client_acceptor`] ask for certificates of `clients`.
    #[must_use]
    pub fn with_clients(self, clients: Option<ClientAuthorities>) -> Self {
        Self { clients, ..self }
    }

    /// Reads the files again. New connections get the new pair; open connections keep the old pair.
    ///
    /// # Errors
    /// See [`TlsError`]; the old pair then stays in service.
    pub fn reload(&self) -> Result<(), TlsError> {
        let pair = read_pair(&self.provider, &self.cert, &self.key)?;
        self.current.0.store(Arc::new(pair));
        Ok(())
    }

    /// The acceptor that makes TLS connections of a listener's connections: TLS 1.2 and 1.3, tickets, HTTP/1.1.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub fn acceptor(&self, handshake_timeout: Duration) -> Result<Acceptor, TlsError> {
        self.acceptor_with(handshake_timeout, None)
    }

    /// An acceptor that asks for certificates of clients, if there are authorities for them. Such an acceptor gives no
    /// tickets, because a resumed session does not check the certificate again.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub fn client_acceptor(&self, handshake_timeout: Duration) -> Result<Acceptor, TlsError> {
        self.acceptor_with(handshake_timeout, self.clients.as_ref())
    }

    fn acceptor_with(
        &self,
        handshake_timeout: Duration,
        clients: Option<&ClientAuthorities>,
    ) -> Result<Acceptor, TlsError> {
        let builder =
            ServerConfig::builder_with_provider(Arc::clone(&self.provider)).with_safe_default_protocol_versions()?;
        let builder = match clients {
            Some(clients) => builder.with_client_cert_verifier(Arc::clone(&clients.verifier)),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::clone(&self.current) as _);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        if clients.is_none() {
            // The clients keep the sessions, so they cost the server no memory. Keys that change every six hours encrypt them.
            config.ticketer = ring::Ticketer::new()?;
        }
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Acceptor { config: Arc::new(config), handshake_timeout })
    }
}

fn read_pair(provider: &CryptoProvider, cert: &Path, key: &Path) -> Result<CertifiedKey, TlsError> {
    let bad_cert = file("cert", cert);
    let chain = read_chain("cert", cert)?;
    let leaf = chain.first().map(AsRef::<[u8]>::as_ref).unwrap_or_default();
    let validity = validity(leaf).ok_or_else(|| bad_cert("its first certificate can't be read".to_owned()))?;
    let bad_key = file("key", key);
    let signing = provider.key_provider.load_private_key(read_key(key)?).map_err(|_| {
        bad_key("this kind of key is not supported; use RSA (2048 to 8192 bits), P-256, P-384 or Ed25519".to_owned())
    })?;
    let pair = CertifiedKey::new(chain, signing);
    match pair.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
        Err(rustls::Error::InconsistentKeys(_)) => {
            return Err(TlsError::Mismatch { cert: cert.to_path_buf(), key: key.to_path_buf() });
        }
        Err(error) => return Err(bad_cert(error.to_string())),
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    if now > validity.until.seconds {
        return Err(bad_cert(format!("the certificate expired on {}; renew it", validity.until.text)));
    }
    if now < validity.from.seconds {
        return Err(bad_cert(format!("the certificate is not valid before {}", validity.from.text)));
    }
    Ok(pair)
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let failed = file("key", path);
    let bytes = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| match error {
        pem::Error::NoItemsFound if String::from_utf8_lossy(&bytes).contains("BEGIN ENCRYPTED PRIVATE KEY") => {
            failed("the key is encrypted; decrypt it: openssl pkey -in KEY -out PLAIN".to_owned())
        }
        pem::Error::NoItemsFound => failed("the file has no PEM private key (-----BEGIN PRIVATE KEY-----)".to_owned()),
        error => failed(format!("damaged PEM: {error}")),
    })
}

/// A time in a certificate.
#[derive(Debug, PartialEq, Eq)]
struct Time {
    /// Seconds after 1970-01-01 00:00:00 UTC; 0 for every earlier time.
    seconds: u64,
    text: String,
}

#[derive(Debug)]
struct Validity {
    from: Time,
    until: Time,
}

/// The period in which a certificate is valid (RFC 5280 §4.1). rustls checks the period of peers' certificates only, never of
/// its own.
fn validity(certificate: &[u8]) -> Option<Validity> {
    let (_, certificate, _) = element(certificate)?;
    let (_, mut fields, _) = element(certificate)?;
    // The version is optional; serial number, signature algorithm and issuer follow.
    let (tag, _, after) = element(fields)?;
    if tag == 0xa0 {
        fields = after;
    }
    for _ in 0..3 {
        fields = element(fields)?.2;
    }
    let (_, times, _) = element(fields)?;
    let (from_tag, from, times) = element(times)?;
    let (until_tag, until, _) = element(times)?;
    Some(Validity { from: time(from_tag, from)?, until: time(until_tag, until)? })
}

/// Parses `UTCTime` or `GeneralizedTime`, which certificates have in UTC and to the second (RFC 5280 §4.1.2.5).
fn time(tag: u8, content: &[u8]) -> Option<Time> {
    let digits = std::str::from_utf8(content).ok()?.strip_suffix('Z')?;
    let digits = match tag {
        0x17 => format!("{}{digits}", if digits < "50" { "20" } else { "19" }),
        0x18 => digits.to_owned(),
        _ => return None,
    };
    if digits.len() != 14 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let number = |at: usize, count: usize| digits.get(at..at + count).and_then(|text| text.parse::<i64>().ok());
    let (year, month, day) = (number(0, 4)?, number(4, 2)?, number(6, 2)?);
    let (hour, minute, second) = (number(8, 2)?, number(10, 2)?, number(12, 2)?);
    let seconds = days_since_1970(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second;
    let text = format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC");
    Some(Time { seconds: u64::try_from(seconds).unwrap_or(0), text })
}

/// Days from 1970-01-01 in the Gregorian calendar. Years begin in March here, so that the leap day is the last day of a year.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_certificates_are_read() {
        let seconds = |tag, text: &str| time(tag, text.as_bytes()).map(|time| time.seconds);
        assert_eq!(seconds(0x17, "700101000000Z"), Some(0));
        assert_eq!(seconds(0x17, "240229123456Z"), Some(1_709_210_096));
        assert_eq!(seconds(0x18, "20500101000000Z"), Some(2_524_608_000));
        assert_eq!(seconds(0x17, "240301000000Z"), Some(1_709_251_200));
        assert_eq!(time(0x18, b"20991231235959Z").unwrap().text, "2099-12-31 23:59:59 UTC");
        for bad in ["", "Z", "240229123456", "24022912345Z", "24x229123456Z"] {
            assert_eq!(seconds(0x17, bad), None, "{bad}");
        }
    }

    #[test]
    fn nonsense_is_no_certificate() {
        for der in [b"".as_slice(), b"\x30", b"\x30\x84\xff\xff\xff\xff", b"\x30\x02\x30\x00", &[0x30; 400]] {
            assert!(validity(der).is_none());
        }
    }
}
