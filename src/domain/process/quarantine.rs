//! Counts the crashes that lead to a module's quarantine.

use super::lock;
use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The number of deaths in a row during the loading of a module after which the module is in quarantine, even if
/// crashes are not counted. Otherwise the module would keep all other modules from being loaded.
const LOAD_CRASHES_MAX: usize = 5;

/// The limit on crashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CrashLimit {
    /// The number of crashes; 0: no limit.
    pub crashes: usize,
    /// The time window for counting.
    pub window: Duration,
}

/// The crashes of one module.
#[derive(Debug, Default)]
pub(super) struct History {
    crashes: VecDeque<Instant>,
    /// The number of the last `crashes` in a row that came while the module was being loaded.
    loading: usize,
}

impl History {
    /// Counts a crash at `now`; `loading`: it came while the module was being loaded. Returns the number of crashes if they
    /// are now too many.
    pub(super) fn add(&mut self, now: Instant, loading: bool, limit: CrashLimit) -> Option<usize> {
        self.crashes.retain(|at| now.duration_since(*at) < limit.window);
        self.crashes.push_back(now);
        self.loading = if loading { self.loading + 1 } else { 0 };
        if limit.crashes > 0 && self.crashes.len() >= limit.crashes {
            return Some(self.crashes.len());
        }
        (self.loading >= LOAD_CRASHES_MAX).then_some(self.loading)
    }

    /// Counts a death from outside that came while the module was being loaded. Such a death counts only together
    /// with others of this kind in a row.
    pub(super) fn add_loading(&mut self) -> Option<usize> {
        self.loading += 1;
        (self.loading >= LOAD_CRASHES_MAX).then_some(self.loading)
    }

    /// Resets the count after the module was loaded successfully.
    pub(super) fn loaded(&mut self) {
        self.loading = 0;
    }
}

/// The least number of unexplained deaths for which one module is held responsible.
const UNPLACED_MIN: usize = 3;
/// Limit on the doublings of the pause between processes: to about a minute.
const DOUBLINGS_MAX: usize = 6;

/// Unexplained deaths of a domain's process: neither a call nor a thread nor an instruction shows the cause.
#[derive(Debug, Default)]
pub(super) struct Unplaced {
    deaths: VecDeque<(Instant, Vec<u64>)>,
}

impl Unplaced {
    /// Counts a death at `now` during which the modules `running` were running. Returns the only module that was running in
    /// every death, and the number of deaths, if they are too many.
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

    /// The factor for the pause before the next process, so that a loop without a known cause slows down.
    pub(super) fn factor(&self) -> u32 {
        1 << self.deaths.len().saturating_sub(PACE_ENDS_MAX).min(DOUBLINGS_MAX)
    }

    /// Resets all counts.
    pub(super) fn clear(&mut self) {
        self.deaths.clear();
    }
}

/// Whether a module is in quarantine, and the reason. Shared with all callers of the module.
#[derive(Debug, Default)]
pub(super) struct Quarantine {
    on: AtomicBool,
    why: Mutex<String>,
}

impl Quarantine {
    /// Costs one load.
    pub(super) fn is_on(&self) -> bool {
        self.on.load(Ordering::Acquire)
    }

    /// The reason, for people.
    pub(super) fn why(&self) -> Option<String> {
        self.is_on().then(|| lock(&self.why).clone())
    }

    pub(super) fn impose(&self, why: String) {
        *lock(&self.why) = why;
        self.on.store(true, Ordering::Release);
    }

    /// Lifts the quarantine; returns true to one caller only.
    pub(super) fn lift(&self) -> bool {
        self.on.swap(false, Ordering::AcqRel)
    }
}

/// The time window in which ends of processes count.
const PACE_WINDOW: Duration = Duration::from_secs(10);
/// The number of processes that may follow each other without a pause.
const PACE_ENDS_MAX: usize = 5;
/// The pause beyond that.
const PACE_PAUSE: Duration = Duration::from_secs(1);

/// Keeps a process that ends repeatedly from using a whole core.
#[derive(Debug, Default)]
pub(super) struct Pace {
    ends: VecDeque<Instant>,
}

impl Pace {
    /// Counts the end of a process; returns the wait before the next one.
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
        assert_eq!(unplaced.add(at(3), &[], LIMIT), None, "no module was running in each death");
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
            assert_eq!(unplaced.add(at(34), &[1, 2], LIMIT), None, "both modules were running, each time");
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
