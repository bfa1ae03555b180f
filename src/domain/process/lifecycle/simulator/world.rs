//! A simulated domain around a machine: it carries out effects, and checks the invariants after each step.

use super::super::change::REQUESTS_WAIT;
use super::super::machine::{DRAIN_MAX, LEAKS_WAIT, PROBE_WAIT, SETTLE_WAIT, State, UNLOAD_WAIT};
use super::super::{Catalog, Cause, Effect, Ending, Input, Machine, ModuleId, Order, ProcessId, Settings};
use super::view::{Process, View};
use super::{CrashLimit, Duration, HOOK_TIMEOUT, LIMIT, LOADS_MAX, Random, SHARDS};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

pub(super) struct World {
    pub(super) random: Random,
    pub(super) limit: CrashLimit,
    pub(super) machine: Machine,
    pub(super) view: View,
    pub(super) now: Instant,
    pub(super) start: Instant,
    pub(super) prints: bool,
    pub(super) next: u64,
    /// The number of starts in progress on the helper.
    pub(super) starting: usize,
    pub(super) examining: VecDeque<(ProcessId, Option<ModuleId>)>,
    /// The gate: the process of the passes, the held passes, the last closing.
    pub(super) current: Option<ProcessId>,
    pub(super) is_open: bool,
    pub(super) passes: usize,
    pub(super) round: u64,
    pub(super) closed_since: Option<Instant>,
    /// Requests that no process has yet, and the ended ones with their number of ends.
    pub(super) waiting: BTreeSet<u64>,
    pub(super) ended: BTreeMap<u64, usize>,
    /// Whether the shards send to `current`.
    pub(super) sends: bool,
    pub(super) restarts: usize,
    /// The process that drains while another one is being prepared.
    pub(super) retiring: Option<ProcessId>,
    pub(super) unexplained: VecDeque<(Instant, Vec<ModuleId>)>,
    pub(super) is_stopped: bool,
    /// Whether processes may end before the machine is told of their start. Only in some schedules, so that those in
    /// [`FOUND`](super::FOUND) stay the same.
    pub(super) dies_early: bool,
}

impl World {
    pub(super) fn new(seed: u64, prints: bool) -> Self {
        let now = Instant::now();
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        // Without a limit, only deaths during loading count.
        let limit = CrashLimit { crashes: if seed % 16 == 3 { 0 } else { LIMIT.crashes }, ..LIMIT };
        let settings = Settings {
            domain: "d".to_owned(),
            hook_timeout: HOOK_TIMEOUT,
            crash_limit: limit,
            is_sanitized: random.one_in(8),
        };
        Self {
            random,
            limit,
            machine: Machine::new(settings, now),
            view: View::default(),
            now,
            start: now,
            prints,
            next: 0,
            starting: 0,
            examining: VecDeque::new(),
            current: None,
            is_open: false,
            passes: 0,
            round: 0,
            closed_since: Some(now),
            waiting: BTreeSet::new(),
            ended: BTreeMap::new(),
            sends: false,
            restarts: 0,
            retiring: None,
            unexplained: VecDeque::new(),
            is_stopped: false,
            dies_early: seed % 4 == 3,
        }
    }

    pub(super) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(super) fn step(&mut self, input: Input) {
        if self.prints {
            println!("{:?} {input:?}", self.now - self.start);
        }
        let effects = self.machine.step(self.now, input, &self.view);
        for effect in effects {
            if self.prints {
                println!("    {effect:?}");
            }
            self.carry_out(effect);
        }
        self.check();
    }

    pub(super) fn alive(&self, wanted: impl Fn(&Process) -> bool) -> Vec<ProcessId> {
        let found = self.view.processes.iter().filter(|(_, process)| !process.dead && wanted(process));
        found.map(|(id, _)| *id).collect()
    }

    pub(super) fn process(&mut self, id: ProcessId) -> &mut Process {
        self.view.processes.get_mut(&id).expect("the machine names processes that are there")
    }

