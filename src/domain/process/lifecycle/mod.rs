//! The life of a domain as one state machine, without input or output of its own.
//!
//! [`Machine::step`] takes the time and one [`Input`] and returns [`Effect`]s; [`Machine::wake_at`] says when the next
//! `Tick` is due. The machine owns every decision about processes: which one serves, which one is a spare, when one is
//! replaced, how long each stage may take, and which module is put into quarantine. The supervisor's thread drives the
//! machine; what blocks (a start, the examination of a crash) runs on the domain's helper thread and comes back as an
//! input. No clock, socket, lock or thread enters this folder.
//!
//! ```text
//!            taken for a change        modules loaded, hooks run        another one follows
//!   Spare ─────────────────────▶ Loading ───────────────────▶ Serving ────────────────────▶ Draining
//!     │                             │                            │                             │ nothing runs there,
//!     │ exit                        │ late, exit                 │ exit                        │ or its time is over
//!     ▼                             ▼                            ▼                             ▼
//!   Dead ◀─────────────────────── Leaving (late, a stop, the end of a drain) ◀─────────────────┘
//! ```
//!
//! A process that died unwanted is examined before another one gets modules: a module that its crash puts into
//! quarantine is not loaded again.
//!
//! | file | responsibility |
//! | --- | --- |
//! | `machine` | processes and their ends, orders and their time limits, the spare, the stop |
//! | `change` | one process follows another: the stages, from a fresh process to the one that serves |
//! | `blame` | counts of crashes, and the quarantine and the pauses that follow |
//! | `simulator` | thousands of random schedules against the machine, with a clock of their own (tests) |

mod blame;
mod change;
mod machine;
#[cfg(test)]
mod simulator;

pub(super) use machine::Machine;

use super::quarantine::CrashLimit;
use std::time::Duration;

/// The number of a process, which no other one of the server ever has.
pub(super) type ProcessId = u64;
/// The number of a loaded module, as all processes of its domain have it.
pub(super) type ModuleId = u64;

/// What a machine is told once.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    /// The domain's name, for log lines.
    pub(super) domain: String,
    /// Longest run of a constructor or a hook.
    pub(super) hook_timeout: Duration,
    /// The crashes that put a module into quarantine.
    pub(super) crash_limit: CrashLimit,
    /// Processes have a sanitizer, which looks for leaks at their end: they end by themselves, within a limit.
    pub(super) is_sanitized: bool,
}

/// What happens to a domain.
#[derive(Debug)]
pub(super) enum Input {
    /// The shards are there, so many of them.
    Attached { shards: usize },
    /// [`Effect::Start`] has an end: a process, without modules.
    Started { process: ProcessId },
    /// [`Effect::Start`] has failed.
    NotStarted { why: String },
    /// [`Effect::Order`] number `call` has an end.
    Done { process: ProcessId, call: u64, result: Result<(), String> },
    /// The process has ended, or has hung up, which is the same. `garbled`: what it sent was no message.
    Exited { process: ProcessId, garbled: Option<String> },
    /// The kernel has said how the process ended, or takes long to do so. After `Exited`.
    Reaped { process: ProcessId },
    /// [`Effect::Examine`] has an end.
    Examined { process: ProcessId, death: Death },
    /// A signal was caught in code of `module`.
    Caught { module: ModuleId, summary: String },
    /// One shard sends nothing to the process any more, and has all its answers.
    Drained { process: ProcessId },
    /// Nobody holds a pass since [`Effect::CloseGate`] number `round`.
    Quiet { round: u64 },
    /// A job in a process that drains has ended.
    RunEnded,
    /// Another process is to follow this one.
    Replace { process: ProcessId, why: String },
    /// A module was taken out of quarantine.
    Lifted { module: ModuleId },
    /// All processes are to end.
    Stop,
    /// Time has passed.
    Tick,
}

