//! Modules in the server's own process (`--isolation none`).
//!
//! The fastest way to run them, for code that is trusted: a fault is caught by the guard of the C trampoline and
//! answered 500, but a module that scribbles over memory scribbles over the server's.

use super::call::{AnswerMeta, Call, Hold, SocketEvent, Work};
use super::executor::Runner;
use super::inbox::Message;
use super::{DEFAULT_DOMAIN, Fault, Host, Instance, LoadError, check_domain_name, inspect, output, running};
use crate::abi::context::{JobTables, ModuleContext};
use crate::abi::frame::{CallFrame, HandlerAnswer};
use crate::abi::guard::{self, ThreadGuard};
use crate::abi::job;
use crate::abi::manifest::Manifest;
use crate::abi::module::{self, OpenError, OpenModule};
use crate::abi::types::{Callee, HookFn};
use crate::abi::websocket::Socket;
use crate::jobs::code::JobCalls;
use crate::proto::http1::{RequestView, ResponseHead, encode_response};
use std::any::Any;
use std::collections::HashMap;
use std::ffi::c_void;
use std::path::Path;
use std::sync::{Arc, OnceLock, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

/// The modules loaded into this process, and the services they share.
pub struct InProcess {
    context: Arc<ModuleContext>,
    symbols: Arc<SymbolTable>,
}

/// Published modules by name, for `ctx->symbols->resolv`.
#[derive(Default)]
pub struct SymbolTable {
    modules: RwLock<HashMap<String, Weak<InProcessModule>>>,
}

impl SymbolTable {
    /// The address of `symbol` in the published module `module`; NULL if there is none.
    #[must_use]
    pub fn resolve(&self, module: &str, symbol: &str) -> *mut c_void {
        let modules = self.modules.read().unwrap_or_else(PoisonError::into_inner);
        let found = modules.get(module).and_then(Weak::upgrade);
        found.map_or(std::ptr::null_mut(), |module| module.open.symbol(symbol))
    }

    /// The number of the published module `module`, or 0.
    fn number(&self, module: &str) -> u64 {
        let modules = self.modules.read().unwrap_or_else(PoisonError::into_inner);
        modules.get(module).and_then(Weak::upgrade).map_or(0, |module| module.number)
    }
}

/// A module loaded into this process.
pub struct InProcessModule {
    open: OpenModule,
    /// What the server calls it, where this process is a domain's; else 0.
    number: u64,
    context: Arc<ModuleContext>,
}

/// Module code that did not return.
pub(super) struct Caught<'a> {
    /// The module's number in [`running`].
    pub(super) number: u64,
    pub(super) trap: guard::Trap,
    /// Which code, for people.
    pub(super) place: &'a str,
}

/// Learns of every fault.
pub(super) type Observer = Box<dyn Fn(&Caught<'_>) + Send + Sync>;

static OBSERVER: OnceLock<Observer> = OnceLock::new();

/// Has `observer` told of every fault from now on, on the thread that it happened on. Only the first call counts.
pub(super) fn observe_faults(observer: Observer) {
    let _ = OBSERVER.set(observer);
}

impl InProcess {
    /// A host whose modules share one context: a cache, a database at `database`, a scheduler. `jobs` is where
    /// modules read the tables of jobs.
    ///
    /// # Errors
    /// The context could not be made; a database that can't be opened is only logged, because modules that use none
    /// still work.
    pub fn start(database: &Path, jobs: Option<JobTables<'_>>) -> std::io::Result<Self> {
        guard::install()?;
        let symbols = Arc::new(SymbolTable::default());
        let (resolve, known) = (Arc::clone(&symbols), Arc::clone(&symbols));
        let context = ModuleContext::create(
            database,
            jobs,
            Box::new(move |module, symbol| resolve.resolve(module, symbol)),
            Box::new(move |name, work| run_work(known.number(name), name, work)),
        )?;
        guard::capture_output(output::sink)?;
        Ok(Self { context: Arc::new(context), symbols })
    }

    /// Makes the executor of the calling thread.
    #[must_use]
    pub fn executor(context: &Arc<ModuleContext>) -> Executor {
        Executor { _guard: ThreadGuard::new(), frame: Box::default(), context: Arc::clone(context) }
    }

    /// The services modules share.
    #[must_use]
    pub fn context(&self) -> &Arc<ModuleContext> {
        &self.context
    }

    /// Names the modules whose symbols others can resolve from now on.
    pub fn published<'a>(&self, instances: impl Iterator<Item = &'a Arc<dyn Instance>>) {
        let named = instances.filter_map(|instance| {
            let any: Arc<dyn Any + Send + Sync> = Arc::clone(instance) as _;
            let module = any.downcast::<InProcessModule>().ok()?;
            Some((module.manifest().name.clone(), Arc::downgrade(&module)))
        });
        *self.symbols.modules.write().unwrap_or_else(PoisonError::into_inner) = named.collect();
    }
}

