//! How often a module may crash its process before it is left out.

use super::lock;
use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Deaths while a module is being loaded after which it is left out even where crashes are not counted: otherwise it
/// would keep all others from coming up.
const LOAD_CRASHES_MAX: usize = 5;

/// What is too often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CrashLimit {
    /// So many crashes; 0: never.
    pub crashes: usize,
    /// Within this time.
    pub window: Duration,
}

/// The crashes of one module.
#[derive(Debug, Default)]
pub(super) struct History {
    crashes: VecDeque<Instant>,
    /// Those of `crashes` that came while it was being loaded, one after the other.
    loading: usize,
}

impl History {
    /// Takes note of a crash at `now`; `loading`: it came while the module was being loaded. Returns how many of them
    /// are too many, if this one is.
    pub(super) fn add(&mut self, now: Instant, loading: bool, limit: CrashLimit) -> Option<usize> {
        self.crashes.retain(|at| now.duration_since(*at) < limit.window);
        self.crashes.push_back(now);
        self.loading = if loading { self.loading + 1 } else { 0 };
        if limit.crashes > 0 && self.crashes.len() >= limit.crashes {
            return Some(self.crashes.len());
        }
        (self.loading >= LOAD_CRASHES_MAX).then_some(self.loading)
    }

    /// Takes note of a death from outside that came while the module was being loaded: it counts only if nothing else ever
    /// happens to it.
    pub(super) fn add_loading(&mut self) -> Option<usize> {
        self.loading += 1;
        (self.loading >= LOAD_CRASHES_MAX).then_some(self.loading)
    }

    /// It was loaded and nothing happened.
    pub(super) fn loaded(&mut self) {
        self.loading = 0;
    }
}

/// Fewest deaths that nothing explains after which one module is held responsible for them.
const UNPLACED_MIN: usize = 3;
/// So often is the pause between processes doubled at most: to about a minute.
const DOUBLINGS_MAX: usize = 6;

/// Deaths of a domain's process that nothing explains: neither a call nor a thread nor an instruction says whose they are.
#[derive(Debug, Default)]
pub(super) struct Unplaced {
    deaths: VecDeque<(Instant, Vec<u64>)>,
}

impl Unplaced {
    /// Takes note of a death at `now` during which `running` were. Returns the only module that was running in every one of
    /// the deaths, and how many those are, if they are too many.
    pub(super) fn add(&mut self, now: Instant, running: &[u64], limit: CrashLimit) -> Option<(u64, usize)> {
        self.deaths.retain(|(at, _)| now.duration_since(*at) < limit.window);
        self.deaths.push_back((now, running.to_vec()));
        let deaths = self.deaths.len();
        if limit.crashes == 0 || deaths < limit.crashes.max(UNPLACED_MIN) {
            return None;
        }
        let always = |id: &&u64| self.deaths.iter().all(|(_, running)| running.contains(id));
        let mut suspects = running.iter().filter(always);
        match (suspects.next(), suspects.next()) {
            (Some(only), None) => Some((*only, deaths)),
            _ => None,
        }
    }

    /// What the pause before the next process is to be multiplied with: a loop that nobody is known to cause gets slower.
    pub(super) fn factor(&self) -> u32 {
        1 << self.deaths.len().saturating_sub(PACE_ENDS_MAX).min(DOUBLINGS_MAX)
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.deaths.clear();
    }
}

/// Whether a module is left out, and why. Shared with those who would call it.
#[derive(Debug, Default)]
pub(super) struct Quarantine {
    on: AtomicBool,
    why: Mutex<String>,
}

impl Quarantine {
    /// Costs a load as long as there is none.
    pub(super) fn is_on(&self) -> bool {
        self.on.load(Ordering::Acquire)
    }

    /// Why, for people.
    pub(super) fn why(&self) -> Option<String> {
        self.is_on().then(|| lock(&self.why).clone())
    }

    pub(super) fn impose(&self, why: String) {
        *lock(&self.why) = why;
        self.on.store(true, Ordering::Release);
    }

    /// True for the one who lifts it.
    pub(super) fn lift(&self) -> bool {
        self.on.swap(false, Ordering::AcqRel)
    }
}

