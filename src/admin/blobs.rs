//! `/blobs`: store, list, fetch and delete the files that jobs work on.

use super::audit::Actor;
use super::file_answer::{self, FileBody, unescaped};
use super::paths::is_under;
use super::query::{check_parameters, parameter};
use crate::domain::call::OwnedRequest;
use crate::jobs::Jobs;
use crate::jobs::blobs::{self, BlobError, BlobId, BodyWriter, Listed, Notify, StoredBlob};
use crate::proto::http1::{Method, RequestView};
use crate::server_response::{Reply, ServerAnswer};
use data_encoding::BASE64_NOPAD;
use serde_json::json;

/// The prefix of all blob paths.
const ROOT: &str = "/blobs";
/// Default number of blobs in a list.
const LIST_DEFAULT: usize = 100;
/// Limit on the blobs in a list.
const LIST_MAX: usize = 10_000;

fn error(status: u16, text: &str) -> ServerAnswer {
    ServerAnswer::json(status, json!({ "error": text }).to_string())
}

fn not_allowed(allow: &'static str) -> ServerAnswer {
    error(405, &format!("this path answers {allow}")).with("Allow", allow)
}

/// Maps an error of a blob to its answer; no other place maps these errors to an HTTP status.
pub(super) fn blob_error(cause: &BlobError) -> ServerAnswer {
    let status = match cause {
        BlobError::TooLarge(_) => 413,
        BlobError::Quota { .. } | BlobError::DiskFull => 507,
        BlobError::Busy => return error(503, &cause.to_string()).with("Retry-After", "1"),
        BlobError::Mismatch { .. } | BlobError::Broken => 400,
        BlobError::Late => 408,
        BlobError::Unknown(_) => 404,
        BlobError::InUse(_) => 409,
        BlobError::Failed(_) => 500,
    };
    error(status, &cause.to_string())
}

/// The part of the path behind `/blobs/`.
fn name_of(view: &RequestView<'_>) -> Option<String> {
    let path = std::str::from_utf8(view.path()).ok()?;
    let name = path.strip_prefix(ROOT)?.strip_prefix('/').filter(|name| !name.is_empty())?;
    Some(unescaped(name).unwrap_or_else(|| name.to_owned()))
}

/// Whether the body of a request is stored as it arrives.
pub(super) fn stores_body(view: &RequestView<'_>) -> bool {
    view.method() == Method::Put && is_under(view.path(), ROOT.as_bytes())
}

/// Serves one request on `/blobs` or below it; the body, if any, has arrived whole.
pub(super) fn handle(jobs: &Jobs, view: &RequestView<'_>, actor: Actor, reply: Reply) {
    if stores_body(view) {
        let mut body = store(jobs, view, actor, Some(view.body.len() as u64), Box::new(|_| {}), reply);
        // The body arrived whole in one receive, so it is smaller than the buffer.
        if body.put(view.body).is_ok() {
            body.end(None);
        }
        return;
    }
    let Some(name) = name_of(view) else {
        return match (view.method().is_safe() && view.method() != Method::Options, limit_of(view)) {
            (false, _) => reply.send(&not_allowed("GET, HEAD, PUT, OPTIONS")),
            (true, Ok(limit)) => list(jobs, limit, reply),
            (true, Err(refusal)) => reply.send(&refusal),
        };
    };
    let Some(id) = BlobId::parse(&name) else { return reply.send(&no_name(&name)) };
    match view.method() {
        Method::Get | Method::Head => get(jobs, id, OwnedRequest::copy(view), reply),
        Method::Delete => delete(jobs, id, actor, reply),
        _ => reply.send(&not_allowed("GET, HEAD, PUT, DELETE, OPTIONS")),
    }
}

fn no_name(name: &str) -> ServerAnswer {
    error(
        400,
        &format!("\"{}\" is not the name of a blob: write sha256: and 64 hexadecimal digits", name.escape_debug()),
    )
}

/// Answers without storing the body; the body is not read.
pub(super) fn refuse(refusal: &ServerAnswer, reply: Reply) -> BodyWriter {
    reply.send(refusal);
    blobs::body(Box::new(|_| {})).0
}

