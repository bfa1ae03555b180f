//! The ledger: who deployed which version of which module, into which domain, and when.
//!
//! The control plane decides about a publication and commits it here; only then the table of modules has it. A start of the
//! server loads what is published. Sources and compilations never enter: a publication names them by hash and key.
//!
//! | file | responsibility |
//! | --- | --- |
//! | `publication` | [`Ledger`]: the trait that the control plane knows |
//! | `files` | [`FileLedger`]: files in the directory of modules, the only implementation |
//! | `tests`, `memory` | what every implementation must do; an implementation in memory, for the tests |

mod files;
#[cfg(test)]
mod memory;
mod publication;
#[cfg(test)]
mod tests;

pub(super) use files::FileLedger;
pub(super) use publication::{Draft, Ledger, Publication};