/// Ends of processes in this time count for the pace.
const PACE_WINDOW: Duration = Duration::from_secs(10);
/// So many may follow each other without a pause.
const PACE_ENDS_MAX: usize = 5;
/// The pause then.
const PACE_PAUSE: Duration = Duration::from_secs(1);

/// Keeps a process that ends again and again from taking a whole core.
#[derive(Debug, Default)]
pub(super) struct Pace {
    ends: VecDeque<Instant>,
}

impl Pace {
    /// A process has ended, or is to end: how long the next one should wait.
    pub(super) fn end(&mut self, now: Instant) -> Option<Duration> {
        self.ends.retain(|at| now.duration_since(*at) < PACE_WINDOW);
        self.ends.push_back(now);
        (self.ends.len() > PACE_ENDS_MAX).then_some(PACE_PAUSE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: CrashLimit = CrashLimit { crashes: 3, window: Duration::from_secs(10) };
    const NEVER: CrashLimit = CrashLimit { crashes: 0, ..LIMIT };

    #[test]
    fn only_crashes_within_the_window_count() {
        let (mut history, start) = (History::default(), Instant::now());
        let at = |s: u64| start + Duration::from_secs(s);
        assert_eq!([0, 1].map(|s| history.add(at(s), false, LIMIT)), [None, None]);
        assert_eq!([11, 12].map(|s| history.add(at(s), false, LIMIT)), [None, None], "the first two are long ago");
        assert_eq!(history.add(at(13), false, LIMIT), Some(3));
    }

    #[test]
    fn only_who_was_always_running_is_held_responsible_for_what_nothing_explains() {
        let (mut unplaced, start) = (Unplaced::default(), Instant::now());
        let at = |s: u64| start + Duration::from_secs(s);
        assert_eq!(unplaced.add(at(0), &[1, 2], LIMIT), None);
        assert_eq!(unplaced.add(at(1), &[2, 3], LIMIT), None);
        assert_eq!(unplaced.add(at(2), &[2, 3], LIMIT), Some((2, 3)));
        assert_eq!(unplaced.add(at(3), &[], LIMIT), None, "nobody was there each time");
        assert_eq!(unplaced.add(at(30), &[1], LIMIT), None, "the others are long ago");
        assert_eq!((unplaced.factor(), unplaced.add(at(31), &[1, 2], LIMIT)), (1, None));
        assert_eq!(unplaced.add(at(32), &[1, 2], LIMIT), Some((1, 3)), "two of the three");
        for _ in 0..100 {
            assert_eq!(unplaced.add(at(33), &[1, 2, 3], NEVER), None);
        }
        assert_eq!(unplaced.factor(), 64);
        unplaced.clear();
        assert_eq!(unplaced.factor(), 1);
        for _ in 0..10 {
            assert_eq!(unplaced.add(at(34), &[1, 2], LIMIT), None, "both of them, each time");
        }
    }

    #[test]
    fn without_a_limit_only_deaths_at_loading_count() {
        let (mut history, now) = (History::default(), Instant::now());
        for _ in 0..100 {
            assert_eq!(history.add(now, false, NEVER), None);
        }
        let deaths: Vec<_> = (0..5).map(|_| history.add(now, true, NEVER)).collect();
        assert_eq!(deaths, [None, None, None, None, Some(5)]);
        history.loaded();
        assert_eq!(history.add(now, true, NEVER), None);
    }

    #[test]
    fn a_quarantine_is_lifted_once() {
        let quarantine = Quarantine::default();
        assert_eq!(quarantine.why(), None);
        quarantine.impose("it crashed".to_owned());
        assert_eq!(quarantine.why().as_deref(), Some("it crashed"));
        assert_eq!([quarantine.lift(), quarantine.lift(), quarantine.is_on()], [true, false, false]);
    }

    #[test]
    fn many_ends_in_a_row_slow_down() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let pauses: Vec<bool> = (0..7).map(|_| pace.end(start).is_some()).collect();
        assert_eq!(pauses, [false, false, false, false, false, true, true]);
        assert_eq!(pace.end(start + PACE_WINDOW), None);
    }
}
