//! The share of the processors that a named domain has: a smaller one while it computes.
//!
//! A named domain is a session, and Linux gives each session one share, whatever the number of its threads (sched(7),
//! autogroup). With a third of the server's share, a thread that wakes up waits for its turn up to three times as long. So
//! domains that use little of a processor have a whole share: they are answered beside those that compute.

use rustix::param::clock_ticks_per_second;
use std::fs;
use std::io;
use std::time::{Duration, Instant};

/// The use of one processor, in percent, from which a domain computes, and the one below which it rests. Low, because many
/// domains that each use little take the processors together.
const COMPUTES_FROM: u64 = 4;
const RESTS_BELOW: u64 = 2;

/// The shortest time over which the use is measured: a clock tick is one percent of it.
const MEASURED_OVER: Duration = Duration::from_secs(1);

/// The nice values of the sessions of domains that compute, and of the others; see nice(2).
const COMPUTING: u8 = 5;
const RESTING: u8 = 0;

/// The numbers of a process that the watch needs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Its threads.
    pub(super) threads: usize,
    /// The processor's time that it has used, and its ended children, in clock ticks.
    ticks: u64,
}

impl Counts {
    /// The numbers of the process `pid` (proc_pid_stat(5)).
    pub(super) fn of(pid: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    fn parse(stat: &str) -> Option<Self> {
        // The name, which may contain any characters, is in parentheses. Field 3 follows.
        let fields = stat.rsplit_once(')')?.1.split_whitespace();
        let numbers: Vec<u64> = fields.map(|field| field.parse().unwrap_or_default()).collect();
        let ticks = numbers.get(11..15)?.iter().sum();
        Some(Self { threads: usize::try_from(*numbers.get(17)?).ok()?, ticks })
    }
}

/// The last measurement of a domain, and the nice value of its session.
#[derive(Debug, Clone, Copy)]
struct Look {
    /// The domain's process, which leads the session.
    pid: u32,
    /// The time of the last measurement, and the processor's time that the domain had used by then.
    at: Instant,
    ticks: u64,
    /// The nice value of the session; `None`: that with which it began.
    nice: Option<u8>,
    /// The nice value that must still be set.
    wanted: Option<u8>,
}

/// The share of one domain.
#[derive(Debug, Default)]
pub(super) struct Share(Option<Look>);

impl Share {
    /// Adapts the share of the domain whose process is `pid`, and whose processes together have `counts`.
    pub(super) fn look(&mut self, pid: u32, counts: impl Iterator<Item = Counts>, now: Instant) {
        self.look_and_set(pid, counts.map(|counts| counts.ticks).sum(), now, |nice| set(pid, nice));
    }

