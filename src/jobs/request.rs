//! The body of a submission: parsed and checked before anything is written.

use super::blobs::{BlobId, is_file_name};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use simd_json::prelude::*;

/// Limit, in bytes, on a `unique_key`.
const KEY_BYTES_MAX: usize = 256;
/// Limit on the jobs that one job depends on.
const NEEDS_MAX: usize = 64;
/// Upper bound of `concurrency_limit`.
const CONCURRENCY_MAX: u64 = 1_000;
/// Limit on the runs of one job.
const ATTEMPTS_MAX: u64 = 1_000;
/// Limit on the files of one job.
const FILES_MAX: usize = 64;
/// Limit, in milliseconds, on a requested pause or time limit: a hundred years.
const DURATION_MS_MAX: u64 = 100 * 366 * 24 * 3600 * 1000;

/// A submission.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobRequest {
    /// The module; `None` if the job's name alone determines it.
    pub module: Option<String>,
    /// The job.
    pub job: String,
    /// JSON text as the client sent it; `{}` if missing.
    pub payload: String,
    /// Limit on the runs of a job whose runs fail.
    pub max_attempts: Option<u32>,
    /// Pause before the second run; doubles with each further run.
    pub backoff_ms: Option<u64>,
    /// Limit on the time of a run.
    pub timeout_ms: Option<u64>,
    /// Earliest start: milliseconds since 1970-01-01 00:00:00 UTC.
    pub run_at_ms: Option<i64>,
    /// Jobs with a higher priority run first.
    pub priority: Option<i32>,
    /// At most one job with the same name has this key.
    pub unique_key: Option<String>,
    /// The number of simultaneous runs is limited among jobs with the same module, name and key.
    pub concurrency_key: Option<String>,
    /// Limit on those runs; 1 if missing.
    pub concurrency_limit: Option<u32>,
    /// UUIDs of the jobs that must be done first.
    pub depends_on: Vec<String>,
    /// Names and blobs of the input files.
    pub files: Vec<(String, BlobId)>,
}

/// What is wrong with a submission, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The submission is invalid.
    #[error("{0}")]
    Invalid(String),
    /// The payload is too large.
    #[error("the payload has {bytes} bytes; the limit is {limit} (--job-payload-bytes-max)")]
    PayloadTooLarge {
        /// The size of the payload.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
}

fn invalid(text: impl Into<String>) -> RequestError {
    RequestError::Invalid(text.into())
}

/// Finds the payload's original text, and refuses a field that occurs twice: parsers disagree on which of them counts (RFC 8259
/// §4).
#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
    #[serde(rename = "module")]
    _module: Option<IgnoredAny>,
    #[serde(rename = "job")]
    _job: Option<IgnoredAny>,
    #[serde(rename = "max_attempts")]
    _max_attempts: Option<IgnoredAny>,
    #[serde(rename = "backoff_ms")]
    _backoff_ms: Option<IgnoredAny>,
    #[serde(rename = "timeout_ms")]
    _timeout_ms: Option<IgnoredAny>,
    #[serde(rename = "run_at")]
    _run_at: Option<IgnoredAny>,
    #[serde(rename = "priority")]
    _priority: Option<IgnoredAny>,
    #[serde(rename = "depends_on")]
    _depends_on: Option<IgnoredAny>,
    #[serde(rename = "concurrency_key")]
    _concurrency_key: Option<IgnoredAny>,
    #[serde(rename = "concurrency_limit")]
    _concurrency_limit: Option<IgnoredAny>,
    #[serde(rename = "unique_key")]
    _unique_key: Option<IgnoredAny>,
    #[serde(rename = "files")]
    _files: Option<IgnoredAny>,
}

