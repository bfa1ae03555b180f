//! `config` of modules whose functions take no context: `module_t` in `include/legacy/cweb.h`.

use super::ModuleSymbols;
use super::{MAX_ROUTES, MAX_WEBSOCKETS, NAME_SIZE, OpenError, SocketCallbacks, behind, counted, fixed_text, text};
use crate::abi::manifest::{Api, Manifest, RouteDecl, WebSocketDecl};
use crate::abi::types::{Callee, HandlerFn, HookFn, MessageFn, SocketFn};
use std::ffi::{c_char, c_int};

/// `route_info_t`
#[repr(C)]
struct RouteInfo {
    path: *const c_char,
    method: *const c_char,
    handler: Option<HandlerFn>,
    flags: c_int,
    loaded: c_int,
}

/// `websocket_info_t`
#[repr(C)]
struct WebSocketInfo {
    path: *const c_char,
    on_open: Option<SocketFn>,
    on_message: Option<MessageFn>,
    on_close: Option<SocketFn>,
}

/// `module_t`. The functions have other types than the fields state: a [`Callee`] takes account of that.
#[repr(C)]
pub(super) struct ModuleT {
    name: [c_char; NAME_SIZE],
    author: [c_char; NAME_SIZE],
    routes: [RouteInfo; MAX_ROUTES],
    size: c_int,
    websockets: [WebSocketInfo; MAX_WEBSOCKETS],
    ws_size: c_int,
    onload: Option<HookFn>,
    unload: Option<HookFn>,
}

/// Size and offsets as Rust sees them, for the comparison with C.
#[cfg(test)]
pub(in crate::abi) fn layout() -> Vec<(&'static str, usize)> {
    use std::mem::offset_of;
    vec![
        ("module_t", size_of::<ModuleT>()),
        ("module_t.name", offset_of!(ModuleT, name)),
        ("module_t.author", offset_of!(ModuleT, author)),
        ("module_t.routes", offset_of!(ModuleT, routes)),
        ("module_t.size", offset_of!(ModuleT, size)),
        ("module_t.websockets", offset_of!(ModuleT, websockets)),
        ("module_t.ws_size", offset_of!(ModuleT, ws_size)),
        ("module_t.onload", offset_of!(ModuleT, onload)),
        ("module_t.unload", offset_of!(ModuleT, unload)),
        ("route_info_t", size_of::<RouteInfo>()),
        ("route_info_t.path", offset_of!(RouteInfo, path)),
        ("route_info_t.method", offset_of!(RouteInfo, method)),
        ("route_info_t.handler", offset_of!(RouteInfo, handler)),
        ("route_info_t.flags", offset_of!(RouteInfo, flags)),
        ("route_info_t.loaded", offset_of!(RouteInfo, loaded)),
        ("websocket_info_t", size_of::<WebSocketInfo>()),
        ("websocket_info_t.path", offset_of!(WebSocketInfo, path)),
        ("websocket_info_t.on_open", offset_of!(WebSocketInfo, on_open)),
        ("websocket_info_t.on_message", offset_of!(WebSocketInfo, on_message)),
        ("websocket_info_t.on_close", offset_of!(WebSocketInfo, on_close)),
    ]
}

fn callee<F: Copy>(function: F) -> Callee<F> {
    Callee::new(function, Api::TwoArguments)
}

pub(super) fn read(module: &ModuleT) -> Result<(Manifest, ModuleSymbols), OpenError> {
    let routes = counted(&module.routes, module.size, "routes", "size", "MAX_ROUTES")?;
    let websockets = counted(&module.websockets, module.ws_size, "websockets", "ws_size", "MAX_WEBSOCKETS")?;
    let route = |(at, route): (usize, &RouteInfo)| {
        Ok(RouteDecl {
            path: text(route.path, &format!("routes[{at}].path"))?,
            method: text(route.method, &format!("routes[{at}].method"))?,
            // The older headers have one flag, which is 0.
            flags: 0,
            has_handler: route.handler.is_some(),
            mount: None,
            ..RouteDecl::default()
        })
    };
    let socket = |(at, socket): (usize, &WebSocketInfo)| {
        Ok(WebSocketDecl {
            path: text(socket.path, &format!("websockets[{at}].path"))?,
            has_on_open: socket.on_open.is_some(),
            has_on_message: socket.on_message.is_some(),
            has_on_close: socket.on_close.is_some(),
            flags: 0,
        })
    };
    // A warning and not a refusal: an earlier server has served such a source without these rows.
    let routes_behind = behind(&module.routes, routes.len(), |row| row.path, "routes", "size");
    let sockets_behind = behind(&module.websockets, websockets.len(), |row| row.path, "websockets", "ws_size");
    let manifest = Manifest {
        name: fixed_text(&module.name, "name")?,
        author: fixed_text(&module.author, "author")?,
        routes: routes.iter().enumerate().map(route).collect::<Result<_, OpenError>>()?,
        websockets: websockets.iter().enumerate().map(socket).collect::<Result<_, OpenError>>()?,
        has_onload: module.onload.is_some(),
        has_unload: module.unload.is_some(),
        warnings: routes_behind.into_iter().chain(sockets_behind).collect(),
        api: Api::TwoArguments,
        ..Manifest::default()
    };
    let symbols = ModuleSymbols {
        routes: routes.iter().map(|route| route.handler.map(callee)).collect(),
        websockets: websockets
            .iter()
            .map(|socket| SocketCallbacks {
                on_open: socket.on_open.map(callee),
                on_message: socket.on_message.map(callee),
                on_close: socket.on_close.map(callee),
            })
            .collect(),
        jobs: Vec::new(),
        onload: module.onload.map(callee),
        unload: module.unload.map(callee),
        on_setting: None,
    };
    Ok((manifest, symbols))
}
