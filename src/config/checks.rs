//! What is wrong with settings: each by itself, and together.

use super::args::DAY_S;
use super::{Config, ModuleDatabase, Reactor};
use crate::net::{ListenAddr, Reach};
use crate::proto::forwarded::{ForwardedBy, TrustedProxies};
use crate::proto::http1;

/// Smallest address space a process of modules starts in, and some for the modules.
pub(super) const MODULE_MEMORY_BYTES_MIN: u64 = 4 * 1024 * 1024 * 1024;

/// Smallest memory a process of modules can work in: what it has at the start, and bodies that it is answering with.
pub(super) const MODULE_RESIDENT_BYTES_MIN: u64 = 64 * 1024 * 1024;

/// Growth that is no growth: threads that come and go move as much.
const RSS_RECYCLE_BYTES_MIN: u64 = 16 * 1024 * 1024;

/// Smallest core file that has the stacks of a process in it.
const CORE_BYTES_MIN: u64 = 1024 * 1024;

/// Most crashes that are kept in mind of a module.
const CRASHES_MAX: usize = 1000;

/// Most shards; beyond it a machine would have more cores than this has been thought through for.
const SHARDS_MAX: usize = 256;

/// Most domains: each has a process, threads and, for each shard, 3 MiB of rings.
const DOMAINS_MAX: usize = 1024;

/// Most job workers: threads beyond this only wait for each other.
const JOB_WORKERS_MAX: usize = 1024;
/// Each has a thread.
const STREAM_CALLS_MAX: usize = 4096;
/// Two processes each.
const KILLABLE_CALLS_MAX: usize = 1024;
const STREAM_ANSWERS_MAX: usize = 1024 * 1024;
/// What one receive brings of a body must fit.
const STREAM_BUFFER_BYTES_MIN: usize = 256 * 1024;
const STREAM_BUFFER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Longest that finished jobs are kept; far from where times in milliseconds would overflow.
const JOB_RETENTION_S_MAX: u64 = 36_500 * DAY_S;

/// Most bytes of one part of a job: all parts together stay within a row of SQLite, 1,000,000,000 bytes.
const JOB_PART_BYTES_MAX: usize = 256 * 1024 * 1024;

