//! Modules in the server's own process (`--isolation none`).
//!
//! This mode is the fastest, for trusted code. The guard of the C trampoline catches a fault, and the client gets 500. A
//! module that overwrites foreign memory, however, can damage the server.

mod callbacks;
mod calls;
mod killable;
mod services;
mod testing;
mod warnings;

pub(in crate::domain) use callbacks::Callback;
pub(in crate::domain) use killable::{WorkerAnswer, Workers};
pub use services::SymbolTable;

use super::call::{AnswerMeta, GenerationRef, failure};
use super::serial::Turns;
use super::stream::call::{CallState, Facts, Used};
use super::stream::detached;
use super::{
    DEFAULT_DOMAIN, Fault, Host, Instance, LoadError, NoAnswer, check_domain_name, compress, fault, files, inspect,
    output, running,
};
use crate::abi::context::{ModuleContext, Rows};
use crate::abi::events;
use crate::abi::exceptions;
use crate::abi::files::mounted;
use crate::abi::frame::{CallFrame, HandlerAnswer};
use crate::abi::guard::{self, ThreadGuard};
use crate::abi::host;
use crate::abi::job;
use crate::abi::manifest::{Manifest, Mount, RouteDecl};
use crate::abi::module::{self, OpenError, OpenModule};
use crate::abi::module_calls;
use crate::abi::request::RoutePath;
use crate::abi::stream::{self, StreamCall};
use crate::abi::types::{Callee, HookFn};
use crate::jobs::code::JobCalls;
use crate::net::Attached;
use crate::proto::http1::{RequestView, ResponseHead, encode_response};
use crate::proto::ws::Inflater;
use services::{run_callback, run_work};
use std::any::Any;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// The modules loaded into this process, and the services they share.
pub struct InProcess {
    context: Arc<ModuleContext>,
    symbols: Arc<SymbolTable>,
}

/// The reason for refusing a call whose turn does not come.
pub(super) const BUSY: &str = "it answers one request at a time, and an earlier request does not end";

/// A module loaded into this process.
pub struct InProcessModule {
    /// Dropped before the module is closed, because its database connections may have functions of the module.
    context: ManuallyDrop<Arc<ModuleContext>>,
    /// The shared object. Closing it runs the module's destructors, which are code of the module.
    open: ManuallyDrop<OpenModule>,
    /// In a domain's process, the server's number for the module; else 0.
    number: u64,
    /// The bits of [`Thing`] for which a warning was logged.
    warned: AtomicU32,
    /// The turns of routes whose calls run one at a time.
    turns: Arc<Turns>,
    /// The paths of the routes, and after them of the WebSockets.
    paths: Vec<RoutePath>,
    /// In a domain's process: runs calls of routes with `CWEB_KILLABLE`.
    workers: OnceLock<Box<dyn Workers>>,
    /// Keeps the module's detached answers going while any version of it is loaded.
    _loaded: detached::Loaded,
}

/// The reason why a call has no answer.
enum Failure {
    Trap(guard::Trap),
    /// The handler's answer can't be sent, for this reason.
    Refused(&'static str),
    /// A function that the handler deferred to the end of the request faulted.
    Deferred(guard::Trap),
}

/// Module code that faulted.
pub(super) struct Caught<'a> {
    /// The module's number in [`running`].
    pub(super) number: u64,
    pub(super) trap: guard::Trap,
    /// The code, for messages.
    pub(super) place: &'a str,
}

