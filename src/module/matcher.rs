//! The route patterns of all modules, as automata that read each byte of a path once.
//!
//! A shard matches each path against the patterns of all modules, so the time for a path must not depend on their number.
//! Patterns that begin with a literal segment (`/users/…`) are in one automaton for that segment, all others in at most
//! [`GENERAL_MAX`] automata. A path runs through at most `AUTOMATA_MAX` automata, with one table look-up a byte. A
//! deployment that needs more or larger automata is refused. Control plane: [`Matcher::build`]; data plane:
//! [`Matcher::visit`].

use super::{pattern, segment_names};
use foldhash::fast::FixedState;
use regex_automata::dfa::{Automaton as _, StartKind, dense};
use regex_automata::nfa::thompson;
use regex_automata::util::syntax;
use regex_automata::{Anchored, Input, MatchKind};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Limit on the automata for patterns that begin with no literal segment.
const GENERAL_MAX: usize = 2;
/// Limit on the automata that a path runs through.
#[cfg(test)]
const AUTOMATA_MAX: usize = GENERAL_MAX + 1;
/// Limit, in bytes, on one automaton.
const AUTOMATON_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Limit, in bytes, on the automata of one module alone.
const MODULE_BYTES_MAX: usize = 1024 * 1024;
/// Limit, in bytes, on the automata of the modules of a domain, each alone.
const DOMAIN_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Limit, in bytes, on the automata of all modules.
const TOTAL_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Limit, in bytes, on the working memory for building one automaton.
const MAKING_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Limit, in bytes, on the intermediate automaton (NFA) of one automaton.
const NFA_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The patterns exceed a limit on their automata.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct TooLarge(String);

/// The pattern of a route.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Source {
    /// The pattern in the module's config.
    pub(super) path: String,
    /// The pattern in the syntax of the engine.
    pub(super) regex: String,
}

/// Patterns in one automaton. All run at once; the automaton reports the numbers of those that match, at the end of a path.
struct Automaton {
    dfa: dense::DFA<Vec<u32>>,
    /// The number in its group of its first pattern.
    first: usize,
}

impl Automaton {
    fn build(sources: &[&Source], first: usize) -> Option<Self> {
        let config = dense::Config::new()
            .match_kind(MatchKind::All)
            .start_kind(StartKind::Anchored)
            .accelerate(false)
            .dfa_size_limit(Some(AUTOMATON_BYTES_MAX))
            .determinize_size_limit(Some(MAKING_BYTES_MAX));
        let nfa = thompson::Config::new()
            .utf8(false)
            .nfa_size_limit(Some(NFA_BYTES_MAX))
            .which_captures(thompson::WhichCaptures::None);
        let texts: Vec<&str> = sources.iter().map(|source| source.regex.as_str()).collect();
        let mut builder = dense::Builder::new();
        builder.syntax(syntax::Config::new().utf8(false)).thompson(nfa).configure(config);
        builder.build_many(&texts).ok().map(|dfa| Self { dfa, first })
    }

    /// Calls `matched` with the number in the group of each pattern that matches `path`. Returns the number of steps.
    fn walk(&self, path: &[u8], mut matched: impl FnMut(usize)) -> usize {
        let input = Input::new(path).anchored(Anchored::Yes);
        let Ok(mut state) = self.dfa.start_state_forward(&input) else { return 0 };
        for (at, &byte) in path.iter().enumerate() {
            state = self.dfa.next_state(state, byte);
            if self.dfa.is_special_state(state) && (self.dfa.is_dead_state(state) || self.dfa.is_quit_state(state)) {
                return at + 1;
            }
        }
        let end = self.dfa.next_eoi_state(state);
        if self.dfa.is_match_state(end) {
            for at in 0..self.dfa.match_len(end) {
                matched(self.first + self.dfa.match_pattern(end, at).as_usize());
            }
        }
        path.len() + 1
    }
}

/// Patterns that are matched together.
struct Group {
    automata: Vec<Automaton>,
    bytes: usize,
}

