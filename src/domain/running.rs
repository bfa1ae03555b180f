//! Records which module each thread of a process runs, in memory that outlives the process.
//!
//! A module can end its process in ways that no handler sees: by SIGKILL, by `_exit` as a direct system call, or by a
//! signal on a thread of its own. The server then looks here to find whose code was running. Each thread has a slot in a
//! cache line of its own. The thread stores a number there when it enters a module and when it leaves: two plain stores for
//! each call. Module code can overwrite this memory, so the reader treats the words as hints.

use super::ring::Region;
use crate::abi::guard::{self, Trace};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// The number of slots; further threads are not recorded.
const SLOTS: usize = 512;
/// The words from slot to slot: a cache line.
const STRIDE: usize = 8;
/// The words of the note of a deadly signal, which precede the slots.
const NOTE_WORDS: usize = guard::NOTE_WORDS.next_multiple_of(STRIDE);
/// The words of the note and all slots.
pub(super) const BOARD_WORDS: usize = NOTE_WORDS + SLOTS * STRIDE;

/// The words of this process, and the free slots.
struct Board {
    words: &'static [AtomicU64],
    free: Mutex<Vec<usize>>,
}

static BOARD: OnceLock<Board> = OnceLock::new();

/// Makes the threads of this process record what they run, in `region` from word `first` on. Calls after the first have no
/// effect. Threads that have run modules before are not recorded. Returns false if the region is too small.
pub(super) fn show(region: &Arc<Region>, first: usize) -> bool {
    // Leaked, because threads use the region until they end.
    let region: &'static Arc<Region> = Box::leak(Box::new(Arc::clone(region)));
    let Some(words) = region.words_at(first, BOARD_WORDS) else { return false };
    guard::note_deaths(words);
    let _ = BOARD.set(Board { words, free: Mutex::new((0..SLOTS).rev().collect()) });
    true
}

/// A thread's slot, returned when the thread ends.
struct CallerSlot {
    index: usize,
    word: Cell<Option<&'static AtomicU64>>,
}

impl CallerSlot {
    fn take() -> Self {
        let taken = BOARD.get().and_then(|board| {
            let index = board.free.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
            Some((index, board.words.get(NOTE_WORDS + index * STRIDE)?))
        });
        Self { index: taken.map_or(0, |(index, _)| index), word: Cell::new(taken.map(|(_, word)| word)) }
    }

    /// Returns the slot.
    fn give_back(&self) {
        if let (Some(word), Some(board)) = (self.word.take(), BOARD.get()) {
            word.store(0, Ordering::Relaxed);
            board.free.lock().unwrap_or_else(PoisonError::into_inner).push(self.index);
        }
    }
}

impl Drop for CallerSlot {
    fn drop(&mut self) {
        self.give_back();
    }
}

thread_local! {
    static SLOT: CallerSlot = CallerSlot::take();
}

/// Takes the calling thread's slot; see [`super::executor::prepare_thread`].
pub(super) fn ready() {
    let _ = SLOT.try_with(|slot| slot.index);
}

/// Stops recording the calling thread. Processes that it forks run modules, and must not share its slot.
pub(super) fn hide() {
    let _ = SLOT.try_with(CallerSlot::give_back);
}

/// Runs `body`, which is code of the module with this number; 0 for a module that is not recorded.
pub(super) fn during<T>(number: u64, body: impl FnOnce() -> T) -> T {
    if number == 0 {
        return body();
    }
    // For the signal handler, and for threads that the module starts.
    let outer = guard::enter_module(number);
    let Some(word) = SLOT.try_with(|slot| slot.word.get()).ok().flatten() else {
        let value = body();
        guard::enter_module(outer);
        return value;
    };
    let before = word.load(Ordering::Relaxed);
    word.store(number, Ordering::Relaxed);
    let value = body();
    word.store(before, Ordering::Relaxed);
    guard::enter_module(outer);
    value
}

