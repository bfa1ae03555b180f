//! What a deployment asks for and what comes of it.

use super::reach::Reach;
use super::verify::Refusal;
use crate::abi::manifest::Manifest;
use crate::domain::{Fault, LoadError};
use serde::{Deserialize, Serialize};
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// A library of a module, as people are told of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Library {
    /// Its name, as the source has it.
    pub name: String,
    /// Its version by pkg-config, or else that in its file's name; empty if neither tells.
    pub version: String,
    /// The real file.
    pub file: String,
    /// Size and time of the file: another file has others.
    pub identity: String,
}

/// Takes the outcome of a deployment, on a thread of the control plane.
pub type DeployReply = Box<dyn FnOnce(Result<Deployed, DeployError>) + Send>;
/// Takes the outcome of a removal or a restart, on a thread of the control plane.
pub type RemoveReply = Box<dyn FnOnce(Result<(), DeployError>) + Send>;

/// Who deploys, where no key is needed: no key can be called that.
pub const LOOPBACK: &str = "loopback";

/// Options of one deployment.
#[derive(Debug, Clone, Default)]
pub struct DeployOptions {
    /// The domain the module is to run in. `None`: the one it is in, or [`DEFAULT_DOMAIN`](crate::domain::DEFAULT_DOMAIN)
    /// if it is new.
    pub domain: Option<String>,
    /// What came with the source.
    pub fields: SourceFields,
    /// What the version is about, in the words of its author.
    pub message: Option<String>,
    /// Who deploys: the name of a key, or where from.
    pub by: String,
    /// The modules that the deploying key may deploy.
    pub reach: Reach,
    /// Replaces a module that another key has deployed.
    pub take_over: bool,
    /// A signature of the source: see [`signing`](super::signing).
    pub signature: Option<String>,
}

/// What a deployment says of its source besides the text: the name of its file and the fields of its form. Which of them
/// count depends on what the source was written for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SourceFields {
    /// The name of the source's file, as the client gave it.
    pub file_name: Option<String>,
    /// The path of the one route, for a source that registers none itself.
    pub route: Option<String>,
    /// The function that answers on `route`.
    pub function_name: Option<String>,
    /// The method of `route`; `GET` without one.
    pub method: Option<String>,
    /// Libraries to link with, besides those of every module.
    pub libs: Option<String>,
    /// The module's name, for a source that has none.
    pub name: Option<String>,
    /// The prefix of the module's paths, for a source that answers all of them.
    pub mount: Option<String>,
    /// The language of the source, `c` or `c++`; without one the file's name tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// The sanitizers that the module is compiled with, with commas between their names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sanitize: Option<String>,
    /// The name that a source which comes alone is compiled under. Reports of crashes show it; it makes no other difference.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_name: Option<String>,
}

impl SourceFields {
    /// The fields by their names in a form; the file's name is the part's, and none of them.
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

    /// Takes from `others` the fields that are not there.
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

    /// The names of the fields that are there and not in `relevant`. The file's name is no field.
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

