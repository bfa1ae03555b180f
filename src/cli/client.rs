//! A client of a server's `/mgnt`.

use super::exit::{Exit, Failure};
use super::trust::{self, TrustArgs};
use std::fs::File;
use std::io::IsTerminal;
use std::time::Duration;
use ureq::RequestBuilder;
use ureq::typestate::WithBody;

/// Longer than any deployment: compiler, inspection and swap have their own limits.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Limit on the wait for the head of a stream.
const STREAM_TIMEOUT: Duration = Duration::from_secs(30);

/// Limit on the silence of a stream: the server sends a comment every 15 s.
const STREAM_SILENCE_MAX: Duration = Duration::from_secs(45);

/// Limit, in bytes, on an answer. A page of jobs contains their results.
const BODY_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// The server that `cweb` uses if none is named.
pub(super) const SERVER_DEFAULT: &str = "http://127.0.0.1:8080";

/// A connection to a server's API.
pub(super) struct Client {
    agent: ureq::Agent,
    base: String,
    /// The file of `--cacert`, for messages.
    cacert: Option<String>,
    key: Option<String>,
}

/// A server's answer.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: String,
    headers: ureq::http::HeaderMap,
}

/// A larger body is sent after the server's `100 Continue`. A server that refuses a body closes the connection; a client
/// that is still sending would see the closed connection and not the answer.
const UNASKED_BYTES_MAX: usize = 1024 * 1024;

/// The server's answer to a request for a stream.
pub(super) enum Opened {
    /// The stream has ended for good.
    Finished,
    /// The stream.
    Stream(ureq::BodyReader<'static>),
    /// Another answer.
    Refused(Answer),
}

impl Answer {
    /// The value of a header field; empty if the field is missing.
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
    }

    /// The answer's error or its text.
    pub(super) fn words(&self) -> String {
        let json = serde_json::from_str::<serde_json::Value>(&self.body).ok();
        let error = json.as_ref().and_then(|json| json.get("error")).and_then(|error| error.as_str());
        error.unwrap_or(&self.body).trim_end().to_owned()
    }

    pub(super) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

impl Client {
    /// The server at `base`, or [`SERVER_DEFAULT`] if `base` is empty. The admin key comes from `CWEB_ADMIN_KEY`.
    ///
    /// # Errors
    /// The trusted certificates for `https://` can't be read.
    pub(super) fn new(base: &str, trust: &TrustArgs) -> Result<Self, String> {
        // An empty CWEB_SERVER counts as unset; users often type a bare host:port.
        let base = match base.trim() {
            "" => SERVER_DEFAULT.to_owned(),
            base if base.contains("://") => base.to_owned(),
            base => format!("http://{base}"),
        };
        let is_secure = base.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://"));
        let mut config = ureq::Agent::config_builder();
        if is_secure {
            config = config.tls_config(trust.tls()?);
        }
        let config = config
            .http_status_as_error(false)
            .timeout_global(Some(TIMEOUT))
            .proxy(None)
            // The server never redirects, and the key must go only to the named server.
            .max_redirects(0)
            .build();
        let key = std::env::var("CWEB_ADMIN_KEY").ok().filter(|key| !key.is_empty());
        let cacert = trust.file().filter(|_| is_secure).map(|path| path.display().to_string());
        Ok(Self { agent: config.into(), base: base.trim_end_matches('/').to_owned(), cacert, key })
    }

    pub(super) fn base(&self) -> &str {
        &self.base
    }

    /// The flags that name this server in another command.
    pub(super) fn flags(&self) -> String {
        let cacert = self.cacert.as_ref().map(|file| format!(" --cacert {file}")).unwrap_or_default();
        format!("--server {}{cacert}", self.base)
    }

    pub(super) fn get(&self, path: &str) -> Result<Answer, Failure> {
        let request = self.agent.get(format!("{}{path}", self.base)).header("X-API-Key", self.key());
        self.read(request.call())
    }

