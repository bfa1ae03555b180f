//! The domains by name: each has a process as long as it has a module.

use super::call_target::CallTarget;
use super::core_files;
use super::crash_report::CrashReport;
use super::domain::Domain;
use super::domain_config::DomainConfig;
use super::memory_total::TotalWatch;
use super::watch::{self, Seen};
use crate::abi::manifest::Manifest;
use crate::domain::inbox::Inbox;
use crate::domain::sandbox::{self, User};
use crate::domain::sanitized;
use crate::domain::{DEFAULT_DOMAIN, DomainView, Host, Instance, LoadError, check_domain_name, inspect};
use crate::net::Waker;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io;
use std::ops::RangeInclusive;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long an empty domain is kept, so that a module deployed after the removal of the last one finds the process.
const EMPTY_KEPT: Duration = Duration::from_secs(2);
/// Limit on the wait for the ends of all processes, if something must be done after them.
const END_WAIT: Duration = Duration::from_secs(5);
/// Limit on a stop's wait for the last output of modules. Long for a busy machine: output that comes later is lost.
const PRINTED_WAIT: Duration = Duration::from_secs(3);
/// The interval between looks at domains, while there is more than one.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The domains of a server. Dropping this value does not end their processes; [`DomainRegistry::stop`] does.
pub struct DomainRegistry {
    shared: Arc<RegistryShared>,
}

/// The state shared with the keeper of empty domains.
struct RegistryShared {
    /// The configuration of [`DEFAULT_DOMAIN`]; the other domains differ in their identity, scratch directory and similar.
    config: DomainConfig,
    wakers: Vec<Arc<Waker>>,
    domains_max: usize,
    state: Mutex<RegistryState>,
    changed: Condvar,
}

#[derive(Default)]
struct RegistryState {
    entries: BTreeMap<String, Entry>,
    /// The shards' inboxes, once they exist.
    inboxes: Option<Vec<Arc<Inbox>>>,
    /// The domains' own users, by name.
    users: BTreeMap<String, u32>,
    stopping: bool,
}

/// A domain.
struct Entry {
    slot: Arc<DomainSlot>,
    /// The number of loads in progress: a domain with loads is not ended.
    loading: usize,
    /// When the domain was first found empty.
    empty_since: Option<Instant>,
}

/// The process of a domain, started for its first module.
#[derive(Default)]
struct DomainSlot {
    process: OnceLock<Arc<Domain>>,
    /// Locked during the start, which takes time in which other domains must not wait.
    starting: Mutex<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Entry {
    fn new(slot: Arc<DomainSlot>) -> Self {
        Self { slot, loading: 0, empty_since: None }
    }

    /// Whether the domain has no module and none is being loaded. Requests hold their module, so no request is running
    /// either.
    fn is_empty(&self) -> bool {
        self.loading == 0 && self.slot.process.get().is_none_or(|process| process.modules() == 0)
    }
}

impl DomainRegistry {
    /// Starts the process of [`DEFAULT_DOMAIN`] with `config`, and waits until it is ready. `wakers` are those of the
    /// shards. There can be at most `domains_max` domains, including this one.
    ///
    /// # Errors
    /// The process could not be started.
    pub fn start(config: DomainConfig, domains_max: usize, wakers: Vec<Arc<Waker>>) -> io::Result<Self> {
        let (state, changed) = (Mutex::default(), Condvar::new());
        let shared = Arc::new(RegistryShared { config, wakers, domains_max, state, changed });
        let entry = Entry::new(Arc::default());
        shared.process(DEFAULT_DOMAIN, &entry.slot).map_err(io::Error::other)?;
        lock(&shared.state).entries.insert(DEFAULT_DOMAIN.to_owned(), entry);
        let kept = Arc::clone(&shared);
        thread::Builder::new().name("domains".to_owned()).spawn(move || kept.end_empty_ones())?;
        let watched = Arc::clone(&shared);
        thread::Builder::new().name("domain-watch".to_owned()).spawn(move || watched.watch())?;
        Ok(Self { shared })
    }

    /// Sets the shards' inboxes, in the order of their numbers. Called once.
    pub fn attach(&self, inboxes: &[Arc<Inbox>]) {
        // A process that starts meanwhile finds the inboxes here.
        lock(&self.shared.state).inboxes = Some(inboxes.to_vec());
        for (_, process) in self.shared.processes() {
            process.attach(inboxes.to_vec());
        }
    }

