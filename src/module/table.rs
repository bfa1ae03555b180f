//! The module table: immutable, published whole; each shard reads its own snapshot.

use super::generation::Serving;
use super::matcher::{Cache, Matcher, Patterns, TooLarge};
use super::pattern;
use crate::abi::manifest::Manifest;
use crate::domain::Instance;
use foldhash::fast::FixedState;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

/// The methods a route can have, in the order `Allow` lists them.
const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
const GET: usize = 0;
const HEAD: usize = 1;

pub(super) fn method_index(method: &str) -> Option<usize> {
    METHODS.iter().position(|known| *known == method)
}

/// A module in the table.
#[derive(Clone)]
pub struct Published {
    manifest: Arc<Manifest>,
    hash: String,
    /// The module's domain.
    domain: String,
    /// `None` while a swap holds the module's requests.
    serving: Option<Arc<Serving>>,
}

impl Published {
    pub(super) fn new(manifest: Arc<Manifest>, hash: String, domain: String, serving: Option<Arc<Serving>>) -> Self {
        Self { manifest, hash, domain, serving }
    }

    /// The module's domain.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The module's manifest.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// SHA-256 of the module's source.
    #[must_use]
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// The reference that requests hold while they run; `None` during a swap.
    #[must_use]
    pub fn serving(&self) -> Option<&Arc<Serving>> {
        self.serving.as_ref()
    }

    /// The reason why the module is in quarantine; `None` if it is not.
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

/// The route that answers a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteMatch {
    /// This route.
    Found {
        /// Index into [`Table::modules`].
        module: usize,
        /// Index into the manifest's routes.
        route: usize,
    },
    /// A route of a module during a swap: the request waits for the next table.
    Held {
        /// Index into [`Table::modules`].
        module: usize,
    },
    /// The path is served, but not with this method.
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

/// A pattern, and the routes with it.
#[derive(Default)]
struct PatternRoutes {
    /// The method, the position among all routes in the order of precedence, and the route.
    routes: Vec<(usize, u32, Target)>,
    /// Indices into [`Table::fallbacks`].
    fallbacks: Vec<u32>,
    /// The position among all WebSocket paths in the order of precedence, and the WebSocket path.
    websockets: Vec<(u32, Target)>,
}

/// The result of matching all patterns against a path.
struct Scan {
    /// The first route of each method.
    routes: [Option<(u32, Target)>; METHODS.len()],
    /// For each method, the index into [`Table::fallbacks`] of the first match.
    fallbacks: [Option<u32>; METHODS.len()],
    /// Whether a mount on `/` matches.
    is_mounted: bool,
}

impl Scan {
    fn route(&self, method: usize) -> Option<Target> {
        self.routes.get(method).copied().flatten().map(|(_, target)| target)
    }
}

/// A route that is asked when no other route matches.
struct Fallback {
    method: usize,
    /// Index into [`Table::patterns`].
    pattern: usize,
    /// The length of the pattern, in bytes: the pattern of a prefix is longer than the pattern of all paths.
    pattern_bytes: usize,
    is_final: bool,
    /// Whether this is a mount on `/`, which answers HEAD like GET and never declines.
    is_mount: bool,
    target: Target,
}

impl Fallback {
    /// The methods that the route answers.
    fn methods(&self) -> impl Iterator<Item = usize> {
        std::iter::once(self.method).chain(self.is_mount.then_some(HEAD))
    }

