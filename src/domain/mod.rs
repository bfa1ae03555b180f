//! The execution of module code.
//!
//! All code above this layer reaches C code only through [`Host`] and [`Instance`]; this layer decides whether a module runs
//! in this process or in another.

mod arguments;
pub mod call;
mod compress;
pub mod elf;
pub mod executor;
mod fault;
mod files;
pub mod in_process;
pub mod inbox;
pub mod inspect;
pub mod lease;
pub mod local_call;
mod missing;
pub mod module_message;
mod output;
pub mod placed;
pub mod process;
pub mod resident;
pub mod ring;
mod running;
pub mod sandbox;
pub mod sanitized;
mod sched;
mod serial;
pub mod stream;
mod view;

pub use compress::{CodingSettings, set_codings};
pub use fault::Fault;
use fault::NoAnswer;
pub use inspect::{Inspected, Inspection};
pub use view::{DomainView, MemoryLimit};

use crate::abi::manifest::Manifest;
use crate::abi::settings::Settings;
use crate::jobs::code::JobCalls;
use std::any::Any;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The reason why a shared object could not be loaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The dynamic loader refused the object, for example because of an undefined symbol; the value is the loader's message.
    #[error("the loader refused the module: {0}")]
    Loader(String),
    /// The object has no `config` symbol, or `config` can't be a `module_t`.
    #[error("{0}")]
    Manifest(String),
    /// A constructor faulted or took too long.
    #[error("a constructor of the module failed: {0}")]
    Constructor(Fault),
    /// The host could not load the object (no memory, no descriptors, no process).
    #[error("the module could not be loaded: {0}")]
    Host(String),
    /// The process that should load the module has used up a resource.
    #[error(
        "the module can't be loaded: modules have used up {what} in this process: {text}; restart the process, and find the module \
         that keeps taking more"
    )]
    Exhausted {
        /// The resource.
        what: String,
        /// The dynamic loader's message.
        text: String,
    },
    /// There can be no domain of this name here; the value is the reason.
    #[error("{0}")]
    Domain(String),
    /// The limit on domains is reached.
    #[error("there are {max} domains already, the limit of --domains-max; deploy into one of them, or empty one")]
    DomainsMax {
        /// The limit.
        max: usize,
    },
}

/// The domain that always exists, for modules that were not given another.
pub const DEFAULT_DOMAIN: &str = "default";

/// Limit, in bytes, on the name of a domain.
const DOMAIN_NAME_BYTES_MAX: usize = 64;

/// Checks that `name` can be a domain's: 1 to 64 of `A-Z a-z 0-9 . _ -`. `.` and `..` are refused, since a domain has a
/// directory with its name.
///
/// # Errors
/// [`LoadError::Domain`]: the name is not valid.
pub fn check_domain_name(name: &str) -> Result<(), LoadError> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let fits = (1..=DOMAIN_NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_plain);
    if fits && name != "." && name != ".." {
        return Ok(());
    }
    Err(LoadError::Domain(format!(
        "a domain's name is 1 to {DOMAIN_NAME_BYTES_MAX} of A-Z a-z 0-9 . _ - (and not . or ..), not \"{}\"",
        name.escape_debug()
    )))
}

/// Loads shared objects for execution.
pub trait Host: Send + Sync {
    /// Reads the manifest of the shared object at `path` in a process of its own, so that a constructor that crashes, exits
    /// or runs longer than `limit` does no harm. `preload` are the libraries of its sanitizers.
    ///
    /// # Errors
    /// Each variant of [`LoadError`].
    fn inspect(&self, path: &Path, preload: &[PathBuf], limit: Duration) -> Result<Manifest, LoadError>;

    /// Prepares the inspection of the file `name`, which will be created in `dir`.
    ///
    /// # Errors
    /// [`LoadError::Host`].
    fn begin_inspection(&self, dir: &Path, name: &str, preload: &[PathBuf]) -> Result<Inspection, LoadError> {
        Inspection::begin(dir, name, preload)
    }

