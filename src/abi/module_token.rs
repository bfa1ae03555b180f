//! The token by which a module names itself in its calls of the server.

use super::settings::Kept;
use std::sync::atomic::{AtomicU64, Ordering};

/// Names a module in calls of the table.
#[derive(Debug, Default)]
pub struct ModuleToken {
    /// The module's name.
    pub name: String,
    /// Distinguishes one load of a module from another.
    pub id: u64,
    /// The server's number for the module, if this process is a domain's; else 0.
    pub number: u64,
    /// The settings for `cweb_setting`.
    pub settings: Kept,
}

impl ModuleToken {
    pub(super) fn new(name: String) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self { name, id: NEXT.fetch_add(1, Ordering::Relaxed), number: 0, settings: Kept::default() }
    }
}
