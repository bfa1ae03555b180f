//! The strength of the sandbox on this machine, and the strength that the operator requires.

use super::namespaces::probe;
use super::{SandboxError, missing};
use std::sync::OnceLock;

/// The strength of the sandbox around foreign code. Each level includes the levels before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// A process, a user without rights, limits.
    Basic,
    /// Also Landlock and seccomp.
    Landlock,
    /// Also namespaces.
    Namespaces,
}

/// The reason why there are no namespaces. Determined once, by creating them in a process that ends.
static NO_NAMESPACES: OnceLock<Option<String>> = OnceLock::new();

fn no_namespaces() -> Option<&'static str> {
    NO_NAMESPACES.get_or_init(probe).as_deref()
}

/// Whether this process can give its children namespaces of their own.
#[must_use]
pub fn has_namespaces() -> bool {
    no_namespaces().is_none()
}

/// Logs at the server's start what the sandbox lacks, or fails if it is weaker than `required`.
///
/// # Errors
/// [`SandboxError::TooWeak`]: the sandbox is weaker than `required`.
pub fn check(required: Level) -> Result<(), SandboxError> {
    let layers = missing().join(" and no ");
    if !layers.is_empty() {
        if required >= Level::Landlock {
            let instead = "use a kernel with both (Linux 5.13 or later), or start without --production and with \
                           --require-sandbox basic";
            return Err(SandboxError::TooWeak(format!("this kernel has no {layers}"), instead));
        }
        tracing::warn!("this kernel has no {layers}: only their user and limits confine the compiler and modules");
    }
    match no_namespaces() {
        Some(why) if required >= Level::Namespaces => {
            let instead = "start the server as root with CAP_SYS_ADMIN or where user namespaces are allowed, or with \
                           --require-sandbox landlock";
            Err(SandboxError::TooWeak(format!("modules can't have namespaces of their own ({why})"), instead))
        }
        Some(why) => {
            tracing::info!("modules have no namespaces of their own ({why}): landlock and seccomp confine them");
            Ok(())
        }
        None => Ok(()),
    }
}
