//! Finds out whether a file is open for writing anywhere.

use std::os::fd::{AsRawFd, BorrowedFd};

/// fcntl(2); libc does not name it.
const F_SETSIG: libc::c_int = 10;

/// Whether a descriptor for writing the regular file `file`, which is itself open for reading only, is open anywhere: a lease
/// for reading can't be had then (`F_SETLEASE` in fcntl(2)). Where the file system has no leases, or the file is another
/// user's, the answer is no.
#[must_use]
pub fn is_open_for_writing(file: BorrowedFd<'_>) -> bool {
    let fd = file.as_raw_fd();
    // SAFETY: system calls without memory, on a descriptor that is borrowed. The lease is given back at once; were it broken
    // in between, the signal would be one that is ignored by default.
    unsafe {
        libc::fcntl(fd, F_SETSIG, libc::SIGURG);
        if libc::fcntl(fd, libc::F_SETLEASE, libc::F_RDLCK) == 0 {
            libc::fcntl(fd, libc::F_SETLEASE, libc::F_UNLCK);
            return false;
        }
    }
    std::io::Error::last_os_error().raw_os_error() == Some(libc::EAGAIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsFd;

    #[test]
    fn a_descriptor_for_writing_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let written = File::create(&path).unwrap();
        let (read, other) = (File::open(&path).unwrap(), File::open(&path).unwrap());
        assert!(is_open_for_writing(read.as_fd()));
        drop(written);
        assert!(!is_open_for_writing(read.as_fd()));
        drop(other);
        assert!(!is_open_for_writing(read.as_fd()));
    }
}
