//! Conflicts between the routes of modules: of two modules that match a path, the module that was deployed first answers.

use super::refusal::{Refusal, refuse};
use crate::abi::manifest::{Manifest, RouteDecl};
use crate::module::{pattern, segment_names};
use regex::bytes::Regex;
use std::collections::HashSet;

/// A route, prepared for comparison with many others.
pub(super) struct Matcher<'a> {
    pub(super) route: &'a RouteDecl,
    /// `None` for a literal path.
    regex: Option<Regex>,
}

impl<'a> Matcher<'a> {
    pub(super) fn new(route: &'a RouteDecl) -> Self {
        let pattern = (!pattern::is_literal(&route.path)).then(|| pattern::translate(&route.path).ok()).flatten();
        Self { route, regex: pattern.and_then(|pattern| Regex::new(&pattern).ok()) }
    }

    /// The only path that the route matches; `None` for a pattern.
    pub(super) fn hidden_path(&self) -> Option<&[u8]> {
        self.regex.is_none().then_some(self.route.path.as_bytes())
    }

    /// Whether the route's pattern matches the path `path`.
    pub(super) fn hides(&self, path: &[u8]) -> bool {
        self.regex.as_ref().is_some_and(|regex| regex.is_match(path))
    }

    /// Whether the route matches the path of `other`, read as the path of a request, or has the same path.
    fn matches(&self, other: &RouteDecl) -> bool {
        if segment_names::expanded(&self.route.path) == segment_names::expanded(&other.path) {
            return true;
        }
        if let Some(regex) = &self.regex {
            return pattern::spellings(&other.path).iter().any(|path| regex.is_match(path));
        }
        // Two different literal paths of ASCII have one spelling each.
        if self.route.path.is_ascii() && other.path.is_ascii() || !pattern::is_literal(&other.path) {
            return false;
        }
        let theirs = pattern::spellings(&other.path);
        pattern::spellings(&self.route.path).iter().any(|own| theirs.contains(own))
    }
}

/// Refuses routes and WebSocket paths of `new` that another module matches already. `served` are the modules in the order
/// of their deployment, `coming` those with a reservation.
///
/// A pattern that covers paths of other modules among others is accepted. The module that was deployed first is asked
/// first, so the pattern gets the remaining requests. The new version of a module must therefore not cover paths of modules
/// that were deployed after it; paths that its old version covered are not checked again. Routes that are asked last take
/// no requests from others, in any order. Of two mounts on `/`, the second would never be asked.
pub(in crate::module) fn conflict<'a>(
    new: &Manifest,
    served: impl Iterator<Item = &'a Manifest>,
    coming: impl Iterator<Item = &'a Manifest>,
) -> Result<(), Refusal> {
    let served: Vec<&Manifest> = served.collect();
    let place = served.iter().position(|module| module.name == new.name);
    let own = place.and_then(|place| served.get(place)).map_or(&[][..], |own| &own.routes);
    let key = |route: &RouteDecl| {
        (route.is_asked_last(), route.method.clone(), segment_names::expanded(&route.path).into_owned())
    };
    let own: HashSet<_> = own.iter().map(key).collect();
    let has = |route: &RouteDecl| own.contains(&key(route));
    let counts = |route: &&RouteDecl| !route.is_asked_last() && !has(route);
    let fresh: Vec<Matcher<'_>> = new.routes.iter().filter(counts).map(Matcher::new).collect();
    let mounts_root = new.routes.iter().any(|route| route.is_root_mount() && !has(route));
    let (before, behind) = served.split_at(place.unwrap_or(served.len()));
    let others = before.iter().copied().map(|other| (other, false));
    let behind = behind.iter().copied().chain(coming).filter(|other| other.name != new.name);
    for (other, is_behind) in others.chain(behind.map(|other| (other, true))) {
        if mounts_root && other.routes.iter().any(RouteDecl::is_root_mount) {
            let (name, other) = (&new.name, &other.name);
            return refuse(format!(
                "conflict: module {other} has a mount on / already, and the mount of module {name} would never be asked; mount a prefix, such as \
                 \"/{name}\", or remove module {other}"
            ));
        }
        compare(new, &fresh, other, is_behind)?;
    }
    Ok(())
}