    pub(super) fn delete(&self, path: &str) -> Result<Answer, Failure> {
        let request = self.agent.delete(format!("{}{path}", self.base)).header("X-API-Key", self.key());
        self.read(request.call())
    }

    /// Gets the bytes of an answer, and whether they are an archive; or else the refusal.
    pub(super) fn get_bytes(&self, path: &str) -> Result<Result<(bool, Vec<u8>), Answer>, Failure> {
        let request = self.agent.get(format!("{}{path}", self.base)).header("X-API-Key", self.key());
        match request.call() {
            Ok(mut response) if response.status() == 200 => {
                let kind = response.headers().get("content-type").and_then(|value| value.to_str().ok());
                let is_archive = kind == Some("application/x-tar");
                let bytes = response.body_mut().with_config().limit(BODY_BYTES_MAX).read_to_vec();
                let bytes =
                    bytes.map_err(|error| Failure::new(Exit::Unreachable, format!("{}: {error}", self.base)))?;
                Ok(Ok((is_archive, bytes)))
            }
            other => self.read(other).map(Err),
        }
    }

    /// Sends a PUT request.
    pub(super) fn put(&self, path: &str, body: &[u8]) -> Result<Answer, Failure> {
        let request = self
            .agent
            .put(format!("{}{path}", self.base))
            .header("X-API-Key", self.key())
            .header("Content-Type", "text/plain; charset=utf-8");
        self.read(request.send(body))
    }

    /// Sends a HEAD request.
    pub(super) fn head(&self, path: &str) -> Result<Answer, Failure> {
        let request = self.agent.head(format!("{}{path}", self.base)).header("X-API-Key", self.key());
        self.read(request.call())
    }

    /// Sends a file of `bytes` bytes, of any size.
    pub(super) fn put_file(&self, path: &str, file: File, bytes: u64) -> Result<Answer, Failure> {
        let request = self
            .agent
            .put(format!("{}{path}", self.base))
            .header("X-API-Key", self.key())
            .header("Content-Type", "application/octet-stream")
            .header("Content-Length", bytes.to_string())
            .config()
            .timeout_global(None)
            .timeout_connect(Some(STREAM_TIMEOUT))
            .timeout_recv_response(Some(TIMEOUT))
            .build();
        self.read(request.send(file))
    }

    /// Writes an answer of any size to `file`.
    pub(super) fn get_to(&self, path: &str, file: &mut File) -> Result<(), Failure> {
        let result = self
            .agent
            .get(format!("{}{path}", self.base))
            .header("X-API-Key", self.key())
            .config()
            .timeout_global(None)
            .timeout_connect(Some(STREAM_TIMEOUT))
            .timeout_recv_response(Some(TIMEOUT))
            .timeout_per_read(Some(STREAM_SILENCE_MAX))
            .build()
            .call();
        match result {
            Ok(response) if response.status() == 200 => {
                let copied = std::io::copy(&mut response.into_body().into_reader(), file);
                copied.map(drop).map_err(|error| Failure::new(Exit::Failed, format!("{}{path}: {error}", self.base)))
            }
            other => self.read(other).and_then(|answer| Err(self.refusal(&answer))),
        }
    }

    /// Posts JSON.
    pub(super) fn post_json(&self, path: &str, body: &[u8]) -> Result<Answer, Failure> {
        let request = self
            .agent
            .post(format!("{}{path}", self.base))
            .header("X-API-Key", self.key())
            .header("Accept", "application/json")
            .header("Content-Type", "application/json");
        self.read(request.send(body))
    }

