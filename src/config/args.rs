//! Every setting once: its flag, environment variable, key of the file, type, default if it is the same on every machine, and the
//! range of a number.
//!
//! `name: type = default => range`. The help of `cweb serve` is made of this table, and so are the checks of numbers; a test compares
//! it with the reference in docs/operations.md.

use super::user_range::UserRange;
use super::values::{
    DAY_S, Durability, Isolation, ModuleDatabase, ModuleJobs, Number, Reactor, RequireSandbox, Shown, Span, at_least,
    between, zero_or,
};
use crate::proto::http1;
use clap::builder::BoolishValueParser;
use clap::{Args, Command, FromArgMatches};
use serde::{Deserialize, Deserializer};
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

/// A list of texts, or the switch that it has been in earlier versions.
fn switch_or_list<'d, D: Deserializer<'d>>(from: D) -> Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Value {
        Switch(bool),
        List(Vec<String>),
    }
    let value =
        Value::deserialize(from).map_err(|_| serde::de::Error::custom("expected true, false or a list of texts"))?;
    Ok(Some(match value {
        Value::Switch(on) => vec![on.to_string()],
        Value::List(texts) => texts,
    }))
}

/// The variable whose empty value means something: no such header.
const MAY_BE_EMPTY: &str = "CWEB_CORS_ALLOW_ORIGIN";

/// Smallest address space a process of modules starts in, and some for the modules. The stacks of the threads and the allocator's reserve
/// count too.
pub(super) const MODULE_MEMORY_BYTES_MIN: u64 = 4 * 1024 * 1024 * 1024;
/// Smallest memory a process of modules can work in: what it has at the start, and bodies that it is answering with.
pub(super) const MODULE_RESIDENT_BYTES_MIN: u64 = 64 * 1024 * 1024;
/// Most bytes of one part of a job: all parts together stay within a row of SQLite, 1,000,000,000 bytes.
const JOB_PART_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Most shards; beyond it a machine would have more cores than this has been thought through for.
pub(super) const SHARDS_MAX: usize = 256;
/// Threads beyond this only wait for each other.
pub(super) const JOB_WORKERS_MAX: usize = 1024;

/// Headings of `cweb serve --help`.
const CORS: &str = "Cross-origin requests";
const LIMITS: &str = "Limits";
const TIMEOUTS: &str = "Time-outs";
const JOBS: &str = "Jobs";

