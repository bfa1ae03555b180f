//! Every setting once: its flag, environment variable, key of the file, and type.

use super::user_range::UserRange;
use clap::builder::BoolishValueParser;
use clap::{Args, Command, FromArgMatches, ValueEnum};
use serde::{Deserialize, Deserializer};
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::str::FromStr;

/// The reactors by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reactor {
    /// io_uring, or epoll where that is refused.
    Monoio,
    /// Not available in this version; refused in words.
    Glommio,
}

/// Where modules run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// In a sandboxed process of their own.
    Process,
    /// In the server's process.
    None,
}

/// How much has to stand between code of others and the machine; each level has all of those before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RequireSandbox {
    /// A process, a user without rights, limits.
    Basic,
    /// Landlock and seccomp besides.
    Landlock,
    /// Namespaces besides.
    Namespaces,
}

/// Which domains share a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModuleDatabase {
    /// None: each has its own.
    Domain,
    /// All of them.
    Shared,
}

/// Of which modules a module may create and read jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModuleJobs {
    /// Those of its own domain.
    Domain,
    /// All.
    All,
}

/// When a job's story counts as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// When the disk has it: survives a power failure (SQLite's `synchronous = FULL`).
    Full,
    /// When the kernel has it: survives the end of the server, not that of the machine (`synchronous = NORMAL`).
    Normal,
}

/// A span of time as people write it: whole seconds, or a number with one of the suffixes s, m, h, d, w.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "SpanText")]
pub struct Span {
    /// Its length in seconds.
    pub seconds: u64,
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let (digits, factor) = match text.char_indices().last() {
            Some((at, 's')) => (&text[..at], 1),
            Some((at, 'm')) => (&text[..at], 60),
            Some((at, 'h')) => (&text[..at], 60 * 60),
            Some((at, 'd')) => (&text[..at], DAY_S),
            Some((at, 'w')) => (&text[..at], 7 * DAY_S),
            _ => (text, 1),
        };
        let count = digits.parse::<u64>().ok();
        let seconds = count.and_then(|count| count.checked_mul(factor));
        seconds
            .map(|seconds| Self { seconds })
            .ok_or_else(|| format!("\"{text}\" is no span of time: write seconds, or a number with s, m, h, d or w"))
    }
}

/// What a settings file may say for a [`Span`].
#[derive(Deserialize)]
#[serde(untagged)]
enum SpanText {
    Seconds(u64),
    Text(String),
}

impl TryFrom<SpanText> for Span {
    type Error = String;

    fn try_from(text: SpanText) -> Result<Self, String> {
        match text {
            SpanText::Seconds(seconds) => Ok(Self { seconds }),
            SpanText::Text(text) => text.parse(),
        }
    }
}

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

/// A day in seconds.
pub(super) const DAY_S: u64 = 24 * 60 * 60;

/// Headings of `cweb serve --help`.
const CORS: &str = "Cross-origin requests";
const LIMITS: &str = "Limits";
const TIMEOUTS: &str = "Time-outs";
const JOBS: &str = "Jobs";

