//! Opening a module's shared object and reading its `config`.

mod declared;
pub(super) mod legacy;
mod limits;
mod mounts;

pub use declared::Declared;
pub use limits::source as limits_source;

use super::callbacks::Callbacks;
use super::kept::{self, Kept};
use super::manifest::{APP_FLAGS, Api, JobDecl, Limits, Manifest, RouteDecl, WebSocketDecl};
use super::module_token::ModuleToken;
use super::settings::Settings;
use super::types::{ABI_VERSION, Callee, Context, HandlerFn, HookFn, JobCancelFn, JobRunFn, MessageFn, SocketFn};
use super::{exceptions, host, native};
use std::any::Any;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// `CWEB_NAME_SIZE`
pub const NAME_SIZE: usize = 128;
/// `MAX_ROUTES`
pub const MAX_ROUTES: usize = 64;
/// `MAX_WEBSOCKETS`
pub const MAX_WEBSOCKETS: usize = 64;
/// `MAX_JOBS`
pub const MAX_JOBS: usize = 64;
/// `MAX_MOUNTS`
pub const MAX_MOUNTS: usize = 16;
/// Limit, in bytes, on a path, method or job name read from a module.
const TEXT_BYTES_MAX: usize = 1024;

/// `route_info_t`
#[repr(C)]
pub(super) struct RouteInfo {
    path: *const c_char,
    method: *const c_char,
    handler: Option<HandlerFn>,
    flags: c_int,
    /// Modules may access this field; the server does not read it.
    regex: libc::regex_t,
    regex_compiled: c_int,
}

/// `websocket_info_t`
#[repr(C)]
pub(super) struct WebSocketInfo {
    path: *const c_char,
    on_open: Option<SocketFn>,
    on_message: Option<MessageFn>,
    on_close: Option<SocketFn>,
    flags: c_int,
}

/// `module_t.on_setting`
pub type SettingFn = unsafe extern "C" fn(*mut Context, *const c_char);

/// `job_info_t`
#[repr(C)]
pub(super) struct JobInfo {
    name: *const c_char,
    run: Option<JobRunFn>,
    cancel: Option<JobCancelFn>,
    max_attempts: c_int,
    backoff_ms: c_int,
    timeout_ms: c_int,
    priority: c_int,
    concurrency: c_int,
    schedule: *const c_char,
    timezone: *const c_char,
    schedule_payload: *const c_char,
    schedule_overlap: c_int,
}

/// `mount_info_t`
#[repr(C)]
pub(super) struct MountInfo {
    prefix: *const c_char,
    dir: *const c_char,
}

/// `module_t`
#[repr(C)]
pub(super) struct ModuleT {
    name: [c_char; NAME_SIZE],
    author: [c_char; NAME_SIZE],
    routes: [RouteInfo; MAX_ROUTES],
    size: c_int,
    websockets: [WebSocketInfo; MAX_WEBSOCKETS],
    ws_size: c_int,
    jobs: [JobInfo; MAX_JOBS],
    job_size: c_int,
    onload: Option<HookFn>,
    unload: Option<HookFn>,
    mounts: [MountInfo; MAX_MOUNTS],
    mount_size: c_int,
    on_setting: Option<SettingFn>,
}

/// Size of `module_t` in bytes.
pub const MODULE_BYTES: usize = size_of::<ModuleT>();

