//! Flags, environment and `cweb.toml`, merged into one validated [`Config`]. Flags beat environment beats file.

use crate::net::ListenAddr;
use clap::builder::BoolishValueParser;
use clap::{Args, ValueEnum};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The reactors by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reactor {
    /// monoio: io_uring, or epoll where that is refused.
    Monoio,
    /// glommio, in builds that have it.
    Glommio,
}

/// Where modules run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// In sandboxed processes of their own.
    Process,
    /// In the server's process.
    None,
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

const DAY_S: u64 = 24 * 60 * 60;

/// Used when `--isolation` is not given. Will be `Process` once that is built.
const ISOLATION_DEFAULT: Isolation = Isolation::None;

macro_rules! settings {
    ($( $(#[doc = $doc:literal])* $(#[arg($($arg:tt)*)])* $name:ident : $type:ty ),* $(,)?) => {
        /// The settings as flags, environment or file give them; what is not given has its default.
        #[derive(Debug, Clone, Default, Args, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct ServeArgs {
            $( $(#[doc = $doc])* $(#[arg($($arg)*)])* pub $name: Option<$type>, )*
            /// Settings file [default: cweb.toml in the data directory, if there is one]
            #[arg(long, value_name = "FILE")]
            #[serde(skip)]
            pub config: Option<PathBuf>,
            /// The key for /mgnt, /jobs and /metrics: from CWEB_ADMIN_KEY or the file, never from a flag that `ps` shows
            #[arg(skip)]
            pub admin_key: Option<String>,
        }

        impl ServeArgs {
            /// These settings, and those of `other` where these have none.
            fn or(self, other: Self) -> Self {
                Self {
                    $( $name: self.$name.or(other.$name), )*
                    config: self.config,
                    admin_key: self.admin_key.or(other.admin_key),
                }
            }
        }
    };
}

settings! {
    /// Port on 127.0.0.1 (0.0.0.0 with --production) [default: 8080]; 0 lets the kernel choose
    #[arg(short, long, env = "PORT")]
    port: u16,
    /// Address to listen on, ADDR:PORT or unix:PATH; may be repeated
    #[arg(long, env = "CWEB_LISTEN", value_delimiter = ',', value_name = "ADDR")]
    listen: Vec<String>,
    /// Shards: one pinned thread each [default: cores available to the process]
    #[arg(long, env = "CWEB_SHARDS")]
    shards: usize,
    /// Reactor [default: monoio]
    #[arg(long, env = "CWEB_REACTOR")]
    reactor: Reactor,
    /// Directory of all state; modules open files relative to it [default: .]
    #[arg(long, env = "CWEB_DATA_DIR", value_name = "DIR")]
    data_dir: PathBuf,
    /// Directory of the deployed modules [default: DATA/modules]
    #[arg(short, long, env = "CWEB_MODULE_DIR", value_name = "DIR")]
    module_dir: PathBuf,
    /// Where modules run [default: none, the only one built so far]
    #[arg(long, env = "CWEB_ISOLATION")]
    isolation: Isolation,
    /// Directory that isolated modules may read; may be repeated. Matters with --isolation process only
    #[arg(long, env = "CWEB_ALLOW_READ", value_delimiter = ',', value_name = "DIR")]
    allow_read: Vec<PathBuf>,
    /// Directory that isolated modules may write; may be repeated. Matters with --isolation process only
    #[arg(long, env = "CWEB_ALLOW_WRITE", value_delimiter = ',', value_name = "DIR")]
    allow_write: Vec<PathBuf>,
    /// Most threads for handlers that block or compute [default: 64]
    #[arg(long, env = "CWEB_EXECUTORS_MAX")]
    executors_max: usize,
    /// Production mode: all interfaces, and the admin key needed from everywhere
    #[arg(long, env = "CWEB_PRODUCTION", num_args = 0..=1, default_missing_value = "true", value_parser = BoolishValueParser::new())]
    production: bool,
    /// Certificate of the server, PEM
    #[arg(long, env = "CWEB_TLS_CERT", value_name = "FILE")]
    tls_cert: PathBuf,
    /// Private key of the server, PEM; modules can have tokens signed with it
    #[arg(long, env = "CWEB_TLS_KEY", value_name = "FILE")]
    tls_key: PathBuf,
    /// Forget all modules at exit
    #[arg(long, env = "CWEB_PURGE_MODULES", num_args = 0..=1, default_missing_value = "true", value_parser = BoolishValueParser::new())]
    purge_modules: bool,
    /// Log warnings and errors only
    #[arg(short, long, env = "CWEB_SILENT", num_args = 0..=1, default_missing_value = "true", value_parser = BoolishValueParser::new())]
    silent: bool,
    /// Do not wait for running requests at exit
    #[arg(short = 'F', long, env = "CWEB_SHUTDOWN_FORCE", num_args = 0..=1, default_missing_value = "true", value_parser = BoolishValueParser::new())]
    force_shutdown: bool,
    /// How long to wait for running requests at exit [default: 5000]
    #[arg(long, env = "CWEB_SHUTDOWN_TIMEOUT_MS", value_name = "MS")]
    shutdown_timeout_ms: u64,
    /// Access-Control-Allow-Origin of answers; empty for none [default: *]
    #[arg(long, env = "CWEB_CORS_ALLOW_ORIGIN", value_name = "ORIGIN")]
    cors_allow_origin: String,
    /// Access-Control-Allow-Methods of preflights
    #[arg(long, env = "CWEB_CORS_ALLOW_METHODS", value_name = "LIST")]
    cors_allow_methods: String,
    /// Access-Control-Allow-Headers of preflights
    #[arg(long, env = "CWEB_CORS_ALLOW_HEADERS", value_name = "LIST")]
    cors_allow_headers: String,
    /// Access-Control-Max-Age of preflights, seconds [default: 600]
    #[arg(long, env = "CWEB_CORS_MAX_AGE", value_name = "S")]
    cors_max_age_s: u32,
    /// Request head [default: 16384]
    #[arg(long, env = "CWEB_MAX_HEAD_BYTES", value_name = "BYTES")]
    head_bytes_max: usize,
    /// Header fields of a request [default: 100]
    #[arg(long, env = "CWEB_MAX_HEADERS", value_name = "N")]
    headers_max: usize,
    /// Request target [default: 8192]
    #[arg(long, env = "CWEB_MAX_URI_BYTES", value_name = "BYTES")]
    uri_bytes_max: usize,
    /// Request body for modules [default: 1048576]
    #[arg(long, env = "CWEB_MAX_BODY_BYTES", value_name = "BYTES")]
    body_bytes_max: usize,
    /// Source posted to /mgnt [default: 4194304]
    #[arg(long, env = "CWEB_MAX_SOURCE_BYTES", value_name = "BYTES")]
    mgnt_body_bytes_max: usize,
    /// Open connections of one shard [default: 16384, within the limit of descriptors]
    #[arg(long, env = "CWEB_MAX_CONNECTIONS", value_name = "N")]
    connections_max: usize,
    /// Unanswered requests of one connection [default: 64]
    #[arg(long, env = "CWEB_MAX_PIPELINE", value_name = "N")]
    pipeline_max: usize,
    /// WebSocket message [default: 16777216]
    #[arg(long, env = "CWEB_MAX_WS_MESSAGE_BYTES", value_name = "BYTES")]
    ws_message_bytes_max: usize,
    /// Unsent bytes of one WebSocket before it is closed [default: 8388608]
    #[arg(long, env = "CWEB_MAX_WS_QUEUE_BYTES", value_name = "BYTES")]
    ws_queue_bytes_max: usize,
    /// Messages of one WebSocket that wait for its handler before reading pauses [default: 1024]
    #[arg(long, env = "CWEB_MAX_WS_INBOX", value_name = "N")]
    ws_inbox_messages_max: usize,
    /// From a request's first byte to the end of its head [default: 10000]
    #[arg(long, env = "CWEB_HEADER_TIMEOUT_MS", value_name = "MS")]
    header_timeout_ms: u64,
    /// Between two pieces of a body [default: 30000]
    #[arg(long, env = "CWEB_BODY_TIMEOUT_MS", value_name = "MS")]
    body_timeout_ms: u64,
    /// A connection on which nothing is asked [default: 75000]
    #[arg(long, env = "CWEB_IDLE_TIMEOUT_MS", value_name = "MS")]
    idle_timeout_ms: u64,
    /// A peer that takes none of its answer [default: 30000]
    #[arg(long, env = "CWEB_WRITE_TIMEOUT_MS", value_name = "MS")]
    write_timeout_ms: u64,
    /// The compiler [default: 10000]
    #[arg(long, env = "CWEB_COMPILE_TIMEOUT_MS", value_name = "MS")]
    compile_timeout_ms: u64,
    /// Running requests that a swap with unload and onload waits for [default: 30000]
    #[arg(long, env = "CWEB_SWAP_TIMEOUT_MS", value_name = "MS")]
    swap_timeout_ms: u64,
    /// Deployments that may wait [default: 64]
    #[arg(long, env = "CWEB_DEPLOY_QUEUE_MAX", value_name = "N")]
    deploy_queue_max: usize,
    /// Threads that run jobs, one running job each [default: cores available to the process]
    #[arg(long, env = "CWEB_JOB_WORKERS", value_name = "N")]
    job_workers: usize,
    /// When a job's story counts as written: full, on the disk; normal, in the kernel's hands [default: full]
    #[arg(long, env = "CWEB_DURABILITY")]
    durability: Durability,
    /// How long finished jobs are kept: seconds, or a number with s, m, h, d or w [default: 7d]
    #[arg(long, env = "CWEB_JOB_RETENTION", value_name = "TIME")]
    job_retention: Span,
    /// Payload of a job [default: 1048576]
    #[arg(long, env = "CWEB_JOB_PAYLOAD_BYTES_MAX", value_name = "BYTES")]
    job_payload_bytes_max: usize,
    /// Event of a job [default: 262144]
    #[arg(long, env = "CWEB_JOB_EVENT_BYTES_MAX", value_name = "BYTES")]
    job_event_bytes_max: usize,
    /// Result of a job [default: 4194304]
    #[arg(long, env = "CWEB_JOB_RESULT_BYTES_MAX", value_name = "BYTES")]
    job_result_bytes_max: usize,
    /// Commands about jobs that wait for the store's writer [default: 8192]
    #[arg(long, env = "CWEB_JOB_QUEUE_MAX", value_name = "N")]
    job_queue_max: usize,
}

/// The server's settings: complete and checked. The fields' meanings and units are those of the flags with their names.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct Config {
    pub listen: Vec<String>,
    pub shards: usize,
    pub reactor: Reactor,
    pub data_dir: PathBuf,
    pub module_dir: PathBuf,
    pub isolation: Isolation,
    pub allow_read: Vec<PathBuf>,
    pub allow_write: Vec<PathBuf>,
    pub executors_max: usize,
    pub production: bool,
    pub tls_cert: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
    pub purge_modules: bool,
    pub silent: bool,
    pub force_shutdown: bool,
    pub shutdown_timeout_ms: u64,
    pub cors_allow_origin: String,
    pub cors_allow_methods: String,
    pub cors_allow_headers: String,
    pub cors_max_age_s: u32,
    pub admin_key: Option<String>,
    pub head_bytes_max: usize,
    pub headers_max: usize,
    pub uri_bytes_max: usize,
    pub body_bytes_max: usize,
    pub mgnt_body_bytes_max: usize,
    pub connections_max: usize,
    pub pipeline_max: usize,
    pub ws_message_bytes_max: usize,
    pub ws_queue_bytes_max: usize,
    pub ws_inbox_messages_max: usize,
    pub header_timeout_ms: u64,
    pub body_timeout_ms: u64,
    pub idle_timeout_ms: u64,
    pub write_timeout_ms: u64,
    pub compile_timeout_ms: u64,
    pub swap_timeout_ms: u64,
    pub deploy_queue_max: usize,
    pub job_workers: usize,
    pub durability: Durability,
    pub job_retention_s: u64,
    pub job_payload_bytes_max: usize,
    pub job_event_bytes_max: usize,
    pub job_result_bytes_max: usize,
    pub job_queue_max: usize,
}

/// The settings can't be used: every problem, one a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigError(pub Vec<String>);

/// Most shards; beyond it a machine would have more cores than this has been thought through for.
const SHARDS_MAX: usize = 256;
/// Most job workers: threads beyond this only wait for each other.
const JOB_WORKERS_MAX: usize = 1024;
/// Longest that finished jobs are kept; far from where times in milliseconds would overflow.
const JOB_RETENTION_S_MAX: u64 = 36_500 * DAY_S;
/// Most bytes of one part of a job: all parts together stay within a row of SQLite, 1,000,000,000 bytes.
const JOB_PART_BYTES_MAX: usize = 256 * 1024 * 1024;

impl Config {
    /// Merges `args` (flags and environment) with the settings file, fills in the defaults and checks the whole.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn load(mut args: ServeArgs) -> Result<Self, ConfigError> {
        // Empty counts as not given (compose files pass unset variables on so), and must not hide the file's key.
        let from_env = || std::env::var("CWEB_ADMIN_KEY").ok().filter(|key| !key.is_empty());
        args.admin_key = args.admin_key.or_else(from_env);
        let data_dir = args.data_dir.clone().unwrap_or_else(|| PathBuf::from("."));
        let file = read_file(args.config.as_deref(), &data_dir)?;
        let mut config = Self::with_defaults(args.or(file), data_dir);
        let problems = config.problems();
        if !problems.is_empty() {
            return Err(ConfigError(problems));
        }
        // The server moves into the data directory before it reads them.
        for path in [&mut config.tls_cert, &mut config.tls_key].into_iter().flatten() {
            *path = std::path::absolute(&*path)
                .map_err(|error| ConfigError(vec![format!("{}: {error}", path.display())]))?;
        }
        Ok(config)
    }

    fn with_defaults(args: ServeArgs, data_dir: PathBuf) -> Self {
        let production = args.production.unwrap_or(false);
        let host = if production { "0.0.0.0" } else { "127.0.0.1" };
        let listen = args.listen.unwrap_or_default();
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let shards = args.shards.unwrap_or_else(cores);
        // A port given beside addresses is one more address.
        let own = (listen.is_empty() || args.port.is_some()).then(|| format!("{host}:{}", args.port.unwrap_or(8080)));
        Self {
            listen: own.into_iter().chain(listen).collect(),
            shards,
            reactor: args.reactor.unwrap_or(Reactor::Monoio),
            module_dir: args.module_dir.unwrap_or_else(|| data_dir.join("modules")),
            data_dir,
            isolation: args.isolation.unwrap_or(ISOLATION_DEFAULT),
            allow_read: args.allow_read.unwrap_or_default(),
            allow_write: args.allow_write.unwrap_or_default(),
            executors_max: args.executors_max.unwrap_or(64),
            production,
            tls_cert: args.tls_cert,
            tls_key: args.tls_key,
            purge_modules: args.purge_modules.unwrap_or(false),
            silent: args.silent.unwrap_or(false),
            force_shutdown: args.force_shutdown.unwrap_or(false),
            shutdown_timeout_ms: args.shutdown_timeout_ms.unwrap_or(5_000),
            cors_allow_origin: args.cors_allow_origin.unwrap_or_else(|| "*".to_owned()),
            cors_allow_methods: args
                .cors_allow_methods
                .unwrap_or_else(|| "GET, POST, PUT, DELETE, OPTIONS, HEAD, PATCH".to_owned()),
            cors_allow_headers: args
                .cors_allow_headers
                .unwrap_or_else(|| "Content-Type, Authorization, X-API-Key".to_owned()),
            cors_max_age_s: args.cors_max_age_s.unwrap_or(600),
            admin_key: args.admin_key.filter(|key| !key.is_empty()),
            head_bytes_max: args.head_bytes_max.unwrap_or(16 * 1024),
            headers_max: args.headers_max.unwrap_or(100),
            uri_bytes_max: args.uri_bytes_max.unwrap_or(8 * 1024),
            body_bytes_max: args.body_bytes_max.unwrap_or(1024 * 1024),
            mgnt_body_bytes_max: args.mgnt_body_bytes_max.unwrap_or(4 * 1024 * 1024),
            connections_max: args.connections_max.unwrap_or(16 * 1024).min(descriptors_max() / shards.max(1)),
            pipeline_max: args.pipeline_max.unwrap_or(64),
            ws_message_bytes_max: args.ws_message_bytes_max.unwrap_or(16 * 1024 * 1024),
            ws_queue_bytes_max: args.ws_queue_bytes_max.unwrap_or(8 * 1024 * 1024),
            ws_inbox_messages_max: args.ws_inbox_messages_max.unwrap_or(1024),
            header_timeout_ms: args.header_timeout_ms.unwrap_or(10_000),
            body_timeout_ms: args.body_timeout_ms.unwrap_or(30_000),
            idle_timeout_ms: args.idle_timeout_ms.unwrap_or(75_000),
            write_timeout_ms: args.write_timeout_ms.unwrap_or(30_000),
            compile_timeout_ms: args.compile_timeout_ms.unwrap_or(10_000),
            swap_timeout_ms: args.swap_timeout_ms.unwrap_or(30_000),
            deploy_queue_max: args.deploy_queue_max.unwrap_or(64),
            job_workers: args.job_workers.unwrap_or_else(cores),
            durability: args.durability.unwrap_or(Durability::Full),
            job_retention_s: args.job_retention.map_or(7 * DAY_S, |span| span.seconds),
            job_payload_bytes_max: args.job_payload_bytes_max.unwrap_or(1024 * 1024),
            job_event_bytes_max: args.job_event_bytes_max.unwrap_or(256 * 1024),
            job_result_bytes_max: args.job_result_bytes_max.unwrap_or(4 * 1024 * 1024),
            job_queue_max: args.job_queue_max.unwrap_or(8192),
        }
    }

    fn problems(&self) -> Vec<String> {
        let mut problems: Vec<String> =
            self.listen.iter().filter_map(|text| text.parse::<ListenAddr>().err()).map(|e| e.to_string()).collect();
        let mut check = |wrong: bool, text: &str| {
            if wrong {
                problems.push(text.to_owned());
            }
        };
        check(self.shards == 0 || self.shards > SHARDS_MAX, "--shards must be from 1 to 256");
        // None of these can be 0: the server would refuse, drop or hold back everything.
        for (name, value) in [
            ("executors-max", self.executors_max),
            ("headers-max", self.headers_max),
            ("uri-bytes-max", self.uri_bytes_max),
            ("mgnt-body-bytes-max", self.mgnt_body_bytes_max),
            ("connections-max", self.connections_max),
            ("pipeline-max", self.pipeline_max),
            ("ws-message-bytes-max", self.ws_message_bytes_max),
            ("ws-queue-bytes-max", self.ws_queue_bytes_max),
            ("ws-inbox-messages-max", self.ws_inbox_messages_max),
            ("deploy-queue-max", self.deploy_queue_max),
            ("job-queue-max", self.job_queue_max),
        ] {
            check(value == 0, &format!("--{name} must be at least 1"));
        }
        for (name, value_ms) in [
            ("header-timeout-ms", self.header_timeout_ms),
            ("body-timeout-ms", self.body_timeout_ms),
            ("idle-timeout-ms", self.idle_timeout_ms),
            ("write-timeout-ms", self.write_timeout_ms),
            ("compile-timeout-ms", self.compile_timeout_ms),
            ("swap-timeout-ms", self.swap_timeout_ms),
        ] {
            check(value_ms == 0, &format!("--{name} must be at least 1"));
        }
        check(self.head_bytes_max < 256, "--head-bytes-max must be at least 256");
        let workers_fit = (1..=JOB_WORKERS_MAX).contains(&self.job_workers);
        check(!workers_fit, &format!("--job-workers must be from 1 to {JOB_WORKERS_MAX}"));
        let retention_fits = (1..=JOB_RETENTION_S_MAX).contains(&self.job_retention_s);
        check(!retention_fits, "--job-retention must be from 1s to 36500d");
        for (name, value) in [
            ("job-payload-bytes-max", self.job_payload_bytes_max),
            ("job-event-bytes-max", self.job_event_bytes_max),
            ("job-result-bytes-max", self.job_result_bytes_max),
        ] {
            let fits = (1..=JOB_PART_BYTES_MAX).contains(&value);
            check(!fits, &format!("--{name} must be from 1 to {JOB_PART_BYTES_MAX}"));
        }
        check(
            self.isolation == Isolation::Process,
            "--isolation process is not built in this version yet; use --isolation none, and deploy only code you trust",
        );
        check(
            self.reactor == Reactor::Glommio,
            "--reactor glommio is not built in this version yet; use --reactor monoio",
        );
        check(
            self.production && self.admin_key.is_none(),
            "--production needs an admin key; make one: export CWEB_ADMIN_KEY=$(openssl rand -hex 32)",
        );
        check(
            self.tls_cert.is_some() != self.tls_key.is_some(),
            "--tls-cert and --tls-key belong together: give both or none",
        );
        problems
    }
}

fn read_file(path: Option<&Path>, data_dir: &Path) -> Result<ServeArgs, ConfigError> {
    let fallback = data_dir.join("cweb.toml");
    let (path, wanted) = (path.unwrap_or(&fallback), path.is_some());
    let failed = |reason: String| ConfigError(vec![format!("{}: {reason}", path.display())]);
    match std::fs::read_to_string(path) {
        Ok(text) => toml::from_str(&text).map_err(|error| failed(error.to_string())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !wanted => Ok(ServeArgs::default()),
        Err(error) => Err(failed(error.to_string())),
    }
}

/// Descriptors this process may open, less those it needs for itself.
fn descriptors_max() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().next()).and_then(|text| text.parse::<usize>().ok());
    soft.unwrap_or(usize::MAX).saturating_sub(256).max(16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(args: ServeArgs) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        Config::load(ServeArgs { data_dir: Some(dir.path().into()), ..args })
    }

    #[test]
    fn flags_beat_the_file_and_the_file_beats_defaults() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("cweb.toml"), "port = 1\nshards = 3\nadmin_key = \"k\"").unwrap();
        let args = ServeArgs { data_dir: Some(dir.path().into()), port: Some(2), ..ServeArgs::default() };
        let config = Config::load(args).unwrap();
        assert_eq!((config.listen.as_slice(), config.shards), (&["127.0.0.1:2".to_owned()][..], 3));
        assert_eq!((config.admin_key.as_deref(), config.pipeline_max), (Some("k"), 64));
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let args = ServeArgs {
            shards: Some(0),
            isolation: Some(Isolation::Process),
            tls_key: Some("k".into()),
            ..ServeArgs::default()
        };
        let text = load(args).unwrap_err().to_string();
        assert_eq!(text.lines().count(), 3, "{text}");
    }

    #[test]
    fn nothing_that_would_wedge_the_server_is_accepted() {
        let args = ServeArgs {
            listen: Some(vec!["nonsense".into()]),
            ws_inbox_messages_max: Some(0),
            idle_timeout_ms: Some(0),
            job_workers: Some(0),
            job_retention: Some(Span { seconds: 0 }),
            job_result_bytes_max: Some(usize::MAX),
            ..ServeArgs::default()
        };
        let text = load(args).unwrap_err().to_string();
        for part in [
            "nonsense",
            "--ws-inbox-messages-max",
            "--idle-timeout-ms",
            "--job-workers",
            "--job-retention",
            "--job-result",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert_eq!(text.lines().count(), 6, "{text}");
    }

    #[test]
    fn jobs_are_kept_safe_and_for_a_week() {
        let config = load(ServeArgs::default()).unwrap();
        assert_eq!((config.durability, config.job_retention_s), (Durability::Full, 7 * DAY_S));
        let args: ServeArgs = toml::from_str("job_retention = \"12h\"\ndurability = \"normal\"").unwrap();
        let config = load(args).unwrap();
        assert_eq!((config.durability, config.job_retention_s), (Durability::Normal, 12 * 60 * 60));
        assert_eq!(
            toml::from_str::<ServeArgs>("job_retention = 90").unwrap().job_retention,
            Some(Span { seconds: 90 })
        );
    }

    #[test]
    fn spans_of_time_are_read_as_people_write_them() {
        for (text, seconds) in
            [("0", 0), ("90", 90), ("5s", 5), ("2m", 120), ("3h", 10_800), ("7d", 604_800), ("1w", 604_800)]
        {
            assert_eq!(text.parse(), Ok(Span { seconds }), "{text}");
        }
        for text in ["", "d", "-1", "1.5h", "7 days", "1ü", "99999999999999999999", "9999999999999999w"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }

    #[test]
    fn paths_of_the_key_do_not_move_with_the_data_directory() {
        let pair = (Some(PathBuf::from("c.pem")), Some(PathBuf::from("k.pem")));
        let config = load(ServeArgs { tls_cert: pair.0, tls_key: pair.1, ..ServeArgs::default() }).unwrap();
        assert_eq!(config.tls_key.unwrap(), std::env::current_dir().unwrap().join("k.pem"));
    }

    #[test]
    fn shards_divide_the_descriptors_between_them() {
        let args = ServeArgs { shards: Some(4), connections_max: Some(usize::MAX), ..ServeArgs::default() };
        assert_eq!(load(args).unwrap().connections_max, descriptors_max() / 4);
    }

    #[test]
    fn a_file_with_an_unknown_setting_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("other.toml");
        std::fs::write(&path, "prot = 1").unwrap();
        let error = load(ServeArgs { config: Some(path), ..ServeArgs::default() }).unwrap_err().to_string();
        assert!(error.contains("other.toml") && error.contains("prot"), "{error}");
    }

    #[test]
    fn production_listens_everywhere_and_needs_a_key() {
        let args = ServeArgs { production: Some(true), admin_key: Some("k".into()), ..ServeArgs::default() };
        assert_eq!(load(args).unwrap().listen, ["0.0.0.0:8080"]);
        if std::env::var_os("CWEB_ADMIN_KEY").is_none() {
            let error = load(ServeArgs { production: Some(true), ..ServeArgs::default() }).unwrap_err();
            assert!(error.to_string().contains("openssl rand"));
        }
    }
}
