//! The table of all settings: each setting's flag, environment variable, key of the file, type, range of numbers, and its
//! default if that is the same on every machine.
//!
//! `name: type = default => range`. The help of `cweb serve` and the checks of numbers are made from this table; a test
//! compares the table with the reference in docs/operations.md.

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

/// Reads a list of texts, or a boolean, which the setting was in earlier versions.
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

/// The variable for which an empty value has a meaning: no such header.
const MAY_BE_EMPTY: &str = "CWEB_CORS_ALLOW_ORIGIN";

/// Smallest address space, in bytes, in which a domain's process can start and load modules. Stacks and the allocator's
/// reserve count as address space, too.
pub(super) const MODULE_MEMORY_BYTES_MIN: u64 = 4 * 1024 * 1024 * 1024;
/// Smallest memory, in bytes, in which a domain's process can work: its memory after the start, and bodies in use.
pub(super) const MODULE_RESIDENT_BYTES_MIN: u64 = 64 * 1024 * 1024;
/// Limit, in bytes, on one part of a job: all parts together must fit into a row of SQLite, 1,000,000,000 bytes.
const JOB_PART_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Limit on shards: the design has not been examined for machines with more cores.
pub(super) const SHARDS_MAX: usize = 256;
/// Limit on job threads: more of them would only wait for each other.
pub(super) const JOB_WORKERS_MAX: usize = 1024;

/// Headings of `cweb serve --help`.
const CORS: &str = "Cross-origin requests";
const LIMITS: &str = "Limits";
const TIMEOUTS: &str = "Time-outs";
const JOBS: &str = "Jobs";