/// The size and the field offsets of `module_t` as Rust sees them, in the order of the fields, for the comparison with C.
#[cfg(test)]
pub(super) fn module_layout() -> Vec<(&'static str, usize)> {
    use std::mem::offset_of;
    vec![
        ("module_t", size_of::<ModuleT>()),
        ("module_t.name", offset_of!(ModuleT, name)),
        ("module_t.author", offset_of!(ModuleT, author)),
        ("module_t.routes", offset_of!(ModuleT, routes)),
        ("module_t.size", offset_of!(ModuleT, size)),
        ("module_t.websockets", offset_of!(ModuleT, websockets)),
        ("module_t.ws_size", offset_of!(ModuleT, ws_size)),
        ("module_t.jobs", offset_of!(ModuleT, jobs)),
        ("module_t.job_size", offset_of!(ModuleT, job_size)),
        ("module_t.onload", offset_of!(ModuleT, onload)),
        ("module_t.unload", offset_of!(ModuleT, unload)),
        ("module_t.mounts", offset_of!(ModuleT, mounts)),
        ("module_t.mount_size", offset_of!(ModuleT, mount_size)),
        ("module_t.on_setting", offset_of!(ModuleT, on_setting)),
        ("mount_info_t.dir", offset_of!(MountInfo, dir)),
        ("route_info_t.flags", offset_of!(RouteInfo, flags)),
        ("route_info_t.regex", offset_of!(RouteInfo, regex)),
        ("route_info_t.regex_compiled", offset_of!(RouteInfo, regex_compiled)),
        ("websocket_info_t.on_close", offset_of!(WebSocketInfo, on_close)),
        ("websocket_info_t.flags", offset_of!(WebSocketInfo, flags)),
        ("job_info_t.max_attempts", offset_of!(JobInfo, max_attempts)),
        ("job_info_t.concurrency", offset_of!(JobInfo, concurrency)),
        ("job_info_t.schedule", offset_of!(JobInfo, schedule)),
        ("job_info_t.timezone", offset_of!(JobInfo, timezone)),
        ("job_info_t.schedule_payload", offset_of!(JobInfo, schedule_payload)),
        ("job_info_t.schedule_overlap", offset_of!(JobInfo, schedule_overlap)),
    ]
}

/// Callbacks of one WebSocket path.
#[derive(Debug, Clone, Copy)]
pub struct SocketCallbacks {
    /// `on_open`
    pub on_open: Option<Callee<SocketFn>>,
    /// `on_message`
    pub on_message: Option<Callee<MessageFn>>,
    /// `on_close`
    pub on_close: Option<Callee<SocketFn>>,
}

/// The functions that a module declares, in the order of its manifest.
#[derive(Debug)]
pub struct ModuleSymbols {
    /// Handlers.
    pub routes: Vec<Option<Callee<HandlerFn>>>,
    /// WebSocket callbacks.
    pub websockets: Vec<SocketCallbacks>,
    /// Jobs: run and cancel.
    pub jobs: Vec<(Option<JobRunFn>, Option<JobCancelFn>)>,
    /// `onload`
    pub onload: Option<Callee<HookFn>>,
    /// `unload`
    pub unload: Option<Callee<HookFn>>,
    /// `on_setting`
    pub on_setting: Option<SettingFn>,
}

/// An open shared object. Dropping it closes the object.
#[derive(Debug)]
pub struct OpenModule {
    /// The module's declaration.
    pub manifest: Manifest,
    /// The module's functions: valid while this value lives.
    pub symbols: ModuleSymbols,
    /// Names the module in calls of the host table; its address must not change while the module is open.
    token: Arc<ModuleToken>,
    /// Must end before the library is closed: callbacks must not run in unmapped memory.
    callbacks: Callbacks,
    /// Values that the module's code uses; they must be dropped before the code is unmapped.
    used: OnceLock<Arc<dyn Any + Send + Sync>>,
    /// Taken when this value is dropped.
    library: Option<libloading::os::unix::Library>,
    /// The size of the object's file, in bytes.
    bytes: u64,
    /// The address of the module's `config`.
    config: usize,
}

impl Drop for OpenModule {
    fn drop(&mut self) {
        let Some(library) = self.library.take() else { return };
        self.callbacks.end();
        let used = self.used.take();
        // A module without `used` was only inspected.
        let Some(function) = self.leaves_pointers().filter(|_| used.is_some()) else {
            drop(used);
            return drop(library);
        };
        let name = &self.manifest.name;
        let text = "the code of its old version stays mapped, since it uses a function that keeps pointers to code";
        if self.manifest.has_unload {
            tracing::debug!("module {name}: {text} ({function})");
        } else {
            tracing::warn!(
                "module {name}: {text} ({function}), and it has no unload hook: add one that ends threads, timers, keys \
                 and signal handlers"
            );
        }
        let mut all: Vec<Arc<dyn Any + Send + Sync>> = vec![Arc::clone(&self.token) as _];
        all.extend(used);
        kept::keep(Kept { module: name.clone(), used: all, library, bytes: self.bytes });
    }
}