    /// Loads the shared object at `path` for execution in the domain `domain`. Each call needs a file (inode) of its
    /// own, because the dynamic loader gives two loads of one inode the same image, and so the same static variables.
    ///
    /// # Errors
    /// Each variant of [`LoadError`].
    fn load(&self, path: &Path, domain: &str) -> Result<Arc<dyn Instance>, LoadError>;

    /// Checks whether a domain may have the name `domain` here.
    ///
    /// # Errors
    /// [`LoadError::Domain`].
    fn check_domain(&self, domain: &str) -> Result<(), LoadError>;

    /// The last known crash of the module `module` in the domain `domain`.
    fn last_crash(&self, _domain: &str, _module: &str) -> Option<process::CrashReport> {
        None
    }

    /// The last sanitizer reports of the domain `domain`, oldest first.
    fn sanitizer_reports(&self, _domain: &str) -> Vec<String> {
        Vec::new()
    }

    /// The present domains; none where modules run in this process.
    fn domains(&self) -> Vec<DomainView> {
        Vec::new()
    }
}

/// A loaded module. Dropping the last reference closes its shared object, without calling `unload`.
pub trait Instance: Send + Sync + Any {
    /// The module's manifest.
    fn manifest(&self) -> &Manifest;

    /// Gives the module's code exactly these `settings`, from now on and after each reload.
    ///
    /// # Errors
    /// The module's process did not get the settings; its successor will.
    fn configure(&self, settings: &Settings) -> Result<(), Fault>;

    /// Runs the module's `onload` hook, if it has one, and waits for its end.
    ///
    /// # Errors
    /// The hook faulted, or took too long where there is a limit.
    fn onload(&self) -> Result<(), Fault>;

    /// Runs the module's `on_setting` callback for `key`, if it has one, and waits for its end. [`Instance::configure`] has
    /// passed the new value before.
    ///
    /// # Errors
    /// The callback faulted, or took too long where there is a limit.
    fn setting_changed(&self, key: &str) -> Result<(), Fault>;

    /// Runs the module's `unload` hook, if it has one, and waits for its end.
    ///
    /// # Errors
    /// The hook faulted, or took too long where there is a limit.
    fn unload(&self) -> Result<(), Fault>;

    /// Runs job number `job` of the manifest on the calling thread and returns the value of its run function.
    ///
    /// # Errors
    /// The run faulted.
    fn run_job(&self, job: usize, uuid: &str, payload: &str, calls: &dyn JobCalls) -> Result<i32, Fault>;

    /// Calls the cancel callback of job number `job`, if it has one, on the calling thread.
    ///
    /// # Errors
    /// The callback faulted.
    fn cancel_job(&self, job: usize, uuid: &str) -> Result<(), Fault>;

    /// Sets the number of the module's version, for reports.
    fn set_version(&self, _number: u64) {}

    /// The number of this load, which the module's code passes in calls
    /// ([`ModuleToken::id`](crate::abi::module_token::ModuleToken)).
    fn id(&self) -> u64;

    /// The reason of the module's quarantine, for people, if the module is in quarantine: it crashed its process too often.
    /// Calls of its code fail with this reason.
    fn quarantine(&self) -> Option<String> {
        None
    }

    /// Ends a quarantine and runs the module again, including `onload`. For a module without a quarantine, requests a
    /// graceful replacement of its process.
    ///
    /// # Errors
    /// The module could not be loaded again, or has no process of its own.
    fn restart(&self) -> Result<(), Fault> {
        Err(Fault { what: "it runs in the server's own process, which is not restarted".to_owned() })
    }

    /// The host's own data of the module, for the executors and the shards' calls of the same host.
    fn as_any(&self) -> &dyn Any;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_domains_are_plain() {
        let long = "x".repeat(64);
        for name in ["a", "default", "A-z_0.9", "...", ".a", &long] {
            assert_eq!(check_domain_name(name), Ok(()), "{name}");
        }
        for name in ["", ".", "..", "a/b", "a b", "\u{e4}", "a\n", &format!("{long}x")] {
            assert!(check_domain_name(name).is_err(), "{name}");
        }
    }
}