impl Group {
    /// Builds as few automata for `sources` as possible, at most `automata_max`.
    fn build(sources: &[&Source], automata_max: usize) -> Option<Self> {
        let mut group = Self { automata: Vec::new(), bytes: 0 };
        group.add(sources, 0, automata_max)?;
        Some(group)
    }

    fn add(&mut self, sources: &[&Source], first: usize, automata_max: usize) -> Option<()> {
        if let Some(automaton) = Automaton::build(sources, first) {
            self.bytes += automaton.dfa.memory_usage();
            self.automata.push(automaton);
            return (self.automata.len() <= automata_max).then_some(());
        }
        if sources.len() < 2 || self.automata.len() + 2 > automata_max {
            return None;
        }
        let (front, back) = sources.split_at(sources.len() / 2);
        // The second half needs at least one automaton.
        self.add(front, first, automata_max - 1)?;
        self.add(back, first + front.len(), automata_max)
    }
}

/// The literal first segment of all paths that `pattern` matches, if there is one and another segment follows.
fn literal_segment(pattern: &str) -> Option<&str> {
    let text = pattern.strip_prefix('^').unwrap_or(pattern);
    let (segment, rest) = text.strip_prefix('/')?.split_once('/')?;
    let repeats = rest.starts_with(['*', '+', '?', '{']);
    // A character beyond ASCII has several forms in a path.
    if segment.is_empty()
        || repeats
        || !segment.is_ascii()
        || segment.bytes().any(|byte| b".[]()*+?{}|^$\\".contains(&byte))
    {
        return None;
    }
    // An alternative at the top level may begin with another segment. When brackets or backslashes make that hard to see,
    // `None` is the safe answer.
    if rest.contains('|') && rest.contains(['[', '\\']) {
        return None;
    }
    let mut depth = 0_i32;
    for byte in rest.bytes() {
        match byte {
            b'(' => depth += 1,
            b')' => depth -= 1,
            b'|' if depth <= 0 => return None,
            _ => {}
        }
    }
    Some(segment)
}

/// The first segment of `path`, if another segment follows.
fn first_segment(path: &[u8]) -> Option<&[u8]> {
    let rest = path.strip_prefix(b"/")?;
    memchr::memchr(b'/', rest).and_then(|end| rest.get(..end))
}

/// A group, and the number in the table of each of its patterns.
struct NumberedPatterns {
    group: Arc<Group>,
    numbers: Vec<u32>,
}

impl NumberedPatterns {
    fn visit(&self, path: &[u8], matched: &mut impl FnMut(u32)) -> usize {
        let mut tell = |at: usize| self.numbers.get(at).copied().into_iter().for_each(&mut *matched);
        self.group.automata.iter().map(|automaton| automaton.walk(path, &mut tell)).sum()
    }
}

/// Groups of earlier tables, so that a deployment builds only groups whose patterns have changed.
#[derive(Default)]
pub(super) struct Cache {
    groups: HashMap<Vec<Source>, Arc<Group>>,
    /// The size, in bytes, of the automata of one module alone.
    costs: HashMap<Vec<Source>, usize>,
}

impl Cache {
    fn group(&mut self, mut sources: Vec<Source>, automata_max: usize) -> Result<Arc<Group>, TooLarge> {
        if let Some(group) = self.groups.get(&sources) {
            return Ok(Arc::clone(group));
        }
        let borrowed: Vec<&Source> = sources.iter().collect();
        let group = Group::build(&borrowed, automata_max).map(Arc::new).ok_or_else(|| too_large(&borrowed))?;
        sources.shrink_to_fit();
        self.groups.insert(sources, Arc::clone(&group));
        Ok(group)
    }

