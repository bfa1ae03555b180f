//! The control connection between the server and a domain: loading, hooks, jobs, and what modules ask of the server.
//!
//! Messages are JSON behind a length of four bytes. Speed does not matter here; requests go over the rings.

use super::arena::Budgets;
use crate::abi::crypto::Token;
use crate::abi::manifest::Manifest;
use crate::abi::request::RequestRules;
use crate::abi::settings::Settings;
use crate::domain::CodingSettings;
use crate::domain::sandbox::Policy;
use crate::jobs::store::TableQuery;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::io::{self, Read, Write};
use std::net::SocketAddr;

/// Longest message from the server: a job's payload with room for escapes.
const MESSAGE_BYTES_MAX: usize = 600 * 1024 * 1024;

/// Longest message of a domain, where `text_bytes` is what a job may give or be given at once: every byte of it may be
/// escaped. What else there is to say is short.
pub(super) fn message_bytes_max(text_bytes: usize) -> usize {
    text_bytes.saturating_mul(6).saturating_add(1 << 20).min(MESSAGE_BYTES_MAX)
}

/// What a domain needs to begin.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Start {
    /// Shards of the server; each has a pair of rings.
    pub(super) shards: usize,
    /// How much of the memory beside the rings is for what.
    pub(super) bodies: Budgets,
    /// Core of each shard's companion.
    pub(super) cores: Vec<Option<usize>>,
    /// Cores of the executor pool; empty for all.
    pub(super) free_cores: Vec<usize>,
    pub(super) threads_min: usize,
    pub(super) threads_max: usize,
    /// Threads that modules may start.
    pub(super) module_threads_max: usize,
    /// Calls at once that have a process each.
    pub(super) killable_calls_max: usize,
    /// How long handlers may run whose route says nothing.
    pub(super) handler_timeout_ms: u64,
    /// The modules' database.
    pub(super) database: String,
    /// The server can sign.
    pub(super) crypto: bool,
    /// Limits and settings of requests.
    pub(super) requests: RequestRules,
    /// Longest message that the server takes.
    pub(super) message_bytes_max: usize,
    /// What is compressed and expanded.
    pub(super) codings: CodingSettings,
    /// What the process may do.
    pub(super) policy: Policy,
    /// The last of its descriptors is the directory for its core file.
    pub(super) leaves_core: bool,
}

/// From the server.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToChild {
    Start(Box<Start>),
    /// Do something and say what came of it.
    Call {
        call: u64,
        what: Order,
    },
    /// The answer to a [`Question`].
    Reply {
        call: u64,
        result: Result<String, String>,
    },
    /// A running job is to end.
    MustEnd {
        run: u64,
    },
    /// The modules whose symbols others find, by name.
    Published {
        /// Done when others find just these.
        call: u64,
        modules: Vec<(String, u64)>,
    },
}

/// Something a domain is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Order {
    Load {
        instance: u64,
        path: String,
    },
    /// What a module is to find as its settings from now on.
    Configure {
        instance: u64,
        settings: Settings,
    },
    Onload {
        instance: u64,
    },
    /// A setting of a module has another value now.
    SettingChanged {
        instance: u64,
        key: String,
    },
    Unload {
        instance: u64,
    },
    RunJob {
        run: u64,
        instance: u64,
        job: usize,
        uuid: String,
        payload: String,
        /// How long it may run.
        limit_ms: Option<u64>,
    },
    CancelJob {
        instance: u64,
        job: usize,
        uuid: String,
    },
    /// Nobody uses this instance any more. Done when its destructors have run, unless a call still holds it.
    Close {
        instance: u64,
    },
    /// Say when no scheduled work waits or runs.
    Settle,
}

/// What came of an [`Order`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Outcome {
    Done,
    /// Its manifest, and where it begins in the domain's memory.
    Loaded(Manifest, u64),
    Returned(i32),
    /// The loader's words.
    Loader(String),
    /// What is used up there, and the loader's words.
    Exhausted(String, String),
    /// What is wrong with the module's `config`.
    Refused(String),
    /// Module code did not return; why.
    Fault(String),
    /// The domain itself could not.
    Host(String),
}

