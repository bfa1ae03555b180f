//! The processes of a domain: their states, the orders in flight, the spare, and the stop.

use super::blame::{Blame, Verdict};
use super::change::Change;
use super::{Catalog, Effect, Ending, Input, ModuleId, Order, ProcessId, Settings};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tracing::Level;

/// The delay of the next spare after a change, so that it does not start while the new process warms up.
const SPARE_DELAY: Duration = Duration::from_millis(250);
/// The pause after the death of a spare; it doubles with each further death.
const SPARE_PAUSE: Duration = Duration::from_secs(1);
/// Limit on the doublings of [`SPARE_PAUSE`].
const SPARE_DOUBLINGS_MAX: u32 = 6;
/// Limit on a sanitizer's leak check, at the close of a module or the end of a process.
pub(in super::super) const LEAKS_WAIT: Duration = Duration::from_secs(5);
/// How long an old process stays for running jobs and requests.
pub(super) const DRAIN_MAX: Duration = Duration::from_secs(60);
/// How long an old process stays after that for scheduled work.
pub(super) const SETTLE_WAIT: Duration = Duration::from_secs(5);
/// Limit on the wait for one `unload`, if `--hook-timeout-ms` is not shorter.
pub(super) const UNLOAD_WAIT: Duration = Duration::from_secs(5);
/// Limit on the wait for a new process to show that it works.
pub(super) const PROBE_WAIT: Duration = Duration::from_secs(30);

/// The state of a process: see the folder's documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Spare,
    Loading,
    Serving,
    Draining,
    Leaving,
    Dead,
}

/// An order that a process has not answered.
#[derive(Debug, Clone, Copy)]
struct InFlight {
    call: u64,
    what: Order,
    until: Instant,
}

/// The end of an order without the end of the process.
enum End {
    Done,
    Failed(String),
    /// The time limit.
    Late(Duration),
}

/// An old process that another process has followed.
#[derive(Debug)]
struct Drain {
    /// Modules whose `unload` runs when their jobs have ended.
    unload: Vec<ModuleId>,
    until: Instant,
}

#[derive(Debug)]
pub(super) struct Process {
    pub(super) state: State,
    order: Option<InFlight>,
    /// The module that is being loaded, or was when loading failed.
    trying: Option<ModuleId>,
    /// Shards that have nothing there any more.
    pub(super) drained: usize,
    drain: Option<Drain>,
    /// The time at which a process that should end by itself is killed.
    kill_at: Option<Instant>,
    /// Whether the server wants the end of the process, so that its death is not examined.
    is_unwanted: bool,
    /// The reason why another process must follow as soon as this one serves.
    pub(super) replace: Option<String>,
}

/// The end of a process that was reported before its start.
#[derive(Debug)]
struct EarlyEnd {
    process: ProcessId,
    garbled: Option<String>,
    is_reaped: bool,
}

/// See the folder's documentation.
#[derive(Debug)]
pub(in super::super) struct Machine {
    pub(super) settings: Settings,
    pub(super) processes: BTreeMap<ProcessId, Process>,
    pub(super) change: Option<Change>,
    pub(super) blame: Blame,
    /// Whether the helper is starting a process.
    pub(super) is_starting: bool,
    /// The end of the process that is being started. The helper starts one process at a time, so there is at most one.
    early_end: Option<EarlyEnd>,
    spare_at: Instant,
    spare_deaths: u32,
    /// The number of shards, once they exist.
    shards: Option<usize>,
    is_stopping: bool,
    /// The number of the last order.
    calls: u64,
    /// The number of the last closing of the gate.
    pub(super) round: u64,
    /// The number of the last closing after which no pass was held.
    pub(super) quiet: u64,
    pub(super) effects: Vec<Effect>,
    /// Set if the last step has deferred the consequences of its input until its effects are carried out.
    behind: Option<Instant>,
}

impl Machine {
    /// A domain without a process. The first step starts one.
    pub(in super::super) fn new(settings: Settings, now: Instant) -> Self {
        let blame = Blame::new(settings.crash_limit);
        Self {
            settings,
            processes: BTreeMap::new(),
            change: Some(Change::first()),
            blame,
            is_starting: false,
            early_end: None,
            spare_at: now,
            spare_deaths: 0,
            shards: None,
            is_stopping: false,
            calls: 0,
            round: 0,
            quiet: 0,
            effects: Vec::new(),
            behind: None,
        }
    }

