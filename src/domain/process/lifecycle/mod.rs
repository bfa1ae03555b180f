//! The lifecycle of a domain as one state machine, without IO.
//!
//! [`Machine::step`] takes the time and one [`Input`] and returns [`Effect`]s; [`Machine::wake_at`] says when the next
//! `Tick` is due. The machine owns every decision about processes: which one serves, which one is a spare, when one is
//! replaced, how long each stage may take, and which module is put into quarantine. The supervisor's thread drives the
//! machine. Tasks that block (a start, the examination of a crash) run on the domain's helper thread, and their results
//! come back as inputs. No clock, socket, lock or thread enters this folder.
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

pub(super) use machine::{LEAKS_WAIT, Machine};

use super::quarantine::CrashLimit;
use std::time::Duration;

/// The number of a process, which no other one of the server ever has.
pub(super) type ProcessId = u64;
/// The number of a loaded module, as all processes of its domain have it.
pub(super) type ModuleId = u64;

/// Settings of a machine, which never change.
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

/// An event of a domain.
#[derive(Debug)]
pub(super) enum Input {
    /// The server has started its shards.
    Attached { shards: usize },
    /// [`Effect::Start`] has succeeded: there is a process, without modules.
    Started { process: ProcessId },
    /// [`Effect::Start`] has failed.
    NotStarted { why: String },
    /// The process has carried out [`Effect::Order`] number `call`, or failed to.
    Done { process: ProcessId, call: u64, result: Result<(), String> },
    /// The process has ended, or has closed its control connection, which has the same meaning. `garbled`: the process sent
    /// bytes that are not a message; the text is the error. May come before `Started`.
    Exited { process: ProcessId, garbled: Option<String> },
    /// The kernel has reported the status of the process, or did not do so in time. After `Exited`.
    Reaped { process: ProcessId },
    /// The helper has carried out [`Effect::Examine`].
    Examined { process: ProcessId, death: Death },
    /// A signal was caught in code of `module`.
    Caught { module: ModuleId, summary: String },
    /// One shard sends nothing to the process any more, and has all its answers.
    Drained { process: ProcessId },
    /// No thread holds a pass since [`Effect::CloseGate`] number `round`.
    Quiet { round: u64 },
    /// A job in a process that drains has ended.
    RunEnded,
    /// Another process must follow this one.
    Replace { process: ProcessId, why: String },
    /// A module was taken out of quarantine.
    Lifted { module: ModuleId },
    /// All processes are to end.
    Stop,
    /// Time has passed.
    Tick,
}

/// Findings about the end of a process that the server did not order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Death {
    /// The module whose code ended the process.
    pub(super) suspect: Option<ModuleId>,
    /// Whether a signal from outside ended the process.
    pub(super) is_from_outside: bool,
    /// Whether memory ran out elsewhere, so that no module of this domain is the cause.
    pub(super) is_elsewhere: bool,
    /// The modules that were running.
    pub(super) running: Vec<ModuleId>,
    /// How and where the process died, for people.
    pub(super) summary: String,
}

/// A task for the driver of the machine. The driver carries out the effects of a step in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Effect {
    /// Start a process on the helper. Answered by `Started` or `NotStarted`.
    Start,
    /// Send an order. Answered by `Done`, unless the process ends first.
    Order { process: ProcessId, call: u64, what: Order },
    /// Send the published modules to the process.
    Publish { process: ProcessId },
    /// Stop giving out passes. Answered by `Quiet` once none is held.
    CloseGate { round: u64 },
    /// Stop the shards from sending to the process. Each answers with `Drained`.
    Drain { process: ProcessId },
    /// Put the process into service: shards and passes get this one.
    Up { process: ProcessId },
    /// The process is dead: the shards learn it, and other threads' orders end.
    Down { process: ProcessId },
    /// End the process.
    Signal { process: ProcessId, how: Ending },
    /// Examine the death of the process on the helper, in which `trying` was being loaded. Answered by `Examined`.
    Examine { process: ProcessId, trying: Option<ModuleId> },
    /// Put a module into quarantine.
    Quarantine { module: ModuleId, cause: Cause, summary: String },
    /// Count a process that replaced a dead one.
    CountRestart,
    /// Count a process that replaced a living one.
    CountReplacement,
    /// Drop the record of the process: the machine does not use it any more.
    Forget { process: ProcessId },
    /// Write a line into the server's log.
    Log(tracing::Level, String),
}

/// A way to end a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ending {
    /// SIGKILL; the reason, if the crash report is to name it.
    Kill(Option<String>),
    /// Close the sending side, so that the process ends by itself.
    Finish,
    /// Close the control connection.
    HangUp,
}

/// An order of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Load the module.
    Load(ModuleId),
    /// Send the module's settings.
    Configure(ModuleId),
    /// Run the module's `onload`.
    Onload(ModuleId),
    /// Show that the process works.
    Probe,
    /// Run the module's `unload`.
    Unload(ModuleId),
    /// Report when no scheduled work is left.
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

/// The reason for a quarantine, with the number of deaths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// The number of crashes of the module's process.
    Crashes(usize),
    /// The number of times in a row that the module's process was killed from outside while the module was being loaded.
    KilledWhileLoading(usize),
    /// The number of unexplained deaths in which only this module was running each time.
    AlwaysRunning(usize),
}

/// The domain's modules, as the machine sees them. Other threads add and remove modules at any time.
pub(super) trait Catalog {
    /// Modules that the process should have and has not, without those in quarantine.
    fn missing(&self, process: ProcessId) -> Vec<ModuleId>;
    /// Modules of the process with settings.
    fn with_settings(&self, process: ProcessId) -> Vec<ModuleId>;
    /// Modules of the process whose `onload` must run in the next one.
    fn to_onload(&self, process: ProcessId) -> Vec<ModuleId>;
    /// Modules of the process whose `unload` is due when its service ends.
    fn to_unload(&self, process: ProcessId) -> Vec<ModuleId>;
    /// Modules whose jobs run in the process.
    fn running(&self, process: ProcessId) -> Vec<ModuleId>;
    /// Modules that are loaded in the process.
    fn loaded(&self, process: ProcessId) -> Vec<ModuleId>;
    /// The module's name, for log lines; empty if the module is gone.
    fn name(&self, module: ModuleId) -> String;
    /// Whether the module exists.
    fn contains(&self, module: ModuleId) -> bool;
    /// Whether the module is in quarantine.
    fn is_quarantined(&self, module: ModuleId) -> bool;
}
