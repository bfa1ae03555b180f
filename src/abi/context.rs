//! `cweb_context_t`: the services that all modules of a process share.

use super::guard::Trap;
use super::native::{self, RawCall, RawModule, RawRows, Services, WorkFn};
use super::types::Context;
use super::uncancelled::Uncancelled;
use super::work_ticket::{work_admit, work_drop};
use super::{crypto, guard, host, worker};
use crate::jobs::store::{Key, Table, TableQuery};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::OnceLock;

/// Finds the address of a module's symbol; the arguments are module and symbol.
pub type Resolve = Box<dyn Fn(&str, &str) -> *mut c_void + Send + Sync>;

/// Runs the given work on behalf of the named module, and records a fault.
pub type RunWork = Box<dyn Fn(&str, &mut dyn FnMut() -> Result<(), Trap>) + Send + Sync>;

/// Fetches a page of the tables of jobs for a module, on the module's thread.
pub type Rows = Box<dyn Fn(&TableQuery) -> Result<String, String> + Send + Sync>;

/// The functions that the C side calls.
struct Callbacks {
    rows: Option<Rows>,
    resolve: Resolve,
    run_work: RunWork,
    context: OnceLock<ContextPtr>,
}

struct ContextPtr(NonNull<Context>);
// SAFETY: as for ModuleContext: the context's parts lock for themselves.
unsafe impl Send for ContextPtr {}
// SAFETY: as above.
unsafe impl Sync for ContextPtr {}

/// Longest name of a module or symbol that is looked up.
const NAME_BYTES_MAX: usize = 512;

/// Bytes of `module_t.name`.
const MODULE_NAME_BYTES: usize = 128;

/// A context: that of the process, or that of one module. The first exists as long as the process; the calls of the
/// second have their own connections to the database.
pub struct ModuleContext {
    raw: NonNull<Context>,
    module: Option<NonNull<RawModule>>,
}

// SAFETY: the context is made for concurrent use by any number of module threads: its parts have their own locks.
unsafe impl Send for ModuleContext {}
// SAFETY: as above.
unsafe impl Sync for ModuleContext {}

impl ModuleContext {
    /// Creates the context, with the modules' database at `database`; modules also read the tables of jobs there, if there
    /// are `rows`. If the database can't be opened, that is logged and its functions fail: modules without a database still work.
    ///
    /// # Errors
    /// Memory or threads ran out.
    pub fn create(database: &Path, rows: Option<Rows>, resolve: Resolve, run_work: RunWork) -> io::Result<Self> {
        let path = CString::new(database.as_os_str().as_bytes())?;
        let serve_rows = rows.is_some().then_some(serve_rows as native::RowsFn);
        // The callbacks and the context live as long as the process.
        let callbacks: &Callbacks =
            Box::leak(Box::new(Callbacks { rows, resolve, run_work, context: OnceLock::new() }));
        let user = std::ptr::from_ref(callbacks).cast_mut().cast::<c_void>();
        let services = Box::leak(Box::new(Services {
            host: host::table().cast(),
            user,
            resolve: resolve_symbol,
            work_admit,
            work_run,
            work_drop,
            rows: serve_rows,
            crypto_loaded: c_int::from(crypto::is_loaded()),
            warn,
        }));
        let mut error: [c_char; 512] = [0; 512];
        // SAFETY: `path` is a C string, `services` lives for ever, `error` has the size given.
        let raw = unsafe { native::cwebn_context_create(path.as_ptr(), services, error.as_mut_ptr(), error.len()) };
        // SAFETY: written by cwebn_context_create as a C string, or all zero.
        let error = unsafe { CStr::from_ptr(error.as_ptr()) }.to_string_lossy();
        let raw = NonNull::new(raw).ok_or_else(|| io::Error::other(error.clone().into_owned()))?;
        let _ = callbacks.context.set(ContextPtr(raw));
        if !error.is_empty() {
            tracing::warn!("modules have no database: {}: {error}", database.display());
        }
        Ok(Self { raw, module: None })
    }

    /// The context of the module `name`; `code` is an address in its code. The context must be dropped before the module is
    /// closed, when no call of the module can come any more. `None`: memory has run out.
    #[must_use]
    pub fn for_module(&self, name: &str, code: usize) -> Option<Self> {
        let name = CString::new(name).ok()?;
        // SAFETY: the context is alive, `name` is a C string, and any address may be asked about.
        let module = unsafe { native::cwebn_module_open(self.raw.as_ptr(), name.as_ptr(), code as *const c_void) };
        Some(Self { raw: self.raw, module: Some(NonNull::new(module)?) })
    }

