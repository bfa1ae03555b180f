//! Which module each thread of a process is in, in memory that outlives the process.
//!
//! A module can end its process in ways that no handler sees: SIGKILL, `_exit` by a direct system call, a signal in a
//! thread of its own. Then the server looks here whose code was running. Each thread has a slot, a cache line of its own,
//! and stores a number when it enters a module and when it leaves: two plain stores a call. Module code can write
//! anything here: a reader takes the words for hints.

use super::ring::Region;
use crate::abi::guard::{self, Trace};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Threads that have a slot; further ones are not seen.
const SLOTS: usize = 512;
/// Words from slot to slot: a cache line.
const STRIDE: usize = 8;
/// Words of the note of a deadly signal, before the slots.
const NOTE_WORDS: usize = guard::NOTE_WORDS.next_multiple_of(STRIDE);
/// Words of all of it.
pub(super) const BOARD_WORDS: usize = NOTE_WORDS + SLOTS * STRIDE;

/// The words of this process, and the slots that no thread has.
struct Board {
    words: &'static [AtomicU64],
    free: Mutex<Vec<usize>>,
}

static BOARD: OnceLock<Board> = OnceLock::new();

/// Has the threads of this process say from now on what they run, in `region` from word `first` on. Only the first call
/// counts; threads that have run modules before are not seen. False: the region is too small.
pub(super) fn show(region: &Arc<Region>, first: usize) -> bool {
    // For the life of the process: threads use it to their very end.
    let region: &'static Arc<Region> = Box::leak(Box::new(Arc::clone(region)));
    let Some(words) = region.words_at(first, BOARD_WORDS) else { return false };
    guard::note_deaths(words);
    let _ = BOARD.set(Board { words, free: Mutex::new((0..SLOTS).rev().collect()) });
    true
}

/// A thread's slot, given back at its end.
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

    /// Gives it back.
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

/// The calling thread is not seen: processes that are forked by it run modules, and don't share the memory.
pub(super) fn hide() {
    let _ = SLOT.try_with(CallerSlot::give_back);
}

/// Runs `body`, which is code of the module with this number; 0 for a module nobody wants to know about.
pub(super) fn during<T>(number: u64, body: impl FnOnce() -> T) -> T {
    if number == 0 {
        return body();
    }
    // For the signal handler, and for the threads that the module starts.
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

/// What a process has left, as another reads it; nothing in it is certain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Remains {
    /// The numbers of the modules that were running, each once.
    pub(super) running: Vec<u64>,
    /// The signal that ended it.
    pub(super) note: Option<Note>,
    /// Where its thread was.
    pub(super) trace: Trace,
}

/// A deadly signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Note {
    /// Its number.
    pub(super) signal: i32,
    /// The address accessed; 0: none.
    pub(super) address: u64,
    /// The instruction.
    pub(super) instruction: u64,
    /// The module in whose code, or on whose own thread, that was; 0: none, or not known.
    pub(super) module: u64,
    /// The process ended itself by exit_group(2), with this code.
    pub(super) exit: Option<i32>,
    /// The signal that the process would have sent itself.
    pub(super) sends: Option<i32>,
}

/// Reads what a process has left in `region` from word `first` on.
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