/// Why a shared object can't be loaded as a module.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The dynamic loader's message.
    #[error("{0}")]
    Loader(String),
    /// The error in the module's `config`.
    #[error("{0}")]
    Manifest(String),
}

/// Opens the shared object at `path` (`RTLD_NOW | RTLD_LOCAL`), which runs its constructors, and reads its `config`.
///
/// # Errors
/// See [`OpenError`].
pub fn open(path: &Path) -> Result<OpenModule, OpenError> {
    use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
    exceptions::watch(path);
    let name = CString::new(path.as_os_str().as_bytes()).map_err(|error| OpenError::Loader(error.to_string()))?;
    // SAFETY: loading a module runs its constructors, which have run in an inspection process before
    // (domain::inspect). An exception that leaves a constructor ends in the C function.
    let handle = unsafe { native::cwebn_open(name.as_ptr(), RTLD_NOW | RTLD_LOCAL) };
    if handle.is_null() {
        return Err(OpenError::Loader(loader_words(path)));
    }
    // SAFETY: a handle of dlopen(3), which only this value closes.
    let library = unsafe { Library::from_raw(handle) };
    exceptions::watch_loaded();
    // SAFETY: the symbol's type is what cweb_host.h declares.
    let abi = unsafe { library.get::<*const u32>(b"cweb_module_abi\0") }
        .map_err(|_| OpenError::Manifest("the module was not compiled with cweb.h: include it, and export a module_t config; cweb new NAME writes such a source".to_owned()))?;
    // SAFETY: the address of a `const uint32_t` in the open library.
    let abi = unsafe { abi.read_unaligned() };
    if abi != ABI_VERSION {
        return Err(OpenError::Manifest(format!(
            "the module was compiled for version {abi} of the module interface; this server has version {ABI_VERSION}"
        )));
    }
    // SAFETY: the symbol's type is what cweb_host.h declares.
    let api = unsafe { library.get::<*const u32>(b"cweb_module_api\0") }.map_err(|_| {
        OpenError::Manifest("the module does not say which parameters its functions have: compile it again".to_owned())
    })?;
    // SAFETY: the address of a `const uint32_t` in the open library.
    let api = unsafe { api.read_unaligned() };
    let api = Api::of(api).ok_or_else(|| {
        OpenError::Manifest(format!(
            "this server does not know the parameters of the module's functions (cweb_module_api is {api})"
        ))
    })?;
    // SAFETY: only the address is taken here.
    let config = unsafe { library.get::<*const c_void>(b"config\0") }.map_err(|_| {
        let text = "the module exports no symbol `config`; end it with: export module_t config = { … }; or, if it was written for the \
                    first generation, name its function in the form: -F function_name=NAME -F route=/PATH";
        OpenError::Manifest(text.to_owned())
    })?;
    let config = config.as_raw_ptr().cast_const();
    let missing = || OpenError::Manifest("the module's symbol `config` has no address".to_owned());
    // SAFETY: the symbol's type is the `module_t` of the headers with which the module was compiled; these headers have set the
    // marker. Nothing in it is trusted beyond its layout. `config` lives as long as the library, which is kept in the value
    // made from it.
    let (mut manifest, symbols) = unsafe {
        match api {
            Api::TwoArguments => legacy::read(config.cast::<legacy::ModuleT>().as_ref().ok_or_else(missing)?)?,
            Api::ThreeArguments | Api::Wafer => read(config.cast::<ModuleT>().as_ref().ok_or_else(missing)?, api)?,
        }
    };
    limits::apply(&library, &mut manifest);
    let address = config as usize;
    let token = Arc::new(ModuleToken::new(manifest.name.clone()));
    let callbacks = Callbacks(token.id);
    let bytes = std::fs::metadata(path).map_or(0, |file| file.len());
    let (used, library) = (OnceLock::new(), Some(library));
    Ok(OpenModule { manifest, symbols, token, callbacks, used, library, bytes, config: address })
}

