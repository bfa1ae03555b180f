//! The host of the modules: this process, or confined processes of their own.

use crate::abi::manifest::set_server_limits;
use crate::abi::request::{RequestRules, set_rules};
use crate::config::{Config, Isolation, ModuleDatabase, ModuleJobs, RequireSandbox};
use crate::domain::in_process::InProcess;
use crate::domain::process::{
    Allowance, Budgets, Cgroups, Connects, CoreFiles, CrashLimit, DomainConfig, DomainRegistry, Identity, end_orphans,
    message_bytes_max,
};
use crate::domain::sandbox::{self, Level, Policy, User};
use crate::domain::stream::StreamSizes;
use crate::domain::{self, CodingSettings, DEFAULT_DOMAIN};
use crate::jobs::store::{TableQuery, Tables};
use crate::machine;
use crate::net::{Reach, Waker};
use core_affinity::CoreId;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The host of the modules.
#[derive(Clone)]
pub(super) enum ModuleHost {
    /// Modules run in this process.
    Here(Arc<InProcess>),
    /// Modules run in processes of their own.
    Apart(Arc<DomainRegistry>),
}

/// Limit, in bytes, on the bodies that a shard receives; the same limit applies to bodies that wait, and to bodies in the
/// memory of a domain. The server's memory budget also limits these bodies.
pub(super) fn bodies_bytes_max(config: &Config) -> usize {
    config.limits.bodies_bytes_max.min(config.resources.memory_bytes_max / 2 / config.shards.max(1))
}

pub(super) fn start_host(config: &Config, tables: Tables, wakers: &[Arc<Waker>]) -> std::io::Result<ModuleHost> {
    let database = module_database(config)?;
    let codings = CodingSettings {
        answers: config.compress.clone(),
        body_bytes_max: config.limits.body_bytes_max,
        route_body_bytes_max: config.limits.route_body_bytes_max,
    };
    domain::set_codings(&codings);
    set_server_limits(config.timeouts.handler_timeout_ms, config.limits.body_bytes_max);
    let requests = request_rules(config);
    if config.isolation == Isolation::None {
        if config.projects.core_dir.is_some() {
            tracing::warn!("--core-dir has no effect with --isolation none: a signal in module code is caught there");
        }
        set_rules(&requests);
        // All modules share one domain here, so each of them sees all jobs.
        let rows = move |query: &TableQuery| tables.page(query, None).map_err(|error| error.to_string());
        return Ok(ModuleHost::Here(Arc::new(InProcess::start(&database, Some(Box::new(rows)))?)));
    }
    check_calls(config)?;
    let reach = reach(config)?;
    // Must come before any directory is given to the modules' user: the lock of the data directory proves that no
    // other server is running here.
    let records = config.data_dir.join(".domains");
    end_orphans(&records);
    let scratch = config.data_dir.join("scratch");
    let domain_data = config.data_dir.join("domain-data");
    for dir in [&scratch, &config.data_dir.join("static"), &config.module_dir.join(".run"), &domain_data] {
        // The sandbox resolves directories when it is created, so they must exist.
        std::fs::create_dir_all(dir)
            .map_err(|error| std::io::Error::new(error.kind(), format!("{}: {error}", dir.display())))?;
    }
    let user = domain_user(config, &scratch, &domain_data);
    warn_of_closed(config, user);
    give_users(config, user, [&scratch, &domain_data])?;
    let (cores, free_cores) = shard_cores(config.shards);
    let texts =
        [config.jobs.job_payload_bytes_max, config.jobs.job_event_bytes_max, config.job_data.checkpoint_bytes_max];
    let largest = texts.into_iter().fold(config.jobs.job_result_bytes_max, usize::max);
    let settings = DomainConfig {
        bodies: budgets(config),
        identity: Identity::first(DEFAULT_DOMAIN, config.shards),
        cores: cores.iter().map(|core| core.map(|core| core.id)).collect(),
        threads_min: if free_cores.is_empty() { config.shards } else { free_cores.len() },
        threads_max: config.modules.executors_max,
        handler_timeout_ms: config.timeouts.handler_timeout_ms,
        free_cores: free_cores.iter().map(|core| core.id).collect(),
        database,
        domain_data: (config.modules.module_database == ModuleDatabase::Domain).then_some(domain_data),
        run_dir: config.module_dir.join(".run"),
        job_tables: Arc::new(tables),
        records,
        codings,
        policy: domain_policy(config, user, &reach),
        users: config.projects.module_uids.map(|users| users.first..=users.last),
        connects: Arc::new(Connects::new(reach)),
        scratch,
        sanitizers: crate::module::instruments::address_libraries,
        preload: Vec::new(),
        allowance: allowance(config),
        output_bytes_max: config.modules.module_output_bytes_max,
        reads_all_jobs: config.modules.module_jobs == ModuleJobs::All,
        log: (config.silent && std::env::var_os("CWEB_LOG").is_none()).then(|| "warn".to_owned()),
        requests,
        message_bytes_max: message_bytes_max(largest),
        core_files: core_files(config),
        crash_limit: CrashLimit {
            crashes: config.modules.crash_limit,
            window: Duration::from_millis(config.modules.crash_window_ms),
        },
        hook_timeout: Duration::from_millis(config.timeouts.hook_timeout_ms),
        rss_recycle_bytes: config.modules.module_rss_recycle_bytes,
        cgroups: config.module_memory_bytes().and_then(|bytes| Cgroups::find(&config.data_dir, bytes)),
    };
    Ok(ModuleHost::Apart(Arc::new(DomainRegistry::start(settings, config.modules.domains_max, wakers.to_vec())?)))
}