/// From a domain.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToParent {
    /// It has all that it needs of the machine, and has run no code of modules yet.
    Started,
    Done {
        call: u64,
        outcome: Outcome,
    },
    Question {
        call: u64,
        what: Question,
    },
    /// Module code did not return: a signal was caught.
    Fault(CaughtFault),
    /// The same in the process of a single call.
    WorkerFault(CaughtFault),
}

/// A signal that was caught in module code.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct CaughtFault {
    /// The loaded module; 0 if it is not known.
    pub(super) instance: u64,
    pub(super) signal: i32,
    /// The address accessed, where there is one.
    pub(super) address: u64,
    pub(super) instruction: u64,
    pub(super) stack_overflow: bool,
    /// In which of its functions, for people.
    pub(super) place: String,
    /// See [`Trace`](crate::abi::guard::Trace).
    #[serde(default)]
    pub(super) frames: Vec<u64>,
    #[serde(default)]
    pub(super) registers: Vec<u64>,
}

/// What a module asks of the server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Question {
    /// A socket that is connecting; it comes as a file does.
    Connect {
        address: SocketAddr,
    },
    CreateJob {
        instance: u64,
        job: String,
        payload: String,
    },
    Emit {
        run: u64,
        kind: String,
        data: Option<String>,
    },
    SetResult {
        run: u64,
        text: String,
    },
    SetError {
        run: u64,
        text: String,
    },
    /// The bytes in base64.
    Checkpoint {
        run: u64,
        bytes: String,
    },
    /// Likewise.
    EmitBytes {
        run: u64,
        kind: String,
        bytes: String,
    },
    /// Answered with `-`, or the bytes in base64.
    Resume {
        run: u64,
    },
    /// The file comes before the answer.
    File {
        run: u64,
        name: String,
    },
    /// Likewise.
    Output {
        run: u64,
        name: String,
    },
    Sign {
        token: Token,
    },
    Verify {
        signed: Vec<u8>,
        token: Token,
    },
    /// A page of the tables of jobs.
    Rows(TableQuery),
}

/// One message as it is sent.
pub(super) fn encode(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message)?;
    let length = u32::try_from(bytes.len() - 4).map_err(|_| io::Error::other("the message is too long"))?;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    Ok(bytes)
}

/// Writes one message.
pub(super) fn write(stream: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    stream.write_all(&encode(message)?)
}

/// Reads one message of the server.
pub(super) fn read<T: DeserializeOwned>(stream: &mut impl Read) -> io::Result<T> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MESSAGE_BYTES_MAX {
        return Err(io::Error::other(format!("a message of {length} bytes")));
    }
    // Not allocated at once: the length may be a lie.
    let mut bytes = Vec::new();
    stream.take(length as u64).read_to_end(&mut bytes)?;
    if bytes.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_slice(&bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_back_and_broken_ones_are_refused() {
        let mut bytes = Vec::new();
        write(&mut bytes, &ToParent::Done { call: 7, outcome: Outcome::Returned(-1) }).unwrap();
        let first = bytes.len();
        write(&mut bytes, &ToParent::Question { call: 8, what: Question::Sign { token: Token::default() } }).unwrap();
        let mut rest = bytes.as_slice();
        assert!(matches!(read(&mut rest), Ok(ToParent::Done { call: 7, outcome: Outcome::Returned(-1) })));
        assert!(matches!(read(&mut rest), Ok(ToParent::Question { call: 8, what: Question::Sign { .. } })));
        for end in 0..first {
            assert!(read::<ToParent>(&mut bytes.get(..end).unwrap()).is_err());
        }
        assert!(read::<ToParent>(&mut [255_u8; 8].as_slice()).is_err());
    }
}
