//! The input and the outcome of a deployment.

use super::reach::Reach;
use super::verify::Refusal;
use crate::abi::manifest::Manifest;
use crate::domain::{Fault, LoadError};
use serde::{Deserialize, Serialize};
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// A library that a module links, as shown to users.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Library {
    /// The library's name in the source.
    pub name: String,
    /// The version that pkg-config reports, or else the version in the file's name; empty if there is neither.
    pub version: String,
    /// The path of the file, with links resolved.
    pub file: String,
    /// The file's size and time, which change with the file.
    pub identity: String,
}

/// Takes the outcome of a deployment, on a thread of the control plane.
pub type DeployReply = Box<dyn FnOnce(Result<Deployed, DeployError>) + Send>;
/// Takes the outcome of a removal or a restart, on a thread of the control plane.
pub type RemoveReply = Box<dyn FnOnce(Result<(), DeployError>) + Send>;

/// The name of the deploying client where no key is needed. No key can have this name.
pub const LOOPBACK: &str = "loopback";

/// Options of one deployment.
#[derive(Debug, Clone, Default)]
pub struct DeployOptions {
    /// The target domain. `None`: the module's present domain, or [`DEFAULT_DOMAIN`](crate::domain::DEFAULT_DOMAIN) for a
    /// new module.
    pub domain: Option<String>,
    /// The fields that came with the source.
    pub fields: SourceFields,
    /// The author's description of the version.
    pub message: Option<String>,
    /// The deploying client: the name of a key, or the origin.
    pub by: String,
    /// The modules that the deploying key may deploy.
    pub reach: Reach,
    /// Whether the deployment may replace a module that another key has deployed.
    pub take_over: bool,
    /// A signature of the source: see [`signing`](super::signing).
    pub signature: Option<String>,
}

/// The data that comes with a source: the name of its file and the fields of the form. The source's dialect decides which
/// of them matter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SourceFields {
    /// The name of the source's file that the client gave.
    pub file_name: Option<String>,
    /// The path of the only route, for a source that registers none itself.
    pub route: Option<String>,
    /// The function that answers on `route`.
    pub function_name: Option<String>,
    /// The method of `route`; `GET` without one.
    pub method: Option<String>,
    /// Further libraries to link, besides those of every module.
    pub libs: Option<String>,
    /// The module's name, for a source that does not define one.
    pub name: Option<String>,
    /// The prefix of the module's paths, for a source that answers all paths below it.
    pub mount: Option<String>,
    /// The language of the source, `c` or `c++`; without this field the file's name decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// The module's sanitizers, separated by commas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sanitize: Option<String>,
    /// The file name under which a single source is compiled. Crash reports show it; it has no other effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_name: Option<String>,
}

impl SourceFields {
    /// Sets the field `name` of the form. The file's name is not a field of the form, but comes with its part.
    pub fn set(&mut self, name: &str, value: String) {
        let field = match name {
            "route" => &mut self.route,
            "function_name" => &mut self.function_name,
            "method" => &mut self.method,
            "libs" => &mut self.libs,
            "name" => &mut self.name,
            "mount" => &mut self.mount,
            "language" => &mut self.language,
            "sanitize" => &mut self.sanitize,
            _ => return,
        };
        field.get_or_insert(value);
    }

    /// Takes the fields that `self` lacks from `others`.
    pub fn fill(&mut self, others: Self) {
        let Self { file_name, route, function_name, method, libs, name, mount, language, sanitize, source_name } =
            others;
        self.file_name = self.file_name.take().or(file_name);
        self.route = self.route.take().or(route);
        self.function_name = self.function_name.take().or(function_name);
        self.method = self.method.take().or(method);
        self.libs = self.libs.take().or(libs);
        self.name = self.name.take().or(name);
        self.mount = self.mount.take().or(mount);
        self.language = self.language.take().or(language);
        self.sanitize = self.sanitize.take().or(sanitize);
        self.source_name = self.source_name.take().or(source_name);
    }