    /// The size, in bytes, of the automata that a module with the patterns `sources` needs alone.
    ///
    /// # Errors
    /// The size exceeds the limit for a module.
    fn cost(&mut self, sources: Vec<Source>) -> Result<usize, TooLarge> {
        if let Some(bytes) = self.costs.get(&sources) {
            return Ok(*bytes);
        }
        let mut bytes = 0;
        for (segment, sources) in by_segment(sources.iter()) {
            let automata_max = if segment.is_some() { 1 } else { GENERAL_MAX };
            bytes += Group::build(&sources, automata_max).ok_or_else(|| too_large(&sources))?.bytes;
        }
        if bytes > MODULE_BYTES_MAX {
            return Err(TooLarge(format!(
                "its {} route patterns need {} KiB of states, and a module may have {} KiB; use literal paths, or fewer \
                 repetitions with a count",
                sources.len(),
                bytes / 1024,
                MODULE_BYTES_MAX / 1024
            )));
        }
        self.costs.insert(sources, bytes);
        Ok(bytes)
    }
}

fn too_large(sources: &[&Source]) -> TooLarge {
    let paths: Vec<&str> = sources.iter().take(3).map(|source| source.path.as_str()).collect();
    let more = if sources.len() > paths.len() { ", …" } else { "" };
    TooLarge(format!(
        "{} route pattern(s) together ({}{more}) need more than {} KiB of states, so matching a path against them would take \
         too long; begin them with a literal segment, or let one pattern match and look at the path in the handler",
        sources.len(),
        paths.join(", "),
        AUTOMATON_BYTES_MAX / 1024
    ))
}

fn by_segment<'a>(sources: impl Iterator<Item = &'a Source>) -> BTreeMap<Option<&'a str>, Vec<&'a Source>> {
    let mut groups: BTreeMap<Option<&str>, Vec<&Source>> = BTreeMap::new();
    for source in sources {
        groups.entry(literal_segment(&source.path)).or_default().push(source);
    }
    groups
}

/// The automata of a table.
#[derive(Default)]
pub(super) struct Matcher {
    segments: HashMap<Box<[u8]>, NumberedPatterns, FixedState>,
    general: Option<NumberedPatterns>,
}

/// The patterns of a module, and the module's domain.
pub(super) struct Owned {
    pub(super) domain: String,
    pub(super) sources: Vec<Source>,
}

/// The patterns of all modules, without duplicates.
#[derive(Default)]
pub(super) struct Patterns {
    pub(super) sources: Vec<Source>,
    numbers: HashMap<String, usize>,
    /// By module.
    pub(super) owned: Vec<Owned>,
}

impl Patterns {
    /// The following patterns belong to another module, in the domain `domain`.
    pub(super) fn begin(&mut self, domain: &str) {
        self.owned.push(Owned { domain: domain.to_owned(), sources: Vec::new() });
    }

    /// The number of the pattern `path`; `None` for a pattern that can't be translated, which was refused before.
    pub(super) fn number(&mut self, path: &str) -> Option<usize> {
        // Paths that differ in the names of their segments only are one pattern.
        let path = segment_names::expanded(path);
        let number = match self.numbers.get(&*path) {
            Some(number) => *number,
            None => {
                let regex = pattern::translate(&path).ok()?;
                self.sources.push(Source { path: path.clone().into_owned(), regex });
                self.numbers.insert(path.into_owned(), self.sources.len() - 1);
                self.sources.len() - 1
            }
        };
        let (source, owned) = (self.sources.get(number)?, self.owned.last_mut()?);
        if !owned.sources.contains(source) {
            owned.sources.push(source.clone());
        }
        Some(number)
    }
}

