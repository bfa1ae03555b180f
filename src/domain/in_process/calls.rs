//! Calls from shards, run on the executors of this process.

use super::{BUSY, Executor, InProcessModule};
use crate::abi::manifest::RouteDecl;
use crate::domain::call::Task;
use crate::domain::executor::Runner;
use crate::domain::local_call::Call;
use crate::domain::module_message::{Declined, ModuleMessage};
use crate::domain::serial::{Turn, Turns};
use crate::domain::stream::StreamStart;
use crate::domain::stream::call::{Facts, Pipes, Used};
use crate::domain::stream::inbox_uplink::InboxUplink;
use crate::domain::stream::running::Key;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The least duration recorded for a handler that sends its answer itself.
const STREAMED_AT_LEAST: Duration = Duration::from_secs(1);

fn pipes_of(stream: &StreamStart) -> Pipes {
    Pipes {
        up: stream.slot.up().clone(),
        down: stream.slot.down().clone(),
        length: stream.length,
        expects_continue: stream.expects_continue,
    }
}

/// The turns of a call, if calls of its route run one at a time.
fn turns_of(call: &Call) -> Option<Arc<Turns>> {
    let Task::Request { route, .. } = &call.work else { return None };
    call.hold.instance().as_any().downcast_ref::<InProcessModule>()?.turns(*route).map(Arc::clone)
}

/// Answers a call whose turn does not come.
fn refuse(call: Call) {
    let Call { hold, reply, work: Task::Request { conn, seq, meta, .. } } = call else { return };
    let text = format!("module {} is busy: {BUSY}\n", hold.instance().manifest().name);
    let bytes = meta.plain(503, &text);
    drop(hold);
    reply.push(ModuleMessage::Answer { conn, seq, bytes, lent: None });
}

impl Runner for Executor {
    fn run(&mut self, call: Call) {
        let Some(turns) = turns_of(&call) else { return self.call(call) };
        match turns.enter(call) {
            Turn::Now(call) => {
                let mut next = Some(call);
                while let Some(call) = next {
                    self.call(call);
                    next = turns.next();
                }
            }
            Turn::Later => {}
            Turn::Stuck(calls) => calls.into_iter().for_each(refuse),
        }
    }
}

impl Executor {
    fn call(&mut self, call: Call) {
        let Call { hold, reply, work } = call;
        let start = Instant::now();
        match work {
            Task::Request { conn, seq, route, request, meta, stream } => {
                let mut bytes = Vec::with_capacity(512);
                let cors = meta.cors_origin.as_deref();
                let view = request.view();
                let call = stream.as_ref().map(|stream| &stream.slot);
                let uplink = InboxUplink { inbox: &reply, conn, seq, meta: &meta, call };
                let mut facts = Facts {
                    key: Key(Arc::as_ptr(&reply).addr() as u64, conn.number()),
                    module: &hold.instance().manifest().name,
                    uplink: &uplink,
                    view: &view,
                    start,
                    compresses: hold.instance().manifest().routes.get(route).is_some_and(RouteDecl::may_compress),
                    is_handshake: meta.switching.is_some(),
                    limit_ms: hold.instance().manifest().routes.get(route).and_then(RouteDecl::timeout_ms),
                    stream: stream.as_deref().map(pipes_of),
                };
                let (used, _) = self.request_with(&*hold, route, &view, &meta, cors, Some(&mut facts), &mut bytes);
                // A handler that sends its answer itself waits for its client, so it must not run on a companion.
                let elapsed =
                    if used == Used::Whole { start.elapsed() } else { start.elapsed().max(STREAMED_AT_LEAST) };
                hold.ran(route, elapsed, bytes.len());
                if used != Used::Whole && bytes.is_empty() {
                    drop(hold);
                    return reply.push(ModuleMessage::StreamReturned { conn, seq });
                }
                if bytes.is_empty() {
                    let by = hold.instance().manifest().name.clone();
                    drop(hold);
                    return reply.push(ModuleMessage::Declined(Box::new(Declined { by, conn, seq, request, meta })));
                }
                // The generation is released before the client can see the answer, so that a swap after the answer finds it
                // free.
                drop(hold);
                reply.push(ModuleMessage::Answer { conn, seq, bytes, lent: self.take_attached() });
            }
            Task::Socket { socket, index, events } => {
                let unit = hold.instance().manifest().routes.len() + index;
                let count = u32::try_from(events.len()).unwrap_or(u32::MAX).max(1);
                self.socket(&*hold, &socket, index, events);
                hold.ran(unit, start.elapsed() / count, 0);
                drop(hold);
                reply.push(ModuleMessage::SocketIdle { socket: socket.key() });
            }
        }
    }
}
