//! The ledger: the published modules, each with its live version, its domain, its deployer and its time, and the kept versions.
//!
//! The control plane decides about a publication and commits it here; only then the table of modules has it. A start of the
//! server loads the published modules. Sources and compilations never enter: a publication names them by hash and key.
//!
//! | file | responsibility |
//! | --- | --- |
//! | `publication` | [`Ledger`]: the trait that the control plane knows |
//! | `files` | [`FileLedger`]: files in the directory of modules, the only implementation |
//! | `tests`, `memory` | the contract of every implementation; an implementation in memory, for the tests |

mod files;
#[cfg(test)]
mod memory;
mod publication;
#[cfg(test)]
mod tests;

pub(super) use files::FileLedger;
pub(super) use publication::{Draft, Ledger, Publication};