/// A callback for faults.
pub(super) type Observer = Box<dyn Fn(&Caught<'_>) + Send + Sync>;

static OBSERVER: OnceLock<Observer> = OnceLock::new();

/// Calls `observer` for every fault from now on, on the faulting thread. Calls after the first have no effect.
pub(super) fn observe_faults(observer: Observer) {
    let _ = OBSERVER.set(observer);
}

impl InProcess {
    /// A host whose modules share one context: a cache, the database at `database`, a scheduler. Modules read the tables of
    /// jobs through `rows`; `None`: there are no such tables.
    ///
    /// # Errors
    /// The context could not be made. A database that can't be opened is only logged, because modules that don't use it
    /// still work.
    pub fn start(database: &Path, rows: Option<Rows>) -> std::io::Result<Self> {
        guard::install()?;
        crate::abi::database::set_aside_if_damaged(database);
        let symbols = Arc::new(SymbolTable::default());
        let (resolve, known) = (Arc::clone(&symbols), Arc::clone(&symbols));
        let context = ModuleContext::create(
            database,
            rows,
            Box::new(move |module, symbol| resolve.resolve(module, symbol)),
            Box::new(move |name, work| run_work(known.number(name), name, work)),
        )?;
        guard::capture_output(output::sink)?;
        host::set_log(output::said);
        let context = Arc::new(context);
        let for_events = Arc::clone(&context);
        events::set_host(events::Host {
            run: Box::new(move |owner, callback| run_callback(&for_events, owner, callback)),
            thread: crate::threads::module_thread,
        });
        stream::set_streams(Box::new(detached::All));
        Ok(Self { context, symbols })
    }

    /// Makes the executor of the calling thread.
    #[must_use]
    pub fn executor() -> Executor {
        let state = CallState::new();
        let frame = CallFrame::new().with_stream(Arc::clone(&state) as Arc<dyn StreamCall>);
        Executor { _guard: ThreadGuard::new(), frame: Box::new(frame), state, attached: None, inflater: None }
    }

    /// The services that modules share.
    #[must_use]
    pub fn context(&self) -> &Arc<ModuleContext> {
        &self.context
    }
}

impl InProcess {
    /// Loads the shared object at `path` under the number `number`: see [`Host::load`].
    ///
    /// # Errors
    /// See [`LoadError`].
    pub(super) fn open(&self, path: &Path, number: u64) -> Result<Arc<InProcessModule>, LoadError> {
        let mut open = running::during(number, || module::open(path)).map_err(|error| match error {
            OpenError::Loader(text) => match fault::exhausted(&text) {
                Some(what) => LoadError::Exhausted { what: what.to_owned(), text },
                None => LoadError::Loader(text),
            },
            OpenError::Manifest(text) => LoadError::Manifest(text),
        })?;
        // This, too, is code of the module, which may end the process.
        running::during(number, || open.bind(number));
        let context = self.context.for_module(&open.manifest.name, open.symbol("config\0") as usize);
        let context = context.ok_or_else(|| LoadError::Host("there is no memory for it".to_owned()))?;
        let context = Arc::new(context);
        open.set_used(Arc::clone(&context) as _);
        let routes = open.manifest.routes.iter().map(|route| route.path.as_str());
        let sockets = open.manifest.websockets.iter().map(|socket| socket.path.as_str());
        let paths = routes.chain(sockets).map(RoutePath::new).collect();
        let (context, open, warned) = (ManuallyDrop::new(context), ManuallyDrop::new(open), AtomicU32::new(0));
        let _loaded = detached::Loaded::new(&open.manifest.name);
        let (turns, workers) = (Arc::default(), OnceLock::new());
        Ok(Arc::new(InProcessModule { context, open, number, warned, turns, paths, workers, _loaded }))
    }
}

impl Host for InProcess {
    fn inspect(&self, path: &Path, preload: &[PathBuf], limit: Duration) -> Result<Manifest, LoadError> {
        inspect::inspect(path, preload, limit)
    }

    fn load(&self, path: &Path, domain: &str) -> Result<Arc<dyn Instance>, LoadError> {
        self.check_domain(domain)?;
        Ok(self.open(path, 0)?)
    }

    fn check_domain(&self, domain: &str) -> Result<(), LoadError> {
        check_domain_name(domain)?;
        if domain == DEFAULT_DOMAIN {
            return Ok(());
        }
        let text = "modules run in the server's own process (--isolation none); domains need --isolation process";
        Err(LoadError::Domain(text.to_owned()))
    }
}

impl Drop for InProcessModule {
    fn drop(&mut self) {
        let name = self.open.manifest.name.clone();
        self.context.retire();
        // SAFETY: only this code drops the two fields, and nothing uses them afterwards. The context is dropped first: the
        // module has its last reference, and must release it before its code is unmapped.
        let close = || unsafe {
            ManuallyDrop::drop(&mut self.context);
            ManuallyDrop::drop(&mut self.open);
        };
        running::during(self.number, || output::attributed(&name, close));
    }
}

impl InProcessModule {
    fn hook(&self, hook: Option<Callee<HookFn>>, place: &str) -> Result<(), Fault> {
        let Some(hook) = hook else { return Ok(()) };
        let _guard = ThreadGuard::new();
        let call = || self.context.call(true, || module_calls::call_hook(hook, &self.context), Result::is_err);
        let outcome = self.attributed(call);
        outcome.map_err(|trap| self.fault(trap, place))
    }

    /// Runs `body`, which is code of this module, under the module's name.
    fn attributed<T>(&self, body: impl FnOnce() -> T) -> T {
        running::during(self.number, || output::attributed(&self.open.manifest.name, body))
    }

    /// Runs `body`, which is one call of this module; `faulted` says whether it faulted.
    fn calling<T>(&self, body: impl FnOnce() -> T, faulted: impl FnOnce(&T) -> bool) -> T {
        self.attributed(|| self.context.call(false, body, faulted))
    }

    /// Whether the handler of route number `route` may decline a request.
    pub(super) fn may_decline(&self, route: usize) -> bool {
        let declines = |route: &RouteDecl| route.is_fallback() && !route.is_inline();
        self.open.manifest.routes.get(route).is_some_and(declines)
    }

    /// Whether route number `route` decides about WebSockets.
    fn is_handshake(&self, route: usize) -> bool {
        self.route(route).is_some_and(RouteDecl::is_handshake)
    }

    /// The directory that route number `route` serves, if it is a mount.
    fn mount(&self, route: usize) -> Option<&Mount> {
        self.route(route)?.mount.as_ref()
    }

    /// The declaration of route number `route`.
    pub(super) fn route(&self, route: usize) -> Option<&RouteDecl> {
        self.open.manifest.routes.get(route)
    }

    /// The turns for calls of route number `route`, if its calls run one at a time.
    pub(super) fn turns(&self, route: usize) -> Option<&Arc<Turns>> {
        self.open.manifest.routes.get(route).filter(|route| route.is_serial()).map(|_| &self.turns)
    }

    /// The address at which the shared object is loaded.
    pub(super) fn base(&self) -> usize {
        self.open.base()
    }

    fn fault(&self, trap: guard::Trap, place: &str) -> Fault {
        self.context.release_after_fault();
        report(&Caught { number: self.number, trap, place });
        fault_of(trap)
    }
}

fn report(caught: &Caught<'_>) {
    if let Some(observer) = OBSERVER.get() {
        observer(caught);
    }
}

/// The description of the last trap of the calling thread.
pub(super) fn fault_of(trap: guard::Trap) -> Fault {
    match trap {
        guard::Trap::Signal { signal, address, stack_overflow, .. } => match exceptions::last() {
            Some(what) if signal == libc::SIGABRT => Fault { what },
            _ => Fault::signal(signal, address, stack_overflow),
        },
        guard::Trap::Exit { code } => Fault::exit(code),
    }
}

impl Instance for InProcessModule {
    fn manifest(&self) -> &Manifest {
        &self.open.manifest
    }

    fn configure(&self, settings: &crate::abi::settings::Settings) -> Result<(), Fault> {
        self.open.set_settings(settings);
        Ok(())
    }

    fn onload(&self) -> Result<(), Fault> {
        self.hook(self.open.symbols.onload, "onload")
    }

    fn unload(&self) -> Result<(), Fault> {
        let outcome = self.hook(self.open.symbols.unload, "unload");
        self.open.end_events();
        outcome
    }

    fn run_job(&self, job: usize, uuid: &str, payload: &str, calls: &dyn JobCalls) -> Result<i32, Fault> {
        let run = self.open.symbols.jobs.get(job).and_then(|(run, _)| *run);
        let run = run.ok_or_else(|| Fault { what: "the module has no such job".to_owned() })?;
        let _guard = ThreadGuard::new();
        // SAFETY: `self` keeps the module open.
        let call = || unsafe { job::run(run, &self.context, uuid, payload, calls) };
        self.calling(call, Result::is_err).map_err(|trap| self.fault(trap, "a job"))
    }

    fn cancel_job(&self, job: usize, uuid: &str) -> Result<(), Fault> {
        let Some(cancel) = self.open.symbols.jobs.get(job).and_then(|(_, cancel)| *cancel) else { return Ok(()) };
        let _guard = ThreadGuard::new();
        // SAFETY: `self` keeps the module open.
        let call = || unsafe { job::cancel(cancel, &self.context, uuid) };
        self.calling(call, Result::is_err).map_err(|trap| self.fault(trap, "the cancel callback of a job"))
    }

    fn setting_changed(&self, key: &str) -> Result<(), Fault> {
        let Some(on_setting) = self.open.symbols.on_setting else { return Ok(()) };
        let _guard = ThreadGuard::new();
        // The function has the type of a job's cancel callback: it takes the context and a text.
        // SAFETY: `self` keeps the module open.
        let call = || unsafe { job::cancel(on_setting, &self.context, key) };
        self.calling(call, Result::is_err).map_err(|trap| self.fault(trap, "on_setting"))
    }

    fn id(&self) -> u64 {
        self.open.id()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Runs module code on one thread: on an executor's, or on a shard's own for inline routes.
pub struct Executor {
    _guard: ThreadGuard,
    frame: Box<CallFrame>,
    state: Arc<CallState>,
    attached: Option<Attached>,
    /// Created for the first compressed message.
    inflater: Option<Box<Inflater>>,
}

impl Drop for Executor {
    fn drop(&mut self) {
        self.state.retire();
    }
}

impl Executor {
    /// Runs the handler of route number `route` and appends its encoded answer to `out`. Appends nothing if the handler
    /// declines the request, or has sent the answer itself. Returns the number of header fields that can't be sent and were
    /// dropped.
    pub fn request(
        &mut self,
        hold: &dyn GenerationRef,
        route: usize,
        view: &RequestView<'_>,
        meta: &AnswerMeta,
        cors_origin: Option<&str>,
        out: &mut Vec<u8>,
    ) -> u32 {
        self.request_with(hold, route, view, meta, cors_origin, None, out).1
    }

    /// Like [`Executor::request`], for a handler that may send its answer itself if there are `facts`. Also returns how the
    /// answer was used.
    #[allow(clippy::too_many_arguments)] // The parts of a call.
    pub(super) fn request_with(
        &mut self,
        hold: &dyn GenerationRef,
        route: usize,
        view: &RequestView<'_>,
        meta: &AnswerMeta,
        cors_origin: Option<&str>,
        facts: Option<&mut Facts<'_>>,
        out: &mut Vec<u8>,
    ) -> (Used, u32) {
        let head = |status, body_len| ResponseHead {
            status,
            date: &meta.date,
            keep_alive: meta.keep_alive,
            http_1_0: meta.http_1_0,
            body_len,
            head_only: meta.head_only,
            cors_origin,
            preflight: meta.preflight.as_deref(),
            switching: meta.switching.as_deref(),
        };
        let plain = [(b"Content-Type".as_slice(), b"text/plain; charset=utf-8".as_slice())];
        let Some(module) = hold.instance().as_any().downcast_ref::<InProcessModule>() else {
            let text = "the module is not loaded in this process\n";
            encode_response(out, &head(500, text.len()), plain.into_iter(), text.as_bytes());
            return (Used::Whole, 0);
        };
        let name = &module.open.manifest.name;
        // An inline handler runs on the shard's own thread, which must not compress.
        let compresses = module.route(route).is_some_and(|route| route.may_compress() && !route.is_inline());
        let (begin, mut dropped, mut attached) = (out.len(), 0, None);
        let result = self.handler(module, route, view, facts, |answer, is_streamed| {
            if is_streamed || answer.is_declined && module.may_decline(route) {
                return;
            }
            let Some(file) = &answer.file else {
                let changed = if compresses { compress::changed(view, &answer) } else { None };
                dropped = match &changed {
                    Some(changed) => changed.encode(out, answer.body, |length| head(answer.status, length)),
                    None => {
                        let head = head(answer.status, answer.body.len());
                        encode_response(out, &head, answer.headers(), answer.body)
                    }
                };
                return;
            };
            let head = head(answer.status, usize::try_from(file.bytes).unwrap_or(usize::MAX));
            dropped = files::encode(out, &head, file, answer.headers());
            attached = head.has_body().then(|| files::attached(file)).flatten();
        });
        self.finish();
        let used = self.finish_stream(result.is_ok());
        if let Err(NoAnswer { status, text }) = result {
            // Memory that can't be freed may be noticed only after the module's answer was encoded.
            out.truncate(begin);
            let text = if status == 500 { failure(&text) } else { text.as_str().into() };
            encode_response(out, &head(status, text.len()), plain.into_iter(), text.as_bytes());
            return (used, 0);
        }
        self.attached = attached;
        if dropped > 0 {
            tracing::warn!("module {name}: {dropped} response header(s) with a forbidden character were dropped");
        }
        (used, dropped)
    }

    /// Returns how the last call has used its answer. A streamed answer is ended properly if the handler `returned` without
    /// an error; otherwise the client can tell that the answer is incomplete.
    pub(super) fn finish_stream(&self, returned: bool) -> Used {
        self.state.finish(returned, self.frame.returned() < 0)
    }

    /// The attached body of the last answer.
    pub fn take_attached(&mut self) -> Option<Attached> {
        self.attached.take()
    }

    /// Runs the handler of route number `route` of `module`. `take` copies its answer, of which only
    /// [`Executor::kept_body`] remains afterwards, and learns whether the handler has sent another answer itself. `take`
    /// may have run even if there is an error. With `facts`, [`Executor::finish_stream`] must follow.
    ///
    /// # Errors
    /// The answer in place of the handler's.
    pub(super) fn handler(
        &mut self,
        module: &InProcessModule,
        route: usize,
        view: &RequestView<'_>,
        facts: Option<&mut Facts<'_>>,
        take: impl FnOnce(HandlerAnswer<'_>, bool),
    ) -> Result<(), NoAnswer> {
        if let Some(workers) = module.workers_of(route) {
            return self.call_elsewhere(workers, route, view, facts, take);
        }
        let decoded = match module.route(route).filter(|route| route.decodes() && !route.is_stream()) {
            Some(route) => {
                compress::decoded(view, compress::body_bytes_max(route)).map_err(|why| NoAnswer::from(why.answer()))?
            }
            None => None,
        };
        let view = &decoded.as_deref().map_or(*view, |body| RequestView { body, shared: None, ..*view });
        if let Some(Mount { prefix, dir }) = module.mount(route) {
            take(HandlerAnswer::of_file(mounted(view, prefix, dir)), false);
            return Ok(());
        }
        let Some(handler) = module.open.symbols.routes.get(route).copied().flatten() else {
            return Err(NoAnswer::failed("the route has no handler\n"));
        };
        let Some(path) = module.paths.get(route) else { return Err(NoAnswer::failed("the route has no path\n")) };
        // SAFETY: both outlive the handler and its deferred functions, and nothing uses them after that. The frame is
        // boxed; the caller finishes it, and a failed call abandons it.
        let Some(pointers) = (unsafe { self.frame.prepare(view, path) }) else {
            return Err(NoAnswer::failed("out of memory\n"));
        };
        let (frame, context) = (&mut *self.frame, &module.context);
        // SAFETY: the caller keeps the module open, and the pointers come from `prepare` just above.
        let call = || unsafe { module_calls::call_handler(handler, context, pointers, (frame, view)) };
        let called = match facts {
            Some(facts) => self.state.during(facts, || module.calling(call, Result::is_err)),
            None => module.calling(call, Result::is_err),
        };
        let mut failure = called.err().map(Failure::Trap);
        let mut is_untouched = false;
        if failure.is_none() {
            match frame.answer() {
                Ok(mut answer) => {
                    is_untouched = answer.is_untouched();
                    let is_streamed = self.state.is_streamed();
                    if is_streamed || answer.is_declined || answer.switches || answer.invalid_status.is_some() {
                        module.warn_of_answer(route, &answer, is_streamed);
                    }
                    if answer.switches && module.is_handshake(route) {
                        answer.status = 200;
                    }
                    take(answer, is_streamed);
                }
                Err(why) => failure = Some(Failure::Refused(why)),
            }
        }
        if frame.has_deferred() {
            if matches!(failure, Some(Failure::Trap(_))) {
                module.context.release_after_fault();
            }
            let ended = module.calling(|| frame.run_deferred(), Result::is_err);
            failure = failure.or(ended.err().map(Failure::Deferred));
        }
        if failure.is_none()
            && let Some(given) = frame.given()
        {
            failure = module.attributed(|| frame.release(given)).err().map(Failure::Trap);
        }
        module.warn_of(frame.strange());
        if let Some(failure) = failure {
            return Err(NoAnswer::failed(self.failed(module, view, failure)));
        }
        // The returned value counts for streamed answers only: include/cweb.h promises to ignore it for all others.
        let has_none =
            is_untouched && module.route(route).is_some_and(RouteDecl::is_stream) && !self.state.is_streamed();
        if has_none && self.frame.returned() < 0 {
            return Err(self.state.answer_to_error().into());
        }
        Ok(())
    }

    /// The body of the last answer, if it lies in the executor's own memory; readable until [`Executor::finish`].
    pub(super) fn kept_body(&self) -> Option<&[u8]> {
        self.frame.kept_body()
    }

    /// Ends the use of the last answer.
    pub(super) fn finish(&mut self) {
        self.frame.finish();
    }

    /// Logs a call without an answer, and returns the reason for the client.
    #[cold]
    fn failed(&mut self, module: &InProcessModule, view: &RequestView<'_>, failure: Failure) -> String {
        let name = &module.open.manifest.name;
        let place = format!("a handler ({} {})", view.method().as_str(), String::from_utf8_lossy(view.path()));
        let (place, what) = match (failure, self.frame.reading()) {
            (Failure::Deferred(trap), _) => {
                let place = format!("a deferred function of {place}");
                let fault = module.fault(trap, &place);
                (place, fault.to_string())
            }
            (Failure::Trap(trap), None) => {
                let fault = module.fault(trap, &place);
                (place, fault.to_string())
            }
            (Failure::Trap(trap), Some(reading)) => {
                let place = format!("the answer of {place}");
                let fault = module.fault(trap, &format!("{place}: {reading}"));
                (place, format!("{reading} ({fault})"))
            }
            (Failure::Refused(why), _) => (format!("the answer of {place}"), why.to_owned()),
        };
        self.frame.abandon();
        tracing::error!("module {name} failed in {place}: {what}");
        format!("module {name} failed: {what}\n")
    }
}
