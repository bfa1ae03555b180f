//! Tests that authors write for their modules (`include/cweb_test.h`), run without a server: `cweb test`.
//!
//! Each test has a process of its own, `cweb testrun`, which takes an [`Order`] on its standard input and prints what came
//! of it ([`Told`]). The module is loaded, routed and called there by the same code as on a server with
//! `--isolation none`, in the sandbox of isolated modules. Only the connection is missing: `exchange` hands requests to the
//! executors and reads their answers, `sockets` is the client's end of WebSockets, `jobs` keeps what `jobs_create` makes.
//!
//! | file | what it does |
//! | --- | --- |
//! | `run` | the parent: starts processes, their limits, what they print |
//! | `tools` | sanitizers and valgrind: what they need, what they say |
//! | `coverage` | what gcov has counted |
//! | `junit` | the report for other programs |
//! | `child` | the process of a test |

pub mod child;
pub mod coverage;
mod exchange;
mod jobs;
pub mod junit;
pub mod run;
mod sockets;
pub mod tools;

use crate::domain::sandbox::Policy;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The name of the hidden subcommand.
pub const COMMAND: &str = "testrun";

/// What a process is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Order {
    /// The module, compiled with its tests.
    pub object: PathBuf,
    /// An empty directory, which the process may write to.
    pub scratch: PathBuf,
    /// The test; `None`: it lists them.
    pub test: Option<String>,
    /// Settings of the module.
    pub settings: BTreeMap<String, String>,
    /// Its sandbox; `None`: it is in one already.
    pub policy: Option<Policy>,
    /// It ends as a program does, so that what is counted for coverage is written.
    pub counts: bool,
    /// Memory that nothing points to any more fails the test.
    pub finds_leaks: bool,
}

/// A test that a module declares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// The source that it is in, as the compiler has it.
    pub file: String,
    /// The line.
    pub line: u32,
}

/// A reason why a test has failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// Where, if it has a place.
    pub place: Option<(String, u32)>,
    /// What.
    pub text: String,
    /// The instruction, in the module's object.
    pub offset: Option<u64>,
}

/// What came of a test, as its process says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ran {
    /// All that was wrong; nothing: it has passed.
    pub failures: Vec<Failed>,
    /// Why it did not want to run.
    pub skipped: Option<String>,
}

/// What a process tells.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Told {
    /// The tests there are.
    Tests(Vec<Listed>),
    /// What came of the test.
    Ran(Ran),
    /// It could not do its work; why.
    Host(String),
}
