//! Names in paths, and parameters of queries: which there are, and what a request gives.

use crate::proto::form;
use crate::proto::http1::RequestView;
use crate::server_response::ServerAnswer;

/// Longest name of a parameter that a refusal shows, in characters.
const SHOWN_MAX: usize = 64;

/// Parameters of `GET /jobs/events`, also as a stream.
pub const OF_FEED: [&str; 4] = ["module", "state", "cursor", "limit"];

/// The value of the parameter `wanted`; the first of a name counts.
pub(super) fn parameter(view: &RequestView<'_>, wanted: &str) -> Option<String> {
    let mut found = None;
    form::urlencoded(view.query().unwrap_or_default(), |name, value| {
        if name == wanted.as_bytes() && found.is_none() {
            found = Some(String::from_utf8_lossy(value).into_owned());
        }
    });
    found
}

/// Checks that a query has no parameters but those of `known`: a filter with a slip in its name would let everything through.
///
/// # Errors
/// A sentence for users: the first unknown parameter, and those that there are.
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

/// A module's name from a path segment.
pub(super) fn decoded(name: &[u8]) -> Result<String, ServerAnswer> {
    let mut decoded = Vec::new();
    // The name as a path segment: percent-decoded, `+` taken as it stands.
    let escaped: Vec<u8> = name.iter().flat_map(|&b| if b == b'+' { b"%2B".to_vec() } else { vec![b] }).collect();
    form::urlencoded(&[b"n=".as_slice(), &escaped].concat(), |_, value| decoded = value.to_vec());
    String::from_utf8(decoded).map_err(|_| ServerAnswer::text(400, "the module's name is not UTF-8\n"))
}
