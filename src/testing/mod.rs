//! Tests that authors write for their modules (`include/cweb_test.h`), run without a server: `cweb test`.
//!
//! Each test has a process of its own, `cweb testrun`, which reads an [`Order`] from its standard input and prints the
//! result ([`Told`]). The process loads, routes and calls the module by the same code as a server with `--isolation
//! none`, in the sandbox of isolated modules. Only the connection is missing. `exchange` passes requests to the
//! executors and reads their answers, `sockets` is the client's end of WebSockets, and `jobs` stores the jobs of
//! `jobs_create`.
//!
//! | file | content |
//! | --- | --- |
//! | `run` | the parent: starts the processes of tests, sets their limits, reads their output |
//! | `tools` | sanitizers and valgrind: their settings and their findings |
//! | `coverage` | the counts of gcov |
//! | `junit` | the report for other programs |
//! | `child` | the process of a test |
//! | `exchange`, `sockets`, `jobs` | requests, WebSockets and jobs of a test, in its process |
//! | `lock` | locks that survive a panic |

pub mod child;
pub mod coverage;
mod exchange;
mod jobs;
pub mod junit;
mod lock;
pub mod run;
mod sockets;
pub mod tools;

use crate::domain::sandbox::Policy;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The name of the hidden subcommand.
pub const COMMAND: &str = "testrun";

/// The task of a process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Order {
    /// The module, compiled with its tests.
    pub object: PathBuf,
    /// An empty directory, which the process may write to.
    pub scratch: PathBuf,
    /// The test; `None`: the process lists the tests.
    pub test: Option<String>,
    /// Settings of the module.
    pub settings: BTreeMap<String, String>,
    /// The sandbox of the process; `None`: the process is already in one.
    pub policy: Option<Policy>,
    /// The process ends as a program does, so that the coverage counters are written.
    pub counts: bool,
    /// Unreachable memory fails the test.
    pub finds_leaks: bool,
}

/// A test that a module declares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// The test's name.
    pub name: String,
    /// The test's source file, as the compiler names it.
    pub file: String,
    /// The line in the source file.
    pub line: u32,
}

/// A reason why a test has failed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// The place of the failure, if there is one: file and line.
    pub place: Option<(String, u32)>,
    /// The description of the failure.
    pub text: String,
    /// The instruction, then return addresses, if the failure is a fault.
    pub frames: Vec<u64>,
    /// The address at which the module was mapped.
    pub base: u64,
}

/// The result of a test, as its process reports it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ran {
    /// All failures; empty if the test has passed.
    pub failures: Vec<Failed>,
    /// Why the test was skipped.
    pub skipped: Option<String>,
}

/// The output of a process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Told {
    /// The declared tests.
    Tests(Vec<Listed>),
    /// The result of the test.
    Ran(Ran),
    /// The process could not do its work, for this reason.
    Host(String),
}
