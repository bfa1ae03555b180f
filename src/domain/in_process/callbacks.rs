//! Callbacks of WebSockets.

use super::{Executor, InProcessModule};
use crate::abi::guard;
use crate::abi::module_calls::{self, SocketCall, SocketOutcome};
use crate::abi::websocket::{self, Socket};
use crate::domain::call::{GenerationRef, Handshake, SocketEvent};
use crate::proto::http1::{Head, RequestView};
use crate::proto::ws::Kind;

impl Executor {
    /// Runs the callbacks of one WebSocket for a batch of events.
    pub fn socket(&mut self, hold: &dyn GenerationRef, socket: &Socket, index: usize, events: Vec<SocketEvent>) {
        if let Some(module) = hold.instance().as_any().downcast_ref::<InProcessModule>() {
            self.callbacks(module, socket, index, events);
        }
    }

    /// Runs the callbacks of one WebSocket of `module` for a batch of events.
    pub(in crate::domain) fn callbacks(
        &mut self,
        module: &InProcessModule,
        socket: &Socket,
        index: usize,
        events: Vec<SocketEvent>,
    ) {
        let Some(callbacks) = module.open.symbols.websockets.get(index) else { return };
        let (context, ws) = (&module.context, socket.as_ptr());
        for event in events {
            let mut handling = None;
            let (callback, call) = match event {
                SocketEvent::Open { handshake } => {
                    self.opened(module, socket, index, &handshake.unwrap_or_default());
                    continue;
                }
                SocketEvent::Message { kind, payload, deflated } => {
                    let payload = if deflated { self.inflated(socket, kind, &payload) } else { Some(payload) };
                    let Some(payload) = payload.filter(|_| !socket.has_failed()) else { continue };
                    handling = Some(socket.handle(kind));
                    ("on_message", SocketCall::Message(callbacks.on_message, payload))
                }
                SocketEvent::Close => ("on_close", SocketCall::Close(callbacks.on_close)),
            };
            // SAFETY: the caller keeps the module open, and `socket` alive.
            let outcome = module
                .calling(|| unsafe { module_calls::call_socket(call, context, ws) }, |outcome| outcome.result.is_err());
            drop(handling);
            module.called_back(callback, &outcome);
        }
    }

    /// Expands a message; `None`: it can't be expanded, so the socket is closed with the code of the fault.
    fn inflated(&mut self, socket: &Socket, kind: Kind, payload: &[u8]) -> Option<Vec<u8>> {
        if socket.has_failed() {
            return None;
        }
        let message = self.inflater.get_or_insert_default().message(kind, payload, websocket::message_bytes_max());
        message.map_err(|code| socket.fail(code)).ok()
    }

    /// Runs `on_open`, with the request that opened the socket.
    fn opened(&mut self, module: &InProcessModule, socket: &Socket, index: usize, handshake: &Handshake) {
        let on_open = module.open.symbols.websockets.get(index).and_then(|callbacks| callbacks.on_open);
        let Some(path) = module.paths.get(module.open.manifest.routes.len() + index) else { return };
        if on_open.is_none() {
            return;
        }
        let mut head = Head::default();
        let bytes = head.unpack(&handshake.head);
        let is_known = bytes.is_some();
        let bytes = bytes.unwrap_or_default();
        let view = RequestView { head: &head, bytes, body: &[], shared: None, peer: handshake.peer };
        // SAFETY: both outlive the call; the frame is boxed, and finished or abandoned below.
        let is_known = is_known && unsafe { self.frame.prepare(&view, path) }.is_some();
        let (context, ws) = (&module.context, socket.as_ptr());
        let call = SocketCall::Open(on_open, is_known.then_some(&mut *self.frame));
        // SAFETY: the caller keeps the module open, and `socket` alive.
        let outcome = module
            .calling(|| unsafe { module_calls::call_socket(call, context, ws) }, |outcome| outcome.result.is_err());
        module.called_back("on_open", &outcome);
        if is_known {
            self.end_opening(module, outcome.result.is_err());
        }
    }

    /// Releases the memory of the request that `on_open` got.
    fn end_opening(&mut self, module: &InProcessModule, mut has_failed: bool) {
        let frame = &mut *self.frame;
        if frame.has_deferred()
            && let Err(trap) = module.calling(|| frame.run_deferred(), Result::is_err)
        {
            has_failed = true;
            module.failed_in("a deferred function of on_open", trap);
        }
        if !has_failed
            && let Some(given) = frame.given()
            && let Err(trap) = module.attributed(|| frame.release(given))
        {
            has_failed = true;
            module.failed_in("the memory of the request of on_open", trap);
        }
        if has_failed {
            frame.abandon();
        }
        frame.finish();
    }
}

impl InProcessModule {
    /// Records the end of a callback.
    fn called_back(&self, callback: &str, outcome: &SocketOutcome) {
        self.warn_of(outcome.strange);
        if let Err(trap) = outcome.result {
            match outcome.reading {
                Some(reading) => self.failed_in(&format!("{callback}, {reading}"), trap),
                None => self.failed_in(callback, trap),
            }
        }
    }

    fn failed_in(&self, place: &str, trap: guard::Trap) {
        let fault = self.fault(trap, place);
        tracing::error!("module {} failed in {place}: {fault}", self.open.manifest.name);
    }
}