    /// The rank among patterns of the same length: first routes that may decline, then mounts, then routes that never
    /// decline.
    fn rank(&self) -> u8 {
        if self.is_mount { 1 } else { u8::from(self.is_final) * 2 }
    }
}

/// The module table.
#[derive(Default)]
pub struct Table {
    modules: Vec<Published>,
    /// The routes of literal paths, for each method.
    exact: Paths<[Option<Target>; METHODS.len()]>,
    /// Indexed by the numbers of `matcher`.
    patterns: Vec<PatternRoutes>,
    matcher: Matcher,
    websockets: Paths<Target>,
    /// In the order in which they are asked.
    fallbacks: Vec<Fallback>,
}

impl Table {
    /// Builds the table of `modules`, which must have been verified and be in the order of deployment.
    ///
    /// # Errors
    /// The patterns of a module, of a domain or of all are too large.
    pub(super) fn build(modules: Vec<Published>, cache: &mut Cache) -> Result<Self, TooLarge> {
        let mut table = Self { modules, ..Self::default() };
        let mut numbered = Patterns::default();
        let mut literals: Vec<(usize, u32, Target)> = Vec::new();
        let mut order = 0;
        for (module, published) in (0_u32..).zip(&table.modules) {
            numbered.begin(&published.domain);
            for (at, socket) in (0_u32..).zip(&published.manifest.websockets) {
                let target = Target { module, route: at };
                order += 1;
                if !pattern::is_pattern(&socket.path) {
                    for path in pattern::spellings(&socket.path) {
                        table.websockets.entry(path.into()).or_insert(target);
                    }
                } else if let Some(number) = numbered.number(&socket.path) {
                    table.patterns.resize_with(numbered.sources.len(), PatternRoutes::default);
                    if let Some(pattern) = table.patterns.get_mut(number) {
                        pattern.websockets.push((order, target));
                    }
                }
            }
            for (at, route) in (0_u32..).zip(&published.manifest.routes) {
                order += 1;
                let Some(method) = method_index(&route.method) else { continue };
                let target = Target { module, route: at };
                if !route.is_asked_last() && pattern::is_literal(&route.path) {
                    literals.push((method, order, target));
                } else if let Some(number) = numbered.number(&route.path) {
                    table.patterns.resize_with(numbered.sources.len(), PatternRoutes::default);
                    if route.is_asked_last() {
                        table.fallbacks.push(Fallback {
                            method,
                            pattern: number,
                            pattern_bytes: route.path.len(),
                            is_final: route.is_final(),
                            is_mount: route.is_root_mount(),
                            target,
                        });
                    } else if let Some(pattern) = table.patterns.get_mut(number) {
                        pattern.routes.push((method, order, target));
                    }
                }
            }
        }
        table.matcher = Matcher::build(&numbered.sources, numbered.owned, cache)?;
        for (method, order, target) in literals {
            table.add_literal(method, order, target);
        }
        // The longest prefix comes first, then the rank, then the order of deployment: the sort is stable.
        table.fallbacks.sort_by_key(|fallback| (Reverse(fallback.pattern_bytes), fallback.rank()));
        for (at, fallback) in (0_u32..).zip(&table.fallbacks) {
            if let Some(pattern) = table.patterns.get_mut(fallback.pattern) {
                pattern.fallbacks.push(at);
            }
        }
        Ok(table)
    }

    /// Adds a route with a literal path. Within a module the first match wins: a literal path after a pattern that matches
    /// it is answered by that pattern.
    fn add_literal(&mut self, method: usize, order: u32, target: Target) {
        let route = self.modules.get(target.module as usize).and_then(|m| m.manifest.routes.get(target.route as usize));
        for path in route.map(|route| pattern::spellings(&route.path)).unwrap_or_default() {
            self.add_path(method, order, target, path.into());
        }
    }

    fn add_path(&mut self, method: usize, order: u32, target: Target, path: Box<[u8]>) {
        let mut first = (order, target);
        self.matcher.visit(&path, |number| {
            let routes = self.patterns.get(number as usize).map_or(&[][..], |pattern| &pattern.routes);
            for &(of, earlier, pattern) in routes {
                if of == method && pattern.module == target.module && earlier < first.0 {
                    first = (earlier, pattern);
                }
            }
        });
        if let Some(place) = self.exact.entry(path).or_default().get_mut(method) {
            place.get_or_insert(first.1);
        }
    }

    /// The modules, in the order of deployment.
    #[must_use]
    pub fn modules(&self) -> &[Published] {
        &self.modules
    }

    /// Whether a swap of module number `module` is in progress.
    #[must_use]
    pub fn is_held(&self, module: usize) -> bool {
        self.modules.get(module).is_none_or(|module| module.serving.is_none())
    }

    fn exact(&self, method: usize, path: &[u8]) -> Option<Target> {
        spelled(&self.exact, path).and_then(|methods| *methods.get(method)?)
    }

