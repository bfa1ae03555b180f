//! How strong the sandbox is on this machine, and how strong the operator wants it.

use super::namespaces::probe;
use super::{SandboxError, missing};
use std::sync::OnceLock;

/// How much stands between code of others and the machine. Each level has all of those before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// A process, a user without rights, limits.
    Basic,
    /// Landlock and seccomp besides.
    Landlock,
    /// Namespaces besides.
    Namespaces,
}

/// Why there are no namespaces; found out once, by making them in a process that ends.
static NO_NAMESPACES: OnceLock<Option<String>> = OnceLock::new();

fn no_namespaces() -> Option<&'static str> {
    NO_NAMESPACES.get_or_init(probe).as_deref()
}

/// Whether this process can give its children namespaces of their own.
#[must_use]
pub fn has_namespaces() -> bool {
    no_namespaces().is_none()
}

/// Says at the start of the server what is missing of the sandbox, or refuses to go on below `required`.
///
/// # Errors
/// [`SandboxError::TooWeak`].
pub fn check(required: Level) -> Result<(), SandboxError> {
    let layers = missing().join(" and no ");
    if !layers.is_empty() {
        if required >= Level::Landlock {
            let instead = "use a kernel with both (Linux 5.13 or later), or start without --production and with \
                           --require-sandbox basic";
            return Err(SandboxError::TooWeak(format!("this kernel has no {layers}"), instead));
        }
        tracing::warn!(
            "this kernel has no {layers}: the compiler and modules are confined by their user and limits only"
        );
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
