//! Crash reports: the process that died, the place of the crash, and the module at fault.

use super::cgroup::OutOfMemory;
use super::control::CaughtFault;
use super::core_files::{CoreFile, file_name};
use super::crash_report::CrashReport;
use super::instance::ProcessInstance;
use super::lifecycle::{Cause, Death, Input, ModuleId};
use super::lock;
use super::shared::DomainShared;
use super::symbol;
use crate::abi::guard::REGISTERS;
use crate::domain::Fault;
use crate::domain::fault::signal_name;
use crate::domain::running::{self, Note, Remains};
use crate::domain::sanitized;
use crate::logbook::{self, Kind};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Limit, in characters, on a text from a domain's process.
const PLACE_CHARS_MAX: usize = 200;
/// Limit on the return addresses from a domain's process.
const FRAMES_MAX: usize = 32;
/// The shortest interval between two reports of faults in processes of single calls, for each domain.
const WORKER_REPORT_EVERY: Duration = Duration::from_secs(1);

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Whether the kernel reports an address with this signal.
fn has_address(signal: i32) -> bool {
    signal == libc::SIGSEGV || signal == libc::SIGBUS
}

/// The facts about a death before a module is suspected.
struct Circumstances {
    note: Option<Note>,
    /// The module that was being loaded again.
    trying: Option<ModuleId>,
    /// Whether the process was killed neither by its own code, nor by the server, nor for lack of memory.
    from_outside: bool,
}

/// Whether the process can have ended as its note says.
fn fits(note: Note, status: ExitStatus) -> bool {
    match note.exit {
        Some(code) => status.code() == Some(code),
        None => status.signal() == Some(note.signal),
    }
}

impl DomainShared {
    /// Handles a signal that was caught in `process`. The first one of a module in a process counts as a crash of the
    /// module.
    pub(super) fn fault_caught(&self, process: &ProcessInstance, fault: &CaughtFault) {
        // Repeated reports of one fault are ignored, because handling them is not free.
        if !process.first_fault_of(fault.instance) {
            return;
        }
        let report = self.caught(process, fault);
        let name = report.modules.first().map_or("?", String::as_str);
        tracing::error!("module {name} failed: {}", report.summary());
        for (number, frame) in report.backtrace.iter().enumerate() {
            tracing::error!("module {name}:   #{number} {frame}");
        }
        let summary = report.summary();
        self.keep_report(Some(fault.instance), report);
        self.tell(Input::Caught { module: fault.instance, summary });
    }

    /// Handles a signal that was caught in the process of a single call, or has ended it. That process contained nothing
    /// else of the module, so the fault is reported, but does not count as a crash of the module's process.
    pub(super) fn fault_in_worker(&self, process: &ProcessInstance, fault: &CaughtFault) {
        // A report is not free, and each call may cause one.
        let mut told_at = lock(&self.worker_told_at);
        if told_at.is_some_and(|at| at.elapsed() < WORKER_REPORT_EVERY) || !process.has(fault.instance) {
            return;
        }
        *told_at = Some(Instant::now());
        drop(told_at);
        let report = self.caught(process, fault);
        let name = report.modules.first().map_or("?", String::as_str);
        tracing::error!("module {name} failed in a process of a single call: {}", report.summary());
        for (number, frame) in report.backtrace.iter().enumerate() {
            tracing::error!("module {name}:   #{number} {frame}");
        }
        if let Some(module) = lock(&self.modules).get_mut(&fault.instance) {
            module.last_crash = Some(report);
        }
    }

    /// The report of the last crash of `module`.
    pub(super) fn last_crash_of(&self, module: ModuleId) -> Option<CrashReport> {
        lock(&self.modules).get(&module)?.last_crash.clone()
    }

    /// Adds the position of the last crash of `module` to `fault`, which the crash has caused: the function, its line, and
    /// what called it. `before`: the last crash before the call that has failed, which did not cause `fault`.
    pub(super) fn located(&self, module: ModuleId, before: Option<&CrashReport>, mut fault: Fault) -> Fault {
        let last = self.last_crash_of(module);
        if let Some(report) = last.as_ref().filter(|report| Some(*report) != before) {
            if let Some(frame) = &report.frame {
                fault.what.push_str(&format!(" at {frame}"));
            }
            for (number, frame) in report.backtrace.iter().enumerate() {
                fault.what.push_str(&format!("\n  #{number} {frame}"));
            }
        }
        fault
    }