    /// Runs `body`, which makes one call of this module. Afterwards the module's open transactions are rolled back and its
    /// statements reset. State that an `is_hook` call creates on its connection is available to the module's other calls.
    /// `faulted` returns whether the module's code did not return.
    pub fn call<T>(&self, is_hook: bool, body: impl FnOnce() -> T, faulted: impl FnOnce(&T) -> bool) -> T {
        let Some(module) = self.module else { return body() };
        let mut call = RawCall::NONE;
        // SAFETY: the module is open, and `call` stays where it is until the end; `body` does not unwind.
        unsafe { native::cwebn_call_begin(module.as_ptr(), &raw mut call, c_int::from(is_hook)) };
        let outcome = body();
        // SAFETY: as above, on the same thread.
        unsafe { native::cwebn_call_end(&raw mut call, c_int::from(faulted(&outcome))) };
        outcome
    }

    /// Marks this process as one that runs single calls. Takes each lock of the services once: a lock that another thread held at
    /// the fork is held for ever, and this call must detect that now.
    pub fn enter_worker(&self) {
        // SAFETY: the context is alive.
        unsafe { native::cwebn_worker_enter(self.as_ptr()) };
        worker::set_on();
    }

    /// Closes connections that no pointer can lead to: no call of the module comes any more, although its code may stay.
    pub fn retire(&self) {
        if let Some(module) = self.module {
            // SAFETY: the module is open.
            unsafe { native::cwebn_module_retire(module.as_ptr()) };
        }
    }

    /// The pointer for calls into modules, within [`Self::call`].
    pub(super) fn as_ptr(&self) -> *mut Context {
        match self.module {
            // SAFETY: the module is open.
            Some(module) => unsafe { native::cwebn_call_context(module.as_ptr()) },
            None => self.raw.as_ptr(),
        }
    }

    /// Whether scheduled work is waiting or running.
    #[must_use]
    pub fn has_work(&self) -> bool {
        // SAFETY: the context is alive.
        unsafe { native::cwebn_context_pending(self.raw.as_ptr()) != 0 }
    }

    /// Releases locks of the services that a fault has left held by this thread.
    pub fn release_after_fault(&self) {
        // SAFETY: the context is alive; the function releases only what this thread holds.
        unsafe { native::cwebn_context_after_fault(self.raw.as_ptr()) };
    }
}

impl Drop for ModuleContext {
    fn drop(&mut self) {
        if let Some(module) = self.module {
            // SAFETY: opened by `for_module` and closed once; by its contract the module is in no call and still mapped.
            unsafe { native::cwebn_module_close(module.as_ptr()) };
        }
    }
}

/// # Safety
/// Both texts are C strings.
unsafe extern "C" fn warn(_user: *mut c_void, module: *const c_char, text: *const c_char) {
    // SAFETY: the caller's contract.
    let (module, text) = unsafe { (CStr::from_ptr(module), CStr::from_ptr(text)) };
    tracing::warn!("module {}: {}", module.to_string_lossy(), text.to_string_lossy());
}

/// # Safety
/// `user` is the `Callbacks` of `create`; the names are C strings by the contract of `struct symbols`.
unsafe extern "C" fn resolve_symbol(user: *mut c_void, module: *const c_char, symbol: *const c_char) -> *mut c_void {
    if module.is_null() || symbol.is_null() {
        return std::ptr::null_mut();
    }
    // The names are copied before any lock is taken: a bad pointer makes the guard jump out of this frame.
    let mut names = [[0_u8; NAME_BYTES_MAX]; 2];
    for (copy, name) in names.iter_mut().zip([module, symbol]) {
        // SAFETY: the caller's contract.
        let bytes = unsafe { CStr::from_ptr(name) }.to_bytes();
        match copy.get_mut(..bytes.len()) {
            Some(place) if bytes.len() < NAME_BYTES_MAX => place.copy_from_slice(bytes),
            _ => return std::ptr::null_mut(),
        }
    }
    let text = |name: &'static str, bytes: &[u8; NAME_BYTES_MAX]| {
        CStr::from_bytes_until_nul(bytes).ok().and_then(|text| text.to_str().ok()).unwrap_or(name).to_owned()
    };
    let [module, symbol] = &names;
    // SAFETY: the caller's contract; the callbacks live for ever.
    let callbacks = unsafe { &*user.cast::<Callbacks>() };
    (callbacks.resolve)(&text("", module), &text("", symbol))
}

