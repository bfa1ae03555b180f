//! Random schedules against the machine, with a clock, processes, shards and modules that are made up.
//!
//! A schedule is a number: the seed of everything that happens in it. `CWEB_SCHEDULES=100000` runs that many instead of the
//! few that fit into each run of the tests; `CWEB_SCHEDULE=N` runs number N alone and prints each step. A seed that has
//! found a fault stays in [`FOUND`].

use super::machine::{DRAIN_MAX, LEAKS_WAIT, PROBE_WAIT, SETTLE_WAIT, State, UNLOAD_WAIT};
use super::{Catalog, Cause, Death, Effect, Ending, Input, Machine, ModuleId, Order, ProcessId, Settings};
use crate::domain::process::quarantine::CrashLimit;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

/// Schedules of each run of the tests: about three seconds without optimisation.
const SCHEDULES: u64 = 2_000;
/// Seeds that have found faults.
const FOUND: &[u64] = &[];
/// Random happenings of a schedule, before the world calms down.
const HAPPENINGS: usize = 60;
const SHARDS: usize = 2;
const LIMIT: CrashLimit = CrashLimit { crashes: 3, window: Duration::from_secs(20) };
const HOOK_TIMEOUT: Duration = Duration::from_secs(3);

/// xorshift64*, which is enough to choose.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 33) % end
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        (!from.is_empty()).then(|| from[self.below(from.len() as u64) as usize])
    }
}

#[derive(Default)]
struct Module {
    onloaded: bool,
    has_hooks: bool,
    has_settings: bool,
    quarantined: bool,
    /// Times of crashes that count, and crashes and kills in a row while it was loaded.
    crashes: VecDeque<Instant>,
    loading: usize,
    /// The process in which `onload` has run and `unload` has not.
    live_in: BTreeSet<ProcessId>,
}

/// A process as it is, whatever the machine believes.
#[derive(Default)]
struct Process {
    dead: bool,
    /// The machine was told.
    told: bool,
    reaped: bool,
    signalled: bool,
    expected: bool,
    /// Never answers any more.
    hangs: bool,
    loaded: BTreeSet<ModuleId>,
    order: Option<(u64, Order)>,
    trying: Option<ModuleId>,
    examined: bool,
    was_up: bool,
    draining_since: Option<Instant>,
    leaving_since: Option<Instant>,
    /// Whether each shard is to say that it is drained.
    owes_drained: usize,
    jobs: BTreeMap<u64, ModuleId>,
    /// Requests that were sent there.
    requests: BTreeSet<u64>,
}

/// What the machine sees of the world.
#[derive(Default)]
struct View {
    modules: BTreeMap<ModuleId, Module>,
    processes: BTreeMap<ProcessId, Process>,
}

impl View {
    fn select(&self, process: ProcessId, wanted: impl Fn(&Module, bool) -> bool) -> Vec<ModuleId> {
        let Some(process) = self.processes.get(&process) else { return Vec::new() };
        let found = self.modules.iter().filter(|(id, module)| wanted(module, process.loaded.contains(id)));
        found.map(|(id, _)| *id).collect()
    }
}

impl Catalog for View {
    fn missing(&self, process: ProcessId) -> Vec<ModuleId> {
        self.select(process, |module, is_loaded| !module.quarantined && !is_loaded)
    }

    fn with_settings(&self, process: ProcessId) -> Vec<ModuleId> {
        self.select(process, |module, is_loaded| module.has_settings && is_loaded)
    }

    fn to_onload(&self, process: ProcessId) -> Vec<ModuleId> {
        self.select(process, |module, is_loaded| {
            module.onloaded && module.has_hooks && !module.quarantined && is_loaded
        })
    }

    fn to_unload(&self, process: ProcessId) -> Vec<ModuleId> {
        self.to_onload(process)
    }

    fn running(&self, process: ProcessId) -> Vec<ModuleId> {
        self.processes.get(&process).map(|process| process.jobs.values().copied().collect()).unwrap_or_default()
    }

    fn loaded(&self, process: ProcessId) -> Vec<ModuleId> {
        self.select(process, |_, is_loaded| is_loaded)
    }

    fn name(&self, module: ModuleId) -> String {
        format!("m{module}")
    }

    fn contains(&self, module: ModuleId) -> bool {
        self.modules.contains_key(&module)
    }

    fn is_quarantined(&self, module: ModuleId) -> bool {
        self.modules.get(&module).is_some_and(|module| module.quarantined)
    }
}

