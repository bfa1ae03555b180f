//! Starts the threads in order, waits for a signal, stops them in order.
//!
//! Order of start: listeners (so that an occupied port is detected first), the host of the modules, the control plane with the
//! deployed modules, the shards. The line `listening on …` comes last: a program that reads this line finds every module
//! served. The stop runs in reverse order, and no module can block it.

mod data_lock;
mod error;
mod host;
mod listeners;
mod private;
mod shards;
mod signals;
mod stop;

pub use error::ServeError;
pub use stop::bound_exit;

use crate::abi::crypto::{self, KeyError};
use crate::abi::host::set_create_job;
use crate::admin::{Access, Admin, KeySource, KeysError, Site};
use crate::config::{self, Config, Isolation};
use crate::domain::Host;
use crate::domain::call;
use crate::domain::lease;
use crate::domain::resident::ProgramPages;
use crate::domain::sandbox;
use crate::jobs::blobs::BlobsConfig;
use crate::jobs::hub::Hub;
use crate::jobs::store::{Durability, Store, StoreConfig};
use crate::jobs::{Jobs, JobsConfig};
use crate::logbook;
use crate::module::control::{Control, ControlConfig, MountDirs, RouteLimits};
use crate::module::libraries::Allowed;
use crate::module::project::ProjectLimits;
use crate::module::signing::Signers;
use crate::net::{self, Certificate, Waker};
use crate::sd_notify::Manager;
use error::setup;
use host::{ModuleHost, share_of_disk, start_host};
use listeners::{addresses, bind, load_certificate};
use shards::start_shards;
use signals::StopSignals;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Runs `work` on a thread of its own.
fn apart<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, ServeError> {
    thread::Builder::new().name(name.to_owned()).spawn(work).map_err(setup("starting a thread"))
}

/// The result of the work that [`apart`] has started.
fn joined<T>(thread: JoinHandle<T>) -> Result<T, ServeError> {
    thread
        .join()
        .map_err(|_| ServeError::Control("the start of the server panicked; please report this as a bug".to_owned()))
}