/// # Safety
/// `user` is the `Callbacks` of `create`; `wanted` is whole, its text NULL or a C string; `length` is writable.
unsafe extern "C" fn serve_rows(user: *mut c_void, wanted: *const RawRows, length: *mut usize) -> *mut c_char {
    let _uncancelled = Uncancelled::begin();
    // SAFETY: the caller's contract; the callbacks live for ever.
    let (callbacks, wanted) = unsafe { (&*user.cast::<Callbacks>(), &*wanted) };
    // SAFETY: the caller's contract.
    let text = (!wanted.text.is_null()).then(|| unsafe { CStr::from_ptr(wanted.text) }.to_string_lossy().into_owned());
    let query = TableQuery {
        table: if wanted.table == 0 { Table::Jobs } else { Table::Events },
        equal: usize::try_from(wanted.column)
            .ok()
            .map(|column| (column, text.map_or(Key::Number(wanted.number), Key::Text))),
        after: wanted.after,
        before: wanted.before,
        columns: wanted.columns,
        descending: wanted.descending != 0,
    };
    let page = match callbacks.rows.as_ref().map(|rows| rows(&query)) {
        Some(Ok(page)) => page,
        Some(Err(error)) => {
            tracing::warn!("the tables of jobs can't be read by modules: {error}");
            return std::ptr::null_mut();
        }
        None => return std::ptr::null_mut(),
    };
    // SAFETY: the memory has as many bytes as are copied; `length` is writable by the caller's contract.
    unsafe {
        let memory = libc::malloc(page.len().max(1)).cast::<c_char>();
        if !memory.is_null() {
            std::ptr::copy_nonoverlapping(page.as_ptr().cast(), memory, page.len());
            *length = page.len();
        }
        memory
    }
}

unsafe extern "C" fn work_run(user: *mut c_void, work: WorkFn, data: *mut c_void, ticket: *mut c_void) {
    // SAFETY: the callbacks live for ever; `ticket` is NULL or the handle of an object that has a `config`, which the
    // loader checked to be a module_t with a terminated name.
    let (callbacks, name) = unsafe { (&*user.cast::<Callbacks>(), module_name(ticket)) };
    (callbacks.run_work)(&name, &mut || {
        let outcome = work_call(work, data);
        if let (Err(_), Some(context)) = (&outcome, callbacks.context.get()) {
            // SAFETY: the context is alive; the function releases only what this thread holds.
            unsafe { native::cwebn_context_after_fault(context.0.as_ptr()) };
        }
        outcome
    });
    // SAFETY: `ticket` is from `work_admit` and released once.
    unsafe { work_drop(user, ticket) };
}

/// Calls a work, as one call of the module that contains it.
fn work_call(work: WorkFn, data: *mut c_void) -> Result<(), Trap> {
    // SAFETY: any address may be asked about.
    let module = unsafe { native::cwebn_module_of(work as *const c_void) };
    if module.is_null() {
        return guard::call_work(work, data);
    }
    let mut call = RawCall::NONE;
    // SAFETY: the new reference keeps `module` alive; `call` does not move; all steps run on one thread.
    unsafe { native::cwebn_call_begin(module, &raw mut call, 0) };
    let outcome = guard::call_work(work, data);
    // SAFETY: as above; the reference is given back once.
    unsafe {
        native::cwebn_call_end(&raw mut call, c_int::from(outcome.is_err()));
        native::cwebn_module_release(module);
    }
    outcome
}

/// The name of the module whose shared object `ticket` holds.
///
/// # Safety
/// `ticket` is NULL or a handle of dlopen; the object's `config`, if it has one, is a `module_t`.
unsafe fn module_name(ticket: *mut c_void) -> String {
    if ticket.is_null() {
        return "?".to_owned();
    }
    // SAFETY: the caller's contract; `name` is the first field of module_t, 128 bytes with a NUL.
    unsafe {
        let config = libc::dlsym(ticket, c"config".as_ptr());
        let name = config.cast::<[u8; MODULE_NAME_BYTES]>().as_ref();
        let name = name.and_then(|bytes| CStr::from_bytes_until_nul(bytes).ok());
        name.map_or_else(|| "?".to_owned(), |name| name.to_string_lossy().into_owned())
    }
}