    /// Sets the modules whose symbols other modules of the same domain can resolve from now on.
    pub fn published<'a>(&self, instances: impl Iterator<Item = &'a Arc<dyn Instance>>) {
        let mut by_domain: BTreeMap<&str, Vec<&Arc<dyn Instance>>> = BTreeMap::new();
        for instance in instances {
            if let Some(module) = CallTarget::of(&**instance) {
                by_domain.entry(module.domain().name()).or_default().push(instance);
            }
        }
        for (name, process) in self.shared.processes() {
            process.published(by_domain.remove(name.as_str()).unwrap_or_default().into_iter());
        }
    }

    /// Ends all processes. If they have cgroups, waits a short time for their removal.
    pub fn stop(&self) {
        lock(&self.shared.state).stopping = true;
        self.shared.changed.notify_all();
        for (_, process) in self.shared.processes() {
            process.stop();
        }
        let start = Instant::now();
        for (name, process) in self.shared.processes() {
            // A domain with a sanitizer checks for leaks at its end.
            let until = start + if sanitized::is_one(&name) { END_WAIT } else { PRINTED_WAIT };
            process.wait_printed(until);
        }
        if let Some(cgroups) = &self.shared.config.cgroups {
            cgroups.close(END_WAIT);
        }
    }
}

impl Host for DomainRegistry {
    fn inspect(&self, path: &Path, preload: &[PathBuf], limit: Duration) -> Result<Manifest, LoadError> {
        inspect::inspect(path, preload, limit)
    }

    fn load(&self, path: &Path, domain: &str) -> Result<Arc<dyn Instance>, LoadError> {
        self.check_domain(domain)?;
        let slot = self.shared.enter(domain)?;
        let loaded = self.shared.process(domain, &slot).and_then(|process| {
            if let Some(user) = process.shared().config.policy.user {
                let given = std::os::unix::fs::chown(path, Some(user.uid), Some(user.gid));
                given.map_err(|error| LoadError::Host(format!("{}: {error}", path.display())))?;
            }
            process.load(path)
        });
        self.shared.leave(domain);
        loaded
    }

    fn check_domain(&self, domain: &str) -> Result<(), LoadError> {
        check_domain_name(domain)
    }

    fn last_crash(&self, domain: &str, module: &str) -> Option<CrashReport> {
        let found = self.shared.processes().into_iter().find(|(name, _)| name == domain);
        let crashes = found.map(|(_, process)| process.status().crashes).unwrap_or_default();
        crashes.into_iter().rev().find(|(name, _)| name == module).map(|(_, crash)| crash)
    }

    fn sanitizer_reports(&self, domain: &str) -> Vec<String> {
        let found = self.shared.processes().into_iter().find(|(name, _)| name == domain);
        found.map(|(_, process)| process.shared().reports.all()).unwrap_or_default()
    }

    fn domains(&self) -> Vec<DomainView> {
        self.shared.processes().into_iter().map(|(name, process)| view(name, &process)).collect()
    }
}

fn view(name: String, process: &Domain) -> DomainView {
    let status = process.status();
    DomainView {
        name,
        pid: status.pid,
        up_since: status.up_since,
        modules: status.modules,
        requests: process.identity().requests(),
        restarts: status.restarts,
        replacements: status.replacements,
        resident_bytes: status.rss_bytes,
        memory_limit: status.memory_limit,
        last_crash: status.last_crash,
    }
}

impl RegistryShared {
    /// The domains with a process.
    fn processes(&self) -> Vec<(String, Arc<Domain>)> {
        let state = lock(&self.state);
        let started = |(name, entry): (&String, &Entry)| Some((name.clone(), Arc::clone(entry.slot.process.get()?)));
        state.entries.iter().filter_map(started).collect()
    }

    /// Finds the domain `name`, or adds it, and counts a load there until [`RegistryShared::leave`].
    fn enter(&self, name: &str) -> Result<Arc<DomainSlot>, LoadError> {
        let mut state = lock(&self.state);
        if state.stopping {
            return Err(LoadError::Host("the server is shutting down".to_owned()));
        }
        if !state.entries.contains_key(name) {
            if state.entries.len() >= self.domains_max && !state.end_one_empty() {
                return Err(LoadError::DomainsMax { max: self.domains_max });
            }
            state.entries.insert(name.to_owned(), Entry::new(Arc::default()));
            self.changed.notify_all();
        }
        let entry = state.entries.get_mut(name);
        let entry = entry.ok_or_else(|| LoadError::Host(format!("domain {name} is gone")))?;
        entry.loading += 1;
        entry.empty_since = None;
        Ok(Arc::clone(&entry.slot))
    }

    fn leave(&self, name: &str) {
        let mut state = lock(&self.state);
        if let Some(entry) = state.entries.get_mut(name) {
            entry.loading = entry.loading.saturating_sub(1);
            if entry.loading == 0 && entry.slot.process.get().is_none() {
                state.entries.remove(name); // Its process could not be started.
            }
        }
    }