/// The budgets of a domain's memory for large bodies.
fn budgets(config: &Config) -> Budgets {
    let bodies = bodies_bytes_max(config).max(config.limits.body_bytes_max).max(config.limits.route_body_bytes_max);
    Budgets {
        requests_bytes_max: bodies
            .max(config.websockets.ws_message_bytes_max.saturating_add(EVENTS_BYTES))
            .min(BUDGET_BYTES_MAX),
        answers_bytes_max: config
            .limits
            .module_answers_bytes_max
            .min(config.resources.memory_bytes_max / 2)
            .min(BUDGET_BYTES_MAX),
        streams: stream_sizes(config),
    }
}

/// The required strength of the sandbox.
pub(super) fn required_level(config: &Config) -> Level {
    match config.projects.require_sandbox {
        Some(RequireSandbox::Basic) => Level::Basic,
        Some(RequireSandbox::Landlock) => Level::Landlock,
        Some(RequireSandbox::Namespaces) => Level::Namespaces,
        None if config.production => Level::Landlock,
        None => Level::Basic,
    }
}

/// Warns of directories of `--allow-write` that modules can't write to.
fn warn_of_closed(config: &Config, user: Option<User>) {
    for dir in &config.allow_write {
        if let Some(why) = sandbox::not_writable(user, dir) {
            tracing::warn!(
                "--allow-write {}: modules can't write there: {why}; create the directory, and make their user its owner",
                dir.display()
            );
        }
    }
}

/// Lets the users of `--module-uids` enter the directories above `dirs`, or returns the reason why domains can't have users.
fn give_users(config: &Config, user: Option<User>, dirs: [&Path; 2]) -> std::io::Result<()> {
    let Some(users) = config.projects.module_uids else { return Ok(()) };
    if user.is_none() || !sandbox::are_mapped(users.first, users.last) {
        let text = "--module-uids: the server can't run domains as these users: it has to be root with CAP_CHOWN, CAP_SETUID and \
                    CAP_SETGID, in a user namespace that has them, and other users must be able to pass the directories above \
                    its data";
        return Err(std::io::Error::other(text));
    }
    for dir in dirs {
        std::os::unix::fs::chown(dir, Some(0), Some(0))?;
        std::fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o711))?;
    }
    Ok(())
}

