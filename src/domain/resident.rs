//! The memory that a process keeps after its start.

use crate::machine::ProgramMappings;
use std::ops::Range;
use std::thread;
use std::time::Duration;

/// The time after which the threads of a server have started.
const START_OVER: Duration = Duration::from_secs(2);

/// The pages of the program and its libraries, which the process can get back from their files.
#[derive(Debug)]
pub struct ProgramPages {
    list: Option<ProgramMappings>,
    /// The mappings when the process had only its program and its libraries.
    found: Vec<Range<usize>>,
}

impl ProgramPages {
    /// Finds the program and its libraries. Must be called before the process loads a module: the program's own libraries stay
    /// where they are until the process ends, a module does not.
    #[must_use]
    pub fn find() -> Self {
        let list = ProgramMappings::open().ok();
        let found = list.as_ref().map(ProgramMappings::clean).unwrap_or_default();
        Self { list, found }
    }

    /// Drops the pages from this process. A start uses most of the program's code once. The pages stay in the kernel's cache
    /// of files, and those that the process uses again come back from there, a few at a time (madvise(2), `MADV_DONTNEED`).
    pub fn drop_from_process(&self) {
        // A debugger or a probe of the kernel may have written to pages since the start: breakpoints must not vanish.
        let clean = self.list.as_ref().map(ProgramMappings::clean).unwrap_or_default();
        for mapping in self.found.iter().filter(|mapping| clean.contains(mapping)) {
            // SAFETY: the mapping is of a file, can't be written, and has no page that differs from the file. The mapping was
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
    use std::io::Write;
    use std::os::fd::AsRawFd;

    // One test, because the pages belong to the whole process: another test could drop them between two steps.
    #[test]
    fn dropped_pages_come_back_unchanged_and_written_ones_stay() {
        let pages = ProgramPages::find();
        assert!(!pages.found.is_empty());
        let sum = || (0..100).map(|n| format!("{n:?} {:?}", std::time::Duration::from_millis(n)).len()).sum::<usize>();
        let before = sum();
        pages.drop_from_process();
        assert_eq!(sum(), before);
        a_page_that_was_written_after_the_start_stays();
    }

    fn a_page_that_was_written_after_the_start_stays() {
        const BYTES: usize = 4096;
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[b'a'; BYTES]).unwrap();
        let (kind, fd) = (libc::MAP_PRIVATE, file.as_raw_fd());
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let page = unsafe { libc::mmap(std::ptr::null_mut(), BYTES, libc::PROT_READ, kind, fd, 0) };
        assert_ne!(page, libc::MAP_FAILED);
        let list = ProgramMappings::open().unwrap();
        let found: Vec<_> = list.clean().into_iter().filter(|mapping| mapping.contains(&page.addr())).collect();
        assert_eq!(found.len(), 1, "no page differs from the file");
        let pages = ProgramPages { list: Some(list), found };
        // SAFETY: only this test uses the mapping, which is writable while it is written.
        unsafe {
            assert_eq!(libc::mprotect(page, BYTES, libc::PROT_READ | libc::PROT_WRITE), 0);
            page.cast::<u8>().write_volatile(b'b');
            assert_eq!(libc::mprotect(page, BYTES, libc::PROT_READ), 0);
        }
        pages.drop_from_process();
        // SAFETY: the mapping is still there, and is not used after its end.
        unsafe {
            assert_eq!(page.cast::<u8>().read_volatile(), b'b');
            libc::munmap(page, BYTES);
        }
    }
}
