//! Services that the modules of a process share: each other's symbols, the scheduler, events.

use super::{Caught, InProcess, InProcessModule, fault_of, report};
use crate::abi::context::ModuleContext;
use crate::abi::{events, guard};
use crate::domain::{Instance, output, running};
use std::any::Any;
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, PoisonError, RwLock, Weak};

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
    pub(super) fn number(&self, module: &str) -> u64 {
        let modules = self.modules.read().unwrap_or_else(PoisonError::into_inner);
        modules.get(module).and_then(Weak::upgrade).map_or(0, |module| module.number)
    }
}

impl InProcess {
    /// Sets the modules whose symbols other modules can resolve from now on.
    pub fn published<'a>(&self, instances: impl Iterator<Item = &'a Arc<dyn Instance>>) {
        let named = instances.filter_map(|instance| {
            let any: Arc<dyn Any + Send + Sync> = Arc::clone(instance) as _;
            let module = any.downcast::<InProcessModule>().ok()?;
            Some((module.manifest().name.clone(), Arc::downgrade(&module)))
        });
        *self.symbols.modules.write().unwrap_or_else(PoisonError::into_inner) = named.collect();
    }
}

/// Runs work that the module `name` gave to the scheduler.
pub(super) fn run_work(number: u64, name: &str, work: &mut dyn FnMut() -> Result<(), guard::Trap>) {
    if let Err(trap) = running::during(number, || output::attributed(name, work)) {
        report(&Caught { number, trap, place: "scheduled work" });
        tracing::error!("module {name} failed in scheduled work: {}", fault_of(trap));
    }
}

/// Runs the callback of one of `owner`'s events.
pub(super) fn run_callback(
    context: &ModuleContext,
    owner: &events::Owner,
    callback: &mut dyn FnMut() -> Result<(), guard::Trap>,
) {
    let (number, name) = (owner.number, owner.name.as_str());
    if let Err(trap) = running::during(number, || output::attributed(name, callback)) {
        context.release_after_fault();
        report(&Caught { number, trap, place: "the callback of an event" });
        tracing::error!("module {name} failed in the callback of an event: {}", fault_of(trap));
    }
}