    /// Opens a stream of server-sent events that begins after `last_event_id`.
    pub(super) fn events(&self, path: &str, last_event_id: i64) -> Result<Opened, Failure> {
        let result = self
            .agent
            .get(format!("{}{path}", self.base))
            .header("X-API-Key", self.key())
            .header("Accept", "text/event-stream")
            .header("Last-Event-ID", last_event_id.to_string())
            .config()
            .timeout_global(None)
            .timeout_connect(Some(STREAM_TIMEOUT))
            .timeout_recv_response(Some(STREAM_TIMEOUT))
            .timeout_per_read(Some(STREAM_SILENCE_MAX))
            .build()
            .call();
        let is_stream = |response: &ureq::http::Response<ureq::Body>| {
            let kind = response.headers().get("content-type").and_then(|value| value.to_str().ok());
            response.status() == 200 && kind.is_some_and(|kind| kind.starts_with("text/event-stream"))
        };
        match result {
            Ok(response) if is_stream(&response) => Ok(Opened::Stream(response.into_body().into_reader())),
            Ok(response) if response.status() == 204 => Ok(Opened::Finished),
            other => self.read(other).map(Opened::Refused),
        }
    }

    /// The advice for a status that concerns the key, the same for every command.
    pub(super) fn key_advice(&self, answer: &Answer) -> Option<&'static str> {
        match answer.status {
            401 if self.key.is_some() => Some("the server does not accept the key in CWEB_ADMIN_KEY (any more)"),
            401 => Some("set CWEB_ADMIN_KEY to the server's key"),
            403 if self.key.is_some() => Some("the key in CWEB_ADMIN_KEY has no right to do this"),
            403 => Some("set CWEB_ADMIN_KEY to a key that has the right to do this"),
            429 => Some("CWEB_ADMIN_KEY was wrong too often"),
            _ => None,
        }
    }

    /// The message and the exit code for a refusal.
    pub(super) fn refusal(&self, answer: &Answer) -> Failure {
        let said = answer.words();
        match self.key_advice(answer) {
            Some(advice) => {
                Failure::new(Exit::Unauthorized, format!("{} answers {}: {said}; {advice}", self.base, answer.status))
            }
            None => Failure::new(Exit::Failed, format!("{}: {said}", answer.status)),
        }
    }

    /// Posts `source` to `/mgnt` as a form, like `curl -F code=@FILE -F domain=NAME`, so that the server gets the file's
    /// name.
    pub(super) fn deploy(&self, file_name: &str, source: &[u8], fields: &[(&str, &str)]) -> Result<Answer, Failure> {
        // The boundary is random, so that no source contains it.
        let boundary = format!("cweb-{}", uuid::Uuid::new_v4().simple());
        let request = self
            .agent
            .post(format!("{}/mgnt", self.base))
            .header("X-API-Key", self.key())
            .header("Accept", "application/json")
            .header("Content-Type", format!("multipart/form-data; boundary={boundary}"));
        let body = form(&boundary, file_name, source, fields);
        self.read(asking_first(request, body.len()).send(body))
    }

    /// Posts a project's tar file, with `fields` as parameters.
    pub(super) fn deploy_project(&self, archive: &[u8], fields: &[(&str, &str)]) -> Result<Answer, Failure> {
        let parameters: Vec<String> = fields.iter().map(|(name, value)| format!("{name}={}", escaped(value))).collect();
        let request = self
            .agent
            .post(format!("{}/mgnt?{}", self.base, parameters.join("&")))
            .header("X-API-Key", self.key())
            .header("Accept", "application/json")
            .header("Content-Type", "application/x-tar");
        self.read(asking_first(request, archive.len()).send(archive))
    }

    fn key(&self) -> &str {
        self.key.as_deref().unwrap_or("")
    }