    /// Matches all patterns against `path`, in one pass.
    fn scan(&self, path: &[u8]) -> Scan {
        let mut scan = Scan { routes: [None; METHODS.len()], fallbacks: [None; METHODS.len()], is_mounted: false };
        self.matcher.visit(path, |number| {
            let Some(pattern) = self.patterns.get(number as usize) else { return };
            for &(method, order, target) in &pattern.routes {
                if let Some(first) = scan.routes.get_mut(method)
                    && first.is_none_or(|(before, _)| order < before)
                {
                    *first = Some((order, target));
                }
            }
            for &at in &pattern.fallbacks {
                let Some(fallback) = self.fallbacks.get(at as usize) else { continue };
                scan.is_mounted |= fallback.is_mount;
                for method in fallback.methods() {
                    if let Some(first) = scan.fallbacks.get_mut(method)
                        && first.is_none_or(|before| at < before)
                    {
                        *first = Some(at);
                    }
                }
            }
        });
        scan
    }

    /// The route that answers `method` (its name) on `path`. If no route answers HEAD, a GET route does (RFC 9110 §9.3.2).
    #[must_use]
    pub fn route(&self, method: &str, path: &[u8]) -> RouteMatch {
        let index = method_index(method);
        if let Some(target) = index.and_then(|index| self.exact(index, path)) {
            return self.found(target);
        }
        let scan = self.scan(path);
        let found = index.and_then(|index| {
            let own = scan.route(index);
            let get = || if index == HEAD { self.exact(GET, path).or_else(|| scan.route(GET)) } else { None };
            own.or_else(get).or_else(|| {
                let first = scan.fallbacks.get(index).copied().flatten()?;
                self.fallbacks.get(first as usize).map(|fallback| fallback.target)
            })
        });
        found.map_or_else(|| self.not_found(path, &scan), |target| self.found(target))
    }

    fn found(&self, target: Target) -> RouteMatch {
        let module = target.module as usize;
        if self.is_held(module) {
            RouteMatch::Held { module }
        } else {
            RouteMatch::Found { module, route: target.route as usize }
        }
    }

    /// All fallback routes that match, in the order in which they are asked.
    fn fallbacks_of(&self, method: usize, path: &[u8]) -> Vec<Target> {
        let mut found: Vec<u32> = Vec::new();
        self.matcher.visit(path, |number| {
            found.extend(self.patterns.get(number as usize).into_iter().flat_map(|pattern| &pattern.fallbacks));
        });
        found.sort_unstable();
        let all = found.into_iter().filter_map(|at| self.fallbacks.get(at as usize));
        all.filter(|fallback| fallback.methods().any(|of| of == method)).map(|fallback| fallback.target).collect()
    }

    /// The route that answers after the fallback route of the module `by` has declined: the next fallback route whose
    /// module is in service, or none.
    #[must_use]
    pub fn after_declined(&self, by: &str, method: &str, path: &[u8]) -> RouteMatch {
        let name_of = |target: &Target| self.modules.get(target.module as usize).map(|module| &*module.manifest.name);
        let mut rest = method_index(method).into_iter().flat_map(|method| self.fallbacks_of(method, path));
        // If `by` was removed meanwhile, this search consumes all routes, so that no route is asked twice.
        let _ = rest.by_ref().find(|target| name_of(target) == Some(by));
        match rest.find(|target| !self.is_held(target.module as usize)) {
            Some(target) => RouteMatch::Found { module: target.module as usize, route: target.route as usize },
            None => self.not_found(path, &self.scan(path)),
        }
    }

    fn not_found(&self, path: &[u8], scan: &Scan) -> RouteMatch {
        let has = |method: usize| {
            let is_mounted = scan.is_mounted && method == GET;
            self.exact(method, path).is_some() || scan.route(method).is_some() || is_mounted
        };
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
            allow.push("OPTIONS"); // The server itself answers OPTIONS.
        }
        RouteMatch::MethodNotAllowed { allow: allow.join(", ") }
    }

