//! The memory that a process keeps after its start.

use std::ops::Range;
use std::thread;
use std::time::Duration;

/// The time after which the threads of a server have started.
const START_OVER: Duration = Duration::from_secs(2);

/// The pages of the program and its libraries, which the process can get back from their files.
#[derive(Debug)]
pub struct ProgramPages(Vec<Range<usize>>);

impl ProgramPages {
    /// Finds the program and its libraries. Must be called before the process loads a module: the program's own libraries stay
    /// where they are until the process ends, a module does not.
    #[must_use]
    pub fn find() -> Self {
        Self(crate::machine::program_mappings())
    }

    /// Drops the pages from this process. A start uses most of the program's code once. The pages stay in the kernel's cache
    /// of files, and those that the process uses again come back from there, a few at a time (madvise(2), `MADV_DONTNEED`).
    pub fn drop_from_process(&self) {
        for mapping in &self.0 {
            // SAFETY: the mapping is of a file, can't be written, and had no page that differs from the file. The mapping was
            // there at the start, when the process had only its program and its libraries, which are never unmapped. So no
            // other memory can be at its addresses. The kernel reads a page again that another thread uses meanwhile. An error
            // leaves the pages as they are.
            unsafe { libc::madvise(mapping.start as *mut libc::c_void, mapping.len(), libc::MADV_DONTNEED) };
        }
    }

    /// Drops the pages now, and again when the start of all threads is over.
    pub fn drop_after_start(self) {
        self.drop_from_process();
        let later = move || {
            thread::sleep(START_OVER);
            self.drop_from_process();
        };
        // Without the thread the process only keeps some pages.
        let _ = thread::Builder::new().name("start-pages".to_owned()).spawn(later);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_and_constants_are_the_same_after_they_were_dropped() {
        let pages = ProgramPages::find();
        assert!(!pages.0.is_empty());
        let sum = || (0..100).map(|n| format!("{n:?} {:?}", std::time::Duration::from_millis(n)).len()).sum::<usize>();
        let before = sum();
        pages.drop_from_process();
        assert_eq!(sum(), before);
    }
}
