//! Why a module is refused.

/// The reason why a module can't be served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub(in crate::module) String);

/// The refusal with this text.
pub(super) fn refuse(text: impl Into<String>) -> Result<(), Refusal> {
    Err(Refusal(text.into()))
}
