//! A change: one process follows another.
//!
//! After a death: load all modules, run their `onload`, let the shards send. To replace a process that still serves:
//!
//! 1. Load all modules into a new process beside it.
//! 2. Let no further order or request begin, and wait for those in progress.
//! 3. Run `unload` in the old process and `onload` in the new one.
//! 4. Let the shards send to the new process, including everything that has waited.
//!
//! Jobs continue in the old process until they end.

use super::machine::{Machine, State};
use super::{Catalog, Effect, ModuleId, Order, ProcessId};
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use tracing::Level;

/// Limit on a change's wait for orders: modules that are being deployed, and hooks.
pub(super) const ORDERS_WAIT: Duration = Duration::from_secs(10);
/// Limit on a change's wait for running requests; longer ones end in the old process.
pub(super) const REQUESTS_WAIT: Duration = Duration::from_secs(10);
/// The wait after a process could not be started.
const START_PAUSE: Duration = Duration::from_secs(1);

/// A change of the process in service.
#[derive(Debug)]
pub(super) struct Change {
    /// The process that is replaced.
    old: Option<ProcessId>,
    /// The process that is being prepared.
    new: Option<ProcessId>,
    /// Whether the service of `old` has ended.
    is_retired: bool,
    /// Modules of `old` whose `unload` runs when their jobs have ended.
    later: Vec<ModuleId>,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// Wait until a dead process is examined. `restarts`: the dead process served.
    AwaitExamined { dead: ProcessId, restarts: bool },
    /// Wait.
    Pause { until: Instant },
    /// Get a process without modules: the spare, or a started one.
    Fresh,
    /// Load modules into the new process, while the old one serves.
    Load(VecDeque<Order>),
    /// Wait for orders to the old process. `again`: the old process was ended because some did not return.
    Close { until: Instant, again: bool },
    /// Wait for requests in the old process. `quiet`: all orders to it have ended. `in_order`: an `unload` waits for the requests.
    Empty { until: Instant, quiet: bool, in_order: bool },
    /// The old process is being ended because a hook there does not return: wait for its end.
    EndOld,
    /// Run each `unload` that is due in the old process.
    Unload(VecDeque<Order>),
    /// Wait until the old process is examined, if it has died.
    AwaitOldExamined,
    /// Complete the new process: modules that were added meanwhile, settings, hooks, the answer to a probe.
    Complete(Completion, VecDeque<Order>),
}

#[derive(Debug, Clone, Copy)]
enum Completion {
    Modules,
    Settings,
    Hooks,
    Probe,
}

/// The next step of a change.
enum Next {
    Stage(Stage),
    /// Wait for the next input.
    Wait(Stage),
    /// The new process serves.
    Over,
}

impl Change {
    /// The first process of a domain.
    pub(super) fn first() -> Self {
        Self { old: None, new: None, is_retired: false, later: Vec::new(), stage: Stage::Fresh }
    }

    /// The process in service has died.
    pub(super) fn after_death(dead: ProcessId) -> Self {
        Self { stage: Stage::AwaitExamined { dead, restarts: true }, ..Self::first() }
    }

    /// Replaces `old`, after a pause if there have been many processes.
    pub(super) fn in_place_of(old: ProcessId, pause: Option<Instant>) -> Self {
        Self { old: Some(old), stage: after(pause), ..Self::first() }
    }

    /// The latest end of the stage; orders have limits of their own.
    pub(super) fn until(&self) -> Option<Instant> {
        match self.stage {
            Stage::Pause { until } | Stage::Close { until, .. } | Stage::Empty { until, .. } => Some(until),
            _ => None,
        }
    }

    pub(super) fn awaits_start(&self) -> bool {
        matches!(self.stage, Stage::Fresh)
    }

    pub(super) fn not_started(&mut self, now: Instant) {
        self.stage = Stage::Pause { until: now + START_PAUSE };
    }
}

fn after(pause: Option<Instant>) -> Stage {
    pause.map_or(Stage::Fresh, |until| Stage::Pause { until })
}

fn loads(modules: Vec<ModuleId>) -> VecDeque<Order> {
    modules.into_iter().map(Order::Load).collect()
}

impl Machine {
    /// Advances the change as far as possible now.
    pub(super) fn advance_change(&mut self, now: Instant, catalog: &dyn Catalog) {
        while let Some(mut change) = self.change.take() {
            let stage = std::mem::replace(&mut change.stage, Stage::Fresh);
            match self.advance(now, &mut change, stage, catalog) {
                Next::Stage(stage) => self.change = Some(Change { stage, ..change }),
                Next::Wait(stage) => {
                    self.change = Some(Change { stage, ..change });
                    return;
                }
                Next::Over => self.over(now, change, catalog),
            }
        }
    }