/// The loader's last message on this thread, without the leading path of the server's own copy.
fn loader_words(path: &Path) -> String {
    // SAFETY: the text of dlerror(3) lives until the thread's next call of the loader, and is copied before.
    let text = unsafe {
        let text = libc::dlerror();
        if text.is_null() { String::new() } else { CStr::from_ptr(text).to_string_lossy().into_owned() }
    };
    text.replace(&format!("{}: ", path.display()), "")
}

impl OpenModule {
    /// Passes the server's table of functions to the module. Must come before any other call into the module. `number` is the
    /// server's number for the module, if this process is a domain's; else 0.
    pub fn bind(&mut self, number: u64) {
        if let Some(token) = Arc::get_mut(&mut self.token) {
            token.number = number;
        }
        type BindFn = unsafe extern "C" fn(*const host::HostTable, *const c_void);
        type BindLegacyFn = unsafe extern "C" fn(*const c_void);
        // SAFETY: the symbol is defined by cweb_host.h with this type in every module of this interface version; table
        // and token outlive the module.
        unsafe {
            let Some(library) = &self.library else { return };
            if let Ok(bind) = library.get::<BindFn>(b"cweb_bind_host\0") {
                bind(host::table(), std::ptr::from_ref(&*self.token).cast());
            }
            // Exists only in a module of an older dialect, whose legacy/cweb.h defines it with this type.
            if let Ok(bind) = library.get::<BindLegacyFn>(b"cweb_bind_legacy\0") {
                bind(native::cwebn_legacy_services());
            }
        }
    }

    /// Replaces the settings that the module reads by `settings`.
    pub fn set_settings(&self, settings: &Settings) {
        self.token.settings.set(settings);
    }

    /// The functions that the module's `config` declares.
    #[must_use]
    pub fn declared(&self) -> Vec<Declared> {
        declared::functions(&self.symbols, self.manifest.api)
    }

    /// Ends the events of this load of the module: no further callback begins; see [`super::events`].
    pub fn end_events(&self) {
        self.callbacks.end();
    }

    /// The token of this load of the module, for its calls of the server.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.token.id
    }

    /// The load address of the shared object; 0 if the loader does not report it.
    #[must_use]
    pub fn base(&self) -> usize {
        // SAFETY: zeroed is a valid Dl_info; dladdr(3) fills it for any address, and reports whether it did.
        unsafe {
            let mut info: libc::Dl_info = std::mem::zeroed();
            let found = libc::dladdr(self.symbol("config\0").cast_const(), &raw mut info);
            if found == 0 { 0 } else { info.dli_fbase as usize }
        }
    }

    /// The address of an exported symbol, NULL if there is none.
    #[must_use]
    pub fn symbol(&self, name: &str) -> *mut c_void {
        // SAFETY: only the address is taken; the modules that share the symbol are responsible for its content.
        let symbol = unsafe { self.library.as_ref().map(|library| library.get::<*mut c_void>(name.as_bytes())) };
        symbol.and_then(Result::ok).map_or(std::ptr::null_mut(), libloading::os::unix::Symbol::as_raw_ptr)
    }

    /// Keeps `used` as long as the module's code may be called, and no longer.
    pub fn set_used(&self, used: Arc<dyn Any + Send + Sync>) {
        let _ = self.used.set(used);
    }

    /// A function that the module imports, and that keeps pointers to code.
    fn leaves_pointers(&self) -> Option<&str> {
        // SAFETY: any address may be asked about; the answer is NULL or a C string of the object, which is mapped.
        unsafe {
            let name = native::cwebn_leaves_pointers(self.config as *const c_void);
            if name.is_null() { None } else { CStr::from_ptr(name).to_str().ok() }
        }
    }
}