    /// A text that differs for different fields; empty if there are none. The name that the source is compiled under does not count:
    /// a source has one hash whatever its file is called.
    #[must_use]
    pub(super) fn text(&self) -> String {
        let fields =
            [&self.file_name, &self.route, &self.function_name, &self.method, &self.libs, &self.name, &self.mount];
        // Behind the others and only where it is there: what was deployed without one keeps its hash.
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

/// The beginning of `text`, at most `bytes_max` bytes, between characters.
pub(super) fn cut(text: &str, bytes_max: usize) -> &str {
    let end = (0..=bytes_max.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
    text.get(..end).unwrap_or_default()
}

/// A deployment that was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deployed {
    /// The module's name.
    pub name: String,
    /// What it declares.
    pub manifest: Arc<Manifest>,
    /// SHA-256 of its source, in hexadecimal.
    pub hash: String,
    /// The domain it runs in.
    pub domain: String,
    /// What the compiler said; empty if nothing.
    pub warnings: String,
    /// This very source was deployed already: nothing has changed.
    pub unchanged: bool,
    /// A deployment of the same name that came later was published first: this one is already replaced.
    pub superseded: bool,
    /// The number of the version that is live now, counted for each name.
    pub version: u64,
    /// The libraries that its sources name.
    pub libraries: Vec<Library>,
}

/// A deployment (or removal) that was refused. The running state is as it was.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    /// The compiler's output, as it is.
    #[error("{0}")]
    Compile(String),
    /// The compiler was stopped.
    #[error("the compiler did not finish within {} ms; the limit is --compile-timeout-ms", .0.as_millis())]
    CompileTimeout(Duration),
    /// No compiler.
    #[error(
        "the {language} compiler {compiler} can't be started ({error}); install it on the server: apt-get install {package}"
    )]
    NoCompiler {
        /// What was tried: `CC`, or `cc`.
        compiler: String,
        /// Why.
        error: io::Error,
        /// The language that it compiles.
        language: &'static str,
        /// Debian's packages that have it.
        package: &'static str,
    },
    /// It could not be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Its manifest is not right, or conflicts with another module's.
    #[error(transparent)]
    Manifest(#[from] Refusal),
    /// Another module serves a path of this one.
    #[error("{0}")]
    Conflict(Refusal),
    /// The patterns of the module, of its domain or of all modules are too large.
    #[error("the route patterns are too large: {0}")]
    Patterns(String),
    /// A constructor did not return.
    #[error("a constructor of module {name} failed: {fault}")]
    Constructor {
        /// The module.
        name: String,
        /// How.
        fault: Fault,
    },
    /// `onload` did not return.
    #[error("module {name} failed in onload: {fault}")]
    Onload {
        /// The module.
        name: String,
        /// How.
        fault: Fault,
    },
    /// Requests of the old version did not finish in time.
    #[error("the running requests of module {name} did not finish within {} ms, so the new version was not loaded", waited.as_millis())]
    SwapTimeout {
        /// The module.
        name: String,
        /// How long they were waited for.
        waited: Duration,
    },
    /// The module is another key's.
    #[error(
        "module {name} was deployed by the key {owner}: give this one another name, or replace that module with cweb deploy --take-over \
         (parameter take_over=1)"
    )]
    TakeOver {
        /// The module.
        name: String,
        /// The key that has deployed the live version.
        owner: String,
    },
    /// The key is for other modules.
    #[error(
        "this key is not for module {name} in domain {domain}: its scopes in the server's --keys-file name the modules it is for"
    )]
    OutOfReach {
        /// The module.
        name: String,
        /// The domain that it is in or would be in.
        domain: String,
    },
    /// The source is not signed as it has to be.
    #[error("{0}")]
    Signature(String),
    /// A setting can't be changed so.
    #[error("{0}")]
    Setting(String),
    /// There is no such version, or it can't be gone back to.
    #[error("{0}")]
    Version(String),
    /// There is no such module.
    #[error("there is no module named {0}")]
    NotFound(String),
    /// A module in the server's own process was to be restarted.
    #[error("module {name} can't be restarted: {fault}; deploy it again instead")]
    NoProcess {
        /// The module.
        name: String,
        /// What its host says.
        fault: Fault,
    },
    /// A module could not be restarted.
    #[error("module {name} could not be restarted: {fault}")]
    Restart {
        /// The module.
        name: String,
        /// Why.
        fault: Fault,
    },
    /// The module store failed.
    #[error("the module could not be stored: {0}; nothing has changed")]
    Store(#[from] io::Error),
    /// Earlier changes of the module's settings wait for its callback.
    #[error(
        "{waiting} changes of this module's settings wait for its on_setting function; when that never returns, restart the \
         server (with --isolation process it ends after --hook-timeout-ms)"
    )]
    SettingsHeldUp {
        /// How many.
        waiting: usize,
    },
    /// Too many deployments at once.
    #[error("too many deployments are waiting; try again")]
    Busy,
    /// The server stops.
    #[error("the server is shutting down")]
    ShuttingDown,
    /// A bug of the server.
    #[error("the deployment failed inside the server: {0}")]
    Internal(String),
}

/// The line of a refusal that says what is wrong: the first that has `error:`, or else the first that says anything.
pub(crate) fn first_error(text: &str) -> &str {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.clone().next().unwrap_or_default();
    lines.find(|line| line.contains("error: ")).unwrap_or(first)
}

impl DeployError {
    /// One line that says why, for a log: the compiler's first error, or else the first line.
    #[must_use]
    pub fn reason(&self) -> String {
        first_error(&self.to_string()).to_owned()
    }

    /// The status to answer with.
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
            Self::SwapTimeout { .. } | Self::SettingsHeldUp { .. } | Self::Busy | Self::ShuttingDown => 503,
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