macro_rules! settings {
    ($( $(#[doc = $doc:literal])* $(#[arg($($arg:tt)*)])* $(#[serde($($serde:tt)*)])* $name:ident : $type:ty $(= $default:expr)? $(=> $range:expr)? ),* $(,)?) => {
        /// The settings given by flags, environment or file; the others have their defaults.
        #[derive(Debug, Clone, Default, Args, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct ServeArgs {
            $( $(#[doc = $doc])* $(#[arg($($arg)*)])* $(#[serde($($serde)*)])* pub $name: Option<$type>, )*
            /// Settings file [default: cweb.toml in the data directory, if it exists]
            #[arg(long, env = "CWEB_CONFIG", value_name = "FILE")]
            #[serde(skip)]
            pub config: Option<PathBuf>,
            /// Check the settings, the certificate and the keys, print all problems, and serve nothing
            #[arg(long)]
            #[serde(skip)]
            pub check: bool,
            /// The key for /mgnt, /jobs and /metrics: from CWEB_ADMIN_KEY or the file, never from a flag that `ps` shows
            #[arg(skip)]
            pub admin_key: Option<String>,
        }

        /// The given values, or else the defaults that are the same on every machine.
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

            /// These settings, completed from `other`.
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
    /// Address to listen on, ADDR:PORT or unix:PATH; may be repeated. With --port as well, the server also listens there
    #[arg(long, env = "CWEB_LISTEN", value_delimiter = ',', value_name = "ADDR")]
    listen: Vec<String>,
    /// Address for only /mgnt, /jobs and /metrics, ADDR:PORT or unix:PATH; may be repeated. Other addresses then don't
    /// serve these paths
    #[arg(long, env = "CWEB_ADMIN_LISTEN", value_delimiter = ',', value_name = "ADDR")]
    admin_listen: Vec<String>,
    /// Threads that serve connections, each pinned to a core [default: cores available to the process]
    #[arg(long, env = "CWEB_SHARDS", value_name = "N")]
    shards: usize => between(1, SHARDS_MAX as u64),
    /// The interface to the kernel for IO
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
    /// Directory that modules may read; may be repeated. Only with --isolation process
    #[arg(long, env = "CWEB_ALLOW_READ", value_delimiter = ',', value_name = "DIR")]
    allow_read: Vec<PathBuf>,
    /// Library that sources may link, beside those that only compute; may be repeated; all means every installed library
    #[arg(long, env = "CWEB_ALLOW_LIB", value_delimiter = ',', value_name = "NAME")]
    allow_lib: Vec<String>,
    /// Also serve ready shared objects (.so), written in any language. With --isolation none they have all rights of the
    /// server
    #[arg(long, env = "CWEB_ALLOW_BINARY", num_args = 0..=1, default_missing_value = "true", value_parser = BoolishValueParser::new(), value_name = "BOOL", hide_possible_values = true)]
    allow_binary: bool,
    /// Directory that modules may write; may be repeated. Only with --isolation process
    #[arg(long, env = "CWEB_ALLOW_WRITE", value_delimiter = ',', value_name = "DIR")]
    allow_write: Vec<PathBuf>,
    /// Let modules connect by TCP to ADDRESS:PORT, NETWORK/BITS:PORT or NAME:PORT; with DOMAIN= in front, only modules of
    /// that domain; may be repeated. Without a value: sockets of all kinds, to any destination. Only with --isolation
    /// process
    #[arg(long, env = "CWEB_ALLOW_NET", num_args = 0..=1, default_missing_value = "true", value_delimiter = ',', value_name = "DESTINATION")]
    #[serde(deserialize_with = "switch_or_list")]
    allow_net: Vec<String>,
    /// Limit, in bytes, on the memory of all processes of modules together; beyond it the server ends the domain that has
    /// grown most; 0 for no limit. Only with --isolation process [default: half of the machine's memory, or of the cgroup's
    /// limit]
    #[arg(long, env = "CWEB_MODULES_MEMORY_BYTES_MAX", value_name = "BYTES")]
    modules_memory_bytes_max: u64,
    /// User ids for domains other than default; each such domain runs as a user of its own. The server must be root.
    /// Without this flag all domains run as nobody
    #[arg(long, env = "CWEB_MODULE_UIDS", value_name = "FIRST-LAST")]
    module_uids: UserRange,
    /// Refuse to start if the sandbox of modules would be weaker than this [default: landlock with --production, else
    /// basic]
    #[arg(long, env = "CWEB_REQUIRE_SANDBOX", value_name = "LEVEL")]
    require_sandbox: RequireSandbox,
    /// System call, by name, that modules may make in addition; may be repeated. Only with --isolation process
    #[arg(long, env = "CWEB_ALLOW_SYSCALL", value_delimiter = ',', value_name = "NAME")]
    allow_syscall: Vec<String>,
    /// Whether each domain has a database of its own, or all share one, in which each domain can lock, change and delete
    /// the data of all. Only with --isolation process
    #[arg(long, env = "CWEB_MODULE_DATABASE")]
    module_database: ModuleDatabase = ModuleDatabase::Domain,
    /// The modules whose jobs a module may create (jobs_create) and read by SQL: those of its own domain, or all
    #[arg(long, env = "CWEB_MODULE_JOBS")]
    module_jobs: ModuleJobs = ModuleJobs::Domain,
    /// Limit on the threads of a domain's modules; the server ends a process with more. Only with --isolation process
    #[arg(long, env = "CWEB_MODULE_THREADS_MAX", value_name = "N")]
    module_threads_max: usize = 1024,
    /// Limit on the open descriptors of a domain's process, at least 256. Only with --isolation process, within the limit
    /// of descriptors
    #[arg(long, env = "CWEB_MODULE_OPEN_FILES_MAX", value_name = "N")]
    module_open_files_max: u64 = 16 * 1024 => at_least(256),
    /// Limit, in bytes, on a domain's database and scratch files; writes beyond it fail; 0 for no limit. Only with
    /// --isolation process [default: a quarter of the free space at the start, at least 1 GiB]
    #[arg(long, env = "CWEB_MODULE_DISK_BYTES_MAX", value_name = "BYTES")]
    module_disk_bytes_max: u64,
    /// Limit, in bytes a second, on the output of a domain; the server reads more slowly, drops and counts it. Only with
    /// --isolation process
    #[arg(long, env = "CWEB_MODULE_OUTPUT_BYTES_MAX", value_name = "BYTES")]
    module_output_bytes_max: usize = 1024 * 1024,
    /// Limit, in bytes, on the address space of a domain's process; 0 for no limit. Only with --isolation process
    #[arg(long, env = "CWEB_MODULE_MEMORY_BYTES_MAX", value_name = "BYTES")]
    module_memory_bytes_max: u64 = 0 => zero_or(MODULE_MEMORY_BYTES_MIN),
    /// Limit, in bytes, on the memory of a domain's process, if the server can make cgroups; 0 for
    /// --module-memory-bytes-max. Only with --isolation process
    #[arg(long, env = "CWEB_MODULE_RESIDENT_BYTES_MAX", value_name = "BYTES")]
    module_resident_bytes_max: u64 = 0 => zero_or(MODULE_RESIDENT_BYTES_MIN),
    /// Growth, in bytes, of the memory of a domain's process after which the server replaces the process; 0 for no limit
    #[arg(long, env = "CWEB_MODULE_RSS_RECYCLE_BYTES", value_name = "BYTES")]
    // Smaller values are below the normal variation: threads that start and end change the memory as much.
    module_rss_recycle_bytes: u64 = 1024 * 1024 * 1024 => zero_or(16 * 1024 * 1024),
    /// Number of crashes of a module within --crash-window-ms after which the module is in quarantine; 0 for never. Only
    /// with --isolation process
    #[arg(long, env = "CWEB_CRASH_LIMIT", value_name = "N")]
    crash_limit: usize = 5 => between(0, 1000),
    /// Directory for core files of crashed modules; a crash then ends the module's process at once. Only with --isolation
    /// process
    #[arg(long, env = "CWEB_CORE_DIR", value_name = "DIR")]
    core_dir: PathBuf,
    /// Limit, in bytes, on a core file; the rest is cut off
    #[arg(long, env = "CWEB_CORE_BYTES_MAX", value_name = "BYTES")]
    // The smallest value leaves room for the stacks of a process.
    core_bytes_max: u64 = 1024 * 1024 * 1024 => at_least(1024 * 1024),
    /// Limit on the core files in --core-dir; at the limit no further core files are written
    #[arg(long, env = "CWEB_CORE_FILES_MAX", value_name = "N")]
    core_files_max: usize = 8 => at_least(1),
    /// Time window for counting the crashes of a module
    #[arg(long, env = "CWEB_CRASH_WINDOW_MS", value_name = "MS")]
    crash_window_ms: u64 = 60_000 => at_least(1),
    /// Limit on domains, the processes into which modules are deployed by name. Only with --isolation process
    #[arg(long, env = "CWEB_MAX_DOMAINS", value_name = "N")]
    // Each domain has a process, threads and, for each shard, 3 MiB of rings.
    domains_max: usize = 32 => between(1, 1024),
    /// Limit on the threads for handlers that block or compute
    #[arg(long, env = "CWEB_EXECUTORS_MAX", value_name = "N")]
    executors_max: usize = 64 => at_least(1),
    /// Limit on concurrent calls of CWEB_STREAM routes, for each shard and domain; each call has a thread
    #[arg(long, env = "CWEB_STREAM_CALLS_MAX", value_name = "N")]
    stream_calls_max: usize = 64 => between(1, 4096),
    /// Limit on concurrent calls of CWEB_KILLABLE routes, for each domain; each call has a process. Only with --isolation
    /// process
    #[arg(long, env = "CWEB_KILLABLE_CALLS_MAX", value_name = "N")]
    killable_calls_max: usize = 16 => between(1, 1024),
    /// Limit on concurrent streamed answers of other handlers, including detached answers, for each shard and domain
    #[arg(long, env = "CWEB_STREAM_ANSWERS_MAX", value_name = "N")]
    stream_answers_max: usize = 8 * 1024 => between(1, 1024 * 1024),
    /// Limit, in bytes, on the part of a body that waits for its handler, and of an answer that waits for its client, on a
    /// CWEB_STREAM route
    #[arg(long, env = "CWEB_STREAM_BUFFER_BYTES", value_name = "BYTES")]
    // The body bytes of one receive must fit.
    stream_buffer_bytes: usize = 1024 * 1024 => between(256 * 1024, 64 * 1024 * 1024),
    /// Listen on all interfaces, and require the admin key from this machine, too
    #[arg(long, env = "CWEB_PRODUCTION", num_args = 0..=1, default_missing_value = "true", value_parser = BoolishValueParser::new(), value_name = "BOOL", hide_possible_values = true)]
    production: bool,
    /// For development: pages that include /cweb-dev/reload.js reload after each deployment; cweb dev starts its server
    /// with this flag
    #[arg(long, env = "CWEB_DEV", num_args = 0..=1, default_missing_value = "true", value_parser = BoolishValueParser::new(), value_name = "BOOL", hide_possible_values = true)]
    dev: bool,
    /// File of named keys with scopes for /mgnt, /jobs and /metrics; see cweb keygen. Read again at SIGHUP
    #[arg(long, env = "CWEB_KEYS_FILE", value_name = "FILE")]
    keys_file: PathBuf,
    /// Limit on wrong keys from one address in a minute; beyond it the server refuses all keys from there; 0 for no limit
    #[arg(long, env = "CWEB_AUTH_FAILURES_MAX", value_name = "N")]
    auth_failures_max: u32 = 10,
    /// Certificate of the server and its chain, PEM; TCP addresses then serve HTTPS and WSS. Read again at SIGHUP [default
    /// with --production: server.crt in the data directory, if it exists]
    #[arg(long, env = "CWEB_TLS_CERT", value_name = "FILE")]
    tls_cert: PathBuf,
    /// Private key of the certificate, PEM [default with --production: server.key in the data directory]
    #[arg(long, env = "CWEB_TLS_KEY", value_name = "FILE")]
    tls_key: PathBuf,
    /// Certificates of authorities, PEM: each client of an address of modules must have a certificate of one of them; the
    /// name in it is cweb_client_name. Addresses of --admin-listen ask for none
    #[arg(long, env = "CWEB_TLS_CLIENT_CA", value_name = "FILE")]
    tls_client_ca: PathBuf,
    /// Also accept clients without a certificate; any certificate must be one of --tls-client-ca
    #[arg(long, env = "CWEB_TLS_CLIENT_OPTIONAL", num_args = 0..=1, default_missing_value = "true", value_parser = BoolishValueParser::new(), value_name = "BOOL", hide_possible_values = true)]
    tls_client_optional: bool,
    /// Key that signs tokens of modules, PEM; the server makes it if it is missing; never the key of the certificate
    /// [default with HTTPS: token.key in the data directory]
    #[arg(long, env = "CWEB_TOKEN_KEY", value_name = "FILE")]
    token_key: PathBuf,
    /// Remove all modules at exit
    #[arg(long, env = "CWEB_PURGE_MODULES", num_args = 0..=1, default_missing_value = "true", value_parser = BoolishValueParser::new(), value_name = "BOOL", hide_possible_values = true)]
    purge_modules: bool,
    /// Log only warnings and errors
    #[arg(short, long, env = "CWEB_SILENT", num_args = 0..=1, default_missing_value = "true", value_parser = BoolishValueParser::new(), value_name = "BOOL", hide_possible_values = true)]
    silent: bool,
    /// Do not wait for running requests at exit
    #[arg(short = 'F', long, env = "CWEB_SHUTDOWN_FORCE", num_args = 0..=1, default_missing_value = "true", value_parser = BoolishValueParser::new(), value_name = "BOOL", hide_possible_values = true)]
    force_shutdown: bool,
    /// Limit on the wait for running requests at exit
    #[arg(long, env = "CWEB_SHUTDOWN_TIMEOUT_MS", value_name = "MS")]
    shutdown_timeout_ms: u64 = 5_000,
    /// Content codings of answers in the order of preference, or off
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
    /// Limit, in bytes, on a request head
    #[arg(long, env = "CWEB_MAX_HEAD_BYTES", value_name = "BYTES", help_heading = LIMITS)]
    // A head goes to a domain's process in one record of its ring, which holds 256 KiB: with 16 bytes for each of at most
    // 1024 fields, and a body below 32 KiB.
    head_bytes_max: usize = 16 * 1024 => between(256, 131_072),
    /// Limit on the header fields of a request
    #[arg(long, env = "CWEB_MAX_HEADERS", value_name = "N", help_heading = LIMITS)]
    headers_max: usize = 100 => between(1, http1::HEADERS_MAX as u64),
    /// Limit, in bytes, on a request target
    #[arg(long, env = "CWEB_MAX_URI_BYTES", value_name = "BYTES", help_heading = LIMITS)]
    uri_bytes_max: usize = 8 * 1024 => at_least(1),
    /// Limit, in bytes, on a request body for modules
    #[arg(long, env = "CWEB_MAX_BODY_BYTES", value_name = "BYTES", help_heading = LIMITS)]
    body_bytes_max: usize = 1024 * 1024,
    /// Limit, in bytes, on a request body for /mgnt, a source
    #[arg(long, env = "CWEB_MAX_SOURCE_BYTES", value_name = "BYTES", help_heading = LIMITS)]
    mgnt_body_bytes_max: usize = 4 * 1024 * 1024 => at_least(1),
    /// Limit, in bytes, on the body limit that a route sets with CWEB_BODY_MIB
    #[arg(long, env = "CWEB_MAX_ROUTE_BODY_BYTES", value_name = "BYTES", help_heading = LIMITS)]
    route_body_bytes_max: usize = 64 * 1024 * 1024,
    /// Limit, in bytes, on the request bodies that a shard is receiving; the same limit applies to bodies that wait there,
    /// and to bodies that the shard has with one domain. A single permitted body always fits
    #[arg(long, env = "CWEB_MAX_BODIES_BYTES", value_name = "BYTES", help_heading = LIMITS)]
    bodies_bytes_max: usize = 512 * 1024 * 1024,
    /// Limit, in bytes, on a domain's large answers and WebSocket messages that are not sent yet; further answers are
    /// refused with 500 or 503. Only with --isolation process
    #[arg(long, env = "CWEB_MODULE_ANSWERS_BYTES_MAX", value_name = "BYTES", help_heading = LIMITS)]
    module_answers_bytes_max: usize = 1024 * 1024 * 1024 => at_least(1),
    /// Limit, in bytes, on the server's memory for clients: unfinished requests and messages, and answers that clients have
    /// not taken. Beyond it the server closes the idle connections with the most memory; then new requests get 503
    /// [default: a quarter of the memory of the machine, or of the cgroup around the server]
    #[arg(long, env = "CWEB_MEMORY_BYTES_MAX", value_name = "BYTES", help_heading = LIMITS)]
    // The smallest value has room for many request bodies of the default limit.
    memory_bytes_max: usize => at_least(16 * 1024 * 1024),
    /// Limit on the open connections of a shard, within the limit of descriptors
    #[arg(long, env = "CWEB_MAX_CONNECTIONS", value_name = "N", help_heading = LIMITS)]
    connections_max: usize = 16 * 1024 => at_least(1),
    /// Limit on the open connections of one address (of an IPv6 /64), over all shards; 0 for no limit. All peers on this
    /// machine together have half of all connections [default: a quarter of all connections, at least 64]
    #[arg(long, env = "CWEB_MAX_CONNECTIONS_PER_PEER", value_name = "N", help_heading = LIMITS)]
    connections_per_peer_max: usize,
    /// Number of requests after which the server closes a connection; 0 for no limit
    #[arg(long, env = "CWEB_MAX_REQUESTS_PER_CONNECTION", value_name = "N", help_heading = LIMITS)]
    requests_per_connection_max: u64 = 0,
    /// Limit on the unanswered requests of a connection; beyond it the server stops reading
    #[arg(long, env = "CWEB_MAX_PIPELINE", value_name = "N", help_heading = LIMITS)]
    pipeline_max: usize = 64 => at_least(1),
    /// Limit, in bytes, on the memory that a handler gets from cweb_alloc for one request
    #[arg(long, env = "CWEB_REQUEST_MEMORY_BYTES_MAX", value_name = "BYTES", help_heading = LIMITS)]
    request_memory_bytes_max: usize = 16 * 1024 * 1024 => at_least(1),
    /// Trusted proxy, whose header field names the client's address for cweb_peer_address: an address, a network like
    /// 10.0.0.0/8, or unix for clients on a Unix socket; may be repeated
    #[arg(long = "trusted-proxy", env = "CWEB_TRUSTED_PROXIES", value_delimiter = ',', value_name = "CIDR")]
    trusted_proxies: Vec<String>,
    /// The header field of the trusted proxies, x-forwarded-for or forwarded; the other field is ignored
    #[arg(long, env = "CWEB_TRUSTED_PROXY_HEADER", value_name = "NAME")]
    trusted_proxy_header: String = "x-forwarded-for".to_owned(),
    /// Limit, in bytes, on a WebSocket message
    #[arg(long, env = "CWEB_MAX_WS_MESSAGE_BYTES", value_name = "BYTES", help_heading = LIMITS)]
    ws_message_bytes_max: usize = 16 * 1024 * 1024 => at_least(1),
    /// Limit, in bytes, on the unsent data of a WebSocket; beyond it the WebSocket is closed
    #[arg(long, env = "CWEB_MAX_WS_QUEUE_BYTES", value_name = "BYTES", help_heading = LIMITS)]
    ws_queue_bytes_max: usize = 8 * 1024 * 1024 => at_least(1),
    /// Limit on the messages of a WebSocket that wait for its handler; beyond it the server stops reading
    #[arg(long, env = "CWEB_MAX_WS_INBOX", value_name = "N", help_heading = LIMITS)]
    ws_inbox_messages_max: usize = 1024 => at_least(1),
    /// Limit on the files of a project
    #[arg(long, env = "CWEB_PROJECT_FILES_MAX", value_name = "N", help_heading = LIMITS)]
    project_files_max: usize = 1000 => at_least(1),
    /// Limit, in bytes, on all files of a project together
    #[arg(long, env = "CWEB_PROJECT_BYTES_MAX", value_name = "BYTES", help_heading = LIMITS)]
    project_bytes_max: usize = 64 * 1024 * 1024 => at_least(1),
    /// File of trusted signers, as cweb keygen --signing prints them; every source then needs a signature of one of them
    /// [default: no signature is needed]
    #[arg(long, env = "CWEB_TRUSTED_SIGNERS", value_name = "FILE")]
    trusted_signers: PathBuf,
    /// Number of versions of each module that are kept with their sources
    #[arg(long, env = "CWEB_VERSIONS_KEPT", value_name = "N", help_heading = LIMITS)]
    versions_kept: usize = 20 => at_least(1),
    /// Limit, in bytes, on the last lines of each module that are kept for cweb logs
    #[arg(long, env = "CWEB_MODULE_LOG_BYTES_MAX", value_name = "BYTES", help_heading = LIMITS)]
    module_log_bytes_max: usize = 256 * 1024,
    /// Limit on the rooms of a WebSocket; cweb_ws_join() fails beyond it
    #[arg(long, env = "CWEB_WS_ROOMS_MAX", value_name = "N", help_heading = LIMITS)]
    ws_rooms_max: usize = 64,
    /// Smallest WebSocket message that is compressed, in bytes; 0 turns the compression of WebSockets off
    #[arg(long, env = "CWEB_WS_COMPRESS_BYTES_MIN", value_name = "BYTES")]
    ws_compress_bytes_min: usize = 1024,
    /// Limit on waiting deployments
    #[arg(long, env = "CWEB_DEPLOY_QUEUE_MAX", value_name = "N", help_heading = LIMITS)]
    deploy_queue_max: usize = 64 => at_least(1),
    /// Limit on the time from a request's first byte to the end of its head
    #[arg(long, env = "CWEB_HEADER_TIMEOUT_MS", value_name = "MS", help_heading = TIMEOUTS)]
    header_timeout_ms: u64 = 10_000 => at_least(1),
    /// Limit on the time between two pieces of a request body
    #[arg(long, env = "CWEB_BODY_TIMEOUT_MS", value_name = "MS", help_heading = TIMEOUTS)]
    body_timeout_ms: u64 = 30_000 => at_least(1),
    /// Limit on the time that a connection stays open without a request
    #[arg(long, env = "CWEB_IDLE_TIMEOUT_MS", value_name = "MS", help_heading = TIMEOUTS)]
    idle_timeout_ms: u64 = 75_000 => at_least(1),
    /// Limit on the time in which a peer takes nothing of its answer
    #[arg(long, env = "CWEB_WRITE_TIMEOUT_MS", value_name = "MS", help_heading = TIMEOUTS)]
    write_timeout_ms: u64 = 30_000 => at_least(1),
    /// Time without data from a WebSocket's peer after which the server sends a ping; 0 for never
    #[arg(long, env = "CWEB_WS_PING_INTERVAL_MS", value_name = "MS", help_heading = TIMEOUTS)]
    ws_ping_interval_ms: u64 = 30_000,
    /// Limit on the wait for any data after a ping
    #[arg(long, env = "CWEB_WS_PONG_TIMEOUT_MS", value_name = "MS", help_heading = TIMEOUTS)]
    ws_pong_timeout_ms: u64 = 10_000 => at_least(1),
    /// Limit on a run of a handler; only with --isolation process
    #[arg(long, env = "CWEB_HANDLER_TIMEOUT_MS", value_name = "MS", help_heading = TIMEOUTS)]
    handler_timeout_ms: u64 = 30_000 => at_least(1),
    /// Limit on a run of the compiler
    #[arg(long, env = "CWEB_COMPILE_TIMEOUT_MS", value_name = "MS", help_heading = TIMEOUTS)]
    compile_timeout_ms: u64 = 10_000 => at_least(1),
    /// Limit on the wait for running requests in a swap with unload and onload
    #[arg(long, env = "CWEB_SWAP_TIMEOUT_MS", value_name = "MS", help_heading = TIMEOUTS)]
    swap_timeout_ms: u64 = 30_000 => at_least(1),
    /// Limit on a run of onload, unload, a constructor or a job's cancel callback; only with --isolation process
    #[arg(long, env = "CWEB_HOOK_TIMEOUT_MS", value_name = "MS", help_heading = TIMEOUTS)]
    hook_timeout_ms: u64 = 30_000 => at_least(1),
    /// Threads that run jobs, one job each [default: cores available to the process]
    #[arg(long, env = "CWEB_JOB_WORKERS", value_name = "N", help_heading = JOBS)]
    job_workers: usize => between(1, JOB_WORKERS_MAX as u64),
    /// When a change of a job counts as written: on the disk (full), or in the kernel (normal)
    #[arg(long, env = "CWEB_DURABILITY", help_heading = JOBS)]
    durability: Durability = Durability::Full,
    /// How long finished jobs are kept: seconds, or a number with s, m, h, d or w
    #[arg(long, env = "CWEB_JOB_RETENTION", value_name = "TIME", help_heading = JOBS)]
    job_retention: Span = Span { seconds: 7 * DAY_S },
    /// Limit, in bytes, on the payload of a job
    #[arg(long, env = "CWEB_JOB_PAYLOAD_BYTES_MAX", value_name = "BYTES", help_heading = JOBS)]
    job_payload_bytes_max: usize = 1024 * 1024 => between(1, JOB_PART_BYTES_MAX),
    /// Limit, in bytes, on an event of a job
    #[arg(long, env = "CWEB_JOB_EVENT_BYTES_MAX", value_name = "BYTES", help_heading = JOBS)]
    job_event_bytes_max: usize = 256 * 1024 => between(1, JOB_PART_BYTES_MAX),
    /// Limit on the events of one job; emit_event returns -1 beyond it
    #[arg(long, env = "CWEB_JOB_EVENTS_MAX", value_name = "N", help_heading = JOBS)]
    job_events_max: u64 = 1_000_000,
    /// Limit, in bytes, on all events of one job
    #[arg(long, env = "CWEB_JOB_EVENTS_BYTES_MAX", value_name = "BYTES", help_heading = JOBS)]
    job_events_bytes_max: u64 = 256 * 1024 * 1024,
    /// Limit, in bytes, on the result of a job
    #[arg(long, env = "CWEB_JOB_RESULT_BYTES_MAX", value_name = "BYTES", help_heading = JOBS)]
    job_result_bytes_max: usize = 4 * 1024 * 1024 => between(1, JOB_PART_BYTES_MAX),
    /// Limit, in bytes, on a checkpoint of a job
    #[arg(long, env = "CWEB_JOB_CHECKPOINT_BYTES_MAX", value_name = "BYTES", help_heading = JOBS)]
    job_checkpoint_bytes_max: usize = 1024 * 1024 => between(1, JOB_PART_BYTES_MAX),
    /// Limit, in bytes, on a blob, a file that jobs work on
    #[arg(long, env = "CWEB_BLOB_BYTES_MAX", value_name = "BYTES", help_heading = JOBS)]
    blob_bytes_max: u64 = 8 * 1024 * 1024 * 1024 => at_least(1),
    /// Limit, in bytes, on all blobs together [default: a quarter of the free space at the start, at least 1 GiB]
    #[arg(long, env = "CWEB_BLOBS_BYTES_MAX", value_name = "BYTES", help_heading = JOBS)]
    blobs_bytes_max: u64,
    /// How long a blob that no job needs is kept after its last use: seconds, or a number with s, m, h, d or w
    #[arg(long, env = "CWEB_BLOB_RETENTION", value_name = "TIME", help_heading = JOBS)]
    blob_retention: Span = Span { seconds: 7 * DAY_S },
    /// Limit on the commands about jobs that wait for the writer
    #[arg(long, env = "CWEB_JOB_QUEUE_MAX", value_name = "N", help_heading = JOBS)]
    job_queue_max: usize = 8192 => at_least(1),
    /// Limit on jobs that wait or run
    #[arg(long, env = "CWEB_JOB_PENDING_MAX", value_name = "N", help_heading = JOBS)]
    job_pending_max: usize = 100_000 => at_least(1),
    /// Limit on the jobs of one module that run at once; 0 for no limit
    #[arg(long, env = "CWEB_JOB_MODULE_RUNNING_MAX", value_name = "N", help_heading = JOBS)]
    job_module_running_max: usize = 0,
    /// Limit on the jobs of one domain's modules that run at once; 0 for no limit but --job-workers
    #[arg(long, env = "CWEB_JOB_DOMAIN_RUNNING_MAX", value_name = "N", help_heading = JOBS)]
    job_domain_running_max: usize = 0,
    /// Time limit of a job, if neither its submission nor its module sets one: seconds, or a number with s, m, h, d or w; 0
    /// for no limit
    #[arg(long, env = "CWEB_JOB_TIMEOUT", value_name = "TIME", help_heading = JOBS)]
    job_timeout: Span = Span { seconds: DAY_S },
    /// Limit on the streams of job events of a shard
    #[arg(long, env = "CWEB_JOB_STREAMS_MAX", value_name = "N", help_heading = JOBS)]
    job_streams_max: usize = 1024 => at_least(1),
}

impl ServeArgs {
    /// The settings in environment variables, read by `get`, and all variables with invalid values. An empty variable
    /// counts as unset, since compose files pass on unset variables as empty ones.
    pub(super) fn from_env(get: impl Fn(&str) -> Option<OsString>) -> (Self, Vec<String>) {
        let flags = Self::augment_args(Command::new("environment").no_binary_name(true));
        // The flags are parsed without their variables, so that only the values set here count.
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
        // The key is not a flag, because `ps` shows flags.
        given.admin_key = get("CWEB_ADMIN_KEY").filter(|key| !key.is_empty()).and_then(|key| {
            key.into_string().map_err(|_| problems.push("CWEB_ADMIN_KEY is not UTF-8".to_owned())).ok()
        });
        (given, problems)
    }
}

/// clap's message without its advice.
fn first_paragraph(error: &clap::Error) -> String {
    let text = error.to_string();
    let lines = text.split("\n\n").next().unwrap_or("").lines().map(str::trim);
    lines.collect::<Vec<_>>().join(" ").trim_start_matches("error: ").to_owned()
}

/// Hides the environment from the parser of the flags, which would read it for every command. The help keeps the variables'
/// names and the defaults.
pub fn without_env(command: Command) -> Command {
    told_defaults(command).mut_args(|arg| match (arg.get_env().and_then(OsStr::to_str), arg.get_help()) {
        (Some(name), Some(help)) => {
            let help = format!("{help} [env: {name}]");
            arg.env(None::<&str>).help(help)
        }
        _ => arg,
    })
}

/// The same flags, with their defaults in the help.
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