    /// The names of the fields that are set here and not in `relevant`. The file's name does not count.
    pub(super) fn names_beyond(&self, relevant: &Self) -> Vec<&'static str> {
        let beyond = |given: &Option<String>, kept: &Option<String>| given.is_some() && kept.is_none();
        let fields = [
            ("route", beyond(&self.route, &relevant.route)),
            ("function_name", beyond(&self.function_name, &relevant.function_name)),
            ("method", beyond(&self.method, &relevant.method)),
            ("libs", beyond(&self.libs, &relevant.libs)),
            ("name", beyond(&self.name, &relevant.name)),
            ("mount", beyond(&self.mount, &relevant.mount)),
        ];
        fields.into_iter().filter(|(_, is_beyond)| *is_beyond).map(|(name, _)| name).collect()
    }

    /// A text that is different for different fields, and empty without any. The name under which the source is compiled
    /// does not count: a source has the same hash under any file name.
    #[must_use]
    pub(super) fn text(&self) -> String {
        let fields =
            [&self.file_name, &self.route, &self.function_name, &self.method, &self.libs, &self.name, &self.mount];
        // These fields come last and only where they are set, so that modules deployed without them keep their hash.
        let language = self.language.as_ref().map(|language| format!("language:{language}")).unwrap_or_default();
        let sanitize = self.sanitize.as_ref().map(|names| format!("sanitize:{names}")).unwrap_or_default();
        let language = language + &sanitize;
        if fields.iter().all(|field| field.is_none()) {
            return language;
        }
        let texts =
            fields.map(|field| field.as_deref().map_or("-".to_owned(), |text| format!("{}:{text}", text.len())));
        texts.join("\n") + &language
    }
}

/// The longest prefix of `text` that has at most `bytes_max` bytes and ends between two characters.
pub(super) fn cut(text: &str, bytes_max: usize) -> &str {
    let end = (0..=bytes_max.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
    text.get(..end).unwrap_or_default()
}

/// An accepted deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deployed {
    /// The module's name.
    pub name: String,
    /// The module's manifest.
    pub manifest: Arc<Manifest>,
    /// SHA-256 of the source, in hexadecimal.
    pub hash: String,
    /// The module's domain.
    pub domain: String,
    /// The compiler's warnings; empty without any.
    pub warnings: String,
    /// The same source was deployed already: nothing has changed.
    pub unchanged: bool,
    /// A later deployment of the same name was published first: this version is already replaced.
    pub superseded: bool,
    /// The number of the live version, counted for each name.
    pub version: u64,
    /// The libraries that the sources name.
    pub libraries: Vec<Library>,
}

