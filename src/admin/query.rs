//! Names in paths, and parameters of queries: the known parameters, and their values in a request.

use crate::proto::form;
use crate::proto::http1::RequestView;
use crate::server_response::ServerAnswer;

/// Limit, in characters, on a parameter's name in a refusal.
const SHOWN_MAX: usize = 64;

/// Parameters of `GET /jobs/events`, with or without streaming.
pub const OF_FEED: [&str; 4] = ["module", "state", "cursor", "limit"];

/// The value of the parameter `wanted`; the first parameter of a name counts.
pub(super) fn parameter(view: &RequestView<'_>, wanted: &str) -> Option<String> {
    let mut found = None;
    form::urlencoded(view.query().unwrap_or_default(), |name, value| {
        if name == wanted.as_bytes() && found.is_none() {
            found = Some(String::from_utf8_lossy(value).into_owned());
        }
    });
    found
}

/// Checks that a query has only parameters in `known`: a filter with a misspelled name would otherwise match everything.
///
/// # Errors
/// A sentence for users: the first unknown parameter, and the known ones.
pub fn check_parameters(view: &RequestView<'_>, known: &[&str]) -> Result<(), String> {
    let mut unknown = None;
    form::urlencoded(view.query().unwrap_or_default(), |name, _| {
        if unknown.is_none() && !known.iter().any(|known| known.as_bytes() == name) {
            unknown = Some(String::from_utf8_lossy(name).chars().take(SHOWN_MAX).collect::<String>());
        }
    });
    let Some(name) = unknown else { return Ok(()) };
    Err(format!("there is no parameter \"{}\" here; there are: {}", name.escape_debug(), known.join(", ")))
}

/// Decodes a module's name from a path segment.
pub(super) fn decoded(name: &[u8]) -> Result<String, ServerAnswer> {
    let mut decoded = Vec::new();
    // A path segment is percent-decoded; `+` stays a plus.
    let escaped: Vec<u8> = name.iter().flat_map(|&b| if b == b'+' { b"%2B".to_vec() } else { vec![b] }).collect();
    form::urlencoded(&[b"n=".as_slice(), &escaped].concat(), |_, value| decoded = value.to_vec());
    String::from_utf8(decoded).map_err(|_| ServerAnswer::text(400, "the module's name is not UTF-8\n"))
}