    /// Carries out an effect like the driver, and checks it.
    pub(super) fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Start => {
                self.starting += 1;
                assert_eq!(self.starting, 1, "one start at a time");
            }
            Effect::Order { process, call, what } => self.ordered(process, call, what),
            Effect::Publish { .. } | Effect::Log(..) | Effect::CountReplacement => {}
            Effect::CountRestart => self.restarts += 1,
            Effect::CloseGate { round } => {
                assert!(round > self.round);
                self.round = round;
                if self.is_open {
                    self.closed_since = Some(self.now);
                }
                self.is_open = false;
            }
            Effect::Drain { process } => {
                assert_eq!(self.current, Some(process), "the process in service drains");
                let now = self.now;
                let attached = self.sends;
                self.retiring = Some(process);
                let process = self.process(process);
                assert!(process.draining_since.is_none());
                process.draining_since = Some(now);
                process.busy = process.jobs.values().copied().collect();
                process.owes_drained = if attached { SHARDS } else { 0 };
            }
            Effect::Up { process } => self.up(process),
            Effect::Down { process } => {
                let found = self.process(process);
                assert!(found.dead);
                for request in std::mem::take(&mut found.requests) {
                    self.end_request(request);
                }
                self.process(process).jobs.clear();
                if self.current == Some(process) {
                    self.current = None;
                    if self.is_open {
                        self.closed_since = Some(self.now);
                    }
                    self.is_open = false;
                }
            }
            Effect::Signal { process, how } => {
                let (now, is_wanted) = (self.now, !matches!(how, Ending::Kill(Some(_))));
                let probing = matches!(self.process(process).order, Some((_, Order::Probe)));
                let process = self.process(process);
                process.signalled |= how != Ending::Finish;
                // The death after a late hook or probe is examined.
                let is_late_probe = probing && how == Ending::Kill(None) && !process.was_up;
                process.expected |= is_wanted && !is_late_probe;
                process.leaving_since.get_or_insert(now);
            }
            Effect::Examine { process, trying } => {
                let found = self.process(process);
                assert!(found.reaped && !std::mem::replace(&mut found.examined, true), "examined once");
                assert!(!found.expected, "a death that the server ordered is not examined");
                assert_eq!(trying, found.trying);
                self.examining.push_back((process, trying));
            }
            Effect::Quarantine { module, cause, .. } => self.quarantined(module, cause),
            Effect::Forget { process } => {
                let found = self.view.processes.remove(&process).expect("forgotten once");
                assert!(found.dead && found.reaped && found.requests.is_empty() && self.current != Some(process));
            }
        }
    }

    pub(super) fn ordered(&mut self, id: ProcessId, call: u64, what: Order) {
        if let Order::Load(module) | Order::Onload(module) = what {
            assert!(!self.view.is_quarantined(module), "a module in quarantine is not brought up");
        }
        if let Order::Onload(module) = what {
            self.check_onload(id, module);
        }
        if matches!(what, Order::Configure(_) | Order::Onload(_) | Order::Probe) {
            let unknown = |(other, process): (&ProcessId, &Process)| {
                *other != id && process.told && !process.expected && process.was_up && process.draining_since.is_none()
            };
            assert!(
                !self.view.processes.iter().any(unknown),
                "a death is examined before the next process is complete"
            );
        }
        if let Order::Unload(module) = what
            && let Some(module) = self.view.modules.get_mut(&module)
        {
            module.live_in.remove(&id);
        }
        let is_first = self.process(id).ordered_at.is_none();
        if let Some(old) = self.retiring.filter(|_| is_first).and_then(|old| self.view.processes.get_mut(&old)) {
            old.busy = old.jobs.values().copied().collect();
        }
        let now = self.now;
        let process = self.process(id);
        // The machine gives up a late order.
        let is_late = process.ordered_at.is_some_and(|at| now - at >= HOOK_TIMEOUT);
        assert!(process.order.is_none() || is_late || process.dead, "one order at a time");
        process.late.extend(process.order.take().map(|(call, _)| call));
        (process.order, process.ordered_at) = (Some((call, what)), Some(now));
        if let Order::Load(module) | Order::Onload(module) = what {
            process.trying = Some(module);
        }
    }

    /// Before the next `onload` comes `unload`, unless `unload`, requests or jobs took too long, or the process died or was
    /// ended. A module in quarantine gets no `unload`, so none comes in a process that drained meanwhile.
    pub(super) fn check_onload(&self, id: ProcessId, module: ModuleId) {
        let others = self.view.processes.iter().filter(|(other, process)| **other != id && !process.dead);
        for (other, process) in others {
            let is_late = process.ordered_at.is_some_and(|at| self.now - at >= HOOK_TIMEOUT);
            let is_unloading = matches!(process.order, Some((_, Order::Unload(of))) if of == module);
            assert!(is_late || !is_unloading || process.busy.contains(&module), "onload waits for unload");
            let is_live = self.view.modules.get(&module).is_some_and(|module| module.live_in.contains(other));
            let is_excused = process.draining_since.is_some_and(|since| self.now - since >= REQUESTS_WAIT)
                || process.draining_since.is_some() && self.view.modules[&module].quarantined_in.contains(other)
                || process.busy.contains(&module)
                || process.leaving_since.is_some();
            assert!(is_excused || !is_live, "unload in the old process comes before onload in the new one");
        }
    }

    pub(super) fn up(&mut self, id: ProcessId) {
        if let Some(old) = self.current {
            let old = &self.view.processes[&old];
            assert!(old.dead || old.draining_since.is_some(), "at most one process serves");
        }
        assert!(!self.view.processes[&id].draining_since.is_some_and(|_| true));
        assert!(!std::mem::replace(&mut self.process(id).was_up, true));
        let is_excused =
            |module: &ModuleId| self.view.modules[module].lifted || self.view.processes[&id].refused.contains(module);
        let missing: Vec<_> = self.view.missing(id).into_iter().filter(|module| !is_excused(module)).collect();
        assert!(missing.is_empty(), "the new process has all modules: {missing:?} are missing");
        (self.current, self.is_open, self.closed_since, self.retiring) = (Some(id), true, None, None);
        if self.sends && !self.view.processes[&id].dead {
            let waiting = std::mem::take(&mut self.waiting);
            self.process(id).requests.extend(waiting);
        }
        for module in self.view.processes[&id].loaded.clone() {
            if let Some(module) = self.view.modules.get_mut(&module) {
                module.loading = 0;
            }
        }
    }

    pub(super) fn end_request(&mut self, request: u64) {
        *self.ended.entry(request).or_default() += 1;
    }

    /// Checks a quarantine against an independent count by the rules of docs/operations.md.
    pub(super) fn quarantined(&mut self, id: ModuleId, cause: Cause) {
        let module = self.view.modules.get_mut(&id).expect("a module that is there");
        module.quarantined_in.extend(module.live_in.iter().copied());
        match cause {
            Cause::Crashes(count) => {
                let is_often = self.limit.crashes > 0 && count == module.crashes.len() && count >= self.limit.crashes;
                assert!(!module.quarantined && (is_often || count == module.loading && count >= LOADS_MAX));
            }
            Cause::KilledWhileLoading(count) => assert!(count == module.loading && count >= LOADS_MAX),
            Cause::AlwaysRunning(count) => {
                assert!(!module.quarantined && count == self.unexplained.len() && count >= 3);
                assert!(self.unexplained.iter().all(|(_, running)| running.contains(&id)));
                self.unexplained.clear();
            }
        }
        module.quarantined = true;
    }

    /// Checks the invariants that hold after each step.
    pub(super) fn check(&mut self) {
        let serving = self.machine.in_state(State::Serving);
        assert!(serving.len() <= 1, "at most one process serves: {serving:?}");
        assert!(self.machine.in_state(State::Spare).len() <= 1, "at most one spare");
        if self.is_open && !self.is_stopped {
            assert_eq!(serving.first(), self.current.as_ref(), "the gate is open to the process that serves");
        }
        assert!(self.ended.values().all(|times| *times == 1), "a request ends once");
        let drain_max = DRAIN_MAX + UNLOAD_WAIT * 4 + SETTLE_WAIT + HOOK_TIMEOUT * 20 + PROBE_WAIT * 20;
        for process in self.view.processes.values().filter(|process| !process.dead) {
            if let Some(since) = process.leaving_since.filter(|_| !process.signalled) {
                assert!(
                    self.now - since <= LEAKS_WAIT + Duration::from_millis(1),
                    "a process that leaves is killed in the end"
                );
            }
            if let Some(since) = process.draining_since.filter(|_| process.leaving_since.is_none() && self.is_open) {
                assert!(self.now - since <= drain_max, "a process that drains ends");
            }
        }
        for module in self.view.modules.values() {
            let recent = module.crashes.iter().filter(|at| self.now - **at < LIMIT.window).count();
            assert!(
                module.quarantined || self.limit.crashes == 0 || recent < self.limit.crashes,
                "too many crashes have their consequence"
            );
            assert!(
                module.quarantined || module.loading < LOADS_MAX,
                "too many deaths during loading have their consequence"
            );
        }
    }
}