macro_rules! settings {
    ($( $(#[doc = $doc:literal])* $(#[arg($($arg:tt)*)])* $(#[serde($($serde:tt)*)])* $name:ident : $type:ty $(= $default:expr)? $(=> $range:expr)? ),* $(,)?) => {
        /// The settings as flags, environment or file give them; what is not given has its default.
        #[derive(Debug, Clone, Default, Args, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct ServeArgs {
            $( $(#[doc = $doc])* $(#[arg($($arg)*)])* $(#[serde($($serde)*)])* pub $name: Option<$type>, )*
            /// Settings file [default: cweb.toml in the data directory, if there is one]
            #[arg(long, env = "CWEB_CONFIG", value_name = "FILE")]
            #[serde(skip)]
            pub config: Option<PathBuf>,
            /// Check the settings, the certificate and the keys, say what is wrong, and serve nothing
            #[arg(long)]
            #[serde(skip)]
            pub check: bool,
            /// The key for /mgnt, /jobs and /metrics: from CWEB_ADMIN_KEY or the file, never from a flag that `ps` shows
            #[arg(skip)]
            pub admin_key: Option<String>,
        }

        /// The values that are given, or else the defaults that are the same on every machine.
        impl ServeArgs {
            $( $(
                pub(super) fn $name(&self) -> $type {
                    self.$name.clone().unwrap_or_else(|| $default)
                }
            )? )*
        }

        /// The default of the setting whose flag has the id `id`, if it is the same on every machine.
        fn default_of(id: &str) -> Option<String> {
            match id {
                $( $( stringify!($name) => { let default: $type = $default; Some(default.shown()) } )? )*
                _ => None,
            }
        }

        impl ServeArgs {
            /// Numbers that are out of range, one line each.
            pub(super) fn out_of_range(&self) -> Vec<String> {
                let mut problems = Vec::new();
                $( $( problems.extend(self.$name.and_then(|given| $range.problem(stringify!($name), given.number()))); )? )*
                problems
            }

            /// These settings, and those of `other` where these have none.
            pub(super) fn or(self, other: Self) -> Self {
                Self {
                    $( $name: self.$name.or(other.$name), )*
                    config: self.config.or(other.config),
                    check: self.check || other.check,
                    admin_key: self.admin_key.or(other.admin_key),
                }
            }
        }
    };
}

settings! {
    /// Port on 127.0.0.1, or on 0.0.0.0 with --production; 0 lets the kernel choose
    #[arg(short, long, env = "PORT")]
    port: u16 = 8080,
    /// Address to listen on, ADDR:PORT or unix:PATH; may be repeated. Beside it, --port adds one more
    #[arg(long, env = "CWEB_LISTEN", value_delimiter = ',', value_name = "ADDR")]
    listen: Vec<String>,
    /// Address for /mgnt, /jobs and /metrics alone, ADDR:PORT or unix:PATH; may be repeated. They are nowhere else then
    #[arg(long, env = "CWEB_ADMIN_LISTEN", value_delimiter = ',', value_name = "ADDR")]
    admin_listen: Vec<String>,
    /// Threads that serve connections, pinned to a core each [default: cores available to the process]
    #[arg(long, env = "CWEB_SHARDS", value_name = "N")]
    shards: usize => between(1, SHARDS_MAX as u64),
    /// How the kernel is asked for IO
    #[arg(long, env = "CWEB_REACTOR")]
    reactor: Reactor = Reactor::Monoio,
    /// Directory of all state; modules open files relative to it [default: .]
    #[arg(long, env = "CWEB_DATA_DIR", value_name = "DIR")]
    data_dir: PathBuf,
    /// Directory of the deployed modules [default: modules in the data directory]
    #[arg(short, long, env = "CWEB_MODULE_DIR", value_name = "DIR")]
    module_dir: PathBuf,
    /// Where modules run: in sandboxed processes of their own, or in the server
    #[arg(long, env = "CWEB_ISOLATION")]
    isolation: Isolation = Isolation::Process,
    /// Directory that modules may read; may be repeated. Matters with --isolation process only
    #[arg(long, env = "CWEB_ALLOW_READ", value_delimiter = ',', value_name = "DIR")]
    allow_read: Vec<PathBuf>,
    /// Library that sources may link with beside those that only compute; may be repeated; all for every one that is installed
    #[arg(long, env = "CWEB_ALLOW_LIB", value_delimiter = ',', value_name = "NAME")]
    allow_lib: Vec<String>,
    /// Serve ready shared objects (.so) too, in whatever language they were written. With --isolation none they can do all that the server can
    #[arg(long, env = "CWEB_ALLOW_BINARY", num_args = 0..=1, default_missing_value = "true", value_parser = BoolishValueParser::new(), value_name = "BOOL", hide_possible_values = true)]
    allow_binary: bool,
    /// Directory that modules may write; may be repeated. Matters with --isolation process only
    #[arg(long, env = "CWEB_ALLOW_WRITE", value_delimiter = ',', value_name = "DIR")]
    allow_write: Vec<PathBuf>,
    /// Let modules connect by TCP to ADDRESS:PORT, NETWORK/BITS:PORT or NAME:PORT, those of one domain with DOMAIN= before it; may be repeated. Without a value: sockets of all kinds, to anywhere. Matters with --isolation process only
    #[arg(long, env = "CWEB_ALLOW_NET", num_args = 0..=1, default_missing_value = "true", value_delimiter = ',', value_name = "DESTINATION")]
    #[serde(deserialize_with = "switch_or_list")]
    allow_net: Vec<String>,
    /// Memory of the processes of all modules together; beyond it the domain that has grown most is ended; 0 for no limit. With --isolation process only [default: half of the machine's, or of the cgroup's limit]
    #[arg(long, env = "CWEB_MODULES_MEMORY_BYTES_MAX", value_name = "BYTES")]
    modules_memory_bytes_max: u64,
    /// Users, by their numbers, as which the domains but the default one run, each as one of its own; the server has to be root. Without the flag all run as nobody
    #[arg(long, env = "CWEB_MODULE_UIDS", value_name = "FIRST-LAST")]
    module_uids: UserRange,
    /// Do not start with a weaker sandbox of modules than this [default: landlock with --production, else basic]
    #[arg(long, env = "CWEB_REQUIRE_SANDBOX", value_name = "LEVEL")]
    require_sandbox: RequireSandbox,
    /// System call that modules may make besides, by its name; may be repeated. With --isolation process only
    #[arg(long, env = "CWEB_ALLOW_SYSCALL", value_delimiter = ',', value_name = "NAME")]
    allow_syscall: Vec<String>,
    /// Whether each domain has a database of its own, or all share one, which any of them can lock, change and delete. Matters with --isolation process only
    #[arg(long, env = "CWEB_MODULE_DATABASE")]
    module_database: ModuleDatabase = ModuleDatabase::Domain,
    /// Of which modules a module may create jobs (jobs_create) and read the jobs by SQL: those of its own domain, or of all
    #[arg(long, env = "CWEB_MODULE_JOBS")]
    module_jobs: ModuleJobs = ModuleJobs::Domain,
    /// Most threads that the modules of a domain start; a process with more is ended. With --isolation process only
    #[arg(long, env = "CWEB_MODULE_THREADS_MAX", value_name = "N")]
    module_threads_max: usize = 1024,
    /// Most descriptors that a process of modules opens, at least 256. With --isolation process only, within the limit of descriptors
    #[arg(long, env = "CWEB_MODULE_OPEN_FILES_MAX", value_name = "N")]
    module_open_files_max: u64 = 16 * 1024 => at_least(256),
    /// Most bytes of a domain's database and scratch files; it can't write files beyond; 0 for no limit. With --isolation process only [default: a quarter of what is free at the start, at least 1 GiB]
    #[arg(long, env = "CWEB_MODULE_DISK_BYTES_MAX", value_name = "BYTES")]
    module_disk_bytes_max: u64,
    /// Most bytes that a domain prints in a second; more is dropped and counted. With --isolation process only
    #[arg(long, env = "CWEB_MODULE_OUTPUT_BYTES_MAX", value_name = "BYTES")]
    module_output_bytes_max: usize = 1024 * 1024,
    /// Address space of the process of the modules; 0 for no limit. With --isolation process only
    #[arg(long, env = "CWEB_MODULE_MEMORY_BYTES_MAX", value_name = "BYTES")]
    module_memory_bytes_max: u64 = 0 => zero_or(MODULE_MEMORY_BYTES_MIN),
    /// Memory that the process of the modules may use, where the server can make cgroups; 0 for --module-memory-bytes-max. With --isolation process only
    #[arg(long, env = "CWEB_MODULE_RESIDENT_BYTES_MAX", value_name = "BYTES")]
    module_resident_bytes_max: u64 = 0 => zero_or(MODULE_RESIDENT_BYTES_MIN),
    /// Growth of the memory of the process of the modules at which it is replaced; 0 for no limit
    #[arg(long, env = "CWEB_MODULE_RSS_RECYCLE_BYTES", value_name = "BYTES")]
    // Less is no growth: threads that come and go move as much.
    module_rss_recycle_bytes: u64 = 1024 * 1024 * 1024 => zero_or(16 * 1024 * 1024),
    /// Crashes of a module in --crash-window-ms after which it is left out; 0 for never. With --isolation process only
    #[arg(long, env = "CWEB_CRASH_LIMIT", value_name = "N")]
    crash_limit: usize = 5 => between(0, 1000),
    /// Directory for core files of modules that crash; a crash ends the module's process at once then. With --isolation process only
    #[arg(long, env = "CWEB_CORE_DIR", value_name = "DIR")]
    core_dir: PathBuf,
    /// Most bytes of a core file; it is cut off beyond
    #[arg(long, env = "CWEB_CORE_BYTES_MAX", value_name = "BYTES")]
    // Room for the stacks of a process.
    core_bytes_max: u64 = 1024 * 1024 * 1024 => at_least(1024 * 1024),
    /// Most core files in --core-dir; beyond, there are no more until some are removed
    #[arg(long, env = "CWEB_CORE_FILES_MAX", value_name = "N")]
    core_files_max: usize = 8 => at_least(1),
    /// The time in which crashes of a module count together
    #[arg(long, env = "CWEB_CRASH_WINDOW_MS", value_name = "MS")]
    crash_window_ms: u64 = 60_000 => at_least(1),
    /// Most domains, the processes that modules are deployed into by name. With --isolation process only
    #[arg(long, env = "CWEB_MAX_DOMAINS", value_name = "N")]
    // Each has a process, threads and, for each shard, 3 MiB of rings.
    domains_max: usize = 32 => between(1, 1024),
    /// Most threads for handlers that block or compute
    #[arg(long, env = "CWEB_EXECUTORS_MAX", value_name = "N")]
    executors_max: usize = 64 => at_least(1),
    /// Most calls at once of routes of CWEB_STREAM, a shard and domain; each has a thread
    #[arg(long, env = "CWEB_STREAM_CALLS_MAX", value_name = "N")]
    stream_calls_max: usize = 64 => between(1, 4096),
    /// Most calls at once of routes of CWEB_KILLABLE, a domain; each has a process. With --isolation process only
    #[arg(long, env = "CWEB_KILLABLE_CALLS_MAX", value_name = "N")]
    killable_calls_max: usize = 16 => between(1, 1024),
    /// Most streamed answers of other handlers at once, a shard and domain, detached ones among them
    #[arg(long, env = "CWEB_STREAM_ANSWERS_MAX", value_name = "N")]
    stream_answers_max: usize = 8 * 1024 => between(1, 1024 * 1024),
    /// Bytes of a body that wait for its handler, and of an answer for its client, on a route of CWEB_STREAM
    #[arg(long, env = "CWEB_STREAM_BUFFER_BYTES", value_name = "BYTES")]
    // What one receive brings of a body must fit.
    stream_buffer_bytes: usize = 1024 * 1024 => between(256 * 1024, 64 * 1024 * 1024),
    /// Listen on all interfaces, and ask for the admin key even from this machine
    #[arg(long, env = "CWEB_PRODUCTION", num_args = 0..=1, default_missing_value = "true", value_parser = BoolishValueParser::new(), value_name = "BOOL", hide_possible_values = true)]
    production: bool,
    /// For development: pages that include /cweb-dev/reload.js load again at each deployment; cweb dev starts a server so
    #[arg(long, env = "CWEB_DEV", num_args = 0..=1, default_missing_value = "true", value_parser = BoolishValueParser::new(), value_name = "BOOL", hide_possible_values = true)]
    dev: bool,
    /// File of named keys with scopes for /mgnt, /jobs and /metrics; see cweb keygen. Read again at SIGHUP
    #[arg(long, env = "CWEB_KEYS_FILE", value_name = "FILE")]
    keys_file: PathBuf,
    /// Wrong keys of an address in a minute after which its keys are refused; 0 for no limit
    #[arg(long, env = "CWEB_AUTH_FAILURES_MAX", value_name = "N")]
    auth_failures_max: u32 = 10,
    /// Certificate of the server and its chain, PEM: TCP addresses serve HTTPS and WSS then. Read again at SIGHUP [default with --production: server.crt in the data directory, if it is there]
    #[arg(long, env = "CWEB_TLS_CERT", value_name = "FILE")]
    tls_cert: PathBuf,
    /// Private key of the certificate, PEM [default with --production: server.key in the data directory]
    #[arg(long, env = "CWEB_TLS_KEY", value_name = "FILE")]
    tls_key: PathBuf,
    /// Certificates of authorities, PEM: each client of an address of modules must have a certificate of one of them, whose name cweb_client_name tells. Addresses of --admin-listen ask for none
    #[arg(long, env = "CWEB_TLS_CLIENT_CA", value_name = "FILE")]
    tls_client_ca: PathBuf,
    /// Let in clients without a certificate, too; those with one need a certificate of --tls-client-ca
    #[arg(long, env = "CWEB_TLS_CLIENT_OPTIONAL", num_args = 0..=1, default_missing_value = "true", value_parser = BoolishValueParser::new(), value_name = "BOOL", hide_possible_values = true)]
    tls_client_optional: bool,
    /// Key that tokens of modules are signed with, PEM; made if it is not there, and never that of the certificate [default with HTTPS: token.key in the data directory]
    #[arg(long, env = "CWEB_TOKEN_KEY", value_name = "FILE")]
    token_key: PathBuf,
    /// Forget all modules at exit
    #[arg(long, env = "CWEB_PURGE_MODULES", num_args = 0..=1, default_missing_value = "true", value_parser = BoolishValueParser::new(), value_name = "BOOL", hide_possible_values = true)]
    purge_modules: bool,
    /// Log warnings and errors only
    #[arg(short, long, env = "CWEB_SILENT", num_args = 0..=1, default_missing_value = "true", value_parser = BoolishValueParser::new(), value_name = "BOOL", hide_possible_values = true)]
    silent: bool,
    /// Do not wait for running requests at exit
    #[arg(short = 'F', long, env = "CWEB_SHUTDOWN_FORCE", num_args = 0..=1, default_missing_value = "true", value_parser = BoolishValueParser::new(), value_name = "BOOL", hide_possible_values = true)]
    force_shutdown: bool,
    /// Longest wait for running requests at exit
    #[arg(long, env = "CWEB_SHUTDOWN_TIMEOUT_MS", value_name = "MS")]
    shutdown_timeout_ms: u64 = 5_000,
    /// Content codings of answers, the ones that are preferred first, or off
    #[arg(long, env = "CWEB_COMPRESS", value_delimiter = ',', value_name = "CODINGS")]
    compress: Vec<String> = ["zstd", "br", "gzip"].map(str::to_owned).to_vec(),
    /// Access-Control-Allow-Origin of all answers; empty for none
    #[arg(long, env = "CWEB_CORS_ALLOW_ORIGIN", value_name = "ORIGIN", help_heading = CORS)]
    cors_allow_origin: String = "*".to_owned(),
    /// Access-Control-Allow-Methods of preflights
    #[arg(long, env = "CWEB_CORS_ALLOW_METHODS", value_name = "LIST", help_heading = CORS)]
    cors_allow_methods: String = "GET, POST, PUT, DELETE, OPTIONS, HEAD, PATCH".to_owned(),
    /// Access-Control-Allow-Headers of preflights
    #[arg(long, env = "CWEB_CORS_ALLOW_HEADERS", value_name = "LIST", help_heading = CORS)]
    cors_allow_headers: String = "Content-Type, Authorization, X-API-Key".to_owned(),
    /// Access-Control-Max-Age of preflights
    #[arg(long, env = "CWEB_CORS_MAX_AGE", value_name = "S", help_heading = CORS)]
    cors_max_age_s: u32 = 600,
    /// Largest request head
    #[arg(long, env = "CWEB_MAX_HEAD_BYTES", value_name = "BYTES", help_heading = LIMITS)]
    // A head crosses to the process of the modules in one record of its ring, which holds 256 KiB: with 16 bytes for each of at
    // most 1024 fields, and a body below 32 KiB.
    head_bytes_max: usize = 16 * 1024 => between(256, 131_072),
    /// Most header fields of a request
    #[arg(long, env = "CWEB_MAX_HEADERS", value_name = "N", help_heading = LIMITS)]
    headers_max: usize = 100 => between(1, http1::HEADERS_MAX as u64),
    /// Longest request target
    #[arg(long, env = "CWEB_MAX_URI_BYTES", value_name = "BYTES", help_heading = LIMITS)]
    uri_bytes_max: usize = 8 * 1024 => at_least(1),
    /// Largest request body for modules
    #[arg(long, env = "CWEB_MAX_BODY_BYTES", value_name = "BYTES", help_heading = LIMITS)]
    body_bytes_max: usize = 1024 * 1024,
    /// Largest request body for /mgnt, a source
    #[arg(long, env = "CWEB_MAX_SOURCE_BYTES", value_name = "BYTES", help_heading = LIMITS)]
    mgnt_body_bytes_max: usize = 4 * 1024 * 1024 => at_least(1),
    /// Largest body limit a route may give itself with CWEB_BODY_MIB
    #[arg(long, env = "CWEB_MAX_ROUTE_BODY_BYTES", value_name = "BYTES", help_heading = LIMITS)]
    route_body_bytes_max: usize = 64 * 1024 * 1024,
    /// Most bytes of all request bodies that a shard is receiving, of all that wait there, and of all that it has with a domain; each. Any one body that is allowed fits
    #[arg(long, env = "CWEB_MAX_BODIES_BYTES", value_name = "BYTES", help_heading = LIMITS)]
    bodies_bytes_max: usize = 512 * 1024 * 1024,
    /// Most bytes of large answers and WebSocket messages of a domain that are not sent yet; an answer for which there is no room is refused with 500 or 503. With --isolation process only
    #[arg(long, env = "CWEB_MODULE_ANSWERS_BYTES_MAX", value_name = "BYTES", help_heading = LIMITS)]
    module_answers_bytes_max: usize = 1024 * 1024 * 1024 => at_least(1),
    /// Most bytes of memory that clients make the server hold: unfinished requests and messages, answers that wait for them. Beyond it the biggest idle holders are closed, then new ones get 503 [default: a quarter of the memory of the machine, or of the cgroup around the server]
    #[arg(long, env = "CWEB_MEMORY_BYTES_MAX", value_name = "BYTES", help_heading = LIMITS)]
    // Less than one body holds nobody up.
    memory_bytes_max: usize => at_least(16 * 1024 * 1024),
    /// Most open connections of a shard, within the limit of descriptors
    #[arg(long, env = "CWEB_MAX_CONNECTIONS", value_name = "N", help_heading = LIMITS)]
    connections_max: usize = 16 * 1024 => at_least(1),
    /// Most open connections of one address, an IPv6 /64, over all shards; 0 for no limit. Peers on this machine have none [default: a quarter of all connections, at least 64]
    #[arg(long, env = "CWEB_MAX_CONNECTIONS_PER_PEER", value_name = "N", help_heading = LIMITS)]
    connections_per_peer_max: usize,
    /// Requests after which a connection is closed; 0 for no limit
    #[arg(long, env = "CWEB_MAX_REQUESTS_PER_CONNECTION", value_name = "N", help_heading = LIMITS)]
    requests_per_connection_max: u64 = 0,
    /// Most unanswered requests of a connection before reading pauses
    #[arg(long, env = "CWEB_MAX_PIPELINE", value_name = "N", help_heading = LIMITS)]
    pipeline_max: usize = 64 => at_least(1),
    /// Most memory that a handler may take for one request with cweb_alloc
    #[arg(long, env = "CWEB_REQUEST_MEMORY_BYTES_MAX", value_name = "BYTES", help_heading = LIMITS)]
    request_memory_bytes_max: usize = 16 * 1024 * 1024 => at_least(1),
    /// Proxy whose word counts about who the client is, for cweb_peer_address: an address, a network like 10.0.0.0/8, or unix for whoever connects by a Unix socket; may be repeated
    #[arg(long = "trusted-proxy", env = "CWEB_TRUSTED_PROXIES", value_delimiter = ',', value_name = "CIDR")]
    trusted_proxies: Vec<String>,
    /// The header field that those proxies write, x-forwarded-for or forwarded; the other one is not read
    #[arg(long, env = "CWEB_TRUSTED_PROXY_HEADER", value_name = "NAME")]
    trusted_proxy_header: String = "x-forwarded-for".to_owned(),
    /// Largest WebSocket message
    #[arg(long, env = "CWEB_MAX_WS_MESSAGE_BYTES", value_name = "BYTES", help_heading = LIMITS)]
    ws_message_bytes_max: usize = 16 * 1024 * 1024 => at_least(1),
    /// Most unsent bytes of a WebSocket before it is closed
    #[arg(long, env = "CWEB_MAX_WS_QUEUE_BYTES", value_name = "BYTES", help_heading = LIMITS)]
    ws_queue_bytes_max: usize = 8 * 1024 * 1024 => at_least(1),
    /// Most messages of a WebSocket that wait for its handler before reading pauses
    #[arg(long, env = "CWEB_MAX_WS_INBOX", value_name = "N", help_heading = LIMITS)]
    ws_inbox_messages_max: usize = 1024 => at_least(1),
    /// Most files of a project
    #[arg(long, env = "CWEB_PROJECT_FILES_MAX", value_name = "N", help_heading = LIMITS)]
    project_files_max: usize = 1000 => at_least(1),
    /// Most bytes of all files of a project together
    #[arg(long, env = "CWEB_PROJECT_BYTES_MAX", value_name = "BYTES", help_heading = LIMITS)]
    project_bytes_max: usize = 64 * 1024 * 1024 => at_least(1),
    /// File of those whose signature every source needs, as cweb keygen --signing prints them [default: no signature is needed]
    #[arg(long, env = "CWEB_TRUSTED_SIGNERS", value_name = "FILE")]
    trusted_signers: PathBuf,
    /// Versions of each module that are kept with their sources
    #[arg(long, env = "CWEB_VERSIONS_KEPT", value_name = "N", help_heading = LIMITS)]
    versions_kept: usize = 20 => at_least(1),
    /// Most bytes of each module's last lines that are kept for cweb logs
    #[arg(long, env = "CWEB_MODULE_LOG_BYTES_MAX", value_name = "BYTES", help_heading = LIMITS)]
    module_log_bytes_max: usize = 256 * 1024,
    /// Most rooms that a WebSocket may be in; cweb_ws_join() fails beyond it
    #[arg(long, env = "CWEB_WS_ROOMS_MAX", value_name = "N", help_heading = LIMITS)]
    ws_rooms_max: usize = 64,
    /// Smallest WebSocket message that is sent compressed; 0 turns the compression of WebSockets off
    #[arg(long, env = "CWEB_WS_COMPRESS_BYTES_MIN", value_name = "BYTES")]
    ws_compress_bytes_min: usize = 1024,
    /// Most deployments that wait
    #[arg(long, env = "CWEB_DEPLOY_QUEUE_MAX", value_name = "N", help_heading = LIMITS)]
    deploy_queue_max: usize = 64 => at_least(1),
    /// Longest from a request's first byte to the end of its head
    #[arg(long, env = "CWEB_HEADER_TIMEOUT_MS", value_name = "MS", help_heading = TIMEOUTS)]
    header_timeout_ms: u64 = 10_000 => at_least(1),
    /// Longest between two pieces of a request body
    #[arg(long, env = "CWEB_BODY_TIMEOUT_MS", value_name = "MS", help_heading = TIMEOUTS)]
    body_timeout_ms: u64 = 30_000 => at_least(1),
    /// Longest that a connection stays open with nothing asked on it
    #[arg(long, env = "CWEB_IDLE_TIMEOUT_MS", value_name = "MS", help_heading = TIMEOUTS)]
    idle_timeout_ms: u64 = 75_000 => at_least(1),
    /// Longest that a peer takes none of its answer
    #[arg(long, env = "CWEB_WRITE_TIMEOUT_MS", value_name = "MS", help_heading = TIMEOUTS)]
    write_timeout_ms: u64 = 30_000 => at_least(1),
    /// A WebSocket from which nothing came for this long gets a ping; 0 for none
    #[arg(long, env = "CWEB_WS_PING_INTERVAL_MS", value_name = "MS", help_heading = TIMEOUTS)]
    ws_ping_interval_ms: u64 = 30_000,
    /// Longest wait for a sign of life after a ping
    #[arg(long, env = "CWEB_WS_PONG_TIMEOUT_MS", value_name = "MS", help_heading = TIMEOUTS)]
    ws_pong_timeout_ms: u64 = 10_000 => at_least(1),
    /// Longest run of a handler; with --isolation process only
    #[arg(long, env = "CWEB_HANDLER_TIMEOUT_MS", value_name = "MS", help_heading = TIMEOUTS)]
    handler_timeout_ms: u64 = 30_000 => at_least(1),
    /// Longest run of the compiler
    #[arg(long, env = "CWEB_COMPILE_TIMEOUT_MS", value_name = "MS", help_heading = TIMEOUTS)]
    compile_timeout_ms: u64 = 10_000 => at_least(1),
    /// Longest wait for running requests in a swap with unload and onload
    #[arg(long, env = "CWEB_SWAP_TIMEOUT_MS", value_name = "MS", help_heading = TIMEOUTS)]
    swap_timeout_ms: u64 = 30_000 => at_least(1),
    /// Longest run of onload, unload, a constructor or a job's cancel callback; with --isolation process only
    #[arg(long, env = "CWEB_HOOK_TIMEOUT_MS", value_name = "MS", help_heading = TIMEOUTS)]
    hook_timeout_ms: u64 = 30_000 => at_least(1),
    /// Threads that run jobs, one job each [default: cores available to the process]
    #[arg(long, env = "CWEB_JOB_WORKERS", value_name = "N", help_heading = JOBS)]
    job_workers: usize => between(1, JOB_WORKERS_MAX as u64),
    /// When what happens to a job counts as written: on the disk (full) or in the kernel's hands (normal)
    #[arg(long, env = "CWEB_DURABILITY", help_heading = JOBS)]
    durability: Durability = Durability::Full,
    /// How long finished jobs are kept: seconds, or a number with s, m, h, d or w
    #[arg(long, env = "CWEB_JOB_RETENTION", value_name = "TIME", help_heading = JOBS)]
    job_retention: Span = Span { seconds: 7 * DAY_S },
    /// Largest payload of a job
    #[arg(long, env = "CWEB_JOB_PAYLOAD_BYTES_MAX", value_name = "BYTES", help_heading = JOBS)]
    job_payload_bytes_max: usize = 1024 * 1024 => between(1, JOB_PART_BYTES_MAX),
    /// Largest event of a job
    #[arg(long, env = "CWEB_JOB_EVENT_BYTES_MAX", value_name = "BYTES", help_heading = JOBS)]
    job_event_bytes_max: usize = 256 * 1024 => between(1, JOB_PART_BYTES_MAX),
    /// Most events that one job emits; emit_event returns -1 for more
    #[arg(long, env = "CWEB_JOB_EVENTS_MAX", value_name = "N", help_heading = JOBS)]
    job_events_max: u64 = 1_000_000,
    /// Most bytes of the events that one job emits
    #[arg(long, env = "CWEB_JOB_EVENTS_BYTES_MAX", value_name = "BYTES", help_heading = JOBS)]
    job_events_bytes_max: u64 = 256 * 1024 * 1024,
    /// Largest result of a job
    #[arg(long, env = "CWEB_JOB_RESULT_BYTES_MAX", value_name = "BYTES", help_heading = JOBS)]
    job_result_bytes_max: usize = 4 * 1024 * 1024 => between(1, JOB_PART_BYTES_MAX),
    /// Largest checkpoint of a job
    #[arg(long, env = "CWEB_JOB_CHECKPOINT_BYTES_MAX", value_name = "BYTES", help_heading = JOBS)]
    job_checkpoint_bytes_max: usize = 1024 * 1024 => between(1, JOB_PART_BYTES_MAX),
    /// Largest blob, a file that jobs work on
    #[arg(long, env = "CWEB_BLOB_BYTES_MAX", value_name = "BYTES", help_heading = JOBS)]
    blob_bytes_max: u64 = 8 * 1024 * 1024 * 1024 => at_least(1),
    /// Most bytes of all blobs together [default: a quarter of what is free at the start, at least 1 GiB]
    #[arg(long, env = "CWEB_BLOBS_BYTES_MAX", value_name = "BYTES", help_heading = JOBS)]
    blobs_bytes_max: u64,
    /// How long a blob is kept that no job needs, from its last use on: seconds, or a number with s, m, h, d or w
    #[arg(long, env = "CWEB_BLOB_RETENTION", value_name = "TIME", help_heading = JOBS)]
    blob_retention: Span = Span { seconds: 7 * DAY_S },
    /// Most commands about jobs that wait for the writer
    #[arg(long, env = "CWEB_JOB_QUEUE_MAX", value_name = "N", help_heading = JOBS)]
    job_queue_max: usize = 8192 => at_least(1),
    /// Most jobs that wait or run
    #[arg(long, env = "CWEB_JOB_PENDING_MAX", value_name = "N", help_heading = JOBS)]
    job_pending_max: usize = 100_000 => at_least(1),
    /// Most jobs of one module that run at once; 0 for no limit
    #[arg(long, env = "CWEB_JOB_MODULE_RUNNING_MAX", value_name = "N", help_heading = JOBS)]
    job_module_running_max: usize = 0,
    /// Most jobs of the modules of one domain that run at once; 0 for no limit but --job-workers
    #[arg(long, env = "CWEB_JOB_DOMAIN_RUNNING_MAX", value_name = "N", help_heading = JOBS)]
    job_domain_running_max: usize = 0,
    /// Longest run of a job for which neither its submission nor its module says one: seconds, or a number with s, m, h, d or w; 0 for no limit
    #[arg(long, env = "CWEB_JOB_TIMEOUT", value_name = "TIME", help_heading = JOBS)]
    job_timeout: Span = Span { seconds: DAY_S },
    /// Most streams of job events of a shard
    #[arg(long, env = "CWEB_JOB_STREAMS_MAX", value_name = "N", help_heading = JOBS)]
    job_streams_max: usize = 1024 => at_least(1),
}

impl ServeArgs {
    /// The settings that environment variables give, read by `get`, and every variable whose value is wrong. An empty
    /// variable counts as unset, since compose files pass on so what nobody has set.
    pub(super) fn from_env(get: impl Fn(&str) -> Option<OsString>) -> (Self, Vec<String>) {
        let flags = Self::augment_args(Command::new("environment").no_binary_name(true));
        // The flags without their variables: only those that are set here are to be parsed.
        let parser = flags.clone().mut_args(|arg| arg.env(None::<&str>));
        let (mut given, mut problems) = (Self::default(), Vec::new());
        for flag in flags.get_arguments() {
            let (Some(long), Some(name)) = (flag.get_long(), flag.get_env().and_then(OsStr::to_str)) else { continue };
            let Some(value) = get(name).filter(|value| !value.is_empty() || name == MAY_BE_EMPTY) else { continue };
            let mut word = OsString::from(format!("--{long}="));
            word.push(value);
            let parsed =
                parser.clone().try_get_matches_from([word]).and_then(|matches| Self::from_arg_matches(&matches));
            match parsed {
                Ok(one) => given = given.or(one),
                Err(error) => problems.push(format!("{name}: {}", first_paragraph(&error))),
            }
        }
        // Not a flag: `ps` shows those.
        given.admin_key = get("CWEB_ADMIN_KEY").filter(|key| !key.is_empty()).and_then(|key| {
            key.into_string().map_err(|_| problems.push("CWEB_ADMIN_KEY: this is not UTF-8".to_owned())).ok()
        });
        (given, problems)
    }
}

/// What clap has to say, without its advice.
fn first_paragraph(error: &clap::Error) -> String {
    let text = error.to_string();
    let lines = text.split("\n\n").next().unwrap_or("").lines().map(str::trim);
    lines.collect::<Vec<_>>().join(" ").trim_start_matches("error: ").to_owned()
}

/// Hides the environment from the parser of the flags, which would read it for every command. The help keeps its names, and has
/// the defaults.
pub fn without_env(command: Command) -> Command {
    told_defaults(command).mut_args(|arg| match (arg.get_env().and_then(OsStr::to_str), arg.get_help()) {
        (Some(name), Some(help)) => {
            let help = format!("{help} [env: {name}]");
            arg.env(None::<&str>).help(help)
        }
        _ => arg,
    })
}

/// The same flags with their defaults in the help.
fn told_defaults(command: Command) -> Command {
    command.mut_args(|arg| match (default_of(arg.get_id().as_str()), arg.get_help()) {
        (Some(default), Some(help)) if arg.get_env().is_some() => {
            let help = format!("{help} [default: {default}]");
            arg.help(help)
        }
        _ => arg,
    })
}

#[cfg(test)]
#[path = "documented.rs"]
mod documented;