impl JobRequest {
    /// Parses the body of `POST /jobs`. Unknown fields are ignored.
    ///
    /// # Errors
    /// Each variant of [`RequestError`].
    pub fn parse(body: &[u8], payload_bytes_max: usize) -> Result<Self, RequestError> {
        let text = std::str::from_utf8(body)
            .map_err(|error| invalid(format!("the body is not UTF-8: byte {} is wrong", error.valid_up_to())))?;
        // simd-json decides whether the body is JSON. Its errors name no line, so serde_json produces the message.
        let mut scratch = body.to_vec();
        let value = simd_json::to_borrowed_value(&mut scratch).map_err(|_| syntax_error(text))?;
        let Some(object) = value.as_object() else {
            return Err(invalid(format!("the body must be a JSON object, not {}", kind_of(&value))));
        };
        let job =
            string(object.get("job"), "job")?.ok_or_else(|| invalid("\"job\" is missing: name the job to run"))?;
        if job.is_empty() {
            return Err(invalid("\"job\" is empty: name the job to run"));
        }
        let payload = match serde_json::from_str::<Fields<'_>>(text) {
            Ok(found) => found.payload.map_or("{}", RawValue::get),
            Err(error) => return Err(invalid(format!("the body can't be read: {error}"))),
        };
        if payload.len() > payload_bytes_max {
            return Err(RequestError::PayloadTooLarge { bytes: payload.len(), limit: payload_bytes_max });
        }
        let unique_key = string(object.get("unique_key"), "unique_key")?;
        if unique_key.as_ref().is_some_and(|key| key.is_empty() || key.len() > KEY_BYTES_MAX) {
            return Err(invalid(format!("\"unique_key\" must have 1 to {KEY_BYTES_MAX} bytes")));
        }
        let concurrency_key = string(object.get("concurrency_key"), "concurrency_key")?;
        if concurrency_key.as_ref().is_some_and(|key| key.is_empty() || key.len() > KEY_BYTES_MAX) {
            return Err(invalid(format!("\"concurrency_key\" must have 1 to {KEY_BYTES_MAX} bytes")));
        }
        let limit = natural(object.get("concurrency_limit"), "concurrency_limit", 1, CONCURRENCY_MAX)?;
        if limit.is_some() && concurrency_key.is_none() {
            return Err(invalid("\"concurrency_limit\" is the limit of a \"concurrency_key\", which is missing"));
        }
        let attempts = natural(object.get("max_attempts"), "max_attempts", 1, ATTEMPTS_MAX)?;
        let run_at = natural(object.get("run_at"), "run_at", 0, i64::MAX as u64)?;
        Ok(Self {
            module: string(object.get("module"), "module")?,
            job,
            payload: payload.to_owned(),
            max_attempts: attempts.and_then(|attempts| u32::try_from(attempts).ok()),
            backoff_ms: natural(object.get("backoff_ms"), "backoff_ms", 0, DURATION_MS_MAX)?,
            timeout_ms: natural(object.get("timeout_ms"), "timeout_ms", 0, DURATION_MS_MAX)?,
            run_at_ms: run_at.and_then(|ms| i64::try_from(ms).ok()),
            priority: priority(object.get("priority"))?,
            unique_key,
            concurrency_key,
            concurrency_limit: limit.and_then(|limit| u32::try_from(limit).ok()),
            depends_on: depends_on(object.get("depends_on"))?,
            files: files(object.get("files"))?,
        })
    }
}

fn syntax_error(text: &str) -> RequestError {
    match serde_json::from_str::<IgnoredAny>(text) {
        Err(error) => invalid(format!("the body is not JSON: {error}")),
        Ok(_) => invalid("the body can't be read as JSON: it has a number or a string out of range"),
    }
}

