//! Answers in place of a module's.

use super::super::call_target::CallTarget;
use super::call::Caller;
use crate::domain::call::GenerationRef;
use crate::domain::module_message::ModuleMessage;

/// RFC 6455 §7.4.1: an unexpected condition.
const INTERNAL_ERROR: u16 = 1011;

/// The reason why the module must not be called, if there is one.
pub(super) fn barred(hold: &dyn GenerationRef) -> Option<String> {
    CallTarget::of(hold.instance()).and_then(CallTarget::barred)
}

/// The text for a module that must not be called; another text if that has just changed.
pub(super) fn barred_text(hold: &dyn GenerationRef) -> String {
    barred(hold).unwrap_or_else(|| format!("module {} was in quarantine; try again", hold.instance().manifest().name))
}

/// The outcome of a call that must not be made: 503, or the end of the socket.
pub(super) fn refuse(caller: Caller, why: &str, out: &mut Vec<ModuleMessage>) {
    match caller {
        Caller::Request { conn, seq, meta } => {
            out.push(ModuleMessage::Answer { conn, seq, bytes: meta.plain(503, &format!("{why}\n")), lent: None });
        }
        Caller::Socket { key, .. } => {
            out.push(ModuleMessage::SocketIdle { socket: key });
            out.push(ModuleMessage::SocketClose { socket: key, code: INTERNAL_ERROR });
        }
    }
}
