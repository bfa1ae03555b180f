//! Answers that several paths of jobs share, and the checks that their queries share.

use super::query::{check_parameters, parameter};
use crate::jobs::store::StoreError;
use crate::proto::http1::RequestView;
use crate::server_response::ServerAnswer;
use serde_json::json;

pub(super) fn error(status: u16, text: &str) -> ServerAnswer {
    ServerAnswer::json(status, json!({ "error": text }).to_string())
}

pub(super) fn not_allowed(allow: &'static str) -> ServerAnswer {
    error(405, &format!("this path answers {allow}")).with("Allow", allow)
}

pub(super) fn no_such_job() -> ServerAnswer {
    error(404, "there is no such job")
}

/// Maps an error of the store to its answer; no other place maps these errors to an HTTP status.
pub(super) fn store_error(cause: &StoreError) -> ServerAnswer {
    match cause {
        StoreError::Full { .. } | StoreError::Unavailable { .. } | StoreError::Closed => {
            error(503, &cause.to_string()).with("Retry-After", "1")
        }
        // Without `Retry-After`: a client that just repeats its request may have two jobs.
        StoreError::InDoubt { .. } => error(503, &cause.to_string()),
        StoreError::Refused { .. } | StoreError::Read { .. } => error(500, &cause.to_string()),
    }
}

/// Checks that the query of a list has only parameters in `known`.
///
/// # Errors
/// The answer to send instead.
pub(super) fn only(view: &RequestView<'_>, known: &[&str]) -> Result<(), ServerAnswer> {
    check_parameters(view, known).map_err(|text| error(400, &text))
}

/// The module to which a list is limited.
pub(super) fn module_of(view: &RequestView<'_>) -> Result<Option<String>, ServerAnswer> {
    only(view, &["module"])?;
    Ok(parameter(view, "module").filter(|module| !module.is_empty()))
}
