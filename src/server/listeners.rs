//! The server's listeners: the addresses of the settings or the passed sockets, plain or with TLS.

use super::error::{ServeError, setup};
use crate::config::Config;
use crate::net::{self, Certificate, ClientAuthorities, ListenAddr, Listener, TlsError, UnixAccess};
use socket2::Socket;
use std::time::Duration;

/// The certificate for TCP addresses, if one is configured.
pub(super) fn load_certificate(config: &Config) -> Result<Option<Certificate>, ServeError> {
    let (Some(cert), Some(key)) = (&config.tls_cert, &config.tls_key) else {
        let reason = "there is no --tls-cert: plain HTTP has no certificates of clients".to_owned();
        let refused = |path: &std::path::PathBuf| TlsError::File { what: "client-ca", path: path.clone(), reason };
        return config.tls_clients.tls_client_ca.as_ref().map(refused).map_or(Ok(None), |error| Err(error.into()));
    };
    let clients = &config.tls_clients;
    let load = |path| ClientAuthorities::load(path, clients.tls_client_optional);
    let authorities = clients.tls_client_ca.as_deref().map(load).transpose()?;
    let certificate = Certificate::load(cert, key)?.with_clients(authorities);
    tracing::info!("HTTPS with the certificate {} and the key {}", cert.display(), key.display());
    Ok(Some(certificate))
}

/// The listeners of each shard, and how many of them are not admin listeners; those come first. The listeners are the sockets
/// that the service manager has passed, or else those of the settings' addresses.
pub(super) fn bind(
    config: &Config,
    passed: &[Socket],
    certificate: Option<&Certificate>,
) -> Result<(Vec<Vec<Listener>>, usize), ServeError> {
    let parsed = |texts: &[String]| {
        let parse = |text: &String| text.parse::<ListenAddr>().map_err(|error| ServeError::Address(error.to_string()));
        texts.iter().map(parse).collect::<Result<Vec<_>, _>>()
    };
    let mut listeners = if passed.is_empty() {
        net::bind_all(&parsed(&config.listen)?, config.shards, UnixAccess::Umask)?
    } else {
        tracing::info!("serving the {} socket(s) that were passed; --port and --listen have no effect", passed.len());
        net::share(passed, config.shards).map_err(setup("sharing the passed sockets"))?
    };
    let public = listeners.first().map_or(0, Vec::len);
    let admin = net::bind_all(&parsed(&config.admin_listen)?, config.shards, UnixAccess::Owner)?;
    for (shard, admin) in listeners.iter_mut().zip(admin) {
        shard.extend(admin); // Admin listeners must come last: their index tells the shard what they serve.
    }
    Ok((secured(config, listeners, public, certificate)?, public))
}

/// Adds TLS to the listeners, if there is a certificate. The first `public` ones ask for certificates of clients, if
/// authorities are configured.
fn secured(
    config: &Config,
    listeners: Vec<Vec<Listener>>,
    public: usize,
    certificate: Option<&Certificate>,
) -> Result<Vec<Vec<Listener>>, ServeError> {
    let Some(certificate) = certificate else {
        if config.production && listeners.iter().flatten().any(Listener::is_public) {
            tracing::warn!(
                "--production without --tls-cert and --tls-key, and no server.crt and server.key in the data directory: serving plain HTTP; a proxy that terminates TLS is expected in front"
            );
        }
        return Ok(listeners);
    };
    let timeout = Duration::from_millis(config.timeouts.header_timeout_ms);
    let (of_modules, of_admin) = (certificate.client_acceptor(timeout)?, certificate.acceptor(timeout)?);
    let acceptor = |number| if number < public { &of_modules } else { &of_admin };
    let secured = |shard: Vec<Listener>| {
        shard.into_iter().enumerate().map(|(number, listener)| listener.secured(acceptor(number))).collect()
    };
    Ok(listeners.into_iter().map(secured).collect())
}

/// The addresses of the bound listeners, as shown to users.
pub(super) fn addresses(public: usize, listeners: &[Vec<Listener>]) -> Vec<String> {
    let told =
        |(number, listener): (usize, &Listener)| format!("{listener}{}", if number < public { "" } else { " (admin)" });
    listeners.first().into_iter().flatten().enumerate().map(told).collect()
}
