//! A domain in the server.

use super::control::{self, Order, Outcome};
use super::domain_config::DomainConfig;
use super::hook::NoOutcome;
use super::identity::Identity;
use super::lock;
use super::quarantine::Quarantine;
use super::remote::RemoteModule;
use super::shared::{DomainShared, Loaded};
use super::supervisor;
use crate::abi::settings::Settings;
use crate::domain::inbox::Inbox;
use crate::domain::{Fault, Instance, LoadError};
use crate::net::Waker;
use crossbeam::channel::unbounded;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// The number of modules loaded into one process after which it is replaced.
const LOADS_MAX: u64 = 1_000;

/// The limit on a message of a process, in bytes; `text_bytes` is the limit on one text that a job sends or gets.
#[must_use]
pub fn message_bytes_max(text_bytes: usize) -> usize {
    control::message_bytes_max(text_bytes)
}

/// Modules in a process of their own. Dropping this value does not end the process; [`Domain::stop`] does.
pub struct Domain {
    shared: Arc<DomainShared>,
}

impl Domain {
    /// Starts the process and waits until it is ready. `wakers` are those of the shards.
    ///
    /// # Errors
    /// The process could not be started.
    pub fn start(config: DomainConfig, wakers: Vec<Arc<Waker>>) -> io::Result<Self> {
        let (events, received) = unbounded();
        let shared = Arc::new(DomainShared::new(config, wakers, events));
        supervisor::start(&shared, received)?;
        let process = Self { shared };
        if let Err(error) = process.shared.enter().map(drop) {
            process.stop();
            return Err(io::Error::other(error));
        }
        Ok(process)
    }

    pub(super) fn shared(&self) -> &DomainShared {
        &self.shared
    }

    /// Sets the shards' inboxes, in the order of their numbers. Called once.
    pub fn attach(&self, inboxes: Vec<Arc<Inbox>>) {
        self.shared.attach(inboxes);
    }

    /// Names the modules whose symbols others can resolve from now on.
    pub fn published<'a>(&self, instances: impl Iterator<Item = &'a Arc<dyn Instance>>) {
        self.shared.publish(instances.map(|instance| (instance.manifest().name.clone(), instance.id())).collect());
    }

    /// Ends the process.
    pub fn stop(&self) {
        self.shared.stop();
    }

    /// After [`Domain::stop`]: waits until the process's output is in the log, at most until `until`.
    pub fn wait_printed(&self, until: Instant) {
        for process in self.shared.processes() {
            process.wait_printed(until.saturating_duration_since(Instant::now()));
        }
    }
}

impl Domain {
    /// The identity of the domain.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        self.shared.identity()
    }

    /// The number of modules that are loaded, or will be loaded again.
    #[must_use]
    pub fn modules(&self) -> usize {
        lock(&self.shared.modules).len()
    }

    /// Loads a module: see [`Host::load`](crate::domain::Host::load).
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn load(&self, path: &Path) -> Result<Arc<dyn Instance>, LoadError> {
        let shared = &self.shared;
        let id = shared.number();
        let order = Order::Load { instance: id, path: path.display().to_string() };
        let mut exhausted = false;
        let (pass, loaded) = loop {
            let pass = shared.enter().map_err(LoadError::Host)?;
            match shared.load_in_turn(pass.process(), order.clone()) {
                Some(Ok(Outcome::Exhausted(what, text))) if !exhausted => {
                    exhausted = true;
                    let old = Arc::clone(pass.process());
                    // The replacement waits for all passes.
                    drop(pass);
                    shared.want_replacement(&old, &format!("its modules have used up {what} ({text})"));
                    shared.gate().wait_followed(&old);
                }
                Some(loaded) => break (pass, loaded),
                None => {}
            }
        };
        match loaded {
            Ok(Outcome::Exhausted(what, text)) => Err(LoadError::Exhausted { what, text }),
            Ok(Outcome::Loaded(manifest, base)) => {
                if manifest.name.chars().any(char::is_control) {
                    pass.process().add(id, base);
                    shared.close_in(pass.process(), id);
                    return Err(LoadError::Manifest("the module's name contains control characters".to_owned()));
                }
                let quarantine = Arc::<Quarantine>::default();
                let loaded = Loaded {
                    name: manifest.name.clone(),
                    path: path.to_path_buf(),
                    manifest: Arc::new(manifest.clone()),
                    has_onload: manifest.has_onload,
                    has_unload: manifest.has_unload,
                    onloaded: false,
                    quarantine: Arc::clone(&quarantine),
                    last_crash: None,
                    version: None,
                    settings: Settings::default(),
                };
                // Must come before the pass is returned: a thread that starts another process afterwards finds the module.
                lock(&shared.modules).insert(id, loaded);
                if pass.process().add(id, base) == LOADS_MAX {
                    let why = "many modules have been loaded into it, and unloading does not free all memory";
                    shared.want_replacement(pass.process(), why);
                }
                Ok(Arc::new(RemoteModule::new(Arc::clone(shared), id, manifest, quarantine)))
            }
            Ok(Outcome::Loader(text)) => Err(LoadError::Loader(text)),
            Ok(Outcome::Refused(text)) => Err(LoadError::Manifest(text)),
            Ok(Outcome::Host(text) | Outcome::Fault(text)) => Err(LoadError::Host(text)),
            Err(late @ NoOutcome::Late(_)) => Err(LoadError::Constructor(Fault { what: late.to_string() })),
            Err(died) => Err(LoadError::Host(died.to_string())),
            Ok(_) => Err(LoadError::Host("the domain's process gave an answer of another kind".to_owned())),
        }
    }
}