    fn advance(&mut self, now: Instant, change: &mut Change, stage: Stage, catalog: &dyn Catalog) -> Next {
        match stage {
            Stage::AwaitExamined { dead, .. } if self.processes.contains_key(&dead) => Next::Wait(stage),
            Stage::AwaitExamined { restarts, .. } => {
                if restarts {
                    self.effects.push(Effect::CountRestart);
                }
                Next::Stage(after(self.pause(now)))
            }
            Stage::Pause { until } if now < until => Next::Wait(stage),
            Stage::Pause { .. } => Next::Stage(Stage::Fresh),
            Stage::Fresh => match self.take_spare() {
                Some(new) => {
                    change.new = Some(new);
                    Next::Stage(Stage::Load(loads(catalog.missing(new))))
                }
                None => {
                    self.start();
                    Next::Wait(stage)
                }
            },
            Stage::Load(queue) => match self.carry_out(now, change.new, queue, catalog) {
                Carried::Wait(queue) => Next::Wait(Stage::Load(queue)),
                Carried::Gone(dead) => Next::Stage(Stage::AwaitExamined { dead, restarts: false }),
                Carried::All(_) if change.is_retired => Next::Stage(self.unload_due(change, catalog)),
                Carried::All(_) => Next::Stage(self.close(now, false)),
            },
            Stage::Close { until, again } if self.quiet < self.round && now < until => {
                Next::Wait(Stage::Close { until, again })
            }
            Stage::Close { again: true, .. } => Next::Stage(Stage::AwaitOldExamined),
            Stage::Close { .. } => Next::Stage(self.drain(now, change, catalog)),
            Stage::Empty { until, quiet, in_order } => {
                let is_empty = change
                    .old
                    .and_then(|old| self.processes.get(&old))
                    .is_none_or(|old| old.state != State::Draining || old.drained >= self.shards());
                if !is_empty && now < until {
                    return Next::Wait(Stage::Empty { until, quiet, in_order });
                }
                Next::Stage(self.emptied(now, change, quiet, in_order, is_empty, catalog))
            }
            Stage::EndOld if change.old.is_some_and(|old| self.processes.contains_key(&old)) => Next::Wait(stage),
            Stage::EndOld => Next::Stage(self.close(now, true)),
            Stage::Unload(queue) => match self.carry_out(now, change.old, queue, catalog) {
                Carried::Wait(queue) => Next::Wait(Stage::Unload(queue)),
                Carried::Gone(_) | Carried::All(_) => Next::Stage(Stage::AwaitOldExamined),
            },
            Stage::AwaitOldExamined if change.old.is_some_and(|old| self.state(old) == Some(State::Dead)) => {
                Next::Wait(stage)
            }
            Stage::AwaitOldExamined => {
                change.is_retired = true;
                change.new.map_or(Next::Stage(Stage::Fresh), |new| Next::Stage(complete(new, catalog)))
            }
            Stage::Complete(completion, queue) => self.complete(now, change, completion, queue, catalog),
        }
    }

    /// Lets no further order begin.
    fn close(&mut self, now: Instant, again: bool) -> Stage {
        self.round += 1;
        self.effects.push(Effect::CloseGate { round: self.round });
        Stage::Close { until: now + ORDERS_WAIT, again }
    }

    /// Lets no further request begin in the old process.
    fn drain(&mut self, now: Instant, change: &Change, catalog: &dyn Catalog) -> Stage {
        let serves = |old: &ProcessId| self.state(*old) == Some(State::Serving);
        let Some(old) = change.old.filter(serves) else { return Stage::AwaitOldExamined };
        if let Some(process) = self.processes.get_mut(&old) {
            process.state = State::Draining;
        }
        self.effects.push(Effect::Drain { process: old });
        // Only an `unload` must come after the last request and before the next `onload`. Without one, running requests
        // continue in the old process while others begin in the new one.
        let in_order = !catalog.to_unload(old).is_empty();
        let until = if in_order { now + REQUESTS_WAIT } else { now };
        Stage::Empty { until, quiet: self.quiet >= self.round, in_order }
    }