    /// Handles one input at `now`, which must never go back.
    pub(in super::super) fn step(&mut self, now: Instant, input: Input, catalog: &dyn Catalog) -> Vec<Effect> {
        self.take(now, input, catalog);
        // A module in quarantine must not be loaded again, so the catalog must know of it before any other decision.
        let is_behind = self.effects.iter().any(|effect| matches!(effect, Effect::Quarantine { .. }));
        self.behind = is_behind.then_some(now);
        if is_behind {
            return std::mem::take(&mut self.effects);
        }
        self.end_late(now, catalog);
        self.advance_drains(now, catalog);
        self.advance_change(now, catalog);
        self.keep_spare(now);
        std::mem::take(&mut self.effects)
    }

    /// When the next [`Input::Tick`] is due. `None`: nothing happens without another input.
    pub(in super::super) fn wake_at(&self) -> Option<Instant> {
        let processes = self.processes.values().flat_map(|process| {
            // A draining process is checked between its orders.
            let drain = process.drain.as_ref().filter(|_| process.order.is_none()).map(|drain| drain.until);
            [process.order.map(|order| order.until), drain, process.kill_at]
        });
        let change = self.change.as_ref().and_then(Change::until);
        let spare = self.wants_spare().then_some(self.spare_at);
        processes.flatten().chain(change).chain(spare).chain(self.behind).min()
    }

    /// Whether the domain has stopped, and no process is left.
    pub(in super::super) fn is_over(&self) -> bool {
        self.is_stopping && !self.is_starting && self.processes.is_empty()
    }

    fn take(&mut self, now: Instant, input: Input, catalog: &dyn Catalog) {
        match input {
            Input::Attached { shards } => self.shards = Some(shards),
            Input::Started { process } => self.started(now, process),
            Input::NotStarted { why } => {
                (self.is_starting, self.early_end) = (false, None);
                self.not_started(now, &why);
            }
            Input::Done { process, call, result } => self.done(now, process, call, result, catalog),
            Input::Exited { process, garbled } => self.exited(now, process, garbled),
            Input::Reaped { process } => self.reaped(process),
            Input::Examined { process, death } => {
                let trying = self.processes.get(&process).and_then(|process| process.trying);
                let verdict = self.blame.death(now, trying, &death, catalog);
                self.apply_verdict(verdict, death.summary);
                self.forget(process);
            }
            Input::Caught { module, summary } => {
                let verdict = self.blame.crash(now, module, false, catalog);
                self.apply_verdict(verdict, summary);
            }
            Input::Drained { process } => {
                if let Some(process) = self.processes.get_mut(&process) {
                    process.drained += 1;
                }
            }
            Input::Quiet { round } => self.quiet = self.quiet.max(round),
            Input::Replace { process, why } => self.replace(now, process, why),
            Input::Lifted { module } => self.blame.lifted(module),
            Input::Stop => self.stop(now),
            Input::RunEnded | Input::Tick => {}
        }
    }

    fn started(&mut self, now: Instant, process: ProcessId) {
        self.is_starting = false;
        let new = Process {
            state: State::Spare,
            order: None,
            trying: None,
            drained: 0,
            drain: None,
            kill_at: None,
            is_unwanted: false,
            replace: None,
        };
        self.processes.insert(process, new);
        if let Some(end) = self.early_end.take().filter(|end| end.process == process) {
            self.exited(now, process, end.garbled);
            if end.is_reaped {
                self.reaped(process);
            }
        } else if self.is_stopping {
            self.end(now, process, Ending::HangUp);
        }
    }

    /// Handles a start that has brought no living process.
    fn not_started(&mut self, now: Instant, why: &str) {
        match &mut self.change {
            Some(change) if change.awaits_start() => {
                change.not_started(now);
                let name = &self.settings.domain;
                self.log(Level::ERROR, format!("the process of domain {name} could not be started: {why}"));
            }
            _ => self.no_spare(now, why),
        }
    }

    fn done(&mut self, now: Instant, process: ProcessId, call: u64, result: Result<(), String>, catalog: &dyn Catalog) {
        let Some(found) = self.processes.get_mut(&process) else { return };
        let Some(order) = found.order.take_if(|order| order.call == call) else { return };
        found.trying = None;
        self.ended(now, process, order.what, result.map_or_else(End::Failed, |()| End::Done), catalog);
    }

