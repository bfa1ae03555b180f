//! Checks of settings, alone and in combination. The ranges of numbers are in the table of `args`.

use super::values::DAY_S;
use super::{Config, ModuleDatabase, Reactor};
use crate::net::{ListenAddr, Reach};
use crate::proto::forwarded::{ForwardedBy, TrustedProxies};
use crate::proto::http1;

/// Limit on the retention of jobs; far below the overflow of times in milliseconds.
const JOB_RETENTION_S_MAX: u64 = 36_500 * DAY_S;

impl Config {
    /// All invalid settings, one line each.
    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = Problems(Vec::new());
        self.check_addresses(&mut problems);
        self.check_proxies(&mut problems);
        self.check_retention(&mut problems);
        self.check_texts(&mut problems);
        self.check_codings(&mut problems);
        problems.0.extend(self.job_data.problems());
        problems.0
    }

    /// Settings that can't be combined, one line each.
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
            // The kernel chooses a different port for each port 0.
            let chosen = !matches!(own, Some(ListenAddr::Tcp(addr)) if addr.port() == 0);
            let taken = self.listen.iter().any(|other| own.is_some() && parsed(other).ok() == own);
            problems.check(chosen && taken, || {
                format!("--admin-listen {address} is also an address for modules: use another address")
            });
        }
    }

    /// Checks the settings of trusted proxies.
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

    fn check_retention(&self, problems: &mut Problems) {
        let retention_fits = (1..=JOB_RETENTION_S_MAX).contains(&self.job_retention_s);
        problems.check(!retention_fits, || "--job-retention must be from 1s to 36500d".to_owned());
    }

    fn check_texts(&self, problems: &mut Problems) {
        let reach = Reach::read(self.allow_net.iter().map(String::as_str));
        problems.0.extend(reach.err().map(|error| error.to_string()));
        for (name, value) in [
            ("cors-allow-origin", &self.cors.cors_allow_origin),
            ("cors-allow-methods", &self.cors.cors_allow_methods),
            ("cors-allow-headers", &self.cors.cors_allow_headers),
        ] {
            // The values are sent unchanged (RFC 9110 §5.5).
            let sendable = value.bytes().all(|byte| matches!(byte, b' '..=b'~'));
            problems.check(!sendable, || {
                format!("--{name} must be printable ASCII, because the server sends the value in a header field")
            });
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
            problems.check(users.count() < self.modules.domains_max as u64, || {
                format!(
                    "--module-uids has {} users for --domains-max {} domains: name as many users as domains",
                    users.count(),
                    self.modules.domains_max
                )
            });
            problems.check(self.modules.module_database == ModuleDatabase::Shared, || {
                "--module-uids runs domains as different users, which can't share a file: leave out --module-uids or --module-database shared".to_owned()
            });
        }
        problems.check(self.reactor == Reactor::Glommio && !cfg!(feature = "glommio"), || {
            "--reactor glommio is not available in this build; build it with cargo build --release --features glommio, \
             or leave --reactor out"
                .to_owned()
        });
        problems.check(self.production && self.admin_key.is_none() && self.keys_file.is_none(), || {
            "--production needs a key; make one: cweb keygen NAME >> keys.toml, and add --keys-file keys.toml; or for a key with all rights: export CWEB_ADMIN_KEY=$(openssl rand -hex 32)".to_owned()
        });
        problems.check(self.production && self.projects.dev, || {
            "--dev is for development: leave it out with --production".to_owned()
        });
        let is_weak = self.admin_key.as_deref().is_some_and(is_weak);
        problems.check(self.production && is_weak, || {
            format!("CWEB_ADMIN_KEY is a weak key: --production wants at least {KEY_BYTES_MIN} bytes, {KEY_KINDS_MIN} of them different; make one: openssl rand -hex 32")
        });
        problems.check(self.tls_cert.is_some() != self.tls_key.is_some(), || {
            "--tls-cert and --tls-key belong together: set both or none".to_owned()
        });
    }
}

/// The smallest length of a key that can't be guessed, in bytes, and how many of its bytes must differ.
const KEY_BYTES_MIN: usize = 16;
const KEY_KINDS_MIN: usize = 6;

fn is_weak(key: &str) -> bool {
    let mut kinds = key.as_bytes().to_vec();
    kinds.sort_unstable();
    kinds.dedup();
    key.len() < KEY_BYTES_MIN || kinds.len() < KEY_KINDS_MIN
}

/// The problems found so far.
struct Problems(Vec<String>);

impl Problems {
    fn check(&mut self, wrong: bool, text: impl FnOnce() -> String) {
        if wrong {
            self.0.push(text());
        }
    }
}
