//! The module table: immutable, published whole, read by every shard through its own snapshot.

use super::generation::Serving;
use super::pattern;
use crate::abi::manifest::Manifest;
use crate::domain::Instance;
use foldhash::fast::FixedState;
use regex::bytes::{RegexSet, RegexSetBuilder};
use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

/// The methods a route can have, in the order `Allow` lists them.
const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
const GET: usize = 0;
const HEAD: usize = 1;

/// Memory all patterns of one method may take.
const SET_BYTES_MAX: usize = 64 * 1024 * 1024;

pub(super) fn method_index(method: &str) -> Option<usize> {
    METHODS.iter().position(|known| *known == method)
}

/// A module as the table has it.
#[derive(Clone)]
pub struct Published {
    manifest: Arc<Manifest>,
    hash: String,
    /// The domain it runs in.
    domain: String,
    /// `None` while a swap holds the module's requests.
    serving: Option<Arc<Serving>>,
}

impl Published {
    pub(super) fn new(manifest: Arc<Manifest>, hash: String, domain: String, serving: Option<Arc<Serving>>) -> Self {
        Self { manifest, hash, domain, serving }
    }

    /// The domain it runs in.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// What the module declares.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// SHA-256 of its source.
    #[must_use]
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// What requests hold while they run; `None` while the module is being swapped.
    #[must_use]
    pub fn serving(&self) -> Option<&Arc<Serving>> {
        self.serving.as_ref()
    }

    /// Why it is out of service, if it is.
    #[must_use]
    pub fn quarantine(&self) -> Option<String> {
        self.instance()?.quarantine()
    }

    /// The loaded module.
    #[must_use]
    pub fn instance(&self) -> Option<&Arc<dyn Instance>> {
        self.serving.as_ref().map(|serving| serving.generation().instance())
    }
}

/// Which route answers a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteMatch {
    /// This one.
    Found {
        /// Index into [`Table::modules`].
        module: usize,
        /// Index into the manifest's routes.
        route: usize,
    },
    /// One of a module that is being swapped: wait for the next table.
    Held {
        /// Index into [`Table::modules`].
        module: usize,
    },
    /// The path is served, the method is not.
    MethodNotAllowed {
        /// The value of `Allow` (RFC 9110 §10.2.1).
        allow: String,
    },
    /// No module serves the path.
    NotFound,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Target {
    module: u32,
    route: u32,
}

type Paths<T> = HashMap<Box<[u8]>, T, FixedState>;

/// All patterns of one method, in the order of precedence.
struct Patterns {
    set: RegexSet,
    targets: Vec<Target>,
}

/// A route that is asked when no other one matches.
struct Fallback {
    method: usize,
    regex: Arc<regex::bytes::Regex>,
    /// Bytes of the pattern: one below a prefix is longer than one of all paths.
    pattern_bytes: usize,
    is_final: bool,
    target: Target,
}

/// See the module's documentation.
#[derive(Default)]
pub struct Table {
    modules: Vec<Published>,
    /// Literal paths: the route of each method.
    exact: Paths<[Option<Target>; METHODS.len()]>,
    patterns: [Option<Patterns>; METHODS.len()],
    websockets: Paths<Target>,
    /// In the order in which they are asked.
    fallbacks: Vec<Fallback>,
}

impl Table {
    /// Builds the table of `modules`, which were verified; the first deployed comes first.
    ///
    /// # Errors
    /// The patterns of all modules together are too large.
    pub(super) fn build(modules: Vec<Published>) -> Result<Self, regex::Error> {
        let mut table = Self { modules, ..Self::default() };
        let mut patterns: [Vec<(String, Target)>; METHODS.len()] = Default::default();
        for (module, published) in (0_u32..).zip(&table.modules) {
            for (at, socket) in (0_u32..).zip(&published.manifest.websockets) {
                let target = Target { module, route: at };
                table.websockets.entry(socket.path.as_bytes().into()).or_insert(target);
            }
            // Within a module the first match wins: a literal behind a pattern that matches it is that pattern's.
            let mut earlier: Vec<(usize, regex::bytes::Regex, Target)> = Vec::new();
            table.fallbacks.extend(fallbacks(module, &published.manifest)?);
            for (at, route) in (0_u32..).zip(&published.manifest.routes) {
                let Some(method) = method_index(&route.method).filter(|_| !route.is_fallback()) else { continue };
                let target = Target { module, route: at };
                if pattern::is_literal(&route.path) {
                    let path = route.path.as_bytes();
                    let shadow = earlier.iter().find(|(of, regex, _)| *of == method && regex.is_match(path));
                    let target = shadow.map_or(target, |(_, _, pattern)| *pattern);
                    if let Some(place) = table.exact.entry(path.into()).or_default().get_mut(method) {
                        place.get_or_insert(target);
                    }
                } else if let Ok(regex) = pattern::translate(&route.path) {
                    earlier.push((method, regex::bytes::Regex::new(&regex)?, target));
                    if let Some(list) = patterns.get_mut(method) {
                        list.push((regex, target));
                    }
                }
            }
        }
        for (place, list) in table.patterns.iter_mut().zip(patterns) {
            if !list.is_empty() {
                let (texts, targets): (Vec<String>, Vec<Target>) = list.into_iter().unzip();
                let set = RegexSetBuilder::new(texts).size_limit(SET_BYTES_MAX).build()?;
                *place = Some(Patterns { set, targets });
            }
        }
        // Below the longest prefix first, then what may decline, then the first deployed: the sort is stable.
        table.fallbacks.sort_by_key(|fallback| (Reverse(fallback.pattern_bytes), fallback.is_final));
        Ok(table)
    }