    /// The module and the index of the WebSocket on `path`: a literal path wins, then the first pattern that matches.
    #[must_use]
    pub fn websocket(&self, path: &[u8]) -> Option<(usize, usize)> {
        let target = spelled(&self.websockets, path).copied().or_else(|| {
            let mut first: Option<(u32, Target)> = None;
            self.matcher.visit(path, |number| {
                let sockets = self.patterns.get(number as usize).map_or(&[][..], |pattern| &pattern.websockets);
                for &(order, target) in sockets {
                    if first.is_none_or(|(before, _)| order < before) {
                        first = Some((order, target));
                    }
                }
            });
            first.map(|(_, target)| target)
        })?;
        Some((target.module as usize, target.route as usize))
    }
}

/// What `paths` has for `path`, whose bytes beyond ASCII may be percent-encoded in any form.
fn spelled<'p, T>(paths: &'p Paths<T>, path: &[u8]) -> Option<&'p T> {
    paths.get(path).or_else(|| paths.get(&*pattern::in_capitals(path)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::manifest::{Mount, RouteDecl, WebSocketDecl};
    use proptest::prelude::*;

    fn published(routes: &[(String, String)], sockets: &[&str]) -> Published {
        let route = |(method, path): &(String, String)| RouteDecl {
            path: path.clone(),
            method: method.clone(),
            flags: 0,
            has_handler: true,
            mount: None,
            ..RouteDecl::default()
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
        Table::build(modules.iter().map(own).collect(), &mut Cache::default()).unwrap()
    }

    fn target(table: &Table, method: &str, path: &str) -> Option<(u32, u32)> {
        let (method, path) = (method_index(method).unwrap(), path.as_bytes());
        table.exact(method, path).or_else(|| table.scan(path).route(method)).map(|t| (t.module, t.route))
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
    fn segments_with_other_names_are_the_same_pattern() {
        let named: &[(&str, &str)] = &[("GET", "/x/:a"), ("DELETE", "/x/:b"), ("GET", "/x/:c"), ("PUT", "/x/([^/]+)")];
        let table = table(&[named, &[("POST", "/x/:other")]]);
        for (method, route) in [("GET", (0, 0)), ("DELETE", (0, 1)), ("PUT", (0, 3)), ("POST", (1, 0))] {
            assert_eq!(target(&table, method, "/x/1"), Some(route), "{method}");
        }
        let sockets = Table::build(vec![published(&[], &["/w/:a", "/w/:b"])], &mut Cache::default()).unwrap();
        assert_eq!(sockets.websocket(b"/w/1"), Some((0, 0)));
    }

    #[test]
    fn letters_beyond_ascii_match_as_clients_send_them() {
        let table = table(&[&[("GET", "/größe"), ("GET", "/größe/:id"), ("PUT", "/gr.*/x"), ("PUT", "/größe/x")]]);
        let mixed = ["/gr%C3%b6%c3%9Fe", "/grö%c3%9fe"];
        for path in ["/größe", "/gr%C3%B6%C3%9Fe", "/gr%c3%b6%c3%9fe"].into_iter().chain(mixed) {
            assert_eq!(target(&table, "GET", path), Some((0, 0)), "{path}");
            assert_eq!(target(&table, "GET", &format!("{path}/7")), Some((0, 1)), "{path}");
            assert_eq!(target(&table, "PUT", &format!("{path}/x")), Some((0, 2)), "{path}");
        }
        assert_eq!(target(&table, "GET", "/gr%C3%B6sse"), None);
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
                ..RouteDecl::default()
            };
            let manifest = Manifest { routes: METHODS.iter().map(|m| route(m)).collect(), ..Manifest::default() };
            Published::new(Arc::new(manifest), String::new(), String::new(), None)
        };
        let last = app("/.*", true);
        let plain = published(&[("GET".into(), "/a".into()), ("PUT".into(), "/[bc]".into())], &[]);
        let table = Table::build(vec![last, app("/.*", false), plain, app("/app(/.*)?", false)], &mut Cache::default())
            .unwrap();
        // These modules have no Serving, as if they were being swapped.
        let asked = |method: &str, path: &str| table.route(method, path.as_bytes());
        assert_eq!(asked("GET", "/a"), RouteMatch::Held { module: 2 });
        assert_eq!(asked("HEAD", "/a"), RouteMatch::Held { module: 2 });
        assert_eq!(asked("POST", "/a"), RouteMatch::Held { module: 1 });
        assert_eq!(asked("GET", "/app/x"), RouteMatch::Held { module: 3 });
        assert_eq!(asked("GET", "/apple"), RouteMatch::Held { module: 1 });
        let in_turn: Vec<u32> = table.fallbacks_of(GET, b"/app").into_iter().map(|target| target.module).collect();
        assert_eq!(in_turn, [3, 1, 0]);
        let allow = RouteMatch::MethodNotAllowed { allow: "GET, HEAD, OPTIONS".into() };
        assert_eq!(table.after_declined("", "POST", b"/a"), allow, "no other module is in service");
    }

    #[test]
    fn a_mount_on_all_paths_gets_what_routes_of_any_module_leave() {
        let route = |path: &str, flags: i32, prefix: Option<&str>| RouteDecl {
            path: path.into(),
            method: "GET".into(),
            flags,
            has_handler: true,
            mount: prefix.map(|prefix| Mount { prefix: prefix.into(), dir: "static".into() }),
            ..RouteDecl::default()
        };
        let module = |routes: Vec<RouteDecl>| {
            let manifest = Manifest { routes, ..Manifest::default() };
            Published::new(Arc::new(manifest), String::new(), String::new(), None)
        };
        let site = vec![route("/.*", 0, Some("/")), route("/assets(/.*)?", 0, Some("/assets")), route("/own", 0, None)];
        let app = |flags: i32| module(vec![route("/.*", flags, None)]);
        let later = published(&[("GET".into(), "/a".into()), ("POST".into(), "/b/[0-9]".into())], &[]);
        let modules = vec![app(2 | 8), module(site), later, app(2)];
        let table = Table::build(modules, &mut Cache::default()).unwrap();
        // These modules have no Serving, as if they were being swapped.
        let asked = |method: &str, path: &str| table.route(method, path.as_bytes());
        assert_eq!(asked("GET", "/a"), RouteMatch::Held { module: 2 });
        assert_eq!(asked("GET", "/own"), RouteMatch::Held { module: 1 });
        // Routes that may decline come before the mount, routes that never decline after it; C apps have no route for HEAD
        // here.
        let in_turn = |method, path: &[u8]| -> Vec<(u32, u32)> {
            table.fallbacks_of(method, path).into_iter().map(|target| (target.module, target.route)).collect()
        };
        assert_eq!(in_turn(GET, b"/x"), [(3, 0), (1, 0), (0, 0)]);
        assert_eq!(in_turn(HEAD, b"/x"), [(1, 0)]);
        assert_eq!(target(&table, "GET", "/assets/x"), Some((1, 1)), "a narrower mount is a route like any other");
        assert_eq!(asked("HEAD", "/x"), RouteMatch::Held { module: 1 });
        let allow = |text: &str| RouteMatch::MethodNotAllowed { allow: text.into() };
        assert_eq!(asked("POST", "/x"), allow("GET, HEAD, OPTIONS"));
        assert_eq!(asked("PUT", "/b/1"), allow("GET, HEAD, POST, OPTIONS"));
    }

    proptest! {
        #[test]
        fn lookup_equals_a_scan_in_order(
            modules in proptest::collection::vec(proptest::collection::vec(("GET|POST", "/[ab.]{1,3}[*+]?"), 0..6), 1..4),
            path in "/[ab]{0,4}",
        ) {
            // Literal paths that match a pattern of another module are refused before a table is built.
            let only = &modules[0];
            let table = Table::build(vec![published(only, &[])], &mut Cache::default()).unwrap();
            for method in ["GET", "POST"] {
                let naive = only.iter().position(|(of, pattern)| {
                    of == method && regex::bytes::Regex::new(&pattern::translate(pattern).unwrap()).unwrap().is_match(path.as_bytes())
                });
                prop_assert_eq!(target(&table, method, &path), naive.map(|route| (0, route as u32)));
            }
        }
    }
}
