//! The functions that a module declares, with the number of arguments of each.

use super::{ModuleSymbols, SocketCallbacks};
use crate::abi::manifest::Api;
use crate::abi::types::Callee;
use std::ptr::null_mut;

/// A function in a module's `config`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declared {
    /// The position in `config`: `routes[0].handler`.
    pub place: String,
    /// The function's address.
    pub address: usize,
    /// How many arguments the server passes.
    pub arguments: usize,
}

fn address<F: Copy>(callee: Option<Callee<F>>, of: impl Fn(F) -> usize) -> Option<usize> {
    callee.map(|callee| of(callee.with(null_mut()).0))
}

/// The functions of a module whose functions take the arguments in `api`.
pub(super) fn functions(symbols: &ModuleSymbols, api: Api) -> Vec<Declared> {
    // The context comes first, in modules whose functions take it.
    let context = usize::from(api != Api::TwoArguments);
    let mut found = Vec::new();
    let mut add = |place: String, address: Option<usize>, arguments: usize| {
        found.extend(address.map(|address| Declared { place, address, arguments }));
    };
    for (at, handler) in symbols.routes.iter().enumerate() {
        add(format!("routes[{at}].handler"), address(*handler, |function| function as usize), context + 2);
    }
    for (at, SocketCallbacks { on_open, on_message, on_close }) in symbols.websockets.iter().enumerate() {
        let place = |callback| format!("websockets[{at}].{callback}");
        add(place("on_open"), address(*on_open, |function| function as usize), context + 1);
        add(place("on_message"), address(*on_message, |function| function as usize), context + 3);
        add(place("on_close"), address(*on_close, |function| function as usize), context + 1);
    }
    for (at, (run, cancel)) in symbols.jobs.iter().enumerate() {
        add(format!("jobs[{at}].run"), run.map(|function| function as usize), 3);
        add(format!("jobs[{at}].cancel"), cancel.map(|function| function as usize), 2);
    }
    add("onload".to_owned(), address(symbols.onload, |function| function as usize), context);
    add("on_setting".to_owned(), symbols.on_setting.map(|function| function as usize), 2);
    add("unload".to_owned(), address(symbols.unload, |function| function as usize), context);
    found
}