impl Matcher {
    /// Compiles `sources`; [`Matcher::visit`] reports their indices. `modules` has the same patterns, grouped by module.
    ///
    /// # Errors
    /// The patterns of a module, of a domain or of all are too large.
    pub(super) fn build(sources: &[Source], modules: Vec<Owned>, cache: &mut Cache) -> Result<Self, TooLarge> {
        let mut domains: HashMap<String, usize> = HashMap::new();
        let mut costs = Vec::new();
        for module in modules.into_iter().filter(|module| !module.sources.is_empty()) {
            costs.push(module.sources.clone());
            let bytes = domains.entry(module.domain).or_default();
            *bytes += cache.cost(module.sources)?;
        }
        if let Some((domain, bytes)) = domains.iter().find(|(_, bytes)| **bytes > DOMAIN_BYTES_MAX) {
            return Err(beyond(&format!("of the domain {domain}"), *bytes, DOMAIN_BYTES_MAX));
        }
        let mut matcher = Self::default();
        let mut used = Vec::new();
        let numbers: HashMap<&Source, u32> = sources.iter().zip(0..).collect();
        for (segment, group) in by_segment(sources.iter()) {
            let numbers = group.iter().filter_map(|source| numbers.get(source).copied()).collect();
            let key: Vec<Source> = group.into_iter().cloned().collect();
            used.push(key.clone());
            let group = cache.group(key, if segment.is_some() { 1 } else { GENERAL_MAX })?;
            let numbered = NumberedPatterns { group, numbers };
            match segment {
                Some(segment) => drop(matcher.segments.insert(segment.as_bytes().into(), numbered)),
                None => matcher.general = Some(numbered),
            }
        }
        let bytes = matcher.segments.values().chain(&matcher.general).map(|numbered| numbered.group.bytes).sum();
        if bytes > TOTAL_BYTES_MAX {
            return Err(beyond("of all modules", bytes, TOTAL_BYTES_MAX));
        }
        // A published table shares its groups with the cache.
        cache.groups.retain(|key, group| Arc::strong_count(group) > 1 || used.contains(key));
        cache.costs.retain(|key, _| costs.contains(key));
        Ok(matcher)
    }

    /// Calls `matched` with the number of each pattern that matches `path`, in no particular order. Returns the number of
    /// steps: at most `AUTOMATA_MAX` × (the bytes of `path` + 1).
    pub(super) fn visit(&self, path: &[u8], mut matched: impl FnMut(u32)) -> usize {
        let mut steps = 0;
        if !self.segments.is_empty()
            && let Some(group) = first_segment(path).and_then(|segment| self.segments.get(segment))
        {
            steps += group.visit(path, &mut matched);
        }
        if let Some(general) = &self.general {
            steps += general.visit(path, &mut matched);
        }
        steps
    }
}