/// Runs the server until a signal stops it.
///
/// # Errors
/// See [`ServeError`].
pub fn run(config: Config) -> Result<(), ServeError> {
    let program_pages = ProgramPages::find();
    let passed = net::passed_sockets()?;
    stop::prepare_exit();
    let mut signals = StopSignals::catch().map_err(setup("installing signal handlers"))?;
    let manager = Manager::from_env();
    let certificate = load_certificate(&config)?;
    let access = Arc::new(load_access(&config)?);
    let (listeners, public) = bind(&config, &passed, certificate.as_ref())?;
    drop(passed);
    let addresses = addresses(public, &listeners);
    // Modules open files relative to the data directory.
    let named = config.data_dir.display().to_string();
    let about = |what: &str| setup(format!("{what} the data directory {named}"));
    private::make_data_dir(&config.data_dir).map_err(about("creating"))?;
    let config = with_absolute_paths(config).map_err(about("finding"))?;
    std::env::set_current_dir(&config.data_dir).map_err(about("entering"))?;

    // With a key, there are clients without one: only a server without keys tells them the reason of a failure.
    call::tell_why(!config.production && config.admin_key.is_none() && config.keys_file.is_none());
    check_secrets(&config)?;
    // Held until the server has ended; must come before anything in the directory changes.
    let _lock = data_lock::lock(&config.data_dir)?;
    private::close_data(&config);
    load_token_key(&config)?;
    sandbox::check(host::required_level(&config)).map_err(|error| ServeError::Control(error.to_string()))?;
    let hub = Arc::new(Hub::default());
    let store = open_job_store(&config, &hub)?;
    let wakers = (0..config.shards).map(|_| Waker::new().map(Arc::new)).collect::<std::io::Result<Vec<_>>>();
    let wakers = wakers.map_err(setup("creating an eventfd"))?;
    // Work that modules can block runs on a thread of its own, so that a signal can end the start.
    let (host_config, tables, host_wakers) = (config.clone(), store.tables(), wakers.clone());
    let starting = apart("host", move || start_host(&host_config, tables, &host_wakers))?;
    if !signals.let_end(&starting) {
        manager.stopping();
        tracing::info!("stopped: a signal came before the modules were loaded; nothing has been served");
        return Ok(());
    }
    let host = joined(starting)?.map_err(setup("preparing to run modules"))?;
    let control = start_control(&config, &host)?;
    // Jobs must start before the modules, because an `onload` may create jobs.
    let jobs = start_jobs(&config, store, hub, &control)?;
    let loader = control.clone();
    let loading = apart("load", move || loader.load_persisted())?;
    if !signals.let_end(&loading) {
        manager.stopping();
        stop::stop_start(&config, &mut signals, &control, &loading, &jobs, &host);
        return Ok(());
    }
    joined(loading)?;
    jobs.begin();
    let failed = Arc::new(OnceLock::new());
    let admin = make_admin(&config, &access, &control, &jobs, addresses.first());
    let admin_from = (!config.admin_listen.is_empty()).then_some(public);
    let shards = start_shards(&config, listeners, admin_from, wakers, &host, &control, &admin, &failed)?;
    // The contract of the command line: one line for each address on stderr, at any log level. One call writes all lines, so
    // that a program that has read one of the lines finds the others.
    let lines: String = addresses.iter().map(|address| format!("listening on {address}\n")).collect();
    let _ = std::io::stderr().write_all(lines.as_bytes());
    manager.ready();
    let shard_stats: Vec<_> = (0..config.shards).map(|shard| admin.stats(shard)).collect();
    let ticks = move || shard_stats.iter().map(|shard| shard.view().ticks).collect::<Vec<_>>();
    manager.watch(ticks).map_err(setup("starting the watchdog's thread"))?;
    program_pages.drop_after_start();
    signals.wait_for_stop(|| {
        manager.reloading();
        reload(certificate.as_ref(), &access);
        manager.ready();
    });
    manager.stopping();
    stop::stop(&config, &mut signals, &control, &jobs, shards, &host);
    let result = failed.get().map_or(Ok(()), |why| Err(ServeError::Shard(why.clone())));
    // Must precede the drops at the end of this function: the creation of a thread-local value waits for the loader's lock,
    // which a destructor may hold.
    bound_exit(i32::from(result.is_err()));
    result
}

/// Checks whether a server with these settings could use its certificate, its keys and its access keys, as far as that is
/// possible without starting the server. The check creates and changes nothing, and listens on no socket. Returns a line that
/// says what was checked.
///
/// # Errors
/// All errors with which the server would fail to start, one line each; see [`ServeError`].
pub fn check(config: &Config) -> Result<String, Vec<String>> {
    let certificate = load_certificate(config);
    let found = [
        certificate.as_ref().err().map(ToString::to_string),
        // An error of the certificate's key has already been reported with the certificate.
        check_token_key(config).err().filter(|_| certificate.is_ok()).map(|error| error.to_string()),
        load_access(config).err().map(|error| error.to_string()),
        check_signers(config).err().map(|error| error.to_string()),
        if config.production { check_secrets(config).err().map(|error| error.to_string()) } else { None },
    ];
    let problems: Vec<String> = found.into_iter().flatten().collect();
    if !problems.is_empty() {
        return Err(problems);
    }
    let certificate = if matches!(certificate, Ok(Some(_))) { ", the certificate and its key" } else { "" };
    let keys = if config.keys_file.is_some() { ", the file of keys" } else { "" };
    Ok(format!("no errors: the settings{certificate}{keys}"))
}

/// Loads the access control of the server's own paths.
fn load_access(config: &Config) -> Result<Access, KeysError> {
    let keys = KeySource { admin_key: config.admin_key.clone(), file: config.keys_file.clone() };
    Access::new(keys, config.production, config.limits.auth_failures_max)
}

/// The file of the key that signs modules' tokens: the configured file; with HTTPS, a file in the data directory.
fn token_key(config: &Config) -> Option<PathBuf> {
    let own = || config.tls_key.is_some().then(|| config.data_dir.join("token.key"));
    config.token_key.clone().or_else(own)
}