/// A refused deployment or removal. The running state has not changed.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    /// The compiler refused the source; the value is the compiler's output.
    #[error("{0}")]
    Compile(String),
    /// The compiler reached its time limit, the value, and was stopped.
    #[error("the compiler did not finish within {} ms; the limit is --compile-timeout-ms", .0.as_millis())]
    CompileTimeout(Duration),
    /// The compiler, or a process that it needs, could not be started, because there are too many; the value is the reason.
    #[error("{0}: there are as many processes as there may be; try again")]
    Crowded(String),
    /// The compiler can't be started.
    #[error(
        "the {language} compiler {compiler} can't be started ({error}); install it on the server: apt-get install {package}"
    )]
    NoCompiler {
        /// The compiler that was tried: `CC`, or `cc`.
        compiler: String,
        /// The error of starting it.
        error: io::Error,
        /// The compiler's language.
        language: &'static str,
        /// Debian's packages that contain the compiler.
        package: &'static str,
    },
    /// The module could not be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The manifest is invalid, or conflicts with another module's.
    #[error(transparent)]
    Manifest(#[from] Refusal),
    /// Another module serves a path of this one.
    #[error("{0}")]
    Conflict(Refusal),
    /// The patterns of the module, of its domain or of all modules are too large.
    #[error("the route patterns are too large: {0}")]
    Patterns(String),
    /// A constructor faulted or did not return in time.
    #[error("a constructor of module {name} failed: {fault}")]
    Constructor {
        /// The module.
        name: String,
        /// The fault.
        fault: Fault,
    },
    /// `onload` faulted or did not return in time.
    #[error("module {name} failed in onload: {fault}")]
    Onload {
        /// The module.
        name: String,
        /// The fault.
        fault: Fault,
    },
    /// The requests of the old version did not finish in time.
    #[error("the running requests of module {name} did not finish within {} ms, so the new version was not loaded", waited.as_millis())]
    SwapTimeout {
        /// The module.
        name: String,
        /// The length of the wait.
        waited: Duration,
    },
    /// Another key has deployed the module.
    #[error(
        "module {name} was deployed by the key {owner}: give your module another name, or replace the deployed one with \
         cweb deploy --take-over (parameter take_over=1)"
    )]
    TakeOver {
        /// The module.
        name: String,
        /// The key that deployed the live version.
        owner: String,
    },
    /// The key's scopes do not cover the module.
    #[error(
        "this key is not for module {name} in domain {domain}: the scopes in the server's --keys-file name the key's modules"
    )]
    OutOfReach {
        /// The module.
        name: String,
        /// The module's present or requested domain.
        domain: String,
    },
    /// The source lacks a valid signature of a trusted signer.
    #[error("{0}")]
    Signature(String),
    /// The setting can't be changed.
    #[error("{0}")]
    Setting(String),
    /// The version does not exist, or can't be deployed again.
    #[error("{0}")]
    Version(String),
    /// The module does not exist.
    #[error("there is no module named {0}")]
    NotFound(String),
    /// A module in the server's own process can't be restarted.
    #[error("module {name} can't be restarted: {fault}; deploy it again instead")]
    NoProcess {
        /// The module.
        name: String,
        /// The host's answer.
        fault: Fault,
    },
    /// A restart failed.
    #[error("module {name} could not be restarted: {fault}")]
    Restart {
        /// The module.
        name: String,
        /// The fault.
        fault: Fault,
    },
    /// The module store failed.
    #[error("the module could not be stored: {0}; nothing was changed")]
    Store(#[from] io::Error),
    /// Earlier changes of the module's settings still wait for its callback.
    #[error(
        "{waiting} changes of this module's settings wait for its on_setting function; if the function never returns, restart the \
         server (with --isolation process the function ends after --hook-timeout-ms)"
    )]
    SettingsHeldUp {
        /// The number of waiting changes.
        waiting: usize,
    },
    /// Too many deployments at once.
    #[error("too many deployments are waiting; try again")]
    Busy,
    /// The server is shutting down.
    #[error("the server is shutting down")]
    ShuttingDown,
    /// A bug of the server.
    #[error("the deployment failed inside the server: {0}")]
    Internal(String),
}

/// The line of a refusal that names the error: the first with `error:`, or else the first that is not empty.
pub(crate) fn first_error(text: &str) -> &str {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.clone().next().unwrap_or_default();
    lines.find(|line| line.contains("error: ")).unwrap_or(first)
}

impl DeployError {
    /// One line with the reason, for a log: the compiler's first error, or else the first line.
    #[must_use]
    pub fn reason(&self) -> String {
        first_error(&self.to_string()).to_owned()
    }

    /// The HTTP status of the answer.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::Compile(_)
            | Self::CompileTimeout(_)
            | Self::Manifest(_)
            | Self::Patterns(_)
            | Self::Signature(_)
            | Self::Constructor { .. }
            | Self::Onload { .. } => 422,
            Self::Load(LoadError::Host(_)) | Self::NoCompiler { .. } | Self::Restart { .. } | Self::Internal(_) => 500,
            Self::Load(LoadError::Domain(_)) | Self::Setting(_) => 400,
            Self::Load(LoadError::DomainsMax { .. }) => 507,
            Self::Load(LoadError::Exhausted { .. }) => 503,
            Self::Load(_) => 422,
            Self::Conflict(_) | Self::TakeOver { .. } | Self::NoProcess { .. } => 409,
            Self::OutOfReach { .. } => 403,
            Self::NotFound(_) | Self::Version(_) => 404,
            Self::Store(error) if error.kind() == io::ErrorKind::StorageFull => 507,
            Self::Store(_) => 500,
            Self::SwapTimeout { .. }
            | Self::SettingsHeldUp { .. }
            | Self::Busy
            | Self::Crowded(_)
            | Self::ShuttingDown => 503,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_error_is_the_reason() {
        let text =
            "In file included from module.c:1:\nx.h:1: warning: a\nmodule.c:2:1: error: b\nmodule.c:3:1: error: c\n";
        assert_eq!(first_error(text), "module.c:2:1: error: b");
        assert_eq!(first_error("\n  plain\nwords"), "plain");
        assert_eq!(first_error(""), "");
    }
}