    /// The process of the domain `name`, started if necessary.
    fn process(&self, name: &str, slot: &DomainSlot) -> Result<Arc<Domain>, LoadError> {
        let _starting = lock(&slot.starting);
        if let Some(process) = slot.process.get() {
            return Ok(Arc::clone(process));
        }
        let failed =
            |error: io::Error| LoadError::Host(format!("the process of domain {name} can't be started: {error}"));
        let config = self.config_of(name).map_err(failed)?;
        let process = Arc::new(Domain::start(config, self.wakers.clone()).map_err(failed)?);
        let _ = slot.process.set(Arc::clone(&process));
        // Either the inboxes exist by now, or `attach` finds the process: the slot was set before this look.
        let inboxes = lock(&self.state).inboxes.clone();
        if let Some(inboxes) = inboxes {
            process.attach(inboxes);
        }
        tracing::info!("domain {name} has started");
        Ok(process)
    }

    /// The domain's own user, if domains have users: usually the same one for a name, and never another domain's.
    ///
    /// # Errors
    /// All users belong to other domains, or own files of removed domains.
    fn user_of(&self, name: &str) -> io::Result<Option<User>> {
        let Some(users) = self.config.users.clone().filter(|_| name != DEFAULT_DOMAIN) else { return Ok(None) };
        let owners = self.owners_of_files();
        let mut state = lock(&self.state);
        let state = &mut *state;
        let uid = choose_user(&users, name, &state.users, &owners).or_else(|| {
            // Users of ended domains are free after a while; files of such users count separately.
            state.users.retain(|known, _| state.entries.contains_key(known));
            choose_user(&users, name, &state.users, &owners)
        });
        let uid = uid.ok_or_else(|| {
            io::Error::other(
                "no user is left: each user of --module-uids belongs to another domain, or owns files of removed domains in \
                 domain-data or scratch; give a larger range, or remove these files",
            )
        })?;
        state.users.insert(name.to_owned(), uid);
        Ok(Some(User { uid, gid: uid }))
    }