fn unusable(path: &Path) -> impl FnOnce(KeyError) -> ServeError {
    move |error| ServeError::Control(format!("--token-key {}: {error}", path.display()))
}

/// Warns of secret files that other users can read; in production such files are an error.
fn check_secrets(config: &Config) -> Result<(), ServeError> {
    let open = private::open_secrets(config);
    if config.production && !open.is_empty() {
        return Err(ServeError::Control(open.join("\n")));
    }
    open.iter().for_each(|text| tracing::warn!("{text}"));
    Ok(())
}

fn check_token_key(config: &Config) -> Result<(), ServeError> {
    let Some(path) = token_key(config) else { return Ok(()) };
    crypto::check(&path, config.tls_key.as_deref()).map_err(unusable(&path))
}

fn load_token_key(config: &Config) -> Result<(), ServeError> {
    let Some(path) = token_key(config) else { return Ok(()) };
    crypto::load(&path, config.tls_key.as_deref()).map_err(unusable(&path))
}

fn with_absolute_paths(mut config: Config) -> std::io::Result<Config> {
    config.data_dir = config.data_dir.canonicalize()?;
    config.module_dir = config.data_dir.join(std::path::absolute(&config.module_dir)?);
    for dir in config.allow_read.iter_mut().chain(&mut config.allow_write) {
        *dir = std::path::absolute(&*dir)?;
    }
    Ok(config)
}

/// Checks that the file of trusted signers can be read; the server reads it again for every deployment.
fn check_signers(config: &Config) -> Result<(), ServeError> {
    let Some(path) = &config.projects.trusted_signers else { return Ok(()) };
    Signers::read(path).map(drop).map_err(ServeError::Control)
}

fn start_control(config: &Config, host: &ModuleHost) -> Result<Control, ServeError> {
    logbook::set_limit(config.projects.log_bytes_max);
    check_signers(config)?;
    let control_config = ControlConfig {
        module_dir: config.module_dir.clone(),
        compile_timeout: Duration::from_millis(config.timeouts.compile_timeout_ms),
        inspect_timeout: Duration::from_millis(config.timeouts.hook_timeout_ms),
        swap_timeout: Duration::from_millis(config.timeouts.swap_timeout_ms),
        route_limits: RouteLimits {
            body_bytes_max: config.limits.route_body_bytes_max,
            plain_body_bytes_max: config.limits.body_bytes_max,
            handler_timeout: (config.isolation == Isolation::Process)
                .then(|| Duration::from_millis(config.timeouts.handler_timeout_ms)),
        },
        mounts: MountDirs {
            base: config.data_dir.clone(),
            allowed: [vec![config.data_dir.join("static")], config.allow_read.clone(), config.allow_write.clone()]
                .concat(),
        },
        allow_lib: Allowed::of(config.projects.allow_lib.clone()),
        allow_binary: config.projects.allow_binary,
        project_limits: ProjectLimits { files_max: config.projects.files_max, bytes_max: config.projects.bytes_max },
        versions_kept: config.projects.versions_kept,
        trusted_signers: config.projects.trusted_signers.clone(),
        queue_max: config.deploy_queue_max,
        jobs_of_all: config.modules.module_jobs == config::ModuleJobs::All,
        ..ControlConfig::default()
    };
    let loader: Arc<dyn Host> = match host {
        ModuleHost::Here(host) => Arc::clone(host) as _,
        ModuleHost::Apart(host) => Arc::clone(host) as _,
    };
    let control = Control::start(control_config, loader).map_err(|error| ServeError::Control(error.to_string()))?;
    let (host, table) = (host.clone(), control.table());
    control.subscribe(Box::new(move || {
        let table = table.load();
        let instances = table.modules().iter().filter_map(|module| module.instance());
        match &host {
            ModuleHost::Here(host) => host.published(instances),
            ModuleHost::Apart(host) => host.published(instances),
        }
    }));
    Ok(control)
}