struct World {
    random: Random,
    machine: Machine,
    view: View,
    now: Instant,
    start: Instant,
    prints: bool,
    next: u64,
    /// Starts that the helper has under way.
    starting: usize,
    examining: VecDeque<(ProcessId, Option<ModuleId>)>,
    /// The gate: the process whose passes are given out, passes that are held, the last closing.
    current: Option<ProcessId>,
    is_open: bool,
    passes: usize,
    round: u64,
    closed_since: Option<Instant>,
    /// Requests that no process has yet, and those that have ended, with how often.
    waiting: BTreeSet<u64>,
    ended: BTreeMap<u64, usize>,
    /// Whether the shards send to `current`.
    sends: bool,
    restarts: usize,
    unexplained: VecDeque<(Instant, Vec<ModuleId>)>,
    is_stopped: bool,
}

impl World {
    fn new(seed: u64, prints: bool) -> Self {
        let now = Instant::now();
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let settings = Settings {
            domain: "d".to_owned(),
            hook_timeout: HOOK_TIMEOUT,
            crash_limit: LIMIT,
            is_sanitized: random.one_in(8),
        };
        Self {
            random,
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
            unexplained: VecDeque::new(),
            is_stopped: false,
        }
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn step(&mut self, input: Input) {
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

    fn alive(&self, wanted: impl Fn(&Process) -> bool) -> Vec<ProcessId> {
        let found = self.view.processes.iter().filter(|(_, process)| !process.dead && wanted(process));
        found.map(|(id, _)| *id).collect()
    }

    fn process(&mut self, id: ProcessId) -> &mut Process {
        self.view.processes.get_mut(&id).expect("the machine names processes that are there")
    }

    /// Does what the driver would do, and checks what can be checked of each effect.
    fn carry_out(&mut self, effect: Effect) {
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
                let process = self.process(process);
                assert!(process.draining_since.is_none());
                process.draining_since = Some(now);
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
                // The death after a hook or a sign of life that is late is examined.
                let is_late_probe = probing && how == Ending::Kill(None) && !process.was_up;
                process.expected |= is_wanted && !is_late_probe;
                process.leaving_since.get_or_insert(now);
            }
            Effect::Examine { process, trying } => {
                let found = self.process(process);
                assert!(found.reaped && !std::mem::replace(&mut found.examined, true), "examined once");
                assert!(!found.expected, "only deaths that nobody wanted are examined");
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

    fn ordered(&mut self, id: ProcessId, call: u64, what: Order) {
        if let Order::Load(module) | Order::Onload(module) = what {
            assert!(!self.view.is_quarantined(module), "a module in quarantine is not brought up");
        }
        if let Order::Onload(module) = what {
            // Before the next `onload` comes `unload`, unless requests or jobs took too long, or a death.
            let live = self.view.modules.get(&module).map(|module| module.live_in.clone()).unwrap_or_default();
            for other in live.into_iter().filter(|other| *other != id) {
                let Some(other) = self.view.processes.get(&other).filter(|other| !other.dead) else { continue };
                let is_excused = !other.requests.is_empty()
                    || other.jobs.values().any(|of| *of == module)
                    || other.hangs
                    || other.owes_drained > 0
                    || other.leaving_since.is_some();
                assert!(is_excused, "unload in the old process comes before onload in the new one");
            }
        }
        let process = self.process(id);
        assert!(process.order.is_none() || process.hangs || process.dead, "one order at a time");
        process.order = Some((call, what));
        if let Order::Load(module) | Order::Onload(module) = what {
            process.trying = Some(module);
        }
    }

    fn up(&mut self, id: ProcessId) {
        if let Some(old) = self.current {
            let old = &self.view.processes[&old];
            assert!(old.dead || old.draining_since.is_some(), "at most one process serves");
        }
        assert!(!self.view.processes[&id].draining_since.is_some_and(|_| true));
        assert!(!std::mem::replace(&mut self.process(id).was_up, true));
        let missing = self.view.missing(id);
        assert!(missing.is_empty() || self.passes > 0, "it has all modules: {missing:?}");
        (self.current, self.is_open, self.closed_since) = (Some(id), true, None);
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

    fn end_request(&mut self, request: u64) {
        *self.ended.entry(request).or_default() += 1;
    }

    /// A quarantine is what docs/operations.md says: counted here a second time.
    fn quarantined(&mut self, id: ModuleId, cause: Cause) {
        let module = self.view.modules.get_mut(&id).expect("a module that is there");
        match cause {
            Cause::Crashes(count) => {
                assert!(!module.quarantined);
                assert!(
                    count == module.crashes.len() && count >= LIMIT.crashes || count == module.loading && count >= 5
                );
            }
            Cause::KilledWhileLoading(count) => assert!(count == module.loading && count >= 5),
            Cause::AlwaysRunning(count) => {
                assert!(!module.quarantined && count == self.unexplained.len() && count >= 3);
                assert!(self.unexplained.iter().all(|(_, running)| running.contains(&id)));
                self.unexplained.clear();
            }
        }
        module.quarantined = true;
    }

    /// What holds after each step.
    fn check(&mut self) {
        let serving = self.machine.in_state(State::Serving);
        assert!(serving.len() <= 1, "at most one process serves: {serving:?}");
        assert!(self.machine.in_state(State::Spare).len() <= 1, "at most one spare");
        if self.is_open {
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
            assert!(module.quarantined || recent < LIMIT.crashes, "too many crashes have their consequence");
            assert!(module.quarantined || module.loading < 5);
        }
    }

    /// The process ends, whatever it was at.
    fn die(&mut self, id: ProcessId) {
        let process = self.process(id);
        if !std::mem::replace(&mut process.dead, true) {
            process.order = None;
            for module in self.view.modules.values_mut() {
                module.live_in.remove(&id);
            }
        }
    }

    fn answer(&mut self, id: ProcessId) {
        let Some((call, what)) = self.process(id).order.take() else { return };
        let fails = self.random.one_in(12);
        let result = if fails { Err("it says so".to_owned()) } else { Ok(()) };
        let process = self.process(id);
        process.trying = None;
        match what {
            Order::Load(module) if !fails => drop(process.loaded.insert(module)),
            Order::Onload(module) => {
                if let Some(module) = self.view.modules.get_mut(&module) {
                    module.live_in.insert(id);
                }
            }
            Order::Unload(module) => {
                if let Some(module) = self.view.modules.get_mut(&module) {
                    module.live_in.remove(&id);
                }
            }
            _ => {}
        }
        self.step(Input::Done { process: id, call, result });
    }

    /// The helper has examined a death: chance says whose it was.
    fn examine(&mut self) {
        let Some((process, trying)) = self.examining.pop_front() else { return };
        let modules: Vec<ModuleId> = self.view.modules.keys().copied().collect();
        let mut death = Death { summary: "SIGSEGV".to_owned(), ..Death::default() };
        match self.random.below(6) {
            0 => death.is_from_outside = true,
            1 => death.is_elsewhere = true,
            2 | 3 => death.running = modules.iter().copied().filter(|_| !self.random.one_in(3)).collect(),
            _ => death.suspect = trying.or_else(|| self.random.pick(&modules)),
        }
        self.count(trying, &death);
        self.step(Input::Examined { process, death });
    }

    /// Counts a death as the documentation says.
    fn count(&mut self, trying: Option<ModuleId>, death: &Death) {
        let now = self.now;
        match death.suspect {
            Some(suspect) => self.count_crash(suspect, trying == Some(suspect)),
            None if death.is_from_outside => {
                if let Some(module) = trying.and_then(|id| self.view.modules.get_mut(&id)) {
                    module.loading += 1;
                }
            }
            None if death.is_elsewhere => {}
            None => {
                self.unexplained.retain(|(at, _)| now - *at < LIMIT.window);
                self.unexplained.push_back((now, death.running.clone()));
            }
        }
    }

    fn count_crash(&mut self, id: ModuleId, loading: bool) {
        let now = self.now;
        let Some(module) = self.view.modules.get_mut(&id) else { return };
        module.crashes.retain(|at| now - *at < LIMIT.window);
        module.crashes.push_back(now);
        module.loading = if loading { module.loading + 1 } else { 0 };
    }

    /// Something that somebody outside does.
    fn happen(&mut self) {
        let living = self.alive(|_| true);
        match self.random.below(16) {
            0 => self.deploy(),
            1 => self.remove(),
            2 | 3 => {
                if let Some(id) = self.random.pick(&living) {
                    self.die(id);
                }
            }
            4 => {
                if let Some(id) = self.random.pick(&living) {
                    self.process(id).hangs = true;
                }
            }
            5 | 6 => {
                if let Some(process) = self.random.pick(&living) {
                    self.step(Input::Replace { process, why: "it was asked for".to_owned() });
                }
            }
            7 if self.is_open && self.passes < 3 => self.passes += 1,
            8 => self.catch(),
            9 => self.lift(),
            10 => self.begin_job(),
            11 if !self.sends => {
                self.sends = true;
                self.step(Input::Attached { shards: SHARDS });
                let is_up = |id: &ProcessId| self.is_open && !self.view.processes[id].dead;
                if let Some(current) = self.current.filter(is_up) {
                    let waiting = std::mem::take(&mut self.waiting);
                    self.process(current).requests.extend(waiting);
                }
            }
            12 if self.random.one_in(20) => {
                self.is_stopped = true;
                self.step(Input::Stop);
            }
            _ => self.request(),
        }
    }

    fn deploy(&mut self) {
        if self.is_open && self.view.modules.len() < 4 {
            let id = self.number();
            let module = Module {
                onloaded: true,
                has_hooks: self.random.one_in(2),
                has_settings: self.random.one_in(3),
                ..Module::default()
            };
            self.view.modules.insert(id, module);
            if let Some(current) = self.current {
                self.process(current).loaded.insert(id);
                if let Some(module) = self.view.modules.get_mut(&id).filter(|module| module.has_hooks) {
                    module.live_in.insert(current);
                }
            }
        }
    }

    fn remove(&mut self) {
        let modules: Vec<ModuleId> = self.view.modules.keys().copied().collect();
        if let Some(id) = self.random.pick(&modules) {
            self.view.modules.remove(&id);
            for process in self.view.processes.values_mut() {
                process.loaded.remove(&id);
            }
        }
    }

    fn catch(&mut self) {
        let modules: Vec<ModuleId> = self.view.modules.keys().copied().collect();
        if let Some(module) = self.random.pick(&modules) {
            self.count_crash(module, false);
            self.step(Input::Caught { module, summary: "SIGSEGV".to_owned() });
        }
    }

    fn lift(&mut self) {
        let out: Vec<ModuleId> =
            self.view.modules.iter().filter(|(_, module)| module.quarantined).map(|(id, _)| *id).collect();
        if let Some(id) = self.random.pick(&out)
            && let Some(module) = self.view.modules.get_mut(&id)
        {
            (module.quarantined, module.loading) = (false, 0);
            module.crashes.clear();
            self.step(Input::Lifted { module: id });
            if let Some(current) = self.current.filter(|_| self.is_open) {
                self.process(current).loaded.insert(id);
                self.step(Input::Replace { process: current, why: "a module was taken out of quarantine".to_owned() });
            }
        }
    }

    fn begin_job(&mut self) {
        let job = self.number();
        if let Some(current) = self.current.filter(|_| self.is_open) {
            let loaded: Vec<ModuleId> = self.view.loaded(current);
            if let Some(module) = self.random.pick(&loaded) {
                self.process(current).jobs.insert(job, module);
            }
        }
    }

    fn request(&mut self) {
        let request = self.number();
        let takes = |id: &ProcessId| {
            let process = &self.view.processes[id];
            !process.told && process.draining_since.is_none()
        };
        match self.current.filter(|id| self.sends && takes(id)) {
            Some(current) => drop(self.process(current).requests.insert(request)),
            None => drop(self.waiting.insert(request)),
        }
    }

    /// Something that is due anyway comes about: true if there was anything. `calm`: nothing hangs for ever.
    fn progress(&mut self, calm: bool) -> bool {
        let mut due: Vec<(u8, ProcessId)> = Vec::new();
        if self.starting > 0 {
            due.push((0, 0));
        }
        if !self.examining.is_empty() {
            due.push((1, 0));
        }
        if self.passes > 0 {
            due.push((2, 0));
        }
        if !self.is_open && self.passes == 0 && self.round > 0 {
            due.push((3, 0));
        }
        for (id, process) in &self.view.processes {
            let moves = !process.dead && (!process.hangs || calm);
            let kinds = [
                (4, process.order.is_some() && !process.dead && !process.hangs && !process.signalled),
                (5, process.dead && !process.told),
                (6, process.dead && process.told && !process.reaped),
                (7, process.signalled && !process.dead),
                (8, moves && !process.requests.is_empty()),
                (9, moves && !process.jobs.is_empty()),
                (10, process.owes_drained > 0 && process.requests.is_empty()),
                (11, process.leaving_since.is_some() && !process.signalled && moves),
            ];
            due.extend(kinds.iter().filter(|(_, is_due)| *is_due).map(|(kind, _)| (*kind, *id)));
        }
        // The gate is quiet until it is opened: that is told once, which `Quiet` allows to be repeated.
        let told = self.machine.quiet >= self.round;
        due.retain(|(kind, _)| *kind != 3 || !told);
        let Some((kind, id)) = self.random.pick(&due) else { return false };
        self.come_about(kind, id, calm);
        true
    }

    fn come_about(&mut self, kind: u8, id: ProcessId, calm: bool) {
        match kind {
            0 => {
                self.starting -= 1;
                if !calm && self.random.one_in(6) {
                    return self.step(Input::NotStarted { why: "no memory".to_owned() });
                }
                let process = self.number();
                self.view.processes.insert(process, Process::default());
                self.step(Input::Started { process });
            }
            1 => self.examine(),
            2 => {
                self.passes -= 1;
                if !self.is_open && self.passes == 0 {
                    self.step(Input::Quiet { round: self.round });
                }
            }
            3 => self.step(Input::Quiet { round: self.round }),
            4 => self.answer(id),
            5 => {
                self.process(id).told = true;
                let garbled = self.random.one_in(5).then(|| "a message of 7 bytes".to_owned());
                self.step(Input::Exited { process: id, garbled });
            }
            6 => {
                self.process(id).reaped = true;
                self.step(Input::Reaped { process: id });
            }
            8 => {
                let process = self.process(id);
                if let Some(request) = process.requests.pop_first() {
                    self.end_request(request);
                }
            }
            9 => {
                let process = self.process(id);
                process.jobs.pop_first();
                if process.draining_since.is_some() {
                    self.step(Input::RunEnded);
                }
            }
            10 => {
                self.process(id).owes_drained -= 1;
                self.step(Input::Drained { process: id });
            }
            _ => self.die(id),
        }
    }

    /// Lets time pass, to the next moment that the machine wants at the latest.
    fn wait(&mut self) {
        let most = Duration::from_millis(self.random.below(8_000));
        let then = self.machine.wake_at().map_or(self.now + most, |at| at.min(self.now + most));
        self.now = self.now.max(then);
        self.step(Input::Tick);
    }

    /// Nothing bad happens any more: in the end everything is in order.
    fn calm_down(&mut self) {
        self.passes = self.passes.min(1);
        for _ in 0..5_000 {
            if self.progress(true) {
                continue;
            }
            if self.is_stopped && self.machine.is_over() {
                break;
            }
            match self.machine.wake_at() {
                Some(at) => {
                    self.now = self.now.max(at);
                    self.step(Input::Tick);
                }
                None => break,
            }
        }
        if self.is_stopped {
            assert!(self.machine.is_over() && self.view.processes.is_empty(), "a stop ends all processes");
            return;
        }
        assert!(self.machine.is_settled() && self.is_open, "in the end a process serves");
        assert_eq!(self.machine.in_state(State::Serving), Vec::from_iter(self.current));
        let spares = usize::from(self.sends);
        assert_eq!(self.view.processes.len(), 1 + spares, "and a spare, and none is left over");
        assert!(!self.sends || self.waiting.is_empty(), "every request has ended");
        assert!(self.view.processes.values().all(|process| process.requests.is_empty()));
    }
}

fn run(seed: u64, prints: bool) {
    let mut world = World::new(seed, prints);
    world.step(Input::Tick);
    for _ in 0..HAPPENINGS {
        match world.random.below(5) {
            0 => world.happen(),
            1 => world.wait(),
            _ => drop(world.progress(false)),
        }
    }
    world.calm_down();
}

/// Runs a schedule, and says which one it was should it fail.
fn run_named(seed: u64) {
    struct Named(u64);
    impl Drop for Named {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("schedule {0} has failed: CWEB_SCHEDULE={0} prints its steps", self.0);
            }
        }
    }
    let named = Named(seed);
    run(seed, false);
    drop(named);
}

#[test]
fn whatever_happens_one_process_serves_and_nothing_is_lost() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(seed) = number("CWEB_SCHEDULE") {
        return run(seed, true);
    }
    FOUND.iter().copied().for_each(run_named);
    (1..=number("CWEB_SCHEDULES").unwrap_or(SCHEDULES)).for_each(run_named);
}
