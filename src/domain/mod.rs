//! Where module code executes.
//!
//! Everything above this room reaches C code only through [`Host`] and [`Instance`]; whether a module
//! lives in this process or in another is decided here.

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
pub mod ring;
mod running;
pub mod sandbox;
pub mod sanitized;
mod sched;
mod serial;
pub mod stream;
mod view;

pub use compress::{CodingSettings, set_codings};
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

/// Why module code did not return normally.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct Fault {
    /// For people: `"SIGSEGV at 0x0 (…)"`, `"called exit(3)"`, `"did not return within 5000 ms"`.
    pub what: String,
}

/// Why a shared object could not become a running module.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The dynamic loader refused it: an undefined symbol, not an ELF file. Holds the loader's words.
    #[error("the loader refused the module: {0}")]
    Loader(String),
    /// It has no `config` symbol, or `config` can't be a `module_t`.
    #[error("{0}")]
    Manifest(String),
    /// Its constructors faulted or took too long.
    #[error("a constructor of the module failed: {0}")]
    Constructor(Fault),
    /// The host itself could not do it (no memory, no file descriptors, no process).
    #[error("the module could not be loaded: {0}")]
    Host(String),
    /// The process that it is to be loaded into has used something up.
    #[error(
        "the module can't be loaded: modules have used up {what} in this process: {text}; restart it, and find the module \
         that keeps taking more"
    )]
    Exhausted {
        /// What is used up.
        what: String,
        /// The dynamic loader's words.
        text: String,
    },
    /// There can be no domain of that name here; why.
    #[error("{0}")]
    Domain(String),
    /// One more domain would be too many.
    #[error("there are {max} domains already, the limit of --domains-max; deploy into one of them, or empty one")]
    DomainsMax {
        /// The limit.
        max: usize,
    },
}

/// The domain that is always there, where modules run that were not given another.
pub const DEFAULT_DOMAIN: &str = "default";

/// Longest name of a domain.
const DOMAIN_NAME_BYTES_MAX: usize = 64;

/// Checks that `name` can be a domain's: 1 to 64 of `A-Z a-z 0-9 . _ -`, and no name that means a directory, since a domain has
/// a directory of its name.
///
/// # Errors
/// [`LoadError::Domain`].
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
    /// Reads the manifest of the shared object at `path` in a process of its own, so that a constructor that
    /// crashes, exits or hangs (longer than `limit`) harms nobody. `preload` are the libraries of its sanitizers.
    ///
    /// # Errors
    /// Each variant of [`LoadError`].
    fn inspect(&self, path: &Path, preload: &[PathBuf], limit: Duration) -> Result<Manifest, LoadError>;

    /// Prepares the inspection of the file `name`, which is still to be made in `dir`.
    ///
    /// # Errors
    /// [`LoadError::Host`].
    fn begin_inspection(&self, dir: &Path, name: &str, preload: &[PathBuf]) -> Result<Inspection, LoadError> {
        Inspection::begin(dir, name, preload)
    }

    /// Loads the shared object at `path` for execution in the domain `domain`. Every call needs a file (inode) of its
    /// own: the dynamic loader gives two loads of one inode the same image, and so the same static variables.
    ///
    /// # Errors
    /// Each variant of [`LoadError`].
    fn load(&self, path: &Path, domain: &str) -> Result<Arc<dyn Instance>, LoadError>;

    /// Whether a module can be loaded into the domain `domain`, as far as the name tells.
    ///
    /// # Errors
    /// [`LoadError::Domain`].
    fn check_domain(&self, domain: &str) -> Result<(), LoadError>;

    /// The last crash of the module `module` in the domain `domain`, if it is known.
    fn last_crash(&self, _domain: &str, _module: &str) -> Option<process::CrashReport> {
        None
    }

    /// The last reports of sanitizers in the domain `domain`, the oldest first.
    fn sanitizer_reports(&self, _domain: &str) -> Vec<String> {
        Vec::new()
    }

    /// The domains that there are now; none where modules run in this process.
    fn domains(&self) -> Vec<DomainView> {
        Vec::new()
    }
}

/// A loaded module. Dropping the last reference closes its shared object; `unload` is not called by that.
pub trait Instance: Send + Sync + Any {
    /// What the module declares.
    fn manifest(&self) -> &Manifest;

    /// Has the module's code find `settings`, and no others, from now on; also where it is loaded again.
    ///
    /// # Errors
    /// The process that it lives in could not be told; one that follows will be.
    fn configure(&self, settings: &Settings) -> Result<(), Fault>;

    /// Runs the module's `onload` hook, if it has one, on the calling thread or while that waits.
    ///
    /// # Errors
    /// The hook faulted, or took too long where there is a limit.
    fn onload(&self) -> Result<(), Fault>;

    /// Runs the module's `on_setting` callback for `key`, if it has one, on the calling thread or while that waits. The
    /// new value was handed over by [`Instance::configure`].
    ///
    /// # Errors
    /// The callback faulted, or took too long where there is a limit.
    fn setting_changed(&self, key: &str) -> Result<(), Fault>;

    /// Runs the module's `unload` hook, if it has one, on the calling thread or while that waits.
    ///
    /// # Errors
    /// The hook faulted, or took too long where there is a limit.
    fn unload(&self) -> Result<(), Fault>;

    /// Runs job number `job` of the manifest on the calling thread and returns what its run function returned.
    ///
    /// # Errors
    /// The run faulted.
    fn run_job(&self, job: usize, uuid: &str, payload: &str, calls: &dyn JobCalls) -> Result<i32, Fault>;

    /// Calls the cancel callback of job number `job`, if it has one, on the calling thread.
    ///
    /// # Errors
    /// The callback faulted.
    fn cancel_job(&self, job: usize, uuid: &str) -> Result<(), Fault>;

    /// Says which version of its module this is, for reports.
    fn set_version(&self, _number: u64) {}

    /// Names this very load in the calls its code makes ([`ModuleToken::id`](crate::abi::module_token::ModuleToken)).
    fn id(&self) -> u64;

    /// Why the module is not run any more, for people, if it is in quarantine: it crashed its process too often. What is
    /// called in it fails with this.
    fn quarantine(&self) -> Option<String> {
        None
    }

    /// Lifts a quarantine and runs the module again, `onload` included; for a module that is in none, asks for a
    /// graceful replacement of the process it runs in.
    ///
    /// # Errors
    /// It could not be loaded again, or it has no process of its own to be replaced.
    fn restart(&self) -> Result<(), Fault> {
        Err(Fault { what: "it runs in the server's own process, which is not restarted".to_owned() })
    }

    /// The host's own data of the module: for the executors and the shards' calls of the same host.
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