/// Opens the jobs' database; its events go to the hub.
fn open_job_store(config: &Config, hub: &Arc<Hub>) -> Result<Store, ServeError> {
    let durability = match config.durability {
        config::Durability::Full => Durability::Full,
        config::Durability::Normal => Durability::Normal,
    };
    let store = StoreConfig {
        durability,
        queue_max: config.jobs.job_queue_max,
        ..StoreConfig::new(config.data_dir.join("jobs.sqlite3"))
    };
    let hub = Arc::clone(hub);
    Store::open(store, Box::new(move |events| hub.publish(events)))
        .map_err(|error| ServeError::Control(error.to_string()))
}

/// Workers beside `--job-workers`, reserved for domains without a running job; a server without domains needs none.
fn reserve_workers(config: &Config) -> usize {
    if config.isolation == Isolation::Process { config.job_workers.div_ceil(4) } else { 0 }
}

/// Starts the jobs, and enables modules to create jobs.
fn start_jobs(config: &Config, store: Store, hub: Arc<Hub>, control: &Control) -> Result<Jobs, ServeError> {
    let jobs_config = JobsConfig {
        workers: config.job_workers,
        reserve_workers: reserve_workers(config),
        domain_running_max: config.resources.job_domain_running_max,
        timeout_ms: config.resources.job_timeout_ms,
        module_running_max: config.jobs.job_module_running_max,
        unfinished_max: config.jobs.job_pending_max,
        payload_bytes_max: config.jobs.job_payload_bytes_max,
        event_bytes_max: config.jobs.job_event_bytes_max,
        events_max: config.job_data.events_max,
        events_bytes_max: config.resources.job_events_bytes_max,
        result_bytes_max: config.jobs.job_result_bytes_max,
        checkpoint_bytes_max: config.job_data.checkpoint_bytes_max,
        retention: Duration::from_secs(config.job_retention_s),
        blobs: BlobsConfig {
            dir: config.data_dir.join("blobs"),
            outputs_dir: config.data_dir.join("job-files"),
            is_written: lease::is_open_for_writing,
            blob_bytes_max: config.job_data.blob_bytes_max,
            bytes_max: config.job_data.blobs_bytes_max.unwrap_or_else(|| share_of_disk(config)),
            retention: Duration::from_secs(config.job_data.blob_retention_s),
        },
    };
    let source = Arc::new(control.clone());
    let jobs = Jobs::start(jobs_config, store, hub, source).map_err(setup("starting the jobs"))?;
    let (creator, needed) = (jobs.clone(), jobs.clone());
    set_create_job(Box::new(move |module, job, payload| creator.create(module.id, job, payload)));
    control.keep_versions(Box::new(move || needed.needed_hashes()));
    let told = jobs.clone();
    control.subscribe(Box::new(move || told.modules_changed()));
    Ok(jobs)
}

fn make_admin(
    config: &Config,
    access: &Arc<Access>,
    control: &Control,
    jobs: &Jobs,
    address: Option<&String>,
) -> Arc<Admin> {
    let modules = address.filter(|_| !config.admin_listen.is_empty()).cloned();
    let site = Site { secure: config.tls_cert.is_some(), modules };
    let stats = (0..config.shards).map(|_| Arc::default()).collect();
    let admin = Admin::new(control.clone(), jobs.clone(), Arc::clone(access), stats);
    Arc::new(admin.with_site(site).with_memory(config.resources.memory_bytes_max))
}

fn reload(certificate: Option<&Certificate>, access: &Access) {
    match certificate.map(Certificate::reload) {
        Some(Ok(())) => tracing::info!("the certificate was read again; new connections get it"),
        Some(Err(error)) => tracing::error!("the certificate stays as it was: {error}"),
        None => {}
    }
    match access.reload() {
        Ok(Some(0)) => tracing::warn!("the keys were read again; there are none now"),
        Ok(Some(count)) => tracing::info!("the keys were read again; {count} are in use now"),
        Err(error) => tracing::error!("the keys stay as they were: {error}"),
        Ok(None) if certificate.is_none() => tracing::info!("SIGHUP: there is no certificate or file of keys to read"),
        Ok(None) => {}
    }
}