    /// Sends an order, which the process must answer within its limit.
    pub(super) fn order(&mut self, now: Instant, process: ProcessId, what: Order) {
        let limit = self.limit_of(what);
        let Some(found) = self.processes.get_mut(&process) else { return };
        self.calls += 1;
        let call = self.calls;
        found.order = Some(InFlight { call, what, until: now + limit });
        if let Order::Load(module) | Order::Onload(module) = what {
            found.trying = Some(module);
        }
        self.effects.push(Effect::Order { process, call, what });
    }

    fn limit_of(&self, what: Order) -> Duration {
        match what {
            Order::Load(_) | Order::Configure(_) | Order::Onload(_) => self.settings.hook_timeout,
            Order::Unload(_) => UNLOAD_WAIT.min(self.settings.hook_timeout),
            Order::Settle => SETTLE_WAIT,
            Order::Probe => PROBE_WAIT,
        }
    }

    pub(super) fn is_busy(&self, process: ProcessId) -> bool {
        self.processes.get(&process).is_some_and(|process| process.order.is_some())
    }

    fn ended(&mut self, now: Instant, process: ProcessId, what: Order, end: End, catalog: &dyn Catalog) {
        match (what, end) {
            (Order::Settle, _) => self.retire(now, process),
            (_, End::Done) | (Order::Probe, End::Failed(_)) => {}
            (Order::Load(_) | Order::Onload(_), End::Failed(text)) => {
                self.log(Level::ERROR, format!("a module could not be loaded again: {text}"));
            }
            (Order::Load(_), End::Late(limit)) => self.kill_late(process, "a constructor", limit),
            (Order::Onload(_), End::Late(limit)) => self.kill_late(process, "onload", limit),
            (Order::Configure(_), _) => {
                let text = "a module's settings could not be sent to its new process";
                self.log(Level::ERROR, text.to_owned());
            }
            (Order::Probe, End::Late(_)) => self.kill(process, None),
            (Order::Unload(module), End::Failed(text)) => {
                self.log(Level::ERROR, format!("module {} failed in unload: {text}", catalog.name(module)));
            }
            (Order::Unload(module), End::Late(limit)) => {
                let (name, limit) = (catalog.name(module), limit.as_millis());
                self.log(Level::ERROR, format!("unload of module {name} does not return within {limit} ms"));
            }
        }
    }

    fn kill_late(&mut self, process: ProcessId, hook: &str, limit: Duration) {
        let limit = limit.as_millis();
        self.kill(process, Some(format!("{hook} did not return within {limit} ms, the limit of --hook-timeout-ms")));
    }

    /// Kills a process that misbehaves: its death is examined.
    fn kill(&mut self, process: ProcessId, why: Option<String>) {
        if let Some(found) = self.processes.get_mut(&process) {
            found.state = State::Leaving;
            self.effects.push(Effect::Signal { process, how: Ending::Kill(why) });
        }
    }

    /// Ends a process that is not needed any more.
    pub(super) fn retire(&mut self, now: Instant, process: ProcessId) {
        self.end(now, process, Ending::Kill(None));
    }

    fn end(&mut self, now: Instant, process: ProcessId, how: Ending) {
        let is_sanitized = self.settings.is_sanitized;
        let alive = |process: &&mut Process| process.state != State::Dead;
        let Some(found) = self.processes.get_mut(&process).filter(alive) else { return };
        found.is_unwanted = true;
        if found.state == State::Leaving {
            return;
        }
        found.state = State::Leaving;
        (found.drain, found.order) = (None, None);
        let how = if is_sanitized {
            found.kill_at = Some(now + LEAKS_WAIT);
            Ending::Finish
        } else {
            how
        };
        self.effects.push(Effect::Signal { process, how });
    }

