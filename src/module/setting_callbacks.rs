//! Runs `on_setting` callbacks, with one thread for each module: a callback that does not return delays only the changes of
//! its own module.

use super::deploy::{DeployError, RemoveReply};
use super::generation::Generation;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Limit on the changes of one module that wait for their callbacks.
const WAITING_MAX: usize = 64;
/// Limit on the modules whose callbacks run or wait at the same time, and so on the threads.
const MODULES_MAX: usize = 64;

/// A changed setting, for the callbacks of the module's versions.
pub(super) struct Changed {
    /// The setting's name.
    pub(super) key: String,
    /// The loaded versions, the served one first. A version that ends before its turn is skipped.
    pub(super) versions: Vec<Weak<Generation>>,
    /// Called after all callbacks have returned.
    pub(super) reply: RemoveReply,
}

impl Changed {
    fn tell(self) {
        for version in self.versions.iter().filter_map(Weak::upgrade) {
            if let Err(fault) = version.instance().setting_changed(&self.key) {
                tracing::error!("module {} failed in on_setting: {fault}", version.manifest().name);
            }
        }
        (self.reply)(Ok(()));
    }
}

/// The waiting changes, by module name. Each module in the map has a thread, which takes the changes in their order and
/// ends when none are left.
#[derive(Default)]
pub(super) struct SettingCallbacks {
    waiting: Mutex<HashMap<String, VecDeque<Changed>>>,
}

impl SettingCallbacks {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, VecDeque<Changed>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks whether another change of the module `name` may wait.
    ///
    /// # Errors
    /// [`DeployError::SettingsHeldUp`] when too many changes wait for a callback that does not return,
    /// [`DeployError::Busy`] when the callbacks of too many modules run.
    pub(super) fn check(&self, name: &str) -> Result<(), DeployError> {
        let waiting = self.lock();
        match waiting.get(name) {
            Some(changes) if changes.len() >= WAITING_MAX => Err(DeployError::SettingsHeldUp { waiting: WAITING_MAX }),
            None if waiting.len() >= MODULES_MAX => Err(DeployError::Busy),
            _ => Ok(()),
        }
    }

    /// Calls the callbacks for `changed`, after those of earlier changes of the module `name`.
    pub(super) fn call(self: &Arc<Self>, name: &str, changed: Changed) {
        let mut waiting = self.lock();
        if let Some(changes) = waiting.get_mut(name) {
            return changes.push_back(changed);
        }
        waiting.insert(name.to_owned(), VecDeque::from([changed]));
        let (callbacks, module) = (Arc::clone(self), name.to_owned());
        let begun = crate::threads::module_thread("on_setting").spawn(move || callbacks.run(&module));
        if let Err(error) = begun {
            let changes = waiting.remove(name).unwrap_or_default();
            drop(waiting);
            tracing::error!("module {name}: on_setting is not called, because its thread can't be started: {error}");
            changes.into_iter().for_each(|changed| (changed.reply)(Ok(())));
        }
    }

    fn next(&self, name: &str) -> Option<Changed> {
        let mut waiting = self.lock();
        let next = waiting.get_mut(name).and_then(VecDeque::pop_front);
        if next.is_none() {
            waiting.remove(name);
        }
        next
    }

    fn run(&self, name: &str) {
        while let Some(changed) = self.next(name) {
            changed.tell();
        }
    }
}