    /// The modules, the first deployed first.
    #[must_use]
    pub fn modules(&self) -> &[Published] {
        &self.modules
    }

    /// Whether module number `module` is being swapped.
    #[must_use]
    pub fn is_held(&self, module: usize) -> bool {
        self.modules.get(module).is_none_or(|module| module.serving.is_none())
    }

    fn find(&self, method: usize, path: &[u8]) -> Option<Target> {
        if let Some(target) = self.exact.get(path).and_then(|methods| *methods.get(method)?) {
            return Some(target);
        }
        let patterns = self.patterns.get(method)?.as_ref()?;
        // A set reports its matches in the order of its members.
        let first = patterns.set.matches(path).iter().next()?;
        patterns.targets.get(first).copied()
    }

    /// Which route answers `method` (its name) on `path`. HEAD is answered by a GET route if there is none of its own
    /// (RFC 9110 §9.3.2).
    #[must_use]
    pub fn route(&self, method: &str, path: &[u8]) -> RouteMatch {
        let index = method_index(method);
        let found = index.and_then(|index| self.find(index, path));
        let found = found.or_else(|| if index == Some(HEAD) { self.find(GET, path) } else { None });
        let found = found.or_else(|| self.fallbacks_of(index?, path).next());
        let Some(target) = found else { return self.not_found(path) };
        let module = target.module as usize;
        if self.is_held(module) {
            RouteMatch::Held { module }
        } else {
            RouteMatch::Found { module, route: target.route as usize }
        }
    }

    fn fallbacks_of<'a>(&'a self, method: usize, path: &'a [u8]) -> impl Iterator<Item = Target> + 'a {
        let fits = move |fallback: &&Fallback| fallback.method == method && fallback.regex.is_match(path);
        self.fallbacks.iter().filter(fits).map(|fallback| fallback.target)
    }

    /// Which route answers after the fallback route of the module `by` has declined: the next fallback route whose module
    /// is in service, or none.
    #[must_use]
    pub fn after_declined(&self, by: &str, method: &str, path: &[u8]) -> RouteMatch {
        let name_of = |target: &Target| self.modules.get(target.module as usize).map(|module| &*module.manifest.name);
        let mut rest = method_index(method).into_iter().flat_map(|method| self.fallbacks_of(method, path));
        // Removed meanwhile, it is found nowhere, and nobody is asked twice.
        let _ = rest.by_ref().find(|target| name_of(target) == Some(by));
        match rest.find(|target| !self.is_held(target.module as usize)) {
            Some(target) => RouteMatch::Found { module: target.module as usize, route: target.route as usize },
            None => self.not_found(path),
        }
    }

    fn not_found(&self, path: &[u8]) -> RouteMatch {
        let has = |method: usize| self.find(method, path).is_some();
        let mut allow: Vec<&str> = Vec::new();
        for (index, method) in METHODS.iter().enumerate() {
            if has(index) || index == HEAD && has(GET) {
                allow.push(method);
            }
        }
        if allow.is_empty() {
            return RouteMatch::NotFound;
        }
        if !allow.contains(&"OPTIONS") {
            allow.push("OPTIONS"); // Answered by the server itself.
        }
        RouteMatch::MethodNotAllowed { allow: allow.join(", ") }
    }

    /// Module and index of the WebSocket served on `path`.
    #[must_use]
    pub fn websocket(&self, path: &[u8]) -> Option<(usize, usize)> {
        self.websockets.get(path).map(|target| (target.module as usize, target.route as usize))
    }
}

