//! Compares the parsing of clients' and modules' JSON with serde_json.

use crate::jobs::{JobRequest, RequestError, json_text};
use serde_json::Value;

const PAYLOAD_BYTES_MAX: usize = 1000;

/// The input is the body of `POST /jobs`, and also the data of an event.
pub fn job_json(data: &[u8]) {
    submission(data);
    if let Ok(text) = std::str::from_utf8(data) {
        line_of(text);
    }
}

fn submission(data: &[u8]) {
    let request = match JobRequest::parse(data, PAYLOAD_BYTES_MAX) {
        Ok(request) => request,
        Err(RequestError::PayloadTooLarge { bytes, limit }) => {
            return assert!(bytes > limit && limit == PAYLOAD_BYTES_MAX && bytes <= data.len());
        }
        Err(RequestError::Invalid(text)) => return assert!(!text.is_empty()),
    };
    let text = std::str::from_utf8(data).expect("only UTF-8 is accepted");
    let value: Value = match serde_json::from_str(text) {
        Ok(value) => value,
        // simd-json stops at 1024 levels, serde_json's own values at 128.
        Err(error) if error.to_string().contains("recursion limit") => return,
        Err(error) => panic!("only JSON is accepted: {error}"),
    };
    let object = value.as_object().expect("only an object is accepted");
    let field = |name: &str| object.get(name).filter(|value| !value.is_null());
    // serde_json treats -0 as a float.
    let whole = |name: &str| field(name).map(|value| value.as_i64().or((value.as_f64() == Some(0.0)).then_some(0)));
    assert_eq!(field("job").and_then(Value::as_str), Some(request.job.as_str()));
    assert!(!request.job.is_empty());
    assert_eq!(field("module").and_then(Value::as_str), request.module.as_deref());
    assert_eq!(field("unique_key").and_then(Value::as_str), request.unique_key.as_deref());
    assert!(request.unique_key.as_ref().is_none_or(|key| (1..=256).contains(&key.len())));
    assert_eq!(field("max_attempts").and_then(Value::as_u64), request.max_attempts.map(u64::from));
    assert!(request.max_attempts.is_none_or(|attempts| (1..=1000).contains(&attempts)));
    assert_eq!(field("backoff_ms").and_then(Value::as_u64), request.backoff_ms);
    assert_eq!(field("timeout_ms").and_then(Value::as_u64), request.timeout_ms);
    assert_eq!(field("run_at").and_then(Value::as_i64), request.run_at_ms);
    assert_eq!(whole("priority"), request.priority.map(|priority| Some(i64::from(priority))));
    assert!(request.payload.len() <= PAYLOAD_BYTES_MAX);
    match field("payload") {
        None => assert_eq!(request.payload, "{}"),
        Some(payload) => {
            assert!(text.contains(&request.payload), "the payload is passed on as it was sent");
            assert_eq!(serde_json::from_str::<Value>(&request.payload).ok().as_ref(), Some(payload));
        }
    }
}

/// An event's data must be one line of JSON: the sent text, or that text as a string.
fn line_of(text: &str) {
    let line = json_text(text);
    assert!(!line.contains(['\n', '\r']));
    // serde_json stops at 128 levels, and at a number that exceeds an f64.
    let Ok(value) = serde_json::from_str::<Value>(&line) else {
        return assert!(serde_json::from_str::<Value>(text).is_err(), "{text:?} became {line:?}");
    };
    let plain = Value::from(text);
    if value != plain {
        assert_eq!(serde_json::from_str::<Value>(text).ok(), Some(value), "{text:?} became {line:?}");
    }
}
