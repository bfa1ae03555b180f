//! What died, where, and whose code it was.

use super::cgroup::OutOfMemory;
use super::control::CaughtFault;
use super::life::Life;
use super::lock;
use super::shared::Shared;
use super::symbol;
use crate::domain::Fault;
use crate::domain::fault::signal_name;
use crate::domain::running::{self, Note, Remains};
use serde::Serialize;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::{SystemTime, UNIX_EPOCH};

/// Longest text that is taken from a domain.
const PLACE_CHARS_MAX: usize = 200;

/// Deaths with nobody to blame before somebody is blamed: one may be an operator's doing.
const UNPLACED_MIN: usize = 3;

/// A crash of module code, or of the process that it was in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CrashReport {
    /// The modules whose code was running, or to be loaded: one if it is certain, several if it was any of them, none if
    /// nothing is known.
    pub modules: Vec<String>,
    /// How, for people: `SIGSEGV at address 0x0`, `SIGKILL`, `it ended with code 3`, `it ran out of memory: …`.
    pub what: String,
    /// The signal's number.
    pub signal: Option<i32>,
    /// The address accessed, for SIGSEGV and SIGBUS.
    pub address: Option<u64>,
    /// Where: `function+0x12 (module.c:7)`, if it was in the code of a module.
    pub frame: Option<String>,
    /// In which of the module's functions, where that is known: `a handler (GET /x)`, `onload`.
    pub place: Option<String>,
    /// The signal was caught and the call answered; otherwise the process died.
    pub caught: bool,
    /// When, in ms since 1970.
    pub at_ms: u64,
    /// The process.
    pub pid: u32,
}

impl CrashReport {
    /// What happened and where, in one line.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut text = self.what.clone();
        for (word, part) in [("at", &self.frame), ("in", &self.place)] {
            if let Some(part) = part {
                text.push_str(&format!(" {word} {part}"));
            }
        }
        text
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Whether the kernel says an address with this signal.
fn has_address(signal: i32) -> bool {
    signal == libc::SIGSEGV || signal == libc::SIGBUS
}

impl Shared {
    /// A signal was caught in `life`. The first of a module in one life counts as a crash of it.
    pub(super) fn fault_caught(&self, life: &Life, fault: &CaughtFault) {
        // A life that says one thing again and again is not listened to: nothing here is free.
        if !life.first_fault_of(fault.instance) {
            return;
        }
        let address = usize::try_from(fault.address).unwrap_or_default();
        let place: String = fault.place.chars().take(PLACE_CHARS_MAX).filter(|c| !c.is_control()).collect();
        let report = CrashReport {
            modules: self.names(&[fault.instance]),
            what: Fault::signal(fault.signal, address, fault.stack_overflow).what,
            signal: Some(fault.signal),
            address: has_address(fault.signal).then_some(fault.address),
            frame: self.frame(life, Some(fault.instance), fault.instruction),
            place: Some(place),
            caught: true,
            at_ms: now_ms(),
            pid: life.pid(),
        };
        let name = report.modules.first().map_or("?", String::as_str);
        tracing::error!("module {name} failed: {}", report.summary());
        self.crashed(&[fault.instance], report, false);
    }

    /// `life` has died, and nobody wanted it to.
    pub(super) fn life_lost(&self, life: &Life, status: Option<ExitStatus>) {
        let Remains { running, note } = life.remains();
        // What a module wrote there itself must fit what the kernel says.
        let note = note.filter(|note| status.and_then(|status| status.signal()) == Some(note.signal));
        let killed = status.is_none_or(|status| status.signal() == Some(libc::SIGKILL));
        let out_of_memory = life.out_of_memory().filter(|_| killed);
        let why = life.verdict().or_else(|| out_of_memory.map(|whose| memory_text(whose, self.name())));
        let trying = life.trying();
        let mut suspects = match (trying, note.and_then(|note| self.owner(life, note.instruction))) {
            (Some(trying), _) => vec![trying],
            (None, Some(owner)) => vec![owner],
            (None, None) => running,
        };
        suspects.retain(|id| lock(&self.modules).contains_key(id));
        let report = CrashReport {
            modules: self.names(&suspects),
            what: why.unwrap_or_else(|| ending(status, note)),
            signal: status.and_then(|status| status.signal()).or(out_of_memory.map(|_| libc::SIGKILL)),
            address: note.filter(|note| has_address(note.signal)).map(|note| note.address),
            frame: note.and_then(|note| self.frame(life, None, note.instruction)),
            place: trying.map(|_| "being loaded".to_owned()),
            caught: false,
            at_ms: now_ms(),
            pid: life.pid(),
        };
        let status = status.map_or_else(|| "?".to_owned(), |status| status.to_string());
        let running = match report.modules.as_slice() {
            [] => "no module is known to have been running".to_owned(),
            names => format!("{} was running", names.join(", ")),
        };
        tracing::error!(
            "the process of domain {} died ({status}): {}; {running}; it is started again",
            self.name(),
            report.summary()
        );
        if suspects.is_empty() && out_of_memory != Some(OutOfMemory::Elsewhere) {
            self.unplaced_death(life, &report);
        }
        self.crashed(&suspects, report, trying.is_some());
    }