impl InProcess {
    /// Loads the shared object at `path`, to be known as `number`: see [`Host::load`].
    ///
    /// # Errors
    /// See [`LoadError`].
    pub(super) fn open(&self, path: &Path, number: u64) -> Result<Arc<InProcessModule>, LoadError> {
        let open = running::during(number, || module::open(path)).map_err(|error| match error {
            OpenError::Loader(text) => LoadError::Loader(text),
            OpenError::Manifest(text) => LoadError::Manifest(text),
        })?;
        open.bind();
        Ok(Arc::new(InProcessModule { open, number, context: Arc::clone(&self.context) }))
    }
}

impl Host for InProcess {
    fn inspect(&self, path: &Path, limit: Duration) -> Result<Manifest, LoadError> {
        inspect::inspect(path, limit)
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

impl InProcessModule {
    fn hook(&self, hook: Option<Callee<HookFn>>, place: &str) -> Result<(), Fault> {
        let Some(hook) = hook else { return Ok(()) };
        let _guard = ThreadGuard::new();
        let outcome = self.attributed(|| guard::call_hook(hook, &self.context));
        outcome.map_err(|trap| self.fault(trap, place))
    }

    /// Runs `call`, which is code of this module.
    fn attributed<T>(&self, call: impl FnOnce() -> T) -> T {
        running::during(self.number, || output::attributed(&self.open.manifest.name, call))
    }

    /// Where its shared object begins in memory.
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

/// A trap in words.
pub(super) fn fault_of(trap: guard::Trap) -> Fault {
    match trap {
        guard::Trap::Signal { signal, address, stack_overflow, .. } => Fault::signal(signal, address, stack_overflow),
        guard::Trap::Exit { code } => Fault::exit(code),
    }
}

/// Runs work that module `name` gave the scheduler.
fn run_work(number: u64, name: &str, work: &mut dyn FnMut() -> Result<(), guard::Trap>) {
    if let Err(trap) = running::during(number, || output::attributed(name, work)) {
        report(&Caught { number, trap, place: "scheduled work" });
        tracing::error!("module {name} failed in scheduled work: {}", fault_of(trap));
    }
}

impl Instance for InProcessModule {
    fn manifest(&self) -> &Manifest {
        &self.open.manifest
    }

    fn onload(&self) -> Result<(), Fault> {
        self.hook(self.open.symbols.onload, "onload")
    }

    fn unload(&self) -> Result<(), Fault> {
        self.hook(self.open.symbols.unload, "unload")
    }

    fn run_job(&self, job: usize, uuid: &str, payload: &str, calls: &dyn JobCalls) -> Result<i32, Fault> {
        let run = self.open.symbols.jobs.get(job).and_then(|(run, _)| *run);
        let run = run.ok_or_else(|| Fault { what: "the module has no such job".to_owned() })?;
        let _guard = ThreadGuard::new();
        // SAFETY: `self` keeps the module open.
        let call = || unsafe { job::run(run, &self.context, uuid, payload, calls) };
        self.attributed(call).map_err(|trap| self.fault(trap, "a job"))
    }

    fn cancel_job(&self, job: usize, uuid: &str) -> Result<(), Fault> {
        let Some(cancel) = self.open.symbols.jobs.get(job).and_then(|(_, cancel)| *cancel) else { return Ok(()) };
        let _guard = ThreadGuard::new();
        // SAFETY: `self` keeps the module open.
        let call = || unsafe { job::cancel(cancel, &self.context, uuid) };
        self.attributed(call).map_err(|trap| self.fault(trap, "the cancel callback of a job"))
    }

    fn id(&self) -> u64 {
        self.open.id()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Runs module code on one thread: an executor's, or a shard's own for what is declared inline.
pub struct Executor {
    _guard: ThreadGuard,
    frame: Box<CallFrame>,
    context: Arc<ModuleContext>,
}

impl Executor {
    /// Runs the handler of route number `route` and appends its encoded answer to `out`. Returns how many header fields
    /// were dropped because they could not be sent.
    pub fn request(
        &mut self,
        hold: &dyn Hold,
        route: usize,
        view: &RequestView<'_>,
        meta: &AnswerMeta,
        cors_origin: Option<&str>,
        out: &mut Vec<u8>,
    ) -> u32 {
        let head = |status, body_len| ResponseHead {
            status,
            date: &meta.date,
            keep_alive: meta.keep_alive,
            http_1_0: meta.http_1_0,
            body_len,
            head_only: meta.head_only,
            cors_origin,
            preflight: meta.preflight.as_deref(),
        };
        let plain = [(b"Content-Type".as_slice(), b"text/plain; charset=utf-8".as_slice())];
        let Some(module) = hold.instance().as_any().downcast_ref::<InProcessModule>() else {
            let text = "the module is not loaded in this process\n";
            encode_response(out, &head(500, text.len()), plain.into_iter(), text.as_bytes());
            return 0;
        };
        let name = &module.open.manifest.name;
        let dropped = self.handler(module, route, view, |answer| match answer {
            Ok(answer) => encode_response(out, &head(answer.status, answer.body.len()), answer.headers(), answer.body),
            Err(text) => {
                encode_response(out, &head(500, text.len()), plain.into_iter(), text.as_bytes());
                0
            }
        });
        if dropped > 0 {
            tracing::warn!("module {name}: {dropped} response header(s) with a forbidden character were dropped");
        }
        dropped
    }

    /// Runs the handler of route number `route` of `module`; `take` gets its answer, or why there is none.
    pub(super) fn handler<T>(
        &mut self,
        module: &InProcessModule,
        route: usize,
        view: &RequestView<'_>,
        take: impl FnOnce(Result<HandlerAnswer<'_>, &str>) -> T,
    ) -> T {
        let name = &module.open.manifest.name;
        let Some(handler) = module.open.symbols.routes.get(route).copied().flatten() else {
            return take(Err("the route has no handler\n"));
        };
        let Some((request, response)) = self.frame.prepare(view) else {
            return take(Err("out of memory\n"));
        };
        // SAFETY: the caller keeps the module open, and the pointers come from `prepare` just above.
        let call = || unsafe { guard::call_handler(handler, &self.context, request, response) };
        if let Err(trap) = module.attributed(call) {
            let path = String::from_utf8_lossy(view.path());
            let fault = module.fault(trap, &format!("a handler ({} {path})", view.method().as_str()));
            self.frame.abandon();
            tracing::error!("module {name} failed in a handler ({} {path}): {fault}", view.method().as_str());
            return take(Err(&format!("module {name} failed: {fault}\n")));
        }
        let taken = take(Ok(self.frame.answer()));
        self.frame.release();
        taken
    }

    /// Runs the callbacks of one WebSocket for a batch of events.
    pub fn socket(&mut self, hold: &dyn Hold, socket: &Socket, index: usize, events: Vec<SocketEvent>) {
        if let Some(module) = hold.instance().as_any().downcast_ref::<InProcessModule>() {
            self.callbacks(module, socket, index, events);
        }
    }

    /// Runs the callbacks of one WebSocket of `module` for a batch of events.
    pub(super) fn callbacks(
        &mut self,
        module: &InProcessModule,
        socket: &Socket,
        index: usize,
        events: Vec<SocketEvent>,
    ) {
        let Some(callbacks) = module.open.symbols.websockets.get(index) else { return };
        let name = &module.open.manifest.name;
        let (context, ws) = (&*self.context, socket.as_ptr());
        for event in events {
            // SAFETY: the caller keeps the module open, and `socket` alive.
            let (callback, outcome) = module.attributed(|| unsafe {
                match event {
                    SocketEvent::Open => ("on_open", guard::call_socket(callbacks.on_open, context, ws)),
                    SocketEvent::Message { kind, payload } => {
                        let _handling = socket.handle(kind);
                        ("on_message", guard::call_message(callbacks.on_message, context, ws, payload))
                    }
                    SocketEvent::Close => ("on_close", guard::call_socket(callbacks.on_close, context, ws)),
                }
            });
            if let Err(trap) = outcome {
                let fault = module.fault(trap, callback);
                tracing::error!("module {name} failed in {callback}: {fault}");
            }
        }
    }
}

impl Runner for Executor {
    fn run(&mut self, call: Call) {
        let Call { hold, reply, work } = call;
        let start = Instant::now();
        match work {
            Work::Request { conn, seq, route, request, meta } => {
                let mut bytes = Vec::with_capacity(512);
                let cors = meta.cors_origin.as_deref();
                self.request(&*hold, route, &request.view(), &meta, cors, &mut bytes);
                hold.ran(route, start.elapsed(), bytes.len());
                // Let go of the generation before the client can see the answer: who swaps after it finds it free.
                drop(hold);
                reply.push(Message::Answer { conn, seq, bytes, lent: None });
            }
            Work::Socket { socket, index, events } => {
                let unit = hold.instance().manifest().routes.len() + index;
                let count = u32::try_from(events.len()).unwrap_or(u32::MAX).max(1);
                self.socket(&*hold, &socket, index, events);
                hold.ran(unit, start.elapsed() / count, 0);
                drop(hold);
                reply.push(Message::SocketIdle { socket: socket.key() });
            }
        }
    }
}
