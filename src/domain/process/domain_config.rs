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
use crate::jobs::store::Tables;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The configuration of a domain.
#[derive(Debug, Clone)]
pub struct DomainConfig {
    /// The identity of the domain.
    pub identity: Arc<Identity>,
    /// Core of each shard; `None` where a shard is not pinned.
    pub cores: Vec<Option<usize>>,
    /// Cores of the executor pool; empty for all.
    pub free_cores: Vec<usize>,
    /// The number of executors that always exist.
    pub threads_min: usize,
    /// Limit on executors.
    pub threads_max: usize,
    /// The modules' database; if each domain has its own, that of the default domain.
    pub database: PathBuf,
    /// The directory of the other domains' databases, each in a directory with the domain's name; `None`: all share
    /// `database`.
    pub domain_data: Option<PathBuf>,
    /// The directory of the shared objects to load, which lie in a directory with the domain's name.
    pub run_dir: PathBuf,
    /// The tables of jobs, for modules to read.
    pub job_tables: Arc<Tables>,
    /// The directory in which each living process has a record, for [`end_orphans`](super::end_orphans).
    pub records: PathBuf,
    /// Time limit of handlers whose route sets none, in milliseconds.
    pub handler_timeout_ms: u64,
    /// Budgets of the memory for large bodies.
    pub bodies: Budgets,
    /// The settings of compression.
    pub codings: CodingSettings,
    /// The rights of the process.
    pub policy: Policy,
    /// The users of the domains other than the default one; each of them runs as a user of its own.
    pub users: Option<RangeInclusive<u32>>,
    /// Finds the libraries of sanitizers, for domains of modules with a sanitizer.
    pub sanitizers: sanitized::Libraries,
    /// Libraries that the process preloads: those of its sanitizers.
    pub preload: Vec<PathBuf>,
    /// The directory for the modules' temporary files, also in the environment as `TMPDIR`.
    pub scratch: PathBuf,
    /// Limit, in bytes a second, on the output; more is dropped.
    pub output_bytes_max: usize,
    /// Whether modules can read the jobs of other domains' modules by SQL.
    pub reads_all_jobs: bool,
    /// The permitted destinations, if the policy makes the server connect.
    pub connects: Arc<Connects>,
    /// Limits on resources beside memory.
    pub allowance: Allowance,
    /// The filter of the log (`CWEB_LOG`), if it differs from the environment's.
    pub log: Option<String>,
    /// Limits and settings of requests.
    pub requests: RequestRules,
    /// Limit, in bytes, on a message of the process over the control connection: see
    /// [`message_bytes_max`](super::message_bytes_max).
    pub message_bytes_max: usize,
    /// The directory of core files, if they are wanted.
    pub core_files: Option<CoreFiles>,
    /// The crashes that put a module into quarantine.
    pub crash_limit: CrashLimit,
    /// Limit on a run of a constructor, `onload` or `unload`.
    pub hook_timeout: Duration,
    /// Growth of the resident memory since the start of the process, in bytes, at which the process is replaced; 0: no
    /// limit.
    pub rss_recycle_bytes: u64,
    /// Limits the used memory of each process, beside the policy's limit on its address space.
    pub cgroups: Option<Arc<Cgroups>>,
}

/// Limits on a domain's use of resources.
#[derive(Debug, Clone, Copy)]
pub struct Allowance {
    /// Limit on the threads that its modules start: beyond it, `pthread_create(3)` fails.
    pub module_threads_max: usize,
    /// Limit on all threads of its process, as the kernel counts them; a process with more is ended.
    pub threads_max: usize,
    /// Limit on the concurrent calls in processes of their own.
    pub killable_calls_max: usize,
    /// Limit, in bytes, on its database and its scratch directory together; beyond it, writes fail. 0: no limit.
    pub disk_bytes_max: u64,
    /// Limit, in bytes, on the memory of all domains together; beyond it, the largest process is ended. 0: no limit.
    pub memory_bytes_max: u64,
}
