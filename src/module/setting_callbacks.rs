//! Runs `on_setting` callbacks on a thread for each module: a callback that does not return holds up only the changes of its
//! own module.

use super::deploy::{DeployError, RemoveReply};
use super::generation::Generation;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Most changes of one module that wait for their callbacks.
const WAITING_MAX: usize = 64;
/// Most modules whose callbacks run or wait at the same time, and so most threads.
const MODULES_MAX: usize = 64;

/// A changed setting, for the callbacks of a module's versions.
pub(super) struct Changed {
    /// The setting's name.
    pub(super) key: String,
    /// The loaded versions, the served one first. One that has ended before its turn is left out.
    pub(super) versions: Vec<Weak<Generation>>,
    /// Called when all of them have returned.
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

/// The changes that wait, by the name of their module. A module that is listed has a thread, which takes the changes in
/// their order and ends when there are no more.
#[derive(Default)]
pub(super) struct SettingCallbacks {
    waiting: Mutex<HashMap<String, VecDeque<Changed>>>,
}

impl SettingCallbacks {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, VecDeque<Changed>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether one more change of the module `name` may come.
    ///
    /// # Errors
    /// [`DeployError::Setting`] when earlier ones wait for a callback that does not return, [`DeployError::Busy`] when the
    /// callbacks of too many modules run.
    pub(super) fn check(&self, name: &str) -> Result<(), DeployError> {
        let waiting = self.lock();
        match waiting.get(name) {
            Some(changes) if changes.len() >= WAITING_MAX => Err(DeployError::SettingsHeldUp { waiting: WAITING_MAX }),
            None if waiting.len() >= MODULES_MAX => Err(DeployError::Busy),
            _ => Ok(()),
        }
    }

    /// Has the callbacks called for `changed`, after those of earlier changes of the module `name`.
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
            tracing::error!("module {name}: on_setting is not called, there is no thread for it: {error}");
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