    /// Like [`Share::look`], for a domain that has used `ticks`. `set` sets the nice value of its session.
    fn look_and_set(&mut self, pid: u32, ticks: u64, now: Instant, set: impl FnOnce(u8) -> io::Result<()>) {
        // The use of a new process is not known yet.
        let new = Look { pid, at: now, ticks, nice: None, wanted: Some(COMPUTING) };
        let mut look = self.0.filter(|last| last.pid == pid).unwrap_or(new);
        let time = now.duration_since(look.at);
        if time >= MEASURED_OVER {
            let used = percent(ticks.saturating_sub(look.ticks), time.as_millis());
            let wanted = nice_for(used, look.nice);
            look.wanted = (look.nice != Some(wanted)).then_some(wanted);
            (look.at, look.ticks) = (now, ticks);
        }
        if let Some(wanted) = look.wanted {
            match set(wanted) {
                Ok(()) => (look.nice, look.wanted) = (Some(wanted), None),
                // An ordinary user can change one share in 100 ms: the next look tries again.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // The kernel has no autogroups, or the process has ended.
                Err(_) => look.wanted = None,
            }
        }
        self.0 = Some(look);
    }
}

/// Sets the nice value of the session of process `pid`.
fn set(pid: u32, nice: u8) -> io::Result<()> {
    fs::write(format!("/proc/{pid}/autogroup"), nice.to_string())
}

/// The use of one processor, in percent.
fn percent(ticks: u64, ms: u128) -> u64 {
    let used_ms = u128::from(ticks) * 1000 / u128::from(clock_ticks_per_second()).max(1);
    u64::try_from(used_ms * 100 / ms.max(1)).unwrap_or(u64::MAX)
}

fn nice_for(percent: u64, nice: Option<u8>) -> u8 {
    match percent {
        COMPUTES_FROM.. => COMPUTING,
        0..RESTS_BELOW => RESTING,
        _ => nice.unwrap_or(COMPUTING),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_follows_the_use_and_keeps_between_the_bounds() {
        assert_eq!([0, 1, 2, 3, 4, 800].map(|percent| nice_for(percent, Some(RESTING))), [0, 0, 0, 0, 5, 5]);
        assert_eq!([0, 1, 2, 3, 4, 800].map(|percent| nice_for(percent, Some(COMPUTING))), [0, 0, 5, 5, 5, 5]);
        assert_eq!([1, 3].map(|percent| nice_for(percent, None)), [0, 5]);
        let second = clock_ticks_per_second();
        assert_eq!((percent(second, 1000), percent(second / 10, 1000), percent(2 * second, 500)), (100, 10, 400));
        assert_eq!((percent(0, 0), percent(u64::MAX, 1)), (0, u64::MAX));
    }

    #[test]
    fn the_use_is_measured_over_some_time_and_for_one_process() {
        let (begin, mut share) = (Instant::now(), Share::default());
        let counts = |ticks| [Counts { threads: 1, ticks }].into_iter();
        let seen = |share: &Share| share.0.map(|look| (look.pid, look.ticks, look.nice));
        // No process has these numbers, so no share is changed.
        let (one, another) = (u32::MAX, u32::MAX - 1);
        share.look(one, counts(7), begin);
        share.look(one, counts(70), begin + MEASURED_OVER / 2);
        assert_eq!(seen(&share), Some((one, 7, None)));
        share.look(one, counts(7_000), begin + MEASURED_OVER);
        assert_eq!(seen(&share), Some((one, 7_000, None)), "it could not be set");
        share.look(another, counts(3), begin + MEASURED_OVER);
        assert_eq!(seen(&share), Some((another, 3, None)));
    }

    #[test]
    fn a_share_that_the_kernel_does_not_change_yet_is_set_at_the_next_look() {
        let (begin, mut share, mut tried) = (Instant::now(), Share::default(), Vec::new());
        let mut look = |ms: u64, ticks: u64, result: Result<(), io::ErrorKind>| {
            share.look_and_set(7, ticks, begin + Duration::from_millis(ms), |nice| {
                tried.push((ms, nice));
                result.map_err(io::Error::from)
            });
        };
        let busy = Err(io::ErrorKind::WouldBlock);
        look(0, 0, busy);
        look(250, 0, Ok(()));
        look(500, 0, busy);
        look(1000, 0, busy);
        look(1250, 0, Ok(()));
        look(1500, 0, busy);
        // An error that lasts is met once for each measurement.
        let computes = 100 * clock_ticks_per_second();
        look(2000, computes, Err(io::ErrorKind::NotFound));
        look(2250, computes, busy);
        look(3000, 2 * computes, Ok(()));
        assert_eq!(tried, [(0, 5), (250, 5), (1000, 0), (1250, 0), (2000, 5), (3000, 5)]);
    }

    #[test]
    fn the_numbers_of_a_process_are_behind_its_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 10 20 30 40 20 0 12 0 99 1 1";
        assert_eq!(Counts::parse(stat), Some(Counts { threads: 12, ticks: 100 }));
        assert_eq!(Counts::parse("7 (a) S 1 7"), None);
        assert!(Counts::of(std::process::id()).is_some_and(|counts| counts.threads > 0));
    }
}