    /// `life` has died and nothing says by whose fault. When that happens again and again, the module that was deployed
    /// last is left out: what changed last is what most likely did it. If it goes on, so is the one before.
    fn unplaced_death(&self, life: &Life, report: &CrashReport) {
        let mut limit = self.config.crash_limit;
        if limit.crashes > 0 {
            limit.crashes = limit.crashes.max(UNPLACED_MIN);
        }
        let Some(count) = lock(&self.unplaced).add(std::time::Instant::now(), false, limit) else { return };
        let mut modules = lock(&self.modules);
        let there = modules.iter_mut().rev().find(|(id, module)| life.has(**id) && !module.quarantine.is_on());
        let Some((_, module)) = there else { return };
        let name = &module.name;
        let why = format!(
            "module {name} is in quarantine: its process died {count} times within {} s, the last time by {}, while no \
             module is known to have been running, and it is the one that was deployed last; POST /mgnt/{name}/restart or \
             a new deployment lifts it",
            limit.window.as_secs_f32(),
            report.summary()
        );
        tracing::error!("{why}");
        module.last_crash = Some(report.clone());
        module.quarantine.impose(why);
        drop(modules);
        lock(&self.unplaced).clear();
    }

    /// Keeps a report, counts it for each of `suspects`, and puts those in quarantine for whom it was one too many.
    fn crashed(&self, suspects: &[u64], report: CrashReport, loading: bool) {
        let limit = self.config.crash_limit;
        let mut modules = lock(&self.modules);
        for id in suspects {
            let Some(module) = modules.get_mut(id) else { continue };
            module.last_crash = Some(report.clone());
            let Some(count) = module.history.add(std::time::Instant::now(), loading, limit) else { continue };
            if module.quarantine.is_on() {
                continue;
            }
            let name = &module.name;
            let why = format!(
                "module {name} is in quarantine: it crashed its process {count} times within {} s, the last time by {}; \
                 POST /mgnt/{name}/restart or a new deployment lifts it",
                limit.window.as_secs_f32(),
                report.summary()
            );
            tracing::error!("{why}");
            module.quarantine.impose(why);
        }
        drop(modules);
        *lock(&self.last_crash) = Some(report);
    }

    fn names(&self, instances: &[u64]) -> Vec<String> {
        let modules = lock(&self.modules);
        instances.iter().filter_map(|id| modules.get(id)).map(|module| module.name.clone()).collect()
    }

    /// The loaded module that begins below `address` and next to it, which may lie behind its end.
    fn below(&self, life: &Life, address: u64) -> Option<(u64, u64)> {
        let bases = life.bases().into_iter().filter(|(_, base)| *base != 0 && *base <= address);
        bases.max_by_key(|(_, base)| *base)
    }

    /// The module whose shared object has `address` in it.
    fn owner(&self, life: &Life, address: u64) -> Option<u64> {
        let (id, base) = self.below(life, address)?;
        symbol::covers(&self.path(id)?, base, address).then_some(id)
    }

    /// `address` in words, if it is in the code of a module: of `instance`, if it must be that.
    fn frame(&self, life: &Life, instance: Option<u64>, address: u64) -> Option<String> {
        let (id, base) = self.below(life, address)?;
        if instance.is_some_and(|instance| instance != id) {
            return None;
        }
        symbol::locate(&self.path(id)?, base, address)
    }

    fn path(&self, instance: u64) -> Option<PathBuf> {
        Some(lock(&self.modules).get(&instance)?.path.clone())
    }
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
    if let Some(note) = note {
        return Fault::signal(note.signal, usize::try_from(note.address).unwrap_or_default(), false).what;
    }
    match status.map(|status| (status.signal(), status.code())) {
        Some((Some(signal), _)) => signal_name(signal),
        Some((None, Some(code))) => format!("it ended with code {code}"),
        _ => "it is gone".to_owned(),
    }
}

impl Life {
    /// What it has left in the shared memory.
    fn remains(&self) -> Remains {
        let (region, word) = self.board();
        running::remains(region, word)
    }
}