/// Refuses `--allow-syscall` with a name that no system call has.
fn check_calls(config: &Config) -> std::io::Result<()> {
    if let [name, ..] = sandbox::unknown_calls(&config.projects.allow_syscall)[..] {
        let text = format!("--allow-syscall {name}: there is no system call of that name (syscalls(2) lists them)");
        return Err(std::io::Error::other(text));
    }
    Ok(())
}

/// The destinations to which modules may connect. A list is refused if no filter of system calls can enforce the list.
fn reach(config: &Config) -> std::io::Result<Reach> {
    let reach = Reach::read(config.allow_net.iter().map(String::as_str)).map_err(std::io::Error::other)?;
    if matches!(reach, Reach::Listed(_)) && sandbox::missing().contains(&"seccomp") {
        let text = "--allow-net with a list of destinations needs seccomp, which this kernel lacks: nothing would enforce the list";
        return Err(std::io::Error::other(text));
    }
    Ok(reach)
}

/// Limits and settings of requests.
fn request_rules(config: &Config) -> RequestRules {
    RequestRules {
        memory_bytes_max: config.limits.request_memory_bytes_max,
        trusted_proxies: config.trusted_proxies.clone(),
        forwarded_by: config.trusted_proxy_header.clone(),
        rooms_max: config.websockets.ws_rooms_max,
        ws_message_bytes_max: config.websockets.ws_message_bytes_max,
        ws_compress_bytes_min: config.websockets.ws_compress_bytes_min,
    }
}

/// The directory of core files. If core files can't be written there, the log says why and what to do.
fn core_files(config: &Config) -> Option<CoreFiles> {
    let projects = &config.projects;
    let dir = projects.core_dir.as_ref()?;
    match CoreFiles::open(dir, projects.core_bytes_max, projects.core_files_max) {
        Ok(files) => {
            tracing::warn!(
                "core files of modules are written to {}: a core file has all memory of a module, including secrets",
                dir.display()
            );
            Some(files)
        }
        Err(why) => {
            tracing::warn!("--core-dir {}: there will be no core files: {why}", dir.display());
            None
        }
    }
}

/// Limits on the streams of one shard.
pub(super) fn stream_sizes(config: &Config) -> StreamSizes {
    StreamSizes {
        calls_max: config.modules.stream_calls_max,
        buffer_bytes: config.modules.stream_buffer_bytes,
        answers_max: config.modules.stream_answers_max,
    }
}

/// Limits on the resources of each domain, except memory. A domain's own threads come in addition to those that the server
/// needs there.
fn allowance(config: &Config) -> Allowance {
    let streams = config.modules.stream_calls_max.saturating_mul(config.shards);
    let killable_calls_max = config.projects.killable_calls_max;
    let own = streams.saturating_add(config.modules.executors_max + config.shards + killable_calls_max + OWN_THREADS);
    Allowance {
        module_threads_max: config.modules.module_threads_max,
        threads_max: config.modules.module_threads_max.saturating_add(own),
        killable_calls_max,
        disk_bytes_max: config.module_disk_bytes_max.unwrap_or_else(|| share_of_disk(config)),
        memory_bytes_max: config.projects.modules_memory_bytes_max.unwrap_or_else(share_of_memory),
    }
}

/// A quarter of the free bytes on the disk of the data directory, but at least the useful minimum.
pub(super) fn share_of_disk(config: &Config) -> u64 {
    let free =
        rustix::fs::statvfs(&config.data_dir).map_or(u64::MAX, |disk| disk.f_bavail.saturating_mul(disk.f_frsize));
    (free / 4).max(DISK_BYTES_MIN)
}

/// Half of the memory, in bytes, that the server and its domains can have.
fn share_of_memory() -> u64 {
    machine::memory_bytes() / 2
}

/// Approximate number of threads of a domain's process, without those that run handlers.
const OWN_THREADS: usize = 16;

