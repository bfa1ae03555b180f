//! The control connection between the server and a domain's process: loading, hooks, jobs, and questions of modules.
//!
//! Messages are JSON after a length of four bytes. Speed does not matter here, since requests go over the rings.

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

/// Limit, in bytes, on a message from the server: a job's payload with room for escapes.
const MESSAGE_BYTES_MAX: usize = 600 * 1024 * 1024;

/// Limit, in bytes, on a message of a domain. `text_bytes` is the limit on one text that a job sends or gets; each of its
/// bytes may be escaped. All other parts are short.
pub(super) fn message_bytes_max(text_bytes: usize) -> usize {
    text_bytes.saturating_mul(6).saturating_add(1 << 20).min(MESSAGE_BYTES_MAX)
}

/// The data that a domain's process needs at its start.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Start {
    /// The number of the server's shards; each has a pair of rings.
    pub(super) shards: usize,
    /// The sizes of the parts of the memory beside the rings.
    pub(super) bodies: Budgets,
    /// Core of each shard's companion.
    pub(super) cores: Vec<Option<usize>>,
    /// Cores of the executor pool; empty for all.
    pub(super) free_cores: Vec<usize>,
    pub(super) threads_min: usize,
    pub(super) threads_max: usize,
    /// Limit on the threads that modules may start.
    pub(super) module_threads_max: usize,
    /// Limit on concurrent calls with a process of their own.
    pub(super) killable_calls_max: usize,
    /// Time limit of handlers whose route sets none, in milliseconds.
    pub(super) handler_timeout_ms: u64,
    /// The modules' database.
    pub(super) database: String,
    /// Whether the server can sign.
    pub(super) crypto: bool,
    /// Limits and settings of requests.
    pub(super) requests: RequestRules,
    /// Limit, in bytes, on a message that the server accepts.
    pub(super) message_bytes_max: usize,
    /// The settings of compression.
    pub(super) codings: CodingSettings,
    /// The rights of the process.
    pub(super) policy: Policy,
    /// Whether the last of its descriptors is the directory for its core file.
    pub(super) leaves_core: bool,
}

/// A message from the server.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToChild {
    Start(Box<Start>),
    /// An order; the process reports its outcome.
    Call {
        call: u64,
        what: Order,
    },
    /// The answer to a [`Question`].
    Reply {
        call: u64,
        result: Result<String, String>,
    },
    /// A running job must end.
    MustEnd {
        run: u64,
    },
    /// The modules whose symbols others can look up, by name.
    Published {
        /// The call is done when the look-up uses exactly these modules.
        call: u64,
        modules: Vec<(String, u64)>,
    },
}

/// An order to a domain's process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Order {
    Load {
        instance: u64,
        path: String,
    },
    /// Gives a module new settings.
    Configure {
        instance: u64,
        settings: Settings,
    },
    Onload {
        instance: u64,
    },
    /// The value of a module's setting has changed.
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
        /// Limit on the run, in milliseconds.
        limit_ms: Option<u64>,
    },
    CancelJob {
        instance: u64,
        job: usize,
        uuid: String,
    },
    /// The instance is not used any more. Done when its destructors have run, unless a call still holds it.
    Close {
        instance: u64,
    },
    /// Report when no scheduled work waits or runs.
    Settle,
}

/// The outcome of an [`Order`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Outcome {
    Done,
    /// The module's manifest, and its address in the domain's process.
    Loaded(Manifest, u64),
    Returned(i32),
    /// The loader refused the module; its message.
    Loader(String),
    /// A resource is used up: its name, and the loader's message.
    Exhausted(String, String),
    /// The error in the module's `config`.
    Refused(String),
    /// Module code faulted; the description.
    Fault(String),
    /// The domain's process could not carry out the order.
    Host(String),
}

/// A message from a domain's process.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToParent {
    /// The process has all its resources, and has run no module code yet.
    Started,
    Done {
        call: u64,
        outcome: Outcome,
    },
    Question {
        call: u64,
        what: Question,
    },
    /// Module code faulted: a signal was caught.
    Fault(CaughtFault),
    /// Like `Fault`, in the process of a single call.
    WorkerFault(CaughtFault),
}

/// A signal that was caught in module code.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct CaughtFault {
    /// The loaded module; 0 if it is unknown.
    pub(super) instance: u64,
    pub(super) signal: i32,
    /// The accessed address, if there is one.
    pub(super) address: u64,
    pub(super) instruction: u64,
    pub(super) stack_overflow: bool,
    /// The module's function, for people.
    pub(super) place: String,
    /// See [`Trace`](crate::abi::guard::Trace).
    #[serde(default)]
    pub(super) frames: Vec<u64>,
    #[serde(default)]
    pub(super) registers: Vec<u64>,
    /// The description of the exception of C++ that caused the signal.
    #[serde(default)]
    pub(super) thrown: Option<String>,
}

/// A question of a module to the server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Question {
    /// Asks for a connecting socket, which is passed like a file.
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
    /// The bytes, in base64.
    Checkpoint {
        run: u64,
        bytes: String,
    },
    /// The bytes, in base64.
    EmitBytes {
        run: u64,
        kind: String,
        bytes: String,
    },
    /// The answer is `-`, or the bytes in base64.
    Resume {
        run: u64,
    },
    /// The file is passed before the answer.
    File {
        run: u64,
        name: String,
    },
    /// The file is passed before the answer.
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
    /// A page of the job tables.
    Rows(TableQuery),
}

/// Encodes one message.
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
    // Not allocated at once, since the length may be wrong.
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