    fn exited(&mut self, now: Instant, process: ProcessId, garbled: Option<String>) {
        if !self.processes.contains_key(&process) {
            return self.exited_early(process, garbled);
        }
        let alive = |process: &&mut Process| process.state != State::Dead;
        let Some(found) = self.processes.get_mut(&process).filter(alive) else { return };
        let was = std::mem::replace(&mut found.state, State::Dead);
        let is_unwanted = found.is_unwanted;
        (found.order, found.drain, found.kill_at) = (None, None, None);
        // A spare has no module that could be the cause.
        found.is_unwanted |= was == State::Spare;
        if let Some(error) = garbled.filter(|_| !is_unwanted) {
            let name = &self.settings.domain;
            self.log(Level::ERROR, format!("the process of domain {name} can't be understood: {error}"));
        }
        self.effects.push(Effect::Down { process });
        if was == State::Spare && !self.is_stopping {
            self.not_started(now, "it died");
        }
        if was == State::Serving && self.change.is_none() && !self.is_stopping {
            self.change = Some(Change::after_death(process));
        }
    }

    /// Handles the end of a process whose start the machine does not know yet. The end counts once the start is reported.
    fn exited_early(&mut self, process: ProcessId, garbled: Option<String>) {
        if self.is_starting {
            self.early_end = Some(EarlyEnd { process, garbled, is_reaped: false });
        } else {
            let name = &self.settings.domain;
            self.log(Level::ERROR, format!("process {process}, which domain {name} does not have, has ended"));
        }
    }

    fn reaped(&mut self, process: ProcessId) {
        if let Some(end) = self.early_end.as_mut().filter(|end| end.process == process) {
            end.is_reaped = true;
        }
        let Some(found) = self.processes.get(&process).filter(|process| process.state == State::Dead) else { return };
        if found.is_unwanted || self.is_stopping {
            self.forget(process);
        } else {
            let trying = found.trying;
            self.effects.push(Effect::Examine { process, trying });
        }
    }

    fn forget(&mut self, process: ProcessId) {
        if self.processes.remove(&process).is_some() {
            self.effects.push(Effect::Forget { process });
        }
    }

    fn apply_verdict(&mut self, verdict: Verdict, summary: String) {
        match verdict {
            Verdict::Nothing => {}
            Verdict::Quarantine(module, cause) => {
                self.effects.push(Effect::Quarantine { module, cause, summary });
            }
            Verdict::Unknown => {
                let name = &self.settings.domain;
                self.log(
                    Level::WARN,
                    format!(
                        "no evidence shows which module ended the process of domain {name}, so none is put into quarantine; if the \
                         crashes continue, give each suspected module a domain of its own (POST /mgnt?domain=NAME)"
                    ),
                );
            }
        }
    }

    /// Ends late orders, and processes that should have ended by themselves.
    fn end_late(&mut self, now: Instant, catalog: &dyn Catalog) {
        let late: Vec<(ProcessId, Order)> = self
            .processes
            .iter_mut()
            .filter_map(|(id, process)| Some((*id, process.order.take_if(|order| order.until <= now)?.what)))
            .collect();
        for (process, what) in late {
            let limit = self.limit_of(what);
            self.ended(now, process, what, End::Late(limit), catalog);
        }
        for (id, process) in &mut self.processes {
            if process.kill_at.take_if(|at| *at <= now).is_some() {
                self.effects.push(Effect::Signal { process: *id, how: Ending::Kill(None) });
            }
        }
    }

    /// Handles the replacement of `old`: the old process ends once nothing runs there.
    pub(super) fn followed(&mut self, now: Instant, old: ProcessId, unload: Vec<ModuleId>) {
        if let Some(old) = self.processes.get_mut(&old) {
            old.drain = Some(Drain { unload, until: now + DRAIN_MAX });
        }
    }

    fn advance_drains(&mut self, now: Instant, catalog: &dyn Catalog) {
        let idle = |process: &Process| process.drain.is_some() && process.order.is_none();
        let idle: Vec<ProcessId> =
            self.processes.iter().filter(|(_, process)| idle(process)).map(|(id, _)| *id).collect();
        for id in idle {
            self.advance_drain(now, id, catalog);
        }
    }