fn kind_of(value: &simd_json::BorrowedValue<'_>) -> &'static str {
    match value.value_type() {
        ValueType::Null => "null",
        ValueType::Bool => "a boolean",
        ValueType::String => "a string",
        ValueType::Array => "an array",
        ValueType::Object => "an object",
        _ => "a number",
    }
}

type Field<'a, 'v> = Option<&'a simd_json::BorrowedValue<'v>>;

fn present<'a, 'v>(field: Field<'a, 'v>) -> Field<'a, 'v> {
    field.filter(|value| !value.is_null())
}

fn string(field: Field<'_, '_>, name: &str) -> Result<Option<String>, RequestError> {
    let Some(value) = present(field) else { return Ok(None) };
    match value.as_str() {
        Some(text) => Ok(Some(text.to_owned())),
        None => Err(invalid(format!("\"{name}\" must be a string, not {}", kind_of(value)))),
    }
}

fn natural(field: Field<'_, '_>, name: &str, min: u64, max: u64) -> Result<Option<u64>, RequestError> {
    let Some(value) = present(field) else { return Ok(None) };
    match value.as_u64() {
        Some(number) if (min..=max).contains(&number) => Ok(Some(number)),
        _ => Err(invalid(format!("\"{name}\" must be a whole number from {min} to {max}"))),
    }
}

fn depends_on(field: Field<'_, '_>) -> Result<Vec<String>, RequestError> {
    let Some(value) = present(field) else { return Ok(Vec::new()) };
    let wrong = || invalid(format!("\"depends_on\" must be an array of at most {NEEDS_MAX} UUIDs of jobs"));
    let list = value.as_array().filter(|list| list.len() <= NEEDS_MAX).ok_or_else(wrong)?;
    let uuid = |value: &simd_json::BorrowedValue<'_>| {
        let text = value.as_str().filter(|text| text.len() == 36)?;
        Some(uuid::Uuid::try_parse(text).ok()?.to_string())
    };
    list.iter().map(|value| uuid(value).ok_or_else(wrong)).collect()
}

/// Parses the files of a submission: `{"NAME":"sha256:…"}`.
fn files(field: Field<'_, '_>) -> Result<Vec<(String, BlobId)>, RequestError> {
    let Some(value) = present(field) else { return Ok(Vec::new()) };
    let Some(object) = value.as_object() else {
        return Err(invalid(format!("\"files\" must be an object of names and blobs, not {}", kind_of(value))));
    };
    if object.len() > FILES_MAX {
        return Err(invalid(format!("\"files\" names {} files; a job has at most {FILES_MAX}", object.len())));
    }
    let mut files = Vec::with_capacity(object.len());
    for (name, blob) in object {
        if !is_file_name(name) {
            let name = name.escape_debug();
            return Err(invalid(format!(
                "\"{name}\" in \"files\" can't name a file: a name has 1 to 128 bytes, no / and no dot at its start"
            )));
        }
        let id = blob.as_str().and_then(BlobId::parse).ok_or_else(|| {
            invalid(format!(
                "\"{name}\" in \"files\" must be \"sha256:\" and 64 hexadecimal digits, as PUT /blobs answers"
            ))
        })?;
        files.push((name.to_string(), id));
    }
    Ok(files)
}

