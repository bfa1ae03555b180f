//! The settings of a domain.

use super::arena::Budgets;
use super::cgroup::Cgroups;
use super::connects::Connects;
use super::core_files::CoreFiles;
use super::identity::Identity;
use super::quarantine::CrashLimit;
use crate::abi::request::RequestRules;
use crate::domain::CodingSettings;
use crate::domain::sandbox::Policy;
use crate::domain::sanitized;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// What a domain needs to know.
#[derive(Debug, Clone)]
pub struct DomainConfig {
    /// Which domain it is.
    pub identity: Arc<Identity>,
    /// Core of each shard; `None` where a shard is not pinned.
    pub cores: Vec<Option<usize>>,
    /// Cores of the executor pool; empty for all.
    pub free_cores: Vec<usize>,
    /// Executors that are always there.
    pub threads_min: usize,
    /// Executors at most.
    pub threads_max: usize,
    /// The modules' database; that of the default domain, if others have their own.
    pub database: PathBuf,
    /// Where the other domains have theirs, each in a directory by its name; `None`: all share `database`.
    pub domain_data: Option<PathBuf>,
    /// Where the shared objects to load lie, in a directory by the domain's name.
    pub run_dir: PathBuf,
    /// The database of jobs, for modules to read.
    pub jobs_database: PathBuf,
    /// Where each process has a record while it lives, for [`end_orphans`](super::end_orphans).
    pub records: PathBuf,
    /// How long handlers may run whose route says nothing, in milliseconds.
    pub handler_timeout_ms: u64,
    /// Budgets of the memory for large bodies.
    pub bodies: Budgets,
    /// What is compressed and expanded there.
    pub codings: CodingSettings,
    /// What the process may do.
    pub policy: Policy,
    /// Users of the domains but the default one, each of which runs as one of its own.
    pub users: Option<RangeInclusive<u32>>,
    /// Names the libraries of sanitizers, for domains of modules that are compiled with one.
    pub sanitizers: sanitized::Libraries,
    /// Libraries that its process has from its start: those of its sanitizers.
    pub preload: Vec<PathBuf>,
    /// Where modules may keep files of a moment; also in the environment as `TMPDIR`.
    pub scratch: PathBuf,
    /// Limit, in bytes a second, on what is printed; more is dropped.
    pub output_bytes_max: usize,
    /// Whether modules read by SQL the jobs of other domains' modules too.
    pub reads_all_jobs: bool,
    /// What it may connect to, where its policy has that the server connects.
    pub connects: Arc<Connects>,
    /// What it may use beside memory.
    pub allowance: Allowance,
    /// The filter of the log (`CWEB_LOG`), if it is not the environment's.
    pub log: Option<String>,
    /// Limits and settings of requests.
    pub requests: RequestRules,
    /// Longest message of the process over the control connection: see [`message_bytes_max`](super::message_bytes_max).
    pub message_bytes_max: usize,
    /// Where core files go, if there are to be any.
    pub core_files: Option<CoreFiles>,
    /// When a module is left out.
    pub crash_limit: CrashLimit,
    /// Longest run of a constructor, `onload` or `unload`.
    pub hook_timeout: Duration,
    /// Resident bytes above those at its start with which a process is replaced; 0: none are too many.
    pub rss_recycle_bytes: u64,
    /// What limits the memory that each process uses, beside the policy's limit of its address space.
    pub cgroups: Option<Arc<Cgroups>>,
}

/// What a domain may use.
#[derive(Debug, Clone, Copy)]
pub struct Allowance {
    /// Threads that its modules start: they can't start more by `pthread_create(3)`.
    pub module_threads_max: usize,
    /// Threads of its process, which the kernel counts however they were started; one with more is ended.
    pub threads_max: usize,
    /// Calls at once that have processes of their own.
    pub killable_calls_max: usize,
    /// Bytes of its database and its scratch directory; beyond, it writes no more. 0: no limit.
    pub disk_bytes_max: u64,
    /// Bytes of memory of all domains together; beyond, the largest process is ended. 0: no limit.
    pub memory_bytes_max: u64,
}