fn read(module: &ModuleT, api: Api) -> Result<(Manifest, ModuleSymbols), OpenError> {
    let routes = counted(&module.routes, module.size, "routes", "size", "MAX_ROUTES")?;
    let websockets = counted(&module.websockets, module.ws_size, "websockets", "ws_size", "MAX_WEBSOCKETS")?;
    let jobs = counted(&module.jobs, module.job_size, "jobs", "job_size", "MAX_JOBS")?;
    let mounts = counted(&module.mounts, module.mount_size, "mounts", "mount_size", "MAX_MOUNTS")?;
    // All problems are reported together.
    let mut problems = Vec::new();
    problems.extend(behind(&module.routes, routes.len(), |row| row.path, "routes", "size"));
    problems.extend(behind(&module.websockets, websockets.len(), |row| row.path, "websockets", "ws_size"));
    problems.extend(behind(&module.jobs, jobs.len(), |row| row.name, "jobs", "job_size"));
    problems.extend(behind(&module.mounts, mounts.len(), |row| row.prefix, "mounts", "mount_size"));
    let mut declared: Vec<RouteDecl> =
        routes.iter().enumerate().map(|(at, route)| route_decl(at, route, api, &mut problems)).collect();
    // Mounts come behind the routes, which take precedence.
    declared.extend(mounts.iter().enumerate().map(|(at, mount)| mounts::route(at, mount, &mut problems)));
    let manifest = Manifest {
        name: fixed_text(&module.name, "name")?,
        author: fixed_text(&module.author, "author")?,
        routes: declared,
        websockets: websockets
            .iter()
            .enumerate()
            .map(|(at, socket)| WebSocketDecl {
                path: noted(text(socket.path, &format!("websockets[{at}].path")), &mut problems),
                has_on_open: socket.on_open.is_some(),
                has_on_message: socket.on_message.is_some(),
                has_on_close: socket.on_close.is_some(),
                flags: socket.flags,
            })
            .collect(),
        jobs: jobs.iter().enumerate().map(|(at, job)| job_decl(at, job, &mut problems)).collect(),
        has_onload: module.onload.is_some(),
        has_unload: module.unload.is_some(),
        has_on_setting: module.on_setting.is_some(),
        problems,
        warnings: Vec::new(),
        api,
        limits: Limits::default(),
    };
    let symbols = ModuleSymbols {
        routes: routes.iter().map(|route| route.handler.map(|function| Callee::new(function, api))).collect(),
        websockets: websockets
            .iter()
            .map(|socket| SocketCallbacks {
                on_open: socket.on_open.map(|function| Callee::new(function, api)),
                on_message: socket.on_message.map(|function| Callee::new(function, api)),
                on_close: socket.on_close.map(|function| Callee::new(function, api)),
            })
            .collect(),
        jobs: jobs.iter().map(|job| (job.run, job.cancel)).collect(),
        onload: module.onload.map(|function| Callee::new(function, api)),
        unload: module.unload.map(|function| Callee::new(function, api)),
        on_setting: module.on_setting,
    };
    Ok((manifest, symbols))
}

fn route_decl(at: usize, route: &RouteInfo, api: Api, problems: &mut Vec<String>) -> RouteDecl {
    RouteDecl {
        path: noted(text(route.path, &format!("routes[{at}].path")), problems),
        method: noted(text(route.method, &format!("routes[{at}].method")), problems),
        flags: if api == Api::Wafer { route.flags } else { route.flags & !APP_FLAGS },
        has_handler: route.handler.is_some(),
        mount: None,
        limits: Limits::default(),
    }
}

