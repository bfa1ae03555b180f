//! Parameters of queries on the paths of jobs: the known parameters, and their values in a request.

use crate::proto::form;
use crate::proto::http1::RequestView;

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