/// The conflict of the route `rival` of `new` with the route `theirs` of `other`, which matches its path: names the module
/// that serves the path, and the remedies.
fn taken(new: &Manifest, rival: &Matcher<'_>, other: &Manifest, theirs: &RouteDecl) -> Refusal {
    let (name, method, path, other) = (&new.name, &rival.route.method, &rival.route.path, &other.name);
    let begin = format!("conflict: {method} {path} of module {name} is already served by module {other}");
    let (by, narrow) = match &theirs.mount {
        Some(mount) => (format!("by its mount on {}", mount.prefix), ", narrow that mount"),
        None if pattern::is_literal(&theirs.path) => (theirs.path.clone(), ""),
        None => (theirs.path.clone(), ", narrow that pattern"),
    };
    // In the other order of deployment there is no conflict, unless this route covers the other one.
    let order = if narrow.is_empty() || rival.matches(theirs) {
        format!(", or remove module {other}")
    } else {
        format!(
            ", or remove module {other}, deploy {name}, and then {other} again: the module that was deployed first is asked first"
        )
    };
    Refusal(format!("{begin} ({by}); choose another path{narrow}{order}"))
}

fn compare(new: &Manifest, fresh: &[Matcher<'_>], other: &Manifest, is_behind: bool) -> Result<(), Refusal> {
    for theirs in other.routes.iter().filter(|theirs| !theirs.is_asked_last()) {
        let mut rivals = fresh.iter().filter(|matcher| matcher.route.method == theirs.method).peekable();
        if rivals.peek().is_none() {
            continue;
        }
        let matcher = Matcher::new(theirs);
        for rival in rivals {
            let (method, path) = (&rival.route.method, &rival.route.path);
            if matcher.matches(rival.route) {
                return Err(taken(new, rival, other, theirs));
            }
            if is_behind && rival.matches(theirs) {
                let (name, other, theirs) = (&new.name, &other.name, &theirs.path);
                return refuse(format!(
                    "conflict: {method} {path} of module {name} would cover {theirs} of module {other}, which was deployed after it; \
                     narrow {path}, or remove module {name} and deploy it again behind {other}"
                ));
            }
        }
    }
    for socket in &new.websockets {
        if other.websockets.iter().any(|theirs| covers(&theirs.path, &socket.path)) {
            return refuse(format!(
                "conflict: the WebSocket path {} of module {} is already served by module {}; choose another path, or remove module {}",
                socket.path, new.name, other.name, other.name
            ));
        }
    }
    Ok(())
}

/// Whether the WebSocket path `path` equals `other`, or matches its pattern.
pub(super) fn covers(other: &str, path: &str) -> bool {
    let forms = pattern::spellings(path);
    let matches = |regex: String| Regex::new(&regex).is_ok_and(|regex| forms.iter().any(|path| regex.is_match(path)));
    if pattern::is_pattern(other) {
        let is_same = segment_names::expanded(other) == segment_names::expanded(path);
        return is_same || pattern::translate(other).is_ok_and(matches);
    }
    !pattern::is_pattern(path) && pattern::spellings(other).iter().any(|other| forms.contains(other))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{LIMITS, module};
    use super::*;
    use crate::abi::manifest::Mount;
    use crate::module::verify::remarks;
    use std::iter;

    /// Whether `new` is refused where `served` are served, in that order.
    fn refused(new: &Manifest, served: &[&Manifest]) -> bool {
        conflict(new, served.iter().copied(), iter::empty()).is_err()
    }

    #[test]
    fn a_path_that_another_module_matches_is_refused() {
        let (literal, pattern) = (module("a", &[("GET", "/x/1")], &[]), module("b", &[("GET", "/x/[0-9]+")], &[]));
        assert!(refused(&literal, &[&pattern]), "another module matches the path");
        assert!(!refused(&pattern, &[&literal]), "a pattern gets the remaining requests");
        assert!(refused(&module("c", &[("GET", "/x/[0-9]+")], &[]), &[&pattern]), "the same");
        assert!(!refused(&module("a", &[("POST", "/x/1")], &[]), &[&pattern]));
        assert!(!refused(&module("b", &[("GET", "/x/1")], &[]), &[&pattern]), "a new version of the module");
        assert!(refused(&module("a", &[], &["/w"]), &[&module("b", &[], &["/w"])]));
        let (plain, encoded) =
            (module("a", &[("GET", "/ä")], &["/ä"]), module("b", &[("GET", "/%C3%A4")], &["/%C3%A4"]));
        assert!(refused(&plain, &[&encoded]) && refused(&encoded, &[&plain]), "two forms of one path");
        let (sockets, others) = (module("a", &[], &["/ä"]), module("b", &[], &["/%C3%A4"]));
        assert!(refused(&sockets, &[&others]) && refused(&others, &[&sockets]));
        assert!(!refused(&module("a", &[("GET", "/w")], &[]), &[&module("b", &[], &["/w"])]));
    }

    #[test]
    fn a_fallback_route_conflicts_with_nobody() {
        let fallback = |name: &str| {
            let mut all = module(name, &[("GET", "/.*"), ("POST", "/.*")], &[]);
            all.routes.iter_mut().for_each(|route| route.flags = 2);
            all
        };
        let (app, other, plain) = (fallback("app"), fallback("other"), module("plain", &[("GET", "/x/[a-z]*")], &[]));
        assert!(!refused(&app, &[&plain]) && !refused(&plain, &[&app]) && !refused(&other, &[&app, &plain]));
        assert!(!refused(&fallback("plain"), &[&plain, &app]), "another kind of module under its own name");
        assert!(refused(&module("all", &[("GET", "/.*")], &[]), &[&module("b", &[("GET", "/.*")], &[])]));
    }

    #[test]
    fn a_mount_on_all_paths_takes_none_and_a_narrow_one_is_named() {
        let mounted = |name: &str, prefix: &str, path: &str| {
            let mut site = module(name, &[("GET", path)], &[]);
            site.routes[0].mount = Some(Mount { prefix: prefix.into(), dir: "static".into() });
            site
        };
        let (site, assets) = (mounted("site", "/", "/.*"), mounted("assets", "/a", "/a(/.*)?"));
        let later = module("later", &[("GET", "/x/[0-9]+"), ("GET", "/")], &[]);
        assert!(!refused(&later, &[&site]) && !refused(&site, &[&later]) && !refused(&site, &[&site, &later]));
        assert!(!refused(&assets, &[&site]));
        let said = |new: &Manifest, served: &Manifest| conflict(new, iter::once(served), iter::empty()).unwrap_err().0;
        let second = said(&mounted("second", "/", "/.*"), &site);
        assert!(second.contains("module site has a mount on / already") && second.contains("\"/second\""), "{second}");
        let below = module("below", &[("GET", "/a/x")], &[]);
        let below = said(&below, &assets);
        for words in ["by module assets (by its mount on /a)", "narrow that mount", "deploy below, and then assets"] {
            assert!(below.contains(words), "{below}");
        }
        let (all, one) = (module("all", &[("GET", "/.*")], &[]), module("one", &[("GET", "/1")], &[]));
        assert!(said(&one, &all).ends_with(
            "choose another path, narrow that pattern, or remove module all, deploy one, and then all again: the module that was \
             deployed first is asked first"
        ));
        assert!(
            said(&one.clone(), &Manifest { name: "b".into(), ..one })
                .ends_with("choose another path, or remove module b")
        );
        assert!(!refused(&all, &[&site]), "a handler for all paths comes before files");
        // A handler in place of the module's own mount takes paths of modules that were deployed later.
        let handler = module("site", &[("GET", "/.*")], &[]);
        assert!(refused(&handler, &[&site, &later]) && !refused(&handler, &[&site]));
        let routes = [site.routes, module("a", &[("GET", "/a")], &[]).routes].concat();
        assert_eq!(remarks(&Manifest { routes, ..all }, LIMITS), "", "the mount hides nothing behind it");
    }

    #[test]
    fn a_new_version_keeps_its_routes_and_takes_none_of_others() {
        let first = module("first", &[("GET", "/x/1"), ("GET", "/y/[a-z]+")], &[]);
        let all = module("all", &[("GET", "/.*")], &[]);
        assert!(!refused(&all, &[&first]) && !refused(&first, &[&first, &all]));
        assert!(refused(&module("first", &[("GET", "/x/2")], &[]), &[&first, &all]), "another module matches it");
        let later = module("later", &[("GET", "/z/1"), ("POST", "/z/[ab]")], &[]);
        let grown = |method: &str, path: &str| module("first", &[("GET", "/x/1"), (method, path)], &[]);
        assert!(refused(&grown("GET", "/z/[0-9]"), &[&first, &later]), "the new version would be asked first");
        assert!(refused(&grown("POST", "/z/.*"), &[&first, &later]));
        assert!(!refused(&grown("PUT", "/z/.*"), &[&first, &later]));
        // The order of two concurrent deployments is not known.
        let coming = |new: &Manifest, other: &Manifest| conflict(new, iter::empty(), iter::once(other)).is_err();
        assert!(coming(&all, &first) && coming(&first, &all));
    }
}
