//! Random schedules against the machine, with a simulated clock, processes, shards and modules.
//!
//! A schedule is a number: the seed of all its events. `CWEB_SCHEDULES=100000` runs that many, instead of the few of each
//! test run; `CWEB_SCHEDULE=N` runs only number N and prints each step. A seed that has found a fault stays in [`FOUND`].

mod happenings;
mod view;
mod world;

use super::Input;
use crate::domain::process::quarantine::CrashLimit;
use std::time::Duration;
use world::World;

/// The schedules of each test run: about two seconds of CPU without optimisation. 100,000 take 13 s.
const SCHEDULES: u64 = 15_000;
/// Seeds that have found faults. An `unload` was skipped when its job had ended between two attempts to prepare the
/// next process. A module that was put into quarantine while its process was being prepared was still loaded there.
const FOUND: &[u64] = &[7_790, 28_669, 178_605, 583_446];
/// The random events of a schedule before the faults end.
const HAPPENINGS: usize = 60;
const SHARDS: usize = 2;
/// Limit on deaths in a row during loading (docs/operations.md).
const LOADS_MAX: usize = 5;
const LIMIT: CrashLimit = CrashLimit { crashes: 3, window: Duration::from_secs(20) };
const HOOK_TIMEOUT: Duration = Duration::from_secs(3);

/// xorshift64*, which suffices for random choices.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 33) % end
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        (!from.is_empty()).then(|| from[self.below(from.len() as u64) as usize])
    }
}

fn run(seed: u64, prints: bool) {
    let mut world = World::new(seed, prints);
    world.step(Input::Tick);
    for _ in 0..HAPPENINGS {
        match world.random.below(5) {
            0 => world.happen(),
            1 => world.wait(),
            _ => drop(world.progress(false)),
        }
    }
    world.calm_down();
}

/// Runs a schedule, and prints its number if it fails.
fn run_named(seed: u64) {
    struct Named(u64);
    impl Drop for Named {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("schedule {0} has failed: CWEB_SCHEDULE={0} prints its steps", self.0);
            }
        }
    }
    let named = Named(seed);
    run(seed, false);
    drop(named);
}

#[test]
fn whatever_happens_one_process_serves_and_nothing_is_lost() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(seed) = number("CWEB_SCHEDULE") {
        return run(seed, true);
    }
    FOUND.iter().copied().for_each(run_named);
    (1..=number("CWEB_SCHEDULES").unwrap_or(SCHEDULES)).for_each(run_named);
}