    fn advance_drain(&mut self, now: Instant, id: ProcessId, catalog: &dyn Catalog) {
        let shards = self.shards();
        let Some(process) = self.processes.get_mut(&id) else { return };
        let Some(drain) = &mut process.drain else { return };
        let running = catalog.running(id);
        if let Some(at) = drain.unload.iter().position(|module| !running.contains(module)) {
            let module = drain.unload.remove(at);
            self.order(now, id, Order::Unload(module));
        } else if running.is_empty() && process.drained >= shards {
            // The scheduled work of these modules; the wait for a module that schedules without end is limited.
            self.order(now, id, Order::Settle);
        } else if drain.until <= now {
            let seconds = DRAIN_MAX.as_secs();
            let text = format!("jobs or requests still run in an old process after {seconds} s: it is ended");
            self.log(Level::WARN, text);
            self.retire(now, id);
        }
    }

    fn replace(&mut self, now: Instant, process: ProcessId, why: String) {
        let Some(found) = self.processes.get_mut(&process) else { return };
        match found.state {
            State::Loading => {
                found.replace.get_or_insert(why);
            }
            State::Serving if self.change.is_none() => self.begin_replacement(now, process, &why),
            _ => {}
        }
    }

    pub(super) fn begin_replacement(&mut self, now: Instant, process: ProcessId, why: &str) {
        let name = &self.settings.domain;
        self.log(Level::INFO, format!("the process of domain {name} is replaced: {why}"));
        let pause = self.pause(now);
        self.change = Some(Change::in_place_of(process, pause));
    }

    /// Counts the end of a process, and returns when the next one may come, if there were many.
    pub(super) fn pause(&mut self, now: Instant) -> Option<Instant> {
        let pause = self.blame.pause(now)?;
        let name = &self.settings.domain;
        self.log(
            Level::WARN,
            format!("the process of domain {name} ends repeatedly: the next one starts after a pause"),
        );
        Some(now + pause)
    }

    /// Makes the spare the process of a change.
    pub(super) fn take_spare(&mut self) -> Option<ProcessId> {
        let (id, process) = self.processes.iter_mut().find(|(_, process)| process.state == State::Spare)?;
        process.state = State::Loading;
        self.spare_deaths = 0;
        Some(*id)
    }

    fn wants_spare(&self) -> bool {
        let has = |state| self.processes.values().any(|process| process.state == state);
        // No spare starts before the server serves, so that the server starts quickly.
        self.shards.is_some()
            && !self.is_starting
            && !self.is_stopping
            && self.change.is_none()
            && has(State::Serving)
            && !has(State::Spare)
    }

    fn keep_spare(&mut self, now: Instant) {
        if self.wants_spare() && self.spare_at <= now {
            self.start();
        }
    }

    pub(super) fn start(&mut self) {
        if !self.is_starting {
            self.is_starting = true;
            self.effects.push(Effect::Start);
        }
    }

    fn no_spare(&mut self, now: Instant, why: &str) {
        let pause = SPARE_PAUSE * 2_u32.pow(self.spare_deaths.min(SPARE_DOUBLINGS_MAX));
        let seconds = pause.as_secs();
        self.log(Level::WARN, format!("there is no spare process for modules ({why}); the next try is in {seconds} s"));
        self.spare_deaths += 1;
        self.spare_at = now + pause;
    }

    /// Delays the spare after a process has come into service.
    pub(super) fn delay_spare(&mut self, now: Instant) {
        self.spare_at = self.spare_at.max(now + SPARE_DELAY);
    }

    /// The number of shards; 0 before the server serves.
    pub(super) fn shards(&self) -> usize {
        self.shards.unwrap_or(0)
    }

    fn stop(&mut self, now: Instant) {
        self.is_stopping = true;
        self.change = None;
        let all: Vec<ProcessId> = self.processes.keys().copied().collect();
        for process in all {
            self.end(now, process, Ending::HangUp);
        }
    }

    pub(super) fn state(&self, process: ProcessId) -> Option<State> {
        self.processes.get(&process).map(|process| process.state)
    }

    pub(super) fn log(&mut self, level: Level, text: String) {
        self.effects.push(Effect::Log(level, text));
    }
}

#[cfg(test)]
impl Machine {
    /// The processes in `state`.
    pub(super) fn in_state(&self, state: State) -> Vec<ProcessId> {
        self.processes.iter().filter(|(_, process)| process.state == state).map(|(id, _)| *id).collect()
    }

    /// Whether no change is in progress, and nothing is expected of the helper or a process.
    pub(super) fn is_settled(&self) -> bool {
        self.change.is_none() && !self.is_starting && self.processes.values().all(|process| process.order.is_none())
    }
}