    /// The users that own non-empty directories of domains, by the names of the domains.
    fn owners_of_files(&self) -> BTreeMap<String, u32> {
        let parents = [Some(&self.config.scratch), Some(&self.config.run_dir), self.config.domain_data.as_ref()];
        let entries =
            parents.into_iter().flatten().filter_map(|parent| std::fs::read_dir(parent).ok()).flatten().flatten();
        let has_files = |dir: &Path| std::fs::read_dir(dir).is_ok_and(|mut files| files.next().is_some());
        let owners = entries
            .filter(|entry| has_files(&entry.path()))
            .filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.metadata().ok()?.uid())));
        owners.collect()
    }

    /// Each domain has its own scratch directory, database and shared objects, which other domains can't reach.
    fn config_of(&self, name: &str) -> io::Result<DomainConfig> {
        let mut config = self.config.clone();
        if let Some(user) = self.user_of(name)? {
            config.policy.user = Some(user);
        }
        config.scratch = self.config.scratch.join(name);
        make_owned(&config.scratch, config.policy.user)?;
        core_files::sweep(&config.scratch);
        config.policy.write.push(config.scratch.clone());
        if let Some(dir) = self.config.domain_data.as_ref().filter(|_| name != DEFAULT_DOMAIN) {
            let dir = dir.join(name);
            make_owned(&dir, config.policy.user)?;
            config.database = dir.join(format!("{name}.sqlite3"));
        }
        config.policy.write.extend(config.database.parent().map(Path::to_path_buf));
        let objects = self.config.run_dir.join(name);
        make_owned(&objects, config.policy.user)?;
        config.policy.read.push(objects);
        if sanitized::is_one(name) {
            config.preload = (self.config.sanitizers)().map_err(io::Error::other)?;
            // A sanitizer needs unlimited address space, access to its threads' registers, and the symbols of this program.
            config.policy.memory_bytes_max = None;
            config.policy.traces_itself = true;
            config.policy.starts_workers = false;
            config.policy.read.extend(std::env::current_exe());
        }
        if name != config.identity.name() {
            config.identity = config.identity.another(name);
        }
        Ok(config)
    }

    /// Watches the resources of the domains until the server stops.
    fn watch(&self) {
        let mut seen: BTreeMap<String, Seen> = BTreeMap::new();
        let mut total = TotalWatch::new(self.config.allowance.memory_bytes_max);
        let mut state = lock(&self.state);
        while !state.stopping {
            drop(state);
            let used_before = watch::used_by_thread();
            let processes = self.processes();
            let of = |(name, domain): &(String, Arc<Domain>)| (name.clone(), domain.shared().processes());
            total.look(&processes.iter().map(of).collect::<Vec<_>>());
            seen.retain(|name, _| processes.iter().any(|(there, _)| there == name));
            for (name, process) in processes {
                process.shared().look(seen.entry(name).or_default());
            }
            let pause = watch::pause_after(watch::used_by_thread().saturating_sub(used_before));
            state = lock(&self.state);
            if !state.stopping {
                state = self.changed.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }

    /// Ends domains that have been empty for a while, until the server stops.
    fn end_empty_ones(&self) {
        let mut state = lock(&self.state);
        while !state.stopping {
            state = if state.entries.len() > 1 {
                self.changed.wait_timeout(state, LOOK_EVERY).unwrap_or_else(PoisonError::into_inner).0
            } else {
                self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
            };
            let now = Instant::now();
            for entry in state.entries.values_mut() {
                entry.empty_since = if entry.is_empty() { entry.empty_since.or(Some(now)) } else { None };
            }
            let is_over = |entry: &Entry| entry.empty_since.is_some_and(|since| now - since >= EMPTY_KEPT);
            while state.end_one(is_over) {}
        }
    }
}

impl RegistryState {
    /// Ends a domain that is empty at this moment.
    fn end_one_empty(&mut self) -> bool {
        self.end_one(Entry::is_empty)
    }

    /// Ends a domain for which `holds` returns true, but never the default one. Returns false if there is none.
    fn end_one(&mut self, holds: impl Fn(&Entry) -> bool) -> bool {
        let found = self.entries.iter().find(|(name, entry)| *name != DEFAULT_DOMAIN && holds(entry));
        let Some(name) = found.map(|(name, _)| name.clone()) else { return false };
        if let Some(process) = self.entries.remove(&name).and_then(|entry| entry.slot.process.get().cloned()) {
            tracing::info!("domain {name} is ended: no module is left in it");
            process.stop();
        }
        true
    }
}

/// The user of the domain `name`: its present one, or the first free one from a position that follows from the name. Users
/// of other domains, or with files in directories of other names, are not free.
fn choose_user(
    users: &RangeInclusive<u32>,
    name: &str,
    of_domains: &BTreeMap<String, u32>,
    of_files: &BTreeMap<String, u32>,
) -> Option<u32> {
    let count = u64::from(users.end() - users.start()) + 1;
    let hash = Sha256::digest(name.as_bytes());
    let begin = hash.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes)) % count;
    let candidates = (0..count).filter_map(|n| u32::try_from((begin + n) % count).ok()?.checked_add(*users.start()));
    let own = of_files.get(name).copied().filter(|uid| users.contains(uid));
    let is_free = |uid: &u32| {
        let of_others = |all: &BTreeMap<String, u32>| all.iter().any(|(other, taken)| other != name && taken == uid);
        !of_others(of_domains) && !of_others(of_files)
    };
    own.into_iter().chain(candidates).find(is_free)
}

/// Makes the modules' user the owner of the directory `dir` and its content. If modules run as root without capabilities,
/// that user is root: an earlier start may have given the directory to another user.
fn make_owned(dir: &Path, user: Option<User>) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    let root = || sandbox::unprivileged().map(|_| User { uid: 0, gid: 0 });
    user.or_else(root).map_or(Ok(()), |user| sandbox::hand_over(user, dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_no_other_domains_and_own_no_files_of_others() {
        let users = 100..=102;
        let of = |pairs: &[(&str, u32)]| pairs.iter().map(|(name, uid)| ((*name).to_owned(), *uid)).collect();
        let none: BTreeMap<String, u32> = BTreeMap::new();
        let first = choose_user(&users, "a", &none, &none).unwrap();
        assert_eq!(choose_user(&users, "a", &of(&[("a", first)]), &of(&[("a", first)])), Some(first));
        let next = choose_user(&users, "a", &of(&[("b", first)]), &none).unwrap();
        assert!(next != first && users.contains(&next));
        // Its present user, although the name would lead to another; files of a removed domain; files of a former range.
        assert_eq!(choose_user(&users, "a", &none, &of(&[("a", next)])), Some(next));
        assert_ne!(choose_user(&users, "a", &none, &of(&[("gone", first)])), Some(first));
        assert_eq!(choose_user(&users, "a", &none, &of(&[("a", 7)])), Some(first));
        assert_eq!(choose_user(&users, "a", &of(&[("b", 100), ("c", 101)]), &of(&[("gone", 102)])), None);
    }
}
