//! Code of jobs: found among the served modules, or kept by version, or loaded again when a job needs an old version.

use super::control::Control;
use super::control_state::{ControlState, short};
use super::generation::Generation;
use super::table::{Published, Table};
use crate::abi::manifest::JobDecl;
use crate::domain::DEFAULT_DOMAIN;
use crate::jobs::code::{Code, CodeSource, Declared, Defaults, Ended, JobCalls, ResolveError};
use crate::jobs::store::ScheduleSpec;
use std::sync::{Arc, Weak};

/// One job of a generation; holds a reference to the generation.
struct GenerationCode {
    generation: Arc<Generation>,
    job: usize,
}

impl Code for GenerationCode {
    fn run(&self, uuid: &str, payload: &str, calls: &dyn JobCalls) -> Ended {
        if let Some(why) = self.generation.instance().quarantine() {
            calls.set_error(&why);
            return Ended::Returned(-1);
        }
        match self.generation.instance().run_job(self.job, uuid, payload, calls) {
            Ok(returned) => Ended::Returned(returned),
            Err(fault) => Ended::Crashed(fault.what),
        }
    }

    fn cancel(&self, uuid: &str) {
        if let Err(fault) = self.generation.instance().cancel_job(self.job, uuid) {
            let name = &self.generation.manifest().name;
            tracing::error!("module {name} failed in the cancel callback of job {uuid}: {fault}");
        }
    }
}

/// The job `job` of `generation`.
fn declared(generation: &Arc<Generation>, job: &str) -> Option<Declared> {
    let manifest = generation.manifest();
    let at = manifest.jobs.iter().position(|known| known.name == job)?;
    let defaults = manifest.jobs.get(at).map(defaults).unwrap_or_default();
    Some(Declared {
        module: manifest.name.clone(),
        hash: generation.hash().to_owned(),
        defaults,
        code: Arc::new(GenerationCode { generation: Arc::clone(generation), job: at }),
    })
}

fn defaults(job: &JobDecl) -> Defaults {
    Defaults {
        max_attempts: job.max_attempts,
        backoff_ms: job.backoff_ms,
        timeout_ms: job.timeout_ms,
        priority: job.priority,
        concurrency: job.concurrency,
    }
}

/// The job `job` of a published module.
fn published(module: &Published, job: &str) -> Result<Declared, ResolveError> {
    let name = &module.manifest().name;
    let Some(serving) = module.serving() else { return Err(ResolveError::Swapping(name.clone())) };
    declared(serving.generation(), job)
        .ok_or_else(|| ResolveError::UnknownJob { module: name.clone(), job: job.to_owned() })
}

/// The job `job` of the only module with such a job, among the modules for which `counts` holds.
fn named(table: &Table, job: &str, counts: impl Fn(&Published) -> bool) -> Result<Declared, ResolveError> {
    let has = |module: &&Published| counts(module) && module.manifest().jobs.iter().any(|known| known.name == job);
    let found: Vec<&Published> = table.modules().iter().filter(has).collect();
    match found.as_slice() {
        [] => Err(ResolveError::NoSuchJob(job.to_owned())),
        [one] => published(one, job),
        several => {
            let names: Vec<&str> = several.iter().map(|module| module.manifest().name.as_str()).collect();
            Err(ResolveError::Ambiguous { job: job.to_owned(), modules: names.join(", ") })
        }
    }
}

impl CodeSource for Control {
    fn resolve(&self, module: Option<&str>, job: &str) -> Result<Declared, ResolveError> {
        let table = self.table().load_full();
        if let Some(name) = module {
            let found = table.modules().iter().find(|module| module.manifest().name == name);
            return published(found.ok_or_else(|| ResolveError::UnknownModule(name.to_owned()))?, job);
        }
        named(&table, job, |_| true)
    }

    fn resolve_for(&self, instance: u64, job: &str) -> Result<Declared, ResolveError> {
        let own = self.control().known().instances.get(&instance).and_then(Weak::upgrade);
        let Some(own) = own.filter(|_| !self.control().config.jobs_of_all) else { return self.resolve(None, job) };
        if let Some(own) = declared(&own, job) {
            return Ok(own);
        }
        let table = self.table().load_full();
        let name = &own.manifest().name;
        let domain = table.modules().iter().find(|module| module.manifest().name == *name).map(Published::domain);
        named(&table, job, |module| domain.is_none_or(|domain| module.domain() == domain))
    }

    fn schedules(&self) -> Vec<(String, Vec<ScheduleSpec>)> {
        let state = self.control().state();
        state.entries.iter().map(|entry| (entry.manifest.name.clone(), entry.schedules.clone())).collect()
    }

    fn domain(&self, module: &str) -> Arc<str> {
        self.domain_of(module).unwrap_or_else(|| DEFAULT_DOMAIN.to_owned()).into()
    }

    fn is_kept(&self, module: &str) -> bool {
        self.control().ledger.has(module)
    }

    fn acquire(&self, module: &str, hash: &str, job: &str) -> Result<Declared, String> {
        let generation = self.control().version(module, hash)?;
        declared(&generation, job).ok_or_else(|| format!("version {} of module {module} has no job {job}", short(hash)))
    }
}

impl ControlState {
    /// The generation of `module` with that hash: the served one, one with references left, or one loaded again. A
    /// generation loaded again runs `onload` now, and `unload` after its last job.
    fn version(&self, module: &str, hash: &str) -> Result<Arc<Generation>, String> {
        let turn = self.name_lock(module);
        let _turn = turn.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let served = self.state().entries.iter().find_map(|entry| {
            let matches = entry.manifest.name == module && entry.hash == hash;
            entry.serving.as_ref().filter(|_| matches).map(|serving| Arc::clone(serving.generation()))
        });
        let living = served.or_else(|| self.known().reloaded.get(hash).and_then(Weak::upgrade));
        if let Some(generation) = living {
            return Ok(generation);
        }
        let gone = |why: &dyn std::fmt::Display| {
            format!("version {} of module {module}, which the job was made for, can't be loaded: {why}", short(hash))
        };
        let key = self.store.key_of(hash).map_err(|error| gone(&error))?;
        let key =
            super::pipeline::renewed(self, &key, self.store.source_name_of(hash)).map_err(|error| gone(&error))?;
        // The generation is loaded in the domain of its version: in the default domain it could harm modules that its
        // operator keeps apart from it.
        let domain = self.store.domain_of(hash);
        let settings = self.settings_of(module, &self.defaults_of(module)).map_err(|error| gone(&error))?;
        let generation =
            self.generation(hash, &self.store.object(&key), &domain, &settings).map_err(|error| gone(&error))?;
        super::pipeline::start(&generation, module).map_err(|error| gone(&error))?;
        let mut known = self.known();
        known.reloaded.retain(|_, generation| generation.strong_count() > 0);
        known.reloaded.insert(hash.to_owned(), Arc::downgrade(&generation));
        tracing::info!("version {} of module {module} is loaded for a job", short(hash));
        Ok(generation)
    }
}