fn job_decl(at: usize, job: &JobInfo, problems: &mut Vec<String>) -> JobDecl {
    let mut natural = |value: c_int, field: &str| {
        let problem = || OpenError::Manifest(format!("config.jobs[{at}].{field} is negative"));
        noted(u32::try_from(value).map_err(|_| problem()), problems)
    };
    JobDecl {
        max_attempts: natural(job.max_attempts, "max_attempts"),
        backoff_ms: natural(job.backoff_ms, "backoff_ms"),
        timeout_ms: natural(job.timeout_ms, "timeout_ms"),
        priority: job.priority,
        concurrency: natural(job.concurrency, "concurrency"),
        schedule: optional(job.schedule, &format!("jobs[{at}].schedule"), problems),
        timezone: optional(job.timezone, &format!("jobs[{at}].timezone"), problems),
        schedule_payload: optional(job.schedule_payload, &format!("jobs[{at}].schedule_payload"), problems),
        schedule_overlap: job.schedule_overlap != 0,
        name: noted(text(job.name, &format!("jobs[{at}].name")), problems),
        has_run: job.run.is_some(),
        has_cancel: job.cancel.is_some(),
    }
}

/// An optional text.
fn optional(pointer: *const c_char, what: &str, problems: &mut Vec<String>) -> Option<String> {
    (!pointer.is_null()).then(|| noted(text(pointer, what), problems))
}

/// Returns the value; or adds a problem, and returns the default.
fn noted<T: Default>(value: Result<T, OpenError>, problems: &mut Vec<String>) -> T {
    value.unwrap_or_else(|problem| {
        problems.push(problem.to_string());
        T::default()
    })
}

/// Reports filled rows after the `used` ones: the server would never use them.
fn behind<T>(all: &[T], used: usize, key: impl Fn(&T) -> *const c_char, what: &str, field: &str) -> Option<String> {
    let filled = || all.iter().enumerate().filter(|(_, row)| !key(row).is_null());
    let (first, row) = filled().find(|(at, _)| *at >= used)?;
    let shown = text(key(row), what).map_or_else(|_| String::new(), |text| format!(", \"{}\"", text.escape_debug()));
    let (rows, right) = (filled().count(), filled().last().map_or(0, |(at, _)| at + 1));
    Some(format!(
        "config.{field} is {used}, but {rows} {what} are filled in (the first left out is {what}[{first}]{shown}); write \
         .{field} = {right}"
    ))
}

/// The used part of one of the arrays of `module_t`.
fn counted<'a, T>(all: &'a [T], size: c_int, what: &str, field: &str, maximum: &str) -> Result<&'a [T], OpenError> {
    usize::try_from(size).ok().and_then(|size| all.get(..size)).ok_or_else(|| {
        OpenError::Manifest(format!("config.{field} is {size}, but {what} has room for 0 to {} ({maximum})", all.len()))
    })
}

/// A text in an array of fixed size.
fn fixed_text(field: &[c_char], what: &str) -> Result<String, OpenError> {
    // `as`: c_char is i8 here, and the bytes must stay unchanged.
    let bytes: Vec<u8> = field.iter().map(|&c| c as u8).collect();
    let text = CStr::from_bytes_until_nul(&bytes)
        .map_err(|_| OpenError::Manifest(format!("config.{what} is longer than {} bytes", field.len() - 1)))?;
    text.to_str().map(str::to_owned).map_err(|_| OpenError::Manifest(format!("config.{what} is not UTF-8")))
}

/// A text behind a pointer.
fn text(pointer: *const c_char, what: &str) -> Result<String, OpenError> {
    if pointer.is_null() {
        return Err(OpenError::Manifest(format!("config.{what} is NULL")));
    }
    // SAFETY: not NULL; a C string by the module contract. A wild pointer faults in the inspection process, which reads
    // the same fields first.
    let text = unsafe { CStr::from_ptr(pointer) };
    let text = text.to_str().map_err(|_| OpenError::Manifest(format!("config.{what} is not UTF-8")))?;
    if text.len() > TEXT_BYTES_MAX {
        return Err(OpenError::Manifest(format!("config.{what} is longer than {TEXT_BYTES_MAX} bytes")));
    }
    Ok(text.to_owned())
}
