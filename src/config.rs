//! Merges flags, environment and `cweb.toml` into one validated [`Config`]. Flags beat environment beats file.

mod args;
mod checks;
mod file;
mod job_data;
mod own_pair;
mod parts;
mod projects;
mod resources;
mod tls_clients;
mod user_range;
mod values;

pub use args::{ServeArgs, without_env};
pub use job_data::JobDataSettings;
pub use parts::{CorsSettings, JobLimits, ModuleLimits, RequestLimits, Timeouts, WebSocketSettings};
pub use projects::ProjectSettings;
pub use resources::ResourceSettings;
pub use tls_clients::TlsClientSettings;
pub use values::{Durability, Isolation, ModuleDatabase, ModuleJobs, Reactor, RequireSandbox, Span};

use file::{read_file, settings_path};
use std::ffi::OsString;
use std::path::PathBuf;

/// The server's settings, complete and checked. Names end with their units.
#[derive(Debug, Clone)]
pub struct Config {
    /// Addresses to listen on, `ADDR:PORT` or `unix:PATH`; at least one.
    pub listen: Vec<String>,
    /// Addresses for only the server's own paths; if there are any, the addresses in `listen` serve only modules.
    pub admin_listen: Vec<String>,
    /// Threads that serve connections: from 1 to 256.
    pub shards: usize,
    /// The reactor of the shards.
    pub reactor: Reactor,
    /// Directory of all state; the server's working directory.
    pub data_dir: PathBuf,
    /// Directory of the deployed modules.
    pub module_dir: PathBuf,
    /// Where modules run: in processes of their own, or in the server.
    pub isolation: Isolation,
    /// Directories that modules in processes of their own may read.
    pub allow_read: Vec<PathBuf>,
    /// Directories that modules in processes of their own may write.
    pub allow_write: Vec<PathBuf>,
    /// Destinations that isolated modules may connect to: see `net::Reach`.
    pub allow_net: Vec<String>,
    /// Limit, in bytes, on the files of a domain; 0: no limit. `None`: a share of the disk.
    pub module_disk_bytes_max: Option<u64>,
    /// Whether clients on this machine need the admin key, too.
    pub production: bool,
    /// The server's certificate, PEM; absolute. In production, `server.crt` in the data directory if none is named.
    pub tls_cert: Option<PathBuf>,
    /// The server's private key, PEM; absolute. Given exactly when `tls_cert` is.
    pub tls_key: Option<PathBuf>,
    /// Settings of client certificates.
    pub tls_clients: TlsClientSettings,
    /// The key that signs tokens of modules, PEM; absolute. The server makes the file if it is missing.
    pub token_key: Option<PathBuf>,
    /// Whether the server removes all modules at exit.
    pub purge_modules: bool,
    /// Whether the log has only warnings and errors.
    pub silent: bool,
    /// Whether the server exits without waiting for running requests.
    pub force_shutdown: bool,
    /// Content codings of answers in the order of preference; empty: answers are not compressed.
    pub compress: Vec<String>,
    /// The key for `/mgnt`, `/jobs` and `/metrics`; never empty.
    pub admin_key: Option<String>,
    /// The file of settings, if it was read and contains a key.
    pub secret_settings: Option<PathBuf>,
    /// File of named keys for the same paths; absolute.
    pub keys_file: Option<PathBuf>,
    /// Memory of the server itself.
    pub resources: ResourceSettings,
    /// Limit on the open connections of one shard: 503 and a close beyond it.
    pub connections_max: usize,
    /// Limit on the open connections of one peer, over all shards: 503 and a close beyond it; 0: no limit.
    pub connections_per_peer_max: usize,
    /// Proxies whose header field names the client's address: addresses, networks, `unix`.
    pub trusted_proxies: Vec<String>,
    /// The name of this header field.
    pub trusted_proxy_header: String,
    /// Settings about projects, libraries and versions.
    pub projects: ProjectSettings,
    /// Limit on waiting deployments: 503 beyond it.
    pub deploy_queue_max: usize,
    /// Threads that run jobs: from 1 to 1024.
    pub job_workers: usize,
    /// When a change of a job counts as written.
    pub durability: Durability,
    /// How long finished jobs are kept, in seconds.
    pub job_retention_s: u64,
    /// Limits of checkpoints, blobs and outputs.
    pub job_data: JobDataSettings,
    /// Limits on requests.
    pub limits: RequestLimits,
    /// Limits on time.
    pub timeouts: Timeouts,
    /// Settings about WebSockets.
    pub websockets: WebSocketSettings,
    /// Header fields for pages of other origins.
    pub cors: CorsSettings,
    /// Limits on modules and domains.
    pub modules: ModuleLimits,
    /// Limits on jobs.
    pub jobs: JobLimits,
}

