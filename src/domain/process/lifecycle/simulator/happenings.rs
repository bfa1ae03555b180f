//! Events in a simulated domain: random ones, due ones, and the passing of time.

use super::super::machine::State;
use super::super::{Catalog, Death, Input, ModuleId, Order, ProcessId};
use super::view::{Module, Process};
use super::world::World;
use super::{LIMIT, SHARDS};
use std::time::Duration;

impl World {
    /// Ends the process, whatever it was doing.
    pub(super) fn die(&mut self, id: ProcessId) {
        let process = self.process(id);
        if !std::mem::replace(&mut process.dead, true) {
            for module in self.view.modules.values_mut() {
                module.live_in.remove(&id);
            }
        }
    }

    pub(super) fn answer(&mut self, id: ProcessId) {
        // In schedules without a limit on crashes, modules crash while they are loaded.
        if self.limit.crashes == 0
            && matches!(self.process(id).order, Some((_, Order::Load(_))))
            && !self.random.one_in(3)
        {
            return self.die(id);
        }
        let Some((call, what)) = self.process(id).order.take() else { return };
        let fails = self.random.one_in(12);
        let result = if fails { Err("the order has failed".to_owned()) } else { Ok(()) };
        let process = self.process(id);
        process.trying = None;
        match what {
            Order::Load(module) if fails => drop(process.refused.insert(module)),
            Order::Load(module) => drop(process.loaded.insert(module)),
            Order::Onload(module) => {
                if let Some(module) = self.view.modules.get_mut(&module) {
                    module.live_in.insert(id);
                }
            }
            _ => {}
        }
        self.step(Input::Done { process: id, call, result });
    }

    /// Examines a death on the helper: the cause is random.
    pub(super) fn examine(&mut self) {
        let Some((process, trying)) = self.examining.pop_front() else { return };
        let modules: Vec<ModuleId> = self.view.modules.keys().copied().collect();
        let mut death = Death { summary: "SIGSEGV".to_owned(), ..Death::default() };
        match self.random.below(6) {
            0 => death.is_from_outside = true,
            1 => death.is_elsewhere = true,
            2 | 3 => death.running = modules.iter().copied().filter(|_| !self.random.one_in(3)).collect(),
            _ => death.suspect = trying.or_else(|| self.random.pick(&modules)),
        }
        if self.limit.crashes == 0 {
            (death.suspect, death.is_from_outside) = (trying, false);
        }
        self.count(trying, &death);
        self.step(Input::Examined { process, death });
    }

    /// Counts a death as the documentation says.
    pub(super) fn count(&mut self, trying: Option<ModuleId>, death: &Death) {
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

    pub(super) fn count_crash(&mut self, id: ModuleId, loading: bool) {
        let now = self.now;
        let Some(module) = self.view.modules.get_mut(&id) else { return };
        module.crashes.retain(|at| now - *at < LIMIT.window);
        module.crashes.push_back(now);
        module.loading = if loading { module.loading + 1 } else { 0 };
    }

    /// Makes a random event from outside.
    pub(super) fn happen(&mut self) {
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

    pub(super) fn deploy(&mut self) {
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

    pub(super) fn remove(&mut self) {
        let modules: Vec<ModuleId> = self.view.modules.keys().copied().collect();
        if let Some(id) = self.random.pick(&modules) {
            self.view.modules.remove(&id);
            for process in self.view.processes.values_mut() {
                process.loaded.remove(&id);
            }
        }
    }

    pub(super) fn catch(&mut self) {
        let modules: Vec<ModuleId> = self.view.modules.keys().copied().collect();
        if let Some(module) = self.random.pick(&modules) {
            self.count_crash(module, false);
            self.step(Input::Caught { module, summary: "SIGSEGV".to_owned() });
        }
    }

    pub(super) fn lift(&mut self) {
        let out: Vec<ModuleId> =
            self.view.modules.iter().filter(|(_, module)| module.quarantined).map(|(id, _)| *id).collect();
        if let Some(id) = self.random.pick(&out)
            && let Some(module) = self.view.modules.get_mut(&id)
        {
            (module.quarantined, module.lifted, module.loading) = (false, !self.is_open, 0);
            module.crashes.clear();
            if let Some(current) = self.current.filter(|_| self.is_open) {
                module.quarantined_in.remove(&current);
            }
            self.step(Input::Lifted { module: id });
            if let Some(current) = self.current.filter(|_| self.is_open) {
                self.process(current).loaded.insert(id);
                self.step(Input::Replace { process: current, why: "a module was taken out of quarantine".to_owned() });
            }
        }
    }

    pub(super) fn begin_job(&mut self) {
        let job = self.number();
        if let Some(current) = self.current.filter(|_| self.is_open) {
            let loaded: Vec<ModuleId> = self.view.loaded(current);
            if let Some(module) = self.random.pick(&loaded) {
                self.process(current).jobs.insert(job, module);
            }
        }
    }

    pub(super) fn request(&mut self) {
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

    /// Makes a due event happen; returns whether there was one. `calm`: nothing hangs for ever.
    pub(super) fn progress(&mut self, calm: bool) -> bool {
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
                (12, moves && !process.late.is_empty()),
                (11, process.leaving_since.is_some() && !process.signalled && moves),
            ];
            due.extend(kinds.iter().filter(|(_, is_due)| *is_due).map(|(kind, _)| (*kind, *id)));
        }
        // The gate stays quiet until it is opened. This is reported once, which `Quiet` allows to be repeated.
        let told = self.machine.quiet >= self.round;
        due.retain(|(kind, _)| *kind != 3 || !told);
        let Some((kind, id)) = self.random.pick(&due) else { return false };
        self.come_about(kind, id, calm);
        true
    }

    pub(super) fn come_about(&mut self, kind: u8, id: ProcessId, calm: bool) {
        match kind {
            0 => {
                self.starting -= 1;
                if !calm && self.random.one_in(6) {
                    return self.step(Input::NotStarted { why: "no memory".to_owned() });
                }
                let process = self.number();
                self.view.processes.insert(process, Process::default());
                let is_early = !calm && self.dies_early && self.random.one_in(4);
                if is_early {
                    self.exit_early(process);
                }
                self.step(Input::Started { process });
                assert!(!is_early || self.starting == 0, "a pause follows a process that was dead when it started");
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
            12 => {
                if let Some(call) = self.process(id).late.pop() {
                    self.step(Input::Done { process: id, call, result: Ok(()) });
                }
            }
            _ => self.die(id),
        }
    }

    /// Ends the process, and reports the end to the machine before the start.
    fn exit_early(&mut self, id: ProcessId) {
        self.die(id);
        self.process(id).told = true;
        let garbled = self.random.one_in(5).then(|| "a message of 7 bytes".to_owned());
        self.step(Input::Exited { process: id, garbled });
        if self.random.one_in(2) {
            self.process(id).reaped = true;
            self.step(Input::Reaped { process: id });
        }
        if self.random.one_in(2) {
            self.wait();
        }
    }

    /// Advances the time, at most to the machine's next deadline.
    pub(super) fn wait(&mut self) {
        let most = Duration::from_millis(self.random.below(8_000));
        let then = self.machine.wake_at().map_or(self.now + most, |at| at.min(self.now + most));
        self.now = self.now.max(then);
        self.step(Input::Tick);
    }

    /// Ends all faults: the domain must come to a good state.
    pub(super) fn calm_down(&mut self) {
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
