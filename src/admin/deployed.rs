//! The answer to an accepted deployment: the served routes and their URLs, as text or as JSON.

use super::Client;
use crate::module::deploy::Deployed;
use crate::net::Peer;
use crate::proto::http1::{RequestView, accepts};
use serde_json::json;
use std::fmt::Write;

/// The addresses at which modules are served, as far as the server knows.
#[derive(Debug, Clone, Default)]
pub struct Site {
    /// Whether TCP addresses serve HTTPS.
    pub secure: bool,
    /// The address of the modules, `http://127.0.0.1:8080`, if the server's own paths have others.
    pub modules: Option<String>,
}

/// The form of the answer that a client asks for.
#[derive(Debug)]
pub(super) struct Form {
    /// Scheme and authority of the modules' URLs; empty if the request has no `Host`.
    base: String,
    pub(super) json: bool,
}

impl Form {
    /// Derives the form from the request: `Host` names the server as its client does.
    pub(super) fn of(view: &RequestView<'_>, client: Client, site: &Site) -> Self {
        let json = view.header("accept").is_some_and(|accept| accepts(accept, "application/json"));
        let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(byte);
        let host = view.header("host").filter(|host| !host.is_empty() && host.iter().all(is_plain));
        let host = host.map(|host| String::from_utf8_lossy(host).into_owned());
        let scheme = if site.secure && client.peer != Peer::Unix { "https" } else { "http" };
        let base = match (&site.modules, host) {
            (Some(address), host) => elsewhere(address, host.as_deref()),
            (None, Some(host)) => format!("{scheme}://{host}"),
            (None, None) => String::new(),
        };
        Self { base, json }
    }

    /// The body of the answer, as text or JSON.
    pub(super) fn body(&self, deployed: &Deployed, result: &str) -> String {
        if self.json { self.as_json(deployed, result) } else { self.as_text(deployed, result) }
    }

    fn url(&self, path: &str) -> String {
        // Every path is anchored, so the anchor is not shown.
        let path = path.strip_prefix('^').unwrap_or(path);
        format!("{}{}", self.base, path.strip_suffix('$').unwrap_or(path))
    }

    fn socket_url(&self, path: &str) -> String {
        let url = self.url(path);
        url.strip_prefix("http").map_or_else(|| url.clone(), |rest| format!("ws{rest}"))
    }

    fn as_text(&self, deployed: &Deployed, result: &str) -> String {
        let manifest = &*deployed.manifest;
        let hash = deployed.hash.get(..12).unwrap_or(&deployed.hash);
        let domain = Some(&deployed.domain).filter(|domain| !domain.is_empty() && *domain != "default");
        let domain = domain.map(|domain| format!(" in domain {domain}")).unwrap_or_default();
        let mut text = format!("{result} {} {hash}{domain}\n", manifest.name);
        // Writing to a String can't fail.
        for route in &manifest.routes {
            let _ = writeln!(text, "{} {}", route.method, self.url(&route.path));
        }
        for socket in &manifest.websockets {
            let _ = writeln!(text, "WS {}", self.socket_url(&socket.path));
        }
        for job in &manifest.jobs {
            let _ = writeln!(text, "JOB {}", job.name);
        }
        text + &deployed.warnings
    }

    fn as_json(&self, deployed: &Deployed, result: &str) -> String {
        let manifest = &*deployed.manifest;
        let routes = manifest
            .routes
            .iter()
            .map(|route| json!({ "method": route.method, "path": route.path, "url": self.url(&route.path) }))
            .collect::<Vec<_>>();
        let websockets = manifest
            .websockets
            .iter()
            .map(|socket| json!({ "path": socket.path, "url": self.socket_url(&socket.path) }))
            .collect::<Vec<_>>();
        let jobs = manifest.jobs.iter().map(|job| json!({ "name": job.name })).collect::<Vec<_>>();
        json!({
            "result": result,
            "name": manifest.name,
            "module_hash": deployed.hash,
            "domain": deployed.domain,
            "version": deployed.version,
            "libraries": deployed.libraries.iter().map(|library| json!({ "name": library.name, "version": library.version })).collect::<Vec<_>>(),
            "routes": routes,
            "websockets": websockets,
            "jobs": jobs,
            "warnings": deployed.warnings,
        })
        .to_string()
    }
}

/// The modules' `address` as a client reaches it that calls this machine `host`.
fn elsewhere(address: &str, host: Option<&str>) -> String {
    let Some((scheme, rest)) = address.split_once("://") else { return String::new() };
    let Some((listened, port)) = rest.rsplit_once(':') else { return address.to_owned() };
    if !matches!(listened, "0.0.0.0" | "[::]") {
        return address.to_owned();
    }
    // The port of the authority is that of the server's own paths, so it is dropped.
    let name = host.map_or("localhost", |host| match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    });
    format!("{scheme}://{name}:{port}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_elsewhere_are_named_as_their_client_can_reach_them() {
        for (address, host, base) in [
            ("http://127.0.0.1:80", Some("x:9"), "http://127.0.0.1:80"),
            ("https://0.0.0.0:443", Some("my.host:9000"), "https://my.host:443"),
            ("http://[::]:8080", Some("[::1]:9000"), "http://[::1]:8080"),
            ("http://[::]:8080", Some("name"), "http://name:8080"),
            ("http://0.0.0.0:1", None, "http://localhost:1"),
            ("unix:/run/x", Some("x"), ""),
        ] {
            assert_eq!(elsewhere(address, host), base);
        }
    }
}