    /// The report of a caught signal.
    fn caught(&self, process: &ProcessInstance, fault: &CaughtFault) -> CrashReport {
        let address = usize::try_from(fault.address).unwrap_or_default();
        let plain = |text: &str| text.chars().take(PLACE_CHARS_MAX).filter(|c| !c.is_control()).collect::<String>();
        let place = plain(&fault.place);
        let thrown = fault.thrown.as_deref().map(plain);
        CrashReport {
            modules: self.names(&[fault.instance]),
            what: thrown.unwrap_or_else(|| Fault::signal(fault.signal, address, fault.stack_overflow).what),
            signal: Some(fault.signal),
            address: has_address(fault.signal).then_some(fault.address),
            frame: self.frame(process, Some(fault.instance), fault.instruction),
            backtrace: self.backtrace(process, fault.instance, &fault.frames),
            registers: registers(&fault.registers),
            version: self.version(fault.instance),
            place: Some(place),
            caught: true,
            at_ms: now_ms(),
            pid: process.pid(),
            core: None,
        }
    }

    /// Examines the unwanted death of `process`, in which `trying` was being loaded. May take seconds, to look up symbols.
    pub(super) fn examine(
        &self,
        process: &ProcessInstance,
        trying: Option<ModuleId>,
        status: Option<ExitStatus>,
    ) -> Death {
        if !process.is_started() {
            return self.not_started(status);
        }
        let Remains { running, note, trace } = process.remains();
        // Module code may have forged the note, so it must fit the status that the kernel reports.
        let note = note.filter(|note| status.is_some_and(|status| fits(*note, status)));
        let killed = status.is_none_or(|status| status.signal() == Some(libc::SIGKILL));
        let out_of_memory = process.out_of_memory().filter(|_| killed);
        let why = process.verdict().or_else(|| out_of_memory.map(|whose| memory_text(whose, self.name())));
        let has_found = status.is_some_and(|status| status.code() == Some(sanitized::FOUND));
        let why = why.or_else(|| self.reports.last_summary().filter(|_| has_found));
        let from_outside = killed && note.is_none() && why.is_none() && !process.is_broken();
        let death = Circumstances { note, trying, from_outside };
        let suspect = self.suspect(process, &death, &running);
        let report = CrashReport {
            modules: self.names(suspect.as_slice()),
            what: why.unwrap_or_else(|| ending(status, note)),
            signal: status.and_then(|status| status.signal()).or(out_of_memory.map(|_| libc::SIGKILL)),
            address: note.filter(|note| has_address(note.signal)).map(|note| note.address),
            frame: note.and_then(|note| self.frame(process, None, note.instruction)),
            backtrace: suspect
                .filter(|_| note.is_some())
                .map_or_else(Vec::new, |id| self.backtrace(process, id, &trace.frames)),
            registers: if note.is_some() { registers(&trace.registers) } else { Vec::new() },
            version: suspect.and_then(|id| self.version(id)),
            place: trying.filter(|trying| suspect == Some(*trying)).map(|_| "being loaded".to_owned()),
            caught: false,
            at_ms: now_ms(),
            pid: process.pid(),
            core: self.core(process, suspect),
        };
        let status = status.map_or_else(|| "?".to_owned(), |status| status.to_string());
        tracing::error!(
            "the process of domain {} died ({status}): {}; {}; it is started again",
            self.name(),
            report.summary(),
            self.whose(&report, &running)
        );
        for (number, frame) in report.backtrace.iter().enumerate() {
            tracing::error!("domain {}:   #{number} {frame}", self.name());
        }
        for name in &report.modules {
            logbook::add(name, Kind::Error, &format!("module {name} ended its process: {}", report.summary()));
        }
        let summary = report.summary();
        self.keep_report(suspect, report);
        Death {
            suspect,
            is_from_outside: from_outside,
            is_elsewhere: out_of_memory == Some(OutOfMemory::Elsewhere),
            running,
            summary,
        }
    }

