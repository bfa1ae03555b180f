//! The shards: their threads, cores and limits, and the executors of modules in this process.

use super::error::{ServeError, setup};
use super::host::{ModuleHost, bodies_bytes_max, shard_cores, stream_sizes};
use crate::abi::rooms::set_outlets;
use crate::abi::websocket::Outlet;
use crate::admin::Admin;
use crate::config::{Config, Reactor};
use crate::domain;
use crate::domain::executor::{Companion, Pool, Runner, RunnerFactory};
use crate::domain::in_process::InProcess;
use crate::domain::inbox::{Inbox, Message};
use crate::domain::stream::here::ShardStreams;
use crate::jobs::hub::EventSink;
use crate::module::control::Control;
use crate::net::{self, Listener, ReactorKind, Waker};
use crate::proto::http1;
use crate::shard::{Local, MemoryBudget, PeerCounts, Shard, ShardLimits, ShardParts};
use core_affinity::CoreId;
use signal_hook::consts::SIGTERM;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

/// Limit on the calls that one shard may have on executors at once.
const IN_FLIGHT_MAX: usize = 4096;

/// Limit on the requests on the server's own paths in flight, per shard.
const OWN_IN_FLIGHT_MAX: usize = 1024;

/// Limit, in bytes, on the unsent and expected bytes of a connection; above it the connection's further requests wait.
const UNSENT_BYTES_MAX: usize = 1024 * 1024;

/// Smallest limit on connections from peers on this machine, however small the limit on all connections is.
const LOCAL_MAX_MIN: usize = 64;

/// Limit, in bytes, on a submission beside its payload.
const JOB_FIELDS_BYTES_MAX: usize = 64 * 1024;

/// A running shard.
pub(super) struct RunningShard {
    pub(super) inbox: Arc<Inbox>,
    pub(super) thread: JoinHandle<()>,
}