    fn read(&self, result: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<Answer, Failure> {
        let unreachable = |text| Failure::new(Exit::Unreachable, text);
        let explained = result.map_err(|error| match error {
            ureq::Error::Io(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                format!(
                    "no server answers at {}; start one with: cweb serve, or name another with --server URL or CWEB_SERVER",
                    self.base
                )
            }
            other if trust::explain(&other).is_some() => {
                format!("{}: {}", self.base, trust::explain(&other).unwrap_or_default())
            }
            other => {
                format!("{}: {other}; name another server with --server URL or CWEB_SERVER", self.base)
            }
        });
        let mut response = explained.map_err(unreachable)?;
        let reading = response.body_mut().with_config().limit(BODY_BYTES_MAX).lossy_utf8(true);
        let body = reading.read_to_string().map_err(|error| unreachable(format!("{}: {error}", self.base)))?;
        Ok(Answer { status: response.status().as_u16(), headers: response.headers().clone(), body })
    }
}

/// Makes `request` wait for the server's agreement before it sends a large body (RFC 9110 §10.1.1).
fn asking_first(request: RequestBuilder<WithBody>, bytes: usize) -> RequestBuilder<WithBody> {
    if bytes > UNASKED_BYTES_MAX { request.header("Expect", "100-continue") } else { request }
}

/// A form with `fields` and the field `code` (RFC 7578); the file's name is escaped as in browsers.
fn form(boundary: &str, file_name: &str, source: &[u8], fields: &[(&str, &str)]) -> Vec<u8> {
    let name = file_name.replace('"', "%22").replace('\r', "%0D").replace('\n', "%0A");
    let field = |(name, value): &(&str, &str)| {
        format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    };
    let fields: String = fields.iter().map(field).collect();
    let head = format!(
        "{fields}--{boundary}\r\nContent-Disposition: form-data; name=\"code\"; filename=\"{name}\"\r\n\
         Content-Type: text/x-csrc\r\n\r\n"
    );
    [head.as_bytes(), source, format!("\r\n--{boundary}--\r\n").as_bytes()].concat()
}

/// `text` in a colour, if stdout is a terminal and NO_COLOR is not set (no-color.org).
pub(super) fn coloured(code: u8, text: &str) -> String {
    coloured_on(&std::io::stdout(), code, text)
}

/// Like [`coloured`], for text that goes to `output`.
pub(super) fn coloured_on(output: &impl IsTerminal, code: u8, text: &str) -> String {
    if output.is_terminal() && std::env::var_os("NO_COLOR").is_none() {
        format!("\x1b[{code}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

/// `text` as a part of a URL: all characters but unreserved ones are escaped (RFC 3986 §2.3).
pub(super) fn escaped(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    let part = |byte: u8| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(part).collect()
}

pub(super) const RED: u8 = 31;
pub(super) const GREEN: u8 = 32;
pub(super) const YELLOW: u8 = 33;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::form::multipart;

    #[test]
    fn the_server_reads_the_form_as_it_was_meant() {
        let source = b"int x;\r\n--cweb\r\n";
        let code = (b"code".to_vec(), source.to_vec());
        let field = |name: &str, value: &str| (name.as_bytes().to_vec(), value.as_bytes().to_vec());
        for fields in [&[][..], &[("domain", "d")][..], &[("domain", "d"), ("mount", "/app")][..]] {
            let mut expected: Vec<_> = fields.iter().map(|(name, value)| field(name, value)).collect();
            expected.push(code.clone());
            let body = form("b", "a \"b\".c", source, fields);
            let mut seen = Vec::new();
            multipart(&body, b"b", 10, |part| seen.push((part.name.to_vec(), part.body.to_vec()))).unwrap();
            assert_eq!(seen, expected);
        }
    }

    #[test]
    fn parts_of_urls_are_escaped() {
        assert_eq!(escaped("a-Z_0.~ &é/"), "a-Z_0.~%20%26%C3%A9%2F");
    }

    #[test]
    fn servers_are_named_as_people_do_it() {
        for (given, base) in [("", SERVER_DEFAULT), ("h:1", "http://h:1"), ("https://h/", "https://h")] {
            let trust = TrustArgs::default();
            assert_eq!(Client::new(given, &trust).unwrap().base(), base);
        }
    }
}