    /// Handles the death of a process that has run no module code: no module is the cause.
    fn not_started(&self, status: Option<ExitStatus>) -> Death {
        let status = status.map_or_else(|| "?".to_owned(), |status| status.to_string());
        let summary = format!("could not start ({status})");
        tracing::error!(
            "the process of domain {} {summary}: the machine lacks a resource that the process needs; no module has run in the \
             process, so none is held responsible; the server tries again",
            self.name()
        );
        Death { suspect: None, is_from_outside: false, is_elsewhere: true, running: Vec::new(), summary }
    }

    /// The module that caused a death, as far as that is known and not guessed. First choice: the module whose thread
    /// died, whose code contains the instruction, or that was being loaded. Otherwise: the only module, or the only one
    /// that was running.
    fn suspect(&self, process: &ProcessInstance, death: &Circumstances, running: &[u64]) -> Option<u64> {
        if let Some(note) = death.note {
            // A note without a number is from one of the program's own threads that ran no call of a module.
            let owner = (note.module != 0).then_some(note.module);
            return owner.or_else(|| self.owner(process, note.instruction)).filter(|id| self.is_known(*id));
        }
        if death.from_outside {
            return None;
        }
        let only = |ids: &[u64]| if let [only] = ids { Some(*only) } else { None };
        let loaded: Vec<u64> = process.bases().into_iter().map(|(id, _)| id).collect();
        let known = death.trying.or_else(|| only(running)).or_else(|| only(&loaded));
        known.filter(|id| self.is_known(*id))
    }

    /// A sentence about the cause of a death.
    fn whose(&self, report: &CrashReport, running: &[u64]) -> String {
        let was_running = match self.names(running).as_slice() {
            [] => "no module is known to have been running".to_owned(),
            names => format!("{} was running", names.join(", ")),
        };
        match report.modules.as_slice() {
            [] => format!("{was_running}, and no module is held responsible"),
            names => format!("it was {}", names.join(", ")),
        }
    }

    /// Keeps a report as the last one of the domain, and of the suspected module.
    fn keep_report(&self, suspect: Option<ModuleId>, report: CrashReport) {
        if let Some(suspect) = suspect
            && let Some(module) = lock(&self.modules).get_mut(&suspect)
        {
            module.last_crash = Some(report.clone());
        }
        *lock(&self.last_crash) = Some(report);
    }

    /// Puts a module into quarantine: its process ended too often, the last time as `summary` says.
    pub(super) fn quarantine(&self, id: ModuleId, cause: Cause, summary: &str) {
        let last = lock(&self.last_crash).clone();
        let mut modules = lock(&self.modules);
        let Some(module) = modules.get_mut(&id) else { return };
        let (name, seconds) = (&module.name, self.config.crash_limit.window.as_secs_f32());
        let how = match cause {
            Cause::Crashes(count) => {
                format!("it crashed its process {count} times within {seconds} s, the last time by {summary}")
            }
            Cause::KilledWhileLoading(count) => {
                format!("its process died {count} times in a row while it was being loaded, the last time by {summary}")
            }
            Cause::AlwaysRunning(count) => {
                module.last_crash = last;
                format!(
                    "its process died {count} times within {seconds} s, the last time by {summary}, and of all modules it is the \
                     only one that was running each time"
                )
            }
        };
        let why =
            format!("module {name} is in quarantine: {how}; POST /mgnt/{name}/restart or a new deployment lifts it");
        tracing::error!("{why}");
        module.quarantine.impose(why);
    }

    fn names(&self, instances: &[u64]) -> Vec<String> {
        let (modules, closed) = (lock(&self.modules), lock(&self.closed));
        let name = |id: &u64| {
            let gone = || closed.iter().find(|(gone, _)| gone == id).map(|(_, name)| name.clone());
            modules.get(id).map(|module| module.name.clone()).or_else(gone)
        };
        instances.iter().filter_map(name).collect()
    }

    /// Whether a module with this number exists, or did recently.
    fn is_known(&self, id: u64) -> bool {
        !self.names(&[id]).is_empty()
    }