/// Begins to store a body; the caller passes the bytes to the returned writer.
pub(super) fn store(
    jobs: &Jobs,
    view: &RequestView<'_>,
    actor: Actor,
    length: Option<u64>,
    notify: Notify,
    reply: Reply,
) -> BodyWriter {
    let expected = match expected(view) {
        Ok(expected) => expected,
        Err(refusal) => return refuse(&refusal, reply),
    };
    let upload = match jobs.blobs().admit(length) {
        Ok(upload) => upload,
        Err(cause) => return refuse(&blob_error(&cause), reply),
    };
    let (writer, reader) = blobs::body(notify);
    let done = move |stored: Result<StoredBlob, BlobError>| {
        let answer = match &stored {
            Ok(StoredBlob { id, bytes, is_new }) => {
                let text = json!({ "blob": id.to_string(), "bytes": bytes }).to_string();
                let status = if *is_new { 201 } else { 200 };
                ServerAnswer::json(status, text).with("Location", format!("{ROOT}/{id}"))
            }
            Err(cause) => blob_error(cause),
        };
        let name = stored.map_or_else(|_| String::new(), |stored| stored.id.to_string());
        actor.log_blob("store blob", &name, answer.status);
        reply.send(&answer);
    };
    // If no thread can be started, the reply is dropped, and its client gets 503.
    if let Err(cause) = blobs::receive(upload, length, expected, reader, done) {
        tracing::error!("a blob can't be received: {cause}");
    }
    writer
}

/// The hash that the body must have, from the path (`PUT /blobs/sha256:…`) or a field of the head; `None`: no hash is required.
fn expected(view: &RequestView<'_>) -> Result<Option<BlobId>, ServerAnswer> {
    let named = match name_of(view) {
        None => None,
        Some(name) => Some(BlobId::parse(&name).ok_or_else(|| no_name(&name))?),
    };
    let mut expected = named;
    for (name, value) in view.headers() {
        let Some(form) = Form::of(name) else { continue };
        let name = String::from_utf8_lossy(name);
        let digest = digest(form, &String::from_utf8_lossy(value)).map_err(|()| {
            error(
                400,
                &format!("the {name} can't be read: write sha-256=:BASE64:, the SHA-256 of the body (RFC 9530), or leave it out"),
            )
        })?;
        match (digest, expected) {
            (Some(digest), Some(other)) if digest != other => {
                return Err(error(400, &format!("the request names two blobs, {other} and {digest}")));
            }
            (digest, other) => expected = digest.or(other),
        }
    }
    Ok(expected)
}

/// How a field encodes digests.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// RFC 9530 §2: `sha-256=:BASE64:`, a dictionary of byte sequences (RFC 9651 §3.2).
    Dictionary,
    /// RFC 3230 §4.3.2: `SHA-256=BASE64`.
    Instance,
}

impl Form {
    fn of(name: &[u8]) -> Option<Self> {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        if is("content-digest") || is("repr-digest") {
            return Some(Self::Dictionary);
        }
        is("digest").then_some(Self::Instance)
    }

    /// Decodes the digest in `text`; text after a `;` is parameters.
    fn decoded(self, text: &str) -> Result<Vec<u8>, ()> {
        let text = text.split_once(';').map_or(text, |(text, _)| text).trim();
        let between = text.strip_prefix(':').and_then(|text| text.strip_suffix(':'));
        let digits = if self == Self::Dictionary { between.ok_or(())? } else { between.unwrap_or(text) };
        // RFC 9651 §4.2.7: a sender may omit the padding.
        let digits = digits.trim_end_matches('=');
        BASE64_NOPAD.decode(digits.as_bytes()).map_err(drop)
    }
}

/// The SHA-256 in a field of digests. Digests of other algorithms must be readable, and are otherwise ignored.
fn digest(form: Form, value: &str) -> Result<Option<BlobId>, ()> {
    let mut found = None;
    if value.trim().is_empty() {
        return Ok(found);
    }
    for item in value.split(',') {
        let (name, text) = item.split_once('=').ok_or(())?;
        let name = name.trim();
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.*".contains(&byte)) {
            return Err(());
        }
        if name.eq_ignore_ascii_case("sha-256") {
            let hash = form.decoded(text)?.try_into().map_err(drop)?;
            found = Some(BlobId::new(hash));
        } else if form == Form::Dictionary {
            form.decoded(text)?;
        }
    }
    Ok(found)
}