/// The fallback routes of module number `module`.
fn fallbacks(module: u32, manifest: &Manifest) -> Result<Vec<Fallback>, regex::Error> {
    let mut found: Vec<Fallback> = Vec::new();
    // All methods of an app have one pattern.
    let mut last: Option<(&str, Arc<regex::bytes::Regex>)> = None;
    for (at, route) in (0_u32..).zip(&manifest.routes).filter(|(_, route)| route.is_fallback()) {
        let (Some(method), Ok(pattern)) = (method_index(&route.method), pattern::translate(&route.path)) else {
            continue;
        };
        let regex = match &last {
            Some((path, regex)) if *path == route.path => Arc::clone(regex),
            _ => Arc::new(regex::bytes::Regex::new(&pattern)?),
        };
        last = Some((&route.path, Arc::clone(&regex)));
        let target = Target { module, route: at };
        found.push(Fallback { method, regex, pattern_bytes: route.path.len(), is_final: route.is_final(), target });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::manifest::{RouteDecl, WebSocketDecl};
    use proptest::prelude::*;

    fn published(routes: &[(String, String)], sockets: &[&str]) -> Published {
        let route = |(method, path): &(String, String)| RouteDecl {
            path: path.clone(),
            method: method.clone(),
            flags: 0,
            has_handler: true,
            mount: None,
        };
        let manifest = Manifest {
            routes: routes.iter().map(route).collect(),
            websockets: sockets.iter().map(|p| WebSocketDecl { path: (*p).into(), ..Default::default() }).collect(),
            ..Manifest::default()
        };
        Published::new(Arc::new(manifest), String::new(), String::new(), None)
    }

    fn table(modules: &[&[(&str, &str)]]) -> Table {
        let own = |routes: &&[(&str, &str)]| {
            let routes: Vec<_> = routes.iter().map(|(m, p)| ((*m).to_owned(), (*p).to_owned())).collect();
            published(&routes, &["/ws"])
        };
        Table::build(modules.iter().map(own).collect()).unwrap()
    }

    fn target(table: &Table, method: &str, path: &str) -> Option<(u32, u32)> {
        table.find(method_index(method).unwrap(), path.as_bytes()).map(|t| (t.module, t.route))
    }

    #[test]
    fn the_first_match_of_a_module_wins() {
        let table = table(&[&[("GET", "/a"), ("GET", "/[a-z]"), ("GET", "/b"), ("POST", "/b")]]);
        assert_eq!(target(&table, "GET", "/a"), Some((0, 0)));
        assert_eq!(target(&table, "GET", "/b"), Some((0, 1)));
        assert_eq!(target(&table, "POST", "/b"), Some((0, 3)));
        assert_eq!(target(&table, "GET", "/1"), None);
    }

    #[test]
    fn tells_404_from_405_and_serves_head_by_get() {
        let table = table(&[&[("GET", "/a"), ("PUT", "/[ab]")]]);
        assert_eq!(table.route("GET", b"/nope"), RouteMatch::NotFound);
        let allow = |text: &str| RouteMatch::MethodNotAllowed { allow: text.into() };
        assert_eq!(table.route("POST", b"/a"), allow("GET, HEAD, PUT, OPTIONS"));
        assert_eq!(table.route("GET", b"/b"), allow("PUT, OPTIONS"));
        // These modules have no Serving, as if they were being swapped.
        assert_eq!(table.route("HEAD", b"/a"), RouteMatch::Held { module: 0 });
        assert_eq!(table.websocket(b"/ws"), Some((0, 0)));
        assert_eq!(table.websocket(b"/a"), None);
    }

    #[test]
    fn fallback_routes_are_asked_last_and_in_order() {
        let app = |pattern: &str, is_final: bool| {
            let route = |method: &str| RouteDecl {
                path: pattern.into(),
                method: method.into(),
                flags: if is_final { 2 | 8 } else { 2 },
                has_handler: true,
                mount: None,
            };
            let manifest = Manifest { routes: METHODS.iter().map(|m| route(m)).collect(), ..Manifest::default() };
            Published::new(Arc::new(manifest), String::new(), String::new(), None)
        };
        let last = app("/.*", true);
        let plain = published(&[("GET".into(), "/a".into()), ("PUT".into(), "/[bc]".into())], &[]);
        let table = Table::build(vec![last, app("/.*", false), plain, app("/app(/.*)?", false)]).unwrap();
        // These modules have no Serving, as if they were being swapped.
        let asked = |method: &str, path: &str| table.route(method, path.as_bytes());
        assert_eq!(asked("GET", "/a"), RouteMatch::Held { module: 2 });
        assert_eq!(asked("HEAD", "/a"), RouteMatch::Held { module: 2 });
        assert_eq!(asked("POST", "/a"), RouteMatch::Held { module: 1 });
        assert_eq!(asked("GET", "/app/x"), RouteMatch::Held { module: 3 });
        assert_eq!(asked("GET", "/apple"), RouteMatch::Held { module: 1 });
        let in_turn: Vec<u32> = table.fallbacks_of(GET, b"/app").map(|target| target.module).collect();
        assert_eq!(in_turn, [3, 1, 0]);
        let allow = RouteMatch::MethodNotAllowed { allow: "GET, HEAD, OPTIONS".into() };
        assert_eq!(table.after_declined("", "POST", b"/a"), allow, "nobody of the others is in service");
    }

    proptest! {
        #[test]
        fn lookup_equals_a_scan_in_order(
            modules in proptest::collection::vec(proptest::collection::vec(("GET|POST", "/[ab.]{1,3}[*+]?"), 0..6), 1..4),
            path in "/[ab]{0,4}",
        ) {
            // Literals of different modules that other modules' patterns match are refused before a table is built.
            let only = &modules[0];
            let table = Table::build(vec![published(only, &[])]).unwrap();
            for method in ["GET", "POST"] {
                let naive = only.iter().position(|(of, pattern)| {
                    of == method && regex::bytes::Regex::new(&pattern::translate(pattern).unwrap()).unwrap().is_match(path.as_bytes())
                });
                prop_assert_eq!(target(&table, method, &path), naive.map(|route| (0, route as u32)));
            }
        }
    }
}