fn beyond(whose: &str, bytes: usize, bytes_max: usize) -> TooLarge {
    TooLarge(format!(
        "the route patterns {whose} need {} KiB of states; the limit is {} KiB",
        bytes / 1024,
        bytes_max / 1024
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::pattern;

    fn source(path: &str) -> Source {
        Source { path: path.to_owned(), regex: pattern::translate(path).unwrap() }
    }

    fn build(paths: &[String]) -> Result<Matcher, TooLarge> {
        let sources: Vec<Source> = paths.iter().map(|path| source(path)).collect();
        let modules = sources.chunks(60).map(|part| Owned { domain: "d".into(), sources: part.to_vec() }).collect();
        Matcher::build(&sources, modules, &mut Cache::default())
    }

    fn found(matcher: &Matcher, path: &[u8]) -> (Vec<u32>, usize) {
        let mut all = Vec::new();
        let steps = matcher.visit(path, |number| all.push(number));
        all.sort_unstable();
        (all, steps)
    }

    #[test]
    fn a_segment_is_told_only_where_it_is_certain() {
        for (pattern, segment) in [
            ("/users/[0-9]+", Some("users")),
            ("^/users/(a|b)$", Some("users")),
            ("/users/.*", Some("users")),
            ("/users/?", None),
            ("/größe/x", None),
            ("/users/{2}x", None),
            ("/users", None),
            ("/u.s/x", None),
            ("/users/a|/b", None),
            ("/users/[(]|/b", None),
            ("/users/(a)|/b", None),
            ("//x", None),
            ("/users/a)|/b", None),
        ] {
            assert_eq!(literal_segment(pattern), segment, "{pattern}");
        }
        assert_eq!(
            (first_segment(b"/a/b"), first_segment(b"/a"), first_segment(b"a/b")),
            (Some(&b"a"[..]), None, None)
        );
    }

    /// Sets of 60 patterns. An engine that follows every state of each pattern is slow on them.
    fn hostile() -> Vec<Vec<String>> {
        let sixty = |of: &dyn Fn(usize) -> String| (0..60).map(of).collect::<Vec<_>>();
        vec![
            sixty(&|n| format!("/.*\\.x{n}")),
            sixty(&|n| format!("/{n}[a-z]{{1,100}}/[a-z]*")),
            sixty(&|n| format!("/s/([a-z]*/)*{n}")),
            sixty(&|n| format!("/(a|b|ab)*c{n}")),
            sixty(&|n| format!("/[a-z]{{{n},200}}{n}")),
            sixty(&|n| format!("/m{n}(/.*)?")),
        ]
    }

    #[test]
    fn sixty_patterns_and_a_long_path_take_a_bounded_number_of_steps() {
        for paths in hostile() {
            let matcher = build(&paths).unwrap_or_else(|why| panic!("{}: {why}", paths[1]));
            for path in ["/", "/s/", "/1", "/m1/", "/ab"] {
                let path = format!("{path}{}", "ab/".repeat(2730));
                let (_, steps) = found(&matcher, path.as_bytes());
                assert!(steps <= AUTOMATA_MAX * (path.len() + 1), "{steps} steps for {} and {}", paths[1], &path[..9]);
            }
        }
    }

    #[test]
    fn what_can_not_be_bounded_is_refused_with_the_figure() {
        for (paths, figure) in [
            (vec!["/.*a.{40}".to_owned()], "4096 KiB"),
            ((0..60).map(|n| format!("/.*k{n}k.*")).collect(), "4096 KiB"),
            ((0..30).map(|n| format!("/{n}([a-z]{{60}}[0-9]{{60}}){{9}}")).collect(), "1024 KiB"),
        ] {
            let said = build(&paths).err().map(|why| why.to_string()).unwrap_or_default();
            assert!(said.contains(figure), "{}: {said}", paths[0]);
        }
    }

    #[test]
    fn groups_are_made_once() {
        let paths: Vec<Source> = ["/a/[0-9]+", "/b/[0-9]+", "/.*z"].map(source).to_vec();
        let mut cache = Cache::default();
        let mut build = |sources: &[Source]| {
            let owned = Owned { domain: String::new(), sources: sources.to_vec() };
            Matcher::build(sources, vec![owned], &mut cache).unwrap()
        };
        let (first, second) = (build(&paths), build(&paths[..2]));
        let of = |matcher: &Matcher, segment: &[u8]| Arc::as_ptr(&matcher.segments[segment].group);
        assert!(of(&first, b"a") == of(&second, b"a") && of(&first, b"b") == of(&second, b"b"));
        assert_eq!(
            (found(&first, b"/a/1z").0, found(&first, b"/b/1").0, found(&second, b"/z").0),
            (vec![2], vec![1], vec![])
        );
        drop(first);
        build(&paths[..1]);
        assert_eq!((cache.groups.len(), cache.costs.len()), (2, 1), "the cache has the entries of a table only");
        drop(second);
    }

    /// Run with `cargo test --release --lib -- --ignored --nocapture microseconds`.
    #[test]
    #[ignore = "a measurement"]
    fn microseconds() {
        for paths in hostile() {
            let matcher = build(&paths).unwrap();
            for start in ["/", "/s/", "/1", "/ab"] {
                let path = format!("{start}{}", "ab/".repeat(2730));
                let mut took: Vec<f64> = (0..200)
                    .map(|_| {
                        let begin = std::time::Instant::now();
                        std::hint::black_box(found(&matcher, path.as_bytes()));
                        begin.elapsed().as_secs_f64() * 1e6
                    })
                    .collect();
                took.sort_by(f64::total_cmp);
                println!("{:>30} {start:>4} median {:.1} µs, worst {:.1} µs", paths[1], took[100], took[199]);
            }
        }
    }
}