#[allow(clippy::too_many_arguments)] // This function assembles all parts of a shard; no other function needs so many arguments.
pub(super) fn start_shards(
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
        ModuleHost::Here(_) => Some(start_executors(config, free_cores)?),
        ModuleHost::Apart(_) => None,
    };
    let limits = shard_limits(config);
    domain::stream::configure(config.timeouts.handler_timeout_ms, config.modules.executors_max);
    let peers_max = config.connections_per_peer_max;
    // A proxy on this machine forwards many clients; the other half is for clients that connect directly.
    let local_max = (config.connections_max.saturating_mul(config.shards) / 2).max(peers_max).max(LOCAL_MAX_MIN);
    let memory = Arc::new(MemoryBudget::new(
        config.resources.memory_bytes_max,
        (0..config.shards).map(|shard| admin.stats(shard)).collect(),
    ));
    let peers = (peers_max > 0).then(|| Arc::new(PeerCounts::new(peers_max, local_max)));

    let mut running = Vec::with_capacity(config.shards);
    for (id, ((listeners, core), waker)) in listeners.into_iter().zip(cores).zip(wakers).enumerate() {
        let streams = match host {
            ModuleHost::Here(_) => {
                Some(ShardStreams::new(id, stream_sizes(config)).map_err(setup("reserving streams"))?)
            }
            ModuleHost::Apart(_) => None,
        };
        let inbox = Arc::new(Inbox::with_streams(Arc::clone(&waker), streams));
        let local = executors.clone().map(|executors| executors.companion(id, core)).transpose();
        let local = local.map_err(setup("starting an executor thread"))?;
        let (table, limits, admin) = (control.table(), limits.clone(), Arc::clone(admin));
        let (shard_inbox, stats) = (Arc::clone(&inbox), admin.stats(id));
        let (failed, peers, memory) = (Arc::clone(failed), peers.clone(), Arc::clone(&memory));
        let thread = crate::threads::module_thread(format!("shard-{id}"))
            .spawn(move || {
                if let Some(core) = core {
                    core_affinity::set_for_current(core);
                }
                let local = local.map(|(companion, executors)| Local {
                    companion,
                    executor: InProcess::executor(),
                    pool: executors.pool,
                    streams: executors.streams,
                });
                let inbox = shard_inbox;
                let parts =
                    ShardParts { id, limits, table, inbox, local, admin, admin_listeners_from, stats, peers, memory };
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
    let inboxes: Vec<Arc<Inbox>> = running.iter().map(|shard| Arc::clone(&shard.inbox)).collect();
    match host {
        ModuleHost::Apart(domains) => domains.attach(&inboxes),
        ModuleHost::Here(_) => set_outlets(inboxes.into_iter().map(|inbox| inbox as Arc<dyn Outlet>).collect()),
    }
    admin.jobs().hub().set_shards(running.iter().map(|shard| Arc::clone(&shard.inbox) as Arc<dyn EventSink>).collect());
    Ok(running)
}

/// The executors of modules in this process, apart from the shards' own part.
#[derive(Clone)]
struct Executors {
    factory: RunnerFactory,
    pool: Arc<Pool>,
    /// For calls of routes with `CWEB_STREAM`.
    streams: Arc<Pool>,
}

impl Executors {
    fn companion(self, shard: usize, core: Option<CoreId>) -> std::io::Result<(Companion, Self)> {
        Ok((Companion::start(shard, core, Arc::clone(&self.factory))?, self))
    }
}

fn start_executors(config: &Config, free_cores: Vec<CoreId>) -> Result<Executors, ServeError> {
    let factory: RunnerFactory = Arc::new(|| Box::new(InProcess::executor()) as Box<dyn Runner>);
    let threads_min = if free_cores.is_empty() { config.shards } else { free_cores.len() };
    let pool = Pool::start(threads_min, config.modules.executors_max, free_cores.clone(), Arc::clone(&factory));
    let pool = Arc::new(pool.map_err(setup("starting the executor pool"))?);
    let streams_max = config.modules.stream_calls_max.saturating_mul(config.shards);
    let streams = Pool::start(1, streams_max, free_cores, Arc::clone(&factory));
    let streams = Arc::new(streams.map_err(setup("starting the executor pool of streams"))?);
    Ok(Executors { factory, pool, streams })
}

/// Chooses the reactor: io_uring where the kernel allows it.
fn reactor(config: &Config) -> ReactorKind {
    let kind = match config.reactor {
        Reactor::Monoio => ReactorKind::Monoio,
        Reactor::Native => match net::io_uring_available(ReactorKind::Native, config.shards) {
            Ok(()) => return ReactorKind::Native,
            Err(reason) => {
                tracing::warn!("--reactor native is not available ({reason}): using monoio");
                ReactorKind::Monoio
            }
        },
        #[cfg(feature = "glommio")]
        Reactor::Glommio => ReactorKind::Glommio,
        // Config::load refuses this setting.
        #[cfg(not(feature = "glommio"))]
        Reactor::Glommio => ReactorKind::Monoio,
    };
    if let Err(reason) = net::io_uring_available(kind, config.shards) {
        tracing::warn!("io_uring is not available ({reason}): using epoll, which is a little slower");
        return ReactorKind::MonoioEpoll;
    }
    kind
}

fn shard_limits(config: &Config) -> ShardLimits {
    let own_body_bytes_max = config
        .limits
        .body_bytes_max
        .max(config.limits.mgnt_body_bytes_max)
        .max(config.jobs.job_payload_bytes_max.saturating_add(JOB_FIELDS_BYTES_MAX));
    ShardLimits {
        http: http1::Limits {
            head_bytes_max: config.limits.head_bytes_max,
            headers_max: config.limits.headers_max,
            uri_bytes_max: config.limits.uri_bytes_max,
            body_bytes_max: own_body_bytes_max.max(config.limits.route_body_bytes_max),
        },
        body_bytes_max: config.limits.body_bytes_max,
        route_body_bytes_max: config.limits.route_body_bytes_max,
        own_body_bytes_max,
        // Any single permitted body must fit.
        bodies_bytes_max: bodies_bytes_max(config).max(own_body_bytes_max).max(config.limits.route_body_bytes_max),
        connections_max: config.connections_max,
        requests_per_connection_max: match config.limits.requests_per_connection_max {
            0 => u64::MAX,
            max => max,
        },
        pipeline_max: config.limits.pipeline_max,
        in_flight_max: IN_FLIGHT_MAX,
        own_in_flight_max: OWN_IN_FLIGHT_MAX,
        streams_max: config.jobs.job_streams_max,
        unsent_bytes_max: UNSENT_BYTES_MAX,
        ws_message_bytes_max: config.websockets.ws_message_bytes_max,
        ws_queue_bytes_max: config.websockets.ws_queue_bytes_max,
        ws_inbox_messages_max: config.websockets.ws_inbox_messages_max,
        ws_rooms_max: config.websockets.ws_rooms_max,
        ws_compress: config.websockets.ws_compress_bytes_min > 0,
        header_timeout_ms: config.timeouts.header_timeout_ms,
        body_timeout_ms: config.timeouts.body_timeout_ms,
        idle_timeout_ms: config.timeouts.idle_timeout_ms,
        write_timeout_ms: config.timeouts.write_timeout_ms,
        ws_ping_interval_ms: config.websockets.ws_ping_interval_ms,
        ws_pong_timeout_ms: config.websockets.ws_pong_timeout_ms,
        handler_timeout_ms: config.timeouts.handler_timeout_ms,
        cors_origin: Some(config.cors.cors_allow_origin.clone()).filter(|origin| !origin.is_empty()),
        cors_methods: config.cors.cors_allow_methods.clone(),
        cors_headers: config.cors.cors_allow_headers.clone(),
        cors_max_age_s: config.cors.cors_max_age_s,
        dev: config.projects.dev,
    }
}
