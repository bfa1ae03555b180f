//! Who may use the server's own paths.

use crate::net::Peer;
use crate::proto::http1::RequestView;
use crate::shard::ServerAnswer;

/// Where a request comes from, as far as access is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// The peer's address is 127.0.0.0/8, ::1 or a unix socket of this machine.
    pub loopback: bool,
}

impl Client {
    /// What `peer` is.
    #[must_use]
    pub fn of(peer: &Peer) -> Self {
        Self { loopback: peer.is_loopback() }
    }
}

/// The rule: with a key, it is needed from everywhere but loopback in development, and from everywhere in
/// production; without one, only loopback peers get in.
pub struct Access {
    key: Option<Box<[u8]>>,
    production: bool,
}

impl Access {
    /// `key` as configured; an empty one counts as none.
    #[must_use]
    pub fn new(key: Option<&str>, production: bool) -> Self {
        Self { key: key.filter(|key| !key.is_empty()).map(|key| key.as_bytes().into()), production }
    }

    /// Lets the request pass or says why not.
    ///
    /// # Errors
    /// The answer to send instead: 401 for a missing or wrong key, 403 when no key can help.
    pub fn check(&self, view: &RequestView<'_>, client: Client) -> Result<(), ServerAnswer> {
        let trusted = client.loopback && !self.production;
        if trusted && is_from_another_site(view) {
            return Err(ServerAnswer::json(
                403,
                r#"{"error":"refused: a page of another site sent this request; use the key, or a tool on this machine"}"#,
            ));
        }
        let Some(key) = &self.key else {
            return if trusted {
                Ok(())
            } else {
                Err(ServerAnswer::json(
                    403,
                    r#"{"error":"this server has no admin key, so only this machine may do that; set CWEB_ADMIN_KEY to allow it from elsewhere"}"#,
                ))
            };
        };
        if trusted || presented_key(view).is_some_and(|given| same_secret(given, key)) {
            return Ok(());
        }
        Err(ServerAnswer::json(
            401,
            r#"{"error":"admin key missing or wrong; send it as X-API-Key or Authorization: Bearer"}"#,
        )
        .with("WWW-Authenticate", "Bearer"))
    }
}

fn presented_key<'a>(view: &RequestView<'a>) -> Option<&'a [u8]> {
    if let Some(key) = view.header("x-api-key") {
        return Some(key);
    }
    let value = view.header("authorization")?;
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

/// A browser names the page's origin on every cross-site POST, and a multipart POST needs no preflight: without this
/// any web page could deploy code to a developer's own machine. Tools send no `Origin`.
fn is_from_another_site(view: &RequestView<'_>) -> bool {
    let Some(origin) = view.header("origin") else { return false };
    let host = view.header("host").unwrap_or_default();
    let authority = origin.strip_prefix(b"http://").or_else(|| origin.strip_prefix(b"https://"));
    let name = host.rsplit_once_byte(b':').map_or(host, |(name, _)| name);
    let local = [b"localhost".as_slice(), b"127.0.0.1", b"[::1]"].contains(&name);
    authority != Some(host) || !local
}

trait RsplitByte {
    fn rsplit_once_byte(&self, byte: u8) -> Option<(&[u8], &[u8])>;
}

impl RsplitByte for [u8] {
    fn rsplit_once_byte(&self, byte: u8) -> Option<(&[u8], &[u8])> {
        // `[::1]` without a port ends in a bracket: its colons are not a port's.
        if self.ends_with(b"]") {
            return None;
        }
        let at = self.iter().rposition(|&found| found == byte)?;
        Some((&self[..at], &self[at + 1..]))
    }
}

/// Compares in time that depends on the lengths alone, so that a key can't be guessed byte by byte.
fn same_secret(given: &[u8], key: &[u8]) -> bool {
    // Hashing both makes the compared lengths equal and hides where they differ.
    use sha2::{Digest, Sha256};
    let (given, key) = (Sha256::digest(given), Sha256::digest(key));
    given.iter().zip(key.iter()).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}