/// The last record of a process, as another process reads it. No part of it is certain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Remains {
    /// The numbers of the modules that were running, without duplicates.
    pub(super) running: Vec<u64>,
    /// The signal that ended the process.
    pub(super) note: Option<Note>,
    /// The position of its thread.
    pub(super) trace: Trace,
}

/// A note of a deadly signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Note {
    /// The signal's number.
    pub(super) signal: i32,
    /// The accessed address; 0: none.
    pub(super) address: u64,
    /// The address of the instruction.
    pub(super) instruction: u64,
    /// The module whose code, or whose own thread, got the signal; 0: none, or unknown.
    pub(super) module: u64,
    /// The exit code, if the process ended itself with exit_group(2).
    pub(super) exit: Option<i32>,
    /// The signal, if the process was about to send it to itself.
    pub(super) sends: Option<i32>,
}

/// Reads the record of a process from `region`, starting at word `first`.
pub(super) fn remains(region: &Region, first: usize) -> Remains {
    let Some(words) = region.words_at(first, BOARD_WORDS) else { return Remains::default() };
    let word = |at: usize| words.get(at).map_or(0, |word| word.load(Ordering::Relaxed));
    let mut running: Vec<u64> =
        (0..SLOTS).map(|slot| word(NOTE_WORDS + slot * STRIDE)).filter(|number| *number != 0).collect();
    running.sort_unstable();
    running.dedup();
    let signal = i32::try_from(word(0)).ok().filter(|signal| (1..=64).contains(signal));
    let note = signal.map(|signal| Note {
        signal,
        address: word(1),
        instruction: word(2),
        module: word(3),
        exit: (word(4) & 0x100 != 0).then(|| (word(4) & 0xff) as i32),
        sends: i32::try_from(word(5)).ok().filter(|signal| (1..=64).contains(signal)),
    });
    let trace = if note.is_some() { guard::noted_trace(word) } else { Trace::default() };
    Remains { running, note, trace }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_is_seen_and_garbage_is_not_taken_for_a_signal() {
        let region = Arc::new(Region::create(BOARD_WORDS * 8 + 64).unwrap());
        assert!(show(&region, 8) && !show(&region, 9), "the second does not fit");
        assert_eq!(remains(&region, 8), Remains::default());
        let seen = || remains(&region, 8).running;
        let (inner, outer) = during(7, || {
            let inner = during(9, || {
                std::thread::spawn(|| during(5, || ())).join().unwrap();
                seen()
            });
            (inner, seen())
        });
        assert_eq!((inner, outer, seen()), (vec![9], vec![7], vec![]), "the other thread's slot is free again");
        let words = region.words_at(8, BOARD_WORDS).unwrap();
        for (at, value) in [(0, u64::MAX), (NOTE_WORDS + STRIDE, 3), (NOTE_WORDS + 2 * STRIDE, 3)] {
            words[at].store(value, Ordering::Relaxed);
        }
        assert_eq!(remains(&region, 8), Remains { running: vec![3], ..Remains::default() });
        for (at, value) in [(0, 11), (1, 8), (2, 64), (3, 5), (4, 0), (5, 65)] {
            words[at].store(value, Ordering::Relaxed);
        }
        assert_eq!(
            remains(&region, 8).note,
            Some(Note { signal: 11, address: 8, instruction: 64, module: 5, exit: None, sends: None })
        );
        words[4].store(0x104, Ordering::Relaxed);
        assert_eq!(remains(&region, 8).note.and_then(|note| note.exit), Some(4));
        let other = Region::create(4096).unwrap();
        assert_eq!(remains(&other, 8), Remains::default(), "too small");
    }

    #[test]
    #[ignore = "a measurement"]
    fn what_it_costs() {
        let region = Arc::new(Region::create(BOARD_WORDS * 8).unwrap());
        show(&region, 0);
        for number in [0, 7] {
            let start = std::time::Instant::now();
            for call in 0..100_000_000_u64 {
                during(number, || std::hint::black_box(call));
            }
            println!("number {number}: {:.2} ns a call", start.elapsed().as_secs_f64() * 10.0);
        }
    }
}