impl Config {
    /// Everything that is wrong, a line each.
    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = Problems(Vec::new());
        self.check_addresses(&mut problems);
        self.check_zeros(&mut problems);
        self.check_proxies(&mut problems);
        self.check_ranges(&mut problems);
        self.check_texts(&mut problems);
        self.check_codings(&mut problems);
        problems.0.extend(self.job_data.problems());
        problems.0.extend(self.resources.problems());
        problems.0
    }

    /// Settings that don't go together, a line each.
    pub(super) fn misfits(&self) -> Vec<String> {
        let mut problems = Problems(Vec::new());
        self.check_combinations(&mut problems);
        problems.0
    }

    fn check_addresses(&self, problems: &mut Problems) {
        let parsed = |text: &String| text.parse::<ListenAddr>();
        let wrong = self.listen.iter().chain(&self.admin_listen).filter_map(|text| parsed(text).err());
        problems.0.extend(wrong.map(|error| error.to_string()));
        for address in &self.admin_listen {
            let own = parsed(address).ok();
            // Port 0 is another one each time.
            let chosen = !matches!(own, Some(ListenAddr::Tcp(addr)) if addr.port() == 0);
            let taken = self.listen.iter().any(|other| own.is_some() && parsed(other).ok() == own);
            problems.check(chosen && taken, || {
                format!("--admin-listen {address} is an address for modules too: give another")
            });
        }
    }

    /// Whose word counts about who the client is.
    fn check_proxies(&self, problems: &mut Problems) {
        let by = ForwardedBy::named(&self.trusted_proxy_header);
        problems.check(by.is_none(), || {
            format!("--trusted-proxy-header is x-forwarded-for or forwarded, not {}", self.trusted_proxy_header)
        });
        let texts = self.trusted_proxies.iter().map(String::as_str);
        if let Err(error) = TrustedProxies::read(texts, by.unwrap_or_default()) {
            problems.0.push(format!("--trusted-proxy: {error}"));
        }
    }

    /// None of these can be 0: the server would refuse, drop or hold back everything.
    fn check_zeros(&self, problems: &mut Problems) {
        for (name, value) in [
            ("executors-max", self.executors_max),
            ("uri-bytes-max", self.uri_bytes_max),
            ("mgnt-body-bytes-max", self.mgnt_body_bytes_max),
            ("module-answers-bytes-max", self.module_answers_bytes_max),
            ("connections-max", self.connections_max),
            ("pipeline-max", self.pipeline_max),
            ("request-memory-bytes-max", self.request_memory_bytes_max),
            ("ws-message-bytes-max", self.ws_message_bytes_max),
            ("ws-queue-bytes-max", self.ws_queue_bytes_max),
            ("ws-inbox-messages-max", self.ws_inbox_messages_max),
            ("deploy-queue-max", self.deploy_queue_max),
            ("project-files-max", self.projects.files_max),
            ("project-bytes-max", self.projects.bytes_max),
            ("versions-kept", self.projects.versions_kept),
            ("core-files-max", self.projects.core_files_max),
            ("job-queue-max", self.job_queue_max),
            ("job-pending-max", self.job_pending_max),
            ("job-streams-max", self.job_streams_max),
        ] {
            problems.check(value == 0, || format!("--{name} must be at least 1"));
        }
        for (name, value_ms) in [
            ("header-timeout-ms", self.header_timeout_ms),
            ("body-timeout-ms", self.body_timeout_ms),
            ("idle-timeout-ms", self.idle_timeout_ms),
            ("write-timeout-ms", self.write_timeout_ms),
            ("ws-pong-timeout-ms", self.ws_pong_timeout_ms),
            ("handler-timeout-ms", self.handler_timeout_ms),
            ("compile-timeout-ms", self.compile_timeout_ms),
            ("swap-timeout-ms", self.swap_timeout_ms),
            ("hook-timeout-ms", self.hook_timeout_ms),
            ("crash-window-ms", self.crash_window_ms),
        ] {
            problems.check(value_ms == 0, || format!("--{name} must be at least 1"));
        }
    }

    fn check_ranges(&self, problems: &mut Problems) {
        for (name, value, max) in [
            ("shards", self.shards, SHARDS_MAX),
            ("domains-max", self.domains_max, DOMAINS_MAX),
            ("job-workers", self.job_workers, JOB_WORKERS_MAX),
            ("stream-calls-max", self.stream_calls_max, STREAM_CALLS_MAX),
            ("killable-calls-max", self.projects.killable_calls_max, KILLABLE_CALLS_MAX),
            ("stream-answers-max", self.stream_answers_max, STREAM_ANSWERS_MAX),
            ("headers-max", self.headers_max, http1::HEADERS_MAX),
            ("job-payload-bytes-max", self.job_payload_bytes_max, JOB_PART_BYTES_MAX),
            ("job-event-bytes-max", self.job_event_bytes_max, JOB_PART_BYTES_MAX),
            ("job-result-bytes-max", self.job_result_bytes_max, JOB_PART_BYTES_MAX),
            ("job-checkpoint-bytes-max", self.job_data.checkpoint_bytes_max, JOB_PART_BYTES_MAX),
        ] {
            problems.check(!(1..=max).contains(&value), || format!("--{name} must be from 1 to {max}"));
        }
        for (name, value, min) in [
            // The stacks of the threads and the allocator's reserve count too.
            ("module-memory-bytes-max", self.module_memory_bytes_max, MODULE_MEMORY_BYTES_MIN),
            ("module-resident-bytes-max", self.module_resident_bytes_max, MODULE_RESIDENT_BYTES_MIN),
            ("module-rss-recycle-bytes", self.module_rss_recycle_bytes, RSS_RECYCLE_BYTES_MIN),
        ] {
            problems.check(value != 0 && value < min, || format!("--{name} must be 0 or at least {min}"));
        }
        problems.check(self.projects.core_bytes_max < CORE_BYTES_MIN, || {
            format!("--core-bytes-max must be at least {CORE_BYTES_MIN}")
        });
        let buffer_fits = (STREAM_BUFFER_BYTES_MIN..=STREAM_BUFFER_BYTES_MAX).contains(&self.stream_buffer_bytes);
        problems.check(!buffer_fits, || {
            format!("--stream-buffer-bytes must be from {STREAM_BUFFER_BYTES_MIN} to {STREAM_BUFFER_BYTES_MAX}")
        });
        let crashes_fit = self.crash_limit <= CRASHES_MAX;
        problems.check(!crashes_fit, || format!("--crash-limit must be from 0 to {CRASHES_MAX}"));
        // A head crosses to the process of the modules in one record of its ring, which holds 256 KiB: with 16 bytes for each of at
        // most 1024 fields, and a body below 32 KiB.
        let head_fits = (256..=131_072).contains(&self.head_bytes_max);
        problems.check(!head_fits, || "--head-bytes-max must be from 256 to 131072".to_owned());
        let retention_fits = (1..=JOB_RETENTION_S_MAX).contains(&self.job_retention_s);
        problems.check(!retention_fits, || "--job-retention must be from 1s to 36500d".to_owned());
    }

    fn check_texts(&self, problems: &mut Problems) {
        let reach = Reach::read(self.allow_net.iter().map(String::as_str));
        problems.0.extend(reach.err().map(|error| error.to_string()));
        for (name, value) in [
            ("cors-allow-origin", &self.cors_allow_origin),
            ("cors-allow-methods", &self.cors_allow_methods),
            ("cors-allow-headers", &self.cors_allow_headers),
        ] {
            // They are sent as they are (RFC 9110 §5.5).
            let sendable = value.bytes().all(|byte| matches!(byte, b' '..=b'~'));
            problems.check(!sendable, || format!("--{name} must be printable ASCII, as it is sent in a header field"));
        }
    }

    fn check_codings(&self, problems: &mut Problems) {
        let known = |name: &String| http1::Coding::ALL.iter().any(|coding| coding.name() == name);
        let unknown = self.compress.iter().find(|name| !known(name));
        problems.check(unknown.is_some(), || {
            "--compress must be off, or a list of zstd, br and gzip with the preferred ones first".to_owned()
        });
    }

    fn check_combinations(&self, problems: &mut Problems) {
        if let Some(users) = self.projects.module_uids {
            problems.check(users.count() < self.domains_max as u64, || {
                format!(
                    "--module-uids has {} users for --domains-max {} domains: give as many",
                    users.count(),
                    self.domains_max
                )
            });
            problems.check(self.module_database == ModuleDatabase::Shared, || {
                "--module-uids has domains run as different users, who can't share a file: not with --module-database shared".to_owned()
            });
        }
        problems.check(self.reactor == Reactor::Glommio && !cfg!(feature = "glommio"), || {
            "--reactor glommio is not available in this build; build it with cargo build --release --features glommio, \
             or leave --reactor out"
                .to_owned()
        });
        problems.check(self.production && self.admin_key.is_none() && self.keys_file.is_none(), || {
            "--production needs a key; make one: cweb keygen NAME >> keys.toml, and add --keys-file keys.toml; or for one that may do everything: export CWEB_ADMIN_KEY=$(openssl rand -hex 32)".to_owned()
        });
        problems.check(self.production && self.projects.dev, || {
            "--dev is for development: leave it out with --production".to_owned()
        });
        let is_weak = self.admin_key.as_deref().is_some_and(is_weak);
        problems.check(self.production && is_weak, || {
            format!("CWEB_ADMIN_KEY is a weak key: --production wants at least {KEY_BYTES_MIN} bytes, {KEY_KINDS_MIN} of them different; make one: openssl rand -hex 32")
        });
        problems.check(self.tls_cert.is_some() != self.tls_key.is_some(), || {
            "--tls-cert and --tls-key belong together: give both or none".to_owned()
        });
    }
}

/// Bytes of a key that can't be guessed, and how many of them differ at least.
const KEY_BYTES_MIN: usize = 16;
const KEY_KINDS_MIN: usize = 6;

fn is_weak(key: &str) -> bool {
    let mut kinds = key.as_bytes().to_vec();
    kinds.sort_unstable();
    kinds.dedup();
    key.len() < KEY_BYTES_MIN || kinds.len() < KEY_KINDS_MIN
}

/// What was found so far.
struct Problems(Vec<String>);

impl Problems {
    fn check(&mut self, wrong: bool, text: impl FnOnce() -> String) {
        if wrong {
            self.0.push(text());
        }
    }
}