    /// The loaded module with the largest address below `address`, which may lie beyond the module's end.
    fn below(&self, process: &ProcessInstance, address: u64) -> Option<(u64, u64)> {
        let bases = process.bases().into_iter().filter(|(_, base)| *base != 0 && *base <= address);
        bases.max_by_key(|(_, base)| *base)
    }

    /// The module whose shared object contains `address`.
    fn owner(&self, process: &ProcessInstance, address: u64) -> Option<u64> {
        let (id, base) = self.below(process, address)?;
        symbol::covers(&self.path(id)?, base, address).then_some(id)
    }

    /// The description of `address`, if it is in the code of a module, and of `instance` if that is given.
    fn frame(&self, process: &ProcessInstance, instance: Option<u64>, address: u64) -> Option<String> {
        let (id, base) = self.below(process, address)?;
        if instance.is_some_and(|instance| instance != id) {
            return None;
        }
        symbol::locate(&self.path(id)?, base, address)
    }

    /// Return addresses as functions of the module `instance`, with their lines; addresses in libraries are left out.
    fn backtrace(&self, process: &ProcessInstance, instance: u64, frames: &[u64]) -> Vec<String> {
        let base = process.bases().into_iter().find(|(id, _)| *id == instance).map(|(_, base)| base);
        let (Some(path), Some(base)) = (self.path(instance), base.filter(|base| *base != 0)) else { return Vec::new() };
        let frames = frames.get(..frames.len().min(FRAMES_MAX)).unwrap_or_default();
        symbol::backtrace(&path, base, frames)
    }

    /// The core file of `process`, named after the module that crashed it, together with that module's shared object.
    fn core(&self, process: &ProcessInstance, suspect: Option<u64>) -> Option<CoreFile> {
        let files = self.config.core_files.as_ref()?;
        let module = suspect.and_then(|id| self.names(&[id]).pop()).unwrap_or_else(|| self.name().to_owned());
        let mut core = process.core(files, &format!("{}-{}", file_name(&module, now_ms()), process.pid()))?;
        let base = process.bases().into_iter().find(|(id, _)| Some(*id) == suspect).map(|(_, base)| base);
        if let (Some(path), Some(base)) = (suspect.and_then(|id| self.path(id)), base) {
            core.add_object(&path, base);
        }
        tracing::error!("the core file of module {module} is {} ({} bytes)", core.path.display(), core.bytes);
        Some(core)
    }

    fn version(&self, instance: u64) -> Option<u64> {
        lock(&self.modules).get(&instance)?.version
    }

    fn path(&self, instance: u64) -> Option<PathBuf> {
        Some(lock(&self.modules).get(&instance)?.path.clone())
    }
}

/// Register values of a process, by the names of the registers.
fn registers(values: &[u64]) -> Vec<(String, u64)> {
    REGISTERS.iter().zip(values).map(|(name, value)| ((*name).to_owned(), *value)).collect()
}

fn memory_text(whose: OutOfMemory, domain: &str) -> String {
    match whose {
        OutOfMemory::Limit { bytes } => format!(
            "it ran out of memory: the process of domain {domain} may use {bytes} bytes (--module-resident-bytes-max)"
        ),
        OutOfMemory::Elsewhere => format!("the kernel killed it because memory ran out outside of domain {domain}"),
    }
}

fn ending(status: Option<ExitStatus>, note: Option<Note>) -> String {
    if let Some(signal) = note.and_then(|note| note.sends) {
        return format!("it sent {} to its own process", signal_name(signal));
    }
    if let Some(note) = note.filter(|note| note.exit.is_none()) {
        return Fault::signal(note.signal, usize::try_from(note.address).unwrap_or_default(), false).what;
    }
    match status.map(|status| (status.signal(), status.code())) {
        Some((Some(signal), _)) => signal_name(signal),
        Some((None, Some(code))) => format!("it ended with code {code}"),
        _ => "it ended with an unknown status".to_owned(),
    }
}

impl ProcessInstance {
    /// The record that the process has left in the shared memory.
    fn remains(&self) -> Remains {
        let (region, word) = self.board();
        running::remains(region, word)
    }
}
