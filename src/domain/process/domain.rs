//! A domain, as the server uses it.

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

/// Modules loaded into one process before it is replaced.
const LOADS_MAX: u64 = 1_000;

/// The limit of a message of a process, where `text_bytes` is the most that a job may give or be given at once.
#[must_use]
pub fn message_bytes_max(text_bytes: usize) -> usize {
    control::message_bytes_max(text_bytes)
}

/// Modules in a process of their own. Dropping it leaves the process; [`Domain::stop`] ends it.
pub struct Domain {
    shared: Arc<DomainShared>,
}

impl Domain {
    /// Starts the process, and waits until it is ready. `wakers` are those of the shards.
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

    /// Names the shards' inboxes, in the order of their numbers, once.
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

    /// Waits, until `until` at most, for what the process has printed to be in the log. After [`Domain::stop`].
    pub fn wait_printed(&self, until: Instant) {
        for process in self.shared.processes() {
            process.wait_printed(until.saturating_duration_since(Instant::now()));
        }
    }
}

impl Domain {
    /// Which domain it is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        self.shared.identity()
    }

    /// Modules that are loaded, or to be loaded again.
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
                    // The replacement waits for whoever has a pass.
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
                    return Err(LoadError::Manifest("its name is none in its domain".to_owned()));
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
                // With the pass: whoever makes another process after it knows the module.
                lock(&shared.modules).insert(id, loaded);
                if pass.process().add(id, base) == LOADS_MAX {
                    let why = "many modules have been loaded into it, and unloading gives not everything back";
                    shared.want_replacement(pass.process(), why);
                }
                Ok(Arc::new(RemoteModule::new(Arc::clone(shared), id, manifest, quarantine)))
            }
            Ok(Outcome::Loader(text)) => Err(LoadError::Loader(text)),
            Ok(Outcome::Refused(text)) => Err(LoadError::Manifest(text)),
            Ok(Outcome::Host(text) | Outcome::Fault(text)) => Err(LoadError::Host(text)),
            Err(late @ NoOutcome::Late(_)) => Err(LoadError::Constructor(Fault { what: late.to_string() })),
            Err(died) => Err(LoadError::Host(died.to_string())),
            Ok(_) => Err(LoadError::Host("its domain gave a wrong answer".to_owned())),
        }
    }
}