/// The limit of a list of blobs, from the query.
fn limit_of(view: &RequestView<'_>) -> Result<usize, ServerAnswer> {
    check_parameters(view, &["limit"]).map_err(|text| error(400, &text))?;
    let Some(text) = parameter(view, "limit") else { return Ok(LIST_DEFAULT) };
    let limit = text.parse().ok().filter(|limit| (1..=LIST_MAX).contains(limit));
    limit.ok_or_else(|| error(400, &format!("limit is a number from 1 to {LIST_MAX}")))
}

fn list(jobs: &Jobs, limit: usize, reply: Reply) {
    let blobs = jobs.blobs().clone();
    // Runs off the shard, because a disk may be slow.
    jobs.read(move |_| match blobs.list(limit) {
        Ok((listed, count)) => {
            let shown =
                |blob: &Listed| json!({ "blob": blob.id.to_string(), "bytes": blob.bytes, "used_at": blob.used_ms });
            let (usage, listed) = (blobs.usage(), listed.iter().map(shown).collect::<Vec<_>>());
            let text = json!({ "blobs": listed, "count": count, "bytes": usage.bytes, "bytes_max": usage.bytes_max });
            reply.send(&ServerAnswer::json(200, text.to_string()));
        }
        Err(cause) => reply.send(&error(500, &format!("the directory of the blobs can't be read: {cause}"))),
    });
}

fn get(jobs: &Jobs, id: BlobId, request: OwnedRequest, reply: Reply) {
    let blobs = jobs.blobs().clone();
    // Runs off the shard, because a disk may be slow.
    jobs.read(move |_| match blobs.get(&id) {
        Ok(found) => {
            let etag = format!("\"{id}\"");
            let content_type = "application/octet-stream";
            file_answer::send(&request, FileBody { file: found.file, bytes: found.bytes, etag, content_type }, reply);
        }
        Err(cause) => reply.send(&blob_error(&cause)),
    });
}

fn delete(jobs: &Jobs, id: BlobId, actor: Actor, reply: Reply) {
    let answer = move |deleted: Result<(), BlobError>| {
        let answer = match deleted {
            Ok(()) => ServerAnswer::json(200, json!({ "blob": id.to_string(), "deleted": true }).to_string()),
            Err(cause) => blob_error(&cause),
        };
        actor.log_blob("delete blob", &id.to_string(), answer.status);
        reply.send(&answer);
    };
    jobs.delete_blob(id, Box::new(answer));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_read_in_both_forms() {
        use Form::{Dictionary, Instance};
        let abc = BlobId::parse("sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        let text = "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=";
        let unpadded = text.trim_end_matches('=');
        for (form, good) in [
            (Dictionary, format!("sha-256=:{text}:")),
            (Dictionary, format!("md5=:AAAA:, sha-256=:{text}:;a=1 , sha-512=:AA==:")),
            (Dictionary, format!("sha-256=:{unpadded}:")),
            (Dictionary, format!("sha-256=:{}:, sha-256=:{text}:", "A".repeat(43))),
            (Instance, format!("SHA-256={text}")),
            (Instance, format!("SHA-256=:{text}:")),
            (Instance, format!("unixsum=30637, SHA-256={text}")),
        ] {
            assert_eq!(digest(form, &good), Ok(abc), "{good}");
        }
        assert_eq!((digest(Dictionary, "md5=:AAAA:"), digest(Dictionary, "")), (Ok(None), Ok(None)));
        for wrong in [
            "sha-256=:AAAA:",
            "sha-256=",
            "sha-256=:ungWv4:",
            "rubbish",
            "sha-512=rubbish",
            "sha-512",
            ":AAAA:",
            "=:AAAA:",
            "a b=:AAAA:",
            "md5=:AAAA:,",
            "sha-256=\"x\"",
            "sha-256=::",
            &format!("sha-256={text}"),
        ] {
            assert_eq!(digest(Dictionary, wrong), Err(()), "{wrong}");
        }
        for wrong in ["rubbish", "SHA-256=AAAA", "SHA-256="] {
            assert_eq!(digest(Instance, wrong), Err(()), "{wrong}");
        }
    }
}
