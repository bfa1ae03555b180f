//! Warnings about what the handlers of a module do: one for each kind of fault and loaded module.

use super::InProcessModule;
use crate::abi::frame::HandlerAnswer;
use crate::abi::handed::Thing;
use crate::abi::types::DECLINED;
use crate::domain::output;
use std::sync::atomic::Ordering;
use tracing::Level;

/// The handler has set a status that HTTP does not have. A bit beside those of [`Thing`].
const STATUS: u32 = 1 << 31;

/// The handler has made a whole answer beside the one that it has begun.
const SECOND_ANSWER: u32 = 1 << 30;

impl InProcessModule {
    /// Whether the warning about `kind` comes for the first time.
    fn is_new(&self, kind: u32) -> bool {
        self.warned.fetch_or(kind, Ordering::Relaxed) & kind == 0
    }

    /// Warns that the module has passed memory that is not from malloc(3).
    pub(super) fn warn_of(&self, strange: u32) {
        if strange == 0 {
            return;
        }
        let known = self.warned.fetch_or(strange, Ordering::Relaxed);
        for thing in Thing::of(strange & !known) {
            tracing::warn!(
                "module {}: {} is not from malloc(3) but a string literal, a variable or a part of the request: it is \
                 used and not freed; {}",
                self.open.manifest.name,
                thing.name(),
                thing.advice()
            );
        }
    }

    /// Warns of an answer that the client does not get as the handler of route number `route` has made it. `is_streamed`: the
    /// handler has also begun an answer in pieces.
    pub(super) fn warn_of_answer(&self, route: usize, answer: &HandlerAnswer<'_>, is_streamed: bool) {
        // Only a handler of a fallback route can leave the request to others.
        let declined = (answer.is_declined && !self.may_decline(route)).then_some(DECLINED);
        // Only a handler that decides about a WebSocket can switch protocols.
        let switched = (answer.switches && !self.is_handshake(route)).then_some(101);
        let text = match answer.invalid_status.or(declined).or(switched) {
            _ if is_streamed => {
                let has_two = !answer.body.is_empty() || answer.file.is_some();
                if !has_two || !self.is_new(SECOND_ANSWER) {
                    return;
                }
                "the handler has begun its answer (cweb_begin()) and then set a whole one: only the first is sent"
                    .to_owned()
            }
            Some(status) if self.is_new(STATUS) => {
                format!("the handler has set res->status = {status}: the request is answered 500; set 200 to 599")
            }
            _ => return,
        };
        let route = self.open.manifest.routes.get(route).map(|route| format!("{} {}: ", route.method, route.path));
        output::said(&self.open.manifest.name, Level::WARN, &format!("{}{text}", route.unwrap_or_default()));
    }
}
