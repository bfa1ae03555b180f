//! Starts the threads in order, waits for a signal, stops them in order.
//!
//! Order of start: listeners (so that a taken port is found before anything else), the host of the modules, the control
//! plane with the modules that were deployed before, the shards. The line `listening on …` comes last: who reads it
//! finds every module served. The stop is the same backwards.

use crate::abi::context::ModuleContext;
use crate::abi::host::set_create_job;
use crate::admin::{Access, Admin, KeySource, KeysError};
use crate::config::{self, Config, Isolation, Reactor};
use crate::domain::executor::{Companion, Pool, Runner, RunnerFactory};
use crate::domain::in_process::InProcess;
use crate::domain::inbox::{Inbox, Message};
use crate::domain::process::{Cgroups, CrashLimit, DomainConfig, Domains, Identity};
use crate::domain::sandbox::{self, Policy, User};
use crate::domain::{DEFAULT_DOMAIN, Host};
use crate::jobs::hub::{EventSink, Hub};
use crate::jobs::store::{Durability, Store, StoreConfig};
use crate::jobs::{Jobs, JobsConfig};
use crate::module::control::{Control, ControlConfig};
use crate::net::{self, Certificate, ListenAddr, Listener, ReactorKind, TlsError, UnixAccess, Waker};
use crate::proto::http1;
use crate::service::Manager;
use crate::shard::{Local, PeerCounts, Shard, ShardLimits, ShardParts};
use core_affinity::CoreId;
use signal_hook::consts::{SIGHUP, SIGINT, SIGPIPE, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;
use socket2::Socket;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Calls a shard may have on executors at once.
const IN_FLIGHT_MAX: usize = 4096;

/// Requests on the server's own paths that a shard may have under way.
const OWN_IN_FLIGHT_MAX: usize = 1024;

/// Bytes of all request bodies that a shard is receiving, and of all that wait for executors; each.
const BODIES_BYTES_MAX: usize = 512 * 1024 * 1024;

/// Unsent and expected bytes of a connection above which its further requests wait.
const UNSENT_BYTES_MAX: usize = 1024 * 1024;

/// What a submission may have beside its payload.
const JOB_FIELDS_BYTES_MAX: usize = 64 * 1024;

/// Why the server could not start, or how it ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// An address can't be listened on.
    #[error(transparent)]
    Listen(#[from] net::BindError),
    /// The certificate or its key can't be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The keys can't be used.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// What the service manager has passed can't be listened on.
    #[error(transparent)]
    Passed(#[from] net::PassedError),
    /// A listen address can't be read.
    #[error("{0}")]
    Address(String),
    /// The data directory, the module store or the host of the modules is not usable.
    #[error("{what}: {source}")]
    Setup {
        /// What was being done.
        what: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The control plane could not start.
    #[error("{0}")]
    Control(String),
    /// A shard has ended by itself: its connections and its share of new ones are lost, so the server stops.
    #[error("a shard ended: {0}")]
    Shard(String),
}

fn setup(what: &'static str) -> impl FnOnce(std::io::Error) -> ServeError {
    move |source| ServeError::Setup { what, source }
}

/// One running shard.
struct RunningShard {
    inbox: Arc<Inbox>,
    thread: JoinHandle<()>,
}

/// Runs the server until a signal stops it.
///
/// # Errors
/// See [`ServeError`].
pub fn run(config: Config) -> Result<(), ServeError> {
    let passed = net::passed_sockets()?;
    let mut signals =
        Signals::new([SIGTERM, SIGINT, SIGHUP, SIGPIPE, SIGXFSZ]).map_err(setup("installing signal handlers"))?;
    let manager = Manager::from_env();
    let certificate = load_certificate(&config)?;
    let keys = KeySource { admin_key: config.admin_key.clone(), file: config.keys_file.clone() };
    let access = Arc::new(Access::new(keys, config.production, config.auth_failures_max)?);
    let (listeners, public) = bind(&config, &passed, certificate.as_ref())?;
    drop(passed);
    let addresses = addresses(public, &listeners);
    // Modules open files relative to the data directory.
    std::fs::create_dir_all(&config.data_dir).map_err(setup("creating the data directory"))?;
    let config = with_absolute_paths(config).map_err(setup("finding the data directory"))?;
    std::env::set_current_dir(&config.data_dir).map_err(setup("entering the data directory"))?;

    if let Some(key) = &config.tls_key {
        let loaded = crate::abi::crypto::load(key);
        loaded.map_err(|error| ServeError::Control(format!("--tls-key {}: {error}", key.display())))?;
    }
    sandbox::check(config.production).map_err(|error| ServeError::Control(error.to_string()))?;
    let (hub, jobs_file) = (Arc::new(Hub::default()), config.data_dir.join("jobs.sqlite3"));
    let store = open_job_store(&config, &jobs_file, &hub)?;
    let wakers = (0..config.shards).map(|_| Waker::new().map(Arc::new)).collect::<std::io::Result<Vec<_>>>();
    let wakers = wakers.map_err(setup("creating an eventfd"))?;
    let host = start_host(&config, &jobs_file, &wakers).map_err(setup("preparing to run modules"))?;
    let control = start_control(&config, &host)?;
    let jobs = start_jobs(&config, store, hub, &control)?;
    let failed = Arc::new(OnceLock::new());
    let admin = make_admin(&config, &access, &control, &jobs);
    let admin_from = (!config.admin_listen.is_empty()).then_some(public);
    let shards = start_shards(&config, listeners, admin_from, wakers, &host, &control, &admin, &failed)?;
    for address in &addresses {
        // The contract of the command line: one line on stderr, whatever the log level.
        let _ = writeln!(std::io::stderr(), "listening on {address}");
    }
    manager.ready();
    let shard_stats: Vec<_> = (0..config.shards).map(|shard| admin.stats(shard)).collect();
    let ticks = move || shard_stats.iter().map(|shard| shard.view().ticks).collect::<Vec<_>>();
    manager.watch(ticks).map_err(setup("starting the watchdog's thread"))?;
    wait_for_stop(&mut signals, certificate.as_ref(), &access, &manager);
    manager.stopping();
    stop(&config, &mut signals, &control, &jobs, shards);
    if let ModuleHost::Apart(domains) = &host {
        domains.stop();
    }
    failed.get().map_or(Ok(()), |why| Err(ServeError::Shard(why.clone())))
}

/// The certificate that TCP addresses are served with, if there is to be one.
fn load_certificate(config: &Config) -> Result<Option<Certificate>, ServeError> {
    let (Some(cert), Some(key)) = (&config.tls_cert, &config.tls_key) else { return Ok(None) };
    let certificate = Certificate::load(cert, key)?;
    tracing::info!("HTTPS with the certificate {} and the key {}", cert.display(), key.display());
    Ok(Some(certificate))
}

/// The listeners of each shard, and how many of them, the first ones, are no admin listeners: the sockets that the service
/// manager has passed, or else those of the settings' addresses.
fn bind(
    config: &Config,
    passed: &[Socket],
    certificate: Option<&Certificate>,
) -> Result<(Vec<Vec<Listener>>, usize), ServeError> {
    let parsed = |texts: &[String]| {
        let parse = |text: &String| text.parse::<ListenAddr>().map_err(|error| ServeError::Address(error.to_string()));
        texts.iter().map(parse).collect::<Result<Vec<_>, _>>()
    };
    let mut listeners = if passed.is_empty() {
        net::bind_all(&parsed(&config.listen)?, config.shards, UnixAccess::Umask)?
    } else {
        tracing::info!("serving the {} socket(s) that were passed; --port and --listen don't count", passed.len());
        net::share(passed, config.shards).map_err(setup("sharing the passed sockets"))?
    };
    let public = listeners.first().map_or(0, Vec::len);
    let admin = net::bind_all(&parsed(&config.admin_listen)?, config.shards, UnixAccess::Owner)?;
    for (shard, admin) in listeners.iter_mut().zip(admin) {
        shard.extend(admin); // After the others: their number tells the shard what they serve.
    }
    Ok((secured(config, listeners, certificate)?, public))
}

/// The listeners with TLS, if there is a certificate.
fn secured(
    config: &Config,
    listeners: Vec<Vec<Listener>>,
    certificate: Option<&Certificate>,
) -> Result<Vec<Vec<Listener>>, ServeError> {
    let Some(certificate) = certificate else {
        if config.production && listeners.iter().flatten().any(Listener::is_public) {
            tracing::warn!(
                "--production without --tls-cert and --tls-key, and no server.crt and server.key in the data directory: serving plain HTTP; a proxy that terminates TLS is expected in front"
            );
        }
        return Ok(listeners);
    };
    let acceptor = certificate.acceptor(Duration::from_millis(config.header_timeout_ms))?;
    let secured = |shard: Vec<Listener>| shard.into_iter().map(|listener| listener.secured(&acceptor)).collect();
    Ok(listeners.into_iter().map(secured).collect())
}

/// The addresses really listened on, as they are told.
fn addresses(public: usize, listeners: &[Vec<Listener>]) -> Vec<String> {
    let told =
        |(number, listener): (usize, &Listener)| format!("{listener}{}", if number < public { "" } else { " (admin)" });
    listeners.first().into_iter().flatten().enumerate().map(told).collect()
}

fn with_absolute_paths(mut config: Config) -> std::io::Result<Config> {
    config.data_dir = config.data_dir.canonicalize()?;
    config.module_dir = config.data_dir.join(std::path::absolute(&config.module_dir)?);
    for dir in config.allow_read.iter_mut().chain(&mut config.allow_write) {
        *dir = std::path::absolute(&*dir)?;
    }
    Ok(config)
}

/// Where the modules live.
#[derive(Clone)]
enum ModuleHost {
    /// In this process.
    Here(Arc<InProcess>),
    /// In processes of their own.
    Apart(Arc<Domains>),
}

fn start_host(config: &Config, jobs_file: &Path, wakers: &[Arc<Waker>]) -> std::io::Result<ModuleHost> {
    let database = module_database(config)?;
    if config.isolation == Isolation::None {
        return Ok(ModuleHost::Here(Arc::new(InProcess::start(&database, Some(jobs_file))?)));
    }
    let scratch = config.data_dir.join("scratch");
    for dir in [&scratch, &config.data_dir.join("static"), &config.module_dir.join(".run")] {
        // The sandbox names directories as they are when it is made.
        std::fs::create_dir_all(dir)
            .map_err(|error| std::io::Error::new(error.kind(), format!("{}: {error}", dir.display())))?;
    }
    let (cores, free_cores) = shard_cores(config.shards);
    let domain = DomainConfig {
        identity: Identity::first(DEFAULT_DOMAIN, config.shards),
        cores: cores.iter().map(|core| core.map(|core| core.id)).collect(),
        threads_min: if free_cores.is_empty() { config.shards } else { free_cores.len() },
        threads_max: config.executors_max,
        free_cores: free_cores.iter().map(|core| core.id).collect(),
        database,
        jobs_database: jobs_file.to_path_buf(),
        policy: domain_policy(config, domain_user(config, &scratch)),
        scratch,
        log: (config.silent && std::env::var_os("CWEB_LOG").is_none()).then(|| "warn".to_owned()),
        crash_limit: CrashLimit { crashes: config.crash_limit, window: Duration::from_millis(config.crash_window_ms) },
        hook_timeout: Duration::from_millis(config.hook_timeout_ms),
        rss_recycle_bytes: config.module_rss_recycle_bytes,
        cgroups: config.module_memory_bytes().and_then(|bytes| Cgroups::find(&config.data_dir, bytes)),
    };
    Ok(ModuleHost::Apart(Arc::new(Domains::start(domain, config.domains_max, wakers.to_vec())?)))
}

/// The modules' database has a directory of its own: it is the one thing of the server's that isolated modules write.
fn module_database(config: &Config) -> std::io::Result<PathBuf> {
    let dir = config.data_dir.join("module-data");
    std::fs::create_dir_all(&dir)?;
    Ok(dir.join("modules.sqlite3"))
}

/// What isolated modules may do: compute, read the system's libraries and `static`, write their database, and what the
/// operator allows. Each domain gets a scratch directory besides.
fn domain_policy(config: &Config, user: Option<User>) -> Policy {
    let mut read = sandbox::system_paths();
    read.extend([config.data_dir.join("static"), config.module_dir.join(".run")]);
    read.extend(config.allow_read.iter().cloned());
    if config.allow_net {
        read.extend(sandbox::network_paths());
    }
    let mut write = vec![config.data_dir.join("module-data"), "/dev/null".into()];
    write.extend(config.allow_write.iter().cloned());
    let memory_bytes_max = Some(config.module_memory_bytes_max).filter(|bytes| *bytes > 0);
    let network = config.allow_net;
    Policy { read, write, threads_allowed: true, network, memory_bytes_max, user, ..Policy::default() }
}

/// Whom a domain of a server that is root becomes: nobody, if nobody can reach what modules use.
fn domain_user(config: &Config, scratch: &Path) -> Option<User> {
    let user = sandbox::unprivileged()?;
    let own = [config.data_dir.join("module-data"), scratch.to_path_buf()];
    let used = [&own[..], &[config.data_dir.join("static"), config.module_dir.join(".run")]].concat();
    let closed = sandbox::closed_to(user, &used).map(|dir| format!("{} is closed to other users", dir.display()));
    let refused = || own.iter().find_map(|dir| sandbox::hand_over(user, dir).err()).map(|error| error.to_string());
    let Some(why) = closed.or_else(refused) else { return Some(user) };
    // Without capabilities even root can't write what an earlier start has given away.
    for dir in &own {
        if let Err(error) = sandbox::hand_over(User { uid: 0, gid: 0 }, dir) {
            tracing::warn!("{}: {error}", dir.display());
        }
    }
    tracing::warn!(
        "modules run as root without its rights, and not as nobody: {why}; better: a server that is not root"
    );
    None
}

fn start_control(config: &Config, host: &ModuleHost) -> Result<Control, ServeError> {
    let control_config = ControlConfig {
        module_dir: config.module_dir.clone(),
        compile_timeout: Duration::from_millis(config.compile_timeout_ms),
        swap_timeout: Duration::from_millis(config.swap_timeout_ms),
        queue_max: config.deploy_queue_max,
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
    control.load_persisted();
    Ok(control)
}

/// Opens the database of jobs; its events go to the hub.
fn open_job_store(config: &Config, path: &Path, hub: &Arc<Hub>) -> Result<Store, ServeError> {
    let durability = match config.durability {
        config::Durability::Full => Durability::Full,
        config::Durability::Normal => Durability::Normal,
    };
    let store = StoreConfig { durability, queue_max: config.job_queue_max, ..StoreConfig::new(path.to_path_buf()) };
    let hub = Arc::clone(hub);
    Store::open(store, Box::new(move |events| hub.publish(events)))
        .map_err(|error| ServeError::Control(error.to_string()))
}

/// Starts the jobs, and lets modules create some.
fn start_jobs(config: &Config, store: Store, hub: Arc<Hub>, control: &Control) -> Result<Jobs, ServeError> {
    let jobs_config = JobsConfig {
        workers: config.job_workers,
        module_running_max: config.job_module_running_max,
        unfinished_max: config.job_pending_max,
        payload_bytes_max: config.job_payload_bytes_max,
        event_bytes_max: config.job_event_bytes_max,
        result_bytes_max: config.job_result_bytes_max,
        retention: Duration::from_secs(config.job_retention_s),
    };
    let source = Arc::new(control.clone());
    let jobs = Jobs::start(jobs_config, store, hub, source).map_err(setup("starting the jobs"))?;
    let (creator, needed) = (jobs.clone(), jobs.clone());
    set_create_job(Box::new(move |module, job, payload| creator.create(module.id, job, payload)));
    control.keep_versions(Box::new(move || needed.needed_hashes()));
    Ok(jobs)
}

/// The cores of the shards, one each; empty entries when there are more shards than cores.
fn shard_cores(shards: usize) -> (Vec<Option<CoreId>>, Vec<CoreId>) {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let pinned = (0..shards).map(|shard| if shards <= cores.len() { cores.get(shard).copied() } else { None });
    // Executors keep off the shards' cores when there are others.
    let free = cores.iter().skip(shards).copied().collect();
    (pinned.collect(), free)
}

fn make_admin(config: &Config, access: &Arc<Access>, control: &Control, jobs: &Jobs) -> Arc<Admin> {
    let stats = (0..config.shards).map(|_| Arc::default()).collect();
    Arc::new(Admin::new(control.clone(), jobs.clone(), Arc::clone(access), stats))
}

#[allow(clippy::too_many_arguments)] // Everything comes together here, and nowhere else.
fn start_shards(
    config: &Config,
    listeners: Vec<Vec<Listener>>,
    admin_listeners_from: Option<usize>,
    wakers: Vec<Arc<Waker>>,
    host: &ModuleHost,
    control: &Control,
    admin: &Arc<Admin>,
    failed: &Arc<OnceLock<String>>,
) -> Result<Vec<RunningShard>, ServeError> {
    let kind = reactor(config);
    let (cores, free_cores) = shard_cores(config.shards);
    let executors = match host {
        ModuleHost::Here(host) => Some(start_executors(config, host, free_cores)?),
        ModuleHost::Apart(_) => None,
    };
    let limits = shard_limits(config);
    let peers_max = config.connections_per_peer_max;
    let peers = (peers_max > 0).then(|| Arc::new(PeerCounts::new(peers_max)));

    let mut running = Vec::with_capacity(config.shards);
    for (id, ((listeners, core), waker)) in listeners.into_iter().zip(cores).zip(wakers).enumerate() {
        let inbox = Arc::new(Inbox::new(Arc::clone(&waker)));
        let local = executors.clone().map(|executors| executors.companion(id, core)).transpose();
        let local = local.map_err(setup("starting an executor thread"))?;
        let (table, limits, admin) = (control.table(), limits.clone(), Arc::clone(admin));
        let (shard_inbox, stats) = (Arc::clone(&inbox), admin.stats(id));
        let (failed, peers) = (Arc::clone(failed), peers.clone());
        let thread = thread::Builder::new()
            .name(format!("shard-{id}"))
            .spawn(move || {
                if let Some(core) = core {
                    core_affinity::set_for_current(core);
                }
                let local = local.map(|(companion, executors)| Local {
                    companion,
                    executor: InProcess::executor(&executors.context),
                    pool: executors.pool,
                });
                let inbox = shard_inbox;
                let parts = ShardParts { id, limits, table, inbox, local, admin, admin_listeners_from, stats, peers };
                if let Err(error) = net::run(kind, Shard::new(parts), listeners, &waker) {
                    tracing::error!("shard {id} ended: {error}; the server stops");
                    let _ = failed.set(format!("shard {id}: {error}"));
                    let _ = signal_hook::low_level::raise(SIGTERM);
                }
            })
            .map_err(setup("starting a shard"))?;
        let subscriber = Arc::clone(&inbox);
        control.subscribe(Box::new(move || subscriber.push(Message::TableChanged)));
        running.push(RunningShard { inbox, thread });
    }
    if let ModuleHost::Apart(domains) = host {
        let inboxes: Vec<Arc<Inbox>> = running.iter().map(|shard| Arc::clone(&shard.inbox)).collect();
        domains.attach(&inboxes);
    }
    admin.jobs().hub().set_shards(running.iter().map(|shard| Arc::clone(&shard.inbox) as Arc<dyn EventSink>).collect());
    Ok(running)
}

/// What runs the modules of this process, apart from the shards' own part.
#[derive(Clone)]
struct Executors {
    context: Arc<ModuleContext>,
    factory: RunnerFactory,
    pool: Arc<Pool>,
}

impl Executors {
    fn companion(self, shard: usize, core: Option<CoreId>) -> std::io::Result<(Companion, Self)> {
        Ok((Companion::start(shard, core, Arc::clone(&self.factory))?, self))
    }
}

fn start_executors(config: &Config, host: &InProcess, free_cores: Vec<CoreId>) -> Result<Executors, ServeError> {
    let context = Arc::clone(host.context());
    let made_with = Arc::clone(&context);
    let factory: RunnerFactory = Arc::new(move || Box::new(InProcess::executor(&made_with)) as Box<dyn Runner>);
    let threads_min = if free_cores.is_empty() { config.shards } else { free_cores.len() };
    let pool = Pool::start(threads_min, config.executors_max, free_cores, Arc::clone(&factory));
    let pool = Arc::new(pool.map_err(setup("starting the executor pool"))?);
    Ok(Executors { context, factory, pool })
}

/// The reactor to use: io_uring where the kernel allows it.
fn reactor(config: &Config) -> ReactorKind {
    match config.reactor {
        Reactor::Monoio => {
            if let Err(reason) = net::io_uring_available(config.shards) {
                tracing::warn!("io_uring is not available ({reason}): using epoll, which is a little slower");
                return ReactorKind::MonoioEpoll;
            }
            ReactorKind::Monoio
        }
        // Refused by Config::load.
        Reactor::Glommio => ReactorKind::MonoioEpoll,
    }
}

fn shard_limits(config: &Config) -> ShardLimits {
    let own_body_bytes_max = config
        .body_bytes_max
        .max(config.mgnt_body_bytes_max)
        .max(config.job_payload_bytes_max.saturating_add(JOB_FIELDS_BYTES_MAX));
    ShardLimits {
        http: http1::Limits {
            head_bytes_max: config.head_bytes_max,
            headers_max: config.headers_max,
            uri_bytes_max: config.uri_bytes_max,
            body_bytes_max: own_body_bytes_max.max(config.route_body_bytes_max),
        },
        body_bytes_max: config.body_bytes_max,
        route_body_bytes_max: config.route_body_bytes_max,
        own_body_bytes_max,
        // Any one body that is allowed must fit.
        bodies_bytes_max: BODIES_BYTES_MAX.max(own_body_bytes_max).max(config.route_body_bytes_max),
        connections_max: config.connections_max,
        requests_per_connection_max: match config.requests_per_connection_max {
            0 => u64::MAX,
            max => max,
        },
        pipeline_max: config.pipeline_max,
        in_flight_max: IN_FLIGHT_MAX,
        own_in_flight_max: OWN_IN_FLIGHT_MAX,
        streams_max: config.job_streams_max,
        unsent_bytes_max: UNSENT_BYTES_MAX,
        ws_message_bytes_max: config.ws_message_bytes_max,
        ws_queue_bytes_max: config.ws_queue_bytes_max,
        ws_inbox_messages_max: config.ws_inbox_messages_max,
        header_timeout_ms: config.header_timeout_ms,
        body_timeout_ms: config.body_timeout_ms,
        idle_timeout_ms: config.idle_timeout_ms,
        write_timeout_ms: config.write_timeout_ms,
        ws_ping_interval_ms: config.ws_ping_interval_ms,
        ws_pong_timeout_ms: config.ws_pong_timeout_ms,
        handler_timeout_ms: config.handler_timeout_ms,
        cors_origin: Some(config.cors_allow_origin.clone()).filter(|origin| !origin.is_empty()),
        cors_methods: config.cors_allow_methods.clone(),
        cors_headers: config.cors_allow_headers.clone(),
        cors_max_age_s: config.cors_max_age_s,
    }
}

/// The other signals are caught only so that their default, death, does not happen: a peer that has gone and a file that
/// has reached its limit are errors of the call that met them.
fn is_stop(signal: i32) -> bool {
    signal == SIGTERM || signal == SIGINT
}

/// SIGHUP has the files read again that may change while the server runs.
fn wait_for_stop(signals: &mut Signals, certificate: Option<&Certificate>, access: &Access, manager: &Manager) {
    for signal in signals.forever() {
        if is_stop(signal) {
            return;
        }
        if signal == SIGHUP {
            manager.reloading();
            reload(certificate, access);
            manager.ready();
        }
    }
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

/// Stops accepting, lets requests finish within the time-out, unloads the modules. A second signal cuts it short.
fn stop(config: &Config, signals: &mut Signals, control: &Control, jobs: &Jobs, shards: Vec<RunningShard>) {
    tracing::info!("stopping");
    let timeout_ms = if config.force_shutdown { 0 } else { config.shutdown_timeout_ms };
    let deadline = Instant::now() + Duration::from_millis(timeout_ms);
    for shard in &shards {
        shard.inbox.push(Message::Drain);
    }
    // No job begins from here on; those that run have as long as the requests have.
    let running_jobs = jobs.clone();
    let jobs_end =
        thread::Builder::new().name("jobs-end".to_owned()).spawn(move || running_jobs.stop_running(deadline));
    let jobs_run = || jobs_end.as_ref().is_ok_and(|thread| !thread.is_finished());
    let mut forced = false;
    while !forced && (jobs_run() || shards.iter().any(|shard| !shard.thread.is_finished())) {
        thread::sleep(Duration::from_millis(5));
        forced = Instant::now() >= deadline || signals.pending().any(is_stop);
    }
    for shard in &shards {
        shard.inbox.push(Message::Stop);
    }
    for shard in shards {
        let _ = shard.thread.join();
    }
    jobs.close();
    // Modules whose code is still running are left as they are: unloading under a running handler would crash.
    control.shutdown(config.purge_modules);
    if forced {
        let why = if Instant::now() >= deadline { "the time for it is over" } else { "a second signal came" };
        tracing::warn!("stopped with requests or jobs still running: {why}");
    }
    tracing::info!("stopped");
}