/// Bytes on the disk that a domain, and the blobs, may use even if fewer bytes are free.
const DISK_BYTES_MIN: u64 = 1024 * 1024 * 1024;

/// Limit, in bytes, on the data waiting on a WebSocket, beside its largest message and that message's overhead.
const EVENTS_BYTES: usize = 4 * 1024 * 1024;

/// Largest budget, in bytes: a process has address space for that many shards.
const BUDGET_BYTES_MAX: usize = 16 * 1024 * 1024 * 1024;

/// The modules' database has a directory of its own, because it is the only file of the server that isolated modules write.
fn module_database(config: &Config) -> std::io::Result<PathBuf> {
    let dir = config.data_dir.join("module-data");
    std::fs::create_dir_all(&dir)?;
    Ok(dir.join("modules.sqlite3"))
}

/// The policy of isolated modules: they may compute, read the system's libraries and `static`, and use what the operator
/// allows. Each domain also gets its database, its shared objects and a scratch directory.
fn domain_policy(config: &Config, user: Option<User>, reach: &Reach) -> Policy {
    let mut read = sandbox::system_paths();
    read.push(config.data_dir.join("static"));
    read.extend(config.allow_read.iter().cloned());
    if *reach != Reach::Nothing {
        read.extend(sandbox::network_paths());
    }
    let mut write = vec!["/dev/null".into()];
    write.extend(config.allow_write.iter().cloned());
    let memory_bytes_max = Some(config.modules.module_memory_bytes_max).filter(|bytes| *bytes > 0);
    let (network, connects) = (*reach == Reach::Everything, matches!(reach, Reach::Listed(_)));
    let calls = config.projects.allow_syscall.clone();
    let namespaces = sandbox::has_namespaces();
    let open_files_max = Some(config.resources.module_open_files_max);
    Policy {
        read,
        write,
        threads_allowed: true,
        starts_workers: true,
        network,
        connects,
        memory_bytes_max,
        open_files_max,
        user,
        calls,
        namespaces,
        ..Policy::default()
    }
}

/// The user of the domains when the server is root: nobody, if nobody can reach the files that modules use.
fn domain_user(config: &Config, scratch: &Path, domain_data: &Path) -> Option<User> {
    let user = sandbox::unprivileged()?;
    let own = [config.data_dir.join("module-data"), scratch.to_path_buf(), domain_data.to_path_buf()];
    // Ownership of the modules' directories passes to that user; the directories above must be open to it.
    let ways = own.iter().filter_map(|dir| dir.parent().map(Path::to_path_buf));
    let used: Vec<PathBuf> = ways.chain([config.data_dir.join("static"), config.module_dir.join(".run")]).collect();
    let closed = sandbox::closed_to(user, &used).map(|dir| format!("{} is closed to other users", dir.display()));
    let refused = || own.iter().find_map(|dir| sandbox::hand_over(user, dir).err()).map(|error| error.to_string());
    let Some(why) = closed.or_else(refused) else { return Some(user) };
    // Without capabilities even root can't write to directories whose owner has been `nobody` since an earlier start.
    for dir in own.iter().chain([&config.module_dir.join(".run")]) {
        if let Err(error) = sandbox::hand_over(User { uid: 0, gid: 0 }, dir) {
            tracing::warn!("{}: {error}", dir.display());
        }
    }
    tracing::warn!(
        "modules run as root without its rights, and not as nobody: {why}; better: a server that is not root"
    );
    None
}

/// The cores of the shards, one each; `None` for shards beyond the number of cores.
pub(super) fn shard_cores(shards: usize) -> (Vec<Option<CoreId>>, Vec<CoreId>) {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let pinned = (0..shards).map(|shard| if shards <= cores.len() { cores.get(shard).copied() } else { None });
    // Executors use other cores than the shards, if there are any.
    let free = cores.iter().skip(shards).copied().collect();
    (pinned.collect(), free)
}