macro_rules! settings {
    ($( $(#[doc = $doc:literal])* $(#[arg($($arg:tt)*)])* $(#[serde($($serde:tt)*)])* $name:ident : $type:ty ),* $(,)?) => {
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

        impl ServeArgs {
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
    /// Port on 127.0.0.1, or on 0.0.0.0 with --production; 0 lets the kernel choose [default: 8080]
    #[arg(short, long, env = "PORT")]
    port: u16,
    /// Address to listen on, ADDR:PORT or unix:PATH; may be repeated. Beside it, --port adds one more
    #[arg(long, env = "CWEB_LISTEN", value_delimiter = ',', value_name = "ADDR")]
    listen: Vec<String>,
    /// Address for /mgnt, /jobs and /metrics alone, ADDR:PORT or unix:PATH; may be repeated. They are nowhere else then
    #[arg(long, env = "CWEB_ADMIN_LISTEN", value_delimiter = ',', value_name = "ADDR")]
    admin_listen: Vec<String>,
    /// Threads that serve connections, pinned to a core each [default: cores available to the process]
    #[arg(long, env = "CWEB_SHARDS", value_name = "N")]
    shards: usize,
    /// How the kernel is asked for IO [default: monoio]
    #[arg(long, env = "CWEB_REACTOR")]
    reactor: Reactor,
    /// Directory of all state; modules open files relative to it [default: .]
    #[arg(long, env = "CWEB_DATA_DIR", value_name = "DIR")]
    data_dir: PathBuf,
    /// Directory of the deployed modules [default: modules in the data directory]
    #[arg(short, long, env = "CWEB_MODULE_DIR", value_name = "DIR")]
    module_dir: PathBuf,
    /// Where modules run: in sandboxed processes of their own, or in the server [default: process]
    #[arg(long, env = "CWEB_ISOLATION")]
    isolation: Isolation,
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
    /// Whether each domain has a database of its own, or all share one, which any of them can lock, change and delete. Matters with --isolation process only [default: domain]
    #[arg(long, env = "CWEB_MODULE_DATABASE")]
    module_database: ModuleDatabase,
    /// Of which modules a module may create jobs (jobs_create) and read the jobs by SQL: those of its own domain, or of all [default: domain]
    #[arg(long, env = "CWEB_MODULE_JOBS")]
    module_jobs: ModuleJobs,
    /// Most threads that the modules of a domain start; a process with more is ended. With --isolation process only [default: 1024]
    #[arg(long, env = "CWEB_MODULE_THREADS_MAX", value_name = "N")]
    module_threads_max: usize,
    /// Most descriptors that a process of modules opens, at least 256. With --isolation process only [default: 16384, within the limit of descriptors]
    #[arg(long, env = "CWEB_MODULE_OPEN_FILES_MAX", value_name = "N")]
    module_open_files_max: u64,
    /// Most bytes of a domain's database and scratch files; it can't write files beyond; 0 for no limit. With --isolation process only [default: a quarter of what is free at the start, at least 1 GiB]
    #[arg(long, env = "CWEB_MODULE_DISK_BYTES_MAX", value_name = "BYTES")]
    module_disk_bytes_max: u64,
    /// Most bytes that a domain prints in a second; more is dropped and counted. With --isolation process only [default: 1048576]
    #[arg(long, env = "CWEB_MODULE_OUTPUT_BYTES_MAX", value_name = "BYTES")]
    module_output_bytes_max: usize,
    /// Address space of the process of the modules; 0 for no limit. With --isolation process only [default: 0]
    #[arg(long, env = "CWEB_MODULE_MEMORY_BYTES_MAX", value_name = "BYTES")]
    module_memory_bytes_max: u64,
    /// Memory that the process of the modules may use, where the server can make cgroups; 0 for --module-memory-bytes-max. With --isolation process only [default: 0]
    #[arg(long, env = "CWEB_MODULE_RESIDENT_BYTES_MAX", value_name = "BYTES")]
    module_resident_bytes_max: u64,
    /// Growth of the memory of the process of the modules at which it is replaced; 0 for no limit [default: 1073741824]
    #[arg(long, env = "CWEB_MODULE_RSS_RECYCLE_BYTES", value_name = "BYTES")]
    module_rss_recycle_bytes: u64,
    /// Crashes of a module in --crash-window-ms after which it is left out; 0 for never. With --isolation process only [default: 5]
    #[arg(long, env = "CWEB_CRASH_LIMIT", value_name = "N")]
    crash_limit: usize,
    /// Directory for core files of modules that crash; a crash ends the module's process at once then. With --isolation process only
    #[arg(long, env = "CWEB_CORE_DIR", value_name = "DIR")]
    core_dir: PathBuf,
    /// Most bytes of a core file; it is cut off beyond [default: 1073741824]
    #[arg(long, env = "CWEB_CORE_BYTES_MAX", value_name = "BYTES")]
    core_bytes_max: u64,
    /// Most core files in --core-dir; beyond, there are no more until some are removed [default: 8]
    #[arg(long, env = "CWEB_CORE_FILES_MAX", value_name = "N")]
    core_files_max: usize,
    /// The time in which crashes of a module count together [default: 60000]
    #[arg(long, env = "CWEB_CRASH_WINDOW_MS", value_name = "MS")]
    crash_window_ms: u64,
    /// Most domains, the processes that modules are deployed into by name. With --isolation process only [default: 32]
    #[arg(long, env = "CWEB_MAX_DOMAINS", value_name = "N")]
    domains_max: usize,
    /// Most threads for handlers that block or compute [default: 64]
    #[arg(long, env = "CWEB_EXECUTORS_MAX", value_name = "N")]
    executors_max: usize,
    /// Most calls at once of routes of CWEB_STREAM, a shard and domain; each has a thread [default: 64]
    #[arg(long, env = "CWEB_STREAM_CALLS_MAX", value_name = "N")]
    stream_calls_max: usize,
    /// Most calls at once of routes of CWEB_KILLABLE, a domain; each has a process. With --isolation process only [default: 16]
    #[arg(long, env = "CWEB_KILLABLE_CALLS_MAX", value_name = "N")]
    killable_calls_max: usize,
    /// Most streamed answers of other handlers at once, a shard and domain, detached ones among them [default: 8192]
    #[arg(long, env = "CWEB_STREAM_ANSWERS_MAX", value_name = "N")]
    stream_answers_max: usize,
    /// Bytes of a body that wait for its handler, and of an answer for its client, on a route of CWEB_STREAM [default: 1 MiB]
    #[arg(long, env = "CWEB_STREAM_BUFFER_BYTES", value_name = "BYTES")]
    stream_buffer_bytes: usize,
    /// Listen on all interfaces, and ask for the admin key even from this machine
    #[arg(long, env = "CWEB_PRODUCTION", num_args = 0..=1, default_missing_value = "true", value_parser = BoolishValueParser::new(), value_name = "BOOL", hide_possible_values = true)]
    production: bool,
    /// For development: pages that include /cweb-dev/reload.js load again at each deployment; cweb dev starts a server so
    #[arg(long, env = "CWEB_DEV", num_args = 0..=1, default_missing_value = "true", value_parser = BoolishValueParser::new(), value_name = "BOOL", hide_possible_values = true)]
    dev: bool,
    /// File of named keys with scopes for /mgnt, /jobs and /metrics; see cweb keygen. Read again at SIGHUP
    #[arg(long, env = "CWEB_KEYS_FILE", value_name = "FILE")]
    keys_file: PathBuf,
    /// Wrong keys of an address in a minute after which its keys are refused; 0 for no limit [default: 10]
    #[arg(long, env = "CWEB_AUTH_FAILURES_MAX", value_name = "N")]
    auth_failures_max: u32,
    /// Certificate of the server and its chain, PEM: TCP addresses serve HTTPS and WSS then. Read again at SIGHUP [default with --production: server.crt in the data directory, if it is there]
    #[arg(long, env = "CWEB_TLS_CERT", value_name = "FILE")]
    tls_cert: PathBuf,
    /// Private key of the certificate, PEM [default with --production: server.key in the data directory]
    #[arg(long, env = "CWEB_TLS_KEY", value_name = "FILE")]
    tls_key: PathBuf,
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
    /// Longest wait for running requests at exit [default: 5000]
    #[arg(long, env = "CWEB_SHUTDOWN_TIMEOUT_MS", value_name = "MS")]
    shutdown_timeout_ms: u64,
    /// Content codings of answers, the ones that are preferred first, or off [default: zstd,br,gzip]
    #[arg(long, env = "CWEB_COMPRESS", value_delimiter = ',', value_name = "CODINGS")]
    compress: Vec<String>,
    /// Access-Control-Allow-Origin of all answers; empty for none [default: *]
    #[arg(long, env = "CWEB_CORS_ALLOW_ORIGIN", value_name = "ORIGIN", help_heading = CORS)]
    cors_allow_origin: String,
    /// Access-Control-Allow-Methods of preflights [default: GET, POST, PUT, DELETE, OPTIONS, HEAD, PATCH]
    #[arg(long, env = "CWEB_CORS_ALLOW_METHODS", value_name = "LIST", help_heading = CORS)]
    cors_allow_methods: String,
    /// Access-Control-Allow-Headers of preflights [default: Content-Type, Authorization, X-API-Key]
    #[arg(long, env = "CWEB_CORS_ALLOW_HEADERS", value_name = "LIST", help_heading = CORS)]
    cors_allow_headers: String,
    /// Access-Control-Max-Age of preflights [default: 600]
    #[arg(long, env = "CWEB_CORS_MAX_AGE", value_name = "S", help_heading = CORS)]
    cors_max_age_s: u32,
    /// Largest request head [default: 16384]
    #[arg(long, env = "CWEB_MAX_HEAD_BYTES", value_name = "BYTES", help_heading = LIMITS)]
    head_bytes_max: usize,
    /// Most header fields of a request [default: 100]
    #[arg(long, env = "CWEB_MAX_HEADERS", value_name = "N", help_heading = LIMITS)]
    headers_max: usize,
    /// Longest request target [default: 8192]
    #[arg(long, env = "CWEB_MAX_URI_BYTES", value_name = "BYTES", help_heading = LIMITS)]
    uri_bytes_max: usize,
    /// Largest request body for modules [default: 1048576]
    #[arg(long, env = "CWEB_MAX_BODY_BYTES", value_name = "BYTES", help_heading = LIMITS)]
    body_bytes_max: usize,
    /// Largest request body for /mgnt, a source [default: 4194304]
    #[arg(long, env = "CWEB_MAX_SOURCE_BYTES", value_name = "BYTES", help_heading = LIMITS)]
    mgnt_body_bytes_max: usize,
    /// Largest body limit a route may give itself with CWEB_BODY_MIB [default: 67108864]
    #[arg(long, env = "CWEB_MAX_ROUTE_BODY_BYTES", value_name = "BYTES", help_heading = LIMITS)]
    route_body_bytes_max: usize,
    /// Most bytes of all request bodies that a shard is receiving, of all that wait there, and of all that it has with a domain; each. Any one body that is allowed fits [default: 536870912]
    #[arg(long, env = "CWEB_MAX_BODIES_BYTES", value_name = "BYTES", help_heading = LIMITS)]
    bodies_bytes_max: usize,
    /// Most bytes of large answers and WebSocket messages of a domain that are not sent yet; an answer for which there is no room is refused with 500 or 503. With --isolation process only [default: 1073741824]
    #[arg(long, env = "CWEB_MODULE_ANSWERS_BYTES_MAX", value_name = "BYTES", help_heading = LIMITS)]
    module_answers_bytes_max: usize,
    /// Most bytes of memory that clients make the server hold: unfinished requests and messages, answers that wait for them. Beyond it the biggest idle holders are closed, then new ones get 503 [default: a quarter of the memory of the machine, or of the cgroup around the server]
    #[arg(long, env = "CWEB_MEMORY_BYTES_MAX", value_name = "BYTES", help_heading = LIMITS)]
    memory_bytes_max: usize,
    /// Most open connections of a shard [default: 16384, within the limit of descriptors]
    #[arg(long, env = "CWEB_MAX_CONNECTIONS", value_name = "N", help_heading = LIMITS)]
    connections_max: usize,
    /// Most open connections of one address, an IPv6 /64, over all shards; 0 for no limit. Peers on this machine have none [default: a quarter of all connections, at least 64]
    #[arg(long, env = "CWEB_MAX_CONNECTIONS_PER_PEER", value_name = "N", help_heading = LIMITS)]
    connections_per_peer_max: usize,
    /// Requests after which a connection is closed; 0 for no limit [default: 0]
    #[arg(long, env = "CWEB_MAX_REQUESTS_PER_CONNECTION", value_name = "N", help_heading = LIMITS)]
    requests_per_connection_max: u64,
    /// Most unanswered requests of a connection before reading pauses [default: 64]
    #[arg(long, env = "CWEB_MAX_PIPELINE", value_name = "N", help_heading = LIMITS)]
    pipeline_max: usize,
    /// Most memory that a handler may take for one request with cweb_alloc [default: 16777216]
    #[arg(long, env = "CWEB_REQUEST_MEMORY_BYTES_MAX", value_name = "BYTES", help_heading = LIMITS)]
    request_memory_bytes_max: usize,
    /// Proxy whose word counts about who the client is, for cweb_peer_address: an address, a network like 10.0.0.0/8, or unix for whoever connects by a Unix socket; may be repeated
    #[arg(long = "trusted-proxy", env = "CWEB_TRUSTED_PROXIES", value_delimiter = ',', value_name = "CIDR")]
    trusted_proxies: Vec<String>,
    /// The header field that those proxies write, x-forwarded-for or forwarded; the other one is not read [default: x-forwarded-for]
    #[arg(long, env = "CWEB_TRUSTED_PROXY_HEADER", value_name = "NAME")]
    trusted_proxy_header: String,
    /// Largest WebSocket message [default: 16777216]
    #[arg(long, env = "CWEB_MAX_WS_MESSAGE_BYTES", value_name = "BYTES", help_heading = LIMITS)]
    ws_message_bytes_max: usize,
    /// Most unsent bytes of a WebSocket before it is closed [default: 8388608]
    #[arg(long, env = "CWEB_MAX_WS_QUEUE_BYTES", value_name = "BYTES", help_heading = LIMITS)]
    ws_queue_bytes_max: usize,
    /// Most messages of a WebSocket that wait for its handler before reading pauses [default: 1024]
    #[arg(long, env = "CWEB_MAX_WS_INBOX", value_name = "N", help_heading = LIMITS)]
    ws_inbox_messages_max: usize,
    /// Most files of a project [default: 1000]
    #[arg(long, env = "CWEB_PROJECT_FILES_MAX", value_name = "N", help_heading = LIMITS)]
    project_files_max: usize,
    /// Most bytes of all files of a project together [default: 67108864]
    #[arg(long, env = "CWEB_PROJECT_BYTES_MAX", value_name = "BYTES", help_heading = LIMITS)]
    project_bytes_max: usize,
    /// File of those whose signature every source needs, as cweb keygen --signing prints them [default: no signature is needed]
    #[arg(long, env = "CWEB_TRUSTED_SIGNERS", value_name = "FILE")]
    trusted_signers: PathBuf,
    /// Versions of each module that are kept with their sources [default: 20]
    #[arg(long, env = "CWEB_VERSIONS_KEPT", value_name = "N", help_heading = LIMITS)]
    versions_kept: usize,
    /// Most bytes of each module's last lines that are kept for cweb logs [default: 262144]
    #[arg(long, env = "CWEB_MODULE_LOG_BYTES_MAX", value_name = "BYTES", help_heading = LIMITS)]
    module_log_bytes_max: usize,
    /// Most rooms that a WebSocket may be in; cweb_ws_join() fails beyond it [default: 64]
    #[arg(long, env = "CWEB_WS_ROOMS_MAX", value_name = "N", help_heading = LIMITS)]
    ws_rooms_max: usize,
    /// Smallest WebSocket message that is sent compressed; 0 turns the compression of WebSockets off [default: 1024]
    #[arg(long, env = "CWEB_WS_COMPRESS_BYTES_MIN", value_name = "BYTES")]
    ws_compress_bytes_min: usize,
    /// Most deployments that wait [default: 64]
    #[arg(long, env = "CWEB_DEPLOY_QUEUE_MAX", value_name = "N", help_heading = LIMITS)]
    deploy_queue_max: usize,
    /// Longest from a request's first byte to the end of its head [default: 10000]
    #[arg(long, env = "CWEB_HEADER_TIMEOUT_MS", value_name = "MS", help_heading = TIMEOUTS)]
    header_timeout_ms: u64,
    /// Longest between two pieces of a request body [default: 30000]
    #[arg(long, env = "CWEB_BODY_TIMEOUT_MS", value_name = "MS", help_heading = TIMEOUTS)]
    body_timeout_ms: u64,
    /// Longest that a connection stays open with nothing asked on it [default: 75000]
    #[arg(long, env = "CWEB_IDLE_TIMEOUT_MS", value_name = "MS", help_heading = TIMEOUTS)]
    idle_timeout_ms: u64,
    /// Longest that a peer takes none of its answer [default: 30000]
    #[arg(long, env = "CWEB_WRITE_TIMEOUT_MS", value_name = "MS", help_heading = TIMEOUTS)]
    write_timeout_ms: u64,
    /// A WebSocket from which nothing came for this long gets a ping; 0 for none [default: 30000]
    #[arg(long, env = "CWEB_WS_PING_INTERVAL_MS", value_name = "MS", help_heading = TIMEOUTS)]
    ws_ping_interval_ms: u64,
    /// Longest wait for a sign of life after a ping [default: 10000]
    #[arg(long, env = "CWEB_WS_PONG_TIMEOUT_MS", value_name = "MS", help_heading = TIMEOUTS)]
    ws_pong_timeout_ms: u64,
    /// Longest run of a handler; with --isolation process only [default: 30000]
    #[arg(long, env = "CWEB_HANDLER_TIMEOUT_MS", value_name = "MS", help_heading = TIMEOUTS)]
    handler_timeout_ms: u64,
    /// Longest run of the compiler [default: 10000]
    #[arg(long, env = "CWEB_COMPILE_TIMEOUT_MS", value_name = "MS", help_heading = TIMEOUTS)]
    compile_timeout_ms: u64,
    /// Longest wait for running requests in a swap with unload and onload [default: 30000]
    #[arg(long, env = "CWEB_SWAP_TIMEOUT_MS", value_name = "MS", help_heading = TIMEOUTS)]
    swap_timeout_ms: u64,
    /// Longest run of onload, unload, a constructor or a job's cancel callback; with --isolation process only [default: 30000]
    #[arg(long, env = "CWEB_HOOK_TIMEOUT_MS", value_name = "MS", help_heading = TIMEOUTS)]
    hook_timeout_ms: u64,
    /// Threads that run jobs, one job each [default: cores available to the process]
    #[arg(long, env = "CWEB_JOB_WORKERS", value_name = "N", help_heading = JOBS)]
    job_workers: usize,
    /// When what happens to a job counts as written: on the disk (full) or in the kernel's hands (normal) [default: full]
    #[arg(long, env = "CWEB_DURABILITY", help_heading = JOBS)]
    durability: Durability,
    /// How long finished jobs are kept: seconds, or a number with s, m, h, d or w [default: 7d]
    #[arg(long, env = "CWEB_JOB_RETENTION", value_name = "TIME", help_heading = JOBS)]
    job_retention: Span,
    /// Largest payload of a job [default: 1048576]
    #[arg(long, env = "CWEB_JOB_PAYLOAD_BYTES_MAX", value_name = "BYTES", help_heading = JOBS)]
    job_payload_bytes_max: usize,
    /// Largest event of a job [default: 262144]
    #[arg(long, env = "CWEB_JOB_EVENT_BYTES_MAX", value_name = "BYTES", help_heading = JOBS)]
    job_event_bytes_max: usize,
    /// Most events that one job emits; emit_event returns -1 for more [default: 1000000]
    #[arg(long, env = "CWEB_JOB_EVENTS_MAX", value_name = "N", help_heading = JOBS)]
    job_events_max: u64,
    /// Most bytes of the events that one job emits [default: 268435456]
    #[arg(long, env = "CWEB_JOB_EVENTS_BYTES_MAX", value_name = "BYTES", help_heading = JOBS)]
    job_events_bytes_max: u64,
    /// Largest result of a job [default: 4194304]
    #[arg(long, env = "CWEB_JOB_RESULT_BYTES_MAX", value_name = "BYTES", help_heading = JOBS)]
    job_result_bytes_max: usize,
    /// Largest checkpoint of a job [default: 1048576]
    #[arg(long, env = "CWEB_JOB_CHECKPOINT_BYTES_MAX", value_name = "BYTES", help_heading = JOBS)]
    job_checkpoint_bytes_max: usize,
    /// Largest blob, a file that jobs work on [default: 8589934592]
    #[arg(long, env = "CWEB_BLOB_BYTES_MAX", value_name = "BYTES", help_heading = JOBS)]
    blob_bytes_max: u64,
    /// Most bytes of all blobs together [default: a quarter of what is free at the start, at least 1 GiB]
    #[arg(long, env = "CWEB_BLOBS_BYTES_MAX", value_name = "BYTES", help_heading = JOBS)]
    blobs_bytes_max: u64,
    /// How long a blob is kept that no job needs, from its last use on: seconds, or a number with s, m, h, d or w [default: 7d]
    #[arg(long, env = "CWEB_BLOB_RETENTION", value_name = "TIME", help_heading = JOBS)]
    blob_retention: Span,
    /// Most commands about jobs that wait for the writer [default: 8192]
    #[arg(long, env = "CWEB_JOB_QUEUE_MAX", value_name = "N", help_heading = JOBS)]
    job_queue_max: usize,
    /// Most jobs that wait or run [default: 100000]
    #[arg(long, env = "CWEB_JOB_PENDING_MAX", value_name = "N", help_heading = JOBS)]
    job_pending_max: usize,
    /// Most jobs of one module that run at once; 0 for no limit [default: 0]
    #[arg(long, env = "CWEB_JOB_MODULE_RUNNING_MAX", value_name = "N", help_heading = JOBS)]
    job_module_running_max: usize,
    /// Most jobs of the modules of one domain that run at once; 0 for no limit but --job-workers [default: 0]
    #[arg(long, env = "CWEB_JOB_DOMAIN_RUNNING_MAX", value_name = "N", help_heading = JOBS)]
    job_domain_running_max: usize,
    /// Longest run of a job for which neither its submission nor its module says one: seconds, or a number with s, m, h, d or w; 0 for no limit [default: 1d]
    #[arg(long, env = "CWEB_JOB_TIMEOUT", value_name = "TIME", help_heading = JOBS)]
    job_timeout: Span,
    /// Most streams of job events of a shard [default: 1024]
    #[arg(long, env = "CWEB_JOB_STREAMS_MAX", value_name = "N", help_heading = JOBS)]
    job_streams_max: usize,
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

/// Hides the environment from the parser of the flags, which would read it for every command; the help keeps its names.
pub fn without_env(command: Command) -> Command {
    command.mut_args(|arg| match (arg.get_env().and_then(OsStr::to_str), arg.get_help()) {
        (Some(name), Some(help)) => {
            let help = format!("{help} [env: {name}]");
            arg.env(None::<&str>).help(help)
        }
        _ => arg,
    })
}

#[cfg(test)]
#[path = "documented.rs"]
mod documented;