    /// Handles the end of the requests in the old process, or of their time.
    fn emptied(
        &mut self,
        now: Instant,
        change: &mut Change,
        quiet: bool,
        in_order: bool,
        is_empty: bool,
        catalog: &dyn Catalog,
    ) -> Stage {
        let Some(old) = change.old.filter(|old| self.state(*old) == Some(State::Draining)) else {
            return if quiet { Stage::AwaitOldExamined } else { Stage::EndOld };
        };
        if !quiet {
            self.log(Level::WARN, "a hook does not return: the process it runs in is ended".to_owned());
            self.retire(now, old);
            return Stage::EndOld;
        }
        if !in_order {
            return Stage::AwaitOldExamined;
        }
        if !is_empty {
            let seconds = REQUESTS_WAIT.as_secs();
            self.log(Level::WARN, format!("requests run for longer than {seconds} s: they end in the old process"));
            return Stage::AwaitOldExamined;
        }
        change.later = catalog.to_unload(old);
        self.unload_due(change, catalog)
    }

    /// Runs each `unload` in the old process that no job delays. Called before another attempt, too, since jobs have
    /// ended meanwhile.
    fn unload_due(&mut self, change: &mut Change, catalog: &dyn Catalog) -> Stage {
        let drains = |old: &ProcessId| self.state(*old) == Some(State::Draining);
        let Some(old) = change.old.filter(drains) else { return Stage::AwaitOldExamined };
        let running = catalog.running(old);
        let all = std::mem::take(&mut change.later).into_iter();
        let (later, due): (Vec<ModuleId>, Vec<ModuleId>) = all.partition(|module| running.contains(module));
        change.later = later;
        Stage::Unload(due.into_iter().map(Order::Unload).collect())
    }

    fn complete(
        &mut self,
        now: Instant,
        change: &Change,
        completion: Completion,
        queue: VecDeque<Order>,
        catalog: &dyn Catalog,
    ) -> Next {
        let new = match self.carry_out(now, change.new, queue, catalog) {
            Carried::Wait(queue) => return Next::Wait(Stage::Complete(completion, queue)),
            Carried::Gone(dead) => return Next::Stage(Stage::AwaitExamined { dead, restarts: false }),
            Carried::All(new) => new,
        };
        let (completion, queue) = match completion {
            // Must come before the hooks, which may read the settings. No thread changes settings now, since that takes a pass.
            Completion::Modules => {
                let settings = catalog.with_settings(new).into_iter().map(Order::Configure);
                (Completion::Settings, settings.collect())
            }
            Completion::Settings => {
                // Must come before the hooks, which may look up symbols of other modules.
                self.effects.push(Effect::Publish { process: new });
                (Completion::Hooks, catalog.to_onload(new).into_iter().map(Order::Onload).collect())
            }
            // An answer to the probe shows that the process works, even without modules.
            Completion::Hooks => (Completion::Probe, VecDeque::from([Order::Probe])),
            Completion::Probe => return Next::Over,
        };
        Next::Stage(Stage::Complete(completion, queue))
    }

    /// Puts the complete new process into service.
    fn over(&mut self, now: Instant, change: Change, catalog: &dyn Catalog) {
        let Some(new) = change.new else { return };
        self.effects.push(Effect::Up { process: new });
        self.blame.loaded(&catalog.loaded(new));
        match change.old {
            Some(old) if self.state(old) == Some(State::Draining) => {
                self.effects.push(Effect::CountReplacement);
                self.followed(now, old, change.later);
            }
            // The old process has died before its replacement served.
            Some(_) => self.effects.push(Effect::CountRestart),
            None => {}
        }
        self.delay_spare(now);
        let Some(process) = self.processes.get_mut(&new) else { return };
        process.state = State::Serving;
        if let Some(why) = process.replace.take() {
            self.begin_replacement(now, new, &why);
        }
    }

    /// Sends the process the next order of `queue` when it has answered the last one. Skips modules that were removed or
    /// put into quarantine since the queue was made.
    fn carry_out(
        &mut self,
        now: Instant,
        process: Option<ProcessId>,
        mut queue: VecDeque<Order>,
        catalog: &dyn Catalog,
    ) -> Carried {
        // A change has a process in each stage that gives orders.
        let Some(process) = process else { return Carried::Wait(queue) };
        match self.state(process) {
            Some(State::Loading | State::Draining) => {}
            _ => return Carried::Gone(process),
        }
        if self.is_busy(process) {
            return Carried::Wait(queue);
        }
        while let Some(order) = queue.pop_front() {
            if order.module().is_none_or(|module| catalog.contains(module) && !catalog.is_quarantined(module)) {
                self.order(now, process, order);
                return Carried::Wait(queue);
            }
        }
        Carried::All(process)
    }
}

/// The progress of a queue of orders.
enum Carried {
    Wait(VecDeque<Order>),
    All(ProcessId),
    /// The process is leaving or dead.
    Gone(ProcessId),
}

fn complete(new: ProcessId, catalog: &dyn Catalog) -> Stage {
    Stage::Complete(Completion::Modules, loads(catalog.missing(new)))
}