fn priority(field: Field<'_, '_>) -> Result<Option<i32>, RequestError> {
    let Some(value) = present(field) else { return Ok(None) };
    let number = value.as_i64().and_then(|number| i32::try_from(number).ok());
    number
        .map(Some)
        .ok_or_else(|| invalid(format!("\"priority\" must be a whole number from {} to {}", i32::MIN, i32::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(body: &str) -> String {
        JobRequest::parse(body.as_bytes(), 64).unwrap_err().to_string()
    }

    #[test]
    fn reads_every_field_and_keeps_the_payload_as_it_is() {
        let body = r#" {"module":"m","job":"j","payload":{"b" : 1.0, "a":[2]},"max_attempts":3,"backoff_ms":10,
            "timeout_ms":20,"run_at":30,"priority":-4,"unique_key":"k","other":1,"concurrency_key":"c","concurrency_limit":2,
            "depends_on":["0197A1B2-0000-7000-8000-000000000000"],
            "files":{"in":"sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}} "#;
        let abc = BlobId::parse("sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        let expected = JobRequest {
            module: Some("m".into()),
            job: "j".into(),
            payload: r#"{"b" : 1.0, "a":[2]}"#.into(),
            max_attempts: Some(3),
            backoff_ms: Some(10),
            timeout_ms: Some(20),
            run_at_ms: Some(30),
            priority: Some(-4),
            unique_key: Some("k".into()),
            concurrency_key: Some("c".into()),
            concurrency_limit: Some(2),
            depends_on: vec!["0197a1b2-0000-7000-8000-000000000000".into()],
            files: vec![("in".into(), abc.unwrap())],
        };
        assert_eq!(JobRequest::parse(body.as_bytes(), 64).unwrap(), expected);
        let least = JobRequest::parse(br#"{"job":"j","module":null}"#, 64).unwrap();
        assert_eq!((least.payload.as_str(), least.module, least.max_attempts), ("{}", None, None));
        assert_eq!(JobRequest::parse(br#"{"job":"j","payload":null}"#, 64).unwrap().payload, "{}");
    }

    #[test]
    fn says_what_is_wrong_and_where() {
        assert!(refusal("{\"job\":\n }").contains("line 2"));
        assert!(refusal("").contains("not JSON"));
        assert!(refusal("[]").contains("not an array"));
        assert!(refusal("{}").contains("\"job\" is missing"));
        assert!(refusal(r#"{"job":7}"#).contains("\"job\" must be a string, not a number"));
        assert!(refusal(r#"{"job":""}"#).contains("empty"));
        assert!(refusal(r#"{"job":"j","module":[]}"#).contains("\"module\""));
        assert!(refusal(r#"{"job":"j","concurrency_limit":2}"#).contains("which is missing"));
        assert!(refusal(r#"{"job":"j","concurrency_key":"k","concurrency_limit":0}"#).contains("from 1 to 1000"));
        assert!(refusal(r#"{"job":"j","concurrency_key":""}"#).contains("1 to 256 bytes"));
        for bad in ["1", "\"x\"", "[1]", "[\"x\"]", "{}"] {
            assert!(refusal(&format!(r#"{{"job":"j","depends_on":{bad}}}"#)).contains("at most 64 UUIDs"), "{bad}");
        }
        assert!(refusal(r#"{"job":"j","max_attempts":0}"#).contains("from 1"));
        for field in ["max_attempts", "backoff_ms", "timeout_ms", "run_at", "priority"] {
            for bad in ["\"1\"", "1.5", "{}", "99999999999999999999"] {
                assert!(
                    refusal(&format!(r#"{{"job":"j","{field}":{bad}}}"#)).contains(field) || bad.len() > 9,
                    "{field} {bad}"
                );
            }
        }
        for field in ["max_attempts", "backoff_ms", "timeout_ms", "run_at"] {
            assert!(refusal(&format!(r#"{{"job":"j","{field}":-1}}"#)).contains(field));
        }
        for field in ["job", "module", "payload", "priority", "unique_key", "max_attempts", "run_at"] {
            let twice = refusal(&format!(r#"{{"job":"j","{field}":null,"{field}":"k"}}"#));
            assert!(twice.contains("duplicate field"), "{twice}");
        }
        for bad in ["[]", r#"{"in":1}"#, r#"{"in":"sha256:12"}"#, r#"{"../in":"sha256:00"}"#, r#"{"":"sha256:00"}"#] {
            assert!(refusal(&format!(r#"{{"job":"j","files":{bad}}}"#)).contains("\"files\""), "{bad}");
        }
        let large = format!(r#"{{"job":"j","payload":"{}"}}"#, "x".repeat(63));
        assert!(refusal(&large).contains("65 bytes; the limit is 64"));
        assert!(JobRequest::parse(b"{\"job\":\"\xff\"}", 64).unwrap_err().to_string().contains("byte 8"));
    }
}
