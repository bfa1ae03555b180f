//! Questions of a running job to the server over the control connection: both sides of each question.
//!
//! Bytes cross as base64. A refusal is an errno in decimal digits; any other refusal counts as `EIO`.

use super::control::Question;
use crate::jobs::code::JobCalls;
use data_encoding::BASE64;
use std::os::fd::OwnedFd;

/// The answer to [`Question::Resume`] without a checkpoint; not valid base64.
const NONE: &str = "-";

/// The server's answer to a run's question; `hand_over` passes a file.
pub(super) fn answer(
    what: Question,
    calls: &dyn JobCalls,
    hand_over: impl FnOnce(&OwnedFd) -> Result<(), i32>,
) -> Result<String, String> {
    let accepted = match what {
        Question::Emit { kind, data, .. } => calls.emit_event(&kind, data.as_deref()),
        Question::SetResult { text, .. } => calls.set_result(&text),
        Question::SetError { text, .. } => calls.set_error(&text),
        Question::Checkpoint { bytes, .. } => return stored(&bytes, |bytes| calls.checkpoint(bytes)),
        Question::EmitBytes { kind, bytes, .. } => return stored(&bytes, |bytes| calls.emit_bytes(&kind, bytes)),
        Question::Resume { .. } => {
            let saved = calls.resume().map_err(|errno| errno.to_string())?;
            return Ok(saved.map_or_else(|| NONE.to_owned(), |saved| BASE64.encode(&saved)));
        }
        Question::File { name, .. } => return handed(calls.file(&name), hand_over),
        Question::Output { name, .. } => return handed(calls.output(&name), hand_over),
        _ => false,
    };
    if accepted { Ok(String::new()) } else { Err("refused".to_owned()) }
}

fn stored(base64: &str, store: impl FnOnce(&[u8]) -> Result<(), i32>) -> Result<String, String> {
    let bytes = BASE64.decode(base64.as_bytes()).map_err(|_| libc::EINVAL);
    bytes.and_then(|bytes| store(&bytes)).map(|()| String::new()).map_err(|errno| errno.to_string())
}

fn handed(file: Result<OwnedFd, i32>, hand_over: impl FnOnce(&OwnedFd) -> Result<(), i32>) -> Result<String, String> {
    let passed = file.and_then(|file| hand_over(&file));
    passed.map(|()| String::new()).map_err(|errno| errno.to_string())
}

/// The errno in a refusal.
pub(super) fn errno_of(refusal: &str) -> i32 {
    refusal.parse().unwrap_or(libc::EIO)
}

/// Sends bytes of a run to the server, which stores them; `ask` sends the question with the bytes in base64.
pub(super) fn store(
    bytes: &[u8],
    message_bytes_max: usize,
    ask: impl FnOnce(String) -> Result<String, String>,
) -> Result<(), i32> {
    // The server refuses sizes just above its limit and logs the reason; a much larger message could not reach the server.
    if bytes.len() > message_bytes_max / 2 {
        return Err(libc::EMSGSIZE);
    }
    ask(BASE64.encode(bytes)).map(drop).map_err(|refusal| errno_of(&refusal))
}

/// The checkpoint with which `run` began.
pub(super) fn resume(run: u64, ask: impl FnOnce(Question) -> Result<String, String>) -> Result<Option<Vec<u8>>, i32> {
    let saved = ask(Question::Resume { run }).map_err(|refusal| errno_of(&refusal))?;
    if saved == NONE {
        return Ok(None);
    }
    BASE64.decode(saved.as_bytes()).map(Some).map_err(|_| libc::EIO)
}