/// The settings are invalid: all problems, one per line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigError(pub Vec<String>);

impl Config {
    /// Merges `flags`, the environment and the settings file, adds the defaults and checks the result.
    ///
    /// # Errors
    /// All problems at once.
    pub fn load(flags: ServeArgs) -> Result<Self, ConfigError> {
        Self::load_from(flags, |name| std::env::var_os(name))
    }

    fn load_from(flags: ServeArgs, env: impl Fn(&str) -> Option<OsString>) -> Result<Self, ConfigError> {
        match Self::read_all(flags, env) {
            (config, problems) if problems.is_empty() => Ok(config),
            (_, problems) => Err(ConfigError(problems)),
        }
    }

    /// Like [`Config::load`], but returns all problems together with the settings, in which faulty settings have their
    /// defaults. A check can then go on with the files that the settings name.
    #[must_use]
    pub fn load_for_check(flags: ServeArgs) -> (Self, Vec<String>) {
        Self::read_all(flags, |name| std::env::var_os(name))
    }

    fn read_all(flags: ServeArgs, env: impl Fn(&str) -> Option<OsString>) -> (Self, Vec<String>) {
        let (from_env, mut problems) = ServeArgs::from_env(env);
        let given = flags.or(from_env);
        // The environment may name the data directory, and the settings file lies there.
        let (file, unreadable) = read_file(given.config.as_deref(), given.data_dir.as_deref());
        let secret_settings = file.admin_key.is_some().then(|| settings_path(&given));
        let is_whole = problems.is_empty() && unreadable.is_empty();
        problems.extend(unreadable);
        let settings = given.or(file);
        let mut config = Self::with_defaults(&settings);
        config.secret_settings = secret_settings;
        problems.extend(settings.out_of_range());
        problems.extend(config.problems());
        if is_whole {
            // Combinations are checked only if everything could be read: an unreadable setting may be the missing half.
            problems.extend(config.misfits());
        }
        if config.production && config.tls_cert.is_none() && config.tls_key.is_none() {
            match own_pair::find(&config.data_dir) {
                Ok(Some((cert, key))) => (config.tls_cert, config.tls_key) = (Some(cert), Some(key)),
                Ok(None) => {}
                Err(problem) => problems.push(problem),
            }
        }
        // The server changes to the data directory before it reads these files, so their paths must be absolute.
        for path in [
            &mut config.tls_cert,
            &mut config.tls_key,
            &mut config.token_key,
            &mut config.keys_file,
            &mut config.secret_settings,
        ]
        .into_iter()
        .flatten()
        {
            match std::path::absolute(&*path) {
                Ok(absolute) => *path = absolute,
                Err(error) => problems.push(format!("{}: {error}", path.display())),
            }
        }
        (config, problems)
    }

    fn with_defaults(args: &ServeArgs) -> Self {
        let (projects, job_data) = (ProjectSettings::of(args), JobDataSettings::of(args));
        let resources = ResourceSettings::of(args);
        let data_dir = args.data_dir.clone().unwrap_or_else(|| PathBuf::from("."));
        let production = args.production.unwrap_or(false);
        let host = if production { "0.0.0.0" } else { "127.0.0.1" };
        let listen = args.listen.clone().unwrap_or_default();
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let shards = args.shards.unwrap_or_else(|| cores().min(args::SHARDS_MAX));
        let connections_max = args.connections_max().min(resources::connections_max(shards));
        // A port given beside addresses is one more address.
        let own = (listen.is_empty() || args.port.is_some()).then(|| format!("{host}:{}", args.port()));
        Self {
            listen: own.into_iter().chain(listen).collect(),
            admin_listen: args.admin_listen.clone().unwrap_or_default(),
            shards,
            reactor: args.reactor(),
            module_dir: args.module_dir.clone().unwrap_or_else(|| data_dir.join("modules")),
            data_dir,
            isolation: args.isolation(),
            allow_read: args.allow_read.clone().unwrap_or_default(),
            allow_net: args.allow_net.clone().unwrap_or_default(),
            module_disk_bytes_max: args.module_disk_bytes_max,
            allow_write: args.allow_write.clone().unwrap_or_default(),
            production,
            tls_cert: args.tls_cert.clone(),
            tls_key: args.tls_key.clone(),
            tls_clients: TlsClientSettings::of(args),
            token_key: args.token_key.clone(),
            purge_modules: args.purge_modules.unwrap_or(false),
            silent: args.silent.unwrap_or(false),
            force_shutdown: args.force_shutdown.unwrap_or(false),
            compress: codings(args.compress()),
            admin_key: args.admin_key.clone().filter(|key| !key.is_empty()),
            secret_settings: None,
            keys_file: args.keys_file.clone(),
            connections_per_peer_max: args.connections_per_peer_max.unwrap_or((connections_max * shards / 4).max(64)),
            connections_max,
            resources,
            trusted_proxies: args.trusted_proxies.clone().unwrap_or_default(),
            trusted_proxy_header: args.trusted_proxy_header(),
            projects,
            limits: RequestLimits::of(args),
            timeouts: Timeouts::of(args),
            websockets: WebSocketSettings::of(args),
            cors: CorsSettings::of(args),
            modules: ModuleLimits::of(args),
            jobs: JobLimits::of(args),
            deploy_queue_max: args.deploy_queue_max(),
            job_workers: args.job_workers.unwrap_or_else(|| cores().min(args::JOB_WORKERS_MAX)),
            durability: args.durability(),
            job_retention_s: args.job_retention().seconds,
            job_data,
        }
    }