/// What is known of a death that nobody wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Death {
    /// The module whose code it was.
    pub(super) suspect: Option<ModuleId>,
    /// Whether a signal from outside ended the process.
    pub(super) is_from_outside: bool,
    /// Whether memory ran out elsewhere, so that no module of this domain is the cause.
    pub(super) is_elsewhere: bool,
    /// The modules that were running.
    pub(super) running: Vec<ModuleId>,
    /// How and where it died, for people.
    pub(super) summary: String,
}

/// What the driver of the machine is to do, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Effect {
    /// Start a process on the helper. Answered by `Started` or `NotStarted`.
    Start,
    /// Send an order. Answered by `Done`, unless the process ends first.
    Order { process: ProcessId, call: u64, what: Order },
    /// Name the published modules to the process.
    Publish { process: ProcessId },
    /// Give out no pass any more. Answered by `Quiet` once none is held.
    CloseGate { round: u64 },
    /// Have the shards send nothing more to the process. Each answers with `Drained`.
    Drain { process: ProcessId },
    /// Put the process into service: shards and passes get this one.
    Up { process: ProcessId },
    /// The process is dead: shards learn it, and orders of others end.
    Down { process: ProcessId },
    /// Bring the end of the process about.
    Signal { process: ProcessId, how: Ending },
    /// Examine the death of the process on the helper, in which `trying` was being brought up. Answered by `Examined`.
    Examine { process: ProcessId, trying: Option<ModuleId> },
    /// Leave a module out from now on.
    Quarantine { module: ModuleId, cause: Cause, summary: String },
    /// Count a process that followed a dead one.
    CountRestart,
    /// Count a process that followed one that lived.
    CountReplacement,
    /// Nothing is to be done about the process any more.
    Forget { process: ProcessId },
    /// Write a line into the server's log.
    Log(tracing::Level, String),
}

/// How a process is brought to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ending {
    /// SIGKILL; the reason, if the crash report is to name it.
    Kill(Option<String>),
    /// Send nothing more, so that it ends by itself.
    Finish,
    /// Close the control connection.
    HangUp,
}

/// An order of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Load the module.
    Load(ModuleId),
    /// Hand over the module's settings.
    Configure(ModuleId),
    /// Run its `onload`.
    Onload(ModuleId),
    /// Show that the process works.
    Probe,
    /// Run the module's `unload`.
    Unload(ModuleId),
    /// Say when no scheduled work is left.
    Settle,
}

impl Order {
    /// The module that the order is about.
    fn module(self) -> Option<ModuleId> {
        match self {
            Self::Load(module) | Self::Configure(module) | Self::Onload(module) | Self::Unload(module) => Some(module),
            Self::Probe | Self::Settle => None,
        }
    }
}

/// Why a module is put into quarantine, with the count of deaths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// It crashed its process so often.
    Crashes(usize),
    /// Its process was killed from outside so often in a row while it was being loaded.
    KilledWhileLoading(usize),
    /// So many deaths have no explanation, and it alone was running each time.
    AlwaysRunning(usize),
}

/// The domain's modules, as the machine sees them. Others add and remove modules at any time.
pub(super) trait Catalog {
    /// Modules that the process is to have and has not, without those in quarantine.
    fn missing(&self, process: ProcessId) -> Vec<ModuleId>;
    /// Modules of the process with settings.
    fn with_settings(&self, process: ProcessId) -> Vec<ModuleId>;
    /// Modules of the process whose `onload` is to run in the next one.
    fn to_onload(&self, process: ProcessId) -> Vec<ModuleId>;
    /// Modules of the process whose `unload` is due when its service ends.
    fn to_unload(&self, process: ProcessId) -> Vec<ModuleId>;
    /// Modules whose jobs run in the process.
    fn running(&self, process: ProcessId) -> Vec<ModuleId>;
    /// Modules that are loaded in the process.
    fn loaded(&self, process: ProcessId) -> Vec<ModuleId>;
    /// The module's name, for log lines; empty if it is gone.
    fn name(&self, module: ModuleId) -> String;
    /// Whether the module is there.
    fn contains(&self, module: ModuleId) -> bool;
    /// Whether the module is left out.
    fn is_quarantined(&self, module: ModuleId) -> bool;
}
