//! Detects requests from this machine that a page in the user's browser may have caused.
//!
//! Peers on this machine are trusted in development. The browser on this machine is such a peer, and it sends requests for any
//! page that it shows. Three header fields reveal those requests. `Origin` comes with every cross-site POST, WebSocket
//! handshake and readable GET (Fetch standard §3.2). Current browsers add `Sec-Fetch-Site` to all requests (Fetch Metadata).
//! `Host` has the page's own name if the page made that name resolve to this machine (DNS rebinding).

use crate::net::Peer;
use crate::proto::http1::RequestView;
use std::net::Ipv4Addr;

/// Why a request is not attributed to this machine's user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doubt {
    /// A page of another site sent the request.
    Page,
    /// The request names a host that any page could have resolved to this machine's address.
    Host,
    /// A page of a module sent the request, and the request changes modules.
    Module,
}

impl Doubt {
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Page => "refused: a page of another site sent this request; use the key, or a tool on this machine",
            Self::Module => {
                "refused: a page of this server sent this request, and pages of modules may not change modules; use the key, curl or cweb"
            }
            Self::Host => {
                "refused: the Host of this request is not localhost or a loopback address, so a page may have chosen it; use http://127.0.0.1, or the key"
            }
        }
    }
}

/// The reason not to trust `view`, which `peer` on this machine has sent; `None` if there is none.
pub(super) fn doubt(view: &RequestView<'_>, peer: &Peer) -> Option<Doubt> {
    let host = view.header("host");
    let local = host.is_none_or(is_local); // HTTP/1.1 requires a Host. Without one (HTTP/1.0) no name can deceive.
    let page = view.header("origin").is_some_and(|origin| {
        let authority = origin.strip_prefix(b"http://").or_else(|| origin.strip_prefix(b"https://"));
        !local || authority.is_none() || authority != host
    });
    // `same-site` means another port of this machine, so the page is not the server's own.
    let fetched = view.header("sec-fetch-site").is_some_and(|site| site != b"same-origin" && site != b"none");
    let own = view.header("origin").is_some() || view.header("sec-fetch-site") == Some(b"same-origin");
    if page || fetched {
        Some(Doubt::Page)
    } else if own && !view.method().is_safe() && view.path().starts_with(b"/mgnt") {
        Some(Doubt::Module)
    } else if !local && *peer != Peer::Unix {
        // No browser connects to Unix sockets, and a proxy on one may send any name.
        Some(Doubt::Host)
    } else {
        None
    }
}

/// Whether `host`, the value of `Host`, can only mean this machine: `localhost`, 127.0.0.0/8 or `[::1]`, with any port.
fn is_local(host: &[u8]) -> bool {
    let Ok(host) = str::from_utf8(host) else { return false };
    // `[::1]` without a port ends in a bracket: its colons separate no port.
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !host.ends_with(']') && port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    name.eq_ignore_ascii_case("localhost")
        || name == "[::1]"
        || name.parse::<Ipv4Addr>().is_ok_and(|addr| addr.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::http1::{Decoded, Limits, RequestDecoder};

    fn doubt_of(fields: &str, peer: &Peer) -> Option<Doubt> {
        doubt_of_request("GET /mgnt", fields, peer)
    }

    fn doubt_of_request(request: &str, fields: &str, peer: &Peer) -> Option<Doubt> {
        let limits = Limits { head_bytes_max: 4096, headers_max: 20, uri_bytes_max: 1024, body_bytes_max: 0 };
        let version = if fields.contains("Host") { "1.1" } else { "1.0" };
        let text = format!("{request} HTTP/{version}\r\n{fields}\r\n");
        let mut decoder = RequestDecoder::new(limits);
        match decoder.decode(text.as_bytes()) {
            Ok(Decoded::Request { view, .. }) => doubt(&view, peer),
            _ => panic!("not a request: {text}"),
        }
    }

    #[test]
    fn only_hosts_of_this_machine_are_local() {
        for host in ["localhost", "LocalHost:8080", "127.0.0.1", "127.9.8.7:80", "[::1]", "[::1]:8080", "localhost:"] {
            assert!(is_local(host.as_bytes()), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example",
            "evil.localhost",
            "127.0.0.1.evil.example:80",
            "10.0.0.1",
            "0.0.0.0:80",
            "[::2]:80",
            "::1",
            "localhost:80:80",
            "localhost:x",
            "user@localhost",
            "127.1",
            "0177.0.0.1",
            ":80",
            "[::1]evil",
        ] {
            assert!(!is_local(host.as_bytes()), "{host}");
        }
        assert!(!is_local(b"\xff"));
    }

    #[test]
    fn pages_of_other_sites_are_doubted() {
        let tcp = Peer::Tcp(([127, 0, 0, 1], 1).into());
        let cases = [
            ("", None),
            ("Host: localhost:1\r\n", None),
            ("Host: evil.example\r\n", Some(Doubt::Host)),
            ("Host: localhost:1\r\nOrigin: http://localhost:1\r\n", None),
            ("Host: localhost:1\r\nOrigin: https://localhost:1\r\n", None),
            ("Host: localhost:1\r\nOrigin: http://localhost:2\r\n", Some(Doubt::Page)),
            ("Host: localhost:1\r\nOrigin: http://evil.example\r\n", Some(Doubt::Page)),
            ("Host: localhost:1\r\nOrigin: null\r\n", Some(Doubt::Page)),
            ("Host: evil.example\r\nOrigin: http://evil.example\r\n", Some(Doubt::Page)),
            ("Origin: http://evil.example\r\n", Some(Doubt::Page)),
            ("Host: localhost:1\r\nSec-Fetch-Site: none\r\n", None),
            ("Host: localhost:1\r\nSec-Fetch-Site: same-origin\r\n", None),
            ("Host: localhost:1\r\nSec-Fetch-Site: same-site\r\n", Some(Doubt::Page)),
            ("Host: localhost:1\r\nSec-Fetch-Site: cross-site\r\n", Some(Doubt::Page)),
        ];
        let own = "Host: localhost:1\r\nOrigin: http://localhost:1\r\n";
        let fetched = "Host: localhost:1\r\nSec-Fetch-Site: same-origin\r\n";
        for fields in [own, fetched] {
            for (request, expected) in
                [("POST /mgnt", Some(Doubt::Module)), ("DELETE /mgnt/x", Some(Doubt::Module)), ("POST /jobs", None)]
            {
                assert_eq!(doubt_of_request(request, fields, &tcp), expected, "{request} {fields}");
            }
        }
        for (fields, expected) in cases {
            assert_eq!(doubt_of(fields, &tcp), expected, "{fields}");
            let on_a_unix_socket = expected.filter(|doubt| *doubt != Doubt::Host);
            assert_eq!(doubt_of(fields, &Peer::Unix), on_a_unix_socket, "{fields}");
        }
    }
}