    /// The memory that a domain's process may use, in bytes, if it is limited.
    #[must_use]
    pub fn module_memory_bytes(&self) -> Option<u64> {
        [self.modules.module_resident_bytes_max, self.modules.module_memory_bytes_max]
            .into_iter()
            .find(|bytes| *bytes > 0)
    }
}

/// The names of content codings; `off` means none.
fn codings(given: Vec<String>) -> Vec<String> {
    if given == ["off"] { Vec::new() } else { given }
}

#[cfg(test)]
mod tests {
    use super::values::DAY_S;
    use super::*;

    fn load(args: ServeArgs) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        Config::load_from(ServeArgs { data_dir: Some(dir.path().into()), ..args }, |_| None)
    }

    /// An environment of only these variables.
    fn env(pairs: &'static [(&str, &str)]) -> impl Fn(&str) -> Option<OsString> {
        |name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into())
    }

    #[test]
    fn flags_beat_the_environment_and_it_beats_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("settings.toml");
        let text = "port = 1\ndata_dir = \"/file\"\nshards = 3\nsilent = true\nexecutors_max = 5\nadmin_key = \"file\"";
        std::fs::write(&path, text).unwrap();
        let seen = |flags: ServeArgs, env: &dyn Fn(&str) -> Option<OsString>| {
            let config = Config::load_from(ServeArgs { config: Some(path.clone()), ..flags }, env).unwrap();
            let port = config.listen[0].rsplit(':').next().unwrap().to_owned();
            // The modules' directory follows from the data directory, wherever that was set.
            assert_eq!(config.module_dir, config.data_dir.join("modules"));
            let data_dir = config.data_dir.to_str().unwrap().to_owned();
            (port, data_dir, config.shards, config.silent, config.modules.executors_max, config.admin_key.unwrap())
        };
        let expected = |port: &str, data_dir: &str, shards, silent, key: &str| {
            (port.to_owned(), data_dir.to_owned(), shards, silent, 5, key.to_owned())
        };
        let variables = env(&[
            ("PORT", "2"),
            ("CWEB_DATA_DIR", "/env"),
            ("CWEB_SHARDS", "4"),
            ("CWEB_SILENT", "0"),
            ("CWEB_ADMIN_KEY", "env"),
        ]);
        let flags = ServeArgs {
            port: Some(7),
            data_dir: Some("/flag".into()),
            shards: Some(6),
            silent: Some(true),
            ..ServeArgs::default()
        };
        assert_eq!(seen(ServeArgs::default(), &env(&[])), expected("1", "/file", 3, true, "file"));
        assert_eq!(seen(ServeArgs::default(), &variables), expected("2", "/env", 4, false, "env"));
        assert_eq!(seen(flags, &variables), expected("7", "/flag", 6, true, "env"));
    }

    #[test]
    fn the_file_is_found_in_the_data_directory_of_flag_or_environment() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("cweb.toml"), "pipeline_max = 3").unwrap();
        let path = dir.path().as_os_str().to_owned();
        let env = |name: &str| (name == "CWEB_DATA_DIR").then(|| path.clone());
        assert_eq!(Config::load_from(ServeArgs::default(), env).unwrap().limits.pipeline_max, 3);
    }

    #[test]
    fn empty_variables_count_as_unset_and_wrong_ones_are_named() {
        let empty = env(&[("PORT", ""), ("CWEB_SHARDS", ""), ("CWEB_ADMIN_KEY", ""), ("CWEB_CORS_ALLOW_ORIGIN", "")]);
        let given = ServeArgs::from_env(empty).0;
        assert_eq!((given.port, given.shards, given.admin_key), (None, None, None));
        assert_eq!(given.cors_allow_origin.as_deref(), Some(""), "empty means no such header");
        let wrong = env(&[("PORT", "abc"), ("CWEB_REACTOR", "x"), ("CWEB_SILENT", "perhaps"), ("CWEB_SHARDS", "2")]);
        let text = ServeArgs::from_env(wrong).1.join("\n");
        assert_eq!(text.lines().count(), 3, "{text}");
        for part in ["PORT: invalid value 'abc' for '--port", "monoio", "CWEB_SILENT"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn lists_come_from_the_environment_too() {
        let given = ServeArgs::from_env(env(&[("CWEB_LISTEN", "127.0.0.1:1,unix:/s"), ("CWEB_ALLOW_READ", "/a,/b")]));
        let given = given.0;
        assert_eq!(given.listen.unwrap(), ["127.0.0.1:1", "unix:/s"]);
        assert_eq!(given.allow_read.unwrap(), [PathBuf::from("/a"), PathBuf::from("/b")]);
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let args = ServeArgs {
            shards: Some(0),
            reactor: Some(Reactor::Glommio),
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
            domains_max: Some(0),
            job_retention: Some(Span { seconds: 0 }),
            job_result_bytes_max: Some(usize::MAX),
            admin_listen: Some(vec!["more nonsense".into()]),
            ..ServeArgs::default()
        };
        let text = load(args).unwrap_err().to_string();
        for part in [
            "\"nonsense",
            "more nonsense",
            "--ws-inbox-messages-max",
            "--idle-timeout-ms",
            "--job-workers",
            "--domains-max",
            "--job-retention",
            "--job-result",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert_eq!(text.lines().count(), 8, "{text}");
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
    fn the_memory_that_modules_may_use_is_what_they_may_map_unless_it_is_said() {
        let limits = |mapped: u64, resident: u64| {
            load(ServeArgs {
                module_memory_bytes_max: Some(mapped),
                module_resident_bytes_max: Some(resident),
                ..ServeArgs::default()
            })
        };
        assert_eq!(load(ServeArgs::default()).unwrap().module_memory_bytes(), None);
        let (mapped, resident) = (args::MODULE_MEMORY_BYTES_MIN, args::MODULE_RESIDENT_BYTES_MIN);
        assert_eq!(limits(mapped, 0).unwrap().module_memory_bytes(), Some(mapped));
        assert_eq!(limits(mapped, resident).unwrap().module_memory_bytes(), Some(resident));
        assert_eq!(limits(0, resident).unwrap().module_memory_bytes(), Some(resident));
        assert!(limits(0, resident - 1).unwrap_err().to_string().contains("--module-resident-bytes-max"));
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
        assert_eq!(load(args).unwrap().connections_max, resources::connections_max(4));
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
        let args =
            ServeArgs { production: Some(true), admin_key: Some("0123456789abcdef".into()), ..ServeArgs::default() };
        assert_eq!(load(args).unwrap().listen, ["0.0.0.0:8080"]);
        let error = load(ServeArgs { production: Some(true), ..ServeArgs::default() }).unwrap_err();
        assert!(error.to_string().contains("openssl rand") && error.to_string().contains("cweb keygen"), "{error}");
        let args = ServeArgs { production: Some(true), keys_file: Some("keys.toml".into()), ..ServeArgs::default() };
        assert!(load(args).unwrap().keys_file.unwrap().is_absolute());
    }

    #[test]
    fn modules_and_admin_have_addresses_of_their_own() {
        let given = |listen: &str, admin: &str| {
            let (listen, admin) = (Some(vec![listen.to_owned()]), Some(vec![admin.to_owned()]));
            load(ServeArgs { listen, admin_listen: admin, ..ServeArgs::default() }).map(|config| config.admin_listen)
        };
        assert_eq!(given("127.0.0.1:1", "127.0.0.1:2").unwrap(), ["127.0.0.1:2"]);
        assert!(given("127.0.0.1:0", "127.0.0.1:0").is_ok());
        assert!(given("127.0.0.1:1", "localhost:1").unwrap_err().to_string().contains("localhost:1"));
        assert!(given("unix:/s", "unix:/s").is_err());
    }
}
